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
    """`function(leaf, *leaves of the others)` for each leaf, arranged as `tree` is. Trees of other shapes raise."""
    if is_leaf is not None and is_leaf(tree):
        return function(tree, *others)
    for other in others:
        if isinstance(tree, Mapping):
            alike = isinstance(other, Mapping) and other.keys() == tree.keys()
        elif isinstance(tree, (list, tuple)):
            alike = type(other) is type(tree) and len(other) == len(tree)
        elif is_ragged(tree):
            alike = is_ragged(other)
        else:
            alike = not isinstance(other, (Mapping, list, tuple)) or (is_leaf is not None and is_leaf(other))
        if not alike:
            raise ValueError(f"Cannot combine trees: expected another like {_shape(tree)}, got {_shape(other)}.")
    again = functools.partial(tree_map, function, is_leaf=is_leaf)
    if isinstance(tree, Mapping):
        return {key: again(value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [again(*values) for values in zip(tree, *others)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if is_ragged(tree):
        return like(tree, again(tree.dataXd, *(other.dataXd for other in others)))
    return function(tree, *others)


def leaves(tree: Any, is_leaf: IsLeaf = None) -> Iterator[Any]:
    """The leaves of a tree, in order."""
    if (is_leaf is None or not is_leaf(tree)) and isinstance(tree, (Mapping, list, tuple)):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from leaves(part, is_leaf)
    else:
        yield tree


def get_path(context: Any, path: str) -> Any:
    """What lies at a path: names are keys of mappings or attributes, `[0]` is an index, `['a b']` any key.

    Attributes that begin with two underscores are not found. KeyError names the path, the step that failed and what was
    there instead.
    """
    found, walked = context, ""
    for name, index, text in _steps(path):
        try:
            if isinstance(found, Mapping):  # asked first: a defaultdict would make what it does not have
                found = found[next(key for key in (name, index) if key is not None and key in found)]
            elif name is None or (index is not None and not hasattr(found, name)):
                found = found[index]
            elif name.startswith("__"):  # these lead from an object to its class, and on to the whole program
                raise AttributeError(name)
            else:
                found = getattr(found, name)
        except (StopIteration, KeyError, IndexError, TypeError, AttributeError):
            raise PathError(_nowhere(path, walked, text, found)) from None
        walked += text
    return found


def check_path(path: str) -> None:
    """Raise ConfigError unless a path can be read."""
    _steps(path)


class PathError(KeyError):
    """A path leads nowhere: a KeyError whose message is a sentence."""

    def __str__(self) -> str:
        return str(self.args[0])


def _nowhere(path: str, walked: str, step: str, found: Any) -> str:
    """The sentence about a step that leads nowhere."""
    where = f"'{walked}' is" if walked else "the context is"
    if isinstance(found, Mapping):
        names = [str(key) for key in found]
        there = f"{where} a dict with {', '.join(map(repr, names[:20])) or 'nothing in it'}"
    else:
        names = [name for name in getattr(found, "__dict__", {}) if not name.startswith("_")]
        there = f"{where} {describe(found)}" + (f" with {', '.join(names[:20])}" if names else "")
    hint = closest(step.strip(".[]'\""), names) or "."
    return f"Cannot find '{path}': expected '{step.lstrip('.')}', got that {there}{hint}"


@functools.lru_cache(maxsize=4096)
def _steps(path: str) -> list[tuple[str | None, int | None, str]]:
    """(name, index, text) of each step."""
    found, end = [], 0
    for step in _STEP.finditer(path):
        if step.start() != end or (step[0].startswith(".") and not end):
            break
        name, index, quoted, number = step.groups()
        digits = index or number
        key = name or (quoted[1:-1] if quoted else number)
        found.append((key, None if digits is None else int(digits), step[0]))
        end = step.end()
    if not path or end != len(path):
        raise ConfigError([("", f"expected a path such as 'preds.logits' or 'boxes[0].xy', got {path!r}")])
    return found


def _shape(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return f"a dict with {', '.join(map(repr, tree)) or 'nothing in it'}"
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return f"a {type(tree).__name__} of {len(tree)}"
    return describe(tree)
