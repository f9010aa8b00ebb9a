"""Gradients that are added up over micro-batches are those of the one big batch, whatever the parts weigh."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from lossreg import (
    BinaryCrossEntropyWithLogits,
    CrossEntropy,
    LossState,
    MeanAbsoluteError,
    MeanSquaredError,
    Term,
    WeightedSum,
)
from lossreg.pipeline.weights import Reduction
from lossreg.schedules import LinearSchedule
from support.nested import assert_same, count, each, item_mask, take
from support.table import TRUE_ROWS, Row

DIGITS = Path(__file__).parents[2] / "docs" / "examples" / "data" / "digits.csv.gz"
REDUCTIONS = get_args(Reduction)


def test_ten_over_four_tokens_and_two_over_one() -> None:
    """The loss per token is 12 / 5 = 2.4; the mean of the means of the two batches is (2.5 + 2) / 2 = 2.25."""
    loss = MeanAbsoluteError()
    batches = [(np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4)), (np.array([2.0]), np.zeros(1))]
    states = [loss.get_state(*batch) for batch in batches]
    assert [(state.total, state.count) for state in states] == [(10.0, 4.0), (2.0, 1.0)]
    assert sum(states).compute() == 2.4
    assert np.mean([state.compute() for state in states]) == 2.25
    assert LossState(10.0, 4).merge(LossState(2.0, 1)).compute() == 2.4
    scaled = [sum(states).scale(loss.get_state_and_grad(*batch)[1]) for batch in batches]
    assert np.concatenate(scaled).tolist() == [0.2] * 5


# Every calculator


def weighed(row: Row, guesses: Any, truths: Any, rng: Any) -> dict[str, Any]:
    """A mask and weights for the items of a batch."""
    values = row.make().get_values(guesses, truths)
    keep = rng.random(len(values) if isinstance(values, list) else values.shape[0]) < 0.7
    mask = item_mask(values, keep)
    return {"mask": mask, "sample_weight": each(lambda m: m * 1.5 + 0.25, item_mask(values, rng.random(len(keep))))}


@pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
def test_the_unscaled_gradient_is_the_gradient_times_the_count(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 6)
    weights = weighed(row, guesses, truths, rng)
    for reduction in REDUCTIONS:
        loss = row.make(reduction=reduction)
        for more in ({}, weights):
            grad = loss.get_grad(guesses, truths, **more)
            expected = loss.get_state(guesses, truths, **more)
            state, unscaled = loss.get_state_and_grad(guesses, truths, **more)
            assert_same(
                (state.total, 0.0 if state.count is None else state.count), (expected.total, expected.count or 0.0)
            )
            assert state.parent == expected.parent
            factor = 1.0 if state.count is None else state.count
            assert_same(unscaled, each(lambda g, factor=factor: g * factor, grad), rtol=1e-12, atol=1e-16)
            assert_same(state.scale(unscaled), grad, rtol=1e-12, atol=1e-16)
            if reduction != "none":
                assert_same(state.compute(), loss.get_loss(guesses, truths, **more), rtol=1e-15)
        if not isinstance(guesses, list):
            out = each(np.empty_like, guesses)
            assert loss.get_state_and_grad(guesses, truths, out=out)[1] is out


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if not row.coupled], ids=lambda row: row.id)
@pytest.mark.parametrize("normalize_by", ["mask", "values"])
def test_parts_of_a_batch_have_the_gradient_of_the_batch(row: Row, normalize_by: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 9)
    items = guesses.shape[1] if row.axis else count(guesses)
    part_of = rng.integers(0, 4, items)
    parts = [np.flatnonzero(part_of == k) for k in range(4)]
    weights = weighed(row, guesses, truths, rng)
    for reduction in REDUCTIONS:
        loss = row.make(reduction=reduction, normalize_by=normalize_by)
        for more in ({}, weights):
            grad, value = loss(guesses, truths, **more)
            both = [
                loss.get_state_and_grad(
                    row.take(guesses, part), take(truths, part), **{k: take(w, part) for k, w in more.items()}
                )
                for part in parts
            ]
            merged = functools.reduce(operator.add, [loss.empty(), *(state for state, _ in both)])
            if reduction != "none":
                assert_same(merged.compute(), value, rtol=1e-12, atol=1e-15)
            for part, (_, unscaled) in zip(parts, both, strict=True):
                assert_same(merged.scale(unscaled), row.take(grad, part), rtol=1e-11, atol=1e-15)


def test_gradients_that_are_not_divided_keep_their_digits_in_half_precision(rng: Any) -> None:
    """Divided by the count of a batch, here 30,000, most of them are subnormal."""
    guesses, truths = rng.normal(size=(10_000, 3)).astype(np.float16), rng.choice([-2.0, 2.0], (10_000, 3))
    state, unscaled = MeanSquaredError().get_state_and_grad(guesses, truths)
    exact = 2 * (guesses.astype(float) - truths)
    assert unscaled.dtype == np.float16
    assert_same(unscaled, exact, rtol=1e-3, atol=1e-3)
    divided = MeanSquaredError().get_grad(guesses, truths).astype(float) * state.count
    assert np.abs(divided / exact - 1).max() > 0.01


# A model that learns


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    table = np.loadtxt(DIGITS, delimiter=",")
    return table[:, :-1] / 16, table[:, -1].astype(int)


class SGD:
    """Gradient descent."""

    def __init__(self, learn_rate: float = 0.5) -> None:
        self.learn_rate = learn_rate

    def __call__(self, params: dict[str, Any], grads: dict[str, Any]) -> None:
        for name, grad in grads.items():
            params[name] -= self.learn_rate * grad


class Adam:
    """Kingma and Ba (2014), arXiv:1412.6980, algorithm 1."""

    def __init__(self, learn_rate: float = 0.01) -> None:
        self.learn_rate, self.t = learn_rate, 0
        self.moments: dict[str, Any] = {}

    def __call__(self, params: dict[str, Any], grads: dict[str, Any]) -> None:
        self.t += 1
        for name, grad in grads.items():
            m, v = self.moments.get(name, (0.0, 0.0))
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            self.moments[name] = m, v
            m, v = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            params[name] -= self.learn_rate * m / (np.sqrt(v) + 1e-8)


SPLITS = {
    "one of 256": [256],
    "eight of 32": [32] * 8,
    "uneven, one of them empty": [1, 100, 0, 3, 152],
    "one by one": [1] * 256,
}
STEPS = 5


def batches(digits: Any, seed: int = 0) -> list[dict[str, Any]]:
    """Five batches of 256 images, some without label, a third masked, all with weights; one has 32 masked in a row."""
    rng, (images, labels) = np.random.default_rng(seed), digits
    found = []
    for _ in range(STEPS):
        index = rng.permutation(len(images))[:256]
        truths = [None if rng.random() < 0.1 else int(label) for label in labels[index]]
        mask = rng.random(256) * (rng.random(256) < 0.7)
        mask[64:96] = 0
        found.append({"x": images[index], "y": truths, "mask": mask, "sample_weight": rng.random(256) * 3})
    return found


def cut(batch: dict[str, Any], sizes: list[int]) -> list[dict[str, Any]]:
    ends = np.cumsum(sizes)
    return [
        {name: part[end - size : end] for name, part in batch.items()} for size, end in zip(sizes, ends, strict=True)
    ]


def train(digits: Any, loss: Any, optimizer: Any, sizes: list[int], averaged: bool = False) -> dict[str, np.ndarray]:
    """Softmax regression; with `averaged`, as it is often done: gradients of means, averaged over the parts."""
    params = {"W": np.zeros((64, 10)), "b": np.zeros(10)}
    for batch in batches(digits):
        added = {name: np.zeros_like(param) for name, param in params.items()}
        state = loss.empty()
        for part in cut(batch, sizes):
            arguments = part["x"] @ params["W"] + params["b"], part["y"]
            more = {"mask": part["mask"], "sample_weight": part["sample_weight"]}
            if averaged:
                grad = loss.get_grad(*arguments, **more) / len(sizes)
            else:
                part_state, grad = loss.get_state_and_grad(*arguments, **more)
                state += part_state
            added["W"] += part["x"].T @ grad
            added["b"] += grad.sum(axis=0)
        optimizer(params, added if averaged else state.scale(added))
    return params


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batch_mean", "sum"])
@pytest.mark.parametrize("split", list(SPLITS)[1:])
def test_micro_batches_train_the_same_model(split: str, reduction: Any, optimizer: Any, digits: Any) -> None:
    loss = CrossEntropy(reduction=reduction, class_weight=np.linspace(0.5, 2.0, 10), label_smoothing=0.1)
    rate = 0.001 if reduction == "sum" else 0.5
    make = optimizer if optimizer is Adam else lambda: SGD(rate)
    whole = train(digits, loss, make(), SPLITS["one of 256"])
    parts = train(digits, loss, make(), SPLITS[split])
    for name in whole:
        assert np.abs(whole[name]).max() > 0.01
        assert_same(parts[name], whole[name], rtol=1e-12, atol=1e-12)


def test_averaged_means_train_another_model(digits: Any) -> None:
    """What the test above would not show if all parts weighed the same."""
    whole, averaged = (train(digits, CrossEntropy(), SGD(), SPLITS["eight of 32"], averaged=a) for a in (False, True))
    assert np.abs(whole["W"] - averaged["W"]).max() > 0.01


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_share_their_sums_train_the_same_model(workers: int, digits: Any) -> None:
    """Each worker has every third part; what they send is a state and the sums of gradients."""
    loss, params, alone = CrossEntropy(), np.zeros((64, 10)), np.zeros((64, 10))
    for batch in batches(digits):
        sent = []
        for worker in range(workers):
            state, added = loss.empty(), np.zeros_like(params)
            for part in cut(batch, [32] * 8)[worker::workers]:
                part_state, grad = loss.get_state_and_grad(part["x"] @ params, part["y"], mask=part["mask"])
                state, added = state + part_state, added + part["x"].T @ grad
            sent.append((state, added))
        params = params - 0.5 * sum(state for state, _ in sent).scale(sum(added for _, added in sent))
        grad = loss.get_grad(batch["x"] @ alone, batch["y"], mask=batch["mask"])
        alone = alone - 0.5 * batch["x"].T @ grad
    assert_same(params, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_thinc_model_adds_gradients_up(kind: str, digits: Any) -> None:
    """Thinc adds up what `backprop` gives; the sums are divided once, before the optimizer sees them."""
    thinc = pytest.importorskip("thinc.api", reason="thinc is not installed: pip install thinc")
    make = {
        "SGD": lambda: thinc.SGD(0.5, L2=0.0, grad_clip=0.0, use_averages=False),
        "Adam": lambda: thinc.Adam(0.01, L2=0.0, grad_clip=0.0, use_averages=False),
    }[kind]
    loss = CrossEntropy()

    def fit(sizes: list[int]) -> list[np.ndarray]:
        thinc.fix_random_seed(0)
        model = thinc.chain(thinc.Relu(nO=16, nI=64), thinc.Linear(nO=10, nI=16)).initialize()
        optimizer = make()
        for batch in batches(digits):
            state = loss.empty()
            for part in cut(batch, sizes):
                guesses, backprop = model.begin_update(part["x"].astype("float32"))
                more = {"mask": part["mask"], "sample_weight": part["sample_weight"]}
                part_state, d_guesses = loss.get_state_and_grad(guesses, part["y"], **more)
                backprop(d_guesses)
                state += part_state
            for node in model.walk():
                for name in node.param_names:
                    if node.has_grad(name):
                        node.set_grad(name, state.scale(node.get_grad(name)))
            model.finish_update(optimizer)
        return [node.get_param(name) for node in model.walk() for name in node.param_names if node.has_param(name)]

    whole, parts = fit([256]), fit([1, 100, 3, 152])
    assert len(whole) == 4
    for a, b in zip(whole, parts, strict=True):
        assert_same(b, a, rtol=1e-4, atol=2e-5)


# Several terms


def multitask(digits: Any) -> WeightedSum:
    return WeightedSum(
        terms={
            "digit": Term(CrossEntropy(), guesses="out.logits", truths="y", mask="mask"),
            "even": Term(
                BinaryCrossEntropyWithLogits(), guesses="out.even", truths="even", sample_weight="column", weight=0.5
            ),
            "pixels": Term(
                MeanSquaredError(), guesses="out.pixels", truths="x",
                weight=LinearSchedule(start=2.0, end=0.0, steps=2 * STEPS),
            ),
            "small": Term(MeanAbsoluteError(), guesses="out.logits", truths="zero", weight=0.01),
        }
    )  # fmt: skip


def fit_terms(digits: Any, sizes: list[int], optimizer: Any) -> tuple[dict[str, np.ndarray], list[Any]]:
    """One hidden layer with three heads; each term's gradients go back on their own, and are added up by term."""
    rng, loss = np.random.default_rng(1), multitask(digits)
    shapes = {"hidden": (64, 12), "logits": (12, 10), "even": (12, 1), "pixels": (12, 64)}
    params = {name: rng.normal(size=shape) * 0.3 for name, shape in shapes.items()}
    losses = []
    for step, batch in enumerate(batches(digits)):
        batch["even"] = np.array([[0.5 if y is None else y % 2 == 0] for y in batch["y"]], float)
        batch["zero"], batch["column"] = np.zeros((256, 10)), batch["sample_weight"][:, None]
        state, added = loss.empty(), {name: {} for name in loss.terms}
        for part in cut(batch, sizes):
            hidden = np.tanh(part["x"] @ params["hidden"])
            out = {name: hidden @ params[name] for name in ("logits", "even", "pixels")}
            part_state, grads = loss.get_state_and_grad({**part, "out": out, "step": step})
            state += part_state
            for term, of_paths in grads.items():
                for path, grad in of_paths.items():
                    head = path.removeprefix("out.")
                    back = part["x"].T @ (grad @ params[head].T * (1 - hidden**2))
                    for name, new in ((head, hidden.T @ grad), ("hidden", back)):
                        added[term][name] = added[term].get(name, 0.0) + new
        scaled = state.scale(added)
        assert set(scaled) == set(params)
        optimizer(params, scaled)
        losses.append(state.per_term())
    return params, losses


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("split", list(SPLITS)[1:])
def test_terms_are_divided_each_by_its_own_count(split: str, optimizer: Any, digits: Any) -> None:
    whole, losses = fit_terms(digits, SPLITS["one of 256"], optimizer())
    parts, their_losses = fit_terms(digits, SPLITS[split], optimizer())
    for name in whole:
        assert_same(parts[name], whole[name], rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(losses, their_losses, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-12)
    assert losses[-1]["digit"] < losses[0]["digit"]


def test_gradients_of_a_context_are_those_that_a_call_gives(digits: Any) -> None:
    """With one context, nothing is left to add up."""
    loss, rng = multitask(digits), np.random.default_rng(0)
    batch = batches(digits)[0]
    out = {
        "logits": rng.normal(size=(256, 10)),
        "even": rng.normal(size=(256, 1)),
        "pixels": rng.normal(size=(256, 64)),
    }
    context = {
        **batch,
        "out": out,
        "step": 3,
        "even": rng.random((256, 1)),
        "zero": np.zeros((256, 10)),
        "column": rng.random((256, 1)),
    }
    grads, value = loss(context)
    state, unscaled = loss.get_state_and_grad(context)
    scaled = state.scale(unscaled)
    assert set(unscaled) == set(loss.terms)
    assert state.compute() == pytest.approx(value, rel=1e-15)
    assert scaled.keys() == grads.keys()
    for path in grads:
        assert_same(scaled[path], grads[path], rtol=1e-12, atol=1e-18)
