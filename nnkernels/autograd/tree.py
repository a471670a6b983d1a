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
