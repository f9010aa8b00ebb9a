"""Memory of large gradients is used again, and never while anything can still see it."""

from __future__ import annotations

import gc
import mmap
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from lossreg import Huber, use_ops
from lossreg.ops.llvm import buffers as memory

FLOAT = np.dtype(np.float32)
N = memory.MIN_BYTES // 4
pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_FREE"), reason="this system has no MADV_FREE")


@pytest.fixture(autouse=True)
def nothing_kept() -> Any:
    gc.collect()
    memory._spare.clear()
    yield
    memory._spare.clear()


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_memory_of_a_dropped_array_is_used_again() -> None:
    first = memory.empty((N // 8, 8), FLOAT)
    assert (first.shape, first.dtype, first.flags.c_contiguous, first.flags.writeable) == (
        (N // 8, 8),
        FLOAT,
        True,
        True,
    )
    first[...] = 1.0
    where = address(first)
    del first
    second = memory.empty((N,), FLOAT)
    assert address(second) == where
    assert address(memory.empty((N,), FLOAT)) != where


@pytest.mark.parametrize(
    "hold",
    [lambda x: x[5:9], lambda x: x.reshape(2, -1).T[3:], memoryview, lambda x: x.view(np.int32), lambda x: np.asarray(x)[::-7]],
    ids=["slice", "transposed", "memoryview", "view", "asarray"],
)  # fmt: skip
def test_memory_that_is_seen_stays(hold: Any) -> None:
    first = memory.empty((N,), FLOAT)
    first[...] = 7.0
    where, seen = address(first), hold(first)
    del first
    gc.collect()
    assert not memory._spare
    second = memory.empty((N,), FLOAT)
    second[...] = 0.0
    assert address(second) != where
    assert np.asarray(seen).view(np.float32).ravel()[0] == 7.0
    del seen
    gc.collect()
    assert len(memory._spare) == 1


def test_memory_seen_by_another_library_stays() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    array = memory.empty((N,), FLOAT)
    array[...] = 7.0
    tensors = [torch.from_numpy(array), torch.from_dlpack(array)]
    del array
    for _ in range(2):
        gc.collect()
        memory.empty((N,), FLOAT)[...] = 0.0
        assert tensors.pop()[3] == 7.0


def test_sizes_and_numbers_of_what_is_kept() -> None:
    assert memory.empty((N - 1,), FLOAT).base is None  # below: NumPy's own
    arrays = [memory.empty((N + i * memory.PAGE // 4,), FLOAT) for i in range(memory.MAX_SPARE + 2)]
    sizes = [len(x.base.base) if hasattr(x.base, "base") else 0 for x in arrays]
    assert len(set(sizes)) == len(sizes)
    del arrays
    gc.collect()
    assert len(memory._spare) == memory.MAX_SPARE
    memory.empty((3 * N,), FLOAT)
    assert len(memory._spare) == memory.MAX_SPARE


def test_without_room_numpy_says_so(monkeypatch: Any) -> None:
    def none(*args: Any, **kwargs: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(memory.mmap, "mmap", none)
    assert memory.empty((N,), FLOAT).base is None


def test_a_system_that_does_not_keep_pages(monkeypatch: Any) -> None:
    kept = memory.empty((N,), FLOAT)
    monkeypatch.setattr(memory.mmap, "MADV_FREE", 12345)
    del kept
    gc.collect()
    assert not memory._spare


def test_many_threads() -> None:
    failures: list[str] = []

    def work(number: float) -> None:
        for _ in range(20):
            mine = memory.empty((N,), FLOAT)
            mine[::4096] = number
            if not (mine[::4096] == number).all():
                failures.append("shared")

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_gradients_of_a_loop() -> None:
    x, t = np.zeros(N + 5, FLOAT), np.ones(N + 5, FLOAT)
    with use_ops("llvm"):
        kept, places = [], set()
        for step in range(6):
            grad, _ = Huber(reduction="sum")(x, t * (step + 1) / 10)
            places.add(address(grad))
            np.testing.assert_array_equal(grad[[0, -1]], np.float32(-(step + 1) / 10))
            if step == 2:
                kept.append(grad)
        assert len(places) <= 3
        assert kept[0][0] == np.float32(-0.3)
