r"""
Two networks against each other
===============================

A generative adversarial network (Goodfellow et al., Generative adversarial nets, 2014) is two networks. The
generator G makes pictures of random numbers z. The discriminator D is shown real pictures x and made ones,
and gives each the probability that it is real. Each has a loss of its own:

.. math:: L_D = -\log D(x) - \log(1 - D(G(z))), \qquad L_G = -\log D(G(z))

The generator is never shown a real picture. All that it learns of them is the gradient which comes back
through the discriminator. Neither loss need fall: as one network gets better, the other has it harder.
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("A generator that never sees a real digit learns to draw all ten, by deceiving a discriminator")

# %%
# Real digits
# -----------
# 1500 of 8 x 8 pixels, in [-1, 1], where the generator's last tanh has its values. A small network learns to
# read them, and will judge the drawn ones. The generator gets nothing of it.

digits = data.digits_8x8(demo.rng)
x, x_held_out = 2 * digits.x_train - 1, 2 * digits.x_test - 1

reader = nn.models.MLP((64, 128, 10), rng=demo.rng)
optimizer = optim.Adam(reader.parameters(), lr=0.003)
train.fit(reader, (x, digits.y_train), optimizer=optimizer, epochs=12, rng=demo.rng)
read = train.evaluate(reader, x_held_out, digits.y_test).accuracy
demo.check("held-out real digits that the judge reads rightly, in %", 100 * read, at_least=90)

# %%
# The two networks
# ----------------
# The generator spreads 16 numbers to maps of 2 x 2, 4 x 4 and 8 x 8 pixels by transposed convolutions; the
# discriminator goes the same way back (after Radford, Metz and Chintala, 2016).

gan = nn.models.GAN(latent=16, width=16, size=8, rng=demo.rng)
always = gan.draw(35)  # the same random numbers for every picture below
print(nn.summary(gan.generator, (1, 16)))


def made_of(z):
    """Return the generator's pictures (N, 1, 8, 8), by the running statistics of its normalisations."""
    gan.eval()
    with nnk.no_grad():
        pictures = gan(z).data
    gan.train()
    return pictures


# %%
# Training
# --------
# One step each in turn. A smaller first moment keeps Adam from pushing on after the other network has moved.

epochs = 14 if demo.quick else 60
adam = {"lr": 0.001, "betas": (0.5, 0.999)}
of_discriminator = optim.Adam(gan.discriminator.parameters(), **adam)
of_generator = optim.Adam(gan.generator.parameters(), **adam)

losses, film = [], [made_of(always)]
for _ in demo.steps(range(epochs), "training"):
    for (batch,) in data.Batches(x, batch_size=64, shuffle=True, rng=demo.rng, drop_last=True):
        loss_d = gan.discriminator_loss(batch)
        of_discriminator.zero_grad()
        loss_d.backward()
        of_discriminator.step()

        loss_g = gan.generator_loss(len(batch))
        of_generator.zero_grad()
        loss_g.backward()
        of_generator.step()
        losses.append((loss_d.item(), loss_g.item()))
    film.append(made_of(always))

# %%
# What the generator makes of the same random numbers, after every other pass through the real digits.

shown = range(0, epochs + 1, 2)
figure, axes = plot.subplots(size=(4.6, 3.8))
axes.axis("off")
sheet = axes.imshow(np.zeros((50, 70)), cmap="gray_r", vmin=-1, vmax=1)


def update(k):
    """Show the pictures after so many epochs."""
    framed = np.pad(film[shown[k]].reshape(5, 7, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
    sheet.set_data(framed.transpose(0, 2, 1, 3).reshape(50, 70))
    axes.set_title(f"Drawn digits after {shown[k]} epochs")


demo.save(plot.animate(figure, update, frames=len(shown), fps=4), "drawn")

# %%
# How the two fared, and whether all ten digits are there
# -------------------------------------------------------
# A discriminator that cannot tell gives 1/2 to everything: its loss is then 2 log 2 = 1.39, the generator's
# log 2 = 0.69. And a generator may deceive by drawing a single digit well. So 2000 drawn ones are read and
# counted.

drawn = made_of(gan.draw(2000))
z = train.predict(reader, drawn)  # logits (2000, 10)
shares = 100 * np.bincount(z.argmax(axis=1), minlength=10) / len(z)

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 3.3))
window = len(x) // 64  # steps in an epoch
for curve, name, level, colour in zip(np.transpose(losses), "DG", (2 * np.log(2), np.log(2)), plot.COLOURS):
    smooth = np.convolve(curve, np.ones(window) / window, "valid")
    left.plot(np.arange(len(smooth)) + window, smooth, color=colour, label=f"$L_{name}$")
    left.axhline(level, color=colour, linestyle=":", label=f"$L_{name}$ where D gives 1/2")
left.set(title="Losses, means over an epoch", xlabel="step", ylabel="loss, nats")
right.bar(range(10), shares, color=plot.COLOURS[2])
right.axhline(10, color=plot.COLOURS[6], linestyle="--", label="equal shares")
right.set(title="What 2000 drawn digits are read as", xlabel="digit", ylabel="share, %", xticks=range(10))
right.grid(axis="x", visible=False)
lines, names = left.get_legend_handles_labels()
more_lines, more_names = right.get_legend_handles_labels()
figure.legend(lines + more_lines, names + more_names, loc="outside lower center", ncols=3)
demo.save(figure, "losses_and_shares")


def nearest(pictures):
    """Return the mean distance to the nearest real digit that was trained on."""
    a, b = pictures.reshape(-1, 64), x.reshape(-1, 64)
    return np.sqrt(((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T).min(axis=1)).mean()


demo.record(
    nearest_real_one_to_a_drawn_digit=nearest(drawn),
    nearest_real_one_before_training=nearest(film[0]),
    nearest_real_one_to_a_held_out_digit=nearest(x_held_out),
    judges_certainty_of_drawn_digits=F.softmax(z).max(axis=1).mean(),
)
ratio, bound = nearest(drawn) / nearest(x_held_out), 1.8 if demo.quick else 1.5
demo.check("distance of drawn digits to real ones over that of held-out ones", ratio, at_most=bound)
demo.check(
    "share of the rarest of the ten digits among the drawn ones, in %",
    shares.min(),
    at_least=0.5 if demo.quick else 2,
)
