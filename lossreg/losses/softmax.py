"""The formulas of cross-entropy, of logits and of probabilities, for one label, sets of labels and rows of numbers."""

from __future__ import annotations

import math
from typing import Any

from ..labels.targets import Targets
from ..ops import Array, Ops

__all__ = ["log_sum_parts", "probability_cross_entropy", "softmax_cross_entropy", "target_arguments"]


def target_arguments(ops: Ops, targets: Targets, classes: int, weight: Any, smoothing: Array | None) -> tuple[Any, ...]:
    """What both formulas take after the guesses.

    weight: a of each row (N,), None for 1.   smoothing: s of each class (C,), None for 0.
    """
    members = targets.members(classes) if targets.has_sets and targets.rows is None else None
    ids = targets.ids if targets.rows is None and members is None else None
    spread = None if smoothing is None else ops.xp.sum(smoothing)
    if spread is not None:
        spread = ops.xp.broadcast_to(spread, (len(targets),)) if ops.on_device else float(spread)
    return (
        ids,
        members,
        targets.rows,
        1.0 if weight is None else weight,
        None if smoothing is None else smoothing[None, :],
        spread,
    )


def log_sum_parts(xp: Any, x: Any) -> tuple[Any, ...]:
    """Maximum m of a row, where that is, e = e^(x-m), and the sum of e without the maximum's own 1.

    log sum e^x - m = log1p(rest) is exact for a confident row, where log(1 + rest) would round to 0.
    """
    peak = xp.row_max(x)
    at_peak = x == peak
    e = xp.exp(xp.where(at_peak, 0.0, x - peak))  # 1 at the peak, also where that is infinite
    rest = xp.row_sum(xp.where(at_peak, 0.0, e)) + (xp.row_sum(xp.where(at_peak, 1.0, 0.0)) - 1.0)
    # no class that can be, or two that are certain
    rest = xp.where((peak == -math.inf) | xp.isinf(peak) & (rest > 0.0), math.nan, rest)
    return peak, at_peak, e, rest


def softmax_cross_entropy(
    xp: Any, x: Any, ids: Any, members: Any, dense: Any, a: Any, s: Any, spread: Any
) -> tuple[Any, ...]:
    """Cross-entropy of the softmax of rows, and its slope.

    With p = softmax(x), S the candidate set of a row (one label, or its members), q = p restricted to S and normalised:

        value = a * -log(sum of p over S) + sum_c s_c * -log p_c,      slope = (a + sum s) p - a q - s

    and for dense rows t:

        value = sum_c t_c * -log p_c,                                   slope = (sum t) p - t
    """
    peak, at_peak, e, rest = log_sum_parts(xp, x)
    log_rest, total = xp.log1p(rest), 1.0 + rest
    if dense is not None:
        at_top = xp.row_sum(xp.where(at_peak, dense, 0.0))
        others = xp.row_sum(xp.where(at_peak, 0.0, dense))
        mass = at_top + others
        value = xp.row_sum(xp.where(dense == 0.0, 0.0, dense * xp.where(at_peak, 0.0, peak - x))) + mass * log_rest
        # at the maximum the terms of p and t are taken apart: no cancellation for a confident row
        top = (others + (at_top - dense) - dense * rest) / total
        return value, xp.where(at_peak, top, e * (mass / total) - dense)
    if members is None:
        picked = xp.pick(x, ids)
        first = picked == peak
        e_label = xp.where(first, 1.0, xp.exp(picked - peak))
        outside = xp.where(e_label == 1.0, rest, 1.0 + rest - e_label)
        value = xp.where(a == 0.0, 0.0, a * (xp.where(first, 0.0, peak - picked) + log_rest))
    else:
        best = xp.row_max(xp.where(members, x, -math.inf))
        f = xp.where(members, xp.where(x == best, 1.0, xp.exp(x - best)), 0.0)
        best_sum = xp.row_sum(f)
        inside, outside = xp.row_sum(xp.where(members, e, 0.0)), xp.row_sum(xp.where(members, 0.0, e))
        near = inside > 1e-30  # farther than e^-69 below the peak the ratio could underflow: take logarithms apart
        apart = peak - best + xp.log(outside) - xp.log(best_sum)
        nll = xp.where(near, xp.log1p(outside / inside), apart)
        value = xp.where(a == 0.0, 0.0, a * nll)
    mass, smoothed_mass = a, 0.0
    if s is not None:
        value = value + xp.row_sum(xp.where(s == 0.0, 0.0, s * xp.where(at_peak, 0.0, peak - x))) + spread * log_rest
        mass, smoothed_mass = a + spread, spread
    # p - q on S is -q times the probability outside S: no cancellation for a confident row
    label = -a * outside / total
    if members is None:
        if s is not None:
            label = label + spread * e_label / total
        slope = xp.where(xp.columns(x) == ids, label, e * (mass / total))
    else:
        slope = e * (xp.where(members, smoothed_mass, mass) / total) + f / best_sum * label
    return value, slope if s is None else slope - s


def probability_cross_entropy(
    xp: Any, p: Any, ids: Any, members: Any, dense: Any, a: Any, s: Any, spread: Any, least: Any, most: Any,
    logits: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """Cross-entropy of rows of probabilities, and its slope.

    With P = sum of p over the candidate set S and q = p restricted to S, divided by P:

        value = a * -log P + sum_c s_c * -log p_c,   slope in p = -a [c in S] / P - s / p
                                                     slope in the logits = (a + sum s) p - a q - s

    and for dense rows t as if a = 0 and s = t. Numbers below `least` count as that one, and q is even over S where P
    is. Slopes in p end at `most`.
    """
    if dense is not None:
        value, slope, s, spread = 0.0, 0.0, dense, xp.row_sum(dense)
    else:
        if members is None:
            members, inside, even = xp.columns(p) == ids, xp.pick(p, ids), 1.0
        else:
            inside = xp.row_sum(xp.where(members, p, 0.0))
            even = 1.0 / xp.row_sum(xp.where(members, 1.0, 0.0))
        safe = xp.maximum(inside, least)
        value = -a * xp.log(safe)
        if logits:
            slope = a * xp.where(members, p - xp.where(inside < least, even, p / safe), p)
        else:
            slope = xp.where(members, -a / safe, 0.0)
    if s is not None:
        safe_p = xp.maximum(p, least)
        value = value - xp.row_sum(s * xp.log(safe_p))
        slope = slope + (p * spread - s if logits else -s / safe_p)
    return value, slope if logits else xp.minimum(xp.maximum(slope, -most), most)
