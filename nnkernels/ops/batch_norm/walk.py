"""Who takes which elements on a GPU, where every channel of x (N, C, ...) has sums of its own.

x is seen as N images of W columns of S positions; position s of column j of image n is element
(n W + j) S + s. There are two layouts:

    S long     a column is a channel; the threads of a block lie along its N S elements
    S short    every position is a column (W = C S, then S = 1, and ``width`` columns belong to a channel);
               the 32 lanes of a warp lie across 32 columns, so that they read neighbours in memory

The N S elements of a column are cut into parts of ``share`` elements. A block takes one part of ``across``
columns, and a thread every ``along``-th element of one column, PER_THREAD of them at a time.
"""

import math
from typing import Any

from numba import int32

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_index import divide
from nnkernels.machine.gpu_kernel import at, ceil_div, cuda, device_function, next_power_of_two
from nnkernels.machine.memory import Array

PER_THREAD = 8  # elements whose loads do not wait for each other
LANES = 32
MOST_THREADS = 256
SHORT = 8  # positions: from so many on, a channel's neighbours fill the 32 bytes that memory is read by
SMALL = 1 << 18  # elements: a tensor of that size stays in the L2 cache, however it is read
MOST_PARTS = 256
Plan = tuple[int, int, int, int, int, int, int, int, int]


def plan_for(x: GpuArray, ends: int | None = None) -> tuple[Plan, int, int]:
    """Return (N, W, S, width, across, share, along, step), the number of parts, and of threads of a block.

    step, the last two numbers of the plan, is ``along`` in images and positions.
    x is (N, C, ...); with ``ends`` it is (..., C), the last ``ends`` axes being the channels.
    """
    if ends is None:
        N, C, S = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    else:
        N, C, S = math.prod(x.shape[: x.ndim - ends]), math.prod(x.shape[x.ndim - ends :]), 1
    if x.size == 0:
        N, S = 0, 1
    width = S if S < SHORT and x.size > SMALL else 1
    W, S = C * width, S // width
    across = LANES if S == 1 else 1
    wanted = next_power_of_two(ceil_div(N * S, PER_THREAD // 2))
    along = min(MOST_THREADS // across, max(wanted, LANES // across))
    alone = width == 1 and 4 * PER_THREAD * along >= N * S  # then one block does all
    share = N * S if alone else max(2 * PER_THREAD * along, ceil_div(N * S, MOST_PARTS))
    parts = max(1, ceil_div(N * S, max(share, 1)))
    return (N, W, S, width, across, share, along, *divmod(along, S)), parts, across * along


def blocks_of(plan: Plan, parts: int) -> int:
    """Return the number of blocks."""
    return ceil_div(plan[1], plan[4]) * parts


@device_function
def start_of(plan: Plan) -> Any:
    """Return the thread's column, its part, its first element's number in the column, and the part's end."""
    N, W, S, _, across, share, _, _, _ = plan
    groups = divide(W + across - 1, across)
    part, row = divide(cuda.blockIdx.x, groups), divide(cuda.threadIdx.x, across)
    j = int32((cuda.blockIdx.x - part * groups) * across + cuda.threadIdx.x - row * across)
    first = int32(part * share)
    return j, part, int32(first + row), min(first + share, N * S) if j < W else 0


@device_function
def channel_of(j: int, plan: Plan) -> Any:
    """Return the channel of column j; of the last where there is no column j."""
    return divide(min(j, plan[1] - 1), plan[3])


@device_function
def image_and_position(q: int, plan: Plan) -> Any:
    """Return n and s of element q of a column."""
    n = divide(q, plan[2])
    return n, int32(q - n * plan[2])


@device_function
def next_places(q: int, last: int, n: int, s: int, plan: Plan, base: int, by: Any, places: Array) -> Any:
    """Write base + n by[0] + s by[1] for elements q, q + along ...; return n and s of what follows.

    Behind the end, the first element stands in for those that are not there.
    """
    for k in range(PER_THREAD):
        inside = q + k * plan[6] < last
        places[k] = base + n * by[0] + s * by[1] if inside else places[0]
        n, s = int32(n + plan[7]), int32(s + plan[8])
        if s >= plan[2]:
            n, s = int32(n + 1), int32(s - plan[2])
    return n, s


@device_function
def value_or(a: Array, i: int, default: Any) -> Any:
    """Return a[i], or ``default`` where a is empty: weights that were not given."""
    return a[at(i)] if a.size > 0 else default
