"""The loss of a sequence whose alignment with the guesses is not known: connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from ..arrays.ragged import is_ragged, read_ragged
from ..checks import describe, fail, first_bad, on_host
from ..config.options import Configurable
from ..config.resolve import register
from ..ops import Array
from ..ops.base import without_float_warnings
from ..pipeline.evaluation import Needs, TargetBatch
from ..pipeline.guesses import Batch
from ..pipeline.reduced import ReducedLoss
from ..pipeline.weights import Weights

__all__ = ["CTC"]


@dataclass(frozen=True)
class _Alignment:
    """Targets with a blank around every label, as the states that a path walks through; on the guesses' backend."""

    states: Array
    """Classes, (N, 2 S + 1)."""
    can_skip: Array
    """Whether a path may come from the state two before: both are labels, and not the same one."""
    frames: Array
    """Number of frames of each sequence, (N,)."""
    last: Array
    """Index of the last state, the final blank, (N,)."""


@dataclass(eq=False)
class _PaddedBatch(Batch):
    """Sequences side by side, (T, N, C), from a list of (Ti, C) or a Ragged."""

    parts: Batch = field(kw_only=True)
    """The sequences one behind the other."""
    position_of: tuple[Array, Array] = field(kw_only=True)
    """(frame, sequence) of each item of the parts."""

    def gradient_arrays(self, out: Any, read: tuple[Any, ...]) -> list[Array]:
        """Padded; sequences have no `out`."""
        self.parts.gradient_arrays(out, read)
        return super().gradient_arrays(None, read)

    def finish(self, grads: list[Array], out: Any) -> Any:
        """As the sequences are arranged."""
        return self.parts.restore([grads[0][self.position_of]])


class WrtOption(Configurable):
    """wrt: what the gradient is with respect to; behind the common options, whose positions other libraries share."""

    wrt: Literal["log_probs", "logits"] = "log_probs"


@register("CTC.v1", alias="ctc")
class CTC(ReducedLoss, WrtOption):
    """Negative log-likelihood of a target, summed over all its alignments with the frames.

        value = -log sum over paths of prod_t p_t(path_t)
        gradient in log p_t(c) = -(probability that the path is at c at time t, given the target)
        gradient in logits     = p_t(c) + gradient in log p_t(c),   where log p = log_softmax(logits)

    A path names a class or the blank for each frame; without repeats and blanks it is the target. The sums run forward
    and backward over time in log space and float64. Frames past the end of a sequence have gradient 0. A target that
    does not fit its frames has value inf and gradient 0; with zero_infinity both are 0. "mean" is the mean over the
    sequences of value / max(1, length of the target).
    Shapes: guesses, grad (T, N, C) or (T, C), log-probabilities, or a list of N arrays (Ti, C) or a Ragged; truths a
    tuple (targets, input_lengths, target_lengths): targets (N, S), padded with anything, lists of uneven lengths, or
    one behind the other (sum of lengths,), ids other than blank; lengths (N,) or (), None for all frames and for the
    whole of each target. Beside a list or a Ragged of guesses the targets alone will do.
    Gradient with respect to: `wrt`.
    Errors: ValueError for a blank or an id out of range in a target, lengths that do not fit.
    Source: Graves et al. (2006), doi:10.1145/1143844.1143891; values as torch.nn.CTCLoss, whose gradient is that of
    wrt "logits".

    blank: id of the blank.   zero_infinity: see above.   wrt: "log_probs" or "logits".
    """

    blank: Annotated[int, Ge(0)] = 0
    zero_infinity: bool = False

    layout = "time"
    truth_inputs = ("targets", "input_lengths", "target_lengths")

    def read_guesses(self, guesses: Any) -> Batch:
        """(T, N, C), to which sequences are padded."""
        if not isinstance(guesses, list) and not is_ragged(guesses):
            return super().read_guesses(guesses)
        name = type(self).__name__
        parts = Batch.read(name, guesses, self.inputs, "elements")
        ops, lengths, (items,) = parts.ops, np.array(parts.lengths, int), parts.arrays
        if items.ndim != 2:
            raise fail(name, "guesses of a sequence", "of shape (Ti, C)", f"shape {items.shape}")
        # Item i of sequence j goes to (i, j).
        starts = np.cumsum(lengths) - lengths
        frames = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        sequences = np.repeat(np.arange(len(lengths)), lengths)
        position_of = ops.asarray(frames), ops.asarray(sequences)
        classes = items.shape[1]
        if not parts.lengths:  # an empty list has no class count
            classes = max(classes, self.blank + 1)
        padded = ops.xp.zeros((int(lengths.max(initial=0)), len(lengths), classes), items.dtype)
        if len(items):
            padded[position_of] = items
        batch = Batch.read(name, padded, self.inputs, self.layout)
        return _PaddedBatch(**vars(batch), parts=parts, position_of=position_of)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """States of the alignments, and 1 / length of the target where a mean divides by it."""
        frames, n, classes = batch.arrays[0].shape
        if self.blank >= classes:
            raise fail(batch.name, "blank", f"in [0, {classes}) (the classes of guesses)", str(self.blank))
        targets, frame_counts, target_lengths = self._targets(batch, truths, frames, n)
        inside = np.arange(targets.shape[1]) < target_lengths[:, None]
        bad = first_bad(((targets < 0) | (targets >= classes) | (targets == self.blank)) & inside)
        if bad is not None:
            expected = f"in [0, {classes}) and not the blank, {self.blank}"
            raise fail(batch.name, "target ids", expected, f"{targets[bad]} in {batch.describe_index(bad[0])}")

        # Blank, label, blank, label, ..., blank.
        states = np.full((n, 2 * targets.shape[1] + 1), self.blank, np.int64)
        states[:, 1::2] = np.where(inside, targets, self.blank)
        can_skip = np.zeros(states.shape, bool)
        can_skip[:, 2:] = (states[:, 2:] != self.blank) & (states[:, 2:] != states[:, :-2])
        asarray = batch.ops.asarray
        last = 2 * target_lengths
        alignment = _Alignment(asarray(states), asarray(can_skip), asarray(frame_counts), asarray(last))
        weight = None
        if self.reduction == "mean":
            weight = asarray(1.0 / np.maximum(target_lengths, 1))
        return TargetBatch(alignment, weight=weight)

    def _targets(self, batch: Batch, truths: Any, frames: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(targets (N, S), number of frames of each sequence, length of each target); no frames where masked."""
        most_frames = np.full(n, frames)
        if isinstance(batch, _PaddedBatch):
            most_frames = np.array(batch.parts.lengths, int)
            if not isinstance(truths, tuple):
                truths = (truths, None, None)
        if not isinstance(truths, tuple) or len(truths) != 3:
            raise fail(batch.name, "truths", "to be a tuple (targets, input_lengths, target_lengths)", describe(truths))
        ids, input_lengths, target_lengths = truths
        own_lengths = None
        if is_ragged(ids):
            ids, own_lengths = read_ragged(batch.name, "targets", ids)
        if input_lengths is None:
            input_lengths = most_frames
        if target_lengths is None:
            target_lengths = own_lengths
        if target_lengths is None:
            target_lengths = self._lengths_of(batch, ids, n)
        frame_counts = self._lengths(batch, "input_lengths", input_lengths, n)
        target_lengths = self._lengths(batch, "target_lengths", target_lengths, n)
        targets = self._padded(batch, ids, target_lengths, n)
        if batch.mask is not None and not batch.ops.on_device:
            # A masked sequence may have any truth: it gets the one that fits every sequence.
            mask = batch.mask.reshape(n)
            frame_counts, target_lengths = np.where(mask, frame_counts, 0), np.where(mask, target_lengths, 0)
        self._check_lengths(batch, "input_lengths", frame_counts, most_frames)
        self._check_lengths(batch, "target_lengths", target_lengths, np.full(n, targets.shape[1]))
        return targets, frame_counts, target_lengths

    def _check_lengths(self, batch: Batch, what: str, lengths: np.ndarray, most: np.ndarray) -> None:
        """Raise for a length that is negative or above the most of its sequence."""
        bad = first_bad((lengths < 0) | (lengths > most))
        if bad is not None:
            raise fail(batch.name, what, f"in [0, {most[bad]}]", f"{lengths[bad]} in {batch.describe_index(bad[0])}")

    def _lengths(self, batch: Batch, what: str, value: Any, n: int) -> np.ndarray:
        lengths = _host_array(value)
        if (lengths.dtype.kind not in "iu" and lengths.size) or lengths.size != n or lengths.ndim > 1:
            raise fail(batch.name, what, f"of {n} whole numbers", describe(value))
        return lengths.reshape(n).astype(np.int64)

    def _lengths_of(self, batch: Batch, targets: Any, n: int) -> Any:
        """The length of each target, where the caller does not give it."""
        if getattr(targets, "ndim", 0) == 2:
            return [targets.shape[1]] * len(targets)
        if isinstance(targets, (list, tuple)) and all(map(_is_target, targets)) and len(targets) == n:
            return list(map(len, targets))
        if _is_target(targets) and len(batch.shape) == 2:
            return len(targets)
        raise fail(batch.name, "targets", f"to be {n} rows of ids, or target_lengths beside them", describe(targets))

    def _padded(self, batch: Batch, value: Any, lengths: np.ndarray, n: int) -> np.ndarray:
        """Targets (N, S), also from lists of uneven lengths and from targets behind each other."""
        if isinstance(value, (list, tuple)) and value and all(map(_is_target, value)):
            value = self._filled(value)
        targets = _host_array(value)
        if targets.size == 0:  # an array of floats, if the list was empty
            targets = targets.reshape(n, 0).astype(np.int64)
        if targets.dtype.kind not in "iu":
            raise fail(batch.name, "targets", "of integer ids", describe(value))
        if targets.ndim == 2 and len(targets) == n:
            return targets.astype(np.int64)
        if targets.ndim == 1 and len(batch.shape) == 2:
            return targets[None].astype(np.int64)
        # What is left are targets one behind the other, cut by their lengths.
        if targets.ndim != 1 or lengths.min(initial=0) < 0 or len(targets) != lengths.sum():
            expected = f"of shape ({n}, S), or one behind the other, {int(lengths.sum())} in all"
            raise fail(batch.name, "targets", expected, describe(value))
        padded = np.zeros((n, int(lengths.max(initial=0))), np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = targets
        return padded

    def _filled(self, targets: Sequence[Any]) -> list[list[Any]]:
        """Targets of uneven lengths as rows of one length, with blanks behind the short ones."""
        longest = max(map(len, targets))
        rows = []
        for target in targets:
            row = on_host(target).tolist() if hasattr(target, "dtype") else target
            rows.append([*row, *[self.blank] * (longest - len(row))])
        return rows

    @without_float_warnings
    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """The derivative in each value is known before the pass, so one pass gives likelihoods and gradient."""
        ops, xp, alignment = batch.ops, batch.ops.xp, truths.targets
        value_weights = weights.items
        n = batch.arrays[0].shape[1]
        value_grads = None
        if out is not None:
            value_grads = xp.ones(n) * weights.scale
            if value_weights is not None:
                one_each = xp.broadcast_to(value_weights, batch.values_shape).reshape(n)
                value_grads = ops.weighted(value_grads, one_each)
        likelihood = ops.align(
            batch.arrays[0],
            alignment.states,
            alignment.can_skip,
            alignment.frames,
            alignment.last,
            value_grads,
            self.wrt == "logits",
            None if out is None else out[0],
        )
        # A target that does not fit its frames has no alignment at all.
        impossible = 0.0 if self.zero_infinity else np.inf
        values = xp.where(likelihood == -np.inf, impossible, -likelihood).reshape(batch.values_shape)
        weighted = total = None
        if needs.values:
            weighted = ops.weighted(values, value_weights)
        if needs.total:
            total = ops.total(values, value_weights)
        return weighted, total


def _host_array(value: Any) -> np.ndarray:
    """A list, or an array of any device, as an array of NumPy."""
    return np.asarray(on_host(value) if hasattr(value, "dtype") else value)


def _is_target(value: Any) -> bool:
    """Whether a value is a row of ids."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
