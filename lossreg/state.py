"""States: partial results that merge to what one big batch would give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

__all__ = ["LossState", "State"]

S = TypeVar("S", bound="State")


@dataclass(frozen=True)
class State(ABC):
    """Immutable partial result of `parent`: `a.merge(b).compute()` is the result over the data of both.

    `sum(states)` merges as well.
    """

    parent: Any = field(default=None, repr=False)

    @classmethod
    def empty(cls: type[S], parent: Any = None) -> S:
        """The state of no data: merging it changes nothing."""
        return cls(parent=parent)

    @abstractmethod
    def merge(self: S, other: S) -> S:
        """The state of the data of both."""

    @abstractmethod
    def compute(self) -> Any:
        """The result."""

    def finalize(self: S) -> S:
        """The state after its last merge; some states compress themselves here."""
        return self

    def __add__(self: S, other: S) -> S:
        return self.merge(other)

    def __radd__(self: S, other: Any) -> S:
        if other == 0:  # the start value of sum()
            return self
        return NotImplemented

    def check_mergeable(self, other: Any) -> None:
        """Raise unless the other state came from an equal calculator."""
        if type(other) is not type(self) or other.parent != self.parent:
            theirs = getattr(other, "parent", None) or type(other).__name__
            raise ValueError(f"Cannot merge states of different calculators: expected {self.parent}, got {theirs}.")


@dataclass(frozen=True)
class LossState(State):
    """A weighted sum of loss values and what it is divided by.

    `count` is None for sums, which are not divided. A count of 0 computes to 0. On a device both are 0-d arrays.
    """

    total: Any = 0.0
    count: Any = 0.0

    def merge(self, other: LossState) -> LossState:
        """Totals and counts add up."""
        self.check_mergeable(other)
        count = None if self.count is None else self.count + other.count
        return replace(self, total=self.total + other.total, count=count)

    def compute(self) -> Any:
        """total / count."""
        if self.count is None:
            return self.total
        if isinstance(self.count, (int, float)):
            return self.total / self.count if self.count else 0.0
        from .ops import get_ops

        return self.total * get_ops(self.count).inverse(self.count)
