"""CUDA text compiled for real devices, without one: NVIDIA's runtime compiler, through ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["OPTIONS", "Compiled", "compile_text", "why_not"]

OPTIONS = ("-ftz=true", "--device-as-default-execution-space", "-diag-suppress=177")
"""What CuPy adds to the options of a kernel; and pointers that a kernel takes and does not read are no fault."""


class Compiled(NamedTuple):
    """What came of a text: code for a device, or PTX for a virtual one, and what the compiler has to say."""

    log: str
    code: bytes


@functools.cache
def why_not() -> str | None:
    """Why nothing can be compiled here, or None where it can."""
    try:
        _library()
    except OSError:
        return "NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12"
    return None


def compile_text(text: str, *options: str) -> Compiled:
    """Compile a text for `-arch=sm_NN` (code) or `-arch=compute_NN` (PTX); RuntimeError with the log where it fails."""
    nvrtc, program = _library(), ctypes.c_void_p()
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None) == 0
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    log = _found(program, "ProgramLog").decode().strip()
    code = b""
    if not failed and "-fdevice-syntax-only" not in options:
        code = _found(program, "CUBIN" if any("=sm_" in option for option in options) else "PTX")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"{log}\n{' '.join(options)}\n\n{text}")
    return Compiled(log, code)


def _found(program: ctypes.c_void_p, what: str) -> bytes:
    """The log, the code or the PTX of a program."""
    size = ctypes.c_size_t()
    assert getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(_library(), f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.raw.removesuffix(b"\0")


@functools.cache
def _library() -> Any:
    """From the wheel, or from an installation of CUDA."""
    wheel = importlib.util.find_spec("nvidia")
    folders = list(wheel.submodule_search_locations or ()) if wheel else []
    found = sorted(path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*[0-9]"))
    return ctypes.CDLL(str(found[-1]) if found else ctypes.util.find_library("nvrtc") or "libnvrtc.so")
