"""Every kernel that the ops launch, compiled to machine code and read: no GPU is needed for that."""

import numpy as np
import pytest
from launches import demand_the_compiler

from nnkernels.machine.gpu_array import empty
from nnkernels.machine.gpu_assembly import CAPABILITIES, examine, faults, recording
from nnkernels.machine.gpu_kernel import Expected, at, cuda, kernel
from nnkernels.ops import gpu_kernels

pytestmark = pytest.mark.compile

NAMES = gpu_kernels.names()


@pytest.fixture(scope="module", autouse=True)
def _extra():
    demand_the_compiler()


@pytest.fixture(scope="module")
def verdicts(request, _extra):
    """The verdicts on all kernels that the tests of this run ask for: compiled meanwhile, each once."""
    chosen = {
        item.callspec.params["name"] for item in request.session.items if "verdicts" in item.fixturenames
    }
    with gpu_kernels.verdicts(sorted(chosen)) as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_kernels_become_the_code_they_should(name, verdicts):
    wrong = [fault for verdict in verdicts.of(name) for fault in verdict.faults]
    assert not wrong, "\n".join(wrong)


# --- can this fail? ---


def scaled(factor):
    @kernel
    def scaled_kernel(x):
        i = cuda.threadIdx.x
        x[at(i)] = x[at(i)] * (0.1 if factor == "float64" else x.dtype.type(0.1))

    return scaled_kernel


def reversed_rows(trips):
    @kernel
    def reversed_rows_kernel(x):
        row = cuda.local.array(trips, x.dtype)
        first = cuda.threadIdx.x * trips
        for k in range(trips):
            row[k] = x[at(first + k)]
        for k in range(trips):
            x[at(first + k)] = row[trips - 1 - k]

    return reversed_rows_kernel


@kernel(launch_bounds=1024, expected=Expected(stack=1 << 10))  # a block of 1024 leaves 64 registers each
def crowded_kernel(x):
    a, b = cuda.local.array(64, x.dtype), cuda.local.array(64, x.dtype)
    first = 128 * cuda.threadIdx.x
    for k in range(64):
        a[k], b[k] = x[at(first + k)], x[at(first + 64 + k)]
    cuda.syncthreads()
    for k in range(64):
        x[at(first + k)], x[at(first + 64 + k)] = b[63 - k], a[63 - k]


def expecting(**expected):
    @kernel(expected=Expected(**expected))
    def expecting_kernel(x):
        x[at(cuda.threadIdx.x)] = x[at(cuda.threadIdx.x)] * x.dtype.type(3) + x.dtype.type(1)

    return expecting_kernel


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (scaled("float64"), "lines with .f64 in a float32 kernel"),
        (scaled("float32"), None),
        (reversed_rows(256), "1024 bytes of stack, at most 0 expected"),
        (reversed_rows(16), None),
        (crowded_kernel, "bytes spilled"),
        (expecting(registers=1), "registers, at most 1 expected"),
        (expecting(opcodes=("HMMA",)), "no HMMA"),
        (expecting(opcodes=("FFMA", "LDG", "STG")), None),
    ],
)
def test_planted_faults_are_found(start, words, capability):
    with recording() as recorder:
        start[1, 32](empty((1 << 13,), np.float32, recorder))
    (compilation,) = recorder.compilations.values()
    found = faults(examine(compilation, capability), compilation)
    assert (not found) if words is None else any(words in fault for fault in found), found


def test_what_cannot_be_compiled_is_a_fault():
    @kernel
    def wrong_kernel(x):
        x[0] = cuda.no_such_thing

    with recording() as recorder:
        wrong_kernel[1, 1](empty((1,), np.float32, recorder))
    (compilation,) = recorder.compilations.values()
    verdict = gpu_kernels.judge(compilation, (9, 0))
    assert verdict.report is None
    assert "no_such_thing" in verdict.faults[0]


def test_a_kernel_of_several_ops_is_compiled_once(monkeypatch):
    class Pool:
        asked = ()

        def submit(self, function, name, numbers, capability):
            self.asked += ((name, capability, len(numbers)),)

    monkeypatch.setattr(gpu_kernels, "compilations", {n: gpu_kernels.compilations("relu") for n in "ab"}.get)
    pool = Pool()
    verdicts = gpu_kernels.Verdicts("ab", pool)
    assert pool.asked == (("a", (8, 0), 4), ("a", (9, 0), 4), ("b", (8, 0), 0), ("b", (9, 0), 0))
    assert verdicts.places["b"] == verdicts.places["a"] == [("a", k) for k in range(4)]
