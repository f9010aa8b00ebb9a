"""Ops: what a calculator may ask of an array library. Generic bodies; a backend overrides what it can do better."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from .alignment import align

__all__ = ["FORMULA_FUNCTIONS", "ROW_FUNCTIONS", "Array", "Ops", "compute_dtype", "formula_namespace", "is_half"]

Array = Any
"""An array of NumPy, CuPy or another library with the same interface."""

FORMULA_FUNCTIONS = (
    "abs", "exp", "expm1", "isinf", "isnan", "log", "log1p", "maximum", "minimum", "sign", "sqrt", "tanh", "where",
)  # fmt: skip
"""The functions that a formula may use beside arithmetic and comparisons: those that every backend compiles."""

ROW_FUNCTIONS = ("row_sum", "row_squares", "row_max", "columns", "pick")
"""What a formula of rows (N, C) may use as well: sum, sum of squares in float64, and maximum of each row, (N, 1); the
indices of the columns; and the element of each row at its index (N, 1)."""


def formula_namespace(xp: Any, dtype: Any) -> SimpleNamespace:
    """The namespace a formula sees: only what every backend has, so that a formula cannot outgrow one of them."""

    def where(condition: Any, a: Any, b: Any) -> Any:
        if not hasattr(a, "dtype") and not hasattr(b, "dtype"):  # two numbers: in the dtype of the formula
            a = xp.asarray(a, dtype=dtype)
        return xp.where(condition, a, b)

    functions = {name: getattr(xp, name) for name in FORMULA_FUNCTIONS}
    functions |= {
        "where": where,
        "row_sum": lambda x: xp.sum(x, axis=1, keepdims=True),
        "row_squares": lambda x: xp.sum(xp.square(x.astype(np.float64)), axis=1, keepdims=True),
        "row_max": lambda x: xp.max(x, axis=1, keepdims=True),
        "columns": lambda x: xp.arange(x.shape[1])[None, :],
        "pick": lambda x, index: xp.take_along_axis(x, index, axis=1),
    }
    return SimpleNamespace(**functions)


@functools.lru_cache(maxsize=256)
def is_half(dtype: Any) -> bool:
    """float16 and bfloat16, which are computed in float32."""
    return dtype.name in ("float16", "bfloat16")


@functools.lru_cache(maxsize=256)
def compute_dtype(dtype: Any) -> Any:
    """The dtype in which guesses of a dtype are computed: float32 for halves and float32, else float64."""
    return np.dtype(np.float32 if is_half(dtype) or dtype == np.float32 else np.float64)


class Ops:
    """Array operations of one backend. The bodies need only NumPy's interface and no value of a device array."""

    name: ClassVar[str] = "generic"
    library: ClassVar[str] = "numpy"
    """Whose arrays these are."""
    on_device: ClassVar[bool] = False
    """True when reading a value makes the host wait for a device."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self._namespaces = {name: formula_namespace(xp, np.dtype(name)) for name in ("float32", "float64")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def owns(self, value: Any) -> bool:
        """Whether a value is an array of this backend."""
        return isinstance(value, self.xp.ndarray)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """An array of this backend, without a copy where possible."""
        return self.xp.asarray(value, dtype=dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array that holds anything."""
        return self.xp.empty(shape, dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A NumPy array of the same values; waits for a device."""
        return np.asarray(array)

    def scalar(self, value: Any) -> Any:
        """A total as the caller gets it: a float, or a 0-d array where reading it would wait for a device."""
        return value if self.on_device else float(value)

    def quotient(self, total: Any, count: Any) -> Any:
        """total / count, or 0 where nothing was counted: numbers, or arrays of float64 and of one shape."""
        if isinstance(count, (int, float)):
            return total / count if count else 0.0
        return self.xp.where(count == 0, 0.0, total / self.xp.where(count == 0, 1.0, count))

    def total(self, values: Array, weight: Array | None) -> Any:
        """Sum of values times weight in float64; values of weight 0 are left out, whatever they are."""
        return self.xp.sum(self.weighted(values, weight), dtype=np.float64)

    def weighted(self, values: Array, weight: Array | None) -> Array:
        """Values times weight in the values' dtype, 0 where the weight is 0 (NaN included)."""
        if weight is None:
            return values
        return self.xp.where(weight != 0, values * weight.astype(values.dtype), values.dtype.type(0))

    def run(
        self,
        formula: Callable[..., tuple[Array, ...]],
        guesses: Sequence[Array],
        others: Sequence[Any],
        weight: Array | None,
        scale: Any,
        *,
        static: tuple[Any, ...] = (),
        rows: bool,
        values: bool,
        total: bool,
        out: Sequence[Array] | None,
    ) -> tuple[Array | None, Any]:
        """Run a formula: (weighted values or None, their total or None), gradients into `out`.

        `formula(xp, *guesses, *others, *static) -> value, *slopes`. Without `rows` a value belongs to each element, and
        arrays broadcast to the guesses. With `rows` guesses are (N, C) and a value belongs to each row; an array (N,)
        has one number a row, one (N, C) or (1, C) one an element, and the formula sees them as (N, 1) and (N, C).

        Floats may differ from call to call; a formula may branch on bools, ints, texts and None, and on `static`.
        Arrays come to the formula in the dtype to compute in, but for ints and bools of rows. `weight` has one number
        for each value: where it is 0, value and slopes are 0, whatever the formula gives. `scale` multiplies the
        slopes. `out` has one array for each guess, or is None when no gradient is wanted.
        """
        dtype = compute_dtype(guesses[0].dtype)
        shape = guesses[0].shape
        if not guesses[0].size:
            empty = self.xp.zeros((shape[0], 1) if rows else shape, dtype)
            return empty, self.xp.sum(empty, dtype=np.float64)

        def cast(x: Any) -> Any:
            if not hasattr(x, "dtype"):
                return x
            x = x[:, None] if rows and x.ndim == 1 else x
            return x if rows and x.dtype.kind in "iub" else x.astype(dtype, copy=False)

        def spread(x: Any, shape: tuple[int, ...]) -> Array:  # a constant slope may be a number
            if getattr(x, "shape", None) == shape:
                return x
            return self.xp.broadcast_to(self.xp.asarray(x, dtype=dtype), shape)

        found, *slopes = formula(self._namespaces[dtype.name], *map(cast, (*guesses, *others)), *static)
        weight = None if weight is None else weight[:, None] if rows else weight
        if out is not None:
            scale = scale if isinstance(scale, float) else scale.astype(dtype)
            for target, slope in zip(out, slopes, strict=True):
                target[...] = self.weighted(spread(slope, shape) * scale, weight)
        found = spread(found, (shape[0], 1) if rows else shape)
        return (
            self.weighted(found, weight) if values else None,
            self.total(found, weight) if total else None,
        )

    def all_hold(self, domain: Any, array: Array) -> bool:
        """Whether all numbers of an array lie in a domain; waits for a device."""
        return bool(domain.holds_all(array))

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """Sums of the values (N, L) of each row that belong to each of `width` columns (N, L)."""
        total, rows = self.xp.zeros((len(values), width), values.dtype), self.xp.arange(len(values))
        for i in range(values.shape[1]):
            total[rows, columns[:, i]] += values[:, i]
        return total

    def align(
        self,
        log_probs: Array,
        states: Array,
        leaps: Array,
        frames: Array,
        last: Array,
        slopes: Array | None,
        logits: bool,
        out: Array | None,
    ) -> Array:
        """Log-likelihoods (N,) of the targets of N sequences, summed over all alignments; the gradient into `out`.

        log_probs, out: (T, N, C), out of any float dtype.   states: (N, S) classes, a blank around every label.
        leaps: (N, S), whether a state may be entered from two before it.   frames: (N,) of each sequence.   last: (N,)
        index of the final blank.   slopes: (N,) of what is asked for, with respect to minus the log-likelihoods; where
        it is 0, or a target cannot be aligned, the gradient is 0.   logits: the gradient is that in the logits.
        """
        return align(self, self._namespaces["float64"], log_probs, states, leaps, frames, last, slopes, logits, out)
