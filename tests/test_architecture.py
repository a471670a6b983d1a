"""Imports point one way: machine <- ops <- autograd <- nn <- optim, train; nothing of ours under data, io."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nnkernels"

ALLOWED = {
    "machine": {"machine"},
    "ops": {"machine", "ops"},
    "autograd": {"machine", "ops", "autograd"},
    "nn": {"machine", "ops", "autograd", "nn"},
    "optim": {"machine", "ops", "autograd", "nn", "optim"},
    "io": {"io"},
    "onnx": {"machine", "ops", "autograd", "nn", "io", "onnx"},
    "data": {"io", "data"},
    "plot": {"plot"},
    "checkpoints": {"machine", "nn", "optim", "io", "data"},
    "progress": set(),
    "train": {"machine", "autograd", "nn", "optim", "data", "checkpoints", "progress"},
    "parallel": {"machine", "autograd", "nn", "optim", "data", "parallel"},
    "visualize": {"machine", "ops", "autograd", "nn", "train", "visualize"},
}
TOP = {"__init__", "__main__", "commands", "cuda", "demo"}  # may import anything
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """Yield the rooms of nnkernels that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "nnkernels":
                yield rest.partition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    room = room_of(path)
    if room in TOP:
        return
    wrong = set(imported_rooms(path)) - ALLOWED[room]
    assert not wrong, f"{path.name} in {room} imports {wrong}"


def test_only_one_file_may_touch_the_gpu_library():
    users = {p.name for p in FILES if "numba.cuda" in p.read_text(encoding="utf-8").replace('"""', "")}
    importers = {
        p.name
        for p in FILES
        if p.name in users
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("numba.cuda"))
        or (isinstance(node, ast.Import) and any(a.name.startswith("numba.cuda") for a in node.names))
    }
    assert importers <= {"gpu.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_rooms_stay_small(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 500, f"{path.name} has {lines} lines: move the wall"
