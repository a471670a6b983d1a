"""Arrays in tuples, lists and dicts: taken apart into a list and put together again."""

from collections.abc import Callable, Iterator
from typing import Any


def leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) for every leaf, in order; what is no tuple, list or dict is a leaf, None is nothing.

    >>> list(leaves({"w": 1.0, "b": [2.0, 3.0]}, "x"))
    [("x['w']", 1.0), ("x['b'][0]", 2.0), ("x['b'][1]", 3.0)]
    """
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from leaves(part, f"{name}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for i, part in enumerate(tree):
            yield from leaves(part, f"{name}[{i}]")
    elif tree is not None:
        yield name, tree


def leaves_like(form: Any, tree: Any, name: str) -> Iterator[Any]:
    """Yield the leaves of ``tree`` in the order of ``form``; ValueError unless both have the same form."""
    if isinstance(form, dict):
        if not isinstance(tree, dict) or set(tree) != set(form):
            raise ValueError(f"{name} must be a dict with the keys {list(form)}, got {described(tree)}")
        for key, part in form.items():
            yield from leaves_like(part, tree[key], f"{name}[{key!r}]")
    elif isinstance(form, (tuple, list)):
        if not isinstance(tree, (tuple, list)) or len(tree) != len(form):
            kind = type(form).__name__
            raise ValueError(f"{name} must be a {kind} of {len(form)}, got {described(tree)}")
        for i, (part, value) in enumerate(zip(form, tree)):
            yield from leaves_like(part, value, f"{name}[{i}]")
    elif form is not None:
        if tree is None or isinstance(tree, (dict, tuple)):
            raise ValueError(f"{name} must be an array, got {described(tree)}")
        yield tree


def described(tree: Any) -> str:
    """Return what a tree is, in a few words."""
    if isinstance(tree, dict):
        return f"the keys {list(tree)}"
    if isinstance(tree, (tuple, list)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return type(tree).__name__


def rebuilt(tree: Any, values: Iterator[Any]) -> Any:
    """Return a tree of the same form with the next of ``values`` in the place of every leaf."""
    if isinstance(tree, dict):
        return {key: rebuilt(part, values) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [rebuilt(part, values) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return None if tree is None else next(values)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree of ``function`` of every leaf."""
    return rebuilt(tree, (function(leaf) for _, leaf in leaves(tree, "")))
