"""Everything that the author of a loss imports, in one place; `docs/adding-a-loss.md` shows each in use."""

from .checks import Interval, OneOf, check_domain, check_shape, describe, fail
from .config.resolve import register
from .formulas.functions import FORMULA_FUNCTIONS, ROW_FUNCTIONS
from .labels.labels import Labels
from .labels.options import LabelOptions
from .pipeline.evaluation import TargetBatch
from .pipeline.guesses import Batch, real_array
from .pipeline.kinds import CoupledLoss, ElementwiseLoss, RowLoss
from .pipeline.loss import Loss
from .pipeline.reduced import ReducedLoss

__all__ = [
    "FORMULA_FUNCTIONS",
    "ROW_FUNCTIONS",
    "Batch",
    "CoupledLoss",
    "ElementwiseLoss",
    "Interval",
    "LabelOptions",
    "Labels",
    "Loss",
    "OneOf",
    "ReducedLoss",
    "RowLoss",
    "TargetBatch",
    "check_domain",
    "check_shape",
    "describe",
    "fail",
    "real_array",
    "register",
]
