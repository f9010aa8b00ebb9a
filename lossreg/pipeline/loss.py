"""`Loss`: the interface of every calculator, and all that a loss of somebody's own needs."""

from __future__ import annotations

from abc import ABC
from typing import Any

from ..checks import describe
from ..config.options import Configurable

__all__ = ["Loss", "gradient_and_loss"]


class Loss(Configurable, ABC):
    """A calculator of a loss and its gradient with respect to the guesses.

    `get_grad`, `get_loss` and both at once by calling the object. A subclass writes `get_grad` and `get_loss`, or
    `__call__`, and has the rest from here. It may have an `__init__` of its own, or options as annotated fields:

    >>> import numpy as np
    >>> import lossreg
    >>> class SquaredDistance(lossreg.Loss):
    ...     def __init__(self, scale: float = 1.0):
    ...         self.scale = scale
    ...
    ...     def get_grad(self, guesses, truths):
    ...         return 2.0 * self.scale * (guesses - truths)
    ...
    ...     def get_loss(self, guesses, truths):
    ...         return self.scale * float(((guesses - truths) ** 2).sum())
    >>> SquaredDistance(0.5)(np.array([3.0]), np.array([1.0]))
    (array([2.]), 2.0)
    """

    @classmethod
    def _check_class(cls) -> None:
        """Raise for a class that lacks a method: the ones here would call each other for ever."""
        written = [name for name in ("get_grad", "get_loss") if getattr(cls, name) is not getattr(Loss, name)]
        if cls.__call__ is Loss.__call__ and len(written) < 2:
            got = " and ".join(written) or "none of them"
            raise TypeError(f"Cannot make {cls.__name__}: expected get_grad and get_loss, or __call__, got {got}.")

    def __call__(self, guesses: Any, truths: Any, *more: Any, **named: Any) -> tuple[Any, Any]:
        """(gradient, loss). Whatever else `get_grad` and `get_loss` take may follow."""
        return self.get_grad(guesses, truths, *more, **named), self.get_loss(guesses, truths, *more, **named)

    def get_grad(self, guesses: Any, truths: Any, *more: Any, **named: Any) -> Any:
        """The gradient, arranged as the guesses are."""
        return gradient_and_loss(self, guesses, truths, *more, **named)[0]

    def get_loss(self, guesses: Any, truths: Any, *more: Any, **named: Any) -> Any:
        """The loss."""
        return gradient_and_loss(self, guesses, truths, *more, **named)[1]


def gradient_and_loss(loss: Loss, *arguments: Any, **named: Any) -> tuple[Any, Any]:
    """What a call returns. TypeError if it is no pair: a `__call__` of one's own may return anything."""
    result = loss(*arguments, **named)
    if isinstance(result, tuple) and len(result) == 2:
        return result
    expected = "expected __call__ to return (gradient, loss)"
    raise TypeError(f"Cannot calculate {type(loss).__name__}: {expected}, got {describe(result)}.")
