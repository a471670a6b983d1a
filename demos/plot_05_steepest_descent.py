r"""
Steepest descent
================

Along a direction v, the loss is a function of λ alone. Its slope at λ = 0 is the directional derivative,

.. math:: \frac{d}{d\lambda} L(\theta + \lambda v) = v \cdot \nabla L(\theta) = |\nabla L| \cos \alpha

for v of length 1 at an angle :math:`\alpha` to the gradient. The cosine is lowest at 180 degrees, so no
direction goes down faster than :math:`-\nabla L`. Gradient descent steps along it again and again.
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("The slope of the loss along v is v · ∇L, so -∇L is the direction of steepest descent")

# %%
# A loss of ten parameters
# ------------------------
# Logistic regression with weights :math:`\theta`. The gradient comes from one pass back through the loss.


def loss(theta, x, y):
    """Return the mean cross-entropy of a logistic unit without bias."""
    return F.binary_cross_entropy_with_logits(x @ theta, y)


N, D = 300, 10
x = demo.rng.standard_normal((N, D))
y = (demo.rng.random(N) < F.sigmoid(x @ demo.rng.standard_normal(D))).astype(np.float64)
theta = demo.rng.standard_normal(D)
gradient = nnk.grad(loss)(theta, x, y)
length = np.linalg.norm(gradient)

# %%
# Slopes in many directions
# -------------------------
# All directions have length 1: the one against the gradient, random ones, and, as random ones are seldom near
# the gradient, others turned away from it by a given angle, towards a random u perpendicular to it. Each
# slope is measured as a central difference of the loss.


def unit(v):
    """Return v divided by its length."""
    return v / np.linalg.norm(v)


def measured_slope(v, step=1e-5):
    """Return dL(theta + λv)/dλ at λ = 0, found without the gradient."""
    return (loss(theta + step * v, x, y) - loss(theta - step * v, x, y)) / (2 * step)


count = 100 if demo.quick else 1000
downhill = -unit(gradient)
random = [unit(demo.rng.standard_normal(D)) for _ in range(count)]
turned = []
for angle in np.radians(np.linspace(0, 180, 19)):
    v = demo.rng.standard_normal(D)
    u = unit(v - (v @ downhill) * downhill)
    turned.append(-np.cos(angle) * downhill + np.sin(angle) * u)
directions = np.array([downhill, *random, *turned])
slopes = np.array([measured_slope(v) for v in demo.steps(directions, "slopes")])
angles = np.degrees(np.arccos(np.clip(-directions @ downhill, -1, 1)))
first = 1 + count  # of the turned ones

# %%
# Slope against angle
# -------------------
# All slopes lie on the cosine. On the right, the loss along three directions, with its tangents of slope
# :math:`v \cdot \nabla L`: the tangent tells the change only for small :math:`\lambda`.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 3.9), title="How the loss changes along v")
across = np.arange(181)
left.plot(across, length * np.cos(np.radians(across)), color=plot.COLOURS[6], linewidth=1.2)
left.plot(angles[1:first], slopes[1:first], ".", color=plot.COLOURS[5], markersize=6)
left.plot(angles[first:], slopes[first:], "o", color=plot.COLOURS[0])
left.plot(angles[0], slopes[0], "D", color=plot.COLOURS[1], markersize=8)
left.set(xlabel="angle to the gradient (degrees)", ylabel="measured slope", xticks=range(0, 181, 45))
names = [r"$|\nabla L|\,\cos\alpha$", "random", "turned by an angle", "against the gradient"]
figure.legend(left.lines, names, loc="outside lower center", ncols=4)

along = np.linspace(-0.8, 0.8, 81)
for k, colour in ((0, 1), (first + 6, 0), (first + 9, 2)):
    v, colour = directions[k], plot.COLOURS[colour]
    line = [loss(theta + step * v, x, y) for step in along]
    right.plot(along, line, color=colour)
    right.plot(along, loss(theta, x, y) + along * (v @ gradient), "--", color=colour, linewidth=1)
    right.text(along[-1] + 0.04, line[-1], f"{angles[k]:.0f}°", va="center")
right.set(xlabel=r"step $\lambda$ along $v$", ylabel=r"loss $L(\theta + \lambda v)$")
demo.save(figure, "slopes")

# %%
# Descent, step by step
# ---------------------
# With two weights one can watch. The contour through a point joins all points of the same loss, and the next
# step (the arrow) leaves it at a right angle: more across the valley of the loss than along it.

points = demo.rng.standard_normal((N, 2)) * np.array([1.0, 2.5])
labels = (demo.rng.random(N) < F.sigmoid(points @ np.array([1.0, 0.4]))).astype(np.float64)
rate, frames = 1.2, 12 if demo.quick else 24
path, losses = [np.array([-1.5, 1.4])], []
for _ in range(frames):
    value, slope = nnk.value_and_grad(loss)(path[-1], points, labels)
    losses.append(value)
    path.append(path[-1] - rate * slope)
demo.check("steps of gradient descent that raise the loss", np.sum(np.diff(losses) > 0), at_most=0)


def surface(w1, w2):
    """Return the loss on a grid of weights."""
    logits = w1[..., None] * points[:, 0] + w2[..., None] * points[:, 1]
    return np.mean(np.logaddexp(0, logits) - labels * logits, axis=-1)


figure, axes = plot.subplots(size=(5.8, 3.9))
plot.loss_surface(surface, (-2, 2.3), (-0.8, 1.9), axes=axes, names=("$w_1$", "$w_2$"), resolution=80)
axes.set_aspect("equal")
grid = np.meshgrid(np.linspace(-2, 2.3, 80), np.linspace(-0.8, 1.9, 80))
heights = surface(*grid)
(trail,) = axes.plot([], [], "o-", color=plot.COLOURS[1], markersize=4, linewidth=1.4)
arrow = axes.annotate("", path[1], path[0], arrowprops={"arrowstyle": "-|>", "color": plot.COLOURS[6]})
contour = []


def update(k):
    """Draw the path up to step k, the contour there, and the next step."""
    trail.set_data(*np.transpose(path[: k + 1]))
    arrow.xy, arrow.xyann = path[k + 1], path[k]
    while contour:
        contour.pop().remove()
    contour.append(axes.contour(*grid, heights, levels=[losses[k]], colors=plot.COLOURS[6]))
    axes.set_title(f"step {k}: loss {losses[k]:.3f}")


demo.save(plot.animate(figure, update, frames, fps=3), "descent")

# %%
# The two facts
# -------------
# No direction is steeper than :math:`-\nabla L`, and every measured slope is :math:`v \cdot \nabla L`.

demo.record(length_of_gradient=length, slope_against_it=slopes[0], steepest_random=slopes[1:first].min())
demo.check("steepest measured slope over -|∇L|", slopes.min() / -length, at_least=1 - 1e-6, at_most=1 + 1e-6)
gap = np.abs(slopes - directions @ gradient).max() / length
demo.check("measured slopes differ from v · ∇L, relative to |∇L|, by", gap, at_most=1e-7)
