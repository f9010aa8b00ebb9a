"""Loss calculators for code that does its own backpropagation: values, true gradients, config files."""

import typing as _typing

from . import authoring, functional, kauldron, metrics, mindformers, schedules, summaries
from .arrays.ragged import Ragged
from .config.options import ConfigError
from .config.resolve import Config, register, registry
from .functional import help as help
from .functional import loss, options
from .losses.alignment import CTC
from .losses.binary import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, MultiLabelSoftMargin, SoftMargin
from .losses.categorical import NLL, CrossEntropy, NonFiniteLossError
from .losses.divergence import KLDivergence
from .losses.embedding import (
    CosineEmbedding,
    CosineSimilarity,
    InfoNCE,
    NegativeCosineSimilarity,
    PairwiseDistance,
    TripletMargin,
)
from .losses.focal import SigmoidFocal
from .losses.linear import LinearCrossEntropy
from .losses.margin import HingeEmbedding, MarginRanking, MultiLabelMargin, MultiMargin
from .losses.regression import Huber, MeanAbsoluteError, MeanSquaredError, PoissonNLL, Quantile, SmoothL1
from .losses.sequence import Sequence as Sequence
from .losses.thinc import CategoricalCrossentropy, CosineDistance, L2Distance, SequenceCategoricalCrossentropy
from .losses.thinc_v4 import CategoricalCrossentropy_v4, SequenceCategoricalCrossentropy_v4
from .losses.values import AbsoluteValue, Value
from .ops import NumpyOps, Ops, get_ops, prefer_gpu, require_cpu, require_gpu, use_ops
from .ops.llvm.threads import get_num_threads, set_num_threads
from .pipeline.kinds import CoupledLoss, ElementwiseLoss, RowLoss
from .pipeline.loss import Loss
from .pipeline.reduced import ReducedLoss
from .states.auto import AutoState, CollectFirstState, CollectingState
from .states.averages import AverageState, LossState
from .states.base import EmptyState, State, TreeState
from .states.fields import concat_field, max_field, min_field, state_field, static_field, sum_field, truncate_field
from .terms import ContextLoss, Term, WeightedSum, WeightedSumState
from .version import __version__ as __version__

# Neither `help`, a function of Python, nor `Sequence`, a type, is replaced by `from lossreg import *`.
__all__ = [
    "CTC",
    "NLL",
    "AbsoluteValue",
    "AutoState",
    "AverageState",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyWithLogits",
    "CategoricalCrossentropy",
    "CategoricalCrossentropy_v4",
    "CollectFirstState",
    "CollectingState",
    "Config",
    "ConfigError",
    "ContextLoss",
    "CosineDistance",
    "CosineEmbedding",
    "CosineSimilarity",
    "CoupledLoss",
    "CrossEntropy",
    "ElementwiseLoss",
    "EmptyState",
    "HingeEmbedding",
    "Huber",
    "InfoNCE",
    "KLDivergence",
    "L2Distance",
    "LinearCrossEntropy",
    "Loss",
    "LossState",
    "MarginRanking",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MultiLabelMargin",
    "MultiLabelSoftMargin",
    "MultiMargin",
    "NegativeCosineSimilarity",
    "NonFiniteLossError",
    "NumpyOps",
    "Ops",
    "PairwiseDistance",
    "PoissonNLL",
    "Quantile",
    "Ragged",
    "ReducedLoss",
    "RowLoss",
    "SequenceCategoricalCrossentropy",
    "SequenceCategoricalCrossentropy_v4",
    "SigmoidFocal",
    "SmoothL1",
    "SoftMargin",
    "State",
    "Term",
    "TreeState",
    "TripletMargin",
    "Value",
    "WeightedSum",
    "WeightedSumState",
    "authoring",
    "concat_field",
    "functional",
    "get_num_threads",
    "get_ops",
    "kauldron",
    "loss",
    "max_field",
    "metrics",
    "min_field",
    "mindformers",
    "options",
    "prefer_gpu",
    "register",
    "registry",
    "require_cpu",
    "require_gpu",
    "schedules",
    "set_num_threads",
    "state_field",
    "static_field",
    "sum_field",
    "summaries",
    "truncate_field",
    "use_ops",
]

_NOT_IN_STAR_IMPORTS = ("Sequence", "__version__", "help")


def __dir__() -> list[str]:
    return sorted([*__all__, *_NOT_IN_STAR_IMPORTS])


# Type checkers report unknown attributes themselves, unless they see this function.
if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        from .attributes import missing_attribute

        raise missing_attribute(__name__, name)
