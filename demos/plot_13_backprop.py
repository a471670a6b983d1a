r"""
Backpropagation, layer by layer
===============================

A network is a chain of layers. F-prop computes their values from the first to the last and keeps them. B-prop
walks back: from the gradient at a layer's output :math:`y = \tanh(W x + b)` and the values kept, it makes the
gradients by W and b, and the gradient at the layer's input x, with which the layer before goes on.

.. math:: \delta_k = \frac{\partial L}{\partial y_k} (1 - y_k^2) \qquad
   \frac{\partial L}{\partial W_{kc}} = \delta_k x_c \qquad
   \frac{\partial L}{\partial b_k} = \delta_k \qquad
   \frac{\partial L}{\partial x_c} = \sum_k \delta_k W_{kc}

Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 323, 1986.
"""

import matplotlib
import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Backprop written as loops gives the tape's gradients, and epochs of it make the loss fall")

# %%
# There and back
# --------------
# Two inputs, hidden layers of four and three units, two outputs. The last layer has no tanh.

Ws = [2 * demo.rng.standard_normal((K, C)) / np.sqrt(C) for K, C in ((4, 2), (3, 4), (2, 3))]
bs = [0.1 * demo.rng.standard_normal(len(W)) for W in Ws]


def f_prop(x, Ws, bs):
    """Return the values of all layers, the inputs first, for a sample or for one per row."""
    values = [x]
    for W, b in zip(Ws, bs):
        y = values[-1] @ W.T + b
        values.append(y if b is bs[-1] else F.tanh(y))
    return values


def b_prop(values, dy):
    """Return the gradients at all values, by all W and by all b, from the gradient at the output."""
    at_values, by_W, by_b = [dy], [], []
    for W, x, y in reversed(list(zip(Ws, values, values[1:]))):
        delta = dy if y is values[-1] else dy * (1 - y**2)
        dW, dx = np.zeros_like(W), np.zeros_like(x)
        for k in range(len(y)):
            for c in range(len(x)):
                dW[k, c] = delta[k] * x[c]
                dx[c] += delta[k] * W[k, c]
        at_values, by_W, by_b = [dx, *at_values], [dW, *by_W], [delta, *by_b]
        dy = dx
    return at_values, by_W, by_b


x, target = np.array([0.8, -0.5]), np.array([0.0, 1.0])
values = f_prop(x, Ws, bs)
gradients, by_W, _ = b_prop(values, values[-1] - target)  # of L = 1/2 sum (y - target)^2
for layer, (value, gradient) in enumerate(zip(values, gradients)):
    print(f"layer {layer}: values {value.round(3)}, gradients {gradient.round(3)}")

# %%
# As a film
# ---------
# On the left the values fill in, on the right the gradients, one layer per frame. Lines are the weights on
# the left and the gradients by them on the right. Blue is negative, red positive.

figure, axes = plot.subplots(1, 2, size=(6, 4.4), title="f-prop, b-prop")
colours = matplotlib.colormaps["RdBu_r"]


def draw(panel, nodes, lines, shown, title):
    """Draw the network with the numbers of the layers that are shown."""
    panel.clear()
    panel.set(xlim=(-0.45, 3.45), ylim=(-1.9, 1.9), title=title, xlabel="layer", xticks=range(4), yticks=[])
    panel.grid(False)
    panel.spines[:].set_visible(False)
    most = 1.6 * max(np.abs(numbers).max() for numbers in nodes)
    heights = [(len(numbers) - 1) / 2 - np.arange(len(numbers)) for numbers in nodes]
    for layer, numbers in enumerate(nodes):
        colour = colours(0.5 + 0.5 * numbers / most) if layer in shown else "white"
        panel.scatter([layer] * len(numbers), heights[layer], s=640, color=colour, edgecolor="0.5")
        for height, number in zip(heights[layer], numbers if layer in shown else ()):
            panel.text(layer, height, f"{number:.2f}", ha="center", va="center", fontsize=9)
    for layer, matrix in enumerate(lines):
        known = layer in shown and layer + 1 in shown
        for (k, c), number in np.ndenumerate(matrix):
            share = number / np.abs(matrix).max()
            ends = heights[layer][c], heights[layer + 1][k]
            colour = colours(0.5 + 0.45 * share) if known else "0.88"
            panel.plot((layer, layer + 1), ends, color=colour, zorder=abs(share) - 1)  # strong ones on top


def update(frame):
    """Draw the empty network, then a layer more: four of f-prop, four of b-prop."""
    forth, back = min(frame, 4), min(max(frame - 4, 0), 4)
    draw(axes[0], values, Ws, range(forth), "values")
    draw(axes[1], gradients, by_W, range(4 - back, 4), "gradients of the loss")
    figure.suptitle(f"f-prop {forth} of 4 layers, b-prop {back} of 4")


demo.save(plot.animate(figure, update, frames=11, fps=1), "walk")

# %%
# Equal to the tape and to central differences
# --------------------------------------------
# Now L is a sum of the outputs with random weights. Weights of one would be a weaker check, since faults can
# cancel in the sum: ``demos/ones_hide_faults.py`` shows one.

weights = demo.rng.standard_normal(2)
_, by_W, by_b = b_prop(values, weights)
tape_W, tape_b = nnk.grad(lambda Ws, bs: weights @ f_prop(x, Ws, bs)[-1], (0, 1))(Ws, bs)
gaps = [np.abs(a - b).max() for a, b in zip(by_W + by_b, tape_W + tape_b)]
demo.check("largest difference of b-prop and the tape", max(gaps), at_most=1e-12)

gaps = []
for parameter, gradient in zip(Ws + bs, by_W + by_b):
    for place in np.ndindex(parameter.shape):
        kept, sums = parameter[place], []
        for moved in (kept + 1e-5, kept - 1e-5):
            parameter[place] = moved
            sums.append(weights @ f_prop(x, Ws, bs)[-1])
        parameter[place] = kept
        gaps.append(abs((sums[0] - sums[1]) / 2e-5 - gradient[place]))
demo.check("largest difference of b-prop and central differences", max(gaps), at_most=1e-8)

# %%
# Train with it
# -------------
# Class 1 are the points whose coordinates have the same sign, which no line parts from the others. The target
# is 1 for the output of the class, else 0: answering 1/2 has the loss 1/4. After each sample comes a step
# against its gradient; an epoch has seen all samples.

count, epochs = (200, 30) if demo.quick else (400, 40)
points = demo.rng.uniform(0.1, 1, (count, 2)) * demo.rng.choice((-1, 1), (count, 2))
classes = (points[:, 0] * points[:, 1] > 0).astype(int)
losses = []
for _ in demo.steps(range(epochs), "epochs"):
    total = 0.0
    for i in demo.rng.permutation(count):
        values = f_prop(points[i], Ws, bs)
        error = values[-1] - np.eye(2)[classes[i]]
        total += 0.5 * error @ error
        _, by_W, by_b = b_prop(values, error)
        for parameter, gradient in zip(Ws + bs, by_W + by_b):
            parameter -= 0.1 * gradient
    losses.append(total / count)

figure, axes = plot.subplots(1, 2, size=(7.4, 3.6), title="Trained by backprop written as loops")
axes[0].plot(range(1, epochs + 1), losses)
axes[0].set(xlabel="epoch", ylabel="mean loss", ylim=(0, None))
plot.decision_boundary(lambda at: f_prop(at, Ws, bs)[-1], points, classes, axes=axes[1])
demo.save(figure, "training")
demo.check("mean loss of the last epoch, where guessing has 0.25", losses[-1], at_most=0.1)
