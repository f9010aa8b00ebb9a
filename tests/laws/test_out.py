"""`out` may be any memory: inputs in any order, overlapping views of them, masks and weights."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    CrossEntropy,
    Huber,
    InfoNCE,
    MeanSquaredError,
)
from support.nested import assert_same, each, leaves
from support.table import TRUE_ROWS, Row


def has_arrays(row: Row) -> bool:
    return not isinstance(row.sample(np.random.default_rng(0), 3)[0], list)


ARRAY_ROWS = [row for row in TRUE_ROWS if "Sequence" not in row.name and has_arrays(row)]
rows = pytest.mark.parametrize("row", ARRAY_ROWS, ids=lambda row: row.id)


def copied(tree: Any) -> Any:
    return each(lambda x: x.copy() if isinstance(x, np.ndarray) else x, tree)


def sampled(row: Row, rng: Any) -> tuple[Any, Any]:
    guesses, truths = row.sample(rng, 6)
    return each(np.ascontiguousarray, guesses), truths


@rows
def test_any_order_of_the_inputs_takes_the_gradients(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = sampled(row, rng)
    calculator = row.make()
    expected = calculator(guesses, truths)
    for order in itertools.permutations(range(len(leaves(guesses)))):
        own = copied(guesses)
        given = leaves(own)
        targets = tuple(given[i] for i in order)
        if any(target.shape != x.shape for target, x in zip(targets, given)):
            continue
        out = targets if isinstance(own, tuple) else targets[0]
        grad, value = calculator(own, truths, out=out)
        assert_same(grad, expected[0], rtol=1e-13, atol=1e-16)
        assert_same(value, expected[1], rtol=1e-13)


@rows
@pytest.mark.parametrize("shift", [1, 3])
def test_memory_that_overlaps_the_inputs_takes_the_gradients(row: Row, shift: int, backend: Any, rng: Any) -> None:
    guesses, truths = sampled(row, rng)
    calculator = row.make()
    expected = calculator(guesses, truths)
    for backwards in (False, True):
        inputs, targets = [], []
        for x in leaves(guesses):
            memory = np.zeros(x.size + shift)
            front, back = memory[: x.size].reshape(x.shape), memory[shift:].reshape(x.shape)
            inputs.append(back if backwards else front)
            targets.append(front if backwards else back)
            inputs[-1][...] = x
        several = isinstance(guesses, tuple)
        grad, value = calculator(
            tuple(inputs) if several else inputs[0], truths, out=tuple(targets) if several else targets[0]
        )
        assert_same(grad, expected[0], rtol=1e-13, atol=1e-16)
        assert_same(value, expected[1], rtol=1e-13)


@rows
def test_truths_masks_and_weights_take_the_gradients(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = sampled(row, rng)
    calculator = row.make()
    values = calculator.get_values(guesses, truths)
    for name in ("mask", "sample_weight"):
        weights = rng.random(values.shape)
        expected = calculator(guesses, truths, **{name: weights})
        targets = []
        # the weights lie in the memory of one gradient, as far as they fit there
        memory = np.zeros(max(x.size for x in leaves(guesses)))
        given = memory[: weights.size].reshape(weights.shape)
        given[...] = weights
        for i, x in enumerate(leaves(guesses)):
            targets.append(memory[: x.size].reshape(x.shape) if i == 0 else np.empty_like(x))
        out = tuple(targets) if isinstance(guesses, tuple) else targets[0]
        found = calculator(guesses, truths, out=out, **{name: given})
        assert_same(found, expected, rtol=1e-13, atol=1e-16)
    both_arrays = isinstance(truths, np.ndarray) and isinstance(guesses, np.ndarray)
    if both_arrays and (truths.dtype, truths.shape) == (guesses.dtype, guesses.shape):
        own = truths.copy()
        assert_same(calculator(guesses, own, out=own), calculator(guesses, truths), rtol=1e-13, atol=1e-16)


def test_a_weight_of_the_guesses_shape_takes_the_gradient(backend: Any, rng: Any) -> None:
    x, t, weight = rng.random((3, 4, 5))
    for reduction in ("mean", "weighted_mean", "sequence_mean"):
        calculator = lossreg.loss("mse", reduction=reduction)
        expected = calculator(x, t, sample_weight=weight, mask=t)
        own, mask = weight.copy(), t.copy()
        assert_same(calculator(x, t, sample_weight=own, mask=mask, out=own), expected, rtol=1e-13)
        own = weight.copy()
        assert_same(calculator(x, t, sample_weight=own, mask=mask, out=mask), expected, rtol=1e-13)


SIZE = 60_001
"""More than one block of NumPy's backend."""


@pytest.mark.parametrize("loss", [MeanSquaredError(), Huber(delta=0.3)])
def test_out_may_overlap_what_is_read(loss: Any, rng: Any) -> None:
    memory, truths = rng.normal(size=SIZE), rng.normal(size=SIZE - 1)
    expected = loss(memory[:-1].copy(), truths)
    for view in (slice(1, None), slice(None, 0, -1)):
        own = memory.copy()
        assert_same(loss(own[:-1], truths, out=own[view]), expected, rtol=1e-13)
    square = rng.normal(size=(250, 250))
    expected = loss(square.copy(), square + 1)
    assert_same(loss(square, square + 1, out=square.T), expected, rtol=1e-13)
    for shared in ("truths", "weights", "guesses and truths"):
        guesses, truths, weights = rng.normal(size=(3, SIZE))
        expected = loss(guesses, guesses * 1 if "and" in shared else truths, sample_weight=abs(weights))
        if "and" in shared:
            assert_same(loss(guesses, guesses, sample_weight=abs(weights), out=guesses), expected, rtol=1e-13)
        elif shared == "truths":
            assert_same(loss(guesses, truths, sample_weight=abs(weights), out=truths), expected, rtol=1e-13)
        else:
            weights = abs(weights)
            assert_same(loss(guesses, truths, sample_weight=weights, out=weights), expected, rtol=1e-13)


def test_out_may_be_the_truths_of_a_row_loss(rng: Any) -> None:
    logits, truths = rng.normal(size=(3000, 20)), rng.dirichlet(np.ones(20), 3000)
    expected = CrossEntropy()(logits, truths)
    assert_same(CrossEntropy()(logits, truths, out=truths), expected, rtol=1e-13)
    logits, memory = rng.normal(size=(3001, 20)), rng.normal(size=(3002, 20))
    memory[:-1] = logits
    ids = rng.integers(0, 20, 3001)
    expected = CrossEntropy()(logits, ids)
    assert_same(CrossEntropy()(memory[:-1], ids, out=memory[1:]), expected, rtol=1e-13)


def test_outs_of_two_outputs_may_be_swapped(rng: Any) -> None:
    queries, keys = rng.normal(size=(2, 5, 3))
    expected = InfoNCE()((queries, keys))
    q, k = queries.copy(), keys.copy()
    assert_same(InfoNCE()((q, k), out=(k, q)), expected, rtol=1e-13)
