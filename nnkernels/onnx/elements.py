"""Rules for arithmetic, activations, reductions, and for ops that move elements."""

import math
from typing import Any

from nnkernels.onnx.graph import FAR, Graph, Input, NoRuleError, Operand, Rule, ints, spread
from nnkernels.ops.rectifiers import SELU_ALPHA, SELU_SCALE
from nnkernels.ops.shape import spelled_out

Shape = tuple[int, ...]


def same(kind: str) -> Rule:
    """Return the rule for an op that ONNX has as it is."""

    def rule(g: Graph, y: Shape, *inputs: Operand) -> str:
        return g.add(kind, *inputs)

    return rule


# --- activations ---


def leaky_relu(g: Graph, y: Shape, x: Operand, *, negative_slope: float = 0.01) -> str:
    """With its slope."""
    return g.add("LeakyRelu", x, alpha=float(negative_slope))


def elu(g: Graph, y: Shape, x: Operand, *, alpha: float = 1.0) -> str:
    """With its alpha."""
    return g.add("Elu", x, alpha=float(alpha))


def selu(g: Graph, y: Shape, x: Operand) -> str:
    """With the constants that we have."""
    return g.add("Selu", x, alpha=SELU_ALPHA, gamma=SELU_SCALE)


def hardtanh(g: Graph, y: Shape, x: Operand, *, min_val: float = -1.0, max_val: float = 1.0) -> str:
    """Between two numbers."""
    return g.add("Clip", x, g.number(min_val), g.number(max_val))


def softplus(g: Graph, y: Shape, x: Operand, *, beta: float = 1.0, threshold: float = 20.0) -> str:
    """ln(1 + e^(beta x)) / beta; beyond a threshold of 20, where we take x, that is x but for 1e-10."""
    t: Input = x if beta == 1 else g.add("Mul", x, g.number(beta))
    soft = g.add("Softplus", t)
    if beta != 1:
        soft = g.add("Div", soft, g.number(beta))
    return soft if threshold >= 20 else g.add("Where", g.add("Greater", t, g.number(threshold)), x, soft)


def log_sigmoid(g: Graph, y: Shape, x: Operand) -> str:
    """-ln(1 + e^-x)."""
    return g.add("Neg", g.add("Softplus", g.add("Neg", x)))


def silu(g: Graph, y: Shape, x: Operand) -> str:
    """x times its sigmoid."""
    return g.add("Mul", x, g.add("Sigmoid", x))


def mish(g: Graph, y: Shape, x: Operand) -> str:
    """x tanh(ln(1 + e^x))."""
    return g.add("Mul", x, g.add("Tanh", g.add("Softplus", x)))


def gelu(g: Graph, y: Shape, x: Operand, *, approximate: str = "none") -> str:
    """x (1 + t) / 2, with t by erf or by tanh."""
    if approximate == "tanh":
        cubed = g.add("Mul", g.add("Mul", g.add("Mul", x, x), x), g.number(0.044715))
        t = g.add("Tanh", g.add("Mul", g.add("Add", x, cubed), g.number(math.sqrt(2 / math.pi))))
    else:
        t = g.add("Erf", g.add("Mul", x, g.number(math.sqrt(0.5))))
    return g.add("Mul", g.add("Mul", x, g.add("Add", t, g.number(1))), g.number(0.5))


def prelu(g: Graph, y: Shape, x: Operand, w: Operand) -> str:
    """One slope for each channel stands before the axes of positions."""
    after = len(x.shape) - 2
    if w.shape == (1,) or after <= 0:
        return g.add("PRelu", x, w)
    return g.add("PRelu", x, g.add("Unsqueeze", w, ints(*range(1, 1 + after))))


def softmax(g: Graph, y: Shape, x: Operand, *, dim: int = -1) -> str:
    """Along an axis."""
    return g.add("Softmax", x, axis=dim)


def log_softmax(g: Graph, y: Shape, x: Operand, *, dim: int = -1) -> str:
    """Along an axis."""
    return g.add("LogSoftmax", x, axis=dim)


def maxout(g: Graph, y: Shape, x: Operand, *, pieces: int) -> str:
    """Channels in groups of ``pieces``, and the largest of each group."""
    groups = reshaped(g, x, (x.shape[0], x.length(1) // pieces, pieces, *x.shape[2:]))
    return g.add("ReduceMax", groups, axes=[2], keepdims=0)


# --- reductions ---


def axes_of(x: Operand, dim: Any) -> list[int]:
    """Return the axes that are reduced, all for None."""
    return list(range(len(x.shape))) if dim is None else list(spread(dim, 1))


def total(g: Graph, y: Shape, x: Operand, *, dim: Any = None, keepdim: bool = False) -> str:
    """Sum; axes are an input here."""
    return g.add("ReduceSum", x, ints(*axes_of(x, dim)), keepdims=int(keepdim))


def mean(g: Graph, y: Shape, x: Operand, *, dim: Any = None, keepdim: bool = False) -> str:
    """Mean; axes are an attribute here."""
    return g.add("ReduceMean", x, axes=axes_of(x, dim), keepdims=int(keepdim))


def largest(g: Graph, y: Shape, x: Operand, *, dim: Any = None, keepdim: bool = False) -> str:
    """Maximum."""
    return g.add("ReduceMax", x, axes=axes_of(x, dim), keepdims=int(keepdim))


# --- elements in other places ---


def reshaped(g: Graph, x: Input, shape: Shape) -> str:
    """Reshape; -1 stands for what differs with the batch, and a 0 means an empty axis."""
    if 0 in shape and -1 in shape:
        raise NoRuleError(f"a batch of any length, with an empty axis, {shape}")
    return g.add("Reshape", x, ints(*shape), allowzero=1 if 0 in shape else None)


def reshape(g: Graph, y: Shape, x: Operand, **attributes: Any) -> str:
    """Of reshape and of flatten alike: the result's shape says all."""
    return reshaped(g, x, y)


def permute(g: Graph, y: Shape, x: Operand, *, dims: Any) -> str:
    """Axis i is axis dims[i] of x."""
    return g.add("Transpose", x, perm=[d % len(dims) for d in dims])


def transpose(g: Graph, y: Shape, x: Operand, *, dim0: int, dim1: int) -> str:
    """Two axes change places."""
    perm = list(range(len(x.shape)))
    perm[dim0], perm[dim1] = perm[dim1], perm[dim0]
    return g.add("Transpose", x, perm=perm)


def index(g: Graph, y: Shape, x: Operand, *, index: Any) -> str:
    """x[index]: one Slice for all axes, then axes that go (ints) and axes that come (None)."""
    if x.name in g.indexed:
        return g.indexed[x.name](index)
    items = spelled_out(index, len(x.shape))
    result: Input = x
    old = [item for item in items if item is not None]
    cut = [(axis, *ends(item)) for axis, item in enumerate(old) if item != slice(None)]
    if cut:
        axes, start, stop, step = (ints(*column) for column in zip(*cut))
        result = g.add("Slice", result, start, stop, axes, step)
    if gone := [axis for axis, item in enumerate(old) if not isinstance(item, slice)]:
        result = g.add("Squeeze", result, ints(*gone))
    kept = [item for item in items if item is None or isinstance(item, slice)]
    if new := [axis for axis, item in enumerate(kept) if item is None]:
        result = g.add("Unsqueeze", result, ints(*new))
    return g.name_of(result)


def ends(item: Any) -> tuple[int, int, int]:
    """Return start, stop and step of an item of an index."""
    if not isinstance(item, slice):
        return int(item), FAR if item == -1 else int(item) + 1, 1
    step = 1 if item.step is None else int(item.step)
    first, last = (0, FAR) if step > 0 else (FAR, -FAR)
    return (
        first if item.start is None else int(item.start),
        last if item.stop is None else int(item.stop),
        step,
    )


def pad(g: Graph, y: Shape, x: Operand, *, padding: Any, value: float = 0.0) -> str:
    """Our pairs begin with the last axis; ONNX wants all befores, then all afters."""
    pairs = [(0, 0)] * (len(x.shape) - len(padding) // 2)
    pairs += [(padding[i], padding[i + 1]) for i in range(len(padding) - 2, -1, -2)]
    before, after = zip(*pairs) if pairs else ((), ())
    return g.add("Pad", x, ints(*before, *after), g.number(value))


def concatenate(g: Graph, y: Shape, *xs: Operand, dim: int = 0) -> str:
    """One array after the other."""
    return g.add("Concat", *xs, axis=dim)
