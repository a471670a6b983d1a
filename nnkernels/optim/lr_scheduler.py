"""Learning-rate schedules: the rate as a function of how often ``step()`` was called, usually per epoch.

    schedule = CosineAnnealingLR(optimizer, T_max=20)
    for epoch in range(20):
        ...                    # optimizer.step() for every batch
        schedule.step()

A schedule reads each group's rate when it is made, keeps it there as "initial_lr", and sets the first rate of
its own. Schedules given by a factor multiply the rate by the factor's change, so several of them, stepped one
after the other, multiply; the others set the rate outright. PyTorch's names, defaults and rates; to resume,
``load_state_dict`` takes the place of ``last_epoch``.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from nnkernels.optim.base import Group, Optimizer

Rates = list[float]


def demand(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def positive_int(who: str, name: str, value: Any) -> None:
    """Demand an int of at least 1."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    demand(good, f"{who}: {name} must be an int of at least 1, got {value!r}")


class LRScheduler:
    """Base class: ``rates()`` says what the learning rates of all groups are after ``last_epoch`` steps.

    Raises TypeError unless ``optimizer`` is an Optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._attach(optimizer)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: Rates = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._set(self.rates())

    def _attach(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            name = type(self).__name__
            raise TypeError(f"{name}: optimizer must be an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer

    def _set(self, rates: Rates) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = list(rates)

    def rates(self) -> Rates:
        """Return the learning rate of every group, given last_epoch; every schedule defines it."""
        raise TypeError(f"{type(self).__name__} does not define rates")

    def step(self) -> None:
        """Count one more epoch and set the rates."""
        self.last_epoch += 1
        self._set(self.rates())

    def restart(self) -> None:
        """Set the rates of epoch 0, whatever they are now."""
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate
        self.last_epoch = 0
        self._set(self.rates())

    def get_last_lr(self) -> Rates:
        """Return the rates that the last step set, one per group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return all but the optimizer and functions."""
        return {
            k: list(v) if isinstance(v, list) else v
            for k, v in self.__dict__.items()
            if k != "optimizer" and not any(map(callable, v if isinstance(v, list) else [v]))
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state; the optimizer's own holds the rates."""
        self.__dict__.update({k: list(v) if isinstance(v, list) else v for k, v in state_dict.items()})


class FactorLR(LRScheduler):
    """Base of schedules lr = floor + (initial_lr - floor) factor(epoch)."""

    floor = 0.0

    def factor(self, epoch: int) -> float:
        """Return the factor after so many steps."""
        raise TypeError(f"{type(self).__name__} does not define factor")

    def rates(self) -> Rates:
        """Return the rates there are, changed as the factor changes from the last epoch to this one."""
        now = self.factor(self.last_epoch)
        before = self.factor(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        current = [group["lr"] for group in self.optimizer.param_groups]
        if now == before:
            return current
        if abs(before) < 1e-12:  # nothing left to multiply: start from the initial rate
            return [lr + (base - self.floor) * now for lr, base in zip(current, self.base_lrs, strict=True)]
        return [self.floor + (lr - self.floor) * (now / before) for lr in current]


class StepLR(FactorLR):
    """lr times gamma after every ``step_size`` epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        positive_int("StepLR", "step_size", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """gamma to the power of the steps passed."""
        return float(self.gamma ** (epoch // self.step_size))


class MultiStepLR(FactorLR):
    """lr times gamma at each of the ``milestones``, epochs counted from 0; one given twice counts twice."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """gamma to the power of the milestones passed."""
        return float(self.gamma ** bisect_right(self.milestones, epoch))


class ConstantLR(FactorLR):
    """lr times ``factor`` for ``total_iters`` epochs, then lr."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5) -> None:
        demand(0 <= factor <= 1, f"ConstantLR: factor must be from 0 to 1, got {factor!r}")
        self.first_factor, self.total_iters = factor, total_iters
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """The first factor, then 1."""
        return self.first_factor if epoch < self.total_iters else 1.0


class LinearLR(FactorLR):
    """lr times a factor that goes from ``start_factor`` to ``end_factor`` in ``total_iters`` epochs."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:  # fmt: skip
        demand(0 < start_factor <= 1, f"LinearLR: start_factor must be in (0, 1], got {start_factor!r}")
        demand(0 <= end_factor <= 1, f"LinearLR: end_factor must be from 0 to 1, got {end_factor!r}")
        positive_int("LinearLR", "total_iters", total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """On the line between both factors."""
        share = min(epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * share


class ExponentialLR(FactorLR):
    """lr times gamma after every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """gamma to the power of the epoch."""
        return float(self.gamma**epoch)


class CosineAnnealingLR(FactorLR):
    """From lr down to ``eta_min`` along half a cosine in ``T_max`` epochs, then up again."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        positive_int("CosineAnnealingLR", "T_max", T_max)
        self.T_max, self.eta_min = T_max, eta_min
        self.floor = eta_min
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """(1 + cos(pi epoch / T_max)) / 2."""
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class LambdaLR(LRScheduler):
    """initial_lr times lr_lambda(epoch), a function or one per group."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | list[Callable[[int], float]]
    ) -> None:
        self._attach(optimizer)
        count = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * count
        demand(
            len(self.lr_lambdas) == count,
            f"LambdaLR: lr_lambda has {len(self.lr_lambdas)} functions, wanted {count}, one per group",
        )
        super().__init__(optimizer)

    def rates(self) -> Rates:
        """Return each initial rate times its function."""
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half cosines from lr to ``eta_min``: the first takes T_0 epochs, each next T_mult times as many.

    Loshchilov and Hutter, SGDR, ICLR 2017.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> None:
        positive_int("CosineAnnealingWarmRestarts", "T_0", T_0)
        positive_int("CosineAnnealingWarmRestarts", "T_mult", T_mult)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer)

    def rates(self) -> Rates:
        """Return the rates at this place of the cosine that the epoch lies in."""
        at, length = self.last_epoch, self.T_0
        while at >= length:
            at, length = at - length, length * self.T_mult
        factor = (1 + math.cos(math.pi * at / length)) / 2
        return [self.eta_min + (base - self.eta_min) * factor for base in self.base_lrs]


def per_group(name: str, optimizer: Optimizer, value: float | Sequence[float]) -> list[float]:
    """Return one number per group, from one for all or a list."""
    count = len(optimizer.param_groups)
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * count
    demand(len(values) == count, f"{name} has {len(values)} values, wanted {count}, one per group")
    return [float(v) for v in values]


class OneCycleLR(LRScheduler):
    """Up to ``max_lr`` and down again in ``total_steps`` steps, momentum the other way; step it per batch.

    From max_lr / div_factor to max_lr in the share ``pct_start`` of all steps, then down to
    max_lr / (div_factor * final_div_factor); with ``three_phase``, first back to where it began. Momentum (or
    the first of betas) goes from ``max_momentum`` to ``base_momentum`` and back, unless ``cycle_momentum`` is
    False. Smith and Topin, Super-Convergence, 2017.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | list[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85, max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
    ) -> None:  # fmt: skip
        self._attach(optimizer)
        if total_steps is None:
            demand(
                epochs is not None and steps_per_epoch is not None,
                "OneCycleLR: give total_steps, or epochs and steps_per_epoch",
            )
            positive_int("OneCycleLR", "epochs", epochs)
            positive_int("OneCycleLR", "steps_per_epoch", steps_per_epoch)
            total_steps = (epochs or 0) * (steps_per_epoch or 0)
        positive_int("OneCycleLR", "total_steps", total_steps)
        demand(0 <= pct_start <= 1, f"OneCycleLR: pct_start must be from 0 to 1, got {pct_start!r}")
        known = anneal_strategy in ("cos", "linear")
        demand(known, f'OneCycleLR: anneal_strategy must be "cos" or "linear", got {anneal_strategy!r}')
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.peaks = per_group("OneCycleLR: max_lr", optimizer, max_lr)
        self.starts = [peak / div_factor for peak in self.peaks]
        self.ends = [start / final_div_factor for start in self.starts]
        self.low = per_group("OneCycleLR: base_momentum", optimizer, base_momentum)
        self.high = per_group("OneCycleLR: max_momentum", optimizer, max_momentum)
        has = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
        demand(has or not cycle_momentum, "OneCycleLR: cycle_momentum needs momentum or betas to cycle")
        first, last = pct_start * total_steps - 1, float(total_steps - 1)
        # Each phase: its last step, then the rates and the momenta it goes from and to.
        self.phases: list[tuple[float, Rates, Rates, list[float], list[float]]] = [
            (first, self.starts, self.peaks, self.high, self.low),
            (last, self.peaks, self.ends, self.low, self.high),
        ]
        if three_phase:
            second = 2 * pct_start * total_steps - 2
            self.phases[1:] = [
                (second, self.peaks, self.starts, self.low, self.high),
                (last, self.starts, self.ends, self.high, self.high),
            ]
        for group, start in zip(optimizer.param_groups, self.starts):
            group["initial_lr"] = start
        super().__init__(optimizer)

    def between(self, start: float, end: float, share: float) -> float:
        """Return what lies this share of the way from start to end."""
        if self.anneal_strategy == "linear":
            return start + (end - start) * share
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    def rates(self) -> Rates:
        """Return the rates of this step, and set the momenta."""
        demand(
            self.last_epoch <= self.total_steps,
            f"OneCycleLR: step {self.last_epoch} of {self.total_steps}: the cycle is over",
        )
        begin = 0.0
        for phase in self.phases:
            end, rates_from, rates_to, momenta_from, momenta_to = phase
            if self.last_epoch <= end or phase is self.phases[-1]:
                break
            begin = end
        share = (self.last_epoch - begin) / (end - begin) if end > begin else 1.0
        if self.cycle_momentum:
            for group, a, b in zip(self.optimizer.param_groups, momenta_from, momenta_to):
                set_momentum(group, self.between(a, b, share))
        return [self.between(a, b, share) for a, b in zip(rates_from, rates_to)]


def set_momentum(group: Group, value: float) -> None:
    """Set a group's momentum, which is the first of its betas if it has those."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


class ReduceLROnPlateau(LRScheduler):
    """lr times ``factor`` when the measure given to ``step`` has not improved for ``patience`` epochs.

    Better is below (``mode="min"``) or above ("max") the best so far by the share ``threshold`` of it
    (``threshold_mode="rel"``) or by ``threshold`` itself ("abs"). After a reduction, ``cooldown`` epochs do
    not count; rates stay at or above ``min_lr``, and do not change by ``eps`` or less.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0,
        min_lr: float | list[float] = 0.0, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        self._attach(optimizer)
        who = "ReduceLROnPlateau"
        demand(factor < 1, f"{who}: factor must be below 1, got {factor!r}")
        demand(mode in ("min", "max"), f'{who}: mode must be "min" or "max", got {mode!r}')
        known = threshold_mode in ("rel", "abs")
        demand(known, f'{who}: threshold_mode must be "rel" or "abs", got {threshold_mode!r}')
        self.mode, self.factor, self.patience, self.threshold = mode, factor, patience, threshold
        self.threshold_mode, self.cooldown, self.eps = threshold_mode, cooldown, eps
        self.min_lrs = per_group(f"{who}: min_lr", optimizer, min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def better(self, value: float) -> bool:
        """Return whether the value is better than the best by more than the threshold."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * value > sign * self.best * (1 + sign * self.threshold)
        return sign * value > sign * self.best + self.threshold

    def step(self, metrics: Any) -> None:  # type: ignore[override]  # as PyTorch's
        """Count one more epoch, which had this measure."""
        self.last_epoch += 1
        value = float(metrics)
        if self.better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lower = max(group["lr"] * self.factor, least)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class SequentialLR(LRScheduler):
    """One schedule after the other: the next begins, at its epoch 0, at each of the ``milestones``.

        warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=5)
        schedule = SequentialLR(optimizer, [warm_up, CosineAnnealingLR(optimizer, T_max=45)], milestones=[5])

    Each starts from the rates that the optimizer had before the first of them was made.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int]) -> None:
        self._attach(optimizer)
        demand(len(schedulers) > 0, "SequentialLR: schedulers is empty")
        for i, s in enumerate(schedulers):
            good = isinstance(s, LRScheduler) and not isinstance(s, ReduceLROnPlateau)
            name = type(s).__name__
            demand(good, f"SequentialLR: schedulers[{i}] must be a schedule of its epoch alone, got {name}")
            demand(s.optimizer is optimizer, f"SequentialLR: schedulers[{i}] belongs to another optimizer")
        demand(
            len(milestones) == len(schedulers) - 1,
            f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones, got "
            f"{len(milestones)}",
        )
        self.schedulers, self.milestones, self.last_epoch = schedulers, list(milestones), 0
        self._begin(bisect_right(self.milestones, 0))

    def _begin(self, i: int) -> None:
        self.schedulers[i].restart()
        self._last_lr = self.schedulers[i].get_last_lr()

    def step(self) -> None:
        """Step the schedule whose turn it is."""
        self.last_epoch += 1
        i = bisect_right(self.milestones, self.last_epoch)
        if i > 0 and self.milestones[i - 1] == self.last_epoch:
            self._begin(i)
        else:
            self.schedulers[i].step()
            self._last_lr = self.schedulers[i].get_last_lr()

    def restart(self) -> None:
        """Begin with the first schedule again."""
        self.last_epoch = 0
        self._begin(bisect_right(self.milestones, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with those of the schedules under "schedulers"."""
        own = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "schedulers")}
        return {**own, "schedulers": [s.state_dict() for s in self.schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state."""
        own = dict(state_dict)
        for schedule, state in zip(self.schedulers, own.pop("schedulers"), strict=True):
            schedule.load_state_dict(state)
        self.__dict__.update(own)
