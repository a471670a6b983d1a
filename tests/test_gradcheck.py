"""gradcheck, as a function and a command: right passes, wrong is caught and named, kinks are told."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.__main__ import main
from nnkernels.autograd.check import GradcheckError, gradcheck
from nnkernels.autograd.transforms import grad
from nnkernels.commands import gradcheck as command
from nnkernels.commands.gradcheck import reason
from nnkernels.nn import functional as F
from nnkernels.nn.utils import functional_call
from nnkernels.ops import OPS

ROOT = Path(__file__).parent.parent


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def faulty(name, wrong):
    """Return an op whose tuned backward pass gives what ``wrong`` makes of the right gradients."""
    op = OPS[name]

    def backward(dy, outputs, inputs, needs, **attributes):
        return wrong(dy, *op.tuned.backward(dy, outputs, inputs, needs, **attributes))

    return replace(op, tuned=op.tuned._replace(backward=backward))


def failing(f, inputs, **options):
    """Return the report of a gradcheck that must fail."""
    with pytest.raises(GradcheckError) as caught:
        gradcheck(f, inputs, **options)
    assert str(caught.value) == str(caught.value.report)
    assert str(caught.value).startswith("gradcheck: FAILED: ")
    assert not gradcheck(f, inputs, raise_exception=False, **options)
    return caught.value.report


# --- what is right passes ---


def two_layers(p, x):
    return F.linear(F.linear(x, p["w1"], p["b1"]).tanh(), p["w2"], p["b2"])


PARAMETERS = {
    "w1": normal(5, 4, seed=1),
    "b1": normal(5, seed=2),
    "w2": normal(3, 5, seed=3),
    "b2": normal(3),
}
RIGHT = {
    "elementwise": (lambda x: x.sin() * x.exp(), normal(3, 4)),
    "a Tensor": (lambda x: x.sigmoid(), nnk.Tensor(normal(3, 4))),
    "a number": (lambda x: x * x, 3.0),
    "several arguments": (lambda x, y: x * y + y, (normal(3, 4), normal(4, seed=1))),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        (normal(2, 2, 5, 4), normal(3, 2, 3, 3, seed=1), normal(3)),
    ),
    "a network's parameters": (lambda p: two_layers(p, nnk.Tensor(normal(2, 4))), PARAMETERS),
    "a list and several values": (lambda a: {"y": [a[0].exp(), a[1].sin()]}, [normal(3), normal(2)]),
    "a loss": (lambda x: F.cross_entropy(x, np.array([0, 2, 1])), normal(3, 3)),
    "a gradient": (grad(lambda x: (x.sin() * x).sum()), normal(4)),
    "large and small inputs": (lambda x: x * x, np.array([1e8, 1.0, 1e-8, 0.0])),
    "steep and curved": (lambda x: (x * 100.0).sin(), normal(3, 4)),
    "a minimum": (lambda x: x * x, np.zeros(3)),
    "no dependence": (lambda x, y: x * 2.0, (normal(3), normal(2))),
    "no elements": (lambda x: x.exp(), np.zeros((0, 3))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_derivatives_pass(name):
    f, inputs = RIGHT[name]
    report = gradcheck(f, inputs)
    assert report
    assert report.ok is True
    assert report.adjoint is not None
    assert not report.kinks
    assert all(part.checked == np.prod(part.shape, dtype=int) for part in (*report.inputs, *report.outputs))


@pytest.mark.parametrize("body", ["loops", "vectorized"])
def test_it_checks_the_body_in_use(body):
    with nnk.use_backend(body):
        assert gradcheck(lambda x: faulty("tanh", lambda dy, dx: (-dx,))(x), normal(3))
    failing(lambda x: faulty("tanh", lambda dy, dx: (-dx,))(x), normal(3))


def test_modules_are_checked_by_their_inputs():
    layer = nn.LayerNorm(5)
    for p in layer.parameters():
        p.data = p.data.astype(np.float64)
    assert gradcheck(layer, normal(3, 5))


def test_a_module_is_checked_by_its_parameters():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=rng), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3, rng=rng))
    x, labels = normal(2, 1, 5, 5), np.array([2, 0])
    parameters = {name: p.data for name, p in model.named_parameters()}
    report = gradcheck(lambda p: F.cross_entropy(functional_call(model, p, (x,)), labels), parameters)
    assert [part.name for part in report.inputs] == [f"inputs[{name!r}]" for name in parameters]
    assert len(report.converted) == len(parameters)
    assert all(p.data.dtype == np.float32 for p in model.parameters())


def test_the_report_counts_and_names():
    report = gradcheck(lambda p, x: two_layers(p, x), (PARAMETERS, normal(2, 4)))
    assert [part.name for part in report.inputs] == [*(f"inputs[0][{k!r}]" for k in PARAMETERS), "inputs[1]"]
    assert report.checked == sum(p.size for p in PARAMETERS.values()) + 8
    text = str(report)
    assert text.startswith(f"gradcheck: ok, {report.checked} elements\n")
    assert re.search(r"^reverse  inputs\[0\]\['w1'\] +20/20 +0  \[\d, \d\]", text, re.M)
    assert re.search(r"^forward  f\(x\) +6/6 ", text, re.M)
    assert re.search(r"^adjoint  <dy, J v> = .*, <J\^T dy, v> = .*, relative \d", text, re.M)
    assert max(map(len, text.splitlines())) <= 110


def test_inputs_are_left_unchanged_and_float32_is_converted():
    x, t = normal(3, 4).astype(np.float32), nnk.tensor(normal(4), requires_grad=True)
    before = x.copy(), t.data.copy()
    report = gradcheck(lambda x, y: x * y, (x, t))
    assert report.converted == ("inputs[0]",)
    assert "converted from float32 to float64: inputs[0]" in str(report)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(t.data, before[1])
    assert t.grad is None
    assert "converted" not in str(gradcheck(lambda x: x.exp(), normal(3)))


def test_some_elements_of_a_large_input():
    calls = []

    def f(x):
        calls.append(1)
        return x.exp()

    report = gradcheck(f, normal(200, 50), elements=20)
    assert [part.checked for part in report.inputs] == [20]
    assert "20/10000" in str(report)
    assert len(calls) < 60


def test_draws_are_repeatable():
    def text(rng):
        return str(gradcheck(lambda x: x.exp(), normal(3), rng=rng))

    assert text(None) == text(0) == text(np.random.default_rng(0)) != text(1)


# --- what is wrong is caught ---


def test_flipped_sign():
    op = faulty("tanh", lambda dy, dx: (-dx,))
    report = failing(lambda x: op(x), normal(2, 3))
    (part,) = report.inputs
    assert part.wrong == 6
    assert part.factor == pytest.approx(-1)
    assert part.worst.relative == pytest.approx(2)
    assert "6 wrong, each -1 times what it should be" in str(report)
    assert "the two modes disagree" in str(report)
    assert report.outputs[0].ok  # forward mode is right
    assert not report.adjoint.ok


def test_one_wrong_element_is_named():
    def wrong(dy, dx):
        dx[1, 2] += 0.01
        return (dx,)

    op = faulty("tanh", wrong)
    report = failing(lambda p: op(p["a"]) * p["b"], {"a": normal(2, 3), "b": normal(2, 3, seed=1)})
    assert [part.wrong for part in report.inputs] == [1, 0]
    assert report.inputs[0].worst.index == (1, 2)
    assert report.inputs[0].worst.error == pytest.approx(0.01, rel=1e-6)
    assert re.search(r"^reverse  inputs\['a'\] +6/6 +0  \[1, 2\] ", str(report), re.M)


def test_transposed_gradient():
    op = faulty("matmul", lambda dy, da, db: (np.ascontiguousarray(da.T), db))
    report = failing(lambda a, b: op(a, b), (normal(3, 3), normal(3, 3, seed=1)))
    assert [part.ok for part in report.inputs] == [False, True]


def test_missing_sum_over_the_broadcast_axis():
    op = faulty("linear", lambda dy, dx, dw, db: (dx, dw, dy.copy()))
    report = failing(lambda x, w, b: op(x, w, b), (normal(4, 3), normal(2, 3), normal(2)))
    assert "FAILED: inputs[2]: gradient has shape (4, 2), wanted (2,)" in str(report)
    op = faulty("linear", lambda dy, dx, dw, db: (dx, dw, dy[0].copy()))
    report = failing(lambda x, w, b: op(x, w, b), (normal(4, 3), normal(2, 3), normal(2)))
    assert [part.wrong for part in report.inputs] == [0, 0, 2]


def test_nan_is_wrong():
    op = faulty("tanh", lambda dy, dx: (dx * np.nan,))
    assert failing(lambda x: op(x), normal(3)).inputs[0].wrong == 3


def test_small_faults_are_seen_and_tolerances_are_obeyed():
    op = faulty("tanh", lambda dy, dx: (dx * (1 + 1e-4),))
    failing(lambda x: op(x), normal(3))
    assert gradcheck(lambda x: op(x), normal(3), rtol=1e-3, raise_exception=False).inputs[0].ok


def test_wrong_forward_mode():
    sound = OPS["tanh"]
    op = replace(sound, jvp=lambda v, *args, **attributes: 2 * sound.jvp(v, *args, **attributes))
    report = failing(lambda x: op(x), normal(3))
    assert report.inputs[0].ok
    assert report.outputs[0].factor == pytest.approx(2)
    assert "forward mode is wrong in 3 of 3 outputs" in str(report)


def test_the_flipped_kernel_of_the_demo(capsys):
    path = ROOT / "demos" / "ones_hide_faults.py"
    space = {"__name__": "__main__"}
    exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), space)
    assert max(space["errors"]["ones"]) < 1e-8 < 1 < space["errors"]["random"][1]
    assert capsys.readouterr().out.count("gradcheck: ") == 2


# --- kinks ---


@pytest.mark.parametrize(
    "f", [lambda x: x.relu(), abs, lambda x: (x - 1e-7).relu(), lambda x: x.max()], ids=str
)
def test_kinks_are_reported_and_left_out(f):
    x = np.array([-1.5, 0.0, -0.2, 0.0])
    report = gradcheck(f, x)
    assert [kink.index for kink in report.kinks] == [(1,), (3,)]
    assert report.inputs[0].checked == report.inputs[0].kinks == 2
    assert "ok, 2 elements, 2 at kinks left out" in str(report)


def test_the_derivative_at_a_kink_lies_between_the_slopes_or_is_told():
    x = np.array([0.0, 1.0])
    (kink,) = gradcheck(lambda x: x.relu(), x).kinks
    assert kink.analytic == 0
    assert kink.between
    assert sorted(map(abs, (kink.left, kink.right)))[0] == 0
    assert "inputs[0]: slopes 0 | " in str(gradcheck(lambda x: x.relu(), x))
    op = faulty("relu", lambda dy, dx: (dx + 5 * (dx == 0),))
    report = gradcheck(lambda x: op(x), x, raise_exception=False)
    assert not report.kinks[0].between
    assert "is OUTSIDE of them" in str(report)


def test_a_wrong_gradient_beside_kinks_is_still_caught():
    op = faulty("relu", lambda dy, dx: (-dx,))
    report = failing(lambda x: op(x), np.array([0.0, 1.0, 2.0]))
    assert (report.inputs[0].wrong, report.inputs[0].kinks) == (2, 1)


def test_nothing_but_kinks_is_no_success():
    assert "every element lies at a kink" in str(failing(lambda x: x.relu(), np.zeros(7)))
    assert "and 2 more" in str(gradcheck(lambda x: x.relu(), np.zeros(7), raise_exception=False))


def test_rounding_that_hides_faults_is_told():
    assert "the rounding of f's values hides errors" in str(failing(lambda x: x + 1e12, normal(3)))


# --- errors ---


def in_place(x):
    x.data[...] = 1.0
    return x * x


class Noisy:
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, x):
        return x * self.rng.standard_normal(3)


@pytest.mark.parametrize(
    ("f", "inputs", "error", "words"),
    [
        (3, normal(3), TypeError, "f must be a function of Tensors, got int"),
        (lambda x: x, np.arange(3), TypeError, r"must be float64 .* got int64 array of shape \(3,\)"),
        (lambda x, y: x, (normal(3), np.array([1])), TypeError, r"inputs\[1\] must .* labels, to f: "),
        (lambda x: x, {"a": "x"}, TypeError, r"inputs\['a'\] must be float64 or float32, got 'x'"),
        (lambda x: x, (), TypeError, "inputs holds no array"),
        (lambda x: x, np.array([1, np.inf]), ValueError, "inputs must be finite, got inf"),
        (lambda x: 3, normal(3), TypeError, "f must return a Tensor, .* got int"),
        (lambda x: None, normal(3), TypeError, "return statement"),
        (lambda x: x.data, normal(3), TypeError, "got ndarray"),
        (lambda x: nnk.tensor([1.0]), normal(3), TypeError, "f must return float64 .* got float32"),
        (Noisy(), normal(3), ValueError, "f is not deterministic: two calls .* differ by up to"),
        (lambda x: x.log(), np.array([-1.0, 1.0]), ValueError, "1 of 2 elements .* are not finite, as nan"),
        (lambda x: x.log(), np.array([1.0, 1e-9]), ValueError, r"once inputs\[1\] has moved"),
        (in_place, normal(3), ValueError, "f wrote into inputs"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_errors(f, inputs, error, words):
    with pytest.raises(error, match=rf"^gradcheck: .*{words}"):
        gradcheck(f, inputs)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"eps": 0}, ValueError, "eps must be a finite number above 0, got 0"),
        ({"atol": -1.0}, ValueError, "atol must be a finite number at least 0, got -1.0"),
        ({"rtol": np.nan}, ValueError, "rtol must be a finite number at least 0, got nan"),
        ({"eps": "small"}, TypeError, "eps must be a number, got 'small'"),
        ({"elements": 0}, ValueError, "elements must be a whole number of at least 1, or None, got 0"),
        ({"rng": "x"}, TypeError, "rng must be a numpy.random.Generator or a seed, got 'x'"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=f"^gradcheck: {words}"):
        gradcheck(lambda x: x, normal(3), **options)


def test_float32_inside_f_is_explained():
    w = nnk.tensor(normal(2, 4).astype(np.float32))
    with pytest.raises(TypeError) as caught:
        gradcheck(lambda x: F.linear(x, w), normal(3, 4).astype(np.float32))
    assert "what f holds itself must be float64, too" in caught.value.__notes__[0]


# --- the command ---


def lines_of(capsys, *arguments, status=0):
    assert main(["gradcheck", *arguments]) == status
    out, err = capsys.readouterr()
    assert (err == "") == (status == 0)
    assert max(map(len, out.splitlines())) <= 110
    return out.splitlines(), err


def test_command_prints_a_row_per_body(capsys):
    lines, _ = lines_of(capsys, "relu", "adam_step", "relu")
    rows = [line.split() for line in lines if line.startswith("relu")]
    assert [row[1] for row in rows] == ["loops", "vectorized", "tuned"]
    assert all(row[-1] == "ok" and max(map(float, row[4:6])) < 1e-7 for row in rows)
    assert any(re.match(r"adam_step +an update step: .* no gradients", line) for line in lines)
    assert lines[-1] == "3 of 3 bodies ok"


def test_command_with_one_body(capsys):
    before = nnk.get_num_threads()
    try:
        lines, _ = lines_of(capsys, "softplus", "--body", "tuned", "--threads", "1")
    finally:
        nnk.set_num_threads(before)
    assert "1 thread (" in lines[0]
    assert lines[-1] == "1 of 1 bodies ok"


def test_command_with_mutants(capsys):
    lines, _ = lines_of(capsys, "relu", "sgd_step", "--mutants")
    count = len(OPS["relu"].mutants) + len(OPS["sgd_step"].mutants)
    assert lines[-1] == f"{count} of {count} planted faults caught"
    for mutant in (*OPS["relu"].mutants, *OPS["sgd_step"].mutants):
        assert any(re.match(rf"  {mutant.body} +{re.escape(mutant.name)}  +\S", line) for line in lines)
    assert any("cotangent ignored  " in line and "gradient of input 0: error 0.36" in line for line in lines)


def test_command_notices_a_wrong_body(capsys, monkeypatch):
    monkeypatch.setitem(OPS, "tanh", faulty("tanh", lambda dy, dx: (-dx,)))
    lines, err = lines_of(capsys, "tanh", "sin", status=1)
    failed = [line for line in lines if line.endswith("FAILED")]
    assert [line.split()[:2] for line in failed] == [["tanh", "tuned"]]
    assert any("reverse, gradient of input 0 on " in line for line in lines)
    assert err == "nnkernels: error: gradcheck: 1 of 6 bodies failed\n"


def test_command_notices_a_body_that_writes_into_its_arguments(capsys, monkeypatch):
    def wrong(dy, dx):
        dy *= 2
        return (dx,)

    monkeypatch.setitem(OPS, "tanh", faulty("tanh", wrong))
    lines, _ = lines_of(capsys, "tanh", "--body", "tuned", status=1)
    assert any("backward wrote into its arguments" in line for line in lines)


def test_command_notices_a_fault_that_lives(capsys, monkeypatch):
    monkeypatch.setattr(command, "verdict", lambda op, mutant: None)
    lines, err = lines_of(capsys, "relu", "--mutants", "--body", "loops", status=1)
    assert sum("LIVES: no check notices it" in line for line in lines) == 2
    assert lines[-1] == "0 of 2 planted faults caught"
    assert err == "nnkernels: error: gradcheck: 2 of 2 planted faults not caught\n"


def test_command_tells_of_a_fault_that_cannot_be_planted(capsys, monkeypatch):
    lost = replace(OPS["relu"], mutants=(OPS["relu"].mutants[0]._replace(old="no such text"),))
    monkeypatch.setitem(OPS, "relu", lost)
    lines, err = lines_of(capsys, "relu", "--mutants", status=1)
    at = lines.index("  tuned       nothing passes, tuned  CANNOT BE PLANTED:")
    assert lines[at + 1].startswith("    mutant 'nothing passes, tuned': 'no such text' occurs 0 times")
    assert "1 of 1 planted faults not caught" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "gradcheck wants one OP or several, or --all"),
        (["relu", "--all"], "or --all, not both"),
        (["rellu"], "there is no op 'rellu'; did you mean relu"),
        (["relu", "xyzzy"], "there is no op 'xyzzy'; it must be one of "),
        (["relu", "--threads", "100000"], "--threads: must be from 1 to"),
    ],
)
def test_wrong_arguments(arguments, words, capsys):
    assert main(["gradcheck", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnkernels: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_reasons_are_cut_at_the_sample():
    message = "conv2d/tuned on (2, 3) {'stride': 2}, gradient of input 0: largest error 18.7, allowed 1.5e-12"
    assert reason(message, 60) == "gradient of input 0: error 18.7 on (2, 3) {'stride': 2}"
    assert reason(message, 50) == "gradient of input 0: error 18.7"
    assert reason("index 9 is out of bounds", 15) == "index 9 is ..."
