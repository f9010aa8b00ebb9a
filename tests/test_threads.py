"""Compiled code among threads, forks, processes, environments and on a disk that breaks."""

from __future__ import annotations

import _thread
import contextvars
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import each, leaves
from table import ROWS, Row

import lossreg
from lossreg.ops import get_ops

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
from lossreg import environment
from lossreg.ops.llvm import cache as code_cache
from lossreg.ops.llvm import compiler as engine
from lossreg.ops.llvm import compiler_thread as undisturbed
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


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Results of calls in a thread each; a deadlock fails."""
    results: list[Any] = [None] * len(calls)

    def run(i: int) -> None:
        results[i] = calls[i]()

    contexts = [contextvars.copy_context() for _ in calls]
    callers = [threading.Thread(target=c.run, args=(run, i), daemon=True) for i, c in enumerate(contexts)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    return results


def test_many_threads_at_once() -> None:
    calculators = [lossreg.MeanSquaredError(), lossreg.Huber(delta=0.3), lossreg.SmoothL1(reduction="sum")]
    cases = [(loss, *data(n, n)) for loss in calculators for n in (5, 1000, LARGE, 3 * LARGE)]
    wanted = [loss(x, t) for loss, x, t in cases]
    for found in at_once(*[lambda: [loss(x, t) for loss, x, t in cases * 4]] * 12):
        assert same_bits(found, wanted * 4)


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


# Processes

SETUP = """
import atexit, os, signal, sys, threading, numpy as np, lossreg
loss, rng = lossreg.Huber(), np.random.default_rng(0)
x, t = rng.normal(size=400_000), rng.normal(size=400_000)
r = np.clip(x - t, -1, 1)
def helpers(): return lossreg.ops.llvm.threads._pool.helpers
def right(): return bool(np.isclose(loss.get_loss(x, t), np.mean(r * (x - t - 0.5 * r)), rtol=1e-12))
"""


def python(code: str, setup: str = SETUP, **environment: Any) -> str:
    """What a script prints in a process of its own, with three threads."""
    env = {**os.environ, "LOSSREG_JIT": "1", "LOSSREG_NUM_THREADS": "3"}
    env = {name: value for name, value in {**env, **environment}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", setup + code],
        capture_output=True, text=True, timeout=60, env=env,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


def test_small_work_starts_no_thread_and_large_work_those_it_may() -> None:
    code = """
loss(x[:250_000], t[:250_000])
poisson = lossreg.loss("poissonloss")
poisson(x[:60_000], abs(t[:60_000]))
small = len(helpers())
poisson(x[:70_000], abs(t[:70_000]))
print(small, len(helpers()))
"""
    assert python(code) == "0 2"


FORK = """
assert right() and len(helpers()) == 2
child = os.fork()
if child == 0:
    signal.alarm(30)
    sys.exit(0 if right() and right() and len(helpers()) == 2 else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), right())
"""
FORK_DURING_CALLS = """
right()
end = threading.Event()
def call():
    while not end.is_set(): right()
callers = [threading.Thread(target=call) for _ in range(3)]
for caller in callers: caller.start()
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if right() else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
end.set()
for caller in callers: caller.join()
print(max(codes), right())
"""
FORK_DURING_COMPILATION = """
import time
right()
ops, end, made = lossreg.get_ops(x), threading.Event(), []
def fresh(k):
    def formula(xp, x): return xp.exp(x) * k, x
    return ops.run(formula, [x[:1]], (), None, 1.0, rows=False, values=True, total=False, out=None)[0]
def call():
    while not end.is_set(): made.append(fresh(1.0 + len(made)))
caller = threading.Thread(target=call)
caller.start()
codes = []
while len(codes) < 15 and not any(codes):
    time.sleep(0.013)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        fresh(-1.0 - len(codes))
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
end.set()
caller.join()
print(max(codes, key=abs), right())
"""
FORK_DURING_ALLOCATION = """
ops, end, codes = lossreg.get_ops(x), threading.Event(), []
def allocate(): return ops.empty((9_000_000,), np.dtype(np.float32))  # as a gradient whose memory is used again
def allocate_on():
    while not end.is_set(): allocate()
sys.setswitchinterval(1e-6)  # so that a thread is often caught with a lock in its hands
callers = [threading.Thread(target=allocate_on) for _ in range(3)]
for caller in callers: caller.start()
while len(codes) < 40 and not any(codes):
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        allocate()
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
end.set()
for caller in callers: caller.join()
print(max(codes, key=abs), right())
"""
FORKS = [FORK, FORK_DURING_CALLS, FORK_DURING_COMPILATION, FORK_DURING_ALLOCATION]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("code", FORKS, ids=["after calls", "during calls", "during compilation", "during allocation"])
def test_a_forked_child_has_threads_of_its_own(code: str) -> None:
    assert python(code, LOSSREG_CACHE_DIR="") == "0 True"


@pytest.mark.parametrize("used", [True, False])
def test_calls_while_the_interpreter_ends(used: bool) -> None:
    """In an exit handler, and in a thread that outlives the main one, no new threads can be had."""
    code = f"""
if {used}: right()
def late():
    threading.main_thread().join()
    print(right(), flush=True)
atexit.register(lambda: print(right(), flush=True))
threading.Thread(target=late).start()
"""
    assert python(code) == "True\nTrue"


POOL = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
if __name__ == "__main__":
    right()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("{how}")) as workers:
        found = [workers.submit(loss, x, t) for _ in range(4)]
        print(all(np.array_equal(f.result(50)[0], loss(x, t)[0]) for f in found))
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_workers_of_a_process_pool(how: str) -> None:
    import multiprocessing

    if how not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {how}")
    assert python(POOL.format(how=how)) == "True"


def test_workers_of_joblib_share_the_cores() -> None:
    pytest.importorskip("joblib", reason="joblib is not installed")
    code = """
from joblib import Parallel, delayed, parallel_config
from lossreg.ops.llvm.threads import get_num_threads
right()
with parallel_config("loky", n_jobs=2, inner_max_num_threads=2):
    found = Parallel()(delayed(loss)(x, t) for _ in range(4))
    counts = set(Parallel()(delayed(get_num_threads)() for _ in range(2)))
print(all(np.array_equal(grad, loss.get_grad(x, t)) for grad, _ in found), counts)
"""
    assert python(code, LOSSREG_NUM_THREADS=None) == "True {2}"


# Work that no signal interrupts

SIGNALS = """
import time
from lossreg.ops.llvm.compiler_thread import undisturbed
class Interrupt(Exception): pass
def interrupt(*args): raise Interrupt
def after(seconds, handler):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
done = []
def work(seconds=0.5):
    time.sleep(seconds)
    done.append(1)
    return 7
"""
INTERRUPTED = """
after(0.1, interrupt)
try: undisturbed(work)
except Interrupt: print("interrupted", len(done))
print(undisturbed(lambda: len(done)))  # its turn comes when the work has ended
"""
HANDLER_WORKS_TOO = """
after(0.1, lambda *args: print(undisturbed(lambda: ("after it", len(done)))))
print(undisturbed(work))
"""
HANDLER_FORKS = """
def fork(*args):
    global child
    child = os.fork()
after(0.1, fork)
found = undisturbed(work)
if child == 0:
    os._exit(found)
print(found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
FINALIZER_WORKS_TOO = """
class Ends:
    def __del__(self): print(undisturbed(lambda: "inside"))
def work_with_an_end():
    Ends()
    return "outside"
print(undisturbed(work_with_an_end))
"""
ERROR = """
def fails(): raise MemoryError("none left")
try: undisturbed(fails)
except MemoryError as error: print(error)
print(undisturbed(work))
"""
FORKED_WHILE_IT_IMPORTS = """
from concurrent.futures import ThreadPoolExecutor
first = ThreadPoolExecutor(1).submit(right)
codes = []
while not first.done():
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if right() else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(set(codes), first.result())
"""
IMPORTED_BY_ANOTHER = """
import importlib.util
spec = importlib.util.find_spec("llvmlite")
spec._initializing = True
sys.modules["llvmlite"] = importlib.util.module_from_spec(spec)
try: right()
except ImportError as error: print(error)
"""
WORK = {
    "an interrupt ends the wait, and not the work": (INTERRUPTED, "interrupted 0\n1"),
    "a signal handler may need work of its own": (HANDLER_WORKS_TOO, "('after it', 1)\n7"),
    "a signal handler may fork": (HANDLER_FORKS, "7 7"),
    "a finalizer may need work of its own": (FINALIZER_WORKS_TOO, "inside\noutside"),
    "an error is the caller's": (ERROR, "none left\n7"),
    "children of the first call": (FORKED_WHILE_IT_IMPORTS, "{0} True"),
    "an import that is not ours": (
        IMPORTED_BY_ANOTHER, "llvmlite is being imported at this moment, and not by lossreg: call again when it has been",
    ),
}  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("what", WORK)
def test_undisturbed_work(what: str) -> None:
    code, printed = WORK[what]
    assert python(SIGNALS + code) == printed


IN_HANDLERS = """
import time
def handler(*args):
    try: print("inside:", call_again())
    except BaseException as error: print("inside:", error)
signal.signal(signal.SIGUSR1, handler)
signal.alarm(20)  # ends a process that hangs
sent = []
def send():
    if not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
"""
FRESH_FORMULAS = """
import llvmlite.binding as llvm
def fresh(factor):
    def formula(xp, x): return x * factor, x
    ones = np.ones(1)
    return lossreg.get_ops(x).run(formula, [ones], (), None, 1.0, rows=False, values=True, total=False, out=None)[0][0]
def call_again(): return fresh(5.0)
right()
parse = llvm.parse_assembly
"""
WHILE_COMPILING = """
def parse_with_signal(*args):
    send()
    return parse(*args)
llvm.parse_assembly = parse_with_signal
print("outside:", fresh(3.0))
"""
IN_A_FINALIZER = """
class Ends:
    def __del__(self): handler()
def parse_with_an_end(*args):
    if not sent:
        sent.append(1)
        Ends()
    return parse(*args)
llvm.parse_assembly = parse_with_an_end
print("outside:", fresh(3.0))
"""
WHILE_IMPORTING = """
call_again = right
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "llvmlite.binding.ffi": send()
sys.meta_path.insert(0, Finder())
print("outside:", right())
"""
WITHIN_FIRST_CALLS = {
    "a handler, while its thread compiles": (FRESH_FORMULAS + WHILE_COMPILING, "inside: 5.0\noutside: 3.0"),
    "a finalizer, while its thread compiles": (FRESH_FORMULAS + IN_A_FINALIZER, "inside: 5.0\noutside: 3.0"),
    "a handler, while the compiler is imported": (WHILE_IMPORTING, "inside: True\noutside: True"),
}


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no signals for users")
@pytest.mark.parametrize("what", WITHIN_FIRST_CALLS)
def test_calls_that_compile_within_calls_that_compile(what: str) -> None:
    """As a user writes them; what makes it work is tested above."""
    code, printed = WITHIN_FIRST_CALLS[what]
    assert python(IN_HANDLERS + code, LOSSREG_CACHE_DIR="") == printed


# The environment


@pytest.mark.parametrize("wanted, name", [("0", "numpy"), ("1", "llvm"), (None, "llvm")])
def test_the_environment_chooses_the_backend(wanted: Any, name: str) -> None:
    code = """
print(loss.get_loss(x, t) > 0, lossreg.get_ops(x).name, lossreg.get_ops().name, "llvmlite" in sys.modules)
"""
    assert python(code, LOSSREG_JIT=wanted) == f"True {name} {name} {name == 'llvm'}"


@pytest.mark.parametrize(
    "version, name", [("0.44.1", "numpy"), ("0.45.0rc1", "llvm"), ("0.100.0", "llvm"), ("1.0.0", "llvm")]
)
def test_an_old_compiler_is_not_used(version: str, name: str) -> None:
    code = f"""
import importlib.metadata
importlib.metadata.version = lambda package: "{version}"
print(right(), lossreg.get_ops(x).name)
try:
    lossreg.get_ops("llvm")
except ImportError as error:
    print(error)
"""
    says = "llvmlite 0.45 or newer is not installed: python -m pip install 'lossreg[jit]'"
    assert python(code) == f"True {name}" + (f"\n{says}" if name == "numpy" else "")


def test_import_loads_no_compiler() -> None:
    assert python("print([m for m in ('llvmlite', 'numba', 'concurrent.futures') if m in sys.modules])") == "[]"


# Machine code on disk

COUNTED = """
import llvmlite.binding as llvm
parse, compiled = llvm.parse_assembly, []
llvm.parse_assembly = lambda text, *rest: ("define" in text and compiled.append(1), parse(text, *rest))[1]
print(right(), bool(compiled))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: Any) -> Path:
    """A folder to which one process has written its machine code."""
    folder: Path = tmp_path_factory.mktemp("cache") / "new" / "folder"
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(folder)) == "True True"
    return folder


@pytest.fixture
def cache(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "cache")


def test_a_second_process_compiles_nothing(written: Path) -> None:
    before = sorted(written.iterdir())
    assert before
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(written)) == "True False"
    assert sorted(written.iterdir()) == before


def test_processes_that_write_the_same_at_once(tmp_path: Path) -> None:
    for found in at_once(*[lambda: python(COUNTED, LOSSREG_CACHE_DIR=str(tmp_path))] * 4):
        assert found.startswith("True")
    assert {path.suffix for path in tmp_path.iterdir()} == {".o"}
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(tmp_path)) == "True False"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda code: b"",
    "cut in half": lambda code: code[: len(code) // 2],
    "without its end": lambda code: code[:-16],
    "zeros": lambda code: bytes(len(code)),
    "noise": lambda code: np.random.default_rng(0).bytes(len(code)),
    "one bit": lambda code: code[:200] + bytes([code[200] ^ 1]) + code[201:],
    "text": lambda code: b"no machine code\n",
    "too long": lambda code: code + code,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_compiled_again(damage: str, cache: Path) -> None:
    for path in cache.iterdir():
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True False"


def test_an_unreadable_file_is_compiled_again(cache: Path) -> None:
    for path in list(cache.iterdir()):
        path.unlink()
        path.mkdir()
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"


def test_the_folder_of_the_users_cache(tmp_path: Path) -> None:
    places = dict(LOSSREG_CACHE_DIR=None, LOCALAPPDATA=None, XDG_CACHE_HOME=str(tmp_path))
    assert python(COUNTED, **places) == "True True"
    assert [path.name for path in tmp_path.iterdir()] == ["lossreg"]
    assert python(COUNTED, **places) == "True False"
    if os.name == "posix":
        assert (tmp_path / "lossreg").stat().st_mode & 0o777 == 0o700
    assert {path.suffix for path in (tmp_path / "lossreg").iterdir()} == {".o"}  # no temporary file is left


def test_without_a_folder_everything_works(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        assert python(COUNTED, LOSSREG_CACHE_DIR=folder) == "True True"


def test_a_folder_that_is_read_only(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o500)
    cache.chmod(0o500)
    if os.access(cache, os.W_OK):
        pytest.skip("this user may write everywhere")
    for folder, compiles in ((cache, False), (tmp_path / "empty", True)):
        before = list(folder.iterdir())
        assert python(COUNTED, LOSSREG_CACHE_DIR=str(folder)) == f"True {compiles}"
        assert list(folder.iterdir()) == before


HOMELESS = """
import pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
"""


@pytest.mark.skipif(os.name != "posix", reason="homes of POSIX")
@pytest.mark.parametrize("folder", [None, "given"])
def test_a_user_without_a_home(folder: Any, tmp_path: Path) -> None:
    """As in a container that runs under a number."""
    given = None if folder is None else str(tmp_path / folder)
    places = dict(LOSSREG_CACHE_DIR=given, HOME=None, XDG_CACHE_HOME=None, LOCALAPPDATA=None)
    assert python(HOMELESS + COUNTED, **places) == "True True"


# What may be read from a disk, since it is run

CODE = b"machine code"


def kept(folder: Path, **options: Any) -> code_cache.CodeCache:
    """A cache that has written a piece of code to a new folder."""
    written = code_cache.CodeCache(folder, **options)
    written.write("code", CODE)
    assert written.read("code") == CODE
    return written


def refused(folder: Path, why: str) -> None:
    """Raise unless code of a folder is not used, which one warning says."""
    refuses = code_cache.CodeCache(folder)
    assert refuses.read("code") is None
    with pytest.warns(RuntimeWarning, match=rf"compiled code is not kept on disk: .*{why}.*LOSSREG_CACHE_DIR"):
        refuses.warn()
    refuses.warn()
    refuses.write("more", CODE)
    assert not os.path.exists(folder / "more.o")  # of a name that is too long, too


owners = pytest.mark.skipif(not code_cache.HAS_OWNERS, reason="files have no owners on this system")


@owners
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720])
def test_a_folder_that_others_may_write_to_is_not_used(mode: int, tmp_path: Path) -> None:
    kept(tmp_path)
    tmp_path.chmod(mode)
    refused(tmp_path, "others may write to the folder")


@owners
@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not_used(mode: int, tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / "code.o").chmod(mode)
    refused(tmp_path, "others may write to a file")


@owners
@pytest.mark.parametrize("what", ["", "code.o"], ids=["folder", "file"])
def test_what_belongs_to_another_user_is_not_used(what: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    folder = tmp_path / "cache"
    kept(folder)
    os.chown(folder / what, 12_345, -1)
    refused(folder, "belongs to user 12345")


@owners
def test_code_that_somebody_planted_is_not_run(cache: Path) -> None:
    cache.chmod(0o777)
    before = sorted(cache.iterdir())
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"
    assert sorted(cache.iterdir()) == before


def test_code_for_another_machine_is_not_run(cache: Path) -> None:
    """As in a home that machines of several kinds share."""
    other = "import llvmlite.binding\nllvmlite.binding.get_default_triple = lambda: 'riscv64-unknown-linux-gnu'"
    assert python(other + COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True False"


@owners
def test_links(tmp_path: Path) -> None:
    """What a link leads to is looked at; a link in place of a file is not followed."""
    kept(tmp_path / "folder")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert code_cache.CodeCache(tmp_path / "link").read("code") == CODE
    (tmp_path / "folder" / "other.o").symlink_to(tmp_path / "folder" / "code.o")
    assert code_cache.CodeCache(tmp_path / "folder").read("other") is None


@owners
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "code.o", 0o600)
    assert code_cache.CodeCache(tmp_path).read("code") is None
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "Not a directory")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 5000), "name too long")


def test_a_full_disk_costs_a_warning(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code_cache.os, "replace", full)
    on_full_disk = code_cache.CodeCache(tmp_path)
    on_full_disk.write("code", CODE)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        on_full_disk.warn()
    assert not list(tmp_path.iterdir()), "what was begun is removed"


def test_the_warning_comes_once_and_with_the_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    right(), lossreg.MeanSquaredError()(x, t)
print([str(w.message).partition(":")[0] for w in seen])
"""
    assert python(code, LOSSREG_CACHE_DIR=str(tmp_path / "file")) == "['lossreg']"


def test_the_oldest_files_make_room(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(code_cache, "MAX_FILES", 6)
    cache = code_cache.CodeCache(tmp_path)
    for i in range(9):
        (tmp_path / f"of the user {i}.o").touch()
    for i in range(7):
        cache.write(f"{i:040x}", CODE)
        os.utime(tmp_path / f"{i:040x}.o", (i, i))
    written = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("of the user"))
    assert written == [f"{i:040x}.o" for i in (3, 4, 5, 6)]
    assert len(list(tmp_path.iterdir())) == 9 + 4


def test_home_is_expanded(tmp_path: Path) -> None:
    assert python(COUNTED, HOME=str(tmp_path), USERPROFILE=str(tmp_path), LOSSREG_CACHE_DIR="~/mine") == "True True"
    assert list((tmp_path / "mine").iterdir())


def test_code_that_nobody_needs_is_given_back() -> None:
    """A formula that branches on an int has machine code for each value; what is not used for long makes room."""
    code = """
import gc
ops = lossreg.get_ops(x)
def formula(xp, x, k): return x * float(k), x
def call(k): return ops.run(formula, [x[:1]], (k,), None, 1.0, rows=False, values=True, total=False, out=None)[0]
from lossreg.ops.llvm import compiler as engine
from lossreg.ops.llvm import ops as llvm_ops
for k in range(20): call(k)
one = len(engine._in_use)
llvm_ops._kernel.cache_clear(); gc.collect()
call(20)
print(one >= 20, len(engine._in_use) <= 1 + engine._recent.maxlen)
"""
    assert python(code, LOSSREG_CACHE_DIR="") == "True True"


def test_a_thread_that_dies_at_its_first_step_is_not_waited_for(monkeypatch: Any) -> None:
    """As for want of memory: then its work ends without a word."""
    start = _thread.start_new_thread
    monkeypatch.setattr(
        undisturbed._thread, "start_new_thread", lambda function, args: start(lambda *ignored: None, ())
    )
    with pytest.raises(MemoryError, match="no memory for the thread that compiles"):
        undisturbed.undisturbed(lambda: 1)
