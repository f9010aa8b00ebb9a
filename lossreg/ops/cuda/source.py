"""A program as one CUDA kernel: a few passes over the elements of each row, by a warp or a block.

    for each row of this group
        pass 0: reductions of what is known -> rows' numbers in float64
        pass 1: reductions that need those, ...
        last pass: elements of the outputs are stored
    the blocks' totals are added up by the block that is last

A row lies in the caches after its first pass, and what a pass computed is computed again rather than kept. The maximum
of a row and its sum of e^(x - maximum) come out of one pass (`Peak` in prelude.cu).

Names in the text are a letter and a number. By the number of an argument or an output: a and o, an array; s and t, its
bytes from row to row; r and w, where the row lies in it; n, a number of the call; z, a result; q, several of them. By
the key of a symbol: d, a number of the row in float64, and e, in the type of elements; v and p, what a reduction has so
far; b, several elements of an array; h, what a `Peak` takes. Within the function of one element: x, what was read; c,
what is computed; y, a result. k: an element at an index.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from ...formulas.arguments import ELEMENT, ROW, ArrayArgument
from ...formulas.graph import LIBRARY, Symbol, below, trace
from ...formulas.passes import Plan
from ...formulas.program import Program

__all__ = [
    "ALIGNMENT",
    "C_TYPES",
    "PRELUDE",
    "QUOTIENT",
    "bytes_read_again",
    "elements_per_read",
    "function_text",
    "kernel_text",
]

PRELUDE, ALIGNMENT, QUOTIENT = (
    (Path(__file__).parent / f"{name}.cu").read_text(encoding="utf-8") for name in ("prelude", "ctc", "quotient")
)

READ_BYTES = 16
"""What a thread reads at a time: the widest load of the hardware."""


class CType(NamedTuple):
    """How a dtype lies in memory."""

    name: str
    size: int
    """In bytes."""


C_TYPES = {
    "float64": CType("double", 8),
    "float32": CType("float", 4),
    "float16": CType("half_t", 2),
    "bfloat16": CType("bfloat_t", 2),
    "bool": CType("unsigned char", 1),
    "int8": CType("signed char", 1),
    "int16": CType("short", 2),
    "int32": CType("int", 4),
    "int64": CType("long long", 8),
    "uint8": CType("unsigned char", 1),
    "uint16": CType("unsigned short", 2),
    "uint32": CType("unsigned", 4),
    "uint64": CType("unsigned long long", 8),
}
"""The dtypes that kernels read and write."""

ROW_TYPES = {"f": "double", "b": "bool", "i": "index_t"}
"""The types of what is known of a row, by its kind."""

ELEMENT_TYPES = {"f": "REAL", "b": "bool", "i": "INDEX"}
"""The types of elements. Columns have 32 bits where they fit: 64 take two instructions for each of those."""

PICKED_TYPES = {"f": "REAL", "b": "bool", "i": "index_t"}
"""The types of elements at an index."""

OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&&", "or": "||", "xor": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip

TEXTS = {
    "spread": "{0}",
    "float": "({real}){0}",
    "neg": "(-{0})",
    "not": "(!{0})",
    "where": "({0} ? {1} : {2})",
    "isnan": "({0} != {0})",
}
"""What other operations are written as."""

# Texts with places for others. What is left empty is no line, and indentation is for those who read this file.

KERNEL = """
extern "C" __global__ void __launch_bounds__(THREADS) run($parameters) {
    $begin_total
    for (index_t row = first_row(); row < rows; row += row_step()) {
        const index_t columns = smaller(elements - row * columns_total, columns_total);
        $row_pointers
        $row
    }
    $end_total
}
"""

# One element of a pass. The compiler puts it into both loops.
ELEMENT_FUNCTION = """
auto element$number = [&]($parameters) {
    $body
};
"""

# The loops around it: LANES elements at a time, from where 16 bytes begin, and what lies before and after one by one.
LOOPS = """
{
    const index_t head = $head;
    const index_t tail = columns - (columns - head) % LANES;
    $unroll
    for (index_t start = head + (index_t)lane() * LANES; start < tail; start += (index_t)GROUP * LANES) {
        $read_packs
        $result_packs
        $peak_inputs_of_pack
        #pragma unroll
        for (int i = 0; i < LANES; i++) {
            const INDEX j = (INDEX)start + i;
            $results
            element$number($arguments_of_pack);
            $results_to_packs
        }
        $add_to_peaks
        $write_packs
    }
    for (index_t i = lane(); i < head + columns - tail; i += GROUP) {
        const INDEX j = (INDEX)(i < head ? i : i - head + tail);
        $peak_inputs_of_one
        $results
        element$number($arguments_of_one);
        $add_to_peaks
        $write_results
    }
}
"""

DEVICE_FUNCTION = """
__device__ inline double $name($parameters) {
    $body
    return $result;
}
"""


def elements_per_read(dtype: str) -> int:
    """How many elements of a dtype a thread reads at a time."""
    return READ_BYTES // C_TYPES[dtype].size


def bytes_read_again(program: Program) -> int:
    """Bytes of a column in all arrays, where there is more than one pass."""
    if Plan(program.outputs).last == 0:
        return 0
    return sum(C_TYPES[array.dtype].size for array in program.arrays.values() if array.rank == ELEMENT)


def kernel_text(program: Program) -> str:
    """The kernel `run`, to be compiled behind PRELUDE.

    Its arguments: rows, columns and elements; address and bytes from row to row of each array, inputs first; the
    numbers; and where there is a total, the blocks' parts and the ticket. Of a flat array the last row may be shorter.
    """
    return _Kernel(program).text()


def function_text(name: str, formula: Callable[..., Any], kinds: str) -> str:
    """A formula of one value as a device function of doubles; `kinds` has "f" or "b" for each argument."""
    arguments = [ArrayArgument(ELEMENT, kind) for kind in kinds]
    _, (value,) = trace(lambda *args: (formula(*args),), arguments, rows=False)
    types = {"f": "double", "b": "bool"}
    lines: list[str] = []
    names: dict[int, str] = {}

    def text_of(x: Symbol) -> str:
        if x.op == "input":
            return f"x{x.args[0]}"
        if x.op == "const":
            return _constant(x, "double")
        if x.key not in names:
            lines.append(f"const {types[x.kind]} c{x.key} = {_operation(x, text_of, 'double')};")
            names[x.key] = f"c{x.key}"
        return names[x.key]

    result = text_of(value)
    parameters = ", ".join(f"{types[kind]} x{i}" for i, kind in enumerate(kinds))
    return _joined(_filled(DEVICE_FUNCTION, name=name, parameters=parameters, body=lines, result=result))


def _filled(template: str, **parts: str | Sequence[str]) -> list[str]:
    """The lines of a template with its places filled by texts, or by lines."""
    # Blank lines are places that stay empty, and are left out; the compiler needs no indentation.
    texts = {name: part if isinstance(part, str) else "\n".join(part) for name, part in parts.items()}
    lines = [line.strip() for line in Template(template).substitute(texts).splitlines()]
    return [line for line in lines if line]


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


class _Kernel:
    """Writes the kernel."""

    def __init__(self, program: Program) -> None:
        self.program, self.arrays, self.outputs = program, program.arrays, program.outputs
        self.plan = Plan(program.outputs)
        self.fusion = _find_peaks(self.plan, [output.symbol for output in program.outputs])
        self.lines: list[str] = []
        """What is done for a row."""
        self.known = {x.key: f"n{x.args[0]}" for x in program.numbers}
        """Names of the numbers of the call and of the row, by key."""
        self.picked: set[str] = set()
        """Names of elements at an index."""

        self.total: int | None = None
        """The number of the output that is the total of the call."""
        # A formula has one value, so there is one at most.
        for k, output in enumerate(self.outputs):
            if output.total:
                self.total = k
        self.row_outputs = [k for k, output in enumerate(self.outputs) if output.array.rank == ROW]
        """The numbers of the outputs that have one number per row."""
        self.summed: int | None = None
        """The key of the total, where that is the sum of all elements: threads add up their own."""
        if self.is_sum_of_elements():
            self.summed = self.outputs[self.row_outputs.pop()].symbol.key

    def is_sum_of_elements(self) -> bool:
        """Whether the total is the sum of the elements, and needs no number of a row."""
        if self.total is None or self.plan.last > 0:
            return False
        return self.row_outputs == [self.total] and self.outputs[self.total].symbol.op == "row_sum"

    def text(self) -> str:
        """The whole kernel."""
        # In the order of the text: each names what the ones before have computed.
        self.read_picks()
        self.write_passes()
        self.write_row_outputs()

        begin_total = end_total = ""
        if self.total is not None:
            begin_total = "double part = 0.0;"
            end_total = f"add_up(part, parts, ticket, (double*)o{self.total});"
        lines = _filled(
            KERNEL,
            parameters=", ".join(self.parameters()),
            begin_total=begin_total,
            row_pointers=self.row_pointers(),
            row=self.lines,
            end_total=end_total,
        )
        return _joined(lines)

    def parameters(self) -> list[str]:
        """The parameters of the kernel, each with its type."""
        # All have 8 bytes, so that the host packs them without gaps.
        parameters = ["index_t rows", "index_t columns_total", "index_t elements"]
        for i in self.arrays:
            parameters += [f"const void* a{i}", f"index_t s{i}"]
        for k in range(len(self.outputs)):
            parameters += [f"void* o{k}", f"index_t t{k}"]
        parameters += [f"double n{x.args[0]}" for x in self.program.numbers]
        if self.total is not None:
            parameters += ["double* parts", "unsigned* ticket"]
        return parameters

    def row_pointers(self) -> list[str]:
        """Where the row lies in each array; the total has one number for all."""
        lines = []
        for i, array in self.arrays.items():
            # An array of rank 0 has one number for the whole call.
            kind = self.input_type(i)
            row = f"(const {kind}*)a{i}"
            if array.rank:
                row = f"row_of<{kind}>(a{i}, row, s{i})"
            lines.append(f"const {kind}* r{i} = {row};")
        for k, output in enumerate(self.outputs):
            if not output.total:
                kind = self.output_type(k)
                lines.append(f"{kind}* w{k} = row_of<{kind}>(o{k}, row, t{k});")
        return lines

    def input_type(self, i: int) -> str:
        """The type of an input in memory."""
        return C_TYPES[self.arrays[i].dtype].name

    def output_type(self, k: int) -> str:
        """The type of an output in memory."""
        return C_TYPES[self.outputs[k].array.dtype].name

    def read_picks(self) -> None:
        """Read what is picked before anything is stored: an output may lie where its input lies."""
        for pick in self.program.picks:
            picked_from, index = pick.args
            for x in below([picked_from]):
                if x.op == "input" and x.rank == ELEMENT:
                    self.read_at(x, index)

    def write_passes(self) -> None:
        """The passes that have something to do: a `Peak` may have done it before."""
        for number in range(self.plan.last + 1):
            is_last = number == self.plan.last
            if is_last and self.program.picks:
                # No thread stores before all threads have read what is picked.
                self.lines.append("wait();")
            if is_last or any(x.key not in self.known for x in self.plan.reduced[number]):
                _Pass(self, number).write()

    def write_row_outputs(self) -> None:
        """Store the numbers of the row, by one thread of its group."""
        # All threads compute them, which takes no longer. That adds lines, which must lie in front of the `if`.
        values = [(k, self.row_value(self.outputs[k].symbol)) for k in self.row_outputs]
        if not values:
            return
        self.lines.append("if (lane() == 0) {")
        for k, value in values:
            if k == self.total:
                self.lines.append(f"part += {value};")
            else:
                self.lines.append(f"*w{k} = Stored<{self.output_type(k)}>::of({value});")
        self.lines.append("}")

    # Numbers of the row

    def row_value(self, x: Symbol) -> str:
        """The name or text of what is known of the row, or of the call."""
        if x.op == "const":
            return _constant(x, "double")
        if x.key not in self.known:
            text = self.row_text(x)
            self.lines.append(f"const {ROW_TYPES[x.kind]} d{x.key} = {text};")
            self.known[x.key] = f"d{x.key}"
        return self.known[x.key]

    def row_text(self, x: Symbol) -> str:
        """How a number of the row is read or computed."""
        # An input of a row or of the call is read as it lies in memory, by all threads of the group.
        if x.op == "pick":
            return self.picked_text(x)
        if x.op != "input":
            return _operation(x, self.row_value, "double")
        row = f"*r{x.args[0]}"
        return {"f": f"wide({row})", "b": f"({row} != 0)", "i": f"(index_t){row}"}[x.kind]

    # Elements that are picked out of rows, computed as all elements are

    def read_at(self, x: Symbol, index: Symbol) -> str:
        """The name of an element of an array at an index: NaN (or False) where there is no such element."""
        row, column = f"r{x.args[0]}", self.row_value(index)
        text = f"(REAL)picked({row}, {column}, columns)"
        if x.kind == "b":
            text = f"(is_column({column}, columns) && {row}[{column}] != 0)"
        kind = PICKED_TYPES[x.kind]
        return self.name_at(x, index, kind, lambda: text)

    def name_at(self, x: Symbol, index: Symbol, kind: str, text: Callable[[], str]) -> str:
        """The name of a value at an index, which is computed where it is first needed."""
        name = f"k{x.key}_{index.key}"
        if name not in self.picked:
            self.lines.append(f"const {kind} {name} = {text()};")
            self.picked.add(name)
        return name

    def picked_text(self, pick: Symbol) -> str:
        """The text of an expression of elements at an index."""
        picked_from, index = pick.args

        def element(x: Symbol) -> str:
            if x.op == "const":
                return _constant(x, "REAL")
            # Numbers of the row are rounded to the type of elements, as in passes.
            if x.rank != ELEMENT:
                value = self.row_value(x)
                return f"(REAL){value}" if x.kind == "f" else value
            if x.op == "input":
                return self.read_at(x, index)
            if x.op == "columns":
                return self.row_value(index)
            return self.name_at(x, index, PICKED_TYPES[x.kind], lambda: _operation(x, element, "REAL"))

        value = element(picked_from)
        inside = f"is_column({self.row_value(index)}, columns)"
        if pick.kind == "b":
            return f"({value} && {inside})"
        return f"({inside} ? (double){value} : not_a_number())"


class _Pass:
    """Writes one pass over the elements of a row: what is done for one element, and the loops around it."""

    def __init__(self, kernel: _Kernel, number: int) -> None:
        self.kernel, self.number = kernel, number
        self.reductions = [_reduction(kernel, x) for x in kernel.plan.reduced[number] if x.key not in kernel.known]
        self.peaks = [x for x in self.reductions if isinstance(x, _PeakReduction)]
        self.stored: list[int] = []
        """The numbers of the outputs whose elements this pass stores: the last one does."""
        if number == kernel.plan.last:
            self.stored = [k for k, output in enumerate(kernel.outputs) if output.array.rank == ELEMENT]

        # All that is computed here; what the row or the call knows is among it, and not what it was computed from.
        roots = [reduction.symbol.args[0] for reduction in self.reductions]
        roots += [kernel.outputs[k].symbol for k in self.stored]
        self.symbols = below(roots)
        self.read = [x for x in self.symbols if x.op == "input" and x.rank == ELEMENT]
        """The arrays whose elements are read."""

    def write(self) -> None:
        """Add the pass to the lines of the kernel."""
        if not self.symbols:
            return
        lines = self.kernel.lines
        self.write_row_numbers()
        lines += [reduction.declaration() for reduction in self.reductions]
        lines += _ElementFunction(self).lines()
        lines += self.loops()
        for reduction in self.reductions:
            lines += reduction.end()

    def write_row_numbers(self) -> None:
        """The numbers of the row that elements need, in the type of elements."""
        # Bools have one type everywhere, and constants are written where they are used. An index that is no column
        # must stay none when it is cut to fewer bits: `column` sees to that.
        for x in self.symbols:
            if x.rank == ELEMENT:
                continue
            name = f"e{x.key}_{self.number}"
            if x.kind == "b":
                self.kernel.row_value(x)
            elif x.kind == "i":
                value = self.kernel.row_value(x)
                self.kernel.lines.append(f"const INDEX {name} = column({value});")
            elif x.op != "const":
                value = self.kernel.row_value(x)
                self.kernel.lines.append(f"const REAL {name} = (REAL){value};")

    def loops(self) -> list[str]:
        """The loops over the elements."""
        return _filled(
            LOOPS,
            number=str(self.number),
            head=self.head(),
            # Where nothing is stored, twice as many reads under way hide more of the time that memory takes.
            unroll="" if self.stored else "#pragma unroll 2",
            read_packs=[self.read_pack(x) for x in self.read],
            arguments_of_pack=self.arguments([f"b{x.key}.at[i]" for x in self.read], "i"),
            arguments_of_one=self.arguments([f"r{x.args[0]}[j]" for x in self.read], "0"),
            **self.result_parts(),
            **self.peak_parts(),
        )

    def read_pack(self, x: Symbol) -> str:
        """The line that reads several elements of an array at a time."""
        pack = f"const Pack<{self.kernel.input_type(x.args[0])}>"
        return f"{pack} b{x.key} = *({pack}*)(r{x.args[0]} + start);"

    def result_parts(self) -> dict[str, list[str]]:
        """The parts of the loops that store elements of outputs."""
        outputs = [(k, self.kernel.output_type(k)) for k in self.stored]
        return {
            "result_packs": [f"Pack<{kind}> q{k};" for k, kind in outputs],
            "results": [f"REAL z{k};" for k, _ in outputs],
            "results_to_packs": [f"q{k}.at[i] = Stored<{kind}>::of(z{k});" for k, kind in outputs],
            "write_packs": [f"*(Pack<{kind}>*)(w{k} + start) = q{k};" for k, kind in outputs],
            "write_results": [f"w{k}[j] = Stored<{kind}>::of(z{k});" for k, kind in outputs],
        }

    def peak_parts(self) -> dict[str, list[str]]:
        """The parts of the loops that find maxima and their sums."""
        return {
            "peak_inputs_of_pack": [f"REAL {peak.input}[LANES];" for peak in self.peaks],
            "peak_inputs_of_one": [f"REAL {peak.input}[1];" for peak in self.peaks],
            "add_to_peaks": [f"{peak.name}.add({peak.input});" for peak in self.peaks],
        }

    def head(self) -> str:
        """How many elements lie before the first that is read with others.

        That is where 16 bytes begin, if they begin at the same element in all arrays; else all are read one by one.
        """
        pointers = [f"r{x.args[0]}" for x in self.read] + [f"w{k}" for k in self.stored]
        if not pointers:
            return "columns"
        first = f"skew({pointers[0]})"
        alike = " && ".join(f"{first} == skew({pointer})" for pointer in pointers[1:])
        return f"{alike or 'true'} ? smaller({first}, columns) : columns"

    def arguments(self, sources: list[str], i: str) -> str:
        """The arguments for the function of one element: number i of those that are computed together."""
        # Bytes of bools may hold any number that is not 0.
        arguments = ["j"]
        for x, source in zip(self.read, sources):
            arguments.append(f"real({source})" if x.kind == "f" else f"({source} != 0)")
        arguments += [f"z{k}" for k in self.stored]
        arguments += [f"{peak.input}[{i}]" for peak in self.peaks]
        return ", ".join(arguments)


class _ElementFunction:
    """Writes what a pass does for one element, as a function within the kernel."""

    def __init__(self, in_pass: _Pass) -> None:
        self.kernel, self.in_pass = in_pass.kernel, in_pass
        self.body: list[str] = []
        self.names = {x.key: f"x{x.key}" for x in in_pass.read}
        """Names of values, by the keys of symbols."""

    def lines(self) -> list[str]:
        """The function."""
        for reduction in self.in_pass.reductions:
            self.body.append(reduction.update(self.value(reduction.symbol.args[0])))
        for k in self.in_pass.stored:
            self.body.append(f"y{k} = {self.value(self.kernel.outputs[k].symbol)};")
        # A pass has a function of its own name, since all are within one kernel.
        number = str(self.in_pass.number)
        return _filled(ELEMENT_FUNCTION, number=number, parameters=", ".join(self.parameters()), body=self.body)

    def parameters(self) -> list[str]:
        """The column, what was read, and where results belong."""
        parameters = ["const INDEX j"]
        for x in self.in_pass.read:
            parameters.append(f"REAL x{x.key}" if x.kind == "f" else f"bool x{x.key}")
        parameters += [f"REAL& y{k}" for k in self.in_pass.stored]
        parameters += [f"REAL& {peak.input}" for peak in self.in_pass.peaks]
        return parameters

    def value(self, x: Symbol) -> str:
        """The name or text of a value of the element."""
        if x.op == "const":
            return _constant(x, "REAL")
        # What `write_row_numbers` has named before the loops.
        if x.rank != ELEMENT:
            if x.kind == "b":
                return self.kernel.row_value(x)
            return f"e{x.key}_{self.in_pass.number}"
        if x.op == "columns":
            return "j"
        if x.key not in self.names:
            text = self.text_of(x)
            self.body.append(f"const {ELEMENT_TYPES[x.kind]} c{x.key} = {text};")
            self.names[x.key] = f"c{x.key}"
        return self.names[x.key]

    def text_of(self, x: Symbol) -> str:
        """How a value is computed."""
        if x.key in self.kernel.fusion.up_to_one:
            return f"f_exp_below({self.value(x.args[0])})"
        return _operation(x, self.value, "REAL")


class _Reduction(ABC):
    """A reduction of a row: each thread has a variable for what it met, and the group brings these together."""

    def __init__(self, kernel: _Kernel, symbol: Symbol) -> None:
        self.kernel, self.symbol = kernel, symbol
        self.name = f"v{symbol.key}"

    @abstractmethod
    def declaration(self) -> str:
        """The line that makes the variable."""

    @abstractmethod
    def update(self, element: str) -> str:
        """The line that takes one more element."""

    @abstractmethod
    def end(self) -> list[str]:
        """The lines that bring the variables together. The result is known from there on."""


class _PeakReduction(_Reduction):
    """A maximum together with its sum of exponentials: see `_find_peaks`."""

    def __init__(self, kernel: _Kernel, symbol: Symbol) -> None:
        super().__init__(kernel, symbol)
        self.name, self.input = f"p{symbol.key}", f"h{symbol.key}"

    def declaration(self) -> str:
        return f"Peak {self.name} = no_peak();"

    def update(self, element: str) -> str:
        # A `Peak` takes all elements at once that are read at a time.
        return f"{self.input} = {element};"

    def end(self) -> list[str]:
        # One element is the maximum, and is not in the sum; others that are equal to it are, each as e^0 = 1.
        sum_except_max, count = self.kernel.fusion.peaks[self.symbol.key]
        self.kernel.known[self.symbol.key] = f"(double){self.name}.row_max"
        self.kernel.known[sum_except_max] = f"{self.name}.sum_except_max"
        self.kernel.known[count] = "1.0"
        return [f"{self.name} = with_nan(of_group({self.name}, Peaks()));"]


class _Maximum(_Reduction):
    """The largest element, NaN if there is one."""

    def declaration(self) -> str:
        return f"REAL {self.name} = (REAL)-infinity();"

    def update(self, element: str) -> str:
        return f"{self.name} = maximum({self.name}, {element});"

    def end(self) -> list[str]:
        self.kernel.known[self.symbol.key] = f"(double){self.name}"
        return [f"{self.name} = of_group({self.name}, Maximum());"]


class _Sum(_Reduction):
    """The sum of the elements, in float64."""

    def declaration(self) -> str:
        return f"double {self.name} = 0.0;"

    def update(self, element: str) -> str:
        return f"{self.name} += {self.term(element)};"

    def term(self, element: str) -> str:
        """What is added up."""
        return f"(double){element}"

    def end(self) -> list[str]:
        # The parts of threads are added up once, at the end of the kernel, and not for each row.
        if self.symbol.key == self.kernel.summed:
            return [f"part += {self.name};"]
        self.kernel.known[self.symbol.key] = self.name
        return [f"{self.name} = of_group({self.name}, Add());"]


class _Squares(_Sum):
    """The sum of the squares."""

    def term(self, element: str) -> str:
        return f"(double){element} * (double){element}"


class _Count(_Sum):
    """How many elements are true."""

    def term(self, element: str) -> str:
        return f"{element} ? 1.0 : 0.0"


REDUCTIONS: dict[str, type[_Reduction]] = {
    "row_sum": _Sum,
    "row_squares": _Squares,
    "row_count": _Count,
    "row_max": _Maximum,
}
"""The reductions of graphs, by their operation."""


def _reduction(kernel: _Kernel, x: Symbol) -> _Reduction:
    if x.key in kernel.fusion.peaks:
        return _PeakReduction(kernel, x)
    return REDUCTIONS[x.op](kernel, x)


def _operation(x: Symbol, text_of: Callable[[Symbol], str], real: str) -> str:
    """One operation on values of its arguments."""
    # All is between parentheses: operators of C bind in another way than those of Python.
    op = x.op
    values = [text_of(arg) for arg in x.args if isinstance(arg, Symbol)]
    if op in OPERATORS:
        return f"({values[0]} {OPERATORS[op]} {values[1]})"
    if op in (*LIBRARY, "abs", "pow"):
        return f"f_{op}({', '.join(values)})"
    if op in ("maximum", "minimum"):
        return f"{op}({values[0]}, {values[1]})"
    return TEXTS[op].format(*values, real=real)


def _constant(x: Symbol, real: str) -> str:
    value: Any = x.args[0]
    if x.kind == "b":
        return str(value).lower()
    # C has no literals for these. `repr` has as many digits as give the same bits again.
    if math.isnan(value):
        return f"({real})not_a_number()"
    if math.isinf(value):
        sign = "-" if value < 0 else ""
        return f"({real}){sign}infinity()"
    return f"({real}){value!r}"


class _Fusion(NamedTuple):
    """What comes out of the pass of a maximum beside it."""

    peaks: dict[int, tuple[int, int]]
    """The maxima whose sum of exponentials comes out of the same pass: {maximum: (sum, count)}, by keys."""
    up_to_one: set[int]
    """The exponentials of numbers that are not above 0, which have a faster function."""


def _find_peaks(plan: Plan, outputs: list[Symbol]) -> _Fusion:
    """Find the maxima whose sum of exponentials can come out of the same pass.

    The exponentials are e = e^where(x == maximum, 0, x - maximum), and the sum is that of where(x == maximum, 0, e).
    The pass has the sum of e over all elements but one that is the maximum, and the count is 1 beside it. So it can be
    done where nothing but sum + (count - 1) reads either.
    """
    fusion = _Fusion({}, set())
    keys_of_later_passes = {x.key for group in plan.reduced[1:] for x in group}
    maxima = [x for group in plan.reduced for x in group if x.op == "row_max"]
    for maximum in maxima:
        # Making a symbol that the formula has made gives that one: so its key says whether it is needed.
        graph, x = maximum.graph, maximum.args[0]
        # Beside a maximum that is infinite, x - maximum is NaN where x is the maximum: so 0 is chosen there.
        is_maximum = x == maximum
        e = graph.call("exp", graph.where(is_maximum, 0.0, x - maximum))
        fusion.up_to_one.add(e.key)

        sum_except_max = graph.make("row_sum", (graph.where(is_maximum, 0.0, e),), ROW, "f")
        count = graph.make("row_count", (is_maximum,), ROW, "f")
        # `stop` hides what is read through the sum of both: is either still seen, something else reads it.
        both = {sum_except_max.key, count.key}
        together = sum_except_max + (count - 1.0)
        read_elsewhere = {symbol.key for symbol in below(outputs, through=True, stop={together.key})}
        if both <= keys_of_later_passes and not both & read_elsewhere:
            fusion.peaks[maximum.key] = (sum_except_max.key, count.key)
    return fusion
