"""Metrics: against independent references, and the laws that all of them keep."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, metrics, registry
from support import standin_cupy
from support.nested import frozen

Inputs = dict[str, Any]
CONFIGS = Path(__file__).parents[2] / "configs"
BUILT_IN = [n for n in registry.metrics.names() if registry.metrics.get(n).__module__.startswith("lossreg.")]


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric, inputs of n items along the first axis (a mask among them), and a reference in float64."""

    metric: metrics.Metric
    draw: Callable[[np.random.Generator, int], Inputs]
    reference: Callable[..., Any]
    id: str
    masked: bool = True


def mean(values: Any, mask: Any) -> float:
    values = np.asarray(values, np.float64)
    weight = np.broadcast_to(np.reshape(mask, (-1, *(1 for _ in values.shape[1:]))), values.shape)
    return float(np.average(values, weights=weight))


def logits_and_labels(rng: np.random.Generator, n: int) -> Inputs:
    return {"logits": rng.normal(size=(n, 4)), "labels": rng.integers(0, 4, n)}


def named(rng: np.random.Generator, n: int) -> Inputs:
    names = np.array(["cat", "dog", "bird", "", "!dog"], object)
    return {"logits": rng.normal(size=(n, 3)), "labels": names[rng.integers(0, 5, n)]}


def named_accuracy(logits: Any, labels: Any, mask: Any) -> float:
    right = {"cat": {0}, "dog": {1}, "bird": {2}, "!dog": {0, 2}, "": set()}
    pairs = list(zip(logits.argmax(1), labels, mask))
    return sum(m * (g in right[t]) for g, t, m in pairs) / sum(m * (t != "") for _, t, m in pairs)


def by_sklearn(mode: str) -> Callable[..., float]:
    def reference(logits: Any, labels: Any, mask: Any) -> float:
        sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
        rows = mask != 0
        logits, labels, weight = logits[rows], labels[rows], mask[rows]
        probs = np.exp(logits - logits.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        if probs.shape[1] == 2:
            return float(sklearn.roc_auc_score(labels, probs[:, 1], sample_weight=weight))
        if mode == "ovo":  # scikit-learn has no weights for it: rows are repeated instead
            times = np.round(weight * 4).astype(int)
            labels, probs, weight = np.repeat(labels, times), np.repeat(probs, times, axis=0), None
        return float(sklearn.roc_auc_score(labels, probs, sample_weight=weight, multi_class=mode))

    return reference


def classes(count: int) -> Callable[..., Inputs]:
    def draw(rng: np.random.Generator, n: int) -> Inputs:
        return {"logits": rng.normal(size=(n, count)), "labels": np.resize(np.arange(count), n)}

    return draw


def tensor(*shape: int) -> Callable[..., Inputs]:
    return lambda rng, n: {"tensor": rng.normal(size=(n, *shape))}


def images(*shape: int) -> Callable[..., Inputs]:
    return lambda rng, n: {"pred": rng.random((n, *shape)), "target": rng.random((n, *shape))}


def psnr(pred: Any, target: Any) -> Any:
    return [10 * math.log10(4.0**2 / np.mean((a - b) ** 2)) for a, b in zip(pred, target)]


def ssim(pred: Any, target: Any, size: int, sigma: float) -> Any:
    """Window by window, with a window of two axes at once."""
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    cut = lambda x: np.lib.stride_tricks.sliding_window_view((x + 1) / 4, (size, size), axis=(-3, -2))  # noqa: E731
    x, y = cut(pred), cut(target)
    weighted = lambda z: (z * window).sum(axis=(-2, -1))  # noqa: E731
    mx, my = weighted(x), weighted(y)
    centred_x, centred_y = x - mx[..., None, None], y - my[..., None, None]
    sxx, syy, sxy = weighted(centred_x**2), weighted(centred_y**2), weighted(centred_x * centred_y)
    c1, c2 = 0.02**2, 0.05**2
    found = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sxx + syy + c2))
    return found.mean(axis=(1, 2, 3))


def rand_index(predictions: Any, labels: Any, ignored: Any) -> Any:
    """By its definition over pairs of pixels, adjusted for chance."""
    ignored = () if ignored is None else (ignored,) if isinstance(ignored, int) else ignored
    found = []
    for guess, truth in zip(predictions.reshape(len(labels), -1), labels.reshape(len(labels), -1)):
        kept = ~np.isin(truth, ignored)
        pairs = ~np.eye(kept.sum(), dtype=bool)
        same_guess, same_truth = (((x[kept][:, None] == x[kept]) & pairs) for x in (guess, truth))
        both, a, b, n = (same_guess & same_truth).sum(), same_guess.sum(), same_truth.sum(), pairs.sum()
        expected = a * b / n if n else 0.0
        found.append((both - expected) / ((a + b) / 2 - expected) if (a + b) / 2 != expected else 1.0)
    return found


CASES = [
    Case(
        metrics.Accuracy(),
        logits_and_labels,
        lambda logits, labels, mask: mean(logits.argmax(1) == labels, mask),
        "Accuracy",
    ),
    Case(
        metrics.Accuracy(names=["cat", "dog", "bird"], missing_value="", neg_prefix="!"),
        named,
        named_accuracy,
        "Accuracy-names",
    ),
    Case(
        metrics.Accuracy(missing_value=3),
        lambda rng, n: {"pred_labels": rng.integers(0, 3, n), "labels": rng.integers(0, 4, n)},
        lambda pred_labels, labels, mask: mean((pred_labels == labels)[labels != 3], mask[labels != 3]),
        "Accuracy-predicted",
    ),
    Case(
        metrics.BinaryAccuracy(),
        lambda rng, n: {"logits": rng.normal(size=n), "labels": rng.integers(0, 2, n)},
        lambda logits, labels, mask: mean((logits > 0) == labels, mask),
        "BinaryAccuracy",
    ),
    Case(
        metrics.Precision1(),
        lambda rng, n: {"logits": rng.normal(size=(n, 4)), "labels": rng.integers(0, 2, (n, 4))},
        lambda logits, labels, mask: mean([row[i] for row, i in zip(labels, logits.argmax(1))], mask),
        "Precision1",
    ),
    *(
        Case(metrics.RocAuc(multi_class_mode=mode), classes(count), by_sklearn(mode), f"RocAuc-{mode}-{count}")
        for mode, count in itertools.product(("ovr", "ovo"), (2, 3, 5))
    ),
    *(
        Case(
            metrics.Norm(axis=axis, ord=ord),
            tensor(4, 3),
            lambda tensor, mask, axis=axis, ord=ord: mean(np.linalg.norm(tensor, ord=ord, axis=axis), mask),
            f"Norm-{axis}-{ord}",
        )
        for axis, ord in zip(
            [-1, 1, 2, -1, -1, -1, (1, 2), (1, 2), (2, 1)], [None, 1, 3.0, math.inf, 0, -2, None, "nuc", 2]
        )
    ),
    *(
        Case(
            metrics.Norm(axis=axis, ord=ord, aggregation_type="concat"),
            tensor(4, 3),
            lambda tensor, mask, ord=ord: (
                np.linalg.norm(np.repeat(tensor, (mask * 4).astype(int), 0).ravel(), ord=ord)
                / (1 if ord == math.inf else 4 ** (1 / (2 if ord is None else ord or 1)))
            ),
            f"Norm-concat-{axis}-{ord}",
        )
        for axis, ord in [(-1, None), (1, 1), (-1, 3), (-1, math.inf), (-1, 0), ((1, 2), None)]
    ),
    Case(
        metrics.Std(),
        lambda rng, n: {"values": rng.normal(3, 2, size=(n, 4))},
        lambda values, mask: np.repeat(values, (mask * 4).astype(int), 0).std(),
        "Std",
    ),
    Case(
        metrics.SingleDimension(index=2),
        tensor(5, 3),
        lambda tensor: tensor[..., 2].mean(),
        "SingleDimension",
        masked=False,
    ),
    Case(
        metrics.SingleDimension(index=None),
        tensor(5, 3),
        lambda tensor: tensor.mean(),
        "SingleDimension-all",
        masked=False,
    ),
    Case(
        metrics.Psnr(in_vrange=(-2.0, 2.0)),
        images(4, 3, 2),
        lambda pred, target, mask: mean(psnr(pred, target), mask),
        "Psnr",
    ),
    Case(
        metrics.Psnr(in_vrange=(-2.0, 2.0), clip=11.5),
        images(4, 3, 2),
        lambda pred, target, mask: mean(np.minimum(psnr(pred, target), 11.5), mask),
        "Psnr-clip",
    ),
    *(
        Case(
            metrics.Ssim(filter_size=size, filter_sigma=sigma, in_vrange=(-1.0, 3.0), k1=0.02, k2=0.05),
            images(6, 5, 2),
            lambda pred, target, mask, size=size, sigma=sigma: mean(ssim(pred, target, size, sigma), mask),
            f"Ssim-{size}",
        )
        for size, sigma in [(1, 1.5), (3, 0.7), (4, 2.0), (5, 1.5)]
    ),
    *(
        Case(
            metrics.Ari(num_instances_true=3, num_instances_pred=4, ignored_ids=ignored),
            lambda rng, n: {
                "predictions": rng.integers(0, 4, (n, 2, 3, 4, 1)),
                "labels": rng.integers(0, 3, (n, 2, 3, 4, 1)),
            },
            lambda predictions, labels, mask, ignored=ignored: mean(rand_index(predictions, labels, ignored), mask),
            f"Ari-{ignored}",
        )
        for ignored in (None, 0, (0, 2))
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def sample(case: Case, rng: np.random.Generator, n: int = 40) -> Inputs:
    """Inputs with weights of 0, 1/4, ..., 1; every class keeps some rows."""
    inputs = case.draw(rng, n)
    if case.masked:
        inputs["mask"] = rng.integers(0, 5, n) / 4
        inputs["mask"][:10] = np.maximum(inputs["mask"][:10], 0.25)
    return inputs


def part(inputs: Inputs, index: Any) -> Inputs:
    return {name: value[index] for name, value in inputs.items()}


def close(value: Any, expected: Any, rtol: float = 1e-13) -> None:
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-15)


def needs(case: Case) -> None:
    if case.id.startswith("RocAuc"):
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'lossreg[metrics]'")


# References and laws


@every_case
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_reference(case: Case, seed: int) -> None:
    needs(case)
    inputs = {name: frozen(value) for name, value in sample(case, np.random.default_rng(seed)).items()}
    value = case.metric(**inputs)
    assert isinstance(value, float)
    close(value, case.reference(**inputs))
    if case.masked:
        whole = {**inputs, "mask": np.ones(len(inputs["mask"]))}
        del inputs["mask"]
        close(case.metric(**inputs), case.reference(**whole))
        close(case.metric(**whole), case.reference(**whole))


@every_case
def test_split_batches_merge_to_the_whole_in_any_order(case: Case, rng: Any) -> None:
    needs(case)
    inputs = sample(case, rng)
    expected = case.metric(**inputs)
    cuts = [slice(0, 7), slice(7, 7), slice(7, 20), slice(20, 40)]
    states = [case.metric.get_state(**part(inputs, cut)) for cut in cuts]
    for a, b, c, d in itertools.permutations(states):
        close(((a + b) + (c + d)).compute(), expected)
        close((a + (b + (c + d))).finalize().compute(), expected)
    close(sum([case.metric.empty(), *states, case.metric.empty()]).compute(), expected)


@every_case
def test_no_data_and_no_weight_give_zero_and_change_nothing(case: Case, rng: Any) -> None:
    needs(case)
    inputs = sample(case, rng)
    state = case.metric.get_state(**inputs)
    nothing = [case.metric.empty(), case.metric.get_state(**part(inputs, slice(0)))]
    if case.masked:
        nothing.append(case.metric.get_state(**{**inputs, "mask": np.zeros(40)}))
    for none in nothing:
        assert none.compute() == 0.0
        assert none.finalize().compute() == 0.0
        assert (none + none).compute() == 0.0
        assert (state + none).compute() == (none + state).compute() == state.compute()


@every_case
def test_what_the_mask_leaves_out_may_hold_anything(case: Case, rng: Any) -> None:
    if not case.masked:
        return
    needs(case)
    inputs = sample(case, rng)
    expected = case.metric(**part(inputs, inputs["mask"] != 0))
    for poison in (math.nan, math.inf, -math.inf):
        spoiled = {name: value.copy() for name, value in inputs.items()}
        for name, value in spoiled.items():
            if name != "mask" and value.dtype.kind == "f":
                value[inputs["mask"] == 0] = poison
            elif name == "labels" and value.dtype.kind == "i" and "pred_labels" not in inputs and value.ndim == 1:
                value[inputs["mask"] == 0] = -7
        close(case.metric(**spoiled), expected)


@every_case
def test_booleans_mask_as_weights_of_0_and_1_do(case: Case, rng: Any) -> None:
    if not case.masked:
        return
    needs(case)
    inputs = sample(case, rng)
    kept = inputs["mask"] > 0.3
    kept[:10] = True
    expected = case.metric(**part(inputs, kept) | {"mask": np.ones(kept.sum())})
    for mask in (kept, kept.astype(np.float32), kept.astype(int), kept.tolist()):
        close(case.metric(**{**inputs, "mask": mask}), expected)


@every_case
def test_states_survive_pickling(case: Case, rng: Any) -> None:
    needs(case)
    inputs = sample(case, rng)
    state = case.metric.get_state(**part(inputs, slice(20)))
    again = pickle.loads(pickle.dumps(state))
    assert again.parent == case.metric
    assert type(again) is type(state)
    rest = case.metric.get_state(**part(inputs, slice(20, None)))
    assert (again + rest).compute() == (state + pickle.loads(pickle.dumps(rest))).compute()
    assert (pickle.loads(pickle.dumps(case.metric.empty())) + again).compute() == state.compute()


@every_case
def test_a_context_is_as_good_as_arguments(case: Case, rng: Any) -> None:
    needs(case)
    inputs = sample(case, rng)
    context = {"preds": {"all": [inputs]}, "step": 3}
    metric = dataclasses.replace(case.metric, **{name: f"preds.all[0].{name}" for name in inputs})
    assert metric(context=context) == case.metric(**inputs)
    assert metric.get_state_from_context(context).compute() == case.metric(**inputs)
    assert metric.get_state_from_context(context).parent is metric
    assert metric.get_paths() == {name: f"preds.all[0].{name}" for name in inputs}
    assert all(metric.get_inputs(context)[name] is inputs[name] for name in inputs)


@every_case
def test_configs_and_repr_lead_back(case: Case) -> None:
    text = Config({"metric": case.metric.to_config()}).to_str()
    again = registry.resolve(Config().from_str(text))["metric"]
    assert again == case.metric
    assert hash(again) == hash(case.metric)
    assert eval(repr(case.metric), vars(metrics) | {"inf": math.inf}) == case.metric


@every_case
def test_float32_and_halves_are_averaged_in_float64(case: Case, rng: Any) -> None:
    needs(case)
    inputs = sample(case, rng)
    for dtype in (np.float32, np.float16):
        rounded = {k: v.astype(dtype) if v.dtype.kind == "f" and k != "mask" else v for k, v in inputs.items()}
        exact = {k: v.astype(np.float64) if v.dtype == dtype else v for k, v in rounded.items()}
        value = case.metric(**rounded)
        assert isinstance(value, float)
        close(value, case.metric(**exact))


@pytest.fixture
def cupy() -> Iterator[Any]:
    with standin_cupy.installed() as module:
        yield module


@every_case
def test_states_are_made_and_merged_on_a_device_without_waiting_for_it(case: Case, cupy: Any, rng: Any) -> None:
    needs(case)
    inputs = sample(case, rng)
    expected = case.metric(**inputs)
    there = {k: v if v.dtype == object else cupy.asarray(v) for k, v in inputs.items()}
    first, second = (case.metric.get_state(**part(there, cut)) for cut in (slice(25), slice(25, None)))
    for state in (first + second, case.metric.empty() + second + first, second + first + case.metric.empty()):
        with standin_cupy.allow_reading():
            value = state.compute()
            close(value.get() if hasattr(value, "get") else value, expected)


def test_every_registered_metric_has_a_case_and_a_complete_docstring() -> None:
    tested = {case.id.partition("-")[0] for case in CASES}
    others = {"ShowBoxes", "ShowDifferenceImages", "ShowSegmentations"}
    others |= {"Noop", "SkipIfMissing", "TreeMap", "TreeReduce", "Histogram", "ShowImages", "ShowTable"}
    assert {name.partition(".")[0] for name in BUILT_IN} == tested | others
    for name in BUILT_IN:
        cls = registry.metrics.get(name)
        text = inspect.getdoc(cls)
        assert "\n\n    " in text, f"{name}: a formula"
        assert "\nShapes: " in text, name
        assert "\nSource: " in text, name
        described = text.partition("Source:")[2]
        for option in dataclasses.fields(cls):
            assert f"{option.name}:" in described or f"{option.name}," in described, f"{name}: {option.name}"


def test_every_registered_metric_is_on_its_page() -> None:
    page = (CONFIGS.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in BUILT_IN:
        cls = registry.metrics.get(name)
        assert f"| `{name}` |" in page
        assert f".. autoclass:: {cls.__module__.rpartition('.')[0]}.{cls.__name__}\n" in page


# The page of the seeds


def test_page_creating_a_metric() -> None:
    """The sample "Creating a metric" of Kauldron's page, with its usage; subclasses are dataclasses by themselves."""

    class Accuracy(metrics.Metric):
        """Classification Accuracy."""

        logits: metrics.Key = None
        labels: metrics.Key = None

        class State(metrics.AverageState):
            pass

        def get_state(self, logits, labels):  # type: ignore[no-untyped-def]
            correct = logits.argmax(axis=-1) == labels
            return self.State.from_values(values=correct)

    metric = Accuracy()
    logits, labels = np.eye(4), np.array([0, 1, 2, 0])
    accuracy = metric(logits=logits, labels=labels)
    assert accuracy == 0.75
    assert accuracy == metric.get_state(logits=logits, labels=labels).compute()
    state0 = metric.get_state(logits=logits, labels=labels)
    state1 = metric.get_state(logits=logits[:1], labels=labels[:1])
    assert state0.parent is state1.parent is metric
    assert state0.merge(state1).compute() == 0.8
    assert Accuracy(logits="preds", labels="batch.label")(context={"preds": logits, "batch": {"label": labels}}) == 0.75


def test_page_summaries(rng: Any) -> None:
    """The sample "Summary" of Kauldron's page: a state whose fields say how many are kept."""

    class ShowImages(metrics.Metric):
        num_images: int = 5

        class State(metrics.AutoState):
            """Collects the first num_images images and boxes."""

            images: Any = metrics.truncate_field(num_field="parent.num_images")
            boxes: Any = metrics.truncate_field(num_field="parent.num_images")

        def get_state(self, images, boxes):  # type: ignore[no-untyped-def]
            return self.State(images=images, boxes=boxes)

    metric = ShowImages(num_images=3)
    images, boxes = rng.random((2, 4, 4, 3)), rng.random((2, 7, 4))
    state = metric.get_state(images=images, boxes=boxes)
    shown = (state + metric.empty() + state).compute()
    assert np.array_equal(shown.images, [images[0], images[1], images[0]])
    assert np.array_equal(shown.boxes, [boxes[0], boxes[1], boxes[0]])
    assert ShowImages(images="i", boxes="b")(context={"i": images, "b": boxes}).images.shape == (2, 4, 4, 3)


# Metrics of one's own


class Spread(metrics.Metric):
    """A metric whose arguments are not declared as options."""

    scale: float = 1.0

    class State(metrics.AutoState):
        low: Any = metrics.min_field()
        high: Any = metrics.max_field()

        def compute(self) -> Any:
            low, high = self.low, self.high
            return (high - low) * self.parent.scale

    def get_state(self, x: Any, offset: Any = 0.0) -> State:
        return self.State(x.min() + offset, x.max())


def test_options_for_arguments_that_are_not_declared() -> None:
    assert Spread().options(all=True) == {"x": None, "offset": None, "scale": 1.0}
    metric = Spread(x="a", scale=2.0)
    assert metric(context={"a": np.array([1.0, 4.0]), "offset": 9}) == 6.0  # no path: left out
    assert dataclasses.replace(metric, offset="offset")(context={"a": np.array([1.0, 4.0]), "offset": 1}) == 4.0
    with pytest.raises(ConfigError, match=r"^Cannot make Spread: x: should be a valid string, got 3$"):
        Spread(x=3)

    class Twice(Spread):
        def get_state(self, y: Any, **more: Any) -> Any:
            return super().get_state(2 * y, **more)

    twice = Twice(y="a")
    assert twice.get_paths() == {"y": "a"}
    state = twice.get_state_from_context({"a": np.array([1.0, 4.0])})
    assert state.parent is twice
    assert state.compute() == 6.0


def test_a_state_keeps_the_parent_that_it_has() -> None:
    class Borrowed(metrics.Metric):
        def get_state(self, x: Any) -> Any:
            return inner.get_state(x=x)

        def empty(self) -> Any:
            return inner.State.empty()

    inner, outer = Spread(), Borrowed()
    assert outer.get_state(x=np.ones(2)).parent is inner
    assert outer.empty().parent is outer


def test_a_metric_without_state_says_so() -> None:
    class Wrong(metrics.Metric):
        def get_state(self, x: Any) -> Any:
            return 3.0

    with pytest.raises(TypeError, match=r"^Cannot calculate Wrong: expected get_state to return a State, got 3\.0\.$"):
        Wrong()(x=1)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (
            lambda: metrics.Accuracy(logits="a")(context={}),
            ConfigError,
            "Cannot read Accuracy from a context: labels: this option is needed: a path such as 'preds.logits'",
        ),
        (
            lambda: metrics.Norm(tensor="a.b")(context={"a": {"c": 1}}),
            KeyError,
            "Cannot find 'a.b': expected 'b', got that 'a' is a dict with 'c'.",
        ),
        (
            lambda: metrics.Norm()(context={"a": 1}, tensor=2, mask=3),
            TypeError,
            "Cannot calculate Norm: expected context=... or tensor=..., got both a context and tensor, mask.",
        ),
        (
            lambda: metrics.Accuracy(logits="a", pred_labels="b"),
            ConfigError,
            "Cannot make Accuracy: pred_labels: should be left out where logits are given",
        ),
        (
            lambda: metrics.Accuracy(logits="a..b", names=["x", "x"]),
            ConfigError,
            "Cannot make Accuracy:\n"
            "  logits: expected a path such as 'preds.logits' or 'boxes[0].xy', got 'a..b'\n"
            "  names: duplicate name 'x'",
        ),
        (
            lambda: metrics.Accuracy()(labels=[1]),
            ValueError,
            "Cannot calculate Accuracy: expected one of logits and pred_labels to be given, got neither.",
        ),
        (
            lambda: metrics.Accuracy()(labels=[1], logits=[[0, 1]], pred_labels=[1]),
            ValueError,
            "Cannot calculate Accuracy: expected one of logits and pred_labels to be given, got both.",
        ),
        (
            lambda: metrics.Accuracy()(labels=[1], pred_labels=[1, 2]),
            ValueError,
            "Cannot calculate Accuracy: expected labels of shape (2,) (that of pred_labels), got mismatched shape (1,).",
        ),
        (
            lambda: metrics.Accuracy()(labels=["cat", "dog"], pred_labels=np.array([1, 2])),
            ValueError,
            "Cannot calculate Accuracy: expected labels and pred_labels to be all ids or all names, or names to be "
            "given, got both kinds.",
        ),
        (
            lambda: metrics.Accuracy(names=["cat"])(labels=["cat", "dgo"], pred_labels=["cat", "cat"]),
            ValueError,
            "Cannot calculate Accuracy: expected labels to be among names, got 'dgo'.",
        ),
        (
            lambda: metrics.TreeMap(metrics.Norm())(),
            TypeError,
            "Cannot calculate Norm: expected Norm().get_state(tensor, mask), got no tensor.",
        ),
        (
            lambda: metrics.RocAuc()(logits=np.eye(2), labels=[{0, 1}, 1]),
            ValueError,
            "Cannot calculate RocAuc: expected truths to be single labels, got a set of 2 in row 0.",
        ),
        (
            lambda: metrics.SingleDimension(index=2)(tensor=np.zeros((3, 2))),
            ValueError,
            "Cannot calculate SingleDimension: expected tensor with a column 2, got a float64 array of shape (3, 2).",
        ),
        (
            lambda: metrics.TreeMap(metrics.Norm(tensor="a..b.**.c")),
            ConfigError,
            "Cannot make Norm: tensor: expected a path such as 'preds.logits' or 'boxes[0].xy', got 'a..b'",
        ),
        (
            lambda: metrics.Norm(tensor=""),
            ConfigError,
            "Cannot make Norm: tensor: expected a path such as 'preds.logits' or 'boxes[0].xy', got ''",
        ),
        (
            lambda: metrics.Accuracy()(labels=[-1, 0], logits=np.zeros((2, 3))),
            ValueError,
            "Cannot calculate Accuracy: expected truth ids in [0, 3), got undeclared id -1 in row 0.",
        ),
        (
            lambda: metrics.Accuracy()(labels=np.eye(3), logits=np.eye(3)),
            ValueError,
            "Cannot calculate Accuracy: expected truths to be labels, got rows of numbers.",
        ),
        (
            lambda: metrics.Accuracy()(labels=[0, 1], logits=[[1, 2], [3]]),
            ValueError,
            "Cannot calculate Accuracy: expected logits to be an array, got a list of 2 of uneven parts.",
        ),
        (
            lambda: metrics.BinaryAccuracy()(logits=np.zeros(3), labels=[0, 1, 2]),
            ValueError,
            "Cannot calculate BinaryAccuracy: expected labels to be 0 or 1, got 2 in row 2.",
        ),
        (
            lambda: metrics.BinaryAccuracy()(logits=np.zeros(3), labels=[0, 1]),
            ValueError,
            "Cannot calculate BinaryAccuracy: expected labels of shape (3,) (that of logits), "
            "got mismatched shape (2,).",
        ),
        (
            lambda: metrics.Precision1()(logits=np.zeros((3, 2)), labels=np.zeros((3, 3))),
            ValueError,
            "Cannot calculate Precision1: expected labels of shape (3, 2) (that of logits), "
            "got mismatched shape (3, 3).",
        ),
        (
            lambda: metrics.RocAuc(unique_labels=[0, 2])(logits=np.zeros((3, 2)), labels=[0, 1, 1]),
            ValueError,
            "Cannot calculate RocAuc: expected logits with a column for each of (0, 2), got 2.",
        ),
        (
            lambda: metrics.RocAuc(unique_labels=[0, 1])(logits=np.zeros((3, 3)), labels=[0, 2, 1]),
            ValueError,
            "Cannot calculate RocAuc: expected labels to be among unique_labels (0, 1), got 2.",
        ),
        (
            lambda: metrics.RocAuc(multi_class_mode="all"),
            ConfigError,
            "Cannot make RocAuc: multi_class_mode: should be 'ovr' or 'ovo', got 'all'",
        ),
        (
            lambda: metrics.Norm(ord="fro"),
            ConfigError,
            "Cannot make Norm: ord: should be a number for vectors, got 'fro'",
        ),
        (
            lambda: metrics.Norm(ord=-1, aggregation_type="concat"),
            ConfigError,
            "Cannot make Norm: aggregation_type: should be 'average' for ord -1.0 of axis -1",
        ),
        (
            lambda: metrics.Norm(axis=(0, 1), ord="nuc", aggregation_type="concat"),
            ConfigError,
            "Cannot make Norm: aggregation_type: should be 'average' for ord 'nuc' of axis (0, 1)",
        ),
        (
            lambda: metrics.Norm(axis=(0, 2))(tensor=np.zeros((3, 2))),
            ValueError,
            "Cannot calculate Norm: expected tensor with axis (0, 2), got a float64 array of shape (3, 2).",
        ),
        (
            lambda: metrics.Norm()(tensor=np.zeros((3, 2)), mask=[1, 0]),
            ValueError,
            "Cannot calculate Norm: expected a mask with the first axes of the values, (3, 1), got shape (2,).",
        ),
        (
            lambda: metrics.Std()(values=["a"]),
            ValueError,
            "Cannot calculate Std: expected values of real numbers, got a <U1 array of shape (1,).",
        ),
        (
            lambda: metrics.SingleDimension(index=-3)(tensor=np.zeros((3, 2))),
            ValueError,
            "Cannot calculate SingleDimension: expected tensor with a column -3, got a float64 array of shape (3, 2).",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(call: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence


# Single metrics


@pytest.mark.parametrize(
    "logits, labels, mask, expected",
    [
        ([[1, 2], [2, 1]], [1, 1], None, 0.5),
        (np.float32([[1, 2], [2, 1]]), np.array([[1], [1]]), np.array([[1.0], [3.0]]), 0.25),
        (np.eye(3), [0, None, 1], None, 0.5),
        (np.eye(3), [{0, 1}, {0, 2}, None], None, 0.5),
        (np.eye(4).reshape(2, 2, 4), np.array([[0, 1], [0, 0]]), None, 0.5),
        (np.eye(4).reshape(2, 2, 4), np.array([[0, 1], [0, 0]])[..., None], np.array([[1.0], [0.0]]), 1.0),
        (np.eye(4).reshape(2, 2, 4), [[0, 1], [0, 0]], np.array([[[1], [0]], [[1], [0]]]), 0.5),
        ([np.eye(3), np.eye(3)[:1]], [[0, 1, 1], [None]], None, 2 / 3),
        ([np.eye(3), np.eye(3)[:1]], [np.array([0, 1, 1]), np.array([1])], [[1, 0, 1], [1]], 1 / 3),
        (np.array([0.0, 3.0, 1.0]), 1, None, 1.0),
        ([], [], None, 0.0),
        (np.zeros((0, 3)), np.zeros(0, int), None, 0.0),
        (np.array([[1.0, 1.0]]), [0], None, 1.0),  # of equals the first
    ],
)
def test_forms_of_logits_and_labels(logits: Any, labels: Any, mask: Any, expected: float) -> None:
    assert metrics.Accuracy()(logits=logits, labels=labels, mask=mask) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    "pred_labels, labels, options, expected",
    [
        ([1, 2, 3], [1, 2, 0], {}, 2 / 3),
        (np.array([1, 2, 3]), np.array([[1], [2], [0]]), {}, 2 / 3),
        (np.array([[1], [2], [3]]), [1, None, 0], {}, 1 / 2),
        (["cat", "dog"], ["cat", None], {}, 1.0),
        (["cat", "dog"], np.array(["cat", "?"]), {"missing_value": "?"}, 1.0),
        (np.array([1, 2]), np.array([1, 3]), {"missing_value": ""}, 0.5),
        ([1, 2, 3], [-1, 2, 0], {"missing_value": -1}, 1 / 2),
        ([0, 1, 1], ["cat", "dog", "cat"], {"names": ["cat", "dog"]}, 2 / 3),
        (np.array(["cat", "dog"]), np.array([[1], [1]]), {"names": ["cat", "dog"]}, 1 / 2),
        (["cat", "dog", "dog"], [None, "", "dog"], {"names": ["cat", "dog"], "missing_value": ""}, 1.0),
        (["cat", "dog"], [None, ""], {"missing_value": ""}, 0.0),
        ([1, 2], np.array(["?", "?"]), {"missing_value": "?"}, 0.0),
        ([], [], {}, 0.0),
    ],
)
def test_predicted_labels_are_compared_as_they_are(pred_labels: Any, labels: Any, options: Any, expected: Any) -> None:
    metric = metrics.Accuracy(**options)
    assert metric(pred_labels=pred_labels, labels=labels) == pytest.approx(expected, rel=1e-15)
    mask = np.ones(len(labels))
    assert metric(pred_labels=pred_labels, labels=labels, mask=mask) == pytest.approx(expected, rel=1e-15)


def test_masks_of_binary_accuracy_broadcast(rng: Any) -> None:
    logits, labels = rng.normal(size=(5, 3)), rng.integers(0, 2, (5, 3))
    right = (logits > 0) == labels
    metric = metrics.BinaryAccuracy()
    assert metric(logits=logits, labels=labels, mask=[[1, 0, 1]]) == pytest.approx(right[:, [0, 2]].mean())
    assert metric(logits=logits, labels=labels, mask=np.eye(5, 1)) == pytest.approx(right[0].mean())
    assert metric(logits=logits[:, 0], labels=labels[:, :1].astype(bool)) == right[:, 0].mean()
    assert metric(logits=[logits[:2, 0], logits[2:, 0]], labels=[labels[:2, 0], labels[2:, 0]]) == right[:, 0].mean()
    assert metric(logits=[], labels=[]) == 0.0


def test_precision_of_confidences_and_sequences() -> None:
    metric = metrics.Precision1()
    logits, labels = np.array([[[1.0, 2.0], [3.0, 1.0]]]), np.array([[[0.5, 0.25], [0.75, 0.0]]])
    assert metric(logits=logits, labels=labels) == 0.5
    assert metric(logits=logits, labels=labels, mask=np.array([[[0], [1]]])) == 0.75
    assert metric(logits=list(logits), labels=list(labels)) == 0.5


class TestRocAuc:
    @pytest.fixture(autouse=True)
    def needs_sklearn(self) -> None:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'lossreg[metrics]'")

    def test_rows_without_weight_bring_no_classes(self, rng: Any) -> None:
        """Kauldron looks for the classes among all rows, and scikit-learn then finds one without rows."""
        logits, labels = rng.normal(size=(9, 3)), np.array([0, 1, 0, 1, 0, 1, 2, 2, 2])
        for mode in ("ovr", "ovo"):
            metric = metrics.RocAuc(multi_class_mode=mode)
            masked = metric(logits=logits, labels=labels, mask=labels != 2)
            assert masked == metric(logits=logits[:6], labels=labels[:6])
            assert masked == metric(logits=logits[:6, :2], labels=labels[:6])

    def test_classes_without_rows_are_left_out_of_the_mean(self, rng: Any) -> None:
        logits, labels = rng.normal(size=(30, 4)), np.resize([0, 3, 1], 30)
        sklearn = pytest.importorskip("sklearn.metrics")
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = np.mean([sklearn.roc_auc_score(labels == c, probs[:, c]) for c in (0, 1, 3)])
        assert metrics.RocAuc(unique_labels=[0, 1, 2, 3])(logits=logits, labels=labels) == pytest.approx(expected)
        shared = np.exp(logits[:, [0, 1, 3]])
        shared /= shared.sum(1, keepdims=True)
        expected = sklearn.roc_auc_score(labels, shared, multi_class="ovr")
        assert metrics.RocAuc()(logits=logits, labels=labels) == pytest.approx(expected, rel=1e-14)
        assert metrics.RocAuc(unique_labels=[0, 1, 3])(logits=logits, labels=labels) == pytest.approx(expected)

    def test_one_class_has_no_curve(self) -> None:
        assert metrics.RocAuc()(logits=np.eye(3), labels=[1, 1, None]) == 0.0
        assert metrics.RocAuc(unique_labels=[0, 1])(logits=np.eye(3), labels=[1, 1, 1]) == 0.0

    def test_confident_logits_do_not_tie(self) -> None:
        """In float32 both probabilities of class 1 are 1; in the logarithm they differ on either side."""
        for sign in (1.0, -1.0):
            logits = np.float32([[0.0, sign * 40.0], [0.0, sign * 41.0]])
            assert metrics.RocAuc()(logits=logits, labels=[0, 1]) == (1.0 if sign > 0 else 0.0)
            assert metrics.RocAuc()(logits=np.float32([[0, -np.inf], [0, sign]]), labels=[0, 1]) == 1.0

    def test_nan_that_counts_stays_visible(self) -> None:
        with pytest.raises(ValueError, match="NaN"):
            metrics.RocAuc()(logits=[[0.0, math.nan], [0, 1]], labels=[0, 1])

    def test_sequences(self, rng: Any) -> None:
        logits, labels = rng.normal(size=(9, 3)), np.resize(np.arange(3), 9)
        metric = metrics.RocAuc()
        expected = metric(logits=logits, labels=labels)
        assert metric(logits=[logits[:4], logits[4:]], labels=[labels[:4], labels[4:]]) == expected
        assert metric(logits=logits.reshape(3, 3, 3), labels=labels.reshape(3, 3, 1)) == expected


def test_without_scikit_learn(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    state = metrics.RocAuc().get_state(logits=np.eye(2), labels=[0, 1])
    with pytest.raises(
        ImportError, match=r"^scikit-learn is not installed: python -m pip install 'lossreg\[metrics\]'"
    ):
        state.compute()


def test_norms_of_everything(rng: Any) -> None:
    x = rng.normal(size=(3, 4))
    for ord in (None, 1, 3, math.inf, 0):
        for kind in ("average", "concat"):
            metric = metrics.Norm(axis=None, ord=ord, aggregation_type=kind)
            close(metric(tensor=x), np.linalg.norm(x.ravel(), ord=ord))
            tree = metrics.TreeReduce(metric)(tensor={"a": x, "b": [x[0], 2.0]})
            parts = [x.ravel(), x[0], np.array([2.0])]
            each = [np.linalg.norm(v, ord=ord) for v in parts]
            close(tree, np.mean(each) if kind == "average" else np.linalg.norm(np.concatenate(parts), ord=ord))


def test_great_half_precision_numbers_have_a_norm() -> None:
    assert metrics.Norm()(tensor=np.float16([[60000, 0]])) == 60000


def test_a_great_mean_costs_the_deviation_no_digits(rng: Any) -> None:
    """The difference of a mean of squares and a squared mean has no right digit left here."""
    noise = rng.normal(size=(10, 50)) * 1e-3
    values = 1e8 + noise
    states = [metrics.Std().get_state(values=row) for row in values]
    close(sum(states).compute(), (values - 1e8).std(), rtol=1e-5)
    naive = math.sqrt(max(0.0, (values**2).mean() - values.mean() ** 2))
    assert abs(naive / noise.std() - 1) > 0.5


def test_nan_that_counts_stays_visible() -> None:
    assert math.isnan(metrics.Std()(values=[1.0, math.nan]))
    assert math.isnan(metrics.Norm()(tensor=[[1.0, math.nan]]))
    assert math.isnan(metrics.SingleDimension()(tensor=[[math.nan, 1.0]]))
    assert math.isnan(metrics.Precision1()(logits=[[1, 2]], labels=[[0, math.nan]]))


# States that metrics are made of


def test_greatest_numbers_merge_from_the_host_and_from_a_device(cupy: Any) -> None:
    class Top(metrics.AutoState):
        top: Any = metrics.max_field(default=0.0)

    for merged in (Top() + Top(cupy.asarray(2.0)), Top(cupy.asarray(2.0)) + Top()):
        with standin_cupy.allow_reading():
            assert float(merged.compute().top) == 2.0


def test_states_of_different_metrics_do_not_merge() -> None:
    a, b = (metrics.Norm(ord=ord).get_state(tensor=np.ones(2)) for ord in (1, 2))
    with pytest.raises(ValueError, match=r"^Cannot merge states of different calculators: expected Norm\(ord=1\.0\), "):
        a + b


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, lossreg; print([m for m in ('sklearn', 'PIL', 'matplotlib', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_modules_say_what_is_theirs() -> None:
    for module in (lossreg.metrics, lossreg.summaries):
        for name in module.__all__:
            assert hasattr(module, name)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: metrics.Psnr(in_vrange=(1.0, 1.0)), ConfigError, r"in_vrange: should be \(low, high\) with low < high"),
        (lambda: metrics.Psnr()(pred=np.zeros((2, 4, 4, 3), np.uint8), target=np.zeros((2, 4, 4, 3))), ValueError, "expected pred of floats: divide pixels of uint8 by 255"),
        (lambda: metrics.Psnr()(pred=np.zeros((4, 4)), target=np.zeros((4, 4))), ValueError, r"expected pred of shape \(..., h, w, c\), got"),
        (lambda: metrics.Psnr()(pred=np.zeros((4, 4, 3)), target=np.zeros((4, 4, 1))), ValueError, r"expected target of shape \(4, 4, 3\) \(that of pred\)"),
        (lambda: metrics.Ssim()(pred=np.zeros((12, 10, 3)), target=np.zeros((12, 10, 3))), ValueError, r"at least 11 x 11 pixels \(filter_size\), got 12 x 10"),
        (lambda: metrics.Ari()(predictions=np.zeros((2, 4, 4, 1), int), labels=np.zeros((1, 4, 4, 1), int)), ValueError, r"expected labels of shape \(2, 4, 4, 1\) \(that of predictions\)"),
        (lambda: metrics.Ari()(predictions=np.zeros((4, 4, 1), int), labels=np.zeros((4, 4, 1), int)), ValueError, r"of shape \(..., t, h, w, 1\), which of images \(n, h, w, 1\) is x\[:, None\]"),
        (lambda: metrics.Ari()(predictions=np.zeros((1, 4, 4, 1)), labels=np.zeros((1, 4, 4, 1), int)), ValueError, "expected predictions of integers, the ids of objects, got"),
        (lambda: metrics.Ari(num_instances_true=2)(predictions=np.zeros((3, 1, 1, 2, 1), int), labels=np.full((3, 1, 1, 2, 1), 2)), ValueError, r"expected label ids in \[0, 1\], got 2 in video 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_images_is_said(call: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_indices_of_any_ids_without_numbers_of_instances(rng: Any) -> None:
    """Ids may be any integers, and one number of objects serves for all."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    predictions, labels = rng.integers(-3, 3, (2, 5, 2, 4, 6, 1)) * 10**12
    expected = [sklearn.adjusted_rand_score(*map(np.ravel, pair)) for pair in zip(labels, predictions)]
    close(metrics.Ari()(predictions=predictions, labels=labels), np.mean(expected))
    weights = np.array([1.0, 0.0, 0.5, 0.0, 2.0])
    for mask in (weights, weights[:, None]):
        close(metrics.Ari()(predictions=predictions, labels=labels, mask=mask), np.average(expected, weights=weights))
    many = metrics.Ari(num_instances_true=50, num_instances_pred=60)
    shifted = {"predictions": predictions // 10**12 + 3, "labels": labels // 10**12 + 3}
    close(many(**shifted), np.mean(expected))


def test_indices_take_no_memory_for_ids(rng: Any) -> None:
    """A table of all ids of all videos would have 10^12 cells."""
    ids = rng.integers(0, 10**6, (2, 1, 300, 300, 1))
    assert metrics.Ari()(predictions=ids[::-1], labels=ids) == pytest.approx(0.0, abs=1e-4)
    assert metrics.Ari()(predictions=-ids, labels=ids) == 1.0


def test_indices_of_segmentations_that_have_no_choice() -> None:
    one, all_ids = np.zeros((1, 1, 2, 3, 1), int), np.arange(6).reshape(1, 1, 2, 3, 1)
    assert metrics.Ari()(predictions=one, labels=one) == 1.0
    assert metrics.Ari()(predictions=all_ids, labels=all_ids) == 1.0
    assert metrics.Ari()(predictions=all_ids, labels=one) == 0.0
    assert metrics.Ari(ignored_ids=0)(predictions=all_ids, labels=one) == 1.0  # no foreground
    assert metrics.Ari(ignored_ids=0)(predictions=np.array([[0, 0, 1, 2]]).reshape(1, 1, 2, 2, 1), labels=np.array([[0, 0, 1, 2]]).reshape(1, 1, 2, 2, 1)) == 1.0  # fmt: skip


def test_equal_images_have_the_largest_ratio(rng: Any) -> None:
    image = rng.random((2, 12, 11, 3))
    assert metrics.Psnr()(pred=image, target=image) == math.inf
    assert metrics.Psnr(clip=60.0)(pred=image, target=image) == 60.0
    close(metrics.Ssim()(pred=image, target=image), 1.0)
    flat = np.full((1, 12, 12, 1), 0.1)  # its variance is nothing but rounding, of which c2 = 1e-24 is no cover
    assert abs(metrics.Ssim(k2=1e-12)(pred=flat, target=3 * flat)) <= 1.0
    assert metrics.Ssim(k2=1e-12)(pred=flat, target=flat) == 1.0
    assert metrics.Psnr()(pred=image, target=np.array([image[0], image[1] + 0.1]), mask=[0, 1]) == pytest.approx(20.0)


def test_a_state_that_collects() -> None:
    class Scores(metrics.CollectingState):
        scores: Any
        labels: Any

        def compute(self) -> Any:
            collected = super().compute()
            return [*zip(collected.scores.tolist(), collected.labels.tolist())]

    a = Scores(scores=np.array([0.1, 0.2]), labels=np.array([0, 1]))
    b = Scores(scores=np.float64(0.3), labels=np.array(1))  # a single one
    assert (a + b).compute() == [(0.1, 0), (0.2, 1), (0.3, 1)]
    assert (Scores.empty() + b + Scores.empty() + a).compute() == [(0.3, 1), (0.1, 0), (0.2, 1)]
    assert metrics.CollectingState.empty().compute() == metrics.CollectingState().compute()


def test_examples_of_metrics_run() -> None:
    for name in ("metrics.images", "metrics.clustering", "states.auto", "states.averages"):
        assert doctest.testmod(importlib.import_module(f"lossreg.{name}")).failed == 0
