"""CrossEntropy and NLL: smoothing, ids that are not known, candidates, confident rows, tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    CategoricalCrossentropy_v4,
    ConfigError,
    CrossEntropy,
    LossState,
    NonFiniteLossError,
    loss,
)
from support.nested import assert_same
from support.table import make


def documented(logits: Any, labels: Any, mask: Any, weight: Any) -> Any:
    """(numerator, denominator) from the formulas of the page: masked sums of w_y nll and of w_y."""
    logits = logits.astype(np.float64)
    nll = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return (nll * weight[labels] * mask).sum(), (weight[labels] * mask).sum()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_per_token_is_numerator_and_denominator(dtype: Any, rng: Any) -> None:
    logits, labels = rng.normal(size=(12, 5)).astype(dtype), rng.integers(0, 5, 12)
    weight, mask = rng.random(5) + 0.5, rng.random(12) * (rng.random(12) < 0.7)
    calculator = CrossEntropy(per_token=True, class_weight=weight)
    grad, state = calculator(logits, labels, mask=mask.reshape(3, 4))
    numerator, denominator = documented(logits, labels, mask, weight)
    assert isinstance(state, LossState)
    rtol = 1e-5 if dtype != np.float64 else 1e-13
    assert_same((state.total, state.count), (numerator, denominator), rtol=rtol)
    assert_same(calculator.get_loss(logits, labels, mask=mask).compute(), numerator / denominator, rtol=rtol)
    assert grad.dtype == dtype
    whole = CrossEntropy(class_weight=weight).get_grad(logits.astype(np.float64), labels, mask=mask)
    assert_same(
        grad,
        whole * denominator,
        rtol=2e-3 if dtype == np.float16 else 1e-5,
        atol=1e-3 if dtype == np.float16 else 1e-6,
    )


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_per_token_needs_a_divisor(reduction: Any) -> None:
    with pytest.raises(ConfigError, match="per_token: needs a reduction that divides"):
        CrossEntropy(per_token=True, reduction=reduction)


def test_batches_per_token_add_up(rng: Any) -> None:
    logits, labels = rng.normal(size=(20, 5)), rng.integers(0, 5, 20)
    mask = rng.random(20) < 0.6
    calculator = CrossEntropy(per_token=True)
    parts = [calculator(logits[p], labels[p], mask=mask[p]) for p in (slice(0, 3), slice(3, 11), slice(11, 20))]
    state = sum(state for _, state in parts)
    whole_grad, whole = CrossEntropy()(logits, labels, mask=mask)
    assert_same(state.compute(), whole, rtol=1e-14)
    assert_same(np.concatenate([grad for grad, _ in parts]) / state.count, whole_grad, rtol=1e-13)


def test_a_mask_of_any_shape_that_flattens(rng: Any) -> None:
    logits, labels = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    mask = rng.random(6)
    for shape in ((6,), (6, 1), (2, 3), (1, 2, 3)):
        assert_same(
            CrossEntropy().get_loss(logits, labels, mask=mask.reshape(shape)),
            CrossEntropy().get_loss(logits, labels, mask=mask),
        )
    with pytest.raises(ValueError, match="expected mask that broadcasts"):
        CrossEntropy().get_loss(logits, labels, mask=np.ones((2, 2)))


def test_the_pages_example() -> None:
    logits = np.array([[3, 5, 6, 9, 12, 33, 42, 12, 32, 72]], np.float32)
    loss = CrossEntropy().get_loss(logits, np.array([1], np.int32), mask=np.ones(1, np.float32))
    assert loss == pytest.approx(67.0, rel=1e-12)


def test_check_finite_names_the_first_bad_rows(rng: Any) -> None:
    logits, labels = rng.normal(size=(9, 3)), np.zeros(9, int)
    calculator = CrossEntropy(check_finite=True)
    assert np.isfinite(calculator.get_loss(logits, labels))
    logits[[1, 4, 5, 6, 7, 8]] = np.nan
    sentence = "The loss of CrossEntropy is not finite in 6 of 9 rows: row 1, row 4, row 5, row 6, row 7 and 1 more."
    for call in (calculator, calculator.get_loss, calculator.get_grad):
        with pytest.raises(NonFiniteLossError) as caught:
            call(logits, labels)
        assert str(caught.value) == sentence
    assert np.isfinite(calculator.get_loss(logits, labels, mask=np.isfinite(logits[:, 0])))
    logits = np.array([[-np.inf, 0.0], [0.0, 0.0]])
    with pytest.raises(NonFiniteLossError, match="not finite in 1 of 2 rows: row 0"):
        calculator.get_loss(logits, [0, 0])
    assert np.isfinite(calculator.get_loss(logits, [1, 0]))
    huge = np.array([[6e4, 0.0]], np.float16)
    with pytest.raises(NonFiniteLossError, match="The gradient of CrossEntropy is not finite in 1 of 1 rows"):
        CrossEntropy(check_finite=True, reduction="sum", class_weight=[1.0, 1e6]).get_grad(huge, [1])


def test_the_k_names_positions_are_kept() -> None:
    assert loss("ce", [0.25, 0.25, 0.12, 0.38], -100, 0.1, "sum") == CrossEntropy(
        class_weight=(0.25, 0.25, 0.12, 0.38), label_smoothing=0.1, reduction="sum"
    )


inf, nan = np.inf, np.nan


@pytest.mark.parametrize("name", ["NLL.v1", "MultiMargin.v1", "CategoricalCrossentropy.v3"])
def test_sets_of_labels_are_refused_where_a_label_is_single(name: str) -> None:
    with pytest.raises(ValueError, match="got a set of 2 in row 0"):
        make(name)(np.full((2, 3), 1 / 3), [{0, 1}, 1])


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("n", [1, 3, 7])
def test_smoothing_without_weights(n: int, rng: Any) -> None:
    """(1 - e) nll_y + e / C sum_c nll_c; Thinc's twin puts e / (C - 1) on each other class."""
    x, y, classes, e = rng.normal(size=(n, 5)), rng.integers(0, 5, n), 5, 0.2
    nll = -log_softmax(x)
    at = nll[np.arange(n), y]
    grad, values = make("CrossEntropy.v1", label_smoothing=e, reduction="none")(x, y)
    assert_same(values, (1 - e) * at + e / classes * nll.sum(axis=1), rtol=1e-13)
    assert_same(grad, np.exp(-nll) - (1 - e) * np.eye(5)[y] - e / classes, atol=1e-14)
    grad, values = make("CategoricalCrossentropy.v4", label_smoothing=e, reduction="none")(np.exp(-nll), y)
    assert_same(values, (1 - e) * at + e / (classes - 1) * (nll.sum(axis=1) - at), rtol=1e-13)
    assert_same(grad, np.exp(-nll) - (1 - e) * np.eye(5)[y] - e / (classes - 1) * (1 - np.eye(5)[y]), atol=1e-14)


@pytest.mark.parametrize("name", ["CrossEntropy.v1", "NLL.v1"])
def test_minus_100_means_not_known(name: str) -> None:
    x = log_softmax(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
    grad, value = make(name)(x, [2, -100])
    assert_same(value, make(name)(x[:1], [2])[1], rtol=1e-15)
    assert not grad[1].any()
    for wrong in (-99, -101, 100, -1, 3):
        with pytest.raises(ValueError, match=f"undeclared id {wrong} in row 1"):
            make(name)(x, [2, wrong])


@pytest.mark.parametrize("bad, more", [(1, ""), (2, ""), (4, ""), (5, ""), (6, " and 1 more"), (12, " and 7 more")])
def test_the_first_five_rows_that_are_not_finite(bad: int, more: str) -> None:
    x = np.zeros((12, 2))
    x[:bad] = nan
    with pytest.raises(lossreg.NonFiniteLossError) as caught:
        make("CrossEntropy.v1", check_finite=True)(x, [0] * 12)
    rows = ", ".join(f"row {i}" for i in range(min(bad, 5)))
    assert str(caught.value) == f"The loss of CrossEntropy is not finite in {bad} of 12 rows: {rows}{more}."


def test_a_class_of_weight_zero_costs_nothing() -> None:
    """Also where its log-probability is -inf."""
    x = np.array([[-inf, -1.0], [-1.0, -2.0]])
    loss = make("NLL.v1", class_weight=[0.0, 2.0], reduction="sum")
    assert_same(loss.get_values(x, [0, 1]), np.array([0.0, 4.0]))
    assert_same(loss(x, [0, 1]), (np.array([[0.0, 0.0], [0.0, -2.0]]), 4.0))
    assert_same(loss.get_loss(x[1:], [0]), 0.0)


@pytest.mark.parametrize(
    ("x", "members"),
    [
        ([50.0, 0.0, -3.0, 1.5], {0}), ([50.0, 0.0, -3.0, 1.5], {1}), ([99.0, 0.0, 2.0, 99.0], {2}),
        ([50.0, 49.0, -3.0, 1.5], {0, 1}), ([1.0, 0.5, -3.0, 1.5], {0, 3}), ([50.0, 49.0, -3.0, 1.5], {0, 3}),
        ([-1.0, -2.0, 60.0, 59.0], {0, 1}), ([-1.0, -2.5, 75.0, 3.0], {0, 1}), ([-5.0, -7.0, 735.0, 734.0], {1, 0}),
        ([-1.0, -2.5, 800.0, 799.0], {0, 1}), ([-1e4, -1e4, 0.0, -1e4], {0, 1, 3}), ([1e5, 1e5, 0.0, 1e5], {2}),
    ],
)  # fmt: skip
def test_cross_entropy_of_confident_rows_and_of_candidates_far_below(
    x: list[float], members: Any, backend: Any
) -> None:
    """Value and slope, p - q, to rounding; mpmath with 60 digits."""
    mp = pytest.importorskip("mpmath", reason="mpmath is not installed: pip install mpmath")
    with mp.workdps(60):
        e = [mp.exp(mp.mpf(v)) for v in x]
        inside = mp.fsum(e[i] for i in members)
        outside = mp.fsum(v for i, v in enumerate(e) if i not in members)
        value = float(mp.log1p(outside / inside))
        share = [v / inside * (i in members) for i, v in enumerate(e)]
        grad = np.array([[float(a / mp.fsum(e) - b) for a, b in zip(e, share)]])
    truths = [members] if len(members) > 1 else [*members]
    found = make("CrossEntropy.v1")(np.array([x]), truths)
    assert_same(found, (grad, value), rtol=1e-14)


def test_cross_entropy_of_candidates_that_cannot_be(backend: Any) -> None:
    """They share the slope evenly; of the class weight 0 they cost nothing, nor does a single label."""
    x, truths = np.array([[-inf, -inf, 0.0, 0.0]]), [{0, 1}]
    half = np.array([[-0.5, -0.5, 0.5, 0.5]])
    assert_same(make("CrossEntropy.v1")(x, truths), (half, inf))
    none = make("CrossEntropy.v1", class_weight=[0.0, 0.0, 1.0, 1.0], reduction="sum")
    for zero in (truths, [1]):
        assert_same(none(x, zero), (np.zeros((1, 4)), 0.0))
    p = np.array([[0.0, 0.0, 0.5, 0.5]])
    loss = make("CategoricalCrossentropy.v4", wrt="logits")
    assert_same(loss.get_grad(p, truths), half)
    assert_same(loss.get_grad(p, [1]), np.array([[0.0, -1.0, 0.5, 0.5]]))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_cross_entropy_that_looks_for_what_is_not_finite(reduction: str, backend: Any, rng: Any) -> None:
    """It changes no number."""
    x, ids = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    plain, checking = (make("CrossEntropy.v1", reduction=reduction, check_finite=check) for check in (False, True))
    assert_same(checking(x, ids), plain(x, ids))
    assert_same(checking.get_loss(x, ids), plain.get_loss(x, ids))
    assert_same(checking.get_values(x, ids), plain.get_values(x, ids))


def test_square_class_axis_in_the_middle(rng: Any) -> None:
    x, y = rng.normal(size=(3, 3, 3)), rng.integers(0, 3, (3, 3))
    grad = loss("ce").get_grad(x, y)
    flat = loss("ce").get_grad(np.moveaxis(x, 1, -1).reshape(9, 3), y.ravel())
    assert_same(grad, np.moveaxis(flat.reshape(3, 3, 3), -1, 1), rtol=1e-14)


def test_a_class_of_weight_zero_may_be_impossible() -> None:
    assert loss("nll", [0.0, 1.0]).get_loss(np.array([[-np.inf, 0.0], [-1.0, -0.5]]), [0, 1]) == 0.5


def test_values_of_a_calculator_per_token(rng: Any) -> None:
    x = rng.normal(size=(4, 3))
    assert_same(loss("ce", per_token=True).get_values(x, [0, 1, 2, 0]), loss("ce").get_values(x, [0, 1, 2, 0]))


@pytest.mark.parametrize("make", [CrossEntropy, CategoricalCrossentropy_v4])
def test_half_precision_truths_cost_no_precision(make: Any, rng: Any) -> None:
    guesses = rng.dirichlet(np.ones(3), 5)
    guesses = np.log(guesses) if make is CrossEntropy else guesses
    loss = make(class_weight=[1e5, 0.3, 0.7], reduction="sum")
    ids = [0, 1, 2, 1, 0]
    for dtype in (np.float16, np.float32, np.int64):
        assert_same(loss(guesses, np.eye(3)[ids].astype(dtype)), loss(guesses, np.eye(3)[ids]), rtol=1e-14)


def test_minus_infinity_where_it_is_legal() -> None:
    inf = np.inf
    masked = CrossEntropy(class_weight=[0.0, 1.0, 1.0])
    assert masked.get_loss(np.array([[-inf, 0.0, 0.0], [0.0, 0.0, 0.0]]), [0, 1]) == pytest.approx(np.log(3))
    impossible = np.array([[-inf, -inf, 0.0]])
    assert CrossEntropy(label_smoothing=1.0).get_loss(impossible, [0]) == inf
    grad, loss = CrossEntropy()(impossible, [{0, 1}])
    assert loss == inf
    assert_same(grad, np.array([[-0.5, -0.5, 1.0]]))
    assert_same(CrossEntropy().get_grad(impossible, [0]), np.array([[-1.0, 0.0, 1.0]]))


def test_a_logit_of_plus_infinity_is_a_certain_class() -> None:
    """The limit of a growing logit: no loss where that class is the truth, and no end of it elsewhere."""
    x = np.array([[0.0, np.inf, 1.0]] * 2)
    grad, values = CrossEntropy(reduction="none")(x, [1, 0])
    assert_same(values, np.array([0.0, np.inf]))
    assert_same(grad, np.array([[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]))
    assert_same(CrossEntropy(reduction="none")(x, [{1, 2}, {0, 2}])[1], np.array([0.0, np.inf]))
    assert_same(CrossEntropy(reduction="none")(x, np.eye(3)[[1, 0]]), (grad, values))
    assert np.isnan(CrossEntropy().get_loss(np.array([[np.inf, np.inf]]), [0])), "which of the two is not known"
