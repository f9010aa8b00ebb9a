"""Nested dicts, lists and tuples: mapped leaf by leaf, and walked along paths such as `preds.boxes[0].xy`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..checks import describe
from ..config.options import ConfigError
from ..synonyms import closest
from .ragged import is_ragged, like

__all__ = ["PathError", "check_path", "get_path", "leaves", "tree_map"]

IsLeaf = Callable[[Any], bool] | None

_STEP = re.compile(r"(?:^|\.)([^\W\d]\w*)|\[(-?\d+)\]|\[('[^']*'|\"[^\"]*\")\]|\.(\d+)")
"""One step of a path: a name, an index, or a name in quotes for one that is no word."""


def tree_map(
    function: Callable[..., Any], tree: Any, *others: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """`function(leaf, *leaves of the others)` for each leaf, arranged as `tree`. Trees of other shapes raise."""
    if is_leaf is not None and is_leaf(tree):
        return function(tree, *others)
    for other in others:
        if not _is_alike(tree, other, is_leaf):
            raise ValueError(f"Cannot combine trees: expected another like {_shape(tree)}, got {_shape(other)}.")
    again = functools.partial(tree_map, function, is_leaf=is_leaf)
    if isinstance(tree, Mapping):
        return {key: again(value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [again(*values) for values in zip(tree, *others)]
        if hasattr(tree, "_fields"):  # a named tuple
            return type(tree)(*parts)
        return type(tree)(parts)
    if is_ragged(tree):
        return like(tree, again(tree.dataXd, *(other.dataXd for other in others)))
    return function(tree, *others)


def _is_alike(tree: Any, other: Any, is_leaf: IsLeaf) -> bool:
    """Whether two trees have the same form at their roots."""
    if isinstance(tree, Mapping):
        return isinstance(other, Mapping) and other.keys() == tree.keys()
    if isinstance(tree, (list, tuple)):
        return type(other) is type(tree) and len(other) == len(tree)
    if is_ragged(tree):
        return is_ragged(other)
    if isinstance(other, (Mapping, list, tuple)):
        return is_leaf is not None and is_leaf(other)
    return True


def leaves(tree: Any, is_leaf: IsLeaf = None) -> Iterator[Any]:
    """The leaves of a tree, in order."""
    if not isinstance(tree, (Mapping, list, tuple)) or (is_leaf is not None and is_leaf(tree)):
        yield tree
        return
    for part in tree.values() if isinstance(tree, Mapping) else tree:
        yield from leaves(part, is_leaf)


def get_path(context: Any, path: str) -> Any:
    """What lies at a path: names are keys of mappings or attributes, `[0]` is an index, `['a b']` any key.

    Attributes that begin with two underscores cannot be read. KeyError names the path, the step that failed and what
    was there instead.
    """
    node, walked = context, ""
    for name, index, text in _steps(path):
        try:
            node = _step_from(node, name, index)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise PathError(_nowhere(path, walked, text, node)) from None
        walked += text
    return node


def _step_from(node: Any, name: str | None, index: int | None) -> Any:
    """What lies one step below a node: a key, an index or an attribute."""
    if isinstance(node, Mapping):
        for key in (name, index):
            if key is not None and key in node:  # asked first: a defaultdict would make what it does not have
                return node[key]
        raise KeyError(name)
    if name is None or (index is not None and not hasattr(node, name)):
        return node[index]
    if name.startswith("__"):  # these lead from an object to its class, and on to the whole program
        raise AttributeError(name)
    return getattr(node, name)


def check_path(path: str) -> None:
    """Raise ConfigError unless a path can be read."""
    _steps(path)


class PathError(KeyError):
    """A path leads nowhere: a KeyError whose message is a sentence."""

    def __str__(self) -> str:
        return str(self.args[0])


def _nowhere(path: str, walked: str, step: str, node: Any) -> str:
    """The sentence about a step that leads nowhere."""
    where = f"'{walked}' is" if walked else "the context is"
    if isinstance(node, Mapping):
        names = [str(key) for key in node]
        there = f"{where} a dict with {', '.join(map(repr, names[:20])) or 'nothing in it'}"
    else:
        names = [name for name in getattr(node, "__dict__", {}) if not name.startswith("_")]
        there = f"{where} {describe(node)}"
        if names:
            there += f" with {', '.join(names[:20])}"
    hint = closest(step.strip(".[]'\""), names) or "."
    return f"Cannot find '{path}': expected '{step.lstrip('.')}', got that {there}{hint}"


@functools.lru_cache(maxsize=4096)
def _steps(path: str) -> list[tuple[str | None, int | None, str]]:
    """(name, index, text) of each step. `.0` has both a name and an index, as it is written for either."""
    steps, end = [], 0
    for step in _STEP.finditer(path):
        if step.start() != end or (step[0].startswith(".") and not end):
            break
        name, index, quoted, number = step.groups()
        key = name or number
        if quoted:
            key = quoted[1:-1]
        digits = index or number
        steps.append((key, int(digits) if digits else None, step[0]))
        end = step.end()
    if not path or end != len(path):
        raise ConfigError([("", f"expected a path such as 'preds.logits' or 'boxes[0].xy', got {path!r}")])
    return steps


def _shape(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return f"a dict with {', '.join(map(repr, tree)) or 'nothing in it'}"
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return f"a {type(tree).__name__} of {len(tree)}"
    return describe(tree)
