"""Config texts of 1 MB that are made to take long: python tests/config_bombs.py [KIND] prints seconds and memory of each.

Whatever the text, reading it and making its objects ends soon, as an object or as a ConfigError.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

SIZE = 1_000_000
"""Characters of each text, where there is no number in its name."""

MAX_SECONDS = 2.0
MAX_MEGABYTES = 300.0


def filled(unit: str | Callable[[int], str], sep: str = "\n", head: str = "", tail: str = "") -> str:
    """A text of SIZE characters: a head, as many units as there is room for, and a tail."""
    parts: list[str] = []
    length = len(head) + len(tail)
    while length < SIZE:
        parts.append(unit if isinstance(unit, str) else unit(len(parts)))
        length += len(parts[-1]) + len(sep)
    return head + sep.join(parts) + tail


BOMBS: dict[str, Callable[[], str]] = {
    "default": lambda: filled(lambda i: f"[s{i}]", head="[DEFAULT]\n" + "".join(f"k{i} = {i}\n" for i in range(20000))),
    "default sections": lambda: filled(lambda i: f"[DEFAULT.s{i}]"),
    "sections": lambda: filled(lambda i: f"[s{i}]"),
    "sections at limit": lambda: filled(lambda i: f"[s{i}]\n" + "\n".join(f"k{j} = {j}" for j in range(8)))[
        :900000
    ].rpartition("[")[0],
    "4,000 blocks": lambda: "\n".join(f'[s{i}]\n@losses = "Huber.v1"\ndelta = {i + 1}' for i in range(3990)),
    "4,000 long blocks": lambda: "\n".join(
        f'[s{i}]\n@losses = "CategoricalCrossentropy.v4"\nnames = ["a{i}","b","c","d","e"]\nneg_prefix = "!"'
        for i in range(3990)
    ),
    "blocks": lambda: filled(lambda i: f'[s{i}]\n@losses = "Huber.v1"'),
    "unknown blocks": lambda: "\n".join(f'[s{i}]\n@losses = "Hubert.v{i}"' for i in range(3990)),
    "unknown options": lambda: filled(lambda i: f"delt{i}=1", head='[a]\n@losses="Huber.v1"\n'),
    "wrong items": lambda: (
        '[a]\n@losses="CrossEntropy.v1"\nclass_weight = ' + filled('"x"', sep=",", head="[", tail="]")
    ),
    "wrong names": lambda: '[a]\n@losses="CrossEntropy.v1"\nnames = ' + filled("1", sep=",", head="[", tail="]"),
    "names": lambda: (
        '[a]\n@losses="CrossEntropy.v1"\nnames = ' + filled(lambda i: f'"name{i}"', sep=",", head="[", tail="]")
    ),
    "same names": lambda: '[a]\n@losses="CrossEntropy.v1"\nnames = ' + filled('"a"', sep=",", head="[", tail="]"),
    "weights": lambda: '[a]\n@losses="CrossEntropy.v1"\nclass_weight = ' + filled("0.5", sep=",", head="[", tail="]"),
    "bad weights": lambda: (
        '[a]\n@losses="CrossEntropy.v1"\nclass_weight = ' + filled("-1", sep=",", head="[", tail="]")
    ),
    "depth by dots": lambda: filled(lambda i: "[" + ".".join(["a"] * (i + 1)) + "]"),
    "one deep name": lambda: "[" + filled("a", sep=".") + "]",
    "depth 50": lambda: (
        "\n".join("[" + ".".join(["a"] * i) + "]" for i in range(1, 50))
        + "\n"
        + "\n".join("[" + ".".join(["a"] * 49) + f".b{i}]\nx=1" for i in range(9000))
    ),
    "stars": lambda: "[" + filled("*", sep=".") + "]",
    "star sections": lambda: (
        '[loss]\n@losses="WeightedSum.v1"\n'
        + "\n".join(
            f'[loss.*.t{i}]\n@losses="Term.v1"\nguesses="a"\ntruths="b"\n[loss.*.t{i}.loss]\n@losses="Huber.v1"'
            for i in range(1330)
        )
    ),
    "json depth": lambda: "[a]\nx = " + "[" * 500000 + "]" * 500000,
    "nested lists": lambda: "[a]\nx = [" + filled("[" * 48 + "]" * 48, sep=",") + "]",
    "96,000 nested lists": lambda: "[a]\nx = [" + ",".join(["[" * 48 + "]" * 48] * 2000) + "]",
    "json depth of objects": lambda: "[a]\nx = " + '{"a":' * 160000 + "1" + "}" * 160000,
    "json blocks": lambda: "[a]\nx = " + filled('{"@losses":"Huber.v1"}', sep=",", head="[", tail="]"),
    "3,900 json blocks": lambda: "[a]\nx = [" + ",".join(['{"@losses":"Huber.v1"}'] * 3900) + "]",
    "open json": lambda: "[a]\nx = " + "[" * 1000000,
    "open strings": lambda: filled('x{} = "'.format, head="[a]\n"),
    "open string": lambda: '[a]\nx = "' + '\\"' * 500000,
    "open string var": lambda: '[a]\nx = ${b.c}"' + '\\"' * 500000 + "\n[b]\nc=1",
    "long key": lambda: "[a]\n" + "k" * SIZE + " = 1",
    "long keys": lambda: '[a]\n@losses="Huber.v1"\n' + "k" * (SIZE // 2) + " = 1\n" + "l" * (SIZE // 2) + "=2",
    "long section": lambda: "[" + "k" * SIZE + "]\nx=1",
    "spaces": lambda: "[a]\nx" + " " * SIZE + "y",
    "spaces in value": lambda: "[a]\nx = y" + " " * SIZE + "y",
    "spaces in section": lambda: "[a]" + " " * SIZE + "y",
    "digits": lambda: "[a]\nx = " + "9" * SIZE,
    "digits in list": lambda: "[a]\nx = [" + "9" * SIZE + "]",
    "float digits": lambda: "[a]\nx = 0." + "9" * SIZE,
    "float digits e": lambda: "[a]\nx = " + "9" * SIZE + "e5",
    "exponent": lambda: "[a]\nx = 1e" + "9" * SIZE,
    "4300 digits": lambda: filled(lambda i: f"x{i} = " + "9" * 4300, head="[a]\n"),
    "floats": lambda: filled(lambda i: f"x{i}=1e9", head="[a]\n"),
    "options": lambda: filled(lambda i: f"{i}=", head="[a]\n"),
    "options of a block": lambda: filled(lambda i: f"x{i}=1", head='[a]\n@losses="Huber.v1"\n'),
    "text options": lambda: filled(lambda i: f"{i}=a", head="[a]\n"),
    "variables": lambda: filled(lambda i: f"x{i} = ${{b.c}}", head="[b]\nc = 1\n[a]\n"),
    "bare variables": lambda: filled(lambda i: f"x{i}=${{c}}", head="[a]\nc = 1\n"),
    "section variables": lambda: filled(lambda i: f"x{i}=${{b}}", head="[b]\nc = 1\n[a]\n"),
    "block variables": lambda: filled(lambda i: f"x{i}=${{b}}", head='[b]\n@losses="Huber.v1"\n[a]\n'),
    "3,900 block variables": lambda: '[b]\n@losses="Huber.v1"\n[a]\n' + "\n".join(f"x{i}=${{b}}" for i in range(3900)),
    "variables in text": lambda: '[a]\nc=1\nx = "' + "${c}" * 250000 + '"',
    "variables in list": lambda: "[a]\nc=1\nx = [" + filled("${c}", sep=",") + "]",
    "quoted variables in list": lambda: '[a]\nc="x"\nx = [' + filled('"${c}"', sep=",") + "]",
    "variables in plain text": lambda: "[a]\nc=q\nx = " + "${c}" * 250000,
    "unknown variables": lambda: filled(lambda i: f"x{i}=${{q.c}}", head="[a]\nc = 1\n"),
    "open variables": lambda: "[a]\nx = " + "${" * 500000,
    "open variables in text": lambda: '[a]\nx = "' + "${" * 500000 + '"',
    "long variable": lambda: "[a]\nx = ${" + "a" * SIZE + "}",
    "deep variable": lambda: "[a]\nx = ${" + "a." * (SIZE // 2) + "}",
    "dollars": lambda: '[a]\nx = "' + "$$" * 500000 + '"',
    "escaped dollars": lambda: '[a]\nx = "' + "\\u0024" * 160000 + '"',
    "chain": lambda: filled(lambda i: f"x{i} = ${{x{i + 1}}}", head="[a]\n"),
    "chain backwards": lambda: "[a]\nx0 = 1\n" + "\n".join(f"x{i + 1} = ${{x{i}}}" for i in range(50000)),
    "chain doubling": lambda: (
        "[a]\n" + "\n".join(f'x{i} = "${{x{i + 1}}}${{x{i + 1}}}"' for i in range(90)) + '\nx90="ab"'
    ),
    "chain backwards doubling": lambda: (
        '[a]\nx0="a"\n' + "\n".join(f'x{i + 1} = "${{x{i}}}${{x{i}}}"' for i in range(50000))
    ),
    "lists doubling": lambda: "[a]\nx0=[]\n" + "\n".join(f"x{i + 1} = [${{x{i}}},${{x{i}}}]" for i in range(30000)),
    "lists nesting": lambda: "[a]\nx0=[]\n" + "\n".join(f"x{i + 1} = [${{x{i}}}]" for i in range(30000)),
    "sections doubling": lambda: (
        "[s0]\nx=1\n" + "\n".join(f"[s{i + 1}]\nx=${{s{i}}}\ny=${{s{i}}}" for i in range(3900))
    ),
    "sections nesting": lambda: "[s0]\nx=1\n" + "\n".join(f"[s{i + 1}]\nx=${{s{i}}}" for i in range(3900)),
    "big list variables": lambda: (
        "[a]\nc = ["
        + ",".join(f'"n{i}"' for i in range(60000))
        + "]\n"
        + "\n".join(f"x{i}=${{c}}" for i in range(30000))
    ),
    "big text variables": lambda: (
        '[a]\nc = "' + "é" * 500000 + '"\n' + "\n".join(f'x{i}="a${{c}}"' for i in range(20000))
    ),
    "emoji text variables": lambda: (
        '[a]\nc = "' + "😀" * 500000 + '"\n' + "\n".join(f'x{i}="a${{c}}"' for i in range(20000))
    ),
    "emoji once": lambda: '[a]\nc = "' + "😀" * 900000 + '"\n' + 'x="a${c}"',
    "empty lists": lambda: "[a]\nx = " + filled("[]", sep=",", head="[", tail="]"),
    "empty lists in options": lambda: filled(lambda i: f"{i}=[]", head="[a]\n"),
    "99,000 lists": lambda: "[a]\nx = [" + ",".join(["[]"] * 99000) + "]",
    "99,000 objects": lambda: "[a]\nx = [" + ",".join(['{"a":1}'] * 99000) + "]",
    "empty lists and a variable": lambda: "[b]\nc=1\n[a]\nx = " + filled("[]", sep=",", head="[${b.c},", tail="]"),
    "objects": lambda: "[a]\nx = " + filled('{"a":1}', sep=",", head="[", tail="]"),
    "object keys": lambda: "[a]\nx = " + filled(lambda i: f'"{i}":1', sep=",", head="{", tail="}"),
    "same object keys": lambda: "[a]\nx = " + filled('"a":1', sep=",", head="{", tail="}"),
    "object keys of a block": lambda: (
        "[a]\nx = " + filled(lambda i: f'"d{i}":1', sep=",", head='{"@losses":"Huber.v1",', tail="}")
    ),
    "at keys": lambda: filled(lambda i: f"@x{i}=1", head="[a]\n"),
    "ints": lambda: "[a]\nx = " + filled("1000", sep=",", head="[", tail="]"),
    "small ints": lambda: "[a]\nx = " + filled("1", sep=",", head="[", tail="]"),
    "emoji": lambda: '[a]\nx = "' + "😀" * SIZE + '"',
    "emoji keys": lambda: filled(lambda i: f"😀{i}=1", head="[a]\n"),
    "carriage returns": lambda: "\r" * SIZE,
    "options by CR": lambda: filled(lambda i: f"x{i}=1", sep="\r", head="[a]\r"),
    "newlines": lambda: "\n" * SIZE,
    "nul": lambda: "\0" * SIZE,
    "form feeds": lambda: "[a]\n" + "\f" * SIZE,
    "comments": lambda: "#\n" * (SIZE // 2),
    "long comment": lambda: "#" * SIZE,
    "comments in a value": lambda: "[a]\nx = [1,\n" + " #\n" * (SIZE // 3) + " 2]",
    "continuation": lambda: "[a]\nx = [" + "\n 1," * (SIZE // 4) + "\n 2]",
    "continued text": lambda: "[a]\nx = a" + "\n b" * (SIZE // 3),
    "continued options": lambda: "[a]\nx = 1" + "\n y=2" * (SIZE // 5),
    "single quotes": lambda: filled(lambda i: f"x{i} = 'a'", head="[a]\n"),
    "no values": lambda: "[a]\n" + "x\n" * (SIZE // 2),
    "no section": lambda: filled(lambda i: f"x{i} = 1"),
    "same section": lambda: "[a]\n" * (SIZE // 4),
    "same option": lambda: "[a]\n" + "x=1\n" * (SIZE // 4),
    "brackets": lambda: "[" * SIZE,
    "closed": lambda: "]" * SIZE,
    "bracket lines": lambda: "[\n" * (SIZE // 2),
    "equals": lambda: "[a]\n" + "=" * SIZE,
    "equals lines": lambda: "[a]\n" + "=\n" * (SIZE // 2),
    "colons": lambda: "[a]\nx" + ":" * SIZE,
    "wrong parents": lambda: filled(lambda i: f"[a.b{i}]"),
    "conflicts": lambda: (
        "[a]\n" + "\n".join(f"b{i}=1" for i in range(9000)) + "\n" + "\n".join(f"[a.b{i}]" for i in range(9000))
    ),
    "surrogates": lambda: '[a]\nx = "' + "\\ud800" * 160000 + '"',
    "99,000 options": lambda: "[a]\n" + "\n".join(f"{i}={i}" for i in range(99000)),
    "99,000 variables": lambda: "[a]\nc=1\n" + "\n".join(f"{i}=${{c}}" for i in range(99000)),
    "whitespace": lambda: " " * SIZE,
    "tabs": lambda: "[a]\n" + "\t" * SIZE,
}


def run(kind: str) -> str:
    """Read, resolve, fill and write a text; "seconds megabytes what came of it", for the slowest step."""
    import lossreg
    from lossreg import Config, ConfigError, registry

    warnings.simplefilter("ignore")
    text = BOMBS[kind]()
    outcomes: list[str] = []

    def timed(name: str, step: Callable[[], object]) -> tuple[float, object]:
        start = time.process_time()  # not that of other programs
        result = None
        try:
            result = step()
            outcomes.append(name)
        except ConfigError as error:
            outcomes.append(f"{name}: {' '.join(str(error)[:120].split())}")
        return time.process_time() - start, result

    seconds = [0.0]
    for interpolate in (True, False):
        reading, config = timed("read", lambda: Config().from_str(text, interpolate=interpolate))
        seconds.append(reading)
        if isinstance(config, lossreg.Config):
            seconds[-1] += timed("resolved", lambda: registry.resolve(config))[0]
            seconds.append(timed("filled", lambda: registry.fill(config))[0])
            seconds.append(timed("written", config.to_str)[0])
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{max(seconds):.2f} {megabytes:.0f} {'; '.join(dict.fromkeys(outcomes))}"


def measure(kind: str, timeout: float = 120) -> tuple[float, float, str]:
    """(seconds, megabytes, outcome) in a process of its own."""
    # A new process begins with the peak of the one that started it, so there is a small one between.
    between = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    command = [sys.executable, "-c", between, sys.executable, __file__, kind]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
    if done.returncode:
        raise AssertionError(f"{kind}: {done.stderr[-2000:]}")
    seconds, megabytes, outcome = done.stdout.strip().split(" ", 2)
    return float(seconds), float(megabytes), outcome


def main() -> None:
    """All kinds; exits with an error if one takes too long or too much."""
    worst: list[str] = []
    for kind in BOMBS:
        seconds, megabytes, outcome = measure(kind)
        print(f"{kind:28} {seconds:5.2f} s {megabytes:4.0f} MB  {outcome[:110]}", flush=True)
        if seconds > MAX_SECONDS or megabytes > MAX_MEGABYTES:
            worst.append(kind)
    if worst:
        sys.exit(f"more than {MAX_SECONDS:.0f} s or {MAX_MEGABYTES:.0f} MB: {', '.join(worst)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(run(" ".join(sys.argv[1:])))
    else:
        main()
