"""Losses of vectors and of alignments, from the mathematics of their docstrings, in plain NumPy."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from .parts import Parts, rowwise, times

__all__ = ["VECTORS"]

KINK = 16
"""Within so many roundings a kink may lie on either side."""


def dot(a: Any, b: Any) -> Any:
    return (a * b).sum(axis=-1, keepdims=True)


def length(x: Any) -> Any:
    return np.sqrt(dot(x, x))


def share(x: Any, n: Any) -> Any:
    """x / n, and 0 where n is 0."""
    return np.where(n == 0, 0.0, x / np.where(n == 0, 1.0, n))


def cosine_embedding(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (a, b), margin = guesses, o.get("margin", 0.0)
    a2, b2 = dot(a, a) + 1e-12, dot(b, b) + 1e-12
    norms = np.sqrt(a2) * np.sqrt(b2)
    cos = dot(a, b) / norms
    same = t[..., None] == 1
    sign = np.where(same, -1.0, np.where(cos >= margin, 1.0, 0.0))
    value = np.where(same, 1 - cos, np.maximum(0.0, cos - margin))
    slopes = sign * (b / norms - cos * a / a2), sign * (a / norms - cos * b / b2)
    # Near the margin the rounding of the cosine decides.
    unsure = np.where(~same & (abs(cos - margin) < KINK * info.eps), 1 / info.eps, abs(sign))
    sizes = unsure / np.sqrt(a2) + 0 * a, unsure / np.sqrt(b2) + 0 * b
    return rowwise(value[..., 0], *slopes, size=np.where(value == 0, abs(sign), 1.0)[..., 0], slope_sizes=sizes)


def fitting_eps(o: Any, info: Any) -> float:
    """The option eps: what the dtype to compute in cannot hold counts as the nearest number that it can."""
    least = 2.0**-126 if info.eps == 2.0**-23 else 2.0**-1022
    return float(max(o.get("eps", 1e-8), least))


def cosine_similarity(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (a, b), eps = guesses, fitting_eps(o, info)
    a_norm, b_norm = np.maximum(length(a), eps), np.maximum(length(b), eps)
    value = dot(a / a_norm, b / b_norm)
    a_along, b_along = (share(value * x, length(x) ** 2) * (length(x) > eps) for x in (a, b))
    slopes = b / b_norm / a_norm - a_along, a / a_norm / b_norm - b_along
    sizes = 1 / a_norm + 0 * a, 1 / b_norm + 0 * b
    return rowwise(value[..., 0], *slopes, size=dot(abs(a / a_norm), abs(b / b_norm))[..., 0], slope_sizes=sizes)


def negative_cosine_similarity(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x1, x2), eps = guesses, fitting_eps(o, info)
    n1, n2 = length(x1), length(x2)
    a, b = x1 / (n1 + eps), x2 / (n2 + eps)
    cos = dot(a, b)
    slopes = (cos * share(x1, n1) - b) / (n1 + eps), (cos * share(x2, n2) - a) / (n2 + eps)
    sizes = 1 / (n1 + eps) + 0 * x1, 1 / (n2 + eps) + 0 * x2
    return rowwise(-cos[..., 0], *slopes, size=dot(abs(a), abs(b))[..., 0], slope_sizes=sizes)


def distance(a: Any, b: Any, p: float, eps: float) -> Any:
    """(|a - b + eps|_p, its slope in a, the size of that slope)."""
    r = a - b + eps
    size = abs(r)
    if p == 0:
        count = np.where(np.isnan(r), np.nan, r != 0).sum(axis=-1, keepdims=True)
        return count, 0 * r, 0 * r
    largest = size.max(axis=-1, keepdims=True)
    if np.isinf(p):
        ties = size == largest
        slope = np.sign(r) * ties / ties.sum(axis=-1, keepdims=True)
        return largest, slope, abs(slope)
    scaled = share(size, largest)
    value = largest * (scaled**p).sum(axis=-1, keepdims=True) ** (1 / p)
    part = share(size, value)
    slope = np.sign(r) * np.where(part == 0, 0.0, np.where(part == 0, 1.0, part) ** (p - 1))
    # A power has |y log x| times the error of what it is taken of.
    return value, slope, abs(slope) * (1 + p * abs(np.log(np.where(part == 0, 1.0, part))))


def pairwise_distance(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    value, slope, size = distance(*guesses, o.get("p", 2.0), o.get("eps", 1e-6))
    return rowwise(value[..., 0], slope, -slope, size=(value * powers(o))[..., 0], slope_sizes=(size, size))


def powers(o: Any) -> float:
    """How much more than once the powers of a norm round."""
    p = o.get("p", 2.0)
    return 1.0 if p == 0 or np.isinf(p) else 1 + 4 / p


def triplet_margin(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    anchor, positive, negative = guesses
    p, eps, margin = o.get("p", 2.0), o.get("eps", 1e-6), o.get("margin", 1.0)
    near, d_near, near_size = distance(anchor, positive, p, eps)
    far, d_far, far_size = distance(anchor, negative, p, eps)
    first, first_size = far, far_size
    part, d_other, other_size = np.ones_like(far), np.zeros_like(anchor), np.zeros_like(anchor)
    if o.get("swap"):
        other, d_other, other_size = distance(positive, negative, p, eps)
        whole_other = other_size
        part = np.where(far < other, 1.0, np.where(far > other, 0.0, 0.5))
        far = np.minimum(far, other)
    gap = margin + near - far
    passes = np.where(np.isnan(gap), gap, (gap >= 0).astype(float))
    d_far, d_other, far_size, other_size = d_far * part, d_other * (1 - part), far_size * part, other_size * (1 - part)
    slopes = passes * (d_near - d_far), passes * (-d_near - d_other), passes * (d_far + d_other)
    size = margin + (near + far) * powers(o)
    # Distances may cancel: then their rounding decides whether the value is cut off, and which of two is smaller.
    weigh = np.where(abs(gap) < KINK * info.eps * size, 1 / info.eps, passes)
    if o.get("swap"):
        tie = abs(first - other) < KINK * info.eps * (first + other) * powers(o)
        whole = np.where(tie, 1 / info.eps, 0.0)
        far_size, other_size = far_size + whole * first_size, other_size + whole * abs(whole_other)
    sizes = weigh * (near_size + far_size), weigh * (near_size + other_size), weigh * (far_size + other_size)
    size = size[..., 0]
    return rowwise(np.maximum(0.0, gap)[..., 0], *slopes, size=size, slope_sizes=sizes)


def info_nce(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    """What the mask leaves out is deleted: it is nobody's negative."""
    temperature, kept = o.get("temperature", 0.1), info.kept
    n = len(guesses[0])
    q, k = (np.where(kept[:, None], x, 0.0) for x in guesses)
    q_norm, k_norm = length(q), length(k)
    q_unit, k_unit = share(q, q_norm), share(k, k_norm)
    scores = np.where(kept[None, :] | np.eye(n, dtype=bool), q_unit @ k_unit.T / temperature, -np.inf)
    top = scores.max(axis=1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - top)
    total = e.sum(axis=1, keepdims=True)
    value = (np.log(total) + top)[:, 0] - np.diagonal(scores)
    slope = e / total - np.eye(n)

    def side(g: Any, other: Any, unit: Any, norm: Any) -> Any:
        along = g @ other
        return share(along - unit * dot(unit, along), norm)

    def backward(u: np.ndarray) -> tuple[np.ndarray, ...]:
        g = times(u[:, None], slope) / temperature
        return side(g, k_unit, q_unit, q_norm), side(g.T, q_unit, k_unit, k_norm)

    def backward_size(u: np.ndarray) -> tuple[np.ndarray, ...]:
        # Scores have an absolute error of 1 / temperature, and so the softmax a relative one of that size.
        g = abs(times(u[:, None], e / total + np.eye(n))) / temperature * (1 + 1 / temperature)
        sizes = share(g.sum(axis=1, keepdims=True), q_norm), share(g.sum(axis=0)[:, None], k_norm)
        return tuple(s + 0 * x for s, x in zip(sizes, (q, k)))

    return Parts(value, backward, value * 0 + 2 / temperature, backward_size)


@functools.lru_cache(maxsize=512)
def paths(frames: int, classes: int, blank: int) -> tuple[np.ndarray, dict[tuple[int, ...], np.ndarray]]:
    """All paths over some frames, and which of them each target collapses from."""
    every = np.array(list(itertools.product(range(classes), repeat=frames)), int).reshape(classes**frames, frames)
    table: dict[tuple[int, ...], list[int]] = {}
    for number, path in enumerate(every.tolist()):
        collapsed = tuple(c for c, _ in itertools.groupby(path) if c != blank)
        table.setdefault(collapsed, []).append(number)
    return every, {target: np.array(numbers) for target, numbers in table.items()}


def ctc(guesses: Any, truths: Any, o: Any, info: Any) -> Parts:
    """By counting all paths: no recurrence over time. guesses (T, N, C), truths a list of (target, frames)."""
    (x,) = guesses
    blank, n = o.get("blank", 0), x.shape[1]
    values, slopes, sizes = np.zeros(n), np.zeros(x.shape), np.ones(n)
    weight = np.array([1 / max(1, len(target)) for target, _ in truths]).reshape(n)
    for i, (target, frames) in enumerate(truths):
        every, table = paths(frames, x.shape[2], blank)
        fitting = every[table.get(tuple(target), np.zeros(0, int))]
        logs = x[np.arange(frames), i, fitting].sum(axis=1)
        top = logs.max(initial=-np.inf)
        if top == -np.inf:  # no path fits, or none is possible
            values[i] = 0.0 if o.get("zero_infinity") else np.inf
            continue
        likelihood = np.log(np.exp(logs - top).sum()) + top
        values[i] = -likelihood
        posterior = np.exp(logs - top)
        posterior /= posterior.sum()
        for t in range(frames):
            slopes[t, i] -= np.bincount(fitting[:, t], posterior, minlength=x.shape[2])
            if o.get("wrt") == "logits":
                slopes[t, i] += np.exp(x[t, i])  # a NaN is seen in its own slope
        finite = x[:frames, i][np.isfinite(x[:frames, i])]
        sizes[i] = 1 + abs(finite).sum() + frames

    def backward(u: np.ndarray) -> tuple[np.ndarray, ...]:
        return (times(u.reshape(n)[None, :, None], slopes),)

    def backward_size(u: np.ndarray) -> tuple[np.ndarray, ...]:
        # The posterior is a difference of logarithms, with their absolute error.
        more = np.exp(x) if o.get("wrt") == "logits" else 0.0
        return (abs(times(u.reshape(n)[None, :, None], (abs(slopes) + more + 1e-3) * sizes[None, :, None])),)

    shaped = [v.reshape(info.values_shape) for v in (values, sizes, weight)]
    loss_weight = shaped[2] if o.get("reduction", "mean") == "mean" else None
    return Parts(shaped[0], backward, shaped[1], backward_size, loss_weight=loss_weight)


VECTORS = {
    "CosineEmbedding.v1": cosine_embedding,
    "CosineSimilarity.v1": cosine_similarity,
    "NegativeCosineSimilarity.v1": negative_cosine_similarity,
    "PairwiseDistance.v1": pairwise_distance,
    "TripletMargin.v1": triplet_margin,
    "InfoNCE.v1": info_nce,
    "CTC.v1": ctc,
}
