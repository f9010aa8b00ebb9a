"""Losses of independent yes-or-no decisions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge

from ..checks import Interval, OneOf, check_domain, check_shape, fail
from ..config.resolve import register
from ..labels.labels import Labels
from ..labels.options import ClassWeight, NameOptions, class_weights
from ..ops import Ops
from ..ops.base import compute_dtype
from ..pipeline.evaluation import TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.kinds import ElementwiseLoss, RowLoss

__all__ = ["BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "MultiLabelSoftMargin", "SoftMargin"]

FOR_ROWS = "rows of 0 and 1 must be an array; write np.array(truths)"
"""What errors about label sets say to those who have rows: the ints of lists are ids."""


@register("BinaryCrossEntropyWithLogits.v1", alias="bcelogits")
class BinaryCrossEntropyWithLogits(ElementwiseLoss):
    """Cross-entropy of a sigmoid, computed from its logits.

        value = w [(1 - t) x + b softplus(-x)],   b = 1 + (pos_weight - 1) t
        slope = w [(1 - t) - b sigmoid(-x)]

    softplus(-x) = log1p(e^-|x|) + max(-x, 0) and sigmoid(-x) share e^-|x|: no overflow, no epsilon. The value is
    rewritten as (1 - t) softplus(x) + pos_weight t softplus(-x), whose terms do not cancel; at x = +inf with t = 1 and
    at x = -inf with t = 0 it is 0.
    Shapes: guesses, truths, grad (...), all equal; the options (C,) go along the last axis. Truths in [0, 1].
    Gradient with respect to: guesses (logits).
    Source: same numbers as torch.nn.BCEWithLogitsLoss; a mean does not divide by weights.

    pos_weight: factor of the positive part, for each class.
    class_weight: factor w of both parts, for each class.
    """

    pos_weight: Sequence[Annotated[float, Ge(0)]] | None = None
    class_weight: Sequence[Annotated[float, Ge(0)]] | None = None

    truth_domain = Interval(0.0, 1.0)
    weight_input = True

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, pos_weight: Any) -> tuple[Any, ...]:
        """Value and slope, both as non-negative parts for t = 0 and t = 1."""
        small = xp.exp(-abs(guess))
        log_part = xp.log1p(small)
        far = 1.0 / (1.0 + small)  # sigmoid(|x|)
        near = small * far  # sigmoid(-|x|)
        positive = pos_weight * truth
        negative = 1.0 - truth
        # softplus(x) = log_part + max(x, 0): the max is selected, so that inf meets no factor 0
        above = xp.where(negative == 0.0, 0.0 * log_part, negative * (log_part + xp.maximum(guess, 0.0)))
        below = xp.where(positive == 0.0, 0.0 * log_part, positive * (log_part + xp.maximum(-guess, 0.0)))
        right = guess >= 0.0
        sigmoid, opposite = xp.where(right, far, near), xp.where(right, near, far)
        return above + below, negative * sigmoid - positive * opposite

    def formula_options(self, ops: Ops) -> tuple[Any, ...]:
        """pos_weight as an array, or 1."""
        return (1.0 if self.pos_weight is None else ops.asarray(self.pos_weight, dtype="float64"),)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Truths, and the class weights of the last axis."""
        targets = super().read_truths(batch, truths, check).targets
        classes = batch.shape[-1] if batch.shape else 1
        for name, weights in (("pos_weight", self.pos_weight), ("class_weight", self.class_weight)):
            if weights is not None and len(weights) not in (1, classes):
                raise fail(batch.name, name, f"of {classes} (the last axis of guesses)", f"{len(weights)} values")
        weight = None if self.class_weight is None else batch.ops.asarray(self.class_weight, dtype="float64")
        return TargetBatch(targets, weight=weight, by_place=True)


@register("BinaryCrossEntropy.v1", alias="bce")
class BinaryCrossEntropy(ElementwiseLoss):
    """Cross-entropy of probabilities of yes.

        value = -(t max(log x, -100) + (1 - t) max(log(1 - x), -100))
        slope = (x - t) / max(x (1 - x), 1e-12)

    The two bounds are part of this loss: they keep the value finite at x = 0 and x = 1, where the slope is then not
    that of the value. From logits take BinaryCrossEntropyWithLogits, which needs no bound.
    Shapes: guesses, truths, grad (...), all equal, in [0, 1].   Gradient with respect to: guesses (probabilities).
    Kink: where a logarithm reaches -100.
    Source: same numbers as torch.nn.BCELoss; weights (its `weight`) are `sample_weight`, and a mean does not divide by
    them.
    """

    truth_domain = Interval(0.0, 1.0)
    guess_domain = Interval(0.0, 1.0)
    weight_input = True

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any) -> tuple[Any, ...]:
        """Value and slope."""
        yes = xp.maximum(xp.log(guess), -100.0)
        no = xp.maximum(xp.log1p(-guess), -100.0)
        slope = (guess - truth) / xp.maximum(guess * (1.0 - guess), 1e-12)
        return (truth - 1.0) * no - truth * yes, slope


@register("SoftMargin.v1", alias="softmargin")
class SoftMargin(ElementwiseLoss):
    """Logistic loss of a decision with truth 1 or -1.

        value = log(1 + e^(-t x))
        slope = -t / (1 + e^(t x))

    Computed as max(z, 0) + log1p(e^-|z|) with z = -t x: no overflow.
    Shapes: guesses, truths, grad (...), all equal; truths 1 or -1.   Gradient with respect to: guesses (logits).
    Source: same numbers as torch.nn.SoftMarginLoss.
    """

    truth_domain = OneOf((1.0, -1.0))

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any) -> tuple[Any, ...]:
        """Value and slope."""
        z = -truth * guess
        small = xp.exp(-abs(z))
        value = xp.maximum(z, 0.0) + xp.log1p(small)
        return value, -truth * xp.where(z >= 0.0, 1.0, small) / (1.0 + small)


@register("MultiLabelSoftMargin.v1", alias="multisoft")
class MultiLabelSoftMargin(RowLoss, NameOptions):
    """Mean over the classes of the binary cross-entropy of their logits.

        value = -1/C sum_c w_c (t_c log s(x_c) + (1 - t_c) log s(-x_c)),   s(x) = 1 / (1 + e^-x)
        slope_c = w_c (s(x_c) - t_c) / C

    Shapes: guesses, grad (..., C); truths of the same shape in [0, 1], or for (N, C) a list with the set of the labels
    of each row (ids, or names with `names`), where None is missing; values (...).
    Gradient with respect to: guesses (logits).
    Source: same numbers as torch.nn.MultiLabelSoftMarginLoss.

    class_weight: w.   names: class names in the order of the columns, for truths that are sets of names.
    """

    class_weight: ClassWeight = None

    layout = "vectors"

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of label sets."""
        return Labels(type(self).__name__, self.names, None, None)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Rows of numbers in [0, 1]."""
        (x,) = batch.arrays
        _, exponent = class_weights(batch, self.class_weight)
        if self._are_sets(batch, truths):
            targets = self.labels.read_multi(batch, truths, FOR_ROWS)
            members = targets.members(batch.columns).astype(compute_dtype(x.dtype))
            return TargetBatch(members, targets.valid, exponent=exponent)
        truths = batch.real("truths", truths)
        if truths.shape == (0,) and batch.shape[0] == 0:  # a list of no rows
            truths = truths.reshape(batch.shape)
        check_shape(batch.name, "truths", truths, batch.shape, "guesses")
        rows = truths.reshape(x.shape)
        if check:
            mask = None if batch.mask is None else batch.mask.ravel()[:, None]
            check_domain(batch.ops, batch.name, "truth values", rows, Interval(0.0, 1.0), mask, batch.describe_index)
        return TargetBatch(batch.ops.asarray(rows, dtype=compute_dtype(x.dtype)), exponent=exponent)

    @staticmethod
    def _are_sets(batch: Batch, truths: Any) -> bool:
        """Whether truths are sets of labels, and not rows of numbers. An empty list may be either."""
        if isinstance(truths, (set, frozenset)):
            return True
        if not isinstance(truths, (list, tuple)) or _has_floats(truths):
            return False
        return bool(truths) or len(batch.shape) <= 2

    @staticmethod
    def formula(xp: Any, x: Any, truth: Any, share: Any) -> tuple[Any, ...]:
        """That of BinaryCrossEntropyWithLogits, and a mean over each row."""
        values, slope = BinaryCrossEntropyWithLogits.formula(xp, x, truth, 1.0)
        return xp.row_sum(values * share), slope * share

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """Truths, and the share of each class in the mean."""
        (weight, _), classes = class_weights(batch, self.class_weight), batch.columns
        return truths.targets, 1.0 / classes if weight is None else (weight / classes)[None, :]


def _has_floats(truths: Any) -> bool:
    """Whether nested lists hold numbers with points, or arrays of them: rows, where ints and names are labels."""
    if isinstance(truths, (list, tuple)):
        return any(map(_has_floats, truths))
    dtype = getattr(truths, "dtype", None)
    return isinstance(truths, float) or dtype is not None and (dtype.kind == "f" or dtype.name == "bfloat16")
