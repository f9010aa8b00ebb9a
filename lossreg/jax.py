"""Calculators as JAX functions: `as_function(loss)` gives losses for `jax.grad`, `jax.jit` and `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from .arrays.ragged import Ragged, is_ragged
from .arrays.trees import get_path, tree_map
from .checks import fail
from .ops.base import is_half
from .pipeline.autodiff import check_differentiable, filled, leaves_of
from .pipeline.evaluation import Call
from .pipeline.reduced import GRADIENT, ReducedLoss
from .terms import ContextLoss, Term

try:
    import jax
except ImportError as error:
    raise ImportError("JAX is not installed: python -m pip install jax") from error

__all__ = ["as_function"]

jax.tree_util.register_dataclass(Ragged, ["data", "lengths"], [])


def as_function(loss: ReducedLoss | ContextLoss) -> Callable[..., Any]:
    """A calculator as a function of JAX arrays: `function(guesses, truths, mask=None, sample_weight=None)`.

    It returns the loss in the dtype of the guesses, or the values where nothing is reduced; for half precision both are
    float32. Gradients go to all guesses, and to nothing else: truths, mask and weights that are differentiated are
    refused. They are calculated together with the loss, and not where nobody wants them; those of values, which depend
    on what comes after, on the way back. There is no second derivative.
    What is no JAX array, such as a list of names, is a constant. The calculator runs on the host, inside `jax.jit` too,
    and under `jax.vmap` once for each entry. Of a `Term` or a `WeightedSum`, the function takes a context.
    Errors: TypeError or ValueError for a calculator whose gradient is not that of its loss in its guesses: Thinc's
    own, wrt="logits", per_token.
    """
    check_differentiable(loss)

    def function(guesses: Any, truths: Any = ..., *, mask: Any = None, sample_weight: Any = None) -> Any:
        """The loss, or the values."""
        assert isinstance(loss, ReducedLoss)
        return _Call(loss, guesses, truths, mask, sample_weight).result()

    def function_of_context(context: Any) -> Any:
        """The sum of the terms' losses."""
        assert isinstance(loss, ContextLoss)
        return sum(_loss_of_term(term, context) for term in loss._all())

    return function_of_context if isinstance(loss, ContextLoss) else function


def _loss_of_term(term: Term, context: Any) -> Any:
    call = _Call(term.calculator, *term._inputs(context))
    return _weight_of_term(term, context, call.dtype) * call.result()


def _weight_of_term(term: Term, context: Any, dtype: Any) -> Any:
    """A number, or where JAX traces the step an array of no axes."""
    step = get_path(context, term.step) if callable(term.weight) else None
    if not isinstance(step, jax.core.Tracer):
        return term.get_weight(step)

    # A schedule is a function of a Python number: JAX cannot trace its `if`, `min` and `math.sin`.
    def weight(step: Any) -> list[Any]:
        return [term.get_weight(np.asarray(step).tolist())]

    return _on_host(weight, [jax.ShapeDtypeStruct((), dtype)], [jax.lax.stop_gradient(step)])[0]


class _Call:
    """One call of a calculator: JAX arrays in a row, and everything else as constants."""

    def __init__(self, loss: ReducedLoss, guesses: Any, *beside: Any) -> None:
        self.loss, self.guesses = loss, tree_map(_wide, guesses)
        leaves, self.tree = jax.tree.flatten((self.guesses, *beside))
        self.places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]
        self.arrays = [leaves[i] for i in self.places]
        self.constants = [None if isinstance(x, jax.Array) else x for x in leaves]
        inside = len(jax.tree.leaves(self.guesses))
        self.differentiable = [k for k, i in enumerate(self.places) if i < inside and _is_floating(leaves[i])]
        """Which of the arrays have gradients."""
        first = next(iter(leaves_of(self.guesses)), 0.0)
        self.dtype = jax.numpy.result_type(first if _is_floating(first) else float)
        self.values = None
        """How the values are arranged, if nothing is reduced."""
        outputs: list[Any] = [0.0]
        shaped = tree_map(_shaped, (self.guesses, *beside), is_leaf=is_ragged)
        # What the host says while a compiled function runs has no traceback to the caller's line.
        if any(isinstance(x, jax.core.Tracer) for x in self.arrays):
            loss.check_shapes(Call(*shaped))
        if loss.returns_values:
            self.values = loss.values_like(shaped[0])
            outputs = leaves_of(self.values)
        self.shapes = [jax.ShapeDtypeStruct(np.shape(x), self.dtype) for x in outputs]

    def result(self) -> Any:
        """The loss, or the values, as a function that JAX can differentiate."""

        @jax.custom_vjp  # type: ignore[untyped-decorator]
        def calculation(*arrays: Any) -> Any:
            return _on_host(self.get_loss, self.shapes, arrays)

        def forward(*given: Any) -> Any:
            arrays = [x.value for x in given]
            if any(x.perturbed for k, x in enumerate(given) if k not in self.differentiable):
                expected = "without a gradient (jax.lax.stop_gradient)"
                name = type(self.loss).__name__
                raise fail(name, "truths, mask and sample_weight", expected, "what is differentiated")
            if self.values is not None:
                return _on_host(self.get_loss, self.shapes, arrays), arrays
            loss, *grads = _on_host(self.get_loss_and_grads, self.shapes + self.shapes_of_grads, arrays)
            return [loss], grads

        def backward(kept: Any, slopes: Any) -> Any:
            if self.values is None:
                grads = [grad * slopes[0] for grad in kept]
            else:
                full = [jax.numpy.zeros(x.shape, x.dtype) if _is_zero(x) else x for x in slopes]
                grads = _on_host(self.get_grads_of_values, self.shapes_of_grads, [*kept, *full])
            found = dict(zip(self.differentiable, grads))
            return tuple(found.get(k) for k in range(len(self.arrays)))

        calculation.defvjp(forward, backward, symbolic_zeros=True)
        found = calculation(*self.arrays)
        return found[0] if self.values is None else self.arranged(found, self.guesses)

    @property
    def shapes_of_grads(self) -> list[Any]:
        """Those of the arrays that have gradients."""
        return [jax.ShapeDtypeStruct(self.arrays[k].shape, self.arrays[k].dtype) for k in self.differentiable]

    def arranged(self, values: Iterable[Any], guesses: Any) -> Any:
        """Values as the calculator arranges them."""
        tree = filled(self.values, values)
        first = guesses[0] if isinstance(guesses, tuple) else guesses
        return type(tree)(tree.dataXd, first.lengths) if is_ragged(tree) else tree

    # On the host, with NumPy arrays

    def inputs(self, arrays: Sequence[Any]) -> Any:
        """(guesses, truths, mask, sample_weight)."""
        leaves = list(self.constants)
        for i, x in zip(self.places, arrays):
            leaves[i] = np.asarray(x)
        return jax.tree.unflatten(self.tree, leaves)

    def get_loss(self, *arrays: Any) -> list[Any]:
        """The loss, or the values."""
        guesses, truths, mask, weight = self.inputs(arrays)
        return leaves_of(self.loss.get_loss(guesses, truths, mask=mask, sample_weight=weight))

    def get_loss_and_grads(self, *arrays: Any) -> list[Any]:
        """The loss, and the gradients of the arrays that have one."""
        guesses, truths, mask, weight = self.inputs(arrays)
        grads, loss = self.loss(guesses, truths, mask=mask, sample_weight=weight)
        return [loss, *self.chosen(grads)]

    def get_grads_of_values(self, *arrays: Any) -> list[Any]:
        """These gradients, from the slopes with respect to the values behind the arrays."""
        n = len(self.arrays)
        guesses, truths, mask, weight = self.inputs(arrays[:n])
        d_values = self.arranged(map(np.asarray, arrays[n:]), guesses)
        call = Call(guesses, truths, mask, weight, output_grad=d_values)
        return self.chosen(self.loss.evaluate(call, GRADIENT).grads)

    def chosen(self, grads: Any) -> list[Any]:
        leaves = jax.tree.leaves(grads)
        return [leaves[self.places[k]] for k in self.differentiable]


def _on_host(function: Callable[..., list[Any]], shapes: list[Any], arrays: Sequence[Any]) -> Any:
    """What a function of NumPy arrays returns, as JAX arrays: at once, or where they are known."""

    def cast(*arrays: Any) -> list[Any]:
        return [np.asarray(x, shape.dtype) for x, shape in zip(function(*arrays), shapes, strict=True)]

    @jax.custom_jvp  # type: ignore[untyped-decorator]
    def results(*arrays: Any) -> Any:
        if any(isinstance(x, jax.core.Tracer) for x in arrays):
            return jax.pure_callback(cast, shapes, *arrays, vmap_method="sequential")
        return [jax.numpy.asarray(x) for x in cast(*arrays)]

    results.defjvp(_no_derivative)
    return results(*arrays)


def _no_derivative(primals: Any, tangents: Any) -> NoReturn:
    raise TypeError("Cannot differentiate the gradient of a lossreg calculator: it has no second derivative.")


def _wide(x: Any) -> Any:
    return x.astype(np.float32) if isinstance(x, jax.Array) and is_half(x.dtype) else x


def _shaped(x: Any) -> Any:
    """A NumPy array of the same shape and dtype for an array of JAX; anything else as it is."""
    if isinstance(x, jax.Array):
        return np.broadcast_to(np.zeros((), x.dtype), x.shape)
    if not is_ragged(x):
        return x
    if isinstance(x.lengths, jax.core.Tracer):  # others will do as well
        lengths = np.zeros(x.lengths.shape, int)
        lengths[:1] = len(x.dataXd)
    else:
        lengths = np.asarray(x.lengths)
    return type(x)(_shaped(x.dataXd), lengths)


def _is_floating(x: Any) -> bool:
    return bool(jax.numpy.issubdtype(jax.numpy.result_type(x), np.floating))


def _is_zero(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.SymbolicZero)
