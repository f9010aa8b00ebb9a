"""Disturb calls for some minutes and print what was found: `python -m tests.faults --minutes 30`."""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .report import FAULTS
from .runner import KIND_NAMES, Result, run_worker

COLUMNS = {
    "kind": 18, "runs": 5, "calls": 8, "interrupts": 11, "inside": 8, "helping": 9, "forks": 7, "crashes": 8,
    "hangs": 6, "bits": 5, "canaries": 9, "inputs": 7, "threads": 8, "memory": 7, "exceptions": 11,
}  # fmt: skip


def main() -> int:
    here = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="of the first worker; random if not given")
    parser.add_argument("--only", action="append", choices=KIND_NAMES, metavar="KIND", help=", ".join(KIND_NAMES))
    parser.add_argument("--tree", type=Path, default=here, help="folder whose lossreg is disturbed")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one worker")
    parser.add_argument("--hang", type=float, default=20.0, help="seconds without a step that count as a hang")
    parser.add_argument("--workers", type=int, default=2, help="at a time")
    parser.add_argument("--threads", type=int, default=3, help="of a call; 1 tests the harness, as nothing is shared")
    parser.add_argument("--tracebacks", type=int, default=1, help="of each kind that are shown")
    options = parser.parse_args()

    seed = random.randrange(10**6) if options.seed is None else options.seed
    tree, kinds = options.tree.resolve(), options.only or list(KIND_NAMES)
    print(f"lossreg of {tree}, seed {seed}, {os.cpu_count()} cores", flush=True)
    results = {kind: Result(kind, workers=0) for kind in kinds}
    end = time.monotonic() + 60.0 * options.minutes
    turns = zip(itertools.cycle(kinds), itertools.count(seed))

    def run_next(kind: str, number: int, cache: Path) -> Result:
        if time.monotonic() > end:
            return Result(kind, workers=0)
        return run_worker([kind], number, options.seconds, tree, options.hang, cache, options.threads)

    with tempfile.TemporaryDirectory(prefix="lossreg-faults-") as folder:
        cache = Path(folder) / "cache"
        cache.mkdir(mode=0o700)
        with concurrent.futures.ThreadPoolExecutor(options.workers) as runners:
            while time.monotonic() < end:
                batch = [next(turns) for _ in range(options.workers)]
                for result in runners.map(lambda turn: run_next(*turn, cache), batch):
                    results[result.kind].add(result)
    _print_table(list(results.values()))
    _print_details(list(results.values()), options.tracebacks)
    return int(any(result.faults for result in results.values()))


def _print_table(results: list[Result]) -> None:
    total = Result("all", workers=0)
    for result in results:
        total.add(result)
    print("".join(name.rjust(width) for name, width in COLUMNS.items()))
    for result in [*results, total]:
        counts = result.counts
        helping = f"{counts['helping']}/{counts['sampled']}"
        cells = [result.kind, result.workers, counts["calls"], counts["interrupts"], counts["inside"], helping]
        cells += [counts["forks"], *[result.number(fault) for fault in FAULTS]]
        print("".join(str(cell).rjust(width) for cell, width in zip(cells, COLUMNS.values())))
    print("inside: interrupts that hit compiled code or what it calls.  helping: of a sample, other threads at work.")


def _print_details(results: list[Result], tracebacks: int) -> None:
    """Each fault once with its number, and the beginning of some tracebacks of each kind."""
    for result in results:
        if not result.faults:
            continue
        print(f"\n{result.kind}")
        for (fault, detail), number in Counter(result.faults).most_common(12):
            print(f"  {number} x {fault}: {detail[:220]}")
        for text in result.tracebacks[:tracebacks]:
            print("\n".join(f"    | {line[:160]}" for line in text.strip().splitlines()[:40]))


if __name__ == "__main__":
    sys.exit(main())
