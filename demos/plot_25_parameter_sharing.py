r"""
Sharing weights, and what it brings
===================================

Every output of a convolution reads its own few pixels, but all of them use the same weights. Written as a
layer :math:`y = A x` like any other, its matrix :math:`A` is nearly empty, and the few numbers in it repeat.
Two things follow. There is little to store and to learn. And what the layer finds does not depend on the
place: when the image is shifted, so is the output,

.. math:: (T x) \circledast u = T (x \circledast u)

for every shift :math:`T`, away from the border. This is called equivariance.
"""

import numpy as np
from matplotlib import cbook, image

import nnkernels.nn.functional as F
from nnkernels import nn, plot
from nnkernels.demo import Demo

demo = Demo("A convolution's few shared weights make its output move along with the image")

# %%
# Counting weights
# ----------------
# One filter of 3 x 3 on three colours, and a dense layer that makes an image of 256 x 256 x 3 from another
# one. Three such filters, 81 weights, make three channels as well, of an image of any size.

filter_weights = nn.Conv2d(3, 1, 3, bias=False).weight.data.size
dense_weights = (256 * 256 * 3) ** 2
demo.record(weights_of_the_filter=filter_weights, weights_of_the_dense_layer=f"{dense_weights:,}")
demo.record(float32_gigabytes_of_the_dense_layer=4 * dense_weights / 1e9)
demo.check("27 weights, against 39 billion", filter_weights == 27 and round(dense_weights / 1e9) == 39)

# %%
# A convolution as a matrix
# -------------------------
# Column j of a layer's matrix is its answer to the image that has a 1 in pixel j and 0 elsewhere. So all
# columns come from one call, on the rows of the identity. Each row of A holds the nine weights of the
# kernel; from one row to the next they move on by a pixel.


def matrix_of(u, size):
    """Return the matrix of the convolution with u (3, 3) on images of size x size pixels."""
    pixels = np.eye(size * size).reshape(-1, 1, size, size)
    return F.conv2d(pixels, u[None, None]).reshape(size * size, -1).T.copy()


u = demo.rng.permutation([-4.0, -3, -2, -1, 1, 2, 3, 4, 5]).reshape(3, 3)
A = matrix_of(u, 6)  # (16, 36): 6 x 6 pixels in, 4 x 4 out
x = demo.rng.standard_normal((6, 6))
gap = np.abs(A @ x.reshape(-1) - F.conv2d(x[None, None], u[None, None]).reshape(-1)).max()
distinct = len(np.unique(A[A != 0]))
demo.record(entries=A.size, entries_that_are_not_0=np.count_nonzero(A), distinct=distinct, gap=gap)
demo.check("A has nine weights, and A x is the convolution", distinct == 9 and gap < 1e-12)

# %%
# Two layers to compare with
# --------------------------
# A *local* layer has zeros where A has them, but every output has nine weights of its own. A *dense* layer
# has no zeros either. The weights of both are random.


def unshared(A):
    """Return a matrix with random numbers where A is not 0."""
    return np.where(A != 0, demo.rng.uniform(-5, 5, A.shape), 0)


matrices = {"convolution": A, "local, not shared": unshared(A), "dense": unshared(np.ones_like(A))}
figure, axes = plot.subplots(1, 3, size=(7.4, 2.3), title="The matrix of each layer, from 36 pixels to 16")
for panel, (name, matrix) in zip(axes, matrices.items()):
    shown = panel.imshow(matrix, cmap="RdBu_r", vmin=-5, vmax=5)
    panel.set(title=f"{name}:\n{len(np.unique(matrix[matrix != 0]))} weights", xlabel="input pixel")
    panel.grid(False)
axes[0].set_ylabel("output pixel")
figure.colorbar(shown, ax=axes, label="weight", shrink=0.75)
demo.save(figure, "matrices")

# %%
# Shift the image
# ---------------
# Two crops of one photograph, cut 4 pixels down and 8 to the right of each other: the face moves within the
# image. A layer is equivariant if the part of the output that both see moves by as much.

with cbook.get_sample_data("grace_hopper.jpg") as file:
    photo = image.imread(file)[60:380, 90:410].mean(axis=2).reshape(64, 5, 64, 5).mean(axis=(1, 3)) / 255
size, down, right = 40, 4, 8
before = photo[12 : 12 + size, 14 : 14 + size]
after = photo[12 - down : 12 - down + size, 14 - right : 14 - right + size]

sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
A = matrix_of(sobel, size)
x = np.stack([before, after])  # (2, size, size)
outputs = {
    "convolution": F.conv2d(x[:, None], sobel[None, None]),
    "local": F.linear(x.reshape(2, -1), unshared(A)),
    "dense": F.linear(x.reshape(2, -1), unshared(np.ones_like(A))),
}

figure, axes = plot.subplots(2, 4, size=(7.4, 4.3), title="The photograph moves: do the outputs?")
for panel in axes.flat:
    panel.set(xticks=[], yticks=[])
    panel.grid(False)
    panel.spines[:].set_visible(False)
axes[0, 0].imshow(before, cmap="gray")
axes[1, 0].imshow(after, cmap="gray")
axes[0, 0].set(title="photograph", ylabel="before")
axes[1, 0].set(ylabel="after", xlabel=f"{down} down, {right} to the right")

changes = {}
frame = {"fill": False, "edgecolor": "black", "linewidth": 1.5}
for (top, bottom), (name, output) in zip(axes.T[1:], outputs.items()):
    y = output.reshape(2, size - 2, size - 2)
    unmoved, moved = y[0, :-down, :-right], y[1, down:, right:]
    changes[name] = np.linalg.norm(moved - unmoved) / np.linalg.norm(unmoved)
    limit = 0.6 * np.abs(y).max()
    top.imshow(y[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
    bottom.imshow(y[1], cmap="RdBu_r", vmin=-limit, vmax=limit)
    height, width = unmoved.shape
    top.bar(-0.5, height, width, bottom=-0.5, align="edge", **frame)
    bottom.bar(right - 0.5, height, width, bottom=down - 0.5, align="edge", **frame)
    top.set_title(name)
    bottom.set_xlabel(f"change in the frame: {changes[name]:.1f}", fontsize=9)
demo.save(figure, "shift")

demo.record(change_under_a_shift=changes)
demo.check("change of the local and the dense output", min(changes["local"], changes["dense"]), at_least=0.5)
demo.check("change of the convolution's output, relative to its size", changes["convolution"], at_most=1e-12)
