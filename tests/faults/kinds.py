"""The kinds of disturbance. Each is a function that runs until its worker's time is over."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import random
import resource
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

import lossreg

from .disturb import Failure, Interrupt, Shortage, Timeout, count_inside, fork, outcome_of, wait_for_child
from .worker import Callers, Worker

__all__ = ["KINDS"]

KINDS: dict[str, Callable[[Worker], None]] = {}

THREADS = lossreg.get_num_threads()
"""Threads of a call, the caller's among them, as the environment of this worker says."""


def kind(function: Callable[[Worker], None]) -> Callable[[Worker], None]:
    KINDS[function.__name__] = function
    return function


# Errors that are raised in a call


@kind
def timer(worker: Worker) -> None:
    """A handler of SIGALRM raises in the main thread."""
    cases = worker.shared_cases
    worker.start()
    while worker.running():
        _interrupted_call(worker, worker.chance.choice(cases))
        if worker.chance.random() < 0.5:
            worker.check_again(worker.chance.choice(cases))
        worker.check_size()
    worker.check_threads(0, THREADS)


def _interrupted_call(worker: Worker, case: Any) -> None:
    chance = worker.chance
    out = np.empty_like(case.guesses) if chance.random() < 0.3 else None
    outcome = worker.timer.call(lambda: case(out=out), worker.durations[case.name])
    worker.look_at(case, outcome, out)


@kind
def keyboard(worker: Worker) -> None:
    """SIGINT from another process."""
    cases = worker.shared_cases
    worker.start()
    sender = fork(worker.report, lambda: _send_interrupts(os.getppid(), worker.chance.random(), worker.seconds))
    worker.timer.shots = 10**9
    try:
        while worker.running():
            case = worker.chance.choice(cases)
            out = np.empty_like(case.guesses) if worker.chance.random() < 0.3 else None
            worker.look_at(case, outcome_of(lambda: case(out=out)), out)
            worker.check_size()
    finally:
        worker.timer.shots = 0
        wait_for_child(worker.report, sender, "sender of SIGINT", worker.seconds + worker.hang, (0, 1))
    for case in cases:
        worker.check_again(case)


def _send_interrupts(process: int, seed: float, seconds: float) -> None:
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end and os.getppid() == process:
        time.sleep(chance.uniform(0.0005, 0.02))
        with contextlib.suppress(ProcessLookupError):  # it has just crashed
            os.kill(process, signal.SIGINT)


@kind
def asynchronous(worker: Worker) -> None:
    """PyThreadState_SetAsyncExc raises in threads that call."""
    cases = worker.shared_cases
    threading.excepthook = _ignore_injected
    inside: dict[int, bool] = {}

    def step() -> None:
        me, case = threading.get_ident(), worker.chance.choice(cases)

        def call() -> Any:
            inside[me] = True
            return case()

        try:
            outcome = outcome_of(call)
            inside[me] = False
            worker.look_at(case, outcome, wait=0.002)
            if worker.chance.random() < 0.3:
                worker.check_again(case)
        except Interrupt:  # it came late, in the harness
            pass

    worker.start()
    callers = Callers(worker, [step] * 3)
    while worker.running():
        time.sleep(worker.chance.uniform(0.0, 0.006))
        ready = [thread.ident for thread in callers.threads if inside.get(thread.ident or 0)]
        callers.revive()
        if ready:
            target = worker.chance.choice(ready)
            frame = sys._current_frames().get(target)
            worker.report.count("interrupts")
            count_inside(worker.report, frame)
            del frame
            raise_in_thread(target, Interrupt)
        worker.check_size()
    callers.stop()
    for case in cases:
        worker.check_again(case)
    worker.check_threads(0, THREADS)


def raise_in_thread(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def _ignore_injected(arguments: Any) -> None:
    if not issubclass(arguments.exc_type, Interrupt):
        sys.__excepthook__(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)


@kind
def threads(worker: Worker) -> None:
    """set_num_threads from one thread, calls of several, and a timer that raises in the main one."""
    cases = worker.shared_cases
    most = 5 if THREADS > 1 else 1

    def change() -> None:
        lossreg.set_num_threads(worker.chance.randint(1, most))
        time.sleep(worker.chance.choice([0.0, 0.0005, 0.003, 0.02]))

    def call() -> None:
        case = worker.chance.choice(cases)
        worker.look_at(case, outcome_of(case))

    worker.start()
    callers = Callers(worker, [change, call, call])
    while worker.running():
        _interrupted_call(worker, worker.chance.choice(cases))
    callers.stop()
    lossreg.set_num_threads(THREADS)
    for case in cases:
        worker.check_again(case)
    worker.check_threads(0, most)  # helpers of larger numbers may wait; they do no work


# Forks


@kind
def forks(worker: Worker) -> None:
    """os.fork in the main thread, while other threads call, allocate and compile."""
    _fork_among_threads(worker, in_handlers=False)


@kind
def forks_in_handlers(worker: Worker) -> None:
    """os.fork in a signal handler, in the middle of a call or of compiling, while other threads do the same."""
    _fork_among_threads(worker, in_handlers=True)


def _fork_among_threads(worker: Worker, in_handlers: bool) -> None:
    cases, large, small = (
        worker.shared_cases,
        worker.prepared(worker.cases.large_case()),
        worker.prepared(worker.cases.small_case()),
    )
    ops, unseen, chance = lossreg.get_ops(small.guesses), worker.cases.unseen, worker.chance
    children: list[int] = []

    def in_child() -> None:
        ops.empty((9_000_000,), np.dtype(np.float32))  # as the gradient of the large case, which takes long
        for case in (small, chance.choice([large, *cases, *cases, *cases])):
            if not case.is_right(case()):
                worker.report.fault("wrong bits", f"{case.name}: in a forked child")
        if chance.random() < 0.3:
            unseen()()

    def fork_child() -> None:
        chance.random()  # each child takes another way
        children.append(fork(worker.report, in_child))

    def allocate() -> None:
        for _ in range(200):
            ops.empty((9_000_000,), np.dtype(np.float32))

    def call() -> None:
        case = chance.choice([*cases, large, small])
        worker.look_at(case, outcome_of(case))

    def compile_formula() -> None:
        unseen()()
        time.sleep(0.01)

    def call_with_fork() -> None:
        target = chance.choice([*cases, small, unseen()])
        outcome = worker.timer.call(target, worker.durations.get(getattr(target, "name", ""), 0.02))
        worker.count_call()
        if outcome.other is not None:
            worker.report.fault("exception", outcome.other)

    worker.timer.action = fork_child
    worker.start()
    while worker.running():
        others = chance.choice([[], [allocate], [call, allocate], [call, call], [compile_formula], [allocate] * 3])
        # Threads that take turns more often are more often caught with a lock in their hands.
        sys.setswitchinterval(chance.choice([1e-6, 1e-5, 5e-3]))
        callers = Callers(worker, others)
        round_end = time.monotonic() + 0.6
        while time.monotonic() < round_end and worker.running():
            for _ in range(3):
                if in_handlers:
                    call_with_fork()
                else:
                    time.sleep(chance.uniform(0.0, 0.003))
                    fork_child()
            while children:
                wait_for_child(worker.report, children.pop(), "fork", worker.hang)
        callers.stop()
        sys.setswitchinterval(5e-3)
    for case in cases:
        worker.check_again(case)


# Calls within calls


@kind
def handlers(worker: Worker) -> None:
    """A signal handler that makes a call, with kernels that are there, in the middle of a call."""
    cases, small = worker.shared_cases, worker.prepared(worker.cases.small_case())

    def nested_call() -> None:
        _checked_call(worker, worker.chance.choice([*cases, small]))

    worker.timer.action = nested_call
    worker.start()
    while worker.running():
        case = worker.chance.choice(cases)
        worker.look_at(case, worker.timer.call(case, worker.durations[case.name]))
    worker.check_threads(0, THREADS)


@kind
def finalizers(worker: Worker) -> None:
    """Objects whose __del__ makes a call, and which the garbage collector finds in the middle of a call."""
    cases, small = worker.shared_cases, worker.prepared(worker.cases.small_case())
    chance, thresholds, report = worker.chance, gc.get_threshold(), worker.report
    # Until Python 3.12 a finalizer may run within ContextVar.set, and ends the process if it sets one as well
    # (github.com/python/cpython/issues/148891). NumPy's errstate does, and CTC and the NumPy backend need that.
    if sys.version_info < (3, 12):
        cases = [case for case in cases if case.name != "CTC"]

    class Garbage:
        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            report.count("interrupts")
            count_inside(report, sys._getframe())
            _checked_call(worker, chance.choice([*cases, small]))
            if chance.random() < 0.2:
                worker.cases.unseen()()

    sys.unraisablehook = lambda e: report.fault("exception", f"in a finalizer: {e.exc_type}: {e.exc_value}")
    worker.start()
    while worker.running():
        case = chance.choice(cases)
        gc.collect()
        Garbage()
        gc.set_threshold(chance.randint(1, 150))
        outcome = outcome_of(worker.cases.unseen() if chance.random() < 0.3 else case)
        gc.set_threshold(*thresholds)
        if outcome.result is None:
            _check_fresh(worker, outcome)
        else:
            worker.look_at(case, outcome)


@kind
def compiling_handlers(worker: Worker) -> None:
    """A signal handler whose call needs a new kernel, while the same thread compiles one, or is in a call."""
    cases, unseen, chance = worker.shared_cases, worker.cases.unseen, worker.chance
    number = [1.0]

    def nested_call() -> None:
        # Another formula, or the very one that is being compiled.
        (unseen() if chance.random() < 0.6 else unseen(number[0]))()
        worker.count_call()

    worker.timer.action = nested_call
    worker.start()
    while worker.running():
        number[0] += 1e-6
        if chance.random() < 0.8:
            _check_fresh(worker, worker.timer.call(unseen(number[0]), 0.03))
        else:
            case = chance.choice(cases)
            worker.look_at(case, worker.timer.call(case, worker.durations[case.name]))


def _checked_call(worker: Worker, case: Any) -> None:
    worker.count_call()
    result = case()
    # When Python ends, calls run on the NumPy backend.
    is_right = case.is_close(result) if sys.is_finalizing() else case.is_right(result)
    if not is_right:
        worker.report.fault("wrong bits", f"{case.name}: of a call within a call")


def _check_fresh(worker: Worker, outcome: Any, undisturbed: bool = False) -> None:
    worker.count_call()
    if outcome.other is not None:
        worker.report.fault("exception", f"a fresh formula: {outcome.other}")
    if undisturbed and outcome.injected:
        worker.report.fault("exception", "a fresh formula, undisturbed: raises the error of an earlier call")


# Failures of what calls need


@kind
def memory(worker: Worker) -> None:
    """Allocators that fail at random, and a process at the limit of its memory."""
    cases = [*worker.shared_cases, worker.prepared(worker.cases.large_case())]
    own_limit = resource.getrlimit(resource.RLIMIT_AS)
    worker.start()
    while worker.running():
        case = worker.chance.choice(cases)
        if worker.chance.random() < 0.6:
            with _failing_allocators(worker, worker.chance.choice([0.02, 0.1, 0.5])):
                outcome = outcome_of(case, (MemoryError,))
        else:
            outcome = _call_in_little_memory(worker, case, own_limit)
        worker.report.count("interrupts", outcome.injected)
        worker.report.count("inside", outcome.injected)
        worker.look_at(case, outcome)
        worker.check_again(case)
        worker.check_size()
    worker.check_threads(0, THREADS)


@contextlib.contextmanager
def _failing_allocators(worker: Worker, share: float) -> Iterator[None]:
    """NumPy's, as the package calls them, and the system's for large blocks."""
    names = ("empty", "zeros", "ones", "full", "empty_like", "ascontiguousarray")
    originals = {name: getattr(np, name) for name in names}
    original_mmap = mmap.mmap

    def failing(original: Any, error: type[BaseException]) -> Any:
        def allocate(*args: Any, **kwargs: Any) -> Any:
            if worker.chance.random() < share:
                raise error("no memory, says the harness")
            return original(*args, **kwargs)

        return allocate

    try:
        for name, original in originals.items():
            setattr(np, name, failing(original, Shortage))
        mmap.mmap = failing(original_mmap, OSError)  # type: ignore[misc]
        yield
    finally:
        for name, original in originals.items():
            setattr(np, name, original)
        mmap.mmap = original_mmap  # type: ignore[misc]


def _call_in_little_memory(worker: Worker, case: Any, own_limit: tuple[int, int]) -> Any:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = worker.chance.randint(0, 48 * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + room, own_limit[1]))
    try:
        return outcome_of(case, (MemoryError,))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, own_limit)


@kind
def compiler(worker: Worker) -> None:
    """A compiler that fails at random, in several threads at once, and a timer that raises in it."""
    import llvmlite.binding as llvm

    parse, emit = llvm.parse_assembly, llvm.TargetMachine.emit_object
    share = [0.0]

    def failing(original: Any) -> Any:
        def compile_text(*args: Any, **kwargs: Any) -> Any:
            if worker.chance.random() < share[0]:
                worker.report.count("interrupts")
                worker.report.count("inside")
                raise Failure("no machine code, says the harness")
            return original(*args, **kwargs)

        return compile_text

    unseen, small = worker.cases.unseen, worker.prepared(worker.cases.small_case())
    llvm.parse_assembly, llvm.TargetMachine.emit_object = failing(parse), failing(emit)
    number = [1.0]

    def call() -> None:
        """The formula that others compile as well."""
        _check_fresh(worker, outcome_of(unseen(number[0])))

    worker.start()
    try:
        while worker.running():
            number[0] += 1e-6
            share[0] = worker.chance.choice([0.0, 0.3, 0.8])
            fresh = unseen(number[0])
            callers = Callers(worker, [call] * worker.chance.choice([0, 0, 2]))
            for _ in range(4):
                if share[0]:
                    _check_fresh(worker, outcome_of(fresh))
                else:
                    _check_fresh(worker, worker.timer.call(fresh, 0.03))
            callers.stop()
            share[0] = 0.0
            _check_fresh(worker, outcome_of(fresh), undisturbed=True)
            worker.check_again(small)
    finally:
        llvm.parse_assembly, llvm.TargetMachine.emit_object = parse, emit


@kind
def disk(worker: Worker) -> None:
    """A folder of machine code that is removed, damaged, full or read-only while children compile and read."""
    import llvmlite.binding  # noqa: F401  # once for all children

    small, case = worker.cases.small_case(), worker.unprepared_cases[1]
    child = fork(worker.report, lambda: (small.prepare(), case.prepare()))  # type: ignore[arg-type]
    wait_for_child(worker.report, child, "disk, before anything is disturbed", worker.hang, (0,))
    folder = Path(os.environ["LOSSREG_CACHE_DIR"])
    unseen = worker.cases.unseen

    def in_child() -> None:
        for part in worker.chance.sample([small.prepare, unseen(), unseen(1.25), unseen(1.5)], 4):
            part()
            worker.count_call()

    worker.start()
    with _small_disk(folder) as remount:
        while worker.running():
            worker.chance.random()
            child = fork(worker.report, in_child)
            end = time.monotonic() + worker.chance.uniform(0.0, 0.15)
            while time.monotonic() < end:
                worker.report.count("interrupts")
                _disturb_folder(worker, folder, remount)
                time.sleep(worker.chance.uniform(0.0, 0.01))
            wait_for_child(worker.report, child, "disk", worker.hang)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[str], None] | None]:
    """A disk of 64 KB at the folder, for who may mount one; gives what mounts it again with other options."""
    mounted = False
    if shutil.which("mount") and os.geteuid() == 0:
        options = f"size=64k,mode=0700,uid={os.geteuid()}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        mounted = done.returncode == 0
    if not mounted:
        print("no small disk: this user may not mount one", file=sys.__stderr__)

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], capture_output=True)

    try:
        yield remount if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def _disturb_folder(worker: Worker, folder: Path, remount: Callable[[str], None] | None) -> None:
    chance = worker.chance
    with contextlib.suppress(OSError):  # others write there meanwhile
        files = sorted(folder.iterdir())
        what = chance.choice(["remove", "cut", "noise", "fill", "empty", "folder", "read-only"])
        if what == "remove" and remount is None:
            shutil.rmtree(folder, ignore_errors=True)
        elif what in ("remove", "empty"):
            for path in files:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif what == "cut" and files:
            os.truncate(chance.choice(files), chance.randint(0, 3000))
        elif what == "noise" and files:
            chance.choice(files).write_bytes(chance.randbytes(3000))
        elif what == "folder" and files:
            path = chance.choice(files)
            path.unlink()
            path.mkdir()
        elif what == "fill":
            (folder / "filler").write_bytes(bytes(chance.randint(0, 70_000)))
        elif what == "read-only" and remount is not None:
            remount("ro")
            time.sleep(chance.uniform(0.0, 0.05))
            remount("rw")
        folder.mkdir(mode=0o700, exist_ok=True)


# The beginning and the end of the process


@kind
def first_calls(worker: Worker) -> None:
    """A signal handler raises, or makes a call, in the first call of a process: while the compiler is imported."""
    assert "llvmlite" not in sys.modules, "expected to come before all other kinds"
    timer, unseen, case = worker.timer, worker.cases.unseen, worker.unprepared_cases[1]

    def in_child() -> None:
        timer.action = worker.chance.choice([timer.raise_error, unseen()])
        _check_fresh(worker, timer.call(unseen(), 0.4))
        _check_fresh(worker, outcome_of(unseen()), undisturbed=True)
        case.prepare()

    worker.start()
    while worker.running():
        worker.chance.random()  # each child takes another way
        wait_for_child(worker.report, fork(worker.report, in_child), "first call", worker.hang)


@kind
def ending(worker: Worker) -> None:
    """The interpreter ends during calls of the main thread and of others, with a timer that still fires."""
    cases, small = worker.unprepared_cases, worker.cases.small_case()
    large = worker.cases.large_case()
    # This process starts no thread and compiles nothing, so that its children make their first calls. Most find the
    # compiler imported, which takes longer than all else.
    if worker.chance.random() < 0.7:
        import llvmlite.binding  # noqa: F401
    bits = worker.folder / "bits"
    child = fork(worker.report, lambda: _write_bits(bits, [*cases, large, small]))
    wait_for_child(worker.report, child, "ending, before anything is disturbed", worker.hang, (0,))
    for case in (*cases, large, small):
        case.expected = _read_bits(bits, case)
    worker.start()
    while worker.running():
        worker.chance.random()
        child = _fork_that_returns(worker)
        if not child:
            worker.timer.report = worker.report
            _end_during_calls(worker, cases, large, small)
            return
        # A timer that fires after Python has put back the system's own handler ends the process: its right.
        wait_for_child(worker.report, child, "ending", worker.hang, (0, 1, 120, -signal.SIGALRM))


def _fork_that_returns(worker: Worker) -> int:
    worker.report.count("forks")
    return os.fork()


def _write_bits(folder: Path, cases: list[Any]) -> None:
    folder.mkdir()
    for case in cases:
        grad, value = case.prepare().expected
        np.save(folder / f"{case.name}.grad.npy", grad)
        np.save(folder / f"{case.name}.value.npy", np.float64(value))


def _read_bits(folder: Path, case: Any) -> tuple[Any, Any]:
    return np.load(folder / f"{case.name}.grad.npy"), np.load(folder / f"{case.name}.value.npy")


def _end_during_calls(worker: Worker, cases: list[Any], large: Any, small: Any) -> None:
    """Let calls run in some threads, and return or raise at a random moment of the main one's."""
    import atexit

    chance = worker.chance
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = sys.stdout  # tracebacks of what is raised here, while Python ends
    sys.unraisablehook = lambda error: None
    threading.excepthook = lambda arguments: None
    main = threading.main_thread()

    def check(case: Any, where: str) -> None:
        outcome = outcome_of(case)
        worker.count_call()
        if outcome.other is not None:
            worker.report.fault("exception", f"{case.name}, {where}: {outcome.other}")
        elif outcome.result is not None and not case.is_right(outcome.result):
            worker.report.fault("wrong bits", f"{case.name}, {where}")

    def call_until_the_end() -> None:
        while main.is_alive():
            check(chance.choice([*cases, small]), "in a thread while Python ends")

    def call_after_the_end() -> None:
        main.join()
        check(chance.choice(cases), "in a thread after the main one")

    class LastCall:
        """In a cycle: Python finds it when it collects garbage for the last time, where no thread can start."""

        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            outcome_of(chance.choice([worker.cases.unseen(), small, *cases]))  # it may raise, but not hang

    if chance.random() < 0.3:
        LastCall()
    if chance.random() < 0.5:
        atexit.register(check, chance.choice([*cases, large, small]), "in an exit handler")
    for target in chance.choice([[], [call_until_the_end], [call_until_the_end, call_after_the_end]]):
        threading.Thread(target=target, daemon=chance.random() < 0.5).start()

    case = chance.choice([*cases, *cases, large])
    how = chance.choice(["return", "exit in a handler", "timer goes on", "sys.exit", "error"])
    if chance.random() < 0.5:
        check(case, "before Python ends")
    if how == "exit in a handler":
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
        signal.setitimer(signal.ITIMER_REAL, 10 ** chance.uniform(-5.0, -1.5))
        case()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    elif how == "timer goes on":
        signal.signal(signal.SIGALRM, _raise_timeout)
        signal.setitimer(signal.ITIMER_REAL, 10 ** chance.uniform(-5.0, -2.0), 10 ** chance.uniform(-4.0, -2.0))
        with contextlib.suppress(Timeout):
            case()
    elif how == "sys.exit":
        time.sleep(chance.uniform(0.0, 0.02))
        sys.exit(0)
    elif how == "error":
        raise Interrupt


def _raise_timeout(*arguments: Any) -> None:
    raise Timeout


# All at once


@kind
def mixed(worker: Worker) -> None:
    """A timer in the main thread, errors in others, forks, and changes of the number of threads."""
    cases, small = worker.shared_cases, worker.prepared(worker.cases.small_case())
    threading.excepthook = _ignore_injected
    chance, targets = worker.chance, set()

    def call() -> None:
        case, me = chance.choice(cases), threading.get_ident()
        try:
            targets.add(me)
            outcome = outcome_of(case)
            targets.discard(me)
            worker.look_at(case, outcome, wait=0.001)
        except Interrupt:
            targets.discard(me)

    def disturb() -> None:
        time.sleep(chance.uniform(0.0, 0.01))
        if chance.random() < 0.3:
            lossreg.set_num_threads(chance.randint(1, 4) if THREADS > 1 else 1)
        for target in list(targets):
            if chance.random() < 0.5:
                worker.report.count("interrupts")
                raise_in_thread(target, Interrupt)

    def in_child() -> None:
        for case in (small, chance.choice(cases)):
            if not case.is_right(case()):
                worker.report.fault("wrong bits", f"{case.name}: in a forked child")

    worker.start()
    callers = Callers(worker, [disturb, call, call])
    while worker.running():
        callers.revive()
        _interrupted_call(worker, chance.choice(cases))
        if chance.random() < 0.05:
            wait_for_child(worker.report, fork(worker.report, in_child), "fork", worker.hang)
    callers.stop()
    lossreg.set_num_threads(THREADS)
    for case in cases:
        worker.check_again(case)
