"""PyTorch's side of peers.py: for each row the call that computes the same, and the comparison of results.

Forward passes are those of torch.nn.functional on tensors that ask for no gradient, backward passes the aten
functions that autograd calls: neither pays for autograd. Update steps are torch.optim's with default
arguments.
"""

import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from lenet_against_torch import TorchLeNet5
from peers_networks import CLASSES, NETWORKS, OPTIONS, NetworkCase
from peers_rows import Case
from peers_steps import StepCase, convnet, mlp, step

aten = torch.ops.aten
Call = Callable[[], Any]


def calls(case: Case | StepCase | NetworkCase) -> dict[str, Call]:
    """Return PyTorch's calls for a row: "torch", and "torch_fused" for a fused optimizer."""
    if isinstance(case, NetworkCase):
        return {"torch": network_call(case)}
    if isinstance(case, StepCase):
        return {"torch": training_step(case)}
    row = case.row
    if row.way == "step":
        return {"torch": update_step(case, False), "torch_fused": update_step(case, True)}
    t, dy = [tensor(a) for a in case.arrays], tensor(case.dy)
    a = row.attributes
    if row.way == "fwd":
        return {"torch": FORWARD[row.op](*t, **a)}
    return {"torch": BACKWARD[row.op](dy, *t, needs=list(case.needs), **a)}


def tensor(a: np.ndarray | None) -> torch.Tensor | None:
    """Return a copy in memory of PyTorch's own, or None."""
    return None if a is None else torch.from_numpy(a).clone()


# --- forward ---


def convolution(x, w, b, stride, padding) -> Call:
    function = TF.conv2d if x.ndim == 4 else TF.conv1d
    return lambda: function(x, w, b, stride, padding)


FORWARD: dict[str, Callable[..., Call]] = {
    "conv2d": convolution,
    "conv1d": convolution,
    "matmul": lambda a, b: lambda: torch.mm(a, b),
    "linear": lambda x, w, b: lambda: TF.linear(x, w, b),
    "max_pool2d": lambda x, kernel_size: lambda: TF.max_pool2d(x, kernel_size),
    "avg_pool2d": lambda x, kernel_size: lambda: TF.avg_pool2d(x, kernel_size),
    "relu": lambda x: lambda: torch.relu(x),
    "sigmoid": lambda x: lambda: torch.sigmoid(x),
    "tanh": lambda x: lambda: torch.tanh(x),
    "exp": lambda x: lambda: torch.exp(x),
    "softmax": lambda x: lambda: TF.softmax(x, -1),
    "softmax_cross_entropy": lambda x, t: lambda: TF.cross_entropy(x, t),
    "sum": lambda x, dim: lambda: torch.sum(x) if dim is None else torch.sum(x, dim),
    "batch_norm": lambda x, w, b, eps: lambda: TF.batch_norm(x, None, None, w, b, True, 0.1, eps),
    "layer_norm": lambda x, w, b, normalized_shape, eps: (
        lambda: TF.layer_norm(x, normalized_shape, w, b, eps)
    ),
}  # fmt: skip


# --- backward ---


def convolution_backward(dy, x, w, b, needs, stride, padding) -> Call:
    n = x.ndim - 2
    options = ([stride] * n, [padding] * n, [1] * n, False, [0] * n, 1, needs)
    return lambda: aten.convolution_backward(dy, x, w, list(b.shape), *options)


def linear_backward(dy, x, w, b, needs) -> Call:
    return lambda: (dy.mm(w), dy.t().mm(x), dy.sum(0))


def max_pool2d_backward(dy, x, needs, kernel_size) -> Call:
    k = [kernel_size] * 2
    places = aten.max_pool2d_with_indices(x, k)[1]
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, k, k, [0, 0], [1, 1], False, places)


def avg_pool2d_backward(dy, x, needs, kernel_size) -> Call:
    k = [kernel_size] * 2
    return lambda: aten.avg_pool2d_backward(dy, x, k, k, [0, 0], False, True, None)


def from_result(forward: Callable, backward: Callable) -> Callable[..., Call]:
    """Return the maker of a backward pass that reads dy and y."""

    def make(dy, x, needs) -> Call:
        y = forward(x)
        return lambda: backward(dy, y)

    return make


def cross_entropy_backward(dy, x, t, needs) -> Call:
    logp = torch.log_softmax(x, 1)
    weight = aten.nll_loss_forward(logp, t, None, 1, -100)[1]

    def run():
        g = aten.nll_loss_backward(dy, logp, t, None, 1, -100, weight)
        return aten._log_softmax_backward_data(g, logp, 1, torch.float32)

    return run


def batch_norm_backward(dy, x, w, b, needs, eps) -> Call:
    mean, rstd = aten.native_batch_norm(x, w, b, None, None, True, 0.1, eps)[1:]
    return lambda: aten.native_batch_norm_backward(dy, x, w, None, None, mean, rstd, True, eps, needs)


def layer_norm_backward(dy, x, w, b, needs, normalized_shape, eps) -> Call:
    mean, rstd = aten.native_layer_norm(x, normalized_shape, w, b, eps)[1:]
    return lambda: aten.native_layer_norm_backward(dy, x, normalized_shape, mean, rstd, w, b, needs)


BACKWARD: dict[str, Callable[..., Call]] = {
    "conv2d": convolution_backward,
    "conv1d": convolution_backward,
    "linear": linear_backward,
    "max_pool2d": max_pool2d_backward,
    "avg_pool2d": avg_pool2d_backward,
    "relu": from_result(torch.relu, lambda dy, y: aten.threshold_backward(dy, y, 0)),
    "sigmoid": from_result(torch.sigmoid, lambda dy, y: aten.sigmoid_backward(dy, y)),
    "tanh": from_result(torch.tanh, lambda dy, y: aten.tanh_backward(dy, y)),
    "exp": from_result(torch.exp, lambda dy, y: dy * y),
    "softmax": from_result(
        lambda x: torch.softmax(x, -1),
        lambda dy, y: aten._softmax_backward_data(dy, y, -1, torch.float32),
    ),
    "softmax_cross_entropy": cross_entropy_backward,
    "batch_norm": batch_norm_backward,
    "layer_norm": layer_norm_backward,
}


# --- steps ---


def update_step(case: Case, fused: bool) -> Call:
    """Return a step of torch.optim on one parameter."""
    param, grad = (tensor(a) for a in case.arrays[:2])
    param.requires_grad_()
    param.grad = grad
    optimizer = {"sgd_step": torch.optim.SGD, "adam_step": torch.optim.Adam}[case.row.op]
    optimizer = optimizer([param], fused=True) if fused else optimizer([param])

    def run():
        optimizer.step()
        return (param,)

    return run


def training_step(case: StepCase) -> Call:
    """Return a training step of the same model from the same weights."""
    models = {"MLP": mlp, "CIFAR convnet": convnet, "LeNet-5": lambda nn: TorchLeNet5()}
    model = models[case.row.op](torch.nn)
    model.load_state_dict({name: tensor(w) for name, w in case.weights.items()})
    optimizer = getattr(torch.optim, case.recipe.optimizer)(model.parameters(), **case.recipe.options)
    batches = cycle([(tensor(x), tensor(y)) for x, y in case.batches])
    return lambda: step(model, optimizer, TF.cross_entropy, *next(batches))


# --- networks ---


def network_call(case: NetworkCase) -> Call:
    """Return the same network's training step, or its evaluation, which PyTorch users do not optimise."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "oracles"))
    from torch_models import MODELS

    model = MODELS[NETWORKS[case.row.op]](CLASSES)
    model.load_state_dict({name: tensor(w) for name, w in case.weights.items()})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    x, labels = tensor(case.x), tensor(case.labels)
    if case.row.way == "step":
        optimizer = torch.optim.SGD(model.parameters(), **OPTIONS)
        return lambda: step(model, optimizer, TF.cross_entropy, x, labels)
    model.eval()

    def run():
        with torch.no_grad():
            return (model(x),)

    return run


# --- comparison ---


def compare(case: Case | StepCase | NetworkCase, ours: Call, others: dict[str, Call]) -> None:
    """Raise AssertionError where PyTorch's first result is not ours."""
    if case.row.way == "step" and not isinstance(case, Case):
        compare_losses(case, ours, others["torch"])
        return
    if isinstance(case, NetworkCase):
        a, b = ours()[0], others["torch"]()[0].numpy()
        error = float(np.abs(a - b).max() / np.abs(b).max())
        if not error <= 1e-4:
            raise AssertionError(f"{case.row.name}: outputs differ by {error:.3g} of the largest")
        return
    got = ours()
    gradients = case.row.way not in ("fwd", "step")
    for name, call in others.items():
        wanted = call()
        wanted = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted]
        # forward may keep more for backward behind its result; gradients that are not needed are None.
        mine = [a for a in got if a is not None] if gradients else list(got[:1])
        theirs = [t for t in wanted if t is not None]
        if len(mine) != len(theirs):
            raise AssertionError(f"{case.row.name}: {len(mine)} results, {name} has {len(theirs)}")
        for i, (a, t) in enumerate(zip(mine, theirs)):
            assert_close(a, t.detach().numpy(), case.row.terms, f"{case.row.name}, result {i} and {name}'s")


def assert_close(a: np.ndarray, b: np.ndarray, terms: int, what: str) -> None:
    """Demand equal shapes and a difference as rounding in sums of that many terms explains.

    Rounding errors of a sum grow with the root of its length when signs are random.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise AssertionError(f"{what}: {a.dtype}{a.shape} and {b.dtype}{b.shape}")
    allowed = (16 + 4 * terms**0.5) * np.finfo(a.dtype).eps * float(np.abs(b).max())
    error = float(np.abs(a.astype(np.float64) - b).max())
    if not error <= allowed:  # a NaN must fail
        raise AssertionError(f"{what}: largest difference {error:.3g}, allowed {allowed:.3g}")


def compare_losses(case: StepCase | NetworkCase, ours: Call, theirs: Call) -> None:
    """Demand equal losses before and after the first step: the second has seen every gradient and update."""
    for i, allowed in ((0, 1e-5), (1, 1e-3)):
        a, b = ours(), theirs()
        if not abs(a - b) <= allowed * abs(b):
            raise AssertionError(f"{case.row.name}: loss {a} after {i} steps, PyTorch's {b}")
