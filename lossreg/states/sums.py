"""Sums that do not depend on the order of merges: what rounding loses is carried along."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import numpy as np

from ..arrays.trees import tree_map
from ..checks import describe
from ..ops import get_ops

__all__ = ["add_trees", "check_shapes", "namespace_of"]

MAX_INT64 = 2**63 - 1

_TOO_LARGE = (
    "Cannot merge sum: expected integer arrays whose sums are less than 2**63, got a larger one; "
    "sum Python ints, which have any size, or arrays of float64."
)


def add_trees(a: Any, a_lost: Any, b: Any, b_lost: Any) -> tuple[Any, Any]:
    """(sums, what rounding took from them) of two trees of numbers, of which rounding took something as well."""
    zeros = functools.partial(tree_map, lambda x: 0)
    a_lost = zeros(a) if a_lost is None else a_lost
    b_lost = zeros(b) if b_lost is None else b_lost
    both = tree_map(_two_sum, a, a_lost, b, b_lost)
    return tree_map(_Pair.first, both, is_leaf=_is_pair), tree_map(_Pair.second, both, is_leaf=_is_pair)


class _Pair(tuple):  # type: ignore[type-arg]
    """(number, what rounding took from it), as one leaf."""

    __slots__ = ()
    first, second = operator.itemgetter(0), operator.itemgetter(1)


def _is_pair(x: Any) -> bool:
    return isinstance(x, _Pair)


def _two_sum(a: Any, a_lost: Any, b: Any, b_lost: Any) -> _Pair:
    """The sum of two numbers and what it misses (Knuth's two-sum; then both are normalized)."""
    a, b = _wide(a), _wide(b)
    check_shapes("sum", a, b)
    if _is_whole(a) and _is_whole(b):
        return _Pair((_sum_of_integers(a, b), 0))
    with np.errstate(all="ignore"):
        a, a_lost = _as_float(a, a_lost)
        b, b_lost = _as_float(b, b_lost)
        rough = a + b
        b_in_sum = rough - a
        lost = ((a - (rough - b_in_sum)) + (b - b_in_sum)) + (a_lost + b_lost)
        lost = _finite(lost)
        total = rough + lost
        return _Pair((total, _finite(lost - (total - rough))))


def check_shapes(what: str, a: Any, b: Any) -> None:
    if np.shape(a) != np.shape(b):
        raise ValueError(f"Cannot merge {what}: expected shape {np.shape(a)}, got {describe(b)}.")


def _wide(x: Any) -> Any:
    """Python numbers as they are, arrays in float64 or int64; those of no axes on the host are Python numbers."""
    if type(x) in (int, float):
        return x
    if isinstance(x, (bool, np.bool_)):
        return int(x)
    if hasattr(x, "dtype"):
        get_ops(x)  # raises for arrays of a library that no backend handles
        if x.dtype.kind in "fiub" or x.dtype.name == "bfloat16":
            if isinstance(x, (np.generic, np.ndarray)) and not x.ndim:
                return int(x) if x.dtype.kind in "biu" else float(x)
            if x.dtype == np.uint64 and (x > MAX_INT64).any():
                raise OverflowError(_TOO_LARGE)
            return x.astype(np.int64 if x.dtype.kind in "biu" else np.float64, copy=False)
    raise TypeError(f"Cannot merge sum: expected real numbers, got {describe(x)}.")


def _is_whole(x: Any) -> bool:
    return type(x) is int or getattr(getattr(x, "dtype", None), "kind", "") == "i"


def _sum_of_integers(a: Any, b: Any) -> Any:
    """The exact sum of Python ints or int64 arrays. Arrays on a device are waited for."""
    total = a + b
    if type(total) is int:
        return total
    # A sum has wrapped around where it has another sign than both of its terms.
    if (((a ^ total) & (b ^ total)) < 0).any():
        raise OverflowError(_TOO_LARGE)
    return total


def _as_float(x: Any, lost: Any) -> tuple[Any, Any]:
    """(number, lost) in float64; what a whole number loses by that is added to what was lost before."""
    if type(x) is int:
        rounded = float(x)
        return rounded, lost + (x - int(rounded))
    if not _is_whole(x):
        return x, lost
    high = (x >> 32).astype(np.float64) * 2.0**32
    low = (x & 0xFFFFFFFF).astype(np.float64)
    rounded = high + low
    return rounded, lost + (low - (rounded - high))


def _finite(x: Any) -> Any:
    """0 where a number is not finite."""
    if isinstance(x, (int, float)):
        return x if math.isfinite(x) else 0.0
    return namespace_of(x).where(namespace_of(x).isfinite(x), x, 0.0)


def namespace_of(x: Any) -> Any:
    return get_ops(x).xp if hasattr(x, "dtype") else np
