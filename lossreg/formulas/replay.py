"""A graph run on arrays, operation by operation: what backends without a compiler do.

Elements are computed in the dtype of the call. What belongs to a row or to the call is computed in float64, and
elements get it with a single rounding. Compiled code does the same, so a formula means the same everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import ELEMENT
from .graph import COMPARISONS, LIBRARY, REDUCTIONS, Symbol, below

__all__ = ["Replay"]

OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "pow": operator.pow,
    "and": operator.and_, "or": operator.or_, "xor": operator.xor, "not": operator.invert,
    "neg": operator.neg, "abs": operator.abs,
    **{name: getattr(operator, name) for name in COMPARISONS},
}  # fmt: skip

OF_THE_LIBRARY = (*LIBRARY, "isnan", "maximum", "minimum", "where")
"""Operations that array libraries have under the same name."""


@dataclass
class _Step:
    """One operation of a replay."""

    key: int
    operation: Callable[..., Any]
    reads: list[int]
    drops: list[int]
    """Values that no later step reads. They go at once: memory that is used again is still in the cache."""


class Replay:
    """Some symbols of a graph as a function of arrays.

    xp: the namespace of the arrays.   dtype: in which elements are computed.
    Arguments come as arrays (N, C) or (1, C) for elements of rows and (N, 1) for rows, as any that broadcast for
    elements, and as floats. None of them is written to, and a result may be one of them.
    """

    def __init__(self, results: Sequence[Symbol], xp: Any, dtype: Any) -> None:
        self.xp, self.dtype = xp, dtype
        self.results = [x.key for x in results]
        self.constants: dict[int, Any] = {}
        self.inputs: list[tuple[int, int, Any]] = []
        """(key, number of the argument, dtype) of each array and number that is read."""
        self.columns: int | None = None
        """The key of the indices of the columns, where they are read."""
        self.steps: list[_Step] = []
        self.rounded: dict[int, int] = {}
        """The key of a value of rows -> the key of the same in the dtype of elements."""

        # By their keys, since a symbol is made after its arguments.
        for x in sorted(below(results, through=True), key=lambda x: x.key):
            self._add(x)
        self._find_drops()

    def _add(self, x: Symbol) -> None:
        """Sort a symbol into constants, inputs and steps."""
        dtype = self._dtype_of(x)
        if x.op == "const":
            self.constants[x.key] = self.xp.asarray(x.args[0], dtype=dtype)
        elif x.op in ("input", "number"):
            self.inputs.append((x.key, x.args[0], dtype))
        elif x.op == "columns":
            self.columns = x.key
        else:
            reads = [self._as_read_by(x, arg) for arg in x.args]
            self.steps.append(_Step(x.key, self._operation(x, dtype), reads, []))

    def _dtype_of(self, x: Symbol) -> Any:
        if x.kind == "b":
            return bool
        if x.kind == "i":
            return self.xp.int64
        return self.dtype if x.rank == ELEMENT else self.xp.float64

    def _as_read_by(self, x: Symbol, arg: Symbol) -> int:
        """The key of an argument, rounded to the dtype of elements where an element is computed of it."""
        rounds = arg.kind == "f" and arg.rank != ELEMENT and x.rank == ELEMENT
        if not rounds:
            return arg.key
        if arg.key not in self.rounded:
            key = -1 - arg.key  # symbols have keys of 0 and more
            self.rounded[arg.key] = key
            self.steps.append(_Step(key, lambda value: _cast(self.xp, value, self.dtype), [arg.key], []))
        return self.rounded[arg.key]

    def _operation(self, x: Symbol, dtype: Any) -> Callable[..., Any]:
        """The function that computes a symbol of its arguments."""
        if x.op in OPERATORS:
            return OPERATORS[x.op]
        if x.op in OF_THE_LIBRARY:
            function: Callable[..., Any] = getattr(self.xp, x.op)
            return function
        if x.op == "float":
            return lambda value: _cast(self.xp, value, dtype)
        if x.op == "pick":
            return self._picked
        assert x.op in REDUCTIONS, x.op
        return getattr(self, f"_{x.op}")  # type: ignore[no-any-return]

    def _find_drops(self) -> None:
        """Say after which step each value is not needed any more."""
        needed = set(self.results)
        for step in reversed(self.steps):
            step.drops = [key for key in set(step.reads) if key not in needed and key not in self.constants]
            needed.update(step.reads)

    def __call__(self, arguments: Sequence[Any], columns: int) -> list[Any]:
        """The results; `columns` are those of a row."""
        xp, values = self.xp, dict(self.constants)
        for key, number, dtype in self.inputs:
            values[key] = _cast(xp, arguments[number], dtype)
        if self.columns is not None:
            values[self.columns] = xp.arange(columns)[None, :]
        for step in self.steps:
            values[step.key] = step.operation(*[values[key] for key in step.reads])
            for key in step.drops:
                del values[key]
        return [values[key] for key in self.results]

    # Reductions of each row

    def _row_sum(self, x: Any) -> Any:
        return self.xp.sum(x, axis=1, keepdims=True, dtype=self.xp.float64)

    def _row_squares(self, x: Any) -> Any:
        wide = _cast(self.xp, x, self.xp.float64)
        return self._row_sum(wide * wide)

    def _row_max(self, x: Any) -> Any:
        return _cast(self.xp, self.xp.max(x, axis=1, keepdims=True), self.xp.float64)

    def _row_count(self, x: Any) -> Any:
        return self._row_sum(_cast(self.xp, x, self.dtype))

    def _picked(self, x: Any, index: Any) -> Any:
        """The element of each row at its index; NaN (or False) where there is none."""
        xp = self.xp
        inside = (index >= 0) & (index < x.shape[1])
        elements = xp.take_along_axis(x, xp.where(inside, index, 0), axis=1)
        if x.dtype == bool:
            return elements & inside
        return xp.where(inside, _cast(xp, elements, xp.float64), xp.nan)


def _cast(xp: Any, value: Any, dtype: Any) -> Any:
    """A value as an array of a dtype; itself where it is one."""
    if not hasattr(value, "dtype"):
        return xp.asarray(value, dtype=dtype)
    if value.dtype == dtype:
        return value
    if hasattr(value, "astype"):
        return value.astype(dtype)
    return xp.astype(value, dtype)  # the array API standard has no such method
