"""One row for each calculator and set of options; every law in test_laws.py runs on every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lossreg

try:
    import mpmath as mp
except ImportError:  # the laws that need it are skipped
    mp = None

Sample = Callable[[np.random.Generator, int], tuple[Any, Any]]


@dataclass(frozen=True)
class Row:
    """A calculator under test."""

    name: str
    sample: Sample
    """(rng, n) -> (guesses in float64, truths) with n items on the first axis."""
    options: dict[str, Any] = field(default_factory=dict)
    value: Callable[..., Any] | None = None
    """Independent reference: (item's guesses, item's truth, options) -> unreduced value of that item, in mpmath."""
    kinks: Callable[[], tuple[Any, Any]] | None = None
    """Guesses and truths at the kinks."""
    move: Callable[[np.ndarray, tuple[int, ...], float], np.ndarray] | None = None
    """Guesses after a step in the variable that the gradient is with respect to, where that is not the guess."""
    extremes: Callable[[], tuple[Any, Any]] | None = None
    thinc: bool = False
    """Reproduces Thinc's numbers: no reductions, masks or states, and no true gradient."""
    coupled: bool = False
    """A value depends on other items: a weight of 2 is not the item twice, and parts are not the whole."""
    analytic: bool = False
    """The formula takes complex numbers: its slope can be checked to rounding."""

    def make(self, **more: Any) -> Any:
        return lossreg.registry.losses.get(self.name)(**self.options, **more)

    @property
    def id(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])[:60].replace(" ", "")


def elements(*shape: int, scale: float = 2.0) -> Sample:
    return lambda rng, n: (rng.normal(size=(n, *shape)) * scale, rng.normal(size=(n, *shape)) * scale)


def binary(*shape: int) -> Sample:
    def sample(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        truths = rng.random((n, *shape))
        return rng.normal(size=(n, *shape)) * 3, np.where(truths < 0.2, 0.0, np.where(truths > 0.8, 1.0, truths))

    return sample


NAMES = ("cat", "dog", "bird", "emu")


def messy(rng: np.random.Generator, n: int, sets: bool = True) -> list[Any]:
    """Labels of every kind, the first ones in a fixed order so that small batches have them too."""
    fixed: list[Any] = ["dog", "!cat", None, 2, "", np.int64(1)]
    if sets:
        fixed += [{"cat", "emu"}, ("bird",), [0, "dog"], {"!cat", "!emu"}, (None,), frozenset({3})]
    order = [fixed[i] for i in rng.permutation(len(fixed))]
    return [order[i % len(order)] for i in range(n)]


def probabilities(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.dirichlet(np.ones(4), n)


def softmax_move(p: np.ndarray, index: tuple[int, ...], step: float) -> np.ndarray:
    z = np.log(p)
    z[index] += step
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def labels(of: Callable[..., Any], shape: tuple[int, ...] = (), classes: int = 5) -> Sample:
    def sample(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        return rng.normal(size=(n, classes, *shape)) * 2, of(rng, (n, *shape))

    return sample


def ids(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 5, shape).astype(np.int32)


def some_ignored(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    drawn = rng.integers(0, 5, shape)
    return np.where(rng.random(shape) < 0.3, -7, drawn)


def dense(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(rng.dirichlet(np.ones(5), shape), -1, 1)


def sequences(sample: Sample) -> Sample:
    def many(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        pairs = [sample(rng, int(length)) for length in rng.integers(0, 5, n)]
        return [guesses for guesses, _ in pairs], [truths for _, truths in pairs]

    return many


# References in mpmath, one item at a time, written from the definitions


def mp_row(x: Any) -> list[Any]:
    return [mp.mpf(float(v)) for v in np.ravel(x)]


def mp_sum(values: Any) -> Any:
    return mp.fsum(values)


def ref_mse(x: Any, t: Any, o: Any) -> Any:
    return (mp.mpf(float(x)) - mp.mpf(float(t))) ** 2


def ref_huber(x: Any, t: Any, o: Any) -> Any:
    delta, r = mp.mpf(o.get("delta", 1.0)), abs(mp.mpf(float(x)) - mp.mpf(float(t)))
    return r * r / 2 if r <= delta else delta * (r - delta / 2)


def ref_bce_logits(x: Any, t: Any, o: Any, column: int = 0) -> Any:
    t = mp.mpf(float(t))
    if np.isinf(x):
        return mp.mpf(0) if t == (1 if x > 0 else 0) else mp.inf
    x = mp.mpf(float(x))
    b, w = o["pos_weight"][column] if "pos_weight" in o else 1, o["class_weight"][column] if "class_weight" in o else 1
    return mp.mpf(w) * ((1 - t) * mp.log1p(mp.exp(x)) + b * t * mp.log1p(mp.exp(-x)))


def candidates(truth: Any, o: Any, classes: int) -> set[int] | None:
    """The candidate set of a label; None when it is missing."""
    names = o.get("names") or ()
    found = []
    for label in truth if isinstance(truth, (set, frozenset, tuple, list)) else [truth]:
        if label is None or label in (o.get("missing_value"), o.get("ignore_index", -100)):
            return None
        if isinstance(label, str) and label.startswith("!"):
            found.append(set(range(classes)) - {names.index(label[1:])})
        else:
            found.append({names.index(label) if isinstance(label, str) else int(label)})
    negative = any(len(f) != 1 for f in found)
    return set.intersection(*found) if negative else set.union(*found)


def ref_cross_entropy(x: Any, t: Any, o: Any) -> Any:
    """Of a row of logits."""
    x = [mp.mpf(float(v)) for v in x]
    lse = mp.log(mp_sum(mp.exp(v) for v in x))
    w = o.get("class_weight") or [1] * len(x)
    e, c = mp.mpf(o.get("label_smoothing", 0.0)), len(x)
    if isinstance(t, np.ndarray) and t.ndim == 1:
        t = [mp.mpf(float(v)) * (1 - e) + e / c for v in t]
        return mp_sum(t[i] * w[i] * (lse - x[i]) for i in range(c) if t[i] != 0)
    chosen = candidates(t, o, c)
    if chosen is None:
        return mp.mpf(0)
    inside = mp_sum(mp.exp(x[i]) for i in chosen)
    mean = mp_sum(mp.mpf(w[i]) for i in chosen) / len(chosen)
    smooth = e / c * mp_sum(w[i] * (lse - x[i]) for i in range(c)) if e else 0
    return (1 - e) * mean * (lse - mp.log(inside)) + smooth


def ref_v4(p: Any, t: Any, o: Any) -> Any:
    p = mp_row(p)
    w = o.get("class_weight") or [1] * len(p)
    if isinstance(t, np.ndarray) and t.ndim == 1:
        return -mp_sum(mp.mpf(float(t[i])) * w[i] * mp.log(p[i]) for i in range(len(p)) if t[i])
    chosen = candidates(t, o, len(p))
    if chosen is None:
        return mp.mpf(0)
    e = mp.mpf(o.get("label_smoothing", 0.0)) * len(p) / (len(p) - 1)
    mean = mp_sum(mp.mpf(w[i]) for i in chosen) / len(chosen)
    value = -(1 - e) * mean * mp.log(mp_sum(p[i] for i in chosen))
    return value - (e / len(p) * mp_sum(w[i] * mp.log(p[i]) for i in range(len(p))) if e else 0)


def ref_info_nce(batch: Any, i: int, o: Any) -> Any:
    queries, keys = ([mp_row(v) for v in side] for side in batch)
    temperature = mp.mpf(o.get("temperature", 0.1))

    def cosine(a: Any, b: Any) -> Any:
        return mp.fdot(a, b) / mp.sqrt(mp.fdot(a, a) * mp.fdot(b, b))

    scores = [cosine(queries[i], key) / temperature for key in keys]
    return mp.log(mp_sum(mp.exp(s) for s in scores)) - scores[i]


def at_huber_kinks(delta: float) -> Callable[[], tuple[Any, Any]]:
    return lambda: (np.array([[delta, -delta, 0.0, 3 * delta]]), np.zeros((1, 4)))


TINY, HUGE = 5e-324, 1e150
BIG_LOGITS = np.array([
    [1000.0, 0.0, -1000.0, 0.0, 5.0], [-1000.0, 0.0, 0.0, 0.0, 0.0], [40.0, 0.0, 0.0, 0.0, 0.0],
    [TINY, 0.0, -TINY, 0.0, 0.0], [1e300, 0.0, 0.0, 0.0, -1e300], [0.0, -np.inf, 1.0, -np.inf, 2.0],
])  # fmt: skip
SHARP = dict(names=NAMES, missing_value="", neg_prefix="!")

ROWS = [
    Row("MeanSquaredError.v1", elements(3), value=ref_mse, analytic=True,
        extremes=lambda: (np.array([0.0, TINY, 1e-160, HUGE, -HUGE, 1.0]), np.array([0.0, 0.0, 0.0, 1.0, 0.0, 1.0]))),
    Row("Huber.v1", elements(), value=ref_huber, kinks=at_huber_kinks(1.0), analytic=True,
        extremes=lambda: (np.array([0.0, TINY, 1e300, -1e300, 1.0]), np.zeros(5))),
    Row("Huber.v1", elements(2, 3), dict(delta=0.7), ref_huber, at_huber_kinks(0.7), analytic=True),
    Row("BinaryCrossEntropyWithLogits.v1", binary(3), value=ref_bce_logits,
        kinks=lambda: (np.array([[0.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.3]])),
        extremes=lambda: (np.array([1000.0, -1000.0, 1000.0, -1000.0, TINY, 40.0, -40.0, np.inf, -np.inf]),
                          np.array([1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0, 1.0, 0.0]))),
    Row("BinaryCrossEntropyWithLogits.v1", binary(3),
        dict(pos_weight=(2.0, 0.5, 1.0), class_weight=(1.0, 3.0, 0.0)), ref_bce_logits),
    Row("CrossEntropy.v1", labels(ids), value=ref_cross_entropy,
        extremes=lambda: (BIG_LOGITS, np.array([0, 1, 0, 2, 0, 4]))),
    Row("CrossEntropy.v1", labels(some_ignored, (3,)),
        dict(class_weight=(0.5, 1.0, 2.0, 0.0, 1.5), ignore_index=-7, label_smoothing=0.2), ref_cross_entropy),
    Row("CrossEntropy.v1", labels(dense), value=ref_cross_entropy,
        extremes=lambda: (BIG_LOGITS[:3], np.eye(5)[[0, 1, 0]])),
    Row("CrossEntropy.v1", labels(dense, (2, 2)),
        dict(class_weight=(0.5, 1.0, 2.0, 0.1, 1.5), label_smoothing=0.1), ref_cross_entropy),
    Row("CrossEntropy.v1", labels(lambda rng, shape: messy(rng, shape[0]), classes=4), SHARP, ref_cross_entropy,
        extremes=lambda: (BIG_LOGITS[:, :4],
                          ["cat", "!bird", {"cat", "dog"}, "!cat", {"!bird", "!dog"}, {"cat", "bird"}])),
    Row("CrossEntropy.v1", labels(lambda rng, shape: messy(rng, shape[0]), classes=4),
        dict(SHARP, class_weight=(1.0, 0.2, 3.0, 1.0), label_smoothing=0.3), ref_cross_entropy),
    Row("InfoNCE.v1", lambda rng, n: ((rng.normal(size=(n, 6)), rng.normal(size=(n, 6))), None), coupled=True),
    Row("InfoNCE.v1", lambda rng, n: ((rng.normal(size=(n, 6)), rng.normal(size=(n, 6))), None),
        dict(temperature=0.7), coupled=True),
    Row("CategoricalCrossentropy.v4", lambda rng, n: (probabilities(rng, n), messy(rng, n)), SHARP, ref_v4,
        move=softmax_move),
    Row("CategoricalCrossentropy.v4", lambda rng, n: (probabilities(rng, n), rng.integers(0, 4, n)), {}, ref_v4,
        move=softmax_move,
        extremes=lambda: (np.array([[1.0, 0.0, 0.0, 0.0], [1 - 1e-12, 1e-12, 0.0, 0.0], [1e-300, 1.0, 0.0, 0.0]]),
                          [0, 1, 0])),
    Row("CategoricalCrossentropy.v4", lambda rng, n: (probabilities(rng, n), messy(rng, n)),
        dict(SHARP, class_weight=(1.0, 0.2, 3.0, 1.0), label_smoothing=0.3), ref_v4, move=softmax_move),
    Row("CategoricalCrossentropy.v4", lambda rng, n: (rng.random((n, 4)) * 0.9 + 0.05, messy(rng, n)),
        dict(SHARP, wrt="probs", label_smoothing=0.2), ref_v4),
    Row("CategoricalCrossentropy.v4", lambda rng, n: (probabilities(rng, n), probabilities(rng, n)),
        dict(class_weight=(1.0, 0.2, 3.0, 1.0)), ref_v4, move=softmax_move),
    Row("CategoricalCrossentropy.v4", lambda rng, n: (probabilities(rng, n) * 0.9, probabilities(rng, n)),
        dict(wrt="probs", missing_value=1), None),
    Row("SequenceCategoricalCrossentropy.v4", sequences(lambda rng, n: (probabilities(rng, n), messy(rng, n))), SHARP,
        move=softmax_move),
    Row("SequenceCategoricalCrossentropy.v4", sequences(lambda rng, n: (probabilities(rng, n), rng.integers(0, 4, n))),
        dict(normalize_by_sequence=True, wrt="probs", label_smoothing=0.1)),
]  # fmt: skip

THINC_CASES: list[tuple[dict[str, Any], Sample]] = [
    ({}, lambda rng, n: (rng.random((n, 4)), rng.integers(0, 4, n))),
    (dict(normalize=False, label_smoothing=0.2), lambda rng, n: (rng.random((n, 4)), rng.integers(0, 4, n).tolist())),
    (SHARP, lambda rng, n: (rng.random((n, 4)), messy(rng, n, sets=False))),
    (dict(SHARP, label_smoothing=0.1), lambda rng, n: (rng.random((n, 4)), messy(rng, n, sets=False))),
    (dict(missing_value=1), lambda rng, n: (rng.random((n, 4)), rng.random((n, 4)))),
]
for version in ("v1", "v2", "v3"):
    for case_options, case_sample in THINC_CASES:
        ROWS += [
            Row(f"CategoricalCrossentropy.{version}", case_sample, case_options, thinc=True),
            Row(f"SequenceCategoricalCrossentropy.{version}", sequences(case_sample), case_options, thinc=True),
        ]
ROWS += [
    Row("L2Distance.v1", elements(3), thinc=True),
    Row("L2Distance.v1", elements(3), dict(normalize=False), thinc=True),
    Row("CosineDistance.v1", elements(3), thinc=True),
    Row("CosineDistance.v1", elements(3), dict(normalize=False, ignore_zeros=True), thinc=True),
]

TRUE_ROWS = [row for row in ROWS if not row.thinc]
