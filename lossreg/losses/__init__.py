"""All calculators, one module a family; importing this package registers them."""

from .binary import BinaryCrossEntropyWithLogits
from .categorical import CrossEntropy
from .embedding import InfoNCE
from .regression import Huber, MeanSquaredError
from .thinc import (
    CategoricalCrossentropy,
    CosineDistance,
    L2Distance,
    SequenceCategoricalCrossentropy,
)
from .thinc_v4 import CategoricalCrossentropy_v4, SequenceCategoricalCrossentropy_v4

__all__ = [
    "BinaryCrossEntropyWithLogits",
    "CategoricalCrossentropy",
    "CategoricalCrossentropy_v4",
    "CosineDistance",
    "CrossEntropy",
    "Huber",
    "InfoNCE",
    "L2Distance",
    "MeanSquaredError",
    "SequenceCategoricalCrossentropy",
    "SequenceCategoricalCrossentropy_v4",
]
