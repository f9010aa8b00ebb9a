"""`Labels`: the form of a calculator's labels, and the reader that turns those of a batch into `Targets`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
    """What can be wrong with label options before any data is seen."""
    names = names or ()
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield "names", f"duplicate name {name!r}"
        seen.add(name)
    if not neg_prefix:
        return
    reads_as = "reads as the negation of {!r} with neg_prefix {!r}".format
    for name in names:
        negated = name.removeprefix(neg_prefix)
        if negated != name and negated in seen:
            yield "names", f"{name!r} {reads_as(negated, neg_prefix)}"
    # A missing value that is a name, or the id of a class, is no problem: that class never occurs, as that of padding.
    # One that is a negated name is: a truth of that name would mean two things that are both likely.
    for name in names:
        if missing_value == neg_prefix + name:
            yield "missing_value", f"{missing_value!r} {reads_as(name, neg_prefix)}"


class Labels:
    """The form of the labels of one calculator; `read` turns those of a batch into targets."""

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
        # The codes of all labels that are no ids: one look-up per label reads them.
        table: dict[Any, int] = {}
        for i, label in enumerate(names or ()):
            table[label] = i
        if neg_prefix:
            for i, label in enumerate(names or ()):
                table[neg_prefix + label] = -2 - i
        if isinstance(missing_value, str):
            table[missing_value] = MISSING
        table[None] = MISSING
        self.table = table

    def read(self, batch: Batch, truths: Any, check: bool) -> Targets:
        """The targets of a batch. With `check`, ids and rows on a device are read too, to check their range."""
        n, classes = batch.arrays[0].shape
        mask = batch.mask
        if mask is not None:
            mask = mask.reshape(n)
        is_flat = True
        if batch.lengths is not None:
            truths, is_flat = batch.unpack("truths", truths)
        if type(truths) is not np.ndarray:
            if not isinstance(truths, list):  # what a list holds is checked by the reader
                check_unmasked(self.name, "truths", truths)
            truths = _from_pandas(truths)
        dtype = batch.arrays[0].dtype
        reader = Reader(self, batch.ops, n, classes, dtype, check, mask, batch.describe_index)
        # An empty list of sequences has no number of classes to compare with.
        if self.names and batch.lengths != ():
            self._check_names(classes)
        if not is_flat:
            if not set(map(type, truths)) <= {list, np.ndarray}:
                truths = [_from_pandas(part) for part in truths]
            # One look at all labels is much faster than one per sequence, but all must have the same form.
            joined = concatenated(batch, truths)
            if joined is None:
                return self._each(reader, batch, truths)
            truths = joined
        axes = len(batch.shape)
        if axes == 1:
            truths = self._unbatched(truths, classes)
        elif axes > 2:
            truths = self._class_axis_last(batch, truths, batch.shape[0])
        return reader.read(truths)

    def read_ids(self, batch: Batch, truths: Any, check: bool) -> Targets:
        """The targets of calculators that take one label per row and nothing else."""
        targets = self.read(batch, truths, check)
        if targets.rows is not None:
            raise fail(self.name, "truths", "to be one label a row", "rows of numbers")
        return targets

    def read_multi(self, batch: Batch, truths: Any, for_rows: str) -> Targets:
        """The sets of all labels of each row: lists of sets, or rows of ids that end with -1. A set may be empty.

        for_rows: what to write for rows of 0 and 1, for errors.
        """
        check_unmasked(self.name, "truths", truths)
        n, classes = batch.arrays[0].shape
        if len(batch.shape) > 2:
            raise fail(self.name, "guesses", "of shape (N, C) or (C,)", f"shape {batch.shape}")
        if self.names:
            self._check_names(classes)
        truths = self._row_by_row(batch, truths)
        # Sets are read on the host, where a mask on a device cannot be read.
        mask = None
        if batch.mask is not None and not batch.ops.on_device:
            mask = batch.mask.reshape(n)
        dtype = batch.arrays[0].dtype
        reader = Reader(self, get_ops("numpy"), n, classes, dtype, True, mask, batch.describe_index)
        if hasattr(truths, "dtype"):
            truths = on_host(truths)
            if truths.ndim == 2 and truths.dtype.kind in "iu":
                return reader.read_ended(truths, for_rows).to(batch.ops)
            self._check_is_no_row(truths, for_rows)
            truths = list(truths)
        if not isinstance(truths, (list, tuple)):
            raise fail(self.name, "truths", "to be sets of labels, or ids like guesses ended by -1", describe(truths))
        rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in truths]
        return reader.read_multi(rows, for_rows).to(batch.ops)

    def _check_names(self, classes: int) -> None:
        """Raise where there are other names than classes."""
        names = self.names or ()
        if len(names) != classes:
            raise fail(self.name, "one name for each class", f"of guesses, {classes}", f"{len(names)} names")

    def _row_by_row(self, batch: Batch, truths: Any) -> Any:
        """One set per row: those of sequences one behind the other, that of one example in a list."""
        if batch.lengths is not None:
            truths, is_flat = batch.unpack("truths", truths)
            if is_flat:
                return truths
            return [row for part in truths for row in part]
        # A single label of one example is an error, and described as what it is.
        is_label = truths is None or isinstance(truths, (str, int))
        if len(batch.shape) == 1 and not is_label:
            return [truths]
        return truths

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
        parts, start = [], 0
        values_per_item = math.prod(batch.values_shape[1:])
        for part in truths:
            n = len(part) * values_per_item
            mask = reader.mask
            if mask is not None:
                mask = mask[start : start + n]
            rows = part
            if len(batch.shape) > 2:
                rows = self._class_axis_last(batch, part, len(part))
            part_reader = replace(reader, n=n, mask=mask, describe_index=_shifted(batch.describe_index, start))
            parts.append(part_reader.read(rows))
            start += n
        # A set is no row of probabilities: nothing says how these are spread over its classes.
        if any(part.rows is not None for part in parts) and any(part.has_sets for part in parts):
            expected = "without negated labels or label sets where another sequence has dense rows"
            raise fail(self.name, "truths", expected, "both")
        return Targets.concatenate(batch.ops, parts, reader.classes, reader.dtype)

    def _unbatched(self, truths: Any, classes: int) -> Any:
        """The truth of one example without a batch axis, a label or a row of probabilities, as that of a batch."""
        shape = getattr(truths, "shape", None)
        if shape == (classes,) and is_real(truths.dtype):
            self._check_is_one_row(truths, classes)
            return truths[None]
        if shape == ():  # a scalar: an id, or an object such as a name
            if truths.dtype.kind in "iub":
                return truths.reshape(1)
            return [truths.item()]
        if truths is None or isinstance(truths, (str, int, set, frozenset)):
            return [truths]
        # The two mistakes that people make.
        got = describe(truths)
        if getattr(truths, "ndim", 0) == 2 and len(truths) == classes:
            got += "; guesses and truths may be swapped"
        elif isinstance(truths, (list, tuple)) and len(truths) == classes:
            got += "; for scores of two classes, one per example, pass two columns, np.stack([0 * x, x], axis=1)"
        raise fail(self.name, "truths of one example", f"to be a label or a row of {classes}", got)

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
        shape = getattr(truths, "shape", None)
        if shape == labels:
            return truths.reshape(-1)
        if shape == rows:
            return batch.ops.xp.moveaxis(batch.ops.asarray(truths), 1, -1).reshape(-1, batch.shape[1])
        expected = f"of shape {labels} or {rows} (that of guesses)"
        got = describe(truths)
        if shape == (n, *batch.shape[1:-1]):
            got += f"; classes are axis 1: write guesses.reshape(-1, {batch.shape[-1]}) and truths.reshape(-1)"
        raise fail(self.name, "truths", expected, got)

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
    if len(set(map(_form, parts))) > 1:
        return None
    xp = batch.ops.xp if batch.ops.owns(parts[0]) else np
    return xp.concatenate(parts)


def _form(truths: Any) -> tuple[Any, ...]:
    """What the truths of sequences must have in common to be joined."""
    dtype = getattr(truths, "dtype", None)
    return type(truths), getattr(truths, "shape", (0,))[1:], getattr(dtype, "kind", "")


def _shifted(describe_index: Callable[[int], str], start: int) -> Callable[[int], str]:
    """The words for the rows of a part that begins at a row of the whole."""
    return lambda i: describe_index(start + i)


def _from_pandas(truths: Any) -> Any:
    """Values of pandas as arrays, with None for missing ones; anything else as it is."""
    # Scalars of pandas, such as NA and Timestamp, and what is not computed yet, such as a groupby, are no truths.
    is_pandas = type(truths).__module__.partition(".")[0] == "pandas"
    if not is_pandas or not hasattr(truths, "to_numpy") or not hasattr(truths, "isna"):
        return truths
    if truths.ndim != 1 or getattr(truths, "nlevels", 1) != 1:
        return _rows_from_pandas(truths)
    missing = np.asarray(truths.isna())
    if not missing.any():
        return truths.to_numpy()
    values = np.array(truths.to_numpy(dtype=object))  # a copy: the caller's stay as they are
    known = values[~missing]
    # Beside missing values pandas holds ids as floats.
    if _may_hold_ids(truths.dtype) and all(float(x).is_integer() for x in known):
        values[~missing] = [int(x) for x in known]
    values[missing] = None
    return values


def _rows_from_pandas(truths: Any) -> np.ndarray:
    rows: np.ndarray = truths.to_numpy()
    # Columns of nullable dtypes, such as Float64, become objects, whatever they hold.
    if rows.dtype == object and truths.ndim == 2 and all(map(is_real, truths.dtypes)):
        rows = truths.to_numpy(dtype=np.float64, na_value=np.nan)
    return rows


def _may_hold_ids(dtype: Any) -> bool:
    """Whether the values of a dtype of pandas, missing ones aside, may be ids."""
    categories = getattr(dtype, "categories", None)
    if categories is not None:
        dtype = categories.dtype
    return is_real(dtype)
