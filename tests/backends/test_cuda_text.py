"""The text of every kernel, as calls of all calculators make it, through NVIDIA's compiler: no device is needed."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

import numpy as np
import pytest

from lossreg.ops.cuda import ops as cupy_ops
from support import nvrtc, standin_cupy
from support.devices import to_device
from support.nested import count, each, item_mask
from support.table import ROWS, Row

pytestmark = pytest.mark.skipif(nvrtc.why_not() is not None, reason=nvrtc.why_not() or "")

DEVICES = ("sm_75", "sm_80", "sm_90", "sm_100")
"""Turing, Ampere, Hopper and Blackwell."""

try:
    from ml_dtypes import bfloat16

    DTYPES = [np.float16, bfloat16, np.float32, np.float64]
except ImportError:
    DTYPES = [np.float16, np.float32, np.float64]


def texts(row: Row, dtype: Any, group: tuple[int, int] | None = None, everything: bool = True) -> list[str]:
    """What is compiled for calls of a calculator."""
    found: dict[str, None] = {}

    class Kernel:
        def __init__(self, code: str, name: str, options: tuple[str, ...]) -> None:
            assert (name, options) == ("run", cupy_ops.OPTIONS)
            found[code] = None

        def __call__(self, *arguments: Any) -> None:
            pass

    rng = np.random.default_rng(0)
    with standin_cupy.installed(group) as cupy, mock.patch.object(cupy, "RawKernel", Kernel), np.errstate(all="ignore"):
        guesses, truths = row.sample(rng, 7)
        given = to_device(cupy, each(lambda x: x.astype(dtype), guesses))
        beside = truths if row.host_truths else to_device(cupy, truths)
        row.make()(given, beside)
        if everything and not row.thinc:
            keep = rng.random(guesses.shape[1] if row.axis else count(guesses)) < 0.6
            weight = each(lambda m: m + 0.5, item_mask(row.make().get_values(guesses, truths), keep))
            weights = {"sample_weight": to_device(cupy, weight)}
            for reduction, more in itertools.product(("mean", "none"), ({}, weights)):
                loss = row.make(reduction=reduction)
                for call in (loss, loss.get_grad, loss.get_loss):
                    call(given, beside, **more)
    return list(found)


FIRST = list({row.name: row for row in reversed(ROWS)}.values())[::-1]
"""One row of each calculator."""
SOME = [row for row in FIRST if row.name in ("CrossEntropy.v1", "Huber.v1", "CTC.v1")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_text_is_cuda(row: Row) -> None:
    """With all options, with weights and without: no errors, and nothing that the compiler warns of."""
    for dtype in DTYPES:
        for text in texts(row, dtype, everything=np.dtype(dtype).itemsize > 2):  # halves differ in memory alone
            if text not in seen:
                seen.add(text)
                options = ("-arch=compute_75", "-fdevice-syntax-only", "-minimal")
                assert not nvrtc.compile_text(text, *cupy_ops.OPTIONS, *nvrtc.OPTIONS, *options).log


seen: set[str] = set()


@pytest.mark.parametrize("row", FIRST, ids=lambda row: row.id)
def test_code_for_a_device(row: Row) -> None:
    """Each calculator with one dtype for one device, in turn."""
    place = FIRST.index(row)
    dtype, device = DTYPES[place % len(DTYPES)], DEVICES[place // len(DTYPES) % len(DEVICES)]
    for text in texts(row, dtype, everything=False):
        check_code(text, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", SOME, ids=lambda row: row.id)
def test_code_for_all_devices(row: Row, dtype: Any, device: str) -> None:
    for text in texts(row, dtype, everything=False):
        check_code(text, device)


@pytest.mark.parametrize("columns", [1024, 1025, 16_385])
@pytest.mark.parametrize("row", SOME, ids=lambda row: row.id)
def test_rows_of_a_warp_and_of_a_block(row: Row, columns: int) -> None:
    for text in texts(row, np.float32, group=cupy_ops._group(columns), everything=False):
        check_code(text, "sm_90")


def check_code(text: str, device: str) -> None:
    found = nvrtc.compile_text(text, *cupy_ops.OPTIONS, *nvrtc.OPTIONS, f"-arch={device}")
    assert not found.log
    assert found.code.startswith(b"\x7fELF")


@pytest.mark.parametrize("row", FIRST, ids=lambda row: row.id)
def test_nothing_of_a_row_lies_in_memory(row: Row) -> None:
    """What a thread knows of its row stays in registers, where it takes no time to reach."""
    for text in texts(row, np.float32, everything=False):
        found = nvrtc.compile_text(text, *cupy_ops.OPTIONS, *nvrtc.OPTIONS, "-arch=compute_90")
        assert b"__local_depot" not in found.code


def test_a_wrong_text_is_told_from_a_right_one() -> None:
    for wrong, message in (("float x = y;", "undefined"), ("int x; x = x;", "used before its value is set")):
        text = f'extern "C" __global__ void run() {{ {wrong} }}'
        try:
            log = nvrtc.compile_text(text, "-arch=sm_90").log
        except RuntimeError as error:
            log = str(error)
        assert message in log
