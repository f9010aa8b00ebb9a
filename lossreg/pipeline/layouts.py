"""Layouts: which axes of guesses make one value, and the way to flat arrays and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from ..checks import fail
from ..ops import Array, Ops

__all__ = ["AlongAxis", "Broadcast", "Classes", "Elements", "Layout", "LayoutName", "Time", "Vectors", "layout_of"]

Shape = tuple[int, ...]

LayoutName = Literal["elements", "broadcast", "vectors", "classes", "time"] | int
"""Which axes of guesses make one value, as classes say it; a number is that axis."""


class Layout(ABC):
    """Which axes of guesses make one value. Flat arrays are what formulas get."""

    axes_of_value: int = 1
    """How many axes a value has, beside those of items."""

    @abstractmethod
    def flatten(self, name: str, inputs: Sequence[str], ops: Ops, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """The caller's arrays as formulas get them. Errors say the name of the calculator, and of the input."""

    @abstractmethod
    def shape(self, flat: tuple[Array, ...], shapes: tuple[Shape, ...]) -> Shape:
        """The shape of the guesses as truths are compared with it."""

    @abstractmethod
    def values_shape(self, shape: Shape, keepdims: bool) -> Shape:
        """The shape of the values."""

    @abstractmethod
    def restore(self, ops: Ops, x: Array, shape: Shape) -> Array:
        """A flat gradient in the shape of an output."""

    def keeps_memory(self, shape: Shape) -> bool:
        """Whether flat arrays lie in memory as an array of this shape does."""
        return True

    def is_joined_along_value(self, shape: Shape) -> bool:
        """Whether sequences would be joined along an axis that makes a value."""
        return False

    def repeats(self, shapes: tuple[Shape, ...]) -> bool:
        """Whether an output is repeated to the shape of another one, so that its gradients are added up."""
        return False

    def along_items(self, x: Array, axes: int) -> Array:
        """One number per item, so that it broadcasts to flat arrays of so many axes."""
        return x.reshape(-1, *(1,) * (axes - 1))


class Elements(Layout):
    """Each number is a value."""

    axes_of_value = 0

    def flatten(self, name: str, inputs: Sequence[str], ops: Ops, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return arrays

    def shape(self, flat: tuple[Array, ...], shapes: tuple[Shape, ...]) -> Shape:
        return shapes[0]

    def values_shape(self, shape: Shape, keepdims: bool) -> Shape:
        return shape

    def restore(self, ops: Ops, x: Array, shape: Shape) -> Array:
        return x


class Broadcast(Elements):
    """Each number is a value, and several outputs broadcast to a common shape."""

    def flatten(self, name: str, inputs: Sequence[str], ops: Ops, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        try:
            return tuple(ops.xp.broadcast_arrays(*arrays))
        except ValueError:
            shapes = " and ".join(str(tuple(x.shape)) for x in arrays)
            raise fail(name, "guesses", "of shapes that broadcast", f"shapes {shapes}") from None

    def shape(self, flat: tuple[Array, ...], shapes: tuple[Shape, ...]) -> Shape:
        return tuple(flat[0].shape)

    def repeats(self, shapes: tuple[Shape, ...]) -> bool:
        return len(set(shapes)) > 1

    def restore(self, ops: Ops, x: Array, shape: Shape) -> Array:
        """What was repeated gets the sum of its gradients."""
        if tuple(x.shape) == shape:
            return x
        x = x.sum(axis=tuple(range(x.ndim - len(shape))))
        axes = tuple([i for i, n in enumerate(shape) if n != x.shape[i]])
        # Of one number NumPy makes a scalar.
        return ops.asarray(x.sum(axis=axes, keepdims=True))


class AlongAxis(Layout):
    """The numbers along an axis make a value: flat arrays are matrices of rows."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def axis_of(self, shape: Shape) -> int:
        """The axis that makes a value; -1 is the last one."""
        return self.axis

    @property
    def expected(self) -> str:
        """The shapes that are taken, for errors."""
        return f"(...) with 1 or more along axis {self.axis}"

    def flatten(self, name: str, inputs: Sequence[str], ops: Ops, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        axes = [self.checked_axis(name, what, x.shape) for what, x in zip(inputs, arrays)]
        return tuple([self._as_rows(ops, x, axis) for x, axis in zip(arrays, axes)])

    def _as_rows(self, ops: Ops, x: Array, axis: int) -> Array:
        if x.ndim == 2 and axis in (-1, 1):
            return x
        if axis not in (-1, x.ndim - 1):
            return ops.xp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        return x.reshape(-1, x.shape[axis])

    def checked_axis(self, name: str, what: str, shape: Shape) -> int:
        """The axis that makes a value, if it is there and not empty."""
        axis = self.axis_of(shape)
        if -len(shape) <= axis < len(shape) and shape[axis] >= 1:
            return axis
        raise fail(name, what, f"of shape {self.expected}", f"shape {tuple(shape)}")

    def shape(self, flat: tuple[Array, ...], shapes: tuple[Shape, ...]) -> Shape:
        return shapes[0]

    def values_shape(self, shape: Shape, keepdims: bool) -> Shape:
        axis = self.axis_of(shape) % len(shape)
        return shape[:axis] + (1,) * keepdims + shape[axis + 1 :]

    def keeps_memory(self, shape: Shape) -> bool:
        return len(shape) > 1 and self.axis_of(shape) % len(shape) == len(shape) - 1

    def is_joined_along_value(self, shape: Shape) -> bool:
        return not self.keeps_memory(shape) and self.axis_of(shape) == 0

    def restore(self, ops: Ops, x: Array, shape: Shape) -> Array:
        axis = self.axis_of(shape) % len(shape)
        moved = shape[:axis] + shape[axis + 1 :] + (shape[axis],)
        return ops.xp.moveaxis(x.reshape(moved), -1, axis)


class Vectors(AlongAxis):
    """The last axis makes a value."""

    expected = "(..., D) with D >= 1"

    def __init__(self) -> None:
        super().__init__(-1)


class Classes(AlongAxis):
    """The second axis of (N, C, d1, ...) makes a value, or the only one of (C,)."""

    expected = "(N, C), (C,) or (N, C, ...) with C >= 1"

    def __init__(self) -> None:
        super().__init__(1)

    def axis_of(self, shape: Shape) -> int:
        return 1 if len(shape) > 1 else 0


class Time(AlongAxis):
    """First and last axis of (T, N, C) make a value, or both of (T, C); flat arrays are (T, N, C)."""

    expected = "(T, N, C) or (T, C) with C >= 1"

    def __init__(self) -> None:
        super().__init__(-1)

    def flatten(self, name: str, inputs: Sequence[str], ops: Ops, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        for what, x in zip(inputs, arrays):
            self.checked_axis(name, what, x.shape)
        return tuple([x[:, None] if x.ndim == 2 else x for x in arrays])

    def checked_axis(self, name: str, what: str, shape: Shape) -> int:
        if len(shape) in (2, 3):
            return super().checked_axis(name, what, shape)
        raise fail(name, what, f"of shape {self.expected}", f"shape {tuple(shape)}")

    def values_shape(self, shape: Shape, keepdims: bool) -> Shape:
        return shape[1:-1]

    def keeps_memory(self, shape: Shape) -> bool:
        return True

    def is_joined_along_value(self, shape: Shape) -> bool:
        return True

    def along_items(self, x: Array, axes: int) -> Array:
        return x.reshape(1, -1, 1)

    def restore(self, ops: Ops, x: Array, shape: Shape) -> Array:
        return x[:, 0]


_BY_NAME: dict[Any, Layout] = {
    "elements": Elements(),
    "broadcast": Broadcast(),
    "vectors": Vectors(),
    "classes": Classes(),
    "time": Time(),
}


def layout_of(name: LayoutName) -> Layout:
    """The layout of a name, or of the number of an axis."""
    layout = _BY_NAME.get(name)
    if layout is None:
        assert isinstance(name, int), name
        layout = _BY_NAME[name] = AlongAxis(name)
    return layout
