"""Losses that count hard items for more than easy ones."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le

from ..checks import Interval
from ..config.resolve import register
from ..pipeline.kinds import ElementwiseLoss

__all__ = ["SigmoidFocal"]


@register("SigmoidFocal.v1", alias="focal")
class SigmoidFocal(ElementwiseLoss):
    """Cross-entropy of a sigmoid, computed from its logits, times a power of the probability of what is not true.

        value = w q**gamma c,   c = (1 - t) softplus(x) + t softplus(-x),   q = (1 - t) p + t (1 - p),   p = sigmoid(x)
        slope = w q**gamma [p - t + gamma (1 - 2 t) p (1 - p) c / q]
        w     = alpha t + (1 - alpha) (1 - t), or 1 without alpha

    With s = e^-|x|, and a = 1 - t for x >= 0, a = t and the other sign of the slope for x < 0, this is

        q = (a + (1 - a) s) / (1 + s),   c = log1p(s) + a |x|
        slope = w q**gamma / (1 + s) [a - (1 - a) s + gamma (2 a - 1) c s / (a + (1 - a) s)]

    in which nothing overflows, nothing needs an epsilon, and q never comes from 1 - q. Where q is too small for a
    number, so are the factors that its power meets. For truths between 0 and 1 the least value is not at p = t.
    Shapes: guesses, truths, grad (...), all equal. Truths in [0, 1].
    Gradient with respect to: guesses (logits).
    Kink: none.
    Source: Lin et al. (2017), arXiv:1708.02002; same numbers as optax.losses.sigmoid_focal_loss, and as
    torchvision.ops.sigmoid_focal_loss, where no alpha is -1. gamma = 0 without alpha is BinaryCrossEntropyWithLogits.

    alpha: share of the truths 1 in the weight w.   gamma: power of q: how much less items count that are nearly right.
    """

    alpha: Annotated[float, Ge(0), Le(1)] | None = None
    gamma: Annotated[float, Ge(0)] = 2.0

    truth_domain = Interval(0.0, 1.0)

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, alpha: Any, gamma: Any) -> tuple[Any, ...]:
        """Value and slope."""
        size = abs(guess)
        small = xp.exp(-size)
        far = 1.0 / (1.0 + small)  # sigmoid(|x|)
        right = guess >= 0.0
        wrong = xp.where(right, 1.0 - truth, truth)
        rest = (1.0 - wrong) * small
        both = wrong + rest
        q = both * far
        entropy = xp.log1p(small) + xp.where(wrong == 0.0, 0.0, wrong * size)  # no 0 * inf
        factor = xp.exp(gamma * xp.log(xp.where(q == 0.0, 1.0, q)))
        if alpha is not None:
            factor = factor * (alpha * truth + (1.0 - alpha) * (1.0 - truth))
        value = xp.where(factor == 0.0, 0.0, factor * entropy)
        turn = xp.where(small == 0.0, 0.0, small / both * entropy)
        slope = far * factor * (wrong - rest + gamma * (2.0 * wrong - 1.0) * turn)
        return value, xp.where(right, slope, -slope)
