"""What the pipeline promises beside the laws: `out`, nothing to do, weights of what is left out, warnings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from lossreg import (
    BinaryCrossEntropyWithLogits,
    CategoricalCrossentropy,
    CategoricalCrossentropy_v4,
    CosineDistance,
    CrossEntropy,
    ElementwiseLoss,
    Huber,
    InfoNCE,
    L2Distance,
    MeanSquaredError,
    SequenceCategoricalCrossentropy,
    SequenceCategoricalCrossentropy_v4,
)
from support.nested import assert_same

SIZE = 60_001
"""More than one block of NumPy's backend."""


@pytest.mark.parametrize("loss", [MeanSquaredError(), Huber(delta=0.3)])
def test_out_may_overlap_what_is_read(loss: Any, rng: Any) -> None:
    memory, truths = rng.normal(size=SIZE), rng.normal(size=SIZE - 1)
    expected = loss(memory[:-1].copy(), truths)
    for view in (slice(1, None), slice(None, 0, -1)):
        own = memory.copy()
        assert_same(loss(own[:-1], truths, out=own[view]), expected, rtol=1e-13)
    square = rng.normal(size=(250, 250))
    expected = loss(square.copy(), square + 1)
    assert_same(loss(square, square + 1, out=square.T), expected, rtol=1e-13)
    for shared in ("truths", "weights", "guesses and truths"):
        guesses, truths, weights = rng.normal(size=(3, SIZE))
        expected = loss(guesses, guesses * 1 if "and" in shared else truths, sample_weight=abs(weights))
        if "and" in shared:
            assert_same(loss(guesses, guesses, sample_weight=abs(weights), out=guesses), expected, rtol=1e-13)
        elif shared == "truths":
            assert_same(loss(guesses, truths, sample_weight=abs(weights), out=truths), expected, rtol=1e-13)
        else:
            weights = abs(weights)
            assert_same(loss(guesses, truths, sample_weight=weights, out=weights), expected, rtol=1e-13)


def test_out_may_be_the_truths_of_a_row_loss(rng: Any) -> None:
    logits, truths = rng.normal(size=(3000, 20)), rng.dirichlet(np.ones(20), 3000)
    expected = CrossEntropy()(logits, truths)
    assert_same(CrossEntropy()(logits, truths, out=truths), expected, rtol=1e-13)
    logits, memory = rng.normal(size=(3001, 20)), rng.normal(size=(3002, 20))
    memory[:-1] = logits
    ids = rng.integers(0, 20, 3001)
    expected = CrossEntropy()(logits, ids)
    assert_same(CrossEntropy()(memory[:-1], ids, out=memory[1:]), expected, rtol=1e-13)


def test_outs_of_two_outputs_may_be_swapped(rng: Any) -> None:
    queries, keys = rng.normal(size=(2, 5, 3))
    expected = InfoNCE()((queries, keys))
    q, k = queries.copy(), keys.copy()
    assert_same(InfoNCE()((q, k), out=(k, q)), expected, rtol=1e-13)


@pytest.mark.parametrize(
    "loss",
    [
        MeanSquaredError(), BinaryCrossEntropyWithLogits(class_weight=[1.0, 2.0]), CrossEntropy(class_weight=[1.0, 2.0]),
        SequenceCategoricalCrossentropy(label_smoothing=0.1), SequenceCategoricalCrossentropy_v4(class_weight=[1.0, 2.0]),
    ],
)  # fmt: skip
def test_no_sequences_give_no_gradients_and_zero(loss: Any) -> None:
    assert loss([], []) == ([], 0.0)
    assert loss.get_grad([], []) == []
    assert loss.get_loss([], []) == 0.0
    with pytest.raises(ValueError, match="to be a list of 0"):
        loss([], [[0]])


def test_nothing_in_thincs_calculator_with_smoothing() -> None:
    grad, loss = CategoricalCrossentropy(label_smoothing=0.1)(np.zeros((0, 1)), [])
    assert grad.shape == (0, 1)
    assert loss == 0.0


@pytest.mark.parametrize("truths", [np.array([1, 2, 1]), ["b", "c", "b"], [{"b"}, {"c"}, {"b"}], np.array([1, 2, 99])])
def test_the_class_of_a_masked_item_does_not_count(truths: Any) -> None:
    loss = CrossEntropy(
        class_weight=[5.0, 1.0, 1.0], names=["a", "b", "c"], reduction="weighted_mean", normalize_by="values"
    )
    assert loss.get_state(np.zeros((3, 3)), truths, mask=[1, 1, 0]).count == 3.0


def test_weight_zero_deletes_nothing_and_a_mask_does(rng: Any) -> None:
    q, k = rng.normal(size=(2, 3, 4))
    loss = InfoNCE(reduction="none")
    nearly = loss.get_loss((q, k), sample_weight=[1, 1, 1e-30])
    assert_same(loss.get_loss((q, k), sample_weight=[1, 1, 0]), [*nearly[:2], 0.0], rtol=1e-13)
    assert_same(loss.get_loss((q, k), mask=[1, 1, 0])[:2], loss.get_loss((q[:2], k[:2])), rtol=1e-13)


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


def test_no_warnings_leak(rng: Any) -> None:
    big = np.array([[6e4, -6e4, 1.0]] * 2, dtype=np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MeanSquaredError(reduction="none")(big, -big)
        CrossEntropy(reduction="none")(big, [0, 1])
        CrossEntropy().get_values(big, [1, 0])
        for x in (big.astype("f4") * 1e30, big * np.inf, big * 1e-7, np.zeros((2, 0))):
            L2Distance()(x, -x)
            CosineDistance()(x, -x)
        for x in (np.full((2, 3), np.inf), np.full((2, 3), 5e-324), np.full((2, 3), 1e-7, np.float16)):
            InfoNCE(temperature=1e-3)((x, x))


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


def test_a_logit_of_plus_infinity_is_a_certain_class() -> None:
    """The limit of a growing logit: no loss where that class is the truth, and no end of it elsewhere."""
    x = np.array([[0.0, np.inf, 1.0]] * 2)
    grad, values = CrossEntropy(reduction="none")(x, [1, 0])
    assert_same(values, np.array([0.0, np.inf]))
    assert_same(grad, np.array([[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]))
    assert_same(CrossEntropy(reduction="none")(x, [{1, 2}, {0, 2}])[1], np.array([0.0, np.inf]))
    assert_same(CrossEntropy(reduction="none")(x, np.eye(3)[[1, 0]]), (grad, values))
    assert np.isnan(CrossEntropy().get_loss(np.array([[np.inf, np.inf]]), [0])), "which of the two is not known"
