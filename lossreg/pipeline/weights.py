"""Mask, present truths and weights -> one weight per item, and the divisor. Both are known before the formula runs.

Weights may be of any size, and formulas compute in float32. So products of weights are kept as an array times a power
of two, which is 1 unless the largest weight is far from 1; then the largest number of the array lies in [1, 2).
Multiplying by a power of two is exact, so the size of all weights together changes no digit of a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checks import Interval, check_domain, describe, fail
from ..ops import Array, Ops
from ..ops.base import is_half
from .evaluation import TargetBatch
from .guesses import Batch

__all__ = [
    "NormalizeBy",
    "Reduction",
    "Weights",
    "combine_weights",
    "item_array",
    "power_of_two_of",
    "times_power_of_two",
]

Reduction = Literal["mean", "sum", "none", "batch_mean", "weighted_mean", "sequence_mean"]
NormalizeBy = Literal["mask", "values"]

Factors = tuple[Array | None, ...]
"""Arrays that broadcast to the values and are multiplied; None for 1."""


NEAR_1 = 40
"""The largest weight is near 1 if it lies within this many powers of two: float32 holds it and much smaller ones."""


@dataclass(eq=False)
class Weights:
    """What one call weighs: values times `items` times 2**`exponent`, divided by `divisor` times 2**`divisor_exponent`.

    On a device numbers are 0-d arrays, exponents too; an exponent of 0 that is known without looking is an int.
    """

    items: Array | None
    """Broadcasts to the values; None: all 1."""
    divisor: Any
    """None: a sum."""
    scale: Any
    """What the gradient of the weighted total is multiplied by: 2**(exponent - divisor_exponent) / divisor, or 0."""
    exponent: Any = 0
    divisor_exponent: Any = 0

    def count(self, ops: Ops) -> Any:
        """What a mean divides by; None for a sum."""
        return None if self.divisor is None else times_power_of_two(ops, self.divisor, self.divisor_exponent)

    def total(self, ops: Ops, total: Any) -> Any:
        """The sum of the weighted values, of their sum without the power of two."""
        return times_power_of_two(ops, total, self.exponent)

    def loss(self, ops: Ops, total: Any) -> Any:
        """The loss, of the same sum. It is divided first: total and count may be too large for a number."""
        if self.divisor is None:
            return self.total(ops, total)
        return times_power_of_two(ops, ops.quotient(total, self.divisor), self.exponent - self.divisor_exponent)


def combine_weights(
    batch: Batch,
    reduction: Reduction,
    normalize_by: NormalizeBy,
    *,
    truths: TargetBatch,
    mask: Array | None = None,
    sample_weight: Array | None = None,
) -> Weights:
    """Combine what the caller and the truths say about items.

    The mask and present truths select; `sample_weight` multiplies the loss but not the divisor of a mean; what truths
    say about class weights is described with `Truths`. An item that is left out has no class: where it belongs to a
    divisor, its class weighs 1, unless the weight is that of its place.
    """
    ops, shape = batch.ops, batch.values_shape
    valid, weight, exponent = truths.valid, truths.weight, truths.exponent
    nothing_given = mask is None and valid is None and sample_weight is None and weight is None
    if nothing_given and reduction != "sequence_mean":
        return _unweighted(batch, reduction, exponent)

    if valid is not None:
        valid = valid.reshape(shape)
    if weight is not None and weight.size == math.prod(shape):
        weight = weight.reshape(shape)

    # What multiplies a value.
    item_factors: Factors = (mask, valid, sample_weight, None if truths.in_formula else weight)

    # What a mean divides by: a sum of products of factors, times the power of two that belongs to class weights.
    divisor_weight = weight
    if reduction == "weighted_mean" and normalize_by == "values" and not truths.by_place:
        divisor_weight = _weight_of_the_known(batch, valid, weight, exponent)
    divisor_factors = _divisor_factors(reduction, normalize_by, truths, mask, valid, sample_weight, divisor_weight)
    divisor_exponent = 0
    if weight is not None and any(factor is divisor_weight for factor in divisor_factors):
        divisor_exponent = exponent

    if reduction == "sequence_mean":
        return _by_sequence(batch, normalize_by, item_factors, exponent, divisor_factors, divisor_exponent)
    items, item_shift = _product(ops, item_factors)
    items_exponent = item_shift + exponent
    if reduction in ("sum", "none"):
        return _weights(ops, items, items_exponent, None, 0)
    if reduction == "batch_mean":
        return _weights(ops, items, items_exponent, float(len(batch)), 0)

    # The same factors make the same product.
    divisors, divisor_shift = items, item_shift
    if not _same_factors(divisor_factors, item_factors):
        divisors, divisor_shift = _product(ops, divisor_factors)
    divisor = _sum(ops, divisors, math.prod(shape))
    return _weights(ops, items, items_exponent, divisor, divisor_exponent + divisor_shift)


def _divisor_factors(
    reduction: Reduction,
    normalize_by: NormalizeBy,
    truths: TargetBatch,
    mask: Array | None,
    valid: Array | None,
    sample_weight: Array | None,
    weight: Array | None,
) -> Factors:
    """The factors whose product a mean adds up to its divisor; none for a mean over everything."""
    by_mask = normalize_by == "mask"
    if reduction == "weighted_mean":
        if by_mask:
            return mask, valid, sample_weight, weight
        return None, None, sample_weight, weight
    if by_mask:
        return mask, valid, None, weight if truths.in_mean else None
    return ()


def _same_factors(one: Factors, other: Factors) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other))


def _unweighted(batch: Batch, reduction: Reduction, exponent: int) -> Weights:
    """The weights of a call in which nobody says anything about items."""
    divisor = None
    if reduction == "batch_mean":
        divisor = float(len(batch))
    elif reduction not in ("sum", "none"):
        divisor = float(math.prod(batch.values_shape))
    if exponent:
        return _weights(batch.ops, None, exponent, divisor, 0)
    if divisor is None:
        return Weights(None, None, 1.0)
    return Weights(None, divisor, 1.0 / divisor if divisor else 0.0)


def _weights(ops: Ops, items: Array | None, exponent: Any, divisor: Any, divisor_exponent: Any) -> Weights:
    """The weights with their scale."""
    scale = 1.0 if divisor is None else ops.quotient(1.0, divisor)
    scale = times_power_of_two(ops, scale, exponent - divisor_exponent)
    return Weights(items, divisor, scale, exponent, divisor_exponent)


def _weight_of_the_known(batch: Batch, valid: Array | None, weight: Array | None, exponent: int) -> Array | None:
    """Class weights over 2**exponent, and 1 in their place where an item is left out."""
    if weight is None or batch.mask is valid is None:
        return weight
    known, _ = _product(batch.ops, (batch.mask, valid))
    return batch.ops.xp.where(known, weight, times_power_of_two(batch.ops, 1.0, -exponent))


def _by_sequence(
    batch: Batch,
    normalize_by: NormalizeBy,
    item_factors: Factors,
    exponent: int,
    mean_factors: Factors,
    mean_exponent: int,
) -> Weights:
    """Each item divided by the count of its sequence, and all by the number of sequences that have one.

    Sequences are the parts of a list, and the entries of the first axis of other values.
    """
    ops, shape, lengths = batch.ops, batch.values_shape, batch.lengths
    inside = math.prod(shape[1:])
    owner = None if lengths is None else np.repeat(np.arange(len(lengths)), lengths)
    divisors, shift = _product(ops, mean_factors)
    if divisors is None:
        sizes = np.full(len(batch), float(inside)) if lengths is None else np.array(lengths, float) * inside
        sequences: Any = float(len(batch) if normalize_by == "values" else np.count_nonzero(sizes))
        counts = ops.asarray(sizes)
    else:
        rows = ops.xp.broadcast_to(divisors, shape).reshape(shape[0] if shape else 1, inside)
        counts = ops.xp.sum(rows, axis=1, dtype="float64")
        if owner is not None:
            items, counts = counts, ops.xp.zeros(len(batch))
            ops.xp.add.at(counts, ops.asarray(owner), items)
        # beside the largest weights a smaller one is 0, and 1 divided by it would be infinite
        counts = ops.xp.where(counts < np.finfo(np.float64).tiny, 0.0, counts)
        sequences = ops.scalar(ops.xp.sum(counts != 0, dtype="float64"))
    fraction = ops.quotient(1.0, counts)
    if owner is not None:
        fraction = fraction[ops.asarray(owner)]
    fraction = fraction.reshape((len(fraction), *(1 for _ in shape[1:]))[: len(shape)])
    items, items_exponent = _product(ops, (*item_factors, fraction))
    return _weights(ops, items, items_exponent + exponent - mean_exponent - shift, sequences, 0)


def power_of_two_of(largest: float) -> int:
    """The exponent of the largest power of two up to a number; 0 for 0."""
    return math.frexp(largest)[1] - 1 if largest > 0 else 0


def times_power_of_two(ops: Ops, x: Any, exponent: Any) -> Any:
    """x * 2**exponent: exact, but where the result is too small or too large for a number."""
    if isinstance(exponent, int):
        if exponent == 0:
            return x
        if isinstance(x, float):
            try:
                return math.ldexp(x, exponent)
            except OverflowError:
                return math.copysign(math.inf, x)
    if not hasattr(x, "dtype"):
        x = ops.asarray(x, dtype="float64")
    return ops.xp.ldexp(x, exponent)


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
    if is_half(value.dtype):  # a power of two less, it could vanish
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
        check_domain(batch.ops, batch.name, what, value, Interval(0, upper), None, batch.describe_index)
        if value.size and value.max() == math.inf:
            raise fail(batch.name, what, "to be finite", "inf")
    return value


def _product(ops: Ops, factors: Factors) -> tuple[Array | None, Any]:
    """The product of factors as (array, exponent): it is array * 2**exponent. Bools stay bools, with the exponent 0.

    An item that one factor leaves out has no say in the powers of two of the others.
    """
    arrays: list[Any] = [x for x in factors if x is not None]
    if len(arrays) == 1 and arrays[0].dtype.kind == "b":  # a mask alone
        return arrays[0], 0
    xp = ops.xp
    product: Any = None
    exponent: Any = 0
    for factor in arrays:
        if product is None:
            product = factor
        elif product.dtype.kind == factor.dtype.kind == "b":
            product = product & factor
        elif product.dtype.kind == "b":
            product = xp.where(product, factor, 0.0)
        elif factor.dtype.kind == "b":
            product = xp.where(factor, product, 0.0)
        else:
            wide = xp.where(product != 0, factor, 0.0).astype(np.float64, copy=False)
            wide, shift = _normalized(ops, wide)
            product = product.astype(np.float64, copy=False) * wide
            exponent = exponent + shift
        product, shift = _normalized(ops, product)
        exponent = exponent + shift
    if isinstance(product, np.generic):  # what NumPy makes of arrays without axes
        product = np.asarray(product)
    return product, exponent


def _normalized(ops: Ops, array: Array) -> tuple[Array, Any]:
    """(array / 2**exponent, exponent), so that the largest number is near 1. Bools and zeros stay."""
    if array.dtype.kind == "b" or not array.size:
        return array, 0
    largest = array.max()
    if not ops.on_device:
        exponent = power_of_two_of(float(largest))
        if abs(exponent) <= NEAR_1:
            return array, 0
        return array / math.ldexp(1.0, exponent), exponent
    wide = ops.xp.where(largest > 0, largest, 1.0).astype(np.float64)
    mantissa, exponents = ops.xp.frexp(wide)
    # the mantissa lies in [0.5, 1), so this is the power of two; it is a number also where twice of it is not
    return array / (wide / (2.0 * mantissa)), exponents - 1


def _sum(ops: Ops, product: Array | None, size: int) -> Any:
    """Sum of a product over all values, in float64; a broadcast axis counts as often as it repeats."""
    if product is None:
        return float(size)
    total = ops.xp.sum(product, dtype="float64")
    return ops.scalar(total if product.size == size else total * (size / product.size if product.size else 0.0))
