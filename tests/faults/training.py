"""What the scripts beside this one train: a small network with all kinds of state, in under a second."""

import numpy as np

from nnkernels import nn, optim, train
from nnkernels.nn import functional as F

EPOCHS, BATCHES = 20, 20


def run(directory=None, loss=F.cross_entropy, **options):
    """Train with fresh objects, resuming if there is something to resume; return all that is learnt."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((320, 6)).astype(np.float32), rng.integers(0, 3, 320)
    shared = np.random.default_rng(1)
    model = nn.Sequential(
        nn.Linear(6, 32, rng=2), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3, rng=shared),
        nn.Linear(32, 32, rng=3), nn.Tanh(), nn.Dropout(0.2, rng=4), nn.Linear(32, 3, rng=5),
    )  # fmt: skip
    optimizer = optim.Adam(model.parameters(), lr=0.003)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    options = {"epochs": EPOCHS} | ({} if directory is None else {"every": 1}) | options
    history = train.fit(
        model, (x, y), (x[:50], y[:50]), optimizer=optimizer, schedule=schedule, loss=loss, rng=shared,
        batch_size=320 // BATCHES, checkpoint=directory, resume=directory is not None, **options,
    )  # fmt: skip
    del history["seconds"]
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
