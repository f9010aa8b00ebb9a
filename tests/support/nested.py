"""Helpers that treat arrays, tuples of outputs and lists of sequences alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np


def each(f: Callable[..., Any], *trees: Any) -> Any:
    """`f` on the arrays of equally arranged trees."""
    if isinstance(trees[0], (tuple, list)):
        return type(trees[0])(each(f, *parts) for parts in zip(*trees, strict=True))
    return f(*trees)


def leaves(tree: Any) -> list[Any]:
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, (tuple, list)) else [tree]


def take(tree: Any, index: Any) -> Any:
    """Items of guesses, truths or gradients."""
    if tree is None or isinstance(tree, np.ndarray):
        return None if tree is None else tree[index]
    if isinstance(tree, tuple):
        return tuple(take(part, index) for part in tree)
    return [tree[i] for i in np.arange(len(tree))[index]]


def count(guesses: Any) -> int:
    return len(guesses[0]) if isinstance(guesses, tuple) else len(guesses)


def item_mask(values: Any, keep: np.ndarray) -> Any:
    """A mask for the items of the first axis, in the arrangement that a call takes."""
    if isinstance(values, list):
        return [np.full(len(part), k) for part, k in zip(values, keep, strict=True)]
    return keep.reshape(-1, *(1 for _ in values.shape[1:]))


def frozen(tree: Any) -> Any:
    """A deep copy whose arrays refuse to be written to."""
    tree = copy.deepcopy(tree)
    for leaf in leaves(tree):
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    return tree


def assert_same(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise unless two trees hold the same numbers, with NaN equal to NaN."""
    if isinstance(a, (tuple, list)):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, rtol, atol)
    else:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
