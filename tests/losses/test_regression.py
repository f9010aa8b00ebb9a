"""Losses of numbers: Quantile, PoissonNLL and KLDivergence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import loss
from support.nested import assert_same


def test_nan_beside_a_truth_of_zero_stays_visible() -> None:
    guesses = np.array([np.nan, -1.0])
    assert np.isnan(loss("kl").get_loss(guesses, np.array([0.0, 0.5])))
    assert np.isnan(loss("kl", log_target=True).get_loss(guesses, np.array([-np.inf, -1.0])))
    assert np.isfinite(loss("kl").get_loss(np.array([-np.inf, -1.0]), np.array([0.0, 0.5])))


def compare(loss: Any, guesses: Any, truths: Any, values: Any, slopes: Any, rtol: float = 1e-13) -> None:
    assert_same(loss.get_values(guesses, truths), values, rtol=rtol, atol=1e-300)
    assert_same(loss.get_grad(guesses, truths), slopes, rtol=rtol, atol=1e-15)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_pinball_loss_of_scikit_learn(quantile: float, backend: Any, rng: Any) -> None:
    """At a residual of 0, too."""
    losses = pytest.importorskip("sklearn._loss.loss", reason="scikit-learn is not installed")
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    guesses, truths = rng.integers(-4, 5, (2, 200)) / 2 + rng.normal(size=200) * rng.integers(0, 2, 200)
    theirs = losses.PinballLoss(quantile=quantile)
    ours = lossreg.Quantile(quantile=quantile, reduction="sum")
    assert (guesses == truths).sum() > 5
    compare(ours, guesses, truths, theirs.loss(truths, guesses), theirs.gradient(truths, guesses), rtol=0.0)
    mean = metrics.mean_pinball_loss(truths, guesses, alpha=quantile)
    assert_same(lossreg.Quantile(quantile=quantile).get_loss(guesses, truths), mean, rtol=1e-14)


def test_the_quantile_of_the_truths_is_best(rng: Any) -> None:
    truths = rng.normal(size=1001)
    loss = lossreg.Quantile(quantile=0.8)
    best = np.quantile(truths, 0.8)  # one of the truths
    values = [loss.get_loss(np.full(1001, best + step), truths) for step in (-1e-3, 0.0, 1e-3)]
    assert values[1] == min(values)
    assert_same(
        2 * lossreg.Quantile().get_loss(truths, truths[::-1]), lossreg.functional.l1(truths, truths[::-1]), 1e-14
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_and_rates_that_are_both_infinite(dtype: Any, backend: Any) -> None:
    limits = np.finfo(dtype)
    x = np.array([1e10, 1e10, limits.max, 100.0, 89.0, -limits.max], dtype)
    t = np.array([1e30, 0.0, limits.max, limits.max, 1e30, 0.0], dtype)
    for full in (False, True):
        grad, values = loss("poissonloss", full=full, reduction="none")(x, t)
        assert not np.isnan(values).any()
        assert not np.isnan(grad).any()
        assert values[0] == np.inf
        assert grad[0] == np.inf
    rates = loss("poissonloss", log_input=False, full=True, reduction="none").get_loss(
        np.array([1e20], dtype), np.array([limits.max], dtype)
    )
    assert not np.isnan(rates).any()


def test_logarithms_of_equal_infinite_measures(backend: Any) -> None:
    x = np.array([100.0, 1e30], np.float32)
    assert loss("kl", log_target=True, reduction="sum").get_loss(x, x) == 0.0
