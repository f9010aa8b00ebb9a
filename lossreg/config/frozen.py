"""Frozen dataclasses that are made without a decorator, and may have one all the same."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from dataclasses import Field, FrozenInstanceError, dataclass, fields, is_dataclass
from typing import Any

__all__ = ["Frozen", "as_dataclass"]


class Frozen:
    """Base whose attributes cannot be set. `dataclasses.replace` makes a changed copy."""

    def __setattr__(self, name: str, value: Any) -> None:
        made = type(self).__name__
        raise FrozenInstanceError(
            f"Cannot set {name!r} of {made}: objects do not change; write dataclasses.replace(..., {name}=...)."
        )

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"Cannot delete {name!r} of {type(self).__name__}: objects do not change.")


def as_dataclass(cls: type[Frozen], **options: Any) -> None:
    """Make a class a frozen dataclass, and leave it as a second decorator expects it.

    Users decorate their classes as well, with `@dataclasses.dataclass(frozen=True)` or `@flax.struct.dataclass`. These
    read the fields from the class, and refuse one that has a `__setattr__` of its own.
    """
    inherited = {field.name: field for base in cls.__mro__[:0:-1] for field in _fields_of(base)}
    for name in inspect.get_annotations(cls):
        # A field with a new type alone is otherwise what it was. Dataclasses write to the fields that they find.
        if name in inherited and name not in vars(cls):
            setattr(cls, name, copy.copy(inherited[name]))
    own = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}

    dataclass(frozen=True, **options)(cls)

    # Those of `Frozen` do the same.
    del cls.__setattr__, cls.__delattr__
    for name, field in own.items():
        # Without an argument in `__init__`, instances find the default in the class.
        if field.init:
            setattr(cls, name, field)


def _fields_of(cls: type) -> Iterable[Field[Any]]:
    return fields(cls) if is_dataclass(cls) else ()
