"""Keys: the paths at which losses and metrics find their arguments in a context."""

from __future__ import annotations

from ..metrics import REQUIRED, Key
from ..trees import get_path

__all__ = ["REQUIRED", "Key", "get_by_path"]

get_by_path = get_path
