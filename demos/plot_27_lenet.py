r"""
LeNet-5 reads digits
====================

LeNet-5 (LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998)
puts the parts of a convolutional network together: two convolutions, each followed by a ReLU and a pooling
layer, then three full connections that turn 400 numbers into ten scores. ReLU and max-pooling stand in for
the paper's tanh and trainable averages, as is usual today.

A convolution moves one small filter per output channel over the picture:

.. math:: y_{kpq} = \mathrm{ReLU}\left(b_k + \sum_{c,r,s} x_{c,\,p+r,\,q+s}\, w_{kcrs}\right)

The same few weights are used at every place, so a stroke is recognised wherever it lies.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("LeNet-5 learns from a few thousand handwritten digits to read others that were held out")

# %%
# Real digits
# -----------
# 5000 digits of MNIST, 28 x 28 pixels each. 1000 are held out: they decide nothing, not even when to stop.

digits = data.mnist_5k(demo.rng)
count = 2000 if demo.quick else 4000
x_train, y_train = digits.x_train[:count], digits.y_train[:count]
x_held_out, y_held_out = digits.x_test, digits.y_test

# %%
# The network, layer by layer
# ---------------------------
# Parameters and arithmetic follow from the shapes. A filter has C R S weights and a bias; an output takes
# C R S products and as many additions, and the ReLU counts as one operation more.

model = nn.models.LeNet5(rng=demo.rng)
table = nn.summary(model, (1, 1, 28, 28))
print(table)

K, C, R, S, P, Q = 16, 6, 5, 5, 10, 10  # conv2: 16 filters, 5 x 5 on 6 channels, 10 x 10 places
parameters = K * (C * R * S + 1)
flops = K * P * Q * (2 * C * R * S + 2)
conv2 = next(row for row in table.rows if row.name == "conv2")
as_counted = (conv2.parameters, conv2.flops) == (parameters, flops)
demo.check("the table's parameters and FLOPs of conv2 are those of the formulas", as_counted)

# %%
# The convolutions hold few of the parameters and do most of the arithmetic.

convolutions = [row for row in table.rows if row.kind == "Conv2d"]
demo.record(
    parameters=table.total.parameters,
    share_of_parameters_in_convolutions=sum(row.parameters for row in convolutions) / table.total.parameters,
    share_of_FLOPs_in_convolutions=sum(row.flops for row in convolutions) / table.total.flops,
)

# %%
# Training
# --------
# Cross-entropy, Adam, batches of 64. The learning rate falls along half a cosine, so that the weights settle.

epochs = 4 if demo.quick else 15
optimizer = optim.Adam(model.parameters(), lr=0.003)
history = train.fit(
    model,
    (x_train, y_train),
    (x_held_out, y_held_out),
    optimizer=optimizer,
    schedule=optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
    epochs=epochs,
    rng=demo.rng,
    progress=True,
)
demo.save(plot.learning_curves(history, "held out"), "curves")

# %%
# What the layers see
# -------------------
# Below each filter of conv1 stands the map of where it answers. Each map of conv2 combines all six, after
# pooling has halved their resolution.

x = x_held_out[:1]
h1 = model.conv1(x)  # (1, 6, 28, 28)
h2 = model.conv2(model.pool1(h1))  # (1, 16, 10, 10)
w, h1, h2 = model.conv1.weight.data[:, 0], h1.data[0], h2.data[0]

panels = [
    ("six filters of conv1, 5 × 5 weights", w, "RdBu_r", 6),
    ("the outputs of conv1 after ReLU, 28 × 28", h1, "viridis", 6),
    ("the outputs of conv2 after ReLU, 10 × 10", h2, "viridis", 8),
]
figure, axes = plot.subplots(
    3, 2, size=(7.4, 4.7), title="One held-out digit in LeNet-5", width_ratios=(1, 6), height_ratios=(4, 4, 6)
)
for panel in axes.flat:
    panel.axis("off")
axes[0, 0].imshow(x[0, 0], cmap="gray_r")
axes[0, 0].set_title("input")
for panel, (title, tiles, cmap, across) in zip(axes[:, 1], panels):
    most = np.abs(tiles).max()
    for k, tile in enumerate(tiles):
        left, top = k % across, k // across
        box = (left, left + 0.9, top + 0.9, top)
        shown = panel.imshow(tile, extent=box, cmap=cmap, vmin=-most if tiles is w else 0, vmax=most)
    panel.set(title=title, xlim=(0, across), ylim=(len(tiles) / across, 0))
    figure.colorbar(shown, ax=panel, label="weight" if tiles is w else "activation")
demo.save(figure, "layers")

# %%
# Which digits are mistaken
# -------------------------
# Row i, column j counts the digits i that were read as j. The worst mistakes are those of which the network
# is most certain.

z = train.predict(model, x_held_out)  # logits (N, 10)
predicted, probability = z.argmax(axis=1), F.softmax(z).max(axis=1)
counts = np.zeros((10, 10), int)
np.add.at(counts, (y_held_out, predicted), 1)

wrong = np.flatnonzero(predicted != y_held_out)
worst = wrong[np.argsort(-probability[wrong])][:12]
mistakes = [(x_held_out[n, 0], y_held_out[n], predicted[n], min(1.0, float(probability[n]))) for n in worst]
figure = plot.confusion_matrix(counts, digits.class_names, mistakes)
demo.save(figure, "confusion")

accuracy = 100 * (predicted == y_held_out).mean()
demo.check("held-out digits read rightly, in %", accuracy, at_least=90 if demo.quick else 95.5)
