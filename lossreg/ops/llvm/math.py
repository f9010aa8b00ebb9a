"""A math library for lanes of numbers.

Errors are below 4 units in the last place over the whole range, subnormal numbers included; but for `pow`, whose error
grows with |y log x|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from .vectors import Lanes

__all__ = ["MathLanes"]

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


class MathLanes(Lanes):
    """Lanes with the functions of formulas."""

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """By Estrin's scheme, halves at a time; the constant comes first. Horner's would be one long chain."""
        terms, power = [self.const(c) for c in coefficients], x
        while len(terms) > 1:
            pairs = zip(terms[::2], terms[1::2])
            terms = [self.fma(high, power, low) for low, high in pairs] + terms[len(terms) & ~1 :]
            power = self.mul(power, power) if len(terms) > 1 else power
        return terms[0]

    @property
    def ln2(self) -> tuple[float, float]:
        """ln 2 in two parts; products of the first with exponents are exact."""
        places = 15 if self.bits == 32 else 40
        high = math.floor(LN2 * 2**places) / 2**places
        return high, float(LN2 - Decimal(high))

    def _reduced(self, x: str, low: float, high: float) -> tuple[str, str, str]:
        """x = n ln 2 + r with |r| <= ln 2 / 2, as (r, n as a float, n); x is cut to [low, high]."""
        x = self.where(self.lt(x, self.const(low)), self.const(low), x)  # NaN passes
        x = self.where(self.gt(x, self.const(high)), self.const(high), x)
        magic = self.const(1.5 * 2.0**self.mantissa)  # its sum has the nearest whole number in its last bits
        shifted = self.fma(x, self.const(1 / math.log(2)), magic)
        n = self.sub(shifted, magic)
        first, second = self.ln2
        r = self.fma(n, self.const(-second), self.fma(n, self.const(-first), x))
        return r, n, self.int_op("sub", self.as_int(shifted), self.as_int(magic))

    def scaled(self, x: str, power: str, n: str) -> str:
        """x 2**n, rounded once or rarely twice; `power` is n as a float."""
        if self.avx512 and self.width * self.bits % 512 == 0:
            lanes = 512 // self.bits
            kind, mask = f"<{lanes} x {self.scalar}>", f"i{lanes}"
            name = f"llvm.x86.avx512.mask.scalef.{'ps' if self.bits == 32 else 'pd'}.512"
            parts = []
            for start in range(0, self.width, lanes):
                places = "<" + ", ".join(f"i32 {start + i}" for i in range(lanes)) + ">"
                one, by = (
                    self.code.value(f"shufflevector {self.kind} {v}, {self.kind} poison, <{lanes} x i32> {places}")
                    for v in (x, power)
                )
                given = ((kind, one), (kind, by), (kind, "zeroinitializer"), (mask, "-1"), ("i32", "4"))
                parts.append(self.code.call(kind, name, *given))
            if len(parts) == 1:
                return parts[0]
            places = "<" + ", ".join(f"i32 {i}" for i in range(2 * lanes)) + ">"
            return self.code.value(f"shufflevector {kind} {parts[0]}, {kind} {parts[1]}, <{2 * lanes} x i32> {places}")
        half = self.int_op("ashr", n, self.whole(1))  # two factors, since 2**n alone may be no normal number
        rest = self.int_op("sub", n, half)
        return self.mul(self.mul(x, self.power_of_two(half)), self.power_of_two(rest))

    def exp(self, x: str) -> str:
        """e**x = 2**n e**r."""
        r, power, n = self._reduced(x, *((-105.0, 89.0) if self.bits == 32 else (-746.0, 710.0)))
        p = self.fma(self.mul(r, r), self.polynomial(r, EXP_TAIL[self.bits]), r)
        return self.scaled(self.add(p, self.const(1.0)), power, n)

    def expm1(self, x: str) -> str:
        """e**x - 1 = 2 (2**(n-1) (e**r - 1) + (2**(n-1) - 1/2)): exact parts first; small x have n = 0."""
        r, _, n = self._reduced(x, *((-40.0, 89.0) if self.bits == 32 else (-60.0, 710.0)))
        q = self.fma(self.mul(r, r), self.polynomial(r, EXP_TAIL[self.bits]), r)
        scale = self.power_of_two(self.int_op("sub", n, self.whole(1)))
        result = self.mul(self.const(2.0), self.fma(scale, q, self.sub(scale, self.const(0.5))))
        return self.where(self.lt(self.abs(x), self.const(self.tiny)), x, result)

    def _log_of(self, m: str, k: str) -> str:
        """log(1 + m) + k ln 2 for 1 + m in [sqrt(1/2), sqrt(2)).

        With 64 bits by the series of the inverse hyperbolic tangent; with 32 by m - m**2 / 2 + m**3 p(m).
        """
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
        bits = self.as_int(x)
        root = 0x3F3504F3 if self.bits == 32 else 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
        e = self.int_op("ashr", self.int_op("sub", bits, self.whole(root)), self.whole(self.mantissa))
        return self.from_bits(self.int_op("sub", bits, self.int_op("shl", e, self.whole(self.mantissa)))), e

    def _log_ends(self, x: str, result: str) -> str:
        """The logarithm where x is not a positive finite number."""
        inf = self.const(math.inf)
        inside = self.logical("and", self.gt(x, self.const(0.0)), self.lt(x, inf))
        ends = self.where(self.lt(x, self.const(0.0)), self.const(math.nan), x)
        return self.where(inside, result, self.where(self.eq(x, self.const(0.0)), self.const(-math.inf), ends))

    def log(self, x: str) -> str:
        """Natural logarithm."""
        up = 25 if self.bits == 32 else 54
        small = self.lt(x, self.const(self.tiny))
        m, e = self._split(self.where(small, self.mul(x, self.const(2.0**up)), x))
        k = self.code.value(f"sitofp {self.int} {e} to {self.kind}")
        k = self.where(small, self.sub(k, self.const(up)), k)
        return self._log_ends(x, self._log_of(self.sub(m, self.const(1.0)), k))

    def log1p(self, x: str) -> str:
        """log(1 + x), with what the sum 1 + x lost put back."""
        one = self.const(1.0)
        u = self.add(x, one)
        m, e = self._split(u)
        lost = self.where(self.gt(x, one), self.sub(one, self.sub(u, x)), self.sub(x, self.sub(u, one)))
        whole = f"llvm.smin.{self.suffix.replace('f', 'i')}"
        most = self.code.call(self.int, whole, (self.int, e), (self.int, self.whole(self.bias)))
        scale = self.power_of_two(self.int_op("sub", self.whole(0), most))
        m = self.fma(lost, scale, self.sub(m, one))
        k = self.code.value(f"sitofp {self.int} {e} to {self.kind}")
        result = self.where(self.lt(self.abs(x), self.const(self.tiny)), x, self._log_of(m, k))
        return self._log_ends(u, result)

    def tanh(self, x: str) -> str:
        """-t / (t + 2) with t = expm1(-2 |x|), and the sign of x."""
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
        half = self.mul(y, self.const(0.5))
        whole, even = (self.eq(self.intrinsic("floor", v), v) for v in (y, half))
        broken = self.where(self.eq(size, self.const(math.inf)), magnitude, self.const(math.nan))
        of_negative = self.where(even, magnitude, self.where(whole, self.neg(magnitude), broken))
        power = self.where(self.lt(x, self.const(0.0)), of_negative, magnitude)
        return self.where(self.eq(y, self.const(0.0)), one, power)
