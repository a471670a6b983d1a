"""What ``gradcheck`` found, and how it is told."""

import math
from dataclasses import dataclass

import numpy as np

from nnkernels.machine.memory import Array

ADJOINT = 1e-10  # allowed between <dy, J v> and <J^T dy, v>, relative to the magnitudes summed
SHOWN = 5  # kinks listed one by one


@dataclass(frozen=True)
class Element:
    """One derivative beside the difference it should equal."""

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    allowed: float

    @property
    def error(self) -> float:
        """How far the two are apart."""
        return abs(self.analytic - self.numeric)

    @property
    def relative(self) -> float:
        """The error relative to the larger of the two."""
        return self.error / max(abs(self.analytic), abs(self.numeric)) if self.error else 0.0

    @property
    def blurred(self) -> bool:
        """Whether more than a thousandth of the value could be wrong without being noticed."""
        return self.allowed > 1e-3 * max(1e-3, abs(self.analytic), abs(self.numeric))


@dataclass(frozen=True)
class Kink:
    """An input element where f's slopes to the left and to the right differ; those of <dy, f>."""

    name: str
    index: tuple[int, ...]
    analytic: float
    left: float
    right: float

    @property
    def between(self) -> bool:
        """Whether the derivative is one of the slopes or lies between them."""
        low, high = sorted((self.left, self.right))
        slack = 1e-6 * (1 + abs(low) + abs(high))
        return low - slack <= self.analytic <= high + slack


@dataclass(frozen=True)
class Part:
    """The elements of one input, or for forward mode of one output.

    ``checked`` counts elements that were compared, ``kinks`` those left out, ``wrong`` those that differ by
    more than is allowed. ``worst`` has the largest error for what is allowed. ``factor`` is analytic over
    numeric where that is the same for all wrong ones; ``fault`` says why nothing could be compared.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    kinks: int
    wrong: int
    worst: Element | None = None
    factor: float | None = None
    fault: str = ""

    @property
    def ok(self) -> bool:
        """Whether no element is wrong."""
        return not (self.wrong or self.fault)


@dataclass(frozen=True)
class Adjoint:
    """<dy, J v> and <J^T dy, v>, which should be equal; ``scale`` is the sum of their terms' magnitudes."""

    forward: float
    reverse: float
    scale: float

    @property
    def error(self) -> float:
        """The difference, relative to ``scale``."""
        return abs(self.forward - self.reverse) / self.scale if self.scale else 0.0

    @property
    def ok(self) -> bool:
        """Whether the difference is rounding."""
        return self.error <= ADJOINT


@dataclass(frozen=True)
class Report:
    """The outcome of a gradcheck: true where all derivatives are right; ``print`` it for the details.

    ``inputs`` holds reverse mode's comparisons, one per input array, ``outputs`` forward mode's, one per
    output. ``adjoint`` is None where shapes do not fit. ``converted`` names the inputs that came as float32.
    """

    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    adjoint: Adjoint | None
    kinks: tuple[Kink, ...]
    converted: tuple[str, ...]
    eps: float
    atol: float
    rtol: float

    @property
    def checked(self) -> int:
        """The number of input elements whose gradient was compared."""
        return sum(part.checked for part in self.inputs)

    @property
    def ok(self) -> bool:
        """Whether something was compared and nothing is wrong."""
        sound = all(part.ok for part in (*self.inputs, *self.outputs))
        return sound and self.adjoint is not None and self.adjoint.ok and (self.checked > 0 or not self.kinks)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        rows = [("reverse", part) for part in self.inputs] + [("forward", part) for part in self.outputs]
        told = [*table(rows), *self.adjoint_line(), *self.kink_lines(), *self.notes()]
        return "\n".join([f"gradcheck: {self.headline()}", *told])

    def headline(self) -> str:
        """Say the verdict in one sentence."""
        if self.ok:
            left = f", {len(self.kinks)} at kinks left out" if self.kinks else ""
            return f"ok, {self.checked} elements{left}"
        reverse, forward = (sum(p.wrong for p in parts) for parts in (self.inputs, self.outputs))
        reasons = [f"{part.name}: {part.fault}" for part in (*self.inputs, *self.outputs) if part.fault]
        if reverse:
            reasons.append(f"{reverse} of {self.checked} gradients are wrong")
        if forward:
            reasons.append(
                f"forward mode is wrong in {forward} of {sum(p.checked for p in self.outputs)} outputs"
            )
        if self.adjoint is not None and not self.adjoint.ok:
            reasons.append("the two modes disagree")
        if not reasons:
            reasons.append(
                "every element lies at a kink, or eps is too large: nothing was compared; move the inputs"
            )
        return "FAILED: " + "; ".join(reasons)

    def adjoint_line(self) -> list[str]:
        """Return the line on both modes' agreement."""
        a = self.adjoint
        if a is None:
            return []
        mark = "" if a.ok else f"  <- at most {ADJOINT:g}"
        sides = f"<dy, J v> = {a.forward:.9g}, <J^T dy, v> = {a.reverse:.9g}"
        return [f"adjoint  {sides}, relative {a.error:.1e}{mark}"]

    def kink_lines(self) -> list[str]:
        """Return a line for each of the first kinks."""
        lines = [
            f"kink     {place(k.name, k.index)}: slopes {k.left:.4g} | {k.right:.4g}, "
            f"analytic {k.analytic:.4g} {'is among or between' if k.between else 'is OUTSIDE of'} them"
            for k in self.kinks[:SHOWN]
        ]
        more = len(self.kinks) - SHOWN
        return [*lines, f"         and {more} more"] if more > 0 else lines

    def notes(self) -> list[str]:
        """Return what else there is to know."""
        lines = [
            f"allowed  error <= {self.atol:g} + {self.rtol:g} |numeric| + rounding; steps of {self.eps:g}"
        ]
        for part in (*self.inputs, *self.outputs):
            if part.worst is not None and part.worst.blurred:
                hidden = f"hides errors of up to {part.worst.allowed:.1g} in {part.name}"
                lines.append(
                    f"note     the rounding of f's values {hidden}: take a larger eps, or scale f down"
                )
        if self.converted:
            every = len(self.converted) == len(self.inputs) > 1
            names = f"all {len(self.inputs)} inputs" if every else ", ".join(self.converted)
            lines.append(f"note     converted from float32 to float64: {names}")
        return lines


def table(rows: list[tuple[str, Part]]) -> list[str]:
    """Return the head and a line per array, with another below those that are wrong."""
    body = [(mode, part, "" if part.worst is None else place("", part.worst.index)) for mode, part in rows]
    names = max(len("array"), *(len(part.name) for _, part, _ in body))
    places = max(len("worst at"), *(len(at) for *_, at in body))
    lines = [
        f"{'':<9}{'array':<{names}}{'checked':>13}{'kinks':>7}  {'worst at':<{places}}"
        f"{'analytic':>13}{'numeric':>13}{'error':>9}{'relative':>10}"
    ]
    for mode, part, at in body:
        checked = f"{part.checked}/{math.prod(part.shape)}"
        line = f"{mode:<9}{part.name:<{names}}{checked:>13}{part.kinks:>7}  {at:<{places}}"
        if part.worst is not None:
            w = part.worst
            line += f"{w.analytic:>13.6g}{w.numeric:>13.6g}{w.error:>9.1e}{w.relative:>10.1e}"
        lines.append((line + part.fault).rstrip())
        if part.wrong:
            alike = "" if part.factor is None else f", each {part.factor:.6g} times what it should be"
            lines.append(f"{'':<9}^ {part.wrong} wrong{alike}")
    return lines


def place(name: str, index: tuple[int, ...]) -> str:
    """Return how an element is written in Python."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name or "()"


def worst_of(
    name: str,
    shape: tuple[int, ...],
    indices: list[tuple[int, ...]],
    analytic: Array,
    numeric: Array,
    allowed: Array,
    kink: Array,
) -> Part:
    """Return the summary of one array's comparisons."""
    smooth = np.flatnonzero(~np.asarray(kink, bool))
    kinks = len(indices) - smooth.size
    if not smooth.size:
        return Part(name, shape, 0, kinks, 0)
    a, n, limit = analytic[smooth], numeric[smooth], allowed[smooth]
    error = np.abs(a - n)
    wrong = ~(error <= limit)  # NaN counts as wrong
    ratio = np.where(np.isnan(error), np.inf, error / (limit + 1e-300))
    i = int(ratio.argmax())
    worst = Element(name, indices[smooth[i]], float(a[i]), float(n[i]), float(limit[i]))
    return Part(name, shape, smooth.size, kinks, int(wrong.sum()), worst, common_factor(a[wrong], n[wrong]))


def common_factor(analytic: Array, numeric: Array) -> float | None:
    """Return analytic / numeric where it is the same for two elements or more: a sign, a forgotten mean."""
    if analytic.size < 2 or not numeric.all():
        return None
    factors = analytic / numeric
    middle = float(np.median(factors))
    return middle if np.ptp(factors) <= 1e-4 * abs(middle) else None
