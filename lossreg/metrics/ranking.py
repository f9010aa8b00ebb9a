"""Metrics of rankings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import permutations
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from ..arrays.dlpack import foreign_arrays
from ..checks import fail
from ..config.resolve import register
from ..labels.labels import Labels
from ..states.auto import AutoState
from ..states.fields import concat_field
from .base import Key, Metric
from .optional import optional
from .rows import Rows

__all__ = ["RocAuc"]


@register("RocAuc.v1", to="metrics")
class RocAuc(Metric):
    """Area under the ROC curve: how often a row of a class has more of its probability than a row of another.

        auc(c, d) = P(p_c(row of class c) > p_c(row of class d)) + P(p_c equal) / 2
        "ovr": mean over classes c of auc(c, all others)
        "ovo": mean over ordered pairs of classes of auc(c, d)
        p = softmax of the logits of the classes

    Rows are drawn by their weights. The classes are those that occur among rows that weigh something, or
    `unique_labels`; a class without such rows has no curve, and is left out of the mean. With less than two classes the
    result is 0. All logits are kept until the result is computed, by scikit-learn. Probabilities are compared by their
    logarithms, which do not run together near 0 and 1.

    Shapes: logits (..., C), or a list of sequences (L, C); labels and mask (...) or (..., 1), or lists with one part
        for each sequence.
    Errors: ValueError for labels that are no classes, or not among `unique_labels`, unless they are masked; ImportError
        without scikit-learn.
    Source: Kauldron's `RocAuc` (https://kauldron.readthedocs.io). Same numbers as `sklearn.metrics.roc_auc_score`.

    logits, labels, mask: paths. A missing label (None) is left out.
    unique_labels: the classes, if some may have no rows; probabilities are shared among them.
    multi_class_mode: each class against the rest, "ovr", or each against each, "ovo".
    """

    logits: Key = None
    labels: Key = None
    mask: Key = None
    unique_labels: Sequence[Annotated[int, Ge(0)]] | None = None
    multi_class_mode: Literal["ovr", "ovo"] = "ovr"

    class State(AutoState):
        """Logits, labels and weights of all rows."""

        logits: Any = concat_field()
        labels: Any = concat_field()
        weight: Any = concat_field()

        def compute(self) -> float:
            """The area."""
            rows = super().compute()
            if rows.logits is None:
                return 0.0
            mask = rows.weight != 0
            labels = rows.labels[mask]
            logits, weight = rows.logits[mask].astype(np.float64), rows.weight[mask].astype(np.float64)
            occurring = np.unique(labels)
            classes = self.parent.unique_labels or occurring
            unknown = occurring[~np.isin(occurring, classes)]
            if len(unknown):
                raise fail("RocAuc", "labels", f"to be among unique_labels {classes}", str(unknown[0]))
            if len(occurring) < 2:
                return 0.0
            # Probabilities among the classes that can occur, as logarithms: these have the same order and no ties.
            scores = dict(zip(classes, _log_softmax(logits[:, list(classes)]).T))
            area = functools.partial(_area, scores, labels, weight)
            if self.parent.multi_class_mode == "ovr":
                areas = [area(c, occurring[occurring != c]) for c in occurring]
            else:
                areas = [area(c, [d]) for c, d in permutations(occurring, 2)]
            return float(np.mean(areas))

    @functools.cached_property
    def reader(self) -> Labels:
        """The reader of labels."""
        return Labels(type(self).__name__, None, None, None, sets=False)

    @foreign_arrays
    def get_state(self, logits: Any, labels: Any, mask: Any = None) -> State:
        """The rows of a batch."""
        rows = Rows.read(self.reader, logits, labels, mask)
        columns = rows.logits.shape[1]
        if max(self.unique_labels or (0,)) >= columns:
            raise fail(type(self).__name__, "logits", f"with a column for each of {self.unique_labels}", f"{columns}")
        weight = rows.weight
        if weight is None:
            weight = rows.ops.xp.ones(len(rows.logits))
        # Copies: the caller's arrays may change before the result is computed.
        return self.State(rows.logits.copy(), rows.targets.indices.copy(), weight.copy())


def _log_softmax(x: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, precise near 0 and near 1 as well."""
    # Without the largest, which is log1p's 1.
    best = x.argmax(axis=1, keepdims=True)
    shifted = x - np.take_along_axis(x, best, axis=1)
    others = np.exp(shifted)
    np.put_along_axis(others, best, 0.0, axis=1)
    logs = shifted - np.log1p(others.sum(axis=1, keepdims=True))
    finite: np.ndarray = np.maximum(logs, np.finfo(np.float64).min)
    return finite


def _area(scores: Any, labels: np.ndarray, weight: np.ndarray, positive: int, negative: Any) -> float:
    """The area of one class against others."""
    sklearn = optional("sklearn.metrics", "scikit-learn", "metrics")
    right = labels == positive
    rows = right | np.isin(labels, negative)
    return float(sklearn.roc_auc_score(right[rows], scores[positive][rows], sample_weight=weight[rows]))
