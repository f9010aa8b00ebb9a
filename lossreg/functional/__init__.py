"""Calculators as functions, `functional.huber(x, y, 0.5)`, and the table of them: generated from the registry."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import numpy as np

from ..checks import describe
from ..config.options import ConfigError, Configurable, checked, defaults, is_calculator_class
from ..config.resolve import ALIASES, registry
from ..metrics import REQUIRED, Metric
from ..pipeline.loss import Loss
from ..schedules import Schedule
from ..synonyms import closest_loss
from .inputs import Inputs, synonyms_among
from .option_forms import OptionNames, read_options
from .tables import Table

__all__ = ["Function", "Table", "help", "loss", "options"]

T = TypeVar("T", bound=Configurable)

FORMS = {"bcelogit1": ("bcelogits", False), "bcelogit2": ("bcelogits", True)}
"""Further functions of a calculator: (alias, whether a weight for each element may follow the truths)."""


@overload
def loss(name: str, /, *options: Any, **named: Any) -> Loss: ...
@overload
def loss(name: type[T], /, *options: Any, **named: Any) -> T: ...
@overload
def loss(module: Configurable, all: bool = True, /) -> dict[str, Any]: ...
@overload
def loss(module: Configurable, /, *inputs: Any, **keywords: Any) -> Any: ...


def loss(name: Any, /, *arguments: Any, **named: Any) -> Any:
    """A calculator by name; or, with a calculator in place of the name, its options or the loss of inputs.

        loss(name, *options, **options)                    a calculator; its class may stand in place of the name
        loss(calculator), loss(calculator, True)           {"module": name, "options": {option: value}}
        loss(calculator, False)                            the same, with the options that are not at their defaults
        loss(calculator, *inputs, mask=, sample_weight=)   the loss, the same number as `calculator.get_loss` gives

    Options may be given by position in the order of `options(name)`, then by name: as keywords, as a dict, as a list
    `[name, value, ...]` or as a list of pairs. `weight`, `ignore`, `smoothing`, `reduce`, `dim`, `keepdim`, `log` and
    `zeroinf` are other names of the calculator's own options; `weight` is `pos_weight` for "bcelogits" and
    `class_weight` for all others. By position, in a dict and in a list, `()` stands for the default, and so does None
    if the option does not take None itself.

    A string among the positional options is the reduction, wherever it stands: `loss("bcelogits", w, "none")`. The
    exception are options that are strings themselves, such as `missing_value` of "CategoricalCrossentropy.v4": where
    one of them is next and takes the string, it gets it. A string or a list that could be either is an error that says
    how to write both.

    Inputs are the model outputs one after the other, the truths, and for "bce" and "bcelogits" the weight for each
    element, if there is one. They may be given by the names that `help(name)["inputs"]` lists.
    Errors: ConfigError for a name that is not known, for options that are unknown, given twice or of the wrong type.
    Source: the function `loss` of the k api to PyTorch, https://ktorch.readthedocs.io.

    >>> from lossreg import loss
    >>> ce = loss("ce", (), -100, 0.1, "none")
    >>> ce == loss("ce", "none", {"smoothing": 0.1}) == loss("ce", ["smoothing", 0.1, "reduce", "none"])
    True
    >>> loss(ce, False)
    {'module': 'ce', 'options': {'label_smoothing': 0.1, 'reduction': 'none'}}
    >>> loss(loss("mse"), [1.0, 3.0, 6.0, 9.0], [1.0, 2.0, 4.0, 8.0])
    1.5
    """
    if not isinstance(name, Configurable):
        target = _calculator_class(name)
        return _made(target, name if isinstance(name, str) else _name_of(target), arguments, named)
    if not arguments and not named:
        return _described(name, all=True)
    if len(arguments) == 1 and isinstance(arguments[0], (bool, np.bool_)) and not named:
        return _described(name, all=bool(arguments[0]))
    return _calculated(name, arguments, named)


def options(name: Any) -> dict[str, Any]:
    """The options of a calculator with their defaults, in their positional order; `...` for one that must be given.

    name: an alias or a name of a loss, metric or schedule, its class or its function. For an object: all of its
    options, with their values. A path of a metric that is `...` must be given before a context is read.
    Errors: ConfigError for a name that is not known, with the closest ones.

    >>> from lossreg import loss, options
    >>> list(options("bcelogits"))
    ['pos_weight', 'class_weight', 'reduction', 'normalize_by', 'validate']
    >>> options(loss("huber", 0.5))["delta"]
    0.5
    """
    if isinstance(name, Configurable):
        return name.options(all=True)
    return _defaults(_anything(name))


def help(name: Any = None) -> Any:
    """The table of the calculators that have an alias, or one row of it as a dict.

    alias, name: of the calculator.   torch: the class or function of PyTorch with the same numbers.   result: "loss",
    or "values" where nothing is reduced by default; "metric" of a metric, "number" of a schedule.   inputs: what a call
    takes, optional ones in brackets; of a registered function of your own, what every calculator takes.   n: how many
    of them have no default.   options: with their defaults, `...` where there is none.

    name: an alias or a name of a loss, metric or schedule, an object, its class or its function, such as
    `functional.ce`. None or "loss" is the table.
    Errors: ConfigError for a name that is not known, with the closest ones.

    >>> import lossreg
    >>> [row["alias"] for row in lossreg.help() if row["result"] == "values"]
    ['pairwise', 'similar']
    >>> lossreg.help("huber")["torch"]
    'torch.nn.HuberLoss'
    """
    if name is None or (isinstance(name, str) and name == "loss"):
        return Table([_row(alias, _registered(alias)) for alias in sorted(ALIASES)])
    target = _anything(name)
    if isinstance(name, str):
        return _row(name, target)
    return _row(_name_of(target), target)


class Function:
    """A calculator as a function of guesses, truths and options.

    `f(x, t, *options, **options)` is the loss, `f.grad(...)` its gradient, `f.loss_and_grad(...)` both. Inputs may be
    arrays or nested lists of numbers. A loss of several model outputs takes them one after the other, CTC takes targets
    and both lengths, and losses with a weight for each element take it as an optional input of its own, before the
    options; `()` and None are no weight. `mask=`, `sample_weight=` and `out=` go to the call, all other names to the
    options. Inputs may be given by name, as `f(guesses=x, truths=t)`: `help(f)["inputs"]` lists the names. Options have
    the forms that `lossreg.loss` describes.

    `bcelogits` has two further functions: `bcelogit1(x, y, *options)`, without weights for elements, and
    `bcelogit2(x, y, weight, *options)`, with them.

    >>> from lossreg import functional
    >>> functional.mse([0.5, 2.0, 5.0], [1.0, 2.0, 3.0], "sum")
    4.25
    >>> functional.bcelogit1([[1.5, 1.5]], [[1.0, 1.0]], [0.5, 2.0], "none").round(4)
    array([[0.1007, 0.4028]])
    """

    def __init__(self, alias: str, name: str | None = None, has_weight: bool | None = None) -> None:
        self.alias, self.cls = alias, _registered(alias)
        self._inputs = Inputs.of(self.cls, name or alias, has_weight)
        self.__name__ = self.__qualname__ = name or alias
        signature = ", ".join((*self._inputs.listing, *defaults(self.cls)))
        self.__doc__ = f"{self.__name__}({signature})\n\n{self.cls.__doc__}"

    def __repr__(self) -> str:
        return f"<function {self.__name__} of {_name_in_registry(self.cls)}>"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that a call must give."""
        return self._inputs.names

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The loss."""
        calculator, call, keywords = self._bind(arguments, named)
        return calculator.get_loss(*call, **keywords)

    def grad(self, *arguments: Any, **named: Any) -> Any:
        """The gradient with respect to the model outputs: an array, or a tuple where there are several."""
        calculator, call, keywords = self._bind(arguments, named)
        return calculator.get_grad(*call, **keywords)

    def loss_and_grad(self, *arguments: Any, **named: Any) -> tuple[Any, Any]:
        """(loss, gradient) in one pass."""
        calculator, call, keywords = self._bind(arguments, named)
        grad, value = calculator(*call, **keywords)
        return value, grad

    def _bind(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """(calculator, positional and keyword arguments of its call)."""
        weight_option = OptionNames(self.cls).own_name("weight")
        call, keywords, positional, named = self._inputs.split(arguments, named, weight_option)
        return _made(self.cls, self.alias, positional, named, self._inputs.keywords), call, keywords


def __getattr__(name: str) -> Function:
    if name in ALIASES or name in FORMS:
        return _function(name)
    hint = closest_loss(name, [*ALIASES, *FORMS, *ALIASES.values()])
    for alias, full in ALIASES.items():
        hint = hint.replace(repr(full), repr(alias))
    raise AttributeError(f"module {__name__} has no function {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*__all__, *ALIASES, *FORMS])


@functools.cache
def _function(name: str) -> Function:
    alias, has_weight = FORMS.get(name, (name, None))
    return Function(alias, name, has_weight)


def _registered(name: Any) -> Callable[..., Any]:
    """The class or function of a name or alias."""
    if not isinstance(name, str):
        raise ConfigError([("", f"expected a name, a class or an object, got {describe(name)}")])
    known = [*ALIASES, *registry.losses.names()]
    if name not in known:
        names = f" (short names: {', '.join(sorted(ALIASES))})"
        hint = _registered_elsewhere(name) or closest_loss(name, known) or names
        raise ConfigError([("", f"no calculator is named {name!r}{hint}")])
    target: Callable[..., Any] = registry.losses.get(ALIASES.get(name, name))
    return target


def _registered_elsewhere(name: str) -> str:
    for registry_name, other in registry.get_registries().items():
        if name in other:
            return f": it is one of registry.{registry_name}"
    return ""


def _anything(name: Any) -> Any:
    """The class or function of a loss, metric or schedule: by name, itself, or that of an object or `Function`."""
    if isinstance(name, Function):
        return name.cls
    if isinstance(name, Configurable):
        return type(name)
    if is_calculator_class(name) or (callable(name) and name in registry.losses.get_all().values()):
        return name

    registries = (registry.losses, registry.metrics, registry.schedules)
    if isinstance(name, str):
        for names in registries:
            if ALIASES.get(name, name) in names:
                return names.get(ALIASES.get(name, name))
    if isinstance(name, str) and not _registered_elsewhere(name):
        known = [*ALIASES, *itertools.chain.from_iterable(names.names() for names in registries)]
        hint = closest_loss(name, known)
        if hint:
            raise ConfigError([("", f"nothing is registered as {name!r}{hint}")])
    return _registered(name)  # of a loss alone: it raises for all others


def _defaults(target: Any) -> dict[str, Any]:
    """Options with their defaults, and `...` where there is none."""
    return {option: ... if _is_required(default) else default for option, default in defaults(target).items()}


def _is_required(default: Any) -> bool:
    return default is ... or (isinstance(default, str) and default == REQUIRED)


def _calculator_class(name: Any) -> Any:
    """The class or function that makes a calculator, by name or itself."""
    if not isinstance(name, (type, Function)):
        return _registered(name)
    cls = _anything(name)
    if _result_kind(cls, {}) in ("metric", "number"):
        raise ConfigError([("", f"expected a calculator of a loss, got {cls.__name__}; write {cls.__name__}(...)")])
    return cls


def _made(
    target: Any,
    name: str,
    positional: tuple[Any, ...],
    named: Mapping[str, Any],
    call_keywords: tuple[str, ...] = (),
) -> Any:
    """A calculator of a class or function. `call_keywords`: what a call takes by name beside the options."""
    to_calculate = "" if call_keywords else _example(target, name)
    values = read_options(target, positional, named, call_keywords, to_calculate)
    if is_calculator_class(target):
        return target(**values)
    # A function of somebody's: nothing else checks what it is given.
    values, problems = checked(target, values)
    if problems:
        raise ConfigError(problems, title=f"Cannot make {name}")
    return target(**values)


def _example(target: Any, name: str) -> str:
    """What to write where a calculation was meant."""
    inputs = ", ".join(Inputs.of(target, name).names)
    if name in ALIASES:
        return f"lossreg.functional.{name}({inputs})"
    return target._example_call() if is_calculator_class(target) else f"lossreg.loss({name!r})({inputs})"


def _described(calculator: Configurable, all: bool) -> dict[str, Any]:
    return {"module": _name_of(type(calculator)), "options": calculator.options(all=all)}


def _calculated(calculator: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """The loss of a calculator."""
    name = _name_of(type(calculator))
    if not hasattr(calculator, "get_loss"):
        raise TypeError(f"{name} is no calculator of a loss: call it as {calculator._example_call()}")
    inputs = Inputs.of(calculator, name)
    call, keywords, rest, more = inputs.split(arguments, named)
    if rest:
        expected = f"takes the inputs {', '.join(inputs.listing)}, and its options when it is made"
        raise TypeError(f"{name}() {expected}; got {len(rest)} more: {', '.join(map(describe, rest))}")
    if "out" in keywords:
        more["out"] = keywords["out"]
    if more:
        hints = synonyms_among(more, inputs.keywords)
        raise TypeError(f"{name}() takes mask= and sample_weight= beside its inputs, got {', '.join(more)}={hints}")
    return calculator.get_loss(*call, **keywords)


def _row(name: str, target: Any) -> dict[str, Any]:
    """The row of a class or function in the table."""
    full = ALIASES.get(name, name)
    alias = next((alias for alias, of in ALIASES.items() if of == _name_in_registry(target)), "")
    inputs = Inputs.of(target, name)
    default = _defaults(target)
    equivalent = re.search(r"torch\.nn\.[\w.]*\w", target.__doc__ or "")
    return {
        "alias": alias,
        "name": full,
        "torch": equivalent.group() if equivalent else "",
        "result": _result_kind(target, default),
        "n": len(inputs.names),
        "inputs": inputs.listing,
        "options": default,
    }


def _result_kind(target: Any, options: Mapping[str, Any]) -> str:
    """What calls of a class or function return."""
    if isinstance(target, type) and issubclass(target, Schedule):
        return "number"
    if isinstance(target, type) and issubclass(target, Metric) and not hasattr(target, "get_grad"):
        return "metric"
    return "values" if options.get("reduction") == "none" else "loss"


def _name_in_registry(target: Any) -> str:
    """The last name under which a class was registered, without that of a base; "" for functions."""
    names = getattr(target, "__dict__", {}).get("names_in_registry") or ("",)
    return str(names[-1].partition(":")[2])


def _name_of(cls: type) -> str:
    """The alias of a class; without one its name in the registry, and without that its own."""
    name = _name_in_registry(cls)
    return next((alias for alias, of in ALIASES.items() if of == name), name or cls.__name__)
