"""The operations. ``OPS`` is the one table: tests, benchmarks and the command line are driven by it."""

from nnkernels.ops import binary, unary
from nnkernels.ops.conv2d import conv2d
from nnkernels.ops.linear import linear
from nnkernels.ops.matmul import matmul
from nnkernels.ops.op import Op, use_backend

__all__ = ["OPS", "Op", "use_backend"]

OPS: dict[str, Op] = {op.name: op for op in (*binary.OPS_HERE, *unary.OPS_HERE, matmul, linear, conv2d)}
