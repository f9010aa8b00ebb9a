"""What is said about attributes that the package does not have: what to write for what other libraries call so."""

from __future__ import annotations

import sys
from types import ModuleType

from .config.registry import ALIASES
from .synonyms import closest_attribute

__all__ = ["missing_attribute"]

WITH_OWN_IMPORT = ("lossreg.jax", "lossreg.torch")
"""Modules that the package does not import, as they need another library."""


def missing_attribute(module_name: str, name: str) -> AttributeError:
    """The error for an attribute that a module does not have."""
    text = f"module {module_name!r} has no attribute {name!r}"
    # Python itself asks for names with underscores, and for modules before it imports them.
    if name.startswith("_"):
        return AttributeError(text)
    if f"{module_name}.{name}" in WITH_OWN_IMPORT:
        return AttributeError(f"{text} yet; write import {module_name}.{name}")
    module = sys.modules[module_name]
    if name in ALIASES and hasattr(module, "functional"):
        return AttributeError(f"{text}; did you mean 'functional.{name}'?")

    hint = closest_attribute(name, _known_names(module))
    if not hint and module_name.endswith(".metrics"):
        hint = f" (known: {', '.join(_registered_classes(module).values())})"
    return AttributeError(text + hint)


def _known_names(module: ModuleType) -> dict[str, str]:
    """{name: attribute} of what a module has, under its own names and those in registries."""
    public = {name: name for name in module.__all__}
    return public | _registered_classes(module)


def _registered_classes(module: ModuleType) -> dict[str, str]:
    """{name in a registry: attribute} of the classes of a module."""
    registered: dict[str, str] = {}
    for attribute in module.__all__:
        value = getattr(module, attribute)
        names = vars(value).get("names_in_registry", ()) if isinstance(value, type) else ()
        for name in names:
            registered[name.partition(":")[2]] = attribute
    return registered
