"""Packages that only some metrics need."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["optional"]


def optional(module: str, package: str, extra: str) -> Any:
    """A module, or an ImportError that says how to install its package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{package} is not installed: python -m pip install 'lossreg[{extra}]'") from error
