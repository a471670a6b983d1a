r"""
Optimizers: momentum, and a step size for each parameter
========================================================

In a ravine, where the loss is steep across and flat along, gradient descent zigzags: the rate that the steep
direction allows is too small for the flat one. *Momentum* steps along a decaying sum of past gradients:

.. math:: v \leftarrow \mu v + g, \qquad \theta \leftarrow \theta - \eta v

(Polyak, Some methods of speeding up the convergence of iteration methods, 1964). *Adam* divides a mean of
past gradients by their root mean square, for each parameter by itself:

.. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad s \leftarrow \beta_2 s + (1 - \beta_2) g^2
.. math:: \theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

(Kingma and Ba, Adam: a method for stochastic optimization, 2015).
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("Momentum and Adam reach the bottom of a ravine in several times fewer steps than descent")

# %%
# A ravine
# --------
# :math:`L(\theta) = \frac{1}{2} (k_1 \theta_1^2 + k_2 \theta_2^2)` with curvatures 1 and 300. Gradient
# descent gets the fixed rate that is best for it, 2 over the sum of the curvatures.

k = np.array([1.0, 300.0])


def ravine(theta):
    """Return the loss at theta (..., 2)."""
    return 0.5 * (k * theta * theta).sum(-1)


def descend(make, start, steps):
    """Return theta before every step and after the last, (steps + 1, 2)."""
    theta = nn.Parameter(start.copy())
    optimizer = make([theta])
    path = [start]
    for _ in range(steps):
        optimizer.zero_grad()
        ravine(theta).backward()
        optimizer.step()
        path.append(theta.data.copy())
    return np.array(path)


makers = {
    "gradient descent": lambda p: optim.SGD(p, lr=2 / k.sum()),
    "momentum": lambda p: optim.SGD(p, lr=1 / k[1], momentum=0.9),
    "Nesterov": lambda p: optim.SGD(p, lr=1 / k[1], momentum=0.9, nesterov=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.02, alpha=0.9),
    "Adam": lambda p: optim.Adam(p, lr=0.05),
}
start = np.array([-1.0, 0.2]) * demo.rng.uniform(0.9, 1.1, 2)
paths = {name: descend(make, start, 1000) for name, make in makers.items()}

# %%
# The formulas, step by step
# --------------------------
# The two formulas above, written out, give the same twenty steps.

v, m, s = np.zeros((3, 2))
by_momentum, by_adam = [start], [start]
for t in range(1, 21):
    v = 0.9 * v + k * by_momentum[-1]
    by_momentum.append(by_momentum[-1] - 1 / k[1] * v)

    g = k * by_adam[-1]
    m = 0.9 * m + 0.1 * g
    s = 0.999 * s + 0.001 * g**2
    mean, mean_square = m / (1 - 0.9**t), s / (1 - 0.999**t)
    by_adam.append(by_adam[-1] - 0.05 * mean / (np.sqrt(mean_square) + 1e-8))

gap = np.abs([by_momentum - paths["momentum"][:21], by_adam - paths["Adam"][:21]]).max()
demo.check("20 steps of momentum and of Adam differ from the formulas by", gap, at_most=1e-12)

# %%
# Paths through the ravine
# ------------------------
# Gradient descent bounces from wall to wall and hardly gets on. Momentum sums what the gradients agree on:
# the way along. RMSprop and Adam divide by the size of the gradients, so they move along as fast as across.
# That this ravine lies along the axes suits them: they scale each parameter by itself.

strips = [["gradient descent"], ["momentum", "Nesterov"], ["RMSprop", "Adam"]]
colours = dict(zip(makers, plot.COLOURS[1:5] + plot.COLOURS[6:]))
figure, panels = plot.subplots(3, 1, size=(6.0, 4.4), title="After 0 steps", sharex=True)
lines, heads = {}, {}
for panel, names in zip(panels, strips):
    plot.loss_surface(
        lambda a, b: ravine(np.stack([a, b], axis=-1)),
        (-1.2, 0.4),
        (-0.3, 0.3),
        axes=panel,
        names=("", r"$\theta_2$"),
        resolution=50,
    )
    panel.plot(0, 0, "*", color="white", markeredgecolor="#222222", markersize=11)
    for name in names:
        (lines[name],) = panel.plot(*start, color=colours[name], linewidth=1.2)
        (heads[name],) = panel.plot(*start, "o", color=colours[name], markersize=5, label=name)
panels[-1].set_xlabel(r"$\theta_1$")
figure.legend(
    handles=heads.values(),
    loc="outside lower center",
    ncols=5,
    markerscale=1.8,
    columnspacing=1.0,
    handletextpad=0.3,
)
frames, stride = (16, 5) if demo.quick else (46, 2)


def update(frame):
    """Show every path as it is after ``stride`` more steps."""
    for name in makers:
        lines[name].set_data(*paths[name][: stride * frame + 1].T)
        heads[name].set_data(*paths[name][[stride * frame]].T)
    figure.suptitle(f"After {stride * frame} steps")


demo.save(plot.animate(figure, update, frames, fps=8), "ravine")

# %%
# A network
# ---------
# A network with one hidden layer learns 8x8 digits, by each optimizer with the one of six rates that leads to
# the lowest loss. What pays in the ravine pays here as well, most in the first epochs, but by far less.

digits = data.digits_8x8(demo.rng)
images = digits.x_train.reshape(-1, 64)
epochs, repeats = (4, 1) if demo.quick else (8, 4)
seeds = demo.rng.integers(1000, size=repeats)  # of first weights and batches: the same for all optimizers


def train(make, lr, seed):
    """Return the mean training loss of every epoch."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(64, 32, rng=rng), nn.ReLU(), nn.Linear(32, 10, rng=rng))
    optimizer = make(model.parameters(), lr)
    batches = data.Batches(images, digits.y_train, 50, shuffle=True, rng=rng)
    losses = np.zeros(epochs)
    for epoch in range(epochs):
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[epoch] += loss.item() / len(batches)
    return losses


learners = {
    "gradient descent": lambda p, lr: optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9),
    "Nesterov": lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "RMSprop": lambda p, lr: optim.RMSprop(p, lr=lr),
    "Adam": lambda p, lr: optim.Adam(p, lr=lr),
}
rates = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
curves, chosen = {}, {}
for name in demo.steps(list(learners), "training"):
    by_rate = {lr: np.mean([train(learners[name], lr, seed) for seed in seeds], axis=0) for lr in rates}
    chosen[name] = min(rates, key=lambda lr: by_rate[lr][-1])
    curves[name] = by_rate[chosen[name]]
demo.record(best_rates=chosen, training_losses={name: float(losses[-1]) for name, losses in curves.items()})

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 3.9))
for name, colour in colours.items():
    left.loglog(ravine(paths[name]) / ravine(start), color=colour, linewidth=1.3, label=name)
    right.semilogy(range(1, epochs + 1), curves[name], "o-", markersize=3, color=colour)
level = 1e-4
left.axhline(level, color="#767676", linestyle=":", label="level of the claim")
left.set(xlim=(1, 1000), ylim=(1e-7, 3), xlabel="step", ylabel="loss over the first", title="The ravine")
right.set(xlabel="epoch", ylabel="training loss", title="Digits", xticks=range(1, epochs + 1))
figure.legend(loc="outside lower center", ncols=3)
demo.save(figure, "losses")


def steps_needed(path):
    """Return the first step from which on the loss stays below the level."""
    return int(np.flatnonzero(ravine(path) > level * ravine(start))[-1]) + 1


needed = {name: steps_needed(paths[name]) for name in makers if name != "RMSprop"}  # which does not settle
demo.record(steps_needed=needed)
ratio = needed["gradient descent"] / max(needed["momentum"], needed["Adam"])
demo.check("times fewer steps to the bottom with momentum and with Adam", ratio, at_least=4)
