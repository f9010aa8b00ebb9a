"""The code in the documentation runs and prints what is written there; every name is on its page.

In docs/*.md and README.md, the blocks marked `python` of a page run in order, in one namespace and a directory of
their own. Sessions (`>>>`) are checked by doctest, where `...` stands for anything; other blocks are executed. A table
with the header `| call | error |` says how the message of each call's ValueError ends. Blocks marked `ini` whose first
line is `# NAME.cfg` are the files of that name. The comment `<!-- requires: thinc -->` right before a block says that it
needs a package (`lossreg`: installed, with its entry points).
"""

import contextlib
import contextvars
import importlib.metadata
import importlib.util
import re
import runpy
import sys
import types

import catalogue
import pytest

import lossreg
from lossreg.config.resolve import ALIASES, Registry, registry
from support.pages import ROOT, read_blocks

PAGES = [*sorted((ROOT / "docs").glob("*.md")), *([ROOT / "README.md"] if (ROOT / "README.md").exists() else [])]
OWN_REGISTRIES = {"losses", "metrics", "ops", "schedules"}


def cases() -> list:
    """Each page without the blocks that need something, and again with all of them for each thing they need."""
    found = []
    for page in PAGES:
        blocks = read_blocks(page)
        if any(block.kind in ("code", "session", "errors") for block in blocks):
            found.append(pytest.param(page, "", id=page.name))
        for requires in sorted({block.requires for block in blocks} - {""}):
            found.append(pytest.param(page, requires, id=f"{page.name}-{requires}"))
    return found


def missing(requires: str) -> list[str]:
    """What is not there of a list of requirements."""

    def is_there(name: str) -> bool:
        if name != "lossreg":
            return importlib.util.find_spec(name) is not None
        return bool(importlib.metadata.entry_points(group="thinc_losses", name="lossreg.Huber.v1"))

    return [name for name in requires.split(", ") if name and not is_there(name)]


@contextlib.contextmanager
def registries_restored():
    """Names, registries and aliases that a page adds do not outlive it: other tests look at all names."""
    entries, attributes, aliases = dict(catalogue.REGISTRY), set(vars(registry)), dict(ALIASES)
    try:
        yield
    finally:
        for key in set(catalogue.REGISTRY) - set(entries):
            if key[0] == "lossreg":  # a page may import Thinc, whose names stay
                del catalogue.REGISTRY[key]
        for name in set(vars(registry)) - attributes:
            delattr(registry, name)
        ALIASES.clear()
        ALIASES.update(aliases)


@pytest.mark.parametrize("page, requires", cases())
def test_examples_run(page, requires, tmp_path, monkeypatch):
    if missing(requires):
        pytest.skip(f"needs {' and '.join(missing(requires))}")
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"docs_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in set(vars(registry)) - OWN_REGISTRIES:  # made by an example that another test ran
        if isinstance(getattr(registry, name), Registry):
            monkeypatch.delattr(registry, name)

    def run():
        for block in read_blocks(page):
            if not block.requires or set(block.requires.split(", ")) <= set(requires.split(", ")):
                block.run(page.name, module)

    with registries_restored():
        contextvars.copy_context().run(run)


@pytest.fixture(scope="module")
def settings():
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


def test_every_name_is_in_the_reference(settings):
    text = settings["reference"]()
    assert settings["MARKER"] in (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    for name in registry.losses.names():
        cls = registry.losses.get(name)
        if cls.__module__.startswith("lossreg."):
            assert f"| `{name}` |" in text
            assert f".. autoclass:: {settings['public_path'](cls)}\n" in text


def test_everything_public_is_in_the_reference(settings):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8") + settings["reference"]()
    documented = set(re.findall(r"^\.\. auto\w+:: lossreg\.(\w+)", text, re.MULTILINE))
    assert set(lossreg.__all__) <= documented


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^ +```python", text, re.MULTILINE), f"{page.name}: an indented block would not be run"
        for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
