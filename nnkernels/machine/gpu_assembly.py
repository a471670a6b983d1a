"""What the compiler makes of kernels, read without a GPU: PTX, registers, stack, opcodes.

    with recording() as launches:      # ops are called, nothing is computed
        softmax(x)
    report = examine(launches[0], (9, 0))

``Recorder`` is a device that only writes down what is launched, so that every kernel is seen with the types
it is really called with. ``examine`` compiles one of those by Numba and NVIDIA's assembler, and reads the
result.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.gpu import argument_type, compile_ptx, directory_of_tools
from nnkernels.machine.gpu_array import use_device
from nnkernels.machine.gpu_kernel import Kernel
from nnkernels.machine.gpu_simulator import Simulator

CAPABILITIES = ((8, 0), (9, 0))


class Compilation(NamedTuple):
    """A kernel with the types of one launch."""

    kernel: Kernel
    types: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The kernel's place and float type."""
        return f"{self.kernel.place} {'f64' if self.is_double else 'f32'}"

    @property
    def is_double(self) -> bool:
        """Whether any argument is float64."""
        return any("float64" in str(t) for t in self.types)


class Recorder(Simulator):
    """Keeps memory as the simulator does, and writes launches down instead of running them."""

    name = "cuda (recorder)"

    def __init__(self) -> None:
        super().__init__(("forward",))
        self.compilations: dict[tuple[Kernel, str], Compilation] = {}

    def allocate(self, n: int, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """Return memory that is never touched, so that large arrays cost nothing."""
        data = np.empty(n, dtype)
        return data, data

    def fill_zero(self, handle: Any) -> None:
        """Leave it."""

    def copy(self, source: Any, target: Any) -> None:
        """Leave it."""

    def launch(
        self, kernel: Kernel, blocks: tuple[int, ...], threads: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        """Write down the kernel and the types of its arguments."""
        types = tuple(argument_type(a) for a in args)
        self.compilations.setdefault((kernel, str(types)), Compilation(kernel, types))


@contextmanager
def recording() -> Iterator[Recorder]:
    """Let "cuda" mean a Recorder inside the ``with`` block."""
    with use_device(Recorder()) as recorder:
        yield recorder


class Report(NamedTuple):
    """What a kernel became on one architecture."""

    name: str
    capability: tuple[int, int]
    registers: int
    stack: int  # bytes of local memory per thread
    spills: int  # bytes
    shared: int  # bytes per block
    doubles: int  # lines of PTX that mention .f64
    opcodes: Counter[str]  # empty where none are expected


def examine(compilation: Compilation, capability: tuple[int, int]) -> Report:
    """Compile to machine code and read it. Raises RuntimeError where NVIDIA's tools are missing or refuse."""
    ptx = compile_ptx(compilation.kernel, compilation.types, capability)
    tools = Path(directory_of_tools())
    with tempfile.TemporaryDirectory() as scratch:
        source, binary = Path(scratch, "kernel.ptx"), Path(scratch, "kernel.cubin")
        source.write_text(ptx)
        arch = f"sm_{capability[0]}{capability[1]}"
        log = call(tools / "ptxas", "-v", f"-arch={arch}", source, "-o", binary)
        # A disassembler's start takes ten times as long as the assembler's whole work.
        assembly = call(tools / "nvdisasm", "-c", binary) if wanted_opcodes(compilation) else ""
    numbers = {
        key: int(found[1]) if (found := re.search(pattern, log)) else 0 for key, pattern in LOG.items()
    }
    return Report(
        compilation.name, capability, numbers["registers"], numbers["stack"], numbers["spills"],
        numbers["shared"], sum(".f64" in line for line in ptx.splitlines()),
        Counter(re.findall(r"^\s+/\*\w+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", assembly, re.MULTILINE)),
    )  # fmt: skip


LOG = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",
    "spills": r"(\d+) bytes spill stores",
    "shared": r"(\d+) bytes smem",
}


def call(*command: Any) -> str:
    """Return what a tool prints; RuntimeError with its words where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name}: {done.stderr or done.stdout}")
    return done.stdout + done.stderr


def wanted_opcodes(compilation: Compilation) -> tuple[str, ...]:
    """Return the opcodes that the machine code must have."""
    expected = compilation.kernel.expected
    return expected.opcodes64 if compilation.is_double else expected.opcodes


def faults(report: Report, compilation: Compilation) -> list[str]:
    """Return in words what a compiled kernel has that it should not have, or lacks; see ``Expected``."""
    expected = compilation.kernel.expected
    most = expected.registers64 if compilation.is_double else expected.registers
    found = []
    if report.doubles > expected.doubles and not compilation.is_double:
        found.append(f"{report.doubles} lines with .f64 in a float32 kernel")
    if report.registers > most:
        found.append(f"{report.registers} registers, at most {most} expected")
    if report.stack > expected.stack:
        found.append(f"{report.stack} bytes of stack, at most {expected.stack} expected")
    if report.spills:
        found.append(f"{report.spills} bytes spilled")
    for opcode in wanted_opcodes(compilation):
        if not any(name.startswith(opcode) for name in report.opcodes):
            found.append(f"no {opcode}")
    return [f"{report.name} on sm_{report.capability[0]}{report.capability[1]}: {what}" for what in found]
