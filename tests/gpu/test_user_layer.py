"""Tensors, modules, optimizers and training on a device, simulated: the same numbers as on the host."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn, optim, train
from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_kernel import kernel
from nnkernels.machine.gpu_random import philox, random_mask
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.nn import functional as F
from nnkernels.nn.utils import clip_grad_norm_, clip_grad_value_

pytestmark = pytest.mark.sim


@pytest.fixture(autouse=True)
def gpu():
    with simulate_gpu(("forward",)) as simulator:
        yield simulator


def rng():
    return np.random.default_rng(0)


def draw(*shape, dtype=np.float32):
    return np.asarray(rng().standard_normal(shape), dtype)


def mlp():
    return nn.Sequential(nn.Linear(3, 5, rng=0), nn.ReLU(), nn.Linear(5, 2, rng=1))


# --- tensors ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_tensors_move_both_ways_bit_by_bit(dtype):
    x = np.asarray(10 * draw(2, 3), dtype)
    there = nnk.tensor(x).to("cuda")
    assert there.is_cuda
    assert there.device.startswith("cuda")
    assert (there.shape, there.dtype) == (x.shape, x.dtype)
    back = there.cpu()
    assert back.device == "cpu"
    assert back.numpy().tobytes() == x.tobytes()
    assert there.to("cuda") is there
    assert back.to("cpu") is back


def test_a_tensor_that_is_there_says_so_and_is_not_read_by_accident():
    x = nnk.tensor([1.0, 2.0]).cuda()
    assert "device='cuda" in repr(x)
    assert repr(x).startswith("tensor([1., 2.]")
    for read in (lambda: x.numpy(), lambda: np.asarray(x), lambda: x < 1.5, lambda: np.asarray(x.data)):
        with pytest.raises(TypeError, match=r"cpu\(\)"):
            read()
    assert float(x.sum()) == 3.0
    assert x.sum().item() == 3.0
    assert bool(x.sum())


def test_unknown_devices_are_named():
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'tpu'"):
        nnk.tensor([1.0]).to("tpu")
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'gpu'"):
        mlp().to("gpu")


def test_without_a_gpu_the_reason_is_given(monkeypatch):
    from nnkernels.machine import gpu

    monkeypatch.setattr(gpu, "chosen_device", lambda: None)
    monkeypatch.setattr(gpu, "why_not_available", lambda: "the GPU extra is not installed")
    gpu.the_gpu.cache_clear()
    with pytest.raises(RuntimeError, match=r"the GPU extra is not installed \(nnk.simulate_gpu\(\)"):
        nnk.tensor([1.0]).to("cuda")


def test_mixing_devices_names_both():
    x = nnk.tensor([1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"^add: all arrays must be on one device, got input 0 on cuda.* on cpu"
    ):
        x.cuda() + x
    with pytest.raises(
        ValueError, match=r"^linear: all arrays must be on one device, got input 0 on cpu.* cuda"
    ):
        mlp().to("cuda")(draw(4, 3))


def test_gradients_flow_through_moves_and_fan_out():
    def loss(x, there):
        y = x.to("cuda") if there else x
        z = (y * y + 2.0 * y).relu() - y
        return (z if not there else z.cpu()).sum()

    grads = []
    for there in (False, True):
        x = nnk.tensor(draw(3, 4), requires_grad=True)
        loss(x, there).backward()
        assert x.grad.device == "cpu"
        grads.append(x.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-6)


def test_backward_takes_cotangents_of_its_own_device_only():
    x = nnk.tensor([1.0, 2.0], requires_grad=True).to("cuda")
    y = x * 3.0
    with pytest.raises(ValueError, match=r"gradient must be on cuda.*, got one on cpu"):
        y.backward(nnk.tensor([1.0, 1.0]))
    y.backward(nnk.tensor([1.0, 2.0]).cuda())


def test_changing_in_place():
    x = nnk.tensor([1.0, 2.0]).cuda()
    x += 1.0
    x *= x
    np.testing.assert_array_equal(x.cpu().numpy(), [4, 9])
    x[...] = 7
    np.testing.assert_array_equal(x.cpu().numpy(), [7, 7])
    x.copy_(nnk.tensor([1.0, 3.0]))
    np.testing.assert_array_equal(x.cpu().numpy(), [1, 3])
    with pytest.raises(TypeError, match=r"on a GPU only x\[...\] = value"):
        x[0] = 1.0


def test_minus_zero_keeps_its_sign():
    x = nnk.tensor([1.0, -2.0]).cuda()
    np.testing.assert_array_equal((x / -0.0).cpu().numpy(), [-np.inf, np.inf])
    x[...] = -0.0
    assert np.signbit(x.cpu().numpy()).all()


def test_an_array_changed_in_place_is_noticed():
    w = nnk.tensor([1.0, 2.0], requires_grad=True)
    there = w.to("cuda")
    y = (there * there).sum()
    with nnk.no_grad():
        there += 1.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


# --- modules and optimizers ---


def test_modules_move_both_ways_bit_by_bit():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2))
    before = model.state_dict()
    parameters = list(model.parameters())
    model.to("cuda")
    assert all(p.is_cuda for p in parameters)
    assert parameters == list(model.parameters())
    assert isinstance(model[1].running_mean, GpuArray)
    there = model.state_dict()
    model.cpu()
    for name, array in before.items():
        assert there[name].tobytes() == array.tobytes()
        assert model.state_dict()[name].tobytes() == array.tobytes()


def test_weights_load_into_a_module_that_is_there():
    one, other = nn.Linear(3, 2, rng=0), nn.Linear(3, 2, rng=1).cuda()
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(other.weight.cpu().detach().numpy(), one.weight.numpy())


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "Adam": optim.Adam,
    "AdamW": optim.AdamW, "NAdam": optim.NAdam, "RAdam": optim.RAdam, "RMSprop": optim.RMSprop,
    "Adagrad": optim.Adagrad, "Adadelta": optim.Adadelta, "Lion": optim.Lion,
}  # fmt: skip


def three_steps(make, device, x, y, after=None):
    model = mlp().to(device)
    optimizer = make(model.parameters())
    for _ in range(3):
        loss = F.cross_entropy(model(nnk.tensor(x).to(device)), nnk.tensor(y).to(device))
        optimizer.zero_grad()
        loss.backward()
        if after is not None:
            after(model)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_step_there_as_here(name):
    x, y = draw(6, 3), np.array([0, 1, 1, 0, 1, 0])
    here, there = (three_steps(OPTIMIZERS[name], device, x, y) for device in ("cpu", "cuda"))
    for key in here:
        np.testing.assert_allclose(there[key], here[key], rtol=2e-5, atol=2e-6)


def test_muon_steps_there_as_here():
    def make(parameters):
        return optim.Muon([p for p in parameters if p.ndim == 2])

    x, y = draw(6, 3), np.array([0, 1, 1, 0, 1, 0])
    here, there = (three_steps(make, device, x, y) for device in ("cpu", "cuda"))
    for key in here:
        np.testing.assert_allclose(there[key], here[key], rtol=1e-4, atol=1e-5)


def test_an_optimizer_follows_its_model():
    x, y = draw(6, 3), np.array([0, 1, 1, 0, 1, 0])

    def run(moves):
        model = mlp()
        optimizer = optim.Adam(model.parameters(), lr=0.1)
        for device in moves:
            model.to(device)
            loss = F.cross_entropy(model(nnk.tensor(x).to(device)), nnk.tensor(y).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.state_dict(), optimizer.state_dict()

    (here, state_here), (there, state_there) = run(["cpu"] * 3), run(["cpu", "cuda", "cpu"])
    for key in here:
        np.testing.assert_allclose(there[key], here[key], rtol=1e-5, atol=1e-6)
    for number, entry in state_here["state"].items():
        for key, value in entry.items():
            np.testing.assert_allclose(state_there["state"][number][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "after",
    [
        lambda model: clip_grad_norm_(model.parameters(), 0.05),
        lambda model: clip_grad_norm_(model.parameters(), 0.05, norm_type=float("inf")),
        lambda model: clip_grad_value_(model.parameters(), 0.01),
        lambda model: optim.MaxNorm(0.3).apply(model.parameters()),
        lambda model: optim.L1(0.1).apply(model.parameters(), 0.5),
    ],
    ids=("norm", "largest", "value", "max-norm", "l1"),
)
def test_clipping_and_regularisers_there_as_here(after):
    x, y = draw(6, 3), np.array([0, 1, 1, 0, 1, 0])
    here, there = (three_steps(optim.SGD, device, x, y, after) for device in ("cpu", "cuda"))
    for key in here:
        np.testing.assert_allclose(there[key], here[key], rtol=2e-5, atol=2e-6)


def test_batch_norm_moves_its_statistics_there():
    layers = [nn.BatchNorm1d(3), nn.BatchNorm1d(3).cuda()]
    for scale in (1, 5):
        x = scale * draw(7, 3) + 2
        for layer, given in zip(layers, (x, nnk.tensor(x).cuda())):
            layer(given)
    for name, wanted in layers[0].state_dict().items():
        np.testing.assert_allclose(layers[1].state_dict()[name], wanted, rtol=1e-5)


# --- random numbers ---


@kernel
def numbers_kernel(counter, key0, key1, out):
    a, b, c, d = philox(counter, key0, key1)
    out[0] = a
    out[1] = b
    out[2] = c
    out[3] = d


def test_philox_gives_the_numbers_that_its_authors_publish(gpu):
    from nnkernels.machine.gpu_array import empty

    out = empty((4,), np.int64, gpu)
    numbers_kernel[1, 1](0, 0, 0, out)
    assert out.numpy().tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_masks_are_drawn_there_with_the_right_share(gpu):
    mask = random_mask((50, 41), 0.3, rng(), gpu).numpy()
    assert mask.shape == (50, 41)
    assert abs(mask.mean() - 0.7) < 0.03
    again = random_mask((50, 41), 0.3, rng(), gpu).numpy()
    np.testing.assert_array_equal(mask, again)


def test_dropout_there():
    x = nnk.tensor(np.ones((40, 30), np.float32), requires_grad=True)
    with nnk.cuda.count_transfers() as count:
        y = F.dropout(x.cuda(), 0.25, rng=0)
    assert (count.to_device, count.to_host) == (1, 0)
    kept = y.cpu().detach().numpy()
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((kept > 0).mean() - 0.75) < 0.05
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), kept)


# --- training ---


def test_a_training_step_copies_inputs_in_and_the_loss_out():
    model = mlp().to("cuda")
    optimizer = optim.Adam(model.parameters())
    x, y = draw(6, 3), np.array([0, 1, 1, 0, 1, 0])
    for _ in range(2):
        with nnk.cuda.count_transfers() as count:
            inputs, targets = nnk.tensor(x).to("cuda"), nnk.tensor(y).to("cuda")
            assert (count.to_device, count.to_host) == (2, 0)
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert (count.to_device, count.to_host) == (2, 0), "something was copied behind the user's back"
            loss.item()
        assert (count.to_device, count.to_host, count.bytes_to_host) == (2, 1, 4)


def test_fit_trains_there_as_here():
    x, y = draw(20, 3), np.arange(20) % 2
    histories = []
    for device in ("cpu", "cuda"):
        model = mlp()
        optimizer = optim.Adam(model.parameters(), lr=0.05)
        histories.append(
            train.fit(
                model, (x, y), (x[:7], y[:7]), optimizer=optimizer, epochs=2, batch_size=8, device=device
            )
        )
        assert next(model.parameters()).device.startswith(device)
    for key in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        np.testing.assert_allclose(histories[1][key], histories[0][key], rtol=1e-5)


def test_recurrent_layers_begin_with_zeros_there():
    layer = nn.GRU(3, 4, rng=0)
    x = draw(2, 3, 3)
    here, _ = layer(nnk.tensor(x))
    there, last = layer.cuda()(nnk.tensor(x).cuda())
    np.testing.assert_allclose(there.cpu().detach().numpy(), here.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert last.is_cuda
