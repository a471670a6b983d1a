"""
Over-training and early stopping
================================

A network with more weights than samples can learn every sample by heart, wrong labels included. The loss on
the training part goes on falling while the loss on other samples rises: the network is over-trained.

The training part cannot show this. So a validation part is kept aside: after each epoch the network is judged
on it, but it is never trained on it. Early stopping ends the training when the validation loss has not fallen
for some epochs, the patience, and restores the weights of the best epoch. That choice has looked at the
validation part, so a third one, the test part, has to tell how good the network is.
"""

import numpy as np

from nnkernels import data, nn, optim, plot, train
from nnkernels.demo import Demo

demo = Demo("Past its lowest point the validation loss rises; early stopping restores the best epoch")

# %%
# A few digits, some with wrong labels
# ------------------------------------
# Of 1797 real digits of 8 x 8 pixels, 200 are for training, 800 for validation and 797 for the test. For a
# fifth of the training digits the label is drawn at random. The network has 19 210 weights.

digits = data.digits_8x8(demo.rng, held_out=1597)
x, y = digits.x_train, digits.y_train.copy()
wrong = demo.rng.choice(len(y), size=40, replace=False)
y[wrong] = demo.rng.integers(0, 10, size=40)
validation = digits.x_test[:800], digits.y_test[:800]
test = digits.x_test[800:], digits.y_test[800:]

seed = int(demo.rng.integers(2**32))
epochs = 120 if demo.quick else 200


def trained(patience):
    """Return the trained network and its history; every call starts from the same weights."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256, rng=rng), nn.ReLU(), nn.Linear(256, 10, rng=rng))
    options = {"optimizer": optim.Adam(model.parameters(), lr=0.003), "batch_size": 32, "rng": rng}
    return model, train.fit(model, (x, y), validation, epochs=epochs, patience=patience, **options)


# %%
# To the end
# ----------
# Without patience, all epochs are done.

to_the_end, history = trained(patience=None)

# %%
# With patience
# -------------
# The same run, stopped after 15 epochs without a new lowest validation loss. The other run went on learning
# the training part.

stopped, short = trained(patience=15)
best = short["best_epoch"][0]
demo.record(best_epoch=best, stopped_after_epoch=len(short["val_loss"]), all_epochs=epochs)

demo.check("epochs done after the best one", len(short["val_loss"]) - best, at_most=15)

restored = train.evaluate(stopped, *validation).loss
gap = abs(restored - min(short["val_loss"]))
demo.check("validation loss of the restored weights less the lowest in the history", gap, at_most=1e-6)

fall = history["train_loss"][-1] / history["train_loss"][best - 1]
demo.check("training loss at the end over that of the best epoch", fall, at_most=0.5)

# %%
# What it is worth
# ----------------
# The test part has had no say in anything so far.

scores = {"stopped": train.evaluate(stopped, *test), "to the end": train.evaluate(to_the_end, *test)}
demo.record(test_accuracy={name: score.accuracy for name, score in scores.items()})

figure = plot.learning_curves({**history, "best_epoch": best})
figure.set_size_inches(7.4, 3.8)
figure.suptitle("The training loss falls on, the validation loss does not")
for panel in figure.axes:
    panel.axvline(len(short["val_loss"]), color=plot.COLOURS[2], linestyle="--", label="stopped here")
    panel.set_xticks(range(epochs // 4, epochs + 1, epochs // 4))
    panel.get_legend().remove()
figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
demo.save(figure, "learning_curves")

rise = history["val_loss"][-1] / restored
demo.check("validation loss at the end over that of the restored weights", rise, at_least=1.2)
