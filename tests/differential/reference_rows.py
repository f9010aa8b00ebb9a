"""Losses over classes, from the mathematics of their docstrings, in plain NumPy.

Truths come in one form: `Labels`, with the candidate set of each row as bools (R, C), or rows of numbers (R, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .parts import Parts, rowwise, times
from .reference_elements import product, sigmoid, softplus

__all__ = ["ROWS", "Labels"]


@dataclass
class Labels:
    """The truths of R rows of C classes."""

    members: np.ndarray | None = None
    """The candidate set of each row; for one label it has one member."""
    dense: np.ndarray | None = None
    """Numbers instead of labels."""
    present: np.ndarray | None = None
    """False where the truth is missing."""
    negated: np.ndarray | None = None
    """Where the label said what is wrong: Thinc's calculators treat these rows apart."""


def log_sum(x: Any, inside: Any) -> Any:
    """log of the sum of e^x over the classes inside."""
    x = np.where(inside, x, -np.inf)
    top = x.max(axis=-1, keepdims=True)
    safe = np.where(np.isinf(top), 0.0, top)
    return (np.log(np.exp(x - safe).sum(axis=-1, keepdims=True)) + safe)[..., 0]


def softmax(x: Any, inside: Any) -> Any:
    """The softmax of the classes inside. e^(x - log_sum) would have the rounding of log_sum in its exponent."""
    x = np.where(inside, x, -np.inf)
    top = x.max(axis=-1, keepdims=True)
    powers = np.exp(x - np.where(np.isinf(top), 0.0, top))
    return powers / powers.sum(axis=-1, keepdims=True)


def minus_log_share(x: Any, inside: Any) -> Any:
    """-log of the part of the softmax that lies inside: softplus of how far the rest lies above it."""
    return softplus(log_sum(x, ~inside) - log_sum(x, inside))


def class_weight(o: Any, classes: int) -> np.ndarray:
    weight = o.get("class_weight")
    return np.ones(classes) if weight is None else np.array(weight, float)


def set_weight(o: Any, members: np.ndarray) -> Any:
    """The mean of the class weights over the set, None without class weights."""
    if o.get("class_weight") is None:
        return None
    return (members * class_weight(o, members.shape[-1])).sum(axis=-1) / members.sum(axis=-1)


def set_terms(x: Any, members: Any) -> Any:
    """(value, slope, size of the slope) of -log(sum of p over the set)."""
    value = minus_log_share(x, members)
    outside = sigmoid(log_sum(x, ~members) - log_sum(x, members))[..., None]
    p = softmax(x, np.ones_like(members))
    single = members.sum(axis=-1, keepdims=True) == 1
    q = np.where(members, np.where(single, 1.0, softmax(x, members)), 0.0)
    slope = np.where(members, -q * outside, p)
    return value, slope


def dense_terms(x: Any, t: Any) -> Any:
    """(value, slope, size of the slope) of the sum of t_c * -log p_c; t broadcasts to the rows."""
    t = np.broadcast_to(t, x.shape)
    classes = x.shape[-1]
    if classes > 40:  # all pairs of classes would not fit
        log_p = x - log_sum(x, np.ones(x.shape, bool))[..., None]
        total_p = t.sum(axis=-1, keepdims=True) * softmax(x, np.ones(x.shape, bool))
        return product(t, -log_p).sum(axis=-1), total_p - t, total_p + t
    others = ~np.eye(classes, dtype=bool)
    rest = np.stack([log_sum(x, others[c]) for c in range(classes)], axis=-1)
    value = product(t, softplus(rest - x)).sum(axis=-1)
    p, not_p = np.exp(-softplus(rest - x)), np.exp(-softplus(x - rest))
    to_others, away = p * (t @ others.astype(float)), t * not_p
    return value, to_others - away, to_others + away


def softmax_terms(x: Any, truth: Labels, o: Any) -> Any:
    """(value, slope, size of the slope, divisor weight) of cross-entropy with smoothing e as PyTorch has it."""
    classes, e = x.shape[-1], o.get("label_smoothing", 0.0)
    w = class_weight(o, classes)
    if truth.dense is not None:
        return *dense_terms(x, w * (truth.dense * (1 - e) + e / classes)), None
    weight = set_weight(o, truth.members)
    a = (1 - e) * (np.ones(len(x)) if weight is None else weight)
    value, slope = set_terms(x, truth.members)
    value, slope = np.where(a == 0, 0.0, a * value), times(a[:, None], slope)
    size = abs(slope)
    if e:
        s = np.broadcast_to(w * e / classes, x.shape)
        more, more_slope, _ = dense_terms(x, s)
        value, slope = value + more, slope + more_slope
        # The documented terms: (sum of s) p and s, of which a confident row has the difference.
        size = size + s.sum(axis=-1, keepdims=True) * softmax(x, np.ones(x.shape, bool)) + s
    return value, slope, size, weight


def cross_entropy(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    value, slope, size, weight = softmax_terms(guesses[0], truth, o)
    return rowwise(value, slope, slope_sizes=(size,), present=truth.present, divisor_weight=weight)


def nll(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    (x,) = guesses
    w = truth.members * class_weight(o, x.shape[-1])
    weight = None if o.get("class_weight") is None else w.sum(axis=-1)
    value = np.where(w == 0, 0.0, -w * x).sum(axis=-1)  # reads the label alone: a NaN elsewhere is not seen
    return rowwise(value, -w, present=truth.present, divisor_weight=weight)


def probability_cross_entropy(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    """Version 4; smoothing as Thinc has it."""
    (p,) = guesses
    classes, logits = p.shape[-1], o.get("wrt", "logits") == "logits"
    w, least = class_weight(o, classes), info.tiny
    f = o.get("label_smoothing", 0.0) * classes / max(classes - 1, 1)
    members, s, weight = np.zeros(p.shape, bool), w * f / classes + np.zeros(p.shape), None
    a = np.zeros(len(p))
    if truth.dense is not None:
        s = w * truth.dense
    else:
        members, weight = truth.members, set_weight(o, truth.members)
        a = (1 - f) * (np.ones(len(p)) if weight is None else weight)
    inside = (p * members).sum(axis=-1)
    share = np.maximum(inside, least)[:, None]
    log_p = np.log(np.maximum(p, least))
    value = -a * np.log(share[:, 0]) - (s * log_p).sum(axis=-1)
    size = abs(a * np.log(share[:, 0])) + (s * abs(log_p)).sum(axis=-1)
    # A sum of probabilities near 1 has the rounding of its terms, and log keeps it.
    size = size + a * (members.sum(axis=-1) > 1)
    if not logits:
        slope = np.where(members, -a[:, None] / share, 0.0) - s / np.maximum(p, least)
        parts = rowwise(value, slope, size=size, present=truth.present, divisor_weight=weight)
        unbounded = parts.backward
        parts.backward = lambda u: tuple(np.clip(g, -info.most, info.most) for g in unbounded(u))
        return parts
    even = members / np.maximum(members.sum(axis=-1, keepdims=True), 1)
    q = np.where(inside[:, None] < least, even, members * p / share)
    total = (a + s.sum(axis=-1))[:, None]
    slope = p * total - a[:, None] * q - s
    sizes = p * total + a[:, None] * q + s
    return rowwise(value, slope, size=size, slope_sizes=(sizes,), present=truth.present, divisor_weight=weight)


def linear_cross_entropy(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    x, weight, *bias = guesses
    z = x @ weight.T
    z_size = abs(x) @ abs(weight).T
    for b in bias:
        z, z_size = z + b, z_size + abs(b)
    curve, cap = np.ones_like(z), o.get("softcap")
    if cap is not None:
        curve = 1 / np.cosh(z / cap) ** 2
        z = cap * np.tanh(z / cap)
    value, slope, size, divisor = softmax_terms(z, truth, o)
    factor = o.get("z_loss", 0.0)
    log_z = log_sum(z, np.ones(z.shape, bool))
    p = np.exp(z - log_z[:, None])
    value = value + factor * log_z**2
    slope_size = size + 2 * factor * abs(log_z)[:, None] * p
    slope = slope + 2 * factor * log_z[:, None] * p

    def backward(u: np.ndarray) -> tuple[np.ndarray, ...]:
        g, rows = times(u[:, None], slope * curve), np.where(u[:, None] == 0, 0.0, x)
        return (g @ weight, g.T @ rows, *(g.sum(axis=0) for _ in bias))

    def backward_size(u: np.ndarray) -> tuple[np.ndarray, ...]:
        # A logit is a sum of D products whose rounding the softmax keeps.
        g = abs(times(u[:, None], slope_size * curve)) * (1 + z_size)
        return (g @ abs(weight), g.T @ abs(x), *(g.sum(axis=0) for _ in bias))

    # What the rounding of a logit, at most D times that of its terms, makes of the value.
    size = abs(value) + (abs(slope * curve) * z_size).sum(axis=-1)
    return Parts(value, backward, size, backward_size, present=truth.present, divisor_weight=divisor)


def multi_margin(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    (x,), p, margin = guesses, o.get("p", 1), o.get("margin", 1.0)
    value, slope, size = np.zeros(len(x)), np.zeros(x.shape), np.zeros(len(x))
    classes = x.shape[-1]
    for row, y in enumerate(truth.members.argmax(axis=-1)):
        gap = np.maximum(0.0, margin - x[row, y] + x[row])
        gap[y] = 0.0
        value[row] = (gap**p).sum() / classes
        slope[row] = np.where(gap > 0, p * gap ** (p - 1), 0.0) / classes
        slope[row, y] = -slope[row].sum()
        size[row] = (abs(gap) ** (p - 1) * (gap > 0) * (abs(margin) + abs(x[row]) + abs(x[row, y]))).sum() / classes
    weight = None
    if o.get("class_weight") is not None:
        weight = (truth.members * class_weight(o, classes)).sum(axis=-1)
    sizes = np.where(slope == 0, 0.0, abs(slope).max(axis=-1, keepdims=True)) if p == 2 else abs(slope)
    return rowwise(value, slope, size=size, slope_sizes=(sizes,), present=truth.present, loss_weight=weight)


def multi_label_margin(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    (x,) = guesses
    inside = truth.members[:, :, None] & ~truth.members[:, None, :]  # (row, label, other class)
    gap = np.where(inside, 1 - (x[:, :, None] - x[:, None, :]), 0.0)
    active = np.where(inside, (gap > 0).astype(float), 0.0)
    classes = x.shape[-1]
    value = np.maximum(gap, 0.0).sum(axis=(1, 2)) / classes
    slope = (active.sum(axis=1) - active.sum(axis=2)) / classes
    size = (active * (1 + abs(x[:, :, None]) + abs(x[:, None, :]))).sum(axis=(1, 2)) / classes
    return rowwise(value, slope, size=size, present=truth.present)


def multi_label_soft_margin(guesses: Any, truth: Labels, o: Any, info: Any) -> Parts:
    (x,) = guesses
    t = truth.members.astype(float) if truth.dense is None else truth.dense
    w = class_weight(o, x.shape[-1]) / x.shape[-1]
    value = product(w * t, softplus(-x)) + product(w * (1 - t), softplus(x))
    yes, no = w * t * sigmoid(-x), w * (1 - t) * sigmoid(x)
    return rowwise(value.sum(axis=-1), no - yes, slope_sizes=(no + yes,), present=truth.present)


ROWS = {
    "CrossEntropy.v1": cross_entropy,
    "NLL.v1": nll,
    "CategoricalCrossentropy.v4": probability_cross_entropy,
    "SequenceCategoricalCrossentropy.v4": probability_cross_entropy,
    "LinearCrossEntropy.v1": linear_cross_entropy,
    "MultiMargin.v1": multi_margin,
    "MultiLabelMargin.v1": multi_label_margin,
    "MultiLabelSoftMargin.v1": multi_label_soft_margin,
}
