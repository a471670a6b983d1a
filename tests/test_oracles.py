"""The ``loops`` bodies, yardstick of all others, against oracles that share no code with them."""

import itertools

import numpy as np
import pytest
from oracles import PLAIN, STEPS, TORCH

from nnkernels.ops import OPS, checks
from nnkernels.ops.op import CPU_BODIES

NAMES = sorted(OPS)
DIFFERENTIABLE = [name for name in NAMES if OPS[name].loops.backward is not None]
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=("f32", "f64"))


def rng():
    return np.random.default_rng(0)


def narrowed(result, dtype):
    return np.asarray(result).astype(dtype)


@both_dtypes
@pytest.mark.parametrize("name", NAMES)
def test_loops_equal_the_plain_formula(name, dtype):
    op = OPS[name]
    oracles = STEPS if op.inplace else PLAIN
    assert name in oracles, f"{name} has no oracle: write one in tests/oracles.py"
    count = 0
    for sample in op.samples(rng(), dtype):
        got = checks.run(op, "loops", sample)
        results = oracles[name](*checks.copies(sample.arrays), **sample.attributes)
        wanted = results if op.inplace else (results,)
        assert not op.inplace or len(got) == len(wanted)
        for i, (g, w) in enumerate(zip(got, wanted)):
            what = f"{name} on {sample.label}, output {i}"
            checks.assert_close(g, narrowed(w, dtype), op.tolerance, what)
        count += 1
    assert count > 0


def through_torch(name, sample, dy=None):
    """Return PyTorch's result and, for the cotangent dy, its gradients, all computed in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    needs = checks.differentiable(OPS[name], sample)
    tensors = []
    for a, need in zip(sample.arrays, needs):
        if a is None:
            tensors.append(None)
        else:
            wide = a.astype(np.float64) if a.dtype.kind == "f" else a.copy()
            tensors.append(torch.tensor(wide, requires_grad=need))
    y = TORCH[name](*tensors, **sample.attributes)
    sources = [t for t, need in zip(tensors, needs) if need]
    found = iter(torch.autograd.grad(y, sources, torch.tensor(dy.astype(np.float64)), materialize_grads=True))
    return y.detach().numpy(), [next(found).numpy() if need else None for need in needs]


@both_dtypes
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_loops_and_their_gradients_equal_torch(name, dtype):
    op = OPS[name]
    assert name in TORCH, f"{name} has no oracle: write one in tests/oracles.py"
    for sample in op.samples(rng(), dtype):
        outputs = checks.run(op, "loops", sample)
        dy = checks.cotangent(rng(), outputs)
        y, wanted = through_torch(name, sample, dy)
        checks.assert_close(outputs[0], narrowed(y, dtype), op.tolerance, f"{name} on {sample.label}")
        grads = checks.run_backward(op, "loops", sample, dy, outputs)
        for i, (g, w) in enumerate(zip(grads, wanted)):
            what = f"{name} on {sample.label}, gradient of input {i}"
            checks.assert_close(g, None if w is None else narrowed(w, dtype), op.tolerance, what)


def test_both_tables_of_oracles_know_the_same_ops():
    assert PLAIN.keys() == TORCH.keys()


# --- what samples cannot hold, since differences would meet a kink: ties, infinities, NaN ---

GEOMETRIES = (
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 4), "stride": (3, 1), "padding": (1, 2)},
    {"kernel_size": (3, 1), "stride": 2},
)


def uneven_images(dtype):
    """Return images of few different values, one of -inf alone, and a few with one NaN each."""
    x = rng().integers(0, 3, (3, 4, 9, 11)).astype(dtype)
    x[0, 1] = -np.inf
    x[0, 2, 2:, 3:] = -np.inf
    x[1, :, 4, 5] = np.nan
    x[2, 0, 0, 0] = np.inf
    return x


def first_maxima(x, kernel_size, stride=None, padding=0):
    """Return (y, argmax) by looking at one window after the other, in plain Python."""
    (R, S), (ph, pw) = np.broadcast_to(kernel_size, 2).tolist(), np.broadcast_to(padding, 2).tolist()
    sh, sw = np.broadcast_to(kernel_size if stride is None else stride, 2).tolist()
    N, C, H, W = x.shape
    P, Q = (H + 2 * ph - R) // sh + 1, (W + 2 * pw - S) // sw + 1
    y, argmax = np.empty((N, C, P, Q), x.dtype), np.empty((N, C, P, Q), np.int32)
    for n, c, p, q in np.ndindex(y.shape):
        rows = [h for h in range(p * sh - ph, p * sh - ph + R) if 0 <= h < H]
        columns = [w for w in range(q * sw - pw, q * sw - pw + S) if 0 <= w < W]
        # max returns the first of equals; in these pairs NaN is above all numbers.
        plane = x[n, c]
        places = itertools.product(rows, columns)
        h, w = max(places, key=lambda at: (np.isnan(plane[at]), plane[at]))
        y[n, c, p, q], argmax[n, c, p, q] = x[n, c, h, w], h * W + w
    return y, argmax


@both_dtypes
@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("attributes", GEOMETRIES, ids=str)
def test_max_pool2d_takes_the_first_maximum_and_nan_above_all(attributes, body, dtype):
    x = uneven_images(dtype)
    y, argmax = OPS["max_pool2d"].body(body).forward(x, **attributes)
    wanted = first_maxima(x, **attributes)
    assert np.array_equal(y, wanted[0], equal_nan=True)
    assert argmax.dtype == np.int32
    assert np.array_equal(argmax, wanted[1])


@pytest.mark.parametrize("attributes", GEOMETRIES, ids=str)
def test_max_pool2d_places_its_maxima_as_torch_does(attributes):
    torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    x = uneven_images(np.float32)
    y, argmax = OPS["max_pool2d"].loops.forward(x, **attributes)
    wanted, places = torch.nn.functional.max_pool2d(torch.tensor(x), return_indices=True, **attributes)
    assert np.array_equal(y, wanted.numpy(), equal_nan=True)
    assert np.array_equal(argmax, places.numpy())


# --- what samples cannot hold, since differences would drown in rounding: values far from 0 ---

NORMALISED = (
    ("batch_norm", (64, 16, 8, 8), 16, {}),
    ("batch_norm", (200, 5), 5, {}),
    ("batch_norm", (8, 64, 28, 28), 64, {}),
    ("batch_norm", (3, 2, 100, 100), 2, {}),
    ("group_norm", (4, 6, 40, 40), 6, {"num_groups": 2}),
    ("layer_norm", (500, 101), 101, {"normalized_shape": 101}),
    ("layer_norm", (4, 5000), 5000, {"normalized_shape": 5000}),
)


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize(("name", "shape", "n", "attributes"), NORMALISED, ids=str)
def test_normalisation_keeps_its_digits_far_from_zero(name, shape, n, attributes, body):
    g = rng()
    x = (1e4 + g.standard_normal(shape)).astype(np.float32)
    w, b = g.standard_normal((2, n)).astype(np.float32)
    op = OPS[name]
    outputs = op.body(body).forward(x, w, b, **attributes)
    # NumPy's mean is rounded to float32, half a unit of 1e4; the loops carry it in float64.
    atol = 2e-3 if body == "vectorized" else 1e-5
    np.testing.assert_allclose(outputs[0], PLAIN[name](x, w, b, **attributes), atol=atol, rtol=0)
    dy = checks.cotangent(g, outputs)
    needs = (True, True, True)
    got = op.body(body).backward(dy, outputs, (x, w, b), needs, **attributes)
    given = [a.astype(np.float64) for a in (dy, x, w, b)]
    wanted = op.loops.backward(
        given[0], op.loops.forward(*given[1:], **attributes), tuple(given[1:]), needs, **attributes
    )
    for grad, exact in zip(got, wanted):
        np.testing.assert_allclose(grad, exact, atol=2e-3 * np.abs(exact).max(), rtol=0)


@both_dtypes
@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize(
    ("name", "attributes"),
    [("batch_norm", {}), ("group_norm", {"num_groups": 1}), ("layer_norm", {"normalized_shape": 7})],
)
def test_equal_values_are_normalised_to_the_bias(name, attributes, body, dtype):
    x, b = np.full((9, 7), 0.1, dtype), np.linspace(-1, 1, 7).astype(dtype)
    outputs = OPS[name].body(body).forward(x, np.ones(7, dtype), b, **attributes)
    np.testing.assert_allclose(outputs[0], np.broadcast_to(b, x.shape), atol=1e-5, rtol=0)
    np.testing.assert_allclose(outputs[2], 1e-5**-0.5, rtol=1e-5)


@pytest.mark.parametrize("body", CPU_BODIES)
def test_a_nan_spoils_its_own_channel_group_or_example_alone(body):
    x = rng().standard_normal((40, 6)).astype(np.float32)
    spoilt = x.copy()
    spoilt[3, 2] = np.nan
    for name, attributes, own in (
        ("batch_norm", {}, np.s_[:, 2]),
        ("group_norm", {"num_groups": 2}, np.s_[3, :3]),
        ("layer_norm", {"normalized_shape": 6}, np.s_[3]),
    ):
        clean, y = (OPS[name].body(body).forward(a, None, None, **attributes)[0] for a in (x, spoilt))
        assert np.isnan(y[own]).all()
        y[own] = clean[own]
        np.testing.assert_array_equal(y, clean)
