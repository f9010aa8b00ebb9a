"""Thinc's four calculators with Thinc's numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Lt

from ..arrays.dlpack import foreign_arrays
from ..arrays.ragged import is_ragged
from ..checks import Interval, check_domain, check_shape, describe, fail
from ..config.options import Problem
from ..config.resolve import register
from ..labels.labels import Labels, label_problems
from ..labels.targets import Targets
from ..ops import Array, get_ops
from ..ops.base import compute_dtype, is_half
from ..pipeline.guesses import Batch, real_array
from ..pipeline.loss import Loss

__all__ = ["CategoricalCrossentropy", "CosineDistance", "L2Distance", "SequenceCategoricalCrossentropy"]

UNIT = Interval(0.0, 1.0)
ANY_NUMBER = Interval(-np.inf, np.inf)
Smoothing = Annotated[float, Ge(0), Lt(1)]


@register("CategoricalCrossentropy.v1", "CategoricalCrossentropy.v2", "CategoricalCrossentropy.v3")
class CategoricalCrossentropy(Loss):
    """Thinc's calculator: the gradient is p - t, the loss the sum of its squares. Use version 4 for a true loss.

        grad = (p - t) * mask / N         (not divided by N without normalize)
        loss = sum(grad**2)

    The gradient is that of cross-entropy with respect to the *logits* under a softmax whose layer passes the gradient
    through, as Thinc's `Softmax` does; the loss reported is not cross-entropy, and the gradient is not its slope.
    t is 1 on the label and 0 elsewhere; with label_smoothing e it is 1-e and e/(C-1); for "!dog" it is 0 on dog, and
    the other columns of the row are masked. A missing label masks its row.
    Shapes: guesses, grad (N, C), probabilities in [0, 1]; truths (N,) ids or names, or (N, C) numbers in [0, 1].
    Gradient with respect to: the logits under the guesses (see above).
    Errors: ValueError for NaN or numbers outside [0, 1], undeclared ids, unknown names, shapes that do not match.
    Source: numbers of thinc 8.3, thinc/loss.py.

    normalize: divide by the number of rows.   names, missing_value, neg_prefix: what labels look like (see `truths`).
    label_smoothing: e, for labels only; less than (C-1)/C.
    """

    normalize: bool = True
    names: Sequence[str] | None = None
    missing_value: str | int | None = None
    neg_prefix: str | None = None
    label_smoothing: Smoothing = 0.0

    def check_options(self) -> Iterable[Problem]:
        """Duplicate names, and names that read as negations."""
        yield from label_problems(self.names, self.neg_prefix, self.missing_value)

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of truths."""
        return Labels(type(self).__name__, self.names, self.missing_value, self.neg_prefix, sets=False)

    @foreign_arrays
    def __call__(self, guesses: Any, truths: Any) -> tuple[Any, Any]:
        """(gradient, sum of its squares)."""
        batch = self._read(guesses)
        return self._run(batch, self._targets(batch, truths))

    def _read(self, guesses: Any) -> Batch:
        """Probabilities (N, C)."""
        if isinstance(guesses, (list, tuple)) or is_ragged(guesses):
            raise fail(type(self).__name__, "guesses", "to be an array (N, C)", describe(guesses))
        batch = Batch.read(type(self).__name__, guesses, ("guesses",), "classes")
        if len(batch.shape) != 2:
            raise fail(batch.name, "guesses", "of shape (N, C)", f"shape {batch.shape}")
        return batch

    def _targets(self, batch: Batch, truths: Any) -> Targets:
        targets = self.labels.read(batch, truths, not batch.ops.on_device)
        check_smoothing(batch, self.label_smoothing, targets)
        return targets

    @staticmethod
    def formula(
        xp: Any, p: Any, ids: Any, dense: Any, negated: Any, present: Any, on: Any, off: Any, count: Any
    ) -> tuple[Any, ...]:
        """Squares and (p - t) * mask, divided. A row that holds what is no probability has the value NaN."""
        if dense is not None:
            difference = p - dense
        else:
            is_label = xp.columns(p) == ids
            difference = xp.where(is_label, p - on, p - off)
            if negated is not None:
                difference = xp.where(negated, xp.where(is_label, p, 0.0), difference)
        if present is not None:
            difference = xp.where(present, difference, 0.0)
        difference = difference / count
        outside = xp.row_sum(xp.where((p >= 0.0) & (p <= 1.0), 0.0, 1.0))
        return xp.where(outside > 0.0, math.nan, xp.row_squares(difference)), difference

    def _run(self, batch: Batch, targets: Targets) -> tuple[Any, Any]:
        """Gradient and loss, as precise as guesses and truths are."""
        ops, p, e = batch.ops, batch.arrays[0], self.label_smoothing
        dtype = p.dtype
        if targets.rows is not None:
            p = p.astype(np.promote_types(compute_dtype(dtype), targets.rows.dtype), copy=False)
        grad = ops.empty(p.shape, p.dtype)
        # Thinc keeps targets in float32, also beside float64 guesses
        on, off = float(np.float32(1.0 - e)), float(np.float32(e / max(p.shape[1] - 1, 1)))
        count = float(max(len(batch), 1)) if self.normalize else 1.0
        truths = (targets.ids, targets.rows, targets.negated, targets.valid, on, off, count)
        options: dict[str, Any] = {"rows": True, "values": False, "total": True, "out": [grad]}
        total = ops.run(self.formula, [p], truths, None, 1.0, **options)[1]
        if not ops.on_device and math.isnan(total):
            check_domain(ops, batch.name, "guesses", batch.arrays[0], UNIT, None, batch.describe_index)
        return batch.restore([grad.astype(dtype, copy=False)]), ops.scalar(total)


@register(
    "SequenceCategoricalCrossentropy.v1", "SequenceCategoricalCrossentropy.v2", "SequenceCategoricalCrossentropy.v3"
)
class SequenceCategoricalCrossentropy(CategoricalCrossentropy):
    """`CategoricalCrossentropy` over a list of sequences or a Ragged, in one pass; normalize divides by their number.

        grad_i = (p_i - t_i) * mask_i / number of sequences
        loss   = sum over sequences of sum(grad_i**2)

    Shapes: guesses, grad: list of (Ni, C); truths: list of (Ni,) labels or (Ni, C) numbers.
    Gradient with respect to: the logits under the guesses (see `CategoricalCrossentropy`).
    Source: numbers of thinc 8.3, thinc/loss.py.
    """

    def _read(self, guesses: Any) -> Batch:
        return read_sequences(type(self).__name__, guesses)

    def _targets(self, batch: Batch, truths: Any) -> Targets:
        return super()._targets(batch, as_sequences(batch, truths))


class _DistanceLoss(Loss):
    """What L2Distance and CosineDistance share: two arrays of one shape."""

    normalize: bool = True

    axes: ClassVar[int] = 1
    """How many axes the arrays have at least."""

    def _read(self, guesses: Any, truths: Any) -> tuple[Array, Array, Any]:
        """Guesses and truths in the dtype to compute in, and the dtype of the gradient."""
        name = type(self).__name__
        guesses, truths = real_array(name, "guesses", guesses), real_array(name, "truths", truths)
        ops = get_ops(guesses)
        if not ops.owns(truths):
            raise fail(name, "truths", f"of {ops.library} as the guesses are", describe(truths))
        if guesses.ndim < self.axes:
            raise fail(name, "guesses", "of shape (N, D)", f"shape {guesses.shape}")
        check_shape(name, "truths", truths, guesses.shape, "guesses")
        dtypes = [np.float64 if x.dtype.kind in "iub" else compute_dtype(x.dtype) for x in (guesses, truths)]
        kept = guesses.dtype if guesses.dtype.kind == "f" or is_half(guesses.dtype) else np.dtype(np.float64)
        both = np.promote_types(*dtypes)
        return guesses.astype(both, copy=False), truths.astype(both, copy=False), kept

    def _run(
        self, formula: Any, guesses: Any, truths: Any, static: tuple[Any, ...], values: bool, grad: bool = True
    ) -> tuple[Any, Any, Any]:
        """(gradient or None, values or None, loss or None) of a formula of rows."""
        x, t, dtype = self._read(guesses, truths)
        ops, shape = get_ops(x), x.shape
        rows = shape[0] if shape else 1
        x, t = (v.reshape(rows, math.prod(shape[1:])) for v in (x, t))
        out = [ops.empty(x.shape, x.dtype)] if grad else None
        count = float(max(rows, 1)) if self.normalize else 1.0
        options: dict[str, Any] = {"rows": True, "values": values, "total": True, "out": out}
        found, total = ops.run(formula, [x], (t, count), None, 1.0, static_options=static, **options)
        if not ops.on_device and math.isnan(total):
            for what, v in (("guesses", guesses), ("truths", truths)):
                check_domain(ops, type(self).__name__, what, v, ANY_NUMBER, None, "row {}".format)
        if out is None:
            return None, found, ops.scalar(total)
        with np.errstate(all="ignore"):  # to half precision, too
            return out[0].reshape(shape).astype(dtype, copy=False), found, ops.scalar(total)


@register("L2Distance.v1")
class L2Distance(_DistanceLoss):
    """Thinc's calculator: the gradient is the difference, the loss the sum of its squares.

        grad = (x - t) / N                (not divided by N without normalize)
        loss = sum(grad**2)

    The gradient is half the slope of sum((x - t)**2), divided by N once where the loss is divided twice; for a loss
    with its own gradient use MeanSquaredError.
    Shapes: guesses, truths, grad (N, D).   Gradient with respect to: guesses, up to the factor above.
    Source: numbers of thinc 8.3, thinc/loss.py.
    """

    @foreign_arrays
    def __call__(self, guesses: Any, truths: Any) -> tuple[Any, Any]:
        """(gradient, sum of its squares)."""
        grad, _, loss = self._run(self.formula, guesses, truths, (), False)
        return grad, loss

    @staticmethod
    def formula(xp: Any, x: Any, t: Any, count: Any) -> tuple[Any, ...]:
        """Squares, and the difference."""
        difference = (x - t) / count
        return xp.row_squares(difference), difference


@register("CosineDistance.v1")
class CosineDistance(_DistanceLoss):
    """Thinc's calculator: 1 - cos of guess and truth, where each component of both gets 1e-8 added.

        y = x + 1e-8,  u = t + 1e-8,  cos = y.u / (|y| |u|)
        loss = sum(|cos - 1|) / N
        grad = -(u / (|y| |u|) - cos y / |y|**2) / N          (neither divided by N without normalize)

    cos <= 1, so the gradient is the slope of the loss.
    Shapes: guesses, truths, grad (N, D).   Gradient with respect to: guesses.
    Source: numbers of thinc 8.3, thinc/loss.py.

    ignore_zeros: rows whose truth is all zeros give loss 0 and gradient 0.
    """

    normalize: bool = True
    ignore_zeros: bool = False

    axes = 2

    @foreign_arrays
    def __call__(self, guesses: Any, truths: Any) -> tuple[Any, Any]:
        """(gradient, loss)."""
        grad, _, loss = self._run(self.formula, guesses, truths, (self.ignore_zeros,), False)
        return grad, loss

    @foreign_arrays
    def get_loss(self, guesses: Any, truths: Any) -> Any:
        """The loss alone."""
        return self._run(self.formula, guesses, truths, (self.ignore_zeros,), False, grad=False)[2]

    @foreign_arrays
    def get_similarity(self, guesses: Any, truths: Any) -> Array:
        """The cosines, (N, 1)."""
        return self._run(self.cosine, guesses, truths, (), True, grad=False)[1]

    @staticmethod
    def cosine(xp: Any, x: Any, t: Any, count: Any) -> tuple[Any, ...]:
        """The cosine of each row."""
        y, u = x + 1e-8, t + 1e-8
        return (xp.row_sum(y * u) / xp.sqrt(xp.row_squares(y) * xp.row_squares(u)),)

    @staticmethod
    def formula(xp: Any, x: Any, t: Any, count: Any, ignore_zeros: bool) -> tuple[Any, ...]:
        """1 - cos, and its slope."""
        y, u = x + 1e-8, t + 1e-8
        y_norm, u_norm = xp.sqrt(xp.row_squares(y)), xp.sqrt(xp.row_squares(u))
        norms = y_norm * u_norm
        cosine = xp.row_sum(y * u) / norms
        scale = 1.0 / count
        if ignore_zeros:
            scale = xp.where(xp.row_sum(abs(t)) == 0.0, 0.0, scale)
        return abs(cosine - 1.0) * scale, (cosine * (y / (y_norm * y_norm)) - u / norms) * scale


def as_sequences(batch: Batch, truths: Any) -> Any:
    """Tuples and arrays of sequences as lists too; what is flat beside a Ragged stays so, and is read at once."""
    return _as_list(truths) if batch.ragged[0] is None else truths


def read_sequences(name: str, guesses: Any) -> Batch:
    """A list of matrices (Ni, C), or a Ragged of (N, C)."""
    if getattr(guesses, "ndim", 0) == 2:
        expected = "to be a list of arrays (Ni, C) or a Ragged"
        raise fail(name, "guesses", expected, f"{describe(guesses)}; write [guesses] for one sequence")
    guesses = _as_list(guesses)
    if not isinstance(guesses, list) and not is_ragged(guesses):
        raise fail(name, "guesses", "to be a list of arrays (Ni, C) or a Ragged", describe(guesses))
    for i, part in enumerate([guesses.dataXd] if is_ragged(guesses) else guesses):
        if getattr(part, "ndim", 2) != 2:
            raise fail(name, f"guesses of sequence {i}", "of shape (Ni, C)", f"shape {part.shape}")
    return Batch.read(name, guesses, ("guesses",), "classes")


def _as_list(value: Any) -> Any:
    """Tuples and arrays of sequences as lists, which is what a batch of sequences is."""
    return list(value) if isinstance(value, tuple) or hasattr(value, "ndim") else value


def check_smoothing(batch: Batch, smoothing: float, targets: Targets) -> None:
    """Thinc's smoothing is for labels, more than one class, and less than even."""
    classes = batch.arrays[0].shape[1]
    if not smoothing or not batch.arrays[0].shape[0]:
        return
    if targets.rows is not None:
        raise fail(batch.name, "truths", "to be labels, to which alone label_smoothing applies", "rows of numbers")
    if classes < 2 or smoothing >= (classes - 1) / classes:
        limit = f"below (C-1)/C = {(classes - 1) / classes:.6g} for {classes} classes"
        raise fail(batch.name, "label_smoothing", limit, f"{smoothing}")
