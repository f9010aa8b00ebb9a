"""Ops: what a calculator may ask of an array library. Generic bodies; a backend overrides what it can do better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from ..targets import Targets

__all__ = ["FORMULA_FUNCTIONS", "Array", "Ops", "compute_dtype", "formula_namespace", "is_half"]

Array = Any
"""An array of NumPy, CuPy or another library with the same interface."""

FORMULA_FUNCTIONS = (
    "abs", "cos", "exp", "expm1", "isinf", "isnan", "log", "log1p", "maximum", "minimum", "sign", "sin", "sqrt",
    "tanh", "where",
)  # fmt: skip
"""The functions that a formula may use beside arithmetic and comparisons: those that every backend compiles."""


def formula_namespace(xp: Any) -> SimpleNamespace:
    """The namespace a formula sees: only what every backend has, so that a formula cannot outgrow one of them."""
    return SimpleNamespace(**{name: getattr(xp, name) for name in FORMULA_FUNCTIONS})


def is_half(dtype: Any) -> bool:
    """float16 and bfloat16, which are computed in float32."""
    return dtype.name in ("float16", "bfloat16")


def compute_dtype(dtype: Any) -> Any:
    """The dtype in which guesses of a dtype are computed: float32 for halves and float32, else float64."""
    return np.dtype(np.float32 if is_half(dtype) or dtype == np.float32 else np.float64)


class Ops:
    """Array operations of one backend. The bodies need only NumPy's interface and no value of a device array.

    Row kernels take and return two-dimensional arrays with one row an item. `row_weight` multiplies the gradient within
    the pass: one number for all, or (N,), where a row of weight 0 gets gradient 0 even if it holds NaN. Values come
    unweighted.
    """

    name: ClassVar[str] = "generic"
    on_device: ClassVar[bool] = False
    """True when reading a value makes the host wait for a device."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.formula_xp = formula_namespace(xp)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def owns(self, value: Any) -> bool:
        """Whether a value is an array of this backend."""
        return isinstance(value, self.xp.ndarray)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """An array of this backend, without a copy where possible."""
        return self.xp.asarray(value, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A NumPy array of the same values; waits for a device."""
        return np.asarray(array)

    def scalar(self, value: Any) -> Any:
        """A total as the caller gets it: a float, or a 0-d array where reading it would wait for a device."""
        return value if self.on_device else float(value)

    def inverse(self, count: Any) -> Any:
        """1 / count, or 0 when nothing was counted. `count` is a float or a 0-d device array."""
        if isinstance(count, (int, float)):
            return 1.0 / count if count else 0.0
        return self.xp.where(count == 0, 0.0, 1.0 / self.xp.where(count == 0, 1.0, count))

    def total(self, values: Array, weight: Array | None) -> Any:
        """Sum of values times weight in float64; values of weight 0 are left out, whatever they are."""
        return self.xp.sum(self.weighted(values, weight), dtype=np.float64)

    def weighted(self, values: Array, weight: Array | None) -> Array:
        """Values times weight in the values' dtype, 0 where the weight is 0 (NaN included)."""
        if weight is None:
            return values
        return self.xp.where(weight != 0, values * weight.astype(values.dtype), values.dtype.type(0))

    def scaled(self, rows: Array, row_weight: Any) -> Array:
        """Rows of slopes times their weights. The rows are written to where all weigh the same."""
        if getattr(row_weight, "ndim", 0):
            return self.weighted(rows, row_weight[:, None])
        if row_weight is None:
            return rows
        if isinstance(row_weight, float):
            if row_weight != 1.0:
                rows *= row_weight
            return rows
        return rows * row_weight.astype(rows.dtype)

    def elementwise(
        self,
        formula: Callable[..., tuple[Array, ...]],
        guesses: Sequence[Array],
        others: Sequence[Any],
        weight: Array | None,
        scale: Any,
        *,
        values: bool,
        total: bool,
        out: Sequence[Array] | None,
    ) -> tuple[Array | None, Any]:
        """Run a formula: (values or None, total or None), gradients into `out`.

        `others` are the arrays and numbers after the guesses in the formula's signature; arrays broadcast to the
        guesses. `values` asks for the weighted values themselves, `total` for their sum. `out` holds one array for each
        guess, or is None when no gradient is wanted.
        """
        dtype = compute_dtype(guesses[0].dtype)
        cast = [x.astype(dtype, copy=False) if hasattr(x, "dtype") else x for x in (*guesses, *others)]
        shape = guesses[0].shape
        found, *slopes = (  # a constant slope may be a number
            x if getattr(x, "shape", None) == shape else self.xp.broadcast_to(self.xp.asarray(x, dtype=dtype), shape)
            for x in formula(self.formula_xp, *cast)
        )
        if out is not None:
            scale = scale if isinstance(scale, float) else scale.astype(dtype)
            for target, slope in zip(out, slopes, strict=True):
                target[...] = self.weighted(slope * scale, weight)
        return (
            self.weighted(found, weight) if values else None,
            self.total(found, weight) if total else None,
        )

    def rowwise(
        self,
        function: Callable[..., tuple[Array, ...]],
        arrays: Sequence[Array | None],
        row_weight: Any,
        out: Sequence[Array] | None,
    ) -> Array:
        """Run a function of rows: values (N,), gradients into `out`.

        `function(xp, *arrays)` returns values and a slope for each array of `out`. All arrays have N rows; floats come
        in the dtype to compute in.
        """
        dtype = compute_dtype(arrays[0].dtype)  # type: ignore[union-attr]
        cast = [x if x is None or x.dtype.kind in "iub" else x.astype(dtype, copy=False) for x in arrays]
        values, *slopes = function(self.xp, *cast)
        if out is not None:
            for target, slope in zip(out, slopes, strict=True):
                target[...] = self.scaled(slope, row_weight)
        return values

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """Sums of the values (N, L) of each row that belong to each of `width` columns (N, L)."""
        total, rows = self.xp.zeros((len(values), width), values.dtype), self.xp.arange(len(values))
        for i in range(values.shape[1]):
            total[rows, columns[:, i]] += values[:, i]
        return total

    # Row kernels

    def logsumexp_parts(self, x: Array, e: Array) -> tuple[Array, Array, Array]:
        """Of each row: the place and value of its maximum m, and the sum of e^(x-m) over all *other* entries.

        `e` receives e^(x-m). Leaving the maximum out keeps the loss of a confident row exact:
        log sum e^x - m = log1p(rest), where log(1 + rest) - 0 would round to 0.
        """
        xp, rows = self.xp, self.xp.arange(x.shape[0])
        top = xp.argmax(x, axis=1)
        peak = x[rows, top]
        xp.exp(x - peak[:, None], out=e)
        e[rows, top] = xp.where(xp.isnan(peak), peak, 0)
        rest = xp.sum(e, axis=1)
        e[rows, top] = xp.where(xp.isnan(peak), peak, 1)
        return top, peak, rest

    def below(self, peak: Array, x: Array) -> Array:
        """How far x lies below the peak: 0 at the peak, also where that is infinite."""
        return self.xp.where(x == peak, 0, peak - x)

    def softmax_cross_entropy(
        self,
        logits: Array,
        targets: Targets,
        target_weight: Array | None,
        smoothing: Array | None,
        row_weight: Any,
        *,
        out: Array | None,
    ) -> Array:
        """Softmax cross-entropy of rows: values (N,), the gradient into `out` unless that is None.

        With p = softmax(x), S the candidate set of a row, q = p restricted to S and normalised:

            value = a * -log(sum of p over S) + sum_c s_c * -log p_c,      slope = (a + sum s) p - a q - s

        for classes and sets, a = `target_weight` (N,) or 1 and s = `smoothing` (C,) or 0. For dense rows t:

            value = sum_c t_c * -log p_c,                                   slope = (sum t) p - t
        """
        xp, dtype = self.xp, compute_dtype(logits.dtype)
        x = logits.astype(dtype, copy=False)
        n = x.shape[0]
        if n == 0:
            return xp.zeros(0, dtype)
        rows = xp.arange(n)
        usable = out is not None and out.dtype == dtype and not xp.may_share_memory(out, logits)
        e: Array = out if usable else xp.empty(x.shape, dtype)
        top, peak, rest = self.logsumexp_parts(x, e)
        log_rest = xp.log1p(rest)
        if targets.rows is not None:
            t = targets.rows.astype(dtype, copy=False)
            values = xp.sum(xp.where(t == 0, 0, t * self.below(peak[:, None], x)), axis=1)
            mass = xp.sum(t, axis=1)
            values += mass * log_rest
            if out is not None:
                at_top = t[rows, top]
                others = xp.sum(xp.where(xp.arange(x.shape[1]) == top[:, None], 0, t), axis=1)
                e *= (mass / (1 + rest))[:, None]
                e -= t
                e[rows, top] = (others - at_top * rest) / (1 + rest)
        else:
            a = xp.ones(n, dtype) if target_weight is None else target_weight.astype(dtype, copy=False)
            members = targets.members(x.shape[1]) if targets.has_sets else None
            if members is None:
                y = targets.ids
                values = xp.where(a == 0, 0, a * (self.below(peak, x[rows, y]) + log_rest))
                outside = xp.where(top == y, rest, 1 + rest - e[rows, y])
            else:
                values, outside, best, best_sum = self._set_values(x, e, members, peak)
                values = xp.where(a == 0, 0, a * values)
            mass = a
            if smoothing is not None:
                s = smoothing.astype(dtype, copy=False)
                spread = xp.sum(s)
                values += xp.sum(xp.where(s == 0, 0, s * self.below(peak[:, None], x)), axis=1) + spread * log_rest
                mass = a + spread
            if out is not None:
                # p - q on S is -q times the probability outside S: no cancellation for a confident row
                slope = -a * outside / (1 + rest)
                if members is None:
                    extra = 0 if smoothing is None else (mass - a) * e[rows, y] / (1 + rest)
                    e *= (mass / (1 + rest))[:, None]
                    e[rows, y] = slope + extra
                else:
                    even = (1 / xp.sum(members, axis=1))[:, None]  # of a set that cannot be
                    q = xp.exp(-self.below(best[:, None], x)) / best_sum[:, None]
                    q = xp.where(best_sum[:, None] == 0, even, q)
                    q = xp.where(members, q, 0)
                    e *= xp.where(members, (mass - a)[:, None], mass[:, None]) / (1 + rest)[:, None]
                    e += q * slope[:, None]
                if smoothing is not None:
                    e -= s
        if out is not None:
            scaled = self.scaled(e, row_weight)
            if scaled is not out:
                out[...] = scaled
        return values

    def _set_values(self, x: Array, e: Array, members: Array, peak: Array) -> tuple[Array, Array, Array, Array]:
        """-log(sum of p over S) of each row, with the parts that its slope needs."""
        xp = self.xp
        best = xp.max(xp.where(members, x, -np.inf), axis=1)
        best = xp.where(best == -np.inf, peak, best)
        best_sum = xp.sum(xp.where(members, xp.exp(-self.below(best[:, None], x)), 0), axis=1)
        inside = xp.sum(xp.where(members, e, 0), axis=1)
        outside = xp.sum(xp.where(members, 0, e), axis=1)
        near = inside > 1e-30  # farther than e^-69 below the peak the ratio could underflow: take logarithms apart
        ratio = xp.log1p(outside / xp.where(near, inside, 1))
        apart = self.below(peak, best) + xp.log(inside + outside) - xp.log(best_sum)
        return xp.where(near, ratio, apart), outside, best, best_sum

    def probability_cross_entropy(
        self,
        probs: Array,
        targets: Targets,
        target_weight: Array | None,
        smoothing: Array | None,
        row_weight: Any,
        *,
        wrt_logits: bool,
        out: Array | None,
    ) -> Array:
        """Cross-entropy of rows of probabilities: values (N,), the gradient into `out` unless that is None.

        With P = sum of p over the candidate set S and q = p restricted to S, divided by P:

            value = a * -log P + sum_c s_c * -log p_c,   slope in p = -a [c in S] / P - s / p
                                                         slope in the logits = (a + sum s) p - a q - s

        and for dense rows t as if a = 0 and s = t. Numbers below the smallest normal one of the probabilities' dtype
        count as that one, and q is even over S where P is. Slopes in p end at the largest number of the dtype.
        """
        xp, dtype = self.xp, compute_dtype(probs.dtype)
        p = probs.astype(dtype, copy=False)
        n, classes = p.shape
        limits = np.finfo(np.float16 if probs.dtype.name == "float16" else dtype)
        least, most = (dtype.type(limit) for limit in (limits.tiny, limits.max))
        spread = targets.rows if smoothing is None else smoothing
        values = xp.zeros(n, dtype)
        slope = xp.zeros(p.shape, dtype)
        if targets.rows is None:
            a = xp.ones(n, dtype) if target_weight is None else target_weight.astype(dtype, copy=False)
            members = targets.members(classes)
            inside = xp.sum(xp.where(members, p, 0), axis=1)
            safe = xp.maximum(inside, least)
            values = -a * xp.log(safe)
            if wrt_logits:
                q = xp.where((inside < least)[:, None], 1 / xp.sum(members, axis=1)[:, None], p / safe[:, None])
                slope = a[:, None] * xp.where(members, p - q, p)
            else:
                slope = xp.where(members, (-a / safe)[:, None], 0)
        if spread is not None:
            s = spread.astype(dtype, copy=False)
            safe_p = xp.maximum(p, least)
            values = values - xp.sum(s * xp.log(safe_p), axis=1)
            slope = slope + (p * xp.sum(s, axis=-1)[..., None] - s if wrt_logits else -s / safe_p)
        if out is not None:
            slope = self.scaled(slope, row_weight)
            out[...] = slope if wrt_logits else xp.minimum(xp.maximum(slope, -most), most)
        return values
