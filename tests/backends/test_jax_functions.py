"""Calculators as JAX functions: jax.grad gets their own gradients, also inside jax.jit and jax.vmap."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Ragged
from lossreg.pipeline.evaluation import Needs
from lossreg.terms import Term, WeightedSum
from support.foreign import NO_CALCULATORS, ROWS_TO_DIFFERENTIATE, Library, installed
from support.nested import assert_same, each, leaves
from support.table import ROWS, Row

jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
from lossreg.jax import as_function  # noqa: E402

jnp = jax.numpy


@pytest.fixture(autouse=True)
def library() -> Iterator[Library]:
    with installed("jax") as found:
        yield found


@pytest.fixture
def pair(rng: Any) -> Any:
    return tuple(map(jnp.asarray, rng.normal(size=(2, 5, 3))))


def numpy(tree: Any) -> Any:
    return each(np.asarray, tree)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", ROWS_TO_DIFFERENTIATE, ids=lambda row: row.id)
def test_same_bits_as_the_calculator(row: Row, dtype: Any, library: Library, rng: Any) -> None:
    guesses, truths = row.sample(rng, 7)
    guesses = each(lambda x: x.astype(dtype), guesses)
    theirs, their_truths = library.to(guesses), library.to(truths)
    for reduction in ("mean", "sum", "batch_mean"):
        loss = row.make(reduction=reduction)
        expected, value = loss(guesses, truths)
        function = as_function(loss)
        found, grads = jax.value_and_grad(lambda x: function(x, their_truths))(theirs)
        assert (found.shape, found.dtype) == ((), dtype)
        assert_same(np.asarray(found), dtype(value))
        assert_same(numpy(grads), expected)
        assert all(a.dtype == b.dtype for a, b in zip(leaves(grads), leaves(expected), strict=True))
        assert function(theirs, truths) == found or np.isnan(found)


@pytest.mark.parametrize("row", ROWS_TO_DIFFERENTIATE, ids=lambda row: row.id)
def test_same_bits_inside_jit(row: Row, library: Library, rng: Any) -> None:
    guesses, truths = row.sample(rng, 7)
    loss = row.make()
    expected, value = loss(guesses, truths)
    theirs = library.to(guesses)
    numbers = library.to(truths)
    if all(isinstance(x, jax.Array) for x in leaves(numbers)):
        found, grads = jax.jit(jax.value_and_grad(as_function(loss)))(theirs, numbers)
    else:  # constants of the function
        found, grads = jax.jit(jax.value_and_grad(lambda x: as_function(loss)(x, truths)))(theirs)
    assert_same(np.asarray(found), value)
    assert_same(numpy(grads), expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("row", ROWS_TO_DIFFERENTIATE, ids=lambda row: row.id)
def test_values_and_the_way_back_from_their_slopes(row: Row, compiled: bool, library: Library, rng: Any) -> None:
    """Slopes are the difference of two weights of items."""
    guesses, truths = row.sample(rng, 7)
    loss = row.make(reduction="none")
    values = loss.get_loss(guesses, truths)
    more, less = (each(lambda v: rng.random(v.shape), values) for _ in range(2))
    keep = each(lambda v: rng.random(v.shape) < 0.8, values)
    mask = None if row.coupled else keep
    slopes = each(lambda a, b: a - b, more, less)

    def function(x: Any) -> Any:
        found = as_function(loss)(x, library.to(truths), mask=mask)
        pairs = zip(leaves(found), leaves(slopes), strict=True)
        return sum(jnp.where(jnp.isfinite(v), v * s, 0).sum() for v, s in pairs), found

    transform = jax.jit if compiled else lambda x: x
    grads, found = transform(jax.grad(function, has_aux=True))(library.to(guesses))
    assert_same(numpy(found), loss.get_loss(guesses, truths, mask=mask))
    finite = each(np.isfinite, values)
    a, b = (
        loss.get_grad(guesses, truths, mask=mask, sample_weight=each(lambda w, f: np.where(f, w, 0.0), weight, finite))
        for weight in (more, less)
    )
    assert_same(numpy(grads), each(np.subtract, a, b), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ROWS_TO_DIFFERENTIATE], ids=lambda row: row.id)
def test_gradients_in_something_else_are_refused(row: Row) -> None:
    error, message = (TypeError, "all but Thinc's own") if row.thinc else (ValueError, "got wrt='logits'")
    with pytest.raises(error, match=f"Cannot differentiate .*{message}"):
        as_function(row.make())


@pytest.mark.parametrize("loss, error", NO_CALCULATORS)
def test_what_is_no_calculator_is_named(loss: Any, error: str) -> None:
    with pytest.raises(TypeError) as caught:
        as_function(loss)
    assert str(caught.value) == f"Cannot differentiate {error}"


# The graph


class Counted(lossreg.MeanSquaredError):
    """Counts what is calculated."""

    def compute(self, batch: Any, truths: Any, weights: Any, needs: Needs, out: Any) -> Any:
        calls.append((needs.total or needs.values, needs.grad))
        return super().compute(batch, truths, weights, needs, out)


calls: list[tuple[bool, bool]] = []


@pytest.mark.parametrize("compiled", [False, True])
def test_one_call_gives_loss_and_gradient(compiled: bool, pair: Any) -> None:
    transform = jax.jit if compiled else lambda x: x
    function, values = as_function(Counted()), as_function(Counted(reduction="none"))
    for differentiated, expected in (
        (jax.value_and_grad(function), [(True, True)]),
        (function, [(True, False)]),
        (jax.grad(lambda x, t: values(x, t).sum()), [(True, False), (False, True)]),
    ):
        run = transform(differentiated)
        jax.block_until_ready(run(*pair))
        calls.clear()
        jax.block_until_ready(run(*pair))
        assert calls == expected or (compiled and calls == expected[-1:])  # values that nobody reads


def test_gradients_reach_a_model_and_are_scaled(pair: Any) -> None:
    x, _ = pair
    w, ids = jnp.ones((3, 4)), jnp.array([0, 1, 2, 3, 1])
    ours = as_function(lossreg.CrossEntropy())

    def theirs(logits: Any, ids: Any) -> Any:
        return -jax.nn.log_softmax(logits)[jnp.arange(5), ids].mean()

    a, b = (jax.jit(jax.grad(lambda w, f=f: 3.0 * f(x @ w, ids) ** 2))(w) for f in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_only_some_outputs_want_a_gradient(rng: Any) -> None:
    anchor, positive, negative = rng.normal(size=(3, 5, 4))
    function = as_function(lossreg.TripletMargin())
    found = jax.grad(lambda p: function((jnp.asarray(anchor), p, negative), None))(jnp.asarray(positive))
    assert_same(np.asarray(found), lossreg.TripletMargin().get_grad((anchor, positive, negative), None)[1])
    assert function((anchor, positive, negative), None).dtype == np.float64  # constants alone


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_there_is_no_second_derivative(reduction: str, pair: Any) -> None:
    x, t = pair
    function = as_function(lossreg.MeanSquaredError(reduction=reduction))

    def loss(x: Any) -> Any:
        return function(x, t).sum()

    penalty = lambda x: loss(x) + (jax.grad(loss)(x) ** 2).sum()  # noqa: E731
    assert np.isfinite(penalty(x))
    for differentiate in (jax.grad(penalty), jax.jit(jax.grad(penalty)), jax.hessian(loss)):
        with pytest.raises(TypeError, match="Cannot differentiate the gradient of a lossreg calculator"):
            differentiate(x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (x,))


def test_what_is_not_a_guess_has_no_gradient(pair: Any) -> None:
    x, t = pair
    function = as_function(lossreg.MeanSquaredError())
    for differentiate in (
        jax.grad(lambda t: function(x, t)),
        jax.jit(jax.grad(lambda x: function(x, t, sample_weight=x**2))),
        jax.grad(lambda x: function(x, t, mask=abs(x) / 9)),
    ):
        with pytest.raises(
            ValueError, match=r"without a gradient \(jax.lax.stop_gradient\), got what is differentiated"
        ):
            differentiate(x)
    ids = jnp.array([0, 1, 2, 0, 1])  # integers have none anyway
    function_of_ids = as_function(lossreg.CrossEntropy())
    for differentiate in (
        jax.grad(function_of_ids, argnums=(0, 1), allow_int=True),
        lambda *xs: jax.vjp(function_of_ids, *xs)[1](1.0),
    ):
        grad, nothing = differentiate(x, ids)
        assert_same(np.asarray(grad), lossreg.CrossEntropy().get_grad(np.asarray(x), np.asarray(ids)))
        assert nothing.dtype == jax.dtypes.float0
    assert np.isfinite(jax.grad(lambda x: function_of_ids(x, x.argmax(axis=1)))(x)).all()
    stop = jax.lax.stop_gradient
    expected = lossreg.MeanSquaredError().get_grad(np.asarray(x), np.asarray(t), sample_weight=np.asarray(x) ** 2)
    for transform in (jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: jax.grad(jax.jit(f))):
        found = transform(lambda x: function(x, t, sample_weight=stop(x) ** 2))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_loops_and_checkpoints(pair: Any) -> None:
    """Truths that a loop carries along are not differentiated."""
    x, t = pair
    function, w = as_function(lossreg.Huber()), jnp.eye(3)

    def once(w: Any) -> Any:
        return function(x @ w, t)

    def scanned(w: Any) -> Any:
        return jax.lax.scan(
            lambda sum_, b: (sum_ + function(b[0] @ w, b[1]), None), 0.0, (jnp.stack([x]), jnp.stack([t]))
        )[0]

    def carried(w: Any) -> Any:
        return jax.lax.fori_loop(0, 1, lambda i, c: (c[0] + function(x @ w, c[1]), c[1]), (0.0, t))[0]

    expected = jax.grad(once)(w)
    assert abs(expected).min() > 0
    for same in (scanned, carried, jax.checkpoint(once), lambda w: jax.lax.cond(True, once, lambda w: 0.0, w)):
        for transform in (jax.grad, lambda f: jax.jit(jax.grad(f))):
            np.testing.assert_allclose(transform(same)(w), expected, rtol=1e-14)


def test_vmap_goes_entry_by_entry(pair: Any) -> None:
    x, t = pair
    function = as_function(lossreg.MeanSquaredError())
    each_row = [lossreg.MeanSquaredError()(np.asarray(a), np.asarray(b)) for a, b in zip(x, t, strict=True)]
    for transform in (lambda f: f, jax.jit):
        assert_same(np.asarray(transform(jax.vmap(function))(x, t)), np.array([value for _, value in each_row]))
        assert_same(np.asarray(transform(jax.vmap(jax.grad(function)))(x, t)), np.stack([grad for grad, _ in each_row]))
    shared = jax.vmap(function, in_axes=(0, None))(x, t[0])
    assert_same(np.asarray(shared), np.array([lossreg.MeanSquaredError().get_loss(np.asarray(a), t[0]) for a in x]))


def test_errors_of_the_data_reach_the_caller(pair: Any) -> None:
    x, _ = pair
    function = as_function(lossreg.CrossEntropy())
    message = r"Cannot calculate CrossEntropy: expected truth ids in \[0, 3\), got undeclared id 7 in row 0"
    with pytest.raises(ValueError, match=message):
        function(x, jnp.full(5, 7))
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(jax.jit(function)(x, jnp.full(5, 7)))
    with pytest.raises(ValueError, match="Cannot differentiate CrossEntropy: expected one that returns its loss"):
        as_function(lossreg.CrossEntropy(per_token=True))


# Arrangements and dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_precision_without_x64(dtype: str, pair: Any) -> None:
    x, t = map(np.asarray, pair)
    with jax.enable_x64(False):
        a, b = jnp.asarray(x, dtype), jnp.asarray(t, "float32")
        for reduction in ("mean", "none"):
            function = as_function(lossreg.MeanSquaredError(reduction=reduction))
            expected, value = lossreg.MeanSquaredError(reduction=reduction)(np.asarray(a, np.float32), np.asarray(b))
            for transform in (lambda f: f, jax.jit):
                found = transform(function)(a, b)
                assert found.dtype == np.float32
                assert_same(np.asarray(found), np.asarray(value, np.float32))
                grad = transform(jax.grad(lambda x: function(x, b).sum()))(a)
                assert grad.dtype == a.dtype
                assert_same(np.asarray(grad, np.float32), np.asarray(jnp.asarray(expected).astype(dtype), np.float32))
    assert as_function(lossreg.MeanSquaredError())(jnp.array([3, 1]), jnp.array([1.0, 1.0])) == 2.0


def test_sequences(rng: Any) -> None:
    data, ids, lengths = jnp.asarray(rng.normal(size=(7, 4))), jnp.asarray(rng.integers(0, 4, 7)), np.array([3, 0, 4])
    slopes, ends = jnp.asarray(rng.normal(size=7)), [3, 3]
    for reduction in ("mean", "none", "sequence_mean"):
        loss = lossreg.CrossEntropy(reduction=reduction)
        function = as_function(loss)
        factor = slopes if reduction == "none" else 1.0

        def flat(x: Any, n: Any) -> Any:
            found = function(Ragged(x, n), ids)
            assert not isinstance(found, Ragged) or found.lengths is n
            return ((found.data if isinstance(found, Ragged) else found) * factor).sum()

        def listed(x: Any, n: Any) -> Any:
            found = function(jnp.split(x, ends), jnp.split(ids, ends))
            return ((jnp.concatenate(found) if isinstance(found, list) else found) * factor).sum()

        ours = Ragged(np.asarray(data), lengths)
        weights = (np.maximum(slopes, 0), np.maximum(-slopes, 0)) if reduction == "none" else (None,)
        parts = [loss.get_grad(ours, np.asarray(ids), sample_weight=w).data for w in weights]
        expected = parts[0] - parts[1] if reduction == "none" else parts[0]
        for f in (flat, listed):
            for transform in (jax.grad, lambda f: jax.jit(jax.grad(f))):
                np.testing.assert_allclose(transform(f)(data, jnp.asarray(lengths)), expected, rtol=1e-13, atol=1e-16)
    unreduced = as_function(lossreg.CrossEntropy(reduction="none"))
    first = jax.grad(lambda x: unreduced(jnp.split(x, ends), jnp.split(ids, ends))[0].sum())(data)
    assert abs(first[:3]).min() > 0
    assert not first[3:].any()
    pytree = jax.tree.map(lambda x: x * 2, Ragged(data, jnp.asarray(lengths)))
    assert type(pytree) is Ragged
    assert as_function(lossreg.CrossEntropy())([], []) == 0.0


def test_ctc_of_a_ragged(rng: Any) -> None:
    data = np.log(rng.dirichlet(np.ones(4), 9))
    targets, lengths = [[1, 2], [3]], np.array([5, 4])
    for reduction in ("mean", "none"):
        loss = lossreg.CTC(reduction=reduction)
        expected = loss.get_grad(Ragged(data, lengths), targets).data
        found = jax.jit(jax.grad(lambda x, n: as_function(loss)(Ragged(x, n), targets).sum()))(data, lengths)
        assert_same(np.asarray(found), expected)


def test_padded_sequences_and_masks(rng: Any) -> None:
    x, ids = rng.normal(size=(2, 3, 4)), rng.integers(0, 4, (2, 3))
    slopes, mask = rng.random((2, 3)), np.array([[1, 1, 0], [1, 0, 0]])
    loss = lossreg.Sequence(lossreg.CrossEntropy(reduction="none"))
    function = as_function(loss)
    grad = jax.jit(jax.grad(lambda x, t, m: (function(x, t, mask=m) * slopes).sum()))(x, ids, mask)
    assert_same(np.asarray(grad), loss.get_grad(x, ids, mask=mask, sample_weight=slopes))
    assert_same(np.asarray(function(jnp.asarray(x), [ids[0, :2], ids[1, :1]])), loss.get_loss(x, ids, mask=mask))
    ragged = as_function(loss)(Ragged(jnp.asarray(x[0]), [1, 2]), ids[0])
    assert_same(np.asarray(ragged.data), loss.get_loss(Ragged(x[0], [1, 2]), ids[0]).data)


def test_a_weighted_sum_over_a_context(rng: Any) -> None:
    logits, other = rng.normal(size=(2, 5, 3))
    ids, mask = rng.integers(0, 3, 5), np.array([1, 1, 0, 1, 1])
    total = WeightedSum(
        Term(lossreg.CrossEntropy(), guesses="out.logits", truths="ids", mask="mask", weight=lambda step: 0.5 * step),
        Term(lossreg.MeanSquaredError(), guesses="out.logits", truths="other"),
        Term(lossreg.InfoNCE(), guesses=["out.logits", "other"], weight=0.1),
    )
    grads, value = total({"out": {"logits": logits}, "ids": ids, "other": other, "mask": mask, "step": 3})

    def function(logits: Any, ids: Any) -> Any:
        context = {"out": {"logits": logits}, "ids": ids, "other": other, "mask": mask, "step": 3}
        return as_function(total)(context)

    for transform in (lambda f: f, jax.jit):
        found, grad = transform(jax.value_and_grad(function))(jnp.asarray(logits), jnp.asarray(ids))
        assert float(found) == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(grad, grads["out.logits"], rtol=1e-13, atol=1e-16)


SCHEDULES: list[Any] = [
    lossreg.schedules.CosineSchedule(start=1.0, end=0.1, steps=10),
    lossreg.schedules.LinearSchedule(start=0.0, end=0.5, steps=4, begin=1),
    lossreg.schedules.PiecewiseSchedule(boundaries=(2, 5), values=(1.0, 0.5, 0.25)),
    lossreg.schedules.ConstantSchedule(value=0.3),
    lambda step: 0.5 if step < 3 else 10.0**-step,
    lambda step: jnp.exp(-0.1 * step),  # as those of optax
    itertools.count(1.0, 0.5),
]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_of_weights(schedule: Any, x64: bool, rng: Any) -> None:
    term = Term(lossreg.CrossEntropy(), guesses="a", truths="b", weight=schedule)
    logits, ids = rng.normal(size=(4, 3)).astype(np.float32), np.array([0, 1, 2, 1])
    with jax.enable_x64(x64):
        function = as_function(WeightedSum(term, Term(lossreg.MeanSquaredError(), guesses="a", truths="c")))

        def of_guesses(a: Any, step: Any) -> Any:
            return function({"a": a, "b": jnp.asarray(ids), "c": jnp.zeros((4, 3)), "step": step})

        # Compiled for the first step: the others read their weight from the same code.
        transforms = (lambda f: f, jax.jit, lambda f: jax.jit(jax.checkpoint(f)))
        gradients = [transform(jax.value_and_grad(of_guesses)) for transform in transforms]
        compiled = jax.jit(function)
        for step in (0, 3, 7):
            context = {"a": logits, "b": ids, "c": np.zeros((4, 3)), "step": step}
            grads, loss = WeightedSum(term, Term(lossreg.MeanSquaredError(), guesses="a", truths="c"))(context)
            for gradient in gradients:
                found, grad = gradient(jnp.asarray(logits), step)
                assert found.dtype == grad.dtype == np.float32
                np.testing.assert_allclose(found, loss, rtol=1e-6)
                np.testing.assert_allclose(grad, grads["a"], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(compiled(context), loss, rtol=1e-6)


def test_steps_in_loops_and_batches(rng: Any) -> None:
    schedule = lossreg.schedules.CosineSchedule(start=1.0, end=0.1, steps=10)
    term = Term(lossreg.MeanSquaredError(), guesses="a", truths="b", weight=schedule)
    a, b = map(jnp.asarray, rng.normal(size=(2, 5, 3)))
    steps = jnp.arange(5)
    expected = [term.get_loss({"a": np.asarray(a[i]), "b": np.asarray(b[i]), "step": i}) for i in range(5)]

    def loss(a: Any, b: Any, step: Any) -> Any:
        return as_function(term)({"a": a, "b": b, "step": step})

    for transform in (lambda f: f, jax.jit):
        np.testing.assert_allclose(transform(jax.vmap(loss))(a, b, steps), expected, rtol=1e-14)
        scanned = transform(lambda: jax.lax.scan(lambda _, x: (None, loss(*x)), None, (a, b, steps))[1])()
        np.testing.assert_allclose(scanned, expected, rtol=1e-14)
        slopes = transform(jax.grad(loss, argnums=(0, 2)))(a[3], b[3], 3.0)
        assert slopes[1] == 0
        assert abs(slopes[0]).min() > 0


@pytest.mark.parametrize("weight, got", [(lambda step: math.nan, "at step 3, got nan"), (lambda step: "x", "got 'x'")])
def test_schedules_without_a_number(weight: Any, got: str, pair: Any) -> None:
    term = Term(lossreg.MeanSquaredError(), guesses="a", truths="b", weight=weight)
    context = {"a": pair[0], "b": pair[1], "step": 3}
    with pytest.raises(Exception, match=f"Cannot evaluate the schedule: expected a finite number .*{got}"):
        jax.block_until_ready(jax.jit(as_function(term))(context))


def test_schedules_with_a_step_that_is_none(pair: Any) -> None:
    term = Term(lossreg.MeanSquaredError(), guesses="a", truths="b", weight=lambda step: 1.0 / step)
    context = {"a": pair[0], "b": pair[1], "step": jnp.arange(1, 3)}
    with pytest.raises(Exception, match="Cannot evaluate the schedule: expected a step, got a"):
        jax.block_until_ready(jax.jit(as_function(term))(context))
    with pytest.raises(
        ValueError, match=r"got a int\d+ array of shape \(\) inside jax.jit; use lossreg.jax.as_function"
    ):
        jax.jit(term.get_loss)({**context, "step": 3})


def test_large_arrays_in_a_compiled_loop(rng: Any) -> None:
    """Callbacks that read their arguments through JAX wait for themselves."""
    x, ids = jnp.asarray(rng.normal(size=(512, 2000)), "float32"), jnp.asarray(rng.integers(0, 2000, 512))
    step = jax.jit(jax.value_and_grad(as_function(lossreg.CrossEntropy())))
    losses = []
    for _ in range(4):
        loss, grad = step(x, ids)
        x = x - 1000 * grad
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    "inputs, keywords, message",
    [
        ((np.zeros((4, 3)), np.arange(3)), {}, "expected 4 truths (one per row of guesses), got 3"),
        ((np.zeros((4, 3)), np.zeros((4, 2))), {}, "expected truths of shape (4, 3)"),
        ((np.zeros((4, 3)), np.zeros(4, int)), {"mask": np.ones(3)}, "expected mask that broadcasts to the values' shape (4,)"),
        ((np.zeros((4, 3)), np.zeros(4, int)), {"sample_weight": np.ones(5)}, "expected sample_weight that broadcasts"),
        ((np.zeros((4, 3)),), {}, "expected truths"),
    ],
)  # fmt: skip
def test_shapes_are_checked_while_jax_traces(inputs: Any, keywords: Any, message: str) -> None:
    function = as_function(lossreg.CrossEntropy())
    inputs = [jnp.asarray(x) for x in inputs]
    for transform in (lambda f: f, jax.jit, jax.grad):
        with pytest.raises(ValueError, match=re.escape(message)):
            jax.eval_shape(transform(function), *inputs, **{k: jnp.asarray(x) for k, x in keywords.items()})
