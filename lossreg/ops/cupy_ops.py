"""CupyOps: the generic bodies on a CUDA device. The only module that imports cupy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Array, Ops

__all__ = ["CupyOps"]


class CupyOps(Ops):
    """CuPy arrays on the current CUDA device and stream. No method waits for the device except `to_numpy`."""

    name = library = "cupy"
    on_device = True

    def __init__(self) -> None:
        import cupy

        super().__init__(cupy)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """A device array; host data is copied asynchronously on the current stream."""
        return self.xp.asarray(value, dtype=dtype, blocking=False)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A host copy; waits for the device."""
        host: np.ndarray = self.xp.asnumpy(array)
        return host
