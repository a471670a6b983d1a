"""safetensors: 8 bytes that give the length of a header, the header in JSON, the bytes of array after array.

Its package (the extra `safetensors`) writes files and checks headers. The bytes are read here, since the
package gives no NumPy array for bfloat16.
"""

import json
import os
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkernels.io.arrays import checked_name, plain_array, plain_state, read_array
from nnkernels.io.files import damaged, replacing

DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
METADATA = "__metadata__"  # the one key of a header that is no array's name


def save_safetensors(path: str | os.PathLike[str], state: Mapping[str, NDArray[Any] | np.generic]) -> None:
    """Write named arrays to exactly `path`, for any program that reads safetensors.

    state: as for `save_npz`, but without the types safetensors lacks (complex128, long double) and
    the name "__metadata__". Stored by size of type, then by name. Equal states give equal bytes. A reader
    sees the old file or the new one, never half of one.

    Raises ModuleNotFoundError without the extra `safetensors`, and TypeError and ValueError as `save_npz`.
    """
    package = _package()
    # The package writes memory as it lies: of a transposed array, the numbers in another order.
    arrays = plain_state(state)
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in DTYPES.values():
            raise TypeError(f"state[{name!r}] has dtype {array.dtype}, which safetensors does not have")
    if METADATA in arrays:
        raise ValueError(f"state has the key {METADATA!r}, which safetensors keeps for itself")
    with replacing(Path(path)) as temporary:
        package.numpy.save_file(arrays, temporary)


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read every array of a safetensors file, in the order of its header: C-ordered, native, writable.

    bfloat16 becomes float32, of which it is the upper half, so no number changes. The format has no checksum:
    a bit flipped in a number passes unseen, unlike in an npz file.

    Raises ModuleNotFoundError without the extra `safetensors`, FileNotFoundError, and ValueError naming the
    file and what was found where it is cut short, damaged, of another format, or holds float8 or names
    `save_safetensors` refuses.
    """
    package = _package()
    path = Path(path)
    state: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        place = ""
        try:
            package.safe_open(path, "numpy")  # compares shapes, types and offsets with each other and `size`
            file.seek(0)
            header = _read_header(file)
            start = file.tell()
            for name, entry in header.items():
                place = f" at {name!r}"
                file.seek(start + entry["data_offsets"][0])
                state[checked_name(name)] = plain_array(name, _read_entry(file, entry))
        except MemoryError:  # the array is as large as the file says
            raise
        except Exception as error:
            raise damaged(path, size, place, error) from error
    return state


def _package() -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'safetensors files need the package safetensors: pip install "nnkernels[safetensors]"',
            name="safetensors",
        ) from error
    return safetensors


def _read_header(file: BufferedIOBase) -> dict[str, Any]:
    """The entries of a header that the package has found well formed."""
    length = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
    header.pop(METADATA, None)
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("two entries of one name")
    return entries


def _read_entry(file: BufferedIOBase, entry: dict[str, Any]) -> NDArray[Any]:
    shape = tuple(entry["shape"])
    if entry["dtype"] == "BF16":
        halves = read_array(file, shape, DTYPES["U16"])
        return np.asarray(halves.astype(np.uint32) << 16).view(np.float32)
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype {entry['dtype']}, which NumPy does not have")
    return read_array(file, shape, DTYPES[entry["dtype"]])
