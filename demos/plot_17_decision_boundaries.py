r"""
Decision boundaries
===================

A network with an input in the plane can be looked at whole: every point is coloured by the class that it is
given. Without a hidden layer the boundary between two classes is a line. A layer of ReLUs folds the plane
along one line per unit, and the boundary becomes a chain of straight pieces; a second layer folds the
folded plane again.

With many units and few points the chain bends around every single point. An L2 penalty on the weights,

.. math:: L = -\frac{1}{N} \sum_n \log p(y_n \mid x_n) + \frac{\lambda}{2} \sum_k w_k^2

keeps the slopes small and the boundary smooth.
"""

from itertools import pairwise

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("Two hidden ReLU layers with L2 tell four spiral arms apart: above 0.97 right on held-out points")

# %%
# Two half moons, four spiral arms
# --------------------------------
# The moons reach into each other, and are blurred so much that no boundary gets all points right. Along an
# arm of the spiral the angle grows with the radius, by a whole turn from the centre to the end.


def moons(count):
    """Return points (count, 2) on two blurred half circles, and the number of each one's circle (count,)."""
    y = demo.rng.integers(0, 2, count)
    angle = demo.rng.uniform(0, np.pi, count)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(y[:, None] == 0, circle, [1.0, 0.5] - circle)
    return (x + 0.3 * demo.rng.standard_normal((count, 2))).astype(np.float32), y


def spiral(count):
    """Return points (count, 2) on four blurred arms, and the number of each one's arm (count,)."""
    y = demo.rng.integers(0, 4, count)
    r = np.sqrt(demo.rng.uniform(0.02, 1, count))
    angle = 2 * np.pi * (y / 4 + r)
    x = r[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (x + 0.02 * demo.rng.standard_normal((count, 2))).astype(np.float32), y


# %%
# Training and drawing
# --------------------
# A step takes 50 points at random. The learning rate falls along a cosine to 0, so that the last steps
# settle. Weights are kept for a film: often at first, when much happens, and less often later.

steps = 500 if demo.quick else 2000
kept = np.unique(np.geomspace(1, steps, 18 if demo.quick else 60).astype(int))


def network(*widths, activation=nn.ReLU):
    """Return linear layers between these widths, with the activation between each two layers."""
    layers = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m, rng=demo.rng), activation()]
    return nn.Sequential(*layers[:-1])


def descend(model, x, y, strength, lr):
    """Fit the model under an L2 penalty, and return its weights at the steps that are kept."""
    optimizer = optim.Adam(model.parameters(), lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    penalty = optim.L2(strength)
    history = []
    for step in demo.steps(range(1, steps + 1), "training"):
        batch = demo.rng.integers(0, len(x), 50)
        loss = F.cross_entropy(model(x[batch]), y[batch]) + penalty(model.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in kept:
            history.append(model.state_dict())
    return history


def show(model, x, y, axes, title):
    """Colour the plane by the model's classes, and draw points on it."""

    def probabilities(at):
        p = F.softmax(train.predict(model, at.astype(np.float32)))
        return p[:, 1] if p.shape[1] == 2 else p

    plot.decision_boundary(probabilities, x, y, axes=axes, title=title, resolution=120)
    axes.label_outer()


# %%
# One hidden layer, with and without L2
# -------------------------------------
# A hundred units have 502 parameters for 60 points. Without the penalty the weights grow large, and the
# network is sure of itself where it is wrong, which the loss on held-out points shows.

cases = {
    "no hidden layer": (network(2, 2), 0.0),
    "100 ReLUs": (network(2, 100, 2), 0.0),
    "100 ReLUs and L2": (network(2, 100, 2), 0.005),
}
(x, y), held_out = moons(60), moons(4000)
losses = {}
title = "Two classes: one hidden layer bends the line, L2 smooths it"
figure, axes = plot.subplots(1, 3, size=(7.4, 3.3), title=title, sharey=True)
for panel, (name, (model, strength)) in zip(axes, cases.items()):
    descend(model, x, y, strength, lr=0.1)
    losses[name] = train.evaluate(model, *held_out).loss
    show(model, x, y, panel, name)
demo.save(figure, "moons")
demo.record(loss_on_held_out_points=losses)
ratio = losses["100 ReLUs and L2"] / losses["100 ReLUs"]
demo.check("loss on held-out points of 100 ReLUs, with L2 over without", ratio, at_most=0.7)

# %%
# Two hidden layers
# -----------------
# The spiral's network is trained once as it is, once with its ReLUs taken out: three linear maps in a row
# are a linear map.

(x, y), held_out = spiral(2000), spiral(4000)
cases = {"without ReLU": nn.Identity, "with ReLU": nn.ReLU}
right = {}
figure, axes = plot.subplots(1, 2, size=(7.4, 4.3), title="Four classes: two hidden layers", sharey=True)
for panel, (name, activation) in zip(axes, cases.items()):
    model = network(2, 64, 64, 4, activation=activation)
    history = descend(model, x, y, 1e-4, lr=0.02)
    right[name] = train.evaluate(model, *held_out).accuracy
    show(model, x[:400], y[:400], panel, f"{name}: {right[name]:.0%} right")
figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4)
demo.save(figure, "spiral")

# %%
# The boundary while it is learnt
# -------------------------------
# The outer ends of the arms come first, where they lie far apart; the centre is wound up last.

figure, axes = plot.subplots(size=(4.8, 4.5))


def update(k):
    """Draw the network as it was at the k-th of the steps that were kept."""
    model.load_state_dict(history[k])
    axes.clear()
    share = train.evaluate(model, *held_out).accuracy
    show(model, x[:400], y[:400], axes, f"step {kept[k]}: {share:.0%} right")


demo.save(plot.animate(figure, update, len(history), fps=6), "training")

demo.check("share of held-out points right without ReLU", right["without ReLU"], at_most=0.6)
demo.check("share of held-out points of the spiral right", right["with ReLU"], at_least=0.97)
