"""Arrays of PyTorch, JAX and array_api_strict: the same numbers, the caller's types, and no copies on the way."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Ragged, metrics, registry
from lossreg.arrays import dlpack as interop
from lossreg.terms import Term, WeightedSum
from support import standin_cupy
from support.foreign import Library, address, bfloat16, installed
from support.nested import assert_same, count, each, item_mask, leaves
from support.table import ROWS, TRUE_ROWS, Row

nan = np.nan


@pytest.fixture(params=["torch", "jax", "array_api_strict"])
def library(request: Any) -> Iterator[Library]:
    with installed(request.param) as found:
        yield found


def as_float(tree: Any, dtype: Any) -> Any:
    return each(lambda x: x.astype(dtype), tree)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_same_bits_as_numpy_in_the_types_of_the_caller(row: Row, dtype: Any, library: Library, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 7)
    guesses = as_float(guesses, dtype)
    grad, value = loss(guesses, truths)
    theirs, their_truths = library.to(guesses), library.to(truths)
    found, number = loss(theirs, their_truths)
    assert type(number) is float
    assert number == value or np.isnan(value)
    assert_same(library.back(found), grad)
    assert all(a.dtype == b.dtype for a, b in zip(leaves(library.back(found)), leaves(grad), strict=True))
    assert_same(library.back(loss.get_grad(theirs, their_truths)), loss.get_grad(guesses, truths))
    assert loss.get_loss(theirs, truths) == loss.get_loss(guesses, truths)
    assert_same(library.back(theirs), guesses)
    # guesses decide
    assert all(type(x) is np.ndarray for x in leaves(loss.get_grad(guesses, their_truths)))
    assert all(isinstance(x, library.array) for x in leaves(loss.get_grad(theirs, truths)))


@pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
def test_masks_weights_values_and_states(row: Row, library: Library, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 7)
    values = loss.get_values(guesses, truths)
    keep = rng.random(guesses.shape[1] if row.axis else count(guesses)) < 0.6
    mask = item_mask(values, keep)
    weight = each(lambda m: m + rng.random(m.shape), mask)
    kwargs = {"mask": mask, "sample_weight": weight}
    theirs, their_truths = library.to(guesses), library.to(truths)
    their_kwargs = {name: library.to(x) for name, x in kwargs.items()}
    for got, expected in (
        (loss(theirs, their_truths, **their_kwargs), loss(guesses, truths, **kwargs)),
        (loss(theirs, truths, **kwargs), loss(guesses, truths, **kwargs)),
    ):
        assert_same((library.back(got[0]), got[1]), expected)
    expected = loss.get_values(guesses, truths, **kwargs)
    assert_same(library.back(loss.get_values(theirs, their_truths, **their_kwargs)), expected)
    assert_same(library.back(row.make(reduction="none")(theirs, their_truths, **their_kwargs)[1]), expected)
    state = loss.get_state(theirs, their_truths, **their_kwargs)
    assert type(state.total) is float
    assert (state.total, state.count) == tuple(
        getattr(loss.get_state(guesses, truths, **kwargs), name) for name in ("total", "count")
    )
    merged, grads = loss.get_state_and_grad(theirs, their_truths, **their_kwargs)
    expected_state, expected_grads = loss.get_state_and_grad(guesses, truths, **kwargs)
    assert_same(library.back(merged.scale(grads)), expected_state.scale(expected_grads))


class Spy(lossreg.MeanSquaredError):
    """Remembers where the arrays of the formula lie, and whether they may be written to."""

    def compute(self, batch: Any, truths: Any, weights: Any, wanted: Any, out: Any) -> Any:
        seen.update(guesses=batch.arrays[0], truths=truths.targets, out=None if out is None else out[0])
        return super().compute(batch, truths, weights, wanted, out)


seen: dict[str, Any] = {}


def test_nothing_is_copied_on_the_way_in(library: Library, rng: Any) -> None:
    x, t = (library.make(rng.normal(size=(64, 33))) for _ in range(2))
    grad = Spy().get_grad(x, t)
    assert address(seen["guesses"]) == address(x)
    assert address(seen["truths"]) == address(t)
    if library.name == "jax":  # which makes a copy of memory that does not begin at a multiple of 64
        assert not seen["guesses"].flags.writeable
    else:
        assert address(grad) == address(seen["out"])


def test_numpy_is_not_copied_either(rng: Any) -> None:
    x, t = rng.normal(size=(2, 5, 3))
    grad = Spy().get_grad(x, t)
    assert (seen["guesses"] is x, seen["truths"] is t, seen["out"] is grad) == (True, True, True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_out_is_written_to_and_returned(dtype: str, rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x, t = torch.from_numpy(rng.normal(size=(2, 5, 3))).to(getattr(torch, dtype))
    if dtype == "bfloat16":
        bfloat16()
    expected, out = Spy().get_grad(x, t), torch.full_like(x, nan)
    before = out.data_ptr()
    grad, _ = Spy()(x, t, out=out)
    assert grad is out
    assert out.data_ptr() == before == address(seen["out"])
    assert torch.equal(out, expected)
    kept = x.clone()
    assert Spy().get_grad(x, t, out=x) is x  # over the guesses
    assert x.data_ptr() == address(seen["out"])
    assert torch.equal(x, expected)
    ours = np.full((5, 3), nan)
    if dtype == "float64":
        assert Spy().get_grad(kept, t, out=ours) is ours
        assert_same(ours, expected.numpy())


def test_out_of_several_outputs(rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    a, b, c = torch.from_numpy(rng.normal(size=(3, 5, 4)))
    out = tuple(torch.empty(5, 4, dtype=torch.float64) for _ in range(3))
    grads = lossreg.TripletMargin().get_grad((a, b, c), None, out=out)
    assert all(x is y for x, y in zip(grads, out, strict=True))
    for x, y in zip(out, lossreg.TripletMargin().get_grad((a, b, c), None), strict=True):
        assert torch.equal(x, y)


def test_immutable_arrays_are_no_out() -> None:
    with installed("jax") as library:
        x = library.make(np.zeros((2, 3)))
        with pytest.raises(
            ValueError, match=r"expected out to be writable, got a float64 array .* of jax, whose arrays"
        ):
            lossreg.MeanSquaredError()(x, x, out=x)


def test_what_only_reads_does_not_write(library: Library, rng: Any) -> None:
    """JAX's views are read-only; those of the others are not, so their numbers are compared."""
    for row in ROWS:
        guesses, truths = row.sample(rng, 5)
        theirs, their_truths = library.to(guesses), library.to(truths)
        row.make()(theirs, their_truths)
        assert_same(library.back(theirs), guesses)
        for a, b in zip(leaves(their_truths), leaves(truths), strict=True):
            if isinstance(a, library.array):
                assert_same(library.read(a), b)


# Arrangements


def test_ragged_keeps_its_type_and_lengths(library: Library, rng: Any) -> None:
    data, ids = rng.normal(size=(7, 4)), rng.integers(0, 4, 7)
    loss = lossreg.CrossEntropy()
    kinds = [Ragged]
    if library.name != "array_api_strict" and importlib.util.find_spec("thinc"):  # Thinc's calls methods of data
        kinds.append(importlib.import_module("thinc.types").Ragged)
    for kind in kinds:
        lengths = np.array([3, 0, 4], np.int32)
        expected, value = loss(kind(data, lengths), ids)
        for their_lengths in (library.make(lengths), lengths):
            found, number = loss(kind(library.make(data), their_lengths), library.make(ids))
            assert type(found) is kind
            assert found.lengths is their_lengths
            assert number == value
            assert_same(library.back(found.data), expected.data)
    found = lossreg.CrossEntropy(reduction="none").get_loss(Ragged(library.make(data), lengths), ids)
    assert_same(library.back(found.data), loss.get_values(Ragged(data, lengths), ids).data)
    assert_same(loss.get_grad(Ragged(data, library.make(lengths)), ids).data, expected.data)


def test_sequences_with_truths_of_all_kinds(library: Library, rng: Any) -> None:
    guesses = [rng.normal(size=(n, 3)) for n in (2, 1, 3)]
    truths: list[Any] = [np.array([0, 2]), ["b"], [None, 1, {"a", "c"}]]
    loss = lossreg.CrossEntropy(names=["a", "b", "c"])
    expected, value = loss(guesses, truths)
    theirs: list[Any] = [library.make(truths[0]), *truths[1:]]
    found, number = loss(library.to(guesses), theirs)
    assert number == value
    assert_same(library.back(found), expected)
    assert loss.get_loss(library.to(guesses), [[library.make(np.array(0)), 2], *truths[1:]]) == value
    padded = rng.normal(size=(2, 3, 4))
    ids = rng.integers(0, 4, (2, 3))
    loss = lossreg.Sequence(lossreg.CrossEntropy())
    expected, value = loss(padded, ids)
    found, number = loss(library.make(padded), library.make(ids))
    assert number == value
    assert_same(library.back(found), expected)


def test_targets_of_ctc_in_a_list(library: Library, rng: Any) -> None:
    log_probs = np.log(rng.dirichlet(np.ones(4), (6, 2)))
    loss = lossreg.CTC()
    expected, value = loss(log_probs, ([[1, 2], [3]], [6, 5], [2, 1]))
    targets = [library.make(np.array([1, 2])), library.make(np.array([3]))]
    lengths = library.make(np.array([6, 5]))
    found, number = loss(library.make(log_probs), (targets, lengths, library.make(np.array([2, 1]))))
    assert number == value
    assert_same(library.back(found), expected)


def test_a_linear_layer(library: Library, rng: Any) -> None:
    guesses, ids = tuple(rng.normal(size=shape) for shape in ((7, 3), (5, 3), (5,))), rng.integers(0, 5, 7)
    expected, value = lossreg.LinearCrossEntropy()(guesses, ids)
    found, number = lossreg.LinearCrossEntropy()(library.to(guesses), library.make(ids))
    assert number == value
    assert_same(library.back(found), expected)


def test_terms_find_them_in_their_context(library: Library, rng: Any) -> None:
    logits, other = rng.normal(size=(2, 5, 3))
    ids, mask = rng.integers(0, 3, 5), np.array([1, 1, 0, 1, 1], bool)
    total = WeightedSum(
        Term(lossreg.CrossEntropy(), guesses="out.logits", truths="ids", mask="mask", weight=0.5),
        Term(lossreg.MeanSquaredError(), guesses="out.logits", truths="other"),
    )
    context = {"out": {"logits": logits}, "ids": ids, "other": other, "mask": mask}
    theirs = {"out": {"logits": library.make(logits)}, "ids": ids, "other": library.make(other), "mask": mask}
    grads, value = total(context)
    found, number = total(theirs)
    assert number == value == total.get_loss(theirs)
    assert_same(library.back(found["out.logits"]), grads["out.logits"])
    state, sums = total.get_state_and_grad(theirs)
    assert_same(library.back(state.scale(sums)["out.logits"]), grads["out.logits"], rtol=1e-14, atol=1e-16)


def of_metrics(rng: Any) -> dict[str, dict[str, Any]]:
    """What each metric that reads arrays takes."""
    logits, labels, mask = rng.normal(size=(8, 3)), np.arange(8) % 3, np.arange(8) % 4 > 0
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    images, boxes = rng.random(size=(2, 16, 12, 3)), np.sort(rng.random(size=(2, 2, 4)), axis=-1)
    segments = rng.integers(0, 3, (2, 6, 5))
    return {
        "Accuracy.v1": dict(labels=labels, logits=logits, mask=mask),
        "Ari.v1": dict(predictions=segments[:, None, ..., None], labels=segments[::-1, None, ..., None].copy()),
        "Psnr.v1": dict(pred=images, target=images[::-1].copy()),
        "ShowBoxes.v1": dict(images=images, boxes=boxes),
        "ShowDifferenceImages.v1": dict(images1=images[..., :1], images2=images[::-1, :, :, :1].copy()),
        "ShowSegmentations.v1": dict(segmentations=segments[..., None]),
        "Ssim.v1": dict(pred=images, target=images[::-1].copy()),
        "Accuracy.v1 of labels": dict(labels=labels, pred_labels=labels[::-1], mask=mask),
        "BinaryAccuracy.v1": dict(logits=logits[:, 0], labels=labels % 2, mask=mask),
        "Histogram.v1": dict(tensor=logits),
        "Norm.v1": dict(tensor=logits, mask=mask),
        "Precision1.v1": dict(logits=logits, labels=(logits > 0.5).astype(int)),
        "RocAuc.v1": dict(logits=probs, labels=labels, mask=mask),
        "ShowImages.v1": dict(images=probs.reshape(2, 4, 3, 1)),
        "ShowTable.v1": dict(columns={"a": labels, "b": probs[:, 0]}),
        "SingleDimension.v1": dict(tensor=logits),
        "Std.v1": dict(values=logits, mask=mask),
    }


NO_ARRAYS = {"Noop.v1", "SkipIfMissing.v1", "TreeMap.v1", "TreeReduce.v1"}


@pytest.mark.parametrize("name", of_metrics(np.random.default_rng(0)))
def test_metrics(name: str, library: Library, rng: Any) -> None:
    """Also as a context; their states keep nothing that changes with the caller's arrays."""
    pytest.importorskip("PIL", reason="pillow is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    given = of_metrics(rng)[name]
    theirs = {
        key: {column: library.make(x) for column, x in value.items()} if isinstance(value, dict) else library.to(value)
        for key, value in given.items()
    }
    paths = {} if name == "ShowTable.v1" else {key: key for key in given}
    metric = registry.metrics.get(name.split()[0])(**paths)
    states, expected = (metric.get_state(**theirs), metric.get_state(**given)), pickle.dumps(metric(**given))
    assert pickle.dumps(metric(**theirs)) == expected
    assert not paths or pickle.dumps(metric(context=theirs)) == expected
    for x in (*given.values(), *(theirs.values() if library.name == "torch" else ())):
        for part in x.values() if isinstance(x, dict) else [x]:
            part[...] = 0
    for state in states:
        assert pickle.dumps(state.finalize().compute()) == expected


def test_all_metrics_are_tried(rng: Any) -> None:
    assert {name.split()[0] for name in of_metrics(rng)} | NO_ARRAYS == set(registry.metrics.names())


def test_states_of_values(library: Library, rng: Any) -> None:
    values, mask = rng.normal(size=(2, 3)), np.array([[True], [False]])
    found = lossreg.AverageState.from_values(library.make(values), mask=library.make(mask))
    assert type(found.total) is float
    assert (found.total, found.count) == (values[0].sum(), 3.0)


def test_functions_and_keywords(library: Library, rng: Any) -> None:
    x, t = rng.normal(size=(2, 5, 3))
    theirs, their_truths = library.make(x), library.make(t)
    assert lossreg.functional.huber(theirs, their_truths, 0.5) == lossreg.functional.huber(x, t, 0.5)
    assert_same(library.back(lossreg.functional.huber.grad(theirs, their_truths)), lossreg.functional.huber.grad(x, t))
    loss = lossreg.L2Distance()
    assert_same(library.back(loss(truths=their_truths, guesses=theirs)[0]), loss(x, t)[0])
    assert isinstance(lossreg.CosineDistance().get_similarity(theirs, their_truths), library.array)


def test_gradients_of_micro_batches_are_scaled_in_any_tree(library: Library) -> None:
    state = lossreg.MeanSquaredError().get_state(np.ones((2, 2)), np.zeros((2, 2)))
    found = state.scale({"w": library.make(np.full(3, 8.0)), "b": (library.make(np.full(1, 4.0)), 2.0)})
    assert_same(library.back(found["w"]), np.full(3, 2.0))
    assert_same(library.back(found["b"][0]), np.ones(1))
    assert found["b"][1] == 0.5


# Layouts and dtypes


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers in other orders of memory."""
    return {
        "negative": np.ascontiguousarray(x[::-1])[::-1],
        "negative columns": np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "transposed": np.asfortranarray(x),
    }


def test_strides_of_numpy_arrays_beside_tensors(rng: Any) -> None:
    """Through DLPack, negative ones would end the process in PyTorch 2.13."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x, t = rng.normal(size=(2, 6, 4))
    expected, loss = lossreg.MeanSquaredError().get_grad(x, t), lossreg.MeanSquaredError()
    for a, b in zip(layouts(x).values(), layouts(t).values(), strict=True):
        grad = loss.get_grad(a, torch.from_numpy(t))
        assert_same(torch.from_dlpack(grad).numpy(), expected)
        assert_same(loss.get_grad(torch.from_numpy(x), b).numpy(), expected)
        assert_same(loss.get_grad(a, b), expected)


def test_layouts_of_tensors(rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x, t = (torch.from_numpy(a) for a in rng.normal(size=(2, 6, 4)))
    loss = lossreg.MeanSquaredError()
    expected = loss.get_grad(x, t)
    doubled = x.repeat_interleave(2, dim=1)
    for same in (x.t().contiguous().t(), doubled[:, ::2], torch.complex(x, -x).conj().imag, torch.nn.Parameter(x)):
        assert torch.equal(loss.get_grad(same, t), expected)
        assert torch.equal(loss.get_grad(x, same), loss.get_grad(x, x))
    row = x[:1].expand(6, 4)
    assert torch.equal(loss.get_grad(row, t), loss.get_grad(row.contiguous(), t))
    recorded = loss.get_grad(x.clone().requires_grad_() * 1, t)
    assert not recorded.requires_grad


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_half_precision(name: str, rng: Any) -> None:
    dtype = bfloat16()
    guesses, ids = rng.normal(size=(2, 3, 4)).astype(dtype), rng.integers(0, 3, (2, 4))
    for kind in (dtype, np.dtype(np.float16)):
        guesses = guesses.astype(kind)
        with installed(name) as library:
            if name == "torch":
                made = library.make(guesses.astype(np.float32)).to(getattr(sys.modules["torch"], kind.name))
            else:
                made = library.make(guesses)
            for loss in (lossreg.CrossEntropy(), lossreg.CrossEntropy(reduction="none")):
                expected, value = loss(guesses, ids)
                found, number = loss(made, library.make(ids))
                assert found.dtype == made.dtype
                wide = np.asarray(found.float() if name == "torch" else found, np.float32)
                assert_same(wide, expected.astype(np.float32))
                if loss.reduction == "none":
                    assert number.dtype == made.dtype
                else:
                    assert number == value


def test_masks_and_weights_in_half_precision(rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x, t = torch.from_numpy(rng.normal(size=(2, 4, 3))).to(torch.bfloat16)
    mask, weight = np.array([1.0, 0.0, 0.5, 1.0])[:, None], np.array([1.0, 2.0, 3.0, 0.25])[:, None]
    expected = lossreg.Huber()(x, t, mask=mask, sample_weight=weight)
    for dtype in (torch.bfloat16, torch.float16):
        half = {"mask": torch.from_numpy(mask).to(dtype), "sample_weight": torch.from_numpy(weight).to(dtype)}
        grad, value = lossreg.Huber()(x, t, **half)
        assert value == expected[1]
        assert torch.equal(grad, expected[0])
    with pytest.raises(ValueError, match=r"expected mask in \[0, 1\], got .*2"):
        lossreg.Huber()(x, t, mask=half["sample_weight"].to(torch.bfloat16))


def test_integers_are_numbers_too(library: Library) -> None:
    x, t = np.array([3, 1], np.int32), np.array([1.0, 1.0])
    found = lossreg.MeanSquaredError().get_grad(library.make(x), library.make(t))
    assert_same(library.back(found), np.array([2.0, 0.0]))


def test_single_precision_stays_single_without_jax_x64() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    with jax.enable_x64(False):
        x = jax.numpy.arange(6.0).reshape(2, 3)
        grad, _ = lossreg.CrossEntropy()(x, jax.numpy.array([0, 2]))
        assert grad.dtype == np.float32
        assert grad.device == x.device
        assert_same(np.asarray(grad), lossreg.CrossEntropy().get_grad(np.asarray(x), np.array([0, 2])))


# What is not understood


def test_bfloat16_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"NumPy has no bfloat16 of its own: python -m pip install ml_dtypes"):
        lossreg.MeanSquaredError()(torch.zeros(3, dtype=torch.bfloat16), np.zeros(3))


@pytest.mark.filterwarnings("ignore::UserWarning")  # sparse tensors are new
def test_tensors_without_memory_that_can_be_shared() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x = torch.zeros(2, 3)
    for other in (x.to_sparse(), x.to("meta"), x.to(torch.float8_e4m3fn)):
        expected = (
            r"Cannot calculate Huber: expected {} to be shared with NumPy or CuPy, got a torch\.\w+ array of shape"
        )
        with pytest.raises(ValueError, match=expected.format("guesses")):
            lossreg.Huber()(other, x)
        with pytest.raises(ValueError, match=expected.format("truths")):
            lossreg.Huber()(x, other)
    with pytest.raises(ValueError, match="expected guesses of real numbers"):
        lossreg.Huber()(x.to(torch.complex64), x)
    with pytest.raises(ValueError, match=r"expected truths of shape \(2, 3\).*, got mismatched shape \(3,\)"):
        lossreg.Huber()(x, x[0])


def test_tracers_are_sent_to_the_function() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    x = jax.numpy.zeros(3)
    for transform in (jax.jit, jax.grad):
        with pytest.raises(ValueError, match=r"inside jax.jit, jax.grad and jax.vmap, use lossreg.jax.as_function"):
            transform(lambda x: lossreg.Huber().get_loss(x, x))(x)


# States of one's own


class Everything(metrics.AutoState):
    """Fields of each kind that holds arrays."""

    total: Any = metrics.sum_field()
    low: Any = metrics.min_field()
    high: Any = metrics.max_field()
    all: Any = metrics.concat_field()
    first: Any = metrics.truncate_field(num_field="num")
    inner: Any = metrics.state_field()
    num: int = 3
    edges: Any = metrics.static_field(None)


class Doubled(metrics.AutoState):
    total: Any = metrics.sum_field()

    def compute(self) -> Any:
        assert not interop.is_foreign(self.total)
        return np.multiply(self.total, 2)


class Items(metrics.CollectingState):
    items: Any


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_fields_of_own_states_are_arrays_of_any_library(shape: Any, dtype: Any, library: Library, rng: Any) -> None:
    parts = [np.asarray(rng.integers(0, 9, shape), dtype) for _ in range(3)]
    edges = np.array([0.0, 1.0])

    def states_of(make: Any) -> list[Everything]:
        arrays = map(make, parts)
        return [Everything({"x": x, "mixed": (1.0, x)}, x, x, [x], x, Items(x), edges=make(edges)) for x in arrays]

    theirs, ours = states_of(library.make), states_of(lambda x: x)
    for merge in (
        sum,
        lambda states: states[0],
        lambda states: Everything.empty() + states[0] + (states[1] + states[2]),
    ):
        found, expected = vars(merge(theirs).compute()), vars(merge(ours).compute())
        assert found.pop("inner").items.tolist() == expected.pop("inner").items.tolist()
        assert found["total"].keys() == expected["total"].keys()
        found |= found.pop("total")
        expected |= expected.pop("total")
        for name in expected:
            for a, b in zip(leaves(found[name]), leaves(expected[name]), strict=True):
                assert isinstance(a, (np.ndarray, np.generic, int, float))
                assert_same(np.asarray(a), np.asarray(b))
                assert np.asarray(a).dtype == np.asarray(b).dtype
    mixed = theirs[0] + ours[1] + theirs[2]
    assert_same(np.asarray(mixed.compute().total["x"]), np.asarray(sum(ours).compute().total["x"]))
    assert pickle.loads(pickle.dumps(mixed)).compute().all[0].tolist() == mixed.compute().all[0].tolist()
    with pytest.raises(ValueError, match="expected the same edges in both"):
        theirs[0] + Everything(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, edges=library.make(edges + 1))


def test_a_compute_of_ones_own_finds_arrays_of_numpy(library: Library) -> None:
    one = Doubled(library.make(np.array([1.0, 2.0])))
    for state, expected in ((one, [2.0, 4.0]), (one + one, [4.0, 8.0]), (Doubled.empty() + one, [2.0, 4.0])):
        assert state.compute().tolist() == expected
    average = metrics.AverageState(total=library.make(np.array(3.0)), count=library.make(np.array(2)))
    assert average.compute() == (average + average).compute() == 1.5
    assert lossreg.LossState(total=1.0, count=library.make(np.array(2))).factor == 0.5


def test_sums_of_own_states_are_exact(library: Library, rng: Any) -> None:
    numbers = rng.normal(size=(100, 2)) * 10.0 ** rng.integers(-8, 8, (100, 2))
    total = sum(Doubled(library.make(x)) for x in numbers).compute() / 2  # type: ignore[attr-defined]
    assert total.tolist() == [math.fsum(column) for column in numbers.T]


def test_own_states_hold_no_graph_of_pytorch_once_they_are_merged() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    x = torch.ones(3, requires_grad=True)
    merged = Doubled(x * 2) + Doubled(x)
    assert type(merged.total) is np.ndarray
    assert Items(x * 2).compute().items.tolist() == [2, 2, 2]


def test_own_states_are_merged_and_computed_outside_of_transformations_of_jax() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    x = jax.numpy.ones(3)
    expected = (
        r"^Cannot calculate {}: expected {} to be shared with NumPy or CuPy, got a float32 array of shape \(3,\) "
        r"\(inside jax.jit, jax.grad and jax.vmap, do this outside of them\)\."
    )
    for call in (
        lambda x: (Doubled(x) + Doubled(x)).total,
        lambda x: Doubled(x).compute(),
        lambda x: (Doubled(1.0) + Doubled(x)).total,
    ):
        with pytest.raises(ValueError, match=expected.format("Doubled", "total")):
            jax.jit(call)(x)
    with pytest.raises(ValueError, match=expected.format("AverageState", "values")):
        jax.jit(lambda x: metrics.AverageState.from_values(x).compute())(x)
    with pytest.raises(ValueError, match=expected.format("Norm", "tensor")):
        jax.jit(lambda x: metrics.Norm()(tensor=x))(x)


class Exported:
    """An array that exports itself; its module has no way back."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self.array, self.on = array, device

    device = property(lambda self: f"number {self.on}")
    dtype = property(lambda self: self.array.dtype)
    shape = property(lambda self: self.array.shape)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.on, 0


def test_libraries_without_a_way_back() -> None:
    x = Exported(np.ones((2, 3)))
    assert lossreg.MeanSquaredError().get_loss(x, np.zeros((2, 3))) == 1.0
    assert_same(lossreg.MeanSquaredError().get_grad(np.ones((2, 3)), x), np.zeros((2, 3)))
    with pytest.raises(
        TypeError, match=r"Cannot return arrays of test_foreign_arrays: expected a namespace with from_dlpack"
    ):
        lossreg.MeanSquaredError().get_grad(x, np.zeros((2, 3)))


def test_devices_that_nobody_reads() -> None:
    x = Exported(np.ones((2, 3)), device=8)
    with pytest.raises(ValueError, match=r"to be shared with NumPy or CuPy, got .* \(on device number 8\)"):
        lossreg.MeanSquaredError()(x, np.zeros((2, 3)))


# Devices, as far as they can be followed without one


class OnDevice(Exported):
    """An array on a CUDA device of a library whose namespace is this module."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array, device=2)

    def __add__(self, other: OnDevice) -> OnDevice:
        return OnDevice(self.array + other.array)

    def __array_namespace__(self) -> Any:
        return types.SimpleNamespace(from_dlpack=lambda x: OnDevice(x.host))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    with standin_cupy.installed() as module, np.errstate(all="ignore"):
        module.from_dlpack = lambda x: module.asarray(x.array)
        yield module


def test_arrays_on_a_device_go_through_cupy(cupy: Any, rng: Any) -> None:
    for row in TRUE_ROWS:
        guesses, truths = row.sample(rng, 5)
        loss = row.make()
        theirs = each(OnDevice, guesses)
        expected, value = loss(guesses, truths)
        grad, number = loss(theirs, truths)
        assert type(number) is type(loss.get_loss(theirs, truths)) is OnDevice
        assert all(type(x) is OnDevice for x in leaves(grad))
        assert_same(each(lambda x: x.array, grad), expected, rtol=1e-12, atol=1e-14)
        assert_same(number.array, value, rtol=1e-12)
        assert type(loss.get_state(theirs, truths).total) is cupy.ndarray


def test_losses_of_contexts_on_a_device(cupy: Any) -> None:
    term = Term(lossreg.MeanSquaredError(), guesses="x", truths="t", weight=0.5)
    context = {"x": OnDevice(np.ones(4)), "t": OnDevice(np.zeros(4))}
    for total in (term, WeightedSum(term, term)):
        grads, loss = total(context)
        assert type(loss) is type(total.get_loss(context)) is type(grads["x"]) is OnDevice
    assert float(loss.array) == 1.0
    assert type(lossreg.L2Distance()(OnDevice(np.ones((2, 2))), OnDevice(np.zeros((2, 2))))[1]) is OnDevice


def test_cupy_computes_on_the_stream_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    steps: list[Any] = []

    class Place:
        def __init__(self, *place: Any) -> None:
            self.place = place

        def __enter__(self) -> Any:
            steps.append(("enter", *self.place))
            return self

        def __exit__(self, *error: Any) -> None:
            steps.append(("leave", *self.place))

        def record(self) -> str:
            steps.append(("record", *self.place))
            return "done"

        def wait_event(self, event: str) -> None:
            steps.append(("wait", event, *self.place))

    cuda = types.SimpleNamespace(Device=Place, ExternalStream=Place, get_current_stream=lambda: Place("own"))
    monkeypatch.setattr(interop, "get_ops", lambda name: types.SimpleNamespace(xp=types.SimpleNamespace(cuda=cuda)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=77))
    tensor = types.SimpleNamespace(is_cuda=True, device=types.SimpleNamespace(index=3))
    with interop._library(torch.Tensor).scope(tensor):
        steps.append("computes")
    assert steps == [
        ("enter", 3), ("enter", 77, 3), "computes", ("record", 77, 3), ("leave", 77, 3), ("leave", 3),
        ("wait", "done", "own"),
    ]  # fmt: skip


def test_nothing_is_looked_at_in_lists_of_labels() -> None:
    """A list that begins with a label is one of labels; others are searched."""
    with installed("array_api_strict") as library:
        x = library.make(np.zeros(2))
        for value in (x, [x], (None, x), [[x]], [[1], [x]], {"a": {"b": x}}, Ragged(x, [2]), Ragged(np.zeros(2), x)):
            assert interop.is_foreign(value)
        for value in (np.zeros(2), [], (), [np.zeros(2)], ["a", "b"], [{"a"}, None], [[1], ["a"]], None, 1.0, registry):
            assert not interop.is_foreign(value)
