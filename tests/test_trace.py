"""autograd.trace: the steps of an evaluation and their derivatives, in both modes."""

import math

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.autograd.trace import trace
from nnkernels.nn import Linear, Sequential, Tanh
from nnkernels.nn import functional as F

AT = (np.float64(2), np.float64(3))


def sine_plus_product(x1, x2):
    return x1.sin() + x1 * x2


def product_plus_sine(x1, x2):
    return x1 * x2 + x1.sin()


def lines(table):
    """Return the lines of a table with single spaces."""
    return [" ".join(line.split()) for line in str(table).splitlines()]


def row(table, name):
    return next(r for r in table.rows if r.name == name)


# ---------------------------------------------------------------- the lecture's example


def test_reverse_mode_gives_the_lectures_steps_forth_and_back():
    assert lines(trace(sine_plus_product, AT)) == [
        "step value",
        "w1 = x1 = 2",
        "w2 = x2 = 3",
        "w3 = sin(w1) = 0.909297",
        "w4 = w1·w2 = 6",
        "w5 = w3 + w4 = z = 6.909297",
        "",
        "derivative chain rule value through",
        "dz/dw5 = 1",
        "dz/dw4 = dz/dw5·dw5/dw4 = 1·1 = 1 add",
        "dz/dw3 = dz/dw5·dw5/dw3 = 1·1 = 1 add",
        "dz/dw2 = dz/dw4·dw4/dw2 = 1·w1 = 2 mul",
        "dz/dw1 = dz/dw4·dw4/dw1 + dz/dw3·dw3/dw1 = 1·w2 + 1·cos(w1) = 2.583853 mul, sin",
    ]


def test_the_product_first_gives_the_lectures_own_names():
    table = trace(product_plus_sine, AT)
    assert lines(table)[3:6] == ["w3 = w1·w2 = 6", "w4 = sin(w1) = 0.909297", "w5 = w3 + w4 = z = 6.909297"]
    assert row(table, "w1").chain == "dz/dw4·dw4/dw1 + dz/dw3·dw3/dw1"
    assert row(table, "w1").rule == "1·cos(w1) + 1·w2"


def test_forward_mode_has_a_column_of_derivatives_per_input():
    assert lines(trace(sine_plus_product, AT, mode="forward")) == [
        "step value tangent dw/dx1 dw/dx2",
        "w1 = x1 = 2 1 0",
        "w2 = x2 = 3 0 1",
        "w3 = sin(w1) = 0.909297 dw3 = cos(w1)·dw1 -0.416147 0",
        "w4 = w1·w2 = 6 dw4 = w2·dw1 + w1·dw2 3 2",
        "w5 = w3 + w4 = z = 6.909297 dw5 = dw3 + dw4 2.583853 2",
    ]


def test_forward_mode_along_a_direction_has_one_column():
    table = trace(sine_plus_product, AT, mode="forward", v=(1.0, -2.0))
    assert lines(table)[0].endswith("dw along v")
    assert table.rows[-1].derivatives[0] == pytest.approx(math.cos(2) + 3 - 2 * 2)


def test_rows_hold_the_numbers_in_full():
    table = trace(sine_plus_product, AT)
    assert [r.name for r in table.rows] == ["w1", "w2", "w3", "w4", "w5"]
    assert [r.op for r in table.rows] == [None, None, "sin", "mul", "add"]
    assert [r.inputs for r in table.rows] == [(), (), ("w1",), ("w1", "w2"), ("w3", "w4")]
    assert [float(r.value) for r in table.rows] == [2, 3, math.sin(2), 6, math.sin(2) + 6]
    assert [float(r.derivatives[0]) for r in table.rows] == pytest.approx([math.cos(2) + 3, 2, 1, 1, 1])
    assert all(r.value.dtype == np.float64 for r in table.rows)


def test_python_numbers_count_as_float32():
    table = trace(sine_plus_product, (2.0, 3.0))
    assert table.rows[-1].value.dtype == np.float32
    assert lines(table) == lines(trace(sine_plus_product, AT))


def test_both_modes_agree_on_every_input():
    def f(a, b, c):
        return ((a * b).exp() + (c / a).sqrt() - b**3.0).log() * (a - c).tanh() + (-b).sigmoid() * a.cos()

    at = (np.float64(0.7), np.float64(0.4), np.float64(1.9))
    back, forth = trace(f, at), trace(f, at, mode="forward")
    gradients = [float(r.derivatives[0]) for r in back.rows[:3]]
    assert [float(d) for d in forth.rows[-1].derivatives] == pytest.approx(gradients, rel=1e-12)
    assert [r.formula for r in back.rows] == [r.formula for r in forth.rows]


RULES = {
    "neg": lambda a, b: -a,
    "sin": lambda a, b: a.sin(),
    "cos": lambda a, b: a.cos(),
    "exp": lambda a, b: a.exp(),
    "log": lambda a, b: a.log(),
    "sqrt": lambda a, b: a.sqrt(),
    "abs": lambda a, b: abs(a),
    "sigmoid": lambda a, b: a.sigmoid(),
    "tanh": lambda a, b: a.tanh(),
    "relu": lambda a, b: a.relu(),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "square": lambda a, b: a**2.0,
    "cube": lambda a, b: a**3.0,
}


@pytest.mark.parametrize("name", RULES)
def test_the_rules_in_words_are_the_derivatives_in_numbers(name):
    table = trace(RULES[name], (np.float64(1.7), np.float64(0.6)))
    known = {r.name: float(r.value) for r in table.rows}
    known |= {f: getattr(np, f) for f in ("sin", "cos", "log", "sign")}
    for r in table.rows[:2]:
        if r.rule:
            text = r.rule.replace("·", "*").replace("²", "**2").replace("^", "**")
            text = text.replace("[w1 > 0]", "(w1 > 0)")
            assert eval(text, {}, known) == pytest.approx(float(r.derivatives[0]), rel=1e-12), text


# ---------------------------------------------------------------- arrays, trees, networks


def test_small_arrays_are_written_out_and_larger_ones_by_shape_and_norm():
    small = lines(trace(lambda x: (x * x).sum(), np.array([1.0, 2.0, 2.0])))
    assert "w1 = x = [1, 2, 2]" in small
    assert "dz/dw1 = dz/dw2·dw2/dw1 = dz/dw2·w1 + dz/dw2·w1 = [2, 4, 4] mul" in small
    large = lines(trace(lambda x: x.sum(), np.ones((4, 4))))
    assert "w1 = x = shape (4, 4), norm 4" in large
    assert "dz/dw1 = dz/dw2·dw2/dw1 = 1 through sum = shape (4, 4), norm 4 sum" in large


def test_what_is_broadcast_gets_a_sum():
    table = trace(lambda x, b: (x * b).sum(), (np.array([1.0, 2.0]), np.float64(3)))
    assert row(table, "w2").rule == "sum(dz/dw3·w1)"
    assert row(table, "w2").derivatives[0] == 3


def test_forward_mode_takes_a_pass_per_element_of_a_small_array():
    table = trace(lambda x: x * x, np.array([3.0, 5.0]), mode="forward")
    assert table.directions == ("dw/dx[0]", "dw/dx[1]")
    assert np.stack(table.rows[-1].derivatives).tolist() == [[6, 0], [0, 10]]


def test_reverse_mode_takes_a_cotangent_for_an_array():
    table = trace(lambda x: x * x, np.array([3.0, 5.0]), v=[1.0, 10.0])
    assert table.rows[0].derivatives[0].tolist() == [6, 100]


def test_numbers_in_the_program_are_part_of_the_formulas():
    table = trace(lambda x: 3.0 * x**2.0 - 1.0, np.float64(2))
    assert [r.formula for r in table.rows] == ["x", "w1^2", "3·w2", "w3 - 1"]
    assert row(table, "w1").rule == "3·2·w1"


def test_inputs_are_called_as_the_function_calls_its_arguments():
    assert [r.formula for r in trace(lambda mass, speed: mass * speed, AT).rows][:2] == ["mass", "speed"]
    assert trace(lambda *xs: xs[0] * xs[1], AT).rows[1].formula == "x2"
    tree = {"w": np.float64(2), "b": [np.float64(3)]}
    table = trace(lambda p: p["w"] * p["b"][0], tree)
    assert [r.formula for r in table.rows][:2] == ["p['w']", "p['b'][0]"]


def test_names_of_steps_give_way_to_those_of_inputs():
    table = trace(lambda w1, z: w1 * z, AT)
    assert lines(table)[1:4] == ["v1 = w1 = 2", "v2 = z = 3", "v3 = v1·v2 = y = 6"]


def test_tensors_from_outside_are_steps_of_their_own():
    c = nnk.tensor(np.arange(3.0))
    table = trace(lambda x: (x * c).sum(), np.ones(3))
    assert row(table, "w2").formula == "c1"
    assert row(table, "w2").derivatives == ()  # nobody differentiates by it


def test_a_network_shows_its_parameters_and_their_gradients():
    rng = np.random.default_rng(0)
    model = Sequential(Linear(2, 3, rng=rng), Tanh(), Linear(3, 2, rng=rng))
    x, labels = rng.normal(size=(4, 2)).astype(np.float32), np.array([0, 1, 0, 1])
    table = trace(lambda x: F.cross_entropy(model(x), labels), x)
    F.cross_entropy(model(nnk.tensor(x)), labels).backward()
    shown = {r.formula: r for r in table.rows}
    for i, p in enumerate(model.parameters(), 1):
        assert shown[f"p{i}"].derivatives[0] == pytest.approx(p.grad.data, rel=1e-5, abs=1e-7)


def test_an_input_that_is_not_used_has_derivative_zero():
    table = trace(lambda a, b: a * a, AT)
    assert row(table, "w2").derivatives[0] == 0
    assert trace(lambda a, b: a * a, AT, mode="forward").rows[-1].derivatives == (4, 0)


def test_the_identity_has_one_step():
    table = trace(lambda x: x, np.float64(2))
    assert lines(table)[1] == "w1 = x = z = 2"
    assert row(table, "w1").derivatives[0] == 1


def test_only_the_branch_taken_is_traced():
    def f(x):
        return x.sin() if x > 0 else x.cos()

    assert [r.op for r in trace(f, np.float64(1)).rows] == [None, "sin"]
    assert [r.op for r in trace(f, np.float64(-1), mode="forward").rows] == [None, "cos"]


def test_a_derivative_inside_is_shown_as_its_steps():
    table = trace(nnk.autograd.grad(lambda x: x.sin()), np.float64(0.5))
    assert table.rows[-1].value == pytest.approx(math.cos(0.5))
    assert table.rows[0].derivatives[0] == pytest.approx(-math.sin(0.5))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_the_tensors_given_are_left_alone(mode):
    x = nnk.tensor(np.float64(2), requires_grad=True)
    y = x * x
    table = trace(lambda t: t.sin(), y, mode=mode)
    assert table.rows[0].formula == "t"
    assert x.grad is None
    assert y.grad is None
    y.backward()
    assert x.grad.item() == 4


def test_repr_is_the_table():
    table = trace(sine_plus_product, AT)
    assert repr(table) == str(table)


def test_numbers_keep_their_digits_where_decimals_would_lose_them():
    assert "w1 = x = 1.5e-07" in lines(trace(lambda x: x * x, np.float64(1.5e-7)))
    assert "w1 = x = nan" in lines(trace(lambda x: x * x, np.float64("nan")))
    assert "w1 = x = -3" in lines(trace(lambda x: x * x, np.float64(-3)))


# ---------------------------------------------------------------- what is refused


def raises(error, words, *args, **options):
    with pytest.raises(error, match=words):
        trace(*args, **options)


def test_another_mode_is_refused():
    raises(ValueError, "trace: mode must be reverse or forward, got 'back'", sine_plus_product, AT, "back")


def test_integers_are_refused():
    raises(TypeError, r"trace: x\[0\] must be float32 or float64", sine_plus_product, (2, 3))


def test_a_result_that_is_no_tensor_is_refused():
    for mode in ("reverse", "forward"):
        raises(TypeError, "trace: f must return a Tensor.*float", lambda x: x.item(), 2.0, mode)
        raises(TypeError, "lack a return", lambda x: None, 2.0, mode)


def test_several_results_are_refused():
    for mode in ("reverse", "forward"):
        raises(ValueError, "trace: f must return one Tensor, got 2", lambda x: (x, x * x), 2.0, mode)


def test_a_result_that_does_not_depend_on_x_is_refused():
    for mode in ("reverse", "forward"):
        raises(ValueError, "f's value does not depend on x", lambda x: nnk.tensor(x.data), 2.0, mode)


def test_a_missing_direction_is_asked_for():
    raises(
        ValueError, "trace: x has 9 elements.*give v, a direction", lambda x: x, np.ones((3, 3)), "forward"
    )
    raises(ValueError, r"f's value has shape \(2,\), so reverse mode needs v", lambda x: x * x, np.ones(2))


def test_a_direction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"v must have the shapes of x, \(2,\), got \(3,\)"):
        trace(lambda x: x, np.ones(2), "forward", v=np.ones(3))
    with pytest.raises(ValueError, match=r"v must have the shape of f's value, \(2,\), got \(\)"):
        trace(lambda x: x * x, np.ones(2), v=1.0)


def test_a_function_that_frees_its_graph_is_refused():
    def f(x):
        y = x * x
        y.backward()
        return y

    raises(RuntimeError, r"the graph was freed by an earlier backward\(\) \(at op mul\)", f, np.float64(2))
