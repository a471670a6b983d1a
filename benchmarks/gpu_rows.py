"""What gpu.py times: rows of op x shape x pass and training steps, and our calls for them.

No PyTorch here: the benchmark runs without it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from peers_rows import BACKWARD, CONV, Row, convolutions_2d, wanted
from peers_steps import step

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, optim
from nnkernels.machine.gpu_array import GpuArray, to_device
from nnkernels.machine.gpu_kernel import at, cuda, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.matmul.precision import get_matmul_precision, set_matmul_precision

GEMM = (256, 512, 1024, 2048, 4096)  # rows and columns of square matrices
IMAGENET = (  # N, C, H, W, K, kernel, stride, padding: the layers of ResNet-18 and -50 at batch 64
    (64, 3, 224, 224, 64, 7, 2, 3), (64, 64, 56, 56, 64, 3, 1, 1), (64, 128, 28, 28, 128, 3, 1, 1),
    (64, 256, 14, 14, 256, 3, 1, 1), (64, 512, 7, 7, 512, 3, 1, 1), (64, 64, 56, 56, 256, 1, 1, 0),
)  # fmt: skip
SOFTMAX = ((4096, 1000), (16384, 4096))
LAYER_NORM = ((4096, 768), (16384, 4096))
PARAMETERS = (("4 Mi params", 4 * 2**20), ("64 Mi params", 64 * 2**20))
BY_TENSOR_CORES = {"matmul", "conv2d"}  # ops that TF32 changes


def op_rows() -> Iterator[Row]:
    """Yield the rows, those first that must not be missing when time is short."""
    for n in GEMM:
        yield Row("matmul", "GEMM", f"{n}x{n}x{n}", "fwd", ((n, n), (n, n)), n, False)
    yield from by_row(SOFTMAX, LAYER_NORM, PARAMETERS)
    yield from convolutions_2d(IMAGENET)
    yield from convolutions_2d(CONV)


def tiny_rows() -> Iterator[Row]:
    """Yield rows that the simulator can run."""
    yield Row("matmul", "GEMM", "8x8x8", "fwd", ((8, 8), (8, 8)), 8, False)
    yield from by_row(((3, 10),), ((3, 16),), (("40 params", 40),))
    yield from convolutions_2d(((2, 2, 6, 6, 3, 3, 1, 1),))


def by_row(softmax: Any, layer_norm: Any, parameters: Any) -> Iterator[Row]:
    for N, C in softmax:
        for way in ("fwd", "bwd"):
            yield Row("softmax", "softmax", f"{N}x{C}", way, ((N, C),), C, False)
    for N, C in layer_norm:
        for way in ("fwd", "bwd"):
            yield Row("layer_norm", "normalisation", f"{N}x{C}", way, ((N, C), (C,), (C,)), N, False,
                      {"normalized_shape": (C,), "eps": 1e-5})  # fmt: skip
    for label, n in parameters:
        yield Row("adam_step", "update step", label, "step", ((n,), (n,), "zeros", "zeros"), 1, False,
                  {"step": 1, "lr": 1e-3})  # fmt: skip


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Let tensor cores multiply our matrices, or not."""
    before = get_matmul_precision()
    set_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        set_matmul_precision(before)


class OpCase:
    """A row with its arrays in host memory, and our call on copies on the device."""

    def __init__(self, row: Row, device: Any) -> None:
        self.row, self.op, self.device = row, OPS[row.op], device
        rng = np.random.default_rng(0)
        self.arrays: tuple[Array, ...] = ()
        for shape in row.shapes:
            shape, fill = (row.shapes[0], np.zeros) if shape == "zeros" else (shape, rng.standard_normal)
            self.arrays += (fill(shape, dtype=np.float32),)
        self.needs = tuple(wanted(row.way, i) for i in range(len(self.arrays)))
        self.placed = tuple(to_device(a, device) for a in self.arrays)
        self.tf32 = row.op in BY_TENSOR_CORES
        self.dy: Array | None = None
        if row.way not in ("fwd", "step"):
            self.outputs = self.op.cuda.forward(*self.placed, **row.attributes)
            self.dy = rng.standard_normal(self.outputs[0].shape, np.float32)
            self.placed_dy = to_device(self.dy, device)

    def ours(self) -> Callable[[], tuple[GpuArray | None, ...]]:
        """Return our call."""
        forward, backward = self.op.cuda
        arrays, attributes, needs = self.placed, self.row.attributes, self.needs
        if self.dy is None:
            return lambda: forward(*arrays, **attributes)[:1]
        dy, outputs = self.placed_dy, self.outputs
        return lambda: backward(dy, outputs, arrays, needs, **attributes)

    def work(self) -> tuple[int, int]:
        """Return (FLOPs, least bytes moved) of a call."""
        flops = self.op.flops(*self.arrays, **self.row.attributes)
        sizes = [a.nbytes for a in self.arrays]
        if self.row.way == "step":
            return flops, sum(sizes) + sum(sizes) - sizes[1]  # all but the gradient are written, too
        if self.dy is None:
            return flops, sum(sizes) + sum(a.nbytes for a in self.ours()()[:1])
        per_element, reads = BACKWARD.get(self.row.op, (None, "inputs"))
        if per_element is not None:
            flops = per_element * self.arrays[0].size
        read = sum(sizes) if reads == "inputs" else 0
        if self.row.way in ("dx", "dw"):  # dx reads w, dw reads x
            read = sizes[1 if self.row.way == "dx" else 0]
        written = sum(n for n, need in zip(sizes, self.needs) if need)
        return flops, self.dy.nbytes + read + written


# --- training steps ---


def resnet(nn: Any, channels: int, blocks: tuple[int, ...], classes: int) -> Any:
    """Return a ResNet of basic blocks (He et al., CVPR 2016, figure 5); ``nn`` is ours or PyTorch's."""

    def convolution(before: int, after: int, kernel: int, stride: int) -> Any:
        return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = convolution(before, after, 3, stride), nn.BatchNorm2d(after)
            self.conv2, self.norm2 = convolution(after, after, 3, 1), nn.BatchNorm2d(after)
            self.relu = nn.ReLU()
            self.short = None
            if stride != 1 or before != after:
                self.short = nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
            return self.relu(y + (x if self.short is None else self.short(x)))

    layers = [convolution(3, channels, 7, 2), nn.BatchNorm2d(channels), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    before = channels
    for i, count in enumerate(blocks):
        for k in range(count):
            after = channels << i
            layers.append(Block(before, after, 2 if i > 0 and k == 0 else 1))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


@dataclass(frozen=True)
class Training:
    """A model, its input, its optimizer, and the multiply-adds of one image's forward pass."""

    name: str
    batch: int
    image: tuple[int, ...]
    classes: int
    build: Callable[[Any], Any] | None  # from ours or PyTorch's nn; None: LeNet-5, which either side has
    optimizer: str
    options: dict[str, Any]
    multiply_adds: int


def resnet18(nn: Any) -> Any:
    return resnet(nn, 64, (2, 2, 2, 2), 1000)


def tiny_resnet(nn: Any) -> Any:
    return resnet(nn, 2, (1, 1), 3)


MOMENTUM = {"lr": 0.01, "momentum": 0.9}
TRAININGS = (
    Training("LeNet-5", 64, (1, 28, 28), 10, None, "Adam", {}, 416_520),
    Training("LeNet-5", 1024, (1, 28, 28), 10, None, "Adam", {}, 416_520),
    Training("ResNet-18", 32, (3, 224, 224), 1000, resnet18, "SGD", MOMENTUM, 1_814_073_344),
)
TINY = (Training("tiny ResNet", 2, (3, 16, 16), 3, tiny_resnet, "SGD", MOMENTUM, 1),)


class TrainingCase:
    """A training step on one batch, which is on the device already."""

    tf32 = True

    def __init__(self, row: Training, device: Any) -> None:
        rng = np.random.default_rng(0)
        self.row, self.device = row, device
        self.x = rng.random((row.batch, *row.image), np.float32)
        self.y = rng.integers(0, row.classes, row.batch)
        self.model = nn.models.LeNet5(rng=0) if row.build is None else row.build(nn)
        self.weights = {name: np.array(w) for name, w in self.model.state_dict().items()}

    def ours(self) -> Callable[[], float]:
        """Return our step, which returns the loss before it."""
        model = self.model.to("cuda")
        optimizer = getattr(optim, self.row.optimizer)(model.parameters(), **self.row.options)
        x, y = nnk.tensor(self.x).to("cuda"), nnk.tensor(self.y).to("cuda")
        return lambda: step(model, optimizer, F.cross_entropy, x, y)

    def work(self) -> tuple[int, int]:
        """Return (FLOPs, 0): backward counts twice forward, bytes are not counted."""
        return 3 * 2 * self.row.multiply_adds * self.row.batch, 0


# --- ceilings ---

CHAINS = 8  # multiply-adds of a thread that do not wait for one another
BLOCK = 256


@kernel
def fma_kernel(trips: int, y: Array) -> None:
    """Do 8 trips multiply-adds per thread in registers."""
    i = cuda.blockIdx.x * BLOCK + cuda.threadIdx.x
    a, b = y.dtype.type(0.999), y.dtype.type(0.001)
    s0 = y.dtype.type(i)
    s1, s2, s3 = s0 + b, s0 + a, s0 - b
    s4, s5, s6, s7 = s0 - a, s1 + a, s2 + b, s3 - a
    for _ in range(trips):
        s0, s1, s2, s3 = cuda.fma(s0, a, b), cuda.fma(s1, a, b), cuda.fma(s2, a, b), cuda.fma(s3, a, b)
        s4, s5, s6, s7 = cuda.fma(s4, a, b), cuda.fma(s5, a, b), cuda.fma(s6, a, b), cuda.fma(s7, a, b)
    y[at(i)] = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7


def fma_peak(device: Any, blocks: int, trips: int) -> float:
    """Return FLOP/s of multiply-adds in registers, float32: the best of some runs."""
    y = to_device(np.zeros(blocks * BLOCK, np.float32), device)
    fma_kernel[blocks, BLOCK](trips, y)  # compiles
    best = min(device.timed(lambda: fma_kernel[blocks, BLOCK](trips, y)) for _ in range(5))
    return 2 * CHAINS * trips * blocks * BLOCK / best


def copy_bandwidth(device: Any, elements: int) -> float:
    """Return bytes per second, read and written, of the driver's copy: the best of some runs."""
    x = to_device(np.zeros(elements, np.float32), device)
    y = x.copy()
    best = min(device.timed(lambda: y.copy_from(x)) for _ in range(10))
    return 2 * x.nbytes / best
