r"""
Softmax: more than two classes
==============================

With K classes a network gives one score z per class, and the softmax turns the scores into probabilities. The
loss is minus the logarithm of the true class's probability, the logistic loss for K classes:

.. math:: p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad L = -\sum_k y_k \log p_k, \qquad
   \frac{\partial L}{\partial z_k} = p_k - y_k

The target y is 1 at the true class and 0 elsewhere, so a whole number that names the class says the same.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, tensor, train
from nnkernels.demo import Demo

demo = Demo("The softmax loss is stable at logits of 10,000, and one layer trained with it reads digits")

# %%
# Huge scores
# -----------
# e to the 10,000 is beyond float64, too, so the formula as it stands gives infinity over infinity. Nothing
# changes when the largest score m is subtracted from all of them, and then no exponent is above 0:
# :math:`\log p_k = z_k - m - \log \sum_j e^{z_j - m}`. That is the reference here, in float64.

N, K = 200, 10
z = demo.rng.uniform(-1e4, 1e4, (N, K)).astype(np.float32)
labels = demo.rng.integers(K, size=N)
y = data.one_hot(labels, K)

with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
demo.record(share_of_probabilities_nan_by_the_formula=np.isnan(naive).mean())

m = z.max(axis=1, keepdims=True).astype(np.float64)
log_p = z - m - np.log(np.exp(z - m).sum(axis=1, keepdims=True))
loss = -log_p[np.arange(N), labels].mean()
gradient = (np.exp(log_p) - y) / N  # of the mean over N

# %%
# The library's loss, in float32, with labels and with one-hot targets.

errors = []
for target in (labels, y):
    logits = tensor(z, requires_grad=True)
    value = F.cross_entropy(logits, target)
    value.backward()
    errors.append(abs(value.item() - loss) / loss)
    errors.append(np.abs(logits.grad.data - gradient).max() * N)
demo.check("error of loss and gradient at logits of up to 1e4", np.max(errors), at_most=1e-6)

# %%
# Two classes
# -----------
# Divide by the numerator, and the sigmoid of the difference is left: :math:`1 / (1 + e^{-(z_1 - z_0)})`.

z = demo.rng.normal(0, 10, (1000, 2))
gap = np.abs(F.softmax(z)[:, 1] - F.sigmoid(z[:, 1] - z[:, 0])).max()
demo.check("softmax of two classes differs from the sigmoid of the difference by", gap, at_most=1e-12)

# %%
# Probabilities over the plane
# ----------------------------
# Four Gaussians, one linear score each. Where two scores are equal lies a line, so every region has straight
# borders; near them no class is sure.

means = np.array([[-2.0, -1.0], [2.0, -1.5], [0.0, 2.0], [0.3, -0.3]])
classes = demo.rng.integers(4, size=400)
points = means[classes] + 0.8 * demo.rng.standard_normal((400, 2))
model = nn.Linear(2, 4, dtype=np.float64, rng=demo.rng)
optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
for _ in demo.steps(range(200), "softmax regression in the plane"):
    loss = F.cross_entropy(model(points), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

figure, axes = plot.subplots(1, 2, size=(7.4, 3.9), title="Softmax regression with four classes")
plot.decision_boundary(
    lambda at: F.softmax(model(at)).data, points, classes, axes=axes[0], title="the most probable class"
)
across, down = np.linspace(*axes[0].get_xlim(), 160), np.linspace(*axes[0].get_ylim(), 160)
grid = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
best = F.softmax(model(grid)).data.max(axis=1).reshape(160, 160)
shown = axes[1].imshow(best, origin="lower", extent=(*across[[0, -1]], *down[[0, -1]]), aspect="auto", vmax=1)
axes[1].set(xlabel="$x_1$", ylabel="$x_2$", title="its probability")
axes[1].grid(False)
figure.colorbar(shown, ax=axes[1])
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
demo.save(figure, "plane")

# %%
# Ten digits
# ----------
# One linear score per class again, now of 784 pixels. Weights start at 0, and a little weight decay keeps
# those small that the digits do not ask for.

digits = data.mnist_5k(demo.rng)
count, epochs = (1500, 10) if demo.quick else (4000, 30)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, rng=demo.rng))
nn.init.zeros_(model[1].weight)
optimizer = optim.SGD(model.parameters(), lr=0.3, weight_decay=0.005)
train.fit(
    model,
    (digits.x_train[:count], digits.y_train[:count]),
    optimizer=optimizer,
    schedule=optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
    loss=F.cross_entropy,
    epochs=epochs,
    rng=demo.rng,
)

# %%
# The weights of a class are a picture: red where ink speaks for the digit, blue where it speaks against it.
# The 0 wants a ring, and no ink inside.

templates = model[1].weight.data.reshape(10, 1, 28, 28)
demo.save(plot.filters(templates, "The weights of each digit"), "templates")

predicted = train.predict(model, digits.x_test).argmax(axis=1)
accuracy = 100 * (predicted == digits.y_test).mean()
demo.check("held-out digits classified rightly, in %", accuracy, at_least=84 if demo.quick else 88)
