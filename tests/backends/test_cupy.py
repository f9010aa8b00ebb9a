"""CupyOps without a GPU: the same numbers through a stand-in for cupy, and not one value read on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg.losses import linear
from support import cuda_on_cpu, standin_cupy
from support.devices import to_device, to_host
from support.nested import assert_same, count, each, item_mask, leaves
from support.table import ROWS, TRUE_ROWS, Row, make


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_same_numbers_on_a_device_and_nothing_is_read(row: Row, dtype: Any, cupy: Any, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 7)
    guesses = each(lambda x: x.astype(dtype), guesses)
    expected = loss(guesses, truths)
    d_guesses = to_device(cupy, guesses)
    d_truths = truths if row.host_truths else to_device(cupy, truths)
    grad, value = loss(d_guesses, d_truths)
    assert type(value) is cupy.ndarray
    assert value.shape == ()
    assert all(type(part) is cupy.ndarray and part.dtype == dtype for part in leaves(grad))
    rtol = {2: 1e-2, 4: 1e-5, 8: 1e-13}[np.dtype(dtype).itemsize]
    assert_same((to_host(grad), to_host(value)), expected, rtol=rtol, atol=rtol * 1e-2)
    assert_same(to_host(loss.get_loss(d_guesses, d_truths)), to_host(value))


IDS, ONE, TWO = "ids", "elements", "vectors"


@pytest.mark.parametrize(
    ("loss", "what", "expected"),
    [
        (lossreg.MeanSquaredError(), ONE, ["kernel", "truediv"]),
        (lossreg.Huber(reduction="sum"), ONE, ["kernel"]),
        (lossreg.CrossEntropy(reduction="sum", ignore_index=-1), IDS, ["ne", "kernel"]),
        (lossreg.CrossEntropy(), IDS, ["ne", "sum", "kernel", "kernel", "kernel"]),
        (lossreg.NLL(), IDS, ["ne", "sum", "kernel", "kernel", "kernel"]),
        (lossreg.CosineEmbedding(), TWO, ["kernel", "truediv"]),
    ],
)
def test_a_call_launches_few_kernels(loss: Any, what: str, expected: list[str], rng: Any) -> None:
    """Ids that are ignored are counted, 1 is divided by their count, and the total by it."""
    if cuda_on_cpu.why_not():
        pytest.skip(str(cuda_on_cpu.why_not()))
    with standin_cupy.installed() as cupy:
        x, t = (cupy.asarray(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(2))
        ids, signs = cupy.asarray(rng.integers(0, 3, 4)), cupy.asarray(np.array([1.0, -1.0, 1.0, 1.0]))
        given = {ONE: (x, t), IDS: (x, ids), TWO: ((x, t), signs)}[what]
        loss(*given)  # makes what stays
        standin_cupy.launches.clear()
        loss(*given)
        assert standin_cupy.launches == expected


@pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batch_mean", "weighted_mean"])
def test_masks_weights_and_states_stay_on_the_device(row: Row, reduction: Any, cupy: Any, rng: Any) -> None:
    loss = row.make(reduction=reduction)
    guesses, truths = row.sample(rng, 7)
    values = row.make().get_values(guesses, truths)
    keep = rng.random(guesses.shape[1] if row.axis else count(guesses)) < 0.6
    masks = {
        "mask": item_mask(values, keep),
        "sample_weight": each(lambda m: m + rng.random(m.shape), item_mask(values, keep)),
    }
    expected = loss(guesses, truths, **masks)
    d_guesses = to_device(cupy, guesses)
    d_truths = truths if row.host_truths else to_device(cupy, truths)
    d_masks = {name: to_device(cupy, mask) for name, mask in masks.items()}
    assert_same(to_host(loss(d_guesses, d_truths, **d_masks)), expected, rtol=1e-12, atol=1e-16)
    nothing = {"mask": each(lambda m: m & False, d_masks["mask"])}
    for part in leaves(to_host(loss(d_guesses, d_truths, **nothing))):
        assert not np.any(part)
    if reduction != "none":
        state = loss.get_state(d_guesses, d_truths, **d_masks)
        merged = state.merge(state).merge(loss.empty())
        assert_same(to_host(merged.compute()), 2 * expected[1] if reduction == "sum" else expected[1], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(1, 1), (2**26, 2**23)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batch_mean", "weighted_mean"])
def test_a_linear_layer_stays_on_the_device(
    sizes: tuple[int, int], reduction: Any, dtype: Any, cupy: Any, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "BLOCK", sizes[0])
    monkeypatch.setattr(linear, "TILE", sizes[1])
    guesses = tuple(rng.normal(size=shape).astype(dtype) for shape in ((7, 3), (5, 3), (5,)))
    ids, rows, mask = rng.integers(0, 5, 7), rng.dirichlet(np.ones(5), 7), {"mask": np.arange(7) % 3 > 0}
    d_guesses = to_device(cupy, guesses)
    d_mask = {name: cupy.asarray(value) for name, value in mask.items()}
    rtol = {2: 1e-2, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
    for options, truths in (
        (dict(label_smoothing=0.1, class_weight=[1.0, 2.0, 0.5, 0.0, 1.0]), ids),
        (dict(softcap=2.0, z_loss=0.1), ids),
        (dict(softcap=2.0), rows),
        (dict(class_weight=[1.0, 2.0, 0.5, 0.0, 1.0]), [0, None, {1, 2}, {3}, 4, 0, {0, 1}]),
    ):
        loss = lossreg.LinearCrossEntropy(reduction=reduction, **options)
        d_truths = to_device(cupy, truths)
        out = to_device(cupy, each(np.empty_like, guesses))
        for call, d_call in (({}, {}), (mask, d_mask), (mask, {**d_mask, "out": out})):
            grads, value = loss(d_guesses, d_truths, **d_call)
            assert all(type(part) is cupy.ndarray for part in (*grads, value))
            assert_same(to_host((grads, value)), loss(guesses, truths, **call), rtol=rtol, atol=rtol * 0.1)
        assert all(a is b for a, b in zip(grads, out, strict=True))
        empty = ((d_guesses[0][:0], *d_guesses[1:]), [])
        assert not any(np.any(part) for part in leaves(to_host(loss(*empty))))
        if reduction != "none":
            state = loss.get_state(d_guesses, d_truths, **d_mask)
            assert_same(to_host(state.compute()), loss.get_loss(guesses, truths, **mask), rtol=rtol)
            assert type(loss.get_state(*empty).total) is cupy.ndarray


def test_full_validation_reads_once_and_says_what_is_wrong(cupy: Any) -> None:
    loss = lossreg.CategoricalCrossentropy_v4(validate="full", wrt="probs")
    probs = np.array([[0.5, 0.5], [1.5, 0.0]])
    if isinstance(cupy, standin_cupy.Cupy):
        with pytest.raises(standin_cupy.WaitedForDeviceError):
            loss(cupy.asarray(probs), cupy.asarray(np.array([0, 1])))
    with standin_cupy.allow_reading():
        with pytest.raises(ValueError, match=r"got 1\.5 in row 1, column 0"):
            loss(cupy.asarray(probs), cupy.asarray(np.array([0, 1])))
        with pytest.raises(ValueError, match="undeclared id 2 in row 1"):
            loss(cupy.asarray(probs * 0.5), cupy.asarray(np.array([0, 2])))
        loss(cupy.asarray(probs * 0.5), cupy.asarray(np.array([0, 1])))


def test_labels_on_the_host_are_checked_and_copied(cupy: Any) -> None:
    logits = cupy.asarray(np.zeros((3, 2)))
    loss = lossreg.CrossEntropy(names=["a", "b"])
    with pytest.raises(ValueError, match="undeclared id 2 in row 1"):
        loss(logits, [0, 2, 1])
    with pytest.raises(ValueError, match="unknown name 'c'"):
        loss(logits, ["a", "c", None])
    assert_same(to_host(loss(logits, np.array([0, 1, 1]))), lossreg.CrossEntropy()(np.zeros((3, 2)), [0, 1, 1]), 1e-15)
    for mask in ([1, 0, 1], np.array([1.0, 0.0, 1.0])):
        assert to_host(loss(logits, [0, 1, 1], mask=mask)[0])[1].tolist() == [0, 0]
    assert_same(to_host(lossreg.Huber()(logits, np.ones((3, 2))))[1], 0.5)
    with pytest.raises(ValueError, match="expected truths of numpy as the guesses are"):
        loss(np.zeros((3, 2)), cupy.asarray(np.array([0, 1, 1])))
    with pytest.raises(ValueError, match="expected mask to be an array of numpy as the guesses are"):
        loss(np.zeros((3, 2)), [0, 1, 1], mask=cupy.asarray(np.array([True, True, False])))


def test_choosing_the_gpu(cupy: Any) -> None:
    assert lossreg.prefer_gpu()
    assert lossreg.prefer_gpu()
    assert lossreg.require_gpu()
    assert lossreg.get_ops().name == "cupy"
    assert lossreg.get_ops(cupy.asarray([1.0])) is lossreg.get_ops("cupy") is lossreg.get_ops()
    assert isinstance(lossreg.get_ops(np.zeros(1)), lossreg.NumpyOps)
    assert lossreg.require_cpu()
    assert lossreg.get_ops() is lossreg.get_ops(np.zeros(1))


# What the host holds

inf, nan = np.inf, np.nan


def test_numbers_on_the_host_go_to_a_device(rng: Any) -> None:
    x, t = rng.normal(size=(3, 4)), rng.random((3, 4))
    cases = [
        ("MultiLabelSoftMargin.v1", x, t), ("BinaryCrossEntropyWithLogits.v1", x, t),
        ("CosineEmbedding.v1", (x, t), np.array([1.0, -1.0, 1.0])), ("CosineEmbedding.v1", (x, t), [1, -1, 1]),
    ]  # fmt: skip
    expected = [make(name)(guesses, truths)[1] for name, guesses, truths in cases]
    with standin_cupy.installed() as cupy:
        for (name, guesses, truths), value in zip(cases, expected, strict=True):
            for validate in ("auto", "shape"):
                found = make(name, validate=validate).get_loss(each(cupy.asarray, guesses), truths)
                with standin_cupy.allow_reading():
                    assert_same(found.get(), value, rtol=1e-13)
            with standin_cupy.allow_reading(), pytest.raises(ValueError, match="expected truth"):
                make(name, validate="full")(each(cupy.asarray, guesses), np.asarray(truths) * 7)


def test_a_device_is_not_waited_for_to_check_ranges(rng: Any) -> None:
    """ "auto" takes what "full" refuses, since looking at data makes the host wait."""
    p = rng.random((3, 4)) * 2
    with standin_cupy.installed() as cupy:
        for name in ("CategoricalCrossentropy.v3", "CategoricalCrossentropy.v4"):
            make(name)(cupy.asarray(p), cupy.asarray(np.array([0, 1, 2])))
        for name in ("L2Distance.v1", "CosineDistance.v1"):
            make(name)(cupy.asarray(p * nan), cupy.asarray(p))
