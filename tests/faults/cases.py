"""Calls that are large enough for several threads, with the bits that they must give."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lossreg

__all__ = ["Case", "fresh_case", "large_case", "shared_cases", "small_case", "unseen"]


@dataclass
class Case:
    """A calculator with its inputs."""

    name: str
    loss: Any
    guesses: np.ndarray
    truths: Any
    expected: tuple[np.ndarray, float] = field(init=False)

    def __post_init__(self) -> None:
        self._copies = [(x, x.copy()) for x in (self.guesses, *self._truth_arrays())]
        for x, _ in self._copies:
            x.flags.writeable = False  # kernels get addresses, which no flag protects: see `inputs_are_unchanged`

    def _truth_arrays(self) -> list[np.ndarray]:
        truths = self.truths if isinstance(self.truths, tuple) else (self.truths,)
        return [x for x in truths if isinstance(x, np.ndarray)]

    def prepare(self) -> Case:
        """Compute the right bits, twice: a calculator whose bits differ by themselves would prove nothing."""
        self.expected = self()
        assert self.is_right(self()), f"{self.name} gives different bits without any disturbance"
        return self

    def __call__(self, out: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        grad, value = self.loss(self.guesses, self.truths, out=out)
        return grad, value

    def is_right(self, result: tuple[np.ndarray, float]) -> bool:
        grad, value = result
        expected, expected_value = self.expected
        same_value = np.float64(value).tobytes() == np.float64(expected_value).tobytes()
        return same_value and bool(np.array_equal(_bits(grad), _bits(expected)))

    def is_close(self, result: tuple[np.ndarray, float]) -> bool:
        """Whether a result is right but for rounding, as that of another backend."""
        grad, value = result
        expected, expected_value = self.expected
        largest = float(abs(expected).max())
        return bool(abs(grad - expected).max() <= 1e-5 * largest and abs(value - expected_value) <= 1e-5 * value)

    def inputs_are_unchanged(self) -> bool:
        return all(np.array_equal(_bits(x), _bits(copy)) for x, copy in self._copies)

    @property
    def freed_sizes(self) -> list[int]:
        """Bytes of the arrays that an interrupted call gives back: gradient, totals of rows, scratch rows."""
        rows = 512 if self.guesses.ndim > 1 else -(-self.guesses.size // 1024)
        width = self.guesses.shape[-1] if self.guesses.ndim > 1 else 1024
        return [self.guesses.nbytes, 8 * rows, 4 * (width + 64), 8 * (width + 64)]


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def shared_cases() -> list[Case]:
    """An elementwise loss, a loss of rows, and the one with code of its own."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal(3_000_000, np.float32)
    targets = (logits[::-1] > 0.3).astype(np.float32)
    scores, ids = rng.standard_normal((512, 8000), np.float32), rng.integers(0, 8000, 512)
    log_probs = rng.standard_normal((120, 64, 40), np.float32)
    log_probs -= np.log(np.exp(log_probs).sum(axis=2, keepdims=True))
    labels = (rng.integers(1, 40, (64, 20)), None, None)
    return [
        Case("SigmoidFocal", lossreg.SigmoidFocal(), logits, targets),
        Case("CrossEntropy", lossreg.CrossEntropy(), scores, ids),
        Case("CTC", lossreg.CTC(), log_probs, labels),
    ]


def small_case() -> Case:
    """The work of one thread."""
    rng = np.random.default_rng(8)
    return Case("Huber of 100", lossreg.Huber(), rng.normal(size=100), rng.normal(size=100))


def large_case() -> Case:
    """A gradient of 36 MB, whose memory is kept and used again."""
    guesses = np.arange(9_000_000, dtype=np.float32) * np.float32(1e-6)
    return Case("MeanSquaredError of 9M", lossreg.MeanSquaredError(), guesses, guesses[::-1].copy())


_numbers = itertools.count(1)


def unseen(number: float | None = None) -> Callable[[], None]:
    """A call of a formula that no process has compiled before; raises AssertionError if its numbers are wrong.

    A call with the same number needs the same machine code, but is traced and looked up anew.
    """
    # Functions of NumPy such as default_rng, linspace and isclose would set a context variable: see `finalizers`.
    factor = random.SystemRandom().uniform(1.0, 2.0) if number is None else number
    loss = fresh_case(factor)
    x = np.arange(-25.0, 25.0) / 25.0

    def call() -> None:
        grad, value = loss(x, -x)
        expected = factor * float((4.0 * x * x).sum())
        assert abs(grad - 2.0 * factor * 2.0 * x).max() <= 1e-12, "gradient of a fresh formula"
        assert abs(value - expected) <= 1e-12 * expected, "value of a fresh formula"

    return call


def fresh_case(factor: float) -> Any:
    """A calculator with a constant of its own in the formula."""

    def formula(xp: Any, guess: Any, truth: Any) -> Any:
        residual = guess - truth
        return factor * residual * residual, 2.0 * factor * residual

    name = f"Fresh{next(_numbers)}"
    kind = type(name, (lossreg.ElementwiseLoss,), {"formula": staticmethod(formula), "__module__": __name__})
    return kind(reduction="sum")
