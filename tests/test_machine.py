"""The machine room: buffers, threads, caches, arrays as kernels want them."""

import gc
import sys
import threading
import weakref
from itertools import pairwise

import numba
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.machine import cache, ceilings, memory, simd
from nnkernels.machine.memory import POOLED_BYTES, as_kernel_array, empty, held_bytes, poisoned, zeros

BIG = (512, 1024)  # float32: 2 MiB, well above POOLED_BYTES


@pytest.fixture(autouse=True)
def fresh_pool():
    gc.collect()
    nnk.empty_cache()
    yield
    nnk.empty_cache()


def address(a):
    return a.__array_interface__["data"][0]


# ---------------------------------------------------------------- the pool


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("nbytes", [POOLED_BYTES, POOLED_BYTES + 8, 100_000, 3 * 2**20 + 8])
def test_pooled_arrays_are_aligned_writable_and_of_the_size_asked_for(dtype, nbytes):
    n = nbytes // np.dtype(dtype).itemsize
    for shape in ((n,), (n // 4, 4), (2, n // 4, 2)):
        a = empty(shape, dtype)
        assert a.shape == shape
        assert a.dtype == dtype
        assert a.flags.carray
        assert address(a) % 64 == 0
        a.fill(1)  # every element is there to be written


def test_small_and_empty_arrays_pass_the_pool_by():
    for shape in ((), (3,), (0, 5), (POOLED_BYTES - 1,)):
        a = empty(shape, np.uint8)
        assert a.shape == shape
        assert a.flags.carray
    del a
    assert held_bytes() == 0


def test_a_block_comes_back_for_the_next_array_of_its_size():
    a = empty(BIG, np.float32)
    where = address(a)
    del a
    assert held_bytes() >= 2**21
    b = empty(BIG, np.float32)
    assert address(b) == where
    assert held_bytes() == 0


def test_a_live_view_keeps_the_block():
    a = empty(BIG, np.float32)
    a.fill(7)
    view = a[3:5].reshape(-1)[::2].T  # a view of a view of a view
    buffer = memoryview(view)
    del a
    assert held_bytes() == 0
    others = [empty(BIG, np.float32) for _ in range(4)]
    for other in others:
        assert not np.shares_memory(other, view)
        other.fill(0)
    assert (view == 7).all()
    del view
    assert held_bytes() == 0  # the memoryview still reads the block
    assert buffer[0] == 7
    del buffer
    assert held_bytes() >= 2**21


def test_no_two_live_arrays_share_memory():
    rng = np.random.default_rng(0)
    live = []
    for step in range(400):
        if live and rng.random() < 0.5:
            live.pop(rng.integers(len(live)))
        a = empty((int(rng.integers(POOLED_BYTES, 4 * POOLED_BYTES)),), np.uint8)
        a.fill(step % 251)
        live.append((a, step % 251))
        live = live[-12:]
    for a, value in live:
        assert (a == value).all()
    spans = sorted((address(a), address(a) + a.nbytes) for a, _ in live)
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start


def test_arrays_of_nearby_sizes_share_blocks_at_little_waste():
    a = empty((1_000_000,), np.uint8)
    where = address(a)
    del a
    assert held_bytes() <= 1_000_000 * 1.125
    assert address(empty((999_000,), np.uint8)) == where


def test_the_pool_holds_no_more_than_its_bound(monkeypatch):
    monkeypatch.setattr(memory, "MAX_HELD_BYTES", 5 * 2**20)
    arrays = [empty(BIG, np.float32) for _ in range(8)]
    del arrays
    assert 2**22 <= held_bytes() <= 5 * 2**20


def test_empty_cache_gives_everything_back_and_spares_live_arrays():
    kept = empty(BIG, np.float32)
    kept.fill(3)
    gone = empty(BIG, np.float32)
    storage = weakref.ref(gone.base)
    del gone
    assert storage() is None
    assert held_bytes() > 0
    nnk.empty_cache()
    assert held_bytes() == 0
    assert (kept == 3).all()
    del kept
    assert held_bytes() > 0  # blocks out at the time still come back


def test_zeros_clears_a_used_block():
    a = empty(BIG, np.float32)
    a.fill(5)
    where = address(a)
    del a
    b = zeros(BIG, np.float32)
    assert address(b) == where
    assert not b.any()


def test_poisoned_arrays_show_what_a_kernel_forgot_to_write():
    with poisoned():
        for shape in ((), (3,), BIG):
            assert np.isnan(empty(shape, np.float32)).all()
        assert (empty((4,), np.int64) == -1).all()
        assert not zeros((4,), np.float64).any()
    with pytest.raises(ZeroDivisionError), poisoned():
        raise ZeroDivisionError
    assert memory._poison is False


def test_threads_share_the_pool_without_sharing_blocks_and_its_count_stays_right():
    faults = []

    def work(value):
        rng = np.random.default_rng(value)
        for _ in range(300):
            a = empty((int(rng.choice([1, 2, 3])) * POOLED_BYTES,), np.uint8)
            a.fill(value)
            b = a[5:]
            del a
            if not (b == value).all():
                faults.append(value)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []
    assert held_bytes() == sum(size * len(blocks) for size, blocks in memory._free.items()) > 0


# ---------------------------------------------------------------- arrays as kernels want them


def test_an_array_that_is_fit_for_kernels_is_passed_on_itself():
    for a in (np.ones((2, 3)), np.ones((), np.float32), np.ones((0, 4)), np.arange(3)):
        assert as_kernel_array(a) is a


AWKWARD = {
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "fortran": np.asfortranarray,
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_awkward_arrays_are_copied_into_the_one_form_of_kernels(kind, dtype):
    a = np.arange(12, dtype=dtype).reshape(3, 4)
    awkward = AWKWARD[kind](a)
    assert not (awkward.flags.carray and awkward.dtype.isnative)
    before, writable = awkward.tobytes(), awkward.flags.writeable
    b = as_kernel_array(awkward)
    assert b.flags.carray
    assert b.dtype == dtype
    assert b.dtype.isnative
    np.testing.assert_array_equal(b, awkward)
    b.fill(0)
    assert awkward.tobytes() == before
    assert awkward.flags.writeable == writable


def test_a_read_only_number_becomes_a_writable_one():
    a = np.asarray(3.0)
    a.flags.writeable = False
    b = as_kernel_array(a)
    assert b.shape == ()
    assert b.flags.carray
    assert b == 3


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("n", [0, -1, numba.config.NUMBA_NUM_THREADS + 1])
def test_a_number_of_threads_out_of_range_is_refused_with_the_range(n):
    before = nnk.get_num_threads()
    with pytest.raises(ValueError, match=rf"from 1 to {numba.config.NUMBA_NUM_THREADS}.*got {n}"):
        nnk.set_num_threads(n)
    assert nnk.get_num_threads() == before


@pytest.mark.parametrize("n", [1.0, "2", None, True])
def test_a_number_of_threads_must_be_an_int(n):
    with pytest.raises(TypeError, match="n must be an int"):
        nnk.set_num_threads(n)


def test_the_number_of_threads_is_what_was_set():
    before = nnk.get_num_threads()
    try:
        for n in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            nnk.set_num_threads(n)
            assert nnk.get_num_threads() == n
            assert numba.get_num_threads() == n
    finally:
        nnk.set_num_threads(before)


# ---------------------------------------------------------------- the cache of compiled kernels


@pytest.fixture
def sources(tmp_path, monkeypatch):
    for room in ("machine", "ops", "ops/deep", "nn"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(cache, "PACKAGE", tmp_path)
    return tmp_path


def digest():
    return cache.sources_digest.__wrapped__()


@pytest.mark.parametrize("file", ["machine/a.py", "ops/a.py", "ops/deep/a.py"])
def test_an_edit_of_any_kernels_source_starts_a_fresh_cache(sources, file):
    before = digest()
    assert digest() == before
    (sources / file).write_text("x = 2\n")
    changed = digest()
    assert changed != before
    (sources / file).write_text("x = 1\n")
    assert digest() == before
    (sources / file).rename((sources / file).with_name("b.py"))
    assert digest() not in (before, changed)


def test_an_edit_of_what_holds_no_kernels_keeps_the_cache(sources):
    before = digest()
    (sources / "nn" / "a.py").write_text("x = 2\n")
    assert digest() == before


def test_another_numba_starts_a_fresh_cache(sources, monkeypatch):
    before = digest()
    monkeypatch.setattr(numba, "__version__", "0.0.0")
    assert digest() != before


@pytest.mark.parametrize(("name", "value"), [("ENABLED", not simd.ENABLED), ("BITS", 64), ("ROWS", 1)])
def test_kernels_for_other_vector_registers_are_kept_apart(sources, monkeypatch, name, value):
    before = digest()
    monkeypatch.setattr(simd, name, value)
    assert digest() != before


def test_the_cache_directory_is_named_by_the_digest_under_the_root_asked_for(monkeypatch, tmp_path):
    def directory():
        return cache.cache_directory.__wrapped__()

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "n"))
    assert directory() == tmp_path / "n" / f"kernels-{cache.sources_digest()}"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert directory().parent == tmp_path / "x" / "nnkernels"


def test_kernels_are_cached_in_our_directory_and_the_users_setting_is_left_alone():
    assert str(cache.cache_directory()) != numba.config.CACHE_DIR
    nnk.OPS["mul"](np.ones(3), np.ones(3))
    assert list(cache.cache_directory().rglob("*.nbi"))


# ---------------------------------------------------------------- measured ceilings


def test_ceilings_are_of_a_plausible_size_and_leave_the_threads_alone(monkeypatch):
    monkeypatch.setattr(ceilings, "SECONDS", 0.01)
    before = nnk.get_num_threads()
    for dtype in (np.float32, "float64"):
        assert 0.5 < ceilings.fma_peak(1, dtype) < 1000  # GFLOP/s: one core of any speed
    assert 0.5 < ceilings.memory_bandwidth(before) < 10_000
    assert nnk.get_num_threads() == before


def test_ceilings_refuse_other_dtypes_and_numbers_of_threads():
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got int32"):
        ceilings.fma_peak(1, np.int32)
    for measure in (ceilings.fma_peak, ceilings.memory_bandwidth):
        with pytest.raises(ValueError, match="n must be from 1 to"):
            measure(0)


def test_the_arithmetic_timed_is_done():
    x = np.float32([0, 1])
    ceilings.multiply_add(x, np.float32(0.5), np.float32(1), 2)
    assert x.tolist() == [2 - 2**-15, 2 - 2**-16]
    y = np.zeros(20_000, np.float32)
    ceilings.copy_parallel(np.arange(20_000, dtype=np.float32), y)
    assert (y == np.arange(20_000)).all()
