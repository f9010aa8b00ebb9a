"""The environment variables of lossreg, read and checked once, when lossreg is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["ENVIRONMENT", "Environment"]


@dataclass(frozen=True)
class Environment:
    """What the environment asks for.

    compiles: LOSSREG_JIT, whether formulas are compiled where a compiler is installed.
    threads: LOSSREG_NUM_THREADS, else the first number of OMP_NUM_THREADS, which pools of processes set for their
        workers; None for all cores.
    cache_folder: LOSSREG_CACHE_DIR, where compiled code is kept; "" for nowhere, None for the user's cache.
    """

    compiles: bool
    threads: int | None
    cache_folder: str | None

    @classmethod
    def read(cls) -> Environment:
        """The variables as they are now; ValueError for one that cannot be understood."""
        return cls(_compiles(), _threads(), os.environ.get("LOSSREG_CACHE_DIR"))


def _compiles() -> bool:
    text = os.environ.get("LOSSREG_JIT", "1").strip()
    if text not in ("0", "1"):
        raise ValueError(f"Environment variable LOSSREG_JIT: expected 0 (NumPy alone) or 1 (compiled), got {text!r}.")
    return text == "1"


def _threads() -> int | None:
    text = os.environ.get("LOSSREG_NUM_THREADS", "").strip()
    if text:
        if not _is_count(text):
            expected = "a whole number of at least 1, or nothing for all cores"
            raise ValueError(f"Environment variable LOSSREG_NUM_THREADS: expected {expected}, got {text!r}.")
        return int(text)
    # not ours to check: a list has one number for each level of nesting, and some programs write other texts
    others = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(others) if _is_count(others) else None


def _is_count(text: str) -> bool:
    """Whether a text is a whole number from 1 to 6 digits long."""
    return text.isascii() and text.isdecimal() and len(text) <= 6 and int(text) > 0


ENVIRONMENT = Environment.read()
