"""Metrics: what is computed beside the loss, batch by batch, with states that merge."""

from __future__ import annotations

from ..state import (
    AutoState,
    AverageState,
    CollectFirstState,
    EmptyState,
    State,
    TreeState,
    concat_field,
    max_field,
    min_field,
    state_field,
    static_field,
    sum_field,
    truncate_field,
)
from .base import REQUIRED, Key, Metric
from .classification import Accuracy, BinaryAccuracy, Precision1
from .ranking import RocAuc
from .stats import Norm, SingleDimension, Std
from .wrappers import Noop, SkipIfMissing, TreeMap, TreeReduce

__all__ = [
    "REQUIRED", "Accuracy", "AutoState", "AverageState", "BinaryAccuracy", "CollectFirstState", "EmptyState", "Key",
    "Metric", "Noop", "Norm", "Precision1", "RocAuc", "SingleDimension", "SkipIfMissing", "State", "Std", "TreeMap",
    "TreeReduce", "TreeState", "concat_field", "max_field", "min_field", "state_field", "static_field", "sum_field",
    "truncate_field",
]  # fmt: skip
