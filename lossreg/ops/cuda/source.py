"""A program as one CUDA kernel: a few passes over the elements of each row, by a warp or a block.

    for each row of this group
        pass 0: reductions of what is known -> rows' numbers in float64
        pass 1: reductions that need those, ...
        last pass: elements of the outputs are stored
    the blocks' totals are added up by the block that is last

A row lies in the caches after its first pass, and what a pass computed is computed again rather than kept. The maximum
of a row and its sum of e^(x - maximum) come out of one pass (`Peak` in prelude.cu).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...formulas.arguments import ELEMENT, ROW, ArrayArgument
from ...formulas.graph import LIBRARY, Symbol, below, trace
from ...formulas.passes import Plan
from ...formulas.program import Output, Program

__all__ = [
    "ALIGNMENT",
    "C_TYPES",
    "PRELUDE",
    "QUOTIENT",
    "bytes_read_again",
    "function_text",
    "kernel_text",
    "lanes_of",
]

PRELUDE, ALIGNMENT, QUOTIENT = (
    (Path(__file__).parent / f"{name}.cu").read_text(encoding="utf-8") for name in ("prelude", "ctc", "quotient")
)

C_TYPES = {
    "float64": ("double", 8), "float32": ("float", 4), "float16": ("half_t", 2), "bfloat16": ("bfloat_t", 2),
    "bool": ("unsigned char", 1),
    "int8": ("signed char", 1), "int16": ("short", 2), "int32": ("int", 4), "int64": ("long long", 8),
    "uint8": ("unsigned char", 1), "uint16": ("unsigned short", 2), "uint32": ("unsigned", 4),
    "uint64": ("unsigned long long", 8),
}  # fmt: skip
"""dtypes in memory: their type in CUDA and bytes."""

OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&&", "or": "||", "xor": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip


def lanes_of(dtype: str) -> int:
    """How many elements of a dtype a thread reads at a time: 16 bytes."""
    return 16 // C_TYPES[dtype][1]


def bytes_read_again(program: Program) -> int:
    """Bytes of a column in all arrays, where there is more than one pass."""
    arrays = program.arrays.values() if Plan(program.outputs).last else ()
    return sum(C_TYPES[array.dtype][1] for array in arrays if array.rank == ELEMENT)


def kernel_text(program: Program) -> str:
    """The kernel `run`, to be compiled behind PRELUDE.

    Its arguments: rows, columns and elements; address and bytes from row to row of each array, inputs first; the
    numbers; and where there is a total, the blocks' parts and the ticket. Of a flat array the last row may be shorter.
    """
    return _Kernel(program).text()


class _Kernel:
    def __init__(self, program: Program) -> None:
        self.program, self.arrays, self.outputs = program, program.arrays, program.outputs
        self.lines: list[str] = []
        self.known: dict[int, str] = {}
        """Names of the numbers of the call and of the row, by key."""
        self.picks: set[str] = set()
        """Names of elements at an index."""
        self.plan = Plan(program.outputs)
        self.peaks, self.up_to_one = _peaks(self.plan, [output.symbol for output in program.outputs])
        self.summed: int | None = None
        """The key of the total, where that is the sum of all elements."""

    def text(self) -> str:
        arguments = ["index_t rows", "index_t columns_total", "index_t elements"]
        for i in self.arrays:
            arguments += [f"const void* a{i}", f"index_t s{i}"]
        for k in range(len(self.outputs)):
            arguments += [f"void* o{k}", f"index_t t{k}"]
        for x in self.program.numbers:
            arguments.append(f"double n{x.args[0]}")
            self.known[x.key] = f"n{x.args[0]}"
        total = next((k for k, output in enumerate(self.outputs) if output.total), None)
        if total is not None:
            arguments += ["double* parts", "unsigned* ticket"]
        add = self.lines.append
        add(f'extern "C" __global__ void __launch_bounds__(THREADS) run({", ".join(arguments)}) {{')
        if total is not None:
            add("double part = 0.0;")
        add("for (index_t row = first_row(); row < rows; row += row_step()) {")
        add("const index_t columns = smaller(elements - row * columns_total, columns_total);")
        for i, array in self.arrays.items():
            if array.rank:
                add(f"const {self.c_type(i)}* r{i} = row_of<{self.c_type(i)}>(a{i}, row, s{i});")
            else:
                add(f"const {self.c_type(i)}* r{i} = (const {self.c_type(i)}*)a{i};")
        for k, output in enumerate(self.outputs):
            if not output.total:
                kind = C_TYPES[output.array.dtype][0]
                add(f"{kind}* w{k} = row_of<{kind}>(o{k}, row, t{k});")
        picks = self.program.picks
        for pick in picks:  # read before anything is stored: an output may lie where its input lies
            for x in below(pick.args[:1]):
                if x.op == "input" and x.rank == ELEMENT:
                    self.read_at(x, pick.args[1])
        rows = [(k, o) for k, o in enumerate(self.outputs) if o.array.rank == ROW]
        if len(rows) == 1 and total is not None and not self.plan.last and rows[0][1].symbol.op == "row_sum":
            self.summed = rows.pop()[1].symbol.key  # a sum of elements: threads add up their own
        for place in range(self.plan.last + 1):
            if place == self.plan.last and picks:
                add("wait();")
            if place == self.plan.last or any(x.key not in self.known for x in self.plan.reduced[place]):
                self.loop(place)
        found = [(k, o, self.row_value(o.symbol)) for k, o in rows]
        if found:
            add("if (lane() == 0) {")
            for k, output, value in found:
                kind = C_TYPES[output.array.dtype][0]
                add(f"part += {value};" if output.total else f"*w{k} = Stored<{kind}>::of({value});")
            add("}")
        add("}")
        if total is not None:
            add(f"add_up(part, parts, ticket, (double*)o{total});")
        add("}")
        return "\n".join(self.lines) + "\n"

    def c_type(self, i: int) -> str:
        return C_TYPES[self.arrays[i].dtype][0]

    def loop(self, place: int) -> None:
        """One pass over the elements of a row: LANES at a time, and the rest one by one."""
        add = self.lines.append
        reductions = [x for x in self.plan.reduced[place] if x.key not in self.known]
        stored = (
            [(k, o) for k, o in enumerate(self.outputs) if o.array.rank == ELEMENT] if place == self.plan.last else []
        )
        roots = [x.args[0] for x in reductions] + [o.symbol for _, o in stored]
        if not roots:
            return
        inside = below(roots)
        for x in inside:  # numbers of the row, in the type of elements
            if x.rank != ELEMENT and x.kind == "f" and x.op != "const":
                add(f"const REAL e{x.key}_{place} = (REAL){self.row_value(x)};")
            elif x.rank != ELEMENT and x.kind == "i":
                add(f"const INDEX e{x.key}_{place} = column({self.row_value(x)});")
            elif x.rank != ELEMENT:
                self.row_value(x)
        read = [x for x in inside if x.op == "input" and x.rank == ELEMENT]
        for x in reductions:
            if x.key in self.peaks:
                add(f"Peak p{x.key} = no_peak();")
            elif x.op == "row_max":
                add(f"REAL v{x.key} = (REAL)-infinity();")
            else:
                add(f"double v{x.key} = 0.0;")
        loaded = [f"REAL x{x.key}" if x.kind == "f" else f"bool x{x.key}" for x in read]
        peaks = [x for x in reductions if x.key in self.peaks]
        results = [f"REAL& y{k}" for k, _ in stored] + [f"REAL& h{x.key}" for x in peaks]
        add(f"auto element{place} = [&]({', '.join(['const INDEX j', *loaded, *results])}) {{")
        names: dict[int, str] = {x.key: f"x{x.key}" for x in read}

        def value(x: Symbol) -> str:
            if x.rank != ELEMENT:
                if x.op == "const" or x.kind == "b":
                    return self.row_value(x, "REAL")
                return f"e{x.key}_{place}"
            if x.key not in names:
                if x.op == "columns":
                    return "j"
                kind = {"f": "REAL", "b": "bool", "i": "INDEX"}[x.kind]
                text = f"f_exp_below({value(x.args[0])})" if x.key in self.up_to_one else _operation(x, value, "REAL")
                add(f"const {kind} c{x.key} = {text};")
                names[x.key] = f"c{x.key}"
            return names[x.key]

        for x in reductions:
            found = value(x.args[0])
            if x.key in self.peaks:
                add(f"h{x.key} = {found};")
            elif x.op == "row_max":
                add(f"v{x.key} = maximum(v{x.key}, {found});")
            elif x.op == "row_squares":
                add(f"v{x.key} += (double){found} * (double){found};")
            else:
                add(f"v{x.key} += {f'{found} ? 1.0 : 0.0' if x.op == 'row_count' else f'(double){found}'};")
        for k, output in stored:
            add(f"y{k} = {value(output.symbol)};")
        add("};")
        self.over_elements(place, read, stored, peaks)
        for x in reductions:
            if x.key in self.peaks:
                rest, count = self.peaks[x.key]
                add(f"p{x.key} = with_nan(of_group(p{x.key}, Peaks()));")
                self.known |= {x.key: f"(double)p{x.key}.most", rest: f"p{x.key}.rest", count: "1.0"}
            elif x.key == self.summed:
                add(f"part += v{x.key};")
            elif x.op == "row_max":
                add(f"v{x.key} = of_group(v{x.key}, Maximum());")
                self.known[x.key] = f"(double)v{x.key}"
            else:
                add(f"v{x.key} = of_group(v{x.key}, Add());")
                self.known[x.key] = f"v{x.key}"

    def over_elements(
        self, place: int, read: list[Symbol], stored: list[tuple[int, Output]], peaks: list[Symbol]
    ) -> None:
        """The loops around `element`."""
        add = self.lines.append

        def call(load: Callable[[Symbol], str], i: str) -> str:
            found = [*(f"z{k}" for k, _ in stored), *(f"h{x.key}[{i}]" for x in peaks)]
            return f"element{place}({', '.join(['j', *map(load, read), *found])});"

        def heights(count: str) -> None:
            for x in peaks:
                add(f"REAL h{x.key}[{count}];")

        def to_peaks() -> None:
            for x in peaks:
                add(f"p{x.key}.add(h{x.key});")

        def converted(x: Symbol, source: str) -> str:
            return f"real({source})" if x.kind == "f" else f"({source} != 0)"

        pointers = [f"r{x.args[0]}" for x in read] + [f"w{k}" for k, _ in stored]
        alike = [f"skew({pointers[0]}) == skew({other})" for other in pointers[1:]]
        add("{")
        if pointers:  # up to where 16 bytes begin, if they begin at the same element in all arrays
            even = " && ".join(alike) or "true"
            add(f"const index_t head = {even} ? smaller(skew({pointers[0]}), columns) : columns;")
        else:
            add("const index_t head = columns;")
        add("const index_t tail = columns - (columns - head) % LANES;")
        if not stored:
            add("#pragma unroll 2")
        add("for (index_t start = head + (index_t)lane() * LANES; start < tail; start += (index_t)GROUP * LANES) {")
        for x in read:
            kind = self.c_type(x.args[0])
            add(f"const Pack<{kind}> b{x.key} = *(const Pack<{kind}>*)(r{x.args[0]} + start);")
        for k, output in stored:
            add(f"Pack<{C_TYPES[output.array.dtype][0]}> q{k};")
        heights("LANES")
        add("#pragma unroll")
        add("for (int i = 0; i < LANES; i++) {")
        add("const INDEX j = (INDEX)start + i;")
        for k, _ in stored:
            add(f"REAL z{k};")
        add(call(lambda x: converted(x, f"b{x.key}.at[i]"), "i"))
        for k, output in stored:
            add(f"q{k}.at[i] = Stored<{C_TYPES[output.array.dtype][0]}>::of(z{k});")
        add("}")
        to_peaks()
        for k, output in stored:
            add(f"*(Pack<{C_TYPES[output.array.dtype][0]}>*)(w{k} + start) = q{k};")
        add("}")
        add("for (index_t i = lane(); i < head + columns - tail; i += GROUP) {")
        add("const INDEX j = (INDEX)(i < head ? i : i - head + tail);")
        heights("1")
        for k, _ in stored:
            add(f"REAL z{k};")
        add(call(lambda x: converted(x, f"r{x.args[0]}[j]"), "0"))
        to_peaks()
        for k, output in stored:
            add(f"w{k}[j] = Stored<{C_TYPES[output.array.dtype][0]}>::of(z{k});")
        add("}")
        add("}")

    def row_value(self, x: Symbol, real: str = "double") -> str:
        """The name or text of what is known of the row, or of the call."""
        if x.op == "const":
            return _constant(x, real)
        if x.key in self.known:
            return self.known[x.key]
        if x.op == "input":
            i = x.args[0]
            text = {"f": f"wide(*r{i})", "b": f"(*r{i} != 0)", "i": f"(index_t)*r{i}"}[x.kind]
        elif x.op == "pick":
            text = self.picked(x)
        else:
            text = _operation(x, self.row_value, "double")
        kind = {"f": "double", "b": "bool", "i": "index_t"}[x.kind]
        self.lines.append(f"const {kind} d{x.key} = {text};")
        self.known[x.key] = f"d{x.key}"
        return self.known[x.key]

    # Elements that are picked out of rows, computed as all elements are

    def read_at(self, x: Symbol, index: Symbol) -> str:
        """The name of an element of an array at an index: NaN (or False) where there is no such element."""
        name = f"k{x.key}_{index.key}"
        if name not in self.picks:
            row, column = f"r{x.args[0]}", self.row_value(index)
            kind, text = "REAL", f"(REAL)picked({row}, {column}, columns)"
            if x.kind == "b":
                kind, text = "bool", f"(is_column({column}, columns) && {row}[{column}] != 0)"
            self.lines.append(f"const {kind} {name} = {text};")
            self.picks.add(name)
        return name

    def picked(self, pick: Symbol) -> str:
        """The text of an expression of elements at an index."""
        of, index = pick.args

        def element(x: Symbol) -> str:
            if x.op == "const":
                return _constant(x, "REAL")
            if x.rank != ELEMENT:
                value = self.row_value(x)
                return f"(REAL){value}" if x.kind == "f" else value
            if x.op == "input":
                return self.read_at(x, index)
            if x.op == "columns":
                return self.row_value(index)
            name = f"k{x.key}_{index.key}"
            if name not in self.picks:
                kind = {"f": "REAL", "b": "bool", "i": "index_t"}[x.kind]
                text = _operation(x, element, "REAL")
                self.lines.append(f"const {kind} {name} = {text};")
                self.picks.add(name)
            return name

        found, inside = element(of), f"is_column({self.row_value(index)}, columns)"
        return f"({found} && {inside})" if pick.kind == "b" else f"({inside} ? (double){found} : not_a_number())"


def function_text(name: str, formula: Callable[..., Any], kinds: str) -> str:
    """A formula of one value as a device function of doubles; `kinds` has "f" or "b" for each argument."""
    _, (found,) = trace(lambda *args: (formula(*args),), [ArrayArgument(ELEMENT, kind) for kind in kinds], rows=False)
    lines: list[str] = []
    names: dict[int, str] = {}

    def value(x: Symbol) -> str:
        if x.op == "input":
            return f"x{x.args[0]}"
        if x.op == "const":
            return _constant(x, "double")
        if x.key not in names:
            lines.append(f"const {'bool' if x.kind == 'b' else 'double'} c{x.key} = {_operation(x, value, 'double')};")
            names[x.key] = f"c{x.key}"
        return names[x.key]

    result = value(found)
    arguments = ", ".join(f"{'bool' if kind == 'b' else 'double'} x{i}" for i, kind in enumerate(kinds))
    return "\n".join([f"__device__ inline double {name}({arguments}) {{", *lines, f"return {result};", "}"]) + "\n"


def _operation(x: Symbol, value: Callable[[Symbol], str], real: str) -> str:
    """One operation on values of its arguments."""
    op = x.op
    found = [value(arg) for arg in x.args if isinstance(arg, Symbol)]
    if op in OPERATORS:
        return f"({found[0]} {OPERATORS[op]} {found[1]})"
    if op == "spread":
        return found[0]
    if op == "float":
        return f"({real}){found[0]}"
    if op in ("neg", "not"):
        return f"({'-' if op == 'neg' else '!'}{found[0]})"
    if op == "where":
        return f"({found[0]} ? {found[1]} : {found[2]})"
    if op == "isnan":
        return f"({found[0]} != {found[0]})"
    if op in (*LIBRARY, "abs", "pow"):
        return f"f_{op}({', '.join(found)})"
    assert op in ("maximum", "minimum"), op
    return f"{op}({found[0]}, {found[1]})"


def _constant(x: Symbol, real: str) -> str:
    value = x.args[0]
    if x.kind == "b":
        return str(value).lower()
    if math.isnan(value):
        return f"({real})not_a_number()"
    if math.isinf(value):
        return f"({real}){'-' if value < 0 else ''}infinity()"
    return f"({real}){value!r}"


def _peaks(plan: Plan, outputs: list[Symbol]) -> tuple[dict[int, tuple[int, int]], set[int]]:
    """Maxima whose sum of exponentials comes out of the same pass: {maximum: (sum, count)}, and exponentials up to 1.

    They are e = e^where(x == maximum, 0, x - maximum), and the sum is that of where(x == maximum, 0, e). The pass has
    the sum of e over all elements but one that is the maximum, and the count is 1 beside it. That is for kernels where
    nothing but sum + (count - 1) reads either.
    """
    found: dict[int, tuple[int, int]] = {}
    up_to_one: set[int] = set()
    later = {x.key: x for group in plan.reduced[1:] for x in group}
    for x in (x for group in plan.reduced for x in group if x.op == "row_max"):
        graph, of = x.graph, x.args[0]
        at_peak = of == x
        e = graph.call("exp", graph.where(at_peak, 0.0, of - x))
        up_to_one.add(e.key)
        rest = graph.make("row_sum", (graph.where(at_peak, 0.0, e),), ROW, "f")
        count = graph.make("row_count", (at_peak,), ROW, "f")
        apart = {x.key for x in below(outputs, through=True, stop={(rest + (count - 1.0)).key})}
        if rest.key in later and count.key in later and not apart & {rest.key, count.key}:
            found[x.key] = (rest.key, count.key)
    return found, up_to_one
