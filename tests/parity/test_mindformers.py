"""MindFormers' CrossEntropyLoss: the sample of its page, its formulas, and each line of our page about it.

References are the formulas of its page in NumPy (`documented`), what its code computes instead (`executed`), and
PyTorch. MindSpore itself is not needed.
"""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, CrossEntropy, NonFiniteLossError, registry
from lossreg.mindformers import CrossEntropyLoss
from support import standin_cupy
from support.nested import assert_same, frozen

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-mindformers.md"
NAME = "MindFormersCrossEntropy.v1"

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")


# References


def log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def documented(
    logits: Any,
    label: Any,
    mask: Any,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Any, Any]:
    """(loss or values, gradient) from the formulas of MindFormers' page, in float64."""
    logits, mask = np.asarray(logits, np.float64), np.asarray(mask, np.float64)
    classes = logits.shape[1]
    weight = np.ones(classes) if weight is None else np.asarray(weight)
    log_p = log_softmax(logits)
    if np.ndim(label) == 1:
        counted = label != ignore_index
        one_hot = np.eye(classes)[np.where(counted, label, 0)]
        mask = mask * counted
        divisor = (mask * (one_hot @ weight)).sum()
    else:
        one_hot = np.asarray(label, np.float64)
        divisor = mask.sum()
    target = weight * (one_hot * (1 - label_smoothing) + label_smoothing / classes)
    values = -(target * log_p).sum(axis=1) * mask
    grad = (target.sum(axis=1, keepdims=True) * np.exp(log_p) - target) * mask[:, None]
    if reduction == "none":
        return values, grad
    if reduction == "sum":
        return values.sum(), grad
    return values.sum() / divisor, grad / divisor


def executed(logits: Any, label: Any, mask: Any) -> tuple[Any, Any, Any]:
    """(numerator, denominator, gradient of the numerator) as MindFormers' code computes them: in float32."""
    logits, mask = np.asarray(logits, np.float32), np.asarray(mask, np.float32).reshape(-1)
    with np.errstate(all="ignore"):
        log_p = log_softmax(logits)
        one_hot = (np.asarray(label)[:, None] == np.arange(logits.shape[1])).astype(np.float32)
        numerator = ((-log_p * one_hot).sum(axis=1) * mask).sum()
        grad = (np.exp(log_p) - one_hot) * mask[:, None]
    return numerator, np.array([mask.sum()], np.float32) + np.float32(1e-8), grad


OPTIONS = [
    {},
    {"weight": (0.5, 2.0, 1.0, 0.25, 3.0)},
    {"ignore_index": 3},
    {"ignore_index": 2, "weight": (0.5, 2.0, 1.0, 0.25, 3.0)},
    {"label_smoothing": 0.2},
    {"label_smoothing": 0.3, "weight": (0.5, 2.0, 1.0, 0.25, 3.0), "ignore_index": 0},
]
REDUCTIONS = ["mean", "sum", "none"]
RTOL = {"float16": 2e-3, "float32": 3e-6, "float64": 1e-13}


def batch(rng: Any, target: str = "ids", dtype: str = "float64") -> tuple[Any, Any, Any]:
    """(logits, label, input_mask): 12 rows of 5 classes, some of them masked, in part or as a whole."""
    logits = (rng.normal(size=(12, 5)) * 3).astype(dtype)
    label = rng.integers(0, 5, 12).astype(np.int32) if target == "ids" else rng.dirichlet(np.ones(5), 12)
    mask = (rng.random(12) * (rng.random(12) < 0.7)).astype(np.float32)
    return frozen((logits, label, mask))


# The sample of the page, in its order


def test_the_sample_of_the_page() -> None:
    loss = CrossEntropyLoss()
    logits = np.array([[3, 5, 6, 9, 12, 33, 42, 12, 32, 72]]).astype(np.float32)
    labels_np = np.array([1]).astype(np.int32)
    input_mask = np.ones(1).astype(np.float32)
    labels = labels_np
    output = loss(logits, labels, input_mask)
    assert output.shape == (1,)

    assert output.dtype == np.float32
    assert output[0] == np.float32(67)
    # log(sum of e^(x - 72)) is e^-30, but for terms that are smaller still
    assert loss.get_loss(logits, labels, input_mask) == pytest.approx(67 + np.exp(-30), rel=1e-15)
    grad = loss.get_grad(logits, labels, input_mask)
    assert grad.dtype == np.float32
    np.testing.assert_allclose(grad, [[0, -1, 0, 0, 0, 0, 0, 0, 0, 1]], atol=1e-12)


def test_the_arguments_have_the_names_the_order_and_the_defaults_of_the_page() -> None:
    arguments = list(inspect.signature(CrossEntropyLoss).parameters.values())
    of_page = ["parallel_config", "check_for_nan_in_loss_and_grad", "calculate_per_token_loss"]
    assert [x.name for x in arguments[:3]] == of_page
    assert [x.default for x in arguments[:3]] == [None, False, False]
    by_position = CrossEntropyLoss(None, True, True)
    assert by_position == CrossEntropyLoss(check_for_nan_in_loss_and_grad=True, calculate_per_token_loss=True)
    for method in ("__call__", "get_loss", "get_grad", "get_loss_and_grad", "get_state", "get_state_and_grad"):
        names = list(inspect.signature(getattr(CrossEntropyLoss, method)).parameters)
        assert names == ["self", "logits", "label", "input_mask"]


# Its formulas


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("target", ["ids", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_formulas(options: dict[str, Any], target: str, reduction: Any, dtype: str, rng: Any) -> None:
    logits, label, mask = batch(rng, target, dtype)
    loss = CrossEntropyLoss(reduction=reduction, **options)
    expected, expected_grad = documented(logits, label, mask, reduction=reduction, **options)
    value, grad = loss.get_loss_and_grad(logits, label, mask)
    rtol = RTOL[dtype]
    assert_same(np.asarray(value, np.float64), expected, rtol=rtol, atol=rtol)
    assert_same(grad.astype(np.float64), expected_grad, rtol=rtol, atol=rtol)
    assert grad.dtype == logits.dtype
    assert_same(loss.get_loss(logits, label, mask), value, rtol=1e-15)
    assert_same(loss.get_grad(logits, label, mask), grad)
    assert_same(loss(logits, label, mask), np.atleast_1d(value).astype(loss(logits, label, mask).dtype))


@needs_torch
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("target", ["ids", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_numbers_of_pytorch(options: dict[str, Any], target: str, reduction: Any, rng: Any) -> None:
    import torch

    logits, label, _ = batch(rng, target)
    x = torch.tensor(logits, requires_grad=True)
    y = torch.tensor(label).long() if target == "ids" else torch.tensor(label)
    theirs = dict(options)
    if target == "probabilities":
        theirs.pop("ignore_index", None)  # which they refuse
    if "weight" in options:
        theirs["weight"] = torch.tensor(options["weight"], dtype=torch.float64)
    expected = torch.nn.CrossEntropyLoss(reduction=reduction, **theirs)(x, y)
    expected.sum().backward()
    value, grad = CrossEntropyLoss(reduction=reduction, **options).get_loss_and_grad(logits, label)
    assert_same(np.asarray(value), expected.detach().numpy(), rtol=1e-13, atol=1e-13)
    assert_same(grad, x.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_the_numbers_of_mindformers_code(rng: Any) -> None:
    logits, label, mask = batch(rng, dtype="float32")
    numerator, denominator, grad = executed(logits, label, mask)
    assert_same(CrossEntropyLoss()(logits, label, mask), numerator / denominator, rtol=1e-6)
    assert_same(CrossEntropyLoss().get_grad(logits, label, mask), grad / denominator, rtol=1e-5, atol=1e-7)
    per_token = CrossEntropyLoss(calculate_per_token_loss=True)
    found = per_token(logits, label, mask)
    assert_same(np.ravel(found), np.ravel([numerator, denominator[0]]), rtol=1e-6)
    assert_same(per_token.get_grad(logits, label, mask), grad, rtol=1e-5, atol=1e-6)


def test_nothing_to_average_is_0() -> None:
    logits, label = np.ones((3, 4)), np.array([0, 1, 2])
    assert_same(CrossEntropyLoss()(logits, label, np.zeros(3)), np.zeros(1))
    assert_same(CrossEntropyLoss().get_grad(logits, label, np.zeros(3)), np.zeros((3, 4)))
    empty = np.zeros((0, 4), np.float32)
    for label in (np.zeros(0, int), np.zeros((0, 4)), []):
        value, grad = CrossEntropyLoss().get_loss_and_grad(empty, label, np.zeros((0, 2)))
        assert value == 0.0
        assert grad.shape == (0, 4)


# What a call returns


@pytest.mark.parametrize(
    "dtype, result", [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int64", "float64")]
)
def test_a_call_returns_arrays_of_shape_1_and_get_loss_floats(dtype: str, result: str, rng: Any) -> None:
    logits, label, mask = batch(rng, dtype=dtype)
    for reduction in ("mean", "sum"):
        loss = CrossEntropyLoss(reduction=reduction)
        assert loss(logits, label, mask).shape == (1,)
        assert loss(logits, label, mask).dtype == result
        assert type(loss.get_loss(logits, label, mask)) is float
    values = CrossEntropyLoss(reduction="none")(logits, label, mask)
    assert values.shape == (12,)
    numerator, denominator = CrossEntropyLoss(calculate_per_token_loss=True)(logits, label, mask)
    assert numerator.shape == denominator.shape == (1,)
    assert numerator.dtype == denominator.dtype == result
    floats = CrossEntropyLoss(calculate_per_token_loss=True).get_loss(logits, label, mask)
    assert [type(x) for x in floats] == [float, float]


def test_float16_is_computed_in_float32(rng: Any) -> None:
    logits, label, mask = batch(rng, dtype="float16")
    large = logits * np.float16(3000)  # whose exponentials float16 does not hold
    value, grad = CrossEntropyLoss().get_loss_and_grad(large, label, mask)
    expected, expected_grad = CrossEntropyLoss().get_loss_and_grad(large.astype(np.float32), label, mask)
    assert value == expected
    assert grad.dtype == np.float16
    assert_same(grad, expected_grad.astype(np.float16))


def test_per_token_is_numerator_denominator_and_the_gradient_of_the_numerator(rng: Any) -> None:
    logits, label, mask = batch(rng)
    weight = (0.5, 2.0, 1.0, 0.25, 3.0)
    loss = CrossEntropyLoss(calculate_per_token_loss=True, weight=weight, ignore_index=3)
    (numerator, denominator), grad = loss.get_loss_and_grad(logits, label, mask)
    total, expected_grad = documented(logits, label, mask, weight, 3, reduction="sum")
    mean, _ = documented(logits, label, mask, weight, 3)
    assert_same((numerator, denominator), (total, total / mean), rtol=1e-13)
    assert_same(grad, expected_grad, rtol=1e-12, atol=1e-13)


def test_a_sum_beyond_float32_is_infinite_without_a_warning() -> None:
    logits = np.array([[-3e38, 3e38]] * 2, np.float32)
    assert CrossEntropyLoss(reduction="sum")(logits, np.array([0, 0])) == np.inf
    assert CrossEntropyLoss(reduction="sum").get_loss(logits, np.array([0, 0])) > 1e39


# Inputs of all shapes that flatten, and of all libraries


SHAPES = [(12,), (12, 1), (3, 4), (2, 3, 2), (1, 12)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_and_masks_of_any_shape_that_flattens(shape: tuple[int, ...], rng: Any) -> None:
    logits, label, mask = batch(rng)
    expected = CrossEntropyLoss().get_loss_and_grad(logits, label, mask)
    assert_same(CrossEntropyLoss().get_loss_and_grad(logits, label.reshape(shape), mask.reshape(shape)), expected)
    as_lists = label.reshape(shape).tolist(), mask.reshape(shape).tolist()
    assert_same(CrossEntropyLoss().get_loss_and_grad(logits, *as_lists), expected)
    probs = rng.dirichlet(np.ones(5), 12)
    found = CrossEntropyLoss().get_loss(logits, probs.reshape(*shape, 5), mask)
    assert found == CrossEntropyLoss().get_loss(logits, probs, mask)


def test_a_mask_of_ones_may_be_left_out_and_may_be_of_ints_or_bools(rng: Any) -> None:
    logits, label, _ = batch(rng)
    keep = rng.random(12) < 0.6
    assert_same(CrossEntropyLoss()(logits, label), CrossEntropyLoss()(logits, label, np.ones(12)))
    expected = CrossEntropyLoss()(logits, label, keep.astype(np.float32))
    for dtype in (bool, np.int32, np.float64):
        assert_same(CrossEntropyLoss()(logits, label, keep.astype(dtype)), expected)


def test_one_class_has_no_loss() -> None:
    for label in (np.zeros(3, int), np.zeros((3, 1), int), np.ones((3, 1))):
        assert_same(CrossEntropyLoss().get_loss_and_grad(np.ones((3, 1)), label), (0.0, np.zeros((3, 1))))


@needs_torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_of_pytorch(dtype: str, rng: Any) -> None:
    import torch

    logits, label, mask = (torch.tensor(x) for x in batch(rng))
    logits = logits.to(getattr(torch, dtype)).requires_grad_()
    loss = CrossEntropyLoss()
    output = loss(logits, label.reshape(3, 4), mask.reshape(4, 3))
    numbers = logits.detach().double().numpy()
    assert isinstance(output, torch.Tensor)
    assert output.shape == (1,)
    assert output.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert output.item() == pytest.approx(loss.get_loss(numbers, label.numpy(), mask.numpy()), rel=3e-6)
    grad = loss.get_grad(logits, label, mask)
    assert isinstance(grad, torch.Tensor)
    assert grad.dtype == logits.dtype
    pair = CrossEntropyLoss(calculate_per_token_loss=True)(logits, label, mask)
    assert [type(x) for x in pair] == [torch.Tensor, torch.Tensor]
    values = CrossEntropyLoss(reduction="none")(logits, label, mask)
    assert isinstance(values, torch.Tensor)
    assert values.shape == (12,)


@needs_jax
def test_arrays_of_jax(rng: Any) -> None:
    import jax.numpy as jnp

    logits, label, mask = batch(rng, dtype="float32")
    arrays = jnp.asarray(logits), jnp.asarray(label).reshape(3, 4), jnp.asarray(mask).reshape(4, 3)
    output = CrossEntropyLoss()(*arrays)
    assert type(output) is type(arrays[0])
    assert_same(np.asarray(output), CrossEntropyLoss()(logits, label, mask))
    grad = CrossEntropyLoss().get_grad(*arrays)
    assert type(grad) is type(arrays[0])
    assert_same(np.asarray(grad), CrossEntropyLoss().get_grad(logits, label, mask))


def test_arrays_of_cupy(cupy: Any, rng: Any) -> None:
    logits, label, mask = batch(rng, dtype="float32")
    expected = CrossEntropyLoss()(logits, label, mask)
    x, y, m = (cupy.asarray(array) for array in (logits, label, mask))
    for target in (y, y.reshape(3, 4), label.reshape(3, 4).tolist()):
        output = CrossEntropyLoss()(x, target, m.reshape(4, 3))
        assert type(output) is type(x)
        assert output.shape == (1,)
        with standin_cupy.allow_reading():
            assert_same(cupy.asnumpy(output), expected, rtol=1e-6)
    numerator, denominator = CrossEntropyLoss(calculate_per_token_loss=True)(x, y, m)
    with standin_cupy.allow_reading():
        assert_same(cupy.asnumpy(numerator / denominator), expected, rtol=1e-6)


# Errors


class Tensor:
    """What a tensor of MindSpore looks like from outside."""

    shape, dtype = (4, 3), "Float32"

    def reshape(self, *shape: int) -> Tensor:
        return self

    def asnumpy(self) -> Any:
        return np.zeros(self.shape)


Tensor.__module__ = "mindspore.common.tensor"

X, Y, M = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0]), np.ones(4)

MISTAKES = {
    "three axes": (
        (X.reshape(2, 2, 3), Y, M),
        "expected logits of shape (N, C), got a float32 array of shape (2, 2, 3); write logits.reshape(-1, 3).",
    ),
    "one row": ((X[0], Y[:1]), "got a float32 array of shape (3,); write logits.reshape(-1, 3)."),
    "a number": ((X[0, 0], Y[:1]), "got a float32 array of shape (); write logits.reshape(-1, C)."),
    "a list": ((X.tolist(), Y, M), "expected logits to be an array of shape (N, C), got a list of 4; write np.array(logits)."),
    "labels": (
        (X, Y[:3], M),
        "expected label to be 4 class ids or probabilities of shape (4, 3), as the logits have 4 rows, got a int64 array of shape (3,).",
    ),
    "probabilities": ((X, np.ones((3, 4)), M), "got a float64 array of shape (3, 4)."),
    "no label": ((X[:1], None), "expected label to be an array, got None."),
    "uneven labels": ((X, [[1, 2], [0]], M), "expected label to be an array, got a list of 2 of uneven parts."),
    "masks": ((X, Y, M[:3]), "expected input_mask to be 4 numbers, one per row of the logits, got a float64 array of shape (3,)."),
    "one mask": ((X, Y, M[:1]), "expected input_mask to be 4 numbers, one per row of the logits, got a float64 array of shape (1,)."),
    "uneven masks": ((X, Y, [[1, 1], [1]]), "expected input_mask to be an array, got a list of 2 of uneven parts."),
    "large masks": ((X, Y, 2 * M), "expected mask in [0, 1], got 2.0 in row 0."),
    "ids": ((X, Y + 1, M), "expected truth ids in [0, 3), got undeclared id 3 in row 2."),
    "ids in floats": ((X, Y * 1.0, M), "got a float64 array of shape (4,); write truths.astype(int)."),
    "logits of MindSpore": (
        (Tensor(), Y, M),
        "expected logits to be an array, got a Float32 array of shape (4, 3) of mindspore.common.tensor; write logits.asnumpy().",
    ),
    "labels of MindSpore": ((X, Tensor(), M), "write label.asnumpy()."),
    "masks of MindSpore": ((X, Y, Tensor()), "write input_mask.asnumpy()."),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_errors_that_say_what_to_write(mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    loss = CrossEntropyLoss()
    for method in (loss, loss.get_loss, loss.get_grad, loss.get_loss_and_grad, loss.get_state, loss.get_state_and_grad):
        with pytest.raises(ValueError) as caught:
            method(*arguments)
        assert str(caught.value).startswith("Cannot calculate CrossEntropy")
        assert str(caught.value).endswith(message)


ONE_DEVICE = [
    None,
    {"data_parallel": 1},
    {"data_parallel": 1, "model_parallel": 1, "context_parallel": 1, "pipeline_stage": 1},
    {"data_parallel_size": 1, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1},
    {"data_parallel": 1, "use_seq_parallel": True, "select_recompute": False, "context_parallel_algo": "ulysses_cp"},
    SimpleNamespace(data_parallel=1, model_parallel=1, micro_batch_num=16),
]


@pytest.mark.parametrize("config", ONE_DEVICE, ids=str)
def test_a_parallel_config_of_one_device(config: Any) -> None:
    loss = CrossEntropyLoss(config)
    assert loss == CrossEntropyLoss(parallel_config=config) == CrossEntropyLoss()
    assert hash(loss) == hash(CrossEntropyLoss())
    assert loss.to_config() == {"@losses": NAME}


ROWS_SPLIT = "make the loss on each device for its own rows, and add up what get_state returns there"
CLASSES_SPLIT = "classes split over ranks are not there yet, so join the logits of all ranks before the call"
STAGES = "call the loss where the last stage ends, which needs no parallel_config"
MORE_DEVICES = {
    "data_parallel": ROWS_SPLIT,
    "data_parallel_size": ROWS_SPLIT,
    "context_parallel": ROWS_SPLIT,
    "context_parallel_size": ROWS_SPLIT,
    "model_parallel": CLASSES_SPLIT,
    "tensor_model_parallel_size": CLASSES_SPLIT,
    "pipeline_stage": STAGES,
    "pipeline_model_parallel_size": STAGES,
}


@pytest.mark.parametrize("size", MORE_DEVICES)
def test_a_parallel_config_of_more_devices_is_an_error(size: str) -> None:
    for config in ({size: 8}, SimpleNamespace(**{size: 8})):
        with pytest.raises(ConfigError) as caught:
            CrossEntropyLoss(config)
        expected = f"Cannot make CrossEntropyLoss: parallel_config.{size}: should be 1, got 8: {MORE_DEVICES[size]}"
        assert str(caught.value) == expected


def test_a_parallel_config_that_says_nothing_is_an_error() -> None:
    for config in (8, "default_dpmp_config", {}, SimpleNamespace(devices=1)):
        with pytest.raises(ConfigError, match="parallel_config: should be None or say how many devices there are"):
            CrossEntropyLoss(config)
    with pytest.raises(ConfigError) as caught:
        CrossEntropyLoss(parallel_config={"data_parallel": 1, "model_paralel": 2, "micro_batch_num": 16})
    assert dict(caught.value.problems) == {
        "parallel_config.model_paralel": "is not read here; did you mean 'model_parallel'?",
        "parallel_config.micro_batch_num": "is not read here; leave it out",
    }


def test_arguments_without_a_meaning_here_are_errors() -> None:
    with pytest.raises(ConfigError) as caught:
        CrossEntropyLoss(
            seq_split_num=2, monitor_device_local_loss=True, calculate_per_token_loss=True, reduction="sum"
        )
    assert dict(caught.value.problems) == {
        "seq_split_num": "should be 1, got 2; write calculate_per_token_loss=True and add up numerators and"
        " denominators of the parts",
        "monitor_device_local_loss": "should be False, got True: nothing is kept between calls; add up what get_state"
        " returns and compute() its result",
        "calculate_per_token_loss": "needs reduction=\"mean\", which it splits into numerator and denominator, got 'sum'",
    }
    assert CrossEntropyLoss(seq_split_num=1, monitor_device_local_loss=False) == CrossEntropyLoss()
    with pytest.raises((TypeError, ConfigError), match="loss_tag"):
        CrossEntropyLoss(loss_tag="lm")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "option, value",
    [
        ("weight", [1.0, -1.0]),
        ("ignore_index", 0.5),
        ("reduction", "batch_mean"),
        ("label_smoothing", 1.5),
        ("calculate_per_token_loss", 1),
        ("check_for_nan_in_loss_and_grad", "yes"),
    ],
)
def test_arguments_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        CrossEntropyLoss(**{option: value})
    assert caught.value.problems[0][0].split(".")[0] == option


# Checks for NaN


def test_check_for_nan_names_the_first_bad_rows(rng: Any) -> None:
    logits, label, _ = batch(rng)
    logits, mask = logits.copy(), np.ones(12)
    logits[[1, 4]] = np.nan
    loss = CrossEntropyLoss(check_for_nan_in_loss_and_grad=True)
    for method in (loss, loss.get_loss, loss.get_grad, loss.get_loss_and_grad, loss.get_state, loss.get_state_and_grad):
        with pytest.raises(NonFiniteLossError, match=r"is not finite in 2 of 12 rows: row 1, row 4\.$"):
            method(logits, label, mask)
    mask[[1, 4]] = 0
    assert_same(loss(logits, label, mask), CrossEntropyLoss()(logits, label, mask))
    assert np.isfinite(loss(logits, label, mask))
    assert np.isnan(CrossEntropyLoss()(logits, label))


def test_check_for_nan_prints_nothing(capsys: Any) -> None:
    CrossEntropyLoss(check_for_nan_in_loss_and_grad=True)(X, Y, M)
    assert capsys.readouterr() == ("", "")


# States


@pytest.mark.parametrize("per_token", [False, True])
def test_states_of_batches_and_workers_add_up(per_token: bool, rng: Any) -> None:
    logits, label, mask = batch(rng)
    options: Any = {"weight": (0.5, 2.0, 1.0, 0.25, 3.0), "ignore_index": 3}
    loss = CrossEntropyLoss(calculate_per_token_loss=per_token, **options)
    parts = [slice(0, 1), slice(1, 8), slice(8, 12)]
    pairs = [loss.get_state_and_grad(logits[part], label[part], mask[part]) for part in parts]
    sent = [pickle.loads(pickle.dumps(state)) for state, _ in pairs]
    state, gradient = sum(sent), np.concatenate([grad for _, grad in pairs])
    total, grad_of_total = documented(logits, label, mask, reduction="sum", **options)
    mean, grad_of_mean = documented(logits, label, mask, **options)
    assert_same((state.total, state.count, state.compute()), (total, total / mean, mean), rtol=1e-13)
    assert_same(gradient, grad_of_total, rtol=1e-12, atol=1e-13)
    assert_same(state.scale(gradient), grad_of_mean, rtol=1e-12, atol=1e-13)
    assert_same(sum((loss.get_state(logits[p], label[p], mask[p]) for p in parts), loss.empty()).compute(), mean, 1e-13)
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        state + CrossEntropyLoss().empty()


# An object like all others


def test_the_name_in_a_config() -> None:
    text = f"""
    [loss]
    @losses = "{NAME}"
    calculate_per_token_loss = true
    weight = [1, 2, 0.5]

    [loss.parallel_config]
    data_parallel = 1
    model_parallel = %d
    """
    text = inspect.cleandoc(text)
    loss = registry.resolve(Config().from_str(text % 1))["loss"]
    assert loss == CrossEntropyLoss(calculate_per_token_loss=True, weight=[1, 2, 0.5])
    assert registry.resolve({"loss": loss.to_config()})["loss"] == loss
    assert registry.losses.get(NAME) is CrossEntropyLoss
    assert lossreg.loss(NAME, calculate_per_token_loss=True, weight=[1, 2, 0.5]) == loss
    with pytest.raises(ConfigError) as caught:
        registry.resolve(Config().from_str((text % 2).replace("weight", "wieght")))
    problems = dict(caught.value.problems)
    assert problems["loss.wieght"].startswith("unknown option; did you mean 'weight'?")
    assert len(problems) == 1  # what lies between options is looked at when each is sound
    with pytest.raises(
        ConfigError, match=re.escape(f"loss.parallel_config.model_parallel: should be 1, got 2: {CLASSES_SPLIT}")
    ):
        registry.resolve(Config().from_str(text % 2))


def test_it_can_be_compared_copied_and_pickled() -> None:
    loss = CrossEntropyLoss({"data_parallel": 1}, weight=np.array([1.0, 2.0, 0.5]))
    assert loss.calculator == CrossEntropy(class_weight=(1.0, 2.0, 0.5))
    assert repr(loss) == "CrossEntropyLoss(weight=(1.0, 2.0, 0.5))"
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert {loss: 1}[CrossEntropyLoss(weight=[1.0, 2.0, 0.5])] == 1
    with pytest.raises(AttributeError):
        loss.weight = None  # type: ignore[misc]


def test_the_example_of_the_docstring_runs() -> None:
    import doctest

    import lossreg.mindformers

    results = doctest.testmod(lossreg.mindformers)
    assert results.attempted > 5
    assert results.failed == 0


# The lines of our page


def tables(header: str) -> list[list[str]]:
    """Cells of the rows of all tables of the page whose header begins so, with the code in them."""
    found = re.findall(rf"^\| {re.escape(header)}.*\|\n\|[-| ]*\n((?:^\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found, header
    return [[cell.strip() for cell in row.strip("|").split("|")] for text in found for row in text.splitlines()]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page defines for its tables."""
    block = re.search(r"^```python\n(import numpy.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert block
    found: dict[str, Any] = {}
    exec(block[1], found)
    return found


def code(cell: str) -> str:
    assert cell.startswith("`")
    assert cell.endswith("`")
    return cell.strip("`")


ARGUMENTS = tables("argument | meaning")
RESULTS = tables("what | in MindFormers' form")
FORMULAS = tables("formula | in NumPy")
ABSENT = tables("MindFormers | error")


@pytest.mark.parametrize("row", ARGUMENTS, ids=lambda row: row[2])
def test_arguments_of_our_page(row: list[str], names: dict[str, Any]) -> None:
    ours, calculator = (eval(code(cell), names) for cell in row[2:])
    assert ours.calculator == calculator


def test_our_page_has_all_arguments() -> None:
    listed = {name for row in ARGUMENTS for name in re.findall(r"`(\w+)`", row[0])}
    assert listed == set(inspect.signature(CrossEntropyLoss).parameters)


@pytest.mark.parametrize("row", RESULTS, ids=lambda row: row[0])
def test_results_of_our_page(row: list[str], names: dict[str, Any]) -> None:
    ours, theirs = (eval(code(cell), names) for cell in row[1:])
    rtol = 1e-7 if "ravel" in row[1] else 1e-15  # a call rounds to float32
    assert_same(ours, theirs, rtol=rtol)


@pytest.mark.parametrize("row", FORMULAS, ids=lambda row: row[0])
def test_formulas_of_our_page(row: list[str], names: dict[str, Any]) -> None:
    formula, ours = (eval(code(cell), names) for cell in row[1:])
    assert_same(ours, np.asarray(formula), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("row", ABSENT, ids=lambda row: row[0])
def test_what_is_not_there(row: list[str], names: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        eval(code(row[1]), names)
    found = eval(code(row[2]), names)
    if isinstance(found, lossreg.LossState):
        found = found.compute()
    if isinstance(found, float):
        logits, label = names["logits"], names["label"]
        assert found == pytest.approx(documented(logits, label, np.ones(6))[0], rel=1e-6)


def test_every_difference_is_listed_and_tested() -> None:
    listed = [row[0].strip("`") for row in tables("difference")]
    tested = [name.removeprefix("test_difference_") for name in globals() if name.startswith("test_difference_")]
    assert listed == tested


def test_difference_unread_arguments(rng: Any) -> None:
    logits, label, mask = batch(rng)
    plain = CrossEntropyLoss().get_loss(logits, label, mask)
    for options in ({"weight": [1.0, 2.0, 3.0, 4.0, 5.0]}, {"ignore_index": 1}, {"reduction": "sum"}):
        assert CrossEntropyLoss(**options).get_loss(logits, label, mask) != pytest.approx(plain)
    with pytest.raises((TypeError, ConfigError)):
        CrossEntropyLoss(anything=1)  # type: ignore[call-arg]


def test_difference_probabilities(rng: Any) -> None:
    logits, label, mask = batch(rng, "probabilities")
    assert CrossEntropyLoss().get_loss(logits, label, mask) == pytest.approx(documented(logits, label, mask)[0])


def test_difference_ids() -> None:
    label = np.array([0, 7, 2, 0])
    numerator, denominator, grad = executed(X, label, M)
    assert numerator == pytest.approx(3 * np.log(3))
    assert denominator == 4
    np.testing.assert_allclose(grad[1], 1 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="got undeclared id 7 in row 1"):
        CrossEntropyLoss()(X, label, M)
    padded = CrossEntropyLoss(calculate_per_token_loss=True).get_loss_and_grad(X, label, [1, 0, 1, 1])
    ignored = CrossEntropyLoss(calculate_per_token_loss=True, ignore_index=7).get_loss_and_grad(X, label, M)
    for (total, count), slopes in (padded, ignored):
        assert total == pytest.approx(3 * np.log(3))
        assert count == 3
        assert_same(slopes[1], np.zeros(3))


def test_difference_masked_nan() -> None:
    logits, mask = X.copy(), np.array([1.0, 0, 1, 1])
    logits[1] = np.nan
    assert np.isnan(executed(logits, Y, mask)[0])
    value, grad = CrossEntropyLoss().get_loss_and_grad(logits, Y, mask)
    assert value == pytest.approx(np.log(3))
    assert_same(grad[1], np.zeros(3))


def test_difference_impossible_classes() -> None:
    logits = np.array([[0.0, 0.0, -np.inf]], np.float32)
    assert np.isnan(executed(logits, [0], [1])[0])
    assert CrossEntropyLoss().get_loss(logits, [0], [1]) == pytest.approx(np.log(2))
    assert executed(logits, [2], [1])[0] == CrossEntropyLoss().get_loss(logits, [2], [1]) == np.inf


def test_difference_confident_answers() -> None:
    logits = np.array([[50.0, 0.0]], np.float32)
    assert executed(logits, [0], [1])[0] == 0
    assert CrossEntropyLoss().get_loss(logits, [0], [1]) == pytest.approx(np.exp(-50), rel=1e-6)


def test_difference_small_denominators() -> None:
    mask = np.full(4, 1e-9)
    numerator, denominator, _ = executed(X, Y, mask)
    assert numerator / denominator < 0.3 * np.log(3)
    assert CrossEntropyLoss().get_loss(X, Y, mask) == pytest.approx(np.log(3))
    assert CrossEntropyLoss().get_loss(X, Y, 0 * mask) == 0


def test_difference_masks_out_of_range(rng: Any) -> None:
    logits, label, _ = batch(rng, dtype="float32")
    factors = (rng.random(12) * 5).astype(np.float32)
    for mask in (factors, -factors, np.full(12, np.nan)):
        with pytest.raises(ValueError, match=r"expected mask in \[0, 1\]"):
            CrossEntropyLoss()(logits, label, mask)
    numerator, denominator, _ = executed(logits, label, factors)
    found = CrossEntropy(reduction="weighted_mean").get_loss(logits, label, sample_weight=factors)
    assert found == pytest.approx(float((numerator / denominator)[0]), rel=1e-6)


def test_difference_masks_of_length_one() -> None:
    numerator, denominator, _ = executed(X, Y, M[:1])
    assert (numerator / denominator)[0] == pytest.approx(4 * np.log(3))
    with pytest.raises(ValueError, match="expected input_mask to be 4 numbers"):
        CrossEntropyLoss()(X, Y, M[:1])


def test_difference_shapes_of_pairs() -> None:
    assert [np.shape(x) for x in executed(X, Y, M)[:2]] == [(), (1,)]
    loss = CrossEntropyLoss(calculate_per_token_loss=True)
    assert [np.shape(x) for x in loss(X, Y, M)] == [(1,), (1,)]
    assert [type(x) for x in loss.get_loss(X, Y, M)] == [float, float]


def test_difference_sums() -> None:
    tokens = np.float32(2**24)
    assert tokens + executed(X[:1], Y[:1], M[:1])[1] == tokens
    state = CrossEntropyLoss().get_state(X[:1], Y[:1], M[:1])
    assert (lossreg.LossState(0.0, 2.0**24, parent=state.parent) + state).count == 2**24 + 1
    logits = np.array([[0.0, 1.0, 0.0], [3.0, 0.0, 0.0]], np.float32)
    loss = CrossEntropyLoss().get_loss(logits, Y[:2], M[:2])
    assert CrossEntropyLoss()(logits, Y[:2], M[:2])[0] == np.float32(loss)
    assert float(np.float32(loss)) != loss


def test_difference_printed_losses(capsys: Any) -> None:
    with pytest.raises(NonFiniteLossError):
        CrossEntropyLoss(check_for_nan_in_loss_and_grad=True)(X + np.inf, Y, M)
    assert capsys.readouterr() == ("", "")
