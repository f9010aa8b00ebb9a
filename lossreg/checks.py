"""Errors of the public boundary, each worded once: what, expected, got, which row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .synonyms import is_same_argument

__all__ = [
    "Interval", "OneOf", "check_domain", "check_shape", "describe", "fail", "first_bad", "misused", "on_host",
]  # fmt: skip

SHOWN = 60
"""Characters of a value that an error shows."""


@dataclass(frozen=True)
class Interval:
    """The allowed range of a value, as data. NaN lies in no interval."""

    low: float
    high: float

    def __str__(self) -> str:
        if self.high < np.inf:
            return f"in [{self.low:g}, {self.high:g}]"
        return "without NaN" if self.low == -np.inf else f"of at least {self.low:g}"

    def holds(self, array: Any) -> Any:
        """Where an array lies in the interval."""
        return (array >= self.low) & (array <= self.high)

    def holds_all(self, array: Any) -> bool:
        """Whether an array lies in the interval; makes no array."""
        return bool(array.min() >= self.low and array.max() <= self.high)


@dataclass(frozen=True)
class OneOf:
    """The allowed values, as data."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        return "to be " + " or ".join(f"{value:g}" for value in self.values)

    def holds(self, array: Any) -> Any:
        """Where an array has an allowed value."""
        inside = array == self.values[0]
        for value in self.values[1:]:
            inside = inside | (array == value)
        return inside

    def holds_all(self, array: Any) -> bool:
        """Whether an array has allowed values alone."""
        return bool(self.holds(array).all())


def fail(name: str, what: str, expected: str, got: str) -> ValueError:
    """The one wording of every error about the data of a call."""
    return ValueError(f"Cannot calculate {name}: expected {what} {expected}, got {got}.")


def misused(method: Callable[..., Any], owner: str, arguments: Sequence[Any], named: Iterable[str]) -> TypeError:
    """The error for a call of a method with arguments that it does not take, or without some that it needs.

    owner: the class whose method it is.   arguments: those by position.   named: the names of the others.
    """
    _, *parameters = inspect.signature(method).parameters.values()
    names = [parameter.name for parameter in parameters]
    needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    suffix = "" if method.__name__ == "__call__" else f".{method.__name__}"
    expected = f"{owner}(){suffix}({', '.join(names)})"

    unknown = [word for word in named if word not in names]
    given = [*names[: len(arguments)], *named]
    missing = [name for name in needed if name not in given]
    if unknown:
        hints = [f"{word} is {name} here" for word in unknown for name in names if is_same_argument(word, name)]
        got = f"{unknown[0]}=" + (f" ({hints[0]})" if hints else "")
    elif missing:
        got = f"no {missing[0]}"
    elif len(arguments) > len(names):
        got = f"{len(arguments)} arguments by position"
    else:
        got = "an argument by position and by name"
    return TypeError(f"Cannot calculate {owner}: expected {expected}, got {got}.")


def describe(value: Any) -> str:
    """A value in a few words: `a float32 array of shape (3, 4)`, `a list of 3`, `'dog'`.

    Never raises, whatever the value is: it is called where something is wrong already, and may be handed the very
    object that is at fault. What is itself large, such as a list or a text, is not read as a whole.
    """
    for words in (_array_in_words, _container_in_words, _representation, _type_in_words):
        try:
            text = words(value)
            if text:
                return _in_one_line(text, at_most=4 * SHOWN)
        except KeyboardInterrupt:
            raise
        except BaseException:  # properties and __repr__ of the value may raise anything, a panic of Rust for example
            continue
    return "an object that cannot be described"


def _array_in_words(value: Any) -> str:
    """For arrays of any library, and for what pandas holds."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple):
        return ""
    if type(value).__module__.partition(".")[0] == "pandas":
        return f"a pandas {type(value).__name__} of shape {tuple(shape)}"
    if not hasattr(value, "dtype"):
        return ""
    return f"a {_in_one_line(str(value.dtype))} array of shape {_in_one_line(str(tuple(shape)))}"


def _container_in_words(value: Any) -> str:
    """For containers of Python, by their own count: a subclass may have a `len()` that raises. And for a Ragged."""
    containers: tuple[Any, ...] = (list, tuple, set, frozenset, dict)
    for container in containers:
        if isinstance(value, container):
            return f"a {type(value).__name__} of {container.__len__(value)}"
    return f"a Ragged of {len(value.lengths)}" if hasattr(value, "dataXd") else ""


def _representation(value: Any) -> str:
    """What `repr` gives, for long texts that of their beginning."""
    if isinstance(value, (str, bytes, bytearray)):
        return _in_one_line(repr(value[:SHOWN]))
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to write thousands of digits
        return f"an int of {value.bit_length()} bits"
    return _in_one_line(repr(value))


def _type_in_words(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


def _in_one_line(text: str, at_most: int = SHOWN) -> str:
    """The beginning of a text, without line breaks and what cannot be printed."""
    start = " ".join(str.__getitem__(text, slice(4 * at_most)).split())
    printable = "".join(c if c.isprintable() else "?" for c in start)
    return printable if len(printable) <= at_most else f"{printable[: at_most - 3]}..."


def check_shape(name: str, what: str, array: Any, expected: tuple[int, ...], like: str) -> None:
    """Raise unless an array has just this shape."""
    if tuple(array.shape) != tuple(expected):
        raise fail(name, what, f"of shape {tuple(expected)} (that of {like})", f"mismatched shape {tuple(array.shape)}")


def check_domain(
    ops: Any, name: str, what: str, array: Any, domain: Interval | OneOf, kept: Any, place: Any, expected: str = ""
) -> None:
    """Raise when a kept value lies outside its domain, naming the first row and the value.

    `kept` is None or a bool array that broadcasts to `array`; `place(i)` names the i-th item of the first axis. Reads
    the data, so a device is waited for.
    """
    if array.size == 0 or ops.all_hold(domain, array):
        return
    array, kept = on_host(array), on_host(kept)
    with np.errstate(invalid="ignore"):  # of NaN
        bad = ~domain.holds(array)
    index = first_bad(bad if kept is None else bad & kept)
    if index is not None:
        at = place(index[0]) if index else "the only item"
        at += f", column {', '.join(map(str, index[1:]))}" if len(index) > 1 else ""
        raise fail(name, what, expected or str(domain), f"{array[index]!s} in {at}")


def on_host(array: Any) -> Any:
    """A NumPy array of the same values; None stays None."""
    return array if array is None or isinstance(array, (np.ndarray, np.generic)) else array.get()


def first_bad(bad: Any) -> tuple[int, ...] | None:
    """Index of the first true item, or None."""
    position = int(np.argmax(bad)) if bad.size else 0
    if not bad.size or not bad.flat[position]:
        return None
    return tuple(int(i) for i in np.unravel_index(position, bad.shape))
