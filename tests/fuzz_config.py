"""Fuzz of config texts: python tests/fuzz_config.py COUNT [SEED] prints how many were read and the peak memory.

Whatever the text, reading and resolving it gives a result or a ConfigError, soon, and in little memory.
`python tests/fuzz_config.py bombs` does the same with the texts of config_bombs.py.
"""

from __future__ import annotations

import collections
import contextlib
import resource
import sys
import time
import warnings

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import config_bombs
from lossreg import Config, ConfigError, registry

NAMES = registry.losses.names()
OPTIONS = [
    "names", "delta", "reduction", "label_smoothing", "class_weight", "missing_value", "neg_prefix", "x", "*", "wrt",
    "normalize", "validate", "@losses", "@ops", "@metrics", "__class__", "a.b", "", "self", "option_0", "ignore_index",
]  # fmt: skip
SECTIONS = [
    "loss",
    "a",
    "b",
    "a.b",
    "a.b.c",
    "loss.terms",
    "loss.terms.*",
    "loss.*.x",
    "*",
    "DEFAULT",
    "a.",
    ".a",
    "",
    "h",
    "@x",
]

variables = st.sampled_from(SECTIONS + OPTIONS).flatmap(
    lambda first: st.sampled_from(
        [f"${{{first}}}", f"${{a.{first}}}", f"${{{first}:x}}", "${h.a}", "$$", "$", "${", "${}"]
    )
)
atoms = st.one_of(
    st.sampled_from([f'"{name}"' for name in NAMES] + [f'"{name[:-1]}"' for name in NAMES[:5]]),
    st.sampled_from(
        ['"mean"', '"sum"', "true", "null", "None", "NaN", "Infinity", "-1", "0", "3", "0.1", "1e999", "{}", "[]"]
    ),
    st.sampled_from(
        ['["a","b"]', '{"@losses": "Huber.v1"}', '[{"@losses": "Huber.v1"}]', "[0.5, 2]", '"a', "'a'", "[" * 2000]
    ),
    variables,
    st.text(max_size=12),
)
values = st.lists(atoms, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(
        ["".join(parts), f"[{','.join(parts)}]", f'"{"".join(parts)}"', '["' + '","'.join(parts) + '"]']
    )
)
lines = st.one_of(
    st.tuples(st.sampled_from(OPTIONS), st.sampled_from([" = ", "=", ": ", " "]), values).map("".join),
    st.tuples(st.just("@losses = "), st.sampled_from([f'"{name}"' for name in NAMES])).map("".join),
    st.sampled_from(["# comment", "; comment", "   indented = 1", "\t", "no value", "x = ${a} ${a} ${a} ${a}"]),
    st.text(max_size=20),
)
sections = st.tuples(st.sampled_from(SECTIONS).map(lambda name: f"[{name}]"), st.lists(lines, max_size=5)).map(
    lambda parts: "\n".join([parts[0], *parts[1]])
)
multiplying = st.integers(2, 30).map(  # each section holds the next one several times
    lambda depth: "\n".join(
        [f"[s{i}]\n" + "\n".join(f"k{j} = ${{s{i + 1}}}" for j in range(4)) for i in range(depth)]
        + [f"[s{depth}]\nx = 1"]
    )
)
doubling = st.integers(2, 9).map(  # each option is the next one many times
    lambda depth: "[v]\n" + "\n".join(f'o{i} = "{f"${{v.o{i + 1}}}" * 20}"' for i in range(depth)) + f'\no{depth} = "x"'
)


def plausible(spoiled: int) -> st.SearchStrategy[str]:
    """Sound configs, but for a line or section or two."""
    return st.tuples(
        st.sampled_from(NAMES),
        st.lists(
            st.sampled_from([
                "delta = 2", "normalize = false", 'names = ["a","b"]', "names = ${h.names}", 'neg_prefix = "!"', 'wrt = "probs"',
                'reduction = "sum"', "label_smoothing = 0.1", 'missing_value = ""', "temperature = ${h.x}", "ignore_index = -1",
            ]),
            max_size=2,
            unique=True,
        ),
        st.lists(lines, max_size=spoiled),
        st.lists(sections, max_size=spoiled),
    ).map(
        lambda parts: "\n".join(
            ["[h]", 'a = "cat"', "x = 0.5", 'names = ["a","b"]', "[loss]", f'@losses = "{parts[0]}"', *parts[1], *parts[2], *parts[3]]
        )
    )  # fmt: skip


texts = st.one_of(
    plausible(0),
    plausible(1),
    st.lists(sections, max_size=5).map("\n".join),
    st.text(max_size=80),
    multiplying,
    doubling,
)
overrides = st.dictionaries(
    st.sampled_from(["loss.delta", "loss.names", "a.b", "a", "", "h.a", "loss", ".", "a.b.c.d"]),
    st.sampled_from([1, -1.0, "x", None, ["a"], "${loss}", {"@losses": "Huber.v1"}]),
    max_size=1,
)
outcomes: collections.Counter[str] = collections.Counter()
slowest = 0.0


def read(text: str, changes: dict[str, object], interpolate: bool) -> None:
    global slowest
    start = time.perf_counter()
    config = Config({"before": {"x": 1}})
    try:
        config.from_str(text, interpolate=interpolate, overrides=changes)
        outcomes["read"] += 1
        resolved = registry.resolve(config)
        outcomes["resolved"] += 1
        outcomes["with a loss"] += any(hasattr(value, "get_grad") for value in resolved.values())
    except ConfigError:
        outcomes["ConfigError"] += 1
        if config == {"before": {"x": 1}}:
            outcomes["left as it was"] += 1
    with contextlib.suppress(ConfigError):
        registry.fill(config)
    if len(text) < 2000:
        with contextlib.suppress(ConfigError):
            again = config.to_str()
            outcomes["written"] += 1
            if len(again) < 20_000:  # confection compares all sections with all others
                with contextlib.suppress(ConfigError):
                    Config().from_str(again)
    slowest = max(slowest, time.perf_counter() - start)


def peak_memory() -> float:
    """In MB. A new process begins with the peak of the one that started it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int, start: int) -> None:
    warnings.simplefilter("ignore")
    inherited = peak_memory()

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(texts, overrides, st.booleans())
    def run(text: str, changes: dict[str, object], interpolate: bool) -> None:
        outcomes["texts"] += 1
        read(text, changes, interpolate)

    run()
    peak = peak_memory()
    print(f"{dict(outcomes)}; slowest {slowest:.2f} s; peak memory {peak:.0f} MB")
    assert outcomes["texts"] >= count
    assert peak < max(500, inherited + 1), "memory"
    assert slowest < 10, "time"


if __name__ == "__main__":
    if sys.argv[1] == "bombs":
        config_bombs.main()
    else:
        main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
