r"""
One hidden layer, and its gradients by hand
===========================================

A model that is linear in its weights bends where basis functions do. A hidden layer learns these functions:

.. math:: h(x) = w^T \sigma(U x), \quad \phi_j(x) = \sigma(u_j^T x)

where :math:`x_0 = 1` gives every unit a threshold. Classes are told apart by cross-entropy, with
:math:`p_i = \sigma(h(x_i))`, numbers are fitted by half the squared error:

.. math:: L = -\sum_i [y_i \ln p_i + (1 - y_i) \ln(1 - p_i)] \qquad L = \frac{1}{2} \sum_i (y_i - h(x_i))^2

By the chain rule, from the loss through h to the weights; the first factor alone depends on the loss:

.. math::
   \frac{\partial L}{\partial w_j} = \sum_i \frac{\partial L}{\partial h_i} \, \phi_j(x_i) \qquad
   \frac{\partial L}{\partial u_j} = \sum_i \frac{\partial L}{\partial h_i} \, w_j \,
   \phi_j(x_i) (1 - \phi_j(x_i)) \, x_i
"""

import math

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Loops over the chain rule's formulas give the tape's gradients, and learn basis functions")

# %%
# The formulas as loops
# ---------------------
# N samples with m inputs, d hidden units. The slope of cross-entropy in h is :math:`-(1 - p)` where y = 1 and
# :math:`p` where y = 0; that of the squared error is :math:`h - y`.


def sigmoid(z):
    """Return 1 / (1 + exp(-z)) of one number."""
    return 1 / (1 + math.exp(-z))


def by_hand(w, U, x, y, loss):
    """Return dL/dw and dL/dU, for w (d,), U (d, m), x (N, m), y (N,)."""
    (N, m), d = x.shape, len(w)
    w, U, x, y = w.tolist(), U.tolist(), x.tolist(), y.tolist()  # Python is faster with lists
    dw, dU = [0.0] * d, [[0.0] * m for _ in range(d)]
    for i in range(N):
        phi, h = [0.0] * d, 0.0
        for j in range(d):
            a = 0.0
            for k in range(m):
                a += U[j][k] * x[i][k]
            phi[j] = sigmoid(a)
            h += w[j] * phi[j]
        p = sigmoid(h)
        dL_dh = -y[i] * (1 - p) + (1 - y[i]) * p if loss == "cross-entropy" else h - y[i]
        for j in range(d):
            dw[j] += dL_dh * phi[j]
            for k in range(m):
                dU[j][k] += dL_dh * w[j] * phi[j] * (1 - phi[j]) * x[i][k]
    return np.array(dw), np.array(dU)


# %%
# The same from the tape
# ----------------------
# Here the network and its loss are written down; nnkernels differentiates them.


def network(w, U, x):
    """Return h(x), shape (N,)."""
    return F.sigmoid(x @ U.T) @ w


def gap(w, U, x, y, loss):
    """Return the largest difference between the gradients of the loops and the tape's."""

    def L(w, U):
        h = network(w, U, x)
        if loss == "cross-entropy":
            return F.binary_cross_entropy_with_logits(h, y, reduction="sum")
        return 0.5 * ((y - h) ** 2).sum()

    dw, dU = nnk.grad(L, (0, 1))(w, U)
    dw_by_hand, dU_by_hand = by_hand(w, U, x, y, loss)
    return max(np.abs(dw_by_hand - dw).max(), np.abs(dU_by_hand - dU).max())


x, w, U = (demo.rng.standard_normal(shape) for shape in ((40, 3), 5, (5, 3)))
labels, numbers = demo.rng.integers(0, 2, 40).astype(np.float64), demo.rng.standard_normal(40)
gaps = [gap(w, U, x, labels, "cross-entropy"), gap(w, U, x, numbers, "squared error")]
demo.check("difference of hand and tape gradients, random weights, both losses", max(gaps), at_most=1e-12)

# %%
# Train with the loops
# --------------------
# No line parts a disc from the ring around it; a hidden layer can. Descent follows the mean loss, and every
# hundred epochs the loops are held against the tape again.


def disc_and_ring(count):
    """Return points (1, x1, x2) and their classes, 1 in the disc."""
    y = (demo.rng.random(count) < 0.5).astype(np.float64)
    radius = np.where(y == 1, demo.rng.uniform(0, 1, count), demo.rng.uniform(1.4, 2.2, count))
    angle = demo.rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.ones(count), radius * np.cos(angle), radius * np.sin(angle)], axis=1), y


x, y = disc_and_ring(200)
rate = 4.0
for epoch in demo.steps(range(400 if demo.quick else 1000), "epochs"):
    dw, dU = by_hand(w, U, x, y, "cross-entropy")
    w, U = w - rate * dw / len(x), U - rate * dU / len(x)
    if epoch % 100 == 99:
        gaps.append(gap(w, U, x, y, "cross-entropy"))

unseen, classes = disc_and_ring(2000)
right = ((network(w, U, unseen) > 0) == classes).mean()
demo.check("share of unseen points in the right class", right, at_least=0.93)

# %%
# What the hidden units have become
# ---------------------------------
# Every unit is a step across the plane, whose place and direction it has learned; weighted and added, five of
# them enclose the disc. The line in each panel is the network's boundary, h = 0.

figure, axes = plot.subplots(2, 3, size=(7.4, 5.2), title="A boundary made of five learned basis functions")
plot.decision_boundary(
    lambda at: F.sigmoid(network(w, U, np.insert(at, 0, 1.0, axis=1))), x[:, 1:], y, axes=axes[0, 0]
)
axes[0, 0].set_title("$p = \\sigma(h)$ and the data")
box = axes[0, 0].axis()  # left, right, bottom, top
x1, x2 = np.meshgrid(np.linspace(*box[:2], 120), np.linspace(*box[2:], 120))
phi = F.sigmoid(np.stack([np.ones_like(x1), x1, x2], axis=-1) @ U.T)  # (120, 120, 5)
for j, panel in enumerate(axes.flat[1:]):
    shown = panel.imshow(phi[:, :, j], origin="lower", extent=box, vmin=0, vmax=1, aspect="auto")
    panel.contour(x1, x2, phi @ w, levels=[0], colors="white", linewidths=2.6)
    panel.contour(x1, x2, phi @ w, levels=[0], colors="black", linewidths=1.0)
    panel.set(title=f"$\\phi_{j + 1}$, $w_{j + 1} = {w[j]:.1f}$", xlabel="$x_1$", ylabel="$x_2$")
    panel.grid(False)
for panel in axes.flat:
    panel.label_outer()
figure.colorbar(shown, ax=axes, label="a hidden unit's activation", shrink=0.8)
demo.save(figure, "basis_functions")

demo.check("largest difference of hand and tape gradients, all through training", max(gaps), at_most=1e-12)
