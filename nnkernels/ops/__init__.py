"""The operations. ``OPS`` is the one table: tests, benchmarks and the command line are driven by it."""

from nnkernels.ops import (
    adaptive_pool,
    assemble,
    binary,
    cross_entropy,
    dropout,
    graph,
    group_norm,
    layer_norm,
    local_response_norm,
    losses,
    nll_loss,
    pool1d,
    pooling,
    rectifiers,
    recurrent,
    reduce,
    shape,
    smooth_rectifiers,
    softmax,
    steps,
    unary,
    upsample,
)
from nnkernels.ops.attention import attention
from nnkernels.ops.batch_norm import batch_norm
from nnkernels.ops.batch_norm.inference import batch_norm_inference
from nnkernels.ops.conv1d import conv1d
from nnkernels.ops.conv2d import conv2d
from nnkernels.ops.conv3d import conv3d
from nnkernels.ops.conv_transpose1d import conv_transpose1d
from nnkernels.ops.conv_transpose2d import conv_transpose2d
from nnkernels.ops.embedding import embedding
from nnkernels.ops.linear import linear
from nnkernels.ops.matmul import matmul
from nnkernels.ops.maxout import maxout
from nnkernels.ops.op import Op, use_backend
from nnkernels.ops.prelu import prelu
from nnkernels.ops.unpool import max_unpool2d

__all__ = ["OPS", "Op", "use_backend"]

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        *(matmul, linear, conv2d, conv1d),
        *(attention, embedding),
        *recurrent.OPS_HERE,
        *(conv3d, conv_transpose1d, conv_transpose2d),
        *pooling.OPS_HERE,
        *adaptive_pool.OPS_HERE,
        *pool1d.OPS_HERE,
        max_unpool2d,
        *upsample.OPS_HERE,
        batch_norm,
        batch_norm_inference,
        *layer_norm.OPS_HERE,
        *group_norm.OPS_HERE,
        *local_response_norm.OPS_HERE,
        *dropout.OPS_HERE,
        *graph.OPS_HERE,
        *binary.OPS_HERE,
        *unary.OPS_HERE,
        *rectifiers.OPS_HERE,
        *smooth_rectifiers.OPS_HERE,
        *(prelu, maxout),
        *reduce.OPS_HERE,
        *shape.OPS_HERE,
        *assemble.OPS_HERE,
        *softmax.OPS_HERE,
        *cross_entropy.OPS_HERE,
        *nll_loss.OPS_HERE,
        *losses.OPS_HERE,
        *steps.OPS_HERE,
    )
}
