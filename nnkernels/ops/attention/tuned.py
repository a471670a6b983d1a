"""Some queries of one head at a time: their scores stay in the L2 cache, and are never written to memory.

Scores are a product of the micro-kernel with the head's keys, packed transposed; then come powers and sums
of rows; then the product with the values as they lie. Backward computes the scores anew from the logarithm
of each row's sum. With is_causal, keys behind a block's last query are not looked at.

Bound: 2 N L S (E + F) FLOPs forward, five products instead of two backward; a power for each score. Tasks:
blocks of queries forward, heads backward (dk and dv add up over a head's queries).

Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, NeurIPS 2022.
"""

from typing import Any, cast

import numpy as np

from nnkernels.machine.elementary import exp
from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import flag, jit_elementwise, jit_parallel, prange, signed, typed
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.machine.simd import VECTORS, U, lanes, lanes_of
from nnkernels.ops.attention.shapes import Call, Grads, Inputs, Needs, Outputs, call_of
from nnkernels.ops.matmul.gemm import SERIAL_BELOW, row_offsets
from nnkernels.ops.matmul.micro import MR, block_product
from nnkernels.ops.matmul.packing import pack_b
from nnkernels.ops.reduce.tuned import row_sums
from nnkernels.ops.reduce.tuned_max import row_maxima
from nnkernels.ops.softmax import row_dots

ROWS = 32  # queries of a block: 128 KiB of float32 scores for 1000 keys


@jit_elementwise
def pack_keys(n: int, k: Array, S: int, E: int, panels: Array, to: U) -> None:
    """Write the transpose of head n's rows k (S, E) to panels from ``to`` on."""
    pack_b(k, U(n * S * E), U(1), U(E), E, S, panels, to)


@jit_elementwise
def set_scores(
    q: Array, at: U, rows: int, E: int, panels: Array, panel: U, offsets: Array, first: int, cols: int,
    bias: Array, b: U, pitch: int, causal: bool, scale: Any, s: Array,
) -> None:  # fmt: skip
    """Write the scores of queries first ... with cols keys; ``pitch`` is 0 for a bias of one row."""
    product(
        q, at, U(E), U(1), rows, panels, panel, VECTORS * lanes_of(s) * E, offsets, cols, E, s, U(0),
        flag(False),
    )  # fmt: skip
    for r in range(rows):
        p, c = U(r * cols), b + U((first + r) * pitch)
        for j in range(U(cols)):
            s[p + j] = s[p + j] * scale + bias[c + j]
        if causal:
            for j in range(p + U(min(first + r + 1, cols)), p + U(cols)):
                s[j] = -np.inf


@jit_elementwise
def product(
    a: Array, i: U, a_row: U, a_col: U, M: int, b: Array, j: U, b_panel: int, at: Array, N: int, K: int,
    y: Array, p: U, add: bool,
) -> None:  # fmt: skip
    """Write the (M, K) numbers of a times the rows of b, (K, N), to y[p:] with rows of N, or add it."""
    block_product(
        a, i, MR * signed(a_row), a_row, a_col, M, b, j, b_panel, at, N, K, signed(1), U(0), U(0),
        y, p, U(N), add,
    )  # fmt: skip


@jit_elementwise
def set_powers(s: Array, cols: int, lse: Array, total: Array) -> None:
    """Turn scores into e^(s - largest of the row); write each row's sum, and the logarithm of sums of e^s."""
    row_maxima(s, cols, lse)
    for r in range(lse.size):
        top, p = lse[r], U(r * cols)
        if top == -np.inf:
            for j in range(U(cols)):
                s[p + j] = 0
        else:
            for j in range(U(cols)):
                s[p + j] = exp(s[p + j] - top)
    row_sums(s, cols, typed(1, s[0]), total)
    for r in range(lse.size):
        if lse[r] == -np.inf:  # a query that sees no key: its y is 0, and so is e^(s - lse) backward
            lse[r], total[r] = np.inf, 1
        else:
            lse[r] += ln(total[r])


@jit_elementwise
def multiply(s: Array, cols: int, keep: Array, at: U, S: int) -> None:
    for r in range(s.size // cols):
        p, c = U(r * cols), at + U(r * S)
        for j in range(U(cols)):
            s[p + j] *= keep[c + j]


@jit_elementwise
def forward_block(
    task: int, q: Array, k: Array, v: Array, bias: Array, of: Array, keep: Array, causal: bool, scale: Any,
    sizes: Any, panels: Array, tables: Any, y: Array, lse: Array,
) -> None:  # fmt: skip
    """Write y and lse of one block of queries."""
    L, S, E, F, m, size = sizes
    blocks = (L + ROWS - 1) // ROWS
    n, first = task // blocks, task % blocks * ROWS
    rows, here = min(ROWS, L - first), n * L + first
    cols = min(S, first + rows) if causal else S
    s, total = np.empty(rows * cols, q.dtype), np.empty(rows, q.dtype)
    set_scores(
        q, U(here * E), rows, E, panels, U(n * size * E), tables[0], first, cols, bias, U(of[n] * m * S),
        S if m > 1 else 0, causal, scale, s,
    )  # fmt: skip
    set_powers(s, cols, lse[here : here + rows], total)
    if keep.size > 0:
        multiply(s, cols, keep, U(here * S), S)
    wide = VECTORS * lanes_of(s)
    product(
        s, U(0), U(cols), U(1), rows, v, U(n * S * F), wide, tables[3], F, cols, y, U(here * F), flag(False)
    )
    for r in range(rows):
        p, over = U((here + r) * F), typed(1, total[r]) / total[r]
        for f in range(U(F)):
            y[p + f] *= over


@jit_elementwise
def set_gradients(s: Array, cols: int, rows: int, lse: Array, mean: Array, scale: Any, ds: Array) -> None:
    """Turn scores into probabilities p, and ds, which comes as dp, into p (dp - mean) scale."""
    for r in range(rows):
        p, shift, m = U(r * cols), lse[r], mean[r]
        for j in range(U(cols)):
            s[p + j] = exp(s[p + j] - shift)
        for j in range(U(cols)):
            ds[p + j] = s[p + j] * (ds[p + j] - m) * scale


@jit_elementwise
def backward_head(
    n: int, dy: Array, y: Array, lse: Array, q: Array, k: Array, v: Array, bias: Array, of: Array,
    keep: Array, causal: bool, scale: Any, sizes: Any, tables: Any, dq: Array, dk: Array, dv: Array,
) -> None:  # fmt: skip
    """Write dq of one head; add to its dk and dv, zeros at first. Gradients not needed are empty."""
    L, S, E, F, m, size = sizes
    wide, to = VECTORS * lanes_of(dy), U(size * E)
    panels = np.empty(size * (E + F), dy.dtype)
    pack_keys(n, k, S, E, panels, U(0))
    pack_keys(n, v, S, F, panels, to)
    scores, slopes = np.empty(ROWS * S, dy.dtype), np.empty(ROWS * S, dy.dtype)
    mean = np.empty(ROWS, dy.dtype)
    for first in range(0, L, ROWS):
        rows, here = min(ROWS, L - first), n * L + first
        cols = min(S, first + rows) if causal else S
        s, ds = scores[: rows * cols], slopes[: rows * cols]
        at_q, at_y, at_k, at_v = U(here * E), U(here * F), U(n * S * E), U(n * S * F)
        set_scores(
            q, at_q, rows, E, panels, U(0), tables[0], first, cols, bias, U(of[n] * m * S),
            S if m > 1 else 0, causal, scale, s,
        )  # fmt: skip
        product(dy, at_y, U(F), U(1), rows, panels, to, wide * F, tables[1], cols, F, ds, U(0), flag(False))
        if keep.size > 0:
            multiply(ds, cols, keep, U(here * S), S)
        row_dots(dy[here * F : (here + rows) * F], y[here * F : (here + rows) * F], F, mean[:rows])
        set_gradients(s, cols, rows, lse[here : here + rows], mean, scale, ds)
        if keep.size > 0:
            multiply(s, cols, keep, U(here * S), S)
        if dq.size > 0:
            product(ds, U(0), U(cols), U(1), rows, k, at_k, wide, tables[2], E, cols, dq, at_q, flag(False))
        if dk.size > 0:
            product(ds, U(0), U(1), U(cols), cols, q, at_q, wide, tables[2], E, rows, dk, at_k, flag(True))
        if dv.size > 0:
            product(s, U(0), U(1), U(cols), cols, dy, at_y, wide, tables[3], F, rows, dv, at_v, flag(True))


@jit_elementwise
def forward_serial(
    N: int, tasks: int, q: Array, k: Array, v: Array, bias: Array, of: Array, keep: Array, causal: bool,
    scale: Any, sizes: Any, panels: Array, tables: Any, y: Array, lse: Array,
) -> None:  # fmt: skip
    for n in range(N):
        pack_keys(n, k, sizes[1], sizes[2], panels, U(n * sizes[5] * sizes[2]))
    for task in range(tasks):
        forward_block(task, q, k, v, bias, of, keep, causal, scale, sizes, panels, tables, y, lse)


@jit_parallel
def forward_parallel(
    N: int, tasks: int, q: Array, k: Array, v: Array, bias: Array, of: Array, keep: Array, causal: bool,
    scale: Any, sizes: Any, panels: Array, tables: Any, y: Array, lse: Array,
) -> None:  # fmt: skip
    for n in prange(N):
        pack_keys(signed(n), k, sizes[1], sizes[2], panels, U(n * sizes[5] * sizes[2]))
    for task in prange(tasks):
        forward_block(signed(task), q, k, v, bias, of, keep, causal, scale, sizes, panels, tables, y, lse)


@jit_elementwise
def backward_serial(
    N: int, dy: Array, y: Array, lse: Array, q: Array, k: Array, v: Array, bias: Array, of: Array,
    keep: Array, causal: bool, scale: Any, sizes: Any, tables: Any, dq: Array, dk: Array, dv: Array,
) -> None:  # fmt: skip
    for n in range(N):
        backward_head(n, dy, y, lse, q, k, v, bias, of, keep, causal, scale, sizes, tables, dq, dk, dv)


@jit_parallel
def backward_parallel(
    N: int, dy: Array, y: Array, lse: Array, q: Array, k: Array, v: Array, bias: Array, of: Array,
    keep: Array, causal: bool, scale: Any, sizes: Any, tables: Any, dq: Array, dk: Array, dv: Array,
) -> None:  # fmt: skip
    for n in prange(N):
        backward_head(
            signed(n), dy, y, lse, q, k, v, bias, of, keep, causal, scale, sizes, tables, dq, dk, dv
        )  # fmt: skip


def flat(call: Call) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[Array, ...]]:
    """Return the arrays flat with the attributes, the sizes, and offsets of rows."""
    q, k, v, bias, of, keep = call[:6]
    (_, L, E), (_, S, F) = q.shape, v.shape
    NR = VECTORS * lanes(q.dtype)
    deep = max(S, ROWS)
    tables = row_offsets(E, NR), row_offsets(F, NR), row_offsets(deep, E), row_offsets(deep, F)
    arrays = [a.reshape(-1) for a in (q, k, v, bias)]
    given = (*arrays, of, keep.reshape(-1), call.causal, q.dtype.type(call.scale))
    return given, (L, S, E, F, bias.shape[1], -(-S // NR) * NR), tables


def attention_forward_tuned(*inputs: Array | None, **attributes: Any) -> Outputs:
    call = call_of(*cast(Inputs, inputs), **attributes)
    given, sizes, tables = flat(call)
    (L, S, E, F, _, size), N, dtype = sizes, len(call.q), call.q.dtype
    lead = cast(Inputs, inputs)[0].shape[:-1]
    if N * L * S == 0:
        return zeros((*lead, F), dtype), np.full(lead, np.inf, dtype)
    y, lse, panels = empty((*lead, F), dtype), empty(lead, dtype), empty((N * size * E,), dtype)
    run: Any = forward_serial if N * L * S * (E + F) < SERIAL_BELOW else forward_parallel
    run(N, N * -(-L // ROWS), *given, sizes, panels, tables, y.reshape(-1), lse.reshape(-1))
    return y, lse


def attention_backward_tuned(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, **attributes: Any
) -> Grads:
    call = call_of(*inputs, **attributes)
    given, sizes, tables = flat(call)
    (L, S, E, F, _, _), N = sizes, len(call.q)
    # dk and dv are added to, block after block; dq is written, except where there is nothing to do.
    makers = empty if N * L * S > 0 else zeros, zeros, zeros
    grads = [make(a.shape if need else (0,), dy.dtype) for make, a, need in zip(makers, inputs[:3], needs)]
    if N * L * S > 0:
        run: Any = backward_serial if N * L * S * (E + F) < SERIAL_BELOW else backward_parallel
        arrays = (a.reshape(-1) for a in (dy, *outputs))
        run(N, *arrays, *given, sizes, tables, *(g.reshape(-1) for g in grads))
    shaped = [g if need else None for g, need in zip(grads, needs)]
    return (*shaped, *(None,) * (len(inputs) - 3))
