"""Calculators whose arrays are arranged as Kauldron's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import losses
from ..arrays import Batch
from ..base import Truths

__all__ = ["LossValues", "SoftmaxCrossEntropy"]


class LossValues(losses.Value):
    """Values that a loss has computed. Errors speak of them by this name."""


class SoftmaxCrossEntropy(losses.CrossEntropy):
    """Cross-entropy with the classes on the last axis. Labels may have an axis of length 1 in its place."""

    layout = -1

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """Labels and probabilities as those of a matrix of rows."""
        rows = batch.arrays[0].shape
        shape = getattr(truths, "shape", None)
        if batch.lengths is None and shape == batch.shape:
            return super().read_truths(replace(batch, shape=rows), truths.reshape(rows), check)
        if batch.lengths is None and shape in (batch.values_shape, (*batch.values_shape, 1)):
            return super().read_truths(replace(batch, shape=rows), truths.reshape(-1), check)
        return super().read_truths(batch, truths, check)
