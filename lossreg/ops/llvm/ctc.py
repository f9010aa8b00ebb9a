"""Recurrences over time as one LLVM function: connectionist temporal classification."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from ...formulas.arguments import ELEMENT, ArrayArgument
from ...formulas.graph import Symbol, trace
from ..ctc import backward, forward, share_of
from .gate import SHARED_SLOTS
from .kernel import operation
from .math import MathLanes
from .vectors import STORAGE, Code, Lanes

__all__ = ["ARGUMENTS", "alignment_text", "padded_width"]

ARGUMENTS = (
    *SHARED_SLOTS, "sequences", "classes", "width", "time", "probs", "probs_time", "probs_sequence", "states", "leaps",
    "frames", "last", "likelihoods", "slopes", "out", "out_time", "out_sequence",
)  # fmt: skip
"""The slots of a call, 64 bits each: pointers, counts, and bytes from one time or sequence to the next."""

POINTERS = ("probs", "states", "leaps", "frames", "last", "likelihoods", "slopes", "out")


def padded_width(width: int, vector_bytes: int) -> int:
    """States of a sequence, rounded up to whole vectors."""
    lanes = 2 * vector_bytes // 8
    return -(-width // lanes) * lanes


def _apply(lanes: MathLanes, formula: Callable[..., Any], *values: tuple[str, str]) -> str:
    """A formula of elements on values of lanes, given as (kind, value)."""
    _, (found,) = trace(
        lambda *args: (formula(*args),), [ArrayArgument(ELEMENT, kind) for kind, _ in values], rows=False
    )
    known: dict[int, str] = {}

    def value(x: Symbol) -> str:
        if x.op == "input":
            known[x.key] = values[x.args[0]][1]
        if x.key not in known:
            known[x.key] = operation(lanes, x, [value(arg) for arg in x.args if isinstance(arg, Symbol)])
        return known[x.key]

    return value(found)


class _Alignment:
    """Writes the function; `state` rows lie in scratch memory, with two more cells of -inf in front or behind."""

    def __init__(self, dtype: str, stored: str | None, logits: bool, vector_bytes: int) -> None:
        self.dtype, self.stored, self.logits = dtype, stored, logits
        self.code = Code()
        self.lanes = MathLanes(self.code, 64, 2 * vector_bytes // 8, avx512=vector_bytes == 64)
        self.scalar = MathLanes(self.code, 64, 1)

    def ops(self, op: str, a: str, b: str | int) -> str:
        return self.code.value(f"{op} i64 {a}, {b}")

    def at(self, base: str, index: str, size: int = 8) -> str:
        """The address of an item."""
        return self.code.value(f"getelementptr i8, ptr {base}, i64 {self.ops('mul', index, size)}")

    @contextlib.contextmanager
    def loop(self, first: str, last: str, step: int = 1) -> Iterator[str]:
        """From first up to last, or down to 0 from first where the step is negative."""
        code = self.code
        slot, head, body, end = code.slot("i64"), code.name("head"), code.name("body"), code.name("end")
        code.add(f"  store i64 {first}, ptr {slot}\n  br label %{head}\n{head}:")
        i = code.value(f"load i64, ptr {slot}")
        more = code.value(f"icmp slt i64 {i}, {last}" if step > 0 else f"icmp sge i64 {i}, 0")
        code.add(f"  br i1 {more}, label %{body}, label %{end}\n{body}:")
        yield i
        code.add(f"  store i64 {self.ops('add', i, step)}, ptr {slot}\n  br label %{head}\n{end}:")

    def emission(self, probs: str, states: str, j: str) -> str:
        """Log-probabilities of the classes of states."""
        code, lanes = self.code, self.lanes
        stored, size = STORAGE[self.dtype]
        whole = lanes.of("i64")
        ids = code.value(f"load {whole}, ptr {self.at(states, j)}, align 8")
        offsets = code.value(f"mul {whole} {ids}, {lanes.splat_text('i64', str(size))}")
        places = code.value(f"getelementptr i8, ptr {probs}, {whole} {offsets}")
        kind = lanes.of(stored)
        name = f"llvm.masked.gather.v{lanes.width}{lanes.short(stored)}.v{lanes.width}p0"
        raw = code.call(
            kind, name, (lanes.of("ptr"), places), ("i32", str(size)),
            (lanes.bool, lanes.splat_text("i1", "true")), (kind, "zeroinitializer"),
        )  # fmt: skip
        return raw if stored == "double" else code.value(f"fpext {kind} {raw} to {lanes.kind}")

    def doubles(self, address: str) -> str:
        return self.code.value(f"load {self.lanes.kind}, ptr {address}, align 8")

    def put(self, value: str, address: str) -> None:
        self.code.add(f"  store {self.lanes.kind} {value}, ptr {address}, align 8")

    def number(self, address: str, kind: str = "double") -> str:
        return self.code.value(f"load {kind}, ptr {address}, align 8")

    def put_number(self, value: str, address: str, kind: str = "double") -> None:
        self.code.add(f"  store {kind} {value}, ptr {address}, align 8")

    def leaping(self, leaps: str, j: str) -> str:
        kind = self.lanes.of("i8")
        raw = self.code.value(f"load {kind}, ptr {self.at(leaps, j, 1)}, align 1")
        return self.code.value(f"icmp ne {kind} {raw}, zeroinitializer")

    def text(self) -> str:
        code, lanes, ops = self.code, self.lanes, self.ops
        a = {}
        for place, name in enumerate(ARGUMENTS):
            if name in SHARED_SLOTS:
                continue
            kind = "ptr" if name in POINTERS else "i64"
            address = code.value(f"getelementptr i64, ptr %call, i64 {place}")
            a[name] = code.value(f"load {kind}, ptr {address}")
        width = a["width"]
        row = ops("add", width, 2)  # cells of a row of alphas
        counter = code.value(f"getelementptr i64, ptr %call, i64 {ARGUMENTS.index('claimed')}")
        code.add("  br label %claim\nclaim:")
        i = code.value(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        more = code.value(f"icmp slt i64 {i}, {a['sequences']}")
        code.add(f"  br i1 {more}, label %sequence, label %done\nsequence:")
        probs = self.at(a["probs"], ops("mul", i, a["probs_sequence"]), 1)
        states = self.at(a["states"], ops("mul", i, width))
        leaps = self.at(a["leaps"], ops("mul", i, ops("add", width, lanes.width)), 1)
        frames = self.number(self.at(a["frames"], i), "i64")
        last = self.number(self.at(a["last"], i), "i64")
        zero = self.scalar.const(-math.inf)

        # forward: row t + 1 of alphas holds frame t, behind two cells of -inf
        with self.loop("0", ops("add", width, 2), 1) as j:
            self.put_number(zero, self.at("%scratch", j))
        self.put_number(self.scalar.const(0.0), self.at("%scratch", "2"))
        with self.loop("0", frames) as t:
            before = self.at("%scratch", ops("mul", t, row))
            after = self.at(before, row)
            self.put_number(zero, after)
            self.put_number(zero, self.at(after, "1"))
            now = self.at(probs, ops("mul", t, a["probs_time"]), 1)
            with self.loop("0", width, lanes.width) as j:
                two, one, here = (self.doubles(self.at(before, ops("add", j, k))) for k in (0, 1, 2))
                leap, emit = self.leaping(leaps, j), self.emission(now, states, j)
                found = _apply(lanes, forward, ("f", here), ("f", one), ("f", two), ("b", leap), ("f", emit))
                self.put(found, self.at(after, ops("add", j, 2)))
        end = self.at("%scratch", ops("add", ops("mul", frames, row), last))
        terms = (("f", self.number(self.at(end, "2"))), ("f", self.number(self.at(end, "1"))), ("f", zero))
        never = ("b", self.scalar.splat_text("i1", "false"))
        likelihood = _apply(self.scalar, backward, *terms, never)
        self.put_number(likelihood, self.at(a["likelihoods"], i))
        if self.stored is not None:
            self.gradient(a, i, probs, states, leaps, frames, last, likelihood, row)
        code.add("  br label %claim\ndone:\n  ret void")
        top = ["define internal void @body(ptr noalias %call, ptr noalias %scratch) noinline {", "entry:", *code.slots]
        return "\n".join([*sorted(code.declared), *top, *code.lines, "}"]) + "\n"

    def gradient(
        self, a: dict[str, str], i: str, probs: str, states: str, leaps: str, frames: str, last: str, likelihood: str,
        row: str,
    ) -> None:  # fmt: skip
        code, lanes, ops, scalar = self.code, self.lanes, self.ops, self.scalar
        width, classes = a["width"], a["classes"]
        out = self.at(a["out"], ops("mul", i, a["out_sequence"]), 1)
        slope = self.number(self.at(a["slopes"], i))
        zero = lanes.const(-math.inf)
        # behind the alphas: what the next frame's states say (and two cells of -inf), shares, slopes of classes
        onward = self.at("%scratch", ops("mul", ops("add", a["time"], 1), row))
        shares = self.at(onward, ops("add", width, 2 * lanes.width))
        slopes = self.at(shares, width)
        wanted = scalar.logical(
            "and", scalar.ne(slope, scalar.const(0.0)), scalar.ne(likelihood, scalar.const(-math.inf))
        )
        stop = code.value(f"select i1 {wanted}, i64 {frames}, i64 0")
        size = STORAGE[str(self.stored)][1]
        with self.loop(stop, a["time"]) as t:
            target = self.at(out, ops("mul", t, a["out_time"]), 1)
            with self.loop("0", classes) as c:
                kind = STORAGE[str(self.stored)][0]
                code.add(f"  store {kind} zeroinitializer, ptr {self.at(target, c, size)}, align {size}")
        with self.loop("0", ops("add", width, 2 * lanes.width), lanes.width) as j:
            self.put(zero, self.at(onward, j))
        wide = lanes.splat(likelihood, "double")
        with self.loop(ops("sub", stop, 1), "0", -1) as t:
            alphas = self.at("%scratch", ops("add", ops("mul", ops("add", t, 1), row), 2))
            now = self.at(probs, ops("mul", t, a["probs_time"]), 1)
            final = code.value(f"icmp eq i64 {ops('add', t, 1)}, {frames}")
            with self.loop("0", width, lanes.width) as j:
                here, one, two = (self.doubles(self.at(onward, ops("add", j, k))) for k in (0, 1, 2))
                leap = self.leaping(leaps, ops("add", j, 2))
                beta = _apply(lanes, backward, ("f", here), ("f", one), ("f", two), ("b", leap))
                place = code.value(f"trunc i64 {ops('sub', last, j)} to i32")
                at_end = code.value(f"icmp eq {lanes.of('i32')} {lanes.iota()}, {lanes.splat(place, 'i32')}")
                place = code.value(f"add i32 {place}, -1")
                before = code.value(f"icmp eq {lanes.of('i32')} {lanes.iota()}, {lanes.splat(place, 'i32')}")
                ending = lanes.where(lanes.logical("or", at_end, before), lanes.const(0.0), zero)
                beta = lanes.where(lanes.splat(final, "i1"), ending, beta)
                alpha = self.doubles(self.at(alphas, j))
                share = _apply(lanes, share_of, ("f", alpha), ("f", beta), ("f", wide))
                self.put(share, self.at(shares, j))
                # read by the frame before: this block's cells are not needed again
                self.put(lanes.add(beta, self.emission(now, states, j)), self.at(onward, j))
            end = ops("add", last, 1)
            total = code.slot("double")
            self.put_number(scalar.const(0.0), total)
            with self.loop("0", end) as j:
                share = self.number(self.at(shares, j))
                self.put_number(scalar.add(self.number(total), share), total)
            every = lanes.splat(self.number(total), "double")
            with self.loop("0", classes, lanes.width) as c:
                left = code.value(f"trunc i64 {ops('sub', classes, c)} to i32")
                mask = code.value(f"icmp slt {lanes.of('i32')} {lanes.iota()}, {lanes.splat(left, 'i32')}")
                found = lanes.const(0.0)
                if self.logits:
                    stored_size = STORAGE[self.dtype][1]
                    found = lanes.exp(lanes.load(self.dtype, "f", self.at(now, c, stored_size), mask))
                    found = lanes.mul(found, every)
                self.put(found, self.at(slopes, c))
            with self.loop("0", end) as j:
                place = self.at(slopes, self.number(self.at(states, j), "i64"))
                self.put_number(scalar.sub(self.number(place), self.number(self.at(shares, j))), place)
            target = self.at(out, ops("mul", t, a["out_time"]), 1)
            factor = lanes.splat(slope, "double")
            with self.loop("0", classes, lanes.width) as c:
                left = code.value(f"trunc i64 {ops('sub', classes, c)} to i32")
                mask = code.value(f"icmp slt {lanes.of('i32')} {lanes.iota()}, {lanes.splat(left, 'i32')}")
                found = lanes.mul(self.doubles(self.at(slopes, c)), factor)
                if self.stored == "float64":
                    lanes.store("float64", found, self.at(target, c, size), mask)
                else:
                    singles = Lanes(code, 32, lanes.width)
                    found = code.value(f"fptrunc {lanes.kind} {found} to {singles.kind}")
                    singles.store(str(self.stored), found, self.at(target, c, size), mask)


def alignment_text(dtype: str, stored: str | None, logits: bool, vector_bytes: int) -> str:
    """The function `body(call, scratch)` for log-probabilities of a dtype and gradients stored as another."""
    return _Alignment(dtype, stored, logits, vector_bytes).text()
