"""The first images of the data."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from ..checks import describe, fail
from ..config import register
from ..interop import foreign_arrays
from ..metrics import AutoState, Key, Metric, truncate_field
from ..metrics.optional import optional
from ..ops import get_ops
from ..schema import Problem

__all__ = ["Images", "ShowImages"]


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
        return [pillow.fromarray(x[:, :, 0] if x.shape[2] == 1 else x) for x in pixels]

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
                return Images(np.zeros((0, 1, 1, 1), np.float32))
            return Images(self.parent.coloured(images) if self.parent.cmap else _clipped(images))

    def check_options(self) -> Iterable[Problem]:
        """A range that is none."""
        yield from super().check_options()
        if self.in_vrange is not None and not self.in_vrange[0] < self.in_vrange[1]:
            yield "in_vrange", f"should be (low, high) with low < high, got {self.in_vrange}"

    @foreign_arrays
    def get_state(self, images: Any) -> State:
        """The first images of a batch, scaled."""
        name = type(self).__name__
        x = images if hasattr(images, "dtype") else get_ops().asarray(images)
        ops = get_ops(x)
        if x.dtype.kind not in "fb" and x.dtype.name not in ("uint8", "bfloat16"):
            raise fail(name, "images", "of floats, bools or uint8", describe(x))
        channels = (1,) if self.cmap else (1, 3)
        if x.ndim < 3 or x.shape[-1] not in channels:
            expected = f"of shape (..., h, w, {' or '.join(map(str, channels))})"
            raise fail(name, "images", f"{expected}{' for a colour map' if self.cmap else ''}", describe(x))
        first = x.reshape(-1, *x.shape[-3:])[: self.num_images]
        first = first.astype(np.float32) / np.float32(255 if x.dtype.name == "uint8" else 1)
        if self.in_vrange is not None:
            low, high = map(np.float32, self.in_vrange)
            first = (ops.xp.minimum(ops.xp.maximum(first, low), high) - low) / (high - low)
        return self.State(first)

    def coloured(self, images: np.ndarray) -> np.ndarray:
        """Images (n, h, w, 3) of the colour map."""
        colormaps = optional("matplotlib", "matplotlib", "summaries").colormaps
        finite = images[np.isfinite(images)]
        if self.in_vrange is None and finite.size and finite.min() < finite.max():
            images = (images - finite.min()) / (finite.max() - finite.min())
        colours: np.ndarray = colormaps[self.cmap](_clipped(images)[..., 0])
        return colours[..., :3].astype(np.float32)


def _clipped(images: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.nan_to_num(np.clip(images, 0.0, 1.0), nan=0.0)
    return clipped
