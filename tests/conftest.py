"""What all tests share: backends, frozen inputs, and comparisons that walk tuples and lists."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import devices
import numpy as np
import pytest
import standin_cupy

import lossreg
from lossreg.ops import NumpyOps, Ops, get_ops


class GenericOps(Ops):
    """The bodies that CuPy inherits, on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(np)


BACKENDS = {"numpy": NumpyOps(), "generic": GenericOps()}
if importlib.util.find_spec("llvmlite"):
    BACKENDS["llvm"] = get_ops("llvm")


on_a_device = pytest.param("cupy", marks=pytest.mark.gpu)


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
