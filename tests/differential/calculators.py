"""For each calculator: random options, guesses and truths inside its documented domain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .drawing import Arrangement, Draw
from .labels import LabelDraw, draw_dense, draw_labels, draw_options
from .reference import Labels

__all__ = ["RECIPES", "Spec"]


@dataclass
class Spec:
    """Guesses and truths before they are stored in a dtype, a layout and an arrangement."""

    options: dict[str, Any]
    arrangement: Arrangement
    guesses: list[np.ndarray]
    values_shape: tuple[int, ...]
    layout: Any = "elements"
    """Where classes and vectors lie: "elements", "broadcast", "classes", "vectors", "linear", "time", or an axis."""
    truths: Any = None
    truth_kind: str = "none"
    """"none", "numbers", "signs" (1 and -1), "labels", "multi" (sets of all labels), "alignment"."""
    tags: set[str] = field(default_factory=set)
    """"bounded": gradients are never infinite. "exact": on small whole numbers the result has no rounding. "thinc": no masks, weights, reductions."""
    unit: bool = False
    """Guesses in [0, 1], where rounding to a dtype must not leave it."""
    fractions: bool = True
    """Guesses are no whole numbers."""
    garbage: Any = np.nan
    """What a truth may hold where it is masked."""


Recipe = Callable[[Draw, str], Spec]
RECIPES: dict[str, Recipe] = {}


def recipe(*names: str) -> Callable[[Recipe], Recipe]:
    def add(function: Recipe) -> Recipe:
        RECIPES.update(dict.fromkeys(names, function))
        return function

    return add


def draw_shape(d: Draw, kinds: str = "array list ragged padded") -> tuple[Arrangement, tuple[int, ...]]:
    """(arrangement, shape of the values); sometimes one value without any axis."""
    if d.chance(0.04):
        return Arrangement("array", 1), ()
    arrangement = Arrangement.draw(d, kinds)
    return arrangement, (arrangement.n, *(d.inner() if arrangement.n < 1000 else ()))


# Elements


def residual(d: Draw, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Guesses and truths around each other, or on a lattice."""
    if d.chance(0.2):
        return d.lattice(shape), d.lattice(shape), {"lattice", "exact"}
    x = d.numbers(shape, extreme=d.extreme)
    t = d.numbers(shape, extreme=d.extreme)
    return x, t, set()


@recipe("MeanSquaredError.v1", "MeanAbsoluteError.v1", "Huber.v1", "SmoothL1.v1", "Quantile.v1")
def residuals(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {}
    dyadic = d.pick([0.25, 0.5, 1.0, 2.0])
    if name == "Huber.v1" and d.chance(0.7):
        options["delta"] = d.pick([dyadic, d.uniform(1e-3, 5), 1e-6, 1e6])
    if name == "SmoothL1.v1" and d.chance(0.7):
        options["beta"] = d.pick([0.0, dyadic, d.uniform(1e-3, 5), 1e-6, 1e6])
    if name == "Quantile.v1" and d.chance(0.8):
        options["quantile"] = d.pick([0.25, 0.75, d.uniform(0.01, 0.99), 1e-3])
    arrangement, shape = draw_shape(d)
    x, t, tags = residual(d, shape)
    return Spec(options, arrangement, [x], shape, truths=t, truth_kind="numbers", tags=tags, fractions=False)


@recipe("PoissonNLL.v1")
def poisson(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {}
    if d.chance(0.5):
        options["log_input"] = d.chance(0.5)
    if d.chance(0.5):
        options["full"] = True
    if d.chance(0.3):
        options["eps"] = d.pick([1e-3, 0.5, d.uniform(1e-6, 1)])
    arrangement, shape = draw_shape(d)
    t = d.pick([d.rng.poisson(3, shape), abs(d.numbers(shape, extreme=min(d.extreme, 20))), d.rng.poisson(0.5, shape)])
    if options.get("log_input", True):
        x = np.clip(d.numbers(shape, extreme=min(d.extreme, 20)), -1e20, 90 if d.chance(0.05) else 20)
        if d.chance(0.1) and d.floats:
            x = np.where((t == 0) & (d.rng.random(shape) < 0.5), -np.inf, x)
    else:
        x = abs(d.numbers(shape, extreme=min(d.extreme, 20)))
    if d.chance(0.02) and d.floats:  # the limit is +inf where numbers of a dtype end
        x, t = np.full(shape, 1e10), np.full(shape, 1e30)
    return Spec(options, arrangement, [x], shape, truths=t * 1.0, truth_kind="numbers", fractions=False, garbage=-1.0)


def binary_truths(d: Draw, shape: tuple[int, ...]) -> np.ndarray:
    t = d.rng.random(shape)
    hard = (t > 0.5).astype(float)
    return d.pick([hard, hard, np.where(t < 0.3, 0.0, np.where(t > 0.7, 1.0, t)), t])


@recipe("BinaryCrossEntropyWithLogits.v1", "SigmoidFocal.v1")
def binary_logits(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {}
    arrangement, shape = draw_shape(d)
    last = shape[-1] if shape else 1
    if name.startswith("Binary"):
        if arrangement.kind != "array" and len(shape) < 2 and not (shape and d.chance(0.3)):
            last = 1
        for key in ("pos_weight", "class_weight"):
            if d.chance(0.35) and last < 1000:
                weight = tuple(d.uniform(0, 3) if d.chance(0.9) else 0.0 for _ in range(d.pick([last, last, 1]) or 1))
                if len(weight) in (1, last):
                    options[key] = weight
    else:
        if d.chance(0.6):
            options["alpha"] = d.pick([0.25, d.uniform(0, 1), 0.0, 1.0])
        if d.chance(0.7):
            options["gamma"] = d.pick([0.0, 1.0, 2.0, 0.5, d.uniform(0, 5)])
    x, t = d.numbers(shape, 3, min(d.extreme, 15)), binary_truths(d, shape)
    if d.chance(0.06) and d.floats:
        x = np.where(d.rng.random(shape) < 0.3, np.where(t > 0.5, np.inf, -np.inf), x)
    return Spec(options, arrangement, [x], shape, truths=t, truth_kind="numbers", fractions=False, garbage=7.0)


@recipe("BinaryCrossEntropy.v1")
def binary(d: Draw, name: str) -> Spec:
    arrangement, shape = draw_shape(d)
    x = d.rng.random(shape)
    if d.chance(0.3):
        x = np.where(x < 0.2, 10 ** (-30 * d.rng.random(shape)), x)
    if d.chance(0.2):
        x = np.where(x < 0.2, 0.0, np.where(x > 0.8, 1.0, x))
    return Spec(
        {}, arrangement, [x], shape, truths=binary_truths(d, shape), truth_kind="numbers", unit=True, garbage=-0.5
    )


def signs(d: Draw, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(d.rng.random(shape) < 0.5, -1.0, 1.0)


@recipe("SoftMargin.v1", "HingeEmbedding.v1")
def signed(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {}
    if name == "HingeEmbedding.v1" and d.chance(0.6):
        options["margin"] = d.pick([0.5, 2.0, -0.25, 0.0, d.uniform(0, 3)])
    arrangement, shape = draw_shape(d)
    lattice = d.chance(0.25)
    x = d.lattice(shape) if lattice else d.numbers(shape, 3, d.extreme)
    tags = {"lattice", "exact", "signs"} if lattice and name == "HingeEmbedding.v1" else {"signs"}
    return Spec(
        options,
        arrangement,
        [x],
        shape,
        truths=signs(d, shape),
        truth_kind="signs",
        tags=tags,
        fractions=False,
        garbage=0.0,
    )


@recipe("KLDivergence.v1")
def kl_divergence(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {"log_target": True} if d.chance(0.4) else {}
    arrangement, shape = draw_shape(d)
    x, t = -abs(d.numbers(shape, 3, min(d.extreme, 15))), d.rng.random(shape)
    t = np.where(t < d.pick([0.0, 0.2]), 0.0, t)
    if d.chance(0.1) and d.floats:
        x = np.where(t == 0, -np.inf, x)
    if options:
        with np.errstate(divide="ignore"):
            t = np.log(t)
    garbage = np.nan if options else 2.0
    return Spec(options, arrangement, [x], shape, truths=t, truth_kind="numbers", fractions=False, garbage=garbage)


@recipe("Value.v1", "AbsoluteValue.v1")
def values(d: Draw, name: str) -> Spec:
    arrangement, shape = draw_shape(d)
    lattice = d.chance(0.3)
    x = d.lattice(shape) if lattice else d.numbers(shape, extreme=d.extreme)
    return Spec({}, arrangement, [x], shape, tags={"lattice", "exact"} if lattice else set(), fractions=False)


@recipe("MarginRanking.v1")
def margin_ranking(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {"margin": d.pick([0.5, 0.25, d.uniform(-1, 2)])} if d.chance(0.6) else {}
    arrangement, shape = draw_shape(d)
    shapes, layout = [shape, shape], "elements"
    if arrangement.kind == "array" and shape and d.chance(0.3):
        layout = "broadcast"
        for i in range(2):
            if d.chance(0.5):
                shapes[i] = tuple(1 if d.chance(0.4) else n for n in shape)[d.pick([0, 0, 1]) :]
        shape = np.broadcast_shapes(*shapes)
    lattice = d.chance(0.25)
    guesses = [d.lattice(s) if lattice else d.numbers(s, extreme=min(d.extreme, 25)) for s in shapes]
    tags = {"signs"} | ({"lattice", "exact"} if lattice else set())
    arrangement.n = shape[0] if shape else 1
    return Spec(
        options, arrangement, guesses, shape, layout, signs(d, shape), "signs", tags, fractions=False, garbage=0.0
    )


# Classes


def draw_rows(
    d: Draw, kinds: str = "array list ragged padded", inner: bool = True
) -> tuple[Arrangement, tuple[int, ...], int]:
    """(arrangement, shape of the values, classes)."""
    arrangement, shape = draw_shape(d, kinds)
    if not inner or arrangement.kind == "padded":
        shape = shape[:1]
    classes = d.classes()
    if arrangement.n > 100_000:
        arrangement.n, shape = arrangement.n // 4, (arrangement.n // 4, *shape[1:])
    return arrangement, shape, classes


def logits(d: Draw, shape: tuple[int, ...], classes: int) -> np.ndarray:
    """Rows of scores, sometimes confident ones."""
    if d.chance(0.15):
        return d.rng.normal(size=(*shape, classes)) * 40
    return d.numbers((*shape, classes), 2, d.extreme)


def classes_layout(arrangement: Arrangement) -> Any:
    """Beside (B, T) classes lie along the last axis."""
    return "vectors" if arrangement.kind == "padded" else "classes"


def draw_weights(d: Draw, classes: int) -> dict[str, Any]:
    if not d.chance(0.35):
        return {}
    weight = [d.uniform(0.1, 3) if d.chance(0.9) else 0.0 for _ in range(classes)]
    if d.chance(0.03):
        size = d.pick([1e-30, 1e-44, 1e39, 1e-200, 1e200])
        weight = [w * size * d.pick([1.0, 1e-9, 1e9]) for w in weight]
    return {"class_weight": tuple(weight)}


def impossible(d: Draw, x: np.ndarray, meaning: Labels) -> np.ndarray:
    """-inf for some classes that are neither candidates nor all."""
    if not d.floats or not d.chance(0.08) or x.shape[-1] < 2:
        return x
    rows = x.reshape(-1, x.shape[-1]).copy()
    wanted = meaning.members if meaning.members is not None else meaning.dense > 0
    wanted = wanted | (np.arange(x.shape[-1]) == (wanted.argmax(axis=1) + (wanted.sum(axis=1) == 0))[:, None])
    rows[~wanted & (d.rng.random(rows.shape) < 0.4)] = -np.inf
    return rows.reshape(x.shape)


@recipe("CrossEntropy.v1")
def cross_entropy(d: Draw, name: str) -> Spec:
    arrangement, shape, classes = draw_rows(d)
    options = {**draw_options(d, classes, "names missing_value neg_prefix ignore_index"), **draw_weights(d, classes)}
    if d.chance(0.4):
        options["label_smoothing"] = d.pick([0.1, 1.0, d.uniform(0, 1)])
    n = int(np.prod(shape))
    drawn = (
        draw_dense(d, n, classes, options)
        if d.chance(0.25)
        else draw_labels(d, n, classes, options, sets=True, ignores=True)
    )
    x = logits(d, shape, classes)
    if "label_smoothing" not in options:
        x = impossible(d, x, drawn.meaning)
    return Spec(options, arrangement, [x], shape, classes_layout(arrangement), drawn, "labels", fractions=False)


@recipe("NLL.v1")
def nll(d: Draw, name: str) -> Spec:
    arrangement, shape, classes = draw_rows(d)
    options = {**draw_options(d, classes, "names ignore_index"), **draw_weights(d, classes)}
    drawn = draw_labels(d, int(np.prod(shape)), classes, options, sets=False, ignores=True)
    x = logits(d, shape, classes)
    return Spec(options, arrangement, [x], shape, classes_layout(arrangement), drawn, "labels", fractions=False)


def probabilities(d: Draw, shape: tuple[int, ...], classes: int) -> np.ndarray:
    x = d.rng.normal(size=(*shape, classes)) * d.pick([1, 1, 4, 30])
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


@recipe("CategoricalCrossentropy.v4", "SequenceCategoricalCrossentropy.v4")
def version_4(d: Draw, name: str) -> Spec:
    sequence = name.startswith("Sequence")
    arrangement, shape, classes = draw_rows(d, "list ragged" if sequence else "array list ragged padded", not sequence)
    if sequence and not shape:
        arrangement, shape = Arrangement("list", 1, (1,)), (1,)
    options = {**draw_options(d, classes, "names missing_value neg_prefix"), **draw_weights(d, classes)}
    tags: set[str] = set()
    if d.chance(0.4):
        options["wrt"] = "probs"
        tags.add("bounded")
    if sequence and d.chance(0.4):
        options["normalize_by_sequence"] = True
    n = int(np.prod(shape))
    dense = d.chance(0.2)
    drawn = (
        draw_dense(d, n, classes, options) if dense else draw_labels(d, n, classes, options, sets=True, ignores=False)
    )
    if not dense and classes > 1 and d.chance(0.4):
        options["label_smoothing"] = d.uniform(0, 0.99 * (classes - 1) / classes)
    p = probabilities(d, shape, classes)
    if options.get("wrt") == "probs" and d.chance(0.5):
        p = d.rng.random(p.shape)
    return Spec(options, arrangement, [p], shape, classes_layout(arrangement), drawn, "labels", tags, unit=True)


@recipe("LinearCrossEntropy.v1")
def linear_cross_entropy(d: Draw, name: str) -> Spec:
    arrangement, shape, classes = draw_rows(d, "array", False)
    shape = shape or (1,)
    if shape[0] > 1000:
        shape = (200,)
        arrangement.n = 200
    options = {**draw_options(d, classes, "names missing_value neg_prefix ignore_index"), **draw_weights(d, classes)}
    if d.chance(0.4):
        options["label_smoothing"] = d.uniform(0, 1)
    if d.chance(0.4):
        options["softcap"] = d.pick([5.0, 30.0, d.uniform(0.5, 50)])
    if d.chance(0.4):
        options["z_loss"] = d.pick([1e-4, 0.5, d.uniform(0, 1)])
    if d.chance(0.02):
        options["softcap"] = 1e300
    n, width = shape[0], d.r.randint(1, 6)
    drawn = (
        draw_dense(d, n, classes, options)
        if d.chance(0.2)
        else draw_labels(d, n, classes, options, sets=True, ignores=True)
    )
    guesses = [d.rng.normal(size=(n, width)) * d.pick([1, 1, 10]), d.rng.normal(size=(classes, width)) * d.pick([1, 3])]
    if d.chance(0.5):
        guesses.append(d.rng.normal(size=classes))
    return Spec(options, arrangement, guesses, shape, "linear", drawn, "labels", fractions=False)


@recipe("MultiMargin.v1")
def multi_margin(d: Draw, name: str) -> Spec:
    arrangement, shape, classes = draw_rows(d, inner=False)
    if arrangement.n > 1000:
        arrangement.n, shape = 900, (900,)
    options = {**draw_options(d, classes, "names"), **draw_weights(d, classes)}
    if d.chance(0.5):
        options["p"] = 2
    if d.chance(0.5):
        options["margin"] = d.pick([0.5, 0.25, d.uniform(0, 3)])
    drawn = draw_labels(d, int(np.prod(shape)), classes, options, sets=False, ignores=False)
    lattice = d.chance(0.3)
    x = d.lattice((*shape, classes)) if lattice else d.numbers((*shape, classes), 1, min(d.extreme, 15))
    tags = {"lattice", "exact"} if lattice else set()
    return Spec(options, arrangement, [x], shape, classes_layout(arrangement), drawn, "labels", tags, fractions=False)


def draw_sets(d: Draw, n: int, classes: int, options: dict[str, Any], ended: bool) -> LabelDraw:
    """The set of all labels of each row, which may be empty."""
    members = d.rng.random((n, classes)) < d.pick([0.2, 0.5, 0.9])
    names, present = options.get("names"), np.ones(n, bool)
    if ended and d.chance(0.5):  # ids up to the first -1
        rows = d.rng.integers(-1, classes, (n, classes))
        for row, some in zip(rows, members):
            ids = d.rng.permutation(np.flatnonzero(some))
            row[: len(ids)] = ids
            if len(ids) < classes:
                row[len(ids)] = -1
        return LabelDraw(Labels(members, present=present), rows=rows)
    atoms: list[Any] = []
    for row in range(n):
        if d.chance(0.1):
            present[row] = False
            atoms.append(None)
            continue
        ids = np.flatnonzero(members[row]).tolist()
        labels = [names[c] if names and d.chance(0.5) else c for c in ids]
        # A list of two numbers 0 and 1 of two classes may be a row of bits, and is refused.
        container = d.pick([set, frozenset] if classes == 2 else [set, frozenset, list, tuple])
        atoms.append(container(labels))
    return LabelDraw(Labels(members, present=present), atoms)


@recipe("MultiLabelMargin.v1")
def multi_label_margin(d: Draw, name: str) -> Spec:
    arrangement, shape, classes = draw_rows(d, "array list", inner=False)
    shape = shape or (1,)
    if arrangement.n > 1000:
        arrangement.n, shape = 300, (300,)
    options = draw_options(d, classes, "names")
    drawn = draw_sets(d, shape[0], classes, options, arrangement.kind == "array")
    lattice = d.chance(0.4)
    x = d.lattice((*shape, classes)) if lattice else d.numbers((*shape, classes), 1, min(d.extreme, 15))
    tags = {"lattice", "exact"} if lattice else set()
    return Spec(options, arrangement, [x], shape, "vectors", drawn, "multi", tags, fractions=False)


@recipe("MultiLabelSoftMargin.v1")
def multi_label_soft_margin(d: Draw, name: str) -> Spec:
    sets = d.chance(0.5)
    arrangement, shape, classes = draw_rows(d, "array list" if sets else "array list ragged padded", not sets)
    options = draw_weights(d, classes)
    if sets:
        shape = shape or (1,)
        options |= draw_options(d, classes, "names")
        drawn = draw_sets(d, shape[0], classes, options, False)
        kind = "multi"
    else:
        t = binary_truths(d, (*shape, classes))
        drawn, kind = t, "rows"
    x = d.numbers((*shape, classes), 3, min(d.extreme, 15))
    return Spec(options, arrangement, [x], shape, "vectors", drawn, kind, fractions=False, garbage=5.0)


# Vectors


def draw_vectors(d: Draw, many: int, extreme: float) -> tuple[Arrangement, tuple[int, ...], list[np.ndarray]]:
    arrangement, shape = draw_shape(d)
    width = d.pick([1, 2, 3, 4, 4, 7, 20])
    if arrangement.n > 10_000:
        arrangement.n, shape = arrangement.n // 8, (arrangement.n // 8,)
    guesses = [d.numbers((*shape, width), 1, extreme) for _ in range(many)]
    if d.chance(0.2):
        guesses[1] = np.where(d.rng.random((*shape, 1)) < 0.5, guesses[0] * d.pick([1.0, -2.0]), guesses[1])
    return arrangement, shape, guesses


@recipe(
    "CosineEmbedding.v1",
    "CosineSimilarity.v1",
    "NegativeCosineSimilarity.v1",
    "PairwiseDistance.v1",
    "TripletMargin.v1",
)
def vectors(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {}
    tags: set[str] = {"lattice"}
    arrangement, shape, guesses = draw_vectors(d, 3 if name[0] == "T" else 2, min(d.extreme, 12))
    layout: Any = "vectors"
    spec = Spec(options, arrangement, guesses, shape, layout, tags=tags, fractions=False)
    if name == "CosineEmbedding.v1":
        if d.chance(0.6):
            options["margin"] = d.uniform(-1, 1)
        spec.truths, spec.truth_kind, spec.garbage = signs(d, shape), "signs", 0.0
        tags.add("signs")
    if name in ("CosineSimilarity.v1", "NegativeCosineSimilarity.v1") and d.chance(0.6):
        options["eps"] = d.pick([1e-3, 0.7, d.uniform(0.01, 3)])
        if d.chance(0.03):
            options["eps"] = 1e-300
    if name == "CosineSimilarity.v1":
        axes = len(shape) + 1
        first = 1 if arrangement.kind != "array" else 0
        spec.layout = 1 if axes > 1 else -1
        if axes == 1 or d.chance(0.5):
            options["axis"] = spec.layout = d.pick([*range(first, axes), -1])
        if arrangement.kind == "padded":
            options["axis"] = spec.layout = -1
    if name in ("PairwiseDistance.v1", "TripletMargin.v1"):
        if d.chance(0.7):
            options["p"] = d.pick([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, np.inf])
        if d.chance(0.4):
            options["eps"] = d.pick([0.0, 1e-3, 0.5])
    if name == "PairwiseDistance.v1" and d.chance(0.3):
        options["keepdims"] = True
        spec.values_shape = (*shape, 1)
    if name == "TripletMargin.v1":
        if d.chance(0.5):
            options["margin"] = d.uniform(0.1, 3)
        if d.chance(0.5):
            options["swap"] = True
    return spec


@recipe("InfoNCE.v1")
def info_nce(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {"temperature": d.pick([0.05, 0.5, 1.0, d.uniform(0.03, 2)])} if d.chance(0.6) else {}
    arrangement = Arrangement.draw(d, most=30)
    shape = (arrangement.n, d.pick([1, 2, 3, 5]))
    guesses = [d.numbers(shape, 1, min(d.extreme, 12)) for _ in range(2)]
    return Spec(options, arrangement, guesses, shape[:1], "vectors", tags={"coupled"}, fractions=False)


@recipe("CTC.v1")
def ctc(d: Draw, name: str) -> Spec:
    """Small enough to count all paths."""
    frames, classes = d.pick([(0, 3), (1, 2), (2, 3), (3, 4), (4, 3), (5, 3), (4, 4), (6, 2), (6, 3)])
    options: dict[str, Any] = {"blank": d.r.randrange(classes)} if d.chance(0.6) else {}
    if d.chance(0.4):
        options["zero_infinity"] = True
    if d.chance(0.5):
        options["wrt"] = "logits"
    kind = d.weighted(array=6, single=1, list=2, ragged=1)
    n = 1 if kind == "single" else d.r.choice([0, 1, 2, 3, 4, 5])
    x = d.rng.normal(size=(frames, n, classes)) * d.pick([1, 3, 20])
    x = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    labels = [c for c in range(classes) if c != options.get("blank", 0)]
    truths = []
    for _ in range(n):
        length = min(d.r.choice([0, 1, 1, 2, 2, 3, 4]), frames + 1)
        own = frames if d.chance(0.6) else d.r.randint(0, frames)
        truths.append(([d.pick(labels) for _ in range(length)], own))
    if d.chance(0.08) and d.floats:
        x[d.rng.random(x.shape) < 0.2] = -np.inf
    arrangement = Arrangement("array" if kind == "single" else kind, n, tuple(f for _, f in truths), frames)
    return Spec(options, arrangement, [x], () if kind == "single" else (n,), "time", truths, "alignment")


# Thinc


@recipe(*(f"{s}CategoricalCrossentropy.v{v}" for s, v in itertools.product(("", "Sequence"), (1, 2, 3))))
def thinc_categorical(d: Draw, name: str) -> Spec:
    sequence = name.startswith("Sequence")
    arrangement = Arrangement.draw(d, "list ragged" if sequence else "array")
    classes = d.classes()
    options = draw_options(d, classes, "names missing_value neg_prefix")
    if d.chance(0.4):
        options["normalize"] = False
    dense = d.chance(0.25)
    n = arrangement.n
    drawn = (
        draw_dense(d, n, classes, options) if dense else draw_labels(d, n, classes, options, sets=False, ignores=False)
    )
    if not dense and classes > 1 and d.chance(0.4):
        options["label_smoothing"] = d.uniform(0, 0.99 * (classes - 1) / classes)
    p = d.rng.random((n, classes)) if d.chance(0.5) else probabilities(d, (n,), classes)
    return Spec(options, arrangement, [p], (n,), "classes", drawn, "labels", {"thinc"}, unit=True)


@recipe("L2Distance.v1", "CosineDistance.v1")
def thinc_distance(d: Draw, name: str) -> Spec:
    options: dict[str, Any] = {"normalize": False} if d.chance(0.4) else {}
    n = d.size(40)
    shape = (n, d.r.randint(1, 5), *((3,) if d.chance(0.2) else ()))
    if name.startswith("L2"):
        shape = (n, *d.inner()) if n < 1000 else (n,)
        x, t = d.numbers(shape, extreme=min(d.extreme, 14)), d.numbers(shape, extreme=min(d.extreme, 14))
    else:
        x, t = d.numbers(shape, extreme=3), d.numbers(shape, extreme=3)
        if d.chance(0.5):
            options["ignore_zeros"] = True
            t[d.rng.random(n) < 0.3] = 0.0
    return Spec(
        options, Arrangement("array", n), [x], shape, truths=t, truth_kind="numbers", tags={"thinc"}, fractions=False
    )
