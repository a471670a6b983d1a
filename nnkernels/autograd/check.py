"""gradcheck: are the derivatives of a function what its values say?

Three questions, for f, a random cotangent dy with a weight of its own on every output element, and random
directions v:

    reverse   J^T dy, one backward pass   against  (<dy, f(x + h e_i)> - <dy, f(x - h e_i)>) / 2h for every i
    forward   J v, one forward pass       against  (f(x + h v) - f(x - h v)) / 2h
    adjoint   <dy, J v>                   against  <J^T dy, v>, without any differences

A cotangent of ones would check the gradient of the sum alone, in which faults cancel. Where f has a kink
between x - h and x + h, a central difference is no derivative; such elements are known by their one-sided
differences, which at a kink do not approach each other as h shrinks.

Griewank and Walther, Evaluating Derivatives, SIAM 2008, ch. 2.
"""

import math
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from nnkernels.autograd import tree
from nnkernels.autograd.report import Adjoint, Kink, Part, Report, worst_of
from nnkernels.autograd.tape import recording
from nnkernels.autograd.tensor import Tensor, array_of
from nnkernels.autograd.transforms import Function, call, jvp, results, vjp
from nnkernels.machine.memory import Array

DIRECTIONS = 2
ROUNDING = 8 * float(np.finfo(np.float64).eps)  # of f's values, relative; most functions have less


class GradcheckError(AssertionError):
    """Derivatives that differ; ``report`` has the details, which are also the message."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


class Limits(NamedTuple):
    """How far moves go and how large errors may be."""

    eps: float
    atol: float
    rtol: float


def gradcheck(
    f: Function,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-7,
    rtol: float = 1e-6,
    elements: int | None = None,
    raise_exception: bool = True,
    rng: np.random.Generator | int | None = None,
) -> Report:
    """Check f's derivatives of both modes against central differences of its values, in float64.

    ``inputs`` is an array or a Tensor, a tuple of arguments, f(*inputs), or a tree of them, as a dict of
    parameters; all are differentiated by, so leave labels to f: ``gradcheck(lambda x: f(x, labels), x)``.
    float32 is converted to float64, and the report says so; what f holds itself must be float64. The inputs
    are left as they are.

    An element moves by eps max(1, |x|) to both sides, and an error may be atol + rtol |numeric| and what f's
    rounding explains. Elements at kinks are reported and left out. f runs twice per element; ``elements``
    limits how many of each input, drawn at random, are moved. ``rng`` (default: seed 0) draws cotangents and
    directions.

    Raises GradcheckError, an AssertionError whose message is the report, where a derivative is wrong or every
    element lies at a kink, unless ``raise_exception=False``. Raises TypeError for inputs that are not
    floating-point or a value that is no Tensor of float64, ValueError where f is not deterministic, writes
    into its inputs or is not finite.

    >>> bool(gradcheck(lambda x, y: x.sin() * y, (np.arange(3.0), np.ones(3))))
    True
    """
    limits = Limits(*(within(name, v) for name, v in (("eps", eps), ("atol", atol), ("rtol", rtol))))
    if not callable(f):
        raise TypeError(f"gradcheck: f must be a function of Tensors, got {type(f).__name__}")
    if elements is not None and not (isinstance(elements, int) and elements >= 1):
        raise ValueError(
            f"gradcheck: elements must be a whole number of at least 1, or None, got {elements!r}"
        )
    if not isinstance(rng, (np.random.Generator, int, type(None))):
        raise TypeError(f"gradcheck: rng must be a numpy.random.Generator or a seed, got {rng!r}")
    rng = np.random.default_rng(0 if rng is None else rng)
    checked = Checked(f, inputs)
    report = Inspection(checked, limits, rng).report(elements)
    if raise_exception and not report:
        raise GradcheckError(report)
    return report


def within(name: str, value: float) -> float:
    """Return eps, atol or rtol; ValueError unless it is finite and not negative, eps above 0."""
    if not isinstance(value, Real):
        raise TypeError(f"gradcheck: {name} must be a number, got {value!r}")
    if not 0 <= value < math.inf or (name == "eps" and value == 0):
        wanted = "above 0" if name == "eps" else "at least 0"
        raise ValueError(f"gradcheck: {name} must be a finite number {wanted}, got {value}")
    return float(value)


# --- the function ---


class Checked:
    """A function of arrays whose value is one vector: f, its inputs taken apart and its outputs joined."""

    def __init__(self, f: Function, inputs: Any) -> None:
        self.f, self.inputs = f, inputs
        self.names, self.arrays, self.converted = in_float64(inputs)
        given = [a.copy() for a in self.arrays]
        try:
            found = self.tensors()
        except (TypeError, ValueError) as error:
            if self.converted:
                error.add_note(
                    "gradcheck converted its inputs to float64: what f holds itself must be float64, too"
                )
            raise
        self.outputs = [
            (name, t.shape) for (name, _), t in zip(tree.leaves(found, "f(x)"), results("gradcheck", found))
        ]
        self.y = joined(found)
        for name, a, before in zip(self.names, self.arrays, given):
            if not np.array_equal(a, before):
                raise ValueError(f"gradcheck: f wrote into {name}; let it change a copy")
        self.demand_sound()

    def tensors(self) -> Any:
        """Return f's value at the arrays."""
        with recording(False):
            return call(self.f, self.point())

    def point(self) -> Any:
        """Return the arrays as Tensors, in the form of the inputs."""
        return tree.rebuilt(self.inputs, iter([Tensor(a) for a in self.arrays]))

    def __call__(self) -> Array:
        """Return f's value at the arrays, as a vector of its own."""
        return joined(self.tensors())

    def demand_sound(self) -> None:
        """Raise ValueError where the value is not finite or comes out differently the second time."""
        if not np.isfinite(self.y).all():
            bad = self.y[~np.isfinite(self.y)]
            raise ValueError(
                f"gradcheck: {bad.size} of {self.y.size} elements of f's value are not finite, as {bad[0]}; "
                "move the inputs to where f is defined"
            )
        again = self()
        if again.shape != self.y.shape or not np.array_equal(again, self.y):
            apart = (
                f" by up to {np.abs(again - self.y).max():.3g}"
                if again.shape == self.y.shape
                else " in shape"
            )
            raise ValueError(
                f"gradcheck: f is not deterministic: two calls with the same inputs differ{apart}; "
                "seed its random numbers inside f, or switch dropout off by model.eval()"
            )

    def moved(self, places: list[tuple[Array, Any]], steps: list[Any], what: str) -> Array:
        """Return f's value with elements moved, which are then put back."""
        before = [np.array(a[at]) for a, at in places]
        for (a, at), step in zip(places, steps):
            a[at] += step
        y = self()
        for (a, at), old in zip(places, before):
            a[at] = old
        if y.shape != self.y.shape or not np.isfinite(y).all():
            raise ValueError(
                f"gradcheck: f is not finite, or of another shape, once {what} has moved by a step; "
                "keep the inputs away from the edge of where f is defined, or take a smaller eps"
            )
        return y


def in_float64(inputs: Any) -> tuple[list[str], list[Array], list[str]]:
    """Return the leaves' names, copies of them in float64, and what was converted."""
    names, arrays, converted = [], [], []
    for name, leaf in tree.leaves(inputs, "inputs"):
        a = np.asarray(array_of(leaf))
        if a.dtype not in (np.float32, np.float64):
            got = f"{a.dtype} array of shape {a.shape}" if hasattr(leaf, "shape") else repr(leaf)[:60]
            raise TypeError(
                f"gradcheck: {name} must be float64 or float32, got {got}; leave what has no gradient, as "
                "labels, to f: gradcheck(lambda x: f(x, labels), x)"
            )
        if not np.isfinite(a).all():
            raise ValueError(
                f"gradcheck: {name} must be finite, got {a[~np.isfinite(a)][0]} among its elements"
            )
        if a.dtype == np.float32:
            converted.append(name)
        names.append(name)
        arrays.append(np.array(a, np.float64, order="C"))
    if not names:
        raise TypeError("gradcheck: inputs holds no array to differentiate by")
    return names, arrays, converted


def joined(y: Any) -> Array:
    """Return all elements of f's value, copied into one vector; TypeError unless they are float64."""
    found = results("gradcheck", y)
    for t in found:
        if t.dtype != np.float64:
            raise TypeError(
                f"gradcheck: f must return float64 for inputs of float64, got {t.dtype}; "
                "rounding to float32 would hide small faults, and integers have no derivative"
            )
    return np.concatenate([np.ravel(t.data) for t in found])


# --- differences ---


class Slopes(NamedTuple):
    """Differences to the left and to the right, and how far rounding may have moved them."""

    left: Array
    right: Array
    noise: Array

    @property
    def central(self) -> Array:
        """The difference from end to end."""
        return np.asarray((self.left + self.right) / 2)


class Compared(NamedTuple):
    """Derivatives beside differences, element by element."""

    analytic: Array
    numeric: Array
    allowed: Array
    kink: Array
    left: Array
    right: Array


def compare(analytic: Array, slopes: Callable[[float], Slopes], limits: Limits) -> Compared:
    """Compare derivatives with differences, and look again with half the step where something seems wrong.

    Half the step halves the gap between left and right for a smooth function; at a kink the gap stays, and
    beside one the two central differences disagree.
    """
    wide = slopes(limits.eps)
    allowed = limits.atol + limits.rtol * np.abs(wide.central) + wide.noise
    gap = np.abs(wide.right - wide.left)
    bent = gap > allowed + 1e-3 * np.maximum(np.abs(wide.left), np.abs(wide.right))
    doubtful = bent | ~(np.abs(analytic - wide.central) <= allowed)
    if not doubtful.any():
        return Compared(analytic, wide.central, allowed, doubtful, wide.left, wide.right)
    narrow = slopes(limits.eps / 2)
    stays = np.abs(narrow.right - narrow.left) > 0.75 * gap
    beside = np.abs(narrow.central - wide.central) > allowed + narrow.noise
    kink = doubtful & ((bent & stays) | beside)
    return Compared(analytic, wide.central, allowed, kink, narrow.left, narrow.right)


class Inspection:
    """All checks of one function at one point."""

    def __init__(self, f: Checked, limits: Limits, rng: np.random.Generator) -> None:
        self.f, self.limits, self.rng = f, limits, rng
        self.dy = rng.standard_normal(f.y.size)
        self.kinks: list[Kink] = []
        args = f.point()
        y, pull = vjp(f.f, *(args if type(args) is tuple else (args,)), create_graph=False)
        cuts = np.cumsum([math.prod(shape) for _, shape in f.outputs])[:-1]
        parts = [dy.reshape(shape) for dy, (_, shape) in zip(np.split(self.dy, cuts), f.outputs)]
        pulled = pull(tree.rebuilt(y, iter([Tensor(dy) for dy in parts])))
        self.gradients = [np.array(leaf.data) for _, leaf in tree.leaves(pulled, "")]

    def report(self, elements: int | None) -> Report:
        """Run the checks."""
        inputs = [self.reverse(k, elements) for k in range(len(self.f.arrays))]
        outputs, adjoint = self.forward()
        limits = self.limits
        return Report(
            tuple(inputs), tuple(outputs), adjoint, tuple(self.kinks), tuple(self.f.converted),
            limits.eps, limits.atol, limits.rtol,
        )  # fmt: skip

    def reverse(self, k: int, elements: int | None) -> Part:
        """Compare the gradient by input k with differences, one element after the other."""
        name, a, gradient = self.f.names[k], self.f.arrays[k], self.gradients[k]
        if gradient.shape != a.shape:
            fault = f"gradient has shape {gradient.shape}, wanted {a.shape}"
            return Part(name, a.shape, 0, 0, 0, fault=fault)
        indices = list(np.ndindex(a.shape))
        if elements is not None and elements < len(indices):
            chosen = np.sort(self.rng.choice(len(indices), elements, replace=False))
            indices = [indices[i] for i in chosen]
        rows = []
        for index in indices:
            row = compare(np.asarray(gradient[index]), partial(self.along_axis, k, index), self.limits)
            rows.append(row)
            if row.kink:
                self.kinks.append(Kink(name, index, float(row.analytic), float(row.left), float(row.right)))
        return worst_of(name, a.shape, indices, *columns(rows))

    def along_axis(self, k: int, index: tuple[int, ...], h: float) -> Slopes:
        """Return the slopes of <dy, f> by one element."""
        f, a, x = self.f, self.f.arrays[k], self.f.arrays[k][index]
        step = h * max(1.0, abs(x))
        what = f"{f.names[k]}[{', '.join(map(str, index))}]"
        above = f.moved([(a, index)], [step], what)
        below = f.moved([(a, index)], [-step], what)
        # By how far x has really moved: x + step is rounded.
        right = self.dy @ (above - f.y) / ((x + step) - x)
        left = self.dy @ (f.y - below) / (x - (x - step))
        noise = ROUNDING * np.sum(np.abs(self.dy * f.y), where=above != below) / step
        return Slopes(np.asarray(left), np.asarray(right), np.asarray(noise))

    def forward(self) -> tuple[list[Part], Adjoint | None]:
        """Compare J v with differences along v, and <dy, J v> with <J^T dy, v>."""
        rows, sides = [], []
        for _ in range(DIRECTIONS):
            v = self.direction()
            direction = tree.rebuilt(self.f.inputs, iter([Tensor(d) for d in v]))
            moved = jvp(self.f.f, self.f.point(), direction, create_graph=False)[1]
            tangents = [leaf.data for _, leaf in tree.leaves(moved, "")]
            for (name, shape), t in zip(self.f.outputs, tangents):
                if t.shape != shape:
                    return [
                        Part(name, shape, 0, 0, 0, fault=f"J v has shape {t.shape}, wanted {shape}")
                    ], None
            jv = np.concatenate([np.ravel(t) for t in tangents])
            rows.append(compare(jv, partial(self.along, v), self.limits))
            sides.append(self.both_sides(jv, v))
        # Of each output element, the direction along which it is worst.
        ratio = np.stack([np.abs(r.analytic - r.numeric) / (r.allowed + 1e-300) for r in rows])
        pick = np.where(np.isnan(ratio), np.inf, ratio).argmax(axis=0)[None]
        merged = [np.take_along_axis(c, pick, axis=0)[0] for c in columns(rows)]
        merged[3] = np.any([r.kink for r in rows], axis=0)
        parts, at = [], 0
        for name, shape in self.f.outputs:
            n = math.prod(shape)
            parts.append(worst_of(name, shape, list(np.ndindex(shape)), *[c[at : at + n] for c in merged]))
            at += n
        known = [side for side in sides if side is not None]
        return parts, max(known, key=lambda side: (not side.ok, side.error)) if known else None

    def direction(self) -> list[Array]:
        """Return a random direction that stays on the kinks found: nothing at such elements moves."""
        v = [self.rng.standard_normal(a.shape) * np.maximum(1, np.abs(a)) for a in self.f.arrays]
        for kink in self.kinks:
            v[self.f.names.index(kink.name)][kink.index] = 0
        return [np.asarray(d) for d in v]

    def along(self, v: list[Array], h: float) -> Slopes:
        """Return the slopes of every output element along v."""
        f, places = self.f, [(a, ...) for a in self.f.arrays]
        above = f.moved(places, [h * d for d in v], "all of inputs")
        below = f.moved(places, [-h * d for d in v], "all of inputs")
        return Slopes((f.y - below) / h, (above - f.y) / h, ROUNDING * np.abs(f.y) / h)

    def both_sides(self, jv: Array, v: list[Array]) -> Adjoint | None:
        """Return <dy, J v> and <J^T dy, v>, None where a gradient has another shape."""
        if any(g.shape != d.shape for g, d in zip(self.gradients, v)):
            return None
        forward = self.dy * jv
        reverse = np.concatenate([np.ravel(g * d) for g, d in zip(self.gradients, v)])
        scale = float(np.abs(forward).sum() + np.abs(reverse).sum())
        return Adjoint(float(forward.sum()), float(reverse.sum()), scale)


def columns(rows: list[Compared]) -> list[Array]:
    """Return analytic, numeric, allowed and kink of all rows as arrays."""
    return [np.array([row[i] for row in rows]) for i in range(4)]
