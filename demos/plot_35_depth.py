r"""
Depth
=====

GoogLeNet has 22 layers with weights, ResNet-50 has 50, and both have fewer parameters than AlexNet with
its 8. 1 x 1 convolutions make that possible: they bring many channels down to few before the larger filters
(Szegedy et al., Going deeper with convolutions, CVPR 2015; He, Zhang, Ren and Sun, Deep residual learning
for image recognition, CVPR 2016).

To be deep is not enough. Batch normalisation keeps the activations of a deep network in bounds, but not the
gradient, which is multiplied by a factor per layer on its way back through L layers:

.. math:: \Vert g_1 \Vert \approx \lambda^{L-1}\, \Vert g_L \Vert, \quad
   \lambda = \sqrt{\frac{\pi}{\pi - 1}} = 1.21

This is the factor of wide layers with ReLU before training (Yang et al., A mean field theory of batch
normalization, ICLR 2019). A skip connection gives the gradient a way back that has no such factor.
"""

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import data, nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("Deeper convolutional networks train better with skip connections, and worse without them")

# %%
# Two deep networks, stage by stage
# ---------------------------------
# `nn.summary` has a row for every layer; the rows of a stage share the first part of their names. FLOPs are
# those of one image of 224 x 224 pixels, a product and its addition counted as two.


def stages(table):
    """Return (stage, its last output shape, convolutions, parameters, FLOPs) from a table of layers."""
    found = {}
    for row in table.rows:
        stage = row.name.split(".")[0].replace("bn1", "conv1")
        _, convolutions, parameters, flops = found.get(stage, (None, 0, 0, 0))
        convolutions += row.kind == "Conv2d"
        found[stage] = row.output_shape[1:], convolutions, parameters + row.parameters, flops + row.flops
    return [(stage, *facts) for stage, facts in found.items() if facts[2] > 0]  # those with weights


published = {"GoogLeNet": 6_624_904, "ResNet50": 25_557_032}
bars = {}
for name, count in published.items():
    table = nn.summary(getattr(nn.models, name)(rng=demo.rng), (1, 3, 224, 224))
    bars[name] = stages(table)
    print(f"\n{name:12}  {'output':>15} {'convolutions':>12} {'parameters':>11} {'MFLOP':>7}")
    for stage, shape, convolutions, parameters, flops in bars[name]:
        print(f"{stage:12}  {shape!s:>15} {convolutions:>12} {parameters:>11,} {flops / 1e6:>7,.0f}")
    print(f"{'total':43}{table.total.parameters:>11,} {table.total.flops / 1e6:>7,.0f}\n")
    demo.check(f"parameters of {name}", table.total.parameters, at_least=count, at_most=count)

# %%
# A bottleneck of ResNet-50 takes 256 channels to 64, convolves these, and goes back to 256. Two 3 x 3
# convolutions on all 256 would hold 17 times as many weights.

bottleneck = 256 * 64 + 64 * 9 * 64 + 64 * 256
demo.record(weights_of_a_bottleneck=bottleneck, weights_of_two_full_convolutions=2 * 256 * 9 * 256)

# %%
# Parameters stand late, where channels are many. The arithmetic is done where maps are large: early in
# GoogLeNet, and in ResNet-50 spread over all four stages.

figure, axes = plot.subplots(1, 2, size=(7.4, 4.2))
for panel, (name, rows) in zip(axes, bars.items()):
    places = np.arange(len(rows))
    for shift, k, label in ((-0.2, 3, "parameters"), (0.2, 4, "FLOPs")):
        share = np.array([row[k] for row in rows], float)
        panel.barh(places + shift, 100 * share / share.sum(), 0.4, color=plot.COLOURS[k - 3], label=label)
    panel.set_yticks(places, [row[0] for row in rows])
    panel.invert_yaxis()
    sums = f"{published[name] / 1e6:.1f} million parameters, {sum(row[4] for row in rows) / 1e9:.1f} GFLOP"
    panel.set(title=f"{name}\n{sums}", xlabel="share, in %")
    panel.grid(axis="y", visible=False)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
demo.save(figure, "stages")

# %%
# The first layer's gradient before training
# ------------------------------------------
# The small networks of the ResNet paper, with skips and without; the rest, the number of parameters too, is
# the same. Without skips every layer multiplies the gradient by nearly the same factor. These layers are
# narrow, and it is a little less than 1.21.

digits = data.digits_8x8(demo.rng)
x, y = digits.x_train, digits.y_train


def first_gradient(model, x, y):
    """Return the loss of a batch and the norm of its gradient by the first convolution's weights."""
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    return loss.item(), np.linalg.norm(model.conv1.weight.grad.data)


depths = np.array([8, 20, 32, 44, 56] if demo.quick else [8, 14, 20, 26, 32, 38, 44, 50, 56])
norms = {}
for skip in (True, False):
    networks = [nn.models.CifarResNet(depth, in_channels=1, skip=skip, rng=demo.rng) for depth in depths]
    norms[skip] = np.array([first_gradient(model, x[:64], y[:64])[1] for model in networks])
factor = {skip: np.exp(np.polyfit(depths, np.log(norms[skip]), 1)[0]) for skip in norms}
demo.record(gradient_with_skips=norms[True], gradient_without=norms[False])
demo.check("growth of the gradient per layer, without skips", factor[False], at_least=1.1, at_most=1.25)
growth = norms[True][-1] / norms[True][0]
demo.check("growth of the gradient from 8 to 56 layers, with skips", growth, at_most=30)

figure, axes = plot.subplots(size=(6.4, 3.8), title="The first layer's gradient before training")
axes.plot(depths, norms[True], "o-", color=plot.COLOURS[0], label="with skips")
axes.plot(depths, norms[False], "s-", color=plot.COLOURS[1], label="without skips")
wide = norms[False][0] * (np.pi / (np.pi - 1)) ** ((depths - depths[0]) / 2)
axes.plot(depths, wide, ":", color=plot.COLOURS[-1], label="1.21 per layer")
axes.set(yscale="log", xlabel="layers", ylabel="norm of the gradient", xticks=depths)
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=3.2)
demo.save(figure, "gradients")

# %%
# Training
# --------
# Momentum and weight decay are the paper's; the rate rises over the first steps, then falls to 0 along half a
# cosine. No rate suits all layers of the deep plain network: the first have gradients many times as large as
# the last.

shallow, deep = 8, 32
epochs, every, N = (1, 4, 32) if demo.quick else (3, 6, 64)
if demo.quick:
    x, y = x[:768], y[:768]
batches = data.Batches(x, y, N, shuffle=True, rng=demo.rng)
step, steps = np.arange(1, epochs * len(batches) + 1), epochs * len(batches)
rates = 0.03 * np.minimum(1, step / 20) * (1 + np.cos(np.pi * step / steps)) / 2


def curves(depth, skip):
    """Train a network; return train loss and held-out accuracy every few steps, and all gradient norms."""
    model = nn.models.CifarResNet(depth, in_channels=1, skip=skip, rng=demo.rng)
    optimizer = optim.SGD(model.parameters(), lr=0, momentum=0.9, weight_decay=1e-4)
    losses, norms, accuracies = [], [], []
    for _ in range(epochs):
        for x_batch, y_batch in batches:
            optimizer.param_groups[0]["lr"] = rates[len(losses)]
            loss, norm = first_gradient(model, x_batch, y_batch)
            optimizer.step()
            losses.append(loss)
            norms.append(norm)
            if len(losses) % every == 0:
                accuracies.append(train.evaluate(model, digits.x_test, digits.y_test).accuracy)
    whole = len(losses) // every * every
    return np.reshape(losses[:whole], (-1, every)).mean(axis=1), 100 * np.array(accuracies), norms


figure, axes = plot.subplots(1, 3, size=(7.4, 3.4))
final = {}
for depth, skip in demo.steps([(d, s) for s in (True, False) for d in (shallow, deep)], "networks trained"):
    losses, accuracies, norms_now = curves(depth, skip)
    name = f"{depth} layers, {'with' if skip else 'without'} skips"
    look = {"color": plot.COLOURS[0 if skip else 1], "linestyle": "-" if depth == deep else "--"}
    axes[0].plot(step[every - 1 :: every], losses, label=name, **look)
    axes[1].plot(step[every - 1 :: every], accuracies, **look)
    axes[2].plot(step, norms_now, **look)
    final[depth, skip] = losses[-1], accuracies[-1]
axes[0].set(title="Training loss", xlabel="step", ylabel="mean cross-entropy")
axes[1].set(title="Held-out digits", xlabel="step", ylabel="read rightly, in %")
axes[2].set(title="First layer", xlabel="step", ylabel="norm of the gradient", yscale="log")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3.2)
demo.save(figure, "training")

# %%
# After a few dozen steps, depth has paid where there are skips, and only there.

demo.record(final_loss={f"{d} {'with' if s else 'without'}": loss for (d, s), (loss, _) in final.items()})
demo.record(held_out={f"{d} {'with' if s else 'without'}": right for (d, s), (_, right) in final.items()})
better = final[deep, True][0] / final[shallow, True][0]
worse = final[deep, False][0] / final[shallow, False][0]
demo.check(f"training loss of {deep} layers over that of {shallow}, with skips", better, at_most=0.8)
demo.check(f"training loss of {deep} layers over that of {shallow}, without skips", worse, at_least=1.1)
