"""``nnkernels convert FILE``: weights from npz to safetensors and back."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels import io
from nnkernels.commands import CommandError
from nnkernels.commands.arguments import writable_directory

OTHER = {".npz": ".safetensors", ".safetensors": ".npz"}
MOST_ROWS = 40  # a longer table keeps its first and last rows


def add_parser(commands: Any) -> None:
    """Declare the command."""
    text = "weights from npz to safetensors and back"
    parser = commands.add_parser("convert", help=text, description=f"{text}; names and numbers stay the same")
    parser.add_argument("file", type=Path, metavar="FILE", help="a .npz or .safetensors file")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="OUT",
        help="the file to write, of the kind its ending says (default: FILE's name with the other ending)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT where it exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read FILE, print what it holds, write OUT."""
    file, out = arguments.file, arguments.out
    demand_ending(file, "FILE")
    if out is None:
        out = file.with_suffix(OTHER[file.suffix.lower()])
    demand_ending(out, "OUT")
    try:
        state = io.load(file)
    except OSError as error:
        raise CommandError(f"argument FILE: {file}: {error.strerror or error}") from error
    except (ValueError, ModuleNotFoundError) as error:
        raise CommandError(f"argument FILE: {error}") from error
    if out.is_dir():
        raise CommandError(f"argument OUT: {out} is a directory, wanted a file")
    if out.exists() and not arguments.force:
        raise CommandError(f"argument OUT: {out} exists; --force replaces it")
    writable_directory(out.parent, "OUT")
    try:
        io.save(out, state)
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise CommandError(f"argument OUT: {error}") from error
    print(table(state))
    print(f"wrote {out} ({out.stat().st_size:,} bytes)")


def demand_ending(path: Path, argument: str) -> None:
    """Demand a name that says its format."""
    if path.suffix.lower() not in OTHER:
        raise CommandError(f"argument {argument}: {path} must end in {' or '.join(OTHER)}")


def table(state: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return a line for each array with its name, shape and dtype, and one for all of them."""
    rows = [(name, "x".join(map(str, a.shape)) or "scalar", str(a.dtype)) for name, a in state.items()]
    if (more := len(rows) - MOST_ROWS) > 0:
        rows[MOST_ROWS - 5 : -5] = [(f"... {more:,} more ...", "", "")]
    wide, wider = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    lines = [f"{name:<{wide}}  {shape:<{wider}}  {dtype}".rstrip() for name, shape, dtype in rows]
    numbers = sum(math.prod(a.shape) for a in state.values())
    size = sum(a.nbytes for a in state.values())
    count = f"{len(state):,} array{'s' * (len(state) != 1)}"
    return "\n".join([*lines, f"{count}, {numbers:,} numbers, {size:,} bytes"])
