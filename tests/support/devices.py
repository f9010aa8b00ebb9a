"""Where tests of CUDA run: a real device with CuPy, or the stand-in on the CPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from lossreg.ops import NumpyOps, Ops
from support import standin_cupy
from support.nested import each, leaves

__all__ = ["HostedOps", "device", "to_device", "to_host"]


@contextlib.contextmanager
def device() -> Iterator[Any]:
    """CuPy with a device; skips the test where there is none. With LOSSREG_STANDIN=1 it is the stand-in."""
    if os.environ.get("LOSSREG_STANDIN") == "1":
        with standin_cupy.installed() as cupy:
            yield cupy
        return
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDevice()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    yield cupy


def to_device(cupy: Any, tree: Any) -> Any:
    """The arrays of a tree as device arrays of the same layout; lists of labels and texts stay on the host."""
    if isinstance(tree, (tuple, list)) and any(isinstance(leaf, np.ndarray) for leaf in leaves(tree)):
        return type(tree)(to_device(cupy, part) for part in tree)
    if isinstance(tree, np.ndarray) and (tree.dtype.kind in "fiub" or tree.dtype.name == "bfloat16"):
        return cupy.asarray(tree)
    return tree


def to_host(tree: Any) -> Any:
    """Device arrays as NumPy's; also where the stand-in forbids it."""
    with standin_cupy.allow_reading():
        return each(lambda x: x.get() if hasattr(x, "get") else x, tree)


class HostedOps(NumpyOps):
    """A device's formulas for arrays of the host: arguments are copied there, and what is found is copied back."""

    name = "cupy"

    def __init__(self, there: Ops) -> None:
        super().__init__()
        self.there = there

    def _move(self) -> Callable[[Any], Any]:
        """Copies each array once, so that `out=guesses` is one array there as well."""
        copies: dict[int, Any] = {}

        def move(x: Any) -> Any:
            if not isinstance(x, np.ndarray):
                return x
            return copies.setdefault(id(x), self.there.xp.asarray(x))

        return move

    def run(
        self,
        formula: Callable[..., Any],
        guesses: Sequence[Any],
        others: Sequence[Any],
        weight: Any,
        scale: Any,
        *,
        out: Sequence[Any] | None,
        **options: Any,
    ) -> tuple[Any, Any]:
        move = self._move()
        targets = None if out is None else [move(x) for x in out]
        arguments = [move(x) for x in guesses], [move(x) for x in others], move(weight), move(scale)
        values, total = self.there.run(formula, *arguments, out=targets, **options)
        for x, made in zip(out or (), targets or ()):
            x[...] = to_host(made)
        return None if values is None else to_host(values), None if total is None else float(to_host(total))

    def align(self, *arguments: Any) -> Any:
        move, out = self._move(), arguments[-1]
        found = self.there.align(*map(move, arguments))
        if out is not None:
            out[...] = to_host(move(out))
        return to_host(found)
