"""A second start compiles nothing: every kernel comes from the cache that the first start filled."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from numba.core.dispatcher import Dispatcher

import nnkernels as nnk
from nnkernels.machine.cache import cache_directory


def start():
    command = [sys.executable, "-W", "error", str(Path(__file__).parent / "second_start.py")]
    environment = os.environ | {"PYTHONPATH": str(Path(nnk.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_start_has_no_cache_miss():
    # The directory is that of all tests, so that the first start need not compile what others have compiled.
    # A kernel that cannot be cached, or whose key differs from process to process, misses in every start.
    start()
    second = start()
    assert second["directory"] == str(cache_directory())
    assert second["missed"] == []
    assert second["hits"] > 20  # of kernels called from Python; what they call comes with them


def test_kernels_that_different_processes_compiled_keep_apart(tmp_path):
    # Each process compiles one op of a family, whose loops come from one factory; the last loads them all.
    def errors_of(*ops):
        command = [sys.executable, str(Path(__file__).parent / "one_family.py"), *ops]
        environment = os.environ | {
            "PYTHONPATH": str(Path(nnk.__file__).parents[1]),
            "NUMBA_CACHE_DIR": str(tmp_path),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [float(line) for line in done.stdout.split()]

    family = ("sin", "cos", "neg", "abs", "tanh")
    for op in family:
        assert max(errors_of(op)) < 1e-14
    assert max(errors_of(*family)) < 1e-14


def test_no_kernel_made_by_a_function_captures_a_compiled_one():
    # Numba's key holds what a closure captured, and a dispatcher is another one in every process.
    # By type(): isinstance asks the object, and some that lie in memory answer with a warning.
    kernels = [
        found for found in gc.get_objects()
        if issubclass(type(found), Dispatcher) and found.py_func.__module__.startswith("nnkernels.")
    ]  # fmt: skip
    assert len(kernels) > 50
    for kernel in kernels:
        for cell in kernel.py_func.__closure__ or ():
            captured = cell.cell_contents
            assert not isinstance(captured, Dispatcher), f"{kernel.py_func} captures {captured}"
