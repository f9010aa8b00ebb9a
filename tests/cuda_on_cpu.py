"""Kernels of CUDA text run on the CPU: compiled by g++ behind tests/cuda_shim.h."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["launcher"]

HERE = Path(__file__).parent
OPTIONS = ("-std=c++20", "-shared", "-fPIC", "-ffp-contract=off", "-w")


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / "lossreg-cuda-on-cpu"
    folder.mkdir(exist_ok=True)
    return folder


def _library(text: str, options: Sequence[str]) -> Path:
    """A shared library of a text, compiled once."""
    command = ("g++", *OPTIONS, *options)
    name = hashlib.sha1("\0".join((*command, text)).encode()).hexdigest()
    target = _folder() / f"{name}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as place:
            source, made = Path(place) / "kernel.cpp", Path(place) / "kernel.so"
            source.write_text(text, encoding="utf-8")
            subprocess.run([*command, "-o", made, source], check=True)
            shutil.move(made, target)
    return target


@functools.cache
def _runtime() -> Any:
    path = _library((HERE / "cuda_shim.cpp").read_text(encoding="utf-8"), ("-O1",))
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL).shim_launch


@functools.cache
def launcher(source: str, options: tuple[str, ...] = ("-O1",)) -> Callable[[int, int, Sequence[Any]], None]:
    """`launch(blocks, threads, arguments)` of the kernel `run` in a CUDA text; arguments are ints and floats."""
    launch = _runtime()
    shim = (HERE / "cuda_shim.h").read_text(encoding="utf-8")
    entry = ctypes.CDLL(str(_library(f"{shim}{source}\nENTRY\n", options))).entry

    def run(blocks: int, threads: int, arguments: Sequence[Any]) -> None:
        raw = b"".join(struct.pack("=d" if isinstance(x, float) else "=q", x) for x in arguments)
        launch(entry, blocks, threads, raw)

    return run
