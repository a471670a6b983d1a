"""Safetensors files: what the package, PyTorch and we make of each other's; and the file's ending decides."""

import json
import os
import re
import stat
import struct
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from nnkernels import io

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="comes with the extra safetensors")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is the oracle here")

STATE = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "features.0.bias": np.array([], dtype=np.float64),
    "bn.num_batches_tracked": np.array(7, dtype=np.int64),
    "mask": np.array([[True, False, True]]),
}


def assert_same(found, expected):
    """Demand the same names and, array for array, the same bits; a file has its own order of names."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def write(path, header, data=b""):
    """Write a file of the format by hand."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.fixture
def weights(tmp_path):
    io.save_safetensors(tmp_path / "w.safetensors", STATE)
    return tmp_path / "w.safetensors"


# --- there and back ---


def test_state_survives(weights):
    assert_same(io.load_safetensors(weights), STATE)
    assert_same(io.load_safetensors(str(weights)), STATE)


def test_the_package_reads_what_we_write_and_the_other_way_round(weights, tmp_path):
    assert_same(safetensors_numpy.load_file(weights), STATE)
    safetensors_numpy.save_file(STATE, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    assert_same(io.load_safetensors(tmp_path / "theirs.safetensors"), STATE)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0).reshape(3, 4)[::-1, ::2],
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=">i2")[::-2],
        np.broadcast_to(np.float32(3), (2, 2)),
        np.float32(1.5),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{array.strides}",
)
def test_values_survive_any_memory_order_and_byte_order(tmp_path, array):
    # The package writes memory as it lies: given array.T itself, it stores other numbers without a word.
    before = array.copy()
    io.save_safetensors(tmp_path / "a.safetensors", {"a": array})
    for loaded in (
        io.load_safetensors(tmp_path / "a.safetensors")["a"],
        safetensors_numpy.load_file(tmp_path / "a.safetensors")["a"],
    ):
        np.testing.assert_array_equal(loaded, before)
        np.testing.assert_array_equal(array, before)
        assert loaded.shape == array.shape
        assert loaded.dtype == array.dtype.newbyteorder("=")
    loaded = io.load_safetensors(tmp_path / "a.safetensors")["a"]
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable
    assert loaded.flags.aligned


def test_equal_states_give_equal_bytes(weights, tmp_path):
    backwards = {name: STATE[name].copy() for name in reversed(STATE)}
    io.save_safetensors(tmp_path / "b.safetensors", backwards)
    assert weights.read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_empty_state(tmp_path):
    io.save_safetensors(tmp_path / "a.safetensors", {})
    assert io.load_safetensors(tmp_path / "a.safetensors") == {}


def test_names_come_in_the_headers_order_and_metadata_is_passed_over(tmp_path):
    header = {
        "z": entry("F32", [1], 4, 8),
        "__metadata__": {"format": "pt"},
        "a": entry("U8", [4], 0, 4),
    }
    state = io.load_safetensors(
        write(tmp_path / "a.safetensors", header, struct.pack("<4Bf", 1, 2, 3, 4, 0.5))
    )
    assert list(state) == ["z", "a"]
    assert state["z"].tolist() == [0.5]
    assert state["a"].tolist() == [1, 2, 3, 4]


def test_a_boolean_of_any_byte_is_true_or_false(tmp_path):
    path = write(tmp_path / "a.safetensors", {"mask": entry("BOOL", [4], 0, 4)}, bytes([0, 1, 2, 255]))
    assert io.load_safetensors(path)["mask"].tobytes() == bytes([0, 1, 1, 1])


# --- numbers that NumPy has no type for ---


def test_every_bfloat16_becomes_the_float32_it_stands_for(tmp_path):
    bits = np.arange(2**16, dtype="<u2")
    header = {"w": entry("BF16", [256, 256], 0, 2**17)}
    widened = io.load_safetensors(write(tmp_path / "a.safetensors", header, bits.tobytes()))["w"]
    assert (widened.dtype, widened.shape) == (np.float32, (256, 256))
    assert widened.flags.writeable
    np.testing.assert_array_equal(widened.view(np.uint32).ravel(), np.arange(2**16) * 2**16)
    # 1 sign, 8 bits of exponent, 7 of fraction: 0x4049 is 2 (1 + 73/128)
    assert widened[0x40, 0x49] == 3.140625
    scalar = write(tmp_path / "b.safetensors", {"w": entry("BF16", [], 0, 2)}, b"\x49\x40")
    assert io.load_safetensors(scalar)["w"].shape == ()


def test_float16_stays_float16(tmp_path):
    numbers = np.array([0.1, -np.inf, 6e-8], np.float16)
    path = write(tmp_path / "a.safetensors", {"w": entry("F16", [3], 0, 6)}, numbers.tobytes())
    assert_same(io.load_safetensors(path), {"w": numbers})


def test_float8_is_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", {"w": entry("F8_E4M3", [2], 0, 2)}, b"12")
    with pytest.raises(ValueError, match=r"a\.safetensors: \d+ bytes.* at 'w': dtype F8_E4M3"):
        io.load_safetensors(path)


@needs_torch
def test_torch_reads_ours_and_we_read_torchs(weights, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    assert_same({name: tensor.numpy() for name, tensor in load_file(weights).items()}, STATE)
    numbers = torch.randn(5, 3)
    tensors = {"w": numbers, "half": numbers.half(), "brain": numbers.bfloat16(), "n": torch.tensor(3)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    expected = {name: t.float().numpy() for name, t in tensors.items()}
    expected |= {"half": tensors["half"].numpy(), "n": tensors["n"].numpy()}
    assert_same(io.load_safetensors(tmp_path / "theirs.safetensors"), expected)


# --- what is refused, and what remains then ---


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ([np.ones(2)], TypeError, "state is list"),
        ({3: np.ones(2)}, TypeError, "key 3 of int"),
        ({"": np.ones(2)}, ValueError, "key ''"),
        ({"a\\b": np.ones(2)}, ValueError, "backslash"),
        ({"../a": np.ones(2)}, ValueError, "no '..'"),
        ({"__metadata__": np.ones(2)}, ValueError, "safetensors keeps for itself"),
        ({"w": [1.0, 2.0]}, TypeError, "state['w'] is list"),
        ({"w": np.array([{}, None])}, TypeError, "state['w'] has dtype object"),
        ({"w": np.array([1j])}, TypeError, "state['w'] has dtype complex128, which safetensors does not"),
        ({"w": np.array([1], ">c16")}, TypeError, "state['w'] has dtype complex128"),
    ],
)
def test_save_refuses_and_writes_nothing(tmp_path, state, error, words):
    with pytest.raises(error, match=re.escape(words)):
        io.save_safetensors(tmp_path / "a.safetensors", state)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file_and_leaves_no_other(weights, monkeypatch):
    before = weights.read_bytes()

    def fail(_arrays, path):
        path.write_bytes(b"half of")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors_numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        io.save_safetensors(weights, {"w": np.ones(5)})
    assert weights.read_bytes() == before
    assert list(weights.parent.iterdir()) == [weights]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_have_the_usual_permissions(weights):
    plain = weights.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(weights.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        io.load_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match="absent"):
        io.save_safetensors(tmp_path / "absent" / "a.safetensors", STATE)


def test_a_missing_package_says_how_to_get_it(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: io.load(weights), lambda: io.save(weights, {})):
        with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "nnkernels[safetensors]"')):
            call()


# --- the file's ending decides ---


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.v2.NPZ"])
def test_save_and_load_go_by_the_ending(tmp_path, name):
    io.save(tmp_path / name, STATE)
    assert_same(io.load(str(tmp_path / name)), STATE)
    assert ((tmp_path / name).read_bytes()[:2] == b"PK") == name.lower().endswith(".npz")


@pytest.mark.parametrize("name", ["w.pt", "w", "npz", ".npz"])
def test_any_other_ending_is_refused(tmp_path, name):
    for call in (lambda: io.load(tmp_path / name), lambda: io.save(tmp_path / name, STATE)):
        with pytest.raises(
            ValueError, match=re.escape(f"{name}: wanted a name that ends in .npz or .safetensors")
        ):
            call()
    assert list(tmp_path.iterdir()) == []
