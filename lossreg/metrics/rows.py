"""Logits and labels of any form as rows and targets, as losses read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import check_shape, describe, fail
from ..labels.labels import Labels
from ..labels.targets import Targets
from ..ops import Array, Ops, get_ops
from ..pipeline.guesses import Batch, real_array
from ..pipeline.weights import item_array

__all__ = ["Rows", "as_array", "match_last_axis", "read_batch", "read_numbers", "read_weight"]


@dataclass(eq=False)
class Rows:
    """Rows of logits (N, C), their labels, and the weight of each row (None: all 1)."""

    ops: Ops
    logits: Array
    targets: Targets
    weight: Array | None

    @classmethod
    def read(cls, reader: Labels, logits: Any, labels: Any, mask: Any) -> Rows:
        """Logits (..., C) or a list of sequences. Rows whose label is missing weigh nothing."""
        batch = read_batch(reader.name, logits, layout=-1)
        weight = read_weight(batch, mask)
        labels = match_last_axis(labels, batch.values_shape)
        targets = reader.read(batch, labels, not batch.ops.on_device)
        if targets.rows is not None:
            raise fail(reader.name, "truths", "to be labels", "rows of numbers")
        if weight is None:
            weight = targets.valid
        elif targets.valid is not None:
            weight = batch.ops.xp.where(targets.valid, weight, 0)
        return cls(batch.ops, batch.arrays[0], targets, weight)


def read_batch(name: str, logits: Any, layout: Any = "elements") -> Batch:
    """Logits as flat arrays; nested lists of numbers are an array, and a list of arrays is a batch of sequences."""
    if isinstance(logits, (list, tuple)) and not all(getattr(part, "ndim", 0) for part in logits):
        logits = as_array(name, "logits", logits)
    return Batch.read(name, logits, ("logits",), layout)


def read_weight(batch: Batch, mask: Any) -> Array | None:
    """A mask that broadcasts to the values, flat. The batch then knows the mask, for the checks of its labels."""
    if mask is None or batch.lengths == ():
        return None
    mask = match_last_axis(mask, batch.values_shape)
    mask = item_array(batch, "mask", mask, upper=np.inf, check=not batch.ops.on_device)
    weight = batch.ops.xp.broadcast_to(mask, batch.values_shape).reshape(-1)
    batch.mask = weight != 0
    return weight


def read_numbers(batch: Batch, labels: Any) -> Array:
    """Labels that are numbers, one for each logit."""
    if batch.lengths == ():
        return batch.arrays[0]
    array = match_last_axis(batch.real("labels", labels), batch.shape)
    check_shape(batch.name, "labels", array, batch.shape, "logits")
    return array


def match_last_axis(x: Any, shape: tuple[int, ...]) -> Any:
    """An array in another shape, if a last axis of 1 is the only difference; anything else as it is."""
    own = getattr(x, "shape", shape)
    if shape == (*own, 1):
        return x.reshape(shape)
    if own == (*shape, 1):
        return x.reshape(shape)
    return x


def as_array(name: str, what: str, x: Any) -> Any:
    """An array of real numbers as it is, and nested lists of numbers as one."""
    if isinstance(x, (int, float, list, tuple)):
        try:
            x = get_ops().asarray(x)
        except ValueError:
            raise fail(name, what, "to be an array", f"{describe(x)} of uneven parts") from None
    return real_array(name, what, x)
