"""`Reader`: the truths of N rows, by the form they come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import Interval, check_domain, describe, fail, first_bad, on_host
from ..ops import Array, Ops, get_ops
from ..ops.base import compute_dtype
from ..pipeline.guesses import check_unmasked, is_real
from .targets import Targets

if TYPE_CHECKING:
    from .labels import Labels

__all__ = ["MISSING", "SETS", "Reader"]

MISSING = -1
"""Code of a missing label. A class has its id as code, "not class i" has -2 - i."""

SETS = (set, frozenset, list, tuple)


@dataclass(eq=False)
class Reader:
    """Reads the truths of N rows of C classes, by the form they come in."""

    labels: Labels
    ops: Ops
    n: int
    classes: int
    dtype: Any
    check: bool
    kept: Array | None
    """False where the caller masks the row: its truth may be anything."""
    place: Callable[[int], str]

    def fail(self, what: str, expected: str, got: str, row: int | None = None) -> ValueError:
        return fail(self.labels.name, what, expected, got if row is None else f"{got} in {self.place(row)}")

    def read(self, truths: Any) -> Targets:
        """Targets on the guesses' backend."""
        if isinstance(truths, (list, tuple)):
            return self.read_list(truths)
        if type(truths) is not np.ndarray:
            self.check_array(truths)
        if truths.dtype.kind in "USOT":
            if truths.ndim != 1:
                raise self.fail("truths of labels", f"of shape ({self.n},)", describe(truths))
            return self.read_list(truths.tolist())
        if self.ops.on_device and isinstance(truths, np.ndarray):
            truths = self.ops.asarray(truths)
        if not self.ops.owns(truths):
            raise self.fail("truths", f"of {self.ops.library} as the guesses are", describe(truths))
        if truths.ndim == 2:
            return self.read_rows(truths)
        if truths.ndim != 1 or truths.dtype.kind not in "iub":
            expected = f"of integer ids, shape ({self.n},), or rows, shape ({self.n}, {self.classes})"
            hint = "; write truths.astype(int)" if truths.ndim == 1 and truths.dtype.kind == "f" else ""
            raise self.fail("truths", expected, describe(truths) + hint)
        self.check_length(truths)
        return self.read_ids(truths)

    def check_array(self, truths: Any) -> None:
        """Raise unless truths are an array of a library that a backend handles, without a mask of its own."""
        check_unmasked(self.labels.name, "truths", truths)
        if not hasattr(truths, "dtype") or not hasattr(truths, "ndim"):
            raise self.fail("truths", "to be a list, a tuple or an array", describe(truths))
        get_ops(truths)  # raises TypeError for arrays of a library that no backend handles

    def check_length(self, truths: Any) -> None:
        if len(truths) != self.n:
            raise fail(self.labels.name, f"{self.n} truths", "(one per row of guesses)", str(len(truths)))

    def read_rows(self, rows: Array) -> Targets:
        """Numbers in [0, 1], one row each; a row whose largest is the missing value is missing."""
        if not is_real(rows.dtype):
            raise self.fail("truth rows", "of numbers", describe(rows))
        if tuple(rows.shape) != (self.n, self.classes):
            expected = f"of shape ({self.n}, {self.classes}) as guesses"
            if rows.dtype.kind in "iub":
                expected += f", or ids of shape ({self.n},)"
            hint = "; write truths[:, 0]" if tuple(rows.shape) == (self.n, 1) else ""
            raise self.fail("truths", expected, f"{describe(rows)}{hint}")
        if rows.dtype.name == "bfloat16":  # which NumPy has no functions for; float32 holds the same numbers
            rows = rows.astype(np.float32)
        present = None
        if isinstance(self.labels.missing_value, int):
            present = self.ops.xp.argmax(rows, axis=1) != self.labels.missing_value
        if self.check:
            kept = self.kept if present is None or self.kept is None else present & self.kept
            kept = present if kept is None else kept
            kept = None if kept is None else kept[:, None]
            check_domain(self.ops, self.labels.name, "truth values", rows, Interval(0, 1), kept, self.place)
        # no less precise than what is computed from them
        least = compute_dtype(self.dtype)
        dtype = np.promote_types(rows.dtype, least) if rows.dtype in (np.float32, np.float64) else least
        return Targets(self.ops, rows=rows.astype(dtype, copy=False), present=present)

    def read_ids(self, ids: Array) -> Targets:
        """Ids of any integer type. Unless checked, ids stay on their device unread."""
        xp, present = self.ops.xp, self.kept
        check = self.check or not self.ops.on_device  # ids index arrays: an unchecked one would count as another class
        low, high = (int(ids.min()), int(ids.max())) if check and ids.size else (0, -1)
        for missing in self.labels.missing_ids:
            if not check or low <= missing <= high and xp.any(ids == missing):
                present = (ids != missing) if present is None else present & (ids != missing)
        if low < 0 or high >= self.classes:
            bad = (ids < 0) | (ids >= self.classes)
            index = first_bad(on_host(bad if present is None else bad & present))
            if index is not None:
                raise self.fail("truth ids", f"in [0, {self.classes})", f"undeclared id {int(ids[index])}", index[0])
        if not check and ids.dtype in (np.int32, np.int64):  # as they lie: kernels leave out rows that are not present
            return Targets(self.ops, ids=ids, present=present)
        ids = ids.astype(np.int64, copy=False)
        return Targets(self.ops, ids=ids if present is None else xp.where(present, ids, 0), present=present)

    def read_list(self, truths: Sequence[Any]) -> Targets:
        """A list of one of the forms: ids, rows of numbers, or labels and sets of labels."""
        self.check_length(truths)
        kinds = set(map(type, truths))
        if any(hasattr(kind, "ndim") for kind in kinds):  # arrays of no axes are what they hold
            check_unmasked(self.labels.name, "truths", truths)
            truths = [truth.item() if getattr(truth, "ndim", 1) == 0 else truth for truth in truths]
            kinds = set(map(type, truths))
        # a mask on a device cannot be read here: there every label of a list must be one
        host = replace(self, ops=get_ops("numpy"), check=True, kept=None if self.ops.on_device else self.kept)
        if not kinds:
            return Targets(self.ops, ids=self.ops.xp.zeros(0, np.int64))
        if all(issubclass(kind, (int, np.integer, np.bool_)) for kind in kinds):
            ids = self.int64(truths)
            return (host.from_codes(host.codes(truths)) if ids is None else host.read_ids(ids)).to(self.ops)
        if any(hasattr(kind, "ndim") and not issubclass(kind, np.generic) for kind in kinds):
            try:
                return self.read(self.ops.xp.stack([self.ops.asarray(row) for row in truths]))
            except ValueError as error:
                if "same shape" not in str(error):
                    raise
                raise self.fail("truth rows", f"to have {self.classes} numbers each", "ragged rows") from None
        if not any(issubclass(kind, SETS) for kind in kinds):
            targets = host.from_codes(host.codes(truths))
            if self.labels.sets and self.classes == 1 and targets.negated is not None:
                negated = targets.negated if host.kept is None else targets.negated & host.kept
                row = first_bad(negated)
                if row is not None:
                    raise self.fail("a negated label", "to leave a candidate", "the only class negated", row[0])
            return targets.to(self.ops)
        if all(issubclass(kind, (list, tuple)) for kind in kinds) and any(
            issubclass(kind, (float, np.floating)) or kind.__name__ == "bfloat16"
            for kind in set(map(type, chain.from_iterable(truths)))
        ):
            if host.kept is not None:
                truths = [row if kept else [0.0] * self.classes for row, kept in zip(truths, host.kept)]
            try:
                return host.read_rows(np.array(truths, dtype=np.float64)).to(self.ops)
            except (OverflowError, TypeError, ValueError) as error:
                if str(error).startswith("Cannot calculate"):
                    raise
                got = "ragged or mixed rows"
                raise self.fail("truth rows", f"to have {self.classes} numbers each", got) from None
        return host.read_sets(truths).to(self.ops)

    def int64(self, truths: Sequence[Any]) -> np.ndarray | None:
        """Ids as an array; None where one is too large for that, and so each must be looked at."""
        try:
            return np.array(truths, dtype=np.int64)
        except OverflowError:
            return None

    def codes(self, labels: Sequence[Any], row_of: np.ndarray | None = None) -> np.ndarray:
        """Names, ids and None as codes: one look-up in a dict for each label."""
        if self.labels.names:
            try:
                return np.fromiter(map(self.labels.table.__getitem__, labels), np.int64, len(labels))
            except (KeyError, TypeError):  # an id among the names, or an unknown name: look at each
                pass
        rows = range(len(labels)) if row_of is None else row_of
        return np.fromiter((self.code(label, int(row)) for label, row in zip(labels, rows)), np.int64, len(labels))

    def code(self, label: Any, row: int) -> int:
        """The code of one label, or an error that names its row."""
        names, table = self.labels.names, self.labels.table
        if self.kept is not None and not self.kept[row]:
            return MISSING
        if label is None or isinstance(label, str) and table.get(label) == MISSING:
            return MISSING
        if isinstance(label, str) and not names:
            name = self.labels.name
            raise ValueError(
                f"Cannot calculate {name}: expected truths of ids, got the name {describe(label)} without names. "
                f"Pass names when you make the calculator, for example {name}(names=['dog', 'cat'])."
            )
        if isinstance(label, str):
            if label in table:
                return table[label]
            known = ", ".join(map(repr, (names or ())[:10])) + (", ..." if len(names or ()) > 10 else "")
            got = f"unknown name {describe(label)} in {self.place(row)}"
            raise self.fail("truth names", f"among {known}", got + self.option_for(label))
        if isinstance(label, (int, np.integer, np.bool_)):
            if int(label) in self.labels.missing_ids:
                return MISSING
            if 0 <= label < self.classes:
                return int(label)
            raise self.fail("truth ids", f"in [0, {self.classes})", f"undeclared id {describe(int(label))}", row)
        expected = "to be ids, names, None or sets of them" if self.labels.sets else "to be ids, names or None"
        raise self.fail("truths", expected, describe(label), row)

    def option_for(self, label: str) -> str:
        """The option with which an unknown name would mean something."""
        if not label and self.labels.missing_value is None:
            return '; if it means that a truth is missing, set missing_value=""'
        if label[1:] in (self.labels.names or ()) and not self.labels.neg_prefix:
            return f"; if it means that the label is not {label[1:]!r}, set neg_prefix={label[0]!r}"
        return ""

    def from_codes(self, codes: np.ndarray) -> Targets:
        """Targets of single labels."""
        present, negated = codes != MISSING, codes < MISSING
        ids = np.where(negated, -2 - codes, np.where(present, codes, 0))
        return Targets(
            self.ops, ids, negated=negated if negated.any() else None, present=None if present.all() else present
        )

    def read_sets(self, truths: Sequence[Any]) -> Targets:
        """Rows that are sets of labels, perhaps beside single ones and missing ones."""
        if not self.labels.sets:
            row = next(i for i, truth in enumerate(truths) if isinstance(truth, SETS))
            raise self.fail("truths", "to be single labels", describe(truths[row]), row)
        labels = [truth if isinstance(truth, SETS) else (truth,) for truth in truths]
        if self.kept is not None:
            labels = [label if keep else (None,) for label, keep in zip(labels, self.kept)]
        lengths = np.fromiter(map(len, labels), np.int64, len(labels))
        if not lengths.all():
            row = int(np.argmin(lengths))
            raise self.fail("truths", "to name at least one label (None is missing)", "an empty set", row)
        row_of = np.repeat(np.arange(len(labels)), lengths)
        codes = self.codes(list(chain.from_iterable(labels)), row_of)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        missing, negated = (self.agree(codes, indptr, flag) for flag in ("missing", "negated"))
        flat = self.from_codes(codes)
        keys = row_of * self.classes + flat.ids
        order = np.argsort(keys, kind="stable")
        repeated = first_bad((np.diff(keys[order]) == 0) & ~missing[row_of[order[1:]]])
        if repeated is not None:
            at = int(order[repeated[0] + 1])
            expected = "without repeats (rows of 0 and 1 must be an array)"
            raise self.fail("a set of labels", expected, f"class {int(keys[at] % self.classes)} twice", int(row_of[at]))
        listed = np.fromiter((isinstance(truth, (list, tuple)) for truth in truths), bool, len(truths))
        empty = first_bad(listed & ~missing & ~negated & (lengths >= self.classes) & (self.classes > 1))
        if empty is not None:
            expected = "that leaves a class out (rows of 0 and 1 must be an array)"
            raise self.fail("a list of labels", expected, f"all {self.classes} classes", empty[0])
        full = first_bad(negated & (lengths >= self.classes))
        if full is not None:
            raise self.fail("a set of labels", "to leave a candidate", "all classes negated", full[0])
        return Targets(
            self.ops,
            flat.ids,
            indptr=indptr,
            negated=negated if negated.any() else None,
            present=~missing if missing.any() else None,
        )

    def read_multi(self, truths: Sequence[Any], for_rows: str) -> Targets:
        """Sets of the labels that hold, which may be empty; a row that is None is missing."""
        self.check_length(truths)
        present = np.array([truth is not None for truth in truths], bool)
        read = present if self.kept is None else present & self.kept
        labels = [
            self.listed(truth, row, for_rows) if wanted else () for row, (truth, wanted) in enumerate(zip(truths, read))
        ]
        lengths = np.fromiter(map(len, labels), np.int64, len(labels))
        row_of = np.repeat(np.arange(len(labels)), lengths)
        ids = self.codes(list(chain.from_iterable(labels)), row_of)
        missing = first_bad(ids < 0)
        if missing is not None:
            raise self.fail("a set of labels", "of ids or names", "None", int(row_of[missing[0]]))
        return self.multi(ids, lengths, None if present.all() else present, for_rows)

    def read_ended(self, ids: np.ndarray, for_rows: str) -> Targets:
        """Sets of labels as rows of ids, each up to its first -1."""
        self.check_length(ids)
        ended = ids == -1
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1), ids.shape[1])
        lengths = lengths if self.kept is None else np.where(self.kept, lengths, 0)
        flat = ids[np.arange(ids.shape[1]) < lengths[:, None]].astype(np.int64)
        return self.multi(flat, lengths, None, for_rows)

    def multi(self, ids: np.ndarray, lengths: np.ndarray, present: np.ndarray | None, for_rows: str) -> Targets:
        """The sets of labels that lie one behind the other."""
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        bad = first_bad((ids < 0) | (ids >= self.classes))
        if bad is not None:
            raise self.fail("truth ids", f"in [0, {self.classes})", f"undeclared id {ids[bad]}", int(row_of[bad]))
        keys = np.sort(row_of * self.classes + ids)
        repeated = first_bad(np.diff(keys) == 0)
        if repeated is not None:
            row, twice = divmod(int(keys[repeated[0]]), self.classes)
            # A row of 0 and 1 that is read as ids has one of them twice.
            labels = ids[row_of == row]
            hint = f"; {for_rows}" if len(labels) == self.classes and labels.max() <= 1 else ""
            raise self.fail("a set of labels", "without repeats", f"class {twice} twice in {self.place(row)}{hint}")
        return Targets(self.ops, ids, indptr=np.concatenate([[0], np.cumsum(lengths)]), present=present)

    def listed(self, truth: Any, row: int, for_rows: str) -> Any:
        """The labels of one row; a list of ids ends at -1."""
        if not isinstance(truth, SETS):
            return (truth,)
        if isinstance(truth, (list, tuple)):
            ends = [i for i, label in enumerate(truth) if not isinstance(label, str) and label == -1]
            truth = truth[: ends[0]] if ends else truth
            if self.classes == 2 == len(truth) and all(label in (0, 1) for label in truth):
                got = f"{list(truth)} in {self.place(row)}; {for_rows}"
                raise self.fail("a list of labels", "that is no row of 0 and 1", got)
        return truth

    def agree(self, codes: np.ndarray, indptr: np.ndarray, flag: str) -> np.ndarray:
        """Rows whose labels are all missing (or all negated); an error where only some are."""
        flags = codes == MISSING if flag == "missing" else codes < MISSING
        some, every = (f.reduceat(flags, indptr[:-1]) for f in (np.logical_or, np.logical_and))
        mixed = first_bad(some & ~every)
        if mixed is not None:
            expected = "to be all labels, all negated, or missing"
            raise self.fail("a set of labels", expected, f"a {flag} label among others", mixed[0])
        return every
