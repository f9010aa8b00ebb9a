"""`Registry`: names for functions and classes, from this package and from plug-ins."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import catalogue

from ..synonyms import closest, closest_loss
from .options import ConfigError

__all__ = ["ALIASES", "Registry", "one_line", "origin"]

ALIASES: dict[str, str] = {}
"""Short names of calculators: `"ce"` -> `"CrossEntropy.v1"`."""


class Registry(catalogue.Registry):  # type: ignore[misc]
    """A catalogue registry where built-ins come first and a broken plug-in spoils nothing but itself.

    Plug-ins are entry points of the group `lossreg_<registry>`. A name that is taken cannot be registered again, and
    an entry point with the name of a registered function is ignored with a warning.
    """

    def register(self, name: str, *, func: Any = None) -> Any:
        """Register a function or class under a new name; usable as a decorator."""
        if func is None:
            return functools.partial(self._add, name)
        return self._add(name, func)

    def _add(self, name: str, func: Any) -> Any:
        if not isinstance(name, str) or not name:
            raise ConfigError([(self.namespace[-1], f"expected a name, got {name!r}")])
        known = catalogue.REGISTRY.get((*self.namespace, name))
        # A module that is imported again may replace what it has registered; functions within functions look alike.
        is_reloaded = origin(known) == origin(func) and "<" not in origin(func)
        if known is not None and known is not func and not is_reloaded:
            raise ConfigError([(self.namespace[-1], f"'{name}' is already registered by {origin(known)}")])
        super().register(name, func=func)
        return func

    @functools.cached_property
    def _plugins(self) -> dict[str, list[Any]]:
        plugins: dict[str, list[Any]] = {}
        for entry_point in self._get_entry_points() if self.entry_points else ():
            plugins.setdefault(entry_point.name, []).append(entry_point)
        return plugins

    def __contains__(self, name: object) -> bool:
        return (*self.namespace, name) in catalogue.REGISTRY or name in self._plugins

    def get(self, name: str) -> Any:
        """The function or class of a name; `ConfigError` with close matches if there is none."""
        if not isinstance(name, str):
            raise self._unknown(name)
        plugins = self._plugins.get(name, [])
        built_in = catalogue.REGISTRY.get((*self.namespace, name))
        if built_in is not None:
            if plugins:
                warnings.warn(f"plug-in {plugins[0].value} is ignored: '{name}' is already registered", stacklevel=2)
            return built_in
        if not plugins:
            raise self._unknown(name)
        if len({entry_point.value for entry_point in plugins}) > 1:
            origins = " and ".join(entry_point.value for entry_point in plugins)
            raise ConfigError([(self.namespace[-1], f"'{name}' is provided by more than one plug-in: {origins}")])
        try:
            return plugins[0].load()
        except (Exception, SystemExit) as error:  # a module that calls sys.exit is broken like any other
            message = f"plug-in {plugins[0].value} for '{name}' cannot be loaded: {one_line(error)}"
            raise ConfigError([(self.namespace[-1], message)]) from error

    def _unknown(self, name: Any) -> ConfigError:
        """The error for a name under which nothing is registered."""
        known = self.names()
        hint = ""
        if isinstance(name, str):
            hint = self._closest(name, known)
        if not hint:
            hint = f" (known: {', '.join(known) or 'none'})"
        return ConfigError([(self.namespace[-1], f"nothing is registered as {name!r}{hint}")])

    def _closest(self, name: str, known: list[str]) -> str:
        """The question whether another name was meant."""
        if self.namespace[-1] != "losses":
            return closest(name, known)
        if name in ALIASES:
            return f"; did you mean {ALIASES[name]!r}?"
        return closest_loss(name, known)

    def names(self) -> list[str]:
        """All names, sorted; plug-ins are listed without being loaded."""
        names = set(self._plugins)
        for *namespace, name in list(catalogue.REGISTRY):
            if namespace == list(self.namespace):
                names.add(name)
        return sorted(names)

    def get_all(self) -> dict[str, Any]:
        """Everything that can be loaded, by name; a plug-in that cannot is left out with a warning."""
        functions = {}
        for name in self.names():
            try:
                functions[name] = self.get(name)
            except ConfigError as error:
                warnings.warn(str(error), stacklevel=2)
        return functions


def origin(func: Any) -> str:
    """Where a function or class was written."""
    return f"{getattr(func, '__module__', '?')}.{getattr(func, '__qualname__', repr(func))}"


def one_line(error: BaseException) -> str:
    """An error of somebody else's as part of a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
