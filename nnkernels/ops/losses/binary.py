"""Losses of two classes, for arrays of one shape. Targets y have no gradient.

    bce_with_logits   (1 - y) z + (1 + (q - 1) y) ln(1 + e^-z)           y from 0 to 1, z any number
    bce               -y ln p - (1 - y) ln(1 - p)                        y and p from 0 to 1
    hinge             max(0, 1 - y x)                                    y = -1 or 1

Both cross-entropies are the negative log-likelihood of a coin that shows 1 with probability p, or
p = 1/(1 + e^-z). With logits, it is computed with ln(1 + e^-z) = ln(1 + e^-|z|) + max(-z, 0), finite where
e^z overflows. With probabilities, logarithms below -100 count as -100. Both take weights w of the same shape,
factors of the l_i, which the "mean" does not divide by; bce_with_logits also factors q (pos_weight) of the
term of y, above 1 where misses cost more than false alarms. Weights have no gradients. ``reduction`` makes
of the l_i their "mean", "sum" or "none". Bishop, Pattern Recognition and Machine Learning, 2006, 4.3.2 and
7.1.2.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.arrays import full
from nnkernels.machine.elementary import exp, log1p_up_to_1
from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import inline, inline_always, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.binary import maximum
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.losses.elementwise import BY_X, PLAIN, Family, Formula, Given, no_other
from nnkernels.ops.losses.records import SPOT, check_arrays, check_from_0_to_1, demand, make_op
from nnkernels.ops.losses.reduction import factor, reduced
from nnkernels.ops.op import BadInput, Mutant, Op, Sample
from nnkernels.ops.smooth_rectifiers import log_sigmoid
from nnkernels.ops.unary import sigmoid_f, sigmoid_numpy, sigmoid_tuned

# --- bce_with_logits: plain, and with q and w ---


@inline
def logits_f(z: Any, y: Any, *_: Any) -> Any:
    return max(z, z * 0) - z * y + np.log1p(np.exp(-abs(z)))


@inline
def logits_df(z: Any, y: Any, *_: Any) -> Any:
    return sigmoid_f(z, 0) - y


@inline
def weighted_logits_f(z: Any, y: Any, a: Any, b: Any, q: Any, w: Any) -> Any:
    return w * ((1 - y) * z + (1 + (q - 1) * y) * (np.log1p(np.exp(-abs(z))) + max(-z, z * 0)))


@inline
def weighted_logits_df(z: Any, y: Any, a: Any, b: Any, q: Any, w: Any) -> Any:
    return w * ((1 + (q - 1) * y) * sigmoid_f(z, 0) - q * y)


@inline
def logits_tuned(z: Any, y: Any, *_: Any) -> Any:
    return (z if z > 0 else typed(0, z)) - z * y + log1p_up_to_1(exp(-abs(z)))


@inline
def logits_df_tuned(z: Any, y: Any, *_: Any) -> Any:
    return sigmoid_tuned(z, 0) - y


@inline_always
def weighted_logits_tuned(z: Any, y: Any, a: Any, b: Any, q: Any, w: Any) -> Any:
    one, negative = typed(1, z), (-z if z < 0 else typed(0, z))
    return w * ((one - y) * z + (one + (q - one) * y) * (log1p_up_to_1(exp(-abs(z))) + negative))


@inline_always
def weighted_logits_df_tuned(z: Any, y: Any, a: Any, b: Any, q: Any, w: Any) -> Any:
    one = typed(1, z)
    return w * ((one + (q - one) * y) * sigmoid_tuned(z, 0) - q * y)


@inline
def logits_cuda(z: Any, y: Any, *_: Any) -> Any:
    return np.log1p(np.exp(-abs(z))) + max(z, typed(0, z)) - z * y


@inline
def logits_df_cuda(z: Any, y: Any, *_: Any) -> Any:
    return typed(1, z) / (typed(1, z) + np.exp(-z)) - y


@inline
def weighted_logits_cuda(z: Any, y: Any, a: Any, b: Any, q: Any, w: Any) -> Any:
    one = typed(1, z)
    softplus = np.log1p(np.exp(-abs(z))) + max(-z, typed(0, z))
    return w * ((one - y) * z + (one + (q - one) * y) * softplus)


@inline
def weighted_logits_df_cuda(z: Any, y: Any, a: Any, b: Any, q: Any, w: Any) -> Any:
    one = typed(1, z)
    return w * ((one + (q - one) * y) / (one + np.exp(-z)) - q * y)


def logits_numpy(z: Array, y: Array, *_: Any) -> Array:
    return np.asarray(np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))))


def logits_df_numpy(z: Array, y: Array, *_: Any) -> Array:
    return np.asarray(sigmoid_numpy(z, 0) - y)


def weighted_logits_numpy(z: Array, y: Array, a: Any, b: Any, q: Array, w: Array) -> Array:
    softplus = np.log1p(np.exp(-np.abs(z))) + np.maximum(-z, 0)
    return np.asarray(w * ((1 - y) * z + (1 + (q - 1) * y) * softplus))


def weighted_logits_df_numpy(z: Array, y: Array, a: Any, b: Any, q: Array, w: Array) -> Array:
    return np.asarray(w * ((1 + (q - 1) * y) * sigmoid_numpy(z, 0) - q * y))


def ones_like(z: Array) -> Any:
    return full(z.shape, 1, z.dtype, z)


def logits_given(z: Array, y: Array, weight: Array | None = None, pos_weight: Array | None = None) -> Given:
    if weight is None and pos_weight is None:
        return PLAIN
    q = ones_like(z) if pos_weight is None else pos_weight
    return Given(1, 0.0, 0.0, q, ones_like(z) if weight is None else weight)


# --- bce ---


@inline
def bce_f(p: Any, y: Any, *_: Any) -> Any:
    return -(y * max(np.log(p), typed(-100, p)) + (1 - y) * max(np.log1p(-p), typed(-100, p)))


@inline
def bce_df(p: Any, y: Any, *_: Any) -> Any:
    # At p = 0 and 1, where a logarithm has no slope, finite all the same.
    return (p - y) / max((typed(1, p) - p) * p, typed(1e-12, p))


@inline_always
def bce_tuned(p: Any, y: Any, *_: Any) -> Any:
    one, least = typed(1, p), typed(-100, p)
    r = one - p
    lost = (one - r) - p  # by rounding: ln(r + lost) = ln r + lost / r, exact to the last digits near p = 0
    ln_p, ln_r = ln(p), ln(r) + lost / (r if r > 0 else one)
    return -(y * (ln_p if ln_p > least else least) + (one - y) * (ln_r if ln_r > least else least))


@inline
def bce_df_tuned(p: Any, y: Any, *_: Any) -> Any:
    slope, least = (typed(1, p) - p) * p, typed(1e-12, p)
    return (p - y) / (slope if slope > least else least)


@inline
def weighted_bce_f(p: Any, y: Any, a: Any, b: Any, u: Any, w: Any) -> Any:
    return w * bce_f(p, y)


@inline
def weighted_bce_df(p: Any, y: Any, a: Any, b: Any, u: Any, w: Any) -> Any:
    return w * bce_df(p, y)


@inline_always
def weighted_bce_tuned(p: Any, y: Any, a: Any, b: Any, u: Any, w: Any) -> Any:
    return w * bce_tuned(p, y)


@inline
def weighted_bce_df_tuned(p: Any, y: Any, a: Any, b: Any, u: Any, w: Any) -> Any:
    return w * bce_df_tuned(p, y)


@inline
def bce_cuda(p: Any, y: Any, *_: Any) -> Any:
    least = typed(-100, p)
    return -(y * max(np.log(p), least) + (typed(1, y) - y) * max(np.log1p(-p), least))


@inline
def weighted_bce_cuda(p: Any, y: Any, a: Any, b: Any, u: Any, w: Any) -> Any:
    return w * bce_cuda(p, y)


def bce_numpy(p: Array, y: Array, *_: Any) -> Array:
    return np.asarray(-(y * np.maximum(np.log(p), -100) + (1 - y) * np.maximum(np.log1p(-p), -100)))


def bce_df_numpy(p: Array, y: Array, *_: Any) -> Array:
    return np.asarray((p - y) / np.maximum((1 - p) * p, 1e-12))


def weighted_bce_numpy(p: Array, y: Array, a: Any, b: Any, u: Array, w: Array) -> Array:
    return w * bce_numpy(p, y)


def weighted_bce_df_numpy(p: Array, y: Array, a: Any, b: Any, u: Array, w: Array) -> Array:
    return w * bce_df_numpy(p, y)


def bce_given(p: Array, y: Array, weight: Array | None = None) -> Given:
    return PLAIN if weight is None else Given(1, w=weight)


# --- hinge ---


@inline
def hinge_f(x: Any, y: Any, *_: Any) -> Any:
    margin = typed(1, x) - y * x
    return margin if margin > 0 or margin != margin else typed(0, x)  # NaN stays NaN


@inline
def hinge_df(x: Any, y: Any, *_: Any) -> Any:
    return -y if y * x < 1 else typed(0, x)  # at the kink, 0


def hinge_numpy(x: Array, y: Array, *_: Any) -> Array:
    return np.asarray(np.maximum(1 - y * x, 0))


def hinge_df_numpy(x: Array, y: Array, *_: Any) -> Array:
    return np.where(y * x < 1, -y, 0 * y)


def hinge_given(x: Array, y: Array) -> Given:
    return PLAIN


# --- in ops ---


def logits_formula(
    z: Any, y: Any, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> Any:
    of_y = 1 if pos_weight is None else 1 + (pos_weight - 1) * y
    terms = (1 - y) * z - of_y * log_sigmoid(z)
    return reduced(terms if weight is None else terms * weight, reduction)


def bce_gradient(
    op: Op, dy: Any, outputs: tuple[Array], inputs: tuple[Any, ...], needs: tuple[bool, ...],
    reduction: str = "mean",
) -> tuple[Any, ...]:  # fmt: skip
    # Not by the formula: its logarithms stop at -100, while the slope, as PyTorch's, stops at 1e12.
    p, y, weight = (*inputs, None)[:3]
    rest = maximum(p * (1 - p), np.asarray(1e-12, p.dtype))
    slope = (p - y) / rest
    dp = dy * (slope if weight is None else slope * weight) * factor(reduction, p)
    return dp, *(None,) * (len(inputs) - 1)


def hinge_formula(x: Any, y: Any, reduction: str = "mean") -> Any:
    return reduced((1 - y * x).relu(), reduction)


# --- records ---


def check_logits(
    z: Array, y: Array, weight: Array | None = None, pos_weight: Array | None = None,
    reduction: Any = "mean",
) -> None:  # fmt: skip
    check_arrays("bce_with_logits", reduction, z=z, y=y, weight=weight, pos_weight=pos_weight)


def check_logits_values(z: Array, y: Array, *_: Any, **__: Any) -> None:
    check_from_0_to_1("bce_with_logits", "y", y)


def check_bce(p: Array, y: Array, weight: Array | None = None, reduction: Any = "mean") -> None:
    check_arrays("bce", reduction, p=p, y=y, weight=weight)


def check_bce_values(p: Array, y: Array, *_: Any, **__: Any) -> None:
    check_from_0_to_1("bce", "p", p)
    check_from_0_to_1("bce", "y", y)


def check_hinge(x: Array, y: Array, reduction: Any = "mean") -> None:
    check_arrays("hinge", reduction, x=x, y=y)


def check_signs(x: Array, y: Array, **_: Any) -> None:
    demand("hinge", "y", y, np.abs(y) == 1, "-1 or 1")


def draw_logits(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(-3, 3, shape), rng.uniform(0, 1, shape)


def draw_bce(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(0.1, 0.9, shape), rng.uniform(0, 1, shape)


def draw_hinge(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(-3, 3, shape), rng.choice([-1.0, 1.0], shape)


def weighted_logits(rng: np.random.Generator) -> Iterator[Sample]:
    for weights, reduction in (("w", "mean"), ("q", "none"), ("wq", "sum")):
        w, q = (rng.uniform(0.2, 3, (3, 5)) if name in weights else None for name in "wq")
        yield Sample(f"{weights}, {reduction}", (*draw_logits(rng, (3, 5)), w, q), {"reduction": reduction})


def weighted_bce(rng: np.random.Generator) -> Iterator[Sample]:
    for reduction in ("mean", "none"):
        arrays = *draw_bce(rng, (3, 5)), rng.uniform(0.2, 3, (3, 5))
        yield Sample(f"weights, {reduction}", arrays, {"reduction": reduction})


def outside(*names: str) -> Iterator[BadInput]:
    """Yield inputs of 1 each with one number not from 0 to 1 in the array named; "" may hold any number."""
    one = np.ones((2, 3))
    for value in (1.5, -1.0, np.nan):
        for name in filter(None, names):
            arrays = tuple(np.where(SPOT, value, one) if n == name else one for n in names)
            yield BadInput(ValueError, f"{name} must be from 0 to 1, got {value} at flat position 4", arrays)


def bad_logits() -> Iterator[BadInput]:
    one, row = np.ones((2, 3)), np.ones(3)
    yield from outside("", "y")
    yield BadInput(ValueError, "z and weight must have one shape, got (2, 3) and (3,)", (one, one, row))
    words = "z and pos_weight must have one shape, got (2, 3) and (3,)"
    yield BadInput(ValueError, words, (one, one, one, row))
    yield BadInput(TypeError, "weight must be a NumPy array", (one, one, "none"))


def bad_bce() -> Iterator[BadInput]:
    one = np.ones((2, 3))
    yield from outside("p", "y")
    yield BadInput(ValueError, "p and weight must have one shape, got (2, 3) and (3,)", (one, one, one[0]))
    yield BadInput(TypeError, "weight must be float32 or float64", (one, one, one > 0))


def bad_hinge() -> Iterator[BadInput]:
    for value in (0.0, 2.0, np.nan):
        y = np.where(SPOT, value, 1.0)
        yield BadInput(ValueError, f"y must be -1 or 1, got {value} at flat position 4", (y, y))


def mutant(name: str, old: str, new: str, body: Any = "loops", file: str = "binary") -> Mutant:
    """Return a fault planted in this file or a neighbour."""
    return Mutant(name, body, f"losses/{file}.py", old, new)


bce_with_logits = make_op(
    "bce_with_logits", Family(logits_given, BY_X, 4), check_logits, draw_logits,
    check_values=check_logits_values, names=("z", "y"), flops=50, more=weighted_logits, bad=bad_logits,
    spread=3333.0,  # e^z alone overflows
    loops=(Formula(logits_f, logits_df, no_other), Formula(weighted_logits_f, weighted_logits_df, no_other)),
    vectorized=(Formula(logits_numpy, logits_df_numpy, no_other),
                Formula(weighted_logits_numpy, weighted_logits_df_numpy, no_other)),
    tuned=(Formula(logits_tuned, logits_df_tuned, no_other),
           Formula(weighted_logits_tuned, weighted_logits_df_tuned, no_other)),
    cuda=(Formula(logits_cuda, logits_df_cuda, no_other),
          Formula(weighted_logits_cuda, weighted_logits_df_cuda, no_other)),
    gradient=by_formula(logits_formula),
    mutants=(
        mutant("overflowing form", "z * y + np.log1p(np.exp(-abs(z)))\n\n\n@inline",
               "z * y + np.log1p(np.exp(abs(z)))\n\n\n@inline"),
        mutant("target added", "return sigmoid_f(z, 0) - y", "return sigmoid_f(z, 0) + y"),
        mutant("weights of y forgotten backward", "* sigmoid_f(z, 0) - q * y)", "* sigmoid_f(z, 0) - y)"),
        mutant("weights missing", "ones_like(z) if weight is None else weight", "ones_like(z)"),
        mutant("power not negative", "z * y + log1p_up_to_1(exp(-abs(z)))",
               "z * y + log1p_up_to_1(exp(z))", "tuned"),
        mutant("max(z, 0) for max(-z, 0)", "(-z if z < 0 else typed(0, z))",
               "(z if z > 0 else typed(0, z))", "tuned"),
        mutant("q for q - 1", "(one + (q - one) * y) * (log1p", "(one + q * y) * (log1p", "tuned"),
        mutant("sum of the first chunk for all", "scale, x[i:j], y[i:j], a, b", "scale, x[:j], y[:j], a, b",
               "tuned", "elementwise"),
        mutant("targets of the first block for all", "write(which, x[i:j], y[i:j]",
               "write(which, x[i:j], y[:j]",
               "tuned", "elementwise"),
    ),
)  # fmt: skip
bce = make_op(
    "bce", Family(bce_given, BY_X, 3), check_bce, draw_bce, check_values=check_bce_values, names=("p", "y"),
    flops=50, more=weighted_bce, bad=bad_bce,
    loops=(Formula(bce_f, bce_df, no_other), Formula(weighted_bce_f, weighted_bce_df, no_other)),
    vectorized=(Formula(bce_numpy, bce_df_numpy, no_other),
                Formula(weighted_bce_numpy, weighted_bce_df_numpy, no_other)),
    tuned=(Formula(bce_tuned, bce_df_tuned, no_other),
           Formula(weighted_bce_tuned, weighted_bce_df_tuned, no_other)),
    cuda=(Formula(bce_cuda, bce_df, no_other), Formula(weighted_bce_cuda, weighted_bce_df, no_other)),
    gradient=bce_gradient,
    mutants=(
        mutant("ln p for ln(1 - p)", "max(np.log1p(-p), typed", "max(np.log(p), typed"),
        mutant("slope not divided", "/ max((typed(1, p) - p) * p, typed(1e-12, p))", "/ p"),
        mutant("weights forgotten backward", "return w * bce_df(p, y)", "return bce_df(p, y)"),
        mutant("1 - y forgotten", "+ (one - y) * (ln_r if", "+ (ln_r if", "tuned"),
        mutant("rounding corrected the wrong way", "lost / (r if r > 0 else one)",
               "p / (r if r > 0 else one)", "tuned"),
        mutant("weights forgotten, tuned", "return w * bce_tuned(p, y)", "return bce_tuned(p, y)", "tuned"),
    ),
)  # fmt: skip
HINGE = (Formula(hinge_f, hinge_df, no_other),)
hinge = make_op(
    "hinge", Family(hinge_given, BY_X), check_hinge, draw_hinge, check_values=check_signs, names=("x", "y"),
    flops=3, bad=bad_hinge, loops=HINGE, tuned=HINGE,
    vectorized=(Formula(hinge_numpy, hinge_df_numpy, no_other),),
    gradient=by_formula(hinge_formula),
    mutants=(
        mutant("perceptron's margin of 0", "typed(1, x) - y * x", "-y * x"),
        mutant("slope not of y", "return -y if y * x < 1", "return typed(-1, x) if y * x < 1"),
        mutant("slope beyond the margin", "if y * x < 1 else typed(0, x)", "if y * x < 9 else typed(0, x)",
               "tuned"),
        mutant("negative losses", "margin > 0 or margin != margin", "margin != 0", "tuned"),
        mutant("last chunk left out", "prange((x.size + share - 1) // share)", "prange(x.size // share)",
               "tuned",
               "elementwise"),
    ),
)  # fmt: skip
OPS_HERE = (bce_with_logits, bce, hinge)
