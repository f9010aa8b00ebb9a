"""The true twins of Thinc's cross-entropies: probabilities in, cross-entropy and its own gradient out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..checks import Interval, check_domain
from ..config.resolve import register
from ..labels.labels import Labels
from ..labels.options import ClassWeight, LabelOptions, class_weights
from ..labels.targets import Targets
from ..ops import Array, get_ops
from ..pipeline.evaluation import TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.kinds import RowLoss
from ..pipeline.weights import Reduction, Weights
from .softmax import probability_cross_entropy, target_arguments
from .thinc import UNIT, Smoothing, as_sequences, check_smoothing, read_sequences

__all__ = ["CategoricalCrossentropy_v4", "SequenceCategoricalCrossentropy_v4"]


@register("CategoricalCrossentropy.v4")
class CategoricalCrossentropy_v4(RowLoss, LabelOptions):  # noqa: N801  (the version is part of the name)
    """Cross-entropy of probabilities: the loss that is reported is the one whose gradient is returned.

        value = -log P_S,   P_S = sum of p over the candidate set S of the truth
        wrt = "logits":  slope_c = p_c - p_c [c in S] / P_S
        wrt = "probs":   slope_c = -[c in S] / P_S

    S is {y} for a label y, all but dog for "!dog", the members of a set of labels. Rows of probabilities t:
    value = -sum_c t_c log p_c, with slope (sum t) p - t or -t / p.
    "logits" is for heads whose backward pass hands the gradient through, such as Thinc's `Softmax` layer; it needs
    rows that sum to 1. "probs" is the true derivative, for heads that do their own chain rule, such as Thinc's
    `softmax_activation` and `Logistic`.
    label_smoothing e follows Thinc: 1-e on the label and e/(C-1) on every other class, that is
    value = (1-f) (-log P_S) - f/C sum_c log p_c with f = e C / (C-1). class_weight w as in `CrossEntropy`: the part of
    the label counts w_y, that of smoothing w_c, and a mean divides by the sum of w_y.
    A probability below the smallest normal number of its dtype counts as that number, so that a softmax that
    underflowed to 0 gives a large finite loss. With wrt "logits" its slope is exact; with wrt "probs" it ends at the
    largest number of the dtype, so that no backward pass makes NaN of it.
    names, missing_value, neg_prefix: what labels look like.
    Shapes: guesses, grad (N, C) in [0, 1]; truths (N,) labels and sets, or (N, C) numbers in [0, 1].
    Gradient with respect to: `wrt`.
    Errors: as CrossEntropy; ValueError for guesses outside [0, 1] or, with wrt "logits", rows that do not sum to 1.
    Source: the cross-entropy that Thinc's calculator of this name is named after.
    """

    names: Sequence[str] | None = None
    missing_value: str | int | None = None
    neg_prefix: str | None = None
    label_smoothing: Smoothing = 0.0
    class_weight: ClassWeight = None
    wrt: Literal["logits", "probs"] = "logits"

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of truths."""
        return Labels(type(self).__name__, self.names, self.missing_value, self.neg_prefix)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Targets, with class weights applied to rows of probabilities."""
        targets = self.labels.read(batch, truths, check)
        check_smoothing(batch, self.label_smoothing, targets)
        weight, exponent = class_weights(batch, self.class_weight)
        if targets.rows is None:
            row_weight = None if weight is None else targets.mean_weight(weight)
            # with smoothing a row has terms of all classes, of which each has its own weight
            in_formula = self.label_smoothing > 0
            return TargetBatch(targets, targets.valid, row_weight, in_formula, in_mean=True, exponent=exponent)
        rows = targets.rows if weight is None else targets.rows * weight.astype(targets.rows.dtype)
        targets = Targets(batch.ops, rows=rows, valid=targets.valid)
        return TargetBatch(targets, targets.valid, exponent=exponent)

    def check_guesses(self, batch: Batch, items: Array | None) -> None:
        """Kept rows lie in [0, 1], and sum to 1 where the gradient takes that for granted."""
        mask = None if items is None else batch.ops.xp.broadcast_to(items, batch.values_shape).ravel() != 0
        (p,) = batch.arrays
        check_domain(
            batch.ops, batch.name, "guesses", p, UNIT, None if mask is None else mask[:, None], batch.describe_index
        )
        if self.wrt == "logits":
            sums = p.sum(axis=1, dtype=np.float64)
            expected = 'with rows that sum to 1 (for outputs that are not a softmax take wrt="probs")'
            check_domain(
                batch.ops, batch.name, "guesses", sums, Interval(0.99, 1.01), mask, batch.describe_index, expected
            )

    formula = staticmethod(probability_cross_entropy)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """Targets, with smoothing as one coefficient for each class, and the limits of the dtype."""
        (x,) = batch.arrays
        classes = batch.columns
        target_weight: Any = None
        smoothing = None
        if self.label_smoothing:
            share = self.label_smoothing * classes / max(classes - 1, 1)
            weight, _ = class_weights(batch, self.class_weight)
            smoothing = (batch.ops.xp.ones(classes) if weight is None else weight) * (share / classes)
            target_weight = 1 - share if truths.weight is None else truths.weight * (1 - share)
        least, most = _limits(x.dtype)
        return (*target_arguments(batch.ops, truths.targets, classes, target_weight, smoothing), least, most)

    def bound_gradients(self, grads: list[Array], weights: Weights) -> None:
        """With wrt "probs", the largest number of the dtype is the end also where weights multiply the slope."""
        unweighted = weights.items is None and isinstance(weights.scale, float) and abs(weights.scale) <= 1.0
        if self.wrt == "logits" or unweighted:
            return
        (grad,) = grads
        xp, most = get_ops(grad).xp, grad.dtype.type(_limits(grad.dtype)[1])
        grad[...] = xp.minimum(xp.maximum(grad, -most), most)

    def static(self) -> tuple[Any, ...]:
        """Whether the slope is that in the logits."""
        return (self.wrt == "logits",)


def _limits(dtype: Any) -> tuple[float, float]:
    """The smallest normal number of a dtype, and the largest."""
    if dtype.name == "bfloat16":  # NumPy does not know it
        return 2.0**-126, (2.0 - 2.0**-7) * 2.0**127
    limits = np.finfo(dtype)
    return float(limits.tiny), float(limits.max)


@register("SequenceCategoricalCrossentropy.v4")
class SequenceCategoricalCrossentropy_v4(CategoricalCrossentropy_v4):  # noqa: N801
    """`CategoricalCrossentropy_v4` over a list of sequences or a Ragged, in one flat pass.

        value of a token = -log P_S;   loss = sum of the values / number of tokens that are kept

    Shapes: guesses, grad: list of (Ni, C); truths: list of (Ni,) labels or (Ni, C) numbers; mask, sample_weight: lists.
    Gradient with respect to: `wrt`.
    Source: as CategoricalCrossentropy_v4.

    normalize_by_sequence: a mean divides by the number of sequences, as Thinc's calculators of this name do.
    """

    normalize_by_sequence: bool = False

    def read_guesses(self, guesses: Any) -> Batch:
        """A list of sequences, or a Ragged."""
        return read_sequences(type(self).__name__, guesses)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Truths of sequences."""
        return super().read_truths(batch, as_sequences(batch, truths), check)

    @property
    def effective_reduction(self) -> Reduction:
        """Sequences instead of tokens."""
        return "batch_mean" if self.normalize_by_sequence and self.reduction == "mean" else self.reduction
