"""LLVM text for lanes of numbers: types, arithmetic, bits and memory."""

from __future__ import annotations

import math
import struct

__all__ = ["STORAGE", "Code", "Lanes"]

FLAGS = "nsz"
"""-0 is 0. NaN, infinities and the order of operations are kept; products and sums are fused in the library alone."""

STORAGE = {
    "float64": ("double", 8), "float32": ("float", 4), "float16": ("half", 2), "bfloat16": ("i16", 2),
    "bool": ("i8", 1),
    "int8": ("i8", 1), "int16": ("i16", 2), "int32": ("i32", 4), "int64": ("i64", 8),
    "uint8": ("i8", 1), "uint16": ("i16", 2), "uint32": ("i32", 4), "uint64": ("i64", 8),
}  # fmt: skip
"""dtypes in memory: their LLVM type and bytes."""


class Code:
    """Lines of one LLVM function, the names of its values, and the intrinsics it needs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.declared: set[str] = set()
        self.count = 0

    def add(self, line: str) -> None:
        self.lines.append(line)

    def name(self, hint: str = "v") -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def value(self, text: str) -> str:
        """A named value."""
        name = f"%{self.name()}"
        self.add(f"  {name} = {text}")
        return name

    def slot(self, kind: str) -> str:
        """A variable, made at the start of the function; it becomes a register."""
        name = f"%{self.name('slot')}"
        self.slots.append(f"  {name} = alloca {kind}")
        return name

    def call(self, result: str, function: str, *args: tuple[str, str]) -> str:
        """A call of an intrinsic; args are (type, value)."""
        self.declared.add(f"declare {result} @{function}({', '.join(kind for kind, _ in args)})")
        text = f"call {result} @{function}({', '.join(f'{kind} {value}' for kind, value in args)})"
        if result == "void":
            self.add(f"  {text}")
            return ""
        return self.value(text)


class Lanes:
    """Operations on `width` numbers of 32 or 64 bits; a width of 1 makes plain scalars."""

    def __init__(self, code: Code, bits: int, width: int, avx512: bool = False) -> None:
        self.code, self.bits, self.width, self.avx512 = code, bits, width, avx512
        self.scalar = "float" if bits == 32 else "double"
        self.suffix = f"f{bits}" if width == 1 else f"v{width}f{bits}"
        self.kind, self.int, self.bool = self.of(self.scalar), self.of(f"i{bits}"), self.of("i1")
        self.mantissa, self.bias = (23, 127) if bits == 32 else (52, 1023)
        self.tiny = 2.0 ** (1 - self.bias)

    def of(self, scalar: str) -> str:
        """The type of lanes of a scalar type."""
        return scalar if self.width == 1 else f"<{self.width} x {scalar}>"

    def splat_text(self, scalar: str, text: str) -> str:
        return text if self.width == 1 or text == "zeroinitializer" else f"splat ({scalar} {text})"

    def const(self, value: float) -> str:
        """A number in all lanes."""
        if self.bits == 32:
            try:
                value = struct.unpack("f", struct.pack("f", value))[0]
            except OverflowError:
                value = math.copysign(math.inf, value)
        return self.splat_text(self.scalar, f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}")

    def whole(self, value: int) -> str:
        """An integer in all lanes."""
        return self.splat_text(f"i{self.bits}", str(value))

    def splat(self, value: str, scalar: str) -> str:
        """A scalar in all lanes."""
        if self.width == 1:
            return value
        kind = self.of(scalar)
        one = self.code.value(f"insertelement {kind} poison, {scalar} {value}, i32 0")
        return self.code.value(f"shufflevector {kind} {one}, {kind} poison, {self.of('i32')} zeroinitializer")

    # arithmetic

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
        kind = kind or self.kind
        return self.code.value(f"select {self.bool} {condition}, {kind} {a}, {kind} {b}")

    def extreme(self, op: str, a: str, b: str, sure: bool) -> str:
        """The larger ("ugt") or smaller ("ult") of two, NaN where one is; `sure` that b is none."""
        found = self.where(self.compare(op, a, b), a, b)
        return found if sure else self.where(self.isnan(b), b, found)

    # bits

    def int_op(self, op: str, a: str, b: str) -> str:
        return self.code.value(f"{op} {self.int} {a}, {b}")

    def as_int(self, a: str) -> str:
        return self.code.value(f"bitcast {self.kind} {a} to {self.int}")

    def from_bits(self, a: str) -> str:
        return self.code.value(f"bitcast {self.int} {a} to {self.kind}")

    def power_of_two(self, n: str) -> str:
        """2**n of integers n, for results that are normal numbers."""
        biased = self.int_op("add", n, self.whole(self.bias))
        return self.from_bits(self.int_op("shl", biased, self.whole(self.mantissa)))

    def iota(self) -> str:
        """0, 1, 2, ..."""
        return "<" + ", ".join(f"i32 {i}" for i in range(self.width)) + ">"

    # memory

    def load(self, dtype: str, kind: str, address: str, mask: str | None = None) -> str:
        """Numbers of memory as floats of the lanes, as bools, or as an index."""
        code = self.code
        stored, size = STORAGE[dtype]
        raw = self.masked_load(stored, size, address, mask)
        given, signed = self.of(stored), not dtype.startswith("u")
        if kind == "b":
            return code.value(f"icmp ne {given} {raw}, zeroinitializer")
        if kind == "i":
            return code.value(f"{'sext' if signed else 'zext'} {given} {raw} to i64") if stored != "i64" else raw
        if dtype == "bfloat16":
            wide, given = self.of("i32"), self.of("float")
            raw = code.value(f"zext {self.of(stored)} {raw} to {wide}")
            raw = code.value(f"shl {wide} {raw}, {self.splat_text('i32', '16')}")
            raw, stored = code.value(f"bitcast {wide} {raw} to {given}"), "float"
        if stored.startswith("i"):
            return code.value(f"{'sitofp' if signed and dtype != 'bool' else 'uitofp'} {given} {raw} to {self.kind}")
        have = {"half": 16, "float": 32, "double": 64}[stored]
        if have == self.bits:
            return raw
        return code.value(f"{'fpext' if have < self.bits else 'fptrunc'} {given} {raw} to {self.kind}")

    def masked_load(self, stored: str, size: int, address: str, mask: str | None) -> str:
        kind = self.of(stored)
        if mask is None:
            return self.code.value(f"load {kind}, ptr {address}, align {size}")
        suffix = f"v{self.width}{self.short(stored)}.p0"
        return self.code.call(
            kind, f"llvm.masked.load.{suffix}",
            ("ptr", address), ("i32", str(size)), (self.bool, mask), (kind, "zeroinitializer"),
        )  # fmt: skip

    @staticmethod
    def short(stored: str) -> str:
        return {"double": "f64", "float": "f32", "half": "f16"}.get(stored, stored)

    def store(self, dtype: str, value: str, address: str, mask: str | None = None) -> None:
        """Floats of the lanes as numbers of memory, rounded to nearest."""
        code = self.code
        stored, size = STORAGE[dtype]
        kind, have = self.of(stored), self.bits
        if dtype == "bfloat16":
            wide, bits = self.of("i32"), code.value(f"bitcast {self.kind} {value} to {self.of('i32')}")

            def op(name: str, a: str, b: int) -> str:
                return code.value(f"{name} {wide} {a}, {self.splat_text('i32', str(b))}")

            odd = op("and", op("lshr", bits, 16), 1)
            rounded = code.value(f"add {wide} {op('add', bits, 0x7FFF)}, {odd}")
            rounded = self.where(self.isnan(value), op("or", bits, 0x400000), rounded, wide)
            value = code.value(f"trunc {wide} {op('lshr', rounded, 16)} to {kind}")
        elif {"half": 16, "float": 32, "double": 64}[stored] != have:
            value = code.value(f"{'fptrunc' if have > size * 8 else 'fpext'} {self.kind} {value} to {kind}")
        if mask is None:
            code.add(f"  store {kind} {value}, ptr {address}, align {size}")
        else:
            suffix = f"v{self.width}{self.short(stored)}.p0"
            code.call(
                "void", f"llvm.masked.store.{suffix}",
                (kind, value), ("ptr", address), ("i32", str(size)), (self.bool, mask),
            )  # fmt: skip
