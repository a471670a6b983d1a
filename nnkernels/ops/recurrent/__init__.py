"""Recurrent nets: one layer, one direction, all steps. h_t follows from x_t and h_{t-1}, for t = 0 ... T-1.

    a = W_ih x_t + b_ih     z = W_hh h_{t-1} + b_hh     in blocks of H rows, one per gate:

    rnn    h_t = tanh(a + z), or max(a + z, 0)
    lstm   i, f, o = sigmoid(a_ifo + z_ifo)   g = tanh(a_g + z_g)       blocks i, f, g, o
           c_t = f c_{t-1} + i g              h_t = o tanh(c_t)
    gru    r, u = sigmoid(a_ru + z_ru)        n = tanh(a_n + r z_n)     blocks r, u, n
           h_t = (1 - u) n + u h_{t-1}

    x (T, B, I)   h0, c0 (B, H)   w_ih (G H, I)   w_hh (G H, H)   b_ih, b_hh (G H) or None
    y (T, B, H), all h_t; lstm: (2, T, B, H), all h_t, then all c_t

With reverse=True the steps go from t = T-1 down to 0, and y[t] still belongs to x[t]. Backward goes through
the steps in the other order (backpropagation through time).

Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; Cho et al., Learning Phrase
Representations using RNN Encoder-Decoder, EMNLP 2014. The layout of weights and blocks is PyTorch's.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.assemble import concatenate
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.linear import linear
from nnkernels.ops.op import BadInput, Mutant, Op, Sample
from nnkernels.ops.recurrent.cuda import make_cuda
from nnkernels.ops.recurrent.loops import make_loops
from nnkernels.ops.recurrent.shapes import CELLS, GATES, Inputs, Outputs
from nnkernels.ops.recurrent.tuned import make_tuned
from nnkernels.ops.recurrent.vectorized import jvp, make_vectorized
from nnkernels.ops.validate import choice, fail_type, floats, given, rank

# --- in ops ---


def recurrent_formula(op: str, x: Any, *rest: Any, nonlinearity: str = "tanh", reverse: bool = False) -> Any:
    states = 2 if op == "lstm" else 1
    h, c = rest[0], rest[states - 1]
    w_ih, w_hh, *biases = rest[states:]
    b_ih, b_hh = (*biases, None, None)[:2]
    H, T = h.shape[1], x.shape[0]
    hs: list[Any] = [None] * T
    cs: list[Any] = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        a, z = linear(x[t], w_ih, b_ih), linear(h, w_hh, b_hh)
        gates = [(a[:, g * H : (g + 1) * H], z[:, g * H : (g + 1) * H]) for g in range(GATES[CELLS[op]])]
        if op == "lstm":
            i, f, g, o = (p + q for p, q in gates)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        elif op == "gru":
            r, u = ((p + q).sigmoid() for p, q in gates[:2])
            n = (gates[2][0] + r * gates[2][1]).tanh()
            h = (1 - u) * n + u * h
        else:
            h = (a + z).tanh() if nonlinearity == "tanh" else (a + z).relu()
        hs[t], cs[t] = (s.reshape(1, *s.shape) for s in (h, c))
    y = concatenate(*hs, dim=0)
    if op != "lstm":
        return y
    return concatenate(*(s.reshape(1, *s.shape) for s in (y, concatenate(*cs, dim=0))), dim=0)


# --- records ---


def check(op: str, x: Array, states: dict[str, Array], *weights: Array | None, reverse: Any) -> None:
    w_ih, w_hh, b_ih, b_hh = weights
    h0 = states["h0"]
    floats(op, x=x, **states, w_ih=w_ih, w_hh=w_hh, **given(b_ih=b_ih, b_hh=b_hh))
    assert w_ih is not None
    assert w_hh is not None
    if not isinstance(reverse, bool):
        fail_type(op, "reverse", reverse, "a bool")
    rank(op, "x", x, 3, "(steps, batch, input_size)")
    rank(op, "h0", h0, 2, "(batch, hidden_size)")
    T, B, I = x.shape  # noqa: E741
    H, G = h0.shape[1], GATES[CELLS[op]]
    if 0 in (T, I, H):
        raise ValueError(f"{op}: there must be at least one step, one input and one hidden unit, got x "
                         f"{x.shape} and h0 {h0.shape}")  # fmt: skip
    wanted: dict[str, tuple[Array | None, tuple[int, ...]]] = {
        **{name: (state, (B, H)) for name, state in states.items()},
        "w_ih": (w_ih, (G * H, I)), "w_hh": (w_hh, (G * H, H)), "b_ih": (b_ih, (G * H,)),
        "b_hh": (b_hh, (G * H,)),
    }  # fmt: skip
    for name, (a, shape) in wanted.items():
        if a is not None and a.shape != shape:
            raise ValueError(f"{op}: {name} must have shape {shape} to go with x {x.shape} and h0 "
                             f"{h0.shape}, got {a.shape}")  # fmt: skip


def check_rnn(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
    nonlinearity: Any = "tanh", reverse: Any = False,
) -> None:  # fmt: skip
    check("rnn", x, {"h0": h0}, w_ih, w_hh, b_ih, b_hh, reverse=reverse)
    choice("rnn", "nonlinearity", nonlinearity, ("tanh", "relu"))


def check_lstm(
    x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None,
    b_hh: Array | None = None, *, reverse: Any = False,
) -> None:  # fmt: skip
    check("lstm", x, {"h0": h0, "c0": c0}, w_ih, w_hh, b_ih, b_hh, reverse=reverse)


def check_gru(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
    reverse: Any = False,
) -> None:  # fmt: skip
    check("gru", x, {"h0": h0}, w_ih, w_hh, b_ih, b_hh, reverse=reverse)


def sample(
    op: str, rng: np.random.Generator, dtype: Any, sizes: tuple[int, int, int, int], bias: bool = True,
    **attributes: Any,
) -> Sample:  # fmt: skip
    """Return a sample of T steps, B sequences, I inputs and H units."""
    T, B, I, H = sizes  # noqa: E741
    G, states = GATES[CELLS[op]] * H, 2 if op == "lstm" else 1
    scale = H**-0.5 if H > 4 else 1.0
    x = np.asarray(rng.standard_normal((T, B, I)), dtype)
    h0 = [np.asarray(rng.standard_normal((B, H)), dtype) for _ in range(states)]
    w = [np.asarray(rng.standard_normal((G, n)) * scale, dtype) for n in (I, H)]
    b = [np.asarray(rng.standard_normal(G), dtype) if bias else None for _ in range(2)]
    label = f"T {T}, B {B}, I {I}, H {H}" + ("" if bias else ", no bias")
    return Sample(label + (f" {attributes}" if attributes else ""), (x, *h0, *w, *b), attributes)


def make_op(op: str, checks: Any, mutants: tuple[tuple[str, Any, str, str], ...]) -> Op:
    """Return the record; mutants are (name, body, old, new)."""

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        extra: dict[str, Any] = {"nonlinearity": "relu"} if op == "rnn" else {}
        yield sample(op, rng, dtype, (1, 1, 1, 1))
        yield sample(op, rng, dtype, (3, 2, 2, 3))
        yield sample(op, rng, dtype, (3, 2, 3, 2), reverse=True, **extra)
        yield sample(op, rng, dtype, (2, 3, 1, 2), bias=False, **extra)
        yield sample(op, rng, dtype, (2, 0, 2, 1))

    def bad_inputs() -> Iterator[BadInput]:
        x, *rest = sample(op, np.random.default_rng(0), np.float64, (2, 3, 4, 5)).arrays
        assert x is not None
        last = len(rest) - 1  # position of b_hh in rest

        def changed(i: int, a: Any) -> tuple[Any, ...]:
            return (x, *rest[:i], a, *rest[i + 1 :])

        G = GATES[CELLS[op]] * 5
        yield BadInput(ValueError, f"{op}: x must have 3 axes (steps, batch, input_size)", (x[0], *rest))
        yield BadInput(ValueError, "h0 must have 2 axes (batch, hidden_size)", changed(0, np.ones(5)))
        yield BadInput(ValueError, "at least one step", (x[:0], *rest))
        yield BadInput(ValueError, f"w_ih must have shape ({G}, 4)", changed(last - 3, np.ones((G, 3))))
        yield BadInput(ValueError, f"w_hh must have shape ({G}, 5)", changed(last - 2, np.ones((4, 5))))
        yield BadInput(ValueError, f"b_hh must have shape ({G},)", changed(last, np.ones(G + 1)))
        yield BadInput(TypeError, "one dtype", changed(0, np.ones((3, 5), np.float32)))
        yield BadInput(TypeError, "w_hh must be a NumPy array", changed(last - 2, None))
        yield BadInput(TypeError, "reverse must be a bool", (x, *rest), {"reverse": 1})
        if op == "lstm":
            yield BadInput(ValueError, "c0 must have shape (3, 5)", changed(1, np.ones((2, 5))))
        if op == "rnn":
            yield BadInput(ValueError, "nonlinearity must be one of tanh, relu", (x, *rest),
                           {"nonlinearity": "sin"})  # fmt: skip

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        # First: enough for several tasks (gemm's threshold), few steps: mutants run it in plain Python.
        yield sample(op, rng, dtype, (2, 36, 20, 72 if op == "lstm" else 84 if op == "gru" else 144))
        yield sample(op, rng, dtype, (32, 32, 64, 128))
        yield sample(op, rng, dtype, (50, 1, 64, 128))
        yield sample(op, rng, dtype, (4, 32, 256, 1024))  # too large for one multiprocessor of a GPU

    def flops(*arrays: Array, **attributes: Any) -> int:
        x, h0 = arrays[:2]
        T, B, I = x.shape  # noqa: E741
        H, G = h0.shape[1], GATES[CELLS[op]]
        return int(T * B * G * H * (2 * (I + H) + 20))

    def along(tangents: Inputs, outputs: Outputs, inputs: Inputs, **attributes: Any) -> Array:
        return jvp(op, tangents, outputs, inputs, attributes)

    return Op(
        name=op,
        loops=make_loops(op),
        vectorized=make_vectorized(op),
        tuned=make_tuned(op),
        cuda=make_cuda(op),
        check=checks,
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=flops,
        jvp=along,
        gradient=by_formula(partial(recurrent_formula, op)),
        tolerance=256,
        mutants=tuple(Mutant(title, body, f"recurrent/{body}.py", old, new)
                      for title, body, old, new in mutants),
    )  # fmt: skip


rnn = make_op(
    "rnn",
    check_rnn,
    (
        ("w_ih: missing +=", "loops", "a[g] += w_ih[g, k] * x", "a[g] = w_ih[g, k] * x"),
        ("dw_hh: missing +=", "loops", "dw_hh[g, k] += dz[g]", "dw_hh[g, k] = dz[g]"),
        ("slope of tanh", "loops", "slope = 1 - h_new[j] * h_new[j] if", "slope = 1 - h_new[j] if"),
        ("reverse forgotten", "loops", "(T - 1 - s, T - s) if reverse", "(s, s - 1) if reverse"),
        ("slope of tanh, tuned", "tuned", "(typed(1, dh[d + j]) - h[o + j] * h[o + j])",
         "(typed(1, dh[d + j]) - h[o + j])"),
        ("slope of relu", "tuned", "dh[d + j] if h[o + j] > 0 else typed(0, dh[d + j])", "dh[d + j]"),
        ("dy of the step forgotten", "tuned", "dh[start + j] += dy[here + j]",
         "dh[start + j] = dy[here + j]"),
        ("last sequences of all tasks", "tuned", "n = min(SEQUENCES, B - b)\n        forward_rows",
         "n = min(SEQUENCES - 1, B - b)\n        forward_rows"),
        ("dz meets h of its own step", "tuned", "0, slice(1, T), slice(0, T - 1))",
         "0, slice(1, T), slice(1, T))"),
    ),
)  # fmt: skip
lstm = make_op(
    "lstm",
    check_lstm,
    (
        ("forget gate forgotten", "loops", "c_new[j] = f * c[j] + i * g", "c_new[j] = c[j] + i * g"),
        ("cell's way back cut", "loops", "dc[j] *= f", "dc[j] = 0"),
        ("input and output gate exchanged", "tuned", "+ a[p + j] * a[g + j]", "+ a[out + j] * a[g + j]"),
        ("dy of the cell forgotten", "tuned", "dc[start + j] += dy[here + U(cells) + j]", "pass"),
        ("slope of the gate g", "tuned", "(one - kept[g + j] * kept[g + j])", "(one - kept[g + j])"),
        ("cell of another sequence", "tuned", "H, c, U(c_at + r * H), states", "H, c, U(c_at), states"),
        ("slope of tanh(c)", "tuned", "(one - da[out + j] * da[out + j])", "(one - da[out + j])"),
    ),
)  # fmt: skip
gru = make_op(
    "gru",
    check_gru,
    (
        ("r multiplies all of n", "loops", "np.tanh(a[2 * H + j] + r *", "np.tanh(r * a[2 * H + j] + r *"),
        ("straight way back cut", "loops", "dh[j] *= u", "dh[j] = 0"),
        ("z and 1 - z exchanged", "tuned", "kept[n + j] + kept[u + j] * (before[i + j] - kept[n + j])",
         "before[i + j] + kept[u + j] * (kept[n + j] - before[i + j])"),
        ("b_hn forgotten", "tuned", "kept[hn + j] = z[q + j] + b_hn[j]", "kept[hn + j] = z[q + j]"),
        ("straight way back overwritten", "tuned", "flag(cell == GRU)", "flag(False)"),
        ("r forgotten in dz", "tuned", "dz[pn + j] = da[pn + j] * kept[k + j]", "dz[pn + j] = da[pn + j]"),
        ("b_hn added outside of r too", "tuned", "bias[2 * H :] = call.b_ih[2 * H :]", "pass"),
    ),
)  # fmt: skip
OPS_HERE = (rnn, lstm, gru)
