r"""
Controlled amplitudes
=====================

Every layer multiplies what it gets by a factor, on the way forward and on the way back. Over twenty layers a
factor of one half makes a millionth, and a factor of two a million. Three things keep amplitudes under
control: initial weights of the right size, normalisation in every layer, a limit to the gradient's norm.

For :math:`z_j = \sum_i W_{ji} h_i` with n independent terms, the variances multiply:

.. math:: \mathrm{Var}(z) = n \, \mathrm{Var}(W) \, \mathrm{E}(h^2)
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, plot
from nnkernels.demo import Demo

demo = Demo("Over 20 layers, the right weights or layer norm keep values and gradients of one size")

depth, n = 20, 128
N = 64 if demo.quick else 256
x = demo.rng.standard_normal((N, n))
cotangent = demo.rng.standard_normal((N, n))

# %%
# The spread at every layer
# -------------------------
# The gradient at a layer's output is read off zeros that are added to it: they change nothing. The loss
# weighs each output with a random number.


def spreads(fill, phi, norm=lambda z: z):
    """Return the deviations of h and of dL/dh after each layer, two arrays (depth,)."""
    h, values, zeros = x, [], []
    for _ in range(depth):
        W = fill(nnk.tensor(np.zeros((n, n))))
        zeros.append(nnk.tensor(np.zeros((N, n)), requires_grad=True))
        h = phi(norm(h @ W.data.T)) + zeros[-1]
        values.append(h.data.std())
    (h * cotangent).sum().backward()
    return np.array(values), np.array([zero.grad.data.std() for zero in zeros])


def normal(factor):
    """Return what fills a tensor with numbers of deviation factor √(2/n): He's, times the factor."""
    return lambda W: nn.init.normal_(W, std=factor * np.sqrt(2 / n), rng=demo.rng)


# %%
# Initial weights
# ---------------
# Each rule of thumb is right for an activation. Glorot's variance 1/n (Glorot and Bengio, 2010) suits tanh,
# which is nearly the identity about 0. He's 2/n (He et al., 2015) makes up for the half that ReLU drops.
# LeCun's 1/n is what SELU was made for (Klambauer et al., Self-normalizing neural networks, 2017). Orthogonal
# matrices keep the length of every vector (Saxe, McClelland and Ganguli, 2014).

initial = {
    "half of He's, ReLU": (normal(0.5), F.relu),
    "twice He's, ReLU": (normal(2), F.relu),
    "He's, ReLU": (lambda W: nn.init.he_normal_(W, rng=demo.rng), F.relu),
    "Glorot's, tanh": (lambda W: nn.init.glorot_normal_(W, rng=demo.rng), F.tanh),
    "LeCun's, SELU": (lambda W: nn.init.lecun_normal_(W, rng=demo.rng), F.selu),
    "orthogonal, tanh": (lambda W: nn.init.orthogonal_(W, rng=demo.rng), F.tanh),
}
by_weights = {name: spreads(*case) for name, case in demo.steps(initial.items(), "initial weights")}

# %%
# Normalisation
# -------------
# Batch norm brings each unit to mean 0 and variance 1 over the batch (Ioffe and Szegedy, 2015), layer norm
# each example over its units (Ba, Kiros and Hinton, 2016). Then the size of the weights no longer matters:
# here they are a tenth of He's, or ten times.


def batch_norm(z):
    """Return each column of z with mean 0 and variance 1."""
    return F.batch_norm(z, None, None, training=True)


def layer_norm(z):
    """Return each row of z with mean 0 and variance 1."""
    return F.layer_norm(z, (n,))


normalised = {
    "no norm, a tenth": (normal(0.1), F.relu),
    "no norm, ten times": (normal(10), F.relu),
    "batch norm, a tenth": (normal(0.1), F.relu, batch_norm),
    "batch norm, ten times": (normal(10), F.relu, batch_norm),
    "layer norm, a tenth": (normal(0.1), F.relu, layer_norm),
    "layer norm, ten times": (normal(10), F.relu, layer_norm),
}
by_norm = {name: spreads(*case) for name, case in demo.steps(normalised.items(), "normalisation")}

# %%
# Twenty layers
# -------------
# In both columns the two bad scales leave the picture. Batch norm lets gradients grow by about a fifth per
# layer on the way back, whatever the weights (Yang et al., A mean field theory of batch normalization, 2019).

layers = np.arange(1, depth + 1)
figure, axes = plot.subplots(2, 2, size=(7.4, 6.4), sharex=True, sharey="row")
for column, found in zip(axes.T, (by_weights, by_norm)):
    for k, (name, both) in enumerate(found.items()):  # markers at layers of their own: some lines coincide
        for panel, spread in zip(column, both):
            panel.plot(layers, spread, marker="os^Dv*"[k], markevery=(k, 6), label=name)
    column[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
for row, what in zip(axes, ("values", "gradients")):
    row[0].set(yscale="log", ylim=(1e-5, 1e5), ylabel=f"deviation of {what}")
axes[0, 0].set_title("initial weights")
axes[0, 1].set_title("weights of the wrong size, normalised")
axes[1, 0].set_xticks([1, 5, 10, 15, 20])
for panel in axes[1]:
    panel.set_xlabel("layer")
demo.save(figure, "spreads")

# %%
# Clipping
# --------
# Where gradients are too large all the same, their common norm is cut, and their direction kept (Pascanu,
# Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013).

model = nn.Sequential(*[nn.Linear(n, n, rng=demo.rng, dtype=np.float64) for _ in range(3)])
(100 * model(x) ** 2).sum().backward()
before = np.concatenate([p.grad.data.ravel() for p in model.parameters()])
nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
after = np.concatenate([p.grad.data.ravel() for p in model.parameters()])
demo.record(norm_before_clipping=np.linalg.norm(before), norm_after=np.linalg.norm(after))
error = np.linalg.norm(after - before / np.linalg.norm(before))
demo.check("clipped gradient differs from the unit vector along it by", error, at_most=1e-6)

# %%
# How far from one size
# ---------------------


def ratio(spread):
    """Return the largest over the smallest deviation of all layers."""
    return spread.max() / spread.min()


bad = [ratio(spread) for name in ("half of He's, ReLU", "twice He's, ReLU") for spread in by_weights[name]]
demo.check("largest over smallest deviation with half or twice He's weights", min(bad), at_least=1e4)

values = [ratio(by_norm[name][0]) for name in by_norm if "no norm" not in name]
demo.check("largest over smallest deviation of normalised values", max(values), at_most=2)

gradients = [by_norm[f"batch norm, {scale}"][1] for scale in ("a tenth", "ten times")]
growth = [(gradient[0] / gradient[-1]) ** (1 / (depth - 1)) for gradient in gradients]
demo.check("growth of gradients per layer of batch norm", max(growth), at_least=1.1, at_most=1.4)

names = [name for name in by_weights if "half" not in name and "twice" not in name]
good = [ratio(spread) for name in names for spread in by_weights[name]]
good += [ratio(by_norm[f"layer norm, {scale}"][1]) for scale in ("a tenth", "ten times")]
demo.check("largest over smallest, weights as the rules have them, or layer norm", max(good), at_most=10)
