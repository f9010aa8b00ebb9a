"""Losses of a guess alone, such as penalties that a model computes itself."""

from __future__ import annotations

from typing import Any

from ..config.resolve import register
from ..pipeline.kinds import ElementwiseLoss

__all__ = ["AbsoluteValue", "Value"]


@register("Value.v1", alias="value")
class Value(ElementwiseLoss):
    """The guess itself: a loss that the model has computed takes part in masks, weights and states.

        value = x
        slope = 1

    Shapes: guesses, grad (...), equal; truths None.   Gradient with respect to: guesses.
    Source: same numbers as Value of Kauldron (https://kauldron.readthedocs.io).
    """

    truth_inputs = ()

    @staticmethod
    def formula(xp: Any, guess: Any) -> tuple[Any, ...]:
        """The guess and 1."""
        return 1.0 * guess, 1.0  # the product is an array of its own: the gradient may be written over the guesses


@register("AbsoluteValue.v1", alias="abs")
class AbsoluteValue(ElementwiseLoss):
    """The size of the guess: an L1 penalty.

        value = |x|
        slope = sign(x)

    Shapes: guesses, grad (...), equal; truths None.   Gradient with respect to: guesses.
    Kink: at x = 0 the derivative is 0.
    Source: same numbers as AbsoluteValue of Kauldron (https://kauldron.readthedocs.io).
    """

    truth_inputs = ()

    @staticmethod
    def formula(xp: Any, guess: Any) -> tuple[Any, ...]:
        """|x| and its sign."""
        return abs(guess), xp.sign(guess)
