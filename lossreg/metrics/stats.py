"""Statistics of numbers: averages of norms and of single columns, standard deviations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np

from ..arrays.dlpack import foreign_arrays
from ..checks import describe, fail
from ..config.options import INFINITY_ALLOWED, Problem
from ..config.resolve import register
from ..ops import get_ops
from ..ops.base import without_float_warnings
from ..states.averages import AverageState, masked_values
from ..states.base import State
from ..states.fields import max_field
from .base import Key, Metric
from .rows import as_array

__all__ = ["Norm", "SingleDimension", "Std"]


@register("Norm.v1", to="metrics")
class Norm(Metric):
    """The norm of vectors or matrices, averaged or as of one long vector.

        norm(v) = (sum of |v_i|^ord)^(1 / ord), max |v_i| for ord = inf, the number of v_i != 0 for ord = 0
        "average": sum(mask * norm) / sum(mask)
        "concat": (sum(mask * norm^ord))^(1 / ord), max(norm) for ord = inf, sum(mask * norm) for ord = 0

    Computed in float64.

    Shapes: tensor any; a mask has the first axes of the tensor, where the axes of a norm have length 1.
    Errors: ValueError for shapes that do not fit.
    Source: Kauldron's `Norm` (https://kauldron.readthedocs.io); `numpy.linalg.norm`.

    tensor, mask: paths.
    axis: the axis of vectors, two axes of matrices, or None: all numbers are one vector.
    ord: order of the norm as in `numpy.linalg.norm`; None is 2, and the Frobenius norm of matrices.
    aggregation_type: "average", or "concat": the norm of the vectors of all batches, or of all leaves in a
        `TreeReduce`, behind one another. It needs vectors and an order of 0 or more.
    """

    tensor: Key = None
    mask: Key = None
    axis: int | tuple[int, int] | None = -1
    ord: Annotated[float | Literal["fro", "nuc"] | None, INFINITY_ALLOWED] = None
    aggregation_type: Literal["average", "concat"] = "average"

    class State(AverageState):
        """Norms, or their powers, and for ord = inf the greatest of them."""

        largest: Any = max_field(default=0.0)

        def compute(self) -> Any:
            """The norm."""
            power = self.parent.power
            if self.parent.aggregation_type == "average":
                return super().compute()
            if power == math.inf:
                return self.largest
            if power == 0:  # a number of numbers, which adds up as it is
                return self.total
            return self.total ** (1 / power)

    def check_options(self) -> Iterable[Problem]:
        """Orders that vectors do not have, and norms that do not add up."""
        yield from super().check_options()
        order = self.ord
        if isinstance(self.axis, tuple):  # of matrices
            adds_up = order in (None, "fro")
        else:
            adds_up = not isinstance(order, float) or order >= 0
            if isinstance(order, str):
                yield "ord", f"should be a number for vectors, got {order!r}"
        if self.aggregation_type == "concat" and not adds_up:
            yield "aggregation_type", f"should be 'average' for ord {order!r} of axis {self.axis}"

    @property
    def power(self) -> float:
        """The exponent of numbers before they are added."""
        if isinstance(self.ord, float):
            return self.ord
        return 2.0  # of None and "fro"

    @without_float_warnings
    @foreign_arrays
    def get_state(self, tensor: Any, mask: Any = None) -> State:
        """The norms of a batch."""
        name = type(self).__name__
        x = as_array(name, "tensor", tensor).astype(np.float64)
        axis = self.axis
        if axis is None:  # all numbers along the first axis, and as many axes as before
            x, axis = x.reshape(-1, *[1] * len(x.shape[1:])), 0
        axes = (axis,) if isinstance(axis, int) else axis
        if not all(-x.ndim <= i < x.ndim for i in axes):
            raise fail(name, "tensor", f"with axis {self.axis}", describe(x))

        # A mask has one number per norm: it broadcasts to the first number of each.
        first: list[Any] = [slice(None)] * x.ndim
        for i in axes:
            first[i] = slice(1)
        ops, _, weight = masked_values(name, x[tuple(first)], mask)
        if weight is not None:  # a masked vector may hold NaN
            x = ops.xp.where(weight != 0, x, 0.0)

        # Powers add up over batches, norms do not.
        if self.aggregation_type == "concat" and 0 < self.power < math.inf:
            return self.State.from_values((abs(x) ** self.power).sum(axis=axes, keepdims=True), mask=weight)
        norm = ops.xp.linalg.norm(x, ord=self.ord, axis=axis, keepdims=True)
        if self.aggregation_type == "average" or not self.power:
            return self.State.from_values(norm, mask=weight)
        if not norm.size:
            return self.State(largest=0.0)
        return self.State(largest=ops.scalar(norm.max()))


@register("Std.v1", to="metrics")
class Std(Metric):
    """The standard deviation of all numbers.

        mean = sum(mask * x) / sum(mask)
        std  = sqrt(sum(mask * (x - mean)^2) / sum(mask))

    States hold the mean and the sum of squares around it, so that a mean which is great against the deviation costs no
    digits. No numbers have the deviation 0.

    Shapes: values any; a mask has the first axes of the values.
    Errors: ValueError for shapes that do not fit.
    Source: Kauldron's `Std` (https://kauldron.readthedocs.io), which adds up squares. Merging: Chan, Golub and LeVeque
        (1983), doi:10.1080/00031305.1983.10483115. Same numbers as `numpy.std`.

    values, mask: paths.
    """

    values: Key = None
    mask: Key = None

    class State(State):
        """How many numbers, their mean, and the sum of squares around it."""

        count: Any = 0.0
        mean: Any = 0.0
        squares: Any = 0.0

        def merge(self, other: Any) -> Any:
            """The state of the numbers of both."""
            parent = self.merged_parent(other)
            count = self.count + other.count
            # The mean moves towards the other one by the fraction of numbers that the other state has.
            fraction, gap = _ratio(other.count, count), other.mean - self.mean
            mean = self.mean + gap * fraction
            squares = self.squares + other.squares + gap * gap * self.count * fraction
            return replace(self, parent=parent, count=count, mean=mean, squares=squares)

        def compute(self) -> Any:
            """The standard deviation."""
            return _ratio(self.squares, self.count) ** 0.5

    @foreign_arrays
    def get_state(self, values: Any, mask: Any = None) -> State:
        """Count, mean and squares of a batch."""
        name = type(self).__name__
        ops, x, weight = masked_values(name, as_array(name, "values", values), mask)
        x = x.astype(np.float64, copy=False)
        if weight is None:
            weight = ops.xp.ones(x.shape)
        count = ops.scalar(weight.sum())
        mean = _ratio(ops.scalar((x * weight).sum()), count)
        return self.State(count, mean, ops.scalar((weight * (x - mean) ** 2).sum()))


@register("SingleDimension.v1", to="metrics")
class SingleDimension(Metric):
    """The mean of one column.

        mean = sum(tensor[..., index]) / number of rows

    Shapes: tensor (..., D), or any with index None.
    Errors: ValueError for a column that is not there.
    Source: Kauldron's `SingleDimension` (https://kauldron.readthedocs.io).

    tensor: path.
    index: the column; None is the mean of all numbers.
    """

    tensor: Key = None
    index: int | None = 0

    class State(AverageState):
        """The sum of the column, and rows."""

    @foreign_arrays
    def get_state(self, tensor: Any) -> State:
        """Sum and count of a batch."""
        name = type(self).__name__
        x = as_array(name, "tensor", tensor)
        if self.index is None:
            return self.State.from_values(x)
        if not x.ndim or not -x.shape[-1] <= self.index < x.shape[-1]:
            raise fail(name, "tensor", f"with a column {self.index}", describe(x))
        return self.State.from_values(x[..., self.index])


def _ratio(a: Any, b: Any) -> Any:
    """a / b of numbers or of 0-d arrays on a device; 0 where both are 0."""
    if isinstance(b, (int, float)):
        if not b:
            return 0.0
        return a / b
    # A device is not waited for: both cases in one expression.
    xp = get_ops(b).xp
    return a / xp.where(b == 0, 1.0, b)
