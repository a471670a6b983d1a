r"""
Pooling
=======

Pooling lays windows over an activation map and keeps one number of each: the largest, or the mean. There are
no weights, and every channel is pooled for itself. With windows of :math:`h \times w` pixels side by side,

.. math:: y_{c,i,j} = \max_{n < h,\; m < w}\; x_{c,\;hi+n,\;wj+m}

Where in its window the largest number stood is forgotten. That is the purpose: a feature that has moved a
little, but not out of its window, gives the same answer.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, plot
from nnkernels.demo import Demo

demo = Demo("Pooled maps forget the order within a window, and change less when the image moves")

# %%
# Order within a window
# ---------------------
# The 4 x 4 numbers of every window are put in another order, each window in its own. The largest stays the
# largest. A sum in another order may be rounded differently, no more.


def shuffle_windows(x, size):
    """Return x (H, W) with the numbers of every size x size window in a new order."""
    H, W = x.shape
    windows = x.reshape(H // size, size, W // size, size).transpose(0, 2, 1, 3).reshape(-1, size * size)
    windows = demo.rng.permuted(windows, axis=1)
    return windows.reshape(H // size, W // size, size, size).transpose(0, 2, 1, 3).reshape(H, W)


x = demo.rng.standard_normal((40, 60))
shuffled = shuffle_windows(x, 4)
both = np.stack([x, shuffled])[:, None]  # (2, 1, 40, 60)
largest, mean = F.max_pool2d(both, 4), F.avg_pool2d(both, 4)
gap = np.abs(mean[0] - mean[1]).max()
demo.record(share_of_numbers_that_moved=np.mean(x != shuffled), change_of_the_means=gap)
demo.check("maxima unchanged, means but for rounding", np.array_equal(*largest) and gap < 1e-12)

# %%
# Sixteen numbers
# ---------------
# The same in small: four by four whole numbers, windows of two by two.

small = demo.rng.permutation(16).reshape(4, 4).astype(float)
other = shuffle_windows(small, 2)
figure, axes = plot.subplots(2, 3, size=(6.4, 4.4), title="Another order, the same maxima and means")
for row, x, name in zip(axes, (small, other), ("map", "shuffled in windows")):
    maps = x, F.max_pool2d(x[None, None], 2)[0, 0], F.avg_pool2d(x[None, None], 2)[0, 0]
    for panel, y, title in zip(row, maps, (name, "largest", "mean")):
        size = 4 // len(y)
        panel.imshow(np.kron(y, np.ones((size, size))), vmin=0, vmax=22, cmap="Blues")
        for i, j in np.ndindex(y.shape):
            middle = size * np.array([j, i]) + (size - 1) / 2
            panel.text(*middle, f"{y[i, j]:g}", ha="center", va="center", fontsize=12)
        panel.axhline(1.5, color="white", linewidth=4)
        panel.axvline(1.5, color="white", linewidth=4)
        panel.set(title=title, xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
demo.save(figure, "windows")

# %%
# Handwriting that moves
# ----------------------
# The maps are those of four edge filters on digits, after a ReLU. The images move to the right by some
# pixels. How much of a map has changed, relative to its size, is
#
# .. math:: \|f(x') - f(x)\|\;/\;\|f(x)\|
#
# A pooled map is smaller, too. To see that this is not the reason, every fourth pixel is taken without
# pooling.

digits = data.mnist_5k(demo.rng).x_test[: 100 if demo.quick else 1000]
digits = np.pad(digits, ((0, 0), (0, 0), (6, 6), (10, 10)))  # room to move: 40 x 48 pixels
sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
w = np.stack([sobel, sobel.T, -sobel, -sobel.T])[:, None]


def maps_of(images):
    """Return the maps (N, 4, 40, 48) of the four edge filters."""
    return F.relu(F.conv2d(images, w, padding=1))


kinds = {
    "raw maps": lambda maps: maps,
    "every fourth pixel": lambda maps: maps[:, :, ::4, ::4],
    "mean of 4 × 4": lambda maps: F.avg_pool2d(maps, 4),
    "largest of 2 × 2": lambda maps: F.max_pool2d(maps, 2),
    "largest of 4 × 4": lambda maps: F.max_pool2d(maps, 4),
}
shifts = range(9)
changes = {name: [] for name in kinds}
still = maps_of(digits)
for shift in demo.steps(shifts, "shifts"):
    moved = maps_of(np.roll(digits, shift, axis=3))
    for name, pool in kinds.items():
        before, after = pool(still), pool(moved)
        changes[name].append(np.linalg.norm(after - before) / np.linalg.norm(before))
demo.record(change_by_one_pixel={name: values[1] for name, values in changes.items()})

figure, axes = plot.subplots(size=(6.0, 3.8), title="How much the maps change when the image moves")
for name, values in changes.items():
    axes.plot(shifts, values, "o--" if name == "every fourth pixel" else "o-", label=name)
axes.set(xlabel="shift of the image, pixels", ylabel="relative change of the maps", ylim=(0, None))
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "shifts")

# %%
# One digit
# ---------
# Its picture, one of its maps, and the same a pixel further to the right.

pair = np.stack([digits[0], np.roll(digits[0], 1, axis=2)])
columns = {"image": pair[:, 0]}
for name in ("raw maps", "largest of 2 × 2", "largest of 4 × 4"):
    columns[name] = kinds[name](maps_of(pair))[:, 0]
figure, axes = plot.subplots(3, 4, size=(7.0, 5.8), title="A digit moves by one pixel")
for column, (name, (before, after)) in zip(axes.T, columns.items()):
    cmap = "gray" if name == "image" else "viridis"
    for panel, picture in zip(column, (before, after, np.abs(after - before))):
        panel.imshow(picture, vmin=0, vmax=before.max(), cmap=cmap, extent=(0, 48, 40, 0))
        panel.set(xticks=[], yticks=[], xlim=(8, 40), ylim=(36, 4))  # without most of the margin
        panel.grid(False)
    column[0].set_title(name)
    column[2].set_xlabel(f"change {np.linalg.norm(after - before) / np.linalg.norm(before):.2f}")
for panel, name in zip(axes[:, 0], ("before", "after", "difference")):
    panel.set_ylabel(name)
demo.save(figure, "maps")

# %%
# A fixed size for images of any size
# -----------------------------------
# Adaptive pooling is told the size of the output, and chooses the windows: a layer with a fixed number of
# inputs can follow, whatever the image. With one window it is the mean of the whole map.

sizes = []
for H, W in ((28, 28), (40, 17), (31, 100)):
    x = demo.rng.standard_normal((1, 4, H, W))
    sizes.append(F.adaptive_max_pool2d(x, (3, 2)).shape)
whole = F.adaptive_avg_pool2d(x, 1)[..., 0, 0] - x.mean(axis=(2, 3))
one_size = set(sizes) == {(1, 4, 3, 2)}
demo.check("adaptive pooling: one size, and the mean", one_size and abs(whole).max() < 1e-12)

# %%
# How much is left of a shift
# ---------------------------
# Pooling dampens a shift, it does not undo it: a feature may always step over the edge of its window. Means
# dampen a pixel's shift as well as maxima; maxima hold out longer.

ratio = changes["largest of 4 × 4"][1] / changes["raw maps"][1]
demo.check("change by a shift of 1 pixel, 4 × 4 max-pooled maps over raw maps", ratio, at_most=0.6)
