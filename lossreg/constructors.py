"""Classes of calculators with an `__init__` of their own: what they were made with takes the place of options."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["arguments_of", "copied_with", "has_own_init", "keep_arguments"]

_ARGUMENTS = "_made_with"
"""The attribute of an object that holds the arguments it was made with."""


def has_own_init(cls: type) -> bool:
    """Whether a class of calculators, or one of its bases, has an `__init__` of its own."""
    return bool(getattr(cls, "writes_init", False))


def keep_arguments(cls: type) -> None:
    """Let objects of a class remember what its own `__init__` was called with.

    Two such objects are equal if they are of one class and were made with equal arguments.
    """
    cls.__init__ = _keeping(cls.__init__)  # type: ignore[misc]
    if "__eq__" not in vars(cls):
        cls.__eq__ = _made_alike  # type: ignore[assignment]
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
    """Arguments by name; those of `**kwargs` among the others. Nothing where they do not fit: the call will say so."""
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
    return arguments


def arguments_of(made: Any) -> Mapping[str, Any]:
    """What an object was made with, by name; "*" for positional ones without a name."""
    arguments: Mapping[str, Any] = vars(made).get(_ARGUMENTS, {})
    return arguments


def copied_with(made: Any, **changes: Any) -> Any:
    """A copy of an object with other attributes. What was computed from the old ones is computed again."""
    copied = copy.copy(made)
    for name in list(vars(copied)):
        if isinstance(inspect.getattr_static(type(copied), name, None), functools.cached_property):
            del vars(copied)[name]
    vars(copied).update(changes)
    return copied


def _made_alike(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    mine, theirs = arguments_of(self), arguments_of(other)
    return mine.keys() == theirs.keys() and all(_is_equal(mine[name], theirs[name]) for name in mine)


def _is_equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    same = a == b
    # Arrays compare item by item.
    return bool(same.all()) if hasattr(same, "all") else bool(same)


def _hash_of_class(self: Any) -> int:
    return hash(type(self))
