"""Losses of a residual, guess - truth."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt

from ..checks import Interval
from ..config.resolve import register
from ..pipeline.kinds import ElementwiseLoss

__all__ = ["Huber", "MeanAbsoluteError", "MeanSquaredError", "PoissonNLL", "Quantile", "SmoothL1"]


@register("MeanSquaredError.v1", alias="mse")
class MeanSquaredError(ElementwiseLoss):
    """Squared residual.

        psi(r)  = r**2
        psi'(r) = 2 r

    Shapes: guesses, truths, grad (...), all equal.   Gradient with respect to: guesses.
    Source: Gauss (1809); same numbers as torch.nn.MSELoss.
    """

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any) -> tuple[Any, ...]:
        """psi and psi'."""
        residual = guess - truth
        return residual * residual, 2.0 * residual


@register("Huber.v1", alias="huber")
class Huber(ElementwiseLoss):
    """Quadratic near zero, linear in the tails.

        psi(r)  = r**2 / 2                    for |r| <= delta
                  delta * (|r| - delta / 2)   otherwise
        psi'(r) = clip(r, -delta, delta)

    With s = psi'(r) both branches read psi = s * (r - s / 2).
    Shapes: guesses, truths, grad (...), all equal.   Gradient with respect to: guesses.
    Kink: none; psi' is continuous.
    Source: Huber (1964), doi:10.1214/aoms/1177703732; same numbers as torch.nn.HuberLoss.

    delta: where the tails begin, in units of the guesses.
    """

    delta: Annotated[float, Gt(0)] = 1.0

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, delta: Any) -> tuple[Any, ...]:
        """psi and psi'."""
        residual = guess - truth
        slope = xp.minimum(xp.maximum(residual, -delta), delta)
        return slope * (residual - 0.5 * slope), slope


@register("MeanAbsoluteError.v1", alias="l1")
class MeanAbsoluteError(ElementwiseLoss):
    """Absolute residual.

        psi(r)  = |r|
        psi'(r) = sign(r)

    Shapes: guesses, truths, grad (...), all equal.   Gradient with respect to: guesses.
    Kink: at r = 0 the derivative is 0.
    Source: Boscovich (1757); same numbers as torch.nn.L1Loss.
    """

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any) -> tuple[Any, ...]:
        """psi and psi'."""
        residual = guess - truth
        return abs(residual), xp.sign(residual)


@register("SmoothL1.v1", alias="smoothl1")
class SmoothL1(ElementwiseLoss):
    """Quadratic near zero, with slope 1 in the tails.

        psi(r)  = r**2 / (2 beta)     for |r| < beta
                  |r| - beta / 2      otherwise
        psi'(r) = clip(r / beta, -1, 1)

    This is Huber with delta = beta, divided by beta. With beta = 0 it is the absolute residual.
    Shapes: guesses, truths, grad (...), all equal.   Gradient with respect to: guesses.
    Kink: none, but for beta = 0 at r = 0, where the derivative is 0.
    Source: Girshick (2015), arXiv:1504.08083; same numbers as torch.nn.SmoothL1Loss.

    beta: where the tails begin, in units of the guesses.
    """

    beta: Annotated[float, Ge(0)] = 1.0

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, beta: Any) -> tuple[Any, ...]:
        """psi and psi'."""
        residual = guess - truth
        size = abs(residual)
        inside = size < beta
        near = residual / beta  # read inside alone, where beta > 0
        value = xp.where(inside, 0.5 * residual * near, size - 0.5 * beta)
        return value, xp.where(inside, near, xp.sign(residual))


E_40 = math.exp(40.0)
"""Taken out of rates that would be infinite in float32."""


@register("PoissonNLL.v1", alias="poissonloss")
class PoissonNLL(ElementwiseLoss):
    """Negative log-likelihood of counts under a Poisson distribution, without the terms that the guess does not touch.

        log_input:      value = e^x - t x,            slope = e^x - t
        otherwise:      value = x - t log(x + eps),   slope = 1 - t / (x + eps)
        full adds       t log t - t + log(2 pi t) / 2   where t > 1   (Stirling's approximation of log t!)

    Shapes: guesses, truths, grad (...), all equal. Truths of at least 0; so are guesses, unless log_input.
    Gradient with respect to: guesses (the logarithm of the rate, or the rate).
    Source: same numbers as torch.nn.PoissonNLLLoss.

    log_input: guesses are logarithms of rates.   full: add the approximation of log t!.   eps: added to the rate, in
    units of the guesses.
    """

    log_input: bool = True
    full: bool = False
    eps: Annotated[float, Gt(0)] = 1e-8

    truth_domain = Interval(0.0, np.inf)

    @property
    def guess_domain(self) -> Interval | None:  # type: ignore[override]
        """Rates are not negative."""
        return None if self.log_input else Interval(0.0, np.inf)

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, log_input: Any, full: Any, eps: Any) -> tuple[Any, ...]:
        """Value and slope."""
        log_rate = guess if log_input else xp.log(guess + eps)
        # what a count is multiplied by; t log t - t belongs to it: taken apart both could be infinite
        per_count = log_rate
        if full:
            large = xp.maximum(truth, 1.0)
            per_count = xp.where(truth > 1.0, log_rate + (1.0 - xp.log(large)), log_rate)
        # a count of 0 is no term beside the logarithm -inf; beside an infinite rate it is NaN, as in PyTorch
        no_count = truth == 0.0 if log_input else (truth == 0.0) & ~xp.isinf(guess)
        counted = xp.where(no_count, 0.0, truth * per_count)
        if log_input:
            # Beyond e^80 a rate may be infinite in float32 where its difference to a count is not: e^40 is taken out of
            # both. The limit of the logarithm lets an infinite rate stay the larger one.
            is_large = guess > 80.0
            rate = xp.exp(guess - xp.where(is_large, 40.0, 0.0))
            large_count = truth / E_40
            large_value = E_40 * (rate - large_count * xp.minimum(per_count, 1e10))
            value = xp.where(is_large, large_value, rate - counted)
            slope = xp.where(is_large, E_40 * (rate - large_count), rate - truth)
        else:
            value = guess - counted
            slope = 1.0 - truth / (guess + eps)
        if full:
            value = value + xp.where(truth > 1.0, 0.9189385332046727 + 0.5 * xp.log(large), 0.0)
        return value, slope


@register("Quantile.v1", alias="quantile")
class Quantile(ElementwiseLoss):
    """Absolute residual, with one weight below the truth and another above: least at a quantile of the truths.

        psi(r)  = (1 - quantile) r    for r > 0
                  quantile |r|        otherwise
        psi'(r) = 1 - quantile        for r > 0
                  -quantile           otherwise

    With quantile = 0.5 it is half the absolute residual.
    Shapes: guesses, truths, grad (...), all equal.   Gradient with respect to: guesses.
    Kink: at r = 0 the derivative is -quantile.
    Source: Koenker and Bassett (1978), doi:10.2307/1913643; same numbers as sklearn.metrics.mean_pinball_loss.

    quantile: the share of truths that should lie below the guess.
    """

    quantile: Annotated[float, Gt(0), Lt(1)] = 0.5

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any, quantile: Any) -> tuple[Any, ...]:
        """psi and psi'."""
        residual = guess - truth
        below = xp.where(residual <= 0.0, -quantile, residual)  # NaN stays NaN
        slope = xp.where(residual > 0.0, 1.0 - quantile, below)
        return abs(slope * residual), slope
