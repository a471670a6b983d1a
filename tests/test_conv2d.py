"""conv2d by each of its methods, on sizes that are cut into chunks, slots and parts, against float64."""

import itertools
from importlib.util import find_spec

import numba
import numpy as np
import pytest

from nnkernels.ops import OPS, checks
from nnkernels.ops.conv2d import methods, sample, winograd
from nnkernels.ops.conv2d.methods import set_winograd
from nnkernels.ops.conv2d.planes import SERIAL_BELOW, forward_plan, gradient_plan
from nnkernels.ops.conv2d.shapes import SLOTS
from nnkernels.ops.conv2d.weights import weight_plan
from nnkernels.ops.validate import pair

OP = OPS["conv2d"]
# Largest error relative to the largest output; see winograd.py.
ERROR = {False: 6e-6, 2: 3e-6, 4: 3e-5}


def draw(x, w, seed=0, **attributes):
    return sample(np.random.default_rng(seed), np.float32, x, w, **attributes)


def by_torch(s, dy):
    """Return y, dx, dw and db in float64 by PyTorch."""
    import torch

    how = {k: v for k, v in s.attributes.items() if k not in ("winograd", "activation")}
    x, w, b = (torch.tensor(a.astype(np.float64), requires_grad=True) for a in s.arrays)
    y = torch.nn.functional.conv2d(x, w, b, **how)
    y = torch.relu(y) if "activation" in s.attributes else y
    grads = torch.autograd.grad(y, (x, w, b), torch.tensor(dy.astype(np.float64)))
    return [t.detach().numpy() for t in (y, *grads)]


def by_numpy(s, dy):
    """Return the same by our NumPy body."""
    arrays = tuple(a.astype(np.float64) for a in s.arrays)
    outputs = OP.vectorized.forward(*arrays, **s.attributes)
    grads = OP.vectorized.backward(dy.astype(np.float64), outputs, arrays, (True,) * 3, **s.attributes)
    return [*outputs, *grads]


def relative_error(got, wanted):
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def results(s):
    """Return tuned's y, dx, dw and db, and the dy they are for."""
    y = checks.run(OP, "tuned", s)
    dy = checks.cotangent(np.random.default_rng(1), y)
    return [*y, *checks.run_backward(OP, "tuned", s, dy, y)], dy


def check(s, allowed=None):
    """Compare y, dx, dw and db with float64, and their bits with 1 and more threads."""
    got, dy = results(s)
    wanted = (by_torch if find_spec("torch") else by_numpy)(s, dy)
    allowed = allowed or ERROR[False]
    for name, g, w, most in zip(("y", "dx", "dw", "db"), got, wanted, (allowed, allowed, 1e-5, 1e-5)):
        assert g.dtype == np.float32
        assert g.shape == w.shape
        error = relative_error(g, w)
        assert error <= most, f"{name} of {s.label}: error {error:.2g}, allowed {most:.2g}"
    before = numba.get_num_threads()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            for g, again in zip(got, results(s)[0]):
                assert g.tobytes() == again.tobytes(), f"{s.label}: differs with {threads} threads"
    finally:
        numba.set_num_threads(before)


def geometry(stride=1, padding=0, dilation=1, groups=1, **_):
    return pair(stride), pair(padding), pair(dilation), groups


def way(s):
    return methods.methods(
        s.arrays[0].shape, s.arrays[1].shape, *geometry(**s.attributes), s.attributes.get("winograd")
    ).forward


# ---------------------------------------------------------------- y and dx directly

DIRECT = [
    ((3, 3, 40, 70), (12, 3, 5, 5), {"padding": 2}),
    ((1, 70, 33, 31), (20, 70, 3, 3), {"winograd": False}),
    ((1, 70, 33, 31), (20, 70, 3, 3), {"winograd": False, "padding": 1, "activation": "relu"}),
    ((2, 8, 75, 90), (12, 4, 3, 3), {"stride": 2, "dilation": 2, "groups": 2, "padding": 2}),
    ((3, 6, 70, 101), (10, 6, 3, 4), {"stride": (2, 3), "padding": (1, 2)}),
    ((2, 6, 60, 71), (9, 6, 3, 3), {"dilation": (3, 2), "padding": (0, 3)}),
    ((4, 4, 120, 121), (14, 4, 2, 2), {"stride": 3}),  # pixels that no window reads
    ((1, 3, 64, 64), (16, 3, 7, 7), {"padding": 3, "activation": "relu"}),
    ((2, 6, 33, 40), (16, 6, 5, 5), {}),  # x is read where it lies
    ((2, 6, 33, 40), (16, 6, 5, 5), {"padding": 4}),  # dy is
]


@pytest.mark.parametrize(("x", "w", "attributes"), DIRECT)
def test_direct_in_several_chunks_of_rows(x, w, attributes):
    s = draw(x, w, **attributes)
    assert way(s) == "direct"
    stride, padding, dilation, groups = geometry(**attributes)
    forward = forward_plan(x, w, stride, padding, dilation, groups, False).sizes
    gradient = gradient_plan(x, w, stride, padding, dilation, groups).sizes
    for g in (forward, gradient):
        assert g.rows < g.P, "one chunk alone"
        assert g.N * g.P * g.width * s.arrays[1].size > SERIAL_BELOW
    check(s)


def test_small_images_are_read_where_they_lie():
    def packed(plan, padding, *more):
        how = ((1, 1), (padding, padding), (1, 1), 1)
        return plan((2, 6, 33, 40), (16, 6, 5, 5), *how, *more).sizes.packed

    assert not packed(forward_plan, 0, False)
    assert packed(forward_plan, 1, False)
    assert not packed(gradient_plan, 4)
    assert packed(gradient_plan, 0)


# ---------------------------------------------------------------- y and dx by Winograd's method

SHALLOW = [((3, 24, 21, 18), (40, 24, 3, 3)), ((1, 33, 30, 7), (25, 33, 3, 3)), ((2, 5, 3, 50), (3, 5, 3, 3))]
DEEP = {4: ((2, 176, 10, 9), (176, 176, 3, 3)), 2: ((2, 260, 7, 5), (260, 260, 3, 3))}


@pytest.mark.parametrize("padding", [0, 1, 2, (2, 1)])
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("x", "w"), SHALLOW)
def test_winograd_with_all_filters_transformed_first(x, w, m, padding):
    assert (m + 2) ** 2 * x[1] * w[0] <= winograd.DEEP
    s = draw(x, w, padding=padding, winograd=m)
    assert way(s) == f"winograd{m}"
    check(s, ERROR[m])


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("m", [2, 4])
def test_winograd_with_a_panel_of_filters_at_a_time(m, padding):
    x, w = DEEP[m]
    assert (m + 2) ** 2 * x[1] * w[0] > winograd.DEEP
    check(draw(x, w, padding=padding, winograd=m, activation="relu"), ERROR[m])


@pytest.mark.parametrize("m", [False, 2, 4])
def test_rounding_errors_stay_in_the_documented_bounds(m):
    worst = 0.0
    for seed, channels in itertools.product(range(2), (1, 16, 64, 256)):
        s = draw((2, channels, 14, 14), (48, channels, 3, 3), seed, padding=1, winograd=m)
        arrays = [a.astype(np.float64) for a in s.arrays]
        wanted = OP.vectorized.forward(*arrays, **s.attributes)[0]
        worst = max(worst, relative_error(OP.tuned.forward(*s.arrays, **s.attributes)[0], wanted))
    assert ERROR[m] / 50 < worst < ERROR[m]


# ---------------------------------------------------------------- a group per channel

DEPTHWISE = [  # several chunks of rows, several slots
    ((9, 24, 40, 44), (24, 1, 5, 5), {"groups": 24, "padding": 2}),
    ((3, 16, 57, 31), (16, 1, 3, 3), {"groups": 16}),  # x is read where it lies
    ((2, 6, 90, 50), (24, 1, 3, 4), {"groups": 6, "padding": (0, 3), "activation": "relu"}),
    ((3, 9, 75, 61), (18, 1, 3, 3), {"groups": 9, "padding": 1, "stride": 2}),
    ((3, 9, 75, 64), (9, 1, 4, 2), {"groups": 9, "padding": 2, "stride": (2, 3), "dilation": (3, 2)}),
    ((5, 40, 7, 7), (40, 1, 3, 3), {"groups": 40, "padding": 1}),
    ((4, 30, 1, 900), (30, 1, 1, 9), {"groups": 30, "padding": (0, 4)}),
    ((2, 8, 60, 61), (8, 1, 2, 2), {"groups": 8, "stride": 3}),  # pixels that no window reads
]


@pytest.mark.parametrize(("x", "w", "attributes"), DEPTHWISE)
def test_a_group_per_channel(x, w, attributes):
    s = draw(x, w, **attributes)
    chosen = methods.methods(x, w, *geometry(**attributes))
    assert (chosen.forward, chosen.dx, chosen.dw) == ("depthwise",) * 3
    check(s)


# ---------------------------------------------------------------- y as pixels x filters

PIXELS = [
    ((5, 16, 31, 30), (40, 16, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 24, 50, 43), (33, 24, 2, 3), {"stride": (1, 3), "padding": (0, 2), "activation": "relu"}),
    ((6, 50, 19, 18), (100, 50, 3, 1), {"stride": 2, "dilation": (3, 1)}),
    ((30, 17, 9, 8), (47, 17, 5, 4), {"stride": (4, 2), "padding": (3, 0)}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), PIXELS)
def test_pixels_by_filters(x, w, attributes):
    s = draw(x, w, **attributes)
    assert way(s) == "pixels"
    check(s)


# ---------------------------------------------------------------- dx by columns

COLUMNS = [
    ((2, 40, 7, 8), (50, 40, 3, 3), {"padding": 1}),
    ((1, 33, 9, 14), (70, 33, 3, 2), {"stride": (1, 3), "padding": (0, 2), "dilation": (2, 1)}),
    ((4, 20, 30, 29), (24, 20, 3, 3), {"stride": 2, "padding": 1, "activation": "relu"}),
    ((8, 16, 21, 22), (40, 16, 1, 1), {"stride": 2}),  # pixels that no window reads
    ((3, 17, 6, 5), (19, 17, 4, 5), {"padding": (3, 4)}),  # windows that lie in the padding
]


@pytest.mark.parametrize(("x", "w", "attributes"), COLUMNS)
def test_dx_by_columns(x, w, attributes):
    assert methods.methods(x, w, *geometry(**attributes)).dx == "columns"
    check(draw(x, w, **attributes))


# ---------------------------------------------------------------- few pixels, many filters

SHARED = [
    ((1, 30, 9, 9), (150, 30, 3, 3), {"winograd": False}, "direct"),
    ((1, 40, 33, 9), (201, 40, 3, 3), {"stride": 2, "activation": "relu"}, "direct"),
    ((1, 24, 36, 37), (200, 24, 3, 3), {"stride": 2}, "pixels"),
    ((1, 24, 20, 20), (300, 12, 3, 3), {"groups": 2, "padding": 1}, "direct"),
]


@pytest.mark.parametrize(("x", "w", "attributes", "wanted"), SHARED)
def test_a_chunk_is_shared_among_tasks(x, w, attributes, wanted):
    s = draw(x, w, **attributes)
    assert way(s) == wanted
    if wanted == "direct":
        g = forward_plan(x, w, *geometry(**attributes), False).sizes
        assert g.shares > 1
        assert g.N * -(-g.P // g.rows) < SLOTS
    check(s)


# ---------------------------------------------------------------- dw

WEIGHTS = {  # x, w, attributes: about how many slots and parts, rows side by side, taps (s, c) in one run
    "few channels, side by side": ((9, 3, 40, 41), (20, 3, 5, 5), {"padding": 2}, 8, 1, True, True),
    "rows one after the other": ((5, 20, 30, 31), (40, 20, 3, 3), {"padding": 1}, 5, 2, False, True),
    "one chunk, parts only": ((1, 64, 13, 14), (140, 64, 3, 3), {"padding": 1}, 1, 8, False, True),
    "one image": ((1, 24, 33, 32), (70, 24, 3, 3), {"padding": (0, 2)}, 3, 3, False, True),
    "a large filter bank": ((2, 130, 9, 8), (140, 130, 3, 3), {"winograd": False}, 2, 4, False, True),
    "a large filter bank, small images": (
        (8, 130, 5, 6), (140, 130, 3, 3), {"padding": 1, "winograd": False}, 2, 4, False, True
    ),
    "few channels, strides": ((8, 4, 91, 92), (24, 4, 3, 2), {"stride": (2, 3)}, 3, 3, True, True),
    "strides and dilation": (
        (3, 24, 52, 60), (16, 24, 3, 3), {"stride": (2, 1), "dilation": 2, "padding": 2}, 3, 2, False, False
    ),
    "dilation, side by side": ((9, 3, 40, 41), (16, 3, 3, 3), {"dilation": (1, 3)}, 4, 2, True, False),
    "groups": ((3, 32, 31, 30), (48, 16, 3, 4), {"groups": 2, "padding": 1}, 3, 3, False, True),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_dw_in_slots_and_parts(case):
    x, w, attributes, slots, _, together, run = WEIGHTS[case]
    g = weight_plan(x, w, *geometry(**attributes)).sizes
    assert (g.slots > 1) == (slots > 1)
    assert g.slots * g.parts > 1
    assert (g.together > 1) == together
    assert (g.run_s == g.S) == run
    assert (g.terms > 1) == ("large" in case)
    assert g.rows < g.P or "large" in case or "one chunk" in case
    assert g.N * g.K * g.P * g.Q * g.C * g.R * g.S > SERIAL_BELOW
    check(draw(x, w, **attributes), ERROR[4])


# ---------------------------------------------------------------- one image


@pytest.mark.parametrize("m", [None, False, 2, 4])
def test_a_single_image(m):
    check(draw((1, 32, 28, 28), (48, 32, 3, 3), padding=1, winograd=m), ERROR[m or 4])


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("x", "w", "attributes", "wanted"),
    [
        ((16, 32, 32, 32), (64, 32, 3, 3), {"padding": 1}, "winograd4"),
        ((2, 24, 16, 16), (24, 24, 3, 3), {"padding": 1}, "winograd4"),  # 32 patches
        ((1, 24, 28, 16), (24, 24, 3, 3), {"padding": 1}, "direct"),  # 28, of 448 pixels
        ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}, "columns"),
        ((1, 512, 7, 7), (512, 256, 3, 3), {"padding": 1, "groups": 2}, "direct"),
        ((1, 2, 7, 7), (9, 2, 3, 3), {"padding": 1}, "direct"),  # filters in another order cost nothing
        ((16, 23, 32, 32), (64, 23, 3, 3), {}, "direct"),
        ((16, 64, 32, 32), (23, 64, 3, 3), {}, "direct"),
        ((16, 64, 32, 32), (64, 64, 3, 3), {"stride": 2}, "pixels"),
        ((2, 64, 32, 32), (64, 64, 3, 3), {"stride": 2}, "pixels and columns"),
        ((1, 64, 32, 32), (64, 64, 3, 3), {"stride": 2}, "columns"),
        ((16, 15, 32, 32), (64, 15, 3, 3), {"stride": 2}, "direct"),
        ((16, 64, 32, 32), (31, 64, 3, 3), {"stride": 2}, "direct"),
        ((2, 64, 32, 32), (64, 64, 1, 1), {"stride": 2}, "columns"),
        ((16, 64, 32, 32), (64, 64, 3, 3), {"dilation": (1, 2)}, "direct"),
        ((16, 64, 32, 32), (64, 32, 3, 3), {"groups": 2}, "direct"),
        ((16, 64, 32, 32), (256, 1, 3, 3), {"groups": 64}, "depthwise"),
        ((16, 64, 32, 32), (320, 1, 3, 3), {"groups": 64}, "direct"),
        ((16, 1, 32, 32), (4, 1, 3, 3), {}, "direct"),
        ((16, 64, 32, 32), (64, 64, 3, 3), {"padding": 3}, "direct"),
        ((16, 64, 32, 32), (64, 64, 5, 5), {"padding": 2}, "direct"),
        ((16, 64, 32, 32), (64, 64, 1, 1), {}, "direct"),
        ((1, 2, 4, 4), (3, 2, 3, 3), {"winograd": 4}, "winograd4"),  # asked for
        ((16, 64, 32, 32), (64, 64, 3, 3), {"winograd": 2}, "winograd2"),
        ((16, 64, 32, 32), (64, 64, 3, 3), {"winograd": False}, "direct"),
    ],
)
def test_the_rule_picks(x, w, attributes, wanted):
    chosen = methods.methods(x, w, *geometry(**attributes), attributes.get("winograd"))
    pair = {
        "columns": ("direct", "columns"),
        "pixels": ("pixels", "direct"),
        "pixels and columns": ("pixels", "columns"),
    }
    assert (chosen.forward, chosen.dx) == pair.get(wanted, (wanted, wanted))


def test_winograd_can_be_switched_off_and_is_still_there_for_who_asks():
    s = draw((4, 32, 16, 16), (32, 32, 3, 3), padding=1)
    direct = draw((4, 32, 16, 16), (32, 32, 3, 3), padding=1, winograd=False)
    assert way(s) == "winograd4"
    directly = OP.tuned.forward(*direct.arrays, **direct.attributes)[0].tobytes()
    assert OP.tuned.forward(*s.arrays, **s.attributes)[0].tobytes() != directly
    set_winograd(False)
    try:
        assert way(s) == "direct"
        assert OP.tuned.forward(*s.arrays, **s.attributes)[0].tobytes() == directly
        assert way(draw((4, 32, 16, 16), (32, 32, 3, 3), padding=1, winograd=2)) == "winograd2"
    finally:
        set_winograd(True)
    assert way(s) == "winograd4"
    with pytest.raises(TypeError, match="enabled must be a bool, got int"):
        set_winograd(1)
