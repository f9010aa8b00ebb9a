"""JitOps: formulas compiled for this CPU, on NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..jit.engine import compiled, reads_halves, vector_bytes
from ..jit.kernel import HEADER, function_text
from ..jit.lanes import STORAGE
from ..jit.memory import empty
from ..jit.plan import Array as Described
from ..jit.plan import Output
from ..jit.pool import run_everywhere
from ..jit.scan import ARGUMENTS, alignment_text, padded_width
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
        self.numbers, self.scratch, self.padding = numbers, scratch * bits // 8, vector_bytes()
        self.layout = struct.Struct(f"={len(HEADER) + 2 * arrays}q{len(numbers)}d")
        self.buffer = ctypes.c_char * self.layout.size

    def __call__(self, rows: int, columns: int, elements: int, places: list[int], numbers: dict[int, float]) -> None:
        """Run over all rows; threads share the call, whose first slot counts the blocks that are claimed."""
        step = CLAIM // columns or 1
        slots = self.layout.pack(0, rows, columns, elements, step, *places, *[numbers[i] for i in self.numbers])
        call = self.buffer.from_buffer_copy(slots)
        size = self.scratch * (columns + self.padding)

        def work() -> None:
            scratch = np.empty(size, np.uint8)
            self.function(call, _address(scratch))

        if elements >= 2 * CLAIM and rows > step:
            run_everywhere(work, -(-rows // step))
        elif size:
            work()
        else:
            self.function(call, None)


@functools.lru_cache(maxsize=4096)
def _kernel(
    formula: Callable[..., Any],
    rows: bool,
    dtype: np.dtype,
    arguments: tuple[Any, ...],
    weight: Any,
    values: bool,
    total: bool,
    grads: tuple[Any, ...] | None,
) -> _Kernel:
    """Trace, weigh and compile a formula for arrays of these dtypes and ranks."""
    arrays = {i: x for i, x in enumerate(arguments) if isinstance(x, Described)}
    traced = [
        (x.rank, "b" if rows and x.dtype == "bool" else "i" if rows and "int" in x.dtype and x.rank == ROW else "f")
        if isinstance(x, Described)
        else x
        for x in arguments
    ]
    graph, (found, *slopes) = trace(formula, traced, rows)
    if rows and found.rank == ELEMENT or grads is not None and len(slopes) != len(grads):
        expected = f"one value {'a row' if rows else 'an element'} and a slope for each guess"
        raise TypeError(f"Cannot compile {formula.__qualname__}: expected it to return {expected}.")
    scale = graph.make("number", (len(arguments),), NUMBER, "f")
    factor = None
    if isinstance(weight, Described):
        arrays[len(arguments) + 1] = weight
        factor = graph.make("input", (len(arguments) + 1,), weight.rank, "f")
    elif weight is float:
        factor = graph.make("number", (len(arguments) + 1,), NUMBER, "f")

    def weighted(x: Symbol, by: Symbol) -> Symbol:
        return graph.where(graph.call("eq", factor, 0.0), 0.0, x * by)

    outputs = []
    for slope, stored in zip(slopes, grads or (), strict=grads is not None):
        outputs.append(Output(slope * scale if factor is None else weighted(slope, scale * factor), stored))
    kept = found if factor is None else weighted(found, factor)
    if values:
        outputs.append(Output(kept, Described(dtype.name, ROW if rows else ELEMENT)))
    if total:
        if not rows:
            each = kept if kept.rank == ELEMENT else graph.make("spread", (kept,), ELEMENT, "f")
            kept = graph.reduce("row_sum", each)
        outputs.append(Output(kept, Described("float64", ROW)))
    bits = 64 if dtype == np.float64 else 32
    text, numbers, scratch = function_text(graph, arrays, outputs, bits, vector_bytes())
    return _Kernel(text, numbers, scratch, len(arrays) + len(outputs), bits)


@functools.lru_cache(maxsize=1024)
def _described(dtype: np.dtype, rank: int) -> Described | None:
    """One object for each dtype and rank, so that keys of kernels compare fast; None for what kernels cannot read."""
    if dtype.name == "float16" and not reads_halves():
        return None
    return Described(dtype.name, rank) if dtype.name in STORAGE and dtype.isnative else None


class JitOps(NumpyOps):
    """NumPy arrays, with formulas compiled by LLVM: one pass over memory, on several threads."""

    name = "numba"

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array, large ones in memory that was used before."""
        return empty(shape, dtype)

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
        shape, size = first.shape, first.size
        given = [*guesses, *others, weight]
        flat = not rows
        for x in () if rows else (*given, *(out or ())):
            flat = flat and _flat(x, shape)
        if len(shape) == 1 and not flat and not rows:  # one row would be one thread's
            given = [x if _flat(x, shape) else np.ascontiguousarray(np.broadcast_to(x, shape)) for x in given]
            flat = True
        columns = min(size, COLUMNS) if flat else shape[-1] if shape else 1
        count = -(-size // columns) if columns else 0
        numbers: dict[int, float] = {}
        places: list[int] = []
        used: list[np.ndarray] = []  # keeps copies alive
        readable = count > 0

        def lay(x: Any, place: int) -> Any:
            """What the kernel is compiled for; where the data lies goes into `places`, or a number into `numbers`."""
            nonlocal readable
            if x is None:
                return None
            if not isinstance(x, np.ndarray):
                if isinstance(x, (float, np.floating)):
                    numbers[place] = float(x)
                    return float
                return x
            if not rows and x.size == 1:
                numbers[place] = float(x.reshape(()))
                return float
            rank, x, stride = (ELEMENT, x, columns * x.itemsize) if flat else _laid(x, rows, shape, count, columns)
            item = _described(x.dtype, rank)
            readable = readable and item is not None
            used.append(x)
            places.append(_address(x))
            places.append(stride)
            return item

        described = [lay(x, i) for i, x in enumerate(given[:-1])] if readable else []
        described.extend(static)
        numbers[len(described)] = float(scale)
        weighs = None if weight is None or not readable else lay(given[-1], len(described) + 1)
        grads, targets = None, []
        if out is not None:
            targets = [
                x if (_flat(x, shape) if flat else x.ndim == 2 and _row_contiguous(x)) else np.empty(shape, x.dtype)
                for x in out
            ]
            for x in targets:
                places.append(_address(x))
                places.append(x.strides[0] if x.ndim == 2 and not flat else columns * x.itemsize)
            grads = tuple([_described(x.dtype, ELEMENT) for x in out])
            readable = readable and None not in grads
        if not readable:
            options: dict[str, Any] = {"static": static, "rows": rows, "values": values, "total": total, "out": out}
            return super().run(formula, guesses, others, weight, scale, **options)
        dtype = compute_dtype(first.dtype)
        found = totals = None
        if values:
            found = np.empty((count, 1) if rows else shape, dtype)
            places.append(_address(found))
            places.append(dtype.itemsize if rows else columns * dtype.itemsize)
        if total:
            totals = np.empty(count)
            places.append(_address(totals))
            places.append(8)
        kernel = _kernel(formula, rows, dtype, tuple(described), weighs, values, total, grads)
        kernel(count, columns, size, places, numbers)
        for made, target in zip(targets, out or ()):
            if made is not target:
                target[...] = made
        return found, None if totals is None else float(totals[0] if count == 1 else np.add.reduce(totals))

    def all_hold(self, domain: Any, array: Array) -> bool:
        """As the generic body, in one pass."""
        if array.dtype.kind != "f" or array.size < CLAIM:
            return super().all_hold(domain, array)
        options: dict[str, Any] = {"rows": False, "values": False, "total": True, "out": None}
        return bool(self.run(_outside, [array], (), None, 1.0, static=(domain,), **options)[1] == 0.0)

    def align(
        self,
        log_probs: Array,
        states: Array,
        leaps: Array,
        frames: Array,
        last: Array,
        slopes: Array | None,
        logits: bool,
        out: Array | None,
    ) -> Array:
        """As the generic body, compiled; threads share the sequences."""
        time, n, classes = log_probs.shape
        log_probs = log_probs.astype(compute_dtype(log_probs.dtype), copy=False)
        if not log_probs.size or out is not None and _described(out.dtype, ELEMENT) is None:
            return super().align(log_probs, states, leaps, frames, last, slopes, logits, out)
        width, lanes = padded_width(states.shape[1], vector_bytes()), 2 * vector_bytes() // 8
        probs = log_probs if _row_contiguous(log_probs) else np.ascontiguousarray(log_probs)
        target = None if out is None else out if _row_contiguous(out) else np.empty(out.shape, out.dtype)
        padded, padded_leaps = np.zeros((n, width), np.int64), np.zeros((n, width + lanes), np.bool_)
        padded[:, : states.shape[1]], padded_leaps[:, : states.shape[1]] = states, leaps
        found, weights = np.empty(n), np.zeros(n) if slopes is None else np.ascontiguousarray(slopes, np.float64)
        arrays = (probs, padded, padded_leaps, *(np.ascontiguousarray(x, np.int64) for x in (frames, last)))
        given = dict(
            zip(("probs", "states", "leaps", "frames", "last"), map(_address, arrays)),
            claimed=0, sequences=n, classes=classes, width=width, time=time,
            probs_time=probs.strides[0], probs_sequence=probs.strides[1],
            likelihoods=_address(found), slopes=_address(weights),
            out=0 if target is None else _address(target),
            out_time=0 if target is None else target.strides[0],
            out_sequence=0 if target is None else target.strides[1],
        )  # fmt: skip
        call = (ctypes.c_int64 * len(ARGUMENTS))(*(given[name] for name in ARGUMENTS))
        function = _aligner(probs.dtype.name, None if target is None else target.dtype.name, logits)
        size = (time + 1) * (width + 2) + 2 * width + 3 * lanes + classes

        def work() -> None:
            scratch = np.empty(size)
            function(call, _address(scratch))

        if n > 1 and time * width * n >= CLAIM:
            run_everywhere(work, n)
        else:
            work()
        if target is not out and out is not None:
            out[...] = target
        return found


@functools.lru_cache(maxsize=16)
def _aligner(dtype: str, stored: str | None, logits: bool) -> Callable[[Any, Any], None]:
    return compiled(alignment_text(dtype, stored, logits, vector_bytes()))


def _outside(xp: Any, x: Any, domain: Any) -> tuple[Any, ...]:
    """1 where a number is not in a domain."""
    return (xp.where(domain.holds(x), 0.0, 1.0),)


def _flat(x: Any, shape: tuple[int, ...]) -> bool:
    """Whether something lies in memory as a contiguous array of this shape does, or is one number."""
    return not isinstance(x, np.ndarray) or x.size == 1 or x.shape == shape and x.flags.c_contiguous


def _row_contiguous(x: np.ndarray) -> bool:
    return x.ndim > 0 and (x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def _laid(x: np.ndarray, rows: bool, shape: tuple[int, ...], count: int, columns: int) -> tuple[int, np.ndarray, int]:
    """An array as (its rank, the array or a copy of rows that lie together, the bytes from row to row)."""
    if rows:
        if x.ndim == 1:
            return ROW, x, x.strides[0]
        if not _row_contiguous(x):
            x = np.ascontiguousarray(x)
        return ELEMENT, x, 0 if len(x) == 1 else x.strides[0]
    x = np.broadcast_to(x, shape)
    if x.strides[-1] == 0 and columns > 1:
        x = x[..., :1].reshape(count)
        return ROW, x, x.strides[0]
    x = x.reshape(count, columns)
    if not _row_contiguous(x):
        x = np.ascontiguousarray(x)
    return ELEMENT, x, x.strides[0]
