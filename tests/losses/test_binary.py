"""Losses of yes and no: BinaryCrossEntropyWithLogits and MultiLabelSoftMargin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossreg import loss
from support.nested import assert_same
from support.table import make


@pytest.mark.parametrize("shape", [(4, 3), (3,), (), (2, 2, 3)])
def test_weights_of_binary_classes_go_along_the_last_axis(shape: tuple[int, ...], rng: Any) -> None:
    x, t = rng.normal(size=shape), rng.random(shape)
    n = shape[-1] if shape else 1
    for positive, weight in ((rng.random(n), rng.random(n)), (rng.random(1), rng.random(1))):
        loss = make("BinaryCrossEntropyWithLogits.v1", pos_weight=positive, class_weight=weight, reduction="none")
        log_yes, log_no = -np.log1p(np.exp(-x)), -np.log1p(np.exp(x))
        grad, values = loss(x, t)
        assert_same(values, (-weight * (positive * t * log_yes + (1 - t) * log_no)).reshape(shape), rtol=1e-12)
        s = 1 / (1 + np.exp(-x))
        assert_same(grad, (weight * ((1 - t) * s - positive * t * (1 - s))).reshape(shape), rtol=1e-11, atol=1e-15)
    for option in ("pos_weight", "class_weight"):
        for wrong in (n + 1, n + 2):
            with pytest.raises(
                ValueError, match=rf"expected {option} of {n} \(the last axis of guesses\), got {wrong} values"
            ):
                make("BinaryCrossEntropyWithLogits.v1", **{option: [1.0] * wrong})(x, t)


@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0]])
def test_label_sets_rows_and_a_masked_row(weight: Any, rng: Any) -> None:
    x = rng.normal(size=(3, 3))
    t = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    w, s = np.array(weight or [1.0] * 3), 1 / (1 + np.exp(-x))
    values = -(w * (t * np.log(s) + (1 - t) * np.log(1 - s))).sum(axis=1) / 3
    loss = make("MultiLabelSoftMargin.v1", class_weight=weight, names=["a", "b", "c"], reduction="none")
    for truths in (t, t.astype("i1"), t.astype(bool), [{0, "c"}, set(), ["a", "b", 2]], ([0, 2], [], (0, 1, 2))):
        grad, found = loss(x, truths)
        assert_same(found, values, rtol=1e-12)
        assert_same(grad, w * (s - t) / 3, rtol=1e-12, atol=1e-15)
    assert_same(loss.get_loss(x, [{0, 2}, None, {0, 1, 2}]), values * [1, 0, 1], rtol=1e-12)
    spoiled = t.copy()
    spoiled[1] = 7
    assert_same(loss.get_loss(x, spoiled, mask=[1, 0, 1]), values * [1, 0, 1], rtol=1e-12)
    assert_same(loss.get_loss(x[0], t[0]), values[0], rtol=1e-12)
    assert_same(loss.get_loss(np.stack([x, x]), np.stack([t, t])), np.stack([values, values]), rtol=1e-12)
    assert_same(loss.get_loss([x, x[:1]], [t, t[:1]]), [values, values[:1]], rtol=1e-12)
    for wrong in ("abc", t[:2], t.astype(complex), None):
        with pytest.raises(ValueError, match="expected truths"):
            loss(x, wrong)


def test_truths_of_any_dtype_keep_the_dtype_of_the_guesses(rng: Any) -> None:
    x = rng.normal(size=(3, 4)).astype("f")
    for t in (np.eye(3, 4), np.eye(3, 4, dtype="i8"), [{0}, {1}, {2}]):
        grad = make("MultiLabelSoftMargin.v1", class_weight=[1.0, 2.0, 3.0, 4.0]).get_grad(x, t)
        assert grad.dtype == np.float32
        values = make("MultiLabelSoftMargin.v1", reduction="none").get_loss(x, t)
        assert values.dtype == np.float32


def test_label_sets_in_arrays_of_ids(rng: Any) -> None:
    x = rng.normal(size=(2, 3))
    for name in ("MultiLabelSoftMargin.v1", "MultiLabelMargin.v1"):
        assert_same(make(name)(x, [np.array([0, 2]), np.array([1])]), make(name)(x, [{0, 2}, {1}]))


def test_weights_of_columns_are_those_of_masked_items_too() -> None:
    """Where a mean divides by everything; a class weight that comes with a label is not known there."""
    x, t = np.zeros((2, 3)), np.zeros((2, 3))
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    loss = make(
        "BinaryCrossEntropyWithLogits.v1",
        class_weight=(2.0, 0.5, 1.0),
        reduction="weighted_mean",
        normalize_by="values",
    )
    assert loss.get_state(x, t, mask=mask).count == 7.0
    assert loss.get_loss(x, t, mask=mask) == pytest.approx(4.0 * np.log(2.0) / 7.0)


def test_a_list_of_no_rows_has_rows_of_any_shape() -> None:
    grad, value = make("MultiLabelSoftMargin.v1")(np.zeros((0, 3, 4)), [])
    assert grad.shape == (0, 3, 4) and value == 0.0


def test_a_positive_weight_that_is_no_number_of_the_dtype(backend: Any) -> None:
    x, t = np.array([[200.0, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32)
    grad, value = loss("bcelogits", pos_weight=[1e50, 1e50])(x, t)
    assert not np.isnan(value)
    assert not np.isnan(grad).any()
