"""Schedules: their formulas, those of Optax and Thinc, and what a weight that changes over time refuses."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import gc
import inspect
import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lossreg import Config, ConfigError, Huber, Term, registry, schedules
from lossreg.schedules import ConstantSchedule, CosineSchedule, LinearSchedule, PiecewiseSchedule, Schedule, value_at

STEPS = [-5, 0, 1, 2, 3, 7, 9, 10, 11, 49, 50, 51, 99, 100, 1000, 10**9]

CASES: list[tuple[str, Schedule, Any]] = [
    ("constant.v1", ConstantSchedule(value=-2.5), lambda t: -2.5),
    ("linear.v1", LinearSchedule(start=1.0, end=0.0, steps=10), lambda t: 1 - min(max(t, 0), 10) / 10),
    ("linear.v1", LinearSchedule(start=-1.0, end=3.0, steps=40, begin=10),
        lambda t: -1 + 4 * min(max(t - 10, 0), 40) / 40),
    ("cosine.v1", CosineSchedule(start=0.0, end=2.0, steps=50), lambda t: 1 - math.cos(math.pi * min(max(t, 0), 50) / 50)),
    ("cosine.v1", CosineSchedule(start=3.0, end=0.5, steps=40, begin=-3),
        lambda t: 1.75 + 1.25 * math.cos(math.pi * min(max(t + 3, 0), 40) / 40)),
    ("piecewise.v1", PiecewiseSchedule(boundaries=[2, 10], values=[0.0, 1.0, 0.25]),
        lambda t: 0.0 if t < 2 else 1.0 if t < 10 else 0.25),
    ("piecewise.v1", PiecewiseSchedule(boundaries=[], values=[4]), lambda t: 4.0),
]  # fmt: skip
cases = pytest.mark.parametrize("name, schedule, formula", CASES, ids=[repr(case[1]) for case in CASES])


# Values


@cases
def test_a_schedule_is_its_formula(name: str, schedule: Any, formula: Any) -> None:
    for step in STEPS:
        assert schedule(step) == pytest.approx(formula(step), rel=1e-14, abs=1e-15)
        assert type(schedule(step)) is float
        assert schedule(np.int64(step)) == schedule(float(step)) == schedule(step)


@pytest.mark.parametrize("cls", [LinearSchedule, CosineSchedule])
@pytest.mark.parametrize("start, end", [(0.1, 0.3), (0.3, 0.1), (1e300, -1e-300), (0.7, 0.7)])
def test_ramps_begin_and_end_exactly_and_never_leave_their_range(cls: Any, start: float, end: float) -> None:
    schedule = cls(start=start, end=end, steps=7, begin=3)
    values = [schedule(step) for step in range(20)]
    assert values[:4] == [start] * 4
    assert values[10:] == [end] * 10
    assert values == sorted(values, reverse=end < start)


def test_every_schedule_of_the_registry_is_tested_and_documented() -> None:
    built_in = {n for n in registry.schedules.names() if registry.schedules.get(n).__module__.startswith("lossreg.")}
    assert built_in == {name for name, *_ in CASES}
    for name in built_in:
        cls = registry.schedules.get(name)
        assert cls.__name__ in schedules.__all__
        assert inspect.getdoc(cls)


@pytest.mark.parametrize("step", range(25))
def test_the_numbers_of_optax(step: int) -> None:
    """Optax computes in float32, and switches at a boundary as `piecewise.v1` does."""
    optax = pytest.importorskip("optax", reason="optax is not installed: pip install optax")
    pairs = [
        (ConstantSchedule(value=0.3), optax.constant_schedule(0.3)),
        (LinearSchedule(start=0.5, end=2.0, steps=10, begin=5), optax.linear_schedule(0.5, 2.0, 10, 5)),
        (LinearSchedule(start=2.0, end=0.0, steps=20), optax.linear_schedule(2.0, 0.0, 20)),
        (CosineSchedule(start=2.0, end=0.5, steps=20), optax.cosine_decay_schedule(2.0, 20, alpha=0.25)),
        (CosineSchedule(start=1.0, end=0.0, steps=13), optax.cosine_decay_schedule(1.0, 13)),
        (PiecewiseSchedule(boundaries=[4, 12], values=[1.0, 0.5, 0.05]),
            optax.piecewise_constant_schedule(1.0, {4: 0.5, 12: 0.1})),
    ]  # fmt: skip
    for ours, theirs in pairs:
        assert ours(step) == pytest.approx(float(theirs(step)), rel=2e-6, abs=2e-7), ours


# Weights of terms: any function, any iterator


def term(weight: Any) -> Term:
    return Term(Huber(), guesses="x", truths="y", weight=weight)


def at(weight: Any, step: Any) -> float:
    return term(weight).get_weight(step)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (lambda step: step / 20, 5.0),
        (lambda step: np.float32(0.5), 0.5),
        (lambda step: np.array(3), 3.0),
        (lambda step: np.array([[1.5]]), 1.5),
        (math.sqrt, 10.0),
        (LinearSchedule(start=0.0, end=1.0, steps=200), 0.5),
        (itertools.count(1000), 1100.0),
        (iter([1.0, 2.0, 3.0]), 3.0),
        ((0.5**i for i in itertools.count()), 0.5**100),
        (2, 2.0),
        (-0.5, -0.5),
        (0, 0.0),
    ],
)
def test_a_weight_is_a_number_a_function_or_numbers_in_a_row(schedule: Any, expected: float) -> None:
    weight = at(schedule, 100)
    assert weight == expected
    assert type(weight) is float


def test_a_weight_that_is_a_number_needs_no_step() -> None:
    assert at(2.5, None) == 2.5
    assert term(2.5).get_weight() == 2.5


def test_thincs_schedules_are_weights(rng: Any) -> None:
    """They are endless iterators: a step may be asked for again, and in any order."""
    thinc = pytest.importorskip("thinc.schedules", reason="thinc is not installed: pip install thinc")
    for make, formula in [
        (lambda: thinc.warmup_linear(0.1, 10, 30),
            lambda t: 0.1 * (t / 10 if t < 10 else max(0.0, (30 - t) / 20))),
        (lambda: thinc.compounding(1.0, 32.0, 1.5), lambda t: min(32.0, 1.5**t)),
        (lambda: thinc.decaying(0.5, 0.1), lambda t: 0.5 / (1 + 0.1 * t)),
        (lambda: thinc.constant(0.7), lambda t: 0.7),
    ]:  # fmt: skip
        one = term(make())
        for step in (*range(40), *rng.permutation(60)):
            assert one.get_weight(step) == pytest.approx(formula(int(step)), rel=1e-12)


def test_numbers_in_a_row_are_constant_before_and_after() -> None:
    one = term(iter([5.0, 6.0, 7.0]))
    assert [one.get_weight(step) for step in (-3, 2.9, 1, 0, -1, 99, 10**12)] == [5.0, 7.0, 6.0, 5.0, 5.0, 7.0, 7.0]


def test_no_more_numbers_are_drawn_than_are_asked_for() -> None:
    drawn: list[int] = []
    one = term(drawn.append(i) or i for i in itertools.count())  # type: ignore[func-returns-value]
    for step, last in ((0, 0), (3, 3), (3, 3), (1, 3), (7, 7)):
        assert one.get_weight(step) == step
        assert drawn == list(range(last + 1))


def test_in_a_context_the_step_lies_at_a_path() -> None:
    one = Term(Huber(), guesses="x", truths="y", weight=LinearSchedule(start=0.0, end=4.0, steps=8), step="state.step")
    context = {"x": np.array([3.0]), "y": np.array([1.0])}  # Huber: 2 - 1/2
    for step, weight in ((0, 0.0), (2, 1.0), (np.int32(4), 2.0), (np.array(6), 3.0), (80, 4.0)):
        grads, value = one({**context, "state": {"step": step}})
        assert (value, grads["x"].tolist()) == (1.5 * weight, [weight])


# Configs


@cases
def test_config_round_trip(name: str, schedule: Any, formula: Any, tmp_path: Any) -> None:
    path = tmp_path / "schedule.cfg"
    Config({"weight": schedule.to_config()}).to_disk(path)
    again = registry.resolve(Config().from_disk(path))["weight"]
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert schedule.to_config()["@schedules"] == name


def test_a_block_of_a_config_is_a_weight() -> None:
    config = Config().from_str(
        """
        [loss]
        @losses = "WeightedSum.v1"

        [loss.terms]

        [loss.terms.x]
        @losses = "Term.v1"
        guesses = "preds.x"
        truths = "batch.x"

        [loss.terms.x.loss]
        @losses = "Huber.v1"

        [loss.terms.x.weight]
        @schedules = "linear.v1"
        start = 0.0
        end = 1.0
        steps = 100
        """.replace("        ", "")
    )
    loss = registry.resolve(config)["loss"]
    assert loss.terms["x"].weight == LinearSchedule(start=0.0, end=1.0, steps=100)
    assert loss.terms["x"].get_weight(25) == 0.25
    assert Config({"loss": loss.to_config()}) == config
    with pytest.raises(ConfigError, match=r"loss\.terms\.x\.weight\.steps: should be greater than 0, got 0"):
        registry.resolve(config, overrides={"loss.terms.x.weight.steps": 0})


def test_a_function_is_no_part_of_a_config() -> None:
    with pytest.raises(ConfigError, match=r"a config cannot hold <function .*register it, and name it in a block"):
        term(lambda step: 1.0).to_config()
    with pytest.raises(ConfigError, match=r"a config cannot hold Series\(<list_iterator .*register it, and name it"):
        Config({"loss": term(iter([1.0])).to_config()}).to_str()


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: registry.resolve({"weight": {"@schedules": "linear.v1", "start": 0.0, "end": 1.0}}),
            r"weight\.steps: this option has no default and must be given"),
        (lambda: LinearSchedule(start=0.0, end=1.0, steps=0), "steps: should be greater than 0, got 0"),
        (lambda: CosineSchedule(start=0.0, end=1.0, steps=2.5), "steps: should be a valid integer, got 2.5"),
        (lambda: CosineSchedule(start=math.nan, end=1.0, steps=2), "start: should be a finite number, got nan"),
        (lambda: ConstantSchedule(value=math.inf), "value: should be a finite number, got inf"),
        (lambda: ConstantSchedule(value="1"), "value: should be a valid number, got '1'"),
        (lambda: PiecewiseSchedule(boundaries=[1], values=[1.0]), "values: should be one more than boundaries, 2, got 1"),
        (lambda: PiecewiseSchedule(boundaries=[2, 2], values=[1, 2, 3]), r"boundaries: should increase, got \[2, 2\]"),
        (lambda: PiecewiseSchedule(boundaries=[2, 1], values=[1, 2, 3]), r"boundaries: should increase, got \[2, 1\]"),
        (lambda: PiecewiseSchedule(boundaries=[1.5], values=[1, 2]), r"boundaries\.0: should be a valid integer, got 1\.5"),
        (lambda: term("fast"), "weight: should be a number, a function or an iterator, got 'fast'"),
        (lambda: term(math.nan), "weight: should be a finite number, a function or an iterator, got nan"),
        (lambda: term([1.0, 2.0]), r"weight: should be a number, a function or an iterator, got \(1\.0, 2\.0\)"),
        (lambda: term(None), "weight: should be a number, a function or an iterator, got None"),
    ],
)  # fmt: skip
def test_wrong_options(make: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){problem}"):
        make()


# Errors of a call


@pytest.mark.parametrize("step", [None, "5", [5], np.arange(2), {}])
@pytest.mark.parametrize("weight", [LinearSchedule(start=0.0, end=1.0, steps=5), lambda step: 1.0, iter([1.0])])
def test_a_step_that_is_no_number(weight: Any, step: Any) -> None:
    one = term(weight)
    with pytest.raises(ValueError, match="Cannot evaluate the schedule: expected a step, got ") as caught:
        one.get_weight(step)
    assert str(caught.value).endswith(f"It is the weight of {one!r}.")


@pytest.mark.parametrize(
    "value, got",
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (None, "None"),
        ("fast", "'fast'"),
        ([1.0], "a list of 1"),
        (np.ones(2), r"a float64 array of shape \(2,\)"),
        (np.array([np.inf]), r"a float64 array of shape \(1,\)"),
        (1j, "1j"),
    ],
)
def test_a_schedule_that_gives_no_finite_number(value: Any, got: str) -> None:
    message = f"Cannot evaluate the schedule: expected a finite number at step 7, got {got}"
    with pytest.raises(ValueError, match=message):
        at(lambda step: value, 7)
    with pytest.raises(ValueError, match=message):
        value_at(lambda step: value, 7)


def test_an_iterator_without_numbers() -> None:
    with pytest.raises(ValueError, match="expected a number for each step, got an empty iterator"):
        at(iter([]), 0)


def test_errors_of_a_schedule_are_its_own() -> None:
    def broken(step: int) -> float:
        raise RuntimeError("no such phase")

    with pytest.raises(RuntimeError, match="no such phase"):
        at(broken, 0)


# Iterators that are shared


def slowly(drawn: list[int]) -> Iterator[float]:
    """0, 1, 2 and so on, each after a while in which other threads run."""
    for i in itertools.count():
        time.sleep(0.002)
        drawn.append(i)
        yield float(i)


def test_threads_share_the_numbers_of_an_iterator() -> None:
    drawn: list[int] = []
    one = term(slowly(drawn))
    start = threading.Barrier(8)

    def read(first: int) -> list[float]:
        start.wait()
        return [one.get_weight(step) for step in range(first, 40, 3)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))
    assert found == [[float(step) for step in range(first, 40, 3)] for first in range(8)]
    assert drawn == list(range(40))


def test_terms_of_one_iterator_share_its_numbers() -> None:
    numbers = iter([5.0, 6.0, 7.0])
    one, other = term(numbers), term(numbers)
    copies = [dataclasses.replace(one), dataclasses.replace(one, normalize_by="values"), copy.copy(one)]
    for step in range(3):
        assert [x.get_weight(step) for x in (one, other, *copies)] == [5.0 + step] * 5
    assert one == other  # so that their states merge


def test_an_iterator_is_forgotten_with_its_terms() -> None:
    one = term(numbers for numbers in [1.0])
    series = weakref.ref(one.weight)
    del one
    gc.collect()
    assert series() is None


def test_a_signal_handler_reads_what_has_been_drawn() -> None:
    found: list[Any] = []

    def numbers() -> Iterator[float]:
        yield 1.0
        signal.raise_signal(signal.SIGINT)
        yield 2.0

    def handler(*_: Any) -> None:
        found.append(one.get_weight(0))
        try:
            one.get_weight(1)
        except ValueError as error:
            found.append(str(error))

    one = term(numbers())
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert one.get_weight(0) == 1.0
        assert one.get_weight(1) == 2.0
    finally:
        signal.signal(signal.SIGINT, before)
    assert found[0] == 1.0
    assert "expected an iterator at rest, got step 1 while it draws a number" in found[1]
    assert one.get_weight(1) == 2.0


def test_an_iterator_that_was_interrupted_has_not_ended() -> None:
    def numbers() -> Iterator[float]:
        yield 1.0
        raise KeyboardInterrupt

    one = term(numbers())
    assert one.get_weight(0) == 1.0
    with pytest.raises(KeyboardInterrupt):
        one.get_weight(3)
    assert one.get_weight(0) == 1.0
    for _ in range(2):
        message = "expected a number at step 3, got an iterator that KeyboardInterrupt stopped at step 1"
        with pytest.raises(ValueError, match=message):
            one.get_weight(3)


FORK = """
import os, signal, threading
from lossreg import Huber, Term

inside, leave = threading.Event(), threading.Event()

def numbers():
    yield 1.0
    inside.set()
    leave.wait(30)
    yield 2.0

one, other = (Term(Huber(), guesses="x", truths="y", weight=weight) for weight in (numbers(), iter([3.0, 4.0])))
one.get_weight(0)
thread = threading.Thread(target=one.get_weight, args=(1,))
thread.start()
assert inside.wait(30)
child = os.fork()
if not child:
    signal.alarm(20)  # ends a child that hangs
    assert (one.get_weight(0), other.get_weight(1)) == (1.0, 4.0)
    try:
        one.get_weight(1)
    except ValueError as error:
        assert "expected an iterator at rest" in str(error)
        os._exit(5)
    os._exit(6)
leave.set()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
assert one.get_weight(1) == 2.0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def test_a_term_of_an_iterator_is_pickled_with_what_has_been_drawn() -> None:
    one = term(iter([5.0, 6.0, 7.0]))
    one.get_weight(1)
    same = pickle.loads(pickle.dumps(one))
    assert [same.get_weight(step) for step in (0, 1, 2, 3)] == [5.0, 6.0, 7.0, 7.0]


@pytest.mark.parametrize("step", [math.nan, math.inf, -math.inf])
def test_steps_that_are_not_finite(step: float) -> None:
    with pytest.raises(ValueError, match="expected a step, got "):
        term(iter([1.0])).get_weight(step)
