"""A short differential run, and proof that the tester finds what is wrong."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")  # guesses may be bfloat16

import lossreg
from lossreg.pipeline.weights import Weights

from .cases import BACKENDS, NAMES, draw_case
from .check import run_case
from .reference import Labels, evaluate
from .reference_thinc import THINC
from .runner import run_seeds

SEED = 20240229
CASES = {("numpy", "generic"): 1250, ("llvm",): 250}
"""By backends. Each compiled case may compile a formula first."""


def explained(failures: list[Any]) -> str:
    return "\n".join(map(str, failures[:10]))


@pytest.mark.parametrize("backends", CASES, ids=" ".join)
def test_random_cases_agree_with_the_reference(backends: tuple[str, ...]) -> None:
    if not set(backends) <= set(BACKENDS):
        pytest.skip("llvmlite is not installed")
    summary = run_seeds(range(SEED, SEED + CASES[backends]), backends=backends)
    assert not summary.failures, explained(summary.failures)
    compared = {name for name, _, status in summary.counts if status == "compared"}
    assert len(compared) > 0.9 * len(NAMES)


def test_every_registered_loss_has_a_reference() -> None:
    outside = {"Sequence.v1", "Term.v1", "WeightedSum.v1"}  # made of other calculators
    ours = {name for name in lossreg.registry.losses.get_all() if name[0].isupper()}
    assert {name for name in ours if name.split(".")[0] in lossreg.__all__} - outside <= set(NAMES)
    assert set(NAMES) <= ours


def test_a_seed_makes_the_same_case_again() -> None:
    for seed in range(25):
        first, second = draw_case(seed), draw_case(seed)
        assert str(first) == str(second)
        assert run_case(first).share == run_case(second).share


def test_the_reference_has_the_numbers_of_thinc() -> None:
    thinc = pytest.importorskip("thinc.api", reason="Thinc is not installed")
    rng = np.random.default_rng(SEED)
    compared = 0
    for seed in range(SEED, SEED + 800):
        case = draw_case(seed)
        if "thinc" not in case.spec.tags or case.dtype != "float32" or case.mistake:
            continue
        name, problem = case.problem.name, case.problem
        if name.startswith(("Categorical", "Sequence")):
            p = problem.guesses[0].astype(np.float32)
            ids = rng.integers(0, p.shape[1], len(p))
            problem.truths = Labels(np.eye(p.shape[1], dtype=bool)[ids])
            smoothing = problem.options.get("label_smoothing", 0.0)
            options = {"normalize": problem.options.get("normalize", True), "label_smoothing": smoothing}
            problem.lengths = None
            theirs = thinc.CategoricalCrossentropy(**options)
            grad, loss = theirs(p, ids) if len(p) else (None, None)
        else:
            truths = problem.truths.astype(np.float32)
            problem.truths = truths.astype(float)
            theirs = getattr(thinc, name.split(".")[0])(**problem.options)
            if not len(truths) or truths.ndim != 2 or problem.options.get("ignore_zeros"):
                continue
            grad, loss = theirs(problem.guesses[0].astype(np.float32), truths)
        if grad is None:
            continue
        compared += 1
        with np.errstate(all="ignore"):
            ours = THINC[name](problem.guesses, problem.truths, problem.options, problem.info)
        np.testing.assert_allclose(grad, ours[0], rtol=1e-4, atol=1e-5 * float(ours[1].max(initial=1e-30)))
        np.testing.assert_allclose(loss, ours[2], rtol=1e-4, atol=1e-5 * float(ours[3]))
    assert compared > 20


def found_within(cases: int, only: str | None = None) -> list[Any]:
    """What a planted fault makes go wrong."""
    return run_seeds(range(SEED, SEED + cases), only, ("numpy",)).failures


def changed_call(change: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` of all calculators that does something else with its arguments or results."""
    original = lossreg.ReducedLoss.__call__

    def call(self: Any, guesses: Any, truths: Any = ..., **options: Any) -> Any:
        return change(lambda *arguments, **more: original(self, *arguments, **more), guesses, truths, options)

    return call


def test_a_wrong_sign_of_a_slope_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = lossreg.Huber.formula

    def formula(xp: Any, guess: Any, truth: Any, delta: Any) -> tuple[Any, ...]:
        value, slope = original(xp, guess, truth, delta)
        return value, -slope

    monkeypatch.setattr(lossreg.Huber, "formula", staticmethod(formula))
    assert found_within(30, "Huber.v1")


def test_a_slope_that_is_off_by_a_few_roundings_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = lossreg.SoftMargin.formula

    def formula(xp: Any, guess: Any, truth: Any) -> tuple[Any, ...]:
        value, slope = original(xp, guess, truth)
        return value, slope * 1.00002

    monkeypatch.setattr(lossreg.SoftMargin, "formula", staticmethod(formula))
    assert found_within(60, "SoftMargin.v1")


def test_the_wrong_side_of_a_kink_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = lossreg.Quantile.formula

    def formula(xp: Any, guess: Any, truth: Any, quantile: Any) -> tuple[Any, ...]:
        value, slope = original(xp, guess, truth, quantile)
        return value, xp.where(guess == truth, 1.0 - quantile, slope)

    monkeypatch.setattr(lossreg.Quantile, "formula", staticmethod(formula))
    assert found_within(100, "Quantile.v1")


def test_a_mask_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(call: Any, guesses: Any, truths: Any, options: dict[str, Any]) -> Any:
        return call(guesses, truths, **{**options, "mask": None})

    monkeypatch.setattr(lossreg.ReducedLoss, "__call__", changed_call(change))
    assert found_within(200)


def test_a_divisor_that_is_off_by_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Weights.loss

    def off_by_one(self: Weights, *arguments: Any) -> Any:
        wrong = self if self.divisor is None else replace(self, divisor=self.divisor + 1)
        return loss(wrong, *arguments)

    monkeypatch.setattr(Weights, "loss", off_by_one)
    assert found_within(100)


def test_an_input_that_is_written_to_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(call: Any, guesses: Any, truths: Any, options: dict[str, Any]) -> Any:
        result = call(guesses, truths, **options)
        if isinstance(guesses, np.ndarray) and guesses.flags.writeable and guesses.size:
            guesses.reshape(-1)[:1] += 1
        return result

    monkeypatch.setattr(lossreg.ReducedLoss, "__call__", changed_call(change))
    assert any("written to" in failure.message for failure in found_within(200))


def test_a_gradient_of_another_dtype_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(call: Any, guesses: Any, truths: Any, options: dict[str, Any]) -> Any:
        grad, value = call(guesses, truths, **options)
        return grad.astype(np.float64) if isinstance(grad, np.ndarray) and "out" not in options else grad, value

    monkeypatch.setattr(lossreg.ReducedLoss, "__call__", changed_call(change))
    assert any("float64 instead of" in failure.message for failure in found_within(200))


def test_a_valid_call_that_is_refused_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(call: Any, guesses: Any, truths: Any, options: dict[str, Any]) -> Any:
        if "sample_weight" in options:
            raise ValueError("Cannot calculate this: expected no weights.")
        return call(guesses, truths, **options)

    monkeypatch.setattr(lossreg.ReducedLoss, "__call__", changed_call(change))
    assert any("refused" in failure.message for failure in found_within(200))


def test_a_mistake_that_is_accepted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(call: Any, guesses: Any, truths: Any, options: dict[str, Any]) -> Any:
        options = {k: v for k, v in options.items() if k not in ("mask", "sample_weight")}
        return call(guesses, truths, **options)

    monkeypatch.setattr(lossreg.ReducedLoss, "__call__", changed_call(change))
    assert any("accepted" in failure.message for failure in found_within(800, "Huber.v1"))


def slope_along(problem: Any, direction: list[np.ndarray], step: float) -> float:
    """The central difference of a problem's loss."""
    ends = []
    for sign in (1, -1):
        moved = tuple(x + sign * step * way for x, way in zip(problem.guesses, direction))
        ends.append(evaluate(replace(problem, guesses=moved)).loss)
    return (ends[0] - ends[1]) / (2 * step)


def test_the_gradients_of_the_reference_are_the_slopes_of_its_losses() -> None:
    rng, agree, drawn = np.random.default_rng(SEED), collections.Counter(), collections.Counter()
    for seed in range(SEED, SEED + 1500):
        case = draw_case(seed)
        problem = case.problem
        name = problem.name
        ordinary = all(np.isfinite(x).all() and abs(x).max(initial=0) < 100 for x in problem.guesses)
        of_logits = problem.options.get("wrt", "logits" if name.endswith("y.v4") else "") == "logits"
        if problem.tags & {"thinc", "lattice", "nan"} - ({"lattice"} if problem.tags.isdisjoint({"exact"}) else set()):
            continue
        small = 0 < sum(x.size for x in problem.guesses) < 1000
        # a step crosses the smallest number, as which smaller probabilities count
        at_end = name.endswith("y.v4") and any(((x > 0) & (x < 1e-4)).any() for x in problem.guesses)
        if not ordinary or of_logits or not small or at_end:
            continue
        direction = [rng.normal(size=x.shape) * (0.1 + abs(x)) * (x != 0) for x in problem.guesses]
        with np.errstate(all="ignore"):
            result = evaluate(problem)
            expected = sum(float((g * way).sum()) for g, way in zip(result.grads, direction))
            sizes = sum(float(abs(g * way).sum()) for g, way in zip(result.grads, direction))
            found = slope_along(problem, direction, 1e-6)
        if np.isfinite([expected, found]).all():
            drawn[name] += 1
            agree[name] += abs(found - expected) <= 1e-4 * sizes + 1e-8 * (1 + abs(result.loss))
    thinc = {name for name in NAMES if name in THINC}
    assert set(drawn) == set(NAMES) - thinc
    # The others crossed a kink.
    assert all(agree[name] >= 0.8 * n for name, n in drawn.items()), (agree, drawn)
