r"""
Recurrent networks: 1994=MCMXCIV
================================

A recurrent network reads a text one character at a time. Its state h sums up what it has read, and gives a
probability to every character that may come next:

.. math:: h_t = f(h_{t-1}, x_t), \qquad p(x_{t+1} \mid x_1 \ldots x_t) = \mathrm{softmax}(W h_t + b)

Drawn from these probabilities, character after character, new text comes out (Sutskever, Martens and Hinton,
Generating text with recurrent neural networks, 2011). The text here are numbers and what they are in Roman
numerals, line after line. It is known exactly, so what a network writes can be checked. To write the numeral
it has to remember the digits, which are several characters back.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo(
    "Gated cells learn to write numbers they never read in Roman numerals, long before a plain cell does"
)

# %%
# The text
# --------
# The numbers from 1 to 3999. A quarter of them is held out and never read.

SIGNS = {1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC", 50: "L", 40: "XL", 10: "X", 9: "IX",
         5: "V", 4: "IV", 1: "I"}  # fmt: skip


def line(n):
    """Return n, =, n in Roman numerals and the end of the line."""
    text, left = f"{n}=", n
    for value, sign in SIGNS.items():
        text += left // value * sign
        left %= value
    return text + "\n"


numbers = demo.rng.permutation(np.arange(1, 4000))
read, held_out = numbers[:3000], numbers[3000:]
text = "\n" + "".join(line(n) for n in read)
print(text[:80])

# %%
# Training
# --------
# A plain cell is h = tanh(W x + U h + b). The LSTM (Hochreiter and Schmidhuber, 1997) and the GRU (Cho et
# al., 2014) have gates, numbers between 0 and 1 that say how much of the state is kept. All read 32 pieces of
# the text in each step, 30 characters each, and after every one they are told which came next.

alphabet = "\n=IVXLCDM0123456789"
cells = ("rnn", "lstm") if demo.quick else ("rnn", "lstm", "gru")
steps = 400 if demo.quick else 1500
begins = [i for i in range(len(text) - 30) if text[i] == "\n"]
models, losses = {}, {}
for cell in cells:
    models[cell] = model = nn.models.CharRNN(alphabet, hidden_size=64, cell=cell, rng=demo.rng)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    indices, losses[cell] = model.encode(text), []
    for _ in demo.steps(range(steps), cell):
        starts = demo.rng.choice(begins, 32)
        loss = model.loss(indices[starts[:, None] + np.arange(31)])  # (32, 31)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses[cell].append(loss.item())

# %%
# Free writing
# ------------
# Characters are drawn at temperature 1. A line is right if it is one of the 3999.

lines, length = [line(n) for n in range(1, 4000)], 600 if demo.quick else 3000
for cell, model in models.items():
    written = model.sample("\n", length, rng=demo.rng).splitlines(keepends=True)[:-1]
    print(
        f"{cell}, {100 * np.isin(written, lines).mean():.0f} % of its lines right: {' '.join(written[:5])!r}"
    )

# %%
# Held-out numbers
# ----------------
# Each network is given a number that it has never read, and the sign =. It goes on with the most probable
# characters, until the end of the line. The plain cell forgets the digits on the way; it would need many
# times as many steps.


def right(model, n):
    """Return whether the model writes the number n as it should."""
    prompt, answer = line(n).split("=")
    return model.sample(f"\n{prompt}=", len(answer), temperature=0) == answer


asked = held_out[: 50 if demo.quick else 400]
share = {cell: 100 * np.mean([right(model, n) for n in asked]) for cell, model in models.items()}
demo.record(held_out_numbers_written_rightly_in_percent=share)
demo.check("held-out numbers that the plain cell writes rightly, in %", share["rnn"], at_most=30)

figure, axes = plot.subplots(1, 2, size=(7.4, 3.4), width_ratios=(5, 3))
window = 10
for cell, colour in zip(cells, plot.COLOURS):
    smooth = np.convolve(losses[cell], np.ones(window) / window, "valid")
    axes[0].plot(np.arange(len(smooth)) + window, smooth, color=colour, label=cell.upper())
axes[0].set(title="Loss, means of ten steps", xlabel="step", ylabel="nats per character", ylim=(0.6, 2))
bars = axes[1].bar([cell.upper() for cell in cells], list(share.values()), color=plot.COLOURS[: len(cells)])
axes[1].bar_label(bars, fmt="%.1f", padding=2)
axes[1].set(title="Held-out numbers right", ylabel="%", ylim=(0, 110))
axes[1].grid(axis="x", visible=False)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
demo.save(figure, "learning")

# %%
# What is expected next
# ---------------------
# While a held-out line is read, every column shows the probabilities of the next character; a ring marks the
# one that came. Digits are hard to foresee. After the sign = there is nothing left to chance, for a network
# that remembers.

n = max(held_out, key=lambda n: len(line(n)))
shown = "\n" + line(n)
signs = [character.replace("\n", "end") for character in alphabet]
figure, axes = plot.subplots(1, 2, size=(7.4, 4.6), sharey=True, title=f"What is expected while {n} is read")
for panel, cell in zip(axes, ("rnn", "lstm")):
    z, _ = models[cell](models[cell].encode(shown[:-1])[None])
    p = F.softmax(z.data[0])  # (T, V)
    image = panel.imshow(p.T, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    came = models[cell].encode(shown[1:])
    panel.plot(
        range(len(p)), came, "o", color=plot.COLOURS[1], fillstyle="none", markersize=7, markeredgewidth=1.4
    )
    panel.set_xticks(range(len(p)), ["", *shown[1:-1]])
    panel.set_yticks(range(len(alphabet)), signs)
    panel.set(title=cell.upper(), xlabel="read last")
    panel.grid(False)
axes[0].set_ylabel("next")
figure.colorbar(image, ax=axes, label="probability")
demo.save(figure, "expected")

demo.check(
    "held-out numbers that cells with gates write rightly, in %",
    min(share[cell] for cell in cells[1:]),
    at_least=70 if demo.quick else 95,
)
