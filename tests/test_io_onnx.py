"""Weights from ONNX files: files made by hand, without the package; damaged, hostile ones give one error."""

import re
import struct
import sys
import tracemalloc

import numpy as np
import pytest

from nnkernels import io, nn

F32, F64, I64, BOOL, BF16, FLOAT8 = 1, 11, 7, 9, 16, 17


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value, length=None):
    """A field with bytes, whose length may be declared to be another, or with a whole number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value) if length is None else length) + value


def tensor(name="w", shape=(2,), kind=F32, data=bytes(8), length=None, more=b""):
    dims = b"".join(field(1, n) for n in shape)
    return dims + field(2, kind) + field(8, name.encode()) + field(9, data, length) + more


def model(*tensors, more=b""):
    graph = field(2, b"a network") + b"".join(field(5, t) for t in tensors) + more
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


WEIGHTS = {
    "fc.weight": np.float32([[1, -2, 3], [4, np.nan, -6]]),
    "fc.bias": np.float64([0.5, -0.0]),
    "steps": np.array(-7, np.int64),
    "mask": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}
KINDS = {"float32": F32, "float64": F64, "int64": I64, "bool": BOOL}
WHOLE = model(*(tensor(k, a.shape, KINDS[a.dtype.name], a.tobytes()) for k, a in WEIGHTS.items()))


def loaded(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    return io.load(tmp_path / "m.onnx")


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, a in expected.items():
        assert (found[name].dtype, found[name].shape) == (a.dtype, a.shape), name
        assert found[name].tobytes() == a.tobytes(), name
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable


# --- files as they should be ---


def test_weights_come_back_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_same(loaded(tmp_path, WHOLE), WEIGHTS)
    assert_same(io.load_onnx(str(tmp_path / "m.onnx")), WEIGHTS)


def test_all_else_is_passed_over(tmp_path):
    other = (
        field(3, b"text") + varint(4 << 3 | 1) + bytes(8) + varint(5 << 3 | 5) + bytes(4) + field(6, 2**63)
    )
    made = field(1, 8) + other + model(tensor(more=field(12, b"what it is")), more=other) + field(14, b"note")
    assert_same(loaded(tmp_path, made), {"w": np.zeros(2, np.float32)})


def test_lengths_may_be_packed(tmp_path):
    t = field(1, varint(300) + varint(2)) + field(2, F32) + field(8, b"w") + field(9, bytes(2400))
    assert_same(loaded(tmp_path, model(t)), {"w": np.zeros((300, 2), np.float32)})


def test_bfloat16_becomes_float32(tmp_path):
    found = loaded(tmp_path, model(tensor(kind=BF16, data=struct.pack("<2H", 0x3FC0, 0xC000))))
    assert_same(found, {"w": np.float32([1.5, -2.0])})


def test_all_types_that_the_package_writes(tmp_path):
    onnx = pytest.importorskip("onnx", reason="comes with the extra onnx")
    kinds = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
    state = {f"a.{kind}": np.array([[1, 0], [3, 4]]).astype(kind) for kind in kinds}
    weights = [onnx.numpy_helper.from_array(a, name) for name, a in state.items()]
    graph = onnx.helper.make_graph([], "g", [], [], initializer=weights)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert_same(io.load(tmp_path / "m.onnx"), state)


# --- files as they should not be ---


def test_every_part_of_a_file_is_refused(tmp_path):
    for size in range(len(WHOLE)):
        with pytest.raises(ValueError, match=re.escape(f"m.onnx: {size} bytes, damaged or foreign")):
            loaded(tmp_path, WHOLE[:size])


def test_flipped_bits_give_an_error_or_another_number(tmp_path):
    for at in range(len(WHOLE)):
        for bit in range(8):
            data = bytearray(WHOLE)
            data[at] ^= 1 << bit
            try:
                found = loaded(tmp_path, bytes(data))
            except ValueError:  # and nothing else
                continue
            assert all(isinstance(a, np.ndarray) for a in found.values())


def test_garbage(tmp_path):
    rng = np.random.default_rng(0)
    for size in (1, 10, 1000, 100_000):
        with pytest.raises(ValueError, match="damaged or foreign"):
            loaded(tmp_path, rng.bytes(size))


HUGE = 2**62
HOSTILE = {
    "a length beyond the file": (model(tensor(length=HUGE)), "a field 9 that ends at byte"),
    "a graph beyond the file": (field(1, 8) + field(7, b"", HUGE) + field(8, b""), "a field 7 that ends"),
    "a shape beyond the data": (model(tensor(shape=(HUGE, HUGE))), "8 bytes of data for an array"),
    "a shape with a negative length": (model(tensor(shape=(2**64 - 2,))), "8 bytes of data for an array"),
    "an impossible empty shape": (model(tensor(shape=(0, HUGE), data=b"")), "damaged or foreign"),
    "too many axes": (model(tensor(shape=(1,) * 100_000)), "'w' has more than 64 axes|'' has more than 64"),
    "too many packed axes": (model(field(1, b"\1" * 100_000) + tensor()), "more than 64 axes"),
    "data in another file": (
        model(tensor(more=field(13, field(1, b"location") + field(2, b"../../etc/passwd")) + field(14, 1))),
        "'w' lies in another file",
    ),
    "only said to be in another file": (model(tensor(more=field(14, 1))), "'w' lies in another file"),
    "numbers not as bytes": (model(tensor(more=field(4, bytes(8)))), "numbers in field 4, wanted raw bytes"),
    "sparse": (model(tensor(), more=field(15, b"")), "sparse initializers"),
    "a type that NumPy lacks": (model(tensor(kind=FLOAT8)), "'w' has type 17"),
    "text": (model(tensor(kind=8)), "'w' has type 8"),
    "no type": (model(field(8, b"w") + field(9, b"")), "'w' has type 0"),
    "one name twice": (model(tensor(), tensor()), "two initializers 'w'"),
    "no name": (model(tensor("")), "state has the key ''"),
    "a path for a name": (model(tensor("../w")), "state has the key '../w'"),
    "a name that is no text": (model(field(8, b"\xff\xfe") + field(2, F32)), "damaged or foreign"),
    "a long name": (model(tensor("w" * 100_000)), "a name of 100000 bytes"),
    "two graphs": (model(tensor()) + field(7, b""), "2 graphs and 1 opsets"),
    "no graph": (field(1, 8) + field(8, field(2, 17)), "0 graphs and 1 opsets"),
    "a number without an end": (b"\xff" * 20, "a number of more than 10 bytes"),
    "field 0": (model(more=field(0, 1)), "a field 0 that ends"),
    "a group": (model(more=varint(9 << 3 | 3)), "a value of kind 3"),
    "nothing": (b"", "0 graphs"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name, tmp_path):
    data, match = HOSTILE[name]
    net = nn.Linear(3, 2, rng=0)
    before = net.state_dict()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match) as caught:
            net.load_state_dict(loaded(tmp_path, data))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert "m.onnx" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(before[key], a) for key, a in net.state_dict().items())


def test_much_that_is_no_weight_takes_no_memory(tmp_path):
    data = model(tensor(), more=field(1, bytes(20_000_000)) + field(1, b"") * 20_000)
    (tmp_path / "m.onnx").write_bytes(data)
    tracemalloc.start()
    try:
        assert list(io.load(tmp_path / "m.onnx")) == ["w"]
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_endings(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "m.ONNX")
    with pytest.raises(ValueError, match=r"m.pt: wanted a name that ends in .npz or .safetensors or .onnx"):
        io.load(tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m.onnx: wanted a name that ends in .npz or .safetensors$"):
        io.save(tmp_path / "m.onnx", WEIGHTS)
