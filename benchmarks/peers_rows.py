"""What peers.py times: rows of op x shape x pass, and our call for each.

No PyTorch here: a process that times our own bodies must not have its thread pool beside them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np

from nnkernels.machine.memory import Array, empty
from nnkernels.ops import OPS
from nnkernels.ops.checks import copies

Shape = tuple[int, ...] | int | str | None

CONV = (  # N, C, H, W, K, kernel, stride, padding
    (64, 1, 28, 28, 6, 5, 1, 2), (64, 6, 14, 14, 16, 5, 1, 0), (64, 3, 32, 32, 32, 3, 1, 1),
    (64, 32, 32, 32, 64, 3, 1, 1), (64, 64, 16, 16, 128, 3, 2, 1), (8, 3, 224, 224, 64, 7, 2, 3),
    (8, 64, 56, 56, 64, 3, 1, 1), (8, 128, 28, 28, 128, 3, 1, 1), (8, 256, 14, 14, 256, 3, 1, 1),
    (8, 512, 7, 7, 512, 3, 1, 1), (8, 64, 56, 56, 256, 1, 1, 0), (1, 3, 227, 227, 64, 11, 4, 2),
    (16, 32, 33, 31, 48, 3, 1, 1), (4, 5, 17, 29, 7, 3, 2, 1),
)  # fmt: skip
CONV1D = ((64, 16, 256, 32, 5, 1, 2), (16, 64, 1000, 64, 9, 1, 4))  # N, C, L, K, kernel, stride, padding
GEMM = (  # M, K, P: (M, K) @ (K, P)
    (64, 64, 64), (128, 128, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048),
    (64, 784, 128), (1000, 33, 77), (1, 4096, 1000),
)  # fmt: skip
POOL = ((64, 6, 28, 28), (64, 64, 56, 56))
ELEMENTS = (("64x6x28x28", (64, 6, 28, 28)), ("4 Mi", (4 * 2**20,)))
CLASSES = ((64, 10), (4096, 1000))
MATRIX = (2048, 2048)
IMAGES = ((64, 32, 28, 28), (8, 64, 56, 56))  # batch norm
TOKENS = ((64, 128), (4096, 768))  # layer norm, over the last axis
PARAMETERS = (("61,706 params", 61_706), ("4 Mi params", 4 * 2**20))
QUICK = {  # the shapes of --quick, each with all its passes
    "conv2d": (CONV[1], CONV[7]), "conv1d": CONV1D[:1], "matmul": (GEMM[2], GEMM[4]), "linear": (GEMM[6],),
}  # fmt: skip

# What backward does for each element of x, and which arrays it reads beside dy: the inputs, what forward kept
# for it, or none. Convolutions and products are counted by their own flops.
BACKWARD = {
    "relu": (1, "inputs"), "exp": (1, "inputs"), "sigmoid": (3, "inputs"), "tanh": (3, "inputs"),
    "softmax": (4, "inputs"), "softmax_cross_entropy": (2, "kept"), "max_pool2d": (1, "kept"),
    "avg_pool2d": (1, ""), "batch_norm": (8, "inputs"), "layer_norm": (8, "inputs"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: an op on arrays of given shapes, one pass of it.

    ``shapes`` are filled with random numbers; a whole number n stands for n labels below the row length of
    the first array, "zeros" for zeros in the first array's shape, None for no array. ``terms`` is the length
    of the longest sum, which decides how far two right answers may lie apart.
    """

    op: str
    family: str
    label: str
    way: str  # fwd, bwd, dx, dw, step
    shapes: tuple[Shape, ...]
    terms: int
    quick: bool
    attributes: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.op} {self.label} {self.way}"

    def build(self) -> "Case":
        return Case(self)


class Case:
    """A row with its arrays: what both libraries are called on."""

    def __init__(self, row: Row) -> None:
        rng = np.random.default_rng(0)
        self.row, self.op = row, OPS[row.op]
        self.arrays = tuple(filled(rng, row, shape) for shape in row.shapes)
        self.needs = tuple(
            a is not None and a.dtype.kind == "f" and i not in self.op.constants and wanted(row.way, i)
            for i, a in enumerate(self.arrays)
        )
        self.dy = None
        if row.way not in ("fwd", "step"):
            y = self.op.tuned.forward(*self.arrays, **row.attributes)[0]
            self.dy = aligned(np.asarray(rng.standard_normal(y.shape), y.dtype))

    def call(self, body: str) -> Callable[[], tuple[Array | None, ...]]:
        """Return our call, on arrays of its own: update steps overwrite theirs."""
        arrays = tuple(None if a is None else aligned(a) for a in self.arrays)
        attributes = self.row.attributes
        forward, backward = self.op.body(body)
        if self.row.way == "step":
            return lambda: forward(*arrays, **attributes)[:1]  # the parameter, moved
        if self.dy is None:
            return lambda: forward(*arrays, **attributes)
        dy, needs = self.dy, self.needs
        outputs = forward(*arrays, **attributes)
        return lambda: backward(dy, outputs, arrays, needs, **attributes)

    def work(self) -> tuple[int, int]:
        """Return (FLOPs, least bytes moved) of a call."""
        arrays, attributes = copies(self.arrays), self.row.attributes
        outputs = self.op.tuned.forward(*arrays, **attributes)
        flops = self.op.flops(*arrays, **attributes)
        if self.dy is None:
            return flops, self.op.bytes(arrays, outputs[0])
        grads = self.op.tuned.backward(self.dy, outputs, arrays, self.needs, **attributes)
        per_element, reads = BACKWARD.get(self.row.op, (None, "inputs"))
        if per_element is not None:
            flops = per_element * arrays[0].size
        elif self.row.way == "bwd":
            flops *= 2  # dx and dw: as many multiply-adds each as forward
        read = {"inputs": arrays, "kept": outputs[1:], "": ()}[reads]
        if self.row.way in ("dx", "dw"):  # dx reads w, dw reads x
            read = (arrays[1 if self.row.way == "dx" else 0],)
        return flops, sum(a.nbytes for a in (self.dy, *read, *grads) if a is not None)


def filled(rng: np.random.Generator, row: Row, shape: Shape) -> Array | None:
    """Return what stands for a shape of ``Row.shapes``."""
    if shape is None:
        return None
    if isinstance(shape, int):
        return rng.integers(0, row.shapes[0][1], shape)
    if shape == "zeros":
        return aligned(np.zeros(row.shapes[0], np.float32))
    return aligned(np.asarray(rng.standard_normal(shape), np.float32))


def aligned(a: Array) -> Array:
    """Return a copy as the layers of a network hand them on: from the pool."""
    copy = empty(a.shape, a.dtype)
    copy[...] = a
    return copy


def wanted(way: str, i: int) -> bool:
    """Say whether a pass computes the gradient of input i: dx that of the first, dw those of the others."""
    return {"dx": i == 0, "dw": i > 0}.get(way, True)


# --- the rows ---


def convolutions() -> Iterator[Row]:
    yield from convolutions_2d(CONV)
    yield from convolutions_1d()


def convolutions_2d(shapes: Iterable[tuple[int, ...]]) -> Iterator[Row]:
    for shape in shapes:
        N, C, H, W, K, k, s, p = shape
        P, Q = (H + 2 * p - k) // s + 1, (W + 2 * p - k) // s + 1
        label = f"{N}x{C}x{H}x{W} {K} {k}x{k}" + f" s{s}" * (s > 1) + f" p{p}" * (p > 0)
        arrays = ((N, C, H, W), (K, C, k, k), (K,))
        for way, terms in (("fwd", C * k * k), ("dx", K * k * k), ("dw", N * P * Q)):
            yield Row("conv2d", "conv2d", label, way, arrays, terms, shape in QUICK["conv2d"],
                      {"stride": s, "padding": p})  # fmt: skip


def convolutions_1d() -> Iterator[Row]:
    for shape in CONV1D:
        N, C, L, K, k, s, p = shape
        for way, terms in (("fwd", C * k), ("dx", K * k), ("dw", N * L)):
            yield Row("conv1d", "conv1d", f"{N}x{C}x{L} {K} {k} p{p}", way, ((N, C, L), (K, C, k), (K,)),
                      terms, shape in QUICK["conv1d"], {"stride": s, "padding": p})  # fmt: skip


def products() -> Iterator[Row]:
    for shape in GEMM:
        M, K, P = shape
        yield Row("matmul", "GEMM", f"{M}x{K}x{P}", "fwd", ((M, K), (K, P)), K, shape in QUICK["matmul"])
    for shape in GEMM:
        M, K, P = shape
        for way, terms in (("fwd", K), ("bwd", max(M, P))):
            yield Row("linear", "GEMM", f"{M}x{K}x{P}", way, ((M, K), (P, K), (P,)), terms,
                      shape in QUICK["linear"])  # fmt: skip


def by_element() -> Iterator[Row]:
    for op in ("max_pool2d", "avg_pool2d"):
        for shape in POOL:
            for way in ("fwd", "bwd"):
                label = f"{'x'.join(map(str, shape))} k2"
                yield Row(op, "pooling", label, way, (shape,), 4, shape == POOL[0], {"kernel_size": 2})
    for op in ("relu", "sigmoid", "tanh", "exp"):
        for label, shape in ELEMENTS:
            for way in ("fwd", "bwd"):
                quick = label == "4 Mi" and op in ("relu", "tanh")
                yield Row(op, "elementwise", label, way, (shape,), 1, quick)


def by_row() -> Iterator[Row]:
    for op, labels in (("softmax", ()), ("softmax_cross_entropy", (1,))):
        for N, C in CLASSES:
            arrays = ((N, C), *(N for _ in labels))
            for way in ("fwd", "bwd"):
                yield Row(op, "softmax, loss", f"{N}x{C}", way, arrays, max(N, C), N > 64)
    # Backward of sum has no row: PyTorch returns a stretched view and leaves the writing to whoever reads it.
    for over, dim in (("all", None), ("rows", 1), ("columns", 0)):
        terms = prod(MATRIX) if dim is None else MATRIX[dim]
        label = f"2048x2048 over {over}"
        yield Row("sum", "reduction", label, "fwd", (MATRIX,), terms, dim is None, {"dim": dim})


def normalisations() -> Iterator[Row]:
    for shape in IMAGES:
        N, C, H, W = shape
        for way in ("fwd", "bwd"):
            yield Row("batch_norm", "normalisation", f"{N}x{C}x{H}x{W}", way, (shape, (C,), (C,)), N * H * W,
                      N == 8, {"eps": 1e-5})  # fmt: skip
    for N, C in TOKENS:
        for way in ("fwd", "bwd"):
            yield Row("layer_norm", "normalisation", f"{N}x{C}", way, ((N, C), (C,), (C,)), max(N, C), N > 64,
                      {"normalized_shape": (C,), "eps": 1e-5})  # fmt: skip


def update_steps() -> Iterator[Row]:
    for label, n in PARAMETERS:
        yield Row("sgd_step", "update step", label, "step", ((n,), (n,), None), 1, False, {"lr": 1e-3})
    for label, n in PARAMETERS:
        yield Row("adam_step", "update step", label, "step", ((n,), (n,), "zeros", "zeros"), 1, n > 10**6,
                  {"step": 1, "lr": 1e-3})  # fmt: skip


def op_rows() -> list[Row]:
    """Return the rows of all ops that OPS holds."""
    makers = (convolutions, products, by_element, by_row, normalisations, update_steps)
    return [row for make in makers for row in make() if row.op in OPS]
