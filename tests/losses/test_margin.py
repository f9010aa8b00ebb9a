"""Losses with a margin: MarginRanking, MultiMargin and MultiLabelMargin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossreg import functional, loss
from support.nested import assert_same
from support.table import make


def test_margins_are_compiled_for_few_numbers_of_labels() -> None:
    loss, x = make("MultiLabelMargin.v1"), np.zeros((2, 20))
    for most, width in ((0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16)):
        _, _, ids = loss.read_truths(loss.read_guesses(x), [set(range(most)), set()], True).targets
        assert ids.shape == (2, width)


@pytest.mark.parametrize("most", [0, 1, 3, 7, 8, 9, 16, 17, 20])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_margins_of_many_labels(most: int, dtype: Any, backend: Any, rng: Any) -> None:
    """Any number of labels, against all pairs one by one."""
    x = rng.normal(size=(5, 20)).astype(dtype)
    sets = [set(rng.permutation(20)[:n].tolist()) for n in (most, most // 2, 0, min(most, 1), most)]
    values, slopes = np.zeros(5), np.zeros((5, 20))
    for row, labels in enumerate(sets):
        for j in labels:
            for i in set(range(20)) - labels:
                gap = 1.0 - (float(x[row, j]) - float(x[row, i]))
                if gap > 0.0:
                    values[row] += gap / 20
                    slopes[row, i] += 1 / 20
                    slopes[row, j] -= 1 / 20
    loss, rtol = make("MultiLabelMargin.v1", reduction="sum"), 2e-3 if dtype == np.float16 else 1e-13
    grad, total = loss(x, sets, sample_weight=[1.0, 2.0, 1.0, 1.0, 0.5])
    weight = np.array([1.0, 2.0, 1.0, 1.0, 0.5])
    assert_same((total, grad), (values @ weight, (slopes * weight[:, None]).astype(dtype)), rtol=rtol, atol=1e-15)
    assert_same(loss.get_loss(x, sets), values.sum(), rtol=rtol)
    assert_same(loss.get_grad(x, sets), slopes.astype(dtype), rtol=rtol, atol=1e-15)
    assert_same(loss.get_values(x, sets), values.astype(dtype), rtol=rtol)


def test_broadcast_gradients_that_half_precision_cannot_hold_are_infinite() -> None:
    x, y = np.ones((1, 2), np.float16), np.ones((4, 2), np.float16)
    with np.errstate(all="raise"):
        a, b = make("MarginRanking.v1", margin=1.0, reduction="sum").get_grad(
            (x, y), np.ones((4, 2)), sample_weight=np.float64(1e8)
        )
    assert np.isinf(a).all() and np.isinf(b).all() and a.shape == (1, 2)


def test_label_sets_of_sequences(rng: Any) -> None:
    guesses = [rng.normal(size=(2, 3)), rng.normal(size=(0, 3)), rng.normal(size=(1, 3))]
    flat = np.concatenate(guesses)
    for alias in ("multilabel", "multisoft"):
        calculator = loss(alias)
        expected = calculator(flat, [{0}, {1, 2}, None])
        grads, value = calculator(guesses, [[{0}, [1, 2]], [], [None]])
        assert_same(value, expected[1])
        assert_same(np.concatenate(grads), expected[0])
    ids = [np.array([[0, -1, -1], [1, 2, -1]]), np.zeros((0, 3), int), np.array([[-1, -1, -1]])]
    assert_same(loss("multilabel").get_loss(guesses, ids), loss("multilabel").get_loss(flat, [{0}, {1, 2}, set()]))


def test_plain_lists_as_the_pages_of_others_write_them() -> None:
    """torch's documentation of MultiLabelMarginLoss: 0.25 * ((1-(0.1-0.2)) + (1-(0.1-0.4)) + (1-(0.8-0.2)) + (1-(0.8-0.4)))."""
    expected = 0.25 * ((1 - (0.1 - 0.2)) + (1 - (0.1 - 0.4)) + (1 - (0.8 - 0.2)) + (1 - (0.8 - 0.4)))
    x = [[0.1, 0.2, 0.4, 0.8]]
    for truths in ([[3, 0, -1, 1]], np.array([[3, 0, -1, 1]]), [{0, 3}], [(3, 0)]):
        assert functional.multilabel(x, truths) == pytest.approx(expected)
    assert (
        functional.multilabel(x[0], {0, 3})
        == functional.multilabel(x[0], np.array([3, 0, -1, 1]))
        == pytest.approx(expected)
    )
    rows = np.array([[1.0, 0.0, 1.0]])
    for truths in (rows, rows.tolist(), [{0, 2}], [[0, 2]]):
        assert functional.multisoft([[0.3, -0.2, 1.0]], truths) == functional.multisoft(
            np.array([[0.3, -0.2, 1.0]]), rows
        )
    assert functional.multisoft([0.3, -0.2, 1.0], {0, 2}) == functional.multisoft([[0.3, -0.2, 1.0]], rows)
    for alias in ("multisoft", "multilabel"):
        with pytest.raises(
            ValueError, match=r"that is no row of 0 and 1, got \[1, 0\] in row 0; (rows|for rows) of 0 and 1"
        ):
            loss(alias)(np.zeros((1, 2)), [[1, 0]])
    with pytest.raises(ValueError, match=r"expected guesses of shape \(N, C\) or \(C,\), got shape \(1, 3, 3\)"):
        loss("multilabel")(np.zeros((1, 3, 3)), np.zeros((1, 3, 3), int))


def test_slopes_of_what_is_repeated_are_added_in_float32() -> None:
    n = 1_000_000
    grads = loss("margin", 1.0).get_grad((np.zeros((1, 1), np.float16), np.full((n, 1), -0.5, np.float16)), [[-1.0]])
    assert grads[0].dtype == np.float16
    assert grads[0].item() == pytest.approx(1.0, abs=1e-3)
    out = (np.empty((1, 1)), np.empty((3, 1)))
    got = loss("margin", 1.0).get_grad((np.zeros((1, 1)), np.zeros((3, 1))), [[-1.0]], out=out)
    assert got is out
    assert_same(out, (np.array([[1.0]]), np.full((3, 1), -1 / 3)))
