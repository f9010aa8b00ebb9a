"""Schedules: a number for each step, such as the weight of a term of a loss."""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Annotated, Any

from annotated_types import Gt

from .checks import describe
from .config import register
from .schema import Configurable, Problem

__all__ = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "PiecewiseSchedule", "Schedule", "value_at"]


class Schedule(Configurable, ABC):
    """A function of the step, as an object that a config can hold. Any function from step to number will do as well."""

    @abstractmethod
    def __call__(self, step: float) -> float:
        """The value at a step, counted from 0."""


@register("constant.v1", to="schedules")
class ConstantSchedule(Schedule):
    """The same value at every step."""

    value: float

    def __call__(self, step: float) -> float:
        """value."""
        return self.value


class _Ramp(Schedule):
    """From one value to another over a number of steps, and constant before and after."""

    start: float
    end: float
    steps: Annotated[int, Gt(0)]
    begin: int = 0

    def __call__(self, step: float) -> float:
        """start + (end - start) * shape((step - begin) / steps), with the fraction clipped to [0, 1]."""
        share = self.shape(min(max((step - self.begin) / self.steps, 0.0), 1.0))
        return self.start * (1.0 - share) + self.end * share

    @abstractmethod
    def shape(self, x: float) -> float:
        """The share of the way that is covered after a share of the steps."""


@register("linear.v1", to="schedules")
class LinearSchedule(_Ramp):
    """Along a line from `start` to `end` over `steps` steps from step `begin` on."""

    def shape(self, x: float) -> float:
        """x."""
        return x


@register("cosine.v1", to="schedules")
class CosineSchedule(_Ramp):
    """Along half a wave of the cosine from `start` to `end` over `steps` steps from step `begin` on."""

    def shape(self, x: float) -> float:
        """(1 - cos(pi x)) / 2."""
        return math.sin(0.5 * math.pi * x) ** 2


@register("piecewise.v1", to="schedules")
class PiecewiseSchedule(Schedule):
    """`values[0]` before step `boundaries[0]`, `values[1]` from there to before `boundaries[1]`, and so on."""

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def check_options(self) -> Iterable[Problem]:
        """One value more than boundaries, which increase."""
        if len(self.values) != len(self.boundaries) + 1:
            yield "values", f"should be one more than boundaries, {len(self.boundaries) + 1}, got {len(self.values)}"
        if any(a >= b for a, b in itertools.pairwise(self.boundaries)):
            yield "boundaries", f"should increase, got {list(self.boundaries)}"

    def __call__(self, step: float) -> float:
        """The value of the piece in which a step lies."""
        return self.values[bisect.bisect_right(self.boundaries, step)]


class Series:
    """The numbers of an iterator, such as one of Thinc's schedules, as a function of the step."""

    def __init__(self, numbers: Iterator[float]) -> None:
        self.numbers, self.drawn = numbers, list[float]()

    def __call__(self, step: int) -> float:
        """The number at a step; what was drawn is kept. The first one holds before, and the last one after its end."""
        place = max(int(step), 0)
        self.drawn += itertools.islice(self.numbers, max(0, place + 1 - len(self.drawn)))
        if not self.drawn:
            raise ValueError("Cannot evaluate the schedule: expected a number for each step, got an empty iterator.")
        return self.drawn[min(place, len(self.drawn) - 1)]


def value_at(schedule: float | Callable[[int], Any], step: Any) -> float:
    """A number, or what a schedule gives at a step: any function whose result is a number, or an array of one."""
    if not callable(schedule):
        return float(schedule)
    if not isinstance(step, Real) and getattr(step, "shape", None) != ():
        raise ValueError(f"Cannot evaluate the schedule: expected a step, got {describe(step)}.")
    value = schedule(step)
    try:
        number = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"Cannot evaluate the schedule: expected a finite number at step {step}, got {describe(value)}."
        )
    return number
