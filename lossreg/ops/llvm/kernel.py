"""A graph as one LLVM function: a few passes over the elements of each row, with what is known of rows in between.

    for each block of rows that this thread claims
        for each row
            pass 0: reductions of what is known -> rows' numbers in float64
            pass 1: reductions that need those, ...
            last pass: elements of the outputs are stored

A row lies in the cache after its first pass. What a pass computes with an expensive function and a later one needs as
well is kept in a scratch row. Reductions add in float64, in an order that depends on nothing but the row's length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from ...formulas.arguments import ELEMENT
from ...formulas.graph import Symbol, below
from ...formulas.passes import Plan
from ...formulas.program import Program
from .gate import SHARED_SLOTS
from .math import MathVectors
from .vectors import STORAGE, Code, Vectors

__all__ = ["HEADER", "function_text", "operation"]

SIZES = ("rows", "columns", "elements", "rows_per_block")
"""The slots of a call that say how much there is to do."""

HEADER = (*SHARED_SLOTS, *SIZES)
"""The first slots of a call, 64 bits each; then a pointer and the bytes between rows for each array; then numbers."""

CLAIMED, OUTSIDE = HEADER.index("claimed"), HEADER.index("outside")

INFINITY, NAN = float("inf"), float("nan")

INDEX_COMPARISONS = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}
"""Comparisons in LLVM, of integers with a sign."""


def function_text(program: Program, bits: int, vector_bytes: int) -> tuple[str, int]:
    """The function `body(call, scratch)`, and how many scratch rows it needs."""
    function = _Function(program, bits, vector_bytes)
    return function.text(), len(function.plan.scratch)


class _Function:
    """Writes the function, from its first line to its last."""

    def __init__(self, program: Program, bits: int, vector_bytes: int) -> None:
        self.arrays, self.outputs, self.numbers = program.arrays, program.outputs, program.numbers
        self.picks = program.picks
        self.plan = Plan(program.outputs)
        self.code = Code()

        # Two registers at a time: while the CPU waits for one result, it works on the other.
        width = 2 * vector_bytes * 8 // bits
        self.vectors = MathVectors(self.code, bits, width, avx512=vector_bytes == 64)
        self.one_element = MathVectors(self.code, bits, 1)
        """For what is picked out of a row, which is computed as all elements are."""
        self.row_number = MathVectors(self.code, 64, 1)

        self.known: dict[int, str] = {}
        """Numbers of the call and of the row that have been computed, by key."""
        self.picked: dict[tuple[int, int], str] = {}
        """Elements at an index, by the keys of both."""
        self.inside: dict[int, str] = {}
        """Whether an index is that of a column, by its key."""

        # Variables and what is read from the call come first, in this order: the text is also the name of the machine
        # code on disk.
        self.sizes = {name: self.argument(HEADER.index(name), "i64") for name in SIZES}
        self.bases: list[str] = []
        self.strides: list[str] = []
        self.read_addresses()

        self.row_end, self.row_slot = self.code.slot("i64"), self.code.slot("i64")
        self.column_slot, self.outside_slot = self.code.slot("i64"), self.code.slot("i64")
        self.code.store("i64", "0", self.outside_slot)

        # Of the row that is computed, once `begin_row` has written their lines.
        self.pointers: list[str] = []
        self.columns = ""

    def text(self) -> str:
        """The whole function."""
        self.claim_rows()
        row = self.begin_row()
        self.read_picks()
        for number in range(self.plan.last + 1):
            if self.plan.reduced[number] or number == self.plan.last:
                _Pass(self, number).write()
        self.store_row_numbers()
        self.end_row(row)
        self.report_outside()
        self.code.add("  ret void")
        return self.code.body()

    def argument(self, place: int, kind: str) -> str:
        """A slot of the call."""
        address = self.code.value(f"getelementptr i64, ptr %call, i64 {place}")
        return self.code.value(f"load {kind}, ptr {address}")

    def read_addresses(self) -> None:
        """Read where arrays begin and how far apart their rows are, and the numbers behind them."""
        place = len(HEADER)
        for _ in range(len(self.arrays) + len(self.outputs)):
            self.bases.append(self.argument(place, "ptr"))
            self.strides.append(self.argument(place + 1, "i64"))
            place += 2
        for number in self.numbers:
            self.known[number.key] = self.argument(place, "double")
            place += 1

    # Rows

    def claim_rows(self) -> None:
        """Claim a block of rows, in one step that no other thread can come into; go to the end when none is left."""
        code = self.code
        counter = code.value(f"getelementptr i64, ptr %call, i64 {CLAIMED}")
        code.branch("claim")

        code.label("claim")
        # "monotonic" orders nothing else: each block is computed by one thread, from what no thread writes.
        block = code.value(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        first = code.value(f"mul i64 {block}, {self.sizes['rows_per_block']}")
        more = code.value(f"icmp slt i64 {first}, {self.sizes['rows']}")
        code.branch_if(more, "claimed_rows", "done")

        code.label("claimed_rows")
        end = code.value(f"add i64 {first}, {self.sizes['rows_per_block']}")
        end = code.call("i64", "llvm.smin.i64", ("i64", end), ("i64", self.sizes["rows"]))
        code.store("i64", end, self.row_end)
        code.store("i64", first, self.row_slot)
        code.branch("row")

    def begin_row(self) -> str:
        """Where the row lies in each array, and how many columns it has; returns its number."""
        code = self.code
        code.label("row")
        row = code.value(f"load i64, ptr {self.row_slot}")
        for base, stride in zip(self.bases, self.strides):
            offset = code.value(f"mul i64 {row}, {stride}")
            self.pointers.append(code.value(f"getelementptr i8, ptr {base}, i64 {offset}"))
        # The last row of a flat array may be shorter.
        before = code.value(f"mul i64 {row}, {self.sizes['columns']}")
        left = code.value(f"sub i64 {self.sizes['elements']}, {before}")
        self.columns = code.call("i64", "llvm.smin.i64", ("i64", left), ("i64", self.sizes["columns"]))
        return row

    def end_row(self, row: str) -> None:
        """Go on to the next row of the block, or to the next block."""
        code = self.code
        following = code.value(f"add i64 {row}, 1")
        code.store("i64", following, self.row_slot)
        again = code.value(f"icmp slt i64 {following}, {code.value(f'load i64, ptr {self.row_end}')}")
        code.branch_if(again, "row", "claim")

    def report_outside(self) -> None:
        """Say in the call whether an index was outside of its row. Threads end here one by one, in any order."""
        code = self.code
        code.label("done")
        if self.picks:
            outside = code.value(f"load i64, ptr {self.outside_slot}")
            report = code.value(f"getelementptr i64, ptr %call, i64 {OUTSIDE}")
            code.value(f"atomicrmw or ptr {report}, i64 {outside} monotonic")

    def input_pointer(self, x: Symbol) -> str:
        """Where the row of an input begins."""
        return self.pointers[list(self.arrays).index(x.args[0])]

    def output_pointer(self, number: int) -> str:
        """Where the row of an output begins."""
        return self.pointers[len(self.arrays) + number]

    # Numbers of the row

    def row_value(self, x: Symbol) -> str:
        """What is known of the row, or of the call."""
        if x.key not in self.known:
            self.known[x.key] = self.new_row_value(x)
        return self.known[x.key]

    def new_row_value(self, x: Symbol) -> str:
        """Read or compute a number of the row."""
        if x.op == "input":
            pointer = self.input_pointer(x)
            return self.row_number.load(self.arrays[x.args[0]].dtype, x.kind, pointer)
        if x.op == "pick":
            return self.picked_value(x)
        return _compute(self.row_number, x, self.row_value)

    def store_row_numbers(self) -> None:
        """Store the outputs that have one number per row."""
        for number, output in enumerate(self.outputs):
            if output.array.rank != ELEMENT:
                value = self.row_value(output.symbol)
                self.row_number.store(output.array.dtype, value, self.output_pointer(number))

    def in_vectors(self, vectors: Vectors, x: Symbol) -> str:
        """A number of the row in all places of a vector, in the type of elements."""
        if x.op == "const" and x.kind == "f":
            return vectors.const(x.args[0])
        value = self.row_value(x)
        if x.kind == "b":
            return vectors.splat(value, "i1")
        if x.kind == "i":
            return self.index_in_vectors(vectors, value)
        if vectors.bits == 32:
            value = self.code.value(f"fptrunc double {value} to float")
        return vectors.splat(value, vectors.scalar)

    def index_in_vectors(self, vectors: Vectors, value: str) -> str:
        """Columns of vectors have 32 bits, that of one element 64."""
        if vectors.width == 1:
            return value
        return vectors.splat(self.code.value(f"trunc i64 {value} to i32"), "i32")

    # Elements that are picked

    def read_picks(self) -> None:
        """Read what is picked before anything of the row is stored: an output may lie where its input lies."""
        for pick in self.picks:
            picked_from, index = pick.args
            for x in below([picked_from]):
                if x.op == "input" and x.rank == ELEMENT:
                    self.picked[x.key, index.key] = self.read_at(x, index)

    def is_inside(self, index: Symbol) -> str:
        """Whether an index is that of a column; that one is not is reported at the end."""
        if index.key not in self.inside:
            code = self.code
            # Without a sign, a negative index is larger than any number of columns.
            inside = code.value(f"icmp ult i64 {self.row_value(index)}, {self.columns}")
            before = code.value(f"load i64, ptr {self.outside_slot}")
            report = code.value(f"select i1 {inside}, i64 {before}, i64 1")
            code.store("i64", report, self.outside_slot)
            self.inside[index.key] = inside
        return self.inside[index.key]

    def read_at(self, x: Symbol, index: Symbol) -> str:
        """An element of an array at an index; the first of the row where there is no such element."""
        code, dtype = self.code, self.arrays[x.args[0]].dtype
        # No memory outside of the row is read, whatever the index is.
        column = code.value(f"select i1 {self.is_inside(index)}, i64 {self.row_value(index)}, i64 0")
        offset = code.value(f"mul i64 {column}, {STORAGE[dtype].size}")
        address = code.value(f"getelementptr i8, ptr {self.input_pointer(x)}, i64 {offset}")
        return self.one_element.load(dtype, x.kind, address)

    def picked_value(self, pick: Symbol) -> str:
        """An expression of elements at an index, as a row's number: NaN (or False) where there is no such element."""
        picked_from, index = pick.args

        def element(x: Symbol) -> str:
            if x.rank != ELEMENT:
                return self.in_vectors(self.one_element, x)
            key = x.key, index.key
            if key not in self.picked:
                self.picked[key] = new_element(x)
            return self.picked[key]

        def new_element(x: Symbol) -> str:
            if x.op == "columns":
                return self.row_value(index)
            return _compute(self.one_element, x, element)

        value, inside = element(picked_from), self.is_inside(index)
        if pick.kind == "b":
            return self.row_number.logical("and", value, inside)
        # Numbers of rows are float64, also those that were computed as elements are.
        if self.one_element.bits == 32:
            value = self.code.value(f"fpext float {value} to double")
        return self.row_number.where(inside, value, self.row_number.const(NAN))


class _Pass:
    """Writes one pass over the elements of a row: whole vectors, and a masked one for the rest."""

    def __init__(self, function: _Function, number: int) -> None:
        self.function, self.code, self.vectors = function, function.code, function.vectors
        self.number = number
        self.stored: list[int] = []
        """The numbers of the outputs whose elements this pass stores: the last one does."""
        if number == function.plan.last:
            self.stored = [i for i, output in enumerate(function.outputs) if output.array.rank == ELEMENT]
        self.accumulators = [ACCUMULATORS[x.op](self.code, self.vectors, x) for x in function.plan.reduced[number]]
        self.row_values = self.in_all_places()

    def in_all_places(self) -> dict[int, str]:
        """The numbers of the row that this pass needs, in vectors: computed before its loop."""
        function, plan = self.function, self.function.plan
        # What an earlier pass kept is read, and what only it needed is needed no more.
        roots = [accumulator.symbol.args[0] for accumulator in self.accumulators]
        roots += [function.outputs[i].symbol for i in self.stored]
        loaded = {key for key in plan.scratch if plan.kept_in[key] < self.number}
        vectors = {}
        for x in below(roots, stop=loaded):
            if x.rank != ELEMENT and x.key not in loaded:
                vectors[x.key] = function.in_vectors(self.vectors, x)
        return vectors

    def write(self) -> None:
        """The loop over whole vectors, the rest, and the results of reductions."""
        code, width, column_slot = self.code, self.vectors.width, self.function.column_slot
        columns = self.function.columns
        # The width is a power of two, so that its negative has the bits of its multiples.
        whole_vectors = code.value(f"and i64 {columns}, {-width}")
        code.store("i64", "0", column_slot)
        head, body, check, tail, end = (code.name(hint) for hint in ("head", "body", "check", "tail", "end"))
        code.branch(head)

        code.label(head)
        column = code.value(f"load i64, ptr {column_slot}")
        more = code.value(f"icmp slt i64 {column}, {whole_vectors}")
        code.branch_if(more, body, check)

        code.label(body)
        self.write_elements(column, None)
        code.store("i64", code.value(f"add i64 {column}, {width}"), column_slot)
        code.branch(head)

        code.label(check)
        some = code.value(f"icmp slt i64 {whole_vectors}, {columns}")
        code.branch_if(some, tail, end)

        code.label(tail)
        left = code.value(f"trunc i64 {code.value(f'sub i64 {columns}, {whole_vectors}')} to i32")
        self.write_elements(whole_vectors, self.vectors.first(left))
        code.branch(end)

        code.label(end)
        for accumulator in self.accumulators:
            self.function.known[accumulator.symbol.key] = accumulator.result()

    def write_elements(self, column: str, mask: str | None) -> None:
        """Reduce and store the elements from a column on."""
        elements = _Elements(self, column, mask)
        for accumulator in self.accumulators:
            accumulator.add(elements.value(accumulator.symbol.args[0]), mask)

        # All is computed before anything is stored, since outputs may lie where inputs lie.
        outputs = self.function.outputs
        values = [elements.value(outputs[i].symbol) for i in self.stored]
        for i, value in zip(self.stored, values):
            dtype = outputs[i].array.dtype
            address = elements.address(self.function.output_pointer(i), dtype)
            self.vectors.store(dtype, value, address, mask)


class _Elements:
    """One vector of the elements of a row, from a column on: all of it, or what a mask selects."""

    def __init__(self, in_pass: _Pass, column: str, mask: str | None) -> None:
        self.function, self.code, self.vectors = in_pass.function, in_pass.code, in_pass.vectors
        self.pass_number = in_pass.number
        self.column, self.mask = column, mask
        # Each vector has names of its own: those of the loop are not known behind it.
        self.values = dict(in_pass.row_values)

    def value(self, x: Symbol) -> str:
        """The value of a symbol, computed where it is first needed."""
        if x.key not in self.values:
            self.values[x.key] = self.new_value(x)
        return self.values[x.key]

    def new_value(self, x: Symbol) -> str:
        """A value that is loaded, kept from an earlier pass, or computed."""
        if x.key in self.function.plan.scratch:
            return self.scratch_value(x)
        if x.op == "input":
            dtype = self.function.arrays[x.args[0]].dtype
            address = self.address(self.function.input_pointer(x), dtype)
            return self.vectors.load(dtype, x.kind, address, self.mask)
        if x.op == "columns":
            first = self.code.value(f"trunc i64 {self.column} to i32")
            kind, first = self.vectors.of("i32"), self.vectors.splat(first, "i32")
            return self.code.value(f"add {kind} {first}, {self.vectors.iota()}")
        return _compute(self.vectors, x, self.value)

    def address(self, pointer: str, dtype: str) -> str:
        """Where the elements lie in an array."""
        offset = self.code.value(f"mul i64 {self.column}, {STORAGE[dtype].size}")
        return self.code.value(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def scratch_value(self, x: Symbol) -> str:
        """A value that the first pass computes and stores, and later ones read."""
        code, plan = self.code, self.function.plan
        size = self.vectors.bits // 8
        # Scratch rows are as long as a row and a vector: no mask is needed at their ends.
        length = code.value(f"add i64 {self.function.sizes['columns']}, {self.vectors.width}")
        start = code.value(f"mul i64 {length}, {plan.scratch[x.key]}")
        offset = code.value(f"mul i64 {code.value(f'add i64 {start}, {self.column}')}, {size}")
        address = code.value(f"getelementptr i8, ptr %scratch, i64 {offset}")
        if plan.kept_in[x.key] < self.pass_number:
            return code.value(f"load {self.vectors.kind}, ptr {address}, align {size}")
        value = _compute(self.vectors, x, self.value)
        code.add(f"  store {self.vectors.kind} {value}, ptr {address}, align {size}")
        return value


class _Accumulator(ABC):
    """A reduction of a row: what it has so far is a variable, which begins when this object is made."""

    def __init__(self, code: Code, vectors: Vectors, symbol: Symbol) -> None:
        self.code, self.vectors, self.symbol = code, vectors, symbol
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Make the variable."""

    @abstractmethod
    def add(self, elements: str, mask: str | None) -> None:
        """Take one more vector of elements; those that the mask leaves out change nothing."""

    @abstractmethod
    def result(self) -> str:
        """The number of the row, in float64."""


class _Count(_Accumulator):
    """How many elements are true: the bits of a vector of bools are counted at once."""

    def begin(self) -> None:
        self.count = self.code.slot("i64")
        self.code.store("i64", "0", self.count)

    def add(self, elements: str, mask: str | None) -> None:
        code, vectors = self.code, self.vectors
        if mask:
            elements = vectors.logical("and", elements, mask)
        # LLVM lets a vector of bools be read as an integer with one bit for each.
        bits_type = f"i{vectors.width}"
        bits = code.value(f"bitcast {vectors.bool} {elements} to {bits_type}")
        ones = code.call(bits_type, f"llvm.ctpop.{bits_type}", (bits_type, bits))
        before = code.value(f"load i64, ptr {self.count}")
        count = code.value(f"add i64 {before}, {code.value(f'zext {bits_type} {ones} to i64')}")
        code.store("i64", count, self.count)

    def result(self) -> str:
        count = self.code.value(f"load i64, ptr {self.count}")
        return self.code.value(f"uitofp i64 {count} to double")


class _Sum(_Accumulator):
    """The sum of the elements, in a vector of float64 whose numbers are added up at the end."""

    def begin(self) -> None:
        self.kind = f"<{self.vectors.width} x double>"
        self.sums = self.code.slot(self.kind)
        self.code.store(self.kind, "zeroinitializer", self.sums)

    def add(self, elements: str, mask: str | None) -> None:
        code, vectors = self.code, self.vectors
        if mask:
            elements = vectors.where(mask, elements, vectors.const(0.0))
        if vectors.bits == 32:
            elements = code.value(f"fpext {vectors.kind} {elements} to {self.kind}")
        terms = self.terms(elements)
        before = code.value(f"load {self.kind}, ptr {self.sums}")
        code.store(self.kind, code.value(f"fadd nsz {self.kind} {before}, {terms}"), self.sums)

    def terms(self, elements: str) -> str:
        """What is added up."""
        return elements

    def result(self) -> str:
        code, width = self.code, self.vectors.width
        total = code.value(f"load {self.kind}, ptr {self.sums}")
        name = f"llvm.vector.reduce.fadd.v{width}f64"
        code.declared.add(f"declare double @{name}(double, {self.kind})")
        # "reassoc" lets LLVM add halves of the vector; without it, it would add one number after the other.
        return code.value(f"call reassoc nsz double @{name}(double 0.0, {self.kind} {total})")


class _Squares(_Sum):
    """The sum of the squares, which float64 holds exactly for elements of float32."""

    def terms(self, elements: str) -> str:
        return self.code.value(f"fmul {self.kind} {elements}, {elements}")


class _Maximum(_Accumulator):
    """The largest element, NaN if there is one: a second variable says so, since no comparison with NaN is true."""

    def begin(self) -> None:
        code, vectors = self.code, self.vectors
        self.largest = code.slot(vectors.kind)
        self.met_nan = code.slot(vectors.bool)
        code.store(vectors.kind, vectors.const(-INFINITY), self.largest)
        code.store(vectors.bool, "zeroinitializer", self.met_nan)

    def add(self, elements: str, mask: str | None) -> None:
        code, vectors = self.code, self.vectors
        # -infinity changes no maximum.
        if mask:
            elements = vectors.where(mask, elements, vectors.const(-INFINITY))
        before = code.value(f"load {vectors.kind}, ptr {self.largest}")
        larger = vectors.where(vectors.gt(elements, before), elements, before)
        code.store(vectors.kind, larger, self.largest)
        met_nan = code.value(f"load {vectors.bool}, ptr {self.met_nan}")
        met_nan = vectors.logical("or", met_nan, vectors.isnan(elements))
        code.store(vectors.bool, met_nan, self.met_nan)

    def result(self) -> str:
        code, vectors = self.code, self.vectors
        largest = code.value(f"load {vectors.kind}, ptr {self.largest}")
        name = f"llvm.vector.reduce.fmax.{vectors.suffix}"
        code.declared.add(f"declare {vectors.scalar} @{name}({vectors.kind})")
        # "nnan": no NaN is among these, since it was never larger.
        largest = code.value(f"call nnan nsz {vectors.scalar} @{name}({vectors.kind} {largest})")
        if vectors.bits == 32:
            largest = code.value(f"fpext float {largest} to double")

        met_nan = code.value(f"load {vectors.bool}, ptr {self.met_nan}")
        met_nan = code.call("i1", f"llvm.vector.reduce.or.v{vectors.width}i1", (vectors.bool, met_nan))
        row_number = Vectors(code, 64, 1)
        return row_number.where(met_nan, row_number.const(NAN), largest)


ACCUMULATORS: dict[str, type[_Accumulator]] = {
    "row_count": _Count,
    "row_sum": _Sum,
    "row_squares": _Squares,
    "row_max": _Maximum,
}
"""The reductions of graphs, by their operation."""


def _compute(vectors: Vectors, x: Symbol, value: Callable[[Symbol], str]) -> str:
    """One operation on values of its arguments."""
    return operation(vectors, x, [value(arg) for arg in x.args if isinstance(arg, Symbol)])


def operation(vectors: Vectors, x: Symbol, values: Sequence[str]) -> str:
    """One operation, with the values of its arguments."""
    op = x.op
    if op == "const":
        return _constant(vectors, x)
    # The same number for each element: all numbers of the row are in all places of the vector already.
    if op == "spread":
        return values[0]
    if op == "float":
        return _as_float(vectors, x.args[0].kind, values[0])
    if op in ("and", "or", "xor"):
        return vectors.logical(op, *values)
    if op == "not":
        return vectors.opposite(values[0])
    if op == "where":
        condition, a, b = values
        kind = vectors.bool if x.kind == "b" else vectors.kind
        return vectors.where(condition, a, b, kind)
    if op in ("maximum", "minimum"):
        return _extreme(vectors, x, values)
    if x.args[0].kind == "i":
        a, b = values
        return vectors.code.value(f"icmp {INDEX_COMPARISONS[op]} {_index_type(vectors)} {a}, {b}")
    # All else is a method of the same name.
    result: str = getattr(vectors, op)(*values)
    return result


def _index_type(vectors: Vectors) -> str:
    if vectors.width == 1:
        return "i64"
    return vectors.of("i32")


def _constant(vectors: Vectors, x: Symbol) -> str:
    value = x.args[0]
    if x.kind == "b":
        return vectors.splat_text("i1", str(value).lower())
    return vectors.const(value)


def _as_float(vectors: Vectors, kind: str, value: str) -> str:
    """True as 1, an index as a number."""
    if kind == "b":
        return vectors.code.value(f"uitofp {vectors.bool} {value} to {vectors.kind}")
    return vectors.code.value(f"sitofp {_index_type(vectors)} {value} to {vectors.kind}")


def _extreme(vectors: Vectors, x: Symbol, values: Sequence[str]) -> str:
    """The larger or smaller of two. Beside a constant fewer instructions are needed, if it is the second one."""
    a, b = values
    b_is_number = _is_constant_number(x.args[1])
    if not b_is_number and _is_constant_number(x.args[0]):
        a, b = b, a
        b_is_number = True
    comparison = {"maximum": "ugt", "minimum": "ult"}[x.op]
    return vectors.extreme(comparison, a, b, b_is_number)


def _is_constant_number(x: Symbol) -> bool:
    """Whether a value is a constant, and not NaN, which alone differs from itself."""
    return bool(x.op == "const" and x.args[0] == x.args[0])
