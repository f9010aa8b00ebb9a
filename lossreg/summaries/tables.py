"""The first rows of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from ..arrays.dlpack import foreign_arrays
from ..checks import describe, fail
from ..config.resolve import register
from ..functional.tables import Table
from ..metrics import AutoState, Metric, truncate_field
from ..ops import get_ops

__all__ = ["Rows", "ShowTable"]


class Rows(Table):
    """Rows, each a dict of cells, that print as a table in a terminal and as HTML in a notebook."""

    def __init__(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        super().__init__(rows)
        self.columns = columns

    def _cells(self) -> list[list[str]]:
        return [self.columns] + [[_text(row[name]) for name in self.columns] for row in self]


@register("ShowTable.v1", to="metrics")
class ShowTable(Metric):
    """The first rows of named columns, as `Rows`.

        rows[i] = {name: columns[name][i] for each name}

    A cell is a number, a text or an array. Long ones are cut when they are printed, and in no other way.

    Shapes: each column (N, ...), or a list of N cells.
    Errors: ValueError for columns of unequal lengths.
    Source: Kauldron's `ShowTexts` (https://kauldron.readthedocs.io), with columns.

    columns: names of columns, each with its path.
    num_rows: how many are kept.
    """

    columns: Mapping[str, str] | None = None
    num_rows: Annotated[int, Ge(1)] = 10

    class State(AutoState):
        """The first rows, column by column."""

        columns: Any = truncate_field(num_field="parent.num_rows")

        def compute(self) -> Rows:
            """The rows."""
            columns = super().compute().columns or {}
            names = list(columns)
            rows = zip(*map(list, columns.values()))
            return Rows([dict(zip(names, row)) for row in rows], names)

    def __hash__(self) -> int:
        return hash((tuple((self.columns or {}).items()), self.num_rows))

    @foreign_arrays
    def get_state(self, columns: Mapping[str, Any]) -> State:
        """The first rows of a batch."""
        if not isinstance(columns, Mapping):
            raise fail(type(self).__name__, "columns", "to be a dict of columns", describe(columns))
        first = {name: _column(column)[: self.num_rows].copy() for name, column in columns.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise fail(type(self).__name__, "columns", "of one length", str(lengths))
        return self.State(first)


def _column(column: Any) -> Any:
    """An array of cells."""
    if isinstance(column, (list, tuple)):
        return np.fromiter(column, object, len(column))
    if hasattr(column, "to_numpy"):  # of pandas
        column = column.to_numpy()
    if not getattr(column, "ndim", 0):
        raise fail("ShowTable", "columns", "to be arrays or lists", describe(column))
    get_ops(column)  # raises TypeError for arrays of a library that no backend handles
    return column


def _text(cell: Any, width: int = 60) -> str:
    """A cell in one line."""
    if isinstance(cell, (float, np.floating)):
        text = f"{cell:.6g}"
    else:
        text = " ".join(str(cell).split())
    if len(text) <= width:
        return text
    return f"{text[: width - 3]}..."
