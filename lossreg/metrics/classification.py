"""Metrics of classification: how often a guess is right."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..arrays.dlpack import foreign_arrays
from ..checks import OneOf, check_domain, check_shape, describe, fail
from ..config.options import Problem
from ..config.resolve import register
from ..labels.labels import Labels
from ..labels.options import LabelOptions
from ..ops import get_ops
from ..pipeline.guesses import check_unmasked
from ..states.averages import AverageState
from .base import Key, Metric
from .rows import Rows, match_last_axis, read_batch, read_numbers, read_weight

__all__ = ["Accuracy", "BinaryAccuracy", "Precision1"]


@register("Accuracy.v1", to="metrics")
class Accuracy(Metric, LabelOptions):
    """The fraction of rows whose best class is the label.

        accuracy = sum(mask * (argmax(logits) == label)) / sum(mask)

    A row whose label is missing (None, or `missing_value`) is left out. A row with several acceptable labels, or a
    negated one, is right if its best class is one of those. Of equal logits the first is the best.

    Shapes: logits (..., C), or a list of sequences (L, C); labels, pred_labels and mask (...) or (..., 1), or lists
        with one part for each sequence.
    Errors: ValueError for labels that are no classes, unless they are masked, and for shapes that do not fit.
    Source: Kauldron's `Accuracy` (https://kauldron.readthedocs.io). Same numbers as `sklearn.metrics.accuracy_score`.

    logits, pred_labels: paths, of which one is used. Predicted labels are ids or names, and all alike where
        `names` are not given.
    labels, mask: paths.
    names: class names in the order of the columns; labels may then be names as well as ids.
    missing_value: a label (name or id) that means "not known"; None always does.
    neg_prefix: with "!", the label "!dog" says that any class but dog is right.
    """

    logits: Key = None
    labels: Key = None
    pred_labels: Key = None
    mask: Key = None

    class State(AverageState):
        """Right rows, and rows."""

    def check_options(self) -> Iterable[Problem]:
        """Logits together with predicted labels."""
        yield from super().check_options()
        if self.logits is not None and self.pred_labels is not None:
            yield "pred_labels", "should be left out where logits are given"

    @functools.cached_property
    def reader(self) -> Labels:
        """The reader of labels."""
        return Labels(type(self).__name__, self.names, self.missing_value, self.neg_prefix)

    @foreign_arrays
    def get_state(self, labels: Any, logits: Any = None, pred_labels: Any = None, mask: Any = None) -> State:
        """Counts of a batch, from logits or from predicted labels."""
        if (logits is None) == (pred_labels is None):
            got = "neither" if logits is None else "both"
            raise fail(type(self).__name__, "one of logits and pred_labels", "to be given", got)
        if logits is None:
            return self._compared(pred_labels, labels, mask)
        rows = Rows.read(self.reader, logits, labels, mask)
        best = rows.ops.xp.argmax(rows.logits, axis=1)
        if rows.targets.has_sets:  # any candidate is right
            members = rows.targets.members(rows.logits.shape[1])
            right = rows.ops.xp.take_along_axis(members, best[:, None], axis=1)[:, 0]
        else:
            right = best == rows.targets.ids
        return self.State.from_values(right, mask=rows.weight)

    def _compared(self, pred_labels: Any, labels: Any, mask: Any) -> State:
        guesses, truths = self._ids("pred_labels", pred_labels), self._ids("labels", labels)
        name, ops = type(self).__name__, get_ops(guesses)
        if not ops.owns(truths):
            raise fail(name, "labels", f"of {ops.library} as pred_labels are", describe(truths))
        truths = match_last_axis(truths, tuple(guesses.shape))
        check_shape(name, "labels", truths, tuple(guesses.shape), "pred_labels")
        if self._kinds(guesses) | self._kinds(truths) == {"ids", "names"}:
            raise fail(name, "labels and pred_labels", "to be all ids or all names, or names to be given", "both kinds")
        if mask is not None:
            check_unmasked(name, "mask", mask)
            mask = match_last_axis(ops.asarray(mask), tuple(guesses.shape))
        valid = self._valid(truths)
        if mask is None:
            mask = valid
        elif valid is not None:
            mask = ops.xp.where(valid, mask, 0)
        return self.State.from_values(guesses == truths, mask=mask)

    def _valid(self, truths: Any) -> Any:
        """Which labels are not missing; None where none can be."""
        valid: Any = True
        if self.missing_value is not None:
            valid = truths != self.missing_value  # True where ids are compared with a name
        if truths.dtype == object:
            is_label = [label is not None for label in truths.flat]
            valid = valid & np.array(is_label, bool).reshape(truths.shape)
        return None if valid is True else valid

    def _ids(self, what: str, labels: Any) -> Any:
        """Labels as an array, with ids in the place of names if those are known."""
        x = labels
        if not hasattr(labels, "dtype") or not hasattr(labels, "reshape"):
            x = np.asarray(labels, dtype=object)  # not as text: NumPy would turn ids among names into names
        get_ops(x)  # raises TypeError for arrays of a library that no backend handles
        if self.names is None or x.dtype.kind in "fiub":
            return x
        table = {name: i for i, name in enumerate(self.names)}
        flat = x.ravel().tolist()
        for label in flat:
            if isinstance(label, str) and label not in table and label != self.missing_value:
                raise fail(type(self).__name__, what, "to be among names", repr(label))
        ids = np.fromiter((table.get(label, label) for label in flat), object, len(flat))
        return ids.reshape(x.shape)

    def _kinds(self, labels: Any) -> set[str]:
        """Whether labels are ids, names, or both."""
        if not labels.size:
            return set()
        if labels.dtype.kind in "fiub":
            return {"ids"}
        known = [x for x in labels.ravel().tolist() if x is not None and x != self.missing_value]
        return {"names" if isinstance(x, str) else "ids" for x in known}


@register("BinaryAccuracy.v1", to="metrics")
class BinaryAccuracy(Metric):
    """The fraction of items whose logit has the sign of the label.

        accuracy = sum(mask * ((logits > 0) == labels)) / sum(mask)

    Shapes: logits and labels (...), equal but for a last axis of 1; a mask broadcasts to them.
    Errors: ValueError for labels other than 0, 1, False and True, unless they are masked.
    Source: Kauldron's `BinaryAccuracy` (https://kauldron.readthedocs.io), with a path for the mask.

    logits, labels, mask: paths.
    """

    logits: Key = None
    labels: Key = None
    mask: Key = None

    class State(AverageState):
        """Right items, and items."""

    @foreign_arrays
    def get_state(self, logits: Any, labels: Any, mask: Any = None) -> State:
        """Counts of a batch."""
        batch = read_batch(type(self).__name__, logits)
        weight = read_weight(batch, mask)
        truths = read_numbers(batch, labels)
        if not batch.ops.on_device:
            is_read = batch.mask
            if is_read is not None:
                is_read = is_read.reshape(batch.shape)
            check_domain(batch.ops, batch.name, "labels", truths, OneOf((0.0, 1.0)), is_read, batch.describe_index)
        right = (batch.arrays[0] > 0) == (truths != 0)
        return self.State.from_values(right.reshape(-1), mask=weight)


@register("Precision1.v1", to="metrics")
class Precision1(Metric):
    """Precision at 1: what the labels say of the best class of each row, on average.

        precision = sum(mask * labels[argmax(logits)]) / sum(mask)

    With labels of 0 and 1 it is the fraction of rows whose best class is one of their labels. Of equal logits the
    first is the best.

    Shapes: logits and labels (..., C); mask (...) or (..., 1).
    Errors: ValueError for shapes that do not fit.
    Source: Kauldron's `Precision1` (https://kauldron.readthedocs.io).

    logits, labels, mask: paths.
    """

    logits: Key = None
    labels: Key = None
    mask: Key = None

    class State(AverageState):
        """The sum of the labels of the best classes, and rows."""

    @foreign_arrays
    def get_state(self, logits: Any, labels: Any, mask: Any = None) -> State:
        """The sum and the count of a batch."""
        batch = read_batch(type(self).__name__, logits, layout=-1)
        weight = read_weight(batch, mask)
        truths = read_numbers(batch, labels).reshape(batch.arrays[0].shape)
        best = batch.ops.xp.argmax(batch.arrays[0], axis=1)[:, None]
        hit = batch.ops.xp.take_along_axis(truths, best, axis=1)
        return self.State.from_values(hit[:, 0], mask=weight)
