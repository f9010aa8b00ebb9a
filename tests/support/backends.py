"""The backends that tests run on."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from lossreg.ops import NumpyOps, Ops, get_ops


class GenericOps(Ops):
    """The bodies that CuPy inherits, on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(np)


BACKENDS = {"numpy": NumpyOps(), "generic": GenericOps()}
if importlib.util.find_spec("llvmlite"):
    BACKENDS["llvm"] = get_ops("llvm")

on_a_device = pytest.param("cupy", marks=pytest.mark.gpu)
