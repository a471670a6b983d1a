"""Weights and metrics on disk: npz archives and JSON, each replaced in one step, never pickled."""

from __future__ import annotations

import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_npz", "save_npz", "write_json"]


def save_npz(path: str | os.PathLike[str], state: Mapping[str, NDArray[Any] | np.generic]) -> None:
    """Write named arrays to exactly `path`; `numpy.load` reads the file too.

    state: name -> array of booleans or numbers, any shape, memory order and byte order; it is
    stored C-ordered in this machine's byte order. Equal states give equal bytes. A reader sees the
    old file or the new one, never half of one.

    Raises TypeError (state no mapping, name no str, value no array, dtype such as object) and
    ValueError (a name that is empty or holds a backslash or unprintable characters).
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state is {type(state).__name__}, wanted a dict of name -> numpy array")
    arrays = {_checked_name(name): _plain_array(name, value) for name, value in state.items()}
    with _replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # Opened by name, a member carries a fixed date: that is what keeps the bytes equal.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read every array of an npz file, in the order stored: C-ordered, native byte order, writable.

    Raises FileNotFoundError, and ValueError naming the file and what was found where it is cut
    short, damaged, of another format, or holds pickled objects.
    """
    path = Path(path)
    state: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not zipfile.is_zipfile(file):
            file.seek(0)
            raise ValueError(
                f"{path}: {size} bytes beginning {file.read(4)!r}, "
                "wanted a complete npz archive: it is cut short or of another format"
            )
        member = "the list of members"
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                # zipfile passes over a mangled list's last entries without a word, so count them.
                file.seek(size - 12 - len(archive.comment))
                if (count := int.from_bytes(file.read(2), "little")) != len(members) & 0xFFFF:
                    raise ValueError(f"{len(members)} legible entries of {count}")
                for info in members:
                    member = info.filename
                    name = member.removesuffix(".npy")
                    if name == member or name in state:
                        raise ValueError("wanted one NAME.npy per array")
                    state[name] = _plain_array(name, _read_member(archive, info))
        except Exception as error:  # damage surfaces as anything, tokenize.TokenError included
            raise ValueError(f"{path}: {size} bytes, damaged or foreign at {member!r}: {error}") from error
    return state


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write `obj` to `path` as JSON, indented, replaced in one step.

    Takes dicts with str keys, lists, tuples, str, bool, int, float, None, numpy scalars and arrays.
    NaN and infinities, which JSON lacks, become null: the numbers of a run that diverged are still
    worth keeping. Raises TypeError naming the place of anything else.
    """
    text = json.dumps(_jsonable(obj, "obj"), indent=2, allow_nan=False) + "\n"
    with _replacing(Path(path)) as file:
        file.write(text.encode())


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file opened beside `path` that takes its place when the block ends without an error."""
    # Same directory, hence same file system, so the replacement is atomic. Opened plainly rather
    # than by tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"state has the key {name!r} of {type(name).__name__}, wanted str")
    if not name or not name.isprintable() or "\\" in name:
        raise ValueError(f"state has the key {name!r}, wanted printable characters without backslash")
    return name


def _plain_array(name: str, value: object) -> NDArray[Any]:
    """`value` as a C-ordered array of native numbers; shape kept (also of 0-d arrays)."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"state[{name!r}] is {type(value).__name__}, wanted a numpy array")
    if value.dtype.kind not in "biufc":
        raise TypeError(f"state[{name!r}] has dtype {value.dtype}, wanted booleans or numbers")
    return np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # reading on to the end also makes zipfile compare the checksum
            raise ValueError(f"{info.file_size} bytes, more than its array {array.shape} of {array.dtype}")
    return array


def _jsonable(obj: object, place: str) -> object:
    """`obj` in JSON's own types; `place` names it in errors."""
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, np.bool_):
        return bool(obj)
    if isinstance(obj, np.integer):
        return int(obj)
    if isinstance(obj, float | np.floating):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, np.ndarray):
        return _jsonable(obj.tolist(), place)
    if isinstance(obj, list | tuple):
        return [_jsonable(item, f"{place}[{i}]") for i, item in enumerate(obj)]
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r} of {type(key).__name__}, wanted str")
        return {key: _jsonable(item, f"{place}[{key!r}]") for key, item in obj.items()}
    raise TypeError(f"{place} is {type(obj).__name__}, wanted numbers, text, lists or dicts")
