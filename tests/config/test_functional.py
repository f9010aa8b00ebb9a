"""Calculators by name and as functions, and the table of them. What the k api writes is in `test_k_api`."""

from __future__ import annotations

import dataclasses
import doctest
import functools
import os
import re
import shutil
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import catalogue
import numpy as np
import pytest

import lossreg
from lossreg import ConfigError, functional, registry
from lossreg.config.resolve import ALIASES
from support.k_names import NAMES
from support.nested import assert_same, each
from support.table import TRUE_ROWS, Row


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
        assert bool(row["torch"]) == (row["alias"] in [*NAMES, "linearce"]), row
        if row["torch"] and (row["alias"] != "linearce" or hasattr(torch.nn, "LinearCrossEntropyLoss")):  # it is new
            assert callable(attrgetter(row["torch"].removeprefix("torch."))(torch)), row


def test_the_table_prints_in_a_terminal_and_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
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
    assert type(table)()._repr_html_().count("<tr>") == 1


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 200])
def test_the_table_is_as_wide_as_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = lossreg.help()
    head, rule, *body = str(table).splitlines()
    assert max(map(len, (head, rule, *body))) <= width
    if width < 60:
        return
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    assert len(starts) == len(table[0])
    # The parts of a long cell are below each other, and none is lost.
    ends = [*starts[1:], None]
    columns = ["".join(line[start:end] for line in body).replace(" ", "") for start, end in zip(starts, ends)]
    assert columns[0] == "".join(row["alias"] for row in table)
    assert columns[1] == "".join(row["name"] for row in table)
    assert columns[2] == "".join(row["torch"] for row in table)
    assert columns[5] == "".join(",".join(row["inputs"]) for row in table)
    if width >= 120:
        assert any("label_smoothing=0.0," in line for line in body)  # in one piece


def test_a_table_in_a_file_is_120_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda fallback: os.terminal_size(fallback))
    assert 110 < max(map(len, str(lossreg.help()).splitlines())) <= 120


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no calculator is named 'hubr'; did you mean 'huber'"):
        lossreg.loss("hubr")
    with pytest.raises(ConfigError, match="expected a name, a class or an object, got 3"):
        lossreg.help(3)
    with pytest.raises(
        ConfigError, match=r"nothing is registered as 'crossentropy.v1'; did you mean 'CrossEntropy.v1'"
    ):
        lossreg.help("crossentropy.v1")
    with pytest.raises(ConfigError, match=r"Cannot make Sequence: inner: this option has no default and must be given"):
        lossreg.loss("Sequence.v1")
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
    assert lossreg.help(lossreg.Huber) == lossreg.help(lossreg.Huber(delta=2.0)) == lossreg.help("huber")
    assert "delta" in (functional.huber.__doc__ or "")
    assert repr(functional.huber) == "<function huber of Huber.v1>"


def test_inputs_by_name() -> None:
    assert functional.mse(guesses=[1.0], truths=[3.0]) == functional.mse([1.0], truths=[3.0]) == 4.0
    triplet = functional.triplet(anchor=[[0, 0]], positive=[[0.6, 0.8]], negative=[[3, 4]], margin=5.0)
    assert triplet == functional.triplet([[0, 0]], [[0.6, 0.8]], [[3, 4]], 5.0)
    inputs = {"targets": [[1]], "input_lengths": [1], "target_lengths": [1]}
    assert functional.ctc(guesses=np.log([[[0.5, 0.5]]]), **inputs) == pytest.approx(np.log(2))
    assert functional.mse.grad(guesses=[1.0], truths=[3.0]) == [-4.0]
    assert lossreg.loss(lossreg.MeanSquaredError(), guesses=[1.0], truths=[3.0]) == 4.0


def test_the_weight_of_elements_by_name() -> None:
    weighted = functional.bce([0.5], [1.0], [2.0])
    assert weighted == functional.bce([0.5], [1.0], weight=[2.0]) == functional.bce([0.5], [1.0], (), weight=[2.0])
    bcelogits = lossreg.BinaryCrossEntropyWithLogits()
    expected = functional.bcelogits([0.5], [1.0], [2.0])
    assert lossreg.loss(bcelogits, [0.5], [1.0], weight=[2.0]) == expected
    # Where the input is in its place, or there is none, `weight` is the option.
    for_classes = functional.bcelogits([0.5], [1.0], pos_weight=[3.0])
    assert functional.bcelogit1([0.5], [1.0], weight=[3.0]) == for_classes
    assert functional.bcelogit2([0.5], [1.0], [1.0], weight=[3.0]) == for_classes


def test_classes_and_functions_in_place_of_names() -> None:
    assert lossreg.loss(lossreg.CrossEntropy, (), -100, 0.1) == lossreg.loss("ce", ["smoothing", 0.1])
    assert lossreg.loss(functional.ce) == lossreg.CrossEntropy()
    assert lossreg.options(lossreg.CrossEntropy) == lossreg.options(functional.ce) == lossreg.options("ce")
    assert lossreg.help(functional.ce) == lossreg.help(lossreg.CrossEntropy) == lossreg.help("ce")


def test_options_of_all_that_is_registered() -> None:
    for registered in (registry.losses, registry.metrics, registry.schedules):
        for name in registered.names():
            assert lossreg.options(name) == lossreg.help(name)["options"]
    assert lossreg.options("linear.v1")["steps"] is ...
    assert lossreg.options(lossreg.kauldron.losses.L2)["preds"] is ...
    assert "loss=..., guesses=..., " in str(functional.Table([lossreg.help("Term.v1")]))


# Forms of options


@dataclasses.dataclass(frozen=True)
class Read:
    """What a call of `loss` means in plain Python: the class and its options."""

    call: tuple[Any, ...]
    expected: Any


NAMES_V4 = ["a", "b"]


@pytest.mark.parametrize(
    "read",
    [
        # A string is the reduction, wherever it stands.
        Read(("huber", "none", 0.5), lossreg.Huber(delta=0.5, reduction="none")),
        Read(("ce", [1, 2], "sum", 3, 0.1), lossreg.CrossEntropy(class_weight=[1, 2], reduction="sum", ignore_index=3, label_smoothing=0.1)),
        Read(("ctc", "sum", 1, True), lossreg.CTC(blank=1, zero_infinity=True, reduction="sum")),
        Read(("ctc", 0, False, "sum", "mask", "auto", "logits"), lossreg.CTC(reduction="sum", wrt="logits")),
        Read(("pairwise", 1.0, "mean"), lossreg.PairwiseDistance(p=1.0, reduction="mean")),
        Read(("Huber.v1", "batch_mean"), lossreg.Huber(reduction="batch_mean")),
        # But where the next option takes that string.
        Read(("CategoricalCrossentropy.v4", NAMES_V4, "?", "!"), lossreg.CategoricalCrossentropy_v4(names=NAMES_V4, missing_value="?", neg_prefix="!")),
        Read(("CategoricalCrossentropy.v4", NAMES_V4, None, None, 0.1, None, "none"), lossreg.CategoricalCrossentropy_v4(names=NAMES_V4, label_smoothing=0.1, reduction="none")),
        Read(("CategoricalCrossentropy.v4", NAMES_V4, None, None, 0.1, None, "probs", "none"), lossreg.CategoricalCrossentropy_v4(names=NAMES_V4, label_smoothing=0.1, wrt="probs", reduction="none")),
        Read(("CategoricalCrossentropy.v4", "none", NAMES_V4, "mean"), lossreg.CategoricalCrossentropy_v4(names=NAMES_V4, missing_value="mean", reduction="none")),
        Read(("CategoricalCrossentropy.v3", True, NAMES_V4, "none"), lossreg.CategoricalCrossentropy(names=NAMES_V4, missing_value="none")),
        Read(("ce", None, -100, 0.1, "mean", "mask", "auto", NAMES_V4, "?", "!"), lossreg.CrossEntropy(label_smoothing=0.1, names=NAMES_V4, missing_value="?", neg_prefix="!")),
        Read(("huber", 1.0, "mean", "values", "full"), lossreg.Huber(normalize_by="values", validate="full")),
        # Defaults.
        Read(("huber", None, "none"), lossreg.Huber(reduction="none")),
        Read(("huber", (), (), "values"), lossreg.Huber(normalize_by="values")),
        Read(("ce", [], None, None, None), lossreg.CrossEntropy()),
        Read(("mse", None, "sum"), lossreg.MeanSquaredError(reduction="sum")),
        Read(("focal", None, 3), lossreg.SigmoidFocal(gamma=3.0)),
        # By name.
        Read(("ce", [("smoothing", 0.1)], ("reduce", "sum")), lossreg.CrossEntropy(label_smoothing=0.1, reduction="sum")),
        Read(("ce", {}), lossreg.CrossEntropy()),
        Read(("similar", ["dim", 0, "eps", 1e-3]), lossreg.CosineSimilarity(axis=0, eps=1e-3)),
        Read(("pairwise", {"keepdim": True, "p": 1}), lossreg.PairwiseDistance(keepdims=True, p=1)),
        Read(("ctc", ["zeroinf", True]), lossreg.CTC(zero_infinity=True)),
        Read(("poissonloss", ["log", False]), lossreg.PoissonNLL(log_input=False)),
        Read(("CategoricalCrossentropy.v4", ["names", NAMES_V4]), lossreg.CategoricalCrossentropy_v4(names=NAMES_V4)),
        Read(("CategoricalCrossentropy.v4", ["eps", "p"]), lossreg.CategoricalCrossentropy_v4(names=["eps", "p"])),
    ],
    ids=lambda read: repr(read.call),
)  # fmt: skip
def test_forms_of_options(read: Read) -> None:
    assert lossreg.loss(*read.call) == read.expected


def test_dicts_and_lists_are_not_written_to() -> None:
    named, pairs, weights = {"reduce": "none"}, [["smoothing", 0.1]], [1.0, 2.0]
    assert lossreg.loss("ce", weights, pairs, named) == lossreg.CrossEntropy(
        class_weight=[1, 2], label_smoothing=0.1, reduction="none"
    )
    assert (named, pairs, weights) == ({"reduce": "none"}, [["smoothing", 0.1]], [1.0, 2.0])


@pytest.mark.parametrize(
    "call, message",
    [
        (("huber", "none", "sum"), "Huber: reduction: given twice, as 'none' and 'sum'"),
        (("huber", "none", {"reduce": "sum"}), "Huber: reduction: given by position and by name"),
        (("ce", {"weight": [1], "class_weight": [1]}), "CrossEntropy: class_weight: given twice by name"),
        (("huber", "maen"), "Huber: reduction: should be 'mean', .*, got 'maen'"),
        (("huber", 1.0, "mean", "maks"), "Huber: normalize_by: should be 'mask' or 'values', got 'maks'"),
        (("ce", ["smothing", 0.1]), "smothing: unknown option; did you mean 'smoothing'"),
        (("huber", {"dim": 1}), r"Huber: dim: unknown option.* \(known: delta, reduction, "),
        (("huber", {3: 1}), "Huber: 3: unknown option"),
        (
            ("ce", ["smoothing", 0.1, "reduce"]),
            r"CrossEntropy: a list of options is \[name, value, .*, got a list of 3",
        ),
        (("ce", [("smoothing", 0.1), 3]), r"a list of options is .*\(name, value\)\], got a list of 2"),
        (("ce", {"smoothing": 0.1}, "none"), "CrossEntropy: options by position come before those by name"),
        (
            ("CategoricalCrossentropy.v4", NAMES_V4, "none"),
            "missing_value: 'none' may be meant for this option or not; write missing_value='none' or reduction='none'",
        ),
        (
            ("CategoricalCrossentropy.v4", ["wrt", "probs"]),
            r"names: \['wrt', 'probs'\] may be meant for .*; write names=\['wrt', 'probs'\] or wrt='probs'",
        ),
    ],
    ids=repr,
)
def test_options_that_cannot_be_read(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lossreg.loss(*call)


def test_keywords_are_as_strict_as_the_class() -> None:
    """None means "no reduction" to users of other libraries."""
    with pytest.raises(ConfigError, match=r"reduction: should be 'mean', .*, got None"):
        lossreg.loss("mse", reduction=None)


# A calculator in place of the name


def test_definitions_make_equal_calculators() -> None:
    for calculator in (
        lossreg.Huber(delta=0.5),
        lossreg.CrossEntropy(names=["a", "b"], class_weight=[1, 2], reduction="sum"),
        lossreg.PairwiseDistance(p=1.0),
        lossreg.CategoricalCrossentropy(names=["names", "wrt"], neg_prefix="!"),
        lossreg.Sequence(lossreg.Huber(delta=0.5), reduction="sum"),
        lossreg.Term(lossreg.Huber(), guesses="a", truths="b", weight=0.5),
    ):
        for everything in (True, False):
            definition = lossreg.loss(calculator, everything)
            assert lossreg.loss(definition["module"], definition["options"]) == calculator
            assert lossreg.loss(definition["module"], **definition["options"]) == calculator
        assert lossreg.options(calculator) == definition["options"] | lossreg.options(calculator)


class Unregistered(lossreg.Huber):
    """A calculator of somebody's."""


def test_the_loss_of_a_calculator(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 4))
    mask, weight = [1, 0, 1, 1], [1.0, 2.0, 3.0, 0.5]
    huber = lossreg.Huber()
    assert lossreg.loss(huber, x, y, mask=mask, sample_weight=weight) == huber.get_loss(
        x, y, mask=mask, sample_weight=weight
    )
    pair = lossreg.CosineSimilarity()
    assert_same(
        lossreg.loss(pair, [[1.0, 2.0]], [[3.0, 1.0]]), pair.get_loss((np.array([[1.0, 2]]), np.array([[3.0, 1]])))
    )
    assert lossreg.loss(lossreg.AbsoluteValue(), [-1.0, 3.0]) == 2.0
    thinc = lossreg.CategoricalCrossentropy()
    probabilities = np.array([[0.2, 0.8], [0.5, 0.5]])
    assert lossreg.loss(thinc, probabilities, [0, 1]) == thinc.get_loss(probabilities, [0, 1])
    sequence = lossreg.Sequence(lossreg.TripletMargin())
    padded = [rng.normal(size=(2, 3, 4)) for _ in range(3)]
    assert lossreg.loss(sequence, *padded) == sequence.get_loss(tuple(padded))
    term = lossreg.Term(huber, guesses="a", truths="b")
    assert lossreg.loss(term, {"a": x, "b": y}) == huber.get_loss(x, y)
    assert lossreg.loss(Unregistered(), x, y) == huber.get_loss(x, y)
    assert lossreg.loss(Unregistered(delta=2.0), False) == {"module": "Unregistered", "options": {"delta": 2.0}}


def test_calls_of_a_calculator_that_cannot_be() -> None:
    mse = lossreg.loss("mse")
    with pytest.raises(TypeError, match=r"mse\(\) takes 2 inputs \(guesses, truths\), got 1"):
        lossreg.loss(mse, [1.0])
    with pytest.raises(
        TypeError, match=r"mse\(\) takes the inputs guesses, truths, and its options when .* 1 more: 'none'"
    ):
        lossreg.loss(mse, [1.0], [1.0], "none")
    with pytest.raises(TypeError, match=r"takes mask= and sample_weight= beside its inputs, got reduction="):
        lossreg.loss(mse, [1.0], [1.0], reduction="none")
    with pytest.raises(TypeError, match=r"bce\(\) got weights as an input and as sample_weight"):
        lossreg.loss(lossreg.loss("bce"), [0.5], [1.0], [1.0], sample_weight=[1.0])


# Everything that is registered


@pytest.mark.parametrize("name", registry.losses.names())
def test_everything_registered_has_a_row(name: str) -> None:
    row = lossreg.help(name)
    assert row["name"] in (name, ALIASES.get(row["alias"]))
    assert row["n"] == len([x for x in row["inputs"] if x != "[weight]"]) >= 1
    assert row["options"] == lossreg.options(name)


def test_rows_of_calculators_that_differ_from_the_others() -> None:
    assert lossreg.help("CategoricalCrossentropy.v2")["inputs"] == ("guesses", "truths")
    assert lossreg.help("CategoricalCrossentropy.v2")["name"] == "CategoricalCrossentropy.v2"
    assert lossreg.help("Term.v1")["inputs"] == lossreg.help("WeightedSum.v1")["inputs"] == ("context",)
    assert lossreg.help("Sequence.v1")["options"]["inner"] is ...


@pytest.fixture
def own_losses() -> Iterator[None]:
    """What a user may have registered."""

    class Bare(lossreg.Loss):
        """Has no pipeline."""

        scale: float = 1.0

        def __call__(self, guesses: Any, truths: Any) -> tuple[Any, Any]:
            return self.scale * (guesses - truths), 0.0

    def untyped(delta, reduction="sum"):  # type: ignore[no-untyped-def]
        return lossreg.Huber(delta=delta, reduction=reduction)

    def typed(scale: float = 1.0, mode: str = "a") -> lossreg.Loss:
        """Same numbers as torch.nn.HuberLoss."""
        return lossreg.Huber(delta=scale if mode == "a" else 2 * scale)

    def with_any_name(**kwargs: Any) -> lossreg.Loss:
        return lossreg.Huber(**kwargs)

    own = {
        "own.Bare.v1": Bare,
        "own.untyped.v1": untyped,
        "own.typed.v1": typed,
        "own.any.v1": with_any_name,
        "own.partial.v1": functools.partial(typed, scale=3.0),
        "own.builtin.v1": max,
    }
    for name, target in own.items():
        registry.losses.register(name, func=target)
    yield
    for name in own:
        del catalogue.REGISTRY["lossreg", "losses", name]


@pytest.mark.usefixtures("own_losses")
def test_losses_of_users() -> None:
    names = [name for name in registry.losses.names() if name.startswith("own.")]
    assert len(names) == 6
    for name in names:
        row = lossreg.help(name)
        assert (row["alias"], row["name"], row["inputs"], row["n"]) == ("", name, ("guesses", "truths"), 2)
    assert lossreg.options("own.Bare.v1") == {"scale": 1.0}
    assert lossreg.options("own.untyped.v1") == {"delta": ..., "reduction": "sum"}
    assert lossreg.help("own.typed.v1")["torch"] == "torch.nn.HuberLoss"
    assert lossreg.options("own.any.v1") == lossreg.options("own.builtin.v1") == {}
    bare = lossreg.loss("own.Bare.v1", 2.0)
    assert lossreg.loss(bare, [1.0], [0.0]) == 0.0
    assert lossreg.loss("own.untyped.v1", 0.5) == lossreg.Huber(delta=0.5, reduction="sum")
    assert lossreg.loss("own.untyped.v1", 0.5, ["reduce", "none"]) == lossreg.Huber(delta=0.5, reduction="none")
    assert lossreg.loss("own.typed.v1", 1, "b") == lossreg.Huber(delta=2.0)
    assert lossreg.loss("own.any.v1", {"delta": 2.0}) == lossreg.Huber(delta=2.0)
    with pytest.raises(ConfigError, match=r"untyped: delta: this option has no default and must be given"):
        lossreg.loss("own.untyped.v1")
    with pytest.raises(ConfigError, match=r"Cannot make own.typed.v1: scale: should be a valid number, got 'x'"):
        lossreg.loss("own.typed.v1", scale="x")


@pytest.mark.parametrize(
    "thing", [lossreg.loss, lossreg.options, lossreg.help, functional.Function], ids=lambda x: x.__name__
)
def test_examples_of_docstrings_run(thing: Any) -> None:
    (test,) = [test for test in doctest.DocTestFinder(recurse=False).find(thing) if test.examples]
    report: list[str] = []
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append).failed == 0, "".join(report)


# Single functions


def test_help_of_a_calculator_without_a_short_name() -> None:
    row = lossreg.help("InfoNCE.v1")
    assert (row["alias"], row["name"], row["inputs"]) == ("", "InfoNCE.v1", ("queries", "keys"))


@pytest.mark.parametrize("wrong", [[[1, 2], [3]], ["a"], [1j], [None, 1.0]])
def test_functions_say_what_is_no_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected numbers or even lists of them, got a list of"):
        functional.mse(wrong, [1.0, 2.0])
