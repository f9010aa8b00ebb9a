"""Ops: what a calculator may ask of an array library. Generic bodies; a backend overrides what it can do better."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

import numpy as np

from ..formulas.arguments import ELEMENT, NUMBER, ROW, constant, surroundings
from ..formulas.graph import name_of
from ..formulas.program import Request, array_type, program
from ..formulas.replay import Replay
from .ctc import Alignment, align

__all__ = [
    "Array",
    "Ops",
    "argument_in_words",
    "check_indices",
    "check_numbers",
    "compute_dtype",
    "fits",
    "fitting",
    "is_half",
    "limits",
    "without_float_warnings",
    "wrong_shape",
]

Method = TypeVar("Method", bound=Callable[..., Any])

Array = Any
"""An array of NumPy, CuPy or another library with the same interface."""


@functools.lru_cache(maxsize=256)
def is_half(dtype: Any) -> bool:
    """float16 and bfloat16, which are computed in float32."""
    return dtype.name in ("float16", "bfloat16")


@functools.lru_cache(maxsize=256)
def compute_dtype(dtype: Any) -> Any:
    """The dtype in which guesses of a dtype are computed: float32 for halves and float32, else float64."""
    return np.dtype(np.float32 if is_half(dtype) or dtype == np.float32 else np.float64)


def without_float_warnings(method: Method) -> Method:
    """A method in which NumPy says nothing of overflows: what is left out may hold anything.

    As a decorator, `np.errstate` of NumPy 1 would share one memory of the former settings among threads and calls.
    """

    @functools.wraps(method)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return method(*args, **kwargs)

    return cast(Method, quiet)


@functools.lru_cache(maxsize=16)
def limits(dtype: Any) -> tuple[float, float]:
    """The smallest normal and the largest number of a dtype in which formulas compute."""
    info = np.finfo(dtype)
    return float(info.tiny), float(info.max)


def fitting(number: float, dtype: Any) -> float:
    """An option as a formula gets it: one that would vanish or overflow counts as the nearest number that does not.

    As 0 or infinity it would turn a limit, such as eps -> 0, into NaN. Zero, infinities and NaN stay what they are.
    """
    least, most = limits(dtype)
    size = abs(number)
    if least <= size <= most or not 0.0 < size < np.inf:
        return number
    return math.copysign(least if size < least else most, number)


def argument_in_words(formula: Any, number: int) -> str:
    """What errors call an argument of a formula: its name, and its number behind xp."""
    try:
        parameters = list(inspect.signature(formula).parameters.values())[1:]
    except (TypeError, ValueError):  # something that was written in C
        parameters = []
    named = [x.name for x in parameters if x.kind is x.POSITIONAL_OR_KEYWORD]
    if number < len(named):
        return f"{named[number]} (argument {number + 1})"
    return f"argument {number + 1}"


def wrong_shape(formula: Any, what: str, array: Any, shape: tuple[int, ...], rows: bool) -> ValueError:
    """ValueError for an array whose shape does not fit the guesses."""
    expected = f"to broadcast to {shape}"
    if rows:
        expected = f"of shape ({shape[0]},), {shape} or {(1, *shape[1:])}"
    got = f"shape {tuple(array.shape)}"
    return ValueError(f"Cannot run {name_of(formula)}: expected {what} {expected}, as the guesses are, got {got}.")


def fits(shape: tuple[int, ...], guesses: tuple[int, ...], rows: bool) -> bool:
    """Whether a formula takes an array of a shape beside guesses of another."""
    if shape == guesses:
        return True
    if rows:
        count, columns = guesses
        return shape in ((), (count,), (count, columns), (1, columns))
    return len(shape) <= len(guesses) and all(n in (1, size) for n, size in zip(shape[::-1], guesses[::-1]))


def check_numbers(formula: Any, place: int, array: Any) -> None:
    """Raise unless an array holds real numbers, all of them: no text, no dates, and none that a mask leaves out."""
    got = ""
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        got = f"a {array.dtype} array of shape {tuple(array.shape)}"
    if isinstance(array, np.ma.MaskedArray):
        got = "a masked array"
    if got:
        expected = f"{argument_in_words(formula, place)} to be an array of real numbers"
        raise TypeError(f"Cannot run {name_of(formula)}: expected {expected}, got {got}.")


def check_indices(formula: Any, ids: Any, columns: int) -> None:
    """Raise unless all ids by which elements are picked are those of columns."""
    if not ids.size or (ids.min() >= 0 and ids.max() < columns):
        return
    row = int(np.flatnonzero((ids < 0) | (ids >= columns))[0])
    expected = f"ids for xp.pick in [0, {columns})"
    raise ValueError(f"Cannot run {name_of(formula)}: expected {expected}, got {ids[row]} in row {row}.")


@functools.lru_cache(maxsize=1024)
def _replay(xp: Any, request: Request) -> tuple[Replay, list[int]]:
    """A formula with its weights as a function of arrays, and the numbers of the arguments that it picks by."""
    traced = program(request)
    return Replay([output.symbol for output in traced.outputs], xp, request.dtype), traced.indices


class Ops:
    """Array operations of one backend. The bodies need only NumPy's interface and no value of a device array."""

    name: ClassVar[str] = "generic"
    library: ClassVar[str] = "numpy"
    """Whose arrays these are."""
    on_device: ClassVar[bool] = False
    """True when reading a value makes the host wait for a device."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def owns(self, value: Any) -> bool:
        """Whether a value is an array of this backend."""
        return isinstance(value, self.xp.ndarray)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """An array of this backend, without a copy where possible."""
        return self.xp.asarray(value, dtype=dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array that holds anything."""
        return self.xp.empty(shape, dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        """A NumPy array of the same values; waits for a device."""
        return np.asarray(array)

    def scalar(self, value: Any) -> Any:
        """A total as the caller gets it: a float, or a 0-d array where reading it would wait for a device."""
        return value if self.on_device else float(value)

    def quotient(self, total: Any, count: Any) -> Any:
        """total / count, or 0 where nothing was counted: numbers, or arrays of float64 and of one shape."""
        if isinstance(count, (int, float)):
            return total / count if count else 0.0
        return self.xp.where(count == 0, 0.0, total / self.xp.where(count == 0, 1.0, count))

    def total(self, values: Array, weight: Array | None) -> Any:
        """Sum of values times weight in float64; values of weight 0 are left out, whatever they are."""
        return self.xp.sum(self.weighted(values, weight), dtype=np.float64)

    def weighted(self, values: Array, weight: Array | None) -> Array:
        """Values times weight in the values' dtype, 0 where the weight is 0 (NaN included)."""
        if weight is None:
            return values
        return self.xp.where(weight != 0, values * weight.astype(values.dtype), values.dtype.type(0))

    def run(
        self,
        formula: Callable[..., tuple[Array, ...]],
        guesses: Sequence[Array],
        others: Sequence[Any],
        weight: Array | None,
        scale: Any,
        *,
        static_options: tuple[Any, ...] = (),
        rows: bool,
        values: bool,
        total: bool,
        out: Sequence[Array] | None,
    ) -> tuple[Array | None, Any]:
        """Run a formula: (weighted values or None, their total or None), gradients into `out`.

        `formula(xp, *guesses, *others, *static_options) -> value, *derivatives`. Without `rows` a value belongs to each
        element, and arrays broadcast to the guesses. With `rows` guesses are (N, C) and a value belongs to each row; an
        array (N,) has one number for each row, one (N, C) or (1, C) one for each element.

        Floats may differ from call to call; a formula may branch on bools, ints, texts and None, and on
        `static_options`. It runs once on symbols, and what they recorded is run on the arrays: so it can write to none
        of them, and means the same on every backend. Results are written when all has been read. `weight` has one
        number for each value: where it is 0, value and gradient are 0, whatever the formula gives. `scale` multiplies
        the gradients. `out` has one array for each guess, or is None when no gradient is wanted.

        Errors: TypeError if the formula does not return one value and a derivative for each guess, or cannot run on
        symbols; ValueError for shapes that do not fit, ids outside of a row.
        """
        dtype, shape = compute_dtype(guesses[0].dtype), tuple(guesses[0].shape)
        arguments, weight = (*guesses, *others, *static_options), self.as_weight(weight)
        self._check_shapes(formula, guesses, (*arguments, scale, weight), out, rows)
        request = Request(
            formula,
            rows,
            dtype,
            arguments=(*[self._argument_type(x, rows) for x in (*guesses, *others)], *map(constant, static_options)),
            scale=self._argument_type(scale, rows),
            weight=self._argument_type(weight, rows),
            values=values or total,
            total=False,  # a replay gives values, which are added up here
            gradients=None if out is None else tuple([array_type(x.dtype.name, ELEMENT) for x in out]),
            surroundings=surroundings(formula),
        )
        replay, indices = _replay(self.xp, request)
        if not guesses[0].size:
            empty = self.xp.zeros((shape[0], 1) if rows else shape, dtype)
            return empty, self.xp.sum(empty, dtype=np.float64)
        if not self.on_device:
            for i in indices:
                check_indices(formula, arguments[i], shape[1])

        read = [fitting(float(x), dtype) if isinstance(x, (float, np.floating)) else x for x in arguments]
        read = [self._arranged(x, rows) for x in (*read, scale, weight)]
        found = None
        if values or total:
            found = self.xp.empty((shape[0], 1) if rows else shape, np.float64 if rows else dtype)
        sum_ = self.replay(replay, shape, read, found, out, total, rows)
        return found.astype(dtype, copy=False) if values and found is not None else None, sum_

    def replay(
        self,
        replay: Replay,
        shape: tuple[int, ...],
        arguments: Sequence[Any],
        values: Array | None,
        out: Sequence[Array] | None,
        total: bool,
        rows: bool,
    ) -> Any:
        """Store what a formula gives for arguments that have been checked, and return the total of the values."""
        # A result may be one of the arguments, and `out` another: values are copied before anything is written.
        results = replay(arguments, shape[1] if rows else 0)
        if values is not None:
            values[...] = results.pop()
        for target, grad in zip(out or (), results):
            target[...] = grad
        return self.xp.sum(values, dtype=np.float64) if total else None

    def _check_shapes(
        self, formula: Any, guesses: Sequence[Array], arguments: Sequence[Any], out: Sequence[Array] | None, rows: bool
    ) -> None:
        """Raise unless all arrays fit the guesses."""
        shape = tuple(guesses[0].shape)
        for i, x in enumerate((*guesses, *(out or ()))):
            if tuple(x.shape) != shape:
                what = f"guess {i + 1}" if i < len(guesses) else "out"
                raise ValueError(
                    f"Cannot run {name_of(formula)}: expected {what} of shape {shape}, that of guess 1, "
                    f"got shape {tuple(x.shape)}."
                )
        for i, x in enumerate(arguments):
            if isinstance(x, self.xp.ndarray):
                check_numbers(formula, i, x)
            if isinstance(x, self.xp.ndarray) and (rows or x.size != 1) and not fits(tuple(x.shape), shape, rows):
                raise wrong_shape(formula, argument_in_words(formula, i), x, shape, rows)

    def _arranged(self, x: Any, rows: bool) -> Any:
        """An argument as a replay takes it: numbers of rows as a column, one number without axes."""
        if not isinstance(x, self.xp.ndarray):
            return x
        x = self.xp.asarray(x)  # a subclass may have other rules
        if rows:
            return x[:, None] if x.ndim == 1 else x
        return x.reshape(()) if x.size == 1 else x

    def as_weight(self, weight: Any) -> Any:
        """A weight that is one number as a float, whatever NumPy made of it."""
        return float(weight) if isinstance(weight, (np.generic, int)) else weight

    def _argument_type(self, x: Any, rows: bool) -> Any:
        """What a formula is traced for, as a `Request` has it."""
        if x is None:
            return None
        if isinstance(x, (float, np.floating)):
            return float
        if not isinstance(x, self.xp.ndarray):
            return constant(x)
        if x.ndim == 0 or x.size == 1 and not rows:
            return array_type(x.dtype.name, NUMBER) if self.on_device else float
        return array_type(x.dtype.name, ROW if rows and x.ndim == 1 else ELEMENT)

    @without_float_warnings
    def all_hold(self, domain: Any, array: Array) -> bool:
        """Whether all numbers of an array lie in a domain; waits for a device."""
        return bool(domain.holds_all(array))

    def sum_by_column(self, values: Array, columns: Array, width: int) -> Array:
        """Sums of the values (N, L) of each row that belong to each of `width` columns (N, L)."""
        total, rows = self.xp.zeros((len(values), width), values.dtype), self.xp.arange(len(values))
        for i in range(values.shape[1]):
            total[rows, columns[:, i]] += values[:, i]
        return total

    def align(
        self,
        log_probs: Array,
        states: Array,
        can_skip: Array,
        frames: Array,
        last: Array,
        grads: Array | None,
        logits: bool,
        out: Array | None,
    ) -> Array:
        """Log-likelihoods (N,) of the targets of N sequences, summed over all alignments; the gradient into `out`.

        log_probs, out: (T, N, C), out of any float dtype.   states: (N, S) classes, a blank around every label.
        can_skip: (N, S), whether a state may be entered from two before it.   frames: (N,) of each sequence.   last:
        (N,) index of the final blank.   grads: (N,) with respect to minus the log-likelihoods; where it is 0, or a
        target cannot be aligned, the gradient is 0.   logits: the gradient is that in the logits.
        """
        return self.run_alignment(Alignment(log_probs, states, can_skip, frames, last, grads, logits, out))

    def run_alignment(self, alignment: Alignment) -> Array:
        """As `align`: what backends override."""
        return align(self, alignment)
