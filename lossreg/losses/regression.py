"""Losses of a residual, guess - truth."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt

from ..base import ElementwiseLoss
from ..config import register

__all__ = ["Huber", "MeanSquaredError"]


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
