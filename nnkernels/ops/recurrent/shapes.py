"""What the bodies of rnn, lstm and gru share: the kinds of cells, and their inputs under names."""

from typing import Any, NamedTuple, cast

from nnkernels.machine.arrays import full
from nnkernels.machine.memory import Array

TANH, RELU, LSTM, GRU = range(4)
CELLS = {"rnn": TANH, "lstm": LSTM, "gru": GRU}
GATES = {TANH: 1, RELU: 1, LSTM: 4, GRU: 3}  # blocks of H rows in the weights
KEPT = {TANH: 0, RELU: 0, LSTM: 4, GRU: 4}  # blocks of H numbers that backward needs of each step

Inputs = tuple[Array | None, ...]
Outputs = tuple[Array, Array]
Grads = tuple[Array | None, ...]


class Call(NamedTuple):
    """One call: the kind of cell, the direction, the inputs. Missing biases are zeros; no c0 is h0."""

    cell: int
    reverse: bool
    x: Array
    h0: Array
    c0: Array
    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, B and H."""
        return *self.x.shape[:2], self.h0.shape[1]

    @property
    def states(self) -> int:
        """How many states the cell has: h alone, or h and c."""
        return 2 if self.cell == LSTM else 1


def call_of(op: str, inputs: Inputs, attributes: dict[str, Any]) -> Call:
    """Return the op's inputs and attributes under their names."""
    cell = RELU if attributes.get("nonlinearity") == "relu" else CELLS[op]
    if cell != LSTM:
        inputs = (*inputs[:2], inputs[1], *inputs[2:])
    x, h0, c0, w_ih, w_hh = cast(tuple[Array, ...], inputs[:5])
    b_ih, b_hh = (*inputs[5:], None, None)[:2]
    if b_ih is None or b_hh is None:
        zeros = full((len(w_ih),), 0, x.dtype, x)
        b_ih, b_hh = zeros if b_ih is None else b_ih, zeros if b_hh is None else b_hh
    return Call(cell, bool(attributes.get("reverse", False)), x, h0, c0, w_ih, w_hh, b_ih, b_hh)


def results(call: Call, states: Array, kept: Array) -> Outputs:
    """Return what forward does: an LSTM's h and c of all steps (2, T, B, H), else h alone (T, B, H)."""
    return (states if call.cell == LSTM else states.reshape(call.sizes)), kept


def as_states(call: Call, y: Array) -> Array:
    """Return y, or its cotangent, as (states, T, B, H)."""
    return y.reshape(call.states, *call.sizes)


def gradients(
    call: Call, needs: tuple[bool, ...], dx: Array | None, dh0: Array, dc0: Array, *weights: Array | None
) -> Grads:
    """Return the gradients in the order of the op's inputs, None where not needed."""
    grads = (dx, dh0, dc0, *weights) if call.cell == LSTM else (dx, dh0, *weights)
    return tuple(g if need else None for g, need in zip(grads, needs))
