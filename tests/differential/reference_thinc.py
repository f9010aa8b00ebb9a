"""Thinc's calculators, versions 1 to 3, from Thinc's documentation: (gradient, its terms, loss, its terms)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .reference_vectors import dot, length

__all__ = ["THINC"]


def categorical(guesses: Any, truth: Any, o: Any, info: Any) -> Any:
    """grad = (p - t) * mask / N, loss = sum of its squares; targets of labels are float32."""
    (p,) = guesses
    classes, e = p.shape[-1], o.get("label_smoothing", 0.0)
    mask = np.ones(p.shape)
    if truth.dense is not None:
        t = truth.dense
    else:
        on, off = float(np.float32(1 - e)), float(np.float32(e / max(classes - 1, 1)))
        label = truth.members if truth.negated is None else truth.members ^ truth.negated[:, None]
        t = np.where(label, on, off)
        if truth.negated is not None:  # "not dog": 0 on dog, and nothing is known of the others
            t = np.where(truth.negated[:, None], 0.0, t)
            mask = np.where(truth.negated[:, None], label, 1.0)
    if truth.present is not None:
        mask = mask * truth.present[:, None]
    count = info.batch if o.get("normalize", True) else 1
    grad = (p - t) * mask / max(count, 1)
    size = (abs(p) + abs(t)) * mask / max(count, 1)
    return grad, size, (grad**2).sum(), (2 * abs(grad) * size).sum() + (grad**2).sum()


def l2_distance(guesses: Any, t: Any, o: Any, info: Any) -> Any:
    (x,) = guesses
    count = max(info.batch, 1) if o.get("normalize", True) else 1
    grad, size = (x - t) / count, (abs(x) + abs(t)) / count
    return grad, size, (grad**2).sum(), (2 * abs(grad) * size).sum() + (grad**2).sum()


def cosine_distance(guesses: Any, t: Any, o: Any, info: Any) -> Any:
    """Rows are all that lies behind the first axis."""
    (x,) = guesses
    rows = (len(x), int(np.prod(x.shape[1:])))
    y, u = x.reshape(rows) + 1e-8, t.reshape(rows) + 1e-8
    norms = length(y) * length(u)
    cos = dot(y, u) / norms
    count = max(info.batch, 1) if o.get("normalize", True) else 1
    scale = np.full(cos.shape, 1 / count)
    if o.get("ignore_zeros"):
        scale = np.where((t.reshape(rows) == 0).all(axis=-1, keepdims=True), 0.0, scale)
    grad = -(u / norms - cos * y / length(y) ** 2) * scale
    size = 2 / length(y) * scale + 0 * y
    return grad.reshape(x.shape), size.reshape(x.shape), (abs(cos - 1) * scale).sum(), (2 * scale).sum()


THINC = {
    **{f"CategoricalCrossentropy.v{v}": categorical for v in (1, 2, 3)},
    **{f"SequenceCategoricalCrossentropy.v{v}": categorical for v in (1, 2, 3)},
    "L2Distance.v1": l2_distance,
    "CosineDistance.v1": cosine_distance,
}
