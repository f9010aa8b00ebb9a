"""Options that losses over classes share: the form of labels, and the weight of each class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge

from ..checks import fail
from ..config.options import Configurable, Problem
from ..ops import Array
from ..pipeline.guesses import Batch
from ..pipeline.weights import power_of_two_of
from .labels import label_problems

__all__ = ["ClassWeight", "LabelOptions", "NameOptions", "class_weights"]

ClassWeight = Sequence[Annotated[float, Ge(0)]] | None
"""One factor per class."""


class NameOptions(Configurable):
    """names: class names in the order of the columns; truths may then be names as well as ids."""

    names: Sequence[str] | None = None

    def check_options(self) -> Iterable[Problem]:
        """Duplicate names."""
        yield from label_problems(self.names, None, None)


class LabelOptions(Configurable):
    """What labels may look like.

    names: class names in the order of the columns; truths may then be names as well as ids.
    missing_value: a label (name or id) that means "not known"; None always does. Such rows give loss 0, gradient 0.
    neg_prefix: with "!", the label "!dog" says that any class but dog is right.
    """

    names: Sequence[str] | None = None
    missing_value: str | int | None = None
    neg_prefix: str | None = None

    def check_options(self) -> Iterable[Problem]:
        """Duplicate names, and names that read as negations."""
        yield from label_problems(self.names, self.neg_prefix, self.missing_value)


def class_weights(batch: Batch, weight: ClassWeight) -> tuple[Array | None, int]:
    """(class weights over 2**exponent as an array of the batch's backend, exponent); the largest lies in [1, 2).

    So formulas can compute with them in float32, however large or small all of them are.
    """
    if weight is None:
        return None, 0
    classes = batch.columns
    if len(weight) != classes:
        raise fail(batch.name, "class_weight", f"one for each class of guesses, {classes}", f"{len(weight)} values")
    array = np.asarray(weight, np.float64)
    exponent = power_of_two_of(float(array.max()))
    return batch.ops.asarray(array / math.ldexp(1.0, exponent)), exponent
