"""Side by side with Kauldron: values, gradients, masks, weights and merged states, and each sample of its pages.

The reference is Kauldron itself where it is installed, and its formulas in NumPy in any case: see
`support/kauldron_reference.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import ConfigError, Term
from lossreg.arrays.trees import tree_map
from support.kauldron_cases import (
    PAGE,
    THERE,
    TOLERANCE,
    as_is,
    close,
    data,
    draw,
    installed,
    last_of_one,
    table,
)
from support.kauldron_reference import FORMULAS, METRICS, Case, Installed, MetricCase, Restated

# JAX and its friends warn of one another
pytestmark = pytest.mark.filterwarnings("ignore:::(jax|flax|kauldron|optax|etils|support.kauldron).*")

nan, inf = np.nan, np.inf


@pytest.fixture(scope="module", params=[Restated, pytest.param(Installed, marks=installed)], ids=lambda cls: cls.name)
def kauldron(request: pytest.FixtureRequest) -> Any:
    """Either reference."""
    return request.param()


# What is compared: each of Kauldron's losses as a calculator


def second(x: Any) -> Any:
    """Kauldron's class axis is the last, that of a calculator the second."""
    return np.moveaxis(x, -1, 1) if np.ndim(x) > 2 else x


Move = Callable[[Any], Any]
OURS: dict[str, tuple[type[lossreg.ReducedLoss], Move, Move, Move]] = {
    "L1": (lossreg.MeanAbsoluteError, as_is, as_is, as_is),
    "L2": (lossreg.MeanSquaredError, as_is, as_is, as_is),
    "Huber": (lossreg.Huber, as_is, as_is, as_is),
    "NegativeCosineSimilarity": (lossreg.NegativeCosineSimilarity, as_is, as_is, last_of_one),
    "SoftmaxCrossEntropy": (lossreg.CrossEntropy, second, second, last_of_one),
    "SoftmaxCrossEntropyWithIntLabels": (lossreg.CrossEntropy, second, last_of_one, last_of_one),
    "SigmoidBinaryCrossEntropy": (lossreg.BinaryCrossEntropyWithLogits, as_is, as_is, as_is),
    "Value": (lossreg.Value, as_is, as_is, as_is),
    "AbsoluteValue": (lossreg.AbsoluteValue, as_is, as_is, as_is),
}
"""The calculator of each loss, and how its guesses, its truths and its masks and values are arranged."""


def term(case: Case) -> Term:
    """A case as a term."""
    cls = OURS[case.name][0]
    guesses, truths = [f"preds.{name}" for name in case.guesses], [f"batch.{name}" for name in case.truths]
    return Term(
        cls(**case.options),
        guesses=guesses if len(guesses) > 1 else guesses[0],
        truths=truths[0] if truths else None,
        mask=None if case.mask is None else "batch.mask",
        weight=case.weight,
        normalize_by=case.normalize_by,
    )


def context(case: Case) -> dict[str, Any]:
    """The context of a case in the arrangement of calculators."""
    _, guess, truth, mask = OURS[case.name]
    preds = {name: guess(x) for name, x in case.guesses.items()}
    batch = {name: truth(x) for name, x in case.truths.items()}
    return {
        "preds": preds,
        "batch": batch | ({} if case.mask is None else {"mask": mask(case.mask)}),
        "step": case.step,
    }


def inputs(case: Case) -> tuple[Any, ...]:
    """Guesses and truths of a call."""
    found = context(case)
    guesses, truths = tuple(found["preds"].values()), [x for name, x in found["batch"].items() if name != "mask"]
    return (guesses if len(guesses) > 1 else guesses[0], *truths)


def arranged(name: str, grads: dict[str, Any]) -> dict[str, Any]:
    """Kauldron's gradients by the paths of ours, in the arrangement of ours."""
    return {f"preds.{key}": OURS[name][1](grad) for key, grad in grads.items()}


@pytest.mark.parametrize("name", OURS)
def test_same_losses_gradients_and_states(name: str, kauldron: Any) -> None:
    """200 random batches, each of them at once and cut into two or three."""
    for seed in range(200):
        rng = np.random.default_rng([seed, len(name)])
        dtype = "float64" if seed % 20 else kauldron.precisions[0]
        case, tolerance = draw(name, rng, kauldron.shapes[seed % 3], dtype), TOLERANCE[dtype]
        loss, found, call = term(case), context(case), {"mask": context(case)["batch"].get("mask")}
        values, (value, their_grads) = kauldron.values(case), kauldron.loss_and_grads(case)
        grads = arranged(name, their_grads)
        scale = float(np.abs(values).max(initial=1.0))

        close(
            loss.get_values(*inputs(case), **call),
            OURS[name][3](values * (1 if case.mask is None else case.mask)),
            tolerance,
            scale,
        )
        assert loss.get_weight(case.step) == (case.weight(case.step) if callable(case.weight) else case.weight)
        found_grads, found_value = loss(context=found)
        assert found_value == loss.get_loss(found) == loss.get_state_from_context(found).compute()
        assert found_value == loss.get_state(*inputs(case), **call, step=case.step).compute()
        close(found_value, value, tolerance, scale)
        assert list(found_grads) == list(grads)
        for path, grad in grads.items():
            assert found_grads[path].dtype == dtype
            close(found_grads[path], grad, tolerance, 1.0)

        parts = case.parts(*[(2,), (0,), (2, 2), ()][rng.integers(4) if len(values) and dtype == "float64" else 3])
        states = [loss.get_state_and_grad(context(part)) for part in parts]
        merged = sum((state for state, _ in states), loss.empty())
        close(merged.compute(), kauldron.loss(*parts), tolerance, scale)
        for path, grad in grads.items():
            added = np.concatenate([totals[path] for _, totals in states])
            close(merged.scale(added), grad, tolerance, 1.0)


@installed
@pytest.mark.parametrize("name", OURS)
def test_same_gradients_at_kinks_and_ties(name: str) -> None:
    zero = 1e-9 if name in ("L1", "AbsoluteValue") else 0.0  # see test_difference_kinks
    x, y = np.array([[zero, 1.0, -1.0], [2.0, 2.0, 2.0]]), np.zeros((2, 3))
    one_hot, ids = np.eye(3)[[0, 2]], np.array([[0], [2]])
    guesses, truths = {
        "NegativeCosineSimilarity": ({"preds": x, "targets": -x}, {}),
        "SoftmaxCrossEntropy": ({"logits": x}, {"labels": one_hot}),
        "SoftmaxCrossEntropyWithIntLabels": ({"logits": x}, {"labels": ids}),
        "SigmoidBinaryCrossEntropy": ({"logits": x}, {"labels": one_hot}),
        "Value": ({"values": x}, {}),
        "AbsoluteValue": ({"values": x}, {}),
    }.get(name, ({"preds": x}, {"targets": y}))
    case = Case(name, guesses, truths)
    grads = term(case).get_grad(context(case))
    for path, grad in arranged(name, Installed().loss_and_grads(case)[1]).items():
        close(grads[path], grad, 1e-12, 1.0)


@installed
def test_a_sum_of_losses_is_theirs() -> None:
    """`compute_losses` over several losses of one context, of which two have the same guesses."""
    kauldron, rng = Installed(), np.random.default_rng(5)
    x, y, z = rng.normal(size=(3, 4, 3))
    cases = {
        "near": Case("L2", {"preds": x}, {"targets": y}, weight=0.5, mask=rng.integers(0, 9, (4, 3)) / 8),
        "robust": Case("Huber", {"preds": x}, {"targets": y}, {"delta": 0.5}),
        "small": Case("AbsoluteValue", {"values": z}, weight=lambda step: 1 / (1 + step), step=3),
    }
    shared = {"preds": {"preds": x, "values": z}, "batch": {"targets": y, "mask": cases["near"].mask}, "step": 3}
    loss = lossreg.WeightedSum(terms={name: term(case) for name, case in cases.items()})
    with kauldron.precision(cases["near"]):
        losses = {name: kauldron.make(case) for name, case in cases.items()}

        def total(preds: Any) -> tuple[Any, Any]:
            return kauldron.losses.compute_losses(losses, {**shared, "preds": preds})

        value, states = total(shared["preds"])
        theirs = {name: float(state.compute()) for name, state in states.items()}
        their_grads = kauldron.jax.grad(lambda preds: total(preds)[0])(shared["preds"])
    grads, ours = loss(shared)
    close(ours, value, 1e-12)
    state = loss.get_state_from_context(shared)
    assert state.per_term() == pytest.approx(theirs, rel=1e-12)
    for name, grad in their_grads.items():
        close(grads[f"preds.{name}"], grad, 1e-12)


def test_a_schedule_needs_a_step() -> None:
    case = Case("L2", {"preds": np.ones(2)}, {"targets": np.zeros(2)}, weight=lambda step: 2.0 * step, step=3)
    assert term(case).get_weight(3) == 6.0
    with pytest.raises(ValueError, match="expected a step"):
        term(case).get_weight()
    with pytest.raises(KeyError, match="Cannot find 'step'"):
        term(case).get_state_from_context({key: value for key, value in context(case).items() if key != "step"})


@installed
def test_a_schedule_needs_a_step_there_too() -> None:
    loss = Installed().losses.L2(preds="preds", targets="targets", weight=lambda step: 2.0 * step)
    assert loss.get_weight(3) == 6.0
    with pytest.raises(ValueError, match="step is required"):
        loss.get_weight()


# Metrics


def draw_metric(name: str, rng: np.random.Generator) -> MetricCase:
    """A random batch of four, in one of all ways."""
    x, y = rng.normal(size=(2, 4, 3))
    ids, masks = (
        rng.integers(0, 3, (4, 1)),
        [rng.random((4, 1)) < 0.6, (rng.integers(0, 9, (4, 1)) / 8)],
    )
    mask = {} if rng.random() < 0.4 else {"mask": masks[rng.integers(2)]}
    if name == "RocAuc":  # without a row of weight that has a label and one that has not, nothing is defined
        ids, mask = (
            rng.permutation([[0], [2], [1], [2]]).astype(int),
            {} if rng.random() < 0.5 else {"mask": masks[1] + 0.125},
        )
    if name == "Std":
        mask = mask and {"mask": np.array([[True], [False], *masks[0][2:]])}
    guess = {"logits": x} if rng.random() < 0.7 else {"pred_labels": rng.integers(0, 3, (4, 1))}
    norms: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, mask), ({"ord": 1}, mask), ({"ord": np.inf}, mask), ({"axis": (0, 1)}, {}), ({"axis": (0, 1), "ord": "nuc"}, {}), ({"axis": 0}, {}),
        ({"axis": None}, {}), ({"axis": None, "ord": 3}, {}), ({"aggregation_type": "concat"}, mask), ({"aggregation_type": "concat", "ord": 3}, {}),
    ]  # fmt: skip
    norm, norm_mask = norms[rng.integers(len(norms))]
    return {
        "Accuracy": MetricCase(name, {**guess, "labels": ids, **mask}),
        "BinaryAccuracy": MetricCase(name, {"logits": x, "labels": (y > 0).astype(int)}),
        "Precision1": MetricCase(name, {"logits": x, "labels": (y > 0).astype(float), **mask}),
        "RocAuc": MetricCase(name, {"logits": x, "labels": ids, **mask}),
        "Norm": MetricCase(name, {"tensor": x, **norm_mask}, {"aggregation_type": "average", **norm}),
        "Std": MetricCase(name, {"values": 3 * x + 1, **mask}),
        "SingleDimension": MetricCase(name, {"tensor": x}, {"index": [0, 2, -1, None][rng.integers(4)]}),
    }[name]


def metric(case: MetricCase) -> Any:
    """A case as a metric."""
    return getattr(lossreg.metrics, case.name)(**case.keys, **case.options)


@pytest.mark.parametrize("name", METRICS)
def test_same_metrics(name: str, kauldron: Any) -> None:
    """Random batches, each of them at once and cut in two."""
    if name == "RocAuc":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    tolerance = 1e-12 if isinstance(kauldron, Restated) else 1e-5
    for seed in range(40 if isinstance(kauldron, Restated) else 10):  # each of their averages is compiled anew
        case = draw_metric(name, np.random.default_rng([seed, len(name)]))
        ours, theirs = metric(case), kauldron.metric(case)
        for value in (ours(context=case.context), ours(**case.inputs), ours.get_state(**case.inputs).compute()):
            close(value, theirs, tolerance, max(1.0, abs(theirs)))
        first, second = case.parts(2)
        merged = ours.get_state_from_context(first.context).merge(ours.get_state_from_context(second.context))
        theirs = kauldron.metric(first, second)
        close(merged.finalize().compute(), theirs, tolerance, max(1.0, abs(theirs)))


# The tables of the page


def test_every_loss_is_listed_and_compared() -> None:
    listed = {theirs: ours for theirs, ours, *_ in ([cell.strip("`") for cell in row] for row in table("Kauldron"))}
    names = {name: cls.names_in_registry[0].partition(":")[2] for name, (cls, *_) in OURS.items()}
    assert listed == names
    assert set(OURS) == set(FORMULAS)


LINES = table("task")


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_both_columns_give_the_same(line: list[str]) -> None:
    if "RocAuc" in line[1]:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    theirs, ours = (cell.strip("`") for cell in line[1:])
    loss = lossreg.CrossEntropy()
    names = {**vars(lossreg), **data(last_of_one), "loss": loss}
    names["term"] = Term(loss, guesses="preds.logits", truths="batch.label")
    found = eval(ours, names)
    if "jax." not in theirs:
        options = {"logits": "preds.logits", "labels": "batch.label"}
        loss = lossreg.kauldron.losses.SoftmaxCrossEntropyWithIntLabels(**options)
        names = {"kd": lossreg.kauldron, "loss": loss, **data(as_is)}
        tree_map(lambda a, b: close(a, b, 1e-6, 1.0), found, eval(theirs, names))
    if THERE:
        kd = Installed()
        names = {
            "kd": kd,
            "jax": kd.jax,
            **kd.jax.tree.map(lambda x: kd.jax.numpy.asarray(x) if np.ndim(x) else x, data(as_is)),
        }
        names["loss"] = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds.logits", labels="batch.label")
        kd.jax.tree.map(
            lambda a, b: close(a, b, 1e-5, 1.0),
            found,
            tuple(eval(theirs, names)) if isinstance(found, tuple) else eval(theirs, names),
        )


def test_the_gallery_names_their_twins() -> None:
    found = re.findall(r'"kauldron\.losses\.(\w+)"', PAGE.with_name("gallery.py").read_text("utf-8"))
    assert sorted(found) == sorted(OURS)


@installed
def test_there_are_no_other_losses() -> None:
    losses = Installed().losses
    found = {name for name, x in vars(losses).items() if isinstance(x, type) and issubclass(x, losses.Loss)}
    assert found - {"Loss"} == set(OURS)


def test_every_difference_is_listed_and_tested() -> None:
    listed = [row[0].strip("`") for row in table("difference")]
    tested = [name.removeprefix("test_difference_") for name in globals() if name.startswith("test_difference_")]
    assert listed == tested


# The samples of Kauldron's pages on losses and on metrics, in the order of the pages: theirs, then ours


@pytest.fixture
def ours() -> dict[str, Any]:
    """Logits, labels and images, in a context too."""
    return data(last_of_one)


@pytest.fixture
def theirs() -> dict[str, Any]:
    """The same for Kauldron, whose labels have an axis more; and Kauldron, where it is installed."""
    found = data(as_is)
    if not THERE:
        return found
    kd = Installed()
    return {**kd.jax.tree.map(lambda x: kd.jax.numpy.asarray(x) if np.ndim(x) else x, found), "kd": kd}


def test_sample_loss_example(ours: Any, theirs: Any) -> None:
    """Loss: instantiated with keys, called with a context and with arrays, and as states."""
    ctx, logits, labels = ours["ctx"], ours["logits"], ours["labels"]
    loss = Term(lossreg.CrossEntropy(), guesses="preds.logits", truths="batch.label")
    grads, value = loss(context=ctx)
    assert value == loss.get_loss(ctx) == loss.loss.get_loss(logits, labels)
    loss_state = loss.get_state_from_context(ctx)
    assert loss_state.compute() == value
    loss_state = loss.get_state(logits, labels)
    assert loss_state.compute() == value
    assert list(grads) == ["preds.logits"]
    if THERE:
        kd, ctx = theirs["kd"], theirs["ctx"]
        loss = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds.logits", labels="batch.label")
        for found in (loss(context=ctx), loss(logits=theirs["logits"], labels=theirs["labels"])):
            close(value, found, 1e-6)
        for state in (
            loss.get_state_from_context(ctx),
            loss.get_state(logits=theirs["logits"], labels=theirs["labels"]),
        ):
            close(value, state.compute(), 1e-6)


def test_sample_kauldron_usage(ours: Any, theirs: Any) -> None:
    """Kauldron usage: a dict of losses and metrics that the loop applies by their keys."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")

    def evaluate(metrics: dict[str, Any], *contexts: Any) -> dict[str, Any]:
        states = {name: [metric.get_state_from_context(ctx) for ctx in contexts] for name, metric in metrics.items()}
        return {name: a.merge(b).finalize().compute() for name, (a, b) in states.items()}

    found = evaluate(
        {
            "reconstruction": Term(lossreg.MeanSquaredError(), guesses="preds.image", truths="batch.image"),
            "roc_auc": lossreg.metrics.RocAuc(logits="preds.logits", labels="batch.label"),
        },
        *(ours["ctx"], ours["ctx"]),
    )
    assert set(found) == {"reconstruction", "roc_auc"}
    if THERE:
        kd = theirs["kd"]
        metrics = {
            "reconstruction": kd.losses.L2(preds="preds.image", targets="batch.image"),
            "roc_auc": kd.metrics.RocAuc(logits="preds.logits", labels="batch.label"),
        }
        for name, value in evaluate(metrics, theirs["ctx"], theirs["ctx"]).items():
            close(found[name], value, 1e-6)


def test_sample_standalone_imports() -> None:
    """Standalone usage: modules of metrics, losses and summaries."""
    from lossreg import losses, metrics, summaries

    assert metrics.Accuracy
    assert losses.Huber
    assert summaries.ShowImages


def test_sample_creation_and_usage_once(ours: Any, theirs: Any) -> None:
    """Creation, and usage (1-time). Kauldron's `Accuracy()` without keys is an error by now."""
    metric = lossreg.metrics.Accuracy()
    logits, labels = ours["logits"], ours["labels"]
    accuracy = metric(logits=logits, labels=labels)
    assert accuracy == metric.get_state(logits=logits, labels=labels).compute()
    if THERE:
        metric = theirs["kd"].metrics.Accuracy(logits="preds.logits", labels="batch.label")
        close(accuracy, metric(logits=theirs["logits"], labels=theirs["labels"]), 1e-6)


def test_sample_usage_accumulated(ours: Any, theirs: Any) -> None:
    """Usage (accumulated)."""
    metric = lossreg.metrics.Accuracy()
    state0 = metric.get_state(logits=ours["logits"], labels=ours["labels"])
    state1 = metric.get_state(logits=-ours["logits"], labels=ours["labels"])
    acc_state = state0.merge(state1)
    accuracy = acc_state.compute()
    batches = [ours["logits"], -ours["logits"]]
    assert accuracy == np.mean([logits.argmax(-1) == ours["labels"] for logits in batches])
    if THERE:
        metric = theirs["kd"].metrics.Accuracy(logits="preds.logits", labels="batch.label")
        state0 = metric.get_state(logits=theirs["logits"], labels=theirs["labels"])
        state1 = metric.get_state(logits=-theirs["logits"], labels=theirs["labels"])
        close(accuracy, state0.merge(state1).compute(), 1e-6)


def test_sample_creating_a_metric(ours: Any, theirs: Any) -> None:
    """Creating a metric: Accuracy."""

    class Accuracy(lossreg.metrics.Metric):
        """Classification accuracy."""

        logits: lossreg.metrics.Key = None
        labels: lossreg.metrics.Key = None

        class State(lossreg.metrics.AverageState):
            """Right rows, and rows."""

        def get_state(self, logits: Any, labels: Any) -> Any:
            return self.State.from_values(logits.argmax(axis=-1) == labels)

    metric = Accuracy(logits="preds.logits", labels="batch.label")
    found = metric(context=ours["ctx"])
    state = metric.get_state_from_context(ours["ctx"])
    assert type(state) is Accuracy.State
    assert state.parent == metric
    assert found == metric(logits=ours["logits"], labels=ours["labels"]) == (state + state).compute()
    if THERE:
        theirs["ctx"]["batch"]["label"] = theirs["ctx"]["batch"]["label"][:, 0]
        metric = theirs["kd"].samples.Accuracy(logits="preds.logits", labels="batch.label")
        close(found, metric(context=theirs["ctx"]), 1e-6)


def test_sample_l2_loss(ours: Any, theirs: Any) -> None:
    """Loss: L2. `get_values` becomes a formula, which gives the slope as well."""

    class L2(lossreg.ElementwiseLoss):
        """L2 loss."""

        @staticmethod
        def formula(xp: Any, preds: Any, targets: Any) -> Any:
            return (preds - targets) ** 2, 2.0 * (preds - targets)

    loss = Term(L2(), guesses="preds.image", truths="batch.image", mask="batch.mask", weight=2.0)
    grads, value = loss(ours["ctx"])
    values = L2().get_values(ours["image"], ours["truth"])
    if THERE:
        keys = {"preds": "preds.image", "targets": "batch.image"}
        loss = theirs["kd"].samples.L2(**keys, mask="batch.mask", weight=2.0)
        ctx, jax = theirs["ctx"], theirs["kd"].jax
        close(value, loss(context=ctx), 1e-6)
        close(values, loss.get_values(preds=theirs["image"], targets=theirs["truth"]), 1e-6)
        slopes = jax.grad(lambda x: loss(context={**ctx, "preds": {"image": x}}))(theirs["image"])
        close(grads["preds.image"], slopes, 1e-6)


def test_sample_summary() -> None:
    """Summary: ShowImages, whose state keeps the first images and boxes."""
    images, boxes = np.arange(4 * 2 * 2 * 3.0).reshape(4, 2, 2, 3), np.arange(4 * 2 * 4.0).reshape(4, 2, 4)

    class ShowImages(lossreg.metrics.Metric):
        """The first images."""

        num_images: int = 5

        class State(lossreg.metrics.AutoState):
            """Collects the first num_images images and boxes."""

            images: Any = lossreg.metrics.truncate_field(num_field="parent.num_images")
            boxes: Any = lossreg.metrics.truncate_field(num_field="parent.num_images")

        def get_state(self, images: Any, boxes: Any) -> Any:
            return self.State(images=images, boxes=boxes)

    def shown(metric: Any, images: Any, boxes: Any) -> Any:
        states = [
            metric.get_state(images=images[part], boxes=boxes[part]) for part in (slice(0, 1), slice(1, 4), slice(0, 4))
        ]
        return states[0].merge(states[1]).merge(states[2]).compute()

    found = [shown(ShowImages(num_images=n), images, boxes) for n in (3, 5)]
    np.testing.assert_array_equal(found[0].images, images[:3])
    np.testing.assert_array_equal(found[1].boxes, boxes[[0, 1, 2, 3, 0]])
    if THERE:
        for n, ours in zip((3, 5), found):
            theirs = shown(Installed().samples.ShowImages(num_images=n), images, boxes)
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.boxes, theirs.boxes)


# The differences that are meant, in the order of the page: what Kauldron does, then what lossreg does

X = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])


def squares(preds: Any = X, **options: Any) -> Case:
    return Case("L2", {"preds": preds}, {"targets": np.zeros_like(preds)}, **options)


def our_error(case: Case) -> str:
    with pytest.raises(ValueError) as caught:
        term(case)(context(case))
    return str(caught.value)


def test_difference_gradients(kauldron: Any) -> None:
    case = squares()
    grads, value = term(case)(context(case))
    their_value, their_grads = kauldron.loss_and_grads(case)
    close(value, their_value, 1e-12)
    close(grads["preds.preds"], their_grads["preds"], 1e-12)


def test_difference_gradients_of_truths() -> None:
    pair = Case("NegativeCosineSimilarity", {"preds": X, "targets": X[:, ::-1].copy()})
    assert list(term(squares()).get_grad(context(squares()))) == ["preds.preds"]
    assert list(term(pair).get_grad(context(pair))) == ["preds.preds", "preds.targets"]


def test_difference_axes_of_length_one(kauldron: Any) -> None:
    ids = np.array([[0], [2]])
    case = Case("SoftmaxCrossEntropyWithIntLabels", {"logits": X}, {"labels": ids}, mask=np.array([[1.0], [0.0]]))
    assert kauldron.values(case).shape == (2, 1)
    loss = lossreg.CrossEntropy()
    assert loss.get_values(X, ids[:, 0]).shape == (2,)
    close(loss.get_loss(X, ids[:, 0], mask=[1, 0]), kauldron.loss(case), 1e-12)
    with pytest.raises(ValueError, match=r"write truths\[:, 0\]"):
        loss(X, ids)
    close(loss.get_loss(X, ids[:, 0], mask=case.mask), kauldron.loss(case), 1e-12)
    with pytest.raises(ValueError, match=r"mask that broadcasts to the values' shape \(2,\)"):
        lossreg.NegativeCosineSimilarity()((X, X), mask=case.mask)


def test_difference_class_axis(kauldron: Any) -> None:
    logits, labels = np.stack([X, X + 1, X * X], axis=1), np.zeros((2, 3, 1), int)
    logits[0, 1] = [0.0, -1.0, 5.0]
    case = Case("SoftmaxCrossEntropyWithIntLabels", {"logits": logits}, {"labels": labels})
    value = lossreg.CrossEntropy().get_loss(np.moveaxis(logits, -1, 1), labels[..., 0])
    close(value, kauldron.loss(case), 1e-12)
    assert abs(lossreg.CrossEntropy().get_loss(logits, labels[..., 0]) - value) > 0.01


def test_difference_metrics_without_paths() -> None:
    assert lossreg.metrics.Accuracy()(logits=X, labels=[2, 1]) == 0.5
    with pytest.raises(ConfigError, match="labels: this option is needed"):
        lossreg.metrics.Accuracy()(context={})
    if THERE:
        with pytest.raises(ValueError, match="Either logits or pred_labels"):
            Installed().metrics.Accuracy()


def test_difference_mask_of_binary_accuracy() -> None:
    batch = {"logits": X, "labels": (X > 2).astype(int), "mask": np.array([[1], [0]])}
    keys = {name: name for name in batch}
    assert lossreg.metrics.BinaryAccuracy(**keys)(context=batch) == pytest.approx(1 / 3)
    if THERE:
        with pytest.raises(TypeError, match="mask"):
            Installed().metrics.BinaryAccuracy(**keys)


def test_difference_masked_nan(kauldron: Any) -> None:
    x = np.array([[nan, 1.0], [inf, 2.0]])
    case = squares(x, mask=np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert np.isnan(kauldron.loss(case))
    grads, value = term(case)(context(case))
    assert value == 2.5
    assert grads["preds.preds"].tolist() == [[0.0, 1.0], [0.0, 2.0]]
    average = MetricCase("Norm", {"tensor": x.T, "mask": np.array([[0.0], [1.0]])}, {"aggregation_type": "average"})
    assert np.isnan(kauldron.metric(average))
    close(metric(average)(context=average.context), np.sqrt(5.0), 1e-12)


def test_difference_masks_that_fit_twice(kauldron: Any) -> None:
    square = squares(X[:, :2], mask=np.array([1.0, 0.0]))
    columns = squares(X[:, :2], mask=np.array([[1.0, 0.0]]))
    assert kauldron.loss(square) == kauldron.loss(columns)
    assert "expected mask with 2 axes, (2, 1) for rows or (1, 2) for columns, got (2,)" in our_error(square)
    close(term(columns).get_loss(context(columns)), kauldron.loss(columns), 1e-12)
    rows = lossreg.metrics.AverageState.from_values(X[:, :2], mask=np.array([1, 0])).compute()
    assert rows == 1.5
    if isinstance(kauldron, Installed):
        theirs = kauldron.metrics.AverageState.from_values(kauldron.jax.numpy.asarray(X[:, :2]), mask=square.mask)
        assert theirs.compute() == rows


@pytest.mark.parametrize("wrong", [2.0, -0.5, nan])
def test_difference_masks_out_of_range(wrong: float, kauldron: Any) -> None:
    case = squares(mask=np.array([[1.0], [wrong]]))
    assert np.isnan(wrong) or np.isfinite(kauldron.loss(case))
    assert f"expected mask in [0, 1], got {wrong} in row 1" in our_error(case)


def test_difference_small_masks(kauldron: Any) -> None:
    case = squares(mask=np.array([[1e-10, 0.0, 0.0], [0.0, 1e-10, 0.0]]))
    close(kauldron.loss(case), 2e-10 / 1e-8, 1e-7)
    close(term(case).get_loss(context(case)), 1.0, 1e-12)


def test_difference_totals(kauldron: Any) -> None:
    """Merged with itself 24 times, the state of one value has the count 2**24, to which float32 can add no 1."""
    case = squares(np.ones(1, "float32"))
    ours, theirs = term(case).get_state_from_context(context(case)), kauldron.state(case)
    one, their_one = ours, theirs
    for _ in range(24):
        ours, theirs = ours.merge(ours), theirs.merge(theirs)
    assert float(theirs.merge(their_one).count) == 2**24
    assert ours.merge(one).count == 2**24 + 1


def test_difference_results(kauldron: Any) -> None:
    case = squares(X.astype("float32"))
    assert kauldron.loss(case).dtype == "float32"
    assert type(term(case).get_loss(context(case))) is float


def test_difference_half_precision(kauldron: Any) -> None:
    case = squares(np.full((2, 2), 300.0, "float16"))
    with np.errstate(all="ignore"):
        assert np.isinf(kauldron.loss(case))
    grads, value = term(case)(context(case))
    assert value == 90_000
    assert grads["preds.preds"].dtype == "float16"


def test_difference_merging_others() -> None:
    case, other = squares(), squares(weight=2.0)
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        term(case).get_state_from_context(context(case)).merge(term(other).get_state_from_context(context(other)))
    if THERE:
        states = [Installed().state(each) for each in (case, other)]
        close(states[0].merge(states[1]).compute(), 1.5 * float(states[0].compute()), 1e-6)


@pytest.mark.parametrize("name", ["L1", "AbsoluteValue"])
def test_difference_kinks(name: str, kauldron: Any) -> None:
    zeros = np.zeros(2)
    case = Case(name, {"preds": zeros}, {"targets": zeros}) if name == "L1" else Case(name, {"values": zeros})
    ((path, grad),) = term(case).get_grad(context(case)).items()
    assert grad.tolist() == [0.0, 0.0]
    assert arranged(name, kauldron.loss_and_grads(case)[1])[path].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("wrong", [-1, 3])
def test_difference_ids(wrong: int, kauldron: Any) -> None:
    case = Case("SoftmaxCrossEntropyWithIntLabels", {"logits": X}, {"labels": np.array([[0], [wrong]])})
    if wrong == -1:
        last = Case(case.name, case.guesses, {"labels": np.array([[0], [2]])})
        assert kauldron.loss(case) == kauldron.loss(last)
    elif isinstance(kauldron, Installed):
        assert np.isnan(kauldron.loss(case))
    assert f"got undeclared id {wrong} in row 1" in our_error(case)
    rows = MetricCase("Accuracy", {"logits": X, "labels": np.array([[2], [wrong]])})
    assert kauldron.metric(rows) == 0.5
    with pytest.raises(ValueError, match=f"got undeclared id {wrong} in row 1"):
        metric(rows)(context=rows.context)


@pytest.mark.parametrize("name", ["SoftmaxCrossEntropy", "SigmoidBinaryCrossEntropy"])
def test_difference_labels_out_of_range(name: str, kauldron: Any) -> None:
    case = Case(name, {"logits": X}, {"labels": np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])})
    assert np.isfinite(kauldron.loss(case))
    assert "in [0, 1], got 2.0 in row 0" in our_error(case)


def test_difference_binary_labels(kauldron: Any) -> None:
    case = MetricCase("BinaryAccuracy", {"logits": X, "labels": np.array([[1, 1, 1], [-1, -1, -1]])})
    assert kauldron.metric(case) == 0.5
    with pytest.raises(ValueError, match="expected labels to be 0 or 1, got -1 in row 1, column 0"):
        metric(case)(context=case.context)


@pytest.mark.parametrize("name", ["SoftmaxCrossEntropy", "SigmoidBinaryCrossEntropy"])
def test_difference_infinite_logits(name: str, kauldron: Any) -> None:
    case = Case(name, {"logits": np.array([[inf, 0.0]])}, {"labels": np.array([[1.0, 0.0]])})
    with np.errstate(all="ignore"):
        assert np.isnan(kauldron.loss(case))
    grads, value = term(case)(context(case))
    assert value == (0.0 if name == "SoftmaxCrossEntropy" else pytest.approx(np.log(2) / 2))
    assert np.isfinite(grads["preds.logits"]).all()


def test_difference_confident_answers(kauldron: Any) -> None:
    case = Case("SoftmaxCrossEntropy", {"logits": np.array([[50.0, 0.0]])}, {"labels": np.array([[1.0, 0.0]])})
    assert kauldron.loss(case) == 0
    close(term(case).get_loss(context(case)), np.exp(-50.0), 1e-12)


def test_difference_vectors_of_zeros() -> None:
    case = Case(
        "NegativeCosineSimilarity", {"preds": np.zeros((1, 2)), "targets": np.array([[3.0, 4.0]])}, options={"eps": 0.5}
    )
    grads, value = term(case)(context(case))
    assert value == 0
    close(grads["preds.preds"], np.array([[3.0, 4.0]]) / 5.5 / -0.5, 1e-12)
    step = 1e-9 * np.array([[3.0, 4.0]]) / 5
    near = Case(case.name, {**case.guesses, "preds": step}, options=case.options)
    close(Restated().loss(near), np.sum(grads["preds.preds"] * step), 1e-8)
    if THERE:
        assert np.isnan(Installed().loss_and_grads(case)[1]["preds"]).all()


def test_difference_long_vectors(kauldron: Any) -> None:
    case = Case("NegativeCosineSimilarity", {"preds": np.array([[1e200, 0.0]]), "targets": np.array([[3e200, 4e200]])})
    with np.errstate(all="ignore"):
        assert kauldron.loss(case) == 0
    close(term(case).get_loss(context(case)), -0.6, 1e-12)


def test_difference_weights(kauldron: Any) -> None:
    case = squares(weight=lambda step: nan)
    assert np.isnan(kauldron.loss(case))
    assert "expected a finite number at step 0, got nan" in our_error(case)
    with pytest.raises(ConfigError, match="should be a finite number, a function or an iterator, got nan"):
        term(squares(weight=nan))


def test_difference_one_vs_one() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    case = MetricCase("RocAuc", {"logits": np.eye(3), "labels": np.array([[0], [1], [2]])}, {"multi_class_mode": "ovo"})
    assert metric(case)(context=case.context) == 1.0
    if THERE:
        with pytest.raises(ValueError, match="not supported for multiclass one-vs-one"):
            Installed().metric(case)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_difference_classes_without_rows(kauldron: Any) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    inputs = {"logits": np.eye(3), "labels": np.array([[0], [1], [2]]), "mask": np.array([[1.0], [1.0], [0.0]])}
    masked, few = (
        MetricCase("RocAuc", inputs),
        MetricCase(
            "RocAuc",
            {"logits": np.eye(3)[[0, 1, 1]], "labels": np.array([[0], [1], [1]])},
            {"unique_labels": (0, 1, 2)},
        ),
    )
    assert np.isnan(kauldron.metric(masked))
    assert metric(masked)(context=masked.context) == metric(few)(context=few.context) == 1.0
    if isinstance(kauldron, Installed):
        assert np.isnan(kauldron.metric(MetricCase(few.name, few.inputs, {"unique_labels": [0, 1, 2]})))


@pytest.mark.parametrize("ord, theirs, ours", [(np.inf, 1.0, 3.0), (0, np.sqrt(19), 7.0)])
def test_difference_norms_of_infinite_order(ord: float, theirs: float, ours: float, kauldron: Any) -> None:
    x = np.array([*X, [0.0, 0.0, 1.0]])
    case = MetricCase("Norm", {"tensor": x}, {"ord": ord, "aggregation_type": "concat"})
    with np.errstate(all="ignore"):
        assert kauldron.metric(case) == pytest.approx(theirs)
    assert metric(case)(context=case.context) == ours


def test_difference_columns_that_are_not_there() -> None:
    case = MetricCase("SingleDimension", {"tensor": X}, {"index": 7})
    with pytest.raises(ValueError, match="with a column 7"):
        metric(case)(context=case.context)
    if THERE:
        assert Installed().metric(case) == 2.5


def test_difference_deviations(kauldron: Any) -> None:
    offset = 1e5 if isinstance(kauldron, Installed) else 1e9  # the restated formula is computed in float64
    case = MetricCase("Std", {"values": X + offset})
    assert abs(kauldron.metric(case) - np.std(X)) > 0.5
    close(metric(case)(context=case.context), np.std(X), 1e-12)


def test_difference_weighted_deviations(kauldron: Any) -> None:
    case = MetricCase("Std", {"values": X, "mask": np.array([[1.0], [0.5]])})
    close(metric(case)(context=case.context), np.sqrt(np.var(X[0])), 1e-12)  # both rows hold the same numbers
    assert abs(kauldron.metric(case) - np.std(X[0])) > 0.1


def test_difference_deviation_of_nothing(kauldron: Any) -> None:
    case = MetricCase("Std", {"values": np.zeros((0, 3))})
    with np.errstate(all="ignore"):
        assert np.isnan(kauldron.metric(case))
    assert metric(case)(context=case.context) == 0.0


def test_difference_errors_that_are_skipped() -> None:
    class Broken(lossreg.metrics.Metric):
        """A metric with a bug."""

        State = lossreg.metrics.AverageState

        def get_state(self, x: Any) -> Any:
            return {}["a bug"]

    with pytest.raises(KeyError, match="a bug"):
        lossreg.metrics.SkipIfMissing(Broken(x="x"))(context={"x": X})
    if THERE:
        kd = Installed()
        assert kd.metrics.SkipIfMissing(kd.samples.Broken(x="x"))(context={"x": X}) == {}
