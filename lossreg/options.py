"""Options of calculators: frozen dataclasses checked by a strict schema, with every problem reported at once."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import numpy as np
from confection import ConfigValidationError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Stand-in at run time: type checkers read the real one."""
        return lambda cls: cls


__all__ = ["INFINITY_ALLOWED", "ConfigError", "Configurable", "Problem", "checked", "closest"]

INFINITY_ALLOWED = "infinity allowed"
"""Mark of an option that may be infinite: `Annotated[float, Ge(0), INFINITY_ALLOWED]`."""

Problem = tuple[str, str]
"""Dotted path of an option and what is wrong with it, as one sentence."""


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


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Configurable:
    """Base of everything that is made of options: subclasses become frozen keyword-only dataclasses.

    Options are checked when the object is made: wrong types, ranges, NaN and infinity raise one `ConfigError` that
    lists them all. Lists and arrays become tuples, so objects are hashable and nothing of the caller's is kept.
    """

    names_in_registry: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, kw_only=True, repr=False)(cls)

    def __post_init__(self) -> None:
        values, problems = checked(type(self), {name: _plain(value) for name, value in self._fields().items()})
        if not problems:
            for name, value in values.items():
                object.__setattr__(self, name, value)
            problems = list(self.check_options())
        if problems:
            raise ConfigError(problems, title=f"Cannot make {type(self).__name__}")

    def check_options(self) -> Iterable[Problem]:
        """Problems that involve more than one option; each a pair (option, sentence)."""
        return ()

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def options(self, all: bool = False) -> dict[str, Any]:
        """The options that differ from their defaults, or all of them, in their positional order."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        values = self._fields()
        return {name: values[name] for name in positional_order(type(self)) if all or values[name] != defaults[name]}

    def to_config(self) -> dict[str, Any]:
        """The config block that makes an equal object: `Config({"loss": loss.to_config()}).to_disk(path)`."""
        registry_name, _, name = self.names_in_registry[-1].partition(":") if self.names_in_registry else ("", "", "")
        if not name:
            raise ConfigError([("", f"{type(self).__name__} is not registered: give it a name with @register")])
        return {f"@{registry_name}": name, **{key: _as_json(value) for key, value in self.options().items()}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.options().items())})"


def positional_order(cls: type) -> list[str]:
    """Option names of a class: its own first, the common ones of its bases after them."""
    own: list[str] = []
    for base in cls.__mro__:
        own += [name for name in inspect.get_annotations(base) if name not in own]
    fields = {field.name for field in dataclasses.fields(cls)}
    return [name for name in own if name in fields]


def checked(
    target: Callable[..., Any], options: Mapping[str, Any], skip: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Options checked against the signature of a class or function: (converted options, problems).

    Options named in `skip` may hold anything: they are config blocks that have not been resolved yet.
    """
    from pydantic import ValidationError

    model = _schema(target)
    skipped = set(skip)
    try:
        valid = model.model_validate(dict(options))
    except ValidationError as error:
        problems = [_sentence(target, e) for e in error.errors() if not e["loc"] or e["loc"][0] not in skipped]
        return dict(options), problems
    extra = valid.model_extra or {}
    fields = {field.alias or "": getattr(valid, name) for name, field in model.model_fields.items()}
    return {name: fields.get(name, extra.get(name)) for name in options}, []


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'delta'?`, or nothing when no known name is close."""
    known = list(known)
    folded = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or [
        folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    ]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


@functools.lru_cache(maxsize=1024)
def _schema(target: Callable[..., Any]) -> type[BaseModel]:
    """A strict pydantic model of a signature. Fields go by alias, so that no option name clashes with pydantic's."""
    from pydantic import ConfigDict, Field, create_model

    try:
        hints = get_type_hints(target, include_extras=True)
        if isinstance(target, type) and not dataclasses.is_dataclass(target):
            hints = get_type_hints(target.__init__, include_extras=True)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # annotations that nobody can evaluate are not checked
        hints = {}
    fields: dict[str, Any] = {}
    extra = "forbid"
    for i, (name, parameter) in enumerate(inspect.signature(target).parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is parameter.VAR_POSITIONAL:
            fields[f"option_{i}"] = (Any, Field((), alias="*"))
        else:
            default = ... if parameter.default is parameter.empty else parameter.default
            hint = hints.get(name, Any)
            infinite = True if INFINITY_ALLOWED in getattr(hint, "__metadata__", ()) else None
            fields[f"option_{i}"] = (hint, Field(default, alias=name, allow_inf_nan=infinite))
    settings = ConfigDict(strict=True, extra=extra, allow_inf_nan=False, arbitrary_types_allowed=True)  # type: ignore[typeddict-item]
    return create_model(f"{getattr(target, '__name__', 'options')}_options", __config__=settings, **fields)


def _sentence(target: Callable[..., Any], error: Any) -> Problem:
    path = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("function-", "is-instance")))
    if error["type"] == "extra_forbidden":
        known = [field.alias or "" for field in _schema(target).model_fields.values()]
        return path, f"unknown option{closest(path, known)} (known: {', '.join(known) or 'none'})"
    if error["type"] == "missing":
        return path, "this option has no default and must be given"
    message = error["msg"].removeprefix("Input ")
    return path, f"{message}, got {_short(error['input'])}"


def _short(value: Any) -> str:
    text = repr(value)
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
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_json(item) for item in value]
    return value
