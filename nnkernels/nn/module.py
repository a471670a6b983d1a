"""Module: a node of the tree that holds parameters. PyTorch's names, key names and layouts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from nnkernels.autograd import Tensor
from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import check_device, move, overwrite
from nnkernels.machine.memory import Array, as_kernel_array
from nnkernels.ops.validate import is_array

Hook = Callable[["Module", tuple[Any, ...], Any], None]


class Parameter(Tensor):
    """A tensor that a module learns: it needs gradients from the start.

    Holds ``data`` itself where optimizers can update it in place, else a copy. Raises TypeError unless it is
    a float32 or float64 array or Tensor.
    """

    __slots__ = ()

    def __init__(self, data: Array | Tensor) -> None:
        array = array_of(data)
        if not is_array(array) or array.dtype.kind != "f" or array.itemsize not in (4, 8):
            found = array.dtype if is_array(array) else type(array).__name__
            raise TypeError(f"Parameter: data must be a float32 or float64 array, got {found}")
        super().__init__(as_kernel_array(array), requires_grad=True)


def _undefined(self: Any, *inputs: Any, **options: Any) -> Any:
    """Stand in for ``forward`` where a module does not define it."""
    raise TypeError(f"{type(self).__name__} does not define forward")


class Module:
    """Base class of layers and networks.

    Assign Parameters, Modules and buffers as attributes, define ``forward``, call the module like a function:

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = Parameter(np.float32([2.0]))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(np.float32([1, 2, 3])).data
    array([2., 4., 6.], dtype=float32)
    """

    training: bool
    fuses_relu = False  # whether forward takes activation="relu"
    is_relu = False

    def __init__(self) -> None:
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_buffers", {})
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "_forward_hooks", [])
        self.training = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"call super().__init__() before assigning {type(self).__name__}.{name}")
        if name in self._parameters and isinstance(value, Tensor) and not isinstance(value, Parameter):
            # It would no longer be learnt, without a word.
            raise TypeError(f"{name} is a Parameter of {type(self).__name__}; assign a Parameter, or None")
        still_buffer = name in self._buffers and is_array(value)  # computed anew
        self._forget(name)
        if still_buffer:
            self._buffers[name] = value
        elif isinstance(value, Parameter):
            self._parameters[name] = value
        elif isinstance(value, Module):
            self._modules[name] = value
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._forget(name)

    def _forget(self, name: str) -> None:
        for kept in (self._parameters, self._buffers, self._modules):
            kept.pop(name, None)

    def register_buffer(self, name: str, value: Array) -> None:
        """Keep an array that is state but not learnt (running statistics, masks)."""
        setattr(self, name, value)
        self._buffers[name] = value

    # Declared as a value, so that subclasses may give forward any parameters they like.
    forward: Callable[..., Any] = _undefined

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run ``forward``, then the hooks."""
        y = self.forward(*inputs, **options)
        for hook in self._forward_hooks:
            hook(self, inputs, y)
        return y

    def register_forward_hook(self, hook: Hook) -> Callable[[], None]:
        """Call ``hook(module, inputs, output)`` after each call; return a function that removes it."""
        self._forward_hooks.append(hook)
        return lambda: self._forward_hooks.remove(hook)

    # --- the tree ---

    def children(self) -> Iterator["Module"]:
        """Yield the modules directly below."""
        yield from self._modules.values()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Yield (dotted name, module) of this module and all below, parents first."""
        yield prefix, self
        for name, child in self._modules.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator["Module"]:
        """Yield this module and all below."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each parameter once."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{prefix}.{name}" if prefix else name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Yield (dotted name, array) of all buffers."""
        for prefix, module in self.named_modules():
            for name, buffer in module._buffers.items():
                yield (f"{prefix}.{name}" if prefix else name), buffer

    def apply(self, function: Callable[["Module"], None]) -> Self:
        """Call ``function`` on every module, children first; return self."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below to training (or evaluation) behaviour; return self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation behaviour; return self."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    # --- devices ---

    def to(self, device: str) -> Self:
        """Move all parameters, their gradients and buffers to ``device``, "cpu" or "cuda"; return self.

        The Parameters stay the same objects, with the same bits. Integer buffers (counters) stay on the host.
        Raises ValueError for another device, RuntimeError, saying what is missing, where there is no GPU.
        """
        side = check_device(f"{type(self).__name__}.to", device)
        for parameter in self.parameters():
            if (data := move(parameter.data, side)) is not parameter.data:
                parameter.data = data
            if parameter.grad is not None:
                parameter.grad = parameter.grad.detach().to(side)
        for module in self.modules():
            for name, buffer in list(module._buffers.items()):
                if buffer.dtype.kind == "f":
                    setattr(module, name, move(buffer, side))
        return self

    def cpu(self) -> Self:
        """Move everything to the host."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Move everything to the GPU."""
        return self.to("cuda")

    # --- state ---

    def _named_arrays(self) -> Iterator[tuple[str, Array]]:
        """Yield (key, array) of all parameters and buffers; a shared one under each of its names."""
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                yield (f"{prefix}.{name}" if prefix else name), parameter.data
        yield from self.named_buffers()

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters and buffers, in host memory, under PyTorch's key names."""
        return {name: move(array, "cpu").copy() for name, array in self._named_arrays()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Copy the arrays of ``state`` into the parameters and buffers of the same names.

        ``state`` may come from ``state_dict``, from ``io.load``, or from a PyTorch module on the CPU. With
        ``strict=False`` keys may be missing, and those that the module lacks are passed over.

        Raises ValueError naming every key that is missing, unexpected, of another shape or no array of real
        numbers, or one whose numbers the parameter cannot hold; TypeError naming a key whose value is no
        array. Nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: state must be a dict of arrays, got {type(state).__name__}")
        own = dict(self._named_arrays())
        given = {name: _host_array(name, state[name]) for name in own if name in state}
        faults = {
            "missing": [name for name in own if name not in given] if strict else [],
            "unexpected": [str(name) for name in state if name not in own] if strict else [],
            "shapes": [
                f"{name} {array.shape} instead of {own[name].shape}"
                for name, array in given.items()
                if array.shape != own[name].shape
            ],
            "dtypes": [f"{name} holds {a.dtype}" for name, a in given.items() if a.dtype.kind not in "fiub"],
        }
        found = [f"{kind} ({len(keys)}): {', '.join(keys)}" for kind, keys in faults.items() if keys]
        if found:
            raise ValueError(
                f"load_state_dict: the state does not fit {type(self).__name__}:\n" + ";\n".join(found)
            )
        ready = {name: _cast(name, array, own[name].dtype) for name, array in given.items()}
        for name, array in ready.items():
            overwrite(own[name], array)
        for parameter in self.parameters():
            parameter.was_changed()

    # --- showing ---

    def extra_repr(self) -> str:
        """Return what stands between the brackets of the module's line."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, child in self._modules.items():
            first, *rest = repr(child).splitlines()
            lines += [f"  ({name}): {first}", *(f"  {line}" for line in rest)]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    # Attributes set through object.__setattr__, for type checkers.
    _parameters: dict[str, Parameter]
    _buffers: dict[str, Array]
    _modules: dict[str, "Module"]
    _forward_hooks: list[Hook]


def hooked(*modules: Module) -> bool:
    """Return whether any of the modules has a forward hook."""
    return any(module._forward_hooks for module in modules)


def _host_array(name: str, value: Any) -> Array:
    """Return one value of a state as an array in host memory."""
    value = move(array_of(value), "cpu")
    try:
        array = np.asarray(value)
    except Exception as error:  # other libraries' tensors raise what they like
        raise TypeError(f"load_state_dict: {name} cannot become a NumPy array: {error}") from error
    if array.dtype.kind not in "fiub" and not hasattr(value, "dtype"):
        raise TypeError(f"load_state_dict: {name} is {type(value).__name__}, wanted an array of numbers")
    return array


def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return the array in the dtype of the place it goes to; NaN and infinities are kept, none are made."""
    try:
        with np.errstate(over="raise", under="ignore", invalid="raise" if dtype.kind in "iu" else "ignore"):
            return array.astype(dtype, copy=False)
    except FloatingPointError as error:
        raise ValueError(f"load_state_dict: {name} holds numbers that {dtype} cannot hold") from error


class Sequential(Module):
    """Modules applied one after the other; keys are their positions, as PyTorch's.

    A layer that can apply relu itself (``fuses_relu``) does so where a ReLU follows it: the same numbers, one
    pass over memory less. Where one of the two has a forward hook, both are called as they are.
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            if not isinstance(module, Module):
                raise TypeError(f"Sequential: argument {i} must be a Module, got {type(module).__name__}")
            setattr(self, str(i), module)

    def forward(self, x: Any) -> Any:
        """Return the last module's output."""
        modules = list(self._modules.values())
        i = 0
        while i < len(modules):
            module, after = modules[i], modules[i + 1] if i + 1 < len(modules) else None
            if module.fuses_relu and after is not None and after.is_relu and not hooked(module, after):
                x = module.forward(x, activation="relu")
                i += 2
            else:
                x = module(x)
                i += 1
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, i: int) -> Module:
        return list(self.children())[i]
