"""The weights in an ONNX file: its graph's initializers, read without the package onnx.

The file is one message of Protocol Buffers: fields, each a key (its number and its kind of value) and a
value, which may be a message again. All but the few fields named below is passed over, unread, so what else
a file holds takes no memory. Everything a message declares must lie within the message around it.
"""

import os
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkernels.io.arrays import checked_name, plain_array, read_array
from nnkernels.io.files import damaged

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of values
GRAPH, OPSET = 7, 8  # fields of a model
INITIALIZER, SPARSE_INITIALIZER = 5, 15  # of a graph
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14  # of a tensor
NUMBERS_APART = (4, 5, 7, 10, 11)  # fields of a tensor for numbers that are not raw bytes

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
    12: np.dtype("<u4"), 13: np.dtype("<u8"), 14: np.dtype("<c8"), 15: np.dtype("<c16"),
    16: np.dtype("<u2"),  # bfloat16, made float32 below
}  # fmt: skip
BFLOAT16 = 16
LONGEST_NAME = 2**16  # bytes
MOST_AXES = 64  # NumPy's

Field = tuple[
    int, int, int, int
]  # number, kind, where its value begins, and its length; a varint's value last


def load_onnx(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read the weights of an ONNX file, in the order stored: C-ordered, native, writable.

    These are the initializers of the graph, with their numbers as raw bytes, as `nnkernels.onnx.export` and
    PyTorch write them. Other constants of the network are not read. bfloat16 becomes float32. The format has
    no checksum: a bit flipped in a number passes unseen.

    Raises FileNotFoundError, and ValueError naming the file and what was found where it is cut short,
    damaged, of another format, or holds weights in other files, in other forms or types, or names `save_npz`
    refuses.
    """
    path = Path(path)
    state: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        place = ""
        try:
            for start, length in _initializers(file, size):
                place = f" at byte {start}"
                name, array = _read_tensor(file, start, length)
                if name in state:
                    raise ValueError(f"two initializers {name!r}")
                state[checked_name(name)] = plain_array(name, array)
        except MemoryError:  # the array is as large as the file says
            raise
        except Exception as error:
            raise damaged(path, size, place, error) from error
    return state


def _initializers(file: BufferedIOBase, size: int) -> Iterator[tuple[int, int]]:
    """Yield where each initializer begins, and its length; all other fields must be whole, too."""
    graphs, opsets = [], 0
    for number, kind, start, length in _fields(file, 0, size):
        if number == GRAPH and kind == BYTES:
            graphs.append((start, length))
        opsets += number == OPSET and kind == BYTES
    # The opset comes after the graph: where it is missing, the end of the file is.
    if len(graphs) != 1 or not opsets:
        raise ValueError(f"{len(graphs)} graphs and {opsets} opsets, wanted a complete ONNX model")
    found = []
    for number, kind, start, length in _fields(file, *graphs[0]):
        if number == SPARSE_INITIALIZER:
            raise ValueError("it holds sparse initializers, which are not read")
        if number == INITIALIZER and kind == BYTES:
            found.append((start, length))
    yield from found


def _fields(file: BufferedIOBase, start: int, length: int) -> Iterator[Field]:
    """Yield the fields of the message that begins at ``start``; one that does not fit is an error."""
    end = start + length
    while start < end:
        file.seek(start)
        key, start = _varint(file, start)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, after = _varint(file, start)
        elif kind in (FIXED64, FIXED32):
            value = 8 if kind == FIXED64 else 4
            after = start + value
        elif kind == BYTES:
            value, start = _varint(file, start)
            after = start + value
        else:
            raise ValueError(f"a value of kind {kind} at byte {start}, which ONNX does not use")
        if after > end or not number:
            raise ValueError(f"a field {number} that ends at byte {after} of {end}")
        yield number, kind, start, value
        start = after


def _varint(file: BufferedIOBase, start: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for i in range(10):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << (7 * i)
        if byte[0] < 0x80:
            return value, start + i + 1
    raise ValueError(f"a number of more than 10 bytes at byte {start}")


def _read_tensor(file: BufferedIOBase, start: int, length: int) -> tuple[str, NDArray[Any]]:
    """Return the name and the numbers of a tensor."""
    shape: list[int] = []
    name, type_, data = "", 0, (0, 0)
    for number, kind, at, value in _fields(file, start, length):
        if number == NAME and kind == BYTES:
            if value > LONGEST_NAME:
                raise ValueError(f"a name of {value} bytes")
            file.seek(at)
            name = file.read(value).decode()
        elif number == DIMS and kind in (VARINT, BYTES):
            shape += [value] if kind == VARINT else _packed(file, at, value)
        elif number == DATA_TYPE and kind == VARINT:
            type_ = value
        elif number == RAW_DATA and kind == BYTES:
            data = at, value
        elif number == EXTERNAL_DATA or (number == DATA_LOCATION and value):
            raise ValueError(f"{name!r} lies in another file, and those are not opened")
        elif number in NUMBERS_APART:
            raise ValueError(f"{name!r} has its numbers in field {number}, wanted raw bytes")
        if len(shape) > MOST_AXES:
            raise ValueError(f"{name!r} has more than {MOST_AXES} axes")
    return name, _read_numbers(file, name, tuple(shape), type_, *data)


def _packed(file: BufferedIOBase, start: int, length: int) -> list[int]:
    """Return the numbers of a field that holds several, as far as they may be lengths of axes."""
    file.seek(start)
    end = start + length
    values: list[int] = []
    while start < end and len(values) <= MOST_AXES:
        value, start = _varint(file, start)
        values.append(value)
    return values


def _read_numbers(
    file: BufferedIOBase, name: str, shape: tuple[int, ...], type_: int, start: int, length: int
) -> NDArray[Any]:
    if type_ not in DTYPES:
        raise ValueError(f"{name!r} has type {type_}, which NumPy does not have")
    dtype, count = DTYPES[type_], 1
    for n in shape:
        count *= n
    if count * dtype.itemsize != length:
        raise ValueError(f"{name!r} has {length} bytes of data for an array {shape} of {dtype}")
    file.seek(start)
    array = read_array(file, shape, dtype)
    if type_ == BFLOAT16:
        return np.asarray(array.astype(np.uint32) << 16).view(np.float32)
    return array
