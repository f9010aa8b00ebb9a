"""How guesses are arranged: an array, a tuple of outputs, a list of sequences or a Ragged; flat arrays behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays.ragged import is_ragged, like, read_ragged
from ..checks import describe, fail
from ..ops import Array, Ops, get_ops
from ..ops.base import compute_dtype
from .layouts import AlongAxis, Layout, LayoutName, layout_of

__all__ = ["Batch", "check_unmasked", "is_real", "real_array"]


@dataclass(eq=False)
class Batch:
    """The guesses of one call as flat arrays of one backend, and the way back to the caller's arrangement.

    A list of sequences becomes one concatenated array, as the data of a Ragged are. Vectors and classes become the rows
    of a matrix, and (T, N, C) becomes (N, T, C).
    """

    name: str
    ops: Ops
    arrays: tuple[Array, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Shapes before rows were made of them."""
    lengths: tuple[int, ...] | None
    """Number of items of each sequence; None when the guesses are neither a list nor a Ragged."""
    is_tuple: bool
    layout: Layout
    shape: tuple[int, ...] = ()
    """Shape of the first output as the caller gave it, sequences concatenated and outputs broadcast."""
    values_shape: tuple[int, ...] = ()
    """Shape of the unreduced values: that of the guesses without the axes that make one value."""
    mask: Array | None = None
    """What the caller's mask keeps, bool in the values' shape: truths of other items may be anything. None: all."""
    ragged: tuple[Any, ...] = ()
    """The Ragged of each output, None for lists."""

    @classmethod
    def read(cls, name: str, guesses: Any, inputs: Sequence[str], layout: LayoutName, keepdims: bool = False) -> Batch:
        """Check the arrangement and dtypes of guesses; no data is read, and nothing is copied that need not be."""
        is_tuple = len(inputs) > 1
        if is_tuple and not (isinstance(guesses, tuple) and len(guesses) == len(inputs)):
            raise fail(name, "guesses", f"to be a tuple ({', '.join(inputs)})", describe(guesses))
        outputs = guesses if is_tuple else (guesses,)
        way = layout_of(layout)

        # Sequences become one array.
        lengths: tuple[int, ...] | None = None
        ragged: tuple[Any, ...] = ()
        if type(guesses) is not np.ndarray and any(map(_is_sequences, outputs)):
            ragged = tuple([x if is_ragged(x) else None for x in outputs])
            outputs, lengths = _joined(name, guesses, outputs)
            if lengths == () and type(way) is AlongAxis and not any(map(is_ragged, ragged)):
                # An empty list does not say how many axes its sequences have.
                outputs = tuple([x.reshape(0, *(1,) * abs(way.axis)) for x in outputs])
            if way.is_joined_along_value(outputs[0].shape):
                expected = "to be one array: sequences cannot be joined along the axis of a value"
                raise fail(name, "guesses", expected, describe(guesses))

        arrays = _alike_arrays(name, outputs)
        ops = get_ops(arrays[0])
        shapes = tuple([x.shape for x in arrays])
        called = tuple(inputs) if is_tuple else ("guesses",)
        flat = way.flatten(name, called, ops, arrays)
        shape = way.shape(flat, shapes)
        values_shape = way.values_shape(shape, keepdims)
        return cls(name, ops, flat, shapes, lengths, is_tuple, way, shape, values_shape, None, ragged)

    def __len__(self) -> int:
        """What `reduction="batch_mean"` divides by: items of the first axis, or sequences."""
        if self.lengths is not None:
            return len(self.lengths)
        return self.values_shape[0] if self.values_shape else 1

    @property
    def columns(self) -> int:
        """How many numbers a row has, such as classes."""
        return int(self.arrays[0].shape[-1])

    def describe_index(self, item: int) -> str:
        """An item of the flat first axis in the caller's words."""
        if self.lengths is None:
            if self.layout.axes_of_value and len(self.values_shape) > 1:
                return f"row {tuple(map(int, np.unravel_index(item, self.values_shape)))}"
            return f"row {item}"
        ends = np.cumsum(self.lengths)
        sequence = int(np.searchsorted(ends, item, side="right"))
        return f"row {item - int(ends[sequence]) + self.lengths[sequence]} of sequence {sequence}"

    def restore(self, arrays: Sequence[Array]) -> Any:
        """Flat gradients in the arrangement of the guesses."""
        if not self.is_tuple:
            return self.split(self._restored(arrays[0], self.shapes[0]))
        restored = map(self._restored, arrays, self.shapes)
        return tuple([self.split(x, output) for output, x in enumerate(restored)])

    def _restored(self, x: Array, shape: tuple[int, ...]) -> Array:
        if tuple(x.shape) != shape or not self.layout.keeps_memory(shape):
            x = self.layout.restore(self.ops, x, shape)
        return self._as_stored(x)

    def _as_stored(self, x: Array) -> Array:
        """A gradient in the guesses' dtype."""
        dtype = self.arrays[0].dtype
        if x.dtype == dtype:
            return x
        with np.errstate(all="ignore"):  # to half precision
            return x.astype(dtype)

    def gradient_arrays(self, out: Any, read: tuple[Any, ...]) -> list[Array]:
        """Where gradients go: into `out` unless it overlaps something that is still to be read, else new arrays."""
        # The gradients of what was repeated are added up first.
        if self.layout.repeats(self.shapes):
            if out is not None:
                self._out_arrays(out)
            return [self.ops.empty(x.shape, compute_dtype(x.dtype)) for x in self.arrays]
        if out is None:
            return [self.ops.empty(x.shape, x.dtype) for x in self.arrays]
        inputs = [x for x in _arrays(read) if self.ops.owns(x)]
        return [
            target if self._may_write_to(target, x, shape, inputs) else self.ops.xp.empty(x.shape, x.dtype)
            for target, x, shape in zip(self._out_arrays(out), self.arrays, self.shapes)
        ]

    def _out_arrays(self, out: Any) -> tuple[Array, ...]:
        """The caller's arrays for the gradients of the outputs, which have the guesses' shapes and dtype."""
        targets = out if self.is_tuple else (out,)
        if self.lengths is not None or not isinstance(targets, tuple) or len(targets) != len(self.arrays):
            raise fail(self.name, "out", "to be arranged as guesses are, and no sequences", describe(out))
        for target, x, shape in zip(targets, self.arrays, self.shapes):
            fits = self.ops.owns(target) and tuple(target.shape) == shape and target.dtype == x.dtype
            if not fits or isinstance(target, np.generic):
                expected = f"a {x.dtype} array of shape {shape} on {self.ops.library}"
                raise fail(self.name, "out", f"to be {expected}", describe(target))
            if isinstance(target, np.ndarray) and not target.flags.writeable:
                raise fail(self.name, "out", "to be writable", "a read-only array")
            if not target.flags.c_contiguous and _overlaps_itself(target):
                raise fail(self.name, "out", "of which each item has memory of its own", "items that share it")
        return targets

    def _may_write_to(self, target: Array, x: Array, shape: tuple[int, ...], inputs: list[Array]) -> bool:
        """Whether the gradient of an output can be written where the caller wants it, while inputs are read."""
        if target.shape != x.shape or not self.layout.keeps_memory(shape):
            return False
        # `out=guesses` is possible, since each block is read before it is written.
        count = sum(y is target for y in inputs)
        if count > 1 or (count == 1 and target is not x):
            return False
        return not any(y is not target and self.ops.xp.may_share_memory(target, y) for y in inputs)

    def finish(self, grads: list[Array], out: Any) -> Any:
        """Gradients in the caller's arrangement, in `out` if that is given."""
        restored = self.restore(grads)
        if out is None:
            return restored
        for made, grad, target in zip(
            grads, restored if self.is_tuple else (restored,), out if self.is_tuple else (out,)
        ):
            if made is not target:
                target[...] = grad
        return out

    def split(self, array: Array, output: int = 0) -> Any:
        """A flat array in the sequences of an output, or itself when there are none."""
        if self.lengths is None:
            return array
        if self.ragged[output] is not None:
            return like(self.ragged[output], array)
        ends = np.cumsum(self.lengths, dtype=int).tolist()
        return [array[end - length : end] for end, length in zip(ends, self.lengths)]

    def unpack(self, what: str, value: Any) -> tuple[Any, bool]:
        """(value, whether it is flat): one thing for each item of all sequences, or a list with one part a sequence.

        The data of a Ragged are flat; and beside Ragged guesses everything else, but for a list with as many parts as
        there are sequences. Where there are as many items, the lengths of the parts decide.
        """
        if is_ragged(value):
            data, lengths = read_ragged(self.name, what, value)
            if lengths != self.lengths:
                self.check_sequences(what, [range(length) for length in lengths])
            return data, True
        if all(x is None for x in self.ragged) or self._has_parts(value):
            self.check_sequences(what, value)
            return value, False
        total = sum(self.lengths or ())
        sized = hasattr(value, "__len__") and (not hasattr(value, "ndim") or value.ndim)
        if sized and len(value) != total:
            expected = f"to have {total} items, or one part for each of {len(self.lengths or ())} sequences"
            raise fail(self.name, what, expected, describe(value))
        return value, True

    def _has_parts(self, value: Any) -> bool:
        lengths = self.lengths or ()
        if not isinstance(value, (list, tuple)) or len(value) != len(lengths):
            return False
        found = [len(x) if isinstance(x, (list, tuple)) or hasattr(x, "ndim") and x.ndim else None for x in value]
        return len(lengths) != sum(lengths) or found == list(lengths)

    def join(self, what: str, value: Any) -> Any:
        """One value for each item, from the caller's list with one part a sequence (mask, weights, dense truths)."""
        if value is not None and type(value) is not np.ndarray:
            check_unmasked(self.name, what, value)
        if self.lengths is None or value is None:
            return value
        value, flat = self.unpack(what, value)
        if flat:
            return value
        parts = []
        for i, part in enumerate(value):
            try:
                parts.append(self.ops.asarray(part))
            except ValueError:
                got = f"{describe(part)} of uneven parts"
                raise fail(self.name, f"{what} of sequence {i}", "to be an array", got) from None
            if parts[i].shape[1:] != parts[0].shape[1:]:
                expected = f"like that of sequence 0, {describe(parts[0])}, but for its length"
                raise fail(self.name, f"{what} of sequence {i}", expected, describe(parts[i]))
        return self.ops.xp.concatenate(parts)

    def real(self, what: str, value: Any) -> Array:
        """Real numbers of the caller's, such as truths, as an array of the guesses' backend; sequences joined."""
        value = self.join(what, value)
        if isinstance(value, (list, tuple, int, float)) or (self.ops.on_device and isinstance(value, np.ndarray)):
            if _holds_text(value):
                takers = "CrossEntropy(names=...) takes names, and MultiLabelSoftMargin(names=...) sets of them"
                raise fail(self.name, what, "to be numbers", f"{describe(value)} with text; {takers}")
            try:
                value = self.ops.asarray(value)
            except ValueError:
                raise fail(self.name, what, "to be an array", f"{describe(value)} of uneven parts") from None
        array = real_array(self.name, what, value)
        if not self.ops.owns(array):
            raise fail(self.name, what, f"of {self.ops.library} as the guesses are", describe(array))
        return array

    def check_sequences(self, what: str, value: Any) -> None:
        """Raise unless a value is a list with one part of the right length for each sequence."""
        lengths = self.lengths or ()
        if not isinstance(value, (list, tuple)) or len(value) != len(lengths):
            expected = f"to be a list of {len(lengths)}, one part for each sequence of guesses"
            raise fail(self.name, what, expected, describe(value))
        if set(map(type, value)) <= {list, tuple} and tuple(map(len, value)) == lengths:
            return
        for i, (part, length) in enumerate(zip(value, lengths)):
            if not hasattr(part, "__len__") or isinstance(part, (str, set, frozenset)) or getattr(part, "ndim", 1) == 0:
                raise fail(self.name, f"{what} of sequence {i}", f"to be a list or array of {length}", describe(part))
            if len(part) != length:
                expected = f"of length {length} (that of its guesses)"
                raise fail(self.name, f"{what} of sequence {i}", expected, f"length {len(part)}")


def _alike_arrays(name: str, outputs: Sequence[Any]) -> tuple[Array, ...]:
    """Arrays of real numbers of one backend and dtype; integers as float64."""
    arrays = tuple([real_array(name, "guesses", x) for x in outputs])
    first = arrays[0]
    if len(arrays) > 1:
        ops = get_ops(first)
        for x in arrays[1:]:
            if not ops.owns(x) or x.dtype != first.dtype:
                raise fail(name, "guesses", f"all like the first, {describe(first)}", describe(x))
    if first.dtype.kind in "iub":
        return tuple([x.astype(np.float64) for x in arrays])
    return arrays


def is_real(dtype: Any) -> bool:
    """Whether a dtype holds real numbers: floats, ints and bools, and bfloat16, which NumPy takes for raw bytes."""
    return dtype.kind in "fiub" or dtype.name == "bfloat16"


def check_unmasked(name: str, what: str, value: Any) -> None:
    """Raise for a masked array, alone or in a list: what makes one array of them forgets the mask."""
    kinds = set(map(type, value)) if isinstance(value, (list, tuple)) else {type(value)}
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        expected = "to be an array"
        if what not in ("mask", "sample_weight"):
            expected += " (give its mask as mask=~array.mask)"
        raise fail(name, what, expected, "a masked array")


def real_array(name: str, what: str, value: Any) -> Array:
    """An array of real numbers as the caller gave it, or an error that says what it is instead."""
    if type(value) is np.ndarray and value.dtype.kind in "fiub":  # what nearly all are
        return value
    check_unmasked(name, what, value)
    if not hasattr(value, "dtype") or not hasattr(value, "ndim"):
        raise fail(name, what, "to be an array", describe(value))
    get_ops(value)  # raises TypeError for arrays of a library that no backend handles
    if not is_real(value.dtype):
        raise fail(name, what, "of real numbers", describe(value))
    return np.asarray(value) if isinstance(value, (np.generic, np.ndarray)) else value


def _arrays(tree: Any) -> Iterator[Any]:
    """The arrays in nested tuples and lists."""
    if isinstance(tree, (tuple, list)):
        for part in tree:
            yield from _arrays(part)
    elif hasattr(tree, "dtype") and hasattr(tree, "ndim"):
        yield tree


def _is_sequences(x: Any) -> bool:
    """Whether an output is a list of sequences or a Ragged."""
    return isinstance(x, list) or is_ragged(x)


def _joined(name: str, guesses: Any, outputs: tuple[Any, ...]) -> tuple[tuple[Array, ...], tuple[int, ...]]:
    """Each output's sequences as one array, and the lengths of the sequences."""
    if not all(map(_is_sequences, outputs)):
        raise fail(name, "guesses", "to be arrays or lists of sequences, not both", describe(guesses))
    joined = [_concatenate(name, x) if isinstance(x, list) else _data(name, x) for x in outputs]
    lengths = joined[0][1]
    if any(other != lengths for _, other in joined):
        got = " and ".join(str(list(other)) for _, other in joined)
        raise fail(name, "guesses", "of which each output has sequences of the same lengths", got)
    return tuple([x for x, _ in joined]), lengths


def _data(name: str, ragged: Any) -> tuple[Array, tuple[int, ...]]:
    """The data of a Ragged, and its lengths."""
    data, lengths = read_ragged(name, "guesses", ragged)
    return real_array(name, "data of guesses", data), lengths


def _concatenate(name: str, sequences: list[Any]) -> tuple[Array, tuple[int, ...]]:
    """One array of all sequences, and their lengths."""
    if not sequences:
        return get_ops().xp.zeros((0, 1), np.float32), ()
    arrays = sequences
    if not _alike(sequences):
        if not any(hasattr(x, "dtype") for x in sequences):
            expected = "to be an array, or a list with one array for each sequence"
            raise fail(name, "guesses", expected, f"{describe(sequences)} without arrays; write np.array(guesses)")
        arrays = [real_array(name, f"guesses of sequence {i}", x) for i, x in enumerate(sequences)]
        for i, x in enumerate(arrays):
            if x.ndim == 0:
                raise fail(name, f"guesses of sequence {i}", "to be an array", describe(sequences[i]))
            if x.shape[1:] != arrays[0].shape[1:] or x.dtype != arrays[0].dtype:
                expected = f"like those of sequence 0, {describe(arrays[0])}, but for its length"
                raise fail(name, f"guesses of sequence {i}", expected, describe(x))
    lengths = tuple(map(len, arrays))
    return arrays[0] if len(arrays) == 1 else get_ops(arrays[0]).xp.concatenate(arrays), lengths


def _alike(sequences: list[Any]) -> bool:
    """Whether all are plain arrays of real numbers that differ in length alone, which is soon seen."""
    if set(map(type, sequences)) != {np.ndarray}:
        return False
    found = {(x.dtype, x.ndim, x.shape[1:]) for x in sequences}
    return len(found) == 1 and sequences[0].ndim > 0 and sequences[0].dtype.kind in "fiub"


def _holds_text(value: Any) -> bool:
    """Whether a list holds names, or lists of names."""
    if not isinstance(value, (list, tuple)):
        return False
    return any(
        isinstance(x, str) or (isinstance(x, (list, tuple, set)) and any(isinstance(y, str) for y in x)) for x in value
    )


def _overlaps_itself(array: Array) -> bool:
    """Whether two items may share memory, as in what `broadcast_to` and `expand` make.

    They do not if each step along an axis is longer than all that the shorter steps reach.
    """
    steps = sorted((abs(step), size) for step, size in zip(array.strides, array.shape) if size > 1)
    reach = array.itemsize
    for step, size in steps:
        if step < reach:
            return True
        reach += step * (size - 1)
    return False
