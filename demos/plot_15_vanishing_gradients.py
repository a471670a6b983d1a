r"""
Vanishing gradients
===================

In a chain of layers :math:`z^a = W^a \phi(z^{a-1})` the gradient reaches a layer through all layers after
it,

.. math:: \frac{\partial L}{\partial z^{a-1}} = \phi'(z^{a-1}) \odot (W^a)^T \frac{\partial L}{\partial z^a}

and each of them multiplies it: by the slope of the activation, and by the scale of the weights. A product
of ten factors below one is small. The sigmoid's slope is at most 1/4, so that its gradients vanish; ReLU's
slope is 1 for half of the units, and weights of the right variance make up for the other half.
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Over 10 layers the sigmoid's gradients vanish, and those of ReLU with He's weights do not")

# %%
# Three activations, three variances
# ----------------------------------
# A layer has n inputs and n outputs, and its weights are uniform in [-a, a], whose variance is
# :math:`a^2/3`. The standard of former years was :math:`a = 1/\sqrt{n}`. Glorot and Bengio (Understanding
# the difficulty of training deep feedforward neural networks, 2010) make the variance 1/n, so that a sum of
# n terms keeps the size of one. He et al. (Delving deep into rectifiers, 2015) double it, since ReLU drops
# half of the terms.

depth = 10
n = 256
N = 50 if demo.quick else 1000

activations = {"sigmoid": F.sigmoid, "tanh": F.tanh, "ReLU": F.relu}
variances = {"standard": 1 / (3 * n), "Glorot": 1 / n, "He": 2 / n}

x = demo.rng.standard_normal((N, n))
y = demo.rng.integers(0, 10, N)

# %%
# The gradient at every layer
# ---------------------------
# To keep the gradient of z in a layer, zeros are added to z: they change no number, and the loss is
# differentiated by them. The sum of the losses is taken, so that each example's gradient is that of its own
# loss.


def layer_gradients(phi, variance):
    """Return dL/dz of all layers, (depth, N, n), from the first layer to the last."""
    a = np.sqrt(3 * variance)
    weights = demo.rng.uniform(-a, a, (depth, n, n))
    last = demo.rng.uniform(-a, a, (10, n))

    def loss(zeros):
        h = x
        for W, zero in zip(weights, zeros):
            z = h @ W.T + zero
            h = phi(z)
        return F.cross_entropy(h @ last.T, y, reduction="sum")

    return np.array(nnk.grad(loss)([np.zeros((N, n)) for _ in range(depth)]))


names = [(activation, scale) for activation in activations for scale in variances]
gradients = {}
for activation, scale in demo.steps(names, "networks"):
    gradients[activation, scale] = layer_gradients(activations[activation], variances[scale])

# %%
# Histograms, layer by layer
# --------------------------
# Where curves lie over each other, all layers learn at one pace. Where they are a row of hills, each layer
# towards the input has gradients smaller by one more factor.

title = "Back-propagated gradients of ten layers"
figure, axes = plot.subplots(3, 3, size=(7.4, 6.4), title=title, sharex=True, sharey=True)
for panel, (activation, scale) in zip(axes.flat, names):
    layers = {f"layer {a}": g for a, g in enumerate(gradients[activation, scale], start=1)}
    plot.gradient_histograms(layers, axes=panel, title=f"{activation}, {scale}")
    handles, labels = panel.get_legend_handles_labels()
    panel.get_legend().remove()
    panel.label_outer()
figure.legend(handles, labels, loc="outside lower center", ncols=5)
demo.save(figure, "histograms")

# %%
# What is left of the norm
# ------------------------
# The norm of a layer's gradients over that of the last layer: a straight line on the log axis is one and
# the same factor per layer. With the sigmoid it is at most 1/4 for Glorot's weights. He's gain is too large
# for tanh in the limit of small z, but tanh then saturates, which makes its slope smaller.

norms = {name: np.linalg.norm(g.reshape(depth, -1), axis=1) for name, g in gradients.items()}
layer = np.arange(1, depth + 1)
title = "Norm of the gradient, relative to the last layer's"
figure, axes = plot.subplots(1, 3, size=(7.4, 3.6), title=title, sharey=True)
for panel, activation in zip(axes, activations):
    for scale, marker in zip(variances, "osD"):
        norm = norms[activation, scale]
        panel.semilogy(layer, norm / norm[-1], marker=marker, label=f"{scale} weights")
    panel.set(title=activation, xlabel="layer", xticks=[1, 4, 7, 10])
axes[0].set_ylabel("norm over the last layer's")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "norms")

falls = {name: norm[-1] / norm[0] for name, norm in norms.items()}
demo.record(
    **{f"{activation}_{scale}_last_over_first": falls[activation, scale] for activation, scale in names}
)
smallest = min(falls["sigmoid", scale] for scale in variances)
demo.check("norm at layer 10 over layer 1, sigmoid, the best of three weights", smallest, at_least=1e3)
demo.check("the same for tanh with Glorot's weights", falls["tanh", "Glorot"], at_least=0.1, at_most=10)
demo.check(
    "gradient norm at layer 10 over layer 1, ReLU with He's weights",
    falls["ReLU", "He"],
    at_least=0.1,
    at_most=10,
)
