"""Metrics: numbers other than the loss, computed batch by batch, with states that merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..states.auto import AutoState, CollectFirstState, CollectingState
from ..states.averages import AverageState
from ..states.base import EmptyState, State, TreeState
from ..states.fields import concat_field, max_field, min_field, state_field, static_field, sum_field, truncate_field
from .base import REQUIRED, Key, Metric
from .classification import Accuracy, BinaryAccuracy, Precision1
from .clustering import Ari
from .images import Psnr, Ssim
from .ranking import RocAuc
from .stats import Norm, SingleDimension, Std
from .wrappers import Noop, SkipIfMissing, TreeMap, TreeReduce

NoopMetric = Noop
"""Kauldron's name of `Noop`."""

__all__ = [
    "REQUIRED", "Accuracy", "Ari", "AutoState", "AverageState", "BinaryAccuracy", "CollectFirstState",
    "CollectingState", "EmptyState", "Key", "Metric", "Noop", "NoopMetric", "Norm", "Precision1", "Psnr", "RocAuc",
    "SingleDimension", "SkipIfMissing", "Ssim", "State", "Std", "TreeMap", "TreeReduce", "TreeState", "concat_field",
    "max_field", "min_field", "state_field", "static_field", "sum_field", "truncate_field",
]  # fmt: skip

# Type checkers report unknown attributes themselves, unless they see this function.
if not TYPE_CHECKING:

    def __getattr__(name):
        from ..attributes import missing_attribute

        raise missing_attribute(__name__, name)
