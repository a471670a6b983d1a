"""The evaluation of a function step by step, with its derivatives, as one writes it on a blackboard.

Every number on the way from the inputs to the result has a name: w1, w2 ... for the inputs, then one for each
op in the order of the calls. Forward mode carries dw/dx along with each step; reverse mode goes back from the
result and gives each step its dz/dw, by the chain rule a sum over the steps that use it:

    dz/dw = sum over p of dz/dwp dwp/dw

Baydin et al., Automatic Differentiation in Machine Learning: a Survey, JMLR 18, 2018, tables 2 and 3.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnkernels.autograd import tree
from nnkernels.autograd.steps import Step, in_brackets, in_words, result_label, slopes, steps_to
from nnkernels.autograd.tape import recording, topological_order
from nnkernels.autograd.tensor import Tensor, carry_back
from nnkernels.autograd.transforms import Function, call, differentiable, jvp, results
from nnkernels.machine.memory import Array

MOST_DIRECTIONS = 6  # columns of derivatives that still fit on a line
MOST_TERMS = 4  # of a sum that are written out

# --- the chain rule in words ---


def added(terms: Sequence[str]) -> str:
    """Return a sum, cut short where it is long."""
    more = len(terms) - MOST_TERMS
    return " + ".join(terms if more <= 0 else [*terms[:MOST_TERMS], f"{more} more"])


def pulled_in_words(step: Step, users: list[Step], gradients: dict[int, Array], z: str) -> tuple[str, str]:
    """Return the chain rule for dz/dw of a step that ``users`` use, and the same with what is known."""
    chain, known = [], []
    for user in users:
        chain.append(f"d{z}/d{user.name}·d{user.name}/d{step.name}")
        arrived = gradients[id(user)]
        up = in_words(arrived) if arrived.ndim == 0 else f"d{z}/d{user.name}"
        rules = slopes(user)
        for i, (used, need) in enumerate(zip(user.uses, user.needs)):
            if used is step and need:
                if rules is None:
                    assert user.node is not None
                    known.append(f"{up} through {user.node.op.name}")
                    continue
                term = f"{in_brackets(up)}·{in_brackets(rules[i])}"
                # What was broadcast has been used once per element of the result.
                known.append(term if step.value.shape == user.value.shape else f"sum({term})")
    return added(chain), added(known)


def pushed_in_words(step: Step, moving: set[int]) -> str:
    """Return how the tangent of a step follows from those of what it uses."""
    if step.node is None or id(step) not in moving:
        return ""
    rules = slopes(step)
    moved = [(i, s) for i, s in enumerate(step.uses) if id(s) in moving]
    if rules is None:
        return f"{step.node.op.name} along " + ", ".join(dict.fromkeys(f"d{s.name}" for _, s in moved))
    plain = {"1": "", "-1": "-"}
    return added([plain.get(rules[i], f"{rules[i]}·") + f"d{s.name}" for i, s in moved])


# --- the table ---


@dataclass(frozen=True, eq=False)
class Row:
    """One step of a Trace.

    ``name`` is w1, w2 ...; ``formula`` how it was computed, of an input what it is called; ``op`` the op's
    name, None for an input; ``inputs`` the names of what it uses. ``derivatives`` holds dw/dx per direction
    (forward) or dz/dw alone (reverse; empty for what is not differentiated by). ``chain`` and ``rule`` say
    how they came about, ``through`` which ops they came through.
    """

    name: str
    formula: str
    op: str | None
    inputs: tuple[str, ...]
    value: Array
    derivatives: tuple[Array, ...]
    chain: str
    rule: str
    through: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """The steps of an evaluation; ``str`` and ``print`` give the table.

    ``rows`` are in the order of the evaluation. ``result`` is what the last one is called, z; ``directions``
    are the headings of the derivatives.
    """

    mode: str
    rows: tuple[Row, ...]
    result: str
    directions: tuple[str, ...]

    def __str__(self) -> str:
        lines = self._forward() if self.mode == "forward" else self._reverse()
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _step(self, row: Row) -> str:
        return f"{row.name} = {row.formula}" + (f" = {self.result}" if row is self.rows[-1] else "")

    def _forward(self) -> list[str]:
        table = [["step", "value", "tangent", *self.directions]]
        for row in self.rows:
            rule = f"d{row.name} = {row.rule}" if row.rule else ""
            moves = map(tangent_in_words, row.derivatives)
            table.append([self._step(row), f"= {in_words(row.value)}", rule, *moves])
        return columns(table, "  ")

    def _reverse(self) -> list[str]:
        back = []
        for row in reversed(self.rows):
            if row.derivatives:
                known = [f"= {text}" if text else "" for text in (row.chain, row.rule)]
                value = f"= {in_words(row.derivatives[0])}"
                back.append([f"d{self.result}/d{row.name}", *known, value, ", ".join(row.through)])
        forth = [[self._step(row), f"= {in_words(row.value)}"] for row in self.rows]
        heading = ["derivative", "chain rule", "", "value", "through"]
        return [*columns([["step", "value"], *forth], " "), "", *columns([heading, *back], " ")]


def tangent_in_words(tangent: Array) -> str:
    """Return a tangent's numbers, one 0 for many."""
    return in_words(tangent) if tangent.any() else "0"


def columns(table: list[list[str]], gap: str) -> list[str]:
    """Return the lines of a table."""
    widths = [max(map(len, cells)) for cells in zip(*table)]
    return [gap.join(cell.ljust(width) for cell, width in zip(line, widths)) for line in table]


# --- running a function ---


def trace(f: Function, x: Any, mode: Literal["reverse", "forward"] = "reverse", v: Any = None) -> Trace:
    """Run f at x and return its evaluation step by step, with the derivatives: print it to see the table.

    x may be a tuple of arguments, as f(*x), or one: numbers, arrays, Tensors, or trees of them. In forward
    mode, ``v`` is the direction, in the form of x; without it there is one pass, and one column, per number
    in x, of which there may be six. In reverse mode, ``v`` is the cotangent of f's value; it may be left out
    for a single element (then 1). A derivative taken inside f is shown as the steps that compute it.

    Raises ValueError for another mode, a v that does not fit or is missing, several results or a result that
    does not depend on x; TypeError for x that is not floating-point or a result that is no Tensor.

    >>> print(trace(lambda x1, x2: x1 * x2 + x1.sin(), (2.0, 3.0)))
    step             value
    w1 = x1          = 2
    w2 = x2          = 3
    w3 = w1·w2       = 6
    w4 = sin(w1)     = 0.909297
    w5 = w3 + w4 = z = 6.909297
    <BLANKLINE>
    derivative chain rule                                           value      through
    dz/dw5                                                          = 1
    dz/dw4     = dz/dw5·dw5/dw4                  = 1·1              = 1        add
    dz/dw3     = dz/dw5·dw5/dw3                  = 1·1              = 1        add
    dz/dw2     = dz/dw3·dw3/dw2                  = 1·w1             = 2        mul
    dz/dw1     = dz/dw4·dw4/dw1 + dz/dw3·dw3/dw1 = 1·cos(w1) + 1·w2 = 2.583853 sin, mul
    """
    if mode not in ("reverse", "forward"):
        raise ValueError(f"trace: mode must be reverse or forward, got {mode!r}")
    inputs = differentiable("trace", x, "x")
    labels = input_labels(f, x)
    return forward(f, x, inputs, labels, v) if mode == "forward" else reverse(f, x, inputs, labels, v)


def input_labels(f: Function, x: Any) -> list[str]:
    """Return what the leaves of x are called: as f calls its arguments, else x or x1, x2 ...."""
    args = x if type(x) is tuple else (x,)
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # builtins have none
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(named) < len(args):
        named = ["x"] if len(args) == 1 else [f"x{i}" for i in range(1, len(args) + 1)]
    return [path for name, arg in zip(named, args) for path, _ in tree.leaves(arg, name)]


def result_of(y: Any) -> Tensor:
    """Return f's value; ValueError unless it is one recorded Tensor."""
    found = results("trace", y)
    if len(found) > 1:
        raise ValueError(f"trace: f must return one Tensor, got {len(found)}; trace one of them")
    return found[0]


def steps_of_call(y: Tensor, leaves: Sequence[Tensor], labels: Sequence[str]) -> list[Step]:
    """Return the steps from the leaves of x to y, which comes last."""
    steps = steps_to(y, list(zip(labels, leaves)), "c")
    reached = {id(leaf) for leaf in leaves}
    if not any(id(t) in reached for t in topological_order(y)):
        raise ValueError(
            "trace: f's value does not depend on x; compute with the Tensors that f is given, not with their "
            ".data or .item(), and outside of no_grad()"
        )
    last = next(step for step in steps if step.thing is y)
    return [step for step in steps if step is not last] + [last]


def row_of(step: Step, derivatives: tuple[Array, ...], chain: str, rule: str, through: Sequence[str]) -> Row:
    """Return a step as data that no longer holds the tape."""
    op = None if step.node is None else step.node.op.name
    inputs = tuple([used.name for used in step.uses])
    return Row(
        step.name, step.formula(), op, inputs, np.array(step.value), derivatives, chain, rule, tuple(through)
    )


def reverse(f: Function, x: Any, inputs: list[Tensor], labels: list[str], v: Any) -> Trace:
    """Return the trace with dz/dw of every step."""
    leaves = [t.as_leaf() for t in inputs]
    with recording(True):
        y = result_of(call(f, tree.rebuilt(x, iter(leaves))))
    steps = steps_of_call(y, leaves, labels)
    if v is None and y.size != 1:
        raise ValueError(
            f"trace: f's value has shape {y.shape}, so reverse mode needs v, a cotangent of that shape; or "
            "reduce the value, as by .sum()"
        )
    if v is not None and np.shape(v) != y.shape:
        raise ValueError(f"trace: v must have the shape of f's value, {y.shape}, got {np.shape(v)}")
    active = [step for step in steps if step.differentiated]
    found = carry_back(y, y.cotangent(v), [step.thing for step in active], retain_graph=True)
    gradients = {
        id(step): np.zeros_like(step.value) if dx is None else np.array(dx.data)
        for step, dx in zip(active, found)
    }
    uses: dict[int, dict[int, Step]] = {id(step): {} for step in steps}
    for user in reversed(steps):  # the order in which gradients arrive
        for used, need in zip(user.uses, user.needs):
            if need:
                uses[id(used)][id(user)] = user
    z, rows = result_label(labels), []
    for step in steps:
        users = list(uses[id(step)].values())
        chain, rule = pulled_in_words(step, users, gradients, z)
        through = dict.fromkeys(user.node.op.name for user in users if user.node is not None)
        derivative = (gradients[id(step)],) if id(step) in gradients else ()
        rows.append(row_of(step, derivative, chain, rule, tuple(through)))
    return Trace("reverse", named_only(steps, rows), z, (f"d{z}/dw",))


def forward(f: Function, x: Any, inputs: list[Tensor], labels: list[str], v: Any) -> Trace:
    """Return the trace with dw/dx of every step for each direction."""
    directions, runs = directions_of(inputs, labels, v), []
    for _, direction in directions:
        runs.append(pushed(f, x, inputs, labels, direction))
    steps, rows = runs[0], []
    for i, step in enumerate(steps):
        moves = [tangent_of(run[i]) for run in runs]
        moving = {id(s) for s in steps if getattr(s.thing, "tangent", None) is not None}
        through = () if step.node is None or id(step) not in moving else (step.node.op.name,)
        rows.append(row_of(step, tuple(moves), "", pushed_in_words(step, moving), through))
    names = named_only(steps, rows)
    letter = names[-1].name[0]
    heads = tuple([f"d{letter}/d{name}" if name else f"d{letter} along v" for name, _ in directions])
    return Trace("forward", names, result_label(labels), heads)


def named_only(steps: list[Step], rows: list[Row]) -> tuple[Row, ...]:
    """Return the rows of the steps that have names: a number stands in the formulas already."""
    return tuple([row for step, row in zip(steps, rows) if not step.is_number])


def tangent_of(step: Step) -> Array:
    """Return a copy of the tangent; zeros for what does not move."""
    tangent = getattr(step.thing, "tangent", None)
    return np.zeros(step.value.shape) if tangent is None else np.array(tangent.data)


def directions_of(inputs: list[Tensor], labels: list[str], v: Any) -> list[tuple[str, list[Array]]]:
    """Return the directions to go along, each an array per leaf of x, with the names of the unit ones."""
    if v is not None:
        given = [t.data for t in differentiable("trace", v, "v")]
        if [a.shape for a in given] != [t.shape for t in inputs]:
            wanted, got = (", ".join(str(a.shape) for a in arrays) for arrays in (inputs, given))
            raise ValueError(f"trace: v must have the shapes of x, {wanted}, got {got}")
        return [("", given)]
    size = sum(t.size for t in inputs)
    if not 0 < size <= MOST_DIRECTIONS:
        raise ValueError(
            f"trace: x has {size} elements, and forward mode takes a pass for each, up to {MOST_DIRECTIONS}; "
            "give v, a direction with the shapes of x, or use mode='reverse'"
        )
    found = []
    for k, (t, label) in enumerate(zip(inputs, labels)):
        for place in np.ndindex(t.shape):
            unit = [np.zeros(other.shape, other.dtype) for other in inputs]
            unit[k][place] = 1
            found.append((f"{label}[{', '.join(map(str, place))}]" if place else label, unit))
    return found


def pushed(f: Function, x: Any, inputs: list[Tensor], labels: list[str], v: list[Array]) -> list[Step]:
    """Return the steps of one pass along v; their tensors are Duals, with tangents."""
    kept: list[list[Step]] = []

    def watched(*args: Any) -> Tensor:
        # Duals that are recorded, too: one pass gives the steps and their tangents.
        leaves = [dual.as_leaf() for _, dual in tree.leaves(args, "")]
        with recording(True):
            y = result_of(f(*tree.rebuilt(args, iter(leaves))))
        kept.append(steps_of_call(y, leaves, labels))
        return y.detach()

    at = tree.rebuilt(x, iter([t.detach() for t in inputs]))
    jvp(watched, at, tree.rebuilt(x, iter([Tensor(a) for a in v])), create_graph=False)
    return kept[0]
