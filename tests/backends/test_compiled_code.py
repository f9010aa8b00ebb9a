"""The compiled backend against NumPy, mpmath and ml_dtypes: its functions, its memory, its errors."""

from __future__ import annotations

import math
import operator
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import ElementwiseLoss, RowLoss
from lossreg.ops import NumpyOps, get_ops
from support.nested import assert_same, each, leaves
from support.table import ROWS, TRUE_ROWS, Row

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
import llvmlite.binding as llvm

from lossreg.ops.llvm import ops as llvm_ops
from lossreg.ops.llvm.vectors import STORAGE

COMPILED, PLAIN = get_ops("llvm"), NumpyOps()
FLOATS = ["float32", "float64"]
LENGTHS = [*range(1, 71), 1023, 1024, 1025, 40_001]


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    with lossreg.use_ops(COMPILED), np.errstate(all="ignore"):
        yield


def call(formula: Any, guess: Any, *others: Any, ops: Any = COMPILED, rows: bool = False, weight: Any = None) -> Any:
    """(values, slope, total) of a formula of one guess."""
    slope = np.empty(guess.shape, guess.dtype)
    values, total = ops.run(formula, (guess,), others, weight, 1.0, rows=rows, values=True, total=True, out=[slope])
    return values, slope, total


def same_bits(a: Any, b: Any) -> None:
    """Raise unless two trees hold the same bits; any NaN is any other."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        nan = x != x
        np.testing.assert_array_equal(nan, y != y)
        assert x[~nan].tobytes() == y[~nan].tobytes()


# 1. The math library


def function(name: str) -> Callable[..., Any]:
    return lambda xp, x: (getattr(xp, name)(x), x)


MATH = {name: function(name) for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh")}


def kinks(dtype: str, each_side: int) -> np.ndarray:
    """The ends of ranges and their neighbours."""
    info = np.finfo(dtype)
    ends = [info.tiny, info.max, math.log(info.max), math.log(info.tiny), math.log(info.smallest_subnormal), 1.0, 0.5]
    ends += [math.log(2) / 2, math.log(2), math.sqrt(0.5), math.sqrt(2), 2.0, 9.0, 20.0, 40.0, math.inf]
    points = np.abs(np.array(ends, dtype)).view(f"u{info.bits // 8}")
    steps = np.arange(-each_side, each_side + 1).astype(points.dtype)
    near = np.concatenate([(points[:, None] + steps).ravel(), steps[each_side:]]).view(dtype)
    return np.concatenate([near, -near])


def true_values(f: Callable[..., Any], rough: Any, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """A function in mpmath as the nearest float64 and what that leaves; as `rough` is where that is not finite."""
    mp = pytest.importorskip("mpmath", reason="mpmath is not installed")
    high, low = np.array(rough, np.float64), np.zeros(len(rough))
    with mp.workprec(160):
        for i in np.flatnonzero(np.isfinite(high)):
            exact = f(mp, *(mp.mpf(float(x[i])) for x in arguments))
            high[i] = float(exact)
            low[i] = float(exact - mp.mpf(high[i]))
    return high, low


def assert_close_in_ulp(got: np.ndarray, high: np.ndarray, low: Any, bound: Any) -> None:
    rounded = high.astype(got.dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    assert np.isfinite(got[finite]).all()
    ulp = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    error = np.abs((got[finite].astype(np.float64) - high[finite]) - np.broadcast_to(low, got.shape)[finite]) / ulp
    assert (error <= np.broadcast_to(bound, got.shape)[finite]).all(), error.max()


@pytest.mark.parametrize("name", MATH)
def test_math_in_float32_is_right_to_4_ulp(name: str) -> None:
    x = np.arange(0, 2**32, 4099).astype(np.uint32).view(np.float32)
    x = np.concatenate([x, kinks("float32", 500)])
    assert_close_in_ulp(call(MATH[name], x)[0], getattr(np, name)(x.astype(np.float64)), 0.0, 4)


@pytest.mark.parametrize("name", MATH)
def test_math_in_float64_is_right_to_4_ulp(name: str, rng: Any) -> None:
    x = rng.integers(0, 2**64, 1000, np.uint64).view(np.float64)
    x = np.concatenate([x, kinks("float64", 20), np.exp(rng.uniform(-40, 7, 2000)) * rng.choice([-1, 1], 2000)])
    high, low = true_values(lambda mp, v: getattr(mp, name)(v), getattr(np, name)(x), x)
    assert_close_in_ulp(call(MATH[name], x)[0], high, low, 4)


def raised_to(xp: Any, x: Any, y: Any) -> Any:
    return x**y, x


@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_are_as_right_as_their_logarithm(dtype: str, rng: Any) -> None:
    """An error of half an ulp in y log x is one of |y log x| / 2 in the power."""
    size = 60 if dtype == "float32" else 600
    x = np.exp(rng.uniform(-size, size, 1500)).astype(dtype)
    y = (rng.uniform(-size, size, 1500) / np.log(x)).astype(dtype)
    rough = np.power(x.astype(np.float64), y.astype(np.float64))
    high, low = true_values(lambda mp, a, b: mp.power(a, b), rough, x, y)
    assert_close_in_ulp(call(raised_to, x, y)[0], high, low, 4 + 2 * np.abs(np.log(high)))


# 2. Every operator and function as NumPy has it

SPECIAL = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e-30, 1e30, math.inf, -0.5, -1.0, -2.0, -3.0, -1e30, -math.inf, math.nan]


def compared(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda xp, a, b, p: (xp.where(op(a, b), 1.0, 2.0), xp.where(op(0.5, a), a, b) + xp.where(op(b, p), a, 3.0))


OPERATORS: dict[str, Callable[..., Any]] = {
    "+": lambda xp, a, b, p: (a + b, 1 + a + p),
    "-": lambda xp, a, b, p: (a - b, (1 - a) - (b - p)),
    "*": lambda xp, a, b, p: (a * b, 3 * a * (p * b)),
    "/": lambda xp, a, b, p: (a / b, 1 / a - b / 3 / p),
    "no fused a * b + c": lambda xp, a, b, p: (a * b + 1e-30 * a, a * a - b * b),
    "sign and size": lambda xp, a, b, p: (-a + abs(b), xp.abs(a) * xp.sign(b)),
    **{op.__name__: compared(op) for op in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)},
    "&": lambda xp, a, b, p: (xp.where((a > b) & (a < 2.0), a, b), xp.where((a > b) & True, 1.0, 0.0)),
    "|": lambda xp, a, b, p: (xp.where((a > b) | (a < 2.0), a, b), xp.where((a > b) | (p > 1.0), 1.0, 0.0)),
    "^": lambda xp, a, b, p: (xp.where((a > b) ^ (a < 2.0), a, b), xp.where(True ^ (a > b), 1.0, 0.0)),
    "~": lambda xp, a, b, p: (xp.where(~(a > b), a, b), xp.where(~(a == b) & ~(a < p), 1.0, 0.0)),
    "where": lambda xp, a, b, p: (xp.where(xp.where(a > 0, b > 0, a != b), a, 1.0), xp.where(p > 0, a, b)),
    "where bools": lambda xp, a, b, p: (xp.where(xp.where(a > 1, True, b > 1), 1.0, 0.0), xp.where(a > 1, a > 2, b) * a),
    "maximum": lambda xp, a, b, p: (xp.maximum(a, b), xp.maximum(b, a)),
    "minimum": lambda xp, a, b, p: (xp.minimum(a, b), xp.minimum(b, a)),
    "maximum with a constant": lambda xp, a, b, p: (xp.maximum(a, 1.0), xp.maximum(1.0, b)),
    "minimum with a constant": lambda xp, a, b, p: (xp.minimum(a, -1.0), xp.minimum(-1.0, b)),
    "maximum with an option": lambda xp, a, b, p: (xp.maximum(a, p), xp.maximum(-p, b)),
    "minimum with an option": lambda xp, a, b, p: (xp.minimum(a, p), xp.minimum(-p, b)),
    "extremes of numbers": lambda xp, a, b, p: (a + xp.maximum(p, 1.0), b + xp.minimum(2.0, p)),
    "extremes with infinity": lambda xp, a, b, p: (xp.maximum(a, -math.inf), xp.minimum(math.inf, a)),
    "maximum with NaN": lambda xp, a, b, p: (xp.maximum(a, math.nan), xp.maximum(math.nan, a)),
    "minimum with NaN": lambda xp, a, b, p: (xp.minimum(a, math.nan), xp.minimum(math.nan, a)),
    "isnan, isinf": lambda xp, a, b, p: (xp.where(xp.isnan(a), 1.0, b), xp.where(xp.isinf(b), 1.0, xp.where(xp.isnan(b), 2.0, 3.0))),
    "bools are 0 and 1": lambda xp, a, b, p: ((a > b) * a + 2.0 * (a == b), (a < 1.0) - 0.5 * (p == 0.5)),
    "infinities": lambda xp, a, b, p: (a + math.inf, xp.where(b == -math.inf, 0.0, b * math.inf)),
    "numbers alone": lambda xp, a, b, p: (2 * p + 1.0, xp.where(p > 0.25, 1.0, 0.0)),
    "sqrt": lambda xp, a, b, p: (xp.sqrt(a), a * xp.sqrt(p)),
    "square": lambda xp, a, b, p: (a**2, b**1),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_operators_are_those_of_numpy(name: str, dtype: str, option: float = 0.5) -> None:
    a, b = (x.ravel().astype(dtype) for x in np.meshgrid(SPECIAL, SPECIAL))
    for got, want in zip(call(OPERATORS[name], a, b, option)[:2], call(OPERATORS[name], a, b, option, ops=PLAIN)[:2]):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want.astype(dtype))  # NumPy's own may have become float64


@pytest.mark.parametrize("name", [name for name in OPERATORS if "option" in name or "numbers" in name])
@pytest.mark.parametrize("dtype", FLOATS)
def test_options_may_be_nan(name: str, dtype: str) -> None:
    test_operators_are_those_of_numpy(name, dtype, math.nan)


def to_power(power: float) -> Callable[..., Any]:
    return lambda xp, x: (x**power, x)


POWERS = {p: to_power(p) for p in (0, 0.0, 1, 2, 2.0, 3, 7, 16, 17, -1, -2, -3.0, 0.5, 1.5, -0.5, math.inf, math.nan)}


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("how", ["constant", "option", "array"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_are_those_of_numpy(power: float, how: str, dtype: str) -> None:
    x = np.array(SPECIAL, dtype)
    if not math.isfinite(power):
        x = x[abs(x) != 1.0]  # 1**inf is NaN here and 1 in NumPy
    elif power % 1.0:
        x = x[x != -math.inf]  # (-inf)**1.5 is NaN here and inf in NumPy
    formula, others = (POWERS[power], ()) if how == "constant" else (raised_to, (float(power),))
    others = (np.full(len(x), power, dtype),) if how == "array" else others
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(call(formula, x, *others)[0], x ** np.array(power, dtype), rtol=rtol)


def softplus(xp: Any, x: Any, t: Any) -> Any:
    return xp.log1p(xp.exp(-abs(x))) + xp.maximum(x, 0.0) - t * x, xp.where(x > t, 0.5, -x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_length_with_nothing_written_beyond_it(dtype: str, rng: Any) -> None:
    for n in LENGTHS:
        x, t, around = rng.normal(size=n).astype(dtype), rng.random(n).astype(dtype), np.full(n + 64, 7.0, dtype)
        out = around[32:-32]
        arguments = (softplus, (x,), (t,), None, 0.5)
        values, total = COMPILED.run(*arguments, rows=False, values=True, total=True, out=[out])
        want, slope, _ = call(softplus, x, t, ops=PLAIN)
        np.testing.assert_allclose(values, want, rtol=0, atol=1e-6 if dtype == "float32" else 1e-15)
        np.testing.assert_array_equal(out, slope * np.array(0.5, dtype))
        assert (around[:32] == 7.0).all()
        assert (around[-32:] == 7.0).all()
        assert total == pytest.approx(math.fsum(values), rel=1e-13)


def two_that_are_kept(xp: Any, x: Any, ids: Any, members: Any) -> Any:
    e, h = xp.exp(x), xp.tanh(abs(x))
    return xp.row_sum(e * h), e * xp.row_sum(h) + h * xp.row_sum(e)


def log_sum_exp(xp: Any, x: Any, ids: Any, members: Any) -> Any:
    peak = xp.row_max(x)
    e = xp.exp(x - peak)
    total = xp.row_sum(e)
    return xp.log(total) + peak, e / total


ROW_FORMULAS: dict[str, Callable[..., Any]] = {
    "row_sum": lambda xp, x, ids, members: (xp.row_sum(x), x - xp.row_sum(x)),
    "row_squares": lambda xp, x, ids, members: (xp.row_squares(x), x * xp.sqrt(xp.row_squares(1.0 + x))),
    "row_max": lambda xp, x, ids, members: (xp.row_max(x), xp.where(x == xp.row_max(x), 1.0, 0.0)),
    "sum of a maximum of a sum": lambda xp, x, ids, members: (
        xp.row_sum(xp.maximum(x, xp.row_max(xp.where(x < xp.row_sum(x), x, -1.0)))), 2.0 * x,
    ),
    "log_sum_exp": log_sum_exp,
    "two that are kept": two_that_are_kept,
    "pick": lambda xp, x, ids, members: (xp.pick(x, ids), x - xp.pick(x, ids)),
    "pick of bools": lambda xp, x, ids, members: (
        xp.where(xp.pick(members, ids), 1.0, -1.0), xp.where(members ^ xp.pick(members, ids), x, 0.0),
    ),
    "pick of an expression": lambda xp, x, ids, members: (
        xp.pick(xp.where((xp.columns(x) > 2) | members, xp.exp(x - xp.row_max(x)), -x), ids), x - xp.pick(abs(x), ids),
    ),
    "count": lambda xp, x, ids, members: (
        xp.row_sum(xp.where(members & (x < 1.0), 1.0, 0.0)), xp.row_sum(xp.where(x < 1.0, 1.0, 0.0)) + x,
    ),
    "columns": lambda xp, x, ids, members: (
        xp.row_sum(xp.where(xp.columns(x) == ids, x, 0.0)), xp.where(xp.columns(x) >= 3, x, xp.columns(x) * 2.0),
    ),
    "columns of members": lambda xp, x, ids, members: (
        xp.row_sum(1.0 * members), xp.where((xp.columns(x) < ids) & members, x, ids - 1.0),
    ),
    "nothing of the row": lambda xp, x, ids, members: (2.0, x),
}  # fmt: skip


def strange_rows(rng: Any, n: int) -> np.ndarray:
    """Rows of n that hold NaN and infinities in every place a vector can have them."""
    x = rng.normal(size=(9, n))
    x[1], x[2], x[3] = -math.inf, math.inf, math.nan
    for row, value in ((4, math.nan), (5, math.inf), (6, -math.inf)):
        x[row, rng.integers(n)] = value
    x[7, -1] = math.nan
    x[8] = 0.25
    return x


@pytest.mark.parametrize("name", ROW_FORMULAS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_row_functions_are_those_of_numpy(name: str, dtype: str, rng: Any) -> None:
    formula, rtol = ROW_FORMULAS[name], 2e-6 if dtype == "float32" else 1e-13
    for n in LENGTHS[:-1]:
        x = strange_rows(rng, n).astype(dtype)
        ids, members = rng.integers(0, n, len(x)), rng.random(x.shape) < 0.5
        weight = np.where([True, *(rng.random(len(x) - 1) < 0.5)], rng.random(len(x)), 0.0).astype(dtype)
        for w in (None, weight):
            got = call(formula, x, ids, members, rows=True, weight=w)
            want = call(formula, x.astype(np.float64), ids, members, rows=True, weight=w, ops=PLAIN)
            for a, b in zip(got, want):
                np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def times(xp: Any, x: Any, by: Any) -> Any:
    return xp.row_sum(x * by), 2.0 * x * by


@pytest.mark.parametrize("shape", [(40, 21), (1, 21), (40,), None])
def test_what_rows_share(shape: Any, rng: Any) -> None:
    x, by = rng.normal(size=(40, 21)), 0.75 if shape is None else rng.normal(size=shape)
    for a, b in zip(call(times, x, by, rows=True), call(times, x, by, rows=True, ops=PLAIN)):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-14)


def test_rows_are_added_in_float64(rng: Any) -> None:
    for n in (3, 70, 2000):
        x = rng.normal(size=(5, n)).astype(np.float32)
        x[:, 0], x[:, -1] = 1e9, -1e9
        got = call(ROW_FORMULAS["row_sum"], x, np.zeros(5, int), x > 0, rows=True)
        np.testing.assert_allclose(got[0][:, 0], [math.fsum(row) for row in x], rtol=1e-6)
        assert got[2] == pytest.approx(math.fsum(x.ravel()), rel=1e-7)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_ids_of_every_dtype(dtype: str, rng: Any) -> None:
    x, members = rng.normal(size=(40, 200)).astype(np.float32), rng.random((40, 200)) < 0.5
    ids = rng.integers(0, 127 if dtype == "int8" else 200, 40)
    ids[0] = ids.max()
    for name in ("pick", "columns"):
        got = call(ROW_FORMULAS[name], x, ids.astype(dtype), members, rows=True)
        same_bits(got, call(ROW_FORMULAS[name], x, ids, members, rows=True))
        np.testing.assert_array_equal(got[0][:, 0], x[np.arange(40), ids])


def difference(xp: Any, x: Any, t: Any) -> Any:
    return x - t, t


def named_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        name = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    return np.dtype(name)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("stored", STORAGE)
@pytest.mark.parametrize("rows", [False, True])
def test_truths_of_every_dtype(stored: str, dtype: str, rows: bool, rng: Any) -> None:
    """As NumPy converts them, the largest and smallest among them."""
    kind = named_dtype(stored)
    t = rng.integers(0, 256, 64 * kind.itemsize, np.uint8).view(kind)[:41]
    if kind.kind in "iu":
        t[:2] = np.iinfo(kind).min, np.iinfo(kind).max
    if stored == "bool":
        t = rng.random(41) < 0.5
    x = rng.normal(size=(3, 41)).astype(dtype)
    formula = OPERATORS_OF_ROWS if rows else difference
    others = (np.broadcast_to(t, x.shape),)
    want = np.broadcast_to(t.astype(dtype), x.shape)
    values, slope, _ = call(formula, x, *others, rows=rows)
    np.testing.assert_array_equal(slope, want)
    np.testing.assert_array_equal(values, x[:, :1] if rows else x - want)


def OPERATORS_OF_ROWS(xp: Any, x: Any, t: Any) -> Any:
    return xp.row_sum(xp.where(xp.columns(x) == 0, x, 0.0)), 1.0 * t


@pytest.mark.parametrize("kind", ["bool", "int32", "uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (37,), (1, 37), (50, 1), (50, 37)])
def test_weights_of_any_dtype_and_shape(kind: str, shape: tuple[int, ...], rng: Any) -> None:
    """Where a weight is 0, nothing is, whatever the formula gives."""
    x, t = rng.normal(size=(50, 37)), rng.random((50, 37))
    weight = rng.integers(0, 3, shape).astype(kind)
    x[np.broadcast_to(weight == 0, x.shape) & (rng.random(x.shape) < 0.5)] = np.nan
    got, want = (call(softplus, x, t, weight=np.array(weight), ops=ops) for ops in (COMPILED, PLAIN))
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    assert np.isfinite(got[2])


def with_switches(xp: Any, x: Any, p: Any, upper: Any, how: Any) -> Any:
    return (p * x if upper else x - p) if how == "plain" else x / p, x


def test_floats_share_machine_code_and_switches_do_not(monkeypatch: Any) -> None:
    made: list[str] = []
    compile_text = llvm_ops.compiled
    monkeypatch.setattr(llvm_ops, "compiled", lambda text: made.append(text) or compile_text(text))
    x = np.linspace(-3.0, 3.0, 7)
    for p in (0.5, 3.0, -1.25, math.inf):
        np.testing.assert_array_equal(call(with_switches, x, p, True, "plain")[0], p * x)
    assert len(made) == 1
    np.testing.assert_array_equal(call(with_switches, x, 0.5, False, "plain")[0], x - 0.5)
    np.testing.assert_array_equal(call(with_switches, x, 0.5, False, "other")[0], x / 0.5)
    assert len(set(made)) == len(made) == 3


# 3. Half precision is the float32 result, rounded to nearest


def stored(xp: Any, x: Any, t: Any) -> Any:
    return x, t


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_halves_are_read_and_rounded_to_nearest(half: str, rng: Any) -> None:
    """All halves are read; halves, the points between two of them, and what lies next to these are stored."""
    kind = named_dtype(half)
    x = np.tile(np.arange(65_536, dtype=np.uint16).view(kind), 6)
    exact = x[:65_536].astype(np.float32)
    bits = exact.view(np.uint32)
    shift = 12 if half == "float16" else 15
    between = [bits, bits + (1 << shift), bits + (1 << shift) + 1, bits + (1 << shift) - 1, bits + 1]
    t = np.concatenate([*between, rng.integers(0, 2**32, 65_536).astype(np.uint32)]).astype(np.uint32).view(np.float32)
    values, slope, _ = call(stored, x, t)
    same_bits(values, x.astype(np.float32))
    same_bits(slope.astype(np.float32), t.astype(kind).astype(np.float32))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
def test_gradients_of_halves_are_rounded_once(row: Row, half: str, rng: Any) -> None:
    kind, loss = named_dtype(half), row.make()
    guesses, truths = row.sample(rng, 37)
    guesses = each(lambda x: np.where(abs(x) < 1e-3, 1e-3, x).astype(kind), guesses)  # nothing that v4 cuts off
    grad, value = loss(guesses, truths)
    want, want_value = loss(each(lambda x: x.astype(np.float32), guesses), truths)
    assert all(x.dtype == kind for x in leaves(grad))
    same_bits(each(lambda x: x.astype(np.float32), grad), each(lambda x: x.astype(kind).astype(np.float32), want))
    assert value == want_value


# 4. The same tests as other machines would run them

MACHINES = {
    "x86-64": {},
    "haswell": {"avx": True, "avx2": True, "fma": True, "f16c": True},
}
AS_ON_ANOTHER_MACHINE = """
import sys, llvmlite.binding as llvm, pytest
features = llvm.FeatureMap({features})
llvm.get_host_cpu_name, llvm.get_host_cpu_features = lambda: "{machine}", lambda: features
sys.exit(pytest.main([{path!r}, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "({tests}) and not machines"]))
"""


NARROW = [
    (machine, tests)
    for machine in MACHINES
    for tests in ("math or row_functions or length", "halves_are_read or truths")
]


@pytest.mark.slow
@pytest.mark.parametrize("case", NARROW, ids="-".join)
def test_narrower_machines(case: tuple[str, str]) -> None:
    machine, tests = case
    here = llvm.get_host_cpu_features()
    if not llvm.get_process_triple().startswith("x86_64") or not all(here.get(f) for f in MACHINES[machine]):
        pytest.skip(f"this machine cannot run code for {machine}")
    code = AS_ON_ANOTHER_MACHINE.format(features=MACHINES[machine], machine=machine, path=__file__, tests=tests)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# 5. Inputs of any layout, without copies where rows lie together

LAYOUTS: dict[str, Callable[..., np.ndarray]] = {
    "every other row": lambda x, folder: np.repeat(x, 2, axis=0)[::2],
    "the first columns": lambda x, folder: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
    "every other column": lambda x, folder: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x, folder: x[::-1, ::-1].copy()[::-1, ::-1],
    "reversed rows": lambda x, folder: x[::-1].copy()[::-1],
    "transposed": lambda x, folder: x.T.copy().T,
    "one row for all": lambda x, folder: np.broadcast_to(x[3], x.shape),
    "one column for all": lambda x, folder: np.broadcast_to(x[:, 3:4], x.shape),
    "one number for all": lambda x, folder: np.broadcast_to(x[3, 3], x.shape),
    "memory-mapped": lambda x, folder: mapped(x, folder),
    "read-only": lambda x, folder: read_only(x),
    "unaligned": lambda x, folder: unaligned(x),
    "unaligned field": lambda x, folder: field(x),
    "byte-swapped": lambda x, folder: x.astype(x.dtype.newbyteorder()),
}


def mapped(x: np.ndarray, folder: Any) -> np.ndarray:
    np.save(folder / "array.npy", x)
    return np.load(folder / "array.npy", mmap_mode="r")


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = np.ndarray(x.shape, x.dtype, buffer=bytearray(x.nbytes + 1), offset=1)
    y[...] = x
    assert not y.flags.aligned
    return y


def field(x: np.ndarray) -> np.ndarray:
    y = np.zeros(x.shape, [("flag", np.uint8), ("x", x.dtype)])["x"]
    y[...] = x
    assert not y.flags.aligned
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", [lossreg.SmoothL1(), lossreg.CrossEntropy(reduction="sum")], ids=["elements", "rows"])
def test_layouts(loss: Any, layout: str, dtype: str, rng: Any, tmp_path: Any) -> None:
    x, t = rng.normal(size=(1300, 37)).astype(dtype), rng.dirichlet(np.ones(37), 1300).astype(dtype)
    weight, near = (
        rng.integers(0, 3, x.shape).astype(dtype),
        {"float16": 1e-3, "float32": 1e-6, "float64": 1e-13}[dtype],
    )
    for which in range(3):
        given = [x, t, weight]
        given[which] = LAYOUTS[layout](given[which], tmp_path)
        if isinstance(loss, RowLoss):
            given[2] = given[2][:, 0]
        got, want = (loss(*some[:2], sample_weight=some[2]) for some in (given, [plain(x) for x in given]))
        assert_same(got[1], want[1], rtol=1e-9 if dtype == "float64" else 1e-6)
        assert_same(got[0], want[0], rtol=near, atol=near)


def plain(x: np.ndarray) -> np.ndarray:
    return np.array(x, x.dtype.newbyteorder("="), order="C")


NO_OUT = {"memory-mapped", "read-only", *(name for name in LAYOUTS if "for all" in name)}


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in NO_OUT])
@pytest.mark.parametrize("loss", [lossreg.SmoothL1(), lossreg.CrossEntropy()], ids=["elements", "rows"])
def test_layouts_of_out(loss: Any, layout: str, rng: Any, tmp_path: Any) -> None:
    x, t = rng.normal(size=(1300, 37)), rng.dirichlet(np.ones(37), 1300)
    out = LAYOUTS[layout](np.full(x.shape, np.nan), tmp_path)
    if layout == "byte-swapped":
        with pytest.raises(ValueError, match="expected out"):
            loss(x, t, out=out)
        return
    grad, value = loss(x, t, out=out)
    assert grad is out
    same_bits((np.array(out), value), loss(x, t))


def peak(f: Callable[[], Any]) -> int:
    """The most bytes that a second call held at once."""
    f()
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BIG = np.zeros((2000, 1000), np.float32)
VIEWS = {
    "contiguous": (BIG[:1000], BIG[1000:]),
    "every other row": (BIG[::2], BIG[1::2]),
    "the first columns": (BIG[:, :500], BIG[:, 500:]),
    "rows and columns": (BIG[::2, :500], BIG[1::2, 500:]),
    "reversed rows": (BIG[999::-1], BIG[:999:-1]),
    "one row for all": (BIG[:1000], np.broadcast_to(BIG[0], (1000, 1000))),
    "one column for all": (BIG[:1000], np.broadcast_to(BIG[:1000, :1], (1000, 1000))),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("loss", [lossreg.Huber(), lossreg.CrossEntropy()], ids=["elements", "rows"])
def test_rows_that_lie_together_are_not_copied(loss: Any, view: str) -> None:
    x, t = VIEWS[view]
    truths = t if isinstance(loss, ElementwiseLoss) else np.zeros(len(x), int)
    assert peak(lambda: loss.get_loss(x, truths)) < x.nbytes / 20


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("loss", [lossreg.Huber(), lossreg.CrossEntropy()], ids=["elements", "rows"])
def test_nothing_of_the_gradients_size_is_made_beside_out(loss: Any, view: str) -> None:
    x, t = VIEWS[view]
    base = np.empty((2 * len(x), 2 * x.shape[1]), np.float32)
    truths = t if isinstance(loss, ElementwiseLoss) else np.zeros(len(x), int)
    for out in (base.reshape(-1)[: x.size].reshape(x.shape), base[::2, : x.shape[1]]):
        assert peak(lambda out=out: loss(x, truths, out=out)) < x.nbytes / 20


with_out = [row for row in TRUE_ROWS if not isinstance(row.sample(np.random.default_rng(0), 3)[0], list)]


@pytest.mark.parametrize("row", with_out, ids=lambda row: row.id)
def test_out_of_guesses_gives_the_same_bits(row: Row, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 60 if row.coupled or row.axis else 9000)
    for dtype in FLOATS[::-1]:
        given = each(lambda x, dtype=dtype: x.astype(dtype), guesses)
        want = loss(given, truths)
        same_bits(loss(given, truths, out=each(np.empty_like, given)), want)
        grad, value = loss(given, truths, out=given)
        assert grad is given
        same_bits((grad, value), want)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("layout", ["contiguous", "every other row", "every other column"])
def test_one_number_outside_of_a_domain_is_found_among_many(layout: str, dtype: str) -> None:
    """Ranges are checked by compiled code where there is much to check."""
    x, t = np.full((9000, 4), 0.5, dtype), np.full((9000, 4), 1.0, dtype)
    x, t = (y if layout == "contiguous" else LAYOUTS[layout](y, None) for y in (x, t))
    loss = lossreg.BinaryCrossEntropy()
    assert loss.get_loss(x, t) == pytest.approx(math.log(2), rel=1e-7)
    for given, what in ((x, "guesses"), (t, "truth values")):
        for bad in (-1e-3, 1.25, math.nan, math.inf, -math.inf):
            for place in ((0, 0), (5000, 2), (8999, 3)):
                before, given[place] = given[place], bad
                with pytest.raises(
                    ValueError, match=rf"expected {what} in \[0, 1\], got .* in row {place[0]}, column {place[1]}"
                ):
                    loss.get_loss(x, t)
                mask = np.ones(x.shape, bool)
                mask[place] = False
                assert loss.get_loss(x, t, mask=mask) == pytest.approx(math.log(2), rel=1e-7)
                given[place] = before


# 6. What is in memory before a call is not in its result


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_memory_that_holds_anything(row: Row, dtype: str, rng: Any, monkeypatch: Any) -> None:
    loss, empty, filling = row.make(), np.empty, 0

    def filled(*args: Any, **kwargs: Any) -> np.ndarray:
        array = empty(*args, **kwargs)
        array.reshape(-1).view(np.uint8)[...] = filling
        return array

    monkeypatch.setattr(np, "empty", filled)
    guesses, truths = row.sample(rng, 67)
    guesses = each(lambda x: x.astype(dtype), guesses)
    results = []
    for filling in (0x00, 0xFF):  # zeros, then NaN
        result = [loss(guesses, truths), loss.get_loss(guesses, truths)]
        if not row.thinc:
            result.append(loss.get_values(guesses, truths))
        results.append(result)
    same_bits(*results)


# 7. What is no formula says so


def takes_an_item(xp: Any, guess: Any, p: Any) -> Any:
    return guess[0] * guess, guess


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "branches on an array": (lambda xp, x, p: (x if x > 0 else -x, x), "may not branch on its arrays"),
    "branches on a float option": (lambda xp, x, p: (x if p > 0 else -x, x), "may not branch on .* float options"),
    "chains comparisons": (lambda xp, x, p: (xp.where(-1.0 < x < 1.0, x, 0.0), x), "may not branch"),
    "uses and": (lambda xp, x, p: (xp.where((x > 0) and (x < 1), x, 0.0), x), "may not branch"),
    "max": (lambda xp, x, p: (max(x, 0.0), x), "may not branch"),
    "a function of NumPy": (lambda xp, x, p: (np.exp(x), x), "does not support ufuncs"),
    "a reduction of NumPy": (lambda xp, x, p: (np.sum(x) + x, x), ""),
    "a mean of NumPy": (lambda xp, x, p: (np.mean(x) + x, x), ""),
    "a product of NumPy": (lambda xp, x, p: (np.dot(x, x) + x, x), ""),
    "where of NumPy": (lambda xp, x, p: (np.where(True, x, -x), x), ""),
    "an array of NumPy": (lambda xp, x, p: (x * np.ones(7), x), ""),
    "math": (lambda xp, x, p: (math.exp(x), x), "must be real number"),
    "a function that xp has not": (lambda xp, x, p: (xp.arctan(x), x), "xp has no arctan"),
    "too many arguments": (lambda xp, x, p: (xp.exp(x, x), x), ""),
    "too few arguments": (lambda xp, x, p: (xp.maximum(x), x), ""),
    "a method of arrays": (lambda xp, x, p: (x.clip(0, 1), x), "no attribute 'clip'"),
    "an item": (takes_an_item, "not subscriptable"),
    "an operator that formulas do not have": (lambda xp, x, p: (x // 2.0, x), "unsupported operand"),
    "numbers where bools belong": (lambda xp, x, p: (xp.where(x & 1, x, 0.0), x), "expected bools"),
    "a number as a condition": (lambda xp, x, p: (xp.where(x, x, 0.0), x), "expected bools"),
    "a function of rows": (lambda xp, x, p: (x - xp.row_max(x), x), ""),
    "no tuple": (lambda xp, x, p: x, "expected a tuple"),
    "a remainder": (lambda xp, x, p: (x % 2.0, x), "unsupported operand"),
    "no slope": (lambda xp, x, p: (x, None), ""),
    "too few parameters": (lambda xp, x: (x, x), "parameters, of which the first is xp, got 2"),
}  # fmt: skip


BOTH = pytest.mark.parametrize("ops", [COMPILED, PLAIN], ids=["compiled", "NumPy"])


@BOTH
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_formula_is_a_type_error_on_every_backend(name: str, ops: Any) -> None:
    formula, message = WRONG[name]
    for _ in range(2):  # the failure is not kept as a kernel
        with pytest.raises(TypeError, match=f"Cannot run {formula.__qualname__}: .*{message}"):
            call(formula, np.linspace(-2, 2, 7), 0.5, ops=ops)


WRONG_OF_ROWS: dict[str, Callable[..., Any]] = {
    "a value for each element": lambda xp, x, ids: (x, x),
    "pick by numbers": lambda xp, x, ids: (xp.pick(x, 1.0 * ids), x),
    "sum of what has no columns": lambda xp, x, ids: (xp.row_sum(xp.row_max(x)), x),
}


@BOTH
@pytest.mark.parametrize("name", WRONG_OF_ROWS)
def test_what_is_no_formula_of_rows_is_a_type_error_on_every_backend(name: str, ops: Any) -> None:
    with pytest.raises(TypeError, match="Cannot run"):
        call(WRONG_OF_ROWS[name], np.zeros((3, 4)), np.zeros(3, int), rows=True, ops=ops)


class Clipped(ElementwiseLoss):
    """A loss of functions of NumPy."""

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any) -> Any:
        """|r| up to 1, with functions of NumPy."""
        residual = np.clip(guess - truth, -1.0, 1.0)
        return np.abs(residual), np.sign(residual) * (np.abs(residual) < 1.0)


@BOTH
def test_a_loss_of_functions_of_numpy_runs_on_no_backend(ops: Any, rng: Any) -> None:
    """What NumPy alone could run would change its meaning, or fail, with a compiler or on a GPU."""
    x, t = rng.normal(size=(40, 1000)), rng.normal(size=(40, 1000))
    with lossreg.use_ops(ops), pytest.raises(TypeError, match=r"Cannot run Clipped\.formula: .* functions of xp: abs,"):
        Clipped()(x, t)


def test_dtypes_that_kernels_cannot_read_run_on_numpy(rng: Any) -> None:
    x, t = rng.normal(size=50).astype(np.longdouble), rng.normal(size=50)
    want = lossreg.Huber()(x.astype(float), t)
    assert_same(lossreg.Huber()(x.astype(float), t.astype(np.longdouble)), want, rtol=1e-14)
    assert_same(lossreg.Huber().get_loss(x, t), want[1], rtol=1e-14)
