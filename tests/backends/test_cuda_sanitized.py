"""The tests of CUDA kernels once more, with kernels that sanitizers watch: no access outside arrays, nothing undefined,
and no two threads at one place without a barrier between them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import cuda_on_cpu

ROOT = Path(__file__).parents[2]
LIBRARIES = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
QUIET = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1", "PYTHONMALLOC": "malloc"}


def sanitized(sanitizers: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python's with kernels under sanitizers, whose libraries come before all others."""
    if cuda_on_cpu.why_not():
        pytest.skip(str(cuda_on_cpu.why_not()))
    preload = " ".join(map(library, LIBRARIES[sanitizers]))
    environment = {**os.environ, **QUIET, "LOSSREG_SANITIZE": sanitizers, "LD_PRELOAD": preload}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


@functools.cache
def library(name: str) -> str:
    path = subprocess.run(
        ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"g++ has no {name}")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizers", "chosen"),
    [
        ("address,undefined", "(64of64 or float32) and not bfloat16"),
        ("thread", "(place or equal or alignments or totals) and not bfloat16"),
    ],
)
def test_kernels_under_sanitizers(sanitizers: str, chosen: str) -> None:
    done = sanitized(
        sanitizers,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-s",
        "-p",
        "no:cacheprovider",
        "-k",
        chosen,
        "tests/backends/test_cuda_numbers.py",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


RUN = """
import sys
sys.path.insert(0, "tests")
import ctypes
from support import cuda_on_cpu
array = ctypes.create_string_buffer(64)
cuda_on_cpu.launcher('extern "C" void run(long* x) {{ {} }}')(1, 64, (ctypes.addressof(array),))
"""


@pytest.mark.parametrize(
    ("sanitizers", "statement", "message"),
    [
        ("address,undefined", "x[8] = 1;", "AddressSanitizer: "),
        ("address,undefined", "*(int*)((char*)x + 1) = 1;", "misaligned address"),
        ("address,undefined", "int most = 2147483647; most += threadIdx.x + 1 > 0; x[0] = most;", "signed integer overflow"),
        ("thread", "x[0] = threadIdx.x;", "ThreadSanitizer: data race"),
        ("thread", "x[threadIdx.x % 2] = 0; __syncthreads();", "ThreadSanitizer: data race"),
        ("thread", "__syncthreads(); if (threadIdx.x % 32 == 0) x[0] = 0; __syncwarp();", "ThreadSanitizer: data race"),
        ("thread", "if (threadIdx.x == 0) x[0] = 1; __syncthreads(); if (threadIdx.x == 1) x[0] = 2;", None),
        ("thread", "if (threadIdx.x == 0) x[0] = 1; __syncwarp(); if (threadIdx.x == 1) x[0] = 2;", None),
    ],
)  # fmt: skip
def test_faults_are_found(sanitizers: str, statement: str, message: str | None) -> None:
    done = sanitized(sanitizers, "-c", RUN.format(statement))
    if message is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert message in done.stderr
