"""Registries, config files and `@register`: from a name in a file to an object, with every error as a `ConfigError`."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import confection
from confection.util import is_promise

from ..checks import describe
from ..synonyms import closest
from .options import MAX_PROBLEMS, ConfigError, Configurable, Problem, checked, defaults
from .registry import ALIASES, Registry, one_line, origin
from .text import join, read_text, write_text
from .variables import as_templates, copied, interpolated, literal

__all__ = ["ALIASES", "MAX_BLOCKS", "Config", "Registry", "register", "registry"]

T = TypeVar("T", bound=type[Configurable])

NAMES_OF_FUNCTIONAL = ("Function", "Table", "bcelogit1", "bcelogit2", "help", "loss", "options")
"""Names in `lossreg.functional` that cannot be an alias."""

VERSIONED = re.compile(r"\.v\d+$")
"""How names of calculators end."""

MAX_BLOCKS = 4000
"""Number of blocks in a config, those that variables repeat included. To check and make one takes about 0.3 ms."""


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
    def get_registries(cls) -> dict[str, Registry]:
        """All registries by name, those of `create` as well."""
        return {name: getattr(cls, name) for name in dir(cls) if isinstance(getattr(cls, name), Registry)}

    @classmethod
    def get(cls, registry_name: str, func_name: str) -> Any:
        """The class or function registered under a name; `ConfigError` with close matches when there is none."""
        found = getattr(cls, registry_name, None) if isinstance(registry_name, str) else None
        if not isinstance(found, Registry):
            names = list(cls.get_registries())
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
            blocks = cls._prepare(config, overrides)
            resolved = blocks.build(blocks.config)
            _raise(blocks.problems)
            if schema is not None:
                return _with_schema(resolved, schema, validate)
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
            blocks = cls._prepare(config, overrides)
            keep_variables = not (overrides or interpolate or getattr(config, "is_interpolated", True))
            filled = blocks.filled(config if keep_variables else blocks.config, blocks.config, keep_variables)
            if schema is not None:
                filled = dict(confection.Config(filled).fill_defaults(schema))
            return Config(
                filled, is_interpolated=not keep_variables, section_order=getattr(config, "section_order", None)
            )

    @classmethod
    def _prepare(cls, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> _Blocks:
        """The blocks of an interpolated deep copy with overrides set, once every one has been checked."""
        if not isinstance(config, Mapping):
            if isinstance(config, (str, Path)):
                _check_is_no_path(str(config))
            raise ConfigError([("", f"expected a Config or a dict of sections, got {type(config).__name__}")])
        if is_promise(config):
            raise ConfigError([("", "the top level must be sections, not one block with an '@' key")])
        # containers are copied and what they hold is not: a config may carry live objects, such as models
        is_interpolated = getattr(config, "is_interpolated", True)
        prepared = copied(dict(config)) if is_interpolated else interpolated(config)
        problems = _override_problems(prepared, overrides, new_keys=False)
        if not problems:
            _override(prepared, {path: copied(value) for path, value in overrides.items()})
        blocks = _Blocks(cls, prepared)
        blocks.problems += problems
        blocks.check(prepared)
        _raise(blocks.problems)
        return blocks


class _Blocks:
    """The blocks of a config: their problems, and the objects that they describe."""

    def __init__(self, registries: type[registry], config: dict[str, Any]) -> None:
        self.registries = registries
        self.config = config
        self.problems: list[Problem] = []
        self._holding: dict[tuple[int, bool], bool] = {}  # by id: `config` lives as long as this object
        self.check_number()

    def check(self, node: Mapping[str, Any], path: str = "") -> None:
        """Collect the problems of every block: names first, then options, then what lies between options."""
        if len(self.problems) >= MAX_PROBLEMS:
            return
        nested = {key for key, value in node.items() if self.holds_block(value)}
        for key, value in node.items():
            for place, child in self.children(join(path, key), value):
                self.check(child, place)
        if not is_promise(node):
            self.problems += self.without_at(node, path)
            return
        target = self.target(node, path)
        if target is None:
            return
        options = _options(node)
        found = checked(target, options, skip=nested)[1]
        is_checked_when_made = isinstance(target, type) and issubclass(target, Configurable) and not target.writes_init
        if is_checked_when_made and not found and not nested:
            try:
                target(**options)
            except ConfigError as error:
                found = error.problems
        order = {key: i for i, key in enumerate(node)}
        found.sort(key=lambda problem: order.get(problem[0].split(".")[0], len(order)))
        self.problems += [(join(path, option), message) for option, message in found]

    def without_at(self, node: Mapping[str, Any], path: str) -> Iterator[Problem]:
        """The problems of a section that names a function by `losses` in place of `@losses`."""
        for key, value in node.items():
            # Names with a version are registered ones; others, such as "numpy", may be meant otherwise.
            if not isinstance(key, str) or not isinstance(value, str) or not VERSIONED.search(value):
                continue
            names = getattr(self.registries, key, None)
            if isinstance(names, Registry) and value in names:
                yield join(path, key), f"names a function without the @; write @{key} = {json.dumps(value)}"

    def children(self, path: str, value: Any) -> list[tuple[str, Mapping[str, Any]]]:
        """The sections in a value: itself, or those in a list that hold blocks."""
        if value is None or isinstance(value, (str, int, float)):  # a look at Mapping takes longer
            return []
        if isinstance(value, Mapping):
            return [(path, value)]
        items = enumerate(value) if self.holds_block(value) else ()
        return [
            child
            for i, item in items
            if self.holds_block(item, True)
            for child in self.children(join(path, str(i)), item)
        ]

    def check_number(self) -> None:
        blocks = 0
        rest: list[Any] = [self.config]
        while rest:
            node = rest.pop()
            blocks += is_promise(node)
            children = node.values() if isinstance(node, Mapping) else node
            rest += [child for child in children if isinstance(child, (dict, list, tuple, Mapping))]
        if blocks > MAX_BLOCKS:
            raise ConfigError([("", f"expected at most {MAX_BLOCKS:,} blocks in a config, got {blocks:,}")])

    def holds_block(self, value: Any, in_list: bool = False) -> bool:
        """Whether a value names one of the registries somewhere. In lists other keys with an @ are plain data."""
        if value is None or isinstance(value, (str, int, float)) or not isinstance(value, (Mapping, list, tuple)):
            return False
        # Each level of a nested config asks, so the answer is kept.
        question = (id(value), in_list)
        if question not in self._holding:
            self._holding[question] = self._holds_block(value, in_list)
        return self._holding[question]

    def _holds_block(self, value: Any, in_list: bool) -> bool:
        if not isinstance(value, Mapping):
            return any(self.holds_block(item, True) for item in value)
        keys = [str(key) for key in value if str(key).startswith("@")]
        if keys and not in_list:
            return True
        if any(isinstance(getattr(self.registries, key[1:], None), Registry) for key in keys):
            return True
        return any(self.holds_block(item, in_list) for item in value.values())

    def target(self, node: Mapping[str, Any], path: str) -> Any:
        keys = [key for key in node if isinstance(key, str) and key.startswith("@")]
        if len(keys) != 1:
            self.problems.append((path, f"a block can name one function, got {', '.join(keys)}"))
            return None
        try:
            return self.registries.get(keys[0][1:], node[keys[0]])
        except ConfigError as error:
            self.problems += [(join(path, keys[0]), message) for _, message in error.problems]
            return None

    def built(self, value: Any, path: str, in_list: bool = False) -> Any:
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, Mapping):
            return self.build(value, path) if not in_list or self.holds_block(value, True) else value
        if not self.holds_block(value):
            return value
        return [self.built(item, join(path, str(i)), True) for i, item in enumerate(value)]

    def build(self, node: Mapping[str, Any], path: str = "") -> Any:
        """Make the objects of a checked tree, children before parents; a block whose child failed is not made."""
        before = len(self.problems)
        built = {key: self.built(value, join(path, key)) for key, value in node.items()}
        if not is_promise(node) or len(self.problems) > before:
            return built["*"] if path and list(built) == ["*"] else built  # [loss.terms.*.digit] is [loss.terms.digit]
        target = self.target(node, path)
        options, found = checked(target, _options(built))
        arguments = options.pop("*", ())
        if not found:
            try:
                return target(*(arguments.values() if isinstance(arguments, Mapping) else arguments), **options)
            except ConfigError as error:
                found = error.problems
            except Exception as error:  # whatever a plug-in raises belongs to this block
                raise ConfigError([(path, f"{origin(target)} failed: {one_line(error)}")]) from error
        self.problems += [(join(path, option), message) for option, message in found]
        return None

    def filled(self, node: Mapping[str, Any], prepared: Mapping[str, Any], keep_variables: bool) -> dict[str, Any]:
        """A copy of a section with the defaults of its blocks. `prepared` is the section without variables."""
        filled: dict[str, Any] = {}
        for key, value in node.items():
            is_section = isinstance(value, Mapping) and isinstance(prepared[key], Mapping)
            filled[key] = self.filled(value, prepared[key], keep_variables) if is_section else copied(value)
        if is_promise(prepared):
            default = defaults(self.target(prepared, ""))
            missing = {key: value for key, value in default.items() if key not in node and value is not ...}
            filled.update(literal(missing) if keep_variables else missing)
        return filled


def _check_is_no_path(text: str) -> None:
    """Raise for the path of a config where its text is expected."""
    if "\n" not in text and text.endswith((".cfg", ".ini", ".toml")) and "[" not in text:
        raise ConfigError([("", f"expected a config, got what looks like a path; write Config().from_disk({text!r})")])


def register(*names: str, alias: str | None = None, to: str = "losses") -> Callable[[T], T]:
    """Class decorator that enters a calculator into `registry.losses` under one or more names with a version.

    The last name is the one that `to_config` writes. `alias` is a short name for use in Python. `to` names another
    registry, such as "metrics" or "schedules".
    """
    if not names or not all(isinstance(name, str) for name in names):
        got = "no name" if not names else describe(names[0])
        raise ConfigError([("", f'expected names, as in @register("Mine.v1"), got {got}')], title="Cannot register")

    def decorate(cls: T) -> T:
        if alias is not None:
            if ALIASES.get(alias, names[-1]) != names[-1] or alias in NAMES_OF_FUNCTIONAL:
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

    A confection Config in all respects but these: bad text of any kind raises `ConfigError`, a failed read leaves the
    object as it was, reading takes time proportional to the text, and variables have their values in lists too.

    A config that is made in Python has text and no variables, unless it is made with `is_interpolated=False`.
    """

    def from_str(
        self, text: str, *, interpolate: bool = True, overrides: Mapping[str, Any] = {}, schema: Any = None
    ) -> Config:
        """Read a config from text."""
        with _as_config_error():
            _check_is_no_path(text)
            tree = read_text(text)
            _raise(_override_problems(tree, overrides))
            _override(tree, {path: as_templates(value) for path, value in overrides.items()})
            if interpolate:
                tree = interpolated(tree)
            if schema is not None:
                tree = _with_schema(tree, schema)
        self.clear()
        self.update(tree)
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

    def interpolate(self) -> Config:
        """A copy with the values of variables. Those of a config that was made in Python are looked for, too."""
        with _as_config_error():
            tree = as_templates(dict(self)) if self.is_interpolated else self
            return type(self)(interpolated(tree), is_interpolated=True, section_order=self.section_order)

    def to_str(self, *, interpolate: bool = True) -> str:
        """Write the config as text that reads back as the same config.

        With `interpolate=False`, text that looks like a variable is one even in a config that was made in Python.
        """
        with _as_config_error():
            if self.is_interpolated and not interpolate:
                return write_text(as_templates(dict(self)), variables=True)
            return write_text(self, variables=not self.is_interpolated)


def _with_schema(tree: dict[str, Any], schema: Any, validate: bool = True) -> dict[str, Any]:
    """A tree checked against a pydantic model, with the model's defaults."""
    config = confection.Config(tree)
    if validate:  # before defaults are filled in: filling drops unknown keys
        config.validate(schema)
    config.fill_defaults(schema)
    return dict(config)


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    """Whatever goes wrong while a config is read is a problem of the config: confection, catalogue and pydantic raise a
    dozen types, among them KeyError and RecursionError.
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


def _override(tree: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set options of a tree that are known to be there."""
    for path, value in overrides.items():
        *parents, last = path.split(".")
        functools.reduce(dict.__getitem__, parents, tree)[last] = value


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


def _options(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if not str(key).startswith("@")}
