"""What the forms of calculators for PyTorch and JAX share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..arrays.trees import tree_map
from ..checks import describe
from ..losses.thinc import CategoricalCrossentropy, CosineDistance, L2Distance
from ..terms import ContextLoss
from .loss import Loss
from .reduced import ReducedLoss

__all__ = ["check_differentiable", "filled", "leaves_of"]


def check_differentiable(loss: Any) -> None:
    """Raise unless the gradients of a calculator, or of the terms of a sum, are those of its loss in its guesses.

    What differentiates the model itself goes on from there by the chain rule, and would do so with anything.
    """
    if isinstance(loss, ContextLoss):
        for term in loss._all():
            check_differentiable(term.loss)
        return
    if not isinstance(loss, ReducedLoss):
        raise TypeError(f"Cannot differentiate {_what_to_write(loss)}.")
    name = type(loss).__name__
    inner = getattr(loss, "inner", loss)
    if inner.returns_state:
        raise ValueError(f"Cannot differentiate {name}: expected one that returns its loss, got per_token=True.")
    if getattr(inner, "wrt", None) == "logits":
        raise ValueError(
            f"Cannot differentiate {name}: expected the gradient with respect to the guesses themselves, "
            "got wrt='logits', which is behind a softmax that is differentiated once more."
        )


def _what_to_write(loss: Any) -> str:
    """What was expected in the place of something that is no calculator of this library, what came, what to write."""
    if isinstance(loss, type) and issubclass(loss, (Loss, ContextLoss)):
        return f"{loss.__name__}: expected a calculator, got the class {loss.__name__}; write {loss.__name__}()"
    if isinstance(loss, str):
        return f"{describe(loss)}: expected a calculator, got a name; write lossreg.loss({describe(loss)})"
    if isinstance(loss, (CategoricalCrossentropy, L2Distance, CosineDistance)):
        expected = "a calculator whose gradient is that of its loss, which is so for all but Thinc's own"
        return f"{type(loss).__name__}: expected {expected}"
    # A function of the k api.
    if hasattr(loss, "alias"):
        return f"{loss.alias}: expected a calculator, got a function; write lossreg.loss({loss.alias!r})"
    return _instead_of_loss(loss)


def _instead_of_loss(loss: Any) -> str:
    """The same for losses in other forms, and for what is none."""
    name = type(loss).__name__
    # Losses in the forms of other libraries have the same loss in the form of this one as an attribute.
    for attribute in ("term", "calculator"):
        if hasattr(type(loss), attribute):
            got = f"got a {type(loss).__module__}.{name}"
            return f"{name}: expected a calculator or a Term, {got}; write {name}(...).{attribute}"
    formula = f"write it as class {name}(lossreg.ElementwiseLoss) with a formula that returns (value, gradient)"
    if hasattr(type(loss), "get_values"):
        return f"{name}: expected a calculator, got a loss of get_values alone, which has no gradient; {formula}"
    if isinstance(loss, Loss):
        return f"{name}: expected a calculator with values, got one of get_grad and get_loss alone; {formula}"
    got = f"got {describe(loss)}; write one, such as lossreg.CrossEntropy()"
    return f"{name}: expected a calculator, a Term or a WeightedSum, {got}"


def leaves_of(tree: Any) -> list[Any]:
    """The arrays of guesses, gradients or values, in order; those of a Ragged are its data."""
    found: list[Any] = []
    tree_map(lambda x: found.append(x) or x, tree)  # type: ignore[func-returns-value]
    return found


def filled(tree: Any, leaves: Iterable[Any]) -> Any:
    """Other arrays in the same arrangement."""
    rest = iter(leaves)
    return tree_map(lambda x: next(rest), tree)
