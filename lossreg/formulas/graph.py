"""`Graph`: a formula runs once on symbols, which record what it does with them."""

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
"""Operations that array libraries, and the library of the compiled backends, have under the same name."""
REDUCTIONS = ("row_sum", "row_squares", "row_max", "row_count")
"""Operations that need all elements of a row."""
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
        self.graph, self.op, self.args, self.rank, self.kind = graph, op, args, rank, kind
        self.key = len(graph.symbols)
        # How many passes over the row must be over before the value is known.
        stages = [x.stage for x in args if isinstance(x, Symbol)]
        self.stage: int = max(stages, default=0)
        if op in REDUCTIONS:
            self.stage += 1

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
            # By squaring: one factor for each binary digit of the power that is 1.
            result: Any = 1.0
            factor, digits = self, int(power)
            while digits:
                if digits & 1:
                    result = factor * result
                factor, digits = factor * factor, digits >> 1
            return self.graph.lift(result)
        if isinstance(power, float) and power == 0.5:
            return self.graph.call("sqrt", self)
        return self.graph.call("pow", self, power)


class Functions(SimpleNamespace):
    """What a formula gets as `xp`."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"xp has no {name}")


class Graph:
    """All operations of a formula, each of them once."""

    def __init__(self) -> None:
        self.symbols: dict[tuple[Any, ...], Symbol] = {}

    def make(self, op: str, args: tuple[Any, ...], rank: int, kind: str) -> Symbol:
        """The symbol of an operation."""
        # Numbers by their text: 0.0 is not -0.0, and True is not 1.0.
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
        if x.kind == "f":
            return x
        return self.make("float", (x,), x.rank, "f")

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
        if op == "mul" and _is_constant(args[1], 1.0):
            return args[0]
        kind = "b" if op in (*COMPARISONS, "isnan") else "f"
        return self.make(op, args, rank, kind)

    def where(self, condition: Any, a: Any, b: Any) -> Symbol:
        """One of two values."""
        flag, yes, no = self.as_bool(self.lift(condition)), self.lift(a), self.lift(b)
        if yes is no:
            return yes
        if not yes.kind == no.kind == "b":
            yes, no = self.as_float(yes), self.as_float(no)
        return self.make("where", (flag, yes, no), max(flag.rank, yes.rank, no.rank), yes.kind)

    def sign(self, x: Symbol) -> Symbol:
        """1, -1, or the number itself: 0 and NaN."""
        return self.where(x > 0.0, 1.0, self.where(x < 0.0, -1.0, x))

    def reduce(self, op: str, x: Any) -> Symbol:
        """One number made of the elements of a row."""
        x = self.as_float(x)
        if x.rank != ELEMENT:
            raise TypeError(f"expected {op} of something with columns")
        # The sum of where(condition, 1, 0) is a number of elements: whole, and so exact in any order.
        if op == "row_sum" and x.op == "where":
            condition, yes, no = x.args
            if _is_constant(yes, 1.0) and _is_constant(no, 0.0):
                return self.make("row_count", (condition,), ROW, "f")
        return self.make(op, (x,), ROW, "f")

    def pick(self, x: Any, index: Any) -> Symbol:
        """The element of a row at an index."""
        elements, ids = self.lift(x), self.lift(index)
        if ids.kind != "i" or ids.rank != ROW:
            raise TypeError("expected pick(x, ids) with ids, one a row")
        if elements.rank != ELEMENT:
            raise TypeError("expected pick of something with columns")
        if elements.op == "columns":  # column i is i
            return ids
        return self.make("pick", (elements, ids), ROW, elements.kind)

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


def _is_constant(x: Symbol, number: float) -> bool:
    return bool(x.op == "const" and x.args[0] == number)


def below(roots: Iterable[Symbol], through: bool = False, stop: Iterable[int] = ()) -> list[Symbol]:
    """The symbols that roots depend on, and the roots.

    What a value of a row or of the call depends on is among them only with `through`. What the keys in `stop` depend on
    never is.
    """
    reached: dict[int, Symbol] = {}
    waiting, stop = list(roots), set(stop)
    while waiting:
        x = waiting.pop()
        if x.key in reached:
            continue
        reached[x.key] = x
        if x.key in stop or (x.rank != ELEMENT and not through):
            continue
        waiting.extend(arg for arg in x.args if isinstance(arg, Symbol))
    return list(reached.values())


def trace(formula: Callable[..., Sequence[Any]], arguments: Sequence[Any], rows: bool) -> tuple[Graph, list[Symbol]]:
    """The graph of a formula, of `rows` or of elements, and what it returns.

    An argument is an `ArrayArgument`, the type `float` for a number that may differ from call to call, or a `Constant`:
    a bool, int, text or float that is part of what is traced, so that a formula may branch on it. None is None.
    """
    graph = Graph()
    symbols = [_symbol(graph, i, argument) for i, argument in enumerate(arguments)]
    try:
        _check_parameters(formula, len(symbols))
        results = formula(graph.namespace(rows), *symbols)
        if not isinstance(results, (tuple, list)):
            got = "one result" if isinstance(results, Symbol) else repr(results)
            raise TypeError(f"expected a tuple (value, derivative of each guess), got {got}")
        for result in results:
            if isinstance(result, (list, tuple, str)):
                raise TypeError(f"expected arrays and numbers in the tuple of results, got a {type(result).__name__}")
        return graph, [graph.as_float(x) for x in results]
    except (TypeError, AttributeError, ValueError) as error:
        functions: tuple[str, ...] = FORMULA_FUNCTIONS
        if rows:
            functions += ROW_FUNCTIONS
        raise TypeError(
            f"Cannot run {name_of(formula)}: {error}. A formula may use arithmetic, comparisons and these functions of "
            f"xp: {', '.join(functions)}."
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
