"""How guesses are arranged: one array, a tuple of model outputs, or a list of sequences; flat arrays behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .checks import describe, fail
from .ops import Array, Ops, get_ops

__all__ = ["Batch", "Layout", "real_array"]

Layout = Literal["elements", "vectors", "classes"]
"""Which axes of guesses make one value: none; the last; or the second of (N, C, d1, ...), which may be the only one."""


@dataclass(frozen=True)
class Batch:
    """The guesses of one call as flat arrays of one backend, and the way back to the caller's arrangement.

    A list of sequences becomes one concatenated array. Vectors and classes become the rows of a matrix.
    """

    name: str
    ops: Ops
    arrays: tuple[Array, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Shapes before rows were made of them."""
    lengths: tuple[int, ...] | None
    """Number of items of each sequence; None when the guesses are no list."""
    is_tuple: bool
    layout: Layout
    kept: Array | None = None
    """What the caller's mask keeps, bool in the values' shape: truths of other items may be anything. None: all."""

    @classmethod
    def read(cls, name: str, guesses: Any, inputs: Sequence[str], layout: Layout) -> Batch:
        """Check the arrangement and dtypes of guesses; no data is read, and nothing is copied that need not be."""
        is_tuple = len(inputs) > 1
        if is_tuple and not (isinstance(guesses, tuple) and len(guesses) == len(inputs)):
            raise fail(name, "guesses", f"to be a tuple ({', '.join(inputs)})", describe(guesses))
        outputs = guesses if is_tuple else (guesses,)
        lengths = None
        if any(isinstance(x, list) for x in outputs):
            if not all(isinstance(x, list) for x in outputs):
                raise fail(name, "guesses", "to be arrays or lists of sequences, not both", describe(guesses))
            lengths = tuple(len(real_array(name, "guesses", x)) for x in outputs[0])
            outputs = tuple(_concatenate(name, x) for x in outputs)
        arrays = [real_array(name, "guesses", x) for x in outputs]
        ops = get_ops(arrays[0])
        for x in arrays[1:]:
            if not ops.owns(x) or x.dtype != arrays[0].dtype:
                raise fail(name, "guesses", f"all like the first, {describe(arrays[0])}", describe(x))
        arrays = [x if x.dtype.kind not in "iub" else x.astype(np.float64) for x in arrays]
        shapes = tuple(tuple(x.shape) for x in arrays)
        if layout != "elements":
            expected = (
                "(N, C), (C,) or (N, C, ...) with C >= 1" if layout == "classes" else "(N, D) or (D,) with D >= 1"
            )
            for shape in shapes:
                if not shape or shape[1 if len(shape) > 1 else 0] < 1 or layout == "vectors" and len(shape) > 2:
                    raise fail(name, "guesses", f"of shape {expected}", f"shape {shape}")
            arrays = [_rows(x) for x in arrays]
        return cls(name, ops, tuple(arrays), shapes, lengths, is_tuple, layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output as the caller gave it, sequences concatenated."""
        return self.shapes[0]

    @property
    def values_shape(self) -> tuple[int, ...]:
        """Shape of the unreduced values: that of the guesses without the axis that makes one value."""
        shape = self.shapes[0]
        return shape if self.layout == "elements" else () if len(shape) == 1 else (shape[0], *shape[2:])

    def __len__(self) -> int:
        """What `reduction="batch_mean"` divides by: items of the first axis, or sequences."""
        if self.lengths is not None:
            return len(self.lengths)
        return self.values_shape[0] if self.values_shape else 1

    def place(self, item: int) -> str:
        """An item of the flat first axis in the caller's words."""
        if self.lengths is None:
            inside = self.layout == "classes" and len(self.values_shape) > 1
            return f"row {tuple(map(int, np.unravel_index(item, self.values_shape)))}" if inside else f"row {item}"
        ends = np.cumsum(self.lengths)
        sequence = int(np.searchsorted(ends, item, side="right"))
        return f"row {item - int(ends[sequence]) + self.lengths[sequence]} of sequence {sequence}"

    def restore(self, arrays: Sequence[Array]) -> Any:
        """Flat gradients in the arrangement of the guesses."""
        parts = [self.split(_unrows(x, shape)) for x, shape in zip(arrays, self.shapes, strict=True)]
        return tuple(parts) if self.is_tuple else parts[0]

    def split(self, array: Array) -> Any:
        """A flat array as a list with one part a sequence, or itself when there are no sequences."""
        if self.lengths is None:
            return array
        ends = np.cumsum(self.lengths, dtype=int).tolist()
        return [array[end - length : end] for end, length in zip(ends, self.lengths)]

    def join(self, what: str, value: Any) -> Any:
        """One value for each item, from the caller's list with one part a sequence (mask, weights, dense truths)."""
        if self.lengths is None or value is None:
            return value
        self.check_sequences(what, value)
        return self.ops.xp.concatenate([self.ops.asarray(part) for part in value]) if len(value) else value

    def check_sequences(self, what: str, value: Any) -> None:
        """Raise unless a value is a list with one part of the right length for each sequence."""
        lengths = self.lengths or ()
        if not isinstance(value, (list, tuple)) or len(value) != len(lengths):
            expected = f"to be a list of {len(lengths)}, one part for each sequence of guesses"
            raise fail(self.name, what, expected, describe(value))
        for i, (part, length) in enumerate(zip(value, lengths)):
            if not hasattr(part, "__len__") or isinstance(part, str) or getattr(part, "ndim", 1) == 0:
                raise fail(self.name, f"{what} of sequence {i}", f"to be a list or array of {length}", describe(part))
            if len(part) != length:
                expected = f"of length {length} (that of its guesses)"
                raise fail(self.name, f"{what} of sequence {i}", expected, f"length {len(part)}")


def real_array(name: str, what: str, value: Any) -> Array:
    """An array of real numbers as the caller gave it, or an error that says what it is instead."""
    if isinstance(value, np.ma.MaskedArray):
        raise fail(name, what, "to be an array (give its mask as mask=~array.mask)", "a masked array")
    if not hasattr(value, "dtype") or not hasattr(value, "ndim"):
        raise fail(name, what, "to be an array", describe(value))
    get_ops(value)  # raises TypeError for arrays of a library that no backend handles
    if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
        raise fail(name, what, "of real numbers", describe(value))
    return np.asarray(value) if isinstance(value, (np.generic, np.ndarray)) else value


def _concatenate(name: str, sequences: list[Any]) -> Array:
    arrays = [real_array(name, "guesses", x) for x in sequences]
    if not arrays:
        return get_ops().xp.zeros((0, 1), np.float32)
    for i, x in enumerate(arrays):
        if x.ndim == 0 or x.shape[1:] != arrays[0].shape[1:] or x.dtype != arrays[0].dtype:
            expected = f"like those of sequence 0, {describe(arrays[0])}, but for its length"
            raise fail(name, f"guesses of sequence {i}", expected, describe(x))
    return arrays[0] if len(arrays) == 1 else get_ops(arrays[0]).xp.concatenate(arrays)


def _rows(x: Array) -> Array:
    if x.ndim <= 2:
        return x.reshape(-1, x.shape[-1])
    xp = get_ops(x).xp
    return xp.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _unrows(rows: Array, shape: tuple[int, ...]) -> Array:
    if len(shape) <= 2 or rows.shape == shape:
        return rows.reshape(shape)
    return get_ops(rows).xp.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
