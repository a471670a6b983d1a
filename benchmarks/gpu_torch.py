"""PyTorch's side of gpu.py, on the same GPU: cuBLAS, cuDNN and its own kernels, in float32 and with TF32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from gpu_rows import OpCase, TrainingCase
from lenet_against_torch import TorchLeNet5
from peers_steps import step
from peers_torch import BACKWARD, FORWARD

Call = Callable[[], Any]


def prepare() -> dict[str, str]:
    """Let cuDNN try its methods; return versions."""
    torch.backends.cudnn.benchmark = True
    return {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Allow TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    yield


def timed(function: Callable[[], object]) -> float:
    """Return the seconds between two events, one before and one after the function's work."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def tensor(a: np.ndarray | None) -> torch.Tensor | None:
    """Return a copy on the GPU."""
    return None if a is None else torch.from_numpy(a).cuda()


def calls(case: OpCase | TrainingCase) -> dict[str, Call]:
    """Return PyTorch's calls for a row; "torch fused" is an optimizer that is one kernel."""
    if isinstance(case, TrainingCase):
        return {"torch": training_step(case)}
    row, a = case.row, case.row.attributes
    t = [tensor(array) for array in case.arrays]
    if row.way == "step":
        return {"torch": adam_step(t, fused=False), "torch fused": adam_step(t, fused=True)}
    if row.way == "fwd":
        return {"torch": FORWARD[row.op](*t, **a)}
    return {"torch": BACKWARD[row.op](tensor(case.dy), *t, needs=list(case.needs), **a)}


def adam_step(t: list[torch.Tensor], fused: bool) -> Call:
    param = t[0].clone().requires_grad_()
    param.grad = t[1]
    optimizer = torch.optim.Adam([param], fused=fused)

    def run() -> tuple[torch.Tensor]:
        optimizer.step()
        return (param,)

    return run


def training_step(case: TrainingCase) -> Call:
    """Return a step of the same model from the same weights."""
    row = case.row
    model = TorchLeNet5() if row.build is None else row.build(torch.nn)
    names = set(model.state_dict())
    model.load_state_dict({name: torch.from_numpy(w) for name, w in case.weights.items() if name in names})
    model.cuda()
    optimizer = getattr(torch.optim, row.optimizer)(model.parameters(), **row.options)
    x, y = tensor(case.x), tensor(case.y)
    return lambda: step(model, optimizer, TF.cross_entropy, x, y)


def results(found: Any) -> list[np.ndarray]:
    """Return what a call gave, in host memory."""
    found = found if isinstance(found, (tuple, list)) else [found]
    return [
        t.detach().cpu().numpy().copy() if hasattr(t, "detach") else np.asarray(t)
        for t in found
        if t is not None
    ]
