"""Kauldron's losses: their keys, arguments and states, on the registered calculators."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from .. import losses as registered
from ..arrays.dlpack import foreign_arrays, is_traced
from ..arrays.trees import PathError, get_path, leaves, tree_map
from ..checks import describe, fail
from ..config.options import ConfigError
from ..metrics import REQUIRED, Key, Metric
from ..metrics.base import named_parameters, takes_any_argument
from ..pipeline.evaluation import Call, Needs
from ..pipeline.reduced import GRADIENT, UNDIVIDED, ReducedLoss
from ..pipeline.weights import NormalizeBy
from ..schedules import Series, value_at
from ..states.averages import LossState
from ..terms import Term
from . import calculators as arranged

__all__ = [
    "L1", "L2", "AbsoluteValue", "AllReduceMean", "Huber", "Loss", "NegativeCosineSimilarity",
    "SigmoidBinaryCrossEntropy", "SoftmaxCrossEntropy", "SoftmaxCrossEntropyWithIntLabels", "Value", "compute_losses",
]  # fmt: skip


class AllReduceMean(LossState):
    """A weighted sum of loss values and what it is divided by: the state of losses.

    >>> import numpy as np
    >>> AllReduceMean.from_values(values=np.array([1.0, 3.0]), mask=np.array([1, 0]), weight=0.5).compute()
    0.5
    """

    @classmethod
    @foreign_arrays
    def from_values(
        cls, values: Any, mask: Any = None, weight: Any = 1.0, normalize_by: NormalizeBy = "mask"
    ) -> AllReduceMean:
        """The state of an array of values.

        mask: bools or fractions in [0, 1] that broadcast to the values; what has the mask 0 may hold anything.
        weight: multiplies the values, and not what they are divided by.
        normalize_by: "mask": divide by the sum of the mask; "values": by the number of values.
        """
        state = arranged.LossValues(normalize_by=normalize_by).get_state(values, mask=mask)
        return cls.of(state.weighted(value_at(weight, None), None))

    @classmethod
    def of(cls, state: LossState) -> AllReduceMean:
        """The state of a calculator or term as one of this class, without a parent."""
        return cls(total=state.total, count=state.count, compensation=state.compensation)

    @property
    def value(self) -> Any:
        """Kauldron's name of `total`."""
        return self.total


class Loss(Metric):
    """Base of losses that are given the keys of their arguments; it takes care of mask, mean and weight.

        loss = weight(step) * sum(mask * values) / sum(mask)

    A subclass writes `get_values`, which computes one value per item, and a key for each of its arguments:

        >>> import numpy as np
        >>> class SquaredError(Loss):
        ...     preds: Key = REQUIRED
        ...     targets: Key = REQUIRED
        ...
        ...     def get_values(self, preds, targets):
        ...         return np.square(preds - targets)
        >>> loss = SquaredError(preds="preds.x", targets="batch.x", weight=0.5)
        >>> loss(preds=np.array([1.0, 3.0]), targets=np.array([1.0, 1.0]))
        1.0
        >>> loss(context={"preds": {"x": np.array([1.0, 3.0])}, "batch": {"x": np.array([1.0, 1.0])}})
        1.0

    Such a loss has no gradient, since nothing differentiates `get_values`: see `get_grad`. The losses of this module
    have one.

    Shapes: values of any shape; a mask broadcasts to them. A mask that fits rows as well as columns is refused.
    Errors: ConfigError for a context, where a key was not given; KeyError for a path that leads nowhere; ValueError for
        masks of other shapes or beyond [0, 1], and for a schedule without a step.
    Source: Kauldron's `kd.losses.Loss` (https://kauldron.readthedocs.io).

    mask: path of the mask; none by default.
    step: path of the number of the step. It is read where `weight` is a schedule, and nowhere else.
    weight: a number, or a schedule: a function from step to number, or an iterator with a number for each step. Give
        one where several losses are added up.
    normalize_by: "mask": divide by the sum of the mask; "values": by the number of all values, so that a batch with
        much padding counts for less.
    """

    mask: Key = None
    step: Key = "step"
    weight: float | Callable[[int], Any] | Iterator[float] = 1.0
    normalize_by: Literal["mask", "values"] = "mask"

    State: ClassVar[type[AllReduceMean]] = AllReduceMean

    def __post_init__(self) -> None:
        # As in `Term`: whoever has a copy of the loss then draws the same numbers.
        if isinstance(self.weight, Iterator):
            object.__setattr__(self, "weight", Series.of(self.weight))
        super().__post_init__()

    @classmethod
    def arguments(cls) -> Mapping[str, bool]:
        """The arguments that are read from a context, and whether each must be given."""
        return {**named_parameters(cls.get_values), "mask": False, "step": False}

    @classmethod
    def _takes_any_argument(cls) -> bool:
        return takes_any_argument(cls.get_values)

    def get_paths(self) -> dict[str, Any]:
        """The paths of the arguments that have one; ConfigError when one that is needed has none."""
        paths = super().get_paths()
        if not callable(self.weight):
            paths.pop("step", None)
        return paths

    def get_inputs(self, context: Any) -> dict[str, Any]:
        """What lies at the paths of a context, by argument; KeyError for a path that leads nowhere."""
        inputs = super().get_inputs(context)
        # A `get_weight` of one's own may read the step or not.
        if self._has_own_weight() and "step" not in inputs and self.step is not None:
            with contextlib.suppress(PathError):
                inputs["step"] = get_path(context, self.step)
        return inputs

    @classmethod
    def _has_own_weight(cls) -> bool:
        """Whether a subclass says itself what a loss weighs."""
        return cls.get_weight is not Loss.get_weight

    @abstractmethod
    def get_values(self, *args: Any, **kwargs: Any) -> Any:
        """One value per item, before mask, mean and weight."""

    def get_state(self, *args: Any, mask: Any = None, step: Any = None, **kwargs: Any) -> Any:
        """The partial result of a batch, from the arguments of `get_values`: states merge to the loss of all batches.

        mask: broadcasts to the values; 1 for items that count, 0 for others.
        step: the number of the step, for a weight that is a schedule.
        """
        self._check_numbers(*args, *kwargs.values(), mask, step)
        values = self.get_values(*args, **kwargs)
        if values is None:
            name = type(self).__name__
            raise TypeError(f"Cannot calculate {name}: expected get_values to return an array of values, got None.")
        weight = self.get_weight(step)
        return self.State.from_values(values=values, mask=mask, weight=weight, normalize_by=self.normalize_by)

    def _check_numbers(self, *inputs: Any) -> None:
        """Raise while JAX traces: a state has numbers. A class of states of one's own may do without."""
        traced = next(filter(is_traced, inputs), None)
        if traced is None or self.State is not Loss.State:
            return
        got = f"{describe(traced)} inside jax.jit, jax.grad or jax.vmap; write {self._form_to_trace()}"
        raise fail(type(self).__name__, "arrays", "with numbers", got)

    def _form_to_trace(self) -> str:
        """What to write inside transformations of JAX."""
        as_calculator = f"class {type(self).__name__}(lossreg.ElementwiseLoss) for lossreg.jax.as_function"
        return f"loss.get_values(...).mean() where get_values consists of functions of JAX, or {as_calculator}"

    def get_weight(self, step: Any = None) -> float:
        """The weight at a step, which only a schedule needs."""
        try:
            return value_at(self.weight, step)  # type: ignore[arg-type]  # an iterator has become a function
        except ValueError as error:
            raise ValueError(f"{error} It is the weight of {self!r}.") from None

    def get_grad(self, context: Any) -> dict[str, Any]:
        """{path: gradient of the loss} for what the model computed. Kauldron has no such method: JAX differentiates.

        The losses of this module have gradients; a class with a `get_values` of its own raises TypeError.
        """
        raise TypeError(_no_gradient(self))

    def get_state_and_grad(self, context: Any) -> tuple[Any, dict[str, Any]]:
        """(state, {path: gradient of its total}) in one pass, for gradients that are added up over contexts.

        `state.scale(...)` of the merged state makes of what was added up the gradient of the loss.
        """
        raise TypeError(_no_gradient(self))


class CalculatorLoss(Loss):
    """A loss whose values and gradients are those of a registered calculator."""

    calculator_class: ClassVar[type[ReducedLoss]]
    guess_names: ClassVar[tuple[str, ...]] = ("preds",)
    """The arguments that a gradient is for."""
    truth_names: ClassVar[tuple[str, ...]] = ("targets",)
    option_names: ClassVar[tuple[str, ...]] = ()
    """Options that are handed to the calculator."""
    values_of_rows: ClassVar[bool] = False
    """Whether a row has one value: values and masks have a last axis of length 1, and those of the calculator none."""

    @functools.cached_property
    def calculator(self) -> ReducedLoss:
        """The calculator."""
        options = {name: getattr(self, name) for name in self.option_names}
        return self.calculator_class(normalize_by=self.normalize_by, **options)

    @property
    def term(self) -> Term:
        """The same loss as a `Term`: for a `WeightedSum`, a training step of PyTorch or JAX, or `to_config`.

        A term of row losses takes masks with one number for each row.
        """
        self._check_unchanged()
        paths = self.get_paths()
        guesses = [paths[name] for name in self.guess_names]
        truths = [paths[name] for name in self.truth_names]
        return Term(
            self.calculator,
            guesses=guesses if len(guesses) > 1 else guesses[0],
            truths=truths[0] if truths else None,
            mask=paths.get("mask"),
            step=self.step or "step",
            weight=self.get_weight if self._has_own_weight() else self.weight,
        )

    def _evaluate(self, inputs: dict[str, Any], needs: Needs) -> tuple[Any, dict[str, Any]]:
        """(state, {argument: gradient}) of arguments by name, as `needs` says."""
        weight = float(self.get_weight(inputs.get("step")))
        guesses = tuple([inputs[name] for name in self.guess_names])
        truths = inputs[self.truth_names[0]] if self.truth_names else ...
        mask: Any = inputs.get("mask")
        # The calculator has one value per row, without the axis of length 1 that Kauldron's values have.
        if self.values_of_rows and getattr(mask, "shape", ())[-1:] == (1,):
            mask = mask[..., 0]
        is_one = len(guesses) == 1
        call = Call(guesses[0] if is_one else guesses, truths, mask, output_grad=weight)
        evaluation = self.calculator.evaluate(call, needs)
        state = evaluation.state.weighted(weight, None) if needs.total else None
        grads = (evaluation.grads,) if is_one else evaluation.grads
        return state, dict(zip(self.guess_names, grads)) if needs.grad else {}

    def _values(self, **inputs: Any) -> Any:
        """What `get_values` returns."""
        guesses = tuple(inputs[name] for name in self.guess_names)
        truths = [inputs[name] for name in self.truth_names]
        values = self.calculator.get_values(guesses if len(guesses) > 1 else guesses[0], *truths)
        if not self.values_of_rows:
            return values
        return tree_map(lambda x: x[..., None], values)

    def get_state(self, *args: Any, mask: Any = None, step: Any = None, **kwargs: Any) -> Any:
        """The partial result of a batch, from the arguments of `get_values`: states merge to the loss of all batches.

        What has the mask 0 may hold anything, labels that do not exist as well.

        mask: broadcasts to the values; 1 for items that count, 0 for others.
        step: the number of the step, for a weight that is a schedule.
        """
        if not self._is_unchanged():
            return super().get_state(*args, mask=mask, step=step, **kwargs)
        self._check_numbers(*args, *kwargs.values(), mask, step)
        inputs = inspect.signature(self.get_values).bind(*args, **kwargs).arguments
        state, _ = self._evaluate({**inputs, "mask": mask, "step": step}, Needs(total=True))
        return self.State.of(state)

    def get_grad(self, context: Any) -> dict[str, Any]:
        """{path: gradient of the loss} for what the model computed, weighted and divided as the loss is.

        A path that is given twice gets the sum of both gradients.
        """
        self._check_unchanged()
        _, grads = self._evaluate(self.get_inputs(context), GRADIENT)
        return self._by_path(grads)

    def get_state_and_grad(self, context: Any) -> tuple[Any, dict[str, Any]]:
        """(state, {path: gradient of its total}) in one pass, for gradients that are added up over contexts.

        `state.scale(...)` of the merged state makes of what was added up the gradient of the loss.
        """
        self._check_unchanged()
        state, grads = self._evaluate(self.get_inputs(context), UNDIVIDED)
        return replace(self.State.of(state), parent=self), self._by_path(grads)

    def _by_path(self, grads: Mapping[str, Any]) -> dict[str, Any]:
        """Gradients by the caller's paths in the place of the names of arguments."""
        by_path: dict[str, Any] = {}
        for name, grad in grads.items():
            path = getattr(self, name)
            if path in by_path:  # one output for two arguments
                grad = tree_map(operator.add, by_path[path], grad)
            by_path[path] = grad
        return by_path

    def _form_to_trace(self) -> str:
        """What to write inside transformations of JAX."""
        if self._is_unchanged():
            return "lossreg.jax.as_function(loss.term), a function of the context"
        return super()._form_to_trace()

    def _check_unchanged(self) -> None:
        if not self._is_unchanged():
            raise TypeError(_no_gradient(self))

    @classmethod
    def _is_unchanged(cls) -> bool:
        """Whether a subclass has left values and states as they are, so that they are those of the calculator."""
        values = _definer(cls, "get_values") is _definer(cls, "calculator_class")
        states = _definer(cls, "get_state") is CalculatorLoss and cls.State is Loss.State
        return values and states

    def to_config(self) -> dict[str, Any]:
        """ConfigError: these losses have no names in a registry. `term.to_config()` is the block of the same loss."""
        sentence = f"{type(self).__name__} is not registered: write loss.term.to_config(), the same loss as a Term"
        raise ConfigError([("", sentence)])


class Value(CalculatorLoss):
    """A loss that the model has computed itself: the values as they are.

    Shapes: values (...); get_values (...).   Gradient with respect to: values.
    Source: Kauldron's `Value` (https://kauldron.readthedocs.io). Same numbers as `lossreg.Value`.

    values: path. The other options are those of `Loss`.

        >>> Value(values="preds.penalty", weight=0.1)(context={"preds": {"penalty": np.array([1.0, 3.0])}})
        0.2
    """

    values: Key = REQUIRED

    calculator_class = registered.Value
    guess_names = ("values",)
    truth_names = ()

    def get_values(self, values: Any) -> Any:
        """The values."""
        return self._values(values=values)


class AbsoluteValue(CalculatorLoss):
    """The size of each value: an L1 penalty.

    Shapes: values (...); get_values (...).   Gradient with respect to: values; 0 at 0.
    Source: Kauldron's `AbsoluteValue` (https://kauldron.readthedocs.io). Same numbers as `lossreg.AbsoluteValue`.

    values: path. The other options are those of `Loss`.

        >>> AbsoluteValue()(values=np.array([1.0, -3.0]))
        2.0
    """

    values: Key = REQUIRED

    calculator_class = registered.AbsoluteValue
    guess_names = ("values",)
    truth_names = ()

    def get_values(self, values: Any) -> Any:
        """|values|."""
        return self._values(values=values)


class L1(CalculatorLoss):
    """The absolute difference.

    Shapes: preds, targets, get_values (...), all equal.   Gradient with respect to: preds; 0 where both are equal.
    Source: Kauldron's `L1` (https://kauldron.readthedocs.io). Same numbers as `lossreg.MeanAbsoluteError`.

    preds, targets: paths. The other options are those of `Loss`.

        >>> L1()(preds=np.array([1.0, 3.0]), targets=np.array([1.0, 1.0]))
        1.0
    """

    preds: Key = REQUIRED
    targets: Key = REQUIRED

    calculator_class = registered.MeanAbsoluteError

    def get_values(self, preds: Any, targets: Any) -> Any:
        """|preds - targets|."""
        return self._values(preds=preds, targets=targets)


class L2(CalculatorLoss):
    """The squared difference.

    Shapes: preds, targets, get_values (...), all equal.   Gradient with respect to: preds.
    Source: Kauldron's `L2` (https://kauldron.readthedocs.io). Same numbers as `lossreg.MeanSquaredError`.

    preds, targets: paths. The other options are those of `Loss`.

        >>> loss = L2(preds="preds.x", targets="batch.x")
        >>> context = {"preds": {"x": np.array([1.0, 3.0])}, "batch": {"x": np.array([1.0, 1.0])}}
        >>> loss(context=context), loss.get_grad(context)
        (2.0, {'preds.x': array([0., 2.])})
    """

    preds: Key = REQUIRED
    targets: Key = REQUIRED

    calculator_class = registered.MeanSquaredError

    def get_values(self, preds: Any, targets: Any) -> Any:
        """(preds - targets)**2."""
        return self._values(preds=preds, targets=targets)


class Huber(CalculatorLoss):
    """Quadratic for small differences, linear for others.

    Shapes: preds, targets, get_values (...), all equal.   Gradient with respect to: preds.
    Source: Kauldron's `Huber` (https://kauldron.readthedocs.io). Same numbers as `lossreg.Huber`.

    preds, targets: paths.
    delta: where the linear part begins, in units of preds. Make it about as large as a usual difference, so that only
        outliers are beyond. The other options are those of `Loss`.

        >>> Huber(delta=0.5)(preds=np.array([1.0, 3.0]), targets=np.array([1.0, 1.0]))
        0.4375
    """

    preds: Key = REQUIRED
    targets: Key = REQUIRED
    delta: Annotated[float, Gt(0)] = 1.0

    calculator_class = registered.Huber
    option_names = ("delta",)

    def get_values(self, preds: Any, targets: Any) -> Any:
        """The Huber function of preds - targets."""
        return self._values(preds=preds, targets=targets)


class NegativeCosineSimilarity(CalculatorLoss):
    """Minus the cosine of the angle between vectors.

    Shapes: preds, targets (..., c); get_values (..., 1).   Gradient with respect to: preds and targets.
    Source: Kauldron's `NegativeCosineSimilarity` (https://kauldron.readthedocs.io). Same numbers as
        `lossreg.NegativeCosineSimilarity`.

    preds, targets: paths.
    eps: added to the lengths of the vectors, in units of preds. The other options are those of `Loss`.

        >>> round(NegativeCosineSimilarity()(preds=np.array([[3.0, 4.0]]), targets=np.array([[2.0, 0.0]])), 6)
        -0.6
    """

    preds: Key = REQUIRED
    targets: Key = REQUIRED
    eps: Annotated[float, Gt(0)] = 1e-8

    calculator_class = registered.NegativeCosineSimilarity
    guess_names = ("preds", "targets")
    truth_names = ()
    option_names = ("eps",)
    values_of_rows = True

    def get_values(self, preds: Any, targets: Any) -> Any:
        """Minus the cosines, with an axis of length 1."""
        return self._values(preds=preds, targets=targets)


class SoftmaxCrossEntropy(CalculatorLoss):
    """Cross-entropy of a softmax, computed from its logits, with labels that are probabilities.

    Shapes: logits, labels (..., n); get_values (..., 1).   Gradient with respect to: logits.
    Errors: ValueError for labels beyond [0, 1], unless they are masked.
    Source: Kauldron's `SoftmaxCrossEntropy` (https://kauldron.readthedocs.io). Same numbers as `lossreg.CrossEntropy`,
        which takes labels of other forms as well.

    logits, labels: paths. The other options are those of `Loss`.

        >>> loss = SoftmaxCrossEntropy(logits="preds.logits", labels="batch.label")
        >>> context = {"preds": {"logits": np.array([[0.0, 0.0]])}, "batch": {"label": np.array([[0.0, 1.0]])}}
        >>> round(loss(context=context), 4), loss.get_grad(context)
        (0.6931, {'preds.logits': array([[ 0.5, -0.5]])})
    """

    logits: Key = REQUIRED
    labels: Key = REQUIRED

    calculator_class = arranged.SoftmaxCrossEntropy
    guess_names = ("logits",)
    truth_names = ("labels",)
    values_of_rows = True

    def get_values(self, logits: Any, labels: Any) -> Any:
        """The cross-entropies of rows, with an axis of length 1."""
        return self._values(logits=logits, labels=labels)


class SoftmaxCrossEntropyWithIntLabels(CalculatorLoss):
    """Cross-entropy of a softmax, computed from its logits, with labels that are ids of classes.

    Shapes: logits (..., n); labels (..., 1) or (...); get_values (..., 1).   Gradient with respect to: logits.
    Errors: ValueError for labels that are no classes, unless they are masked. -100 is no label: such rows are left out.
    Source: Kauldron's `SoftmaxCrossEntropyWithIntLabels` (https://kauldron.readthedocs.io). Same numbers as
        `lossreg.CrossEntropy`.

    logits, labels: paths. The other options are those of `Loss`.

        >>> loss = SoftmaxCrossEntropyWithIntLabels()
        >>> round(loss(logits=np.array([[0.0, 0.0]]), labels=np.array([[1]])), 4)
        0.6931
    """

    logits: Key = REQUIRED
    labels: Key = REQUIRED

    calculator_class = arranged.SoftmaxCrossEntropyWithIntLabels
    guess_names = ("logits",)
    truth_names = ("labels",)
    values_of_rows = True

    def get_values(self, logits: Any, labels: Any) -> Any:
        """The cross-entropies of rows, with an axis of length 1."""
        return self._values(logits=logits, labels=labels)


class SigmoidBinaryCrossEntropy(CalculatorLoss):
    """Cross-entropy of a sigmoid, computed from its logits.

    Shapes: logits, labels, get_values (...), all equal.   Gradient with respect to: logits.
    Errors: ValueError for labels beyond [0, 1], unless they are masked.
    Source: Kauldron's `SigmoidBinaryCrossEntropy` (https://kauldron.readthedocs.io). Same numbers as
        `lossreg.BinaryCrossEntropyWithLogits`.

    logits, labels: paths. The other options are those of `Loss`.

        >>> round(SigmoidBinaryCrossEntropy()(logits=np.array([0.0, 2.0]), labels=np.array([0, 1])), 4)
        0.41
    """

    logits: Key = REQUIRED
    labels: Key = REQUIRED

    calculator_class = registered.BinaryCrossEntropyWithLogits
    guess_names = ("logits",)
    truth_names = ("labels",)

    def get_values(self, logits: Any, labels: Any) -> Any:
        """The cross-entropies of single logits."""
        return self._values(logits=logits, labels=labels)


def compute_losses(losses: Any, context: Any) -> tuple[Any, Any]:
    """(sum of all losses, their states) for one context.

        >>> losses = {"near": L2(preds="p", targets="t", weight=0.5), "small": AbsoluteValue(values="p")}
        >>> total, states = compute_losses(losses, {"p": np.array([1.0, 3.0]), "t": np.array([1.0, 1.0])})
        >>> total, states["near"].compute()
        (3.0, 1.0)

    Gradients of a sum come from `lossreg.WeightedSum`, with `loss.term` in the place of each loss.

    losses: a loss, or nested dicts, lists and tuples of losses, metrics and terms whose results are numbers.
    """
    states = tree_map(lambda loss: loss.get_state_from_context(context), losses)
    total = sum((state.compute() for state in leaves(states)), 0.0)
    return total, states


def _definer(cls: type, name: str) -> type:
    """The class from which another one has an attribute."""
    return next(base for base in cls.__mro__ if name in vars(base))


def _no_gradient(loss: Loss) -> str:
    name = type(loss).__name__
    return (
        f"Cannot calculate the gradient of {name}: nothing differentiates its get_values; write it as a calculator, "
        f"class {name}(lossreg.ElementwiseLoss) with a formula that returns (value, gradient), and use that in a Term."
    )
