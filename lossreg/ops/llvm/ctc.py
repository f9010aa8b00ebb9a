"""Recurrences over time as one LLVM function: connectionist temporal classification."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...formulas.arguments import ELEMENT, ArrayArgument
from ...formulas.graph import Symbol, trace
from ..ctc import backward, forward, posterior
from .gate import SHARED_SLOTS
from .kernel import operation
from .math import MathVectors
from .vectors import STORAGE, Code, Vectors

__all__ = ["ARGUMENTS", "alignment_text", "numbers_per_vector", "padded_width", "scratch_bytes"]

ARGUMENTS = (
    *SHARED_SLOTS, "sequences", "classes", "width", "time", "probs", "probs_time", "probs_sequence", "states",
    "can_skip", "frames", "last", "likelihoods", "grads", "out", "out_time", "out_sequence",
)  # fmt: skip
"""The slots of a call, 64 bits each: pointers, counts, and bytes from one time or sequence to the next."""

POINTERS = ("probs", "states", "can_skip", "frames", "last", "likelihoods", "grads", "out")

CELL = 8
"""Bytes of a float64, and of an index."""

LOG_ZERO = -math.inf


def numbers_per_vector(vector_bytes: int) -> int:
    """How many states are computed at a time: two registers of float64."""
    return 2 * vector_bytes // CELL


def padded_width(width: int, vector_bytes: int) -> int:
    """States of a sequence, rounded up to whole vectors."""
    step = numbers_per_vector(vector_bytes)
    return -(-width // step) * step


def scratch_bytes(time: int, width: int, classes: int, vector_bytes: int) -> int:
    """Scratch memory of a thread, for sequences of `time` frames and a padded width."""
    alphas = (time + 1) * (width + 2)
    onward_and_fractions = 2 * width + 2 * numbers_per_vector(vector_bytes)
    grads_of_classes = classes + numbers_per_vector(vector_bytes)
    return CELL * (alphas + onward_and_fractions + grads_of_classes)


def alignment_text(dtype: str, stored: str | None, logits: bool, vector_bytes: int) -> str:
    """The function `body(call, scratch)` for log-probabilities of a dtype and gradients stored as another.

    Without `stored` no gradient is computed.
    """
    return _Function(dtype, stored, logits, vector_bytes).text()


def _apply(vectors: MathVectors, formula: Callable[..., Any], *values: tuple[str, str]) -> str:
    """A formula of elements on values of vectors, each with its kind: (kind, value)."""
    arguments = [ArrayArgument(ELEMENT, kind) for kind, _ in values]
    _, (result,) = trace(lambda *args: (formula(*args),), arguments, rows=False)
    known: dict[int, str] = {}

    def value(x: Symbol) -> str:
        if x.op == "input":
            known[x.key] = values[x.args[0]][1]
        if x.key not in known:
            known[x.key] = operation(vectors, x, [value(arg) for arg in x.args if isinstance(arg, Symbol)])
        return known[x.key]

    return value(result)


@dataclass(frozen=True)
class _Sequence:
    """Where one sequence lies, as names of addresses and numbers."""

    number: str
    probs: str
    states: str
    can_skip: str
    frames: str
    last: str


class _Function:
    """Writes the function: a loop over sequences, in each a loop forward over time, and one back for the gradient.

    Rows of states lie in scratch memory, with two more cells of -inf in front or behind.
    """

    def __init__(self, dtype: str, stored: str | None, logits: bool, vector_bytes: int) -> None:
        self.dtype, self.stored, self.logits = dtype, stored, logits
        self.code = Code()
        width = numbers_per_vector(vector_bytes)
        self.vectors = MathVectors(self.code, 64, width, avx512=vector_bytes == 64)
        self.scalar = MathVectors(self.code, 64, 1)
        self.arguments: dict[str, str] = {}
        """The slots of the call, by their names."""
        self.read_arguments()
        self.row = self.ops("add", self.arguments["width"], 2)
        """Cells of a row of alphas."""

    def text(self) -> str:
        """The whole function."""
        code, a = self.code, self.arguments
        counter = code.value(f"getelementptr i64, ptr %call, i64 {ARGUMENTS.index('claimed')}")
        code.branch("claim")

        code.label("claim")
        number = code.value(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        more = code.value(f"icmp slt i64 {number}, {a['sequences']}")
        code.branch_if(more, "sequence", "done")

        code.label("sequence")
        sequence = self.read_sequence(number)
        self.forward_sums(sequence)
        likelihood = self.likelihood(sequence)
        if self.stored is not None:
            self.gradient(sequence, likelihood)
        code.branch("claim")

        code.label("done")
        code.add("  ret void")
        return code.body()

    # Numbers and addresses

    def read_arguments(self) -> None:
        """Read the slots of the call that are this function's own."""
        for place, name in enumerate(ARGUMENTS):
            if name not in SHARED_SLOTS:
                kind = "ptr" if name in POINTERS else "i64"
                address = self.code.value(f"getelementptr i64, ptr %call, i64 {place}")
                self.arguments[name] = self.code.value(f"load {kind}, ptr {address}")

    def read_sequence(self, number: str) -> _Sequence:
        """Where a sequence lies, and how long it is."""
        a, ops = self.arguments, self.ops
        # Flags are read a vector at a time, also two states beyond the last one.
        flags_per_sequence = self.vectors.width
        return _Sequence(
            number=number,
            probs=self.at(a["probs"], ops("mul", number, a["probs_sequence"]), 1),
            states=self.at(a["states"], ops("mul", number, a["width"])),
            can_skip=self.at(a["can_skip"], ops("mul", number, ops("add", a["width"], flags_per_sequence)), 1),
            frames=self.load(self.at(a["frames"], number), "i64"),
            last=self.load(self.at(a["last"], number), "i64"),
        )

    def ops(self, op: str, a: str, b: str | int) -> str:
        """An operation on integers."""
        return self.code.value(f"{op} i64 {a}, {b}")

    def at(self, base: str, index: str, size: int = CELL) -> str:
        """The address of an item."""
        return self.code.value(f"getelementptr i8, ptr {base}, i64 {self.ops('mul', index, size)}")

    @contextlib.contextmanager
    def loop(self, first: str, last: str, step: int = 1) -> Iterator[str]:
        """From first up to last, or down to 0 from first where the step is negative."""
        code = self.code
        slot, head, body, end = code.slot("i64"), code.name("head"), code.name("body"), code.name("end")
        code.store("i64", first, slot)
        code.branch(head)

        code.label(head)
        i = code.value(f"load i64, ptr {slot}")
        condition = f"icmp slt i64 {i}, {last}"
        if step < 0:
            condition = f"icmp sge i64 {i}, 0"
        code.branch_if(code.value(condition), body, end)

        code.label(body)
        yield i
        code.store("i64", self.ops("add", i, step), slot)
        code.branch(head)

        code.label(end)

    def load_vector(self, address: str) -> str:
        """A vector of float64."""
        return self.code.value(f"load {self.vectors.kind}, ptr {address}, align {CELL}")

    def store_vector(self, value: str, address: str) -> None:
        """Store a vector of float64."""
        self.code.add(f"  store {self.vectors.kind} {value}, ptr {address}, align {CELL}")

    def load(self, address: str, kind: str = "double") -> str:
        """One number."""
        return self.code.value(f"load {kind}, ptr {address}, align {CELL}")

    def store(self, value: str, address: str) -> None:
        """Store one float64."""
        self.code.add(f"  store double {value}, ptr {address}, align {CELL}")

    def emission(self, probs: str, states: str, j: str) -> str:
        """Log-probabilities of the classes of a vector of states."""
        code, vectors = self.code, self.vectors
        stored, size = STORAGE[self.dtype]
        ids_type = vectors.of("i64")
        ids = code.value(f"load {ids_type}, ptr {self.at(states, j)}, align {CELL}")
        offsets = code.value(f"mul {ids_type} {ids}, {vectors.splat_text('i64', str(size))}")
        addresses = code.value(f"getelementptr i8, ptr {probs}, {ids_type} {offsets}")
        kind = vectors.of(stored)
        raw = code.call(
            kind,
            f"llvm.masked.gather.{vectors.stored_suffix(stored)}.v{vectors.width}p0",
            (vectors.of("ptr"), addresses),
            ("i32", str(size)),
            (vectors.bool, vectors.splat_text("i1", "true")),
            (kind, "zeroinitializer"),
        )
        if stored == "double":
            return raw
        return code.value(f"fpext {kind} {raw} to {vectors.kind}")

    def skips(self, can_skip: str, j: str) -> str:
        """Whether each state of a vector may be entered from two before it."""
        kind = self.vectors.of("i8")
        raw = self.code.value(f"load {kind}, ptr {self.at(can_skip, j, 1)}, align 1")
        return self.code.value(f"icmp ne {kind} {raw}, zeroinitializer")

    def three_from(self, base: str, j: str) -> list[str]:
        """Vectors of states from j, j + 1 and j + 2 on."""
        return [self.load_vector(self.at(base, self.ops("add", j, k))) for k in (0, 1, 2)]

    # Forward

    def forward_sums(self, sequence: _Sequence) -> None:
        """Row t + 1 of alphas holds frame t, behind two cells of -inf."""
        a, ops, row = self.arguments, self.ops, self.row
        zero = self.scalar.const(LOG_ZERO)
        # Row 0: before the first frame the path stands in the first state.
        with self.loop("0", ops("add", a["width"], 2), 1) as j:
            self.store(zero, self.at("%scratch", j))
        self.store(self.scalar.const(0.0), self.at("%scratch", "2"))

        with self.loop("0", sequence.frames) as t:
            before = self.at("%scratch", ops("mul", t, row))
            after = self.at(before, row)
            self.store(zero, after)
            self.store(zero, self.at(after, "1"))
            probs = self.at(sequence.probs, ops("mul", t, a["probs_time"]), 1)
            with self.loop("0", a["width"], self.vectors.width) as j:
                two, one, here = self.three_from(before, j)
                can_skip = self.skips(sequence.can_skip, j)
                emit = self.emission(probs, sequence.states, j)
                values = ("f", here), ("f", one), ("f", two), ("b", can_skip), ("f", emit)
                alpha = _apply(self.vectors, forward, *values)
                self.store_vector(alpha, self.at(after, ops("add", j, 2)))

    def likelihood(self, sequence: _Sequence) -> str:
        """The sum over both ways to end, stored: in the final blank, and in the last label."""
        ops, a = self.ops, self.arguments
        end = self.at("%scratch", ops("add", ops("mul", sequence.frames, self.row), sequence.last))
        blank = self.load(self.at(end, "2"))
        label = self.load(self.at(end, "1"))
        never = self.scalar.splat_text("i1", "false")
        values = ("f", blank), ("f", label), ("f", self.scalar.const(LOG_ZERO)), ("b", never)
        likelihood = _apply(self.scalar, backward, *values)
        self.store(likelihood, self.at(a["likelihoods"], sequence.number))
        return likelihood

    # Backward

    def gradient(self, sequence: _Sequence, likelihood: str) -> None:
        """Backward over time: for each frame the fractions of alignments in each state, and the gradient from these."""
        a, ops, code, width = self.arguments, self.ops, self.code, self.vectors.width
        out = self.at(a["out"], ops("mul", sequence.number, a["out_sequence"]), 1)
        grad = self.load(self.at(a["grads"], sequence.number))
        # Behind the alphas lie what the next frame's states say (with cells of -inf behind them), the fractions of
        # this frame, and the gradients of classes.
        onward = self.at("%scratch", ops("mul", ops("add", a["time"], 1), self.row))
        fractions = self.at(onward, ops("add", a["width"], 2 * width))
        grads = self.at(fractions, a["width"])

        # Where no gradient is asked for, or the target cannot be aligned, no frame has one.
        asked = self.scalar.ne(grad, self.scalar.const(0.0))
        possible = self.scalar.ne(likelihood, self.scalar.const(LOG_ZERO))
        has_gradient = self.scalar.logical("and", asked, possible)
        stop = code.value(f"select i1 {has_gradient}, i64 {sequence.frames}, i64 0")
        self.clear_frames(out, stop)

        with self.loop("0", ops("add", a["width"], 2 * width), width) as j:
            self.store_vector(self.vectors.const(LOG_ZERO), self.at(onward, j))
        likelihoods = self.vectors.splat(likelihood, "double")
        with self.loop(ops("sub", stop, 1), "0", -1) as t:
            alphas = self.at("%scratch", ops("add", ops("mul", ops("add", t, 1), self.row), 2))
            probs = self.at(sequence.probs, ops("mul", t, a["probs_time"]), 1)
            is_last_frame = code.value(f"icmp eq i64 {ops('add', t, 1)}, {sequence.frames}")
            with self.loop("0", a["width"], width) as j:
                beta = self.beta(sequence, onward, is_last_frame, j)
                alpha = self.load_vector(self.at(alphas, j))
                values = ("f", alpha), ("f", beta), ("f", likelihoods)
                self.store_vector(_apply(self.vectors, posterior, *values), self.at(fractions, j))
                # The frame before reads it: nothing of this frame reads these cells any more.
                emitted = self.vectors.add(beta, self.emission(probs, sequence.states, j))
                self.store_vector(emitted, self.at(onward, j))

            end = ops("add", sequence.last, 1)
            self.begin_grads(grads, probs, fractions, end)
            self.subtract_fractions(grads, sequence.states, fractions, end)
            self.store_grads(grads, grad, self.at(out, ops("mul", t, a["out_time"]), 1))

    def clear_frames(self, out: str, first: str) -> None:
        """Store a gradient of 0 in all frames from one on."""
        a, ops = self.arguments, self.ops
        kind, size = STORAGE[str(self.stored)]
        with self.loop(first, a["time"]) as t:
            frame = self.at(out, ops("mul", t, a["out_time"]), 1)
            with self.loop("0", a["classes"]) as c:
                self.code.add(f"  store {kind} zeroinitializer, ptr {self.at(frame, c, size)}, align {size}")

    def beta(self, sequence: _Sequence, onward: str, is_last_frame: str, j: str) -> str:
        """What `backward` says of a vector of states; after the last frame only the last two states are an end."""
        code, vectors, ops = self.code, self.vectors, self.ops
        here, one, two = self.three_from(onward, j)
        can_skip = self.skips(sequence.can_skip, ops("add", j, 2))
        beta = _apply(vectors, backward, ("f", here), ("f", one), ("f", two), ("b", can_skip))

        blank = code.value(f"trunc i64 {ops('sub', sequence.last, j)} to i32")
        is_blank = self.is_at(blank)
        label = code.value(f"add i32 {blank}, -1")
        is_label = self.is_at(label)
        is_end = vectors.logical("or", is_blank, is_label)
        ends = vectors.where(is_end, vectors.const(0.0), vectors.const(LOG_ZERO))
        return vectors.where(vectors.splat(is_last_frame, "i1"), ends, beta)

    def is_at(self, place: str) -> str:
        """Whether each place of a vector is this one."""
        vectors = self.vectors
        return self.code.value(f"icmp eq {vectors.of('i32')} {vectors.iota()}, {vectors.splat(place, 'i32')}")

    def begin_grads(self, grads: str, probs: str, fractions: str, end: str) -> None:
        """Gradients of classes before those of the target: 0, or in the logits each probability times their sum."""
        vectors, a = self.vectors, self.arguments
        total = self.code.slot("double")
        self.store(self.scalar.const(0.0), total)
        with self.loop("0", end) as j:
            fraction = self.load(self.at(fractions, j))
            self.store(self.scalar.add(self.load(total), fraction), total)
        totals = vectors.splat(self.load(total), "double")

        with self.loop("0", a["classes"], vectors.width) as c:
            mask = self.classes_from(c)
            grad = vectors.const(0.0)
            if self.logits:
                address = self.at(probs, c, STORAGE[self.dtype].size)
                grad = vectors.exp(vectors.load(self.dtype, "f", address, mask))
                grad = vectors.mul(grad, totals)
            # Scratch memory goes on behind the last class: no mask is needed.
            self.store_vector(grad, self.at(grads, c))

    def subtract_fractions(self, grads: str, states: str, fractions: str, end: str) -> None:
        """Take the fraction of each state off the gradient of its class. One by one: states share classes."""
        with self.loop("0", end) as j:
            grad = self.at(grads, self.load(self.at(states, j), "i64"))
            self.store(self.scalar.sub(self.load(grad), self.load(self.at(fractions, j))), grad)

    def store_grads(self, grads: str, grad: str, frame: str) -> None:
        """Store the gradients of a frame, multiplied by that of its sequence."""
        code, vectors = self.code, self.vectors
        size = STORAGE[str(self.stored)].size
        factor = vectors.splat(grad, "double")
        with self.loop("0", self.arguments["classes"], vectors.width) as c:
            mask = self.classes_from(c)
            value = vectors.mul(self.load_vector(self.at(grads, c)), factor)
            stored_vectors: Vectors = vectors
            if self.stored != "float64":
                # Halves are rounded from float32, as everywhere.
                stored_vectors = Vectors(code, 32, vectors.width)
                value = code.value(f"fptrunc {vectors.kind} {value} to {stored_vectors.kind}")
            stored_vectors.store(str(self.stored), value, self.at(frame, c, size), mask)

    def classes_from(self, first: str) -> str:
        """A mask of the places that are classes, in a vector that begins with one."""
        left = self.code.value(f"trunc i64 {self.ops('sub', self.arguments['classes'], first)} to i32")
        return self.vectors.first(left)
