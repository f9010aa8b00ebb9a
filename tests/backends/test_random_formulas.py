"""Random formulas give on every backend what their expression means.

An expression is a tree of tuples. It is run as a formula by the backends, and evaluated here in plain float64 beside a
bound of the rounding errors, so that the tolerance of each number is derived and not chosen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lossreg.ops import get_ops

Tree = Any

try:
    BACKENDS = [get_ops("numpy"), get_ops("llvm")]
except ImportError:
    BACKENDS = [get_ops("numpy")]

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
LOGIC: dict[str, Callable[[Any, Any], Any]] = {"&": operator.and_, "|": operator.or_, "^": operator.xor}
EXTREMES = ("maximum", "minimum")
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sqrt", "tanh")
ROW_FUNCTIONS = ("row_sum", "row_squares", "row_max")
NUMBERS = (0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -0.25)


# 1. Expressions


def expression(rng: Any, depth: int, rows: bool, exact: bool = False) -> Tree:
    """A random tree; an exact one has no function whose last bits differ from library to library."""
    if depth == 0 or rng.random() < 0.1:
        return leaf(rng, rows)
    below = lambda: expression(rng, depth - 1, rows, exact)  # noqa: E731
    kinds = ["arithmetic", "arithmetic", "extreme", "where", "neg", "abs", "sign", "square"]
    if not exact:
        kinds += ["function", "function", *(["row", "pick"] if rows else [])]
    kind = rng.choice(kinds)
    if kind == "arithmetic":
        return (rng.choice(["+", "-", "*"] if exact else list(ARITHMETIC)), below(), below())
    if kind == "extreme":
        return (rng.choice(EXTREMES), below(), below())
    if kind == "where":
        return ("where", condition(rng, depth - 1, rows), below(), below())
    if kind == "function":
        return (rng.choice(FUNCTIONS), below())
    if kind == "row":
        return (rng.choice(ROW_FUNCTIONS), ("+", "x", below()))  # of something that has columns
    if kind == "pick":
        return ("pick", ("+", "x", below()))
    return (kind, below())


def leaf(rng: Any, rows: bool) -> Tree:
    names = ["x", "x", "t", "option", *(["of row", "shared", "columns"] if rows else [])]
    name = rng.choice([*names, "number"])
    return float(rng.choice(NUMBERS)) if name == "number" else str(name)


def condition(rng: Any, depth: int, rows: bool) -> Tree:
    """A tree of bools. What is compared is exact, so that no last bit turns it over."""
    if depth <= 0 or rng.random() < 0.6:
        return (
            str(rng.choice(list(COMPARISONS))),
            expression(rng, min(depth, 2), rows, True),
            expression(rng, 1, rows, True),
        )
    if rng.random() < 0.3:
        return ("~", condition(rng, depth - 1, rows))
    return (str(rng.choice(list(LOGIC))), condition(rng, depth - 1, rows), condition(rng, depth - 1, rows))


def as_formula(trees: list[Tree], rows: bool) -> Callable[..., Any]:
    """Trees as a formula: the value, then the derivative."""

    def formula(xp: Any, x: Any, t: Any, option: Any, *of_rows: Any) -> Any:
        names = {"x": x, "t": t, "option": option}
        if rows:
            names |= dict(zip(("of row", "shared", "ids"), of_rows))
            names["columns"] = xp.columns(x) * 1.0
        found = [run(tree, xp, names) for tree in trees]
        return (xp.row_sum(found[0] + 0.0 * x), *found[1:]) if rows else found

    return formula


def run(tree: Tree, xp: Any, names: dict[str, Any]) -> Any:
    """A tree in the words of a formula."""
    if isinstance(tree, float):
        return tree
    if isinstance(tree, str):
        return names[tree]
    op, *args = tree
    found = [run(arg, xp, names) for arg in args]
    if op in ("neg", "abs", "~", "square"):
        return {"neg": operator.neg, "abs": abs, "~": inverted, "square": lambda v: v**2}[op](*found)
    if op == "pick":
        return xp.pick(found[0], names["ids"])
    operators = ARITHMETIC | COMPARISONS | LOGIC
    return operators[op](*found) if op in operators else getattr(xp, str(op))(*found)


def inverted(value: Any) -> Any:
    """Not; the comparison of two numbers is a bool of Python's."""
    return not value if isinstance(value, bool) else ~value


# 2. What they mean, with a bound of the error


class Bounded:
    """Numbers in float64, and how far a computation in some precision may be away from them."""

    dtype = np.finfo(np.float64)

    def __init__(self, value: Any, error: Any = 0.0) -> None:
        self.value = np.asarray(value, np.float64)
        self.error = np.broadcast_to(np.asarray(error, np.float64), self.value.shape)

    @classmethod
    def rounded(cls, value: Any, error: Any, ulps: float = 1.0) -> Bounded:
        error = error + ulps * float(cls.dtype.eps) * abs(value) + float(cls.dtype.tiny)
        overflows = np.isfinite(value) & (abs(value) + error > 0.5 * float(cls.dtype.max))
        return cls(value, np.where(overflows, np.inf, error))


def meaning(tree: Tree, names: dict[str, Any]) -> Any:
    """Of numbers `Bounded`, of conditions arrays of bools."""
    if isinstance(tree, float):
        return Bounded(tree)
    if isinstance(tree, str):
        return names[tree]
    op, *args = tree
    found = [meaning(arg, names) for arg in args]
    if op in COMPARISONS:
        return COMPARISONS[op](found[0].value, found[1].value)
    if op in LOGIC:
        return LOGIC[op](*found)
    if op == "~":
        return ~np.asarray(found[0])
    if op == "where":
        chosen, a, b = found
        return Bounded(np.where(chosen, a.value, b.value), np.where(chosen, a.error, b.error))
    return number(op, found, names)


def number(op: str, found: list[Bounded], names: dict[str, Any]) -> Bounded:
    a, *rest = found
    v, e = a.value, a.error
    if op in ("+", "-"):
        return Bounded.rounded(ARITHMETIC[op](v, rest[0].value), e + rest[0].error)
    if op == "*":
        w, f = rest[0].value, rest[0].error
        return Bounded.rounded(v * w, abs(v) * f + abs(w) * e + e * f)
    if op == "/":
        w, f = rest[0].value, rest[0].error
        sure = np.maximum(abs(w) - f, 0.0)  # the divisor may be as small as this
        return Bounded.rounded(v / w, (e + abs(v / w) * f) / sure)
    if op in EXTREMES:
        return Bounded(getattr(np, op)(v, rest[0].value), np.maximum(e, rest[0].error))
    if op == "square":
        return Bounded.rounded(v * v, 2 * abs(v) * e + e * e)
    if op == "neg":
        return Bounded(-v, e)
    if op == "abs":
        return Bounded(abs(v), e)
    if op == "sign":
        return Bounded(np.sign(v), np.where(abs(v) > e, 0.0, 2.0))
    if op == "pick":
        at = names["ids"][:, None]
        return Bounded(*(np.take_along_axis(x, at, axis=1) for x in (v, e)))
    if op in ROW_FUNCTIONS:
        return of_row(op, v, e)
    return function(op, v, e)


def of_row(op: str, v: Any, e: Any) -> Bounded:
    if op == "row_max":
        return Bounded(v.max(axis=1, keepdims=True), e.max(axis=1, keepdims=True))
    if op == "row_squares":
        v, e = v * v, 2 * abs(v) * e + e * e
    size = abs(v).sum(axis=1, keepdims=True)
    error = e.sum(axis=1, keepdims=True) + 2.0**-52 * v.shape[1] * size
    return Bounded.rounded(v.sum(axis=1, keepdims=True), error)


def function(op: str, v: Any, e: Any) -> Bounded:
    """By the largest derivative within the error."""
    near, far = v - e, v + e
    value = getattr(np, op)(v)
    slopes = {
        "exp": lambda: np.exp(far), "expm1": lambda: np.exp(far), "tanh": lambda: 1.0,
        "log": lambda: 1.0 / near, "log1p": lambda: 1.0 / (1.0 + near), "sqrt": lambda: 0.5 / np.sqrt(near),
    }  # fmt: skip
    slope = slopes[op]()
    slope = np.where(
        e == 0.0, 0.0, np.where(slope >= 0.0, slope, np.inf)
    )  # the error reaches past the end of the domain
    return Bounded.rounded(value, slope * e, 4.0)


# 3. Both


def compare(got: Any, want: Bounded, dtype: Any) -> None:
    """Raise unless numbers lie within the bound. Where that is infinite, or not a number, nothing is known."""
    value, error = (np.broadcast_to(x, got.shape) for x in (want.value, want.error))
    known = np.isfinite(error)
    np.testing.assert_array_equal(np.isnan(got[known]), np.isnan(value[known]))
    infinite = known & np.isinf(value)
    np.testing.assert_array_equal(got[infinite], value[infinite])
    finite = known & np.isfinite(value)
    assert (abs(got[finite] - value[finite]) <= 2.0 * error[finite]).all()


def check(seed: int, rows: bool, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 9)), int(rng.integers(1, 40)))
    trees = [expression(rng, 4, rows) for _ in range(2)]
    x, t, shared = (
        rng.normal(size=s).astype(dtype) * rng.choice([0.1, 1.0, 20.0]) for s in (shape, shape, (1, shape[1]))
    )
    x, t, shared = (np.asarray(v, dtype) for v in (x, t, shared))
    option, of_row_ = float(np.float32(rng.normal())), rng.normal(size=shape[0]).astype(dtype)
    ids = rng.integers(0, shape[1], shape[0])
    others = (t, option, of_row_, shared, ids) if rows else (t, option)
    Bounded.dtype = np.finfo(dtype)
    names = {"x": Bounded(x), "t": Bounded(t), "option": Bounded(option), "of row": Bounded(of_row_[:, None])}
    names |= {"shared": Bounded(shared), "ids": ids, "columns": Bounded(np.arange(shape[1])[None, :])}
    want = [meaning(tree, names) for tree in trees]
    if rows:
        value = want[0]
        ones = np.ones(shape)
        want[0] = of_row(
            "row_sum", value.value * ones, value.error * ones + float(Bounded.dtype.eps) * abs(value.value)
        )
    before = [np.copy(v) for v in (x, *others)]
    for ops in BACKENDS:
        out = [np.empty_like(x)]
        values, _ = ops.run(
            as_formula(trees, rows), (x,), others, None, 1.0, rows=rows, values=True, total=False, out=out
        )
        for got, expected in zip((values, out[0]), want):
            compare(got.astype(np.float64), expected, dtype)
    for array, copy in zip((x, *others), before):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", [False, True], ids=["elements", "rows"])
@pytest.mark.parametrize("seeds", range(3))
def test_random_formulas(seeds: int, rows: bool, dtype: str) -> None:
    with np.errstate(all="ignore"):
        for seed in range(20 * seeds, 20 * seeds + 20):
            try:
                check(seed, rows, dtype)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
