"""States: each kind of field, and sums that do not depend on the order in which they were added up."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import functools
import itertools
import math
import multiprocessing
import operator
import pickle
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Huber, LossState, MeanSquaredError, TreeState, metrics
from lossreg.states.auto import AutoState, CollectFirstState
from lossreg.states.averages import AverageState
from lossreg.states.base import EmptyState, State
from lossreg.states.fields import (
    EMPTY,
    concat_field,
    max_field,
    min_field,
    state_field,
    static_field,
    sum_field,
    truncate_field,
)
from support import standin_cupy
from support.nested import assert_same

# States of one field, one for each kind


class Sum(AutoState):
    x: Any = sum_field()


class Min(AutoState):
    x: Any = min_field()


class Max(AutoState):
    x: Any = max_field()


class Concat(AutoState):
    x: Any = concat_field()


class First(AutoState):
    """Three items, or as many as the parent says."""

    x: Any = truncate_field(num_field="num")
    num: int | None = 3


class Nested(AutoState):
    x: Any = state_field()


class Columns(AutoState):
    x: Any = concat_field(axis=1)
    y: Any = truncate_field(num_field="parent.columns", axis=-1)


class Mixed(AutoState):
    """Every kind at once."""

    total: Any = sum_field()
    least: Any = min_field()
    most: Any = max_field()
    all: Any = concat_field()
    first: Any = truncate_field(num_field="keep")
    inner: Any = state_field()
    keep: int = 3
    label: str = static_field("a label")


def mixed(numbers: Any, keep: int = 3) -> Mixed:
    x = np.asarray(numbers, float)
    return Mixed(x.sum().item(), x.min().item(), x.max().item(), x, x, Sum(x.sum().item()), keep)


Number = Any
CASES: list[tuple[type[AutoState], Any, Any, Any]] = [
    # class, value of one, value of the other, value of both
    (Sum, 1.5, 2.0, 3.5),
    (Sum, 3, 4, 7),
    (Sum, np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([11.0, 22.0])),
    (Sum, np.array([1.0, 2.0], np.float32), np.array([10, 20], np.int8), np.array([11.0, 22.0])),
    (Sum, np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3))),
    (Sum, {"a": 1.0, "b": [np.ones(2), (2.0, 3.0)]}, {"b": [np.ones(2), (20.0, 30.0)], "a": 10.0},
        {"a": 11.0, "b": [np.full(2, 2.0), (22.0, 33.0)]}),
    (Min, 3.0, 2.0, 2.0),
    (Min, np.array([1.0, 5.0]), np.array([3.0, 2.0]), np.array([1.0, 2.0])),
    (Min, {"a": [1, 2.0]}, {"a": [0, 3.0]}, {"a": [0, 2.0]}),
    (Max, 3.0, 2.0, 3.0),
    (Max, np.array([[1.0, 5.0]]), np.array([[3.0, 2.0]]), np.array([[3.0, 5.0]])),
    (Max, (1, {"b": 5}), (2, {"b": 4}), (2, {"b": 5})),
    (Concat, np.array([1, 2]), np.array([3]), np.array([1, 2, 3])),
    (Concat, 1.0, 2.0, np.array([1.0, 2.0])),
    (Concat, np.float32(1.0), np.array(2.0), np.array([1.0, 2.0])),
    (Concat, np.zeros((2, 3)), np.ones((1, 3)), np.array([[0.0] * 3, [0.0] * 3, [1.0] * 3])),
    (Concat, np.array(["a", "bc"]), np.array(["d"]), np.array(["a", "bc", "d"])),
    (Concat, "one", "two", np.array(["one", "two"])),
    (Concat, {"i": np.array([1]), "s": (np.array([[2]]),)}, {"s": (np.array([[20]]),), "i": np.array([10])},
        {"i": np.array([1, 10]), "s": (np.array([[2], [20]]),)}),
    (First, np.array([1, 2]), np.array([3, 4]), np.array([1, 2, 3])),
    (First, np.array([1, 2, 3, 4]), np.array([5]), np.array([1, 2, 3])),
    (First, {"a": np.eye(2), "b": 1}, {"a": np.eye(2), "b": 2}, {"a": np.eye(2)[[0, 1, 0]], "b": np.array([1, 2])}),
    (Nested, Sum(1.0), Sum(2.0), SimpleNamespace(x=3.0)),
    (Nested, Concat(np.array([1])), Concat(np.array([2])), SimpleNamespace(x=np.array([1, 2]))),
    (Nested, AverageState(total=1.0, count=1.0), AverageState(total=5.0, count=3.0), 1.5),
]  # fmt: skip
cases = pytest.mark.parametrize("cls, a, b, both", CASES)


def same(a: Any, b: Any) -> None:
    """Equal numbers in equally arranged trees."""
    if isinstance(b, SimpleNamespace):
        same(vars(a), vars(b))
    elif isinstance(b, dict):
        assert a.keys() == b.keys()
        for key in b:
            same(a[key], b[key])
    elif isinstance(b, (list, tuple)):
        assert type(a) is type(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(b, np.ndarray):
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, b, strict=True)
    else:
        assert a == b


@cases
def test_two_values_merge_by_their_kind(cls: Any, a: Any, b: Any, both: Any) -> None:
    before = copy.deepcopy((a, b))
    one, other = cls(a), cls(b)
    for merged in (one.merge(other), one + other, sum([one, other]), pickle.loads(pickle.dumps(one)) + other):
        assert type(merged) is cls
        same(merged.compute().x, both)
        same(merged.finalize().compute().x, both)
        same(merged.finalize().finalize().compute().x, both)
        same(pickle.loads(pickle.dumps(merged)).compute().x, both)
        same(copy.deepcopy(merged).compute().x, both)
    for now, then in zip((a, b), before, strict=True):
        if not isinstance(now, State):
            same(now, then)


@cases
def test_the_empty_state_changes_nothing(cls: Any, a: Any, b: Any, both: Any) -> None:
    alone = cls(a).compute().x
    empty = cls.empty()
    assert empty.x is EMPTY
    assert empty.compute().x is None
    assert (empty + empty).compute().x is None
    for merged in (empty + cls(a), cls(a) + empty, empty + cls(a) + empty, sum([empty, cls(a), empty])):
        same(merged.compute().x, alone)
    same((empty + cls(a) + (empty + cls(b))).compute().x, both)
    assert pickle.loads(pickle.dumps(empty)).x is EMPTY
    assert repr(empty).startswith(f"{cls.__name__}(x=EMPTY")


@cases
def test_none_is_nothing_in_both_or_an_error(cls: Any, a: Any, b: Any, both: Any) -> None:
    assert (cls(None) + cls(None)).compute().x is None
    assert (cls(None) + cls.empty()).x is None
    assert (cls.empty() + cls(None)).x is None
    for one, other in ((cls(None), cls(b)), (cls(a), cls(None))):
        with pytest.raises(ValueError, match=r"Cannot merge field x: expected None in both or in neither, got one\."):
            one.merge(other)


@pytest.mark.parametrize("parts", [[[1.0, 5.0], [0.5], [7.0, -2.0, 3.0]], [[4.0]] * 5])
def test_every_kind_at_once_in_any_order_of_merges(parts: Any) -> None:
    flat = np.concatenate(parts)
    states = [mixed(part) for part in parts]
    left = functools.reduce(operator.add, states)
    right = functools.reduce(lambda merged, state: state + merged, reversed(states))
    for merged in (left, right, Mixed.empty() + left, pickle.loads(pickle.dumps(left))):
        found = merged.compute()
        assert (found.total, found.least, found.most) == (math.fsum(flat), flat.min(), flat.max())
        np.testing.assert_array_equal(found.all, flat)
        np.testing.assert_array_equal(found.first, flat[:3])
        assert found.inner == SimpleNamespace(x=math.fsum(flat))
        assert set(vars(found)) == {"total", "least", "most", "all", "first", "inner"}
        assert (merged.keep, merged.label) == (3, "a label")


def test_columns_and_the_number_of_a_parent() -> None:
    parent = SimpleNamespace(columns=3)
    a = Columns(x=np.ones((2, 2)), y=np.zeros((2, 1, 2)), parent=parent)
    b = Columns(x=np.zeros((2, 1)), y=np.ones((2, 1, 2)))
    for merged, y in ((a + b, [0, 0, 1]), (Columns.empty() + b + a, [1, 1, 0]), (a + Columns.empty(), [0, 0])):
        assert merged.parent is parent
        np.testing.assert_array_equal(merged.compute().y, np.broadcast_to(y, (2, 1, len(y))))
    np.testing.assert_array_equal((a + b).compute().x, [[1, 1, 0]] * 2)
    with pytest.raises(KeyError, match=r"Cannot find 'parent\.columns': expected 'columns', got that 'parent' is None"):
        b.merge(b)


@pytest.mark.parametrize("num, left", [(None, 7), (0, 0), (1, 1), (5, 5), (np.int64(2), 2), (100, 7)])
def test_how_many_of_the_first_are_kept(num: Any, left: int) -> None:
    states = [First(np.arange(i, i + 2), num) for i in (0, 2, 4)] + [First(np.array([6]), num)]
    for merged in (sum(states), states[0] + (states[1] + (states[2] + states[3]))):
        np.testing.assert_array_equal(merged.compute().x, np.arange(left))
    np.testing.assert_array_equal(First(np.arange(7), num).compute().x, np.arange(left))


def test_what_will_not_be_kept_is_not_held() -> None:
    states = [First(np.zeros((2, 1000)), num=4) for _ in range(50)]
    assert len(pickle.dumps(sum(states))) < 5 * 8 * 1000


@pytest.mark.parametrize("cls", [Sum, Min, Max])
def test_nan_and_infinity_stay_visible(cls: Any) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        for states in itertools.permutations([cls(1.0), cls(bad), cls(2.0)]):
            found = sum(states).compute().x
            expected = {Sum: sum, Min: np.min, Max: np.max}[cls]([1.0, bad, 2.0])
            assert_same(found, expected)
    with np.errstate(all="raise"):
        assert np.isnan((cls(np.array([np.nan, 1.0])) + cls(np.array([1.0, 1.0]))).compute().x).tolist() == [
            True,
            False,
        ]
    assert math.isnan((Sum(math.inf) + Sum(-math.inf)).compute().x)


# Calculators, and what cannot be merged


def test_states_of_other_calculators_raise() -> None:
    one, other = Sum(1.0, parent=Huber()), Sum(1.0, parent=Huber(delta=2.0))
    expected = r"Cannot merge states of different calculators: expected Huber\(\), got Huber\(delta=2\.0\)\."
    with pytest.raises(ValueError, match=expected):
        one.merge(other)
    assert (one + Sum(1.0, parent=Huber())).parent == Huber()
    assert (one + Sum(1.0)).parent is (Sum(1.0) + one).parent is one.parent
    assert (Sum(1.0) + Sum(1.0)).parent is None
    for cls in (Sum, EmptyState, TreeState, AverageState):
        assert cls.empty(parent=Huber()).parent == Huber()
    for thing, got in ((1.0, r"1\.0"), (0, "0"), (None, "None"), ("x", "'x'")):
        with pytest.raises(TypeError, match=rf"Cannot merge states: expected a Sum, got {got}\."):
            one + thing
    for start in (1, None, 0.5, 0.0):
        with pytest.raises(TypeError):
            start + one


def test_static_fields_must_be_equal() -> None:
    class Options(AutoState):
        x: Any = sum_field()
        size: int = 1
        names: tuple[str, ...] = static_field(("a",))
        ratio: float = dataclasses.field(default=0.5)

    assert (Options(1.0) + Options(2.0)).compute() == SimpleNamespace(x=3.0)
    for changed, words in (
        (dict(size=2), "size in both, got 1 and 2"),
        (dict(names=("b", "c")), "names in both, got a tuple of 1 and a tuple of 2"),
        (dict(ratio=0.25), r"ratio in both, got 0\.5 and 0\.25"),
        (dict(size=None), "size in both, got 1 and None"),
    ):
        with pytest.raises(ValueError, match=f"Cannot merge states: expected the same {words}"):
            Options(1.0).merge(Options(1.0, **changed))
    assert math.isnan((Options(1.0, ratio=math.nan) + Options(2.0, ratio=math.nan)).ratio)  # which equals nothing
    kept = Options.empty() + Options(1.0, size=5)
    assert (kept.size, kept.names, kept.ratio) == (5, ("a",), 0.5)


def test_a_field_without_a_kind_is_static_and_the_error_says_how_it_would_merge() -> None:
    class Unmarked(AutoState):
        total: Any = sum_field()
        first: Any = None
        label: str = static_field("a")

    array = np.zeros((4, 3), np.float32)
    assert (Unmarked(1.0, array) + Unmarked(1.0, array)).compute() == SimpleNamespace(total=2.0)
    got = "a float32 array of shape (4, 3) and a float32 array of shape (4, 3)"
    for other, error in (
        (
            Unmarked(1.0, array + 1),
            f"Cannot merge states: expected the same first in both, got {got}; "
            "write first: Any = sum_field(), or another function that says how it merges.",
        ),
        (Unmarked(1.0, array, "b"), "Cannot merge states: expected the same label in both, got 'a' and 'b'."),
    ):
        with pytest.raises(ValueError) as caught:
            Unmarked(1.0, array).merge(other)
        assert str(caught.value) == error


def test_states_are_immutable(rng: Any) -> None:
    state = Mixed.empty() + mixed([1.0])
    for name in ("total", "parent", "keep", "new", "compensation"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(state, name, 1)
    before = pickle.dumps(state)
    for _ in range(3):
        state.merge(mixed([2.0]))
        mixed([2.0]).merge(state)
        state.compute()
    assert pickle.dumps(state) == before
    arrays = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    for array in arrays:
        array.flags.writeable = False
    for cls in (Sum, Min, Max, Concat):
        cls(arrays[0]).merge(cls(arrays[1])).compute()


def test_kept_together_in_sets_and_dicts() -> None:
    """Equal arrays have no truth value: a state is equal to itself alone."""
    a, b = Sum(np.ones(2)), Sum(np.ones(2))
    assert a == a != b
    assert len({a, b}) == 2


# Subclasses


class Base(AutoState):
    x: Any = sum_field()

    def compute(self) -> Any:
        return self.x * 2


class Child(Base):
    more: Any = concat_field()

    def compute(self) -> Any:
        return super().compute() + len(self.more), self.more


class Grandchild(Child):
    first: Any = truncate_field(num_field="keep")
    keep: int = 2

    def compute(self) -> Any:
        """Twice the sum, and the first of the collected."""
        return super().compute()[0], self.first


def test_an_overridden_compute_finds_its_fields_concatenated() -> None:
    assert (Base(1.0) + Base(2.0)).compute() == 6.0
    child = (Child(1.0, np.array([1, 2])) + Child(2.0, np.array([3]))).compute()
    assert child[0] == 9.0
    np.testing.assert_array_equal(child[1], [1, 2, 3])
    merged = sum(Grandchild(1.0, np.arange(i), np.arange(i)) for i in (1, 2, 3))
    assert merged.compute()[0] == 12.0
    np.testing.assert_array_equal(merged.compute()[1], [0, 0])
    np.testing.assert_array_equal(merged.more[0], [0])
    assert "Twice the sum" in (Grandchild.compute.__doc__ or "")


def test_fields_may_have_most_names() -> None:
    class Odd(AutoState):
        total: Any = sum_field()
        count: Any = concat_field()
        self: Any = max_field()
        cls: Any = min_field()
        other: Any = sum_field()
        kinds: Any = sum_field()
        state: Any = state_field()
        EMPTY: Any = sum_field()
        _private: Any = sum_field(default=1)

    one = Odd(1, np.array([1]), 2, 3, 4, 5, Sum(6), 7)
    found = (one + Odd.empty() + one).compute()
    assert vars(found).keys() == {"total", "count", "self", "cls", "other", "kinds", "state", "EMPTY", "_private"}
    assert (found.total, found.self, found.cls, found.other, found.EMPTY, found._private) == (2, 2, 3, 8, 14, 2)


def test_options_of_fields_are_those_of_dataclasses() -> None:
    class Optional(AutoState):
        x: Any = sum_field(default=0.0)
        y: Any = concat_field(default_factory=lambda: np.zeros(0))
        z: Any = truncate_field(num_field="n", default=None, repr=False)
        n: int = static_field(5, metadata={"unit": "items"})

    assert repr(Optional()).rpartition(".<locals>.")[2] == "Optional(x=0.0, y=array([], dtype=float64), n=5)"
    assert Optional().compute().z is None
    assert {f.name: dict(f.metadata) for f in dataclasses.fields(Optional)}["n"]["unit"] == "items"

    for kind in (sum_field, min_field, max_field, concat_field, state_field, static_field):
        made = type("Made", (AutoState,), {"__annotations__": {"x": Any}, "x": kind(default=None, repr=False)})
        assert made().x is None
        assert repr(made()) == "Made()"


# The states that come with lossreg


class FirstImages(CollectFirstState):
    images: Any
    labels: Any


class FirstImagesAndSum(FirstImages):
    total: Any = sum_field()


def test_collect_first_state() -> None:
    states = [FirstImages(np.full((2, 4, 4), i), np.array(["ab"[i]] * 2), keep_first=3) for i in range(2)]
    found = sum(states).compute()
    np.testing.assert_array_equal(found.images[:, 0, 0], [0, 0, 1])
    assert found.labels.tolist() == ["a", "a", "b"]
    np.testing.assert_array_equal(states[0].compute().labels, ["a", "a"])
    both = FirstImages.empty() + states[1] + FirstImages.empty()
    assert (both.keep_first, both.compute().labels.tolist()) == (3, ["b", "b"])
    more = [FirstImagesAndSum(np.zeros(2), np.ones(2), i, keep_first=1) for i in (1.0, 2.0)]
    found = sum(more).compute()
    assert (found.total, found.images.tolist(), found.labels.tolist()) == (3.0, [0.0], [1.0])
    with pytest.raises(ValueError, match="expected the same keep_first in both, got 3 and 4"):
        states[0].merge(FirstImages(np.zeros(1), np.zeros(1), keep_first=4))
    with pytest.raises(TypeError, match="keep_first"):
        FirstImages(np.zeros(1), np.zeros(1))  # type: ignore[call-arg]


def test_average_state_without_mask(rng: Any) -> None:
    for values in (
        rng.normal(size=(3, 4)),
        np.arange(6),
        np.array([True, False, True]),
        np.float32(2.5),
        [1.0, 4.0],
        3.0,
    ):
        state = AverageState.from_values(values)
        assert_same(state.compute(), np.mean(np.asarray(values, float)), rtol=1e-15)
        assert (type(state.total), type(state.count)) == (float, float)
    assert AverageState.from_values(np.zeros((0, 3))).compute() == 0
    assert AverageState.empty().compute() == 0
    halves = rng.random((5000, 3)).astype(np.float16)
    assert_same(AverageState.from_values(halves).compute(), halves.astype(float).mean(), rtol=1e-15)
    assert_same(AverageState.from_values(np.full(100_000, 60_000, np.float16)).compute(), 60_000.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize(
    "shape, mask_shape",
    [((6,), (6,)), ((6, 3), (6,)), ((6, 3), (6, 3)), ((6, 3), (6, 1)), ((6, 3, 2), (6, 3)), ((), ())],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_average_state_with_masks(bad: float, shape: Any, mask_shape: Any, dtype: Any, rng: Any) -> None:
    fraction = np.asarray(rng.random(mask_shape) * (rng.random(mask_shape) < 0.6))
    kept = np.asarray(fraction > 0)
    for mask in (fraction, kept, kept.astype(np.int32), fraction.astype(np.float32)):
        values = rng.normal(size=shape).astype(dtype)
        weight = np.broadcast_to(mask.reshape(mask_shape + (1,) * (len(shape) - len(mask_shape))), shape)
        with np.errstate(over="ignore"):  # 1e308 in half precision
            spoiled = np.where(weight != 0, values, dtype(bad))
        state = AverageState.from_values(spoiled, mask=mask)
        w = weight.astype(float)
        expected = np.sum(values.astype(float) * w) / np.sum(w) if np.sum(w) else 0.0
        assert_same(state.compute(), expected, rtol=1e-6 if dtype == np.float32 else 1e-13, atol=1e-15)
        assert_same(state.count, np.sum(w), rtol=1e-15)
    assert_same(AverageState.from_values(np.full((1, 2), bad / 2), mask=np.ones(1)).compute(), bad / 2)


@pytest.mark.parametrize(
    "shape, mask_shape", [((6, 3), (3,)), ((6, 3), (1,)), ((6,), (6, 1)), ((6, 3), (1, 3)), ((6, 3), (6, 2))]
)
def test_masks_that_do_not_fit(shape: Any, mask_shape: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a mask with the first axes of the values, \(6.*got shape"):
        AverageState.from_values(np.zeros(shape), mask=np.ones(mask_shape))


def test_averages_of_classes() -> None:
    """Counts may be arrays, some of them 0."""
    states = [AverageState(total=np.array([2.0, 0.0]), count=np.array([1.0, 0.0])) for _ in range(3)]
    np.testing.assert_array_equal(sum(states).compute(), [2.0, 0.0])


def test_empty_state() -> None:
    assert EmptyState.empty().compute() == {}
    assert (EmptyState() + EmptyState(parent=Huber())).parent == Huber()
    assert sum([EmptyState()] * 3).compute() == {}
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        EmptyState(parent=Huber()).merge(EmptyState(parent=MeanSquaredError()))


def test_tree_state() -> None:
    def make(i: float) -> TreeState:
        average, all_ = AverageState(total=i, count=1), Concat(np.array([i]))
        return TreeState({"a": average, "b": [all_, (EmptyState(),)], "c": {}})

    merged = sum(make(i) for i in (1.0, 2.0, 6.0))
    for state in (merged, TreeState.empty() + merged + TreeState.empty(), pickle.loads(pickle.dumps(merged))):
        found = state.compute()
        assert found["a"] == 3.0
        assert found["b"][1] == ({},)
        assert found["c"] == {}
        np.testing.assert_array_equal(found["b"][0].x, [1, 2, 6])
        assert type(state.finalize().tree["b"][0].x) is np.ndarray
    assert TreeState.empty().compute() == (TreeState.empty() + TreeState.empty()).finalize().compute() == {}
    assert (TreeState(Sum(1.0)) + TreeState(Sum(2.0), parent=Huber())).parent == Huber()
    assert TreeState(Sum(1.0)).merge(TreeState(Sum(2.0))).compute() == SimpleNamespace(x=3.0)
    with pytest.raises(ValueError, match=r"Cannot combine trees: expected another like a dict with 'a', 'b', 'c'"):
        make(1.0).merge(TreeState({"a": AverageState()}))
    with pytest.raises(ValueError, match="Cannot merge states"):
        TreeState([AverageState()]).merge(TreeState([Sum(1.0)]))


# On a device


@pytest.mark.parametrize("cls", [Sum, Min, Max, Concat, First])
@pytest.mark.parametrize("a, b", [([1.0, 5.0], [3.0, 2.0]), (1.0, 2.0), ([[1.0, 2.0]], [[3.0, 4.0]])])
def test_fields_stay_on_the_device_until_they_are_asked_for(cls: Any, a: Any, b: Any) -> None:
    expected = (cls(np.array(a)) + cls(np.array(b))).compute().x
    with standin_cupy.installed() as cupy:
        one, other = cls(cupy.asarray(np.array(a))), cls(cupy.asarray(np.array(b)))
        merged = cls.empty() + one + (other + cls.empty())
        if cls not in (Concat, First):
            assert type(merged.x) is cupy.ndarray
        again = (merged.finalize if cls in (Sum, Min, Max) else lambda: merged)()
        with standin_cupy.allow_reading():
            same(again.compute().x, np.asarray(expected))


def test_averages_and_losses_on_the_device(rng: Any) -> None:
    values, mask = rng.normal(size=(5, 3)), rng.random(5)
    truths = rng.normal(size=(5, 3))
    expected = AverageState.from_values(values, mask=mask).compute()
    loss = MeanSquaredError()
    with standin_cupy.installed() as cupy:
        states = [
            AverageState.from_values(cupy.asarray(values[i]), mask=cupy.asarray(mask[i]))
            for i in (slice(2), slice(2, 5))
        ]
        merged = AverageState.empty() + sum(states)
        one = loss.get_state(cupy.asarray(values), cupy.asarray(truths))
        both = (loss.empty() + one + one).weighted(2.0, None)
        gradient = cupy.asarray(np.ones(3, np.float32))
        scaled = both.scale({"w": [gradient]})["w"][0]
        assert type(merged.total) is type(merged.compute()) is type(both.compute()) is type(scaled) is cupy.ndarray
        assert scaled.dtype == np.float32
        with standin_cupy.allow_reading():
            assert_same(merged.compute().get(), expected, rtol=1e-14)
            assert_same(both.compute().get(), 2 * loss.get_loss(values, truths), rtol=1e-14)
            assert_same(scaled.get(), np.full(3, 1 / 30), rtol=1e-7)


# Exact sums


def random_tree(states: list[Any], rng: Any) -> Any:
    states = list(states)
    while len(states) > 1:
        i = int(rng.integers(0, len(states) - 1))
        states[i : i + 2] = [states[i] + states[i + 1]]
    return states[0]


ORDERS = {
    "in order": lambda states, rng: sum(states),
    "reversed": lambda states, rng: sum(states[::-1]),
    "shuffled": lambda states, rng: sum(states[i] for i in rng.permutation(len(states))),
    "ascending": lambda states, rng: sum(sorted(states, key=lambda s: abs(s.total))),
    "descending": lambda states, rng: sum(sorted(states, key=lambda s: -abs(s.total))),
    "in a random tree": random_tree,
    "in halves": lambda states, rng: sum(states[: len(states) // 2]) + sum(states[len(states) // 2 :]),
    "pickled on the way": lambda states, rng: functools.reduce(
        lambda a, b: pickle.loads(pickle.dumps(a)) + b, states[:2000] + ([sum(states[2000:])] if states[2000:] else [])
    ),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cancelling", [False, True])
def test_sums_do_not_depend_on_the_order_of_merges(order: str, cancelling: bool, rng: Any) -> None:
    """10,000 totals over 16 orders of magnitude and both signs, also where the large ones cancel."""
    totals = 10.0 ** rng.uniform(-8, 8, 10_000) * rng.choice([-1.0, 1.0], 10_000)
    if cancelling:
        large = np.abs(totals) > 1.0
        totals = np.concatenate([totals, -totals[large]])
    counts = rng.random(len(totals)) * 100
    states = [LossState(t, c, parent=Huber()) for t, c in zip(totals.tolist(), counts.tolist(), strict=True)]
    exact = math.fsum(totals) / math.fsum(counts)
    if cancelling:
        assert abs(math.fsum(totals)) < 1e-9 * np.abs(totals).sum()
    merged = ORDERS[order](states, rng)
    assert abs(merged.compute() - exact) <= 1e-15 * abs(exact)
    assert (merged.total, merged.count) == (math.fsum(totals), math.fsum(counts))
    plain = functools.reduce(operator.add, totals.tolist())
    if cancelling:
        assert abs(plain - math.fsum(totals)) > 1e-12 * abs(exact), "or else the test shows nothing"


def test_sums_of_arrays_are_as_exact(rng: Any) -> None:
    parts = 10.0 ** rng.uniform(-8, 8, (500, 6)) * rng.choice([-1.0, 1.0], (500, 6))
    exact = [math.fsum(column) for column in parts.T]
    for order in (np.arange(500), rng.permutation(500)):
        states = [Sum({"a": parts[i, :3], "b": [parts[i, 3:]]}) for i in order]
        for merged in (sum(states), random_tree(states, rng)):
            found = merged.compute().x
            np.testing.assert_array_equal(np.concatenate([found["a"], *found["b"]]), exact)


def test_a_weight_counts_for_what_rounding_took(rng: Any) -> None:
    totals = (10.0 ** rng.uniform(-8, 8, 1000) * rng.choice([-1.0, 1.0], 1000)).tolist()
    halves = sum(LossState(t, 1.0) for t in totals[:500]), sum(LossState(t, 1.0) for t in totals[500:])
    merged = halves[0].weighted(4.0, None) + halves[1].weighted(4.0, None)
    assert merged.total == 4 * math.fsum(totals)
    assert merged.count == 1000
    large = (LossState(1e16, 1.0) + LossState(1.0, 1.0)).weighted(3.0, None)
    assert (large + LossState(-3e16, 1.0)).total == 3.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_totals_that_are_not_finite_stay_visible(bad: float, rng: Any) -> None:
    states = [LossState(float(t), 1.0) for t in rng.normal(size=50)]
    states.insert(20, LossState(bad, 1.0))
    for merge in ORDERS.values():
        if "cending" not in repr(merge):
            merged = merge(states, rng)
            assert_same(merged.compute(), bad)
            assert merged.count == 51


def test_overflow_is_infinite_and_stays() -> None:
    states = [LossState(1e308, 1.0), LossState(1e308, 1.0), LossState(-1e308, 1.0), LossState(5.0, 1.0)]
    with np.errstate(all="raise"):
        assert sum(states).compute() == math.inf
        assert (Sum(np.array([1e308, 1.0])) + Sum(np.array([1e308, 2.0]))).compute().x.tolist() == [math.inf, 3.0]


# Factors


@pytest.mark.parametrize(
    "count, factor", [(4.0, 0.25), (4, 0.25), (None, 1.0), (0.0, 0.0), (0, 0.0), (np.float32(4), 0.25)]
)
def test_scale_divides_by_the_count(count: Any, factor: float) -> None:
    state = LossState(8.0, count)
    gradients = {"w": np.ones((2, 3), np.float32), "more": [np.array([2.0]), (np.ones(1, np.float16), np.float64(3.0))]}
    before = copy.deepcopy(gradients)
    scaled = state.scale(gradients)
    same(
        scaled,
        {
            "w": np.full((2, 3), factor, np.float32),
            "more": [np.array([2 * factor]), (np.full(1, factor, np.float16), 3 * factor)],
        },
    )
    same(gradients, before)
    assert state.factor == factor
    assert state.compute() == (8.0 * factor if factor else 0.0)
    assert not np.shares_memory(scaled["w"], gradients["w"])


def test_a_weight_multiplies_the_total_and_not_the_count() -> None:
    heavy = LossState(3.0, 2.0, parent=Huber()).weighted(2.5, "the term")
    assert (heavy.total, heavy.count, heavy.parent) == (7.5, 2.0, "the term")


# Other processes


def state_of_a_worker(seed: int) -> tuple[LossState, Mixed]:
    rng = np.random.default_rng(seed)
    loss = MeanSquaredError()
    state = sum(loss.get_state(rng.normal(size=n), rng.normal(size=n)) for n in (3, 4, 5))
    return state, mixed(rng.normal(size=4)) + mixed(rng.normal(size=2))


def test_states_of_other_processes_merge() -> None:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        sent = list(pool.map(state_of_a_worker, range(3), timeout=120))
    made = [state_of_a_worker(seed) for seed in range(3)]
    loss, expected = sum(state for state, _ in sent), sum(state for state, _ in made)
    assert loss.parent == MeanSquaredError()
    assert (loss.total, loss.count) == (expected.total, expected.count)
    assert (loss + MeanSquaredError().empty()).compute() == expected.compute()
    same(sum(state for _, state in sent).compute(), sum(state for _, state in made).compute())


def test_static_fields_of_nested_arrays() -> None:
    class Pair(lossreg.AutoState):
        total: Any = lossreg.sum_field()
        edges: Any = lossreg.static_field()

    state = Pair(total=1.0, edges={"x": (np.arange(3), 1)})
    assert (state + Pair(total=2.0, edges={"x": (np.arange(3), 1)})).compute().total == 3.0
    with pytest.raises(ValueError, match="expected the same edges in both"):
        state + Pair(total=2.0, edges={"x": (np.arange(3) + 1, 1)})


def test_public_names() -> None:
    for name in lossreg.metrics.__all__:
        assert getattr(lossreg, name, None) in (None, getattr(lossreg.metrics, name))


@pytest.mark.parametrize("kind", [int, np.int64, lambda x: np.array([x]), lambda x: {"n": x}])
def test_integers_stay_exact(kind: Any) -> None:
    big = 2**53
    found = sum([Sum(kind(big)), Sum(kind(1)), Sum(kind(0)), Sum(kind(2))]).compute().x
    same(found, {"n": big + 3} if isinstance(found, dict) else np.array([big + 3]) if np.ndim(found) else big + 3)
    assert np.asarray(next(iter(found.values())) if isinstance(found, dict) else found).dtype == np.int64
    assert sum([Sum(10**400)] * 3).compute().x == 3 * 10**400
    assert sum([Sum(True), Sum(np.True_), Sum(False)]).compute().x == 2
    assert (Sum(np.uint8(255)) + Sum(np.uint8(255))).compute().x == 510
    assert [type((Sum(kind(1)) + Sum(kind(1))).x) for kind in (np.int8, np.float16, np.True_.__class__)] == [
        int,
        float,
        int,
    ]
    assert (Sum(1) + Sum(0.5) + Sum(2)).compute().x == 3.5


@pytest.mark.parametrize("cls, what", [(Sum, "sum"), (Min, "minimum"), (Max, "maximum")])
@pytest.mark.parametrize(
    "a, b, expected",
    [
        (np.ones(3), np.ones(2), "expected shape (3,), got a float64 array of shape (2,)"),
        (np.ones(3), np.ones(1), "expected shape (3,), got a float64 array of shape (1,)"),
        (np.ones((3, 1)), np.ones((1, 3)), "expected shape (3, 1), got a float64 array of shape (1, 3)"),
        (1.0, np.ones(3), "expected shape (), got a float64 array of shape (3,)"),
        (np.ones(3), 1, "expected shape (3,), got 1"),
        ({"a": np.ones(3)}, {"a": 1.0}, "expected shape (3,), got 1.0"),
    ],
)
def test_fields_of_other_shapes_do_not_merge(cls: Any, what: str, a: Any, b: Any, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        cls(a).merge(cls(b))
    assert str(caught.value) == f"Cannot merge {what}: {expected}."


def test_gradients_of_half_precision_are_divided_in_single_precision() -> None:
    """A factor of 1e-6 has one digit in half precision, and one of 1e-8 is 0."""
    gradient = np.array([60000.0, 1.0, -3.0], np.float16)
    for count in (1e6, 3.0, 1e8):
        scaled = LossState(1.0, count).scale([gradient])[0]
        np.testing.assert_array_equal(scaled, (gradient.astype(float) / count).astype(np.float16), strict=True)
    with standin_cupy.installed() as cupy:
        scaled = LossState(1.0, cupy.asarray(np.array(1e6))).scale(cupy.asarray(gradient))
        with standin_cupy.allow_reading():
            np.testing.assert_array_equal(scaled.get(), (gradient.astype(float) / 1e6).astype(np.float16), strict=True)


def test_numbers_of_python_are_scaled_too() -> None:
    assert LossState(1.0, 4.0).scale({"b": 2.0, "c": (1,)}) == {"b": 0.5, "c": (0.25,)}


@pytest.mark.parametrize(
    "x, got",
    [
        ("a", "'a'"),
        (None, "None"),
        (1j, "1j"),
        (np.array([1j]), "a complex128 array of shape (1,)"),
        (np.complex64(1), "a complex64 array of shape ()"),
        (np.array(["a"]), "a <U1 array of shape (1,)"),
        (np.array(["2020-01-01"], "M8[D]"), "a datetime64[D] array of shape (1,)"),
    ],
)
def test_what_is_no_real_number_is_not_summed(x: Any, got: str) -> None:
    with pytest.raises(TypeError) as caught:
        Sum({"a": x}).merge(Sum({"a": x}))
    assert str(caught.value) == f"Cannot merge sum: expected real numbers, got {got}."


def test_states_of_two_kinds_are_named_by_their_kinds() -> None:
    expected = r"Cannot merge states: expected a LossState, got an? AverageState\."
    for parent in (None, Huber()):
        with pytest.raises(ValueError, match=expected):
            LossState(1.0, 1.0, parent=parent).merge(AverageState(1.0, 1.0, parent=parent))
    with pytest.raises(ValueError, match="Cannot merge states: expected a FirstImages, got a FirstImagesAndSum"):
        FirstImages.empty().merge(FirstImagesAndSum.empty())  # type: ignore[arg-type]


def test_static_fields_may_be_arrays() -> None:
    class Curve(AutoState):
        hits: Any = sum_field()
        thresholds: Any = static_field(None)

    make = lambda *thresholds: Curve(np.ones(2), thresholds and np.array(thresholds))  # noqa: E731
    assert (make(0.1, 0.5) + make(0.1, 0.5)).compute().hits.tolist() == [2, 2]
    assert (Curve.empty() + make(0.1, 0.5) + Curve.empty() + make(0.1, 0.5)).thresholds.tolist() == [0.1, 0.5]
    for other in (make(0.1, 0.6), make(0.1), make()):
        with pytest.raises(ValueError, match="Cannot merge states: expected the same thresholds in both"):
            make(0.1, 0.5).merge(other)
        with pytest.raises(ValueError, match="Cannot merge states: expected the same thresholds in both"):
            other.merge(make(0.1, 0.5))


def test_a_number_of_the_first_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"Cannot keep the first: expected num to be 0 or more, got -1\."):
        First(np.zeros(3), num=-1).compute()
    with pytest.raises(ValueError, match=r"Cannot keep the first: expected num to be 0 or more, got -1\."):
        First(np.zeros(3), num=-1).merge(First(np.zeros(3), num=-1))


def test_an_axis_that_an_array_does_not_have() -> None:
    class Second(AutoState):
        x: Any = truncate_field(num_field="num", axis=1)
        num: int = 3

    for x in (np.zeros(9), 1.0):
        for call in (Second(x).compute, lambda x=x: Second(x).merge(Second(x))):
            with pytest.raises(ValueError, match="axis 1 is out of bounds for array of dimension 1"):
                call()


class Length:
    """A compute that knows nothing of states."""

    def compute(self) -> Any:
        return self.x.shape  # type: ignore[attr-defined]


class OfABase(AutoState):
    def compute(self) -> Any:
        return self.x.shape  # type: ignore[attr-defined]


class WithMixin(Length, AutoState):
    x: Any = concat_field()


class WithBase(OfABase):
    x: Any = concat_field()


class AddsAField(Base):
    """The base has nothing to concatenate, and its compute reads nothing that is."""

    extra: Any = concat_field(default_factory=lambda: np.zeros(1))


def test_a_compute_that_is_inherited_finds_its_fields_concatenated() -> None:
    for cls in (WithMixin, WithBase):
        assert (cls(np.zeros(2)) + cls(np.zeros(3))).compute() == (5,)
        assert cls(1.0).compute() == (1,)
        assert type((cls(np.zeros(2)) + cls(np.zeros(3))).finalize().x) is np.ndarray
    assert (AddsAField(1.0) + AddsAField(2.0)).compute() == 6.0
    assert vars(Length).keys() >= {"compute"}
    assert not hasattr(Length.compute, "__wrapped__")


def test_fields_may_be_given_by_name_alone() -> None:
    class ByName(AutoState):
        _: dataclasses.KW_ONLY
        num: int = 2
        x: Any = truncate_field(num_field="num")

    assert (ByName(x=np.zeros(1)) + ByName(x=np.ones(3))).compute().x.tolist() == [0, 1]
    with pytest.raises(TypeError, match="positional argument"):
        ByName(2, np.zeros(1))  # type: ignore[misc]


@pytest.mark.parametrize("name", ["parent", "compensation", "merge", "compute", "finalize", "empty", "default_kind"])
def test_names_that_a_state_has_itself(name: str) -> None:
    with pytest.raises(TypeError, match=f"Cannot make Bad: expected fields with names of their own, got {name!r}"):
        type("Bad", (AutoState,), {"__annotations__": {"x": Any, name: Any}, "x": sum_field(), name: sum_field()})


def test_inherited_fields_may_be_defined_anew() -> None:
    class Counted(AverageState):
        count: Any = sum_field(default=1.0)

    assert (Counted(3.0) + Counted(5.0)).compute() == 4.0


# Many merges

MERGES: list[Callable[[list[Any]], Any]] = [
    lambda states: functools.reduce(lambda a, b: a.merge(b), states),
    lambda states: functools.reduce(lambda a, b: b.merge(a), states[::-1]),
]


class All(AutoState):
    x: Any = truncate_field(num_field="num")
    num: int | None = None


@pytest.mark.parametrize("merge", MERGES, ids=["from the left", "from the right"])
@pytest.mark.parametrize("cls", [Concat, All])
def test_one_more_merge_copies_nothing_of_what_was_merged(cls: Any, merge: Callable[[list[Any]], Any]) -> None:
    """Copies in each merge make the time of all merges grow with the square of their number."""
    merged, one = merge([cls(np.array([float(i)])) for i in range(8_000)]), cls(np.array([1.0]))
    tracemalloc.start()
    try:
        more = merge([merged, one])
        assert tracemalloc.get_traced_memory()[1] < 8_000
    finally:
        tracemalloc.stop()
    assert len(more.compute().x) == 8_001


@pytest.mark.parametrize("merge", MERGES, ids=["from the left", "from the right"])
@pytest.mark.parametrize("cls", [Concat, All])
def test_deeply_merged_states_are_pickled_copied_and_shown(cls: Any, merge: Callable[[list[Any]], Any]) -> None:
    merged = merge([cls(np.array([float(i)])) for i in range(10_000)])
    np.testing.assert_array_equal(merged.compute().x, np.arange(10_000.0))
    for same in (pickle.loads(pickle.dumps(merged)), copy.deepcopy(merged)):
        np.testing.assert_array_equal(same.merge(merged).compute().x, [*range(10_000), *range(10_000)])
    assert "<10000 arrays to concatenate: array([0.]), array([1.]), array([2.]), ...>" in repr(merged)
    assert len(merged.x) == 10_000
    assert merged.x[-1] == 9_999


def test_parts_of_a_state_belong_to_all_that_were_merged_from_it() -> None:
    one, two, three = (Concat(np.array([float(i)])) for i in range(3))
    pair = one.merge(two)
    both = pair.merge(three), pair.merge(pair), three.merge(pair)
    found = [x.compute().x.tolist() for x in (*both, pair, one)]
    assert found == [[0.0, 1.0, 2.0], [0.0, 1.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.0, 1.0], [0.0]]


# Integers

LARGE = 2**63 - 1


@pytest.mark.parametrize(
    "values",
    [
        [LARGE, 1], [np.int64(LARGE), np.int64(1)], [np.array(LARGE), np.array(1)], [np.uint64(2**64 - 1), 1], [np.array(2**64 - 1, np.uint64), -1],
        [10**400, -1, 10**400], [np.int64(-LARGE), np.int64(-2), True], [np.bool_(True)] * 3,
    ],
)  # fmt: skip
def test_sums_of_single_integers_have_any_size(values: list[Any]) -> None:
    for order in itertools.permutations(values):
        merged = functools.reduce(operator.add, map(Sum, order))
        assert merged.compute().x == sum(map(int, values))
        assert type(merged.compute().x) is int


@pytest.mark.parametrize(
    "a, b",
    [
        (np.array([1, LARGE]), np.array([1, 1])), (np.array([-LARGE]), np.array([-2])), (np.array([[LARGE]]), np.array([[LARGE]])),
        (np.array([2**63], np.uint64), np.array([0])), (np.array([2**64 - 1], np.uint64), np.array([-1])),
        (np.array([LARGE]), np.array([1], np.uint8)), (np.array([LARGE]), np.array([True])),
    ],
)  # fmt: skip
def test_sums_of_integer_arrays_raise_before_they_wrap_around(a: Any, b: Any) -> None:
    for one, other in ((a, b), (b, a)):
        with pytest.raises(OverflowError, match="expected integer arrays whose sums are less than 2"):
            Sum(one) + Sum(other)


def test_sums_of_integer_arrays_are_exact_up_to_the_limit() -> None:
    for a, b in (([LARGE - 1, -LARGE], [1, -1]), ([LARGE, -LARGE - 1], [-LARGE, LARGE]), ([2**62], [2**62 - 1])):
        found = (Sum(np.array(a)) + Sum(np.array(b))).compute().x
        assert found.dtype == np.int64
        assert found.tolist() == [x + y for x, y in zip(a, b)]
    assert (Sum(np.zeros((0, 2), int)) + Sum(np.zeros((0, 2), int))).compute().x.shape == (0, 2)


@pytest.mark.parametrize("whole", [2**53 + 1, -(2**60) - 1, LARGE])
def test_integers_lose_nothing_when_they_meet_floats(whole: int) -> None:
    for shape in ((), (2,)):
        for order in itertools.permutations([whole, float(-whole), 0.5]):
            wide = [np.full(shape, x) if shape else x for x in order]
            found = functools.reduce(operator.add, map(Sum, wide)).compute().x
            np.testing.assert_array_equal(found, np.full(shape, whole - int(float(whole)) + 0.5))


def test_the_least_and_the_most_of_integers_are_exact() -> None:
    for a, b in ((2**63 + 1, -1), (2**53 + 1, 2**53), (10**30, 5)):
        assert Min(a).merge(Min(b)).compute().x == min(a, b)
        assert Max(a).merge(Max(b)).compute().x == max(a, b)
    with pytest.raises(ValueError, match=r"expected integers of one dtype, got a uint64 array of shape .* and a int64"):
        Max(np.array([2**63 + 1], np.uint64)).merge(Max(np.array([1])))


# Averages


def test_ten_thousand_averages_merge_to_the_same_number_in_any_order_and_tree(rng: Any) -> None:
    size = rng.integers(1, 5, 10_000)
    values = [rng.normal(size=n) * 10.0 ** rng.integers(-8, 8) for n in size]
    states = [metrics.AverageState.from_values(x, mask=rng.random(len(x))) for x in values]
    exact = math.fsum(s.total for s in states) / math.fsum(s.count for s in states)
    assert sum(states).compute() == pytest.approx(exact, rel=1e-15)
    for _ in range(3):
        left = list(states)
        while len(left) > 1:  # a random tree
            order = rng.permutation(len(left))
            half = len(left) // rng.integers(2, 5)
            pairs = [left[i] + left[j] for i, j in zip(order[:half], order[half : 2 * half])]
            left = pairs + [left[i] for i in order[2 * half :]] if half else [left[0] + left[1], *left[2:]]
        assert left[0].compute() == pytest.approx(exact, rel=1e-15)


def test_averages_of_masked_infinities_of_fractions_and_of_halves() -> None:
    average = metrics.AverageState.from_values
    assert average([1.0, math.inf, math.nan], mask=[1, 0, 0]).compute() == 1.0
    third = np.float32(1 / 3)
    assert average(np.full(3, third), mask=np.full(3, 0.1)).total == 3 * (0.1 * float(third))
    assert average(np.float16([60000, 60000]), mask=np.float16([1, 1])).compute() == float(np.float16(60000))
    with pytest.raises(ValueError, match=r"^Cannot calculate an average: expected values of real numbers, got a <U1"):
        average(["a"])
    with pytest.raises(ValueError, match=r"^Cannot calculate an average: expected a mask with the first axes of the"):
        average(np.ones((2, 3)), mask=np.ones(3))


def test_halves_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = np.array([[1.0, 2.0], [4.0, 3.0]], ml_dtypes.bfloat16)
    assert metrics.AverageState.from_values(x, mask=[1, 0]).compute() == 1.5
    assert metrics.Accuracy()(logits=x, labels=[1, 1]) == 0.5
    assert metrics.Norm()(tensor=x) == pytest.approx((5**0.5 + 5) / 2)
    assert metrics.Std()(values=x) == np.std([1, 2, 4, 3])
