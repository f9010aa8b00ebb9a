"""All calculators, one module per family; importing this package registers them."""

from .alignment import CTC
from .binary import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, MultiLabelSoftMargin, SoftMargin
from .categorical import NLL, CrossEntropy, NonFiniteLossError
from .divergence import KLDivergence
from .embedding import (
    CosineEmbedding,
    CosineSimilarity,
    InfoNCE,
    NegativeCosineSimilarity,
    PairwiseDistance,
    TripletMargin,
)
from .focal import SigmoidFocal
from .linear import LinearCrossEntropy
from .margin import HingeEmbedding, MarginRanking, MultiLabelMargin, MultiMargin
from .regression import Huber, MeanAbsoluteError, MeanSquaredError, PoissonNLL, Quantile, SmoothL1
from .sequence import Sequence
from .thinc import CategoricalCrossentropy, CosineDistance, L2Distance, SequenceCategoricalCrossentropy
from .thinc_v4 import CategoricalCrossentropy_v4, SequenceCategoricalCrossentropy_v4
from .values import AbsoluteValue, Value

__all__ = [
    "CTC",
    "NLL",
    "AbsoluteValue",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyWithLogits",
    "CategoricalCrossentropy",
    "CategoricalCrossentropy_v4",
    "CosineDistance",
    "CosineEmbedding",
    "CosineSimilarity",
    "CrossEntropy",
    "HingeEmbedding",
    "Huber",
    "InfoNCE",
    "KLDivergence",
    "L2Distance",
    "LinearCrossEntropy",
    "MarginRanking",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MultiLabelMargin",
    "MultiLabelSoftMargin",
    "MultiMargin",
    "NegativeCosineSimilarity",
    "NonFiniteLossError",
    "PairwiseDistance",
    "PoissonNLL",
    "Quantile",
    "Sequence",
    "SequenceCategoricalCrossentropy",
    "SequenceCategoricalCrossentropy_v4",
    "SigmoidFocal",
    "SmoothL1",
    "SoftMargin",
    "TripletMargin",
    "Value",
]
