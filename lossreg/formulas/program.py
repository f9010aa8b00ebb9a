"""A formula with everything around it, as a graph: weights, scale, and what is stored where."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .arguments import ELEMENT, NUMBER, ROW, ArrayArgument
from .graph import Graph, Symbol, below, name_of, trace

__all__ = ["ArrayType", "Output", "Program", "Request", "array_type", "program"]


@dataclass(frozen=True, eq=False)
class ArrayType:
    """An array of a call: its dtype in memory, and whether it has one number for the call, for a row or an element."""

    dtype: str
    rank: int


array_type = functools.cache(ArrayType)
"""One object for each dtype and rank, so that keys of kernels compare fast."""


class Request(NamedTuple):
    """A formula, what it is traced for, and what is wanted of it: the key under which backends keep what they made."""

    formula: Callable[..., Any]
    rows: bool
    """Whether guesses are rows (N, C) with one value each, or elements."""
    dtype: np.dtype
    """In which elements are computed."""
    arguments: tuple[Any, ...]
    """For each an `ArrayType`, a `Constant`, None, or `float` for a number that may differ from call to call."""
    scale: Any
    """The number that multiplies the gradients: an `ArrayType` or `float`. Its number is that behind the arguments."""
    weight: Any
    """The weight of each value, as the scale, or None. Its number is that behind the scale."""
    values: bool
    total: bool
    gradients: tuple[ArrayType, ...] | None
    """Where the gradient of each guess is stored; None where no gradient is wanted."""
    surroundings: tuple[Any, ...]
    """What the formula reads from outside of its arguments."""


@dataclass(frozen=True)
class Output:
    """What is stored where."""

    symbol: Symbol
    array: ArrayType
    total: bool = False
    """Whether what is stored is to be added up over all rows."""


@dataclass(frozen=True, eq=False)
class Program:
    """What a kernel computes. `arrays` are its inputs, by the number of their argument."""

    graph: Graph
    arrays: dict[int, ArrayType]
    outputs: list[Output]

    @property
    def numbers(self) -> list[Symbol]:
        """The numbers that differ from call to call; `args[0]` is the number of the argument."""
        return [x for x in self.graph.symbols.values() if x.op == "number"]

    @functools.cached_property
    def picks(self) -> list[Symbol]:
        """The elements that are picked out of rows."""
        return [x for x in below([output.symbol for output in self.outputs], through=True) if x.op == "pick"]

    @functools.cached_property
    def indices(self) -> list[int]:
        """The numbers of the arguments by which elements are picked."""
        return sorted({x.args[1].args[0] for x in self.picks})


def program(request: Request) -> Program:
    """Trace a formula, weigh it, and say what is stored: gradients, values, and the total of each row in float64."""
    rows, arguments = request.rows, request.arguments
    inputs = (*arguments, request.scale, request.weight)
    arrays = {i: x for i, x in enumerate(inputs) if isinstance(x, ArrayType)}
    traced = [ArrayArgument(x.rank, _kind(x, rows)) if isinstance(x, ArrayType) else x for x in arguments]
    graph, results = trace(request.formula, traced, rows)
    _check_results(request, results)

    def factor(i: int) -> Symbol:
        if i in arrays:
            return graph.make("input", (i,), arrays[i].rank, "f")
        return graph.make("number", (i,), NUMBER, "f")

    scale_symbol = factor(len(arguments))
    weight_symbol = None if request.weight is None else factor(len(arguments) + 1)

    def weighted(x: Symbol, by: Symbol) -> Symbol:
        """Where the weight is 0, what is left out may be NaN."""
        if weight_symbol is None:
            return x * by
        return graph.where(graph.call("eq", weight_symbol, 0.0), 0.0, x * by)

    value, *derivatives = results
    by = scale_symbol if weight_symbol is None else scale_symbol * weight_symbol
    outputs = [Output(weighted(x, by), stored) for x, stored in zip(derivatives, request.gradients or ())]
    if weight_symbol is not None:
        value = weighted(value, weight_symbol)
    if request.values:
        outputs.append(Output(value, ArrayType(request.dtype.name, ROW if rows else ELEMENT)))
    if request.total:
        outputs.append(Output(value if rows else _sum(graph, value), ArrayType("float64", ROW), total=True))
    return Program(graph, arrays, outputs)


def _check_results(request: Request, results: Sequence[Symbol]) -> None:
    """Raise unless a formula returned one value, and a derivative for each guess where those are wanted."""
    rows, grads = request.rows, request.gradients
    one_value = bool(results) and not (rows and results[0].rank == ELEMENT)
    if one_value and (grads is None or len(results) == 1 + len(grads)):
        return
    expected = f"one value for each {'row' if rows else 'element'}"
    if grads is not None:
        expected += f" and {len(grads)} derivative{'s' if len(grads) > 1 else ''}, one for each guess"
    got = f"{len(results)} result{'' if len(results) == 1 else 's'}"
    if results and not one_value:
        got = "a value for each element"
    raise TypeError(f"Cannot run {name_of(request.formula)}: expected it to return {expected}, got {got}.")


def _sum(graph: Graph, value: Symbol) -> Symbol:
    """The sum of the elements; of a value that is one number, as often as there are elements."""
    return graph.reduce("row_sum", value if value.rank == ELEMENT else graph.make("spread", (value,), ELEMENT, "f"))


def _kind(x: ArrayType, rows: bool) -> str:
    """How a formula sees an array: bools and ids of rows keep their kind, all else are floats."""
    if rows and x.dtype == "bool":
        return "b"
    return "i" if rows and "int" in x.dtype and x.rank == ROW else "f"
