"""Libraries of arrays that lossreg does not compute with: how their arrays are made of NumPy's, and read again."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Ragged, kauldron, mindformers
from support.table import ROWS

ROWS_TO_DIFFERENTIATE = [row for row in ROWS if not row.thinc and getattr(row.make(), "wrt", "") != "logits"]
"""Rows whose gradient is that of the loss in the guesses."""


class Own(lossreg.Loss):
    def get_grad(self, guesses: Any, truths: Any) -> Any:
        return guesses - truths

    def get_loss(self, guesses: Any, truths: Any) -> Any:
        return 0.5 * float(((guesses - truths) ** 2).sum())


class OfValues(kauldron.Loss):
    def get_values(self, x: Any) -> Any:
        return x * x


NO_CALCULATORS: list[tuple[Any, str]] = [
    (kauldron.L2(preds="a", targets="b"), "L2: expected a calculator or a Term, got a lossreg.kauldron.losses.L2; write L2(...).term."),
    (kauldron.L2(), "L2: expected a calculator or a Term, got a lossreg.kauldron.losses.L2; write L2(...).term."),
    (mindformers.CrossEntropyLoss(), "CrossEntropyLoss: expected a calculator or a Term, got a lossreg.mindformers.CrossEntropyLoss; write CrossEntropyLoss(...).calculator."),
    (lossreg.CrossEntropy, "CrossEntropy: expected a calculator, got the class CrossEntropy; write CrossEntropy()."),
    ("ce", "'ce': expected a calculator, got a name; write lossreg.loss('ce')."),
    (Own(), "Own: expected a calculator with values, got one of get_grad and get_loss alone; write it as class Own(lossreg.ElementwiseLoss) with a formula that returns (value, gradient)."),
    (OfValues(), "OfValues: expected a calculator, got a loss of get_values alone, which has no gradient; write it as class OfValues(lossreg.ElementwiseLoss) with a formula that returns (value, gradient)."),
    (lossreg.L2Distance(), "L2Distance: expected a calculator whose gradient is that of its loss, which is so for all but Thinc's own."),
    (None, "NoneType: expected a calculator, a Term or a WeightedSum, got None; write one, such as lossreg.CrossEntropy()."),
]  # fmt: skip
"""What is no calculator, and what the error says about it."""


@dataclass(frozen=True)
class Library:
    name: str
    array: type
    make: Callable[[np.ndarray], Any]
    """From a NumPy array, as a copy of its own."""
    read: Callable[[Any], np.ndarray]

    def to(self, tree: Any) -> Any:
        """Its arrays in the places of all NumPy arrays of numbers in tuples and lists."""
        if isinstance(tree, (tuple, list)) and any(isinstance(x, (np.ndarray, tuple, list)) for x in tree):
            return type(tree)(self.to(part) for part in tree)
        return self.make(tree) if isinstance(tree, np.ndarray) and tree.dtype.kind in "fiub" else tree

    def back(self, tree: Any) -> Any:
        """NumPy arrays in the places of its own; anything that is not its own fails."""
        if isinstance(tree, (tuple, list)):
            return type(tree)(self.back(part) for part in tree)
        assert isinstance(tree, self.array), type(tree)
        return self.read(tree)


@contextlib.contextmanager
def installed(name: str) -> Iterator[Library]:
    """A library, with all its dtypes; the test is skipped where it is not installed."""
    module: Any = pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")
    if name == "torch":
        yield Library(name, module.Tensor, lambda x: module.from_numpy(x.copy()), lambda x: x.numpy())
    elif name == "jax":
        with module.enable_x64(True):
            yield Library(name, module.Array, module.numpy.array, np.asarray)
    else:
        array = type(module.zeros(1))
        yield Library(name, array, lambda x: module.asarray(x.copy()), np.from_dlpack)


def address(array: Any) -> int:
    """Where the numbers of an array of any library lie."""
    if isinstance(array, np.ndarray):
        return int(array.ctypes.data)
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(array, name):
            return int(getattr(array, name)())
    return int(np.from_dlpack(array).ctypes.data)


def bfloat16() -> Any:
    """The dtype for NumPy."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: pip install ml_dtypes")
    return np.dtype(importlib.import_module("ml_dtypes").bfloat16)


def ragged_types() -> list[type]:
    try:
        from thinc.types import Ragged as ThincRagged
    except ImportError:  # the laws run on lossreg's own
        return [Ragged]
    return [Ragged, ThincRagged]
