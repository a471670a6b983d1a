"""Independent oracles for the ``loops`` bodies, since several bodies can share one wrong idea.

``PLAIN`` maps an op's name to a function of NumPy arrays, made of SciPy or of the textbook's formula in
``longdouble``; it returns the result only, in any float dtype. ``STEPS`` does so for the update steps and
returns all updated arrays. ``TORCH`` maps a name to a function of PyTorch tensors, differentiable by PyTorch.
Nothing here imports nnkernels, and nothing but the functions of ``TORCH`` needs torch.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.signal
import scipy.special

Oracle = Callable[..., Any]


def wide(x):
    return np.asarray(x, np.longdouble)


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)


# --- PLAIN: NumPy and SciPy ---


def sigmoid_plain(x):
    return 1 / (1 + np.exp(-wide(x)))


def tanh_plain(x):
    up, down = np.exp(wide(x)), np.exp(-wide(x))
    return (up - down) / (up + down)


def over_axes(function):
    """Return the reduction that flattens the reduced axes and works on them row by row."""

    def oracle(x, dim=None, keepdim=False):
        dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        dims = sorted(d % x.ndim for d in dims)
        kept = [d for d in range(x.ndim) if d not in dims]
        shape = [x.shape[d] for d in kept]
        n = math.prod(x.shape[d] for d in dims)
        rows = wide(x).transpose(*kept, *dims).reshape(math.prod(shape), n)
        if keepdim:
            shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
        return wide([function(row) for row in rows]).reshape(shape)

    return oracle


def pad_plain(x, padding, value=0.0):
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, n in enumerate(padding):
        (after if i % 2 else before)[x.ndim - 1 - i // 2] = n
    y = np.full([b + n + a for b, n, a in zip(before, x.shape, after)], value, x.dtype)
    for at in np.ndindex(x.shape):
        y[tuple(i + b for i, b in zip(at, before))] = x[at]
    return y


def flatten_plain(x, start_dim=0, end_dim=-1):
    shape = x.shape or (1,)
    first, last = start_dim % len(shape), end_dim % len(shape)
    return x.ravel().reshape(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def concatenate_plain(*xs, dim=0):
    shape = list(xs[0].shape)
    shape[dim] = sum(x.shape[dim] for x in xs)
    rows = [row for x in xs for row in np.moveaxis(x, dim, 0)]
    moved = np.moveaxis(np.empty(shape, xs[0].dtype), dim, 0)
    for i, row in enumerate(rows):
        moved[i] = row
    return np.moveaxis(moved, 0, dim)


def matmul_plain(a, b):
    return (wide(a)[..., :, :, None] * wide(b)[..., None, :, :]).sum(axis=-2)


def linear_plain(x, w, b=None):
    return np.einsum("...i,oi->...o", wide(x), wide(w)) + (0 if b is None else b)


def plane_by_plane(function, x, shape):
    """Return function(plane) for each (H, W) plane of x (N, C, H, W)."""
    y = np.empty((*x.shape[:2], *shape))
    for n, c in np.ndindex(x.shape[:2]):
        y[n, c] = function(x[n, c])
    return y


def windows_in(x, kernel, stride, padding):
    """Return (P, Q) by counting the places where a window starts."""
    return tuple(
        len(range(0, size + 2 * p - k + 1, s))
        for size, k, s, p in zip(x.shape[2:], pair(kernel), pair(stride), pair(padding))
    )


def conv1d_plain(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1):
    padded = np.pad(np.asarray(x, float), ((0, 0), (0, 0), (padding, padding)))
    K, C, S = w.shape
    spread = np.zeros((K, C, dilation * (S - 1) + 1))  # the filters, with zeros where a dilation skips
    spread[..., ::dilation] = w
    rows = [
        [
            sum(
                np.correlate(padded[n, k // (K // groups) * C + c], spread[k, c], mode="valid")
                for c in range(C)
            )
            for k in range(K)
        ]
        for n in range(len(x))
    ]
    y = np.array(rows).reshape(len(x), K, padded.shape[2] - spread.shape[2] + 1)[..., ::stride]
    return y if b is None else y + b[:, None]


def conv2d_plain(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, winograd=None):
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    padded = np.pad(np.asarray(x, float), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    K, C, R, S = w.shape
    spread = np.zeros((K, C, dh * (R - 1) + 1, dw * (S - 1) + 1))
    spread[..., ::dh, ::dw] = w
    P, Q = windows_in(x, spread.shape[2:], stride, padding)
    y = np.zeros((x.shape[0], K, P, Q))
    for n, k, c in np.ndindex(x.shape[0], K, C):
        plane = padded[n, k // (K // groups) * C + c]
        y[n, k] += scipy.signal.correlate2d(plane, spread[k, c], mode="valid")[::sh, ::sw]
    return y if b is None else y + b[:, None, None]


def activated(function):
    """Return ``function`` with the attribute ``activation``, for arrays and for tensors."""
    return lambda *inputs, activation=None, **attributes: (
        function(*inputs, **attributes).clip(0) if activation else function(*inputs, **attributes)
    )


def max_pool2d_plain(x, *, kernel_size, stride=None, padding=0):
    stride = kernel_size if stride is None else stride
    (R, S), (sh, sw), (ph, pw) = pair(kernel_size), pair(stride), pair(padding)

    def pooled(plane):
        padded = np.pad(np.asarray(plane, float), ((ph, ph), (pw, pw)), constant_values=-np.inf)
        # SciPy's windows are centred: the one that starts at i belongs to i + R // 2.
        largest = scipy.ndimage.maximum_filter(padded, size=(R, S), mode="constant", cval=-np.inf)
        return largest[R // 2 :: sh, S // 2 :: sw][:P, :Q]

    P, Q = windows_in(x, kernel_size, stride, padding)
    return plane_by_plane(pooled, x, (P, Q))


def avg_pool2d_plain(x, *, kernel_size, stride=None, padding=0):
    stride = kernel_size if stride is None else stride
    (R, S), (sh, sw), (ph, pw) = pair(kernel_size), pair(stride), pair(padding)

    def pooled(plane):
        padded = np.pad(np.asarray(plane, float), ((ph, ph), (pw, pw)))
        return scipy.signal.correlate2d(padded, np.full((R, S), 1 / (R * S)), mode="valid")[::sh, ::sw]

    return plane_by_plane(pooled, x, windows_in(x, kernel_size, stride, padding))


def normalised(values, eps):
    """Return (values - mean) / sqrt(variance + eps), as wide as can be."""
    values = wide(values)
    mean = values.sum() / values.size
    return (values - mean) / np.sqrt(((values - mean) ** 2).sum() / values.size + np.longdouble(eps))


def batch_norm_plain(x, w, b, *, eps=1e-5):
    y = np.empty(x.shape, np.longdouble)
    for c in range(x.shape[1]):
        y[:, c] = normalised(x[:, c], eps) * (1 if w is None else w[c]) + (0 if b is None else b[c])
    return y


def layer_norm_plain(x, w, b, *, normalized_shape, eps=1e-5):
    y = np.empty(x.shape, np.longdouble)
    for at in np.ndindex(x.shape[: x.ndim - np.size(normalized_shape)]):
        y[at] = normalised(x[at], eps) * (1 if w is None else w) + (0 if b is None else b)
    return y


def softmax_plain(x, dim=-1):
    return scipy.special.softmax(wide(x), axis=dim) if x.size else x


def log_softmax_plain(x, dim=-1):
    return scipy.special.log_softmax(wide(x), axis=dim) if x.size else x


def softmax_cross_entropy_plain(logits, targets, reduction="mean"):
    powers = np.exp(wide(logits))
    p = powers / powers.sum(axis=1, keepdims=True)
    if targets.ndim == 1:
        losses = wide([-np.log(p[i, int(label)]) for i, label in enumerate(targets)])
    else:
        losses = -(wide(targets) * np.log(p)).sum(axis=1)
    return reduced(losses, reduction)


def bce_with_logits_plain(z, y, reduction="mean"):
    y, p = wide(y), 1 / (1 + np.exp(-wide(z)))
    return reduced(-(y * np.log(p) + (1 - y) * np.log(1 - p)), reduction)


def mse_plain(x, y, reduction="mean", half=False):
    return reduced((wide(x) - wide(y)) ** 2 / (2 if half else 1), reduction)


PLAIN: dict[str, Oracle] = {
    "add": lambda a, b: wide(a) + wide(b),
    "sub": lambda a, b: wide(a) - wide(b),
    "mul": lambda a, b: wide(a) * wide(b),
    "div": lambda a, b: wide(a) / wide(b),
    "pow": lambda a, b: np.exp(wide(b) * np.log(wide(a))),
    "maximum": lambda a, b: (wide(a) + wide(b) + abs(wide(a) - wide(b))) / 2,
    "neg": lambda x: 0 - wide(x),
    "exp": lambda x: np.exp(wide(x)),
    "log": lambda x: np.log(wide(x)),
    "sin": lambda x: np.sin(wide(x)),
    "relu": lambda x: (wide(x) + abs(wide(x))) / 2,
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x > 0, wide(x), negative_slope * wide(x)),
    "sigmoid": sigmoid_plain,
    "tanh": tanh_plain,
    "sum": over_axes(math.fsum),
    "mean": over_axes(lambda row: math.fsum(row) / len(row)),
    "max": over_axes(lambda row: sorted(row)[-1]),
    "reshape": lambda x, shape: x.reshape(shape),
    "flatten": flatten_plain,
    "transpose": lambda x, dim0, dim1: np.swapaxes(x, dim0, dim1),
    "permute": lambda x, dims: np.moveaxis(x, dims, range(x.ndim)),
    "slice": lambda x, index: np.asarray(x[index]),
    "pad": pad_plain,
    "concatenate": concatenate_plain,
    "matmul": matmul_plain,
    "linear": activated(linear_plain),
    "conv1d": activated(conv1d_plain),
    "conv2d": activated(conv2d_plain),
    "max_pool2d": max_pool2d_plain,
    "avg_pool2d": avg_pool2d_plain,
    "batch_norm": batch_norm_plain,
    "layer_norm": layer_norm_plain,
    "softmax": softmax_plain,
    "log_softmax": log_softmax_plain,
    "softmax_cross_entropy": softmax_cross_entropy_plain,
    "bce_with_logits": bce_with_logits_plain,
    "mse": mse_plain,
}


# --- STEPS: the update steps ---


def sgd_step_plain(
    param, grad, velocity=None, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
    first=False,
):  # fmt: skip
    g = wide(grad) + weight_decay * wide(param)
    if not momentum:
        return (param - lr * g,) if velocity is None else (param - lr * g, velocity)
    new = g if first else momentum * wide(velocity) + (1 - dampening) * g
    return param - lr * (g + momentum * new if nesterov else new), new


def adam_step_plain(
    param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
):  # fmt: skip
    g = wide(grad) + weight_decay * wide(param)
    m = betas[0] * wide(m) + (1 - betas[0]) * g
    v = betas[1] * wide(v) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


STEPS: dict[str, Oracle] = {"sgd_step": sgd_step_plain, "adam_step": adam_step_plain}


# --- TORCH ---


def functional():
    """Return torch.nn.functional, imported at the first call: PyTorch is optional and slow to load."""
    import torch.nn.functional

    return torch.nn.functional


def amax_torch(x, dim=None, keepdim=False):
    return x.amax(dim=tuple(range(x.ndim)) if dim is None else dim, keepdim=keepdim)


def slice_torch(x, index):
    # PyTorch refuses negative steps; a table of positions does what the index does to them.
    places = np.asarray(np.arange(x.numel()).reshape(tuple(x.shape))[index])
    return x.reshape(-1)[places.ravel().tolist()].reshape(places.shape)


def batch_norm_torch(x, w, b, *, eps=1e-5):
    return functional().batch_norm(x, None, None, w, b, training=True, eps=eps)


def layer_norm_torch(x, w, b, *, normalized_shape, eps=1e-5):
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
    return functional().layer_norm(x, shape, w, b, eps)


def cross_entropy_torch(logits, targets, reduction="mean"):
    targets = targets if targets.is_floating_point() else targets.long()
    return functional().cross_entropy(logits, targets, reduction=reduction)


def mse_torch(x, y, reduction="mean", half=False):
    return functional().mse_loss(x, y, reduction=reduction) * (0.5 if half else 1.0)


TORCH: dict[str, Oracle] = {
    "add": lambda a, b: a.add(b),
    "sub": lambda a, b: a.sub(b),
    "mul": lambda a, b: a.mul(b),
    "div": lambda a, b: a.div(b),
    "pow": lambda a, b: a.pow(b),
    "maximum": lambda a, b: a.maximum(b),
    "neg": lambda x: x.neg(),
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "sin": lambda x: x.sin(),
    "relu": lambda x: x.relu(),
    "leaky_relu": lambda x, negative_slope=0.01: functional().leaky_relu(x, negative_slope),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "sum": lambda x, dim=None, keepdim=False: x.sum(dim=dim, keepdim=keepdim),
    "mean": lambda x, dim=None, keepdim=False: x.mean(dim=dim, keepdim=keepdim),
    "max": amax_torch,
    "reshape": lambda x, shape: x.reshape(shape),
    "flatten": lambda x, start_dim=0, end_dim=-1: x.flatten(start_dim, end_dim),
    "transpose": lambda x, dim0, dim1: x.transpose(dim0, dim1),
    "permute": lambda x, dims: x.permute(dims),
    "slice": slice_torch,
    "pad": lambda x, padding, value=0.0: functional().pad(x, padding, value=value),
    "concatenate": lambda *xs, dim=0: functional().torch.cat(xs, dim=dim),
    "matmul": lambda a, b: a.matmul(b),
    "linear": activated(lambda x, w, b=None: functional().linear(x, w, b)),
    "conv1d": activated(lambda x, w, b=None, **attributes: functional().conv1d(x, w, b, **attributes)),
    "conv2d": activated(
        lambda x, w, b=None, *, winograd=None, **attributes: functional().conv2d(x, w, b, **attributes)
    ),
    "max_pool2d": lambda x, **attributes: functional().max_pool2d(x, **attributes),
    "avg_pool2d": lambda x, **attributes: functional().avg_pool2d(x, **attributes),
    "batch_norm": batch_norm_torch,
    "layer_norm": layer_norm_torch,
    "softmax": lambda x, dim=-1: x.softmax(dim),
    "log_softmax": lambda x, dim=-1: x.log_softmax(dim),
    "softmax_cross_entropy": cross_entropy_torch,
    "bce_with_logits": lambda z, y, reduction="mean": functional().binary_cross_entropy_with_logits(
        z, y, reduction=reduction
    ),
    "mse": mse_torch,
}
