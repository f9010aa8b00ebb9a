"""Losses with the names, arguments and results of Kauldron's: `from lossreg import kauldron as kd`.

Code that was written for `kd.losses`, `kd.metrics`, `kd.summaries` and `kd.kontext.Key` finds them here, on NumPy
arrays and without JAX. Losses give their gradients as well.
"""

from __future__ import annotations

from .. import metrics, summaries
from . import kontext, losses
from .kontext import REQUIRED, Key
from .losses import (
    L1,
    L2,
    AbsoluteValue,
    AllReduceMean,
    Huber,
    Loss,
    NegativeCosineSimilarity,
    SigmoidBinaryCrossEntropy,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyWithIntLabels,
    Value,
    compute_losses,
)

__all__ = [
    "L1", "L2", "REQUIRED", "AbsoluteValue", "AllReduceMean", "Huber", "Key", "Loss", "NegativeCosineSimilarity",
    "SigmoidBinaryCrossEntropy", "SoftmaxCrossEntropy", "SoftmaxCrossEntropyWithIntLabels", "Value", "compute_losses",
    "kontext", "losses", "metrics", "summaries",
]  # fmt: skip
