"""Calculators as PyTorch modules: `as_module(loss)` gives losses that autograd differentiates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .arrays.dlpack import arrays_in, is_foreign, why_not_readable
from .arrays.trees import tree_map
from .checks import describe, fail
from .pipeline.autodiff import check_differentiable, filled, leaves_of
from .pipeline.evaluation import Call
from .pipeline.reduced import GRADIENT, ReducedLoss
from .terms import ContextLoss

try:
    import torch
except ImportError as error:
    raise ImportError("PyTorch is not installed: python -m pip install torch") from error

__all__ = ["ContextModule", "LossModule", "as_module"]


def as_module(loss: ReducedLoss | ContextLoss) -> LossModule | ContextModule:
    """A calculator as a `torch.nn.Module`; of a `Term` or a `WeightedSum`, one that takes a context.

    Errors: TypeError or ValueError for a calculator whose gradient is not that of its loss in its guesses: Thinc's
    own, wrt="logits", per_token.
    """
    check_differentiable(loss)
    return ContextModule(loss) if isinstance(loss, ContextLoss) else LossModule(loss)


class LossModule(torch.nn.Module):  # type: ignore[misc]
    """A calculator of tensors: `module(guesses, truths, mask=None, sample_weight=None)`.

    Returns the loss as a 0-d tensor of the guesses' dtype and device, or the values where nothing is reduced; for
    half precision both are float32. Gradients go to all guesses, and to nothing else: truths, mask and weights that
    require one are refused. They are calculated together with the loss, and not where nobody wants them; those of
    values, which depend on what comes after, are calculated on the way back, from truths that may not change until
    then. There is no second derivative.
    """

    def __init__(self, loss: ReducedLoss) -> None:
        super().__init__()
        self.loss = loss

    def extra_repr(self) -> str:
        """The calculator."""
        return repr(self.loss)

    def forward(self, guesses: Any, truths: Any = ..., *, mask: Any = None, sample_weight: Any = None) -> Any:
        """The loss, or the values."""
        return _differentiable(self.loss, guesses, truths, mask, sample_weight)


class ContextModule(torch.nn.Module):  # type: ignore[misc]
    """A `Term` or a `WeightedSum` of tensors: `module(context)` is its loss, with gradients for all guesses."""

    def __init__(self, loss: ContextLoss) -> None:
        super().__init__()
        self.loss = loss

    def extra_repr(self) -> str:
        """The sum."""
        return repr(self.loss)

    def forward(self, context: Any) -> Any:
        """The sum of the terms' losses."""
        return sum(
            term._weight_in(context) * _differentiable(term.calculator, *term._inputs(context))
            for term in self.loss._all()
        )


@dataclass(eq=False)
class _Call:
    """One call of a calculator."""

    loss: ReducedLoss
    guesses: Any
    truths: Any
    mask: Any
    sample_weight: Any
    values: Any = None
    """How the values are arranged, once they are there and if nothing is reduced."""

    @property
    def inputs(self) -> tuple[Any, Any, Any, Any]:
        """What the calculator takes."""
        return self.guesses, self.truths, self.mask, self.sample_weight

    def get_loss(self) -> tuple[Any, ...]:
        """The loss, or the tensors of the values."""
        loss = self.loss.get_loss(self.guesses, self.truths, mask=self.mask, sample_weight=self.sample_weight)
        if not self.loss.returns_values:
            return (self.tensor(loss),)
        self.values = tree_map(lambda x: x.detach(), loss)  # whoever keeps this call keeps no graph
        return tuple(leaves_of(loss))

    def get_loss_and_grads(self) -> tuple[Any, list[Any]]:
        """A tensor, and the gradient of each guess."""
        grads, loss = self.loss(self.guesses, self.truths, mask=self.mask, sample_weight=self.sample_weight)
        return self.tensor(loss), leaves_of(grads)

    def get_grads_of_values(self, slopes: tuple[Any, ...]) -> list[Any]:
        """The gradient of each guess, from slopes with respect to the values."""
        d_values = filled(self.values, slopes)
        call = Call(*self.inputs, output_grad=d_values)
        return leaves_of(self.loss.evaluate(call, GRADIENT).grads)

    def tensor(self, loss: Any) -> Any:
        """A loss in the dtype of the guesses."""
        first = next(iter(leaves_of(self.guesses)), torch.empty(0))
        dtype = first.dtype if first.is_floating_point() else torch.float64
        return torch.as_tensor(loss, dtype=dtype, device=first.device)


class _Calculation(torch.autograd.Function):  # type: ignore[misc]
    """The loss of a call as a function of its guesses."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *guesses: Any) -> Any:
        anchor = torch.empty(0)
        if call.loss.returns_values:
            ctx.call, found = call, call.get_loss()
            ctx.save_for_backward(anchor, *guesses, *_tensors_in(*call.inputs[1:]))
        else:
            ctx.call = None
            loss, grads = call.get_loss_and_grads()
            found = (loss,)
            ctx.save_for_backward(anchor, *grads)
        return *found, anchor

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        anchor, *saved = ctx.saved_tensors  # raises if any was written to since
        with torch.no_grad():
            if ctx.call is None:
                grads = [grad * slopes[0] for grad in saved]
            else:
                grads = ctx.call.get_grads_of_values(slopes)
        if torch.is_grad_enabled():  # create_graph: gradients that are constants would have derivatives of 0
            grads = [_NoDerivative.apply(grad, anchor, *slopes) for grad in grads]
        return None, *grads


class _NoDerivative(torch.autograd.Function):  # type: ignore[misc]
    """A gradient, which is a function of what led to the anchor and of the slopes, but cannot be differentiated.

    The slopes are named as well: where they alone are differentiated, as `torch.autograd.functional.jvp` does, the
    derivative would else be 0.
    """

    @staticmethod
    def forward(ctx: Any, grad: Any, *causes: Any) -> Any:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        raise RuntimeError("Cannot differentiate the gradient of a lossreg calculator: it has no second derivative.")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _differentiable(loss: ReducedLoss, guesses: Any, truths: Any, mask: Any, sample_weight: Any) -> Any:
    """The loss of tensors, as a part of the graph where one is recorded."""
    name, tensors = type(loss).__name__, list[Any]()

    # Before autograd sees them: its own sentences are about how to write an autograd.Function, inside of which tensors
    # have no tangents.
    def check_plain(x: Any, what: str) -> None:
        problem = why_not_readable(x)
        if problem:
            raise fail(name, what, "of plain numbers", f"{describe(x)} ({problem})")

    def taken(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            raise fail(name, "guesses", "to be tensors", describe(x))
        check_plain(x, "guesses")
        tensors.append(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)
        return tensors[-1]

    call = _Call(loss, tree_map(taken, guesses), truths, mask, sample_weight)
    beside = list(_tensors_in(*call.inputs[1:]))
    for x in beside:
        check_plain(x, "truths, mask and sample_weight")
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        if any(x.requires_grad for x in beside):
            raise fail(name, "truths, mask and sample_weight", "without a gradient (detach them)", "one that wants it")
        found = _Calculation.apply(call, *tensors)
    else:
        found = call.get_loss()
    return found[0] if call.values is None else filled(call.values, found)


def _tensors_in(*values: Any) -> Iterator[Any]:
    """The tensors that arguments hold."""
    for value in values:
        if is_foreign(value):
            yield from (x for x in arrays_in(value) if isinstance(x, torch.Tensor))
