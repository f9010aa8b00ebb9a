"""The kinds of losses with a formula: of elements, of rows, and of values that depend on several items."""

from __future__ import annotations

import contextlib
import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..checks import Interval, OneOf, check_domain, check_shape, describe
from ..config.options import positional_order
from ..ops import Array, Ops
from ..ops.base import compute_dtype, limits, without_float_warnings
from ..synonyms import closest
from .evaluation import Needs, TargetBatch
from .guesses import Batch
from .layouts import Broadcast, LayoutName
from .reduced import ReducedLoss
from .weights import Weights

__all__ = ["CoupledLoss", "ElementwiseLoss", "RowLoss"]


class ElementwiseLoss(ReducedLoss):
    """A loss whose value at an item depends on that item alone; a subclass writes `formula` and its docstring.

    `formula(xp, *guesses, truth, *options) -> value, *slopes` is pure array notation with arithmetic, comparisons and
    the functions of `FORMULA_FUNCTIONS`. It sees no weight, mask, reduction, dtype or device: the same function runs on
    every backend. Parameters after the truth are filled from options of the same names. With `truth_inputs = ()` there
    is no truth.
    """

    truth_domain: ClassVar[Interval | OneOf | None] = None
    guess_domain: ClassVar[Interval | None] = None

    formula: ClassVar[Callable[..., tuple[Any, ...]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_formula(cls)
        if cls.formula_options is ElementwiseLoss.formula_options and not cls.writes_init:
            _check_formula_options(cls)

    @classmethod
    def _check_class(cls) -> None:
        """Raise for a class without a formula."""
        super()._check_class()
        _check_has_formula(cls, "xp, guess, truth")

    def formula_options(self, ops: Ops) -> tuple[Any, ...]:
        """Numbers and arrays that the formula takes after the truth."""
        return tuple(getattr(self, name) for name in _formula_names(type(self)))

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """An array of the guesses' shape."""
        for x in batch.arrays[1:]:
            check_shape(batch.name, "guesses", x, batch.shape, self.inputs[0])
        if not self.truth_inputs:
            return TargetBatch(None)
        targets = batch.real("truths", truths)
        if isinstance(batch.layout, Broadcast) and tuple(targets.shape) != batch.shape:
            with contextlib.suppress(ValueError):  # the check below says it
                targets = batch.ops.xp.broadcast_to(targets, batch.shape)
        check_shape(batch.name, "truths", targets, batch.shape, "guesses")
        if check and self.truth_domain is not None:
            check_domain(
                batch.ops, batch.name, "truth values", targets, self.truth_domain, batch.mask, batch.describe_index
            )
        return TargetBatch(targets)

    def check_guesses(self, batch: Batch, items: Array | None) -> None:
        """Kept guesses lie in `guess_domain`."""
        if self.guess_domain is not None:
            mask = None if items is None else items != 0
            for x in batch.arrays:
                check_domain(batch.ops, batch.name, "guesses", x, self.guess_domain, mask, batch.describe_index)

    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """Hand the formula to the backend."""
        targets = (truths.targets,) if self.truth_inputs else ()
        options = self.formula_options(batch.ops)
        if batch.ops.xp.ndarray in map(type, options):
            dtype = compute_dtype(batch.arrays[0].dtype)
            options = tuple([_fitting_array(batch.ops, x, dtype) for x in options])
        others = (*targets, *options)
        return batch.ops.run(
            self.formula,
            batch.arrays,
            others,
            weights.items,
            weights.scale,
            rows=False,
            values=needs.values,
            total=needs.total,
            out=out,
        )


def _fitting_array(ops: Ops, options: Any, dtype: Any) -> Any:
    """An array of options with the rule of `fitting` for each number; what is no array as it is."""
    if not ops.owns(options):
        return options
    least, most = limits(dtype)
    size = abs(options)
    is_limited = (size > 0.0) & (size < np.inf)
    return ops.xp.where(is_limited, ops.xp.copysign(ops.xp.clip(size, least, most), options), options)


@functools.cache
def _formula_names(cls: type[ElementwiseLoss]) -> list[str]:
    """The options that a formula takes: its parameters after xp, the guesses and the truth."""
    return list(inspect.signature(cls.formula).parameters)[1 + len(cls.inputs) + len(cls.truth_inputs) :]


def _check_formula(cls: type) -> None:
    """Raise for a formula that would get the calculator as its first argument."""
    if callable(vars(cls).get("formula")) and not isinstance(vars(cls)["formula"], staticmethod):
        first = next(iter(inspect.signature(vars(cls)["formula"]).parameters), "")
        hint = f", without {first!r} as its first parameter" if first == "self" else ""
        raise TypeError(f"Cannot make the class {cls.__name__}: expected formula to be a @staticmethod{hint}.")


def _check_formula_options(cls: type[ElementwiseLoss]) -> None:
    """Raise for parameters of a formula that are neither options nor constants of the class."""
    if not hasattr(cls, "formula") or isinstance(cls.inputs, property):
        return
    known = positional_order(cls)
    for name in _formula_names(cls):
        if name not in known and not hasattr(cls, name):
            raise TypeError(
                f"Cannot make the class {cls.__name__}: expected parameters of its formula to be options, got {name!r}"
                f"{closest(name, known)} (options: {', '.join(known)})."
            )


def _check_has_formula(cls: type, parameters: str) -> None:
    """Raise for a class without a formula."""
    if not hasattr(cls, "formula"):
        expected = f"a @staticmethod formula({parameters}) that returns (value, gradient)"
        raise TypeError(f"Cannot make {cls.__name__}: expected {expected}, got a class without one.")


class RowLoss(ReducedLoss):
    """A loss with one value a row of (N, C) guesses; a subclass writes `formula`, and `arguments` for it.

    `formula(xp, *guesses, *arguments, *static) -> value, *slopes` has `ROW_FUNCTIONS` beside those of elements; see
    `Ops.run` for how it sees its arguments. Slopes are those of the value of their row.
    """

    layout: ClassVar[LayoutName] = "classes"

    formula: ClassVar[Callable[..., tuple[Any, ...]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_formula(cls)

    @classmethod
    def _check_class(cls) -> None:
        """Raise for a class without a formula."""
        super()._check_class()
        _check_has_formula(cls, "xp, guesses, *arguments")

    @abstractmethod
    def arguments(self, batch: Batch, truths: TargetBatch) -> tuple[Any, ...]:
        """What the formula takes after the guesses."""

    def static(self) -> tuple[Any, ...]:
        """Options that the formula branches on."""
        return ()

    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """Hand the formula to the backend."""
        items = weights.items
        if items is not None:
            items = batch.ops.xp.broadcast_to(items, batch.values_shape).reshape(batch.arrays[0].shape[0])
        arguments = self.arguments(batch, truths)
        if not isinstance(arguments, tuple):
            raise TypeError(
                f"Cannot calculate {batch.name}: expected arguments() to return a tuple, got {describe(arguments)}."
            )
        return batch.ops.run(
            self.formula,
            batch.arrays,
            arguments,
            items,
            weights.scale,
            static_options=self.static(),
            rows=True,
            values=needs.values,
            total=needs.total,
            out=out,
        )


class CoupledLoss(ReducedLoss):
    """A loss whose value at an item depends on other items of the batch; a subclass writes `forward`.

    A masked item is as good as deleted: it comes as zeros, and `forward` must keep it out of the others' values.
    """

    @abstractmethod
    def forward(
        self, batch: Batch, arrays: tuple[Array, ...], targets: Any, mask: Array | None
    ) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """(values, backprop): `backprop` takes the slope with respect to each value and returns that of each input."""

    @without_float_warnings
    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """Forward on the kept items, and back from their weights."""
        ops, items = batch.ops, weights.items
        dtype = compute_dtype(batch.arrays[0].dtype)
        arrays = [x.astype(dtype, copy=False) for x in batch.arrays]
        mask = batch.mask
        if mask is not None:
            along_items = batch.layout.along_items(mask, arrays[0].ndim)
            arrays = [ops.xp.where(along_items, x, dtype.type(0)) for x in arrays]
        if items is not None:
            items = ops.xp.broadcast_to(items, batch.values_shape)
        values, backprop = self.forward(batch, tuple(arrays), truths.targets, mask)
        if out is not None:
            slopes = (ops.xp.ones(values.shape) * weights.scale).astype(dtype)
            for target, grad in zip(out, backprop(ops.weighted(slopes, items)), strict=True):
                target[...] = grad
        return (
            ops.weighted(values, items) if needs.values else None,
            ops.total(values, items) if needs.total else None,
        )
