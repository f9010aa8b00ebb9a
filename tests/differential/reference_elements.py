"""Losses of elements, from the mathematics of their docstrings, in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .parts import Parts, elementwise

__all__ = ["ELEMENTS"]


def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return np.logaddexp(0.0, x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return np.exp(-softplus(-x))


def product(factor: Any, x: Any) -> Any:
    """factor * x, where a factor of 0 leaves x out, even if that is infinite. A NaN stays."""
    return np.where((factor == 0) & ~np.isnan(x), 0.0, factor * x)


def mean_squared_error(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    r = guesses[0] - t
    return elementwise(r**2, 2 * r)


def huber(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    delta, r = o.get("delta", 1.0), guesses[0] - t
    far = abs(r) > delta
    return elementwise(
        np.where(far, delta * (abs(r) - delta / 2), r**2 / 2),
        np.where(far, delta * np.sign(r), r),
        size=np.where(far, delta * abs(r), r**2),
    )


def mean_absolute_error(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    r = guesses[0] - t
    return elementwise(abs(r), np.sign(r))


def smooth_l1(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    beta, r = o.get("beta", 1.0), guesses[0] - t
    near = abs(r) < beta
    unit = max(beta, 1e-300)  # beta = 0 has no near part
    return elementwise(
        np.where(near, r / unit * r / 2, abs(r) - beta / 2),
        np.where(near, r / unit, np.sign(r)),
        size=abs(r),
    )


def poisson(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    x = guesses[0]
    if o.get("log_input", True):
        value, slope = np.exp(x) - product(t, x), np.exp(x) - t
        size, slope_size = np.exp(x) + abs(product(t, x)), np.exp(x) + t
    else:
        rate = x + o.get("eps", 1e-8)
        value, slope = x - product(t, np.log(rate)), 1 - t / rate
        size, slope_size = x + abs(product(t, np.log(rate))), 1 + t / rate
    if o.get("full", False):
        count = np.where(t > 1, t, 1.0)
        stirling = count * np.log(count) - count + np.log(2 * np.pi * count) / 2
        value = value + np.where(t > 1, stirling, 0.0)
        size = size + np.where(t > 1, count * np.log(count) + count + 1, 0.0)
    return elementwise(value, slope, size=size, slope_sizes=(slope_size,))


def quantile(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    q, r = o.get("quantile", 0.5), guesses[0] - t
    slope = np.where(r > 0, 1 - q, np.where(np.isnan(r), r, -q))
    return elementwise(np.where(r > 0, (1 - q) * r, q * abs(r)), slope)


def binary_logits(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x,) = guesses
    last = x.shape[-1] if x.ndim else 1
    factor = np.broadcast_to(np.array(o.get("pos_weight") or [1.0]), last).reshape(last if x.ndim else ())
    no, yes = product(1 - t, softplus(x)), product(factor * t, softplus(-x))
    up, down = (1 - t) * sigmoid(x), factor * t * sigmoid(-x)
    weight = o.get("class_weight")
    if weight is not None:
        weight = np.broadcast_to(np.broadcast_to(np.array(weight), last).reshape(last if x.ndim else ()), x.shape)
    return elementwise(no + yes, up - down, slope_sizes=(up + down,), loss_weight=weight)


def binary(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x,) = guesses
    yes, no = np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)
    return elementwise(-(t * yes + (1 - t) * no), (x - t) / np.maximum(x * (1 - x), 1e-12))


def soft_margin(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x,) = guesses
    return elementwise(softplus(-t * x), -t * sigmoid(-t * x))


def kl_divergence(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x,) = guesses
    prob, log = (np.exp(t), t) if o.get("log_target") else (t, np.log(t))
    nothing = (prob == 0) & ~np.isnan(x)  # also where both logarithms are infinite
    value = np.where(nothing, 0.0, prob * (log - x))
    return elementwise(value, -prob, size=product(prob, abs(log)) + product(prob, abs(x)))


def focal(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x,) = guesses
    gamma, alpha = o.get("gamma", 2.0), o.get("alpha")
    p, not_p = sigmoid(x), sigmoid(-x)
    c = product(1 - t, softplus(x)) + product(t, softplus(-x))
    q = (1 - t) * p + t * not_p
    w = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    power = np.ones_like(q) if gamma == 0 else w * 0 + q**gamma
    value = np.where(power * w == 0, 0.0 * q, w * power * c)
    ratio = np.where((q == 0) | (p * not_p == 0), 0.0, p * not_p * c / np.where(q == 0, 1.0, q))
    first, second = (1 - t) * p - t * not_p, gamma * (1 - 2 * t) * ratio
    size = w * power * ((1 - t) * p + t * not_p + abs(second))
    # A power of q has gamma times the relative error of q's logarithm.
    return elementwise(value, w * power * (first + second), size=value * (1 + gamma), slope_sizes=(size * (1 + gamma),))


def hinge_embedding(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    (x,), margin = guesses, o.get("margin", 1.0)
    far = np.where(x <= margin, -1.0, np.where(np.isnan(x), x, 0.0))
    return elementwise(
        np.where(t == 1, x, np.maximum(margin - x, 0)),
        np.where(t == 1, 1.0, far),
        size=np.where(t == 1, abs(x), np.maximum(abs(margin), abs(x))),
    )


def margin_ranking(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    x1, x2 = guesses
    margin = o.get("margin", 0.0)
    gap = margin - t * (x1 - x2)
    slope = np.where(gap >= 0, t, np.where(np.isnan(gap), gap, 0.0)) + np.zeros(gap.shape)
    # The terms as they are written, and not the inputs of the broadcast shapes.
    size = np.where(gap >= 0, abs(margin) + abs(x1 - x2), 0.0)
    made = elementwise(np.maximum(gap, 0.0), -slope, slope, size=size)

    def summed(function: Any) -> Any:
        def backward(weight: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(unbroadcast(slope, x.shape) for slope, x in zip(function(weight), guesses))

        return backward

    made.backward, made.backward_size = summed(made.backward), summed(made.backward_size)
    return made


def unbroadcast(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The sum over the axes along which an array of a shape was repeated."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    return x.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1), keepdims=True)


def value(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    return elementwise(guesses[0].copy(), np.ones_like(guesses[0]))


def absolute_value(guesses: Any, t: Any, o: Any, info: Any) -> Parts:
    return elementwise(abs(guesses[0]), np.sign(guesses[0]))


ELEMENTS = {
    "MeanSquaredError.v1": mean_squared_error,
    "Huber.v1": huber,
    "MeanAbsoluteError.v1": mean_absolute_error,
    "SmoothL1.v1": smooth_l1,
    "PoissonNLL.v1": poisson,
    "Quantile.v1": quantile,
    "BinaryCrossEntropyWithLogits.v1": binary_logits,
    "BinaryCrossEntropy.v1": binary,
    "SoftMargin.v1": soft_margin,
    "KLDivergence.v1": kl_divergence,
    "SigmoidFocal.v1": focal,
    "HingeEmbedding.v1": hinge_embedding,
    "MarginRanking.v1": margin_ranking,
    "Value.v1": value,
    "AbsoluteValue.v1": absolute_value,
}
