"""Losses of vectors: what is near, what is far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from ..checks import OneOf, check_domain, check_shape, fail
from ..config.options import INFINITY_ALLOWED
from ..config.resolve import register
from ..labels.targets import Targets
from ..ops import Array
from ..ops.base import fitting
from ..pipeline.evaluation import TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.kinds import CoupledLoss, RowLoss
from ..pipeline.layouts import LayoutName
from ..pipeline.weights import Reduction
from .softmax import softmax_cross_entropy, target_arguments

__all__ = [
    "CosineEmbedding", "CosineSimilarity", "InfoNCE", "NegativeCosineSimilarity", "PairwiseDistance", "TripletMargin",
]  # fmt: skip

Power = Annotated[float, Ge(0), INFINITY_ALLOWED]
"""The p of a norm: 0 (how many are not zero), finite, or infinite (the largest)."""


class _PairLoss(RowLoss):
    """A loss of two or more vectors a row."""

    layout = "vectors"
    truth_inputs: ClassVar[tuple[str, ...]] = ()

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """None: the vectors are all there is."""
        return self._same_shapes(batch)

    def _same_shapes(self, batch: Batch) -> TargetBatch:
        for shape, what in zip(batch.shapes[1:], self.inputs[1:]):
            if shape != batch.shape:
                raise fail(batch.name, what, f"of shape {batch.shape} (that of {self.inputs[0]})", f"shape {shape}")
        return TargetBatch(None)


@register("CosineEmbedding.v1", alias="cosineloss")
class CosineEmbedding(_PairLoss):
    """Pairs of vectors: the same direction where the truth is 1, a cosine of at most margin where it is -1.

        cos = a.b / sqrt((|a|**2 + 1e-12) (|b|**2 + 1e-12))
        value = 1 - cos                  for t = 1
                max(0, cos - margin)     for t = -1
        slope in a = sign * (b / norms - cos a / (|a|**2 + 1e-12)),   sign = -1, or [cos >= margin] for t = -1

    Shapes: guesses (x1, x2), each (N, D) or (D,); truths (N,) or (), 1 or -1; grads as the guesses.
    Gradient with respect to: both.
    Kink: at cos = margin the gradient passes.
    Source: same numbers as torch.nn.CosineEmbeddingLoss, whose 1e-12 this is.

    margin: the cosine up to which a pair of t = -1 costs nothing.
    """

    margin: Annotated[float, Ge(-1), Le(1)] = 0.0

    inputs = ("x1", "x2")
    truth_inputs = ("truths",)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """1 or -1 for each row."""
        self._same_shapes(batch)
        signs = batch.real("truths", truths)
        check_shape(batch.name, "truths", signs, batch.values_shape, "guesses without their last axis")
        if check:
            check_domain(batch.ops, batch.name, "truths", signs, OneOf((1.0, -1.0)), batch.mask, batch.describe_index)
        return TargetBatch(signs.ravel())

    @staticmethod
    def formula(xp: Any, a: Any, b: Any, truth: Any, margin: Any) -> tuple[Any, ...]:
        """The cosine, and what the truth makes of it."""
        lengths = (_length(xp, a), _length(xp, b))
        # beside 1e6 or more the 1e-12 is not seen, and the square could overflow
        a_norm, b_norm = (xp.where(x > 1e6, x, xp.sqrt(x * x + 1e-12)) for x in lengths)
        a_unit, b_unit = a / a_norm, b / b_norm
        cosine = xp.row_sum(a_unit * b_unit)
        same = truth == 1.0
        sign = xp.where(same, -1.0, xp.where(cosine >= margin, 1.0, 0.0))
        value = xp.where(same, 1.0 - cosine, xp.maximum(cosine - margin, 0.0))
        return value, sign / a_norm * (b_unit - cosine * a_unit), sign / b_norm * (a_unit - cosine * b_unit)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """Signs and margin."""
        return truths.targets, float(self.margin)


@register("CosineSimilarity.v1", alias="similar")
class CosineSimilarity(_PairLoss):
    """Cosine of the angle between vectors. It is a measure, not a loss: larger is nearer, and nothing is reduced.

        value = a.b / (max(|a|, eps) max(|b|, eps))
        slope in a = b / norms - value a / |a|**2    (without the second term where |a| <= eps)

    Shapes: guesses (x1, x2) of one shape; truths None; values without the axis.   Gradient with respect to: both.
    Source: same numbers as torch.nn.CosineSimilarity.

    axis: the axis of the components.   eps: the least length that counts, in units of the guesses.
    """

    axis: int = 1
    eps: Annotated[float, Gt(0)] = 1e-8
    reduction: Reduction = "none"

    inputs = ("x1", "x2")

    @property
    def layout(self) -> LayoutName:  # type: ignore[override]
        """The axis of the option."""
        return self.axis

    @staticmethod
    def formula(xp: Any, a: Any, b: Any, eps: Any) -> tuple[Any, ...]:
        """The cosine."""
        lengths = (_length(xp, a), _length(xp, b))
        a_norm, b_norm = (xp.maximum(length, eps) for length in lengths)
        a_unit, b_unit = a / a_norm, b / b_norm
        value = xp.row_sum(a_unit * b_unit)
        a_along, b_along = (xp.where(length > eps, value, 0.0) for length in lengths)
        return value, (b_unit - a_along * a_unit) / a_norm, (a_unit - b_along * b_unit) / b_norm

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """The least length."""
        return (float(self.eps),)


@register("NegativeCosineSimilarity.v1", alias="negcosine")
class NegativeCosineSimilarity(_PairLoss):
    """Minus the cosine of the angle between vectors: near -1 where they point the same way, near 1 where opposite ways.

        a = x1 / (|x1| + eps),   b = x2 / (|x2| + eps)
        value = -a.b
        slope in x1 = (a.b x1 / |x1| - b) / (|x1| + eps),   in x2 likewise

    Shapes: guesses (x1, x2), each (..., D); truths None; values (...).   Gradient with respect to: both.
    Kink: none. At x1 = 0 the value is 0 and the slope -b / eps, which is steep.
    Source: same numbers as NegativeCosineSimilarity of Kauldron (https://kauldron.readthedocs.io).

    eps: added to lengths, in units of the guesses.
    """

    eps: Annotated[float, Gt(0)] = 1e-8

    inputs = ("x1", "x2")

    @staticmethod
    def formula(xp: Any, a: Any, b: Any, eps: Any) -> tuple[Any, ...]:
        """Minus the product of the shortened units."""
        a_length, b_length = _length(xp, a), _length(xp, b)
        a_short, b_short = a / (a_length + eps), b / (b_length + eps)
        cosine = xp.row_sum(a_short * b_short)
        a_unit, b_unit = (xp.where(n == 0.0, 0.0, x / n) for x, n in ((a, a_length), (b, b_length)))
        a_slope, b_slope = cosine * a_unit - b_short, cosine * b_unit - a_short
        return -cosine, a_slope / (a_length + eps), b_slope / (b_length + eps)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """What is added to lengths."""
        return (float(self.eps),)


@register("PairwiseDistance.v1", alias="pairwise")
class PairwiseDistance(_PairLoss):
    """Length of the difference of vectors, to which eps is added. It is a measure: nothing is reduced.

        r = x1 - x2 + eps,   value = |r|_p = (sum |r_i|**p)**(1/p)
        slope in x1 = sign(r) (|r| / value)**(p-1), in x2 its negative

    p = 0 counts the numbers that are not 0, with slope 0; p = infinity takes the largest, and its slope goes in equal
    parts to all that are as large.
    Shapes: guesses (x1, x2), each (..., D); truths None; values (...), or (..., 1) with keepdims.
    Gradient with respect to: both.
    Kink: at r = 0 the derivative is 0, and so is that of a component that is 0.
    Source: same numbers as torch.nn.PairwiseDistance.

    p: of the norm.   eps: in units of the guesses.   keepdims: keep the last axis, of length 1.
    """

    p: Power = 2.0
    eps: Annotated[float, Ge(0)] = 1e-6
    keepdims: bool = False
    reduction: Reduction = "none"

    inputs = ("x1", "x2")

    def read_guesses(self, guesses: Any) -> Batch:
        """With the last axis of the values kept, if asked for."""
        return Batch.read(type(self).__name__, guesses, self.inputs, self.layout, self.keepdims)

    @staticmethod
    def formula(xp: Any, a: Any, b: Any, eps: Any, p: float) -> tuple[Any, ...]:
        """The distance."""
        value, slope = _distance(xp, a, b, p, eps)
        return value, slope, -slope

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """What is added to the difference."""
        return (float(self.eps),)

    def static(self) -> tuple[Any, ...]:
        """The p of the norm."""
        return (self.p,)


@register("TripletMargin.v1", alias="triplet")
class TripletMargin(_PairLoss):
    """The anchor must be nearer to the positive than to the negative, by margin.

        value = max(0, margin + d(a, p) - d(a, n)),   d(x, y) = |x - y + eps|_p as in PairwiseDistance
        slopes: those of d(a, p), less those of d(a, n), where the value is not cut off
        swap:   the smaller of d(a, n) and d(p, n) in place of d(a, n); a tie gives half a slope to each

    Shapes: guesses (anchor, positive, negative), each (..., D); truths None; values (...).
    Gradient with respect to: all three.
    Kink: where the value reaches 0 the gradient still passes.
    Source: Balntas et al. (2016), doi:10.5244/C.30.119; same numbers as torch.nn.TripletMarginLoss.

    margin, eps: in units of the guesses.   p: of the norm.   swap: as above.
    """

    margin: Annotated[float, Gt(0)] = 1.0
    p: Power = 2.0
    eps: Annotated[float, Ge(0)] = 1e-6
    swap: bool = False

    inputs = ("anchor", "positive", "negative")

    @staticmethod
    def formula(
        xp: Any, anchor: Any, positive: Any, negative: Any, margin: Any, eps: Any, p: float, swap: bool
    ) -> tuple[Any, ...]:
        """Two distances or three, and the hinge between them."""
        shrink = 1.0
        if p:
            # two distances that overflow have no difference: rows of large numbers shrink, which is exact
            largest = xp.row_max(xp.maximum(xp.maximum(abs(anchor), abs(positive)), abs(negative)))
            shrink = xp.where(largest > 1e30, 2.0**-40, 1.0)
            anchor, positive, negative = anchor * shrink, positive * shrink, negative * shrink
            margin, eps = margin * shrink, eps * shrink
        near, d_near = _distance(xp, anchor, positive, p, eps)
        far, d_far = _distance(xp, anchor, negative, p, eps)
        d_other = 0.0
        if swap:
            other, d_other = _distance(xp, positive, negative, p, eps)
            share = xp.where(far < other, 1.0, xp.where(far > other, 0.0, 0.5))
            far = xp.minimum(far, other)
            d_far, d_other = d_far * share, d_other * (1.0 - share)
        gap = margin + near - far
        slopes = (d_near - d_far, -d_near - d_other, d_far + d_other)
        return xp.maximum(gap, 0.0) / shrink, *(xp.where(gap < 0.0, 0.0, slope) for slope in slopes)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """The hinge, and what is added to differences."""
        return float(self.margin), float(self.eps)

    def static(self) -> tuple[Any, ...]:
        """The p of the norm, and whether the positive counts as an anchor too."""
        return self.p, self.swap


def _distance(xp: Any, a: Any, b: Any, p: float, eps: Any) -> tuple[Any, Any]:
    """|a - b + eps|_p of each row, and its slope with respect to a."""
    r = a - b + eps
    size = abs(r)
    if not p:
        return xp.row_sum(xp.sign(size)), xp.where(xp.isnan(size), size, 0.0)
    if p == 1:
        return xp.row_sum(size), xp.sign(r)
    largest, scaled = _scaled(xp, size)
    if math.isinf(p):
        ties = xp.where(size == largest, 1.0, 0.0)
        return largest, xp.sign(r) * ties / xp.row_sum(ties)
    length = xp.row_sum(scaled**p) ** (1 / p)
    share = xp.where(xp.isinf(size), 1.0, scaled / length)
    power = xp.where(share == 0.0, 0.0, share ** (p - 1))
    return largest * length, xp.sign(r) * power


def _length(xp: Any, x: Any) -> Any:
    """|x| of each row."""
    largest, scaled = _scaled(xp, abs(x))
    return largest * xp.sqrt(xp.row_sum(scaled * scaled))


def _scaled(xp: Any, size: Any) -> tuple[Any, Any]:
    """The largest of each row, and the row divided by it, so that no power overflows or vanishes; 1 for the largest."""
    largest = xp.row_max(size)
    return largest, xp.where(size == largest, 1.0, size / largest)


@register("InfoNCE.v1")
class InfoNCE(CoupledLoss):
    """Each query must find its own key among the keys of the batch.

        s_ij = cos(query_i, key_j) / temperature
        value_i = log(sum_j exp s_ij) - s_ii
        slope of s_ij = p_ij - [i = j],   p_i = softmax(s_i)

    Shapes: guesses (queries, keys), each (N, D); truths None; values (N,).   Gradient with respect to: both.
    A masked pair is deleted: its key is nobody's negative. A vector of zeros has cosine 0 with all and gradient 0.
    Source: van den Oord, Li and Vinyals (2018), arXiv:1807.03748; cosines as in Chen et al. (2020), arXiv:2002.05709.

    temperature: divides the cosines; a smaller one looks harder at the nearest negatives.
    """

    temperature: Annotated[float, Gt(0)] = 0.1

    inputs = ("queries", "keys")
    truth_inputs = ()
    layout = "vectors"

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """None: the truth of query i is key i."""
        queries, keys = batch.arrays
        if len(batch.shape) != 2:
            raise fail(batch.name, "guesses", "of shape (N, D)", f"queries of shape {batch.shape}")
        check_shape(batch.name, "guesses", keys, queries.shape, "queries")
        ids = batch.ops.xp.arange(queries.shape[0])
        return TargetBatch(Targets(batch.ops, ids=ids))

    def forward(
        self, batch: Batch, arrays: tuple[Array, ...], targets: Targets, mask: Array | None
    ) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """Cosines of all pairs, and softmax cross-entropy on the diagonal."""
        ops = batch.ops
        (q, q_norm), (k, k_norm) = (_unit(ops.xp, x) for x in arrays)
        temperature = fitting(self.temperature, q.dtype)
        logits = (q @ k.T) / temperature
        if mask is not None:
            others = mask[None, :] | (ops.xp.arange(len(mask))[:, None] == ops.xp.arange(len(mask))[None, :])
            logits = ops.xp.where(others, logits, logits.dtype.type(-float("inf")))
        slope = ops.xp.empty_like(logits)
        arguments = target_arguments(ops, targets, logits.shape[1], None, None)
        options: dict[str, Any] = {"rows": True, "values": True, "total": False, "out": [slope]}
        values: Any = ops.run(softmax_cross_entropy, [logits], arguments, None, 1.0, **options)[0]

        def backprop(d_values: Array) -> tuple[Array, ...]:
            d_cosine = slope * (d_values[:, None] / temperature)
            return _unit_backprop(q, q_norm, d_cosine @ k), _unit_backprop(k, k_norm, d_cosine.T @ q)

        return values.ravel(), backprop


def _unit(xp: Any, x: Array) -> tuple[Array, Array]:
    """Rows of length 1, and their former lengths; scaled by the largest item first, so that no square overflows.

    Zeros stay zeros, and so does their gradient, since their length counts as infinite.
    """
    largest = xp.max(abs(x), axis=1, keepdims=True)
    largest = xp.where(largest == 0, math.inf, largest)
    scaled = x / largest
    norm = xp.maximum(xp.sqrt(xp.sum(scaled * scaled, axis=1, keepdims=True)), 1)
    return scaled / norm, norm * largest


def _unit_backprop(unit: Array, norm: Array, d_unit: Array) -> Array:
    """d (x / |x|) = (I - u u^T) / |x|."""
    return (d_unit - unit * (unit * d_unit).sum(axis=1, keepdims=True)) / norm
