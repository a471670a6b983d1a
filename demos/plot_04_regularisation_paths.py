r"""
Regularisation paths: L1, L2 and elastic net
============================================

Regularised risk is the mean loss plus a penalty on the weights:

.. math:: \frac{1}{N} \sum_n (w \cdot x_n + b - y_n)^2 + \lambda\, \Omega(w)

:math:`\Omega` is :math:`\sum |w|` for L1, :math:`\frac{1}{2} \sum w^2` for L2; an elastic net takes half of
each. L1 pulls every weight with the same force :math:`\lambda`, however small the weight is, and holds it at
0 unless the loss pulls harder. The force of L2 is :math:`\lambda w`. It fades as the weight shrinks, so the
weight becomes small and not 0.

L1: Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996. Elastic net: Zou and Hastie,
Regularization and Variable Selection via the Elastic Net, 2005.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("L1 drives the weights of irrelevant features to exactly 0, L2 only makes them small")

# %%
# Twelve features, three that matter
# ----------------------------------
# The targets are made of the first three features, an offset and noise.

N, features, relevant = 400, 12, 3
truth = np.append([2.0, -1.5, 1.0], np.zeros(features - relevant))
x = demo.rng.standard_normal((N, features))
y = (x @ truth + 3 + 0.5 * demo.rng.standard_normal(N))[:, None]

# %%
# The gradient of the risk
# ------------------------
# Called with parameters, a penalty is a Tensor to add to the loss. The gradient of the sum is compared with
# central differences, weight by weight. The bias is left out: an offset of the targets is no fault.

model = nn.Linear(features, 1, dtype=np.float64, rng=demo.rng)
w, step, gap = model.weight, 1e-6, 0.0
for penalty in (optim.L1(0.7), optim.L2(0.7), optim.ElasticNet(l1=0.35, l2=0.35)):
    model.zero_grad()
    (F.mse_loss(model(x), y) + penalty(w)).backward()
    for j in range(features):
        start, risks = w.data[0, j], []
        for moved in (start + step, start - step):
            w.data[0, j] = moved
            risks.append((F.mse_loss(model(x), y) + penalty(w)).item())
        w.data[0, j] = start
        gap = max(gap, abs((risks[0] - risks[1]) / (2 * step) - w.grad.data[0, j]))
demo.check("gradient of loss and penalty, largest gap to central differences", gap, at_most=1e-6)

# %%
# The paths
# ---------
# For each :math:`\lambda`, gradient descent from where the last one ended. The penalty is chosen per group of
# parameters, and the bias has none. L2 is smooth and goes into the loss. L1 has a kink at 0, over which
# gradient steps would jump to and fro; it is applied after each step, as the proximal step that moves a
# weight by at most lr λ towards 0 and not past it.

strengths = np.geomspace(0.004, 10, 7 if demo.quick else 41)


def options(name, strength):
    """Return what the weights' group of parameters gets."""
    if name == "L1":
        return {"after_step": optim.L1(strength)}
    if name == "L2":
        return {"penalty": optim.L2(strength)}
    return {"penalty": optim.L2(strength / 2), "after_step": optim.L1(strength / 2)}


paths = {}
for name in ("L1", "L2", "elastic net"):
    model = nn.Linear(features, 1, dtype=np.float64, rng=demo.rng)
    path = []
    for strength in demo.steps(strengths, f"path of {name}"):
        weights = {"params": [model.weight], **options(name, strength)}
        optimizer = optim.SGD([weights, {"params": [model.bias]}], lr=0.1)
        for _ in range(100):
            risk = F.mse_loss(model(x), y) + optimizer.penalty()
            optimizer.zero_grad()
            risk.backward()
            optimizer.step()
        path.append(model.weight.data[0].copy())
    paths[name] = np.array(path)

# %%
# L2 has a closed form
# --------------------
# Where the gradient of the risk is 0, :math:`(2 X^T X / N + \lambda I)\, w = 2 X^T y / N`, with x and y less
# their means because of the bias.

X, Y = x - x.mean(axis=0), y - y.mean()
closed = [
    np.linalg.solve(2 * X.T @ X / N + strength * np.eye(features), 2 * X.T @ Y[:, 0] / N)
    for strength in strengths
]
demo.check("L2's path, largest gap to the closed form", np.abs(paths["L2"] - closed).max(), at_most=1e-4)

# %%
# The paths in pictures
# ---------------------
# Below, the irrelevant weights alone. Under L1 and the elastic net each is 0 from some strength on. Under L2
# some even grow for a while: they make up for a part of what the relevant ones have lost.

middle = len(strengths) // 2  # 0.2
zeros = {name: int(np.sum(path[middle] == 0)) for name, path in paths.items()}
figure, axes = plot.subplots(2, 3, size=(7.4, 5.2), sharex=True, sharey="row")
for (name, path), (upper, lower) in zip(paths.items(), axes.T):
    for j in range(relevant):
        upper.plot(strengths, path[:, j], label=f"$w_{j + 1}$")
    for panel in (upper, lower):
        lines = panel.plot(strengths, path[:, relevant:], color=plot.COLOURS[6], alpha=0.6, linewidth=1.1)
        panel.axvline(strengths[middle], color=plot.COLOURS[3], linestyle=":")
    upper.set(title=f"{name}: {zeros[name]} weights at 0", xscale="log")
    lower.set(xlabel=r"strength $\lambda$")
axes[0, 0].set_ylabel("weight")
axes[1, 0].set_ylabel("irrelevant weight")
handles = [*axes[0, 0].get_legend_handles_labels()[0], lines[0], panel.lines[-1]]
names = ["$w_1$", "$w_2$", "$w_3$", "irrelevant", r"$\lambda = 0.2$, where zeros are counted"]
figure.legend(handles, names, loc="outside lower center", ncols=5)
demo.save(figure, "paths")

# %%
# Counting zeros
# --------------
# At :math:`\lambda = 0.2` L1 has sorted out the features. L2 has none at 0, at any strength.

demo.record(strength=strengths[middle], weights_at_0_of_12=zeros, weights_of_L1=paths["L1"][middle].round(3))
demo.check("weights at exactly 0 under L2, all strengths", np.sum(paths["L2"] == 0), at_most=0)
demo.check("weights at exactly 0 under L1 (λ = 0.2), 9 of 12 irrelevant", zeros["L1"], at_least=8, at_most=9)
