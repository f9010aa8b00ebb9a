"""What all tests share: backends, frozen inputs, and comparisons that walk tuples and lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg.ops import NumpyOps, Ops


class GenericOps(Ops):
    """The bodies that CuPy inherits, on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(np)


BACKENDS = {"numpy": NumpyOps(), "generic": GenericOps()}


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Any:
    with lossreg.use_ops(BACKENDS[request.param]) as ops, np.errstate(all="ignore"):
        yield ops


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
