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
        stored = [x for x in (*(out or ()), values) if x is not None]
        arrays = [x for x in (*arguments, *stored) if isinstance(x, np.ndarray)]
        flat = not shape or not rows and all(x.size == 1 or x.shape == shape and x.flags.c_contiguous for x in arrays)
        length = size if flat else shape[0]
        step = BLOCK_SIZE if flat else max(1, BLOCK_SIZE * length // size)

        def view(x: Any) -> Any:
            """An array whose first axis is that of the blocks; what all blocks read stays as it is."""
            if not isinstance(x, np.ndarray) or x.size == 1:
                return x
            if flat:
                return x.reshape(-1)
            return x if rows else np.broadcast_to(x, shape)

        def part(x: Any, block: slice) -> Any:
            return x[block] if isinstance(x, np.ndarray) and x.ndim and len(x) == length else x

        views = [view(x) for x in arguments]
        targets = None if out is None else [x.reshape(-1) if flat else x for x in out]
        found = values.reshape(-1) if values is not None and flat else values
        sum_ = 0.0
        for start in range(0, length, step):
            block = slice(start, start + step)
            block_shape = (min(step, length - start), *(() if flat else shape[1:]))
            block_out = None if targets is None else [x[block] for x in targets]
            block_values = None if found is None else found[block]
            block_arguments = [part(x, block) for x in views]
            block_sum = super().replay(replay, block_shape, block_arguments, block_values, block_out, total, rows)
            sum_ += float(block_sum) if total else 0.0
        return sum_

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """As the generic body, with one count over all rows."""
        place = (np.arange(len(values))[:, None] * width + columns).ravel()
        return np.bincount(place, weights=values.ravel(), minlength=len(values) * width).reshape(-1, width)
