"""Draws a saved report: python -m benchmarks.chart REPORT.md PICTURE.svg (or .png).

A bar for each work is the time of PyTorch divided by that of lossreg, on a logarithmic axis.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

FASTER, SLOWER = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito, told apart by all eyes


def ratios(report: str, column: str = "PyTorch") -> list[tuple[str, float]]:
    """(work, ratio) from the table of times."""
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(table) if row[:3] == ["work", "dtype", "size"])
    place, found = table[start].index(column), []
    for row in table[start + 1 :]:
        if len(row) != len(table[start]):
            break  # the next section
        work, dtype, size = row[:3]
        if ratio := re.search(r"\(([\d.]+)x\)", row[place]):
            label = f"{work}  {size}" + ("" if dtype == "float32" else f"  {dtype}")
            found.append((label, float(ratio.group(1))))
    return found


def draw(report: str, target: str) -> None:
    bars = sorted(ratios(report), key=lambda bar: bar[1])
    mpl.rcParams["svg.hashsalt"] = "lossreg"  # the same picture is the same file
    figure, axes = plt.subplots(figsize=(9, 1.3 + 0.23 * len(bars)), layout="constrained")
    labels, values = [label for label, _ in bars], [value for _, value in bars]
    colors = [FASTER if value >= 1 else SLOWER for value in values]
    axes.barh(labels, [value - 1 for value in values], left=1, color=colors, height=0.72)
    for place, value in enumerate(values):
        side = 1 if value >= 1 else -1
        axes.annotate(
            f"{value:.2g}" if value < 10 else f"{value:.0f}", (value, place), (4 * side, 0), fontsize=8, va="center",
            textcoords="offset points", ha="left" if side > 0 else "right",
        )  # fmt: skip
    axes.set_xscale("log")
    low, high = min(0.8, values[0]), max(2.0, values[-1])
    axes.set_xlim(low / 1.3, high * 1.4)
    ticks = [
        tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low / 1.3 < tick < high * 1.4
    ]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title("Time of PyTorch / time of lossreg: value and gradient", loc="left", fontsize=12)
    axes.set_xlabel(f"right of the line lossreg is faster, left of it PyTorch\n{report.splitlines()[0]}", fontsize=9)
    figure.savefig(target, dpi=120, metadata={"Date": None} if target.endswith(".svg") else None)


if __name__ == "__main__":
    draw(Path(sys.argv[1]).read_text(encoding="utf8"), sys.argv[2])
