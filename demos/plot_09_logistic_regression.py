r"""
Logistic regression, end to end
===============================

Logistic regression models the probability of class 1 as :math:`\sigma(w \cdot x + b)`. Its loss, with a
penalty on the weights,

.. math:: L(w, b) = \frac{1}{N} \sum_{i=1}^{N} \left[ \ln(1 + e^{z_i}) - y_i z_i \right]
          + \frac{\lambda}{2} |w|^2, \qquad z_i = w \cdot x_i + b

is convex, and the penalty bends it upwards along every change of w: there is one minimum, and every descent
that converges ends in it. The data are 569 tumours, each described by 30 measurements of its cell nuclei
(Street, Wolberg and Mangasarian, Nuclear feature extraction for breast tumor diagnosis, 1993).
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("The loss of logistic regression has one minimum, which every start reaches")

# %%
# The data
# --------
# A fifth is held out. The measurements have units of very different sizes, so each is scaled to mean 0 and
# deviation 1 over the training part.

cancer = load_breast_cancer()
kept, held_out = data.balanced_split(cancer.target, held_out=114, rng=demo.rng)
mean, deviation = cancer.data[kept].mean(axis=0), cancer.data[kept].std(axis=0)
x_all = (cancer.data - mean) / deviation
y_all = 1.0 - cancer.target[:, None]  # 1 is malignant; scikit-learn has it the other way round
x, y = x_all[kept], y_all[kept]
N, D = x.shape

# %%
# Two descents
# ------------
# Gradient descent with momentum, over all samples at once, from two random points far apart.

C = 1.0  # scikit-learn minimises C times the sum of the losses, plus |w|²/2
strength = 1 / (C * N)
penalty = optim.L2(strength)
steps = 1500 if demo.quick else 3000


def descend(start):
    """Return (w, b) before every step and after the last: (steps + 1, D + 1)."""
    model = nn.Linear(D, 1, dtype=np.float64)
    model.weight.data[0], model.bias.data[0] = start[:D], start[D]
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.95, nesterov=True)
    path = [start]
    for _ in demo.steps(range(steps), "descent"):
        loss = F.binary_cross_entropy_with_logits(model(x), y) + penalty([model.weight])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(np.append(model.weight.data[0], model.bias.data))
    return np.array(path)


starts = demo.rng.normal(0, 2, (2, D + 1))
paths = [descend(start) for start in starts]
ends = [path[-1] for path in paths]
demo.record(largest_difference_of_the_starts=np.abs(starts[0] - starts[1]).max())
demo.check("largest difference of w and b after both", np.abs(ends[0] - ends[1]).max(), at_most=1e-5)

# %%
# Convex
# ------
# On the line between the starts, the loss has a positive curvature everywhere; the penalty alone gives
# :math:`\lambda |w_2 - w_1|^2`, and the data can only add to it.


def loss_at(theta):
    """Return the loss at points theta (..., D + 1)."""
    w, b = theta[..., :D], theta[..., D:]
    z = w @ x.T + b
    return (np.logaddexp(0, z) - y[:, 0] * z).mean(axis=-1) + 0.5 * strength * (w * w).sum(axis=-1)


share = np.linspace(0, 1, 101)[:, None]
line = loss_at((1 - share) * starts[0] + share * starts[1])
curvature = np.diff(line, 2) / 0.01**2
least = strength * ((starts[1] - starts[0])[:D] ** 2).sum()
demo.check("least curvature between the starts, over the penalty's", curvature.min() / least, at_least=1)

# %%
# The same problem, another program
# ---------------------------------
# scikit-learn solves it with Newton's method.

reference = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10).fit(x, y[:, 0])
wanted = np.append(reference.coef_[0], reference.intercept_)
z = x_all[held_out] @ ends[0][:D] + ends[0][D]
demo.record(held_out_accuracy=np.mean((z > 0) == (y_all[held_out, 0] == 1)))

# %%
# Left, the loss on the plane through both starts and the minimum, with the paths projected onto it. Right,
# how the paths come near to what scikit-learn has found.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 4.0))
axes_of_plane = starts - wanted  # (2, D + 1): start 1 is at (1, 0), start 2 at (0, 1), the minimum at (0, 0)
flat = [(path - wanted) @ np.linalg.pinv(axes_of_plane) for path in paths]
names = ["from start 1", "from start 2"]
plot.loss_surface(
    lambda a, b: loss_at(wanted + np.stack([a, b], axis=-1) @ axes_of_plane),
    (-0.6, 1.3),
    (-0.6, 1.3),
    axes=left,
    title="Two paths, one minimum",
    names=("towards start 1", "towards start 2"),
    resolution=60,
)
for path, points, name, colour in zip(paths, flat, names, plot.COLOURS[1:]):
    left.plot(*points.T, color=colour, linewidth=1.4)
    left.plot(*points[0], "o", color=colour, markersize=7)
    away = np.abs(path - wanted).max(axis=1)
    right.loglog(range(1, steps + 2), away, color=colour, label=name)
left.plot(0, 0, "*", color="white", markeredgecolor="#222222", markersize=11)
right.set(xlabel="step", ylabel="largest distance of a coefficient", title="Distance from scikit-learn's")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
demo.save(figure, "descents")

# %%
# What it has learnt
# ------------------
# Measurements to the right speak for a malignant tumour, those to the left against it.

order = np.argsort(ends[0][:D])
w = ends[0][order]
figure, axes = plot.subplots(size=(6.4, 6.4), title="Coefficients of the scaled measurements")
axes.barh(range(D), np.maximum(w, 0), color=plot.COLOURS[1], height=0.7, label="for malignant")
axes.barh(range(D), np.minimum(w, 0), color=plot.COLOURS[0], height=0.7, label="against")
axes.plot(wanted[order], range(D), "o", color="#222222", markersize=4, label="scikit-learn's")
axes.set_yticks(range(D), cancer.feature_names[order])
axes.set(xlabel="coefficient w", ylim=(-0.8, D - 0.2))
axes.grid(False, axis="y")
figure.legend(loc="outside lower center", ncols=3)
demo.save(figure, "coefficients")

error = np.abs(ends - wanted).max() / np.abs(wanted).max()
demo.check("relative error of w and b against scikit-learn's", error, at_most=1e-4)
