"""Random cases: a calculator with options, and a call in some dtype, layout, arrangement and backend.

A seed makes a case, and the same one each time. What the reference needs to know of it is in `Case.problem`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .calculators import RECIPES, Spec
from .drawing import DTYPES, Arrangement, Draw, cast, widen
from .labels import LabelDraw, hold
from .reference import Labels, Problem

__all__ = ["Case", "draw_case"]

BACKENDS = ("numpy", "llvm", "generic") if importlib.util.find_spec("llvmlite") else ("numpy", "generic")
BACKEND_WEIGHTS = {"numpy": 5, "llvm": 5, "generic": 1, "cuda": 1}
"""CUDA text runs on the CPU where it is asked for: each kernel takes a second to compile."""
REDUCTIONS = ("mean", "sum", "none", "batch_mean", "weighted_mean", "sequence_mean")
NAMES = tuple(RECIPES)


@dataclass
class Case:
    """One call of lossreg, and what it means."""

    seed: int
    name: str
    options: dict[str, Any]
    """Those of the registered name; of "Sequence.v1" where the guesses are padded."""
    spec: Spec
    problem: Problem
    dtype: str
    """Of the guesses."""
    guesses: Any
    truths: Any
    call: dict[str, Any]
    """mask, sample_weight, out."""
    method: str
    backend: str
    threads: int
    has_truths: bool
    out: str = "none"
    mistake: str = ""
    """What was made wrong, for which an error is right."""
    traits: set[str] = field(default_factory=set)

    @property
    def computed(self) -> str:
        """The dtype of guesses as lossreg sees them."""
        return self.dtype if self.dtype in DTYPES else "float64"

    def __str__(self) -> str:
        arrangement = self.spec.arrangement.kind
        call = ", ".join(f"{k}={short(v)}" for k, v in self.call.items())
        sizes = " ".join(str(x.shape) for x in self.problem.guesses)
        return (
            f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.options.items())}).{self.method} on {self.backend}"
            f" with {self.threads} threads: {self.dtype} {sizes} as {arrangement}, truths {short(self.truths)}"
            f"{', ' + call if call else ''}{', out=' + self.out if self.out != 'none' else ''}"
        )


def short(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return f"{x.dtype}{x.shape}"
    text = " ".join(repr(x).split())
    return text if len(text) < 100 else text[:97] + "..."


def draw_case(seed: int, only: str | None = None, backends: tuple[str, ...] = BACKENDS) -> Case:
    """The case of a seed."""
    with np.errstate(all="ignore"):
        return _draw_case(Draw(seed), seed, only, backends)


def _draw_case(d: Draw, seed: int, only: str | None, backends: tuple[str, ...]) -> Case:
    name = d.pick(NAMES)
    name = only or name
    d.backend = d.weighted(**{b: BACKEND_WEIGHTS[b] for b in backends})
    d.dtype = d.weighted(float32=42, float64=26, float16=12, bfloat16=10, int64=4, int32=2, uint8=2, bool=1)
    spec = RECIPES[name](d, name)
    if spec.fractions and not d.floats:
        d.dtype = "float64"
    guesses = [whole(x, d.dtype) for x in spec.guesses] if not d.floats else spec.guesses
    stored = [cast(x, d.dtype) for x in guesses]
    limits = np.finfo(
        np.float16 if d.dtype == "float16" else np.float64 if d.dtype not in ("float32", "bfloat16") else np.float32
    )
    problem = Problem(
        name, dict(spec.options), tuple(map(widen, stored)), None, spec.values_shape,
        tiny=float(limits.tiny), most=float(limits.max), eps=2.0**-23 if d.dtype in ("float16", "bfloat16", "float32") else 2.0**-52, unit=spec.unit, tags=set(spec.tags),
    )  # fmt: skip
    thinc, arrangement = "thinc" in spec.tags, spec.arrangement
    if arrangement.kind != "array" and spec.layout != "time":
        problem.lengths = arrangement.lengths
    problem.truths, numbers = read_truths(d, spec)
    call, traits = {}, set()
    if (
        isinstance(spec.truths, LabelDraw)
        and spec.truths.rows is not None
        and spec.truths.rows.dtype.name == "bfloat16"
    ):
        traits.add("bfloat16 rows")
    if not thinc:
        draw_common_options(d, name, problem)
        for what in ("mask", "sample_weight"):
            padding = (
                what == "mask" and arrangement.kind == "padded" and not arrangement.whole and spec.truth_kind == "none"
            )
            if padding or d.chance(0.4 if what == "mask" else 0.3):
                call[what], plain = draw_item_array(d, what, spec, problem)
                setattr(problem, what, plain)
    kept = (
        np.ones(spec.values_shape, bool)
        if problem.mask is None
        else np.broadcast_to(problem.mask != 0, spec.values_shape)
    )
    if not thinc and d.floats:
        stored = plant(d, spec, problem, stored, kept)
    if not thinc and d.floats and d.chance(0.5 if spec.layout == "time" else 0.02):
        stored = poison(d, spec, problem, stored)
    truths = hold_truths(d, spec, numbers, kept if d.chance(0.5) else np.ones_like(kept))
    arranged = [arrange(d, spec, x) for x in stored]
    several = len(spec.guesses) > 1
    options = dict(problem.options)
    registered = name
    if arrangement.kind == "padded":
        registered, options = "Sequence.v1", wrap(d, name, options)
    case = Case(
        seed, registered, options, spec, problem, d.dtype, tuple(arranged) if several else arranged[0], truths, call,
        "", d.backend, d.pick([1, 2, 3]),
        spec.truth_kind != "none" or d.chance(0.5), traits=traits,
    )  # fmt: skip
    if thinc:
        case.method = d.weighted(call=4, get_grad=1, get_loss=1)
        return case
    case.method = d.weighted(
        call=38, get_grad=13, get_loss=13, get_values=10, get_state=6, split=8, get_state_and_grad=12
    )
    if case.method == "split" and not splits(case):
        case.method = "get_state"
    if case.method in ("call", "get_grad", "get_state_and_grad") and d.chance(0.25):
        draw_out(d, case)
    if d.chance(0.05):
        make_mistake(d, case)
    return case


def wrap(d: Draw, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of `Sequence`, with the calculator to make inside."""
    outer = {}
    if d.chance(0.5):
        outer = {k: options.pop(k) for k in ("reduction", "normalize_by", "validate") if k in options}
    return {"inner": (name, options), **outer}


def whole(x: np.ndarray, dtype: str) -> np.ndarray:
    """Whole numbers that a dtype holds."""
    x = np.rint(np.nan_to_num(x))
    if dtype == "bool":
        return (x > 0).astype(float)
    if dtype == "uint8":
        return np.clip(abs(x), 0, 255)
    return np.clip(x, -1e6, 1e6)


def draw_common_options(d: Draw, name: str, problem: Problem) -> None:
    """reduction, normalize_by, validate, per_token, check_finite."""
    o = problem.options
    if d.chance(0.6):
        o["reduction"] = d.pick(REDUCTIONS)
    if d.chance(0.2):
        o["normalize_by"] = "values"
    if d.chance(0.15):
        o["validate"] = d.pick(["full", "shape"])
    if name in ("CrossEntropy.v1", "LinearCrossEntropy.v1"):
        if o.get("reduction", "mean") not in ("sum", "none") and d.chance(0.08):
            o["per_token"] = True
        if d.chance(0.05) and all(np.isfinite(x).all() for x in problem.guesses):
            o["check_finite"] = True


# Truths


def read_truths(d: Draw, spec: Spec) -> tuple[Any, Any]:
    """(what the reference takes, the array that is handed over)."""
    if spec.truth_kind in ("numbers", "signs", "rows"):
        numbers = np.asarray(spec.truths, float)
        if spec.layout == "broadcast" and d.chance(0.3):
            numbers = numbers[:1] if numbers.ndim else numbers
        dtypes = [d.dtype if d.floats else "float64"] * 3 + ["float64", "float32", "float16", "bfloat16"]
        if d.plain:
            dtypes = dtypes[:4]
        elif np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all() and (abs(numbers) < 100).all():
            dtypes += ["int64", "int8"] + (["uint8"] if (numbers >= 0).all() else [])
            dtypes += ["bool"] if ((numbers == 0) | (numbers == 1)).all() else []
        if spec.truth_kind == "rows" and spec.arrangement.kind in (
            "list",
            "padded",
        ):  # lists of whole numbers are sets of labels
            dtypes = dtypes[:7]
        stored = cast(numbers, d.pick(dtypes))
        plain = np.broadcast_to(widen(stored), spec.values_shape) if spec.truth_kind != "rows" else widen(stored)
        if spec.truth_kind == "rows":
            plain = Labels(dense=plain)
        return plain, stored
    if isinstance(spec.truths, LabelDraw):
        meaning = spec.truths.meaning
        if meaning.present is not None and meaning.present.all():
            meaning = replace(meaning, present=None)
        return flatten_meaning(meaning), spec.truths
    return spec.truths, spec.truths


def flatten_meaning(meaning: Labels) -> Labels:
    """Without marks that nothing needs."""
    negated = meaning.negated
    return replace(meaning, negated=None if negated is None or not negated.any() else negated)


def hold_truths(d: Draw, spec: Spec, truths: Any, kept: np.ndarray) -> Any:
    """Truths as a caller has them; where they are not kept they hold anything."""
    if spec.truth_kind == "none":
        return None
    if spec.truth_kind == "alignment":
        return hold_targets(d, spec, truths, kept)
    if isinstance(truths, np.ndarray):
        return hold_numbers(d, spec, truths, kept)
    if truths.rows is not None:
        return hold_rows(d, spec, truths.rows, kept)
    return hold_labels(d, spec, truths, kept)


def hold_numbers(d: Draw, spec: Spec, truths: np.ndarray, kept: np.ndarray) -> Any:
    truths = truths.copy()
    masked = ~kept if spec.truth_kind != "rows" else np.broadcast_to(~kept[..., None], truths.shape)
    if truths.shape == masked.shape and (truths.dtype.kind in "f" or truths.dtype.name == "bfloat16"):
        truths[masked] = spec.garbage
    held = spread(d, spec.arrangement, truths, 0)
    if isinstance(held, np.ndarray) and held.dtype.kind in "fi" and 0 < held.size < 200 and d.chance(0.06):
        # Lists of 0 and 1 without a point are labels.
        has_points = held.dtype.kind == "f" or spec.layout != "vectors"
        return held if "thinc" in spec.tags or not held.ndim or not has_points else held.tolist()
    return held


def hold_rows(d: Draw, spec: Spec, rows: np.ndarray, kept: np.ndarray) -> Any:
    """Dense rows, where the guesses have their classes."""
    rows = rows.copy()
    if spec.truth_kind == "multi":
        rows[~kept.reshape(len(rows))] = 99
    elif rows.dtype.kind == "f":
        rows[~kept.reshape(len(rows))] = 3.0
    plain = spec.arrangement.kind == "array" and len(spec.values_shape) == 1 and spec.truth_kind == "labels"
    if plain and rows.dtype.kind == "f" and 0 < rows.size < 200 and d.chance(0.25):
        return rows.tolist() if d.chance(0.6) else list(rows)
    shaped = rows.reshape(*spec.values_shape, rows.shape[-1])
    if spec.layout == "classes" and shaped.ndim > 2:
        shaped = np.moveaxis(shaped, -1, 1)
    return spread(d, spec.arrangement, shaped, 0)


def hold_labels(d: Draw, spec: Spec, drawn: LabelDraw, kept: np.ndarray) -> Any:
    """Labels in a list, an array or parts of them; unknown ones where the mask hides them."""
    atoms, shape = list(drawn.atoms or []), spec.values_shape
    hidden = np.flatnonzero(~kept.ravel())
    strange = [-5, 10**6] if drawn.ids else ["what?", None, -5, 10**6]
    if drawn.names:
        strange = ["what?"]
    if spec.truth_kind == "multi":
        strange = [{99}, None, {"what?"}]
    for i in hidden:
        if d.chance(0.5):
            atoms[i] = d.pick(strange)
    if not shape:  # one example: a list would not be told from a batch
        return atoms[0] if not isinstance(atoms[0], (list, tuple)) else set(atoms[0])
    if spec.truth_kind == "multi":
        return [list(part) for part in spec.arrangement.parts(atoms)] if spec.arrangement.kind == "list" else atoms
    arrangement = spec.arrangement
    if arrangement.kind == "array" or (arrangement.kind == "ragged" and d.chance(0.4) and len(shape) == 1):
        return hold(d, drawn, atoms, shape)
    inner = int(np.prod(shape[1:]))
    ends = np.cumsum(arrangement.lengths, dtype=int) * inner
    parts = []
    alike = d.chance(0.5)
    for end, n in zip(ends.tolist(), arrangement.lengths or ()):
        part = atoms[end - n * inner : end]
        parts.append(part if alike and len(shape) == 1 else hold(d, drawn, part, (n, *shape[1:])))
    if arrangement.kind == "padded" and arrangement.whole and drawn.ids and d.chance(0.6):
        return np.array(atoms, int).reshape(len(parts), arrangement.longest)
    return parts


def hold_targets(d: Draw, spec: Spec, truths: list[Any], kept: np.ndarray) -> Any:
    """Targets of CTC and their lengths."""
    import lossreg

    frames, kind = spec.arrangement.longest, spec.arrangement.kind
    targets, lengths = [target for target, _ in truths], [own for _, own in truths]
    single = not spec.values_shape
    classes = spec.guesses[0].shape[2]
    form = d.weighted(padded=5, lists=3, joined=2, ragged=1)
    if single and form == "lists":
        form = "padded"
    own_lengths: Any = [len(target) for target in targets]
    if form == "lists":
        held: Any = [d.pick([list, np.array])(target) if target else [] for target in targets]
        own_lengths = d.pick([own_lengths, None]) if held else own_lengths
    elif form == "padded":
        width = max(own_lengths, default=0) + d.pick([0, 1])
        held = np.full((len(targets), width), d.pick([-1, 0, classes, 99]))
        for row, target in zip(held, targets):
            row[: len(target)] = target
        held = held[0] if single else held
    else:
        held = np.array([c for target in targets for c in target], int)
        if form == "ragged":
            held, own_lengths = lossreg.Ragged(held, np.array(own_lengths, int)), None
    inputs: Any = lengths
    if form == "padded" and not single:
        lengths = [own if keep else 999 for own, keep in zip(lengths, kept)]
        own_lengths = [n if keep else d.pick([n, 77]) for n, keep in zip(own_lengths, kept)]
        inputs = lengths
    if all(own == frames for own in lengths) or kind in ("list", "ragged"):
        inputs = d.pick([None, inputs]) if kind == "array" else None
    if kind in ("list", "ragged") and own_lengths is None and not single:
        return held if d.chance(0.5) and not isinstance(held, tuple) else (held, None, None)
    inputs, own_lengths = (
        x if x is None or d.chance(0.4) else np.array(x, d.pick(["int64", "int32"])) for x in (inputs, own_lengths)
    )
    return held, inputs, own_lengths


# Arrangements


def spread(d: Draw, arrangement: Arrangement, x: np.ndarray, fill: Any) -> Any:
    """Items as the guesses are arranged."""
    import lossreg

    if arrangement.kind == "array":
        return d.lay(x)
    if arrangement.kind == "list" or not arrangement.whole:
        return [d.lay(part) for part in arrangement.parts(x)]
    if arrangement.kind == "ragged":
        lengths: Any = np.array(arrangement.lengths, int) if d.chance(0.7) else list(arrangement.lengths or ())
        return lossreg.Ragged(d.lay(x), lengths)
    return d.lay(arrangement.padded(x, fill))


def arrange(d: Draw, spec: Spec, x: np.ndarray) -> Any:
    """Guesses as a caller has them."""
    import lossreg

    kind = spec.arrangement.kind
    if spec.layout == "time":
        lengths = spec.arrangement.lengths or ()
        if kind == "list":
            return [d.lay(x[:n, i].copy()) for i, n in enumerate(lengths)]
        if kind == "ragged":
            parts = [x[:n, i] for i, n in enumerate(lengths)]
            return lossreg.Ragged(
                np.concatenate(parts) if parts else np.zeros((0, x.shape[2]), x.dtype), np.array(lengths, int)
            )
        return d.lay(x if spec.values_shape else x[:, 0])
    x = moved(spec, x)
    if kind == "padded":
        return d.lay(spec.arrangement.padded(x, np.nan if x.dtype.kind == "f" else 0))
    return spread(d, spec.arrangement, x, 0)


def moved(spec: Spec, x: np.ndarray) -> np.ndarray:
    """Classes on the axis where the calculator wants them."""
    if spec.layout == "classes" and x.ndim > 2:
        return np.moveaxis(x, -1, 1)
    return np.moveaxis(x, -1, spec.layout) if isinstance(spec.layout, int) else x


def unmoved(spec: Spec, x: np.ndarray) -> np.ndarray:
    """The way back."""
    if spec.layout == "classes" and x.ndim > 2:
        return np.moveaxis(x, 1, -1)
    return np.moveaxis(x, spec.layout, -1) if isinstance(spec.layout, int) else x


def plant(d: Draw, spec: Spec, problem: Problem, stored: list[np.ndarray], kept: np.ndarray) -> list[np.ndarray]:
    """NaN, infinities and large numbers where mask, missing truths or weights of 0 leave items out."""
    gone = ~kept
    truths = problem.truths
    if isinstance(truths, Labels) and truths.present is not None:
        gone = gone | ~truths.present.reshape(kept.shape)
    if problem.sample_weight is not None and "coupled" not in spec.tags and spec.layout not in ("linear", "time"):
        gone = gone | np.broadcast_to(problem.sample_weight == 0, kept.shape)
    if not gone.any() or spec.layout == "broadcast" or d.chance(0.3):
        return stored
    made = []
    for i, x in enumerate(stored):
        x = x.copy()
        where = gone if not x.shape or x.ndim == gone.ndim else gone[..., None]
        if spec.layout == "linear" and i > 0:  # the weight and the bias belong to all rows
            made.append(x)
            continue
        if spec.layout == "time":
            where = gone.reshape(1, -1, 1)
        if gone.ndim and problem.name == "PairwiseDistance.v1" and problem.options.get("keepdims"):
            where = gone
        x[np.broadcast_to(where, x.shape)] = d.pick([np.nan, np.inf, -np.inf, 6e4, -1.0])
        made.append(x)
    return made


def poison_unread(d: Draw, spec: Spec, problem: Problem, stored: list[np.ndarray]) -> list[np.ndarray]:
    """A NaN of a class that no path of CTC goes through: neither the values nor the other slopes have it."""
    read = {problem.options.get("blank", 0)}.union(*(target for target, _ in spec.truths))
    unread = [c for c in range(stored[0].shape[2]) if c not in read]
    if not unread or not stored[0].size:
        return stored
    c, x, plain = unread[0], stored[0].copy(), problem.guesses[0].copy()
    x[..., c] = plain[..., c] = np.nan
    problem.guesses = (plain,)
    problem.tags.add("nan")
    return [x]


def poison(d: Draw, spec: Spec, problem: Problem, stored: list[np.ndarray]) -> list[np.ndarray]:
    """A NaN that counts: the loss must show it."""
    rate = problem.name == "PoissonNLL.v1" and not problem.options.get("log_input", True)
    if spec.layout == "time":
        return poison_unread(d, spec, problem, stored)
    special = "coupled" in spec.tags or spec.layout in ("linear", "broadcast") or problem.options.get("check_finite")
    if spec.unit or rate or special or not stored[0].size:
        return stored
    place = d.r.randrange(stored[0].size)
    first = stored[0].copy()
    first.reshape(-1)[place] = np.nan
    plain = problem.guesses[0].copy()
    plain.reshape(-1)[place] = np.nan
    problem.guesses = (plain, *problem.guesses[1:])
    problem.tags.add("nan")
    return [first, *stored[1:]]


# Masks and weights


def draw_item_array(d: Draw, what: str, spec: Spec, problem: Problem) -> tuple[Any, np.ndarray]:
    """(a mask or weights as a caller has them, the same numbers in a shape that broadcasts to the values)."""
    arrangement, shape = spec.arrangement, spec.values_shape
    if arrangement.kind in ("list", "ragged", "padded") and spec.layout != "time":
        return draw_parts(d, what, spec)
    flat = problem.name in ("CrossEntropy.v1", "LinearCrossEntropy.v1") and what == "mask"
    if what == "sample_weight" and d.chance(0.1):
        value = d.pick([0.5, 2, 1e-8, 3.0, 0.0])
        return value, np.array(float(value))
    size = draw_broadcast(d, shape)
    stored = draw_factors(d, what, size)
    plain = widen(stored)
    if flat and size == shape and stored.size and d.chance(0.15):
        stored = stored.reshape(d.pick([(-1,), (1, *shape), (*shape, 1)]))
        if stored.dtype.kind in "fiub" and d.chance(0.4):
            return stored.tolist(), plain
    if stored.ndim and stored.size < 200 and stored.dtype.kind in "fiub" and d.chance(0.12):
        return (stored.tolist() if stored.size else stored), plain
    return d.lay(stored), plain


def draw_broadcast(d: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to the values and cannot be read in two ways."""
    if d.chance(0.65):
        return shape
    size = tuple(1 if d.chance(0.5) else n for n in shape)[d.pick([0, 0, len(shape) // 2]) :]
    ambiguous = 0 < len(size) < len(shape) and size == shape[: len(size)]
    return shape if ambiguous else size


def draw_factors(d: Draw, what: str, size: tuple[int, ...]) -> np.ndarray:
    if what == "mask":
        kind = d.weighted(bools=5, bits=2, fractions=3, none=0.5)
        keep = d.rng.random(size) < (0.0 if kind == "none" else 0.7)
        if kind in ("bools", "none"):
            return np.asarray(keep)
        if d.plain:
            return np.asarray(keep if kind == "bits" else keep * d.rng.random(size))
        if kind == "bits":
            return np.asarray(keep).astype(d.pick(["int64", "uint8", "float32", "int8"]))
        return cast(np.asarray(keep * d.rng.random(size)), d.pick(["float16", "float32", "float64", "bfloat16"]))
    kind = d.weighted(ordinary=6, zeros=2, whole=0 if d.plain else 1, wide=1.5, beyond=0.25)
    x = np.asarray(d.rng.random(size) * 2)
    if kind == "zeros":
        x = x * (d.rng.random(size) < 0.6)
    if kind == "whole":
        return np.asarray(d.rng.integers(0, d.pick([3, 3, 200]), size)).astype(d.pick(["int64", "uint8", "int16"]))
    if kind == "wide":
        return cast(
            np.asarray(x * 10.0 ** d.rng.uniform(-8, 8, size)), "float64" if d.plain else d.pick(["float32", "float64"])
        )
    if kind == "beyond":
        return np.asarray(
            # float32 holds what is 1e-38 of the largest weight of a call, whatever size that has
            x * 10.0 ** d.rng.uniform(-12, 12, size) * d.pick([1.0, 1e-50, 1e38, 1e-280, 1e250])
        )
    return cast(
        np.asarray(x), "float64" if d.plain else d.pick(["float16", "float32", "float64", "float64", "bfloat16"])
    )


def draw_parts(d: Draw, what: str, spec: Spec) -> tuple[Any, np.ndarray]:
    """Beside sequences: one number for each item, or for each value."""
    arrangement, shape = spec.arrangement, spec.values_shape
    inner = shape[1:]
    full = bool(inner) and d.chance(0.5)
    if arrangement.kind == "padded" and (arrangement.whole or spec.truth_kind != "none") and d.chance(0.5):
        rows, columns = len(arrangement.lengths or ()), arrangement.longest
        size = d.pick([(rows, columns), (rows, columns), (1, columns), (rows, 1)]) + (inner if full else ())
        stored = draw_factors(d, what, size)
        every = np.broadcast_to(widen(stored), (rows, columns, *size[2:]))
        plain = arrangement.items(every) if rows else every.reshape(0, *size[2:])
        held = d.lay(stored)
    else:
        stored = draw_factors(d, what, (arrangement.n, *(inner if full else ())))
        plain = widen(stored)
        if arrangement.kind == "padded" and not arrangement.whole and spec.truth_kind == "none":
            held = [d.lay(part) for part in arrangement.parts(stored)]
        elif arrangement.kind == "ragged" and d.chance(0.3):
            held = d.lay(stored)
        else:
            held = spread(d, arrangement, stored, 0)
    return held, plain.reshape(*plain.shape, *(1 for _ in range(len(shape) - plain.ndim)))


# Results


def splits(case: Case) -> bool:
    """Whether the parts of the batch are a batch each."""
    arrangement, spec = case.spec.arrangement, case.spec
    if spec.layout in ("time", "linear", "broadcast") or "coupled" in spec.tags or arrangement.kind == "ragged":
        return False
    if spec.layout in (0, -spec.guesses[0].ndim):
        return False
    sequences = arrangement.lengths if arrangement.kind != "array" else (1,) * arrangement.n
    parts = [case.guesses if not isinstance(case.guesses, tuple) else case.guesses[0], case.truths]
    if (
        len(spec.values_shape) == 1
        and ("pos_weight" in case.problem.options or "class_weight" in case.problem.options)
        and spec.layout == "elements"
    ):
        return False  # which go along the axis of the items
    if isinstance(case.truths, list) and spec.truth_kind in ("numbers", "signs") and arrangement.kind == "array":
        return False  # an empty list has no shape
    return (
        bool(spec.values_shape)
        and len(sequences or ()) > 1
        and not any(type(x).__name__ == "Ragged" for x in (*parts, *case.call.values()))
    )


def draw_out(d: Draw, case: Case) -> None:
    """Where the gradient goes."""
    if case.spec.arrangement.kind not in ("array", "padded"):
        return
    arrays = case.guesses if isinstance(case.guesses, tuple) else (case.guesses,)
    dtype = DTYPES[case.computed]
    kind = d.weighted(new=4, guesses=3, overlap=2, truths=1)
    own = all(x.flags.writeable and x.dtype == dtype and 0 not in strides(x) for x in arrays)
    if kind == "guesses" and own:
        case.out, case.call["out"] = kind, case.guesses
        return
    if kind == "overlap" and len(arrays) == 1 and arrays[0].dtype == dtype and arrays[0].ndim and arrays[0].size:
        (x,) = arrays
        shift = d.r.randint(1, max(1, x.size // 2))
        buffer = np.zeros(x.size + shift, dtype)
        first, second = buffer[: x.size].reshape(x.shape), buffer[shift:].reshape(x.shape)
        if d.chance(0.5):
            first, second = second, first
        first[...] = x
        case.out, case.guesses, case.call["out"] = kind, first, second
        return
    t = case.truths
    fits = isinstance(t, np.ndarray) and len(arrays) == 1 and t.shape == arrays[0].shape and t.dtype == dtype
    if kind == "truths" and fits and t.flags.writeable and 0 not in strides(t) and t.base is None:
        case.out, case.call["out"] = kind, t
        return
    made = [d.lay(np.full(x.shape, 7, dtype), writable=True) for x in arrays]
    if all(x.flags.writeable for x in made):
        case.out, case.call["out"] = "new", tuple(made) if isinstance(case.guesses, tuple) else made[0]


def strides(x: np.ndarray) -> list[int]:
    return [s for s, n in zip(x.strides, x.shape) if n > 1]


def make_mistake(d: Draw, case: Case) -> None:
    """One thing that no calculator may take."""
    shape = case.spec.values_shape
    arrays = case.guesses if isinstance(case.guesses, tuple) else (case.guesses,)
    plain = (
        case.spec.arrangement.kind == "array"
        and all(isinstance(x, np.ndarray) for x in arrays)
        and min(x.size for x in arrays) > 0
    )
    if not plain or case.problem.options.get("validate") == "shape" or case.method == "split" or not np.prod(shape):
        return
    kind = d.pick(["mask", "weight", "complex", "out", "truths", "label", "masked array"])
    if kind == "mask":
        case.call["mask"] = np.full(shape, d.pick([1.5, -1.0, np.nan]))
    elif kind == "weight":
        case.call["sample_weight"] = np.full(shape, d.pick([-1.0, np.nan, np.inf]))
    elif kind == "complex":
        case.guesses = tuple(x.astype(complex) for x in arrays) if len(arrays) > 1 else arrays[0].astype(complex)
    elif kind == "masked array" and case.problem.tags.isdisjoint({"thinc"}):
        wrong = tuple(np.ma.MaskedArray(np.ascontiguousarray(x), False) for x in arrays)
        case.guesses = wrong if len(arrays) > 1 else wrong[0]
    elif kind == "out" and case.method != "get_values" and "out" in case.call:
        case.call["out"] = (
            tuple(np.zeros((*x.shape, 1), x.dtype) for x in arrays)
            if len(arrays) > 1
            else np.zeros((*arrays[0].shape, 1), arrays[0].dtype)
        )
    elif (
        kind == "truths" and case.spec.truth_kind in ("numbers", "signs") and shape and case.spec.layout != "broadcast"
    ):
        case.truths = np.ones((shape[0] + 1, *shape[1:]))
    elif kind == "label" and case.spec.truth_kind == "labels" and len(shape) == 1 and "mask" not in case.call:
        case.truths = np.full(shape, 3_000_000)
    else:
        return
    case.mistake = kind
    if case.out in ("guesses", "overlap") or kind == "out":
        case.out = "new"
        if kind != "out":
            del case.call["out"]
            case.out = "none"
