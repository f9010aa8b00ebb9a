"""JitOps: formulas compiled for this CPU, on NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..jit.engine import compiled, vector_bytes
from ..jit.kernel import HEADER, STORAGE, Output, function_text
from ..jit.kernel import Array as Described
from ..jit.pool import run_everywhere
from ..jit.trace import ELEMENT, NUMBER, ROW, Symbol, trace
from .base import Array, compute_dtype
from .numpy_ops import NumpyOps

__all__ = ["JitOps"]

COLUMNS = 1024
"""Elements of a row of a flat array: its sum in float64 is one term of the total."""

CLAIM = 16_384
"""Elements that a thread takes at a time; less than twice that stays on the caller's thread."""

DATA = object.__basicsize__
"""Where NumPy's array objects hold the address of their data: behind Python's header, by NumPy's binary interface."""


def _address(array: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(array) + DATA).value or 0


if _address(_probe := np.zeros(1)) != _probe.ctypes.data:  # an interpreter that lays objects out in another way

    def _address(array: np.ndarray) -> int:
        return int(array.ctypes.data)


class _Kernel:
    """A compiled formula and the layout of its calls."""

    def __init__(self, text: str, numbers: list[int], scratch: int, arrays: int, bits: int) -> None:
        self.function = compiled(text)
        self.numbers, self.scratch, self.bytes = numbers, scratch, bits // 8
        self.layout = struct.Struct(f"={len(HEADER) + 2 * arrays}q{len(numbers)}d")
        self.buffer = ctypes.c_char * self.layout.size

    def __call__(
        self, rows: int, columns: int, elements: int, arrays: Sequence[np.ndarray], strides: Sequence[int],
        numbers: Sequence[float],
    ) -> None:  # fmt: skip
        """Run over all rows; threads share the call, whose first slot counts the blocks that are claimed."""
        step = max(1, CLAIM // columns)
        places = [x for pair in zip(map(_address, arrays), strides) for x in pair]
        call = bytearray(self.layout.pack(0, rows, columns, elements, step, *places, *numbers))
        shared = self.buffer.from_buffer(call)
        size = self.scratch * (columns + vector_bytes()) * self.bytes

        def work() -> None:
            scratch = np.empty(size, np.uint8) if size else None
            self.function(shared, None if scratch is None else _address(scratch))

        claims = -(-rows // step)
        if claims > 1 and elements >= 2 * CLAIM:
            run_everywhere(work, claims)
        else:
            work()


@functools.lru_cache(maxsize=4096)
def _kernel(
    formula: Callable[..., Any],
    rows: bool,
    dtype: str,
    arguments: tuple[Any, ...],
    weight: Any,
    values: bool,
    total: bool,
    grads: tuple[str, ...] | None,
) -> _Kernel:
    """Trace, weigh and compile a formula for arrays of these dtypes and ranks."""
    arrays = {i: x for i, x in enumerate(arguments) if isinstance(x, Described)}
    traced = [
        (x.rank, "b" if rows and x.dtype == "bool" else "i" if rows and "int" in x.dtype and x.rank == ROW else "f")
        if isinstance(x, Described)
        else x
        for x in arguments
    ]
    graph, (found, *slopes) = trace(formula, traced)
    scale = graph.make("number", (len(arguments),), NUMBER, "f")
    factor = None
    if isinstance(weight, Described):
        arrays[len(arguments) + 1] = weight
        factor = graph.make("input", (len(arguments) + 1,), weight.rank, "f")
    elif weight is float:
        factor = graph.make("number", (len(arguments) + 1,), NUMBER, "f")

    def weighted(x: Symbol, by: Symbol | None) -> Symbol:
        return x if factor is None or by is None else graph.where(graph.call("eq", factor, 0.0), 0.0, x * by)

    outputs = []
    for slope, stored in zip(slopes, grads or (), strict=grads is not None):
        by = scale if factor is None else scale * factor
        outputs.append(Output(weighted(slope, by) if factor is not None else slope * by, Described(stored, ELEMENT)))
    rank = ROW if rows else ELEMENT
    kept = weighted(found, factor)
    if values:
        outputs.append(Output(kept, Described(dtype, rank)))
    if total:
        if not rows:
            each = kept if kept.rank == ELEMENT else graph.make("spread", (kept,), ELEMENT, "f")
            kept = graph.reduce("row_sum", each)
        outputs.append(Output(kept, Described("float64", ROW)))
    bits = 64 if dtype == "float64" else 32
    text, numbers, scratch = function_text(graph, arrays, outputs, bits, vector_bytes())
    return _Kernel(text, numbers, scratch, len(arrays) + len(outputs), bits)


@functools.lru_cache(maxsize=256)
def _name(dtype: np.dtype) -> str | None:
    """A dtype that kernels can read."""
    return dtype.name if dtype.name in STORAGE and dtype.isnative else None


class JitOps(NumpyOps):
    """NumPy arrays, with formulas compiled by LLVM: one pass over memory, on several threads."""

    name = "numba"

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
        first: np.ndarray = guesses[0]
        shape, dtype = first.shape, compute_dtype(first.dtype)
        plain = (formula, guesses, others, weight, scale)
        options: dict[str, Any] = {"static": static, "rows": rows, "values": values, "total": total, "out": out}
        given = [*guesses, *others, weight]
        arrays = [x for x in (*given, *(out or ())) if isinstance(x, np.ndarray)]
        if not first.size or any(_name(x.dtype) is None for x in arrays):
            return super().run(*plain, **options)
        flat = not rows and all(x.shape == shape and x.flags.c_contiguous for x in arrays)
        if flat:
            elements, columns = first.size, min(first.size, COLUMNS)
            count = -(-elements // columns)
        else:
            columns = shape[-1] if shape else 1
            elements, count = first.size, first.size // columns
        described, laid, strides, numbers = [], [], [], {}
        for i, x in enumerate(given[:-1]):
            if isinstance(x, np.ndarray):
                item, array, stride = _laid(x, flat, rows, shape, count, columns)
                if item is float:
                    numbers[i] = float(x.reshape(()))
                else:
                    laid.append(array)
                    strides.append(stride)
                described.append(item)
            elif isinstance(x, float):
                described.append(float)
                numbers[i] = x
            else:
                described.append(x)
        described.extend(static)
        numbers[len(described)] = float(scale)
        weighs = None
        if weight is not None:
            weighs, array, stride = _laid(weight, flat, rows, shape, count, columns)
            if weighs is float:
                numbers[len(described) + 1] = float(weight.reshape(()))
            else:
                laid.append(array)
                strides.append(stride)
        targets = None
        if out is not None:
            targets = [x if flat or _row_contiguous(x) and x.ndim == 2 else np.empty(shape, x.dtype) for x in out]
            for x in targets:
                laid.append(x)
                strides.append(columns * x.itemsize if x.ndim != 2 or flat else x.strides[0])
        kernel = _kernel(
            formula,
            rows,
            dtype.name,
            tuple(described),
            weighs,
            values,
            total,
            None if out is None else tuple(x.dtype.name for x in out),
        )
        found = totals = None
        if values:
            found = np.empty((count, 1) if rows else shape, dtype)
            laid.append(found)
            strides.append(dtype.itemsize if rows else columns * dtype.itemsize)
        if total:
            totals = np.empty(count)
            laid.append(totals)
            strides.append(8)
        kernel(count, columns, elements, laid, strides, [numbers[i] for i in kernel.numbers])
        for made, target in zip(targets or (), out or ()):
            if made is not target:
                target[...] = made
        return found, None if totals is None else float(totals[0] if count == 1 else totals.sum())


def _row_contiguous(x: np.ndarray) -> bool:
    return x.ndim > 0 and (x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def _laid(
    x: np.ndarray, flat: bool, rows: bool, shape: tuple[int, ...], count: int, columns: int
) -> tuple[Any, np.ndarray, int]:
    """An array as (what a kernel reads, the array or a copy of rows that lie together, the bytes from row to row)."""
    name = x.dtype.name
    if flat:
        return Described(name, ELEMENT), x, columns * x.itemsize
    if rows:
        if x.ndim == 1:
            return Described(name, ROW), x, x.strides[0]
        if not _row_contiguous(x):
            x = np.ascontiguousarray(x)
        return Described(name, ELEMENT), x, 0 if len(x) == 1 else x.strides[0]
    if x.size == 1:
        return float, x, 0
    x = np.broadcast_to(x, shape)
    if x.strides[-1] == 0 and columns > 1:
        x = x[..., :1].reshape(count)
        return Described(name, ROW), x, x.strides[0]
    x = x.reshape(count, columns)
    if not _row_contiguous(x):
        x = np.ascontiguousarray(x)
    return Described(name, ELEMENT), x, x.strides[0]
