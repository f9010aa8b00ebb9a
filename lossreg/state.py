"""States: partial results that merge to what one big batch would give."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from .arrays import check_unmasked, real_array
from .checks import describe, fail, on_host
from .frozen import Frozen, as_dataclass
from .interop import OURS, foreign_arrays, our_array
from .ops import Ops, get_ops
from .ops.base import compute_dtype
from .trees import get_path, tree_map

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Stand-in at run time: type checkers read the real one."""
        return lambda cls: cls


__all__ = [
    "AutoState", "AverageState", "CollectFirstState", "CollectingState", "EmptyState", "LossState", "State",
    "TreeState", "concat_field", "max_field", "min_field", "state_field", "static_field", "sum_field",
    "truncate_field",
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

MAX_INT64 = 2**63 - 1

_TOO_LARGE = (
    "Cannot merge sum: expected integer arrays whose sums are less than 2**63, got a larger one; "
    "sum Python ints, which have any size, or arrays of float64."
)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
class _Dataclass(Frozen):
    """Subclasses become frozen dataclasses."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        as_dataclass(cls, eq=False)


class State(_Dataclass, ABC):
    """Immutable partial result of `parent`: `a.merge(b).compute()` is the result over the data of both.

    `sum(states)` merges as well. Subclasses become frozen dataclasses. A decorator that makes them dataclasses changes
    nothing, and that of flax makes them nodes of JAX's trees.
    """

    parent: Any = field(default=None, repr=False, kw_only=True, metadata=STATIC)

    @classmethod
    def empty(cls, parent: Any = None) -> Self:
        """The state of no data: merging it changes nothing."""
        return cls(parent=parent)

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """The state of the data of both. States of different calculators raise."""

    @abstractmethod
    def compute(self) -> Any:
        """The result."""

    def finalize(self) -> Self:
        """The state after its last merge; some states compress themselves here."""
        return self

    def __add__(self, other: Self) -> Self:
        return self.merge(other)

    def __radd__(self, other: Any) -> Self:
        if isinstance(other, int) and other == 0:  # the start value of sum()
            return self
        return NotImplemented

    def merged_parent(self, other: Any) -> Any:
        """The parent of both; raises when the other state came from an unequal calculator."""
        if not isinstance(other, State):
            raise TypeError(f"Cannot merge states: expected a {type(self).__name__}, got {describe(other)}.")
        if type(other) is not type(self):
            raise ValueError(f"Cannot merge states: expected a {type(self).__name__}, got a {type(other).__name__}.")
        parents = [x.parent for x in (self, other) if x.parent is not None]
        if len(parents) == 2 and parents[0] != parents[1]:
            raise ValueError(f"Cannot merge states of different calculators: expected {parents[0]}, got {parents[1]}.")
        return parents[0] if parents else None


class _Kind(ABC):
    """How the two values of a field merge."""

    @abstractmethod
    def merge(self, a: Any, b: Any, state: AutoState) -> Any:
        """The value of both; neither is EMPTY or None."""

    def finalize(self, value: Any, state: AutoState) -> Any:
        """The value after the last merge."""
        return value


@dataclass(frozen=True)
class _Elementwise(_Kind):
    name: str

    def merge(self, a: Any, b: Any, state: AutoState) -> Any:
        return tree_map(self._leaf, a, b)

    def _leaf(self, a: Any, b: Any) -> Any:
        _check_shapes(self.name, a, b)
        if type(a) is int and type(b) is int:  # of any size
            return min(a, b) if self.name == "minimum" else max(a, b)
        kinds = {x.dtype.kind if hasattr(x, "dtype") else "" for x in (a, b)}
        if kinds == {"i", "u"} and np.result_type(a.dtype, b.dtype).kind == "f":
            got = f"{describe(a)} and {describe(b)}, whose common dtype rounds"
            raise ValueError(f"Cannot merge {self.name}: expected integers of one dtype, got {got}.")
        return getattr(_xp(a if hasattr(a, "dtype") else b), self.name)(a, b)


class _Sum(_Kind):
    """Merged together with the rests of its rounding, by `AutoState.merge`."""

    def merge(self, a: Any, b: Any, state: AutoState) -> Any:
        raise NotImplementedError


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
class _Concat(_Kind):
    axis: int

    def merge(self, a: Any, b: Any, state: AutoState) -> Any:
        return tree_map(_Parts, a, b, is_leaf=_is_parts)

    def finalize(self, value: Any, state: AutoState) -> Any:
        return tree_map(self._join, value, is_leaf=_is_parts)

    def _join(self, parts: Any) -> Any:
        if not isinstance(parts, _Parts):
            return on_host(_at_least_1d(parts))
        return np.concatenate([on_host(_at_least_1d(x)) for x in parts], axis=self.axis)


@dataclass(frozen=True)
class _Truncate(_Concat):
    num_field: str

    def merge(self, a: Any, b: Any, state: AutoState) -> Any:
        return tree_map(functools.partial(self._leaf, state), a, b, is_leaf=_is_parts)

    def finalize(self, value: Any, state: AutoState) -> Any:
        return tree_map(lambda x: self._first(state, self._join(x)), value, is_leaf=_is_parts)

    def _leaf(self, state: AutoState, a: Any, b: Any) -> Any:
        num, items = self._num(state), self._count(a)
        if num is not None and items >= num:
            return a
        if not isinstance(b, _Parts):  # those have been cut when they were merged
            b = self._first(state, b)
        return _Parts(a, b, items + self._count(b))

    def _num(self, state: AutoState) -> int | None:
        num: int | None = get_path(state, self.num_field)
        if num is not None and num < 0:
            raise ValueError(f"Cannot keep the first: expected {self.num_field} to be 0 or more, got {num}.")
        return num

    def _count(self, x: Any) -> int:
        """How many items there are; counted once for parts that were merged."""
        return x.items if isinstance(x, _Parts) and x.items is not None else len(self._items(x))

    def _items(self, x: Any) -> Any:
        """An array with its items on the first axis."""
        return _xp(x).moveaxis(_at_least_1d(x), self.axis, 0)

    def _first(self, state: AutoState, x: Any) -> Any:
        return _xp(x).moveaxis(self._items(x)[: self._num(state)], 0, self.axis)


class _State(_Kind):
    def merge(self, a: Any, b: Any, state: AutoState) -> Any:
        return a.merge(b)

    def finalize(self, value: Any, state: AutoState) -> Any:
        return value.finalize()


def _field(kind: _Kind | None, **options: Any) -> Any:
    metadata = {**({} if kind else STATIC), **options.pop("metadata", {}), "lossreg": kind}
    return field(metadata=metadata, **options)


def sum_field(**options: Any) -> Any:
    """Field of an `AutoState` that merges by addition, in float64 or int64.

    What rounding loses is carried along, so that the sum does not depend on the order of merges. Sums of integers are
    exact: Python ints and arrays of no axes have any size, and int64 arrays raise OverflowError before they wrap
    around, for which those on a device are waited for.
    Values may be nested dicts, lists and tuples of arrays. `options` go to `dataclasses.field`.
    """
    return _field(_Sum(), **options)


def min_field(**options: Any) -> Any:
    """Field of an `AutoState` that merges by the elementwise minimum."""
    return _field(_Elementwise("minimum"), **options)


def max_field(**options: Any) -> Any:
    """Field of an `AutoState` that merges by the elementwise maximum."""
    return _field(_Elementwise("maximum"), **options)


def concat_field(*, axis: int = 0, **options: Any) -> Any:
    """Field of an `AutoState` that merges by concatenation, as NumPy arrays once the state is finalized.

    Until then the parts are kept as they are: a merge copies no data, however many parts there are.
    """
    return _field(_Concat(axis), **options)


def truncate_field(*, num_field: str, axis: int = 0, **options: Any) -> Any:
    """Like `concat_field`, of which the first are kept: as many as the number at path `num_field` of the state.

    `num_field` is a path such as "parent.num_images"; None there keeps all.
    """
    return _field(_Truncate(axis, num_field), **options)


def state_field(**options: Any) -> Any:
    """Field of an `AutoState` that holds another state."""
    return _field(_State(), **options)


def static_field(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """Field of an `AutoState` that must be equal in states that merge, as fields of no kind must be."""
    return _field(None, default=default, **options)


def _finalizing(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A `compute` that finds its fields as they are after the last merge."""

    @functools.wraps(compute)
    def of_final(self: AutoState) -> Any:
        return compute(self.finalize())

    of_final.finalizes = True  # type: ignore[attr-defined]
    return of_final


@functools.cache
def _kinds(cls: type[AutoState]) -> dict[str, _Kind]:
    """The fields of a class that merge, with their kinds."""
    found = {f.name: f.metadata.get("lossreg", cls.default_kind) for f in dataclasses.fields(cls)}
    return {name: kind for name, kind in found.items() if kind is not None and name not in ("parent", "rests")}


class AutoState(State):
    """A state whose fields say how they merge: `total: Any = sum_field()`.

    Kinds: `sum_field`, `min_field`, `max_field`, `concat_field`, `truncate_field`, `state_field`; all other fields are
    static: they must be equal, and are not part of the result. `compute()` returns a namespace of the merged values as
    NumPy arrays; a subclass may override it, and finds its fields concatenated there. Arrays on a device stay there
    until then, and those that are collected are not copied before.
    Arrays of PyTorch, JAX and all that have DLPack are taken as well. They are NumPy's or CuPy's from the first merge
    on, and in `compute`.
    """

    rests: Mapping[str, Any] = field(default_factory=dict, repr=False, kw_only=True)
    """What rounding took from the sums."""

    default_kind: ClassVar[_Kind | None] = None
    """Kind of a field that is written without one; None: static."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in inspect.get_annotations(cls).keys() & {f.name for f in dataclasses.fields(cls)}:
            if hasattr(AutoState, name) or name == "rests":
                raise TypeError(f"Cannot make {cls.__name__}: expected fields with names of their own, got {name!r}.")
        if not hasattr(cls.compute, "finalizes"):
            cls.compute = _finalizing(cls.compute)  # type: ignore[method-assign]

    @classmethod
    def empty(cls, parent: Any = None) -> Self:
        """The state of no data; static fields are those of the state that it is merged with."""
        own = [f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "rests")]
        return cls(**cast(Any, dict.fromkeys(own, EMPTY)), parent=parent)

    def merge(self, other: Self) -> Self:
        """Each field by its kind."""
        parent = self.merged_parent(other)
        kinds = _kinds(type(self))
        merged = {
            f.name: _static(f, getattr(self, f.name), getattr(other, f.name))
            for f in dataclasses.fields(self)
            if f.name not in ("parent", "rests", *kinds)
        }
        state = replace(self, parent=parent, **merged)
        rests: dict[str, Any] = {}
        for name, kind in kinds.items():
            a, b = self._ours(name), other._ours(name)
            if a is EMPTY or b is EMPTY:
                kept = other if a is EMPTY else self
                merged[name] = b if a is EMPTY else a
                if name in kept.rests:
                    rests[name] = kept.rests[name]
            elif a is None or b is None:
                if a is not b:
                    raise ValueError(f"Cannot merge field {name}: expected None in both or in neither, got one.")
                merged[name] = None
            elif isinstance(kind, _Sum):
                merged[name], rests[name] = _sum(a, self.rests.get(name), b, other.rests.get(name))
            else:
                merged[name] = kind.merge(a, b, state)
        return replace(state, rests=rests, **{name: merged[name] for name in kinds})

    def finalize(self) -> Self:
        """Collected arrays become one NumPy array each, and all others NumPy's or CuPy's."""
        changed = {}
        for name, kind in _kinds(type(self)).items():
            value = self._ours(name)
            if value is EMPTY or value is None:
                continue
            final = kind.finalize(value, self)
            if final is not getattr(self, name):
                changed[name] = final
        return replace(self, **changed) if changed else self

    def _ours(self, name: str) -> Any:
        """The value of a field, with arrays of NumPy or CuPy in the places of those of other libraries."""
        value = getattr(self, name)
        if type(value) in OURS:
            return value
        return tree_map(functools.partial(our_array, type(self), name), value, is_leaf=_is_parts)

    @_finalizing
    def compute(self) -> Any:
        """A namespace of the fields that merge; None for those of no data."""
        return SimpleNamespace(**{name: _result(getattr(self, name)) for name in _kinds(type(self))})


def weighed(name: str, values: Any, mask: Any) -> tuple[Ops, Any, Any]:
    """(backend, values, their weights in float64 or None): values of weight 0 are 0, whatever they were."""
    if not hasattr(values, "dtype"):
        values = get_ops().asarray(values)
    values = real_array(name, "values", values)
    ops = get_ops(values)
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if mask is None:
        return ops, values, None
    check_unmasked(name, "mask", mask)
    mask = ops.asarray(mask)
    weight = mask.reshape((*mask.shape, *(1 for _ in values.shape[mask.ndim :])))
    fits = len(mask.shape) <= len(values.shape) and all(n in (1, size) for n, size in zip(weight.shape, values.shape))
    if not fits or (mask.ndim and mask.shape[0] != values.shape[0]):
        expected = f"with the first axes of the values, {tuple(values.shape)}"
        raise fail(name, "a mask", expected, f"shape {tuple(mask.shape)}")
    weight = ops.xp.broadcast_to(weight, values.shape).astype(np.float64)
    return ops, ops.xp.where(weight != 0, values, values.dtype.type(0)), weight


class AverageState(AutoState):
    """A weighted sum and what it is divided by. A count of 0 computes to 0."""

    total: Any = sum_field(default=0.0)
    count: Any = sum_field(default=0.0)

    @classmethod
    def empty(cls, parent: Any = None) -> Self:
        """0 over 0. A sum has no count: its states start from `loss.empty()`."""
        return cls(parent=parent)

    @classmethod
    @foreign_arrays
    def from_values(cls, values: Any, *, mask: Any = None) -> Self:
        """The state of an array of values, each with the weight of a mask whose first axes are those of the values.

        What the mask leaves out may hold anything.
        """
        ops, values, weight = weighed("an average", values, mask)
        total = ops.xp.sum(values if weight is None else values * weight, dtype="float64")
        count = float(values.size) if weight is None else ops.scalar(ops.xp.sum(weight, dtype="float64"))
        return cls(total=ops.scalar(total), count=count)

    def compute(self) -> Any:
        """total / count."""
        return self._divided(self.total)

    def _divided(self, total: Any) -> Any:
        if self.count is None:
            return total
        if isinstance(self.count, (int, float)):
            return total / self.count if self.count else 0.0
        return get_ops(self.count).quotient(total, self.count)


class LossState(AverageState):
    """A weighted sum of loss values and what it is divided by.

    `count` is None for sums, which are not divided. A count of 0 computes to 0. On a device both are 0-d arrays.
    """

    @property
    def factor(self) -> Any:
        """What turns the gradient of the total into that of the loss: 1 / count, and 0 where nothing was counted."""
        return self.finalize()._divided(1.0)

    @foreign_arrays
    def scale(self, gradients: Any) -> Any:
        """Gradients of the total, such as those that micro-batches added up, as gradients of the loss.

        Arrays and numbers in nested dicts, lists and tuples; new arrays of the same dtypes.
        """
        factor = self.factor

        def scaled(x: Any) -> Any:
            if not hasattr(x, "dtype"):
                return x * factor
            return (x.astype(compute_dtype(x.dtype), copy=False) * factor).astype(x.dtype, copy=False)

        return tree_map(scaled, gradients)

    def weighted(self, weight: float, parent: Any) -> LossState:
        """The state of a term of a sum: the weight multiplies the total, not the count."""
        rests = {**self.rests, "total": self.rests["total"] * weight} if "total" in self.rests else self.rests
        return replace(self, total=self.total * weight, parent=parent, rests=rests)


class CollectFirstState(AutoState):
    """Keeps the first items of each field: `keep_first` of them.

        class FirstImages(CollectFirstState):
            images: Any

    Its fields need no kind.
    """

    keep_first: int = field(kw_only=True, metadata={**STATIC, "lossreg": None})

    default_kind: ClassVar[_Kind | None] = _Truncate(0, "keep_first")


class CollectingState(AutoState):
    """Keeps all items of each field, one after the other.

        >>> class Scores(CollectingState):
        ...     scores: Any
        ...     labels: Any
        >>> state = Scores(scores=np.array([0.1, 0.9]), labels=np.array([0, 1]))
        >>> (state + Scores(scores=np.array([0.4]), labels=np.array([1]))).compute().scores
        array([0.1, 0.9, 0.4])

    Its fields need no kind. A `compute` of a subclass finds them concatenated, as arrays of NumPy whatever library they
    came from.
    """

    default_kind: ClassVar[_Kind | None] = _Concat(0)


class EmptyState(State):
    """The state of a metric that does nothing."""

    def merge(self, other: Self) -> Self:
        """Nothing and nothing."""
        return replace(self, parent=self.merged_parent(other))

    def compute(self) -> dict[str, Any]:
        """An empty dict."""
        return {}


class TreeState(State):
    """States in nested dicts, lists and tuples."""

    tree: Any = None

    def merge(self, other: Self) -> Self:
        """State by state."""
        parent = self.merged_parent(other)
        trees = [x.tree for x in (self, other) if x.tree is not None]
        tree = trees[0] if trees else None
        if len(trees) > 1:
            tree = tree_map(_merge, *trees)
        return replace(self, tree=tree, parent=parent)

    def finalize(self) -> Self:
        """Each of the states."""
        if self.tree is None:
            return self
        return replace(self, tree=tree_map(lambda x: x.finalize(), self.tree))

    def compute(self) -> Any:
        """Their results, arranged alike; an empty dict for no data."""
        return {} if self.tree is None else tree_map(lambda x: x.compute(), self.tree)


def _static(field: dataclasses.Field[Any], a: Any, b: Any) -> Any:
    """The value of a field that does not merge."""
    if a is EMPTY or b is EMPTY:
        return a if b is EMPTY else b
    if _equal(a, b):
        return a
    name, instead = field.name, ""
    if "lossreg" not in field.metadata:  # written without any of the functions, so perhaps by mistake
        instead = f"; write {name}: Any = sum_field(), or another function that says how it merges"
    got = f"{describe(a)} and {describe(b)}"
    raise ValueError(f"Cannot merge states: expected the same {name} in both, got {got}{instead}.")


def _equal(a: Any, b: Any) -> bool:
    """Arrays by their numbers, which waits for a device."""
    a, b = (our_array(State, "fields", x) for x in (a, b))
    if getattr(a, "ndim", 0) or getattr(b, "ndim", 0):
        return hasattr(a, "dtype") and hasattr(b, "dtype") and np.array_equal(on_host(a), on_host(b))
    return a is b or bool(a == b)


def _sum(a: Any, a_rest: Any, b: Any, b_rest: Any) -> tuple[Any, Any]:
    """(sum, rest) of two trees of numbers that were rounded by their rests."""
    zeros = functools.partial(tree_map, lambda x: 0)
    a_rest = zeros(a) if a_rest is None else a_rest
    b_rest = zeros(b) if b_rest is None else b_rest
    both = tree_map(_two_sum, a, a_rest, b, b_rest)
    return tree_map(_Pair.first, both, is_leaf=_is_pair), tree_map(_Pair.second, both, is_leaf=_is_pair)


class _Pair(tuple):  # type: ignore[type-arg]
    """(number, rest), as one leaf."""

    __slots__ = ()
    first, second = operator.itemgetter(0), operator.itemgetter(1)


def _is_pair(x: Any) -> bool:
    return isinstance(x, _Pair)


def _two_sum(a: Any, a_rest: Any, b: Any, b_rest: Any) -> _Pair:
    """The sum of two numbers and what it misses (Knuth's two-sum; then both are normalized)."""
    a, b = _wide(a), _wide(b)
    _check_shapes("sum", a, b)
    if _is_whole(a) and _is_whole(b):
        return _Pair((_sum_of_integers(a, b), 0))
    with np.errstate(all="ignore"):
        a, a_rest = _as_float(a, a_rest)
        b, b_rest = _as_float(b, b_rest)
        rough = a + b
        there = rough - a
        rest = ((a - (rough - there)) + (b - there)) + (a_rest + b_rest)
        rest = _finite(rest)
        total = rough + rest
        return _Pair((total, _finite(rest - (total - rough))))


def _check_shapes(what: str, a: Any, b: Any) -> None:
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


def _as_float(x: Any, rest: Any) -> tuple[Any, Any]:
    """(number, rest) in float64; what a whole number loses is added to its rest."""
    if type(x) is int:
        rounded = float(x)
        return rounded, rest + (x - int(rounded))
    if not _is_whole(x):
        return x, rest
    high = (x >> 32).astype(np.float64) * 2.0**32
    low = (x & 0xFFFFFFFF).astype(np.float64)
    rounded = high + low
    return rounded, rest + (low - (rounded - high))


def _finite(x: Any) -> Any:
    """0 where a number is not finite."""
    if isinstance(x, (int, float)):
        return x if math.isfinite(x) else 0.0
    return _xp(x).where(_xp(x).isfinite(x), x, 0.0)


def _xp(x: Any) -> Any:
    return get_ops(x).xp if hasattr(x, "dtype") else np


def _is_parts(x: Any) -> bool:
    return isinstance(x, _Parts) or hasattr(x, "dtype")


def _at_least_1d(x: Any) -> Any:
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError("Cannot concatenate masked arrays: expected their numbers (x.compressed()), or x.filled().")
    x = x if hasattr(x, "dtype") else np.asarray(x)
    return x.reshape(1) if x.ndim == 0 else x


def _merge(a: State, b: State) -> State:
    return a.merge(b)


def _result(value: Any) -> Any:
    if value is EMPTY or value is None:
        return None
    if isinstance(value, State):
        return value.compute()
    return tree_map(lambda x: on_host(x) if hasattr(x, "dtype") else x, value)
