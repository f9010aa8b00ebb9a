"""The gallery of calculators: what is drawn of each, its twins in other libraries, and the text of its page.

A picture shows loss and gradient along a cut: one number of the guesses varies, everything else stays as it is. This
module needs NumPy alone; gallery_pictures.py draws what is said here.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, get_type_hints

import numpy as np

import lossreg
from lossreg.config.resolve import ALIASES

MARKER = "<!-- gallery of all calculators -->"
"""Where the entries go in the page."""
COMMON = ("reduction", "normalize_by", "validate")
"""Options that every modern calculator has, described at the top of the page."""


def each(f: Callable[..., Any], *trees: Any) -> Any:
    """`f` on the arrays of equally arranged tuples and lists."""
    if isinstance(trees[0], (tuple, list)):
        return type(trees[0])(each(f, *parts) for parts in zip(*trees))
    return f(*trees)


def total(tree: Any) -> float:
    """The sum of all numbers in a tree."""
    return sum(map(total, tree)) if isinstance(tree, (tuple, list)) else float(np.sum(tree))


@dataclass(frozen=True)
class Path:
    """Guesses that depend on one number."""

    guesses: Callable[[float], Any]
    step: Callable[[float], Any]
    """How the variable of the gradient moves with the number, arranged as the gradient is."""
    ends: tuple[float, float]
    place: Callable[[float], float] = float
    """Where a number lies on the axis of the picture."""


def vary(arrange: Callable[..., Any], low: float, high: float) -> Path:
    """One number of the guesses varies; `arrange` puts it in its place."""
    return Path(arrange, lambda x: each(np.subtract, arrange(1.0), arrange(0.0)), (low, high))


def turn(arrange: Callable[..., Any], low: float, high: float) -> Path:
    """A vector of two components turns; `arrange` puts them in their places. Angles are in radians."""
    return Path(
        lambda a: arrange(np.cos(a), np.sin(a)),
        lambda a: each(np.subtract, arrange(-np.sin(a), np.cos(a)), arrange(0.0, 0.0)),
        (low, high),
    )


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis."""
    return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def under(link: Callable[[np.ndarray], Any], arrange: Callable[..., Any], low: float, high: float) -> Path:
    """One logit varies, the guesses are `link` of the logits: for gradients with respect to logits under guesses.

    The axis shows the guess in the place of the logit.
    """
    logits = vary(arrange, low, high)

    def guess(x: float) -> float:
        picked = each(lambda guesses, step: guesses * step, each(link, arrange(x)), logits.step(x))
        return total(picked)

    return Path(lambda x: each(link, arrange(x)), logits.step, (low, high), guess)


class Point(NamedTuple):
    """Loss and gradient at one number of a path."""

    number: float
    place: float
    loss: float
    gradient: float


@dataclass(frozen=True)
class Curve:
    """One line of a picture: a calculator along a path."""

    label: str
    path: Path
    truths: Any
    options: dict[str, Any] = field(default_factory=dict)

    def at(self, loss: Any, number: float) -> Point:
        """What the calculator says, and the part of its gradient along the path."""
        grad, value = loss(self.path.guesses(number), self.truths)
        along = total(each(np.multiply, grad, self.path.step(number)))
        return Point(number, self.path.place(number), float(np.sum(value)), along)

    def pieces(self, loss: Any, count: int = 241) -> list[list[Point]]:
        """Points in order, in pieces between which the gradient jumps."""
        grid = np.round(np.linspace(*self.path.ends, count), 12).tolist()
        points = [self.at(loss, number) for number in grid]
        slopes = [point.gradient for point in points]
        smallest = 0.02 * (max(slopes) - min(slopes))
        pieces = [points[:1]]
        for left, right in pairwise(points):
            before, after = left, right
            while abs(after.gradient - before.gradient) > smallest and after.number - before.number > 1e-11:
                middle = self.at(loss, 0.5 * (before.number + after.number))
                if abs(middle.gradient - before.gradient) > abs(after.gradient - middle.gradient):
                    after = middle
                else:
                    before = middle
            if abs(after.gradient - before.gradient) > smallest:
                pieces[-1] += [before] if before is not left else []
                pieces.append([after] if after is not right else [])
            pieces[-1].append(right)
        return pieces


@dataclass(frozen=True)
class Picture:
    """What is drawn of a calculator."""

    axis: str
    curves: list[Curve]
    note: str = ""
    """What the picture does not say itself."""
    result: str = "loss"
    """What the calculator reports."""
    angle: bool = False
    """Whether the axis shows radians."""
    axis_range: tuple[float, float] | None = None
    loss_range: tuple[float, float] | None = None
    gradient_range: tuple[float, float] | None = None


# What is drawn. The first curve has the default options.


def elements(low: float, high: float) -> Path:
    """A single guess."""
    return vary(lambda x: np.array([x]), low, high)


def row(*others: float) -> Callable[[float], np.ndarray]:
    """A row of classes, of which the first varies."""
    return lambda x: np.array([[x, *others]])


def shares(arrange: Callable[..., Any]) -> Path:
    """A probability varies and two others share the rest; the gradient is that of the first alone."""
    return Path(
        lambda p: arrange(np.array([[p, (1 - p) / 2, (1 - p) / 2]])),
        lambda p: each(np.subtract, arrange(np.array([[1.0, 0.0, 0.0]])), arrange(np.zeros((1, 3)))),
        (0.0, 1.0),
    )


def softmax(x: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    return np.exp(log_softmax(x))


ZERO, ONE, MINUS = np.array([0.0]), np.array([1.0]), np.array([-1.0])
PETS = {"names": ["cat", "dog", "bird"], "neg_prefix": "!"}
RIGHT = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
"""Probabilities of two tokens, all of it on the right class."""
LOG_THIRD = float(np.log(1 / 3))
CORNERS = np.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
"""Three vectors as far from each other as can be."""

SCORE = vary(lambda x: (np.array([x]), ZERO), -2, 2)
DISTANCE = elements(0, 3)
LOG_PROBABILITY = elements(-5, 0)
PROBABILITY = elements(0.005, 0.995)
PAIR = turn(lambda c, s: (np.array([[c, s]]), np.array([[1.0, 0.0]])), 0, np.pi)
PLANE = vary(lambda x: (np.array([[x, 0.5]]), np.zeros((1, 2))), -2, 2)
TRIPLET = vary(lambda x: (np.array([[x, 0.5]]), np.zeros((1, 2)), np.array([[2.0, 0.0]])), -2, 3)
LAYER = vary(lambda x: (np.array([[x]]), np.array([[1.0], [0.0], [-1.0]])), -5, 5)
LOGIT_OF_SEQUENCES = under(softmax, lambda x: [np.array([[x, 0.0, 0.0]]), 30 * RIGHT], -5.5, 5.5)


def frames(x: float) -> np.ndarray:
    """Three frames of one sequence, over a blank, a and b: the number is that of a in the second."""
    return np.array([[[LOG_THIRD] * 3], [[LOG_THIRD, x, LOG_THIRD]], [[LOG_THIRD] * 3]])


A_THEN_B = (np.array([[1, 2]]), np.array([3]), np.array([2]))
OVER_LOGITS = "A gradient with respect to logits is drawn over the probability that they give."

PICTURES: dict[str, Picture] = {
    # regression
    "MeanSquaredError": Picture("guess (truth 0)", [Curve("", elements(-3, 3), ZERO)]),
    "Huber": Picture(
        "guess (truth 0)",
        [
            Curve("delta = 1 (default)", elements(-3, 3), ZERO),
            Curve("delta = 0.5", elements(-3, 3), ZERO, dict(delta=0.5)),
            Curve("delta = 2", elements(-3, 3), ZERO, dict(delta=2.0)),
        ],
    ),
    "MeanAbsoluteError": Picture("guess (truth 0)", [Curve("", elements(-3, 3), ZERO)]),
    "SmoothL1": Picture(
        "guess (truth 0)",
        [
            Curve("beta = 1 (default)", elements(-3, 3), ZERO),
            Curve("beta = 0.3", elements(-3, 3), ZERO, dict(beta=0.3)),
            Curve("beta = 0", elements(-3, 3), ZERO, dict(beta=0.0)),
        ],
    ),
    "Quantile": Picture(
        "guess (truth 0)",
        [
            Curve("quantile = 0.5 (default)", elements(-3, 3), ZERO),
            Curve("quantile = 0.9", elements(-3, 3), ZERO, dict(quantile=0.9)),
            Curve("quantile = 0.2", elements(-3, 3), ZERO, dict(quantile=0.2)),
        ],
    ),
    "PoissonNLL": Picture(
        "guess (truth 3)",
        [
            Curve("log_input = True (default)", elements(-2, 3), np.array([3.0])),
            Curve("log_input = False", elements(0.05, 6), np.array([3.0]), dict(log_input=False)),
            Curve("full = True", elements(-2, 3), np.array([3.0]), dict(full=True)),
        ],
        note="The guess is the logarithm of the rate, or the rate itself where `log_input` is off.",
        loss_range=(-1, 8),
        gradient_range=(-8, 8),
    ),
    # binary
    "BinaryCrossEntropyWithLogits": Picture(
        "guess: logit",
        [
            Curve("truth 1", elements(-4, 4), ONE),
            Curve("truth 0", elements(-4, 4), ZERO),
            Curve("truth 1, pos_weight = [3]", elements(-4, 4), ONE, dict(pos_weight=[3.0])),
        ],
    ),
    "BinaryCrossEntropy": Picture(
        "guess: probability",
        [
            Curve("truth 1", PROBABILITY, ONE),
            Curve("truth 0", PROBABILITY, ZERO),
            Curve("truth 0.7", PROBABILITY, np.array([0.7])),
        ],
        axis_range=(0, 1),
        loss_range=(-0.2, 5),
        gradient_range=(-12, 12),
    ),
    "SoftMargin": Picture(
        "guess: logit",
        [Curve("truth 1", elements(-4, 4), ONE), Curve("truth -1", elements(-4, 4), MINUS)],
    ),
    "MultiLabelSoftMargin": Picture(
        "logit of the first of 3 classes",
        [
            Curve("class in the truth", vary(row(2, -2), -4, 4), [{0, 1}]),
            Curve("class not in the truth", vary(row(2, -2), -4, 4), [{1}]),
            Curve(
                "in the truth, class_weight = [2, 1, 1]",
                vary(row(2, -2), -4, 4),
                [{0, 1}],
                dict(class_weight=[2, 1, 1]),
            ),
        ],
    ),
    # focal
    "SigmoidFocal": Picture(
        "guess: logit (truth 1)",
        [
            Curve("gamma = 2 (default)", elements(-4, 4), ONE),
            Curve("gamma = 0", elements(-4, 4), ONE, dict(gamma=0.0)),
            Curve("gamma = 1, alpha = 0.25", elements(-4, 4), ONE, dict(gamma=1.0, alpha=0.25)),
        ],
    ),
    # categorical
    "CrossEntropy": Picture(
        "logit of cat (dog and bird: 0)",
        [
            Curve('truth "cat"', vary(row(0, 0), -5, 5), ["cat"], PETS),
            Curve('"cat", label_smoothing = 0.2', vary(row(0, 0), -5, 5), ["cat"], {**PETS, "label_smoothing": 0.2}),
            Curve('{"cat", "dog"}', vary(row(0, 0), -5, 5), [{"cat", "dog"}], PETS),
            Curve('"!cat"', vary(row(0, 0), -5, 5), ["!cat"], PETS),
        ],
    ),
    "LinearCrossEntropy": Picture(
        "x (weights of 3 classes: 1, 0 and -1)",
        [
            Curve("truth 0", LAYER, [0]),
            Curve("softcap = 1.5", LAYER, [0], dict(softcap=1.5)),
            Curve("softcap = 1.5, z_loss = 0.2", LAYER, [0], dict(softcap=1.5, z_loss=0.2)),
        ],
        note="The logits are x, 0 and -x. The gradient is that of x; weight and bias have theirs.",
    ),
    "NLL": Picture(
        "log-probability of the truth",
        [
            Curve('reduction = "mean" (default) or "sum"', vary(row(-1, -2), -5, 0), [0]),
            Curve(
                '"sum", class_weight = [2, 1, 1]',
                vary(row(-1, -2), -5, 0),
                [0],
                dict(class_weight=[2, 1, 1], reduction="sum"),
            ),
        ],
    ),
    # divergence
    "KLDivergence": Picture(
        "guess: log-probability",
        [
            Curve("truth 0.8", LOG_PROBABILITY, np.array([0.8])),
            Curve("truth 0.3", LOG_PROBABILITY, np.array([0.3])),
            Curve("log_target = True, truth log 0.5", LOG_PROBABILITY, np.log([0.5]), dict(log_target=True)),
        ],
        note="One number of a row: the sum over the row is least where guess and truth agree.",
    ),
    # margin
    "HingeEmbedding": Picture(
        "guess: distance",
        [
            Curve("truth 1", DISTANCE, ONE),
            Curve("truth -1, margin = 1 (default)", DISTANCE, MINUS),
            Curve("truth -1, margin = 2", DISTANCE, MINUS, dict(margin=2.0)),
        ],
    ),
    "MarginRanking": Picture(
        "x1 (x2: 0)",
        [
            Curve("truth 1, margin = 0 (default)", SCORE, ONE),
            Curve("truth -1", SCORE, MINUS),
            Curve("truth 1, margin = 1", SCORE, ONE, dict(margin=1.0)),
        ],
    ),
    "MultiMargin": Picture(
        "score of the truth (others: 0 and 1)",
        [
            Curve("p = 1, margin = 1 (default)", vary(row(0, 1), -0.5, 2.5), [0]),
            Curve("p = 2", vary(row(0, 1), -0.5, 2.5), [0], dict(p=2)),
            Curve("margin = 0.5", vary(row(0, 1), -0.5, 2.5), [0], dict(margin=0.5)),
        ],
    ),
    "MultiLabelMargin": Picture(
        "score of the first of 4 classes",
        [
            Curve("class in the truth", vary(row(0, 1, -0.5), -2, 3), [{0, 1}]),
            Curve("class not in the truth", vary(row(0, 1, -0.5), -2, 3), [{1, 2}]),
        ],
        note="The other scores are 0, 1 and -0.5.",
    ),
    # embedding
    "CosineEmbedding": Picture(
        "angle between x1 and x2",
        [
            Curve("truth 1", PAIR, ONE),
            Curve("truth -1, margin = 0 (default)", PAIR, MINUS),
            Curve("truth -1, margin = 0.5", PAIR, MINUS, dict(margin=0.5)),
        ],
        angle=True,
    ),
    "CosineSimilarity": Picture("angle between x1 and x2", [Curve("", PAIR, None)], result="value", angle=True),
    "NegativeCosineSimilarity": Picture(
        "angle between x1 and x2",
        [Curve("eps = 1e-8 (default)", PAIR, None), Curve("eps = 0.5", PAIR, None, dict(eps=0.5))],
        note="Vectors of length 1: with eps = 0.5 they count as 2/3.",
        angle=True,
    ),
    "PairwiseDistance": Picture(
        "first component of x1 - x2 (second: 0.5)",
        [
            Curve("p = 2 (default)", PLANE, None),
            Curve("p = 1, eps = 0", PLANE, None, dict(p=1.0, eps=0.0)),
            Curve("p = infinity, eps = 0", PLANE, None, dict(p=float("inf"), eps=0.0)),
        ],
        result="value",
    ),
    "TripletMargin": Picture(
        "first component of the anchor",
        [
            Curve("margin = 1 (default)", TRIPLET, None),
            Curve("margin = 0.3", TRIPLET, None, dict(margin=0.3)),
            Curve("swap = True", TRIPLET, None, dict(swap=True)),
        ],
        note="The anchor moves along (x, 0.5), past the positive at (0, 0) and the negative at (2, 0).",
    ),
    "InfoNCE": Picture(
        "angle of the first query from its key",
        [
            Curve(label, turn(lambda c, s: (np.array([[c, s], *CORNERS[1:]]), CORNERS), -np.pi, np.pi), None, options)
            for label, options in (
                ("temperature = 0.1 (default)", {}),
                ("temperature = 0.3", dict(temperature=0.3)),
                ("temperature = 1", dict(temperature=1.0)),
            )
        ],
        note="Three pairs, whose keys are 120 degrees apart; the first query turns, the others lie on their keys.",
        angle=True,
    ),
    # alignment
    "CTC": Picture(
        "log-probability of a in frame 2 of 3",
        [
            Curve('wrt = "log_probs" (default)', vary(frames, -6, 0), A_THEN_B),
            Curve('wrt = "logits"', under(log_softmax, frames, -6.4, 6), A_THEN_B, dict(wrt="logits")),
        ],
        note='The target is "ab". Every other log-probability stays log 1/3 with `wrt = "log_probs"`; with '
        '`wrt = "logits"` the logit under it moves, so that the frame stays a distribution, and the gradient is that '
        "of the logit.",
    ),
    # thinc
    "CategoricalCrossentropy": Picture(
        "probability of cat",
        [
            Curve('truth "cat"', shares(lambda p: p), ["cat"], PETS),
            Curve('"cat", label_smoothing = 0.2', shares(lambda p: p), ["cat"], {**PETS, "label_smoothing": 0.2}),
            Curve('"!cat"', shares(lambda p: p), ["!cat"], PETS),
        ],
        note="Dog and bird share the rest. The gradient is p - t, that of cross-entropy with respect to the logits; "
        "the loss reported is the sum of its squares, and the gradient is not its slope.",
    ),
    "SequenceCategoricalCrossentropy": Picture(
        "probability of the truth",
        [
            Curve("normalize = True (default)", shares(lambda p: [p, RIGHT]), [[0], [1, 2]]),
            Curve("normalize = False", shares(lambda p: [p, RIGHT]), [[0], [1, 2]], dict(normalize=False)),
        ],
        note="The only token of the first of two sequences. The gradient is that of cross-entropy with respect to the "
        "logits; the loss reported is the sum of its squares, and the gradient is not its slope.",
    ),
    "L2Distance": Picture(
        "guess (truth 0)",
        [
            Curve(label, vary(lambda x: np.array([[x], [0.0], [0.0]]), -3, 3), np.zeros((3, 1)), options)
            for label, options in (("normalize = True (default)", {}), ("normalize = False", dict(normalize=False)))
        ],
        note="One number in one of three rows. The gradient is not the slope of the loss reported: that is 2/N times "
        "the gradient, or twice the gradient where `normalize` is off.",
    ),
    "CosineDistance": Picture(
        "angle between guess and truth",
        [
            Curve(
                label,
                turn(lambda c, s: np.array([[c, s], [1.0, 0.0]]), 0, np.pi),
                np.array([[1.0, 0.0], [1.0, 0.0]]),
                options,
            )
            for label, options in (("normalize = True (default)", {}), ("normalize = False", dict(normalize=False)))
        ],
        note="The first of two rows.",
        angle=True,
    ),
    # thinc_v4
    "CategoricalCrossentropy_v4": Picture(
        "probability of the truth",
        [
            Curve('wrt = "logits" (default)', under(softmax, row(0, 0), -5.5, 5.5), [0]),
            Curve('wrt = "probs"', vary(row(0.3, 0.2), 0.005, 1), [0], dict(wrt="probs")),
            Curve("label_smoothing = 0.2", under(softmax, row(0, 0), -5.5, 5.5), [0], dict(label_smoothing=0.2)),
        ],
        note=OVER_LOGITS,
        axis_range=(0, 1),
        loss_range=(-0.2, 5),
        gradient_range=(-8, 1),
    ),
    "SequenceCategoricalCrossentropy_v4": Picture(
        "probability of the truth",
        [
            Curve("default", LOGIT_OF_SEQUENCES, [[0], [1, 2]]),
            Curve(
                "normalize_by_sequence = True",
                LOGIT_OF_SEQUENCES,
                [[0], [1, 2]],
                dict(normalize_by_sequence=True),
            ),
        ],
        note=f"The only token of the first of two sequences; the second has two. {OVER_LOGITS}",
        axis_range=(0, 1),
    ),
    # values
    "Value": Picture("guess", [Curve("", elements(-3, 3), None)]),
    "AbsoluteValue": Picture("guess", [Curve("", elements(-3, 3), None)]),
}
"""The picture of each class."""

LIBRARIES = {
    "torch": "PyTorch", "torchvision": "torchvision", "keras": "Keras", "optax": "Optax", "sklearn": "scikit-learn",
    "thinc": "Thinc", "kauldron": "Kauldron",
}  # fmt: skip

TWINS: dict[str, dict[str, str]] = {
    "MeanSquaredError": {
        "torch.nn.MSELoss": "",
        "keras.losses.MeanSquaredError": "",
        "optax.losses.squared_error": "",
        "sklearn.metrics.mean_squared_error": "",
        "kauldron.losses.L2": "",
    },
    "Huber": {
        "torch.nn.HuberLoss": "",
        "keras.losses.Huber": "",
        "optax.losses.huber_loss": "",
        "sklearn.linear_model.SGDRegressor": '`loss="huber"`, where `epsilon` is delta',
        "kauldron.losses.Huber": "",
    },
    "MeanAbsoluteError": {
        "torch.nn.L1Loss": "",
        "keras.losses.MeanAbsoluteError": "",
        "sklearn.metrics.mean_absolute_error": "",
        "kauldron.losses.L1": "",
    },
    "SmoothL1": {"torch.nn.SmoothL1Loss": ""},
    "Quantile": {
        "sklearn.metrics.mean_pinball_loss": "`alpha` is quantile",
        "sklearn.linear_model.QuantileRegressor": "the loss that it fits",
    },
    "PoissonNLL": {
        "torch.nn.PoissonNLLLoss": "",
        "keras.losses.Poisson": "`log_input = False`, with another epsilon",
        "sklearn.linear_model.PoissonRegressor": "the loss that it fits, with `log_input = True`",
    },
    "BinaryCrossEntropyWithLogits": {
        "torch.nn.BCEWithLogitsLoss": "",
        "keras.losses.BinaryCrossentropy": "`from_logits=True`",
        "optax.losses.sigmoid_binary_cross_entropy": "",
        "kauldron.losses.SigmoidBinaryCrossEntropy": "",
    },
    "BinaryCrossEntropy": {
        "torch.nn.BCELoss": "",
        "keras.losses.BinaryCrossentropy": "clips probabilities instead of logarithms",
        "sklearn.metrics.log_loss": "clips probabilities instead of logarithms",
    },
    "SoftMargin": {
        "torch.nn.SoftMarginLoss": "",
        "sklearn.linear_model.SGDClassifier": '`loss="log_loss"`',
    },
    "SigmoidFocal": {
        "keras.losses.BinaryFocalCrossentropy": "`from_logits=True`, and for alpha "
        "`apply_class_balancing=True`; clips probabilities",
        "optax.losses.sigmoid_focal_loss": "",
        "torchvision.ops.sigmoid_focal_loss": "no alpha is -1, and its default is 0.25",
    },
    "MultiLabelSoftMargin": {"torch.nn.MultiLabelSoftMarginLoss": ""},
    "CrossEntropy": {
        "torch.nn.CrossEntropyLoss": "",
        "keras.losses.CategoricalCrossentropy": "`from_logits=True`, for rows of probabilities",
        "keras.losses.SparseCategoricalCrossentropy": "`from_logits=True`, for ids",
        "optax.losses.softmax_cross_entropy": "for rows of probabilities",
        "optax.losses.softmax_cross_entropy_with_integer_labels": "for ids",
        "kauldron.losses.SoftmaxCrossEntropy": "for rows of probabilities; classes on the last axis",
        "kauldron.losses.SoftmaxCrossEntropyWithIntLabels": "for ids; classes on the last axis",
    },
    "LinearCrossEntropy": {"torch.nn.functional.linear_cross_entropy": "without `softcap` and `z_loss`"},
    "NLL": {"torch.nn.NLLLoss": ""},
    "KLDivergence": {
        "torch.nn.KLDivLoss": "",
        "keras.losses.KLDivergence": "guesses are probabilities, and rows are summed",
        "optax.losses.kl_divergence": "rows are summed",
        "optax.losses.kl_divergence_with_log_targets": "`log_target = True`, and rows are summed",
    },
    "HingeEmbedding": {"torch.nn.HingeEmbeddingLoss": ""},
    "MarginRanking": {"torch.nn.MarginRankingLoss": ""},
    "MultiMargin": {"torch.nn.MultiMarginLoss": ""},
    "MultiLabelMargin": {"torch.nn.MultiLabelMarginLoss": ""},
    "CosineEmbedding": {"torch.nn.CosineEmbeddingLoss": ""},
    "CosineSimilarity": {
        "torch.nn.CosineSimilarity": "",
        "keras.losses.CosineSimilarity": "the negative",
        "optax.losses.cosine_similarity": "",
    },
    "NegativeCosineSimilarity": {
        "kauldron.losses.NegativeCosineSimilarity": "",
        "keras.losses.CosineSimilarity": "epsilon is a least length",
        "optax.losses.cosine_similarity": "the negative; epsilon is a least length",
    },
    "PairwiseDistance": {
        "torch.nn.PairwiseDistance": "",
        "sklearn.metrics.pairwise.paired_distances": "with no epsilon",
    },
    "TripletMargin": {
        "torch.nn.TripletMarginLoss": "",
        "optax.losses.triplet_margin_loss": "p = 2 without `swap`, with epsilon added elsewhere",
    },
    "CTC": {
        "torch.nn.CTCLoss": "",
        "keras.losses.CTC": "from logits, not divided by the lengths of targets",
        "optax.losses.ctc_loss": "from logits, not divided by the lengths of targets",
    },
    "CategoricalCrossentropy": {"thinc.api.CategoricalCrossentropy": ""},
    "SequenceCategoricalCrossentropy": {"thinc.api.SequenceCategoricalCrossentropy": ""},
    "L2Distance": {"thinc.api.L2Distance": ""},
    "CosineDistance": {
        "thinc.api.CosineDistance": "",
        "optax.losses.cosine_distance": "nothing is added to the components",
        "sklearn.metrics.pairwise.paired_cosine_distances": "nothing is added to the components",
    },
    "CategoricalCrossentropy_v4": {
        "keras.losses.CategoricalCrossentropy": "for rows of probabilities; clips guesses",
        "keras.losses.SparseCategoricalCrossentropy": "for ids; clips guesses",
        "sklearn.metrics.log_loss": "clips guesses",
    },
    "Value": {"kauldron.losses.Value": ""},
    "AbsoluteValue": {"kauldron.losses.AbsoluteValue": ""},
}
"""What has the same values in other libraries, and what differs, if anything does."""


# Entries


@dataclass(frozen=True)
class Entry:
    """All that the page says about one calculator."""

    cls: type

    @property
    def picture(self) -> Picture | None:
        """What is drawn, if that has been said."""
        return PICTURES.get(self.cls.__name__)

    @functools.cached_property
    def losses(self) -> list[Any]:
        """The calculator of each curve."""
        return [self.cls(**curve.options) for curve in self.picture.curves] if self.picture else [self.cls()]

    @property
    def example(self) -> Any:
        """The calculator of the curve with the most options."""
        return max(self.losses, key=lambda loss: len(loss.options()))

    @property
    def snippet(self) -> str:
        """The example as it is written in a config."""
        return str(lossreg.Config({"loss": self.example.to_config()}).to_str()).strip()

    @property
    def names(self) -> list[str]:
        """Its names in a config."""
        return [name.partition(":")[2] for name in self.cls.names_in_registry]

    @property
    def aliases(self) -> list[str]:
        """Its short names in Python."""
        return [alias for alias, name in ALIASES.items() if name in self.names]

    @property
    def options(self) -> list[tuple[str, Any, Any]]:
        """Name, type and default of its own options."""
        hints = get_type_hints(self.cls, include_extras=True)
        defaults = self.cls().options(all=True)
        return [(name, hints[name], default) for name, default in defaults.items() if name not in COMMON]

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring."""
        return " ".join(inspect.cleandoc(self.cls.__doc__ or "").split("\n\n")[0].split())

    @property
    def formula(self) -> str:
        """The indented block of the docstring."""
        blocks = inspect.cleandoc(self.cls.__doc__ or "").split("\n\n")
        return textwrap.dedent(next((block for block in blocks if block.startswith("    ")), ""))

    @property
    def variable(self) -> str:
        """What the gradient is with respect to."""
        found = re.search(r"Gradient with respect to:\s(.*?)\.(?:\s|$)", self.cls.__doc__ or "", re.DOTALL)
        text = re.sub(r" \(see [^)]*\)", "", " ".join(found[1].split())) if found else ""
        if text in ("both", "all three"):
            text += f": {', '.join(f'`{name}`' for name in self.cls.inputs)}"
        return re.sub(r"^(`\w+`)$", r"what \1 names", text)

    @property
    def twins(self) -> dict[str, list[str]]:
        """For each library what has the same values there."""
        found: dict[str, list[str]] = {}
        for name, note in TWINS.get(self.cls.__name__, {}).items():
            twin = f"`{name}`" + (f" ({note})" if note else "")
            found.setdefault(LIBRARIES[name.partition(".")[0]], []).append(twin)
        return found

    def markdown(self, kind: Callable[[Any], str], folder: str) -> str:
        """The entry as Markdown. `kind` puts a type in words; the picture lies in `folder`."""
        name = self.cls.__name__
        names = ", ".join(f"`{x}`" for x in self.names)
        rows = [("In a config", names)]
        rows += [("In Python", f"{{py:class}}`lossreg.{name}`" + "".join(f", alias `{x}`" for x in self.aliases))]
        rows += [("Gradient with respect to", self.variable)] if self.variable else []
        rows += [(f"`{option}`", f"{kind(hint)}; default `{default!r}`") for option, hint, default in self.options]
        rows += [(library, ", ".join(twins)) for library, twins in self.twins.items()]
        lines = [f"### {name}", "", self.summary, ""]
        if self.picture:
            what = f"{self.picture.result.capitalize()} and gradient of {name} over the {self.picture.axis}"
            lines += [f"```{{image}} {folder}/{name}.png", f":alt: {what}", ":width: 640px", "```", ""]
            lines += [self.picture.note, ""]
        lines += ["```text", self.formula, "```", ""] if self.formula else []
        lines += ["```{list-table}", ":class: gallery", ":widths: 25 75", ""]
        lines += [f"* - {left}\n  - {right}" for left, right in rows]
        lines += ["```", "", "```ini", self.snippet, "```", ""]
        return "\n".join(lines)


def drawn(families: Iterable[tuple[Any, list[type]]]) -> Iterable[tuple[Any, list[type]]]:
    """The families without the calculator that is made of another one: what there is to see is the other's."""
    for family, classes in families:
        if alone := [cls for cls in classes if cls is not lossreg.Sequence]:
            yield family, alone


def page(families: Iterable[tuple[Any, list[type]]], kind: Callable[[Any], str], folder: str) -> str:
    """The entries of all families, after a table of contents."""
    contents, entries = [], []
    for family, classes in families:
        title = inspect.cleandoc(family.__doc__).splitlines()[0].rstrip(".")
        links = ", ".join(f"[{cls.__name__}](#{cls.__name__.lower()})" for cls in classes)
        contents.append(f"* - {title}\n  - {links}")
        entries += [f"## {title}", "", *(Entry(cls).markdown(kind, folder) for cls in classes)]
    table = ["```{list-table}", ":class: gallery", ":widths: 40 60", "", *contents, "```", ""]
    return "\n".join([*table, *entries])
