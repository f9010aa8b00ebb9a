"""Every calculator on arrays that end, or begin, where memory ends: an access outside is a segmentation fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from support.nested import each, leaves
from support.table import ROWS, Row

from .guarded import can_guard, guarded, guarded_allocations, guarded_arrays, outside

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
pytestmark = pytest.mark.skipif(not can_guard(), reason="this system has no mprotect")

SIZES = (1, 3, 7, 33)
"""Items of a batch: less than a vector, just above one, and several with a rest."""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_no_access_outside_of_arrays(row: Row, dtype: Any) -> None:
    """Guesses, truths, weights and gradients lie flush against pages that may not be touched, at either end."""
    rng = np.random.default_rng(3)
    loss = row.make()
    for n in SIZES:
        guesses, truths = row.sample(rng, n)
        guesses = each(lambda x: x.astype(dtype), guesses)
        with np.errstate(all="ignore"), lossreg.use_ops("llvm"):
            expected = loss(guesses, truths)
            for at_end in (True, False):
                with guarded_arrays():
                    compare(row, guesses, truths, expected, at_end)


def compare(row: Row, guesses: Any, truths: Any, expected: Any, at_end: bool) -> None:
    """Same bits, with `out=` where the calculator takes it, and with weights."""
    loss = row.make()
    placed = each(lambda x: guarded(x, at_end), guesses)
    placed_truths = guarded_truths(truths, at_end)
    with guarded_allocations(at_end):
        assert same_bits(loss(placed, placed_truths), expected)
    if row.thinc or isinstance(guesses, list):
        return
    out = each(lambda x: guarded(np.full_like(x, np.nan), at_end), guesses)
    assert same_bits(loss(placed, placed_truths, out=out), expected)
    values = loss.get_values(guesses, truths)
    weight = np.linspace(0.0, 1.0, values.size, dtype=np.float32).reshape(values.shape)
    with_weight = loss(guesses, truths, sample_weight=weight, mask=weight > 0.2)
    placed_mask = guarded(weight > 0.2, at_end)
    placed_weight = guarded(weight, at_end)
    assert same_bits(loss(placed, placed_truths, sample_weight=placed_weight, mask=placed_mask), with_weight)


def guarded_truths(truths: Any, at_end: bool) -> Any:
    """Arrays of numbers are placed; labels of other kinds are read into arrays by the pipeline."""
    if isinstance(truths, tuple):
        return tuple(guarded_truths(part, at_end) for part in truths)
    if isinstance(truths, np.ndarray) and truths.dtype.kind in "fiub":
        return guarded(truths, at_end)
    return truths


def same_bits(a: Any, b: Any) -> bool:
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(leaves(a), leaves(b), strict=True))


@pytest.mark.parametrize("columns", [1, 3, 8, 17, 64, 1023, 1024, 1025])
@pytest.mark.parametrize("name", ["CrossEntropy", "SigmoidFocal", "MultiMargin"])
def test_no_access_outside_of_rows_of_any_length(name: str, columns: int) -> None:
    """Around the length of a vector, and around that of a block."""
    rng, loss = np.random.default_rng(4), getattr(lossreg, name)()
    for dtype in (np.float16, np.float32, np.float64):
        guesses = rng.normal(size=(3, columns)).astype(dtype)
        truths = rng.random((3, columns)).astype(dtype) if name == "SigmoidFocal" else rng.integers(0, columns, 3)
        for at_end in (True, False):
            with guarded_arrays(), lossreg.use_ops("llvm"):
                out = guarded(np.empty_like(guesses), at_end)
                with guarded_allocations(at_end):
                    loss(guarded(guesses, at_end), guarded(truths, at_end), out=out)
                assert same_bits(out, loss.get_grad(guesses, truths))


TOUCH = """
import numpy as np
from faults.guarded import guarded
array = guarded(np.zeros(5, np.float32), {at_end})
import ctypes
ctypes.{access}
"""


@pytest.mark.parametrize(
    ("at_end", "access"),
    [
        (True, "string_at(array.ctypes.data + 20, 1)"),
        (True, "memset(array.ctypes.data + 20, 0, 1)"),
        (False, "string_at(array.ctypes.data - 1, 1)"),
        (False, "memset(array.ctypes.data - 1, 0, 1)"),
    ],
)
def test_an_access_outside_is_a_segmentation_fault(at_end: bool, access: str) -> None:
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", TOUCH.format(at_end=at_end, access=access)],
        env={**os.environ, "PYTHONPATH": str(tests)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -11, done.stderr


def test_arrays_are_what_they_were_and_tell_of_writes_before_them() -> None:
    array = np.arange(7, dtype=np.float32).reshape(1, 7)
    with guarded_arrays():
        for at_end in (True, False):
            placed = guarded(array, at_end)
            np.testing.assert_array_equal(placed, array)
            assert (placed.shape, placed.dtype, placed.flags.c_contiguous) == (array.shape, array.dtype, True)
        before, after = outside(placed)
        assert len(before) == 0
        assert (after == 0xA5).all()
    with pytest.raises(AssertionError, match="1 bytes beside an array were written to"), guarded_arrays():
        outside(guarded(array, at_end=False))[1][3] = 0
