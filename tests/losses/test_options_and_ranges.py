"""Options and data of every calculator: defaults, what is refused at the border of a range, and what is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import ConfigError
from support.table import ROWS, make

inf, nan = np.inf, np.nan


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


@pytest.mark.parametrize("guess, truth, options", [(0.5, -0.01, {}), (-0.01, 0.5, {"log_input": False})])
def test_rates_and_counts_begin_at_zero(guess: float, truth: float, options: dict[str, Any]) -> None:
    make("PoissonNLL.v1", **options)(np.array([max(guess, 0.0)]), np.array([max(truth, 0.0)]))
    with pytest.raises(ValueError, match=r"at least 0, got -0\.01 in row 0"):
        make("PoissonNLL.v1", **options)(np.array([guess]), np.array([truth]))
