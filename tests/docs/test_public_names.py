"""What the package imports and publishes, and what is said where a library is not installed."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lossreg
from lossreg import registry

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, **kwargs)


def test_import_loads_nothing_heavy() -> None:
    """confection itself imports pydantic's entry module, but no schema is built until an option is checked."""
    code = "import sys, lossreg, json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(run("-c", code).stdout))
    for heavy in ("cupy", "numba", "typer", "tqdm", "torch", "jax", "thinc", "scipy", "pydantic.main", "pydantic_core"):
        if heavy.startswith("pydantic") and heavy in json.loads(
            run("-c", code.replace("lossreg", "confection")).stdout
        ):
            continue
        assert heavy not in loaded
    assert "lossreg.ops.cuda.ops" not in loaded


def test_public_names_are_importable_and_documented() -> None:
    for name in lossreg.__all__:
        value = getattr(lossreg, name)
        if callable(value):
            assert value.__doc__, name
    assert len(set(lossreg.__all__)) == len(lossreg.__all__)


def test_entry_points_for_thinc_are_all_calculators_under_our_prefix() -> None:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "setup.cfg")
    lines = [line.split("=") for line in parser["options.entry_points"]["thinc_losses"].splitlines() if line]
    points = {name.strip(): target.strip() for name, target in lines}
    names = [n for n in registry.losses.names() if registry.losses.get(n).__module__.startswith("lossreg.")]
    names.remove("MindFormersCrossEntropy.v1")  # its call returns no gradient, as that of Thinc's losses does
    assert points == {f"lossreg.{name}": f"lossreg:{registry.losses.get(name).__name__}" for name in names}


LIBRARIES = {"torch": "PyTorch", "jax": "JAX"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"lossreg.{name}", raising=False)
    with pytest.raises(ImportError, match=f"{LIBRARIES[name]} is not installed: python -m pip install {name}"):
        importlib.import_module(f"lossreg.{name}")
