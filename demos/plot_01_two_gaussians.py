r"""
Two Gaussians, Bayes' rule and the sigmoid
==========================================

Points of two classes are drawn from two Gaussians. Bayes' rule turns the densities of the classes into the
probability of class 1 at a point,

.. math:: p(1 \mid x) = \sigma\left(\log\frac{p(x \mid 1)}{p(x \mid 0)} + \log\frac{p(1)}{p(0)}\right)

so the sigmoid is not a choice: it is what Bayes' rule looks like when written with the log of the odds.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("Two Gaussians of one covariance have linear log-odds, and logistic regression finds them")

# %%
# Draw points
# -----------
# First a class by its prior, then a point by its class's density.

prior = 0.4  # p(y = 1)
means = np.array([[-1.0, 0.0], [1.0, 1.0]])
covariance = np.array([[1.0, 0.4], [0.4, 0.8]])
count = 10_000 if demo.quick else 100_000


def draw(covariances):
    """Return points (count, 2) and their classes (count,)."""
    y = (demo.rng.random(count) < prior).astype(np.int64)
    noise = demo.rng.standard_normal((count, 2))
    spread = np.linalg.cholesky(np.array(covariances))[y]  # (count, 2, 2)
    return means[y] + np.einsum("nij,nj->ni", spread, noise), y


x, y = draw((covariance, covariance))

# %%
# Bayes' rule in closed form
# --------------------------
# With one covariance for both classes the squares of x cancel in the log-likelihood ratio. What is left is
# linear, with :math:`w = \Sigma^{-1}(\mu_1 - \mu_0)`.


def log_density(x, mean, covariance):
    """Return the log of the Gaussian density at the points x (N, 2)."""
    away = x - mean
    squared = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
    return -0.5 * squared - 0.5 * np.log(np.linalg.det(2 * np.pi * covariance))


def log_odds(x, covariances):
    """Return log p(1|x) / p(0|x) by Bayes' rule."""
    ratio = log_density(x, means[1], covariances[1]) - log_density(x, means[0], covariances[0])
    return ratio + np.log(prior / (1 - prior))


precision = np.linalg.inv(covariance)
w = precision @ (means[1] - means[0])
b = -0.5 * (means[1] @ precision @ means[1] - means[0] @ precision @ means[0]) + np.log(prior / (1 - prior))
gap = np.abs(log_odds(x, (covariance, covariance)) - (x @ w + b)).max()
demo.check("Bayes' log-odds differ from w·x + b by", gap, at_most=1e-10)

# %%
# Logistic regression knows nothing of Gaussians
# ----------------------------------------------
# It is given the points alone, and fits w and b by gradient descent on the cross-entropy.

model = nn.Linear(2, 1, dtype=np.float64, rng=demo.rng)
optimizer = optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
targets = y[:, None].astype(np.float64)
for _ in demo.steps(range(100), "logistic regression"):
    loss = F.binary_cross_entropy_with_logits(model(x), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

found = np.append(model.weight.data[0], model.bias.data)
truth = np.append(w, b)
demo.record(closed_form_w_b=truth.round(3), fitted_w_b=found.round(3))

# %%
# Unequal covariances
# -------------------
# Now the squares stay, and the boundary is a parabola, an ellipse or a hyperbola.

wide = np.array([[0.35, 0.0], [0.0, 2.2]])
figure, axes = plot.subplots(1, 2, size=(7.4, 4.0), title="The probability of class 1 by Bayes' rule")
cases = {"one covariance: a line": (covariance, covariance), "two covariances: a curve": (covariance, wide)}
for panel, (title, covariances) in zip(axes, cases.items()):
    points, classes = draw(covariances)
    points, classes = points[:400], classes[:400]
    plot.decision_boundary(
        lambda at: F.sigmoid(log_odds(at, covariances)), points, classes, axes=panel, title=title
    )
across = np.array([-4.0, 4.0])
line = -(found[0] * across + found[2]) / found[1]
axes[0].plot(across, line, "--", color=plot.COLOURS[2], label="logistic regression")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "posterior")

error = np.abs(found - truth).max() / np.abs(truth).max()
demo.check("relative error of the fitted w and b", error, at_most=0.08 if demo.quick else 0.03)
