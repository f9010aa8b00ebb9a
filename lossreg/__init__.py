"""Loss calculators for people who drive training with explicit gradients: values, true gradients, config files."""

import typing as _typing

from . import functional, kauldron, losses, metrics, mindformers, schedules, state, summaries, terms
from .base import CoupledLoss, ElementwiseLoss, Loss, ReducedLoss, RowLoss
from .config import Config, register, registry
from .functional import help, loss, options
from .jit.pool import get_num_threads, set_num_threads
from .losses.alignment import *  # noqa: F403
from .losses.binary import *  # noqa: F403
from .losses.categorical import *  # noqa: F403
from .losses.divergence import *  # noqa: F403
from .losses.embedding import *  # noqa: F403
from .losses.focal import *  # noqa: F403
from .losses.linear import *  # noqa: F403
from .losses.margin import *  # noqa: F403
from .losses.regression import *  # noqa: F403
from .losses.sequence import *  # noqa: F403
from .losses.thinc import *  # noqa: F403
from .losses.thinc_v4 import *  # noqa: F403
from .losses.values import *  # noqa: F403
from .ops import NumpyOps, Ops, get_ops, prefer_gpu, require_cpu, require_gpu, use_ops
from .ragged import Ragged
from .schema import ConfigError
from .state import *  # noqa: F403
from .terms import *  # noqa: F403
from .version import __version__ as __version__

__all__ = [
    "Config", "ConfigError", "CoupledLoss", "ElementwiseLoss", "Loss", "NumpyOps", "Ops", "Ragged", "ReducedLoss",
    "RowLoss", "functional", "get_num_threads", "get_ops", "help", "kauldron", "loss", "metrics", "mindformers",
    "options", "prefer_gpu", "register", "registry", "require_cpu", "require_gpu", "schedules", "set_num_threads",
    "summaries", "use_ops",
]  # fmt: skip
__all__ += losses.__all__ + state.__all__ + terms.__all__

# Type checkers report unknown attributes themselves, unless they see this function.
if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        from .attributes import missing_attribute

        raise missing_attribute(__name__, name)
