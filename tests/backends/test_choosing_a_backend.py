"""Which backend an array, a name and nothing get."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import lossreg
from lossreg import registry


def test_backend_of_an_array_of_a_name_and_of_nothing() -> None:
    host = lossreg.get_ops(np.zeros(3))
    assert isinstance(host, lossreg.NumpyOps)
    assert lossreg.get_ops(np.float32(3)) is lossreg.get_ops() is host
    assert lossreg.get_ops("numpy") is registry.resolve({"o": {"@ops": "numpy"}})["o"]
    assert lossreg.get_ops(host.name) is host
    with pytest.raises(TypeError, match=r"No backend for list: expected a NumPy or CuPy array"):
        lossreg.get_ops([1.0])
    with pytest.raises(ValueError, match="Unknown ops 'nunpy'; did you mean 'numpy'"):
        lossreg.get_ops("nunpy")


def test_choosing_a_backend_is_undone() -> None:
    class Other(lossreg.Ops):
        """Another backend for NumPy arrays."""

    other = Other(np)
    with lossreg.use_ops(other) as ops:
        assert ops is other
        assert lossreg.get_ops() is lossreg.get_ops(np.zeros(2)) is other
        assert lossreg.require_cpu()
        assert lossreg.get_ops() is not other
    assert lossreg.get_ops(np.zeros(2)) is lossreg.get_ops() is not other


def test_without_a_gpu() -> None:
    if importlib.util.find_spec("cupy") is None:
        with pytest.raises(ImportError, match="CuPy is not installed"):
            lossreg.get_ops("cupy")
    if lossreg.prefer_gpu():
        lossreg.require_cpu()
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="No GPU"):
        lossreg.require_gpu()
    assert isinstance(lossreg.get_ops(), lossreg.NumpyOps)
