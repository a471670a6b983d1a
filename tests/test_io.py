import json
import math
import os
import re
import stat
import zipfile
from io import BytesIO

import numpy as np
import pytest

from nnkernels import io

STATE = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "features.0.bias": np.array([], dtype=np.float64),
    "bn.num_batches_tracked": np.array(7, dtype=np.int64),
}


def assert_same_state(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(found[name], array, strict=found[name].dtype == array.dtype)


@pytest.fixture
def weights(tmp_path):
    io.save_npz(tmp_path / "weights.npz", STATE)
    return tmp_path / "weights.npz"


# ---------------------------------------------------------------- save_npz, load_npz


def test_state_survives_with_names_order_shapes_and_dtypes(weights):
    assert_same_state(io.load_npz(weights), STATE)
    assert_same_state(io.load_npz(str(weights)), STATE)


def test_numpy_reads_what_save_npz_writes(weights):
    with np.load(weights, allow_pickle=False) as archive:
        assert_same_state(dict(archive), STATE)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_load_npz_reads_what_numpy_writes(tmp_path, save):
    state = STATE | {
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
    }
    save(tmp_path / "a.npz", **state)
    found = io.load_npz(tmp_path / "a.npz")
    assert_same_state(found, state)
    assert found["columns"].flags.c_contiguous


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
        np.array([True, False]),
        np.array([1 + 2j], dtype=np.complex64),
        np.array([[np.nan, -np.inf, -0.0]], dtype=np.float16),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{array.strides}",
)
def test_values_survive_any_memory_order_and_byte_order(tmp_path, array):
    before = array.copy()
    io.save_npz(tmp_path / "a.npz", {"a": array})
    loaded = io.load_npz(tmp_path / "a.npz")["a"]
    np.testing.assert_array_equal(loaded, before)
    np.testing.assert_array_equal(array, before)
    assert loaded.shape == array.shape
    assert loaded.dtype == array.dtype.newbyteorder("=")
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable


@pytest.mark.parametrize(
    "name", ["file", "allow_pickle", "a.npy", "head/0", "größe", " x", "a..b/..c", "w:0"]
)
def test_names_that_numpy_savez_would_confuse_survive(tmp_path, name):
    state = {name: np.ones(2), "a": np.zeros(3)}
    io.save_npz(tmp_path / "a.npz", state)
    assert_same_state(io.load_npz(tmp_path / "a.npz"), state)


def test_empty_state(tmp_path):
    io.save_npz(tmp_path / "a.npz", {})
    assert io.load_npz(tmp_path / "a.npz") == {}


def test_equal_states_give_equal_bytes(tmp_path):
    io.save_npz(tmp_path / "a.npz", STATE)
    io.save_npz(tmp_path / "b.npz", {name: array.copy() for name, array in STATE.items()})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ([np.ones(2)], TypeError, "state is list"),
        ({3: np.ones(2)}, TypeError, "key 3 of int"),
        ({"": np.ones(2)}, ValueError, "key ''"),
        ({"a\0b": np.ones(2)}, ValueError, "backslash"),
        ({"a\\b": np.ones(2)}, ValueError, "backslash"),
        ({"w": [1.0, 2.0]}, TypeError, "state['w'] is list"),
        ({"w": np.array([{}, None])}, TypeError, "state['w'] has dtype object"),
        ({"w": np.array(["x"])}, TypeError, "wanted booleans or numbers"),
        ({"w": np.zeros(2, dtype="M8[s]")}, TypeError, "wanted booleans or numbers"),
    ],
)
def test_save_npz_refuses_and_writes_nothing(tmp_path, state, error, words):
    with pytest.raises(error, match=re.escape(words)):
        io.save_npz(tmp_path / "a.npz", state)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file_and_leaves_no_other(weights, monkeypatch):
    before = weights.read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="disk full"):
        io.save_npz(weights, {"w": np.ones(5)})
    assert weights.read_bytes() == before
    assert list(weights.parent.iterdir()) == [weights]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_have_the_usual_permissions(weights):
    plain = weights.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(weights.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        io.load_npz(tmp_path / "absent.npz")
    with pytest.raises(FileNotFoundError, match="absent"):
        io.save_npz(tmp_path / "absent" / "a.npz", STATE)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n" + bytes(100), b"PK\x03\x04" + bytes(30)])
def test_foreign_file(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npz: {len(content)} bytes beginning .*npz"):
        io.load_npz(tmp_path / "a.npz")


def test_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"a\.npz.*readme\.txt"):
        io.load_npz(tmp_path / "a.npz")


def test_pickled_objects_are_refused_not_run(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz.*w\.npy.*allow_pickle"):
        io.load_npz(tmp_path / "a.npz")


def test_every_truncation_raises(weights):
    content = weights.read_bytes()
    for size in range(len(content)):
        weights.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"weights\.npz: {size} bytes"):
            io.load_npz(weights)


def test_no_flipped_bit_passes_unseen(weights):
    content = weights.read_bytes()
    messages = []
    for position in range(len(content)):
        for bit in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= bit
            weights.write_bytes(damaged)
            try:
                loaded = io.load_npz(weights)
            except ValueError as error:
                messages.append(str(error))
            else:  # dates, flags and the like carry no data
                assert_same_state(loaded, STATE)
    assert len(messages) > len(content)
    assert all("weights.npz" in message for message in messages)


def test_mangled_array_headers_raise_value_error(tmp_path):
    buffer = BytesIO()
    np.save(buffer, np.arange(6).reshape(2, 3))
    sound = buffer.getvalue()
    for raw in (sound[:-1], sound + b"x", sound[:20], sound.replace(b"}", b" "), sound.replace(b"(2", b"(9")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("w.npy", raw)
        with pytest.raises(ValueError, match=r"a\.npz.*w\.npy"):
            io.load_npz(tmp_path / "a.npz")


# ---------------------------------------------------------------- write_json


def test_json_of_numpy_and_python_values(tmp_path):
    obj = {
        "accuracy": np.float32(0.5),
        "epochs": np.int64(15),
        "done": np.bool_(True),
        "confusion": np.array([[1, 0], [2, 3]]),
        "history": {"loss": [np.float64(0.1), 2, None], "lr": (1e-3, np.longdouble(0.25))},
        "name": "größe",
        "shape": (),
    }
    io.write_json(tmp_path / "m.json", obj)
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "accuracy": 0.5,
        "epochs": 15,
        "done": True,
        "confusion": [[1, 0], [2, 3]],
        "history": {"loss": [0.1, 2, None], "lr": [1e-3, 0.25]},
        "name": "größe",
        "shape": [],
    }
    assert list(json.loads(text)) == list(obj)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.array([1.0, np.nan])[1]]
)
def test_numbers_json_lacks_become_null(tmp_path, value):
    io.write_json(tmp_path / "m.json", {"loss": [1.0, value]})
    assert json.loads((tmp_path / "m.json").read_text()) == {"loss": [1.0, None]}


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        ({"a": [1, {2}]}, "obj['a'][1] is set"),
        ({"a": {3: 1}}, "obj['a'] has the key 3 of int"),
        ({"a": 1j}, "obj['a'] is complex"),
        (np.array([object()]), "obj[0] is object"),
        (b"bytes", "obj is bytes"),
    ],
)
def test_json_refuses_and_keeps_the_old_file(tmp_path, obj, words):
    io.write_json(tmp_path / "m.json", {"old": 1})
    with pytest.raises(TypeError, match=re.escape(words)):
        io.write_json(tmp_path / "m.json", obj)
    assert json.loads((tmp_path / "m.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
