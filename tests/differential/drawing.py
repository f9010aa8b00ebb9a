"""Random numbers, memory layouts and arrangements of batches."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "Arrangement", "Draw", "cast", "widen"]

DTYPES: dict[str, Any] = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def cast(x: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers in a dtype; those that are too large for it become its largest."""
    with np.errstate(all="ignore"):
        if dtype == "float16":
            x = np.where(np.isfinite(x), np.clip(x, -6e4, 6e4), x)
        if dtype in ("float32", "bfloat16"):
            x = np.where(np.isfinite(x), np.clip(x, -1e38, 1e38), x)
        return np.asarray(x, order="C").astype(DTYPES.get(dtype, dtype))


def widen(x: np.ndarray) -> np.ndarray:
    """The same numbers in float64."""
    return np.ascontiguousarray(x).astype(np.float64).reshape(x.shape)


@functools.cache
def mapped() -> np.ndarray:
    """Memory that is a file."""
    with tempfile.NamedTemporaryFile(prefix="lossreg-differential-") as file:
        return np.memmap(file.name, np.uint8, "w+", shape=(1 << 20,))


class Draw:
    """All random choices of a case."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.dtype, self.backend = "float32", "numpy"

    @property
    def floats(self) -> bool:
        """Whether guesses may be infinite."""
        return self.dtype in DTYPES

    @functools.cached_property
    def plain(self) -> bool:
        """Whether dtypes beside the guesses are few: each combination is compiled, which takes longer than a call."""
        return self.backend in ("llvm", "cuda") and self.chance(0.8)

    @property
    def extreme(self) -> float:
        """The power of ten up to which guesses go."""
        return 4 if self.dtype == "float16" else 30 if self.floats else 0

    def chance(self, p: float) -> bool:
        return self.r.random() < p

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.r.randrange(len(choices))]

    def weighted(self, **weights: float) -> str:
        return self.r.choices(list(weights), list(weights.values()))[0]

    def uniform(self, low: float, high: float) -> float:
        """A number that is short in decimal, as options are."""
        return float(f"{self.r.uniform(low, high):.3g}")

    def size(self, most: int = 60) -> int:
        """A number of items."""
        large = most >= 60
        kind = self.weighted(none=3, one=8, few=70, some=17, block=0.25 * large, many=0.03 * large)
        sizes = {"none": 0, "one": 1, "few": self.r.randint(2, 9), "some": self.r.randint(10, max(10, most))}
        sizes |= {"block": self.r.randint(17_000, 40_000), "many": self.r.randint(270_000, 300_000)}
        return sizes[kind]

    def classes(self) -> int:
        kind = self.weighted(one=4, two=12, few=70, many=14)
        return {"one": 1, "two": 2, "few": self.r.randint(3, 7), "many": self.r.randint(8, 24)}[kind]

    def inner(self) -> tuple[int, ...]:
        """Axes behind that of items."""
        axes = self.r.choices([0, 1, 2, 3], [60, 26, 10, 4])[0]
        return tuple(self.r.choices([0, 1, 2, 3, 4], [1, 10, 30, 30, 20])[0] for _ in range(axes))

    def numbers(self, shape: tuple[int, ...], scale: float = 2.0, extreme: float = 30) -> np.ndarray:
        """Numbers of ordinary size, sometimes of any size up to 10**extreme, sometimes all alike along an axis."""
        kind = self.weighted(ordinary=70, wide=12, any=8 if extreme else 0, zeros=5, near=5)
        x = self.rng.normal(size=shape)
        if kind == "wide":
            x = x * 10.0 ** self.rng.uniform(-3, min(3, extreme), shape)
        elif kind == "any":
            x = x * 10.0 ** self.rng.uniform(-extreme, extreme, shape)
        elif kind == "zeros":
            x = x * (self.rng.random(shape) < 0.5) * scale
        elif kind == "near":
            x = 1 + x * 1e-3
        else:
            x = x * scale
        if x.ndim and len(x) > 1 and self.chance(0.04):
            x[:] = x[:1].copy()
        return x

    def lattice(self, shape: tuple[int, ...]) -> np.ndarray:
        """Small multiples of 1/4, among which ties and kinks are frequent."""
        return self.rng.integers(-8, 9, shape) * 0.25

    def lay(self, x: np.ndarray, writable: bool = False) -> np.ndarray:
        """The same array in another layout of memory."""
        how = self.weighted(c=55, f=8, negative=8, strided=8, offset=5, frozen=8, broadcast=3, file=5)
        if x.ndim == 0:
            return x
        if how == "f":
            return np.asfortranarray(x)
        if how == "negative":
            axis = self.r.randrange(x.ndim)
            return np.flip(np.flip(x, axis).copy(), axis)
        if how in ("strided", "offset"):
            steps = tuple(2 if how == "strided" and self.chance(0.6) else 1 for _ in x.shape)
            big = np.zeros(tuple(n * s + 1 for n, s in zip(x.shape, steps)), x.dtype)
            view = big[tuple(slice(1, 1 + n * s, s) for n, s in zip(x.shape, steps))]
            view[...] = x
            return view
        if how == "file" and x.nbytes <= mapped().size:
            view = mapped()[: x.nbytes].view(x.dtype).reshape(x.shape)
            if not self.used_file:
                self.used_file = True
                view[...] = x
                return view
        if writable:
            return x.copy()
        if how == "broadcast" and x.size and (x == x[:1]).all():
            return np.broadcast_to(x[:1].copy(), x.shape)
        x = x.copy()
        x.flags.writeable = how != "frozen"
        return x

    used_file = False
    """A case has one array in the file."""


@dataclass
class Arrangement:
    """How the items of a batch lie: in an array, in a list of sequences, in a Ragged, or padded, (B, T, ...)."""

    kind: str
    n: int
    lengths: tuple[int, ...] | None = None
    longest: int = 0

    @classmethod
    def draw(cls, d: Draw, kinds: str = "array list ragged padded", most: int = 60) -> Arrangement:
        weights = dict(array=72, list=11, ragged=9, padded=8)
        kind = d.weighted(**{k: weights[k] for k in kinds.split()})
        if kind == "array":
            return cls(kind, d.size(most))
        sequences = d.r.choices([0, 1, 2, 3, 5], [2, 10, 30, 30, 10])[0]
        lengths = tuple(d.r.randint(0, 5) for _ in range(sequences))
        if kind != "padded":
            return cls(kind, sum(lengths), lengths)
        longest = max(lengths, default=0) + d.pick([0, 0, 1])
        if d.chance(0.6):
            lengths = (longest,) * sequences
        return cls(kind, sum(lengths), lengths, longest)

    @property
    def whole(self) -> bool:
        """Whether nothing is padding."""
        return self.kind != "padded" or all(n == self.longest for n in self.lengths or ())

    def parts(self, x: Any) -> list[Any]:
        """The items of each sequence."""
        ends = np.cumsum(self.lengths, dtype=int).tolist()
        return [x[end - n : end] for end, n in zip(ends, self.lengths or ())]

    def padded(self, x: np.ndarray, fill: Any) -> np.ndarray:
        """(B, T, ...)."""
        found = np.full((len(self.lengths or ()), self.longest, *x.shape[1:]), fill, x.dtype)
        for row, part in zip(found, self.parts(x)):
            row[: len(part)] = part
        return found

    def items(self, tree: Any) -> np.ndarray:
        """The items of a result that is arranged so, one behind the other."""
        if self.kind == "array":
            return tree
        if self.kind == "ragged":
            return tree.dataXd
        if self.kind == "list":
            return np.concatenate(tree) if tree else np.zeros(0)
        parts = [part[:n] for part, n in zip(tree, self.lengths or ())]
        return np.concatenate(parts) if parts else tree.reshape(0, *tree.shape[2:])
