"""One config in NumPy, PyTorch and JAX loops; and what is said where a library is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = {"torch": "PyTorch", "jax": "JAX"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    for package in ("typer", "tqdm"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lossreg[examples]'")
    command = [sys.executable, "docs/examples/train_frameworks.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_losses_of_all_loops_are_equal_to_rounding() -> None:
    done = run("docs/examples/digits.cfg", "--training.epochs", "3")
    assert done.returncode == 0, done.stderr
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    lines = done.stdout.splitlines()
    assert lines[: len(missing)] == [f"{name} is not installed: python -m pip install {name}" for name in missing]
    header, *rows, last = lines[len(missing) :]
    assert header.split() == ["epoch", "numpy", *(name for name in LIBRARIES if name not in missing)]
    losses = np.array([[float(x) for x in row.split()[1:]] for row in rows])
    assert losses.shape == (3, 3 - len(missing))
    assert (np.diff(losses[:, 0]) < 0).all()
    np.testing.assert_allclose(losses, losses[:, :1].repeat(losses.shape[1], axis=1), rtol=0, atol=2e-5)
    assert float(last.removeprefix("largest difference ")) < 1e-5


def test_what_is_wrong_with_a_config_is_said() -> None:
    for arguments, message in (
        (["docs/examples/digits.cfg", "--loss.nope", "1"], "loss.nope"),
        (["nope.cfg"], "nope.cfg"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"lossreg.{name}", raising=False)
    with pytest.raises(ImportError, match=f"{LIBRARIES[name]} is not installed: python -m pip install {name}"):
        importlib.import_module(f"lossreg.{name}")
