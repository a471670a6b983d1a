r"""
The learning rate: too small, good, too large
=============================================

Near a minimum, a smooth loss is a parabola along each of its axes. A step of gradient descent with rate
:math:`\eta` multiplies the distance from the minimum, along an axis of curvature k, by

.. math:: 1 - \eta k

so it shrinks exactly where :math:`0 < \eta < 2 / k`. The steepest axis decides whether descent converges, the
flattest how long that takes. The best fixed rate treats both alike:
:math:`\eta = 2 / (k_\mathrm{min} + k_\mathrm{max})`.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("Gradient descent on a parabola converges only at rates below 2 over the largest curvature")

# %%
# A parabola
# ----------
# Half the mean squared error of a linear model is one. Its curvatures are the eigenvalues of
# :math:`X^T X / N`. The data are without noise, so the lowest loss is 0.

N = 200
X = demo.rng.standard_normal((N, 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]])
truth = np.array([1.0, -1.0])
y = X @ truth[:, None]
smallest, largest = np.linalg.eigvalsh(X.T @ X / N)
limit, best = 2 / largest, 2 / (smallest + largest)
demo.record(curvatures=[smallest, largest], limit_of_the_rate=limit, best_rate=best)


def descend(rate, steps):
    """Return w before every step and after the last, and the losses there."""
    model = nn.Linear(2, 1, bias=False, dtype=np.float64)
    model.weight.data[0] = truth + np.array([-1.8, 0.8])
    optimizer = optim.SGD(model.parameters(), lr=rate)
    path, losses = [], []
    for _ in range(steps + 1):
        loss = 0.5 * F.mse_loss(model(X), y)
        path.append(model.weight.data[0].copy())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(path), np.array(losses)


def loss_at(w_1, w_2):
    """Return the loss on a grid of w."""
    error = X @ (np.stack([w_1.ravel(), w_2.ravel()]) - truth[:, None])
    return 0.5 * np.mean(error**2, axis=0).reshape(w_1.shape)


rates = {"small": 0.05 * limit, "good": best, "too large": 1.08 * limit}
figure, panels = plot.subplots(1, 3, size=(7.4, 3.2), title="Twelve steps of gradient descent", sharey=True)
for panel, (name, rate), colour in zip(panels, rates.items(), plot.COLOURS[1:]):
    title = f"{name}: {rate / limit:.2f} of the limit"
    plot.loss_surface(loss_at, (-3.4, 5.0), (-4.4, 3.0), axes=panel, title=title)
    panel.plot(*descend(rate, 12)[0].T, "o-", color=colour, markersize=3.5, linewidth=1.2)
    panel.plot(*truth, "*", color="white", markeredgecolor="#222222", markersize=11)
    panel.set_ylabel("$w_2$" if panel is panels[0] else "")
demo.save(figure, "descents")

# %%
# Where convergence ends
# ----------------------
# The limit can be measured without knowing any curvature, by halving an interval: where the loss is lower
# after a long descent than before it, the rate is below the limit.

steps = 200 if demo.quick else 1000
low, high = 0.0, 10.0
for _ in demo.steps(range(20), "halving"):
    middle = (low + high) / 2
    losses = descend(middle, steps)[1]
    if losses[-1] < losses[0]:
        low = middle
    else:
        high = middle
measured = (low + high) / 2
demo.record(measured_limit=measured)

# %%
# A network
# ---------
# The same three kinds of rates exist for a network; only its limit is not known beforehand, and moves during
# training. A rate far beyond it lets the loss grow until it is no longer a number.
# :func:`nnkernels.train.fit` stops there and says where it was.

x_net = demo.rng.uniform(-3, 3, (200, 1)).astype(np.float32)
y_net = np.sin(x_net)
batch_size, epochs = 20, 10 if demo.quick else 20
net_rates = {"small": 0.001, "good": 0.03, "too large": 3.0}
curves, message = {}, "nothing"
for name, rate in net_rates.items():
    rng = np.random.default_rng(demo.seed)
    net = nn.Sequential(nn.Linear(1, 32, rng=rng), nn.Tanh(), nn.Linear(32, 1, rng=rng))
    seen = curves[name] = []

    def loss(outputs, targets):
        """Return the mean squared error, and note it."""
        value = F.mse_loss(outputs, targets)
        seen.append(value.item())
        return value

    optimizer = optim.SGD(net.parameters(), lr=rate)
    try:
        train.fit(
            net,
            (x_net, y_net),
            optimizer=optimizer,
            loss=loss,
            epochs=epochs,
            batch_size=batch_size,
            rng=demo.rng,
        )
    except FloatingPointError as error:
        message = str(error)

demo.record(message_of_fit=message)
epoch, batch = divmod(len(curves["too large"]) - 1, len(x_net) // batch_size)
told = [f"epoch {epoch + 1}", f"batch {batch + 1} of", f"learning rate {net_rates['too large']:g}"]
demo.check("fit stops with an error that names epoch, batch and rate", all(part in message for part in told))

# %%
# Loss against rate, and loss against steps
# -----------------------------------------
# Left, the parabola: the larger the rate, the lower the loss, up to the best rate; beyond the limit it grows.
# Right, the network: at the rate that is too large, the curve leaves the picture within a few steps.

figure, (left, right) = plot.subplots(1, 2, size=(7.4, 3.9))
tried = np.linspace(0.02, 1.12, 30 if demo.quick else 100) * limit
left.semilogy(tried, [descend(rate, 30)[1][-1] for rate in tried], color=plot.COLOURS[0])
left.axvline(best, color=plot.COLOURS[2], linestyle="--", label="best rate")
left.axvline(limit, color=plot.COLOURS[3], linestyle="--", label=r"limit, $2 / k_\mathrm{max}$")
left.axvline(measured, color=plot.COLOURS[6], linestyle=":", label="limit, measured")
left.set(xlabel="rate", ylabel="loss after 30 steps", title="The parabola")
for (name, losses), colour in zip(curves.items(), plot.COLOURS[1:]):
    right.loglog(
        range(1, len(losses) + 1), losses, color=colour, linewidth=1.2, label=f"rate {net_rates[name]:g}"
    )
right.set(ylim=(1e-3, 1e5), xlabel="step", ylabel="loss of a mini-batch", title="The network")
figure.legend(loc="outside lower center", ncols=3)
demo.save(figure, "rates")

error = abs(measured - limit) / limit
demo.check("measured limit of the rate less 2 over the largest curvature, relative", error, at_most=0.01)
