"""Values and gradients at single points that are known exactly: kinks, ties, zeros and infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.nested import assert_same, leaves
from support.table import TRUE_ROWS, Row, make

inf, nan = np.inf, np.nan


# Kinks, ties and single points: (name, options, guesses, truths, values, gradient of their sum)

R2 = np.sqrt(2.0)
A = np.array
POINTS: list[tuple[str, dict[str, Any], Any, Any, Any, Any]] = [
    ("Huber.v1", dict(delta=0.5), A([0.5, -0.5, 2.0, 0.0]), np.zeros(4), A([0.125, 0.125, 0.875, 0.0]), A([0.5, -0.5, 0.5, 0.0])),
    ("SmoothL1.v1", dict(beta=0.5), A([0.5, -0.5, 2.0, 0.25]), np.zeros(4), A([0.25, 0.25, 1.75, 0.0625]), A([1.0, -1.0, 1.0, 0.5])),
    ("SmoothL1.v1", dict(beta=0.0), A([0.0, 2.0, -3.0]), np.zeros(3), A([0.0, 2.0, 3.0]), A([0.0, 1.0, -1.0])),
    ("MeanAbsoluteError.v1", {}, A([1.0, 3.0, -1.0]), np.ones(3), A([0.0, 2.0, 2.0]), A([0.0, 1.0, -1.0])),
    ("AbsoluteValue.v1", {}, A([0.0, 2.0, -3.0, -0.0]), None, A([0.0, 2.0, 3.0, 0.0]), A([0.0, 1.0, -1.0, 0.0])),
    ("Value.v1", {}, A([0.0, 2.0, -3.0]), None, A([0.0, 2.0, -3.0]), A([1.0, 1.0, 1.0])),
    ("HingeEmbedding.v1", dict(margin=2.0), A([2.0, 2.0, 0.5, 3.0, -1.0]), A([-1.0, 1.0, -1.0, -1.0, 1.0]),
        A([0.0, 2.0, 1.5, 0.0, -1.0]), A([-1.0, 1.0, -1.0, 0.0, 1.0])),
    ("MarginRanking.v1", dict(margin=0.5), (A([1.0, 1.0, 1.0, 1.0]), A([0.5, 1.5, 3.0, -3.0])), A([1.0, -1.0, 1.0, 1.0]),
        A([0.0, 0.0, 2.5, 0.0]), (A([-1.0, 1.0, -1.0, 0.0]), A([1.0, -1.0, 1.0, 0.0]))),
    ("MultiMargin.v1", dict(margin=1.0), A([[2.0, 1.0, 1.5, 0.0]]), [0], A([0.125]), A([[-0.25, 0.0, 0.25, 0.0]])),
    ("MultiMargin.v1", dict(margin=1.0, p=2), A([[2.0, 1.0, 1.5, 0.0]]), [0], A([0.0625]), A([[-0.25, 0.0, 0.25, 0.0]])),
    ("CrossEntropy.v1", dict(label_smoothing=0.3), np.log(A([[0.5, 0.25, 0.25]])), [1],
        A([0.7 * np.log(4) + 0.1 * np.log(32)]), A([[0.4, -0.55, 0.15]])),
    ("MultiLabelMargin.v1", {}, A([[2.0, 1.0, 1.5, 0.0]]), [{0}], A([0.125]), A([[-0.25, 0.0, 0.25, 0.0]])),
    ("MultiLabelMargin.v1", {}, A([[2.0, 1.0, 1.5, 0.0]]), [{0, 2}], A([0.125]), A([[0.0, 0.25, -0.25, 0.0]])),
    ("MultiLabelMargin.v1", {}, A([[2.0, 1.0], [2.0, 1.0]]), [{0, 1}, set()], A([0.0, 0.0]), np.zeros((2, 2))),
    ("PoissonNLL.v1", dict(full=True), np.zeros(5), A([0.0, 0.5, 1.0, 1.5, 3.0]),
        A([1.0, 1.0, 1.0, *(1.0 + t * np.log(t) - t + np.log(2 * np.pi * t) / 2 for t in (1.5, 3.0))]), A([1.0, 0.5, 0.0, -0.5, -2.0])),
    ("PoissonNLL.v1", dict(log_input=False, eps=0.5), A([0.5, 1.5]), A([0.0, 3.0]), A([0.5, 1.5 - 3 * np.log(2.0)]), A([1.0, -0.5])),
    ("KLDivergence.v1", {}, A([-inf, -1.0, 0.0]), A([0.0, 0.0, 1.0]), np.zeros(3), A([0.0, 0.0, -1.0])),
    ("KLDivergence.v1", dict(log_target=True), A([-inf, -1.0, -1.0]), A([-inf, -inf, 0.0]), A([0.0, 0.0, 1.0]), A([0.0, 0.0, -1.0])),
    ("BinaryCrossEntropy.v1", {}, A([0.0, 1.0, 0.0, 1.0, 0.25]), A([1.0, 0.0, 0.0, 1.0, 0.0]),
        A([100.0, 100.0, 0.0, 0.0, np.log(4 / 3)]), A([-1e12, 1e12, 0.0, 0.0, 4 / 3])),
    ("SoftMargin.v1", {}, A([0.0, 0.0, 1000.0, 1000.0]), A([1.0, -1.0, -1.0, 1.0]), A([np.log(2), np.log(2), 1000.0, 0.0]), A([-0.5, 0.5, 1.0, 0.0])),
    ("BinaryCrossEntropyWithLogits.v1", {}, A([0.0, 0.0, inf, -inf]), A([1.0, 0.25, 1.0, 0.0]), A([np.log(2), np.log(2), 0.0, 0.0]), A([-0.5, 0.25, 0.0, 0.0])),
    ("Quantile.v1", dict(quantile=0.75), A([1.0, 3.0, -1.0]), np.ones(3), A([0.0, 0.5, 1.5]), A([-0.75, 0.25, -0.75])),
    ("SigmoidFocal.v1", dict(gamma=1.0), A([0.0, 0.0]), A([1.0, 0.0]), A([0.5, 0.5]) * np.log(2), A([-1.0, 1.0]) * (np.log(2) + 1) / 4),
    *(("SigmoidFocal.v1", dict(gamma=gamma), A([inf, -inf, 1e300, -1e300]), A([1.0, 0.0, 0.0, 1.0]), A([0.0, 0.0, 1e300, 1e300]), A([0.0, 0.0, 1.0, -1.0]))
        for gamma in (0.0, 0.5, 2.0)),
    ("SigmoidFocal.v1", dict(alpha=0.0), A([inf, -inf]), A([1.0, 1.0]), A([0.0, 0.0]), A([0.0, 0.0])),
    # at cos = margin the gradient passes
    ("CosineEmbedding.v1", {}, (A([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), A([[0.0, 1.0], [-1.0, 0.0], [0.0, 2.0]])), A([-1.0, -1.0, -1.0]),
        A([0.0, 0.0, 1.0]), (A([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), A([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))),
    # the second term is left out where a length is at most eps
    ("CosineSimilarity.v1", dict(eps=2.0), (A([[2.0, 0.0], [4.0, 0.0]]), A([[3.0, 4.0], [3.0, 4.0]])), None,
        A([0.6, 0.6]), (A([[0.3, 0.4], [0.0, 0.2]]), A([[0.128, -0.096], [0.128, -0.096]]))),
    # eps is added to lengths; at a vector of zeros the slope is that of the other one over eps
    ("NegativeCosineSimilarity.v1", dict(eps=2.0), (A([[4.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), A([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])), None,
        A([-2 / 7, 0.0, 0.0]), (A([[-1 / 42, -2 / 21], [-3 / 14, -2 / 7], [0.0, 0.0]]), A([[-52 / 735, 8 / 245], [0.0, 0.0], [0.0, 0.0]]))),
    # distances: no difference at all, components of 0, ties
    *(("PairwiseDistance.v1", dict(p=p, eps=0.0), (np.ones((1, 3)), np.ones((1, 3))), None, A([0.0]), (np.zeros((1, 3)), np.zeros((1, 3))))
        for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, inf)),
    *(("PairwiseDistance.v1", dict(p=p, eps=0.0), (A([[0.0, -2.0, 0.0]]), np.zeros((1, 3))), None, A([2.0]), (A([[0.0, -1.0, 0.0]]), A([[0.0, 1.0, 0.0]])))
        for p in (0.5, 1.0, 1.5, 2.0, 3.0, inf)),
    ("PairwiseDistance.v1", dict(p=0.0, eps=0.0), (A([[0.0, -2.0, 3.0]]), np.zeros((1, 3))), None, A([2.0]), (np.zeros((1, 3)), np.zeros((1, 3)))),
    ("PairwiseDistance.v1", dict(p=inf, eps=0.0), (A([[3.0, 1.0, -3.0], [0.5, 0.25, 0.0]]), np.zeros((2, 3))), None,
        A([3.0, 0.5]), (A([[0.5, 0.0, -0.5], [1.0, 0.0, 0.0]]), A([[-0.5, 0.0, 0.5], [-1.0, 0.0, 0.0]]))),
    ("PairwiseDistance.v1", dict(p=0.5, eps=0.0), (A([[1.0, -4.0]]), np.zeros((1, 2))), None, A([9.0]), (A([[3.0, -1.5]]), A([[-3.0, 1.5]]))),
    ("PairwiseDistance.v1", dict(eps=0.5), (A([[2.5, 3.5]]), np.zeros((1, 2))), None, A([5.0]), (A([[0.6, 0.8]]), A([[-0.6, -0.8]]))),
    ("PairwiseDistance.v1", {}, (A([[3.0, 4.0]]), np.full((1, 2), 1e-6)), None, A([5.0]), (A([[0.6, 0.8]]), A([[-0.6, -0.8]]))),
    # where the value of a triplet reaches 0 the gradient still passes, below it does not
    ("TripletMargin.v1", dict(eps=0.0), (np.zeros((2, 1)), np.ones((2, 1)), A([[2.0], [2.5]])), None,
        A([0.0, 0.0]), (np.zeros((2, 1)), A([[1.0], [0.0]]), A([[-1.0], [0.0]]))),
    # swap: the nearer of the two distances, and half a slope each at a tie
    ("TripletMargin.v1", dict(eps=0.0, margin=5.0, swap=True), (np.zeros((3, 2)), A([[2.0, 0.0]] * 3), A([[1.0, 1.0], [0.0, 1.0], [2.0, 1.0]])), None,
        A([7 - R2, 6.0, 6.0]),
        (A([[-1 + R2 / 4, R2 / 4], [-1.0, 1.0], [-1.0, 0.0]]), A([[1 - R2 / 4, R2 / 4], [1.0, 0.0], [1.0, 1.0]]),
         A([[0.0, -R2 / 2], [0.0, -1.0], [0.0, -1.0]]))),
    ("TripletMargin.v1", dict(eps=0.0, margin=5.0), (np.zeros((1, 2)), A([[2.0, 0.0]]), A([[2.0, 1.0]])), None,
        A([7 - np.sqrt(5)]), (A([[-1 + 2 / np.sqrt(5), 1 / np.sqrt(5)]]), A([[1.0, 0.0]]), A([[-2.0, -1.0]]) / np.sqrt(5))),
    # a vector of zeros has cosine 0 with all and gradient 0
    ("InfoNCE.v1", dict(temperature=0.5), (np.zeros((2, 2)), A([[1.0, 0.0], [0.0, 1.0]])), None, A([np.log(2), np.log(2)]), None),
    ("NLL.v1", dict(class_weight=[2.0, 3.0]), A([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]]), [0, 1, -100], A([2.0, 12.0, 0.0]),
        A([[-2.0, 0.0], [0.0, -3.0], [0.0, 0.0]])),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, options, guesses, truths, values, grad", POINTS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_single_points(
    name: str, options: Any, guesses: Any, truths: Any, values: Any, grad: Any, backend: Any
) -> None:
    loss = make(name, **options, reduction="sum")
    got = loss.get_values(guesses, truths)
    assert_same(got, values, rtol=1e-12, atol=1e-11)
    found, total = loss(guesses, truths)
    assert_same(total, values.sum(), rtol=1e-12, atol=1e-11)
    if grad is not None:
        assert_same(found, grad, rtol=1e-11, atol=1e-11)


def test_values_are_not_the_callers_array(backend: Any) -> None:
    """The value is the guess, but in an array of its own: results may be written to, and so may the guesses."""
    for size in (3, 50_000):
        guesses = np.full(size, 2.0)
        values = make("Value.v1").get_values(guesses)
        assert not np.shares_memory(values, guesses)
        grad, value = make("Value.v1")(guesses, out=guesses)
        assert grad is guesses
        assert value == 2.0


@pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
def test_gradients_of_finite_guesses_are_finite(row: Row, rng: Any) -> None:
    for n in (1, 7, 40):
        guesses, truths = row.sample(rng, n)
        loss = row.make(reduction="sum")
        for part in leaves(loss.get_grad(guesses, truths)):
            assert np.isfinite(part).all()
