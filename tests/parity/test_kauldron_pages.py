"""What users of Kauldron's losses, metrics and states type, on lossreg: the code of its two pages in the page's order.

Classes, names, options, argument forms and decorators are those of the pages. Of the pages' imports only the first word
is another one: `from lossreg import kauldron as kd` in the place of `from kauldron import kd`.
"""

# ruff: noqa: F722  (shapes in annotations)

from __future__ import annotations

import copy
import dataclasses
import doctest
import functools
import importlib
import importlib.util
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import ConfigError, Term, WeightedSum
from lossreg import kauldron as kd
from lossreg.kauldron import kontext
from support.kauldron_cases import THERE, TOLERANCE, as_is, close, data, draw, installed, last_of_one, table
from support.kauldron_reference import FORMULAS, Case, Installed, Restated

pytestmark = pytest.mark.filterwarnings("ignore:::(jax|flax|kauldron|optax|etils|support.kauldron).*")

if importlib.util.find_spec("flax"):
    import flax
    import flax.struct
else:

    class flax:
        """The decorator of flax, which is one of dataclasses."""

        class struct:
            dataclass = staticmethod(dataclasses.dataclass(frozen=True))


class Float:
    """Stands for the shapes of the pages, which only a type checker reads."""

    def __class_getitem__(cls, shape: str) -> type:
        return cls


def typechecked(function: Any) -> Any:
    """Stands for the decorator of the pages, which keeps the signature."""
    return function


LOGITS = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0], [1.0, 1.5, 3.0]])
LABELS = np.array([0, 2, 2])
IMAGES, TRUTHS = np.arange(12.0).reshape(4, 3) / 4, np.ones((4, 3))


@pytest.fixture
def ctx() -> dict[str, Any]:
    """What a training step knows."""
    mask = np.array([[1.0], [0.0], [0.5], [1.0]])
    return {
        "preds": {"logits": LOGITS, "image": IMAGES},
        "batch": {"label": LABELS[:, None], "labels": np.eye(3)[LABELS], "image": TRUTHS, "mask": mask},
        "step": 3,
    }


# The page on losses


def test_page_loss_example(ctx: Any) -> None:
    SoftmaxCrossEntropy = kd.losses.SoftmaxCrossEntropy
    loss = SoftmaxCrossEntropy(logits="preds.logits", labels="batch.labels")
    value = loss(context=ctx)
    assert loss(logits=LOGITS, labels=np.eye(3)[LABELS]) == value
    loss_state = loss.get_state_from_context(ctx)
    assert loss_state.compute() == value
    loss_state = loss.get_state(logits=LOGITS, labels=np.eye(3)[LABELS])
    assert loss_state.compute() == value
    expected = np.log(np.exp(LOGITS).sum(axis=1)) - LOGITS[np.arange(3), LABELS]
    assert value == pytest.approx(expected.mean())


def test_page_options_and_their_defaults() -> None:
    for loss in (kd.losses.L2(preds="p", targets="t"), kd.losses.L2()):
        assert (loss.step, loss.mask, loss.weight, loss.normalize_by) == ("step", None, 1.0, "mask")
    signature = inspect.signature(kd.losses.Loss)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    assert defaults == {"step": "step", "mask": None, "weight": 1.0, "normalize_by": "mask"}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in signature.parameters.values())


@pytest.mark.parametrize("step", ["step", "clock.now"])
def test_page_step_is_the_key_of_schedules(step: str, ctx: Any) -> None:
    loss = kd.losses.L2(preds="preds.image", targets="batch.image", weight=lambda step: 0.5 * step, step=step)
    assert loss.get_weight(4) == 2.0
    plain = kd.losses.L2()(preds=IMAGES, targets=TRUTHS)
    assert loss(context={**ctx, "clock": {"now": 3}}) == pytest.approx(1.5 * plain)
    assert loss(preds=IMAGES, targets=TRUTHS, step=3) == pytest.approx(1.5 * plain)


@pytest.mark.parametrize("normalize_by", ["mask", "values"])
@pytest.mark.parametrize("weight", [2, 0.25])
def test_page_mask_weight_and_normalize_by(weight: float, normalize_by: Any, ctx: Any) -> None:
    keys = {"preds": "preds.image", "targets": "batch.image", "mask": "batch.mask"}
    loss = kd.losses.L2(**keys, weight=weight, normalize_by=normalize_by)
    total = (np.square(IMAGES - TRUTHS) * ctx["batch"]["mask"]).sum()
    expected = weight * total / (7.5 if normalize_by == "mask" else 12)
    assert loss(context=ctx) == pytest.approx(expected)
    assert loss(preds=IMAGES, targets=TRUTHS, mask=ctx["batch"]["mask"]) == pytest.approx(expected)


def test_page_state_of_a_loss() -> None:
    assert kd.losses.Loss.State is kd.losses.L2.State is kd.AllReduceMean
    values, mask = np.array([1.0, 2.0, 6.0]), np.array([1, 1, 0])
    state = kd.losses.Loss.State.from_values(values=values, mask=mask, weight=2.0, normalize_by="values")
    assert (state.value, state.count, state.compute()) == (6.0, 3.0, 2.0)
    state = kd.losses.Loss.State.from_values(values=values, mask=mask, weight=2.0, normalize_by="mask")
    assert (state.value, state.count, state.compute()) == (6.0, 2.0, 3.0)
    assert kd.losses.Loss.State.from_values(values).merge(kd.losses.Loss.State.from_values(values)).compute() == 3.0
    assert kd.losses.Loss.State.empty().compute() == 0.0


def test_page_get_values() -> None:
    with pytest.raises(TypeError, match=r"abstract method '?get_values"):
        kd.losses.Loss()
    np.testing.assert_array_equal(kd.losses.L2().get_values(preds=IMAGES, targets=TRUTHS), (IMAGES - TRUTHS) ** 2)
    assert kd.losses.SoftmaxCrossEntropy().get_values(LOGITS, np.eye(3)[LABELS]).shape == (3, 1)


def test_page_get_state(ctx: Any) -> None:
    loss = kd.losses.L2(preds="preds.image", targets="batch.image", weight=lambda step: 1.0 / step)
    state = loss.get_state(IMAGES, TRUTHS, mask=ctx["batch"]["mask"], step=2)  # by position, as *args
    assert state.compute() == loss.get_state(preds=IMAGES, targets=TRUTHS, mask=ctx["batch"]["mask"], step=2).compute()
    assert type(state) is kd.losses.Loss.State
    assert state.parent == loss
    with pytest.raises(ValueError, match="expected a step, got None"):
        loss.get_state(preds=IMAGES, targets=TRUTHS)
    assert kd.losses.L2().get_state(preds=IMAGES, targets=TRUTHS, step=7).compute() > 0  # the step is ignored


def test_page_get_state_from_context() -> None:
    """A context may be an object: `context.batch["label"]` for the key "batch.label"."""

    @dataclasses.dataclass
    class Context:
        batch: Any
        preds: Any

    loss = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds", labels="batch.label")
    state = loss.get_state_from_context(Context(batch={"label": LABELS[:, None]}, preds=LOGITS))
    assert state.compute() == loss(logits=LOGITS, labels=LABELS[:, None])


def test_page_get_weight() -> None:
    assert kd.losses.L1(weight=0.5).get_weight() == kd.losses.L1(weight=0.5).get_weight(3) == 0.5
    assert kd.losses.L1(weight=lambda step: 2.0**step).get_weight(step=3) == 8.0
    with pytest.raises(ValueError, match="expected a step"):
        kd.losses.L1(weight=lambda step: 2.0**step).get_weight()
    loss = kd.losses.L1(weight=iter([0.5, 0.25]))
    assert [loss.get_weight(step) for step in (0, 1, 2)] == [0.5, 0.25, 0.25]


def test_page_empty() -> None:
    loss = kd.losses.L1(preds="p", targets="t")
    state = loss.get_state(preds=IMAGES, targets=TRUTHS)
    assert loss.empty().merge(state).compute() == state.merge(loss.empty()).compute() == state.compute()
    assert loss.empty().compute() == 0.0
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        state.merge(kd.losses.L1(preds="p", targets="t", weight=2.0).empty())


# The page on metrics


def test_page_kauldron_usage(ctx: Any) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")

    class cfg:
        metrics: Any = None

    with pytest.raises(
        (TypeError, ConfigError), match="preds"
    ):  # the page's names of these keys, which Kauldron's own refuses, too
        kd.metrics.RocAuc(preds="preds.logits", targets="batch.label")
    cfg.metrics = {
        "reconstruction": kd.losses.L2(preds="preds.image", targets="batch.image"),
        "roc_auc": kd.metrics.RocAuc(logits="preds.logits", labels="batch.label"),
    }
    states = {name: metric.empty() for name, metric in cfg.metrics.items()}
    for _ in range(2):
        states = {name: s.merge(cfg.metrics[name].get_state_from_context(ctx)) for name, s in states.items()}
    results = {name: state.finalize().compute() for name, state in states.items()}
    assert results == {"reconstruction": np.square(IMAGES - TRUTHS).mean(), "roc_auc": 1.0}


def test_page_standalone_imports() -> None:
    from lossreg.kauldron import losses, metrics, summaries

    assert losses.L2 is kd.L2
    assert metrics is lossreg.metrics
    assert summaries is lossreg.summaries


def test_page_creation_and_usage() -> None:
    from lossreg.kauldron import metrics

    metric1 = metrics.Accuracy()
    accuracy = metric1(logits=LOGITS, labels=LABELS)
    assert accuracy == metric1.get_state(logits=LOGITS, labels=LABELS).compute() == pytest.approx(2 / 3)


def test_page_usage_accumulated() -> None:
    metric = kd.metrics.Accuracy()
    state0 = metric.get_state(logits=LOGITS, labels=LABELS)
    state1 = metric.get_state(logits=LOGITS[:1], labels=LABELS[:1])
    acc_state = state0.merge(state1)
    accuracy = acc_state.compute()
    assert accuracy == 0.75


@dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
class Accuracy(kd.metrics.Metric):
    """Classification Accuracy."""

    logits: kontext.Key = kd.kontext.REQUIRED  # e.g. "preds.logits"
    labels: kontext.Key = kd.kontext.REQUIRED  # e.g. "batch.label"

    class State(kd.metrics.AverageState):
        pass

    @typechecked
    def get_state(self, logits: Float["*b n"], labels: Float["*b"]) -> Float["*b"]:
        correct = logits.argmax(axis=-1) == labels
        return self.State.from_values(values=correct)


@dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
class L2(kd.losses.Loss):
    """L2 loss."""

    preds: kontext.Key = kd.kontext.REQUIRED
    targets: kontext.Key = kd.kontext.REQUIRED

    @typechecked
    def get_values(self, preds: Float["*b"], targets: Float["*b"]) -> Float["*b"]:
        return np.square(preds - targets)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ShowImages(kd.metrics.Metric):
    num_images: int = 5

    @flax.struct.dataclass
    class State(kd.metrics.AutoState):
        """Collects the first num_images images and boxes."""

        images: Float["n h w c"] = kd.metrics.truncate_field(num_field="parent.num_images")
        boxes: Float["n k 4"] = kd.metrics.truncate_field(num_field="parent.num_images")

    def get_state(self, images: Any, boxes: Any) -> Any:
        return self.State(images=images, boxes=boxes)


def test_page_creating_a_metric() -> None:
    context = {"preds": {"logits": LOGITS}, "batch": {"label": LABELS}}
    metric = Accuracy(logits="preds.logits", labels="batch.label")
    assert metric(context=context) == metric(logits=LOGITS, labels=LABELS) == pytest.approx(2 / 3)
    state = metric.get_state_from_context(context)
    assert type(state) is Accuracy.State
    assert state.parent == metric
    with pytest.raises(ConfigError, match=r"(?s)logits: this option is needed.*labels: this option is needed"):
        Accuracy()(context=context)


def test_page_state_could_be_an_average_state() -> None:
    class OtherAccuracy(Accuracy):
        State = kd.metrics.AverageState

    state = OtherAccuracy().get_state(logits=LOGITS, labels=LABELS)
    assert type(state) is kd.metrics.AverageState
    assert state.compute() == pytest.approx(2 / 3)


def test_page_l2_loss(ctx: Any) -> None:
    """A loss by `get_values` alone has values, states, masks, weights and divisors of the built-in loss."""
    own, built_in = (
        cls(preds="preds.image", targets="batch.image", mask="batch.mask", weight=0.5, normalize_by="values")
        for cls in (L2, kd.losses.L2)
    )
    assert own(context=ctx) == built_in(context=ctx)
    np.testing.assert_array_equal(own.get_values(IMAGES, TRUTHS), built_in.get_values(IMAGES, TRUTHS))
    ctx["preds"]["image"] = np.where(ctx["batch"]["mask"] == 0, np.nan, IMAGES)
    assert own(context=ctx) == built_in(context=ctx)  # what is masked may hold anything
    state = own.get_state_from_context(ctx)
    assert state.merge(own.empty()).compute() == state.compute()
    assert (state.parent, type(state)) == (own, kd.losses.Loss.State)
    scheduled = L2(weight=lambda step: float(step))
    assert scheduled(preds=IMAGES, targets=TRUTHS, step=2) == 2 * L2()(preds=IMAGES, targets=TRUTHS)
    with pytest.raises(ConfigError, match="preds: this option is needed"):
        L2(targets="batch.image")(context=ctx)


@pytest.mark.parametrize("method", ["get_grad", "get_state_and_grad"])
def test_page_l2_loss_has_no_gradient(method: str, ctx: Any) -> None:
    with pytest.raises(TypeError, match=r"^Cannot calculate the gradient of L2: .*ElementwiseLoss.*Term\.$"):
        getattr(L2(preds="preds.image", targets="batch.image"), method)(ctx)


def test_page_summary() -> None:
    images, boxes = np.arange(4 * 2 * 2 * 3.0).reshape(4, 2, 2, 3), np.arange(4 * 2 * 4.0).reshape(4, 2, 4)
    metric = ShowImages(num_images=3)
    states = [metric.get_state(images=images[part], boxes=boxes[part]) for part in (slice(0, 1), slice(1, 4))]
    shown = states[0].merge(states[1]).compute()
    np.testing.assert_array_equal(shown.images, images[:3])
    np.testing.assert_array_equal(shown.boxes, boxes[:3])
    shown = metric.empty().merge(states[1]).merge(states[0]).compute()
    np.testing.assert_array_equal(shown.images, images[1:])


# Decorators: what dataclasses and flax add, and what they leave


@pytest.mark.parametrize(
    "made",
    [
        L2(preds="p", targets="t"),
        Accuracy(logits="l"),
        ShowImages(num_images=2),
        Accuracy().get_state(logits=LOGITS, labels=LABELS),
        ShowImages().get_state(images=np.ones((2, 1, 1, 1)), boxes=np.ones((2, 1, 4))),
    ],
    ids=lambda made: type(made).__qualname__,
)
def test_decorated_classes_are_frozen_dataclasses(made: Any) -> None:
    first = dataclasses.fields(made)[0].name
    for name in (first, "other"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=name):
            setattr(made, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=name):
            delattr(made, name)
    assert type(dataclasses.replace(made)) is type(made)
    assert repr(made).startswith(type(made).__qualname__.split(".")[0])
    for twin in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is type(made)
        assert repr(twin) == repr(made)


def test_decorated_losses_are_equal_by_their_options_and_checked() -> None:
    assert L2(preds="p", weight=2) == L2(preds="p", weight=2.0)
    assert hash(L2(preds="p")) == hash(L2(preds="p"))
    assert L2(preds="p") != L2(preds="q")
    with pytest.raises(ConfigError, match="normalize_by"):
        L2(normalize_by="bogus")
    with pytest.raises(ConfigError, match="preds: expected a path"):
        L2(preds="not a path")


@pytest.mark.parametrize(
    "decorator", [dataclasses.dataclass(frozen=True), flax.struct.dataclass], ids=["plain", "flax"]
)
def test_fields_of_decorated_states_keep_their_kinds(decorator: Any) -> None:
    @decorator
    class Base(lossreg.AutoState):
        low: Any = lossreg.min_field()
        high: Any = lossreg.max_field(default=0.0)

    @decorator
    class State(Base):
        low: Any
        total: Any = lossreg.sum_field(default=0)
        parts: Any = lossreg.concat_field(default_factory=lambda: np.zeros(0))
        unit: str = lossreg.static_field("cm")

    a, b = State(1.0, 2.0, 3, np.array([4.0])), State(low=0.5, high=1.0, parts=np.array([5.0]))
    merged = (a + b).compute()
    assert (merged.low, merged.high, merged.total, merged.parts.tolist()) == (0.5, 2.0, 3, [4.0, 5.0])
    assert State(low=0.0).high == 0.0
    assert State(low=0.0).parts.shape == (0,)
    with pytest.raises(ValueError, match="expected the same unit in both"):
        a + State(low=0.5, unit="m")


def test_states_of_flax_are_nodes_of_trees() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    pytest.importorskip("flax", reason="flax is not installed")
    state = ShowImages().get_state(images=np.ones((2, 1, 1, 1)), boxes=np.zeros((2, 1, 4)))
    assert [x.shape for x in jax.tree.leaves(state)] == [(2, 1, 1, 1), (2, 1, 4)]
    doubled = jax.tree.map(lambda x: 2 * x, state)
    assert doubled.parent == state.parent
    assert doubled.compute().images.tolist() == (2 * state.images).tolist()

    @flax.struct.dataclass
    class Sum(kd.metrics.AutoState):
        total: Any = kd.metrics.sum_field()
        unit: Any = kd.metrics.static_field("cm")

    @flax.struct.dataclass
    class First(kd.metrics.CollectFirstState):
        images: Any

    assert jax.tree.leaves(Sum(1.5)) == [1.5]
    assert jax.tree.leaves(First(2.5, keep_first=3)) == [2.5]


def test_states_of_a_loss_may_have_a_class_of_their_own() -> None:
    @dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
    class Rounded(L2):
        @flax.struct.dataclass
        class State(kd.losses.Loss.State):
            def compute(self) -> Any:
                return round(super().compute(), 1)

    loss = Rounded(weight=0.5)
    state = loss.get_state(preds=np.array([1.0, 2.5]), targets=np.zeros(2))
    assert (type(state), state.parent, state.compute()) == (Rounded.State, loss, 1.8)
    assert (state + loss.empty()).compute() == 1.8


# Against Kauldron: the same words give the same numbers


@pytest.fixture(scope="module", params=[Restated, pytest.param(Installed, marks=installed)], ids=lambda cls: cls.name)
def kauldron(request: pytest.FixtureRequest) -> Any:
    """Kauldron, and its formulas in NumPy."""
    return request.param()


def same_words(case: Case) -> Any:
    """Kauldron's own words for the loss of a case, on lossreg."""
    options = {"weight": case.weight, "normalize_by": case.normalize_by, **case.options}
    return getattr(kd.losses, case.name)(**case.keys, **options)


@pytest.mark.parametrize("name", FORMULAS)
def test_same_words_give_the_same_numbers(name: str, kauldron: Any) -> None:
    """Random batches of two and three axes, masked, weighted and normalized in all ways, at once and cut in two."""
    for seed in range(30 if isinstance(kauldron, Restated) else 3):  # JAX compiles for each anew
        rng = np.random.default_rng([seed, len(name), 5])
        case = draw(name, rng, kauldron.shapes[seed % 2])
        loss, tolerance = same_words(case), TOLERANCE["float64"]
        (value, their_grads), values = kauldron.loss_and_grads(case), kauldron.values(case)
        scale = float(np.abs(values).max(initial=1.0))
        arrays = {**case.guesses, **case.truths}

        close(loss.get_values(**arrays), values, tolerance, scale)
        close(loss(context=case.context), value, tolerance, scale)
        assert loss(**arrays, mask=case.mask, step=case.step) == loss(context=case.context)
        grads = loss.get_grad(case.context)
        assert list(grads) == [f"preds.{key}" for key in grad_names(name, their_grads)]
        for path, grad in grads.items():
            close(grad, their_grads[path.removeprefix("preds.")], tolerance, 1.0)

        first, second = case.parts(2)
        state, totals = loss.get_state_and_grad(first.context)
        assert state.compute() == loss.get_state_from_context(first.context).compute()
        merged = state.merge(loss.get_state_from_context(second.context))
        close(merged.compute(), kauldron.loss(first, second), tolerance, scale)
        for path, grad in totals.items():
            close(merged.scale(grad), their_grads[path.removeprefix("preds.")][:2], tolerance, 1.0)


def grad_names(name: str, their_grads: Any) -> list[str]:
    return ["preds", "targets"] if name == "NegativeCosineSimilarity" else list(their_grads)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_by_values_alone_gives_the_same_numbers(name: str, kauldron: Any) -> None:
    """The formulas of Kauldron in NumPy as `get_values` of a loss: masks, weights and states are lossreg's."""
    formula = FORMULAS[name]
    for seed in range(20 if isinstance(kauldron, Restated) else 1):
        case = draw(name, np.random.default_rng([seed, len(name), 6]), kauldron.shapes[seed % 2])
        keys, options = list({**case.guesses, **case.truths}), case.options
        text = f"lambda self, {', '.join(keys)}: formula({', '.join(f'{key}={key}' for key in keys)}, **options)"
        namespace = {"get_values": eval(text, {"formula": formula, "options": options}), "__module__": __name__}
        cls: Any = type(name, (kd.losses.Loss,), namespace)
        loss = cls(**case.keys, weight=case.weight, normalize_by=case.normalize_by)
        scale = float(np.abs(kauldron.values(case)).max(initial=1.0))
        close(loss(context=case.context), kauldron.loss(case), 1e-12, scale)
        first, second = case.parts(2)
        merged = loss.get_state_from_context(first.context).merge(loss.get_state_from_context(second.context))
        close(merged.compute(), kauldron.loss(first, second), 1e-12, scale)


@installed
def test_options_and_keys_are_kauldrons() -> None:
    """Fields, their defaults and the arguments of methods."""
    theirs = Installed().losses
    for name in FORMULAS:
        ours, original = getattr(kd.losses, name), getattr(theirs, name)
        fields = {field.name: field.default for field in dataclasses.fields(original)}
        assert {field.name: field.default for field in dataclasses.fields(ours)} == fields
        for method in ("get_values", "get_weight"):
            parameters = list(inspect.signature(getattr(original, method)).parameters)
            assert list(inspect.signature(getattr(ours, method)).parameters) == parameters
    public = {name for name, x in vars(theirs).items() if callable(x)}
    assert public <= set(kd.losses.__all__)
    assert list(inspect.signature(theirs.compute_losses).parameters) == ["losses", "context"]
    assert list(inspect.signature(kd.losses.compute_losses).parameters) == ["losses", "context"]


@installed
def test_keys_of_kauldron_itself_are_taken() -> None:
    """A class that keeps `from kauldron import kontext` and `typechecked`, and has another base."""
    from support.kauldron_samples import OnLossreg

    assert kontext.REQUIRED == Installed().kontext.REQUIRED
    context = {"p": np.array([1.0, 3.0]), "t": np.zeros(2)}
    assert OnLossreg(preds="p", targets="t")(context=context) == 5.0
    with pytest.raises(ConfigError, match="targets: this option is needed"):
        OnLossreg(preds="p")(context=context)
    with pytest.raises(Exception, match="argument preds = 'no array'"):
        OnLossreg()(preds="no array", targets=np.zeros(2))


def test_a_sum_of_losses(ctx: Any) -> None:
    near = kd.losses.L2(preds="preds.image", targets="batch.image", weight=0.5)
    right = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds.logits", labels="batch.label")
    own = L2(preds="preds.image", targets="batch.image")
    total, states = kd.losses.compute_losses({"near": near, "more": [right, own]}, ctx)
    parts = [near(context=ctx), right(context=ctx), own(context=ctx)]
    assert total == pytest.approx(sum(parts))
    assert [states["near"].compute(), *(state.compute() for state in states["more"])] == parts
    assert kd.losses.compute_losses({}, ctx) == (0.0, {})


# Gradients, and the way from a loss to a term


def test_terms_of_losses_fit_in_sums(ctx: Any) -> None:
    losses = {
        "near": kd.losses.L2(
            preds="preds.image", targets="batch.image", mask="batch.mask", weight=lambda step: step / 2
        ),
        "robust": kd.losses.Huber(preds="preds.image", targets="batch.image", delta=0.5),
        "right": kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds.logits", labels="batch.label"),
    }
    grads, value = WeightedSum(terms={name: loss.term for name, loss in losses.items()})(ctx)
    assert value == pytest.approx(kd.losses.compute_losses(losses, ctx)[0])
    summed = losses["near"].get_grad(ctx)["preds.image"] + losses["robust"].get_grad(ctx)["preds.image"]
    np.testing.assert_allclose(grads["preds.image"], summed)
    np.testing.assert_allclose(grads["preds.logits"], losses["right"].get_grad(ctx)["preds.logits"])


def test_the_term_of_a_loss_has_its_options() -> None:
    loss = kd.losses.Huber(preds="p", targets="t", mask="m", delta=0.5, weight=2.0, step="now", normalize_by="values")
    huber = lossreg.Huber(delta=0.5, normalize_by="values")
    term = Term(huber, guesses="p", truths="t", mask="m", weight=2.0, step="now")
    assert loss.term == term
    assert lossreg.registry.resolve({"loss": loss.term.to_config()})["loss"] == term
    with pytest.raises(ConfigError, match=r"Huber is not registered: write loss\.term\.to_config"):
        loss.to_config()
    with pytest.raises(ConfigError, match="targets: this option is needed"):
        kd.losses.Huber(preds="p").term


def test_a_path_that_is_given_twice_gets_both_gradients() -> None:
    x = np.array([[3.0, 4.0], [1.0, 0.0]])
    twice = kd.losses.NegativeCosineSimilarity(preds="x", targets="x").get_grad({"x": x})
    apart = kd.losses.NegativeCosineSimilarity(preds="x", targets="y").get_grad({"x": x, "y": x})
    np.testing.assert_array_equal(twice["x"], apart["x"] + apart["y"])


def test_nothing_of_the_callers_is_written_to(ctx: Any) -> None:
    for array in (LOGITS, LABELS, IMAGES, TRUTHS, ctx["batch"]["label"], ctx["batch"]["mask"]):
        array.flags.writeable = False
    try:
        for name in ("L1", "L2", "Huber", "NegativeCosineSimilarity"):
            loss = getattr(kd.losses, name)(preds="preds.image", targets="batch.image", mask="batch.mask")
            loss(context=ctx), loss.get_grad(ctx)
        loss = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds.logits", labels="batch.label")
        loss(context=ctx), loss.get_grad(ctx)
    finally:
        for array in (LOGITS, LABELS, IMAGES, TRUTHS):
            array.flags.writeable = True


def test_labels_of_masked_rows_may_be_anything() -> None:
    loss, mask = kd.losses.SoftmaxCrossEntropyWithIntLabels(), np.array([[1], [0], [1]])
    labels = np.array([[0], [77], [2]])
    kept = loss(logits=LOGITS[[0, 2]], labels=labels[[0, 2]])
    assert loss(logits=LOGITS, labels=labels, mask=mask) == pytest.approx(kept)
    with pytest.raises(ValueError, match="77"):
        loss(logits=LOGITS, labels=labels)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3), (2, 2, 5, 3)])
@pytest.mark.parametrize("with_ids", [False, True])
def test_classes_are_on_the_last_axis(shape: Any, with_ids: bool, rng: Any) -> None:
    logits, ids = rng.normal(size=shape), rng.integers(0, 3, (*shape[:-1], 1))
    expected = FORMULAS["SoftmaxCrossEntropyWithIntLabels"](logits, ids)
    if with_ids:
        loss, labels = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="x", labels="y"), ids
    else:
        loss, labels = kd.losses.SoftmaxCrossEntropy(logits="x", labels="y"), np.eye(3)[ids[..., 0]]
    np.testing.assert_allclose(loss.get_values(logits=logits, labels=labels), expected, rtol=1e-12)
    probs = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    grad = loss.get_grad({"x": logits, "y": labels})["x"]
    np.testing.assert_allclose(grad, (probs - np.eye(3)[ids[..., 0]]) / expected.size, atol=1e-15)
    for mask_shape in {(1,) * len(shape), (*shape[:-1], 1), (*(1 for _ in shape[:-2]), *shape[-2:-1], 1)}:
        mask = rng.integers(1, 9, mask_shape) / 8
        full = np.broadcast_to(mask, expected.shape)
        assert loss(logits=logits, labels=labels, mask=mask) == pytest.approx((expected * full).sum() / full.sum())


def test_values_of_a_subclass_are_its_own(ctx: Any) -> None:
    """A subclass of a loss with a gradient, and other values: the gradient is not that of its values any more."""

    class Half(kd.losses.L2):
        def get_values(self, preds: Any, targets: Any) -> Any:
            return 0.5 * super().get_values(preds, targets)

    class Same(kd.losses.L2):
        """L2 by another name."""

    half, same = (cls(preds="preds.image", targets="batch.image", mask="batch.mask") for cls in (Half, Same))
    assert half(context=ctx) == 0.5 * same(context=ctx)
    np.testing.assert_array_equal(same.get_grad(ctx)["preds.image"], same.term.get_grad(ctx)["preds.image"])
    for call in (lambda: half.get_grad(ctx), lambda: half.get_state_and_grad(ctx), lambda: half.term):
        with pytest.raises(TypeError, match="Cannot calculate the gradient of Half"):
            call()


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_of_other_libraries(library: str, ctx: Any) -> None:
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    make = module.tensor if library == "torch" else module.numpy.asarray
    loss = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="x", labels="y", mask="m")
    arrays = {"x": LOGITS.astype("float32"), "y": LABELS[:, None].astype("int32"), "m": np.array([[1.0], [0.0], [1.0]])}
    context = {name: make(x) for name, x in arrays.items()}
    assert loss(context=context) == pytest.approx(loss(context=arrays))
    grad = loss.get_grad(context)["x"]
    assert type(grad) is type(context["x"])
    np.testing.assert_allclose(np.asarray(grad), loss.get_grad(arrays)["x"])

    class Square(kd.losses.Loss):
        def get_values(self, x: Any) -> Any:
            return x * x

    assert Square(x="x", mask="m")(context=context) == pytest.approx(np.square(LOGITS[[0, 2]]).mean())


def test_losses_inside_transformations_of_jax_say_what_to_write() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jnp = jax.numpy

    class Squares(kd.losses.Loss):
        preds: kd.Key = kd.REQUIRED
        targets: kd.Key = kd.REQUIRED

        def get_values(self, preds: Any, targets: Any) -> Any:
            return jnp.square(preds - targets)

    class Half(kd.losses.L2):
        def get_values(self, preds: Any, targets: Any) -> Any:
            return 0.5 * jnp.square(preds - targets)

    preds, targets = jnp.asarray(IMAGES), jnp.asarray(TRUTHS)
    for loss, name in ((Squares(weight=lambda step: 0.5 if step else 1.0), "Squares"), (Half(), "Half")):
        expected = (
            rf"^Cannot calculate {name}: expected arrays with numbers, got a float\d+ array of shape .* inside jax.jit, "
            r"jax.grad or jax.vmap; write loss.get_values\(...\).mean\(\) where get_values consists of functions of JAX, "
            rf"or class {name}\(lossreg.ElementwiseLoss\) for lossreg.jax.as_function\."
        )
        for transform in (jax.grad, jax.jit):
            with pytest.raises(ValueError, match=expected):
                transform(lambda p, loss=loss: loss(preds=p, targets=targets, step=1))(preds)
        with pytest.raises(ValueError, match="expected arrays with numbers"):
            jax.jit(lambda m, loss=loss: loss(preds=preds, targets=targets, mask=m, step=1))(jnp.ones_like(preds))
        found = jax.grad(lambda p, loss=loss: loss.get_values(preds=p, targets=targets).mean())(preds)
        factor = 2 if name == "Squares" else 1
        np.testing.assert_allclose(found, factor * (preds - targets) / preds.size, rtol=1e-5, atol=1e-6)

    ours = kd.losses.L2(preds="preds", targets="targets")
    with pytest.raises(ValueError, match=r"write lossreg.jax.as_function\(loss.term\), a function of the context"):
        jax.grad(lambda p: ours(preds=p, targets=targets))(preds)
    as_function = importlib.import_module("lossreg.jax").as_function
    found = jax.grad(lambda p: as_function(ours.term)({"preds": p, "targets": targets}))(preds)
    np.testing.assert_allclose(found, 2 * (preds - targets) / preds.size, rtol=1e-5, atol=1e-6)


def test_states_of_ones_own_may_be_made_inside_of_jax() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")

    class Total(kd.metrics.State):
        total: Any = 0.0

        @classmethod
        def from_values(cls, values: Any, **_: Any) -> Any:
            return cls(values.sum())

        def merge(self, other: Any) -> Any:
            return type(self)(self.total + other.total)

        def compute(self) -> Any:
            return self.total

    class Squares(kd.losses.Loss):
        State = Total

        def get_values(self, x: Any) -> Any:
            return x * x

    assert jax.grad(lambda x: Squares()(x=x))(jax.numpy.array([1.0, 2.0])).tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: kd.losses.L2()(IMAGES, TRUTHS), TypeError, "expected context=... or preds=..., targets=..., got 2 without names."),
        (lambda: kd.metrics.Accuracy()(LOGITS, LABELS), TypeError, "Accuracy: expected context=... or labels=..., got 2 without"),
        (lambda: kd.losses.L2()(preds=IMAGES), TypeError, "expected context=... or preds=..., targets=..., got preds without targets."),
        (lambda: kd.losses.SoftmaxCrossEntropy()(logits=LOGITS, labels=LABELS), ValueError, r"labels of shape \(3, 3\) .* for ids use SoftmaxCrossEntropyWithIntLabels"),
        (lambda: kd.losses.SoftmaxCrossEntropyWithIntLabels()(logits=LOGITS, labels=np.eye(3)), ValueError, r"labels of shape \(3, 1\) .* for probabilities use SoftmaxCrossEntropy"),
        (lambda: kd.losses.L2(weight=float)(preds=IMAGES, targets=TRUTHS), ValueError, r"expected a step, got None. It is the weight of L2\("),
        (lambda: kd.losses.L2(preds="p")(context={}, preds=IMAGES), TypeError, "got both a context and preds."),
        (lambda: kd.losses.L2()(context={}), ConfigError, "preds: this option is needed: a path such as 'preds.logits'"),
        (lambda: kd.losses.L2(preds="p", targets="t")(context={}), KeyError, "Cannot find 'p'"),
        (lambda: L2()(preds=IMAGES, targets=TRUTHS, mask=np.ones(4)), ValueError, r"mask that broadcasts to the values' shape \(4, 3\), got"),
        (lambda: L2()(preds=TRUTHS, targets=TRUTHS, mask=np.full((4, 3), 2.0)), ValueError, r"expected mask in \[0, 1\], got 2.0"),
        (lambda: kd.AllReduceMean.from_values(["a"]), ValueError, "expected guesses"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_examples_in_docstrings_run() -> None:
    for name in ("kauldron.losses", "kauldron.kontext", "kauldron.calculators"):
        module = importlib.import_module(f"lossreg.{name}")
        assert doctest.testmod(module, extraglobs={"np": np}).failed == 0
    for name in kd.losses.__all__:
        assert ">>> " in getattr(kd.losses, name).__doc__, name


# The tables of the page in the documentation


class Relative(lossreg.ElementwiseLoss):
    """The loss of the page in the documentation, as a formula."""

    @staticmethod
    def formula(xp: Any, guess: Any, truth: Any) -> Any:
        residual = guess - truth
        return residual * residual / (truth * truth), 2.0 * residual / (truth * truth)


def own_loss(kd: Any) -> Any:
    """The same by `get_values`, on the losses of a module."""
    key, required = kd.kontext.Key, dataclasses.field(default=kd.kontext.REQUIRED)
    namespace = {"get_values": lambda self, preds, targets: (preds - targets) ** 2 / targets**2}
    return dataclasses.make_dataclass(
        "RelativeError",
        [("preds", key, required), ("targets", key, copy.copy(required))],
        bases=(kd.losses.Loss,),
        namespace=namespace,
        eq=True,
        frozen=True,
        kw_only=True,
    )


def first_images(metrics: Any) -> Any:
    """A metric that keeps images, on the states of a module."""

    @dataclasses.dataclass(kw_only=True, frozen=True)
    class First(metrics.Metric):
        num_images: int = 5

        @flax.struct.dataclass
        class State(metrics.AutoState):
            images: Any = metrics.truncate_field(num_field="parent.num_images")

        def get_state(self, images: Any) -> Any:
            return self.State(images=images)

    return First()


def words(kd: Any, found: dict[str, Any]) -> dict[str, Any]:
    """What the names of the table mean, with the losses and metrics of a module."""
    soft = 0.75 * found["one_hot"] + np.float32(0.25 / 3)
    found["ctx"]["batch"]["soft"] = soft
    found["ctx2"] = {**found["ctx"], "preds": {"image": -found["image"]}}
    keys = {"preds": "preds.image", "targets": "batch.image"}
    names = {"kd": kd, "soft": soft, "own": own_loss(kd), "l2": kd.losses.L2(**keys, weight=0.5)}
    names["accuracy"] = kd.metrics.Accuracy(logits="preds.logits", labels="batch.label")
    return {**found, **names, "first": functools.cache(first_images)}


WORDS = table("word")


@pytest.mark.parametrize("line", WORDS, ids=lambda line: line[0])
def test_every_word_of_the_pages(line: list[str]) -> None:
    if "RocAuc" in line[0]:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    on_pages, ours = (cell.strip("`") for cell in line[1:])
    result = eval(on_pages, words(kd, data(as_is)))
    term = Term(lossreg.MeanSquaredError(), guesses="preds.image", truths="batch.image", weight=0.5)
    names = {**vars(lossreg), **words(kd, data(last_of_one)), "Relative": Relative, "term2": term}
    close(result, eval(ours, names), 1e-6)
    if THERE:
        theirs = Installed()
        found = theirs.jax.tree.map(lambda x: theirs.jax.numpy.asarray(x) if np.ndim(x) else x, data(as_is))
        close(result, eval(on_pages, words(theirs, found)), 1e-5)


def test_every_word_of_the_pages_is_listed() -> None:
    """Classes, options and methods that the two pages name."""
    listed = " ".join(cell for line in WORDS for cell in line[:2])
    named = """SoftmaxCrossEntropy L2 RocAuc Accuracy Loss Metric State AverageState AutoState truncate_field parent
        num_field step weight mask normalize_by get_values get_state get_state_from_context get_weight empty compute
        merge from_values REQUIRED Key logits labels preds targets context"""
    assert [word for word in named.split() if word not in listed] == ["num_field"]  # in the code of `first`


@installed
def test_what_is_absent_is_listed() -> None:
    import kauldron

    absent = {f"kd.metrics.{x}" for x in vars(Installed().metrics) if x[0].isupper() and not hasattr(kd.metrics, x)}
    root = Path(kauldron.__path__[0])
    for name, module in {"losses": kd.losses, "summaries": kd.summaries, "metrics": kd.metrics}.items():
        exported = re.findall(r"^from .* import (\w+)$", (root / name / "__init__.py").read_text("utf-8"), re.MULTILINE)
        absent |= {f"kd.{name}.{x}" for x in exported if not hasattr(module, x)}
    assert absent == {line[0].strip("`") for line in table("absent")}


@installed
@pytest.mark.parametrize("options", [{}, {"in_vrange": (-1.0, 2.0)}])
@pytest.mark.parametrize("name", ["Psnr", "Ssim"])
def test_metrics_of_images_are_kauldrons(name: str, options: Any, rng: Any) -> None:
    theirs, jax = Installed().metrics, Installed().jax
    context = {
        "p": rng.random((4, 12, 13, 3)),
        "t": rng.random((4, 12, 13, 3)),
        "m": np.array([[1.0], [0.0], [0.5], [1.0]]),
    }
    keys = {"pred": "p", "target": "t", "mask": "m"}
    with jax.enable_x64(True):
        arrays = {name: jax.numpy.asarray(x) for name, x in context.items()}
        expected = getattr(theirs, name)(**keys, **options)(context=arrays)
    close(getattr(kd.metrics, name)(**keys, **options)(context=context), expected, 1e-12)
    fields = {field.name: field.default for field in dataclasses.fields(getattr(kd.metrics, name))}
    original = {field.name: field.default for field in dataclasses.fields(getattr(theirs, name))}
    assert fields == {key: None if value == kd.REQUIRED else value for key, value in original.items()}


def test_pictures_have_kauldrons_options() -> None:
    """Kauldron's module of pictures is read as text: it needs packages that are seldom installed."""
    spec = importlib.util.find_spec("kauldron")
    if spec is None:
        pytest.skip("Kauldron is not installed")
    text = (Path(spec.submodule_search_locations[0]) / "summaries" / "images.py").read_text("utf-8")
    for name in ("ShowImages", "ShowBoxes", "ShowSegmentations", "ShowDifferenceImages"):
        body = text.partition(f"class {name}(")[2].partition("@struct.dataclass")[0].rpartition('"""')[2]
        options = set(re.findall(r"^  (\w+): ", body, re.MULTILINE))
        absent = options - {field.name for field in dataclasses.fields(getattr(kd.summaries, name))}
        assert absent - {"image_contrast"} == {"rearrange", "rearrange_kwargs"}


def test_two_arguments_of_one_output_get_the_sum_of_their_gradients() -> None:
    a, b = np.ones((2, 3)), np.full((1, 3), 2.0)
    loss = kd.losses.NegativeCosineSimilarity(preds="p", targets="p")
    grad = loss.get_grad({"p": [a, b]})["p"]
    assert [x.shape for x in grad] == [(2, 3), (1, 3)]


def test_batches_without_boxes_and_images_without_pixels() -> None:
    images = kd.summaries.ShowBoxes()(images=np.zeros((2, 4, 4, 1)), boxes=np.zeros((2, 0, 4)))
    assert len(images) == 2
    assert kd.metrics.Ari()(predictions=np.zeros((2, 1, 0, 4, 1), int), labels=np.zeros((2, 1, 0, 4, 1), int)) == 1.0
    nothing = np.zeros((2, 0, 4, 3))
    for metric in (kd.metrics.Psnr(), kd.metrics.Ssim()):
        with pytest.raises(
            ValueError, match=r"expected pred of images with pixels, got a float64 array of shape \(2, 0"
        ):
            metric(pred=nothing, target=nothing)


def test_a_weight_of_ones_own_needs_no_step() -> None:
    class Half(kd.losses.L2):
        def get_weight(self, step: Any = None) -> float:
            return 0.5

    loss = Half(preds="p", targets="t")
    context = {"p": np.array([1.0, 3.0]), "t": np.array([1.0, 1.0])}
    assert loss(context=context) == 1.0
    np.testing.assert_array_equal(loss.get_grad(context)["p"], [0.0, 1.0])


def test_a_subclass_may_say_what_a_loss_weighs() -> None:
    class Rising(kd.losses.L2):
        def get_weight(self, step: Any = None) -> float:
            return 1.0 if step is None else float(step) / 10

    preds, targets = np.array([1.0, 3.0]), np.array([1.0, 1.0])
    loss = Rising(preds="p", targets="t")
    context = {"p": preds, "t": targets, "step": 5}
    assert loss(preds=preds, targets=targets) == 2.0
    assert loss(context=context) == loss.term.get_loss(context) == 1.0
    np.testing.assert_array_equal(loss.get_grad(context)["p"], [0.0, 1.0])
    state, grads = loss.get_state_and_grad(context)
    assert state.compute() == 1.0
    np.testing.assert_array_equal(grads["p"], [0.0, 2.0])
