"""Backward passes written in ops, so that they can be differentiated in their turn.

An op's ``gradient(op, dy, outputs, inputs, needs, **attributes)`` returns one gradient per input, None where
there is none, as ``backward`` does, but computes it from Tensors by ops. ``outputs`` are arrays: constants to
whatever differentiates the gradient, so only what does not change with the inputs may be read from them (the
place of a maximum, which side of a kink).

Most ops need no such function of their own. An op that is linear in each of its inputs has derivatives that
are again values of its own passes: with <., .> the sum of all products of elements,

    <dy, B(u, w)> = <B*_0(dy, w), u> = <B*_1(dy, u), w>

holds for all dy, u, w. So a cotangent u of B*_0(dy, w) is pulled back to B*_1(dy, u) for w, and to B(u, w)
for dy: ``multilinear``. Other ops say how they are made of simpler ones, ``by_formula``, or how steep they
are, ``by_slope``. Griewank and Walther, Evaluating Derivatives, SIAM 2008, ch. 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.op import Body, Op

Gradient = Callable[..., tuple[Any, ...]]
Needs = tuple[bool, ...]


def multilinear(*together: int) -> Gradient:
    """Return the gradient of an op linear in each input, where those at ``together`` are multiplied."""

    def gradient(
        op: Op, dy: Any, outputs: tuple[Array, ...], inputs: tuple[Any, ...], needs: Needs, **attributes: Any
    ) -> tuple[Any, ...]:
        form = Form(op, len(inputs), frozenset(together))
        return tuple(
            form.call(i, True, dy, *inputs, *outputs, **attributes) if need else None
            for i, need in enumerate(needs)
        )

    return gradient


linear = multilinear()  # reads nothing of its inputs but their shapes
piecewise_linear = multilinear()  # reads on which side of its kinks they lie


def by_slope(slope: Callable[..., Any]) -> Gradient:
    """Return the gradient dy * slope(x, **attributes) of a function of one array, element by element."""

    def gradient(
        op: Op, dy: Any, outputs: tuple[Array, ...], inputs: tuple[Any, ...], needs: Needs, **attributes: Any
    ) -> tuple[Any, ...]:
        return (dy * slope(*inputs, **attributes),)

    return gradient


def by_formula(formula: Callable[..., Any]) -> Gradient:
    """Return the gradient of ``formula(*inputs, **attributes)``: the op's result, written in simpler ops.

    The formula gets Tensors (but integers and bools as arrays).
    """

    def gradient(
        op: Op, dy: Any, outputs: tuple[Array, ...], inputs: tuple[Any, ...], needs: Needs, **attributes: Any
    ) -> tuple[Any, ...]:
        gradients: tuple[Any, ...] = dy.pulled_through(formula, inputs, needs, attributes)
        return gradients

    return gradient


# --- the passes of a multilinear op, as ops of their own ---


class Form(NamedTuple):
    """What an op's passes share: <dy, op(*inputs)>, linear in dy and in each of ``n`` inputs.

    Along ``factors``, inputs that are multiplied with one another, its slope depends on the other ones.
    """

    op: Op
    n: int
    factors: frozenset[int]

    def call(self, i: int, back: bool, first: Any, *rest: Any, **attributes: Any) -> Any:
        """Return a pass as an op's result; ``rest`` are the inputs, then the outputs.

        With ``back`` the gradient of input i for the cotangent ``first``, else the change of the result when
        input i moves by ``first``.
        """
        others = self.others(i)
        plain = [a.data if j not in others and hasattr(a, "apply_op") else a for j, a in enumerate(rest)]
        return pass_op(self, i, back)(first, *plain, **attributes)

    def others(self, i: int) -> frozenset[int]:
        """Return the inputs by which the slope along input i depends."""
        return self.factors - {i} if i in self.factors else frozenset()

    def run(self, body: Body, i: int, back: bool) -> Callable[..., Array]:
        """Return one of the two as a function of arrays."""

        def pull(dy: Array, *rest: Any, **attributes: Any) -> Array:
            assert body.backward is not None
            needs = tuple(j == i for j in range(self.n))
            dx = body.backward(dy, rest[self.n :], rest[: self.n], needs, **attributes)[i]
            assert dx is not None
            return np.asarray(dx)

        def push(u: Array, *rest: Any, **attributes: Any) -> Array:
            assert self.op.jvp is not None
            tangents = tuple(u if j == i else None for j in range(self.n))
            return np.asarray(self.op.jvp(tangents, rest[self.n :], rest[: self.n], **attributes))

        return pull if back else push

    def gradients(
        self, i: int, back: bool, cotangent: Any, inputs: Sequence[Any], needs: Needs, attributes: Any,
        run: Callable[[int, bool], Callable[..., Any]],
    ) -> tuple[Any, ...]:  # fmt: skip
        """Return the gradients of a pass: values of other passes, which ``run(i, back)`` returns."""
        first, *rest = inputs  # dy where the pass goes back, else u
        dy, u = (first, cotangent) if back else (cotangent, first)
        grads: list[Any] = [None] * len(inputs)
        if needs[0]:
            grads[0] = run(i, not back)(cotangent, *rest, **attributes)
        moved = [u if j == i else a for j, a in enumerate(rest)]
        for j in self.others(i):
            if needs[1 + j]:
                grads[1 + j] = run(j, True)(dy, *moved, **attributes)
        return tuple(grads)


@cache
def pass_op(form: Form, i: int, back: bool) -> Op:
    """Return a pass of ``form`` as an op; its inputs come from calls that have been checked."""
    op = form.op

    def as_body(body: Body) -> Body:
        forward = form.run(body, i, back)

        def backward(
            dy: Array, outputs: tuple[Array], inputs: tuple[Any, ...], needs: Needs, **attributes: Any
        ) -> tuple[Array | None, ...]:
            return form.gradients(i, back, dy, inputs, needs, attributes, partial(form.run, body))

        return Body(lambda *arrays, **attributes: (forward(*arrays, **attributes),), backward)

    def gradient(
        this: Op, dy: Any, outputs: tuple[Array], inputs: tuple[Any, ...], needs: Needs, **attributes: Any
    ) -> tuple[Any, ...]:
        def run(j: int, back: bool) -> Callable[..., Any]:
            return partial(form.call, j, back)

        return form.gradients(i, back, dy, inputs, needs, attributes, run)

    def jvp(
        tangents: tuple[Any, ...], outputs: tuple[Array], inputs: tuple[Any, ...], **attributes: Any
    ) -> Array:
        run = form.run(op.body_for(inputs), i, back)
        changes = [
            run(*[v if k == j else a for k, a in enumerate(inputs)], **attributes)
            for j, v in enumerate(tangents)
            if v is not None
        ]
        return np.asarray(sum(changes[1:], changes[0]))

    return replace(
        op,
        name=f"{op.name}.{'backward' if back else 'jvp'}[{i}]",
        loops=as_body(op.loops),
        vectorized=as_body(op.vectorized),
        tuned=as_body(op.tuned),
        check=lambda *arrays, **attributes: None,
        check_values=None,
        counter=None,
        jvp=jvp,
        gradient=gradient,
        constants=frozenset(1 + j for j in range(form.n) if j not in form.others(i)),
        mutants=(),
        accepted=set(),
        explain=None,
    )
