"""Padded batches of sequences, (B, T, ...), for every calculator of items."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..arrays.ragged import Ragged, is_ragged, read_ragged
from ..checks import describe, fail
from ..config.options import Problem, replaced
from ..config.resolve import register
from ..ops import Array
from ..pipeline.evaluation import Call, Evaluation, Needs, TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.layouts import Time, layout_of
from ..pipeline.loss import Loss
from ..pipeline.plain import PlainItems
from ..pipeline.reduced import Inputs, ReducedLoss
from ..pipeline.weights import NormalizeBy, Reduction, Weights
from ..states.averages import LossState

__all__ = ["Sequence"]


@register("Sequence.v1")
class Sequence(ReducedLoss):
    """A calculator of items over padded batches of sequences.

        loss(guesses (B, T, ...), truths (B, T, ...)) = inner(guesses (B T, ...), truths (B T, ...))

    Each of the B sequences has T items, and an item is what the inner calculator takes along its first axis: classes
    and vectors lie along the last axis. All items go through it in one pass and without a copy, as those of a `Ragged`
    with B sequences, so that "batch_mean" and "sequence_mean" mean these.
    Truths, mask and sample_weight are arrays (B, T, ...), or lists of B parts, or a Ragged, with at most T items each.
    What a part lacks is left out: those items are as good as deleted, and their gradient is 0.
    Shapes: guesses, grad, values (B, T, ...); lists of sequences and a Ragged are handed on as they are.
    Gradient with respect to: as the inner calculator has it.
    Errors: ConfigError for a calculator that takes whole sequences itself, such as CTC.
    Source: the inner calculator, whose numbers these are.

    inner: the calculator of items.   reduction, normalize_by, validate: in place of its own, where they are given.
    """

    inner: Loss = dataclasses.field(kw_only=False)
    reduction: Reduction | None = None  # type: ignore[assignment]
    normalize_by: NormalizeBy | None = None  # type: ignore[assignment]
    validate: Literal["auto", "full", "shape"] | None = None  # type: ignore[assignment]

    def check_options(self) -> Iterable[Problem]:
        """A calculator whose first axis is that of items."""
        name = type(self.inner).__name__
        if isinstance(self.inner, ReducedLoss):
            if isinstance(layout_of(self.inner.layout), Time):
                got = f"{name}, which takes lists of sequences and (T, B, C)"
                yield "inner", f"should be a calculator of items, got {got}"
            return
        for option in self._given():
            yield option, f"cannot be used with {name}, which has get_grad and get_loss alone"

    def _given(self) -> dict[str, Any]:
        """The options that are given here."""
        names = ("reduction", "normalize_by", "validate")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @functools.cached_property
    def calculator(self) -> ReducedLoss:
        """The inner calculator with the options that are given here."""
        if not isinstance(self.inner, ReducedLoss):
            return PlainItems(self.inner)
        given = self._given()
        return replaced(self.inner, **given) if given else self.inner

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the inner calculator."""
        return self.calculator.inputs

    @property
    def truth_inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the inner calculator."""
        return self.calculator.truth_inputs

    @property
    def returns_state(self) -> bool:
        """As the inner calculator."""
        return self.calculator.returns_state

    @property
    def returns_values(self) -> bool:
        """As the inner calculator."""
        return self.calculator.returns_values

    def empty(self) -> LossState:
        """The state of no data; states are those of the inner calculator."""
        return self.calculator.empty()

    def read_guesses(self, guesses: Any) -> Batch:
        """As the inner calculator reads sequences."""
        return self.calculator.read_guesses(guesses)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """As the inner calculator reads those of sequences."""
        return self.calculator.read_truths(batch, truths, check)

    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """By the inner calculator."""
        return self.calculator.compute(batch, truths, weights, needs, out)

    @functools.cached_property
    def _unreduced(self) -> ReducedLoss:
        return Sequence(self.calculator._unreduced)

    def values_like(self, guesses: Any) -> Any:
        """Zeros that are arranged as the values are."""
        if _has_sequences(guesses):
            return self.calculator.values_like(guesses)
        flat, padding = self._flattened(Call(guesses, None))
        return padding.padded(self.calculator.values_like(flat.guesses).data)

    def check_shapes(self, call: Call) -> None:
        """As the inner calculator, of whose shapes nothing is known if it has `get_grad` and `get_loss` alone."""
        if not isinstance(self.calculator, PlainItems):
            super().check_shapes(call)

    def read(self, call: Call) -> Inputs:
        """As the inner calculator reads items."""
        if not _has_sequences(call.guesses):
            call, _ = self._flattened(call)
        return self.calculator.read(call)

    def evaluate(self, call: Call, needs: Needs) -> Evaluation:
        """As the inner calculator on a Ragged, whose data are the padded arrays."""
        if call.has_external_arrays():
            return self._evaluate_external(call, needs)
        if _has_sequences(call.guesses):
            return self.calculator.evaluate(call, needs)

        flat, padding = self._flattened(call)
        batch = padding.batch
        evaluation = self.calculator.evaluate(flat, needs)
        if needs.values:
            evaluation.result = padding.padded(evaluation.result.data)
        if needs.grad:
            ragged = evaluation.grads if batch.is_tuple else (evaluation.grads,)
            evaluation.grads = batch.finish([padding.padded(x.data) for x in ragged], call.out)
        return evaluation

    def _flattened(self, call: Call) -> tuple[Call, _Padding]:
        """The call for all items that are taken, and the way back to padded arrays."""
        batch = Batch.read(type(self).__name__, call.guesses, self.inputs, "elements")
        if call.out is not None:
            batch.gradient_arrays(call.out, ())  # for its errors
        beside = {"truths": call.truths, "mask": call.mask, "sample_weight": call.sample_weight}
        padding = self._padding(batch, beside)
        guesses = tuple([padding.ragged(x) for x in batch.arrays])
        flat = Call(
            guesses if batch.is_tuple else guesses[0],
            padding.beside("truths", call.truths, broadcast=False),
            padding.beside("mask", call.mask, broadcast=True),
            padding.beside("sample_weight", call.sample_weight, broadcast=True),
            output_grad=padding.beside("output_grad", call.output_grad, broadcast=False),
        )
        return flat, padding

    def _padding(self, batch: Batch, beside: dict[str, Any]) -> _Padding:
        """The sizes of padded guesses, and the lengths of what lies beside them."""
        axes = 2 + layout_of(self.calculator.layout).axes_of_value
        sizes = batch.shape[:2]
        for shape in batch.shapes:
            if len(shape) < axes or shape[:2] != sizes:
                expected = f"of shape (B, T, ...), with {axes} axes or more and B and T alike"
                raise fail(batch.name, "guesses", expected, " and ".join(map(str, batch.shapes)))
        padding = _Padding(batch, sizes[0], sizes[1])
        found = [n for n in (padding.lengths_of(what, value) for what, value in beside.items()) if n is not None]
        lengths = np.min([(padding.longest,) * padding.sequences, *found], axis=0)
        return padding if (lengths == padding.longest).all() else replace(padding, lengths=tuple(lengths.tolist()))


def _has_sequences(guesses: Any) -> bool:
    """Whether guesses are lists of sequences or a Ragged, and no padded arrays."""
    outputs = guesses if isinstance(guesses, tuple) else (guesses,)
    return any(isinstance(x, list) or is_ragged(x) for x in outputs)


@dataclass(eq=False)
class _Padding:
    """The way from (B, T, ...) to one flat axis of items, and back."""

    batch: Batch
    sequences: int
    longest: int
    lengths: tuple[int, ...] | None = None
    """How many items of each sequence are taken; None: all."""

    @functools.cached_property
    def inside(self) -> Any:
        """Indices of the items that are taken among all B T."""
        lengths = np.array(self.lengths, int)
        starts = self.longest * np.arange(self.sequences) - (np.cumsum(lengths) - lengths)
        return np.arange(lengths.sum()) + np.repeat(starts, lengths)

    def flat(self, array: Array) -> Array:
        """The items that are taken of (B, T, ...), one behind the other."""
        items = array.reshape(self.sequences * self.longest, *array.shape[2:])
        if self.lengths is None:
            return items
        return items[self.inside if isinstance(items, np.ndarray) else self.batch.ops.asarray(self.inside)]

    def ragged(self, array: Array) -> Ragged:
        """Those items in sequences."""
        return Ragged(self.flat(array), self.lengths or (self.longest,) * self.sequences)

    def padded(self, items: Array) -> Array:
        """(B, T, ...) again, 0 where nothing was taken."""
        if self.lengths is not None:
            ops = self.batch.ops
            every = ops.xp.zeros((self.sequences * self.longest, *items.shape[1:]), items.dtype)
            every[ops.asarray(self.inside)] = items
            items = every
        return items.reshape(self.sequences, self.longest, *items.shape[1:])

    def lengths_of(self, what: str, value: Any) -> tuple[int, ...] | None:
        """How many items of each sequence a list or a Ragged has; None for what is no list."""
        name, sizes = self.batch.name, (self.sequences, self.longest)
        if is_ragged(value):
            lengths = read_ragged(name, what, value)[1]
        elif isinstance(value, (list, tuple)):
            sized = all(hasattr(x, "__len__") and not isinstance(x, str) and getattr(x, "shape", (0,)) for x in value)
            lengths = tuple(map(len, value)) if sized else ()
        else:
            return None
        if len(lengths) != sizes[0] or max(lengths, default=0) > sizes[1]:
            raise fail(name, what, f"to have {sizes[0]} parts, each of at most {sizes[1]} items", describe(value))
        return lengths

    def beside(self, what: str, value: Any, broadcast: bool) -> Any:
        """Truths, mask or weights of the items that are taken."""
        if is_ragged(value) and self.lengths is not None:
            data, lengths = read_ragged(self.batch.name, what, value)
            value = [data[end - length : end] for end, length in zip(np.cumsum(lengths).tolist(), lengths)]
        if isinstance(value, (list, tuple)) and self.lengths is not None:
            return [part[:length] for part, length in zip(value, self.lengths)]
        if not getattr(value, "shape", ()) or not hasattr(value, "dtype"):
            return value
        sizes = (self.sequences, self.longest)
        if broadcast and len(value.shape) >= 2:
            ones = all(n in (1, size) for n, size in zip(value.shape, sizes))
            xp = np if isinstance(value, np.ndarray) else self.batch.ops.xp
            value = xp.broadcast_to(value, (*sizes, *value.shape[2:])) if ones else value
        if tuple(value.shape[:2]) != sizes:
            raise fail(self.batch.name, what, f"of shape {sizes} or ({sizes[0]}, {sizes[1]}, ...)", describe(value))
        return self.flat(value)
