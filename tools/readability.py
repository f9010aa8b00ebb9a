"""Helps to see where the code has become hard to read: `python tools/readability.py [FOLDER ...]` prints a table.

Per 1,000 lines of code (without docstrings, comments and empty lines): conditional expressions, comprehensions and
lines that are a comment; the length that 90 % of the lines do not exceed; and functions with more than 12 decisions.
There is no limit: the numbers are for comparing one commit, or one library, with another.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DECISIONS = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.With, ast.comprehension, ast.Assert)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MANY_DECISIONS = 12
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


@dataclass
class Counts:
    """What was counted in some files."""

    lengths: list[int] = field(default_factory=list)
    """Of all lines of code, in characters."""
    comment_lines: int = 0
    conditional_expressions: int = 0
    comprehensions: int = 0
    complex_functions: list[str] = field(default_factory=list)

    def per_1000(self, count: int) -> float:
        """A count per 1,000 lines of code."""
        return 1000.0 * count / max(1, len(self.lengths))

    @property
    def usual_length(self) -> int:
        """The length that 90 % of the lines do not exceed."""
        if not self.lengths:
            return 0
        return sorted(self.lengths)[int(0.9 * (len(self.lengths) - 1))]


def count_file(path: Path, counts: Counts) -> None:
    """Add one file to the counts."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    docstring_lines = set(lines_of_docstrings(tree))
    code_lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            code_lines.update(range(token.start[0], token.end[0] + 1))
    code_lines -= docstring_lines
    counts.lengths += [len(lines[i - 1]) for i in code_lines if i <= len(lines)]
    counts.comment_lines += sum(line.lstrip().startswith("#") for line in lines)

    for node in ast.walk(tree):
        counts.conditional_expressions += isinstance(node, ast.IfExp)
        counts.comprehensions += isinstance(node, COMPREHENSIONS)
        if isinstance(node, FUNCTIONS) and decisions_of(node) > MANY_DECISIONS:
            counts.complex_functions.append(f"{path}:{node.lineno} {node.name} ({decisions_of(node)})")


def lines_of_docstrings(tree: ast.AST) -> Iterator[int]:
    """Lines of texts that stand alone: docstrings, and descriptions below attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def decisions_of(function: ast.AST) -> int:
    """The decisions in a function, without those of functions in it: its cyclomatic complexity less 1."""
    count = 0
    for node in ast.iter_child_nodes(function):
        if isinstance(node, FUNCTIONS):
            continue
        count += isinstance(node, DECISIONS)
        count += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        count += decisions_of(node)
    return count


def main(folders: list[str]) -> None:
    """Print the table."""
    print(f"{'':30}{'lines':>8}{'if-else':>10}{'comprehensions':>16}{'comments':>10}{'p90 length':>12}")
    total = Counts()
    for folder in folders:
        counts = Counts()
        for path in sorted(Path(folder).rglob("*.py")):
            count_file(path, counts)
        print(row(folder, counts))
        total.complex_functions += counts.complex_functions
    print(f"\nFunctions with more than {MANY_DECISIONS} decisions: {len(total.complex_functions)}")
    for line in total.complex_functions:
        print(f"  {line}")


def row(name: str, counts: Counts) -> str:
    """One line of the table."""
    conditionals = counts.per_1000(counts.conditional_expressions)
    comprehensions = counts.per_1000(counts.comprehensions)
    comments = counts.per_1000(counts.comment_lines)
    return (
        f"{name[-30:]:30}{len(counts.lengths):>8}{conditionals:>10.0f}{comprehensions:>16.0f}{comments:>10.0f}"
        f"{counts.usual_length:>12}"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or ["lossreg"])
