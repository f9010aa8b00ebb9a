"""JitOps: formulas compiled for this CPU, on NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ..jit.engine import compiled, reads_halves, vector_bytes
from ..jit.kernel import HEADER, function_text
from ..jit.lanes import STORAGE
from ..jit.memory import empty
from ..jit.plan import Array as Described
from ..jit.pool import run_everywhere
from ..jit.program import program
from ..jit.scan import ARGUMENTS, alignment_text, padded_width
from ..jit.trace import ELEMENT, LIBRARY
from .base import Array, compute_dtype
from .compiled import CompiledOps, row_contiguous
from .numpy_ops import NumpyOps

__all__ = ["JitOps"]

CLAIM = 16_384
"""Elements that a thread takes at a time."""
WORTH = {True: 65_536, False: 262_144}
"""How many elements are worth the 20 us that waking threads costs: with functions such as exp, and without."""

DATA = object.__basicsize__
"""Where NumPy's array objects hold the address of their data: behind Python's header, by NumPy's binary interface."""


def _address(array: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(array) + DATA).value or 0


if _address(_probe := np.zeros(1)) != _probe.ctypes.data:  # an interpreter that lays objects out in another way

    def _address(array: np.ndarray) -> int:
        return int(array.ctypes.data)


class _Kernel:
    """A compiled formula and the layout of its calls."""

    def __init__(self, text: str, numbers: list[int], scratch: int, arrays: int, bits: int, least: int) -> None:
        self.function, self.least = compiled(text), least
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

        if elements >= self.least and rows > step:
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
    scale: Any,
    weight: Any,
    values: bool,
    total: bool,
    grads: tuple[Any, ...] | None,
) -> _Kernel:
    """Trace, weigh and compile a formula for arrays of these dtypes and ranks."""
    made = program(formula, rows, dtype, arguments, scale, weight, values, total, grads)
    bits = 64 if dtype == np.float64 else 32
    text, scratch = function_text(made, bits, vector_bytes())
    least = WORTH[any(x.op in LIBRARY and x.rank == ELEMENT for x in made.graph.symbols.values())]
    return _Kernel(text, [x.args[0] for x in made.numbers], scratch, len(made.arrays) + len(made.outputs), bits, least)


@functools.lru_cache(maxsize=1024)
def _described(dtype: np.dtype, rank: int) -> Described | None:
    """One object for each dtype and rank, so that keys of kernels compare fast; None for what kernels cannot read."""
    if dtype.name == "float16" and not reads_halves():
        return None
    return Described(dtype.name, rank) if dtype.name in STORAGE and dtype.isnative else None


class JitOps(CompiledOps, NumpyOps):
    """NumPy arrays, with formulas compiled by LLVM: one pass over memory, on several threads."""

    name = "numba"
    flat_columns = 1024

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array, large ones in memory that was used before."""
        return empty(shape, dtype)

    address = staticmethod(_address)
    described = staticmethod(_described)
    kernel = staticmethod(_kernel)

    def totals(self, rows: int) -> Array:
        """One for each row."""
        return np.empty(rows)

    def added_up(self, totals: Array) -> float:
        """The sum of the rows' totals."""
        return float(totals[0] if len(totals) == 1 else np.add.reduce(totals))

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
        probs = log_probs if row_contiguous(log_probs) else np.ascontiguousarray(log_probs)
        target = None if out is None else out if row_contiguous(out) else np.empty(out.shape, out.dtype)
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
