"""Which method computes a convolution, and why: the one rule, and the switch for Winograd.

The thresholds are where one method overtook the other on the machines where both were measured.
"""

from contextvars import ContextVar
from functools import lru_cache
from typing import Literal, NamedTuple

from nnkernels.ops.conv2d.shapes import Pair, Winograd, out_length
from nnkernels.ops.conv2d.weights import FEW

Way = Literal["direct", "depthwise", "pixels", "columns", "winograd2", "winograd4"]

CHANNELS = 24  # on both sides, from which the transforms of Winograd pay
FILTERS = 32  # from which sums with the filters side by side fill the vectors
PATCHES = 32  # of 4 x 4 in a batch; with fewer, 36 values per filter weigh more than what they save
REORDERED = 256  # filter elements, up to which another order costs nothing
FEW_PIXELS = 256  # of y in a batch, up to which no copy of all filters pays
STRIDED = 1024  # the same for dx with a stride

ROWS = 4  # filters per channel up to which a tile of MR rows is mostly empty

NAMES = {
    "direct": "direct", "depthwise": "depthwise", "pixels": "pixels x filters", "columns": "columns",
    "winograd2": "Winograd", "winograd4": "Winograd",
}  # fmt: skip

_winograd: ContextVar[bool] = ContextVar("winograd", default=True)


def set_winograd(enabled: bool) -> None:
    """Let 3 x 3 convolutions use Winograd's method (the default), or compute every one directly.

    Winograd's rounding errors are about ten times larger, see ``ops/conv2d/winograd.py``. Raises TypeError
    unless ``enabled`` is a bool.
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"enabled must be a bool, got {type(enabled).__name__}")
    _winograd.set(enabled)


class Methods(NamedTuple):
    """The choices for y, dx and dw, with their reasons."""

    forward: Way
    why_forward: str
    dx: Way
    why_dx: str
    dw: Literal["pixels x taps", "depthwise"]
    why_dw: str


def without_winograd(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int,
    why: str, why_dw: str,
) -> Methods:  # fmt: skip
    """Return the choices where ``why`` says that Winograd's method is none."""
    (N, C, H, W), (K, _, R, S) = x, w
    P, Q = (out_length(*axis) for axis in zip((H, W), (R, S), stride, padding, dilation))
    pixels, one = N * P * Q, stride == (1, 1)
    few = pixels <= FEW_PIXELS
    forward: Way = "direct"
    dx: Way = "direct"
    why_forward = why_dx = why
    if by_pixels(w, stride, dilation, groups) and not few:
        forward = "pixels"
        why_forward = f"with a stride, {C} channels side by side waste nothing at the ends of short rows"
    if groups == 1 and K * C * R * S > REORDERED and pixels <= (FEW_PIXELS if one else STRIDED):
        dx, why_dx = "columns", f"{pixels} pixels do not repay bringing the filters into another order"
    return Methods(forward, why_forward, dx, why_dx, "pixels x taps", why_dw)


def no_winograd(w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int) -> str:
    """Return why Winograd's method cannot compute this convolution; "" if it can."""
    if (*w[2:], stride, dilation, groups) != (3, 3, (1, 1), (1, 1), 1):
        return "Winograd is for 3 x 3 filters, stride 1, one group"
    if max(padding) > 2:
        return "a padding above 2 leaves no Winograd form for dx"
    return ""


def by_pixels(w: tuple[int, ...], stride: Pair, dilation: Pair, groups: int) -> bool:
    """Return whether y is sooner computed as pixels x filters (see ``pixels``)."""
    K, C, R, S = w
    return (
        stride != (1, 1)
        and R * S > 1
        and dilation[1] == 1  # the taps of a filter row are one run
        and groups == 1
        and C * S >= FEW
        and K >= FILTERS
    )


def methods(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int,
    winograd: Winograd = None,
) -> Methods:  # fmt: skip
    """Return the methods for shapes x (N, C, H, W) and w (K, C / groups, R, S)."""
    if winograd is None and not _winograd.get():
        winograd = False
    return chosen(x, w, stride, padding, dilation, groups, winograd)


@lru_cache(maxsize=256)
def chosen(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int,
    winograd: Winograd,
) -> Methods:  # fmt: skip
    """Return what ``methods`` does, the switch being part of ``winograd``."""
    C, (K, per_group, R, S) = x[1], w
    call = x, w, stride, padding, dilation, groups
    if groups > 1 and per_group == 1 and K // groups <= ROWS:
        why = "with a channel to each group there is no sum over channels, and a matrix product's tile"
        why += f" would have {K // groups} of its rows in use"
        return Methods("depthwise", why, "depthwise", why, "depthwise", why)
    if R == 1:
        why_dw = "a filter is one row, and its taps are one run of pixels"
    elif per_group * S < FEW:
        why_dw = f"{per_group} channels are few, so the {R} rows under a filter lie side by side"
    else:
        why_dw = f"{per_group} channels fill the vectors, one row of the filter after the other"
    if why := no_winograd(w, stride, padding, dilation, groups):
        return without_winograd(*call, why, why_dw)
    count = patches(x, padding)
    if winograd is False:
        return without_winograd(*call, "Winograd is switched off", why_dw)
    if winograd is None and min(C, K) < CHANNELS:
        why = f"{min(C, K)} channels are too few for Winograd's transforms to pay (from {CHANNELS})"
        return without_winograd(*call, why, why_dw)
    if winograd is None and count < PATCHES:
        why = f"{count} patches of 4 x 4 do not repay transforming the filters (from {PATCHES})"
        return without_winograd(*call, why, why_dw)
    m = winograd or 4
    saved = "a quarter" if m == 4 else "4/9"
    why = f"F({m} x {m}, 3 x 3): {saved} of the multiplications; {count} patches of 4 x 4"
    way: Way = "winograd4" if m == 4 else "winograd2"
    return Methods(way, why, way, why, "pixels x taps", why_dw)


def prepared_patches(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int,
    winograd: Winograd = None,
) -> Literal[2, 4] | None:  # fmt: skip
    """Return the size of Winograd's patches where the filters are transformed once for many calls.

    None where another method is faster. The rule is the same: where patches are few, reading the values,
    which are more than the filters, is all that counts.
    """
    off = winograd is False or not _winograd.get()
    if off or 0 in x or no_winograd(w, stride, padding, dilation, groups):
        return None
    if winograd is None and (min(w[:2]) < CHANNELS or patches(x, padding) < PATCHES):
        return None
    return winograd or 4


def patches(x: tuple[int, ...], padding: Pair) -> int:
    """Return the number of 4 x 4 patches in the result of a 3 x 3 convolution."""
    P, Q = (out_length(n, 3, 1, p, 1) for n, p in zip(x[2:], padding))
    return x[0] * -(-P // 4) * -(-Q // 4)


def describe(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int,
    winograd: Winograd = None,
) -> dict[str, str]:  # fmt: skip
    """Return a line per pass: the method and its reason."""
    if 0 in x:
        return dict.fromkeys(("forward", "dx", "dw"), f"nothing to multiply: x is empty, {x}")
    m = methods(tuple(x), tuple(w), stride, padding, dilation, groups, winograd)
    return {
        "forward": f"{NAMES[m.forward]}: {m.why_forward}",
        "dx": f"{NAMES[m.dx]}: {m.why_dx}",
        "dw": f"{m.dw}: {m.why_dw}",
    }
