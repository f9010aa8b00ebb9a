"""What each calculator should return, in float64 and without a line of lossreg: values, weights, divisors, gradients.

Masks, weights and reductions are those of docs/design.md:

- a mask of 0 and a missing truth delete the item; fractions of a mask weigh it and count as such in the divisor;
- sample weights multiply a value and are in the divisor of "weighted_mean" alone;
- class weights of labels are in the divisors of "mean", "weighted_mean" and "sequence_mean", and 1 where the label is
  not known, since the mask or the truth says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .parts import Parts
from .reference_elements import ELEMENTS
from .reference_rows import ROWS, Labels
from .reference_vectors import VECTORS

__all__ = ["REFERENCES", "Info", "Labels", "Problem", "Result", "evaluate"]

REFERENCES = {**ELEMENTS, **ROWS, **VECTORS}


@dataclass
class Info:
    """What a reference may know beside guesses, truths and options."""

    values_shape: tuple[int, ...]
    batch: int
    """What "batch_mean" divides by: sequences, or items of the first axis."""
    kept: Any
    """False where the mask deletes an item."""
    tiny: float
    most: float
    """The smallest normal and the largest number of the guesses' dtype."""
    eps: float
    """The precision in which lossreg computes: a kink this near may lie on either side."""


@dataclass
class Problem:
    """One call in plain numbers. Arrays are float64; what a mask or a missing truth deletes holds harmless numbers."""

    name: str
    options: dict[str, Any]
    guesses: tuple[np.ndarray, ...]
    truths: Any
    values_shape: tuple[int, ...]
    mask: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    lengths: tuple[int, ...] | None = None
    tiny: float = 0.0
    most: float = np.inf
    eps: float = 2.0**-52
    unit: bool = False
    """Guesses are probabilities."""
    tags: set[str] = field(default_factory=set)

    @property
    def batch(self) -> int:
        if self.lengths is not None:
            return len(self.lengths)
        if self.name == "CTC.v1":
            return int(np.prod(self.values_shape))
        return self.values_shape[0] if self.values_shape else 1

    @property
    def info(self) -> Info:
        kept = np.ones(self.values_shape, bool)
        if self.mask is not None:
            kept = np.broadcast_to(self.mask != 0, self.values_shape)
        return Info(self.values_shape, self.batch, kept, self.tiny, self.most, self.eps)


@dataclass
class Result:
    """What the methods of a calculator should return."""

    values: np.ndarray
    """Times their weights."""
    total: float
    count: float | None
    loss: float
    grads: tuple[np.ndarray, ...]
    total_grads: tuple[np.ndarray, ...]
    """Of the total, before it is divided."""
    parts: Parts
    weight: np.ndarray
    """Of each item in the total."""
    scale: float
    """What the total is multiplied by: 1 / count."""


def evaluate(problem: Problem) -> Result:
    """The reference of one call."""
    with np.errstate(all="ignore"):
        parts = unreduced(problem)
        weight, count = weigh(problem, parts)
        values = np.where(weight == 0, 0.0, weight * parts.values.reshape(problem.values_shape))
        total = float(values.sum())
        scale = 1.0 if count is None else (1 / count if count else 0.0)
        return Result(
            values,
            total,
            count,
            total if count is None else (total / count if count else 0.0),
            parts.backward((weight * scale).reshape(parts.values.shape)),
            parts.backward(weight.reshape(parts.values.shape)),
            parts,
            weight,
            scale,
        )


def unreduced(problem: Problem) -> Parts:
    """The values of a problem; those of rows see matrices."""
    guesses, function = problem.guesses, REFERENCES[problem.name]
    if problem.name not in ROWS or len(guesses) > 1:
        return function(guesses, problem.truths, problem.options, problem.info)
    shape = guesses[0].shape
    rows = guesses[0].reshape(int(np.prod(shape[:-1])), shape[-1])
    truths = problem.truths
    if truths.dense is not None and truths.dense.shape != rows.shape:
        truths = replace(truths, dense=truths.dense.reshape(rows.shape))
    parts = function((rows,), truths, problem.options, problem.info)
    backward, size = parts.backward, parts.backward_size
    parts.backward = lambda weight: (backward(weight)[0].reshape(shape),)
    parts.backward_size = lambda weight: (size(weight)[0].reshape(shape),)
    return parts


def weigh(problem: Problem, parts: Parts) -> tuple[np.ndarray, float | None]:
    """(weight of each item, divisor or None)."""
    shape, o = problem.values_shape, problem.options
    reduction, normalize_by = o.get("reduction", default_reduction(problem.name)), o.get("normalize_by", "mask")
    if o.get("normalize_by_sequence") and reduction == "mean":
        reduction = "batch_mean"

    def full(x: Any) -> np.ndarray:
        if x is None:
            return np.ones(shape)
        x = np.asarray(x, float)
        return x.reshape(shape) if x.size == np.prod(shape) else np.broadcast_to(x, shape)

    selected = full(problem.mask) * full(parts.present)
    class_weight = np.where(selected == 0, 1.0, full(parts.divisor_weight))
    loss_weight = full(parts.loss_weight)
    if problem.name == "MultiMargin.v1":  # it belongs to the label, which is not known there
        loss_weight = np.where(selected == 0, 1.0, loss_weight)
    own = full(problem.sample_weight) * loss_weight
    weight = selected * own
    if reduction in ("sum", "none"):
        return weight, None
    if reduction == "batch_mean":
        return weight, float(problem.batch)
    if reduction == "mean":
        counted = np.ones(shape) if normalize_by == "values" else selected * class_weight
        return weight, float(counted.sum())
    if reduction == "weighted_mean":
        counted = own * class_weight * (1.0 if normalize_by == "values" else selected)
        return weight, float(counted.sum())
    return sequence_mean(problem, weight, np.ones(shape) if normalize_by == "values" else selected * class_weight)


def sequence_mean(problem: Problem, weight: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean over sequences of their means."""
    sequences = problem.lengths
    if sequences is None:
        sequences = (1,) * problem.batch
    items = (sum(sequences), -1) if weight.size else (sum(sequences), 0)
    weight_rows, counted_rows = weight.reshape(items), counted.reshape(items)
    start, number, parts = 0, 0, []
    for n in sequences:
        inside = float(counted_rows[start : start + n].sum())
        parts.append(weight_rows[start : start + n] * (1 / inside if inside else 0.0))
        number += inside != 0
        start += n
    if problem.options.get("normalize_by") == "values":
        number = len(sequences)
    joined = np.concatenate(parts) if parts else weight_rows
    return joined.reshape(problem.values_shape), float(number)


def default_reduction(name: str) -> str:
    """Two calculators are measures, which reduce nothing."""
    return "none" if name in ("CosineSimilarity.v1", "PairwiseDistance.v1") else "mean"
