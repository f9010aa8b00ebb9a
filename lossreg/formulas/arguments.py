"""What the trace of a formula depends on: the kinds of its arguments, and the values around it that it reads."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

__all__ = ["ELEMENT", "NUMBER", "ROW", "ArrayArgument", "Constant", "constant", "surroundings"]

NUMBER, ROW, ELEMENT = 0, 1, 2
"""The rank of a value: one number per call, per row, or per element of a row."""


@dataclass(frozen=True)
class ArrayArgument:
    """An array: its rank, and its kind, "f" (float), "b" (bool) or "i" (index)."""

    rank: int
    kind: str


@dataclass(frozen=True)
class Constant:
    """A value that is traced as it is, so that a formula may branch on it.

    Constants are equal if they are of the same types and bits: True is not 1, 1 is not 1.0, 0.0 is not -0.0.
    """

    value: Any = field(compare=False)
    identity: Any

    @classmethod
    def of(cls, value: Any) -> Constant:
        """The constant of a value."""
        return cls(value, _identity(value))


def _identity(value: Any) -> Any:
    """A key that is equal for values that a formula cannot tell apart."""
    if isinstance(value, tuple):
        return (tuple, *map(_identity, value))
    if isinstance(value, float):
        return float, value.hex()
    return type(value), value


_plain_constant = functools.lru_cache(maxsize=4096, typed=True)(Constant.of)


def constant(value: Any) -> Constant:
    """`Constant.of`, with one object for each bool, int and text, so that keys of kernels compare fast."""
    try:
        # The cache tells True from 1 (typed=True), but not 0.0 from -0.0, and it does not look into tuples.
        if isinstance(value, (float, tuple)):
            return Constant.of(value)
        return _plain_constant(value)
    except TypeError:  # a list, for example
        got = type(value).__name__
        raise TypeError(f"Cannot run a formula: expected arrays, numbers and hashable values, got a {got}.") from None


WATCHED = (numbers.Number, str, tuple, FunctionType, type(None))
"""Types of the values around a formula that its graph depends on. What functions read in turn is followed as well."""

_Variable = tuple[Any, Any]
"""A mapping and a key, or a closure's cell and None."""


def surroundings(formula: Callable[..., Any]) -> tuple[Any, ...]:
    """The numbers, texts, tuples and functions that a formula reads from outside of its arguments, as they are now.

    A graph that was traced while they had other values is not the graph of the formula any more.
    """
    if not _variables(formula):  # so it is for all built-in formulas, and every call asks
        return ()
    values: list[Any] = []
    seen: set[Any] = set()
    waiting: list[Any] = [formula]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for variable in _variables(function):
            value = _value_of(variable)
            if isinstance(value, WATCHED):
                values.append(_identity(value))
            if isinstance(value, FunctionType):
                waiting.append(value)
    return tuple(values)


def _value_of(variable: _Variable) -> Any:
    holder, key = variable
    if key is not None:
        return holder.get(key)
    try:
        return holder.cell_contents
    except ValueError:  # empty while the function around it runs
        return None


@functools.lru_cache(maxsize=4096)
def _variables(function: Callable[..., Any]) -> tuple[_Variable, ...]:
    """The globals and the cells that a function of a user mentions."""
    # The globals of lossreg's own modules do not change while a program runs.
    if not isinstance(function, FunctionType) or (function.__module__ or "").startswith("lossreg."):
        return ()
    scope: Mapping[str, Any] = function.__globals__
    mentioned: set[str] = set()
    for code in _codes(function.__code__):
        mentioned.update(code.co_names)
    global_names = sorted(name for name in mentioned if name in scope)
    cells = function.__closure__ or ()
    return (*((scope, name) for name in global_names), *((cell, None) for cell in cells))


def _codes(code: CodeType) -> list[CodeType]:
    """The code of a function, and of the functions within it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(x for part in inner for x in _codes(part))]
