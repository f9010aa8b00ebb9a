"""Metrics of metrics: each leaf of a tree, wildcards in paths, metrics that are skipped."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossreg import Config, ConfigError, metrics, registry
from lossreg.arrays.trees import get_path, tree_map
from lossreg.metrics.globs import get_glob

CONFIGS = Path(__file__).parents[2] / "configs"


TREE = {"a": np.array([3.0, 4.0]), "b": [np.array([[0.0, 2.0]]), (np.array([1.0, 0.0]),)]}


def test_a_metric_of_each_leaf() -> None:
    metric = metrics.TreeMap(metrics.Norm(tensor="grads"))
    assert metric(tensor=TREE) == {"a": 5.0, "b": [2.0, (1.0,)]}
    assert metric(context={"grads": TREE, "more": 1}) == {"a": 5.0, "b": [2.0, (1.0,)]}
    state = metric.get_state(tensor=TREE)
    double = metric.get_state(tensor=tree_map(lambda x: 3 * x, TREE))
    assert (state + metric.empty() + double).compute() == {"a": 10.0, "b": [4.0, (2.0,)]}
    assert metric.empty().compute() == {}
    assert pickle.loads(pickle.dumps(state)).compute() == state.compute()
    masks = {"a": np.array([0.0]), "b": [np.array([1.0]), (np.array([1.0]),)]}
    rows = tree_map(lambda x: x.reshape(1, -1), TREE)
    assert metric(tensor=rows, mask=masks) == {"a": 0.0, "b": [2.0, (1.0,)]}
    assert metric(tensor=rows, mask=None) == {"a": 5.0, "b": [2.0, (1.0,)]}
    with pytest.raises(ValueError, match=r"^Cannot combine trees: expected another like a dict with 'a', 'b', got"):
        metric(tensor=rows, mask={"a": 1})


def test_one_result_of_all_leaves() -> None:
    metric = metrics.TreeReduce(metrics.Norm(tensor="grads"))
    assert metric(tensor=TREE) == pytest.approx(8 / 3)
    assert metric(context={"grads": TREE}) == pytest.approx(8 / 3)
    state = metric.get_state(tensor=TREE)
    assert type(state) is metrics.Norm.State
    assert state.parent is metric.empty().parent is metric.metric
    assert (state + metric.empty()).compute() == state.compute()
    assert metric(tensor={}) == 0.0


CONTEXT = {
    "params": {
        "bias": 1.0,
        "enc": {"layers": [{"bias": 2.0, "w": 3.0}, {"bias": {"bias": 4.0, "more": 5.0}, "w": 6.0}], "a b": {"w": 7.0}},
        "head": ({"bias": 8.0},),
        3: {"w": 9.0},
    },
    "step": 0.0,
}


@pytest.mark.parametrize(
    "path, expected",
    [
        (
            "params.**.bias",
            {"bias": 1.0, "enc": {"layers": [{"bias": 2.0}, {"bias": {"bias": 4.0, "more": 5.0}}]},
             "head": ({"bias": 8.0},)},
        ),
        ("params.**.bias.bias", {"enc": {"layers": [{"bias": {"bias": 4.0}}]}}),
        ("params.*.w", {3: {"w": 9.0}}),
        ("params.*", CONTEXT["params"]),
        ("params.**", CONTEXT["params"]),
        ("params.enc.layers[1].*", {"bias": {"bias": 4.0, "more": 5.0}, "w": 6.0}),
        ("params.enc.layers.*.w", [{"w": 3.0}, {"w": 6.0}]),
        ("params.enc.**['a b'].w", {"a b": {"w": 7.0}}),
        ("**.layers[0].bias", {"params": {"enc": {"layers": [{"bias": 2.0}]}}}),
        ("**[0].*", {"params": {"enc": {"layers": [{"bias": 2.0, "w": 3.0}]}, "head": ({"bias": 8.0},)}}),
        ("*.bias", {"params": {"bias": 1.0}}),
        ("params.*.*.*.bias.**.more", {"enc": {"layers": [{"bias": {"more": 5.0}}]}}),
        ("step", 0.0),
    ],
)  # fmt: skip
def test_paths_with_wildcards(path: str, expected: Any) -> None:
    metric = metrics.TreeMap(metrics.SingleDimension(tensor=path, index=None))
    assert metric(context=CONTEXT) == expected
    assert metrics.TreeReduce(metric.metric)(context=CONTEXT) == pytest.approx(np.mean(list(numbers(expected))))


def numbers(tree: Any) -> Iterator[float]:
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ():
        yield from numbers(item)
    if isinstance(tree, float):
        yield tree


@pytest.mark.parametrize("path", ["**." * 60 + "x", "**.*." * 30 + "x", "**.a." * 30 + "x", "**" + ".**" * 60 + ".a"])
def test_many_wildcards_come_to_an_end(path: str) -> None:
    """Tried one way after the other, they would take longer than the universe."""
    tree: Any = 1.0
    for _ in range(40):
        tree = {"a": tree}
    try:
        get_glob(tree, path)
    except KeyError:
        assert not path.endswith(".a")


def test_wildcards_lead_where_every_way_of_taking_them_leads() -> None:
    def leads(steps: tuple[str, ...], keys: tuple[str, ...]) -> bool:
        """One way after the other."""
        if not steps:
            return True
        if steps[0] == "**":
            return any(leads(steps[1:], keys[i:]) for i in range(len(keys) + 1))
        return bool(keys) and steps[0] in ("*", keys[0]) and leads(steps[1:], keys[1:])

    for length in range(1, 5):
        for steps in itertools.product(("a", "b", "*", "**"), repeat=length):
            for keys in itertools.product("ab", repeat=3):
                tree = {keys[0]: {keys[1]: {keys[2]: 1}}}
                if not {"*", "**"} & set(steps):
                    continue
                try:
                    found = get_glob({"root": tree}, ".".join(("root", "*", *steps))) is not None
                except KeyError:
                    found = False
                assert found == leads(("*", *steps), keys), (steps, keys)


@pytest.mark.parametrize(
    "path", ["params.**.nothing", "params.*.bias.*", "params.***", "a.**b", "**.", "nowhere.**", "*."]
)
def test_wildcards_that_lead_nowhere_or_cannot_be_read(path: str) -> None:
    if path.startswith("nowhere"):
        sentence = "Cannot find 'nowhere': expected 'nowhere', got that the context is a dict with 'params', 'step'."
    else:
        sentence = f"Cannot find '{path}': expected at least one place that it leads to, got none."
    try:
        metric = metrics.TreeMap(metrics.SingleDimension(tensor=path, index=None))
    except ConfigError as error:
        assert "tensor: expected a path such as" in str(error)
        assert path in ("params.***", "a.**b", "**.", "*.")
        return
    with pytest.raises(KeyError) as caught:
        metric(context=CONTEXT)
    assert str(caught.value) == sentence
    assert metrics.SkipIfMissing(metric)(context=CONTEXT) == {}


def test_wildcards_are_for_trees() -> None:
    with pytest.raises(ConfigError, match="expected a path such as"):
        metrics.SkipIfMissing(metrics.Norm(tensor="params.*"))(context=CONTEXT)


def test_a_metric_is_skipped_where_a_path_leads_nowhere() -> None:
    metric = metrics.SkipIfMissing(metrics.SingleDimension(tensor="batch.d", index=None))
    there, away = (metric.get_state_from_context({"batch": batch}) for batch in ({"d": np.arange(5)}, {}))
    assert there.compute() == 2.0
    assert away.compute() == (away + away).compute() == metric.empty().compute() == {}
    for state in (there + away, away + there, there + there, there + metric.empty()):
        assert state.compute() == state.finalize().compute() == 2.0
        assert state.parent is metric
    assert metric(tensor=[1, 3]) == metric(context={"batch": {"d": [1, 3]}}) == 2.0
    assert metric(context={}) == {}
    assert pickle.loads(pickle.dumps(there)).compute() == 2.0
    trees = metrics.SkipIfMissing(metrics.TreeReduce(metrics.SingleDimension(tensor="a.**.b", index=None)))
    assert trees(context={"a": {"b": 1.0, "c": {"b": 3.0}}}) == 2.0
    assert trees(context={"a": {"c": {}}}) == {}


def test_a_metric_is_skipped_for_no_other_reason() -> None:
    class Broken(metrics.Metric):
        def get_state(self, x: Any) -> Any:
            return {}["a KeyError of the metric itself"]

    with pytest.raises(KeyError, match="of the metric itself"):
        metrics.SkipIfMissing(Broken(x="x"))(context={"x": 1})
    with pytest.raises(ConfigError, match="x: this option is needed"):
        metrics.SkipIfMissing(Broken())(context={"x": 1})


def test_nothing() -> None:
    metric = metrics.Noop()
    assert metric() == metric(x=3) == metric(context={"a": 1}) == {}
    assert (metric.get_state(y=1) + metric.empty()).compute() == {}
    assert (metric.get_state() + metric.get_state()).parent == metric


def test_metrics_of_metrics_lead_back_from_configs() -> None:
    inner = metrics.Norm(tensor="grads.**.bias", ord=math.inf)
    for metric in (
        metrics.TreeMap(inner), metrics.TreeReduce(metric=inner), metrics.SkipIfMissing(metrics.TreeMap(inner)),
        metrics.Noop(),
    ):  # fmt: skip
        text = Config({"metric": metric.to_config()}).to_str()
        assert registry.resolve(Config().from_str(text))["metric"] == metric


def test_the_config_of_metrics_runs(rng: Any) -> None:
    """Every file in configs/ that describes metrics reads one context."""
    paths = [path for path in CONFIGS.glob("*.cfg") if "metrics" in Config().from_disk(path)]
    assert [path.name for path in paths] == ["metrics.cfg"]
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'lossreg[metrics]'")
    config = Config().from_disk(paths[0])
    assert Config().from_str(config.to_str()) == config
    found = registry.resolve(config)["metrics"]

    def context(n: int, **more: Any) -> Any:
        return {
            "preds": {"logits": rng.normal(size=(n, 3))},
            "batch": {
                "label": rng.integers(0, 3, n), "names": ["cat", "dog", "", "bird"] * (n // 4), "mask": rng.random(n) < 0.8,
                "image": rng.random((n, 8, 8, 1)),
            },
            "grads": {"layer": {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}, "head": [rng.normal(size=3)]},
            **more,
        }  # fmt: skip

    contexts = [context(8), context(12, aux={"values": rng.normal(size=4)})]
    states = [{name: metric.get_state_from_context(c) for name, metric in found.items()} for c in contexts]
    results = {name: (states[0][name] + states[1][name]).compute() for name in found}
    logits, labels, mask = (np.concatenate([get_path(c, f"{p}") for c in contexts]) for p in (
        "preds.logits", "batch.label", "batch.mask"
    ))  # fmt: skip
    assert results["accuracy"] == pytest.approx((logits.argmax(1) == labels)[mask].mean())
    norms = [np.linalg.norm([np.linalg.norm(x) for x in (*c["grads"]["layer"].values(), *c["grads"]["head"])])
             for c in contexts]  # fmt: skip
    assert results["grad_norm"] == pytest.approx(np.linalg.norm(norms))
    assert results["biases"] == {"layer": {"b": pytest.approx(
        np.mean([np.linalg.norm(c["grads"]["layer"]["b"]) for c in contexts]))}}  # fmt: skip
    assert results["aux"] == pytest.approx(contexts[1]["aux"]["values"].std())
    assert 0.0 <= results["named"] <= 1.0
    assert 0.0 < results["roc_auc"] < 1.0
    assert results["loss"] > 0.0
    assert results["images"].array.shape == (4, 8, 8, 1)
    assert results["weights"].counts.sum() == 12
    assert [row["name"] for row in results["rows"]] == ["cat", "dog", ""]
