"""Keys: the paths at which losses and metrics find their arguments in a context."""

from __future__ import annotations

from ..arrays.trees import get_path
from ..metrics import REQUIRED, Key

__all__ = ["REQUIRED", "Key", "get_by_path"]

get_by_path = get_path
