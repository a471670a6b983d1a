"""A network as a list of calls, and what optimize_for_inference makes of it."""

import numpy as np
import pytest

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn
from nnkernels.nn import models
from nnkernels.nn.inference import fold_batch_norm, fuse_relu
from nnkernels.nn.program import program_of


def trained(model, shape, seed=0):
    """Give batch normalisations statistics, weights and biases that are not those they begin with."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for name, low in (("running_mean", -1), ("running_var", 0.5)):
                getattr(module, name)[...] = rng.uniform(low, 1.5, module.num_features)
            for parameter in module.parameters():
                parameter.data[...] = rng.uniform(0.5, 1.5, module.num_features)
    return model, rng.standard_normal(shape).astype(np.float32)


def names(program):
    return [call.op.name for call in program.calls]


def evaluated(model, x):
    modes = [m.training for m in model.modules()]
    with nnk.no_grad():
        y = model.eval()(x).data
    for module, mode in zip(model.modules(), modes):
        module.training = mode
    return y


def relative_error(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


NETWORKS = {
    "LeNet5": (lambda: models.LeNet5(rng=0), (3, 1, 28, 28)),
    "AlexNet": (lambda: models.AlexNet(10, rng=0), (2, 3, 64, 64)),
    "ResNet18": (lambda: models.ResNet18(rng=0), (2, 3, 64, 64)),
    "ResNet50": (lambda: models.ResNet50(rng=0), (1, 3, 64, 64)),
    "ResNet20": (lambda: models.ResNet20(rng=0), (2, 3, 32, 32)),
    "plain ResNet20": (lambda: models.ResNet20(skip=False, rng=0), (2, 3, 32, 32)),
    "GoogLeNet": (lambda: models.GoogLeNet(aux_logits=True, rng=0), (1, 3, 96, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_network(name):
    make, shape = NETWORKS[name]
    model, x = trained(make(), shape)
    model.train()
    fast = nnk.optimize_for_inference(model)
    y = fast(x)
    assert relative_error(y.data, evaluated(model, x)) <= 1e-5
    assert model.training
    assert not y.requires_grad
    (program,) = fast.programs.values()
    assert "batch_norm_inference" not in names(program)
    assert names(program).count("relu") == sum(
        isinstance(m, (models.resnet.BasicBlock, models.resnet.Bottleneck))
        or (isinstance(m, models.resnet_cifar.Block) and m.skip)
        for m in model.modules()
    )  # those after a sum


def test_float64_to_rounding():
    model, x = trained(models.ResNet20(rng=0), (2, 3, 20, 24))
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_mean.astype(np.float64)
            module.running_var = module.running_var.astype(np.float64)
    x = x.astype(np.float64)
    assert relative_error(nnk.optimize_for_inference(model)(x).data, evaluated(model, x)) <= 1e-12


def test_a_linear_layer_takes_its_normalisation_along_axis_1_only():
    net, x = trained(nn.Sequential(nn.Linear(6, 5, rng=0), nn.BatchNorm1d(5), nn.ReLU()), (7, 6))
    fast = nnk.optimize_for_inference(net)
    assert relative_error(fast(x).data, evaluated(net, x)) <= 1e-6
    assert names(fast.programs[(7, 6), x.dtype]) == ["linear"]
    x = np.random.default_rng(1).standard_normal((3, 5, 6)).astype(np.float32)  # (N, C, L): C is not the last
    assert relative_error(fast(x).data, evaluated(net, x)) <= 1e-6
    assert names(fast.programs[(3, 5, 6), x.dtype]) == ["linear", "batch_norm_inference", "relu"]


class Branches(nn.Module):
    """A convolution whose result is read twice, before its normalisation, and returned as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3, padding=1, rng=0), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return {"sum": F.relu(self.bn(y)) + y, "raw": [y]}


def test_what_is_read_twice_is_left_alone():
    net, x = trained(Branches(), (2, 2, 6, 5))
    program = fuse_relu(fold_batch_norm(program_of(net, x)))
    assert names(program) == ["conv2d", "batch_norm_inference", "relu", "add"]
    y = program(x)
    net.eval()
    assert relative_error(y["sum"].data, net(x)["sum"].data) <= 1e-6
    assert np.array_equal(y["raw"][0].data, net(x)["raw"][0].data)


def test_normalisation_after_an_activation_is_not_folded():
    net, x = trained(
        nn.Sequential(nn.Conv2d(2, 4, 3, activation="relu", rng=0), nn.BatchNorm2d(4)), (1, 2, 5, 5)
    )
    fast = nnk.optimize_for_inference(net)
    assert relative_error(fast(x).data, evaluated(net, x)) <= 1e-6
    assert names(fast.programs[x.shape, x.dtype]) == ["conv2d", "batch_norm_inference"]


@pytest.mark.parametrize("options", [{"affine": False}, {"eps": 0.3}])
def test_normalisations_with_other_arguments(options):
    net, x = trained(
        nn.Sequential(nn.Conv1d(2, 4, 3, bias=False, rng=0), nn.BatchNorm1d(4, **options)), (3, 2, 9)
    )
    fast = nnk.optimize_for_inference(net)
    assert relative_error(fast(x).data, evaluated(net, x)) <= 1e-6
    assert names(fast.programs[x.shape, x.dtype]) == ["conv1d"]


def test_filters_are_transformed_once_where_winograd_is_the_method():
    net = nn.Sequential(nn.Conv2d(32, 40, 3, padding=1, rng=0), nn.ReLU(), nn.Conv2d(40, 8, 3, rng=0))
    x = np.random.default_rng(0).standard_normal((2, 32, 20, 20)).astype(np.float32)
    fast = nnk.optimize_for_inference(net)
    y = fast(x)
    first, second = fast.programs[x.shape, x.dtype].calls
    assert first.prepared is not None  # Winograd's method
    assert second.prepared is None  # 8 filters are too few for it
    assert np.array_equal(y.data, evaluated(net, x))  # the same kernels, in the same order
    with nnk.use_backend("loops"):  # no other body may stand for the one that was asked for
        assert np.array_equal(fast(x).data, evaluated(net, x))


def test_prepared_filters_deep_and_shallow():
    conv2d = nnk.OPS["conv2d"]
    rng = np.random.default_rng(0)
    for channels, m in ((48, 4), (200, 4), (200, 2)):
        x = rng.standard_normal((1, channels, 25, 26)).astype(np.float32)
        w, b = (
            rng.standard_normal((channels, channels, 3, 3)).astype(np.float32),
            np.ones(channels, np.float32),
        )
        attributes = {"padding": 1, "winograd": m, "activation": "relu"}
        prepared = conv2d.prepare_constants(x.shape, w, b, **attributes)
        assert np.array_equal(prepared(x), conv2d(x, w, b, **attributes))


def test_weights_are_those_of_the_moment():
    model = models.LeNet5(rng=0)
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)
    before = evaluated(model, x)
    fast = nnk.optimize_for_inference(model)
    for p in model.parameters():
        p.data[...] = 0
    assert np.array_equal(fast(x).data, before)
    assert not evaluated(model, x).any()


def test_inputs_of_several_shapes_and_kinds():
    model = models.AlexNet(5, rng=0)
    fast = nnk.optimize_for_inference(model)
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 80, 70)):
        x = rng.standard_normal(shape).astype(np.float32)
        assert relative_error(fast(nnk.tensor(x)).data, evaluated(model, x)) <= 1e-5
        turned = np.asfortranarray(x)
        assert np.array_equal(fast(turned).data, fast(x).data)
    assert len(fast.programs) == 3
    assert repr(fast).startswith("Inference(AlexNet, (1, 3, 64, 64): ")


def test_whole_numbers_as_input():
    net = nn.Sequential(nn.Embedding(9, 4, rng=0), nn.Linear(4, 3, rng=0), nn.ReLU())
    x = np.array([[1, 2, 8], [0, 0, 3]])
    fast = nnk.optimize_for_inference(net)
    assert np.array_equal(fast(x).data, evaluated(net, x))
    assert np.array_equal(fast(x[::-1].copy()).data, evaluated(net, x[::-1].copy()))


class ReadsValues(nn.Module):
    def forward(self, x):
        return x * 2 if float(np.ravel(x.data)[0]) > 0 else x + 100


class KeepsPlaces(nn.Module):
    def forward(self, x):
        y, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, places, 2)


class ReturnsNumbers(nn.Module):
    def forward(self, x):
        return x.data


def test_networks_that_no_list_of_calls_stands_for():
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    x[0, 0, -1, -1] = -1
    for model, message in (
        (ReadsValues(), "ReadsValues: what forward does depends on the numbers it is given"),
        (KeepsPlaces(), "KeepsPlaces: what forward does depends on the numbers"),
        (
            ReturnsNumbers(),
            "ReturnsNumbers: forward must return Tensors computed from its input, got ndarray",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            nnk.optimize_for_inference(model)(x)
        assert model.training


def test_what_is_no_module_and_no_array():
    with pytest.raises(TypeError, match="model must be a Module, got str"):
        nnk.optimize_for_inference("ResNet18")
    with pytest.raises(TypeError, match="x must be an array or a Tensor, got list"):
        nnk.optimize_for_inference(models.LeNet5(rng=0))([1.0])


def test_memory_is_given_back_as_soon_as_nothing_reads_it():
    x = np.zeros((1, 4, 256, 256), np.float32)
    program = program_of(nn.Sequential(*[nn.Sigmoid() for _ in range(5)]), x)
    assert [[v.number for v in dead] for dead in program.dead_after] == [[0], [1], [2], [3], [4]]
