"""How far a result may be from the reference, and why.

What a backend computes in a dtype of precision eps is the exact result of inputs that are each off by a few eps
(backward stability), times 1 + a few eps. So a result may be off by

    K eps (size + sensitivity) + floor

- `eps` is that of the dtype that lossreg computes in: float32 for halves and float32, else float64.
- `size` is the largest term of the documented formula, times the weight: the rounding of those terms.
- `sensitivity` is what rounding the inputs does: how far the reference moves when each guess, truth and option is
  multiplied by 1 +- delta, divided by delta. A kink that a rounding may cross moves it by the height of the kink.
- `floor` is what underflow takes: the smallest normal number, times what it may be multiplied by.
- K = 16 counts the roundings of a formula: about ten operations, of which exponentials and logarithms have up to 3.

Then half an eps of the dtype of the result for storing it. Totals are added in float64: they may be off by the sum of
what their values may, and are divided exactly. Where a number that lies on the way exceeds the largest of the dtype, an
infinity of the right sign is right as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .reference import Labels, Problem, Result, evaluate

__all__ = ["Bound", "Precision", "bounds", "compare"]

K = 16
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
MOST = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4028e38, "float64": 1.797e308}
LEAST = {"float16": 6e-8, "bfloat16": 1.2e-38, "float32": 1.2e-38, "float64": 2.3e-308}
"""The spacing below the smallest normal number of float16, and that number of the others: it may flush to 0."""


@dataclass(frozen=True)
class Precision:
    """The dtype of guesses by name, and what lossreg computes in."""

    name: str

    @property
    def computed(self) -> str:
        return "float64" if self.name == "float64" else "float32"

    @property
    def eps(self) -> float:
        return EPS[self.computed]

    @property
    def delta(self) -> float:
        """By how much inputs are moved: a little more than they round, as far as float64 can tell."""
        return 2.0**-22 if self.computed == "float32" else 2.0**-26


@dataclass
class Bound:
    """A reference, how far a result may be from it, and the largest number on the way."""

    reference: np.ndarray
    tolerance: np.ndarray
    largest: np.ndarray


def bounds(problem: Problem, precision: Precision, rng: np.random.Generator) -> tuple[Result, dict[str, Any]]:
    """The reference of a problem, and the bounds of all that its methods return."""
    base = evaluate(problem)
    with np.errstate(all="ignore"):
        lattice, delta = "lattice" in problem.tags, precision.delta
        moved, nearer = [], []
        for _ in range(2):
            state = rng.bit_generator.state
            moved.append(evaluate(perturbed(problem, delta, rng)))
            if lattice:  # the same directions again, less far
                rng.bit_generator.state = state
                nearer.append(evaluate(perturbed(problem, delta / 4, rng)))
        exact = "exact" in problem.tags
        eps, tiny, most = precision.eps, LEAST[precision.computed], MOST[precision.computed]
        shape = problem.values_shape
        size, raw = abs(base.weight) * base.parts.size.reshape(shape), abs(base.parts.values.reshape(shape))

        def sensitivity(get: Any) -> np.ndarray:
            return sensitive([get(m) for m in moved], get(base), [get(m) for m in nearer], exact, precision)

        values_tol = K * eps * (clean(size) + sensitivity(lambda r: r.values))
        values_tol = values_tol + 8 * tiny * (1 + abs(base.weight) + clean(raw))
        values_tol = np.where(base.weight == 0, 0.0, values_tol)
        largest = np.where(base.weight == 0, 0.0, np.maximum(np.maximum(size, raw), abs(base.values)))
        top = float(largest.max(initial=0.0))
        total_tol = float(values_tol.sum()) + 64 * EPS["float64"] * float(clean(abs(base.values)).sum())
        found = {
            "values": Bound(base.values, stored(values_tol, base.values, precision), largest),
            "total": Bound(np.array(base.total), np.array(total_tol), np.array(top)),
            "loss": Bound(
                np.array(base.loss),
                np.array(total_tol * base.scale + 8 * EPS["float64"] * abs(base.loss)),
                np.array(top * max(1.0, base.scale)),
            ),
        }
        ones = np.ones_like(base.parts.values)
        units = base.parts.backward_size(ones)
        for name, scale in (("grads", base.scale), ("total_grads", 1.0)):
            weight = (base.weight * scale).reshape(base.parts.values.shape)
            sizes = base.parts.backward_size(weight)
            heaviest = float(abs(weight).max(initial=0.0))
            found[name] = []
            for i, grad in enumerate(getattr(base, name)):
                moves = sensitivity(lambda r, i=i, name=name: getattr(r, name)[i])
                tol = K * eps * (clean(abs(sizes[i])) + moves)
                # Class weights within a formula have one power of two, that of the largest.
                of_classes = float(clean(units[i]).max(initial=0.0))
                tol = tol + 8 * tiny * (1 + heaviest + float(abs(base.weight).max(initial=0.0)) + of_classes)
                large = np.maximum(np.maximum(abs(units[i]) * max(1.0, scale), abs(sizes[i])), abs(grad))
                found[name].append(Bound(grad, stored(tol, grad, precision), large))
    return base, found | {"most": most}


def clean(x: Any) -> Any:
    """Finite numbers; what is not is compared as it is."""
    return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def stored(tolerance: Any, reference: Any, precision: Precision) -> Any:
    """With the rounding of the dtype that holds the result."""
    return tolerance + EPS[precision.name] * clean(abs(reference)) + LEAST[precision.name]


def sensitive(moved: list[Any], base: Any, nearer: list[Any], exact: bool, precision: Precision) -> Any:
    """What rounding the inputs does to a result, as a multiple of eps."""
    found = np.zeros_like(base)
    for number, result in enumerate(moved):
        far = clean(abs(result - base))
        moves = far / precision.delta
        if nearer:
            jumps = clean(abs(nearer[number] - base)) > 0.5 * far
            # On small whole numbers all is computed exactly, and the side of a kink is part of the documented loss.
            moves = np.where(jumps, 0.0 if exact else far / precision.eps, moves)
        found = np.maximum(found, moves)
    return found


def perturbed(problem: Problem, delta: float, rng: np.random.Generator) -> Problem:
    """The same call with inputs that are rounded at random."""

    def move(x: np.ndarray, inward: bool) -> np.ndarray:
        by = rng.uniform(-1, 1, x.shape)
        by = np.sign(by) * (0.5 + 0.5 * abs(by))
        return x * (1 - delta * (abs(by) if inward else by))

    truths = problem.truths
    if isinstance(truths, Labels) and truths.dense is not None:
        truths = replace(truths, dense=move(truths.dense, True))
    elif isinstance(truths, np.ndarray) and "signs" not in problem.tags:
        truths = move(truths, True)
    options = dict(problem.options)
    for name, value in options.items():
        if type(value) is float and np.isfinite(value) and name != "p":
            options[name] = value * (1 - delta * (0.5 + 0.5 * rng.random()))
        if name in ("class_weight", "pos_weight") and value is not None:
            options[name] = tuple(move(np.array(value), False).tolist())
    guesses = tuple(move(x, problem.unit) for x in problem.guesses)
    return replace(problem, guesses=guesses, truths=truths, options=options)


def compare(found: Any, bound: Bound, most: float, name: str = "float64") -> tuple[float, str]:
    """(the worst error as a share of the tolerance, what is wrong or "")."""
    x, ref = np.asarray(found, dtype=np.float64), np.asarray(bound.reference)
    if x.shape != ref.shape:
        return np.inf, f"shape {x.shape} instead of {ref.shape}"
    if not x.size:
        return 0.0, ""
    tolerance = bound.tolerance
    with np.errstate(all="ignore"):
        error = abs(x - ref)
        share = np.where(error == 0, 0.0, error / tolerance)
        overflows = (bound.largest > 0.5 * most) | (abs(ref) > 0.5 * MOST[name])
        is_sign_known = abs(ref) > tolerance
        fine = (x == ref) | np.isnan(ref) & np.isnan(x)
        fine = fine | overflows & np.isinf(x) & (((x > 0) == (ref > 0)) | ~is_sign_known)
        share = np.where(fine, 0.0, np.where(np.isnan(share), np.inf, share))
    worst = int(np.argmax(share))
    if share.flat[worst] <= 1:
        return float(share.flat[worst]), ""
    at = tuple(map(int, np.unravel_index(worst, share.shape)))
    wrong = int((share > 1).sum())
    text = f"{x.flat[worst]!r} instead of {ref.flat[worst]!r} at {at} (tolerance {tolerance.flat[worst]:.3g})"
    return float(share.flat[worst]), text + (f", and {wrong - 1} more" if wrong > 1 else "")
