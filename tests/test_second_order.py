"""Every op's ``gradient``: the backward pass written in ops, and its derivatives, equal the kernels'."""

import numpy as np
import pytest

from nnkernels.autograd.dual import Dual
from nnkernels.autograd.tensor import Tensor, branch, carry_back
from nnkernels.ops import OPS, checks

DIFFERENTIABLE = sorted(name for name in OPS if OPS[name].loops.backward is not None)


def normal(rng, a):
    return np.asarray(rng.standard_normal(a.shape), a.dtype)


def close(got, wanted, tolerance, what):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}"
    scale = max(1.0, np.abs(wanted).max(initial=0))
    error = np.abs(got - wanted).max(initial=0)
    assert error <= tolerance * scale, f"{what}: differs by {error:.3g}, of {scale:.3g}"


class Call:
    """One sample of an op: its backward pass as kernels compute it, and as ops do."""

    def __init__(self, op, sample, rng):
        self.op, self.sample = op, sample
        self.needs = checks.differentiable(op, sample)
        self.arrays = [None if a is None else a.copy() for a in sample.arrays]
        self.dy = checks.cotangent(rng, self.outputs())
        self.what = f"{op.name} on {sample.label}"
        # A weight on every element of every gradient, so that no mistake hides in a sum.
        self.weights = [normal(rng, a) if need else None for a, need in zip(self.arrays, self.needs)]

    def outputs(self):
        return self.op.vectorized.forward(*self.arrays, **self.sample.attributes)

    def by_kernels(self):
        given = self.dy, self.outputs(), tuple(self.arrays), self.needs
        return self.op.vectorized.backward(*given, **self.sample.attributes)

    def weighted(self):
        """sum of <weight, gradient>, a number: what is differentiated once more."""
        pairs = zip(self.weights, self.by_kernels())
        return sum(float(np.sum(c * g)) for c, g in pairs if c is not None)

    def in_ops(self, dy, inputs):
        """The gradients as Tensors, for Tensors in the places that have gradients."""
        y = self.op(*inputs, **self.sample.attributes)
        wanted = [t for t, need in zip(inputs, self.needs) if need]
        found = iter(carry_back(y, dy, wanted, create_graph=True))
        return [next(found) if need else None for need in self.needs]

    def leaves(self):
        return [Tensor(a, requires_grad=True) if need else a for a, need in zip(self.arrays, self.needs)]


def calls(name):
    rng = np.random.default_rng(0)
    for sample in OPS[name].samples(rng, np.float64):
        call = Call(OPS[name], sample, rng)
        if any(call.needs):
            yield call


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_in_ops_equals_the_kernels(name):
    for call in calls(name):
        found = call.in_ops(Tensor(call.dy), call.leaves())
        for g, wanted in zip(found, call.by_kernels()):
            if wanted is not None:
                close(np.zeros_like(wanted) if g is None else g, wanted, 1e-12, call.what)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_of_the_gradient_equals_differences_of_the_kernels(name):
    for call in calls(name):
        dy, inputs = Tensor(call.dy, requires_grad=True), call.leaves()
        found = call.in_ops(dy, inputs)
        terms = [(g * c).sum() for g, c in zip(found, call.weights) if c is not None and g is not None]
        total = sum(terms[1:], terms[0])
        wanted_for = [dy, *(t for t, need in zip(inputs, call.needs) if need)]
        second = carry_back(total, total.cotangent(), wanted_for) if total.requires_grad else [None] * 9
        for t, g in zip(wanted_for, second):
            wanted = np.empty_like(t.data)
            for i in np.ndindex(t.shape):
                old, ends = t.data[i], []
                for step in (1e-5, -1e-5):
                    t.data[i] = old + step
                    ends.append(call.weighted())
                t.data[i] = old
                wanted[i] = (ends[0] - ends[1]) / 2e-5
            close(np.zeros_like(wanted) if g is None else g, wanted, 2e-6, call.what)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_tangents_of_the_gradient_equal_its_gradient(name):
    """Forward over reverse against reverse over reverse: <c, d(J^T dy) v> both ways."""
    rng = np.random.default_rng(1)
    for call in calls(name):
        moved = [normal(rng, a) if need else None for a, need in zip(call.arrays, call.needs)]
        duals = [a if v is None else Dual(a, Tensor(v), True) for a, v in zip(call.arrays, moved)]
        pairs = zip(call.in_ops(Tensor(call.dy), duals), call.weights)
        tangents = [np.sum(g.tangent.data * c) for g, c in pairs if g is not None and g.tangent is not None]
        inputs = call.leaves()
        found = call.in_ops(Tensor(call.dy), inputs)
        terms = [(g * c).sum() for g, c in zip(found, call.weights) if c is not None and g is not None]
        total = sum(terms[1:], terms[0])
        wanted_for = [t for t, need in zip(inputs, call.needs) if need]
        second = carry_back(total, total.cotangent(), wanted_for) if total.requires_grad else []
        pairs = zip(second, [v for v in moved if v is not None])
        other = sum(float(np.sum(g.data * v)) for g, v in pairs if g is not None)
        close(sum(tangents), other, 1e-9, call.what)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_recorded_tangents_equal_jvp_and_can_be_differentiated(name):
    """Reverse over forward: the tangent J v, computed by ops, gives J^T u when it is differentiated by v."""
    rng = np.random.default_rng(2)
    for call in calls(name):
        vs = [Tensor(normal(rng, a), True) if need else None for a, need in zip(call.arrays, call.needs)]
        duals = [a if v is None else Dual(a, v, recorded=True) for a, v in zip(call.arrays, vs)]
        y = call.op(*duals, **call.sample.attributes)
        arrays = tuple(None if v is None else v.data for v in vs)
        wanted = call.op.jvp(arrays, call.outputs(), tuple(call.arrays), **call.sample.attributes)
        close(y.tangent, wanted, 1e-10, call.what)
        back = carry_back(y.tangent, Tensor(call.dy), [v for v in vs if v is not None])
        for g, wanted in zip(back, [w for w in call.by_kernels() if w is not None]):
            close(np.zeros_like(wanted) if g is None else g, wanted, 1e-10, call.what)


def test_every_differentiable_op_has_a_gradient_written_in_ops():
    assert [name for name in DIFFERENTIABLE if OPS[name].gradient is None] == []


def test_a_branch_keeps_the_other_uses_of_a_tensor_apart():
    x = Tensor(np.asarray(3.0), requires_grad=True)
    y = branch(x)
    (dx, dy) = carry_back(x * y, Tensor(np.asarray(1.0)), [x, y], retain_graph=True)
    assert dy.item() == 3
    assert dx.item() == 6  # its own use, and what arrives through the branch
