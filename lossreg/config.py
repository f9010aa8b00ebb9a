"""Registries, config files and `@register`: from a name in a file to an object, with every error as a `ConfigError`."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import confection
from confection.util import is_promise

from .registries import Registry, one_line, origin
from .schema import ConfigError, Configurable, Problem, checked, closest
from .variables import variable_problems

__all__ = ["ALIASES", "Config", "Registry", "register", "registry"]

T = TypeVar("T", bound=type[Configurable])

ALIASES: dict[str, str] = {}
"""Short names of calculators: `"ce"` -> `"CrossEntropy.v1"`."""


class registry(confection.registry):  # noqa: N801  (a class used as a namespace, as in Thinc and spaCy)
    """lossreg's registries: `registry.losses("MyLoss.v1")` registers, `registry.resolve(config)` makes objects.

    In a config a block names its function with one key, `@losses = "Huber.v1"`; its other keys are the options.
    Plug-ins register through entry points of the groups `lossreg_losses`, `lossreg_ops` and so on.
    """

    losses = Registry(("lossreg", "losses"), entry_points=True)
    ops = Registry(("lossreg", "ops"), entry_points=True)
    schedules = Registry(("lossreg", "schedules"), entry_points=True)
    metrics = Registry(("lossreg", "metrics"), entry_points=True)

    @classmethod
    def create(cls, registry_name: str, entry_points: bool = False) -> Registry:
        """Add a registry, for example for models: `registry.create("layers")`."""
        if hasattr(cls, registry_name):
            raise ConfigError([(registry_name, "there is a registry of this name already")])
        created = Registry(("lossreg", registry_name), entry_points=entry_points)
        setattr(cls, registry_name, created)
        return created

    @classmethod
    def get(cls, registry_name: str, func_name: str) -> Any:
        """The class or function registered under a name; `ConfigError` with close matches when there is none."""
        found = getattr(cls, registry_name, None) if isinstance(registry_name, str) else None
        if not isinstance(found, Registry):
            names = [name for name in dir(cls) if isinstance(getattr(cls, name), Registry)]
            message = f"there is no registry {registry_name!r}{closest(str(registry_name), names)}"
            raise ConfigError([("", f"{message} (known: {', '.join(names)})")])
        return found.get(func_name)

    @classmethod
    def resolve(
        cls,
        config: Mapping[str, Any],
        *,
        schema: Any = None,
        overrides: Mapping[str, Any] = {},
        validate: bool = True,
    ) -> dict[str, Any]:
        """Make every object that a config describes, innermost blocks first.

        Nothing is made unless the whole config is sound: unknown names and wrong options of all blocks are raised
        together, as one `ConfigError` with dotted paths. The config itself is not changed.
        """
        with _as_config_error():
            prepared = cls._prepare(config, overrides)
            problems: list[Problem] = []
            resolved = cls._build(prepared, "", problems)
            _raise(problems)
            if schema is not None:
                resolved = confection.Config(resolved)
                if validate:  # before defaults are filled in: filling drops unknown keys
                    resolved.validate(schema)
                resolved.fill_defaults(schema)
            return dict(resolved)

    @classmethod
    def fill(
        cls,
        config: Mapping[str, Any],
        *,
        schema: Any = None,
        overrides: Mapping[str, Any] = {},
        interpolate: bool = False,
        validate: bool = True,
    ) -> Config:
        """A copy of a config with the defaults of every block written out. Variables stay unless `interpolate`."""
        with _as_config_error():
            prepared = cls._prepare(config, overrides)
            keep_variables = not (overrides or interpolate or getattr(config, "is_interpolated", True))
            source = config if keep_variables else prepared
            return Config(super().fill(source, schema=schema, interpolate=interpolate, validate=False))  # type: ignore[arg-type]

    @classmethod
    def _prepare(cls, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
        """An interpolated deep copy with overrides set, once every block has been checked."""
        if not isinstance(config, Mapping):
            raise ConfigError([("", f"expected a Config or a dict of sections, got {type(config).__name__}")])
        if is_promise(config):
            raise ConfigError([("", "the top level must be sections, not one block with an '@' key")])
        # containers are copied and what they hold is not: a config may carry live objects, such as models
        prepared = Config(_containers(dict(config)), is_interpolated=getattr(config, "is_interpolated", True))
        prepared = prepared if prepared.is_interpolated else prepared.interpolate()
        problems = _override_problems(prepared, overrides, new_keys=False)
        for path, value in {} if problems else overrides.items():
            *parents, last = path.split(".")
            functools.reduce(dict.__getitem__, parents, prepared)[last] = _containers(value)
        cls._check(prepared, "", problems)
        _raise(problems)
        return prepared

    @classmethod
    def _check(cls, node: Mapping[str, Any], path: str, problems: list[Problem]) -> None:
        """Collect the problems of every block: names first, then options, then what lies between options."""
        nested = {key for key, value in node.items() if cls._holds_block(value)}
        for key, value in node.items():
            for place, child in cls._children(_join(path, key), value):
                cls._check(child, place, problems)
        if not is_promise(node):
            return
        target = cls._target(node, path, problems)
        if target is None:
            return
        options = _options(node)
        found = checked(target, options, skip=nested)[1]
        if not found and not nested and isinstance(target, type) and issubclass(target, Configurable):
            try:
                target(**options)
            except ConfigError as error:
                found = error.problems
        order = {key: i for i, key in enumerate(node)}
        found.sort(key=lambda problem: order.get(problem[0].split(".")[0], len(order)))
        problems += [(_join(path, option), message) for option, message in found]

    @classmethod
    def _children(cls, path: str, value: Any) -> list[tuple[str, Mapping[str, Any]]]:
        """The sections in a value: itself, or those in a list that hold blocks."""
        if isinstance(value, Mapping):
            return [(path, value)]
        items = enumerate(value) if cls._holds_block(value) else ()
        return [
            child
            for i, item in items
            if cls._holds_block(item, True)
            for child in cls._children(_join(path, str(i)), item)
        ]

    @classmethod
    def _holds_block(cls, value: Any, in_list: bool = False) -> bool:
        """Whether a value names one of the registries somewhere. In lists other keys with an @ are plain data."""
        if isinstance(value, Mapping):
            keys = [str(key) for key in value if str(key).startswith("@")]
            named = any(isinstance(getattr(cls, key[1:], None), Registry) for key in keys)
            return named or (bool(keys) and not in_list) or any(cls._holds_block(v, in_list) for v in value.values())
        return isinstance(value, (list, tuple)) and any(cls._holds_block(item, True) for item in value)

    @classmethod
    def _target(cls, node: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
        keys = [key for key in node if isinstance(key, str) and key.startswith("@")]
        if len(keys) != 1:
            problems.append((path, f"a block can name one function, got {', '.join(keys)}"))
            return None
        try:
            return cls.get(keys[0][1:], node[keys[0]])
        except ConfigError as error:
            problems += [(_join(path, keys[0]), message) for _, message in error.problems]
            return None

    @classmethod
    def _built(cls, value: Any, path: str, problems: list[Problem], in_list: bool = False) -> Any:
        if isinstance(value, Mapping):
            return cls._build(value, path, problems) if not in_list or cls._holds_block(value, True) else value
        if not cls._holds_block(value):
            return value
        return [cls._built(item, _join(path, str(i)), problems, True) for i, item in enumerate(value)]

    @classmethod
    def _build(cls, node: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
        """Make the objects of a checked tree, children before parents; a block whose child failed is not made."""
        before = len(problems)
        built = {key: cls._built(value, _join(path, key), problems) for key, value in node.items()}
        if not is_promise(node) or len(problems) > before:
            return built["*"] if path and list(built) == ["*"] else built  # [loss.terms.*.digit] is [loss.terms.digit]
        target = cls._target(node, path, problems)
        options, found = checked(target, _options(built))
        arguments = options.pop("*", ())
        if not found:
            try:
                return target(*(arguments.values() if isinstance(arguments, Mapping) else arguments), **options)
            except ConfigError as error:
                found = error.problems
            except Exception as error:  # whatever a plug-in raises belongs to this block
                raise ConfigError([(path, f"{origin(target)} failed: {one_line(error)}")]) from error
        problems += [(_join(path, option), message) for option, message in found]
        return None


def register(*names: str, alias: str | None = None, to: str = "losses") -> Callable[[T], T]:
    """Class decorator that enters a calculator into `registry.losses` under one or more names with a version.

    The last name is the one that `to_config` writes. `alias` is a short name for use in Python. `to` names another
    registry, such as "metrics" or "schedules".
    """

    def decorate(cls: T) -> T:
        if alias is not None:
            if ALIASES.get(alias, names[-1]) != names[-1] or alias in ("Function", "Table", "help", "loss", "options"):
                raise ConfigError([(alias, "this alias is taken")])
            if not hasattr(cls, "truth_inputs"):
                raise ConfigError([(alias, f"only a reduced loss can be a function, got {cls.__name__}")])
        for name in names:
            getattr(registry, to).register(name, func=cls)
        cls.names_in_registry = tuple(f"{to}:{name}" for name in names)
        if alias is not None:
            ALIASES[alias] = names[-1]
        return cls

    return decorate


class Config(confection.Config):
    """A config file: sections of options in JSON, variables `${section.option}`, overrides `{"loss.delta": 2.0}`.

    Like confection's Config, with these differences: bad text of any kind raises `ConfigError`, a failed read leaves
    the object as it was, and what confection reads wrongly (sections that contain themselves, variables that multiply
    without bound, lists of variables that it joins) is refused.
    """

    def from_str(
        self, text: str, *, interpolate: bool = True, overrides: Mapping[str, Any] = {}, schema: Any = None
    ) -> Config:
        """Read a config from text."""
        with _as_config_error():
            read = functools.partial(super(Config, type(self)()).from_str, text)
            if overrides:
                _raise(_override_problems(read(interpolate=False), overrides))
            elif interpolate:
                _raise(variable_problems(text))
            parsed = read(interpolate=interpolate, overrides=dict(overrides), schema=schema)
        self.clear()
        self.update(parsed)
        self.is_interpolated = interpolate
        return self

    def from_bytes(self, bytes_data: bytes, *, interpolate: bool = True, overrides: Mapping[str, Any] = {}) -> Config:
        """Read a config from UTF-8 bytes."""
        with _as_config_error():
            text = bytes_data.decode("utf-8-sig")
        return self.from_str(text, interpolate=interpolate, overrides=overrides)

    def from_disk(self, path: str | Path, *, interpolate: bool = True, overrides: Mapping[str, Any] = {}) -> Config:
        """Read a config file."""
        return self.from_bytes(Path(path).read_bytes(), interpolate=interpolate, overrides=overrides)

    def to_str(self, *, interpolate: bool = True) -> str:
        """Write the config as text that reads back as the same config."""
        with _as_config_error():
            text = super().to_str(interpolate=interpolate)
        # confection reads two "$$" in one list wrongly; in a string a dollar sign is safe as a JSON escape
        escape = lambda line: _STRING.sub(lambda part: part.group().replace("$$", "\\u0024"), line.group())  # noqa: E731
        return re.sub(r"(?m)(?<== ).*$", escape, text)


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
"""A string in JSON."""


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    """Whatever goes wrong while a config is read is a problem of the config: confection, configparser, catalogue and
    pydantic raise a dozen types, among them KeyError and RecursionError.
    """
    try:
        yield
    except ConfigError:
        raise
    except confection.ConfigValidationError as error:
        listed = [(".".join(map(str, e.get("loc", ()))), str(e.get("msg"))) for e in error.errors or ()]
        raise ConfigError(listed or [("", " ".join((error.desc or error.text).split()))]) from None
    except RecursionError as error:
        raise ConfigError([("", "the config is nested too deeply or contains itself")]) from error
    except Exception as error:
        raise ConfigError([("", one_line(error))]) from error


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError(problems)


def _containers(value: Any) -> Any:
    """A copy of the dicts, lists and tuples of a value."""
    if isinstance(value, dict):
        return {key: _containers(item) for key, item in value.items()}
    return type(value)(map(_containers, value)) if type(value) in (list, tuple) else value


def _override_problems(config: Mapping[str, Any], overrides: Mapping[str, Any], new_keys: bool = True) -> list[Problem]:
    """Overrides of sections that are not there; without `new_keys` also of options, but for those of blocks."""
    problems: list[Problem] = []
    for path in overrides:
        *parents, last = path.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not parents or not last or not isinstance(node, dict):
            problems.append((path, f"cannot be overridden: the config has no section [{'.'.join(parents)}]"))
        elif not new_keys and last not in node and not is_promise(node):
            message = f"cannot be overridden: the section has no such option{closest(last, node)}"
            problems.append((path, message))
    return problems


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or str(key)


def _options(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if not str(key).startswith("@")}
