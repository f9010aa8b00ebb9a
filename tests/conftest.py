"""What all tests share: backends, frozen inputs, and comparisons that walk tuples and lists."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg.ops import NumpyOps, Ops, get_ops


class GenericOps(Ops):
    """The bodies that CuPy inherits, on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(np)


BACKENDS = {"numpy": NumpyOps(), "generic": GenericOps()}
if importlib.util.find_spec("llvmlite"):
    BACKENDS["numba"] = get_ops("numba")


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Any:
    with lossreg.use_ops(BACKENDS[request.param]) as ops, np.errstate(all="ignore"):
        yield ops


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
