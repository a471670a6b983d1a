r"""
Depth against width: the sawtooth
=================================

The tent map goes up from 0 to 1 and down again while x goes from 0 to 1. Two ReLUs make it:

.. math:: t(x) = 2 \, \mathrm{relu}(x) - 4 \, \mathrm{relu}(x - 1/2)

Applied to itself it is passed twice, once on the way up and once on the way down: k tents in a row make a
sawtooth of :math:`2^k` straight pieces from 2k ReLUs. One hidden layer of n ReLUs bends at most n times (M.
Telgarsky, Benefits of depth in neural networks, 2016).
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("k tent maps in a row make 2^k linear pieces, a hidden layer of n ReLUs at most n + 1")

# %%
# The deep network
# ----------------
# A tent's output is the input of the next, so the weights (2, -4) of one tent and (1, 1) of the next merge
# into one layer of two units: 6k + 1 weights and biases.


def linear(w, b):
    """Return a layer with these weights and biases."""
    layer = nn.Linear(len(w[0]), len(w), dtype=np.float64)
    layer.weight.data[:], layer.bias.data[:] = w, b
    return layer


def deep(k):
    """Return k tent maps in a row, two ReLUs a layer."""
    layers = [linear([[1], [1]], [0, -0.5]), nn.ReLU()]
    for _ in range(k - 1):
        layers += [linear([[2, -4], [2, -4]], [0, -0.5]), nn.ReLU()]
    return nn.Sequential(*layers, linear([[2, -4]], [0]))


# %%
# Count the pieces
# ----------------
# The slope at a point is the gradient by x. On a grid finer than the pieces, a new piece begins wherever the
# slopes of two neighbours differ. The weights are powers of two, so the deep network's numbers are exact.

grid = (np.arange(2**14) + 0.5) / 2**14


def pieces(model):
    """Return the number of straight pieces of the network on [0, 1]."""
    x = nnk.tensor(grid[:, None], requires_grad=True)
    model(x).sum().backward()
    slopes = x.grad.data[:, 0]
    return 1 + np.count_nonzero(np.abs(np.diff(slopes)) > 1e-9 * np.abs(slopes).max())


depths = range(1, 11)
counts = [pieces(deep(k)) for k in depths]
demo.check("pieces of 1 to 10 tents in a row are 2, 4, 8, ..., 1024", counts == [2**k for k in depths])

# %%
# Shallow networks
# ----------------
# n ReLUs in one layer have 3n + 1 parameters: with n = 2k as many as the deep network. They try to follow the
# sawtooth of k = 5 in two ways. First by hand: they bend where the sawtooth has its first n bends, and least
# squares finds the best weights after them. Then by training, from bends drawn anew for each start. Ten ReLUs
# follow a few of the sixteen teeth, or none of them well.

k = 5
x = grid[16::32, None]
y = 1 - np.abs(2 * (2 ** (k - 1) * x % 1) - 1)  # the sawtooth, written without tents


def shallow(bends):
    """Return the best network of one hidden layer with its bends at these places."""
    first = linear(np.full((len(bends), 1), 2**k), -(2**k) * bends)
    h = np.column_stack([F.relu(first(x)).data, np.ones(len(x))])
    v = np.linalg.lstsq(h, y, rcond=None)[0].T
    return nn.Sequential(first, nn.ReLU(), linear(v[:, :-1], v[:, -1]))


def train(model, steps=300 if demo.quick else 1000):
    """Return the network after training all its weights on the sawtooth."""
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def error(model):
    """Return the mean distance from the sawtooth."""
    return float(np.abs(model(x).data - y).mean())


widths = np.array((2, 10, 32) if demo.quick else (2, 4, 7, 10, 16, 22, 27, 32))
nets = {"by hand": {n: shallow(np.arange(n) / 2**k) for n in widths}, "trained": {}}
for n in demo.steps(widths, "widths"):
    trials = [train(shallow(demo.rng.random(n))) for _ in range(1 if demo.quick else 3)]
    nets["trained"][n] = min(trials, key=error)
errors = {kind: [error(net) for net in nets[kind].values()] for kind in nets}
most = [max(pieces(nets[kind][n]) for kind in nets) for n in widths]
demo.record(pieces_of_1_to_10_tents=counts, hidden_units=widths, **errors)
demo.check("pieces of n ReLUs in one layer over n + 1", max(np.divide(most, widths + 1)), at_most=1)

figure, axes = plot.subplots(2, 3, size=(7.4, 4.4), sharex=True, sharey=True, title="Tents in a row")
for panel, depth in zip(axes.flat[:5], depths):
    panel.plot(grid, deep(depth)(grid[:, None]).data, color=plot.COLOURS[0], linewidth=1.2)
    panel.set(title=f"k = {depth}: {counts[depth - 1]} pieces", xlabel="x", ylabel="output")
    panel.label_outer()
rest = axes[1, 2]
rest.plot(grid, deep(k)(grid[:, None]).data, color=plot.style.FRAME, linewidth=0.8)
for colour, kind in zip(plot.COLOURS[2:0:-1], nets):
    rest.plot(grid, nets[kind][10](grid[:, None]).data, color=colour, label=f"10 ReLUs in one layer, {kind}")
rest.set(title="one layer against k = 5", xlabel="x", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
figure.legend(loc="outside lower center", ncols=2)
demo.save(figure, "sawtooth")

# %%
# What no shallow network can do
# ------------------------------
# The sawtooth passes the height 1/2 once in each of its :math:`2^k` pieces, a shallow network at most n + 1
# times. So it is on the wrong side of 1/2 at no fewer than :math:`(2^k - n - 1)/2` of the teeth and gaps. The
# area between each of them and the height 1/2 is :math:`2^{-k}/4`, half that at the two ends, so its mean
# error is at least :math:`(1 - (n + 3) / 2^k) / 8`.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 4.2))
n = np.arange(1, 33)
left.semilogy(6 * np.array(depths) + 1, counts, "D-", color=plot.COLOURS[0], label="deep: k tents in a row")
left.semilogy(3 * widths + 1, most, "s", color=plot.COLOURS[3], label="one layer: the most counted")
left.semilogy(3 * n + 1, n + 1, "--", color=plot.style.FAINT, label="one layer: n + 1")
left.set(title="linear pieces", xlabel="weights and biases", ylabel="pieces on [0, 1]")
right.plot(6 * k + 1, error(deep(k)), "D", color=plot.COLOURS[0], markersize=7)
right.text(6 * k + 4, 0.008, "deep", color=plot.COLOURS[0])
right.plot(3 * widths + 1, errors["by hand"], "^-", color=plot.COLOURS[2], label="one layer, by hand")
right.plot(3 * widths + 1, errors["trained"], "o-", color=plot.COLOURS[1], label="one layer, trained")
least = np.maximum(1 - (n + 3) / 2**k, 0) / 8
right.fill_between(3 * n + 1, least, color=plot.style.GRID_LINE, label="one layer: impossible")
right.set(title="error against the sawtooth of 32 pieces", xlabel="weights and biases", ylabel="mean |error|")
figure.legend(loc="outside lower center", ncols=2)
demo.save(figure, "parameters")

demo.check("mean error of the deep network of 31 parameters", error(deep(k)), at_most=0)
shallow_error = min(error(net[2 * k]) for net in nets.values())
demo.check("mean error of the better shallow network of as many, 31", shallow_error, at_least=0.15)
