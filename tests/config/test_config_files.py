"""Registries and config files: what resolves, what is refused and how, and what confection does wrong without us."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confection
import numpy as np
import pytest

import config_bombs
import lossreg
from lossreg import Config, ConfigError, Loss, register, registry
from lossreg.config.resolve import ALIASES

HUBER = '[loss]\n@losses = "Huber.v1"\n'


def problems(call: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return dict(caught.value.problems)


# The mission's example


def test_the_example_of_the_front_page(tmp_path: Path) -> None:
    path = tmp_path / "config.cfg"
    path.write_text(
        '[loss]\n@losses = "CategoricalCrossentropy.v1"\nnames = ["cat","dog","bird"]\nneg_prefix = "!"\n'
        'missing_value = ""\nlabel_smoothing = 0.1\n'
    )
    loss = registry.resolve(Config().from_disk(path))["loss"]
    guesses = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype="f")
    grad, value = loss(guesses, ["bird", "!dog", ""])
    expected = np.array([[0.15, 0.25, -0.4], [0, 0.8, 0], [0, 0, 0]]) / 3
    np.testing.assert_allclose(grad, expected, atol=1e-7)
    assert value == pytest.approx((expected**2).sum())


# Round trips, variables, overrides, nested blocks


def test_variables_nested_blocks_and_positional_blocks(clean_registries: Any) -> None:
    @registry.losses("Sum.test")
    def total(*terms: Loss, first: Loss, factor: float = 1.0) -> Any:
        return terms, first, factor

    text = """
    [h]
    delta = 2
    names = ["cat","dog"]
    [loss]
    @losses = "Sum.test"
    factor = 3
    [loss.first]
    @losses = "Huber.v1"
    delta = ${h.delta}
    [loss.*.one]
    @losses = "CrossEntropy.v1"
    names = ${h.names}
    [loss.*.two]
    @losses = "MeanSquaredError.v1"
    """
    terms, first, factor = registry.resolve(Config().from_str(re.sub(r"^ +", "", text, flags=re.M)))["loss"]
    assert terms == (lossreg.CrossEntropy(names=["cat", "dog"]), lossreg.MeanSquaredError())
    assert first == lossreg.Huber(delta=2.0)
    assert isinstance(first.delta, float)
    assert factor == 3.0
    assert isinstance(factor, float)


def test_overrides_and_the_callers_config_is_not_changed() -> None:
    config = Config().from_str(HUBER + "delta = 1.0\n[x]\ny = ${loss.delta}", overrides={"loss.delta": 5})
    assert config["loss"]["delta"] == 5
    assert config["x"]["y"] == 5
    before = config.copy()
    resolved = registry.resolve(config, overrides={"loss.delta": 7})
    assert resolved["loss"].delta == 7.0
    assert config == before
    assert problems(registry.resolve, config, overrides={"nope.delta": 1, "loss.delta.x": 2, "top": 1}) == {
        "nope.delta": "cannot be overridden: the config has no section [nope]",
        "loss.delta.x": "cannot be overridden: the config has no section [loss.delta]",
        "top": "cannot be overridden: the config has no section []",
    }
    for wrong in ("loss.", "top", "nope.delta", ""):
        assert list(problems(Config().from_str, HUBER, overrides={wrong: 1})) == [wrong]


def test_overrides_are_checked_like_the_file() -> None:
    found = problems(registry.resolve, Config().from_str(HUBER), overrides={"loss.delta": -1})
    assert found == {"loss.delta": "should be greater than 0, got -1"}


@pytest.mark.parametrize(
    "names",
    [["cat", "dog"], ["$", "a$b$$", "${x}", "$$"], ["", " ", "#", ";", "!", "%", "%(x)s"], ["é", "\u2028", '"', "\\"]],
)
def test_names_survive_the_way_to_disk_and_back(names: list[str], tmp_path: Path) -> None:
    loss = lossreg.CrossEntropy(names=names)
    config = Config({"loss": loss.to_config()})
    config.to_disk(tmp_path / "x.cfg")
    assert registry.resolve(Config().from_disk(tmp_path / "x.cfg"))["loss"] == loss
    assert registry.resolve(Config().from_bytes(config.to_bytes()))["loss"] == loss
    assert registry.resolve(Config().from_disk(tmp_path / "x.cfg", interpolate=False))["loss"] == loss
    filled = registry.fill(Config().from_disk(tmp_path / "x.cfg", interpolate=False))
    assert registry.resolve(Config().from_str(filled.to_str()))["loss"] == loss


def test_any_text_survives_the_way_to_text_and_back(clean_registries: Any) -> None:
    """Options, and the names of sections and of options in them, read as they were written."""
    hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")
    st = hypothesis.strategies
    pieces = st.sampled_from(
        ["$", "{", "}", "${a.b}", "$$", '"', "\\", "\\u0024", "\n", "\r", ".", "]", "[", "=", "#", "a", " "]
    )
    text = st.lists(pieces | st.text(max_size=3), max_size=5).map("".join)
    values = st.recursive(
        text | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    )

    @hypothesis.settings(max_examples=100, database=None, deadline=None)
    @hypothesis.given(st.lists(text, unique=True, max_size=4), text, st.dictionaries(text, values, max_size=3))
    def check(names: list[str], missing_value: str, options: dict[str, Any]) -> None:
        options = {key: value for key, value in options.items() if not key.startswith("@")}
        loss = lossreg.CrossEntropy(names=names, missing_value=missing_value)
        config = Config({"loss": loss.to_config(), "data": {"options": options}})
        read = Config().from_str(config.to_str())
        assert read == config
        assert registry.resolve({"loss": read["loss"]})["loss"] == loss
        raw = Config().from_str(config.to_str(), interpolate=False)
        assert raw.interpolate() == config
        assert Config().from_str(raw.to_str()) == config
        assert Config().from_str(raw.to_str(), interpolate=False) == raw

    check()


def test_what_cannot_be_written_is_an_error() -> None:
    assert "a" in problems(Config({"a": 1}).to_str)
    assert "a]" in problems(Config({"a]": {"x": 1}}).to_str)
    assert "DEFAULT" in problems(Config({"DEFAULT": {"x": 1}}).to_str)
    assert "is no JSON" in problems(Config({"a": {"x": object()}}).to_str)["a.x"]
    assert "is no string" in problems(Config({"a": {"x": {1: 2}}}).to_str)["a.x"]


def test_variables_of_a_config_that_was_made_in_python() -> None:
    data = {"h": {"delta": 2.0}, "loss": {"@losses": "Huber.v1", "delta": "${h.delta}"}, "x": {"price": "$5"}}
    assert Config(data).interpolate()["loss"]["delta"] == 2.0
    assert Config(data).interpolate()["x"]["price"] == "$5"
    assert Config().from_str(Config(data).to_str()) == data  # text: resolve takes it as text, too
    assert Config().from_str(Config(data).to_str(interpolate=False))["loss"]["delta"] == 2.0
    assert data["loss"]["delta"] == "${h.delta}"


def test_fill_writes_defaults_and_keeps_variables() -> None:
    config = Config().from_str("[h]\ndelta = 2.0\n" + HUBER + "delta = ${h.delta}", interpolate=False)
    filled = registry.fill(config)
    assert filled["loss"]["delta"] == "${h.delta}"
    assert filled["loss"]["reduction"] == "mean"
    assert registry.fill(config, interpolate=True)["loss"]["delta"] == 2.0
    assert registry.resolve(filled)["loss"] == lossreg.Huber(delta=2.0)
    assert "reduction" not in config["loss"]
    assert "loss.delta" in problems(registry.fill, Config().from_str(HUBER + "delta = 0"))


def test_byte_order_mark_and_windows_lines_are_read() -> None:
    data = b"\xef\xbb\xbf" + (HUBER + "delta = 2").replace("\n", "\r\n").encode()
    assert registry.resolve(Config().from_bytes(data))["loss"].delta == 2.0
    assert "UnicodeDecodeError" in problems(Config().from_bytes, b"\xff\xfe[")[""]
    with pytest.raises(FileNotFoundError):
        Config().from_disk("no/such/file.cfg")


# Errors: all at once, with paths


def test_all_problems_of_a_file_are_reported_at_once() -> None:
    text = """
[a]
@losses = "Huber.v1"
delta = -2
dleta = 3
[b]
@losses = "CrossEntropi.v1"
[c]
@losses = "CrossEntropy.v1"
names = ["x","x"]
label_smoothing = "0.1"
reduction = "average"
class_weight = [1, -1, "2"]
[d]
@loses = "Huber.v1"
[d.e]
@losses = "MeanSquaredError.v1"
validate = 1
[f]
@losses = "CategoricalCrossentropy.v3"
names = ["a","!a","b","b"]
neg_prefix = "!"
"""
    found = problems(registry.resolve, Config().from_str(text))
    assert {path: message.split(" (")[0] for path, message in found.items()} == {
        "a.delta": "should be greater than 0, got -2",
        "a.dleta": "unknown option; did you mean 'delta'?",
        "b.@losses": "nothing is registered as 'CrossEntropi.v1'; did you mean 'CrossEntropy.v1'?",
        "c.label_smoothing": "should be a valid number, got '0.1'; write 0.1",
        "c.reduction": "should be 'mean', 'sum', 'none', 'batch_mean', 'weighted_mean' or 'sequence_mean', got 'average'",
        "c.class_weight.1": "should be greater than or equal to 0, got -1",
        "c.class_weight.2": "should be a valid number, got '2'; write 2",
        "d.@loses": "there is no registry 'loses'; did you mean 'losses'?",
        "d.e.validate": "should be 'auto', 'full' or 'shape', got 1",
        "f.names": "'!a' reads as the negation of 'a' with neg_prefix '!'",
    }
    with pytest.raises(ConfigError, match=r"f\.names: duplicate name 'b'\n"):
        registry.resolve(Config().from_str(text))


def test_config_error_is_what_existing_handlers_catch() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.resolve({"loss": {"@losses": "Huber.v1", "delta": 0}})
    error = caught.value
    assert isinstance(error, ValueError)
    assert isinstance(error, confection.ConfigValidationError)
    assert error.errors == [{"loc": ("loss", "delta"), "msg": "should be greater than 0, got 0"}]
    assert str(error) == "Config error: loss.delta: should be greater than 0, got 0"
    import pickle

    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "options, path",
    [
        (dict(delta=0), "delta"), (dict(delta=float("nan")), "delta"), (dict(delta=float("inf")), "delta"),
        (dict(delta="3.5"), "delta"), (dict(delta=True), "delta"), (dict(delta=None), "delta"), (dict(delta=[1.0]), "delta"),
        (dict(reduction="Mean"), "reduction"), (dict(reduction=None), "reduction"), (dict(normalize_by="all"), "normalize_by"),
    ],
)  # fmt: skip
def test_wrong_options_in_python_are_the_same_errors(options: dict[str, Any], path: str) -> None:
    assert list(problems(lossreg.Huber, **options)) == [path]


def test_options_are_plain_values() -> None:
    weights = np.array([1, 2], dtype="f")
    loss = lossreg.CrossEntropy(class_weight=weights, label_smoothing=np.float32(0.5))
    weights[0] = 7
    assert loss.class_weight == (1.0, 2.0)
    assert loss.label_smoothing == 0.5
    assert loss.options() == {"class_weight": (1.0, 2.0), "label_smoothing": 0.5}
    assert list(loss.options(all=True)) == [
        "class_weight", "ignore_index", "label_smoothing", "reduction", "normalize_by", "validate",
        "names", "missing_value", "neg_prefix", "per_token", "check_finite",
    ]  # fmt: skip
    with pytest.raises(AttributeError):
        loss.label_smoothing = 0.1
    with pytest.raises(ConfigError, match=r"write Huber\(delta=1\.0\)"):
        lossreg.Huber(1.0)  # type: ignore[misc]


def test_what_a_nested_block_returns_is_checked(clean_registries: Any) -> None:
    @registry.losses("Outer.test")
    def outer(inner: Loss) -> Any:
        return inner

    @registry.losses("Number.test")
    def number() -> float:
        return 3.0

    @registry.losses("Broken.test")
    def broken() -> float:
        raise KeyError("x")

    config = {"a": {"@losses": "Outer.test", "inner": {"@losses": "Number.test"}}}
    assert problems(registry.resolve, config) == {"a.inner": "should be an instance of Loss, got 3.0"}
    config = {"a": {"@losses": "Outer.test", "inner": {"@losses": "Broken.test"}}}
    assert problems(registry.resolve, config) == {
        "a.inner": "test_config.test_what_a_nested_block_returns_is_checked.<locals>.broken failed: KeyError: 'x'"
    }


def test_nothing_is_made_unless_all_is_sound(clean_registries: Any) -> None:
    made = []

    @registry.losses("Made.test")
    def make(x: int = 1, names: Sequence[str] = ()) -> Any:
        made.append(x)
        return made

    wrong = {"a": {"@losses": "Made.test"}, "b": {"@losses": "Huber.v1", "delta": -1}}
    assert list(problems(registry.resolve, wrong)) == ["b.delta"]
    assert made == []
    assert list(problems(registry.resolve, {"a": {"@losses": "Made.test", "x": 1.5, "names": "ab"}})) == [
        "a.x",
        "a.names",
    ]


@pytest.mark.parametrize("config", [None, 3, "text", [("a", 1)], {"@losses": "Huber.v1"}])
def test_what_is_no_config_is_refused(config: Any) -> None:
    assert "" in problems(registry.resolve, config)


def test_two_functions_in_one_block_are_refused_and_blocks_in_lists_are_made() -> None:
    assert "a" in problems(registry.resolve, {"a": {"@losses": "Huber.v1", "@ops": "numpy"}})
    config = {"a": {"x": [{"@losses": "Huber.v1", "delta": 2}, {"@type": "data"}, 3]}}
    assert registry.resolve(config) == {"a": {"x": [lossreg.Huber(delta=2.0), {"@type": "data"}, 3]}}
    found = problems(registry.resolve, {"a": {"x": [{"@losses": "Huber.v1", "delta": -2}]}})
    assert found == {"a.x.0.delta": "should be greater than 0, got -2"}
    assert "losses" in problems(registry.losses.get, None)
    assert "" in problems(registry.get, "optimizers", "x")


def test_schema_sees_unknown_keys(clean_registries: Any) -> None:
    from pydantic import BaseModel, ConfigDict

    class Training(BaseModel):
        model_config = ConfigDict(extra="forbid")
        epochs: int = 3

    class Schema(BaseModel):
        training: Training = Training()
        loss: Any = None

    assert "epoch" in str(problems(registry.resolve, {"training": {"epoch": 5}}, schema=Schema))
    assert registry.resolve({"training": {"epochs": 5}}, schema=Schema)["training"] == {"epochs": 5}


# What confection does wrong


@pytest.mark.parametrize(
    "text",
    [
        "[loss]\nx = ${loss}", "[a]\nx = ${b}\n[b]\ny = ${a}", "[a]\n[a.b]\nx = ${a}", "[a]\nx = ${a.y}\ny = ${a.x}",
        "[a]\nx = [${a}]", '[a]\nx = "${a.x}"',
    ],
)  # fmt: skip
def test_sections_that_contain_themselves_are_refused(text: str) -> None:
    assert "contains itself" in "".join(problems(Config().from_str, text).values())
    raw = Config().from_str(text, interpolate=False)
    assert "contains itself" in "".join(problems(registry.resolve, raw).values())
    assert "contains itself" in "".join(problems(registry.fill, raw).values())


def test_variables_that_multiply_are_refused() -> None:
    lines = "\n".join(f'o{i} = "{f"${{v.o{i + 1}}}" * 50}"' for i in range(9))
    assert "expand to more than" in "".join(problems(Config().from_str, f'[v]\n{lines}\no9 = "x"').values())


VALUES = """
[h]
a = "cat"
b = "dog"
n = 5
names = ["cat","dog"]
weights = [1, 2.5]
object = {"k": [1]}
plain = some text
quotes = "\\"quoted\\" back\\\\slash"
plural = "${h.a}s"
nothing = null

[section]
x = 1
y = ${h.a}

[here]
own = 3
section = ${section}
v = """


@pytest.mark.parametrize(
    "text, value",
    [
        ('["${h.a}","${h.b}"]', ["cat", "dog"]),
        ('["${h.a}" , "${h.b}"]', ["cat", "dog"]),
        ("[${h.a}, ${h.b}]", ["cat", "dog"]),
        ('[${h.a}, "x", 2, ${h.n}, "${h.n}"]', ["cat", "x", 2, 5, "5"]),
        ('["$$","$$", "$${h.a}", "\\u0024{h.a}"]', ["$", "$", "${h.a}", "${h.a}"]),
        ('[["${h.a}"], ["${h.b}", ["${h.b}"]]]', [["cat"], ["dog", ["dog"]]]),
        ("[${h.names}, [${h.weights}]]", [["cat", "dog"], [[1, 2.5]]]),
        ("[${section}, [${section}]]", [{"x": 1, "y": "cat"}, [{"x": 1, "y": "cat"}]]),
        ('[\n  "${h.a}",\n  # a comment\n  "${h.b}"\n  ]', ["cat", "dog"]),
        ('{"a": "${h.n}", "b": ${h.n}, "c": ["${h.a}","${h.b}"]}', {"a": "5", "b": 5, "c": ["cat", "dog"]}),
        ('{"a": "${h.n}"}', {"a": "5"}),
        ('"two ${h.plural}, ${h.quotes}"', 'two cats, "quoted" back\\slash'),
        ('"${h.weights} ${h.nothing}"', "[1, 2.5] null"),
        ("some ${h.plain}", "some some text"),
        ("${h.quotes}", '"quoted" back\\slash'),
        ("${h.object}", {"k": [1]}),
        ("${h:n}${own}", 53),
        ("-${h.n}.5", -5.5),
        ('"$${h.a} \\u0024{h.a}"', "${h.a} ${h.a}"),
        ('"__SECTION__:h"', "__SECTION__:h"),
    ],
)
def test_a_variable_has_its_value_in_lists_and_its_text_in_strings(text: str, value: Any) -> None:
    read = Config().from_str(VALUES + text)
    assert read["here"]["v"] == value
    assert read["here"]["section"] == {"x": 1, "y": "cat"}
    raw = Config().from_str(VALUES + text, interpolate=False)
    assert raw.interpolate() == read
    assert Config().from_str(raw.to_str()) == read
    assert registry.resolve(raw) == read


def test_a_list_of_variables_names_the_classes() -> None:
    text = '[h]\na = "cat"\nb = "dog"\n[loss]\n@losses = "CrossEntropy.v1"\nnames = ["${h.a}","${h.b}"]'
    assert registry.resolve(Config().from_str(text))["loss"].names == ("cat", "dog")
    changed = Config().from_str(text, overrides={"h.a": "bird", "h.b": "$5"})
    assert registry.resolve(changed)["loss"].names == ("bird", "$5")
    assert confection.Config().from_str(text)["loss"]["names"] == ["cat,dog"]  # if this fails, confection is mended


@pytest.mark.parametrize(
    "value, message",
    [
        ("${h.A}", "there is no option or section 'h.A'; did you mean 'a'?"), ("${nope}", "there is no option or section 'nope'"),
        ("$5", "expected a variable"), ('"${h.a"', "expected a variable"), ('["$"]', "expected a variable"), ("${}", "there is no"),
        ('"${section}"', "a section cannot be part of a text"), ('["${section}"]', "a section cannot be part of a text"),
        ('{"${h.a}": 1}', "a key cannot hold a variable"), ('[${h.a}, "x"', "expected JSON"), ('"${h.a}" # comment', "expected JSON"),
        ("${h.n} # comment", "expected a comment to have a line of its own"),
    ],
)  # fmt: skip
def test_wrong_variables_are_named(value: str, message: str) -> None:
    assert message in problems(Config().from_str, VALUES + value)["here.v"]


def test_ordinary_texts_are_read_and_written_as_confection_does() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (Path(__file__).parents[2] / "configs").glob("*.cfg")]
    texts += [
        VALUES + value for value in ("1", "${h.n}", '["a", "${h.b}"]', "${h.a}/${h.b}", "[${h.n}]", "[${section}]", "")
    ]
    texts += [
        "[a]\nx = [1,\n# c\n\n  2]\ny : 1\n[q]\n  z =\n    5\n[b]\n[b.*.one]\nq = True\n[b.*.two]\nq = None",
        '[a]  # comment\nx = text\nX = corpus/en.txt\n@y = http://x\n[b]\n[b.c]\nx = 1\n[b.*]\ny = {"a": {}}\n\n',
        "[a]\n[a.b]\nx = 1\n[c]\nx = ${a}\ny = ${a.b}\na = ${a}\nz = ${x}",
    ]
    for text in texts:
        for interpolate in (True, False):
            theirs = confection.Config().from_str(text, interpolate=interpolate)
            ours = Config().from_str(text, interpolate=interpolate)
            assert json.dumps(ours) == json.dumps(theirs)  # in the same order, too
            assert ours.to_str() == theirs.to_str()
            assert isinstance(ours, confection.Config)
            assert ours.is_interpolated is interpolate


# Text that configparser drops or takes for something else


@pytest.mark.parametrize(
    "text, place, message",
    [
        ("[a] x = 1\ny = 2", "", "line 1: expected a section, [name], and nothing else on its line, got '[a] x = 1'"),
        ("[a][b]\nx = 1", "", "line 1: expected a section"), ("[[a]]", "", "line 1: expected a section"),
        ("[a\nx = 1", "", "line 1: expected a section"), ("[]\nx = 1", "", "line 1: expected names"),
        ("[ a ]\nx = 1", " a ", "expected names with single dots"), ("[a.]\nx = 1", "a.", "expected names with single dots"),
        ("[.a]", ".a", "expected names with single dots"), ("[a..b]", "a..b", "expected names with single dots"),
        ("x = 1\n[a]", "", "line 1: expected a section, [name], before the first option"),
        ("[DEFAULT]\nx = 1\n[a]", "DEFAULT", "there is no section of defaults"),
        ("[DEFAULT]\n[a]", "DEFAULT", "there is no section of defaults"),
        ("[a]\nx = 1\n[a]\ny = 2", "a", "line 3: there is a section [a] already"),
        ("[a]\nx = 1\nx = 2", "a.x", "line 3: is given twice"), ('[a]\nx = {"k": 1, "k": 2}', "a.x", "the key 'k' is given twice"),
        ("[a]\nb = 1\n[a.b]\nx = 1", "a.b", "is an option and a section"), ("[a.b]\nx = 1", "a.b", "write [a], if need be empty"),
        ("[a]\nx = 1\n  y = 2", "a.x", "lines that are indented"), ("[a]\nx = 1\n  [b]\n  y = 2", "a.x", "lines that are indented"),
        ("[a]\nx = [\n1\n]", "a.x", "expected JSON"), ("[a]\nx", "a", "expected 'option = value', got 'x'"),
        ("[a]\n= 2", "a", "expected the name of an option"), ('[a]\nx = "b" # c', "a.x", "expected JSON, with comments"),
        ("[a]\nx = b ; c", "a.x", "expected a comment to have a line of its own"), ("[a]\nx = [1, 2", "a.x", "expected JSON"),
        ("[a]\nx = 1\0", "", "line 2: expected text, got the control character '\\x00'"), ("[a]\fx = 1", "", "control character"),
        ("[a]\nx = " + "9" * 5000, "a.x", "a number of at most 4300 digits, got 5,000"),
        ("[a]\nx = " + "[" * 60 + "]" * 60, "a.x", "nested at most 50 deep"), ("[a]\nx = " + "[" * 10**5 + "]" * 10**5, "a.x", "nested"),
        ("[a]\n[a" + ".a" * 60 + "]", "a" + ".a" * 60, "nested at most 50 deep"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_placed_is_an_error_and_not_dropped(text: str, place: str, message: str) -> None:
    assert message in problems(Config().from_str, text)[place]
    assert message in problems(Config().from_str, text, interpolate=False)[place]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_and_a_byte_order_mark_are_read(end: str, mark: str) -> None:
    text = mark + "[a]\nx = [1,\n  2]\n# comment\ny = 2 \n[b]  ; comment\nz = 3"
    text = text.replace("\n", end)
    expected = {"a": {"x": [1, 2], "y": 2}, "b": {"z": 3}}
    assert Config().from_str(text) == expected
    assert Config().from_bytes(text.encode()) == expected


def test_all_problems_of_a_text_are_reported_with_their_lines() -> None:
    found = problems(Config().from_str, "[a]\nx = [\ny = 1\n[b] c\n[c]\nz\n[d.e]")
    assert [message.split(":")[0] for message in found.values()][:3] == ["line 2", "line 4", "line 6"]
    assert "d.e" in found
    many = problems(Config().from_str, "[a]\n" + "\n".join(f"x{i} = [" for i in range(1000)))
    assert len(many) <= 102


def test_single_quotes_are_warned_about_once() -> None:
    with pytest.warns(UserWarning, match=r"single quotes are part of the text of a\.x, a\.y") as caught:
        assert Config().from_str("[a]\nx = 'b'\ny = 'c'") == {"a": {"x": "'b'", "y": "'c'"}}
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_limits_name_themselves() -> None:
    sections = "\n".join(f"[s{i}]" for i in range(10_001))
    assert "10,000 sections" in str(problems(Config().from_str, sections))
    assert len(Config().from_str(sections.rpartition("\n")[0])) == 10_000
    lists = "[a]\nx = [" + ",".join(["[]"] * 100_000) + "]"
    assert "at most 100,000 JSON lists and objects" in str(problems(Config().from_str, lists))
    blocks = {f"s{i}": {"@losses": "Huber.v1"} for i in range(4001)}
    assert "at most 4,000 blocks" in str(problems(registry.resolve, blocks))
    assert "at most 16,000,000 characters" in str(problems(Config().from_str, "#" * 16_000_001))
    names = [f"name {i}" for i in range(100_000)]
    text = (
        "[labels]\nnames = "
        + json.dumps(names)
        + "\n"
        + HUBER.replace("Huber", "CrossEntropy")
        + "names = ${labels.names}"
    )
    assert registry.resolve(Config().from_str(text))["loss"].names == tuple(names)


@pytest.mark.parametrize(
    "text",
    [
        "[a]\nx = 1\n[a]\ny = 2", "[a]\nx = 1\nx = 2", "[a]\nx = ${", "[a]\nx = $", "[a]\nx = ${b.c}", "[a]\nx = ${b}", "x = 1",
        "[a", "[a]\nno value", "[a.b]\nx = 1", "[a]\nx = ${a:b:c}", "[a]\n[a.b]\n[b]\nx = ${a.b.c}", "[a]\nb = 1\n[a.b]\nx = 1",
        "[a]\nx = " + "[" * 100_000, "[" + ".".join("a" * 2000) + "]", "[a]\nx = " + "9" * 5000, "\0", "[DEFAULT]\nx = 1",
    ],
)  # fmt: skip
def test_bad_text_is_a_config_error_and_leaves_the_config_alone(text: str) -> None:
    config = Config({"kept": {"x": 1}})
    try:
        config.from_str(text)
    except ConfigError:
        assert config == {"kept": {"x": 1}}
    else:
        assert "kept" not in config


@pytest.mark.slow
def test_fuzz_of_config_texts() -> None:
    pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")
    script = Path(__file__).parents[1] / "fuzz_config.py"
    done = subprocess.run([sys.executable, str(script), "800"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ConfigError" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "default", "sections", "4,000 blocks", "unknown options", "wrong items", "depth 50", "open string var", "spaces", "digits",
        "options", "section variables", "big list variables", "chain backwards doubling", "99,000 lists", "single quotes",
    ],
)  # fmt: skip
def test_a_text_of_a_megabyte_ends_soon(kind: str) -> None:
    """The limits are 2 s and 300 MB; here only what is quadratic or exponential fails. All: tests/config_bombs.py."""
    seconds, megabytes, outcome = config_bombs.measure(kind)
    assert seconds < 10, outcome
    assert megabytes < 400, outcome


# Registering


def test_register_names_and_alias(clean_registries: Any) -> None:
    @register("Mine.v1", "Mine.v2", alias="mine")
    class Mine(lossreg.Huber):
        """Mine."""

    assert registry.losses.get("Mine.v1") is registry.losses.get("Mine.v2") is Mine
    assert ALIASES["mine"] == "Mine.v2"
    assert Mine(delta=2).to_config() == {"@losses": "Mine.v2", "delta": 2.0}
    with pytest.raises(ConfigError, match="already registered"):
        register("Huber.v1")(Mine)
    with pytest.raises(ConfigError, match="already registered"):
        registry.losses("Huber.v1", Mine)
    with pytest.raises(ConfigError, match="expected a name"):
        registry.losses("", Mine)

    class Unnamed(lossreg.Huber):
        """No name: it has not even that of its base."""

        names_in_registry = ()

    with pytest.raises(ConfigError, match="is not registered"):
        Unnamed().to_config()


def test_create_a_registry() -> None:
    try:
        layers = registry.create("test_layers")
        layers("Linear.v1", func=lambda width=3: width * 2)
        assert registry.resolve({"model": {"@test_layers": "Linear.v1", "width": 4}}) == {"model": 8}
        with pytest.raises(ConfigError, match="there is a registry of this name already"):
            registry.create("test_layers")
    finally:
        del registry.test_layers  # type: ignore[attr-defined]


class Point:
    """An entry point."""

    def __init__(self, name: str, loaded: Any, value: str = "plugin:thing") -> None:
        self.name, self.loaded, self.value = name, loaded, value

    def load(self) -> Any:
        if isinstance(self.loaded, BaseException):
            raise self.loaded
        return self.loaded


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*points: Point) -> None:
        by_name: dict[str, list[Point]] = {}
        for point in points:
            by_name.setdefault(point.name, []).append(point)
        monkeypatch.setitem(registry.losses.__dict__, "_plugins", by_name)

    return install


def test_plugins_are_found(plugins: Any) -> None:
    plugins(Point("Plug.v1", lossreg.Huber))
    assert "Plug.v1" in registry.losses
    assert registry.has("losses", "Plug.v1")
    assert registry.resolve({"loss": {"@losses": "Plug.v1", "delta": 2}})["loss"].delta == 2.0


def test_a_broken_plugin_spoils_only_itself(plugins: Any) -> None:
    plugins(Point("Broken.v1", ImportError("no module\nnamed x")), Point("Plug.v1", lossreg.Huber))
    assert registry.losses.get("Huber.v1") is lossreg.Huber
    found = problems(registry.resolve, {"a": {"@losses": "Broken.v1"}, "b": {"@losses": "Hubert.v1"}})
    assert found["a.@losses"] == "plug-in plugin:thing for 'Broken.v1' cannot be loaded: ImportError: no module named x"
    assert "did you mean 'Huber.v1'" in found["b.@losses"]
    with pytest.warns(UserWarning, match="cannot be loaded"):
        everything = registry.losses.get_all()
    assert "Plug.v1" in everything
    assert "Broken.v1" not in everything


def test_a_plugin_that_ends_the_program_is_broken(plugins: Any) -> None:
    plugins(Point("Exit.v1", SystemExit("good bye")), Point("Stopped.v1", KeyboardInterrupt()))
    message = "plug-in plugin:thing for 'Exit.v1' cannot be loaded: SystemExit: good bye"
    assert problems(registry.resolve, {"a": {"@losses": "Exit.v1"}}) == {"a.@losses": message}
    with pytest.raises(KeyboardInterrupt):
        registry.losses.get("Stopped.v1")


def test_a_plugin_cannot_shadow_a_built_in(plugins: Any) -> None:
    plugins(Point("Huber.v1", lossreg.MeanSquaredError, "evil:Huber"))
    with pytest.warns(UserWarning, match="plug-in evil:Huber is ignored: 'Huber.v1' is already registered"):
        assert registry.losses.get("Huber.v1") is lossreg.Huber


def test_two_plugins_of_one_name_are_refused(plugins: Any) -> None:
    plugins(Point("Plug.v1", lossreg.Huber, "one:Plug"), Point("Plug.v1", lossreg.Huber, "two:Plug"))
    assert "one:Plug and two:Plug" in problems(registry.losses.get, "Plug.v1")["losses"]


def test_sections_behind_a_star_are_named_sections() -> None:
    """`[loss.terms.*.digit]`, as sections of positional arguments are written, is `[loss.terms.digit]`."""
    text = """
[loss]
@losses = "WeightedSum.v1"

[loss.terms]

[loss.terms.digit]
@losses = "Term.v1"
guesses = "preds.logits"
truths = "batch.label"

[loss.terms.digit.loss]
@losses = "CrossEntropy.v1"
"""
    starred = text.replace("loss.terms", "loss.terms.*").replace("[loss.terms.*]", "[loss.terms]\n\n[loss.terms.*]")
    named, by_star = (registry.resolve(Config().from_str(source))["loss"] for source in (text, starred))
    assert named == by_star
    assert list(named.terms) == ["digit"]
    positional = text.replace("[loss.terms]\n\n", "[loss.*]\n\n").replace("loss.terms.", "loss.*.")
    assert registry.resolve(Config().from_str(positional))["loss"].terms == {"0": named.terms["digit"]}
