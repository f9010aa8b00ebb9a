"""CupyOps: formulas as CUDA kernels on CuPy arrays. The only module that imports cupy."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from ...formulas.program import ArrayType, Request, array_type, program
from ..base import Array, compute_dtype
from ..compiled import CompiledOps, Kernel, row_contiguous
from ..ctc import backward, forward, share_of
from .source import ALIGNMENT, C_TYPES, PRELUDE, QUOTIENT, bytes_read_again, function_text, kernel_text, lanes_of

__all__ = ["CupyOps"]

OPTIONS = ("-std=c++17", "-fmad=false")
"""Products and sums are rounded one by one, as on the CPU: exact ties stay exact."""


class _Kernel:
    """A formula's CUDA text, compiled for rows by a warp or by a block when it is first wanted."""

    indices: list[int] = []  # looking at them would make the host wait

    def __init__(self, text: str, numbers: list[int], total: bool, real: str, lanes: int, again: int) -> None:
        self.text, self.numbers, self.total, self.real, self.lanes = text, numbers, total, real, lanes
        self.again = again
        self.functions: dict[tuple[int, int, str], Any] = {}

    def __call__(self, rows: int, columns: int, elements: int, addresses: list[int], scalars: dict[int, float]) -> bool:
        """Launch on the current stream; does not wait."""
        group, threads = _group(columns)
        key = group, threads, _index(columns)
        if key not in self.functions:
            self.functions[key] = _compiled(self.source(*key))
        blocks = min(-(-rows * group // threads), _blocks(_device(), threads, self.again * columns * threads // group))
        arguments = [rows, columns, elements, *addresses, *[scalars[i] for i in self.numbers]]
        if self.total:
            arguments += _workspace()
        self.functions[key]((blocks,), (threads,), tuple(arguments))
        return False

    def source(self, group: int, threads: int, index: str) -> str:
        """The whole text."""
        names = {"GROUP": group, "THREADS": threads, "LANES": self.lanes, "REAL": self.real, "INDEX": index}
        return _defines(names) + PRELUDE + self.text


def _defines(names: dict[str, Any]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in names.items())


def _group(columns: int) -> tuple[int, int]:
    """(threads of a group, threads of a block): a warp for short rows, the block for long ones."""
    if columns <= 1024:
        return 32, 256
    if columns <= 16_384:
        return 256, 256
    if columns <= 65_536:
        return 512, 512
    return 1024, 1024


def _index(columns: int) -> str:
    """The type of indices of columns."""
    return "int" if columns < 2**31 - 1 else "long long"


@functools.lru_cache(maxsize=512)
def _kernel(request: Request) -> _Kernel:
    """Trace and weigh a formula for arrays of these dtypes and ranks, and write it as CUDA."""
    made = program(request)
    real = "double" if request.dtype == np.float64 else "float"
    numbers = [x.args[0] for x in made.numbers]
    lanes, again = lanes_of(request.arguments[0].dtype), bytes_read_again(made)
    return _Kernel(kernel_text(made), numbers, request.total, real, lanes, again)


@functools.lru_cache(maxsize=16)
def _aligner(threads: int, dtype: str, stored: str, logits: bool) -> Any:
    """The alignment of log-probabilities of a dtype, with gradients stored as another."""
    names = {"GROUP": threads, "THREADS": threads, "LANES": 1, "REAL": "double", "INDEX": "int"}
    names |= {"IN": C_TYPES[dtype][0], "OUT": C_TYPES[stored][0], "LOGITS": str(logits).lower()}
    functions = function_text("forward", forward, "fffbf") + function_text("backward", backward, "fffb")
    functions += function_text("share_of", share_of, "fff")
    return _compiled(_defines(names) + PRELUDE + functions + ALIGNMENT)


def _compiled(source: str) -> Any:
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


def _blocks(device: int, threads: int, again: int = 0) -> int:
    """How many blocks a device runs at a time, so that the bytes that each reads again are still in the L2 cache."""
    processors, cache = _limits(device)
    each = 2048 // threads
    if again:
        each = max(1, min(each, int(0.7 * cache) // (processors * again)))
    return processors * each


_workspaces: dict[tuple[Any, ...], list[int]] = {}
_kept: list[Any] = []


def _workspace() -> list[int]:
    """Addresses of the blocks' parts of a total and of the ticket, one for each stream: its kernels run in turn."""
    import cupy

    key = (_device(), cupy.cuda.get_current_stream().ptr, threading.get_ident())
    if key not in _workspaces:
        parts = cupy.zeros(1 + _blocks(key[0], 256))
        _kept.append(parts)
        _workspaces[key] = [parts.data.ptr + 8, parts.data.ptr]
    return _workspaces[key]


@functools.lru_cache(maxsize=1024)
def _described(dtype: np.dtype, rank: int) -> ArrayType | None:
    return array_type(dtype.name, rank) if dtype.name in C_TYPES else None


class CupyOps(CompiledOps):
    """CuPy arrays on the current CUDA device and stream. No method waits for the device except `to_numpy`."""

    name = library = "cupy"
    on_device = True
    flat_columns = 4096

    def __init__(self) -> None:
        import cupy

        super().__init__(cupy)

    described = staticmethod(_described)

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
        arrays = [x for x in (count, total) if isinstance(x, self.xp.ndarray)]
        if not arrays or arrays[0] is not count or not count.size:
            return super().quotient(total, count)
        if any(x.dtype != np.float64 or x.shape != count.shape or not x.flags.c_contiguous for x in arrays):
            return super().quotient(total, count)
        found, address = self.xp.empty(count.shape, np.float64), self.address
        given = (address(total), 0.0) if len(arrays) == 2 else (0, float(total))
        arguments = (count.size, *given, address(count), address(found))
        _quotient()((min(-(-count.size // 256), 1024),), (256,), arguments)
        return found

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
        """As the generic body, in one kernel: a block for each sequence."""
        xp, (time, n, classes), width = self.xp, log_probs.shape, states.shape[1]
        if not log_probs.size:
            return super().align(log_probs, states, leaps, frames, last, slopes, logits, out)
        probs = log_probs.astype(compute_dtype(log_probs.dtype), copy=False)
        probs = probs if row_contiguous(probs) else xp.ascontiguousarray(probs)
        target = out if out is None or row_contiguous(out) else xp.empty(out.shape, out.dtype)
        given = [xp.ascontiguousarray(x) for x in (states, leaps, frames, last)]
        found = xp.empty(n, np.float64)
        weights = None if slopes is None else xp.ascontiguousarray(slopes.astype(np.float64, copy=False))
        alphas = xp.empty((n, time if out is not None else 0, width), np.float64)
        scratch, onward = xp.empty((n, 3, width + 4), np.float64), xp.empty((n, width), np.int64)
        arguments = [n, classes, width, time, probs.data.ptr, *probs.strides[:2], *(x.data.ptr for x in given)]
        arguments += [found.data.ptr, 0 if weights is None else weights.data.ptr]
        arguments += [0, 0, 0] if target is None else [target.data.ptr, *target.strides[:2]]
        arguments += [alphas.data.ptr, scratch.data.ptr, onward.data.ptr]
        threads = _group(classes)[1]
        function = _aligner(threads, probs.dtype.name, (probs if target is None else target).dtype.name, logits)
        function((min(n, _blocks(_device(), threads)),), (threads,), tuple(arguments))
        if target is not out and out is not None:
            out[...] = target
        return found

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """A device array; host data is copied asynchronously on the current stream."""
        return self.xp.asarray(value, dtype=dtype, blocking=False)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A host copy; waits for the device."""
        host: np.ndarray = self.xp.asnumpy(array)
        return host
