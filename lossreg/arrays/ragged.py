"""`Ragged`: sequences of different lengths, one behind the other in one array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import describe, fail, on_host

__all__ = ["Ragged", "is_ragged", "like", "read_ragged"]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences of different lengths, one behind the other: nothing is padded, and nothing is copied.

    data: array (total, ...).   lengths: (n,) whole numbers that sum to total, one per sequence; best a NumPy array,
    since a call waits for lengths on a device.
    Calculators take it wherever they take a list of sequences, and return the gradient as one with the same lengths.
    Thinc's `Ragged` does as well.
    """

    data: Any
    lengths: Any

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def dataXd(self) -> Any:  # noqa: N802  (Thinc's name)
        """The data, by the name under which Thinc's `Ragged` has it in its own shape."""
        return self.data


def is_ragged(value: Any) -> bool:
    """Whether a value is a `Ragged`, ours or Thinc's."""
    return hasattr(value, "dataXd") and hasattr(value, "lengths")


def like(ragged: Any, data: Any) -> Any:
    """Other data in sequences of the same lengths."""
    return type(ragged)(data, ragged.lengths)


def read_ragged(name: str, what: str, ragged: Any) -> tuple[Any, tuple[int, ...]]:
    """(data, lengths) of a Ragged, or an error if they do not fit each other."""
    data, lengths_as_passed = ragged.dataXd, ragged.lengths
    if not hasattr(data, "__len__") or getattr(data, "ndim", 1) == 0:
        raise fail(name, f"data of {what}", "to be an array (total, ...)", describe(data))
    lengths = lengths_as_passed
    if hasattr(lengths, "dtype"):
        lengths = on_host(lengths)
    lengths = np.asarray(lengths)
    is_whole = lengths.dtype.kind in "iu" or not lengths.size  # an empty list becomes an array of floats
    if lengths.ndim != 1 or not is_whole or lengths.min(initial=0) < 0:
        got = describe(lengths_as_passed)
        raise fail(name, f"lengths of {what}", "of shape (n,), whole numbers of at least 0", got)
    if lengths.sum() != len(data):
        raise fail(name, f"lengths of {what}", f"to sum to {len(data)} (the items of data)", f"{int(lengths.sum())}")
    return data, tuple(lengths.tolist())
