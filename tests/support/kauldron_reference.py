"""Kauldron's losses and metrics twice, with one interface: Kauldron itself, and its formulas restated in NumPy.

What is compared with one runs with both; tests of the other are skipped where Kauldron is not installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """A loss of Kauldron, its options, and one batch under Kauldron's names."""

    name: str
    guesses: dict[str, Any]
    """By the names of the keys; gradients are with respect to these."""
    truths: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    mask: Any = None
    weight: float | Callable[[int], Any] = 1.0
    normalize_by: str = "mask"
    step: int = 0

    @property
    def keys(self) -> dict[str, str]:
        """Kauldron's keys: where each input lies in the context."""
        keys = {name: f"preds.{name}" for name in self.guesses} | {name: f"batch.{name}" for name in self.truths}
        return keys if self.mask is None else keys | {"mask": "batch.mask"}

    @property
    def context(self) -> dict[str, Any]:
        """What the keys are looked up in."""
        return {"preds": self.guesses, "batch": {**self.truths, "mask": self.mask}, "step": self.step}

    def parts(self, *cuts: int) -> list[Case]:
        """The batch cut along its first axis."""
        size = len(next(iter(self.guesses.values())))

        def take(x: Any, part: slice) -> Any:
            return x[part] if np.ndim(x) and len(x) == size else x

        parts = [slice(*ends) for ends in zip((0, *cuts), (*cuts, size))]
        guesses = [{name: take(x, part) for name, x in self.guesses.items()} for part in parts]
        truths = [{name: take(x, part) for name, x in self.truths.items()} for part in parts]
        options = [self.__dict__ | {"mask": take(self.mask, part)} for part in parts]
        return [Case(**o | {"guesses": g, "truths": t}) for o, g, t in zip(options, guesses, truths)]


# The formulas, in operations that complex numbers have: a gradient is then a complex step


def size(x: Any) -> Any:
    return np.where(np.real(x) < 0, -x, x)


def log_sigmoid(x: Any) -> Any:
    return np.where(np.real(x) < 0, x, 0) - np.log1p(np.exp(-size(x)))


def log_softmax(x: Any) -> Any:
    x = x - np.real(x).max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def huber(preds: Any, targets: Any, delta: float = 1.0) -> Any:
    r = size(preds - targets)
    return np.where(np.real(r) < delta, 0.5 * r * r, delta * (r - 0.5 * delta))


def negative_cosine(preds: Any, targets: Any, eps: float = 1e-8) -> Any:
    a, b = (x / (np.sqrt((x * x).sum(axis=-1, keepdims=True)) + eps) for x in (preds, targets))
    return -(a * b).sum(axis=-1, keepdims=True)


def sigmoid_entropy(logits: Any, labels: Any) -> Any:
    return -labels * log_sigmoid(logits) - (1 - labels) * log_sigmoid(-logits)


FORMULAS: dict[str, Callable[..., Any]] = {
    "L1": lambda preds, targets: size(preds - targets),
    "L2": lambda preds, targets: (preds - targets) ** 2,
    "Huber": huber,
    "NegativeCosineSimilarity": negative_cosine,
    "SoftmaxCrossEntropy": lambda logits, labels: -(labels * log_softmax(logits)).sum(axis=-1, keepdims=True),
    "SoftmaxCrossEntropyWithIntLabels": lambda logits, labels: -np.take_along_axis(log_softmax(logits), labels, -1),
    "SigmoidBinaryCrossEntropy": sigmoid_entropy,
    "Value": lambda values: values,
    "AbsoluteValue": lambda values: size(values),
}


@dataclass(frozen=True)
class Total:
    """What Kauldron's losses keep: a weighted sum, and a count that is always float32."""

    value: Any
    count: Any

    def merge(self, other: Total) -> Total:
        return Total(self.value + other.value, self.count + other.count)

    def compute(self) -> Any:
        return self.value / np.maximum(self.count, np.float32(1e-8))


@dataclass(frozen=True)
class MetricCase:
    """A metric of Kauldron, its options, and one batch under Kauldron's names."""

    name: str
    inputs: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, str]:
        """Where each input lies in the context."""
        return {name: f"batch.{name}" for name in self.inputs}

    @property
    def context(self) -> dict[str, Any]:
        """What the keys are looked up in."""
        return {"batch": self.inputs}

    def parts(self, *cuts: int) -> list[MetricCase]:
        """The batch cut along its first axis."""
        pieces = [np.split(x, cuts) for x in self.inputs.values()]
        return [MetricCase(self.name, dict(zip(self.inputs, each)), self.options) for each in zip(*pieces)]


# Metrics as states, whose parts are added up (lists are what is kept of all batches), and results

Sums = tuple[Any, ...]


def average(values: Any, mask: Any = None) -> Sums:
    weight = np.ones(values.shape) if mask is None else np.broadcast_to(mask, values.shape)
    return (values * weight).sum(), weight.sum(dtype=np.float64)


def ratio(total: Any, count: Any, **options: Any) -> Any:
    return total / count if count else 0.0


def accuracy(labels: Any, logits: Any = None, pred_labels: Any = None, mask: Any = None) -> Sums:
    best = pred_labels if logits is None else logits.argmax(axis=-1)[..., None]
    return average((best == labels).astype(float), mask)


def precision(logits: Any, labels: Any, mask: Any = None) -> Sums:
    return average(np.take_along_axis(labels, logits.argmax(axis=-1)[..., None], -1), mask)


def norm(tensor: Any, mask: Any = None, axis: Any = -1, ord: Any = None, aggregation_type: Any = "average") -> Sums:
    x, axis = (tensor.reshape(-1, 1), 0) if axis is None else (tensor, axis)
    found = np.linalg.norm(x, ord=ord, axis=axis, keepdims=True)
    return average(found if aggregation_type == "average" else found ** (ord or 2), mask)


def norm_result(total: Any, count: Any, axis: Any = -1, ord: Any = None, aggregation_type: Any = "average") -> Any:
    return ratio(total, count) if aggregation_type == "average" else total ** (1 / (ord or 2))


def moments(values: Any, mask: Any = None) -> Sums:
    mask = np.broadcast_to(1 if mask is None else mask, values.shape)
    return np.where(mask, values, 0).sum(), np.where(mask, values**2, 0).sum(), mask.sum()


def deviation(total: Any, squares: Any, count: Any) -> Any:
    return np.sqrt(max(squares / count - (total / count) ** 2, 0.0))


def collected(logits: Any, labels: Any, mask: Any = None) -> Sums:
    probs = np.exp(log_softmax(logits)).reshape(-1, logits.shape[-1])
    return [probs], [labels.ravel()], [np.ones(labels.size) if mask is None else mask.ravel().astype(float)]


def roc_auc(probs: Any, labels: Any, weights: Any) -> Any:
    """The mean over classes of the share of pairs of rows in the right order."""
    probs, labels, weights = map(np.concatenate, (probs, labels, weights))
    classes = np.unique(labels)
    probs = probs[:, classes] / probs[:, classes].sum(axis=1, keepdims=True)
    areas = []
    for column, label in zip(probs.T, classes):
        right = labels == label
        pairs = weights[right][:, None] * weights[~right]
        order = np.sign(column[right][:, None] - column[~right])
        areas.append((pairs * (1 + order) / 2).sum() / pairs.sum())
    return np.mean(areas) if len(classes) > 1 else 0.0


METRICS: dict[str, tuple[Callable[..., Sums], Callable[..., Any]]] = {
    "Accuracy": (accuracy, ratio),
    "BinaryAccuracy": (lambda logits, labels, mask=None: average((logits > 0) == labels, mask), ratio),
    "Precision1": (precision, ratio),
    "RocAuc": (collected, roc_auc),
    "Norm": (norm, norm_result),
    "Std": (moments, deviation),
    "SingleDimension": (lambda tensor, index=0: average(tensor if index is None else tensor[..., index]), ratio),
}
"""(state of a batch, result of the merged states)."""


class Restated:
    """Kauldron's formulas in NumPy."""

    name = "restated"
    precisions = ("float64",)
    shapes = ((4, 3), (4, 2, 3), (0, 3))
    """Of random batches."""

    def values(self, case: Case) -> Any:
        """The values before reduction."""
        return FORMULAS[case.name](**case.guesses, **case.truths, **case.options)

    def state(self, case: Case) -> Total:
        """The state of a batch."""
        values = self.values(case)
        weight = case.weight(case.step) if callable(case.weight) else np.float32(case.weight)
        if case.mask is None:
            return Total(values.sum() * weight, np.float32(values.size))
        mask = np.broadcast_to(case.mask, values.shape)
        count = mask.sum(dtype="float32") if case.normalize_by == "mask" else np.float32(values.size)
        return Total((values * mask).sum() * weight, count)

    def loss(self, *cases: Case) -> Any:
        """The loss of the merged states."""
        return np.asarray(functools.reduce(Total.merge, map(self.state, cases)).compute())

    def loss_and_grads(self, case: Case) -> tuple[Any, dict[str, Any]]:
        """The loss, and its gradients by complex steps."""
        found = {}
        for name, x in case.guesses.items():
            found[name] = np.zeros(x.shape)
            for index in np.ndindex(x.shape):
                stepped = x.astype(complex)
                stepped[index] += 1e-30j
                moved = Case(**case.__dict__ | {"guesses": {**case.guesses, name: stepped}})
                found[name][index] = self.loss(moved).imag / 1e-30
        return self.loss(case), found

    def metric(self, *cases: MetricCase) -> Any:
        """The result of the merged states."""
        state, compute = METRICS[cases[0].name]
        states = [state(**case.inputs, **case.options) for case in cases]
        return compute(*(sum(parts[1:], parts[0]) for parts in zip(*states)), **cases[0].options)


class Installed:
    """Kauldron itself, in the dtype of the arrays."""

    name = "installed"
    precisions = ("float32", "float64")
    shapes = ((4, 3), (4, 3), (0, 3))  # JAX compiles for each anew

    def __init__(self) -> None:
        import jax
        import kauldron.kontext
        import kauldron.losses
        import kauldron.metrics

        from support import kauldron_samples

        self.jax, self.losses, self.metrics, self.samples = jax, kauldron.losses, kauldron.metrics, kauldron_samples
        self.kontext = kauldron.kontext

    def precision(self, case: Case) -> Any:
        """JAX knows float64 where it is asked for alone."""
        return self.jax.enable_x64(any(x.dtype == np.float64 for x in case.guesses.values()))

    def make(self, case: Case) -> Any:
        """The loss of a case."""
        options = {"weight": case.weight, "normalize_by": case.normalize_by, **case.options}
        return getattr(self.losses, case.name)(**case.keys, **options)

    def context(self, case: Case) -> Any:
        """The context with JAX's arrays."""
        return self.jax.tree.map(lambda x: self.jax.numpy.asarray(x) if np.ndim(x) else x, case.context)

    def values(self, case: Case) -> Any:
        """The values before reduction."""
        with self.precision(case):
            context = self.context(case)
            truths = {name: context["batch"][name] for name in case.truths}
            return np.asarray(self.make(case).get_values(**context["preds"], **truths))

    def state(self, case: Case) -> Any:
        """The state of a batch."""
        with self.precision(case):
            return self.make(case).get_state_from_context(self.context(case))

    def loss(self, *cases: Case) -> Any:
        """The loss of the merged states."""
        with self.precision(cases[0]):
            return np.asarray(functools.reduce(lambda a, b: a.merge(b), map(self.state, cases)).compute())

    def loss_and_grads(self, case: Case) -> tuple[Any, dict[str, Any]]:
        """The loss and its gradients by JAX."""
        with self.precision(case):
            loss, context = self.make(case), self.context(case)
            run = self.jax.value_and_grad(lambda preds: loss(context=context | {"preds": preds}))
            value, found = run(context["preds"])
            return np.asarray(value), {name: np.asarray(x) for name, x in found.items()}

    def make_metric(self, case: MetricCase) -> Any:
        """The metric of a case."""
        return getattr(self.metrics, case.name)(**case.keys, **case.options)

    def metric(self, *cases: MetricCase) -> Any:
        """The result of the merged states, in float32."""
        metric = self.make_metric(cases[0])
        contexts = [self.jax.tree.map(self.jax.numpy.asarray, case.context) for case in cases]
        states = [metric.get_state_from_context(context) for context in contexts]
        return functools.reduce(lambda a, b: a.merge(b), states).finalize().compute()
