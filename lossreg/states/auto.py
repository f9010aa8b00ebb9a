"""`AutoState`: a state whose fields say how they merge; and states that collect what they are given."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ..arrays.dlpack import OURS, our_array
from ..arrays.trees import tree_map
from ..checks import describe, on_host
from .base import State
from .fields import EMPTY, STATIC, Concat, FieldKind, Truncate, is_collected

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AutoState", "CollectFirstState", "CollectingState"]


def _finalizing(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A `compute` that finds its fields as they are after the last merge."""

    @functools.wraps(compute)
    def of_final(self: AutoState) -> Any:
        return compute(self.finalize())

    of_final.finalizes = True  # type: ignore[attr-defined]
    return of_final


@functools.cache
def _kinds(cls: type[AutoState]) -> dict[str, FieldKind]:
    """The fields of a class that merge, with their kinds."""
    found = {f.name: f.metadata.get("lossreg", cls.default_kind) for f in dataclasses.fields(cls)}
    return {name: kind for name, kind in found.items() if kind is not None and name not in ("parent", "compensation")}


class AutoState(State):
    """A state whose fields say how they merge: `total: Any = sum_field()`.

    Kinds: `sum_field`, `min_field`, `max_field`, `concat_field`, `truncate_field`, `state_field`; all other fields are
    static: they must be equal, and are not part of the result. `compute()` returns a namespace of the merged values as
    NumPy arrays; a subclass may override it, and finds its fields concatenated there. Arrays on a device stay there
    until then, and those that are collected are not copied before.
    Arrays of PyTorch, JAX and all that have DLPack are taken as well. They are NumPy's or CuPy's from the first merge
    on, and in `compute`.
    """

    compensation: Mapping[str, Any] = field(default_factory=dict, repr=False, kw_only=True)
    """What rounding took from the sums, by field."""

    default_kind: ClassVar[FieldKind | None] = None
    """Kind of a field that is written without one; None: static."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in inspect.get_annotations(cls).keys() & {f.name for f in dataclasses.fields(cls)}:
            if hasattr(AutoState, name) or name == "compensation":
                raise TypeError(f"Cannot make {cls.__name__}: expected fields with names of their own, got {name!r}.")
        if not hasattr(cls.compute, "finalizes"):
            cls.compute = _finalizing(cls.compute)  # type: ignore[method-assign]

    @classmethod
    def empty(cls, parent: Any = None) -> Self:
        """The state of no data; static fields are those of the state that it is merged with."""
        own = [f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "compensation")]
        return cls(**cast(Any, dict.fromkeys(own, EMPTY)), parent=parent)

    def merge(self, other: Self) -> Self:
        """Each field by its kind."""
        parent = self.merged_parent(other)
        kinds = _kinds(type(self))
        static = {
            f.name: _static(f, getattr(self, f.name), getattr(other, f.name))
            for f in dataclasses.fields(self)
            if f.name not in ("parent", "compensation", *kinds)
        }
        # Kinds may depend on static fields, so these come first.
        state = replace(self, parent=parent, **static)
        values: dict[str, Any] = {}
        compensation: dict[str, Any] = {}
        for name, kind in kinds.items():
            values[name], lost = self._merged_field(name, kind, other, state)
            if lost is not None:
                compensation[name] = lost
        return replace(state, compensation=compensation, **values)

    def _merged_field(self, name: str, kind: FieldKind, other: Self, state: Self) -> tuple[Any, Any]:
        """(value, what rounding took from it) of a field."""
        a, a_lost = self._ours(name), self.compensation.get(name)
        b, b_lost = other._ours(name), other.compensation.get(name)
        if a is EMPTY:
            return b, b_lost
        if b is EMPTY:
            return a, a_lost
        if a is None and b is None:
            return None, None
        if a is None or b is None:
            raise ValueError(f"Cannot merge field {name}: expected None in both or in neither, got one.")
        return kind.merge_compensated(a, a_lost, b, b_lost, state)

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
        return tree_map(functools.partial(our_array, type(self), name), value, is_leaf=is_collected)

    @_finalizing
    def compute(self) -> Any:
        """A namespace of the fields that merge; None for those of no data."""
        return SimpleNamespace(**{name: _result(getattr(self, name)) for name in _kinds(type(self))})


class CollectFirstState(AutoState):
    """Keeps the first items of each field: `keep_first` of them.

        class FirstImages(CollectFirstState):
            images: Any

    Its fields need no kind.
    """

    keep_first: int = field(kw_only=True, metadata={**STATIC, "lossreg": None})

    default_kind: ClassVar[FieldKind | None] = Truncate(0, "keep_first")


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

    default_kind: ClassVar[FieldKind | None] = Concat(0)


def _static(declared: dataclasses.Field[Any], a: Any, b: Any) -> Any:
    """The value of a field that does not merge."""
    if a is EMPTY or b is EMPTY:
        return a if b is EMPTY else b
    if _equal(a, b):
        return a
    name, instead = declared.name, ""
    if "lossreg" not in declared.metadata:  # written without any of the functions, so perhaps by mistake
        instead = f"; write {name}: Any = sum_field(), or another function that says how it merges"
    got = f"{describe(a)} and {describe(b)}"
    raise ValueError(f"Cannot merge states: expected the same {name} in both, got {got}{instead}.")


def _equal(a: Any, b: Any) -> bool:
    """Arrays by their numbers, which waits for a device; lists, tuples and dicts item by item."""
    a, b = (our_array(State, "fields", x) for x in (a, b))
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if getattr(a, "ndim", 0) or getattr(b, "ndim", 0):
        return hasattr(a, "dtype") and hasattr(b, "dtype") and np.array_equal(on_host(a), on_host(b))
    return a is b or bool(a == b)


def _result(value: Any) -> Any:
    if value is EMPTY or value is None:
        return None
    if isinstance(value, State):
        return value.compute()
    return tree_map(lambda x: on_host(x) if hasattr(x, "dtype") else x, value)
