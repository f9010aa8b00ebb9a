"""LLVM text for vectors of numbers: types, arithmetic, bits and memory."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

__all__ = ["STORAGE", "Code", "Storage", "Vectors"]

FLAGS = "nsz"
"""-0 is 0. NaN, infinities and the order of operations are kept; products and sums are fused in the library alone."""


class Storage(NamedTuple):
    """How a dtype lies in memory."""

    type: str
    """In LLVM."""
    size: int
    """In bytes."""


STORAGE = {
    "float64": Storage("double", 8),
    "float32": Storage("float", 4),
    "float16": Storage("half", 2),
    "bfloat16": Storage("i16", 2),  # LLVM's own bfloat needs instructions that few CPUs have
    "bool": Storage("i8", 1),
    "int8": Storage("i8", 1),
    "int16": Storage("i16", 2),
    "int32": Storage("i32", 4),
    "int64": Storage("i64", 8),
    "uint8": Storage("i8", 1),
    "uint16": Storage("i16", 2),
    "uint32": Storage("i32", 4),
    "uint64": Storage("i64", 8),
}
"""How the dtypes that compiled code reads and writes lie in memory."""

FLOAT_BITS = {"half": 16, "float": 32, "double": 64}
"""LLVM's float types and their bits."""

SHORT_NAMES = {"double": "f64", "float": "f32", "half": "f16"}
"""What the names of intrinsics call float types; those of integers are called as they are."""

# bfloat16 is the upper half of a float32.
BFLOAT16_SHIFT = 16
BFLOAT16_JUST_BELOW_HALF = 0x7FFF  # added to the lower half, it carries into the upper one from above the middle on
FLOAT32_QUIET_NAN_BIT = 0x400000  # a NaN with this bit stays one when its lower half is cut off


class Code:
    """Lines of one LLVM function, the names of its values, and the intrinsics it needs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.declared: set[str] = set()
        self.count = 0

    def add(self, line: str) -> None:
        """Add a line as it is."""
        self.lines.append(line)

    def name(self, hint: str = "v") -> str:
        """A name that is not used yet."""
        self.count += 1
        return f"{hint}{self.count}"

    def value(self, text: str) -> str:
        """The name of what an instruction computes."""
        name = f"%{self.name()}"
        self.add(f"  {name} = {text}")
        return name

    def store(self, type_: str, value: str, address: str) -> None:
        """Store a value."""
        self.add(f"  store {type_} {value}, ptr {address}")

    def label(self, name: str) -> None:
        """Begin a block of instructions, to which branches lead."""
        self.add(f"{name}:")

    def branch(self, target: str) -> None:
        """Go to a label."""
        self.add(f"  br label %{target}")

    def branch_if(self, condition: str, target: str, otherwise: str) -> None:
        """Go to one of two labels."""
        self.add(f"  br i1 {condition}, label %{target}, label %{otherwise}")

    def slot(self, type_: str) -> str:
        """The address of a new variable; LLVM makes it a register.

        Variables are made at the start of the function: elsewhere in a loop each turn would take more of the stack.
        """
        name = f"%{self.name('slot')}"
        self.slots.append(f"  {name} = alloca {type_}")
        return name

    def call(self, result: str, function: str, *args: tuple[str, str]) -> str:
        """A call of an intrinsic; args are (type, value)."""
        types = ", ".join(type_ for type_, _ in args)
        self.declared.add(f"declare {result} @{function}({types})")

        values = ", ".join(f"{type_} {value}" for type_, value in args)
        text = f"call {result} @{function}({values})"
        if result == "void":
            self.add(f"  {text}")
            return ""
        return self.value(text)

    def body(self) -> str:
        """The text of the function `body(call, scratch)` with these lines, behind what it declares."""
        lines = [
            *sorted(self.declared),
            "define internal void @body(ptr noalias %call, ptr noalias %scratch) noinline {",
            "entry:",
            *self.slots,
            *self.lines,
            "}",
        ]
        return "\n".join(lines) + "\n"


class Vectors:
    """Operations on vectors of `width` numbers of 32 or 64 bits; a width of 1 makes plain scalars."""

    def __init__(self, code: Code, bits: int, width: int, avx512: bool = False) -> None:
        self.code, self.bits, self.width, self.avx512 = code, bits, width, avx512
        # From IEEE 754: bits of the fraction, and what is added to the exponent.
        if bits == 32:
            self.scalar, self.mantissa, self.bias = "float", 23, 127
        else:
            self.scalar, self.mantissa, self.bias = "double", 52, 1023
        self.tiny = 2.0 ** (1 - self.bias)
        """The smallest normal number."""

        self.suffix = f"f{bits}"
        """What the names of intrinsics for these vectors end in."""
        if width > 1:
            self.suffix = f"v{width}f{bits}"
        self.kind, self.int, self.bool = self.of(self.scalar), self.of(f"i{bits}"), self.of("i1")

    def of(self, scalar: str) -> str:
        """The type of vectors of a scalar type."""
        if self.width == 1:
            return scalar
        return f"<{self.width} x {scalar}>"

    def splat_text(self, scalar: str, text: str) -> str:
        """A constant in all places of a vector."""
        if self.width == 1 or text == "zeroinitializer":
            return text
        return f"splat ({scalar} {text})"

    def const(self, value: float) -> str:
        """A float in all places, rounded to these bits. LLVM's text has floats by the bits of a double."""
        if self.bits == 32:
            try:
                value = struct.unpack("f", struct.pack("f", value))[0]
            except OverflowError:
                value = math.copysign(math.inf, value)
        bits = struct.unpack(">Q", struct.pack(">d", value))[0]
        return self.splat_text(self.scalar, f"0x{bits:016X}")

    def whole(self, value: int) -> str:
        """An integer in all places."""
        return self.splat_text(f"i{self.bits}", str(value))

    def splat(self, value: str, scalar: str) -> str:
        """A scalar in all places."""
        if self.width == 1:
            return value
        # LLVM's way to say it: a vector with the scalar in its first place, and that place everywhere.
        kind = self.of(scalar)
        one = self.code.value(f"insertelement {kind} poison, {scalar} {value}, i32 0")
        return self.code.value(f"shufflevector {kind} {one}, {kind} poison, {self.of('i32')} zeroinitializer")

    # Arithmetic

    def float_op(self, op: str, a: str, b: str) -> str:
        return self.code.value(f"{op} {FLAGS} {self.kind} {a}, {b}")

    def add(self, a: str, b: str) -> str:
        return self.float_op("fadd", a, b)

    def sub(self, a: str, b: str) -> str:
        return self.float_op("fsub", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.float_op("fmul", a, b)

    def div(self, a: str, b: str) -> str:
        return self.float_op("fdiv", a, b)

    def fma(self, a: str, b: str, c: str) -> str:
        """a b + c, rounded once where the machine can."""
        return self.intrinsic("fmuladd", a, b, c)

    def neg(self, a: str) -> str:
        return self.code.value(f"fneg {self.kind} {a}")

    def intrinsic(self, name: str, *args: str) -> str:
        return self.code.call(self.kind, f"llvm.{name}.{self.suffix}", *((self.kind, x) for x in args))

    def abs(self, a: str) -> str:
        return self.intrinsic("fabs", a)

    def sqrt(self, a: str) -> str:
        return self.intrinsic("sqrt", a)

    # Comparisons. Of LLVM's, those with "o" are false beside NaN, and those with "u" true.

    def compare(self, op: str, a: str, b: str) -> str:
        return self.code.value(f"fcmp {op} {self.kind} {a}, {b}")

    def lt(self, a: str, b: str) -> str:
        return self.compare("olt", a, b)

    def le(self, a: str, b: str) -> str:
        return self.compare("ole", a, b)

    def gt(self, a: str, b: str) -> str:
        return self.compare("ogt", a, b)

    def ge(self, a: str, b: str) -> str:
        return self.compare("oge", a, b)

    def eq(self, a: str, b: str) -> str:
        return self.compare("oeq", a, b)

    def ne(self, a: str, b: str) -> str:
        return self.compare("une", a, b)

    def isnan(self, a: str) -> str:
        return self.compare("uno", a, a)

    def logical(self, op: str, a: str, b: str) -> str:
        return self.code.value(f"{op} {self.bool} {a}, {b}")

    def opposite(self, a: str) -> str:
        return self.logical("xor", a, self.splat_text("i1", "true"))

    def where(self, condition: str, a: str, b: str, kind: str = "") -> str:
        """a or b; `kind` is their type, where they are no floats of these vectors."""
        kind = kind or self.kind
        return self.code.value(f"select {self.bool} {condition}, {kind} {a}, {kind} {b}")

    def extreme(self, op: str, a: str, b: str, b_is_number: bool) -> str:
        """The larger ("ugt") or smaller ("ult") of two, NaN where one is. These comparisons choose a if either is."""
        a_or_b = self.where(self.compare(op, a, b), a, b)
        if b_is_number:
            return a_or_b
        return self.where(self.isnan(b), b, a_or_b)

    # Bits

    def int_op(self, op: str, a: str, b: str) -> str:
        return self.code.value(f"{op} {self.int} {a}, {b}")

    def as_int(self, a: str) -> str:
        """The bits of floats as integers."""
        return self.code.value(f"bitcast {self.kind} {a} to {self.int}")

    def from_bits(self, a: str) -> str:
        """Integers as the bits of floats."""
        return self.code.value(f"bitcast {self.int} {a} to {self.kind}")

    def power_of_two(self, n: str) -> str:
        """2**n of integers n, for results that are normal numbers."""
        biased = self.int_op("add", n, self.whole(self.bias))
        return self.from_bits(self.int_op("shl", biased, self.whole(self.mantissa)))

    def iota(self) -> str:
        """0, 1, 2, ..."""
        return "<" + ", ".join(f"i32 {i}" for i in range(self.width)) + ">"

    def first(self, count: str) -> str:
        """A mask of the first `count` places, an i32."""
        return self.code.value(f"icmp slt {self.of('i32')} {self.iota()}, {self.splat(count, 'i32')}")

    # Memory. A masked instruction does not touch what it leaves out, so it may reach beyond the end of an array.

    def load(self, dtype: str, kind: str, address: str, mask: str | None = None) -> str:
        """Numbers of memory as floats of these vectors (kind "f"), as bools ("b"), or as an index ("i")."""
        stored = STORAGE[dtype].type
        raw = self.load_stored(dtype, address, mask)
        if kind == "b":
            return self.code.value(f"icmp ne {self.of(stored)} {raw}, zeroinitializer")
        if kind == "i":
            return self._as_index(dtype, raw)
        if dtype == "bfloat16":
            return self._resized("float", self._bfloat16_to_float32(raw))
        if stored in FLOAT_BITS:
            return self._resized(stored, raw)
        return self._int_to_float(dtype, raw)

    def load_stored(self, dtype: str, address: str, mask: str | None) -> str:
        """Numbers of memory as they lie there; 0 where the mask leaves them out."""
        # Rows begin anywhere: no more is known of an address than that it is one of a number.
        stored, size = STORAGE[dtype]
        kind = self.of(stored)
        if mask is None:
            return self.code.value(f"load {kind}, ptr {address}, align {size}")
        return self.code.call(
            kind,
            f"llvm.masked.load.{self.stored_suffix(stored)}.p0",
            ("ptr", address),
            ("i32", str(size)),
            (self.bool, mask),
            (kind, "zeroinitializer"),
        )

    def store(self, dtype: str, value: str, address: str, mask: str | None = None) -> None:
        """Floats of these vectors as numbers of memory, rounded to nearest."""
        stored, size = STORAGE[dtype]
        kind = self.of(stored)
        if dtype == "bfloat16":
            value = self._float32_to_bfloat16(value)
        elif FLOAT_BITS[stored] < self.bits:
            value = self.code.value(f"fptrunc {self.kind} {value} to {kind}")
        elif FLOAT_BITS[stored] > self.bits:
            value = self.code.value(f"fpext {self.kind} {value} to {kind}")

        if mask is None:
            self.code.add(f"  store {kind} {value}, ptr {address}, align {size}")
            return
        self.code.call(
            "void",
            f"llvm.masked.store.{self.stored_suffix(stored)}.p0",
            (kind, value),
            ("ptr", address),
            ("i32", str(size)),
            (self.bool, mask),
        )

    def stored_suffix(self, stored: str) -> str:
        """What the names of intrinsics for vectors of a type in memory end in."""
        return f"v{self.width}{SHORT_NAMES.get(stored, stored)}"

    def _as_index(self, dtype: str, raw: str) -> str:
        """An integer of memory with 64 bits."""
        stored = STORAGE[dtype].type
        if stored == "i64":
            return raw
        # Indices without a sign fit into 64 bits with one, but for those that are outside of each row.
        extend = "sext"
        if dtype.startswith("u"):
            extend = "zext"
        return self.code.value(f"{extend} {self.of(stored)} {raw} to i64")

    def _int_to_float(self, dtype: str, raw: str) -> str:
        # True is one bit that is set: with a sign it would be -1.
        convert = "sitofp"
        if dtype.startswith("u") or dtype == "bool":
            convert = "uitofp"
        return self.code.value(f"{convert} {self.of(STORAGE[dtype].type)} {raw} to {self.kind}")

    def _resized(self, stored: str, raw: str) -> str:
        """Floats of another size as those of these vectors."""
        if FLOAT_BITS[stored] == self.bits:
            return raw
        convert = "fptrunc"
        if FLOAT_BITS[stored] < self.bits:
            convert = "fpext"
        return self.code.value(f"{convert} {self.of(stored)} {raw} to {self.kind}")

    def _bfloat16_to_float32(self, raw: str) -> str:
        wide = self.of("i32")
        raw = self.code.value(f"zext {self.of('i16')} {raw} to {wide}")
        raw = self.code.value(f"shl {wide} {raw}, {self.splat_text('i32', str(BFLOAT16_SHIFT))}")
        return self.code.value(f"bitcast {wide} {raw} to {self.of('float')}")

    def _float32_to_bfloat16(self, value: str) -> str:
        """To nearest, ties to even; NaN stays NaN."""
        code, wide = self.code, self.of("i32")

        def op(name: str, a: str, b: int) -> str:
            return code.value(f"{name} {wide} {a}, {self.splat_text('i32', str(b))}")

        bits = code.value(f"bitcast {self.kind} {value} to {wide}")
        odd = op("and", op("lshr", bits, BFLOAT16_SHIFT), 1)
        rounded = code.value(f"add {wide} {op('add', bits, BFLOAT16_JUST_BELOW_HALF)}, {odd}")
        # Rounding would carry the bits of some NaN into those of infinity, or of zero.
        rounded = self.where(self.isnan(value), op("or", bits, FLOAT32_QUIET_NAN_BIT), rounded, wide)
        return code.value(f"trunc {wide} {op('lshr', rounded, BFLOAT16_SHIFT)} to {self.of('i16')}")
