"""Metrics of clusterings, such as segmentations into objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from ..arrays.dlpack import foreign_arrays
from ..checks import Interval, check_domain, check_shape, describe, fail
from ..config.resolve import register
from ..ops import Array, Ops, get_ops
from ..states.averages import AverageState
from .base import Key, Metric
from .rows import as_array, match_last_axis

__all__ = ["Ari"]


@register("Ari.v1", to="metrics")
class Ari(Metric):
    """Adjusted Rand index of segmentations: how far predicted objects are the labelled ones, whatever their numbers.

        ari = (sum of n_ij (n_ij - 1) - e) / ((a + b) / 2 - e),   e = a b / (n (n - 1))
        a = sum of n_i (n_i - 1),   b = sum of n_j (n_j - 1)

    with n_ij the pixels of labelled object i that were predicted as object j, n_i and n_j their sums, and n all pixels.
    1 for equal segmentations, near 0 for random ones. A video is one segmentation. Without a pixel, or where both
    segmentations have one object alone, it is 1.

    Shapes: predictions, labels (..., t, h, w, 1) of integers, the ids of objects; a mask (...) or (..., 1), one number
        per video. Images are videos with t = 1.
    Errors: ValueError for other shapes and dtypes, and for ids that are not below the number of instances.
    Source: Hubert and Arabie (1985), doi:10.1007/BF01908075; Kauldron's `Ari` (https://kauldron.readthedocs.io). Same
        numbers as `sklearn.metrics.adjusted_rand_score`.

        >>> import numpy as np
        >>> labels = np.array([[0, 0, 1, 1], [0, 0, 2, 2]]).reshape(1, 1, 2, 4, 1)
        >>> Ari()(predictions=labels[::-1] + 5, labels=labels), Ari()(predictions=0 * labels, labels=labels)
        (1.0, 0.0)

    predictions, labels, mask: paths. What the mask leaves out may hold anything.
    num_instances_true, num_instances_pred: how many objects labels and predictions have. Ids must then be below; those
        of arrays on a GPU are not checked.
    ignored_ids: labels whose pixels are left out, one or several. With 0, the id of a background, it is the foreground
        ARI.
    """

    predictions: Key = None
    labels: Key = None
    mask: Key = None
    num_instances_true: Annotated[int, Ge(1)] | None = None
    num_instances_pred: Annotated[int, Ge(1)] | None = None
    ignored_ids: int | Sequence[int] | None = None

    class State(AverageState):
        """Indices of videos, and videos."""

    @foreign_arrays
    def get_state(self, predictions: Any, labels: Any, mask: Any = None) -> State:
        """Indices of a batch."""
        guesses, truths = self._read("predictions", predictions), self._read("labels", labels)
        name, ops = type(self).__name__, get_ops(guesses)
        if not ops.owns(truths):
            raise fail(name, "labels", f"of {ops.library} as predictions are", describe(truths))
        check_shape(name, "labels", truths, tuple(guesses.shape), "predictions")
        videos = tuple(guesses.shape[:-4])
        if mask is not None:
            mask = match_last_axis(as_array(name, "mask", mask), (*videos, 1))
        pixels = int(np.prod(guesses.shape[-4:]))
        rows = math.prod(videos), pixels
        guesses, truths = guesses.reshape(rows), truths.reshape(rows)
        counted = self._counted(ops, truths, mask)
        index = self._index(ops, guesses, truths, counted)
        return self.State.from_values(index.reshape(*videos, 1), mask=mask)

    def _read(self, what: str, ids: Any) -> Array:
        name = type(self).__name__
        array = as_array(name, what, ids)
        if array.dtype.kind not in "iub":
            raise fail(name, what, "of integers, the ids of objects", describe(array))
        if array.ndim < 4 or array.shape[-1] != 1:
            expected = "of shape (..., t, h, w, 1), which of images (n, h, w, 1) is x[:, None]"
            raise fail(name, what, expected, describe(array))
        return array.astype(np.int64)

    def _counted(self, ops: Ops, truths: Array, mask: Any) -> Array:
        """Which pixels count, bool (videos, pixels)."""
        counted = ops.xp.ones(truths.shape, dtype=bool)
        if mask is not None and mask.size == len(truths):
            counted = counted & (mask.reshape(-1, 1) != 0)
        ignored = self.ignored_ids
        if isinstance(ignored, int):
            ignored = (ignored,)
        for label in ignored or ():
            counted = counted & (truths != label)
        return counted

    def _check_ids(self, ops: Ops, what: str, ids: Array, counted: Array, count: int | None) -> None:
        """Raise for ids that are not below the number of instances. A device would have to wait for the answer."""
        if count is None or ops.on_device:
            return
        domain = Interval(0, count - 1)
        check_domain(ops, type(self).__name__, f"{what} ids", ids, domain, counted, "video {}".format)

    def _index(self, ops: Ops, guesses: Array, truths: Array, counted: Array) -> Array:
        """The index of each video."""
        xp = ops.xp
        self._check_ids(ops, "label", truths, counted, self.num_instances_true)
        self._check_ids(ops, "prediction", guesses, counted, self.num_instances_pred)

        # Pairs of ids have numbers, too. Those of a row are below its length, so no table of all ids is needed.
        truths, guesses = _numbered(xp, truths), _numbered(xp, guesses)
        both = _numbered(xp, truths * truths.shape[1] + guesses)
        together = _ordered_pairs(xp, both, counted)
        in_truth = _ordered_pairs(xp, truths, counted)
        in_guess = _ordered_pairs(xp, guesses, counted)

        pixels = counted.sum(axis=1, dtype=np.float64)
        expected = in_truth * in_guess / xp.maximum(pixels * (pixels - 1.0), 1.0)
        most = 0.5 * (in_truth + in_guess)
        is_defined = most != expected
        return xp.where(is_defined, (together - expected) / xp.where(is_defined, most - expected, 1.0), 1.0)


def _numbered(xp: Any, ids: Array) -> Array:
    """The ids of each row (rows, pixels), numbered from 0 in their order."""
    order = xp.argsort(ids, axis=1)
    in_order = xp.take_along_axis(ids, order, axis=1)
    numbers_in_order = xp.zeros(ids.shape, dtype=np.int64)
    numbers_in_order[:, 1:] = xp.cumsum(in_order[:, 1:] != in_order[:, :-1], axis=1)
    numbers = xp.empty(ids.shape, dtype=np.int64)
    numbers[xp.arange(len(ids))[:, None], order] = numbers_in_order
    return numbers


def _ordered_pairs(xp: Any, numbers: Array, counted: Array) -> Array:
    """How many ordered pairs of different pixels of a row have equal numbers, among those that count."""
    rows, pixels = numbers.shape
    cells = xp.arange(rows)[:, None] * pixels + numbers
    counts = xp.zeros(rows * pixels)
    xp.add.at(counts, cells.reshape(-1), counted.reshape(-1).astype(np.float64))
    counts = counts.reshape(rows, pixels)
    return (counts * (counts - 1.0)).sum(axis=1)
