"""NumpyOps: the generic bodies in blocks that stay in the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Array, Ops

if TYPE_CHECKING:
    from ..targets import Targets

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

    def elementwise(
        self,
        formula: Callable[..., tuple[Array, ...]],
        guesses: Sequence[Array],
        others: Sequence[Any],
        weight: Array | None,
        scale: Any,
        *,
        values: bool,
        total: bool,
        out: Sequence[Array] | None,
    ) -> tuple[Array | None, Any]:
        """As the generic body, block by block."""
        shape, size = guesses[0].shape, guesses[0].size
        arrays = [x for x in (*guesses, *others, weight, *(out or ())) if isinstance(x, np.ndarray)]
        flat = all(x.shape == shape and x.flags.c_contiguous for x in arrays)
        if size <= BLOCK and shape:  # one block: no views are needed
            found_values, found_total = super().elementwise(
                formula, guesses, others, weight, scale, values=values, total=total, out=out
            )
            return found_values, float(found_total) if total else None
        length = size if flat or not shape else shape[0]
        step = BLOCK if flat or not shape else max(1, BLOCK * length // max(1, size))

        def view(x: Any) -> Any:
            if not isinstance(x, np.ndarray):
                return x
            return x.reshape(-1) if flat or not shape else np.broadcast_to(x, shape)

        def part(x: Any, block: slice) -> Any:
            return x[block] if isinstance(x, np.ndarray) else x

        views, rest, weights = [view(x) for x in guesses], [view(x) for x in others], view(weight)
        targets = None if out is None else [x if shape and not flat else x.reshape(-1) for x in out]
        found: list[Any] = []
        total_sum = 0.0
        for start in range(0, length, step):
            block = slice(start, start + step)
            block_values, block_total = super().elementwise(
                formula,
                [part(x, block) for x in views],
                [part(x, block) for x in rest],
                part(weights, block),
                scale,
                values=values,
                total=total,
                out=None if targets is None else [part(x, block) for x in targets],
            )
            if values:
                found.append(block_values)
            if total:
                total_sum += float(block_total)
        stacked = np.concatenate(found).reshape(shape) if found else np.zeros(shape) if values else None
        return stacked, total_sum

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """As the generic body, with one count over all rows."""
        place = (np.arange(len(values))[:, None] * width + columns).ravel()
        return np.bincount(place, weights=values.ravel(), minlength=len(values) * width).reshape(-1, width)

    def rowwise(
        self,
        function: Callable[..., tuple[Array, ...]],
        arrays: Sequence[Array | None],
        row_weight: Any,
        out: Sequence[Array] | None,
    ) -> Array:
        """As the generic body, some rows at a time."""
        first: Array = arrays[0]
        step = max(1, BLOCK // first.shape[1])
        found = []
        for start in range(0, max(len(first), 1), step):
            block = slice(start, start + step)
            parts = [None if x is None else x[block] for x in arrays]
            weight = row_weight[block] if isinstance(row_weight, np.ndarray) else row_weight
            targets = None if out is None else [x[block] for x in out]
            found.append(super().rowwise(function, parts, weight, targets))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def softmax_cross_entropy(
        self,
        logits: Array,
        targets: Targets,
        target_weight: Array | None,
        smoothing: Array | None,
        row_weight: Any,
        *,
        out: Array | None,
    ) -> Array:
        """As the generic body, some rows at a time."""
        kernel = super().softmax_cross_entropy
        return _by_rows(kernel, logits, targets, target_weight, smoothing, row_weight, out)

    def probability_cross_entropy(
        self,
        probs: Array,
        targets: Targets,
        target_weight: Array | None,
        smoothing: Array | None,
        row_weight: Any,
        *,
        wrt_logits: bool,
        out: Array | None,
    ) -> Array:
        """As the generic body, some rows at a time."""
        kernel = functools.partial(super().probability_cross_entropy, wrt_logits=wrt_logits)
        return _by_rows(kernel, probs, targets, target_weight, smoothing, row_weight, out)


def _by_rows(
    kernel: Callable[..., Array],
    x: Array,
    targets: Targets,
    target_weight: Array | None,
    smoothing: Array | None,
    row_weight: Any,
    out: Array | None,
) -> Array:
    n, classes = x.shape
    step = max(1, BLOCK // max(1, classes))
    found = []
    for start in range(0, max(n, 1), step):
        block = slice(start, start + step)
        weight, row, target = (w[block] if isinstance(w, np.ndarray) else w for w in (target_weight, row_weight, out))
        found.append(kernel(x[block], targets[block], weight, smoothing, row, out=target))
    return found[0] if len(found) == 1 else np.concatenate(found)
