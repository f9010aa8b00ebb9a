"""Config files: round trips, overrides, defaults, and errors with their paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confection
import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, Loss, registry
from support.configs import problems

HUBER = '[loss]\n@losses = "Huber.v1"\n'


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
        "a.inner": f"{__name__}.test_what_a_nested_block_returns_is_checked.<locals>.broken failed: KeyError: 'x'"
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
