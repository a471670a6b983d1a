"""Named arrays on their way to a file and from it: what may be stored, and how it is read."""

import math
from collections.abc import Mapping
from io import BufferedIOBase
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NUMBERS = "biufc"  # the kinds of dtypes that files hold: booleans, integers, floating point, complex


def plain_state(state: object) -> dict[str, NDArray[Any]]:
    """`state` with names and values checked, each array C-ordered and native."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state is {type(state).__name__}, wanted a dict of name -> numpy array")
    return {checked_name(name): plain_array(name, value) for name, value in state.items()}


def checked_name(name: object) -> str:
    """A name that is legible and, unpacked by another program, no path to elsewhere."""
    if not isinstance(name, str):
        raise TypeError(f"state has the key {name!r} of {type(name).__name__}, wanted str")
    if not name or not name.isprintable() or "\\" in name:
        raise ValueError(f"state has the key {name!r}, wanted printable characters without backslash")
    if name.startswith("/") or name[1:3] == ":/" or ".." in name.split("/"):
        raise ValueError(f"state has the key {name!r}, wanted no absolute path and no '..'")
    return name


def plain_array(name: str, value: object) -> NDArray[Any]:
    """`value` as a C-ordered array of native numbers; shape kept (also of 0-d arrays)."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"state[{name!r}] is {type(value).__name__}, wanted a numpy array")
    if value.dtype.kind not in NUMBERS:
        raise TypeError(f"state[{name!r}] has dtype {value.dtype}, wanted booleans or numbers")
    return np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")


def read_array(
    file: BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"] = "C"
) -> NDArray[Any]:
    """The array whose elements come next in `file`; the caller has compared its size with the file's."""
    raw = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    rest = memoryview(raw)  # type: ignore[arg-type]
    while rest:
        # Piece by piece: members of a zip archive first read what is asked for into bytes of their own.
        if not (count := file.readinto(rest[: 2**20])):
            raise ValueError(f"{len(rest)} of {len(raw)} bytes of an array are missing")
        rest = rest[count:]
    # A boolean is 0 or 1 to NumPy, whose loops go wrong on a byte of another value.
    flat: NDArray[Any] = raw != 0 if dtype.kind == "b" else raw.view(dtype)
    return flat.reshape(shape, order=order)
