"""The laws: what every calculator keeps, on every backend."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, ElementwiseLoss, ReducedLoss, registry
from lossreg.formulas.arguments import ELEMENT, ArrayArgument, constant
from lossreg.formulas.graph import trace
from lossreg.formulas.replay import Replay
from support.nested import assert_same, count, each, frozen, item_mask, leaves, take
from support.table import ROWS, TRUE_ROWS, Row, ref_info_nce, softmax_move

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
true_rows = pytest.mark.parametrize("row", TRUE_ROWS, ids=lambda row: row.id)
DTYPES = [np.float16, np.float32, np.float64]


ELSEWHERE = {
    "LinearCrossEntropy.v1": "losses/test_linear.py",
    "MindFormersCrossEntropy.v1": "parity/test_mindformers.py",
    "Term.v1": "losses/test_terms.py",
    "WeightedSum.v1": "losses/test_terms.py",
}
"""Calculators of which not every input has an item a row, losses of a context, and the file that has their laws."""


def places(array: np.ndarray, limit: int = 40) -> list[tuple[int, ...]]:
    return list(itertools.islice(np.ndindex(array.shape), limit))


# 1. The gradient is the slope


@true_rows
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_lies_between_the_one_sided_slopes(row: Row, reduction: Any, backend: Any, rng: Any) -> None:
    loss = row.make(reduction=reduction)
    cases = [row.sample(rng, 5)] + ([row.kinks()] if row.kinks else [])
    for guesses, truths in cases:
        grad = loss.get_grad(guesses, truths)
        here = loss.get_loss(guesses, truths)
        step = 1e-6
        for at, (array, slopes) in enumerate(zip(leaves(guesses), leaves(grad), strict=True)):
            for index in places(array):
                sides = []
                for h in (-step, step):
                    there = loss.get_loss(moved(guesses, at, index, h, row), truths)
                    sides.append((there - here) / h)
                slack = 3e-8 + 3e-9 * (abs(here) + abs(slopes[index]))
                assert np.isfinite(slopes[index])
                assert min(sides) - slack <= slopes[index] <= max(sides) + slack, (index, sides, slopes[index])


def moved(guesses: Any, at: int, index: tuple[int, ...], step: float, row: Row) -> Any:
    counter = itertools.count()

    def move(array: np.ndarray) -> np.ndarray:
        if next(counter) != at:
            return array
        if row.move:
            return row.move(array, index, step)
        array = array.copy()
        array[index] += step
        return array

    return each(move, guesses)


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if row.analytic], ids=lambda row: row.id)
def test_slope_of_a_formula_by_complex_step(row: Row, rng: Any) -> None:
    """f'(x) = Im f(x + ih) / h has no cancellation: the slope is right to rounding."""
    loss = row.make()
    options = loss.formula_options(lossreg.NumpyOps())
    guesses, truths = row.sample(rng, 50)
    value, slope = loss.formula(np, guesses, truths, *options)
    stepped = loss.formula(np, guesses + 1e-30j, truths, *options)[0]
    np.testing.assert_allclose(stepped.real, value, rtol=1e-15)
    np.testing.assert_allclose(stepped.imag / 1e-30, slope, rtol=1e-14, atol=1e-300)


# 2. One pass is the same as two


@rows
@pytest.mark.parametrize("dtype", DTYPES)
def test_call_equals_get_grad_and_get_loss(row: Row, dtype: Any, backend: Any, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 7)
    guesses = each(lambda x: x.astype(dtype), guesses)
    assert_same(loss(guesses, truths), (loss.get_grad(guesses, truths), loss.get_loss(guesses, truths)))


# 3. Weights and masks


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if not row.coupled], ids=lambda row: row.id)
def test_weight_two_is_the_item_twice(row: Row, backend: Any, rng: Any) -> None:
    loss = row.make(reduction="sum")
    guesses, truths = row.sample(rng, 6)
    values = loss.get_values(guesses, truths)
    twice = rng.random(6) < 0.5
    twice[0] = True
    index = np.concatenate([np.arange(6), np.flatnonzero(twice)])
    weighted = loss.get_loss(guesses, truths, sample_weight=each(lambda w: 1.0 + w, item_mask(values, twice)))
    assert_same(weighted, loss.get_loss(row.take(guesses, index), take(truths, index)), rtol=1e-13)
    grad = loss.get_grad(guesses, truths)
    heavier = loss.get_grad(guesses, truths, sample_weight=each(lambda w: 1.0 + w, item_mask(values, twice)))
    assert_same(row.take(heavier, twice), each(lambda g: 2 * g, row.take(grad, twice)), rtol=1e-13, atol=1e-300)
    assert_same(row.take(heavier, ~twice), row.take(grad, ~twice), rtol=1e-13)


@true_rows
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
def test_mask_zero_is_the_item_deleted(row: Row, bad: float, reduction: Any, backend: Any, rng: Any) -> None:
    loss = row.make(reduction=reduction)
    if getattr(loss, "normalize_by_sequence", False) and reduction == "mean":
        return  # divides by the sequences, masked or not
    guesses, truths = row.sample(rng, 6)
    keep = np.array([True, False, True, True, False, True])
    values = loss.get_values(guesses, truths)

    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[(slice(None),) * row.axis + (slice(None) if isinstance(guesses, list) else ~keep,)] = bad
        return x

    if isinstance(guesses, list):
        spoiled = [x if k else spoil(x) for x, k in zip(guesses, keep, strict=True)]
    else:
        spoiled = each(spoil, guesses)
    nonsense = truths
    if isinstance(truths, np.ndarray):
        nonsense = truths.copy()
        nonsense[~keep] = {"f": bad, "i": 99, "U": "?"}[truths.dtype.kind]
    elif isinstance(truths, tuple):
        nonsense = tuple(np.where(keep.reshape(-1, *(1 for _ in part.shape[1:])), part, 99) for part in truths)
    elif truths and not isinstance(guesses, list):
        nonsense = [truth if k else "no such name" for truth, k in zip(truths, keep, strict=True)]
    for mask in (item_mask(values, keep), each(lambda m: m.astype(np.float32), item_mask(values, keep))):
        grad, value = loss(spoiled, nonsense, mask=mask)
        kept_grad, kept_value = loss(row.take(guesses, keep), take(truths, keep))
        assert_same(value, kept_value, rtol=1e-14)
        assert_same(row.take(grad, keep), kept_grad, rtol=1e-14, atol=1e-18)
        for part in leaves(row.take(grad, ~keep)):
            assert not np.any(part), "a masked item has gradient 0"


@true_rows
def test_fractional_mask_scales_and_divides(row: Row, backend: Any, rng: Any) -> None:
    loss, total = row.make(), row.make(reduction="sum")
    guesses, truths = row.sample(rng, 6)
    mask = each(lambda m: m * 0.25, item_mask(loss.get_values(guesses, truths), np.ones(6)))
    assert_same(total.get_loss(guesses, truths, mask=mask), 0.25 * total.get_loss(guesses, truths), rtol=1e-13)
    if not getattr(loss, "normalize_by_sequence", False):
        assert_same(loss.get_loss(guesses, truths, mask=mask), loss.get_loss(guesses, truths), rtol=1e-13)


# 4. Reductions


@true_rows
def test_reductions_differ_by_their_divisors(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 6)
    total_grad, total = row.make(reduction="sum")(guesses, truths)
    values_grad, values = row.make(reduction="none")(guesses, truths)
    assert_same(float(sum(np.sum(part) for part in leaves(values))), total, rtol=1e-13)
    assert_same(values_grad, total_grad)
    weights = each(lambda v: rng.random(v.shape) + 0.5, values)
    size = sum(part.size for part in leaves(values))
    for make, divisor in [
        (dict(reduction="batch_mean"), count(guesses) if row.axis == 0 else guesses.shape[row.axis]),
        (dict(reduction="mean", normalize_by="values"), size),
        (dict(reduction="mean"), row.make().get_state(guesses, truths).count),
    ]:
        if make["reduction"] == "mean" and row.options.get("normalize_by_sequence"):
            divisor = len(guesses)
        if make["reduction"] == "mean" and isinstance(row.make(), lossreg.CTC):
            continue  # its mean divides each value by the length of its target first
        grad, value = row.make(**make)(guesses, truths)
        assert_same(value, total / divisor, rtol=1e-13)
        assert_same(grad, each(lambda g: g / divisor, total_grad), rtol=1e-12, atol=1e-18)
    state = row.make(reduction="weighted_mean").get_state(guesses, truths, sample_weight=weights)
    assert_same(state.total, row.make(reduction="sum").get_loss(guesses, truths, sample_weight=weights), rtol=1e-13)
    assert_same(row.make(reduction="weighted_mean").get_loss(guesses, truths, sample_weight=weights), state.compute())


@true_rows
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "weighted_mean", "none"])
def test_nothing_to_average_gives_zero(row: Row, reduction: Any, backend: Any, rng: Any) -> None:
    loss = row.make(reduction=reduction)
    guesses, truths = row.sample(rng, 4)
    masked = each(lambda m: m > 1, item_mask(row.make().get_values(guesses, truths), np.zeros(4)))
    empty = (row.take(guesses, slice(0, 0)), take(truths, slice(0, 0)))
    for (g, t), mask in ((((guesses, truths)), masked), (empty, None)):
        grad, value = loss(g, t, mask=mask)
        for part in leaves(value) + leaves(grad):
            assert not np.any(part)
        assert [x.shape for x in leaves(grad)] == [x.shape for x in leaves(g)]
        assert loss.get_state(g, t, mask=mask).compute() == 0


# 5. States


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if not row.coupled], ids=lambda row: row.id)
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "weighted_mean"])
def test_states_of_any_split_merge_to_the_whole(row: Row, reduction: Any, backend: Any, rng: Any) -> None:
    loss = row.make(reduction=reduction)
    guesses, truths = row.sample(rng, 9)
    whole = loss.get_loss(guesses, truths)
    for _ in range(5):
        part_of = rng.integers(0, 4, 9)
        states = [loss.get_state(row.take(guesses, part_of == k), take(truths, part_of == k)) for k in range(4)]
        a, b, c, d = states
        for merged in (
            sum(states),
            a.merge(b).merge(c.merge(d)),
            d + c + b + a,
            pickle.loads(pickle.dumps(a)) + b + c + d,
        ):
            assert_same(merged.merge(loss.empty()).finalize().compute(), whole, rtol=1e-13)
    other = row.make(reduction=reduction, validate="full")
    with pytest.raises(ValueError, match="Cannot merge states of different calculators"):
        states[0].merge(other.get_state(guesses, truths))


# 6. dtype, shape and structure of the gradient


@rows
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_looks_like_the_guesses(row: Row, dtype: Any, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 5)
    guesses = each(lambda x: x.astype(dtype), guesses)
    grad, value = row.make()(guesses, truths)
    assert isinstance(value, float)
    each(lambda g, x: check_like(g, x), grad, guesses)
    exact, exact_value = row.make()(each(lambda x: x.astype(np.float64), guesses), truths)
    tolerance = {2: 2e-3, 4: 3e-6, 8: 0.0}[np.dtype(dtype).itemsize]
    assert_same(value, exact_value, rtol=max(tolerance, 1e-5 if dtype == np.float16 else tolerance), atol=tolerance)
    each(lambda g, e: np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance), grad, exact)


def check_like(grad: np.ndarray, guess: np.ndarray) -> None:
    assert type(grad) is np.ndarray
    assert grad.dtype == guess.dtype
    assert grad.shape == guess.shape


@rows
def test_integer_guesses_are_promoted(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 5)
    whole = each(lambda x: np.round(x).astype(np.int32), guesses)
    if row.move is softmax_move or "probs" in row.options.values():
        whole = each(lambda x: (np.arange(x.shape[1]) == x.argmax(axis=1)[:, None]).astype(np.int32), guesses)
    assert_same(row.make()(whole, truths), row.make()(each(lambda x: x.astype(np.float64), whole), truths))


# 7. Inputs of any layout, never written to


def strided(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def mapped(x: np.ndarray, folder: Any) -> np.ndarray:
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, x)
    return np.load(path, mmap_mode="r") if x.size else x


LAYOUTS = {
    "fortran": lambda x, _: np.asfortranarray(x),
    "every other column": lambda x, _: strided(x),
    "negative strides": lambda x, _: np.flip(np.flip(x).copy()),
    "memory-mapped": mapped,
    "read-only": lambda x, _: x,
}


@rows
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_untouched_inputs(row: Row, layout: str, backend: Any, rng: Any, tmp_path: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 6)
    plain = loss(guesses, truths)
    laid = each(lambda x: LAYOUTS[layout](x, tmp_path), guesses)
    laid_truths = LAYOUTS[layout](truths, tmp_path) if isinstance(truths, np.ndarray) else truths
    guesses_in, truths_in = frozen(laid), frozen(laid_truths)
    if layout != "read-only":  # deepcopy may change the layout, which is what is tested
        guesses_in, truths_in = laid, laid_truths
    assert_same(loss(guesses_in, truths_in), plain, rtol=1e-14, atol=1e-18)
    assert_same(guesses_in, guesses)
    if truths is not None:
        each(np.testing.assert_array_equal, truths_in, truths)


@true_rows
def test_out_receives_the_gradient(row: Row, backend: Any, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 6)
    if isinstance(guesses, list):
        with pytest.raises(ValueError, match="expected out"):
            loss(guesses, truths, out=guesses)
        return
    expected = loss(guesses, truths)
    for layout in (np.ascontiguousarray, np.asfortranarray, strided):
        out = each(lambda x: layout(np.full_like(x, np.nan)), guesses)
        grad, value = loss(guesses, truths, out=out)
        assert all(a is b for a, b in zip(leaves(grad), leaves(out), strict=True))
        assert_same((grad, value), expected, rtol=1e-15, atol=1e-18)
    own = each(np.copy, guesses)
    assert_same(loss(own, truths, out=own), expected, rtol=1e-15, atol=1e-18)
    for wrong in (each(lambda x: x[:-1], own), each(lambda x: x.astype(np.float32), own), "no array"):
        with pytest.raises(ValueError, match="expected out"):
            loss(guesses, truths, out=wrong)
    with pytest.raises(ValueError, match="expected out to be writable"):
        loss(guesses, truths, out=frozen(own))


# 8. Order does not matter


@rows
def test_permuting_the_batch_permutes_the_gradient(row: Row, backend: Any, rng: Any) -> None:
    loss = row.make()
    guesses, truths = row.sample(rng, 8)
    order = rng.permutation(8)
    grad, value = loss(guesses, truths)
    other_grad, other = loss(row.take(guesses, order), take(truths, order))
    assert_same(other, value, rtol=1e-13)
    assert_same(other_grad, row.take(grad, order), rtol=1e-12, atol=1e-17)


# 9, 10. Values against mpmath, extreme ones included


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if row.value or row.coupled], ids=lambda row: row.id)
def test_values_equal_the_reference(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 13)
    compare_with_mpmath(row, guesses, truths)


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if row.extremes], ids=lambda row: row.id)
def test_extreme_inputs(row: Row, backend: Any) -> None:
    guesses, truths = row.extremes()  # type: ignore[misc]
    compare_with_mpmath(row, guesses, truths)
    for part in leaves(row.make(reduction="sum").get_grad(guesses, truths)):
        assert np.isfinite(part).all()


def compare_with_mpmath(row: Row, guesses: Any, truths: Any) -> None:
    mp = pytest.importorskip("mpmath", reason="mpmath is not installed: pip install mpmath")
    loss = row.make()
    values = loss.get_values(guesses, truths)
    with mp.workdps(60):
        if row.coupled:
            expected = [ref_info_nce(guesses, i, row.options) for i in range(len(values))]
        elif isinstance(loss, ElementwiseLoss):
            outputs = guesses if isinstance(guesses, tuple) else (guesses,)
            arrays = outputs if truths is None else (*outputs, truths)
            items = enumerate(zip(*(x.ravel() for x in arrays), strict=True))
            column = "pos_weight" in row.options
            columns = outputs[0].shape[-1]
            expected = [row.value(*item, row.options, *([i % columns] * column)) for i, item in items]  # type: ignore[misc]
        elif isinstance(guesses, tuple):
            signs = [None] * len(guesses[0]) if truths is None else truths
            expected = [row.value(x, t, row.options) for *x, t in zip(*guesses, signs, strict=True)]  # type: ignore[misc]
        elif row.axis == 1:
            expected = [row.value(guesses[:, i], take(truths, i), row.options) for i in range(guesses.shape[1])]  # type: ignore[misc]
        else:
            x = np.moveaxis(guesses, 1, -1).reshape(-1, guesses.shape[1])
            t = truths
            if isinstance(truths, np.ndarray):
                t = truths.ravel() if truths.shape == values.shape else np.moveaxis(truths, 1, -1).reshape(x.shape)
            expected = [row.value(a, b, row.options) for a, b in zip(x, t, strict=True)]  # type: ignore[misc]
    for got, want in zip(np.ravel(values), expected, strict=True):
        if mp.isinf(want):
            assert np.isinf(got)
        else:
            assert abs(mp.mpf(float(got)) - want) <= 4e-15 * abs(want) + mp.mpf(row.slack or 5e-324), (got, want)


@true_rows
def test_unmasked_nan_stays_visible(row: Row, backend: Any, rng: Any) -> None:
    """A NaN in a guess that counts gives a NaN loss, or an error where guesses have a domain."""
    guesses, truths = row.sample(rng, 12)
    for array in leaves(guesses):
        array[...] = np.nan
    try:
        grad, value = row.make()(guesses, truths)
    except ValueError as error:
        assert "nan" in str(error)
        return
    assert np.isnan(value)
    assert row.linear or all(np.isnan(part).any() for part in leaves(grad))


# 11. Config round trips and wrong options


@rows
def test_config_round_trip(row: Row, tmp_path: Any) -> None:
    loss = row.make()
    path = tmp_path / "loss.cfg"
    Config({"loss": loss.to_config()}).to_disk(path)
    again = registry.resolve(Config().from_disk(path))["loss"]
    assert again == loss
    assert hash(again) == hash(loss)
    assert again.options(all=True) == loss.options(all=True)
    filled = registry.fill(Config().from_disk(path), interpolate=True)
    assert registry.resolve(filled)["loss"] == loss
    assert set(filled["loss"]) >= set(loss.options(all=True))
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert eval(repr(loss), {**vars(lossreg), "inf": np.inf}) == loss


@rows
def test_wrong_options_are_config_errors_with_a_path(row: Row) -> None:
    names = list(row.make().options(all=True))
    for name in names:
        for wrong in ({"a": 1}, object(), float("nan"), [None]):
            config = {"a": {"loss": {"@losses": row.name, name: wrong}}}
            with pytest.raises(ConfigError) as caught:
                registry.resolve(config)
            assert any(path.startswith(f"a.loss.{name}") for path, _ in caught.value.problems)
    with pytest.raises(ConfigError, match=r"a\.loss\.no_such: unknown option"):
        registry.resolve({"a": {"loss": {"@losses": row.name, "no_such": 1}}})


# 12. Backends agree


@rows
def test_backends_agree_over_block_borders(row: Row, backend: Any, rng: Any) -> None:
    guesses, truths = row.sample(rng, 30_000 if not isinstance(row.sample(rng, 1)[0], (list, tuple)) else 60)
    with lossreg.use_ops("numpy"):
        expected = row.make()(guesses, truths)
    assert_same(row.make()(guesses, truths), expected, rtol=1e-12, atol=1e-15)


elementwise = [row for row in TRUE_ROWS if isinstance(row.make(), ElementwiseLoss)]


@pytest.mark.parametrize("row", elementwise, ids=lambda row: row.id)
def test_formula_runs_on_the_array_api_standard(row: Row, rng: Any) -> None:
    xp = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    loss = row.make()
    guesses, truths = row.sample(rng, 20)
    options = loss.formula_options(lossreg.NumpyOps())
    inputs = [x for x in (*(guesses if isinstance(guesses, tuple) else (guesses,)), truths) if x is not None]
    arguments = [
        *inputs,
        *(np.broadcast_to(o, inputs[0].shape).copy() if isinstance(o, np.ndarray) else o for o in options),
    ]
    array = ArrayArgument(ELEMENT, "f")
    kinds = [array if isinstance(x, np.ndarray) else float if isinstance(x, float) else constant(x) for x in arguments]
    _, results = trace(loss.formula, kinds, rows=False)
    strict = [xp.asarray(x) if isinstance(x, np.ndarray) else x for x in arguments]
    with np.errstate(all="ignore"):  # as the pipeline has it
        expected = Replay(results, np, np.float64)(arguments, 0)
        found = Replay(results, xp, xp.float64)(strict, 0)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-14)


# 13. Every name is tested and documented


def test_every_registered_name_has_a_row() -> None:
    built_in = {name for name in registry.losses.names() if registry.losses.get(name).__module__.startswith("lossreg.")}
    assert built_in == {row.name for row in ROWS} | set(ELSEWHERE)
    assert all((Path(__file__).parents[1] / file).exists() for file in ELSEWHERE.values())


@pytest.mark.parametrize("name", sorted({row.name for row in ROWS} | set(ELSEWHERE)))
def test_docstring_says_what_must_be_known(name: str) -> None:
    cls = registry.losses.get(name)
    text = inspect.getdoc(cls) or ""
    assert cls.__doc__
    assert re.search(r"^    .*=", text, re.M), "a formula"
    for part in ("Shapes:", "Gradient with respect to:", "Source:"):
        assert part in text, part
    own = [option for option in inspect.get_annotations(cls) if option not in ReducedLoss.__annotations__]
    for option in own:
        if not option.startswith("_") and option in cls.__dataclass_fields__:
            assert option in text, f"option {option} is explained"


@true_rows
def test_every_option_is_set_by_some_row(row: Row) -> None:
    common = set(ReducedLoss.__annotations__)
    options = set(row.make().options(all=True)) - common
    tested = {option for other in ROWS if type(other.make()) is type(row.make()) for option in other.options}
    inherited = {option for other in ROWS for option in other.options}
    elsewhere = {"per_token", "check_finite"}  # they change what is returned: losses/test_cross_entropy.py
    assert options <= tested | elsewhere | (inherited if "Sequence" in row.name else set())
