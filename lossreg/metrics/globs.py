"""Paths with wildcards, such as `params.**.bias`: the part of a tree that they lead to."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from ..arrays.trees import PathError, check_path, get_path

__all__ = ["check_glob", "get_glob"]

_WILDCARD = re.compile(r"(?:^|\.)(\*\*?)(?=[.\[]|$)")
_NOTHING = object()


def get_glob(context: Any, path: str) -> Any:
    """The part of a context that a path leads to, arranged as there: `*` is any one step, `**` any number of them.

    What is before the first wildcard is dropped from the result. KeyError where the path leads nowhere.
    """
    head, steps = _read(path)
    tree = context
    if head:
        tree = get_path(context, head)
    if not steps:
        return tree
    part = _pruned(tree, steps, ())
    if part is _NOTHING:
        raise PathError(f"Cannot find '{path}': expected at least one place that it leads to, got none.")
    return part


def check_glob(path: str) -> None:
    """Raise ConfigError unless a path, with or without wildcards, can be read."""
    _read(path)


@functools.lru_cache(maxsize=4096)
def _read(path: str) -> tuple[str, tuple[str, ...]]:
    """(what is before the first wildcard, the steps from there on)."""
    head, *parts = _WILDCARD.split(path)
    if head or not parts:
        check_path(head)
    steps: list[str] = []
    for wildcard, rest in zip(parts[::2], parts[1::2]):
        if wildcard == "*" or steps[-1:] != ["**"]:  # any number of steps twice is any number of steps
            steps.append(wildcard)
        if rest:
            check_path(rest.removeprefix("."))
            steps += [step.strip("'\"") for step in re.findall(r"'[^']*'|\"[^\"]*\"|\w+", rest)]
    return head, tuple(steps)


def _pruned(tree: Any, steps: tuple[str, ...], keys: tuple[str, ...]) -> Any:
    """The leaves of a tree that steps lead to, or to a container of which they do, in their containers."""
    if isinstance(tree, Mapping):
        items = {key: _pruned(value, steps, (*keys, str(key))) for key, value in tree.items()}
        return {key: value for key, value in items.items() if value is not _NOTHING} or _NOTHING
    if isinstance(tree, (list, tuple)):
        parts = [_pruned(value, steps, (*keys, str(i))) for i, value in enumerate(tree)]
        parts = [part for part in parts if part is not _NOTHING]
        if isinstance(tree, tuple):
            return tuple(parts) or _NOTHING
        return parts or _NOTHING
    return tree if _lead_to(steps, keys) else _NOTHING


def _lead_to(steps: tuple[str, ...], keys: tuple[str, ...]) -> bool:
    """Whether steps lead to the place at these keys or to one above it.

    Looks at all ways at once: trying one after the other takes time exponential in the number of `**`.
    """
    taken = _skipped({0}, steps)  # how many steps may have been taken when the next key is looked at
    for key in keys:
        if len(steps) in taken:
            return True
        stayed = {i for i in taken if steps[i] == "**"}
        moved = {i + 1 for i in taken if steps[i] in ("*", key)}
        taken = _skipped(stayed | moved, steps)
    return len(steps) in taken


def _skipped(taken: set[int], steps: tuple[str, ...]) -> set[int]:
    """Also the positions behind each `**`, which may match no key. There are no two of them in a row."""
    return taken | {i + 1 for i in taken if i < len(steps) and steps[i] == "**"}
