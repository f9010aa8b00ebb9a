"""`Targets`: the truths of rows as arrays, whatever form they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ops import Array, Ops

__all__ = ["Targets"]


@dataclass(eq=False)
class Targets:
    """The truths of N rows. Either `rows` is given, or `ids`, or the candidate sets of CSR `indptr` and `ids`.

    A set is the listed ids, or all others where `negated`. Where `present` is false the ids mean nothing; on a device
    they may be out of range there. Arrays lie on the guesses' backend, but for `indptr`, which is needed to cut blocks.
    """

    ops: Ops
    ids: Array = None
    rows: Array | None = None
    indptr: np.ndarray | None = None
    negated: Array | None = None
    present: Array | None = None

    def __len__(self) -> int:
        if self.indptr is not None:
            return len(self.indptr) - 1
        either: Array = self.rows if self.ids is None else self.ids
        return len(either)

    def __getitem__(self, block: slice) -> Targets:
        """The targets of some rows."""
        indptr, ids = self.indptr, self.ids
        if indptr is not None and ids is not None:
            start, stop, _ = block.indices(len(self))
            ids = ids[int(indptr[start]) : int(indptr[stop])]
            indptr = indptr[start : stop + 1] - indptr[start]
        elif ids is not None:
            ids = ids[block]
        rows, negated, present = (None if x is None else x[block] for x in (self.rows, self.negated, self.present))
        return Targets(self.ops, ids, rows, indptr, negated, present)

    @classmethod
    def concatenate(cls, ops: Ops, parts: Sequence[Targets], classes: int, dtype: Any) -> Targets:
        """One after the other; all become dense rows where one is."""

        def join(name: str, default: bool) -> Array | None:
            if all(getattr(part, name) is None for part in parts):
                return None
            found = [getattr(part, name) for part in parts]
            return ops.xp.concatenate([ops.xp.full(len(p), default) if x is None else x for p, x in zip(parts, found)])

        present = join("present", True)
        if any(part.rows is not None for part in parts):
            rows = ops.xp.concatenate([part.dense(classes, dtype) for part in parts])
            return cls(ops, rows=rows, present=present)
        indptr = None
        if any(part.indptr is not None for part in parts):
            sizes = [np.ones(len(p), int) if p.indptr is None else np.diff(p.indptr) for p in parts]
            indptr = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        ids = ops.xp.concatenate([part.ids for part in parts])
        return cls(ops, ids, None, indptr, join("negated", False), present)

    def to(self, ops: Ops) -> Targets:
        """The same on another backend."""
        ids, rows, negated, present = (
            None if x is None else ops.asarray(x) for x in (self.ids, self.rows, self.negated, self.present)
        )
        return Targets(ops, ids, rows, self.indptr, negated, present)

    @property
    def indices(self) -> Array:
        """The ids, and 0 for rows that are not present."""
        unseen = self.ops.on_device and self.present is not None and self.indptr is None
        return self.ops.xp.where(self.present, self.ids, 0) if unseen else self.ids

    @property
    def has_sets(self) -> bool:
        """Whether `ids` alone does not say it: there are negated labels or sets of labels."""
        return self.negated is not None or self.indptr is not None

    def members(self, classes: int) -> Array:
        """The candidate sets as a bool array (N, C)."""
        xp, n = self.ops.xp, len(self)
        members = xp.zeros((n, classes), bool)
        if self.indptr is None:
            row_of_id = xp.arange(n)
        else:
            row_of_id = self.ops.asarray(np.repeat(np.arange(n), np.diff(self.indptr)))
        members[row_of_id, self.indices] = True
        return members if self.negated is None else members ^ self.negated[:, None]

    def mean_weight(self, class_weight: Array) -> Array:
        """The weight of each row: the mean over its candidate set, so that of the class for a single label."""
        if not self.has_sets:
            return class_weight[self.indices]
        xp, classes, found = self.ops.xp, len(class_weight), []
        step = max(1, 2**22 // classes)  # rows at a time: all (N, C) need not fit in memory
        for start in range(0, len(self) or 1, step):
            members = self[start : start + step].members(classes)
            found.append(xp.sum(xp.where(members, class_weight, 0), axis=1) / xp.sum(members, axis=1))
        return xp.concatenate(found)

    def dense(self, classes: int, dtype: Any) -> Array:
        """One row of probabilities each: the given rows, or all on the single label."""
        return self.members(classes).astype(dtype) if self.rows is None else self.rows
