"""Random batches for Kauldron's losses, and the tables of the page about it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from support.kauldron_reference import Case

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-kauldron.md"
REASON = "Kauldron is not installed, its formulas are compared with alone: see `kauldron` in .ci/run"
THERE = importlib.util.find_spec("kauldron") is not None
installed = pytest.mark.skipif(not THERE, reason=REASON)

TOLERANCE = {"float32": 3e-6, "float64": 1e-12}
"""Of the largest number, or of the values that a loss adds up."""


def as_is(x: Any) -> Any:
    return x


def last_of_one(x: Any) -> Any:
    """Kauldron's losses of rows keep an axis of length 1, which calculators do without."""
    return x[..., 0]


def close(ours: Any, theirs: Any, tolerance: float, scale: float | None = None) -> None:
    """Raise unless two arrays agree within a share of a scale: that of the largest number of theirs, if none is given."""
    theirs = np.asarray(theirs, np.float64)
    assert np.shape(ours) == theirs.shape
    scale = np.abs(theirs).max(initial=0.0) if scale is None else scale
    np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=tolerance * scale)


def sums_to_one(x: Any) -> Any:
    return x / x.sum(axis=-1, keepdims=True)


def draw(name: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float64") -> Case:
    """A random batch, masked, weighted and normalized in one of all ways."""
    n = shape[0]
    x, y = rng.normal(size=(2, *shape)).astype(dtype) * 2
    share = rng.random(shape).astype(dtype)
    rows = name in ("NegativeCosineSimilarity", "SoftmaxCrossEntropy", "SoftmaxCrossEntropyWithIntLabels")
    guesses, truths = {
        "NegativeCosineSimilarity": ({"preds": x, "targets": y}, {}),
        "SoftmaxCrossEntropy": ({"logits": x}, {"labels": sums_to_one(share)}),
        "SoftmaxCrossEntropyWithIntLabels": ({"logits": x}, {"labels": rng.integers(0, 3, (*shape[:-1], 1), np.int32)}),
        "SigmoidBinaryCrossEntropy": ({"logits": x}, {"labels": np.clip(1.6 * share - 0.3, 0, 1).astype(dtype)}),
        "Value": ({"values": x}, {}),
        "AbsoluteValue": ({"values": x}, {}),
    }.get(name, ({"preds": x}, {"targets": y}))
    options = {
        "Huber": {"delta": float(rng.choice([0.5, 1.0, 2.5]))},
        "NegativeCosineSimilarity": {"eps": float(rng.choice([1e-8, 0.5]))},
    }
    full = (*shape[:-1], 1) if rows else shape
    masks = [full, (n, *(1 for _ in full[1:])), (1, *full[1:])]
    mask_shape = masks[rng.integers(len(masks))]
    mask = [
        None,
        rng.random(mask_shape) < 0.6,
        (rng.integers(0, 9, mask_shape) / 8).astype(dtype),
        np.zeros(mask_shape, dtype),
    ][rng.integers(4)]
    weight = [1.0, 0.25, 0.0, lossreg.schedules.LinearSchedule(start=0.5, end=2.0, steps=8), lambda step: 0.5**step][
        rng.integers(5)
    ]
    return Case(
        name, guesses, truths, options.get(name, {}), mask, weight, str(rng.choice(["mask", "values"])), int(rng.integers(10))
    )  # fmt: skip


def table(header: str) -> list[list[str]]:
    """Cells of the rows of the page's table with a header."""
    match = re.search(rf"^\| {re.escape(header)} \|.*\n\|[-| ]*\n((?:^\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert match, header
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in match[1].splitlines()]


def data(rows_of: Callable[[Any], Any]) -> dict[str, Any]:
    """What the lines of the page are about: `rows_of` arranges what has one number a row."""
    rng = np.random.default_rng(3)
    logits, image, truth = (rng.normal(size=(4, 3)).astype("float32") for _ in range(3))
    label, mask = np.array([[0], [2], [1], [2]]), np.array([[1.0], [0.0], [0.5], [1.0]], "float32")
    leaf, steps = {"w": image, "bias": image[0]}, {"step": 3}
    ctx = {
        "preds": {"logits": logits, "image": image, "penalty": logits[:, 0]},
        "batch": {"label": rows_of(label), "image": truth, "mask": mask, "bits": (truth > 0).astype(int), **steps},
        "params": {"encoder": leaf, "decoder": [leaf, {"bias": truth}]},
        **steps,
    }
    ctx2 = {**ctx, "preds": {"logits": -logits}}
    found = {"ctx": ctx, "ctx2": ctx2, "logits": logits, "labels": rows_of(label), "image": image, "truth": truth}
    return {**found, "mask": mask, "one_hot": np.eye(3, dtype="float32")[label[:, 0]]}
