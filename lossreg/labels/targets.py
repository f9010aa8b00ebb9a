"""`Targets`: the truths of rows as arrays, whatever form they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ops import Array, Ops

__all__ = ["Targets"]

MEMBERS_AT_ONCE = 2**22
"""Flags (rows times classes) that exist at a time: 4 MB."""


@dataclass(eq=False)
class Targets:
    """The truths of N rows in one of three forms: `rows` of numbers, `ids`, or candidate sets in CSR (`indptr`, `ids`).

    A set is the listed ids, or all others where `negated`. Where `valid` is false the ids mean nothing; on a device
    they may be out of range there. Arrays lie on the guesses' backend, but for `indptr`, which is needed to cut blocks.
    """

    ops: Ops
    ids: Array = None
    rows: Array | None = None
    indptr: np.ndarray | None = None
    negated: Array | None = None
    valid: Array | None = None

    def __len__(self) -> int:
        if self.indptr is not None:
            return len(self.indptr) - 1
        either: Array = self.rows if self.ids is None else self.ids
        return len(either)

    def __getitem__(self, block: slice) -> Targets:
        """The targets of some rows."""
        indptr, ids = self.indptr, self.ids
        if indptr is not None and ids is not None:
            # The ids of the rows of the block are one piece, which begins at 0 from now on.
            start, stop, _ = block.indices(len(self))
            ids = ids[int(indptr[start]) : int(indptr[stop])]
            indptr = indptr[start : stop + 1] - indptr[start]
        elif ids is not None:
            ids = ids[block]
        rows, negated, valid = _part(self.rows, block), _part(self.negated, block), _part(self.valid, block)
        return Targets(self.ops, ids, rows, indptr, negated, valid)

    @classmethod
    def concatenate(cls, ops: Ops, parts: Sequence[Targets], classes: int, dtype: Any) -> Targets:
        """The targets of parts one after the other; all become dense rows if one part has those."""
        concatenate = ops.xp.concatenate

        def join(name: str, default: bool) -> Array | None:
            """The flags of all parts, with the default for parts that have none."""
            flags = [getattr(part, name) for part in parts]
            if all(x is None for x in flags):
                return None
            for i, part in enumerate(parts):
                if flags[i] is None:
                    flags[i] = ops.xp.full(len(part), default)
            return concatenate(flags)

        valid = join("valid", True)
        if any(part.rows is not None for part in parts):
            return cls(ops, rows=concatenate([part.dense(classes, dtype) for part in parts]), valid=valid)
        indptr = None
        if any(part.indptr is not None for part in parts):
            indptr = np.concatenate([[0], np.cumsum(np.concatenate([part.sizes for part in parts]))])
        ids = concatenate([part.ids for part in parts])
        return cls(ops, ids, None, indptr, join("negated", False), valid)

    def to(self, ops: Ops) -> Targets:
        """The same targets on another backend."""
        arrays = (self.ids, self.rows, self.negated, self.valid)
        ids, rows, negated, valid = (None if x is None else ops.asarray(x) for x in arrays)
        return Targets(ops, ids, rows, self.indptr, negated, valid)

    @property
    def sizes(self) -> np.ndarray:
        """The number of ids of each row."""
        if self.indptr is None:
            return np.ones(len(self), int)
        return np.diff(self.indptr)

    @property
    def indices(self) -> Array:
        """The ids, and 0 for rows that are not valid."""
        if self.valid is None or self.indptr is not None or not self.ops.on_device:
            return self.ids
        # Ids on a device are not checked: where the row is not valid they may be out of range.
        return self.ops.xp.where(self.valid, self.ids, 0)

    @property
    def has_sets(self) -> bool:
        """Whether a row is negated or a set of labels, so that `ids` alone does not say what is right."""
        return self.negated is not None or self.indptr is not None

    def members(self, classes: int) -> Array:
        """The candidate sets as a bool array (N, C)."""
        xp, n = self.ops.xp, len(self)
        members = xp.zeros((n, classes), bool)
        row_of_id = xp.arange(n)
        if self.indptr is not None:
            row_of_id = self.ops.asarray(np.repeat(np.arange(n), self.sizes))
        members[row_of_id, self.indices] = True
        if self.negated is None:
            return members
        return members ^ self.negated[:, None]

    def mean_weight(self, class_weight: Array) -> Array:
        """The weight of each row: that of its class, and for a candidate set the mean over its classes."""
        if not self.has_sets:
            return class_weight[self.indices]
        xp, classes = self.ops.xp, len(class_weight)
        weights = []
        # The sets of all rows (N, C) need not fit in memory. No rows are one empty block.
        step = max(1, MEMBERS_AT_ONCE // classes)
        for start in range(0, len(self) or 1, step):
            members = self[start : start + step].members(classes)
            sums = xp.sum(xp.where(members, class_weight, 0), axis=1)
            weights.append(sums / xp.sum(members, axis=1))
        return xp.concatenate(weights)

    def dense(self, classes: int, dtype: Any) -> Array:
        """One row of numbers per row: `rows` as they are, or 1 on the single label."""
        if self.rows is not None:
            return self.rows
        return self.members(classes).astype(dtype)


def _part(x: Array | None, block: slice) -> Array | None:
    return None if x is None else x[block]
