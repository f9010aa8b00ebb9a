"""Losses over exclusive classes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from ..checks import on_host
from ..config.options import Configurable, Problem, replaced
from ..config.resolve import register
from ..labels.labels import Labels
from ..labels.options import ClassWeight, LabelOptions, NameOptions, class_weights
from ..labels.targets import Targets
from ..ops import Array
from ..pipeline.evaluation import Needs, TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.kinds import RowLoss
from ..pipeline.reduced import ReducedLoss
from ..pipeline.weights import Weights
from .softmax import softmax_cross_entropy, target_arguments

__all__ = ["NLL", "CrossEntropy", "NonFiniteLossError"]


class TokenOptions(Configurable):
    """What training on tokens asks for.

    per_token: the loss is its state, with the sum as `total` and what it is divided by as `count`, and the gradient is
    that of the sum; so the batches of a step, or of several machines, can be divided by the count of all.
    check_finite: raise NonFiniteLossError, with the first rows, when loss or gradient of a kept row is NaN or infinite;
    a device is waited for.
    """

    per_token: bool = False
    check_finite: bool = False


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient is NaN or infinite."""


@register("CrossEntropy.v1", alias="ce")
class CrossEntropy(RowLoss, LabelOptions, TokenOptions):
    """Cross-entropy of a softmax, computed from its logits.

        label y:          value = (1-e) w_y nll_y + e/C sum_c w_c nll_c,   nll_c = log(sum_j exp x_j) - x_c
                          slope_c = (1-e) w_y (p_c - [c = y]) + e/C (sum_j w_j) p_c - e/C w_c
        candidate set S:  nll_S = -log(sum of p over S) in place of nll_y, the mean of w over S in place of w_y,
                          p restricted to S and normalised in place of [c = y]
        probabilities t:  value = sum_c w_c (t_c (1-e) + e/C) nll_c

    with p = softmax(x), e = label_smoothing and w = class_weight (or 1). For labels and sets a mean divides by the sum
    of w_y over the kept items, for probabilities by their number. The loss of a confident row is computed as
    log1p(sum of the others), without cancellation. Logits of -inf are classes that cannot be: with truth 0 they add 0.
    Shapes: guesses, grad (N, C), (C,) or (N, C, d1, ...); truths (N,), () or (N, d1, ...) ids or names, lists of
    names, ids, None, sets of them and negated names; or probabilities of the guesses' shape, in [0, 1].
    Gradient with respect to: guesses (logits).
    Errors: ValueError for ids outside [0, C) other than ignore_index and missing_value, unknown names, empty sets.
    Source: same numbers as torch.nn.CrossEntropyLoss; sets as in Jin and Ghahramani (2002), "Learning with multiple
    labels".

    class_weight: w.   ignore_index: an id that means "not known".   label_smoothing: e, the share of the truth that is
    spread evenly over all classes.   per_token, check_finite: see `TokenOptions`. A mask may have any shape with one
    number for each row.
    """

    class_weight: ClassWeight = None
    ignore_index: int = -100
    label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0

    flat_masks = True

    def check_options(self) -> Iterable[Problem]:
        """Those of labels; and a state is divided by something."""
        yield from super().check_options()
        if self.per_token and self.reduction in ("sum", "none"):
            yield "per_token", f"needs a reduction that divides, got {self.reduction!r}"

    @functools.cached_property
    def _unreduced(self) -> ReducedLoss:
        return replaced(self, reduction="none", per_token=False)  # type: ignore[no-any-return]

    @property
    def returns_state(self) -> bool:
        """As per_token says."""
        return self.per_token

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of truths."""
        name = type(self).__name__
        return Labels(name, self.names, self.missing_value, self.neg_prefix, self.ignore_index)

    @property
    def weight_in_formula(self) -> bool:
        """Whether a row has other terms than that of its label: with smoothing, one of each class and its weight."""
        return self.label_smoothing > 0

    def class_weights(self, batch: Batch) -> tuple[Array | None, int]:
        """(class weights over 2**exponent, exponent)."""
        return class_weights(batch, self.class_weight)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Targets, with smoothing and class weights applied to rows of probabilities."""
        targets = self.labels.read(batch, truths, check)
        weight, exponent = self.class_weights(batch)
        if targets.rows is None:
            row_weight = None if weight is None else targets.mean_weight(weight)
            in_formula = self.weight_in_formula
            return TargetBatch(targets, targets.valid, row_weight, in_formula, in_mean=True, exponent=exponent)
        rows = targets.rows
        if self.label_smoothing:
            rows = rows * (1.0 - self.label_smoothing) + self.label_smoothing / batch.columns
        if weight is not None:
            rows = rows * weight.astype(rows.dtype)
        targets = Targets(batch.ops, rows=rows, valid=targets.valid)
        return TargetBatch(targets, targets.valid, exponent=exponent)

    formula = staticmethod(softmax_cross_entropy)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """Targets, with smoothing as one coefficient for each class."""
        classes, e = batch.columns, self.label_smoothing
        if not e:
            row_weight = truths.weight if self.weight_in_formula else None
            return target_arguments(batch.ops, truths.targets, classes, row_weight, None)
        weight, _ = self.class_weights(batch)
        smoothing = (batch.ops.xp.ones(classes) if weight is None else weight) * (e / classes)
        target_weight: Any = 1 - e if truths.weight is None else truths.weight * (1 - e)
        return target_arguments(batch.ops, truths.targets, classes, target_weight, smoothing)

    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """As for all rows; values and gradient are looked at where that is asked for."""
        if not self.check_finite:
            return super().compute(batch, truths, weights, needs, out)
        values, total = super().compute(batch, truths, weights, replace(needs, values=True), out)
        check_finite(batch, {"loss": values, "gradient": None if out is None else out[0]})
        return values if needs.values else None, total


def check_finite(batch: Batch, results: dict[str, Array | None]) -> None:
    """Raise unless all are finite. They are 0 where a row has no weight."""
    for what, result in results.items():
        if result is None or not result.size:
            continue
        bad = np.flatnonzero(on_host(~batch.ops.xp.isfinite(result.reshape(len(result), -1)).all(axis=1)))
        if len(bad):
            rows = ", ".join(batch.describe_index(int(row)) for row in bad[:5])
            rows += f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            count = f"{len(bad)} of {len(result)} rows"
            raise NonFiniteLossError(f"The {what} of {batch.name} is not finite in {count}: {rows}.")


@register("NLL.v1", alias="nll")
class NLL(RowLoss, NameOptions):
    """Negative log-likelihood of labels, from log-probabilities.

        value = -w_y x_y
        slope_c = -w_y [c = y]

    A mean divides by the sum of w_y over the kept items.
    Shapes: guesses, grad (N, C), (C,) or (N, C, d1, ...); truths (N,), () or (N, d1, ...) ids, or names with `names`.
    Gradient with respect to: guesses (log-probabilities).
    Errors: ValueError for ids outside [0, C) other than ignore_index.
    Source: same numbers as torch.nn.NLLLoss.

    class_weight: w.   ignore_index: an id that means "not known".   names: class names in the order of the columns.
    """

    class_weight: ClassWeight = None
    ignore_index: int = -100

    @functools.cached_property
    def labels(self) -> Labels:
        """The reader of truths."""
        return Labels(type(self).__name__, self.names, None, None, self.ignore_index, sets=False)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Ids, and the class weight of each row."""
        targets = self.labels.read_ids(batch, truths, check)
        weight, exponent = class_weights(batch, self.class_weight)
        row_weight = None if weight is None else weight[targets.indices]
        return TargetBatch(targets.ids, targets.valid, row_weight, in_mean=True, exponent=exponent)

    @staticmethod
    def formula(xp: Any, x: Any, ids: Any) -> tuple[Any, ...]:
        """One number a row."""
        return -xp.pick(x, ids), xp.where(xp.columns(x) == ids, -1.0, 0.0)

    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """Ids."""
        return (truths.targets,)
