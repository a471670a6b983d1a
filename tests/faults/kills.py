"""Run by test_checkpoints.py: a training that is killed (SIGKILL) again and again, and resumed each time.

    python tests/faults/kills.py DIRECTORY KILLS SEED

Every attempt is a process of its own, forked before any kernel ran. A mark in shared memory says what it is
doing, so it is known where each kill hit. A tenth of the kills come while an attempt starts, four tenths at a
random time of training and saving. Half of them wait for a random one of the marks of saving, and up to 1 ms
more; as some of these are passed in microseconds, each attempt sleeps there: 2 ms before the rename, after it
and before files are deleted, 0.2 ms before each array is written; and, to give batches their share, 2 ms in
the loss.

Where a training ends in spite of it all, the next one begins. Prints as JSON how many kills hit where, how
many left half a file, and how many trainings were finished, each with the bytes of one left in peace.
"""

import json
import logging
import mmap
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import training
from numpy.lib import format as npy

from nnkernels import io
from nnkernels.checkpoints import Checkpoints
from nnkernels.io import files
from nnkernels.nn import functional as F

IN_BATCHES = ["forward", "loss", "backward and step"]
IN_SAVING = [
    "state", "writing", "half written", "before the rename", "after the rename", "reading back", "deleting",
]  # fmt: skip
MARKS = ["starting", *IN_BATCHES, *IN_SAVING]
SLOW = 0.002  # seconds


def marked(mark, name, function, slow=0.0):
    """Return the function, with a mark while it runs."""

    def call(*arguments, **options):
        before, mark[0] = mark[0], MARKS.index(name)
        time.sleep(slow)
        value = function(*arguments, **options)
        mark[0] = before or MARKS.index("forward")
        return value

    return call


def attempt(mark, directory, result):
    """Train to the end, leaving marks; the result is a file, of equal bytes for equal bits."""
    io.load_tree = marked(mark, "reading back", io.load_tree)
    files.os.replace = marked(mark, "before the rename", os.replace, slow=SLOW)
    files._sync_directory = marked(mark, "after the rename", files._sync_directory, slow=SLOW)
    npy.write_array = marked(mark, "half written", npy.write_array, slow=SLOW / 10)
    training.train.descend = marked(mark, "backward and step", training.train.descend)
    training.train.state_of = marked(mark, "state", training.train.state_of)
    save, Path.unlink = io.save_tree, marked(mark, "deleting", Path.unlink, slow=SLOW)
    io.save_tree = marked(mark, "writing", save)
    loss = marked(mark, "loss", F.cross_entropy, slow=SLOW)
    save(result, training.run(directory, loss, every=None if directory is None else 2))


def start(mark, directory, result):
    """Return the process id of a new attempt."""
    mark[0] = 0
    if (pid := os.fork()) == 0:
        status = 1
        try:
            attempt(mark, directory, result)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def kill(mark, rng, pid):
    """Kill an attempt at a random moment; return whether it was there to be killed."""
    alive, chance = True, rng.random()
    if chance < 0.1:  # before there is anything to train, or while kernels are loaded
        time.sleep(rng.uniform(0, 0.3))
    else:
        alive = wait_for(pid, lambda: mark[0] == MARKS.index("half written"))
        time.sleep(rng.uniform(0, 0.2 if chance < 0.5 else 0.02))
        if alive and chance > 0.5:
            aim = MARKS.index(rng.choice(IN_SAVING))
            alive = wait_for(pid, lambda: mark[0] == aim)
            time.sleep(rng.uniform(0, SLOW / 2))
    if alive:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        alive = os.WIFSIGNALED(status)
    return alive


def wait_for(pid, condition):
    """Wait until the condition holds, and return True; False when the process has ended."""
    while not condition():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
    return True


def main(root, count, seed):
    """Kill so many attempts; every training must end with the bytes of one that was left in peace."""
    logging.basicConfig(level=logging.WARNING)  # a damaged checkpoint would be seen on stderr
    rng, mark = random.Random(seed), mmap.mmap(-1, 1)
    os.waitpid(start(mark, None, root / "whole.npz"), 0)
    hits, leftovers, finished = dict.fromkeys(MARKS, 0), set(), 0
    while (killed := sum(hits.values())) < count or finished == 0 or (root / str(finished)).exists():
        directory, result = root / str(finished), root / f"{finished}.npz"
        pid = start(mark, directory, result)
        if killed < count and kill(mark, rng, pid):
            hits[MARKS[mark[0]]] += 1
            leftovers.update(directory.glob(".*.tmp"))
            Checkpoints(directory).newest()  # raises where none is intact
            continue
        if killed == count:
            os.waitpid(pid, 0)
        assert result.read_bytes() == (root / "whole.npz").read_bytes(), f"{result} is another result"
        assert not any(directory.glob(".*")), "something is left over"
        finished += 1
    print(json.dumps({"hits": hits, "leftovers": len(leftovers), "finished": finished}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
