r"""
Filters over a photograph
=========================

In two dimensions the kernel is a small window that slides over an image. An image has channels, red, green
and blue, and so has the kernel: products are summed over rows, columns *and* channels,

.. math:: (x \circledast u)_{ij} = \sum_{c=0}^{C-1} \sum_{n=0}^{h-1} \sum_{m=0}^{w-1} x_{c,i+n,j+m}\, u_{cnm}

One kernel makes one picture, its activation map, of :math:`(H - h + 1) \times (W - w + 1)` pixels. A layer
with K kernels makes K of them. Here they are chosen by hand; a network learns them.
"""

import numpy as np
from matplotlib import cbook, colormaps, image

import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("A convolution adds up its channels, so that one filter can see an edge or a colour")

# %%
# The photograph
# --------------
# Grace Hopper, as matplotlib brings her along. Every 2 x 2 pixels become one; channels come first.

with cbook.get_sample_data("grace_hopper.jpg") as file:
    pixels = image.imread(file)[:420, :420] / 255
H = W = 210
photo = pixels.reshape(H, 2, W, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)  # (3, H, W)
x = photo[None].astype(np.float32)  # a batch of one

# %%
# Four filters of shape 3 x 3 x 3
# -------------------------------
# Sobel's kernels take differences across, or down, and smooth the other way. They are spread over the
# channels by how bright the eye finds red, green and blue. The last two compare colours: red against the
# mean of green and blue, and blue against the mean of the others.

grey = np.array([0.299, 0.587, 0.114])
sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
box = np.full((3, 3), 1 / 9)
factors = (grey, sobel), (grey, sobel.T), ([1, -0.5, -0.5], box), ([-0.5, -0.5, 1], box)
w = np.stack([np.multiply.outer(*pair) for pair in factors]).astype(np.float32)  # (K, C, h, w)

maps = F.conv2d(x, w)
demo.record(image=x.shape, filters=w.shape, maps=maps.shape)
demo.check("four maps of (H - 2) x (W - 2) pixels", maps.shape == (1, 4, H - 2, W - 2))

without_colour = F.conv2d(np.tile(x.mean(axis=1, keepdims=True), (1, 3, 1, 1)), w)
share = np.abs(without_colour[0, 2:]).max() / np.abs(maps[0, 2:]).max()
demo.check("response of the colour filters without colours, over that with colours", share, at_most=1e-5)

# %%
# Blur and sharpen
# ----------------
# These keep the colours apart: with ``groups=3`` each channel has a kernel of its own. To sharpen is to add
# what the blur has taken away: twice the image less its blurred copy, which is a kernel, too.

row = np.array([1, 6, 15, 20, 15, 6, 1]) / 64
blur = np.outer(row, row)
sharpen = -blur
sharpen[3, 3] += 2
blurred, sharpened = (
    F.conv2d(x, np.stack([u[None]] * 3).astype(np.float32), padding=3, groups=3)[0] for u in (blur, sharpen)
)

# %%
# What the filters see
# --------------------
# Both differences together, as the length of an arrow, are the strength of an edge in any direction. Of the
# colours only positive answers are kept, by a ReLU.

across, down = maps[0, :2]
red, blue = F.relu(maps[0, 2:])
pictures = {
    "photograph": photo.transpose(1, 2, 0),
    "blurred": blurred.transpose(1, 2, 0),
    "sharpened": sharpened.transpose(1, 2, 0).clip(0, 1),
    "strength of edges": np.sqrt(across**2 + down**2),
    "brighter to the right": across,
    "brighter below": down,
    "red rather than grey": red,
    "blue rather than grey": blue,
}
figure, axes = plot.subplots(2, 4, size=(7.4, 4.6), title="A photograph, and what filters make of it")
for panel, (title, picture) in zip(axes.flat, pictures.items()):
    signed = picture.min() < 0
    limit = 0.7 * np.abs(picture).max()
    panel.imshow(picture, cmap="RdBu_r" if signed else "viridis", vmin=-limit if signed else 0, vmax=limit)
    panel.set(title=title, xticks=[], yticks=[])
    panel.grid(False)
caption = "differences: red is positive, blue negative; other maps: the brighter, the stronger"
figure.supxlabel(caption, fontsize=9)
demo.save(figure, "filters")

# %%
# 27 products and one sum
# -----------------------
# A filter for red, with the weights 2, -1 and -1, walks over a few coarse pixels of the flag. Levels are
# whole numbers up to 255. What the window holds in each channel is multiplied by the weights of that
# channel; the three sums together are one pixel of the map.

crop = (255 * photo[:, 100:180, 0:90].reshape(3, 8, 10, 9, 10).mean(axis=(2, 4))).round()  # (3, 8, 9)
u = np.multiply.outer([2.0, -1.0, -1.0], np.ones((3, 3)))
y = F.conv2d(crop[None], u[None])[0, 0]  # (6, 7)
figure, axes = plot.subplots(1, 3, size=(6.0, 2.8), title="Window times filter, added up over three channels")
for panel, title in zip(axes, ("photograph", "window × filter", "activation map")):
    panel.set(title=title, xticks=[], yticks=[])
    panel.grid(False)
axes[0].imshow(crop.transpose(1, 2, 0) / 255)
frame = axes[0].bar(0, 3, width=3, align="edge", fill=False, edgecolor="#FFD400", linewidth=3)[0]
products = np.ones((11, 11, 3))  # red, green, blue: three rows of a window and its weights, 3 x 3 each
axes[1].spines[:].set_visible(False)
for c, weight in enumerate(("+2", "−1", "−1")):
    products[4 * c : 4 * c + 3, 4:7] = colormaps["RdBu_r"](0.5 + u[c] / 6)[..., :3]
    axes[1].text(5, 4 * c + 1, weight, ha="center", va="center")
sums = [axes[1].text(7.2, 4 * c + 1, "", va="center") for c in range(3)]
tiles = axes[1].imshow(products)
axes[1].set_xlim(-0.5, 11.9)  # room for the sums
shown = axes[2].imshow(np.full(y.shape, np.nan), vmin=-1500, vmax=1500, cmap="RdBu_r")
places = [(i, j) for i in range(6) for j in range(7)][:: 2 if demo.quick else 1]


def move(step):
    """Put the window at one place, and show the map up to there."""
    i, j = places[step]
    window = crop[:, i : i + 3, j : j + 3]
    frame.set_xy((j - 0.5, i - 0.5))
    for c in range(3):
        products[4 * c : 4 * c + 3, 0:3] = 0
        products[4 * c : 4 * c + 3, 0:3, c] = window[c] / 255
        sums[c].set_text(f"{(window[c] * u[c]).sum():+.0f}".replace("-", "−"))
    tiles.set_data(products)
    shown.set_data(np.where(np.arange(42).reshape(6, 7) <= 7 * i + j, y, np.nan))
    axes[2].set_xlabel(f"this pixel: {y[i, j]:+.0f}".replace("-", "−"))


demo.save(plot.animate(figure, move, len(places), fps=5), "channels")

# %%
# An independent reference
# ------------------------
# The convolution theorem leads to the same maps by another way, without a window: transform image and
# kernel by Fourier, multiply, transform back. The transform takes the image as periodic, so the places
# where the kernel would reach over the edge are cut off. Images and kernels here are not square.


def by_fourier(x, u):
    """Return the maps (K, P, Q) of x (1, C, H, W) and u (K, C, h, v)."""
    (H, W), (h, v) = x.shape[2:], u.shape[2:]
    products = np.fft.rfft2(x) * np.conj(np.fft.rfft2(u, s=(H, W)))  # (K, C, ...)
    return np.fft.irfft2(products.sum(axis=1), s=(H, W))[:, : H - h + 1, : W - v + 1]


worst = 0.0
for _ in demo.steps(range(50 if demo.quick else 500), "beside Fourier"):
    C, K, h, v = demo.rng.integers(1, 6, 4)
    H, W = demo.rng.integers(7, 30, 2)
    x, u = demo.rng.standard_normal((1, C, H, W)), demo.rng.standard_normal((K, C, h, v))
    worst = max(worst, np.abs(F.conv2d(x, u)[0] - by_fourier(x, u)).max())
demo.check("largest difference from the convolution theorem's maps", worst, at_most=1e-11)
