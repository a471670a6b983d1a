"""A gradient check with a cotangent of ones lets a flipped kernel pass; a random one does not.

The gradient of a convolution by its input, dx = J^T dy, collects at each pixel what every tap has made of it:

    y[p, q]  = sum over r, s of  x[p + r, q + s] w[r, s]
    dx[h, v] = sum over r, s of  dy[h - r, v - s] w[r, s]

With a plus in the second line the filter lies the wrong way round. Where the image is padded so that each
pixel meets every tap, and dy is all ones, dx is the sum of the filter at every pixel, whichever way the
filter lies: the fault cannot be seen. Checking the gradient of y.sum() is the same: its dy is all ones.

python demos/ones_hide_faults.py
"""

from dataclasses import replace

import numpy as np

import nnkernels as nnk

PADDING = 2  # one less than the filter's side: "full"
rng = np.random.default_rng(0)
x, w = rng.standard_normal((1, 1, 5, 5)), rng.standard_normal((1, 1, 3, 3))

# --- the library's convolution, and one whose dx has the filter the wrong way round ---

sound = nnk.OPS["conv2d"]


def flipped_backward(dy, outputs, inputs, needs, **attributes):
    """Return conv2d's gradients; dx, which alone depends on w, is that of the filter turned around."""
    x, w, bias = inputs
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1])
    return sound.tuned.backward(dy, outputs, (x, turned, bias), needs, **attributes)


faulty = replace(sound, tuned=sound.tuned._replace(backward=flipped_backward))

# --- by hand: the gradient against central differences, weighted by dy ---


def largest_error(conv, dy, step=1e-6):
    """Return the largest difference between conv's dx and d<dy, y>/dx by central differences."""
    leaf = nnk.tensor(x, requires_grad=True)
    conv(leaf, w, None, padding=PADDING).backward(dy)
    worst = 0.0
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        change = conv(above, w, None, padding=PADDING) - conv(below, w, None, padding=PADDING)
        worst = max(worst, abs((dy * change).sum() / (2 * step) - leaf.grad.data[i]))
    return worst


shape = sound(x, w, None, padding=PADDING).shape
cotangents = {"ones": np.ones(shape), "random": rng.standard_normal(shape)}
print(f"{'cotangent':<12}{'sound dx':>10}{'flipped dx':>12}   largest error of {x.size} elements")
errors = {}
for name, dy in cotangents.items():
    errors[name] = [largest_error(conv, dy) for conv in (sound, faulty)]
    print(f"{name:<12}{errors[name][0]:>10.1e}{errors[name][1]:>12.1e}")

assert max(errors["ones"]) < 1e-7, "ones see no difference between the two"
assert errors["random"][0] < 1e-7, "the sound gradient passes"
assert errors["random"][1] > 1, "and the flipped one is wrong by far"

# --- with gradcheck: its cotangents are random, so a fault can hide only in a sum ---

deceived = nnk.gradcheck(lambda x: faulty(x, w, None, padding=PADDING).sum(), x, raise_exception=False)
noticed = nnk.gradcheck(lambda x: faulty(x, w, None, padding=PADDING), x, raise_exception=False)
print(f"\nflipped dx, y.sum():\n{deceived}\n\nflipped dx, y:\n{noticed}")
assert deceived.ok
assert not noticed.ok
