"""Side by side with torch.nn: values and gradients of the 21 twins, and one test for each difference that is meant."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg.config.resolve import ALIASES

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
nn = torch.nn

# PyTorch warns of targets that broadcast, and of the mean of KLDivLoss
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch.*")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small arrays wait for threads longer than they are calculated."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
"""Of the largest number of the array."""

THEIR_NAMES = {"class_weight": "weight", "axis": "dim", "keepdims": "keepdim"}
"""Options that PyTorch calls otherwise."""

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-pytorch.md"

inf, nan = np.inf, np.nan


def make(alias: str, **options: Any) -> Any:
    return lossreg.loss(alias, **options)


def make_theirs(module: Any, dtype: str = "float64", **options: Any) -> Any:
    """The class of torch.nn with options as we call them."""
    translated = {}
    for name, value in options.items():
        if name == "reduction":
            value = value.replace("_", "")
        weights = name.endswith("weight") and value is not None
        translated[THEIR_NAMES.get(name, name)] = tensor(value, dtype) if weights else value
    return module(**translated)


def tensor(value: Any, dtype: str | None = None) -> Any:
    return torch.tensor(np.asarray(value), dtype=None if dtype is None else getattr(torch, dtype))


def as_tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def cast(x: Any, dtype: str) -> Any:
    """Floats in a dtype; ids and None as they are."""
    if isinstance(x, tuple):
        return tuple(cast(part, dtype) for part in x)
    return x.astype(dtype) if getattr(x, "dtype", None) == np.float64 else x


def theirs(module: Any, guesses: Any, *targets: Any, reduce: Callable[..., Any] | None = None) -> tuple[Any, Any]:
    """(gradients, value) by autograd; where no input has a part in the value, the gradient is 0."""
    inputs = [torch.tensor(np.asarray(x), requires_grad=True) for x in as_tuple(guesses)]
    value = module(*inputs, *(tensor(t) for t in targets if t is not None))
    value = value if reduce is None else reduce(value)
    if value.requires_grad:
        value.sum().backward()
    return tuple(np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in inputs), value.detach().numpy()


def close(ours: Any, other: Any, tolerance: float, least: float = 0.0) -> None:
    """Raise unless two arrays are as near as a share of the largest number in them; NaN and inf must be the same."""
    assert np.shape(ours) == np.shape(other)
    ours, other = np.asarray(ours, np.float64), np.asarray(other, np.float64)
    finite = np.abs(other[np.isfinite(other)])
    np.testing.assert_allclose(ours, other, rtol=0, atol=max(tolerance * finite.max(initial=0.0), least))


def compare(
    ours: Any, module: Any, guesses: Any, truths: Any, tolerance: float, least: float = 0.0, **more: Any
) -> None:
    """Raise unless value and every gradient agree, in shape too, and gradients have the dtype of their guesses."""
    grad, value = ours(guesses, truths)
    expected_grads, expected = theirs(module, guesses, truths, **more)
    close(value, expected, tolerance, least)
    for x, ours_x, theirs_x in zip(as_tuple(guesses), as_tuple(grad), expected_grads, strict=True):
        assert ours_x.dtype == x.dtype
        close(ours_x, theirs_x, tolerance)


# What is compared


@dataclass
class Draw:
    """Random numbers, or numbers on a lattice where ties and kinks are frequent."""

    rng: np.random.Generator
    lattice: bool = False

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.integers(-4, 5, shape) / 2 if self.lattice else self.rng.normal(size=shape) * 2

    def inside(self, shape: tuple[int, ...]) -> np.ndarray:
        """In the open interval from 0 to 1."""
        return self.rng.integers(1, 4, shape) / 4 if self.lattice else self.rng.random(shape) * 0.98 + 0.01

    def share(self, shape: tuple[int, ...]) -> np.ndarray:
        """In [0, 1] with the ends."""
        return np.clip(self.rng.random(shape) * 1.4 - 0.2, 0, 1) if not self.lattice else self.inside(shape).round()

    def signs(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.choice([-1.0, 1.0], shape)

    def counts(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.poisson(1.5, shape).astype(float)

    def dense(self, shape: tuple[int, ...]) -> np.ndarray:
        """Probabilities along the class axis, some of them 0."""
        x = self.share(shape) + 1e-3 * self.lattice
        return x / np.maximum(x.sum(axis=class_axis(shape), keepdims=True), 1e-3)

    def ids(self, shape: tuple[int, ...], ignored: int = -100) -> np.ndarray:
        """Labels of guesses of a shape, a fourth of them ignored, but for the first."""
        axis = class_axis(shape)
        classes = shape[axis]
        rest = shape[:axis] + shape[axis + 1 :]
        drawn = np.where(self.rng.random(rest) < 0.25, ignored, self.rng.integers(0, classes, rest))
        drawn.reshape(-1)[:1] = (ignored + 1) % classes
        return drawn


def class_axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) > 1 else 0


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


Sample = Callable[[Draw, tuple[int, ...], dict[str, Any]], tuple[Any, Any]]


def pairs(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.numbers(shape), d.numbers(shape)


def logits(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.numbers(shape) * 3, d.share(shape)


def probabilities(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.inside(shape), d.share(shape)


def decisions(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.numbers(shape), d.signs(shape)


def ranked(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return (d.numbers(shape), d.numbers(shape)), d.signs(shape)


def ranked_broadcast(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return (d.numbers(shape), d.numbers((*shape[:-1], 1))), d.signs((1, *shape[1:]))


def divergence(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    truths = d.inside(shape) if o["log_target"] else d.share(shape)
    return -d.inside(shape) * 9, np.log(truths) if o["log_target"] else truths


def rates(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return (d.numbers(shape) if o["log_input"] else d.inside(shape) * 5), d.counts(shape)


def labels(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.numbers(shape), d.ids(shape, o["ignore_index"])


def dense(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.numbers(shape), d.dense(shape)


def log_probs(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return log_softmax(d.numbers(shape), class_axis(shape)), d.ids(shape, o["ignore_index"])


def scores(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    return d.numbers(shape), d.rng.integers(0, shape[-1], shape[:-1])


def ended(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
    """Ids of each row without repeats, with -1 somewhere among them."""
    ids = d.rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    end = d.rng.integers(0, shape[-1] + 1, shape[:-1])[..., None]
    return d.numbers(shape), np.where(np.arange(shape[-1]) == end, -1, ids)


def vectors(n: int, truths: bool = False) -> Sample:
    def sample(d: Draw, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[Any, Any]:
        found = tuple(d.numbers(shape) for _ in range(n))
        for x in found:
            x[..., 0] += 9.0 * np.all(x == 0, axis=-1)  # where a length is 0 the two differ
        return found, d.signs(shape[:-1]) if truths else None

    return sample


ANY = ((), (1,), (7,), (6, 5), (3, 2, 5))
CLASSES = ((5,), (7, 5), (6, 5, 3), (4, 5, 3, 2))
ROWS = ((5,), (7, 5))
VECTORS = ((4,), (7, 4), (3, 2, 4))
WEIGHTS = (None, (0.5, 2.0, 1.0, 0.25, 1.5), (0.0, 1.0, 3.0, 0.7, 0.2))


@dataclass(frozen=True)
class Twin:
    """A calculator, its class in torch.nn, and what both are tried with."""

    alias: str
    module: Any
    sample: Sample
    shapes: tuple[tuple[int, ...], ...]
    grid: dict[str, tuple[Any, ...]]
    """Values of each option. With the last shape all combinations are tried, with the others every value."""
    lattice: tuple[bool, ...] = (False, True)
    note: str = ""

    def cases(self) -> Iterator[Any]:
        for shape in self.shapes:
            for options in self.combinations() if shape == self.shapes[-1] else self.diagonal():
                words = [f"{k}={v[0] if isinstance(v, tuple) else v}" for k, v in options.items()]
                name = f"{self.alias}{self.note}-{'x'.join(map(str, shape)) or 'number'}"
                yield pytest.param(self, shape, options, id="-".join([name, *words]))

    def combinations(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))

    def diagonal(self) -> Iterator[dict[str, Any]]:
        for i in range(max(map(len, self.grid.values()), default=1)):
            yield {option: values[i % len(values)] for option, values in self.grid.items()}


TWINS = [
    Twin("l1", nn.L1Loss, pairs, ANY, {}),
    Twin("mse", nn.MSELoss, pairs, ANY, {}),
    Twin("huber", nn.HuberLoss, pairs, ANY, {"delta": (1.0, 0.3, 2.5)}),
    Twin("smoothl1", nn.SmoothL1Loss, pairs, ANY, {"beta": (1.0, 0.0, 0.3, 2.5)}),
    Twin("poissonloss", nn.PoissonNLLLoss, rates, ANY, {"log_input": (True, False), "full": (False, True), "eps": (1e-8, 1e-3, 0.1)}),
    Twin("kl", nn.KLDivLoss, divergence, ANY[1:], {"log_target": (False, True)}),
    Twin("bce", nn.BCELoss, probabilities, ANY, {}),
    Twin("bcelogits", nn.BCEWithLogitsLoss, logits, ((5,), (6, 5), (3, 2, 5)), {"pos_weight": WEIGHTS, "class_weight": WEIGHTS}),
    Twin("bcelogits", nn.BCEWithLogitsLoss, logits, ANY, {}, note="-any"),
    Twin("softmargin", nn.SoftMarginLoss, decisions, ANY, {}),
    Twin("hinge", nn.HingeEmbeddingLoss, decisions, ANY, {"margin": (1.0, 0.5, -1.0)}),
    Twin("margin", nn.MarginRankingLoss, ranked, ANY, {"margin": (0.0, 0.5, -1.0)}),
    Twin("margin", nn.MarginRankingLoss, ranked_broadcast, ((6, 5), (3, 2, 5)), {"margin": (0.0, 0.5)}, note="-broadcast"),
    Twin("ce", nn.CrossEntropyLoss, labels, CLASSES, {"class_weight": WEIGHTS, "ignore_index": (-100, 2, -7), "label_smoothing": (0.0, 0.1, 0.7)}),
    Twin("ce", nn.CrossEntropyLoss, dense, CLASSES, {"class_weight": WEIGHTS, "label_smoothing": (0.0, 0.1, 1.0)}, note="-dense"),
    Twin("nll", nn.NLLLoss, log_probs, CLASSES, {"class_weight": WEIGHTS, "ignore_index": (-100, 2, -7)}),
    Twin("multimargin", nn.MultiMarginLoss, scores, ROWS, {"p": (1, 2), "margin": (1.0, 0.5, 2.0), "class_weight": WEIGHTS}),
    Twin("multilabel", nn.MultiLabelMarginLoss, ended, ROWS, {}),
    Twin("multisoft", nn.MultiLabelSoftMarginLoss, logits, ((5,), (6, 5), (3, 2, 5)), {"class_weight": WEIGHTS}),
    Twin("cosineloss", nn.CosineEmbeddingLoss, vectors(2, truths=True), VECTORS[:2], {"margin": (0.0, 0.3, -0.2)}),
    Twin("triplet", nn.TripletMarginLoss, vectors(3), VECTORS, {"margin": (1.0, 0.4, 2.5), "p": (2.0, 1.0, 3.0, 0.5, inf, 0.0), "eps": (1e-6, 0.0, 0.1), "swap": (False, True)}, (False,)),
    Twin("triplet", nn.TripletMarginLoss, vectors(3), VECTORS, {"margin": (1.0, 0.5), "p": (1.0, inf, 0.0), "eps": (0.0, 0.25), "swap": (False, True)}, (True,), "-lattice"),
    Twin("pairwise", nn.PairwiseDistance, vectors(2), VECTORS, {"p": (2.0, 1.0, 3.0, 0.5, inf, 0.0), "eps": (1e-6, 0.0, 0.1), "keepdims": (False, True)}),
    Twin("similar", nn.CosineSimilarity, vectors(2), VECTORS[1:], {"axis": (1, 0, -1), "eps": (1e-8, 1e-3, 0.01)}),
    Twin("similar", nn.CosineSimilarity, vectors(2), VECTORS[:1], {"axis": (0, -1)}, note="-one"),
]  # fmt: skip

MEASURES = ("pairwise", "similar")
"""Without a reduction in PyTorch, and unreduced here unless it is asked for."""


def reductions(alias: str) -> list[str]:
    return ["mean", "sum", "none", *(["batch_mean"] if alias == "kl" else [])]


@pytest.mark.parametrize("twin, shape, options", [case for twin in TWINS for case in twin.cases()])
def test_same_numbers(twin: Twin, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    for lattice, dtype, reduction in itertools.product(twin.lattice, TOLERANCE, reductions(twin.alias)):
        draw = Draw(np.random.default_rng([len(shape), lattice]), lattice)
        guesses, truths = cast(twin.sample(draw, shape, options), dtype)
        ours, reduced, more = make(twin.alias, reduction=reduction, **options), {"reduction": reduction}, {}
        if twin.alias in MEASURES:
            reduced, more = {}, {"reduce": {"mean": torch.mean, "sum": torch.sum, "none": None}[reduction]}
        module = make_theirs(twin.module, dtype, **options, **reduced)
        compare(ours, module, guesses, truths, TOLERANCE[dtype], **more)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "shape, weights", [((6,), (6,)), ((6, 5), (6, 5)), ((6, 5), (6, 1)), ((6, 5), (1, 5)), ((3, 2, 5), (2, 1))]
)
@pytest.mark.parametrize("alias, module, sample", [("bce", nn.BCELoss, probabilities), ("bcelogits", nn.BCEWithLogitsLoss, logits)])  # fmt: skip
def test_their_weight_is_our_sample_weight(alias, module, sample, shape, weights, dtype, rng):
    guesses, truths, weight = cast((*sample(Draw(rng), shape, {}), rng.random(weights) * 3), dtype)
    for reduction in reductions(alias):
        ours = make(alias, reduction=reduction)
        theirs_weighted = module(weight=tensor(weight), reduction=reduction)
        compare(lambda x, t, ours=ours: ours(x, t, sample_weight=weight), theirs_weighted, guesses, truths, TOLERANCE[dtype])  # fmt: skip


@pytest.mark.parametrize("kind", ["int64", "uint8"])
@pytest.mark.parametrize("alias, module", [("ce", nn.CrossEntropyLoss), ("nll", nn.NLLLoss)])
def test_types_of_ids(alias, module, kind, rng):
    guesses = log_softmax(rng.normal(size=(6, 5)))
    compare(make(alias), module(), guesses, rng.integers(0, 5, 6).astype(kind), 1e-12)


# Exact edges: kinks, ties, zeros and infinities where both say the same

A = np.array
EDGES: list[tuple[str, Any, dict[str, Any], Any, Any]] = [
    ("l1", nn.L1Loss, {}, A([0.0, inf, -inf]), A([0.0, 0.0, 1.0])),
    ("mse", nn.MSELoss, {}, A([inf, 1e200, 0.0]), A([0.0, 0.0, 0.0])),
    ("huber", nn.HuberLoss, {"delta": 0.5}, A([0.5, -0.5, 0.0, inf, -inf]), np.zeros(5)),
    ("smoothl1", nn.SmoothL1Loss, {"beta": 0.5}, A([0.5, -0.5, 0.0, inf, -inf]), np.zeros(5)),
    ("smoothl1", nn.SmoothL1Loss, {"beta": 0.0}, A([0.5, -0.5, 0.0, inf, -inf]), np.zeros(5)),
    ("poissonloss", nn.PoissonNLLLoss, {"full": True}, A([0.0, 0.0, 0.0, -1000.0, -inf]), A([0.0, 1.0, 1.0 + 1e-9, 0.0, 1.0])),
    ("poissonloss", nn.PoissonNLLLoss, {"log_input": False}, A([0.0, 0.0, inf]), A([0.0, 1.0, 0.0])),
    ("kl", nn.KLDivLoss, {}, A([0.0, -1.0, -inf]), A([0.0, 1.0, 0.5])),
    ("kl", nn.KLDivLoss, {"log_target": True}, A([-inf, -1.0]), A([-1.0, -800.0])),
    ("bce", nn.BCELoss, {}, A([0.0, 1.0, 0.5]), A([0.0, 1.0, 0.0])),
    ("bcelogits", nn.BCEWithLogitsLoss, {}, A([1000.0, -1000.0, 1000.0, -1000.0, inf, 40.0]), A([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])),
    ("softmargin", nn.SoftMarginLoss, {}, A([40.0, -40.0, 0.0, inf, 1000.0]), A([1.0, 1.0, -1.0, 1.0, 1.0])),
    ("hinge", nn.HingeEmbeddingLoss, {}, A([1.0, 1.0, 0.0, inf, -inf]), A([1.0, -1.0, -1.0, 1.0, -1.0])),
    ("margin", nn.MarginRankingLoss, {}, (A([1.0, 1.0]), A([1.0, 1.0])), A([1.0, -1.0])),
    ("ce", nn.CrossEntropyLoss, {}, A([[0.0, -inf, 1.0], [1000.0, 0.0, -1000.0], [50.0, 0.0, 1.0]]), A([2, 0, 0])),
    ("ce", nn.CrossEntropyLoss, {}, A([[0.0, -inf, 1.0], [0.0, 1e308, -1e308]]), A([1, 2])),
    ("ce", nn.CrossEntropyLoss, {"label_smoothing": 0.1}, A([[0.0, -inf, 1.0], [1.0, 2.0, 3.0]]), A([0, 1])),
    ("ce", nn.CrossEntropyLoss, {}, A([[-inf, -inf, -inf], [3.0, 2.0, 1.0]]), A([1, 2])),
    ("ce", nn.CrossEntropyLoss, {}, A([[5.0], [-2.0]]), A([0, 0])),
    ("nll", nn.NLLLoss, {}, A([[-inf, 0.0], [0.0, -inf]]), A([0, 0])),
    ("multimargin", nn.MultiMarginLoss, {}, A([[1.0, 0.0, 1.0], [0.0, -inf, 1.0], [inf, 0.0, 0.0]]), A([0, 0, 0])),
    ("multimargin", nn.MultiMarginLoss, {"p": 2}, A([[1.0, 0.0, 1.0], [0.0, -inf, 1.0]]), A([0, 0])),
    ("multilabel", nn.MultiLabelMarginLoss, {}, A([[1.0, 0.0, 2.0, -inf]] * 4), A([[0, 2, -1, 0], [-1, 0, 0, 0], [3, 2, 1, 0], [2, 0, -1, -1]])),
    ("multisoft", nn.MultiLabelSoftMarginLoss, {}, A([[1000.0, -1000.0, 50.0], [inf, 0.0, 0.0]]), A([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])),
    ("cosineloss", nn.CosineEmbeddingLoss, {}, (A([[1.0, 0.0], [0.0, 0.0], [3.0, 4.0]]), A([[0.0, 2.0], [0.0, 0.0], [3.0, 4.0]])), A([-1.0, -1.0, 1.0])),
    ("similar", nn.CosineSimilarity, {}, (A([[0.0, 0.0], [1.0, 0.0]]), A([[0.0, 0.0], [0.0, -2.0]])), None),
    *(("pairwise", nn.PairwiseDistance, {"p": p, "eps": 0.0}, (A([[1.0, 2.0], [1.0, 2.0], [1.0, -1.0]]), A([[1.0, 2.0], [1.0, 3.0], [0.0, 0.0]])), None)
      for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, inf)),
    *(("triplet", nn.TripletMarginLoss, {"p": p, "eps": 0.0, "swap": swap}, (A([[0.0, 0.0], [1.0, 2.0], [0.0, 1.0]]), A([[1.0, 0.0], [1.0, 2.0], [1.0, 0.0]]), A([[2.0, 0.0], [1.0, 2.0], [1.0, 1.0]])), None)
      for p in (0.0, 1.0, 2.0, inf) for swap in (False, True)),
]  # fmt: skip


@pytest.mark.parametrize("alias, module, options, guesses, truths", EDGES, ids=lambda x: x if isinstance(x, str) else None)  # fmt: skip
def test_same_numbers_at_the_edges(alias, module, options, guesses, truths):
    for reduction in (None,) if alias in MEASURES else ("none", "mean"):
        reduced = {} if reduction is None else {"reduction": reduction}
        with np.errstate(all="ignore"):
            least = 1e-15 if alias == "cosineloss" else 0.0  # 1 - cos cannot be nearer than its 1 is
            ours, module_ = make(alias, **options, **reduced), make_theirs(module, **options, **reduced)
            compare(ours, module_, guesses, truths, 1e-12, least)


@pytest.mark.parametrize("alias, module, options, guesses, truths", [
    ("hinge", nn.HingeEmbeddingLoss, {}, A([inf]), A([-1.0])),
    ("margin", nn.MarginRankingLoss, {}, (A([inf, -inf, 0.0]), A([0.0, inf, -inf])), A([1.0, -1.0, 1.0])),
    ("pairwise", nn.PairwiseDistance, {"p": 1.0}, (A([[inf, 0.0], [-inf, 1.0]]), A([[0.0, 0.0], [0.0, 0.0]])), None),
    ("triplet", nn.TripletMarginLoss, {"p": 1.0}, (A([[0.0, 1.0]]), A([[0.0, 0.0]]), A([[inf, 0.0]])), None),
])  # fmt: skip
def test_same_numbers_infinitely_far(alias, module, options, guesses, truths):
    compare(make(alias, **options, reduction="none"), make_theirs(module, **options, **({} if alias in MEASURES else {"reduction": "none"})), guesses, truths, 1e-12)  # fmt: skip


# CTC, whose truths are three arrays and whose gradient in PyTorch is that of the logits


@dataclass(frozen=True)
class Speech:
    """Frames and targets of one call."""

    targets: Any
    input_lengths: Any
    target_lengths: Any
    shape: tuple[int, ...] = (7, 4, 6)
    infeasible: bool = False

    def truths(self, dtype: str) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(x, dtype) for x in (self.targets, self.input_lengths, self.target_lengths))


SPEECH = {
    "padded": Speech([[1, 3, 3], [4, 1, 0], [3, 0, 0], [1, 4, 3]], [7, 5, 6, 7], [3, 2, 1, 3]),
    "flat": Speech([1, 3, 3, 4, 1, 3, 1, 4, 3], [7, 5, 6, 7], [3, 2, 1, 3]),
    "empty targets among others": Speech([[1, 3], [0, 0], [3, 3], [1, 0]], [7, 5, 6, 7], [2, 0, 2, 0]),
    "flat with empty targets": Speech([1, 3, 3, 3], [7, 5, 6, 7], [2, 0, 2, 0]),
    "only empty targets": Speech(np.zeros((4, 0), int), [7, 5, 6, 7], [0, 0, 0, 0]),
    "just enough frames": Speech([[1, 3], [3, 3], [4, 1], [1, 1]], [2, 3, 2, 3], [2, 2, 2, 2]),
    "zero frames": Speech([[1, 3], [3, 3], [4, 1], [1, 1]], [0, 5, 0, 7], [0, 2, 0, 2]),
    "unbatched": Speech([1, 3, 3], 7, 3, (7, 6)),
    "unbatched with lengths of one": Speech([1, 3, 3], [6], [3], (7, 6)),
    "too few frames": Speech([[1, 3], [3, 3], [4, 1], [1, 1]], [2, 2, 1, 3], [2, 2, 2, 2], infeasible=True),
    "zero frames for a target": Speech([[1, 3], [3, 3], [4, 1], [1, 1]], [0, 5, 7, 0], [1, 2, 2, 2], infeasible=True),
}


@pytest.mark.parametrize("ids", ["int64", "int32"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("blank", [0, 2, 5])
@pytest.mark.parametrize("speech", SPEECH.values(), ids=SPEECH)
def test_ctc(speech: Speech, blank: int, zero_infinity: bool, ids: str, rng: np.random.Generator) -> None:
    """Against autograd through log_softmax, in float64. Infeasible targets have no gradient but with zero_infinity."""
    x = rng.normal(size=speech.shape) * 2
    targets, *lengths = speech.truths(ids)
    targets = np.where(targets == blank, 5 - blank, targets) if blank else targets
    truths = (targets, *lengths)
    for reduction, dtype in itertools.product(("mean", "sum", "none"), TOLERANCE):
        options = {"blank": blank, "zero_infinity": zero_infinity, "reduction": reduction}
        module = nn.CTCLoss(**options)
        logits = x.astype(dtype)
        (expected_grad,), expected = theirs(
            lambda z, *t, m=module: m(z.log_softmax(-1), *t), logits.astype("float64"), *truths
        )
        grad, value = make("ctc", wrt="logits", **options)(tensor(logits).log_softmax(-1).numpy(), truths)
        close(value, expected, TOLERANCE[dtype])
        assert grad.dtype == logits.dtype
        if not speech.infeasible or zero_infinity:
            close(grad, expected_grad, TOLERANCE[dtype])
        else:
            fits = np.isfinite(expected_grad)
            close(np.where(fits, grad, 0), np.where(fits, expected_grad, 0), TOLERANCE[dtype])


@pytest.mark.parametrize("speech", [s for s in SPEECH.values() if not s.infeasible], ids=[k for k, s in SPEECH.items() if not s.infeasible])  # fmt: skip
def test_ctc_gradient_of_log_probs_is_the_slope_of_their_value(speech: Speech, rng: np.random.Generator) -> None:
    x = log_softmax(rng.normal(size=speech.shape))
    truths = speech.truths("int64")
    for reduction in ("mean", "sum"):
        module = nn.CTCLoss(reduction=reduction)
        expected = slope(lambda x, m=module: theirs(m, x, *truths)[1], x)
        close(make("ctc", reduction=reduction).get_grad(x, truths), expected, 1e-8)


@pytest.mark.parametrize("wrt", [
    "log_probs",
    "logits",
])  # fmt: skip
def test_ctc_does_not_read_frames_past_the_end(wrt):
    x = np.full((3, 1, 2), -np.log(2))
    truths = A([[1]]), A([2]), A([1])
    (expected,), _ = theirs(nn.CTCLoss(), x, *truths)
    x[2] = nan
    assert all_zero(expected[2], theirs(nn.CTCLoss(), x, *truths)[0][0][2], make("ctc", wrt=wrt).get_grad(x, truths)[2])


def slope(function: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[index] = step
        found[index] = (function(x + nudge) - function(x - nudge)) / (2 * step)
    return found


# The tables above leave nothing out


def tables(header: str) -> list[list[str]]:
    """Cells of the rows of the documentation's table with a header."""
    text = PAGE.read_text(encoding="utf-8")
    match = re.search(rf"^\| {re.escape(header)} \|.*\n\|[-| ]*\n((?:^\|.*\n)+)", text, re.MULTILINE)
    assert match, header
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in match[1].splitlines()]


TWIN_MODULES = {twin.alias: twin.module for twin in TWINS} | {"ctc": nn.CTCLoss}
TRIED = {(twin.alias, option) for twin in TWINS for option in twin.grid} | {("ctc", "blank"), ("ctc", "zero_infinity")}


def shared_options(alias: str) -> set[str]:
    """Our names of the options that both have, but for the reduction."""
    names = {field.name for field in fields(lossreg.registry.losses.get(ALIASES[alias]))}
    signature = inspect.signature(TWIN_MODULES[alias]).parameters
    return {name for name in names if THEIR_NAMES.get(name, name) in signature} - {"reduction"}


def test_there_are_21_twins_and_all_are_compared():
    assert len(TWIN_MODULES) == 21
    assert {(alias, option) for alias in TWIN_MODULES for option in shared_options(alias)} == TRIED


def test_every_option_is_tried_with_values_that_are_not_the_default():
    for twin in TWINS:
        defaults = make(twin.alias).options(all=True)
        for option, values in twin.grid.items():
            everywhere = {v for other in TWINS if other.alias == twin.alias for v in other.grid.get(option, ())}
            assert (
                len(everywhere - {defaults[option]}) >= (1 if isinstance(defaults[option], bool) else 2)
                or option == "p"
            )
            assert len(set(values)) == len(values)


def test_options_and_defaults_are_theirs():
    for alias, module in TWIN_MODULES.items():
        signature = inspect.signature(module).parameters
        defaults = make(alias).options(all=True)
        for option in shared_options(alias) - {"class_weight"}:
            assert signature[THEIR_NAMES.get(option, option)].default == defaults[option], (alias, option)
        not_ours = set(signature) - {"size_average", "reduce", "reduction"}
        renamed = {THEIR_NAMES.get(option, option) for option in shared_options(alias)}
        assert not_ours - renamed == ({"weight"} if alias == "bce" else set()), alias


def test_the_table_of_twins_is_right():
    rows = tables("alias")
    assert [row[0].strip("`") for row in rows] == sorted(TWIN_MODULES)
    for alias, name, module, options, *_ in ([cell.replace("`", "") for cell in row] for row in rows):
        assert ALIASES[alias] == name
        assert module == TWIN_MODULES[alias].__name__
        own = make(alias).options(all=True)
        listed = [re.fullmatch(r"(\w+)=(.+?)(?: \((\w+)\))?", option) for option in options.split(", ") if option]
        assert {m[1] for m in listed if m} == shared_options(alias), alias
        for m in listed:
            assert m
            assert str(own[m[1]]) == m[2]
            assert m[3] == THEIR_NAMES.get(m[1])


def test_every_difference_is_listed_and_tested():
    listed = [row[0].strip("`") for row in tables("difference")]
    tested = [name.removeprefix("test_difference_") for name in globals() if name.startswith("test_difference_")]
    assert listed == tested


# The differences that are meant, in the order of the documentation: what PyTorch does, then what lossreg does


def their_error(module: Any, guesses: Any, *targets: Any) -> type[Exception]:
    with pytest.raises(Exception) as caught:
        theirs(module, guesses, *targets)
    return caught.type


def our_error(alias: str, guesses: Any, truths: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match="Cannot calculate") as caught:
        make(alias, **options)(guesses, truths)
    return str(caught.value)


def all_zero(*arrays: Any) -> bool:
    return all(not np.any(x) for x in arrays)


X = A([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    "twin",
    [t for t in TWINS if t.alias not in (*MEASURES, "multimargin", "multilabel") and not t.note],
    ids=lambda t: t.alias,
)
def test_difference_empty_mean(twin):
    shape = (0, 5)
    guesses, truths = twin.sample(Draw(np.random.default_rng(0)), shape, make(twin.alias).options(all=True))
    grads, value = theirs(twin.module(), guesses, truths)
    assert np.isnan(value)
    grad, value = make(twin.alias)(guesses, truths)
    assert value == 0
    assert [x.shape for x in as_tuple(grad)] == [x.shape for x in grads]


@pytest.mark.parametrize("alias, module", [("ce", nn.CrossEntropyLoss), ("nll", nn.NLLLoss)])
def test_difference_all_ignored(alias, module):
    for guesses, truths in ((X, A([-100, -100])), (X[0], A(-100)), (X[..., None], A([[-100], [-100]]))):
        assert np.isnan(theirs(module(), guesses, truths)[1])
        grad, value = make(alias)(guesses, truths)
        assert value == 0
        assert all_zero(grad)


@pytest.mark.parametrize("alias, module", [("ce", nn.CrossEntropyLoss), ("nll", nn.NLLLoss)])
def test_difference_zero_weights(alias, module):
    weights = (1.0, 0.0, 1.0)
    (their_grad,), value = theirs(make_theirs(module, class_weight=weights), X, A([1, 1]))
    assert np.isnan(value)
    assert np.isnan(their_grad).any()
    grad, value = make(alias, class_weight=weights)(X, A([1, 1]))
    assert value == 0
    assert all_zero(grad)


@pytest.mark.parametrize("bad", [nan, -inf, inf])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_difference_ignored_rows(bad, label_smoothing):
    x = A([[bad, bad, bad], [3.0, 1.0, 2.0]])
    (their_grad,), their_value = theirs(nn.CrossEntropyLoss(label_smoothing=label_smoothing), x, A([-100, 0]))
    assert np.isnan(their_grad[0]).all()
    grad, value = make("ce", label_smoothing=label_smoothing)(x, A([-100, 0]))
    close(value, their_value, 1e-12)
    assert all_zero(grad[0])
    close(grad[1], their_grad[1], 1e-12)


@pytest.mark.parametrize("alias, module, n", [
    ("hinge", nn.HingeEmbeddingLoss, 1), ("softmargin", nn.SoftMarginLoss, 1), ("margin", nn.MarginRankingLoss, 2),
    ("cosineloss", nn.CosineEmbeddingLoss, 2),
])  # fmt: skip
@pytest.mark.parametrize("wrong", [0.0, 2.0])
def test_difference_signs(alias, module, n, wrong):
    guesses = (X, X[::-1].copy())[:n] if n > 1 else X
    truths = np.ones(2 if alias == "cosineloss" else X.shape)
    truths[0] = wrong
    assert np.isfinite(theirs(module(), guesses, truths)[1])
    assert f"1 or -1, got {wrong} in row 0" in our_error(alias, guesses, truths)


@pytest.mark.parametrize("alias, module", [
    ("bcelogits", nn.BCEWithLogitsLoss), ("ce", nn.CrossEntropyLoss), ("kl", nn.KLDivLoss), ("multisoft", nn.MultiLabelSoftMarginLoss)
])  # fmt: skip
def test_difference_probabilities(alias, module):
    truths = A([[0.5, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.isfinite(theirs(module(), X, truths)[1])
    assert "in [0, 1], got 2.0 in row 0" in our_error(alias, X, truths)


def test_difference_counts():
    assert np.isfinite(theirs(nn.PoissonNLLLoss(), X, -X)[1])
    assert "truth values of at least 0, got -1.0 in row 0" in our_error("poissonloss", X, -X)
    assert np.isnan(theirs(nn.PoissonNLLLoss(log_input=False), -X, X)[1])
    assert "guesses of at least 0, got -1.0 in row 0" in our_error("poissonloss", -X, X, log_input=False)


@pytest.mark.parametrize("alias, module", [
    ("bcelogits", nn.BCEWithLogitsLoss), ("kl", nn.KLDivLoss), ("poissonloss", nn.PoissonNLLLoss),
    ("softmargin", nn.SoftMarginLoss), ("multisoft", nn.MultiLabelSoftMarginLoss), ("ce", nn.CrossEntropyLoss),
])  # fmt: skip
def test_difference_nan_truths(alias, module):
    truths = np.ones((2, 3))
    truths[1, 0] = nan
    assert not np.isfinite(theirs(module(reduction="none"), X, truths)[1]).all()
    assert "got nan in row 1" in our_error(alias, X, truths)


@pytest.mark.parametrize("alias, module", [("l1", nn.L1Loss), ("hinge", nn.HingeEmbeddingLoss), ("margin", nn.MarginRankingLoss), ("multimargin", nn.MultiMarginLoss), ("multilabel", nn.MultiLabelMarginLoss), ("pairwise", nn.PairwiseDistance)])  # fmt: skip
def test_difference_nan_guesses(alias, module):
    """The value or the slope of what meets a NaN is NaN, where PyTorch has 0 for one or both."""
    x = A([[nan, 1.0]])
    guesses, truths = {
        "hinge": (x, A([[-1.0, 1.0]])),
        "margin": ((x, np.zeros((1, 2))), np.ones((1, 2))),
        "multimargin": (x, A([1])),
        "multilabel": (x, A([[1, -1]])),
        "pairwise": ((x, np.zeros((1, 2))), None),
    }.get(alias, (x, np.zeros((1, 2))))
    options = {"p": 1.0} if alias == "pairwise" else {}
    assert theirs(module(**options), guesses, truths)[0][0][0, 0] == 0
    grad, value = make(alias, **options)(guesses, truths)
    assert np.isnan(as_tuple(grad)[0][0, 0])
    assert np.isnan(value).all()


@pytest.mark.parametrize("alias, module, wrong", [
    ("ce", nn.CrossEntropyLoss, A([0, 3])), ("nll", nn.NLLLoss, A([0, -1])), ("multimargin", nn.MultiMarginLoss, A([0, 3])),
    ("multilabel", nn.MultiLabelMarginLoss, A([[0, -1, 0], [3, -1, 0]])),
])  # fmt: skip
def test_difference_ids(alias, module, wrong):
    assert issubclass(their_error(module(), X, wrong), (IndexError, RuntimeError))
    assert re.search(r"got undeclared id (3|-1) in row 1", our_error(alias, X, wrong))


@pytest.mark.parametrize("wrong", [0, -1, 3])
def test_difference_ctc_ids(wrong):
    x = np.full((5, 1, 3), -np.log(3))
    truths = (A([[1, wrong]]), A([5]), A([2]))
    if wrong == 0:  # the others read memory that belongs to something else
        assert np.isfinite(theirs(nn.CTCLoss(), x, *truths)[1])
    assert f"expected target ids in [0, 3) and not the blank, 0, got {wrong} in row 0" in our_error("ctc", x, truths)


def test_difference_repeated_labels():
    once, twice = A([0, -1, 0]), A([0, 0, -1])
    assert theirs(nn.MultiLabelMarginLoss(), X[0], twice)[1] == 2 * theirs(nn.MultiLabelMarginLoss(), X[0], once)[1]
    assert "without repeats, got class 0 twice" in our_error("multilabel", X[0], twice)


def test_difference_padding():
    for behind in (7, -7):
        assert their_error(nn.MultiLabelMarginLoss(), X[0], A([0, -1, behind])) is RuntimeError
        same = theirs(nn.MultiLabelMarginLoss(), X[0], A([0, -1, 0]))[1]
        assert make("multilabel").get_loss(X[0], A([0, -1, behind])) == same
    frames = np.full((5, 3), -np.log(3))
    assert their_error(nn.CTCLoss(), frames, A([1, 2, 2]), A(5), A(2)) is RuntimeError
    same = theirs(nn.CTCLoss(), frames, A([1, 2]), A(5), A(2))[1]
    close(make("ctc").get_loss(frames, (A([1, 2, 2]), 5, 2)), same, 1e-12)


@pytest.mark.parametrize("alias, module", [
    ("l1", nn.L1Loss), ("mse", nn.MSELoss), ("huber", nn.HuberLoss), ("smoothl1", nn.SmoothL1Loss), ("kl", nn.KLDivLoss),
    ("poissonloss", nn.PoissonNLLLoss), ("hinge", nn.HingeEmbeddingLoss),
])  # fmt: skip
def test_difference_broadcast_truths(alias, module):
    column, row = np.ones((3, 1)), np.ones(3)
    assert theirs(module(reduction="none"), column, row)[1].shape == (3, 3)
    assert "mismatched shape (3,)" in our_error(alias, column, row)


@pytest.mark.parametrize("alias, module, n", [
    ("cosineloss", nn.CosineEmbeddingLoss, 2), ("similar", nn.CosineSimilarity, 2), ("pairwise", nn.PairwiseDistance, 2), ("triplet", nn.TripletMarginLoss, 3)
])  # fmt: skip
def test_difference_broadcast_inputs(alias, module, n):
    guesses = (X, *[X[:1]] * (n - 1))
    truths = np.ones(2) if alias == "cosineloss" else None
    assert np.isfinite(theirs(module(), guesses, truths)[1]).all()
    assert "of shape (2, 3)" in our_error(alias, guesses, truths)


def test_difference_broadcast_ranks():
    guesses, truths = (X, X[0]), np.ones((2, 3))
    assert their_error(nn.MarginRankingLoss(), guesses, truths) is RuntimeError
    grads, value = make("margin", margin=2.5)(guesses, truths)
    expected, expected_value = theirs(nn.MarginRankingLoss(margin=2.5), (X, X[:1]), truths)
    close(value, expected_value, 1e-12)
    close(grads[1], expected[1][0], 1e-12)


def test_difference_shapes_of_weights():
    x, t, weight = np.ones((2, 2, 3)), np.full((2, 2, 3), 0.5), A([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for option in ("pos_weight", "class_weight"):
        theirs(make_theirs(nn.BCEWithLogitsLoss, **{option: weight}), x, t)
        with pytest.raises(lossreg.ConfigError, match=option):
            make("bcelogits", **{option: weight})
    compare(lambda x, t: make("bcelogits")(x, t, sample_weight=weight), nn.BCEWithLogitsLoss(weight=tensor(weight)), x, t, 1e-12)  # fmt: skip


def test_difference_ambiguous_weights():
    x, weight = np.full((3, 3), 0.5), A([1.0, 2.0, 3.0])
    columns = theirs(nn.BCELoss(weight=tensor(weight)), x, x)[1]
    for given, fails in ((weight, "with 2 axes"), (-weight[None], "of at least 0")):
        assert np.isfinite(theirs(nn.BCELoss(weight=tensor(given)), x, x)[1])
        with pytest.raises(ValueError, match=fails):
            make("bce")(x, x, sample_weight=given)
    close(make("bce")(x, x, sample_weight=weight[None])[1], columns, 1e-12)


def test_difference_empty_vectors():
    none = np.zeros((2, 0))
    for alias, module in (("similar", nn.CosineSimilarity), ("pairwise", nn.PairwiseDistance)):
        assert theirs(module(), (none, none))[1].tolist() == [0.0, 0.0]
        assert "got shape (2, 0)" in our_error(alias, (none, none), None)


def test_difference_lengths_of_one():
    compare(make("multimargin"), nn.MultiMarginLoss(), X[0], A(1), 1e-12)
    assert theirs(nn.MultiMarginLoss(), X[0], A([1]))[1] == theirs(nn.MultiMarginLoss(), X[0], A(1))[1]
    assert "to be a label or a row of 3" in our_error("multimargin", X[0], A([1]))


INFINITE = [
    ("bcelogits", nn.BCEWithLogitsLoss, {}, A([inf, -inf, -inf]), A([1.0, 0.0, 1.0]), A([0.0, 0.0, inf])),
    ("multisoft", nn.MultiLabelSoftMarginLoss, {}, A([[inf, -inf]]), A([[1.0, 0.0]]), A([0.0])),
    ("kl", nn.KLDivLoss, {}, A([-inf]), A([0.0]), A([0.0])),
    ("kl", nn.KLDivLoss, {"log_target": True}, A([-1.0, -inf]), A([-inf, -inf]), A([0.0, 0.0])),
    ("poissonloss", nn.PoissonNLLLoss, {}, A([-inf, inf]), A([0.0, 0.0]), A([0.0, inf])),
    ("ce", nn.CrossEntropyLoss, {}, A([[0.0, 0.0, -inf]]), A([[0.5, 0.5, 0.0]]), A([np.log(2)])),
    ("ce", nn.CrossEntropyLoss, {"label_smoothing": 0.1, "class_weight": (1.0, 1.0, 0.0)}, A([[0.0, 0.0, -inf]]), A([0]), A([(0.9 + 0.2 / 3) * np.log(2)])),
]  # fmt: skip


@pytest.mark.parametrize("alias, module, options, guesses, truths, limit", INFINITE, ids=lambda x: x if isinstance(x, str) else None)  # fmt: skip
def test_difference_zero_times_infinity(alias, module, options, guesses, truths, limit):
    (their_grad,), value = theirs(make_theirs(module, reduction="none", **options), guesses, truths)
    assert np.isnan(value).all()
    grad, value = make(alias, reduction="none", **options)(guesses, truths)
    close(value, limit, 1e-12)
    close(grad, their_grad, 1e-12)


def test_difference_certain_class():
    x, t = A([[0.0, inf, 1.0]] * 2), A([1, 0])
    (their_grad,), value = theirs(nn.CrossEntropyLoss(reduction="none"), x, t)
    assert np.isnan(value).all()
    assert np.isnan(their_grad).any(axis=1).all()
    grad, value = make("ce", reduction="none")(x, t)
    assert value.tolist() == [0.0, inf]
    assert grad.tolist() == [[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]
    assert np.isnan(make("ce").get_loss(A([[inf, inf]]), [0]))


def test_difference_soft_margin_overflow():
    x, t = A([1000.0, -1000.0]), A([-1.0, 1.0])
    (their_grad,), value = theirs(nn.SoftMarginLoss(reduction="none"), x, t)
    assert np.isinf(value).all()
    assert np.isnan(their_grad).all()
    grad, value = make("softmargin", reduction="none")(x, t)
    assert value.tolist() == [1000.0, 1000.0]
    assert grad.tolist() == [1.0, -1.0]


def test_difference_confident_answers():
    """log(1 + e^x) for x far below 0 is e^x, to rounding."""
    for x in (-20.0, -50.0):
        for alias, module, guesses, truths in (
            ("bcelogits", nn.BCEWithLogitsLoss, A([x]), A([0.0])),
            ("ce", nn.CrossEntropyLoss, A([[0.0, x]]), A([0])),
        ):
            their_value = theirs(module(), guesses, truths)[1]
            assert not np.isclose(their_value, np.log1p(np.exp(x)), rtol=1e-9, atol=0)
            close(make(alias).get_loss(guesses, truths), np.log1p(np.exp(x)), 1e-15)


def test_difference_distance_overflow():
    big, small, zero = A([[3e200, 4e200]]), A([[3e-200, 4e-200]]), np.zeros((1, 2))
    for x, theirs_is in ((big, inf), (small, 0.0)):
        grads, value = theirs(nn.PairwiseDistance(eps=0.0), (x, zero))
        assert value == theirs_is
        assert all_zero(*grads)
        grads, value = make("pairwise", eps=0.0)((x, zero))
        close(value, [np.hypot(*x[0])], 1e-12)
        close(grads[0], A([[0.6, 0.8]]), 1e-12)
    assert np.isnan(theirs(nn.TripletMarginLoss(), (big, zero, zero))[1])
    assert make("triplet").get_loss((big, zero, zero)) == 1.0 - 1.0  # of two equal distances the margin is lost


@pytest.mark.parametrize("eps", [1e-8, 3.0])
def test_difference_cosine_eps(eps):
    x1, x2 = A([[1.0, 2.0]]) * eps / 9, A([[2.0, 1.0]])
    their_grads, value = theirs(nn.CosineSimilarity(eps=eps), (x1, x2))
    ours = make("similar", eps=eps)
    grads, ours_value = ours((x1, x2))
    close(ours_value, value, 1e-12)
    expected = slope(lambda x: ours.get_loss((x, x2))[0], x1, eps / 900)
    close(grads[0], expected, 1e-8)
    assert not np.allclose(their_grads[0], expected, rtol=1e-2, atol=0)
    expected = slope(lambda x: ours.get_loss((x1, x))[0], x2)
    close(grads[1], expected, 1e-6)


def test_difference_rounded_constants():
    """1e-12 is a float32 in PyTorch's kernels: 4e-9 of it is missing, which shows in float64."""
    x, t = A([0.0, 1.0]), A([1.0, 0.0])
    (their_grad,), value = theirs(nn.BCELoss(reduction="none"), x, t)
    grad, ours_value = make("bce", reduction="none")(x, t)
    assert ours_value.tolist() == value.tolist() == [100.0, 100.0]
    assert grad.tolist() == [-1e12, 1e12]
    assert 1e-9 < np.abs(their_grad / grad - 1).max() < 1e-8
    guesses, t = (np.zeros((1, 2)), A([[3.0, 4.0]])), A([1.0])
    their_grads, _ = theirs(nn.CosineEmbeddingLoss(), guesses, t)
    grads, _ = make("cosineloss")(guesses, t)
    close(grads[0], A([[-0.6e6, -0.8e6]]), 1e-12)
    assert 1e-9 < np.abs(their_grads[0] / grads[0] - 1).max() < 1e-8


def test_difference_ctc_gradient():
    """PyTorch's gradient of log-probabilities is that of logits, whatever is below."""
    rng = np.random.default_rng(0)
    x, truths = log_softmax(rng.normal(size=(5, 2, 4))), (A([[1, 2], [3, 0]]), A([5, 4]), A([2, 1]))
    (their_grad,), _ = theirs(nn.CTCLoss(), x, *truths)
    true = slope(lambda x: theirs(nn.CTCLoss(), x, *truths)[1], x)
    assert np.abs(their_grad - true).max() > 0.01
    close(make("ctc", wrt="logits").get_grad(x, truths), their_grad, 1e-12)
    close(make("ctc", wrt="log_probs").get_grad(x, truths), true, 1e-8)
    logits = rng.normal(size=(5, 2, 4))
    (through,), _ = theirs(lambda z, *t: nn.CTCLoss()(z.log_softmax(-1), *t), logits, *truths)
    d_log_probs = make("ctc").get_grad(log_softmax(logits), truths)
    chained = d_log_probs - np.exp(log_softmax(logits)) * d_log_probs.sum(axis=-1, keepdims=True)
    close(chained, through, 1e-12)


def test_difference_ctc_infeasible():
    x, truths = np.full((2, 1, 3), -np.log(3)), (A([[1, 1]]), A([2]), A([2]))
    (their_grad,), value = theirs(nn.CTCLoss(), x, *truths)
    assert value == inf
    assert np.isnan(their_grad).any()
    for wrt in ("log_probs", "logits"):
        grad, value = make("ctc", wrt=wrt)(x, truths)
        assert value == inf
        assert all_zero(grad)


def test_difference_ctc_impossible_classes():
    """A log-probability of -inf for a label that the alignments can do without."""
    x = log_softmax(np.zeros((4, 1, 3)))
    x[1, 0] = np.log([0.5, 1e-300, 0.5])
    truths = (A([[1, 2]]), A([4]), A([2]))
    limit = make("ctc", wrt="logits").get_grad(x, truths)
    x[1, 0, 1] = -inf
    (their_grad,), their_value = theirs(nn.CTCLoss(), x, *truths)
    assert np.isnan(their_grad).any()
    grad, value = make("ctc", wrt="logits")(x, truths)
    close(value, their_value, 1e-12)
    close(grad, limit, 1e-12)


def test_difference_ctc_precision():
    """Sums over alignments of float32 guesses in float32, and in float64."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 8, 20)).astype("float32") * 3
    truths = rng.integers(1, 20, (8, 15)), np.full(8, 50), np.full(8, 15)

    def through_log_softmax(z: Any, *t: Any) -> Any:
        return nn.CTCLoss(reduction="sum")(z.log_softmax(-1), *t)

    (exact,), _ = theirs(through_log_softmax, logits.astype("float64"), *truths)
    (their_grad,), _ = theirs(through_log_softmax, logits, *truths)
    grad = make("ctc", wrt="logits", reduction="sum").get_grad(tensor(logits).log_softmax(-1).numpy(), truths)
    close(grad, exact, 1e-6)
    close(their_grad, exact, 1e-3)
    assert np.abs(their_grad - exact).max() > 5 * np.abs(grad - exact).max()


def test_difference_ctc_empty():
    empty = np.zeros((5, 0, 3)), (np.zeros((0, 2), int), np.zeros(0, int), np.zeros(0, int))
    no_frames = np.zeros((0, 2, 3)), (np.zeros((2, 0), int), A([0, 0]), A([0, 0]))
    for x, truths in (empty, no_frames):
        assert their_error(nn.CTCLoss(), x, *truths) is RuntimeError
        grad, value = make("ctc")(x, truths)
        assert value == 0
        assert grad.shape == x.shape


@pytest.mark.parametrize("alias, module, wrong, guesses, truths", [
    ("cosineloss", nn.CosineEmbeddingLoss, {"margin": 2.0}, (X, X), np.ones(2)),
    ("pairwise", nn.PairwiseDistance, {"p": -1.0}, (X, X), None),
    ("similar", nn.CosineSimilarity, {"eps": 0.0}, (X, X), None),
    ("poissonloss", nn.PoissonNLLLoss, {"eps": 0.0}, X, X),
    ("hinge", nn.HingeEmbeddingLoss, {"margin": nan}, X, -np.ones((2, 3))),
    ("ce", nn.CrossEntropyLoss, {"class_weight": (-1.0, 1.0, 1.0)}, X, A([0, 1])),
    ("bcelogits", nn.BCEWithLogitsLoss, {"pos_weight": (-1.0, 1.0, 1.0)}, X, np.ones((2, 3))),
])  # fmt: skip
def test_difference_options(alias, module, wrong, guesses, truths):
    theirs(make_theirs(module, **wrong), guesses, truths)
    with pytest.raises(lossreg.ConfigError, match=next(iter(wrong))):
        make(alias, **wrong)


def test_difference_old_options():
    with pytest.warns(UserWarning, match="deprecated"):
        assert nn.MSELoss(size_average=False).reduction == "sum"
    with pytest.raises(lossreg.ConfigError, match="size_average"):
        make("mse", size_average=False)


def test_difference_when_options_are_checked():
    for alias, module, wrong in (
        ("mse", nn.MSELoss, {"reduction": "meen"}),
        ("huber", nn.HuberLoss, {"delta": 0.0}),
        ("smoothl1", nn.SmoothL1Loss, {"beta": -1.0}),
        ("ce", nn.CrossEntropyLoss, {"label_smoothing": 2.0}),
    ):
        made = module(**wrong)
        assert issubclass(their_error(made, X, X / 9), (ValueError, RuntimeError))
        with pytest.raises(lossreg.ConfigError, match=next(iter(wrong))):
            make(alias, **wrong)


def test_difference_ignore_index_of_probabilities():
    rows = np.full((2, 3), 1 / 3)
    assert their_error(nn.CrossEntropyLoss(ignore_index=1), X, rows) is RuntimeError
    compare(make("ce", ignore_index=1), nn.CrossEntropyLoss(), X, rows, 1e-12)


def test_difference_types_of_truths():
    for kind in ("int8", "int32", "uint16"):
        ids = A([2, 0]).astype(kind)
        assert their_error(nn.CrossEntropyLoss(), X, ids) is RuntimeError
        compare(lambda x, t, ids=ids: make("ce")(x, ids), nn.CrossEntropyLoss(), X, A([2, 0]), 1e-12)
    assert make("ce").get_loss(X, [2, 0]) == make("ce", names=["a", "b", "c"]).get_loss(X, ["c", "a"])
    for alias, module in (("bce", nn.BCELoss), ("bcelogits", nn.BCEWithLogitsLoss), ("huber", nn.HuberLoss), ("kl", nn.KLDivLoss)):  # fmt: skip
        for truths in (A([[0, 1, 1]]), A([[False, True, True]])):
            guesses = A([[0.2, 0.5, 0.7]])
            assert their_error(module(), guesses, truths) is RuntimeError
            compare(lambda x, t, a=alias, t2=truths: make(a)(x, t2), module(), guesses, truths.astype(float), 1e-12)
    rows = A([[0, 0, 1], [1, 0, 0]])
    assert their_error(nn.CrossEntropyLoss(), X, rows) is RuntimeError
    compare(lambda x, t: make("ce")(x, rows), nn.CrossEntropyLoss(), X, A([2, 0]), 1e-12)


def test_difference_mixed_dtypes():
    x = X.astype("float32")
    assert theirs(nn.MSELoss(), x, X / 3)[1].dtype == "float64"
    assert their_error(nn.HuberLoss(), x, X / 3) is RuntimeError
    for alias, module in (("mse", nn.MSELoss), ("huber", nn.HuberLoss)):
        compare(make(alias), module(), x, (X / 3).astype("float32"), 1e-6)
        assert make(alias).get_grad(x, X / 3).dtype == "float32"
    whole = X.astype(int)
    assert their_error(nn.MSELoss(), whole, X / 3) is RuntimeError
    assert make("mse").get_grad(whole, X / 3).dtype == "float64"


def test_difference_half_precision():
    x, t = np.full(3, 300.0, "float16"), np.zeros(3, "float16")
    assert theirs(nn.MSELoss(), x, t)[1] == inf
    grad, value = make("mse")(x, t)
    assert value == 90000.0
    assert grad.dtype == "float16"
    assert grad.tolist() == [200.0, 200.0, 200.0]


def test_difference_results():
    x, t = np.full(10, 0.1, "float32"), np.zeros(10, "float32")
    value = theirs(nn.L1Loss(reduction="sum"), x, t)[1]
    assert value.dtype == "float32"
    ours = make("l1", reduction="sum").get_loss(x, t)
    assert type(ours) is float
    assert ours == x.astype("float64").sum() != value


def test_difference_gradient_of_truths():
    x, t = tensor(X), torch.tensor(X / 2, requires_grad=True)
    nn.MSELoss()(x, t).backward()
    assert t.grad is not None
    grad = make("mse").get_grad(X, X / 2)
    assert isinstance(grad, np.ndarray)
    assert grad.shape == X.shape


def test_difference_mean_of_kl():
    with pytest.warns(UserWarning, match="batchmean"):
        their_mean = nn.KLDivLoss()(tensor(-X), tensor(X / 3)).item()
    mean, batch_mean = (make("kl", reduction=r).get_loss(-X, X / 3) for r in ("mean", "batch_mean"))
    close(mean, their_mean, 1e-12)
    close(batch_mean, 3 * mean, 1e-12)
