r"""
Cross-entropy, of probabilities or of logits
============================================

If class 1 has probability p, a label y of 0 or 1 has probability :math:`p^y (1 - p)^{1 - y}` (Bernoulli).
Its negative logarithm is the binary cross-entropy. With :math:`p = \sigma(z)` it can be written in the logit
z itself:

.. math:: L = -y \ln p - (1 - y) \ln(1 - p) = y \ln(1 + e^{-z}) + (1 - y) \ln(1 + e^z)

The two forms are one function. In floating point they are not: p is rounded to 1 long before z is large,
and what z said is lost.
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Taken of logits, cross-entropy is right up to |z| = 10 000; of probabilities it breaks down")

# %%
# Logits of all sizes
# -------------------
# In float32, as in training: z of both signs from 0.001 to 10 000, each with a label of 0 or 1.

count = 2_000 if demo.quick else 20_000
size = np.append(10 ** demo.rng.uniform(-3, 4, count), [1e4, 1e4, 1e4, 1e4])
sign = np.append(demo.rng.choice([-1, 1], count), [-1, -1, 1, 1])
z = (sign * size).astype(np.float32)
y = np.append(demo.rng.integers(0, 2, count), [0, 1, 0, 1]).astype(np.float32)

# %%
# Three ways to compute it
# ------------------------
# The first takes the formula for p as it stands. The second takes p too, but counts logarithms below -100 as
# -100, as PyTorch does. The third never computes p for the loss.


def of_probabilities(z, y):
    """Return -y ln p - (1 - y) ln(1 - p)."""
    p = F.sigmoid(z)
    return -(y * p.log() + (1 - y) * (1 - p).log())


def with_clamp(z, y):
    """Return the same with no logarithm below -100."""
    return F.binary_cross_entropy(F.sigmoid(z), y, reduction="none")


def of_logits(z, y):
    """Return y ln(1 + e^-z) + (1 - y) ln(1 + e^z)."""
    return F.binary_cross_entropy_with_logits(z, y, reduction="none")


def value_and_gradient(loss, z, y):
    """Return the losses (N,) and the derivative of each by its logit."""
    z = nnk.tensor(z, requires_grad=True)
    losses = loss(z, y)
    losses.sum().backward()
    return losses.data, z.grad.data


# %%
# What p loses
# ------------
# The float32 below 1 is :math:`1 - 6 \cdot 10^{-8}`. So p is 1 for z above about 17, and ln(1 - p) is
# infinite. Below about -104, p is 0, and ln p is infinite. A label of 0 times infinity is NaN.

values, gradients = value_and_gradient(of_probabilities, z, y)
far = np.abs(z) > 104
lost = ~(np.isfinite(values) & np.isfinite(gradients))
demo.check("share that is infinite or NaN, for |z| above 104", lost[far].mean(), at_least=1)

# %%
# What the clamp hides
# --------------------
# The clamp keeps the loss finite, not the gradient right. A point of class 0 with a large z is the worst kind
# of mistake. The slope of its loss should be 1. It is 0, so training leaves the point where it is.

values, gradients = value_and_gradient(with_clamp, z, y)
wrong = (z > 18) & (y == 0)
demo.check(
    "largest gradient with the clamp, where z > 18 and y = 0", np.abs(gradients[wrong]).max(), at_most=0
)

# %%
# The loss in pictures
# --------------------
# For y = 0 the loss should grow like z, and its slope should be :math:`\sigma(z)`. A cross marks the last
# finite value.

figure, axes = plot.subplots(1, 2, size=(7.4, 3.9), title="The loss of a point of class 0, by its logit")
line = np.linspace(-5, 40, 1801, dtype=np.float32)
styles = {
    "of logits": (of_logits, {"linewidth": 5, "alpha": 0.35}),
    "of probabilities, clamped": (with_clamp, {"linestyle": "--"}),
    "of probabilities": (of_probabilities, {}),
}
for label, (loss, style) in styles.items():
    for panel, curve in zip(axes, value_and_gradient(loss, line, np.zeros_like(line))):
        curve = np.where(np.isfinite(curve), curve, np.nan)
        panel.plot(line, curve, label=label, **style)
        if loss is of_probabilities:
            last = np.flatnonzero(np.isfinite(curve))[-1]
            panel.plot(line[last], curve[last], "x", color=plot.COLOURS[2], markersize=9, markeredgewidth=2)
axes[0].set(xlabel="logit $z$", ylabel="loss", title="Loss")
axes[0].text(14.5, 26, "infinite\nfrom here", ha="right")
axes[1].set(xlabel="logit $z$", ylabel=r"$dL\,/\,dz$", title="Gradient")
axes[1].text(19, 0.9, "NaN from here", va="center")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "loss")

# %%
# The logit keeps it
# ------------------
# :math:`\ln(1 + e^z) = \max(z, 0) + \ln(1 + e^{-|z|})` never meets a power above 1. The reference is computed
# so in float64, by NumPy's ``logaddexp``. The gradient is :math:`\sigma(z) - y`. Losses are compared relative
# to their value (at least the smallest normal float32); the gradient is at most 1 and compared as it is.

values, gradients = value_and_gradient(of_logits, z, y)
exact = z.astype(np.float64)
loss = y * np.logaddexp(0, -exact) + (1 - y) * np.logaddexp(0, exact)
power = np.exp(-np.abs(exact))
slope = np.where(exact >= 0, 1, power) / (1 + power) - y
error_of_values = np.max(np.abs(values - loss) / np.maximum(loss, np.finfo(np.float32).tiny))
error_of_gradients = np.abs(gradients - slope).max()
demo.record(losses_at_z_of_10_000=values[-4:], gradients_there=gradients[-4:])
demo.record(error_of_values=error_of_values, error_of_gradients=error_of_gradients)
worst = np.maximum(error_of_values, error_of_gradients)
demo.check("error of value and gradient in float32, |z| up to 10 000", worst, at_most=1e-6)
