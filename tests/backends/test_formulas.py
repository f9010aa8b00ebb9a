"""Whatever a user writes as a formula means the same on every backend, and touches nothing that is not its own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    ElementwiseLoss,
    RowLoss,
)
from lossreg.ops import get_ops
from lossreg.pipeline.reduced import TargetBatch
from support.nested import assert_same

try:
    BACKENDS = [get_ops("numpy"), get_ops("llvm")]
except ImportError:
    BACKENDS = [get_ops("numpy")]

each_backend = pytest.mark.parametrize("ops", BACKENDS, ids=lambda ops: ops.name)


def run(
    ops: Any,
    formula: Any,
    guesses: Any,
    *others: Any,
    rows: bool = False,
    static_options: tuple[Any, ...] = (),
    **more: Any,
) -> Any:
    """(values, total, gradients) of a formula."""
    guesses = guesses if isinstance(guesses, tuple) else (guesses,)
    out = more.pop("out", None) or [np.empty_like(x) for x in guesses]
    with np.errstate(all="ignore"):
        values, total = ops.run(
            formula, guesses, others, more.pop("weight", None), 1.0, static_options=static_options, rows=rows, values=True, total=True, out=out
        )  # fmt: skip
    return values, total, out


# 1. What a formula reads and writes


@each_backend
def test_assignments_in_place_are_names_of_the_formula_alone(ops: Any) -> None:
    def formula(xp: Any, guess: Any, truth: Any) -> Any:
        guess -= truth
        truth *= 3.0
        return guess * guess, 2.0 * guess

    x, t = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.5, 0.5])
    values, _, (grad,) = run(ops, formula, x, t)
    np.testing.assert_array_equal(values, [0.25, 2.25, 12.25])
    np.testing.assert_array_equal(grad, [1.0, 3.0, 7.0])
    np.testing.assert_array_equal(x, [1.0, 2.0, 4.0])
    np.testing.assert_array_equal(t, [0.5, 0.5, 0.5])


@each_backend
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("size", [5, 40_000])
def test_results_are_written_when_all_has_been_read(ops: Any, size: int, swapped: bool, rng: Any) -> None:
    """The gradient of one guess is the other guess, and both are written where guesses lie."""

    class Product(ElementwiseLoss):
        inputs = ("a", "b")
        truth_inputs = ()

        @staticmethod
        def formula(xp: Any, a: Any, b: Any) -> Any:
            return a * b, b, a

    a, b = rng.normal(size=size), rng.normal(size=size)
    loss = Product(reduction="sum")
    with lossreg.use_ops(ops):
        want = loss((a.copy(), b.copy()))
        out = (b, a) if swapped else (a, b)
        grad, value = loss((a, b), out=out)
    assert value == want[1]
    for got, expected in zip(grad, want[0]):
        np.testing.assert_array_equal(got, expected)


@each_backend
def test_values_are_no_array_of_the_caller(ops: Any) -> None:
    x = np.array([[1.0, 2.0]])
    values, _, (grad,) = run(ops, lambda xp, x: (x, 1.0), x)
    assert not np.may_share_memory(values, x)
    np.testing.assert_array_equal(grad, 1.0)


# 2. Shapes and ids are checked before anything is read


def double(xp: Any, x: Any, *others: Any) -> Any:
    return sum((xp.row_sum(y * 1.0) for y in others), xp.row_sum(x)), 2.0 * x


WRONG_SHAPES = [(6, 1), (3,), (2, 3), (6, 2), (6, 4), (1, 2), (6, 3, 1), (2, 1), (0,), (1, 1)]


@each_backend
@pytest.mark.parametrize("shape", WRONG_SHAPES, ids=str)
def test_an_argument_of_a_wrong_shape_is_refused(ops: Any, shape: tuple[int, ...]) -> None:
    message = r"Cannot run double: expected .*\(?argument 2\)? of shape \(6,\), \(6, 3\) or \(1, 3\), .* got shape \("
    with pytest.raises(ValueError, match=message):
        run(ops, double, np.ones((6, 3)), np.ones(shape), rows=True)


@each_backend
@pytest.mark.parametrize("shape", [(), (6,), (6, 3), (1, 3)], ids=str)
def test_arguments_that_fit(ops: Any, shape: tuple[int, ...], rng: Any) -> None:
    x, y = rng.normal(size=(6, 3)), rng.normal(size=shape)
    formula = lambda xp, x, y: (xp.row_sum(x * y), x * y)  # noqa: E731
    values, total, (grad,) = run(ops, formula, x, y, rows=True)
    want = x * (y[:, None] if y.shape == (6,) else y)
    np.testing.assert_allclose(grad, want, rtol=1e-15)
    np.testing.assert_allclose(values[:, 0], want.sum(axis=1), rtol=1e-13, atol=1e-15)
    assert total == pytest.approx(want.sum(), rel=1e-13)


@each_backend
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (6, 1), (1,), (18,), (6, 3, 1)], ids=str)
def test_a_further_guess_of_another_shape_is_refused(ops: Any, rows: bool, shape: tuple[int, ...]) -> None:
    formula = lambda xp, a, b: (1.0, a, b)  # noqa: E731
    with pytest.raises(ValueError, match=r"expected guess 2 of shape \(6, 3\), that of guess 1, got shape"):
        run(ops, formula, (np.ones((6, 3)), np.ones(shape)), rows=rows, out=[np.ones((6, 3)), np.ones((6, 3))])


@each_backend
@pytest.mark.parametrize("shape", [(5, 3), (6, 2), (7, 3), (3, 6)], ids=str)
def test_an_out_of_another_shape_is_refused(ops: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected out of shape \(6, 3\)"):
        run(ops, double, np.ones((6, 3)), rows=True, out=[np.ones(shape)])


@each_backend
@pytest.mark.parametrize("shape", [(5, 3), (6,), (2, 6, 3)], ids=str)
def test_arrays_that_do_not_broadcast_are_refused(ops: Any, shape: tuple[int, ...]) -> None:
    formula = lambda xp, x, t: (x - t, 1.0)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"expected .*\(?argument 2\)? to broadcast to \(6, 3\), as the guesses are, got shape"
    ):
        run(ops, formula, np.ones((6, 3)), np.ones(shape))


@each_backend
@pytest.mark.parametrize("bad", [-1, 3, -(2**40), 2**40])
@pytest.mark.parametrize("rows", [6, 30_000])
def test_ids_outside_of_a_row_are_refused(ops: Any, rows: int, bad: int) -> None:
    ids = np.zeros(rows, np.int64)
    ids[rows - 2] = bad
    formula = lambda xp, x, ids: (xp.pick(x, ids), x)  # noqa: E731
    message = rf"expected ids for xp.pick in \[0, 3\), got {bad} in row {rows - 2}"
    with pytest.raises(ValueError, match=message):
        run(ops, formula, np.ones((rows, 3)), ids, rows=True)


@each_backend
def test_an_id_outside_of_a_row_that_is_picked_by_nobody_means_no_column(ops: Any) -> None:
    formula = lambda xp, x, ids: (xp.row_sum(xp.where(xp.columns(x) == ids, x, 0.0)), x)  # noqa: E731
    values, _, _ = run(ops, formula, np.ones((2, 3)), np.array([1, -7]), rows=True)
    np.testing.assert_array_equal(values[:, 0], [1.0, 0.0])


class TwoInputs(RowLoss):
    """A loss of a user, who checks nothing."""

    inputs = ("a", "b")
    truth_inputs = ()

    def read_truths(self, batch: Any, truths: Any, check: bool) -> TargetBatch:
        return TargetBatch(None)

    def arguments(self, batch: Any, truths: TargetBatch) -> tuple[Any, ...]:
        return ()

    @staticmethod
    def formula(xp: Any, a: Any, b: Any) -> Any:
        return xp.row_sum(a * b), b, a


@each_backend
def test_a_calculator_of_a_user_cannot_read_beyond_its_inputs(ops: Any) -> None:
    with lossreg.use_ops(ops), pytest.raises(ValueError, match=r"Cannot run TwoInputs.formula: expected guess 2"):
        TwoInputs()((np.ones((6, 3)), np.ones((2, 3))))


# 3. The same meaning everywhere

MEANINGS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "a sum of bools counts": (lambda xp, x: ((x > 1) + (x > 2), 1.0), lambda x: 1.0 * (x > 1) + (x > 2)),
    "a function of bools": (lambda xp, x: (xp.exp(x > 1), 1.0), lambda x: np.exp(1.0 * (x > 1))),
    "a bool times a number": (lambda xp, x: (3.0 * (x > 1) - (x > 2), 1.0), lambda x: 3.0 * (x > 1) - 1.0 * (x > 2)),
    "a number to a power": (lambda xp, x: (2.0**x, 1.0), lambda x: 2.0**x),
    "a negative power of a negative number": (lambda xp, x: (x**-3, 1.0), lambda x: x**-3.0),
    "one to infinity": (lambda xp, x: ((0.0 * x + 1.0) ** math.inf, 1.0), np.ones_like),
    "one to NaN": (lambda xp, x: ((0.0 * x + 1.0) ** math.nan, 1.0), np.ones_like),
    "minus one to infinity": (lambda xp, x: ((0.0 * x - 1.0) ** math.inf, 1.0), np.ones_like),
    "minus infinity to 1.5": (lambda xp, x: ((0.0 * x - math.inf) ** 1.5, 1.0), lambda x: np.full_like(x, math.inf)),
    "minus infinity to -1.5": (lambda xp, x: ((0.0 * x - math.inf) ** -1.5, 1.0), np.zeros_like),
}


@each_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MEANINGS)
def test_what_expressions_mean(name: str, dtype: str, ops: Any) -> None:
    formula, meaning = MEANINGS[name]
    x = np.array([-2.5, -1.0, 0.5, 1.0, 1.5, 2.5, 3.0], dtype)
    with np.errstate(all="ignore"):
        want = meaning(x.astype(np.float64))
    np.testing.assert_allclose(run(ops, formula, x)[0], want, rtol=3e-6 if dtype == "float32" else 1e-14)


@each_backend
def test_an_option_below_one_is_not_above_it(ops: Any) -> None:
    """NumPy's ~ of Python's False is -1, which is true."""
    formula = lambda xp, x, p: (xp.where(~(p < 1.0), x, 0.0), x)  # noqa: E731
    np.testing.assert_array_equal(run(ops, formula, np.ones(3), 0.5)[0], 0.0)
    np.testing.assert_array_equal(run(ops, formula, np.ones(3), 1.5)[0], 1.0)


CONSTANTS = [True, 1, 1.0, False, 0, 0.0, -0.0, math.nan, (1,), (True,), (1.0,), ((0.0,),), ((-0.0,),), "1", None]


def by_constant(xp: Any, x: Any, constant: Any) -> Any:
    position = next(i for i, c in enumerate(CONSTANTS) if repr(c) == repr(constant))
    return x * 0.0 + position, x


@each_backend
def test_constants_that_compare_equal_are_not_the_same(ops: Any) -> None:
    for _ in range(2):
        for i, constant in enumerate(CONSTANTS):
            values = run(ops, by_constant, np.ones(3), static_options=(constant,))[0]
            np.testing.assert_array_equal(values, i, err_msg=repr(constant))


@each_backend
def test_options_that_compare_equal_are_not_the_same(ops: Any) -> None:
    class Switched(ElementwiseLoss):
        how: bool | int | str = True
        limits: tuple[float, float] = (0.0, 1.0)

        @staticmethod
        def formula(xp: Any, guess: Any, truth: Any, how: Any, limits: Any) -> Any:
            low, high = limits
            factor = 100.0 if how is True else 10.0 if how == 1 else 3.0
            return xp.minimum(xp.maximum(guess, low), high) * factor, 0.0 * guess

    x = np.array([-1.0, 0.5, 7.0])
    with lossreg.use_ops(ops):
        for how, factor in [(True, 100.0), (1, 10.0), ("1", 3.0), (True, 100.0)]:
            for limits in [(0.0, 1.0), (-2.0, 5.0)]:
                loss = Switched(how=how, limits=limits, reduction="none")
                np.testing.assert_array_equal(loss.get_loss(x, x), np.clip(x, *limits) * factor)


SCALE = 2.0


def helper(xp: Any, x: Any) -> Any:
    return SCALE * x


@each_backend
def test_what_lies_around_a_formula_may_change(ops: Any, monkeypatch: Any) -> None:
    here = 1.0

    def formula(xp: Any, x: Any) -> Any:
        return helper(xp, x) + here, x

    x = np.ones(3)
    np.testing.assert_array_equal(run(ops, formula, x)[0], 3.0)
    here = 10.0
    np.testing.assert_array_equal(run(ops, formula, x)[0], 12.0)
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    np.testing.assert_array_equal(run(ops, formula, x)[0], 15.0)
    monkeypatch.setitem(globals(), "helper", lambda xp, x: -x)
    np.testing.assert_array_equal(run(ops, formula, x)[0], 9.0)


@each_backend
def test_an_argument_that_is_none_of_the_kinds(ops: Any) -> None:
    with pytest.raises(TypeError, match="expected arrays, numbers and hashable values, got a list"):
        run(ops, lambda xp, x, t: (x, x), np.ones(3), [1, 2, 3])


@each_backend
@pytest.mark.parametrize("weight", [2, np.array(2), np.array(2, np.uint8), True, 0.5])
def test_one_number_with_a_mask_and_a_weight(ops: Any, weight: Any) -> None:
    with lossreg.use_ops(ops):
        grad, value = lossreg.MeanSquaredError()(
            np.array(3.0), np.array(1.0), mask=np.array(True), sample_weight=weight
        )
    assert (float(grad), value) == (4.0 * float(weight), 4.0 * float(weight))


# 4. Numbers


@each_backend
@pytest.mark.parametrize(
    "option, acts_as", [(1e-300, 2.0**-126), (1e300, 3.4028234663852886e38), (-1e-300, -(2.0**-126))]
)
def test_an_option_that_float32_cannot_hold_counts_as_the_nearest_number(
    ops: Any, option: float, acts_as: float
) -> None:
    values = run(ops, lambda xp, x, p: (p / p * x, p * x), np.ones(3, np.float32), option)
    np.testing.assert_array_equal(values[0], 1.0)
    np.testing.assert_array_equal(values[2][0], np.float32(acts_as))
    assert run(ops, lambda xp, x, p: (p * x, x), np.ones(3), option)[0][0] == option


@each_backend
def test_an_epsilon_that_float32_cannot_hold_gives_no_nan(ops: Any) -> None:
    x = np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)
    with lossreg.use_ops(ops):
        grad, value = lossreg.CosineSimilarity(eps=1e-300, reduction="mean")((x, x))
        assert np.isfinite(grad[0]).all()
        assert value == pytest.approx(0.5)


@each_backend
def test_a_softcap_that_float32_cannot_hold_gives_no_nan(ops: Any) -> None:
    x = np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)
    with lossreg.use_ops(ops):
        layer = (x, np.eye(2, dtype=np.float32))
        value = lossreg.LinearCrossEntropy(softcap=1e300).get_loss(layer, [0, 1])
        assert value == pytest.approx(lossreg.LinearCrossEntropy().get_loss(layer, [0, 1]), rel=1e-5)


@each_backend
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"softcap": 100.0, "z_loss": 0.0}], ids=str)
def test_cross_entropy_is_not_negative(ops: Any, options: dict[str, Any], bias: bool) -> None:
    """The label's logit is computed as all others are: one that is the largest is not above it by rounding."""
    rng = np.random.default_rng(0)
    loss = lossreg.LinearCrossEntropy(reduction="none", **options)
    with lossreg.use_ops(ops):
        for _ in range(300):
            x, weight, added = (rng.normal(size=s).astype(np.float32) for s in ((4, 3), (6, 3), (6,)))
            layer = (x * 30, weight, added) if bias else (x * 30, weight)
            truths = np.argmax(x @ weight.T + (added if bias else 0.0), axis=1)
            assert (loss.get_loss(layer, truths) >= 0.0).all()


@each_backend
def test_a_nan_that_no_state_reads_stays_out_of_an_alignment(ops: Any) -> None:
    rng = np.random.default_rng(0)
    x = np.log(rng.dirichlet(np.ones(5), size=(9, 2)))
    x[:, :, 0] = np.nan
    targets = (np.array([[2, 3], [4, 4]]), None, None)
    with lossreg.use_ops(ops):
        grad, value = lossreg.CTC(blank=1)(x, targets)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@each_backend
def test_one_number_broadcasts_to_one_number(ops: Any) -> None:
    with lossreg.use_ops(ops):
        loss = lossreg.BinaryCrossEntropyWithLogits(pos_weight=[2.5])
        assert loss.get_loss(np.array(0.3), np.array(1.0)) == pytest.approx(2.5 * math.log1p(math.exp(-0.3)))
        grads = lossreg.MarginRanking().get_grad((np.array(0.3), np.array([0.1, 0.5])), np.array(1.0))
        assert [type(x) for x in grads] == [np.ndarray, np.ndarray]


@each_backend
@pytest.mark.parametrize(
    "argument, got",
    [
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "a masked array"),
        (np.array(["1", "2"]), r"a <U1 array of shape \(2,\)"),
        (np.array(["2026-01-01", "NaT"], "M8[D]"), r"a datetime64\[D\] array"),
        (np.array([1j, 2.0]), r"a complex128 array"),
        (np.array([1, None]), r"a object array"),
    ],
    ids=["masked", "text", "dates", "complex", "objects"],
)
def test_an_argument_that_holds_no_real_numbers_is_refused(ops: Any, argument: Any, got: str) -> None:
    formula = lambda xp, x, w: (xp.row_sum(x * w), x * w)  # noqa: E731
    with pytest.raises(TypeError, match=rf"expected .*\(?argument 2\)? to be an array of real numbers, got {got}"):
        run(ops, formula, np.ones((2, 3)), argument, rows=True)


@each_backend
def test_a_matrix_is_an_array(ops: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix(np.full((2, 3), 2.0))
    formula = lambda xp, x, w: (xp.row_sum(x * w), x * w)  # noqa: E731
    np.testing.assert_array_equal(run(ops, formula, np.ones((2, 3)), matrix, rows=True)[0], 6.0)


# Numbers in the place of arrays


def test_a_formula_may_return_numbers(rng: Any) -> None:
    class Linear(ElementwiseLoss):
        """Its slope is a number."""

        @staticmethod
        def formula(xp: Any, guess: Any, truth: Any) -> Any:
            return guess - truth, 1.0

    x = rng.normal(size=(4, 3))
    for mask in (None, np.ones((4, 1)), np.zeros((4, 1), bool)):
        grad, value = Linear(reduction="sum")(x, x * 0, mask=mask)
        kept = 1.0 if mask is None or mask.all() else 0.0
        assert_same(grad, np.full((4, 3), kept))
        assert value == pytest.approx(x.sum() * kept)
    assert Linear(reduction="none").get_loss(x, x).shape == (4, 3)
