"""Labels in any form (ids, names, negated, missing, candidate sets, dense rows) -> arrays of `Targets`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .arrays import Batch
from .checks import Interval, check_domain, describe, fail, first_bad
from .options import Problem
from .ops import Array, Ops

__all__ = ["Labels", "Targets", "label_problems"]

MISSING = -1
"""Code of a missing label. A class has its id as code, "not class i" has -2 - i."""


@dataclass(frozen=True)
class Targets:
    """The truths of N rows. Either `rows` is given, or `ids`, or the candidate sets of CSR `indptr` and `ids`.

    A set is the listed ids, or all others where `negated`. Where `present` is false the ids mean nothing but are in
    range. Arrays lie on the guesses' backend, but for `indptr`, which is needed to cut blocks.
    """

    ops: Ops
    ids: Array | None = None
    rows: Array | None = None
    indptr: np.ndarray | None = None
    negated: Array | None = None
    present: Array | None = None

    def __getitem__(self, block: slice) -> Targets:
        """The targets of some rows."""
        indptr, ids = self.indptr, self.ids
        if indptr is not None and ids is not None:
            start, stop, _ = block.indices(len(indptr) - 1)
            ids = ids[int(indptr[start]) : int(indptr[stop])]
            indptr = indptr[start : stop + 1] - indptr[start]
        elif ids is not None:
            ids = ids[block]
        rows, negated, present = (None if x is None else x[block] for x in (self.rows, self.negated, self.present))
        return Targets(self.ops, ids, rows, indptr, negated, present)

    @property
    def has_sets(self) -> bool:
        """Whether `ids` alone does not say it: there are negated labels or sets of labels."""
        return self.negated is not None or self.indptr is not None

    @property
    def row_of_id(self) -> Array:
        """The row that each of `ids` belongs to."""
        if self.indptr is None:
            return self.ops.xp.arange(len(self.ids))  # type: ignore[arg-type]
        return self.ops.asarray(np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr)))

    def members(self, classes: int) -> Array:
        """The candidate sets as a bool array (N, C)."""
        n = len(self.ids) if self.indptr is None else len(self.indptr) - 1  # type: ignore[arg-type]
        members = self.ops.xp.zeros((n, classes), bool)
        members[self.row_of_id, self.ids] = True
        return members if self.negated is None else members ^ self.negated[:, None]

    def mean_weight(self, class_weight: Array) -> Array:
        """The weight of each row: the mean over its candidate set, so that of the class for a single label."""
        if not self.has_sets:
            return class_weight[self.ids]
        members = self.members(len(class_weight))
        return self.ops.xp.sum(self.ops.xp.where(members, class_weight, 0), axis=1) / self.ops.xp.sum(members, axis=1)

    def dense(self, classes: int, dtype: Any) -> Array:
        """One row of probabilities each: the given rows, or all on the single label."""
        if self.rows is not None:
            return self.rows
        return self.members(classes).astype(dtype)


def label_problems(names: Sequence[str] | None, neg_prefix: str | None) -> Iterable[Problem]:
    """What can be wrong with label options before any data is seen."""
    if neg_prefix == "":
        yield "neg_prefix", "expected a prefix such as '!', got an empty string"
    seen: set[str] = set()
    for name in names or ():
        if name in seen:
            yield "names", f"duplicate name {name!r}"
        seen.add(name)
    for name in names or () if neg_prefix else ():
        if name.startswith(neg_prefix) and name[len(neg_prefix) :] in seen:
            yield "names", f"{name!r} reads as the negation of {name[len(neg_prefix) :]!r} with neg_prefix {neg_prefix!r}"


class Labels:
    """Reads the truths of one calculator; made once for its options."""

    def __init__(
        self,
        name: str,
        names: Sequence[str] | None,
        missing_value: str | int | None,
        neg_prefix: str | None,
        ignore_index: int | None = None,
        sets: bool = True,
    ) -> None:
        self.name, self.names, self.missing_value = name, names, missing_value
        self.neg_prefix, self.ignore_index, self.sets = neg_prefix, ignore_index, sets
        self.missing_ids = {i for i in (missing_value, ignore_index) if isinstance(i, int)}
        table: dict[Any, int] = {}
        if neg_prefix:
            table |= {neg_prefix + label: -2 - i for i, label in enumerate(names or ())}
        table = {label: i for i, label in enumerate(names or ())} | table
        self.table = table | {None: MISSING} | ({missing_value: MISSING} if isinstance(missing_value, str) else {})

    def read(self, batch: Batch, truths: Any, check: bool) -> Targets:
        """Targets of a batch. `check` reads ids and rows that are on a device too, to check their range."""
        rows, classes = batch.arrays[0].shape
        if self.names and len(self.names) != classes and batch.lengths != ():
            raise fail(self.name, "one name for each class", f"of guesses, {classes}", f"{len(self.names)} names")
        if batch.lengths is not None:
            return self._read_sequences(batch, truths, check)
        if len(batch.shape) == 1:
            truths = self._unbatched(truths, classes)
        elif len(batch.shape) > 2:
            truths = self._class_axis_last(batch, truths)
        return self._read(batch.ops, truths, rows, classes, batch.arrays[0].dtype, check, batch.place)

    def _read_sequences(self, batch: Batch, truths: Any, check: bool) -> Targets:
        batch.check_sequences("truths", truths)
        rows, classes = batch.arrays[0].shape
        dtype, ops = batch.arrays[0].dtype, batch.ops
        if all(isinstance(part, (list, tuple)) for part in truths):
            joined: Any = list(chain.from_iterable(truths))
        else:
            kinds = {(type(part), getattr(part, "ndim", None), getattr(getattr(part, "dtype", None), "kind", "")) for part in truths}
            if len(kinds) > 1:
                return self._mixed(batch, truths, check)
            joined = ops.xp.concatenate(truths) if ops.owns(truths[0]) else np.concatenate(truths)
        return self._read(ops, joined, rows, classes, dtype, check, batch.place)

    def _mixed(self, batch: Batch, truths: Sequence[Any], check: bool) -> Targets:
        """Sequences whose truths have different forms: each is read alone, and all become dense where one is."""
        classes, dtype, xp = batch.arrays[0].shape[1], batch.arrays[0].dtype, batch.ops.xp
        starts = np.cumsum((0, *batch.lengths)) if batch.lengths else [0]
        parts = [
            self._read(batch.ops, part, len(part), classes, dtype, check, lambda i, s=int(start): batch.place(s + i))
            for part, start in zip(truths, starts)
        ]
        present = None
        if any(part.present is not None for part in parts):
            everywhere = [xp.ones(len(t), bool) if p.present is None else p.present for p, t in zip(parts, truths)]
            present = xp.concatenate(everywhere)
        if any(part.rows is not None for part in parts):
            if any(part.has_sets for part in parts):
                expected = "without negated labels or label sets where another sequence has dense rows"
                raise fail(self.name, "truths", expected, "both")
            dense = xp.concatenate([part.dense(classes, dtype) for part in parts])
            return Targets(batch.ops, rows=dense, present=present)
        sizes = [np.ones(len(t), int) if p.indptr is None else np.diff(p.indptr) for p, t in zip(parts, truths)]
        negated = None
        if any(part.negated is not None for part in parts):
            everywhere = [xp.zeros(len(t), bool) if p.negated is None else p.negated for p, t in zip(parts, truths)]
            negated = xp.concatenate(everywhere)
        indptr = None
        if any(part.indptr is not None for part in parts):
            indptr = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        return Targets(batch.ops, xp.concatenate([part.ids for part in parts]), None, indptr, negated, present)

    def _unbatched(self, truths: Any, classes: int) -> Any:
        """One example without a batch axis: a label, or a row of probabilities."""
        if hasattr(truths, "shape") and truths.shape == (classes,) and truths.dtype.kind in "fiub":
            return truths[None]
        if hasattr(truths, "shape") and truths.shape == ():
            return truths.reshape(1) if truths.dtype.kind in "iub" else [truths.item()]
        if truths is None or isinstance(truths, (str, int, set, frozenset)):
            return [truths]
        raise fail(self.name, "truths of one example", f"to be a label or a row of {classes}", describe(truths))

    def _class_axis_last(self, batch: Batch, truths: Any) -> Any:
        """Truths of guesses (N, C, d1, ...): ids (N, d1, ...), or probabilities (N, C, d1, ...), as rows."""
        truths = np.asarray(truths) if isinstance(truths, (list, tuple)) else truths
        if hasattr(truths, "shape") and truths.shape == batch.values_shape:
            return truths.reshape(-1)
        if hasattr(truths, "shape") and truths.shape == batch.shape:
            return batch.ops.xp.moveaxis(batch.ops.asarray(truths), 1, -1).reshape(-1, batch.shape[1])
        expected = f"of shape {batch.values_shape} or {batch.shape} (that of guesses)"
        raise fail(self.name, "truths", expected, describe(truths))

    def _read(
        self, ops: Ops, truths: Any, n: int, classes: int, dtype: Any, check: bool, place: Callable[[int], str]
    ) -> Targets:
        if isinstance(truths, np.ma.MaskedArray):
            raise fail(self.name, "truths", "to be an array (give its mask as mask=~array.mask)", "a masked array")
        if type(truths).__module__.partition(".")[0] == "pandas":
            truths = truths.to_numpy()
        if isinstance(truths, (list, tuple)):
            return self._read_list(ops, truths, n, classes, dtype, check, place)
        if not hasattr(truths, "dtype") or not hasattr(truths, "ndim"):
            raise fail(self.name, "truths", "to be a list, a tuple or an array", describe(truths))
        if truths.dtype.kind in "USOT":
            if truths.ndim != 1:
                raise fail(self.name, "truths of labels", f"of shape ({n},)", describe(truths))
            return self._read_list(ops, truths.tolist(), n, classes, dtype, check, place)
        if not ops.owns(truths):
            if ops.on_device and isinstance(truths, np.ndarray):
                truths = ops.asarray(truths)
            else:
                raise fail(self.name, "truths", f"of {ops.name} as the guesses are", describe(truths))
        if truths.ndim == 2:
            return self._read_rows(ops, truths, n, classes, dtype, check, place)
        if truths.ndim != 1 or truths.dtype.kind not in "iub":
            raise fail(self.name, "truths", f"of integer ids, shape ({n},), or rows, shape ({n}, {classes})", describe(truths))
        self._check_length(len(truths), n)
        return self._read_ids(ops, truths, None, classes, check or not ops.on_device, place)

    def _check_length(self, got: int, n: int) -> None:
        if got != n:
            raise fail(self.name, "truths", f"one a row of guesses, {n}", f"mismatched shapes: {got} truths")

    def _read_rows(
        self, ops: Ops, rows: Array, n: int, classes: int, dtype: Any, check: bool, place: Callable[[int], str]
    ) -> Targets:
        if rows.dtype.kind not in "fiub":
            raise fail(self.name, "truth rows", "of numbers", describe(rows))
        if tuple(rows.shape) != (n, classes):
            raise fail(self.name, "truths", f"of shape ({n}, {classes}) as guesses", f"mismatched shapes: {describe(rows)}")
        present = None
        if isinstance(self.missing_value, int):
            present = ops.xp.argmax(rows, axis=1) != self.missing_value
        if check:
            kept = None if present is None else present[:, None]
            check_domain(self.name, "truth values", rows, Interval(0, 1), kept, place)
        return Targets(ops, rows=rows if rows.dtype.kind == "f" else rows.astype(dtype), present=present)

    def _read_ids(
        self, ops: Ops, ids: Array, present: Array | None, classes: int, check: bool, place: Callable[[int], str]
    ) -> Targets:
        """Ids of any integer type. With `check` false the ids stay on their device unread."""
        xp = ops.xp
        for missing in sorted(self.missing_ids):
            if not check or xp.any(ids == missing):
                present = (ids != missing) if present is None else present & (ids != missing)
        if check and ids.size and not (ids.min() >= 0 and ids.max() < classes):
            bad = (ids < 0) | (ids >= classes)
            index = first_bad(ops.to_numpy(bad if present is None else bad & present))
            if index is not None:
                raise fail(
                    self.name, "truth ids", f"in [0, {classes})", f"undeclared id {int(ids[index])} in {place(index[0])}"
                )
        ids = ids.astype(np.int64)
        return Targets(ops, ids=ids if present is None else xp.where(present, ids, 0), present=present)

    def _read_list(
        self, ops: Ops, truths: Sequence[Any], n: int, classes: int, dtype: Any, check: bool, place: Callable[[int], str]
    ) -> Targets:
        self._check_length(len(truths), n)
        kinds = set(map(type, truths))
        if not kinds:
            return Targets(ops, ids=ops.xp.zeros(0, np.int64))
        if all(issubclass(kind, (int, np.integer, np.bool_)) for kind in kinds):
            host = self._read_ids(_host(), np.asarray(self._int64(truths, place)), None, classes, True, place)
        elif any(hasattr(kind, "ndim") and not issubclass(kind, np.generic) for kind in kinds):
            try:
                stacked = ops.xp.stack([ops.asarray(row) for row in truths])
            except ValueError:
                raise fail(self.name, "truth rows", f"to have {classes} values each", "ragged rows") from None
            return self._read(ops, stacked, n, classes, dtype, check, place)
        elif self._are_dense_rows(truths, kinds):
            try:
                rows = np.array(truths, dtype=np.float64)
            except (TypeError, ValueError):
                raise fail(self.name, "truth rows", f"to have {classes} numbers each", "ragged or mixed rows") from None
            self._read_rows(_host(), rows, n, classes, dtype, True, place)
            return self._read_rows(ops, ops.asarray(rows), n, classes, dtype, False, place)
        elif any(issubclass(kind, (set, frozenset, list, tuple)) for kind in kinds):
            host = self._read_sets(truths, classes, place)
        else:
            host = self._from_codes(self._codes(truths, classes, place))
            if self.sets and classes == 1 and host.negated is not None:
                got = f"the only class negated in {place(int(np.argmax(host.negated)))}"
                raise fail(self.name, "a negated label", "to leave a candidate", got)
        return Targets(
            ops,
            *(None if x is None else ops.asarray(x) for x in (host.ids, host.rows)),
            host.indptr,
            *(None if x is None else ops.asarray(x) for x in (host.negated, host.present)),
        )

    def _int64(self, truths: Sequence[Any], place: Callable[[int], str]) -> np.ndarray:
        try:
            return np.array(truths, dtype=np.int64)
        except OverflowError:
            row = next(i for i, truth in enumerate(truths) if not -(2**63) <= truth < 2**63)
            raise fail(self.name, "truth ids", "of 64 bits", f"{truths[row]} in {place(row)}") from None

    @staticmethod
    def _are_dense_rows(truths: Sequence[Any], kinds: set[type]) -> bool:
        """Plain lists of floats are rows of probabilities; plain lists of ints or names are sets of labels."""
        if not all(issubclass(kind, (list, tuple)) for kind in kinds):
            return False
        return any(issubclass(kind, (float, np.floating)) for kind in set(map(type, chain.from_iterable(truths))))

    def _codes(self, labels: Sequence[Any], classes: int, place: Callable[[int], str]) -> np.ndarray:
        """Names, ids and None as codes: one look-up in a dict for each label."""
        if self.names:
            try:
                return np.fromiter(map(self.table.__getitem__, labels), np.int64, len(labels))
            except (KeyError, TypeError):  # an id among the names, or an unknown name: look at each
                pass
        return np.fromiter((self._code(x, classes, i, place) for i, x in enumerate(labels)), np.int64, len(labels))

    def _code(self, label: Any, classes: int, row: int, place: Callable[[int], str]) -> int:
        if label is None or isinstance(label, str) and label == self.missing_value:
            return MISSING
        if isinstance(label, str):
            if not self.names:
                raise ValueError(
                    f"Cannot calculate {self.name}: expected truths of ids, got the name {label!r} without names. "
                    f"Pass names when you make the calculator, for example {self.name}(names=['dog', 'cat'])."
                )
            if label not in self.table:
                known = ", ".join(map(repr, self.names[:10])) + (", ..." if len(self.names) > 10 else "")
                raise fail(self.name, "truth names", f"among {known}", f"unknown name {label!r} in {place(row)}")
            return self.table[label]
        if isinstance(label, (int, np.integer, np.bool_)):
            if int(label) in self.missing_ids:
                return MISSING
            if 0 <= label < classes:
                return int(label)
            raise fail(self.name, "truth ids", f"in [0, {classes})", f"undeclared id {label} in {place(row)}")
        expected = "to be ids, names, None or sets of them" if self.sets else "to be ids, names or None"
        raise fail(self.name, "truths", expected, f"{describe(label)} in {place(row)}")

    def _from_codes(self, codes: np.ndarray) -> Targets:
        present, negated = codes != MISSING, codes < MISSING
        ids = np.where(negated, -2 - codes, np.where(present, codes, 0))
        return Targets(
            _host(),
            ids=ids,
            negated=negated if negated.any() else None,
            present=None if present.all() else present,
        )

    def _read_sets(self, truths: Sequence[Any], classes: int, place: Callable[[int], str]) -> Targets:
        """Rows that are sets of labels, perhaps beside single ones and missing ones."""
        if not self.sets:
            row = next(i for i, truth in enumerate(truths) if isinstance(truth, (set, frozenset, list, tuple)))
            expected = f"to be single labels (sets of labels are for {self.name}'s true twin, version 4)"
            raise fail(self.name, "truths", expected, f"{describe(truths[row])} in {place(row)}")
        several = (set, frozenset, list, tuple)
        labels = [tuple(truth) if isinstance(truth, several) else (truth,) for truth in truths]
        lengths = np.fromiter(map(len, labels), np.int64, len(labels))
        row_of = np.repeat(np.arange(len(labels)), lengths)
        if not lengths.all():
            empty = place(int(np.argmin(lengths)))
            raise fail(self.name, "truths", "to name at least one label (None is missing)", f"an empty set in {empty}")
        codes = self._codes(list(chain.from_iterable(labels)), classes, lambda i: place(int(row_of[i])))
        flat = self._from_codes(codes)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        missing = np.zeros(len(codes), bool) if flat.present is None else ~flat.present
        negated = np.zeros(len(codes), bool) if flat.negated is None else flat.negated
        absent, negative = (np.logical_or.reduceat(flags, indptr[:-1]) for flags in (missing, negated))
        for flags, mixed, what in ((missing, absent, "a missing label"), (negated, negative, "a negated label")):
            bad = first_bad(mixed & ~np.logical_and.reduceat(flags, indptr[:-1]))
            if bad is not None:
                got = f"{what} among others in {place(bad[0])}"
                raise fail(self.name, "a set of labels", "to be all labels, all negated, or missing", got)
        keys = row_of * classes + flat.ids  # type: ignore[operator]
        order = np.argsort(keys, kind="stable")
        repeated = first_bad((np.diff(keys[order]) == 0) & ~absent[row_of[order[1:]]])
        if repeated is not None:
            at = order[repeated[0] + 1]
            got = f"id {flat.ids[at]} twice in {place(int(row_of[at]))}"  # type: ignore[index]
            raise fail(self.name, "a set of labels", "without repeats (rows of 0 and 1 must be an array)", got)
        full = first_bad(negative & (lengths >= classes))
        if full is not None:
            raise fail(self.name, "a set of labels", "to leave a candidate", f"all classes negated in {place(full[0])}")
        return Targets(
            _host(),
            ids=flat.ids,
            indptr=indptr,
            negated=negative if negative.any() else None,
            present=~absent if absent.any() else None,
        )


def _host() -> Ops:
    from .ops import get_ops

    return get_ops("numpy")
