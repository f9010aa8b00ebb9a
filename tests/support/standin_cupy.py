"""A stand-in for cupy on the CPU: NumPy's results, and an error wherever a real device would make the host wait.

It knows only what the tests need to see: which operations take place, that host and device arrays are never mixed, and
that no value of a device array is read. `allow_reading()` lifts the ban, as after the end of a computation.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from support import cuda_on_cpu

reading_allowed = False
launches: list[str] = []
"""What a device would have to do, in order: kernels, operators, functions and methods that are no views."""
VIEWS = {"reshape", "ravel", "broadcast_to", "empty"}


class WaitedForDeviceError(AssertionError):
    """The host read a value of a device array."""


@contextlib.contextmanager
def allow_reading() -> Iterator[None]:
    global reading_allowed
    reading_allowed = True
    try:
        yield
    finally:
        reading_allowed = False


def read(what: str) -> None:
    if not reading_allowed:
        raise WaitedForDeviceError(what)


def unwrap(value: Any) -> Any:
    """Operands as NumPy values; host arrays are refused as cupy refuses them."""
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: host and device arrays do not mix")
    if isinstance(value, (tuple, list)):
        return type(value)(unwrap(part) for part in value)
    return value


def wrap(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(wrap(part) for part in value)
    return value


class ndarray:
    """A device array."""

    __module__ = "cupy"
    __array_ufunc__ = None  # NumPy leaves operators to us
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    flags = property(lambda self: self.host.flags)
    strides = property(lambda self: self.host.strides)
    itemsize = property(lambda self: self.host.itemsize)
    data = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data))
    T = property(lambda self: wrap(self.host.T))

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> Any:
        key = unwrap(key)
        if any(
            getattr(getattr(part, "dtype", None), "kind", "") == "b"
            for part in (key if isinstance(key, tuple) else (key,))
        ):
            read("boolean indexing: the size of the result is on the device")
        return wrap(self.host[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[unwrap(key)] = unwrap(value)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> np.ndarray:
        read("get")
        return self.host.copy()

    def __getattr__(self, name: str) -> Any:
        if name in ("item", "tolist", "any", "all") and name in ("item", "tolist"):
            read(name)
        if name not in (
            "astype",
            "reshape",
            "sum",
            "min",
            "max",
            "any",
            "all",
            "copy",
            "ravel",
            "fill",
            "mean",
            "item",
            "tolist",
        ):
            raise AttributeError(name)
        return _launching(name, getattr(self.host, name))


def _launching(name: str, function: Any) -> Any:
    """A function of device arrays."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if name not in VIEWS and not (name == "astype" and function.__self__.dtype == args[0]):
            launches.append(name)
        return wrap(function(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()}))

    return call


def _reader(name: str) -> Any:
    def method(self: ndarray) -> Any:
        read(name)
        return getattr(self.host, name)()

    return method


def _operator(name: str) -> Any:
    def method(self: ndarray, *others: Any) -> Any:
        launches.append(name.strip("_"))
        result = getattr(self.host, name)(*unwrap(others))
        if name.startswith("__i") and name not in ("__invert__",):
            return self
        return NotImplemented if result is NotImplemented else wrap(result)

    return method


for name in ("bool", "float", "int", "index", "complex"):
    setattr(ndarray, f"__{name}__", _reader(f"__{name}__"))
for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or", "xor", "matmul"):
    for kind in ("", "r", "i"):
        setattr(ndarray, f"__{kind}{name}__", _operator(f"__{kind}{name}__"))
for name in ("neg", "abs", "pos", "invert", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{name}__", _operator(f"__{name}__"))


def asarray(value: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> ndarray:
    host = value.host if isinstance(value, ndarray) else np.array(value)
    return ndarray(host if dtype is None else host.astype(dtype, copy=False))


def asnumpy(value: ndarray) -> np.ndarray:
    read("asnumpy")
    return value.host.copy()


class RawKernel:
    """A kernel whose text runs on the CPU."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
        self.launch = cuda_on_cpu.launcher(code)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        launches.append("kernel")
        self.launch(grid[0], block[0], arguments)


class Cupy(types.ModuleType):
    """The stand-in as a module; it offers the functions that cupy and NumPy share."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function
        return _launching(name, function)


def module() -> Cupy:
    """The stand-in as a module named cupy."""
    cupy = Cupy("cupy")
    norm = lambda x, **kwargs: wrap(np.linalg.norm(unwrap(x), **kwargs))  # noqa: E731
    vars(cupy).update(
        ndarray=ndarray,
        asarray=asarray,
        asnumpy=asnumpy,
        add=types.SimpleNamespace(at=lambda *args: np.add.at(*map(unwrap, args))),
        linalg=types.SimpleNamespace(norm=norm),
        cuda=types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: 0),
            Device=lambda device: types.SimpleNamespace(attributes={"MultiProcessorCount": 2, "L2CacheSize": 2**20}),
            get_current_stream=lambda: types.SimpleNamespace(ptr=0),
        ),
        RawKernel=RawKernel,
    )
    return cupy


@contextlib.contextmanager
def installed(group: tuple[int, int] | None = (32, 32), blocks: int | None = 3) -> Iterator[types.ModuleType]:
    """The stand-in in the place of cupy; without g++, formulas run as the generic bodies.

    group: threads of a group and of a block, each of which is one of the CPU's; None for as many as on a device.
    blocks: how many of them a kernel has at most, however much there is to do; None as well.
    """
    import lossreg.ops
    from lossreg.ops import Ops
    from lossreg.ops.cuda import ops as cupy_ops

    def forget() -> None:
        lossreg.ops._cupy.cache_clear()
        cupy_ops._workspaces.clear()
        for cache in (cupy_ops._kernel, cupy_ops._alignment_kernel, cupy_ops._limits, cupy_ops._quotient):
            cache.cache_clear()

    before = sys.modules.get("cupy")
    forget()
    sys.modules["cupy"] = cupy = module()
    try:
        with contextlib.ExitStack() as stack:
            if blocks is not None:
                stack.enter_context(mock.patch.object(cupy_ops, "_blocks", lambda *_: blocks))
            if group is not None:
                stack.enter_context(mock.patch.object(cupy_ops, "_group", lambda columns: group))
            if cuda_on_cpu.why_not():
                for name in ("run", "run_alignment", "quotient"):
                    stack.enter_context(mock.patch.object(cupy_ops.CupyOps, name, getattr(Ops, name)))
            yield cupy
    finally:
        forget()
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
