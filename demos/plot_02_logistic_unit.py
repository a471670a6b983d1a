r"""
The logistic unit
=================

A logistic unit weighs its inputs, adds a bias, and turns the sum into a probability:

.. math:: h(x) = \sigma(w^T x + b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}

It is what networks are built from. Its slope follows from its value, :math:`\sigma' = \sigma (1 - \sigma)`,
so the pass back needs no exponential. The formula for :math:`\sigma` should not be computed as it stands:
for large negative z, :math:`e^{-z}` is beyond every float.
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, plot
from nnkernels.demo import Demo

demo = Demo("The sigmoid is accurate from z = -1000 to 1000, and its slope is σ(z)(1 - σ(z))")

# %%
# The unit as a graph
# -------------------
# Two inputs (white), two weights and a bias (red), and the operations on them (blue). Each node shows its
# value and the slope of h by it, which the pass back finds from right to left. Here z, the last sum, is 0.
# There the sigmoid has slope 1/4, so 0.25 arrives at z, and both sums hand it on.

x1, x2 = (nnk.tensor(np.float64(value), requires_grad=True) for value in (2.0, -1.0))
w1, w2, b = (nn.Parameter(np.array(value)) for value in (0.5, 2.0, 1.0))
h = F.sigmoid(w1 * x1 + w2 * x2 + b)

figure = nnk.graph(h, {"x1": x1, "x2": x2, "w1": w1, "w2": w2, "b": b, "h": h})
for text in figure.axes[0].texts:
    text.set_fontsize(9.7)  # as large as the boxes allow
demo.save(figure, "graph")

h.backward()
by_tape = np.array([w1.grad.data, w2.grad.data, b.grad.data])
by_hand = h.data * (1 - h.data) * np.array([x1.data, x2.data, 1.0])
demo.record(slope_of_h_by_w1_w2_b=by_tape)
demo.check("the tape's slopes differ from h(1 - h)x by", np.abs(by_tape - by_hand).max(), at_most=1e-12)

# %%
# What overflows
# --------------
# The largest float64 is near :math:`e^{709}`. At z = -1000 the formula as it stands divides by infinity. Its
# value, 0, is right all the same. Its slope :math:`e^{-z} / (1 + e^{-z})^2` is infinity over infinity.

z = np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0])
with np.errstate(over="ignore", invalid="ignore"):  # NumPy would warn of both
    power = np.exp(-z)
    plain = 1 / (1 + power)
    plain_slope = power / (1 + power) ** 2
demo.record(z=z, exp_of_minus_z=power, sigmoid_as_it_stands=plain, slope_as_it_stands=plain_slope)
demo.check("the slope as it stands is NaN at z = -1000", np.isnan(plain_slope[0]))

# %%
# What does not
# -------------
# :math:`e^{-|z|}` is at most 1. For negative z, numerator and denominator are multiplied by :math:`e^z`,
# which gives :math:`e^z / (1 + e^z)`. The library's sigmoid is compared with this, relative to the value
# itself, or to the smallest normal float64 where the value is below even that.


def stable_sigmoid(z):
    """Return 1 / (1 + e^-z) without a power above 1."""
    power = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, power) / (1 + power)


wide = np.append(demo.rng.uniform(-1000, 1000, 10_000), [-1000.0, 1000.0])
found, truth = F.sigmoid(wide), stable_sigmoid(wide)
error = np.max(np.abs(found - truth) / np.maximum(truth, np.finfo(np.float64).tiny))
demo.record(sigmoid_at_minus_and_plus_1000=found[-2:])
demo.check("relative error of the sigmoid, z from -1000 to 1000", error, at_most=1e-12)

# %%
# The curve, and the unit over the plane
# --------------------------------------
# On the right, points get their class by chance, class 1 with the unit's own probability. The boundary
# h = 1/2 is a line, and w is perpendicular to it. The farther from the line, the surer the unit.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 3.9))
z = np.linspace(-8, 8, 401)
s = F.sigmoid(z)
left.plot(z, s, label=r"$\sigma(z)$")
left.plot(z, s * (1 - s), "--", label=r"$\sigma(z)\,(1 - \sigma(z))$")
left.set(xlabel="$z$", ylabel="value", title="The sigmoid and its slope", xticks=range(-8, 9, 4))

w, bias = np.array([w1.data, w2.data]), b.data
x = demo.rng.uniform(-2.5, 2.5, (120, 2))
y = demo.rng.random(len(x)) < F.sigmoid(x @ w + bias)
plot.decision_boundary(lambda x: F.sigmoid(x @ w + bias), x, y, axes=right, title="Probability of class 1")
foot = -bias * w / (w @ w)  # the boundary's point nearest to 0
right.annotate("", foot + w, foot, arrowprops={"width": 2, "headwidth": 8, "color": plot.COLOURS[6]})
right.text(*(foot + 0.5 * w + (0.2, 0)), "w", bbox={"color": "white", "pad": 1.5}, fontsize=12, weight="bold")
right.set_aspect("equal")
handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
figure.legend(handles=handles, loc="outside lower center", ncols=4)
demo.save(figure, "unit")

# %%
# The slope is measured
# ---------------------
# Central differences know nothing of the formula. Forward mode gives value and slope in a single pass.

z = demo.rng.uniform(-30, 30, 10_000)
step = 1e-5
measured = (F.sigmoid(z + step) - F.sigmoid(z - step)) / (2 * step)
s, forward = nnk.jvp(F.sigmoid, z, np.ones_like(z))
gap = max(np.abs(s * (1 - s) - measured).max(), np.abs(forward - measured).max())
demo.check("σ(1 - σ) and forward mode differ from the measured slope by", gap, at_most=1e-9)
