r"""
A graph network sorts a karate club
===================================

A karate club of 34 broke in two over the price of its lessons, and everybody followed either the instructor
or the president. Zachary (An information flow model for conflict and fission in small groups, 1977) had
recorded who met whom outside of the lessons.

A graph convolutional network (Kipf and Welling, Semi-supervised classification with graph convolutional
networks, 2017) is given this graph, and the sides of two members only: the instructor's and the president's.
Each layer takes a weighted mean over a member's neighbours and the member, and multiplies it by weights:

.. math:: Z = \hat A \,\mathrm{ReLU}(\hat A X W_0) W_1, \qquad \hat A = D^{-1/2} (A + I) D^{-1/2}

A holds 1 for every two who met, D the row sums of A + I. Nothing else is known of the members: X is the unit
matrix.
"""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot
from nnkernels.demo import Demo

demo = Demo("Told the sides of two members, a graph network finds nearly everyone's side in the karate club")

# %%
# The graph
# ---------
# 78 edges among 34 members. The labels of all others serve for judging only.

edges, sides = data.karate_club()
adjacency = F.normalized_adjacency(edges, 34)
features = np.eye(34, dtype=np.float32)
labelled = np.array([0, 33])  # the instructor and the president
others = np.arange(1, 33)

# %%
# Training
# --------
# The loss is the cross-entropy of the two labels. Its gradients reach the weights of members up to two edges
# away, and all predictions change with them.

epochs = 100


def trained(matrix):
    """Return a network's probabilities of side 1, before and after each epoch: (epochs + 1, 34)."""
    model = nn.models.GCN(34, 2, hidden_features=16, dropout=0.5, rng=demo.rng)
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    probabilities = []
    for _ in range(epochs + 1):
        probabilities.append(F.softmax(model.eval()(features, matrix).data)[:, 1])
        z = model.train()(features, matrix)  # with dropout
        loss = F.cross_entropy(F.index_select(z, 0, labelled), sides[labelled])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(probabilities)


probabilities = trained(adjacency)

# %%
# Places to draw the members at
# -----------------------------
# Distances on paper d are to be like the numbers of edges between members s: the sum of (d - s)² / s² is made
# small. Each round solves linear equations for better places (de Leeuw's majorisation, 1977).

linked = np.eye(34, dtype=bool)
linked[edges[0], edges[1]] = linked[edges[1], edges[0]] = True
steps, reached = np.zeros((34, 34)), np.eye(34, dtype=bool)
while not reached.all():
    steps[~reached] += 1
    reached = reached @ linked


def laplacian(weights):
    """Return the matrix of the map from places to their weighted differences from the others'."""
    return np.diag(weights.sum(axis=1)) - weights


weights = 1 / (steps + np.eye(34)) ** 2 - np.eye(34)
places = demo.rng.standard_normal((34, 2))
for _ in range(200):
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(34)
    pull = laplacian(weights * steps / distances) @ places
    places = np.linalg.lstsq(laplacian(weights), pull)[0]

# %%
# The club
# --------
# Circles followed the instructor (1), squares stayed with the president (34). Colours are the network's.

figure, axes = plot.subplots(size=(6.0, 4.5))
axes.axis("off")
for pair in edges.T:
    axes.plot(*places[pair].T, color="#B0B0B0", linewidth=0.7, zorder=1)
colours = LinearSegmentedColormap.from_list("sides", [plot.COLOURS[5], "white", plot.COLOURS[4]])
members = []
for side, marker in enumerate("os"):
    rim = ["black" if i in labelled else "#767676" for i in np.flatnonzero(sides == side)]
    look = {"marker": marker, "s": 180, "cmap": colours, "edgecolors": rim, "zorder": 2}
    at = places[sides == side]
    members.append(axes.scatter(*at.T, c=np.zeros(len(at)), vmin=0, vmax=1, **look))
for i, at in enumerate(places):
    axes.text(*at, i + 1, ha="center", va="center_baseline", fontsize=9)
figure.colorbar(members[0], label="probability of the president's side", shrink=0.8)


def update(k):
    """Show what the network says after k tenths of its training."""
    epoch = k * epochs // frames
    for side, drawn in enumerate(members):
        drawn.set_array(probabilities[epoch, sides == side])
    right = ((probabilities[epoch] > 0.5) == sides)[others].sum()
    axes.set_title(f"After {epoch} epochs {right} of the 32 without a label are right")


frames = 10 if demo.quick else 50
demo.save(plot.animate(figure, update, frames + 1, fps=8), "training")
update(frames)
demo.save(figure, "club")

# %%
# Many trainings
# --------------
# From other initial weights, and once more without the edges, where nobody tells the network anything of the
# others. Member 9 had friends on both sides, more of them on the president's, and yet followed the
# instructor. He was three weeks from the test for his black belt, Zachary reports.

runs = 5 if demo.quick else 30
lonely = F.normalized_adjacency(np.zeros((2, 0), int), 34)


def shares_right(matrix):
    """Return in how many percent of the runs each member was put on the right side."""
    judged = [(trained(matrix)[-1] > 0.5) == sides for _ in demo.steps(range(runs), "trainings")]
    return 100 * np.mean(judged, axis=0)


alone, together = shares_right(lonely), shares_right(adjacency)
demo.record(hardest_member=together.argmin() + 1, runs_that_get_this_one_right_in_percent=together.min())
demo.check("members put right without the graph, in %", alone[others].mean(), at_most=65)
demo.check("members without a label put right, in %", together[others].mean(), at_least=90)
