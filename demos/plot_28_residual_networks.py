r"""
Skip connections
================

On its way back through a deep network, the gradient is multiplied by one matrix per layer. Where each of them
makes it smaller, hardly anything is left for the first layer. A residual block adds its input x to what its
layers make of it, F(x), and so the way back has a 1 in every factor:

.. math:: y = \mathrm{ReLU}(z), \quad z = x + F(x), \qquad
   \frac{\partial L}{\partial x} =
   \left(1 + \frac{\partial F}{\partial x}\right)^T \frac{\partial L}{\partial z}

The 1 carries the gradient past the block, whatever the weights in F are (He, Zhang, Ren and Sun, Deep
residual learning for image recognition, CVPR 2016). In ResNets, F is made of convolutions with batch
normalisation; full connections without normalisation show the same, in seconds.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("Skips carry gradients to the first layer of a deep stack, which without them does not train")

# %%
# A block, with or without a skip
# -------------------------------
# Both have the same layers and the same number of parameters: the skip is one addition.


class Block(nn.Module):
    """Two full connections; with `skip` the input is added to what they make of it."""

    def __init__(self, skip, dtype):
        super().__init__()
        self.skip = skip
        self.fc1 = nn.Linear(64, 64, rng=demo.rng, dtype=dtype)
        self.fc2 = nn.Linear(64, 64, rng=demo.rng, dtype=dtype)

    def forward(self, x):
        y = self.fc2(F.relu(self.fc1(x)))
        return F.relu(x + y if self.skip else y)


def stack(blocks, skip, he=False, dtype=np.float32):
    """Return a network of a first layer, so many blocks, and a last layer."""
    first, last = nn.Linear(64, 64, rng=demo.rng, dtype=dtype), nn.Linear(64, 10, rng=demo.rng, dtype=dtype)
    model = nn.Sequential(first, nn.ReLU(), *[Block(skip, dtype) for _ in range(blocks)], last)
    if he:  # in the blocks, weights of variance 2/n in place of the default 1/(3n); biases are 0
        for name, parameter in model.named_parameters():
            if name.endswith(("fc1.weight", "fc2.weight")):
                nn.init.he_uniform_(parameter, rng=demo.rng)
            elif name.endswith(("fc1.bias", "fc2.bias")):
                nn.init.zeros_(parameter)
    return model


digits = data.digits_8x8(demo.rng)
x, y = digits.x_train.reshape(-1, 64), digits.y_train

# %%
# The gradient that reaches the first layer
# -----------------------------------------
# Before training, with the library's default initial weights: uniform between -a and a, where a² = 1/n for n
# inputs. Their variance is 1/(3n), and a ReLU stops half of the gradient, so every plain layer leaves a sixth
# of its squared norm. A block of two layers leaves a sixth of the norm: log10(6) = 0.78 decades are lost.

depths = np.array([1, 2, 5, 10, 15, 20, 25, 30, 35, 40])


def gradient_norm(blocks, skip, he=False):
    """Return the norm of the loss's gradient by the first layer's weights, in a new stack."""
    model = stack(blocks, skip, he, np.float64)
    F.cross_entropy(model(x[:256].astype(np.float64)), y[:256]).backward()
    return np.linalg.norm(model[0].weight.grad.data)


plain = np.array([gradient_norm(blocks, skip=False) for blocks in depths])
residual = np.array([gradient_norm(blocks, skip=True) for blocks in depths])
lost = -np.polyfit(depths, np.log10(plain), 1)[0]
demo.record(plain_40_blocks=plain[-1], residual_40_blocks=residual[-1])
demo.check("decades of the gradient lost per plain block", lost, at_least=0.7, at_most=0.9)
demo.check("least gradient with skips over that of one block", residual.min() / residual[0], at_least=0.3)

# %%
# With He's weights (He et al., Delving deep into rectifiers, ICCV 2015) a plain stack keeps its gradient.
# Where there are skips they are too large, since each block more than doubles the squared norm: one reason
# why ResNets normalise inside their blocks.

plain_he = np.array([gradient_norm(blocks, skip=False, he=True) for blocks in depths])
residual_he = np.array([gradient_norm(blocks, skip=True, he=True) for blocks in depths])

BLUE, ORANGE, INK = plot.COLOURS[0], plot.COLOURS[1], plot.COLOURS[-1]
figure, axes = plot.subplots(size=(6.4, 4.6), title="The first layer's gradient before training")
axes.plot(depths, residual, "o-", color=BLUE, label="with skips, default weights")
axes.plot(depths, plain, "s-", color=ORANGE, label="without skips, default weights")
axes.plot(depths, plain[0] * 6.0 ** (1 - depths), "-", color=INK, linewidth=0.8, label="a sixth per block")
axes.plot(depths, residual_he, "o:", color=BLUE, mfc="white", label="with skips, He's weights")
axes.plot(depths, plain_he, "s:", color=ORANGE, mfc="white", label="without skips, He's weights")
axes.set(yscale="log", xlabel="blocks of two layers", ylabel="norm of the gradient", xlim=(0, 41))
axes.set_yticks([1e-30, 1e-20, 1e-10, 1])
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3.2)
demo.save(figure, "gradients")

# %%
# Training
# --------
# The deep plain stack stays at the loss of guessing, log(10) = 2.30. Gradients do not reach its first layers,
# and on the way forward what tells the digits apart fades just as much. With He's weights it learns, but less
# than with skips. In the paper, too, deep plain networks whose gradients were sound trained badly.

deep, epochs = (10, 6) if demo.quick else (20, 10)
cases = {
    "2 blocks, with skips": (2, True, False, "o--", BLUE),
    f"{deep} blocks, with skips": (deep, True, False, "o-", BLUE),
    "2 blocks, without skips": (2, False, False, "s--", ORANGE),
    f"{deep} blocks, without skips": (deep, False, False, "s-", ORANGE),
    f"{deep} blocks, without skips, He's weights": (deep, False, True, "s:", ORANGE),
}
figure, axes = plot.subplots(size=(6.4, 4.8), title="Training loss, digits of 8 × 8 pixels")
final = {}
for name, (blocks, skip, he, line, colour) in demo.steps(cases.items(), "networks trained"):
    model = stack(blocks, skip, he)
    optimizer = optim.Adam(model.parameters(), lr=0.0005)
    losses = train.fit(model, (x, y), optimizer=optimizer, epochs=epochs, rng=demo.rng)["train_loss"]
    axes.plot(range(1, epochs + 1), losses, line, color=colour, mfc="white" if he else colour, label=name)
    final[name] = np.mean(losses[-2:])
axes.set(yscale="log", xlabel="epoch", ylabel="mean cross-entropy", ylim=(None, 3))
axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"], minor=False)
axes.minorticks_off()
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3.2)
demo.save(figure, "training")

# %%
# More blocks help with skips, and only with them.

shallow_residual, deep_residual, shallow_plain, deep_plain, deep_he = final.values()
demo.record(final_loss=final)
worse, better = deep_plain / shallow_plain, deep_residual / shallow_residual
demo.check(f"loss of {deep} plain blocks over that of 2", worse, at_least=1.3 if demo.quick else 2)
demo.check(f"loss of {deep} blocks with skips over that of 2", better, at_most=0.8)
