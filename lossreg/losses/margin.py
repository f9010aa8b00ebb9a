"""Losses that ask for a distance, and for no more than that."""

from __future__ import annotations

import functools
from typing import Any, Literal

from ..arrays import Batch
from ..base import ElementwiseLoss, RowLoss, Truths
from ..checks import OneOf
from ..config import register
from ..ops import Array
from ..truths import Labels
from .labels import ClassWeight, NameOptions, class_weights

__all__ = ["HingeEmbedding", "MarginRanking", "MultiLabelMargin", "MultiMargin"]


@register("HingeEmbedding.v1", alias="hinge")
class HingeEmbedding(ElementwiseLoss):
    """Distances of pairs: small where the truth is 1, at least margin where it is -1.

        value = x                      for t = 1,     slope = 1
                max(0, margin - x)     for t = -1,    slope = -[x <= margin]

    Shapes: guesses, truths, grad (...), all equal; truths 1 or -1.   Gradient with respect to: guesses (distances).
    Kink: at x = margin the derivative is -1.
    Source: same numbers as torch.nn.HingeEmbeddingLoss.

    margin: the distance from which a pair of t = -1 costs nothing, in units of the guesses.
    """

    margin: float = 1.0

    truth_domain = OneOf((1.0, -1.0))

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, margin: Any) -> tuple[Any, ...]:
        """Value and slope."""
        near, gap = truth > 0.0, margin - guess
        apart = xp.where(gap >= 0.0, -1.0, xp.where(gap < 0.0, 0.0, gap))  # NaN stays
        return xp.where(near, guess, xp.maximum(gap, 0.0)), xp.where(near, 1.0, apart)


@register("MarginRanking.v1", alias="margin")
class MarginRanking(ElementwiseLoss):
    """Which of two scores is higher, and by at least margin.

        value = max(0, -t (x1 - x2) + margin)
        slope in x1 = -t where that is not cut off, in x2 = t

    Shapes: guesses (x1, x2), of shapes that broadcast; truths of their common shape or one that broadcasts to it, 1
    where x1 is to be higher and -1 where x2 is; grads as the guesses.   Gradient with respect to: both.
    Kink: where the value reaches 0 the gradient still passes.
    Source: same numbers as torch.nn.MarginRankingLoss.

    margin: how much higher, in units of the guesses.
    """

    margin: float = 0.0

    inputs = ("x1", "x2")
    layout = "broadcast"
    truth_domain = OneOf((1.0, -1.0))

    @staticmethod
    def formula(xp: Any, x1: Any, x2: Any, truth: Any, margin: Any) -> tuple[Any, ...]:
        """Value and both slopes."""
        gap = margin - truth * (x1 - x2)
        slope = xp.where(gap >= 0.0, truth, xp.where(gap < 0.0, 0.0, gap))  # NaN stays
        return xp.maximum(gap, 0.0), -slope, slope


@register("MultiMargin.v1", alias="multimargin")
class MultiMargin(RowLoss, NameOptions):
    """The score of the label must lie above every other by margin.

        value = w_y / C sum over i != y of max(0, margin - x_y + x_i)**p
        slope_i = w_y / C p max(0, margin - x_y + x_i)**(p-1) for i != y,   slope_y = -(sum of the others)

    A mean divides by the number of rows, not by their weights.
    Shapes: guesses, grad (N, C) or (C,); truths (N,) or () ids, or names with `names`; None is missing.
    Gradient with respect to: guesses (scores).
    Kink: where a term reaches 0 its derivative is 0.
    Source: Crammer and Singer (2001); same numbers as torch.nn.MultiMarginLoss.

    p: power of the terms.   margin: how far above, in units of the guesses.   class_weight: w.   names: class names in
    the order of the columns.
    """

    p: Literal[1, 2] = 1
    margin: float = 1.0
    class_weight: ClassWeight = None

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of truths."""
        return Labels(type(self).__name__, self.names, None, None, sets=False)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """Ids, and the class weight of each row, which a mean does not divide by."""
        targets = self.labels.read_ids(batch, truths, check)
        weight = class_weights(batch, self.class_weight)
        if weight is not None:
            weight = weight[targets.ids].reshape(batch.values_shape)
        return Truths(targets.ids, targets.present, weight=weight)

    def rows(self, batch: Batch, truths: Truths, row_weight: Array | None, out: list[Array] | None) -> Array:
        """All gaps of a row at once."""
        p, margin = self.p, self.margin

        def hinge(xp: Any, x: Array, y: Array) -> tuple[Array, ...]:
            rows = xp.arange(len(x))
            gap = xp.maximum(x - x[rows, y][:, None] + margin, 0.0)
            gap[rows, y] = 0.0
            slope = xp.sign(gap) if p == 1 else 2.0 * gap
            slope[rows, y] = -xp.sum(slope, axis=1)
            return xp.sum(gap if p == 1 else gap * gap, axis=1) / x.shape[1], slope / x.shape[1]

        return batch.ops.rowwise(hinge, (batch.arrays[0], truths.targets), row_weight, out)


@register("MultiLabelMargin.v1", alias="multilabel")
class MultiLabelMargin(RowLoss, NameOptions):
    """The score of each label of a row must lie above that of every class that is none by 1.

        value = 1/C sum over j in Y, i not in Y of max(0, 1 - (x_j - x_i))
        slope_i = 1/C (number of j with x_j - x_i < 1) for i not in Y,   slope_j = -1/C (number of such i)

    Shapes: guesses, grad (N, C) or (C,); truths of the same shape, ids up to the first -1, or a list with the set
    of the labels of each row (ids, or names with `names`), where None is missing.
    Gradient with respect to: guesses (scores).
    Kink: where a term reaches 0 its derivative is 0.
    Errors: ValueError for an id that a row has twice.
    Source: same numbers as torch.nn.MultiLabelMarginLoss.

    names: class names in the order of the columns.
    """

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of label sets."""
        return Labels(type(self).__name__, self.names, None, None)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """The labels of each row as bools."""
        targets = self.labels.read_multi(batch, truths)
        return Truths(targets.members(batch.arrays[0].shape[1]), targets.present)

    def rows(self, batch: Batch, truths: Truths, row_weight: Array | None, out: list[Array] | None) -> Array:
        """A pass over the classes for each label that some row has: O(N C) memory."""

        def hinge(xp: Any, x: Array, labels: Array) -> tuple[Array, ...]:
            n, classes = x.shape
            values, slope, rows = xp.zeros(n, x.dtype), xp.zeros(x.shape, x.dtype), xp.arange(n)
            order = xp.argsort(~labels, axis=1, kind="stable")  # the labels of a row first
            most = classes if batch.ops.on_device else int(labels.sum(axis=1).max(initial=0))
            for k in range(most):
                j = order[:, k]
                gap = xp.where(labels | ~labels[rows, j][:, None], 0.0, xp.maximum(1.0 - x[rows, j][:, None] + x, 0.0))
                active = xp.sign(gap)
                values += xp.sum(gap, axis=1)
                slope += active
                slope[rows, j] -= xp.sum(active, axis=1)
            return values / classes, slope / classes

        return batch.ops.rowwise(hinge, (batch.arrays[0], truths.targets), row_weight, out)
