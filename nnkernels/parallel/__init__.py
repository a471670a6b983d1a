"""Data-parallel training: every rank computes the gradient of its share of each batch, MPI averages them.

    ranks = parallel.init()
    model = LeNet5(rng=0)
    parallel.broadcast_parameters(model)
    optimizer = parallel.DistributedOptimizer(optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    for x, y in parallel.shard(Batches(x_train, y_train, 32, shuffle=True)):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(samples=len(x))
    if ranks.rank == 0:
        io.save(model.state_dict(), "weights.npz")

    mpiexec -n 2 python -m mpi4py script.py

Two ranks with batches of 32 take the steps of one with batches of 64, but for the order in which numbers are
summed. Two things are each rank's own: batch normalisation sees that rank's examples only, and random layers
draw from that rank's generator (give each rank its own seed, as ``rng=seed + parallel.rank()``).

Needs mpi4py and an MPI library (``pip install "nnkernels[mpi]" mpich``); one process needs neither.
"""

from nnkernels.parallel.optimizer import DistributedOptimizer, broadcast_parameters
from nnkernels.parallel.ranks import Ranks
from nnkernels.parallel.sharding import Shard, shard
from nnkernels.parallel.start import init, rank, size

__all__ = ["DistributedOptimizer", "Ranks", "Shard", "broadcast_parameters", "init", "rank", "shard", "size"]
