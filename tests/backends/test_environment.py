"""What environment variables and the compiler's version choose."""

from __future__ import annotations

from typing import Any

import pytest

from support.scripts import python

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")


@pytest.mark.parametrize("wanted, name", [("0", "numpy"), ("1", "llvm"), (None, "llvm")])
def test_the_environment_chooses_the_backend(wanted: Any, name: str) -> None:
    code = """
print(loss.get_loss(x, t) > 0, lossreg.get_ops(x).name, lossreg.get_ops().name, "llvmlite" in sys.modules)
"""
    assert python(code, LOSSREG_JIT=wanted) == f"True {name} {name} {name == 'llvm'}"


@pytest.mark.parametrize(
    "version, name", [("0.44.1", "numpy"), ("0.45.0rc1", "llvm"), ("0.100.0", "llvm"), ("1.0.0", "llvm")]
)
def test_an_old_compiler_is_not_used(version: str, name: str) -> None:
    code = f"""
import importlib.metadata
importlib.metadata.version = lambda package: "{version}"
print(right(), lossreg.get_ops(x).name)
try:
    lossreg.get_ops("llvm")
except ImportError as error:
    print(error)
"""
    says = "llvmlite 0.45 or newer is not installed: python -m pip install 'lossreg[jit]'"
    assert python(code) == f"True {name}" + (f"\n{says}" if name == "numpy" else "")


def test_import_loads_no_compiler() -> None:
    assert python("print([m for m in ('llvmlite', 'numba', 'concurrent.futures') if m in sys.modules])") == "[]"
