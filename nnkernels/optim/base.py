"""The base of all optimizers: parameter groups, state, and the step over a group's buffers."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.nn.module import Parameter
from nnkernels.ops.steps.records import check_hyper_parameters
from nnkernels.optim.buffers import Buffers, Progress

Group = dict[str, Any]
Params = Iterable[Parameter] | Iterable[Group]

# Options that any group may have: regularisers (see regularizers.py). They are not part of the state.
PENALTY, AFTER_STEP = "penalty", "after_step"


class Optimizer:
    """Base class: parameter groups, each with its own options, and the state of every parameter.

    ``params`` are Parameters, or dicts with the key "params" and options of that group; ``defaults`` are the
    options of groups that do not say otherwise. ``param_groups`` is the list of all groups; changed options
    count from the next step. With one group, ``lr`` is its learning rate.

    Any group may have the options "penalty", a regulariser that ``penalty()`` adds up for the loss, and
    "after_step", one that is applied to the parameters after each step.

    Raises TypeError unless the parameters are Parameters, ValueError when there are none, one comes twice, or
    an option makes no sense.
    """

    progress: tuple[str, ...] = ("step",)  # names of what is no array and changes with every step
    start: Progress = (0,)
    flat = True  # whether a step works element by element, so that all parameters can be one array

    def __init__(self, params: Params, defaults: Mapping[str, Any]) -> None:
        name = type(self).__name__
        self.defaults = dict(defaults)
        self.param_groups: list[Group] = []
        self._buffers: list[Buffers] = []
        if isinstance(params, Parameter):
            raise TypeError(f"{name}: params must hold Parameters, got Tensor; pass a list of Parameters")
        given: list[Any] = list(params)
        if not given:
            raise ValueError(f"{name}: params is empty; pass model.parameters()")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: a dict with "params" and options that differ from the defaults."""
        name = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f'{name}: a parameter group must be a dict with "params", got {param_group!r:.60}'
            )
        params = param_group["params"]
        params = [params] if isinstance(params, Parameter) else list(params)
        for p in params:
            if not isinstance(p, Parameter):
                raise TypeError(f"{name}: params must hold Parameters, got {type(p).__name__}")
        known = [id(p) for p in (*self.params, *params)]
        if len(set(known)) < len(known):
            raise ValueError(f"{name}: params holds the same Parameter more than once")
        group = {**self.defaults, **param_group, "params": params}
        if group.get(PENALTY) is not None and not callable(group[PENALTY]):
            raise TypeError(f"{name}: penalty must be a regulariser such as L2(1e-4), got {group[PENALTY]!r}")
        if group.get(AFTER_STEP) is not None and not hasattr(group[AFTER_STEP], "apply"):
            after = group[AFTER_STEP]
            raise TypeError(f"{name}: after_step must be a regulariser such as MaxNorm(3), got {after!r}")
        check_hyper_parameters(name, {key: group[key] for key in self.defaults})
        self.check_params(params)
        self.param_groups.append(group)
        self._buffers.append(Buffers(params, self.start, self.flat and len(params) > 0))

    def check_params(self, params: list[Parameter]) -> None:
        """Raise ValueError for parameters that the optimizer cannot step; it can all unless it says so."""

    @property
    def params(self) -> list[Parameter]:
        """All parameters, group after group."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The learning rate of the only group; ValueError where there are several."""
        rate: float = self._only_group()["lr"]
        return rate

    @lr.setter
    def lr(self, value: float) -> None:
        self._only_group()["lr"] = value

    def _only_group(self) -> Group:
        if len(self.param_groups) != 1:
            raise ValueError(
                f"{type(self).__name__}: lr is that of {len(self.param_groups)} groups; "
                'use param_groups[i]["lr"]'
            )
        return self.param_groups[0]

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place."""
        for group, buffers in zip(self.param_groups, self._buffers):
            names = self.states(group)
            for name in names:
                if name not in buffers.state:
                    buffers.add(name, self.first(name, group))
            if buffers.gather():
                state: dict[str, Any] = {name: buffers.state[name][0] for name in names}
                after = self.update(group, buffers.flat, buffers.gradient, state, buffers.progress[0])
                buffers.progress = [after] * len(buffers.params)
                for p in buffers.params:
                    p.was_changed()
            else:
                for i, p in enumerate(buffers.params):
                    if p.grad is not None:
                        state = {name: buffers.state[name][1][i] for name in names}
                        before = buffers.progress[i]
                        buffers.progress[i] = self.update(group, p.data, p.grad.data, state, before)
                        p.was_changed()
            if group.get(AFTER_STEP) is not None:
                group[AFTER_STEP].apply(buffers.params, group["lr"])

    def penalty(self) -> Any:
        """Return the sum of all groups' penalties, a Tensor to add to the loss; 0 where no group has one."""
        terms = [g[PENALTY](g["params"]) for g in self.param_groups if g.get(PENALTY) is not None]
        return sum(terms[1:], terms[0]) if terms else 0.0

    # --- what an optimizer defines ---

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the state arrays that a group with these options needs."""
        return ()

    def first(self, name: str, group: Group) -> float:
        """Return what the elements of a state array start with."""
        return 0.0

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update a parameter, or a group's flat buffer, in place; return the new progress."""
        raise TypeError(f"{type(self).__name__} does not define update")

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain dicts, lists, numbers and arrays (copies).

        "state" maps the number of a parameter, counted through all groups, to its state; "param_groups" lists
        the groups' options, with those numbers in the place of the parameters.
        """
        entries = [entry for buffers in self._buffers for entry in buffers.saved(self.progress)]
        groups, at = [], 0
        for group in self.param_groups:
            options = {k: v for k, v in group.items() if k not in ("params", PENALTY, AFTER_STEP)}
            groups.append({**options, "params": list(range(at, at + len(group["params"])))})
            at += len(group["params"])
        return {"state": dict(enumerate(entries)), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state: the next step is bitwise what it would have been without interruption.

        Raises ValueError for a state of other groups or shapes; then nothing is changed.
        """
        who = f"{type(self).__name__}.load_state_dict"
        entries, groups = state_dict["state"], state_dict["param_groups"]
        sizes = [len(g["params"]) for g in groups]
        own = [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{who}: the state has groups of {sizes} parameters, the optimizer's have {own}")
        for i, p in enumerate(self.params):
            for name in self.progress:
                if name not in entries[i]:
                    raise ValueError(f"{who}: parameter {i} has no {name}: the state of another optimizer")
            for name, value in entries[i].items():
                if name not in self.progress and np.shape(value) != p.shape:
                    raise ValueError(
                        f"{who}: {name} of parameter {i} has shape {np.shape(value)}, wanted {p.shape}"
                    )
        at = 0
        for group, saved, buffers in zip(self.param_groups, groups, self._buffers):
            group.update({k: v for k, v in saved.items() if k != "params"})
            buffers.restore([entries[at + i] for i in range(len(group["params"]))], self.progress)
            at += len(group["params"])
