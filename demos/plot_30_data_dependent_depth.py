"""
Networks defined procedurally
=============================

A network need not be a fixed stack of layers. Its forward pass is a program, and loops and branches in it may
depend on the data: every call records the graph of what it has just done, and gradients flow back along that.

Here the input is a word and points of the plane. Each letter stands for a motion that the network does not
know. It is only told where the points end up after words of one to four letters.
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("A network whose input decides which blocks run, and how often, trains and reads longer words")

# %%
# Three motions of the disc
# -------------------------
# The letter a turns by 0.9 radians, b twists (turns by the squared radius), c mirrors left and right.


def turned(s, angle):
    """Return the points s (N, 2) turned by angles (one, or N)."""
    x, y = s.T
    return np.column_stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y])


motions = {
    "a": lambda s: turned(s, 0.9),
    "b": lambda s: turned(s, (s**2).sum(axis=1)),
    "c": lambda s: s * [-1, 1],
}


def truth(word, s):
    """Return where the points s end up."""
    for letter in word:
        s = motions[letter](s)
    return s.astype(np.float32)


def draw(length, N):
    """Return a random word and N points, evenly spread over the disc."""
    radius, angle = np.sqrt(demo.rng.random(N)), 2 * np.pi * demo.rng.random(N)
    s = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return "".join(demo.rng.choice(list(motions), length)), s.astype(np.float32)


# %%
# The network
# -----------
# One block per letter, and a loop over the letters: the word decides how deep the network is and which
# weights each of its layers has.


def block():
    """Return a small network that says how far to move."""
    return nn.Sequential(nn.Linear(2, 64, rng=demo.rng), nn.ReLU(), nn.Linear(64, 2, rng=demo.rng))


class Reader(nn.Module):
    """Moves points by a word, letter by letter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = block(), block(), block()

    def forward(self, word, s):
        for letter in word:
            s = s + getattr(self, letter)(s)
        return s


# %%
# Train on words of one to four letters
# -------------------------------------
# Each step draws another word, so each step records another graph. Blocks of letters that the word lacks are
# not in it, get no gradient, and stay as they are.

model = Reader()
steps = 1500 if demo.quick else 6000
optimizer = optim.Adam(model.parameters(), lr=0.01)
schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
losses = []
for _ in demo.steps(range(steps), "training"):
    word, s = draw(demo.rng.integers(1, 5), 256)
    loss = F.mse_loss(model(word, s), truth(word, s))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())

# %%
# What the calls recorded
# -----------------------
# The graph of a word has three operations per letter (a layer with its ReLU, a layer, a sum), and a letter
# that comes twice uses the same weights twice. The pictures show it for the words bb and bbb.

operations = []
for length in range(1, 13):
    word, s = draw(length, 1)
    text = nnk.graph(model(word, s), gradient=np.ones((1, 2), np.float32), format="dot")
    operations.append(text.count("label") - 4 * len(set(word)) - 1)  # less the blocks' parameters and s
demo.check("words of 1 to 12 letters record 3, 6, ..., 36 operations", operations == list(range(3, 37, 3)))

s = np.float32([[0.6, -0.3]])
for word in ("bb", "bbb"):
    end = truth(word, s)
    names = {f"b.{name}": parameter for name, parameter in model.b.named_parameters()}
    demo.save(nnk.graph(F.mse_loss(model(word, s), end), names | {"s": s, "truth": end}), f"graph_{word}")

# %%
# Words longer than any in training
# ---------------------------------
# The network has learnt the letters, so it can read longer words. Its error grows slowly with their number.
# The halves of a disc, coloured, show what a word of eight letters does to it.


def error(length):
    """Return the root mean square distance from the truth, over a hundred words of this length."""
    calls = [draw(length, 64) for _ in range(100)]
    squares = [((model(word, s).data - truth(word, s)) ** 2).sum(axis=1) for word, s in calls]
    return float(np.sqrt(np.mean(squares)))


errors = [error(length) for length in range(1, 13)]
demo.record(operations=operations, error=errors)

figure, ((left, right), discs) = plot.subplots(2, 2, size=(7.4, 6.4))
smooth = np.convolve(losses, np.ones(30) / 30, "valid")  # means of 30 steps
left.semilogy(np.arange(30, steps + 1), smooth)
left.set(title="training", xlabel="step, each with a new word", ylabel="mean squared error")
right.axvspan(0.5, 4.5, color=plot.style.GRID_LINE, label="lengths in training")
right.plot(range(1, 13), errors, "o-", color=plot.COLOURS[1], label="error at new points")
right.set(title="deeper than in training", xlabel="letters in the word", ylabel="distance from the truth")
right.set(xticks=range(1, 13), ylim=(0, None))
word, s = draw(8, 3000)
colours = np.where(s[:, 0] > 0, plot.COLOURS[1], plot.COLOURS[0])
ends = {f"the word {word}": truth(word, s), "as the network reads it": model(word, s).data}
for panel, (title, end) in zip(discs, ends.items()):
    panel.scatter(*end.T, s=4, c=colours, linewidths=0)
    panel.set(title=title, aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xlabel="x", ylabel="y")
figure.legend(loc="outside lower center", ncols=2)
demo.save(figure, "error")

demo.check("error after 8 letters, in radii of the disc", errors[7], at_most=0.2 if demo.quick else 0.1)
