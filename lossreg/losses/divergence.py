"""Distances between distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import Interval
from ..config.resolve import register
from ..pipeline.kinds import ElementwiseLoss

__all__ = ["KLDivergence"]


@register("KLDivergence.v1", alias="kl")
class KLDivergence(ElementwiseLoss):
    """Pointwise terms of the Kullback-Leibler divergence of the guess from the truth.

        value = t (log t - x),     slope = -t       with 0 log 0 = 0
        log_target:
        value = e^t (t - x),       slope = -e^t     with e^-inf (-inf - x) = 0

    A sum over a row is its divergence. "mean" divides by all elements; "batch_mean" by N gives the mean divergence.
    A guess of -inf where the truth is 0 adds 0.
    Shapes: guesses, truths, grad (...), all equal. Guesses are log-probabilities, truths probabilities in [0, 1], or
    their logarithms with log_target.
    Gradient with respect to: guesses (log-probabilities).
    Source: Kullback and Leibler (1951), doi:10.1214/aoms/1177729694; same numbers as torch.nn.KLDivLoss.

    log_target: truths are log-probabilities.
    """

    log_target: bool = False

    @property
    def truth_domain(self) -> Interval:  # type: ignore[override]
        """Probabilities, or any logarithms."""
        return Interval(-np.inf, np.inf) if self.log_target else Interval(0.0, 1.0)

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, log_target: Any) -> tuple[Any, ...]:
        """Value and slope."""
        prob, log_prob = (xp.exp(truth), truth) if log_target else (truth, xp.log(truth))
        nothing = xp.where(xp.isnan(guess), guess, 0.0)  # a NaN stays
        difference = log_prob - guess
        # e^t may be infinite where both logarithms are the same
        return xp.where((prob == 0.0) | (difference == 0.0), nothing, prob * difference), -prob
