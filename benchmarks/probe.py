"""Measures one thing in a fresh process and prints it as JSON; sections.py calls it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import json
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

from . import THREADS  # what is measured is imported when it is its turn


def memory(key: str, library: str) -> dict[str, float]:
    """Bytes: of the guesses, and at the peak of one call, traced by NumPy and seen by the system."""
    from . import cases

    for peer in [peer for peer in cases.PEERS if peer != library]:
        del cases.PEERS[peer]
    spec = next(spec for spec in cases.all_specs() if spec.key == key)
    if library != "lossreg" and not cases.has(library):
        return {}
    for part in (spec._replace(shape=tuple(min(n, 64) for n in spec.shape)), spec):  # a small one loads and compiles
        case = part.build(part)
        call = case.calls.get(library)
        if call is None:
            return {}
        if part is not spec:
            call()
    found = {"guesses": float(case.array.nbytes), **resident(call)}
    for name, traced in (("arrays", case.ours), ("out", case.out)):
        if library == "lossreg" and traced:
            tracemalloc.start()
            traced()
            found[name] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return found


def resident(call: object) -> dict[str, float]:
    """Growth of the process during a call; nothing where there is no Linux to ask."""

    def status(name: str) -> int:
        return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be taken again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
        before = status("VmRSS")
        result = call()  # type: ignore[operator]
        found = {"process": status("VmHWM") - before}
        del result
        return found
    return {}


def cold(work: str, library: str) -> dict[str, float]:
    """Seconds: of the import, the first call and the second one."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, t = rng.random((32, 10), dtype="f"), rng.random((32, 10), dtype="f")
    t = rng.integers(0, 10, 32) if work == "ce" else t
    clock = [time.perf_counter()]
    module = importlib.import_module({"PyTorch": "torch"}.get(library, library))
    clock.append(time.perf_counter())
    if library == "lossreg":
        loss = module.loss(work)
    else:
        names = {"ce": "cross_entropy", "huber": "huber_loss", "bcelogits": "binary_cross_entropy_with_logits"}
        loss = getattr(module.nn.functional, names[work])
        module.set_num_threads(THREADS)
        x, t = module.from_numpy(x).requires_grad_(), module.from_numpy(t)
    for _ in range(2):
        result = loss(x, t)
        if library != "lossreg":
            result.backward()
        clock.append(time.perf_counter())
    return dict(zip(("import", "first", "second"), (b - a for a, b in itertools.pairwise(clock))))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides")  # torch.nn.KLDivLoss
    kind, *arguments = sys.argv[1:]
    print(json.dumps({"memory": memory, "cold": cold}[kind](*arguments)))
