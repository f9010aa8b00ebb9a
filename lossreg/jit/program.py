"""A formula with everything around it, as a graph: weights, scale, and what is stored where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .plan import Array, Output
from .trace import ELEMENT, NUMBER, ROW, Graph, Symbol, trace

__all__ = ["Program", "program"]


@dataclass(frozen=True, eq=False)
class Program:
    """What a kernel computes. `arrays` are its inputs, by the number of their argument."""

    graph: Graph
    arrays: dict[int, Array]
    outputs: list[Output]

    @property
    def numbers(self) -> list[Symbol]:
        """The numbers that differ from call to call; `args[0]` is the number of the argument."""
        return [x for x in self.graph.symbols.values() if x.op == "number"]


def program(
    formula: Callable[..., Any],
    rows: bool,
    dtype: np.dtype,
    arguments: Sequence[Any],
    scale: Any,
    weight: Any,
    values: bool,
    total: bool,
    grads: Sequence[Array] | None,
) -> Program:
    """Trace a formula, weigh it, and say what is stored.

    An argument is an `Array`, `float` for a number that may differ from call to call, or itself. The scale and the
    weight are an `Array` or `float` as well, and come after the arguments; the weight may be None. Outputs are the
    slopes, then the values, then the total of each row, in float64.
    """
    given = {i: x for i, x in enumerate((*arguments, scale, weight)) if x is float or isinstance(x, Array)}
    arrays = {i: x for i, x in given.items() if isinstance(x, Array)}
    traced = [(x.rank, _kind(x, rows)) if isinstance(x, Array) else x for x in arguments]
    graph, (found, *slopes) = trace(formula, traced, rows)
    if rows and found.rank == ELEMENT or grads is not None and len(slopes) != len(grads):
        expected = f"one value {'a row' if rows else 'an element'} and a slope for each guess"
        raise TypeError(f"Cannot compile {formula.__qualname__}: expected it to return {expected}.")

    def factor(i: int) -> Symbol:
        if i in arrays:
            return graph.make("input", (i,), arrays[i].rank, "f")
        return graph.make("number", (i,), NUMBER, "f")

    scaled, weighs = factor(len(arguments)), None if weight is None else factor(len(arguments) + 1)

    def weighted(x: Symbol, by: Symbol) -> Symbol:
        return x * by if weighs is None else graph.where(graph.call("eq", weighs, 0.0), 0.0, x * by)

    by = scaled if weighs is None else scaled * weighs
    outputs = [Output(weighted(slope, by), stored) for slope, stored in zip(slopes, grads or ())]
    kept = found if weighs is None else weighted(found, weighs)
    if values:
        outputs.append(Output(kept, Array(dtype.name, ROW if rows else ELEMENT)))
    if total:
        if not rows:
            kept = graph.reduce(
                "row_sum", kept if kept.rank == ELEMENT else graph.make("spread", (kept,), ELEMENT, "f")
            )
        outputs.append(Output(kept, Array("float64", ROW), total=True))
    return Program(graph, arrays, outputs)


def _kind(x: Array, rows: bool) -> str:
    """How a formula sees an array: bools and ids of rows keep their kind, all else are floats."""
    if rows and x.dtype == "bool":
        return "b"
    return "i" if rows and "int" in x.dtype and x.rank == ROW else "f"
