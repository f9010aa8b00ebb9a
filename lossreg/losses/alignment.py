"""The loss of a sequence whose alignment with the guesses is not known: connectionist temporal classification."""

from __future__ import annotations

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
from ..pipeline.evaluation import Needs, Truths
from ..pipeline.guesses import Batch
from ..pipeline.reduced import ReducedLoss
from ..pipeline.weights import Weights

__all__ = ["CTC"]


@dataclass(frozen=True)
class _Alignment:
    """Targets with blanks around every label: states (N, 2 S + 1), on the guesses' backend."""

    states: Array
    skips: Array
    """Whether the state two before leads here: both labels, and not the same one."""
    frames: Array
    """Number of frames of each sequence, (N,)."""
    last: Array
    """Index of the last state, the final blank, (N,)."""


@dataclass(eq=False)
class _PaddedBatch(Batch):
    """Sequences side by side, (T, N, C), made of a list of (Ti, C) or of a Ragged."""

    parts: Batch = field(kw_only=True)
    place_of: tuple[Array, Array] = field(kw_only=True)
    """(frame, sequence) of each item of the parts."""

    def gradient_arrays(self, out: Any, read: tuple[Any, ...]) -> list[Array]:
        """Padded; sequences have no `out`."""
        self.parts.gradient_arrays(out, read)
        return super().gradient_arrays(None, read)

    def finish(self, grads: list[Array], out: Any) -> Any:
        """As the sequences are arranged."""
        return self.parts.restore([grads[0][self.place_of]])


class WrtOption(Configurable):
    """wrt: what the gradient is with respect to; behind the common options, whose positions other libraries share."""

    wrt: Literal["log_probs", "logits"] = "log_probs"


@register("CTC.v1", alias="ctc")
class CTC(ReducedLoss, WrtOption):
    """Negative log-likelihood of a target, summed over all its alignments with the frames.

        value = -log sum over paths of prod_t p_t(path_t)
        slope in log p_t(c) = -(probability that the path is at c at time t, given the target)
        slope in logits     = p_t(c) + slope in log p_t(c),   where log p = log_softmax(logits)

    A path names a class or the blank for each frame; without repeats and blanks it is the target. The sums run forward
    and backward over time in log space and float64. Frames past the end of a sequence have slope 0. A target that does
    not fit its frames has value inf and slope 0; with zero_infinity both are 0. "mean" is the mean over the sequences
    of value / max(1, length of the target).
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
        lengths, (items,) = np.array(parts.lengths, int), parts.arrays
        if items.ndim != 2:
            raise fail(name, "guesses of a sequence", "of shape (Ti, C)", f"shape {items.shape}")
        ops, ends = parts.ops, np.cumsum(lengths)
        frames = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        place = ops.asarray(frames), ops.asarray(np.repeat(np.arange(len(lengths)), lengths))
        classes = items.shape[1] if parts.lengths else max(items.shape[1], self.blank + 1)  # an empty list has no say
        padded = ops.xp.zeros((int(lengths.max(initial=0)), len(lengths), classes), items.dtype)
        if len(items):
            padded[place] = items
        batch = Batch.read(name, padded, self.inputs, self.layout)
        return _PaddedBatch(**vars(batch), parts=parts, place_of=place)

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """States of the alignments, and 1 / length of the target where a mean divides by it."""
        frames, n, classes = batch.arrays[0].shape
        if self.blank >= classes:
            raise fail(batch.name, "blank", f"in [0, {classes}) (the classes of guesses)", str(self.blank))
        targets, lengths = self._targets(batch, truths, frames, n)
        inside = np.arange(targets.shape[1]) < lengths[1][:, None]
        bad = first_bad(((targets < 0) | (targets >= classes) | (targets == self.blank)) & inside)
        if bad is not None:
            expected = f"in [0, {classes}) and not the blank, {self.blank}"
            raise fail(batch.name, "target ids", expected, f"{targets[bad]} in {batch.place(bad[0])}")
        states = np.full((n, 2 * targets.shape[1] + 1), self.blank, np.int64)
        states[:, 1::2] = np.where(inside, targets, self.blank)
        skips = np.zeros(states.shape, bool)
        skips[:, 2:] = (states[:, 2:] != self.blank) & (states[:, 2:] != states[:, :-2])
        asarray = batch.ops.asarray
        alignment = _Alignment(asarray(states), asarray(skips), asarray(lengths[0]), asarray(2 * lengths[1]))
        weight = None
        if self.reduction == "mean":
            weight = asarray(1.0 / np.maximum(lengths[1], 1))
        return Truths(alignment, weight=weight)

    def _targets(self, batch: Batch, truths: Any, frames: int, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Targets (N, S), and the lengths of frames and targets; 0 for what the mask leaves out."""
        most_frames = np.full(n, frames)
        if isinstance(batch, _PaddedBatch):
            most_frames = np.array(batch.parts.lengths, int)
            truths = truths if isinstance(truths, tuple) else (truths, None, None)
        if not isinstance(truths, tuple) or len(truths) != 3:
            raise fail(batch.name, "truths", "to be a tuple (targets, input_lengths, target_lengths)", describe(truths))
        ids, input_lengths, target_lengths = truths
        input_lengths = most_frames if input_lengths is None else input_lengths
        own_lengths = None
        if is_ragged(ids):
            ids, own_lengths = read_ragged(batch.name, "targets", ids)
        if target_lengths is None:
            target_lengths = self._lengths_of(batch, ids, n) if own_lengths is None else own_lengths
        names, given = ("input_lengths", "target_lengths"), (input_lengths, target_lengths)
        lengths = [self._lengths(batch, what, value, n) for what, value in zip(names, given)]
        targets = self._padded(batch, ids, lengths[1], n)
        if batch.kept is not None and not batch.ops.on_device:
            lengths = [np.where(batch.kept.reshape(n), length, 0) for length in lengths]
        for what, length, most in zip(names, lengths, (most_frames, np.full(n, targets.shape[1]))):
            bad = first_bad((length < 0) | (length > most))
            if bad is not None:
                raise fail(batch.name, what, f"in [0, {most[bad]}]", f"{length[bad]} in {batch.place(bad[0])}")
        return targets, lengths

    def _lengths(self, batch: Batch, what: str, value: Any, n: int) -> np.ndarray:
        lengths = np.asarray(on_host(value) if hasattr(value, "dtype") else value)
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
            longest = max(map(len, value))
            rows = [on_host(part).tolist() if hasattr(part, "dtype") else part for part in value]
            value = [[*row, *[self.blank] * (longest - len(row))] for row in rows]
        targets = np.asarray(on_host(value) if hasattr(value, "dtype") else value)
        if targets.size == 0:
            targets = targets.reshape(n, 0).astype(np.int64)
        if targets.dtype.kind not in "iu":
            raise fail(batch.name, "targets", "of integer ids", describe(value))
        if targets.ndim == 2 and len(targets) == n:
            return targets.astype(np.int64)
        if targets.ndim == 1 and len(batch.shape) == 2:
            return targets[None].astype(np.int64)
        if targets.ndim != 1 or lengths.min(initial=0) < 0 or len(targets) != lengths.sum():
            expected = f"of shape ({n}, S), or one behind the other, {int(lengths.sum())} in all"
            raise fail(batch.name, "targets", expected, describe(value))
        padded = np.zeros((n, int(lengths.max(initial=0))), np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = targets
        return padded

    @without_float_warnings
    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """The slope of each value is known before the pass, so that likelihoods and gradient come out of one."""
        ops, xp, items, alignment = batch.ops, batch.ops.xp, weights.items, truths.targets
        n = batch.arrays[0].shape[1]
        slopes = None
        if out is not None:
            slopes = xp.ones(n) * weights.scale
            if items is not None:
                slopes = ops.weighted(slopes, xp.broadcast_to(items, batch.values_shape).reshape(n))
        likelihood = ops.align(
            batch.arrays[0],
            alignment.states,
            alignment.skips,
            alignment.frames,
            alignment.last,
            slopes,
            self.wrt == "logits",
            None if out is None else out[0],
        )
        values = xp.where(likelihood == -np.inf, 0.0 if self.zero_infinity else np.inf, -likelihood)
        values = values.reshape(batch.values_shape)
        return (
            ops.weighted(values, items) if needs.values else None,
            ops.total(values, items) if needs.total else None,
        )


def _is_target(value: Any) -> bool:
    """Whether a value is a row of ids."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
