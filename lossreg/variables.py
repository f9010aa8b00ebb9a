"""Variables of config files, `${section.option}`: what confection would do wrong with them, found before it runs."""

from __future__ import annotations

import configparser
import json
import re
from typing import NamedTuple

from .schema import ConfigError, Problem

__all__ = ["MAX_CHARACTERS", "MAX_VARIABLES", "variable_problems"]

MAX_VARIABLES = 20_000
MAX_CHARACTERS = 4_000_000
"""How often variables may be replaced in a config, and what they may add to it. A few lines of variables that contain
variables could otherwise take hours and all memory; a variable costs confection about 20 microseconds."""

_REFERENCE = re.compile(r"\$\$|\$\{([^}]+)\}")


class _Size(NamedTuple):
    characters: int
    variables: int


def variable_problems(text: str) -> list[Problem]:
    """The problems of a config's variables: lists of strings that confection joins.

    Raises ConfigError at once for variables that contain themselves or that multiply without bound.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    sections = {name: dict(parser.items(name)) for name in parser.sections()}
    sizes: dict[tuple[str, ...], _Size | None] = {}
    problems: list[Problem] = []

    def target(section: str, value: str, reference: str) -> tuple[str, ...]:
        """The place a reference means: (section, option), or (section,)."""
        parent, _, last = reference.replace(":", ".").rpartition(".")
        if not parent:  # a bare name is an option of this section, or else a section
            here = sections[section].get(last)
            return (section, last) if here is not None and here.strip() != value.strip() else (last,)
        return (parent, last) if last in sections.get(parent, {}) else (f"{parent}.{last}",)

    def size(place: tuple[str, ...]) -> _Size:
        """What a place expands to. `sizes[place]` is None while the place is being measured."""
        if place in sizes:
            known = sizes[place]
            if known is None:
                raise ConfigError([(".".join(place), "contains itself through its variables")])
            return known
        sizes[place] = None
        if len(place) == 1:
            inside = [name for name in sections if name == place[0] or name.startswith(f"{place[0]}.")]
            own, parts = 0, [size((name, option)) for name in inside for option in sections[name]]
        else:
            value = sections[place[0]][place[1]]
            references = [name for name in _REFERENCE.findall(value) if name]
            own, parts = len(value), [size(target(place[0], value, name)) for name in references]
        found = _Size(own + sum(p.characters for p in parts), len(parts) + sum(p.variables for p in parts))
        check(place, found)
        sizes[place] = found
        return found

    def check(place: tuple[str, ...], found: _Size) -> None:
        if found.variables > MAX_VARIABLES or found.characters > len(text) + MAX_CHARACTERS:
            limit = f"{MAX_VARIABLES:,} variables or {MAX_CHARACTERS:,} characters"
            raise ConfigError([(".".join(place), f"its variables expand to more than {limit}")])

    options = [(section, option) for section in sections for option in sections[section]]
    found = [size(place) for place in options]
    check((), _Size(sum(f.characters for f in found), sum(f.variables for f in found)))
    for section, option in options:
        pieces = _REFERENCE.sub("\0", sections[section][option]).split("\0")
        if any(_is_json_string(piece) for piece in pieces[1:-1]):
            message = (
                "variables and $$ cannot be items of a list of strings (confection joins them): refer to a whole "
                "list, names = ${labels.names}, and write a dollar sign as \\u0024"
            )
            problems.append((f"{section}.{option}", message))
    return problems


def _is_json_string(piece: str) -> bool:
    try:
        return isinstance(json.loads(piece), str)
    except ValueError:
        return False
