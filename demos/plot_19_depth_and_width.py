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


def deep(k):
    """Return k tent maps in a row, two ReLUs a layer."""
    layers = [nn.Linear(1, 2, dtype=np.float64), nn.ReLU()]
    layers[0].weight.data[:] = [[1.0], [1.0]]
    layers[0].bias.data[:] = [0.0, -0.5]
    for _ in range(k - 1):
        layer = nn.Linear(2, 2, dtype=np.float64)
        layer.weight.data[:] = [[2.0, -4.0], [2.0, -4.0]]
        layer.bias.data[:] = [0.0, -0.5]
        layers += [layer, nn.ReLU()]
    last = nn.Linear(2, 1, dtype=np.float64)
    last.weight.data[:] = [[2.0, -4.0]]
    last.bias.data[:] = 0.0
    return nn.Sequential(*layers, last)


def values(model, x):
    """Return the network's outputs at the points x, as an array like x."""
    with nnk.no_grad():
        return model(x[:, None]).data[:, 0]


def parameters(model):
    """Return how many weights and biases the network has."""
    return sum(p.size for p in model.parameters())


# %%
# Count the pieces
# ----------------
# The slope at a point is the gradient by x. On a grid finer than the pieces, a new piece begins wherever the
# slopes of two neighbours differ. The weights are powers of two, so the deep network's numbers are exact.

grid = (np.arange(2**14) + 0.5) / 2**14


def pieces(model):
    """Return the number of straight pieces of the network on [0, 1]."""
    at = nnk.tensor(grid[:, None], requires_grad=True)
    model(at).sum().backward()
    slopes = at.grad.data[:, 0]
    return 1 + np.count_nonzero(np.abs(np.diff(slopes)) > 1e-9 * np.abs(slopes).max())


depths = range(1, 11)
counts = [pieces(deep(k)) for k in depths]
demo.record(parameters=[parameters(deep(k)) for k in depths], pieces=counts)
off = max(abs(count - 2**k) for count, k in zip(counts, depths))
demo.check("pieces of k tents in a row off 2^k, the largest for k = 1 to 10", off, at_most=0)

# %%
# Shallow networks
# ----------------
# n ReLUs in one layer have 3n + 1 parameters: with n = 2k as many as the deep network. They try to follow the
# sawtooth of k = 5 in two ways. First by hand: the bends are put on the first n bends of the sawtooth, and
# least squares finds the best weights after them. Then by training, from bends drawn anew for each start.

k = 5
x = (np.arange(16 * 2**k) + 0.5) / (16 * 2**k)
y = values(deep(k), x)


def shallow(bends):
    """Return a network of one hidden layer with the ReLUs' bends at these places."""
    n = len(bends)
    model = nn.Sequential(nn.Linear(1, n, dtype=np.float64), nn.ReLU(), nn.Linear(n, 1, dtype=np.float64))
    model[0].weight.data[:, 0] = 2.0**k
    model[0].bias.data[:] = -(2.0**k) * bends
    h = np.column_stack([model[1](model[0](x[:, None])).data, np.ones(len(x))])
    v, *_ = np.linalg.lstsq(h, y, rcond=None)
    model[2].weight.data[0], model[2].bias.data[:] = v[:n], v[n]
    return model


def train(model, steps):
    """Train all weights on the sawtooth."""
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = F.mse_loss(model(x[:, None]), y[:, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def error(model):
    """Return the mean distance from the sawtooth."""
    return float(np.abs(values(model, x) - y).mean())


widths = (2, 10, 32) if demo.quick else (2, 4, 7, 10, 16, 22, 27, 32)
by_hand = {n: shallow(np.arange(n) / 2**k) for n in widths}
trained = {}
for n in demo.steps(widths, "widths"):
    trials = []
    for _ in range(1 if demo.quick else 3):
        model = shallow(demo.rng.random(n))
        train(model, steps=300 if demo.quick else 1000)
        trials.append(model)
    trained[n] = min(trials, key=error)
hand_errors = [error(by_hand[n]) for n in widths]
trained_errors = [error(trained[n]) for n in widths]
demo.record(hidden_units=list(widths), error_by_hand=hand_errors, error_trained=trained_errors)
counts_shallow = [max(pieces(by_hand[n]), pieces(trained[n])) for n in widths]
most = max(count / (n + 1) for count, n in zip(counts_shallow, widths))
demo.check("pieces of n ReLUs in one layer over n + 1, the largest", most, at_most=1)

# %%
# What no shallow network can do
# ------------------------------
# The sawtooth passes the height 1/2 once in each of its :math:`2^k` pieces, a shallow network at most n + 1
# times. So it is on the wrong side of 1/2 under at least :math:`(2^k - n - 1)/2` of the teeth and gaps. Each
# has the area :math:`2^{-k}/4` up to the height 1/2, half as much at the two ends, which gives
#
# .. math:: \int_0^1 |g - t^k| \ge \frac{1}{8} \left(1 - \frac{n + 3}{2^k}\right)

figure, axes = plot.subplots(2, 3, size=(7.4, 4.4), sharex=True, sharey=True, title="Tents in a row")
for panel, depth in zip(axes.flat, range(1, 6)):
    panel.plot(grid, values(deep(depth), grid), color=plot.COLOURS[0], linewidth=1.2)
    panel.set_title(f"k = {depth}: {pieces(deep(depth))} pieces")
rest = axes[1, 2]
rest.plot(grid, values(deep(k), grid), color=plot.style.FRAME, linewidth=0.8)
rest.plot(grid, values(by_hand[2 * k], grid), color=plot.COLOURS[2], label="10 ReLUs in one layer, by hand")
rest.plot(grid, values(trained[2 * k], grid), color=plot.COLOURS[1], label="10 ReLUs in one layer, trained")
rest.set(title="one layer against k = 5", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
for panel in axes[1]:
    panel.set_xlabel("x")
figure.legend(loc="outside lower center", ncols=2)
demo.save(figure, "sawtooth")

# %%
# At equal numbers of parameters
# ------------------------------
# The deep network doubles its pieces with every six parameters, the shallow one gains one for every three. To
# make this sawtooth it needs as many units as there are pieces.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 4.2))
sizes = [3 * n + 1 for n in widths]
left.semilogy(
    [6 * k + 1 for k in depths], counts, "D-", color=plot.COLOURS[0], label="deep: k tents in a row"
)
left.semilogy(sizes, counts_shallow, "s", color=plot.COLOURS[3], label="one layer: the most counted")
n = np.arange(1, 33)
left.semilogy(3 * n + 1, n + 1, "--", color=plot.style.FAINT, label="one layer: n + 1")
left.set(title="linear pieces", xlabel="weights and biases", ylabel="pieces on [0, 1]")
right.plot(6 * k + 1, error(deep(k)), "D", color=plot.COLOURS[0], markersize=7)
right.text(6 * k + 4, 0.008, "deep", color=plot.COLOURS[0])
right.plot(sizes, hand_errors, "^-", color=plot.COLOURS[2], label="one layer, by hand")
right.plot(sizes, trained_errors, "o-", color=plot.COLOURS[1], label="one layer, trained")
impossible = np.clip((1 - (n + 3) / 2**k) / 8, 0, None)
right.fill_between(3 * n + 1, impossible, color=plot.style.GRID_LINE, label="one layer: impossible")
right.set(title="error against the sawtooth of 32 pieces", xlabel="weights and biases", ylabel="mean |error|")
handles, labels = (a + b for a, b in zip(*(panel.get_legend_handles_labels() for panel in (left, right))))
figure.legend(handles, labels, loc="outside lower center", ncols=2)
demo.save(figure, "parameters")

wave = 1 - np.abs(2 * (2 ** (k - 1) * x % 1) - 1)  # the sawtooth, written without tents
demo.check("largest error of the deep network of 31 parameters", np.abs(y - wave).max(), at_most=0)
at = widths.index(2 * k)
demo.check(
    "mean error of the better shallow network of as many, 31",
    min(hand_errors[at], trained_errors[at]),
    at_least=0.15,
)
