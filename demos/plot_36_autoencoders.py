r"""
Autoencoders: a digit in two numbers
====================================

An autoencoder learns to give back its input, through a layer that is too narrow to copy it. What passes that
layer is a code of the input (Hinton and Salakhutdinov, Reducing the dimensionality of data with neural
networks, 2006). No labels are needed: the input is the target.

A variational autoencoder (Kingma and Welling, Auto-encoding variational Bayes, 2014) makes the code a
distribution, and draws from it. Its loss has two parts, in nats per digit:

.. math:: L = -\log p(x \mid z) + \frac{1}{2} \sum_j \left(\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2\right),
   \qquad z = \mu(x) + \sigma(x)\, \varepsilon, \quad \varepsilon \sim N(0, I)

The second part pulls every code towards N(0, I). So all codes together fill N(0, I), and a draw from there
stands for a digit that nobody wrote.
"""

from statistics import NormalDist

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("Two learnt numbers keep more of a digit than two principal components; draws make new digits")

# %%
# Principal components
# --------------------
# 1500 real digits of 8 x 8 pixels to learn from, 297 held out. The first two principal components are the
# best code of two numbers that linear maps can make and read.

digits = data.digits_8x8(demo.rng)
x, x_held_out = digits.x_train.reshape(-1, 64), digits.x_test.reshape(-1, 64)

mean = x.mean(axis=0)
components = np.linalg.svd(x - mean, full_matrices=False)[2][:2]  # (2, 64)
codes_pca = (x_held_out - mean) @ components.T


def squared_error(reconstruction):
    """Return the mean over held-out digits and pixels."""
    return ((reconstruction - x_held_out) ** 2).mean()


error_pca = squared_error(codes_pca @ components + mean)

# %%
# An autoencoder
# --------------
# 64, 128, 32, 2 numbers, and back again. The network returns logits; the loss is the cross-entropy between
# pixels and their reconstructions.

epochs = 40 if demo.quick else 200
autoencoder = nn.models.Autoencoder((64, 128, 32, 2), rng=demo.rng)
optimizer = optim.Adam(autoencoder.parameters(), lr=0.003)
options = {"loss": F.binary_cross_entropy_with_logits, "batch_size": 32, "rng": demo.rng}
options["schedule"] = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
train.fit(autoencoder, (x, x), optimizer=optimizer, epochs=epochs, **options)
error = squared_error(F.sigmoid(train.predict(autoencoder, x_held_out)))
demo.record(squared_error_pca=error_pca, squared_error_autoencoder=error)
bound = 0.8 if demo.quick else 0.65
demo.check("squared error over that of two principal components", error / error_pca, at_most=bound)

# %%
# A variational autoencoder
# -------------------------
# `loss` is the formula above, with one draw of z for each digit in each step. The first part is the
# cross-entropy summed over the pixels, the second the divergence of the code's distribution from N(0, I).

vae = nn.models.VAE(inputs=64, hidden=128, latent=2, rng=demo.rng)
epochs = 50 if demo.quick else 250
optimizer = optim.Adam(vae.parameters(), lr=0.01)
schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
for _ in demo.steps(range(epochs), "variational autoencoder"):
    for (batch,) in data.Batches(x, batch_size=64, shuffle=True, rng=demo.rng):
        loss = vae.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()

codes, log_variance = vae.encode(x_held_out)
z = vae.draw(codes, log_variance).data
demo.record(mean_of_held_out_codes=z.mean(axis=0), variance_of_held_out_codes=z.var(axis=0))
away = max(np.abs(z.mean(axis=0)).max(), np.abs(z.var(axis=0) - 1).max())
demo.check("how far held-out codes' means are from 0 and variances from 1", away, at_most=0.4)

# %%
# Where the digits lie
# --------------------
# Each held-out digit stands at its code. The networks have never seen a label, and yet like digits lie
# together. The autoencoder puts codes anywhere; those of the variational one fill a disc around 0.

figure, axes = plot.subplots(1, 3, size=(7.4, 3.1), title="Held-out digits at their codes of two numbers")
panels = {
    "principal components": codes_pca,
    "autoencoder": autoencoder.encode(x_held_out).data,
    "variational autoencoder": codes.data,
}
for panel, (title, places) in zip(axes, panels.items()):
    for digit in range(10):
        at = places[digits.y_test == digit]
        panel.scatter(*at.T, marker=f"${digit}$", s=28, linewidths=0.2, color=plot.COLOURS[digit % 7])
    panel.set(title=title, xlabel="first number")
axes[0].set_ylabel("second number")
demo.save(figure, "codes")

# %%
# Between two digits
# ------------------
# A mean of two pictures shows both of them, one through the other. On the line between two codes lie codes of
# single pictures, other digits among them.

one, other = (np.flatnonzero(digits.y_test == digit)[0] for digit in (2, 4))
weights = np.linspace(0, 1, 9, dtype=np.float32)[:, None]


def between(places):
    """Return nine places on the line from one digit to the other."""
    return (1 - weights) * places[one] + weights * places[other]


rows = {
    "of pixels": between(x_held_out),
    "of codes": F.sigmoid(autoencoder.decode(between(panels["autoencoder"])).data),
    "of codes,\nvariational": F.sigmoid(vae.decode(between(codes.data)).data),
}
figure, axes = plot.subplots(3, 9, size=(7.4, 3.0), title="From a 2 to a 4: weighted means")
for row, (name, pictures) in zip(axes, rows.items()):
    row[0].text(-2, 3.5, name, ha="right", va="center")
    for panel, picture in zip(row, pictures):
        panel.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        panel.axis("off")
demo.save(figure, "between")

# %%
# New digits
# ----------
# On the left, codes at equal steps of probability of N(0, 1) along both axes. On the right, codes drawn.

steps = [NormalDist().inv_cdf((i + 0.5) / 10) for i in range(10)]
lattice = np.array([(u, v) for v in reversed(steps) for u in steps], np.float32)
drawn = demo.rng.standard_normal((2000, 2)).astype(np.float32)
made = F.sigmoid(vae.decode(drawn).data)

figure, axes = plot.subplots(1, 2, size=(7.4, 5.3), title="What the decoder makes of codes")
for panel, title, pictures in (
    (axes[0], "codes on a lattice", F.sigmoid(vae.decode(lattice).data)),
    (axes[1], "codes drawn from N(0, I)", made[:100]),
):
    framed = np.pad(pictures.reshape(10, 10, 8, 8), ((0, 0), (0, 0), (1, 1), (0, 0)))
    panel.imshow(framed.transpose(0, 2, 1, 3).reshape(100, 80), cmap="gray_r", vmin=0, vmax=1)
    panel.set(title=title)
    panel.axis("off")
demo.save(figure, "drawn")

# %%
# How near they are to real ones
# ------------------------------
# From each drawn digit to the nearest of the 1500 real ones, and the same from the held-out digits.


def nearest(pictures):
    """Return the mean distance to the nearest digit that was learnt from."""
    squared = (pictures**2).sum(axis=1)[:, None] + (x**2).sum(axis=1) - 2 * pictures @ x.T
    return np.sqrt(squared.min(axis=1)).mean()


demo.record(from_a_drawn_digit=nearest(made), from_a_held_out_digit=nearest(x_held_out))
ratio, bound = nearest(made) / nearest(x_held_out), 1.4 if demo.quick else 1.2
demo.check("distance of drawn digits to real ones over that of held-out ones", ratio, at_most=bound)
