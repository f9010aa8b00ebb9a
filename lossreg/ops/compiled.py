"""CompiledOps: how the arrays of a call lie in memory, for backends that compile formulas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from ..formulas.arguments import ELEMENT, NUMBER, ROW, constant, surroundings
from ..formulas.program import ArrayType
from .base import Array, Ops, check_indices, check_numbers, compute_dtype, fits, fitting, limits, wrong_shape

__all__ = ["CompiledOps", "Kernel", "row_contiguous"]


NOTHING = constant(None)


class Kernel(Protocol):
    """A formula, compiled for arrays of some dtypes and ranks."""

    indices: list[int]
    """The numbers of the arguments by which elements are picked out of rows."""

    def __call__(self, rows: int, columns: int, elements: int, places: list[int], numbers: dict[int, float]) -> bool:
        """Run over rows of columns; the last row of a flat array may have fewer elements.

        places: the address and the bytes from row to row of each array, inputs first and outputs after them.
        numbers: by their argument.   Returns whether an index was outside of its row, where that can be known without
        waiting for a device: NaN was taken in its place.
        """


class CompiledOps(Ops, ABC):
    """Formulas run as kernels: one pass over memory where arrays lie in rows of contiguous numbers."""

    flat_columns: ClassVar[int]
    """Elements of a row of a flat array: its sum in float64 is one term of the total."""

    @staticmethod
    @abstractmethod
    def address(array: Any, /) -> int:
        """Where the data of an array begins."""

    @staticmethod
    @abstractmethod
    def described(dtype: Any, rank: int, /) -> ArrayType | None:
        """One object for each dtype and rank, so that keys compare fast; None for what kernels cannot read."""

    @staticmethod
    @abstractmethod
    def kernel(*key: Any) -> Kernel:
        """The kernel of a formula for arrays of these dtypes and ranks; takes what `program` takes."""

    @abstractmethod
    def totals(self, rows: int) -> Array:
        """Where a kernel stores totals in float64."""

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
        """As the generic body, compiled."""
        xp, array_type, on_device, address = self.xp, self.xp.ndarray, self.on_device, self.address
        first = guesses[0]
        shape, size, dtype = first.shape, first.size, compute_dtype(first.dtype)
        least, most = limits(dtype)
        weight = weight if weight is None else self.as_weight(weight)
        given = [*guesses, *others, weight]
        # a kernel reads as much of each as of the first
        for x in (*guesses[1:], *(out or ())):
            if x.shape != shape:
                self._check_shapes(formula, guesses, (), out, rows)

        def is_flat(x: Any) -> bool:
            """Whether something lies in memory as a contiguous array of this shape does, or is one number."""
            return not isinstance(x, array_type) or x.size == 1 or x.shape == shape and x.flags.c_contiguous

        flat = not rows
        for x in () if rows else (*given, *(out or ())):
            flat = flat and is_flat(x)
        if len(shape) == 1 and not flat and not rows:  # one row would be one thread's
            for i, x in enumerate(given):
                if not is_flat(x):
                    given[i] = xp.ascontiguousarray(_broadcast(xp, formula, i, x, shape))
            flat = True
        columns = min(size, self.flat_columns) if flat else shape[-1] if shape else 1
        count = -(-size // columns) if columns else 0
        options_end = len(given) - 1 + len(static)
        numbers: dict[int, float] = {}
        places: list[int] = []
        used: list[Array] = []  # keeps copies alive
        readable = count > 0

        def lay(x: Any, place: int) -> Any:
            """What the kernel is compiled for; where the data lies goes into `places`, or a number into `numbers`."""
            nonlocal readable
            # the usual types first: a small call takes as long as these questions
            if x is None:
                return NOTHING
            kind = type(x)
            if kind is float or isinstance(x, np.floating):
                number = float(x)
                # options are made to fit; the scale and the weight, behind them, may be as small as they are
                fits_already = least <= abs(number) <= most or place >= options_end
                numbers[place] = number if fits_already else fitting(number, dtype)
                return float
            if kind is not array_type:
                if not isinstance(x, array_type):
                    return constant(x)
                check_numbers(formula, place, x)  # a subclass may have a mask, or other rules
                x = xp.asarray(x)
            if x.ndim == 0 or x.size == 1 and not rows:
                if not on_device:
                    numbers[place] = float(x.reshape(()))
                    return float
                rank, stride = NUMBER, 0
            elif flat:
                rank, stride = ELEMENT, columns * x.itemsize
            else:
                rank, x, stride = _laid(xp, formula, place, x, rows, shape, count)
            item = self.described(x.dtype, rank)
            readable = readable and item is not None
            used.append(x)
            places.append(address(x))
            places.append(stride)
            return item

        described = [lay(x, i) for i, x in enumerate(given[:-1])] if readable else []
        described.extend([constant(x) for x in static])
        scales = weighs = None
        if readable:
            scales = lay(scale, len(described))
            weighs = None if weight is None else lay(given[-1], len(described) + 1)
        grads, targets = None, []
        if out is not None:
            targets = [
                x if (is_flat(x) if flat else x.ndim == 2 and row_contiguous(x)) else xp.empty(shape, x.dtype)
                for x in out
            ]
            for x in targets:
                places.append(address(x))
                places.append(x.strides[0] if x.ndim == 2 and not flat else columns * x.itemsize)
            grads = tuple([self.described(x.dtype, ELEMENT) for x in out])
            readable = readable and None not in grads
        if not readable:
            options: dict[str, Any] = {"static": static, "rows": rows, "values": values, "total": total, "out": out}
            return super().run(formula, guesses, others, weight, scale, **options)
        found = totals = None
        if values:
            found = xp.empty((count, 1) if rows else shape, dtype)
            places.append(address(found))
            places.append(dtype.itemsize if rows else columns * dtype.itemsize)
        if total:
            totals = self.totals(count)
            places.append(address(totals))
            places.append(8)
        kernel = self.kernel(
            formula, rows, dtype, tuple(described), scales, weighs, values, total, grads, surroundings(formula)
        )
        if kernel(count, columns, size, places, numbers):
            for i in kernel.indices:
                check_indices(formula, given[i], columns)
        for made, target in zip(targets, out or ()):
            if made is not target:
                target[...] = made
        return found, None if totals is None else self.added_up(totals)

    def added_up(self, totals: Array) -> Any:
        """The total of what a kernel stored."""
        return totals


def row_contiguous(x: Array) -> bool:
    """Whether the numbers of each row lie together."""
    return bool(x.ndim > 0 and (x.strides[-1] == x.itemsize or x.shape[-1] == 1))


def _laid(
    xp: Any, formula: Any, place: int, x: Array, rows: bool, shape: tuple[int, ...], count: int
) -> tuple[int, Array, int]:
    """An array as (its rank, the array or a copy of rows that lie together, the bytes from row to row)."""
    if rows:
        if not fits(x.shape, shape, rows):
            raise wrong_shape(formula, f"argument {place + 1}", x, shape, rows)
        if x.ndim == 1:
            return ROW, x, x.strides[0]
        if not row_contiguous(x):
            x = xp.ascontiguousarray(x)
        return ELEMENT, x, 0 if len(x) == 1 else x.strides[0]
    x = _broadcast(xp, formula, place, x, shape)
    if x.strides[-1] == 0 and shape[-1] > 1:
        x = x[..., :1].reshape(count)
        return ROW, x, x.strides[0]
    x = x.reshape(count, shape[-1])
    if not row_contiguous(x):
        x = xp.ascontiguousarray(x)
    return ELEMENT, x, x.strides[0]


def _broadcast(xp: Any, formula: Any, place: int, x: Array, shape: tuple[int, ...]) -> Array:
    """An argument of elements, in the guesses' shape."""
    if not fits(x.shape, shape, False):
        raise wrong_shape(formula, f"argument {place + 1}", x, shape, False)
    return xp.broadcast_to(x, shape)
