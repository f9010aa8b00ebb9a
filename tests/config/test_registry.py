"""Registries: names, aliases, plugins, registries of one's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import lossreg
from lossreg import ConfigError, Loss, loss, register, registry
from lossreg.config.resolve import ALIASES
from support.configs import problems


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


def test_plain_values_may_have_the_names_of_functions() -> None:
    assert registry.resolve({"training": {"ops": "numpy"}}) == {"training": {"ops": "numpy"}}


def test_defaults_that_are_dicts_are_the_callers_own() -> None:
    class WithDict(Loss):
        opts: dict[str, int] = dataclasses.field(default_factory=dict)

        def __call__(self, guesses: Any, truths: Any) -> Any:
            return guesses, 0.0

    lossreg.options(WithDict)["opts"]["a"] = 1
    assert lossreg.options(WithDict) == {"opts": {}}
    assert WithDict(opts={"a": 1}).options() == {"opts": {"a": 1}}
