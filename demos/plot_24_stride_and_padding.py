r"""
Stride, padding, dilation, and the way back
===========================================

Three numbers say where a window of :math:`k` pixels stops on an image of :math:`H`. Padding :math:`p` puts a
frame of zeros around the image, the stride :math:`s` is the step from one stop to the next, and dilation
:math:`d` spreads the window, with :math:`d - 1` pixels left out between two that it reads. It stops at

.. math:: P = \left\lfloor \frac{H + 2p - d(k - 1) - 1}{s} \right\rfloor + 1

places along the image: it covers :math:`d(k - 1) + 1` of the :math:`H + 2p` pixels, and walks over the others
in steps of :math:`s`.
"""

from itertools import product

import numpy as np
from matplotlib.colors import ListedColormap

import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Output sizes follow one formula, and transposed convolution is the transpose of the matrix")


def output_size(H, k, p, s, d):
    """Return at how many places the window stops."""
    return (H + 2 * p - d * (k - 1) - 1) // s + 1


# %%
# The window's walk
# -----------------
# Four settings on an image of 6 x 6 with a window of 3 x 3. With stride 2 the window would step over the
# edge, so the padding's last row and column are never read: this is what rounding down means.

H, k = 6, 3
settings = ((0, 1, 1), (1, 1, 1), (1, 2, 1), (1, 1, 2))  # p, s, d
NOTHING, ZERO, PIXEL, READ, DONE, WRITTEN = range(6)
colours = ListedColormap(["white", "#EEEEEE", "#B9D7EA", "#E8935A", "#A6DCCB", "#009E73"])
figure, axes = plot.subplots(2, 2, size=(6.0, 4.4), title="Where the window stops: input left, output right")
meshes = []
for panel, (p, s, d) in zip(axes.flat, settings):
    P = output_size(H, k, p, s, d)
    meshes.append(panel.pcolormesh(np.zeros((8, 15)), cmap=colours, vmin=0, vmax=5, edgecolors="white"))
    panel.set(title=f"p = {p}, s = {s}, d = {d}:  6 × 6 → {P} × {P}", xticks=[], yticks=[])
    panel.set(aspect="equal", ylim=(8, 0))
    panel.grid(False)
    panel.spines[:].set_visible(False)


def draw(step):
    """Colour every cell of the four panels."""
    for mesh, (p, s, d) in zip(meshes, settings):
        P = output_size(H, k, p, s, d)
        place = step * (P * P - 1) // (frames - 1)  # where stops are few each takes longer: all end together
        i, j = divmod(place, P)
        cells = np.full((8, 15), NOTHING)
        cells[1 - p : 7 + p, 1 - p : 7 + p] = ZERO
        cells[1:7, 1:7] = PIXEL
        top, left, reach = 1 - p + s * i, 1 - p + s * j, d * (k - 1) + 1
        cells[top : top + reach : d, left : left + reach : d] = READ
        cells[1 : 1 + P, 9 : 9 + P] = ZERO
        cells[1 + np.arange(place + 1) // P, 9 + np.arange(place + 1) % P] = DONE
        cells[1 + i, 9 + j] = WRITTEN
        mesh.set_array(cells)


frames = 18 if demo.quick else 36
demo.save(plot.animate(figure, draw, frames, fps=4), "windows")

# %%
# The formula, and the values
# ---------------------------
# For every setting of a sweep: the library's output has the size of the formula, and the values of a loop
# that reads zeros outside of the image.


def convolve(x, u, p, s, d):
    """Return the convolution of x (H, W) with u (k, k), loop by loop."""
    (H, W), k = x.shape, len(u)
    y = np.zeros((output_size(H, k, p, s, d), output_size(W, k, p, s, d)))
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for n in range(k):
                for m in range(k):
                    h, w = s * i + d * n - p, s * j + d * m - p
                    if 0 <= h < H and 0 <= w < W:
                        y[i, j] += x[h, w] * u[n, m]
    return y


heights = (7, 8) if demo.quick else range(5, 10)
sweep = product(heights, (1, 2, 3, 4), (0, 1, 2), (1, 2, 3), (1, 2))
sweep = [setting for setting in sweep if output_size(*setting) > 0]
sizes_agree, worst = True, 0.0
for H, k, p, s, d in demo.steps(sweep, "settings"):
    x, u = demo.rng.standard_normal((H, H + 2)), demo.rng.standard_normal((k, k))
    y = F.conv2d(x[None, None], u[None, None], padding=p, stride=s, dilation=d)[0, 0]
    sizes_agree &= y.shape == (output_size(H, k, p, s, d), output_size(H + 2, k, p, s, d))
    worst = max(worst, np.abs(y - convolve(x, u, p, s, d)).max()) if sizes_agree else np.inf
demo.record(settings=len(sweep))
demo.check("all outputs have the size of the formula", sizes_agree)
demo.check("largest difference of loop and library", worst, at_most=1e-12)

# %%
# The way back
# ------------
# A transposed convolution goes from the small image to the large one. Every pixel of the small image stamps
# the kernel, weighted, where the convolution's window stood; overlapping stamps add up. With stride 2,
# stamps of 3 x 3 overlap unevenly, and stamps of 4 x 4 only near the border: a chequered pattern that
# generated images have shown (Odena, Dumoulin, Olah, "Deconvolution and checkerboard artifacts", 2016).

ones = np.ones((1, 1, 4, 4))
pictures = {
    "input": ones,
    "3 × 3 stamps, stride 2": F.conv_transpose2d(ones, ones[..., :3, :3], stride=2),
    "4 × 4 stamps, stride 2": F.conv_transpose2d(ones, ones, stride=2),
}
title = "How often each pixel is stamped"
figure, axes = plot.subplots(1, 3, size=(7.4, 3.1), title=title, width_ratios=(4, 9, 10))
for panel, (name, picture) in zip(axes, pictures.items()):
    panel.imshow(picture[0, 0], vmin=0, vmax=8, cmap="Blues")
    for i, j in np.ndindex(picture.shape[2:]):
        panel.text(j, i, f"{picture[0, 0, i, j]:g}", ha="center", va="center")
    panel.set(title=name, xticks=[], yticks=[])
    panel.grid(False)
    panel.spines[:].set_visible(False)
demo.save(figure, "transposed")

# %%
# Why it is called the transpose
# ------------------------------
# A convolution is linear in x: a matrix A times x. The transposed convolution multiplies by that matrix's
# transpose, so for all x and y the numbers (A x) · y and x · (Aᵀ y) are the same. It is also the
# convolution's gradient.

worst = 0.0
for _ in demo.steps(range(20 if demo.quick else 200), "transposes"):
    groups, k, s, d = (int(n) for n in demo.rng.integers(1, 4, 4))
    H, p = int(demo.rng.integers(8, 14)), int(demo.rng.integers(0, 3))
    x = demo.rng.standard_normal((2, 2 * groups, H, H))
    w = demo.rng.standard_normal((3 * groups, 2, k, k))
    Ax = F.conv2d(x, w, stride=s, padding=p, dilation=d, groups=groups)
    y = demo.rng.standard_normal(Ax.shape)
    unread = (H + 2 * p - d * (k - 1) - 1) % s  # rows that rounding down has left out
    Aty = F.conv_transpose2d(y, w, stride=s, padding=p, dilation=d, groups=groups, output_padding=unread)
    difference = abs(np.sum(Ax * y) - np.sum(x * Aty))
    worst = max(worst, difference / (np.linalg.norm(Ax) * np.linalg.norm(y)))
demo.check("relative difference of (A x) · y and x · (Aᵀ y)", worst, at_most=1e-12)
