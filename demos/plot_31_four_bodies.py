r"""
One convolution, written four ways
==================================

A convolution of pictures `x` (N, C, H, W) with filters `w` (K, C, R, S) is a sum behind four indices,

.. math:: y_{nkpq} = \sum_{c=0}^{C-1} \sum_{r=0}^{R-1} \sum_{s=0}^{S-1} x_{n,\,c,\,p+r,\,q+s} \; w_{kcrs}

and so seven loops. Here they run in plain Python, and in three bodies of the library's `conv2d`: `loops` are
the same seven loops, compiled; `vectorized` is NumPy; `tuned` are loops again, arranged for vector registers,
caches and threads. The sum is the same every time; the time is not.
"""

import time

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("Plain Python and the bodies of conv2d agree, and tuned is at least ten times as fast as loops")

# %%
# Seven loops
# -----------
# The definition as Python. A padding frames the pictures with zeros, whose products are left out.


def conv2d_in_python(x, w, padding):
    """Return y (N, K, P, Q), one product after the other."""
    N, C, H, W = x.shape
    K, C, R, S = w.shape
    P, Q = H + 2 * padding - R + 1, W + 2 * padding - S + 1
    y = np.zeros((N, K, P, Q), x.dtype)
    for n in range(N):
        for k in range(K):
            for p in range(P):
                for q in range(Q):
                    total = x.dtype.type(0)
                    for c in range(C):
                        for r in range(R):
                            for s in range(S):
                                h, v = p + r - padding, q + s - padding
                                if 0 <= h < H and 0 <= v < W:
                                    total += x[n, c, h, v] * w[k, c, r, s]
                    y[n, k, p, q] = total
    return y


# %%
# Two sizes
# ---------
# One is LeNet-5's second (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
# recognition", 1998), but each filter sees all six channels. Python is given one picture and one filter.


def normal(*shape):
    """Return float32 numbers of the normal distribution."""
    return demo.rng.standard_normal(shape, np.float32)


cases = {  # x, w, padding
    "LeNet-5's second, 5 x 5": (normal(64, 6, 14, 14), normal(16, 6, 5, 5), 0),
    "32 x 32 pictures, 3 x 3": (normal(4, 16, 32, 32), normal(16, 16, 3, 3), 1),
}
bodies = "python", "loops", "vectorized", "tuned"


def run(body, x, w, padding):
    """Return y as that body computes it."""
    if body == "python":
        return conv2d_in_python(x[:1], w[:1], padding)
    with nnk.use_backend(body):
        return F.conv2d(x, w, padding=padding)


# %%
# One result
# ----------
# The bodies add the products in different orders, so float32 rounds their sums differently. No more than that
# may be between them. There is one more body, `cuda`, in which every thread of a GPU computes a few of the
# sums. Its kernels also run in a simulator, thread by thread: to be compared, not to be timed.


def difference(found, truth):
    """Return the largest difference, relative to the largest true element."""
    return float(np.abs(found - truth).max() / np.abs(truth).max())


differences = dict.fromkeys(bodies, 0.0)
for arrays in cases.values():
    truth = run("loops", *arrays)
    for body in bodies:
        y = run(body, *arrays)  # Python's is smaller
        differences[body] = max(differences[body], difference(y, truth[: y.shape[0], : y.shape[1]]))
try:
    x, w = normal(1, 2, 8, 8), normal(4, 2, 3, 3)
    with nnk.simulate_gpu():
        y = F.conv2d(nnk.tensor(x).to("cuda"), nnk.tensor(w).to("cuda")).cpu().data
    differences["cuda (simulated)"] = difference(y, conv2d_in_python(x, w, 0))
except ImportError as error:
    print(f"cuda is left out: {error}")
demo.record(relative_difference=differences)
demo.check("largest relative difference from loops", max(differences.values()), at_most=1e-5)

# %%
# Fair times
# ----------
# `loops` run on one thread, so `tuned` is held to one as well; NumPy keeps its own. The bodies take turns, so
# what disturbs the machine disturbs all of them. The first call of a turn warms the caches; medians count.

times = {(case, body): [] for case in cases for body in bodies}
threads = nnk.get_num_threads()
nnk.set_num_threads(1)
for _ in demo.steps(range(5 if demo.quick else 15), "rounds"):
    for case, body in times:
        run(body, *cases[case])
        start = time.perf_counter()
        run(body, *cases[case])
        times[case, body].append(time.perf_counter() - start)
nnk.set_num_threads(threads)

# %%
# FLOPs
# -----
# Every innermost step is a product and a sum, two floating-point operations (FLOPs), :math:`2 N K P Q C R S`
# in all. Python's time is scaled by N and K, an estimate.

rows = []
for case, (x, w, padding) in cases.items():
    (N, K, P, Q), (_, C, R, S) = run("tuned", x, w, padding).shape, w.shape
    seconds = {body: float(np.median(times[case, body])) for body in bodies}
    seconds["python"] *= N * K
    speedups = {body: seconds["loops"] / seconds[body] for body in bodies}
    for body, t in seconds.items():
        gflops = 2 * N * K * P * Q * C * R * S / t / 1e9
        rows.append({"op": case, "body": body, "seconds": t, "gflops": gflops, "speedup": speedups[body]})
    demo.record(**{f"speed over loops, {case}": speedups})
demo.save(plot.compare_bars(rows, "One convolution, four ways (python: estimated from a sample)"), "speed")

# %%
# Where the time goes
# -------------------
# Python spends it on finding out what each step means, `loops` on waiting for one sum before the next product
# is added, `vectorized` on copying windows into a matrix. `tuned` keeps many sums going, in vector registers.

ratio = min(row["speedup"] for row in rows if row["body"] == "tuned")
demo.check("loops' time over tuned's, the smaller of two ratios", ratio, at_least=10)
