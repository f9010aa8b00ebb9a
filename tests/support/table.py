"""One row for each calculator and set of options; every law in laws/test_laws.py runs on every row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lossreg
from support.nested import each, take

try:
    import mpmath as mp
except ImportError:  # the laws that need it are skipped
    mp = None

Sample = Callable[[np.random.Generator, int], tuple[Any, Any]]


def make(name: str, **options: Any) -> Any:
    """A calculator by its full name."""
    return lossreg.registry.losses.get(name)(**options)


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
    axis: int = 0
    """The axis of guesses along which the items of a batch lie."""
    slack: float = 0.0
    """Absolute error that a value may have, where it is a difference of larger numbers."""
    host_truths: bool = False
    """Truths are read on the host, also for guesses on a device."""
    linear: bool = False
    """The gradient does not depend on the guesses, so that it hides a NaN in them."""

    def make(self, **more: Any) -> Any:
        return lossreg.registry.losses.get(self.name)(**{**self.options, **more})

    def take(self, guesses: Any, index: Any) -> Any:
        """Items of guesses or gradients."""
        if self.axis == 0:
            return take(guesses, index)
        return each(lambda x: x[(slice(None),) * self.axis + (index,)], guesses)

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

MEAN = dict(reduction="mean")
WEIGHTS = (0.5, 1.0, 2.0, 0.3, 1.5)


def log_probs(of: Callable[..., Any], shape: tuple[int, ...] = ()) -> Sample:
    def sample(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        x = rng.normal(size=(n, 5, *shape)) * 2
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True)), of(rng, (n, *shape))

    return sample


def signs(*shape: int, positive: bool = False) -> Sample:
    def sample(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        x = rng.normal(size=(n, *shape)) * 2
        return abs(x) if positive else x, rng.choice([-1.0, 1.0], (n, *shape))

    return sample


def vectors(outputs: int, *shape: int, truths: bool = False) -> Sample:
    def sample(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        guesses = tuple(rng.normal(size=(n, *shape)) for _ in range(outputs))
        return guesses, rng.choice([-1.0, 1.0], (n, *shape[:-1])) if truths else None

    return sample


def values(*shape: int) -> Sample:
    return lambda rng, n: (rng.normal(size=(n, *shape)) * 2, None)


def label_sets(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    found: list[Any] = [
        None if rng.random() < 0.1 else set(np.flatnonzero(rng.random(5) < 0.4).tolist()) for _ in range(shape[0])
    ]
    return found


def ended(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    found = np.stack([rng.permutation(5) for _ in range(shape[0])]) if shape[0] else np.zeros((0, 5), int)
    found[np.arange(5) == rng.integers(0, 5, shape[0])[:, None]] = -1
    return found


def speech(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Six frames of four classes; the second sequence does not fit its frames, the third is empty."""
    x = rng.normal(size=(6, n, 4))
    targets = rng.choice([0, 1, 3], (n, 3))
    frames, lengths = rng.integers(4, 7, n), rng.integers(1, 3, n)
    if n > 3:
        lengths[2], frames[3] = 0, 6
    return x - np.log(np.exp(x).sum(axis=2, keepdims=True)), (targets, frames, lengths)


def log_softmax_move(x: np.ndarray, index: tuple[int, ...], step: float) -> np.ndarray:
    x = x.copy()
    x[index] += step
    return x - np.log(np.exp(x).sum(axis=2, keepdims=True))


def plus(f: Callable[..., Any]) -> Callable[..., Any]:
    """A reference whose numbers come as mpmath's."""
    return lambda *args: f(
        *(mp.mpf(float(a)) if np.ndim(a) == 0 and isinstance(a, (float, np.floating)) else a for a in args)
    )


def ref_smooth_l1(x: Any, t: Any, o: Any) -> Any:
    beta, r = mp.mpf(o.get("beta", 1.0)), abs(x - t)
    return r * r / (2 * beta) if r < beta else r - beta / 2


def ref_quantile(x: Any, t: Any, o: Any) -> Any:
    q, r = mp.mpf(o.get("quantile", 0.5)), t - x
    return max(q * r, (q - 1) * r)


def ref_focal(x: Any, t: Any, o: Any) -> Any:
    p, other = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    entropy = (1 - t) * mp.log1p(mp.exp(x)) + t * mp.log1p(mp.exp(-x))
    weight = o["alpha"] * t + (1 - mp.mpf(o["alpha"])) * (1 - t) if "alpha" in o else 1
    return weight * (p * (1 - t) + other * t) ** mp.mpf(o.get("gamma", 2.0)) * entropy


def ref_poisson(x: Any, t: Any, o: Any) -> Any:
    eps = mp.mpf(o.get("eps", 1e-8))
    value = mp.exp(x) - (t * x if t else 0) if o.get("log_input", True) else x - t * mp.log(x + eps)
    return value + (t * mp.log(t) - t + mp.log(2 * mp.pi * t) / 2 if o.get("full") and t > 1 else 0)


def at_zero() -> tuple[Any, Any]:
    """Logits of 0, where formulas of |x| change sides."""
    return np.zeros((1, 3)), np.array([[0.0, 1.0, 0.3]])


def far_logits() -> tuple[Any, Any]:
    """Logits at which probabilities are 0 or 1, right and wrong, and one that is hardly a number."""
    far = [1000.0, 100.0, 40.0]
    guesses = [*far, *far, *far, *(-x for x in far * 3), TINY, 0.0, 5.0]
    truths = [1.0] * 3 + [0.0] * 3 + [1e-9, 0.5, 1 - 2**-53] + [0.0] * 3 + [1.0] * 3 + [TINY, 0.3, 1e-200]
    return np.array(guesses), np.array([*truths, 0.5, 1.0, 0.0])


def far_vectors() -> tuple[Any, Any]:
    """Vectors of zeros, of numbers that are hardly numbers, and of huge ones."""
    a = np.array([[0.0, 0.0], [0.0, 0.0], [TINY, 0.0], [1e-300, 2e-300], [1e300, -1e300], [1e-9, 1e-9], [1e150, 0.0]])
    b = np.array([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0], [1e300, 1e300], [2e300, 1e300], [1e-9, 0.0], [1e-150, 1.0]])
    return (a, b), None


def ref_kl(x: Any, t: Any, o: Any) -> Any:
    if o.get("log_target"):
        return mp.mpf(0) if mp.isinf(t) else mp.exp(t) * (t - x)
    return t * (mp.log(t) - x) if t else mp.mpf(0)


def ref_bce(x: Any, t: Any, o: Any) -> Any:
    yes, no = (max(mp.log(p), mp.mpf(-100)) if p else mp.mpf(-100) for p in (x, 1 - x))
    return -(t * yes + (1 - t) * no)


def ref_nll(x: Any, t: Any, o: Any) -> Any:
    if t == o.get("ignore_index", -100):
        return mp.mpf(0)
    y = o["names"].index(t) if isinstance(t, str) else int(t)
    return -mp.mpf((o.get("class_weight") or WEIGHTS)[y] if "class_weight" in o else 1) * mp.mpf(float(x[y]))


def ref_multi_margin(x: Any, t: Any, o: Any) -> Any:
    y = o["names"].index(t) if isinstance(t, str) else int(t)
    x, w = mp_row(x), mp.mpf(o["class_weight"][y]) if "class_weight" in o else 1
    gaps = [
        max(mp.mpf(0), mp.mpf(o.get("margin", 1.0)) - x[y] + x[i]) ** o.get("p", 1) for i in range(len(x)) if i != y
    ]
    return w * mp_sum(gaps) / len(x)


def ref_multilabel(x: Any, t: Any, o: Any) -> Any:
    if t is None:
        return mp.mpf(0)
    names = o.get("names")
    if isinstance(t, np.ndarray):
        t = t[: np.argmax(t == -1)] if (t == -1).any() else t
    x, inside = mp_row(x), {names.index(j) if isinstance(j, str) else int(j) for j in t}
    pairs = [(j, i) for j in inside for i in range(len(x)) if i not in inside]
    return mp_sum(max(mp.mpf(0), 1 - (x[j] - x[i])) for j, i in pairs) / len(x)


def ref_multi_soft(x: Any, t: Any, o: Any) -> Any:
    if t is None:
        return mp.mpf(0)
    if isinstance(t, set):
        t = [float(i in t) for i in range(len(x))]
    w = o.get("class_weight") or [1] * len(x)
    parts = [ref_bce_logits(a, b, {}) * mp.mpf(w[i]) for i, (a, b) in enumerate(zip(x, t, strict=True))]
    return mp_sum(parts) / len(parts)


def mp_cosine(a: Any, b: Any, eps: Any = 0, least: Any = 0) -> Any:
    aa, bb = mp.fdot(a, a), mp.fdot(b, b)
    return mp.fdot(a, b) / (max(mp.sqrt(aa + eps), least) * max(mp.sqrt(bb + eps), least))


def ref_cosine_embedding(x: Any, t: Any, o: Any) -> Any:
    cosine = mp_cosine(*map(mp_row, x), eps=mp.mpf("1e-12"))
    return 1 - cosine if t > 0 else max(mp.mpf(0), cosine - mp.mpf(o.get("margin", 0.0)))


def ref_similarity(x: Any, t: Any, o: Any) -> Any:
    return mp_cosine(*map(mp_row, x), least=mp.mpf(o.get("eps", 1e-8)))


def ref_negative_cosine(x: Any, t: Any, o: Any) -> Any:
    a, b = map(mp_row, x)
    eps = mp.mpf(o.get("eps", 1e-8))
    return -mp.fdot(a, b) / ((mp.sqrt(mp.fdot(a, a)) + eps) * (mp.sqrt(mp.fdot(b, b)) + eps))


def mp_distance(a: Any, b: Any, o: Any) -> Any:
    p = o.get("p", 2.0)
    r = [abs(u - v + mp.mpf(o.get("eps", 1e-6))) for u, v in zip(a, b, strict=True)]
    if p in (0, np.inf):
        return mp.mpf(sum(v != 0 for v in r)) if p == 0 else max(r)
    return mp_sum(v ** mp.mpf(p) for v in r) ** (1 / mp.mpf(p))


def ref_pairwise(x: Any, t: Any, o: Any) -> Any:
    return mp_distance(*map(mp_row, x), o)


def ref_triplet(x: Any, t: Any, o: Any) -> Any:
    anchor, positive, negative = map(mp_row, x)
    far = mp_distance(anchor, negative, o)
    if o.get("swap"):
        far = min(far, mp_distance(positive, negative, o))
    return max(mp.mpf(0), mp.mpf(o.get("margin", 1.0)) + mp_distance(anchor, positive, o) - far)


def ref_ctc(x: Any, t: Any, o: Any) -> Any:
    """All paths, one by one."""
    target, frames, length = t
    wanted, total = tuple(int(y) for y in target[:length]), mp.mpf(0)
    for path in itertools.product(range(x.shape[1]), repeat=int(frames)):
        merged = [c for i, c in enumerate(path) if i == 0 or c != path[i - 1]]
        if tuple(c for c in merged if c != o["blank"]) == wanted:
            total += mp.exp(mp_sum(mp.mpf(float(x[i, c])) for i, c in enumerate(path)))
    if not total:
        return mp.mpf(0) if o.get("zero_infinity") else mp.inf
    return -mp.log(total)


ROWS += [
    Row("MeanAbsoluteError.v1", elements(3), value=plus(lambda x, t, o: abs(x - t)), kinks=lambda: (np.zeros(3), np.array([0.0, 1.0, -1.0])),
        extremes=lambda: (np.array([0.0, TINY, 1e308, -1e308, 1.0]), np.zeros(5))),
    Row("SmoothL1.v1", elements(3), value=plus(ref_smooth_l1), kinks=lambda: (np.array([1.0, -1.0, 0.0]), np.zeros(3)),
        extremes=lambda: (np.array([0.0, TINY, 1e-160, 1e308, -1e308]), np.zeros(5))),
    Row("SmoothL1.v1", elements(3), dict(beta=0.5), plus(ref_smooth_l1), lambda: (np.array([0.5, -0.5]), np.zeros(2))),
    Row("SmoothL1.v1", elements(3), dict(beta=0.0), plus(ref_smooth_l1), lambda: (np.zeros(2), np.zeros(2))),
    Row("Quantile.v1", elements(3), value=plus(ref_quantile), kinks=lambda: (np.zeros(3), np.array([0.0, 1.0, -1.0])),
        extremes=lambda: (np.array([0.0, TINY, 1e308, -1e308, 1.0, -1e-160]), np.zeros(6))),
    Row("Quantile.v1", elements(2, 3), dict(quantile=0.9), plus(ref_quantile), lambda: (np.ones(3), np.array([1.0, 2.0, 0.0])),
        extremes=lambda: (np.array([0.0, TINY, 1e308, -1e308, 1.0, -1e-160]), np.zeros(6))),
    Row("PoissonNLL.v1", lambda rng, n: (rng.normal(size=(n, 3)), rng.poisson(3, (n, 3)).astype(float)), value=plus(ref_poisson), slack=1e-14,
        extremes=lambda: (np.array([-np.inf, -1000.0, 0.0, 700.0, TINY]), np.array([0.0, 2.0, 0.0, 1e300, 3.0]))),
    Row("PoissonNLL.v1", lambda rng, n: (rng.normal(size=(n, 3)), rng.poisson(3, (n, 3)).astype(float)), dict(full=True), plus(ref_poisson), slack=1e-14),
    Row("PoissonNLL.v1", lambda rng, n: (rng.random((n, 3)) * 5, rng.poisson(3, (n, 3)).astype(float)),
        dict(log_input=False, full=True, eps=0.01), plus(ref_poisson), slack=1e-14),
    Row("KLDivergence.v1", log_probs(dense), value=plus(ref_kl), slack=1e-15, linear=True,
        extremes=lambda: (np.array([-np.inf, 0.0, -1000.0, -1.0]), np.array([0.0, 0.0, 1.0, TINY]))),
    Row("KLDivergence.v1", log_probs(lambda rng, shape: np.log(dense(rng, shape))), dict(log_target=True), plus(ref_kl), slack=1e-15, linear=True,
        extremes=lambda: (np.array([-np.inf, 0.0, -1000.0]), np.array([-np.inf, -np.inf, 0.0]))),
    Row("BinaryCrossEntropy.v1", lambda rng, n: (rng.random((n, 3)) * 0.98 + 0.01, rng.random((n, 3))), value=plus(ref_bce),
        extremes=lambda: (np.array([0.0, 1.0, 0.0, 1.0, 1e-300, TINY, 0.5]), np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.5]))),
    Row("SoftMargin.v1", signs(3), value=plus(lambda x, t, o: mp.log1p(mp.exp(-t * x))), kinks=lambda: (np.zeros(2), np.array([1.0, -1.0])),
        extremes=lambda: (np.array([1000.0, -1000.0, 1000.0, -1000.0, TINY, 40.0]), np.array([-1.0, 1.0, 1.0, -1.0, 1.0, 1.0]))),
    Row("SigmoidFocal.v1", binary(3), value=plus(ref_focal), slack=1e-18, kinks=at_zero, extremes=far_logits),
    Row("SigmoidFocal.v1", binary(3), dict(alpha=0.25, gamma=0.3), plus(ref_focal), at_zero, extremes=far_logits),
    Row("SigmoidFocal.v1", binary(), dict(gamma=0.0), plus(ref_focal), at_zero, extremes=far_logits),
    Row("SigmoidFocal.v1", binary(2, 3), dict(alpha=1.0, gamma=5.0), plus(ref_focal), slack=1e-18, extremes=far_logits),
    Row("HingeEmbedding.v1", signs(3, positive=True), value=plus(lambda x, t, o: x if t > 0 else max(mp.mpf(0), 1 - x)),
        kinks=lambda: (np.array([1.0, 1.0, 0.0]), np.array([-1.0, 1.0, -1.0])),
        extremes=lambda: (np.array([0.0, TINY, 1e308, -1e308]), np.array([-1.0, -1.0, -1.0, -1.0]))),
    Row("HingeEmbedding.v1", signs(3), dict(margin=0.3), plus(lambda x, t, o: x if t > 0 else max(mp.mpf(0), mp.mpf(0.3) - x)),
        lambda: (np.array([0.3]), np.array([-1.0]))),
    Row("MultiMargin.v1", labels(ids), value=ref_multi_margin, slack=1e-15, kinks=lambda: (np.array([[1.0, 0.0, 2.0, -5.0, 1.0]]), np.array([0])),
        extremes=lambda: (BIG_LOGITS[:4], np.array([0, 1, 0, 2]))),
    Row("MultiMargin.v1", labels(lambda rng, shape: np.array(list("abcde"))[ids(rng, shape)]),
        dict(p=2, margin=0.4, class_weight=WEIGHTS, names=tuple("abcde")), ref_multi_margin, slack=1e-15),
    Row("MultiLabelMargin.v1", labels(ended), value=ref_multilabel, slack=2e-15, host_truths=True,
        kinks=lambda: (np.array([[1.0, 0.0, 2.0, -5.0, 1.0]]), np.array([[0, 2, -1, 0, 0]]))),
    Row("MultiLabelMargin.v1", labels(lambda rng, shape: [None if t is None else {"abcde"[i] for i in t} for t in label_sets(rng, shape)]),
        dict(names=tuple("abcde")), ref_multilabel, slack=2e-15),
    Row("MultiLabelSoftMargin.v1", labels(label_sets), value=ref_multi_soft),
    Row("MultiLabelSoftMargin.v1", labels(lambda rng, shape: rng.random((*shape, 5))), dict(class_weight=WEIGHTS), ref_multi_soft,
        extremes=lambda: (BIG_LOGITS[:2], np.eye(5)[:2])),
    Row("MultiLabelSoftMargin.v1", labels(lambda rng, shape: [None if t is None else {"abcde"[i] for i in t} for t in label_sets(rng, shape)]),
        dict(names=tuple("abcde"))),
    Row("NLL.v1", log_probs(ids), value=ref_nll, linear=True, extremes=lambda: (np.array([[-1e300, -TINY, 0.0, -1.0, -np.inf]] * 3), np.array([0, 1, 2]))),
    Row("NLL.v1", log_probs(some_ignored, (2,)), dict(class_weight=WEIGHTS, ignore_index=-7), ref_nll, linear=True),
    Row("NLL.v1", log_probs(lambda rng, shape: np.array(list("abcde"))[ids(rng, shape)]), dict(names=tuple("abcde")), ref_nll, linear=True),
    Row("CosineEmbedding.v1", vectors(2, 6, truths=True), value=ref_cosine_embedding, slack=1e-15),
    Row("CosineEmbedding.v1", vectors(2, 6, truths=True), dict(margin=0.2), ref_cosine_embedding, slack=1e-15),
    Row("CosineSimilarity.v1", vectors(2, 6), MEAN, ref_similarity, slack=1e-15),
    Row("CosineSimilarity.v1", vectors(2, 2, 3), dict(MEAN, axis=-1, eps=1.5), None),
    Row("NegativeCosineSimilarity.v1", vectors(2, 6), value=ref_negative_cosine, slack=1e-15, extremes=far_vectors),
    Row("NegativeCosineSimilarity.v1", vectors(2, 6), dict(eps=20.0), ref_negative_cosine, slack=1e-15,
        kinks=lambda: ((np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]), np.array([[3.0, -1.0], [0.0, 0.0], [0.0, 0.0]])), None)),
    Row("NegativeCosineSimilarity.v1", vectors(2, 2, 3), {}, None),
    Row("Value.v1", values(3), value=plus(lambda x, o: x), linear=True, extremes=lambda: (np.array([0.0, TINY, 1e308, -1e308]), None)),
    Row("AbsoluteValue.v1", values(2, 3), value=plus(lambda x, o: abs(x)), kinks=lambda: (np.zeros(3), None),
        extremes=lambda: (np.array([0.0, -TINY, 1e308, -1e308, -1.0]), None)),
    *(Row("PairwiseDistance.v1", vectors(2, 4), dict(MEAN, p=p), ref_pairwise, slack=1e-15, linear=p == 0) for p in (2.0, 1.0, 3.0, np.inf, 0.0)),
    Row("PairwiseDistance.v1", vectors(2, 4), dict(MEAN, p=1.5, eps=0.1), ref_pairwise,
        extremes=lambda: ((np.array([[1e300, -1e300, 0.0, 1.0], [1e-300, 0.0, 0.0, 0.0]]), np.zeros((2, 4))), None)),
    Row("PairwiseDistance.v1", vectors(2, 3, 4), dict(MEAN, keepdims=True)),
    Row("TripletMargin.v1", vectors(3, 4), value=ref_triplet, slack=2e-15),
    Row("TripletMargin.v1", vectors(3, 4), dict(margin=0.5, p=1.0, eps=0.01, swap=True), ref_triplet, slack=2e-15),
    Row("CTC.v1", speech, dict(blank=2), ref_ctc, axis=1, host_truths=True),
    Row("CTC.v1", speech, dict(blank=2, wrt="logits", zero_infinity=True), ref_ctc, move=log_softmax_move, axis=1, host_truths=True),
]  # fmt: skip
ranked = vectors(2, 3)
ROWS.append(
    Row(
        "MarginRanking.v1",
        lambda rng, n: (ranked(rng, n)[0], rng.choice([-1.0, 1.0], (n, 3))),
        value=plus(lambda a, b, t, o: max(mp.mpf(0), -t * (a - b))),
        kinks=lambda: ((np.ones(2), np.ones(2)), np.array([1.0, -1.0])),
    )
)
ROWS.append(
    Row(
        "MarginRanking.v1",
        lambda rng, n: (ranked(rng, n)[0], rng.choice([-1.0, 1.0], (n, 3))),
        dict(margin=0.3),
        plus(lambda a, b, t, o: max(mp.mpf(0), -t * (a - b) + mp.mpf(0.3))),
        slack=1e-16,
    )
)

ROWS += [
    Row("Sequence.v1", lambda rng, n: (rng.normal(size=(n, 3, 5)) * 2, some_ignored(rng, (n, 3))),
        dict(inner=lossreg.CrossEntropy(class_weight=WEIGHTS, ignore_index=-7))),
    Row("Sequence.v1", elements(3, 2), dict(inner=lossreg.Huber(delta=0.7))),
    Row("Sequence.v1", vectors(2, 3, 4), dict(inner=lossreg.CosineSimilarity(axis=-1), reduction="mean")),
]  # fmt: skip

TRUE_ROWS = [row for row in ROWS if not row.thinc]
