"""NumpyOps: the generic bodies in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .base import Array, Ops

__all__ = ["NumpyOps"]

BLOCK = 16_384
"""Items of one block: its temporaries (64 KB each in float32) stay in the L2 cache, its Python overhead is small."""


class NumpyOps(Ops):
    """NumPy on the CPU. Always there; sums of blocks are added in order, so results do not depend on anything else."""

    name = "numpy"

    def __init__(self) -> None:
        super().__init__(np)

    def owns(self, value: Any) -> bool:
        """NumPy arrays and scalars."""
        return isinstance(value, (np.ndarray, np.generic))

    @np.errstate(all="ignore")  # items of weight 0 may hold anything
    def run(
        self,
        formula: Callable[..., tuple[Array, ...]],
        guesses: Sequence[Array],
        others: Sequence[Any],
        weight: Array | None,
        scale: Any,
        *,
        static: tuple[Any, ...] = (),
        rows: bool,
        values: bool,
        total: bool,
        out: Sequence[Array] | None,
    ) -> tuple[Array | None, Any]:
        """As the generic body, block by block."""
        shape, size = guesses[0].shape, guesses[0].size
        if size <= BLOCK and (shape or rows):  # one block: no views are needed
            found, sum_ = super().run(
                formula, guesses, others, weight, scale, static=static, rows=rows, values=values, total=total, out=out
            )
            return found, float(sum_) if total else None
        arrays = [x for x in (*guesses, *others, weight, *(out or ())) if isinstance(x, np.ndarray)]
        flat = not rows and all(x.shape == shape and x.flags.c_contiguous for x in arrays)
        length = size if flat or not shape else shape[0]
        step = BLOCK if flat or not shape else max(1, BLOCK * length // max(1, size))

        def view(x: Any) -> Any:
            if rows or not isinstance(x, np.ndarray):
                return x
            return x.reshape(-1) if flat or not shape else np.broadcast_to(x, shape)

        def part(x: Any, block: slice) -> Any:
            return x[block] if isinstance(x, np.ndarray) and len(x) == length else x

        views, rest, weights = [view(x) for x in guesses], [view(x) for x in others], view(weight)
        targets = None if out is None else [x if rows or (shape and not flat) else x.reshape(-1) for x in out]
        blocks: list[Any] = []
        total_sum = 0.0
        for start in range(0, length, step):
            block = slice(start, start + step)
            block_values, block_total = super().run(
                formula,
                [part(x, block) for x in views],
                [part(x, block) for x in rest],
                part(weights, block),
                scale,
                static=static,
                rows=rows,
                values=values,
                total=total,
                out=None if targets is None else [part(x, block) for x in targets],
            )
            if values:
                blocks.append(block_values)
            if total:
                total_sum += float(block_total)
        return (np.concatenate(blocks).reshape((length, 1) if rows else shape) if values else None), total_sum

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """As the generic body, with one count over all rows."""
        place = (np.arange(len(values))[:, None] * width + columns).ravel()
        return np.bincount(place, weights=values.ravel(), minlength=len(values) * width).reshape(-1, width)
