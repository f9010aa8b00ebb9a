"""Compiled code among processes: forks, pools, the end of the interpreter, and signals."""

from __future__ import annotations

import _thread
import os
import signal
from typing import Any

import pytest

from support.scripts import python

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
from lossreg.ops.llvm import compiler_thread as undisturbed


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


def test_a_thread_that_dies_at_its_first_step_is_not_waited_for(monkeypatch: Any) -> None:
    """As for want of memory: then its work ends without a word."""
    start = _thread.start_new_thread
    monkeypatch.setattr(
        undisturbed._thread, "start_new_thread", lambda function, args: start(lambda *ignored: None, ())
    )
    with pytest.raises(MemoryError, match="no memory for the thread that compiles"):
        undisturbed.undisturbed(lambda: 1)
