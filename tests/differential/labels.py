"""Random labels in every form that docs/truths.md lists, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .drawing import INTEGERS, Draw, cast, widen
from .reference import Labels

__all__ = ["LabelDraw", "draw_dense", "draw_labels", "draw_options"]

ANIMALS = ["cat", "dog", "bird", "emu", "", "!", "cat dog", "Ärger", "x" * 40, "0", "None", "-1"]


@dataclass
class LabelDraw:
    """The labels of rows, one object each, and what they mean."""

    meaning: Labels
    atoms: list[Any] | None = None
    """Labels as a list holds them."""
    rows: np.ndarray | None = None
    """Dense rows instead."""
    ids: bool = False
    """Whether an array of integers can hold them."""
    names: bool = False
    """Whether all are texts."""


def draw_options(d: Draw, classes: int, kinds: str) -> dict[str, Any]:
    """Options of labels. kinds: which of names, missing_value, neg_prefix, ignore_index a calculator has."""
    options: dict[str, Any] = {}
    if "names" in kinds and d.chance(0.4):
        pool = (
            ANIMALS[:4] + [f"c{i}" for i in range(classes)]
            if d.chance(0.8)
            else ANIMALS + [f"{i}" for i in range(1, classes)]
        )
        pool = list(dict.fromkeys(pool))
        d.r.shuffle(pool)
        options["names"] = tuple(pool[:classes])
    if "neg_prefix" in kinds and "names" in options and d.chance(0.6):
        prefix = d.pick(["!", "not ", "~"])
        if not any(name.startswith(prefix) and name[len(prefix) :] in options["names"] for name in options["names"]):
            options["neg_prefix"] = prefix
    if "missing_value" in kinds and d.chance(0.4):
        value = d.pick(["?", "n/a", -1, 999, d.r.randrange(classes), 0])
        if value not in options.get("names", ()):
            options["missing_value"] = value
    if "ignore_index" in kinds and d.chance(0.3):
        options["ignore_index"] = d.pick([-1, -7, 255, d.r.randrange(classes)])
    return options


def draw_labels(d: Draw, n: int, classes: int, options: dict[str, Any], *, sets: bool, ignores: bool) -> LabelDraw:
    """n labels; sets: of candidates too; ignores: the calculator has an `ignore_index`."""
    names, prefix = options.get("names"), options.get("neg_prefix")
    unknown = {options.get("missing_value")}
    if ignores:
        unknown.add(options.get("ignore_index", -100))
    usable = [c for c in range(classes) if c not in unknown]
    kind = d.weighted(ids=50, names=20 if names else 0, mixed=20, sets=15 if sets else 0)
    if kind == "ids" and not usable:
        kind = "mixed"
    meaning = Labels(np.zeros((n, classes), bool), present=np.ones(n, bool), negated=np.zeros(n, bool))
    if n > 1000:
        kind = "ids" if usable else "mixed"
    if kind == "ids":
        return plain_ids(d, n, usable, unknown, meaning)
    atoms = [draw_atom(d, i, kind, usable, unknown, names, prefix, meaning) for i in range(n)]
    texts = n > 0 and all(isinstance(atom, str) for atom in atoms)
    return LabelDraw(meaning, atoms, names=texts)


def plain_ids(d: Draw, n: int, usable: list[int], unknown: set[Any], meaning: Labels) -> LabelDraw:
    """Ids alone, and those that mean missing."""
    ids = np.array(usable)[d.rng.integers(0, len(usable), n)]
    missing = [i for i in unknown if isinstance(i, int)]
    if missing and d.chance(0.5):
        gone = d.rng.random(n) < 0.3
        ids = np.where(gone, d.pick(missing), ids)
        meaning.present = ~gone
    rows = np.arange(n)
    meaning.members[rows, np.where(meaning.present, ids, 0)] = True
    return LabelDraw(meaning, ids.tolist(), ids=True)


def draw_atom(d: Draw, row: int, kind: str, usable: Any, unknown: Any, names: Any, prefix: Any, meaning: Labels) -> Any:
    """One label; writes down what it means."""
    classes = meaning.members.shape[1]
    missing = [None, *(x for x in unknown if x is not None)]
    if kind == "sets" and d.chance(0.6):
        return draw_set(d, row, usable, names, prefix, meaning)
    what = d.weighted(
        id=3 if usable else 0, name=4 if names else 0, negated=2 if prefix and classes > 1 else 0, missing=1
    )
    if kind == "names":
        what = d.weighted(name=4, negated=2 if prefix and classes > 1 else 0, text=1)
        if what == "text" and not any(isinstance(x, str) for x in missing):
            what = "name"
    if what in ("missing", "text"):
        meaning.present[row] = False
        meaning.members[row, 0] = True
        return d.pick([x for x in missing if what == "missing" or isinstance(x, str)])
    if what == "id":
        label = d.pick(usable)
        meaning.members[row, label] = True
        return d.pick([label, np.int64(label), np.int8(label), np.array(label)]) if d.chance(0.3) else label
    label = d.r.randrange(classes)
    meaning.members[row] = what == "negated"
    meaning.members[row, label] = what == "name"
    meaning.negated[row] = what == "negated"
    return prefix + names[label] if what == "negated" else names[label]


def draw_set(d: Draw, row: int, usable: Any, names: Any, prefix: Any, meaning: Labels) -> Any:
    """A set of labels, all of them plain or all negated; None alone is missing."""
    classes = meaning.members.shape[1]
    container = d.pick([set, frozenset, list, tuple])
    pool = list(range(classes)) if names else list(usable)
    if not pool or d.chance(0.08):
        meaning.present[row], meaning.members[row, 0] = False, True
        return container([None])
    negated = prefix is not None and classes > 1 and d.chance(0.3)
    most = min(len(pool), classes - 1 if negated or (container in (list, tuple) and classes > 1) else classes)
    chosen = d.r.sample(pool, d.r.randint(1, max(1, most)))
    meaning.members[row] = negated
    meaning.members[row, chosen] = not negated
    meaning.negated[row] = negated
    if negated:
        return container([prefix + names[c] for c in chosen])
    labels = []
    for c in chosen:
        by_name = names and (c not in usable or d.chance(0.5))
        labels.append(names[c] if by_name else d.pick([c, np.int32(c)]))
    return container(labels)


def draw_dense(d: Draw, n: int, classes: int, options: dict[str, Any]) -> LabelDraw:
    """Rows of numbers in [0, 1] in any real dtype."""
    kind = d.weighted(simplex=4, hot=3, soft=2, any=2, bits=2)
    if kind == "simplex":
        rows = d.rng.dirichlet(np.ones(classes), n)
    elif kind in ("hot", "soft"):
        rows = np.eye(classes)[d.rng.integers(0, classes, n)].reshape(n, classes)
        if kind == "soft":
            rows = 0.9 * rows + 0.1 / classes
    elif kind == "any":
        rows = d.rng.random((n, classes)) * (d.rng.random((n, classes)) < 0.8)
    else:
        rows = (d.rng.random((n, classes)) < 0.4).astype(float)
    floats = ["float16", "bfloat16", "float32", "float64", "float32", "float64"]
    dtype = d.pick(floats + (["bool", "int64", "uint8"] if kind in ("hot", "bits") else []))
    stored = cast(rows.reshape(n, classes), dtype)
    dense = widen(stored)
    present = np.ones(n, bool)
    missing = options.get("missing_value")
    if isinstance(missing, int) and n:
        present = dense.argmax(axis=1) != missing
    return LabelDraw(Labels(dense=dense, present=present), rows=stored)


def hold(d: Draw, drawn: LabelDraw, atoms: list[Any], shape: tuple[int, ...]) -> Any:
    """Labels of a shape in a list, a tuple or an array."""
    forms = dict(list=4, tuple=2)
    if drawn.ids:
        forms["ids"] = 14
    if drawn.names:
        forms["texts"] = 4
    if all(not isinstance(a, np.ndarray) for a in atoms):
        forms["objects"] = 2
    form = d.weighted(**forms)
    if form == "ids":
        low, high = min(atoms, default=0), max(atoms, default=0)
        fitting = [i for i in INTEGERS if np.iinfo(i).min <= low and high <= np.iinfo(i).max]
        if low >= 0 and high <= 1:
            fitting.append("bool")
        return d.lay(
            np.array(
                atoms, d.pick([*fitting, "int64", "int64"] if d.chance(0.7) or "int64" in fitting else fitting)
            ).reshape(shape)
        )
    if form == "texts":
        return np.array(atoms, str).reshape(shape)
    if form == "objects":
        made = np.empty(len(atoms), object)
        made[:] = atoms
        return made.reshape(shape)
    return nest(atoms, shape, list if form == "list" else tuple)


def nest(atoms: list[Any], shape: tuple[int, ...], container: Any) -> Any:
    """Labels as nested lists or tuples."""
    if len(shape) <= 1:
        return container(atoms)
    step = int(np.prod(shape[1:]))
    return container(nest(atoms[i * step : (i + 1) * step], shape[1:], container) for i in range(shape[0]))
