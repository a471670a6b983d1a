r"""
Universal approximation with one hidden layer
=============================================

A network with one hidden layer is a weighted sum of one curve, shifted and stretched n times:

.. math:: g(x) = c + \sum_{i=1}^{n} v_i \, \sigma(w_i x + b_i)

With n large enough it comes as near as one likes to any continuous function on an interval. G. Cybenko
(Approximation by superpositions of a sigmoidal function, 1989) proved it for sigmoids; for ReLUs one can
write the weights down, as below. The theorem names neither n nor the weights.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("The error of a network with one hidden layer falls as the layer grows")

widths = (2, 16, 64) if demo.quick else (2, 4, 8, 16, 32, 64)
steps, starts = (700, 1) if demo.quick else (1500, 4)
x = np.linspace(-1, 1, 200)[:, None]  # to train on
fine = np.linspace(-1, 1, 1001)[:, None]  # to measure on


def f(x):
    """Return the function to be approximated."""
    return np.sin(6 * x) + 0.5 * np.cos(9 * x)


def error(model):
    """Return the largest distance between the network and f on the interval."""
    return float(np.abs(model(fine).data - f(fine)).max())


def network(activation, w, t):
    """Return a network whose unit i has the weight w and switches at t, both of length n."""
    first = nn.Linear(1, len(t), dtype=np.float64)
    first.weight.data[:, 0] = w
    first.bias.data[:] = -w * t
    return nn.Sequential(first, activation(), nn.Linear(len(t), 1, rng=demo.rng, dtype=np.float64))


# %%
# Weights by construction
# -----------------------
# Set n + 1 knots :math:`t_i` on the interval, a distance h apart, and let ReLU i bend the line at :math:`t_i`
# by the change of slope there: the network joins the points :math:`(t_i, f(t_i))` by straight lines. It
# misses f by at most :math:`\max|f''| \, h^2 / 8`.

constructed, bounds = [], []
curvature = np.abs(36 * np.sin(6 * fine) + 40.5 * np.cos(9 * fine)).max()  # the largest |f''|
for n in widths:
    t = np.linspace(-1, 1, n + 1)
    slopes = np.diff(f(t)) / np.diff(t)
    model = network(nn.ReLU, np.ones(n), t[:-1])
    model[2].weight.data[0] = np.diff(slopes, prepend=0.0)
    model[2].bias.data[:] = f(t[0])
    constructed.append(error(model))
    bounds.append(curvature * (2 / n) ** 2 / 8)
demo.check("error of a construction over its bound", max(np.divide(constructed, bounds)), at_most=1.001)

# %%
# Weights by training
# -------------------
# Gradient descent has to find them from the points alone. It starts with units spread over the interval,
# their signs drawn, and moves :math:`w_i`, :math:`b_i`, :math:`v_i` and c. The best of a few starts is kept.

kinds = {"ReLU": (nn.ReLU, 4.0), "sigmoid": (nn.Sigmoid, 16.0)}  # and the size of w to start from


def train(kind, n, moments=()):
    """Return a trained network, and what it was at some moments: the step, its values, its terms."""
    activation, w = kinds[kind]
    t = -1 + 2 * (np.arange(n) + demo.rng.random(n)) / n
    model = network(activation, demo.rng.choice([-w, w], n), t)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    film = []
    for step in range(steps):
        if step in moments:
            film.append((step, model(fine).data, model[2].weight.data * model[1](model[0](fine)).data))
        loss = F.mse_loss(model(x), f(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model, film


trained = {}
for kind, n in demo.steps([(kind, n) for kind in kinds for n in widths], "networks"):
    trained[kind, n] = min((train(kind, n)[0] for _ in range(starts)), key=error)
errors = {kind: [error(trained[kind, n]) for n in widths] for kind in kinds}
demo.record(widths=list(widths), constructed=constructed, **errors)

# %%
# Error against width
# -------------------
# The construction gains a factor of four with every doubling, once its knots are close enough. Training
# places a few units better than an even grid does. With many ReLUs it stays behind the construction: that
# good weights exist does not say how to find them.

figure, axes = plot.subplots(size=(5.6, 4.4), title="More hidden units, smaller error")
axes.loglog(widths, bounds, ":", color=plot.style.FAINT, label="bound of the construction")
axes.loglog(widths, constructed, "^--", color=plot.COLOURS[2], label="ReLU, constructed")
axes.loglog(widths, errors["ReLU"], "s-", color=plot.COLOURS[1], label="ReLU, trained")
axes.loglog(widths, errors["sigmoid"], "o-", color=plot.COLOURS[0], label="sigmoid, trained")
axes.set(xlabel="hidden units n", ylabel="largest error on the interval")
axes.set_xticks(widths, [str(n) for n in widths])
axes.minorticks_off()
figure.legend(loc="outside lower center", ncols=2)
demo.save(figure, "error")

# %%
# Sixteen units learn
# -------------------
# Above the sum, below its terms :math:`v_i \sigma(w_i x + b_i)`: steps where :math:`\sigma` is a sigmoid,
# hinges where it is a ReLU.

frames = 12 if demo.quick else 50
moments = [max(k, steps * k**2 // frames**2) for k in range(frames)]  # at first close together
figure, axes = plot.subplots(2, 2, size=(6.0, 4.5), sharex=True, title="One hidden layer of 16 units")
films = {}
for (above, below), kind in zip(axes.T, ("sigmoid", "ReLU")):
    _, film = train(kind, 16, moments)
    reach = 1.05 * np.abs(film[-1][2]).max()
    above.plot(fine, f(fine), color=plot.style.FRAME, linewidth=4)
    above.set(ylim=(-2.2, 2.2), title=f"{kind}: the sum")
    below.set(ylim=(-reach, reach), title="its terms", xlabel="x")
    total = above.plot(fine, film[0][1], color=plot.COLOURS[1])
    films[kind] = film, total + below.plot(fine, film[0][2], linewidth=1)
word = axes[0, 0].text(-0.97, -2.0, "")


def show(k):
    """Show both networks as they were at moment k."""
    for film, lines in films.values():
        step, y, terms = film[k]
        for line, curve in zip(lines, [y, *terms.T]):
            line.set_ydata(curve)
    word.set_text(f"step {step}")


demo.save(plot.animate(figure, show, frames, fps=8), "training")

falls = max(e[-1] / e[0] for e in errors.values())  # of the two kinds the worse
demo.check("largest error with 64 trained units over that with 2", falls, at_most=0.3 if demo.quick else 0.1)
