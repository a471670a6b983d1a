"""Weights and metrics on disk: npz, safetensors and JSON, each file replaced in one step, never pickled.

Weights are read from ONNX files, too; `nnkernels.onnx` writes those.

A state is a dict of names and NumPy arrays, as `Module.state_dict` returns it and `load_state_dict` takes it:

>>> import tempfile
>>> from pathlib import Path
>>> path = Path(tempfile.mkdtemp()) / "weights.npz"
>>> save(path, {"fc.bias": np.float32([1, 2])})
>>> load(path)
{'fc.bias': array([1., 2.], dtype=float32)}

Files are not trusted: what a file declares is compared with its real size before memory is taken for it, and
one that is cut short, damaged or of another format gives one ValueError that names it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkernels.io.json_file import write_json
from nnkernels.io.npz import load_npz, save_npz
from nnkernels.io.onnx import load_onnx
from nnkernels.io.safetensors import load_safetensors, save_safetensors
from nnkernels.io.tree import load_tree, save_tree

__all__ = [
    "load", "load_npz", "load_onnx", "load_safetensors", "load_tree", "save", "save_npz", "save_safetensors",
    "save_tree", "write_json",
]  # fmt: skip

Save = Callable[[Path, Mapping[str, NDArray[Any] | np.generic]], None]
Load = Callable[[Path], dict[str, NDArray[Any]]]

_SAVE: dict[str, Save] = {".npz": save_npz, ".safetensors": save_safetensors}
_LOAD: dict[str, Load] = {".npz": load_npz, ".safetensors": load_safetensors, ".onnx": load_onnx}


def save(path: str | os.PathLike[str], state: Mapping[str, NDArray[Any] | np.generic]) -> None:
    """Write named arrays by `save_npz` or `save_safetensors`, as the ending of `path` says.

    Raises ValueError for another ending, and what those two raise.
    """
    _by_ending(_SAVE, Path(path))(Path(path), state)


def load(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read named arrays by `load_npz`, `load_safetensors` or `load_onnx`, as the ending of `path` says.

    Raises ValueError for another ending, and what those raise.
    """
    state: dict[str, NDArray[Any]] = _by_ending(_LOAD, Path(path))(Path(path))
    return state


def _by_ending(formats: Mapping[str, Any], path: Path) -> Any:
    try:
        return formats[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path}: wanted a name that ends in {' or '.join(formats)}") from None
