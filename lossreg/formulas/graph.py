"""Formulas as graphs: a formula runs once on symbols, which record what it does with them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from .arguments import ELEMENT, NUMBER, ROW, ArrayArgument, Constant
from .functions import FORMULA_FUNCTIONS, ROW_FUNCTIONS

__all__ = ["COMPARISONS", "LIBRARY", "REDUCTIONS", "Graph", "Symbol", "below", "name_of", "trace"]

LIBRARY = ("exp", "expm1", "log", "log1p", "sqrt", "tanh")
REDUCTIONS = ("row_sum", "row_squares", "row_max", "row_count")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def _binary(op: str) -> Callable[[Symbol, Any], Symbol]:
    return lambda a, b: a.graph.call(op, a, b)


def _reflected(op: str) -> Callable[[Symbol, Any], Symbol]:
    return lambda a, b: a.graph.call(op, b, a)


class Symbol:
    """A value of a graph: an operation on other values. `kind` is "f" (float), "b" (bool) or "i" (index)."""

    __slots__ = ("args", "graph", "key", "kind", "op", "rank", "stage")
    __array_ufunc__ = None  # NumPy's scalars on the left leave the operation to the symbol
    __hash__ = object.__hash__

    def __init__(self, graph: Graph, op: str, args: tuple[Any, ...], rank: int, kind: str) -> None:
        self.graph, self.op, self.args, self.rank, self.kind, self.key = graph, op, args, rank, kind, len(graph.symbols)
        self.stage: int = max((x.stage for x in args if isinstance(x, Symbol)), default=0) + (op in REDUCTIONS)

    __add__, __radd__ = _binary("add"), _reflected("add")
    __sub__, __rsub__ = _binary("sub"), _reflected("sub")
    __mul__, __rmul__ = _binary("mul"), _reflected("mul")
    __truediv__, __rtruediv__ = _binary("div"), _reflected("div")
    __and__, __rand__ = _binary("and"), _reflected("and")
    __or__, __ror__ = _binary("or"), _reflected("or")
    __xor__, __rxor__ = _binary("xor"), _reflected("xor")
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __eq__, __ne__ = _binary("eq"), _binary("ne")  # type: ignore[assignment]

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("functions of NumPy do not take symbols: take those of xp")

    def __bool__(self) -> bool:
        raise TypeError("a formula may not branch on its arrays or on float options: take xp.where")

    def __neg__(self) -> Symbol:
        return self.graph.call("neg", self)

    def __abs__(self) -> Symbol:
        return self.graph.call("abs", self)

    def __invert__(self) -> Symbol:
        return self.graph.make("not", (self.graph.as_bool(self),), self.rank, "b")

    __rpow__ = _reflected("pow")

    def __pow__(self, power: Any) -> Symbol:
        if isinstance(power, (int, float)) and float(power).is_integer() and 0 < power <= 16:
            result: Any = 1.0
            factor, left = self, int(power)
            while left:
                result = factor * result if left & 1 else result
                factor, left = factor * factor, left >> 1
            return self.graph.lift(result)
        if isinstance(power, float) and power == 0.5:
            return self.graph.call("sqrt", self)
        return self.graph.call("pow", self, power)


class Functions(SimpleNamespace):
    """What a formula gets as `xp`."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"xp has no {name}")


class Graph:
    """All that a formula computes, each operation once."""

    def __init__(self) -> None:
        self.symbols: dict[tuple[Any, ...], Symbol] = {}

    def make(self, op: str, args: tuple[Any, ...], rank: int, kind: str) -> Symbol:
        """The symbol of an operation."""
        key = (op, kind, *(x.key if isinstance(x, Symbol) else repr(x) for x in args))
        if key not in self.symbols:
            self.symbols[key] = Symbol(self, op, args, rank, kind)
        return self.symbols[key]

    def lift(self, value: Any) -> Symbol:
        """A number as a symbol."""
        if isinstance(value, Symbol):
            return value
        if isinstance(value, bool):
            return self.make("const", (value,), NUMBER, "b")
        return self.make("const", (float(value),), NUMBER, "f")

    def as_float(self, value: Any) -> Symbol:
        """True as 1, an index as a number."""
        x = self.lift(value)
        return x if x.kind == "f" else self.make("float", (x,), x.rank, "f")

    def as_bool(self, x: Symbol) -> Symbol:
        """Bools alone."""
        if x.kind != "b":
            raise TypeError("expected bools as a condition and on both sides of &, | and ^")
        return x

    def call(self, op: str, *values: Any) -> Symbol:
        """An operation on floats, or on bools where it is a logical one."""
        args = tuple(map(self.lift, values))
        rank = max(x.rank for x in args)
        if op in ("and", "or", "xor"):
            return self.make(op, tuple(map(self.as_bool, args)), rank, "b")
        if op in COMPARISONS and all(x.kind == "i" for x in args):
            return self.make(op, args, rank, "b")
        args = tuple(map(self.as_float, args))
        if op == "mul" and args[1].op == "const" and args[1].args[0] == 1.0:
            return args[0]
        return self.make(op, args, rank, "b" if op in (*COMPARISONS, "isnan") else "f")

    def where(self, condition: Any, a: Any, b: Any) -> Symbol:
        """One of two values."""
        chosen, one, other = self.as_bool(self.lift(condition)), self.lift(a), self.lift(b)
        if one is other:
            return one
        if not one.kind == other.kind == "b":
            one, other = self.as_float(one), self.as_float(other)
        return self.make("where", (chosen, one, other), max(chosen.rank, one.rank, other.rank), one.kind)

    def sign(self, x: Symbol) -> Symbol:
        """1, -1, or the number itself: 0 and NaN."""
        return self.where(x > 0.0, 1.0, self.where(x < 0.0, -1.0, x))

    def reduce(self, op: str, x: Any) -> Symbol:
        """One number of a row's elements."""
        x = self.as_float(x)
        if x.rank != ELEMENT:
            raise TypeError(f"expected {op} of something with columns")
        if op == "row_sum" and x.op == "where" and [y.args[0] for y in x.args[1:] if y.op == "const"] == [1.0, 0.0]:
            return self.make("row_count", x.args[:1], ROW, "f")
        return self.make(op, (x,), ROW, "f")

    def pick(self, x: Any, index: Any) -> Symbol:
        """The element of a row at an index."""
        x, index = self.lift(x), self.lift(index)
        if index.kind != "i" or index.rank != ROW:
            raise TypeError("expected pick(x, ids) with ids, one a row")
        if x.rank != ELEMENT:
            raise TypeError("expected pick of something with columns")
        return index if x.op == "columns" else self.make("pick", (x, index), ROW, x.kind)

    def namespace(self, rows: bool) -> Functions:
        """What a formula gets as `xp`."""
        functions: dict[str, Any] = {name: self._unary(name) for name in (*LIBRARY, "abs", "isnan")}
        functions |= {
            "maximum": lambda a, b: self.call("maximum", a, b),
            "minimum": lambda a, b: self.call("minimum", a, b),
            "where": self.where,
            "sign": lambda x: self.sign(self.lift(x)),
            "isinf": lambda x: abs(self.lift(x)) == math.inf,
        }
        assert set(functions) == set(FORMULA_FUNCTIONS)
        if rows:
            functions |= {
                "row_sum": lambda x: self.reduce("row_sum", x),
                "row_squares": lambda x: self.reduce("row_squares", x),
                "row_max": lambda x: self.reduce("row_max", x),
                "columns": lambda x: self.make("columns", (), ELEMENT, "i"),
                "pick": self.pick,
            }
            assert set(functions) == {*FORMULA_FUNCTIONS, *ROW_FUNCTIONS}
        return Functions(**functions)

    def _unary(self, op: str) -> Callable[[Any], Symbol]:
        return lambda x: self.call(op, x)


def below(roots: Iterable[Symbol], through: bool = False, stop: Iterable[int] = ()) -> list[Symbol]:
    """The symbols that roots depend on.

    A value of a row or of the call is among them, but what it depends on only with `through`; the same for keys in
    `stop`.
    """
    seen, left, stop = {}, list(roots), set(stop)
    while left:
        x = left.pop()
        if x.key in seen:
            continue
        seen[x.key] = x
        if x.key in stop or (x.rank != ELEMENT and not through):
            continue
        left.extend(arg for arg in x.args if isinstance(arg, Symbol))
    return list(seen.values())


def trace(formula: Callable[..., Sequence[Any]], arguments: Sequence[Any], rows: bool) -> tuple[Graph, list[Symbol]]:
    """The graph of a formula, of `rows` or of elements, and what it returns.

    An argument is an `ArrayArgument`, the type `float` for a number that may differ from call to call, or a `Constant`:
    a bool, int, text or float that is part of what is traced, so that a formula may branch on it. None is None.
    """
    graph = Graph()
    given = [_symbol(graph, i, argument) for i, argument in enumerate(arguments)]
    try:
        _check_parameters(formula, len(given))
        results = formula(graph.namespace(rows), *given)
        if not isinstance(results, (tuple, list)):
            got = "one result" if isinstance(results, Symbol) else repr(results)
            raise TypeError(f"expected a tuple (value, derivative of each guess), got {got}")
        for result in results:
            if isinstance(result, (list, tuple, str)):
                raise TypeError(f"expected arrays and numbers in the tuple of results, got a {type(result).__name__}")
        return graph, [graph.as_float(x) for x in results]
    except (TypeError, AttributeError, ValueError) as error:
        raise TypeError(
            f"Cannot run {name_of(formula)}: {error}. A formula may use arithmetic, comparisons and these functions of "
            f"xp: {', '.join((*FORMULA_FUNCTIONS, *(ROW_FUNCTIONS if rows else ())))}."
        ) from error


def _check_parameters(formula: Any, count: int) -> None:
    """Raise unless a formula takes `xp` and so many arguments."""
    parameters = inspect.signature(formula).parameters
    try:
        inspect.signature(formula).bind(None, *range(count))
    except TypeError:
        expected = f"expected 1 + {count} parameters, of which the first is xp"
        raise TypeError(f"{expected}, got {len(parameters)} ({', '.join(parameters)})") from None


def name_of(formula: Any) -> str:
    """What errors call a formula."""
    return getattr(formula, "__qualname__", None) or repr(formula)


def _symbol(graph: Graph, i: int, argument: Any) -> Any:
    """What a formula gets as its argument number i."""
    if isinstance(argument, ArrayArgument):
        return graph.make("input", (i,), argument.rank, argument.kind)
    if argument is float:
        return graph.make("number", (i,), NUMBER, "f")
    if argument is None:
        return None
    assert isinstance(argument, Constant), argument
    return argument.value
