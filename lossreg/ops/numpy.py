"""NumpyOps: the generic bodies in blocks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..formulas.replay import Replay
from .base import Array, Ops, without_float_warnings

__all__ = ["NumpyOps"]

BLOCK_SIZE = 16_384
"""Elements of one block: its temporaries (64 KB each in float32) stay in the L2 cache, its Python overhead is small."""


class NumpyOps(Ops):
    """NumPy on the CPU. Always there; sums of blocks are added in order, so results do not depend on anything else."""

    name = "numpy"

    def __init__(self) -> None:
        super().__init__(np)

    def owns(self, value: Any) -> bool:
        """NumPy arrays and scalars."""
        return isinstance(value, (np.ndarray, np.generic))

    @without_float_warnings
    def run(self, *args: Any, **options: Any) -> tuple[Array | None, Any]:
        """As the generic body, block by block."""
        values, total = super().run(*args, **options)
        return values, float(total) if options["total"] else None

    def replay(
        self,
        replay: Replay,
        shape: tuple[int, ...],
        arguments: Sequence[Any],
        values: Array | None,
        out: Sequence[Array] | None,
        total: bool,
        rows: bool,
    ) -> Any:
        """As the generic body; sums of blocks are added in order."""
        size = math.prod(shape)
        if size <= BLOCK_SIZE and (shape or rows):  # one block: no views are needed
            return super().replay(replay, shape, arguments, values, out, total, rows)

        if not shape or (not rows and _are_flat((*arguments, *(out or ()), values), shape)):
            # Elements in one piece of memory are cut anywhere.
            shape, step = (size,), BLOCK_SIZE
            arguments = [_flattened(x) for x in arguments]
            if values is not None:
                values = values.reshape(-1)
            if out is not None:
                out = [x.reshape(-1) for x in out]
        else:
            # All others are cut along the first axis.
            step = max(1, BLOCK_SIZE * shape[0] // size)
            if not rows:
                arguments = [_broadcast(x, shape) for x in arguments]
        return self._replay_in_blocks(step, replay, shape, arguments, values, out, total, rows)

    def _replay_in_blocks(
        self,
        step: int,
        replay: Replay,
        shape: tuple[int, ...],
        arguments: Sequence[Any],
        values: Array | None,
        out: Sequence[Array] | None,
        total: bool,
        rows: bool,
    ) -> float:
        """The replay of `step` items of the first axis at a time."""
        length, *inner_shape = shape
        sum_ = 0.0
        for start in range(0, length, step):
            block = slice(start, min(start + step, length))
            block_sum = super().replay(
                replay,
                (block.stop - start, *inner_shape),
                [_part(x, block, length) for x in arguments],
                None if values is None else values[block],
                None if out is None else [x[block] for x in out],
                total,
                rows,
            )
            if total:
                sum_ += float(block_sum)
        return sum_

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """As the generic body, with one count over all rows."""
        cells = np.arange(len(values))[:, None] * width + columns
        sums = np.bincount(cells.ravel(), weights=values.ravel(), minlength=len(values) * width)
        return sums.reshape(-1, width)


def _are_flat(arrays: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Whether the items of each array follow each other in memory, or are one number for all elements."""
    for x in arrays:
        if not isinstance(x, np.ndarray) or x.size == 1:
            continue
        if x.shape != shape or not x.flags.c_contiguous:
            return False
    return True


def _flattened(x: Any) -> Any:
    """An array of elements with one axis; numbers as they are."""
    if not isinstance(x, np.ndarray) or x.size == 1:
        return x
    return x.reshape(-1)


def _broadcast(x: Any, shape: tuple[int, ...]) -> Any:
    """An array with the first axis of all elements, along which blocks are cut; numbers as they are."""
    if not isinstance(x, np.ndarray) or x.size == 1:
        return x
    return np.broadcast_to(x, shape)


def _part(x: Any, block: slice, length: int) -> Any:
    """The items of a block; an argument that all blocks read is handed over whole."""
    if isinstance(x, np.ndarray) and x.ndim and len(x) == length:
        return x[block]
    return x
