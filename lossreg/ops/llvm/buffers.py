"""Memory of large arrays, used again instead of given back page by page.

A fresh array of 100 MB costs about as much as a pass over it, since the system clears each page when it is first
touched. Memory that no array uses any more is kept here, and marked as free for the taking (MADV_FREE): the system
takes it back as soon as it is short of memory, and until then the next array of that size gets it as it is.

There is no lock: a finalizer may run anywhere, and a child may be forked anywhere. What is kept changes by single
operations of `collections.deque`, each of which happens entirely or not at all.
"""

from __future__ import annotations

import collections
import contextlib
import math
import mmap
import weakref
from typing import Any

import numpy as np

__all__ = ["MIN_BYTES", "empty"]

MIN_BYTES = 32 * 2**20
"""Bytes from which memory is kept; the C library keeps that of smaller arrays itself."""

MAX_SPARE = 4
"""Blocks that are kept."""

PAGE = 2 * 2**20
"""Sizes are rounded up to this, that of a huge page."""

_spare: collections.deque[mmap.mmap] = collections.deque(maxlen=MAX_SPARE)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `np.empty`."""
    size = math.prod(shape) * dtype.itemsize
    # Without MADV_FREE (Windows) memory that is kept would be lost to all other programs.
    if size < MIN_BYTES or not hasattr(mmap, "MADV_FREE"):
        return np.empty(shape, dtype)

    # Sizes are rounded up, so that memory fits arrays of about the same size.
    block_bytes = -(-size // PAGE) * PAGE
    memory = _spare_memory(block_bytes) or _new_memory(block_bytes)
    if memory is None:
        return np.empty(shape, dtype)

    # All views of an array have the array that owns its memory as their base: NumPy sees to that. So the owner goes
    # when the last view has gone, and memory that can still be read is not used again. At the end of the process the
    # system takes everything, and arrays may still be in use.
    owner = np.frombuffer(memory, np.uint8, size)
    weakref.finalize(owner, _keep, memory).atexit = False
    array: np.ndarray = owner.view(dtype).reshape(shape)
    return array


def _spare_memory(size: int) -> mmap.mmap | None:
    """Memory that was kept."""
    try:
        # The last one that was kept is the most likely to be in a cache.
        for memory in reversed(tuple(_spare)):
            if len(memory) == size:
                # Whoever removes it has it: `remove` raises when it is there no more.
                _spare.remove(memory)
                return memory
    # Another thread, or a finalizer, took memory at this moment.
    except (RuntimeError, ValueError):
        return None
    return None


def _new_memory(size: int) -> mmap.mmap | None:
    """Memory of the system; None where it gives none in this way."""
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError):
        return None
    # The system clears one large page in less time than many small ones.
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _keep(memory: mmap.mmap) -> None:
    """Keep memory that no array uses; the oldest makes room."""
    try:
        memory.madvise(mmap.MADV_FREE)
    # The system does not know it, or the interpreter ends: the memory is given back when the object goes.
    except (OSError, ValueError):
        return
    _spare.append(memory)
