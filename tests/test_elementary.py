"""exp, log, tanh and their like: largest errors in ulp, specials, and the same bits in kernels of any flags.

float32 is held against NumPy in float64 over all bit patterns in steps of 997 and around the special points,
float64 against NumPy in longdouble where that has more digits; erf, which NumPy has not, against a series.
"""

import numpy as np
import pytest

from nnkernels.machine import elementary
from nnkernels.machine.erf import erf
from nnkernels.machine.jit import jit_elementwise, jit_tuned
from nnkernels.ops import OPS, use_backend

F32, F64 = np.float32, np.float64
ANY, NOT_NEGATIVE, UNIT, NEAR = (-np.inf, np.inf), (0.0, np.inf), (0.0, 1.0), (-1e6, 1e6)


def erf_series(x):
    """Return erf x = 2/sqrt(pi) e^(-x^2) (x + 2 x^3 / 3 + 4 x^5 / 15 + ...), whose terms have one sign."""
    z = np.clip(np.asarray(x, np.result_type(x, F64)), -6.5, 6.5)  # beyond, 1 to 19 digits
    u, term = z * z, z
    total = term.copy()
    for n in range(1, 160):
        term = term * (u / z.dtype.type(n + 0.5))
        total += term
    return (np.exp(-u) * total * 2 / np.sqrt(np.longdouble("3.14159265358979323846"))).astype(z.dtype)


# name: (NumPy's function, domain, the bound that the docstring states for float32, for float64)
FUNCTIONS = {
    "exp": (np.exp, ANY, 1.1, 1.1),
    "exp_near": (np.exp, (-80.0, 80.0), 1.1, 1.1),
    "expm1": (np.expm1, ANY, 2.0, 2.0),
    "log": (np.log, ANY, 1.0, 1.0),
    "log1p_up_to_1": (np.log1p, UNIT, 2.0, 2.0),
    "tanh": (np.tanh, ANY, 2.5, 2.5),
    "sin": (np.sin, NEAR, 1.5, 1.5),
    "cos": (np.cos, NEAR, 1.5, 1.5),
    "erf": (erf_series, ANY, 1.2, 1.2),
}
OURS = {name: getattr(elementary, name, erf) for name in FUNCTIONS}
SPECIAL = [
    *(0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 5e-324, -5e-324, 1e-45, -1e-45, 1e-38, 3.4e38, 1.7e308),
    *(-1.7e308, 88.72284, 88.7229, -87.4, -103.97, -103.98, 709.782, 709.79, -745.13, -745.14),
]


def compile_each(decorate):
    def kernel_of(function):
        @decorate
        def kernel(x, y):
            for i in range(x.size):
                y[i] = function(x[i])

        return kernel

    return {name: kernel_of(OURS[name]) for name in FUNCTIONS}


KERNELS = compile_each(jit_elementwise)
REORDERING_KERNELS = compile_each(jit_tuned)


def computed(kernel, x):
    y = np.full_like(x, 7)
    kernel(x, y)
    return y


def float32_arguments():
    special = np.array(
        [0, 0x00800000, 0x3F800000, 0x7F800000, 0x80000000, 0x80800000, 0xBF800000, 0xFF800000]
    )
    around = (special[:, None] + np.arange(-2000, 2000)).reshape(-1) % 2**32
    return np.concatenate([np.arange(0, 2**32, 997), around]).astype(np.uint32).view(F32)


def float64_arguments():
    rng = np.random.default_rng(0)
    return np.concatenate(
        [
            rng.integers(0, 2**64, 300_000, dtype=np.uint64).view(F64),
            rng.uniform(-800, 800, 300_000),
            rng.uniform(-2, 2, 300_000),
            rng.standard_normal(100_000) * 10.0 ** rng.uniform(-20, 6, 100_000),
        ]
    )


def within(x, domain):
    low, high = domain
    return np.ascontiguousarray(x[np.isnan(x) | ((x >= low) & (x <= high))])


def largest_ulp(got, exact):
    """Return the largest error in units in the last place of the exact result; inf for a wrong special."""
    with np.errstate(all="ignore"):
        nearest = exact.astype(got.dtype)
        error = np.abs(got - exact) / np.spacing(np.abs(nearest))
    same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    finite = np.isfinite(got) & np.isfinite(nearest)
    return float(np.max(np.where(finite, error, np.where(same, 0, np.inf))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_errors_stay_below_the_stated_bound(name):
    function, domain, bound, _ = FUNCTIONS[name]
    x = within(float32_arguments(), domain)
    y = computed(KERNELS[name], x)
    with np.errstate(all="ignore"):
        exact = function(x.astype(F64))
    assert y.dtype == F32
    assert largest_ulp(y, exact) <= bound


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="longdouble has no more digits than float64")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_errors_stay_below_the_stated_bound(name):
    function, domain, _, bound = FUNCTIONS[name]
    x = within(float64_arguments(), domain)
    with np.errstate(all="ignore"):
        exact = function(x.astype(np.longdouble))
    assert largest_ulp(computed(KERNELS[name], x), exact) <= bound


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_specials_and_their_signs_are_those_of_numpy(name, dtype):
    function, domain, *_ = FUNCTIONS[name]
    with np.errstate(over="ignore"):
        x = within(np.array(SPECIAL * 3, dtype), domain)  # thrice: in vector registers as well as one by one
    y = computed(KERNELS[name], x)
    with np.errstate(all="ignore"):
        wanted = function(x)
    numbers = np.isfinite(wanted)
    np.testing.assert_array_equal(y[~numbers], wanted[~numbers])
    np.testing.assert_array_equal(np.signbit(y[numbers]), np.signbit(wanted[numbers]))
    np.testing.assert_array_equal(y == 0, wanted == 0)
    with np.errstate(all="ignore"):
        scalars = np.array([OURS[name](v) for v in x], dtype)  # they run in Python, too
    np.testing.assert_allclose(scalars, y, rtol=8 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_that_may_reorder_sums_give_the_same_bits(name, dtype):
    x = float32_arguments()[::100].astype(dtype) if dtype == F32 else float64_arguments()[::50]
    x = within(x, FUNCTIONS[name][1])
    assert computed(REORDERING_KERNELS[name], x).tobytes() == computed(KERNELS[name], x).tobytes()


def test_power_of_float32_is_nearly_rounded_correctly_and_its_specials_are_those_of_numpy():
    @jit_elementwise
    def kernel(x, e, y):
        for i in range(x.size):
            y[i] = elementary.power(x[i], e[i])

    def powers(x, e):
        y = np.empty_like(x)
        kernel(x, e, y)
        return y

    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-80, 80, 300_000)).astype(F32)
    e = (rng.uniform(-87, 88, x.size) / np.log(x)).astype(F32)
    assert largest_ulp(powers(x, e), x.astype(F64) ** e.astype(F64)) <= 0.6
    points = F32(
        [0, -0.0, 1, -1, 2, -2, 0.5, -2.5, 3, -3, np.inf, -np.inf, np.nan, 1e-45, 3e38, -3e38, 2**24, 1e10]
    )
    x, e = (np.ascontiguousarray(grid.reshape(-1)) for grid in np.meshgrid(points, points))
    with np.errstate(all="ignore"):
        wanted = np.power(x, e)
    y = powers(x, e)
    numbers = np.isfinite(wanted)
    np.testing.assert_array_equal(y[~numbers], wanted[~numbers])
    np.testing.assert_array_equal(np.signbit(y[numbers]), np.signbit(wanted[numbers]))
    np.testing.assert_allclose(y[numbers], wanted[numbers], rtol=2e-7, atol=2e-45)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_ranks_order_as_floats_do(dtype):
    x = np.array([-np.inf, -1.7, -1e-45, -0.0, 0.0, 1e-45, 1.0, 2.5, np.inf, np.nan, -np.nan], dtype)
    ranks = np.array([elementary.rank(v) for v in x])
    steps = np.sign(np.diff(ranks.astype(object)))
    tiny = 0 if dtype(1e-45) == 0 else 1
    assert steps.tolist() == [1, 1, tiny, 0, tiny, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal([elementary.of_rank(r) for r in ranks], x)


# --- the same through the ops: no decorator on the way spoils a reduction to the short interval ---


@pytest.mark.parametrize("size", [257, 40_000])  # one thread, and several
@pytest.mark.parametrize(("name", "function", "bound"), [
    ("exp", np.exp, 1.1), ("log", np.log, 1.0), ("tanh", np.tanh, 2.5), ("sin", np.sin, 1.5),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 2.5),
])  # fmt: skip
def test_ops_of_one_array_keep_the_bound(name, function, bound, size):
    rng = np.random.default_rng(1)
    x = (rng.uniform(1e-3, 80, size) if name == "log" else rng.uniform(-80, 80, size)).astype(F32)
    assert largest_ulp(OPS[name](x), function(x.astype(F64))) <= bound


@pytest.mark.parametrize("shape", [(7, 10), (9, 101), (3000, 10), (400, 101), (50, 1000)])
def test_softmax_and_its_loss_are_accurate_in_every_element(shape):
    rng = np.random.default_rng(2)
    x = rng.uniform(-40, 0, shape).astype(F32)
    labels = rng.integers(0, shape[1], shape[0])
    wide = x.astype(F64)
    e = np.exp(wide - wide.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    # x - max, up to 40, is rounded to float32: that alone may be 2.4e-6 of a power.
    np.testing.assert_allclose(OPS["softmax"](x), p, rtol=4e-6)
    np.testing.assert_allclose(OPS["log_softmax"](x), np.log(p), rtol=2e-6, atol=2e-7)
    losses = OPS["softmax_cross_entropy"](x, labels, reduction="none")
    np.testing.assert_allclose(losses, -np.log(p[np.arange(len(p)), labels]), rtol=2e-6, atol=2e-7)


def test_far_sines_are_those_of_the_c_library():
    x = np.array([1e6, 1.0001e6, 3e7, 1e30, -1e300, np.inf, np.nan, 0.5])
    with use_backend("loops"):
        wanted = OPS["sin"](x)
    np.testing.assert_allclose(OPS["sin"](x), wanted, rtol=1e-15)
