"""Fixtures of all tests: a backend, CuPy or what stands in for it, and random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg.ops import get_ops
from support import devices, standin_cupy
from support.backends import BACKENDS, on_a_device


@pytest.fixture(params=[*BACKENDS, on_a_device])
def backend(request: pytest.FixtureRequest) -> Any:
    with contextlib.ExitStack() as stack:
        ops = BACKENDS.get(request.param)
        if ops is None:
            stack.enter_context(devices.device())
            ops = devices.HostedOps(get_ops("cupy"))
        stack.enter_context(np.errstate(all="ignore"))
        yield stack.enter_context(lossreg.use_ops(ops))


@pytest.fixture(params=["stand-in", on_a_device])
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """CuPy, or what stands in for it."""
    where = standin_cupy.installed() if request.param == "stand-in" else devices.device()
    with where as module, np.errstate(all="ignore"):
        yield module


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
