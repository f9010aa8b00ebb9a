"""Many cases on all cores, and what became of them."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import multiprocessing
import os
import random
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cases import BACKENDS, NAMES, draw_case
from .check import Outcome, run_case

__all__ = ["Failure", "Summary", "main", "run_seeds"]

CHUNK = 250
"""Cases that a process takes at a time."""


@dataclass
class Failure:
    """A case that went wrong."""

    seed: int
    name: str
    text: str
    message: str
    command: str

    def __str__(self) -> str:
        return f"{self.text}\n    {self.message}\n    {self.command}"


@dataclass
class Summary:
    """What became of many cases."""

    counts: collections.Counter[tuple[str, str, str]] = field(default_factory=collections.Counter)
    """By calculator, backend and status."""
    refusals: collections.Counter[str] = field(default_factory=collections.Counter)
    """Expected errors by their message, without its numbers."""
    worst: dict[str, tuple[float, int]] = field(default_factory=dict)
    """(share of the tolerance, seed) by dtype."""
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        self.counts += other.counts
        self.refusals += other.refusals
        self.failures += other.failures
        for dtype, found in other.worst.items():
            self.worst[dtype] = max(self.worst.get(dtype, (0.0, 0)), found)

    def __str__(self) -> str:
        """The tables."""
        backends = sorted({backend for _, backend, _ in self.counts})
        lines = [
            "",
            f"{'calculator':38}" + "".join(f"{backend:>24}" for backend in backends),
            " " * 38 + f"{'compared/refused/wrong':>24}" * len(backends),
        ]
        for name in NAMES:
            cells = ["/".join(str(self.counts[name, b, s]) for s in ("compared", "refused", "wrong")) for b in backends]
            if any(cell != "0/0/0" for cell in cells):
                lines.append(f"{name:38}" + "".join(f"{cell:>24}" for cell in cells))
        lines += ["", "Worst error of what is right, as a share of the tolerance:"]
        lines += [f"    {dtype:9} {share:.3f} (case {seed})" for dtype, (share, seed) in sorted(self.worst.items())]
        lines += ["", "Expected refusals:", *(f"{n:7} {text}" for text, n in self.refusals.most_common(20))]
        return "\n".join(lines)


def run_seeds(seeds: Iterable[int], only: str | None = None, backends: tuple[str, ...] = BACKENDS) -> Summary:
    """Run the cases of some seeds in this process."""
    summary = Summary()
    for seed in seeds:
        command = f"python -m tests.differential --case {seed}" + (f" --only {only}" if only else "")
        command += f" --backend {' '.join(backends)}" if backends != BACKENDS else ""
        try:
            case = draw_case(seed, only, backends)
        except Exception as error:
            message = f"the tester itself raised {type(error).__name__}: {error}"
            summary.failures.append(Failure(seed, "", "no case", message, command))
            continue
        name, text = case.problem.name, str(case)
        try:
            outcome = run_case(case)
        except Exception as error:  # of this tester, which is to be seen as well
            outcome = Outcome("wrong", message=f"the tester itself raised {type(error).__name__}: {error}")
        summary.counts[name, case.backend, outcome.status] += 1
        if outcome.status == "refused":
            summary.refusals[re.sub(r"-?\d[\d.e+-]*", "#", outcome.message)[:140]] += 1
        if outcome.status == "compared":
            found = (outcome.share, seed)
            summary.worst[case.dtype] = max(summary.worst.get(case.dtype, (0.0, 0)), found)
        if outcome.status == "wrong":
            summary.failures.append(Failure(seed, name, text, outcome.message, command))
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, help="of the first case; the others follow it")
    parser.add_argument("--only", choices=NAMES, metavar="NAME", help="one calculator, such as Huber.v1")
    parser.add_argument("--case", type=int, help="run the case of this seed alone")
    parser.add_argument("--backend", choices=(*BACKENDS, "cuda"), nargs="+", help="some backends alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--show", type=int, default=5, help="how many failures of each kind are printed")
    given = parser.parse_args(arguments)
    backends = tuple(given.backend) if given.backend else BACKENDS
    if given.case is not None:
        return run_one(given.case, given.only, backends)
    seed = random.randrange(10**9) if given.seed is None else given.seed
    print(f"{given.count} cases from --seed {seed} on {given.jobs} processes", flush=True)
    start, summary = time.monotonic(), Summary()
    stop = seed + given.count
    chunks = [range(first, min(first + CHUNK, stop)) for first in range(seed, stop, CHUNK)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        futures = {pool.submit(run_seeds, chunk, given.only, backends): chunk for chunk in chunks}
        for future in concurrent.futures.as_completed(futures):
            chunk = futures[future]
            try:
                summary.add(future.result())
            except concurrent.futures.process.BrokenProcessPool:
                text = f"A process died; one of its cases was among {chunk.start} to {chunk.stop - 1}"
                summary.failures.append(Failure(chunk.start, "", text, "no result", ""))
    print(summary)
    report(summary, given.show)
    seconds = time.monotonic() - start
    print(f"\n{given.count} cases in {seconds:.0f} s, {1000 * seconds / max(1, given.count):.1f} ms each.")
    return 1 if summary.failures else 0


def report(summary: Summary, show: int) -> None:
    """The failures, by calculator and kind."""
    groups = collections.defaultdict(list)
    for failure in sorted(summary.failures, key=lambda failure: failure.seed):
        kind = re.sub(r"[-\d.einfa]+", "", failure.message)[:40]
        groups[failure.name, kind].append(failure)
    for (name, _), failures in sorted(groups.items()):
        print(f"\nWRONG: {name}, {len(failures)} cases")
        for failure in failures[:show]:
            print(f"  {failure}")


def run_one(seed: int, only: str | None, backends: tuple[str, ...]) -> int:
    """One case, with all that is known of it."""
    case = draw_case(seed, only, backends)
    print(case)
    for what in ("guesses", "truths", "call"):
        print(f"{what}: {getattr(case, what)!r}")
    print(f"mistake: {case.mistake or 'none'}")
    outcome: Any = run_case(case)
    print(outcome)
    return 1 if outcome.status == "wrong" else 0


if __name__ == "__main__":
    sys.exit(main())
