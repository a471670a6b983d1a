r"""
Automatic differentiation, forward and backward
===============================================

Every computation is a graph of small steps whose derivatives are known. The chain rule multiplies along the
paths from an input to a result and adds up over the paths. It can be worked through in two directions:

- forward, from one input: each step w carries its derivative :math:`dw/dx`, until all outputs have theirs;
- reverse, from one output: each step gets :math:`dz/dw = \sum_p dz/dw_p \cdot dw_p/dw`, a sum over the steps
  p that use it, until all inputs have theirs.

Both are exact. They differ in cost: with n inputs and m outputs, forward mode takes n passes, reverse mode m.
A loss is one number and depends on millions of weights, so networks are trained with reverse mode.
"""

import math
import time

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Both modes are exact; forward takes one pass per input, reverse one per output")

# %%
# By hand
# -------
# z = sin(x1) + x1 x2 at (2, 3), one line per step. Only the derivatives of sine, product and sum are known.

w1, w2 = 2.0, 3.0
w3 = w1 * w2
w4 = math.sin(w1)
w5 = w3 + w4  # z


def forward(dw1, dw2):
    """Return dz along a direction: (1, 0) for x1, (0, 1) for x2."""
    dw3 = dw1 * w2 + w1 * dw2
    dw4 = math.cos(w1) * dw1
    dw5 = dw3 + dw4
    return dw5


def reverse(dz_dw5):
    """Return dz/dw1 and dz/dw2, walking back from z."""
    dz_dw4 = dz_dw5 * 1
    dz_dw3 = dz_dw5 * 1
    dz_dw2 = dz_dw3 * w1
    dz_dw1 = dz_dw3 * w2 + dz_dw4 * math.cos(w1)  # w1 is used twice: two paths
    return dz_dw1, dz_dw2


# %%
# The same by nnkernels
# ---------------------
# ``nnk.jvp`` is one pass forward along a direction, ``nnk.grad`` one pass back; ``nnk.trace`` shows steps.


def f(x1, x2):
    """Return z."""
    return x1 * x2 + x1.sin()


at = np.float64(2), np.float64(3)
print(nnk.trace(f, at, mode="forward"), end="\n\n")
print(nnk.trace(f, at, mode="reverse"))

z, along_x1 = nnk.jvp(f, at, (1.0, 0.0))
z, along_x2 = nnk.jvp(f, at, (0.0, 1.0))
ways = [(forward(1, 0), forward(0, 1)), reverse(1), (along_x1, along_x2), nnk.grad(f, (0, 1))(*at)]
demo.record(z=f"{z:.6f}", dz_dx1=f"{along_x1:.6f}", dz_dx2=f"{along_x2:.6f}")
error = np.abs(np.array(ways) - (math.cos(2) + 3, 2)).max() + abs(w5 - 6.909297426825682) + abs(w5 - z)
demo.check("two ways by hand and two by nnkernels miss the derivatives by", error, at_most=1e-12)

# %%
# The graph
# ---------
# Each node shows its value, found on the way forward, and dz/dw, found on the way back.

x1, x2 = (nnk.tensor(x, requires_grad=True) for x in at)
demo.save(nnk.graph(f(x1, x2), {"x1": x1, "x2": x2}), "graph")

# %%
# Jacobians by either mode
# ------------------------
# With several outputs, a pass forward gives one column of the Jacobian, a pass back one row. Of
# :math:`y = \sin(A x)` it is known: :math:`J_{ij} = \cos((A x)_i) A_{ij}`.


def by_columns(f, x):
    """Return the Jacobian (m, n) from n passes forward."""
    return np.stack([nnk.jvp(f, x, e)[1] for e in np.eye(len(x))], axis=1)


def by_rows(f, x):
    """Return the Jacobian (m, n) from m passes back."""
    y, pull = nnk.vjp(f, x)
    return np.stack([pull(e)[0] for e in np.eye(len(y))], axis=0)


A, x = demo.rng.standard_normal((2, 3)), demo.rng.standard_normal(3)
found = [way(lambda x: (A @ x).sin(), x) for way in (by_columns, by_rows, nnk.jacobian)]
error = np.abs(np.array(found) - np.cos(A @ x)[:, None] * A).max()
demo.check("Jacobians by columns, by rows and by nnk.jacobian are wrong by", error, at_most=1e-12)

# %%
# What a Jacobian costs
# ---------------------
# A network from n to m numbers with n m fixed, from one input on the left to one output on the right.

product = 64 if demo.quick else 1024
sizes = [n for n in (1, 4, 16, 64, 256, 1024) if n <= product]
inner = demo.rng.standard_normal((3, 64, 64)) / 8
times = {"forward": [], "reverse": []}  # ms
for n in demo.steps(sizes, "numbers of inputs"):
    first, last = demo.rng.standard_normal((64, n)), demo.rng.standard_normal((product // n, 64))

    def network(x):
        """Return m numbers."""
        for layer in (first, *inner):
            x = F.tanh(layer @ x)
        return last @ x

    x = demo.rng.standard_normal(n)
    for mode, way in (("forward", by_columns), ("reverse", by_rows)):
        tries = []
        for _ in range(5):
            start = time.perf_counter()
            way(network, x)
            tries.append(1e3 * (time.perf_counter() - start))
        times[mode].append(min(tries))
demo.record(inputs=sizes, milliseconds=times)

figure, axes = plot.subplots(size=(6.4, 4.4), title="The time that a Jacobian takes goes with the passes")
axes.plot(sizes, times["forward"], "o-", label="forward mode: n passes")
axes.plot(sizes, times["reverse"], "s-", label="reverse mode: m passes")
axes.set(xscale="log", yscale="log", xlabel="inputs n, outputs m", ylabel="time, ms")
axes.set_xticks(sizes, [f"n = {n}\nm = {product // n}" for n in sizes])
axes.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
axes.minorticks_off()
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
demo.save(figure, "costs")

gain = min(times["forward"][-1] / times["reverse"][-1], times["reverse"][0] / times["forward"][0])
demo.check(f"time of {product} passes of one mode over one pass of the other", gain, at_least=product / 16)
