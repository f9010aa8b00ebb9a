"""Calculators by name and as functions; and the examples of the k api's page of loss modules, each with its result."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from support import assert_same, each
from table import TRUE_ROWS, Row

import lossreg
from lossreg import ConfigError, functional, registry
from lossreg.config import ALIASES

K_NAMES = [
    "bce",
    "bcelogits",
    "ce",
    "cosineloss",
    "ctc",
    "hinge",
    "huber",
    "kl",
    "l1",
    "margin",
    "mse",
    "multilabel",
    "multimargin",
    "multisoft",
    "nll",
    "pairwise",
    "poissonloss",
    "similar",
    "smoothl1",
    "softmargin",
    "triplet",
]


def test_the_k_names_are_all_there() -> None:
    assert set(K_NAMES) <= set(ALIASES)
    assert set(ALIASES) <= set(dir(functional))


# Examples of the page, in its order


def test_k_reduce() -> None:
    for reduction, expected in (("none", [1, 0, 1]), ("sum", 2), ("mean", 0.6666667)):
        calculator = lossreg.loss("mse", reduction)
        assert_same(calculator.get_loss(np.array([1, 2, 3], "f"), np.array([0, 2, 4], "f")), expected, rtol=1e-7)


def test_k_help_and_options() -> None:
    row = lossreg.help("ce")
    assert (row["alias"], row["torch"], row["n"]) == ("ce", "torch.nn.CrossEntropyLoss", 2)
    expected = {"class_weight": None, "ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"}
    assert dict(list(lossreg.options("ce").items())[:4]) == expected
    assert row["options"] == lossreg.options("ce")
    values = [row["alias"] for row in lossreg.help() if row["result"] == "values"]
    assert values == ["pairwise", "similar"]


@pytest.mark.parametrize(
    "positional, named, expected",
    [
        (
            ([0.25, 0.25, 0.12, 0.38], -100, 0.1, "mean"),
            {},
            dict(class_weight=(0.25, 0.25, 0.12, 0.38), label_smoothing=0.1),
        ),
        ((), dict(label_smoothing=0.1), dict(label_smoothing=0.1)),
        ((), dict(label_smoothing=0.1, reduction="none"), dict(label_smoothing=0.1, reduction="none")),
        (
            ([0.0, 1.25, 1.25, 1.25, 1.25],),
            dict(reduction="none"),
            dict(class_weight=(0.0, 1.25, 1.25, 1.25, 1.25), reduction="none"),
        ),
        ((None, -100, 0.1, "none"), {}, dict(label_smoothing=0.1, reduction="none")),
        ((None, -100, 0.1), {}, dict(label_smoothing=0.1)),
    ],
)
def test_k_positional_named_and_mixed_options(positional: Any, named: Any, expected: Any) -> None:
    calculator = lossreg.loss("ce", *positional, **named)
    assert calculator == lossreg.CrossEntropy(**expected)
    assert calculator.options() == expected
    assert {**lossreg.options("ce"), **expected} == calculator.options(all=True)


def test_k_gradient_descent() -> None:
    """x moves along the gradient with step 0.1 until the loss is small; the page prints the way."""
    calculator = lossreg.loss("mse")
    x, y = np.array([0.5, 2, 4], "f"), np.array([1, 2, 3], "f")
    history = []
    loss = np.inf
    while loss > 1e-6:
        grad, loss = calculator(x, y)
        x = x - np.float32(0.1) * grad
        history.append((loss, x))
    printed = [
        (0, 0.4166667, [0.5333334, 2, 3.933333]),
        (1, 0.362963, [0.5644445, 2, 3.871111]),
        (2, 0.3161811, [0.5934815, 2, 3.813037]),
        (-3, 1.278361e-06, [0.9991827, 2, 3.001635]),
        (-2, 1.113556e-06, [0.9992372, 2, 3.001526]),
        (-1, 9.70067e-07, [0.999288, 2, 3.001424]),
    ]
    for step, expected_loss, expected_x in printed:
        assert_same(history[step][0], expected_loss, rtol=2e-4 if step < 0 else 1e-6)
        assert_same(history[step][1], np.array(expected_x), rtol=2e-7)
    first_below = next(i for i, (loss, _) in enumerate(history) if loss < 0.1)
    assert_same(history[first_below - 1][0], 0.1048393, rtol=1e-5)
    assert_same(history[first_below][0], 0.09132666, rtol=1e-5)
    assert_same(history[first_below][1], np.array([0.7815202, 2, 3.43696]), rtol=1e-6)


def test_k_functions_of_arrays_and_lists() -> None:
    x, y = np.array([0.5, 2, 5], "f"), np.array([1, 2, 3], "f")
    assert functional.mse(x, y) == pytest.approx(1.416667)
    assert_same(functional.mse(x, y, "none"), np.array([0.25, 0, 4]))
    assert functional.mse([1, 3, 6, 9.0], [1, 2, 4, 8.0]) == 1.5
    assert_same(functional.mse([1, 3, 6, 9.0], [1, 2, 4, 8.0], "none"), np.array([0.0, 1, 4, 1]))


def test_k_numbers_of_inputs() -> None:
    three = {
        row["alias"]: row["inputs"] for row in lossreg.help() if len(row["inputs"]) != 2 or "[weight]" in row["inputs"]
    }
    assert set(three) == {"abs", "bce", "bcelogits", "cosineloss", "ctc", "linearce", "margin", "triplet", "value"}
    assert len(three["ctc"]) == 4


def test_k_binary_cross_entropy_with_batch_weights() -> None:
    """The page's third truth is 2, which is no probability: here it is an error. 1 gives the same third value."""
    guesses = np.array([0.1, 0.9, 0.5], "f")
    with pytest.raises(ValueError, match=r"expected truth values in \[0, 1\], got 2 in row 2"):
        functional.bce(guesses, [0, 1, 2], "none")
    assert_same(functional.bce(guesses, [0, 1, 1], "none"), np.array([0.1053605, 0.1053605, 0.6931472]), rtol=1e-6)
    weights = [1, 1.1, 0.5]
    expected = np.array([0.1053605, 0.1158966, 0.3465736])
    assert_same(
        lossreg.loss("bce", "none").get_loss(guesses, np.array([0, 1, 1]), sample_weight=weights), expected, rtol=1e-6
    )
    assert_same(functional.bce([0.1, 0.9, 0.5], [0, 1, 1], weights, "none"), expected, rtol=1e-6)


def test_k_logits_with_class_and_batch_weights() -> None:
    guesses, truths = np.full((3, 5), 1.5, "f"), np.ones((3, 5))
    assert_same(
        lossreg.loss("bcelogits", [1.0] * 5, None, "none").get_loss(guesses, truths),
        np.full((3, 5), 0.2014133),
        rtol=1e-6,
    )
    uneven = lossreg.loss("bcelogits", [1, 0.1, 1.5, 2, 0.25], reduction="none")
    expected = np.array([[0.2014133, 0.02014133, 0.30212, 0.4028267, 0.05035333]] * 3)
    assert_same(uneven.get_loss(guesses, truths), expected, rtol=1e-6)
    weight = np.array([[0.1], [1], [2]]) * np.ones(5)
    assert_same(uneven.get_loss(guesses, truths, sample_weight=weight), expected * weight, rtol=1e-6)
    with pytest.raises(ValueError, match="sample_weight of at least 0"):  # the page draws normal ones
        uneven.get_loss(guesses, truths, sample_weight=-weight)
    assert_same(functional.bcelogits(guesses, truths, reduction="none"), np.full((3, 5), 0.2014133), rtol=1e-6)
    classes = [0.25, 0.5, 1, 2, 4]
    expected = np.array([[0.05035, 0.1007, 0.2014, 0.4028, 0.8057]] * 3)
    assert_same(functional.bcelogits(guesses, truths, None, classes, None, "none"), expected, rtol=1e-3)
    assert_same(functional.bcelogits(guesses, truths, reduction="none", pos_weight=classes), expected, rtol=1e-3)
    both = functional.bcelogits(guesses, truths, weight, classes, reduction="none")
    printed = [[0.005035, 0.01007, 0.02014, 0.04028, 0.08057], [0.05035, 0.1007, 0.2014, 0.4028, 0.8057],
               [0.1007, 0.2014, 0.4028, 0.8057, 1.611]]  # fmt: skip
    assert_same(both, np.array(printed), rtol=1e-3)


# Beyond the page


@pytest.mark.parametrize("row", [row for row in TRUE_ROWS if row.name in ALIASES.values()], ids=lambda row: row.id)
def test_functions_are_the_calculators(row: Row, rng: Any) -> None:
    function = getattr(functional, next(alias for alias, name in ALIASES.items() if name == row.name))
    guesses, truths = row.sample(rng, 6)
    inputs = guesses if isinstance(guesses, tuple) else (guesses,)
    rest = truths if isinstance(truths, tuple) else () if truths is None else (truths,)
    calculator = row.make()
    grad, value = calculator(guesses, truths)
    assert_same(function(*inputs, *rest, **row.options), value)
    assert_same(function.grad(*inputs, *rest, **row.options), grad)
    assert_same(function.loss_and_grad(*inputs, *rest, **row.options), (value, grad))
    lists = each(lambda x: x.tolist(), tuple(inputs))
    assert_same(function(*lists, *rest, **row.options), value, rtol=1e-14)


def test_calls_with_masks_and_out() -> None:
    x, out = np.array([1.0, 5.0]), np.empty(2)
    assert functional.mse.grad(x, [0.0, 0.0], mask=[1, 0], out=out) is out
    assert_same(out, np.array([2.0, 0.0]))
    assert functional.mse(3.0, 1.0) == 4.0
    assert functional.ce([[0.0, 0.0], [0.0, 0.0]], [0, 1], sample_weight=[1, 3], reduction="sum") == pytest.approx(
        4 * np.log(2)
    )
    assert_same(functional.mse([np.array([1.0]), np.array([2.0, 3.0])], [[0.0], [0.0, 0.0]]), 14 / 3)


def test_every_row_names_what_torch_has() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for row in lossreg.help():
        assert bool(row["torch"]) == (row["alias"] in [*K_NAMES, "linearce"]), row
        if row["torch"] and (row["alias"] != "linearce" or hasattr(torch.nn, "LinearCrossEntropyLoss")):  # it is new
            assert callable(attrgetter(row["torch"].removeprefix("torch."))(torch)), row


def test_the_table_prints_in_a_terminal_and_in_a_notebook() -> None:
    table = lossreg.help()
    lines = str(table).splitlines()
    assert len(lines) == len(table) + 2 >= 23
    assert lines[0].split()[:3] == ["alias", "name", "torch"]
    assert {line.find("torch.nn") for line in lines[2:]} <= {lines[0].index("torch"), -1}
    markup = table._repr_html_()
    assert markup.count("<tr>") == len(table) + 1
    assert "<th>alias</th>" in markup
    assert "reduction=&#x27;mean&#x27;" in markup
    assert str(type(table)()) == ""


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no calculator is named 'hubr'; did you mean 'huber'"):
        lossreg.loss("hubr")
    with pytest.raises(ConfigError, match="no calculator is named 3"):
        lossreg.help(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Cannot make Huber: expected at most 4 options .*, got 5"):
        lossreg.loss("huber", 1.0, "mean", "mask", "auto", 5)
    with pytest.raises(ConfigError, match="Cannot make Huber: delta: given by position and by name"):
        lossreg.loss("huber", 1.0, delta=2.0)
    with pytest.raises(ConfigError, match=r"Cannot make Huber: dleta: unknown option; did you mean 'delta'"):
        lossreg.loss("huber", dleta=2.0)
    with pytest.raises(ConfigError, match="Cannot make Huber: delta: should be greater than 0, got -1"):
        functional.huber([1.0], [2.0], -1)
    with pytest.raises(TypeError, match=r"triplet\(\) takes 3 inputs \(anchor, positive, negative\), got 2"):
        functional.triplet([1.0], [2.0])
    with pytest.raises(TypeError, match=r"bce\(\) got weights as an input and as sample_weight"):
        functional.bce([0.5], [1.0], [1.0], sample_weight=[1.0])
    with pytest.raises(AttributeError, match="has no function 'hubr'; did you mean 'huber'"):
        functional.hubr


@pytest.mark.parametrize(
    "name, first",
    [
        ("CategoricalCrossentropy.v3", "normalize names missing_value neg_prefix label_smoothing"),
        ("SequenceCategoricalCrossentropy.v1", "normalize names missing_value neg_prefix label_smoothing"),
        ("L2Distance.v1", "normalize"),
        ("CosineDistance.v1", "normalize ignore_zeros"),
        ("CategoricalCrossentropy.v4", "names missing_value neg_prefix label_smoothing class_weight wrt reduction"),
        (
            "SequenceCategoricalCrossentropy.v4",
            "names missing_value neg_prefix label_smoothing class_weight wrt normalize_by_sequence reduction",
        ),
        ("bcelogits", "pos_weight class_weight reduction"),
        ("ce", "class_weight ignore_index label_smoothing reduction"),
        ("cosineloss", "margin reduction"),
        ("ctc", "blank zero_infinity reduction"),
        ("focal", "alpha gamma reduction"),
        ("hinge", "margin reduction"),
        ("huber", "delta reduction"),
        ("kl", "log_target reduction"),
        ("linearce", "class_weight ignore_index label_smoothing reduction"),
        ("multimargin", "p margin class_weight reduction"),
        ("multilabel", "reduction"),
        ("multisoft", "class_weight reduction"),
        ("nll", "class_weight ignore_index reduction"),
        ("pairwise", "p eps keepdims"),
        ("poissonloss", "log_input full eps reduction"),
        ("quantile", "quantile reduction"),
        ("similar", "axis eps"),
        ("smoothl1", "beta reduction"),
        ("triplet", "margin p eps swap reduction"),
    ],
)
def test_positional_orders_are_those_of_the_catalogue(name: str, first: str) -> None:
    order = list(lossreg.options(name))
    assert order[: len(first.split())] == first.split()


def test_full_names_work_as_well() -> None:
    assert lossreg.loss("Huber.v1", 2.0) == lossreg.loss("huber", 2) == lossreg.Huber(delta=2.0)
    assert lossreg.options("Sequence.v1")["inner"] is ...  # it must be given
    assert lossreg.options("Huber.v1") == {
        "delta": 1.0,
        "reduction": "mean",
        "normalize_by": "mask",
        "validate": "auto",
    }
    assert lossreg.help("Huber.v1") == lossreg.help("huber")
    assert lossreg.loss("L2Distance.v1", False) == registry.losses.get("L2Distance.v1")(normalize=False)
    assert "delta" in (functional.huber.__doc__ or "")
    assert repr(functional.huber) == "<function huber of Huber.v1>"
