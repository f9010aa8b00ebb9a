"""`Table`: rows that print as a table as wide as the terminal, and as HTML in a notebook."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping
from typing import Any

__all__ = ["Table"]

GAP = "  "
"""Between two columns of a printed table."""

HIDDEN_OPTIONS = ("normalize_by", "validate")
"""Options that nearly all calculators have, with the same defaults: a printed table is shorter without them."""

WORDS = re.compile(r"(?<= )")
PARTS = re.compile(r"(?<=[ _=])|(?<=\.)(?=[A-Za-z])|(?<=[a-z])(?=[A-Z])")
"""Where a long cell may go on in the next line: between words, or else inside of `torch.nn.HuberLoss` and the like."""

WITHOUT_TERMINAL = (120, 24)
"""Columns and lines where the output is a file."""


class Table(list[dict[str, Any]]):
    """Rows that print as a table in a terminal and as HTML in a notebook.

    Printed lines are at most as wide as the terminal; long cells go on in the next line. Among the options of a
    calculator, `normalize_by` and `validate` are not printed. The rows have them.
    """

    def _cells(self) -> list[list[str]]:
        """The texts of all cells, row by row, the names of the columns first."""
        if not self:
            return []
        header = list(self[0])
        return [header, *([_text(key, value) for key, value in row.items()] for row in self)]

    def __repr__(self) -> str:
        cells = self._cells()
        if not any(cells):
            return ""
        widths = _column_widths(cells, shutil.get_terminal_size(WITHOUT_TERMINAL).columns)
        header, *body = [_lines(row, widths) for row in cells]
        rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
        return "\n".join([*header, rule, *(line for lines in body for line in lines)])

    def _repr_html_(self) -> str:
        def line(tag: str, row: list[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

        head, *body = self._cells() or [[]]
        lines = "".join(line("td", row) for row in body)
        return f"<table><thead>{line('th', head)}</thead><tbody>{lines}</tbody></table>"


def _text(key: str, value: Any) -> str:
    """A cell in one line."""
    if isinstance(value, Mapping) and key == "options":
        shown = {option: default for option, default in value.items() if option not in HIDDEN_OPTIONS}
        return ", ".join(f"{option}={'...' if default is ... else repr(default)}" for option, default in shown.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def _column_widths(cells: list[list[str]], terminal: int) -> list[int]:
    """Width of each column, so that a line fits into the terminal."""
    columns = list(zip(*cells))
    widths = [max(map(len, column)) for column in columns]
    available = terminal - len(GAP) * (len(columns) - 1)
    # The widest column gives way first. No word is broken while another column can give way, then no part of one.
    for least in ([_longest(WORDS, column) for column in columns], [_longest(PARTS, column) for column in columns]):
        _shrink(widths, least, available)
    _shrink(widths, [1] * len(columns), available)
    return widths


def _longest(breaks: re.Pattern[str], column: tuple[str, ...]) -> int:
    """Length of the longest piece of text that has no break in it."""
    return max(len(piece.rstrip()) for cell in column for piece in breaks.split(cell))


def _shrink(widths: list[int], least: list[int], available: int) -> None:
    """Make the widest columns narrower until all fit, or are as narrow as they may be."""
    while sum(widths) > available:
        candidates = [i for i, width in enumerate(widths) if width > least[i]]
        if not candidates:
            return
        widths[max(candidates, key=widths.__getitem__)] -= 1


def _lines(row: list[str], widths: list[int]) -> list[str]:
    """A row of cells as lines of text."""
    wrapped = [_wrap(cell, width) for cell, width in zip(row, widths)]
    height = max(len(lines) for lines in wrapped)
    padded = [lines + [""] * (height - len(lines)) for lines in wrapped]
    return [
        GAP.join(part.ljust(width) for part, width in zip(line, widths)).rstrip() for line in zip(*padded, strict=True)
    ]


def _wrap(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` characters."""
    lines = [""]
    for word in WORDS.split(text):
        if len(word.rstrip()) <= width:
            _append(lines, word, width)
            continue
        # A broken word has lines of its own, so that its beginning is easily seen.
        if lines[-1]:
            lines.append("")
        for piece in PARTS.split(word):
            _append(lines, piece, width)
    return [line.rstrip() for line in lines]


def _append(lines: list[str], piece: str, width: int) -> None:
    """Add a piece of text to the last line, or to new ones where it does not fit."""
    if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
        lines.append("")
    lines[-1] += piece
    while len(lines[-1].rstrip()) > width:
        lines[-1:] = [lines[-1][:width], lines[-1][width:]]
