"""Run by test_checkpoints.py: a training whose checkpoints find no room, and what is left then.

    python tests/faults/no_room.py DIRECTORY limit|disk

With "limit" no file may grow beyond 20 kB from batch 29 on, as on a disk of which little is left. With "disk"
the directory is a small file system that comes to be full of checkpoints. Either way there must be one error,
the checkpoints of before must be there, and training must go on from them where there is room again.
"""

import json
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import training

from nnkernels.checkpoints import Checkpoints
from nnkernels.nn import functional as F

ENOUGH, TOO_LITTLE = resource.RLIM_INFINITY, 20_000  # bytes


def limiting(call):
    """Return a loss during whose call of this number, validation counted, the room ends."""
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == call:
            resource.setrlimit(resource.RLIMIT_FSIZE, (TOO_LITTLE, resource.RLIM_INFINITY))
        return F.cross_entropy(outputs, targets)

    return loss


def same(a, b):
    """Whether two results are equal bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def main(directory, kind):
    """Train until there is no room, make some, train on; print what was seen."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then it is an error to write on
    whole = training.run(epochs=3)
    try:
        if kind == "limit":
            training.run(directory, limiting(30), epochs=3)
        else:
            training.run(directory, epochs=3, keep=1000)
        sys.exit("there was room enough")
    except OSError as error:
        message, number = error.strerror, error.errno
    resource.setrlimit(resource.RLIMIT_FSIZE, (ENOUGH, ENOUGH))
    left = sorted(path.name for path in directory.iterdir())
    _, newest = Checkpoints(directory).newest()
    for name in left[:-2]:
        (directory / name).unlink()
    resumed = training.run(directory, epochs=3)
    print(json.dumps({
        "message": message, "errno": number, "left": left, "newest": newest.name, "same": same(whole, resumed)
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
