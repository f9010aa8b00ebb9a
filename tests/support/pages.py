"""The code of a page of the documentation, block by block."""

# No `annotations` from __future__: the code of a page would be compiled with it.

import doctest
import re
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
