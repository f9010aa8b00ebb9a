"""The code in the documentation runs and prints what is written there; every name is on its page.

In docs/*.md and README.md, the blocks marked `python` of a page run in order, in one namespace and a directory of
their own. Sessions (`>>>`) are checked by doctest, where `...` stands for anything; other blocks are executed. A table
with the header `| call | error |` says how the message of each call's ValueError ends. Blocks marked `ini` whose first
line is `# NAME.cfg` are the files of that name. The comment `<!-- requires: thinc -->` right before a block says that it
needs a package (`lossreg`: installed, with its entry points).
"""

import contextlib
import contextvars
import doctest
import importlib.metadata
import importlib.util
import re
import runpy
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import catalogue
import pytest

import lossreg
from lossreg.config.resolve import ALIASES, Registry, registry

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *([ROOT / "README.md"] if (ROOT / "README.md").exists() else [])]
OWN_REGISTRIES = {"losses", "metrics", "ops", "schedules"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

BLOCK = re.compile(
    r"(?P<notes>(?:^<!--[^\n]*-->\n+)*)^(?P<fence>```+)(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=fence)$"
    r"|^\| call \| error \|\n\|[ -|]*\n(?P<table>(?:^\|[^\n]*\n)+)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block or error table of a page."""

    line: int
    kind: str
    text: str
    file: str = ""
    requires: str = ""

    @classmethod
    def read(cls, match: re.Match, text: str) -> "Block":
        line = text.count("\n", 0, match.start("text" if match["table"] is None else "table"))
        if match["table"] is not None:
            return cls(line, "errors", match["table"])
        requires = re.search(r"<!-- requires: (.*?) -->", match["notes"])
        kind, file = match["language"], re.match(r"# (\S+\.cfg)\n", match["text"])
        if kind == "python":
            kind = "session" if match["text"].startswith(">>>") else "code"
        if kind == "ini" and file:
            return cls(line, "file", match["text"], file[1])
        return cls(line, kind, match["text"], requires=requires[1] if requires else "")

    def run(self, page: str, module: types.ModuleType) -> None:
        """Execute the block in the namespace of the page."""
        if self.kind == "file":
            Path(self.file).write_text(self.text, encoding="utf-8")
        elif self.kind == "code":
            exec(compile("\n" * self.line + self.text, page, "exec"), module.__dict__)
        elif self.kind == "session":
            test = doctest.DocTestParser().get_doctest(self.text, {}, page, page, self.line)
            test.globs = module.__dict__
            report: list[str] = []
            runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
            runner.run(test, out=report.append, clear_globs=False)
            if runner.failures:
                pytest.fail("".join(report), pytrace=False)
        elif self.kind == "errors":
            cells = re.findall(r"^\| `(.+?)` \| (.+) \|$", self.text, re.MULTILINE)
            assert len(cells) == self.text.count("\n"), f"{page}, line {self.line}: a row that is no call and error"
            for number, (call, expected) in enumerate(cells):
                with pytest.raises(ValueError) as caught:
                    eval(call, module.__dict__)
                assert str(caught.value).endswith(expected), f"{page}, line {self.line + number + 1}: {call}"


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block.read(match, text) for match in BLOCK.finditer(text)]


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
