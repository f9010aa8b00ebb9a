"""The pages from which people come: what they type there works here, in the order of each page.

This file has Thinc's page of loss calculators, and says where the samples of the other four are.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossreg import (
    CategoricalCrossentropy,
    Config,
    CosineDistance,
    L2Distance,
    Loss,
    SequenceCategoricalCrossentropy,
    register,
    registry,
)

OTHER_PAGES = {
    "the k api": ("test_k_api", "coming-from-k.md"),
    "Kauldron's losses and metrics": ("test_kauldron_pages", "coming-from-kauldron.md"),
    "MindFormers' cross-entropy": ("test_mindformers", "coming-from-mindformers.md"),
}

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype="f")
V = np.array([[1.0, 2.0], [3.0, 4.0]], dtype="f")
W = np.array([[1.0, 0.0], [0.0, 4.0]], dtype="f")


@pytest.mark.parametrize("page", OTHER_PAGES)
def test_the_other_pages_have_their_tests_and_docs(page: str) -> None:
    module, docs = OTHER_PAGES[page]
    names = [name for name in dir(importlib.import_module(module)) if name.startswith("test_")]
    assert len(names) > 10
    text = (Path(__file__).parents[2] / "docs" / docs).read_text(encoding="utf-8")
    assert text.count("\n|") > 10


# The base class


class Mine(Loss):
    """As the page describes the base class: settings by keyword, get_grad, get_loss, and both by a call."""

    def __init__(self, **kwargs: Any) -> None:
        self.scale = kwargs.get("scale", 1.0)

    def get_grad(self, guesses: Any, truths: Any) -> Any:
        return self.scale * (guesses - truths)

    def get_loss(self, guesses: Any, truths: Any) -> Any:
        return float(self.get_grad(guesses, truths).sum())


def test_a_class_of_ones_own() -> None:
    for loss in (Mine(), Mine(scale=2.0)):
        d_guesses, value = loss(V, W)
        np.testing.assert_array_equal(d_guesses, loss.get_grad(V, W))
        assert value == loss.get_loss(V, W)


def test_settings_of_ones_own_come_from_the_config_too() -> None:
    register("Tests.Mine.v1")(Mine)
    text = '[loss]\n@losses = "Tests.Mine.v1"\nscale = 3.0'
    assert registry.resolve(Config().from_str(text))["loss"].scale == 3.0


# The calculators, as they are made in Python and in a config


@pytest.mark.parametrize(
    "cls, options, guesses, truths",
    [
        (CategoricalCrossentropy, {}, P, [0, 2]),
        (CategoricalCrossentropy, {}, P, np.array([0, 2], dtype="i")),
        (CategoricalCrossentropy, dict(names=["a", "b", "c"]), P, ["a", "c"]),
        (CategoricalCrossentropy, {}, P, P[::-1].copy()),
        (CategoricalCrossentropy, dict(normalize=False, names=["a", "b", "c"], neg_prefix="!"), P, ["!a", "c"]),
        (CategoricalCrossentropy, dict(missing_value=0), P, [0, 2]),
        (CategoricalCrossentropy, dict(names=["a", "b", "c"], missing_value=""), P, ["", "c"]),
        (CategoricalCrossentropy, dict(label_smoothing=0.1), P, [0, 2]),
        (SequenceCategoricalCrossentropy, {}, [P, P[:1]], [[0, 2], [1]]),
        (SequenceCategoricalCrossentropy, dict(names=["a", "b", "c"], normalize=False), [P], [["a", "c"]]),
        (L2Distance, {}, V, W),
        (L2Distance, dict(normalize=False), V, W),
        (CosineDistance, dict(ignore_zeros=False), V, W),
        (CosineDistance, dict(normalize=False, ignore_zeros=True), V, W),
    ],
)
def test_calculators_of_the_page(cls: Any, options: dict[str, Any], guesses: Any, truths: Any) -> None:
    loss = cls(**options)
    config = Config({"loss": {"@losses": f"{cls.__name__}.v1", **options}}).to_str()
    resolved = registry.resolve(Config().from_str(config))["loss"]
    assert resolved == loss
    grad, value = loss(guesses, truths)
    again = loss.get_grad(guesses, truths)
    assert np.isfinite(value) and value == pytest.approx(resolved.get_loss(guesses, truths))
    for x, y in zip(grad, again):
        np.testing.assert_array_equal(x, y)


def test_the_same_numbers_as_thinc() -> None:
    thinc = pytest.importorskip("thinc.api")
    for ours, theirs, guesses, truths in (
        (CategoricalCrossentropy(), thinc.CategoricalCrossentropy(), P, [0, 2]),
        (L2Distance(), thinc.L2Distance(), V, W),
        (CosineDistance(ignore_zeros=False), thinc.CosineDistance(ignore_zeros=False), V, W),
    ):
        grad, value = theirs(guesses, np.array(truths) if isinstance(truths, list) else truths)
        np.testing.assert_allclose(ours.get_grad(guesses, truths), grad, rtol=1e-6, atol=1e-7)
        assert ours.get_loss(guesses, truths) == pytest.approx(float(value), rel=1e-6)


# Usage by a config


def test_usage_by_a_config_file(tmp_path: Path) -> None:
    path = tmp_path / "config.cfg"
    path.write_text('[loss]\n@losses = "L2Distance.v1"\nnormalize = true\n', encoding="utf-8")
    config = Config().from_disk(path)
    resolved = registry.resolve(config)
    loss_calc = resolved["loss"]
    grad = loss_calc.get_grad(V, W)
    np.testing.assert_allclose(grad, (V - W) / len(V))
