"""No floating-point error and no warning of NumPy's reaches the caller."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from lossreg import (
    CosineDistance,
    CrossEntropy,
    InfoNCE,
    L2Distance,
    MeanSquaredError,
)
from support.nested import assert_same
from support.table import make


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


TINY, HUGE = 1e-200, 1e200


@pytest.mark.parametrize(
    "name, guesses, truths",
    [
        ("CategoricalCrossentropy.v3", np.array([[TINY, 1.0]]), [1]), ("SequenceCategoricalCrossentropy.v3", [np.array([[TINY, 1.0]])], [[1]]),
        ("CategoricalCrossentropy.v4", np.array([[TINY, 1.0]]), [1]), ("L2Distance.v1", np.array([[TINY, HUGE]]), np.zeros((1, 2))),
        ("CosineDistance.v1", np.array([[TINY, HUGE]]), np.ones((1, 2))), ("MeanSquaredError.v1", np.array([TINY, HUGE]), np.zeros(2)),
        ("CrossEntropy.v1", np.array([[-HUGE, 0.0, HUGE]]), [1]), ("InfoNCE.v1", (np.array([[TINY, HUGE]]), np.array([[HUGE, TINY]])), None),
    ],
)  # fmt: skip
def test_no_floating_point_error_reaches_the_caller(name: str, guesses: Any, truths: Any) -> None:
    loss = make(name)
    calls = ("__call__", "get_grad", "get_loss", "get_similarity")
    for call in (getattr(loss, call) for call in calls if hasattr(loss, call)):
        expected = call(guesses, truths)
        with np.errstate(all="raise"):
            assert_same(call(guesses, truths), expected)
