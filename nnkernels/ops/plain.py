"""The ops as plain Python: a second import of all rooms in which nothing is compiled.

For stepping through a kernel with a debugger, for timing what compilation is worth, and for planting faults.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

from nnkernels.machine import jit
from nnkernels.ops.op import Op

PACKAGE = "nnkernels.ops"
DECORATORS = (
    "inline", "inline_always", "inline_elementwise", "inline_tuned",
    "jit", "jit_elementwise", "jit_tuned", "jit_parallel",
)  # fmt: skip


@contextmanager
def uncompiled() -> Iterator[None]:
    """Make the compiling decorators return the Python function as it is."""
    saved = {name: getattr(jit, name) for name in DECORATORS}
    for name in DECORATORS:
        setattr(jit, name, lambda function: function)
    try:
        yield
    finally:
        for name, decorator in saved.items():
            setattr(jit, name, decorator)


def plain_ops(finder: MetaPathFinder | None = None) -> dict[str, Op]:
    """Return OPS of a second import of ``ops``, uncompiled; ``finder`` may supply the source of a module.

    All rooms at once, since a room may call kernels of its neighbours.
    """

    def ours() -> list[str]:
        return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]

    saved = {name: sys.modules.pop(name) for name in ours()}
    if finder is not None:
        sys.meta_path.insert(0, finder)
    try:
        with uncompiled():
            table: dict[str, Op] = importlib.import_module(PACKAGE).OPS
    finally:
        if finder is not None:
            sys.meta_path.remove(finder)
        for name in ours():
            del sys.modules[name]
        sys.modules.update(saved)
        sys.modules["nnkernels"].ops = saved[PACKAGE]  # type: ignore[attr-defined]  # the import had replaced it
    return table
