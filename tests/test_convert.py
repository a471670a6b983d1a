"""``nnkernels convert``: the same weights in another kind of file, or one line that says why not."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nnkernels import io
from nnkernels.__main__ import main
from nnkernels.nn.models import LeNet5

pytestmark = pytest.mark.skipif(
    find_spec("safetensors") is None, reason='comes with an extra: pip install "nnkernels[safetensors]"'
)

STATE = {
    "conv.weight": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
    "norm.num_batches_tracked": np.array(7),
    "mask": np.array([True, False]),
}
LINES = ["conv.weight               2x3x2   float32", "norm.num_batches_tracked  scalar  int64"]
LINES += ["mask                      2       bool", "3 arrays, 15 numbers, 58 bytes"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    io.save("w.npz", STATE)
    return tmp_path


def assert_same(path, expected):
    found = io.load(path)
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def refused(capsys, *arguments):
    """Run the command, demand one line of error, and return what it says."""
    assert main(["convert", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("nnkernels: error: argument ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_there_and_back(folder, capsys):
    assert main(["convert", "w.npz"]) == 0
    size = Path("w.safetensors").stat().st_size
    assert capsys.readouterr().out.splitlines() == [*LINES, f"wrote w.safetensors ({size:,} bytes)"]
    assert_same("w.safetensors", STATE)
    assert main(["convert", "w.safetensors", "deeper/back.npz"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert sorted(out[:4]) == sorted(LINES)
    assert out[4].startswith("wrote deeper/back.npz")
    assert_same("deeper/back.npz", STATE)


def test_in_a_process_of_its_own(folder):
    command = [sys.executable, "-W", "error", "-m", "nnkernels", "convert", "w.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same("w.safetensors", STATE)


def test_an_existing_file_is_replaced_only_by_force(folder, capsys):
    Path("w.safetensors").write_bytes(b"precious")
    assert "OUT: w.safetensors exists; --force replaces it" in refused(capsys, "w.npz")
    assert "OUT: w.npz exists" in refused(capsys, "w.npz", "w.npz")
    assert Path("w.safetensors").read_bytes() == b"precious"
    assert main(["convert", "w.npz", "--force"]) == 0
    assert_same("w.safetensors", STATE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("absent.npz", "FILE: absent.npz: No such file or directory"),
        ("w.pt", "FILE: w.pt must end in .npz or .safetensors"),
        ("w.npz w.pt", "OUT: w.pt must end in .npz or .safetensors"),
        ("folder.npz", "FILE: folder.npz: Is a directory"),
        ("w.npz folder.safetensors --force", "OUT: folder.safetensors is a directory"),
        ("w.npz w.npz/w.safetensors", "OUT: w.npz is a file, wanted a directory"),
        ("damaged.npz", "FILE: damaged.npz: 5 bytes beginning b'hell'"),
        ("damaged.safetensors", "FILE: damaged.safetensors: 5 bytes, damaged or foreign"),
        ("complex.npz", "OUT: state['w'] has dtype complex128, which safetensors does not have"),
        ("reserved.npz", "OUT: state has the key '__metadata__', which safetensors keeps for itself"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(folder, capsys, arguments, words):
    for name in ("folder.npz", "folder.safetensors"):
        Path(name).mkdir()
    for name in ("damaged.npz", "damaged.safetensors"):
        Path(name).write_bytes(b"hello")
    io.save("complex.npz", {"w": np.array([1j])})
    io.save("reserved.npz", {"__metadata__": np.ones(1)})
    before = sorted(folder.rglob("*"))
    assert words in refused(capsys, *arguments.split())
    assert sorted(folder.rglob("*")) == before


def test_a_missing_package_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert 'pip install "nnkernels[safetensors]"' in refused(capsys, "w.npz")


def test_a_long_table_is_cut_in_the_middle(folder, capsys):
    io.save("many.npz", {f"layer.{i}": np.zeros(i) for i in range(100)})
    assert main(["convert", "many.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 43
    assert lines[34].startswith("layer.34 ")
    assert lines[35] == "... 60 more ..."
    assert lines[36].startswith("layer.95 ")
    assert lines[41] == "100 arrays, 4,950 numbers, 39,600 bytes"


def test_what_the_readme_says_runs(folder, capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Weights.*?(?=^## )", readme, re.M | re.S)[0]
    (command,) = re.findall(r"^    nnkernels (convert .*)$", section, re.M)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    model = LeNet5(rng=1)
    Path("runs/lenet").mkdir(parents=True)
    io.save("runs/lenet/weights.npz", model.state_dict())  # as `nnkernels train lenet` leaves them
    assert main(command.split()) == 0
    space = {}
    exec(compile(code, "README.md", "exec"), space)
    for name, array in space["model"].state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])
