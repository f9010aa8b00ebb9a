"""The text of config files: from lines to a tree of sections and JSON values, and back.

confection reads texts with `configparser`, which drops what it cannot place (text behind a `]`, lines that end in a
carriage return, indented options) and whose running time is quadratic in the number of sections. This reader takes each
line once: what it cannot place is an error, and for all other texts the tree is the one that confection makes.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from .options import MAX_PROBLEMS, ConfigError, Problem

__all__ = [
    "MAX_CHARACTERS",
    "MAX_CONTAINERS",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_OPTIONS",
    "MAX_SECTIONS",
    "interpret",
    "join",
    "parse_json",
    "read_text",
    "write_text",
]

MAX_CHARACTERS = 16_000_000
"""Length of a config text. Time and memory are proportional to it: about a second and 100 MB for each million."""

MAX_SECTIONS = 10_000
"""Number of sections in a config text."""

MAX_OPTIONS = 100_000
"""Number of options in all sections of a config text."""

MAX_CONTAINERS = 100_000
"""Number of JSON lists and objects in a config text. An empty list is 3 characters of text and 64 bytes of memory."""

MAX_DEPTH = 50
"""How deep sections, and lists within lists, may be nested. Trees are walked by recursion, on a short stack."""

MAX_DIGITS = 4300
"""Digits of a whole number: Python's own limit, as reading a number takes quadratic time."""

_TOO_MANY_CONTAINERS = f"expected at most {MAX_CONTAINERS:,} JSON lists and objects in a config, got more"

_TOO_DEEP = f"expected JSON nested at most {MAX_DEPTH} deep"

_JSON_BEGINNINGS = frozenset('"[{-0123456789tfnNI')
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?')  # the last quote may be missing: no text is looked at twice
_DELIMITER = re.compile("[=:]")
_SECTION = re.compile(r"\[([^\]]*)\]\s*(?:[#;].*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_COMMENT_BEHIND = re.compile(r"\s[#;]")
_PYTHON_LITERALS = {"True": True, "False": False, "None": None}

# A key or a part of a section's name that the reader would not read back as it is written.
_NO_OPTION = re.compile(r"[=:\x00-\x1f\ud800-\udfff]|^[\[#;]|^\s|\s$|^$")
_NO_SECTION = re.compile(r"[.\]\x00-\x1f\ud800-\udfff]|^\s|\s$|^$")


def read_text(text: str) -> dict[str, Any]:
    """The tree of a config text, with its variables as they are written; ConfigError with all problems.

    What a string holds is described in `lossreg.config.variables`.
    """
    if not isinstance(text, str):
        raise ConfigError([("", f"expected the text of a config, got {type(text).__name__}")])
    if len(text) > MAX_CHARACTERS:
        raise ConfigError([("", f"expected at most {MAX_CHARACTERS:,} characters, got {len(text):,}")])
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    _check_characters(text)
    reader = _Reader()
    for number, content in enumerate(text.split("\n"), 1):
        reader.read_line(number, content)
        if len(reader.problems) > MAX_PROBLEMS:
            break
    reader.end_option()
    tree = _nested(reader.sections, reader.problems)
    if reader.problems:
        raise ConfigError(reader.problems)
    reader.warn_of_single_quotes()
    return tree


def _check_characters(text: str) -> None:
    control = _CONTROL.search(text)
    if control is None:
        return
    line = text.count("\n", 0, control.start()) + 1
    expected = f"expected text, got the control character {control.group()!r}: in a JSON string, write it as an escape"
    raise ConfigError([("", f"line {line}: {expected}")])


class _Reader:
    """Reads a text line by line. An option ends where the next one begins: indented lines belong to its value."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, Any]] = {}
        self.problems: list[Problem] = []
        self.containers = 0
        self.number_of_options = 0
        self.single_quoted: list[str] = []
        self.section = ""
        self.options: dict[str, Any] | None = None
        self.indent = 0
        # the option that is being read, if any
        self.option: str | None = None
        self.option_line = 0
        self.value: list[str] = []

    def read_line(self, number: int, line: str) -> None:
        content = line.strip()
        if not content or content[0] in "#;":
            return
        indent = len(line) - len(line.lstrip())
        if self.option is not None and indent > self.indent:
            self.value.append(content)
            return
        self.end_option()
        self.indent = indent
        if content[0] == "[":
            self.read_section(number, content)
        else:
            self.read_option(number, content)

    def read_section(self, number: int, content: str) -> None:
        # The options below a line with a problem are read too, for their own problems.
        self.section, self.options = "", {}
        match = _SECTION.fullmatch(content)
        if match is None:
            expected = "expected a section, [name], and nothing else on its line"
            self.problem(number, "", f"{expected}, got {_short(content)}")
            return
        name = match.group(1)
        self.section = name
        message = self.problem_of_name(name)
        if message:
            self.problem(number, name, message)
            return
        if len(self.sections) == MAX_SECTIONS:
            message = f"line {number}: a config can have {MAX_SECTIONS:,} sections, and this is one more"
            raise ConfigError([("", message)])
        self.sections[name] = self.options

    def problem_of_name(self, name: str) -> str:
        """Why no section can have a name, "" if one can."""
        parts = name.split(".")
        if name in self.sections:
            return f"there is a section [{name}] already"
        if parts[0] == "DEFAULT":
            there_is = "there is no section of defaults, as [DEFAULT] is in other files"
            return f"{there_is}: refer to values as ${{section.option}}"
        if any(map(_NO_SECTION.search, parts)):
            return f"expected names with single dots between them and no spaces around, got [{_short(name)}]"
        if len(parts) > MAX_DEPTH:
            return f"expected sections nested at most {MAX_DEPTH} deep, got {len(parts)} names"
        return ""

    def read_option(self, number: int, content: str) -> None:
        delimiter = _DELIMITER.search(content)
        if self.options is None:
            self.problem(number, "", f"expected a section, [name], before the first option, got {_short(content)}")
            self.options = {}
        elif delimiter is None:
            message = f"expected 'option = value', got {_short(content)}"
            if content[0] in "]}\"'":  # the end of a JSON value
                message += "; indent the further lines of a value"
            self.problem(number, self.section, message)
        elif delimiter.start() == 0:
            self.problem(number, self.section, f"expected the name of an option before {_short(content)}")
        else:
            name = content[: delimiter.start()].rstrip()
            if name in self.options:
                self.problem(number, join(self.section, name), "is given twice")
            self.option, self.option_line = name, number
            self.value = [content[delimiter.end() :].strip()]

    def end_option(self) -> None:
        """Interpret the value of the option that was being read."""
        if self.option is None or self.options is None:
            return
        value = "\n".join(self.value).strip()
        try:
            self.options[self.option], containers = _value(value)
        except ConfigError as error:
            self.options[self.option], containers = None, 0
            self.problem(self.option_line, join(self.section, self.option), error.problems[0][1])
        if value[:1] == value[-1:] == "'":
            self.single_quoted.append(join(self.section, self.option))
        self.option = None
        self.number_of_options += 1
        if self.number_of_options > MAX_OPTIONS:
            raise ConfigError([("", f"expected at most {MAX_OPTIONS:,} options in a config, got more")])
        self.containers += containers
        if self.containers > MAX_CONTAINERS:
            raise ConfigError([("", _TOO_MANY_CONTAINERS)])

    def problem(self, number: int, path: str, message: str) -> None:
        self.problems.append((path, f"line {number}: {message}"))

    def warn_of_single_quotes(self) -> None:
        """One warning for all options: a warning takes longer than a line."""
        if not self.single_quoted:
            return
        options = ", ".join(self.single_quoted[:3])
        if len(self.single_quoted) > 3:
            options += f" and {len(self.single_quoted) - 3} more"
        message = f"values are JSON, whose quotes are double: single quotes are part of the text of {options}"
        warnings.warn(message, stacklevel=4)


def _nested(sections: dict[str, dict[str, Any]], problems: list[Problem]) -> dict[str, Any]:
    """The tree of sections: as in confection, the sections within a section come before its options."""
    tree: dict[str, Any] = {}
    nodes: list[dict[str, Any]] = []
    for name in sections:
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
        nodes.append(node)
        parts = name.split(".")[:-1]
        while parts and parts[-1] == "*":  # [loss.*] needs no line of its own
            parts.pop()
        parent = ".".join(parts)
        if parent and parent not in sections:
            problems.append((name, f"the section that it is part of is missing: write [{parent}], if need be empty"))
    for node, (name, options) in zip(nodes, sections.items()):
        twice = [key for key in options if key in node]
        problems += [(join(name, key), "is an option and a section") for key in twice]
        node.update(options)
    return tree


def _value(text: str) -> tuple[Any, int]:
    """The value of an option before its variables are replaced, and the number of its containers."""
    if "$" not in text and "\\u0024" not in text:
        value = interpret(text)
        if not isinstance(value, (list, dict)):
            return value, 0
        return value, _containers(value, text)
    value, is_json = parse_json(_ESCAPE.sub(_with_plain_dollar, text))
    if not is_json:
        template = text if "${" in text else interpret(text)
        return template, _brackets(text)
    if not isinstance(value, str):
        containers = _containers(value, text)
        return _as_templates(value), containers
    if "${" not in value:
        return value, 0
    template = json.dumps(value) if "\\u0024" in text else text
    return template, 0


_ESCAPE = re.compile(r"\\(?:u0024|.)")


def _with_plain_dollar(escape: re.Match[str]) -> str:
    r"""`\u0024` is a dollar sign that begins no variable, which is written `$$` where there are variables."""
    if len(escape.group()) > 2:
        return "$$"
    return escape.group()


def _as_templates(value: Any) -> Any:
    """A JSON object as the section that it stands for: its strings are those between the quotes of a text."""
    if isinstance(value, dict):
        return {_literal_key(key): _as_templates(item) for key, item in value.items()}
    if isinstance(value, list):
        return _literal_keys(value)
    if isinstance(value, str) and "${" in value:
        return json.dumps(value)
    return value


def _literal_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_literal_key(key): _literal_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal_keys(item) for item in value]
    return value


def _literal_key(key: str) -> str:
    if "$" in key.replace("$$", ""):
        raise ConfigError([("", f"a key cannot hold a variable: write $$ for a dollar sign, got {_short(key)}")])
    return key.replace("$$", "$")


_BARE_WORDS = re.compile(r"\[\s*\w+\s*(,\s*\w+\s*){0,20}\]")
"""A list of names without the quotes of JSON."""


def interpret(text: str, path: str = "") -> Any:
    """The value of a text without variables: JSON, Python's True, False and None, or else the text itself."""
    value, is_json = parse_json(text, path)
    if is_json:
        return value
    if text in _PYTHON_LITERALS:
        return _PYTHON_LITERALS[text]
    message = _why_no_text(text)
    if message:
        raise ConfigError([(path, f"{message}, got {_short(text)}")])
    return text


def _why_no_text(text: str) -> str:
    """What was expected in place of a text that is no JSON, and clearly no plain text either; "" for plain text."""
    if _BARE_WORDS.fullmatch(text):
        words = [word.strip() for word in text[1:-1].split(",")]
        return f"expected JSON, such as {json.dumps(words, separators=(',', ':'))}"
    if text[:1] in ('"', "[", "{"):
        return "expected JSON, with comments on lines of their own"
    if _COMMENT_BEHIND.search(text):
        return "expected a comment to have a line of its own, and text with such a mark to be in double quotes"
    if "\n" in text:
        return "lines that are indented more than their option continue its value, which must then be JSON"
    return ""


def parse_json(text: str, path: str = "") -> tuple[Any, bool]:
    """(value, True), or (None, False) for what is no JSON; ConfigError for JSON that is too deep or too long."""
    first = text[:1]
    if first not in _JSON_BEGINNINGS:  # most plain text; an exception takes longer than a line
        return None, False
    try:
        if first in "[{":
            _check_brackets(text)
        value = _DECODER.decode(text)
        if first in "[{":
            _containers(value, text)
    except json.JSONDecodeError:
        return None, False
    except RecursionError:
        raise ConfigError([(path, _TOO_DEEP)]) from None
    except ConfigError as error:
        raise ConfigError([(path, error.problems[0][1])]) from None
    return value, True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ConfigError([("", f"the key {_short(key)} is given twice in one JSON object")])
        unique[key] = value
    return unique


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ConfigError([("", f"expected a number of at most {MAX_DIGITS} digits, got {len(digits):,}")])
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole_number)


def _containers(value: Any, text: str) -> int:
    """The number of lists and objects in a value. ConfigError if they are nested too deeply."""
    if "[" not in text and "{" not in text:
        return 0
    # Level by level, since a text can nest deeper than Python can call.
    count, level = 0, [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, (list, dict))]
        if not containers:
            return count
        count += len(containers)
        level = []
        for item in containers:
            level.extend(item.values() if isinstance(item, dict) else item)
    raise ConfigError([("", _TOO_DEEP)])


def _check_brackets(text: str) -> None:
    """ConfigError for the text of too many lists and objects, before they are made."""
    if _brackets(text) > MAX_CONTAINERS and _brackets(_JSON_STRING.sub("", text)) > MAX_CONTAINERS:
        raise ConfigError([("", _TOO_MANY_CONTAINERS)])


def _brackets(text: str) -> int:
    """The number of brackets that open a list or an object, and no variable."""
    return text.count("[") + text.count("{") - text.count("${")


def write_text(tree: Mapping[str, Any], variables: bool) -> str:
    """The text of a tree, in confection's layout.

    With `variables`, the tree is one that `read_text` made, and is written as it was read. Without, all text is plain
    text: a dollar sign becomes the JSON escape that no variable begins with.
    """
    names = _Names()
    sections = []
    queue: list[tuple[str, Mapping[str, Any]]] = [("", tree)]
    for name, node in queue:
        options = []
        for key, value in node.items():
            path = join(name, str(key))
            if names.are_plain(key, value) and path != "DEFAULT":
                queue.append((path, value))
            elif not name:
                raise ConfigError([(path, f"cannot be written as a section, got the value {_short(value)} for it")])
            else:
                options.append(f"{key} = {_option_text(value, path, variables)}\n")
        # as confection does: [loss.*] is written only if it has options
        if name and (options or not name.endswith("*")):
            sections.append(f"[{name}]\n{''.join(options)}")
    return "\n".join(sections).strip()


class _Names:
    """Which values can be written as sections: those with names that read back as they are. Others are JSON objects."""

    def __init__(self) -> None:
        self._plain: dict[int, bool] = {}  # each level of a nested section asks

    def are_plain(self, key: Any, value: Any) -> bool:
        if not isinstance(value, Mapping) or not isinstance(key, str) or _NO_SECTION.search(key):
            return False
        if id(value) not in self._plain:
            self._plain[id(value)] = all(
                self.are_plain(name, item) or (isinstance(name, str) and not _NO_OPTION.search(name))
                for name, item in value.items()
            )
        return self._plain[id(value)]


def _option_text(value: Any, path: str, variables: bool) -> str:
    if variables:
        if isinstance(value, str) and "${" in value:
            return _template_text(value).replace("\n", "\n\t")
        if isinstance(value, Mapping):
            items = (f"{_dumped(str(key), path, False)}: {_item_text(item, path)}" for key, item in value.items())
            return f"{{{', '.join(items)}}}"
    return _dumped(value, path, variables)


def _template_text(value: str) -> str:
    """Text with variables, as it stands behind `=`; in quotes if it would not be read as one value there."""
    is_one_value = value == value.strip() and not re.search(r"[\x00-\x1f]|\s[#;]", value)
    if is_one_value or value[:1] in ('"', "[", "{"):
        return value
    return json.dumps(value)


def _item_text(value: Any, path: str) -> str:
    """A value within a JSON object that holds variables."""
    if isinstance(value, str) and "${" in value and not re.fullmatch(r'["\[{].*|\$\{[^{}$]*\}', value, re.DOTALL):
        return json.dumps(value)
    return _option_text(value, path, True)


def _dumped(value: Any, path: str, variables: bool) -> str:
    try:
        _check_keys(value)
        text = json.dumps(_keys_as_templates(value) if variables else value)
    except (TypeError, ValueError) as error:
        message = f"cannot be written, as it is no JSON ({error}): register a function that makes it, and name that"
        raise ConfigError([(path, message)]) from error
    if variables:
        return text
    return text.replace("$", "\\u0024")


def _keys_as_templates(value: Any) -> Any:
    """A value with the dollar signs in its keys as they are written where there are variables."""
    if isinstance(value, Mapping):
        return {key.replace("$", "$$"): _keys_as_templates(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_keys_as_templates(item) for item in value]
    return value


def _check_keys(value: Any) -> None:
    """TypeError where JSON would turn a key into a string."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, (list, tuple, Mapping)):
                _check_keys(item)


def join(path: str, key: str) -> str:
    """The dotted path of what a section holds."""
    if path and key:
        return f"{path}.{key}"
    return path or str(key)


def _short(value: Any) -> str:
    """A value in at most 80 characters."""
    if isinstance(value, str):
        text = repr(value[:80])
    else:
        text = repr(value)[:80]
    if len(text) < 80:
        return text
    return f"{text[:77]}..."
