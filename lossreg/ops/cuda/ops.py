"""CupyOps: formulas as CUDA kernels on CuPy arrays. The only module that imports cupy."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from ...formulas.program import ArrayType, Program, Request, array_type, program
from ..base import Array, compute_dtype
from ..compiled import CompiledOps, Kernel, row_contiguous
from ..ctc import Alignment, backward, forward, posterior
from .source import (
    ALIGNMENT,
    C_TYPES,
    PRELUDE,
    QUOTIENT,
    bytes_read_again,
    elements_per_read,
    function_text,
    kernel_text,
)

__all__ = ["CupyOps"]

OPTIONS = ("-std=c++17", "-fmad=false")
"""Products and sums are rounded one by one, as on the CPU: exact ties stay exact."""

WARP = 32
"""Threads of a warp, which run in step."""

THREADS_PER_PROCESSOR = 2048
"""How many threads a multiprocessor runs at a time."""

CACHE_FRACTION = 0.7
"""The part of the L2 cache that rows may fill: it holds other things as well."""

MAX_INT_COLUMNS = 2**31 - 1
"""Columns from which their indices have 64 bits."""

QUOTIENT_THREADS, QUOTIENT_MAX_BLOCKS = 256, 1024
"""The size of a launch of quotient.cu, where the first is written as well."""

CELLS_AROUND = 4
"""Cells of -infinity around a row of states in ctc.cu, and the rows that it has."""
STATE_ROWS = 3


class _Kernel:
    """A formula's CUDA text, compiled for rows by a warp or by a block when it is first wanted."""

    indices: list[int] = []  # looking at them would make the host wait

    def __init__(self, traced: Program, request: Request) -> None:
        self.text = kernel_text(traced)
        self.numbers: list[int] = [x.args[0] for x in traced.numbers]
        """The numbers of the arguments that are numbers of the call."""
        self.total = request.total
        self.real = "float"
        if request.dtype == np.float64:
            self.real = "double"
        self.elements_per_read = elements_per_read(request.arguments[0].dtype)
        self.bytes_read_again = bytes_read_again(traced)
        self.functions: dict[tuple[int, int, str], Any] = {}
        """What CuPy compiled, by the threads of a group and of a block, and the type of indices."""

    def __call__(self, rows: int, columns: int, elements: int, addresses: list[int], scalars: dict[int, float]) -> bool:
        """Launch on the current stream; does not wait."""
        # The best threads differ by the length of rows, which may change from call to call.
        group, threads = _group(columns)
        key = group, threads, _index(columns)
        if key not in self.functions:
            self.functions[key] = _compiled(self.source(*key))

        # No more blocks than there is work, and no more than the cache serves: a block goes on with another row.
        rows_per_block = threads // group
        blocks_for_rows = -(-rows // rows_per_block)
        bytes_of_block = self.bytes_read_again * columns * rows_per_block
        blocks = min(blocks_for_rows, _blocks(_device(), threads, bytes_of_block))
        arguments = [rows, columns, elements, *addresses, *[scalars[i] for i in self.numbers]]
        if self.total:
            arguments += _workspace()
        self.functions[key]((blocks,), (threads,), tuple(arguments))
        return False

    def source(self, group: int, threads: int, index: str) -> str:
        """The whole text."""
        names = {
            "GROUP": group,
            "THREADS": threads,
            "LANES": self.elements_per_read,
            "REAL": self.real,
            "INDEX": index,
        }
        return _defines(names) + PRELUDE + self.text


def _defines(names: dict[str, Any]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in names.items())


def _group(columns: int) -> tuple[int, int]:
    """(threads of a group, threads of a block): a warp for short rows, the block for long ones."""
    # A warp brings its sums together without memory; a block has eight of them, each with a row of its own.
    if columns <= 1024:
        return WARP, 256
    # More threads have more reads under way, which a long row needs: fewer rows are read at a time.
    if columns <= 16_384:
        return 256, 256
    if columns <= 65_536:
        return 512, 512
    return 1024, 1024


def _index(columns: int) -> str:
    """The type of indices of columns."""
    if columns < MAX_INT_COLUMNS:
        return "int"
    return "long long"


@functools.lru_cache(maxsize=512)
def _kernel(request: Request) -> _Kernel:
    """Trace and weigh a formula for arrays of these dtypes and ranks, and write it as CUDA."""
    return _Kernel(program(request), request)


@functools.lru_cache(maxsize=16)
def _alignment_kernel(threads: int, dtype: str, stored: str, logits: bool) -> Any:
    """The alignment of log-probabilities of a dtype, with gradients stored as another."""
    names = {
        "GROUP": threads,
        "THREADS": threads,
        "LANES": 1,
        "REAL": "double",
        "INDEX": "int",
        "IN": C_TYPES[dtype].name,
        "OUT": C_TYPES[stored].name,
        "LOGITS": str(logits).lower(),
    }
    recurrences = [
        function_text("forward", forward, "fffbf"),
        function_text("backward", backward, "fffb"),
        function_text("posterior", posterior, "fff"),
    ]
    return _compiled(_defines(names) + PRELUDE + "".join(recurrences) + ALIGNMENT)


def _compiled(source: str) -> Any:
    # CuPy compiles at the first launch, and keeps the result on disk.
    import cupy

    return cupy.RawKernel(source, "run", options=OPTIONS)


@functools.cache
def _quotient() -> Any:
    """The kernel of `CupyOps.quotient`."""
    return _compiled(QUOTIENT)


def _device() -> int:
    import cupy

    return int(cupy.cuda.runtime.getDevice())


@functools.cache
def _limits(device: int) -> tuple[int, int]:
    """Multiprocessors of a device, and bytes of its L2 cache."""
    import cupy

    attributes = cupy.cuda.Device(device).attributes
    return int(attributes["MultiProcessorCount"]), int(attributes["L2CacheSize"])


def _blocks(device: int, threads: int, bytes_read_again: int = 0) -> int:
    """How many blocks a device runs at a time, so that the bytes that each reads again are still in the L2 cache."""
    processors, cache_bytes = _limits(device)
    blocks_per_processor = THREADS_PER_PROCESSOR // threads
    if bytes_read_again:
        cached = int(CACHE_FRACTION * cache_bytes) // (processors * bytes_read_again)
        blocks_per_processor = max(1, min(blocks_per_processor, cached))
    return processors * blocks_per_processor


_workspaces: dict[tuple[Any, ...], list[int]] = {}
_arrays_of_workspaces: list[Any] = []


def _workspace() -> list[int]:
    """Addresses of the blocks' parts of a total and of the ticket, one for each stream: its kernels run in turn."""
    import cupy

    # Where each thread has a default stream of its own, all of these have the same pointer.
    device = _device()
    key = (device, cupy.cuda.get_current_stream().ptr, threading.get_ident())
    if key not in _workspaces:
        # As many parts as there are blocks, of the fewest threads. The ticket lies in front of them.
        parts = cupy.zeros(1 + _blocks(device, 256))
        _arrays_of_workspaces.append(parts)
        _workspaces[key] = [parts.data.ptr + parts.itemsize, parts.data.ptr]
    return _workspaces[key]


@functools.lru_cache(maxsize=1024)
def _array_type(dtype: np.dtype, rank: int) -> ArrayType | None:
    if dtype.name not in C_TYPES:
        return None
    return array_type(dtype.name, rank)


class CupyOps(CompiledOps):
    """CuPy arrays on the current CUDA device and stream. No method waits for the device except `to_numpy`."""

    name = library = "cupy"
    on_device = True
    flat_columns = 4096

    def __init__(self) -> None:
        import cupy

        super().__init__(cupy)

    array_type = staticmethod(_array_type)

    @staticmethod
    def address(array: Array, /) -> int:
        """On the device."""
        return int(array.data.ptr)

    @staticmethod
    def kernel(request: Request, /) -> Kernel:
        """Written once; compiled when it is launched."""
        return _kernel(request)

    def totals(self, rows: int) -> Array:
        """One number: the blocks add up."""
        return self.xp.empty((), np.float64)

    def quotient(self, total: Any, count: Any) -> Any:
        """As the generic body, in one kernel."""
        if not self._is_vector(count, count) or not count.size:
            return super().quotient(total, count)
        # The kernel takes either: totals at an address, or a number of the host where the address is 0.
        total_address, number = 0, 0.0
        if isinstance(total, self.xp.ndarray):
            if not self._is_vector(total, count):
                return super().quotient(total, count)
            total_address = self.address(total)
        else:
            number = float(total)

        quotients = self.xp.empty(count.shape, np.float64)
        blocks = min(-(-count.size // QUOTIENT_THREADS), QUOTIENT_MAX_BLOCKS)
        arguments = (count.size, total_address, number, self.address(count), self.address(quotients))
        _quotient()((blocks,), (QUOTIENT_THREADS,), arguments)
        return quotients

    def _is_vector(self, x: Any, count: Any) -> bool:
        """Whether the kernel of quotients can read something, beside counts."""
        if not isinstance(x, self.xp.ndarray):
            return False
        return bool(x.dtype == np.float64 and x.shape == count.shape and x.flags.c_contiguous)

    def run_alignment(self, alignment: Alignment) -> Array:
        """As the generic body, in one kernel: a block for each sequence."""
        xp, out = self.xp, alignment.out
        if not alignment.log_probs.size:
            return super().run_alignment(alignment)
        probs = alignment.log_probs.astype(compute_dtype(alignment.log_probs.dtype), copy=False)
        if not row_contiguous(probs):
            probs = xp.ascontiguousarray(probs)
        # The kernel writes rows of contiguous numbers; into other arrays these are copied.
        target = out
        if out is not None and not row_contiguous(out):
            target = xp.empty(out.shape, out.dtype)
        likelihoods = xp.empty(probs.shape[1], np.float64)
        self._launch_alignment(alignment, probs, likelihoods, target)
        if target is not out:
            out[...] = target
        return likelihoods

    def _launch_alignment(self, alignment: Alignment, probs: Array, likelihoods: Array, target: Array | None) -> None:
        """Store the log-likelihoods, and the gradient in a target."""
        xp, (time, sequences, classes) = self.xp, probs.shape
        width = alignment.states.shape[1]
        # CuPy gives memory of arrays that are gone to later work on the same stream, so that none of these need outlive
        # the launch.
        inputs = [
            xp.ascontiguousarray(x) for x in (alignment.states, alignment.can_skip, alignment.frames, alignment.last)
        ]
        grads_address, grads = 0, alignment.grads
        if grads is not None:
            grads = xp.ascontiguousarray(grads.astype(np.float64, copy=False))
            grads_address = grads.data.ptr
        target_arguments = [0, 0, 0]
        stored = probs.dtype.name
        # Without a gradient no frame is needed a second time.
        kept_frames = 0
        if target is not None:
            target_arguments = [target.data.ptr, *target.strides[:2]]
            stored = target.dtype.name
            kept_frames = time
        alphas = xp.empty((sequences, kept_frames, width), np.float64)
        scratch = xp.empty((sequences, STATE_ROWS, width + CELLS_AROUND), np.float64)
        next_states = xp.empty((sequences, width), np.int64)

        # In the order of the parameters in ctc.cu.
        arguments = [sequences, classes, width, time, probs.data.ptr, *probs.strides[:2]]
        arguments += [x.data.ptr for x in inputs]
        arguments += [likelihoods.data.ptr, grads_address, *target_arguments]
        arguments += [alphas.data.ptr, scratch.data.ptr, next_states.data.ptr]
        threads = _group(classes)[1]
        blocks = min(sequences, _blocks(_device(), threads))
        kernel = _alignment_kernel(threads, probs.dtype.name, stored, alignment.logits)
        kernel((blocks,), (threads,), tuple(arguments))

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """A device array; host data is copied asynchronously on the current stream."""
        return self.xp.asarray(value, dtype=dtype, blocking=False)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A host copy; waits for the device."""
        host: np.ndarray = self.xp.asnumpy(array)
        return host
