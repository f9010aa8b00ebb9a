"""What lets `Term` and `Sequence` use a loss that has `get_grad` and `get_loss` alone."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..arrays.trees import tree_map
from ..checks import describe, fail
from ..labels.labels import concatenated
from ..ops import Array
from ..states.averages import LossState
from .guesses import Batch
from .loss import Loss, gradient_and_loss
from .reduced import ReducedLoss, Truths, Wanted
from .weights import Weights

__all__ = ["PlainCalculator", "PlainItems"]


class PlainCalculator(ReducedLoss):
    """A loss without the pipeline: it knows no values, masks and weights, and each call counts as one.

    So a merged state computes to the mean of the losses of all calls, however many items each had.
    """

    loss: Loss = dataclasses.field(kw_only=False)

    @property
    def _unreduced(self) -> ReducedLoss:
        raise self._without_values()

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """There is no pipeline."""
        raise self._without_values()

    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """There is no pipeline."""
        raise self._without_values()

    def _values_like(self, guesses: Any) -> Any:
        raise self._without_values()

    def _check_shapes(self, guesses: Any, truths: Any, mask: Any, sample_weight: Any) -> None:
        """There is no pipeline, and so nothing is known about shapes."""

    def _without_values(self) -> ValueError:
        expected = "of a loss that has some, such as an ElementwiseLoss"
        return fail(self._name, "values", expected, "a loss of get_grad and get_loss alone")

    @property
    def _name(self) -> str:
        return type(self.loss).__name__

    def _wanted(self, grad: bool = False) -> Wanted:
        return Wanted(total=True, grad=grad)

    def _run(
        self, guesses: Any, truths: Any, mask: Any, sample_weight: Any, out: Any, wanted: Wanted, weight: Any = 1.0
    ) -> tuple[LossState, Any, Any]:
        """(state, loss, gradient), each if it is wanted; as `ReducedLoss._run`."""
        self._check_arguments(truths, mask, sample_weight, out)
        grad = loss = None
        if wanted.grad and wanted.total:
            grad, loss = gradient_and_loss(self.loss, guesses, truths)
        elif wanted.grad:
            grad = self.loss.get_grad(guesses, truths)
        else:
            loss = self.loss.get_loss(guesses, truths)
        if wanted.grad and grad is None:
            raise TypeError(f"Cannot calculate {self._name}: expected get_grad to return the gradient, got None.")
        if wanted.grad and weight != 1.0:
            grad = tree_map(lambda x: x * weight, grad)
        return LossState(loss, 1.0, parent=self), loss, grad

    def _check_arguments(self, truths: Any, mask: Any, sample_weight: Any, out: Any) -> None:
        """Raise for missing truths, and for what only the pipeline takes."""
        if truths is ...:
            raise fail(self._name, "truths", "beside guesses", "none")
        for what, value in (("mask", mask), ("sample_weight", sample_weight), ("out", out)):
            if value is not None:
                expected = "to be None for a loss of get_grad and get_loss alone"
                raise fail(self._name, what, expected, describe(value))


class PlainItems(PlainCalculator):
    """A loss of the items of all sequences, one behind the other."""

    def _run(
        self, guesses: Any, truths: Any, mask: Any, sample_weight: Any, out: Any, wanted: Wanted, weight: Any = 1.0
    ) -> tuple[LossState, Any, Any]:
        self._check_arguments(truths, mask, sample_weight, out)
        batch = Batch.read(self._name, guesses, self.inputs, "elements")
        if batch.lengths is not None:
            truths = self._joined(batch, truths)
        state, loss, grad = super()._run(batch.arrays[0], truths, mask, sample_weight, out, wanted, weight)
        return state, loss, None if grad is None else batch.split(grad)

    def _joined(self, batch: Batch, truths: Any) -> Any:
        truths, is_flat = batch.unpack("truths", truths)
        if is_flat:
            return truths
        joined = concatenated(batch, truths)
        if joined is None:
            raise fail(self._name, "truths", "of one form in all sequences", describe(truths))
        return joined
