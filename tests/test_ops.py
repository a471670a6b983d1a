"""The one test table: every op, every body, every sample, both dtypes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkernels.machine import gpu
from nnkernels.ops import OPS, checks, use_backend
from nnkernels.ops.mutants import judged, verdict
from nnkernels.ops.op import CPU_BODIES, Sample
from nnkernels.ops.plain import plain_ops

NAMES = sorted(OPS)
DIFFERENTIABLE = [name for name in NAMES if OPS[name].loops.backward is not None]
MUTANTS = [(name, mutant) for name in NAMES for mutant in OPS[name].mutants]
DTYPES = (np.float32, np.float64)


def rng():
    return np.random.default_rng(0)


def samples(name, dtype):
    return OPS[name].samples(rng(), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("name", NAMES)
def test_bodies_agree_with_loops(name, body, dtype):
    for sample in samples(name, dtype):
        checks.check_agreement(OPS[name], body, sample, rng())


@pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
@pytest.mark.parametrize("name", NAMES)
def test_tuned_agrees_on_a_size_of_several_chunks(name, dtype):
    op = OPS[name]
    sample = next(op.bench_samples(rng(), dtype))
    checks.check_agreement(op, "tuned", sample, rng())


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_equal_central_differences(name, body):
    for sample in samples(name, np.float64):
        checks.check_gradient(OPS[name], body, sample, rng())


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_come_only_where_needed(name, body):
    for sample in samples(name, np.float64):
        checks.check_needs(OPS[name], body, sample, rng())


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jvp_equals_differences_and_is_the_transpose_of_backward(name, body):
    for sample in samples(name, np.float64):
        checks.check_jvp(OPS[name], body, sample, rng())


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("name", NAMES)
def test_bad_inputs_raise_what_they_promise(name, body):
    with use_backend(body):
        assert checks.check_bad_inputs(OPS[name]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_number_of_threads(name):
    op = OPS[name]
    checks.check_threads(op, next(op.bench_samples(rng(), np.float32)), rng())


@pytest.mark.parametrize(("name", "mutant"), MUTANTS, ids=[f"{n}: {m.name}" for n, m in MUTANTS])
def test_mutant_is_caught(name, mutant):
    assert verdict(OPS[name], mutant) is not None, f"{name}: the mutant {mutant.name!r} lives"


@pytest.fixture(scope="module")
def plain():
    return plain_ops()


@pytest.mark.parametrize("name", NAMES)
def test_uncompiled_body_without_a_fault_passes_what_mutants_must_fail(plain, name):
    assert judged(replace(OPS[name], tuned=plain[name].tuned), "tuned") is None


def test_every_op_has_four_mutants_at_least_and_their_number_is_printed(capsys):
    assert min(len(OPS[name].mutants) for name in NAMES) >= 4
    with capsys.disabled():
        print(f"\n{len(MUTANTS)} planted mutants in {len(NAMES)} ops")


@pytest.mark.parametrize("name", NAMES)
def test_flops_and_bytes_are_counted(name):
    op = OPS[name]
    for sample in samples(name, np.float32):
        outputs = checks.run(op, "vectorized", sample)
        flops = op.flops(*sample.arrays, **sample.attributes)
        assert isinstance(flops, int)
        assert flops >= 0
        assert op.bytes(sample.arrays, outputs[0]) >= 0


@pytest.mark.parametrize("name", [name for name in NAMES if not OPS[name].inplace])
def test_strided_big_endian_and_read_only_arrays_give_the_same_answer(name):
    op = OPS[name]  # update steps demand plain arrays; others are among their bad inputs
    for sample in samples(name, np.float32):
        wanted = op(*sample.arrays, **sample.attributes)
        for disguise in (strided, big_endian, read_only):
            arrays = [None if a is None else disguise(a) for a in sample.arrays]
            before = checks.copies(tuple(arrays))
            got = op(*arrays, **sample.attributes)
            checks.assert_close(np.asarray(got), np.asarray(wanted), 4, f"{name}, {disguise.__name__}")
            for a, b in zip(before, arrays):
                assert a is None or np.array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_without_its_arrays_is_named_after_the_op(name):
    op = OPS[name]
    sample = next(samples(name, np.float32))
    for wrong in ((), (None, *sample.arrays[1:])):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}(\(\)|:) "):
            op(*wrong, **sample.attributes)
    with pytest.raises(TypeError, match=rf"^{name}.*'colour'"):
        op(*sample.arrays, **sample.attributes, colour="red")


def test_subclasses_of_ndarray_work_or_are_refused(tmp_path):
    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=(2, 3))
    np.testing.assert_array_equal(OPS["relu"](mapped), np.maximum(x, 0))
    with pytest.raises(TypeError, match="relu: x must be an array without a mask"):
        OPS["relu"](np.ma.masked_less(x, 0))


def strided(a):
    wide = np.zeros((*a.shape, 2), a.dtype)
    wide[..., 1] = a
    return wide[..., 1]


def big_endian(a):
    return a.astype(a.dtype.newbyteorder(">"))


def read_only(a):
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def test_a_missing_body_says_so():
    with pytest.raises(NotImplementedError, match="relu has no cuda body yet"):
        replace(OPS["relu"], cuda=None).body("cuda")


def test_an_array_of_another_library_on_a_gpu_needs_a_gpu(monkeypatch):
    class OnAGpu:
        __cuda_array_interface__ = {}  # noqa: RUF012
        shape, dtype, ndim, size = (3,), np.dtype(np.float32), 1, 3

    monkeypatch.setattr(gpu, "the_gpu", gpu.the_gpu.__wrapped__)
    monkeypatch.setattr(gpu, "why_not_available", lambda: "the GPU extra is not installed")
    with pytest.raises(RuntimeError, match=r'"cuda": the GPU extra is not installed \(nnk.simulate_gpu'):
        OPS["relu"](OnAGpu())


def test_unknown_backend_names_the_choices():
    with pytest.raises(ValueError, match="loops, vectorized, tuned, got 'cuda'"), use_backend("cuda"):
        pass


# --- shapes drawn by hypothesis ---


def property_test(**strategies):
    def wrap(function):
        return settings(deadline=None, derandomize=True, max_examples=40)(given(**strategies)(function))

    return wrap


def assert_bodies_agree(name, *shapes, attributes=None):
    g = rng()
    arrays = tuple(np.asarray(g.standard_normal(s), np.float64) for s in shapes)
    for body in CPU_BODIES:
        checks.check_agreement(OPS[name], body, Sample(f"{shapes}", arrays, attributes or {}), g)


size = st.integers(1, 6)


@property_test(
    n=st.integers(0, 3), c=size, h=st.integers(3, 9), w=st.integers(3, 9), k=size, r=st.integers(1, 3),
    s=st.integers(1, 3), stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)  # fmt: skip
def test_conv2d_agrees_on_any_shape(n, c, h, w, k, r, s, stride, padding):
    attributes = {"stride": stride, "padding": padding}
    assert_bodies_agree("conv2d", (n, c, h, w), (k, c, r, s), (k,), attributes=attributes)


@property_test(
    n=st.integers(0, 3), c=size, length=st.integers(7, 40), k=size, s=st.integers(1, 3),
    groups=st.integers(1, 3), stride=st.integers(1, 4), padding=st.integers(0, 3), dilation=st.integers(1, 3),
)  # fmt: skip
def test_conv1d_agrees_on_any_shape(n, c, length, k, s, groups, stride, padding, dilation):
    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    shapes = (n, c * groups, length), (k * groups, c, s), (k * groups,)
    assert_bodies_agree("conv1d", *shapes, attributes=attributes)


@pytest.mark.parametrize("groups", [1, 2])
def test_conv1d_is_conv2d_of_one_row_and_hands_it_views(groups):
    from nnkernels.ops.conv1d import as_image

    x, w = (np.asarray(rng().standard_normal(s), np.float32) for s in ((2, 4, 9), (6, 4 // groups, 3)))
    for a in (x, w):
        image = as_image(a)
        assert np.shares_memory(image, a)
        assert image.flags.c_contiguous
        assert np.shares_memory(image.reshape(-1), a)  # how the kernels read it
    y = OPS["conv1d"](x, w, stride=2, padding=1, groups=groups)
    assert y.flags.c_contiguous
    wanted = OPS["conv2d"](as_image(x), as_image(w), stride=(1, 2), padding=(0, 1), groups=groups)
    np.testing.assert_array_equal(as_image(y), wanted)


@property_test(n=st.integers(1, 60), c=st.integers(1, 6), s=st.integers(1, 1500) | st.integers(1, 40))
def test_batch_norm_agrees_however_it_is_cut(n, c, s):
    assert_bodies_agree("batch_norm", (n + 1, c, s), (c,), (c,))


@property_test(rows=st.integers(1, 700), n=st.integers(3, 200))
def test_layer_norm_agrees_on_any_shape(rows, n):
    assert_bodies_agree("layer_norm", (rows, n), (n,), (n,), attributes={"normalized_shape": n})


@pytest.mark.parametrize(
    "shape", [(64, 16, 8, 8), (8, 64, 28, 28), (40, 2, 50, 50), (3, 1, 300, 300)], ids=str
)
def test_batch_norm_does_not_depend_on_threads_however_it_is_cut(shape):
    arrays = tuple(rng().standard_normal(s, np.float32) for s in (shape, shape[1:2], shape[1:2]))
    checks.check_threads(OPS["batch_norm"], Sample(f"{shape}", arrays), rng())


@property_test(m=st.integers(0, 40), k=st.integers(0, 40), p=st.integers(0, 70))
def test_matmul_agrees_on_any_shape(m, k, p):
    assert_bodies_agree("matmul", (m, k), (k, p))


@property_test(
    shape=st.lists(st.integers(1, 4), max_size=4), stretch1=st.lists(st.booleans(), min_size=4, max_size=4),
    stretch2=st.lists(st.booleans(), min_size=4, max_size=4), drop=st.integers(0, 4),
)  # fmt: skip
def test_broadcasting_agrees_on_any_pair_of_shapes(shape, stretch1, stretch2, drop):
    first = tuple(1 if s else n for n, s in zip(shape, stretch1))
    second = tuple(1 if s else n for n, s in zip(shape, stretch2))[drop:]
    assert_bodies_agree("mul", first, second)
