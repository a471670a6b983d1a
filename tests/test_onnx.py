"""ONNX files: every network and op against the package's reference, bit-equal weights, one clear error."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import io, nn
from nnkernels.autograd import tree
from nnkernels.autograd.tensor import as_operand
from nnkernels.nn import functional as F
from nnkernels.nn.models import alexnet, vgg
from nnkernels.onnx import model as exporting
from nnkernels.onnx.rules import RULES
from nnkernels.ops import OPS

onnx = pytest.importorskip("onnx", reason="comes with the extra onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

models = nn.models
EDGES = np.array([[0, 1, 2, 2, 3], [1, 2, 0, 3, 4]])  # a triangle, a tail of two nodes, and a node apart


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def texts(N, T):
    return np.random.default_rng(2).integers(0, 4, (N, T))


# A network, and what its forward is given. The wide connections at the end of AlexNet and VGG are made narrow
# (below): half a gigabyte of weights adds nothing but time.
MODELS = {
    "MLP": (lambda rng: models.MLP((12, 5, 3), "tanh", rng=rng), normal(2, 3, 4)),
    "Autoencoder": (lambda rng: models.Autoencoder((12, 6, 2), "sigmoid", rng=rng), normal(2, 3, 4)),
    "ConvAutoencoder": (
        lambda rng: models.ConvAutoencoder(3, channels=2, size=8, rng=rng),
        normal(2, 2, 8, 8),
    ),
    "VAE": (lambda rng: models.VAE(12, 5, 2, rng=rng), normal(2, 3, 4)),
    "GAN": (lambda rng: models.GAN(3, 2, size=8, rng=rng), normal(2, 3)),
    "Generator": (lambda rng: models.Generator(3, 2, 1, 8, rng=rng), normal(2, 3)),
    "Discriminator": (lambda rng: models.Discriminator(2, 1, 8, rng=rng), normal(2, 1, 8, 8)),
    "CharRNN rnn": (lambda rng: models.CharRNN("abc\n", 4, "rnn", rng=rng), texts(2, 5)),
    "CharRNN lstm": (lambda rng: models.CharRNN("abc\n", 4, "lstm", 2, rng=rng), texts(2, 5)),
    "CharRNN gru": (lambda rng: models.CharRNN("abc\n", 4, "gru", rng=rng), texts(2, 5)),
    "GCN": (lambda rng: models.GCN(4, 2, 3, rng=rng), (normal(6, 4), F.normalized_adjacency(EDGES, 6))),
    "LeNet5": (lambda rng: models.LeNet5(rng=rng), normal(2, 1, 28, 28)),
    "AlexNet": (lambda rng: models.AlexNet(5, rng=rng), normal(1, 3, 63, 63)),
    "VGG11": (lambda rng: models.VGG11(5, rng=rng), normal(1, 3, 32, 32)),
    "VGG16": (lambda rng: models.VGG16(5, rng=rng), normal(1, 3, 32, 32)),
    "GoogLeNet": (lambda rng: models.GoogLeNet(5, rng=rng), normal(1, 3, 32, 32)),
    "CifarResNet": (lambda rng: models.CifarResNet(8, in_channels=1, rng=rng), normal(2, 1, 9, 9)),
    **{
        f"{name}{'' if skip else ' plain'}": (
            lambda rng, name=name, skip=skip: getattr(models, name)(skip=skip, rng=rng),
            normal(1, 3, 9, 9),
        )
        for name in ("ResNet20", "ResNet32", "ResNet56")
        for skip in (True, False)
    },
    **{
        name: (lambda rng, name=name: getattr(models, name)(5, rng=rng), normal(1, 3, 32, 32))
        for name in ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152")
    },
}
SLOW = "ResNet34", "ResNet101", "ResNet152"  # to be evaluated: in the second size of batch alone
NODES = {  # with each kind's number of nodes; a node more or less would be another network
    "LeNet5": {"Conv": 2, "MaxPool": 2, "Gemm": 3, "Relu": 4, "Reshape": 1},
    "AlexNet": {"Conv": 5, "MaxPool": 3, "MatMul": 2, "Gemm": 3, "Relu": 7, "Reshape": 1},
    "VGG16": {"Conv": 13, "MaxPool": 5, "MatMul": 2, "Gemm": 3, "Relu": 15, "Reshape": 1},
    "GoogLeNet": {
        "Conv": 57, "BatchNormalization": 57, "Relu": 57, "MaxPool": 13, "Concat": 9, "GlobalAveragePool": 1,
        "Reshape": 1, "Gemm": 1,
    },
    "ResNet152": {
        "Conv": 155, "BatchNormalization": 155, "Relu": 151, "Add": 50, "MaxPool": 1, "GlobalAveragePool": 1,
        "Reshape": 1, "Gemm": 1,
    },
}  # fmt: skip


@pytest.fixture
def narrow(monkeypatch):
    """Full connections to or from 4096 units get 16."""

    def linear(*sizes, **options):
        return nn.Linear(*(16 if n == 4096 else n for n in sizes), **options)

    for module in (alexnet, vgg):
        monkeypatch.setattr(module, "Linear", linear)


def with_all_numbers_drawn(model):
    """Return the model without a 0 or a 1 that could be mixed up with another."""
    rng = np.random.default_rng(4)
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            value = rng.uniform(0.5, 1.5, buffer.shape) if buffer.ndim else rng.integers(1, 9)
            setattr(module, name, np.asarray(value, buffer.dtype))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data + rng.uniform(-0.1, 0.1, parameter.shape).astype(parameter.dtype)
    return model


def ours(model, *arguments):
    """Return what the model returns in evaluation, as a list of arrays."""
    model.eval()
    with nnk.no_grad():
        y = model(*map(as_operand, arguments))
    return [np.asarray(t.data) for _, t in tree.leaves(y, "y")]


def lengths(values):
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


def assert_close(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=0))


# --- networks ---


def test_every_network_is_here():
    assert {name.split()[0] for name in MODELS} == set(models.__all__)


@pytest.mark.parametrize("name", MODELS)
def test_network(name, tmp_path, narrow):
    make, arguments = MODELS[name]
    model = with_all_numbers_drawn(make(0))
    arguments = arguments if type(arguments) is tuple else (arguments,)
    path = tmp_path / "model.onnx"
    nnk.onnx.export(model, arguments, path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    if name in NODES:
        kinds = [node.op_type for node in proto.graph.node]
        assert {kind: kinds.count(kind) for kind in kinds if kind != "Constant"} == NODES[name]

    # The weights are there once: as initializers, not as constants, too.
    assert path.stat().st_size < sum(a.nbytes for a in model.state_dict().values()) + 300 * len(
        proto.graph.node
    )

    x, *others = arguments
    (given,), results = lengths(proto.graph.input), lengths(proto.graph.output)
    batch = "N" if name != "GCN" else 6  # a graph's nodes are as many as its adjacency has
    assert given == [batch, *x.shape[1:]]
    assert all(batch in result for result in results)
    evaluator = ReferenceEvaluator(proto)
    sizes = [x] if name == "GCN" else [x, np.concatenate([x, x[::-1, ..., ::-1]])]
    for given in sizes[-1:] if name in SLOW else sizes:
        assert_close(evaluator.run(None, {proto.graph.input[0].name: given}), ours(model, given, *others))

    state, loaded = model.state_dict(), io.load(path)
    assert list(loaded) == list(state)
    for key, array in state.items():
        assert (loaded[key].dtype, loaded[key].shape) == (array.dtype, array.shape)
        assert loaded[key].tobytes() == array.tobytes()
    before = ours(model, *arguments)
    for parameter in model.parameters():
        parameter.data[...] = 0
    model.load_state_dict(loaded)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours(model, *arguments), before))


def test_the_fallback_of_a_fixed_batch(tmp_path):
    model, x = models.LeNet5(rng=0), normal(2, 1, 28, 28)
    nnk.onnx.export(model, x, tmp_path / "m.onnx", dynamic_batch=False)
    proto = onnx.load(tmp_path / "m.onnx")
    assert lengths(proto.graph.input) == [[2, 1, 28, 28]]
    assert lengths(proto.graph.output) == [[2, 10]]
    assert_close(ReferenceEvaluator(proto).run(None, {"x": x}), ours(model, x))


# --- ops ---


class Apply(nn.Module):
    """An op whose first array of numbers is the input; the others are parameters, indices constants."""

    def __init__(self, op, arrays, attributes):
        super().__init__()
        self.op, self.attributes = OPS[op], attributes
        self.at = 3 if op == "spmm" else 0
        self.arrays = list(arrays)
        for i, a in enumerate(arrays):
            if a is not None and a.dtype.kind == "f" and i != self.at and i not in self.op.constants:
                self.arrays[i] = nn.Parameter(a.copy())
                setattr(self, f"p{i}", self.arrays[i])

    def forward(self, x):
        y = self.op(*(x if i == self.at else a for i, a in enumerate(self.arrays)), **self.attributes)
        if self.op.name != "lstm":
            return y
        return y[0], y[1][slice(0, 1) if self.attributes.get("reverse") else slice(-1, None)]


def lacks(op, arrays, attributes):
    """Return what the reference does not do, or does wrong: seen in onnx 1.23."""
    if op.startswith("conv_transpose"):
        return attributes.get("groups", 1) > 1 or attributes.get("dilation", 1) != 1
    if op == "rnn":
        return attributes.get("nonlinearity") == "relu"
    # It takes the number of examples for that of channels.
    return op == "local_response_norm" and arrays[0].shape[0] != arrays[0].shape[1]


def without_rule(op, arrays, attributes):
    """Return whether a rule refuses these attributes."""
    x = arrays[0].shape
    if op.startswith("adaptive_max"):
        y = OPS[op](arrays[0], **attributes).shape
        return any(n % q for n, q in zip(x[2:], y[2:]))
    return op == "local_response_norm" and (attributes["size"] % 2 == 0 or len(x) != 4)


def cases(op, dtype=np.float32):
    """Yield the op's samples that have elements, and for which there is a rule."""
    if op == "local_response_norm":
        yield (normal(5, 5, 2, 3, dtype=dtype),), {"size": 3, "alpha": 0.7, "beta": 0.6, "k": 1.5}
    for _, arrays, attributes in OPS[op].samples(np.random.default_rng(0), dtype):
        if all(a is None or a.size for a in arrays) and arrays[0].ndim:
            yield arrays, attributes


def run(evaluate, op, arrays, attributes, path):
    """Export one call, and hold it against ours."""
    model = Apply(op, arrays, attributes)
    x = np.ascontiguousarray(arrays[model.at])
    nnk.onnx.export(model, x, path)
    assert_close(evaluate(path, x), ours(model, x))


def by_reference(path, x):
    return ReferenceEvaluator(str(path)).run(None, {"x": x})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference, which meets inf and 0 / 0
@pytest.mark.parametrize("op", RULES)
def test_op(op, tmp_path):
    count = 0
    for arrays, attributes in cases(op):
        if without_rule(op, arrays, attributes):
            with pytest.raises(ValueError, match=f"the op {op} in a form without a rule"):
                nnk.onnx.export(Apply(op, arrays, attributes), arrays[0], tmp_path / "m.onnx")
        elif not lacks(op, arrays, attributes):
            run(by_reference, op, arrays, attributes, tmp_path / "m.onnx")
            count += 1
    assert count > 0


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is the oracle here")
@pytest.mark.parametrize("op", ["conv_transpose1d", "conv_transpose2d", "rnn", "local_response_norm"])
def test_what_the_reference_lacks(op, tmp_path):
    import onnxruntime

    def by_runtime(path, x):
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})

    count = 0
    for arrays, attributes in cases(op):
        # onnxruntime's output_padding is below the stride, ours below the stride or the dilation.
        runs = not without_rule(op, arrays, attributes) and attributes.get("output_padding", 0) == 0
        if runs and lacks(op, arrays, attributes):
            run(by_runtime, op, arrays, attributes, tmp_path / "m.onnx")
            count += 1
    assert count > 0


@pytest.mark.parametrize("op", ["conv2d", "avg_pool2d", "layer_norm", "gelu", "lstm", "pad", "spmm"])
def test_float64(op, tmp_path):
    for arrays, attributes in cases(op, np.float64):
        run(by_reference, op, arrays, attributes, tmp_path / "m.onnx")


# --- inputs, results, names ---


class Forward(nn.Module):
    """A module of one function."""

    def __init__(self, function, **parameters):
        super().__init__()
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(np.float32(value)))
        self.forward = lambda x: function(self, x)


class Reader(nn.Module):
    """An LSTM that is given its first h, and tells its last c."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(3, 4, rng=0)
        self.head = nn.Linear(4, 2, rng=0)

    def forward(self, text, state):
        y, state = self.cell(text, state)
        return {"scores": self.head(y), "state": state}


def test_several_inputs_and_results(tmp_path):
    model, text, state = Reader(), normal(5, 2, 3), normal(1, 2, 4) + 1
    nnk.onnx.export(model, (text, state), tmp_path / "m.onnx", dynamic_batch=False)
    evaluator = ReferenceEvaluator(str(tmp_path / "m.onnx"))
    assert (evaluator.input_names, evaluator.output_names) == (["text", "state"], ["y_0", "y_1"])
    assert_close(evaluator.run(None, {"text": text, "state": state}), ours(model, text, state))


def test_an_axis_of_time_may_be_of_any_length(tmp_path):
    model, text, state = Reader(), normal(5, 2, 3), normal(1, 2, 4)
    nnk.onnx.export(model, (text, state), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    assert lengths(proto.graph.input) == [["N", 2, 3], [1, 2, 4]]
    text = normal(9, 2, 3)
    assert_close(
        ReferenceEvaluator(proto).run(None, {"text": text, "state": state}), ours(model, text, state)
    )


def test_a_cell_reads_one_step(tmp_path):
    model, x = nn.LSTMCell(3, 4, rng=0), normal(2, 3)
    nnk.onnx.export(model, x, tmp_path / "m.onnx")
    assert_close(by_reference(tmp_path / "m.onnx", x), ours(model, x))


def test_all_cells_of_an_lstm_have_no_rule(tmp_path):
    w = [nn.Parameter(normal(*shape)) for shape in ((8, 3), (8, 2))]
    states = np.zeros((2, 2, 2), np.float32)
    for pick in (lambda y: y, lambda y: y[1], lambda y: y[1][0:1]):
        model = Forward(lambda self, x, pick=pick: pick(OPS["lstm"](x, *states, *w)))
        with pytest.raises(
            ValueError,
            match=r"the op slice .* other steps than the last|a result of which ONNX gives parts only",
        ):
            nnk.onnx.export(model, normal(4, 2, 3), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_result_may_come_twice_and_names_may_clash(tmp_path):
    def function(self, x):
        y = x * self.x + self.y
        return y, y.exp(), y

    model = Forward(function, x=[2.0, 3.0], y=[1.0, -1.0], add_1=[0.0, 0.0])
    nnk.onnx.export(model, x := normal(3, 2), tmp_path / "m.onnx")
    evaluator = ReferenceEvaluator(str(tmp_path / "m.onnx"))
    assert evaluator.input_names == ["x_"]
    assert_close(evaluator.run(None, {"x_": x}), ours(model, x))
    assert sorted(io.load(tmp_path / "m.onnx")) == ["add_1", "x", "y"]


def test_a_shared_parameter_keeps_both_names(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, rng=0), nn.Tanh(), nn.Linear(3, 3, rng=1))
    model[2].weight = model[0].weight
    nnk.onnx.export(model, x := normal(2, 3), tmp_path / "m.onnx")
    assert_close(by_reference(tmp_path / "m.onnx", x), ours(model, x))
    model.load_state_dict(io.load(tmp_path / "m.onnx"))


def test_equal_networks_give_equal_bytes_and_keep_their_modes(tmp_path):
    for i in range(2):
        model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2), nn.Dropout(0.5, rng=0))
        model[1].eval()
        before = model.state_dict()
        nnk.onnx.export(model, normal(2, 1, 4, 4), tmp_path / f"{i}.onnx")
        assert [m.training for m in model.modules()] == [True, True, False, True]
        assert all(np.array_equal(before[key], a) for key, a in model.state_dict().items())
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


# --- batches ---


def mean_over_batch(self, x):
    return x - x.sum(dim=0, keepdim=True) / x.shape[0]


def baked(self, x):
    return x.reshape(x.shape[0] * 2, 2) * np.ones((x.shape[0] * 2, 1), np.float32)


def another_way(self, x):
    return x.exp() if x.shape[0] == 3 else x.sin().exp()


def one_size(self, x):
    if x.shape[0] != 3:
        raise RuntimeError("three, please")
    return x.exp()


def one_result(self, x):
    return x.sum(dim=0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (mean_over_batch, r"input 1 of call 2 \(div\) is another"),
        (baked, r"input 1 of call 2 \(mul\) is another"),
        (another_way, "it takes another way"),
        (one_size, "three, please"),
        (one_result, "its results do not grow"),
    ],
)
def test_a_batch_that_must_stay(function, reason, tmp_path):
    model, x = Forward(function), normal(3, 4)
    with pytest.raises(ValueError, match=f"Forward does not take batches of any length: {reason}"):
        nnk.onnx.export(model, x, tmp_path / "m.onnx", dynamic_batch=True)
    assert not list(tmp_path.iterdir())
    nnk.onnx.export(model, x, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    assert lengths(proto.graph.input) == [[3, 4]]
    assert_close(ReferenceEvaluator(proto).run(None, {"x": x}), ours(model, x))


def test_reshapes_that_follow_the_batch(tmp_path):
    model = Forward(lambda self, x: x.reshape(x.shape[0] * 2, 3, 2).transpose(0, 2).reshape(6, -1))
    nnk.onnx.export(model, normal(2, 12), tmp_path / "m.onnx", dynamic_batch=True)
    x = normal(5, 12)
    assert_close(by_reference(tmp_path / "m.onnx", x), ours(model, x))


# --- errors ---


def refused(tmp_path, kind, match, model, x, name="m.onnx", **options):
    """Demand one error; the old file is as it was, and there is no other."""
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(kind, match=match):
        nnk.onnx.export(model, x, tmp_path / name, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_an_op_without_a_rule(tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 4, 1, rng=0), nn.GroupNorm(2, 4))
    match = (
        r"Sequential has the op group_norm, for which there is no rule; there are rules for abs, adaptive_"
    )
    refused(tmp_path, ValueError, match, model, normal(1, 2, 3, 3))


def test_bad_arguments(tmp_path):
    line = nn.Linear(3, 2, rng=0)
    x = normal(2, 3)
    refused(tmp_path, TypeError, "model must be a Module, got function", normal, x)
    refused(tmp_path, TypeError, r"x must be an array, a Tensor, or a tuple.* got list", line, [[1.0, 2, 3]])
    refused(tmp_path, TypeError, "got an empty tuple", line, ())
    refused(tmp_path, ValueError, r"m.npz: wanted a name that ends in .onnx", line, x, name="m.npz")
    refused(tmp_path, ValueError, r"x has shape \(0, 3\)", line, x[:0], dynamic_batch=True)
    table = Forward(lambda self, x: F.index_select(self.w, 0, x), w=[1.0, 2, 3])
    refused(tmp_path, TypeError, r"input 0 must be of float32.*got uint8", table, np.array([0, 1], np.uint8))


def test_a_way_that_depends_on_values(tmp_path):
    model = Forward(lambda self, x: x * float(x.numpy()[0, 0]))
    refused(tmp_path, ValueError, "depends on the numbers it is given", model, normal(2, 3))


def test_weights_beyond_what_a_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST", 31)
    refused(tmp_path, ValueError, "Linear has 32 bytes of weights", nn.Linear(3, 2, rng=0), normal(1, 3))


def test_what_the_checker_refuses_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "tanh", lambda g, y, x: g.add("Tanh", x, x))
    refused(tmp_path, ValueError, "Tanh gives no valid ONNX model", nn.Tanh(), normal(2, 3))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(tmp_path, ModuleNotFoundError, r'pip install "nnkernels\[onnx\]"', nn.Tanh(), normal(2, 3))
