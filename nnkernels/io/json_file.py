"""JSON of numbers as runs and benchmarks have them."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnkernels.io.files import replacing


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write `obj` to `path` as JSON, indented, replaced in one step.

    Takes dicts with str keys, lists, tuples, str, bool, int, float, None, numpy scalars and arrays.
    NaN and infinities, which JSON lacks, become null: the numbers of a run that diverged are still
    worth keeping. Raises TypeError naming the place of anything else.
    """
    text = json.dumps(_jsonable(obj, "obj"), indent=2, allow_nan=False) + "\n"
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(text.encode())


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
