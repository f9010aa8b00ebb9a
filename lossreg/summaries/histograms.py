"""How numbers are distributed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from ..arrays.dlpack import foreign_arrays
from ..config.resolve import register
from ..metrics import AutoState, Key, Metric, concat_field
from ..metrics.optional import optional
from ..metrics.rows import as_array

__all__ = ["Buckets", "Histogram"]


@dataclass(frozen=True, eq=False)
class Buckets:
    """How many numbers lie in each of some intervals. A notebook shows a plot, which needs matplotlib."""

    counts: np.ndarray
    """Of the numbers from `edges[i]` up to `edges[i + 1]`; the last interval includes its end."""
    edges: np.ndarray
    left_out: int = 0
    """How many were NaN or infinite."""

    def plot(self, ax: Any = None) -> Any:
        """The histogram on axes of matplotlib's, or on new ones; returns the axes."""
        if ax is None:
            matplotlib = optional("matplotlib.figure", "matplotlib", "summaries")
            ax = matplotlib.Figure(figsize=(6, 3), layout="constrained").subplots()
        ax.stairs(self.counts, self.edges, fill=True)
        ax.set_ylabel("count")
        return ax

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.plot().figure.savefig(file, format="png")
        return file.getvalue()


@register("Histogram.v1", to="metrics")
class Histogram(Metric):
    """How many numbers lie in each of equal intervals from the least to the greatest, as `Buckets`.

        counts[i] = number of x with edges[i] <= x < edges[i + 1]
        edges[i]  = min(x) + i * (max(x) - min(x)) / num_buckets

    All numbers are kept until the result is computed. NaN and infinite ones are counted apart.

    Shapes: tensor any; counts (num_buckets,), edges (num_buckets + 1,).
    Source: Kauldron's `HistogramSummary` (https://kauldron.readthedocs.io); `numpy.histogram`.

    tensor: path.
    num_buckets: how many intervals.
    """

    tensor: Key = None
    num_buckets: Annotated[int, Ge(1)] = 30

    class State(AutoState):
        """All numbers."""

        tensor: Any = concat_field()

        def compute(self) -> Buckets:
            """The histogram."""
            tensor = super().compute().tensor
            if tensor is None:  # no batches
                tensor = np.zeros(0)
            numbers = tensor.astype(np.float64)
            finite = numbers[np.isfinite(numbers)]
            counts, edges = np.histogram(finite, self.parent.num_buckets, _range(finite, self.parent.num_buckets))
            return Buckets(counts, edges, numbers.size - finite.size)

    @foreign_arrays
    def get_state(self, tensor: Any) -> State:
        """The numbers of a batch."""
        return self.State(as_array(type(self).__name__, "tensor", tensor).reshape(-1).copy())


def _range(numbers: np.ndarray, buckets: int) -> tuple[float, float]:
    """The least and the greatest number; further apart if they are too close for so many edges between them."""
    low, high = 0.0, 1.0
    if numbers.size:
        low, high = numbers.min(), numbers.max()
    width_of_edges = buckets * np.spacing(max(abs(low), abs(high)))
    if high - low > width_of_edges:
        return low, high
    more = max(0.5, width_of_edges)
    return low - more, high + more
