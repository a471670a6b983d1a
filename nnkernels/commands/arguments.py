"""What several commands share: types of arguments, and checks that give one line instead of a traceback."""

import argparse
import math
import os
from pathlib import Path

from nnkernels.commands import CommandError
from nnkernels.machine.gpu import current_device
from nnkernels.machine.threads import set_num_threads


def positive_int(text: str) -> int:
    """Read an int of at least 1."""
    return _int_from(text, 1)


def seed(text: str) -> int:
    """Read an int of at least 0."""
    return _int_from(text, 0)


def _int_from(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def learning_rate(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text}")
    return value


def use_threads(n: int | None) -> None:
    """Let kernels use ``n`` threads; None leaves the number as it is."""
    if n is not None:
        try:
            set_num_threads(n)
        except ValueError as error:
            raise CommandError(f"argument --threads: {str(error).removeprefix('n ')}") from error


def use_device(device: str) -> None:
    """Demand that ``device``, "cpu" or "cuda", is there."""
    if device == "cuda":
        try:
            current_device()
        except RuntimeError as error:
            raise CommandError(f"argument --device: {error}") from error


def writable_directory(directory: Path, argument: str) -> Path:
    """Make ``directory`` where it is missing: known before the work, not after it, to be writable."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise CommandError(f"argument {argument}: {directory} is a file, wanted a directory") from None
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"argument {argument}: cannot make directory {directory}: {reason}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise CommandError(f"argument {argument}: cannot write into {directory}: Permission denied")
    return directory


def writable_png(path: Path, argument: str) -> Path:
    """Demand a name that ends in .png in a directory that can be written into."""
    if path.suffix.lower() != ".png":
        raise CommandError(f"argument {argument}: {path} must end in .png")
    if path.is_dir():
        raise CommandError(f"argument {argument}: {path} is a directory, wanted a file")
    writable_directory(path.parent, argument)
    return path
