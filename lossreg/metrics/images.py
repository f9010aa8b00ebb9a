"""Metrics of images: how near a reconstruction is to its target."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from ..arrays.dlpack import foreign_arrays
from ..checks import check_shape, describe, fail
from ..config.options import Problem
from ..config.resolve import register
from ..ops import Array, Ops, get_ops
from ..ops.base import without_float_warnings
from ..states.averages import AverageState
from .base import Key, Metric
from .rows import as_array

__all__ = ["Psnr", "Ssim"]


class _ImageMetric(Metric):
    """A number for each pair of images, averaged."""

    pred: Key = None
    target: Key = None
    mask: Key = None
    in_vrange: tuple[float, float] = (0.0, 1.0)

    class State(AverageState):
        """The numbers of images, and images."""

    def check_options(self) -> Iterable[Problem]:
        """A range that is none."""
        yield from super().check_options()
        if not self.in_vrange[0] < self.in_vrange[1]:
            yield "in_vrange", f"should be (low, high) with low < high, got {self.in_vrange}"

    def _read(self, pred: Any, target: Any) -> tuple[Ops, Array, Array]:
        """(backend, images, targets), both (..., h, w, c) in float64."""
        name = type(self).__name__
        images = []
        for what, x in (("pred", pred), ("target", target)):
            array = as_array(name, what, x)
            if array.dtype.kind in "iub":
                expected = "of floats: divide pixels of uint8 by 255, or say in_vrange=(0, 255) and x.astype(float)"
                raise fail(name, what, expected, describe(array))
            if array.ndim < 3:
                raise fail(name, what, "of shape (..., h, w, c)", describe(array))
            images.append(array)
            if not all(array.shape[-3:]):
                raise fail(name, what, "of images with pixels", describe(array))
        check_shape(name, "target", images[1], tuple(images[0].shape), "pred")
        ops = get_ops(images[0])
        if not ops.owns(images[1]):
            raise fail(name, "target", f"of {ops.library} as pred is", describe(images[1]))
        return ops, images[0].astype(np.float64), images[1].astype(np.float64)


@register("Psnr.v1", to="metrics")
class Psnr(_ImageMetric):
    """Peak signal-to-noise ratio of images, in decibel: averaged over images.

        psnr = 20 log10(high - low) - 10 log10(mean of (pred - target)^2 over an image)

    Equal images have an infinite ratio, and so has each average with one of them, unless `clip` says otherwise.
    Computed in float64.

    Shapes: pred, target (..., h, w, c) of floats; a mask (...) or (..., 1), one number per image.
    Errors: ValueError for shapes that do not fit, and for pixels that are integers.
    Source: Kauldron's `Psnr` (https://kauldron.readthedocs.io). Same numbers as
        `skimage.metrics.peak_signal_noise_ratio`.

        >>> import numpy as np
        >>> round(Psnr()(pred=np.full((1, 8, 8, 3), 0.6), target=np.full((1, 8, 8, 3), 0.5)), 6)
        20.0

    pred, target, mask: paths. What the mask leaves out may hold anything.
    in_vrange: (low, high), the range of the pixels. Set it where that is not [0, 1].
    clip: the largest ratio of an image. Set it where some images may be equal.
    """

    clip: float | None = None

    @without_float_warnings
    @foreign_arrays
    def get_state(self, pred: Any, target: Any, mask: Any = None) -> _ImageMetric.State:
        """Ratios of a batch."""
        ops, images, targets = self._read(pred, target)
        low, high = self.in_vrange
        error = ((images - targets) ** 2).mean(axis=(-3, -2, -1))
        ratio = 20.0 * math.log10(high - low) - 10.0 * ops.xp.log10(error[..., None])
        if self.clip is not None:
            ratio = ops.xp.minimum(ratio, self.clip)
        return self.State.from_values(ratio, mask=mask)


@register("Ssim.v1", to="metrics")
class Ssim(_ImageMetric):
    """Structural similarity of images, 1 for equal ones: averaged over images.

        ssim = mean over windows and channels of
               (2 m_p m_t + c1) (2 s_pt + c2) / ((m_p^2 + m_t^2 + c1) (s_p^2 + s_t^2 + c2))

    with means m, variances s^2 and the covariance s_pt under a Gaussian window, c1 = k1^2 and c2 = k2^2, on images
    scaled to [0, 1]. Variances that rounding made negative are 0, and |s_pt| is at most s_p s_t. Windows lie inside the
    image. Computed in float64.

    Shapes: pred, target (..., h, w, c) of floats, with h and w of at least `filter_size`; a mask (...) or (..., 1).
    Errors: ValueError for shapes that do not fit, and for pixels that are integers.
    Source: Wang et al. (2004), doi:10.1109/TIP.2003.819861; Kauldron's `Ssim` (https://kauldron.readthedocs.io), which
        is that of TensorFlow.

        >>> import numpy as np
        >>> image = np.linspace(0, 1, 300).reshape(1, 10, 10, 3)
        >>> round(Ssim(filter_size=5)(pred=image, target=1 - image), 4)
        -0.7544

    pred, target, mask: paths. What the mask leaves out may hold anything.
    in_vrange: (low, high), the range of the pixels. Set it where that is not [0, 1].
    filter_size, filter_sigma: the width of the window and of its Gaussian, in pixels. Make them smaller for images
        smaller than 11 x 11.
    k1, k2: keep quotients of small numbers from being arbitrary.
    """

    filter_size: Annotated[int, Ge(1)] = 11
    filter_sigma: Annotated[float, Gt(0)] = 1.5
    k1: Annotated[float, Gt(0)] = 0.01
    k2: Annotated[float, Gt(0)] = 0.03

    @without_float_warnings
    @foreign_arrays
    def get_state(self, pred: Any, target: Any, mask: Any = None) -> _ImageMetric.State:
        """Similarities of a batch."""
        ops, images, targets = self._read(pred, target)
        height, width = images.shape[-3:-1]
        if min(height, width) < self.filter_size:
            expected = f"of at least {self.filter_size} x {self.filter_size} pixels (filter_size)"
            raise fail(type(self).__name__, "pred", expected, f"{height} x {width}")
        low, high = self.in_vrange
        similarity = self._map(ops, (images - low) / (high - low), (targets - low) / (high - low))
        return self.State.from_values(similarity.mean(axis=(-3, -2, -1))[..., None], mask=mask)

    def _map(self, ops: Ops, x: Array, y: Array) -> Array:
        """The similarity of each window."""
        xp = ops.xp
        x_mean, y_mean = self._blurred(x), self._blurred(y)
        x_variance = xp.maximum(self._blurred(x * x) - x_mean * x_mean, 0.0)
        y_variance = xp.maximum(self._blurred(y * y) - y_mean * y_mean, 0.0)
        covariance = self._blurred(x * y) - x_mean * y_mean
        most = xp.sqrt(x_variance * y_variance)
        covariance = xp.minimum(xp.maximum(covariance, -most), most)
        c1, c2 = self.k1**2, self.k2**2
        above = (2.0 * x_mean * y_mean + c1) * (2.0 * covariance + c2)
        below = (x_mean * x_mean + y_mean * y_mean + c1) * (x_variance + y_variance + c2)
        return above / below

    def _blurred(self, x: Array) -> Array:
        """Means under the window, which is a product of one along each axis."""
        distance = np.arange(self.filter_size) - (self.filter_size - 1) / 2
        window = np.exp(-0.5 * (distance / self.filter_sigma) ** 2)
        weights = (window / window.sum()).tolist()
        height, width = (size - self.filter_size + 1 for size in x.shape[-3:-1])
        rows = sum(weight * x[..., i : i + height, :, :] for i, weight in enumerate(weights))
        return sum(weight * rows[..., :, i : i + width, :] for i, weight in enumerate(weights))
