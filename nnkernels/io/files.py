"""Files that are replaced in one step, and what is said of those that cannot be read."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_REASON = 400  # characters: a hostile file shall not fill the screen


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, to be filled, that takes its place if the block ends without an error."""
    # Same directory, hence same file system, so the replacement is atomic. Opened plainly rather
    # than by tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # safetensors puts a file of its own there, which only the owner may read
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    """Bring a new name onto the disk; it comes there later where that cannot be asked for."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def damaged(path: Path, size: int, place: str, error: Exception) -> ValueError:
    """The one error for a file of `size` bytes that cannot be read, on one line of bounded length."""
    reason = "".join(c if c.isprintable() else " " for c in f"damaged or foreign{place}: {error}")
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]} ..."
    return ValueError(f"{path}: {size} bytes, {reason}")
