"""Cross-entropy of a linear layer: CrossEntropy of the logits and the chain rule, but for the logits' memory."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, CrossEntropy, LinearCrossEntropy, LossState, NonFiniteLossError, registry
from lossreg.losses import linear
from support.backends import BACKENDS
from support.nested import assert_same, each, frozen

N, D, C = 11, 4, 6
NAMES = ("cat", "dog", "bird", "emu", "owl", "ant")
MESSY = ["dog", "!cat", None, 2, "", {"cat", "emu"}, ("bird",), [0, "dog"], {"!cat", "!emu"}, (None,), frozenset({3})]
SHARP = dict(names=NAMES, missing_value="", neg_prefix="!")
WEIGHT = (0.5, 1.0, 2.0, 0.0, 1.5, 0.25)
REDUCTIONS = ("mean", "sum", "none", "batch_mean", "weighted_mean")
MASK = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1])


def ids(rng: Any) -> Any:
    return rng.integers(0, C, N)


def ignored(rng: Any) -> Any:
    return np.where(rng.random(N) < 0.4, -7, ids(rng))


def rows(rng: Any) -> Any:
    return rng.dirichlet(np.ones(C), N)


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "ids": (ids, {}, {}),
    "smoothed": (ids, dict(label_smoothing=0.2), {}),
    "weighted classes": (ids, dict(class_weight=WEIGHT), {}),
    "both": (ids, dict(label_smoothing=0.2, class_weight=WEIGHT), {}),
    "ignored": (ignored, dict(ignore_index=-7), {}),
    "ignored, both": (ignored, dict(ignore_index=-7, label_smoothing=0.1, class_weight=WEIGHT), {}),
    "names and sets": (lambda rng: MESSY, SHARP, {}),
    "names and sets, both": (lambda rng: MESSY, dict(SHARP, label_smoothing=0.1, class_weight=WEIGHT), {}),
    "missing id": (ids, dict(missing_value=2), {}),
    "rows": (rows, {}, {}),
    "rows, both": (rows, dict(label_smoothing=0.1, class_weight=WEIGHT), {}),
    "rows, missing": (rows, dict(missing_value=2), {}),
    "masked": (ids, {}, dict(mask=MASK > 0)),
    "masked by all values": (ids, dict(normalize_by="values"), dict(mask=MASK > 0)),
    "masked in part": (ids, dict(label_smoothing=0.1), dict(mask=MASK * 0.25)),
    "mask of one number": (ids, {}, dict(mask=0.5)),
    "weighted": (ids, {}, dict(sample_weight=MASK * 1.5)),
    "weighted rows, masked": (rows, {}, dict(mask=MASK > 0, sample_weight=np.linspace(0, 2, N))),
    "names, masked, weighted": (lambda rng: MESSY, SHARP, dict(mask=MASK[::-1] > 0, sample_weight=MASK + 0.5)),
    "unchecked": (ids, dict(validate="shape"), dict(mask=MASK > 0)),
    "checked": (rows, dict(validate="full", check_finite=True), {}),
}  # fmt: skip
EXTRAS: list[dict[str, Any]] = [dict(softcap=3.0), dict(z_loss=0.1), dict(softcap=0.7, z_loss=2.0)]
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(params=["a row and a class", "some rows and classes", "all"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is computed at a time: 11 rows in blocks of 1, of 4 and of all; 6 classes in tiles of 1, of 4 and of all."""
    block, tile = {"a": (1, 1), "some": (4 * C, 4 * D), "all": (linear.BLOCK, linear.TILE)}[request.param.split()[0]]
    monkeypatch.setattr(linear, "BLOCK", block)
    monkeypatch.setattr(linear, "TILE", tile)


def layer(rng: Any, bias: bool, dtype: Any = np.float64, n: int = N) -> tuple[np.ndarray, ...]:
    arrays = (rng.normal(size=(n, D)), rng.normal(size=(C, D)), rng.normal(size=C) * 2)
    return tuple(x.astype(dtype) for x in arrays[: 2 + bias])


def chained(options: dict[str, Any], guesses: tuple[np.ndarray, ...], truths: Any, **call: Any) -> tuple[Any, Any]:
    """What CrossEntropy says of the logits, and the chain rule."""
    x, weight, *bias = (array.astype(np.float64) for array in guesses)
    grad, value = CrossEntropy(**options)(sum(bias, x @ weight.T), truths, **call)
    return (grad @ weight, grad.T @ x, *(grad.sum(axis=0) for _ in bias)), value


def values_of(value: Any) -> Any:
    return (value.total, value.count) if isinstance(value, LossState) else value


# The same numbers as CrossEntropy


@cases
def test_equals_cross_entropy_of_the_logits(case: str, sizes: None, backend: Any, rng: Any) -> None:
    truths_of, options, call = CASES[case]
    for bias, reduction in itertools.product((False, True), REDUCTIONS):
        guesses, truths = layer(rng, bias), truths_of(rng)
        loss = LinearCrossEntropy(reduction=reduction, **options)
        expected = chained(dict(options, reduction=reduction), guesses, truths, **call)
        found = loss(guesses, truths, **call)
        assert_same(found, expected, rtol=1e-12, atol=1e-14)
        assert_same((loss.get_grad(guesses, truths, **call), loss.get_loss(guesses, truths, **call)), found)
        plain = CrossEntropy(reduction=reduction, **options)
        logits = sum(guesses[2:], guesses[0] @ guesses[1].T)
        assert_same(loss.get_values(guesses, truths, **call), plain.get_values(logits, truths, **call), rtol=1e-12)
        if reduction != "none":
            state, same = loss.get_state(guesses, truths, **call), plain.get_state(logits, truths, **call)
            assert_same((state.total, state.count or 0.0), (same.total, same.count or 0.0), rtol=1e-12)


@cases
@pytest.mark.parametrize("dtype, rtol, atol", [(np.float32, 2e-6, 1e-6), (np.float16, 2e-3, 2e-3)])
def test_other_precisions(case: str, dtype: Any, rtol: float, atol: float, sizes: None, backend: Any, rng: Any) -> None:
    """They are computed in float32; half precision is that of inputs and gradients alone."""
    truths_of, options, call = CASES[case]
    for bias, reduction in itertools.product((False, True), ("mean", "none")):
        guesses, truths = layer(rng, bias, dtype), truths_of(rng)
        grads, value = LinearCrossEntropy(reduction=reduction, **options)(guesses, truths, **call)
        assert [g.dtype for g in grads] == [dtype] * len(guesses)
        assert reduction == "mean" or value.dtype == dtype
        expected = chained(dict(options, reduction=reduction), guesses, truths, **call)
        assert_same((grads, value), expected, rtol=rtol, atol=atol)


def test_integers_are_promoted(backend: Any, rng: Any) -> None:
    guesses, truths = tuple(np.round(x).astype(np.int32) for x in layer(rng, True)), ids(rng)
    floats = each(lambda x: x.astype(np.float64), guesses)
    assert_same(LinearCrossEntropy()(guesses, truths), LinearCrossEntropy()(floats, truths))


def test_logits_that_are_large_or_impossible(sizes: None, backend: Any, rng: Any) -> None:
    x, weight, bias = layer(rng, True)
    bias[2] = -np.inf
    truths = np.where(ids(rng) == 2, 0, ids(rng) % 2)
    grads, value = LinearCrossEntropy()((x * 1e3, weight, bias), truths)
    assert_same((grads, value), chained({}, (x * 1e3, weight, bias), truths), rtol=1e-12, atol=1e-12)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_backends_agree(rng: Any) -> None:
    x, weight, bias = rng.normal(size=(300, 20)), rng.normal(size=(500, 20)), rng.normal(size=500)
    truths = rng.integers(0, 500, 300)
    loss = LinearCrossEntropy(label_smoothing=0.1, softcap=5.0, z_loss=0.01)
    found = []
    for ops in BACKENDS.values():
        with lossreg.use_ops(ops):
            found.append(loss((x, weight, bias), truths, mask=truths % 3 > 0))
    for other in found[1:]:
        assert_same(other, found[0], rtol=1e-11, atol=1e-14)


# softcap and z_loss


def by_torch(options: dict[str, Any], guesses: tuple[np.ndarray, ...], truths: Any, mask: Any, weight: Any) -> Any:
    """The definition in PyTorch, and its gradients."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, w, *bias = inputs = [torch.tensor(array, requires_grad=True) for array in guesses]
    z = x @ w.T + (bias[0] if bias else 0)
    if "softcap" in options:
        z = options["softcap"] * torch.tanh(z / options["softcap"])
    class_weight = torch.tensor(options["class_weight"], dtype=z.dtype) if "class_weight" in options else None
    values = torch.nn.functional.cross_entropy(
        z, torch.tensor(truths), class_weight, label_smoothing=options.get("label_smoothing", 0.0), reduction="none"
    )
    items = torch.tensor(mask * weight, dtype=z.dtype)
    total = ((values + options.get("z_loss", 0.0) * torch.logsumexp(z, 1) ** 2) * items).sum()
    counted = 1.0 if class_weight is None or truths.ndim == 2 else class_weight[torch.tensor(truths)]
    value = total / (counted * torch.tensor(mask, dtype=z.dtype)).sum()
    value.backward()
    return tuple(array.grad.numpy() for array in inputs), value.item()


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("extra", [{}, *EXTRAS], ids=str)
@pytest.mark.parametrize("options", [{}, dict(label_smoothing=0.2, class_weight=WEIGHT)], ids=["plain", "both"])
def test_equals_pytorch(
    extra: dict[str, Any], options: dict[str, Any], dtype: Any, tolerance: float, sizes: None, backend: Any, rng: Any
) -> None:
    for bias, of in itertools.product((False, True), (ids, rows)):
        guesses, truths, weight = layer(rng, bias, dtype), of(rng), rng.random(N) + 0.5
        truths = truths.astype(dtype) if of is rows else truths
        options = {**options, **extra}
        found, value = LinearCrossEntropy(**options)(guesses, truths, mask=MASK > 0, sample_weight=weight)
        grads, expected = by_torch(options, guesses, truths, MASK, weight)
        assert value == pytest.approx(expected, rel=tolerance)
        for got, want in zip(found, grads, strict=True):
            assert_same(got, want, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_equals_the_function_of_pytorch(dtype: Any, tolerance: float, backend: Any, rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this version of torch has no linear_cross_entropy")
    guesses, truths = layer(rng, True, dtype), np.where(MASK, ids(rng), -100)
    for reduction in ("mean", "sum", "none"):
        options = dict(label_smoothing=0.1, reduction=reduction)
        x, w, b = (torch.tensor(array, requires_grad=True) for array in guesses)
        same = torch.nn.functional.linear_cross_entropy(
            x, w, torch.tensor(truths), linear_bias=b, weight=torch.tensor(WEIGHT, dtype=x.dtype), **options
        )
        same.sum().backward()
        grads, value = LinearCrossEntropy(class_weight=WEIGHT, **options)(guesses, truths)
        for got, want in zip((*grads, value), (x.grad, w.grad, b.grad, same.detach()), strict=True):
            assert_same(got, want.numpy(), atol=tolerance * float(abs(want).max()))


@pytest.mark.parametrize("extra", [{}, *EXTRAS], ids=str)
@pytest.mark.parametrize("options", [{}, dict(SHARP, label_smoothing=0.1, class_weight=WEIGHT)], ids=["ids", "sets"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_slopes(
    extra: dict[str, Any], options: dict[str, Any], reduction: Any, sizes: None, backend: Any, rng: Any
) -> None:
    guesses, truths, step = layer(rng, True), MESSY if options else ids(rng), 1e-6
    loss = LinearCrossEntropy(reduction=reduction, **options, **extra)
    grads = loss.get_grad(guesses, truths, mask=MASK > 0)
    for at, array in enumerate(guesses):
        for index in np.ndindex(array.shape):
            sides = []
            for h in (-step, step):
                moved = [np.copy(x) for x in guesses]
                moved[at][index] += h
                sides.append(loss.get_loss(tuple(moved), truths, mask=MASK > 0))
            assert grads[at][index] == pytest.approx((sides[1] - sides[0]) / (2 * step), rel=1e-6, abs=3e-8)


def test_softcap_and_z_loss_by_hand(backend: Any) -> None:
    guesses = (np.array([[2.0], [0.5]]), np.array([[1.0], [-1.0], [0.0]]))
    z = 3 * np.tanh(guesses[0] @ guesses[1].T / 3)
    log_sum = np.log(np.exp(z).sum(axis=1))
    values = log_sum - z[[0, 1], [0, 2]] + 0.1 * log_sum**2
    assert_same(
        LinearCrossEntropy(softcap=3.0, z_loss=0.1, reduction="none").get_loss(guesses, [0, 2]), values, rtol=1e-14
    )
    # a far bound is none, and 0 is no z_loss
    assert_same(
        LinearCrossEntropy(softcap=1e9, z_loss=0.0)(guesses, [0, 2]), LinearCrossEntropy()(guesses, [0, 2]), rtol=1e-12
    )


# Rows that do not count


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("how", ["mask", "sample_weight", "missing"])
def test_rows_that_do_not_count_may_hold_anything(
    how: str, bad: float, dtype: Any, sizes: None, backend: Any, rng: Any
) -> None:
    keep, truths = MASK > 0, ids(rng)
    for extra in ({}, *EXTRAS):
        x, weight, bias = layer(rng, True, dtype)
        loss = LinearCrossEntropy(reduction="sum", check_finite=True, **extra)
        expected = loss((x[keep], weight, bias), truths[keep])
        spoiled = np.where(keep[:, None], x, np.float64(bad).astype(dtype))
        labels = truths.copy() if how == "sample_weight" else np.where(keep, truths, {"mask": 99, "missing": -100}[how])
        call: dict[str, Any] = {
            "mask": dict(mask=keep),
            "sample_weight": dict(sample_weight=keep * 1.0),
            "missing": {},
        }[how]
        (dx, dw, db), value = loss((spoiled, weight, bias), labels, **call)
        assert not dx[~keep].any()
        rtol = 1e-12 if dtype is np.float64 else 1e-5
        assert_same(((dx[keep], dw, db), value), expected, rtol=rtol, atol=rtol)


def test_no_warning_reaches_the_caller(rng: Any) -> None:
    """Warnings are errors in this suite, and no fixture switches them off here."""
    x, weight, bias = layer(rng, True, np.float16)
    x[0], x[1] = np.nan, np.inf
    loss = LinearCrossEntropy(reduction="sum")
    assert np.isfinite(loss((x, weight, bias), ids(rng), mask=np.arange(N) > 1)[1])
    assert np.isnan(loss((x, weight, bias), ids(rng))[1])
    assert np.isinf(loss.get_grad((x[2:] * 1e3, weight * 1e3, bias), ids(rng)[2:], sample_weight=1e3)[0]).any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("extra", [{}, *EXTRAS], ids=str)
def test_nothing_to_average_gives_zero(
    extra: dict[str, Any], reduction: Any, sizes: None, backend: Any, rng: Any
) -> None:
    loss = LinearCrossEntropy(reduction=reduction, **extra)
    for bias in (False, True):
        guesses, truths = layer(rng, bias), ids(rng)
        broken = (guesses[0], np.full_like(guesses[1], np.nan), *guesses[2:])
        for inputs, labels, mask in (
            (guesses, truths, np.zeros(N)), (broken, truths, np.zeros(N, bool)), (guesses, [None] * N, None),
            ((guesses[0][:0], *guesses[1:]), truths[:0], None), ((guesses[0][:0], *guesses[1:]), [], None),
        ):  # fmt: skip
            out = each(lambda x: np.full_like(x, np.nan), inputs)
            for given in (None, out):
                grads, value = loss(inputs, labels, mask=mask, out=given)
                assert [g.shape for g in grads] == [x.shape for x in inputs]
                assert not any(np.any(g) for g in grads)
                assert not np.any(value)
                assert np.shape(value) == ((len(inputs[0]),) if reduction == "none" else ())
            assert loss.get_state(inputs, labels, mask=mask).compute() == 0


def test_a_nan_that_counts_stays_visible(sizes: None, backend: Any, rng: Any) -> None:
    for at in range(3):
        guesses = layer(rng, True)
        guesses[at][...] = np.nan
        grads, value = LinearCrossEntropy()(guesses, ids(rng))
        assert np.isnan(value)
        assert all(np.isnan(g).any() for g in grads)


# States and tokens


@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "weighted_mean"])
def test_states_of_any_split_merge_to_the_whole(reduction: Any, sizes: None, backend: Any, rng: Any) -> None:
    loss = LinearCrossEntropy(reduction=reduction, class_weight=WEIGHT, softcap=3.0, z_loss=0.1)
    (x, *rest), truths, weight = layer(rng, True), ids(rng), rng.random(N)
    whole = loss.get_loss((x, *rest), truths, mask=MASK > 0, sample_weight=weight)
    for _ in range(5):
        part_of = rng.integers(0, 4, N)
        states = [
            loss.get_state((x[p], *rest), truths[p], mask=MASK[p] > 0, sample_weight=weight[p])
            for p in (part_of == k for k in range(4))
        ]
        assert_same(sum(states).compute(), whole, rtol=1e-13)
        assert_same(pickle.loads(pickle.dumps(states[0])).merge(loss.empty()).compute(), states[0].compute())
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        states[0].merge(CrossEntropy(reduction=reduction, class_weight=WEIGHT).empty())


def test_per_token(sizes: None, backend: Any, rng: Any) -> None:
    (x, *rest), truths = layer(rng, True), ids(rng)
    loss = LinearCrossEntropy(per_token=True, class_weight=WEIGHT)
    grads, state = loss((x, *rest), truths, mask=MASK)
    plain_grads, plain = chained(dict(per_token=True, class_weight=WEIGHT), (x, *rest), truths, mask=MASK)
    assert isinstance(state, LossState)
    assert_same((grads, values_of(state)), (plain_grads, values_of(plain)), rtol=1e-13, atol=1e-15)
    parts = [loss((x[p], *rest), truths[p], mask=MASK[p]) for p in (slice(0, 3), slice(3, N))]
    count = sum(state for _, state in parts).count
    whole = LinearCrossEntropy(class_weight=WEIGHT).get_grad((x, *rest), truths, mask=MASK)
    assert_same(sum(grads[1] for grads, _ in parts) / count, whole[1], rtol=1e-12, atol=1e-15)
    with pytest.raises(ConfigError, match="per_token: needs a reduction that divides"):
        LinearCrossEntropy(per_token=True, reduction="none")
    assert_same(
        loss.get_values((x, *rest), truths),
        CrossEntropy(class_weight=WEIGHT).get_values(x @ rest[0].T + rest[1], truths),
        rtol=1e-12,
    )


def test_check_finite_names_the_first_bad_rows(sizes: None, backend: Any, rng: Any) -> None:
    x, weight, bias = layer(rng, True)
    loss = LinearCrossEntropy(check_finite=True)
    x[[1, 4]] = np.nan
    for call in (loss, loss.get_loss, loss.get_grad, loss.get_values, loss.get_state):
        with pytest.raises(NonFiniteLossError) as caught:
            call((x, weight, bias), ids(rng))
        assert str(caught.value) == "The loss of LinearCrossEntropy is not finite in 2 of 11 rows: row 1, row 4."
    loss.get_grad((x, weight, bias), ids(rng), mask=np.isfinite(x[:, 0]))
    flat = (np.zeros((3, 1), np.float16), np.zeros(3, np.float16))
    for x16, what in ((500.0, "weight"), (0.0, "bias")):
        with pytest.raises(NonFiniteLossError) as caught:
            loss.get_grad((np.full((1, 1), x16, np.float16), *flat), [0], sample_weight=1e6)
        assert str(caught.value) == (
            f"The gradient in {what} of LinearCrossEntropy is not finite in 3 of 3 rows: row 0, row 1, row 2."
        )


# Arrays: read-only, of any layout, and `out`


def strided(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, strided, lambda x: np.flip(np.flip(x).copy())]


@pytest.mark.parametrize("laid", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_inputs_of_any_layout_are_not_written_to(laid: Any, dtype: Any, sizes: None, backend: Any, rng: Any) -> None:
    guesses, truths = layer(rng, True, dtype), ids(rng)
    loss = LinearCrossEntropy(softcap=3.0)
    expected = loss(guesses, truths, mask=MASK, sample_weight=MASK * 2.0)
    arranged = each(laid, guesses)
    for array in arranged:
        array.flags.writeable = False
    found = loss(arranged, frozen(truths), mask=frozen(MASK), sample_weight=frozen(MASK * 2.0))
    rtol = {2: 2e-3, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
    assert_same(found, expected, rtol=rtol, atol=rtol * 0.1)
    assert_same(arranged, guesses)


@pytest.mark.parametrize("laid", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_out_receives_the_gradients(laid: Any, dtype: Any, sizes: None, backend: Any, rng: Any) -> None:
    loss = LinearCrossEntropy(label_smoothing=0.1)
    for bias in (False, True):
        guesses, truths = layer(rng, bias, dtype), ids(rng)
        expected = loss(guesses, truths)
        out = each(lambda x: laid(np.full_like(x, np.nan)), guesses)
        grads, value = loss(guesses, truths, out=out)
        assert all(a is b for a, b in zip(grads, out, strict=True))
        assert_same((grads, value), expected, rtol=1e-14, atol=1e-16)
        own = each(laid, each(np.copy, guesses))
        grads, value = loss(own, truths, out=own)
        assert all(a is b for a, b in zip(grads, own, strict=True))
        rtol = 2e-3 if dtype is np.float16 else 1e-12
        assert_same((grads, value), expected, rtol=rtol, atol=rtol * 0.1)


def test_out_may_overlap_the_inputs(sizes: None, backend: Any, rng: Any) -> None:
    truths = rng.dirichlet(np.ones(C), C)
    loss = LinearCrossEntropy()
    square = (rng.normal(size=(C, D)), rng.normal(size=(C, D)), rng.normal(size=C))
    expected = loss(square, truths)

    def fresh() -> Any:
        memory = np.concatenate([square[0], square[1], np.zeros((1, D))])  # x and weight beside each other
        return memory, (memory[:C], memory[C : 2 * C], square[2].copy())

    for out_of in (
        lambda memory, inputs: (memory[C : 2 * C], memory[:C], inputs[2]),  # the gradient of one where the other lies
        lambda memory, inputs: (memory[1 : C + 1], np.empty((C, D)), inputs[2]),  # shifted by a row
        lambda memory, inputs: (np.empty((C, D)), memory[C + 1 :], np.empty(C)),
        lambda memory, inputs: (inputs[0], np.empty((C, D)), np.empty(C)),
        lambda memory, inputs: (np.empty((C, D)), inputs[1], memory.ravel()[:C]),
    ):
        memory, inputs = fresh()
        assert_same(loss(inputs, truths, out=out_of(memory, inputs)), expected, rtol=1e-12, atol=1e-15)
    tied = square[0].copy()  # one array for both, and its gradients in new ones
    assert_same(loss((tied, tied), truths, out=(np.empty((C, D)), np.empty((C, D)))), loss((tied, tied), truths))
    own = truths.copy()
    assert_same(
        loss(square, own, out=(own[:, :D], np.empty((C, D)), np.empty(C))),
        expected,
        rtol=1e-12,
        atol=1e-15,
    )


def test_wrong_out(backend: Any, rng: Any) -> None:
    guesses, truths = layer(rng, True), ids(rng)
    out = each(np.empty_like, guesses)
    for wrong in (
        out[:2],
        list(out),
        out[0],
        each(lambda x: x[:-1], out),
        each(lambda x: x.astype(np.float32), out),
        "no",
    ):
        with pytest.raises(ValueError, match=r"^Cannot calculate LinearCrossEntropy: expected out .*, got .*\.$"):
            LinearCrossEntropy()(guesses, truths, out=wrong)
    with pytest.raises(ValueError, match="expected out to be writable"):
        LinearCrossEntropy()(guesses, truths, out=frozen(out))


# Errors


def zeros(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.zeros(shape, dtype)


TUPLE = "guesses to be a tuple (x, weight) or (x, weight, bias), got"
SHAPES = "x and weight arrays of shape (N, D) and (C, D) with C, D >= 1, got"


@pytest.mark.parametrize(
    "guesses, expected",
    [
        (zeros(2, 3), f"{TUPLE} a float64 array of shape (2, 3)"),
        ((zeros(2, 3),), f"{TUPLE} a tuple of 1"),
        ((zeros(2, 3), zeros(4, 3), zeros(4), zeros(4)), f"{TUPLE} a tuple of 4"),
        ([zeros(2, 3), zeros(4, 3)], f"{TUPLE} a list of 2"),
        (None, f"{TUPLE} None"),
        (([zeros(2, 3)], [zeros(4, 3)]), "guesses to be arrays, got a list of 1"),
        (([], []), "guesses to be arrays, got a list of 0"),
        (([zeros(2, 3)], zeros(4, 3)), "guesses to be arrays, got a list of 1"),
        ((zeros(3), zeros(4, 3)), f"{SHAPES} a float64 array of shape (3,) and a float64 array of shape (4, 3)"),
        ((zeros(2, 3), zeros(3)), f"{SHAPES} a float64 array of shape (2, 3) and a float64 array of shape (3,)"),
        ((zeros(2, 1, 3), zeros(4, 3)), f"{SHAPES} a float64 array of shape (2, 1, 3) and a float64 array of shape (4, 3)"),
        ((zeros(2, 3), zeros(4, 3, 1)), f"{SHAPES} a float64 array of shape (2, 3) and a float64 array of shape (4, 3, 1)"),
        ((zeros(2, 3), zeros(0, 3)), f"{SHAPES} a float64 array of shape (2, 3) and a float64 array of shape (0, 3)"),
        ((zeros(2, 0), zeros(4, 0)), f"{SHAPES} a float64 array of shape (2, 0) and a float64 array of shape (4, 0)"),
        ((zeros(2, 3), zeros(3, 4)), "weight of shape (3, 3) (that of x along the last axis), got mismatched shape (3, 4)"),
        ((zeros(2, 3), zeros(4, 3), zeros(3)), "bias of shape (4,) (that of weight along the first axis), got mismatched shape (3,)"),
        ((zeros(2, 3), zeros(4, 3), zeros(1, 4)), "bias of shape (4,) (that of weight along the first axis), got mismatched shape (1, 4)"),
        ((zeros(2, 3), zeros(4, 3), None), "guesses to be an array, got None"),
        ((zeros(2, 3), zeros(4, 3, dtype=np.float32)),
            "guesses all like the first, a float64 array of shape (2, 3), got a float32 array of shape (4, 3)"),
        ((zeros(2, 3), zeros(4, 3), zeros(4, dtype=np.float16)),
            "guesses all like the first, a float64 array of shape (2, 3), got a float16 array of shape (4,)"),
        ((zeros(2, 3, dtype=complex), zeros(4, 3)), "guesses of real numbers, got a complex128 array of shape (2, 3)"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_guesses(guesses: Any, expected: str, backend: Any) -> None:
    for call in (LinearCrossEntropy(), LinearCrossEntropy().get_loss, LinearCrossEntropy().get_state):
        with pytest.raises(ValueError) as caught:
            call(guesses, [0, 1])
        assert str(caught.value) == f"Cannot calculate LinearCrossEntropy: expected {expected}."


@pytest.mark.parametrize(
    "options, truths, call, expected",
    [
        ({}, [0, 4], {}, r"truth ids in \[0, 4\), got undeclared id 4 in row 1"),
        ({}, [0], {}, r"2 truths \(one per row of guesses\), got 1"),
        ({}, zeros(2, 3), {}, r"truths of shape \(2, 4\) as guesses"),
        ({}, zeros(2, 4) + 2, {}, r"truth values in \[0, 1\], got 2.0 in row 0, column 0"),
        (dict(names=["a", "b"]), [0, 1], {}, "one name for each class of guesses, 4, got 2 names"),
        (dict(class_weight=[1.0, 2.0]), [0, 1], {}, "class_weight one for each class of guesses, 4, got 2 values"),
        ({}, [0, 1], dict(mask=[1, 0, 1]), "mask that broadcasts to the values' shape"),
        ({}, [0, 1], dict(sample_weight=[-1, 0]), "sample_weight of at least 0"),
    ],
)
def test_wrong_truths_and_weights(options: Any, truths: Any, call: Any, expected: str, backend: Any) -> None:
    with pytest.raises(ValueError, match=f"^Cannot calculate LinearCrossEntropy: expected {expected}"):
        LinearCrossEntropy(**options)((zeros(2, 3), zeros(4, 3)), truths, **call)


@pytest.mark.parametrize(
    "options", [dict(softcap=0.0), dict(softcap=-1.0), dict(z_loss=-0.1), dict(softcap="3"), dict(z_loss=None)]
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        LinearCrossEntropy(**options)
    assert [path for path, _ in caught.value.problems] == list(options)


# As any calculator


def test_config_and_function(backend: Any, rng: Any) -> None:
    loss = LinearCrossEntropy(softcap=30.0, z_loss=1e-4, label_smoothing=0.1, names=NAMES)
    config = Config({"loss": loss.to_config()}).to_str()
    assert registry.resolve(Config().from_str(config))["loss"] == loss
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert eval(repr(loss), vars(lossreg)) == loss
    guesses, truths, function = layer(rng, False), ids(rng), lossreg.functional.linearce
    expected = LinearCrossEntropy(label_smoothing=0.1, softcap=2.0)(guesses, truths)
    for given in (guesses, each(np.ndarray.tolist, guesses)):
        assert_same(function.grad(*given, truths, None, -100, 0.1, softcap=2.0), expected[0], rtol=1e-14)
        assert_same(function(*given, truths, label_smoothing=0.1, softcap=2.0), expected[1], rtol=1e-14)
    assert list(lossreg.options("linearce"))[:4] == list(lossreg.options("ce"))[:4]


# Memory


@pytest.mark.parametrize(
    "ops, dtype",
    [("numpy", np.float32), *((ops, t) for ops in BACKENDS for t in (np.float32, np.float16) if ops == "llvm")],
)
def test_logits_are_never_all_there(ops: str, dtype: Any, rng: Any) -> None:
    """But for the result, all that is added is a block of the logits and a tile of the weight's gradient."""
    n, d, classes = 2000, 32, 20_000
    guesses = tuple(rng.normal(size=shape).astype(dtype) for shape in ((n, d), (classes, d), (classes,)))
    loss, truths, keep = LinearCrossEntropy(softcap=30.0), rng.integers(0, classes, n), np.arange(n) % 3 > 0
    sets = LinearCrossEntropy(class_weight=np.ones(classes))
    for call in (
        lambda: loss(guesses, truths, mask=keep),
        lambda: sets(guesses, [{int(label), 0} for label in truths]),
    ):
        with lossreg.use_ops(BACKENDS[ops]):
            tracemalloc.start()
            call()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < classes * d * 4 * (1 if dtype is np.float32 else 3) + 128 * 2**20
        assert peak < n * classes * 4 * 0.9


def test_the_gradient_of_the_weight_is_added_up_tile_by_tile(rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    n, d, classes = 16, 64, 10_000
    monkeypatch.setattr(linear, "BLOCK", 4 * classes)
    monkeypatch.setattr(linear, "TILE", 128 * d)
    guesses = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((n, d), (classes, d)))
    loss, truths = LinearCrossEntropy(), rng.integers(0, classes, n)
    with lossreg.use_ops(BACKENDS["numpy"]):
        wanted = loss(guesses, truths)
        tracemalloc.start()
        loss(guesses, truths, out=wanted[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * (4 * classes + 128 * d) + 2**18  # the weight's gradient has 2.5 MB


def test_sums_of_half_precision_are_added_up_in_float32(rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 a small addend would be lost beside what is there."""
    monkeypatch.setattr(linear, "BLOCK", C)  # one row at a time
    guesses = tuple(x * np.float16(0.05) for x in layer(rng, bias=True, dtype=np.float16, n=4000))
    wanted, _ = chained(dict(reduction="sum"), guesses, np.zeros(4000, int))
    found = LinearCrossEntropy(reduction="sum").get_grad(guesses, np.zeros(4000, int))
    for part, exact in zip(found, wanted):
        assert np.abs(part - exact).max() < 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["numpy", "llvm"])
def test_the_gradient_behind_a_softcap_that_is_nearly_reached(name: str, dtype: str) -> None:
    """1 - tanh(u)**2 would be 0, or noise: from |u| = 9 on in float32, and from 19 on in float64."""
    if name == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    mp = pytest.importorskip("mpmath", reason="mpmath is not installed")
    for u in (5.0, 9.0, 20.0, 30.0):
        layer = np.array([[u]], dtype), np.array([[1.0], [-1.0]], dtype)
        with lossreg.use_ops(name):
            grad = lossreg.LinearCrossEntropy(softcap=1.0).get_grad(layer, [1])[0]
        with mp.workdps(60):
            cap, bend = mp.tanh(u), mp.sech(u) ** 2
            p = 1 / (1 + mp.exp(-2 * cap))
            want = float(2 * p * bend)  # both logits move, in opposite directions
        assert grad[0, 0] == pytest.approx(want, rel=3e-6 if dtype == "float32" else 1e-14)


def test_an_empty_batch_is_finite() -> None:
    for loss, guesses in (
        (lossreg.CrossEntropy(check_finite=True), np.zeros((0, 3))),
        (lossreg.LinearCrossEntropy(check_finite=True), (np.zeros((0, 2)), np.ones((3, 2)))),
    ):
        assert loss.get_loss(guesses, np.zeros(0, int)) == 0.0


def test_masks_of_any_shape_may_be_lists() -> None:
    loss, x = lossreg.CrossEntropy(), np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 0.5]])
    for mask in ([[1], [0]], [[1, 0]], ((1,), (0,))):
        assert loss.get_loss(x, [0, 1], mask=mask) == loss.get_loss(x[:1], [0])


# Weights and bounds of any size


@pytest.mark.parametrize("cap", [1e9, 1e30, 3e38])
def test_a_bound_far_above_the_logits_changes_none_of_them(cap: float, backend: Any, rng: Any) -> None:
    x, w = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    y = rng.integers(0, 4, 5)
    assert_same(
        lossreg.loss("linearce", softcap=cap)((x, w), y), lossreg.loss("linearce")((x, w), y), rtol=1e-6, atol=1e-8
    )


def test_a_penalty_of_the_logits_has_no_class_weight(backend: Any, rng: Any) -> None:
    x, y = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    layer = rng.normal(size=(4, 4)).astype(np.float32)
    penalty = lossreg.loss("linearce", z_loss=1.0, reduction="sum").get_loss((x, layer), y)
    penalty -= lossreg.loss("linearce", reduction="sum").get_loss((x, layer), y)
    found = lossreg.loss("linearce", [1e-60] * 4, z_loss=1.0, reduction="sum").get_loss((x, layer), y)
    assert_same(found, penalty, rtol=1e-5)
    large = lossreg.loss("linearce", [1e60] * 4, z_loss=1.0, reduction="mean")((x, layer), y)
    assert_same(large, lossreg.loss("linearce")((x, layer), y), rtol=1e-6, atol=1e-9)
