"""LLVM text -> machine code, kept on disk by its content."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

__all__ = ["cache_folder", "compiled", "reads_halves", "vector_bytes"]


@functools.cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True
    )


@functools.cache
def vector_bytes() -> int:
    """Bytes of a vector register of this machine."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512bw") and features.get("avx512dq") else 32 if features.get("avx2") else 16


@functools.cache
def reads_halves() -> bool:
    """Whether this machine converts float16; a library function that code compiled here cannot reach does it else."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
    return not x86 or bool(llvm.get_host_cpu_features().get("f16c"))


@functools.cache
def _engine() -> Any:
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())


@functools.cache
def cache_folder() -> Path | None:
    """Where machine code is kept: $LOSSREG_CACHE_DIR, or the user's cache; None when there is no such folder."""
    given = os.environ.get("LOSSREG_CACHE_DIR")
    if given == "":
        return None
    base = given or os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base or Path.home() / ".cache") / ("" if given else "lossreg")
    except RuntimeError:  # a user without a home
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if folder.is_dir() else None


_lock = threading.Lock()
"""Held while something is compiled, and over a fork: a child could not take the locks of LLVM from a lost thread."""

_functions: dict[str, Callable[[Any, Any], None]] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def compiled(text: str) -> Callable[[Any, Any], None]:
    """The function `run` of the text; calling it lets other Python threads run."""
    with _lock:
        machine = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()} {llvm.llvm_version_info}"
        name = hashlib.sha256(f"{machine}\n{text}".encode()).hexdigest()[:40]
        if name not in _functions:
            _functions[name] = _loaded(name, text)
    return _functions[name]


def _loaded(name: str, text: str) -> Callable[[Any, Any], None]:
    """Machine code from the cache, or compiled and kept there."""
    symbol, folder = f"lossreg_{name}", cache_folder()
    path = None if folder is None else folder / f"{name}.o"
    code = None if path is None else _read(path)
    if code is None:
        code = _target().emit_object(_optimized(text.replace("@run(", f"@{symbol}("), _target()))
        if path is not None:
            _write(path, code)
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address(symbol))


def _optimized(text: str, target: Any) -> Any:
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return module


def _read(path: Path) -> bytes | None:
    """What `_write` wrote, or None where there is nothing or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """All or nothing, also when other processes write the same; with a digest, so that damage is seen."""
    if not os.access(path.parent, os.W_OK):  # a cache that was prepared for reading
        return
    written = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            written = Path(file.name)
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(written, path)
    except OSError as error:  # a full disk costs time at the next start, and nothing else
        if written is not None:
            written.unlink(missing_ok=True)
        print(f"lossreg: cannot keep compiled code in {path.parent}: {error}", file=sys.stderr)
