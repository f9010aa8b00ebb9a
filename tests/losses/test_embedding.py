"""Single calculators where the laws do not reach: square inputs, sequences, plain lists, large and small vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, functional, loss, register, registry
from support.nested import assert_same


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_similarity_along_any_axis_of_a_cube(axis: int, rng: Any) -> None:
    a, b = rng.normal(size=(2, 4, 4, 4))
    calculator = loss("similar", axis=axis, reduction="sum")
    grads = calculator.get_grad((a, b))
    last = loss("similar", axis=-1, reduction="sum")
    expected = last.get_grad((np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)))
    assert_same(grads, tuple(np.moveaxis(g, -1, axis) for g in expected), rtol=1e-13)
    out = (np.empty_like(a), np.empty_like(b))
    assert_same(calculator.get_grad((a, b), out=out), grads)
    assert_same(
        calculator.get_loss((a, b)), last.get_loss((np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1))), rtol=1e-13
    )
    with pytest.raises(ValueError, match="with 1 or more along axis 3"):
        loss("similar", axis=3)((a, b))


def test_square_class_axis_in_the_middle(rng: Any) -> None:
    x, y = rng.normal(size=(3, 3, 3)), rng.integers(0, 3, (3, 3))
    grad = loss("ce").get_grad(x, y)
    flat = loss("ce").get_grad(np.moveaxis(x, 1, -1).reshape(9, 3), y.ravel())
    assert_same(grad, np.moveaxis(flat.reshape(3, 3, 3), -1, 1), rtol=1e-14)


def test_sequences_that_cannot_be_joined_are_refused() -> None:
    pair = [np.ones((2, 3)), np.ones((1, 3))]
    with pytest.raises(ValueError, match="sequences cannot be joined along the axis of a value"):
        loss("similar", axis=0)((pair, pair))
    log_probs = np.full((4, 1, 3), -np.log(3))
    with pytest.raises(ValueError, match=r"of a sequence of shape \(Ti, C\), got shape \(8, 1, 3\)"):
        loss("ctc")([log_probs, log_probs], ([[1]], [8], [1]))
    assert loss("similar", axis=-1)((pair, pair))[1][1].shape == (1,)


def test_label_sets_of_sequences(rng: Any) -> None:
    guesses = [rng.normal(size=(2, 3)), rng.normal(size=(0, 3)), rng.normal(size=(1, 3))]
    flat = np.concatenate(guesses)
    for alias in ("multilabel", "multisoft"):
        calculator = loss(alias)
        expected = calculator(flat, [{0}, {1, 2}, None])
        grads, value = calculator(guesses, [[{0}, [1, 2]], [], [None]])
        assert_same(value, expected[1])
        assert_same(np.concatenate(grads), expected[0])
    ids = [np.array([[0, -1, -1], [1, 2, -1]]), np.zeros((0, 3), int), np.array([[-1, -1, -1]])]
    assert_same(loss("multilabel").get_loss(guesses, ids), loss("multilabel").get_loss(flat, [{0}, {1, 2}, set()]))


def test_plain_lists_as_the_pages_of_others_write_them() -> None:
    """torch's documentation of MultiLabelMarginLoss: 0.25 * ((1-(0.1-0.2)) + (1-(0.1-0.4)) + (1-(0.8-0.2)) + (1-(0.8-0.4)))."""
    expected = 0.25 * ((1 - (0.1 - 0.2)) + (1 - (0.1 - 0.4)) + (1 - (0.8 - 0.2)) + (1 - (0.8 - 0.4)))
    x = [[0.1, 0.2, 0.4, 0.8]]
    for truths in ([[3, 0, -1, 1]], np.array([[3, 0, -1, 1]]), [{0, 3}], [(3, 0)]):
        assert functional.multilabel(x, truths) == pytest.approx(expected)
    assert (
        functional.multilabel(x[0], {0, 3})
        == functional.multilabel(x[0], np.array([3, 0, -1, 1]))
        == pytest.approx(expected)
    )
    rows = np.array([[1.0, 0.0, 1.0]])
    for truths in (rows, rows.tolist(), [{0, 2}], [[0, 2]]):
        assert functional.multisoft([[0.3, -0.2, 1.0]], truths) == functional.multisoft(
            np.array([[0.3, -0.2, 1.0]]), rows
        )
    assert functional.multisoft([0.3, -0.2, 1.0], {0, 2}) == functional.multisoft([[0.3, -0.2, 1.0]], rows)
    for alias in ("multisoft", "multilabel"):
        with pytest.raises(
            ValueError, match=r"that is no row of 0 and 1, got \[1, 0\] in row 0; (rows|for rows) of 0 and 1"
        ):
            loss(alias)(np.zeros((1, 2)), [[1, 0]])
    with pytest.raises(ValueError, match=r"expected guesses of shape \(N, C\) or \(C,\), got shape \(1, 3, 3\)"):
        loss("multilabel")(np.zeros((1, 3, 3)), np.zeros((1, 3, 3), int))


@pytest.mark.parametrize(
    "dtype, sizes",
    [(np.float32, (1e-20, 1e-5, 1.0, 1e10, 1e20, 1e37)), (np.float64, (1e-200, 1.0, 1e100, 1e200, 1e300))],
)
def test_cosines_of_long_and_short_vectors(dtype: Any, sizes: Any, rng: Any) -> None:
    a, b = rng.normal(size=(2, 1, 5)).astype(dtype)
    expected = loss("similar", eps=1e-300).get_loss((a.astype(float), b.astype(float)))[0]
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    for size in sizes:
        x, y = a * dtype(size), b * dtype(size)
        if size > 1e-5:
            grads, values = loss("similar")((x, y))
            assert_same(values, np.array([expected]), rtol=rtol)
            assert all(np.isfinite(g).all() for g in grads)
            grads, value = loss("cosineloss")((x, y), [1])
            assert_same(value, 1 - expected, rtol=rtol, atol=rtol)
            assert all(np.isfinite(g).all() for g in grads)
        else:  # lengths below 1e-6 count less and less
            assert loss("cosineloss").get_loss((x, y), [1]) >= 1 - abs(expected)


def test_nan_beside_a_truth_of_zero_stays_visible() -> None:
    guesses = np.array([np.nan, -1.0])
    assert np.isnan(loss("kl").get_loss(guesses, np.array([0.0, 0.5])))
    assert np.isnan(loss("kl", log_target=True).get_loss(guesses, np.array([-np.inf, -1.0])))
    assert np.isfinite(loss("kl").get_loss(np.array([-np.inf, -1.0]), np.array([0.0, 0.5])))


def test_slopes_of_what_is_repeated_are_added_in_float32() -> None:
    n = 1_000_000
    grads = loss("margin", 1.0).get_grad((np.zeros((1, 1), np.float16), np.full((n, 1), -0.5, np.float16)), [[-1.0]])
    assert grads[0].dtype == np.float16
    assert grads[0].item() == pytest.approx(1.0, abs=1e-3)
    out = (np.empty((1, 1)), np.empty((3, 1)))
    got = loss("margin", 1.0).get_grad((np.zeros((1, 1)), np.zeros((3, 1))), [[-1.0]], out=out)
    assert got is out
    assert_same(out, (np.array([[1.0]]), np.full((3, 1), -1 / 3)))


def test_a_class_of_weight_zero_may_be_impossible() -> None:
    assert loss("nll", [0.0, 1.0]).get_loss(np.array([[-np.inf, 0.0], [-1.0, -0.5]]), [0, 1]) == 0.5


def test_values_of_a_calculator_per_token(rng: Any) -> None:
    x = rng.normal(size=(4, 3))
    assert_same(loss("ce", per_token=True).get_values(x, [0, 1, 2, 0]), loss("ce").get_values(x, [0, 1, 2, 0]))


def test_ctc_targets_in_uneven_lists_and_behind_each_other_with_a_mask(rng: Any) -> None:
    x = rng.normal(size=(6, 3, 5))
    x -= np.log(np.exp(x).sum(axis=2, keepdims=True))
    frames, lengths = [6, 5, 6], [2, 1, 3]
    padded = (np.array([[1, 2, 9], [3, 9, 9], [4, 1, 2]]), frames, lengths)
    expected = loss("ctc", reduction="none")(x, padded)
    for targets in ([[1, 2], [3], [4, 1, 2]], [1, 2, 3, 4, 1, 2], np.array([1, 2, 3, 4, 1, 2])):
        assert_same(loss("ctc", reduction="none")(x, (targets, frames, lengths)), expected)
        masked = loss("ctc", reduction="sum").get_loss(x, (targets, frames, lengths), mask=[1, 0, 1])
        assert_same(masked, expected[1][[0, 2]].sum(), rtol=1e-14)
    assert functional.ctc(x, [[1, 2], [3], [4, 1, 2]], frames, lengths, reduction="sum") == pytest.approx(
        expected[1].sum()
    )
    assert loss("ctc")(np.zeros((5, 0, 3)), ([], [], []))[1] == 0.0


# Registering, options and configs


def test_help_of_a_calculator_without_a_short_name() -> None:
    row = lossreg.help("InfoNCE.v1")
    assert (row["alias"], row["name"], row["inputs"]) == ("", "InfoNCE.v1", ("queries", "keys"))


@pytest.mark.parametrize("alias", ["mse", "options", "help"])
def test_a_taken_alias_is_refused(alias: str) -> None:
    class Mine(lossreg.Huber):
        """Mine."""

    with pytest.raises(ConfigError, match=f"{alias}: this alias is taken"):
        register("Mine.test", alias=alias)(Mine)
    with pytest.raises(ConfigError, match="only a reduced loss can be a function"):
        register("L2.test", alias="l2test")(lossreg.L2Distance)
    assert "Mine.test" not in registry.losses
    assert "L2.test" not in registry.losses


def test_a_new_default_keeps_its_place_and_is_checked() -> None:
    class Fast(lossreg.Huber):
        """Another default of a common option."""

        validate = "shape"

    assert list(Fast().options(all=True)) == ["delta", "reduction", "normalize_by", "validate"]
    assert Fast().validate == "shape"

    class Wrong(lossreg.Huber):
        """A default that no option may have."""

        delta = -3.0

    with pytest.raises(ConfigError, match=r"delta: should be greater than 0, got -3\.0"):
        Wrong()
    with pytest.raises(ConfigError, match="p: should be 1 and no bool, got True"):
        loss("multimargin", True)


def test_nested_models_are_strict_too() -> None:
    from dataclasses import dataclass

    import catalogue

    @dataclass
    class Inner:
        x: int
        y: float

    def nest(inner: Inner, table: dict[str, int]) -> Any:
        return inner, table

    nest.__annotations__ = {"inner": Inner, "table": dict[str, int]}
    registry.losses("Nest.test", nest)
    try:
        made = registry.resolve({"l": {"@losses": "Nest.test", "inner": {"x": 3, "y": 1}, "table": {"a": 1}}})
        assert made["l"] == (Inner(3, 1.0), {"a": 1})
        for wrong in ({"x": "3", "y": 1.0}, {"x": 3, "y": True}):
            with pytest.raises(ConfigError, match=r"l\.inner"):
                registry.resolve({"l": {"@losses": "Nest.test", "inner": wrong, "table": {}}})
        with pytest.raises(ConfigError, match=r"l\.table"):
            registry.resolve({"l": {"@losses": "Nest.test", "inner": {"x": 3, "y": 1}, "table": {1: 1}}})
    finally:
        del catalogue.REGISTRY["lossreg", "losses", "Nest.test"]


def test_blocks_anywhere_in_lists() -> None:
    huber = {"@losses": "Huber.v1", "delta": 2}
    config = {"l": [[huber], {"deep": {"er": huber}}, {"@type": "data"}, 3]}
    made = registry.resolve(config)["l"]
    assert made == [
        [lossreg.Huber(delta=2)],
        {"deep": {"er": lossreg.Huber(delta=2)}},
        {"@type": "data"},
        3,
    ]
    with pytest.raises(ConfigError, match=r"l\.0\.0\.delta: should be greater than 0"):
        registry.resolve({"l": [[{"@losses": "Huber.v1", "delta": -2}]]})


def test_dollar_signs_outside_strings_are_left_alone() -> None:
    config = Config().from_str('[a]\nb = "x"\nv = ${a.b}$$\n', interpolate=False)
    assert Config().from_str(config.to_str())["a"]["v"] == "x$"
    for data in ({"a": {"$$k": 1}}, {"a$$": {"k": 1}}, {"a": {"k": "$$", "l": ["$", "$$ = $"]}}):
        assert Config().from_str(Config(data).to_str()) == data


@pytest.mark.parametrize("wrong", [[[1, 2], [3]], ["a"], [1j], [None, 1.0]])
def test_functions_say_what_is_no_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected numbers or even lists of them, got a list of"):
        functional.mse(wrong, [1.0, 2.0])
