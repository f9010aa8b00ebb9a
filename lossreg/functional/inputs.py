"""The inputs of a call that come in front of its options: model outputs, truths, and a weight for each element."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import describe
from ..metrics import Metric
from ..ops import get_ops
from ..schedules import Schedule
from ..synonyms import CALL_ARGUMENTS
from ..terms import ContextLoss
from .option_forms import holds_options

__all__ = ["CALL_KEYWORDS", "Inputs", "synonyms_among"]

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
    optional: tuple[str, ...] = ()
    """Further inputs, which a call may leave out."""

    @classmethod
    def of(cls, target: Any, caller: str, has_weight: bool | None = None) -> Inputs:
        """Those of an object, of its class, or of a function that makes one."""
        kind = target if isinstance(target, type) else type(target)
        if issubclass(kind, ContextLoss):
            return cls(caller, ("context",), (), has_weight=False)
        if issubclass(kind, Metric):
            arguments = kind.arguments()
            needed = tuple([name for name, is_needed in arguments.items() if is_needed])
            optional = tuple([name for name, is_needed in arguments.items() if not is_needed])
            return cls(caller, needed, (), has_weight=False, optional=optional)
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
        optional = ("weight",) if self.has_weight else self.optional
        return (*self.names, *(f"[{name}]" for name in optional))

    @property
    def keywords(self) -> tuple[str, ...]:
        """Names that a call takes as keywords, beside those of options."""
        return (*self.names, *(("weight",) if self.has_weight else ()), *CALL_KEYWORDS)

    def split(
        self, arguments: tuple[Any, ...], named: Mapping[str, Any], weight_option: str | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        """(positional and keyword arguments of a calculator's call, positional arguments behind the inputs, the rest).

        weight_option: the option that `weight=` may mean as well, as in the k api, where it is `pos_weight`.
        """
        named = dict(named)
        inputs, behind = self._inputs(arguments, named)
        keywords = {key: named.pop(key) for key in CALL_KEYWORDS if key in named}
        if self.has_weight:
            weight, behind = self._weight(behind, named, weight_option, "sample_weight" in keywords)
            self._add_weight(keywords, weight)
        return self._call(inputs), keywords, behind, named

    def _inputs(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """(the inputs in their order, the positional arguments behind them); takes those by name out of `named`."""
        names = self.names
        by_position = dict(zip(names, arguments))
        by_name = {name: named.pop(name) for name in names if name in named}
        twice = [name for name in by_name if name in by_position]
        if twice:
            raise TypeError(f"{self._takes} got {' and '.join(twice)} by position and by name")
        missing = [name for name in names if name not in by_position and name not in by_name]
        if missing:
            got = f"got {len(by_position) + len(by_name)}, without {' and '.join(missing)}"
            raise TypeError(f"{self._takes} {got}{synonyms_among(named, names)}")
        values = by_position | by_name
        return tuple([values[name] for name in names]), arguments[len(names) :]

    @property
    def _takes(self) -> str:
        """The beginning of errors."""
        return f"{self.caller}() takes {len(self.names)} inputs ({', '.join(self.names)}),"

    def _weight(
        self, behind: tuple[Any, ...], named: dict[str, Any], option: str | None, has_sample_weight: bool
    ) -> tuple[Any, tuple[Any, ...]]:
        """(the weight for each element or None, the positional arguments behind it); takes it out of `named`."""
        by_position = None
        is_given = bool(behind) and not isinstance(behind[0], str) and not holds_options(behind[0])
        if is_given:
            by_position, behind = behind[0], behind[1:]
        if "weight" not in named:
            return by_position, behind

        if option is not None:
            # With the input in its place, the keyword is the option.
            if is_given or has_sample_weight:
                return by_position, behind
            raise TypeError(
                f"{self.caller}() got weight=, which may be its input or the k api's name of {option}; "
                f"write sample_weight= for the weight of each element or {option}= for that of each class"
            )
        if not _is_no_weight(by_position):
            raise TypeError(f"{self.caller}() got weight by position and by name")
        return named.pop("weight"), behind

    def _call(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs as a calculator takes them: several model outputs, or several truths, are a tuple."""
        n = len(self.outputs)
        guesses = _one_or_all(tuple(_array(x) for x in inputs[:n]))
        if not self.truths:
            return (guesses,)
        return guesses, _one_or_all(inputs[n:])

    def _add_weight(self, keywords: dict[str, Any], weight: Any) -> None:
        if _is_no_weight(weight):
            return
        if "sample_weight" in keywords:
            raise TypeError(f"{self.caller}() got weights as an input and as sample_weight")
        keywords["sample_weight"] = _array(weight)


def synonyms_among(named: Iterable[str], known: Collection[str]) -> str:
    """What keywords of other libraries are called here: ` (target is truths here)`."""
    hints = [f"{name} is {CALL_ARGUMENTS[name]} here" for name in named if CALL_ARGUMENTS.get(name) in known]
    return f" ({', '.join(hints)})" if hints else ""


def _is_no_weight(weight: Any) -> bool:
    return weight is None or (isinstance(weight, (list, tuple)) and not weight)


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
