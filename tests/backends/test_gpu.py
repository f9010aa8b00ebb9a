"""What only a real device shows: `python -m pytest -m gpu`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from support import devices, standin_cupy
from support.devices import to_device, to_host
from support.nested import assert_same, count, each, item_mask
from support.table import ROWS, TRUE_ROWS

pytestmark = pytest.mark.gpu

SPIN = """
extern "C" __global__ void spin(long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) { }
}
"""
LONG = 200_000_000
"""Cycles: about a tenth of a second, in which a call that waits for nothing is long over."""


@pytest.fixture
def cupy() -> Iterator[Any]:
    with devices.device() as module:
        if isinstance(module, standin_cupy.Cupy):
            pytest.skip("the stand-in is no device")
        yield module


@pytest.fixture
def spin(cupy: Any) -> Callable[[int], None]:
    """Keeps the current stream busy for so many cycles."""
    kernel = cupy.RawKernel(SPIN, "spin")
    kernel((1,), (1,), (1,))
    return lambda cycles: kernel((1,), (1,), (cycles,))


def test_arguments_of_kernels_have_eight_bytes(cupy: Any) -> None:
    """Python's ints and floats, as kernels of formulas take them."""
    text = 'extern "C" __global__ void run(long long a, double b, double* out) { out[0] = a; out[1] = b; }'
    out = cupy.zeros(2)
    cupy.RawKernel(text, "run")((1,), (1,), (-(2**53), 0.1, out.data.ptr))
    assert to_host(out).tolist() == [-(2**53), 0.1]


def calls(cupy: Any, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every calculator with everything that it takes, on the device."""
    for row in ROWS:
        guesses, truths = row.sample(rng, 7)
        given = to_device(cupy, each(lambda x: x.astype(np.float32), guesses))
        beside = truths if row.host_truths else to_device(cupy, truths)
        loss = row.make()
        yield row.id, lambda loss=loss, given=given, beside=beside: loss(given, beside)
        if row in TRUE_ROWS:
            keep = rng.random(guesses.shape[1] if row.axis else count(guesses)) < 0.6
            mask = to_device(cupy, item_mask(loss.get_values(guesses, truths), keep))
            yield (
                row.id,
                lambda loss=loss, given=given, beside=beside, mask=mask: loss.get_state(given, beside, mask=mask),
            )


def test_no_call_waits_for_the_device(cupy: Any, spin: Any, rng: Any) -> None:
    """What is called behind a slow kernel has come back while that still runs."""
    made = list(calls(cupy, rng))
    for _, call in made:  # compile, and fill the pool of memory
        call()
    slow: list[str] = []
    for name, call in made:
        cupy.cuda.Device().synchronize()
        spin(LONG)
        behind = cupy.cuda.Event()
        behind.record()
        call()
        if behind.done:
            slow.append(name)
    assert not slow


def test_kernels_run_on_the_current_stream(cupy: Any, spin: Any) -> None:
    """They see what the stream computed before, and what it computes after sees theirs."""
    x, t = cupy.zeros(1000, np.float32), cupy.zeros(1000, np.float32)
    loss = lossreg.MeanSquaredError()
    loss(x, t)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True):
        spin(LONG)
        x[...] = 3.0
        grad, value = loss(x, t)
        assert to_host(value) == 9.0
        assert_same(to_host(grad * 500), np.full(1000, 3.0), rtol=1e-6)


def test_streams_and_threads_at_once(cupy: Any, rng: Any) -> None:
    """Each adds up its own totals."""
    loss = lossreg.Huber()
    data = [cupy.asarray(rng.normal(size=200_000 + 1000 * i).astype(np.float32)) for i in range(8)]
    zeros = [cupy.zeros_like(x) for x in data]
    expected = [to_host(loss.get_loss(x, t)) for x, t in zip(data, zeros)]
    cupy.cuda.Device().synchronize()

    def work(i: int) -> list[Any]:
        with cupy.cuda.Stream(non_blocking=True):
            return [to_host(x) for x in [loss.get_loss(data[i], zeros[i]) for _ in range(200)]]

    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(work, range(8)), expected):
            assert set(map(float, found)) == {float(wanted)}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_a_vocabulary(dtype: Any, cupy: Any, rng: Any) -> None:
    """More rows than blocks, more bytes than 32 bits count, and the same bits each time."""
    n, columns = 70_000, 32_003
    if cupy.cuda.runtime.memGetInfo()[0] < 20e9:
        pytest.skip("needs 20 GB of the device's memory")
    x = cupy.asarray(rng.normal(size=(64, columns)).astype(dtype))
    big = cupy.tile(x, (n // 64 + 1, 1))[:n] if dtype == np.float16 else cupy.tile(x, (100, 1))
    ids = cupy.arange(len(big)) * 7 % columns
    loss = lossreg.CrossEntropy(reduction="none")
    grad, values = loss(big, ids)
    host = to_host(x), np.arange(len(big)) * 7 % columns
    for start in (0, len(big) - len(big) % 64 - 64):
        wanted = lossreg.CrossEntropy(reduction="none")(host[0].astype("d"), host[1][start : start + 64])
        tolerance = {2: 2e-3, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
        found = to_host((grad[start : start + 64], values[start : start + 64]))
        assert_same(each(lambda part: part.astype("d"), found), wanted, rtol=tolerance, atol=tolerance * 1e-3)
    again = loss(big, ids)
    assert bool((again[0] == grad).all())
    assert bool((again[1] == values).all())


TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
CHOSEN = "(place or equal or alignments or lengths or memory) and not bfloat16"
CHECKED = f"""
import sys
import cupy, pytest
cupy.cuda.set_allocator(None)  # each array is one of the driver's: what lies around it belongs to nobody
sys.exit(pytest.main(["-q", "-x", "-m", "gpu", "-p", "no:cacheprovider", "-k", {CHOSEN!r}, "tests/backends/test_cuda_numbers.py"]))
"""
FAULT = """
import cupy
cupy.cuda.set_allocator(None)
x = cupy.zeros(4)
text = 'extern "C" __global__ void run(double* x) { x[threadIdx.x] = 1; }'
cupy.RawKernel(text, "run")((1,), (64,), (x.data.ptr,))
cupy.cuda.Device().synchronize()
"""


def checked(tool: str, code: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("compute-sanitizer is not installed")
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)


@pytest.mark.parametrize("tool", TOOLS)
def test_kernels_under_compute_sanitizer(tool: str, cupy: Any) -> None:
    done = checked(tool, CHECKED)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_compute_sanitizer_finds_faults(cupy: Any) -> None:
    assert checked("memcheck", FAULT).returncode == 9
