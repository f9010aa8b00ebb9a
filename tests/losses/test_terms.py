"""Terms and weighted sums: what they give is what the same calls by hand give."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import (
    CTC,
    Config,
    ConfigError,
    CrossEntropy,
    Huber,
    InfoNCE,
    LossState,
    MeanAbsoluteError,
    MeanSquaredError,
    ReducedLoss,
    Term,
    TripletMargin,
    WeightedSum,
    WeightedSumState,
    registry,
)
from lossreg.pipeline.kinds import ElementwiseLoss
from lossreg.schedules import LinearSchedule, PiecewiseSchedule
from support import standin_cupy
from support.nested import assert_same, each, frozen, leaves

WEIGHTS: list[tuple[Any, float]] = [
    # weight, its number at step 30
    (1.0, 1.0), (2.5, 2.5), (0.0, 0.0), (-1.0, -1.0), (lambda step: step / 20, 1.5),
    (LinearSchedule(start=0.0, end=1.0, steps=120), 0.25), (PiecewiseSchedule(boundaries=[30], values=[0.0, 3.0]), 3.0),
]  # fmt: skip
weights = pytest.mark.parametrize(
    "weight, number", WEIGHTS, ids=[f"{type(w).__name__}-{number}" for w, number in WEIGHTS]
)


@dataclasses.dataclass
class Context:
    """What a training step knows, as an object: dicts, lists and attributes."""

    preds: Any
    batch: dict[str, Any]
    step: int = 30


def elements(rng: Any, masks: bool = True) -> Context:
    batch = {"target": rng.normal(size=(4, 3))}
    if masks:
        batch |= {"mask": rng.random((4, 3)) * (rng.random((4, 3)) < 0.7), "weight": rng.random((4, 1)) * 3}
    return Context(SimpleNamespace(outputs=[rng.normal(size=(4, 3))]), batch)


# One term


@weights
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batch_mean", "weighted_mean"])
@pytest.mark.parametrize("mask", [None, "batch.mask"])
@pytest.mark.parametrize("sample_weight", [None, "batch['weight']"])
@pytest.mark.parametrize("normalize_by", [None, "mask", "values"])
def test_a_term_is_its_calculator_times_its_weight(
    weight: Any, number: float, reduction: Any, mask: Any, sample_weight: Any, normalize_by: Any, rng: Any
) -> None:
    loss = Huber(delta=0.7, reduction=reduction)
    term = Term(
        loss, guesses="preds.outputs[0]", truths="batch.target", mask=mask, sample_weight=sample_weight, weight=weight,
        normalize_by=normalize_by,
    )  # fmt: skip
    context = frozen_context(elements(rng))
    by_hand = dataclasses.replace(loss, normalize_by=normalize_by) if normalize_by else loss
    arguments = (context.preds.outputs[0], context.batch["target"])
    more = {"mask": mask and context.batch["mask"], "sample_weight": sample_weight and context.batch["weight"]}
    grad, value = by_hand(*arguments, **more)
    state = by_hand.get_state(*arguments, **more)
    found, total = term(context)
    assert list(found) == ["preds.outputs[0]"]
    assert_same(total, number * np.sum(value), rtol=1e-14, atol=1e-300)
    assert_same(found["preds.outputs[0]"], number * grad, rtol=1e-13, atol=1e-300)
    assert_same(term.get_grad(context)["preds.outputs[0]"], found["preds.outputs[0]"])
    assert term.get_loss(context) == total
    for one in (term.get_state_from_context(context), term.get_state(*arguments, **more, step=30)):
        assert (one.total, one.count, one.parent) == (state.total * number, state.count, term)
        assert one.compute() == total
    assert_same(term.get_values(*arguments, **more), by_hand.get_values(*arguments, **more))
    accumulated, unscaled = term.get_state_and_grad(context)
    assert (accumulated.total, accumulated.count) == (state.total * number, state.count)
    assert_same(unscaled["preds.outputs[0]"], found["preds.outputs[0]"] * (state.count or 1), rtol=1e-13, atol=1e-300)
    assert_same(accumulated.scale(unscaled)["preds.outputs[0]"], found["preds.outputs[0]"], rtol=1e-13, atol=1e-300)


def frozen_context(context: Context) -> Context:
    context = copy.deepcopy(context)
    for array in (*leaves(context.preds.outputs), *context.batch.values()):
        array.flags.writeable = False
    return context


def numerical(call: Callable[[Any], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a function of one array."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[index] = step
        found[index] = (call(x + nudge) - call(x - nudge)) / (2 * step)
    return found


def test_the_gradient_is_that_of_the_loss(rng: Any) -> None:
    context = elements(rng)
    for weight, _ in WEIGHTS:
        term = Term(
            MeanSquaredError(), guesses="preds.outputs[0]", truths="batch.target", mask="batch.mask",
            sample_weight="batch.weight", weight=weight,
        )  # fmt: skip
        call = lambda x, term=term: term.get_loss(Context(SimpleNamespace(outputs=[x]), context.batch))  # noqa: E731
        slopes = numerical(call, context.preds.outputs[0])
        assert_same(term.get_grad(context)["preds.outputs[0]"], slopes, rtol=1e-7, atol=1e-9)


def test_several_outputs_and_several_truths(rng: Any) -> None:
    outputs = {name: rng.normal(size=(4, 3)) for name in ("anchor", "positive", "negative")}
    term = Term(TripletMargin(), guesses=["z.anchor", "z.positive", "z.negative"], weight=2.0)
    grads, value = term({"z": outputs})
    expected, loss = TripletMargin()(tuple(outputs.values()))
    assert (list(grads), value) == (["z.anchor", "z.positive", "z.negative"], 2 * loss)
    assert_same(tuple(grads.values()), each(lambda g: 2 * g, expected), rtol=1e-15)

    logits = rng.normal(size=(6, 2, 4))
    spoken = (np.array([[1, 2], [3, 1]]), np.array([6, 5]), np.array([2, 1]))
    context = {"logits": logits, "speech": {"targets": spoken[0], "lengths": [spoken[1], spoken[2]]}}
    ctc = CTC(wrt="logits")
    term = Term(ctc, guesses="logits", truths=["speech.targets", "speech.lengths[0]", "speech.lengths[1]"], weight=0.5)
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    grads, value = term({**context, "logits": log_probs})
    expected, loss = ctc(log_probs, spoken)
    assert value == 0.5 * loss
    assert_same(grads["logits"], 0.5 * expected, rtol=1e-13)


def test_one_path_for_two_outputs_gets_the_sum_of_their_gradients(rng: Any) -> None:
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    term = Term(TripletMargin(margin=5.0), guesses=["x", "y", "x"])
    grads, value = term({"x": x, "y": y})
    (anchor, positive, negative), loss = TripletMargin(margin=5.0)((x, y, x))
    assert value == loss
    assert_same(grads["x"], anchor + negative)
    assert_same(grads["y"], positive)


def test_lists_of_sequences(rng: Any) -> None:
    guesses = [rng.normal(size=(n, 3)) for n in (2, 0, 4)]
    truths, mask = [[0, 1], [], ["a", None, 2, "b"]], [np.ones(2), np.ones(0), np.array([1, 1, 0, 1])]
    loss = CrossEntropy(names=["a", "b", "c"])
    term = Term(loss, guesses="tagger", truths="tags", mask="mask", weight=3.0)
    context = {"tagger": guesses, "tags": truths, "mask": mask}
    grads, value = term(context)
    expected, once = loss(guesses, truths, mask=mask)
    assert value == 3 * once
    assert_same(grads["tagger"], each(lambda g: 3 * g, expected), rtol=1e-14)
    state, unscaled = term.get_state_and_grad(context)
    assert_same(state.scale(unscaled)["tagger"], grads["tagger"], rtol=1e-14)
    empty = term({"tagger": [], "tags": [], "mask": []})
    assert empty == ({"tagger": []}, 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_gradient_looks_like_the_guesses(dtype: Any, rng: Any) -> None:
    context = {"x": rng.normal(size=(3, 4)).astype(dtype), "y": np.zeros((3, 4)), "step": 3}
    for weight in (2.0, LinearSchedule(start=0.0, end=1.0, steps=7)):
        one = Term(Huber(), guesses="x", truths="y", weight=weight)
        for loss in (one, WeightedSum(one, one)):
            grads, value = loss(context)
            assert type(value) is float
            assert (grads["x"].dtype, grads["x"].shape) == (dtype, (3, 4))


def test_labels_weigh_too(rng: Any) -> None:
    """Class weights and missing truths count in terms as they do outside."""
    loss = CrossEntropy(class_weight=[0.5, 2.0, 1.0])
    context = {"x": rng.normal(size=(4, 3)), "y": [0, None, 1, 2], "m": np.array([1.0, 1.0, 0.5, 0.0])}
    grads, value = Term(loss, guesses="x", truths="y", mask="m", weight=2.0)(context)
    expected, once = loss(context["x"], context["y"], mask=context["m"])
    assert value == 2 * once
    assert_same(grads["x"], 2 * expected, rtol=1e-15)


def test_states_of_steps_merge_to_the_loss_of_all(rng: Any) -> None:
    """A schedule weighs the totals of each step; what a mean divides by has no weight."""
    schedule = LinearSchedule(start=1.0, end=0.0, steps=4)
    term = Term(MeanSquaredError(), guesses="x", truths="y", mask="m", weight=schedule)
    contexts = [
        {"x": rng.normal(size=n), "y": rng.normal(size=n), "m": rng.random(n), "step": step}
        for step, n in enumerate((3, 5, 1, 4, 2))
    ]
    merged = term.empty() + sum(term.get_state_from_context(context) for context in contexts)
    totals = [(1 - min(c["step"], 4) / 4) * np.sum(c["m"] * (c["x"] - c["y"]) ** 2) for c in contexts]
    assert_same(merged.compute(), sum(totals) / sum(c["m"].sum() for c in contexts), rtol=1e-14)
    assert merged.parent is term
    assert pickle.loads(pickle.dumps(merged)).compute() == merged.compute()
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        merged.merge(dataclasses.replace(term, weight=2.0).empty())


# Kauldron's tests of its base class, restated: ten times x


class TenTimes(ElementwiseLoss):
    """value = 10 x, slope = 10."""

    truth_inputs = ()

    @staticmethod
    def formula(xp: Any, x: Any) -> tuple[Any, Any]:
        return 10.0 * x, 10.0 + 0.0 * x


def test_the_mean_of_ten_times_x_is_ten() -> None:
    context = {"step": 100, "batch": {"x": np.ones((2, 3))}}
    for weight, expected in ((1.0, 10.0), (2.5, 25.0), (lambda step: step / 20, 50.0)):
        term = Term(TenTimes(), guesses="batch.x", weight=weight)
        assert term.get_state(np.ones((2, 3)), step=100).compute() == expected
        grads, value = term(context)
        assert value == expected
        assert_same(grads["batch.x"], np.full((2, 3), expected / 6), rtol=1e-15)


def test_masks_of_ten_times_x() -> None:
    x, mask = np.array([[1.0] * 3, [2.0] * 3]), np.array([[1.0] * 3, [0.0] * 3])
    light, heavy = (Term(TenTimes(), guesses="x", mask="m", weight=weight) for weight in (1.0, 3.0))
    everything = np.ones((2, 3))
    found = [term.get_loss({"x": x, "m": m}) for term in (light, heavy) for m in (everything, mask)]
    assert found == [15.0, 10.0, 45.0, 30.0]
    values = dataclasses.replace(light, normalize_by="values")
    assert [values.get_loss({"x": x, "m": m}) for m in (everything, mask)] == [15.0, 5.0]


# Sums of terms


def three(rng: Any, n: int = 6, step: int = 30) -> tuple[WeightedSum, dict[str, Any]]:
    """Three terms over two outputs, one of them masked and one with a schedule."""
    loss = WeightedSum(
        terms={
            "digit": Term(CrossEntropy(), guesses="out.logits", truths="y", mask="labelled"),
            "even": Term(MeanSquaredError(), guesses="out.x", truths="x", weight=0.5, sample_weight="w"),
            "decay": Term(
                MeanAbsoluteError(), guesses="out.x", truths="zero",
                weight=LinearSchedule(start=1.0, end=0.0, steps=120),
            ),
        }
    )  # fmt: skip
    context = {
        "out": {"logits": rng.normal(size=(n, 4)), "x": rng.normal(size=(n, 2))},
        "y": rng.integers(0, 4, n), "labelled": rng.random(n) < 0.6, "x": rng.normal(size=(n, 2)),
        "zero": np.zeros((n, 2)), "w": rng.random((n, 1)), "step": step,
    }  # fmt: skip
    return loss, context


def by_hand(context: Any) -> tuple[dict[str, Any], dict[str, float]]:
    out, weight = context["out"], 1 - min(context["step"], 120) / 120
    d_logits, digit = CrossEntropy()(out["logits"], context["y"], mask=context["labelled"])
    d_x, even = MeanSquaredError()(out["x"], context["x"], sample_weight=context["w"])
    d_decay, decay = MeanAbsoluteError()(out["x"], context["zero"])
    grads = {"out.logits": d_logits, "out.x": 0.5 * d_x + weight * d_decay}
    return grads, {"digit": digit, "even": 0.5 * even, "decay": weight * decay}


@pytest.mark.parametrize("step", [0, 30, 120, 1000])
def test_a_sum_of_terms_is_the_same_by_hand(step: int, rng: Any) -> None:
    loss, context = three(rng, step=step)
    expected, terms = by_hand(context)
    grads, value = loss(context)
    assert grads.keys() == expected.keys()
    for path in grads:
        assert_same(grads[path], expected[path], rtol=1e-14, atol=1e-17)
    assert value == pytest.approx(math.fsum(terms.values()), rel=1e-14)
    state = loss.get_state_from_context(context)
    assert state.compute() == loss.get_loss(context) == value
    assert state.per_term() == pytest.approx(terms, rel=1e-14)
    assert_same(list(loss.get_grad(context).values()), list(grads.values()))
    assert type(value) is float


def test_the_gradient_of_a_sum_is_that_of_the_loss(rng: Any) -> None:
    loss, context = three(rng)
    grads = loss.get_grad(context)
    for name in ("logits", "x"):
        call = lambda x, name=name: loss.get_loss({**context, "out": {**context["out"], name: x}})  # noqa: E731
        assert_same(grads[f"out.{name}"], numerical(call, context["out"][name]), rtol=1e-6, atol=1e-9)


def test_states_of_sums_merge_term_by_term(rng: Any) -> None:
    loss, _ = three(rng)
    contexts = [three(rng, n, step)[1] for n, step in ((6, 0), (1, 30), (9, 60))]
    states = [loss.get_state_from_context(context) for context in contexts]
    merged = loss.empty() + states[0] + (states[1] + states[2])
    for again in (merged, pickle.loads(pickle.dumps(merged)), WeightedSumState.empty() + merged.finalize()):
        assert isinstance(again, WeightedSumState)
        assert again.compute() == pytest.approx(math.fsum(again.per_term().values()), rel=1e-15)
        assert again.parent == loss
    for name in loss.terms:
        alone = sum(loss.terms[name].get_state_from_context(context) for context in contexts)
        assert merged.per_term()[name] == alone.compute()
        assert merged.tree[name].parent == loss.terms[name]
    assert loss.empty().compute() == 0
    for state in (loss.empty(), states[0], loss.get_state_and_grad(contexts[0])[0]):
        assert state.parent is loss
    assert set(loss.empty().per_term()) == {"digit", "even", "decay"}
    assert (WeightedSumState.empty().compute(), WeightedSumState.empty().per_term()) == (0, {})
    assert WeightedSumState.empty().scale({}) == {}
    other = WeightedSum(terms={**loss.terms, "even": loss.terms["digit"]})
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        merged.merge(other.empty())


def test_terms_by_position_are_named_by_their_number(rng: Any) -> None:
    loss, context = three(rng)
    first, second, third = loss.terms.values()
    placed = WeightedSum(first, second, terms={"last": third})
    assert list(placed.terms) == ["0", "1", "last"]
    assert placed(context)[1] == loss(context)[1]
    assert list(WeightedSum(first).get_state_from_context(context).per_term()) == ["0"]
    with pytest.raises(ConfigError, match=r"terms: '1' is the name of a term given by position"):
        WeightedSum(first, second, terms={"1": third})


def test_nothing_of_the_callers_is_kept_or_written_to(rng: Any) -> None:
    loss, context = three(rng)
    terms = dict(loss.terms)
    made = WeightedSum(terms=terms)
    terms["more"] = terms["digit"]
    assert list(made.terms) == ["digit", "even", "decay"]
    before = copy.deepcopy(context)
    context = {key: frozen(value) for key, value in context.items()}
    context["out"] = {key: frozen(value) for key, value in context["out"].items()}
    first = loss(context)
    second = loss(context)
    for path in first[0]:
        assert not np.shares_memory(first[0][path], second[0][path])
        first[0][path][...] = 0
    assert_same(loss(context)[0]["out.x"], second[0]["out.x"])
    for name in ("logits", "x"):
        np.testing.assert_array_equal(context["out"][name], before["out"][name])


def test_terms_on_a_device(rng: Any) -> None:
    loss, context = three(rng)
    expected, value = loss(context)
    state = loss.get_state_from_context(context)
    with standin_cupy.installed() as cupy:
        there = {key: cupy.asarray(x) if isinstance(x, np.ndarray) else x for key, x in context.items() if key != "out"}
        there["out"] = {key: cupy.asarray(x) for key, x in context["out"].items()}
        grads, found = loss(there)
        both, unscaled = loss.get_state_and_grad(there)
        scaled = (loss.empty() + both).scale(unscaled)
        merged = both.merge(both).compute()
        assert {type(x) for x in (found, merged, *grads.values(), *scaled.values())} == {cupy.ndarray}
        with standin_cupy.allow_reading():
            assert_same(found.get(), value, rtol=1e-14)
            assert_same(merged.get(), state.compute(), rtol=1e-14)
            for path in expected:
                assert_same(grads[path].get(), expected[path], rtol=1e-13, atol=1e-17)
                assert_same(scaled[path].get(), expected[path], rtol=1e-13, atol=1e-17)


# Objects and configs


def test_equality_hash_pickle_and_repr(rng: Any) -> None:
    loss, _ = three(rng)
    for one in (loss, *loss.terms.values()):
        for again in (
            pickle.loads(pickle.dumps(one)),
            copy.deepcopy(one),
            eval(repr(one), vars(lossreg) | vars(lossreg.schedules)),
        ):
            assert again == one
            assert hash(again) == hash(one)
        assert again != dataclasses.replace(loss.terms["digit"], mask=None)
    term = loss.terms["digit"]
    assert term != dataclasses.replace(term, weight=2.0)
    assert len({term, Term(CrossEntropy(), guesses="out.logits", truths="y", mask="labelled")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        term.weight = 2.0  # type: ignore[misc]


def test_config_round_trip(rng: Any, tmp_path: Any) -> None:
    path = tmp_path / "loss.cfg"
    loss, context = three(rng)
    triplet = Term(
        TripletMargin(margin=0.5), guesses=["z.a", "z['b c']", "z[0]"], normalize_by="values", step="state.step"
    )
    for one in (loss, WeightedSum(*loss.terms.values()), triplet, loss.terms["decay"]):
        Config({"loss": one.to_config()}).to_disk(path)
        again = registry.resolve(Config().from_disk(path))["loss"]
        assert again == one
        assert hash(again) == hash(one)
        filled = registry.fill(Config().from_disk(path), interpolate=True)
        assert registry.resolve(filled)["loss"] == one
    assert registry.resolve({"loss": loss.to_config()})["loss"](context)[1] == loss(context)[1]
    assert Term(Huber(), guesses="a", truths="b").options() == {"loss": Huber(), "guesses": "a", "truths": "b"}


CONFIG = """
[loss]
@losses = "WeightedSum.v1"

[loss.terms]

[loss.terms.digit]
@losses = "Term.v1"
guesses = "preds.logits"
truths = "batch.label"
mask = "batch.labelled"
weight = 0.5

[loss.terms.digit.loss]
@losses = "CrossEntropy.v1"
label_smoothing = 0.1

[loss.terms.near]
@losses = "Term.v1"
guesses = ["z.a","z.b","z.c"]

[loss.terms.near.loss]
@losses = "TripletMargin.v1"
"""


def test_a_config_with_sections_for_terms() -> None:
    loss = registry.resolve(Config().from_str(CONFIG))["loss"]
    assert loss == WeightedSum(
        terms={
            "digit": Term(
                CrossEntropy(label_smoothing=0.1), guesses="preds.logits", truths="batch.label", mask="batch.labelled",
                weight=0.5,
            ),
            "near": Term(TripletMargin(), guesses=("z.a", "z.b", "z.c")),
        }
    )  # fmt: skip
    changed = registry.resolve(Config().from_str(CONFIG, overrides={"loss.terms.digit.weight": 2.0}))["loss"]
    assert changed.terms["digit"].weight == 2.0
    by_position = CONFIG.replace("[loss.terms", "[loss.*").replace("[loss.*]\n", "")
    assert registry.resolve(Config().from_str(by_position))["loss"] == WeightedSum(*loss.terms.values())


@pytest.mark.parametrize(
    "overrides, problem",
    [
        ({"loss.terms.digit.guesses": "preds..logits"}, "loss.terms.digit.guesses: expected a path such as"),
        ({"loss.terms.digit.mask": "a["}, "loss.terms.digit.mask: expected a path such as"),
        ({"loss.terms.digit.guesses": 3}, "loss.terms.digit.guesses"),
        ({"loss.terms.digit.guesses": ["a", "b"]}, "loss.terms.digit.guesses: should be 1 (guesses) for CrossEntropy, got 2"),
        ({"loss.terms.digit.truths": None}, "loss.terms.digit.truths: should be 1 (truths) for CrossEntropy, got 0"),
        ({"loss.terms.near.guesses": "z"}, "loss.terms.near.guesses: should be 3 (anchor, positive, negative) for TripletMargin, got 1"),
        ({"loss.terms.near.truths": "y"}, "loss.terms.near.truths: should be left out for TripletMargin, got 1"),
        ({"loss.terms.digit.weight": "heavy"}, "loss.terms.digit.weight"),
        ({"loss.terms.digit.normalize_by": "all"}, "loss.terms.digit.normalize_by: should be 'mask' or 'values', got 'all'"),
        ({"loss.terms.digit.wieght": 1}, "loss.terms.digit.wieght: unknown option; did you mean 'weight'?"),
        ({"loss.terms.digit.loss.label_smoothing": 2}, "loss.terms.digit.loss.label_smoothing"),
        ({"loss.terms.digit": 3}, "loss.terms.digit: should be an instance of Term, got 3"),
        ({"loss.terms": {}}, "loss.terms: should hold at least one term"),
    ],
)  # fmt: skip
def test_wrong_configs_are_config_errors_with_a_path(overrides: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.resolve(Config().from_str(CONFIG), overrides=overrides)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: Term(lossreg.metrics.Accuracy(), guesses="x", truths="y"), "loss: should be an instance of Loss, got Accuracy()"),
        (lambda: Term("Huber.v1", guesses="x", truths="y"), "loss: should be an instance of Loss, got 'Huber.v1'"),
        (lambda: Term(Huber(), guesses="", truths="y"), "guesses: expected a path such as 'preds.logits' or 'boxes[0].xy', got ''"),
        (lambda: Term(Huber(), guesses="x", truths="y", step="no step"), "step: expected a path such as"),
        (lambda: Term(Huber(), guesses=[], truths="y"), "guesses: should be 1 (guesses) for Huber, got 0"),
        (lambda: Term(InfoNCE(), guesses=["x", "y"], truths=[]), None),
        (lambda: WeightedSum(), "terms: should hold at least one term"),
        (lambda: WeightedSum(Huber()), "terms one by one, WeightedSum(a, b), or WeightedSum(terms={\"name\": a}), got Huber()"),
        (lambda: WeightedSum(terms={"x": None}), "terms one by one, WeightedSum(a, b), or WeightedSum(terms={\"name\": a}), got None"),
        (lambda: WeightedSum(terms={3: Term(Huber(), guesses="x", truths="y")}), "terms"),
    ],
)  # fmt: skip
def test_wrong_options_in_python(make: Any, problem: str | None) -> None:
    if problem is None:
        make()
        return
    with pytest.raises(ConfigError) as caught:
        make()
    assert problem in str(caught.value)


# Errors of a call


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"out": {"logit": 1, "x": 2}}, KeyError,
            "Cannot find 'out.logits': expected 'logits', got that 'out' is a dict with 'logit', 'x'; did you mean 'logit'?"),
        ({"y": None}, ValueError, "Cannot calculate CrossEntropy: expected truths"),
        ({"labelled": np.ones(5)}, ValueError, "expected mask that broadcasts to the values' shape (6,), got shape (5,)"),
        ({"step": None}, ValueError, "Cannot evaluate the schedule: expected a step, got None. It is the weight of Term(loss=MeanAbs"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_context(changed: Any, error: Any, message: str, rng: Any) -> None:
    loss, context = three(rng)
    for call in (loss, loss.get_loss, loss.get_grad, loss.get_state_from_context, loss.get_state_and_grad):
        with pytest.raises(error) as caught:
            call({**context, **changed})
        assert message in str(caught.value)


def test_a_schedule_needs_the_step_of_the_context() -> None:
    context = {"x": np.ones(2), "y": np.zeros(2)}
    Term(Huber(), guesses="x", truths="y", weight=2.0)(context)
    with pytest.raises(
        KeyError, match="Cannot find 'step': expected 'step', got that the context is a dict with 'x', 'y'"
    ):
        Term(Huber(), guesses="x", truths="y", weight=lambda step: 1.0)(context)
    with pytest.raises(ValueError, match="expected a step, got None"):
        Term(Huber(), guesses="x", truths="y", weight=lambda step: 1.0).get_state(np.ones(2), np.zeros(2))


def test_calculators_take_a_step_as_terms_do(rng: Any) -> None:
    x, y = rng.normal(size=3), rng.normal(size=3)
    losses: list[Any] = [Huber(), Term(Huber(), guesses="x", truths="y")]
    states = [loss.get_state(x, y, step=5) for loss in losses]
    assert isinstance(states[0], LossState)
    assert states[0].compute() == states[1].compute()


def test_registered_names() -> None:
    for cls, name in ((Term, "Term.v1"), (WeightedSum, "WeightedSum.v1")):
        assert registry.losses.get(name) is cls
        assert not issubclass(cls, ReducedLoss)
        assert name.partition(".")[0] in lossreg.terms.__all__


def test_the_order_of_terms_does_not_matter_to_equality() -> None:
    term = Term(Huber(), guesses="x", truths="y")
    one, other = (WeightedSum(terms=dict.fromkeys(names, term)) for names in ("ab", "ba"))
    assert one == other
    assert hash(one) == hash(other)


def test_a_term_of_a_calculator_that_returns_its_state() -> None:
    """per_token gives the gradient of the sum: a term gives that of its loss, and `get_state_and_grad` that of the sum."""
    calculator = CrossEntropy(per_token=True)
    for loss in (calculator, lossreg.LinearCrossEntropy(per_token=True), lossreg.Sequence(calculator)):
        guesses = ["x", "w"] if isinstance(loss, lossreg.LinearCrossEntropy) else "x"
        with pytest.raises(ConfigError) as caught:
            Term(loss, guesses=guesses, truths="y")
        assert caught.value.problems == [
            ("loss", f"should return its loss and not its state, as {type(loss).__name__} does with per_token")
        ]


def test_a_linear_layer_with_and_without_a_bias(rng: Any) -> None:
    layer = {"x": rng.normal(size=(5, 3)), "W": rng.normal(size=(4, 3)), "b": rng.normal(size=4)}
    loss, truths = lossreg.LinearCrossEntropy(), rng.integers(0, 4, 5)
    for names in ("xW", "xWb"):
        term = Term(loss, guesses=[f"layer.{name}" for name in names], truths="y", weight=2.0)
        grads, value = term({"layer": layer, "y": truths})
        expected, once = loss(tuple(layer[name] for name in names), truths)
        assert value == 2 * once
        assert_same(tuple(grads.values()), each(lambda g: 2 * g, expected), rtol=1e-13, atol=1e-16)
    for guesses in ("layer.x", ["a", "b", "c", "d"]):
        with pytest.raises(ConfigError, match=r"guesses: should be 2 \(x, weight\) or 3 \(and bias\) for LinearCross"):
            Term(loss, guesses=guesses, truths="y")


def test_gradients_of_a_ragged_are_added_and_scaled(rng: Any) -> None:
    guesses = lossreg.Ragged(rng.normal(size=(5, 3)), np.array([2, 0, 3]))
    truths = lossreg.Ragged(rng.normal(size=(5, 3)), np.array([2, 0, 3]))
    context = {"x": guesses, "y": truths}
    near, far = Term(Huber(), guesses="x", truths="y"), Term(MeanSquaredError(), guesses="x", truths="y", weight=2.0)
    grads = WeightedSum(near, far).get_grad(context)
    state, unscaled = WeightedSum(near, far).get_state_and_grad(context)
    expected = Huber().get_grad(guesses, truths).data + 2 * MeanSquaredError().get_grad(guesses, truths).data
    for found in (grads["x"], state.scale(unscaled)["x"]):
        assert type(found) is lossreg.Ragged
        assert_same(found.data, expected, rtol=1e-14)
        assert found.lengths.tolist() == [2, 0, 3]


@pytest.mark.parametrize("name", ["a.b", ".", "", "a."])
def test_names_of_terms_are_names_of_sections(name: str) -> None:
    with pytest.raises(ConfigError, match="terms: should have names without dots, as sections have, got "):
        WeightedSum(terms={name: Term(Huber(), guesses="x", truths="y")})


def test_gradients_of_a_term_that_is_not_there(rng: Any) -> None:
    loss, context = three(rng)
    state, grads = loss.get_state_and_grad(context)
    with pytest.raises(ValueError) as caught:
        state.scale({"digti": grads["digit"]})
    expected = (
        "Cannot scale gradients: expected those of the terms digit, even, decay, got 'digti'; did you mean 'digit'?"
    )
    assert str(caught.value) == expected
    with pytest.raises(ValueError, match="expected those of the terms none, got 'digit'"):
        WeightedSumState.empty().scale(grads)
