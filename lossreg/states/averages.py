"""`AverageState` and `LossState`: a weighted sum and what it is divided by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.dlpack import foreign_arrays
from ..arrays.trees import tree_map
from ..checks import fail
from ..ops import Ops, get_ops
from ..ops.base import compute_dtype
from ..pipeline.guesses import check_unmasked, real_array
from .auto import AutoState
from .fields import sum_field

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AverageState", "LossState", "masked_values"]


def masked_values(name: str, values: Any, mask: Any) -> tuple[Ops, Any, Any]:
    """(backend, values, their weights in float64 or None): values of weight 0 are 0, whatever they were."""
    if not hasattr(values, "dtype"):
        values = get_ops().asarray(values)
    values = real_array(name, "values", values)
    ops = get_ops(values)
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if mask is None:
        return ops, values, None
    check_unmasked(name, "mask", mask)
    mask = ops.asarray(mask)
    weight = mask.reshape((*mask.shape, *(1 for _ in values.shape[mask.ndim :])))
    fits = len(mask.shape) <= len(values.shape) and all(n in (1, size) for n, size in zip(weight.shape, values.shape))
    if not fits or (mask.ndim and mask.shape[0] != values.shape[0]):
        expected = f"with the first axes of the values, {tuple(values.shape)}"
        raise fail(name, "a mask", expected, f"shape {tuple(mask.shape)}")
    weight = ops.xp.broadcast_to(weight, values.shape).astype(np.float64)
    return ops, ops.xp.where(weight != 0, values, values.dtype.type(0)), weight


class AverageState(AutoState):
    """A weighted sum and what it is divided by. A count of 0 computes to 0."""

    total: Any = sum_field(default=0.0)
    count: Any = sum_field(default=0.0)

    @classmethod
    def empty(cls, parent: Any = None) -> Self:
        """0 over 0. A sum has no count: its states start from `loss.empty()`."""
        return cls(parent=parent)

    @classmethod
    @foreign_arrays
    def from_values(cls, values: Any, *, mask: Any = None) -> Self:
        """The state of an array of values, each with the weight of a mask whose first axes are those of the values.

        What the mask leaves out may hold anything.
        """
        ops, values, weight = masked_values("an average", values, mask)
        total = ops.xp.sum(values if weight is None else values * weight, dtype="float64")
        count = float(values.size) if weight is None else ops.scalar(ops.xp.sum(weight, dtype="float64"))
        return cls(total=ops.scalar(total), count=count)

    def compute(self) -> Any:
        """total / count."""
        return self._divided(self.total)

    def _divided(self, total: Any) -> Any:
        if self.count is None:
            return total
        if isinstance(self.count, (int, float)):
            return total / self.count if self.count else 0.0
        return get_ops(self.count).quotient(total, self.count)


class LossState(AverageState):
    """A weighted sum of loss values and what it is divided by.

    `count` is None for sums, which are not divided. A count of 0 computes to 0. On a device both are 0-d arrays.
    """

    @property
    def factor(self) -> Any:
        """What turns the gradient of the total into that of the loss: 1 / count, and 0 where nothing was counted."""
        return self.finalize()._divided(1.0)

    @foreign_arrays
    def scale(self, gradients: Any) -> Any:
        """Gradients of the total, such as those that micro-batches added up, as gradients of the loss.

        Arrays and numbers in nested dicts, lists and tuples; new arrays of the same dtypes.
        """
        factor = self.factor

        def scaled(x: Any) -> Any:
            if not hasattr(x, "dtype"):
                return x * factor
            return (x.astype(compute_dtype(x.dtype), copy=False) * factor).astype(x.dtype, copy=False)

        return tree_map(scaled, gradients)

    def weighted(self, weight: float, parent: Any) -> LossState:
        """The state of a term of a sum: the weight multiplies the total, not the count."""
        compensation = dict(self.compensation)
        if "total" in compensation:
            compensation["total"] = compensation["total"] * weight
        return replace(self, total=self.total * weight, parent=parent, compensation=compensation)
