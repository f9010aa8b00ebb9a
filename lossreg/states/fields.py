"""Fields of states: how the two values of a field become one when states merge."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays.trees import get_path, tree_map
from ..checks import describe, on_host
from .sums import add_trees, check_shapes, namespace_of

__all__ = [
    "EMPTY", "STATIC", "FieldKind", "concat_field", "is_collected", "max_field", "min_field", "state_field",
    "static_field", "sum_field", "truncate_field",
]  # fmt: skip


class _Empty:
    """The value of a field of the state of no data."""

    def __repr__(self) -> str:
        return "EMPTY"

    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY = _Empty()

STATIC = {"pytree_node": False}
"""Mark of a field that is no data: flax leaves it out of the leaves of JAX's trees."""


class FieldKind(ABC):
    """How the two values of a field merge. `owner` is the state that has the field."""

    @abstractmethod
    def merge(self, a: Any, b: Any, owner: Any) -> Any:
        """The value of both; neither is EMPTY or None."""

    def merge_compensated(self, a: Any, a_lost: Any, b: Any, b_lost: Any, owner: Any) -> tuple[Any, Any]:
        """(value, what rounding took from it), from two values and what rounding took from them; None: nothing."""
        return self.merge(a, b, owner), None

    def finalize(self, value: Any, owner: Any) -> Any:
        """The value after the last merge."""
        return value


@dataclass(frozen=True)
class Elementwise(FieldKind):
    """By a function of NumPy: "minimum" or "maximum"."""

    name: str

    def merge(self, a: Any, b: Any, owner: Any) -> Any:
        return tree_map(self._leaf, a, b)

    def _leaf(self, a: Any, b: Any) -> Any:
        check_shapes(self.name, a, b)
        if type(a) is int and type(b) is int:  # of any size
            return min(a, b) if self.name == "minimum" else max(a, b)
        kinds = {x.dtype.kind if hasattr(x, "dtype") else "" for x in (a, b)}
        if kinds == {"i", "u"} and np.result_type(a.dtype, b.dtype).kind == "f":
            got = f"{describe(a)} and {describe(b)}, whose common dtype rounds"
            raise ValueError(f"Cannot merge {self.name}: expected integers of one dtype, got {got}.")
        return getattr(namespace_of(a if hasattr(a, "dtype") else b), self.name)(a, b)


class Sum(FieldKind):
    """By addition."""

    def merge(self, a: Any, b: Any, owner: Any) -> Any:
        return add_trees(a, None, b, None)[0]

    def merge_compensated(self, a: Any, a_lost: Any, b: Any, b_lost: Any, owner: Any) -> tuple[Any, Any]:
        return add_trees(a, a_lost, b, b_lost)


class _Parts:
    """Arrays that are not concatenated yet, as a binary tree: a merge makes one node, and copies nothing.

    The tree may be as deep as there were merges, so it is walked with a list in place of recursion, and pickled flat.
    """

    __slots__ = ("arrays", "items", "left", "right")

    def __init__(self, left: Any, right: Any, items: int | None = None) -> None:
        self.left, self.right, self.items = left, right, items
        self.arrays: int = sum(x.arrays if isinstance(x, _Parts) else 1 for x in (left, right))

    def __iter__(self) -> Iterator[Any]:
        waiting: list[Any] = [self]
        while waiting:
            part = waiting.pop()
            if isinstance(part, _Parts):
                waiting += (part.right, part.left)
            else:
                yield part

    def __len__(self) -> int:
        return self.arrays

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __repr__(self) -> str:
        first = ", ".join(map(repr, itertools.islice(self, 3)))
        return f"<{self.arrays} arrays to concatenate: {first}{', ...' if self.arrays > 3 else ''}>"

    def __reduce__(self) -> Any:
        return _parts_of, (list(self), self.items)


def _parts_of(arrays: list[Any], items: int | None) -> _Parts:
    parts: _Parts = functools.reduce(_Parts, arrays)
    parts.items = items
    return parts


@dataclass(frozen=True)
class Concat(FieldKind):
    """By concatenation, once the state is finalized."""

    axis: int

    def merge(self, a: Any, b: Any, owner: Any) -> Any:
        return tree_map(_Parts, a, b, is_leaf=is_collected)

    def finalize(self, value: Any, owner: Any) -> Any:
        return tree_map(self._join, value, is_leaf=is_collected)

    def _join(self, parts: Any) -> Any:
        if not isinstance(parts, _Parts):
            return on_host(_at_least_1d(parts))
        return np.concatenate([on_host(_at_least_1d(x)) for x in parts], axis=self.axis)


@dataclass(frozen=True)
class Truncate(Concat):
    """By concatenation of the first items: as many as the number at path `num_field` of the state."""

    num_field: str

    def merge(self, a: Any, b: Any, owner: Any) -> Any:
        return tree_map(functools.partial(self._leaf, owner), a, b, is_leaf=is_collected)

    def finalize(self, value: Any, owner: Any) -> Any:
        return tree_map(lambda x: self._first(owner, self._join(x)), value, is_leaf=is_collected)

    def _leaf(self, owner: Any, a: Any, b: Any) -> Any:
        num, items = self._num(owner), self._count(a)
        if num is not None and items >= num:
            return a
        if not isinstance(b, _Parts):  # those have been cut when they were merged
            b = self._first(owner, b)
        return _Parts(a, b, items + self._count(b))

    def _num(self, owner: Any) -> int | None:
        num: int | None = get_path(owner, self.num_field)
        if num is not None and num < 0:
            raise ValueError(f"Cannot keep the first: expected {self.num_field} to be 0 or more, got {num}.")
        return num

    def _count(self, x: Any) -> int:
        """How many items there are; counted once for parts that were merged."""
        return x.items if isinstance(x, _Parts) and x.items is not None else len(self._items(x))

    def _items(self, x: Any) -> Any:
        """An array with its items on the first axis."""
        return namespace_of(x).moveaxis(_at_least_1d(x), self.axis, 0)

    def _first(self, owner: Any, x: Any) -> Any:
        return namespace_of(x).moveaxis(self._items(x)[: self._num(owner)], 0, self.axis)


class Nested(FieldKind):
    """By the own `merge` of a state."""

    def merge(self, a: Any, b: Any, owner: Any) -> Any:
        return a.merge(b)

    def finalize(self, value: Any, owner: Any) -> Any:
        return value.finalize()


def _field(kind: FieldKind | None, **options: Any) -> Any:
    metadata = {**({} if kind else STATIC), **options.pop("metadata", {}), "lossreg": kind}
    return field(metadata=metadata, **options)


def sum_field(**options: Any) -> Any:
    """Field of an `AutoState` that merges by addition, in float64 or int64.

    What rounding loses is carried along, so that the sum does not depend on the order of merges. Sums of integers are
    exact: Python ints and arrays of no axes have any size, and int64 arrays raise OverflowError before they wrap
    around, for which those on a device are waited for.
    Values may be nested dicts, lists and tuples of arrays. `options` go to `dataclasses.field`.
    """
    return _field(Sum(), **options)


def min_field(**options: Any) -> Any:
    """Field of an `AutoState` that merges by the elementwise minimum."""
    return _field(Elementwise("minimum"), **options)


def max_field(**options: Any) -> Any:
    """Field of an `AutoState` that merges by the elementwise maximum."""
    return _field(Elementwise("maximum"), **options)


def concat_field(*, axis: int = 0, **options: Any) -> Any:
    """Field of an `AutoState` that merges by concatenation, as NumPy arrays once the state is finalized.

    Until then the parts are kept as they are: a merge copies no data, however many parts there are.
    """
    return _field(Concat(axis), **options)


def truncate_field(*, num_field: str, axis: int = 0, **options: Any) -> Any:
    """Like `concat_field`, of which the first are kept: as many as the number at path `num_field` of the state.

    `num_field` is a path such as "parent.num_images"; None there keeps all.
    """
    return _field(Truncate(axis, num_field), **options)


def state_field(**options: Any) -> Any:
    """Field of an `AutoState` that holds another state."""
    return _field(Nested(), **options)


def static_field(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """Field of an `AutoState` that must be equal in states that merge, as fields of no kind must be."""
    return _field(None, default=default, **options)


def is_collected(x: Any) -> bool:
    return isinstance(x, _Parts) or hasattr(x, "dtype")


def _at_least_1d(x: Any) -> Any:
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError("Cannot concatenate masked arrays: expected their numbers (x.compressed()), or x.filled().")
    x = x if hasattr(x, "dtype") else np.asarray(x)
    return x.reshape(1) if x.ndim == 0 else x
