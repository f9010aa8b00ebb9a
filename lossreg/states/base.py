"""`State`: a partial result that merges with others; states in trees, and the state of nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from ..arrays.trees import tree_map
from ..checks import describe
from ..config.frozen import Frozen, as_dataclass
from .fields import STATIC

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Stand-in at run time: type checkers read the real one."""
        return lambda cls: cls


__all__ = ["EmptyState", "State", "TreeState"]


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


def _merge(a: State, b: State) -> State:
    return a.merge(b)
