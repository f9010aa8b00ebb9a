"""`describe` never raises: errors are made of it, where something is wrong already."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from lossreg.checks import describe


class Rust(BaseException):
    """As the panics of libraries that are written in Rust."""


ERRORS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError("broken"), lambda: AttributeError("gone"), lambda: TypeError("no"), SystemExit, GeneratorExit,
    RecursionError, MemoryError, lambda: Rust("panic"), lambda: StopIteration("early"), lambda: UnicodeError("bytes"),
]  # fmt: skip
VALUES: list[object] = [
    None, 5, -1, "text", "", b"bytes", (), (2, 3), [2, 3], {}, float("nan"), 1j, object(), type, np.float64, np.dtype("f4"),
    (object(), 1), ("x" * 10**6,), iter([1]), 10**5000, SimpleNamespace(), "\udc80", "\x1b[31m\x00", lambda: 1,
]  # fmt: skip
NAMES = [
    "shape", "dtype", "ndim", "size", "lengths", "dataXd", "__len__", "__repr__", "__str__", "__getattr__", "__bool__",
    "__iter__", "__eq__", "__hash__", "__class__", "__getitem__", "__format__", "__array__", "__module__", "__dlpack__",
]  # fmt: skip
BASES: list[type] = [object, list, tuple, dict, set, frozenset, str, int, float, bytes, np.ndarray, BaseException]


def hostile_objects(seed: int, count: int) -> Iterator[object]:
    """Objects of random classes, of which some members raise and others return what they should not."""
    rng = random.Random(seed)

    def member() -> object:
        error, value = rng.choice(ERRORS), rng.choice(VALUES)
        raises = rng.random() < 0.5

        def method(self: object, *args: object) -> object:
            if raises:
                raise error()
            return value

        return rng.choice([method, property(method), value])

    while count:
        base = rng.choice(BASES)
        members = {name: member() for name in rng.sample(NAMES, rng.randint(1, 6))}
        try:
            made = type("Hostile", (base,), members)
            yield made(2) if base is np.ndarray else made()  # type: ignore[call-arg]
        except BaseException:  # not every class can be made
            continue
        count -= 1


@pytest.mark.parametrize("seed", range(20))
def test_objects_whose_members_raise_or_return_anything(seed: int) -> None:
    for value in hostile_objects(seed, 100):
        text = describe(value)
        assert type(text) is str
        assert 0 < len(text) < 250
        assert text.isprintable()


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")

    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no module")


class Nameless(metaclass=Meta):
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Text(str):
    def __getitem__(self, key: object) -> str:  # type: ignore[override]
        raise RuntimeError("no part of it")

    def split(self, *args: object) -> list[str]:  # type: ignore[override]
        raise RuntimeError("no words")


class Texts:
    def __repr__(self) -> str:
        return Text("a text")


class Long:
    def __repr__(self) -> str:
        return "x" * 10**8


def test_single_cases_in_words() -> None:
    itself: list[object] = []
    itself.append(itself)
    frame = np.zeros(2, [(f"column {i}", "f8") for i in range(1000)])
    for value, text in [
        (Nameless(), "an object that cannot be described"), (Texts(), "a text"), (Text("a text"), "an object of type Text"),
        (Long(), "x" * 57 + "..."), (itself, "a list of 1"), (10**5000, "an int of 16610 bits"), (-(10**400), "an int of 1329 bits"),
        (True, "True"), (np.float32(2), "a float32 array of shape ()"), (np.zeros((2, 3)), "a float64 array of shape (2, 3)"),
        (SimpleNamespace(shape=5, dtype="f4"), "namespace(shape=5, dtype='f4')"), (np.ndarray, "<class 'numpy.ndarray'>"),
        ("a\nb", "'a\\nb'"), ("\x1b[31m", "'\\x1b[31m'"),
    ]:  # fmt: skip
        assert describe(value) == text
    assert describe(frame).endswith("... array of shape (2,)")
    assert describe(MagicMock()).startswith(("<MagicMock", "a Ragged"))
    assert describe("x" * 10**9) == "'" + "x" * 56 + "..."


def test_who_stops_the_program_is_not_stopped() -> None:
    class Stopped:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(Stopped())


def test_what_pandas_calls_a_value() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    for value, text in [
        (pandas.NA, "<NA>"), (pandas.NaT, "NaT"), (pandas.Interval(0, 1), "Interval(0, 1, closed='right')"),
        (pandas.Timestamp(0), "Timestamp('1970-01-01 00:00:00')"), (pandas.Series([1, 2]), "a pandas Series of shape (2,)"),
        (pandas.Categorical([1]), "a pandas Categorical of shape (1,)"),
        (pandas.DataFrame({"a": [1]}), "a pandas DataFrame of shape (1, 1)"),
    ]:  # fmt: skip
        assert describe(value) == text
    assert "GroupBy" in describe(pandas.Series([1]).groupby([0]))
