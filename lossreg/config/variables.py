r"""Variables of config files, `${section.option}`: a tree of sections with each variable replaced by its value.

In a tree that still has its variables, a string that is an option's value is one of two things. If it holds `${`, it is
the text of the option as it stands behind `=`, with its quotes: `"${a.b}"` is text and `${a.b}` may be a number. If
not, it is text whose dollar signs are written `$$`. Strings in lists are always the latter, and may hold variables.

confection 1.2 to 1.3.4 replaces variables in the raw text and reads JSON afterwards. That goes wrong in several ways:
- Everything between two variables is read as JSON too (`_coerce_for_string_context` in `_parser.py`). In
  `["${h.a}","${h.b}"]` that is `","`, which loses its quotes: the list becomes ['cat,dog']. Likewise `["$$","$$"]`.
- Strings are inserted without quotes, lists of strings with backslashes: `[${h.a}, 2]` and `[${h.list}]` become text.
- A variable in a string whose value is a string with a variable in it inserts that string's quotes.
- The text `"__SECTION__:a"` is taken for a variable, and `[[${a}]]` becomes that text.
- `$$` and `\u0024` lose their meaning if variables are replaced after reading (`interpolate=False`).
Here a variable between quotes is replaced by text, and elsewhere by its value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..synonyms import closest
from .options import ConfigError
from .text import interpret, parse_json

__all__ = ["MAX_EXPANSION", "as_templates", "copied", "interpolated", "literal"]

MAX_EXPANSION = 8_000_000
"""Bytes that variables may add to a config. A few lines of variables that contain variables could otherwise fill all
memory. A list of 100,000 names takes 800,000 each time that it is referred to; text takes four for each character."""

MAX_CHAIN = 100
"""How many places may wait for the value of another one: sections for their options, options for their variables."""

_BYTES_PER_ENTRY = 8
_BYTES_PER_CONTAINER = 160
_BYTES_PER_CHARACTER = 4

_VARIABLE = re.compile(r"\$\{([^{}$]*)\}")
_DOLLAR = re.compile(r"\$(?:(\$)|\{([^{}$]*)\})?")
_TOKEN = re.compile(r'\\.|"|\$(?:(\$)|\{([^{}$]*)\})?', re.DOTALL)

Path = tuple[str, ...]


def interpolated(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a tree with the values of its variables; ConfigError for one that means nothing or contains itself."""
    values = _Values(tree)
    return {key: values.at((key,)) for key in tree}


class _Values:
    """The values of all places of a tree, each calculated once."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.tree = tree
        self.known: dict[Path, Any] = {}
        self.waiting: set[Path] = set()
        self.expansion = 0

    def at(self, path: Path) -> Any:
        """The value of a place, which is a section or an option."""
        if path in self.known:
            return self.known[path]
        node: Any = self.tree
        for key in path:
            node = node[key]
        return self.of(node, path)

    def of(self, node: Any, path: Path) -> Any:
        """The value of a place with what it holds."""
        if path in self.known:
            return self.known[path]
        if not isinstance(node, (dict, list, str)):
            return node
        if isinstance(node, str) and "$" not in node:
            return node
        if path in self.waiting:
            raise ConfigError([(".".join(path), "contains itself through its variables")])
        if len(self.waiting) == MAX_CHAIN:
            raise ConfigError([(".".join(path), f"expected variables nested at most {MAX_CHAIN} deep")])
        self.waiting.add(path)
        value: Any
        if isinstance(node, dict):
            value = {key: self.of(item, (*path, key)) for key, item in node.items()}
        elif isinstance(node, list):
            value = self.in_list(node, path)
        elif "${" in node:
            value = self.of_option(node, path)
        else:
            value = self.text(node, path)
        self.waiting.remove(path)
        self.known[path] = value
        return value

    def in_list(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return self.text(value, path) if "$" in value else value
        if type(value) in (list, tuple):
            return type(value)([self.in_list(item, path) for item in value])
        if isinstance(value, dict):
            return {key: self.in_list(item, path) for key, item in value.items()}
        return value

    def text(self, template: str, path: Path) -> str:
        """Text with its variables replaced by their text."""

        def replacement(match: re.Match[str]) -> str:
            dollar, reference = match.groups()
            if dollar is not None:
                return "$"
            if reference is None:
                raise _no_variable(template, match.start(), path)
            return self.text_of(reference, path)

        return _DOLLAR.sub(replacement, template)

    def of_option(self, template: str, path: Path) -> Any:
        """The value of an option that is written with variables."""
        alone = _VARIABLE.fullmatch(template)
        if alone:
            return self.copy_of(alone[1], path)
        value, is_json = parse_json("".join(self.as_json(template, path)), ".".join(path))
        if is_json:
            return value
        # plain text, such as corpus/${language}.txt
        return interpret(self.text(template, path), ".".join(path))

    def as_json(self, template: str, path: Path) -> Iterable[str]:
        """The pieces of a JSON text with its variables as JSON: between quotes as text, else as they are."""
        in_string = False
        position = 0
        for match in _TOKEN.finditer(template):
            yield template[position : match.start()]
            position = match.end()
            token, (dollar, reference) = match.group(), match.groups()
            if token[0] != "$":
                in_string ^= token == '"'
                yield token
            elif dollar is not None:
                yield dollar
            elif reference is None:
                raise _no_variable(template, match.start(), path)
            elif in_string:
                yield json.dumps(self.text_of(reference, path))[1:-1]
            else:
                yield self.json_of(reference, path)
        yield template[position:]

    def copy_of(self, reference: str, path: Path) -> Any:
        value = self.at(self.target(reference, path))
        self.expand(_size(value), path)
        return copied(value)

    def text_of(self, reference: str, path: Path) -> str:
        value = self.at(self.target(reference, path))
        if isinstance(value, dict):
            message = f"a section cannot be part of a text: refer to one of its options instead of '{reference}'"
            raise ConfigError([(".".join(path), message)])
        if isinstance(value, str):
            text = value
        else:
            text = self.json_text(value, reference, path)
        self.expand(_BYTES_PER_CHARACTER * len(text), path)
        return text

    def json_of(self, reference: str, path: Path) -> str:
        value = self.at(self.target(reference, path))
        text = self.json_text(value, reference, path)
        self.expand(_BYTES_PER_CHARACTER * len(text) + _size(value), path)
        return text

    def json_text(self, value: Any, reference: str, path: Path) -> str:
        try:
            return json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigError([(".".join(path), f"'{reference}' is no JSON: {error}")]) from error

    def expand(self, size: int, path: Path) -> None:
        self.expansion += size
        if self.expansion > MAX_EXPANSION:
            megabytes = MAX_EXPANSION // 1_000_000
            raise ConfigError([(".".join(path), f"the variables of this config expand to more than {megabytes} MB")])

    def target(self, reference: str, path: Path) -> Path:
        """The place that a reference means. A single name is an option of this section, or else a section."""
        parts = tuple(reference.replace(":", ".").split("."))
        if len(parts) == 1 and self.is_option_here(parts[0], path):
            return (*path[:-1], parts[0])
        node: Any = self.tree
        for part in parts:
            if not isinstance(node, Mapping) or part not in node:
                names = list(node)[:1000] if isinstance(node, Mapping) else []
                message = f"there is no option or section '{reference}'{closest(part, names)}"
                raise ConfigError([(".".join(path), message)])
            node = node[part]
        return parts

    def is_option_here(self, name: str, path: Path) -> bool:
        """Whether a single name means an option of the section at whose option `path` it is written."""
        section: Any = self.tree
        for key in path[:-1]:
            section = section[key]
        if name not in section:
            return False
        # `loss = ${loss}` means the section [loss], and so does `${loss}` in a section that has a [section.loss].
        is_itself = section[name] == section[path[-1]]
        hides_section = isinstance(section[name], dict) and isinstance(self.tree.get(name), dict)
        return not is_itself and not hides_section


def _no_variable(template: str, start: int, path: Path) -> ConfigError:
    got = template[start : start + 40]
    message = f"expected a variable, ${{section.option}}, or $$ for a dollar sign, got {got!r}"
    return ConfigError([(".".join(path), message)])


def _size(value: Any) -> int:
    """Bytes that a copy of a value takes, about: strings are not copied."""
    if isinstance(value, dict):
        return _BYTES_PER_CONTAINER + sum(2 * _BYTES_PER_ENTRY + _size(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return _BYTES_PER_CONTAINER + sum(map(_size, value))
    return _BYTES_PER_ENTRY


def copied(value: Any) -> Any:
    """A copy of the dicts, lists and tuples of a value. What they hold is not copied: it may be a live object."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return value


def literal(value: Any) -> Any:
    """A value as literal text of a tree with variables: its dollar signs are doubled."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, str):
        doubled = value.replace("$", "$$")
        if "${" in doubled:  # in quotes it is a text of one piece, and nothing in it a variable
            return json.dumps(doubled)
        return doubled
    return _in_lists(value, lambda text: text.replace("$", "$$"))


def as_templates(value: Any) -> Any:
    """A value from Python as part of a tree with variables: `${` begins one, and no other dollar sign does."""
    if isinstance(value, dict):
        return {key: as_templates(item) for key, item in value.items()}
    return _in_lists(value, lambda text: re.sub(r"\$(?!\{)", "$$", text))


def _in_lists(value: Any, change: Callable[[str], str]) -> Any:
    """A value with its text changed, that in lists and in the objects of lists too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _in_lists(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_in_lists(item, change) for item in value])
    return value
