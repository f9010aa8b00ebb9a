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
    """The type of an array: its dtype in memory, and its rank, one number per call, per row or per element."""

    dtype: str
    rank: int


array_type = functools.cache(ArrayType)
"""One object for each dtype and rank, so that keys of kernels compare fast."""


class Request(NamedTuple):
    """A formula, what it is traced for, and what is wanted of it: the key under which backends keep their kernels."""

    formula: Callable[..., Any]
    rows: bool
    """Whether guesses are rows (N, C) with one value each, or elements."""
    dtype: np.dtype
    """In which elements are computed."""
    arguments: tuple[Any, ...]
    """For each an `ArrayType`, a `Constant`, None, or `float` for a number that may differ from call to call."""
    scale: Any
    """The type of what multiplies the gradients: an `ArrayType` or `float`. It is the argument behind the last one."""
    weight: Any
    """The type of the weight of each value, as that of the scale, or None. It is the argument behind the scale."""
    values: bool
    total: bool
    gradients: tuple[ArrayType, ...] | None
    """Where the gradient of each guess is stored; None where no gradient is wanted."""
    surroundings: tuple[Any, ...]
    """What the formula reads from outside of its arguments."""


@dataclass(frozen=True)
class Output:
    """A value of the graph, and the array where it is stored."""

    symbol: Symbol
    array: ArrayType
    total: bool = False
    """Whether the stored numbers are to be added up over all rows."""


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
        stored = [output.symbol for output in self.outputs]
        return [x for x in below(stored, through=True) if x.op == "pick"]

    @functools.cached_property
    def indices(self) -> list[int]:
        """The numbers of the arguments by which elements are picked."""
        return sorted({x.args[1].args[0] for x in self.picks})


def program(request: Request) -> Program:
    """The program of a request: the formula traced, times scale and weights, and where its results are stored.

    Gradients come first, then values, then the total of each row in float64.
    """
    rows, arguments = request.rows, request.arguments
    # Scale and weight are numbered behind the arguments, which the formula gets without them.
    inputs = (*arguments, request.scale, request.weight)
    arrays = {i: x for i, x in enumerate(inputs) if isinstance(x, ArrayType)}
    traced = [ArrayArgument(x.rank, _kind(x, rows)) if isinstance(x, ArrayType) else x for x in arguments]
    graph, results = trace(request.formula, traced, rows)
    _check_results(request, results)

    def factor(i: int) -> Symbol:
        if i in arrays:
            return graph.make("input", (i,), arrays[i].rank, "f")
        return graph.make("number", (i,), NUMBER, "f")

    value, *derivatives = results
    stored = request.gradients or ()
    derivatives = derivatives[: len(stored)]  # none where no gradient is wanted
    scale = factor(len(arguments))
    if request.weight is None:
        derivatives = [x * scale for x in derivatives]
    else:
        # An item of weight 0 is left out: 0 times its value would be NaN where that is NaN or infinite.
        weight = factor(len(arguments) + 1)
        weighted_scale = scale * weight
        is_left_out = graph.call("eq", weight, 0.0)
        derivatives = [graph.where(is_left_out, 0.0, x * weighted_scale) for x in derivatives]
        value = graph.where(is_left_out, 0.0, value * weight)

    outputs = [Output(x, array) for x, array in zip(derivatives, stored)]
    if request.values:
        outputs.append(Output(value, ArrayType(request.dtype.name, ROW if rows else ELEMENT)))
    if request.total:
        if not rows:  # the value of a row is already its total
            value = _sum(graph, value)
        outputs.append(Output(value, ArrayType("float64", ROW), total=True))
    return Program(graph, arrays, outputs)


def _check_results(request: Request, results: Sequence[Symbol]) -> None:
    """Raise unless a formula returned one value, and a derivative for each guess where those are wanted."""
    rows, grads = request.rows, request.gradients
    one_value = bool(results) and not (rows and results[0].rank == ELEMENT)
    if one_value and (grads is None or len(results) == 1 + len(grads)):
        return
    expected = f"one value for each {'row' if rows else 'element'}"
    if grads is not None:
        expected += f" and {_count(len(grads), 'derivative')}, one for each guess"
    got = _count(len(results), "result")
    if results and not one_value:
        got = "a value for each element"
    raise TypeError(f"Cannot run {name_of(request.formula)}: expected it to return {expected}, got {got}.")


def _count(number: int, noun: str) -> str:
    """A number with its noun: "1 result", "2 results"."""
    if number != 1:
        noun += "s"
    return f"{number} {noun}"


def _sum(graph: Graph, value: Symbol) -> Symbol:
    """The sum of the elements; a value that is one number counts for each of them."""
    if value.rank != ELEMENT:
        value = graph.make("spread", (value,), ELEMENT, "f")
    return graph.reduce("row_sum", value)


def _kind(x: ArrayType, rows: bool) -> str:
    """How a formula sees an array: in rows, bools and ids keep their kind; everything else is a float."""
    if rows and x.dtype == "bool":
        return "b"
    if rows and "int" in x.dtype and x.rank == ROW:
        return "i"
    return "f"
