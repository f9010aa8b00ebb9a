"""Options of calculators: frozen dataclasses checked by a strict schema, with every problem reported at once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import numpy as np
from confection import ConfigValidationError

from ..synonyms import NOTES, closest_option
from .frozen import Frozen, as_dataclass
from .own_init import arguments_of, copied_with, forget_computed, has_own_init, is_equal, keep_arguments

if TYPE_CHECKING:
    from typing import TypeGuard

    from pydantic import TypeAdapter
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Stand-in at run time: type checkers read the real one."""
        return lambda cls: cls


__all__ = [
    "INFINITY_ALLOWED",
    "MAX_PROBLEMS",
    "ConfigError",
    "Configurable",
    "Problem",
    "checked",
    "defaults",
    "is_calculator_class",
    "positional_order",
    "replaced",
    "takes_any_option",
]

INHERITED = "the type that a base class gives"
"""Annotation of an option to which a subclass gives a new default and no type."""

INFINITY_ALLOWED = "infinity allowed"
"""Mark of an option that may be infinite: `Annotated[float, Ge(0), INFINITY_ALLOWED]`."""

MAX_PROBLEMS = 100
"""Where a search for problems may end. A file that is no config at all has one in each line, and each costs a look for
similar names."""

MAX_PROBLEMS_OF_OPTION = 10
"""How many wrong items of one option an error lists."""

_PART = 1000
"""Number of items of an option that are checked at a time."""

Problem = tuple[str, str]
"""Dotted path of an option and what is wrong with it, as one sentence."""

Finding = tuple[tuple[str, ...], str]
"""The same for the value of one option: the path within it, in parts."""


class ConfigError(ConfigValidationError):
    """Everything that is wrong with a config or with the options of one object.

    `errors` holds one `{"loc": ("loss", "delta"), "msg": "..."}` for each problem, in the order of the file. It is a
    `ValueError` and confection's `ConfigValidationError`, so existing handlers catch it.
    """

    def __init__(self, problems: Iterable[Problem], title: str = "Config error") -> None:
        self.problems = list(problems)
        errors = [{"loc": tuple(path.split(".")), "msg": message} for path, message in self.problems]
        super().__init__(title=title, errors=errors, show_config=False)

    def _format(self) -> str:
        lines = [f"{path}: {message}" if path else message for path, message in self.problems]
        return f"{self.title}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{self.title}:", *lines])

    def __reduce__(self) -> Any:
        return type(self), (self.problems, self.title)


# Tracebacks then name the error as users import it.
ConfigError.__module__ = "lossreg"


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
class Configurable(Frozen):
    """Base of everything that is made of options: subclasses become frozen keyword-only dataclasses.

    Options are checked when the object is made: wrong types, ranges, NaN and infinity raise one `ConfigError` that
    lists them all. Lists and arrays become tuples, so objects are hashable and nothing of the caller's is kept.

    A subclass with an `__init__` of its own is a plain class: it sets attributes as it likes, and what it was made with
    takes the place of options.
    """

    names_in_registry: ClassVar[tuple[str, ...]] = ()
    writes_init: ClassVar[bool] = False
    """Whether this class or one of its bases has an `__init__` of its own, and so is no dataclass."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) and "writes_init" not in vars(cls):
            cls.writes_init = True
            keep_arguments(cls)
        if cls.writes_init:
            return
        annotations = dict(inspect.get_annotations(cls))
        inherited = {
            f.name for base in cls.__mro__[1:] if dataclasses.is_dataclass(base) for f in dataclasses.fields(base)
        }
        changed = [n for n, value in vars(cls).items() if n in inherited - annotations.keys() and not callable(value)]
        if changed:  # `delta = 3.0` in a subclass is a new default of the option
            cls.__annotations__ = annotations | dict.fromkeys(changed, INHERITED)
        as_dataclass(cls, kw_only=True, repr=False)

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Raise for unknown options, and for options by position."""
        cls._check_class()
        if not cls.writes_init:
            _check_names(cls, args, options)
        return super().__new__(cls)

    @classmethod
    def _check_class(cls) -> None:
        """Raise TypeError for a class of which no object can be made."""

    @classmethod
    def _example_call(cls) -> str:
        """A call, for errors."""
        return f"{cls.__name__}()(guesses, truths)"

    def __setattr__(self, name: str, value: Any) -> None:
        if self.writes_init:
            object.__setattr__(self, name, value)
            forget_computed(self)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self.writes_init:
            object.__delattr__(self, name)
        else:
            super().__delattr__(name)

    def __post_init__(self) -> None:
        # An object whose class has its own `__init__` is here when that calls the `__init__` of a base.
        cls = next(base for base in type(self).__mro__ if not has_own_init(base))
        values, problems = checked(cls, {name: _plain(value) for name, value in self._fields().items()})
        if not problems:
            for name, value in values.items():
                object.__setattr__(self, name, _plain(value))
            problems = _first_of_each(itertools.islice(self.check_options(), MAX_PROBLEMS))
        if problems:
            raise ConfigError(problems, title=f"Cannot make {type(self).__name__}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """As the type of another object's option: an instance, and no dict that could be made into one."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)

    def check_options(self) -> Iterable[Problem]:
        """Problems that involve more than one option; each a pair (option, sentence)."""
        return ()

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def options(self, all: bool = False) -> dict[str, Any]:
        """The options that differ from their defaults, or all of them, in their positional order."""
        values = arguments_of(self) if self.writes_init else self._fields()
        default = defaults(type(self))
        names = [name for name in default if name in values]
        names += [name for name in values if name not in names]  # those of **kwargs
        if not all:
            names = [name for name in names if not is_equal(values[name], default.get(name, ...))]
        return {name: values[name] for name in names}

    def to_config(self) -> dict[str, Any]:
        """The config block that makes an equal object: `Config({"loss": loss.to_config()}).to_disk(path)`."""
        names = vars(type(self)).get("names_in_registry") or ("",)  # its own: a base has other numbers
        registry_name, _, name = names[-1].partition(":")
        if not name:
            raise ConfigError([("", f"{type(self).__name__} is not registered: give it a name with @register")])
        return {f"@{registry_name}": name, **{key: _as_json(value) for key, value in self.options().items()}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.options().items())})"


def _check_names(cls: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise unless a class takes so many options by position, and options of these names."""
    fields, any_name = _signature(cls)
    problems = [(name, unknown_option(cls, name)) for name in options if name not in fields and not any_name]
    if len(args) > _most_by_position(cls):
        problems.append(("", _by_position(cls, args)))
    if problems:
        raise ConfigError(problems, title=f"Cannot make {cls.__name__}")


@functools.lru_cache(maxsize=1024)
def _most_by_position(cls: type) -> float:
    """How many options a class takes by position."""
    kinds = [parameter.kind for parameter in inspect.signature(cls).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return float("inf")
    return kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _by_position(cls: Any, args: tuple[Any, ...]) -> str:
    """The sentence for options by position, or for what was meant for a call."""
    most = int(_most_by_position(cls))
    expected = f"at most {most} options by position" if most else "options by name"
    got = f"expected {expected}, got {len(args)}" + ("" if most else " by position")
    if any(hasattr(x, "shape") for x in args):
        return f"{got}; to calculate, make it first: {cls._example_call()}"
    names = positional_order(cls)[most:]
    return f"{got}; write {cls.__name__}({names[0]}={_short(args[most])})" if names else got


def replaced(made: Any, **changes: Any) -> Any:
    """A calculator with other options: `dataclasses.replace`, for those with an `__init__` of their own too."""
    if has_own_init(type(made)):
        return copied_with(made, **changes)
    return dataclasses.replace(made, **changes)


def positional_order(cls: type) -> list[str]:
    """Option names of a class: its own first, the common ones of its bases after them.

    A calculator that extends another one has that one's options before its new ones.
    """
    if has_own_init(cls):
        return [name for name in _signature(cls)[0] if name != "*"]
    own: list[str] = []
    registered = [base for base in cls.__mro__ if vars(base).get("names_in_registry")]
    for base in (*reversed(registered), *cls.__mro__):
        hints = inspect.get_annotations(base)
        own += [name for name, hint in hints.items() if hint is not INHERITED and name not in own]
    fields = {field.name for field in dataclasses.fields(cls)}
    return [name for name in own if name in fields]


def checked(
    target: Callable[..., Any], options: Mapping[str, Any], skip: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Options checked against the signature of a class or function: (converted options, problems).

    Options named in `skip` may hold anything: they are config blocks that have not been resolved yet.
    """
    fields, any_name = _signature(target)
    problems: list[Problem] = []
    values = dict(options)
    for name, value in options.items():
        if name in fields:
            if name not in skip:
                values[name], found = fields[name].check(value)
                problems += [(".".join((name, *path)), message) for path, message in found]
        elif not any_name and len(problems) < MAX_PROBLEMS:
            problems.append((name, unknown_option(target, name)))
    problems += [
        (name, "this option has no default and must be given")
        for name, field in fields.items()
        if field.required and name not in options
    ]
    return values, problems


def unknown_option(target: Callable[..., Any], name: str) -> str:
    """The sentence for an option that a class or function does not have."""
    known = list(defaults(target))
    constant = getattr(target, name, None)
    if isinstance(constant, (bool, int, float, str)):
        annotated = f"{name}: {type(constant).__name__} = {constant!r}"
        return f"is a constant of the class, and no option: write `{annotated}` there"
    if name in NOTES and name not in known:
        return f"unknown option; {NOTES[name]}"
    return f"unknown option{closest_option(name, known)} (known: {', '.join(known) or 'none'})"


def defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """{option: default} of a class or function in positional order; `...` for an option without a default."""
    fields, _ = _signature(target)
    names = positional_order(target) if is_calculator_class(target) else fields
    values: dict[str, Any] = {}
    for name in names:
        if name != "*":
            # A list or dict is the caller's own.
            values[name] = ... if fields[name].required else copy.deepcopy(fields[name].default)
    return values


def is_calculator_class(target: Any) -> TypeGuard[type[Configurable]]:
    return isinstance(target, type) and issubclass(target, Configurable)


@dataclasses.dataclass(frozen=True)
class _Field:
    """One option: its default and the pydantic adapter of its type, None where the type cannot be checked."""

    default: Any
    adapter: TypeAdapter[Any] | None
    trusted: bool = True
    """Whether the default needs no check: that of a function may have another type, such as `x: int = None`."""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def check(self, value: Any) -> tuple[Any, list[Finding]]:
        """(converted value, problems). Strict: a string is no number; but an int is a float, and what a config file
        cannot hold is made from what it can: a Path or an Enum from a string, a tuple from a list.
        """
        plain = value is None or isinstance(value, (str, int, float, tuple))
        same = value is self.default or (plain and type(value) is type(self.default) and value == self.default)
        if self.adapter is None or (same and self.trusted):
            return value, []
        found, problems = self._checked(value)
        if problems and _holds_arrays(value):
            # Calculators keep plain numbers. A function may ask for an array, so that came first.
            found, problems = self._checked(_plain(value))
        return (found if not problems else value), problems

    def _checked(self, value: Any) -> tuple[Any, list[Finding]]:
        """As `check`; of a long list or dict only the first problems are worded."""
        listed: list[Finding] = []
        more = 0
        for start, part in _parts(value):
            # pydantic words each problem in a kilobyte.
            if len(listed) >= MAX_PROBLEMS_OF_OPTION:
                more += self._count(part)
                continue
            problems = self._validated(part)[1]
            if any(not path for path, _ in problems):
                break  # the value is of another type as a whole
            listed += [(_moved(path, start), message) for path, message in problems]
        if listed:
            return value, _shortened(listed, more)
        found, problems = self._validated(value)
        return found, _shortened(problems)

    def _count(self, value: Any) -> int:
        """The number of problems of a part of a list or dict, without their words."""
        from pydantic import ValidationError

        assert self.adapter is not None
        try:
            self.adapter.validate_python(value, strict=True)
            return 0
        except ValidationError as error:
            count = error.error_count()
        # What JSON makes of the part, such as a Path of a text, may be right.
        with contextlib.suppress(ValidationError, TypeError, ValueError, RecursionError):
            self.adapter.validate_json(json.dumps(_string_keys(value)), strict=True)
            return 0
        return count

    def _validated(self, value: Any) -> tuple[Any, list[Finding]]:
        from pydantic import ValidationError

        assert self.adapter is not None
        try:
            found = self.adapter.validate_python(value, strict=True)
        except ValidationError as error:
            try:
                return self.adapter.validate_json(json.dumps(_string_keys(value)), strict=True), []
            except (ValidationError, TypeError, ValueError, RecursionError):
                if error.error_count() > MAX_PROBLEMS * _PART:
                    return value, [((), f"has {error.error_count():,} wrong items, got {_short(value)}")]
                return value, _sentences(value, error.errors(include_url=False))
        except Exception:  # the type's own validator is at fault, such as one written for pydantic 1
            return value, []
        if isinstance(value, bool) and isinstance(found, int) and not isinstance(found, bool):  # Literal[1] takes True
            return value, [((), f"should be {found!r} and no bool, got {value}")]
        # pydantic wraps iterables to check their items later: hand over what was given
        return (value if type(found).__name__ == "ValidatorIterator" else found), []


def _parts(value: Any) -> Iterator[tuple[int, Any]]:
    """A long list or dict in parts: (position of the first item, part). Nothing for what is short."""
    if not isinstance(value, (list, tuple, dict)) or len(value) <= _PART:
        return
    if not isinstance(value, dict):
        for start in range(0, len(value), _PART):
            yield start, value[start : start + _PART]
        return
    items = iter(value.items())
    while part := dict(itertools.islice(items, _PART)):
        yield 0, part


def _moved(path: tuple[str, ...], start: int) -> tuple[str, ...]:
    """The path of an item of a part as that of an item of the whole."""
    return (str(int(path[0]) + start), *path[1:]) if start and path[0].isdigit() else path


def takes_any_option(target: Callable[..., Any]) -> bool:
    """Whether a class or function takes options of any name."""
    return _signature(target)[1]


@functools.lru_cache(maxsize=1024)
def _signature(target: Callable[..., Any]) -> tuple[dict[str, _Field], bool]:
    """The options of a class or function, and whether it takes options of any name."""
    hints = _hints(target)
    finite = is_calculator_class(target) and not has_own_init(target)
    factories = _default_factories(target)
    fields: dict[str, _Field] = {}
    any_name = False
    for name, parameter in _parameters(target).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            any_name = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            fields["*"] = _Field((), None)
        else:
            hint = hints.get(name, Any)
            infinite = not finite or INFINITY_ALLOWED in getattr(hint, "__metadata__", ())
            default = factories[name]() if name in factories else parameter.default
            fields[name] = _Field(default, _adapter(hint, infinite), trusted=not finite)
    return fields, any_name


def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # some callables of C have no signature, and say themselves what they do not take
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _default_factories(target: Any) -> dict[str, Any]:
    """The functions that make the defaults of options."""
    if not dataclasses.is_dataclass(target):
        return {}
    factories = {field.name: field.default_factory for field in dataclasses.fields(target)}
    return {name: factory for name, factory in factories.items() if factory is not dataclasses.MISSING}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The types of a signature, each resolved where it was written; those that nobody can resolve are left out."""
    found: dict[str, Any] = {}
    is_class = isinstance(target, type)
    if isinstance(target, type) and dataclasses.is_dataclass(target) and not has_own_init(target):
        sources: list[Any] = list(reversed(target.__mro__))
    else:
        sources = [target.__init__ if is_class else target]
    for source in sources:
        source = getattr(source, "func", source)  # functools.partial
        try:
            annotations = inspect.get_annotations(source)
        except (TypeError, NameError):
            continue
        for name, hint in annotations.items():
            if hint is not INHERITED:
                holder = type("holder", (), {"__annotations__": {name: hint}, "__module__": source.__module__})
                scope = getattr(source, "__globals__", None)
                with contextlib.suppress(Exception):
                    found[name] = get_type_hints(holder, globalns=scope, include_extras=True)[name]
    return found


def _string_keys(value: Any) -> Any:
    """The value, or TypeError where JSON would turn a key into a string."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key that is no string")
        return {key: _string_keys(item) for key, item in value.items()}
    return [_string_keys(item) for item in value] if isinstance(value, (list, tuple)) else value


def _adapter(hint: Any, infinite: bool) -> TypeAdapter[Any] | None:
    from pydantic import ConfigDict, TypeAdapter

    if hint is Any:
        return None
    settings = ConfigDict(strict=True, allow_inf_nan=infinite, arbitrary_types_allowed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # validators of pydantic 1 in other packages
        for config in (settings, None):  # models bring their own settings and take no others
            with contextlib.suppress(Exception):
                return TypeAdapter(hint, config=config)
    return None


def _shortened(problems: list[Finding], more: int = 0) -> list[Finding]:
    """The first problems of an option, and the number of the others."""
    more += max(len(problems) - MAX_PROBLEMS_OF_OPTION, 0)
    rest: list[Finding] = [((), f"and {more:,} more")] if more else []
    return problems[:MAX_PROBLEMS_OF_OPTION] + rest


def _first_of_each(problems: Iterable[Problem]) -> list[Problem]:
    """The first problems of each option. What finds them stops at some point, so the others are not counted."""
    by_option: dict[str, list[Problem]] = {}
    for option, message in problems:
        by_option.setdefault(option, []).append((option, message))
    for option, found in by_option.items():
        if len(found) > MAX_PROBLEMS_OF_OPTION:
            found[MAX_PROBLEMS_OF_OPTION:] = [(option, "and more")]
    return list(itertools.chain.from_iterable(by_option.values()))


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(hasattr(item, "tolist") for item in value)
    return hasattr(value, "tolist") and hasattr(value, "dtype")


def _sentences(value: Any, errors: Iterable[Any]) -> list[Finding]:
    """What pydantic says of a value; one sentence for each place, where a union has a problem for each of its types."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for error in errors:
        places.setdefault(_path_within(value, error), []).append(error)
    return [(path, _sentence(found)) for path, found in places.items()]


def _path_within(value: Any, error: Any) -> tuple[str, ...]:
    """The place of a problem within a value, without pydantic's names for the types of a union."""
    path: list[str] = []
    for part in error["loc"]:
        is_key = isinstance(value, Mapping) and part in value
        is_index = isinstance(value, Sequence) and isinstance(part, int) and part < len(value)
        if is_key or is_index:
            value = value[part]
            path.append(str(part))
        elif isinstance(part, int):
            path.append(str(part))
    if error["type"] == "missing":
        path.append(str(error["loc"][-1]))
    return tuple(path)


def _sentence(errors: list[Any]) -> str:
    """The sentence for all problems of one place."""
    value = errors[0]["input"]
    expected = [_expected(error) for error in errors]
    text = expected[0]
    if len(expected) > 1:
        *others, last = dict.fromkeys(map(_alternative, expected))
        text = f"should be {', '.join(others)} or {last}" if others else f"should be {last}"
    hint = ""
    if any(error["type"] in _NUMBER_ERRORS for error in errors):
        hint = _number_hint(value)
    return f"{text}, got {_short(value)}{hint}"


def _expected(error: Any) -> str:
    """What pydantic expected."""
    expected: str = error["msg"].removeprefix("Input ")
    # What pydantic says of a text or a dict in the place of a list speaks of Python's types.
    if error["type"] == "sequence_str" or expected == "should be an instance of Sequence":
        return "should be a list"
    return expected


_NUMBER_ERRORS = ("float_type", "int_type")

_ALTERNATIVES = {"callable": "a function", "an instance of Iterator": "an iterator"}


def _alternative(expected: str) -> str:
    """One of several things that an option may be."""
    words = expected.removeprefix("should be ").replace("a valid ", "an " if "integer" in expected else "a ")
    return _ALTERNATIVES.get(words, words)


def _number_hint(value: Any) -> str:
    """What to write for a text that Python reads as a number: `.1`, `1.`, `+1` and `1_000` are no JSON."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return ""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            number = kind(value)
            return f"; write {number}" if abs(number) < float("inf") else ""
    return ""


_NUMBER = re.compile(r"[+-]?[0-9_.]{1,50}(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def _short(value: Any) -> str:
    long = isinstance(value, (list, tuple, str)) and len(value) > 100  # nobody reads the rest
    text = repr(value[:100] if long else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    """Options as plain Python: arrays of any library and NumPy scalars as numbers, sequences as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value


def _as_json(value: Any) -> Any:
    if isinstance(value, Configurable):
        return value.to_config()
    if callable(value):
        raise ConfigError([("", f"a config cannot hold {_short(value)}: register it, and name it in a block")])
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_json(item) for item in value]
    return value
