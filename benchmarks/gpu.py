"""Prints what lossreg takes on a CUDA device beside PyTorch and Liger, and beside a copy of the same bytes.

Times are medians of CUDA events around single calls that take turns, each of a value and its gradient. Before each, the
device is kept busy until the host has passed the call on: it is the device's time alone. In brackets is the time of the
other library divided by that of lossreg with out=: above 1, lossreg is faster. The last column is the share of the
bandwidth of a copy from device to device that lossreg reaches, where each array is read or written once.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

from .cases import (
    CHUNKED,
    Call,
    Data,
    Spec,
    calls,
    cross_entropy,
    ctc,
    elementwise,
    linear,
    rows,
    split,
    torch_call,
    torch_twin,
)
from .sections import head, line, number, show, versions
from .timing import agree

PACKAGES = ("lossreg", "cupy-cuda12x", "cupy-cuda13x", "numpy", "torch", "triton", "liger-kernel")
PEERS = ("PyTorch", "torch.compile", "Liger")
LIGER: dict[str, tuple[str, dict[str, Any]]] = {
    "ce": ("LigerCrossEntropyLoss", {}), "kl": ("LigerKLDIVLoss", {"reduction": "mean"}),
    CHUNKED: ("LigerFusedLinearCrossEntropyLoss", {}),
}  # fmt: skip
COPIED = 2**30
"""Bytes that the copy reads."""


def why_not() -> str | None:
    """Why nothing can be measured here, or None."""
    try:
        import cupy

        cupy.cuda.runtime.getDevice()
    except ImportError:
        return "CuPy is not installed: python -m pip install 'lossreg[cuda12x]' (or cuda13x, by the CUDA version)"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return None


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def device() -> str:
    import cupy

    index = cupy.cuda.runtime.getDevice()
    name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
    driver = cupy.cuda.runtime.driverGetVersion()
    about = f"{name}, driver for CUDA {driver // 1000}.{driver % 1000 // 10}, Python {platform.python_version()}"
    return f"{about}\n\n{versions(PACKAGES)}"


def tensor(array: Any) -> Any:
    """A device array as a tensor of PyTorch's, on the same memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view("uint16")).view(torch.bfloat16)
    return torch.from_dlpack(array)


def liger(name: str, tensors: list[Any], leaves: int) -> Call:
    """A loss of Liger's; on copies, since the gradient takes the place of the guesses."""
    import liger_kernel.transformers

    made, options = LIGER[name]
    loss = getattr(liger_kernel.transformers, made)(**options)
    given = [t.detach().clone() for t in tensors]
    if name == CHUNKED:  # it takes the weight first
        return torch_call(lambda x, weight, t: loss(weight, x, t), given, leaves)
    return torch_call(loss, given, leaves)


def sides(data: Data) -> tuple[list[Any], dict[str, Call], dict[str, Call]]:
    """Device arrays of the inputs, calls of lossreg on them, and calls of the others on the same memory."""
    import cupy

    arrays = [cupy.asarray(x) for x in data.inputs]
    ours = calls(data.loss, *split(tuple(arrays), data.leaves), cupy.empty_like)
    peers: dict[str, Call] = {}
    if has("torch") and (twin := torch_twin(data.twin)):
        import torch

        tensors = [tensor(x) for x in arrays]
        peers["PyTorch"] = torch_call(twin, tensors, data.leaves)
        peers["torch.compile"] = torch_call(torch.compile(twin), tensors, data.leaves)
        if has("liger_kernel") and data.twin in LIGER:
            peers["Liger"] = liger(data.twin, tensors, data.leaves)
    return arrays, ours, peers


def on_host(result: Any) -> Any:
    """The first million numbers of each array of (gradient, value), as NumPy's."""
    if isinstance(result, (tuple, list)):
        return tuple(map(on_host, result))
    part = result.reshape(-1)[:1_000_000]
    return part.double().cpu().numpy() if hasattr(part, "cpu") else part.astype("f8").get()


def copier() -> Call:
    """A copy from device to device."""
    import cupy

    source, target = cupy.zeros(COPIED, "u1"), cupy.empty(COPIED, "u1")
    return lambda: cupy.copyto(target, source)


def seconds(made: dict[str, Call], runs: int, busy: Call) -> dict[str, float]:
    """Medians of the device's time for single calls."""
    import cupy

    found: dict[str, list[float]] = {name: [] for name in made}
    for run in range(runs + 2):
        for name, call in made.items():
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            busy()
            start.record()
            call()
            end.record()
            end.synchronize()
            if run >= 2:  # the first ones compile, and fill the pools of memory
                found[name].append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    return {name: statistics.median(times) for name, times in found.items()}


def host_seconds(call: Call, runs: int, repeat: int = 200) -> float:
    """Median of the host's time for a call that the device has not begun when it returns."""
    import cupy

    found = []
    for _ in range(runs + 2):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        found.append((time.perf_counter() - start) / repeat)
    return statistics.median(found[2:])


def specs() -> Iterator[tuple[Spec, bool]]:
    """In the order of the table, and whether the time is that of reading and writing each array once."""
    for shape in ((8192, 32_000), (4096, 128_256)):
        for dtype in ("float32", "bfloat16"):
            yield Spec("ce", dtype, shape, cross_entropy), True
    yield Spec("ce", "float16", (8192, 32_000), cross_entropy), True
    yield Spec("ce", "float32", (65_536, 1000), cross_entropy), True
    for work in ("mse", "l1", "huber", "smoothl1", "bcelogits", "softmargin", "poissonloss", "focal"):
        yield Spec(work, "float32", (33_500_000,), elementwise), True
    for work in ("mse", "huber", "bcelogits"):
        for dtype in ("bfloat16", "float16", "float64"):
            yield Spec(work, dtype, (33_500_000,), elementwise), True
    for work in ("kl", "nll", "cosineloss", "similar", "pairwise", "triplet", "multimargin", "multisoft"):
        yield Spec(work, "float32", (32_768, 1024), rows), True
    yield Spec("ctc", "float32", (200, 32, 64, 40), ctc), False
    yield Spec("linear + ce", "float32", (8192, 2048, 32_000), partial(linear, CHUNKED)), False


def times(only: str, runs: int, most: int) -> Iterator[str]:
    """Milliseconds of the device."""
    copy = copier()
    copied = seconds({"copy": copy}, 3 * runs, copy)["copy"]
    bandwidth = 2 * COPIED / copied
    yield f"The copy: {number(bandwidth / 1e9)} GB/s.\n"
    yield head("work", "dtype", "size", "lossreg", "with out=", *PEERS, "share of the copy")
    remarks = []
    for spec, streams in specs():
        if only not in spec.work:
            continue
        spec = spec._replace(shape=tuple(min(n, most) for n in spec.shape))
        data = spec.build(spec)
        arrays, ours, peers = sides(data)
        result = on_host(ours["lossreg"]())
        for peer, call in list(peers.items()):
            try:
                if not agree(result, on_host(call()), spec.dtype):
                    remarks.append(f"{spec.key}: other numbers by {peer}")
            except Exception as error:  # one that does not work here; the rest is measured
                remarks.append(f"{spec.key}: {peer} stopped with {type(error).__name__}: {str(error).splitlines()[:1]}")
                del peers[peer]
        found = seconds({**ours, **peers}, runs, copy)
        best = min(found[name] for name in ours)
        cells = [number(1e3 * found[name]) if name in found else "" for name in ("lossreg", "out=")]
        cells += [f"{number(1e3 * found[p])} ({number(found[p] / best)}x)" if p in found else "" for p in PEERS]
        moved = sum(a.nbytes for a in arrays) + sum(a.nbytes for a in arrays[: data.leaves])
        cells.append(f"{moved / bandwidth / best:.0%}" if streams else "")
        yield line([spec.work, spec.dtype, spec.size, *cells])
        del data, arrays, ours, peers, found, result
        free()
    if remarks:
        yield "\n" + "; ".join(remarks)


def free() -> None:
    """Memory that the libraries keep, for the others."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    if has("torch"):
        import torch

        torch._dynamo.reset()
        torch.cuda.empty_cache()


def host(runs: int) -> Iterator[str]:
    """Microseconds of the host for a call on 32x10 numbers, most of which is over before the device begins."""
    import cupy

    empty = cupy.RawKernel('extern "C" __global__ void run() { }', "run")
    launch = host_seconds(lambda: empty((1,), (1,), ()), runs)
    yield head("work", "lossreg", "with out=", "PyTorch")
    yield line(["an empty kernel", number(1e6 * launch), "", ""])
    builds = {"ce": cross_entropy, "mse": elementwise, "huber": elementwise, "bcelogits": elementwise, "nll": rows}
    for work, build in builds.items():
        _, ours, peers = sides(build(Spec(work, "float32", (32, 10), build)))
        cells = [number(1e6 * host_seconds(call, runs)) for call in ours.values()]
        cells += [number(1e6 * host_seconds(peers["PyTorch"], runs))] if peers else [""]
        yield line([work, *cells])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="times: only works with this in their name")
    parser.add_argument("--runs", type=int, default=15, help="runs that take turns (default 15)")
    parser.add_argument("--most", type=int, default=2**62, metavar="N", help="times: no axis longer than this")
    parser.add_argument("--save", metavar="FILE", help="write the report there as well")
    arguments = parser.parse_args()
    if reason := why_not():
        raise SystemExit(f"nothing is measured: {reason}")
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides")  # torch.nn.KLDivLoss

    def report() -> Iterator[str]:
        yield device()
        yield "\n## Times\n"
        yield from times(arguments.only, arguments.runs, arguments.most)
        yield "\n## Host\n"
        yield from host(arguments.runs)

    show(report(), arguments.save)


if __name__ == "__main__":
    main()
