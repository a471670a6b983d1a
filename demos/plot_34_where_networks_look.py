r"""
Where a network looks
=====================

A small convolutional network tells patches of three photographs apart: a temple, a flower, a portrait. By
what? Maps of where it looks show it: by the sky, the leaves and the backdrop, plain areas whose colour is
enough. Such a map is a guess about the network, and a guess can be tested.

Maps can also mislead: some look convincing whatever a network has learnt (Adebayo and others, Sanity checks
for saliency maps, 2018). So they are compared on mosaics, where the right answer is known.
"""

import numpy as np
from matplotlib import cbook, image
from sklearn.datasets import load_sample_images

from nnkernels import nn, optim, plot, train, visualize
from nnkernels.demo import Demo

demo = Demo(
    "Grad-CAM shows a network telling photographs apart by plain colours, and plain patches confirm it"
)

# %%
# Three photographs
# -----------------
# They come with installed packages, two with scikit-learn, one with matplotlib. Each 4 x 4 pixels become one.

temple, flower = load_sample_images().images
portrait = image.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
names = ["temple", "flower", "portrait"]


def reduced(photograph):
    """Return a photograph (H, W, 3) of bytes as (3, H / 4, W / 4), from 0 to 1."""
    H, W = photograph.shape[0] // 4, photograph.shape[1] // 4
    blocks = photograph[: 4 * H, : 4 * W].reshape(H, 4, W, 4, 3)
    return (blocks.mean(axis=(1, 3)) / 255).astype(np.float32).transpose(2, 0, 1)


photographs = [reduced(photograph) for photograph in (temple, flower, portrait)]


def patches(photograph, count, size):
    """Return patches (count, 3, size, size) from random places of a photograph."""
    rows = demo.rng.integers(photograph.shape[1] - size + 1, size=count)
    columns = demo.rng.integers(photograph.shape[2] - size + 1, size=count)
    return np.stack([photograph[:, i : i + size, j : j + size] for i, j in zip(rows, columns)])


def plain(photograph, count, size):
    """Return patches of one colour each, that of any pixel of the photograph, a little grainy."""
    colours = demo.rng.choice(photograph.reshape(3, -1), count, axis=1).T
    grain = 0.02 * demo.rng.standard_normal((count, 3, size, size))
    return np.clip(colours[:, :, None, None] + grain, 0, 1).astype(np.float32)


# %%
# Two networks
# ------------
# The first learns to tell the photographs' patches apart. For the second, patches of one colour are a fourth
# class, colours of the photographs: colour alone is not enough for it. The mean over all places, in front of
# the scores, lets both take pictures of any size.

size = 32
count, epochs = (150, 6) if demo.quick else (300, 8)


def trained(*classes):
    """Return a network that has learnt to tell the classes (count, 3, size, size) apart."""
    rng = demo.rng
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, activation="relu", rng=rng),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, activation="relu", rng=rng),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, activation="relu", rng=rng),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, len(classes), rng=rng),
    )
    x, y = np.concatenate(classes), np.repeat(np.arange(len(classes)), count)
    optimizer = optim.Adam(model.parameters(), lr=0.003)
    train.fit(model, (x, y), optimizer=optimizer, epochs=epochs, batch_size=32, rng=rng, progress=True)
    return model


three = [patches(photograph, count, size) for photograph in photographs]
first = trained(*three)
second = trained(*three, np.concatenate([plain(photograph, count // 3, size) for photograph in photographs]))
others = np.concatenate([patches(photograph, 100, size) for photograph in photographs])
labels = np.repeat(np.arange(3), 100)
demo.record(share_of_other_patches_told_apart_by_the_first=train.evaluate(first, others, labels).accuracy)

# %%
# What makes each photograph what it is
# -------------------------------------
# Grad-CAM weighs the maps of the last convolution by their mean gradients. Occlusion greys out windows of
# 16 x 16 pixels. Integrated gradients go from plain grey to the picture. Saliency is the gradient's size.

GREY = 0.5


def maps_of(model, pictures, targets):
    """Return what each method shows of pictures (N, 3, H, W) for their target classes: maps (N, H, W)."""
    share = visualize.integrated_gradients(model, pictures, targets, GREY, steps=8 if demo.quick else 16)
    step = 16 if demo.quick else 8
    return {
        "Grad-CAM": visualize.grad_cam(model, pictures, "4", targets),
        "occlusion": visualize.occlusion(model, pictures, targets, size=16, stride=step, value=GREY),
        "integrated": share.sum(axis=1),
        "saliency": visualize.saliency(model, pictures, targets),
    }


cut, targets = np.stack([photograph[:, :104, :128] for photograph in photographs]), np.arange(3)
for model, number in ((first, "first"), (second, "second")):
    title = f"What makes each photograph what it is, to the {number} network"
    demo.save(plot.heat_maps(cut, maps_of(model, cut, targets), title, names), f"{number}_network")

# %%
# At first, Grad-CAM's weight lies on plain areas. In numbers: the contrast within 5 x 5 pixels where the
# weight lies, over its mean in the photograph.

windows = np.lib.stride_tricks.sliding_window_view(cut.mean(axis=1), (5, 5), axis=(1, 2))
contrast = np.pad(windows.std(axis=(3, 4)), ((0, 0), (2, 2), (2, 2)), mode="edge")


def contrast_looked_at(model):
    """Return the contrast where Grad-CAM's weight lies, over the mean one, of each photograph."""
    seen = visualize.grad_cam(model, cut, "4", targets)
    return (seen * contrast).sum(axis=(1, 2)) / seen.sum(axis=(1, 2)) / contrast.mean(axis=(1, 2))


looked_at = contrast_looked_at(first).mean()
demo.record(contrast_that_the_second_looks_at_over_the_mean=float(contrast_looked_at(second).mean()))
demo.check("contrast that the first looks at, over the mean", looked_at, at_most=0.92)

# %%
# Which map to trust
# ------------------
# Mosaics of four parts: a piece of each photograph, and a plain one. Which part makes for a class? A method
# answers with its positive weight in each part. By lot, a quarter of it would lie in the right one.


def mosaic():
    """Return a picture (3, 96, 96) of four parts, and which part each class has."""
    parts = [
        *(patches(photograph, 1, 48)[0] for photograph in photographs),
        plain(photographs[demo.rng.integers(3)], 1, 48)[0],
    ]
    order = demo.rng.permutation(4)
    halves = [np.concatenate([parts[k] for k in pair], axis=2) for pair in (order[:2], order[2:])]
    return np.concatenate(halves, axis=1), np.argsort(order)[:3]


mosaics, places = zip(*(mosaic() for _ in range(5 if demo.quick else 12)))
pictures, places = np.repeat(mosaics, 3, axis=0), np.concatenate(places)  # one for each class
maps = maps_of(second, pictures, np.tile(targets, len(mosaics)))
one = {method: values[:3] for method, values in maps.items()}
demo.save(plot.heat_maps(pictures[:3], one, "One mosaic, asked for each of the classes", names), "mosaic")

shares = {}
for method, values in maps.items():
    weight = np.maximum(values, 0).reshape(-1, 2, 48, 2, 48).sum(axis=(2, 4)).reshape(-1, 4)
    right = weight[np.arange(len(places)), places] / np.maximum(weight.sum(axis=1), 1e-12)
    shares[method] = float(right.mean())
demo.record(weight_in_the_right_part=shares)
demo.check("weight of Grad-CAM in the right part, by lot 0.25", shares["Grad-CAM"], at_least=0.45)
demo.check("weight of saliency in the right part", shares["saliency"], at_most=0.35)

# %%
# The test of the guess
# ---------------------
# If colour is enough for the first network, it should know a photograph by a patch of one of its colours.

coloured = np.concatenate([plain(photograph, 100, size) for photograph in photographs])
share = 100 * train.evaluate(first, coloured, labels).accuracy
demo.check("patches of one colour known by the first network, in %, by lot 33", share, at_least=60)
