"""Sequences: the same items as a list, a Ragged, padded and flat give the same numbers, whatever is made of them."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    CTC,
    BinaryCrossEntropyWithLogits,
    ConfigError,
    CosineEmbedding,
    CrossEntropy,
    Huber,
    InfoNCE,
    LinearCrossEntropy,
    MeanSquaredError,
    Ragged,
    Sequence,
    SequenceCategoricalCrossentropy,
    SequenceCategoricalCrossentropy_v4,
    registry,
)
from lossreg.arrays.ragged import is_ragged
from lossreg.pipeline.evaluation import Needs
from support import standin_cupy
from support.devices import to_device, to_host
from support.foreign import ragged_types
from support.nested import assert_same, frozen
from support.table import ROWS, TRUE_ROWS, Row

ITEM_ROWS = [row for row in TRUE_ROWS if row.axis == 0 and row.name != "Sequence.v1"]
"""Calculators whose first axis is that of items; Sequence has tests of its own below, CTC in losses/test_ctc.py."""
item_rows = pytest.mark.parametrize("row", ITEM_ROWS, ids=lambda row: row.id)
REDUCTIONS = ("mean", "sum", "none", "batch_mean", "weighted_mean", "sequence_mean")
LENGTHS = (3, 0, 1, 4)
LONGEST = 5
"""One more than any sequence has."""


def split(flat: Any) -> Any:
    """Items in sequences: arrays and lists as lists of parts, in tuples too."""
    if flat is None:
        return None
    if isinstance(flat, tuple):
        return tuple(map(split, flat))
    ends = np.cumsum(LENGTHS)
    return [flat[end - length : end] for end, length in zip(ends, LENGTHS, strict=True)]


def as_ragged(flat: Any, kind: type = Ragged) -> Any:
    if flat is None:
        return None
    return tuple(as_ragged(x, kind) for x in flat) if isinstance(flat, tuple) else kind(flat, np.array(LENGTHS))


def pad(flat: Any, fill: Any) -> Any:
    """(B, T, ...) with something behind each sequence."""
    if isinstance(flat, tuple):
        return tuple(pad(x, fill) for x in flat)
    if isinstance(flat, list):
        return [[*part, *[fill] * (LONGEST - len(part))] for part in split(flat)]
    padded = np.full((len(LENGTHS), LONGEST, *flat.shape[1:]), fill, flat.dtype)
    padded[inside()] = flat
    return padded


def inside() -> np.ndarray:
    return np.arange(LONGEST) < np.array(LENGTHS)[:, None]


def flattened(found: Any) -> Any:
    """Gradients or values of any arrangement as flat arrays."""
    if isinstance(found, tuple):
        return tuple(map(flattened, found))
    if is_ragged(found):
        assert tuple(found.lengths) == LENGTHS
        return found.dataXd
    if isinstance(found, list):
        assert tuple(map(len, found)) == LENGTHS
        return np.concatenate(found)
    return found


def unpadded(found: Any) -> Any:
    """What lies inside; there is nothing behind it."""
    if isinstance(found, tuple):
        return tuple(map(unpadded, found))
    assert found.shape[:2] == (len(LENGTHS), LONGEST)
    assert not found[~inside()].any()
    return found[inside()]


@dataclass
class Case:
    """Items of a calculator, without an arrangement."""

    guesses: Any
    truths: Any
    values_shape: tuple[int, ...]
    beside: dict[str, np.ndarray]
    """Mask and weights of each item."""

    @property
    def flat_beside(self) -> dict[str, np.ndarray]:
        ones = (1,) * (len(self.values_shape) - 1)
        return {name: value.reshape(-1, *ones) for name, value in self.beside.items()}


def draw(row: Row, rng: Any, beside: str, dtype: Any = np.float64) -> Case:
    """Some items, with NaN where the mask is 0."""
    n = sum(LENGTHS)
    guesses, truths = row.sample(rng, n)
    if isinstance(guesses, list):  # rows of sequences: as many items as are needed
        while sum(map(len, guesses)) < n:
            more = row.sample(rng, n)
            guesses, truths = guesses + more[0], truths + more[1]
        truths = (
            list(itertools.chain.from_iterable(truths))[:n]
            if isinstance(truths[0], list)
            else np.concatenate(truths)[:n]
        )
        guesses = np.concatenate(guesses)[:n]
        values = row.make(reduction="none").get_loss([guesses], [truths])[0]
    else:
        values = row.make(reduction="none").get_loss(guesses, truths)
    guesses = tuple(x.astype(dtype) for x in guesses) if isinstance(guesses, tuple) else guesses.astype(dtype)
    weights: dict[str, np.ndarray] = {}
    if "mask" in beside:
        weights["mask"] = np.array([1, 0, 1, 0, 1, 0, 0, 1], bool)
    if "fractions" in beside:
        weights["mask"] = np.array([0.5, 0, 0.25, 1, 1, 0, 0, 0.75])
    if "weights" in beside:
        weights["sample_weight"] = rng.random(n) + 0.5
    if "mask" in weights:
        for x in outputs(guesses):
            x[weights["mask"] == 0] = np.nan
    return Case(guesses, truths, values.shape, weights)


BESIDE = ["", "mask", "fractions and weights"]
with_dtypes = pytest.mark.parametrize(
    "beside, dtype", [*((beside, np.float64) for beside in BESIDE), ("mask", np.float32)]
)


# 1. Arrangements agree


@item_rows
@with_dtypes
def test_arrangements_agree(row: Row, beside: str, dtype: Any, backend: Any, rng: Any) -> None:
    case = draw(row, rng, beside, dtype)
    # lists of labels are not copied: the order of a set, in which its labels are summed, is not that of its copy
    listed, truths = frozen(split(case.guesses)), split(case.truths)
    truths = frozen(truths) if numeric(case.truths) else truths
    in_lists = frozen({name: split(value) for name, value in case.beside.items()})
    for reduction in REDUCTIONS:
        loss = row.make(reduction=reduction)
        grad, value = loss(listed, truths, **in_lists)
        expected = flattened(grad), flattened(value)
        assert_same(listed, split(case.guesses))
        for parts in outputs(grad):
            assert all(part.dtype == dtype and part.base is not None for part in parts), "views of one array"
        assert_same(flattened(loss.get_grad(listed, truths, **in_lists)), expected[0])
        for kind in ragged_types():
            in_ragged = {name: as_ragged(value, kind) for name, value in case.beside.items()}
            forms = [case.truths, truths]
            if isinstance(case.truths, np.ndarray):
                forms.append(as_ragged(case.truths, kind))
                found = loss(listed, forms[-1], **in_ragged)
                assert_same((flattened(found[0]), flattened(found[1])), expected)
                rows = case.truths.dtype.kind == "f" and len(case.values_shape) < 3
                forms += [case.truths.tolist()] if rows or case.truths.ndim == 1 else []  # lists of ids are sets
            for form, masks in zip(forms, itertools.cycle([in_lists, case.beside, in_ragged])):
                found = loss(frozen(as_ragged(case.guesses, kind)), form, **masks)
                assert_same((flattened(found[0]), flattened(found[1])), expected)
                assert all(type(x) is kind and x.dataXd.dtype == dtype for x in outputs(found[0]))
        if reduction not in ("batch_mean", "sequence_mean") and "Sequence" not in row.name:
            assert_same(loss(case.guesses, case.truths, **case.flat_beside), expected)


def outputs(found: Any) -> tuple[Any, ...]:
    """The gradients of all model outputs."""
    return found if isinstance(found, tuple) else (found,)


def numeric(truths: Any) -> bool:
    return truths is None or isinstance(truths, np.ndarray) and truths.dtype.kind in "fiu"


@item_rows
@with_dtypes
def test_padded_is_as_good_as_a_list(row: Row, beside: str, dtype: Any, backend: Any, rng: Any) -> None:
    case = draw(row, rng, beside, dtype)
    padded = pad(case.guesses, np.nan)
    for reduction in REDUCTIONS:
        inner = row.make(reduction=reduction)
        grad, value = inner(split(case.guesses), split(case.truths), **{k: split(v) for k, v in case.beside.items()})
        expected = flattened(grad), flattened(value)
        shared = Sequence(row.make(), reduction=reduction)
        # truths of the length of each sequence: the rest is left out
        if case.truths is not None:
            short = {name: split(value) for name, value in case.beside.items()}
            for truths in (split(case.truths), as_ragged(case.truths) if isinstance(case.truths, np.ndarray) else None):
                for loss in (Sequence(inner), shared) if truths is not None else ():
                    found, value = loss(frozen(padded), truths, **short)
                    assert_same((unpadded(found), unpadded(value) if reduction == "none" else value), expected)
                    assert all(x.dtype == dtype for x in outputs(found))
        # a mask that leaves the rest out
        masks = {"mask": inside(), **{name: pad(value, 0) for name, value in case.beside.items()}}
        truths = None if case.truths is None else pad(case.truths, nonsense(case.truths))
        if beside:
            masks["mask"] = pad(case.beside["mask"], 0)
        found, value = shared(frozen(padded), truths, **masks)
        value = unpadded(value) if reduction == "none" else value
        tolerance = 1e-13 if dtype == np.float64 else 1e-5
        assert_same((unpadded(found), value), expected, rtol=tolerance, atol=tolerance * 1e-2)


def nonsense(truths: Any) -> Any:
    """What is no truth."""
    if isinstance(truths, list):
        return "no such name" if any(isinstance(t, str) for t in truths) else {99}
    return {"f": np.nan, "i": 99, "U": "?"}[truths.dtype.kind]


# 2. The mean of the means of sequences


@item_rows
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("normalize_by", ["mask", "values"])
def test_mean_of_sequences_one_by_one(row: Row, beside: str, normalize_by: Any, backend: Any, rng: Any) -> None:
    case = draw(row, rng, beside)
    loss = row.make(reduction="sequence_mean", normalize_by=normalize_by)
    guesses, truths = split(case.guesses), split(case.truths)
    weights = {name: split(value) for name, value in case.beside.items()}
    call = (guesses, truths)
    check_means(row, loss, call, weights, len(LENGTHS), normalize_by)
    if "Sequence" not in row.name:  # the entries of the first axis are sequences
        check_means(row, loss, (case.guesses, case.truths), case.flat_beside, sum(LENGTHS), normalize_by)


def check_means(row: Row, loss: Any, call: Any, weights: dict[str, Any], n: int, normalize_by: str) -> None:
    values = row.make(reduction="none").get_loss(*call, **weights)
    by_mask = dict(normalize_by_sequence=False) if "normalize_by_sequence" in row.options else {}
    divided = row.make(reduction="mean", normalize_by=normalize_by, **by_mask)
    counts = [divided.get_state(*one(call, i), **{k: one(v, i) for k, v in weights.items()}).count for i in range(n)]
    means = [np.sum(values[i]) / counts[i] if counts[i] else 0.0 for i in range(n)]
    divisor = n if normalize_by == "values" else np.count_nonzero(counts)
    state = loss.get_state(*call, **weights)
    assert state.count == divisor
    assert_same(state.total, np.sum(means), rtol=1e-13, atol=1e-15)
    assert_same(loss.get_loss(*call, **weights), np.sum(means) / divisor, rtol=1e-13, atol=1e-15)
    if not row.coupled:
        total = row.make(reduction="sum").get_grad(*call, **weights)
        found = loss.get_grad(*call, **weights)
        for slopes, whole in zip(outputs(found), outputs(total), strict=True):
            for i in range(n):
                share = 1 / counts[i] / divisor if counts[i] else 0.0
                assert_same(slopes[i], whole[i] * share, rtol=1e-12, atol=1e-17)


def one(tree: Any, i: int) -> Any:
    """A sequence of a call as a batch of its own."""
    if tree is None:
        return None
    if isinstance(tree, tuple):
        return tuple(one(part, i) for part in tree)
    return tree[i : i + 1]


@pytest.mark.parametrize("loss", [CrossEntropy(class_weight=(1.0, 0.2, 3.0), label_smoothing=0.1), Huber(), InfoNCE()])
@pytest.mark.parametrize("beside", ["mask", "fractions and weights"])
def test_gradient_of_the_mean_of_sequences(loss: Any, beside: str, backend: Any, rng: Any) -> None:
    loss = type(loss)(**{**loss.options(), "reduction": "sequence_mean"})
    flat = rng.normal(size=(sum(LENGTHS), 3))
    truths = {CrossEntropy: rng.integers(0, 3, sum(LENGTHS)), Huber: rng.normal(size=flat.shape), InfoNCE: None}[
        type(loss)
    ]
    other = (rng.normal(size=flat.shape),) if truths is None else ()
    mask = np.array([1, 0, 1, 0, 1, 0, 0, 1]) if beside == "mask" else np.array([0.5, 0, 1, 1, 0.3, 0, 1, 1])
    weights = {"mask": split(mask), **({"sample_weight": split(rng.random(8) + 0.5)} if beside != "mask" else {})}

    def run(x: Any) -> Any:
        guesses = split((x, *other)) if other else split(x)
        return loss(guesses, split(truths), **weights)

    grad, here = run(flat)
    grad = flattened(grad[0] if other else grad)
    for index in np.ndindex(flat.shape):
        sides = []
        for h in (-1e-6, 1e-6):
            there = flat.copy()
            there[index] += h
            sides.append((run(there)[1] - here) / h)
        assert min(sides) - 3e-8 <= grad[index] <= max(sides) + 3e-8


def test_each_sequence_has_the_same_say() -> None:
    """By hand: absolute errors 1, 3 and 5 of one sequence, 10 of another; a third is masked, a fourth is empty."""
    loss = lossreg.MeanAbsoluteError(reduction="sequence_mean")
    guesses = [np.array([1.0, 3.0, 5.0]), np.array([10.0]), np.array([np.nan]), np.array([])]
    truths, mask = [np.zeros(len(x)) for x in guesses], [[1, 1, 1], [1], [0], []]
    grad, value = loss(guesses, truths, mask=mask)
    assert value == (3 + 10) / 2
    assert_same(grad, [np.full(3, 1 / 6), np.array([0.5]), np.array([0.0]), np.array([])], rtol=1e-15)
    by_values = lossreg.MeanAbsoluteError(reduction="sequence_mean", normalize_by="values")
    assert by_values.get_loss(guesses, truths, mask=mask) == (3 + 10) / 4
    halves = [[0.5, 1, 0], [0.5], [0], []]
    assert loss.get_loss(guesses, truths, mask=halves) == ((0.5 + 3) / 1.5 + 5 / 0.5) / 2
    rows = np.array([[1.0, 3.0, np.nan], [4.0, np.nan, np.nan]])
    assert loss.get_loss(rows, np.zeros((2, 3)), mask=np.isfinite(rows)) == (2 + 4) / 2
    assert loss.get_loss(np.array(3.0), np.array(0.0)) == 3.0
    assert CrossEntropy(reduction="sequence_mean").get_loss(np.zeros(2), 1) == pytest.approx(np.log(2)), "one example"
    assert loss(rows, rows, mask=np.zeros((2, 1)))[1] == 0.0
    weighted = CrossEntropy(reduction="sequence_mean", class_weight=[1.0, 0.0])
    logits = [np.zeros((2, 2)), np.zeros((1, 2))]
    assert weighted.get_loss(logits, [[0, 1], [1]]) == pytest.approx(np.log(2)), (
        "the second sequence counts for nothing"
    )
    assert weighted.get_state(logits, [[0, 1], [1]]).count == 1.0


# 3. States


@pytest.mark.parametrize("row", [row for row in ITEM_ROWS if not row.coupled], ids=lambda row: row.id)
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "weighted_mean", "sequence_mean"])
def test_states_of_split_batches_merge(row: Row, reduction: Any, backend: Any, rng: Any) -> None:
    case = draw(row, rng, "fractions and weights")
    loss = row.make(reduction=reduction)
    guesses, truths = split(case.guesses), split(case.truths)
    weights = {name: split(value) for name, value in case.beside.items()}
    whole_grad, whole = loss(guesses, truths, **weights)
    parts = [[0, 3], [], [2], [1]]
    states, grads = [], {}
    for part in parts:
        guess, truth, *rest = (some(x, part) for x in (guesses, truths, *weights.values()))
        state, grad = loss.get_state_and_grad(guess, truth, **dict(zip(weights, rest, strict=True)))
        states.append(state)
        for at, i in enumerate(part):
            grads[i] = some(grad, [at])
    a, b, c, d = states
    for merged in (sum(states), d + (c + b) + a, pickle.loads(pickle.dumps(a)) + b + c + d + loss.empty()):
        assert_same(merged.compute(), whole, rtol=1e-13)
    scaled = [sum(states).scale(grads[i]) for i in range(4)]
    for i, found in enumerate(scaled):
        assert_same(found, some(whole_grad, [i]), rtol=1e-12, atol=1e-17)


def some(tree: Any, part: list[int]) -> Any:
    if tree is None:
        return None
    return tuple(some(x, part) for x in tree) if isinstance(tree, tuple) else [tree[i] for i in part]


def test_gradients_of_raggeds_are_scaled_and_added_up(rng: Any) -> None:
    x, t = Ragged(rng.normal(size=(3, 2)), [2, 1]), rng.normal(size=(3, 2))
    state, grad = Huber().get_state_and_grad(x, t)
    assert_same(state.scale(grad).data, Huber().get_grad(x, t).data, rtol=1e-15)
    terms = lossreg.WeightedSum(
        *(lossreg.Term(loss, guesses="x", truths="t") for loss in (Huber(), lossreg.MeanSquaredError()))
    )
    (found,) = terms.get_grad({"x": x, "t": t}).values()
    assert_same(found.data, Huber().get_grad(x, t).data + lossreg.MeanSquaredError().get_grad(x, t).data, rtol=1e-15)
    assert found.lengths == [2, 1]


# 4. Nothing


@item_rows
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_sequences_and_empty_sequences(row: Row, reduction: Any, backend: Any, rng: Any) -> None:
    case = draw(row, rng, "")
    loss = row.make(reduction=reduction)
    none = tuple(x[:0] for x in case.guesses) if isinstance(case.guesses, tuple) else case.guesses[:0]
    n = (lambda make: tuple(map(make, none))) if isinstance(none, tuple) else (lambda make: make(none))
    no_truths = None if case.truths is None else case.truths[:0]
    calls = [
        (n(lambda x: []), None if no_truths is None else []),
        (n(lambda x: [x, x]), None if no_truths is None else [no_truths, no_truths]),
        *((n(lambda x: kind(x, np.zeros(k, int))), truths) for kind in ragged_types() for k in (0, 2)
          for truths in (no_truths, None if no_truths is None else [no_truths] * k)),
    ]  # fmt: skip
    for guesses, truths in calls:
        grad, value = loss(guesses, truths)
        assert loss.get_state(guesses, truths).compute() == 0
        for got, given in zip(outputs(grad), outputs(guesses), strict=True):
            assert type(got) is type(given)
            assert len(got) == len(given)
            if is_ragged(got):
                assert got.dataXd.shape == given.dataXd.shape
        assert (
            value == 0.0
            if reduction != "none"
            else len(value) == len(guesses[0] if isinstance(guesses, tuple) else guesses)
        )
    for b, t in ((0, 3), (2, 0)):
        padded = n(lambda x: np.zeros((b, t, *x.shape[1:])))
        truths = no_truths if no_truths is None else [no_truths] * b
        grad, value = Sequence(loss)(padded, truths)
        assert_same(grad, padded)
        assert value.shape[:2] == (b, t) if reduction == "none" else value == 0.0


# 5. What a Ragged may be, and what may lie beside it

L2 = [2, 1]
RAGGED = Ragged(np.zeros((3, 4)), L2)


@pytest.mark.parametrize("lengths", [[2, 1], (2, 1), np.array([2, 1], np.uint8), np.array([2, 1], np.int32)])
def test_lengths_come_back_as_they_were(lengths: Any, rng: Any) -> None:
    ragged = Ragged(rng.normal(size=(3, 4)), lengths)
    assert len(ragged) == 2
    grad, values = CrossEntropy(reduction="none")(ragged, [0, 1, 2])
    assert grad.lengths is lengths is values.lengths
    assert values.data.shape == (3,)


BAD: list[tuple[Any, Any, dict[str, Any], str]] = [
    (Ragged(np.zeros((3, 4)), [2, 2]), [0, 1, 2], {}, "expected lengths of guesses to sum to 3 (the items of data), got 4."),
    (Ragged(np.zeros((3, 4)), []), [0, 1, 2], {}, "expected lengths of guesses to sum to 3 (the items of data), got 0."),
    (Ragged(np.zeros((3, 4)), [4, -1]), [0, 1, 2], {}, "of shape (n,), whole numbers of at least 0, got a list of 2."),
    (Ragged(np.zeros((3, 4)), [1.5, 1.5]), [0, 1, 2], {}, "of shape (n,), whole numbers of at least 0, got a list of 2."),
    (Ragged(np.zeros((3, 4)), [True, True, True]), [0, 1, 2], {}, "of shape (n,), whole numbers of at least 0, got a list of 3."),
    (Ragged(np.zeros((3, 4)), np.array([[2], [1]])), [0, 1, 2], {}, "whole numbers of at least 0, got a int64 array of shape (2, 1)."),
    (Ragged(np.zeros((3, 4)), 3), [0, 1, 2], {}, "whole numbers of at least 0, got 3."),
    (Ragged(np.zeros(()), []), [], {}, "expected data of guesses to be an array (total, ...), got a float64 array of shape ()."),
    (Ragged(3, []), [], {}, "expected data of guesses to be an array (total, ...), got 3."),
    (Ragged([[1.0, 2.0]], [1]), [0], {}, "expected data of guesses to be an array, got a list of 1."),
    (Ragged(np.zeros(3), [2, 1]), [0, 1, 2], {}, "sequences cannot be joined along the axis of a value, got a Ragged of 2."),
    (RAGGED, [0, 1], {}, "expected truths of sequence 0 to be a list or array of 2, got 0."),
    (RAGGED, [0, 1, 2, 3], {}, "expected truths to have 3 items, or one part for each of 2 sequences, got a list of 4."),
    (RAGGED, np.zeros(2, int), {}, "or one part for each of 2 sequences, got a int64 array of shape (2,)."),
    (RAGGED, [[0], [1, 2]], {}, "expected truths of sequence 0 of length 2 (that of its guesses), got length 1."),
    (RAGGED, [{0, 1}, [2]], {}, "expected truths of sequence 0 to be a list or array of 2, got a set of 2."),
    (RAGGED, "dog", {}, "got 'dog'."),
    (RAGGED, Ragged(np.zeros(3, int), [1, 2]), {}, "expected truths of sequence 0 of length 2 (that of its guesses), got length 1."),
    (RAGGED, Ragged(np.zeros(3, int), [3]), {}, "expected truths to be a list of 2, one part for each sequence of guesses, got a list of 1."),
    (RAGGED, Ragged(np.zeros(3, int), [1, 1]), {}, "expected lengths of truths to sum to 3 (the items of data), got 2."),
    (RAGGED, [0, 1, 2], dict(mask=[1, 0]), "expected mask of sequence 0 to be a list or array of 2, got 1."),
    (RAGGED, [0, 1, 2], dict(mask=np.ones((2, 3))), "expected mask to have 3 items, or one part for each of 2 sequences"),
    (RAGGED, [0, 1, 2], dict(sample_weight=Ragged(np.ones(3), [1, 2])), "expected sample_weight of sequence 0 of length 2"),
    (RAGGED, [0, 1, 2], dict(out=np.zeros((3, 4))), "expected out to be arranged as guesses are, and no sequences"),
    ([np.zeros((2, 4))], Ragged(np.zeros(2, int), [1, 1]), {}, "expected truths to be a list of 1, one part for each sequence"),
    ([np.zeros((2, 4))], [0, 1], {}, "expected truths to be a list of 1, one part for each sequence of guesses, got a list of 2."),
    ([np.zeros((2, 4))], np.zeros(2, int), {}, "expected truths to be a list of 1, one part for each sequence"),
    (np.zeros((2, 4)), Ragged(np.zeros(2, int), [1, 1]), {}, "got a Ragged of 2."),
]  # fmt: skip


@pytest.mark.parametrize("guesses, truths, beside, message", BAD, ids=range(len(BAD)))
def test_bad_raggeds_get_one_sentence(guesses: Any, truths: Any, beside: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        CrossEntropy()(guesses, truths, **beside)
    assert message in str(caught.value)


def test_outputs_may_be_arranged_in_both_ways(rng: Any) -> None:
    q, k = rng.normal(size=(2, 3, 4))
    expected = InfoNCE()((q, k))
    lengths = np.array([1, 2])
    (d_q, d_k), value = InfoNCE()((Ragged(q, lengths), [k[:1], k[1:]]))
    assert value == expected[1]
    assert_same((d_q.data, np.concatenate(d_k)), expected[0])
    with pytest.raises(ValueError, match="of which each output has sequences of the same lengths"):
        InfoNCE()((Ragged(q, [1, 2]), Ragged(k, [2, 1])))
    with pytest.raises(ValueError, match="expected guesses to be arrays or lists of sequences, not both"):
        InfoNCE()((Ragged(q, [1, 2]), k))
    with pytest.raises(ValueError, match="expected guesses to be arrays, got a Ragged of 2"):
        LinearCrossEntropy()((Ragged(q, [1, 2]), k), [0, 1, 2])


@pytest.mark.parametrize("lengths, truths, ids", [
    ([1, 1], [0, 1], [0, 1]), ([1, 1], [[0], [1]], [0, 1]), ([1, 1], [{0}, {1}], [0, 1]), ([2, 0], [[0, 1], []], [0, 1]),
    ([2, 0], [{0}, {1}], [0, 1]), ([0, 2], ([], (0, 1)), [0, 1]), ([2, 0], [np.array([1, 0]), np.array([], int)], [1, 0]),
    ([2, 0], ["b", "a"], [1, 0]), ([1, 1], ["b", "a"], [1, 0]), ([2], [["b", "a"]], [1, 0]), ([2], ["b", "a"], [1, 0]),
])  # fmt: skip
def test_as_many_items_as_sequences(lengths: Any, truths: Any, ids: Any, rng: Any) -> None:
    x, loss = rng.normal(size=(2, 3)), CrossEntropy(names=["a", "b", "c"])
    assert_same(loss(Ragged(x, lengths), truths)[0].data, loss(x, ids)[0], rtol=1e-14)


def test_a_mask_of_items_goes_along_the_first_axis(rng: Any) -> None:
    """Beside sequences there is no doubt what (3,) means for values (3, 3); beside an array there is."""
    x, t, mask = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), np.array([1, 0, 1])
    expected = Huber()(x, t, mask=mask[:, None])
    for grad, value in (
        Huber()(Ragged(x, [2, 1]), t, mask=mask),
        Huber()([x[:2], x[2:]], [t[:2], t[2:]], mask=[[1, 0], [1]]),
    ):
        assert value == expected[1]
        assert_same(grad.data if is_ragged(grad) else np.concatenate(grad), expected[0])
    elements = rng.random((3, 3)) < 0.5
    assert_same(Huber()(Ragged(x, [2, 1]), t, mask=elements)[0].data, Huber()(x, t, mask=elements)[0])
    with pytest.raises(ValueError, match="for rows or"):
        Huber()(x, t, mask=mask)


def test_forms_of_labels_may_differ_from_sequence_to_sequence(rng: Any) -> None:
    x = rng.normal(size=(5, 3, 2))
    ids = rng.integers(0, 3, (5, 2))
    rows = np.moveaxis(np.eye(3)[ids], -1, 1)
    expected = CrossEntropy()(x, ids)
    for truths in (
        [ids[:2], ids[2:].tolist()],
        [rows[:2], ids[2:]],
        [ids[:2].tolist(), rows[2:]],
        [rows[:2], rows[2:]],
    ):
        grad, value = CrossEntropy()([x[:2], x[2:]], truths, mask=[np.ones((2, 2)), np.ones((3, 2))])
        assert value == pytest.approx(expected[1], rel=1e-14)
        assert_same(np.concatenate(grad), expected[0], rtol=1e-12, atol=1e-16)
    with pytest.raises(ValueError, match=r"expected truths of shape \(5, 2\) or \(5, 3, 2\) \(that of guesses\)"):
        CrossEntropy()([x[:2], x[2:]], [ids[:2, :1], ids[2:, :1]])


@pytest.mark.parametrize("row", [row for row in ROWS if row.thinc and "Sequence" in row.name], ids=lambda row: row.id)
def test_thincs_calculators_take_raggeds(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 7)
    expected, value = row.make()(guesses, truths)
    lengths = np.array(list(map(len, guesses)))
    flat = list(itertools.chain.from_iterable(truths)) if isinstance(truths[0], list) else np.concatenate(truths)
    for kind in ragged_types():
        for form in (truths, flat, kind(flat, lengths)) if isinstance(flat, np.ndarray) else (truths, flat):
            grad, found = row.make()(kind(np.concatenate(guesses), lengths), form)
            assert type(grad) is kind
            assert found == value
            assert_same(grad.dataXd, np.concatenate(expected))
    with pytest.raises(ValueError, match="or a Ragged, got"):
        row.make()("none", truths)
    with pytest.raises(ValueError, match=r"expected guesses to be an array \(N, C\), got a Ragged of 1"):
        lossreg.CategoricalCrossentropy()(Ragged(np.ones((1, 1)), [1]), [0])


@pytest.mark.parametrize("make", [lossreg.SequenceCategoricalCrossentropy, lossreg.SequenceCategoricalCrossentropy_v4])
def test_flat_rows_of_whole_numbers_are_rows(make: Any, rng: Any) -> None:
    p, ids = rng.dirichlet(np.ones(4), 3), np.array([2, 0, 3])
    expected = make()([p[:2], p[2:]], [ids[:2], ids[2:]])
    grad, value = make()(Ragged(p, [2, 1]), np.eye(4, dtype=int)[ids])
    assert value == pytest.approx(expected[1], rel=1e-12)
    assert_same(grad.data, np.concatenate(expected[0]), rtol=1e-6)


# 6. Sequence


def test_sequence_has_the_options_of_its_calculator() -> None:
    inner = CrossEntropy(reduction="sum", label_smoothing=0.1)
    assert Sequence(inner).calculator is inner
    loss = Sequence(inner, reduction="sequence_mean", normalize_by="values", validate="shape")
    expected = CrossEntropy(reduction="sequence_mean", label_smoothing=0.1, normalize_by="values", validate="shape")
    assert loss.calculator == expected
    assert loss.inputs == ("guesses",)
    assert Sequence(InfoNCE()).inputs == ("queries", "keys")
    assert Sequence(InfoNCE()).truth_inputs == ()
    assert loss.empty().compute() == 0.0
    assert Sequence(inner).empty().count is None
    assert loss.empty().count == 0.0
    config = lossreg.Config().from_str(
        '[loss]\n@losses = "Sequence.v1"\nreduction = "mean"\n\n[loss.inner]\n@losses = "CrossEntropy.v1"\nlabel_smoothing = 0.1\n'
    )
    made = registry.resolve(config)["loss"]
    assert made == Sequence(CrossEntropy(label_smoothing=0.1), reduction="mean")
    assert registry.resolve({"loss": made.to_config()})["loss"] == made
    with pytest.raises(ConfigError, match="inner: should be a calculator of items, got CTC, which takes lists"):
        Sequence(CTC())
    with pytest.raises(ConfigError, match="inner"):
        Sequence("CrossEntropy")


def test_sequence_is_asked_as_its_calculator_is(rng: Any) -> None:
    """What subclasses of ReducedLoss provide is that of the inner calculator."""
    x, ids = [rng.normal(size=(2, 3))], [[0, 1]]
    for loss in (CrossEntropy(), Sequence(CrossEntropy())):
        batch = loss.read_guesses(x)
        truths = loss.read_truths(batch, ids, True)
        assert truths.targets.ids.tolist() == [0, 1]
        needs, weights = Needs(total=True), lossreg.pipeline.weights.Weights(None, 2.0, 0.5)
        assert loss.compute(batch, truths, weights, needs, None)[1] / 2 == pytest.approx(
            CrossEntropy().get_loss(x, ids)
        )


def test_sequence_in_a_term_and_per_token(rng: Any) -> None:
    x, t, mask = rng.normal(size=(2, 3, 4)), rng.integers(0, 4, (2, 3)), np.array([[1, 1, 0], [1, 0, 0]])
    expected = CrossEntropy()(x.reshape(6, 4), t.reshape(6), mask=mask.reshape(6))
    term = lossreg.Term(Sequence(CrossEntropy()), guesses="x", truths="t", mask="m", weight=2.0, normalize_by="mask")
    grads, value = term({"x": x, "t": t, "m": mask})
    assert value == pytest.approx(2 * expected[1], rel=1e-15)
    assert_same(grads["x"].reshape(6, 4), 2 * expected[0], rtol=1e-15)
    by_values = lossreg.Term(Sequence(CrossEntropy()), guesses="x", truths="t", mask="m", normalize_by="values")
    assert by_values.get_loss({"x": x, "t": t, "m": mask}) == pytest.approx(expected[1] * 3 / 6)
    grad, state = Sequence(CrossEntropy(per_token=True))(x, t, mask=mask)
    assert state.count == 3.0
    assert_same(state.scale(grad).reshape(6, 4), expected[0], rtol=1e-14)
    assert Sequence(CrossEntropy(per_token=True)).get_values(x, t).shape == (2, 3)
    merged = Sequence(CrossEntropy()).get_state(x, t, mask=mask) + CrossEntropy().get_state(
        list(x), list(t), mask=list(mask)
    )
    assert merged.compute() == pytest.approx(expected[1])


def test_masks_of_padded_batches_broadcast(rng: Any) -> None:
    x, t = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    loss = Sequence(Huber())
    full = np.broadcast_to(np.array([1.0, 0.0, 0.5])[None, :, None], (2, 3, 4))
    expected = Huber()(x, t, mask=full)
    for mask in (full, full[:, :, :1], full[:1], full[:1, :, 0], full[:, :, 0], full[:, :, 0].tolist()):
        assert_same(loss(x, t, mask=mask), expected, rtol=1e-15)
    weighted = Huber().get_loss(x, t, sample_weight=full)
    assert_same(loss.get_loss(x, t, sample_weight=full[:1, :, 0]), weighted, rtol=1e-15)
    assert_same(loss(x, t, mask=1.0, sample_weight=np.array(2.0))[1], 2 * Huber().get_loss(x, t), rtol=1e-15)
    out = np.empty((2, 4, 3)).swapaxes(1, 2)
    assert loss(x, t, out=out)[0] is out
    assert_same(out, Huber().get_grad(x, t))
    integers = loss(np.ones((2, 3), int), np.zeros((2, 3)))
    assert integers[0].dtype == np.float64


def test_lists_of_several_outputs_are_those_of_the_calculator(rng: Any) -> None:
    a, b = ([rng.normal(size=(n, 3)) for n in (2, 1)] for _ in range(2))
    signs = [[1, -1], [1]]
    assert_same(Sequence(CosineEmbedding())((a, b), signs), CosineEmbedding()((a, b), signs))


def test_what_any_part_lacks_is_left_out(rng: Any) -> None:
    x, ids = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, (3, 4))
    lengths = [2, 1, 3]
    truths = [ids[0, :3], ids[1, :1].tolist(), ids[2]]
    mask, weights = Ragged(np.array([1, 1, 1, 1, 1, 0, 1, 0.5]), [2, 3, 3]), [[1, 2, 3, 4], [5, 6], [7, 8, 9, 9]]
    expected = CrossEntropy()(
        [part[:n] for part, n in zip(x, lengths)],
        [part[:n] for part, n in zip(ids, lengths)],
        mask=[[1, 1], [1], [0, 1, 0.5]],
        sample_weight=[[1, 2], [5], [7, 8, 9]],
    )
    for form, weights in ((truths, weights), (ids, [[1, 2, 3], [5], [7, 8, 9, 9]])):
        grad, value = Sequence(CrossEntropy())(x, form, mask=mask, sample_weight=weights)
        assert value == expected[1]
        assert_same([part[:n] for part, n in zip(grad, lengths)], expected[0])
        assert not any(part[n:].any() for part, n in zip(grad, lengths))


PADDED = np.zeros((2, 3, 4))
IDS = np.zeros((2, 3), int)
SEQUENCE_BAD: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    (CrossEntropy(), np.zeros((2, 3)), IDS, {}, "expected guesses of shape (B, T, ...), with 3 axes or more and B and T alike, got (2, 3)."),
    (Huber(), np.zeros(2), IDS, {}, "with 2 axes or more and B and T alike, got (2,)."),
    (InfoNCE(), (PADDED, PADDED[:, :2]), None, {}, "B and T alike, got (2, 3, 4) and (2, 2, 4)."),
    (InfoNCE(), (PADDED[:, :2], PADDED), None, {}, "B and T alike, got (2, 2, 4) and (2, 3, 4)."),
    (InfoNCE(), PADDED, None, {}, "expected guesses to be a tuple (queries, keys), got a float64 array of shape (2, 3, 4)."),
    (CrossEntropy(), "none", IDS, {}, "expected guesses to be an array, got 'none'."),
    (CrossEntropy(), (PADDED,), IDS, {}, "expected guesses to be an array, got a tuple of 1."),
    (CrossEntropy(), PADDED, IDS[:, :2], {}, "expected truths of shape (2, 3) or (2, 3, ...), got a int64 array of shape (2, 2)."),
    (CrossEntropy(), PADDED, IDS[0], {}, "expected truths of shape (2, 3) or (2, 3, ...), got a int64 array of shape (3,)."),
    (CrossEntropy(), PADDED, IDS[:1], {}, "expected truths of shape (2, 3) or (2, 3, ...)"),
    (CrossEntropy(), PADDED, [[0, 1, 2]], {}, "expected truths to have 2 parts, each of at most 3 items, got a list of 1."),
    (CrossEntropy(), PADDED, [[0], [1], [2]], {}, "expected truths to have 2 parts, each of at most 3 items, got a list of 3."),
    (CrossEntropy(), PADDED, [[0, 1, 2, 3], []], {}, "expected truths to have 2 parts, each of at most 3 items, got a list of 2."),
    (CrossEntropy(), PADDED, ["cat", "dog"], {}, "expected truths to have 2 parts, each of at most 3 items, got a list of 2."),
    (CrossEntropy(), PADDED, [0, 1], {}, "expected truths to have 2 parts"),
    (CrossEntropy(), PADDED, Ragged(np.zeros(5, int), [4, 1]), {}, "expected truths to have 2 parts, each of at most 3 items, got a Ragged of 2."),
    (CrossEntropy(), PADDED, 3, {}, "got 3."), (CrossEntropy(), PADDED, ..., {}, "expected truths beside guesses, got none."),
    (CrossEntropy(), PADDED, IDS, dict(mask=np.ones((2, 2))), "expected mask of shape (2, 3) or (2, 3, ...), got a float64 array of shape (2, 2)."),
    (CrossEntropy(), PADDED, IDS, dict(mask=np.ones(2)), "expected mask of shape (2, 3) or (2, 3, ...)"),
    (CrossEntropy(), PADDED, IDS, dict(mask=np.ones(3)), "expected mask of shape (2, 3) or (2, 3, ...)"),
    (CrossEntropy(), PADDED, IDS, dict(mask=[[1, 1, 1, 1], [1]]), "expected mask to have 2 parts"),
    (CrossEntropy(), PADDED, IDS, dict(out=PADDED[:1].copy()), "expected out to be a float64 array of shape (2, 3, 4) on numpy"),
    (CrossEntropy(), PADDED, IDS, dict(out="out"), "expected out to be a float64 array of shape (2, 3, 4) on numpy"),
    (LinearCrossEntropy(), (PADDED, PADDED), IDS, {}, "expected guesses to be arrays, got a Ragged of 2."),
    (CrossEntropy(), PADDED, IDS + np.array([[0, 0, 0], [0, 0, 9]]), {}, "undeclared id 9 in row 2 of sequence 1"),
]  # fmt: skip


@pytest.mark.parametrize("inner, guesses, truths, beside, message", SEQUENCE_BAD, ids=range(len(SEQUENCE_BAD)))
def test_padded_batches_that_do_not_fit(inner: Any, guesses: Any, truths: Any, beside: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sequence(inner)(guesses, truths, **beside)
    assert message in str(caught.value)


# 7. Devices


@item_rows
@pytest.mark.parametrize("beside", ["", "fractions and weights"])
def test_sequences_stay_on_the_device(row: Row, beside: str, cupy: Any, rng: Any) -> None:
    case = draw(row, rng, beside)
    weights = {name: split(value) for name, value in case.beside.items()}
    d_flat = to_device(cupy, case.guesses)
    d_guesses = to_device(cupy, split(case.guesses))
    on_host = row.host_truths or not numeric(case.truths) or case.truths is None
    d_truths = split(case.truths) if on_host else to_device(cupy, split(case.truths))
    d_weights = to_device_each(cupy, weights)
    for reduction in REDUCTIONS:
        loss = row.make(reduction=reduction)
        grad, value = loss(split(case.guesses), split(case.truths), **weights)
        expected = flattened(grad), flattened(value)
        found = loss(d_guesses, d_truths, **d_weights)
        assert_same(host_flat(found), expected, rtol=1e-12, atol=1e-15)
        found = loss(as_ragged(d_flat), d_truths, **d_weights)
        assert_same(host_flat(found), expected, rtol=1e-12, atol=1e-15)
        padded, short = to_device(cupy, pad(case.guesses, 0.5)), split(case.truths)
        if case.truths is not None:
            grad, value = Sequence(loss)(padded, short if on_host else d_truths, **d_weights)
            value = unpadded(to_host(value)) if reduction == "none" else to_host(value)
            assert_same((unpadded(to_host(grad)), value), expected, rtol=1e-12, atol=1e-15)


def test_masks_of_the_host_beside_padded_arrays_of_a_device(cupy: Any, rng: Any) -> None:
    x, t = rng.normal(size=(2, 2, 3, 4))
    mask = np.array([[True], [False]])
    grad, value = Sequence(Huber())(cupy.asarray(x), cupy.asarray(t), mask=mask)
    assert_same((to_host(grad), to_host(value)), Sequence(Huber())(x, t, mask=mask), rtol=1e-12)


def to_device_each(cupy: Any, weights: dict[str, Any]) -> dict[str, Any]:
    return {name: to_device(cupy, value) for name, value in weights.items()}


def host_flat(found: Any) -> Any:
    if isinstance(found, tuple):
        return tuple(map(host_flat, found))
    if is_ragged(found):
        return to_host(found.dataXd)
    return np.concatenate(to_host(found)) if isinstance(found, list) else to_host(found)


def test_lengths_on_a_device_are_read(rng: Any) -> None:
    x = rng.normal(size=(3, 4))
    with standin_cupy.installed() as cupy:
        ragged, ids = Ragged(cupy.asarray(x), cupy.asarray(np.array([2, 1]))), cupy.asarray(np.array([0, 1, 2]))
        with pytest.raises(standin_cupy.WaitedForDeviceError):
            CrossEntropy()(ragged, ids)
        with standin_cupy.allow_reading():
            grad, _ = CrossEntropy()(ragged, ids)
        assert grad.lengths is ragged.lengths
        assert_same(to_host(grad.data), CrossEntropy().get_grad(x, [0, 1, 2]), rtol=1e-13)


# 8. No sequences


@pytest.mark.parametrize(
    "loss",
    [
        MeanSquaredError(), BinaryCrossEntropyWithLogits(class_weight=[1.0, 2.0]), CrossEntropy(class_weight=[1.0, 2.0]),
        SequenceCategoricalCrossentropy(label_smoothing=0.1), SequenceCategoricalCrossentropy_v4(class_weight=[1.0, 2.0]),
    ],
)  # fmt: skip
def test_no_sequences_give_no_gradients_and_zero(loss: Any) -> None:
    assert loss([], []) == ([], 0.0)
    assert loss.get_grad([], []) == []
    assert loss.get_loss([], []) == 0.0
    with pytest.raises(ValueError, match="to be a list of 0"):
        loss([], [[0]])
