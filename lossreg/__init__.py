"""Loss calculators for people who drive training with explicit gradients: values, true gradients, config files."""

from .base import CoupledLoss, ElementwiseLoss, Loss, ReducedLoss, RowLoss
from .config import Config, register, registry
from .losses import *  # noqa: F403  (its __all__ is the list of calculators)
from .losses import __all__ as _calculators
from .ops import NumpyOps, Ops, get_ops, prefer_gpu, require_cpu, require_gpu, use_ops
from .options import ConfigError
from .state import LossState, State
from .version import __version__ as __version__

__all__ = [  # noqa: PLE0604
    "Config", "ConfigError", "CoupledLoss", "ElementwiseLoss", "Loss", "LossState", "NumpyOps", "Ops", "ReducedLoss",
    "RowLoss", "State", "get_ops", "prefer_gpu", "register", "registry", "require_cpu", "require_gpu", "use_ops",
    *_calculators,
]  # fmt: skip
