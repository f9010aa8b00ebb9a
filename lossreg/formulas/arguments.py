"""What a formula is traced for: the kinds of its arguments, and the values around it that it reads."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

__all__ = ["ELEMENT", "NUMBER", "ROW", "ArrayArgument", "Constant", "constant", "surroundings"]

NUMBER, ROW, ELEMENT = 0, 1, 2
"""The rank of a value: one for the call, one for each row, one for each element of a row."""


@dataclass(frozen=True)
class ArrayArgument:
    """An array: its rank, and its kind, "f" (float), "b" (bool) or "i" (index)."""

    rank: int
    kind: str


@dataclass(frozen=True)
class Constant:
    """A value that is part of what is traced: a formula may branch on it.

    Constants are equal if they are of the same types and bits: True is not 1, 1 is not 1.0, 0.0 is not -0.0.
    """

    value: Any = field(compare=False)
    identity: Any

    @classmethod
    def of(cls, value: Any) -> Constant:
        """The constant of a value."""
        return cls(value, _identity(value))


def _identity(value: Any) -> Any:
    """What is equal for values that are the same to a formula."""
    if isinstance(value, tuple):
        return (tuple, *map(_identity, value))
    if isinstance(value, float):
        return float, value.hex()
    return type(value), value


_plain_constant = functools.lru_cache(maxsize=4096, typed=True)(Constant.of)


def constant(value: Any) -> Constant:
    """`Constant.of`, with one object for each bool, int and text, so that keys of kernels compare fast."""
    # typed=True of lru_cache tells True from 1, but not 0.0 from -0.0, and does not look into tuples
    try:
        return Constant.of(value) if isinstance(value, (float, tuple)) else _plain_constant(value)
    except TypeError:  # a list, for example
        got = type(value).__name__
        raise TypeError(f"Cannot run a formula: expected arrays, numbers and hashable values, got a {got}.") from None


WATCHED = (numbers.Number, str, tuple, FunctionType, type(None))
"""Types of values around a formula that its graph depends on. What functions read in turn is followed as well."""

_Place = tuple[Any, Any]
"""A mapping and a key, or a closure's cell and None."""


def surroundings(formula: Callable[..., Any]) -> tuple[Any, ...]:
    """The numbers, texts, tuples and functions that a formula reads from outside of its arguments, as they are now.

    A graph that was traced while they had other values is not the graph of the formula any more.
    """
    if not _places(formula):
        return ()
    values: list[Any] = []
    seen: set[Any] = set()
    left: list[Any] = [formula]
    while left:
        function = left.pop()
        if function in seen:
            continue
        seen.add(function)
        for place in _places(function):
            value = _read(place)
            if isinstance(value, WATCHED):
                values.append(_identity(value))
            if isinstance(value, FunctionType):
                left.append(value)
    return tuple(values)


def _read(place: _Place) -> Any:
    holder, key = place
    if key is not None:
        return holder.get(key)
    try:
        return holder.cell_contents
    except ValueError:  # empty while the function around it runs
        return None


@functools.lru_cache(maxsize=4096)
def _places(function: Callable[..., Any]) -> tuple[_Place, ...]:
    """The globals and cells that a function of a user mentions; lossreg's own modules change nothing in a program."""
    if not isinstance(function, FunctionType) or (function.__module__ or "").startswith("lossreg."):
        return ()
    scope: Mapping[str, Any] = function.__globals__
    names = {name for code in _codes(function.__code__) for name in code.co_names if name in scope}
    return (*((scope, name) for name in sorted(names)), *((cell, None) for cell in function.__closure__ or ()))


def _codes(code: CodeType) -> list[CodeType]:
    """The code of a function, and of the functions within it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(x for part in inner for x in _codes(part))]
