"""What lets `Term` and `Sequence` use a loss that has `get_grad` and `get_loss` alone."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from ..arrays.trees import tree_map
from ..checks import describe, fail
from ..labels.labels import concatenated
from ..ops import Array
from ..states.averages import LossState
from .evaluation import Call, Evaluation, Needs, TargetBatch
from .guesses import Batch
from .loss import Loss, gradient_and_loss
from .reduced import ReducedLoss
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

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """There is no pipeline."""
        raise self._without_values()

    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """There is no pipeline."""
        raise self._without_values()

    def values_like(self, guesses: Any) -> Any:
        """There is no pipeline."""
        raise self._without_values()

    def check_shapes(self, call: Call) -> None:
        """There is no pipeline, and so nothing is known about shapes."""

    def _without_values(self) -> ValueError:
        expected = "of a loss that has some, such as an ElementwiseLoss"
        return fail(self._name, "values", expected, "a loss of get_grad and get_loss alone")

    @property
    def _name(self) -> str:
        return type(self.loss).__name__

    @property
    def returns_values(self) -> bool:
        """There are none."""
        return False

    def evaluate(self, call: Call, needs: Needs) -> Evaluation:
        """What the methods of the loss give; a state counts calls."""
        self._check_arguments(call)
        grad = loss = None
        if needs.grad and needs.total:
            grad, loss = gradient_and_loss(self.loss, call.guesses, call.truths)
        elif needs.grad:
            grad = self.loss.get_grad(call.guesses, call.truths)
        else:
            loss = self.loss.get_loss(call.guesses, call.truths)
        if needs.grad and grad is None:
            raise TypeError(f"Cannot calculate {self._name}: expected get_grad to return the gradient, got None.")
        if needs.grad and call.output_grad != 1.0:
            grad = tree_map(lambda x: x * call.output_grad, grad)
        return Evaluation(LossState(loss, 1.0, parent=self), loss, grad)

    def _check_arguments(self, call: Call) -> None:
        """Raise for missing truths, and for what only the pipeline takes."""
        if call.truths is ...:
            raise fail(self._name, "truths", "beside guesses", "none")
        for what in ("mask", "sample_weight", "out"):
            value = getattr(call, what)
            if value is not None:
                expected = "to be None for a loss of get_grad and get_loss alone"
                raise fail(self._name, what, expected, describe(value))


class PlainItems(PlainCalculator):
    """A loss of the items of all sequences, one behind the other."""

    def evaluate(self, call: Call, needs: Needs) -> Evaluation:
        """As the loss gives it for one array of all items."""
        self._check_arguments(call)
        batch = Batch.read(self._name, call.guesses, self.inputs, "elements")
        truths = call.truths
        if batch.lengths is not None:
            truths = self._joined(batch, truths)
        evaluation = super().evaluate(replace(call, guesses=batch.arrays[0], truths=truths), needs)
        if evaluation.grads is not None:
            evaluation.grads = batch.split(evaluation.grads)
        return evaluation

    def _joined(self, batch: Batch, truths: Any) -> Any:
        truths, is_flat = batch.unpack("truths", truths)
        if is_flat:
            return truths
        joined = concatenated(batch, truths)
        if joined is None:
            raise fail(self._name, "truths", "of one form in all sequences", describe(truths))
        return joined
