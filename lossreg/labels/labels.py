"""Labels in any form (ids, names, negated, missing, candidate sets, dense rows) -> arrays of `Targets`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from ..checks import describe, fail, on_host
from ..config.options import ConfigError, Problem
from ..ops import get_ops
from ..pipeline.guesses import Batch, check_unmasked, is_real
from .reader import MISSING, Reader
from .targets import Targets

__all__ = ["Labels", "concatenated", "label_problems"]


def label_problems(
    names: Sequence[str] | None, neg_prefix: str | None, missing_value: str | int | None
) -> Iterable[Problem]:
    """What can be wrong with label options before any data is seen.

    A missing value that is a name, or the id of a class, is no problem: that class never occurs, as that of padding.
    One that is a negated name is: a truth of that name would mean two things that are both likely.
    """
    seen: set[str] = set()
    for name in names or ():
        if name in seen:
            yield "names", f"duplicate name {name!r}"
        seen.add(name)
    for name in names or ():
        if neg_prefix and name.startswith(neg_prefix) and name[len(neg_prefix) :] in seen:
            yield (
                "names",
                f"{name!r} reads as the negation of {name[len(neg_prefix) :]!r} with neg_prefix {neg_prefix!r}",
            )
    for name in names or ():
        if neg_prefix and missing_value == neg_prefix + name:
            problem = f"{missing_value!r} reads as the negation of {name!r} with neg_prefix {neg_prefix!r}"
            yield "missing_value", problem


class Labels:
    """What the labels of one calculator look like; `read` turns those of a batch into targets."""

    def __init__(
        self,
        name: str,
        names: Sequence[str] | None,
        missing_value: str | int | None,
        neg_prefix: str | None,
        ignore_index: int | None = None,
        sets: bool = True,
    ) -> None:
        problems = list(label_problems(names, neg_prefix, missing_value))
        if problems:
            raise ConfigError(problems, title=f"Cannot make {name}")
        self.name, self.names, self.missing_value, self.sets = name, names, missing_value, sets
        self.neg_prefix = neg_prefix
        self.missing_ids = sorted(i for i in {missing_value, ignore_index} if isinstance(i, int))
        table: dict[Any, int] = {label: i for i, label in enumerate(names or ())}
        if neg_prefix:
            table |= {neg_prefix + label: -2 - i for i, label in enumerate(names or ())}
        if isinstance(missing_value, str):
            table[missing_value] = MISSING
        self.table = table | {None: MISSING}

    def read(self, batch: Batch, truths: Any, check: bool) -> Targets:
        """Targets of a batch. `check` reads ids and rows that are on a device too, to check their range."""
        n, classes = batch.arrays[0].shape
        kept = None if batch.kept is None else batch.kept.reshape(n)
        flat = True
        if batch.lengths is not None:
            truths, flat = batch.unpack("truths", truths)
        if type(truths) is not np.ndarray:
            if not isinstance(truths, list):  # the reader sees what lists hold
                check_unmasked(self.name, "truths", truths)
            truths = _from_pandas(truths)
        reader = Reader(self, batch.ops, n, classes, batch.arrays[0].dtype, check, kept, batch.place)
        if self.names and len(self.names) != classes and batch.lengths != ():
            raise fail(self.name, "one name for each class", f"of guesses, {classes}", f"{len(self.names)} names")
        if not flat:
            plain = set(map(type, truths)) <= {list, np.ndarray}
            parts = truths if plain else [_from_pandas(part) for part in truths]
            truths = concatenated(batch, parts)
            if truths is None:
                return self._each(reader, batch, parts)
        if len(batch.shape) == 1:
            truths = self._unbatched(truths, classes)
        elif len(batch.shape) > 2:
            truths = self._class_axis_last(batch, truths, batch.shape[0])
        return reader.read(truths)

    def read_ids(self, batch: Batch, truths: Any, check: bool) -> Targets:
        """Targets of calculators that take one label a row and nothing else."""
        targets = self.read(batch, truths, check)
        if targets.rows is not None:
            raise fail(self.name, "truths", "to be one label a row", "rows of numbers")
        return targets

    def read_multi(self, batch: Batch, truths: Any, for_rows: str) -> Targets:
        """The sets of all labels of each row: lists of sets, or rows of ids that end with -1. The empty set is one.

        for_rows: what to write for rows of 0 and 1, for errors.
        """
        check_unmasked(self.name, "truths", truths)
        n, classes = batch.arrays[0].shape
        if len(batch.shape) > 2:
            raise fail(self.name, "guesses", "of shape (N, C) or (C,)", f"shape {batch.shape}")
        if self.names and len(self.names) != classes:
            raise fail(self.name, "one name for each class", f"of guesses, {classes}", f"{len(self.names)} names")
        if batch.lengths is not None:
            truths, flat = batch.unpack("truths", truths)
            truths = truths if flat else [row for part in truths for row in part]
        elif len(batch.shape) == 1 and not isinstance(truths, (str, int)) and truths is not None:
            truths = [truths]
        kept = None if batch.kept is None or batch.ops.on_device else batch.kept.reshape(n)
        reader = Reader(self, get_ops("numpy"), n, classes, batch.arrays[0].dtype, True, kept, batch.place)
        if hasattr(truths, "dtype") and truths.ndim == 2 and truths.dtype.kind in "iu":
            return reader.read_ended(on_host(truths), for_rows).to(batch.ops)
        if hasattr(truths, "dtype"):
            self._check_is_no_row(on_host(truths), for_rows)
            truths = list(on_host(truths))
        if not isinstance(truths, (list, tuple)):
            raise fail(self.name, "truths", "to be sets of labels, or ids like guesses ended by -1", describe(truths))
        rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in truths]
        return reader.read_multi(rows, for_rows).to(batch.ops)

    def _check_is_no_row(self, truths: np.ndarray, for_rows: str) -> None:
        """Raise for arrays of floats and of bools, which are no ids."""
        if truths.dtype.kind not in "fb" or truths.ndim != 2:
            return
        hint = "write truths.astype(int)"
        if np.all((truths == 0) | (truths == 1)):
            hint = for_rows
        raise fail(self.name, "truths", "to be ids ended by -1", f"{describe(truths)}; {hint}")

    def _each(self, reader: Reader, batch: Batch, truths: list[Any]) -> Targets:
        """Sequences whose truths have different forms, each on its own."""
        parts, start, inside = [], 0, math.prod(batch.values_shape[1:])
        for part in truths:
            n = len(part) * inside
            place = lambda i, start=start: batch.place(start + i)  # noqa: E731
            kept = None if reader.kept is None else reader.kept[start : start + n]
            rows = part if len(batch.shape) <= 2 else self._class_axis_last(batch, part, len(part))
            parts.append(replace(reader, n=n, kept=kept, place=place).read(rows))
            start += n
        if any(part.rows is not None for part in parts) and any(part.has_sets for part in parts):
            expected = "without negated labels or label sets where another sequence has dense rows"
            raise fail(self.name, "truths", expected, "both")
        return Targets.concatenate(batch.ops, parts, reader.classes, reader.dtype)

    def _unbatched(self, truths: Any, classes: int) -> Any:
        """One example without a batch axis: a label, or a row of probabilities."""
        if hasattr(truths, "shape") and truths.shape == (classes,) and is_real(truths.dtype):
            self._check_is_one_row(truths, classes)
            return truths[None]
        if hasattr(truths, "shape") and truths.shape == ():
            return truths.reshape(1) if truths.dtype.kind in "iub" else [truths.item()]
        if truths is None or isinstance(truths, (str, int, set, frozenset)):
            return [truths]
        hint = ""
        if getattr(truths, "ndim", 0) == 2 and len(truths) == classes:
            hint = "; guesses and truths may be swapped"
        elif isinstance(truths, (list, tuple)) and len(truths) == classes:
            hint = "; for scores of two classes, one per example, pass two columns, np.stack([0 * x, x], axis=1)"
        raise fail(self.name, "truths of one example", f"to be a label or a row of {classes}", describe(truths) + hint)

    def _check_is_one_row(self, truths: Any, classes: int) -> None:
        """Raise for ids where guesses (C,), which are one example, were meant to be C examples."""
        if truths.dtype.kind in "iu" and isinstance(truths, np.ndarray) and truths.size and truths.max() > 1:
            expected = f"to be a label or a row of {classes} probabilities, since guesses ({classes},) are one example"
            hint = "; for logits of two classes, one per example, there is BinaryCrossEntropyWithLogits"
            raise fail(self.name, "truths", expected, f"{describe(truths)} of ids{hint}")

    def _class_axis_last(self, batch: Batch, truths: Any, n: int) -> Any:
        """Truths of n guesses (n, C, d1, ...): ids (n, d1, ...), or probabilities (n, C, d1, ...), as rows."""
        labels, rows = (n, *batch.values_shape[1:]), (n, *batch.shape[1:])
        if isinstance(truths, (list, tuple)):
            return self._nested(truths, labels)
        if hasattr(truths, "shape") and truths.shape == labels:
            return truths.reshape(-1)
        if hasattr(truths, "shape") and truths.shape == rows:
            return batch.ops.xp.moveaxis(batch.ops.asarray(truths), 1, -1).reshape(-1, batch.shape[1])
        expected = f"of shape {labels} or {rows} (that of guesses)"
        hint = ""
        if getattr(truths, "shape", None) == (n, *batch.shape[1:-1]):
            hint = f"; classes are axis 1: write guesses.reshape(-1, {batch.shape[-1]}) and truths.reshape(-1)"
        raise fail(self.name, "truths", expected, f"{describe(truths)}{hint}")

    def _nested(self, truths: Any, shape: tuple[int, ...]) -> list[Any]:
        """The labels in lists of lists."""
        if not isinstance(truths, (list, tuple)) or len(truths) != shape[0]:
            raise fail(self.name, "truths", f"to be lists of {shape[0]}, nested {len(shape)} deep", describe(truths))
        if len(shape) == 1:
            return list(truths)
        return [label for part in truths for label in self._nested(part, shape[1:])]


def concatenated(batch: Batch, parts: Sequence[Any]) -> Any:
    """The truths of sequences as one list or one array, None where they have different forms."""
    if all(isinstance(part, (list, tuple)) for part in parts):
        return list(chain.from_iterable(parts))
    forms = {(type(x), getattr(x, "shape", (0,))[1:], getattr(getattr(x, "dtype", None), "kind", "")) for x in parts}
    if len(forms) > 1:
        return None
    xp = batch.ops.xp if batch.ops.owns(parts[0]) else np
    return xp.concatenate(parts)


def _from_pandas(truths: Any) -> Any:
    """What pandas holds as arrays, with None for what it calls missing; anything else as it is."""
    is_pandas = type(truths).__module__.partition(".")[0] == "pandas"
    # Scalars of pandas, such as NA and Timestamp, and what is not computed yet, such as a groupby, are no truths.
    if not is_pandas or not hasattr(truths, "to_numpy") or not hasattr(truths, "isna"):
        return truths
    if truths.ndim != 1 or getattr(truths, "nlevels", 1) != 1:
        rows = truths.to_numpy()
        # Columns of nullable dtypes, such as Float64, become objects, whatever they hold.
        if rows.dtype == object and truths.ndim == 2 and all(is_real(dtype) for dtype in truths.dtypes):
            rows = truths.to_numpy(dtype=np.float64, na_value=np.nan)
        return rows
    missing = np.asarray(truths.isna())
    if not missing.any():
        return truths.to_numpy()
    values = np.array(truths.to_numpy(dtype=object))  # a copy of the caller's
    whole = _holds_ids(truths.dtype) and all(float(x).is_integer() for x in values[~missing])
    if whole:
        values[~missing] = [int(x) for x in values[~missing]]
    values[missing] = None
    return values


def _holds_ids(dtype: Any) -> bool:
    """Whether what a dtype of pandas holds beside missing values may be ids, which are then floats."""
    categories = getattr(dtype, "categories", None)
    return is_real(dtype if categories is None else categories.dtype)
