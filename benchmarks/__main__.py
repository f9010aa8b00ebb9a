"""Prints what lossreg takes beside other libraries: times, memory, cold start, overhead of a call, scaling.

Times are medians of interleaved runs after a warm-up, of a value and its gradient, with two threads for everybody. In
brackets is the time of the other library divided by that of lossreg: above 1, lossreg is faster. The copy reads the
guesses and writes as much, with two threads; the last column is the time of lossreg, with out= where it takes one,
divided by that of the copy.
"""

from __future__ import annotations

import argparse
import inspect
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

from . import THREADS, sections

PACKAGES = ("lossreg", "numpy", "llvmlite", "torch", "jax", "optax", "thinc", "scikit-learn")


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {THREADS} threads, Python {platform.python_version()}{load}\n\n{sections.versions(PACKAGES)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="times: only works with this in their name")
    parser.add_argument("--small", action="store_true", help="times: leave out the arrays above 20 MB")
    parser.add_argument("--runs", type=int, default=7, help="interleaved runs (default 7)")
    parser.add_argument("--sections", default="times,memory,cold,overhead,scaling", help="default: %(default)s")
    parser.add_argument("--save", metavar="FILE", help="write the report there as well")
    arguments = parser.parse_args()
    made = {
        "times": lambda: sections.times(arguments.only, arguments.small, arguments.runs),
        "memory": sections.memory,
        "cold": sections.cold,
        "overhead": lambda: sections.overhead(arguments.runs),
        "scaling": lambda: sections.scaling(arguments.runs),
    }
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides")  # torch.nn.KLDivLoss
    wanted = arguments.sections.split(",")
    if unknown := set(wanted) - set(made):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))} (known: {', '.join(made)})")

    def report() -> Iterator[str]:
        yield machine()
        for name in wanted:
            yield f"\n## {name.capitalize()}\n\n{inspect.getdoc(getattr(sections, name))}\n"
            yield from made[name]()

    sections.show(report(), arguments.save)


if __name__ == "__main__":
    main()
