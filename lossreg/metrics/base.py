"""`Metric`: a number about outputs and labels, which it reads from paths in a context; its states merge."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from ..arrays.trees import get_path, leaves, tree_map
from ..checks import describe
from ..config.options import ConfigError, Configurable, Problem
from ..states.base import State
from ..synonyms import closest
from .globs import check_glob

__all__ = ["REQUIRED", "Key", "Metric", "named_parameters", "takes_any_argument"]

Key = str | None
"""The path of an argument in a context, such as "preds.logits"."""

REQUIRED = "__KEY_REQUIRED__"
"""Default of a `Key` that must be given before a context is read. Kauldron has the same text under this name."""


class Metric(Configurable, ABC):
    """A metric: options, and no data of its own.

    A subclass writes `get_state`, and a nested class `State` that holds partial results, merges and computes. For each
    argument of `get_state` the metric has an option of the same name: the path of that argument in a context, which is
    any nesting of dicts, lists and objects. The options may be declared, `logits: Key = None` or `REQUIRED`, so that
    type checkers know them; those that are not are added. Paths are needed to read a context and for nothing else.
    """

    State: ClassVar[type[State]]
    """What `get_state` returns."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        annotations = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
        undeclared = [name for name in cls.arguments() if name not in annotations]
        cls.__annotations__ = {**dict.fromkeys(undeclared, Key), **inspect.get_annotations(cls)}
        for name in undeclared:
            setattr(cls, name, None)
        for name in ("get_state", "empty"):
            if name in vars(cls):
                setattr(cls, name, _linking(vars(cls)[name]))
        super().__init_subclass__(**kwargs)

    @classmethod
    def _example_call(cls) -> str:
        """A call, for errors."""
        needed = [f"{name}=..." for name, is_needed in cls.arguments().items() if is_needed]
        return f"{cls.__name__}()({', '.join(needed)})"

    def check_options(self) -> Iterable[Problem]:
        """Paths that cannot be read."""
        for name in self.arguments():
            try:
                for path in leaves(getattr(self, name)):
                    if path is not None:
                        check_glob(path)
            except ConfigError as error:
                yield name, error.problems[0][1]
        yield from super().check_options()

    @abstractmethod
    def get_state(self, *args: Any, **kwargs: Any) -> Any:
        """The partial result of a batch: states merge to the result of all batches together."""

    def empty(self) -> Any:
        """The state of no data."""
        return _linked(self.State.empty(), self)

    @classmethod
    def arguments(cls) -> Mapping[str, bool]:
        """The arguments that are read from a context, and whether each must be given: those of `get_state`."""
        return named_parameters(cls.get_state)

    def __call__(self, *unnamed: Any, context: Any = None, **inputs: Any) -> Any:
        """The result of a batch, given by the arguments of `get_state` or as a context. All have names."""
        if unnamed:
            raise self._misused(f"{len(unnamed)} without names")
        if context is not None:
            if inputs:
                raise self._misused(f"both a context and {', '.join(inputs)}")
            return self.get_state_from_context(context).finalize().compute()

        arguments = self.arguments()
        if not self._takes_any_argument():
            for name in inputs:
                if name not in arguments:
                    raise self._misused(f"{name}={closest(name, arguments)}")
        missing = [name for name, is_needed in arguments.items() if is_needed and name not in inputs]
        if missing:
            raise self._misused(f"{', '.join(inputs) or 'nothing'} without {', '.join(missing)}")
        return self.get_state(**inputs).finalize().compute()

    @classmethod
    def _takes_any_argument(cls) -> bool:
        """Whether a call takes arguments of any name."""
        return takes_any_argument(cls.get_state)

    def _misused(self, got: str) -> TypeError:
        """The error for arguments that a call does not take."""
        names = ", ".join(f"{name}=..." for name, needed in self.arguments().items() if needed)
        end = "" if got.endswith("?") else "."
        return TypeError(f"Cannot calculate {type(self).__name__}: expected context=... or {names}, got {got}{end}")

    def get_state_from_context(self, context: Any) -> Any:
        """The partial result of what lies at the paths of a context."""
        return self.get_state(**self.get_inputs(context))

    def get_inputs(self, context: Any) -> dict[str, Any]:
        """What lies at the paths of a context, by argument; KeyError for a path that leads nowhere."""
        read = functools.partial(get_path, context)
        return {name: tree_map(read, path) for name, path in self.get_paths().items()}

    def get_paths(self) -> dict[str, Any]:
        """The paths of the arguments that have one; ConfigError when one that `get_state` needs has none."""
        arguments = self.arguments()
        paths = {name: getattr(self, name) for name in arguments}
        problems = []
        for name, is_needed in arguments.items():
            if paths[name] == REQUIRED or (is_needed and paths[name] is None):
                problems.append((name, "this option is needed: a path such as 'preds.logits'"))
        if problems:
            raise ConfigError(problems, title=f"Cannot read {type(self).__name__} from a context")
        return {name: path for name, path in paths.items() if path is not None}


@functools.cache
def named_parameters(method: Callable[..., Any]) -> Mapping[str, bool]:
    """The parameters of a method that have a name, but for the first, and whether each must be given."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    named = [x for x in parameters if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)]
    return {x.name: x.default is x.empty for x in named}


@functools.cache
def takes_any_argument(method: Callable[..., Any]) -> bool:
    """Whether a method has a parameter such as `**kwargs`."""
    return any(x.kind is x.VAR_KEYWORD for x in inspect.signature(method).parameters.values())


def _linking(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose state knows the metric it came from."""

    @functools.wraps(method)
    def linking(self: Metric, *args: Any, **kwargs: Any) -> Any:
        return _linked(method(self, *args, **kwargs), self)

    return linking


def _linked(state: Any, metric: Metric) -> Any:
    """The state with its parent. One that has a parent keeps it, such as the inner metric of a `TreeReduce`."""
    if not isinstance(state, State):
        raise TypeError(
            f"Cannot calculate {type(metric).__name__}: expected get_state to return a State, got {describe(state)}."
        )
    if state.parent is not None:
        return state
    return replace(state, parent=metric)
