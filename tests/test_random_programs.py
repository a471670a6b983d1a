"""Random programs on the tape, against derivatives carried forward by NumPy alone.

A program is drawn as a list of steps on a growing list of values: so values are used again and again (fan-
out, diamonds), parameters too, shapes broadcast, views are taken and loops run. The independent evaluation
keeps, beside every value, its derivatives by all elements of all parameters, along a first axis.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels as nnk
from nnkernels import OPS

SIZES = {"a": (), "b": (3,), "w": (2, 3), "m": (3, 3)}
N = sum(int(np.prod(s)) for s in SIZES.values())


class Carried:
    """A value and its derivatives by the N parameters: d[n] has the value's shape."""

    def __init__(self, v, d):
        self.v, self.d = np.asarray(v), np.asarray(d)

    def through(self, f, slope):
        return Carried(f(self.v), self.d * slope)

    def stretched(self, shape):
        lead = (1,) * (len(shape) - self.v.ndim)
        d = self.d.reshape(N, *lead, *self.v.shape)
        return np.broadcast_to(self.v, shape), np.broadcast_to(d, (N, *shape))


def both(f, df):
    """Return a function of two Carried: f of the values, and the sum of both partial derivatives' shares."""

    def step(x, y):
        shape = np.broadcast_shapes(x.v.shape, y.v.shape)
        (a, da), (b, db) = x.stretched(shape), y.stretched(shape)
        pa, pb = df(a, b)
        return Carried(f(a, b), pa * da + pb * db)

    return step


def one(f, slope):
    return lambda x: x.through(f, slope(x.v))


def matmul(x, y):
    return Carried(x.v @ y.v, x.d @ y.v + x.v @ y.d)


# name: (on the tape, carried forward)
TWO = {
    "add": (lambda x, y: x + y, both(np.add, lambda a, b: (1, 1))),
    "sub": (lambda x, y: x - y, both(np.subtract, lambda a, b: (1, -1))),
    "mul": (lambda x, y: x * y, both(np.multiply, lambda a, b: (b, a))),
    "div": (
        lambda x, y: x / (y * y + 1.0),
        both(lambda a, b: a / (1 + b * b), lambda a, b: (1 / (1 + b * b), -2 * a * b / (1 + b * b) ** 2)),
    ),
    "maximum": (
        lambda x, y: OPS["maximum"](x, y),
        both(np.maximum, lambda a, b: ((a > b) + (a == b) / 2, (a < b) + (a == b) / 2)),
    ),
}
ONE = {
    "sin": (lambda x: x.sin(), one(np.sin, np.cos)),
    "cos": (lambda x: x.cos(), one(np.cos, lambda v: -np.sin(v))),
    "tanh": (lambda x: x.tanh(), one(np.tanh, lambda v: 1 - np.tanh(v) ** 2)),
    "relu": (lambda x: x.relu(), one(lambda v: np.maximum(v, 0), lambda v: v > 0)),
    "square": (lambda x: x**2, one(np.square, lambda v: 2 * v)),
    "exp": (lambda x: (-(x * x)).exp(), one(lambda v: np.exp(-v * v), lambda v: -2 * v * np.exp(-v * v))),
    "sum": (lambda x: x.sum(), lambda x: Carried(x.v.sum(), x.d.reshape(N, -1).sum(1))),
    "mean of rows": (
        lambda x: x.mean(-1, keepdim=True) if x.ndim else x * 1.0,
        lambda x: Carried(x.v.mean(-1, keepdims=True), x.d.mean(-1, keepdims=True)) if x.v.ndim else x,
    ),
    "sum of columns": (
        lambda x: x.sum(0) if x.ndim else -x,
        lambda x: Carried(x.v.sum(0), x.d.sum(1)) if x.v.ndim else Carried(-x.v, -x.d),
    ),
    "transpose": (
        lambda x: x.T if x.ndim == 2 else x + x,
        lambda x: Carried(x.v.T, x.d.swapaxes(1, 2)) if x.v.ndim == 2 else Carried(2 * x.v, 2 * x.d),
    ),
    "backwards": (
        lambda x: x[::-1] if x.ndim else x,
        lambda x: Carried(x.v[::-1], x.d[:, ::-1]) if x.v.ndim else x,
    ),
    "every other, stretched": (
        lambda x: x[..., ::2].sum(-1, keepdim=True) * x if x.ndim else x,
        lambda x: TWO["mul"][1](Carried(x.v[..., ::2].sum(-1, keepdims=True),
                                        x.d[..., ::2].sum(-1, keepdims=True)), x) if x.v.ndim else x,
    ),
    "in one row": (
        lambda x: x.reshape(1, -1) if x.size in (1, 3) else x.reshape(-1)[:3],
        lambda x: Carried(x.v.reshape(1, -1), x.d.reshape(N, 1, -1)) if x.v.size in (1, 3)
        else Carried(x.v.reshape(-1)[:3], x.d.reshape(N, -1)[:, :3]),
    ),
}  # fmt: skip


def loop(value, parameters, turns, tape):
    """h = tanh(h m + b), the same parameters at every turn."""
    for _ in range(turns):
        if tape:
            value = (value @ parameters["m"] + parameters["b"]).tanh()
        else:
            value = ONE["tanh"][1](TWO["add"][1](matmul(value, parameters["m"]), parameters["b"]))
    return value


def fits(f, x, y):
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return True


def run(program, parameters, tape):
    values = list(parameters.values())
    for name, i, j in program:
        x, y = values[i % len(values)], values[j % len(values)]
        shapes = [np.shape(t.data if tape else t.v) for t in (x, y)]
        which = 0 if tape else 1
        if name in ONE:
            values.append(ONE[name][which](x))
        elif name == "loop":
            start = x if shapes[0] == (2, 3) else parameters["w"]
            values.append(loop(start, parameters, 1 + j % 3, tape))
        else:
            if not fits(name, *map(np.empty, shapes)):
                y = ONE["sum"][which](y)
            values.append(TWO[name][which](x, y))
    terms = [ONE["sum"][0 if tape else 1](TWO["mul"][0 if tape else 1](v, v)) for v in values[-3:]]
    total = terms[0]
    for term in terms[1:]:
        total = TWO["add"][0 if tape else 1](total, term)
    return total


def parameters_of(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, shape) for name, shape in SIZES.items()}


steps = st.tuples(st.sampled_from([*ONE, *TWO, "loop"]), st.integers(0, 40), st.integers(0, 40))
counts = {"programs": 0, "steps": 0, "beyond 1e12": 0}


@settings(deadline=None, derandomize=True, max_examples=2100, database=None)
@given(st.lists(steps, min_size=1, max_size=14), st.integers(0, 9))
def test_gradients_of_2000_random_programs_equal_an_independent_evaluation(program, seed):
    arrays = parameters_of(seed)
    carried, at = {}, 0
    for name, a in arrays.items():
        d = np.zeros((N, a.size))
        d[at : at + a.size] = np.eye(a.size)
        at += a.size
        carried[name] = Carried(a, d.reshape(N, *a.shape))
    wanted = run(program, carried, tape=False)
    leaves = {name: nnk.tensor(a, requires_grad=True) for name, a in arrays.items()}
    y = run(program, leaves, tape=True)
    counts["programs"] += 1
    counts["steps"] += len(program)
    if not abs(wanted.v) < 1e12:  # squares of squares of squares
        counts["beyond 1e12"] += 1
        return
    y.backward()
    got = [np.zeros(t.shape) if t.grad is None else t.grad.data for t in leaves.values()]
    got = np.concatenate([g.reshape(-1) for g in got])
    scale = max(1.0, abs(float(wanted.v)), np.abs(wanted.d).max())
    np.testing.assert_allclose(y.item(), wanted.v, rtol=1e-10, atol=1e-10 * scale)
    np.testing.assert_allclose(got, wanted.d, rtol=1e-8, atol=1e-10 * scale)


def test_as_many_programs_were_drawn_and_their_number_is_printed(capsys):
    programs, steps, beyond = counts.values()
    assert programs - beyond >= 2000
    with capsys.disabled():
        print(f"\n{programs} random programs of {steps / programs:.1f} steps, {beyond} of them beyond 1e12")


@settings(deadline=None, derandomize=True, max_examples=100, database=None)
@given(st.lists(steps, min_size=1, max_size=8), st.integers(0, 9))
def test_both_modes_agree_on_random_programs(program, seed):
    arrays = parameters_of(seed)
    v = {name: np.random.default_rng(seed + 1).standard_normal(a.shape) for name, a in arrays.items()}

    def f(p):
        return run(program, p, tape=True)

    value, along = nnk.jvp(f, arrays, v)
    if abs(value) > 1e9:
        return
    gradient = nnk.grad(f)(arrays)
    across = sum(float(np.sum(gradient[name] * v[name])) for name in arrays)
    assert abs(along - across) <= 1e-9 * max(1.0, abs(across), abs(value))
