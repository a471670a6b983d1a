r"""
Convolution in one dimension
============================

A kernel :math:`u` of :math:`k` numbers slides along a signal :math:`x` of :math:`M` numbers. At every place
the numbers that lie over each other are multiplied, and the products added:

.. math:: (x \circledast u)_i = \sum_{b=0}^{k-1} x_{i+b}\, u_b

The kernel fits at :math:`M - k + 1` places, so this is the length of the output. Deep learning calls this a
convolution; signal processing calls it a correlation, and keeps the first name for a kernel that is flipped.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import plot
from nnkernels.demo import Demo

demo = Demo("A kernel that slides over a signal takes differences, or finds a template in noise")

# %%
# The formula as a loop
# ---------------------
# One loop over the places of the output, one over the numbers of the kernel.


def correlate(x, u):
    """Return the sums over b of x[i + b] u[b]."""
    M, k = len(x), len(u)
    y = np.zeros(M - k + 1)
    for i in range(M - k + 1):
        for b in range(k):
            y[i] += x[i + b] * u[b]
    return y


# %%
# A kernel that takes differences
# -------------------------------
# The kernel (-1, 1) subtracts each number from the next one. It is 0 where the signal is level, and the
# slope where it rises: a derivative for signals that are given at whole places only.

x = np.array([0.0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4])
u = np.array([-1.0, 1.0])
y = correlate(x, u)
demo.record(x=x.astype(int), u=u.astype(int), y=y.astype(int))
demo.check("the slope of the ramp, number by number", y.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0])

centred = {"ha": "center", "va": "center", "fontsize": 12}


def draw_cells(panel, numbers, height, colour):
    """Draw a row of boxes with one number in each; return the boxes and the texts."""
    boxes, texts = [], []
    for i, number in enumerate(numbers):
        box = panel.barh(height, 1, height=1, left=i - 0.5, color=colour, edgecolor="white", linewidth=2)[0]
        boxes.append(box)
        texts.append(panel.text(i, height, f"{number:g}".replace("-", "−"), **centred))
    return boxes, texts


figure, axes = plot.subplots(size=(6.0, 2.9), title="The kernel slides, the output grows")
draw_cells(axes, x, 3.4, "#D6E6F2")
kernel_boxes, kernel_texts = draw_cells(axes, u, 2.3, "#F6D5BF")
output_boxes, output_texts = draw_cells(axes, y, 0.6, "#CDEBE1")
frame = axes.barh(2.85, len(u), 2.3, left=-0.5, fill=False, edgecolor=plot.COLOURS[1], linewidth=2)[0]
sum_text = axes.text(5, -0.7, "", **centred)
axes.set(xlim=(-0.6, len(x) - 0.4), ylim=(-1.2, 4.1), xticks=[], xlabel="")
axes.set_yticks([3.4, 2.3, 0.6], ["x", "u", "x ⊛ u"], fontsize=12)
axes.tick_params(length=0)
axes.grid(False)
axes.spines[:].set_visible(False)


def move(step):
    """Put the kernel at place i and show the output so far."""
    i = min(step, len(y) - 1)  # the last place is shown for some frames more
    frame.set_x(i - 0.5)
    for b in range(len(u)):
        kernel_boxes[b].set_x(i + b - 0.5)
        kernel_texts[b].set_x(i + b)
    for j in range(len(y)):
        output_boxes[j].set_visible(j <= i)
        output_texts[j].set_visible(j <= i)
    products = " + ".join(f"{x[i + b]:g}·({u[b]:g})" for b in range(len(u)))
    sum_text.set_text(f"place {i}:   {products} = {y[i]:g}".replace("-", "−"))


demo.save(plot.animate(figure, move, len(y) + 3, fps=2), "sliding")

# %%
# Stride, padding, dilation
# -------------------------
# The library's ``conv1d`` takes three numbers more. A stride makes the kernel jump, padding puts zeros
# around the signal, a dilation leaves gaps between the kernel's numbers. The loop grows by two lines.


def convolve(x, u, stride, padding, dilation):
    """Return the sums over b of x[stride i + dilation b - padding] u[b], with zeros outside of x."""
    M, k = len(x), len(u)
    y = np.zeros((M + 2 * padding - dilation * (k - 1) - 1) // stride + 1)
    for i in range(len(y)):
        for b in range(k):
            at = stride * i + dilation * b - padding
            if 0 <= at < M:
                y[i] += x[at] * u[b]
    return y


worst = 0.0
for _ in demo.steps(range(20 if demo.quick else 200), "loop and library"):
    x = demo.rng.standard_normal(demo.rng.integers(15, 40))
    u = demo.rng.standard_normal(demo.rng.integers(1, 6))
    stride, padding, dilation = (int(n) for n in demo.rng.integers([1, 0, 1], [4, 5, 4]))
    worst = max(worst, np.abs(F.correlate(x, u) - correlate(x, u)).max())
    y = F.conv1d(x[None, None, :], u[None, None, :], stride=stride, padding=padding, dilation=dilation)
    worst = max(worst, np.abs(y[0, 0] - convolve(x, u, stride, padding, dilation)).max())
demo.check("largest difference of loop and library", worst, at_most=1e-12)

# %%
# A kernel that finds a template
# ------------------------------
# The sum of products is largest where the signal looks like the kernel. So a known shape is found again
# even where the noise is just as loud: over many numbers the shape adds up, and the noise cancels. The
# template here is random, made smooth by another kernel, a moving average with weights 1 2 3 2 1.

trials, M, k = 50 if demo.quick else 500, 1200, 200
u = F.correlate(demo.rng.standard_normal(k + 4), np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9)
u = (u - u.mean()) / u.std()  # mean 0: a level signal gives no response
planted = demo.rng.integers(0, M - k + 1, trials)
x = demo.rng.standard_normal((trials, M))
for n in range(trials):
    x[n, planted[n] : planted[n] + k] += u

response = F.conv1d(x[:, None, :], u[None, None, :])[:, 0]  # (trials, M - k + 1)
found = response.argmax(axis=1)

figure, axes = plot.subplots(2, 1, size=(7.4, 4.4), title="A template in noise", sharex=True)
hidden = np.arange(planted[0], planted[0] + k)
axes[0].plot(x[0], color="#9A9A9A", linewidth=0.8, label="signal x")
axes[0].plot(hidden, u, color=plot.COLOURS[1], linewidth=1.5, label="the template u, where it was planted")
axes[0].set_ylabel("x")
axes[1].plot(response[0], color=plot.COLOURS[0], linewidth=1.0, label="response x ⊛ u")
axes[1].plot(found[0], response[0].max(), "o", color=plot.COLOURS[2], markersize=7, label="its largest value")
axes[1].set(ylabel="x ⊛ u", xlabel="place i")
handles = [handle for panel in axes for handle in panel.get_legend_handles_labels()[0]]
figure.legend(handles, [h.get_label() for h in handles], loc="outside lower center", ncols=2)
demo.save(figure, "template")

demo.check("templates found at exactly their place, %", 100 * (found == planted).mean(), at_least=98)
