"""Prints a table: work, size, milliseconds of each library, ratios, and the time of a copy of the same bytes.

Medians of interleaved runs after a warm-up, so that a slow moment of the machine meets all libraries alike. A ratio
above 1 means that lossreg is faster. The copy reads the guesses once and writes as much, with two threads: what memory
allows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .cases import Case, all_cases

THREADS = 2


def seconds(call: object, repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()  # type: ignore[operator]
    return (time.perf_counter() - start) / repeat


def copier(array: np.ndarray, pool: ThreadPoolExecutor) -> object:
    """A copy of an array by two threads."""
    source = np.ascontiguousarray(array).reshape(-1)
    target = np.empty_like(source)
    half = source.size // THREADS
    parts = [slice(i * half, (i + 1) * half if i + 1 < THREADS else None) for i in range(THREADS)]
    return lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))


def measure(case: Case, runs: int, pool: ThreadPoolExecutor) -> dict[str, float]:
    """Median seconds of each peer and of the copy."""
    calls = {**case.peers, "copy": copier(case.guesses, pool)}
    repeats = {}
    for name, call in calls.items():
        seconds(call, 1)
        repeats[name] = max(1, min(2000, int(0.02 / max(seconds(call, 1), 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(seconds(call, repeats[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def machine() -> list[str]:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    found = []
    for package in ("lossreg", "numpy", "numba", "torch", "thinc", "jax", "optax", "scikit-learn"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [f"{cpu}, {THREADS} threads, Python {platform.python_version()}", ", ".join(found)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="a part of the name of the work")
    parser.add_argument("--small", action="store_true", help="leave out the arrays above 20 MB")
    parser.add_argument("--runs", type=int, default=7, help="interleaved runs (default 7)")
    parser.add_argument("--save", metavar="FILE", help="write the table there as well")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, str(THREADS))
    try:
        import torch

        torch.set_num_threads(THREADS)
    except ImportError:
        pass
    columns = ["work", "dtype", "size", "lossreg ms", "with out=", "peer", "peer ms", "ratio", "copy ms"]
    columns.append("lossreg / copy")
    lines = [*machine(), "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    print("\n".join(lines))
    with ThreadPoolExecutor(THREADS) as pool:
        for case in all_cases(large=not arguments.small):
            if arguments.only not in case.work:
                continue
            found = {name: 1e3 * value for name, value in measure(case, arguments.runs, pool).items()}
            ours, best = found["lossreg"], min(found["lossreg"], found.get("out=", np.inf))
            for peer in [name for name in case.peers if name not in ("lossreg", "out=")] or ["-"]:
                theirs = found.get(peer, float("nan"))
                with_out = f"{found['out=']:.4g}" if "out=" in found else ""
                numbers = [peer, f"{theirs:.4g}", f"{theirs / ours:.2f}", f"{found['copy']:.4g}"]
                cells = [case.work, case.dtype, case.size, f"{ours:.4g}", with_out, *numbers]
                cells.append(f"{best / found['copy']:.1f}")
                lines.append("| " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    if arguments.save:
        Path(arguments.save).write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
