"""Segmentations as images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from ..arrays.dlpack import foreign_arrays
from ..checks import describe, fail
from ..config.options import Problem
from ..config.resolve import register
from ..metrics import AutoState, Key, Metric, truncate_field
from ..metrics.optional import optional
from ..metrics.rows import as_array
from .images import Images, clipped, first_of, without_images
from .oklab import from_oklab, palette, to_oklab

__all__ = ["ShowSegmentations"]

Fraction = Annotated[float, Ge(0), Le(1)]


@register("ShowSegmentations.v1", to="metrics")
class ShowSegmentations(Metric):
    """The first segmentations of the data in one colour per segment, as `Images`.

        shown = light * from_oklab(sum over segments k of p_k to_oklab(colour_k))
        hard:   shown = light * colour of the segment with the greatest p_k

    p_k is the fraction of segment k in a pixel: 1 for its id, or what a soft segmentation says. light is 1, and less as
    `entropy` and `edges` say. Colours are mixed in Oklab, where their mean looks like one.

    Shapes: segmentations (..., h, w, 1) of integers, the ids of segments, or (..., h, w, k) of floats, the fractions of
        k segments; shown (n, h, w, 3).
    Errors: ValueError for other shapes and dtypes, negative ids, and fewer colours than segments; ImportError for
        `edges` without SciPy.
    Source: Kauldron's `ShowSegmentations` (https://kauldron.readthedocs.io); Ottosson (2020),
        https://bottosson.github.io/posts/oklab/.

        >>> import numpy as np
        >>> show = ShowSegmentations(palette=[(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
        >>> shown = show(segmentations=np.array([[0, 1], [1, 1]]).reshape(1, 2, 2, 1))
        >>> print(shown.array[0, 0].round(3) + 0.0)
        [[1. 0. 0.]
         [0. 0. 1.]]

    segmentations: path.
    num_images: how many are kept.
    hard: whether a soft segmentation is shown as the segment with the greatest fraction.
    palette: a colour (r, g, b) in [0, 1] for each segment; evenly spaced hues without. Set it where a segment should
        have the same colour at each step: hues depend on the number of segments.
    entropy: whether pixels are the darker the less sure a soft segmentation is.
    edges: whether edges between segments are marked.
    edge_lightness: how light these are.
    """

    segmentations: Key = None
    num_images: Annotated[int, Ge(1)] = 5
    hard: bool = False
    palette: Sequence[tuple[Fraction, Fraction, Fraction]] | None = None
    entropy: bool = False
    edges: bool = False
    edge_lightness: Fraction = 1.0

    class State(AutoState):
        """The first segmentations."""

        segmentations: Any = truncate_field(num_field="parent.num_images")

        def compute(self) -> Images:
            """What is shown."""
            segmentations = super().compute().segmentations
            if segmentations is None:
                return without_images()
            return Images(clipped(self.parent.coloured(segmentations)).astype(np.float32))

    def check_options(self) -> Iterable[Problem]:
        """A palette without colours."""
        yield from super().check_options()
        if self.palette is not None and not self.palette:
            yield "palette", "should have a colour for each segment, got none"

    @foreign_arrays
    def get_state(self, segmentations: Any) -> State:
        """The first segmentations of a batch."""
        name = type(self).__name__
        x = as_array(name, "segmentations", segmentations)
        is_hard = x.dtype.kind in "iub"
        channels = x.shape[-1] if x.ndim >= 3 else 0
        # Ids are in one channel, fractions in one channel per segment.
        if channels == 0 or is_hard != (channels == 1):
            expected = "of shape (..., h, w, 1) of integers, or (..., h, w, k) of floats with k > 1"
            raise fail(name, "segmentations", expected, describe(x))
        first = first_of(x, self.num_images, axes=3)
        return self.State(first.astype(np.int64 if is_hard else np.float64))

    def coloured(self, segmentations: np.ndarray) -> np.ndarray:
        """Images (n, h, w, 3) of segmentations."""
        if segmentations.dtype.kind == "f":
            images, ids, entropy = self._mixed(segmentations)
        else:
            images, ids, entropy = self._plain(segmentations[..., 0])
        light = np.ones((*ids.shape, 1))
        if self.entropy:
            light = light * (1.0 - entropy)
        if self.edges:
            edges = _edges(ids)
            light = light * (1.0 - edges) + edges * self.edge_lightness
        shown: np.ndarray = images * light
        return shown

    def _mixed(self, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """(images, the segments with the greatest fractions, entropies) of a soft segmentation."""
        count = fractions.shape[-1]
        best = fractions.argmax(axis=-1)
        colours = self._colours(np.arange(count), count)
        if self.hard:
            images = colours[best]
        else:
            images = from_oklab(fractions @ to_oklab(colours))
        return images, best, _entropy(fractions)

    def _plain(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """(images, ids, entropies) of ids."""
        if ids.size and ids.min() < 0:
            raise fail(type(self).__name__, "segmentations", "of ids of at least 0", str(ids.min()))
        count = int(ids.max(initial=0)) + 1
        # Ids may be as large as they like: only those that occur get a colour.
        unique, numbers = np.unique(ids, return_inverse=True)
        images = self._colours(unique, count)[numbers.reshape(ids.shape)]
        # Among one segment alone, Kauldron's entropy is 1.
        if self.palette is not None:
            count = len(self.palette)
        return images, ids, float(count == 1)

    def _colours(self, segments: np.ndarray, count: int) -> np.ndarray:
        """The colours of some of `count` segments."""
        if self.palette is None:
            return palette(segments, count)
        if len(self.palette) < count:
            expected = f"with a colour for each of {count} segments"
            raise fail(type(self).__name__, "a palette", expected, f"{len(self.palette)} colours")
        colours: np.ndarray = np.array(self.palette, np.float64)[segments]
        return colours


def _entropy(fractions: np.ndarray) -> np.ndarray:
    """The entropy of each pixel (..., 1), 1 where all segments have the same fraction."""
    if fractions.shape[-1] == 1:
        return np.ones_like(fractions)
    entropy = -np.sum(fractions * np.log2(np.maximum(fractions, 1e-6)), axis=-1, keepdims=True)
    relative: np.ndarray = np.clip(entropy / np.log2(fractions.shape[-1]), 0.0, 1.0)
    return relative


def _edges(ids: np.ndarray) -> np.ndarray:
    """How much each pixel (..., h, w, 1) belongs to an edge between segments: 1 beside it, and less around."""
    ndimage = optional("scipy.ndimage", "SciPy", "summaries")
    changes = np.zeros(ids.shape)
    for axis in (-2, -1):
        if ids.shape[axis] > 1:  # one row of pixels has no gradient
            changes = changes + np.abs(np.gradient(ids, axis=axis))
    edges = (changes != 0).astype(np.float32)
    sigma = [0.0] * (ids.ndim - 2) + [1.0, 1.0]
    blurred = ndimage.gaussian_filter(edges, sigma=sigma)
    around: np.ndarray = np.maximum(edges, blurred)[..., None]
    return around
