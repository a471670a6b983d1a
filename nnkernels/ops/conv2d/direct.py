"""conv2d forward and dx, directly: sums of shifted rows (see ``planes``) in the matrix product's tiles.

    forward  y[k]  = sum over taps of w[k, t] x[t]         rows: K filters, taps (c, r, s)
    dx       dx[c] = sum over taps of w[t, c] dy[t]        rows: C channels, taps (k, r, s) read backwards

A task is one chunk of rows of one image: it packs the input rows it needs and computes all channels, MR at a
time. Every result is computed by one task alone, so nothing depends on the number of threads.

Bound: 2 N K C R S P Q FLOPs each; of the pixels computed, Q / pitch are useful.
"""

import numpy as np

from nnkernels.machine.jit import jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.machine.simd import VECTORS, U, lanes_of
from nnkernels.ops.conv2d.planes import (
    Correlation, Plan, forward_plan, gradient_plans, pack_planes, unpack_rows,
)  # fmt: skip
from nnkernels.ops.conv2d.shapes import Pair
from nnkernels.ops.matmul.micro import MR, block_product

SLOTS = 8  # workspaces that tasks are dealt to
SERIAL_BELOW = 600_000  # multiply-adds: less than a second thread costs


@jit_tuned
def correlate_chunk(
    x: Array, w: Array, b: Array, offsets: Array, g: Correlation, n: int, first: int,
    planes: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    """Compute the rows from ``first`` on of image n of the result."""
    rows = min(g.rows, g.P - first)
    length = rows * g.pitch
    src, base = x, n * g.C * g.H * g.W + first * g.W
    if g.packed:
        pack_planes(x, g, n, first, planes)
        src, base = planes, 0
    channels, filters, T = g.C // g.groups * g.phases_h * g.phases_w, g.K // g.groups, offsets.size
    for group in range(g.groups):
        j = U(base + group * channels * g.plane)
        for k in range(group * filters, (group + 1) * filters, MR):
            m = min(MR, (group + 1) * filters - k)
            block_product(
                w, U(k * T), 0, U(T), U(1), m, src, j, VECTORS * lanes_of(y), offsets,
                length - g.pitch + g.Q, T, sums, U(0), U(length), False,
            )  # fmt: skip
            unpack_rows(sums, b, g, n, k, m, first, rows, y)


@jit_tuned
def correlate_slot(
    slot: int, slots: int, x: Array, w: Array, b: Array, offsets: Array, g: Correlation,
    planes: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    chunks = (g.P + g.rows - 1) // g.rows
    for task in range(slot, g.N * chunks, slots):
        n, first = task // chunks, task % chunks * g.rows
        correlate_chunk(x, w, b, offsets, g, n, first, planes, sums, y)


@jit_parallel
def correlate_parallel(
    x: Array, w: Array, b: Array, offsets: Array, g: Correlation, planes: Array, sums: Array, y: Array
) -> None:
    for slot in prange(len(sums)):
        correlate_slot(slot, len(sums), x, w, b, offsets, g, planes[slot], sums[slot], y)


def correlate(plan: Plan, x: Array, w: Array, b: Array, y: Array) -> None:
    """Write the correlation of x with the filters w to the pixels of y that the plan names."""
    g = plan.sizes
    tasks = g.N * -(-g.P // g.rows)
    work = g.N * g.P * g.Q * w.size
    slots = 1 if work < SERIAL_BELOW else min(SLOTS, tasks)
    planes = empty((slots, g.C * g.phases_h * g.phases_w * g.plane if g.packed else 0), x.dtype)
    sums = empty((slots, MR * g.rows * g.pitch), x.dtype)
    x, w, y = x.reshape(-1), w.reshape(-1), y.reshape(-1)
    if slots == 1:
        correlate_slot(0, 1, x, w, b, plan.offsets, g, planes[0], sums[0], y)
    else:
        correlate_parallel(x, w, b, plan.offsets, g, planes, sums, y)


def forward(
    x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:  # fmt: skip
    """Return y (N, K, P, Q)."""
    plan = forward_plan(x.shape, w.shape, stride, padding, dilation, groups)
    g = plan.sizes
    y = empty((g.N, g.K, g.P, g.Q), x.dtype)
    if y.size:
        correlate(plan, x, w, np.zeros(g.K, x.dtype) if b is None else b, y)
    return y


def input_gradient(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return dx (N, C, H, W)."""
    plans = gradient_plans(x.shape, w.shape, stride, padding, dilation, groups)
    covered = stride == (1, 1) and len(plans) == 1
    dx = (empty if covered else zeros)(x.shape, x.dtype)  # pixels that no window reads keep 0
    if not dy.size:
        dx.fill(0)
        return dx
    K, C, _, _ = w.shape
    by_channel = w.reshape(groups, K // groups, C, *w.shape[2:]).transpose(0, 2, 1, 3, 4)
    no_bias = np.zeros(x.shape[1], x.dtype)
    for plan in plans:
        taps = by_channel[..., plan.filter_rows[:, None], plan.filter_columns]
        correlate(plan, dy, np.ascontiguousarray(taps), no_bias, dx)
    return dx
