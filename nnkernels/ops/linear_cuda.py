"""linear on a GPU: products by ``gemm_cuda``, with bias and relu in the end; bound 2 N I O FLOPs each."""

from nnkernels.machine.gpu_array import GpuArray, empty, zeros
from nnkernels.ops.activation import through_relu_cuda
from nnkernels.ops.matmul.cuda import as_rows
from nnkernels.ops.matmul.gemm_cuda import gemm_cuda
from nnkernels.ops.reduce.cuda import sum_pass

Inputs = tuple[GpuArray, GpuArray, GpuArray | None]
Grads = tuple[GpuArray | None, GpuArray | None, GpuArray | None]


def linear_forward_cuda(
    x: GpuArray, w: GpuArray, b: GpuArray | None = None, *, activation: str | None = None
) -> tuple[GpuArray]:
    (O, I), rows = w.shape, as_rows(x)  # noqa: E741
    y = empty((*x.shape[:-1], O), x.dtype, x.device)
    gemm_cuda(rows, w, y, (len(rows), O, I), transpose_b=True, bias=b, relu=activation == "relu")
    return (y,)


def linear_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: Inputs, needs: tuple[bool, bool, bool], *,
    activation: str | None = None,
) -> Grads:  # fmt: skip
    (x, w, _), dtype, device = inputs, dy.dtype, dy.device
    (O, I), N = w.shape, len(as_rows(x))  # noqa: E741
    if activation == "relu":
        dy = through_relu_cuda(dy, outputs[0])
    dx = dw = db = None
    if needs[0]:
        dx = empty(x.shape, dtype, device)
        gemm_cuda(dy, w, dx, (N, I, O))
    if needs[1]:
        dw = empty(w.shape, dtype, device)
        gemm_cuda(dy, x, dw, (O, I, N), transpose_a=True)
    if needs[2]:
        db = zeros((O,), dtype, device) if N == 0 else empty((O,), dtype, device)
        if dy.size > 0:
            sum_pass(dy, (1, N, O), dy.dtype.type(1), db)
    return dx, dw, db
