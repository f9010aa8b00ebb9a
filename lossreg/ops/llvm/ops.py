"""JitOps: formulas compiled for this CPU, on NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any

import numpy as np

from ...formulas.arguments import ELEMENT
from ...formulas.graph import LIBRARY
from ...formulas.program import ArrayType, Request, array_type, program
from ..base import Array, compute_dtype
from ..compiled import CompiledOps, row_contiguous
from ..numpy import NumpyOps
from .buffers import empty
from .compiler import READS_HALVES, VECTOR_BYTES, Machine, compiled
from .ctc import ARGUMENTS, alignment_text, padded_width
from .gate import SHARED_SLOTS, shared_slots
from .kernel import HEADER, OUTSIDE, function_text
from .threads import ask_helpers
from .vectors import STORAGE

__all__ = ["JitOps"]

BLOCK_SIZE = 16_384
"""Elements that a thread takes at a time."""
PARALLEL_MIN = {True: 65_536, False: 262_144}
"""How many elements are worth the 20 us that waking threads costs: with functions such as exp, and without."""

MAX_KERNELS = 512
"""Kernels that are kept, of about 100 KB each: a formula, for dtypes and ranks, and for values that it branches on."""

OUTSIDE_BYTES, ALL_INSIDE = slice(8 * OUTSIDE, 8 * OUTSIDE + 8), bytes(8)
"""Where a call says whether an index was outside of its row, and what stands there if none was."""

DATA = object.__basicsize__
"""Where NumPy's array objects hold the address of their data: behind Python's header, by NumPy's binary interface."""


def _address(array: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(array) + DATA).value or 0


if _address(_probe := np.zeros(1)) != _probe.ctypes.data:  # an interpreter that lays objects out in another way

    def _address(array: np.ndarray) -> int:
        return int(array.ctypes.data)


class _Kernel:
    """A compiled formula and the layout of its calls."""

    def __init__(
        self, text: str, scalars: list[int], indices: list[int], scratch: int, arrays: int, bits: int, parallel_min: int
    ) -> None:
        self.machine, self.parallel_min = compiled(text), parallel_min
        self.scalars, self.indices, self.scratch = scalars, indices, scratch * bits // 8
        self.layout = struct.Struct(f"={len(HEADER) + 2 * arrays}q{len(scalars)}d")
        self.buffer = ctypes.c_char * self.layout.size

    def __call__(self, rows: int, columns: int, elements: int, addresses: list[int], scalars: dict[int, float]) -> bool:
        """Run over all rows, alone or with helpers."""
        step = BLOCK_SIZE // columns or 1
        slots = self.layout.pack(
            *shared_slots, rows, columns, elements, step, *addresses, *[scalars[i] for i in self.scalars]
        )
        call = self.buffer.from_buffer_copy(slots)
        blocks = -(-rows // step) if elements >= self.parallel_min else 1
        _run(self.machine, call, self.scratch * (columns + VECTOR_BYTES), blocks)
        return bool(self.indices) and call.raw[OUTSIDE_BYTES] != ALL_INSIDE


def _run(machine: Machine, call: Any, scratch_bytes: int, blocks: int) -> None:
    """Run a call to its end; helpers take some of its blocks."""
    if blocks > 1:
        ask_helpers(functools.partial(_help, machine, call, scratch_bytes), blocks)
    scratch = np.empty(scratch_bytes, np.uint8)
    machine.run(call, _address(scratch))


def _help(machine: Machine, call: Any, scratch_bytes: int) -> None:
    """Help with a call, with scratch memory of this thread's own.

    The machine is an argument: its code must be in memory until the helper has left it.
    """
    scratch = np.empty(scratch_bytes, np.uint8)
    machine.help(call, _address(scratch))


@functools.lru_cache(maxsize=MAX_KERNELS)
def _kernel(request: Request) -> _Kernel:
    """Trace, weigh and compile a formula for arrays of these dtypes and ranks."""
    made = program(request)
    bits = 64 if request.dtype == np.float64 else 32
    text, scratch = function_text(made, bits, VECTOR_BYTES)
    has_functions = any(x.op in LIBRARY and x.rank == ELEMENT for x in made.graph.symbols.values())
    scalars = [x.args[0] for x in made.numbers]
    arrays = len(made.arrays) + len(made.outputs)
    return _Kernel(text, scalars, made.indices, scratch, arrays, bits, PARALLEL_MIN[has_functions])


@functools.lru_cache(maxsize=1024)
def _described(dtype: np.dtype, rank: int) -> ArrayType | None:
    """What a kernel is compiled for; None for what kernels cannot read."""
    if dtype.name == "float16" and not READS_HALVES:
        return None
    return array_type(dtype.name, rank) if dtype.name in STORAGE and dtype.isnative else None


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
        if array.dtype.kind != "f" or array.size < BLOCK_SIZE:
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
        width, lanes = padded_width(states.shape[1], VECTOR_BYTES), 2 * VECTOR_BYTES // 8
        probs = log_probs if row_contiguous(log_probs) else np.ascontiguousarray(log_probs)
        target = out
        if out is not None and not row_contiguous(out):
            target = np.empty(out.shape, out.dtype)
        # states beyond the last are blanks: what is read for them is NaN only where that of a state is
        padded = np.repeat(states[:, :1].astype(np.int64), width, axis=1)
        padded_leaps = np.zeros((n, width + lanes), np.bool_)
        padded[:, : states.shape[1]], padded_leaps[:, : states.shape[1]] = states, leaps
        found, weights = np.empty(n), np.zeros(n) if slopes is None else np.ascontiguousarray(slopes, np.float64)
        arrays = (probs, padded, padded_leaps, *(np.ascontiguousarray(x, np.int64) for x in (frames, last)))
        given = dict(
            zip(("probs", "states", "leaps", "frames", "last"), map(_address, arrays)),
            **dict(zip(SHARED_SLOTS, shared_slots)), sequences=n, classes=classes, width=width, time=time,
            probs_time=probs.strides[0], probs_sequence=probs.strides[1],
            likelihoods=_address(found), slopes=_address(weights),
            out=0 if target is None else _address(target),
            out_time=0 if target is None else target.strides[0],
            out_sequence=0 if target is None else target.strides[1],
        )  # fmt: skip
        call = (ctypes.c_int64 * len(ARGUMENTS))(*(given[name] for name in ARGUMENTS))
        machine = _aligner(probs.dtype.name, None if target is None else target.dtype.name, logits)
        size = (time + 1) * (width + 2) + 2 * width + 3 * lanes + classes
        _run(machine, call, 8 * size, n if time * width * n >= BLOCK_SIZE else 1)
        if target is not out and out is not None:
            out[...] = target
        return found


@functools.lru_cache(maxsize=16)
def _aligner(dtype: str, stored: str | None, logits: bool) -> Machine:
    return compiled(alignment_text(dtype, stored, logits, VECTOR_BYTES))


def _outside(xp: Any, x: Any, domain: Any) -> tuple[Any, ...]:
    """1 where a number is not in a domain."""
    return (xp.where(domain.holds(x), 0.0, 1.0),)
