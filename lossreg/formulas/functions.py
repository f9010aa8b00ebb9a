"""The functions that a formula may use: those that every backend has."""

from __future__ import annotations

__all__ = ["FORMULA_FUNCTIONS", "ROW_FUNCTIONS"]

FORMULA_FUNCTIONS = (
    "abs", "exp", "expm1", "isinf", "isnan", "log", "log1p", "maximum", "minimum", "sign", "sqrt", "tanh", "where",
)  # fmt: skip
"""The functions that a formula may use in addition to arithmetic and comparisons."""

ROW_FUNCTIONS = ("row_sum", "row_squares", "row_max", "columns", "pick")
"""What a formula of rows (N, C) may use as well: sum, sum of squares in float64, and maximum of each row, (N, 1); the
indices of the columns; and the element of each row at its index (N, 1)."""
