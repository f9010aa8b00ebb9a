"""Losses of vectors: what is near, what is far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Gt

from ..arrays import Batch
from ..base import CoupledLoss, Truths
from ..checks import check_shape, fail
from ..config import register
from ..ops import Array
from ..targets import Targets

__all__ = ["InfoNCE"]


@register("InfoNCE.v1")
class InfoNCE(CoupledLoss):
    """Each query must find its own key among the keys of the batch.

        s_ij = cos(query_i, key_j) / temperature
        value_i = log(sum_j exp s_ij) - s_ii
        slope of s_ij = p_ij - [i = j],   p_i = softmax(s_i)

    Shapes: guesses (queries, keys), each (N, D); truths None; values (N,).   Gradient with respect to: both.
    A masked pair is deleted: its key is nobody's negative. A vector of zeros has cosine 0 with all and gradient 0.
    Source: van den Oord, Li and Vinyals (2018), arXiv:1807.03748; cosines as in Chen et al. (2020), arXiv:2002.05709.

    temperature: divides the cosines; a smaller one looks harder at the nearest negatives.
    """

    temperature: Annotated[float, Gt(0)] = 0.1

    inputs = ("queries", "keys")
    layout = "vectors"

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """None: the truth of query i is key i."""
        if truths is not None:
            raise fail(batch.name, "truths", "None (the truth of query i is key i)", type(truths).__name__)
        queries, keys = batch.arrays
        if len(batch.shape) != 2:
            raise fail(batch.name, "guesses", "of shape (N, D)", f"queries of shape {batch.shape}")
        check_shape(batch.name, "guesses", keys, queries.shape, "queries")
        ids = batch.ops.xp.arange(queries.shape[0])
        return Truths(Targets(batch.ops, ids=ids))

    def forward(
        self, batch: Batch, arrays: tuple[Array, ...], targets: Targets, kept: Array | None
    ) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """Cosines of all pairs, and softmax cross-entropy on the diagonal."""
        ops = batch.ops
        (q, q_norm), (k, k_norm) = (_unit(ops.xp, x) for x in arrays)
        logits = (q @ k.T) / self.temperature
        if kept is not None:
            others = kept[None, :] | (ops.xp.arange(len(kept))[:, None] == ops.xp.arange(len(kept))[None, :])
            logits = ops.xp.where(others, logits, logits.dtype.type(-float("inf")))
        slope = ops.xp.empty_like(logits)
        values = ops.softmax_cross_entropy(logits, targets, None, None, None, out=slope)

        def backprop(d_values: Array) -> tuple[Array, ...]:
            d_cosine = slope * (d_values[:, None] / self.temperature)
            return _unit_backprop(q, q_norm, d_cosine @ k), _unit_backprop(k, k_norm, d_cosine.T @ q)

        return values, backprop


def _unit(xp: Any, x: Array) -> tuple[Array, Array]:
    """Rows of length 1, and their former lengths; scaled by the largest item first, so that no square overflows."""
    largest = xp.max(abs(x), axis=1, keepdims=True)
    largest = xp.where(largest == 0, 1, largest)
    scaled = x / largest
    norm = xp.sqrt(xp.sum(scaled * scaled, axis=1, keepdims=True))
    norm = xp.where(norm == 0, 1, norm)
    return scaled / norm, norm * largest


def _unit_backprop(unit: Array, norm: Array, d_unit: Array) -> Array:
    """d (x / |x|) = (I - u u^T) / |x|."""
    return (d_unit - unit * (unit * d_unit).sum(axis=1, keepdims=True)) / norm
