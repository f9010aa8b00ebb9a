"""Draw the pictures of the gallery; needs matplotlib.

python docs/gallery_pictures.py folder
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from gallery import Entry, Picture
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8F4F9F")
DASHES = ("-", (0, (5, 2)), (0, (6, 3, 1.5, 3)), (0, (1.5, 1.5)))
WIDTHS = (2.4, 1.9, 1.5, 1.5)
"""Lines can be told apart without their colours, and where one lies on another."""
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.8,
}
PIXELS = 200
"""Dots an inch: a picture of 6.4 by 2.6 inches is shown at half its size in pixels."""


def in_pi(value: float, position: Any = None) -> str:
    """An angle as a multiple of pi."""
    halves = round(2 * value / np.pi)
    if not halves:
        return "0"
    times, by = (abs(halves) // 2, "") if halves % 2 == 0 else (abs(halves), "/2")
    return f"{'−' if halves < 0 else ''}{'' if times == 1 else times}π{by}"


def draw(picture: Picture, losses: list[Any], path: Path) -> None:
    """The loss on the left, the gradient on the right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6))
        figure.set_layout_engine("constrained", wspace=0.06)
        panels = figure.subplots(1, 2)
        lines, places = [], []
        for curve, loss, colour, dashes, width in zip(picture.curves, losses, COLOURS, DASHES, WIDTHS):
            style = {"color": colour, "linestyle": dashes, "linewidth": width, "solid_capstyle": "butt"}
            pieces = [np.array(piece).T for piece in curve.pieces(loss)]
            _, place, values, _ = np.concatenate(pieces, axis=1)
            lines += panels[0].plot(place, values, label=curve.label, **style)
            places += [place.min(), place.max()]
            for _, place, _, slopes in pieces:
                if len(place) == 1:
                    panels[1].plot(place, slopes, "o", color=colour, markersize=4)
                else:
                    panels[1].plot(place, slopes, **style)
        whats = ((picture.result, picture.loss_range), ("gradient", picture.gradient_range))
        for panel, (what, limits) in zip(panels, whats):
            panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
            panel.set(xlabel=picture.axis, ylabel=what)
            panel.set_xlim(picture.axis_range or (min(places), max(places)))
            panel.set_ylim(limits)
            for axis, count in ((panel.xaxis, 7), (panel.yaxis, 5)):
                axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10]))
            if picture.angle:
                panel.xaxis.set_major_locator(MultipleLocator(np.pi / 2))
                panel.xaxis.set_major_formatter(FuncFormatter(in_pi))
        if len(lines) > 1:
            figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), columnspacing=1.6)
        figure.savefig(path, dpi=PIXELS, facecolor="white", metadata={"Software": None})


def draw_all(classes: list[type], folder: Path) -> None:
    """The picture of each class that has one."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in map(Entry, classes):
        if entry.picture:
            draw(entry.picture, entry.losses, folder / f"{entry.cls.__name__}.png")


if __name__ == "__main__":
    import lossreg

    draw_all([getattr(lossreg, name) for name in lossreg.losses.__all__], Path(sys.argv[1]))
