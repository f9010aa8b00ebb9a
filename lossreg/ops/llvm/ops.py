"""LlvmOps: formulas compiled for this CPU, on NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any

import numpy as np

from ...formulas.arguments import ELEMENT
from ...formulas.graph import LIBRARY
from ...formulas.program import ArrayType, Program, Request, array_type, program
from ..base import Array, compute_dtype
from ..compiled import CompiledOps, row_contiguous
from ..ctc import Alignment
from ..numpy import NumpyOps
from .buffers import empty
from .compiler import READS_HALVES, VECTOR_BYTES, Machine, compiled
from .ctc import ARGUMENTS, alignment_text, numbers_per_vector, padded_width, scratch_bytes
from .gate import SHARED_SLOTS, shared_slots
from .kernel import HEADER, OUTSIDE, function_text
from .threads import ask_helpers
from .vectors import STORAGE

__all__ = ["LlvmOps"]

BLOCK_SIZE = 16_384
"""Elements that a thread takes at a time."""
PARALLEL_MIN = {True: 65_536, False: 262_144}
"""How many elements are worth the 20 us that waking threads costs: with functions such as exp, and without."""

MAX_KERNELS = 512
"""Kernels that are kept, of about 100 KB each: a formula, for dtypes and ranks, and for values that it branches on."""

SLOT_BYTES = 8
OUTSIDE_BYTES = slice(SLOT_BYTES * OUTSIDE, SLOT_BYTES * (OUTSIDE + 1))
"""Where a call says whether an index was outside of its row."""
ALL_INSIDE = bytes(SLOT_BYTES)
"""What stands there if none was."""

DATA = object.__basicsize__
"""Where NumPy's array objects hold the address of their data: behind Python's header, by NumPy's binary interface."""


def _address(array: np.ndarray) -> int:
    # `array.ctypes.data` makes two objects, which takes longer than all else that is done for an array of a call.
    return ctypes.c_void_p.from_address(id(array) + DATA).value or 0


if _address(_probe := np.zeros(1)) != _probe.ctypes.data:  # an interpreter that lays objects out in another way

    def _address(array: np.ndarray) -> int:
        return int(array.ctypes.data)


class _Kernel:
    """A compiled formula and the layout of its calls."""

    def __init__(self, traced: Program, dtype: np.dtype) -> None:
        text, scratch_rows = function_text(traced, 8 * dtype.itemsize, VECTOR_BYTES)
        self.machine = compiled(text)
        self.indices = traced.indices
        self.scalars: list[int] = [x.args[0] for x in traced.numbers]
        """The numbers of the arguments that are numbers of the call."""
        self.scratch_bytes_per_column = scratch_rows * dtype.itemsize

        symbols = traced.graph.symbols.values()
        has_functions = any(x.op in LIBRARY and x.rank == ELEMENT for x in symbols)
        self.parallel_min = PARALLEL_MIN[has_functions]

        arrays = len(traced.arrays) + len(traced.outputs)
        self.layout = struct.Struct(f"={len(HEADER) + 2 * arrays}q{len(self.scalars)}d")
        self.buffer = ctypes.c_char * self.layout.size

    def __call__(self, rows: int, columns: int, elements: int, addresses: list[int], scalars: dict[int, float]) -> bool:
        """Run over all rows, alone or with helpers."""
        rows_per_block = BLOCK_SIZE // columns or 1
        numbers = [scalars[i] for i in self.scalars]
        slots = self.layout.pack(*shared_slots, rows, columns, elements, rows_per_block, *addresses, *numbers)
        call = self.buffer.from_buffer_copy(slots)
        blocks = 1
        if elements >= self.parallel_min:
            blocks = -(-rows // rows_per_block)
        # A scratch row is as long as a row and a vector.
        _run(self.machine, call, self.scratch_bytes_per_column * (columns + VECTOR_BYTES), blocks)
        return bool(self.indices) and call.raw[OUTSIDE_BYTES] != ALL_INSIDE


def _run(machine: Machine, call: Any, scratch_size: int, blocks: int) -> None:
    """Run a call to its end; helpers take some of its blocks."""
    if blocks > 1:
        ask_helpers(functools.partial(_help, machine, call, scratch_size), blocks)
    scratch = np.empty(scratch_size, np.uint8)
    machine.run(call, _address(scratch))


def _help(machine: Machine, call: Any, scratch_size: int) -> None:
    """Help with a call, with scratch memory of this thread's own.

    The machine is an argument: its code must be in memory until the helper has left it.
    """
    scratch = np.empty(scratch_size, np.uint8)
    machine.help(call, _address(scratch))


@functools.lru_cache(maxsize=MAX_KERNELS)
def _kernel(request: Request) -> _Kernel:
    """Trace, weigh and compile a formula for arrays of these dtypes and ranks."""
    return _Kernel(program(request), request.dtype)


@functools.lru_cache(maxsize=1024)
def _array_type(dtype: np.dtype, rank: int) -> ArrayType | None:
    """What a kernel is compiled for; None for what kernels cannot read."""
    if dtype.name not in STORAGE or not dtype.isnative:
        return None
    if dtype.name == "float16" and not READS_HALVES:
        return None
    return array_type(dtype.name, rank)


class LlvmOps(CompiledOps, NumpyOps):
    """NumPy arrays, with formulas compiled by LLVM: one pass over memory, on several threads."""

    name = "llvm"
    flat_columns = 1024

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array, large ones in memory that was used before."""
        return empty(shape, dtype)

    address = staticmethod(_address)
    array_type = staticmethod(_array_type)
    kernel = staticmethod(_kernel)

    def totals(self, rows: int) -> Array:
        """One for each row."""
        return np.empty(rows)

    def sum_of_totals(self, totals: Array) -> float:
        """The sum of the rows' totals."""
        if len(totals) == 1:
            return float(totals[0])
        return float(np.add.reduce(totals))

    def all_hold(self, domain: Any, array: Array) -> bool:
        """As the generic body, in one pass."""
        if array.dtype.kind != "f" or array.size < BLOCK_SIZE:
            return super().all_hold(domain, array)
        _, count = self.run(
            _is_outside, [array], (), None, 1.0,
            static_options=(domain,), rows=False, values=False, total=True, out=None,
        )  # fmt: skip
        return bool(count == 0.0)

    def run_alignment(self, alignment: Alignment) -> Array:
        """As the generic body, compiled; threads share the sequences."""
        out = alignment.out
        dtype = compute_dtype(alignment.log_probs.dtype)
        if not alignment.log_probs.size or (out is not None and _array_type(out.dtype, ELEMENT) is None):
            return super().run_alignment(alignment)

        # Compiled code writes rows of contiguous numbers; into other arrays these are copied.
        target = out
        stored = None
        if out is not None:
            stored = out.dtype.name
            if not row_contiguous(out):
                target = np.empty(out.shape, out.dtype)
        likelihoods = np.empty(alignment.log_probs.shape[1])
        machine = _alignment_machine(dtype.name, stored, alignment.logits)
        _run_alignment(machine, alignment, dtype, likelihoods, target)
        if target is not out:
            out[...] = target
        return likelihoods


def _run_alignment(
    machine: Machine, alignment: Alignment, dtype: np.dtype, likelihoods: np.ndarray, target: np.ndarray | None
) -> None:
    """Store the log-likelihoods, and the gradient in a target."""
    time, sequences, classes = alignment.log_probs.shape
    width = padded_width(alignment.states.shape[1], VECTOR_BYTES)
    probs = alignment.log_probs.astype(dtype, copy=False)
    if not row_contiguous(probs):
        probs = np.ascontiguousarray(probs)
    grads = np.zeros(sequences)
    if alignment.grads is not None:
        grads = np.ascontiguousarray(alignment.grads, np.float64)

    # These names keep the arrays in memory until the call has ended.
    arrays = {
        "probs": probs,
        "states": _padded_states(alignment, width),
        "can_skip": _padded_can_skip(alignment, width),
        "frames": np.ascontiguousarray(alignment.frames, np.int64),
        "last": np.ascontiguousarray(alignment.last, np.int64),
        "likelihoods": likelihoods,
        "grads": grads,
    }
    slots: dict[str, int] = dict(zip(SHARED_SLOTS, shared_slots))
    slots |= {name: _address(array) for name, array in arrays.items()}
    slots |= {"sequences": sequences, "classes": classes, "width": width, "time": time}
    slots["probs_time"], slots["probs_sequence"] = probs.strides[:2]
    slots |= {"out": 0, "out_time": 0, "out_sequence": 0}
    if target is not None:
        slots["out"] = _address(target)
        slots["out_time"], slots["out_sequence"] = target.strides[:2]

    call = (ctypes.c_int64 * len(ARGUMENTS))(*[slots[name] for name in ARGUMENTS])
    tasks = 1
    if time * width * sequences >= BLOCK_SIZE:
        tasks = sequences
    _run(machine, call, scratch_bytes(time, width, classes, VECTOR_BYTES), tasks)


def _padded_states(alignment: Alignment, width: int) -> np.ndarray:
    """States in whole vectors. Those beyond the last are blanks: what is read for them is NaN only where a state's is.

    Any other class might have a NaN that would go on into the sums.
    """
    states = alignment.states
    padded = np.repeat(states[:, :1].astype(np.int64), width, axis=1)
    padded[:, : states.shape[1]] = states
    return padded


def _padded_can_skip(alignment: Alignment, width: int) -> np.ndarray:
    """Flags in whole vectors, and one more vector: those of two states further on are read as well."""
    can_skip = alignment.can_skip
    padded = np.zeros((len(can_skip), width + numbers_per_vector(VECTOR_BYTES)), np.bool_)
    padded[:, : can_skip.shape[1]] = can_skip
    return padded


@functools.lru_cache(maxsize=16)
def _alignment_machine(dtype: str, stored: str | None, logits: bool) -> Machine:
    return compiled(alignment_text(dtype, stored, logits, VECTOR_BYTES))


def _is_outside(xp: Any, x: Any, domain: Any) -> tuple[Any, ...]:
    """1 where a number is not in a domain."""
    return (xp.where(domain.holds(x), 0.0, 1.0),)
