"""Connectionist temporal classification: sums over all alignments, forward and backward over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["align", "backward", "forward", "share_of"]

LOG_ZERO = -math.inf


def forward(xp: Any, here: Any, one: Any, two: Any, leaps: Any, emit: Any) -> Any:
    """Log-probability of all beginnings that end in a state at a frame.

    They came from the state itself, from the one before it, or where it `leaps` from the one before that.
    """
    return _sum_logs(xp, here, one, xp.where(leaps, two, LOG_ZERO)) + emit


def backward(xp: Any, here: Any, one: Any, two: Any, leaps: Any) -> Any:
    """Log-probability of all endings after a frame, from what the next frame's states say, their own emission in."""
    return _sum_logs(xp, here, one, xp.where(leaps, two, LOG_ZERO))


def share_of(xp: Any, alpha: Any, beta: Any, likelihood: Any) -> Any:
    """The share of the alignments that are in a state at a frame."""
    return xp.exp(alpha + beta - likelihood)


def _sum_logs(xp: Any, a: Any, b: Any, c: Any) -> Any:
    """log(e^a + e^b + e^c), where -inf is a term that is not there."""
    peak = xp.maximum(xp.maximum(a, b), c)
    safe = xp.where(peak == LOG_ZERO, 0.0, peak)
    return xp.log(xp.exp(a - safe) + xp.exp(b - safe) + xp.exp(c - safe)) + safe


def align(
    ops: Any,
    log_probs: Any,
    states: Any,
    leaps: Any,
    frames: Any,
    last: Any,
    slopes: Any,
    logits: bool,
    out: Any,
) -> Any:
    """As `Ops.align`, for all sequences at once; the loop is over time."""
    xp = ops.xp
    time, n, classes = log_probs.shape
    rows, width = xp.arange(n)[:, None], states.shape[1]
    emit = [x.astype(np.float64)[rows, states] for x in log_probs]
    index = xp.arange(width)[None, :]
    nothing = xp.full((n, width), LOG_ZERO)
    # before the first frame the path stands in the first state: it may enter the first two
    alpha = xp.where(index == 0, 0.0, nothing)
    alphas, ends = [], alpha
    for t in range(time):
        alpha = forward(xp, alpha, _shift(xp, alpha, 1), _shift(xp, alpha, 2), leaps, emit[t])
        alphas.append(alpha)
        ends = xp.where((frames == t + 1)[:, None], alpha, ends)
    final = (index == last[:, None]) | (index == last[:, None] - 1)
    blank, label = (xp.max(xp.where(index == last[:, None] - k, ends, LOG_ZERO), axis=1) for k in (0, 1))
    likelihood = _sum_logs(xp, blank, label, nothing[:, 0])
    if out is None:
        return likelihood
    beta = nothing
    safe = xp.where(likelihood == LOG_ZERO, 0.0, likelihood)[:, None]
    wanted = (slopes != 0) & (likelihood != LOG_ZERO)
    onward_leaps = _shift(xp, leaps, -2, False)
    for t in reversed(range(time)):
        if t + 1 < time:
            onward = beta + emit[t + 1]
            beta = backward(xp, onward, _shift(xp, onward, -1), _shift(xp, onward, -2), onward_leaps)
        beta = xp.where((frames == t + 1)[:, None], xp.where(final, 0.0, LOG_ZERO), beta)
        there = (wanted & (frames > t))[:, None]
        share = xp.where(there, share_of(xp, alphas[t], beta, safe), 0.0)
        grad = -ops.sum_by_column(share, states, classes)
        if logits:
            grad = grad + xp.exp(log_probs[t].astype(np.float64)) * xp.sum(share, axis=1)[:, None]
        out[t] = xp.where(there, grad * slopes[:, None], 0.0)
    return likelihood


def _shift(xp: Any, x: Any, by: int, fill: Any = LOG_ZERO) -> Any:
    """Columns moved to the right (or left, by < 0), with `fill` where none comes from."""
    moved = xp.full(x.shape, fill, x.dtype)
    if by > 0:
        moved[:, by:] = x[:, :-by]
    else:
        moved[:, :by] = x[:, -by:]
    return moved
