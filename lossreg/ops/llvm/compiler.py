"""LLVM text -> machine code, kept on disk by its content.

Everything here that calls llvmlite is undisturbed work: an exception that a signal handler raises inside of llvmlite
would leave its lock taken for ever. That includes the import of this module and the end of unused machine code.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import hashlib
import platform
import weakref
from typing import Any

import llvmlite.binding as llvm

from .cache import code_cache
from .compiler_thread import undisturbed
from .gate import entries

__all__ = ["READS_HALVES", "VECTOR_BYTES", "Machine", "compiled"]


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    # The first CPUs with AVX-512 lack parts of it: conversions of 64-bit integers, and vectors of small integers.
    if features.get("avx512bw") and features.get("avx512dq"):
        return 64
    if features.get("avx2"):
        return 32
    # SSE2, which each x86-64 has, and NEON.
    return 16


def _reads_halves() -> bool:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
    # Each 64-bit ARM has the instructions.
    if not is_x86:
        return True
    return bool(llvm.get_host_cpu_features().get("f16c"))


VECTOR_BYTES = _vector_bytes()
"""Bytes of a vector register of this machine."""

READS_HALVES = _reads_halves()
"""Whether the CPU converts float16 in hardware; otherwise LLVM calls a helper that cannot be linked here."""

_CPU, _FEATURES = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
PASSES = 1
"""To be raised when `_object_code` compiles in another way."""
_ENVIRONMENT = f"{PASSES} {llvm.get_default_triple()} {_CPU} {_FEATURES} {llvm.llvm_version_info}"
"""What machine code depends on, beside its text."""

NAME_DIGITS = 40
"""Hexadecimal digits of the name of a text: 160 bits, which no two texts share by chance."""

ENTRIES = ("run", "help")
"""The functions of machine code that are called from here."""

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


class Machine:
    """Machine code of one text: `run(call, scratch)` and `help(call, scratch)`; see `gate`.

    Calling them lets other Python threads run. The code is there as long as this object.
    """

    def __init__(self, run: int, help: int) -> None:
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        self.run, self.help = entry(run), entry(help)


class _InUse(weakref.ref[Machine]):
    """A reference to machine code, with LLVM's object that has its memory."""

    __slots__ = ("memory", "name")
    name: str
    memory: Any


_in_use: dict[str, _InUse] = {}
"""Machine code by the name of its text."""

_unused: collections.deque[_InUse] = collections.deque()
"""References to machine code that nobody needs any more. They are added by one call of C, and taken away by the next
work: memory is given back by a call of llvmlite."""

_recent: collections.deque[Machine] = collections.deque(maxlen=8)
"""Machine code of the last works: a caller that was interrupted asks for it again."""


def compiled(body: str) -> Machine:
    """Machine code of the LLVM text of `body(call, scratch)`."""
    machine = undisturbed(functools.partial(_machine, body))
    code_cache().warn()
    return machine


def _machine(body: str) -> Machine:
    """Machine code that is in use, or from the disk, or compiled and kept there."""
    text = body + entries()
    name = hashlib.sha256(f"{_ENVIRONMENT}\n{text}".encode()).hexdigest()[:NAME_DIGITS]
    machine = _machine_in_use(name)
    if machine is None:
        code = code_cache().read(name)
        if code is None:
            code = _object_code(name, text)
            code_cache().write(name, code)
        # This is the thread on which llvmlite may be called, so it is the time to clean up.
        _drop_unused()
        machine = _loaded(name, code)
    _recent.append(machine)
    return machine


def _machine_in_use(name: str) -> Machine | None:
    """Machine code that somebody has; the reference may outlive it by a moment."""
    reference = _in_use.get(name)
    if reference is None:
        return None
    return reference()


def _drop_unused() -> None:
    """Give back the memory of machine code that nobody needs."""
    while _unused:
        reference = _unused.popleft()
        # The same text may have been loaded again since.
        if _in_use.get(reference.name) is reference:
            del _in_use[reference.name]


def _loaded(name: str, code: bytes) -> Machine:
    """Machine code in memory of its own, which is given back with it."""
    # LLVM links object code into an empty module; nothing is compiled here.
    memory = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    memory.add_object_file(llvm.ObjectFileRef.from_data(code))
    memory.finalize_object()
    machine = Machine(*(memory.get_function_address(_entry_name(name, entry)) for entry in ENTRIES))

    # When the machine goes, the reference itself is appended: by one call of C, and without a lock.
    reference = _InUse(machine, _unused.append)
    reference.name, reference.memory = name, memory
    _in_use[name] = reference
    return machine


def _entry_name(name: str, entry: str) -> str:
    """What an entry is called in object code: LLVM has one namespace for all that is in memory."""
    return f"lossreg_{name}_{entry}"


def _target_machine() -> Any:
    return llvm.Target.from_default_triple().create_target_machine(cpu=_CPU, features=_FEATURES, opt=3, jit=True)


def _object_code(name: str, text: str) -> bytes:
    """Compile a text."""
    for entry in ENTRIES:
        text = text.replace(f"@{entry}(", f"@{_entry_name(name, entry)}(")
    target = _target_machine()
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    # The text has vectors of the width that is wanted: there are none left for LLVM to find.
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    code: bytes = target.emit_object(module)
    return code
