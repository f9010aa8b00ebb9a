"""Losses that ask for a distance, and for no more than that."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..checks import OneOf
from ..config.resolve import register
from ..labels.labels import Labels
from ..labels.options import ClassWeight, NameOptions, class_weights
from ..ops import Array
from ..ops.base import compute_dtype
from ..pipeline.evaluation import Needs, TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.kinds import ElementwiseLoss, RowLoss
from ..pipeline.weights import Weights

__all__ = ["HingeEmbedding", "MarginRanking", "MultiLabelMargin", "MultiMargin"]

FOR_ROWS = "for rows of 0 and 1 write [set(np.flatnonzero(row)) for row in truths]"
"""What errors about label sets say to those who have rows: integers are ids, as in PyTorch."""


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
        near, gap = truth == 1.0, margin - guess
        value = xp.maximum(gap, 0.0)
        apart = xp.where(gap >= 0.0, -1.0, value)  # NaN stays
        return xp.where(near, guess, value), xp.where(near, 1.0, apart)


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
        value = xp.maximum(gap, 0.0)
        slope = xp.where(gap >= 0.0, truth, value)  # NaN stays
        return value, -slope, slope


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

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Ids, and the class weight of each row, which a mean does not divide by."""
        targets = self.labels.read_ids(batch, truths, check)
        weight, exponent = class_weights(batch, self.class_weight)
        row_weight = None if weight is None else weight[targets.indices]
        return TargetBatch(targets.ids, targets.valid, row_weight, exponent=exponent)

    @staticmethod
    def formula(xp: Any, x: Any, ids: Any, margin: Any, classes: Any, p: int) -> tuple[Any, ...]:
        """All gaps of a row at once."""
        is_label = xp.columns(x) == ids
        gap = xp.where(is_label, 0.0, xp.maximum(x - xp.pick(x, ids) + margin, 0.0))
        value, slope = (gap, xp.sign(gap)) if p == 1 else (gap * gap, 2.0 * gap)
        return xp.row_sum(value) / classes, xp.where(is_label, -xp.row_sum(slope), slope) * (1.0 / classes)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """Ids, and the numbers of the formula."""
        return truths.targets, float(self.margin), float(batch.columns), self.p


AT_ONCE = 8
"""How many labels a pass of MultiLabelMargin takes: a power of 2."""


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

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """The labels of each row, as bools and as lists."""
        targets, xp, asarray = self.labels.read_multi(batch, truths, FOR_ROWS), batch.ops.xp, batch.ops.asarray
        indptr: Any = targets.indptr
        counts = np.diff(indptr)
        width = 1 << max(int(counts.max(initial=0)) - 1, 0).bit_length()  # few widths: few kernels to compile
        ids = xp.zeros((len(counts), width), np.int64)
        place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
        ids[asarray(np.repeat(np.arange(len(counts)), counts)), asarray(place)] = targets.ids
        members = targets.members(batch.columns)
        return TargetBatch((members, asarray(counts.astype(np.float64)), ids), targets.valid)

    @staticmethod
    def formula(xp: Any, x: Any, members: Any, count: Any, classes: Any, *ids: Any) -> tuple[Any, ...]:
        """All gaps to some labels of each row; the i-th is there where there are more than i."""
        value, slope = 0.0, 0.0
        for i, label in enumerate(ids):
            there = count > float(i)
            gap = xp.where(there & ~members, xp.maximum(1.0 - xp.pick(x, label) + x, 0.0), 0.0)
            active = xp.sign(gap)
            value = value + xp.row_sum(gap)
            slope = slope + xp.where(there & (xp.columns(x) == label), -xp.row_sum(active), active)
        return value / classes, slope * (1.0 / classes)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """The first labels; where there are more, `compute` asks again."""
        members, count, ids = truths.targets
        return (members, count, float(batch.columns), *ids[:, :AT_ONCE].T)

    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """One pass for some labels, and a sum of passes where there are more."""
        members, count, ids = truths.targets
        if ids.shape[1] <= AT_ONCE:
            return super().compute(batch, truths, weights, needs, out)
        xp = batch.ops.xp
        slope: Any = None if out is None else xp.zeros(out[0].shape, compute_dtype(out[0].dtype))
        values: Any = None
        total: Any = 0.0
        for start in range(0, ids.shape[1], AT_ONCE):
            some = replace(truths, targets=(members, count - start, ids[:, start:]))
            part = None if out is None else [xp.empty_like(slope)]
            found, add = super().compute(batch, some, weights, needs, part)
            values = found if values is None else values + found
            total = total + add if needs.total else None
            if part is not None:
                slope += part[0]
        if out is not None:
            out[0][...] = slope
        return values, total
