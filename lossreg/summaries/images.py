"""The first images of the data, and differences of images."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from ..arrays.dlpack import foreign_arrays
from ..checks import check_shape, describe, fail
from ..config.options import Problem
from ..config.resolve import register
from ..metrics import AutoState, Key, Metric, truncate_field
from ..metrics.optional import optional
from ..ops import Array, get_ops

__all__ = [
    "Images", "ShowDifferenceImages", "ShowImages", "check_range", "clipped", "coloured", "read_images",
    "without_images",
]  # fmt: skip


class Images:
    """Images as numbers in [0, 1], of shape (n, h, w, 1) or (n, h, w, 3): `np.asarray(images)` or `images.array`.

    A notebook shows them side by side. Pictures need Pillow.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __repr__(self) -> str:
        return f"Images(shape={self.array.shape})"

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array.astype(dtype or self.array.dtype, copy=bool(copy))

    def to_pil(self) -> list[Any]:
        """One picture of Pillow's for each image."""
        pillow = optional("PIL.Image", "Pillow", "summaries")
        pixels = (self.array * 255 + 0.5).astype(np.uint8)
        if pixels.shape[3] == 1:  # Pillow has grey images without an axis of channels
            pixels = pixels[:, :, :, 0]
        return [pillow.fromarray(image) for image in pixels]

    def _repr_png_(self) -> bytes | None:
        if not self.array.size:
            return None
        file = io.BytesIO()
        Images(np.concatenate(self.array, axis=1)[None]).to_pil()[0].save(file, format="png")
        return file.getvalue()


@register("ShowImages.v1", to="metrics")
class ShowImages(Metric):
    """The first images of the data, as `Images`.

        shown = clip((images - low) / (high - low), 0, 1) with (low, high) = in_vrange, or (0, 1) without

    Numbers of uint8 are divided by 255 first. NaN is 0. With a colour map and without `in_vrange`, colours range from
    the least to the greatest number of all images shown.

    Shapes: images (..., h, w, 1) or (..., h, w, 3) of floats, bools or uint8; a colour map needs (..., h, w, 1) and
        gives (n, h, w, 3).
    Errors: ValueError for other shapes and dtypes; ImportError where matplotlib is needed and not installed.
    Source: Kauldron's `ShowImages` (https://kauldron.readthedocs.io).

    images: path.
    num_images: how many are kept.
    in_vrange: the range of the numbers, which becomes [0, 1]; what is outside is clipped.
    cmap: name of a colour map of matplotlib's.
    """

    images: Key = None
    num_images: Annotated[int, Ge(1)] = 5
    in_vrange: tuple[float, float] | None = None
    cmap: str | None = None

    class State(AutoState):
        """The first images."""

        images: Any = truncate_field(num_field="parent.num_images")

        def compute(self) -> Images:
            """What is shown."""
            images = super().compute().images
            if images is None:
                return without_images()
            if self.parent.cmap is None:
                return Images(clipped(images))
            scaled = (0.0, 1.0) if self.parent.in_vrange else None
            return Images(coloured(images, self.parent.cmap, scaled))

    def check_options(self) -> Iterable[Problem]:
        """A range that is none."""
        yield from super().check_options()
        yield from check_range("in_vrange", self.in_vrange)

    @foreign_arrays
    def get_state(self, images: Any) -> State:
        """The first images of a batch, scaled."""
        channels = (1,) if self.cmap else (1, 3)
        first = read_images(type(self).__name__, "images", images, self.num_images, self.in_vrange, channels)
        return self.State(first)


@register("ShowDifferenceImages.v1", to="metrics")
class ShowDifferenceImages(Metric):
    """How far apart the first images of two kinds are, such as reconstructions and targets, as `Images`.

        difference = mean over channels of |clip(images1) - clip(images2)| / (high - low)
        shown      = the colour of (difference + 1) / 2 with (low, high) = vrange,
                     and without of (difference - min) / (max - min) over all that is shown

    Shapes: images1, images2 (..., h, w, 1) or (..., h, w, 3) of floats, bools or uint8; shown (n, h, w, 3).
    Errors: ValueError for other shapes and dtypes; ImportError without matplotlib.
    Source: Kauldron's `ShowDifferenceImages` (https://kauldron.readthedocs.io), whose range of colours is
        [low - high, high - low] while its differences lie in [0, 1]: the same for ranges of width 1.

        >>> import numpy as np
        >>> show = ShowDifferenceImages(num_images=3, vrange=(0.0, 1.0))
        >>> shown = show(images1=np.ones((4, 2, 2, 3)), images2=np.zeros((4, 2, 2, 3)))
        >>> shown, float(shown.array.min())
        (Images(shape=(3, 2, 2, 3)), 1.0)

    images1, images2: paths.
    num_images: how many are kept.
    vrange: the range of the numbers; what is outside is clipped. Set it where colours of several steps are compared.
    cmap: name of a colour map of matplotlib's.
    """

    images1: Key = None
    images2: Key = None
    num_images: Annotated[int, Ge(1)] = 5
    vrange: tuple[float, float] | None = None
    cmap: str = "gray"

    class State(AutoState):
        """The first differences."""

        differences: Any = truncate_field(num_field="parent.num_images")

        def compute(self) -> Images:
            """What is shown."""
            differences = super().compute().differences
            if differences is None:
                return without_images()
            colour_range = (-1.0, 1.0) if self.parent.vrange else None
            return Images(coloured(differences, self.parent.cmap, colour_range))

    def check_options(self) -> Iterable[Problem]:
        """A range that is none."""
        yield from super().check_options()
        yield from check_range("vrange", self.vrange)

    @foreign_arrays
    def get_state(self, images1: Any, images2: Any) -> State:
        """The first differences of a batch."""
        name = type(self).__name__
        first = read_images(name, "images1", images1, self.num_images, self.vrange)
        second = read_images(name, "images2", images2, self.num_images, self.vrange)
        if not get_ops(first).owns(second):
            raise fail(name, "images2", f"of {get_ops(first).library} as images1 are", describe(images2))
        check_shape(name, "images2", second, tuple(first.shape), "images1")
        return self.State(abs(first - second).mean(axis=-1, keepdims=True))


def first_of(x: Array, number: int, axes: int) -> Array:
    """The first items of an array in which the last axes make one item."""
    return x.reshape(math.prod(x.shape[:-axes]), *x.shape[-axes:])[:number]


def read_images(
    name: str, what: str, images: Any, number: int, value_range: tuple[float, float] | None, channels: Any = (1, 3)
) -> Array:
    """The first images (n, h, w, c) in float32. A range is clipped to and becomes [0, 1], and so do those of uint8."""
    x = images
    if not hasattr(images, "dtype"):
        x = get_ops().asarray(images)
    ops = get_ops(x)
    if x.dtype.kind not in "fb" and x.dtype.name not in ("uint8", "bfloat16"):
        raise fail(name, what, "of floats, bools or uint8", describe(x))
    if x.ndim < 3 or x.shape[-1] not in channels:
        expected = f"of shape (..., h, w, {' or '.join(map(str, channels))})"
        if len(channels) == 1:
            expected += " for a colour map"
        raise fail(name, what, expected, describe(x))
    first = first_of(x, number, axes=3)
    first = first.astype(np.float32)
    if x.dtype.name == "uint8":
        first = first / np.float32(255)
    if value_range is not None:
        low, high = map(np.float32, value_range)
        first = (ops.xp.minimum(ops.xp.maximum(first, low), high) - low) / (high - low)
    return first


def check_range(option: str, value_range: tuple[float, float] | None) -> Iterable[Problem]:
    """A range that is none."""
    if value_range is not None and not value_range[0] < value_range[1]:
        yield option, f"should be (low, high) with low < high, got {value_range}"


def without_images() -> Images:
    """What is shown of no data."""
    return Images(np.zeros((0, 1, 1, 1), np.float32))


def coloured(images: np.ndarray, cmap: str, value_range: tuple[float, float] | None) -> np.ndarray:
    """Images (n, h, w, 1) in the colours (n, h, w, 3) of a map; without a range, from the least number to the most."""
    colormaps = optional("matplotlib", "matplotlib", "summaries").colormaps
    finite = images[np.isfinite(images)]
    if value_range is None and finite.size and finite.min() < finite.max():
        value_range = (finite.min(), finite.max())
    if value_range is not None:
        low, high = value_range
        images = (images - low) / (high - low)
    colours: np.ndarray = colormaps[cmap](clipped(images)[..., 0])
    return colours[..., :3].astype(np.float32)


def clipped(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1], with 0 for NaN; a new array."""
    numbers: np.ndarray = np.nan_to_num(np.clip(images, 0.0, 1.0), nan=0.0)
    return numbers
