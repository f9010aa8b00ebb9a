"""Losses of independent yes-or-no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge

from ..arrays import Batch
from ..base import ElementwiseLoss, Truths
from ..checks import Interval, fail
from ..config import register
from ..ops import Ops

__all__ = ["BinaryCrossEntropyWithLogits"]


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

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, pos_weight: Any) -> tuple[Any, ...]:
        """Value and slope, both as non-negative parts for t = 0 and t = 1."""
        small = xp.exp(-abs(guess))
        log_part = xp.log1p(small)
        near, far = small / (1.0 + small), 1.0 / (1.0 + small)  # sigmoid(-|x|), sigmoid(|x|)
        positive = pos_weight * truth
        negative = 1.0 - truth
        # softplus(x) = log_part + max(x, 0): the max is selected, so that inf meets no factor 0
        above = xp.where(negative == 0.0, 0.0 * log_part, negative * (log_part + xp.maximum(guess, 0.0)))
        below = xp.where(positive == 0.0, 0.0 * log_part, positive * (log_part + xp.maximum(-guess, 0.0)))
        sigmoid = xp.where(guess >= 0.0, far, near)
        opposite = xp.where(guess >= 0.0, near, far)
        return above + below, negative * sigmoid - positive * opposite

    def formula_options(self, ops: Ops) -> tuple[Any, ...]:
        """pos_weight as an array, or 1."""
        return (1.0 if self.pos_weight is None else ops.asarray(self.pos_weight, dtype="float64"),)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """Truths, and the class weights of the last axis."""
        targets = super().read_truths(batch, truths, check).targets
        classes = batch.shape[-1] if batch.shape else 1
        for name, weights in (("pos_weight", self.pos_weight), ("class_weight", self.class_weight)):
            if weights is not None and len(weights) not in (1, classes):
                raise fail(batch.name, name, f"of {classes} (the last axis of guesses)", f"{len(weights)} values")
        weight = None if self.class_weight is None else batch.ops.asarray(self.class_weight, dtype="float64")
        return Truths(targets, weight=weight)
