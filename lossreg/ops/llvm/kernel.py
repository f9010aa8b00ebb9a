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

from collections.abc import Sequence

from ...formulas.arguments import ELEMENT
from ...formulas.graph import Symbol, below
from ...formulas.passes import Plan
from ...formulas.program import Program
from .gate import SHARED_SLOTS
from .math import MathLanes
from .vectors import STORAGE, Code, Lanes

__all__ = ["HEADER", "function_text", "operation"]

HEADER = (*SHARED_SLOTS, "rows", "columns", "elements", "rows_a_claim")
"""The first slots of a call, 64 bits each; then a pointer and the bytes between rows for each array; then numbers."""

CLAIMED, OUTSIDE = HEADER.index("claimed"), HEADER.index("outside")


class _Function:
    def __init__(self, program: Program, bits: int, vector_bytes: int) -> None:
        self.arrays, self.outputs, self.numbers = program.arrays, program.outputs, program.numbers
        self.code = Code()
        self.lanes = MathLanes(self.code, bits, 2 * vector_bytes * 8 // bits, avx512=vector_bytes == 64)
        self.element_lanes = MathLanes(self.code, bits, 1)
        """One element: what is picked out of a row is computed as all elements are."""
        self.row_lanes = MathLanes(self.code, 64, 1)
        self.known: dict[int, str] = {}
        """Numbers and rows' numbers that have been computed, by key."""
        self.pointers: dict[int, str] = {}
        self.picked: dict[tuple[int, int], str] = {}
        """Elements at an index, by the keys of both."""
        self.inside: dict[int, str] = {}
        """Whether an index is that of a column, by its key."""
        self.plan = Plan(program.outputs)
        self.picks = program.picks

    def text(self) -> str:
        code = self.code
        header = {}
        for i, what in enumerate(HEADER[len(SHARED_SLOTS) :], len(SHARED_SLOTS)):
            header[what] = self.argument(i, "i64")
        places = len(HEADER)
        bases, strides = {}, {}
        count = len(self.arrays) + len(self.outputs)
        for place in range(count):
            bases[place] = self.argument(places + 2 * place, "ptr")
            strides[place] = self.argument(places + 2 * place + 1, "i64")
        for place, number in enumerate(self.numbers):
            self.known[number.key] = self.argument(places + 2 * count + place, "double")
        self.columns_total = header["columns"]
        claimed, row = code.slot("i64"), code.slot("i64")
        self.column, self.outside = code.slot("i64"), code.slot("i64")
        code.add(f"  store i64 0, ptr {self.outside}")
        counter = code.value(f"getelementptr i64, ptr %call, i64 {CLAIMED}")
        code.add("  br label %claim")
        code.add("claim:")
        block = code.value(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        first = code.value(f"mul i64 {block}, {header['rows_a_claim']}")
        more = code.value(f"icmp slt i64 {first}, {header['rows']}")
        code.add(f"  br i1 {more}, label %claimed_rows, label %done")
        code.add("claimed_rows:")
        end = code.value(f"add i64 {first}, {header['rows_a_claim']}")
        end = code.call("i64", "llvm.smin.i64", ("i64", end), ("i64", header["rows"]))
        code.add(f"  store i64 {end}, ptr {claimed}")
        code.add(f"  store i64 {first}, ptr {row}")
        code.add("  br label %row")
        code.add("row:")
        current = code.value(f"load i64, ptr {row}")
        for place in range(count):
            offset = code.value(f"mul i64 {current}, {strides[place]}")
            self.pointers[place] = code.value(f"getelementptr i8, ptr {bases[place]}, i64 {offset}")
        before = code.value(f"mul i64 {current}, {header['columns']}")
        left = code.value(f"sub i64 {header['elements']}, {before}")
        self.columns = code.call("i64", "llvm.smin.i64", ("i64", left), ("i64", header["columns"]))
        self.read_picks()
        for place in range(self.plan.last + 1):
            if self.plan.reduced[place] or place == self.plan.last:
                self.loop(place)
        for target, output in enumerate(self.outputs):
            if output.array.rank != ELEMENT:
                self.row_lanes.store(output.array.dtype, self.row_value(output.symbol), self.target(target))
        following = code.value(f"add i64 {current}, 1")
        code.add(f"  store i64 {following}, ptr {row}")
        again = code.value(f"icmp slt i64 {following}, {code.value(f'load i64, ptr {claimed}')}")
        code.add(f"  br i1 {again}, label %row, label %claim")
        code.add("done:")
        if self.picks:
            outside = code.value(f"load i64, ptr {self.outside}")
            report = code.value(f"getelementptr i64, ptr %call, i64 {OUTSIDE}")
            code.value(f"atomicrmw or ptr {report}, i64 {outside} monotonic")
        code.add("  ret void")
        top = ["define internal void @body(ptr noalias %call, ptr noalias %scratch) noinline {", "entry:", *code.slots]
        return "\n".join([*sorted(code.declared), *top, *code.lines, "}"]) + "\n"

    def argument(self, place: int, kind: str) -> str:
        address = self.code.value(f"getelementptr i64, ptr %call, i64 {place}")
        return self.code.value(f"load {kind}, ptr {address}")

    def target(self, place: int) -> str:
        return self.pointers[len(self.arrays) + place]

    def loop(self, place: int) -> None:
        """One pass over the elements of a row."""
        code, lanes = self.code, self.lanes
        reductions, stored = self.plan.reduced[place], place == self.plan.last
        width = lanes.width
        sums: dict[int, str] = {}
        wide = f"<{width} x double>"
        for x in reductions:
            if x.op == "row_count":
                sums[x.key] = code.slot("i64")
                code.add(f"  store i64 0, ptr {sums[x.key]}")
            elif x.op != "row_max":
                sums[x.key] = code.slot(wide)
                code.add(f"  store {wide} zeroinitializer, ptr {sums[x.key]}")
            else:
                sums[x.key] = code.slot(lanes.kind)
                sums[-x.key - 1] = code.slot(lanes.bool)  # whether there was a NaN
                code.add(f"  store {lanes.kind} {lanes.const(float('-inf'))}, ptr {sums[x.key]}")
                code.add(f"  store {lanes.bool} zeroinitializer, ptr {sums[-x.key - 1]}")
        roots = [x.args[0] for x in reductions]
        if stored:
            roots += [o.symbol for o in self.outputs if o.array.rank == ELEMENT]
        loaded = {key for key in self.plan.scratch if self.plan.kept_in[key] < place}
        splats: dict[int, str] = {}
        for x in below(roots, stop=loaded):
            if x.rank != ELEMENT and x.key not in loaded:
                splats[x.key] = self.in_lanes(lanes, x)
        full = code.value(f"and i64 {self.columns}, {-width}")
        code.add(f"  store i64 0, ptr {self.column}")
        head, body, check, tail, end = (code.name(x) for x in ("head", "body", "check", "tail", "end"))
        code.add(f"  br label %{head}\n{head}:")
        j = code.value(f"load i64, ptr {self.column}")
        code.add(f"  br i1 {code.value(f'icmp slt i64 {j}, {full}')}, label %{body}, label %{check}\n{body}:")
        self.block(place, reductions, stored, sums, splats, j, None)
        code.add(f"  store i64 {code.value(f'add i64 {j}, {width}')}, ptr {self.column}")
        code.add(f"  br label %{head}\n{check}:")
        some = code.value(f"icmp slt i64 {full}, {self.columns}")
        code.add(f"  br i1 {some}, label %{tail}, label %{end}\n{tail}:")
        left = code.value(f"trunc i64 {code.value(f'sub i64 {self.columns}, {full}')} to i32")
        mask = code.value(f"icmp slt {lanes.of('i32')} {lanes.iota()}, {lanes.splat(left, 'i32')}")
        self.block(place, reductions, stored, sums, splats, full, mask)
        code.add(f"  br label %{end}\n{end}:")
        for x in reductions:
            if x.op == "row_count":
                count = code.value(f"load i64, ptr {sums[x.key]}")
                self.known[x.key] = code.value(f"uitofp i64 {count} to double")
            elif x.op != "row_max":
                total = code.value(f"load {wide}, ptr {sums[x.key]}")
                name = f"llvm.vector.reduce.fadd.v{width}f64"
                code.declared.add(f"declare double @{name}(double, {wide})")
                self.known[x.key] = code.value(f"call reassoc nsz double @{name}(double 0.0, {wide} {total})")
            else:
                largest = code.value(f"load {lanes.kind}, ptr {sums[x.key]}")
                name = f"llvm.vector.reduce.fmax.{lanes.suffix}"  # NaN has been seen to
                code.declared.add(f"declare {lanes.scalar} @{name}({lanes.kind})")
                largest = code.value(f"call nnan nsz {lanes.scalar} @{name}({lanes.kind} {largest})")
                if lanes.bits == 32:
                    largest = code.value(f"fpext float {largest} to double")
                bad = code.value(f"load {lanes.bool}, ptr {sums[-x.key - 1]}")
                bad = code.call("i1", f"llvm.vector.reduce.or.v{width}i1", (lanes.bool, bad))
                self.known[x.key] = self.row_lanes.where(bad, self.row_lanes.const(float("nan")), largest)

    def block(
        self,
        place: int,
        reductions: Sequence[Symbol],
        stored: bool,
        sums: dict[int, str],
        splats: dict[int, str],
        j: str,
        mask: str | None,
    ) -> None:
        """The lanes at column j; all, or those of the mask."""
        code, lanes = self.code, self.lanes
        values = dict(splats)

        def element(x: Symbol) -> str:
            if x.key not in values:
                values[x.key] = self.element(x, place, j, mask, element)
            return values[x.key]

        for x in reductions:
            found = element(x.args[0])
            if x.op == "row_count":
                found = lanes.logical("and", found, mask) if mask else found
                whole = f"i{lanes.width}"
                bits = code.value(f"bitcast {lanes.bool} {found} to {whole}")
                ones = code.call(whole, f"llvm.ctpop.{whole}", (whole, bits))
                before = code.value(f"load i64, ptr {sums[x.key]}")
                ones = code.value(f"add i64 {before}, {code.value(f'zext {whole} {ones} to i64')}")
                code.add(f"  store i64 {ones}, ptr {sums[x.key]}")
            elif x.op != "row_max":
                found = lanes.where(mask, found, lanes.const(0.0)) if mask else found
                wide = f"<{lanes.width} x double>"
                if lanes.bits == 32:
                    found = code.value(f"fpext {lanes.kind} {found} to {wide}")
                if x.op == "row_squares":
                    found = code.value(f"fmul {wide} {found}, {found}")
                before = code.value(f"load {wide}, ptr {sums[x.key]}")
                code.add(f"  store {wide} {code.value(f'fadd nsz {wide} {before}, {found}')}, ptr {sums[x.key]}")
            else:
                found = lanes.where(mask, found, lanes.const(float("-inf"))) if mask else found
                before = code.value(f"load {lanes.kind}, ptr {sums[x.key]}")
                larger = lanes.where(lanes.gt(found, before), found, before)
                code.add(f"  store {lanes.kind} {larger}, ptr {sums[x.key]}")
                bad = code.value(f"load {lanes.bool}, ptr {sums[-x.key - 1]}")
                bad = lanes.logical("or", bad, lanes.isnan(found))
                code.add(f"  store {lanes.bool} {bad}, ptr {sums[-x.key - 1]}")
        if stored:
            found_outputs = [
                (i, o.array.dtype, element(o.symbol)) for i, o in enumerate(self.outputs) if o.array.rank == ELEMENT
            ]
            for i, dtype, found in found_outputs:
                size = STORAGE[dtype][1]
                offset = code.value(f"mul i64 {j}, {size}")
                address = code.value(f"getelementptr i8, ptr {self.target(i)}, i64 {offset}")
                lanes.store(dtype, found, address, mask)

    def element(self, x: Symbol, place: int, j: str, mask: str | None, element) -> str:  # type: ignore[no-untyped-def]
        """An element's value: loaded, kept from an earlier pass, or computed."""
        code, lanes = self.code, self.lanes
        if x.key in self.plan.scratch:
            size = lanes.bits // 8
            width = code.value(f"add i64 {self.columns_total}, {lanes.width}")
            start = code.value(f"mul i64 {width}, {self.plan.scratch[x.key]}")
            place_in = code.value(f"mul i64 {code.value(f'add i64 {start}, {j}')}, {size}")
            address = code.value(f"getelementptr i8, ptr %scratch, i64 {place_in}")
            if self.plan.kept_in[x.key] < place:  # scratch rows are padded: no mask is needed
                return code.value(f"load {lanes.kind}, ptr {address}, align {size}")
            found = self.compute(lanes, x, element)
            code.add(f"  store {lanes.kind} {found}, ptr {address}, align {size}")
            return found
        if x.op == "input":
            dtype = self.arrays[x.args[0]].dtype
            offset = code.value(f"mul i64 {j}, {STORAGE[dtype][1]}")
            base = self.pointers[list(self.arrays).index(x.args[0])]
            address = code.value(f"getelementptr i8, ptr {base}, i64 {offset}")
            return lanes.load(dtype, x.kind, address, mask)
        if x.op == "columns":
            start = code.value(f"trunc i64 {j} to i32")
            return code.value(f"add {lanes.of('i32')} {lanes.splat(start, 'i32')}, {lanes.iota()}")
        return self.compute(lanes, x, element)

    def row_value(self, x: Symbol) -> str:
        """What is known of the row, or of the call."""
        if x.key in self.known:
            return self.known[x.key]
        if x.op == "input":
            base = self.pointers[list(self.arrays).index(x.args[0])]
            found = self.row_lanes.load(self.arrays[x.args[0]].dtype, x.kind, base)
        elif x.op == "pick":
            found = self.picked_value(x)
        else:
            found = self.compute(self.row_lanes, x, self.row_value)
        self.known[x.key] = found
        return found

    def in_lanes(self, lanes: Lanes, x: Symbol) -> str:
        """A row's number in all lanes."""
        if x.op == "const" and x.kind == "f":
            return lanes.const(x.args[0])
        value = self.row_value(x)
        if x.kind == "b":
            return lanes.splat(value, "i1")
        if x.kind == "i":
            return value if lanes.width == 1 else lanes.splat(self.code.value(f"trunc i64 {value} to i32"), "i32")
        if lanes.bits == 32:
            value = self.code.value(f"fptrunc double {value} to float")
        return lanes.splat(value, lanes.scalar)

    # Elements that are picked

    def read_picks(self) -> None:
        """Read what is picked before anything of the row is stored: an output may lie where its input lies."""
        for pick in self.picks:
            for x in below(pick.args[:1]):
                if x.op == "input" and x.rank == ELEMENT:
                    self.picked[x.key, pick.args[1].key] = self.read_at(x, pick.args[1])

    def is_inside(self, index: Symbol) -> str:
        """Whether an index is that of a column; that one is not is reported at the end."""
        if index.key not in self.inside:
            code = self.code
            inside = code.value(f"icmp ult i64 {self.row_value(index)}, {self.columns}")
            before = code.value(f"load i64, ptr {self.outside}")
            report = code.value(f"select i1 {inside}, i64 {before}, i64 1")
            code.add(f"  store i64 {report}, ptr {self.outside}")
            self.inside[index.key] = inside
        return self.inside[index.key]

    def read_at(self, x: Symbol, index: Symbol) -> str:
        """An element of an array at an index; the first of the row where there is no such element."""
        code, dtype = self.code, self.arrays[x.args[0]].dtype
        column = code.value(f"select i1 {self.is_inside(index)}, i64 {self.row_value(index)}, i64 0")
        offset = code.value(f"mul i64 {column}, {STORAGE[dtype][1]}")
        base = self.pointers[list(self.arrays).index(x.args[0])]
        address = code.value(f"getelementptr i8, ptr {base}, i64 {offset}")
        return self.element_lanes.load(dtype, x.kind, address)

    def picked_value(self, pick: Symbol) -> str:
        """An expression of elements at an index, as a row's number: NaN (or False) where there is no such element."""
        lanes, index = self.element_lanes, pick.args[1]

        def element(x: Symbol) -> str:
            if x.rank != ELEMENT:
                return self.in_lanes(lanes, x)
            place = x.key, index.key
            if place not in self.picked:
                self.picked[place] = self.row_value(index) if x.op == "columns" else self.compute(lanes, x, element)
            return self.picked[place]

        found, inside = element(pick.args[0]), self.is_inside(index)
        if pick.kind == "b":
            return self.row_lanes.logical("and", found, inside)
        if lanes.bits == 32:
            found = self.code.value(f"fpext float {found} to double")
        return self.row_lanes.where(inside, found, self.row_lanes.const(float("nan")))

    def compute(self, lanes: Lanes, x: Symbol, value) -> str:  # type: ignore[no-untyped-def]
        """One operation on values of its arguments."""
        return operation(lanes, x, [value(arg) for arg in x.args if isinstance(arg, Symbol)])


def operation(lanes: Lanes, x: Symbol, found: Sequence[str]) -> str:
    """One operation on values of its arguments."""
    op, args = x.op, x.args
    whole = lanes.of("i64" if lanes.width == 1 else "i32")
    if op == "const":
        return lanes.splat_text("i1", str(args[0]).lower()) if x.kind == "b" else lanes.const(args[0])
    if op == "spread":
        return found[0]
    if op == "float":
        change = f"uitofp {lanes.bool}" if args[0].kind == "b" else f"sitofp {whole}"
        return lanes.code.value(f"{change} {found[0]} to {lanes.kind}")
    if op in ("and", "or", "xor"):
        return lanes.logical(op, *found)
    if op == "not":
        return lanes.opposite(found[0])
    if op == "where":
        return lanes.where(found[0], found[1], found[2], lanes.bool if x.kind == "b" else "")
    if op in ("maximum", "minimum"):
        sure = args[1].op == "const" and args[1].args[0] == args[1].args[0]
        if not sure and args[0].op == "const" and args[0].args[0] == args[0].args[0]:
            found, sure = found[::-1], True
        return lanes.extreme("ugt" if op == "maximum" else "ult", found[0], found[1], sure)
    if args[0].kind == "i":
        signs = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}
        return lanes.code.value(f"icmp {signs[op]} {whole} {found[0]}, {found[1]}")
    result: str = getattr(lanes, op)(*found)
    return result


def function_text(program: Program, bits: int, vector_bytes: int) -> tuple[str, int]:
    """The function `body(call, scratch)`, and how many scratch rows it needs."""
    function = _Function(program, bits, vector_bytes)
    return function.text(), len(function.plan.scratch)
