"""Thinc's calculators and their twins, v4, from their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    CategoricalCrossentropy,
)
from support.nested import assert_same
from support.table import make

inf, nan = np.inf, np.nan
X = np.array([[0.3, 0.5], [0.2, 0.9]])


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_in_probabilities_end_at_the_largest_number(dtype: Any, backend: Any) -> None:
    loss = make("CategoricalCrossentropy.v4", wrt="probs", class_weight=[100.0, 1.0], reduction="sum")
    grad = loss.get_grad(np.array([[0.0, 1.0]], dtype), [0])
    assert_same(grad, np.array([[-np.finfo(dtype).max, 0.0]], dtype))


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


def test_nothing_in_thincs_calculator_with_smoothing() -> None:
    grad, loss = CategoricalCrossentropy(label_smoothing=0.1)(np.zeros((0, 1)), [])
    assert grad.shape == (0, 1)
    assert loss == 0.0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_slopes_in_probabilities_are_finite_under_any_weight(dtype: str, backend: Any) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    p = np.array([[0.0, 1.0], [0.5, 0.5]]).astype(dtype)
    for truths in ([0, 0], np.array([[1.0, 0.0], [1.0, 0.0]])):
        for options, beside in (
            (dict(class_weight=[100.0, 1.0]), {}), (dict(class_weight=[1e60, 1.0]), {}),
            ({}, dict(sample_weight=7.0)), ({}, dict(sample_weight=[1e60, 1.0])), ({}, {}),
        ):  # fmt: skip
            calculator = lossreg.CategoricalCrossentropy_v4(wrt="probs", reduction="sum", **options)
            grad = calculator.get_grad(p, truths, **beside).astype(float)
            assert np.isfinite(grad).all()
            assert grad[0, 0] < 0
            assert grad[0, 0] <= grad[1, 0]
