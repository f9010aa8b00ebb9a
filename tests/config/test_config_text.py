"""Texts of config files: variables, comments, line ends, and texts that are made to take long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import confection
import pytest

import config_bombs
from lossreg import Config, ConfigError, registry
from support.configs import problems


def test_dollar_signs_outside_strings_are_left_alone() -> None:
    config = Config().from_str('[a]\nb = "x"\nv = ${a.b}$$\n', interpolate=False)
    assert Config().from_str(config.to_str())["a"]["v"] == "x$"
    for data in ({"a": {"$$k": 1}}, {"a$$": {"k": 1}}, {"a": {"k": "$$", "l": ["$", "$$ = $"]}}):
        assert Config().from_str(Config(data).to_str()) == data


HUBER = '[loss]\n@losses = "Huber.v1"\n'


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


VALUES = """
[h]
a = "cat"
b = "dog"
n = 5
names = ["cat","dog"]
weights = [1, 2.5]
object = {"k": [1]}
plain = some text
quotes = "\\"quoted\\" back\\\\slash"
plural = "${h.a}s"
nothing = null

[section]
x = 1
y = ${h.a}

[here]
own = 3
section = ${section}
v = """


@pytest.mark.parametrize(
    "text, value",
    [
        ('["${h.a}","${h.b}"]', ["cat", "dog"]),
        ('["${h.a}" , "${h.b}"]', ["cat", "dog"]),
        ("[${h.a}, ${h.b}]", ["cat", "dog"]),
        ('[${h.a}, "x", 2, ${h.n}, "${h.n}"]', ["cat", "x", 2, 5, "5"]),
        ('["$$","$$", "$${h.a}", "\\u0024{h.a}"]', ["$", "$", "${h.a}", "${h.a}"]),
        ('[["${h.a}"], ["${h.b}", ["${h.b}"]]]', [["cat"], ["dog", ["dog"]]]),
        ("[${h.names}, [${h.weights}]]", [["cat", "dog"], [[1, 2.5]]]),
        ("[${section}, [${section}]]", [{"x": 1, "y": "cat"}, [{"x": 1, "y": "cat"}]]),
        ('[\n  "${h.a}",\n  # a comment\n  "${h.b}"\n  ]', ["cat", "dog"]),
        ('{"a": "${h.n}", "b": ${h.n}, "c": ["${h.a}","${h.b}"]}', {"a": "5", "b": 5, "c": ["cat", "dog"]}),
        ('{"a": "${h.n}"}', {"a": "5"}),
        ('"two ${h.plural}, ${h.quotes}"', 'two cats, "quoted" back\\slash'),
        ('"${h.weights} ${h.nothing}"', "[1, 2.5] null"),
        ("some ${h.plain}", "some some text"),
        ("${h.quotes}", '"quoted" back\\slash'),
        ("${h.object}", {"k": [1]}),
        ("${h:n}${own}", 53),
        ("-${h.n}.5", -5.5),
        ('"$${h.a} \\u0024{h.a}"', "${h.a} ${h.a}"),
        ('"__SECTION__:h"', "__SECTION__:h"),
    ],
)
def test_a_variable_has_its_value_in_lists_and_its_text_in_strings(text: str, value: Any) -> None:
    read = Config().from_str(VALUES + text)
    assert read["here"]["v"] == value
    assert read["here"]["section"] == {"x": 1, "y": "cat"}
    raw = Config().from_str(VALUES + text, interpolate=False)
    assert raw.interpolate() == read
    assert Config().from_str(raw.to_str()) == read
    assert registry.resolve(raw) == read


def test_a_list_of_variables_names_the_classes() -> None:
    text = '[h]\na = "cat"\nb = "dog"\n[loss]\n@losses = "CrossEntropy.v1"\nnames = ["${h.a}","${h.b}"]'
    assert registry.resolve(Config().from_str(text))["loss"].names == ("cat", "dog")
    changed = Config().from_str(text, overrides={"h.a": "bird", "h.b": "$5"})
    assert registry.resolve(changed)["loss"].names == ("bird", "$5")
    assert confection.Config().from_str(text)["loss"]["names"] == ["cat,dog"]  # if this fails, confection is mended


@pytest.mark.parametrize(
    "value, message",
    [
        ("${h.A}", "there is no option or section 'h.A'; did you mean 'a'?"), ("${nope}", "there is no option or section 'nope'"),
        ("$5", "expected a variable"), ('"${h.a"', "expected a variable"), ('["$"]', "expected a variable"), ("${}", "there is no"),
        ('"${section}"', "a section cannot be part of a text"), ('["${section}"]', "a section cannot be part of a text"),
        ('{"${h.a}": 1}', "a key cannot hold a variable"), ('[${h.a}, "x"', "expected JSON"), ('"${h.a}" # comment', "expected JSON"),
        ("${h.n} # comment", "expected a comment to have a line of its own"),
    ],
)  # fmt: skip
def test_wrong_variables_are_named(value: str, message: str) -> None:
    assert message in problems(Config().from_str, VALUES + value)["here.v"]


def test_ordinary_texts_are_read_and_written_as_confection_does() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (Path(__file__).parents[2] / "configs").glob("*.cfg")]
    texts += [
        VALUES + value for value in ("1", "${h.n}", '["a", "${h.b}"]', "${h.a}/${h.b}", "[${h.n}]", "[${section}]", "")
    ]
    texts += [
        "[a]\nx = [1,\n# c\n\n  2]\ny : 1\n[q]\n  z =\n    5\n[b]\n[b.*.one]\nq = True\n[b.*.two]\nq = None",
        '[a]  # comment\nx = text\nX = corpus/en.txt\n@y = http://x\n[b]\n[b.c]\nx = 1\n[b.*]\ny = {"a": {}}\n\n',
        "[a]\n[a.b]\nx = 1\n[c]\nx = ${a}\ny = ${a.b}\na = ${a}\nz = ${x}",
    ]
    for text in texts:
        for interpolate in (True, False):
            theirs = confection.Config().from_str(text, interpolate=interpolate)
            ours = Config().from_str(text, interpolate=interpolate)
            assert json.dumps(ours) == json.dumps(theirs)  # in the same order, too
            assert ours.to_str() == theirs.to_str()
            assert isinstance(ours, confection.Config)
            assert ours.is_interpolated is interpolate


@pytest.mark.parametrize(
    "text, place, message",
    [
        ("[a] x = 1\ny = 2", "", "line 1: expected a section, [name], and nothing else on its line, got '[a] x = 1'"),
        ("[a][b]\nx = 1", "", "line 1: expected a section"), ("[[a]]", "", "line 1: expected a section"),
        ("[a\nx = 1", "", "line 1: expected a section"), ("[]\nx = 1", "", "line 1: expected names"),
        ("[ a ]\nx = 1", " a ", "expected names with single dots"), ("[a.]\nx = 1", "a.", "expected names with single dots"),
        ("[.a]", ".a", "expected names with single dots"), ("[a..b]", "a..b", "expected names with single dots"),
        ("x = 1\n[a]", "", "line 1: expected a section, [name], before the first option"),
        ("[DEFAULT]\nx = 1\n[a]", "DEFAULT", "there is no section of defaults"),
        ("[DEFAULT]\n[a]", "DEFAULT", "there is no section of defaults"),
        ("[a]\nx = 1\n[a]\ny = 2", "a", "line 3: there is a section [a] already"),
        ("[a]\nx = 1\nx = 2", "a.x", "line 3: is given twice"), ('[a]\nx = {"k": 1, "k": 2}', "a.x", "the key 'k' is given twice"),
        ("[a]\nb = 1\n[a.b]\nx = 1", "a.b", "is an option and a section"), ("[a.b]\nx = 1", "a.b", "write [a], if need be empty"),
        ("[a]\nx = 1\n  y = 2", "a.x", "lines that are indented"), ("[a]\nx = 1\n  [b]\n  y = 2", "a.x", "lines that are indented"),
        ("[a]\nx = [\n1\n]", "a.x", "expected JSON"), ("[a]\nx", "a", "expected 'option = value', got 'x'"),
        ("[a]\n= 2", "a", "expected the name of an option"), ('[a]\nx = "b" # c', "a.x", "expected JSON, with comments"),
        ("[a]\nx = b ; c", "a.x", "expected a comment to have a line of its own"), ("[a]\nx = [1, 2", "a.x", "expected JSON"),
        ("[a]\nx = 1\0", "", "line 2: expected text, got the control character '\\x00'"), ("[a]\fx = 1", "", "control character"),
        ("[a]\nx = " + "9" * 5000, "a.x", "a number of at most 4300 digits, got 5,000"),
        ("[a]\nx = " + "[" * 60 + "]" * 60, "a.x", "nested at most 50 deep"), ("[a]\nx = " + "[" * 10**5 + "]" * 10**5, "a.x", "nested"),
        ("[a]\n[a" + ".a" * 60 + "]", "a" + ".a" * 60, "nested at most 50 deep"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_placed_is_an_error_and_not_dropped(text: str, place: str, message: str) -> None:
    assert message in problems(Config().from_str, text)[place]
    assert message in problems(Config().from_str, text, interpolate=False)[place]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_and_a_byte_order_mark_are_read(end: str, mark: str) -> None:
    text = mark + "[a]\nx = [1,\n  2]\n# comment\ny = 2 \n[b]  ; comment\nz = 3"
    text = text.replace("\n", end)
    expected = {"a": {"x": [1, 2], "y": 2}, "b": {"z": 3}}
    assert Config().from_str(text) == expected
    assert Config().from_bytes(text.encode()) == expected


def test_all_problems_of_a_text_are_reported_with_their_lines() -> None:
    found = problems(Config().from_str, "[a]\nx = [\ny = 1\n[b] c\n[c]\nz\n[d.e]")
    assert [message.split(":")[0] for message in found.values()][:3] == ["line 2", "line 4", "line 6"]
    assert "d.e" in found
    many = problems(Config().from_str, "[a]\n" + "\n".join(f"x{i} = [" for i in range(1000)))
    assert len(many) <= 102


def test_single_quotes_are_warned_about_once() -> None:
    with pytest.warns(UserWarning, match=r"single quotes are part of the text of a\.x, a\.y") as caught:
        assert Config().from_str("[a]\nx = 'b'\ny = 'c'") == {"a": {"x": "'b'", "y": "'c'"}}
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_limits_name_themselves() -> None:
    sections = "\n".join(f"[s{i}]" for i in range(10_001))
    assert "10,000 sections" in str(problems(Config().from_str, sections))
    assert len(Config().from_str(sections.rpartition("\n")[0])) == 10_000
    lists = "[a]\nx = [" + ",".join(["[]"] * 100_000) + "]"
    assert "at most 100,000 JSON lists and objects" in str(problems(Config().from_str, lists))
    blocks = {f"s{i}": {"@losses": "Huber.v1"} for i in range(4001)}
    assert "at most 4,000 blocks" in str(problems(registry.resolve, blocks))
    assert "at most 16,000,000 characters" in str(problems(Config().from_str, "#" * 16_000_001))
    names = [f"name {i}" for i in range(100_000)]
    text = (
        "[labels]\nnames = "
        + json.dumps(names)
        + "\n"
        + HUBER.replace("Huber", "CrossEntropy")
        + "names = ${labels.names}"
    )
    assert registry.resolve(Config().from_str(text))["loss"].names == tuple(names)


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
    else:
        assert "kept" not in config


@pytest.mark.slow
def test_fuzz_of_config_texts() -> None:
    pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")
    script = Path(__file__).parents[1] / "fuzz_config.py"
    done = subprocess.run([sys.executable, str(script), "800"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ConfigError" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "default", "sections", "4,000 blocks", "unknown options", "wrong items", "depth 50", "open string var", "spaces", "digits",
        "options", "section variables", "big list variables", "chain backwards doubling", "99,000 lists", "single quotes",
    ],
)  # fmt: skip
def test_a_text_of_a_megabyte_ends_soon(kind: str) -> None:
    """Exponential time runs into the end that `measure` sets. All texts: tests/config_bombs.py."""
    _, megabytes, outcome = config_bombs.measure(kind)
    assert megabytes < 400, outcome


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
