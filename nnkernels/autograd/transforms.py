"""Functions that make derivatives of functions: what PyTorch and JAX call functional transforms.

A function is given arrays, Tensors or numbers, or tuples, lists and dicts of them, and computes with Tensors.
Derivatives come back in the same form. Arrays give arrays: plain numbers. Tensors give Tensors, which are
recorded like the result of any op where x or what f captures (a model's parameters) requires gradients.
Python numbers count as float32. Transforms nest, in either mode; inside one, all results are Tensors.

    mode      one pass gives             of f: R^n -> R^m, the whole Jacobian takes
    forward   J v, by ``jvp``            n passes
    reverse   J^T dy, by ``vjp``         m passes

Where several arguments are differentiated by at once (``jvp``, ``jacobian``, ``hessian``, ``hvp``), they come
as a tuple, and f is called as f(*x).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral
from typing import Any, Literal

import numpy as np

from nnkernels.autograd import tree
from nnkernels.autograd.dual import Dual
from nnkernels.autograd.tape import nodes_to, recording, recording_is_on
from nnkernels.autograd.tensor import Tensor, as_operand, branch, carry_back, moves, tensor
from nnkernels.machine.memory import Array
from nnkernels.ops import OPS

Function = Callable[..., Any]
# Whether a function is being run for its tangents, or for derivatives that will be taken from a tape.
_pushing: ContextVar[bool] = ContextVar("pushing", default=False)
_taping: ContextVar[bool] = ContextVar("taping", default=False)


@contextmanager
def inside(variable: ContextVar[bool], on: bool = True) -> Iterator[None]:
    """Set the variable inside the ``with`` block, unless it is set already."""
    token = variable.set(on or variable.get())
    try:
        yield
    finally:
        variable.reset(token)


# --- what comes and what goes ---


def differentiable(who: str, x: Any, name: str) -> list[Tensor]:
    """Return the leaves of an argument as Tensors; TypeError for what cannot be differentiated by."""
    found = []
    for path, leaf in tree.leaves(x, name):
        if isinstance(leaf, (float, np.floating)):
            leaf = tensor(leaf)
        dtype = getattr(leaf, "dtype", None)
        if not isinstance(leaf, (np.ndarray, Tensor)) or dtype not in (np.float32, np.float64):
            got = f"{dtype} array of shape {leaf.shape}" if hasattr(leaf, "shape") else repr(leaf)[:60]
            raise TypeError(
                f"{who}: {path} must be float32 or float64 to be differentiated by, got {got}; convert it, "
                "as by astype(np.float64), or write a number with its point"
            )
        found.append(leaf if isinstance(leaf, Tensor) else Tensor(np.asarray(leaf)))
    if not found:
        raise TypeError(f"{who}: {name} holds no array to differentiate by")
    return found


def results(who: str, y: Any) -> list[Tensor]:
    """Return the leaves of what a function has returned; TypeError unless all are Tensors."""
    found = [leaf for _, leaf in tree.leaves(y, "f(x)")]
    for t in found:
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{who}: f must return a Tensor, or a tuple, list or dict of them, got {type(t).__name__}; "
                "compute with the Tensors that f is given, and do not take .data or .item() of them"
            )
        if t.dtype not in (np.float32, np.float64):
            raise TypeError(f"{who}: f must return floating-point numbers, got {t.dtype}")
    if not found:
        raise TypeError(f"{who}: f must return a Tensor, got {y!r}; does it lack a return statement?")
    return found


def give_tensors(*given: Any) -> bool:
    """Return whether results are to be Tensors: for a Tensor among the arguments, or inside a transform."""
    if _pushing.get() or _taping.get():
        return True
    return any(isinstance(leaf, Tensor) for x in given for _, leaf in tree.leaves(x, ""))


def outward(y: Any, tensors: bool) -> Any:
    """Return a tree of Tensors, or of arrays (NumPy numbers where there are no axes)."""
    return y if tensors else tree.mapped(lambda t: t.data[()], y)


def call(f: Function, x: Any) -> Any:
    """Return f of one argument, or of a tuple of arguments."""
    return f(*x) if type(x) is tuple else f(x)


def zeros_for_none(found: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients; zeros for tensors that the result does not depend on."""
    return [Tensor(np.zeros_like(t.data)) if dx is None else dx for dx, t in zip(found, tensors)]


# --- reverse mode ---


class Pulled:
    """A function's value on a tape: what ``vjp`` and ``grad`` pull cotangents through."""

    def __init__(
        self, who: str, f: Function, args: tuple[Any, ...], at: tuple[int, ...], create: bool | None
    ) -> None:
        self.form = tuple(args[i] for i in at)
        self.tensors = give_tensors(*args)
        given = [t for i in at for t in differentiable(who, args[i], f"argument {i}")]
        with recording(create is True or recording_is_on()):
            self.leaves = [branch(t) for t in given]
        inner, values = [as_operand(arg) for arg in args], iter(self.leaves)
        for i in at:
            inner[i] = tree.rebuilt(args[i], values)
        wanted = recording_is_on() and self.tensors if create is None else create
        with recording(True), inside(_taping):
            self.y = f(*inner)
        self.results = results(who, self.y)
        self.create = wanted and (create is True or self.leads_further())
        self.may_create = create is not False

    def leads_further(self) -> bool:
        """Return whether the value depends on tensors that require gradients besides the arguments' twins."""
        own = {id(t) for t in self.leaves}
        if any(t.node is not None for t in self.leaves):
            return True
        nodes = [node for y in self.results for node in nodes_to(y, own)]
        return any(
            need and id(t) not in own and t.node is None
            for node in nodes
            for t, need in zip(node.inputs, node.needs)
        )

    def value(self) -> Any:
        """Return f(x), apart from the tape unless derivatives are recorded."""
        return outward(self.y if self.create else tree.mapped(off_tape, self.y), self.tensors)

    def pull(self, cotangents: Sequence[Any], retain: bool) -> Any:
        """Return the gradients for one cotangent per result, in the form of the arguments."""
        total: list[Tensor | None] = [None] * len(self.leaves)
        create = self.create or (self.may_create and any(moves(dy) for dy in cotangents))
        tensors = self.tensors or give_tensors(list(cotangents))
        for i, (y, dy) in enumerate(zip(self.results, cotangents)):
            last = i == len(self.results) - 1
            keep = retain or create or not last
            found = carry_back(y, y.cotangent(dy), self.leaves, keep, create, apart=True)
            total = [b if a is None else a if b is None else a + b for a, b in zip(total, found)]
        gradients = iter(zeros_for_none(total, self.leaves))
        return outward(tree.rebuilt(self.form, gradients), tensors)


def off_tape(t: Tensor) -> Tensor:
    """Return the tensor without its record, but with its tangent."""
    return Dual(t.data, t.tangent, recorded=t.recorded) if isinstance(t, Dual) else t.detach()


def vjp(
    f: Function, *x: Any, create_graph: bool | None = None
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return (f(*x), pull), where pull(dy) is J^T dy, a tuple with one entry per argument.

    ``pull`` may be called any number of times; dy has the form of f's value. Gradients that come as Tensors
    are recorded unless ``create_graph`` is False.

    >>> y, pull = vjp(lambda x: x * x, np.array([1.0, 2.0]))
    >>> pull(np.array([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    pulled = Pulled("vjp", f, x, tuple(range(len(x))), create_graph)

    def pull(dy: Any) -> tuple[Any, ...]:
        cotangents = list(tree.leaves_like(pulled.y, dy, "vjp: dy"))
        gradients: tuple[Any, ...] = pulled.pull(cotangents, True)
        return gradients

    return pulled.value(), pull


def value_and_grad(
    f: Function, argnums: int | Sequence[int] = 0, create_graph: bool | None = None
) -> Function:
    """Return a function that gives (f's value, its gradient); see ``grad``."""
    at = (argnums,) if isinstance(argnums, Integral) else argnums
    if not isinstance(at, (tuple, list)) or not all(isinstance(i, Integral) for i in at):
        raise TypeError(f"grad: argnums must be an int or a tuple of ints, got {argnums!r}")
    if not callable(f):
        raise TypeError(f"grad: f must be a function of Tensors, got {type(f).__name__}")

    def derivative(*args: Any, **options: Any) -> tuple[Any, Any]:
        for i in at:
            if not -len(args) <= i < len(args):
                raise ValueError(f"grad: argnums names argument {i}, but f was given {len(args)}")
        places = tuple(int(i) % len(args) for i in at)
        if len(set(places)) < len(places):
            raise ValueError(f"grad: argnums names an argument twice, got {argnums!r}")
        pulled = Pulled("grad", lambda *inner: f(*inner, **options), args, places, create_graph)
        y = pulled.results[0]
        if len(pulled.results) > 1 or y.size != 1:
            shapes = " and ".join(str(t.shape) for t in pulled.results)
            raise ValueError(
                f"grad: f must return a single number, got shape {shapes}; use vjp with a cotangent, "
                "jacobian, or reduce f's value, as by .sum()"
            )
        gradients = pulled.pull([None], False)
        return pulled.value(), gradients[0] if isinstance(argnums, Integral) else gradients

    return derivative


def grad(f: Function, argnums: int | Sequence[int] = 0, create_graph: bool | None = None) -> Function:
    """Return the function that gives the gradient of f, whose value must be a single number.

    By the argument at ``argnums``, an int, or by several, given as a tuple; then a tuple comes back. An
    argument may be an array, a Tensor, a number, or a tree of them. Gradients that come as Tensors are
    recorded, so that they can be differentiated again, unless ``create_graph`` is False.

    Raises TypeError for an argument that is not floating-point or a value that is no Tensor, ValueError for a
    value with several elements.

    >>> z = lambda x1, x2: x1.sin() + x1 * x2
    >>> grad(z, (0, 1))(np.float64(2), np.float64(3))
    (np.float64(2.5838531634528574), np.float64(2.0))
    """
    both = value_and_grad(f, argnums, create_graph)
    return lambda *args, **options: both(*args, **options)[1]


# --- forward mode ---


def jvp(f: Function, x: Any, v: Any, create_graph: bool | None = None) -> tuple[Any, Any]:
    """Return (f(x), J v): f's value and its derivative along v, in one forward pass.

    v has the form and shapes of x. For f with one number as its value, J v is the directional derivative
    v . grad f. As Tensors, J v is recorded, and takes longer, unless ``create_graph`` is False.
    Raises ValueError where v does not fit, otherwise as ``grad``.

    >>> jvp(lambda x: x.sin(), np.float64(0), np.float64(2))
    (np.float64(0.0), np.float64(2.0))
    """
    primals = differentiable("jvp", x, "x")
    tangents = differentiable("jvp", tree.rebuilt(x, tree.leaves_like(x, v, "jvp: v")), "v")
    if [t.shape for t in primals] != [t.shape for t in tangents]:
        wanted, got = (", ".join(str(t.shape) for t in ts) for ts in (primals, tangents))
        raise ValueError(f"jvp: v must have the shapes of x, {wanted}, got {got}")
    pairs = list(zip(tangents, primals))
    for t, p in pairs:
        if t.dtype != p.dtype and moves(t):
            raise TypeError(f"jvp: v must have the dtype of x, {p.dtype}, got {t.dtype}")
    tangents = [t if t.dtype == p.dtype else Tensor(t.data.astype(p.dtype)) for t, p in pairs]
    tensors = give_tensors(x, v)
    create = recording_is_on() and tensors if create_graph is None else create_graph
    mixed = any(isinstance(t, Dual) for t in primals + tangents)
    push = push_by_reverse if mixed or _pushing.get() else push_duals
    y, moved = push(f, x, primals, tangents, create)
    return outward(y, tensors), outward(tree.rebuilt(y, iter(moved)), tensors)


def push_duals(
    f: Function, x: Any, primals: list[Tensor], tangents: list[Tensor], create: bool
) -> tuple[Any, list[Tensor]]:
    """Return f's value and its tangents, from one pass with Duals."""
    duals = []
    for t, v in zip(primals, tangents):
        base = branch(t) if create and t.requires_grad else t.detach()
        duals.append(Dual(base.data, v, base.requires_grad, base.node, recorded=create))
    with inside(_pushing), inside(_taping, create):
        y = call(f, tree.rebuilt(x, iter(duals)))
    found = results("jvp", y)
    moved = [Tensor(np.zeros_like(t.data)) if t.tangent is None else t.tangent for t in found]
    return tree.mapped(lambda t: t.without_tangent(), y), moved


def push_by_reverse(
    f: Function, x: Any, primals: list[Tensor], tangents: list[Tensor], create: bool
) -> tuple[Any, list[Tensor]]:
    """Return the same from two passes back, inside another forward pass, whose tangents would mix with ours.

    J^T u is linear in u, so its gradient by u for the cotangent v is J v.
    """
    with recording(True):
        inner = [branch(t) for t in primals]
        with inside(_taping):
            y = call(f, tree.rebuilt(x, iter(inner)))
        found = results("jvp", y)
        us = [Tensor(np.zeros_like(t.data), requires_grad=True) for t in found]
        terms = []
        for t, u in zip(found, us):
            pulled = carry_back(t, u, inner, create_graph=True, apart=True)
            terms += [(g * v).sum() for g, v in zip(pulled, tangents) if g is not None]
        if not terms:
            return y, zeros_for_none([None] * len(us), us)
        total = sum(terms[1:], terms[0])
        moved = carry_back(total, Tensor(np.ones_like(total.data)), us, create_graph=create, apart=True)
    return y, zeros_for_none(moved, us)


# --- Jacobians and Hessians ---


def jacobian(
    f: Function,
    x: Any,
    mode: Literal["auto", "forward", "reverse"] = "auto",
    create_graph: bool | None = None,
) -> Any:
    """Return all derivatives of f's value by x: for one array each, an array of shape y.shape + x.shape.

    x may be a tuple of arguments, or trees of arrays; the Jacobian is then a tree of f's form, with a tree of
    x's form in the place of each array. "forward" takes one pass per element of x, "reverse" one per element
    of y; "auto" runs f once to see which is less. Raises ValueError for another mode, otherwise as ``grad``.

    >>> jacobian(lambda x: x * x, np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    if mode not in ("auto", "forward", "reverse"):
        raise ValueError(f"jacobian: mode must be auto, forward or reverse, got {mode!r}")
    if mode != "forward":
        args = x if type(x) is tuple else (x,)
        pulled = Pulled("jacobian", f, args, tuple(range(len(args))), create_graph)
        inputs, outputs = (sum(t.size for t in ts) for ts in (pulled.leaves, pulled.results))
        if mode == "reverse" or outputs < inputs:
            return by_rows(pulled, x)
    return by_columns(f, x, create_graph)


def by_rows(pulled: Pulled, x: Any) -> Any:
    """Return the Jacobian from one pass back per element of f's value."""
    blocks = []
    for k, y in enumerate(pulled.results):
        rows = []
        for dy in unit_arrays(y):
            cotangents = [np.zeros(t.shape, t.dtype) for t in pulled.results]
            cotangents[k] = dy
            rows.append([leaf for _, leaf in tree.leaves(pulled.pull(cotangents, True), "")])
        stacked = [
            stack([row[i] for row in rows], y.shape, t, last=False) for i, t in enumerate(pulled.leaves)
        ]
        blocks.append(tree.rebuilt(x, iter(stacked)))
    return tree.rebuilt(pulled.y, iter(blocks))


def by_columns(f: Function, x: Any, create_graph: bool | None) -> Any:
    """Return the Jacobian from one forward pass per element of x."""
    primals = differentiable("jacobian", x, "x")
    tensors = give_tensors(x)
    columns: list[list[Any]] = []  # one per element of x: the change of every leaf of f's value
    values: list[Array] = []
    for direction in directions(primals):
        v = tree.rebuilt(x, iter([Tensor(a) if tensors else a for a in direction]))
        y, moved = jvp(f, x, v, create_graph)
        columns.append([leaf for _, leaf in tree.leaves(moved, "")])
        again = [np.asarray(leaf) for _, leaf in tree.leaves(y, "")]
        values = values or again
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(values, again)):
            raise ValueError("jacobian: f gives another value in every pass; does it draw random numbers?")
    blocks = []
    for j, (_, leaf) in enumerate(tree.leaves(y, "")):
        shape, at, parts = np.shape(leaf), 0, []
        for t in primals:
            part = [column[j] for column in columns[at : at + t.size]]
            parts.append(stack(part, shape, t, last=True))
            at += t.size
        blocks.append(tree.rebuilt(x, iter(parts)))
    return tree.rebuilt(y, iter(blocks))


def directions(primals: list[Tensor]) -> Iterator[list[Array]]:
    """Yield for each element of all arrays zeros but for a 1 there; zeros once where there is none."""
    zeros = [np.zeros(t.shape, t.dtype) for t in primals]
    if not any(t.size for t in primals):
        yield zeros
    for k, t in enumerate(primals):
        for unit in unit_arrays(t):
            yield [*zeros[:k], unit, *zeros[k + 1 :]]


def unit_arrays(t: Tensor) -> Iterator[Array]:
    """Yield the arrays of t's shape with a single 1."""
    for i in range(t.size):
        unit = np.zeros(t.size, t.dtype)
        unit[i] = 1
        yield unit.reshape(t.shape)


def stack(parts: list[Any], y_shape: tuple[int, ...], x: Tensor, last: bool) -> Any:
    """Return parts as one block of a Jacobian: rows, one per element of y, or columns (``last``), of x."""
    shape = (*y_shape, *x.shape)
    if not parts:
        return np.zeros(shape, x.dtype)
    size = math.prod(y_shape) if last else x.size
    if isinstance(parts[0], Tensor):
        flat = OPS["concatenate"](*[p.reshape(1, size) for p in parts], dim=0)
        return (flat.transpose(0, 1) if last else flat).reshape(shape)
    flat = np.reshape(parts, (len(parts), size))
    return np.ascontiguousarray(flat.T if last else flat).reshape(shape)[()]


def hvp(f: Function, x: Any, v: Any, create_graph: bool | None = None) -> Any:
    """Return H v, the Hessian of f at x times v, in the form of x.

    Forward over reverse: the tangent of the gradient, for the cost of a few evaluations of f, however many
    elements x has. f's value must be a single number. Pearlmutter, Fast Exact Multiplication by the Hessian,
    Neural Computation 6(1), 1994.

    >>> hvp(lambda x: (x * x * x).sum(), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    array([6., 0.])
    """
    return jvp(gradient_function(f, x), x, v, create_graph)[1]


def hessian(f: Function, x: Any, create_graph: bool | None = None) -> Any:
    """Return all second derivatives of f, whose value must be a single number, by x.

    For an array, an array of shape x.shape + x.shape; for a tuple or a tree, a tree of x's form with trees of
    x's form in it. One ``hvp`` per element of x.

    >>> hessian(lambda x: x[0] * x[1], np.array([1.0, 2.0]))
    array([[0., 1.],
           [1., 0.]])
    """
    return by_columns(gradient_function(f, x), x, create_graph)


def gradient_function(f: Function, x: Any) -> Function:
    """Return the gradient of f by all its arguments, in the form of x."""
    return grad(f, tuple(range(len(x)))) if type(x) is tuple else grad(f)
