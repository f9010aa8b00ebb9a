"""Registries and config files: what resolves, what is refused and how, and what confection does wrong without us."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import catalogue
import confection
import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, Loss, register, registry
from lossreg.config import ALIASES

HUBER = '[loss]\n@losses = "Huber.v1"\n'


@pytest.fixture
def clean_registries() -> Any:
    """Whatever a test registers is gone after it."""
    before = dict(catalogue.REGISTRY)
    aliases = dict(ALIASES)
    yield
    catalogue.REGISTRY.clear()
    catalogue.REGISTRY.update(before)
    ALIASES.clear()
    ALIASES.update(aliases)


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
    if any("${" in name for name in names):  # confection takes it for a variable, whatever is done
        assert "x" in str(problems(lambda: Config().from_str(config.to_str())))
        return
    config.to_disk(tmp_path / "x.cfg")
    assert registry.resolve(Config().from_disk(tmp_path / "x.cfg"))["loss"] == loss
    assert registry.resolve(Config().from_bytes(config.to_bytes()))["loss"] == loss


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
        "b.@losses": "nothing is registered as 'CrossEntropi.v1'; did you mean 'CrossEntropy.v1'"
        " or 'LinearCrossEntropy.v1' or 'BinaryCrossEntropy.v1'?",
        "c.label_smoothing": "should be a valid number, got '0.1'",
        "c.reduction": "should be 'mean', 'sum', 'none', 'batch_mean', 'weighted_mean' or 'sequence_mean', got 'average'",
        "c.class_weight.1": "should be greater than or equal to 0, got -1",
        "c.class_weight.2": "should be a valid number, got '2'",
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
    with pytest.raises(TypeError):
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


def test_lists_of_string_variables_are_refused_not_joined() -> None:
    text = '[h]\na = "cat"\nb = "dog"\nall = ["cat","dog"]\n[loss]\n@losses = "CrossEntropy.v1"\nnames = {}'
    assert confection.Config().from_str(text.format('["${h.a}","${h.b}"]'))["loss"]["names"] == ["cat,dog"]
    for names in ('["${h.a}","${h.b}"]', '["${h.a}" , "${h.b}"]', '["$$","$$"]'):
        assert "cannot be items of a list" in problems(Config().from_str, text.format(names))["loss.names"]
    for names in ("${h.all}", '["${h.a}", "dog"]', '["cat","dog"]', '["\\u0063at","dog"]'):
        loss = registry.resolve(Config().from_str(text.format(names)))["loss"]
        assert loss.names == ("cat", "dog")


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
    else:  # some are sound after all: a huge number is a string
        assert "kept" not in config


def test_fuzz_of_config_texts() -> None:
    pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")
    script = Path(__file__).with_name("fuzz_config.py")
    done = subprocess.run([sys.executable, str(script), "800"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ConfigError" in done.stdout


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
        if isinstance(self.loaded, Exception):
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
