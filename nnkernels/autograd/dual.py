"""Forward-mode automatic differentiation: a value and its tangent travel through the program together.

A ``Dual`` stands for x + e v with e^2 = 0: a number, and how it changes as the input moves along v. Each op
takes Duals to a Dual by f(x + e v) = f(x) + e J v, with the op's ``jvp`` for J v. One pass gives the
derivative of all outputs along one direction; one backward pass, that of one output along all directions.

A Dual is a Tensor, so both modes may act at once: gradients computed from Duals by ops are Duals again, whose
tangents are second derivatives (forward over reverse).

Clifford, Preliminary Sketch of Biquaternions, 1873, for the numbers; Griewank and Walther, Evaluating
Derivatives, SIAM 2008, ch. 3.
"""

from typing import Any

import numpy as np

from nnkernels.autograd.tape import Node, recording
from nnkernels.autograd.tensor import Tensor, carry_back, no_gradient
from nnkernels.machine.memory import Array, as_kernel_array
from nnkernels.ops.op import Op


class Dual(Tensor):
    """A Tensor with a tangent of its shape.

    With ``recorded``, tangents are computed by recorded ops, so that they can be differentiated themselves.
    All Duals of a program move along one direction: ``jvp`` keeps those of nested derivatives apart. Raises
    ValueError for a tangent of another shape.

    >>> x = Dual(np.asarray(2.0), Tensor(np.asarray(1.0)))
    >>> (x * x).tangent
    tensor(4., dtype=float64)
    """

    __slots__ = ("recorded", "tangent")

    tangent: Tensor

    def __init__(
        self,
        data: Array,
        tangent: Tensor,
        requires_grad: bool = False,
        node: Node | None = None,
        recorded: bool = False,
    ) -> None:
        if tangent.shape != data.shape:
            raise ValueError(f"Dual: tangent must have the shape of data, {data.shape}, got {tangent.shape}")
        super().__init__(data, requires_grad, node)
        self.tangent = tangent
        self.recorded = recorded

    def pushed(
        self,
        y: Tensor,
        op: Op,
        inputs: tuple[Any, ...],
        arrays: tuple[Array | None, ...],
        outputs: tuple[Array, ...],
        attributes: dict[str, Any],
    ) -> Tensor:
        """Return y, the op's result, as a Dual."""
        tangents = [t.tangent if isinstance(t, Tensor) else None for t in inputs]
        for i in op.constants:
            if i < len(tangents) and tangents[i] is not None:
                raise TypeError(no_gradient(op, i))
        recorded = any(t.recorded for t in inputs if isinstance(t, Dual))
        if recorded:
            tangent = push_in_ops(op, inputs, tangents, outputs, attributes)
        else:
            tangent = push_arrays(op, arrays, tangents, outputs, attributes)
        return Dual(y.data, tangent, y.requires_grad, y.node, recorded)

    def as_leaf(self) -> "Dual":
        """Return a leaf with the same value and tangent that requires gradients."""
        return Dual(self.data, self.tangent, requires_grad=True, recorded=self.recorded)

    def without_tangent(self) -> Tensor:
        """Return the value as a plain Tensor, which still has its place on the tape."""
        return Tensor(self.data, self.requires_grad, self.node)

    def __repr__(self) -> str:
        return f"dual({np.asarray(self.data)} + e {np.asarray(self.tangent)})"


def push_arrays(
    op: Op,
    arrays: tuple[Array | None, ...],
    tangents: list[Tensor | None],
    outputs: tuple[Array, ...],
    attributes: dict[str, Any],
) -> Tensor:
    """Return J v by the op's ``jvp``."""
    assert op.jvp is not None
    v = tuple([None if t is None else as_kernel_array(t.data) for t in tangents])
    return Tensor(np.asarray(op.jvp(v, outputs, arrays, **attributes)))


def push_in_ops(
    op: Op,
    inputs: tuple[Any, ...],
    tangents: list[Tensor | None],
    outputs: tuple[Array, ...],
    attributes: dict[str, Any],
) -> Tensor:
    """Return J v by recorded ops: J^T u is linear in u, so <J^T u, v> has the slope J v in u.

    Townsend, A new trick for calculating Jacobian vector products, 2017.
    """
    assert op.gradient is not None
    given = tuple([t.without_tangent() if isinstance(t, Tensor) else t for t in inputs])
    moving = tuple([v is not None for v in tangents])
    with recording(True):
        u = Tensor(np.zeros_like(outputs[0]), requires_grad=True)
        pulled = op.gradient(op, u, outputs, given, moving, **attributes)
        terms = [(g * v).sum() for g, v in zip(pulled, tangents) if g is not None and v is not None]
        total: Tensor = sum(terms[1:], terms[0])
        found = carry_back(total, total.cotangent(), [u], create_graph=True, apart=True)
    return found[0] if found[0] is not None else Tensor(np.zeros_like(outputs[0]))
