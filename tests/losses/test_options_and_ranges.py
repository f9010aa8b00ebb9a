"""What docstrings promise in single points: defaults, bounds of options, ranges of data, kinks, ties, exact numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import ConfigError, registry
from support import standin_cupy
from support.nested import assert_same, each, leaves
from support.table import ROWS, TRUE_ROWS, Row

inf, nan = np.inf, np.nan


def make(name: str, **options: Any) -> Any:
    return registry.losses.get(name)(**options)


# Options

DEFAULTS: dict[str, dict[str, Any]] = {
    "BinaryCrossEntropy.v1": {},
    "BinaryCrossEntropyWithLogits.v1": dict(pos_weight=None, class_weight=None),
    "CrossEntropy.v1": dict(class_weight=None, ignore_index=-100, label_smoothing=0.0),
    "CosineEmbedding.v1": dict(margin=0.0),
    "CTC.v1": dict(blank=0, zero_infinity=False),
    "HingeEmbedding.v1": dict(margin=1.0),
    "Huber.v1": dict(delta=1.0),
    "KLDivergence.v1": dict(log_target=False),
    "MeanAbsoluteError.v1": {},
    "MarginRanking.v1": dict(margin=0.0),
    "MeanSquaredError.v1": {},
    "MultiLabelMargin.v1": {},
    "MultiMargin.v1": dict(p=1, margin=1.0, class_weight=None),
    "MultiLabelSoftMargin.v1": dict(class_weight=None),
    "NLL.v1": dict(class_weight=None, ignore_index=-100),
    "PairwiseDistance.v1": dict(p=2.0, eps=1e-6, keepdims=False),
    "Quantile.v1": dict(quantile=0.5),
    "SigmoidFocal.v1": dict(alpha=None, gamma=2.0),
    "PoissonNLL.v1": dict(log_input=True, full=False, eps=1e-8),
    "CosineSimilarity.v1": dict(axis=1, eps=1e-8),
    "SmoothL1.v1": dict(beta=1.0),
    "SoftMargin.v1": {},
    "TripletMargin.v1": dict(margin=1.0, p=2.0, eps=1e-6, swap=False),
    "InfoNCE.v1": dict(temperature=0.1),
    "NegativeCosineSimilarity.v1": dict(eps=1e-8),
    "Value.v1": {},
    "AbsoluteValue.v1": {},
}
THINC = dict(normalize=True, names=None, missing_value=None, neg_prefix=None, label_smoothing=0.0)
V4 = dict(names=None, missing_value=None, neg_prefix=None, label_smoothing=0.0, class_weight=None, wrt="logits")
OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    **{f"CategoricalCrossentropy.v{i}": THINC for i in (1, 2, 3)},
    **{f"SequenceCategoricalCrossentropy.v{i}": THINC for i in (1, 2, 3)},
    "L2Distance.v1": dict(normalize=True),
    "CosineDistance.v1": dict(normalize=True, ignore_zeros=False),
    "CategoricalCrossentropy.v4": V4,
    "Sequence.v1": dict(reduction=None, normalize_by=None, validate=None),
    "SequenceCategoricalCrossentropy.v4": V4 | dict(normalize_by_sequence=False),
}
MEASURES = ("PairwiseDistance.v1", "CosineSimilarity.v1")


def test_every_name_has_its_defaults_here() -> None:
    assert set(DEFAULTS) | set(OTHER_DEFAULTS) == {row.name for row in ROWS}


@pytest.mark.parametrize("name", DEFAULTS)
def test_own_options_come_first_then_the_reduction(name: str) -> None:
    common = {"reduction": "none" if name in MEASURES else "mean", "normalize_by": "mask", "validate": "auto"}
    found = lossreg.options(name)
    expected = {**DEFAULTS[name], **common}
    assert list(found.items())[: len(expected)] == list(expected.items())
    assert make(name).options(all=True) == found
    assert make(name).options() == {}


@pytest.mark.parametrize("name", OTHER_DEFAULTS)
def test_defaults_of_thincs_calculators_and_their_twins(name: str) -> None:
    found = lossreg.options(name)
    assert {option: found[option] for option in OTHER_DEFAULTS[name]} == OTHER_DEFAULTS[name]


def test_further_defaults() -> None:
    assert lossreg.options("ctc")["wrt"] == "log_probs"
    assert not lossreg.options("ce")["per_token"]
    assert not lossreg.options("ce")["check_finite"]


BELOW = -5e-324  # the largest number below 0
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("Huber.v1", dict(delta=0.0)), ("Huber.v1", dict(delta=-0.5)), ("SmoothL1.v1", dict(beta=BELOW)), ("SmoothL1.v1", dict(beta=-0.5)),
    ("PoissonNLL.v1", dict(eps=0.0)), ("PoissonNLL.v1", dict(eps=-0.5)),
    *(("Quantile.v1", dict(quantile=q)) for q in (0.0, 1.0, -0.5, 1.5)),
    ("SigmoidFocal.v1", dict(alpha=BELOW)), ("SigmoidFocal.v1", dict(alpha=1.5)), ("SigmoidFocal.v1", dict(gamma=BELOW)),
    ("CosineEmbedding.v1", dict(margin=-1.5)), ("CosineEmbedding.v1", dict(margin=1.5)),
    ("CosineSimilarity.v1", dict(eps=0.0)), ("CosineSimilarity.v1", dict(eps=-0.5)),
    ("NegativeCosineSimilarity.v1", dict(eps=0.0)), ("NegativeCosineSimilarity.v1", dict(eps=-0.5)),
    ("PairwiseDistance.v1", dict(p=-0.5)), ("PairwiseDistance.v1", dict(eps=-0.5)),
    ("TripletMargin.v1", dict(margin=0.0)), ("TripletMargin.v1", dict(margin=-0.5)), ("TripletMargin.v1", dict(p=-0.5)), ("TripletMargin.v1", dict(eps=-0.5)),
    ("InfoNCE.v1", dict(temperature=0.0)), ("InfoNCE.v1", dict(temperature=-0.5)),
    ("CTC.v1", dict(blank=-1)), ("CTC.v1", dict(wrt="probs")),
    ("CrossEntropy.v1", dict(label_smoothing=-0.5)), ("CrossEntropy.v1", dict(label_smoothing=1.5)),
    ("CategoricalCrossentropy.v3", dict(label_smoothing=-0.5)), ("CategoricalCrossentropy.v3", dict(label_smoothing=1.0)),
    ("CategoricalCrossentropy.v4", dict(label_smoothing=-0.5)), ("CategoricalCrossentropy.v4", dict(label_smoothing=1.0)),
    ("MultiMargin.v1", dict(p=0)), ("MultiMargin.v1", dict(p=3)),
    *((name, dict(class_weight=[1.0, -0.5])) for name in (
        "BinaryCrossEntropyWithLogits.v1", "CrossEntropy.v1", "NLL.v1", "MultiMargin.v1", "MultiLabelSoftMargin.v1", "CategoricalCrossentropy.v4")),
    ("BinaryCrossEntropyWithLogits.v1", dict(pos_weight=[1.0, -0.5])),
]  # fmt: skip
TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("Huber.v1", dict(delta=1e-300)), ("SmoothL1.v1", dict(beta=0.0)), ("PoissonNLL.v1", dict(eps=1e-300)),
    ("Quantile.v1", dict(quantile=1e-300)), ("Quantile.v1", dict(quantile=1 - 2**-53)),
    ("SigmoidFocal.v1", dict(alpha=0.0, gamma=0.0)), ("SigmoidFocal.v1", dict(alpha=1.0, gamma=1e300)),
    ("CosineEmbedding.v1", dict(margin=-1.0)), ("CosineEmbedding.v1", dict(margin=1.0)),
    ("CosineSimilarity.v1", dict(eps=1e-300)), ("NegativeCosineSimilarity.v1", dict(eps=1e-300)), ("PairwiseDistance.v1", dict(p=0.0, eps=0.0)), ("PairwiseDistance.v1", dict(p=inf)),
    ("TripletMargin.v1", dict(margin=1e-300, p=0.0, eps=0.0)), ("InfoNCE.v1", dict(temperature=1e-300)),
    ("CTC.v1", dict(blank=0)), ("CrossEntropy.v1", dict(label_smoothing=1.0)), ("CategoricalCrossentropy.v3", dict(label_smoothing=0.9)),
    *((name, dict(class_weight=[1.0, 0.0])) for name in (
        "BinaryCrossEntropyWithLogits.v1", "CrossEntropy.v1", "NLL.v1", "MultiMargin.v1", "MultiLabelSoftMargin.v1", "CategoricalCrossentropy.v4")),
    ("BinaryCrossEntropyWithLogits.v1", dict(pos_weight=[1.0, 0.0])),
    ("HingeEmbedding.v1", dict(margin=-2.0)), ("MarginRanking.v1", dict(margin=-2.0)), ("MultiMargin.v1", dict(margin=-2.0)),
]  # fmt: skip


@pytest.mark.parametrize("name, options", REFUSED, ids=str)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(name, **options)
    assert all(path.split(".")[0] in options for path, _ in caught.value.problems)


@pytest.mark.parametrize("name, options", TAKEN, ids=str)
def test_options_at_the_border_are_taken(name: str, options: dict[str, Any]) -> None:
    found = make(name, **options).options(all=True)
    for option, value in options.items():
        assert found[option] == (tuple(value) if isinstance(value, list) else value)


WEIGHTED = [
    "CrossEntropy.v1", "NLL.v1", "MultiMargin.v1", "MultiLabelSoftMargin.v1", "BinaryCrossEntropyWithLogits.v1",
]  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0]], ids=len)
def test_one_class_weight_for_each_class(name: str, weights: list[float]) -> None:
    truths = np.zeros((2, 3)) if name.startswith(("Binary", "MultiLabel")) else [0, 1]
    with pytest.raises(ValueError, match=f"expected class_weight .*3.*got {len(weights)} values"):
        make(name, class_weight=weights)(np.zeros((2, 3)), truths)


# Ranges of data

UNIT_TRUTHS = (
    "BinaryCrossEntropy.v1", "BinaryCrossEntropyWithLogits.v1", "KLDivergence.v1", "MultiLabelSoftMargin.v1", "SigmoidFocal.v1",
)  # fmt: skip
SIGNED = ("SoftMargin.v1", "HingeEmbedding.v1", "MarginRanking.v1", "CosineEmbedding.v1")
X = np.array([[0.3, 0.5], [0.2, 0.9]])


@pytest.mark.parametrize("name", UNIT_TRUTHS)
@pytest.mark.parametrize("wrong", [-0.5, -1.0, 1.5, 2.0, nan])
def test_truths_outside_the_unit_interval(name: str, wrong: float) -> None:
    truths = np.array([[0.0, 1.0], [wrong, 0.5]])
    with pytest.raises(ValueError, match=r"expected truth values in \[0, 1\], got .* in row 1, column 0"):
        make(name)(X, truths)
    make(name)(X, np.array([[0.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("wrong", [-2.0, -0.5, 0.0, 0.5, 2.0, nan])
def test_truths_that_are_no_sign(name: str, wrong: float) -> None:
    guesses: Any = (X, X[::-1]) if name in ("MarginRanking.v1", "CosineEmbedding.v1") else X
    column = () if name == "CosineEmbedding.v1" else (2,)
    truths = np.ones((2, *column))
    truths[(1, *(0 for _ in column))] = wrong
    with pytest.raises(ValueError, match=r"to be 1 or -1, got .* in row 1"):
        make(name)(guesses, truths)
    make(name)(guesses, np.ones((2, *column)))
    make(name)(guesses, -np.ones((2, *column)))


def test_counts_and_rates_are_not_negative() -> None:
    for loss in (make("PoissonNLL.v1"), make("PoissonNLL.v1", log_input=False)):
        with pytest.raises(ValueError, match=r"expected truth values of at least 0, got -0.5 in row 1"):
            loss(X, np.array([[0.0, 1.0], [-0.5, 0.5]]))
        assert np.isfinite(loss(X, X * 0)[1])
    with pytest.raises(ValueError, match=r"expected guesses of at least 0, got -0.5 in row 1, column 1"):
        make("PoissonNLL.v1", log_input=False)(np.array([[0.0, 1.0], [0.5, -0.5]]), X)
    assert np.isfinite(make("PoissonNLL.v1")(-X, X)[1])


@pytest.mark.parametrize("wrong", [-0.5, -1.0, 1.5, 2.0, nan])
def test_guesses_that_are_no_probabilities(wrong: float) -> None:
    guesses = np.array([[0.0, 1.0], [0.5, wrong]])
    for name, truths in (("BinaryCrossEntropy.v1", X), ("CategoricalCrossentropy.v3", [0, 1])):
        with pytest.raises(ValueError, match=r"expected guesses in \[0, 1\], got .* in row 1, column 1"):
            make(name)(guesses, truths)
    with pytest.raises(ValueError, match=r"expected guesses in \[0, 1\], got .* in row 1, column 1"):
        make("CategoricalCrossentropy.v4", wrt="probs")(guesses, [0, 1])


def test_any_logarithm_is_a_truth_with_log_target() -> None:
    loss = make("KLDivergence.v1", log_target=True)
    assert np.isfinite(loss(X, np.array([[-1e300, 3.0], [-inf, 0.0]]))[1])


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


def test_a_vector_of_zeros_gets_no_gradient() -> None:
    (queries, keys), value = make("InfoNCE.v1")((np.zeros((2, 3)), np.zeros((2, 3))))
    assert value == pytest.approx(np.log(2))
    assert np.isfinite(queries).all()
    assert np.isfinite(keys).all()
    assert not queries.any()
    assert not keys.any()


def test_a_vector_of_zeros_beside_others() -> None:
    """Its cosine is 0 with all, which counts for the others; its own gradient is 0."""
    zero, other = A([[0.0, 0.0], [1.0, 0.0]]), A([[0.0, 2.0], [3.0, 0.0]])
    share = 1 / (1 + np.exp(2))
    (queries, keys), value = make("InfoNCE.v1", temperature=0.5)((zero, other))
    assert value == pytest.approx((np.log(2) + np.log1p(np.exp(-2))) / 2)
    assert_same(queries, A([[0.0, 0.0], [0.0, share]]), rtol=1e-14)
    assert_same(keys, A([[share / 2, 0.0], [0.0, 0.0]]), rtol=1e-14)
    (queries, keys), value = make("InfoNCE.v1", temperature=0.5)((other, zero))
    assert value == pytest.approx((np.log(2) + np.log1p(np.exp(-2))) / 2)
    assert_same(queries, A([[0.25, 0.0], [0.0, 0.0]]), rtol=1e-14)
    assert_same(keys, A([[0.0, 0.0], [0.0, 0.5]]), rtol=1e-14)


@pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
def test_gradients_of_finite_guesses_are_finite(row: Row, rng: Any) -> None:
    for n in (1, 7, 40):
        guesses, truths = row.sample(rng, n)
        loss = row.make(reduction="sum")
        for part in leaves(loss.get_grad(guesses, truths)):
            assert np.isfinite(part).all()


# Shapes


@pytest.mark.parametrize(
    "name", ["CosineEmbedding.v1", "CosineSimilarity.v1", "NegativeCosineSimilarity.v1", "PairwiseDistance.v1"]
)
def test_vectors_of_one_shape(name: str) -> None:
    truths = np.ones(2) if name == "CosineEmbedding.v1" else None
    for other in (np.ones((2, 1)), np.ones((1, 3)), np.ones((3, 3))):
        with pytest.raises(ValueError, match=r"expected x2 of shape \(2, 3\) \(that of x1\), got shape"):
            make(name)((np.ones((2, 3)), other), truths)
    if truths is None:
        with pytest.raises(ValueError, match="expected truths to be None, got"):
            make(name)((np.ones((2, 3)), np.ones((2, 3))), np.ones(2))


def test_triplets_of_one_shape() -> None:
    x = np.ones((2, 3))
    for guesses, what in (((x, x[:1], x), "positive"), ((x, x, x[:, :1]), "negative")):
        with pytest.raises(ValueError, match=rf"expected {what} of shape \(2, 3\) \(that of anchor\)"):
            make("TripletMargin.v1")(guesses)


def test_queries_and_keys_are_matrices() -> None:
    x = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match=r"expected guesses of shape \(N, D\), got queries of shape \(2, 3, 4\)"):
        make("InfoNCE.v1")((x, x))


@pytest.mark.parametrize("name", ["NLL.v1", "MultiMargin.v1", "CategoricalCrossentropy.v3"])
def test_sets_of_labels_are_refused_where_a_label_is_single(name: str) -> None:
    with pytest.raises(ValueError, match="got a set of 2 in row 0"):
        make(name)(np.full((2, 3), 1 / 3), [{0, 1}, 1])


# What options and extremes do


def test_length_of_vectors_does_not_count(rng: Any) -> None:
    """Cosines of lengths whose squares overflow or vanish; the slope goes with 1 / length."""
    queries, keys = rng.normal(size=(2, 4, 3))
    (d_queries, d_keys), value = make("InfoNCE.v1")((queries, keys))
    for scale in (1e200, 1e-200):
        (found_queries, found_keys), found = make("InfoNCE.v1")((queries * scale, keys / scale))
        assert found == pytest.approx(value, rel=1e-13)
        assert_same(found_queries * scale, d_queries, rtol=1e-11, atol=1e-14)
        assert_same(found_keys / scale, d_keys, rtol=1e-11, atol=1e-14)


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


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_cosines_along_any_axis(axis: int, rng: Any) -> None:
    a, b = rng.normal(size=(2, 2, 3, 4))
    (d_a, d_b), values = make("CosineSimilarity.v1", axis=axis)((a, b))
    lengths = np.sqrt((a * a).sum(axis=axis)) * np.sqrt((b * b).sum(axis=axis))
    assert_same(values, (a * b).sum(axis=axis) / lengths, rtol=1e-13)
    assert d_a.shape == d_b.shape == (2, 3, 4)
    assert_same((d_a * a).sum(axis=axis), np.zeros_like(values), atol=1e-14)  # a longer vector is no nearer
    assert_same((d_a * b).sum(axis=axis), (1 - values**2) * (b * b).sum(axis=axis) / lengths, rtol=1e-12, atol=1e-13)


def test_signs_come_in_lists_and_numbers(rng: Any) -> None:
    a, b = rng.normal(size=(2, 3, 4))
    loss = make("CosineEmbedding.v1", margin=-0.9)
    expected = loss((a, b), np.array([1.0, -1.0, 1.0]))
    for truths in ([1, -1, 1], (1.0, -1.0, 1.0), np.array([1, -1, 1], "i1")):
        assert_same(loss((a, b), truths), expected)
    for truth in (1, 1.0, np.array(1)):
        assert_same(loss.get_loss((a[0], b[0]), truth), loss.get_loss((a[:1], b[:1]), [1]))
    with pytest.raises(ValueError, match="expected truths"):
        loss((a, b), "abc")
    assert make("CosineEmbedding.v1", validate="shape").get_loss((a, b), [1.0, 0.5, -1.0]) is not None


# CTC, path by path


def paths(log_probs: np.ndarray, target: tuple[int, ...], frames: int, blank: int) -> tuple[float, np.ndarray]:
    """Value, and minus the probability that the path is at a class at a time, from all paths one by one."""
    total, slope = 0.0, np.zeros(log_probs.shape)
    for path in itertools.product(range(log_probs.shape[1]), repeat=frames):
        merged = [c for i, c in enumerate(path) if i == 0 or c != path[i - 1]]
        if tuple(c for c in merged if c != blank) == target:
            probability = np.exp(sum(log_probs[t, c] for t, c in enumerate(path)))
            total += probability
            for t, c in enumerate(path):
                slope[t, c] -= probability
    return (-np.log(total), slope / total) if total else (inf, slope)


def all_targets(labels: tuple[int, ...], longest: int) -> list[tuple[int, ...]]:
    return [target for n in range(longest + 1) for target in itertools.product(labels, repeat=n)]


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("wrt", ["log_probs", "logits"])
def test_ctc_of_all_short_targets(blank: int, wrt: Any, rng: Any) -> None:
    """Every target of up to three labels, repeats among them, with every length of the input, 0 among them."""
    targets = all_targets(tuple(c for c in range(3) if c != blank), 3)
    cases = [(target, frames) for target in targets for frames in range(5)]
    x = rng.normal(size=(4, len(cases), 3))
    x -= np.log(np.exp(x).sum(axis=2, keepdims=True))
    padded = np.array([[*target, *[-9] * (3 - len(target))] for target, _ in cases])
    frames, lengths = np.array([frames for _, frames in cases]), np.array([len(target) for target, _ in cases])
    flat = np.array([label for target, _ in cases for label in target])
    expected = [paths(x[:, i], target, n, blank) for i, (target, n) in enumerate(cases)]
    values = np.array([value for value, _ in expected])
    slopes = np.stack([slope for _, slope in expected], axis=1)
    if wrt == "logits":
        slopes = slopes - np.exp(x) * slopes.sum(axis=2, keepdims=True)
    assert np.isinf(values).any()
    for form in (padded, flat):
        loss = make("CTC.v1", blank=blank, wrt=wrt, reduction="none")
        grad, found = loss(x, (form, frames, lengths))
        assert_same(found, values, rtol=1e-12, atol=1e-14)
        assert_same(grad, slopes, rtol=1e-11, atol=1e-13)
        loss = make("CTC.v1", blank=blank, wrt=wrt, zero_infinity=True, reduction="sum")
        grad, found = loss(x, (form, frames, lengths))
        assert_same(found, values[np.isfinite(values)].sum(), rtol=1e-12)
        assert_same(grad, slopes, rtol=1e-11, atol=1e-13)
        loss = make("CTC.v1", blank=blank, wrt=wrt, zero_infinity=True)
        grad, found = loss(x, (form, frames, lengths))
        divisors = np.maximum(lengths, 1) * len(cases)
        assert_same(found, np.where(np.isinf(values), 0, values / divisors).sum(), rtol=1e-12)
        assert_same(grad, slopes / divisors[None, :, None], rtol=1e-11, atol=1e-14)
    assert make("CTC.v1", blank=blank).get_loss(x, (padded, frames, lengths)) == inf


def log_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_ctc_of_one_sequence(rng: Any) -> None:
    x = log_rows(rng, 4, 3)
    expected, slope = paths(x, (1, 2), 4, 0)
    for truths in (
        ([1, 2], 4, 2),
        (np.array([1, 2]), np.array(4), np.array([2])),
        ([[1, 2]], [4], [2]),
        ([1, 2, 7], 4, 2),
    ):
        grad, value = make("CTC.v1", reduction="sum")(x, truths)
        assert_same(value, expected, rtol=1e-13)
        assert_same(grad, slope, rtol=1e-12, atol=1e-15)
    for n in (1, 2):
        batch = log_rows(rng, 4, n, 3)
        for empty in (np.zeros((n, 0), int), np.zeros(0, int), np.zeros((n, 0))):
            values = make("CTC.v1", reduction="none").get_loss(batch, (empty, [4] * n, [0] * n))
            assert_same(values, -batch[:, :, 0].sum(axis=0), rtol=1e-13)


def test_ctc_leaves_masked_sequences_out(rng: Any) -> None:
    x = log_rows(rng, 4, 3, 3)
    truths = (np.array([[1, 2], [-5, 99], [2, 2]]), np.array([4, 99, 3]), np.array([2, -7, 2]))
    kept = (truths[0][[0, 2]], truths[1][[0, 2]], truths[2][[0, 2]])
    for validate in ("auto", "full"):
        grad, value = make("CTC.v1", validate=validate)(x, truths, mask=[1, 0, 1])
        expected = make("CTC.v1")(x[:, [0, 2]], kept)
        assert_same((grad[:, [0, 2]], value), expected, rtol=1e-14)
        assert not grad[:, 1].any()


CTC_ERRORS: list[tuple[dict[str, Any], Any, str]] = [
    (dict(blank=3), ([[1], [1]], [4, 4], [1, 1]), r"expected blank in \[0, 3\) \(the classes of guesses\), got 3\."),
    (dict(blank=7), ([[1], [1]], [4, 4], [1, 1]), r"expected blank in \[0, 3\) \(the classes of guesses\), got 7\."),
    ({}, [[[1], [1]], [4, 4], [1, 1]], r"to be a tuple \(targets, input_lengths, target_lengths\), got a list of 3\."),
    ({}, ([[1], [1]], [4, 4]), "got a tuple of 2"), ({}, ([[1], [1]], [4, 4], [1, 1], None), "got a tuple of 4"),
    ({}, np.ones((3, 2), int), r"to be a tuple \(targets, input_lengths, target_lengths\)"),
    ({}, ([[1], [1]], [4.0, 4.0], [1, 1]), "expected input_lengths of 2 whole numbers"),
    ({}, ([[1], [1]], [4, 4], [1.0, 1.0]), "expected target_lengths of 2 whole numbers"),
    ({}, ([[1], [1]], [4], [1, 1]), "expected input_lengths of 2 whole numbers"),
    ({}, ([[1], [1]], [4, 4, 4], [1, 1]), "expected input_lengths of 2 whole numbers"),
    ({}, ([[1], [1]], [[4, 4]], [1, 1]), "expected input_lengths of 2 whole numbers"),
    ({}, ([[1], [1]], [4, 5], [1, 1]), r"expected input_lengths in \[0, 4\], got 5 in row 1\."),
    ({}, ([[1], [1]], [4, -1], [1, 1]), r"expected input_lengths in \[0, 4\], got -1 in row 1\."),
    ({}, ([[1], [1]], [4, 4], [1, 2]), r"expected target_lengths in \[0, 1\], got 2 in row 1\."),
    ({}, ([[1], [1]], [4, 4], [1, -1]), r"expected target_lengths in \[0, 1\], got -1 in row 1\."),
    ({}, ([[1], [0]], [4, 4], [1, 1]), r"expected target ids in \[0, 3\) and not the blank, 0, got 0 in row 1\."),
    (dict(blank=1), ([[2], [1]], [4, 4], [1, 1]), r"and not the blank, 1, got 1 in row 1\."),
    ({}, ([[1], [3]], [4, 4], [1, 1]), r"got 3 in row 1\."), ({}, ([[1], [4]], [4, 4], [1, 1]), r"got 4 in row 1\."),
    ({}, ([[1], [-1]], [4, 4], [1, 1]), r"got -1 in row 1\."),
    ({}, ([[1.0], [1.0]], [4, 4], [1, 1]), "expected targets of integer ids, got"),
    ({}, ([1, 1, 2], [4, 4], [1, 1]), r"expected targets of shape \(2, S\), .*one behind the other, 2 in all, got"),
    ({}, ([1], [4, 4], [1, 1]), r"one behind the other, 2 in all, got"),
    ({}, ([1, 1], [4, 4], [3, -1]), r"expected targets of shape \(2, S\)"),
    ({}, ([[1], [1], [1]], [4, 4], [1, 1]), r"expected targets of shape \(2, S\)"),
    ({}, (np.ones((2, 1, 1), int), [4, 4], [1, 1]), r"expected targets of shape \(2, S\)"),
]  # fmt: skip


@pytest.mark.parametrize("options, truths, message", CTC_ERRORS, ids=lambda x: x if isinstance(x, str) else "")
def test_ctc_says_what_does_not_fit(options: Any, truths: Any, message: str, rng: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make("CTC.v1", **options)(log_rows(rng, 4, 2, 3), truths)


# Thinc's calculators, row by row


def thinc_row(p: np.ndarray, truth: Any, o: dict[str, Any]) -> np.ndarray:
    """(p - t) * mask of one row, from the definitions."""
    names, prefix, missing, e = (
        o.get("names"),
        o.get("neg_prefix"),
        o.get("missing_value"),
        o.get("label_smoothing", 0.0),
    )
    if isinstance(truth, np.ndarray):
        return p * 0 if missing is not None and truth.argmax() == missing else p - truth
    if truth is None or truth == missing:
        return p * 0
    negated = isinstance(truth, str) and prefix is not None and truth.startswith(prefix)
    name = truth[len(prefix) :] if negated else truth
    y = names.index(name) if isinstance(name, str) else int(name)
    if negated:
        return np.where(np.arange(len(p)) == y, p, 0)
    return p - np.where(np.arange(len(p)) == y, 1 - e, e / (len(p) - 1))


MESSY = dict(names=["a", "b", "c", "d"], neg_prefix="!", missing_value="?")
THINC_CASES: list[tuple[dict[str, Any], Any]] = [
    ({}, [0, 3, 1, 2]), ({}, np.array([0, 3, 1, 2], "u1")), ({}, [0, None, 1, 2]), (dict(missing_value=3), [0, 3, 1, 2]),
    (MESSY, ["a", "!b", "?", "d"]), (MESSY, ["!a", None, 2, "!d"]), (dict(label_smoothing=0.2), [0, 3, 1, 2]),
    (dict(MESSY, label_smoothing=0.3), ["a", "!b", "?", 3]),
    ({}, np.array([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.0, 1.0, 1.0, 0.0]])),
    (dict(missing_value=3), np.array([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.0, 0.0, 0.0, 1.0]])),
]  # fmt: skip


@pytest.mark.parametrize("options, truths", THINC_CASES, ids=str)
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_thincs_cross_entropies(options: dict[str, Any], truths: Any, version: str, rng: Any) -> None:
    p = rng.random((4, 4))
    expected = np.stack([thinc_row(row, truth, options) for row, truth in zip(p, truths, strict=True)])
    for normalize, divisor in ((True, 4), (False, 1)):
        loss = make(f"CategoricalCrossentropy.{version}", normalize=normalize, **options)
        grad, value = loss(p, truths)
        assert_same(grad, expected / divisor, rtol=1e-6, atol=1e-7)  # targets are kept in float32
        assert_same(value, ((expected / divisor) ** 2).sum(), rtol=1e-6)
        sequences = make(f"SequenceCategoricalCrossentropy.{version}", normalize=normalize, **options)
        parts = (slice(0, 1), slice(1, 1), slice(1, 4))
        divisor = 3 if normalize else 1
        grads, value = sequences([p[part] for part in parts], [truths[part] for part in parts])
        assert [len(part) for part in grads] == [1, 0, 3]
        assert_same(np.concatenate(grads), expected / divisor, rtol=1e-6, atol=1e-7)
        assert_same(value, ((expected / divisor) ** 2).sum(), rtol=1e-6)


def test_thincs_targets_are_float32(rng: Any) -> None:
    p = rng.random((1, 3))
    grad = make("CategoricalCrossentropy.v3", label_smoothing=0.1)(p, [1])[0]
    on, off = float(np.float32(0.9)), float(np.float32(0.05))
    assert_same(grad, p - np.array([[off, on, off]]), rtol=1e-15, atol=1e-16)
    assert make("CategoricalCrossentropy.v3", label_smoothing=0.1)(p.astype("f"), [1])[0].dtype == np.float32


@pytest.mark.parametrize("shape", [(3, 2), (3,), (2, 3, 4), (0, 2)])
def test_thincs_distance(shape: tuple[int, ...], rng: Any) -> None:
    x, t = rng.normal(size=(2, *shape))
    for normalize, divisor in ((True, max(len(x), 1)), (False, 1)):
        grad, value = make("L2Distance.v1", normalize=normalize)(x, t)
        assert_same(grad, (x - t) / divisor, rtol=1e-14)
        assert_same(value, (((x - t) / divisor) ** 2).sum(), rtol=1e-14)


@pytest.mark.parametrize("ignore_zeros", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_thincs_cosine_distance(ignore_zeros: bool, normalize: bool, rng: Any) -> None:
    x, t = rng.normal(size=(2, 5, 3))
    t[1] = 0
    t[2] = [0.0, 1.0, -1.0]  # zeros in sum, but no zeros
    loss = make("CosineDistance.v1", ignore_zeros=ignore_zeros, normalize=normalize)
    grad, value = loss(x, t)
    y, u = x + 1e-8, t + 1e-8
    expected, total, cosines = np.zeros((5, 3)), 0.0, []
    for i in range(5):
        y_norm, u_norm = np.sqrt(y[i] @ y[i]), np.sqrt(u[i] @ u[i])
        cosine = y[i] @ u[i] / (y_norm * u_norm)
        cosines.append(cosine)
        if not (ignore_zeros and i == 1):
            expected[i] = -(u[i] / (y_norm * u_norm) - cosine * y[i] / y_norm**2)
            total += abs(cosine - 1)
    divisor = 5 if normalize else 1
    assert_same(grad, expected / divisor, rtol=1e-12, atol=1e-15)
    assert_same(value, total / divisor, rtol=1e-13)
    assert_same(loss.get_loss(x, t), value)
    assert_same(loss.get_similarity(x, t), np.array(cosines)[:, None], rtol=1e-13)


@pytest.mark.parametrize("name", ["L2Distance.v1", "CosineDistance.v1"])
def test_dtypes_of_thincs_distances(name: str, rng: Any) -> None:
    """Computed in the wider of both dtypes, float32 at least; the gradient is of the guesses'."""
    x, t = rng.normal(size=(2, 4, 3)) * 3
    x, t = np.round(x), np.round(t) + 0.5
    exact, exact_value = make(name)(x, t)
    for dtype in ("f2", "f4", "f8", "i4", "u1", "?"):
        guesses = abs(x).astype(dtype)
        wide = make(name)(guesses.astype("f8"), t)
        for truths in (t, t.astype("f4"), t.astype("f2")):
            grad, value = make(name)(guesses, truths)
            assert grad.dtype == (dtype if dtype[0] == "f" else "f8")
            assert_same(grad, wide[0], rtol=2e-3 if dtype == "f2" else 3e-6, atol=1e-3 if dtype == "f2" else 1e-6)
            assert_same(value, wide[1], rtol=1e-5)
        assert_same(make(name)(guesses, t)[1], wide[1], rtol=1e-12)
    assert_same(make(name)(x, t.astype("i4")), make(name)(x, t.astype("i4").astype("f8")))
    assert_same((exact, exact_value), make(name)(x.astype("f4"), t), rtol=1e-6, atol=1e-7)


def test_what_thincs_distances_refuse() -> None:
    for name in ("L2Distance.v1", "CosineDistance.v1"):
        for x, t, what in ((X, X * nan, "truths"), (X * nan, X, "guesses")):
            with pytest.raises(ValueError, match=f"expected {what} without NaN, got nan in row 0, column 0"):
                make(name)(x, t)
        with pytest.raises(ValueError, match="mismatched shape"):
            make(name)(X, X[:1])
        assert make(name)(X[:0], X[:0])[1] == 0.0
    with pytest.raises(ValueError, match=r"expected guesses of shape \(N, D\), got shape \(2,\)"):
        make("CosineDistance.v1").get_similarity(X[0], X[0])


def test_borders_of_smoothing() -> None:
    """Below (C - 1) / C; one class has no other to give a share to."""
    p = np.full((1, 4), 0.25)
    for name in ("CategoricalCrossentropy.v3", "CategoricalCrossentropy.v4"):
        make(name, label_smoothing=0.7499999)(p, [0])
        for too_much in (0.75, 0.8):
            with pytest.raises(
                ValueError, match=r"expected label_smoothing below \(C-1\)/C = 0.75 for 4 classes, got 0"
            ):
                make(name, label_smoothing=too_much)(p, [0])
        make(name, label_smoothing=0.4)(p[:, :2] * 2, [0])
        with pytest.raises(ValueError, match="for 1 classes"):
            make(name, label_smoothing=1e-9)(p[:, :1] * 4, [0])
        make(name)(p[:, :1] * 4, [0])
        assert make(name, label_smoothing=0.5)(p[:0], [])[1] == 0.0
        with pytest.raises(
            ValueError, match="to be labels, to which alone label_smoothing applies, got rows of numbers"
        ):
            make(name, label_smoothing=0.1)(p, p)


def test_rows_that_sum_to_one_but_for_rounding() -> None:
    p = np.array([[0.25, 0.25, 0.5]])
    for factor in (0.991, 1.0, 1.009):
        make("CategoricalCrossentropy.v4")(p * factor, [0])
    for factor in (0.98, 1.02):
        with pytest.raises(ValueError, match="with rows that sum to 1"):
            make("CategoricalCrossentropy.v4")(p * factor, [0])
        make("CategoricalCrossentropy.v4", wrt="probs")(p * factor, [0])


def test_sequences_are_divided_by_tokens_or_by_their_number(rng: Any) -> None:
    p = rng.dirichlet(np.ones(3), 5)
    parts, truths = [p[:1], p[1:1], p[1:]], [[0], [], [1, None, 2, 0]]
    values = -np.log(p[[0, 1, 3, 4], [0, 1, 2, 0]])
    for options, divisor in (
        (dict(), 4), (dict(normalize_by_sequence=True), 3), (dict(normalize_by="values"), 5), (dict(reduction="sum"), 1),
        (dict(normalize_by_sequence=True, reduction="sum"), 1), (dict(reduction="batch_mean"), 3),
    ):  # fmt: skip
        loss = make("SequenceCategoricalCrossentropy.v4", **options)
        assert_same(loss.get_loss(parts, truths), values.sum() / divisor, rtol=1e-13)
    assert loss.get_values(parts, truths)[2][1] == 0


# Weights of classes


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


@pytest.mark.parametrize("wrt", ["log_probs", "logits"])
def test_ctc_of_a_long_sequence_stays_in_log_space(wrt: Any) -> None:
    """Of T even frames, binom(T + L, 2 L) paths merge to a target of L labels without repeats."""
    frames, target, classes = 2000, [1, 2, 1, 3], 4
    x = np.full((frames, 1, classes), -np.log(classes))
    grad, value = make("CTC.v1", wrt=wrt, reduction="sum")(x, ([target], [frames], [len(target)]))
    count = math.comb(frames + len(target), 2 * len(target))
    assert value == pytest.approx(frames * np.log(classes) - math.log(count), rel=1e-11)
    assert_same(grad.sum(axis=2), np.full((frames, 1), -1.0 if wrt == "log_probs" else 0.0), rtol=1e-9, atol=1e-9)
    confident = np.where(np.eye(classes)[[0] * frames] > 0, np.log1p(-3e-300), np.log(1e-300))[:, None]
    value = make("CTC.v1", reduction="sum").get_loss(confident, ([target], [frames], [len(target)]))
    assert value == pytest.approx(4 * 300 * np.log(10) - math.log(math.comb(frames, 4)), rel=1e-11)


def test_ctc_of_a_sequence_without_weight_may_hold_anything(rng: Any) -> None:
    x = log_rows(rng, 4, 2, 3)
    truths = ([[1, 2], [1, 2]], [4, 4], [2, 2])
    expected = make("CTC.v1", reduction="sum")(x[:, :1], ([[1, 2]], [4], [2]))
    x[:, 1] = nan
    grad, value = make("CTC.v1", reduction="sum")(x, truths, sample_weight=[1.0, 0.0])
    assert_same((grad[:, :1], value), expected, rtol=1e-14)
    assert not grad[:, 1].any()
    grad, values = make("CTC.v1", reduction="none")(x, truths)
    assert np.isnan(values).tolist() == [False, True]
    assert np.isnan(grad[:, 1]).any()
    assert np.isfinite(grad[:, 0]).all()


@pytest.mark.parametrize("name", ["CategoricalCrossentropy.v3", "CategoricalCrossentropy.v4"])
def test_smoothing_of_two_classes(name: str) -> None:
    """All of the share goes to the one other class."""
    p = np.array([[0.3, 0.7]])
    grad = make(name, label_smoothing=0.25)(p, [1])[0]
    assert_same(grad, np.array([[0.05, -0.05]]), rtol=1e-6)
    assert_same(make(name, label_smoothing=0.25)(p[[0, 0]], [1, 1])[0], np.array([[0.025, -0.025]] * 2), rtol=1e-6)


@pytest.mark.parametrize("name", ["SequenceCategoricalCrossentropy.v3", "SequenceCategoricalCrossentropy.v4"])
def test_sequences_are_matrices(name: str) -> None:
    p = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"expected guesses of sequence 1 of shape \(Ni, C\), got shape \(1, 2, 2\)"):
        make(name)([p, p[None]], [[0, 1], [0, 1]])
    with pytest.raises(ValueError, match="expected guesses of sequence 0 to be an array, got a list of 2"):
        make(name)([p.tolist(), p], [[0, 1], [0, 1]])
    with pytest.raises(ValueError, match=r"to be a list of arrays \(Ni, C\) or a Ragged, got 3"):
        make(name)(3, [])
    assert_same(make(name)(np.stack([p, p]), np.array([[0, 1], [1, 0]]))[1], make(name)([p, p], [[0, 1], [1, 0]])[1])
    with pytest.raises(ValueError, match=r"expected guesses of shape \(N, C\), got shape \(1, 2, 2\)"):
        make("CategoricalCrossentropy.v3")(p[None], [[0, 1]])


def test_numbers_on_the_host_go_to_a_device(rng: Any) -> None:
    x, t = rng.normal(size=(3, 4)), rng.random((3, 4))
    cases = [
        ("MultiLabelSoftMargin.v1", x, t), ("BinaryCrossEntropyWithLogits.v1", x, t),
        ("CosineEmbedding.v1", (x, t), np.array([1.0, -1.0, 1.0])), ("CosineEmbedding.v1", (x, t), [1, -1, 1]),
    ]  # fmt: skip
    expected = [make(name)(guesses, truths)[1] for name, guesses, truths in cases]
    with standin_cupy.installed() as cupy:
        for (name, guesses, truths), value in zip(cases, expected, strict=True):
            for validate in ("auto", "shape"):
                found = make(name, validate=validate).get_loss(each(cupy.asarray, guesses), truths)
                with standin_cupy.allow_reading():
                    assert_same(found.get(), value, rtol=1e-13)
            with standin_cupy.allow_reading(), pytest.raises(ValueError, match="expected truth"):
                make(name, validate="full")(each(cupy.asarray, guesses), np.asarray(truths) * 7)


def test_a_device_is_not_waited_for_to_check_ranges(rng: Any) -> None:
    """ "auto" takes what "full" refuses, since looking at data makes the host wait."""
    p = rng.random((3, 4)) * 2
    with standin_cupy.installed() as cupy:
        for name in ("CategoricalCrossentropy.v3", "CategoricalCrossentropy.v4"):
            make(name)(cupy.asarray(p), cupy.asarray(np.array([0, 1, 2])))
        for name in ("L2Distance.v1", "CosineDistance.v1"):
            make(name)(cupy.asarray(p * nan), cupy.asarray(p))


@pytest.mark.parametrize("wrt", ["log_probs", "logits"])
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_ctc_reads_no_frame_past_the_end(wrt: Any, bad: float, rng: Any) -> None:
    x = log_rows(rng, 6, 2, 3)
    truths = ([[1, 2], [2, 2]], [3, 6], [2, 2])
    expected = make("CTC.v1", wrt=wrt)(x, truths)
    x[3:, 0] = bad
    grad, value = make("CTC.v1", wrt=wrt)(x, truths)
    assert_same((grad, value), expected, rtol=1e-14)
    assert not grad[3:, 0].any()


def test_ctc_targets_of_other_shapes(rng: Any) -> None:
    one, two = log_rows(rng, 4, 3), log_rows(rng, 4, 2, 3)
    for targets in (1, np.array(1), [[1], [2]], [[[1]]]):
        with pytest.raises(ValueError, match=r"expected targets of shape \(1, S\)"):
            make("CTC.v1")(one, (targets, 4, 1))
    for targets in (1, np.array(2), [[1]], [[[1]], [[1]]]):
        with pytest.raises(ValueError, match=r"expected targets of shape \(2, S\)"):
            make("CTC.v1")(two, (targets, [4, 4], [1, 1]))


@pytest.mark.parametrize("bad, more", [(1, ""), (2, ""), (4, ""), (5, ""), (6, " and 1 more"), (12, " and 7 more")])
def test_the_first_five_rows_that_are_not_finite(bad: int, more: str) -> None:
    x = np.zeros((12, 2))
    x[:bad] = nan
    with pytest.raises(lossreg.NonFiniteLossError) as caught:
        make("CrossEntropy.v1", check_finite=True)(x, [0] * 12)
    rows = ", ".join(f"row {i}" for i in range(min(bad, 5)))
    assert str(caught.value) == f"The loss of CrossEntropy is not finite in {bad} of 12 rows: {rows}{more}."


def test_one_row_is_divided_by_one() -> None:
    x, t = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
    assert_same(make("L2Distance.v1")(x, t), (x - t, 13.0), rtol=1e-15)
    assert make("CosineDistance.v1").get_loss(x, t) == pytest.approx(0.2, rel=1e-6)
    p = np.array([[0.25, 0.75]])
    assert_same(make("CategoricalCrossentropy.v3")(p, [1]), (np.array([[0.25, -0.25]]), 0.125), rtol=1e-15)


def test_no_rows_of_one_class() -> None:
    for name in ("CategoricalCrossentropy.v3", "CategoricalCrossentropy.v4"):
        grad, value = make(name, label_smoothing=0.1)(np.zeros((0, 1)), [])
        assert grad.shape == (0, 1)
        assert value == 0.0


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


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_cosines_of_vectors_whose_squares_overflow_or_vanish(scale: float, rng: Any) -> None:
    a, b = rng.normal(size=(2, 3, 4))
    (d_a, d_b), value = make("CosineSimilarity.v1", eps=1e-300)((a, b))
    (found_a, found_b), found = make("CosineSimilarity.v1", eps=1e-300)((a * scale, b / scale))
    assert_same(found, value, rtol=1e-13)
    assert_same(found_a * scale, d_a, rtol=1e-11, atol=1e-14)
    assert_same(found_b / scale, d_b, rtol=1e-11, atol=1e-14)
    large = make("CosineEmbedding.v1", reduction="none")
    assert_same(large.get_loss((a * 1e200, b * 1e200), np.ones(3)), 1 - value, rtol=1e-13)


def test_cosines_of_vectors_of_zeros() -> None:
    zeros, ones = np.zeros((1, 4)), np.ones((1, 4))
    (d_a, d_b), value = make("CosineSimilarity.v1", eps=0.5)((zeros, ones))
    assert_same((value, d_a, d_b), (np.zeros(1), np.full((1, 4), 1.0), zeros), atol=1e-15)  # b / (eps |b|)
    for sign, expected in ((1.0, 1.0), (-1.0, 0.0)):
        (d_a, d_b), value = make("CosineEmbedding.v1")((zeros, ones), [sign])
        assert value == expected
        assert_same((d_a, d_b), (np.full((1, 4), -sign * 5e5), zeros), rtol=1e-11)  # b / (1e-6 |b|)
    assert_same(make("CosineSimilarity.v1")((zeros, zeros)), ((zeros, zeros), np.zeros(1)))


def test_ctc_targets_in_lists_of_uneven_lengths(rng: Any) -> None:
    x = log_rows(rng, 6, 4, 4)
    lists, lengths = [[1, 2, 3], [1], [], [2, 3]], [3, 1, 0, 2]
    padded = np.array([[1, 2, 3], [1, 0, 0], [0, 0, 0], [2, 3, 0]])
    assert_same(make("CTC.v1")(x, (lists, [6] * 4, lengths)), make("CTC.v1")(x, (padded, [6] * 4, lengths)))


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, inf])
def test_a_distance_to_infinity(p: float) -> None:
    """The component that is infinitely far is all of the length."""
    (d_a, d_b), value = make("PairwiseDistance.v1", p=p)((np.array([[1.0, -inf, 2.0]]), np.zeros((1, 3))))
    assert value == inf
    assert_same((d_a, d_b), (np.array([[0.0, -1.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])))


def test_a_class_of_weight_zero_costs_nothing() -> None:
    """Also where its log-probability is -inf."""
    x = np.array([[-inf, -1.0], [-1.0, -2.0]])
    loss = make("NLL.v1", class_weight=[0.0, 2.0], reduction="sum")
    assert_same(loss.get_values(x, [0, 1]), np.array([0.0, 4.0]))
    assert_same(loss(x, [0, 1]), (np.array([[0.0, 0.0], [0.0, -2.0]]), 4.0))
    assert_same(loss.get_loss(x[1:], [0]), 0.0)


def test_label_sets_in_arrays_of_ids(rng: Any) -> None:
    x = rng.normal(size=(2, 3))
    for name in ("MultiLabelSoftMargin.v1", "MultiLabelMargin.v1"):
        assert_same(make(name)(x, [np.array([0, 2]), np.array([1])]), make(name)(x, [{0, 2}, {1}]))


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_in_probabilities_end_at_the_largest_number(dtype: Any, backend: Any) -> None:
    loss = make("CategoricalCrossentropy.v4", wrt="probs", class_weight=[100.0, 1.0], reduction="sum")
    grad = loss.get_grad(np.array([[0.0, 1.0]], dtype), [0])
    assert_same(grad, np.array([[-np.finfo(dtype).max, 0.0]], dtype))


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


@pytest.mark.parametrize("total, fits", [(0.5, False), (0.985, False), (0.995, True), (1.005, True), (1.015, False), (1.3, False)])  # fmt: skip
def test_rows_of_a_softmax_sum_to_one(total: float, fits: bool) -> None:
    """Within 0.01, where the gradient is that in the logits under it."""
    rows = np.array([[0.5, 0.5], [0.75 * total, 0.25 * total]])
    make("CategoricalCrossentropy.v4", wrt="probs")(rows, [0, 1])
    if fits:
        make("CategoricalCrossentropy.v4")(rows, [0, 1])
    else:
        with pytest.raises(ValueError, match="row 1"):
            make("CategoricalCrossentropy.v4")(rows, [0, 1])


@pytest.mark.parametrize("guess, truth, options", [(0.5, -0.01, {}), (-0.01, 0.5, {"log_input": False})])
def test_rates_and_counts_begin_at_zero(guess: float, truth: float, options: dict[str, Any]) -> None:
    make("PoissonNLL.v1", **options)(np.array([max(guess, 0.0)]), np.array([max(truth, 0.0)]))
    with pytest.raises(ValueError, match=r"at least 0, got -0\.01 in row 0"):
        make("PoissonNLL.v1", **options)(np.array([guess]), np.array([truth]))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_cross_entropy_that_looks_for_what_is_not_finite(reduction: str, backend: Any, rng: Any) -> None:
    """It changes no number."""
    x, ids = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    plain, checking = (make("CrossEntropy.v1", reduction=reduction, check_finite=check) for check in (False, True))
    assert_same(checking(x, ids), plain(x, ids))
    assert_same(checking.get_loss(x, ids), plain.get_loss(x, ids))
    assert_same(checking.get_values(x, ids), plain.get_values(x, ids))


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


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_no_sequences_along_any_axis(axis: int) -> None:
    assert make("CosineSimilarity.v1", axis=axis, reduction="mean").get_state(([], []), None).compute() == 0.0


def test_broadcast_gradients_that_half_precision_cannot_hold_are_infinite() -> None:
    x, y = np.ones((1, 2), np.float16), np.ones((4, 2), np.float16)
    with np.errstate(all="raise"):
        a, b = make("MarginRanking.v1", margin=1.0, reduction="sum").get_grad(
            (x, y), np.ones((4, 2)), sample_weight=np.float64(1e8)
        )
    assert np.isinf(a).all() and np.isinf(b).all() and a.shape == (1, 2)


def test_a_list_of_no_rows_has_rows_of_any_shape() -> None:
    grad, value = make("MultiLabelSoftMargin.v1")(np.zeros((0, 3, 4)), [])
    assert grad.shape == (0, 3, 4) and value == 0.0
