"""The layout behind the tuned convolution: in flat, padded planes every filter tap is one fixed offset.

Write an image with its zero border into rows of one width Wq, one row after the other. The input pixel under
filter position (r, s) of output pixel (p, q) then lies at (p Wq + q) + (r Wq + s): the same distance r Wq + s
from every output pixel. A convolution becomes a sum of shifted copies of long rows,

    y[k, :] = sum over taps t = (c, r, s) of w[k, t] x[offset[t] : offset[t] + L],

and no window is ever copied (no im2col). The few columns by which rows overhang are computed and thrown away.

- A stride (sh, sw) is undone by splitting the padded image into sh sw phase planes, each holding every sh-th
  row and sw-th column: inside a phase, neighbouring output pixels are again neighbours.
- Small images are laid side by side, `images` to a group, so that rows are long enough for vectors.
- Rows are rounded up to whole vectors of LANES elements; what lies behind them is zero.
"""

from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.shapes import Pair, out_shape

LANES = 16  # elements of a vector register of float32
SLOTS = 8  # workspaces that groups of images are dealt to
ROW = 1024  # elements: small images share a group until its rows are about this long


class Geometry(NamedTuple):
    """Sizes of one convolution, as kernels need them."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    sh: int
    sw: int
    ph: int
    pw: int
    phases_h: int  # phases that some filter row reads
    phases_w: int
    Wq: int  # width of a plane's row
    image: int  # elements of one image in a plane
    images: int  # images in a group
    plane: int  # elements of a plane: images * image, rounded up, plus a vector of zeros
    margin: int  # the largest tap offset inside a plane


def geometry(x: Array, w: Array, stride: Pair, padding: Pair) -> Geometry:
    """Return the sizes for input x (N, C, H, W) and filters w (K, C, R, S)."""
    (N, C, H, W), (_, _, R, S) = x.shape, w.shape
    (sh, sw), (ph, pw) = stride, padding
    _, K, P, Q = out_shape(x, w, stride, padding)
    Hq, Wq = P + (R - 1) // sh, Q + (S - 1) // sw
    images = max(1, min(N, ROW // (Hq * Wq)))
    groups = -(-N // images)
    if groups > SLOTS:  # the same number for every slot
        images = -(-N // round_up(groups, SLOTS))
    plane = round_up(images * Hq * Wq) + LANES
    margin = (R - 1) // sh * Wq + (S - 1) // sw
    return Geometry(
        N, C, H, W, K, R, S, P, Q, sh, sw, ph, pw, min(sh, R), min(sw, S), Wq, Hq * Wq, images, plane, margin
    )


def round_up(n: int, step: int = LANES) -> int:
    """Return n rounded up to a multiple of ``step``."""
    return -(-n // step) * step


def input_offsets(g: Geometry) -> Array:
    """Return the offset of each tap (c, r, s), padded to a multiple of 4 taps (whose weights are zero)."""
    c, r, s = np.ogrid[: g.C, : g.R, : g.S]
    phase = (c * g.phases_h + r % g.sh) * g.phases_w + s % g.sw
    return padded_taps((phase * g.plane + r // g.sh * g.Wq + s // g.sw).reshape(-1))


def gradient_offsets(g: Geometry, a: int, b: int) -> Array:
    """Return, for the taps (k, r, s) of input phase (a, b), their offsets in the planes of dy."""
    k, r, s = np.ogrid[: g.K, a : g.R : g.sh, b : g.S : g.sw]
    behind = r // g.sh * g.Wq + s // g.sw
    return padded_taps((k * (g.plane + g.margin) + g.margin - behind).reshape(-1))


def padded_taps(offsets: Array) -> Array:
    """Return offsets as unsigned integers, padded to a multiple of 4."""
    return np.pad(offsets, (0, -len(offsets) % 4)).astype(np.uint64)


def padded_matrix(w: Array) -> Array:
    """Return a matrix with zero rows and columns added up to multiples of 4, flat."""
    rows, columns = w.shape
    if rows % 4 == 0 and columns % 4 == 0:
        return np.ascontiguousarray(w).reshape(-1)
    wide = np.zeros((round_up(rows, 4), round_up(columns, 4)), w.dtype)
    wide[:rows, :columns] = w
    return wide.reshape(-1)


@jit_elementwise
def pack_input(x: Array, g: Geometry, first: int, src: Array) -> None:
    """Write images ``first`` ... of x (flat) with their zero border into the phase planes ``src`` (flat)."""
    src[:] = 0
    U = np.uint64
    for c in range(g.C):
        for a in range(g.phases_h):
            for b in range(g.phases_w):
                plane = ((c * g.phases_h + a) * g.phases_w + b) * g.plane
                for m in range(min(g.images, g.N - first)):
                    for i in range(g.image // g.Wq):
                        h = i * g.sh + a - g.ph
                        if h < 0 or h >= g.H:
                            continue
                        # Columns j with 0 <= j sw + b - pw < W.
                        low = max(0, (g.pw - b + g.sw - 1) // g.sw)
                        high = min(g.Wq, (g.W - 1 + g.pw - b) // g.sw + 1)
                        to = U(plane + m * g.image + i * g.Wq + low)
                        at = U((((first + m) * g.C + c) * g.H + h) * g.W + low * g.sw + b - g.pw)
                        step = U(g.sw)
                        for j in range(U(max(0, high - low))):
                            src[to + j] = x[at + j * step]


@jit_elementwise
def pack_gradient(dy: Array, g: Geometry, first: int, lead: int, out: Array) -> None:
    """Write dy of the group's images into planes of width Wq, ``lead`` zeros in front, zeros around."""
    out[:] = 0
    U = np.uint64
    for k in range(g.K):
        for m in range(min(g.images, g.N - first)):
            for p in range(g.P):
                to = U(k * (g.plane + lead) + lead + m * g.image + p * g.Wq)
                at = U((((first + m) * g.K + k) * g.P + p) * g.Q)
                for q in range(U(g.Q)):
                    out[to + q] = dy[at + q]


@jit_elementwise
def unpack_output(out: Array, g: Geometry, first: int, y: Array) -> None:
    """Copy the valid pixels of the K result planes into the group's images of y (flat)."""
    U = np.uint64
    for m in range(min(g.images, g.N - first)):
        for k in range(g.K):
            for p in range(g.P):
                at = U(k * g.plane + m * g.image + p * g.Wq)
                to = U((((first + m) * g.K + k) * g.P + p) * g.Q)
                for q in range(U(g.Q)):
                    y[to + q] = out[at + q]


@jit_elementwise
def unpack_input_gradient(planes: Array, a: int, b: int, g: Geometry, first: int, dx: Array) -> None:
    """Copy the planes (C of them) of phase (a, b) into the group's images of dx, dropping the border."""
    U = np.uint64
    for m in range(min(g.images, g.N - first)):
        for c in range(g.C):
            for i in range(g.image // g.Wq):
                h = i * g.sh + a - g.ph
                if h < 0 or h >= g.H:
                    continue
                low = max(0, (g.pw - b + g.sw - 1) // g.sw)
                high = min(g.Wq, (g.W - 1 + g.pw - b) // g.sw + 1)
                at = U(c * g.plane + m * g.image + i * g.Wq + low)
                to = U((((first + m) * g.C + c) * g.H + h) * g.W + low * g.sw + b - g.pw)
                step = U(g.sw)
                for j in range(U(max(0, high - low))):
                    dx[to + j * step] = planes[at + j]


def slot_count(g: Geometry) -> int:
    """Return the number of slots that the groups are dealt to (see ``tuned``)."""
    return min(-(-g.N // g.images), SLOTS)


def flat(a: Any) -> Array:
    """Return a contiguous array as one row."""
    row: Array = a.reshape(-1)
    return row
