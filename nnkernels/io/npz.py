"""npz, NumPy's own format: a zip archive with one NAME.npy per array."""

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from nnkernels.io.arrays import checked_name, plain_array, plain_state, read_array
from nnkernels.io.files import damaged, replacing

# Deflate packs zeros to a thousandth, weights hardly at all. Arrays larger than SMALL bytes together and
# than so many times their file are taken for an attempt to exhaust memory.
SMALL = 16 * 2**20
LARGEST_RATIO = 100
LONGEST_HEADER = 2**16 - 1  # bytes: more than the header of any array of numbers


def save_npz(path: str | os.PathLike[str], state: Mapping[str, NDArray[Any] | np.generic]) -> None:
    """Write named arrays to exactly `path`; `numpy.load` reads the file too.

    state: name -> array of booleans or numbers, any shape, memory order and byte order; it is
    stored C-ordered in this machine's byte order. Equal states give equal bytes. A reader sees the
    old file or the new one, never half of one.

    Raises TypeError (state no mapping, name no str, value no array, dtype such as object) and
    ValueError (a name that is empty, holds a backslash or unprintable characters, or is an absolute
    path or one with '..').
    """
    arrays = plain_state(state)
    with replacing(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            # Opened by name, a member carries a fixed date: that is what keeps the bytes equal.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read every array of an npz file, in the order stored: C-ordered, native byte order, writable.

    Compressed files (`numpy.savez_compressed`) are read too, unless they expand to more than 16 MiB
    and more than a hundred times their own size.

    Raises FileNotFoundError, and ValueError naming the file and what was found where it is cut
    short, damaged, of another format, or holds pickled objects or names `save_npz` refuses.
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
        place = "the list of members"
        try:
            with zipfile.ZipFile(file) as archive:
                for info in _checked_members(archive, file, size):
                    place = info.orig_filename  # `filename` ends at a NUL
                    name = place.removesuffix(".npy")
                    if name == place or name in state:
                        raise ValueError("wanted one NAME.npy per array")
                    state[checked_name(name)] = plain_array(name, _read_member(archive, info))
        except MemoryError:  # the array is as large as the file says
            raise
        except Exception as error:  # damage surfaces as anything, tokenize.TokenError included
            raise damaged(path, size, f" at {place!r}", error) from error
    return state


def _checked_members(archive: zipfile.ZipFile, file: IO[bytes], size: int) -> list[zipfile.ZipInfo]:
    """The archive's members, once their number and their sizes have been held against the file's `size`."""
    members = archive.infolist()
    # zipfile passes over a mangled list's last entries without a word, so count them.
    file.seek(size - 12 - len(archive.comment))
    if (count := int.from_bytes(file.read(2), "little")) != len(members) & 0xFFFF:
        raise ValueError(f"{len(members)} legible entries of {count}")
    for info in members:
        # zipfile unpacks bzip2 and LZMA without a bound on what comes out; numpy writes neither.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.orig_filename!r} is packed by method {info.compress_type}, not deflate")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise ValueError(f"{info.orig_filename!r} is stored, but declares two sizes")
    packed, unpacked = sum(info.compress_size for info in members), sum(info.file_size for info in members)
    if packed > size:
        raise ValueError(f"members declare {packed} bytes in the file")
    if unpacked > max(SMALL, LARGEST_RATIO * size):
        raise ValueError(f"members expand to {unpacked} bytes, more than {LARGEST_RATIO} times the file's")
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as opened:
        member = cast(zipfile.ZipExtFile, opened)
        shape, is_fortran, dtype = _read_header(member)
        if dtype.hasobject:
            raise ValueError("it holds pickled Python objects, which are never loaded (numpy's allow_pickle)")
        size = info.file_size - member.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{size} bytes of data for an array {shape} of {dtype}")
        array = read_array(member, shape, dtype, "F" if is_fortran else "C")
        member.read(1)  # reading on to the end makes zipfile compare the checksum
    return array


def _read_header(member: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype, from the head of an npy file."""
    start = member.peek(12)
    version = np.lib.format.read_magic(member)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(member)
        if version == (2, 0) and int.from_bytes(start[8:12], "little") <= LONGEST_HEADER:
            return np.lib.format.read_array_header_2_0(member)
    except (MemoryError, RecursionError) as error:  # Python's parser, of brackets upon brackets
        raise ValueError("the array's header is nested too deep") from error
    raise ValueError(f"npy version {version}, wanted (1, 0), or (2, 0) with a short header")
