"""Readers for files the user owns: IDX, Keras npz, CIFAR-10 binary."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnkernels.data.checks import Array, Labels, PathLike, Rng
from nnkernels.data.splits import Split, balanced_split, scaled
from nnkernels.io import load_npz

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_RECORD = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


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
    return scaled(x, 255), y.reshape(-1).astype(np.int64)
