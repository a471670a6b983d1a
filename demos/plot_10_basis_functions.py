r"""
Basis functions: straight in a larger space
===========================================

No line separates a disc from a ring around it. Logistic regression draws a line, so it fails there, unless it
is given functions of x in the place of x. Three are enough:

.. math:: \phi(x) = (x_1^2, \; \sqrt{2} x_1 x_2, \; x_2^2), \qquad \phi(x) \cdot \phi(z) = (x \cdot z)^2

The circle :math:`x_1^2 + x_2^2 = r^2` becomes a plane in the space of :math:`\phi`: the first coordinate plus
the third is :math:`r^2`. And where nobody knows good functions beforehand, a hidden layer learns some.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("A plane separates a disc from a ring after a quadratic map, where no line did before")

# %%
# A disc and a ring
# -----------------
# The inner points are of class 0, the outer ones of class 1. One set is to learn from, another to judge by.


def draw(count):
    """Return points (count, 2) and their classes (count, 1)."""
    y = np.arange(count) % 2
    squared_radius = np.where(y == 0, demo.rng.uniform(0, 1, count), demo.rng.uniform(2, 4, count))
    angle = demo.rng.uniform(0, 2 * np.pi, count)
    x = np.sqrt(squared_radius)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return x, y[:, None].astype(np.float64)


x, y = draw(300)
x_new, y_new = draw(2000)

# %%
# The map and its kernel
# ----------------------
# :class:`nnkernels.nn.features.Features` takes functions of your own;
# :class:`nnkernels.nn.features.Polynomial` has the same map ready, for any degree. The inner product of two
# mapped points is the square of theirs.

phi = nn.features.Features(
    lambda x: x[:, 0] ** 2, lambda x: 2**0.5 * x[:, 0] * x[:, 1], lambda x: x[:, 1] ** 2
)
a, b = demo.rng.standard_normal((2, 100, 2))
kernel = (phi(a) * phi(b)).sum(axis=1)
demo.check("φ(x)·φ(z) differs from (x·z)² by", np.abs(kernel - (a * b).sum(axis=1) ** 2).max(), at_most=1e-12)
ready = nn.features.Polynomial(degree=2)
demo.record(difference_from_Polynomial=np.abs(phi(a) - ready(a)).max())

# %%
# Three classifiers
# -----------------
# All end in a linear layer and the sigmoid. The first is given x, the second φ(x), the third learns eight
# functions: :math:`\tanh(u_j \cdot x + c_j)`.


def fit(*layers):
    """Return a network of these layers, fitted to the points."""
    model = nn.Sequential(*layers)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    for _ in demo.steps(range(300 if demo.quick else 1000), "fit"):
        loss = F.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def linear(inputs, outputs):
    """Return a linear layer in float64."""
    return nn.Linear(inputs, outputs, dtype=np.float64, rng=demo.rng)


models = {
    "on x": fit(linear(2, 1)),
    "on φ(x)": fit(phi, linear(3, 1)),
    "on learnt functions": fit(linear(2, 8), nn.Tanh(), linear(8, 1)),
}
share = {name: np.mean((model(x_new).data > 0) == (y_new == 1)) for name, model in models.items()}
demo.record(share_of_new_points_right=share)

figure, panels = plot.subplots(1, 3, size=(7.4, 3.1), title="Logistic regression", sharey=True)
for panel, (name, model) in zip(panels, models.items()):
    plot.decision_boundary(lambda at: F.sigmoid(model(at)).data, x, y[:, 0], axes=panel, title=name)
    panel.set(aspect="equal", ylabel="$x_2$" if panel is panels[0] else "")
demo.save(figure, "boundaries")

# %%
# The space of φ
# --------------
# The mapped points lie on a cone. The plane that logistic regression has found cuts it: seen along the second
# axis it is almost a line.

w, c = models["on φ(x)"][1].weight.data[0], models["on φ(x)"][1].bias.data[0]  # the plane w·φ + c = 0
figure, (space, flat) = plot.subplots(1, 2, size=(7.4, 4.2), title="The points under φ")
space.remove()
space = figure.add_subplot(1, 2, 1, projection="3d")
points = phi(x)
for label, marker in enumerate("os"):
    at = points[y[:, 0] == label]
    style = {"color": plot.COLOURS[label], "marker": marker, "edgecolor": "white", "linewidth": 0.4}
    space.scatter(*at.T, s=14, depthshade=False, **style)
    flat.scatter(at[:, 0], at[:, 2], s=20, label=f"class {label}", **style)
first, second = np.meshgrid([0.0, 1.6], [-2.5, 2.5])
third = -(w[0] * first + w[1] * second + c) / w[2]
space.plot_surface(first, second, third, color=plot.COLOURS[2], alpha=0.4)
space.set(xlabel="$x_1^2$", ylabel=r"$\sqrt{2} x_1 x_2$", zlabel="$x_2^2$")
space.view_init(elev=25, azim=-112)
space.zaxis.set_rotate_label(False)
across = np.array([0.0, -c / w[0]])
flat.plot(across, -(w[0] * across + c) / w[2], color=plot.COLOURS[2], label="plane")
flat.set(xlabel="$x_1^2$", ylabel="$x_2^2$", title="seen along the second axis")
figure.legend(*flat.get_legend_handles_labels(), loc="outside lower center", ncols=3)
demo.save(figure, "space")

demo.check("share of new points right on x", share["on x"], at_most=0.7)
demo.check("share of new points right on learnt functions", share["on learnt functions"], at_least=0.98)
demo.check("share of new points right on φ(x)", share["on φ(x)"], at_least=0.99)
