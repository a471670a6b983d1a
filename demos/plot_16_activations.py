r"""
Activations and their slopes
============================

A layer's activation decides what its units can express; its slope decides what the chain rule passes back
through them. The sigmoid's slope,

.. math:: \sigma'(x) = \sigma(x) (1 - \sigma(x)) \leq \frac{1}{4}

is nearly 0 away from 0, where the unit hardly learns. ReLU's slope is exactly 1 wherever the unit is on and
0 where it is off. Later activations keep the slope near 1 on the right, and leave some on the left or
smooth the kink.
"""

import math

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("The tape's slopes of eight activations are those of calculus, and ReLU's at its kink is 0")

# %%
# Eight activations, eight slopes by hand
# ---------------------------------------
# Each function stands beside its derivative as calculus gives it. GELU is x times :math:`\Phi`, the normal
# distribution, whose derivative is the bell curve; SiLU is x times the sigmoid. ReLU, leaky ReLU and ELU
# are made of two pieces that meet at 0.

slope = 0.1  # of leaky ReLU, for negative x


def sigma(x):
    """Return the sigmoid."""
    return 1 / (1 + np.exp(-x))


def Phi(x):
    """Return the normal distribution function."""
    return 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def bell(x):
    """Return the normal density."""
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


activations = {
    "sigmoid": (F.sigmoid, lambda x: sigma(x) * (1 - sigma(x))),
    "tanh": (F.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "ReLU": (F.relu, lambda x: np.where(x > 0, 1.0, 0.0)),
    "leaky ReLU": (lambda x: F.leaky_relu(x, slope), lambda x: np.where(x > 0, 1.0, slope)),
    "ELU": (F.elu, lambda x: np.where(x > 0, 1.0, np.exp(x))),
    "softplus": (F.softplus, lambda x: sigma(x)),
    "GELU": (F.gelu, lambda x: Phi(x) + x * bell(x)),
    "SiLU": (F.silu, lambda x: sigma(x) + x * sigma(x) * (1 - sigma(x))),
}

# %%
# Two more ways to a slope
# ------------------------
# The tape differentiates what the program computes. Since each y depends on one x alone, the gradient of
# the sum of all y holds every slope. The central difference needs values only: two of them, a short way
# left and right of x.


def by_tape(f, x):
    """Return f'(x) by one pass back through the tape."""
    return nnk.grad(lambda x: f(x).sum())(x)


def by_differences(f, x, h=1e-5):
    """Return (f(x + h) - f(x - h)) / 2h, which misses f'(x) by a multiple of h squared."""
    return (f(x + h) - f(x - h)) / (2 * h)


# %%
# At the kink
# -----------
# Left of 0 ReLU's slope is 0, right of it 1, at 0 it has none. The tape must answer something, and takes 0:
# a unit that is off does not learn. A central difference straddles the kink and returns the mean of both
# sides.

kink = np.zeros(1)
demo.record(ReLU_at_0_by_central_differences=by_differences(F.relu, kink)[0])
demo.check("ReLU's slope at 0 by the tape", by_tape(F.relu, kink)[0], at_least=0, at_most=0)

# %%
# The sigmoid's slope is small everywhere
# ---------------------------------------
# At most 1/4, and that only at 0: behind ten layers of sigmoids less than a millionth of a gradient is left
# unless the weights make up for it.

x = np.linspace(-12, 12, 2401)
sigmoid_slope = by_tape(F.sigmoid, x)
demo.record(quarter_to_the_tenth=0.25**10)
demo.check("largest slope of the sigmoid", sigmoid_slope.max(), at_least=0.25 - 1e-12, at_most=0.25 + 1e-12)
demo.check(
    "largest slope of the sigmoid 10 or more from 0", sigmoid_slope[np.abs(x) > 9.99].max(), at_most=1e-4
)

# %%
# Side by side
# ------------
# Blue the function, orange its slope. What counts for learning is where the orange curve stays away from 0.

x = np.linspace(-4, 4, 401)
figure, axes = plot.subplots(2, 4, size=(7.4, 4.6), title="Activations and slopes", sharex=True, sharey=True)
for panel, (name, (f, _)) in zip(axes.flat, activations.items()):
    panel.plot(x, f(x), label="$f(x)$")
    slopes = by_tape(f, x)
    slopes[np.abs(x) < 1e-9] = np.nan  # a gap where a slope may jump
    panel.plot(x, slopes, "--", label="$f'(x)$")
    panel.set(title=name, xticks=[-4, 0, 4], yticks=[-1, 0, 1, 2], ylim=(-1.25, 2.25), xlabel="$x$")
    panel.label_outer()
figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=2)
demo.save(figure, "activations")

# %%
# All three ways agree
# --------------------
# At random points, those next to a kink left out.

x = demo.rng.uniform(-6, 6, 1_000 if demo.quick else 100_000)
x = x[np.abs(x) > 1e-3]
errors = {}
for name, (f, derivative) in activations.items():
    tape = by_tape(f, x)
    errors[name] = max(np.abs(tape - derivative(x)).max(), np.abs(tape - by_differences(f, x)).max())
demo.record(largest_error=errors)
demo.check("slopes by tape, by hand and by central differences differ by", max(errors.values()), at_most=1e-8)
