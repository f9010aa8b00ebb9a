"""A math library for vectors of numbers.

Errors are below 4 units in the last place over the whole range, subnormal numbers included; but for `pow`, whose error
grows with |y log x|.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from .vectors import Vectors

__all__ = ["MathVectors"]

LN2 = Decimal("0.69314718055994530941723212145817656807550013436026")

LOG_TAIL = (
    0.33333331180030046, -0.24999996957950882, 0.200007157488921, -0.16667802319501254, 0.1424905764569748,
    -0.12425687331451106, 0.1168541992348674, -0.11479733846637633, 0.06971611471451172,
)  # fmt: skip
"""(log(1 + m) - m + m**2 / 2) / m**3 on [sqrt(1/2) - 1, sqrt(2) - 1], interpolated at the 9 Chebyshev nodes; the error
is a share of 3e-9 of the logarithm."""

EXP_TAIL = {
    32: (0.5, 0.16666576845993977, 0.041666554437686056, 0.008363202971575855, 0.001392621346632461),
    64: (
        0.5000000000000001, 0.16666666666666669, 0.04166666666662399, 0.008333333333330051, 0.0013888888917281794,
        0.00019841269863105968, 2.480152119021773e-05, 2.7557268378684192e-06, 2.7620138719733994e-07,
        2.5100424157005067e-08,
    ),
}  # fmt: skip
"""(e**r - 1 - r) / r**2 on |r| <= ln 2 / 2, interpolated at the Chebyshev nodes; the errors are shares of 1e-8 and
2e-17 of e**r."""

LN2_HIGH_BITS = {32: 15, 64: 40}
"""Bits of the first part of ln 2: few enough to be multiplied by an exponent without rounding."""

EXP_RANGE = {32: (-105.0, 89.0), 64: (-746.0, 710.0)}
"""Outside of it e**x is 0 or infinity, as it is at its ends."""

EXPM1_RANGE = {32: (-40.0, 89.0), 64: (-60.0, 710.0)}
"""Outside of it e**x - 1 is -1 or infinity, as it is at its ends."""

SQRT_HALF_BITS = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}
"""The bits of sqrt(1/2) as integers."""

SUBNORMAL_SHIFT = {32: 25, 64: 54}
"""Powers of 2 that make each subnormal number a normal one."""

AVX512_BITS = 512
AVX512_CURRENT_ROUNDING = "4"
"""_MM_FROUND_CUR_DIRECTION of Intel's intrinsics."""


class MathVectors(Vectors):
    """Vectors with the functions of formulas."""

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """By Estrin's scheme, halves at a time; the constant comes first. Horner's would be one long chain."""
        terms = [self.const(c) for c in coefficients]
        power = x
        while len(terms) > 1:
            # Neighbours become low + high * power; a last one without a neighbour waits for the next turn.
            pairs = zip(terms[::2], terms[1::2])
            unpaired = terms[len(terms) & ~1 :]
            terms = [self.fma(high, power, low) for low, high in pairs] + unpaired
            if len(terms) > 1:
                power = self.mul(power, power)
        return terms[0]

    @property
    def ln2(self) -> tuple[float, float]:
        """ln 2 in two parts; products of the first with exponents are exact."""
        high_bits = LN2_HIGH_BITS[self.bits]
        high = math.floor(LN2 * 2**high_bits) / 2**high_bits
        return high, float(LN2 - Decimal(high))

    def _reduced(self, x: str, low: float, high: float) -> tuple[str, str, str]:
        """x = n ln 2 + r with |r| <= ln 2 / 2, as (r, n as a float, n); x is cut to [low, high]."""
        # NaN passes: it is neither below nor above.
        x = self.where(self.lt(x, self.const(low)), self.const(low), x)
        x = self.where(self.gt(x, self.const(high)), self.const(high), x)

        # Numbers of this size have no bits for fractions: the sum is rounded, and has n in its last bits.
        magic = self.const(1.5 * 2.0**self.mantissa)
        shifted = self.fma(x, self.const(1 / math.log(2)), magic)
        n = self.sub(shifted, magic)

        first, second = self.ln2
        r = self.fma(n, self.const(-second), self.fma(n, self.const(-first), x))
        return r, n, self.int_op("sub", self.as_int(shifted), self.as_int(magic))

    def scaled(self, x: str, power: str, n: str) -> str:
        """x 2**n, rounded once or rarely twice; `power` is n as a float."""
        if self.avx512 and self.width * self.bits % AVX512_BITS == 0:
            return self._scaled_by_avx512(x, power)
        # Two factors, since 2**n alone may be no normal number.
        half = self.int_op("ashr", n, self.whole(1))
        other_half = self.int_op("sub", n, half)
        return self.mul(self.mul(x, self.power_of_two(half)), self.power_of_two(other_half))

    def _scaled_by_avx512(self, x: str, power: str) -> str:
        """x 2**power, by an instruction that takes one register: vectors of one or two."""
        width = AVX512_BITS // self.bits
        kind = f"<{width} x {self.scalar}>"
        letters = {32: "ps", 64: "pd"}[self.bits]
        registers = []
        for start in range(0, self.width, width):
            places = _indices(range(start, start + width))
            part_of_x, part_of_power = (
                self.code.value(f"shufflevector {self.kind} {vector}, {self.kind} poison, <{width} x i32> {places}")
                for vector in (x, power)
            )
            registers.append(
                self.code.call(
                    kind,
                    f"llvm.x86.avx512.mask.scalef.{letters}.512",
                    (kind, part_of_x),
                    (kind, part_of_power),
                    (kind, "zeroinitializer"),
                    (f"i{width}", "-1"),  # all places
                    ("i32", AVX512_CURRENT_ROUNDING),
                )
            )
        if len(registers) == 1:
            return registers[0]
        first, second = registers
        places = _indices(range(2 * width))
        return self.code.value(f"shufflevector {kind} {first}, {kind} {second}, <{2 * width} x i32> {places}")

    def exp(self, x: str) -> str:
        """e**x = 2**n e**r."""
        r, power, n = self._reduced(x, *EXP_RANGE[self.bits])
        # 1 comes last: what is added to it is small, so that the sum is rounded once.
        p = self.fma(self.mul(r, r), self.polynomial(r, EXP_TAIL[self.bits]), r)
        return self.scaled(self.add(p, self.const(1.0)), power, n)

    def expm1(self, x: str) -> str:
        """e**x - 1 = 2 (2**(n-1) (e**r - 1) + (2**(n-1) - 1/2)): exact parts first; small x have n = 0."""
        r, _, n = self._reduced(x, *EXPM1_RANGE[self.bits])
        # With halves, since 2**n itself would overflow where the result does not.
        q = self.fma(self.mul(r, r), self.polynomial(r, EXP_TAIL[self.bits]), r)
        scale = self.power_of_two(self.int_op("sub", n, self.whole(1)))
        result = self.mul(self.const(2.0), self.fma(scale, q, self.sub(scale, self.const(0.5))))
        return self.where(self.lt(self.abs(x), self.const(self.tiny)), x, result)

    def _log_of(self, m: str, k: str) -> str:
        """log(1 + m) + k ln 2 for 1 + m in [sqrt(1/2), sqrt(2)).

        With 64 bits by the series of the inverse hyperbolic tangent; with 32 by m - m**2 / 2 + m**3 p(m).
        """
        # Small terms are added first, then m, and last k ln 2, each time to what is no larger.
        square = self.mul(self.mul(m, m), self.const(0.5))
        first, second = self.ln2
        if self.bits == 32:
            cube = self.mul(self.mul(m, m), m)
            low = self.fma(cube, self.polynomial(m, LOG_TAIL), self.mul(k, self.const(second)))
        else:
            s = self.div(m, self.add(m, self.const(2.0)))
            z = self.mul(s, s)
            r = self.mul(z, self.polynomial(z, [2 / (2 * i + 1) for i in range(1, 12)]))
            low = self.fma(s, self.add(square, r), self.mul(k, self.const(second)))
        return self.fma(k, self.const(first), self.sub(m, self.sub(square, low)))

    def _split(self, x: str) -> tuple[str, str]:
        """x = m 2**e with m in [sqrt(1/2), sqrt(2)), as (m, e)."""
        # Positive floats are in the order of their bits, and those of 2**e differ in the exponent alone.
        bits = self.as_int(x)
        above_root = self.int_op("sub", bits, self.whole(SQRT_HALF_BITS[self.bits]))
        e = self.int_op("ashr", above_root, self.whole(self.mantissa))
        exponent_bits = self.int_op("shl", e, self.whole(self.mantissa))
        return self.from_bits(self.int_op("sub", bits, exponent_bits)), e

    def _log_ends(self, x: str, result: str) -> str:
        """The logarithm where x is not a positive finite number."""
        zero, infinity = self.const(0.0), self.const(math.inf)
        inside = self.logical("and", self.gt(x, zero), self.lt(x, infinity))
        # NaN below 0; infinity and NaN stay what they are.
        ends = self.where(self.lt(x, zero), self.const(math.nan), x)
        ends = self.where(self.eq(x, zero), self.const(-math.inf), ends)
        return self.where(inside, result, ends)

    def log(self, x: str) -> str:
        """Natural logarithm."""
        # Subnormal numbers are made normal, and what they were multiplied by is taken off the exponent.
        shift = SUBNORMAL_SHIFT[self.bits]
        is_subnormal = self.lt(x, self.const(self.tiny))
        m, e = self._split(self.where(is_subnormal, self.mul(x, self.const(2.0**shift)), x))
        k = self.code.value(f"sitofp {self.int} {e} to {self.kind}")
        k = self.where(is_subnormal, self.sub(k, self.const(shift)), k)
        return self._log_ends(x, self._log_of(self.sub(m, self.const(1.0)), k))

    def log1p(self, x: str) -> str:
        """log(1 + x), with what the sum 1 + x lost put back."""
        one = self.const(1.0)
        u = self.add(x, one)
        m, e = self._split(u)
        # What rounding took from the sum, exactly: the digits of the smaller one were cut.
        x_is_larger = self.gt(x, one)
        lost_of_one = self.sub(one, self.sub(u, x))
        lost_of_x = self.sub(x, self.sub(u, one))
        lost = self.where(x_is_larger, lost_of_one, lost_of_x)
        # A larger e would overflow in the bits of 2**-e. There it becomes 0: nothing was lost that counts.
        minimum = f"llvm.smin.{self.suffix.replace('f', 'i')}"
        e_cut = self.code.call(self.int, minimum, (self.int, e), (self.int, self.whole(self.bias)))
        scale = self.power_of_two(self.int_op("sub", self.whole(0), e_cut))
        m = self.fma(lost, scale, self.sub(m, one))
        k = self.code.value(f"sitofp {self.int} {e} to {self.kind}")
        result = self.where(self.lt(self.abs(x), self.const(self.tiny)), x, self._log_of(m, k))
        return self._log_ends(u, result)

    def tanh(self, x: str) -> str:
        """-t / (t + 2) with t = expm1(-2 |x|), and the sign of x."""
        # Of a negative number, expm1 does not overflow.
        t = self.expm1(self.mul(self.abs(x), self.const(-2.0)))
        size = self.div(self.neg(t), self.add(t, self.const(2.0)))
        size = self.where(self.lt(self.abs(x), self.const(self.tiny)), self.abs(x), size)
        return self.intrinsic("copysign", size, x)

    def pow(self, x: str, y: str) -> str:
        """x**y by e**(y log |x|), with the sign of an odd power, and the ends of C's pow.

        NaN for a broken power of a negative finite number; 1 for x**0, 1**y and (-1)**inf.
        """
        size, one = self.abs(x), self.const(1.0)
        magnitude = self.where(self.eq(size, one), one, self.exp(self.mul(y, self.log(size))))

        # Of a negative number: the sign of an odd power, and NaN for a broken one, but for infinity.
        half = self.mul(y, self.const(0.5))
        is_whole, is_even = (self.eq(self.intrinsic("floor", v), v) for v in (y, half))
        broken = self.where(self.eq(size, self.const(math.inf)), magnitude, self.const(math.nan))
        odd_or_broken = self.where(is_whole, self.neg(magnitude), broken)
        of_negative = self.where(is_even, magnitude, odd_or_broken)

        power = self.where(self.lt(x, self.const(0.0)), of_negative, magnitude)
        return self.where(self.eq(y, self.const(0.0)), one, power)


def _indices(numbers: Iterable[int]) -> str:
    """A constant vector of indices."""
    return "<" + ", ".join(f"i32 {i}" for i in numbers) + ">"
