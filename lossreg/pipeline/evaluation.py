"""What goes into a call of a calculator, what is needed of it, and what comes out: the interface that all parts use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.dlpack import OURS, is_foreign
from ..ops import Array

__all__ = ["Call", "Evaluation", "Needs", "TargetBatch"]


@dataclass(eq=False, slots=True)
class Call:
    """The arguments of one call of a calculator."""

    guesses: Any
    truths: Any = ...
    mask: Any = None
    sample_weight: Any = None
    out: Any = None
    output_grad: Any = 1.0
    """Multiplies the gradient. A number; or derivatives with respect to the values, arranged as these are."""

    @property
    def inputs(self) -> tuple[Any, Any, Any, Any]:
        """What is read, and not written to."""
        return self.guesses, self.truths, self.mask, self.sample_weight

    def has_external_arrays(self) -> bool:
        """Whether an argument is an array of another library than NumPy and CuPy, or holds one."""
        arguments = self.guesses, self.truths, self.mask, self.sample_weight, self.out
        # The types that nearly all arguments have are known. One call of C looks at all of them.
        if OURS.issuperset(map(type, arguments)):
            return False
        return any(type(x) not in OURS and is_foreign(x) for x in arguments)


@dataclass(frozen=True)
class Needs:
    """What a call needs of the formula."""

    total: bool = False
    values: bool = False
    grad: bool = False
    undivided: bool = False
    """Whether the gradient is that of the total, before it is divided."""
    state: bool = True
    """Whether a state is made, which takes a fiftieth of a small call."""


@dataclass(eq=False, slots=True)
class Evaluation:
    """What a call gives, each part if it is needed."""

    state: Any
    result: Any
    """The loss; the values where nothing is reduced; the state where the loss is its state."""
    grads: Any
    """The gradient, arranged as the guesses are."""


@dataclass(eq=False, slots=True)
class TargetBatch:
    """Truths as the formula wants them, and what they say about weights."""

    targets: Any
    valid: Array | None = None
    """False where a truth is missing."""
    weight: Array | None = None
    """Weight of each item, such as that of its class, over 2**`exponent`."""
    in_formula: bool = False
    """Whether the formula applies the weight itself. Otherwise it multiplies the values behind the formula."""
    in_mean: bool = False
    """Whether a mean divides by the weight, too."""
    exponent: int = 0
    """What `weight` and the values lack: formulas compute in float32, where weights of some sizes are no numbers."""
    by_place: bool = False
    """Whether the weight belongs to the place of an item, such as its column, and not to its truth."""
