"""Side by side with Thinc: its own tests, random cases, its layers, its registry and training loops, and spaCy."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg

thinc_api = pytest.importorskip("thinc.api", reason="thinc is not installed: pip install 'thinc>=8.3.14,<9'")


def thinc_tests() -> list[Any]:
    """The test functions of thinc/tests/test_loss.py with its imports pointed at lossreg."""
    import thinc.tests.test_loss as original

    source = Path(original.__file__).read_text(encoding="utf8")
    pointed = source.replace("from thinc import registry", "from lossreg import registry")
    pointed = pointed.replace("from thinc.api import (", "from lossreg import (")
    assert "thinc" not in pointed.replace("softmax", "").split("\n\n# some simple arrays")[0], "all imports are pointed"
    spec = importlib.util.spec_from_loader("thinc_tests_on_lossreg", loader=None)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    exec(compile(pointed, original.__file__, "exec"), module.__dict__)
    cases = []
    for name, function in vars(module).items():
        if not name.startswith("test_"):
            continue
        marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        for i, arguments in enumerate(combinations(marks)):
            cases.append(pytest.param(function, arguments, id=f"{name}-{i}"))
    return cases


def combinations(marks: list[Any]) -> list[dict[str, Any]]:
    """The keyword arguments that stacked parametrize marks stand for."""
    found: list[dict[str, Any]] = [{}]
    for mark in marks:
        names = [name.strip() for name in mark.args[0].split(",")]
        found = [
            {**known, **dict(zip(names, values if len(names) > 1 else [values], strict=True))}
            for known in found
            for values in mark.args[1]
        ]
    return found


@pytest.mark.parametrize("function, arguments", thinc_tests())
def test_thincs_own_tests_pass(function: Callable[..., None], arguments: dict[str, Any]) -> None:
    assert function(**arguments) is None


def test_all_of_thincs_tests_were_found() -> None:
    cases = thinc_tests()
    assert len({case.values[0].__name__ for case in cases}) == 13
    assert len(cases) == 32


# 1,000 random cases

NAMES = ["A", "B", "C", "D"]


def random_case(seed: int) -> tuple[str, dict[str, Any], Any, Any]:
    """A calculator's name, options, guesses and truths that Thinc handles."""
    rng = np.random.default_rng(seed)
    kind = ["categorical", "sequence", "l2", "cosine"][rng.choice(4, p=[0.45, 0.35, 0.1, 0.1])]
    dtype = [np.float32, np.float64][rng.integers(2)]
    options: dict[str, Any] = {"normalize": bool(rng.integers(2))}
    if kind in ("l2", "cosine"):
        shape = (int(rng.integers(1, 9)), int(rng.integers(1, 6)))
        guesses, truths = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
        if kind == "cosine":
            options["ignore_zeros"] = bool(rng.integers(2))
            truths[rng.random(shape[0]) < 0.2] = 0
        return ("L2Distance.v1" if kind == "l2" else "CosineDistance.v1"), options, guesses, truths
    version = int(rng.integers(1, 4))
    form = ["ids", "list of ids", "names", "rows"][rng.integers(4)]
    if form == "names":
        options["names"] = NAMES
        if version >= 2 and rng.integers(2):
            options["neg_prefix"] = "!"
    if rng.integers(2) and (kind == "categorical" or version == 3):
        options["missing_value"] = "" if form == "names" else int(rng.integers(4))
    if version == 3 and form != "rows" and "neg_prefix" not in options and rng.integers(2):
        options["label_smoothing"] = float(rng.choice([0.05, 0.2, 0.5]))

    def one(n: int) -> tuple[Any, Any]:
        guesses = rng.random((n, 4)).astype(dtype)
        ids = rng.integers(0, 4, n)
        if form == "ids":
            return guesses, ids.astype(rng.choice(["i4", "i8", "u1"]))
        if form == "list of ids":
            return guesses, ids.tolist()
        if form == "rows":
            return guesses, (rng.random((n, 4)) if rng.integers(2) else np.eye(4)[ids]).astype(dtype)
        labels = [NAMES[i] for i in ids]
        for i in range(n):
            if "missing_value" in options and rng.random() < 0.2:
                labels[i] = ""
            elif "neg_prefix" in options and rng.random() < 0.3:
                labels[i] = "!" + labels[i]
        return guesses, labels

    if kind == "categorical":
        return f"CategoricalCrossentropy.v{version}", options, *one(int(rng.integers(1, 9)))
    parts = [one(int(rng.integers(1, 7))) for _ in range(int(rng.integers(1, 5)))]
    return f"SequenceCategoricalCrossentropy.v{version}", options, [g for g, _ in parts], [t for _, t in parts]


@pytest.mark.parametrize("block", range(10))
def test_same_numbers_as_thinc_on_random_cases(block: int) -> None:
    for seed in range(100 * block, 100 * (block + 1)):
        name, options, guesses, truths = random_case(seed)
        theirs = thinc_api.registry.losses.get(name)(**options)
        ours = lossreg.registry.losses.get(name)(**options)
        expected, expected_loss = theirs(guesses, truths)
        grad, loss = ours(guesses, truths)
        eps = 0.0
        if name.startswith("Cosine"):  # 1 - cos, and two terms of size 1 / |guess|, may cancel to Thinc's own rounding
            eps = 4 * float(np.finfo(guesses.dtype).eps)
        assert loss == pytest.approx(float(expected_loss), rel=1e-6, abs=max(1e-12, eps * len(guesses)))
        assert ours.get_loss(guesses, truths) == loss
        pairs = zip(grad, expected, strict=True) if isinstance(grad, list) else [(grad, expected)]
        for got, want in pairs:
            assert got.dtype == want.dtype, (seed, name, options)
            atol = 1e-6 * np.abs(want).max(initial=1e-30)
            if eps:
                atol = max(atol, eps / np.linalg.norm(guesses, axis=1).min())
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=atol, err_msg=str((seed, name, options)))
        if name.startswith("Cosine"):
            similarity = theirs.get_similarity(guesses, truths)
            np.testing.assert_allclose(ours.get_similarity(guesses, truths), similarity, rtol=1e-6, atol=eps)


# The gradient that reaches the logits, through Thinc's own layers

HEADS: list[tuple[str, Callable[[], Any], str]] = [
    ("Softmax", lambda: thinc_api.Softmax(4, 4), "logits"),
    ("softmax_activation", thinc_api.softmax_activation, "probs"),
    ("Logistic", thinc_api.Logistic, "probs"),
]
FORMULAS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "Softmax": (lambda z: softmax(z), lambda p, d: d),
    "softmax_activation": (lambda z: softmax(z), lambda p, d: p * d - p * (p * d).sum(axis=1, keepdims=True)),
    "Logistic": (lambda z: 1 / (1 + np.exp(-z)), lambda p, d: d * p * (1 - p)),
}
TRUTHS: list[tuple[dict[str, Any], Any]] = [
    ({}, [0, 3, 1]),
    (dict(names=["a", "b", "c", "d"], neg_prefix="!", missing_value=""), ["a", "!c", ""]),
    (dict(label_smoothing=0.2, class_weight=(1.0, 2.0, 0.5, 1.5)), [2, {0, 3}, None]),
    ({}, np.array([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0], [0.25] * 4])),
]


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("head, make, wrt", HEADS, ids=[head for head, _, _ in HEADS])
@pytest.mark.parametrize("options, truths", TRUTHS, ids=["ids", "names", "smoothed", "rows"])
def test_gradient_at_the_logits_is_the_slope_of_the_loss(
    head: str, make: Any, wrt: str, options: Any, truths: Any, rng: Any
) -> None:
    """In float64 with the head's formula; and the formula is what Thinc's layer does, in its float32."""
    forward, backward = FORMULAS[head]
    loss = lossreg.CategoricalCrossentropy_v4(wrt=wrt, **options)
    logits = rng.normal(size=(3, 4))
    probs = forward(logits)
    at_logits = backward(probs, loss.get_grad(probs, truths))
    step = 1e-5
    for index in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        slope = (loss.get_loss(forward(up), truths) - loss.get_loss(forward(down), truths)) / (2 * step)
        assert at_logits[index] == pytest.approx(slope, rel=1e-6, abs=1e-9)

    layer = make()
    inputs = logits.astype("f")
    layer.initialize(X=inputs)
    if head == "Softmax":  # its logits are X @ W.T + b
        layer.set_param("W", np.eye(4, dtype="f"))
    outputs, backprop = layer.begin_update(inputs)
    np.testing.assert_allclose(outputs, forward(inputs), rtol=1e-6)
    at_inputs = backprop(loss.get_grad(outputs, truths))
    np.testing.assert_allclose(at_inputs, at_logits, rtol=2e-5, atol=1e-6)


def test_thincs_gradient_under_its_other_heads_is_no_slope_of_cross_entropy(rng: Any) -> None:
    """Why version 4 exists: p - t through softmax_activation is the slope of squared error, not of cross-entropy."""
    z, y = rng.normal(size=(3, 4)), np.array([0, 3, 1])
    p, t = softmax(z), np.eye(4)[y]
    backward = FORMULAS["softmax_activation"][1]
    v3 = backward(p, lossreg.CategoricalCrossentropy(normalize=False).get_grad(p, y))
    true = backward(p, lossreg.CategoricalCrossentropy_v4(wrt="probs", reduction="sum").get_grad(p, y))
    np.testing.assert_allclose(true, p - t, atol=1e-12)
    assert np.abs(v3 - true).max() > 0.1
    squared = backward(p, p - t)
    np.testing.assert_allclose(v3, squared, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wrt", ["logits", "probs"])
@pytest.mark.parametrize("weight", [1.0, 1e4])
def test_a_softmax_that_underflowed_gives_no_infinity(dtype: Any, wrt: str, weight: float) -> None:
    loss = lossreg.CategoricalCrossentropy_v4(
        wrt=wrt, reduction="sum", class_weight=[weight, 1, 1], names=["a", "b", "c"], neg_prefix="!"
    )
    probs = np.array([[0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], dtype=dtype)
    truths = ["a", {"b", "c"}, "!c"]
    grad, value = loss(probs, truths)
    least = float(np.finfo(dtype).tiny)
    mean = (weight + 1) / 2
    assert value == pytest.approx(-(weight + mean) * np.log(least), rel=1e-6)
    assert np.isfinite(grad).all()
    if wrt == "logits":
        expected = [[-weight, 0, weight], [0, 0, 0], [-mean / 2, -mean / 2, mean]]
        np.testing.assert_allclose(grad, np.array(expected), rtol=1e-3)
    else:
        assert not FORMULAS["softmax_activation"][1](probs, grad)[0].any()


# Registries and training loops


def test_names_in_thincs_registry_leave_thincs_own_alone() -> None:
    thincs = thinc_api.registry.losses.get("CategoricalCrossentropy.v1")
    assert thincs.__module__.startswith("thinc.")
    try:
        from importlib.metadata import distribution

        points = [p for p in distribution("lossreg").entry_points if p.group == "thinc_losses"]
    except ImportError:
        pytest.skip("lossreg is not installed (only on the path), so it has no entry points")
    assert {p.name for p in points} == {f"lossreg.{name}" for name in built_in_names()}
    for point in points:
        assert point.load() is lossreg.registry.losses.get(point.name.removeprefix("lossreg."))
        config = {"loss": {"@losses": point.name, **NEEDED.get(point.name.removeprefix("lossreg."), {})}}
        assert type(thinc_api.registry.resolve(config)["loss"]) is point.load()
    config = {"loss": {"@losses": "lossreg.CategoricalCrossentropy.v4", "names": NAMES, "neg_prefix": "!"}}
    loss = thinc_api.registry.resolve(config)["loss"]
    assert loss == lossreg.CategoricalCrossentropy_v4(names=NAMES, neg_prefix="!")


ONE = {"@losses": "lossreg.CrossEntropy.v1"}
TERM = {"guesses": "x", "truths": "y", "loss": ONE}
NEEDED = {
    "Sequence.v1": {"inner": ONE},
    "Term.v1": TERM,
    "WeightedSum.v1": {"*": {"a": {"@losses": "lossreg.Term.v1", **TERM}}},
}
"""Options that have no default."""


def built_in_names() -> list[str]:
    registry = lossreg.registry.losses
    names = [name for name in registry.names() if registry.get(name).__module__.startswith("lossreg.")]
    return [name for name in names if not name.startswith("MindFormers")]  # its call returns no gradient


@pytest.mark.parametrize("wrt, head", [("logits", "Softmax"), ("probs", "softmax_activation")])
def test_thinc_model_learns_from_messy_names(wrt: str, head: str, rng: Any) -> None:
    """Thinc's own loop: begin_update, our gradient, backprop, finish_update."""
    centers = rng.normal(size=(4, 8)) * 3
    ids = rng.integers(0, 4, 400)
    x = (centers[ids] + rng.normal(size=(400, 8))).astype("f")
    labels = [NAMES[i] for i in ids]
    for i in range(0, 400, 5):
        labels[i] = "" if i % 2 else "!" + NAMES[(ids[i] + 1) % 4]
    thinc_api.fix_random_seed(0)
    output = (
        thinc_api.Softmax(4)
        if head == "Softmax"
        else thinc_api.chain(thinc_api.Linear(4), thinc_api.softmax_activation())
    )
    model = thinc_api.chain(thinc_api.Relu(nO=16), output)
    model.initialize(X=x[:5], Y=np.zeros((5, 4), "f"))
    optimizer = thinc_api.Adam(0.01)
    loss = lossreg.CategoricalCrossentropy_v4(names=NAMES, neg_prefix="!", missing_value="", wrt=wrt)
    losses = []
    for _ in range(15):
        epoch = loss.empty()
        for start in range(0, 400, 50):
            index = range(start, start + 50)
            truths = [labels[i] for i in index]
            probs, backprop = model.begin_update(x[index])
            grad, _ = loss(probs, truths)
            epoch = epoch.merge(loss.get_state(probs, truths))
            backprop(grad)
            model.finish_update(optimizer)
        losses.append(epoch.compute())
    assert losses[-1] < 0.2 * losses[0]
    assert (model.predict(x).argmax(axis=1) == ids).mean() > 0.95


def test_spacy_pipe_trains_with_a_loss_from_its_config(tmp_path: Any) -> None:
    """A text classifier of spaCy that gets its loss, through Thinc's registry, from the pipeline's config."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'spacy>=3.8.18'")
    try:
        thinc_api.registry.losses.get("lossreg.CategoricalCrossentropy.v4")
    except Exception:
        pytest.skip("lossreg is not installed (only on the path), so Thinc does not see its entry points")
    from spacy.pipeline.textcat import TextCategorizer
    from spacy.training import Example

    class Classifier(TextCategorizer):
        def __init__(self, vocab: Any, model: Any, name: str, *, loss: Any, **settings: Any) -> None:
            super().__init__(vocab, model, name, **settings)
            self.calculator = loss

        def get_loss(self, examples: Any, scores: Any) -> tuple[float, Any]:
            truths = [
                next((label for label, value in example.reference.cats.items() if value), None) for example in examples
            ]
            ids = [None if label is None else self.labels.index(label) for label in truths]
            grad, loss = self.calculator(scores, ids)
            return loss, grad

    @spacy.language.Language.factory("lossreg_classifier", default_config={"threshold": 0.0})
    def make(nlp: Any, name: str, model: Any, loss: Any, threshold: float) -> Any:
        return Classifier(nlp.vocab, model, name, loss=loss, threshold=threshold, scorer=None)

    nlp = spacy.blank("en")
    config = {
        "model": {"@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": True, "ngram_size": 1,
                  "no_output_layer": False, "length": 4096},
        "loss": {"@losses": "lossreg.CategoricalCrossentropy.v4", "label_smoothing": 0.02},
    }  # fmt: skip
    pipe = nlp.add_pipe("lossreg_classifier", config=config)
    for label in ("HAPPY", "SAD"):
        pipe.add_label(label)
    texts = [("what a lovely day", "HAPPY"), ("this is wonderful", "HAPPY"), ("such a bad film", "SAD"),
             ("awful and sad", "SAD"), ("no label here", None)]  # fmt: skip
    examples = [
        Example.from_dict(nlp.make_doc(text), {"cats": {name: float(name == label) for name in ("HAPPY", "SAD")}})
        for text, label in texts
    ]
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    history = []
    for _ in range(100):
        losses: dict[str, float] = {}
        nlp.update(examples, sgd=optimizer, losses=losses)
        history.append(losses["lossreg_classifier"])
    assert history[-1] < 0.5 * history[0]
    for text, label in texts[:4]:
        cats = nlp(text).cats
        assert max(cats, key=cats.get) == label
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert again("this is wonderful").cats == nlp("this is wonderful").cats
