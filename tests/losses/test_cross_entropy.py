"""Cross-entropy as training on tokens needs it: MindFormers' CrossEntropyLoss, as it is documented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossreg import ConfigError, CrossEntropy, LossState, NonFiniteLossError, loss
from support.nested import assert_same


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
