"""Cross-entropy with the arguments of MindFormers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le

from .arrays.dlpack import foreign_arrays
from .checks import describe, fail
from .config.options import Configurable, Problem
from .config.resolve import register
from .labels.options import ClassWeight
from .losses.categorical import CrossEntropy
from .ops import Array, get_ops
from .ops.base import compute_dtype, without_float_warnings
from .states.averages import LossState
from .synonyms import closest

__all__ = ["CrossEntropyLoss"]

ROWS_SPLIT = "make the loss on each device for its own rows, and add up what get_state returns there"
CLASSES_SPLIT = "classes split over ranks are not there yet, so join the logits of all ranks before the call"
STAGES = "call the loss where the last stage ends, which needs no parallel_config"

SIZES = {
    "data_parallel": ROWS_SPLIT,
    "data_parallel_size": ROWS_SPLIT,
    "context_parallel": ROWS_SPLIT,
    "context_parallel_size": ROWS_SPLIT,
    "model_parallel": CLASSES_SPLIT,
    "tensor_model_parallel_size": CLASSES_SPLIT,
    "pipeline_stage": STAGES,
    "pipeline_model_parallel_size": STAGES,
}
"""What a parallel configuration says about numbers of devices, and what to write in place of another number than 1."""

WITHOUT_EFFECT = ("use_seq_parallel", "select_recompute", "context_parallel_algo")
"""What else `OpParallelConfig.to_dict()` holds: it changes nothing on one device."""


@register("MindFormersCrossEntropy.v1")
class CrossEntropyLoss(Configurable):
    """Cross-entropy of logits, label and input mask as MindFormers' class of this name takes them.

        loss = sum_n m_n value_n / sum_n m_n w_(label n)      for class ids
        loss = sum_n m_n value_n / sum_n m_n                  for class probabilities
        value_n = -w_(label n) log p_(label n), or -sum_c w_c label_nc log p_c, with p = softmax(logits_n)

    with m = input_mask (or 1) and w = weight (or 1). A `CrossEntropy`, the attribute `calculator`, computes everything;
    this class turns the arguments of the one into those of the other. So it is for code that should stay as it is; new
    code does better with `CrossEntropy`, which has names for classes, missing labels, other reductions and `out`.

    A call returns the loss alone, as in MindFormers: an array of shape (1,). In all other calculators it returns
    (gradient, loss), so this class is no `Loss`; hand its `calculator` to what takes one, such as `Term`.

        >>> import numpy as np
        >>> from lossreg.mindformers import CrossEntropyLoss
        >>> loss = CrossEntropyLoss()
        >>> logits = np.array([[3, 5, 6, 9, 12, 33, 42, 12, 32, 72]], dtype="float32")
        >>> label, input_mask = np.array([1], dtype="int32"), np.ones(1, dtype="float32")
        >>> loss(logits, label, input_mask)
        array([67.], dtype=float32)
        >>> round(loss.get_loss(logits, label, input_mask), 6)
        67.0
        >>> loss.get_grad(logits, label, input_mask).round(3)
        array([[ 0., -1.,  0.,  0.,  0.,  0.,  0.,  0.,  0.,  1.]], dtype=float32)

    Shapes: logits, gradient (N, C), in float32, float64 or half precision, which is computed in float32; label (N,)
    ids or (N, C) probabilities, input_mask (N,), or both of any shape that flattens to that.
    Gradient with respect to: logits.
    Errors: ValueError for shapes that do not fit and for all that `CrossEntropy` refuses, in its words: guesses are the
    logits, truths the label, mask is the input_mask. ConfigError for more than one device.
    Source: the text of `mindformers.core.CrossEntropyLoss` (https://www.mindspore.cn/mindformers). Its code has no
    weight, ignore_index, reduction and probabilities; these are as in `mindspore.nn.CrossEntropyLoss`.

    parallel_config: None, or a config (an object or a dict) whose numbers of devices are all 1, which is kept as None.
    check_for_nan_in_loss_and_grad: raise NonFiniteLossError, with the first rows, where loss or gradient is NaN or
        infinite. MindFormers prints the loss instead. Set it while looking for the batch that spoils a training.
    calculate_per_token_loss: return (numerator, denominator) in place of the loss, and the gradient of the numerator.
        Set it where the batches of a step have different numbers of tokens.
    weight: w, one factor per class.   ignore_index: an id that means "no label".
    reduction: "mean"; "sum", which is not divided; "none", m_n value_n for each row and the gradient of their sum.
    label_smoothing: the share of the truth that is spread evenly over all classes.
    seq_split_num, monitor_device_local_loss: of newer versions of MindFormers; taken with their defaults.
    """

    inputs: ClassVar[tuple[str, ...]] = ("logits",)
    truth_inputs: ClassVar[tuple[str, ...]] = ("label",)

    parallel_config: Any = field(default=None, kw_only=False)
    check_for_nan_in_loss_and_grad: bool = field(default=False, kw_only=False)
    calculate_per_token_loss: bool = field(default=False, kw_only=False)
    weight: ClassWeight = None
    ignore_index: int = -100
    reduction: Literal["mean", "sum", "none"] = "mean"
    label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0
    seq_split_num: int = 1
    monitor_device_local_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # All that passes the checks says the same. As None it can be compared, hashed and written to a config.
        object.__setattr__(self, "parallel_config", None)

    def check_options(self) -> Iterable[Problem]:
        """More than one device, and a numerator without a denominator."""
        yield from _parallel_problems(self.parallel_config)
        if self.calculate_per_token_loss and self.reduction != "mean":
            wanted = 'needs reduction="mean", which it splits into numerator and denominator'
            yield "calculate_per_token_loss", f"{wanted}, got {self.reduction!r}"
        if self.seq_split_num != 1:
            instead = "write calculate_per_token_loss=True and add up numerators and denominators of the parts"
            yield "seq_split_num", f"should be 1, got {self.seq_split_num}; {instead}"
        if self.monitor_device_local_loss:
            instead = "nothing is kept between calls; add up what get_state returns and compute() its result"
            yield "monitor_device_local_loss", f"should be False, got True: {instead}"

    @functools.cached_property
    def calculator(self) -> CrossEntropy:
        """The calculator that has these numbers."""
        return CrossEntropy(
            class_weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            per_token=self.calculate_per_token_loss,
            check_finite=self.check_for_nan_in_loss_and_grad,
        )

    @foreign_arrays
    def __call__(self, logits: Any, label: Any, input_mask: Any = None) -> Any:
        """The loss as an array of shape (1,); the values (N,) with reduction "none"; per token, a pair of such arrays.

        The array is of the logits' library, in the dtype that they are computed in: float64 for float64, else float32.
        """
        loss = self.get_loss(logits, label, input_mask)
        if self.reduction == "none":
            return loss
        if self.calculate_per_token_loss:
            numerator, denominator = loss
            return _of_shape_1(numerator, logits), _of_shape_1(denominator, logits)
        return _of_shape_1(loss, logits)

    def get_loss(self, logits: Any, label: Any, input_mask: Any = None) -> Any:
        """The loss as a float, as all calculators return it; per token, (numerator, denominator) as floats."""
        guesses, truths, mask = self._arranged(logits, label, input_mask)
        return self._result(self.calculator.get_loss(guesses, truths, mask=mask))

    def get_grad(self, logits: Any, label: Any, input_mask: Any = None) -> Any:
        """The gradient of the loss, of the logits' shape and dtype; per token, that of the numerator."""
        guesses, truths, mask = self._arranged(logits, label, input_mask)
        return self.calculator.get_grad(guesses, truths, mask=mask)

    def get_loss_and_grad(self, logits: Any, label: Any, input_mask: Any = None) -> tuple[Any, Any]:
        """(what `get_loss` returns, what `get_grad` returns) in one pass."""
        guesses, truths, mask = self._arranged(logits, label, input_mask)
        grad, loss = self.calculator(guesses, truths, mask=mask)
        return self._result(loss), grad

    def get_state(self, logits: Any, label: Any, input_mask: Any = None) -> LossState:
        """The numerator as `total` and the denominator as `count`: states of batches and workers merge by `+`."""
        guesses, truths, mask = self._arranged(logits, label, input_mask)
        return self.calculator.get_state(guesses, truths, mask=mask)

    def get_state_and_grad(self, logits: Any, label: Any, input_mask: Any = None) -> tuple[LossState, Any]:
        """(state, gradient of its numerator) in one pass; `scale` of the merged state divides what was added up."""
        guesses, truths, mask = self._arranged(logits, label, input_mask)
        return self.calculator.get_state_and_grad(guesses, truths, mask=mask)

    def empty(self) -> LossState:
        """The state of no data."""
        return self.calculator.empty()

    def _result(self, loss: Any) -> Any:
        if self.calculate_per_token_loss:
            return loss.total, loss.count
        return loss

    @staticmethod
    def _arranged(logits: Any, label: Any, input_mask: Any) -> tuple[Any, Any, Any]:
        """(guesses, truths, mask) as the calculator takes them."""
        rows, classes = _shape_of_logits(logits)
        label = _flat_label(label, rows, classes)
        if input_mask is not None:
            input_mask = _mask_of_rows(input_mask, rows)
        return logits, label, input_mask


NAME = CrossEntropyLoss.__name__


@without_float_warnings  # a sum may be too large for float32
def _of_shape_1(number: Any, logits: Array) -> Array:
    return get_ops(logits).asarray(number, dtype=compute_dtype(logits.dtype)).reshape(1)


def _shape_of_logits(logits: Any) -> tuple[int, int]:
    _check_library("logits", logits)
    shape = getattr(logits, "shape", None)
    if shape is None:
        raise fail(NAME, "logits", "to be an array of shape (N, C)", f"{describe(logits)}; write np.array(logits)")
    if len(shape) != 2:
        # Classes are the last axis in MindFormers, where models flatten all others before they call the loss.
        classes = shape[-1] if shape else "C"
        if len(shape) == 1 and getattr(logits, "dtype", np.dtype(float)).kind in "iu":
            raise fail(NAME, "logits", "of shape (N, C)", f"{describe(logits)}; logits and label may be swapped")
        raise fail(NAME, "logits", "of shape (N, C)", f"{describe(logits)}; write logits.reshape(-1, {classes})")
    rows, classes = shape
    return rows, classes


def _flat_label(label: Any, rows: int, classes: int) -> Any:
    """Ids (N,), or probabilities (N, C), from a label of any shape that flattens to one of them."""
    array = _array("label", label)
    if getattr(array.dtype, "kind", None) in ("U", "S"):
        raise fail(NAME, "label", "of class ids", f"{describe(label)} of names; CrossEntropy(names=[...]) reads them")
    shape = tuple(array.shape)
    size = math.prod(shape)
    if shape == (rows,):
        return label  # a list of ids, too: the calculator knows how to read an empty one
    if shape == (rows, classes):
        return array
    if size == rows:
        return array.reshape(rows)
    if size == rows * classes and shape[-1] == classes:
        return array.reshape(rows, classes)
    expected = f"to be {rows} class ids or probabilities of shape ({rows}, {classes}), as the logits have {rows} rows"
    raise fail(NAME, "label", expected, describe(label))


def _mask_of_rows(mask: Any, rows: int) -> Any:
    """A mask with one number per row, of any shape: the calculator flattens it."""
    mask = _array("input_mask", mask)
    if math.prod(mask.shape) != rows:
        raise fail(NAME, "input_mask", f"to be {rows} numbers, one per row of the logits", describe(mask))
    return mask


def _array(what: str, value: Any) -> Any:
    """Arrays of any library as they are; lists, and what has labels of its own, as arrays of NumPy."""
    _check_library(what, value)
    if value is None:  # of which NumPy would make an array of one missing label
        raise fail(NAME, what, "to be an array", "None")
    if hasattr(value, "reshape"):
        return value
    try:
        return np.asarray(value)
    except ValueError:
        raise fail(NAME, what, "to be an array", f"{describe(value)} of uneven parts") from None


def _check_library(what: str, value: Any) -> None:
    """Refuse tensors of MindSpore, known by their `asnumpy`: a gradient could not be returned as one."""
    if hasattr(value, "asnumpy"):
        got = f"{describe(value)} of {type(value).__module__}"
        raise fail(NAME, what, "to be an array", f"{got}; write {what}.asnumpy()")


def _parallel_problems(config: Any) -> Iterable[Problem]:
    """What a parallel configuration says other than "one device"."""
    if config is None:
        return
    if isinstance(config, Mapping):
        yield from _unknown_keys(config)
        sizes = {name: config[name] for name in SIZES if name in config}
    else:
        sizes = {name: getattr(config, name) for name in SIZES if hasattr(config, name)}
    if not sizes:
        expected = f"should be None or say how many devices there are ({', '.join(SIZES)})"
        yield "parallel_config", f"{expected}, got {describe(config)}"
    for name, size in sizes.items():
        if size != 1:
            yield f"parallel_config.{name}", f"should be 1, got {describe(size)}: {SIZES[name]}"


def _unknown_keys(config: Mapping[Any, Any]) -> Iterable[Problem]:
    known = [*SIZES, *WITHOUT_EFFECT]
    for key in config:
        if key not in known:
            hint = closest(str(key), known)
            yield f"parallel_config.{key}", f"is not read here{hint or '; leave it out'}"
