"""Options of a call in all forms: by position, by name, in a dict, in a list; for `lossreg.loss` and the functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from ..checks import describe
from ..config.options import ConfigError, Problem, checked, defaults, takes_any_option
from ..pipeline.weights import Reduction
from ..synonyms import CALL_ARGUMENTS, OPTIONS_OF_K, closest_option

__all__ = ["OptionNames", "holds_options", "read_options"]

REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def holds_options(value: Any) -> bool:
    """Whether a positional value has the form of options by name.

    That is a dict, a list `[name, value, ...]`, or a list of pairs `[(name, value), ...]`.
    """
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return isinstance(value[0], str) or _is_pair(value[0])


def read_options(
    target: Callable[..., Any],
    positional: Sequence[Any],
    named: Mapping[str, Any],
    call_keywords: Sequence[str] = (),
    to_calculate: str = "",
) -> dict[str, Any]:
    """The options of a call by their own names; those that are left to their defaults are left out.

    call_keywords: what may be given by name beside the options, for hints.
    to_calculate: what to write where there are arrays in the place of options.
    A `ConfigError` lists everything that is wrong with names and positions. Values are checked by who takes them.
    """
    reader = _Reader(target, call_keywords)
    in_order = True
    rest = list(positional)
    while rest:
        value = rest.pop(0)
        if reader.is_by_name(value):
            in_order = False
            reader.add_pairs(value)
        elif not in_order:
            reader.fail("", "options by position come before those by name")
        elif reader.is_bare_name(value):
            reader.fail_without_list(value, rest[:1])
            rest = rest[1:]
        elif to_calculate and reader.is_data(value, rest):
            reader.fail("", f"expected options, got {describe(value)}; to calculate write {to_calculate}")
            break
        else:
            reader.add_positional(value)
    for name, value in named.items():
        reader.add_named(name, value)
    return reader.result()


class OptionNames:
    """What the options of a class or function may be called."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target
        self.defaults = defaults(target)
        self.takes_any_name = takes_any_option(target)

    def own_name(self, name: Any) -> str | None:
        """The calculator's own name of an option; None for what is no option of it."""
        if not isinstance(name, str):
            return None
        if name in self.defaults:
            return name
        for option in OPTIONS_OF_K.get(name, ()):
            if option in self.defaults:
                return option
        return name if self.takes_any_name else None


class _Reader(OptionNames):
    """Collects the options of one call, and everything that is wrong with them."""

    def __init__(self, target: Callable[..., Any], call_keywords: Sequence[str]) -> None:
        super().__init__(target)
        self.call_keywords = call_keywords
        self.open = list(self.defaults)
        """Options that a positional value can still be, in their order."""
        self.values: dict[str, Any] = {}
        self.by_position: set[str] = set()
        self.too_many = 0
        self.problems: list[Problem] = []

    def fail(self, option: str, message: str) -> None:
        self.problems.append((option, message))

    def result(self) -> dict[str, Any]:
        """The options, or the error that lists what is wrong with them."""
        if self.too_many:
            order = list(self.defaults)
            expected = f"expected at most {len(order)} options ({', '.join(order)})"
            self.fail("", f"{expected}, got {len(order) + self.too_many}")
        for option, default in self.defaults.items():
            if default is ... and option not in self.values:
                self.fail(option, "this option has no default and must be given")
        if self.problems:
            raise ConfigError(self.problems, title=f"Cannot make {getattr(self.target, '__name__', self.target)}")
        return self.values

    # By position

    def add_positional(self, value: Any) -> None:
        option = self.option_of(value)
        if option is None:
            self.too_many += 1
            return
        if option in self.by_position:
            self.fail(option, f"given twice, as {self.values[option]!r} and {value!r}")
            return
        if option in self.open:
            self.open.remove(option)
        if self.is_default(option, value):
            return
        self.by_position.add(option)
        self.values[option] = value

    def option_of(self, value: Any) -> str | None:
        """The option that a positional value is for: the next one, but for strings that are the reduction."""
        following = self.open[0] if self.open else None
        if not isinstance(value, str) or "reduction" not in self.defaults or following == "reduction":
            return following
        is_free = "reduction" in self.open
        if following is None or not self.accepts(following, value):
            if is_free or value in REDUCTIONS:
                return "reduction"
            return following
        if is_free and value in REDUCTIONS:
            self.ambiguous(following, value, f"reduction={value!r}")
        return following

    def is_default(self, option: str, value: Any) -> bool:
        """Whether a value stands for the default: `()`, and None for an option that does not take it."""
        if value is None:
            return not self.accepts(option, None)
        return isinstance(value, (list, tuple)) and not value

    def accepts(self, option: str, value: Any) -> bool:
        """Whether a value is of an option's type."""
        _, problems = checked(self.target, {option: value})
        return not any(path.partition(".")[0] == option for path, _ in problems)

    def ambiguous(self, option: str, value: Any, other: str) -> None:
        self.fail(option, f"{value!r} may be meant for this option or not; write {option}={value!r} or {other}")

    def is_data(self, value: Any, following: Sequence[Any]) -> bool:
        """Whether a positional value was meant for a call: numbers that the next option refuses."""
        if not self._is_array(value):
            # One list alone is rather a wrong option.
            is_pair = isinstance(value, (list, tuple)) and any(map(self._is_numbers, following))
            if not is_pair or not self._is_numbers(value):
                return False
        # The first row says as much as all of them, and at once.
        option = self.open[0] if self.open else None
        return option is None or not self.accepts(option, _nested_lists(value[:1]))

    @staticmethod
    def _is_array(value: Any) -> bool:
        return hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0

    def _is_numbers(self, value: Any) -> bool:
        """Whether a value is an array, or a list of numbers or of lists."""
        if isinstance(value, (list, tuple)) and value:
            return isinstance(value[0], (int, float, np.generic)) or self._is_numbers(value[0])
        return self._is_array(value)

    # By name

    def is_bare_name(self, value: Any) -> bool:
        """Whether a positional value is the name of an option, which should stand in a list with its value."""
        if not isinstance(value, str) or value in REDUCTIONS:
            return False
        if not any(value in names for names in (self.defaults, OPTIONS_OF_K)) or self.own_name(value) is None:
            return False
        return not self.open or not self.accepts(self.open[0], value)

    def fail_without_list(self, name: str, values: Sequence[Any]) -> None:
        """The problem of a name and a value that are not in a list."""
        text = "value"
        if values:
            text = f'"{values[0]}"' if isinstance(values[0], str) else describe(values[0])
        got = f"{name!r} and {text}" if values else f"{name!r} alone"
        wanted = f'["{name}", {text}] or {name}={text}'
        self.fail(str(self.own_name(name)), f"expected a name and its value in a list, got {got}; write {wanted}")

    def is_by_name(self, value: Any) -> bool:
        """Whether a positional value holds options by name, and is not itself the value of the next option."""
        if not holds_options(value):
            return False
        following = self.open[0] if self.open else None
        if following in (None, "reduction") or not self.accepts(following, value):
            return True
        pairs = _pairs(value)
        if not pairs or not all(self.own_name(name) for name, _ in pairs):
            return False
        # A list such as ["names", "weight"] could name classes just as well.
        self.ambiguous(following, value, ", ".join(f"{name}={item!r}" for name, item in pairs))
        return False

    def add_pairs(self, value: Any) -> None:
        pairs = _pairs(value)
        if pairs is None:
            expected = "a list of options is [name, value, name, value] or [(name, value), (name, value)]"
            self.fail("", f"{expected}, got {describe(value)}")
            return
        for name, item in pairs:
            option = self.own_name(name)
            # Dictionaries of q have a null for a default. In keywords None may be meant otherwise, so it is an error.
            if item is None and option is not None and self.is_default(option, None):
                item = ()
            self.add_named(name, item)

    def add_named(self, name: Any, value: Any) -> None:
        option = self.own_name(name)
        if option is None:
            known = ", ".join(self.defaults) or "none"
            near = closest_option(str(name), [*self.defaults, *filter(self.own_name, OPTIONS_OF_K)])
            if CALL_ARGUMENTS.get(name) in self.call_keywords:
                near = f"; did you mean {CALL_ARGUMENTS[name]}=?"
            self.fail(str(name), f"unknown option{near} (known: {known})")
        elif option in self.by_position:
            self.fail(option, "given by position and by name")
        elif option in self.values:
            self.fail(option, "given twice by name")
        elif not isinstance(value, (list, tuple)) or value:
            self.values[option] = value


def _pairs(value: Any) -> list[tuple[Any, Any]] | None:
    """(name, value) of what `holds_options`; None for a list of another form."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value[0], str):
        in_turn = len(value) % 2 == 0
        return list(zip(value[::2], value[1::2])) if in_turn else None
    return [tuple(pair) for pair in value] if all(map(_is_pair, value)) else None


def _nested_lists(value: Any) -> Any:
    """Arrays, and arrays in lists, as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_nested_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)
