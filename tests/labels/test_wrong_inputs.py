"""Inputs that are not understood, each with its error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    BinaryCrossEntropyWithLogits,
    CategoricalCrossentropy,
    CategoricalCrossentropy_v4,
    CosineDistance,
    CrossEntropy,
    Huber,
    InfoNCE,
    L2Distance,
    MeanSquaredError,
    SequenceCategoricalCrossentropy,
    SequenceCategoricalCrossentropy_v4,
)
from support.nested import assert_same

P = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
X = np.log(P)
ABC = dict(names=["a", "b", "c"])
MESSY = dict(ABC, neg_prefix="!", missing_value="")


BAD_ID = "expected truth ids in [0, 3), got undeclared id"
BAD: list[tuple[Any, Any, Any, str]] = [
    # labels
    (CrossEntropy(), X, [0, 1, -1], f"Cannot calculate CrossEntropy: {BAD_ID} -1 in row 2."),
    (CrossEntropy(), X, np.array([0, 3, 1]), f"{BAD_ID} 3 in row 1."),
    (CrossEntropy(), X, np.array([0, 1, 2**63], dtype=np.uint64), f"{BAD_ID} 9223372036854775808 in row 2."),
    (CrossEntropy(), X, [0, 1, 2**80], f"{BAD_ID} {2**80} in row 2."),
    (CrossEntropy(), X, [0, None, 5], f"{BAD_ID} 5 in row 2."),
    (CategoricalCrossentropy(), P, [0, 1, -1], f"{BAD_ID} -1 in row 2."),
    (CategoricalCrossentropy(missing_value=-1), P, np.array([-1, 0, -2]), f"{BAD_ID} -2 in row 2."),
    (CategoricalCrossentropy_v4(), P, np.array([0, 1, -100]), f"{BAD_ID} -100 in row 2."),
    (CategoricalCrossentropy(), P, ["a", "b", "c"], "got the name 'a' without names. Pass names when you make"),
    (CrossEntropy(), X, ["", 0, 1], "got the name '' without names."),
    (CrossEntropy(**ABC), X, ["a", "dog", "c"], "expected truth names among 'a', 'b', 'c', got unknown name 'dog' in row 1."),
    (CrossEntropy(**ABC), X, ["a", "!b", "c"], "got unknown name '!b' in row 1; if it means that the label is not 'b', set neg_prefix='!'."),
    (CrossEntropy(**ABC), X, ["a", "", "c"], "got unknown name '' in row 1; if it means that a truth is missing, set missing_value=\"\"."),
    (CategoricalCrossentropy(**MESSY), P, ["a", "!dog", "c"], "got unknown name '!dog' in row 1."),
    (CrossEntropy(names=["a", "b"]), X, [0, 1, 0], "expected one name for each class of guesses, 3, got 2 names."),
    (CategoricalCrossentropy(names=["a"]), P, [0, 0, 0], "expected one name for each class of guesses, 3, got 1 names."),
    (CrossEntropy(), X, [0, 1], "expected 3 truths (one per row of guesses), got 2."),
    (CrossEntropy(), X, np.array([0, 1]), "expected 3 truths (one per row of guesses), got 2."),
    (CrossEntropy(), X, [0.0, 1.0, 2.0], "expected truths to be ids, names, None or sets of them, got 0.0 in row 0."),
    (CrossEntropy(), X, np.array([0.0, 1.0, 2.0]), "expected truths of integer ids, shape (3,), or rows, shape (3, 3)"),
    (CategoricalCrossentropy(), P, [0, 1.5, 2], "expected truths to be ids, names or None, got 1.5 in row 1."),
    (CrossEntropy(), X, [0, 1, 1j], "got 1j in row 2."),
    (CrossEntropy(), X, [0, 1, b"a"], "got b'a' in row 2."),
    (CrossEntropy(**ABC), X, np.array([b"a", b"b", b"c"]), "got b'a' in row 0."),
    (CrossEntropy(), X, [0, object(), 1], "got <object object"),
    (CrossEntropy(), X, [0, {"a": 1}, 1], "got a dict of 1 in row 1."),
    (CrossEntropy(), X, None, "expected truths to be a list, a tuple or an array, got None."),
    (CrossEntropy(), X, "abc", "expected truths to be a list, a tuple or an array, got 'abc'."),
    (CrossEntropy(), X, {0: 1, 1: 1, 2: 1}, "got a dict of 3."),
    (CrossEntropy(), X, np.array([0, [1], {}], dtype=object), "got a dict of 0 in row 2."),
    (CrossEntropy(), X, np.array([["a"], ["b"], ["c"]]), "expected truths of labels of shape (3,)"),
    (CrossEntropy(), X, np.ma.masked_array([0, 1, 2], mask=[0, 1, 0]), "give its mask as mask=~array.mask"),
    (CrossEntropy(), X, np.zeros((3, 3), complex), "expected truth rows of numbers, got a complex128 array"),
    # sets
    (CrossEntropy(), X, [[0, 1], [], [2]], "expected truths to name at least one label (None is missing), got an empty set in row 1."),
    (CrossEntropy(), X, [[0, 0, 1], [1], [2]], "without repeats (rows of 0 and 1 must be an array), got class 0 twice in row 0."),
    (CrossEntropy(**MESSY), X, ["a", {"a", "!b"}, "c"], "to be all labels, all negated, or missing, got a negated label among others in row 1."),
    (CrossEntropy(**MESSY), X, ["a", "b", {"", "c"}], "got a missing label among others in row 2."),
    (CrossEntropy(**MESSY), X, ["a", "b", {"!a", "!b", "!c"}], "to leave a candidate, got all classes negated in row 2."),
    (CrossEntropy(names=["a"], neg_prefix="!"), X[:, :1], ["a", "!a", "a"], "to leave a candidate, got the only class negated in row 1."),
    (CrossEntropy(), X, [[0, 1], [7], [2]], f"{BAD_ID} 7 in row 1."),
    (CategoricalCrossentropy(), P, [[0, 1], [1], [2]], "to be single labels, got a list of 2 in row 0."),
    # rows
    (CrossEntropy(), X, np.eye(3)[:, :2], "expected truths of shape (3, 3) as guesses, got a float64 array of shape (3, 2)."),
    (CrossEntropy(), X, np.eye(3) * 1.5, "expected truth values in [0, 1], got 1.5 in row 0, column 0."),
    (CrossEntropy(), X, np.where(np.eye(3) > 0, np.nan, 0), "got nan in row 0, column 0."),
    (CategoricalCrossentropy(), P, np.eye(3) - 0.1, "got -0.1 in row 0, column 1."),
    (CrossEntropy(), X, [[0.5, 0.5], [1.0], [0.0, 1.0, 0.0]], "expected truth rows to have 3 numbers each, got ragged or mixed rows."),
    (CrossEntropy(), X, [np.eye(3)[0], np.ones(2), np.eye(3)[0]], "expected truth rows to have 3 numbers each, got ragged rows."),
    (CategoricalCrossentropy(label_smoothing=0.1), P, np.eye(3), "expected truths to be labels, to which alone label_smoothing applies"),
    (CategoricalCrossentropy(label_smoothing=0.7), P, [0, 1, 2], "expected label_smoothing below (C-1)/C = 0.666667 for 3 classes, got 0.7."),
    (CategoricalCrossentropy_v4(label_smoothing=0.1), P[:, :1] * 0 + 1, [0, 0, 0], "expected label_smoothing below (C-1)/C = 0 for 1 classes"),
    # guesses
    (CategoricalCrossentropy(), P - 0.2, [0, 1, 2], "expected guesses in [0, 1], got -0.1 in row 1, column 0."),
    (CategoricalCrossentropy(), np.where(P == 0.8, np.nan, P), [0, 1, 2], "got nan in row 1, column 1."),
    (CategoricalCrossentropy_v4(wrt="probs"), P * 2, [0, 1, 2], "got 1.6 in row 1, column 1."),
    (CategoricalCrossentropy_v4(), P / 2, [0, 1, 2], 'expected guesses with rows that sum to 1 (for outputs that are not a softmax take wrt="probs"), got 0.5 in row 0.'),
    (CategoricalCrossentropy(), P[0], [0], "expected guesses of shape (N, C), got shape (3,)."),
    (CategoricalCrossentropy(), [P], [[0, 1, 2]], "expected guesses to be an array (N, C), got a list of 1."),
    (CrossEntropy(), P[:, :0], [0, 1, 2], "expected guesses of shape (N, C), (C,) or (N, C, ...) with C >= 1, got shape (3, 0)."),
    (CrossEntropy(), np.float64(1.0), [0], "got shape ()."),
    (CrossEntropy(), X.astype(complex), [0, 1, 2], "expected guesses of real numbers, got a complex128 array of shape (3, 3)."),
    (CrossEntropy(), np.array(["a", "b"]), [0, 1], "expected guesses of real numbers"),
    (CrossEntropy(), X.astype(object), [0, 1, 2], "expected guesses of real numbers, got a object array of shape (3, 3)."),
    (CrossEntropy(), [[0.1, 0.2]], [0], "got a list of 1 without arrays; write np.array(guesses)."),
    (CrossEntropy(), None, [0], "expected guesses to be an array, got None."),
    (CrossEntropy(), np.ma.masked_array(X), [0, 1, 2], "expected guesses to be an array (give its mask as mask=~array.mask), got a masked array."),
    (MeanSquaredError(), X, X[:2], "expected truths of shape (3, 3) (that of guesses), got mismatched shape (2, 3)."),
    (MeanSquaredError(), X, X[:, :1], "got mismatched shape (3, 1)."),
    (MeanSquaredError(), X, [[1.0], [1.0, 2.0]], "expected truths to be an array, got a list of 2 of uneven parts."),
    (MeanSquaredError(), X, None, "expected truths to be an array, got None."),
    (MeanSquaredError(), X, np.array(["a"]), "expected truths of real numbers"),
    (BinaryCrossEntropyWithLogits(), X, X + 4, "expected truth values in [0, 1], got 2.39"),
    (BinaryCrossEntropyWithLogits(), X, X * np.nan, "got nan in row 0, column 0."),
    (BinaryCrossEntropyWithLogits(pos_weight=[1.0, 2.0]), X, P, "expected pos_weight of 3 (the last axis of guesses), got 2 values."),
    (CrossEntropy(class_weight=[1.0, 2.0]), X, [0, 1, 2], "expected class_weight one for each class of guesses, 3, got 2 values."),
    (InfoNCE(), X, None, "expected guesses to be a tuple (queries, keys), got a float64 array of shape (3, 3)."),
    (InfoNCE(), (X,), None, "expected guesses to be a tuple (queries, keys), got a tuple of 1."),
    (InfoNCE(), (X, X[:2]), None, "expected guesses of shape (3, 3) (that of queries), got mismatched shape (2, 3)."),
    (InfoNCE(), (X, X.astype("f")), None, "expected guesses all like the first, a float64 array"),
    (InfoNCE(), (X[0], X[0]), None, "expected guesses of shape (N, D), got queries of shape (3,)."),
    (InfoNCE(), (X, X), [0, 1, 2], "expected truths to be None, got a list of 3."),
    (L2Distance(), X, X[:2], "expected truths of shape (3, 3) (that of guesses), got mismatched shape (2, 3)."),
    (L2Distance(), X[0, 0], X[0, 0], "expected guesses of shape (N, D), got shape ()."),
    (CosineDistance(), X[0], X[0], "expected guesses of shape (N, D), got shape (3,)."),
    (CrossEntropy(), X[:, :2], [[0, 1], [1, 0], [0]], "expected a list of labels that leaves a class out (rows of 0 and 1 must be an array), got all 2 classes in row 0."),
    (CrossEntropy(), X[:, :2], [[False, True], [True, False], [True]], "got all 2 classes in row 0."),
    (CrossEntropy(), np.zeros((2, 3, 2)), [[0, 1], [0]], "expected truths to be lists of 2, nested 1 deep, got a list of 1."),
    (CrossEntropy(), np.zeros((2, 3, 2)), [0, 1], "expected truths to be lists of 2, nested 1 deep, got 0."),
    (CrossEntropy(validate="shape"), X, np.array([0, -1, 7]), "got undeclared id -1 in row 1."),
    (CrossEntropy(), X, ..., "expected truths beside guesses, got none."),
    (MeanSquaredError(), [np.float64(1), np.float64(2)], [0.0, 0.0], "expected guesses of sequence 0 to be an array, got a float64 array of shape ()."),
    (MeanSquaredError(), [X, X], [X, X[:, :2]], "expected truths of sequence 1 like that of sequence 0"),
    (MeanSquaredError(), [X, X], [X, [[1.0], [1.0, 2.0], [1.0]]], "expected truths of sequence 1 to be an array, got a list of 3 of uneven parts."),
    (InfoNCE(), ([X[:2], X[2:]], [X[:1], X[1:]]), None, "expected guesses of which each output has sequences of the same lengths, got [2, 1] and [1, 2]."),
    (L2Distance(), X * np.nan, X, "expected guesses without NaN, got nan in row 0, column 0."),
    (CrossEntropy(), np.zeros((2, 3, 4)), np.full((2, 4), 3), "got undeclared id 3 in row (0, 0)."),
    (CosineDistance(), X, X.tolist(), "expected truths to be an array, got a list of 3."),
    # sequences
    (SequenceCategoricalCrossentropy(), P, [0, 1, 2], "expected guesses to be a list of arrays (Ni, C) or a Ragged, got a float64 array of shape (3, 3); write [guesses] for one sequence."),
    (SequenceCategoricalCrossentropy(), [P, P], [[0, 1, 2]], "expected truths to be a list of 2, one part for each sequence of guesses, got a list of 1."),
    (SequenceCategoricalCrossentropy(), [P, P], [[0, 1, 2], [0, 1]], "expected truths of sequence 1 of length 3 (that of its guesses), got length 2."),
    (SequenceCategoricalCrossentropy(), [P, P], [[0, 1, 2], [0, 1, 9]], "got undeclared id 9 in row 2 of sequence 1."),
    (SequenceCategoricalCrossentropy(), [P[:0], P, P], [[], [0, 1, 2], np.array([0, 1, 9])], "got undeclared id 9 in row 2 of sequence 2."),
    (SequenceCategoricalCrossentropy(**ABC), [P], ["abc"], "expected truths of sequence 0 to be a list or array of 3, got 'abc'."),
    (SequenceCategoricalCrossentropy_v4(), [P, P * 2], [[0, 1, 2], [0, 1, 2]], "got 1.6 in row 1 of sequence 1, column 1."),
    (SequenceCategoricalCrossentropy_v4(), [P, P[:, :2]], [[0, 1, 2], [0, 1, 1]], "expected guesses of sequence 1 like those of sequence 0"),
    (SequenceCategoricalCrossentropy_v4(), None, [], "expected guesses to be a list of arrays (Ni, C) or a Ragged, got None."),
]  # fmt: skip


@pytest.mark.parametrize(
    "loss, guesses, truths, message", BAD, ids=[f"{i}-{type(b[0]).__name__}" for i, b in enumerate(BAD)]
)
def test_bad_input_gets_one_sentence(loss: Any, guesses: Any, truths: Any, message: str) -> None:
    for call in (loss, loss.get_grad, loss.get_loss):
        with pytest.raises(ValueError) as caught:
            call(guesses, truths)
        text = str(caught.value)
        assert message in text
        assert text.startswith("Cannot calculate ")
        assert "\n" not in text
        assert text.endswith(".")


WEIGHTS: list[tuple[dict[str, Any], str]] = [
    (dict(mask=[1, 0]), "expected mask that broadcasts to the values' shape (3,), got shape (2,)."),
    (dict(mask=np.ones((3, 3))), "got shape (3, 3)."),
    (dict(mask=[0.5, 1.5, 0]), "expected mask in [0, 1], got 1.5 in row 1."),
    (dict(mask=[0.5, -0.5, 0]), "got -0.5 in row 1."),
    (dict(mask=[0.5, np.nan, 0]), "got nan in row 1."),
    (dict(mask=["a", "b", "c"]), "expected mask of numbers or bools, got a <U1 array of shape (3,)."),
    (dict(mask=[[1], [1, 2]]), "expected mask to be an array, got a list of 2 of uneven parts."),
    (dict(mask=np.ma.masked_array([1, 1, 1], mask=[0, 1, 0])), "expected mask to be an array, got a masked array."),
    (dict(mask="all"), "expected mask to be an array of numpy as the guesses are, got 'all'."),
    (dict(sample_weight=[1.0, -1.0, 1.0]), "expected sample_weight of at least 0, got -1.0 in row 1."),
    (dict(sample_weight=[1.0, np.inf, 1.0]), "expected sample_weight to be finite, got inf."),
    (dict(sample_weight=[1.0, np.nan, 1.0]), "got nan in row 1."),
    (dict(sample_weight=np.ones(4)), "expected sample_weight that broadcasts to the values' shape (3,), got shape (4,)."),
]  # fmt: skip


@pytest.mark.parametrize("keywords, message", WEIGHTS, ids=lambda x: str(x)[:40])
def test_bad_masks_and_weights(keywords: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        CrossEntropy()(X, [0, 1, 2], **keywords)
    assert message in str(caught.value)


def test_weights_for_rows_cannot_become_weights_for_columns() -> None:
    square, wide = np.ones((3, 3)), np.ones((3, 4))
    with pytest.raises(ValueError, match=r"with 2 axes, \(3, 1\) for rows or \(1, 3\) for columns, got \(3,\)"):
        Huber()(square, square * 2, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="that broadcasts to the values' shape"):
        Huber()(wide, wide * 2, sample_weight=np.ones(3))
    by_column = Huber(reduction="sum").get_loss(wide, wide * 2, sample_weight=np.array([1.0, 0.0, 0.0, 0.0]))
    assert by_column == pytest.approx(1.5)
    assert Huber(reduction="sum").get_loss(wide, wide * 2, sample_weight=2.0) == pytest.approx(12.0)
    assert Huber(reduction="sum").get_loss(wide, wide * 2, mask=False) == 0.0


def test_only_what_counts_is_checked() -> None:
    """A missing row may hold any guess, and a masked one any guess and any truth."""
    bad = P.copy()
    bad[1] = np.nan
    loss = CategoricalCrossentropy_v4(**MESSY)
    assert_same(loss(bad, ["a", "", "c"]), loss(np.where(np.isnan(bad), 1 / 3, bad), ["a", "", "c"]), rtol=1e-14)
    expected = loss(P[[0, 2]], ["a", "c"])[1]
    assert CrossEntropy().get_loss(X, [2**70, 1, 2], mask=[0, 1, 1]) == CrossEntropy().get_loss(X[1:], [1, 2])
    assert CrossEntropy().get_loss(X, [[0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], mask=[0, 1, 1]) == pytest.approx(
        CrossEntropy().get_loss(X[1:], [1, 2])
    )
    assert CrossEntropy(names=["a"], neg_prefix="!").get_loss(X[:2, :1], ["!a", "a"], mask=[0, 1]) == 0.0
    for nonsense in ("b", "dog", "!dog", -5, 2**70, float("nan"), object(), set(), {"a", "!b"}, {"dog"}, b"x"):
        assert_same(loss(bad, ["a", nonsense, "c"], mask=[1, 0, 1])[1], expected, rtol=1e-14)
        with pytest.raises(ValueError):
            loss(bad, ["a", nonsense, "c"], mask=[0, 1, 1])
    for truths in (
        np.array([0, -1, 2]),
        np.array([0, 99, 2], dtype="u1"),
        [0, 7, 2],
        np.array([[1, 0, 0], [9, np.nan, 3], [0, 0, 1]]),
    ):
        assert_same(loss(bad, truths, mask=[1, 0, 1])[1], expected, rtol=1e-14)
    sequences = SequenceCategoricalCrossentropy_v4(**MESSY)
    for parts in ([["a", "dog"], ["c"]], [np.array([0, 9]), [2]], [["a", {"dog"}], np.array([2])]):
        assert_same(sequences([bad[:2], bad[2:]], parts, mask=[np.array([1, 0]), [1]])[1], expected, rtol=1e-14)
    truths = P.copy()
    truths[1] = [7.0, np.nan, -1.0]
    keep = np.array([[True], [False], [True]])
    assert_same(
        BinaryCrossEntropyWithLogits().get_loss(X, truths, mask=keep),
        BinaryCrossEntropyWithLogits().get_loss(X[[0, 2]], P[[0, 2]]),
        rtol=1e-14,
    )
    with pytest.raises(ValueError, match=r"truth values in \[0, 1\], got 7.0 in row 1"):
        BinaryCrossEntropyWithLogits()(X, truths)


def test_validate_shape_skips_the_range_and_full_does_not() -> None:
    assert np.isfinite(CategoricalCrossentropy_v4(validate="shape")(P * 0.5, [0, 1, 2])[1])
    assert BinaryCrossEntropyWithLogits(validate="shape").get_loss(X, P * 2) is not None
    for validate in ("auto", "full"):
        with pytest.raises(ValueError, match="rows that sum to 1"):
            CategoricalCrossentropy_v4(validate=validate)(P * 0.5, [0, 1, 2])


def test_a_python_error_is_no_value_error_about_data() -> None:
    with pytest.raises(TypeError, match="No backend for"):
        lossreg.CrossEntropy()(X, _Foreign())
    with pytest.raises(TypeError, match="No backend for"):
        lossreg.MeanSquaredError()(_Foreign(), X)


class _Foreign:
    """Looks like an array of a library that no backend handles."""

    dtype, ndim, shape = np.dtype("f4"), 2, (3, 3)


MASKED = np.ma.array([0, 1, 2], mask=[False, True, False])
MASKED_ROWS = np.ma.array(np.eye(3), mask=np.eye(3))


@pytest.mark.parametrize(
    "call",
    [
        lambda: CrossEntropy()(X, MASKED), lambda: CrossEntropy()(X, list(MASKED_ROWS)), lambda: CrossEntropy()(X, [np.ma.masked, 0, 1]),
        lambda: CrossEntropy()(X[0], MASKED[1]), lambda: CrossEntropy()(X[0], MASKED_ROWS[0]), lambda: CrossEntropy()(X[None], MASKED_ROWS[None]),
        lambda: CrossEntropy()([X, X], [MASKED, MASKED]), lambda: CrossEntropy()([X, X], [MASKED_ROWS, MASKED_ROWS]), lambda: CrossEntropy()([X], [[0, MASKED[1], 2]]),
        lambda: MeanSquaredError()(X, MASKED_ROWS), lambda: MeanSquaredError()(X, list(MASKED_ROWS)), lambda: MeanSquaredError()([X, X], [MASKED_ROWS, X]),
        lambda: CrossEntropy()(X, [0, 1, 2], mask=MASKED), lambda: MeanSquaredError()(X, X, mask=list(MASKED_ROWS)), lambda: MeanSquaredError()([X], [X], mask=[MASKED_ROWS]),
        lambda: MeanSquaredError()(X, X, sample_weight=list(MASKED_ROWS)), lambda: lossreg.MultiLabelMargin()(X, np.ma.array([[0, -1, -1]] * 3)),
        lambda: lossreg.AverageState.from_values(X, mask=MASKED_ROWS), lambda: lossreg.AverageState.from_values(MASKED_ROWS),
        lambda: lossreg.metrics.Accuracy()(logits=X, labels=[MASKED[1], 0, 1]), lambda: lossreg.metrics.Std()(values=X, mask=MASKED),
    ],
)  # fmt: skip
def test_masked_arrays_never_lose_their_mask(call: Any) -> None:
    with pytest.raises(ValueError, match="a masked array"):
        call()


def test_lists_that_contain_themselves_are_an_error_in_words() -> None:
    itself: list[Any] = [0, 1]
    itself.insert(0, itself)
    for truths in (itself, [itself, 0, 1], [[itself], 0, 1]):
        with pytest.raises(ValueError, match="got a list of"):
            CrossEntropy()(X, truths)
    for call in (lambda: CrossEntropy()(itself, [0, 1, 2]), lambda: MeanSquaredError()(X, itself)):
        with pytest.raises(ValueError, match=r"expected .* to be an array.*, got a list of 3"):
            call()


def test_numbers_in_rows_that_no_float_holds_are_an_error_in_words() -> None:
    with pytest.raises(ValueError, match="expected truth rows to have 3 numbers each"):
        CrossEntropy()(X, [[0.5, 10**400, 0.0], [1.0, 0, 0], [1.0, 0, 0]])
