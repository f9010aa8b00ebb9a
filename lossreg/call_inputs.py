"""The inputs of a call that come in front of its options: model outputs, truths, and a weight for each element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import describe
from .metrics import Metric
from .ops import get_ops
from .option_forms import holds_options
from .schedules import Schedule
from .terms import ContextLoss

__all__ = ["CALL_KEYWORDS", "Inputs"]

CALL_KEYWORDS = ("mask", "sample_weight", "out")
"""Keywords that are no options."""


@dataclass(frozen=True)
class Inputs:
    """What a call of a calculator takes in front of its options."""

    caller: str
    """The name for errors."""
    outputs: tuple[str, ...]
    truths: tuple[str, ...]
    has_weight: bool
    """Whether a weight for each element may follow the truths."""

    @classmethod
    def of(cls, target: Any, caller: str, has_weight: bool | None = None) -> Inputs:
        """Those of an object, of its class, or of a function that makes one."""
        kind = target if isinstance(target, type) else type(target)
        if issubclass(kind, ContextLoss):
            return cls(caller, ("context",), (), has_weight=False)
        if issubclass(kind, Metric):
            needed = tuple([name for name, is_needed in kind.arguments().items() if is_needed])
            return cls(caller, needed, (), has_weight=False)
        if issubclass(kind, Schedule):
            return cls(caller, ("step",), (), has_weight=False)
        outputs = getattr(target, "inputs", None)
        truths = getattr(target, "truth_inputs", None)
        # A class whose objects differ in that, or that has only the interface of a `Loss`.
        if not isinstance(outputs, tuple) or not isinstance(truths, tuple):
            outputs, truths = ("guesses",), ("truths",)
        if has_weight is None:
            has_weight = getattr(target, "weight_input", False)
        return cls(caller, outputs, truths, has_weight)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs that a call must give."""
        return (*self.outputs, *self.truths)

    @property
    def listing(self) -> tuple[str, ...]:
        """All names, optional ones in brackets."""
        return (*self.names, "[weight]") if self.has_weight else self.names

    def split(
        self, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
        """(positional and keyword arguments of a calculator's call, the positional arguments behind the inputs)."""
        names = self.names
        if len(arguments) < len(names):
            expected = f"takes {len(names)} inputs ({', '.join(names)})"
            raise TypeError(f"{self.caller}() {expected}, got {len(arguments)}")
        keywords = {key: named[key] for key in CALL_KEYWORDS if key in named}
        rest = arguments[len(names) :]
        if self.has_weight and rest and not isinstance(rest[0], str) and not holds_options(rest[0]):
            self._add_weight(keywords, rest[0])
            rest = rest[1:]
        return self._call(arguments), keywords, rest

    def _call(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as a calculator takes them: several model outputs, or several truths, are a tuple."""
        n = len(self.outputs)
        guesses = _one_or_all(tuple(_array(x) for x in arguments[:n]))
        if not self.truths:
            return (guesses,)
        return guesses, _one_or_all(arguments[n : len(self.names)])

    def _add_weight(self, keywords: dict[str, Any], weight: Any) -> None:
        if weight is None or (isinstance(weight, (list, tuple)) and not weight):
            return
        if "sample_weight" in keywords:
            raise TypeError(f"{self.caller}() got weights as an input and as sample_weight")
        keywords["sample_weight"] = _array(weight)


def _one_or_all(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values


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
