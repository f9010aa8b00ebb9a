"""What the forms of calculators for PyTorch and JAX share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .base import ReducedLoss
from .terms import ContextLoss
from .trees import tree_map

__all__ = ["check_differentiable", "filled", "leaves_of"]


def check_differentiable(loss: Any) -> None:
    """Raise unless the gradients of a calculator, or of the terms of a sum, are those of its loss in its guesses.

    What differentiates the model itself goes on from there by the chain rule, and would do so with anything.
    """
    if isinstance(loss, ContextLoss):
        for term in loss._all():
            check_differentiable(term.loss)
        return
    name = type(loss).__name__
    if not isinstance(loss, ReducedLoss):
        raise TypeError(
            f"Cannot differentiate {name}: expected a calculator whose gradient is that of its loss, "
            "which is so for all but Thinc's own."
        )
    inner = getattr(loss, "inner", loss)
    if inner.unscaled:
        raise ValueError(f"Cannot differentiate {name}: expected one that returns its loss, got per_token=True.")
    if getattr(inner, "wrt", None) == "logits":
        raise ValueError(
            f"Cannot differentiate {name}: expected the gradient with respect to the guesses themselves, "
            "got wrt='logits', which is behind a softmax that is differentiated once more."
        )


def leaves_of(tree: Any) -> list[Any]:
    """The arrays of guesses, gradients or values, in order; those of a Ragged are its data."""
    found: list[Any] = []
    tree_map(lambda x: found.append(x) or x, tree)  # type: ignore[func-returns-value]
    return found


def filled(tree: Any, leaves: Iterable[Any]) -> Any:
    """Other arrays in the same arrangement."""
    rest = iter(leaves)
    return tree_map(lambda x: next(rest), tree)
