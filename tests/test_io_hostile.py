"""Damaged, foreign and hostile files: one clear error, nothing large in memory, the model as it was."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnkernels
from nnkernels import io, nn

pytest.importorskip("safetensors", reason="comes with the extra safetensors")

MOST_MEMORY = 50e6  # bytes
MOST_SECONDS = 1.0
STATE = {"weight": np.float32([[1, -2, 3], [4, 5, -6]]), "bias": np.float32([0.5, np.nan])}


# --- npz files by hand ---


def npy(header: str | bytes = "", data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """An npy file with any header."""
    head = header.encode() if isinstance(header, str) else header
    count = struct.pack("<H" if version == 1 else "<I", len(head) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + count + head + data


def declaring(
    shape: str = "(2,)", descr: str = "'<f4'", order: str = "False", data: bytes = bytes(8)
) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n", data)


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, **declared: int) -> bytes:
    """A zip file; `declared` replaces what the list of members says of the first one."""
    buffer = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in members:
            file.writestr(name, content)
        for field, value in declared.items():
            setattr(file.infolist()[0], field, value)
    return buffer.getvalue()


def overlapping(copies: int) -> bytes:
    """A bomb whose list of members names one packed member again and again."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", declaring(f"({2**20},)", "'|u1'", data=bytes(2**20)))
        file.filelist += [file.filelist[0]] * (copies - 1)
    return buffer.getvalue()


ZEROS = 2**25  # bytes: deflate makes 32 KiB of them
GOOD = declaring()


def npz_files() -> Iterator[tuple[str, bytes]]:
    deflated = {"method": zipfile.ZIP_DEFLATED}
    zeros = declaring(f"({ZEROS // 4},)", data=bytes(ZEROS))
    # what the list of members declares
    yield "a deflated bomb", archive(("w.npy", zeros), **deflated)
    yield "a bomb said to be small", archive(("w.npy", zeros), **deflated, file_size=len(GOOD))
    yield "a bomb of many members", archive(*((f"{i}.npy", zeros[: 2**20]) for i in range(64)), **deflated)
    yield "a bomb of overlapping members", overlapping(2000)
    small = {"file_size": len(GOOD)}
    yield "a bzip2 bomb said to be small", archive(("w.npy", 2 * zeros), method=zipfile.ZIP_BZIP2, **small)
    yield "an LZMA bomb said to be small", archive(("w.npy", zeros), method=zipfile.ZIP_LZMA, **small)
    # The first million bytes of 90, with nothing but the file's real size against it.
    beginning = declaring("(90_000_000,)", "'|u1'", data=bytes(10**6))
    all_of_it = len(beginning) - 10**6 + 90 * 10**6
    yield "90 MB in a file of 1", archive(("w.npy", beginning), file_size=all_of_it, compress_size=all_of_it)
    yield "90 MB, of which 1 stored", archive(("w.npy", beginning), file_size=all_of_it)
    yield "a size beyond the file", archive(("w.npy", GOOD), file_size=10**12, compress_size=10**12)
    yield "a size of 2^62", archive(("w.npy", GOOD), file_size=2**62, compress_size=2**62)
    yield "an unpacked size of 10^12", archive(("w.npy", GOOD), **deflated, file_size=10**12)
    yield "two sizes of a stored member", archive(("w.npy", GOOD), file_size=2 * len(GOOD))
    yield "an unpacked size too large", archive(("w.npy", GOOD), **deflated, file_size=2 * len(GOOD))
    yield "a wrong checksum", archive(("w.npy", GOOD), CRC=1)
    yield "an encrypted member", archive(("w.npy", GOOD), flag_bits=1)
    yield "a member beyond the file", archive(("w.npy", GOOD), header_offset=10**9)
    # names
    for name in ("../../evil.npy", "a/../../evil.npy", "/etc/evil.npy", "C:/evil.npy", "..\\evil.npy"):
        yield f"the name {name}", archive((name, GOOD))
    yield "a name with NUL", archive(("wX.npy", GOOD)).replace(b"wX", b"w\0")
    yield "a name before a NUL", archive(("w.npyXevil", GOOD)).replace(b"yX", b"y\0")
    yield "an empty name", archive((".npy", GOOD))
    yield "a duplicate name", archive(("w.npy", GOOD), ("w.npy", GOOD))
    yield "a name of 65000 letters", archive(("w" * 65000, GOOD))
    yield "something else in a zip", archive(("readme.txt", b"hello"))
    yield "a pickle in a zip, as PyTorch has it", archive(("archive/data.pkl", pickle.dumps(STATE)))
    # the arrays' headers
    pickled = BytesIO()
    np.savez(pickled, w=np.array([{}], object))
    yield "pickled objects", pickled.getvalue()
    for shape in ("(10**12,)", "(1000000000000,)", f"({10**30},)", "(-1, -2)", "(-2,)", "(0, -1)", "(2.0,)"):
        yield f"the shape {shape}", archive(("w.npy", declaring(shape)))
    yield "the shape 0 by 10^30", archive(("w.npy", declaring(f"(0, {10**30})", data=b"")))
    yield "100 axes", archive(("w.npy", declaring(f"({'1, ' * 99} 2)")))
    for descr in ("'|O'", "'|V4'", "'<U1'", "'<M8[s]'", "[('a', '<f4')]", "('<f4', (2,))", "'<f3'", "None"):
        yield f"the dtype {descr}", archive(("w.npy", declaring(descr=descr)))
    yield "the order 'yes'", archive(("w.npy", declaring(order="'yes'")))
    yield "too little data", archive(("w.npy", declaring(data=bytes(7))))
    yield "too much data", archive(("w.npy", declaring(data=bytes(9))))
    yield "a header of brackets", archive(("w.npy", npy("(" * 9000)))
    yield "a header of minus signs", archive(("w.npy", npy("-" * 9000 + "1")))
    yield "a header that is code", archive(("w.npy", npy("__import__('os').abort()")))
    yield "a header that is no text", archive(("w.npy", npy(b"\xff\xfe" * 50)))
    yield "a header said to be 4 GiB", archive(("w.npy", npy("{}", version=2, length=2**32 - 1)))
    blanks = npy(b" " * 50_000_000, version=2)
    noise = np.random.default_rng(0).bytes(600_000)  # lets the file expand to 60 MB
    yield "a header of 50 MB", archive(("w.npy", blanks), ("noise.npy", noise), **deflated)
    yield "version 9", archive(("w.npy", npy("{}", version=9)))
    yield "no npy at all", archive(("w.npy", b"hello"))
    yield "an empty member", archive(("w.npy", b""))


# --- safetensors files by hand ---


def entry(dtype: str = "F32", shape: Any = (2,), start: Any = 0, end: Any = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def tensors(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors_files() -> Iterator[tuple[str, bytes]]:
    for length in (0, 1, 2**20, 10**8 + 1, 10**12, 2**63, 2**64 - 1):
        yield f"a header of {length} bytes", tensors({"w": entry()}, length=length)
    for text in (
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"w":' * 100_000,
        b'{"w": 3}',
        b"\xff" * 64,
        b" " * 64,
    ):
        yield f"the header {text[:6]!r} of {len(text)}", tensors(text)
    for shape in (
        [10**12],
        [2**40, 2**40],
        [2**64],
        [10**30],
        [-2],
        [2.0],
        ["2"],
        [True],
        [[2]],
        "2",
        None,
        [3],
    ):
        yield f"the shape {shape}", tensors({"w": entry(shape=shape)})
    yield "10^12 elements in their place", tensors({"w": entry(shape=[10**12], end=4 * 10**12)})
    yield "a shape of 0 by 2^63", tensors({"w": entry(shape=[0, 2**63], end=0)}, b"")
    yield "100 axes", tensors({"w": entry(shape=[1] * 99 + [2])})
    for start, end in (
        (0, 9),
        (4, 12),
        (8, 0),
        (-8, 0),
        (0, 10**12),
        (0, 2**64 - 1),
        (0, 10**30),
        (0.0, 8.0),
    ):
        yield f"offsets {start}, {end}", tensors({"w": entry(start=start, end=end)})
    yield "one offset", tensors({"w": entry() | {"data_offsets": [8]}})
    yield "overlapping arrays", tensors({"a": entry(), "b": entry(start=4, end=12)}, bytes(12))
    yield "two arrays in one place", tensors({"a": entry(), "b": entry()})
    yield "an escape sequence", tensors({"\n\x1b[31mred": entry(start=4, end=12)}, bytes(12))
    yield "a gap", tensors({"a": entry(), "b": entry(start=12, end=20)}, bytes(20))
    yield "data that belongs to none", tensors({"w": entry()}, bytes(9))
    yield "too little data", tensors({"w": entry()}, bytes(7))
    for dtype in ("F8_E4M3", "F4", "f32", "O", "", "F64", "U8"):
        yield f"the dtype {dtype!r}", tensors({"w": entry(dtype)})
    for name in ("../../evil", "/etc/evil", "C:/evil", "..\\evil", "a\0b", "a\nb", ""):
        yield f"the name {name!r}", tensors({name: entry()})
    twice = b'{"w": %s, "w": %s}' % ((json.dumps(entry()).encode(),) * 2)
    yield "a duplicate name", tensors(twice)
    yield (
        "duplicate keys",
        tensors(b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
    )
    yield "metadata that are no text", tensors({"w": entry(), "__metadata__": {"a": 1}})
    yield "an entry that lacks its shape", tensors({"w": {"dtype": "F32", "data_offsets": [0, 8]}})


def foreign_files() -> Iterator[tuple[str, bytes]]:
    yield "an empty file", b""
    yield "a PNG", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "a pickle", pickle.dumps(STATE)
    yield "JSON", json.dumps({"weight": [1.0, 2.0]}).encode()
    yield "text", b"hello"
    yield "zeros", bytes(1000)


# --- what happens with them ---


@pytest.fixture
def model():
    """A model that must be the same at the end of the test."""
    linear = nn.Linear(3, 2, rng=0)
    before = {name: array.tobytes() for name, array in linear.state_dict().items()}
    yield linear
    assert {name: array.tobytes() for name, array in linear.state_dict().items()} == before


def check_refusal(path: Path, model: nn.Linear) -> None:
    """Demand one ValueError on one line that names the file, little memory and little time."""
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(f"{path}: {path.stat().st_size} bytes")) as caught:
            model.load_state_dict(io.load(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable()  # no line breaks, nothing that a terminal would obey
    assert len(message) < 600 + len(str(path))
    assert peak < MOST_MEMORY
    assert time.process_time() - started < MOST_SECONDS


@pytest.mark.parametrize(
    ("ending", "files"),
    [
        (".npz", npz_files),
        (".npz", foreign_files),
        (".safetensors", safetensors_files),
        (".safetensors", foreign_files),
    ],
)
def test_hostile_files_give_one_error(ending, files, model, tmp_path, subtests):
    path = tmp_path / f"weights{ending}"
    for label, content in files():
        path.write_bytes(content)
        with subtests.test(label):
            check_refusal(path, model)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]  # nothing was unpacked


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_the_samples_are_hostile_by_one_thing_alone(ending, tmp_path):
    """What the builders make without a fault loads, so that refusals are not for the builders' own faults."""
    path = tmp_path / f"weights{ending}"
    for content in (
        [archive(("w.npy", GOOD)), archive(("w.npy", GOOD), method=zipfile.ZIP_DEFLATED)]
        if ending == ".npz"
        else [tensors({"w": entry()})]
    ):
        path.write_bytes(content)
        assert io.load(path)["w"].tolist() == [0, 0]


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_every_truncation_is_refused(ending, model, tmp_path):
    path = tmp_path / f"weights{ending}"
    io.save(path, STATE)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=re.escape(f"{path}: {size} bytes")):
            model.load_state_dict(io.load(path))


@pytest.mark.parametrize("bit", [0x01, 0x08, 0x20, 0x80])
def test_flipped_bits_of_a_safetensors_header_are_noticed(bit, model, tmp_path):
    """The format has no checksum, so a name or a shape may change, but then it no longer fits the model."""
    path = tmp_path / "weights.safetensors"
    io.save(path, STATE)
    content = path.read_bytes()
    data = sum(array.nbytes for array in STATE.values())
    refused = 0
    for position in range(len(content) - data):
        damaged = bytearray(content)
        damaged[position] ^= bit
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"weights\.safetensors: \d+ bytes|load_state_dict") as caught:
            model.load_state_dict(io.load(path))
        refused += "bytes, damaged or foreign" in str(caught.value)
    assert refused > 0.5 * (len(content) - data)


def test_a_flipped_bit_of_a_safetensors_number_changes_that_number_alone(tmp_path):
    path = tmp_path / "weights.safetensors"
    io.save(path, STATE)
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x80
    path.write_bytes(content)
    whole = np.concatenate([array.ravel() for array in STATE.values()])
    found = io.load(path)
    changed = np.concatenate([found[name].ravel() for name in STATE]).view(np.uint32) ^ whole.view(np.uint32)
    assert np.count_nonzero(changed) == 1


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_missing_files_and_folders_are_said_to_be_that(ending, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        io.load(tmp_path / f"absent{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        io.load(tmp_path / f"folder{ending}")


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_ten_gigabytes_of_nothing_are_not_read(ending, model, tmp_path):
    path = tmp_path / f"weights{ending}"
    path.touch()
    os.truncate(path, 10**10)  # a hole, which takes no space
    check_refusal(path, model)


def test_compressed_weights_and_small_arrays_of_zeros_still_load(tmp_path):
    state = {"weight": np.zeros((1000, 1000), np.float32), "noise": np.random.default_rng(0).random(1000)}
    np.savez_compressed(tmp_path / "weights.npz", **state)  # 4 MB from 12 KB
    found = io.load(tmp_path / "weights.npz")
    assert all(np.array_equal(found[name], array) for name, array in state.items())


HIGH_WATER = """
import sys
from pathlib import Path
from nnkernels import io

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

folder = Path(sys.argv[1])
io.load(folder / "sound.npz"), io.load(folder / "sound.safetensors")
before, refused = peak(), 0
for path in folder.glob("hostile*"):
    try:
        io.load(path)
    except ValueError:
        refused += 1
print(refused, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process has used")
def test_the_process_stays_small(tmp_path):
    """tracemalloc does not see the memory of the safetensors package and of zlib."""
    count = 0
    for ending, files in ((".npz", npz_files), (".safetensors", safetensors_files)):
        io.save(tmp_path / f"sound{ending}", STATE)
        for _, content in files():
            count += 1
            (tmp_path / f"hostile{count}{ending}").write_bytes(content)
    command = [sys.executable, "-W", "error", "-c", HIGH_WATER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    refused, memory = map(int, done.stdout.split())
    assert refused == count
    assert memory < MOST_MEMORY


def test_nothing_of_ours_unpickles():
    sources = list(Path(nnkernels.__file__).parent.rglob("*.py"))
    assert len(sources) > 50
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"allow_pickle\s*=\s*True|^\s*(import|from) c?pickle|torch\.load", text, re.M), (
            path
        )
