"""Connectionist temporal classification: sums over all alignments, forward and backward over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Alignment", "align", "backward", "forward", "posterior"]

LOG_ZERO = -math.inf


@dataclass(frozen=True)
class Alignment:
    """Sequences and the targets that are aligned with them: the arguments of `Ops.align`, which says what they are."""

    log_probs: Any
    states: Any
    can_skip: Any
    frames: Any
    last: Any
    grads: Any
    logits: bool
    out: Any


# The recurrences are formulas: NumPy runs them on arrays, and LLVM and CUDA text is written from what they record.


def forward(xp: Any, here: Any, one: Any, two: Any, can_skip: Any, emit: Any) -> Any:
    """Log-probability of all beginnings that end in a state at a frame.

    They came from the state itself, from the one before it, or where it `can_skip` one from the one before that.
    """
    return _sum_logs(xp, here, one, xp.where(can_skip, two, LOG_ZERO)) + emit


def backward(xp: Any, here: Any, one: Any, two: Any, can_skip: Any) -> Any:
    """Log-probability of all endings after a frame, from what the next frame's states say, their own emission in."""
    return _sum_logs(xp, here, one, xp.where(can_skip, two, LOG_ZERO))


def posterior(xp: Any, alpha: Any, beta: Any, likelihood: Any) -> Any:
    """The fraction of the alignments that are in a state at a frame: its probability, given the target."""
    return xp.exp(alpha + beta - likelihood)


def _sum_logs(xp: Any, a: Any, b: Any, c: Any) -> Any:
    """log(e^a + e^b + e^c), where -inf is a term that is not there."""
    largest = xp.maximum(xp.maximum(a, b), c)
    # -inf less -inf would be NaN.
    safe = xp.where(largest == LOG_ZERO, 0.0, largest)
    return xp.log(xp.exp(a - safe) + xp.exp(b - safe) + xp.exp(c - safe)) + safe


def align(ops: Any, alignment: Alignment) -> Any:
    """As `Ops.align`, for all sequences at once; the loop is over time."""
    return _BatchAlignment(ops, alignment).run()


class _BatchAlignment:
    """The sums over time, with arrays (N, S) of the states of all sequences."""

    def __init__(self, ops: Any, alignment: Alignment) -> None:
        self.ops, self.xp, self.alignment = ops, ops.xp, alignment
        xp, states = ops.xp, alignment.states
        self.time, n, self.classes = alignment.log_probs.shape
        rows, width = xp.arange(n)[:, None], states.shape[1]
        self.emit = [x.astype(np.float64)[rows, states] for x in alignment.log_probs]
        """Of each frame, the log-probabilities of the states' classes."""
        self.index = xp.arange(width)[None, :]
        self.last = alignment.last[:, None]
        self.impossible = xp.full((n, width), LOG_ZERO)

    def run(self) -> Any:
        """The log-likelihoods; the gradient is stored."""
        alphas, ends = self.forward_sums()
        likelihood = self.likelihood(ends)
        if self.alignment.out is not None:
            self.store_gradient(alphas, likelihood)
        return likelihood

    def forward_sums(self) -> tuple[list[Any], Any]:
        """What `forward` says of each frame, and of the last frame of each sequence."""
        xp, can_skip, frames = self.xp, self.alignment.can_skip, self.alignment.frames
        # Before the first frame the path stands in the first state: it may enter the first two.
        alpha = xp.where(self.index == 0, 0.0, self.impossible)
        alphas, ends = [], alpha
        for t in range(self.time):
            alpha = forward(xp, alpha, _shift(xp, alpha, 1), _shift(xp, alpha, 2), can_skip, self.emit[t])
            alphas.append(alpha)
            ends = xp.where((frames == t + 1)[:, None], alpha, ends)
        return alphas, ends

    def likelihood(self, ends: Any) -> Any:
        """The sum over both ways to end: in the final blank, and in the last label."""
        xp = self.xp
        blank, label = (xp.max(xp.where(self.index == self.last - back, ends, LOG_ZERO), axis=1) for back in (0, 1))
        return _sum_logs(xp, blank, label, self.impossible[:, 0])

    def store_gradient(self, alphas: list[Any], likelihood: Any) -> None:
        """Backward over time: the gradient of a frame needs both sums over the alignments that pass through it."""
        xp, alignment, frames, grads = self.xp, self.alignment, self.alignment.frames, self.alignment.grads
        is_final = (self.index == self.last) | (self.index == self.last - 1)
        ends = xp.where(is_final, 0.0, LOG_ZERO)
        safe = xp.where(likelihood == LOG_ZERO, 0.0, likelihood)[:, None]
        has_gradient = (grads != 0) & (likelihood != LOG_ZERO)
        next_can_skip = _shift(xp, alignment.can_skip, -2, False)

        beta = self.impossible
        for t in reversed(range(self.time)):
            if t + 1 < self.time:
                onward = beta + self.emit[t + 1]
                beta = backward(xp, onward, _shift(xp, onward, -1), _shift(xp, onward, -2), next_can_skip)
            beta = xp.where((frames == t + 1)[:, None], ends, beta)

            # Frames past the end, and targets that do not fit, have gradient 0, whatever was computed of them.
            is_valid = (has_gradient & (frames > t))[:, None]
            fraction = xp.where(is_valid, posterior(xp, alphas[t], beta, safe), 0.0)
            grad = -self.ops.sum_by_column(fraction, alignment.states, self.classes)
            if alignment.logits:
                probs = xp.exp(alignment.log_probs[t].astype(np.float64))
                grad = grad + probs * xp.sum(fraction, axis=1)[:, None]
            alignment.out[t] = xp.where(is_valid, grad * grads[:, None], 0.0)


def _shift(xp: Any, x: Any, by: int, fill: Any = LOG_ZERO) -> Any:
    """Columns moved to the right (or left, by < 0), with `fill` where none comes from."""
    moved = xp.full(x.shape, fill, x.dtype)
    if by > 0:
        moved[:, by:] = x[:, :-by]
    else:
        moved[:, :by] = x[:, -by:]
    return moved
