"""Samples of Kauldron's pages on losses and metrics, as they run with Kauldron 1.4.2; imported where it is installed.

Differences from the pages: states have the decorator that Kauldron asks for by now, and what they leave out (`...`) is
filled in.
"""

# ruff: noqa: F722  (shapes in annotations). No `annotations` from __future__: Kauldron reads them as they are.

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from kauldron import kontext, losses, metrics
from kauldron.ktyping import Float, typechecked

import lossreg.kauldron


@dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
class Accuracy(metrics.Metric):
    """Classification Accuracy."""

    logits: kontext.Key = kontext.REQUIRED  # e.g. "preds.logits"
    labels: kontext.Key = kontext.REQUIRED  # e.g. "batch.label"

    @flax.struct.dataclass
    class State(metrics.AverageState):
        pass

    def get_state(self, logits: Float["*b n"], labels: Any) -> Any:
        correct = logits.argmax(axis=-1) == labels
        return self.State.from_values(values=correct)


@dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
class L2(losses.Loss):
    """L2 loss."""

    preds: kontext.Key = kontext.REQUIRED
    targets: kontext.Key = kontext.REQUIRED

    @typechecked
    def get_values(self, preds: Float["*b"], targets: Float["*b"]) -> Float["*b"]:
        return jnp.square(preds - targets)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ShowImages(metrics.Metric):
    """The first images."""

    num_images: int = 5

    @flax.struct.dataclass
    class State(metrics.AutoState):
        """Collects the first num_images images and boxes."""

        images: Float["n h w c"] = metrics.truncate_field(num_field="parent.num_images")
        boxes: Float["n k 4"] = metrics.truncate_field(num_field="parent.num_images")

    def get_state(self, images: Any, boxes: Any) -> Any:
        return self.State(images=images, boxes=boxes)


@dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
class Broken(metrics.Metric):
    """No sample: a metric with a bug."""

    x: kontext.Key = kontext.REQUIRED

    @flax.struct.dataclass
    class State(metrics.AverageState):
        pass

    def get_state(self, x: Any) -> Any:
        return {}["a bug"]


@dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
class OnLossreg(lossreg.kauldron.Loss):
    """No sample: the L2 loss with another base, and all else from Kauldron."""

    preds: kontext.Key = kontext.REQUIRED
    targets: kontext.Key = kontext.REQUIRED

    @typechecked
    def get_values(self, preds: Float["*b"], targets: Float["*b"]) -> Float["*b"]:
        return np.square(preds - targets)
