"""``nnk.explain``: what the rules of the tuned bodies say, and what is refused."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.ops import OPS
from nnkernels.ops.conv2d.methods import methods
from nnkernels.ops.explain import lines
from nnkernels.ops.matmul.gemm import describe, method

CONV = (8, 64, 56, 56), (64, 64, 3, 3)


@pytest.fixture
def told(capsys):
    def tell(op, *shapes, **attributes):
        nnk.explain(op, *shapes, **attributes)
        printed = capsys.readouterr().out
        return dict(line.split(maxsplit=1) for line in printed.splitlines())

    return tell


def test_conv2d_tells_the_method_of_each_pass(told):
    passes = told("conv2d", *CONV, padding=1)
    assert list(passes) == ["forward", "dx", "dw"]
    assert passes["forward"].startswith("Winograd: F(4 x 4, 3 x 3): a quarter of the multiplications")
    assert passes["dx"] == passes["forward"]
    assert passes["dw"].startswith("pixels x taps: 64 channels")
    assert told("conv2d", *CONV, (64,), padding=(1, 1)) == passes
    assert told("conv2d", *map(list, CONV), None, padding=1) == passes
    assert "stride 1" in told("conv2d", *CONV, stride=2)["dx"]
    assert told("conv2d", *CONV, stride=2)["forward"].startswith(
        "pixels x filters: with a stride, 64 channels"
    )
    assert "F(2 x 2, 3 x 3)" in told("conv2d", *CONV, winograd=2)["dx"]
    assert told("conv2d", (0, 64, 9, 9), CONV[1])["dw"] == "nothing to multiply: x is empty, (0, 64, 9, 9)"


def test_set_winograd_switches_the_method(told):
    nnk.set_winograd(False)
    try:
        assert told("conv2d", *CONV)["forward"] == "direct: Winograd is switched off"
        assert "F(4 x 4" in told("conv2d", *CONV, winograd=4)["forward"]
    finally:
        nnk.set_winograd(True)
    assert told("conv2d", *CONV)["forward"].startswith("Winograd")
    with pytest.raises(TypeError, match="enabled must be a bool, got int"):
        nnk.set_winograd(0)


def test_conv1d_is_a_convolution_of_one_row(told):
    passes = told("conv1d", (4, 16, 100), (8, 16, 5), padding=2, dilation=2)
    assert passes["forward"].startswith("direct: ")
    assert passes["dw"].startswith("pixels x taps: a filter is one row")


def test_matmul_and_linear_tell_the_rule_that_gemm_follows(told):
    assert told("matmul", (64, 400), (400, 120)) == {
        "forward": describe(64, 120, 400),
        "da": describe(64, 400, 120, transposed_b=True),
        "db": describe(400, 120, 64, transposed_a=True),
    }
    assert told("matmul", (1, 3, 50, 4), (7, 1, 4, 5))["db"].endswith("(each of 21)")
    passes = told("linear", (2, 32, 400), (120, 400), (120,), activation="relu")
    assert passes["forward"].startswith("dot: (64, 400) by (400, 120) transposed, 64 rows do not repay")
    assert passes["dx"].startswith("direct: (64, 120) by (120, 400), ")
    assert passes["dw"].startswith("direct: (120, 64) transposed by (64, 400), ")
    assert told("matmul", (0, 3), (3, 2))["forward"] == "nothing to multiply: (0, 3) by (3, 2)"


@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False)], ids=str)
@pytest.mark.parametrize(
    "sizes", [(1, 9, 9), (2, 900, 900), (10, 2000, 2000), (100, 9, 9), (900, 900, 900)], ids=str
)
def test_the_line_of_a_product_names_its_method(sizes, transposed):
    assert describe(*sizes, *transposed).startswith(f"{method(*sizes, *transposed)}: ")


@pytest.mark.parametrize("name", [name for name in OPS if OPS[name].explain is not None])
def test_every_rule_takes_whatever_the_op_takes(name):
    rng = np.random.default_rng(0)
    for table in (OPS[name].samples, OPS[name].bench_samples):
        for sample in table(rng, np.float32):
            shapes = tuple(None if a is None else a.shape for a in sample.arrays)
            nnk.explain(name, *shapes, **sample.attributes)
            assert len(lines(OPS[name], shapes, sample.attributes)) == 3


def test_the_convolution_explained_is_the_one_computed(monkeypatch):
    from nnkernels.ops.conv2d import tuned

    asked = []

    def spy(*arguments):
        asked.append(methods(*arguments))
        return asked[-1]

    monkeypatch.setattr(tuned, "methods", spy)
    x, w = np.ones((1, 32, 6, 6), np.float32), np.ones((32, 32, 3, 3), np.float32)
    OPS["conv2d"](x, w, padding=1)
    assert asked[0].why_forward in lines(OPS["conv2d"], (x.shape, w.shape), {"padding": 1})[0]


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("relu", [(3, 4)], {}),
        ("softmax_cross_entropy", [(8, 10), (8,)], {}),
        ("softmax_cross_entropy", [(8, 10), (8, 10)], {}),
        ("concatenate", [(2, 3), (4, 3), (1, 3)], {}),
        ("adam_step", [(5,)] * 4, {"step": 1}),
        ("sgd_step", [(5,)] * 2, {"lr": 0.1}),
        ("max_pool2d", [(10**4, 10**4, 10**4, 10**4)], {"kernel_size": 2}),  # no memory is taken
    ],
    ids=str,
)
def test_an_op_without_a_choice_says_so(op, shapes, attributes, capsys):
    nnk.explain(op, *shapes, **attributes)
    assert capsys.readouterr().out == f"{op} has a single tuned method, whatever the shapes\n"


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "error", "words"),
    [
        ("conv2", CONV, {}, ValueError, "there is no op 'conv2'; did you mean conv2d"),
        ("zzzzzz", CONV, {}, ValueError, "it must be one of matmul, linear"),
        (OPS["conv2d"], CONV, {}, TypeError, "op must be the name of an op, got Op"),
        ("conv2d", CONV[:1], {}, ValueError, r"conv2d takes 2 to 3 shapes \(x, w, b\), got 1"),
        ("conv2d", (*CONV, (64,), 1), {}, ValueError, "conv2d takes 2 to 3 shapes .* got 4"),
        ("matmul", [(2, 3)], {}, ValueError, r"matmul takes 2 shapes \(a, b\), got 1"),
        ("sum", [(2, 3), (2, 3)], {}, ValueError, r"sum takes 1 shape \(x\), got 2"),
        ("concatenate", [], {}, ValueError, "concatenate takes one or more shapes, got none"),
        ("conv2d", [(8, 3, 9, 9), (4, 2, 3, 3)], {}, ValueError, "conv2d: x has 3 channels, w takes 2"),
        ("conv2d", CONV, {"stride": 0}, ValueError, "conv2d: stride must be at least 1"),
        ("conv2d", CONV, {"colour": "red"}, TypeError, r"conv2d\(\) got an unexpected .*'colour'"),
        ("softmax_cross_entropy", [(8, 10), (9, 10)], {}, ValueError, r"\(8, 10\)"),
        ("matmul", [(2, -3), (-3, 4)], {}, ValueError, r"a shape must not be negative, got \(2, -3\)"),
        ("matmul", [np.ones((2, 2)), (2, 4)], {}, TypeError, "must be a tuple of ints, got ndarray"),
        ("matmul", [(2.0, 3), (3, 4)], {}, TypeError, "a shape must be a tuple of ints"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_and_how(op, shapes, attributes, error, words):
    with pytest.raises(error, match=words):
        nnk.explain(op, *shapes, **attributes)
