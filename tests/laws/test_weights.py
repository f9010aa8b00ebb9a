"""Weights of any size: of items, of classes, of masks; recomputed in float64 from the definitions of the reductions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lossreg import (
    CrossEntropy,
    InfoNCE,
    loss,
    registry,
)
from support.devices import to_device, to_host
from support.nested import assert_same

POWERS = [-300, -60, -45, -30, 30, 45, 300]
REDUCTIONS = ["mean", "sum", "none", "batch_mean", "weighted_mean", "sequence_mean"]
N, C = 6, 4


def rows_of(rng: Any, dtype: Any) -> tuple[Any, Any]:
    return rng.normal(size=(N, C)).astype(dtype), rng.integers(0, C, N)


def close(dtype: Any) -> float:
    return {np.float16: 2e-3, np.float32: 3e-6, np.float64: 1e-14}[dtype]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("alias", ["mse", "ce", "nll", "multimargin", "pairwise", "InfoNCE.v1", "ctc", "linearce"])
def test_the_size_of_all_sample_weights_changes_no_weighted_mean(
    alias: str, dtype: Any, backend: Any, rng: Any
) -> None:
    guesses, truths = rows_of(rng, dtype)
    shape: tuple[int, ...] = (N,)
    if alias == "mse":
        truths, shape = rng.normal(size=(N, C)), (N, C)
    elif alias in ("pairwise", "InfoNCE.v1"):
        guesses, truths = (guesses, rng.normal(size=(N, C)).astype(dtype)), None
    elif alias == "linearce":
        guesses = (guesses, rng.normal(size=(C, C)).astype(dtype))
    elif alias == "ctc":
        guesses, truths = np.log(rng.dirichlet(np.ones(C), (5, N))).astype(dtype), (truths[:, None] % 3 + 1, None, None)
    weight = rng.random(shape)
    weight[1] = 0
    cls = registry.losses.get(alias) if ".v" in alias else type(loss(alias))
    calculator = cls(reduction="weighted_mean")
    expected = calculator(guesses, truths, sample_weight=weight)
    assert np.isfinite(expected[1])
    for power in POWERS:
        grad, value = calculator(guesses, truths, sample_weight=weight * 10.0**power)
        assert_same(value, expected[1], rtol=close(np.float64) if dtype == np.float64 else 1e-6)
        assert_same(grad, expected[0], rtol=close(dtype), atol=0.1 * close(dtype))


@pytest.mark.parametrize("alias, options, reduction", [
    ("ce", {}, "mean"), ("ce", dict(label_smoothing=0.2), "mean"), ("ce", dict(label_smoothing=0.2), "weighted_mean"),
    ("nll", {}, "mean"), ("linearce", dict(label_smoothing=0.1), "mean"), ("multimargin", {}, "weighted_mean"),
    ("CategoricalCrossentropy.v4", dict(wrt="probs"), "mean"),
    ("CategoricalCrossentropy.v4", dict(label_smoothing=0.2), "sequence_mean"),
    ("bcelogits", {}, "weighted_mean"),
])  # fmt: skip
def test_the_size_of_all_class_weights_changes_no_mean(
    alias: str, options: Any, reduction: Any, backend: Any, rng: Any
) -> None:
    guesses, truths = rows_of(rng, np.float32)
    if alias.startswith("Categorical"):
        guesses = rng.dirichlet(np.ones(C), N).astype(np.float32)
    elif alias == "linearce":
        guesses = (guesses, np.eye(C, dtype=np.float32))
    elif alias == "bcelogits":
        truths = rng.random((N, C))
    cls = registry.losses.get(alias) if ".v" in alias else type(loss(alias))
    weight = [0.5, 1.0, 3.0, 0.25]
    mask = None if alias == "bcelogits" else [1, 1, 0, 1, 1, 1]
    expected = cls(reduction=reduction, class_weight=weight, **options)(guesses, truths, mask=mask)
    for power in POWERS:
        scaled = cls(reduction=reduction, class_weight=[w * 10.0**power for w in weight], **options)
        found = scaled(guesses, truths, mask=mask)
        assert_same(found, expected, rtol=2e-6, atol=1e-9)


def test_the_size_of_all_fractions_of_a_mask_changes_no_mean(backend: Any, rng: Any) -> None:
    guesses, truths = rows_of(rng, np.float32)
    fractions = rng.random(N)
    fractions[2] = 0
    for reduction in ("mean", "weighted_mean", "sequence_mean"):
        calculator = loss("ce", reduction=reduction)
        expected = calculator(guesses, truths, mask=fractions)
        for power in (-300, -100, -45):
            found = calculator(guesses, truths, mask=fractions * 10.0**power)
            assert_same(found, expected, rtol=1e-6, atol=1e-9)


def test_weights_whose_product_is_no_number_make_a_mean(backend: Any, rng: Any) -> None:
    guesses, truths = rows_of(rng, np.float32)
    weight = rng.random(N)
    expected = loss("ce", [1.0, 2.0, 3.0, 4.0], reduction="weighted_mean")(guesses, truths, sample_weight=weight)
    for size in (1e250, 1e-250):
        calculator = loss("ce", [size, 2 * size, 3 * size, 4 * size], reduction="weighted_mean")
        assert_same(calculator(guesses, truths, sample_weight=weight * size), expected, rtol=1e-6, atol=1e-9)


def test_a_weight_that_is_masked_does_not_hide_the_others(backend: Any) -> None:
    guesses = np.array([1.0, 2.0, 3.0], np.float32)
    calculator = loss("mse", reduction="weighted_mean")
    grad, value = calculator(guesses, np.zeros(3), mask=[1, 1, 0], sample_weight=[1e-50, 1e-50, 1e100])
    assert_same(value, 2.5, rtol=1e-7)
    assert_same(grad, np.array([1.0, 2.0, 0.0], np.float32), rtol=1e-6)
    only = loss("ce", [1e-60, 1.0])  # the weight of a class that no row has
    assert_same(only.get_loss(np.zeros((2, 2), np.float32), [0, 0]), math.log(2), rtol=1e-6)


def test_gradients_that_are_numbers_are_right_beside_weights_that_are_not(backend: Any) -> None:
    """With a sum the weight 1e50 makes 1e20 of the slope 1e-30, and 0 of 0."""
    guesses = np.array([5e-31, 0.0, 1.0], np.float32)
    grad, value = loss("mse", reduction="sum")(guesses, np.zeros(3), sample_weight=1e50)
    assert_same(value, 1e50, rtol=1e-6)
    assert_same(grad, np.array([1e20, 0.0, np.inf], np.float32), rtol=1e-6)
    values = loss("l1", reduction="none").get_loss(guesses, np.zeros(3), sample_weight=[1e50, 1e50, 1e-50])
    assert_same(values, np.array([5e19, 0.0, 0.0], np.float32), rtol=1e-6)
    assert_same(loss("mse", reduction="sum").get_grad(guesses, np.zeros(3), sample_weight=1e-50), np.zeros(3))


def test_states_hold_the_true_total_and_count(backend: Any, rng: Any) -> None:
    guesses, truths = rows_of(rng, np.float32)
    calculator = loss("ce", [2e40, 1e40, 3e40, 1e40], reduction="weighted_mean")
    weight = rng.random(N) * 1e-60
    parts = [
        calculator.get_state(guesses[part], truths[part], sample_weight=weight[part])
        for part in (slice(0, 2), slice(2, N))
    ]
    whole = calculator.get_state(guesses, truths, sample_weight=weight)
    classes = np.array([2e40, 1e40, 3e40, 1e40])[truths]
    assert_same(whole.count, (classes * weight).sum(), rtol=1e-14)
    merged = parts[0].merge(parts[1])
    assert_same([merged.total, merged.count], [whole.total, whole.count], rtol=1e-6)
    assert_same(merged.compute(), calculator.get_loss(guesses, truths, sample_weight=weight), rtol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool, np.float16])
def test_weights_of_any_kind_are_multiplied_as_numbers(kind: Any, backend: Any) -> None:
    guesses = np.array([1.0, 2.0, 3.0], np.float32)
    weight = np.array([200, 0, 100]).astype(kind)
    mask = np.array([1, 1, 1]).astype(kind)
    found = loss("mse", reduction="weighted_mean")(guesses, np.zeros(3), mask=mask, sample_weight=weight)
    wide = weight.astype(float)
    assert_same(found[1], (wide * guesses**2).sum() / wide.sum(), rtol=1e-6)
    single, one = np.array(3.0, np.float32), np.array(1, kind)
    assert loss("mse", reduction="sum").get_loss(single, 0.0 * single, mask=one, sample_weight=one) == 9.0


# Every reduction, recomputed


def exact(values: Any, factors: list[Any], shape: tuple[int, ...]) -> list[Fraction]:
    arrays = [np.broadcast_to(np.asarray(f, float), shape).ravel() for f in factors]
    return [math.prod((Fraction(float(a[i])) for a in arrays), start=Fraction(1)) for i in range(values)]


def number(x: Any) -> float:
    """A fraction as a float, infinite where it is too large."""
    try:
        return float(x)
    except OverflowError:
        return math.inf


def reduced(
    values: np.ndarray, reduction: str, normalize_by: str, mask: Any, weight: Any, class_weight: Any, known: Any
) -> Any:
    """The definition, in fractions: no product overflows or vanishes."""
    shape, size = values.shape, values.size
    selected = (np.broadcast_to(np.asarray(mask), shape) != 0) & known
    total_weights = exact(size, [mask, known, weight, class_weight], shape)
    v = [Fraction(float(x)) if w else Fraction(0) for x, w in zip(values.ravel(), total_weights)]
    terms = [w * x for w, x in zip(total_weights, v)]
    classes = np.where(selected, np.broadcast_to(class_weight, shape), 1.0)
    counted = exact(size, [mask, known, classes], shape)
    if reduction == "none":
        return np.array([number(t) for t in terms]).reshape(shape)
    if reduction == "sum":
        return number(sum(terms))
    if reduction == "batch_mean":
        return number(sum(terms) / shape[0])
    if reduction == "mean":
        count = sum(counted) if normalize_by == "mask" else Fraction(size)
        return number(sum(terms) / count) if count else 0.0
    if reduction == "weighted_mean":
        factors = [weight, classes] + ([mask, known] if normalize_by == "mask" else [])
        count = sum(exact(size, factors, shape))
        return number(sum(terms) / count) if count else 0.0
    inside = size // shape[0]
    means, sequences = Fraction(0), 0
    for i in range(shape[0]):
        part = slice(i * inside, (i + 1) * inside)
        count = sum(counted[part]) if normalize_by == "mask" else Fraction(inside)
        sequences += normalize_by == "values" or count != 0
        means += sum(terms[part]) / count if count else 0
    return number(means / sequences) if sequences else 0.0


def random_weight(rng: Any, shape: Any, upper: bool = False) -> Any:
    """0, numbers of one size, and numbers of another; or one number."""
    if rng.random() < 0.2:
        return float(rng.random())
    size = 10.0 ** rng.integers(-300, 0 if upper else 300)
    weight = rng.random(shape) * size
    weight[rng.random(shape) < 0.3] = 0
    weight[rng.random(shape) < 0.1] = min(5e-324, size)
    return weight


@pytest.mark.parametrize("normalize_by", ["mask", "values"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_of_any_weights_is_its_definition(reduction: Any, normalize_by: Any, backend: Any, rng: Any) -> None:
    for _ in range(25):
        x, ids = rng.normal(size=(4, C, 3)).astype(np.float32), rng.integers(0, C, (4, 3))
        mask = random_weight(rng, (4, 3), True) if rng.random() < 0.5 else rng.random((4, 3)) < 0.6
        weight = random_weight(rng, (4, 3)) if rng.random() < 0.7 else 1.0
        class_weight = 10.0 ** rng.integers(-300, 300) * rng.random(C)
        truths = np.where(rng.random((4, 3)) < 0.2, -100, ids)
        known = truths != -100
        nll = loss("ce", reduction="none").get_loss(x.astype(float), ids)
        calculator = loss("ce", class_weight.tolist(), reduction=reduction, normalize_by=normalize_by)
        found = calculator.get_loss(x, truths, mask=mask, sample_weight=weight)
        expected = reduced(nll, reduction, normalize_by, mask, weight, class_weight[ids], known)
        with np.errstate(all="ignore"):
            expected = np.float32(expected) if reduction == "none" else expected
        # beside the largest of the weights a tiny one may lose digits
        largest = np.max(np.abs(expected)) if np.isfinite(expected).all() else 0.0
        assert_same(found, expected, rtol=3e-6, atol=1e-36 * largest)


@pytest.mark.parametrize("normalize_by", ["mask", "values"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("alias", ["mse", "bcelogits"])
def test_a_gradient_of_any_weights_is_that_of_the_loss(
    alias: str, reduction: Any, normalize_by: Any, backend: Any, rng: Any
) -> None:
    for _ in range(10):
        x, t = rng.normal(size=(3, 4)), rng.random((3, 4))
        mask = random_weight(rng, (3, 4), True)
        weight = random_weight(rng, (3, 1))
        calculator = loss(alias, reduction=reduction, normalize_by=normalize_by)
        grad = calculator.get_grad(x.astype(np.float32), t, mask=mask, sample_weight=weight)
        slopes = loss(alias, reduction="none").get_grad(x, t)
        if reduction == "none":
            expected = reduced(slopes, "none", normalize_by, mask, weight, 1.0, True)
        else:  # a loss is linear in its values
            expected = np.zeros(x.shape)
            for index in np.ndindex(x.shape):
                one = np.zeros(x.shape)
                one[index] = slopes[index]
                expected[index] = reduced(one, reduction, normalize_by, mask, weight, 1.0, np.ones(x.shape, bool))
        with np.errstate(all="ignore"):
            assert_same(grad, expected.astype(np.float32), rtol=1e-5, atol=1e-44)


def test_sequences_without_items_and_with_tiny_weights(backend: Any, rng: Any) -> None:
    guesses = [rng.normal(size=(n, C)).astype(np.float32) for n in (2, 0, 3)]
    truths = [rng.integers(0, C, n) for n in (2, 0, 3)]
    weights = [rng.random(n) for n in (2, 0, 3)]
    for reduction in ("mean", "sum", "batch_mean", "weighted_mean", "sequence_mean"):
        calculator = loss("ce", reduction=reduction)
        expected = calculator(guesses, truths, mask=[np.ones(n) for n in (2, 0, 3)], sample_weight=weights)
        tiny = [w * 1e-300 for w in weights]
        found = calculator(guesses, truths, mask=[np.ones(n) for n in (2, 0, 3)], sample_weight=tiny)
        if reduction == "weighted_mean":
            assert_same(found, expected, rtol=1e-6, atol=1e-9)
        else:
            assert_same(found[1], expected[1] * 1e-300, rtol=1e-6)


# Classes


def classified(rng: Any) -> dict[str, tuple[Any, Any, Any, Any]]:
    """(guesses, truths, form of the truths, options) of every calculator that has classes."""

    x, y = rows_of(rng, np.float64)
    p = rng.dirichlet(np.ones(C), N)
    some = [set(rng.choice(C, rng.integers(1, C), replace=False).tolist()) for _ in range(N)]
    return {
        "ce": (x, y, "ids", {}),
        "ce sets": (x, some, "sets", {}),
        "ce rows": (x, p, "columns", {}),
        "ce smoothed": (x, y, "ids", dict(label_smoothing=0.2)),
        "nll": (x, y, "ids", {}),
        "multimargin": (x, y, "ids", {}),
        "multisoft": (x, some, "sets", {}),
        "bcelogits": (x, p, "columns", {}),
        "CategoricalCrossentropy.v4": (p, y, "ids", {}),
        "CategoricalCrossentropy.v4 smoothed": (p, y, "ids", dict(label_smoothing=0.2, wrt="probs")),
        "linearce": (x, y, "ids", {}),
    }


@pytest.mark.parametrize("normalize_by", ["mask", "values"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_renumbering_the_classes_changes_nothing(reduction: Any, normalize_by: Any, rng: Any) -> None:
    weight = np.array([0.2, 5.0, 1.0, 30.0])
    order = np.array([2, 0, 3, 1])  # the new class i is the old class order[i]
    rank = np.argsort(order)
    mask, sample = np.array([1, 0, 0.5, 1, 0, 1]), rng.random(N)
    for name, (guesses, truths, form, options) in classified(rng).items():
        alias = name.split()[0]
        cls = registry.losses.get(alias) if ".v" in alias else type(loss(alias))
        if form == "ids":
            renamed: Any = rank[truths]
        elif form == "sets":
            renamed = [{int(rank[i]) for i in row} for row in truths]
        else:
            renamed = truths[:, order]
        beside = dict(mask=mask, sample_weight=sample)
        if alias == "bcelogits":
            beside = {key: value[:, None] for key, value in beside.items()}
        made = [
            cls(reduction=reduction, normalize_by=normalize_by, class_weight=w.tolist(), **options)
            for w in (weight, weight[order])
        ]
        if alias == "linearce":
            layer = rng.normal(size=(C, C))
            (grad, *_), value = made[0]((guesses, layer), truths, **beside)
            (other, *_), renumbered = made[1]((guesses, layer[order]), renamed, **beside)
        else:
            grad, value = made[0](guesses, truths, **beside)
            other, renumbered = made[1](guesses[:, order], renamed, **beside)
            grad = grad[:, order]
            value = value[:, order] if alias == "bcelogits" and reduction == "none" else value
        assert_same(renumbered, value, rtol=1e-12, atol=1e-15)
        assert_same(other, grad, rtol=1e-11, atol=1e-15)


def test_what_is_left_out_weighs_one_where_all_values_are_counted() -> None:
    guesses = np.array([[2.0, 0.0], [0.0, 0.0]])
    for ids in ([1, 0], [1, 1]):
        calculator = loss("multimargin", class_weight=[10.0, 4.0], reduction="weighted_mean", normalize_by="values")
        assert_same(calculator.get_loss(guesses, ids, mask=[1, 0]), 4.0 * 1.5 / (4.0 + 1.0))


# Devices


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_on_a_device_are_not_read(reduction: Any, cupy: Any, rng: Any) -> None:
    guesses, truths = rows_of(rng, np.float32)
    mask = rng.random(N)
    mask[0] = 0
    for size in (1.0, 1e-50, 1e35):
        weight = rng.random(N) * size
        calculator = loss("ce", [1.0, 3.0, 2.0, 0.5], reduction=reduction)
        expected = calculator(guesses, truths, mask=mask, sample_weight=weight)
        there = to_device(cupy, (guesses, truths))
        found = calculator(*there, mask=cupy.asarray(mask), sample_weight=cupy.asarray(weight))
        grad, value = to_host(found)
        assert_same(np.float32(value), np.float32(expected[1]), rtol=1e-5, atol=1e-45)
        assert_same(grad, expected[0], rtol=1e-5, atol=1e-9 * min(size, 1.0))
    assert np.isfinite(to_host(loss("mse", reduction="sum").get_grad(
        cupy.asarray(np.zeros(3, np.float32)), cupy.asarray(np.zeros(3)), sample_weight=cupy.asarray(np.full(3, 1e50))
    ))).all()  # fmt: skip


# Masks


@pytest.mark.parametrize("truths", [np.array([1, 2, 1]), ["b", "c", "b"], [{"b"}, {"c"}, {"b"}], np.array([1, 2, 99])])
def test_the_class_of_a_masked_item_does_not_count(truths: Any) -> None:
    loss = CrossEntropy(
        class_weight=[5.0, 1.0, 1.0], names=["a", "b", "c"], reduction="weighted_mean", normalize_by="values"
    )
    assert loss.get_state(np.zeros((3, 3)), truths, mask=[1, 1, 0]).count == 3.0


def test_weight_zero_deletes_nothing_and_a_mask_does(rng: Any) -> None:
    q, k = rng.normal(size=(2, 3, 4))
    loss = InfoNCE(reduction="none")
    nearly = loss.get_loss((q, k), sample_weight=[1, 1, 1e-30])
    assert_same(loss.get_loss((q, k), sample_weight=[1, 1, 0]), [*nearly[:2], 0.0], rtol=1e-13)
    assert_same(loss.get_loss((q, k), mask=[1, 1, 0])[:2], loss.get_loss((q[:2], k[:2])), rtol=1e-13)
