"""The parts of the report. Each yields lines of Markdown, as soon as they are known."""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import THREADS
from .cases import PEERS, Spec, all_specs, cross_entropy, elementwise, has, on_host, rows
from .timing import agree, copier, medians, use_threads


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(*columns: str) -> str:
    return f"{line(columns)}\n|{'---|' * len(columns)}"


def versions(packages: Iterable[str]) -> str:
    """Of those that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def show(report: Iterable[str], save: str | None) -> None:
    """Prints lines as they come, and writes them to a file."""
    lines = []
    for text in report:
        print(text, flush=True)
        lines.append(text)
        if save:
            Path(save).write_text("\n".join(lines) + "\n", encoding="utf8")


def probe(*arguments: str, **environment: str) -> dict[str, float]:
    """What a fresh process measures."""
    command = [sys.executable, "-m", "benchmarks.probe", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def times(only: str, small: bool, runs: int) -> Iterator[str]:
    """Milliseconds, and the time of each peer divided by that of lossreg."""
    peers = [peer for peer in PEERS if has(peer)]
    yield head("work", "dtype", "size", "lossreg", "with out=", *peers, "copy", "times the copy")
    different = []
    for spec in all_specs():
        if only not in spec.work or small and not spec.small:
            continue
        case = spec.build(spec)
        result = case.ours()
        different += [
            f"{spec.key}: {peer}" for peer, call in case.peers.items() if not agree(result, call(), spec.dtype)
        ]
        del result
        found = medians({**case.calls, "copy": copier(case.array)}, runs)
        ours, best = found["lossreg"], min(found["lossreg"], found.get("out=", np.inf))
        cells = [number(1e3 * found[name]) if name in found else "" for name in ("lossreg", "out=")]
        for peer in peers:
            cells.append(f"{number(1e3 * found[peer])} ({number(found[peer] / ours)}x)" if peer in found else "")
        cells += [number(1e3 * found["copy"]), number(best / found["copy"])]
        yield line([spec.work, spec.dtype, spec.size, *cells])
    if different:
        yield "\nNot the same numbers: " + "; ".join(different)


def memory() -> Iterator[str]:
    """MB at the peak of one call beyond what was there before it, the gradient included.

    Arrays are what NumPy asks for; the process is what the system sees, in a fresh one for each library.
    """
    yield head("work", "size", "guesses", "lossreg arrays", "with out=", "lossreg process", "PyTorch process")
    for spec in all_specs():
        if (spec.work.partition(" ")[0], spec.size) not in MEMORY or "then" in spec.work:
            continue
        ours = probe("memory", spec.key, "lossreg")
        theirs = probe("memory", spec.key, "PyTorch") if has("PyTorch") else {}
        names = ("guesses", "arrays", "out", "process")
        cells = [number(ours[name] / 1e6) if name in ours else "" for name in names]
        cells.append(number(theirs["process"] / 1e6) if "process" in theirs else "")
        yield line([spec.work, spec.size, *cells])


MEMORY = {
    ("ce", "2048x32000"), ("mse", "33.5M"), ("huber", "33.5M"), ("bcelogits", "33.5M"), ("focal", "33.5M"),
    ("kl", "4096x1024"), ("triplet", "4096x1024"), ("multimargin", "4096x1024"), ("ctc", "200x32x64x40"),
    ("linear", "1024x512x32000"), ("linear", "4096x512x32000"), ("Thinc's", "2048x10000"),
}  # fmt: skip


KINDS = ("empty", "warm")
"""Folders of compiled code."""


def cold() -> Iterator[str]:
    """Milliseconds in a fresh process: the import after NumPy's, and the first calls on 32x10 numbers."""
    libraries = ["lossreg", *(["PyTorch"] if has("PyTorch") else [])]
    yield head(
        "work", "library", "import", "first call, nothing compiled", "first call, compiled before", "second call"
    )
    for work in ("ce", "huber", "bcelogits"):
        for library in libraries:
            found = []
            for _ in range(5):
                with tempfile.TemporaryDirectory() as folder:
                    for kind in KINDS if library == "lossreg" else KINDS[1:]:
                        found.append((kind, probe("cold", work, library, LOSSREG_CACHE_DIR=folder)))

            def middle(key: str, *kinds: str, found: list[tuple[str, dict[str, float]]] = found) -> str:
                values = [values[key] for kind, values in found if kind in kinds]
                return number(1e3 * statistics.median(values)) if values else ""

            both = ("empty", "warm")
            cells = [
                middle("import", *both),
                middle("first", "empty"),
                middle("first", "warm"),
                middle("second", *both),
            ]
            yield line([work, library, *cells])


def overhead(runs: int) -> Iterator[str]:
    """Microseconds of a call on 32x10 numbers."""
    yield head("work", "lossreg", "with out=", "PyTorch")
    builds = {"ce": cross_entropy, "huber": elementwise, "mse": elementwise, "bcelogits": elementwise, "nll": rows}
    for work, build in builds.items():
        calls = on_host(build, Spec(work, "float32", (32, 10), build)).calls
        calls.pop("JAX", None)
        found = medians(calls, 3 * runs)
        theirs = found.get("PyTorch")
        peer = f"{number(1e6 * theirs)} ({number(theirs / found['lossreg'])}x)" if theirs else ""
        yield line([work, number(1e6 * found["lossreg"]), number(1e6 * found["out="]), peer])


def scaling(runs: int) -> Iterator[str]:
    """Milliseconds with out=, and in brackets the time divided by that of a tenth of the numbers."""
    yield head("work", "size", "1 thread", f"{THREADS} threads", "speed-up")
    sizes = [("huber", elementwise, [(n,) for n in (40_000, 400_000, 4_000_000, 40_000_000)])]
    sizes += [("ce", cross_entropy, [(n, 1000) for n in (10, 100, 1000, 10_000)])]
    for work, build, shapes in sizes:
        before: list[float] = []
        for shape in shapes:
            spec = Spec(work, "float32", shape, build)
            call, found = on_host(build, spec).out, []
            for count in (1, THREADS):
                use_threads(count)
                found.append(medians({"out=": call}, runs)["out="])
            cells = [
                number(1e3 * now) + (f" ({number(now / then)}x)" if then else "")
                for now, then in zip(found, before or (0, 0))
            ]
            yield line([work, spec.size, *cells, number(found[0] / found[1])])
            before = found
    use_threads(THREADS)
