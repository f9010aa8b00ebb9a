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

__all__ = ["IDS", "MISSING", "SETS", "Reader"]

MISSING = -1
"""Code of a missing label. A class has its id as code, "not class i" has -2 - i."""

IDS = (int, np.integer, np.bool_)
"""Types of a single id."""

SETS = (set, frozenset, list, tuple)
"""Types of the labels of one row, where there may be several."""


@dataclass(eq=False)
class Reader:
    """Reads the truths of N rows of C classes, by the form they come in."""

    labels: Labels
    ops: Ops
    n: int
    classes: int
    dtype: Any
    check: bool
    mask: Array | None
    """False for rows that the caller masks: their truths may be anything."""
    describe_index: Callable[[int], str]
    """The words for a row in errors."""

    def fail(self, what: str, expected: str, got: str, row: int | None = None) -> ValueError:
        if row is not None:
            got = f"{got} in {self.describe_index(row)}"
        return fail(self.labels.name, what, expected, got)

    def read(self, truths: Any) -> Targets:
        """Targets on the guesses' backend."""
        if isinstance(truths, (list, tuple)):
            return self.read_list(truths)
        if type(truths) is not np.ndarray:
            self.check_array(truths)
        # Texts and objects have no arithmetic: they are labels one by one.
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
            raise self.no_ids(truths)
        self.check_length(truths)
        return self.read_ids(truths)

    def no_ids(self, truths: Any) -> ValueError:
        """The error for an array that holds neither ids nor rows."""
        expected = f"of integer ids, shape ({self.n},), or rows, shape ({self.n}, {self.classes})"
        got = describe(truths)
        if truths.ndim == 1 and truths.dtype.kind == "f":
            got += "; write truths.astype(int)"
        return self.fail("truths", expected, got)

    def check_array(self, truths: Any) -> None:
        """Raise unless truths are an array of a library that a backend handles, without a mask of its own."""
        check_unmasked(self.labels.name, "truths", truths)
        if not hasattr(truths, "dtype") or not hasattr(truths, "ndim"):
            raise self.fail("truths", "to be a list, a tuple or an array", describe(truths))
        get_ops(truths)  # raises TypeError for arrays of a library that no backend handles

    def check_length(self, truths: Any) -> None:
        if len(truths) != self.n:
            raise fail(self.labels.name, f"{self.n} truths", "(one per row of guesses)", str(len(truths)))

    # Arrays

    def read_rows(self, rows: Array) -> Targets:
        """Rows of numbers in [0, 1]; a row whose largest number is that of the missing value is missing."""
        self.check_shape_of_rows(rows)
        if rows.dtype.name == "bfloat16":  # NumPy has no functions for it; float32 holds the same numbers
            rows = rows.astype(np.float32)
        valid = None
        if isinstance(self.labels.missing_value, int):
            valid = self.ops.xp.argmax(rows, axis=1) != self.labels.missing_value
        if self.check:
            counted = _both(valid, self.mask)
            if counted is not None:
                counted = counted[:, None]  # one flag per row, for all its columns
            domain = Interval(0, 1)
            name = self.labels.name
            check_domain(self.ops, name, "truth values", rows, domain, counted, self.describe_index)
        # Rows are no less precise than what is computed from them.
        dtype = compute_dtype(self.dtype)
        if rows.dtype in (np.float32, np.float64):
            dtype = np.promote_types(rows.dtype, dtype)
        return Targets(self.ops, rows=rows.astype(dtype, copy=False), valid=valid)

    def check_shape_of_rows(self, rows: Array) -> None:
        if not is_real(rows.dtype):
            raise self.fail("truth rows", "of numbers", describe(rows))
        shape = tuple(rows.shape)
        if shape == (self.n, self.classes):
            return
        expected = f"of shape ({self.n}, {self.classes}) as guesses"
        if rows.dtype.kind in "iub":
            expected += f", or ids of shape ({self.n},)"
        got = describe(rows)
        if shape == (self.n, 1):
            got += "; write truths[:, 0]"
        raise self.fail("truths", expected, got)

    def read_ids(self, ids: Array) -> Targets:
        """Ids of any integer type. Every small call comes through here: no helpers on the path without a mask."""
        # Ids index arrays, and on the host one out of range would count as another class: there they are always read.
        if self.ops.on_device and not self.check:
            return self.unread_ids(ids)
        xp = self.ops.xp
        low, high = 0, -1
        if ids.size:
            low, high = int(ids.min()), int(ids.max())
        valid = self.mask
        for missing in self.labels.missing_ids:
            # Most batches miss no label: their range says so without an array of flags.
            if low <= missing <= high and xp.any(ids == missing):
                valid = _both(ids != missing, valid)
        if low < 0 or high >= self.classes:
            self.check_range(ids, valid)
        ids = ids.astype(np.int64, copy=False)
        if valid is not None:
            ids = xp.where(valid, ids, 0)
        return Targets(self.ops, ids=ids, valid=valid)

    def unread_ids(self, ids: Array) -> Targets:
        """Ids that stay on their device, so that nobody waits for it. Kernels leave out rows that are not valid."""
        valid = self.mask
        for missing in self.labels.missing_ids:
            valid = _both(ids != missing, valid)
        if ids.dtype not in (np.int32, np.int64):
            ids = ids.astype(np.int64)
            if valid is not None:
                ids = self.ops.xp.where(valid, ids, 0)
        return Targets(self.ops, ids=ids, valid=valid)

    def check_range(self, ids: Array, valid: Array | None) -> None:
        """Raise where a valid id is not that of a class."""
        index = first_bad(on_host(_both((ids < 0) | (ids >= self.classes), valid)))
        if index is not None:
            raise self.undeclared(int(ids[index]), index[0])

    def undeclared(self, label: Any, row: int) -> ValueError:
        """The error for an id that is not that of a class."""
        return self.fail("truth ids", f"in [0, {self.classes})", f"undeclared id {label}", row)

    # Lists

    def read_list(self, truths: Sequence[Any]) -> Targets:
        """A list of one of the forms: ids, rows of numbers, or labels and sets of labels."""
        self.check_length(truths)
        if not truths:
            return Targets(self.ops, ids=self.ops.xp.zeros(0, np.int64))
        types = set(map(type, truths))
        if any(hasattr(cls, "ndim") for cls in types):
            truths = self.without_0d(truths)
            types = set(map(type, truths))
        # Lists lie on the host. There a mask on a device cannot be read, and every label must be one.
        mask = None if self.ops.on_device else self.mask
        host = replace(self, ops=get_ops("numpy"), check=True, mask=mask)
        if all(issubclass(cls, IDS) for cls in types):
            return host.read_list_of_ids(truths).to(self.ops)
        if any(map(_is_array, types)):
            return self.read_arrays(truths)
        if not any(issubclass(cls, SETS) for cls in types):
            return host.read_single_labels(truths).to(self.ops)
        if all(issubclass(cls, (list, tuple)) for cls in types) and _holds_floats(truths):
            return host.read_lists_of_numbers(truths).to(self.ops)
        return host.read_sets(truths).to(self.ops)

    def without_0d(self, truths: Sequence[Any]) -> list[Any]:
        """A list with Python's numbers in place of scalars and of arrays without axes."""
        check_unmasked(self.labels.name, "truths", truths)
        return [truth.item() if getattr(truth, "ndim", 1) == 0 else truth for truth in truths]

    def without_masked(self, truths: Sequence[Any], harmless: Any) -> Sequence[Any]:
        """A list with something harmless in place of masked truths, which may be anything."""
        if self.mask is None:
            return truths
        return [truth if selected else harmless for truth, selected in zip(truths, self.mask)]

    def read_list_of_ids(self, truths: Sequence[Any]) -> Targets:
        try:
            ids = np.array(truths, dtype=np.int64)
        except OverflowError:  # an id of more than 64 bits: the one that names its row looks at each
            return self.from_codes(self.codes(truths))
        return self.read_ids(ids)

    def read_arrays(self, truths: Sequence[Any]) -> Targets:
        """A list of arrays, each of which is a row of numbers."""
        rows = [self.ops.asarray(row) for row in truths]
        if any(row.shape != rows[0].shape for row in rows):
            raise self.uneven_rows("ragged rows")
        return self.read(self.ops.xp.stack(rows))

    def read_lists_of_numbers(self, truths: Sequence[Any]) -> Targets:
        """A list of lists, each of which is a row of numbers."""
        truths = self.without_masked(truths, [0.0] * self.classes)
        try:
            rows = np.array(truths, dtype=np.float64)
        except (OverflowError, TypeError, ValueError):
            raise self.uneven_rows("ragged or mixed rows") from None
        return self.read_rows(rows)

    def uneven_rows(self, got: str) -> ValueError:
        """The error for rows that are not C numbers each."""
        return self.fail("truth rows", f"to have {self.classes} numbers each", got)

    def read_single_labels(self, truths: Sequence[Any]) -> Targets:
        """A list with one label per row: an id, a name, a negated name, or None."""
        targets = self.from_codes(self.codes(truths))
        if self.classes == 1 and self.labels.sets and targets.negated is not None:
            row = first_bad(_both(targets.negated, self.mask))
            if row is not None:
                raise self.fail("a negated label", "to leave a candidate", "the only class negated", row[0])
        return targets

    # Codes of labels

    def codes(self, labels: Sequence[Any], row_of: np.ndarray | None = None) -> np.ndarray:
        """Names, ids and None as codes: one look-up in a dict per label. row_of: the row of each, if there are more."""
        if self.labels.names:
            # The usual case, a list of names and no error in it, without a call of Python's per label.
            try:
                return np.fromiter(map(self.labels.table.__getitem__, labels), np.int64, len(labels))
            except (KeyError, TypeError):  # an id among the names, or an unknown name: look at each
                pass
        rows: Sequence[Any] = range(len(labels))
        if row_of is not None:
            rows = row_of.tolist()
        return np.fromiter(map(self.code, labels, rows), np.int64, len(labels))

    def code(self, label: Any, row: int) -> int:
        """The code of one label, or an error that names its row."""
        if self.mask is not None and not self.mask[row]:
            return MISSING
        if label is None:
            return MISSING
        if isinstance(label, str):
            return self.code_of_name(label, row)
        if isinstance(label, IDS):
            class_id = int(label)
            if class_id in self.labels.missing_ids:
                return MISSING
            if 0 <= class_id < self.classes:
                return class_id
            raise self.undeclared(describe(class_id), row)
        expected = "to be ids, names or None"
        if self.labels.sets:
            expected = "to be ids, names, None or sets of them"
        raise self.fail("truths", expected, describe(label), row)

    def code_of_name(self, label: str, row: int) -> int:
        """The code of a name, of a negated one, or of a text that means "missing"."""
        code = self.labels.table.get(label)
        if code is not None:
            return code
        names = self.labels.names
        if not names:
            name = self.labels.name
            raise ValueError(
                f"Cannot calculate {name}: expected truths of ids, got the name {describe(label)} without names. "
                f"Pass names when you make the calculator, for example {name}(names=['dog', 'cat'])."
            )
        known = ", ".join(map(repr, names[:10]))
        if len(names) > 10:
            known += ", ..."
        got = f"unknown name {describe(label)} in {self.describe_index(row)}"
        raise self.fail("truth names", f"among {known}", got + self.option_for(label))

    def option_for(self, label: str) -> str:
        """The option with which an unknown name would mean something."""
        if not label and self.labels.missing_value is None:
            return '; if it means that a truth is missing, set missing_value=""'
        if label[1:] in (self.labels.names or ()) and not self.labels.neg_prefix:
            return f"; if it means that the label is not {label[1:]!r}, set neg_prefix={label[0]!r}"
        return ""

    def from_codes(self, codes: np.ndarray) -> Targets:
        """Targets of single labels."""
        missing, negated = codes == MISSING, codes < MISSING
        # Ids index arrays also where they mean nothing: 0 is in range.
        ids = np.where(negated, -2 - codes, np.where(missing, 0, codes))
        return Targets(self.ops, ids, negated=_if_any(negated), valid=_all_but(missing))

    # Sets of labels, of which one is right

    def read_sets(self, truths: Sequence[Any]) -> Targets:
        """Rows that are sets of labels, some of them perhaps single or missing."""
        if not self.labels.sets:
            row = next(i for i, truth in enumerate(truths) if isinstance(truth, SETS))
            raise self.fail("truths", "to be single labels", describe(truths[row]), row)
        sets = [truth if isinstance(truth, SETS) else (truth,) for truth in truths]
        labels = self.without_masked(sets, (None,))
        lengths = _lengths(labels)
        if not lengths.all():
            row = int(np.argmin(lengths))
            raise self.fail("truths", "to name at least one label (None is missing)", "an empty set", row)
        # All labels in one list, each with its row: one look-up per label, and arrays from there on.
        row_of = np.repeat(np.arange(len(labels)), lengths)
        codes = self.codes(list(chain.from_iterable(labels)), row_of)
        indptr = _indptr(lengths)
        missing = self.agreed(codes == MISSING, indptr, "missing")
        negated = self.agreed(codes < MISSING, indptr, "negated")
        ids = self.from_codes(codes).ids
        self.check_no_repeats(ids, row_of, missing)
        self.check_candidates(truths, lengths, missing, negated)
        return Targets(self.ops, ids, indptr=indptr, negated=_if_any(negated), valid=_all_but(missing))

    def agreed(self, flags: np.ndarray, indptr: np.ndarray, word: str) -> np.ndarray:
        """The flag of each row, which its labels share: all are missing (or negated), or none."""
        some = np.logical_or.reduceat(flags, indptr[:-1])
        every = np.logical_and.reduceat(flags, indptr[:-1])
        mixed = first_bad(some & ~every)
        if mixed is not None:
            expected = "to be all labels, all negated, or missing"
            raise self.fail("a set of labels", expected, f"a {word} label among others", mixed[0])
        return every

    def check_no_repeats(self, ids: np.ndarray, row_of: np.ndarray, missing: np.ndarray) -> None:
        """Raise where a set names a class twice, as a row of 0 and 1 in a list does."""
        # Row and class as one number: equal ones lie side by side in order.
        keys = row_of * self.classes + ids
        order = np.argsort(keys, kind="stable")
        repeated = first_bad((np.diff(keys[order]) == 0) & ~missing[row_of[order[1:]]])
        if repeated is not None:
            at = int(order[repeated[0] + 1])
            expected = "without repeats (rows of 0 and 1 must be an array)"
            raise self.fail("a set of labels", expected, f"class {int(ids[at])} twice", int(row_of[at]))

    def check_candidates(
        self, truths: Sequence[Any], lengths: np.ndarray, missing: np.ndarray, negated: np.ndarray
    ) -> None:
        """Raise where a set says nothing, since it has all classes, or leaves none."""
        is_list = np.fromiter((isinstance(truth, (list, tuple)) for truth in truths), bool, len(truths))
        has_all = lengths >= self.classes
        # [0, 1] of two classes is more likely a row of numbers.
        useless = first_bad(is_list & ~missing & ~negated & has_all & (self.classes > 1))
        if useless is not None:
            expected = "that leaves a class out (rows of 0 and 1 must be an array)"
            raise self.fail("a list of labels", expected, f"all {self.classes} classes", useless[0])
        impossible = first_bad(negated & has_all)
        if impossible is not None:
            raise self.fail("a set of labels", "to leave a candidate", "all classes negated", impossible[0])

    # Sets of labels that all hold

    def read_multi(self, truths: Sequence[Any], for_rows: str) -> Targets:
        """Sets of the labels that hold, which may be empty; a row that is None is missing."""
        self.check_length(truths)
        missing = np.array([truth is None for truth in truths], bool)
        labels: list[Any] = []
        for row, is_read in enumerate(_both(~missing, self.mask)):
            labels.append(())
            if is_read:
                labels[row] = self.listed(truths[row], row, for_rows)
        lengths = _lengths(labels)
        row_of = np.repeat(np.arange(len(labels)), lengths)
        ids = self.codes(list(chain.from_iterable(labels)), row_of)
        bad = first_bad(ids < 0)
        if bad is not None:
            raise self.fail("a set of labels", "of ids or names", "None", int(row_of[bad[0]]))
        return self.multi(ids, lengths, _all_but(missing), for_rows)

    def read_ended(self, ids: np.ndarray, for_rows: str) -> Targets:
        """Sets of labels as rows of ids, each up to its first -1."""
        self.check_length(ids)
        ended = ids == -1
        # argmax is the first -1 of a row, and 0 for a row without one.
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1), ids.shape[1])
        if self.mask is not None:
            lengths = np.where(self.mask, lengths, 0)
        flat = ids[np.arange(ids.shape[1]) < lengths[:, None]].astype(np.int64)
        return self.multi(flat, lengths, None, for_rows)

    def multi(self, ids: np.ndarray, lengths: np.ndarray, valid: np.ndarray | None, for_rows: str) -> Targets:
        """The sets of labels that lie one behind the other."""
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        bad = first_bad((ids < 0) | (ids >= self.classes))
        if bad is not None:
            raise self.undeclared(ids[bad], int(row_of[bad]))
        keys = np.sort(row_of * self.classes + ids)
        repeated = first_bad(np.diff(keys) == 0)
        if repeated is not None:
            row, twice = divmod(int(keys[repeated[0]]), self.classes)
            got = f"class {twice} twice in {self.describe_index(row)}"
            # A row of 0 and 1 that is read as ids has one of them twice.
            labels = ids[row_of == row]
            if len(labels) == self.classes and labels.max() <= 1:
                got += f"; {for_rows}"
            raise self.fail("a set of labels", "without repeats", got)
        return Targets(self.ops, ids, indptr=_indptr(lengths), valid=valid)

    def listed(self, truth: Any, row: int, for_rows: str) -> Any:
        """The labels of one row; a list of ids ends at -1."""
        if not isinstance(truth, SETS):
            return (truth,)
        if isinstance(truth, (set, frozenset)):
            return truth
        # Rows of ids in arrays are filled up with -1, and such arrays may come as lists.
        for i, label in enumerate(truth):
            if not isinstance(label, str) and label == -1:
                truth = truth[:i]
                break
        if self.classes == 2 == len(truth) and all(label in (0, 1) for label in truth):
            got = f"{list(truth)} in {self.describe_index(row)}; {for_rows}"
            raise self.fail("a list of labels", "that is no row of 0 and 1", got)
        return truth


def _both(a: Any, b: Any) -> Any:
    """Where both flags hold; None is a flag that holds everywhere."""
    if a is None:
        return b
    if b is None:
        return a
    return a & b


def _if_any(flags: np.ndarray) -> np.ndarray | None:
    """Flags, or None if none is set, which saves later steps their work."""
    return flags if flags.any() else None


def _all_but(missing: np.ndarray) -> np.ndarray | None:
    """Which rows are valid, None for all."""
    return ~missing if missing.any() else None


def _lengths(labels: Sequence[Any]) -> np.ndarray:
    return np.fromiter(map(len, labels), np.int64, len(labels))


def _indptr(lengths: np.ndarray) -> np.ndarray:
    """Where the sets begin that lie one behind the other, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _is_array(cls: type) -> bool:
    """Whether values of a type are arrays, and no scalars."""
    return hasattr(cls, "ndim") and not issubclass(cls, np.generic)


def _holds_floats(rows: Sequence[Any]) -> bool:
    """Whether a number in lists is a float, which no label is."""
    types = set(map(type, chain.from_iterable(rows)))
    return any(issubclass(cls, (float, np.floating)) or cls.__name__ == "bfloat16" for cls in types)
