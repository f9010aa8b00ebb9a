"""Calculators whose arrays are arranged as Kauldron's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import losses
from ..checks import describe, fail
from ..pipeline.evaluation import TargetBatch
from ..pipeline.guesses import Batch

__all__ = ["LossValues", "SoftmaxCrossEntropy", "SoftmaxCrossEntropyWithIntLabels"]


class LossValues(losses.Value):
    """Values that a loss has computed."""

    def read_guesses(self, guesses: Any) -> Batch:
        """As other arrays. Errors speak of the state that the caller makes of them."""
        return Batch.read("AllReduceMean", guesses, self.inputs, self.layout)


class SoftmaxCrossEntropy(losses.CrossEntropy):
    """Cross-entropy with the classes on the last axis, of labels that are probabilities."""

    layout = -1

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Probabilities as those of a matrix of rows."""
        shape = _shape_beside(batch, truths)
        if shape is None:
            return super().read_truths(batch, truths, check)
        if shape != batch.shape:
            expected = f"of shape {batch.shape} (that of logits)"
            got = f"{describe(truths)}; for ids use SoftmaxCrossEntropyWithIntLabels"
            raise fail(batch.name, "labels", expected, got)
        rows = batch.arrays[0].shape
        return super().read_truths(replace(batch, shape=rows), truths.reshape(rows), check)


class SoftmaxCrossEntropyWithIntLabels(losses.CrossEntropy):
    """Cross-entropy with the classes on the last axis, of ids. These may have a last axis of length 1."""

    layout = -1

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Ids as those of a matrix of rows."""
        shape = _shape_beside(batch, truths)
        if shape is None:
            return super().read_truths(batch, truths, check)
        if shape not in (batch.values_shape, (*batch.values_shape, 1)):
            expected = f"of shape {(*batch.values_shape, 1)} (one id for each row of logits)"
            got = f"{describe(truths)}; for probabilities use SoftmaxCrossEntropy"
            raise fail(batch.name, "labels", expected, got)
        return super().read_truths(replace(batch, shape=batch.arrays[0].shape), truths.reshape(-1), check)


def _shape_beside(batch: Batch, truths: Any) -> tuple[int, ...] | None:
    """The shape of labels beside an array of logits; None for sequences, and for labels that are no array."""
    shape = getattr(truths, "shape", None)
    return None if batch.lengths is not None or shape is None else tuple(shape)
