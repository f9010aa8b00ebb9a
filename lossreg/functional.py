"""Calculators as functions, `functional.huber(x, y, 0.5)`, and the table of them: generated from the registry."""

from __future__ import annotations

import dataclasses
import functools
import html
import re
from typing import Any

import numpy as np

from .base import Loss, ReducedLoss
from .checks import describe
from .config import ALIASES, registry
from .ops import get_ops
from .schema import ConfigError, positional_order
from .synonyms import LOSSES, closest

__all__ = ["Function", "Table", "help", "loss", "options"]

CALL_KEYWORDS = ("mask", "sample_weight", "out")


def loss(name: str, /, *positional: Any, **named: Any) -> Loss:
    """A calculator by name or alias, with options by position, by name, or first the one and then the other.

    `loss("ce", None, -100, 0.1, "mean")` is `loss("CrossEntropy.v1", label_smoothing=0.1)`; the positions are those of
    `options(name)`.
    """
    cls = _calculator(name)
    order = positional_order(cls)
    if len(positional) > len(order):
        expected = f"expected at most {len(order)} options ({', '.join(order)})"
        raise ConfigError([("", f"{expected}, got {len(positional)}")], title=f"Cannot make {cls.__name__}")
    given = dict(zip(order, positional))
    problems = [(key, "given by position and by name") for key in named if key in given]
    problems += [
        (key, f"unknown option{closest(key, order)} (known: {', '.join(order)})") for key in named if key not in order
    ]
    if problems:
        raise ConfigError(problems, title=f"Cannot make {cls.__name__}")
    return cls(**given, **named)


def options(name: str) -> dict[str, Any]:
    """The options of a calculator with their defaults, in their positional order; `...` for one that must be given."""
    cls = _calculator(name)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    found = ((option, defaults[option]) for option in positional_order(cls))
    return {option: ... if default is dataclasses.MISSING else default for option, default in found}


def help(name: str | None = None) -> Any:
    """The table of the calculators that have an alias, or one row of it as a dict.

    alias, name: of the calculator.   torch: the class or function of PyTorch with the same numbers.   result: "loss",
    or "values" where nothing is reduced by default.   n, inputs: how many arrays a function takes at least, and what
    they are.   options: with their defaults.
    """
    if name is None:
        return Table([_row(alias) for alias in sorted(ALIASES)])
    cls = _calculator(name)
    return _row(next((alias for alias, full in ALIASES.items() if registry.losses.get(full) is cls), name))


class Table(list[dict[str, Any]]):
    """Rows that print as a table in a terminal and as HTML in a notebook."""

    def _cells(self) -> list[list[str]]:
        def text(key: str, value: Any) -> str:
            if key == "options":
                return ", ".join(f"{option}={default!r}" for option, default in value.items())
            return ", ".join(value) if isinstance(value, tuple) else str(value)

        return [list(self[0])] + [[text(*item) for item in row.items()] for row in self] if self else []

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
        return "\n".join([*lines[:1], *("-" * sum(widths) for _ in lines[:1]), *lines[1:]])

    def _repr_html_(self) -> str:
        def line(tag: str, row: list[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

        head, *body = self._cells()
        lines = "".join(line("td", row) for row in body)
        return f"<table><thead>{line('th', head)}</thead><tbody>{lines}</tbody></table>"


class Function:
    """A calculator as a function of guesses, truths and options.

    `f(x, t, *options, **options)` is the loss, `f.grad(...)` its gradient, `f.loss_and_grad(...)` both. Inputs may be
    arrays or nested lists of numbers. A loss of several model outputs takes them one after the other, CTC takes targets
    and both lengths, and losses with a weight for each element take it as an optional input of its own, before the
    options. `mask=`, `sample_weight=` and `out=` go to the call, all other names to the options.
    """

    def __init__(self, alias: str) -> None:
        self.alias, self.cls = alias, _calculator(alias)
        self.__name__ = self.__qualname__ = alias
        self.__doc__ = f"{alias}({', '.join((*self.inputs, *positional_order(self.cls)))})\n\n{self.cls.__doc__}"

    def __repr__(self) -> str:
        return f"<function {self.alias} of {self.cls.names_in_registry[-1].partition(':')[2]}>"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that a call must give."""
        return (*self.cls.inputs, *self.cls.truth_inputs)

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

    def _bind(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, tuple[Any, Any], dict[str, Any]]:
        n = len(self.inputs)
        if len(arguments) < n:
            raise TypeError(f"{self.alias}() takes {n} inputs ({', '.join(self.inputs)}), got {len(arguments)}")
        keywords = {key: named.pop(key) for key in CALL_KEYWORDS if key in named}
        outputs = len(self.cls.inputs)
        guesses = tuple(_array(x) for x in arguments[:outputs])
        truths = arguments[outputs:n]
        rest = arguments[n:]
        if self.cls.weight_input and rest and not isinstance(rest[0], str):
            weight, rest = rest[0], rest[1:]
            if weight is not None and "sample_weight" in keywords:
                raise TypeError(f"{self.alias}() got weights as an input and as sample_weight")
            if weight is not None:
                keywords["sample_weight"] = _array(weight)
        calculator = loss(self.alias, *rest, **named)
        target = None if not truths else truths[0] if len(truths) == 1 else truths
        return calculator, (guesses if outputs > 1 else guesses[0], target), keywords


def __getattr__(name: str) -> Function:
    if name in ALIASES:
        return _function(name)
    raise AttributeError(f"module {__name__} has no function {name!r}{closest(name, ALIASES)}")


def __dir__() -> list[str]:
    return sorted([*__all__, *ALIASES])


@functools.cache
def _function(alias: str) -> Function:
    return Function(alias)


def _calculator(name: str) -> type[ReducedLoss]:
    known = [*ALIASES, *registry.losses.names()]
    if not isinstance(name, str) or name not in known:
        raise ConfigError([("", f"no calculator is named {name!r}{closest(str(name), known, LOSSES)}")])
    cls: type[ReducedLoss] = registry.losses.get(ALIASES.get(name, name))
    return cls


def _row(alias: str) -> dict[str, Any]:
    cls = _calculator(alias)
    twin = re.search(r"torch\.nn\.[\w.]*\w", cls.__doc__ or "")
    inputs = (*cls.inputs, *cls.truth_inputs, *(("[weight]",) if cls.weight_input else ()))
    return {
        "alias": alias if alias in ALIASES else "",
        "name": ALIASES.get(alias, alias),
        "torch": twin.group() if twin else "",
        "result": "values" if options(alias).get("reduction") == "none" else "loss",
        "n": len(cls.inputs) + len(cls.truth_inputs),
        "inputs": inputs,
        "options": options(alias),
    }


def _array(value: Any) -> Any:
    """Plain numbers and nested lists of them as arrays; a list of arrays stays a batch of sequences."""
    if isinstance(value, (list, tuple)) and any(hasattr(part, "dtype") and part.ndim for part in value):
        return value
    if not isinstance(value, (int, float, list, tuple)):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"Cannot calculate a function: expected numbers or even lists of them, got {describe(value)}.")
    return get_ops().asarray(array, dtype=np.float64)
