r"""
What LeNet's layers see
=======================

A trained network holds 61,706 numbers that nobody has written down. What do they do? One can ask in three
ways: which pixels a decision rests on, which image a unit would like best, and what in a given image a unit
answers to.

All three are passes back through the network. The gradient of a class's score by the pixels,

.. math:: \frac{\partial S}{\partial x_{hw}},

says how the score moves with each pixel (Simonyan, Vedaldi and Zisserman, Deep inside convolutional networks,
2014). The deconvnet (Zeiler and Fergus, Visualizing and understanding convolutional networks, 2014) takes the
same way back, with another rule at each ReLU.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, train, visualize
from nnkernels.demo import Demo

demo = Demo("A deconvnet points at what its unit answers to, attributions at the pixels that LeNet needs")

# %%
# A network that reads digits
# ---------------------------
# LeNet-5 on some of 5000 digits of MNIST; 1000 are held out. What follows looks at held-out digits that it
# reads rightly.

digits = data.mnist_5k(demo.rng)
count, epochs = (2000, 3) if demo.quick else (4000, 10)
model = nn.models.LeNet5(rng=demo.rng)
optimizer = optim.Adam(model.parameters(), lr=0.003)
train.fit(
    model,
    (digits.x_train[:count], digits.y_train[:count]),
    optimizer=optimizer,
    schedule=optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
    epochs=epochs,
    rng=demo.rng,
    progress=True,
)
right = train.predict(model, digits.x_test).argmax(axis=1) == digits.y_test
x, y = digits.x_test[right], digits.y_test[right]
demo.record(share_of_held_out_digits_read_rightly=right.mean())

# %%
# Filters and their maps
# ----------------------
# The six filters of the first layer are small pictures themselves; 5 x 5 weights have room for an edge or a
# spot. The maps of the second layer show where in a digit each of its 16 filters answers.

demo.save(plot.filters(visualize.filters(model, "conv1"), "The filters of conv1"), "filters")
maps = visualize.feature_maps(model, x[:1], "conv2")  # (1, 16, 10, 10)
demo.save(plot.feature_maps(x[0, 0], maps[0], "What conv2 answers to one digit"), "maps")

# %%
# Which pixels a decision rests on
# --------------------------------
# Four maps for the digit that was read. Saliency is the gradient's magnitude. Integrated gradients add up the
# gradients on the way from white paper to the digit, so that the pixels' shares add up to the score
# (Sundararajan, Taly and Yan, 2017). Grad-CAM weighs the maps of a layer by their mean gradients (Selvaraju
# and others, 2017). Occlusion hides a window of pixels, and measures how far the score falls.

n = [np.flatnonzero(y == k)[0] for k in (3, 5, 8)]
methods = {
    "saliency": visualize.saliency(model, x[n]),
    "integrated": visualize.integrated_gradients(model, x[n]).sum(axis=1),
    "Grad-CAM, conv2": visualize.grad_cam(model, x[n], "conv2"),
    "occlusion, 5 × 5": visualize.occlusion(model, x[n], size=5, stride=1),
}
demo.save(plot.heat_maps(x[n], methods, "What makes it a 3, a 5, an 8"), "decisions")

# %%
# A map may look right and mean nothing. So the 40 pixels of the largest shares are erased, from many digits,
# and as many pixels of ink drawn by lot. If the map is right, the first does more harm.

sample, labels = x[:300], y[:300]
shares = visualize.integrated_gradients(model, sample, labels, steps=16)
lots = demo.rng.random(sample.shape) * (sample > 0.2)


def misread_without(pixels):
    """Return the share of digits misread once their 40 pixels of the largest numbers are erased."""
    erased = sample.reshape(len(sample), -1).copy()
    largest = np.argsort(-pixels.reshape(len(sample), -1), axis=1)[:, :40]
    np.put_along_axis(erased, largest, 0, axis=1)
    return np.mean(train.predict(model, erased.reshape(sample.shape)).argmax(axis=1) != labels)


marked, drawn = misread_without(shares), misread_without(lots)
demo.record(misread_without_marked_pixels=marked, misread_without_pixels_drawn_by_lot=drawn)
more = 100 * (marked - drawn)
demo.check("digits misread without the pixels marked, more than by lot, in %", more, at_least=25)

# %%
# What a class would like to see
# ------------------------------
# Gradient ascent on the pixels looks for the image of the highest score. Left to itself it finds noise, and
# LeNet is certain of it. Penalties on differences between neighbours (the total variation), a little blur and
# a jitter of the image keep to what also drawings have: strokes.

steps = 80 if demo.quick else 200
alike = {"lr": 0.03, "l2": 0.05, "limits": (0, 1), "steps": steps, "rng": demo.rng}
rows = {
    "score\nalone": visualize.activation_maximisation(model, x.shape[1:], channels=range(10), **alike),
    "kept\nsmooth": visualize.activation_maximisation(
        model, x.shape[1:], channels=range(10), variation=0.3, blur=0.4, jitter=2, **alike
    ),
}
figure, axes = plot.subplots(2, 10, size=(7.4, 2.4), title="Images that LeNet takes for the digits 0 to 9")
for panels, (name, images) in zip(axes, rows.items()):
    for k, panel in enumerate(panels):
        panel.imshow(images[k, 0], cmap="gray_r", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
        panel.grid(False)
    panels[0].set_ylabel(name)
demo.save(figure, "classes")

least = min(F.softmax(model(images)).data.diagonal().min() for images in rows.values())
bound = 0.6 if demo.quick else 0.9
demo.check("least probability of the class that an image was made for", least, at_least=bound)

# %%
# What a unit can see
# -------------------
# A unit of conv1 sees 5 x 5 pixels, one of pool2 sees 16 x 16, whatever the weights are.

layers = "conv1", "pool1", "conv2", "pool2"
fields = {name: visualize.receptive_field(model, name, None, (1, 28, 28)) for name in layers}
demo.save(plot.receptive_field(x[n[2]], fields, "What the unit in the middle of each map sees"), "fields")

# %%
# What a unit answers to
# ----------------------
# For each channel of conv2, the held-out digit that excites it most is planted among 8 others on a page: the
# layers before the full connections take images of any size. The unit that answers most strongly to the page
# is carried back to the pixels. The three ways differ in what a ReLU :math:`y = \max(x, 0)` lets through of
# the number :math:`g` that comes back: the gradient where :math:`x > 0`, the deconvnet where :math:`g > 0`,
# guided backpropagation (Springenberg and others, 2015) where both are.

convolutions = nn.Sequential(model.conv1, model.pool1, model.conv2)
answers = visualize.feature_maps(convolutions, x, "2").max(axis=(2, 3))  # (N, 16)
units = np.flatnonzero(answers.max(axis=0) > 0)
pages, cells = [], []
for k in units:
    tiles = digits.x_train[demo.rng.choice(len(digits.x_train), 9), 0]
    cells.append(demo.rng.integers(9))
    tiles[cells[-1]] = x[answers[:, k].argmax(), 0]
    pages.append(tiles.reshape(3, 3, 28, 28).transpose(0, 2, 1, 3).reshape(1, 84, 84))
pages = np.stack(pages)
ways = {
    "gradient": visualize.gradient(convolutions, pages, "2", units)[:, 0],
    "deconvnet": visualize.deconvnet(convolutions, pages, "2", units)[:, 0],
    "guided backprop": visualize.guided_backprop(convolutions, pages, "2", units)[:, 0],
}
two = {name: patterns[:2] for name, patterns in ways.items()}
demo.save(plot.heat_maps(pages[:2], two, "One unit in each row, and what it answers to"), "units")

pattern = np.abs(ways["deconvnet"]).reshape(-1, 3, 28, 3, 28).sum(axis=(2, 4)).reshape(-1, 9)
inside = pattern[np.arange(len(units)), cells] / pattern.sum(axis=1)
demo.check("share of the deconvnets in the planted digit, by lot 0.11", inside.mean(), at_least=0.7)
