"""Calculators as PyTorch modules: autograd gets their own gradients, from all layouts, dtypes and threads."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Ragged, registry
from lossreg.pipeline.evaluation import Needs
from lossreg.pipeline.reduced import ReducedLoss
from lossreg.terms import Term, WeightedSum
from support.foreign import NO_CALCULATORS, ROWS_TO_DIFFERENTIATE
from support.nested import assert_same, each, leaves
from support.table import ROWS, Row

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
from lossreg.torch import as_module  # noqa: E402


def tensors(tree: Any, grad: bool = True) -> Any:
    """Tensors of NumPy's numbers, which they share."""
    if isinstance(tree, (tuple, list)) and any(isinstance(x, (np.ndarray, tuple, list)) for x in tree):
        return type(tree)(tensors(part, grad) for part in tree)
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "fiub":
        tensor = torch.from_numpy(tree.copy())
        return tensor.requires_grad_() if grad else tensor
    return tree


def grads(tree: Any) -> Any:
    return each(lambda x: x.grad.numpy(), tree)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", ROWS_TO_DIFFERENTIATE, ids=lambda row: row.id)
def test_same_bits_as_the_calculator(row: Row, dtype: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 7)
    guesses = each(lambda x: x.astype(dtype), guesses)
    for reduction in ("mean", "sum", "batch_mean"):
        loss = row.make(reduction=reduction)
        expected, value = loss(guesses, truths)
        inputs = tensors(guesses)
        found = as_module(loss)(inputs, tensors(truths, grad=False))
        assert (found.shape, found.dtype) == ((), leaves(inputs)[0].dtype)
        assert_same(found.item(), dtype(value))
        found.backward()
        assert_same(grads(inputs), expected)


@pytest.mark.parametrize("row", ROWS_TO_DIFFERENTIATE, ids=lambda row: row.id)
def test_values_and_the_way_back_from_their_slopes(row: Row, rng: Any) -> None:
    """Slopes of at least 0 are weights of items; others are checked numerically below."""
    guesses, truths = row.sample(rng, 7)
    loss = row.make(reduction="none")
    values = loss.get_loss(guesses, truths)
    slopes = each(lambda v: np.where(rng.random(v.shape) < 0.2, 0.0, rng.random(v.shape)), values)
    inputs = tensors(guesses)
    found = as_module(loss)(inputs, tensors(truths, grad=False))
    assert_same(each(lambda x: x.detach().numpy(), found), values)
    torch.autograd.backward(leaves(found), [torch.from_numpy(x) for x in leaves(slopes)])
    assert_same(grads(inputs), loss.get_grad(guesses, truths, sample_weight=slopes), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("reduction", ["mean", "none", "weighted_mean"])
@pytest.mark.parametrize("row", ROWS_TO_DIFFERENTIATE, ids=lambda row: row.id)
def test_numerical_derivatives(row: Row, reduction: str, rng: Any) -> None:
    """At random points, which are no kinks; targets of CTC that do not fit have no finite loss."""
    guesses, truths = row.sample(rng, 4)
    more = {"zero_infinity": True} if row.name == "CTC.v1" else {}
    module = as_module(row.make(reduction=reduction, **more))
    values = row.make(reduction="none").get_loss(guesses, truths)
    weight = each(lambda v: rng.random(v.shape) + 0.5, values)
    inputs = tensors(guesses)

    def function(*arrays: Any) -> Any:
        rest = iter(arrays)
        found = module(each(lambda x: next(rest), inputs), truths, sample_weight=weight)
        return tuple(leaves(found))

    assert torch.autograd.gradcheck(function, tuple(leaves(inputs)), eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ROWS_TO_DIFFERENTIATE], ids=lambda row: row.id)
def test_gradients_in_something_else_are_refused(row: Row) -> None:
    error, message = (TypeError, "all but Thinc's own") if row.thinc else (ValueError, "got wrt='logits'")
    with pytest.raises(error, match=f"Cannot differentiate .*{message}"):
        as_module(row.make())


def test_other_losses_that_are_refused() -> None:
    with pytest.raises(ValueError, match="Cannot differentiate CrossEntropy: expected one that returns its loss"):
        as_module(lossreg.CrossEntropy(per_token=True))
    with pytest.raises(ValueError, match=r"Cannot differentiate Sequence: .* got wrt='logits'"):
        as_module(lossreg.Sequence(lossreg.CategoricalCrossentropy_v4()))
    with pytest.raises(ValueError, match=r"Cannot differentiate CTC: .* got wrt='logits'"):
        as_module(WeightedSum(Term(lossreg.CTC(wrt="logits"), guesses="x", truths=["a", "b", "c"])))


@pytest.mark.parametrize("loss, error", NO_CALCULATORS)
def test_what_is_no_calculator_is_named(loss: Any, error: str) -> None:
    with pytest.raises(TypeError) as caught:
        as_module(loss)
    assert str(caught.value) == f"Cannot differentiate {error}"


# The graph


class Counted(lossreg.MeanSquaredError):
    """Counts what is calculated."""

    def compute(self, batch: Any, truths: Any, weights: Any, needs: Needs, out: Any) -> Any:
        calls.append((needs.total or needs.values, needs.grad))
        if out is not None:
            addresses.append(out[0].ctypes.data)
        return super().compute(batch, truths, weights, needs, out)


calls: list[tuple[bool, bool]] = []
addresses: list[int] = []


@pytest.fixture(autouse=True)
def nothing_is_counted() -> None:
    calls.clear()
    addresses.clear()


@pytest.fixture
def pair() -> Any:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))


def test_one_call_gives_loss_and_gradient(pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    module = as_module(Counted())
    module(x, t).backward()
    assert calls == [(True, True)]
    calls.clear()
    assert not module(x.detach(), t).requires_grad
    with torch.no_grad():
        assert not module(x, t).requires_grad
    assert calls == [(True, False)] * 2
    calls.clear()
    values = as_module(Counted(reduction="none"))(x, t)
    values.sum().backward()
    assert calls == [(True, False), (False, True)]


def test_the_gradient_is_kept_without_a_copy(pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    loss = as_module(Counted())(x, t)
    assert addresses == [loss.grad_fn.saved_tensors[1].data_ptr()]


def test_the_gradient_is_times_that_of_the_loss(pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    expected = lossreg.Huber().get_grad(x, t)
    (3.0 * as_module(lossreg.Huber())(x, t) ** 1).backward()
    torch.testing.assert_close(x.grad, 3.0 * expected)


def test_a_graph_may_be_walked_again(pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    for reduction in ("mean", "none"):
        x.grad = None
        loss = as_module(lossreg.MeanSquaredError(reduction=reduction))(x, t).sum()
        loss.backward(retain_graph=True)
        once = x.grad.clone()
        loss.backward(retain_graph=True)
        x.grad.zero_()  # the kept gradient is not what was handed out
        loss.backward()
        assert torch.equal(x.grad, once)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


def test_only_some_outputs_want_a_gradient(rng: Any) -> None:
    anchor, positive, negative = (torch.from_numpy(x) for x in rng.normal(size=(3, 5, 4)))
    positive.requires_grad_()
    as_module(lossreg.TripletMargin())((anchor, positive, negative), None).backward()
    assert (anchor.grad, negative.grad) == (None, None)
    assert torch.equal(positive.grad, lossreg.TripletMargin().get_grad((anchor, positive, negative), None)[1])


def test_gradients_reach_a_model(pair: Any) -> None:
    """As PyTorch's own loss does."""
    x, _ = pair
    layer, ids = torch.nn.Linear(3, 4).double(), torch.tensor([0, 1, 2, 3, 1])
    as_module(lossreg.CrossEntropy(label_smoothing=0.1))(layer(x), ids).backward()
    found = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    torch.nn.CrossEntropyLoss(label_smoothing=0.1)(layer(x), ids).backward()
    for a, b in zip(found, layer.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_there_is_no_second_derivative(reduction: str, pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    loss = as_module(lossreg.MeanSquaredError(reduction=reduction))(x, t).sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    assert_same(grad.detach().numpy(), lossreg.MeanSquaredError(reduction=reduction).get_grad(x, t).numpy())
    penalty = grad.square().sum()
    for differentiate in (
        lambda: torch.autograd.grad(penalty, x, retain_graph=True),
        lambda: (loss + penalty).backward(),  # where zeros would not be seen
    ):
        with pytest.raises(RuntimeError, match="Cannot differentiate the gradient of a lossreg calculator"):
            differentiate()


def test_what_is_not_a_guess_has_no_gradient(pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    module, wanting = as_module(lossreg.MeanSquaredError()), t.clone().requires_grad_()
    for arguments in ({"truths": wanting}, {"truths": t, "mask": abs(wanting) > 0}, {"truths": t, "sample_weight": x}):
        if any(v.requires_grad for v in arguments.values()):
            with pytest.raises(ValueError, match=r"without a gradient \(detach them\), got one that wants it"):
                module(x, **arguments)
        else:
            module(x, **arguments)
    with torch.no_grad():
        module(x, wanting)
    module(x, wanting.detach())
    with pytest.raises(ValueError, match="expected guesses to be tensors, got a float64 array of shape"):
        module(x.detach().numpy(), t)


def test_what_values_are_calculated_from_may_not_change(pair: Any) -> None:
    x, t = pair
    x.requires_grad_()
    for changed in (t, x.detach()):
        values = as_module(lossreg.MeanSquaredError(reduction="none"))(x, t)
        changed += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            values.sum().backward()
        loss = as_module(lossreg.MeanSquaredError())(x, t)
        changed += 1
        loss.backward()


def test_nothing_is_kept_alive(pair: Any) -> None:
    x, t = pair
    gc.disable()
    try:
        for reduction in ("mean", "none"):
            loss = as_module(lossreg.MeanSquaredError(reduction=reduction))(x.clone().requires_grad_(), t)
            node = weakref.ref(loss.grad_fn)
            loss.sum().backward()
            del loss
            assert node() is None
    finally:
        gc.enable()


# Arrangements, dtypes and layouts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_calculated_and_scaled_in_single(dtype: Any, pair: Any) -> None:
    x, t = (p.to(dtype) for p in pair)
    for reduction in ("mean", "none"):
        loss = lossreg.MeanSquaredError(reduction=reduction)
        x = x.detach().requires_grad_()
        found = as_module(loss)(x, t.float())
        expected, value = loss(x.detach().float(), t.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.detach(), torch.as_tensor(value, dtype=torch.float32), rtol=0, atol=0)
        found.sum().backward()
        assert x.grad.dtype == dtype
        assert torch.equal(x.grad, expected.to(dtype))
    tiny = torch.full((4, 4), 1e-3, dtype=torch.float16, requires_grad=True)  # too small for a half without the scale
    (as_module(lossreg.MeanSquaredError(reduction="sum"))(tiny, torch.full((4, 4), 1e-3)) * 65536).backward()
    assert tiny.grad.abs().min() > 0


def test_layouts(pair: Any) -> None:
    x, t = pair
    module, expected = as_module(lossreg.MeanSquaredError()), lossreg.MeanSquaredError().get_grad(x, t)
    wide = x.repeat_interleave(2, dim=1)
    for same in (x.t().contiguous().t(), wide[:, ::2], x.flip(0).flip(0), torch.complex(x, -x).conj().imag):
        same = same.detach().requires_grad_()
        module(same, t.numpy()[::-1][::-1]).backward()
        assert torch.equal(same.grad, expected)
        same.grad = None
        module(same, np.ascontiguousarray(t.numpy()[::-1])[::-1]).backward()
        assert torch.equal(same.grad, expected)
    row = x[:1].clone().requires_grad_()
    module(row.expand(5, 3), t).backward()
    torch.testing.assert_close(row.grad, lossreg.MeanSquaredError().get_grad(x[:1].expand(5, 3), t).sum(0, True))
    assert module(torch.tensor([3, 1]), torch.tensor([1.0, 1.0])).dtype == torch.float64  # integers have no gradient


def test_sequences(rng: Any) -> None:
    data, ids, lengths = torch.from_numpy(rng.normal(size=(7, 4))), torch.from_numpy(rng.integers(0, 4, 7)), [3, 0, 4]
    slopes = torch.from_numpy(rng.normal(size=7))
    for reduction in ("mean", "none"):
        loss = lossreg.CrossEntropy(reduction=reduction)
        flat = data.clone().requires_grad_()
        (as_module(loss)(flat, ids) * (slopes if reduction == "none" else 1)).sum().backward()
        for arrange in (lambda x: Ragged(x, lengths), lambda x: list(torch.split(x, lengths))):
            leaf = data.clone().requires_grad_()
            truths = ids if isinstance(arrange(leaf), Ragged) else list(torch.split(ids, lengths))
            found = as_module(loss)(arrange(leaf), truths)
            if isinstance(found, list):
                found = torch.cat(found)
            elif isinstance(found, Ragged):
                assert found.lengths is lengths
                found = found.data
            (found * (slopes if reduction == "none" else 1)).sum().backward()
            torch.testing.assert_close(leaf.grad, flat.grad, rtol=1e-14, atol=0)


def test_padded_sequences(rng: Any) -> None:
    x, ids = torch.from_numpy(rng.normal(size=(2, 3, 4))), torch.from_numpy(rng.integers(0, 4, (2, 3)))
    slopes, mask = torch.from_numpy(rng.normal(size=(2, 3))), torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=bool)
    for truths, kept in ((ids, None), (ids, mask), ([ids[0, :2], ids[1, :1]], None)):
        leaf, flat = (x.clone().requires_grad_() for _ in range(2))
        values = as_module(lossreg.Sequence(lossreg.CrossEntropy(reduction="none")))(leaf, truths, mask=kept)
        assert values.shape == (2, 3)
        (values * slopes).sum().backward()
        left = torch.ones(2, 3) if truths is ids and kept is None else mask
        theirs = torch.nn.functional.cross_entropy(flat.flatten(0, 1), ids.flatten(), reduction="none").view(2, 3)
        (theirs * slopes * left).sum().backward()
        torch.testing.assert_close(values, theirs * left)
        torch.testing.assert_close(leaf.grad, flat.grad)


def test_a_linear_layer(rng: Any) -> None:
    x, weight, bias = (torch.from_numpy(rng.normal(size=shape)).requires_grad_() for shape in ((7, 3), (5, 3), (5,)))
    ids, slopes = torch.from_numpy(rng.integers(0, 5, 7)), torch.from_numpy(rng.normal(size=7))
    for reduction in ("mean", "none"):
        factor = slopes if reduction == "none" else 1.0
        (as_module(lossreg.LinearCrossEntropy(reduction=reduction))((x, weight, bias), ids) * factor).sum().backward()
        found = [p.grad for p in (x, weight, bias)]
        x.grad = weight.grad = bias.grad = None
        logits = torch.nn.functional.linear(x, weight, bias)
        (torch.nn.functional.cross_entropy(logits, ids, reduction=reduction) * factor).sum().backward()
        for a, b in zip(found, (x, weight, bias), strict=True):
            torch.testing.assert_close(a, b.grad)
        x.grad = weight.grad = bias.grad = None


def test_nothing_to_average() -> None:
    for guesses, truths, mask in (
        (torch.zeros(0, 3), torch.zeros(0, dtype=int), None),
        (torch.full((2, 3), torch.nan), torch.zeros(2, dtype=int), torch.zeros(2)),
    ):
        for reduction in ("mean", "none"):
            guesses = guesses.detach().requires_grad_()
            found = as_module(lossreg.CrossEntropy(reduction=reduction))(guesses, truths, mask=mask)
            found.sum().backward()
            assert not found.any()
            assert not guesses.grad.any()
    assert as_module(lossreg.CrossEntropy())([], []).item() == 0


# Contexts, modules, threads


def test_a_weighted_sum_over_a_context(rng: Any) -> None:
    logits, other = (torch.from_numpy(x) for x in rng.normal(size=(2, 5, 3)))
    ids, mask = torch.from_numpy(rng.integers(0, 3, 5)), torch.tensor([1, 1, 0, 1, 1])
    total = WeightedSum(
        Term(lossreg.CrossEntropy(), guesses="out.logits", truths="ids", mask="mask", weight=lambda step: 0.5 * step),
        Term(lossreg.MeanSquaredError(), guesses="out.logits", truths="other"),
        Term(lossreg.InfoNCE(), guesses=["out.logits", "other"], weight=0.1),
    )
    context = {"out": {"logits": logits}, "ids": ids, "other": other, "mask": mask, "step": 3}
    grads, value = total(context)
    leaf = logits.clone().requires_grad_()
    found = as_module(total)({**context, "out": {"logits": leaf}})
    found.backward()
    assert found.item() == pytest.approx(value, rel=1e-14)
    torch.testing.assert_close(leaf.grad, grads["out.logits"], rtol=1e-13, atol=1e-16)
    assert as_module(total.terms["1"])(context).item() == total.terms["1"].get_loss(context)


def test_a_module_like_others(pair: Any) -> None:
    x, t = pair
    loss = registry.resolve({"loss": {"@losses": "Huber.v1", "delta": 0.5}})["loss"]
    module = as_module(loss)
    assert isinstance(module, torch.nn.Module)
    assert repr(module) == "LossModule(Huber(delta=0.5))"
    assert not list(module.parameters())
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), module.to(torch.float32).train()):
        assert again.loss == loss
        assert again(x, t) == module(x, t)
    assert isinstance(module.loss, ReducedLoss)


def test_threads(pair: Any) -> None:
    x, t = pair
    module, expected = as_module(lossreg.MeanSquaredError()), lossreg.MeanSquaredError().get_grad(x, t)

    def run(i: int) -> Any:
        leaf = x.clone().requires_grad_()
        (module(leaf, t) * i).backward()
        return leaf.grad

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(run, range(64))):
            assert torch.equal(found, expected * i)


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_models_step_out_for_it(pair: Any) -> None:
    x, t = pair
    module, seen = as_module(lossreg.MeanSquaredError()), []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    leaf = x.clone().requires_grad_()
    loss = torch.compile(lambda x: module(x * 2, t) * 3, backend=backend)(leaf)
    loss.backward()
    assert len(seen) == 2  # before and after
    torch.testing.assert_close(leaf.grad, 6 * lossreg.MeanSquaredError().get_grad(2 * x, t))
