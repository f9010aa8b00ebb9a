"""`ReducedLoss`: the one way from guesses and truths to loss and gradient that all calculators of lossreg share."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from ..arrays.dlpack import foreign_arrays, like
from ..arrays.trees import tree_map
from ..checks import describe, fail
from ..config.options import replaced
from ..ops import Array
from ..ops.base import compute_dtype, limits, without_float_warnings
from ..states.averages import LossState
from ..synonyms import CALL_ARGUMENTS
from .evaluation import Call, Evaluation, Needs, TargetBatch
from .guesses import Batch
from .layouts import LayoutName
from .loss import Loss
from .weights import NormalizeBy, Reduction, Weights, combine_weights, item_array, times_power_of_two

if TYPE_CHECKING:
    from typing_extensions import Never

__all__ = ["Inputs", "ReducedLoss"]


LEAST_SCALE, LARGEST_SCALE = 2.0**-126, 2.0**86
"""Scales with which float32 computes: a smaller one would lose digits. A weight is below 2**41 (see
`reduction.NEAR_1`), and times a larger one it could be infinite."""


NEEDS_OF_CALL = {
    (returns_values, grad): Needs(total=not returns_values, values=returns_values, grad=grad, state=False)
    for returns_values in (False, True)
    for grad in (False, True)
}
"""What a call needs: by whether it returns values, and whether it returns a gradient."""

GRADIENT = Needs(grad=True, state=False)
"""What `get_grad` needs."""

UNDIVIDED = Needs(total=True, grad=True, undivided=True)
"""What is added up over batches."""


class Inputs(NamedTuple):
    """The arguments of a call as arrays."""

    batch: Batch
    truths: TargetBatch
    mask: Array | None = None
    sample_weight: Array | None = None
    check: bool = False
    """Whether the ranges of data are checked."""


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
    layout: ClassVar[LayoutName] = "elements"
    """Which axes of guesses make one value: see `lossreg.pipeline.layouts`."""

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
        needs = NEEDS_OF_CALL[self.returns_values, True]
        evaluation = self.evaluate(Call(guesses, truths, mask, sample_weight, out), needs)
        return evaluation.grads, like(guesses, evaluation.result)

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
        return self.evaluate(Call(guesses, truths, mask, sample_weight, out), GRADIENT).grads

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
        needs = NEEDS_OF_CALL[self.returns_values, False]
        return like(guesses, self.evaluate(Call(guesses, truths, mask, sample_weight), needs).result)

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
        state: LossState = self.evaluate(Call(guesses, truths, mask, sample_weight), Needs(total=True)).state
        return state

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
        evaluation = self.evaluate(Call(guesses, truths, mask, sample_weight, out), UNDIVIDED)
        return evaluation.state, evaluation.grads

    def empty(self) -> LossState:
        """The state of no data."""
        return LossState(0.0, None if self.reduction in ("sum", "none") else 0.0, parent=self)

    # For subclasses

    def read_guesses(self, guesses: Any) -> Batch:
        """Guesses as flat arrays."""
        return Batch.read(type(self).__name__, guesses, self.inputs, self.layout)

    @abstractmethod
    def read_truths(self, batch: Batch, truths: Any, check: bool) -> TargetBatch:
        """Truths as arrays; raises on wrong ones."""

    @abstractmethod
    def compute(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """(weighted values or None, their total or None); gradients of the weighted, scaled total go into `out`."""

    def bound_gradients(self, grads: list[Array], weights: Weights) -> None:
        """Limit the gradients that are returned, with all weights in them. Most losses have no limit."""

    @property
    def returns_state(self) -> bool:
        """Whether the loss is its state, and the gradient that of the total."""
        return False

    @property
    def returns_values(self) -> bool:
        """Whether nothing is reduced, so that the loss is the values."""
        return self.reduction == "none"

    @property
    def effective_reduction(self) -> Reduction:
        """The reduction that decides the divisor."""
        return self.reduction

    def values_like(self, guesses: Any) -> Any:
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

    def evaluate(self, call: Call, needs: Needs) -> Evaluation:
        """What a call gives. All methods of calculators come here, and so do terms, sequences and other libraries."""
        if call.has_external_arrays():
            return self._evaluate_external(call, needs)

        # 1. Arguments as flat arrays of one backend.
        batch, truths, mask, sample_weight, check = self.read(call)
        ops = batch.ops
        if batch.lengths == ():
            return self._evaluate_no_sequences(batch, needs)

        # 2. One weight per value, and the divisor. Neither depends on guesses, so one pass gives value and gradient.
        weights = combine_weights(
            batch,
            self.effective_reduction,
            self.normalize_by,
            truths=truths,
            mask=mask,
            sample_weight=sample_weight,
        )
        self._scale_gradients(batch, weights, needs, call.output_grad)
        if check:
            self.check_guesses(batch, weights.items)

        # 3. The formula: values or their total; gradients are written to their arrays.
        grads = batch.gradient_arrays(call.out, call.inputs) if needs.grad else None
        values, total = self._computed(batch, truths, weights, needs, grads)

        # 4. What the caller gets.
        result = state = None
        if needs.values:
            result = self._returned_values(batch, values, weights)
        if needs.total:
            total = ops.scalar(total)
            result = weights.loss(ops, total)
        if needs.state or self.returns_state:
            state_total = weights.total(ops, total) if needs.total else None
            state = LossState(state_total, weights.count(ops), parent=self)
        if self.returns_state:
            result = state
        return Evaluation(state, result, None if grads is None else batch.finish(grads, call.out))

    def read(self, call: Call) -> Inputs:
        """The arguments of a call as arrays; raises for wrong ones."""
        batch, truths = self.read_guesses(call.guesses), call.truths
        if truths is ... or not self.truth_inputs:
            self._check_no_truths(batch, truths)
            truths = None
        if batch.lengths == ():
            batch.unpack("truths", truths if self.truth_inputs else [])
            return Inputs(batch, TargetBatch(None))

        # The mask comes first: nobody looks at the truths that it leaves out.
        check = self.validate == "full" or (self.validate == "auto" and not batch.ops.on_device)
        mask, sample_weight = call.mask, call.sample_weight
        if mask is not None:
            mask = self._read_mask(batch, mask, check)
        read = self.read_truths(batch, truths, check)
        if sample_weight is not None:
            sample_weight = item_array(batch, "sample_weight", sample_weight, upper=np.inf, check=check)
            if sample_weight.dtype.kind in "iu":
                sample_weight = sample_weight.astype(np.float64)
        return Inputs(batch, read, mask, sample_weight, check)

    def check_shapes(self, call: Call) -> None:
        """Raise as a call does for arrays of other shapes or dtypes, whatever the arrays hold.

        Nothing that a mask leaves out is looked at, so it leaves out everything. Only a reader of truths of this
        package is known to keep to that.
        """
        if not type(self).read_truths.__module__.startswith(__name__.partition(".")[0] + "."):
            return
        if call.mask is None:
            mask = self.values_like(call.guesses)
        else:
            mask = tree_map(np.zeros_like, call.mask)
        self.read(replace(call, mask=mask))

    def _evaluate_external(self, call: Call, needs: Needs) -> Evaluation:
        """As `evaluate`, for arrays of other libraries: converted once, here."""
        return Evaluation(*self._evaluate_converted(*call.inputs, call.out, needs, call.output_grad))

    @foreign_arrays
    def _evaluate_converted(
        self, guesses: Any, truths: Any, mask: Any, sample_weight: Any, out: Any, needs: Needs, output_grad: Any
    ) -> tuple[Any, Any, Any]:
        evaluation = self.evaluate(Call(guesses, truths, mask, sample_weight, out, output_grad), needs)
        return evaluation.state, evaluation.result, evaluation.grads

    def _scale_gradients(self, batch: Batch, weights: Weights, needs: Needs, output_grad: Any) -> None:
        """Set what the gradient is multiplied by, beside the weights of items."""
        if needs.undivided or self.returns_state:
            weights.scale = times_power_of_two(batch.ops, 1.0, weights.exponent)
        if not isinstance(output_grad, float):
            output_grad = batch.join("output_grad", output_grad).reshape(batch.values_shape)
            weights.items = output_grad if weights.items is None else batch.ops.weighted(output_grad, weights.items)
        elif output_grad != 1.0:
            weights.scale = weights.scale * output_grad

    def _check_no_truths(self, batch: Batch, truths: Any) -> None:
        """Raise unless truths are given to a loss that has some, and to no other."""
        if self.truth_inputs:
            raise fail(batch.name, ", ".join(self.truth_inputs), "beside guesses", "none")
        if truths is not None and truths is not ...:
            raise fail(batch.name, "truths", "to be None", describe(truths))

    def _evaluate_no_sequences(self, batch: Batch, needs: Needs) -> Evaluation:
        """As `evaluate`, of an empty list of sequences."""
        state = self.empty()
        result: Any = 0.0
        if needs.values:
            result = batch.split(batch.ops.xp.zeros(batch.values_shape, batch.arrays[0].dtype))
        elif self.returns_state:
            result = state
        return Evaluation(state, result, batch.restore(batch.gradient_arrays(None, ())))

    def _read_mask(self, batch: Batch, mask: Any, check: bool) -> Array:
        """The caller's mask as an array; what it keeps is kept in the batch, for the readers of truths."""
        if self.flat_masks:
            mask = self._flat_mask(batch, mask)
        mask = item_array(batch, "mask", mask, upper=1.0, check=check)
        selected = mask != 0
        batch.mask = batch.ops.xp.broadcast_to(selected, batch.values_shape)
        return selected if mask.dtype.kind in "iu" else mask

    @without_float_warnings  # to half precision, too
    def _returned_values(self, batch: Batch, values: Any, weights: Weights) -> Any:
        """The values with all that belongs to them, as the caller gets them."""
        values = times_power_of_two(batch.ops, values.reshape(batch.values_shape), weights.exponent)
        return batch.split(values.astype(batch.arrays[0].dtype, copy=False))

    def _computed(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, grads: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """As `compute`, with a scale of any size."""
        if grads is None:
            return self.compute(batch, truths, weights, needs, None)
        scale = weights.scale
        if isinstance(scale, float):
            if scale != 0.0 and not LEAST_SCALE <= abs(scale) <= LARGEST_SCALE:
                return self._computed_wide(batch, truths, weights, needs, grads)
        elif not isinstance(weights.exponent, int):
            # Its size is on the device, where all weights are below 2: a gradient that would be infinite is large
            # instead, so that one of 0 stays 0.
            _, most = limits(compute_dtype(batch.arrays[0].dtype))
            weights.scale = batch.ops.xp.clip(scale, -most / 4.0, most / 4.0)
        result = self.compute(batch, truths, weights, needs, grads)
        self.bound_gradients(grads, weights)
        return result

    @without_float_warnings
    def _computed_wide(
        self, batch: Batch, truths: TargetBatch, weights: Weights, needs: Needs, grads: list[Array]
    ) -> tuple[Array | None, Any]:
        """As `compute`, with a scale that float32 cannot hold: what it lacks follows in float64."""
        ops, largest = batch.ops, sys.float_info.max
        scale = max(-largest, min(weights.scale, largest))
        weights.scale, exponent = math.frexp(scale)
        wide = [ops.xp.empty(x.shape, compute_dtype(x.dtype)) for x in grads]
        found = self.compute(batch, truths, weights, needs, wide)
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

    def check_guesses(self, batch: Batch, items: Array | None) -> None:
        """Raise when kept guesses lie outside the domain of the loss. Most losses take every number."""


def _kind_of(value: Any) -> str:
    return "..." if hasattr(value, "shape") else describe(value)
