"""Every form of truths that is understood, and that forms which mean the same give the same."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    BinaryCrossEntropyWithLogits,
    CategoricalCrossentropy,
    CategoricalCrossentropy_v4,
    ConfigError,
    CrossEntropy,
    SequenceCategoricalCrossentropy,
    SequenceCategoricalCrossentropy_v4,
)
from support.foreign import bfloat16, installed
from support.nested import assert_same

P = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
X = np.log(P)
ABC = dict(names=["a", "b", "c"])
MESSY = dict(ABC, neg_prefix="!", missing_value="")


SAME_IDS: list[Any] = [
    [0, 1, 2], (0, 1, 2), [np.int8(0), 1, np.uint64(2)], ["a", "b", "c"], ("a", "b", "c"), ["a", 1, np.str_("c")],
    np.array([0, 1, 2]), np.array([0, 1, 2], dtype="u1"), np.array([0, 1, 2], dtype=">i2"), np.array(["a", "b", "c"]),
    np.array(["a", "b", "c"], dtype=object), np.array([0, "b", 2], dtype=object), np.array([0, 1, 2], dtype=np.uint64),
]  # fmt: skip


@pytest.mark.parametrize("truths", SAME_IDS, ids=repr)
@pytest.mark.parametrize(
    "make, guesses", [(CategoricalCrossentropy, P), (CategoricalCrossentropy_v4, P), (CrossEntropy, X)]
)
def test_labels_in_every_container(truths: Any, make: Any, guesses: Any) -> None:
    assert_same(make(**MESSY)(guesses, truths), make()(guesses, np.array([0, 1, 2])))
    dense = np.eye(3)
    assert_same(make()(guesses, dense), make()(guesses, np.array([0, 1, 2])), rtol=1e-14)
    assert_same(make()(guesses, dense.astype(int)), make()(guesses, np.array([0, 1, 2])), rtol=1e-14)


@pytest.mark.parametrize("truths", [[True, False, True], np.array([True, False, True])], ids=repr)
def test_bools_are_the_ids_0_and_1(truths: Any) -> None:
    assert_same(CrossEntropy()(X, truths), CrossEntropy()(X, [1, 0, 1]))


@pytest.mark.parametrize(
    "truths, options",
    [
        (["a", None, "c"], {}), (["a", "", "c"], {}), ([0, None, 2], {}), (np.array([0, None, 2], dtype=object), {}),
        ([0, 1, 2], dict(missing_value=1)), (np.array([0, 1, 2]), dict(missing_value=1)), ([0, -1, 2], dict(missing_value=-1)),
        (np.array([0, 77, 2]), dict(missing_value=77)), (np.eye(3), dict(missing_value=1)), (["a", "?", 2], dict(missing_value="?")),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize(
    "make, guesses", [(CategoricalCrossentropy, P), (CategoricalCrossentropy_v4, P), (CrossEntropy, X)]
)
def test_missing_labels(truths: Any, options: Any, make: Any, guesses: Any) -> None:
    loss = make(**{**MESSY, **options})
    grad, _ = loss(guesses, truths)
    assert not grad[1].any()
    full = make(**ABC)
    expected = full.get_grad(guesses[[0, 2]], [0, 2])
    if make is CategoricalCrossentropy:  # Thinc divides by all rows
        expected = expected * 2 / 3
    assert_same(grad[[0, 2]], expected, rtol=1e-14)


@pytest.mark.parametrize(
    "sets, same_as",
    [
        ([{"a"}, ("b",), ["c"]], ["a", "b", "c"]),
        ([{"a", "b"}, {0, "c"}, None], ["!c", "!b", ""]),
        ([{"!a", "!b"}, {"!a"}, {"b", "c"}], ["c", "!a", "!a"]),
        ([frozenset({1}), {None}, (None,)], [1, None, None]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make, guesses", [(CategoricalCrossentropy_v4, P), (CrossEntropy, X)])
def test_candidate_sets(sets: Any, same_as: Any, make: Any, guesses: Any) -> None:
    assert_same(make(**MESSY)(guesses, sets), make(**MESSY)(guesses, same_as), rtol=1e-14)


def test_a_set_of_all_classes_says_nothing() -> None:
    grad, loss = CrossEntropy(**ABC)(X, [{"a", "b", "c"}, "a", "a"])
    assert not grad[0].any()
    assert loss == pytest.approx(CrossEntropy(**ABC, reduction="sum").get_loss(X[1:], [0, 0]) / 3)


def test_lists_of_floats_are_rows_and_lists_of_ints_are_sets() -> None:
    rows = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert_same(CrossEntropy()(X, rows), CrossEntropy()(X, np.array(rows)))
    assert_same(CrossEntropy()(X, [np.array(row) for row in rows]), CrossEntropy()(X, np.array(rows)))
    assert_same(CrossEntropy()(X, [[0, 1], [1], [2]]), CrossEntropy()(X, [{0, 1}, 1, 2]))


def test_unbatched_and_class_axis_in_the_middle() -> None:
    assert_same(CrossEntropy(**ABC)(X[0], "b"), (CrossEntropy()(X[:1], [1])[0][0], CrossEntropy()(X[:1], [1])[1]))
    for truth in (1, np.int64(1), np.array(1), np.array("b"), np.array([0.0, 1.0, 0.0])):
        assert_same(CrossEntropy(**ABC)(X[0], truth), CrossEntropy(**ABC)(X[0], "b"), rtol=1e-14)
    assert_same(CrossEntropy(**ABC).get_loss(X[0], None), 0.0)
    x = np.arange(24.0).reshape(2, 3, 4)
    truths = np.arange(8).reshape(2, 4) % 3
    flat = np.moveaxis(x, 1, -1).reshape(-1, 3)
    assert_same(CrossEntropy().get_loss(x, truths), CrossEntropy().get_loss(flat, truths.ravel()))
    names = np.array(["a", "b", "c"])[truths]
    assert_same(CrossEntropy(**ABC)(x, names), CrossEntropy()(x, truths))
    assert_same(CrossEntropy(**ABC)(x, names.tolist()), CrossEntropy()(x, truths))


def test_pandas_labels() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert_same(
        CrossEntropy(**ABC)(X, pandas.Series(["a", None, "c"], dtype=object)), CrossEntropy(**ABC)(X, ["a", None, "c"])
    )
    assert_same(CrossEntropy()(X, pandas.Series([0, 1, 2])), CrossEntropy()(X, [0, 1, 2]))
    for dtype in ("str", "category", "string"):
        labels = pandas.Series(["a", None, "c"], dtype=dtype)
        assert_same(CrossEntropy(**ABC)(X, labels), CrossEntropy(**ABC)(X, ["a", None, "c"]))
    for ids in (pandas.Series([0, None, 2], dtype="Int64"), pandas.Series([0, None, 2])):
        assert_same(CrossEntropy()(X, ids), CrossEntropy()(X, [0, None, 2]))
        assert_same(
            SequenceCategoricalCrossentropy_v4()([P, P], [ids, ids]),
            SequenceCategoricalCrossentropy_v4()([P, P], [[0, None, 2]] * 2),
        )
    assert_same(CrossEntropy()(X, pandas.DataFrame(np.eye(3))), CrossEntropy()(X, np.eye(3)))


@pytest.mark.parametrize(
    "dtype, values",
    [("category", [0, None, 2]), ("Int64", [0, None, 2]), ("UInt8", [0, None, 2]), ("boolean", [False, None, True])],
)
def test_pandas_ids_beside_missing_ones(dtype: str, values: list[Any]) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    series = pandas.Series(values, dtype=dtype)
    for labels in (series, series.array, pandas.Index(series), series.astype("category")):
        assert_same(CrossEntropy()(X, labels), CrossEntropy()(X, values))


def test_pandas_frames_of_nullable_columns_are_rows() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(np.eye(3) * 0.5 + 0.25).convert_dtypes()
    assert_same(CrossEntropy()(X, frame), CrossEntropy()(X, np.eye(3) * 0.5 + 0.25))
    frame.iloc[1, 2] = None
    with pytest.raises(ValueError, match=r"expected truth values in \[0, 1\], got nan in row 1, column 2"):
        CrossEntropy()(X, frame)


def test_scalars_and_plans_of_pandas_are_named_in_errors() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    for label in (pandas.NA, pandas.NaT, pandas.Timestamp(0), pandas.Interval(0, 1)):
        with pytest.raises(
            ValueError, match=r"expected truths to be ids, names, None or sets of them, got .* in row 1"
        ):
            CrossEntropy()(X, [0, label, 2])
        with pytest.raises(ValueError, match="expected truths to be a list, a tuple or an array, got"):
            CrossEntropy()(X, label)
    with pytest.raises(TypeError, match=r"No backend for pandas\..*GroupBy"):
        CrossEntropy()(X, pandas.Series([0, 1, 2]).groupby([0, 1, 1]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    "loss, guesses",
    [
        (CrossEntropy(), X), (CrossEntropy(label_smoothing=0.1, class_weight=[1.0, 2.0, 0.5]), X),
        (CrossEntropy(missing_value=1), X), (CategoricalCrossentropy(), P),
        (CategoricalCrossentropy_v4(), P), (CategoricalCrossentropy_v4(wrt="probs"), P),
        (lossreg.LinearCrossEntropy(), (X[:, :2], X[:, 1:])), (lossreg.KLDivergence(), X), (BinaryCrossEntropyWithLogits(), X),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_rows_of_bfloat16_count_as_the_same_rows_in_float32(loss: Any, guesses: Any, dtype: str) -> None:
    half = bfloat16()
    make = np.dtype(half if dtype == "bfloat16" else dtype)
    guesses = tuple(x.astype(make) for x in guesses) if isinstance(guesses, tuple) else guesses.astype(make)
    if dtype == "bfloat16" and getattr(loss, "wrt", "") == "logits":
        loss = dataclasses.replace(loss, validate="shape")  # rounded rows do not sum to 1
    rows = np.array([[0.2, 0.3, 0.5], [0.05, 0.9, 0.05], [0.0, 0.25, 0.75]]).astype(half)
    wide = rows.astype(np.float32)
    expected = loss(guesses, wide)
    assert_same(loss(guesses, rows), expected)
    if isinstance(loss, (CrossEntropy, CategoricalCrossentropy, CategoricalCrossentropy_v4)):
        assert_same(loss(guesses, [list(row) for row in rows]), loss(guesses, [row.tolist() for row in wide]))
    if isinstance(loss, CrossEntropy) and not isinstance(guesses, tuple):
        assert_same(loss(guesses[0], rows[0]), loss(guesses[0], wide[0]))
        assert_same(loss([guesses], [rows]), loss([guesses], [wide]))
    for name in ("torch", "jax"):
        if importlib.util.find_spec(name):
            with installed(name) as library:
                theirs = library.make(wide)
                theirs = theirs.bfloat16() if name == "torch" else theirs.astype("bfloat16")
                assert_same(loss(guesses, theirs), expected)


def test_rows_of_bfloat16_are_checked() -> None:
    rows = np.array([[0.5, 2.0, 0.0]] * 3).astype(bfloat16())
    with pytest.raises(ValueError, match=r"expected truth values in \[0, 1\], got 2.0 in row 0, column 1"):
        CrossEntropy()(X, rows)
    with pytest.raises(ValueError, match="a bfloat16 array of shape"):
        CrossEntropy()(X, rows[:, :2])


def test_a_missing_value_that_reads_as_a_negation_is_refused() -> None:
    message = "missing_value: '!b' reads as the negation of 'b' with neg_prefix '!'"
    for make, guesses in ((CategoricalCrossentropy, P), (CategoricalCrossentropy_v4, P), (CrossEntropy, X)):
        with pytest.raises(ConfigError, match=message):
            make(**ABC, neg_prefix="!", missing_value="!b")(guesses, ["!b", "a", "c"])
    with pytest.raises(ConfigError, match=message):
        lossreg.metrics.Accuracy(**ABC, neg_prefix="!", missing_value="!b")(logits=X, labels=["!b", "a", "c"])
    # "!x" is the negation of nothing
    assert_same(
        CrossEntropy(**ABC, neg_prefix="!", missing_value="!x")(X, ["!x", "!a", "c"]),
        CrossEntropy(**ABC, neg_prefix="!")(X, [None, "!a", "c"]),
    )


def test_the_class_of_a_missing_value_never_occurs() -> None:
    for missing, labels in (("b", ["a", "b", "c"]), (1, [0, 1, 2]), (1, np.array([0, 1, 2]))):
        assert_same(CrossEntropy(**ABC, missing_value=missing)(X, labels), CrossEntropy(**ABC)(X, [0, None, 2]))


def test_without_a_prefix_no_label_is_negated() -> None:
    for prefix in (None, ""):
        loss = CrossEntropy(names=["a", "!a", "c"], neg_prefix=prefix)
        assert_same(loss(X, ["a", "!a", "c"]), CrossEntropy()(X, [0, 1, 2]))


def test_a_name_may_start_with_the_prefix_if_nothing_is_called_like_its_rest() -> None:
    loss = CrossEntropy(names=["a", "!b", "c"], neg_prefix="!")
    assert_same(loss(X, ["!a", "!b", "!!b"]), CrossEntropy()(X, [{1, 2}, 1, {0, 2}]))


@pytest.mark.parametrize(
    "label, got",
    [(10**5000, "an int of 16610 bits"), ("x" * 10**7, r"unknown name 'x+\.\.\.")],
    ids=["a large id", "a long name"],
)
def test_labels_of_any_size_fit_into_an_error(label: Any, got: str) -> None:
    for labels in ([label, 0, 1], [{label}, {0}, {1}]):
        with pytest.raises(ValueError, match=got) as caught:
            CrossEntropy(**ABC)(X, labels)
        assert len(str(caught.value)) < 200


def test_sequences_with_truths_of_different_forms() -> None:
    guesses = [P, P[:1], P[:0], P[:2]]
    truths: list[Any] = [np.eye(3), [1], np.zeros(0, int), np.array([2, 0])]
    for make in (SequenceCategoricalCrossentropy, SequenceCategoricalCrossentropy_v4):
        assert_same(make()(guesses, truths), make()(guesses, [[0, 1, 2], [1], [], [2, 0]]), rtol=1e-14)
        assert_same(make()(tuple(guesses), tuple(truths)), make()(guesses, truths))
    mixed: list[Any] = [["a", "!b", None], np.array([1]), [], [{"a", "c"}, "c"]]
    loss = SequenceCategoricalCrossentropy_v4(**MESSY)
    flat = CategoricalCrossentropy_v4(**MESSY)(np.concatenate(guesses), ["a", "!b", None, 1, {"a", "c"}, "c"])
    assert_same(np.concatenate(loss(guesses, mixed)[0]), flat[0], rtol=1e-14)
    assert_same(loss(guesses, mixed)[1], flat[1], rtol=1e-14)
    with pytest.raises(ValueError, match="negated labels or label sets where another sequence has dense rows"):
        loss([P, P], [np.eye(3), ["!a", "b", "c"]])
    assert loss([], []) == ([], 0.0)
    assert SequenceCategoricalCrossentropy(**MESSY)([], []) == ([], 0.0)
