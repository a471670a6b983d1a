"""upsample_nearest2d and upsample_bilinear2d as their definitions: four loops."""

from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit
from nnkernels.machine.memory import Array
from nnkernels.ops.upsample.shapes import Scale, Size, axes, nearest_step, step

Needs = tuple[bool]


@inline
def nearest(p: int, step: Any, H: int) -> Any:
    """floor(p H / P) with float32 ``step`` for H / P."""
    return min(int(np.floor(np.float32(p) * step)), H - 1)


@jit
def nearest_kernel(x: Array, step_h: Any, step_w: Any, y: Array) -> None:
    N, C, H, W = x.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    y[n, c, p, q] = x[n, c, nearest(p, step_h, H), nearest(q, step_w, W)]


@jit
def nearest_backward_kernel(dy: Array, step_h: Any, step_w: Any, dx: Array) -> None:
    N, C, P, Q = dy.shape
    _, _, H, W = dx.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    dx[n, c, nearest(p, step_h, H), nearest(q, step_w, W)] += dy[n, c, p, q]


@inline
def between(p: int, step: float, align_corners: bool, H: int) -> tuple[int, int, float]:
    """The rows of x on either side of row p of y, and the weight of the second."""
    place = p * step if align_corners else max((p + 0.5) * step - 0.5, 0.0)
    h = min(int(place), H - 1)
    return h, min(h + 1, H - 1), min(place - h, 1.0)


@jit
def bilinear_kernel(x: Array, step_h: float, step_w: float, align_corners: bool, y: Array) -> None:
    N, C, H, W = x.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                h, below, a = between(p, step_h, align_corners, H)
                for q in range(Q):
                    w, right, b = between(q, step_w, align_corners, W)
                    upper = (1 - b) * x[n, c, h, w] + b * x[n, c, h, right]
                    lower = (1 - b) * x[n, c, below, w] + b * x[n, c, below, right]
                    y[n, c, p, q] = (1 - a) * upper + a * lower


@jit
def bilinear_backward_kernel(dy: Array, step_h: float, step_w: float, align_corners: bool, dx: Array) -> None:
    N, C, P, Q = dy.shape
    _, _, H, W = dx.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                h, below, a = between(p, step_h, align_corners, H)
                for q in range(Q):
                    w, right, b = between(q, step_w, align_corners, W)
                    dx[n, c, h, w] += (1 - a) * (1 - b) * dy[n, c, p, q]
                    dx[n, c, h, right] += (1 - a) * b * dy[n, c, p, q]
                    dx[n, c, below, w] += a * (1 - b) * dy[n, c, p, q]
                    dx[n, c, below, right] += a * b * dy[n, c, p, q]


def nearest_forward_loops(x: Array, *, size: Size = None, scale_factor: Scale = None) -> tuple[Array]:
    down, along = axes(x.shape, size, scale_factor)
    y = np.empty((*x.shape[:2], down.out, along.out), x.dtype)
    nearest_kernel(x, nearest_step(down), nearest_step(along), y)
    return (y,)


def nearest_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs,
    *, size: Size = None, scale_factor: Scale = None,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = np.zeros_like(inputs[0])
    down, along = axes(dx.shape, size, scale_factor)
    nearest_backward_kernel(dy, nearest_step(down), nearest_step(along), dx)
    return (dx,)


def bilinear_forward_loops(
    x: Array, *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False
) -> tuple[Array]:
    down, along = axes(x.shape, size, scale_factor)
    y = np.empty((*x.shape[:2], down.out, along.out), x.dtype)
    bilinear_kernel(x, step(down, align_corners), step(along, align_corners), align_corners, y)
    return (y,)


def bilinear_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs,
    *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = np.zeros_like(inputs[0])
    down, along = axes(dx.shape, size, scale_factor)
    bilinear_backward_kernel(dy, step(down, align_corners), step(along, align_corners), align_corners, dx)
    return (dx,)
