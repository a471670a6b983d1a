"""Rules for recurrent layers.

ONNX has one matrix for each direction, with the gates in another order, and both biases in one row:
W (1, G H, I), R (1, G H, H), B (1, 2 G H). The file keeps PyTorch's layout, and a Gather per matrix puts the
blocks in their places, so that parameters stay what they are. Runtimes do that once, when they load the file.
"""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.onnx.graph import Graph, Input, NoRuleError, Operand, ints

Shape = tuple[int, ...]

# ONNX's gates, each by its place in our order: i o f c of our i f g o, and z r h of our r u n.
ORDER = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def blocks(kind: str, hidden: int, start: int = 0) -> Array:
    """Return the rows of a matrix in ONNX's order, as one row of numbers."""
    order = np.array(ORDER[kind])[:, None]
    return (start + order * hidden + np.arange(hidden)).reshape(1, -1)


def layer(
    g: Graph, kind: str, x: Operand, states: list[Operand], weights: tuple[Operand | None, ...],
    reverse: bool, **attributes: Any,
) -> list[str]:  # fmt: skip
    """Add the node; return its results: all h (T, 1, B, H), the last h (1, B, H), an LSTM's last c."""
    w_ih, w_hh, b_ih, b_hh = (*weights, None, None)[:4]
    assert w_ih is not None
    assert w_hh is not None
    hidden = w_hh.shape[1]
    w, r = (g.add("Gather", m, blocks(kind, hidden), axis=0) for m in (w_ih, w_hh))
    bias: Input = None
    if b_ih is not None or b_hh is not None:
        none = np.zeros(w_ih.shape[0], g.dtype)
        both = g.add("Concat", none if b_ih is None else b_ih, none if b_hh is None else b_hh, axis=0)
        order = [blocks(kind, hidden), blocks(kind, hidden, w_ih.shape[0])]
        bias = g.add("Gather", both, np.concatenate(order, axis=1), axis=0)
    # Zeros are ONNX's default: left out, they do not fix the size of the batch.
    first = [None if s.is_zero() else g.add("Unsqueeze", s, ints(0)) for s in states]
    return g.add_several(
        kind, 1 + len(states), x, w, r, bias, None, *first, hidden_size=hidden,
        direction="reverse" if reverse else "forward", **attributes,
    )  # fmt: skip


def rnn(
    g: Graph, y: Shape, x: Operand, h0: Operand, *weights: Operand | None, nonlinearity: str = "tanh",
    reverse: bool = False,
) -> str:  # fmt: skip
    """Return all h (T, B, H)."""
    activations = [nonlinearity.capitalize()]
    steps, _ = layer(g, "RNN", x, [h0], weights, reverse, activations=activations)
    return g.add("Squeeze", steps, ints(1))


def gru(g: Graph, y: Shape, x: Operand, h0: Operand, *weights: Operand | None, reverse: bool = False) -> str:
    """Return all h; the reset gate acts on W_hh h + b_hh, as in PyTorch."""
    steps, _ = layer(g, "GRU", x, [h0], weights, reverse, linear_before_reset=1)
    return g.add("Squeeze", steps, ints(1))


def lstm(
    g: Graph, y: Shape, x: Operand, h0: Operand, c0: Operand, *weights: Operand | None, reverse: bool = False
) -> str:
    """Return all h and all c (2, T, B, H): a name to be indexed, since ONNX gives the last c alone."""
    steps, _, last = layer(g, "LSTM", x, [h0, c0], weights, reverse)
    h = g.add("Squeeze", steps, ints(1))

    def of_cells(index: Any) -> str:
        if index == (slice(0, 1) if reverse else slice(-1, None)):
            return last
        raise NoRuleError("an LSTM's c of other steps than the last")

    def of_both(index: Any) -> str:
        if index in (0, 1):
            return h if index == 0 else last if x.shape[0] == 1 else g.to_be_indexed(of_cells)
        raise NoRuleError("an LSTM's h and c in one array")

    return g.to_be_indexed(of_both)
