"""Options of a call in all forms: by position, by name, in a dict, in a list; for `lossreg.loss` and the functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from .checks import describe
from .reduction import Reduction
from .schema import ConfigError, Problem, checked, defaults, takes_any_option
from .synonyms import OPTIONS_OF_K, closest_option

__all__ = ["holds_options", "read_options"]

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


def read_options(target: Callable[..., Any], positional: Iterable[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call by their own names; those that are left to their defaults are left out.

    A `ConfigError` lists everything that is wrong with names and positions. Values are checked by who takes them.
    """
    reader = _Reader(target)
    in_order = True
    for value in positional:
        if reader.is_by_name(value):
            in_order = False
            reader.add_pairs(value)
        elif in_order:
            reader.add_positional(value)
        else:
            reader.fail("", "options by position come before those by name")
    for name, value in named.items():
        reader.add_named(name, value)
    return reader.result()


class _Reader:
    """Collects the options of one call, and everything that is wrong with them."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target
        self.defaults = defaults(target)
        self.takes_any_name = takes_any_option(target)
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

    # By name

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
            self.fail(str(name), f"unknown option{near} (known: {known})")
        elif option in self.by_position:
            self.fail(option, "given by position and by name")
        elif option in self.values:
            self.fail(option, "given twice by name")
        elif not isinstance(value, (list, tuple)) or value:
            self.values[option] = value

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


def _pairs(value: Any) -> list[tuple[Any, Any]] | None:
    """(name, value) of what `holds_options`; None for a list of another form."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value[0], str):
        in_turn = len(value) % 2 == 0
        return list(zip(value[::2], value[1::2])) if in_turn else None
    return [tuple(pair) for pair in value] if all(map(_is_pair, value)) else None


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)
