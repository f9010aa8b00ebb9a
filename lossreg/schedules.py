"""Schedules: a number for each step, such as the weight of a term of a loss."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Annotated, Any

from annotated_types import Gt

from .arrays.dlpack import is_traced
from .checks import describe
from .config.options import Configurable, Problem
from .config.resolve import register

__all__ = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "PiecewiseSchedule", "Schedule", "value_at"]


class Schedule(Configurable, ABC):
    """A function from step to number, as an object for configs. Anywhere else any such function will do."""

    @classmethod
    def _example_call(cls) -> str:
        """A call, for errors."""
        return f"{cls.__name__}(...)(step)"

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
        fraction = self.shape(min(max((step - self.begin) / self.steps, 0.0), 1.0))
        return self.start * (1.0 - fraction) + self.end * fraction

    @abstractmethod
    def shape(self, x: float) -> float:
        """The fraction of the way from start to end after a fraction x of the steps."""


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


class _Locks:
    """A reentrant lock for each process: a forked child must not wait for a thread that it does not have."""

    def __init__(self) -> None:
        self.by_process: dict[int, Any] = {}

    def of_process(self) -> Any:
        """That of this process. setdefault is one call of C: two threads get the same lock."""
        return self.by_process.setdefault(os.getpid(), threading.RLock())


class Series:
    """The numbers of an iterator, such as one of Thinc's schedules, as a function of the step.

    Each number is drawn once and kept, so that threads, terms and processes that are forked later read the same one.
    """

    def __init__(self, numbers: Iterator[float]) -> None:
        self.numbers = numbers
        self.drawn: list[float] = []
        self.problem = ""
        """Why no more numbers can be drawn, if the iterator failed."""
        self._ended = False
        self._drawing = False
        self._locks = _Locks()

    @classmethod
    def of(cls, numbers: Iterator[float]) -> Series:
        """The series of an iterator: one, however many terms have it for a weight, since each would draw its own."""
        with _SERIES_LOCKS.of_process():
            return _SERIES.setdefault(id(numbers), cls(numbers))

    def __call__(self, step: float) -> float:
        """The number at a step. The first one holds before, and the last one after its end."""
        if not math.isfinite(step):
            raise ValueError(f"Cannot evaluate the schedule: expected a step, got {describe(step)}.")
        index = max(int(step), 0)
        if index >= len(self.drawn) and not self._ended:
            self._draw(index)
        if not self.drawn:
            raise ValueError("Cannot evaluate the schedule: expected a number for each step, got an empty iterator.")
        return self.drawn[min(index, len(self.drawn) - 1)]

    def _draw(self, step: int) -> None:
        """Draw the numbers up to a step, unless another thread has done so in the meantime."""
        with self._locks.of_process():
            missing = step + 1 - len(self.drawn)
            if self._ended or missing <= 0:
                return
            # The lock is reentrant: a signal handler comes this far while the iterator is at work.
            if self._drawing:
                raise ValueError(
                    f"Cannot evaluate the schedule: expected an iterator at rest, got step {step} while it draws a "
                    "number (in the code that a signal interrupted, or in a thread of the process before a fork)."
                )
            if self.problem:
                raise ValueError(f"Cannot evaluate the schedule: expected a number at step {step}, got {self.problem}.")
            try:
                self._drawing = True
                self.drawn.extend(itertools.islice(self.numbers, min(missing, sys.maxsize)))
                self._ended = len(self.drawn) <= step
            except BaseException as error:
                # Most iterators end here, and the number before would count as the last one, for all steps to come.
                if len(self.drawn) <= step:
                    self.problem = f"an iterator that {type(error).__name__} stopped at step {len(self.drawn)}"
                raise
            finally:
                self._drawing = False

    def __reduce__(self) -> Any:
        return _series_with, (self.numbers, list(self.drawn), self.problem, self._ended)

    def __repr__(self) -> str:
        return f"Series({describe(self.numbers)})"


_SERIES: weakref.WeakValueDictionary[int, Series] = weakref.WeakValueDictionary()
"""The series that are in use, by the id of their iterator, which they keep alive."""
_SERIES_LOCKS = _Locks()


def _series_with(numbers: Iterator[float], drawn: list[float], problem: str, ended: bool) -> Series:
    """A series from what was pickled of it."""
    series = Series(numbers)
    series.drawn, series.problem, series._ended = drawn, problem, ended
    return series


def value_at(schedule: float | Callable[[int], Any], step: Any) -> float:
    """A number, or what a schedule gives at a step: any function whose result is a number, or an array of one."""
    if not callable(schedule):
        return float(schedule)
    if not isinstance(step, Real) and getattr(step, "shape", None) != ():
        raise ValueError(f"Cannot evaluate the schedule: expected a step, got {describe(step)}.")
    if is_traced(step):
        raise ValueError(
            f"Cannot evaluate the schedule: expected a step, got {describe(step)} inside jax.jit; use "
            "lossreg.jax.as_function, which evaluates schedules there as well."
        )
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
