"""The calculators' interface, and the one pipeline that all calculators with a formula share."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .arrays import Batch, Layout
from .checks import Interval, OneOf, check_domain, check_shape, describe, fail
from .interop import OURS, foreign_arrays, is_foreign, like
from .ops import Array, Ops
from .ops.base import compute_dtype, limits, without_float_warnings
from .reduction import NormalizeBy, Reduction, Weights, item_array, times_power_of_two, weigh
from .schema import Configurable, positional_order, replaced
from .state import LossState
from .synonyms import CALL_ARGUMENTS, closest
from .trees import tree_map

if TYPE_CHECKING:
    from typing_extensions import Never

__all__ = ["CoupledLoss", "ElementwiseLoss", "Loss", "ReducedLoss", "RowLoss", "Truths"]


LEAST_SCALE, LARGEST_SCALE = 2.0**-126, 2.0**86
"""Scales with which float32 computes: a smaller one would lose digits. A weight is below 2**41 (see
`reduction.NEAR_1`), and times a larger one it could be infinite."""


class Loss(Configurable, ABC):
    """A calculator of a loss and its gradient with respect to the guesses.

    `get_grad`, `get_loss` and both at once by calling the object. A subclass writes `get_grad` and `get_loss`, or
    `__call__`, and has the rest from here. It may have an `__init__` of its own, or options as annotated fields:

    >>> import numpy as np
    >>> import lossreg
    >>> class SquaredDistance(lossreg.Loss):
    ...     def __init__(self, scale: float = 1.0):
    ...         self.scale = scale
    ...
    ...     def get_grad(self, guesses, truths):
    ...         return 2.0 * self.scale * (guesses - truths)
    ...
    ...     def get_loss(self, guesses, truths):
    ...         return self.scale * float(((guesses - truths) ** 2).sum())
    >>> SquaredDistance(0.5)(np.array([3.0]), np.array([1.0]))
    (array([2.]), 2.0)
    """

    @classmethod
    def _check_class(cls) -> None:
        """Raise for a class that lacks a method: the ones here would call each other for ever."""
        written = [name for name in ("get_grad", "get_loss") if getattr(cls, name) is not getattr(Loss, name)]
        if cls.__call__ is Loss.__call__ and len(written) < 2:
            got = " and ".join(written) or "none of them"
            raise TypeError(f"Cannot make {cls.__name__}: expected get_grad and get_loss, or __call__, got {got}.")

    def __call__(self, guesses: Any, truths: Any, *more: Any, **named: Any) -> tuple[Any, Any]:
        """(gradient, loss). Whatever else `get_grad` and `get_loss` take may follow."""
        return self.get_grad(guesses, truths, *more, **named), self.get_loss(guesses, truths, *more, **named)

    def get_grad(self, guesses: Any, truths: Any, *more: Any, **named: Any) -> Any:
        """The gradient, arranged as the guesses are."""
        return self._both(guesses, truths, *more, **named)[0]

    def get_loss(self, guesses: Any, truths: Any, *more: Any, **named: Any) -> Any:
        """The loss."""
        return self._both(guesses, truths, *more, **named)[1]

    def _both(self, *arguments: Any, **named: Any) -> tuple[Any, Any]:
        """What a `__call__` of somebody's returns."""
        result = self(*arguments, **named)
        if not isinstance(result, tuple) or len(result) != 2:
            name = type(self).__name__
            raise TypeError(
                f"Cannot calculate {name}: expected __call__ to return (gradient, loss), got {describe(result)}."
            )
        return result


@dataclass(eq=False)
class Truths:
    """Truths as the formula wants them, and what they say about weights."""

    targets: Any
    present: Array | None = None
    """False where a truth is missing."""
    weight: Array | None = None
    """Weight of each item, such as that of its class, over 2**`exponent`."""
    in_formula: bool = False
    """Whether the formula applies the weight itself. Otherwise it multiplies the values behind the formula."""
    in_mean: bool = False
    """Whether a mean divides by the weight, too."""
    exponent: int = 0
    """What `weight` and the values lack: formulas compute in float32, where weights of some sizes are no numbers."""
    by_place: bool = False
    """Whether the weight belongs to the place of an item, such as its column, and not to its truth."""


@dataclass(frozen=True)
class Wanted:
    """What a call asks of the formula."""

    total: bool = False
    values: bool = False
    grad: bool = False
    unscaled: bool = False
    """Whether the gradient is that of the total, before it is divided."""
    state: bool = True
    """Whether a state is made, which takes a fiftieth of a small call."""


_WANTED = {
    (values, grad): Wanted(total=not values, values=values, grad=grad, state=False)
    for values in (False, True)
    for grad in (False, True)
}
_NOTHING = Wanted(state=False)
"""The inputs are read and checked, and nothing is calculated."""
_ACCUMULATED = Wanted(total=True, grad=True, unscaled=True)


class ReducedLoss(Loss):
    """A loss that is a reduction of values, one for each item: the pipeline.

    guesses -> arrays -> targets, present -> weights, divisor -> formula on the arrays' backend -> total, gradient.
    The weights and the divisor depend on truths and options alone, so value and gradient come out of one pass.
    Arrays of PyTorch, JAX and other libraries with DLPack are not copied, and the gradient is of the guesses' library.

    reduction: "mean", "sum", "none" (the values, and the gradient of their sum), "batch_mean" (divides by
        `len(guesses)`), "weighted_mean" (divides by the sum of the weights), "sequence_mean" (the mean over sequences
        of their means: parts of a list or Ragged, entries of the first axis of other values).
    normalize_by: "mask": means divide by what mask and missing truths leave; "values": by everything.
    validate: "full" checks the range of the data as well, "shape" does not, "auto" is full on the CPU and shape on a
        GPU, where looking at data makes the host wait.
    """

    reduction: Reduction = "mean"
    normalize_by: NormalizeBy = "mask"
    validate: Literal["auto", "full", "shape"] = "auto"

    inputs: ClassVar[tuple[str, ...]] = ("guesses",)
    """Names of the model outputs; more than one are passed and returned as a tuple."""
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    """Names of optional model outputs, after the required ones."""
    truth_inputs: ClassVar[tuple[str, ...]] = ("truths",)
    """Names of the truths; more than one are passed as a tuple, and without any there are no truths."""
    flat_masks: ClassVar[bool] = False
    """Whether a mask of any shape with one number for each value is taken."""
    weight_input: ClassVar[bool] = False
    """Whether the functional form takes a weight for each element after the truths."""
    layout: ClassVar[Layout] = "elements"

    def __call__(
        self,
        guesses: Any = ...,
        truths: Any = ...,
        *more: Never,
        mask: Any = None,
        sample_weight: Any = None,
        out: Any = None,
        **wrong: Never,
    ) -> tuple[Any, Any]:
        """(gradient, loss) in one pass.

        mask: bool, or fractions in [0, 1]; broadcasts to the values. Items with 0 are left out, whatever they hold.
        sample_weight: factors >= 0 that broadcast to the values; a mean does not divide by them.
        out: array (or tuple of arrays) for the gradient, of the guesses' shape and dtype; `out=guesses` is allowed.
        """
        if more or wrong or guesses is ...:
            raise self._misused("", guesses, truths, more, wrong)
        state, result, grad = self._run(guesses, truths, mask, sample_weight, out, self._wanted(grad=True))
        return grad, like(guesses, self._loss(state, result))

    def get_grad(
        self,
        guesses: Any = ...,
        truths: Any = ...,
        *more: Never,
        mask: Any = None,
        sample_weight: Any = None,
        out: Any = None,
        **wrong: Never,
    ) -> Any:
        """The gradient of the loss, arranged as the guesses are."""
        if more or wrong or guesses is ...:
            raise self._misused(".get_grad", guesses, truths, more, wrong)
        return self._run(guesses, truths, mask, sample_weight, out, Wanted(grad=True))[2]

    def get_loss(
        self,
        guesses: Any = ...,
        truths: Any = ...,
        *more: Never,
        mask: Any = None,
        sample_weight: Any = None,
        **wrong: Never,
    ) -> Any:
        """The loss: a float (a 0-d array on a GPU), or the values with reduction "none"."""
        if more or wrong or guesses is ...:
            raise self._misused(".get_loss", guesses, truths, more, wrong)
        state, result, _ = self._run(guesses, truths, mask, sample_weight, None, self._wanted())
        return like(guesses, self._loss(state, result))

    def get_values(
        self,
        guesses: Any = ...,
        truths: Any = ...,
        *more: Never,
        mask: Any = None,
        sample_weight: Any = None,
        **wrong: Never,
    ) -> Any:
        """The values before reduction, times their weights; 0 where masked or missing."""
        if more or wrong or guesses is ...:
            raise self._misused(".get_values", guesses, truths, more, wrong)
        return self._unreduced.get_loss(guesses, truths, mask=mask, sample_weight=sample_weight)

    @functools.cached_property
    def _unreduced(self) -> ReducedLoss:
        return replaced(self, reduction="none")  # type: ignore[no-any-return]

    def get_state(
        self,
        guesses: Any = ...,
        truths: Any = ...,
        *more: Never,
        mask: Any = None,
        sample_weight: Any = None,
        step: Any = None,
        **wrong: Never,
    ) -> LossState:
        """The partial result of this batch: states merge to the loss of all batches together.

        step: taken so that terms and calculators are called alike; only a weight that changes over time reads it.
        """
        if more or wrong or guesses is ...:
            raise self._misused(".get_state", guesses, truths, more, wrong)
        return self._run(guesses, truths, mask, sample_weight, None, Wanted(total=True))[0]

    def get_state_and_grad(
        self,
        guesses: Any = ...,
        truths: Any = ...,
        *more: Never,
        mask: Any = None,
        sample_weight: Any = None,
        out: Any = None,
        **wrong: Never,
    ) -> tuple[LossState, Any]:
        """(state, gradient of its total) in one pass, for gradients that are added up over batches.

        The gradient is not divided: `state.scale(...)` of the merged state does that to what was added up, and the
        result is the gradient that one big batch would give, whatever masks and weights the parts had.
        """
        if more or wrong or guesses is ...:
            raise self._misused(".get_state_and_grad", guesses, truths, more, wrong)
        state, _, grad = self._run(guesses, truths, mask, sample_weight, out, _ACCUMULATED)
        return state, grad

    def empty(self) -> LossState:
        """The state of no data."""
        return LossState(0.0, None if self.reduction in ("sum", "none") else 0.0, parent=self)

    # For subclasses

    def read_guesses(self, guesses: Any) -> Batch:
        """Guesses as flat arrays."""
        return Batch.read(type(self).__name__, guesses, self.inputs, self.layout)

    @abstractmethod
    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """Truths as arrays; raises on wrong ones."""

    @abstractmethod
    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """(weighted values or None, their total or None); gradients of the weighted, scaled total go into `out`."""

    def bound_gradients(self, grads: list[Array], weights: Weights) -> None:
        """Limit the gradients that are returned, with all weights in them. Most losses have no limit."""

    @property
    def unscaled(self) -> bool:
        """Whether the loss is its state, and the gradient that of the total."""
        return False

    def divided_by(self) -> Reduction:
        """The reduction that decides the divisor."""
        return self.reduction

    def _values_like(self, guesses: Any) -> Any:
        """Zeros that are arranged as the values are."""
        batch = self.read_guesses(guesses)
        return batch.split(batch.ops.xp.zeros(batch.values_shape, batch.arrays[0].dtype))

    # The pipeline

    def _misused(self, method: str, guesses: Any, truths: Any, more: tuple[Any, ...], wrong: dict[str, Any]) -> Any:
        """TypeError that names the arguments that this call does not take, and shows the call to write."""
        name = type(self).__name__
        outputs = f"({', '.join(self.inputs)})" if len(self.inputs) > 1 else "guesses"
        arguments = ", ".join((outputs, *self.truth_inputs))
        expected = f"{name}(){method}({arguments}), with mask= and sample_weight= by name"
        got = ", ".join(f"{word}={_kind_of(value)}" for word, value in wrong.items())
        if more:
            given = (guesses, truths, *more)
            got = f"{len(given)} arguments by position"
            if len(self.inputs) > 1:
                expected = f"{name}(){method}({arguments}), with the {len(self.inputs)} inputs in one tuple"
        elif wrong:
            hints = [f"{word} is {CALL_ARGUMENTS[word]} here" for word in wrong if word in CALL_ARGUMENTS]
            got += f" ({', '.join(hints)})" if hints else ""
        return TypeError(f"Cannot calculate {name}: expected {expected}, got {got or 'no guesses'}.")

    def _wanted(self, grad: bool = False) -> Wanted:
        return _WANTED[self.reduction == "none", grad]

    def _loss(self, state: LossState, result: Any) -> Any:
        return state if self.unscaled else result

    def _run(
        self,
        guesses: Any,
        truths: Any,
        mask: Any,
        sample_weight: Any,
        out: Any,
        wanted: Wanted,
        weight: Any = 1.0,
    ) -> tuple[LossState, Any, Any]:
        """(state, values or loss, gradient), each if it is wanted.

        weight: multiplies the gradient; a number, or slopes with respect to the values, arranged as they are.
        """
        for x in (guesses, truths, mask, sample_weight, out):  # a wrapper around every call takes longer
            if type(x) not in OURS and is_foreign(x):
                return self._run_on_ours(guesses, truths, mask, sample_weight, out, wanted, weight)
        inputs = guesses, truths, mask, sample_weight
        batch = self.read_guesses(guesses)
        ops = batch.ops
        if truths is ... or not self.truth_inputs:
            self._check_no_truths(batch, truths)
            truths = None
        if batch.lengths == ():
            return self._of_no_sequences(batch, truths, wanted)
        check = self.validate == "full" or (self.validate == "auto" and not ops.on_device)
        if mask is not None:
            mask = self._read_mask(batch, mask, check)
        read = self.read_truths(batch, truths, check)
        if sample_weight is not None:
            sample_weight = item_array(batch, "sample_weight", sample_weight, upper=np.inf, check=check)
            if sample_weight.dtype.kind in "iu":
                sample_weight = sample_weight.astype(np.float64)
        if wanted is _NOTHING:
            return self.empty(), None, None

        weights = weigh(
            batch,
            self.divided_by(),
            self.normalize_by,
            mask=mask,
            present=read.present,
            sample_weight=sample_weight,
            weight=read.weight,
            by_place=read.by_place,
            in_formula=read.in_formula,
            in_mean=read.in_mean,
            exponent=read.exponent,
        )
        if wanted.unscaled or self.unscaled:
            weights.scale = times_power_of_two(ops, 1.0, weights.exponent)
        if not isinstance(weight, float):
            slopes = batch.join("weight", weight).reshape(batch.values_shape)
            weights.items = slopes if weights.items is None else ops.weighted(slopes, weights.items)
        elif weight != 1.0:
            weights.scale = weights.scale * weight
        if check:
            self.check_guesses(batch, weights.items)

        grads = batch.gradient_arrays(out, inputs) if wanted.grad else None
        values, total = self._computed(batch, read, weights, wanted, grads)
        result = None
        if wanted.values:
            result = self._returned_values(batch, values, weights)
        if wanted.total:
            total = ops.scalar(total)
            result = weights.loss(ops, total)
        state: Any = None
        if wanted.state or self.unscaled:
            state_total = weights.total(ops, total) if wanted.total else None
            state = LossState(state_total, weights.count(ops), parent=self)
        return state, result, None if grads is None else batch.finish(grads, out)

    def _check_shapes(self, guesses: Any, truths: Any, mask: Any, sample_weight: Any) -> None:
        """Raise as a call does for arrays of other shapes or dtypes, whatever the arrays hold.

        Nothing that a mask leaves out is looked at, so it leaves out everything.
        """
        mask = self._values_like(guesses) if mask is None else tree_map(np.zeros_like, mask)
        self._run(guesses, truths, mask, sample_weight, None, _NOTHING)

    def _check_no_truths(self, batch: Batch, truths: Any) -> None:
        """Raise unless truths are given to a loss that has some, and to no other."""
        if self.truth_inputs:
            raise fail(batch.name, ", ".join(self.truth_inputs), "beside guesses", "none")
        if truths is not None and truths is not ...:
            raise fail(batch.name, "truths", "to be None", describe(truths))

    def _of_no_sequences(self, batch: Batch, truths: Any, wanted: Wanted) -> tuple[LossState, Any, Any]:
        """What `_run` returns for an empty list of sequences."""
        batch.unpack("truths", truths if self.truth_inputs else [])
        result: Any = 0.0
        if wanted.values:
            result = batch.split(batch.ops.xp.zeros(batch.values_shape, batch.arrays[0].dtype))
        return self.empty(), result, batch.restore(batch.gradient_arrays(None, ()))

    def _read_mask(self, batch: Batch, mask: Any, check: bool) -> Array:
        """The caller's mask as an array; what it keeps is kept in the batch, for the readers of truths."""
        if self.flat_masks:
            mask = self._flat_mask(batch, mask)
        mask = item_array(batch, "mask", mask, upper=1.0, check=check)
        selected = mask != 0
        batch.kept = batch.ops.xp.broadcast_to(selected, batch.values_shape)
        return selected if mask.dtype.kind in "iu" else mask

    @without_float_warnings  # to half precision, too
    def _returned_values(self, batch: Batch, values: Any, weights: Weights) -> Any:
        """The values with all that belongs to them, as the caller gets them."""
        values = times_power_of_two(batch.ops, values.reshape(batch.values_shape), weights.exponent)
        return batch.split(values.astype(batch.arrays[0].dtype, copy=False))

    def _computed(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, grads: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """As `compute`, with a scale of any size."""
        if grads is None:
            return self.compute(batch, truths, weights, wanted, None)
        scale = weights.scale
        if isinstance(scale, float):
            if scale != 0.0 and not LEAST_SCALE <= abs(scale) <= LARGEST_SCALE:
                return self._computed_wide(batch, truths, weights, wanted, grads)
        elif not isinstance(weights.exponent, int):
            # Its size is on the device, where all weights are below 2: a gradient that would be infinite is large
            # instead, so that one of 0 stays 0.
            _, most = limits(compute_dtype(batch.arrays[0].dtype))
            weights.scale = batch.ops.xp.clip(scale, -most / 4.0, most / 4.0)
        result = self.compute(batch, truths, weights, wanted, grads)
        self.bound_gradients(grads, weights)
        return result

    @without_float_warnings
    def _computed_wide(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, grads: list[Array]
    ) -> tuple[Array | None, Any]:
        """As `compute`, with a scale that float32 cannot hold: what it lacks follows in float64."""
        ops, largest = batch.ops, sys.float_info.max
        scale = max(-largest, min(weights.scale, largest))
        weights.scale, exponent = math.frexp(scale)
        wide = [ops.xp.empty(x.shape, compute_dtype(x.dtype)) for x in grads]
        found = self.compute(batch, truths, weights, wanted, wide)
        for target, grad in zip(grads, wide):
            target[...] = times_power_of_two(ops, grad.astype(np.float64, copy=False), exponent)
        weights.scale = scale
        self.bound_gradients(grads, weights)
        return found

    @staticmethod
    def _flat_mask(batch: Batch, mask: Any) -> Any:
        """A mask of any shape that has one number for each value, in the values' shape; others as they are."""
        if isinstance(mask, (list, tuple)) and batch.lengths is None:
            with contextlib.suppress(ValueError):  # uneven parts, of which the check of masks speaks
                mask = batch.ops.asarray(mask)
        if not batch.ops.owns(mask) or mask.shape == batch.values_shape or mask.size != math.prod(batch.values_shape):
            return mask
        return mask.reshape(batch.values_shape)

    _run_on_ours = foreign_arrays(_run)

    def check_guesses(self, batch: Batch, items: Array | None) -> None:
        """Raise when kept guesses lie outside the domain of the loss. Most losses take every number."""


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

    def read_truths(self, batch: Batch, truths: Any, check: bool) -> Truths:
        """An array of the guesses' shape."""
        for x in batch.arrays[1:]:
            check_shape(batch.name, "guesses", x, batch.shape, self.inputs[0])
        if not self.truth_inputs:
            return Truths(None)
        targets = batch.real("truths", truths)
        if batch.layout == "broadcast" and tuple(targets.shape) != batch.shape:
            with contextlib.suppress(ValueError):  # the check below says it
                targets = batch.ops.xp.broadcast_to(targets, batch.shape)
        check_shape(batch.name, "truths", targets, batch.shape, "guesses")
        if check and self.truth_domain is not None:
            check_domain(batch.ops, batch.name, "truth values", targets, self.truth_domain, batch.kept, batch.place)
        return Truths(targets)

    def check_guesses(self, batch: Batch, items: Array | None) -> None:
        """Kept guesses lie in `guess_domain`."""
        if self.guess_domain is not None:
            kept = None if items is None else items != 0
            for x in batch.arrays:
                check_domain(batch.ops, batch.name, "guesses", x, self.guess_domain, kept, batch.place)

    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, out: list[Array] | None
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
            values=wanted.values,
            total=wanted.total,
            out=out,
        )


def _kind_of(value: Any) -> str:
    return "..." if hasattr(value, "shape") else describe(value)


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

    layout: ClassVar[Layout] = "classes"

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
    def arguments(self, batch: Batch, truths: Truths) -> tuple[Any, ...]:
        """What the formula takes after the guesses."""

    def static(self) -> tuple[Any, ...]:
        """Options that the formula branches on."""
        return ()

    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, out: list[Array] | None
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
            static=self.static(),
            rows=True,
            values=wanted.values,
            total=wanted.total,
            out=out,
        )


class CoupledLoss(ReducedLoss):
    """A loss whose value at an item depends on other items of the batch; a subclass writes `forward`.

    A masked item is as good as deleted: it comes as zeros, and `forward` must keep it out of the others' values.
    """

    @abstractmethod
    def forward(
        self, batch: Batch, arrays: tuple[Array, ...], targets: Any, kept: Array | None
    ) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """(values, backprop): `backprop` takes the slope with respect to each value and returns that of each input."""

    @without_float_warnings
    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, wanted: Wanted, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """Forward on the kept items, and back from their weights."""
        ops, items = batch.ops, weights.items
        dtype = compute_dtype(batch.arrays[0].dtype)
        arrays = [x.astype(dtype, copy=False) for x in batch.arrays]
        kept = batch.kept
        if kept is not None:
            at = (1, -1, 1) if batch.layout == "time" else (-1, *(1 for _ in arrays[0].shape[1:]))
            arrays = [ops.xp.where(kept.reshape(at), x, dtype.type(0)) for x in arrays]
        if items is not None:
            items = ops.xp.broadcast_to(items, batch.values_shape)
        values, backprop = self.forward(batch, tuple(arrays), truths.targets, kept)
        if out is not None:
            slopes = (ops.xp.ones(values.shape) * weights.scale).astype(dtype)
            for target, grad in zip(out, backprop(ops.weighted(slopes, items)), strict=True):
                target[...] = grad
        return (
            ops.weighted(values, items) if wanted.values else None,
            ops.total(values, items) if wanted.total else None,
        )
