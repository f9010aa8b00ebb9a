"""Compiled code among threads: ours, the caller's, and how many."""

from __future__ import annotations

import _thread
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg.ops import get_ops
from support.nested import each, leaves
from support.scripts import at_once, python
from support.table import ROWS, Row

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
from lossreg import environment
from lossreg.ops.llvm import compiler as engine
from lossreg.ops.llvm import gate as shared
from lossreg.ops.llvm import threads as pool

set_num_threads = lossreg.set_num_threads
LARGE = 300_000
"""Elements that are the work of several threads."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Every test begins with 3 threads, whatever this machine has."""
    before = pool.get_num_threads()
    set_num_threads(3)
    with lossreg.use_ops("llvm"), np.errstate(all="ignore"):
        yield
    set_num_threads(before)


def same_bits(a: Any, b: Any) -> bool:
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(leaves(a), leaves(b), strict=True))


# Threads of ours


def several_claims(row: Row, rng: Any) -> Any:
    small, _ = row.sample(rng, 8)
    if row.coupled or "CTC" in row.name:
        return row.sample(rng, 60)
    return row.sample(rng, 8 * LARGE // max(1, sum(x.size for x in leaves(small))))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_same_bits_from_any_number_of_threads(row: Row, rng: Any) -> None:
    loss, results = row.make(), []
    guesses, truths = several_claims(row, rng)
    guesses = each(lambda x: x.astype(np.float32), guesses)
    for count in (1, 2, 7):
        set_num_threads(count)
        results.append((loss(guesses, truths), loss.get_loss(guesses, truths)))
        if not row.thinc:
            results[-1] += (loss.get_values(guesses, truths),)
    assert all(same_bits(result, results[0]) for result in results[1:])


def data(n: int = 3 * LARGE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(size=n)


def test_helpers_do_take_part() -> None:
    """Each of three threads waits for the other two, so that none can do the work of another."""
    meet, threads = threading.Barrier(3), set()

    def work() -> None:
        threads.add(threading.get_ident())
        meet.wait(30)

    pool.ask_helpers(work, 3)
    work()
    assert len(threads) == 3


def test_one_task_asks_nobody() -> None:
    seen = []
    pool.ask_helpers(lambda: seen.append(1), 1)
    time.sleep(0.05)
    assert not seen


def test_an_error_of_a_helper_ends_nothing() -> None:
    met: list[int] = []

    def work() -> None:
        met.append(threading.get_ident())
        raise MemoryError("no memory for its scratch rows")

    x, t = data()
    for _ in range(5):
        pool.ask_helpers(work, 3)
        assert lossreg.MeanSquaredError().get_loss(x, t) == pytest.approx(np.mean((x - t) ** 2))
    assert set(met) <= set(pool._pool.helpers)
    test_helpers_do_take_part()


def test_threads_that_cannot_start(monkeypatch: Any) -> None:
    """As when a process has all the threads it may have: those that did start help."""
    start, allowed = _thread.start_new_thread, [1]

    def start_once(*args: Any) -> int:
        if not allowed:
            raise RuntimeError("can't start new thread")
        allowed.pop()
        return start(*args)

    monkeypatch.setattr(pool, "_pool", pool._Pool(3))
    monkeypatch.setattr(_thread, "start_new_thread", start_once)
    x, t = data()
    for _ in range(2):
        assert lossreg.MeanSquaredError().get_loss(x, t) == pytest.approx(np.mean((x - t) ** 2))
        assert len(pool._pool.helpers) == 1


# The gate: helpers are inside of a call only while its caller is

ENTERED, LEAVE = 4, 5
BODY = f"""
define internal void @body(ptr %call, ptr %helper) noinline {{
  %entered = getelementptr i64, ptr %call, i64 {ENTERED}
  %leave = getelementptr i64, ptr %call, i64 {LEAVE}
  %is_helper = icmp ne ptr %helper, null
  br i1 %is_helper, label %help, label %call_waits
call_waits:                                       ; the caller works until a helper is inside
  %others = load atomic i64, ptr %entered seq_cst, align 8
  %met = icmp ne i64 %others, 0
  br i1 %met, label %done, label %call_waits
help:
  %ignored = atomicrmw add ptr %entered, i64 1 seq_cst
  br label %help_waits
help_waits:                                       ; a helper works until it may leave
  %may = load atomic i64, ptr %leave seq_cst, align 8
  %over = icmp ne i64 %may, 0
  br i1 %over, label %done, label %help_waits
done:
  ret void
}}
"""


def begin_call() -> tuple[Any, Any]:
    """(machine code whose caller waits for a helper, whose helper waits for LEAVE; a call of it)."""
    return engine.compiled(BODY), (ctypes.c_int64 * 6)(*shared.shared_slots, 0, 0)


def test_nobody_helps_before_and_after_a_call() -> None:
    machine, call = begin_call()
    machine.help(call, 1)
    assert call[0] == call[ENTERED] == 0
    call[ENTERED] = 1  # the caller sees somebody and ends
    machine.run(call, None)
    machine.help(call, 1)
    assert call[0] == 0
    assert call[ENTERED] == 1


def test_a_call_returns_when_every_helper_has_left() -> None:
    machine, call = begin_call()
    caller = threading.Thread(target=machine.run, args=(call, None), daemon=True)
    caller.start()

    def help_once() -> None:
        while not call[ENTERED] and caller.is_alive():
            machine.help(call, 1)

    helper = threading.Thread(target=help_once, daemon=True)
    helper.start()
    caller.join(0.2)
    assert caller.is_alive(), "it left while a helper was inside"
    call[LEAVE] = 1
    caller.join(30)
    helper.join(30)
    assert not caller.is_alive()
    assert call[0] == 0


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2", None])
def test_a_wrong_number_of_threads(count: Any) -> None:
    with pytest.raises(ValueError, match=r"set_num_threads: expected a whole number of at least 1, got"):
        set_num_threads(count)
    assert pool.get_num_threads() == 3


@pytest.mark.parametrize(
    "ours, openmp, expected",
    [("3", None, 3), (None, "5", 5), ("3", "5", 3), ("", "5", 5), (" 3 ", None, 3), (None, "4,2", 4), (None, "no", None), (None, "0", None)],
)  # fmt: skip
def test_number_of_threads_of_the_environment(ours: Any, openmp: Any, expected: Any) -> None:
    code = "import lossreg; print(lossreg.get_num_threads())"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = python(code, setup="", LOSSREG_NUM_THREADS=ours, OMP_NUM_THREADS=openmp)
    assert found == str(expected or cores)


WRONG_VARIABLES = {
    "LOSSREG_NUM_THREADS": (["0", "-2", "two", "1.5", "1e3", "٣", "99999999"], "a whole number of at least 1"),
    "LOSSREG_JIT": (["2", "true", "yes", "-1"], r"0 \(NumPy alone\) or 1 \(compiled\)"),
}


@pytest.mark.parametrize("name, text", [(name, text) for name, (texts, _) in WRONG_VARIABLES.items() for text in texts])
def test_a_wrong_variable_is_an_error_of_the_import(name: str, text: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(name, text)
    expected = WRONG_VARIABLES[name][1]
    with pytest.raises(ValueError, match=f"Environment variable {name}: expected {expected}.*, got '{text}'"):
        environment.Environment.read()


def test_the_import_reads_the_variables() -> None:
    code = """
try:
    import lossreg
except ValueError as error:
    print(error)
"""
    expected = "Environment variable LOSSREG_JIT: expected 0 (NumPy alone) or 1 (compiled), got 'maybe'."
    assert python(code, setup="", LOSSREG_JIT="maybe") == expected


# Threads of the caller's


def test_many_threads_at_once() -> None:
    calculators = [lossreg.MeanSquaredError(), lossreg.Huber(delta=0.3), lossreg.SmoothL1(reduction="sum")]
    cases = [(loss, *data(n, n)) for loss in calculators for n in (5, 1000, LARGE, 3 * LARGE)]
    wanted = [loss(x, t) for loss, x, t in cases]
    for found in at_once(*[lambda: [loss(x, t) for loss, x, t in cases * 2]] * 12):
        assert same_bits(found, wanted * 2)


def test_the_number_of_threads_may_change_meanwhile() -> None:
    x, t = data()
    loss, end = lossreg.Huber(), threading.Event()
    wanted = loss(x, t)

    def call() -> bool:
        found = True
        while not end.is_set():
            found &= same_bits(loss(x, t), wanted)
        return found

    def change() -> bool:
        for i in range(200):
            set_num_threads(1 + i % 5)
        end.set()
        return True

    assert at_once(call, call, call, call, change) == [True] * 5


def test_a_formula_is_compiled_by_several_threads_at_once() -> None:
    def fresh(xp: Any, x: Any) -> Any:
        return xp.exp(x) * 1.0625 - x, x

    x, meet, ops = np.linspace(-2.0, 2.0, 9), threading.Barrier(8), get_ops("llvm")

    def call() -> Any:
        meet.wait(30)
        return ops.run(fresh, [x], (), None, 1.0, rows=False, values=True, total=False, out=None)[0]

    for found in at_once(*[call] * 8):
        np.testing.assert_allclose(found, np.exp(x) * 1.0625 - x, rtol=1e-14)
