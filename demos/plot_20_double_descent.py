r"""
Double descent
==============

The classical curve of the test risk against the number of weights is a U: too few underfit, too many overfit.
Belkin, Hsu, Ma and Mandal (Reconciling modern machine-learning practice and the classical bias-variance
trade-off, 2019) went on to the right. Where there are as many weights as samples the risk has a peak; past it
the risk falls again, often below the bottom of the U.

Their simplest model has one hidden layer that is drawn and never trained, here M cosines and sines of random
frequencies, and a last layer fitted by least squares:

.. math:: g(x) = \sum_{m=1}^{M} a_m \, \phi_m(x)
"""

import numpy as np

from nnkernels import nn, plot
from nnkernels.demo import Demo

demo = Demo("The test risk peaks where features equal samples, and beyond it falls below every smaller model")

# %%
# Least squares on both sides of the threshold
# --------------------------------------------
# Row n of h holds the features of sample n. With fewer features than samples, one a is best. With more, many
# pass through all samples, and the shortest of them is a sum of the samples' own features.


def least_squares(h, y):
    """Return the best weights, the shortest where several are: h is (N, M), y (N,)."""
    N, M = h.shape
    if M < N:
        return np.linalg.solve(h.T @ h, h.T @ y)
    return h.T @ np.linalg.solve(h @ h.T, y)


def random_features(D, M, width):
    """Return the map from (N, D) to M random cosines and sines."""
    return nn.features.Fourier.random(D, M // 2, width, rng=demo.rng, dtype=np.float64)


# %%
# What happens at the threshold
# -----------------------------
# Twelve noisy points, and five draws of the features. With twelve features there is exactly one way through
# all points, whatever detours it takes, and each draw takes others. With many features there is a choice, and
# the shortest weights make a smooth curve, nearly the same for all draws.

x = np.linspace(-1, 1, 12)[:, None] + 0.05 * demo.rng.uniform(-1, 1, (12, 1))
y = np.sin(3 * x[:, 0]) + 0.2 * demo.rng.standard_normal(12)
between = np.linspace(-1, 1, 501)[:, None]
figure, axes = plot.subplots(1, 3, size=(7.4, 3.3), sharey=True, title="Five fits to twelve points")
for panel, M in zip(axes, (4, 12, 600)):
    for draw in range(5):
        phi = random_features(1, M, width=0.08)
        a = least_squares(phi(x), y)
        label = "" if draw else "fits"
        panel.plot(between, phi(between) @ a, color=plot.COLOURS[1], linewidth=0.9, alpha=0.7, label=label)
    panel.plot(between, np.sin(3 * between), "--", color=plot.COLOURS[6], label="truth")
    panel.plot(x, y, "o", color=plot.COLOURS[0], label="samples")
    panel.set(title=f"{M} features", xlabel="x", ylim=(-3, 3))
axes[0].set_ylabel("y")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "fits")

# %%
# Risk against the number of features
# -----------------------------------
# N points in D dimensions, with noise in the labels. Features, points and truth are drawn anew many times.
# The median over the draws is shown, since a mean would be ruled by the few worst.

N, D, noise = 80, 20, 0.2
ratios = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20])
draws = 7 if demo.quick else 50
train_risk, test_risk, length = np.zeros((3, draws, len(ratios)))
for draw in demo.steps(range(draws), "draws"):
    x = demo.rng.standard_normal((N + 500, D))
    direction = demo.rng.standard_normal(D)
    z = x @ direction / np.linalg.norm(direction)
    y = z + 0.5 * np.sin(2 * z) + noise * demo.rng.standard_normal(N + 500)
    for i, ratio in enumerate(ratios):
        h = random_features(D, round(ratio * N), width=1.5 * np.sqrt(D))(x)
        a = least_squares(h[:N], y[:N])
        squares = (h @ a - y) ** 2
        train_risk[draw, i], test_risk[draw, i] = squares[:N].mean(), squares[N:].mean()
        length[draw, i] = np.linalg.norm(a)

median = np.median(test_risk, axis=0)
demo.record(features_per_sample=ratios, test_risk=median, training_risk=np.median(train_risk, axis=0))
demo.check(
    "largest training risk with more features than samples", train_risk[:, ratios > 1].max(), at_most=1e-9
)

# %%
# The length of the weights explains the shape
# --------------------------------------------
# At the threshold h is square and nearly singular: it takes huge weights to fit the noise in y. Every feature
# more adds to the choice, and the shortest weights get shorter. Bands hold the middle half of the draws.

figure, (above, below) = plot.subplots(
    2, 1, size=(6.8, 6.2), sharex=True, height_ratios=(3, 2), title="Double descent"
)
for risk, colour, marker, label in (
    (test_risk, plot.COLOURS[1], "o", "test risk"),
    (train_risk, plot.COLOURS[0], "s", "training risk"),
    (length, plot.COLOURS[2], "^", "length of the weights"),
):
    panel = below if risk is length else above
    low, middle, high = np.quantile(risk, [0.25, 0.5, 0.75], axis=0)
    panel.loglog(ratios, middle, marker + "-", color=colour, label=label)
    panel.fill_between(ratios, low, high, color=colour, alpha=0.2, linewidth=0)
below.axvline(1, color=plot.style.FAINT, linestyle=":")
above.axvline(1, color=plot.style.FAINT, linestyle=":", label="features = samples")
above.axhline(noise**2, color=plot.style.FAINT, linestyle="--", label="noise in the labels")
above.set(ylim=(0.02, 200), ylabel="mean squared error")
below.set(xlabel="features / samples", ylabel="|a|")
below.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
below.minorticks_off()
figure.legend(loc="outside lower center", ncols=3)
demo.save(figure, "risk")

before, beyond = median[ratios < 1].min(), median[-1]
demo.check("smallest test risk before the threshold over that far beyond", before / beyond, at_least=1.4)
demo.check("test risk at its peak over that far beyond", median.max() / beyond, at_least=10)
peak = ratios[median.argmax()]
demo.check("features per sample at the peak of the test risk", peak, at_least=0.9, at_most=1.1)
