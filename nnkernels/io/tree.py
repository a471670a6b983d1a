"""Trees of dicts, lists, numbers, text and arrays in one npz file with a checksum: the state of a run.

The arrays are members `0.npy`, `1.npy`, ...; the member `tree` is JSON that refers to them by name, the
member `checksum` the SHA-256 of all others. JSON's types but for objects stand for themselves; an object has
one key: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"array": name} or {"scalar": name}.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkernels.io.arrays import plain_array
from nnkernels.io.files import damaged
from nnkernels.io.npz import load_npz, save_npz

TREE, CHECKSUM = "tree", "checksum"
DEEPEST = 100  # lists within lists: far from what Python's stack bears

Arrays = dict[str, NDArray[Any]]


def save_tree(path: str | os.PathLike[str], tree: object) -> None:
    """Write a tree to exactly `path`, replaced in one step and on the disk when this returns.

    tree: nested dicts with str or int keys, lists and tuples; in them None, bool, int, float (NaN and
    infinities included), str, and NumPy arrays and scalars of booleans or numbers. Never pickled.

    Raises TypeError naming the place of anything else, ValueError where it is nested more than 100 deep.
    """
    arrays: Arrays = {}
    text = json.dumps(_encoded(tree, "tree", arrays, DEEPEST))
    arrays[TREE] = np.frombuffer(text.encode(), np.uint8)
    save_npz(path, {**arrays, CHECKSUM: _checksum(arrays)})


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what `save_tree` has written: equal values of equal types, arrays writable.

    Raises FileNotFoundError, and ValueError naming the file and what was found where it is cut short,
    damaged, of another format or, by its checksum, not what was written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> save_tree(path, {"lr": 0.1, "betas": (0.9, 0.999), 7: [np.zeros(2), None]})
    >>> load_tree(path)
    {'lr': 0.1, 'betas': (0.9, 0.999), 7: [array([0., 0.]), None]}
    """
    path = Path(path)
    arrays = load_npz(path)
    try:
        checksum = arrays.pop(CHECKSUM, None)
        if checksum is None or TREE not in arrays:
            raise ValueError(f"no members {TREE!r} and {CHECKSUM!r}: not written by save_tree")
        if not np.array_equal(checksum, _checksum(arrays)):
            raise ValueError("its checksum does not fit what it holds")
        tree = _decoded(json.loads(arrays.pop(TREE).tobytes()), arrays, DEEPEST)
        if arrays:
            raise ValueError(f"nothing refers to the array {min(arrays)!r}")
    except MemoryError:
        raise
    except Exception as error:  # RecursionError included: a stranger's checksum may be right
        raise damaged(path, path.stat().st_size, "", error) from error
    return tree


def _checksum(arrays: Arrays) -> NDArray[np.uint8]:
    """The SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(memoryview(array.reshape(-1).view(np.uint8)))  # type: ignore[arg-type]
    return np.frombuffer(digest.digest(), np.uint8)


def _encoded(value: object, place: str, arrays: Arrays, depth: int) -> object:
    """`value` in JSON's types, its arrays added to `arrays`; `place` names it in errors."""
    if depth < 0:
        raise ValueError(f"{place:.60} ... is nested more than {DEEPEST} deep")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        name = str(len(arrays))
        arrays[name] = plain_array(place, value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        items = [_encoded(item, f"{place}[{i}]", arrays, depth - 1) for i, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{place} has the key {key!r} of {type(key).__name__}, wanted str or int")
        places = {key: f"{place}[{key!r}]" for key in value}
        return {"dict": [[key, _encoded(value[key], places[key], arrays, depth - 1)] for key in value]}
    raise TypeError(f"{place} is {type(value).__name__}, wanted dicts, lists, numbers, text or NumPy arrays")


def _decoded(value: Any, arrays: Arrays, depth: int) -> Any:
    """The value that `_encoded` has been given; its arrays are taken out of `arrays`."""
    if depth < 0:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if isinstance(value, list):
        return [_decoded(item, arrays, depth - 1) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tuple":
        return tuple(_decoded(item, arrays, depth - 1) for item in content)
    if kind == "dict":
        return {_key(key): _decoded(item, arrays, depth - 1) for key, item in content}
    if kind not in ("array", "scalar") or content not in arrays:
        raise ValueError(f"{kind} {content!r}, of which it holds nothing")
    array = arrays.pop(content)  # one place each
    return array if kind == "array" else array[()]


def _key(key: object) -> str | int:
    if isinstance(key, str) or type(key) is int:
        return key
    raise ValueError(f"the key {key!r}, wanted str or int")
