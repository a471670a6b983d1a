"""All steps on a GPU: in one launch where few blocks can do them, else in a launch per step.

What depends on x alone is one product over all steps, and so are the gradients of the weights, as in
``tuned``. A step is a product of rows with w_hh, and the cell. Neighbouring threads have neighbouring hidden
units, so that reads of the weights and of all states are coalesced. ``slices`` of a block share the terms of
a sum, ``share`` for each, and meet in shared memory:

    block (x, y)     sequences x rows ... (x + 1) rows - 1 and units y width ... (y + 1) width - 1
    thread (i, s)    unit i, slice s: for ``rows`` sequences, and in forward all gates

One launch: a block has one sequence and all units, since steps of other sequences do not concern it. It
reads all of w_hh at each step; the bound is what one multiprocessor gets from the L2 cache, about 100 GB/s.
A launch per step: a block has 8 sequences and 32 units, so that w_hh is read once for 8 sequences. That pays
where one block would read for longer than a launch takes, 10 to 20 us; the bound is the L2 cache as a whole.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numba

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like
from nnkernels.machine.gpu_kernel import Expected, at, ceil_div, cuda, kernel
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.linear_cuda import linear_backward_cuda, linear_forward_cuda
from nnkernels.ops.op import Body
from nnkernels.ops.recurrent.shapes import (
    GATES,
    GRU,
    KEPT,
    LSTM,
    RELU,
    Call,
    Grads,
    Inputs,
    Outputs,
    as_states,
    call_of,
    gradients,
    results,
)
from nnkernels.ops.shape_cuda import gathered

wide = numba.uint64  # an index that the compiler may step through memory: in 32 bits it might wrap around
LANES = 32
ROWS = 8  # sequences of a block where there is a launch per step
PARTIALS = 4096  # sums that a block exchanges: its threads times the sums of each
THREADS_MOST = 512  # of a block
MANY = Expected(registers=128)  # as many as so many threads can have: sums, and loads on their way
MOST_AT_ONCE = 1 << 18  # elements of w_hh up to which one block does all steps of a sequence,
MOST_READ = 1 << 24  # and elements read by all blocks at each step


def sigmoid(x: Any) -> Any:
    return typed(1, x) / (typed(1, x) + math.exp(-x))


@cache
def make_forward(cell: int, rows: int) -> Any:
    """Return the kernel for a kind of cell and ``rows`` sequences per block."""
    G = GATES[cell]
    S = G * rows  # sums of a thread

    @kernel(expected=MANY, launch_bounds=(THREADS_MOST, 1))
    def forward_kernel(
        a: Array, w: Array, b_hh: Array, h0: Array, c0: Array, states: Array, kept: Array, numbers: Any
    ) -> None:
        """Do steps ``first`` to ``stop`` - 1. a holds the products with x, w is w_hh transposed."""
        T, B, H, reverse, first, stop, share = numbers
        partial = cuda.shared.array(PARTIALS, a.dtype)
        sums = cuda.local.array(S, a.dtype)
        row_at = cuda.local.array(rows, numba.int64)
        weights, z = cuda.local.array(G, a.dtype), cuda.local.array(G, a.dtype)
        unit, part = cuda.threadIdx.x, cuda.threadIdx.y
        width, slices = cuda.blockDim.x, cuda.blockDim.y
        j = cuda.blockIdx.y * width + unit
        first_row, cells = cuda.blockIdx.x * rows, T * B * H
        for step in range(first, stop):
            t = T - 1 - step if reverse else step
            h = h0 if step == 0 else states  # of the step before
            h_at = 0 if step == 0 else (t + 1 if reverse else t - 1) * B * H
            for i in range(S):
                sums[i] = a.dtype.type(0)
            for r in range(rows):
                row_at[r] = h_at + min(first_row + r, B - 1) * H  # beyond the last row, that again
            k, k_stop = part * share, min((part + 1) * share, H) if j < H else 0
            w_at = k * G * H + j
            while k < k_stop:  # a range, and products in the indices, would take twice the instructions
                for g in range(G):
                    weights[g] = w[wide(w_at + g * H)]
                for r in range(rows):
                    value = h[wide(row_at[r] + k)]
                    for g in range(G):
                        sums[g * rows + r] += weights[g] * value
                k += 1
                w_at += G * H
            for i in range(S):
                partial[at((i * slices + part) * width + unit)] = sums[i]
            cuda.syncthreads()
            row = part
            while row < rows:
                b = first_row + row
                if b < B and j < H:
                    for g in range(G):
                        z[g] = b_hh[at(g * H + j)]
                        for s in range(slices):
                            z[g] += partial[at(((g * rows + row) * slices + s) * width + unit)]
                    here = t * B + b
                    now, p, q = here * H + j, here * G * H + j, here * 4 * H + j
                    before = h_at + b * H + j
                    if cell == LSTM:
                        i_gate, f_gate = sigmoid(a[at(p)] + z[0]), sigmoid(a[at(p + H)] + z[1])
                        new, o_gate = math.tanh(a[at(p + 2 * H)] + z[2]), sigmoid(a[at(p + 3 * H)] + z[3])
                        kept[at(q)], kept[at(q + H)] = i_gate, f_gate
                        kept[at(q + 2 * H)], kept[at(q + 3 * H)] = new, o_gate
                        c = c0[at(before)] if step == 0 else states[at(cells + before)]
                        c = f_gate * c + i_gate * new
                        states[at(cells + now)] = c
                        states[at(now)] = o_gate * math.tanh(c)
                    elif cell == GRU:
                        reset, keep = sigmoid(a[at(p)] + z[0]), sigmoid(a[at(p + H)] + z[1])
                        new = math.tanh(a[at(p + 2 * H)] + reset * z[2])
                        kept[at(q)], kept[at(q + H)] = reset, keep
                        kept[at(q + 2 * H)], kept[at(q + 3 * H)] = new, z[2]
                        states[at(now)] = new + keep * (h[at(before)] - new)
                    elif cell == RELU:
                        x = a[at(p)] + z[0]
                        states[at(now)] = a.dtype.type(0) if x <= a.dtype.type(0) else x
                    else:
                        states[at(now)] = math.tanh(a[at(p)] + z[0])
                row += slices
            cuda.syncthreads()  # before the next step reads h, and overwrites the sums

    return forward_kernel


@cache
def make_backward(cell: int, rows: int) -> Any:
    """Return the kernel for a kind of cell and ``rows`` sequences per block."""
    G = GATES[cell]

    @kernel(expected=MANY, launch_bounds=(THREADS_MOST, 1))
    def backward_kernel(
        dy: Array, w: Array, past_states: Array, states: Array, kept: Array, da: Array, dz: Array, dh: Array,
        dc: Array, numbers: Any,
    ) -> None:  # fmt: skip
        """Go back from the end of step ``first`` to that of ``stop``; step T is behind the last one.

        At each: from dz of the step that follows to the gradient of h, and through the cell to da and dz. At
        0 there is no cell: that gradient is h0's. Between the steps, dh holds what goes straight from h to h
        (gru), dc the gradient of c (lstm). past_states are the cells' states before each step: c or h.
        """
        T, B, H, reverse, first, stop, share = numbers
        partial = cuda.shared.array(PARTIALS, dy.dtype)
        sums, row_at = cuda.local.array(rows, dy.dtype), cuda.local.array(rows, numba.int64)
        zero, one = dy.dtype.type(0), dy.dtype.type(1)
        unit, part = cuda.threadIdx.x, cuda.threadIdx.y
        width, slices = cuda.blockDim.x, cuda.blockDim.y
        j = cuda.blockIdx.y * width + unit
        first_row, cells = cuda.blockIdx.x * rows, T * B * H
        for turn in range(first - stop + 1):
            step = first - turn
            t = T - step if reverse else step - 1  # of the step that ends here
            after = t - 1 if reverse else t + 1
            for i in range(rows):
                sums[i] = zero
            for r in range(rows):
                row_at[r] = (after * B + min(first_row + r, B - 1)) * G * H
            k, k_stop = part * share, min((part + 1) * share, G * H) if j < H and step < T else 0
            w_at = k * H + j
            while k < k_stop:
                weight = w[wide(w_at)]
                for r in range(rows):
                    sums[r] += weight * dz[wide(row_at[r] + k)]
                k += 1
                w_at += H
            for i in range(rows):
                partial[at((i * slices + part) * width + unit)] = sums[i]
            cuda.syncthreads()
            row = part
            while row < rows:
                b = first_row + row
                if b < B and j < H:
                    state, here = b * H + j, t * B + b
                    d = dh[at(state)] if cell == GRU and step < T else zero
                    for s in range(slices):
                        d += partial[at((row * slices + s) * width + unit)]
                    if step == 0:
                        dh[at(state)] = d
                    else:
                        now, p, q = here * H + j, here * G * H + j, here * 4 * H + j
                        d += dy[at(now)]
                        if cell == LSTM:
                            i_gate, f_gate = kept[at(q)], kept[at(q + H)]
                            new, o_gate = kept[at(q + 2 * H)], kept[at(q + 3 * H)]
                            c = math.tanh(states[at(cells + now)])
                            e = dc[at(state)] if step < T else zero
                            e += dy[at(cells + now)] + d * o_gate * (one - c * c)
                            da[at(p)] = e * new * i_gate * (one - i_gate)
                            da[at(p + H)] = e * past_states[at(now)] * f_gate * (one - f_gate)
                            da[at(p + 2 * H)] = e * i_gate * (one - new * new)
                            da[at(p + 3 * H)] = d * c * o_gate * (one - o_gate)
                            dc[at(state)] = e * f_gate
                        elif cell == GRU:
                            reset, keep = kept[at(q)], kept[at(q + H)]
                            new, inner = kept[at(q + 2 * H)], kept[at(q + 3 * H)]
                            e = d * (one - keep) * (one - new * new)
                            d_reset = e * inner * reset * (one - reset)
                            d_keep = d * (past_states[at(now)] - new) * keep * (one - keep)
                            da[at(p)] = dz[at(p)] = d_reset
                            da[at(p + H)] = dz[at(p + H)] = d_keep
                            da[at(p + 2 * H)], dz[at(p + 2 * H)] = e, e * reset
                            dh[at(state)] = d * keep
                        elif cell == RELU:
                            da[at(p)] = d if states[at(now)] > zero else zero
                        else:
                            da[at(p)] = d * (one - states[at(now)] * states[at(now)])
                row += slices
            cuda.syncthreads()  # before the next turn reads dz, and overwrites the sums

    return backward_kernel


class Grid(NamedTuple):
    """How a pass over all steps is cut."""

    rows: int
    blocks: tuple[int, int]
    threads: tuple[int, int]
    share: int
    steps: int  # of a launch


def grid_of(call: Call, sums: int, terms: int) -> Grid:
    """Return the grid for a pass in which a thread has ``sums`` per sequence, each of ``terms``."""
    T, B, H = call.sizes
    units, weights = ceil_div(H, LANES) * LANES, call.w_hh.size
    at_once = weights <= MOST_AT_ONCE and B * weights <= MOST_READ and units <= THREADS_MOST
    # A float64 takes two registers: half as many sums of it fit.
    rows, width, steps = (1, units, T + 1) if at_once else (4 * ROWS // call.x.itemsize, LANES, 1)
    slices = max(1, min(THREADS_MOST // width, PARTIALS // (width * rows * sums), terms // 4))
    return Grid(rows, (ceil_div(B, rows), units // width), (width, slices), ceil_div(terms, slices), steps)


def before_each_step(call: Call, states: GpuArray, first: GpuArray) -> GpuArray:
    """Return the states (T, B, H) before each step: those of the step before, and what came in."""
    T = len(states)
    made = empty_like(states)
    if call.reverse:
        made[: T - 1].copy_from(states[1:])
        made[T - 1 :].copy_from(first.reshape(1, *first.shape))
    else:
        made[:1].copy_from(first.reshape(1, *first.shape))
        made[1:].copy_from(states[: T - 1])
    return made


def make_cuda(op: str) -> Body:
    """Return the body."""

    def forward(*inputs: Any, **attributes: Any) -> Outputs:
        call: Any = call_of(op, inputs, attributes)
        cell, (T, B, H), G = call.cell, call.sizes, GATES[call.cell]
        dtype, device = call.x.dtype, call.x.device
        (a,) = linear_forward_cuda(call.x, call.w_ih, call.b_ih)
        w = gathered(call.w_hh, (0, (H, G * H), (1, H)))  # transposed
        states: Any = empty((call.states, T, B, H), dtype, device)
        kept: Any = empty((T, B, KEPT[cell] * H), dtype, device)
        rows, blocks, threads, share, steps = grid_of(call, G, H)
        step = make_forward(cell, rows)[blocks, threads]
        for s in range(0, T, steps):
            numbers = T, B, H, call.reverse, s, min(s + steps, T), share
            step(a, w, call.b_hh, call.h0, call.c0, states, kept, numbers)
        return results(call, states, kept)

    def backward(dy: Any, outputs: Any, inputs: Inputs, needs: tuple[bool, ...], **attributes: Any) -> Grads:
        call: Any = call_of(op, inputs, attributes)
        cell, (T, B, H), G = call.cell, call.sizes, GATES[call.cell]
        da = empty((T, B, G * H), dy.dtype, dy.device)
        dz = empty_like(da) if cell == GRU else da
        dh = empty_like(call.h0)
        dc = empty_like(call.c0) if cell == LSTM else dh
        states: Any = as_states(call, outputs[0]).reshape(call.states * T, B, H)
        h_before = before_each_step(call, states[:T], call.h0)
        past = before_each_step(call, states[T:], call.c0) if cell == LSTM else h_before
        rows, blocks, threads, share, steps = grid_of(call, 1, G * H)
        step = make_backward(cell, rows)[blocks, threads]
        for s in range(T, -1, -steps):
            numbers = T, B, H, call.reverse, s, max(s - steps + 1, 0), share
            step(dy, call.w_hh, past, states, outputs[1], da, dz, dh, dc, numbers)
        need_x, (need_w_ih, need_w_hh, *need_b) = needs[0], needs[1 + call.states :]
        need_b_ih, need_b_hh = (*need_b, False, False)[:2]
        of_x, of_h = (call.x, call.w_ih, call.b_ih), (h_before, call.w_hh, call.b_hh)
        dx, dw_ih, db_ih = linear_backward_cuda(da, (da,), of_x, (need_x, need_w_ih, need_b_ih))
        _, dw_hh, db_hh = linear_backward_cuda(dz, (dz,), of_h, (False, need_w_hh, need_b_hh))
        grads: Any = dx, dh, dc, dw_ih, dw_hh, db_ih, db_hh
        return gradients(call, needs, *grads)

    return Body(forward, backward)
