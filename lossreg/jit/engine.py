"""LLVM text -> machine code, kept on disk by its content."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

__all__ = ["cache_folder", "compiled", "vector_bytes"]


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
def _engine() -> Any:
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())


@functools.cache
def cache_folder() -> Path | None:
    """Where machine code is kept: $LOSSREG_CACHE_DIR, or the user's cache; None when it cannot be written."""
    given = os.environ.get("LOSSREG_CACHE_DIR")
    if given == "":
        return None
    base = Path(os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else base / "lossreg"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def compiled(text: str) -> Callable[[Any, Any], None]:
    """The function `run` of the text; calling it lets other Python threads run."""
    target = _target()
    machine = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()} {llvm.llvm_version_info}"
    name = hashlib.sha256(f"{machine}\n{text}".encode()).hexdigest()[:40]
    symbol = f"lossreg_{name}"
    folder = cache_folder()
    path = None if folder is None else folder / f"{name}.o"
    code = path.read_bytes() if path is not None and path.exists() else None
    if code is None:
        code = target.emit_object(_optimized(text.replace("@run(", f"@{symbol}("), target))
        if path is not None:
            _write(path, code)
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)


def _optimized(text: str, target: Any) -> Any:
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return module


def _write(path: Path, code: bytes) -> None:
    """All or nothing, also when other processes write the same."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    except OSError as error:  # a full disk costs time at the next start, and nothing else
        print(f"lossreg: cannot keep compiled code in {path.parent}: {error}", file=sys.stderr)
