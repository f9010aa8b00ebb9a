"""The benchmark of CUDA devices on the stand-in for CuPy: its times mean nothing, but it runs to its end."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support import cuda_on_cpu, standin_cupy

gpu: Any = pytest.importorskip("benchmarks.gpu", reason="benchmarks are not part of the installed package")


class Event:
    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What the benchmark asks of CuPy beside what lossreg does."""
    if cuda_on_cpu.why_not():
        pytest.skip(str(cuda_on_cpu.why_not()))
    make, host = standin_cupy.wrap, standin_cupy.unwrap
    monkeypatch.setattr(standin_cupy.ndarray, "nbytes", property(lambda x: x.host.nbytes), raising=False)
    monkeypatch.setattr(gpu, "COPIED", 2**16)
    if gpu.has("torch"):
        import torch

        monkeypatch.setattr(torch, "compile", lambda function: function)
        bits = lambda x: torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)  # noqa: E731
        made = lambda x: bits(x) if x.dtype.name == "bfloat16" else torch.from_numpy(x)  # noqa: E731
        monkeypatch.setattr(gpu, "tensor", lambda x: made(x.host.copy()))
    with standin_cupy.installed() as cupy, standin_cupy.allow_reading():
        cuda: Any = cupy.cuda
        device = types.SimpleNamespace(attributes=cuda.Device(0).attributes, synchronize=lambda: None)
        vars(cuda).update(Event=Event, Device=lambda *_: device, get_elapsed_time=lambda a, b: 1e3 * (b.time - a.time))
        vars(cuda.runtime).update(
            CUDARuntimeError=RuntimeError,
            getDeviceProperties=lambda _: {"name": b"none"},
            driverGetVersion=lambda: 12090,
        )
        vars(cupy).update(
            empty_like=lambda x: make(np.empty_like(host(x))),
            copyto=lambda target, source: np.copyto(host(target), host(source)),
            get_default_memory_pool=lambda: types.SimpleNamespace(free_all_blocks=lambda: None),
        )
        yield cupy


@pytest.mark.slow
def test_a_report(cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    saved = tmp_path / "report.md"
    monkeypatch.setattr(sys, "argv", ["gpu", "--most", "9", "--runs", "1", "--save", str(saved)])
    gpu.main()
    report = capsys.readouterr().out
    assert saved.read_text() == report
    rows = [line.split("|")[1:-1] for line in report.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(list(gpu.specs())) + 6
    assert {len(row) for row in rows} == {9, 4}
    found = {(row[0].strip(), row[1].strip()): row for row in rows}
    assert all(cell.strip() for cell in found["ce", "bfloat16"][:5])
    assert "other numbers" not in report.replace("ctc float32 9x9x9x9: other numbers", "")


def test_why_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="nothing is measured: CuPy is not installed"):
        gpu.main()
