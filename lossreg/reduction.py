"""Mask, present truths and weights -> one weight an item, and the divisor. Both are known before the formula runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .arrays import Batch
from .checks import Interval, check_domain, describe, fail
from .ops import Array

__all__ = ["NormalizeBy", "Reduction", "Weights", "item_array", "weigh"]

Reduction = Literal["mean", "sum", "none", "batch_mean", "weighted_mean", "sequence_mean"]
NormalizeBy = Literal["mask", "values"]


@dataclass(eq=False)
class Weights:
    """What one call weighs: `items` broadcasts to the values (None: all 1), `count` is the divisor (None: a sum)."""

    items: Array | None
    count: Any
    scale: Any
    """1 / count, or 0 when nothing was counted."""


def weigh(
    batch: Batch,
    reduction: Reduction,
    normalize_by: NormalizeBy,
    *,
    mask: Array | None,
    present: Array | None,
    sample_weight: Array | None,
    counted: Array | None,
) -> Weights:
    """Combine what the caller and the truths say about items.

    `mask` and `present` select, `sample_weight` multiplies the loss but not the divisor of a mean, and `counted`
    (the class weight of each item, which the formula applies itself) belongs to the divisor alone.
    """
    size = math.prod(batch.values_shape)
    count: Any
    if mask is present is sample_weight is counted is None and reduction != "sequence_mean":
        if reduction in ("sum", "none"):
            return Weights(None, None, 1.0)
        count = float(len(batch) if reduction == "batch_mean" else size)
        return Weights(None, count, 1.0 / count if count else 0.0)
    present, counted = (None if x is None else x.reshape(batch.values_shape) for x in (present, counted))
    known = _product(batch, (batch.kept, present))
    if counted is not None and known is not None:  # the class of an item that is left out is not known
        counted = batch.ops.xp.where(known, counted, 1.0)
    kept = _product(batch, (mask, present))
    if reduction == "sequence_mean":
        return _by_sequence(batch, normalize_by, kept, sample_weight, counted)
    items = _product(batch, (kept, sample_weight))
    if reduction in ("sum", "none"):
        count = None
    elif reduction == "batch_mean":
        count = float(len(batch))
    elif reduction == "mean":
        count = float(size) if normalize_by == "values" else _sum(batch, (kept, counted), size)
    else:
        count = _sum(batch, (sample_weight, counted, kept if normalize_by == "mask" else None), size)
    return Weights(items, count, 1.0 if count is None else batch.ops.quotient(1.0, count))


def _by_sequence(
    batch: Batch,
    normalize_by: NormalizeBy,
    kept: Array | None,
    sample_weight: Array | None,
    counted: Array | None,
) -> Weights:
    """Each item divided by the count of its sequence, and all by the number of sequences that have one.

    Sequences are the parts of a list, and the entries of the first axis of other values.
    """
    ops, shape, lengths = batch.ops, batch.values_shape, batch.lengths
    inside, divisor = math.prod(shape[1:]), _product(batch, (kept, counted))
    owner = None if lengths is None else np.repeat(np.arange(len(lengths)), lengths)
    if normalize_by == "values" or divisor is None:
        sizes = np.full(len(batch), float(inside)) if lengths is None else np.array(lengths, float) * inside
        count: Any = float(len(batch) if normalize_by == "values" else np.count_nonzero(sizes))
        counts = ops.asarray(sizes)
    else:
        rows = ops.xp.broadcast_to(divisor, shape).reshape(shape[0] if shape else 1, inside)
        counts = ops.xp.sum(rows, axis=1, dtype="float64")
        if owner is not None:
            items, counts = counts, ops.xp.zeros(len(batch))
            ops.xp.add.at(counts, ops.asarray(owner), items)
        count = ops.scalar(ops.xp.sum(counts != 0, dtype="float64"))
    share = ops.quotient(1.0, counts)
    if owner is not None:
        share = share[ops.asarray(owner)]
    share = share.reshape((len(share), *(1 for _ in shape[1:]))[: len(shape)])
    return Weights(_product(batch, (share, kept, sample_weight)), count, ops.quotient(1.0, count))


def item_array(batch: Batch, what: str, value: Any, *, upper: float, check: bool) -> Array:
    """A mask or weights as an array that broadcasts to the values, or an error.

    Shapes broadcast as in NumPy, with one exception: fewer axes than the values have, where both the first and the
    last axes would fit, is refused, since weights for rows would silently become weights for columns. Beside sequences
    the first axis is that of the items.
    """
    value = batch.join(what, value)
    if isinstance(value, np.ma.MaskedArray):
        raise fail(batch.name, what, "to be an array", "a masked array")
    if isinstance(value, (list, tuple, int, float, np.ndarray)) and not batch.ops.owns(value):
        try:
            value = batch.ops.asarray(value)
        except ValueError:
            raise fail(batch.name, what, "to be an array", f"{describe(value)} of uneven parts") from None
    if not batch.ops.owns(value):
        raise fail(batch.name, what, f"to be an array of {batch.ops.library} as the guesses are", describe(value))
    value = batch.ops.asarray(value)
    if value.dtype.name == "bfloat16":  # which NumPy's functions do not know
        value = value.astype(np.float32)
    if value.dtype.kind not in "fiub":
        raise fail(batch.name, what, "of numbers or bools", describe(value))
    if batch.lengths is not None and value.ndim:
        value = value.reshape(*value.shape, *(1 for _ in batch.values_shape[value.ndim :]))
    shape, ours = batch.values_shape, tuple(value.shape)
    fits = len(ours) <= len(shape) and all(a in (1, b) for a, b in zip(ours[::-1], shape[::-1]))
    if not fits:
        raise fail(batch.name, what, f"that broadcasts to the values' shape {shape}", f"shape {ours}")
    if 0 < len(ours) < len(shape) and value.size > 1 and ours == shape[: len(ours)]:
        row = (*ours, *(1 for _ in shape[len(ours) :]))
        raise fail(batch.name, what, f"with {len(shape)} axes, {row} for rows or {(1, *ours)} for columns", f"{ours}")
    if check and value.dtype.kind != "b":
        check_domain(batch.ops, batch.name, what, value, Interval(0, upper), None, batch.place)
        if value.size and value.max() == math.inf:
            raise fail(batch.name, what, "to be finite", "inf")
    return value


def _product(batch: Batch, factors: Iterable[Array | None]) -> Array | None:
    """Product of the factors that are there; bools stay bools."""
    product = None
    for factor in factors:
        if factor is None:
            continue
        if product is None:
            product = factor
        elif product.dtype.kind == factor.dtype.kind == "b":
            product = product & factor
        else:
            product = product * factor
    return product


def _sum(batch: Batch, factors: Iterable[Array | None], size: int) -> Any:
    """Sum of the factors' product over all values, in float64; a broadcast axis counts as often as it repeats."""
    product = _product(batch, factors)
    if product is None:
        return float(size)
    total = batch.ops.xp.sum(product, dtype="float64")
    return batch.ops.scalar(total if product.size == size else total * (size / product.size if product.size else 0.0))
