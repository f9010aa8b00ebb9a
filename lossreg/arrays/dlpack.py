"""Arrays of other libraries (PyTorch, JAX, anything with DLPack): NumPy's or CuPy's inside, the caller's outside."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import numpy as np

from ..checks import describe, fail, misused
from ..ops import Array, get_ops

__all__ = ["OURS", "arrays_in", "foreign_arrays", "is_foreign", "is_traced", "like", "our_array", "why_not_readable"]

Method = TypeVar("Method", bound=Callable[..., Any])
Result = TypeVar("Result")

HOST = (1, 3, 11)
"""Devices of DLPack whose memory NumPy reads: the CPU, and what CUDA or ROCm pinned."""
DEVICE = (2, 10, 13)
"""Devices whose memory CuPy reads: CUDA, ROCm, and memory that CUDA manages."""

OURS: set[type] = {np.ndarray, type(None), str, int, float, bool}
"""Types whose values are ours, or no arrays; those that are met are added."""
_LABELS = {str, int, float, bool, set, frozenset}
"""Types of a first item after which a list is one of labels, and is not searched."""


def foreign_arrays(method: Method) -> Method:
    """A method on arrays that takes those of other libraries as well, without a copy.

    Inside they are NumPy's, or CuPy's where they lie on a GPU; autograd history is dropped. Outside, arrays of the
    result are of the library to which the first array of the first argument belongs, and an array that was passed in,
    such as `out`, comes back as itself.
    """
    parameters = inspect.signature(method)
    names = list(parameters.parameters)[1:]
    needed = [name for name in names if parameters.parameters[name].default is inspect.Parameter.empty]

    @functools.wraps(method)
    def at_boundary(self: Any, *arguments: Any, **named: Any) -> Any:
        # Most calls pass all arguments by position and arrays of ours: they pay for two checks of types.
        if named or not len(needed) <= len(arguments) <= len(names):
            try:
                bound = parameters.bind(self, *arguments, **named)
            except TypeError:
                raise misused(method, _class_of(self).__name__, arguments, named) from None
            arguments, named = bound.args[1:], bound.kwargs
        for x in (*arguments, *named.values()):
            if type(x) not in OURS and is_foreign(x):
                break
        else:
            return method(self, *arguments, **named)
        visit = _Visit(_class_of(self))
        first = next(arrays_in((arguments or tuple(named.values()))[0]), None)
        with _scope_of(first):
            try:
                inside = [visit.inside(x, name) for x, name in zip(arguments, names, strict=False)]
                more = {name: visit.inside(x, name) for name, x in named.items()}
                return visit.outside(method(self, *inside, **more), first)
            finally:
                # Also after an error: part of the gradient may have been written by then.
                for target in visit.targets:
                    _library(type(target)).wrote(target)

    return cast(Method, at_boundary)


def _scope_of(first: Any) -> contextlib.AbstractContextManager[Any]:
    """The device and the stream on which the library of a first array computes."""
    if _kind(type(first)) == "foreign":
        return _library(type(first)).scope(first)
    return contextlib.nullcontext()


def _class_of(owner: Any) -> type:
    """A class itself, or the class of an object."""
    return owner if isinstance(owner, type) else type(owner)


def like(guesses: Any, loss: Any) -> Any:
    """A loss on a device as an array of the guesses' library; anything else as it is."""
    if type(loss) is float or not _is_array(loss) or not is_foreign(guesses):
        return loss
    return _Visit(type(loss)).outside(loss, next(arrays_in(guesses)))


def our_array(owner: type, what: str, value: Any) -> Any:
    """An array of another library as one of NumPy or CuPy, and of no axes as a number of NumPy; else what it is."""
    if type(value) in OURS or _kind(type(value)) != "foreign":
        return value
    with _library(type(value)).scope(value):
        array = _Visit(owner).inside(value, what)
        if isinstance(array, np.ndarray):
            return array[()]
        # Its library may give the memory away as soon as nobody else holds the array, in the order of its own stream.
        return array.copy()


def is_traced(value: Any) -> bool:
    """Whether a value holds an array that stands for others while JAX compiles or differentiates."""
    if "jax" not in sys.modules or not is_foreign(value):
        return False
    return any(isinstance(x, sys.modules["jax"].core.Tracer) for x in arrays_in(value))


def is_foreign(value: Any) -> bool:
    """Whether a value is an array of another library, or holds one."""
    try:
        return _holds_foreign(value)
    except RecursionError:  # a list that contains itself: what reads the value says what is wrong with it
        return False


def _holds_foreign(value: Any) -> bool:
    kind = _kind(type(value))
    if kind in ("leaf", "foreign"):
        return kind == "foreign"
    if kind == "ragged":
        return _holds_foreign(value.dataXd) or _holds_foreign(value.lengths)
    if isinstance(value, Mapping):
        return any(map(_holds_foreign, value.values()))
    if not value or type(value[0]) in _LABELS:
        return False
    # Lists of labels may be long: their types say that there is nothing to search.
    others = set(map(type, value)) - OURS
    if others == {list} and {type(x[0]) for x in value if type(x) is list and x} <= _LABELS:
        return False
    return any(_holds_foreign(x) for x in value if type(x) in others)


def arrays_in(value: Any) -> Iterator[Any]:
    """The arrays that a value holds, ours and theirs."""
    kind = _kind(type(value))
    if kind == "ragged":
        yield value.dataXd
    elif kind == "tree":
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from arrays_in(part)
    elif kind == "foreign" or _is_array(value):
        yield value


class _Visit:
    """The arrays of one call on their way in, and those of its result on their way out."""

    def __init__(self, owner: type) -> None:
        self.owner = owner
        """The class that the errors are about."""
        self.ours: dict[int, Any] = {}
        """The array for each of theirs, by id."""
        self.theirs: dict[int, Any] = {}
        """What came in, for what the method gets, by the id of that."""
        self.targets: list[Any] = []
        """Their arrays that the method may write to."""

    def inside(self, value: Any, what: str) -> Any:
        """Arguments with our arrays in the places of theirs."""
        if not is_foreign(value):
            self.theirs[id(value)] = value
            return value
        kind = _kind(type(value))
        if kind == "foreign":
            return self._read(value, what)
        if kind == "ragged":
            return type(value)(self.inside(value.dataXd, what), self.inside(value.lengths, what))
        return _mapped(lambda x: self.inside(x, what), value)

    def outside(self, value: Any, first: Any) -> Any:
        """A result with their arrays in the places of ours."""
        if id(value) in self.theirs:
            return self.theirs[id(value)]
        if _is_array(value):
            if _kind(type(first)) != "foreign":
                return value
            return _library(type(first)).wrap(value, first)
        kind = _kind(type(value))
        if kind == "ragged":
            lengths = self.theirs.get(id(value.lengths), value.lengths)
            return type(value)(self.outside(value.dataXd, first), lengths)
        if kind == "tree":
            return _mapped(lambda x: self.outside(x, first), value)
        return value

    def _read(self, value: Any, what: str) -> Array:
        library = _library(type(value))
        if what == "out":
            # Asked even if the same array is an input too, and so has been read before.
            problem = library.why_not_writable(value)
            if problem:
                raise fail(self.owner.__name__, what, "to be writable", f"{describe(value)} {problem}")
            self.targets.append(value)
        if is_traced(value):
            raise self._without_numbers(value, what)
        if id(value) not in self.ours:
            try:
                array = library.read(value)
            except (TypeError, ValueError, RuntimeError, BufferError) as error:
                why = str(error).partition("\n")[0].rstrip(".")
                got = f"{describe(value)} ({why})"
                raise fail(self.owner.__name__, what, "to be shared with NumPy or CuPy", got) from error
            self.ours[id(value)], self.theirs[id(array)] = array, value
        return self.ours[id(value)]

    def _without_numbers(self, value: Any, what: str) -> ValueError:
        """The error for an array inside a transformation of JAX. What has a gradient has a form for these as well."""
        instead = "do this outside of them"
        if hasattr(self.owner, "get_grad"):
            instead = "use lossreg.jax.as_function"
        why = f"inside jax.jit, jax.grad and jax.vmap, {instead}"
        return fail(self.owner.__name__, what, "to be shared with NumPy or CuPy", f"{describe(value)} ({why})")


class _DLPack:
    """A library whose arrays export themselves, and whose namespace has `from_dlpack`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def why_not_writable(self, value: Any) -> str:
        """What keeps an array from being written to, in words that follow its description; "" for nothing."""
        return ""

    def wrote(self, value: Any) -> None:
        """Tell the library that an array of it has been written to."""

    def read(self, value: Any) -> Array:
        """Their array as ours."""
        device = value.__dlpack_device__()[0]
        if device in HOST:
            return np.from_dlpack(value)
        if device not in DEVICE:
            raise TypeError(f"on device {value.device}")
        return get_ops("cupy").xp.from_dlpack(value)

    def wrap(self, array: Array, first: Any) -> Any:
        """Our array as theirs, on the device of `first`."""
        own = hasattr(first, "__array_namespace__")
        namespace = first.__array_namespace__() if own else sys.modules[self.name]
        if not hasattr(namespace, "from_dlpack"):
            raise TypeError(f"Cannot return arrays of {self.name}: expected a namespace with from_dlpack, got none.")
        return namespace.from_dlpack(array)

    def scope(self, first: Any) -> contextlib.AbstractContextManager[Any]:
        """Where CuPy computes."""
        return contextlib.nullcontext()


class _Torch(_DLPack):
    """PyTorch: bfloat16 travels as int16, and CuPy computes on the stream that is PyTorch's own at the time."""

    def why_not_writable(self, value: Any) -> str:
        """Why `out=` would be refused, by PyTorch's own rules; negated views, which have no memory, are refused too."""
        import torch

        if value.requires_grad and torch.is_grad_enabled():
            return "that requires grad (write to out.detach(), or inside torch.no_grad())"
        if value.is_neg():
            return "that is the negated view of another (write to out.resolve_neg())"
        return ""

    def wrote(self, value: Any) -> None:
        """Count the write, so that a later backward pass that needs the old numbers raises."""
        import torch

        if not value.is_inference():  # those have no counter, and no backward pass
            torch.autograd.graph.increment_version(value)

    def read(self, value: Any) -> Array:
        import torch

        problem = why_not_readable(value)
        if problem:
            raise TypeError(problem)
        value = value.detach().resolve_neg()
        if value.dtype != torch.bfloat16:
            return self._shared(value)
        # NumPy and DLPack's readers do not know it: it travels as integers of the same bits.
        dtype = _bfloat16()
        return self._shared(value.view(torch.int16)).view(dtype)

    def _shared(self, value: Any) -> Array:
        return value.numpy() if value.is_cpu else super().read(value)

    def wrap(self, array: Array, first: Any) -> Any:
        import torch

        to_tensor = torch.from_numpy if isinstance(array, np.ndarray) else torch.from_dlpack
        if array.dtype.name == "bfloat16":
            return to_tensor(array.view(np.int16)).view(torch.bfloat16)
        return to_tensor(array)

    @contextlib.contextmanager
    def scope(self, first: Any) -> Iterator[None]:
        if not first.is_cuda:
            yield
            return
        import torch

        cuda = get_ops("cupy").xp.cuda
        caller, device = cuda.get_current_stream(), first.device.index
        stream = cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream, device)
        with cuda.Device(device), stream:
            yield
            done = stream.record()
        caller.wait_event(done)  # for what stays CuPy's, such as states


class _Jax(_DLPack):
    """JAX: arrays are read-only, and come back on the device of the first."""

    def why_not_writable(self, value: Any) -> str:
        """Arrays of JAX never change."""
        return "of jax, whose arrays are not"

    def read(self, value: Any) -> Array:
        if all(device.platform == "cpu" for device in value.devices()):
            return np.asarray(value)
        return super().read(value)

    def wrap(self, array: Array, first: Any) -> Any:
        import jax

        if not isinstance(array, np.ndarray):
            return jax.numpy.from_dlpack(array)
        # An array that is spread over several devices has a sharding instead.
        device = first.device if isinstance(first.device, jax.Device) else None
        return jax.device_put(array, device)


def why_not_readable(tensor: Any) -> str:
    """Why the numbers of a PyTorch tensor alone would lose something, or are not there; "" for neither."""
    import torch

    # Not public, as nothing that says it is. Asked of the stack: inside, plain tensors are wrapped by what reads them.
    transforms = getattr(torch._C, "_functorch", None)
    if transforms is not None and transforms.peek_interpreter_stack() is not None:
        return "inside torch.func.grad, vmap, jvp and the like, which calculators do not support: call them outside"
    if tensor.is_meta or type(tensor).__name__ == "FakeTensor":
        return "which has a shape and no data"
    if tensor.is_nested:
        return "a nested tensor: pass a list of its sequences, list(x.unbind())"
    if tensor.is_quantized:
        return "a quantized tensor: pass x.dequantize()"
    if tensor.layout is not torch.strided:
        return "not of the strided layout: pass x.to_dense()"
    # Last, since not every tensor from above can be asked.
    if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        return "with a tangent of forward-mode differentiation, which calculators do not support: detach() it"
    return ""


def _bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise ImportError("NumPy has no bfloat16 of its own: python -m pip install ml_dtypes") from error
    return np.dtype(bfloat16)


def _by_type(function: Callable[[type], Result]) -> Callable[[type], Result]:
    """A function of types that is called once per type."""
    cached: Callable[[Any], Result] = functools.cache(function)
    return cached


def _root(cls: type) -> str:
    return cls.__module__.partition(".")[0]


@_by_type
def _kind(cls: type) -> str:
    """What values of a type are: "leaf" (ours, or no array), "foreign", "tree" or "ragged"."""
    if issubclass(cls, (list, tuple, Mapping)):
        return "tree"
    if hasattr(cls, "dataXd"):
        return "ragged"
    if hasattr(cls, "__dlpack__") and not issubclass(cls, np.ndarray) and _root(cls) != "cupy":
        return "foreign"
    OURS.add(cls)
    return "leaf"


@_by_type
def _library(cls: type) -> _DLPack:
    """The library of a foreign type; subclasses of its arrays may be defined anywhere."""
    roots = {_root(base) for base in cls.__mro__}
    if "torch" in roots:
        return _Torch("torch")
    if roots & {"jax", "jaxlib"}:
        return _Jax("jax")
    return _DLPack(_root(cls))


def _is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy or CuPy."""
    return isinstance(value, np.ndarray) or _root(type(value)) == "cupy"


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """A dict, list or tuple with a function applied to each of its parts."""
    if isinstance(tree, Mapping):
        return {key: function(value) for key, value in tree.items()}
    parts = map(function, tree)
    if hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*parts)
    return type(tree)(parts)
