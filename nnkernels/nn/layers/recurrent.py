"""Recurrent nets as layers: stacks of rnn, lstm and gru, and their single cells."""

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import full
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops import OPS
from nnkernels.ops.recurrent.shapes import CELLS, GATES
from nnkernels.ops.validate import choice, number

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def weights(
    op: str, inputs: int, hidden: int, bias: bool, rng: np.random.Generator, dtype: DTypeLike
) -> list[Parameter | None]:
    """Return w_ih, w_hh, b_ih and b_hh, drawn from [-1/sqrt(hidden), 1/sqrt(hidden)], PyTorch's default."""
    rows = GATES[CELLS[op]] * hidden
    shapes = [(rows, inputs), (rows, hidden), *([(rows,), (rows,)] if bias else [])]
    made: list[Parameter | None] = [Parameter(np.empty(shape, dtype)) for shape in shapes]
    for w in made:
        assert w is not None
        init.uniform_(w, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden), rng)
    return made if bias else [*made, None, None]


def states_of(layer: str, hx: Any, count: int, shape: tuple[int, ...], x: Any) -> list[Any]:
    """Return the initial states that came in, or zeros; each must have ``shape``."""
    if hx is None:
        return [full(shape, 0, x.dtype, array_of(x)) for _ in range(count)]
    if (not isinstance(hx, (tuple, list)) or len(hx) != 2) if count == 2 else isinstance(hx, (tuple, list)):
        wanted = "a pair (h_0, c_0)" if count == 2 else "one array or Tensor h_0"
        raise TypeError(f"{layer}: hx must be {wanted}, got {type(hx).__name__}")
    states = list(hx) if count == 2 else [hx]
    for name, state in zip(("h_0", "c_0"), states):
        if state.shape != shape:
            raise ValueError(f"{layer}: {name} must have shape {shape}, got {state.shape}")
    return states


class RNNBase(Module):
    """What RNN, LSTM and GRU share: layers, directions, the order of axes.

    Parameters are weight_ih_l0 (G H, I), weight_hh_l0 (G H, H), bias_ih_l0, bias_hh_l0 (G H), then the same
    with _reverse for the other direction, then _l1 and so on; a layer's input is the output of all directions
    of the layer below. ``dropout`` sets that part of the elements between layers to zero while training.
    """

    op = ""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        layer = type(self).__name__
        self.input_size = positive(layer, "input_size", input_size)
        self.hidden_size = positive(layer, "hidden_size", hidden_size)
        self.num_layers = positive(layer, "num_layers", num_layers)
        number(layer, "dropout", dropout, 0, np.nextafter(1, 2))
        if dropout > 0 and num_layers == 1:
            warnings.warn(f"{layer}: dropout acts between layers, and there is only one", stacklevel=2)
        self.bias, self.batch_first, self.dropout = bool(bias), bool(batch_first), float(dropout)
        self.bidirectional = bool(bidirectional)
        self.attributes: dict[str, Any] = {}  # of the op
        self.rng = np.random.default_rng(rng)
        directions = 2 if bidirectional else 1
        for k in range(num_layers):
            inputs = input_size if k == 0 else directions * hidden_size
            for d in range(directions):
                made = weights(self.op, inputs, hidden_size, bias, self.rng, dtype)
                for name, w in zip(NAMES, made):
                    setattr(self, self._key(name, k, d), w)

    def _key(self, name: str, layer: int, direction: int) -> str:
        return f"{name}_l{layer}" + ("_reverse" if direction else "")

    def forward(self, x: Any, hx: Any = None) -> Any:
        """Return (output, h_n), for an LSTM (output, (h_n, c_n)).

        x (T, B, I), or (B, T, I) with batch_first; output alike with D H numbers at its end, D being the
        number of directions; hx, h_n and c_n (D num_layers, B, H). All of them without B for a single
        sequence x (T, I). Initial states are zeros unless given.
        """
        name = type(self).__name__
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            order = "(batch, steps, features)" if self.batch_first else "(steps, batch, features)"
            raise ValueError(
                f"{name}: x must be {order} or (steps, features), with {self.input_size} features, got shape "
                f"{x.shape}"
            )
        single = x.ndim == 2
        if single:
            x = OPS["reshape"](x, shape=(len(x), 1, self.input_size))
        elif self.batch_first:
            x = OPS["transpose"](x, dim0=0, dim1=1)
        count = self.num_layers * (2 if self.bidirectional else 1)
        batch = () if single else (x.shape[1],)
        states = states_of(name, hx, 2 if self.op == "lstm" else 1, (count, *batch, self.hidden_size), x)
        if single:
            states = [OPS["reshape"](s, shape=(count, 1, self.hidden_size)) for s in states]
        x, last = self._layers(x, states)
        if single:
            x = OPS["reshape"](x, shape=(x.shape[0], x.shape[2]))
            last = [OPS["reshape"](s, shape=(count, self.hidden_size)) for s in last]
        elif self.batch_first:
            x = OPS["transpose"](x, dim0=0, dim1=1)
        return x, tuple(last) if len(last) > 1 else last[0]

    def _layers(self, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """Return the last layer's output (T, B, D H) and the last states, each (D num_layers, B, H)."""
        directions = 2 if self.bidirectional else 1
        last: list[list[Any]] = [[] for _ in states]
        for k in range(self.num_layers):
            if k > 0 and self.training:
                x = F.dropout(x, self.dropout, rng=self.rng)
            sides = []
            for d in range(directions):
                first = [OPS["slice"](s, index=k * directions + d) for s in states]
                w = [getattr(self, self._key(name, k, d)) for name in NAMES]
                y = OPS[self.op](x, *first, *w, reverse=d == 1, **self.attributes)
                for s, steps in enumerate([y[0], y[1]] if len(states) == 2 else [y]):
                    last[s].append(steps[slice(0, 1) if d else slice(-1, None)])
                sides.append(y[0] if len(states) == 2 else y)
            x = sides[0] if directions == 1 else OPS["concatenate"](*sides, dim=2)
        return x, [OPS["concatenate"](*parts, dim=0) if len(parts) > 1 else parts[0] for parts in last]

    def extra_repr(self) -> str:
        """Return the sizes, and what is not as by default."""
        changed = {
            "num_layers": (self.num_layers, 1), "bias": (self.bias, True),
            "batch_first": (self.batch_first, False), "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            **{name: (value, "tanh") for name, value in self.attributes.items()},
        }  # fmt: skip
        shown = [f"{name}={value!r}" for name, (value, default) in changed.items() if value != default]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *shown])


class RNN(RNNBase):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or max(., 0) of it with nonlinearity="relu"."""

    op = "rnn"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            rng=rng,
            dtype=dtype,
        )
        choice("RNN", "nonlinearity", nonlinearity, ("tanh", "relu"))
        self.attributes = {"nonlinearity": nonlinearity}


class LSTM(RNNBase):
    """Long short-term memory: gates i, f, g, o, in that order in the weights; states h and c."""

    op = "lstm"


class GRU(RNNBase):
    """Gated recurrent unit: gates r, z, n, in that order in the weights."""

    op = "gru"


class RNNCellBase(Module):
    """What the cells share: one step of x (B, I) or (I), from states (B, H) or (H), zeros unless given."""

    op = ""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size = positive(type(self).__name__, "input_size", input_size)
        self.hidden_size = positive(type(self).__name__, "hidden_size", hidden_size)
        self.bias = bool(bias)
        self.attributes: dict[str, Any] = {}
        made = weights(self.op, input_size, hidden_size, bias, np.random.default_rng(rng), dtype)
        for name, w in zip(NAMES, made):
            setattr(self, name, w)

    def forward(self, x: Any, hx: Any = None) -> Any:
        """Return the new h (B, H) or (H); for an LSTM, (h, c)."""
        name = type(self).__name__
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: x must be (batch, features) or (features), with {self.input_size} features, got "
                f"shape {x.shape}"
            )
        shape, rows = (*x.shape[:-1], self.hidden_size), x.shape[0] if x.ndim == 2 else 1
        states = states_of(name, hx, 2 if self.op == "lstm" else 1, shape, x)
        states = [OPS["reshape"](s, shape=(rows, self.hidden_size)) for s in states]
        w = [getattr(self, key) for key in NAMES]
        y = OPS[self.op](OPS["reshape"](x, shape=(1, rows, self.input_size)), *states, *w, **self.attributes)
        if self.op == "lstm":
            return tuple(OPS["reshape"](y[i], shape=shape) for i in range(2))
        return OPS["reshape"](y, shape=shape)

    def extra_repr(self) -> str:
        """Return the sizes."""
        shown = "".join(f", {k}={v}" for k, v in self.attributes.items() if v != "tanh")
        return f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}{shown}"


class RNNCell(RNNCellBase):
    """One step of an RNN."""

    op = "rnn"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype)
        choice("RNNCell", "nonlinearity", nonlinearity, ("tanh", "relu"))
        self.attributes = {"nonlinearity": nonlinearity}


class LSTMCell(RNNCellBase):
    """One step of an LSTM; hx is the pair (h, c)."""

    op = "lstm"


class GRUCell(RNNCellBase):
    """One step of a GRU."""

    op = "gru"
