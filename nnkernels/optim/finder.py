"""The learning-rate range test: the loss while the rate grows exponentially from batch to batch.

Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from nnkernels.nn.module import Module
from nnkernels.optim.base import Optimizer
from nnkernels.optim.sgd import SGD


class RateSearch(NamedTuple):
    """What ``lr_finder`` has seen: rates, the loss of the batch before each, smoothed losses, a suggestion.

    The suggestion is the rate at which the smoothed loss fell fastest, before it was lowest; None when it
    never fell. The mean of past losses lags behind: half the suggestion is on the safe side.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None


def lr_finder(
    model: Module,
    loss_fn: Callable[[Any, Any], Any],
    loader: Iterable[tuple[Any, Any]],
    optimizer: Optimizer | None = None,
    *,
    start_lr: float = 1e-6,
    end_lr: float = 10.0,
    num_iter: int = 100,
    smoothing: float = 0.8,
    diverge: float = 4.0,
) -> RateSearch:
    """Train for ``num_iter`` batches with rates from ``start_lr`` to ``end_lr``; return what happened.

    Stops early when the smoothed loss exceeds ``diverge`` times the best so far, or is not finite. Afterwards
    the model (weights, buffers, mode) and the optimizer are as they were. ``loader`` yields (x, y) and is
    gone through again when it ends; without ``optimizer``, SGD takes the steps. ``smoothing`` is the share of
    the past in the mean of the losses.
    """
    if not 0 < start_lr < end_lr:
        raise ValueError(f"lr_finder: wanted 0 < start_lr < end_lr, got {start_lr!r} and {end_lr!r}")
    if num_iter < 2 or not 0 <= smoothing < 1 or diverge <= 1:
        raise ValueError(
            "lr_finder: num_iter must be at least 2, smoothing in [0, 1) and diverge above 1, got "
            f"{num_iter}, {smoothing} and {diverge}"
        )
    optimizer = SGD(model.parameters()) if optimizer is None else optimizer
    weights, state = model.state_dict(), optimizer.state_dict()
    modes = [(m, m.training) for m in model.modules()]
    gradients = [p.grad for p in optimizer.params]
    model.train()
    try:
        rates, losses, smoothed = climb(
            model, loss_fn, loader, optimizer, (start_lr, end_lr, num_iter), smoothing, diverge
        )
    finally:
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        for module, mode in modes:
            module.training = mode
        for p, gradient in zip(optimizer.params, gradients):
            p.grad = gradient
    return RateSearch(rates, losses, smoothed, steepest(rates, smoothed))


def climb(
    model: Module,
    loss_fn: Callable[[Any, Any], Any],
    loader: Iterable[tuple[Any, Any]],
    optimizer: Optimizer,
    span: tuple[float, float, int],
    smoothing: float,
    diverge: float,
) -> tuple[list[float], list[float], list[float]]:
    """Take the steps; return rates, losses and smoothed losses."""
    start, end, count = span
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, best = 0.0, math.inf
    for i, (x, y) in enumerate(endless(loader, count)):
        value = loss_fn(model(x), y)
        loss = value.item()
        if not math.isfinite(loss):
            break
        # Divided by the sum of its weights, as Adam's means are: the first losses count fully.
        mean = smoothing * mean + (1 - smoothing) * loss
        level = mean / (1 - smoothing ** (i + 1))
        rate = start * (end / start) ** (i / (count - 1))
        rates.append(rate)
        losses.append(loss)
        smoothed.append(level)
        best = min(best, level)
        if level > best + (diverge - 1) * abs(best):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return rates, losses, smoothed


def endless(loader: Iterable[tuple[Any, Any]], count: int) -> Any:
    """Yield ``count`` batches, going through the loader as often as it takes."""
    done = 0
    while done < count:
        before = done
        for batch in loader:
            yield batch
            done += 1
            if done == count:
                return
        if done == before:
            raise ValueError("lr_finder: loader yields no batches (an iterator that is used up?)")


def steepest(rates: list[float], losses: list[float]) -> float | None:
    """Return the rate where the loss falls fastest per factor of the rate, None where it never falls.

    Beyond the lowest loss, training has begun to diverge: a fall there says nothing.
    """
    lowest = losses.index(min(losses)) if losses else 0
    falls = [(losses[i - 1] - losses[i + 1], rates[i]) for i in range(1, lowest)]
    fall, rate = max(falls, default=(0.0, 0.0))
    return rate if fall > 0 else None
