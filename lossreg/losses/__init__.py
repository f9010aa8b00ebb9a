"""All calculators, one module a family; importing this package registers them."""

from . import (
    alignment,
    binary,
    categorical,
    divergence,
    embedding,
    focal,
    linear,
    margin,
    regression,
    sequence,
    thinc,
    thinc_v4,
    values,
)
from .alignment import *  # noqa: F403
from .binary import *  # noqa: F403
from .categorical import *  # noqa: F403
from .divergence import *  # noqa: F403
from .embedding import *  # noqa: F403
from .focal import *  # noqa: F403
from .linear import *  # noqa: F403
from .margin import *  # noqa: F403
from .regression import *  # noqa: F403
from .sequence import *  # noqa: F403
from .thinc import *  # noqa: F403
from .thinc_v4 import *  # noqa: F403
from .values import *  # noqa: F403

__all__ = [  # noqa: PLE0604
    *alignment.__all__, *binary.__all__, *categorical.__all__, *divergence.__all__, *embedding.__all__, *focal.__all__,
    *linear.__all__, *margin.__all__, *regression.__all__, *sequence.__all__, *thinc.__all__,
    *thinc_v4.__all__, *values.__all__,
]  # fmt: skip
