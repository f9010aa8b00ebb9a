"""The samples of the k api's page on loss modules, in its order, with its numbers; and the page that compares the two.

q prints 7 digits: `printed` compares with that text. What a test cannot have from the page, random weights, is its own.
"""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import ConfigError, CrossEntropy, functional, loss, options
from lossreg.config.options import Configurable
from lossreg.config.resolve import ALIASES
from lossreg.synonyms import OPTIONS_OF_K
from support.k_names import NAMES
from support.nested import assert_same
from support.pages import read_blocks

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-k.md"


NO_OPTION = (None, ())
"""What stands for the default by position."""


def printed(value: Any, text: str, digits: int = 7) -> None:
    """Raise unless numbers, printed as q prints them, are those of a text."""
    numbers = np.asarray(value, np.float64).ravel()
    assert " ".join(f"{number:.{digits}g}" for number in numbers) == " ".join(text.split())


def reals(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Help


def test_the_modules() -> None:
    assert set(NAMES) <= set(ALIASES)
    assert {*NAMES, "bcelogit1", "bcelogit2"} <= set(dir(functional))


@pytest.mark.parametrize("arguments", [(), ("loss",)])
def test_help_of_all(arguments: Any) -> None:
    rows = {row["alias"]: row for row in lossreg.help(*arguments)}
    assert set(NAMES) <= set(rows)
    classes = {"bce": "BCELoss", "bcelogits": "BCEWithLogitsLoss", "ce": "CrossEntropyLoss"}
    classes |= {"cosineloss": "CosineEmbeddingLoss", "ctc": "CTCLoss"}
    for name, cls in classes.items():
        assert rows[name]["torch"] == f"torch.nn.{cls}"
    assert [rows[name]["n"] for name in classes] == [2, 2, 2, 3, 4]


def test_help_of_one() -> None:
    row = lossreg.help("ce")
    assert (row["alias"], row["torch"], row["result"], row["n"]) == ("ce", "torch.nn.CrossEntropyLoss", "loss", 2)
    assert len(row["inputs"]) == 2
    assert row["options"] == options("ce")


@pytest.mark.parametrize(
    "name, inputs, result",
    [("Accuracy.v1", ("labels", "[logits]", "[pred_labels]", "[mask]"), "metric"), ("linear.v1", ("step",), "number"), ("Term.v1", ("context",), "loss"),
     ("MindFormersCrossEntropy.v1", ("logits", "label"), "loss")],
)  # fmt: skip
def test_help_of_what_is_no_plain_calculator(name: str, inputs: Any, result: str) -> None:
    row = lossreg.help(name)
    assert (row["name"], row["inputs"], row["result"]) == (name, inputs, result)


def test_a_metric_is_no_loss() -> None:
    with pytest.raises(
        TypeError, match=r"Accuracy.v1 is no calculator of a loss: call it as Accuracy\(\)\(labels=...\)"
    ):
        lossreg.loss(lossreg.metrics.Accuracy(), reals(1, 2), reals(0, 1))
    with pytest.raises(ConfigError, match=r"'Accuracy.v1': it is one of registry.metrics"):
        lossreg.loss("Accuracy.v1")


def test_options_of_a_name() -> None:
    first = list(options("ce").items())[:4]
    assert first == [("class_weight", None), ("ignore_index", -100), ("label_smoothing", 0.0), ("reduction", "mean")]


# Options


def test_reduce() -> None:
    x, y = reals(1, 2, 3), reals(0, 2, 4)
    for reduction, expected in (("none", "1 0 1"), ("sum", "2"), ("mean", "0.6666667")):
        printed(loss(loss("mse", reduction), x, y), expected)


def test_all_but_the_distances_reduce() -> None:
    distances = [row["alias"] for row in lossreg.help("loss") if row["result"] == "values"]
    assert distances == ["pairwise", "similar"]
    assert list(options("pairwise").items())[:3] == [("p", 2.0), ("eps", 1e-06), ("keepdims", False)]
    assert list(options("similar").items())[:2] == [("axis", 1), ("eps", 1e-08)]


def test_positional_options() -> None:
    module = loss("ce", [0.25, 0.25, 0.12, 0.38], -100, 0.1, "mean")
    assert module == CrossEntropy(class_weight=(0.25, 0.25, 0.12, 0.38), label_smoothing=0.1)
    expected = {"class_weight": (0.25, 0.25, 0.12, 0.38), "ignore_index": -100, "label_smoothing": 0.1}
    assert dict(list(options(module).items())[:4]) == {**expected, "reduction": "mean"}


def test_a_named_option() -> None:
    module = loss("ce", ("smoothing", 0.1))
    assert module == loss("ce", ["smoothing", 0.1]) == loss("ce", smoothing=0.1) == CrossEntropy(label_smoothing=0.1)
    assert list(options(module).values())[:4] == [None, -100, 0.1, "mean"]


NAMED = [
    {"smoothing": 0.1, "reduce": "none"},
    ["smoothing", 0.1, "reduce", "none"],
    [["smoothing", 0.1], ["reduce", "none"]],
    [("smoothing", 0.1), ("reduce", "none")],
    ("smoothing", 0.1, "reduce", "none"),
    (("smoothing", 0.1), ("reduce", "none")),
    {"label_smoothing": 0.1, "reduction": "none"},
    {"smoothing": 0.1, "reduce": "none", "weight": (), "ignore": None},
]


@pytest.mark.parametrize("named", NAMED, ids=str)
def test_named_options_in_a_dictionary_or_lists(named: Any) -> None:
    module = loss("ce", named)
    assert module == CrossEntropy(label_smoothing=0.1, reduction="none")
    logits, labels = [[2.0, 0.5], [0.0, 1.0]], [0, 1]
    assert_same(functional.ce(logits, labels, named), loss(module, logits, labels))


@pytest.mark.parametrize("named", [["reduce", "none"], {"reduce": "none"}, [("reduce", "none")], "none"], ids=str)
def test_mixed_options(named: Any) -> None:
    module = loss("ce", [0.0] + 4 * [5 / 4], named)
    assert list(options(module).values())[:4] == [(0, 1.25, 1.25, 1.25, 1.25), -100, 0.0, "none"]


# Options of a module


def test_retrieve_options() -> None:
    module = loss("ce", (), -100, 0.1, "none")
    everything = loss(module)
    assert everything == loss(module, True) == {"module": "ce", "options": module.options(all=True)}
    assert list(everything["options"].values())[:4] == [None, -100, 0.1, "none"]
    assert loss(module, False) == {"module": "ce", "options": {"label_smoothing": 0.1, "reduction": "none"}}
    assert loss(module, np.False_) == loss(module, False)


# Loss calculation


def test_gradient_descent() -> None:
    """x moves along the gradient with step 0.1 until the loss is small; the page prints the way."""
    module = loss("mse")
    x, y = reals(0.5, 2, 4), reals(1, 2, 3)
    history = []
    value = np.inf
    while value > 1e-6:
        before = loss(module, x, y)
        grad, value = module(x, y)
        assert value == before
        x = x - np.float32(0.1) * grad
        history.append((value, x))
    lines = [
        (0, 0.4166667, [0.5333334, 2, 3.933333]),
        (1, 0.362963, [0.5644445, 2, 3.871111]),
        (2, 0.3161811, [0.5934815, 2, 3.813037]),
        (-3, 1.278361e-06, [0.9991827, 2, 3.001635]),
        (-2, 1.113556e-06, [0.9992372, 2, 3.001526]),
        (-1, 9.70067e-07, [0.999288, 2, 3.001424]),
    ]
    for step, expected_loss, expected_x in lines:
        assert_same(history[step][0], expected_loss, rtol=2e-4 if step < 0 else 1e-6)
        assert_same(history[step][1], np.array(expected_x), rtol=2e-7)
    first_below = next(i for i, (value, _) in enumerate(history) if value < 0.1)
    assert_same(history[first_below - 1][0], 0.1048393, rtol=1e-5)
    assert_same(history[first_below - 1][1], np.array([0.7659145, 2, 3.468171]), rtol=1e-6)
    assert_same(history[first_below][0], 0.09132666, rtol=1e-5)
    assert_same(history[first_below][1], np.array([0.7815202, 2, 3.43696]), rtol=1e-6)


# Functional form


def test_functions_of_arrays() -> None:
    x, y = reals(0.5, 2, 5), reals(1, 2, 3)
    printed(functional.mse(x, y), "1.416667")
    printed(functional.mse(x, y, "none"), "0.25 0 4")


def test_functions_of_lists() -> None:
    printed(functional.mse([1, 3, 6, 9.0], [1, 2, 4, 8.0]), "1.5")
    printed(functional.mse([1, 3, 6, 9.0], [1, 2, 4, 8.0], "none"), "0 1 4 1")


# Losses with 3 or 4 tensors


def test_which_losses_take_more_than_two() -> None:
    rows = {row["alias"]: row["inputs"] for row in lossreg.help("loss") if row["alias"] in NAMES}
    others = {name: inputs for name, inputs in rows.items() if len(inputs) != 2}
    assert set(others) == {"bce", "bcelogits", "cosineloss", "ctc", "margin", "triplet"}
    assert [len(others[name]) for name in ("bce", "ctc", "margin")] == [3, 4, 3]


@pytest.mark.parametrize("name", ["cosineloss", "margin", "triplet"])
def test_three_inputs(name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    inputs = [rng.normal(size=(4, 3)) for _ in range(3)]
    if name == "margin":
        inputs = [x[:, 0] for x in inputs]
    if name != "triplet":
        inputs[2] = np.array([1.0, -1, 1, -1])
    module = getattr(torch.nn, lossreg.help(name)["torch"].removeprefix("torch.nn."))()
    expected = module(*map(torch.tensor, inputs)).item()
    assert loss(loss(name), *inputs) == pytest.approx(expected, rel=1e-12)
    assert getattr(functional, name)(*inputs) == pytest.approx(expected, rel=1e-12)


def test_four_inputs(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    output = np.log(rng.dirichlet(np.ones(4), (6, 2)))
    rest = np.array([[1, 2], [3, 1]]), np.array([6, 5]), np.array([2, 1])
    expected = torch.nn.CTCLoss()(torch.tensor(output), *map(torch.tensor, rest)).item()
    assert loss(loss("ctc"), output, *rest) == pytest.approx(expected, rel=1e-12)
    assert functional.ctc(output, *rest) == pytest.approx(expected, rel=1e-12)


# Binary cross entropy


def test_bce() -> None:
    """The third target of the page is 2, which is no probability: an error, unless ranges are not checked."""
    module = loss("bce", "none")
    a, b, w = reals(0.1, 0.9, 0.5), reals(0, 1, 2), [1, 1.1, 0.5]
    with pytest.raises(ValueError, match=r"expected truth values in \[0, 1\], got 2.0 in row 2"):
        loss(module, a, b)
    unchecked = loss("bce", "none", validate="shape")
    for found, targets in ((unchecked, b), (module, reals(0, 1, 1))):
        printed(loss(found, a, targets), "0.1053605 0.1053605 0.6931472")
        printed(loss(found, a, targets, w), "0.1053605 0.1158966 0.3465736")
        printed(loss(found, a, targets, sample_weight=w), "0.1053605 0.1158966 0.3465736")
    printed(functional.bce([0.1, 0.9, 0.5], [0, 1, 2], w, "none", validate="shape"), "0.1053605 0.1158966 0.3465736")
    for no_weight in NO_OPTION:
        printed(loss(module, a, [0, 1, 1], no_weight), "0.1053605 0.1053605 0.6931472")
        printed(functional.bce(a, [0, 1, 1], no_weight, "none"), "0.1053605 0.1053605 0.6931472")


X, Y = np.full((3, 5), 1.5, "float32"), np.ones((3, 5), "float32")
UNEVEN = [1, 0.1, 1.5, 2, 0.25]


def test_bcelogits_with_a_weight_per_class() -> None:
    first = {name: options("bcelogits")[name] for name in ("pos_weight", "reduction")}
    assert first == {"pos_weight": None, "reduction": "mean"}
    module = loss("bcelogits", [1.0] * 5, "none")
    assert (options(module)["pos_weight"], options(module)["reduction"]) == ((1.0,) * 5, "none")
    printed(loss(module, X, Y), "0.2014133 " * 15)
    for weight in NO_OPTION:
        assert loss("bcelogits", weight, "none") == loss("bcelogits", "none")
    assert loss("bcelogits", UNEVEN, "none") == loss("bcelogits", "none", ["weight", UNEVEN])
    module = loss("bcelogits", UNEVEN, "none")
    # The page's numbers are rounded to float32 after each step.
    assert_same(loss(module, X, Y), np.array([[0.2014133, 0.02014133, 0.30212, 0.4028267, 0.05035333]] * 3), rtol=1e-6)


def test_bcelogits_with_both_weights(rng: np.random.Generator) -> None:
    module = loss("bcelogits", UNEVEN, "none")
    alone = loss(module, X, Y)
    weight = rng.random((3, 5))
    assert_same(loss(module, X, Y, weight), alone * weight, rtol=1e-6)
    assert_same(functional.bcelogit2(X, Y, weight, UNEVEN, "none"), alone * weight, rtol=1e-6)
    # The page draws normal weights, of which some are negative.
    weight = rng.normal(size=(3, 5))
    with pytest.raises(ValueError, match="sample_weight of at least 0"):
        loss(module, X, Y, weight)
    assert_same(
        loss(loss("bcelogits", UNEVEN, "none", validate="shape"), X, Y, weight), alone * weight, rtol=1e-6, atol=1e-12
    )


CLASSES = [0.25, 0.5, 1, 2, 4]
LINE = "0.05035 0.1007 0.2014 0.4028 0.8057 "


def test_bcelogit1() -> None:
    printed(functional.bcelogit1(X, Y, "none"), "0.2014 " * 15, digits=4)
    for call in (
        functional.bcelogit1(X, Y, CLASSES, "none"),
        functional.bcelogit1(X, Y, CLASSES, ["reduce", "none"]),
        functional.bcelogit1(X, Y, "none", {"weight": CLASSES}),
        functional.bcelogit1(X, Y, weight=CLASSES, reduce="none"),
        functional.bcelogits(X, Y, (), CLASSES, "none"),
    ):
        printed(call, LINE * 3, digits=4)
    assert functional.bcelogit1(X, Y, CLASSES) == pytest.approx(0.3121906, rel=1e-6)  # mean of the classes
    for no_weight in NO_OPTION:
        printed(functional.bcelogit1(X, Y, no_weight, "none"), "0.2014 " * 15, digits=4)


def test_bcelogit2() -> None:
    w = np.broadcast_to([[0.1], [1], [2]], (3, 5))
    expected = "0.005035 0.01007 0.02014 0.04028 0.08057 " + LINE + "0.1007 0.2014 0.4028 0.8057 1.611"
    for weight in (w, w.tolist(), [[0.1], [1], [2]]):
        printed(functional.bcelogit2(X, Y, weight, CLASSES, "none"), expected, digits=4)
    printed(functional.bcelogits(X, Y, w, CLASSES, "none"), expected, digits=4)
    for no_weight in NO_OPTION:
        printed(functional.bcelogit2(X, Y, no_weight, CLASSES, "none"), LINE * 3, digits=4)
    assert_same(functional.bcelogit2(X, Y, "none"), functional.bcelogit1(X, Y, "none"))
    assert_same(functional.bcelogit2(X, Y, ["reduce", "none"]), functional.bcelogit1(X, Y, "none"))


def test_functions_of_logits_have_gradients() -> None:
    w = np.broadcast_to([[0.1], [1], [2]], (3, 5))
    for function, inputs in ((functional.bcelogit1, (X, Y)), (functional.bcelogit2, (X, Y, w))):
        value, grad = function.loss_and_grad(*inputs, CLASSES)
        weight = w if len(inputs) == 3 else None
        expected_grad, expected = loss("bcelogits", CLASSES)(X, Y, sample_weight=weight)
        assert value == function(*inputs, CLASSES) == expected
        assert_same(grad, expected_grad)
        assert_same(function.grad(*inputs, CLASSES), expected_grad)
    assert repr(functional.bcelogit2) == "<function bcelogit2 of BinaryCrossEntropyWithLogits.v1>"
    assert (functional.bcelogit1.__doc__ or "").startswith("bcelogit1(guesses, truths, pos_weight, ")
    assert (functional.bcelogit2.__doc__ or "").startswith("bcelogit2(guesses, truths, [weight], pos_weight, ")
    with pytest.raises(TypeError, match=r"bcelogit1\(\) takes 2 inputs \(guesses, truths\), got 1"):
        functional.bcelogit1(X)
    with pytest.raises(ConfigError, match="bcelogit1: this alias is taken"):
        lossreg.register("Other.v1", alias="bcelogit1")(CrossEntropy)


# The page that compares the two


def rows(header: str) -> list[Any]:
    """(line, cells) of the table with a header."""
    lines = PAGE.read_text("utf-8").splitlines()
    first = lines.index(f"| {header} |") + 2
    found = []
    for number in range(first, len(lines)):
        if not lines[number].startswith("|"):
            break
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[number])[1:-1]]
        found.append(pytest.param(number, cells, id=cells[0].strip("`")))
    return found


def code(cell: str) -> str:
    match = re.fullmatch("`([^`]+)`", cell)
    assert match, f"{cell} is no code"
    return match[1]


@pytest.fixture(scope="module")
def at_line() -> Any:
    """The names of the page as they are in a line."""
    modules: dict[tuple[int, ...], types.ModuleType] = {}

    def names(number: int) -> dict[str, Any]:
        blocks = [block for block in read_blocks(PAGE) if block.line < number]
        key = tuple(block.line for block in blocks)
        if key not in modules:
            modules[key] = types.ModuleType("page")
            for block in blocks:
                block.run(PAGE.name, modules[key])
        return modules[key].__dict__

    return names


@pytest.mark.parametrize("number, cells", rows("task | q | lossreg | gives"))
def test_each_line_gives_what_the_page_says(number: int, cells: list[str], at_line: Any) -> None:
    names = at_line(number)
    value, expected = eval(code(cells[2]), names), eval(code(cells[3]), names)
    if isinstance(value, (Configurable, bool, str, dict)):
        assert value == expected
        assert type(value) is type(expected)
    elif any(isinstance(part, (str, tuple, type(None))) for part in np.ravel(np.array(expected, object))):
        assert value == expected
    else:
        assert_same(value, np.asarray(expected), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("number, cells", rows("q | here | lossreg"))
def test_each_line_of_differences_runs(number: int, cells: list[str], at_line: Any) -> None:
    eval(code(cells[2]), at_line(number))


@pytest.mark.parametrize("number, cells", rows("module | lossreg | inputs | options by position"))
def test_each_module_has_the_options_of_the_page(number: int, cells: list[str]) -> None:
    alias, name = code(cells[0]), code(cells[1])
    row = lossreg.help(alias)
    assert row["name"] == name
    assert ", ".join(f"`{part}`" for part in row["inputs"]) == cells[2]
    pairs = [tuple(map(code, part.split(" → "))) for part in cells[3].split(", ")]
    own = [pair[-1] for pair in pairs]
    order = list(options(alias))
    # As in q, a reduction may follow the options of the page, whatever else a calculator has in between.
    assert [option for option in order if option in own] == own
    assert order[: len(own) - 1] == own[:-1]
    values = {**options(alias), "reduction": "sum", "class_weight": [1.0, 2.0], "pos_weight": [1.0, 2.0]}
    values |= {option: value / 2 for option, value in values.items() if isinstance(value, float)}
    arguments = [values[option] for option in own]
    made = loss(alias, *arguments)
    assert made == loss(alias, {pair[0]: values[pair[-1]] for pair in pairs})
    assert made == registry_class(name)(**{option: values[option] for option in own})


def registry_class(name: str) -> Any:
    return lossreg.registry.losses.get(name)


def test_the_page_lists_all_modules_and_names() -> None:
    listed = [parameter.values[1] for parameter in rows("module | lossreg | inputs | options by position")]
    assert [code(cells[0]) for cells in listed] == NAMES
    text = " ".join(cells[3] for cells in listed)
    for name, options_of_name in OPTIONS_OF_K.items():
        assert any(f"`{name}` → `{option}`" in text for option in options_of_name)


def test_other_names_are_for_python_alone() -> None:
    with pytest.raises(ConfigError, match="smoothing"):
        lossreg.registry.resolve({"loss": {"@losses": "CrossEntropy.v1", "smoothing": 0.1}})
    with pytest.raises(ConfigError, match="did you mean 'label_smoothing'"):
        CrossEntropy(smoothing=0.1)  # type: ignore[call-arg]
