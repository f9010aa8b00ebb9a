"""Kernels of CUDA text run on the CPU: compiled by g++ behind cuda_shim.h.

`LOSSREG_SANITIZE=address,undefined` or `thread` in the environment compiles them with these sanitizers, whose library
must then be loaded first: see tests/backends/test_cuda_sanitized.py.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["launcher", "why_not"]

HERE = Path(__file__).parent
SANITIZERS = os.environ.get("LOSSREG_SANITIZE", "")
OPTIONS = ("-std=c++20", "-shared", "-fPIC", "-ffp-contract=off", "-w")
KERNEL = ("-g", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all") if SANITIZERS else ("-nostdlib",)
RUNTIME = ("-O1", *(["-DRACES"] if SANITIZERS == "thread" else []))

_lock = threading.Lock()
"""The threads of one launch at a time: they share cells of the runtime."""


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"lossreg-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _library(text: str, *options: str) -> Path:
    """A shared library of a text, compiled once."""
    command = ("g++", *OPTIONS, *options)
    name = hashlib.sha1("\0".join((*command, text)).encode()).hexdigest()
    target = _folder() / f"{name}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as place:
            source, made = Path(place) / "kernel.cpp", Path(place) / "kernel.so"
            source.write_text(text, encoding="utf-8")
            subprocess.run([*command, "-o", made, source], check=True, capture_output=True, env=_without_preload())
            shutil.move(made, target)
    return target


def _without_preload() -> dict[str, str]:
    """The environment of the compiler, which is not to be sanitized."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


@functools.cache
def why_not() -> str | None:
    """Why kernels cannot run here, or None where they can."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    try:
        launcher('extern "C" void run() { float_to_half(half_to_float(0)); }')
    except subprocess.CalledProcessError as error:
        return f"g++ cannot compile tests/support/cuda_shim.h: {error.stderr.decode().strip().splitlines()[0]}"
    return None


@functools.cache
def _runtime() -> Any:
    path = _library((HERE / "cuda_shim.cpp").read_text(encoding="utf-8"), *RUNTIME)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL).shim_launch


@functools.cache
def launcher(source: str) -> Callable[[int, int, Sequence[Any]], None]:
    """`launch(blocks, threads, arguments)` of the kernel `run` in a CUDA text; arguments are ints and floats."""
    launch = _runtime()
    shim = (HERE / "cuda_shim.h").read_text(encoding="utf-8")
    entry = ctypes.CDLL(str(_library(f"{shim}{source}\nENTRY\n", *KERNEL))).entry

    def run(blocks: int, threads: int, arguments: Sequence[Any]) -> None:
        assert {type(x) for x in arguments} <= {int, float}, "CuPy hands other numbers over in fewer bytes"
        raw = b"".join(struct.pack("=d" if isinstance(x, float) else "=q", x) for x in arguments)
        with _lock:
            launch(entry, blocks, threads, raw)

    return run
