"""Losses of vectors: cosines, distances, triplets and InfoNCE."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import loss
from support.nested import assert_same, each
from support.table import make


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_similarity_along_any_axis_of_a_cube(axis: int, rng: Any) -> None:
    a, b = rng.normal(size=(2, 4, 4, 4))
    calculator = loss("similar", axis=axis, reduction="sum")
    grads = calculator.get_grad((a, b))
    last = loss("similar", axis=-1, reduction="sum")
    expected = last.get_grad((np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)))
    assert_same(grads, tuple(np.moveaxis(g, -1, axis) for g in expected), rtol=1e-13)
    out = (np.empty_like(a), np.empty_like(b))
    assert_same(calculator.get_grad((a, b), out=out), grads)
    assert_same(
        calculator.get_loss((a, b)), last.get_loss((np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1))), rtol=1e-13
    )
    with pytest.raises(ValueError, match="with 1 or more along axis 3"):
        loss("similar", axis=3)((a, b))


def test_sequences_that_cannot_be_joined_are_refused() -> None:
    pair = [np.ones((2, 3)), np.ones((1, 3))]
    with pytest.raises(ValueError, match="sequences cannot be joined along the axis of a value"):
        loss("similar", axis=0)((pair, pair))
    log_probs = np.full((4, 1, 3), -np.log(3))
    with pytest.raises(ValueError, match=r"of a sequence of shape \(Ti, C\), got shape \(8, 1, 3\)"):
        loss("ctc")([log_probs, log_probs], ([[1]], [8], [1]))
    assert loss("similar", axis=-1)((pair, pair))[1][1].shape == (1,)


@pytest.mark.parametrize(
    "dtype, sizes",
    [(np.float32, (1e-20, 1e-5, 1.0, 1e10, 1e20, 1e37)), (np.float64, (1e-200, 1.0, 1e100, 1e200, 1e300))],
)
def test_cosines_of_long_and_short_vectors(dtype: Any, sizes: Any, rng: Any) -> None:
    a, b = rng.normal(size=(2, 1, 5)).astype(dtype)
    expected = loss("similar", eps=1e-300).get_loss((a.astype(float), b.astype(float)))[0]
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    for size in sizes:
        x, y = a * dtype(size), b * dtype(size)
        if size > 1e-5:
            grads, values = loss("similar")((x, y))
            assert_same(values, np.array([expected]), rtol=rtol)
            assert all(np.isfinite(g).all() for g in grads)
            grads, value = loss("cosineloss")((x, y), [1])
            assert_same(value, 1 - expected, rtol=rtol, atol=rtol)
            assert all(np.isfinite(g).all() for g in grads)
        else:  # lengths below 1e-6 count less and less
            assert loss("cosineloss").get_loss((x, y), [1]) >= 1 - abs(expected)


inf, nan = np.inf, np.nan
A = np.array


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


def test_length_of_vectors_does_not_count(rng: Any) -> None:
    """Cosines of lengths whose squares overflow or vanish; the slope goes with 1 / length."""
    queries, keys = rng.normal(size=(2, 4, 3))
    (d_queries, d_keys), value = make("InfoNCE.v1")((queries, keys))
    for scale in (1e200, 1e-200):
        (found_queries, found_keys), found = make("InfoNCE.v1")((queries * scale, keys / scale))
        assert found == pytest.approx(value, rel=1e-13)
        assert_same(found_queries * scale, d_queries, rtol=1e-11, atol=1e-14)
        assert_same(found_keys / scale, d_keys, rtol=1e-11, atol=1e-14)


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


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, inf])
def test_a_distance_to_infinity(p: float) -> None:
    """The component that is infinitely far is all of the length."""
    (d_a, d_b), value = make("PairwiseDistance.v1", p=p)((np.array([[1.0, -inf, 2.0]]), np.zeros((1, 3))))
    assert value == inf
    assert_same((d_a, d_b), (np.array([[0.0, -1.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])))


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_no_sequences_along_any_axis(axis: int) -> None:
    assert make("CosineSimilarity.v1", axis=axis, reduction="mean").get_state(([], []), None).compute() == 0.0


def test_distances_that_overflow_have_a_difference(backend: Any) -> None:
    a = np.array([[3e38, 0.0]], np.float32)
    p, n = np.array([[-3e38, 0.0]], np.float32), np.array([[-2.9e38, 0.0]], np.float32)
    for power in (1.0, 2.0, math.inf):
        for swap in (False, True):
            calculator = loss("triplet", p=power, swap=swap)
            wide = each(lambda x: x.astype(float), (a, p, n))
            grads, value = calculator((a, p, n))
            expected = calculator(wide)
            if expected[1] < 3.4e38:
                assert_same(value, expected[1], rtol=1e-5)
            assert_same(grads, expected[0], rtol=1e-5, atol=1e-6)
    assert_same(loss("pairwise", p=0.0, reduction="sum")((a, p))[0], (np.zeros((1, 2)),) * 2)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e30, 1e300])
def test_temperatures_that_are_no_number_of_the_dtype(temperature: float, rng: Any) -> None:
    queries, keys = rng.normal(size=(2, 4, 3)).astype(np.float32)
    grads, value = lossreg.InfoNCE(temperature=temperature)((queries, keys))
    assert not np.isnan(value)
    assert not any(np.isnan(g).any() for g in grads)
