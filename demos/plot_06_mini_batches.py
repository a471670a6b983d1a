r"""
Mini-batches: cheap gradients that are right on average
=======================================================

The loss of N samples is a mean, and so is its gradient:

.. math:: \nabla L(\theta) = \frac{1}{N} \sum_{i=1}^{N} \nabla L_i(\theta)

One step of gradient descent therefore costs N gradients of samples. The mean over B samples drawn at random
costs B, and its expectation is the same: an *unbiased* estimate. Stochastic gradient descent (Robbins and
Monro, A stochastic approximation method, 1951) steps along such estimates.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("Mini-batch gradients are unbiased, and reach a low loss from far fewer samples")

# %%
# A loss of two parameters
# ------------------------
# A line :math:`w x + b` is fitted to points, with half the mean squared error as loss. It is a parabola over
# the plane of w and b, so its minimum and its curvatures are known.

N, B = 2010, 20  # samples, and samples in a mini-batch: the last batch of a pass is short
x = demo.rng.uniform(0, 2, (N, 1))
y = 1.5 * x - 1 + 0.3 * demo.rng.standard_normal((N, 1))

inputs = np.concatenate([x, np.ones((N, 1))], axis=1)
hessian = inputs.T @ inputs / N
minimum = np.linalg.solve(hessian, inputs.T @ y / N)[:, 0]


def excess(theta):
    """Return how far the loss of all samples lies above its minimum, at theta (..., 2)."""
    away = theta - minimum
    return 0.5 * np.einsum("...i,ij,...j->...", away, hessian, away)


def gradient(model, x, y):
    """Return the gradient of the mean loss of the samples x, y by w and b."""
    model.zero_grad()
    loss = 0.5 * F.mse_loss(model(x), y)
    loss.backward()
    return np.array([model.weight.grad.item(), model.bias.grad.item()])


# %%
# Unbiased
# --------
# One pass of :class:`nnkernels.data.Batches` parts the samples into batches. Their gradients scatter widely;
# their mean is the full gradient. The last batch is shorter than the others, and counts less.

start = np.array([-1.5, 1.5])


def line():
    """Return a new line with w and b at the start."""
    model = nn.Linear(1, 1, dtype=np.float64)
    model.weight.data[:], model.bias.data[:] = start
    return model


batches = list(data.Batches(x, y, B, shuffle=True, rng=demo.rng))
sizes = np.array([len(x_batch) for x_batch, _ in batches])
estimates = np.array([gradient(line(), *batch) for batch in batches])
full = gradient(line(), x, y)
mean = (sizes[:, None] * estimates).sum(axis=0) / N
demo.record(batches=len(batches), samples_in_the_last=sizes[-1], full_gradient=full)
bias = np.linalg.norm(mean - full) / np.linalg.norm(full)
demo.check("mean of the mini-batch gradients less the full gradient, relative", bias, at_most=1e-12)

# %%
# Paths to the minimum
# --------------------
# Descent with all samples gets the best fixed rate there is for it, 2 over the sum of both curvatures. Small
# batches make noise, and noise calls for smaller rates: they get half of it.

best_rate = 2 / np.trace(hessian)


def descend(batch_size, rate, steps):
    """Return, after each step, how many samples have been looked at, and theta."""
    model = line()
    optimizer = optim.SGD(model.parameters(), lr=rate)
    counts, path = [0], [start]
    while len(path) <= steps:
        for x_batch, y_batch in data.Batches(x, y, batch_size, shuffle=True, rng=demo.rng):
            gradient(model, x_batch, y_batch)
            optimizer.step()
            counts.append(counts[-1] + len(x_batch))
            path.append([model.weight.item(), model.bias.item()])
    return np.array(counts), np.array(path)


whole, few = descend(N, best_rate, 30), descend(B, best_rate / 2, 1000)

figure, panels = plot.subplots(1, 2, size=(6.0, 3.5), title="0 samples looked at", sharey=True)
moving = []
for panel, name, colour in zip(panels, (f"{N} samples a step", f"{B} samples a step"), plot.COLOURS[1:]):
    plot.loss_surface(
        lambda w, b: excess(np.stack([w, b], axis=-1)),
        (-2.2, 3.2),
        (-2.6, 3.2),
        axes=panel,
        title=name,
        names=("w", "b"),
        resolution=60,
    )
    panel.plot(*minimum, "*", color="white", markeredgecolor="#222222", markersize=11)
    moving += panel.plot(*start, "o-", color=colour, markersize=4, linewidth=1.3)
panels[1].set_ylabel("")
looked_at = np.geomspace(B, 18 * N, 16 if demo.quick else 48)  # so many samples, frame by frame


def update(k):
    """Show both descents at equal cost."""
    for drawn, (counts, path) in zip(moving, (whole, few)):
        drawn.set_data(*path[counts <= looked_at[k]].T)
    figure.suptitle(f"{looked_at[k]:.0f} samples looked at")


demo.save(plot.animate(figure, update, len(looked_at), fps=8), "paths")

# %%
# What a low loss costs
# ---------------------
# Left, the gradients of the mini-batches at the start, and their mean. Right, the loss against the samples
# looked at, as means over neighbouring steps. Small batches fall first and stop first: at a fixed rate their
# noise keeps them off the minimum.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 4.0))
left.plot(*estimates.T, "o", color=plot.COLOURS[5], markersize=4, label=f"of {B} samples each")
left.plot(*mean, "s", color=plot.COLOURS[0], markersize=12, label="their mean")
left.plot(*full, "+", color=plot.COLOURS[4], markersize=10, markeredgewidth=2, label="full gradient")
left.set(xlabel=r"$\partial L/\partial w$", ylabel=r"$\partial L/\partial b$", title="Gradients at the start")
left.legend(loc="lower right")
runs = {
    N: whole,
    B: few,
    200: descend(200, best_rate / 2, 200),
    2: descend(2, best_rate / 2, 1000),
}
level = 0.01 * excess(start)
for (batch_size, (counts, path)), colour in zip(runs.items(), plot.COLOURS[1:]):
    bounds = np.unique(np.geomspace(1, len(path), 30).astype(int))[:-1]
    means = [part.mean() for part in np.split(excess(path), bounds)]
    right.loglog(
        counts[bounds], means[1:], "-o", color=colour, markersize=3, label=f"{batch_size} samples a step"
    )
right.axhline(level, color="#767676", linestyle=":", label="1 % of the start")
right.set(xlabel="samples looked at", ylabel="loss above the minimum", title="The price of a low loss")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "cost")


def samples_needed(counts, path):
    """Return how many samples had been looked at when the loss first fell to the level."""
    return int(counts[np.argmax(excess(path) <= level)])


demo.record(samples_needed={f"in batches of {size}": samples_needed(*runs[size]) for size in sorted(runs)})
saving = samples_needed(*whole) / samples_needed(*few)
demo.check(f"times fewer samples to 1 % of the loss with batches of {B}", saving, at_least=10)
