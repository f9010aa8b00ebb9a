"""Calculator classes with an `__init__` of their own: its arguments are treated as their options."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["arguments_of", "copied_with", "forget_computed", "has_own_init", "is_equal", "keep_arguments"]

_ARGUMENTS = "_made_with"
"""The attribute that holds the arguments of an object's `__init__`."""


def has_own_init(cls: type) -> bool:
    """Whether a class of calculators, or one of its bases, has an `__init__` of its own."""
    return bool(getattr(cls, "writes_init", False))


def keep_arguments(cls: type) -> None:
    """Let objects of a class remember what its own `__init__` was called with.

    Two such objects are equal if they are of one class and have equal arguments and attributes.
    """
    cls.__init__ = _keeping(cls.__init__)  # type: ignore[misc]
    if "__eq__" not in vars(cls):
        cls.__eq__ = _is_equal_calculator  # type: ignore[assignment]
        cls.__hash__ = _hash_of_class  # type: ignore[assignment]


def _keeping(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def keeping(self: Any, *args: Any, **kwargs: Any) -> None:
        # The `__init__` of a subclass, which calls this one, has kept its own arguments already.
        if _ARGUMENTS not in vars(self):
            object.__setattr__(self, _ARGUMENTS, _bound(signature, self, args, kwargs))
        init(self, *args, **kwargs)

    return keeping


def _bound(signature: inspect.Signature, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, those of `**kwargs` among the others. None at all if they do not fit: the call says so."""
    try:
        bound = signature.bind(self, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    _, *parameters = signature.parameters.values()
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        value = bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(value)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            arguments["*"] = value
        else:
            arguments[parameter.name] = value
    for name, value in arguments.items():
        if isinstance(value, (list, dict, set)):  # the caller's may change later
            arguments[name] = copy.copy(value)
    return arguments


def arguments_of(calculator: Any) -> Mapping[str, Any]:
    """The arguments of an object's `__init__` by name; "*" for positional arguments without a name.

    If an attribute has the name of an argument, its value of today counts.
    """
    arguments: Mapping[str, Any] = vars(calculator).get(_ARGUMENTS, {})
    return {name: vars(calculator).get(name, value) for name, value in arguments.items()}


def copied_with(calculator: Any, **changes: Any) -> Any:
    """A copy of an object with other attributes."""
    copied = copy.copy(calculator)
    forget_computed(copied)
    vars(copied).update(changes)
    return copied


def forget_computed(calculator: Any) -> None:
    """Drop what was computed from attributes that have changed."""
    for name in list(vars(calculator)):
        if _is_computed(type(calculator), name):
            del vars(calculator)[name]


def is_equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; arrays are if they have one shape and equal numbers."""
    if a is b:
        return True
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(is_equal, a, b))
    if hasattr(a, "shape") or hasattr(b, "shape"):
        same_shape = getattr(a, "shape", None) == getattr(b, "shape", None)
        return same_shape and bool((a == b).all())
    return bool(a == b)


def _is_computed(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def _state(calculator: Any) -> dict[str, Any]:
    """The attributes of an object, without those that are computed from others."""
    cls = type(calculator)
    return {name: value for name, value in vars(calculator).items() if not _is_computed(cls, name)}


def _is_equal_calculator(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    mine, theirs = _state(self), _state(other)
    mine.pop(_ARGUMENTS, None)
    theirs.pop(_ARGUMENTS, None)
    # Arguments as well: the `__init__` may have no attributes for them, or attributes of other names.
    return _are_equal(mine, theirs) and _are_equal(arguments_of(self), arguments_of(other))


def _are_equal(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return mine.keys() == theirs.keys() and all(is_equal(mine[name], theirs[name]) for name in mine)


def _hash_of_class(self: Any) -> int:
    return hash(type(self))
