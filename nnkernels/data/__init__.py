"""Data sets that come with installed packages, readers for files the user owns, and mini-batches.

Nothing here downloads. Images leave as float32 in [0, 1], shape (N, C, H, W); labels as int64 (N,).
Wherever `rng` is taken, it is a `numpy.random.Generator`, an int seed, or None for seed 0.
"""

from nnkernels.data.batches import Batches, one_hot
from nnkernels.data.files import CIFAR10_NAMES, load, read_cifar10, read_idx, read_keras_npz
from nnkernels.data.karate import karate_club
from nnkernels.data.packaged import digits_8x8, mnist_5k
from nnkernels.data.splits import Split, balanced_split, train_validation_split

__all__ = [
    "CIFAR10_NAMES", "Batches", "Split", "balanced_split", "digits_8x8", "karate_club", "load", "mnist_5k",
    "one_hot", "read_cifar10", "read_idx", "read_keras_npz", "train_validation_split",
]  # fmt: skip
