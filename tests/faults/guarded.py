"""Arrays between pages that may not be touched."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["can_guard", "guarded", "guarded_allocations", "guarded_arrays", "outside"]

PATTERN = 0xA5
"""What lies on an array's own pages beside it."""

_blocks: list[_Block] = []


def can_guard() -> bool:
    return sys.platform.startswith(("linux", "darwin"))


class _Block:
    """Memory between two pages without any rights."""

    def __init__(self, size: int) -> None:
        pages = max(1, -(-size // mmap.PAGESIZE))
        self.length = pages * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.length + 2 * mmap.PAGESIZE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + mmap.PAGESIZE
        _protect(self.start - mmap.PAGESIZE, 0)
        _protect(self.start + self.length, 0)
        self.bytes = np.frombuffer(self.memory, np.uint8)[mmap.PAGESIZE : mmap.PAGESIZE + self.length]
        self.bytes[...] = PATTERN

    def place(self, array: np.ndarray, at_end: bool) -> np.ndarray:
        """A copy of the array that ends, or begins, with the memory."""
        self.first = self.length - array.nbytes if at_end else 0
        self.last = self.first + array.nbytes
        placed = self.bytes[self.first : self.last].view(array.dtype).reshape(array.shape)
        placed[...] = array
        return placed

    def outside(self) -> tuple[np.ndarray, np.ndarray]:
        return self.bytes[: self.first], self.bytes[self.last :]


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy whose neighbour on one side may not be touched, and on the other is watched by `guarded_arrays`."""
    block = _Block(array.nbytes)
    placed = block.place(array, at_end)
    _blocks.append(block)
    return placed


def outside(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes before and after an array on its own pages."""
    for block in _blocks:
        if block.start + block.first == array.ctypes.data:
            return block.outside()
    raise ValueError("Expected an array of `guarded`.")


@contextlib.contextmanager
def guarded_arrays() -> Iterator[None]:
    """Arrays of `guarded` that are made in here: nothing beside them has been written to at the end."""
    _blocks.clear()
    try:
        yield
        written = sum(int((part != PATTERN).sum()) for block in _blocks for part in block.outside())
        assert not written, f"{written} bytes beside an array were written to"
    finally:
        _blocks.clear()


@contextlib.contextmanager
def guarded_allocations(at_end: bool) -> Iterator[None]:
    """What is allocated by `np.empty`, `np.zeros` and `np.ascontiguousarray` is guarded as well: results and scratch."""
    names = ("empty", "zeros", "ascontiguousarray")
    originals = {name: getattr(np, name) for name in names}

    def allocating(original: Any) -> Any:
        def allocate(*args: Any, **kwargs: Any) -> np.ndarray:
            array: np.ndarray = original(*args, **kwargs)
            return guarded(array, at_end) if array.size and array.dtype.kind in "fiub" else array

        return allocate

    try:
        for name, original in originals.items():
            setattr(np, name, allocating(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(np, name, original)


def _protect(address: int, rights: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), ctypes.c_int(rights)):
        raise OSError(ctypes.get_errno(), "mprotect")
