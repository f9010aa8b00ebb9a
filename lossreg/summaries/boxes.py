"""Boxes on images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from ..arrays.dlpack import foreign_arrays
from ..checks import describe, fail
from ..config.options import Problem
from ..config.resolve import register
from ..metrics import AutoState, Key, Metric, truncate_field
from ..metrics.rows import as_array
from ..ops import Array, get_ops
from .images import Images, check_range, clipped, first_of, read_images, without_images

__all__ = ["ShowBoxes"]


@register("ShowBoxes.v1", to="metrics")
class ShowBoxes(Metric):
    """The first images of the data with boxes drawn on them, as `Images`.

        shown = clip((images - low) / (high - low), 0, 1), and on it lines of one pixel along
                the rows int(y (h - 1)) and the columns int(x (w - 1)) of each box (y_min, x_min, y_max, x_max)

    Box i has the colour of the hue i / num_colors, and from `num_colors` on these again; on grey images all are white.
    Later boxes are drawn over earlier ones. The part of a box that is outside of the image is left out, and so are
    boxes whose least edge is beyond the greatest.

    Shapes: images (..., h, w, 1) or (..., h, w, 3) of floats, bools or uint8; boxes (..., k, 4), relative to height and
        width, in [0, 1]; boxes_mask (..., k) or (..., k, 1). Each batch has as many boxes per image.
    Errors: ValueError for other shapes and dtypes.
    Source: Kauldron's `ShowBoxes` (https://kauldron.readthedocs.io); `tf.image.draw_bounding_boxes`.

        >>> import numpy as np
        >>> shown = ShowBoxes()(images=np.zeros((1, 4, 4, 1)), boxes=np.array([[[0.0, 0.0, 0.7, 1.0]]]))
        >>> print(shown.array[0, :, :, 0])
        [[1. 1. 1. 1.]
         [1. 0. 0. 1.]
         [1. 1. 1. 1.]
         [0. 0. 0. 0.]]

    images, boxes: paths.
    boxes_mask: path of what says which boxes are drawn, such as those that are no padding.
    num_images: how many are kept.
    num_colors: how many colours boxes have. Set it to the number of boxes where none should have that of another one.
    in_vrange: the range of the numbers of images, which becomes [0, 1]; what is outside is clipped.
    """

    images: Key = None
    boxes: Key = None
    boxes_mask: Key = None
    num_images: Annotated[int, Ge(1)] = 5
    num_colors: Annotated[int, Ge(1)] = 16
    in_vrange: tuple[float, float] | None = None

    class State(AutoState):
        """The first images, their boxes, and which of those are drawn."""

        images: Any = truncate_field(num_field="parent.num_images")
        boxes: Any = truncate_field(num_field="parent.num_images")
        drawn: Any = truncate_field(num_field="parent.num_images")

        def compute(self) -> Images:
            """What is shown."""
            first = super().compute()
            if first.images is None:
                return without_images()
            canvas = clipped(first.images)
            colours = hues(self.parent.num_colors)
            for image, boxes, drawn in zip(canvas, first.boxes, first.drawn):
                for i in np.flatnonzero(drawn):
                    _draw(image, boxes[i], colours[i % len(colours)])
            return Images(canvas)

    def check_options(self) -> Iterable[Problem]:
        """A range that is none."""
        yield from super().check_options()
        yield from check_range("in_vrange", self.in_vrange)

    @foreign_arrays
    def get_state(self, images: Any, boxes: Any, boxes_mask: Any = None) -> State:
        """The first images and boxes of a batch."""
        name = type(self).__name__
        first = read_images(name, "images", images, self.num_images, self.in_vrange)
        boxes = as_array(name, "boxes", boxes)
        leading = tuple(getattr(images, "shape", np.shape(images))[:-3])
        if tuple(boxes.shape[:-2]) != leading or boxes.ndim < 2 or boxes.shape[-1] != 4:
            raise fail(name, "boxes", f"of shape {_shape(leading, 'k', 4)}, k for each image", describe(boxes))
        first_boxes = first_of(boxes, self.num_images, axes=2).astype(np.float32)
        return self.State(first, first_boxes, self._drawn(boxes, boxes_mask))

    def _drawn(self, boxes: Array, mask: Any) -> Array:
        """Which boxes of the first images are drawn."""
        shape = tuple(boxes.shape[:-1])
        if mask is None:
            return first_of(get_ops(boxes).xp.ones(shape, dtype=bool), self.num_images, axes=1)
        name = type(self).__name__
        mask = as_array(name, "boxes_mask", mask)
        if tuple(mask.shape) not in (shape, (*shape, 1)):
            raise fail(name, "boxes_mask", f"of shape {(*shape, 1)}", describe(mask))
        return first_of(mask.reshape(shape) != 0, self.num_images, axes=1)


def hues(count: int) -> np.ndarray:
    """Colours (count, 3) of evenly spaced hues, from red on."""
    sixth = 6.0 * np.arange(count) / count
    red = np.abs(sixth - 3.0) - 1.0
    green = 2.0 - np.abs(sixth - 2.0)
    blue = 2.0 - np.abs(sixth - 4.0)
    colours: np.ndarray = np.clip(np.stack([red, green, blue], axis=1), 0.0, 1.0).astype(np.float32)
    return colours


def _draw(image: np.ndarray, box: np.ndarray, colour: np.ndarray) -> None:
    """Draw the edges of a box on an image (h, w, c)."""
    if not np.isfinite(box).all():
        return
    height, width, channels = image.shape
    last = np.array([height - 1, width - 1, height - 1, width - 1], np.float32)
    top, left, bottom, right = (box * last).astype(np.int64).tolist()
    if top > bottom or left > right:
        return
    if top >= height or left >= width or bottom < 0 or right < 0:
        return
    paint = colour if channels == 3 else np.ones(1, np.float32)
    # Edges end at those of the image.
    rows = slice(max(top, 0), min(bottom, height - 1) + 1)
    columns = slice(max(left, 0), min(right, width - 1) + 1)
    for row in (top, bottom):
        if 0 <= row < height:
            image[row, columns] = paint
    for column in (left, right):
        if 0 <= column < width:
            image[rows, column] = paint


def _shape(leading: tuple[int, ...], *last: Any) -> str:
    return f"({', '.join(map(str, (*leading, *last)))})"
