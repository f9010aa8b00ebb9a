"""Backends: `get_ops(array)` finds the one an array belongs to; nothing but `CupyOps` imports cupy."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.metadata
import sys
from collections.abc import Iterator
from typing import Any

from ..config.resolve import registry
from ..environment import ENVIRONMENT
from ..formulas.functions import FORMULA_FUNCTIONS, ROW_FUNCTIONS
from ..synonyms import closest
from .base import Array, Ops
from .llvm.compiler_thread import undisturbed
from .numpy import NumpyOps

__all__ = [
    "FORMULA_FUNCTIONS", "ROW_FUNCTIONS", "Array", "NumpyOps", "Ops", "get_ops", "prefer_gpu", "require_cpu",
    "require_gpu", "use_ops",
]  # fmt: skip

_chosen: contextvars.ContextVar[Ops | None] = contextvars.ContextVar("lossreg_ops", default=None)


@functools.cache
def _numpy() -> Ops:
    """The NumPy backend."""
    return NumpyOps()


def _llvm() -> Ops:
    """The compiled backend; ImportError with the way to install it when llvmlite is missing."""
    ops = _llvm_if_installed()
    if ops is None:
        raise ImportError("llvmlite 0.45 or newer is not installed: python -m pip install 'lossreg[jit]'")
    return ops


@functools.cache
def _llvm_if_installed() -> Ops | None:
    """The compiled backend, None where llvmlite is missing."""
    # A signal handler may call in the middle of this.
    return undisturbed(_new_llvm_ops)


def _new_llvm_ops() -> Ops | None:
    if not _compiler_is_there():
        return None
    if getattr(getattr(sys.modules.get("llvmlite"), "__spec__", None), "_initializing", False):
        # The thread that imports it may be the one that waits for this one, in a signal handler.
        raise ImportError("llvmlite is being imported at this moment, and not by lossreg: call again when it has been")
    from .llvm.ops import LlvmOps

    return LlvmOps()


def _default() -> Ops:
    """The backend of NumPy arrays for which none is chosen."""
    if sys.is_finalizing():
        # A finalizer makes a call when other threads have ended anywhere: what they imported or compiled stays locked.
        return _numpy()
    return _default_of_environment()


@functools.cache
def _default_of_environment() -> Ops:
    """The compiled backend where its compiler is installed and LOSSREG_JIT is not 0, else the NumPy backend."""
    ops = _llvm_if_installed() if ENVIRONMENT.compiles else None
    return ops or _numpy()


def _compiler_is_there() -> bool:
    """Whether llvmlite is installed, and new enough (other packages install older ones)."""
    try:
        version = importlib.metadata.version("llvmlite")
        return tuple(map(int, version.split(".")[:2])) >= (0, 45)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    except Exception:
        # While Python ends, modules are taken away from threads that still run: NumPy will do.
        if sys.is_finalizing():
            return False
        raise


@functools.cache
def _cupy() -> Ops:
    """The CuPy backend; ImportError with the way to install it when cupy is missing."""
    try:
        from .cuda.ops import CupyOps

        return CupyOps()
    except ImportError as error:
        raise ImportError(
            "CuPy is not installed: python -m pip install 'lossreg[cuda12x]' (or cuda13x, by the CUDA version)"
        ) from error


registry.ops.register("numpy", func=_numpy)
registry.ops.register("llvm", func=_llvm)
registry.ops.register("cupy", func=_cupy)


def get_ops(value: Any = None) -> Ops:
    """The backend of an array or of a name ("numpy", "llvm", "cupy"); without an argument, the chosen one or NumPy's.

    An array decides by its own type: choosing a backend with `use_ops` or `prefer_gpu` never moves data. The choice
    counts for values that belong to no backend (plain lists) and between two backends for the same arrays.
    """
    chosen = _chosen.get()
    if value is None:
        return chosen or _default()
    if isinstance(value, Ops):
        return value
    if isinstance(value, str):
        if value not in registry.ops:
            known = registry.ops.names()
            raise ValueError(f"Unknown ops {value!r}{closest(value, known)} (known: {', '.join(known)}).")
        ops: Ops = registry.ops.get(value)()
        return ops
    if chosen is not None and chosen.owns(value):
        return chosen
    default = _default()
    if default.owns(value):
        return default
    if type(value).__module__.partition(".")[0] == "cupy" and "cupy" in sys.modules:
        return _cupy()
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise TypeError(f"No backend for {kind}: expected a NumPy or CuPy array; convert it, for example with np.asarray.")


@contextlib.contextmanager
def use_ops(ops: str | Ops) -> Iterator[Ops]:
    """Choose a backend for the code in a `with` block (and for it alone, also among threads and async tasks)."""
    token = _chosen.set(get_ops(ops))
    try:
        yield get_ops(ops)
    finally:
        _chosen.reset(token)


def prefer_gpu() -> bool:
    """Choose CuPy when it is installed and sees a device. Returns whether it does."""
    try:
        ops = _cupy()
        if ops.xp.cuda.runtime.getDeviceCount() < 1:
            return False
    except Exception:  # no cupy, no driver, no device: each has its own error type
        return False
    _chosen.set(ops)
    return True


def require_gpu() -> bool:
    """Choose CuPy, or raise ValueError when there is no CuPy or no device."""
    if not prefer_gpu():
        raise ValueError("No GPU: CuPy is not installed or sees no CUDA device.")
    return True


def require_cpu() -> bool:
    """Choose NumPy's arrays."""
    _chosen.set(_default())
    return True
