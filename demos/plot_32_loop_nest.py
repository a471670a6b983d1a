r"""
A convolution, step by step
===========================

A convolution of pictures `x` (N, C, H, W) with filters `w` (K, C, R, S), with stride 1 and no padding, is

.. math:: y_{nkpq} = \sum_{c,\,r,\,s} x_{n,\,c,\,p+r,\,q+s} \; w_{kcrs}

As a program these are seven loops, each inside the one before: four walk over the elements of `y`, three over
the products that an element is the sum of. The film shows what every step reads and writes, on arrays small
enough to add up in the head.
"""

import numpy as np
from matplotlib.colors import to_rgb

import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Seven nested loops compute a convolution, in exactly N·K·P·Q·C·R·S products")

# %%
# The loop nest
# -------------
# It is a generator: after each product it hands out where it stands, and waits until the next step is asked
# for. The innermost loop turns fastest, like the last wheel of a mileage counter.


def convolve(x, w, y):
    """Fill y (N, K, P, Q); yield n, k, p, q, c, r, s and the total after each product."""
    N, C, _, _ = x.shape
    K, _, R, S = w.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for k in range(K):
            for p in range(P):
                for q in range(Q):
                    total = 0
                    for c in range(C):
                        for r in range(R):
                            for s in range(S):
                                total += x[n, c, p + r, q + s] * w[k, c, r, s]
                                yield n, k, p, q, c, r, s, total
                    y[n, k, p, q] = total


# %%
# Two channels, two filters
# -------------------------
# The numbers are whole, so nothing is rounded, and the sums must be those of the library to the last digit.

N, C, H, W = 1, 2, 5, 5
K, R, S = 2, 3, 3
P, Q = H - R + 1, W - S + 1
x = demo.rng.integers(0, 4, (N, C, H, W)).astype(np.float64)
w = demo.rng.integers(-1, 3, (K, C, R, S)).astype(np.float64)
y = np.zeros((N, K, P, Q))
steps = list(convolve(x, w, y))
demo.check("largest difference from the library's conv2d", np.abs(y - F.conv2d(x, w)).max(), at_most=1e-12)
products = N * K * P * Q * C * R * S
demo.check(f"products, N·K·P·Q·C·R·S being {products}", len(steps), at_least=products, at_most=products)

# %%
# A sheet of squared paper
# ------------------------
# Every number gets a cell. Above each array stands its name, `x[n, c]`, `w[k, c]` or `y[n, k]`.

figure, (top, paper) = plot.subplots(2, 1, size=(6, 4.5), height_ratios=(1, 1.9))
grey, window, now = (to_rgb(colour) for colour in ("#EDEDED", "#B9DDF4", "#F3B23C"))
sheet = np.ones((12, 23, 3))  # rows, columns, RGB
x_at = [(1, 0), (7, 0)]  # row and column where channel c begins
w_at = [[(2, 7), (8, 7)], [(2, 11), (8, 11)]]  # filter k, channel c
y_at = [(5, 16), (5, 20)]  # filter k
style = {"fontsize": 8.5, "ha": "center", "va": "center_baseline"}


def paint(cells, at, i, j, height, width, colour):
    """Colour the cells from row i and column j of the array at that place."""
    cells[at[0] + i : at[0] + i + height, at[1] + j : at[1] + j + width] = colour


def place(name, array, at):
    """Write an array into cells, and return its texts, row by row."""
    rows, columns = array.shape
    paint(sheet, at, 0, 0, rows, columns, grey)
    paper.text(at[1] + (columns - 1) / 2, at[0] - 1, name, family="monospace", **style)
    return [paper.text(at[1] + j, at[0] + i, f"{v:g}", **style) for (i, j), v in np.ndenumerate(array)]


for c in range(C):
    place(f"x[0, {c}]", x[0, c], x_at[c])
    for k in range(K):
        place(f"w[{k}, {c}]", w[k, c], w_at[k][c])
y_texts = [text for k in range(K) for text in place(f"y[0, {k}]", y[0, k], y_at[k])]
paper.text(5.5, 6, "*", ha="center", fontsize=14, va="center")
paper.text(14.5, 6, "=", ha="center", fontsize=14, va="center")
image = paper.imshow(sheet)
paper.hlines(np.arange(0.5, 11), -0.5, 22.5, color="white", linewidth=1.2)
paper.vlines(np.arange(0.5, 22), -0.5, 11.5, color="white", linewidth=1.2)

program = """for n in range(N):
  for k in range(K):
    for p in range(P):
      for q in range(Q):
        total = 0
        for c in range(C):
          for r in range(R):
            for s in range(S):
              total += x[n, c, p + r, q + s] * w[k, c, r, s]
        y[n, k, p, q] = total""".splitlines()
lines = [top.text(0, -i, line, family="monospace", fontsize=8.5) for i, line in enumerate(program)]
lines[8].set(color=plot.COLOURS[1], weight="bold")
top.set_ylim(-9.2, 1)
for axes in (top, paper):
    axes.set_axis_off()

# %%
# The film
# --------
# First every step of the first sum, then the last step of every other. Blue are the numbers that the sum is
# made of, orange those of this step. The program stands above, with the values of the indices as comments.

terms = C * R * S  # of a sum
shown = [*range(terms), *range(2 * terms - 1, len(steps), terms)]
shown = shown[1::3] if demo.quick else shown


def update(frame):
    """Show one step."""
    n, k, p, q, c, r, s, total = steps[shown[frame]]
    cells = sheet.copy()
    for channel in range(C):
        paint(cells, x_at[channel], p, q, R, S, window)
        paint(cells, w_at[k][channel], 0, 0, R, S, window)
    for at, i, j in ((x_at[c], p + r, q + s), (w_at[k][c], r, s), (y_at[k], p, q)):
        paint(cells, at, i, j, 1, 1, now)
    image.set_data(cells)
    done = shown[frame] // terms  # elements of y
    for element, text in enumerate(y_texts):
        text.set_text("" if element > done else f"{total if element == done else y.flat[element]:g}")
    product = f"{x[n, c, p + r, q + s]:g} * {w[k, c, r, s]:g}"
    notes = [f"n = {n}", f"k = {k}", f"p = {p}", f"q = {q}", "", f"c = {c}", f"r = {r}", f"s = {s}"]
    last = (c, r, s) == (C - 1, R - 1, S - 1)
    notes += [f"{product}, total {total:g}", f"y[{n}, {k}, {p}, {q}] = {total:g}" if last else ""]
    for line, code, note in zip(lines, program, notes):
        line.set_text(f"{code:<34}  # {note}" if note else code)


demo.save(plot.animate(figure, update, len(shown), fps=4), "loop_nest")
