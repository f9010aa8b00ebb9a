"""CTC: path by path, all forms of targets, lists of sequences, weights."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from lossreg import (
    CTC,
    Ragged,
    functional,
    loss,
)
from support.devices import to_device, to_host
from support.foreign import ragged_types
from support.nested import assert_same, frozen
from support.table import make

inf, nan = np.inf, np.nan


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


def test_ctc_targets_in_lists_of_uneven_lengths(rng: Any) -> None:
    x = log_rows(rng, 6, 4, 4)
    lists, lengths = [[1, 2, 3], [1], [], [2, 3]], [3, 1, 0, 2]
    padded = np.array([[1, 2, 3], [1, 0, 0], [0, 0, 0], [2, 3, 0]])
    assert_same(make("CTC.v1")(x, (lists, [6] * 4, lengths)), make("CTC.v1")(x, (padded, [6] * 4, lengths)))


def test_ctc_targets_in_uneven_lists_and_behind_each_other_with_a_mask(rng: Any) -> None:
    x = rng.normal(size=(6, 3, 5))
    x -= np.log(np.exp(x).sum(axis=2, keepdims=True))
    frames, lengths = [6, 5, 6], [2, 1, 3]
    padded = (np.array([[1, 2, 9], [3, 9, 9], [4, 1, 2]]), frames, lengths)
    expected = loss("ctc", reduction="none")(x, padded)
    for targets in ([[1, 2], [3], [4, 1, 2]], [1, 2, 3, 4, 1, 2], np.array([1, 2, 3, 4, 1, 2])):
        assert_same(loss("ctc", reduction="none")(x, (targets, frames, lengths)), expected)
        masked = loss("ctc", reduction="sum").get_loss(x, (targets, frames, lengths), mask=[1, 0, 1])
        assert_same(masked, expected[1][[0, 2]].sum(), rtol=1e-14)
    assert functional.ctc(x, [[1, 2], [3], [4, 1, 2]], frames, lengths, reduction="sum") == pytest.approx(
        expected[1].sum()
    )
    assert loss("ctc")(np.zeros((5, 0, 3)), ([], [], []))[1] == 0.0


REDUCTIONS = ["mean", "sum", "none", "batch_mean", "weighted_mean", "sequence_mean"]
N, C = 6, 4


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 3, C), (5, C)])
def test_ctc_takes_weights_that_broadcast(shape: Any, reduction: Any, backend: Any, rng: Any) -> None:
    x = np.log(rng.dirichlet(np.ones(C), shape[:-1]))
    targets: Any = (np.array([[1, 2]] * 3), None, None) if len(shape) == 3 else (np.array([1, 2]), None, None)
    calculator = loss("ctc", reduction=reduction)
    full = np.full(shape[1:-1], 0.5)
    expected = calculator(x, targets, sample_weight=full, mask=full)
    assert_same(calculator(x, targets, sample_weight=0.5, mask=0.5), expected)
    if len(shape) == 3:
        assert_same(calculator(x, targets, sample_weight=np.array([0.5]), mask=np.array([0.5])), expected)


FRAMES = (5, 3, 0, 4)
TARGETS: list[list[int]] = [[1, 2], [3], [], [1, 1]]


@pytest.mark.parametrize("options", [{}, dict(wrt="logits"), dict(zero_infinity=True, reduction="none"), dict(reduction="sum"),
                                     dict(reduction="batch_mean"), dict(reduction="sequence_mean")], ids=str)  # fmt: skip
@pytest.mark.parametrize("beside", ["", "mask"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ctc_of_lists(options: Any, beside: str, dtype: Any, backend: Any, rng: Any) -> None:
    padded = log_rows(rng, 5, 4, 4).astype(dtype)
    lists = [padded[:n, i] for i, n in enumerate(FRAMES)]
    loss, lengths = CTC(**options), list(map(len, TARGETS))
    weights = {"mask": np.array([1, 0, 1, 1]), "sample_weight": np.array([1.0, 2.0, 3.0, 0.5])} if beside else {}
    targets = frozen([np.array([1, 2]), np.array([3]), np.array([], int), np.array([1, 1])])
    behind = np.array([1, 2, 3, 1, 1])
    expected_grad, expected = loss(padded, (TARGETS, FRAMES, lengths), **weights)
    expected_grad = np.concatenate([expected_grad[:n, i] for i, n in enumerate(FRAMES)])
    forms = [TARGETS, targets, Ragged(behind, lengths), (TARGETS, None, None), (TARGETS, FRAMES, lengths),
             (behind, None, lengths), (targets, None, lengths)]  # fmt: skip
    for truths in forms:
        grad, value = loss(frozen(lists), truths, **weights)
        assert_same(value, expected)
        assert [(x.shape, x.dtype) for x in grad] == [((n, 4), dtype) for n in FRAMES]
        assert_same(np.concatenate(grad), expected_grad)
        for kind in ragged_types():
            grad, value = loss(kind(np.concatenate(lists), np.array(FRAMES)), truths, **weights)
            assert type(grad) is kind
            assert_same((grad.dataXd, value), (expected_grad, expected))
    some_frames = (TARGETS, [4, 3, 0, 3], None)
    grad, value = loss(lists, some_frames, **weights)
    assert_same(value, loss.get_loss(padded, (TARGETS, [4, 3, 0, 3], lengths), **weights))
    assert not grad[0][4].any()


def test_ctc_without_lengths_takes_all(rng: Any) -> None:
    x = log_rows(rng, 4, 2, 3)
    rows = [[1, 2, 1], [2, 1, 2]]
    expected = CTC()(x, (rows, [4, 4], [3, 3]))
    for truths in ((rows, None, None), (np.array(rows), None, None)):
        assert_same(CTC()(x, truths), expected)
    assert_same(CTC()(x[:, 0], ([1, 2], None, None))[1], CTC()([x[:, 0]], [[1, 2]])[1])
    assert_same(CTC()(x[:, 0], ([], None, None)), CTC()(x[:, 0], ([], 4, 0)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_ctc_of_nothing(reduction: Any, backend: Any) -> None:
    loss = CTC(blank=2, reduction=reduction)
    for guesses, truths in (([], []), ([], ([], None, None)), (Ragged(np.zeros((0, 4)), []), []), ([], ([], [], []))):
        grad, value = loss(guesses, truths)
        assert type(grad) is type(guesses)
        assert len(grad) == 0
        assert np.size(value) == 0 if reduction == "none" else value == 0.0
    assert loss(Ragged(np.zeros((0, 4)), []), [])[0].data.shape == (0, 4)
    (grad,), value = loss([np.zeros((0, 4))], [[]])
    assert grad.shape == (0, 4)
    assert value == 0.0


CTC_BAD: list[tuple[Any, Any, str]] = [
    (["x"], TARGETS, "expected targets to be 1 rows of ids, or target_lengths beside them, got a list of 4."),
    (["x"], (np.array([1]), None, None), "expected targets to be 1 rows of ids, or target_lengths beside them"),
    (["x"], None, "expected targets to be 1 rows of ids, or target_lengths beside them, got None."),
    (["x"], ([[1]], [3], None), "expected input_lengths in [0, 2], got 3 in row 0."),
    (["x"], [[4]], "expected target ids in [0, 4) and not the blank, 0, got 4 in row 0."),
    (["x"], [[1.5]], "expected targets of integer ids"),
    (["x"], Ragged(np.array([1, 2]), [1, 1]), "expected target_lengths of 1 whole numbers, got a tuple of 2."),
    (["x"], Ragged(np.array([1, 2]), [1]), "expected lengths of targets to sum to 2 (the items of data), got 1."),
    (["x"], ([[1]], [2]), "got a tuple of 2."),
    ([np.zeros(3)], [[1]], "expected guesses of a sequence of shape (Ti, C), got shape (3,)."),
    ([np.zeros((3, 1, 4))], [[1]], "expected guesses of a sequence of shape (Ti, C), got shape (3, 1, 4)."),
]  # fmt: skip


@pytest.mark.parametrize("guesses, truths, message", CTC_BAD, ids=range(len(CTC_BAD)))
def test_ctc_says_what_does_not_fit_lists(guesses: Any, truths: Any, message: str) -> None:
    guesses = [np.zeros((2, 4)) if isinstance(x, str) else x for x in guesses]
    with pytest.raises(ValueError) as caught:
        CTC()(guesses, truths)
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="expected out to be arranged as guesses are, and no sequences"):
        CTC()([np.zeros((2, 4))], [[1]], out=[np.zeros((2, 4))])


def test_ctc_of_lists_stays_on_the_device(cupy: Any, rng: Any) -> None:
    lists = [log_rows(rng, n, 4) for n in FRAMES]
    expected = CTC()(lists, TARGETS)
    assert_same(to_host(CTC()(to_device(cupy, lists), TARGETS)), expected, rtol=1e-13, atol=1e-16)
    grad, _ = CTC()(Ragged(to_device(cupy, np.concatenate(lists)), FRAMES), TARGETS)
    assert_same(to_host(grad.data), np.concatenate(expected[0]), rtol=1e-13, atol=1e-16)
