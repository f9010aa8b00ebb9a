"""What the reference of each calculator returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Parts", "elementwise", "rowwise"]

Arrays = tuple[np.ndarray, ...]


@dataclass
class Parts:
    """The unreduced values of a batch, and the way back from them, all in float64."""

    values: np.ndarray
    backward: Callable[[np.ndarray], Arrays]
    """From the slope with respect to each value to the gradient of each input."""
    size: np.ndarray
    """The largest term of the documented formula of each value: a value near 0 may be a difference of such terms."""
    backward_size: Callable[[np.ndarray], Arrays]
    """The same for the gradients."""
    present: np.ndarray | None = None
    """False where a truth is missing."""
    divisor_weight: np.ndarray | None = None
    """The class weight of each item that the formula applies itself; a mean divides by its sum."""
    loss_weight: np.ndarray | None = None
    """The weight of each item that multiplies it from outside; a mean does not divide by it."""


def elementwise(value: Any, *slopes: Any, size: Any = None, slope_sizes: Any = None, **more: Any) -> Parts:
    """Parts of a loss whose values belong to elements; inputs that were broadcast get the sum of their slopes."""
    slope_sizes = slopes if slope_sizes is None else slope_sizes
    return Parts(
        value,
        lambda weight: tuple(times(weight, slope) for slope in slopes),
        abs(value) if size is None else size,
        lambda weight: tuple(times(weight, abs(slope)) for slope in slope_sizes),
        **more,
    )


def rowwise(value: Any, *slopes: Any, size: Any = None, slope_sizes: Any = None, **more: Any) -> Parts:
    """Parts of a loss whose values belong to the last axis of its inputs."""
    slope_sizes = slopes if slope_sizes is None else slope_sizes
    return Parts(
        value,
        lambda weight: tuple(times(weight[..., None], slope) for slope in slopes),
        abs(value) if size is None else size,
        lambda weight: tuple(times(weight[..., None], abs(slope)) for slope in slope_sizes),
        **more,
    )


def times(weight: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """A product in which weight 0 leaves out, whatever it meets."""
    return np.where(weight == 0, 0.0, weight * slope)
