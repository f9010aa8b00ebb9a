"""CompiledOps: how the arrays of a call lie in memory, for backends that compile formulas."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from ..formulas.arguments import ELEMENT, NUMBER, ROW, constant, surroundings
from ..formulas.program import ArrayType, Request
from .base import Array, Ops, argument_in_words, check_indices, check_numbers, compute_dtype, fits, fitting, wrong_shape

__all__ = ["CompiledOps", "Kernel", "row_contiguous"]


class Kernel(Protocol):
    """A formula, compiled for arrays of some dtypes and ranks."""

    indices: list[int]
    """The numbers of the arguments by which elements are picked out of rows."""

    def __call__(self, rows: int, columns: int, elements: int, addresses: list[int], scalars: dict[int, float]) -> bool:
        """Run over rows of columns; the last row of a flat array may have fewer elements.

        addresses: of each array, inputs first and outputs after them: its address and the bytes from row to row.
        scalars: numbers that differ from call to call, by their argument.
        Returns whether an index was outside of its row, where that can be known without waiting for a device: NaN was
        taken in its place.
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
    def array_type(dtype: Any, rank: int, /) -> ArrayType | None:
        """One object for each dtype and rank, so that keys compare fast; None for what kernels cannot read."""

    @staticmethod
    @abstractmethod
    def kernel(request: Request, /) -> Kernel:
        """The kernel of a formula for arrays of these dtypes and ranks."""

    @abstractmethod
    def totals(self, rows: int) -> Array:
        """Where a kernel stores totals in float64."""

    def sum_of_totals(self, totals: Array) -> Any:
        """The total of what a kernel stored."""
        return totals

    def run(
        self,
        formula: Callable[..., tuple[Array, ...]],
        guesses: Sequence[Array],
        others: Sequence[Any],
        weight: Array | None,
        scale: Any,
        *,
        static_options: tuple[Any, ...] = (),
        rows: bool,
        values: bool,
        total: bool,
        out: Sequence[Array] | None,
    ) -> tuple[Array | None, Any]:
        """As the generic body, compiled."""
        self._check_guesses(formula, guesses, out, rows)
        weight = self.as_weight(weight)
        inputs = [*guesses, *others]

        # In the order in which kernels have them: inputs, scale and weight, gradients, values, totals.
        call = _Call(self, formula, rows, inputs, weight, out)
        types = call.add_arguments(inputs, static_options)
        scale_type = call.add_factor(scale, len(types))
        weight_type = None
        if weight is not None:
            weight_type = call.add_factor(weight, len(types) + 1)
        gradient_types = None
        if out is not None:
            gradient_types = call.add_gradients(out)
        if not call.is_readable:
            return super().run(
                formula, guesses, others, weight, scale,
                static_options=static_options, rows=rows, values=values, total=total, out=out,
            )  # fmt: skip
        value_array = None
        if values:
            value_array = call.add_values()
        totals = None
        if total:
            totals = call.add_totals()

        kernel = self.kernel(
            Request(
                formula, rows, call.dtype, types, scale_type, weight_type, values, total, gradient_types,
                surroundings(formula),
            )
        )  # fmt: skip
        # Looking at all ids before would cost more than a small call: kernels say whether one was wrong.
        if kernel(call.count, call.columns, call.size, call.addresses, call.scalars):
            for i in kernel.indices:
                check_indices(formula, inputs[i], call.columns)
        for gradient, target in call.copies:
            target[...] = gradient
        if totals is None:
            return value_array, None
        return value_array, self.sum_of_totals(totals)

    def _check_guesses(self, formula: Any, guesses: Sequence[Array], out: Sequence[Array] | None, rows: bool) -> None:
        """Raise unless guesses and gradients have one shape."""
        # A kernel reads as much of each guess, and writes as much of each gradient, as the first guess has.
        shape = guesses[0].shape
        for x in (*guesses[1:], *(out or ())):
            if x.shape != shape:
                self._check_shapes(formula, guesses, (), out, rows)


class _Call:
    """One call as its kernel takes it: arrays as rows of numbers that lie together, by their addresses.

    A formula of rows has the rows of the guesses. Elements are one long row if all arrays are contiguous, which is cut
    into rows of `flat_columns` for threads to share; otherwise their rows are those of the last axis.
    """

    __slots__ = (
        "addresses", "alive", "columns", "copies", "count", "dtype", "flat", "formula", "is_readable", "ops", "rows",
        "scalars", "shape", "size",
    )  # fmt: skip

    def __init__(
        self, ops: CompiledOps, formula: Any, rows: bool, inputs: list[Any], weight: Any, out: Sequence[Array] | None
    ) -> None:
        guess = inputs[0]
        self.ops, self.formula, self.rows = ops, formula, rows
        self.shape, self.size, self.dtype = guess.shape, guess.size, compute_dtype(guess.dtype)
        # Of each array, its address and the bytes from row to row.
        self.addresses: list[int] = []
        # Numbers that differ from call to call, by their argument.
        self.scalars: dict[int, float] = {}
        # Copies would vanish while the kernel reads them.
        self.alive: list[Array] = []
        # Gradients that the kernel cannot write where they belong, and where that is.
        self.copies: list[tuple[Array, Array]] = []
        # Kernels know fewer dtypes than NumPy, and no empty arrays.
        self.is_readable = self.size > 0

        self.flat = not rows and self._is_flat(inputs, weight, out)
        if self.flat:
            self.columns = min(self.size, ops.flat_columns)
            self.count = -(-self.size // self.columns) if self.size else 0
        else:
            self.columns = self.shape[-1]
            self.count = math.prod(self.shape[:-1])

    def _is_flat(self, inputs: list[Any], weight: Any, out: Sequence[Array] | None) -> bool:
        # One axis would be one row, which is one thread's: its arrays are copied where they do not lie together.
        if len(self.shape) < 2:
            return True
        return all(self._lies_together(x) for x in (*inputs, weight, *(out or ())))

    def _lies_together(self, x: Any) -> bool:
        """Whether something lies in memory as a contiguous array of the guesses' shape does, or is one number."""
        if not isinstance(x, self.ops.xp.ndarray):
            return True
        return bool(x.size == 1 or (x.shape == self.shape and x.flags.c_contiguous))

    # Inputs

    def add_arguments(self, inputs: list[Any], static_options: tuple[Any, ...]) -> tuple[Any, ...]:
        """Take the arguments of the formula; returns what it is traced for, as a `Request` has it."""
        types = [None if x is None else self.add_argument(x, i) for i, x in enumerate(inputs)]
        if static_options:
            types.extend(map(constant, static_options))
        return tuple(types)

    def add_argument(self, x: Any, number: int) -> Any:
        """Take an argument of the formula; returns what the formula is traced for."""
        if isinstance(x, (float, np.floating)):
            self.scalars[number] = fitting(float(x), self.dtype)
            return float
        if isinstance(x, self.ops.xp.ndarray):
            return self.add_array(x, number)
        return constant(x)

    def add_factor(self, x: Any, number: int) -> Any:
        """Take the scale or the weight. It may be as small as it is, where an option that vanishes would do harm."""
        if isinstance(x, self.ops.xp.ndarray):
            return self.add_array(x, number)
        self.scalars[number] = float(x)
        return float

    def add_array(self, x: Array, number: int) -> Any:
        """Take an array, or a copy of it; returns its type, or `float` for an array of one number."""
        ops = self.ops
        # A subclass may have a mask, or other rules.
        if type(x) is not ops.xp.ndarray:
            check_numbers(self.formula, number, x)
            x = ops.xp.asarray(x)
        if x.ndim == 0 or (x.size == 1 and not self.rows):
            # Reading the number would make the host wait for a device; there the kernel reads it.
            if not ops.on_device:
                self.scalars[number] = float(x.reshape(()))
                return float
            rank, row_bytes = NUMBER, 0
        elif self.rows:
            rank, x, row_bytes = self._rows_of(x, number)
        elif self.flat:
            rank, x, row_bytes = ELEMENT, self._flattened(x, number), self.columns * x.itemsize
        else:
            rank, x, row_bytes = self._rows_of_elements(x, number)

        array_type = ops.array_type(x.dtype, rank)
        if array_type is None:
            self.is_readable = False
        self.alive.append(x)
        self.addresses.append(ops.address(x))
        self.addresses.append(row_bytes)
        return array_type

    def _rows_of(self, x: Array, number: int) -> tuple[int, Array, int]:
        """An argument of a formula of rows: (its rank, the array or a copy, the bytes from row to row)."""
        if not fits(x.shape, self.shape, True):
            raise wrong_shape(self.formula, argument_in_words(self.formula, number), x, self.shape, True)
        if x.ndim == 1:
            return ROW, x, x.strides[0]
        if not row_contiguous(x):
            x = self.ops.xp.ascontiguousarray(x)
        # One row for all rows is read again for each.
        row_bytes = 0 if len(x) == 1 else x.strides[0]
        return ELEMENT, x, row_bytes

    def _flattened(self, x: Array, number: int) -> Array:
        """An argument of a formula of elements whose numbers lie together in the guesses' shape."""
        if self._lies_together(x):
            return x
        return self.ops.xp.ascontiguousarray(self._broadcast(x, number))

    def _rows_of_elements(self, x: Array, number: int) -> tuple[int, Array, int]:
        """An argument of a formula of elements, with rows along the last axis."""
        x = self._broadcast(x, number)
        # The same number in all columns is a number of the row.
        if x.strides[-1] == 0 and self.columns > 1:
            x = x[..., :1].reshape(self.count)
            return ROW, x, x.strides[0]
        x = x.reshape(self.count, self.columns)
        if not row_contiguous(x):
            x = self.ops.xp.ascontiguousarray(x)
        return ELEMENT, x, x.strides[0]

    def _broadcast(self, x: Array, number: int) -> Array:
        """An argument of a formula of elements, in the guesses' shape."""
        if not fits(x.shape, self.shape, False):
            raise wrong_shape(self.formula, argument_in_words(self.formula, number), x, self.shape, False)
        return self.ops.xp.broadcast_to(x, self.shape)

    # Outputs

    def add_gradients(self, out: Sequence[Array]) -> tuple[ArrayType, ...]:
        """Take the arrays for gradients, or new ones where a kernel cannot write to those."""
        types = []
        for target in out:
            gradient, row_bytes = target, self.columns * target.itemsize
            if not self._is_writable(target):
                gradient = self.ops.xp.empty(self.shape, target.dtype)
                self.copies.append((gradient, target))
            elif not self.flat:
                row_bytes = target.strides[0]
            self.add_output(gradient, row_bytes)
            array_type = self.ops.array_type(gradient.dtype, ELEMENT)
            if array_type is None:
                self.is_readable = False
            else:
                types.append(array_type)
        return tuple(types)

    def _is_writable(self, target: Array) -> bool:
        if self.flat:
            return self._lies_together(target)
        return target.ndim == 2 and row_contiguous(target)

    def add_values(self) -> Array:
        """Make the array of the values: one per row, or one per element."""
        shape, columns = self.shape, self.columns
        if self.rows:
            shape, columns = (self.count, 1), 1
        values = self.ops.xp.empty(shape, self.dtype)
        self.add_output(values, columns * self.dtype.itemsize)
        return values

    def add_totals(self) -> Array:
        """Make the array of the totals of rows."""
        totals = self.ops.totals(self.count)
        self.add_output(totals, totals.itemsize)
        return totals

    def add_output(self, target: Array, row_bytes: int) -> None:
        """Take an array that the kernel writes to."""
        self.addresses.append(self.ops.address(target))
        self.addresses.append(row_bytes)


def row_contiguous(x: Array) -> bool:
    """Whether the numbers of each row lie together."""
    return bool(x.ndim > 0 and (x.strides[-1] == x.itemsize or x.shape[-1] == 1))
