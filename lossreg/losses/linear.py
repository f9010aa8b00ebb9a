"""Cross-entropy of a linear layer whose logits would not fit in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from ..arrays.ragged import is_ragged
from ..checks import check_shape, describe, fail
from ..config.options import Configurable
from ..config.resolve import register
from ..ops import Array
from ..ops.base import compute_dtype, without_float_warnings
from ..pipeline.evaluation import Needs, Truths
from ..pipeline.guesses import Batch
from ..pipeline.layouts import layout_of
from ..pipeline.weights import Weights
from .categorical import CrossEntropy, check_finite
from .softmax import log_sum_parts, softmax_cross_entropy

__all__ = ["LinearCrossEntropy"]

BLOCK = 16_777_216
"""How many logits exist at a time: 64 MB of float32."""

TILE = 2_097_152
"""How many numbers of the weight's gradient are added up at a time: 8 MB of float32."""


@dataclass(eq=False)
class _LinearBatch(Batch):
    """Inputs of a linear layer; `arrays` stands for its logits, of which it has shape and dtype and no memory."""

    layer: Batch = field(kw_only=True)

    def gradient_arrays(self, out: Any, read: tuple[Any, ...]) -> list[Array]:
        """One for each input of the layer, where none of the inputs lies: they are read until the end."""
        xp, arrays = self.ops.xp, self.layer.arrays
        made = self.layer.gradient_arrays(out, read)
        return [xp.empty_like(g) if any(xp.may_share_memory(g, x) for x in arrays) else g for g in made]

    def finish(self, grads: list[Array], out: Any) -> Any:
        """As the inputs of the layer are arranged."""
        return self.layer.finish(grads, out)


class LogitOptions(Configurable):
    """What is done to logits before their cross-entropy, and what is added to it."""

    softcap: Annotated[float, Gt(0)] | None = None
    z_loss: Annotated[float, Ge(0)] = 0.0


@register("LinearCrossEntropy.v1", alias="linearce")
class LinearCrossEntropy(CrossEntropy, LogitOptions):
    """Cross-entropy of a linear layer with all its gradients; the logits exist a block of rows at a time.

        z = x W^T + bias,   z = softcap tanh(z / softcap) where that is given
        value = CrossEntropy(z, truth) + z_loss (log sum_j e^z_j)**2
        slope in x = G W,   in W = G^T x,   in bias = sum over rows of G,   with G the slopes in z

    Three products of matrices, as many as the layer itself takes forward and back. Beyond the gradients it needs 64 MB
    of logits and 8 MB of a part of the weight's gradient; on a GPU, where formulas are not compiled, a few times that;
    and for half precision the weight and the gradients of weight and bias in float32.
    Shapes: guesses (x, weight) or (x, weight, bias), x (N, D), weight (C, D), bias (C,); grads as the guesses; truths
    (N,) and all options as `CrossEntropy` has them.   Gradient with respect to: x, weight and bias.
    Errors: as CrossEntropy; ValueError for shapes that do not fit each other.
    Source: same numbers as torch.nn.functional.linear_cross_entropy; the idea is in Wijmans et al. (2024), "Cut your
    losses in large-vocabulary language models", arXiv:2411.09009; softcap as in Gemma 2, arXiv:2408.00118; z_loss as in
    PaLM, arXiv:2204.02311.

    softcap: bound of the logits, None for no bound.   z_loss: factor of the square of log sum exp.
    class_weight, ignore_index, label_smoothing, per_token, check_finite, names, missing_value, neg_prefix: as in
    `CrossEntropy`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("x", "weight")
    optional_inputs: ClassVar[tuple[str, ...]] = ("bias",)

    def read_guesses(self, guesses: Any) -> Batch:
        """The inputs of the layer, and the shape of its logits."""
        name = type(self).__name__
        if not isinstance(guesses, tuple) or len(guesses) not in (2, 3):
            raise fail(name, "guesses", "to be a tuple (x, weight) or (x, weight, bias)", describe(guesses))
        for array in guesses:
            if isinstance(array, list) or is_ragged(array):
                raise fail(name, "guesses", "to be arrays", describe(array))
        layer = Batch.read(name, guesses, (*self.inputs, *self.optional_inputs)[: len(guesses)], "elements")
        x, weight, *bias = layer.arrays
        if x.ndim != 2 or weight.ndim != 2 or not weight.size:
            expected = "arrays of shape (N, D) and (C, D) with C, D >= 1"
            raise fail(name, "x and weight", expected, f"{describe(guesses[0])} and {describe(guesses[1])}")
        check_shape(name, "weight", weight, (len(weight), x.shape[1]), "x along the last axis")
        for b in bias:
            check_shape(name, "bias", b, (len(weight),), "weight along the first axis")
        xp, shape = layer.ops.xp, (len(x), len(weight))
        logits = xp.broadcast_to(xp.zeros((), x.dtype), shape)
        layout = layout_of("classes")
        return _LinearBatch(name, layer.ops, (logits,), (shape,), None, False, layout, shape, (len(x),), layer=layer)

    @property
    def weight_in_formula(self) -> bool:
        """The term of z_loss has no class weight, either."""
        return self.z_loss > 0 or super().weight_in_formula

    def class_weights(self, batch: Batch) -> tuple[Array | None, int]:
        """Beside z_loss small weights stay small: divided by their size, its term would be infinite."""
        weight, exponent = super().class_weights(batch)
        if weight is None or self.z_loss == 0 or exponent >= 0:
            return weight, exponent
        return batch.ops.xp.ldexp(weight, exponent), 0

    @staticmethod
    def formula(  # type: ignore[override]
        xp: Any, x: Any, ids: Any, members: Any, dense: Any, a: Any, s: Any, spread: Any, bias: Any, cap: Any, z: Any
    ) -> tuple[Any, ...]:
        """Value of a row of x W^T, and its slope."""
        logits, curve = x if bias is None else x + bias, 1.0
        if cap is not None:
            ratio = logits / cap
            capped = xp.tanh(ratio)
            # beside a large cap the ratio is nearly 0 and has few digits; there, tanh changes none of the logit's
            logits = xp.where(abs(ratio) < 1e-9, logits, cap * capped)
            # 1 - tanh(u)**2 without a difference, which would be 0 for a logit near its bound
            small = xp.exp(-2.0 * abs(ratio))
            curve = 4.0 * small / ((1.0 + small) * (1.0 + small))
        value, slope = softmax_cross_entropy(xp, logits, ids, members, dense, a, s, spread)
        if z is not None:
            peak, _, e, rest = log_sum_parts(xp, logits)
            log_sum = peak + xp.log1p(rest)
            value, slope = value + z * log_sum * log_sum, slope + e * (2.0 * z * log_sum / (1.0 + rest))
        return value, slope * curve

    @without_float_warnings
    def compute(
        self, batch: Batch, truths: Truths, weights: Weights, needs: Needs, out: list[Array] | None
    ) -> tuple[Array | None, Any]:
        """Block by block: logits, their slopes in the same place, and the products with those."""
        assert isinstance(batch, _LinearBatch)
        ops, xp, (all_logits,) = batch.ops, batch.ops.xp, batch.arrays  # a shape and a dtype, without memory
        (n, classes), dtype = all_logits.shape, compute_dtype(all_logits.dtype)
        x, weight, *bias = batch.layer.arrays
        weight = weight.astype(dtype, copy=False)
        z_loss = math.ldexp(self.z_loss, -truths.exponent) if self.z_loss else None
        more = (bias[0][None, :] if bias else None, self.softcap, z_loss)
        items = weights.items if weights.items is None else xp.broadcast_to(weights.items, (n,))
        step = max(1, BLOCK // classes)
        buffer = xp.empty((min(n, step), classes), dtype)
        sums = [g if g.dtype == dtype else xp.empty(g.shape, dtype) for g in out[1:]] if out else []
        for array in sums:
            array[...] = 0
        values: list[Array] = []
        total: Any = xp.zeros(())
        for start in range(0, n, step):
            block = slice(start, start + step)
            rows, logits = x[block].astype(dtype, copy=False), buffer[: min(step, n - start)]
            kept = None if items is None else (items[block] != 0)[:, None]
            if kept is not None:  # their slopes are 0, but 0 times what they hold need not be
                rows = xp.where(kept, rows, dtype.type(0))
            xp.matmul(rows, weight.T, out=logits)
            row_weight = None if truths.weight is None else truths.weight[block]
            found, sum_ = ops.run(
                self.formula,
                [logits],
                (*self.arguments(batch, Truths(truths.targets[block], weight=row_weight)), *more),
                None if items is None else items[block],
                weights.scale,
                rows=True,
                values=needs.values or self.check_finite,
                total=needs.total,
                out=None if out is None else [logits],
            )
            values += [] if found is None else [found]
            total = total + sum_ if needs.total else None
            if out is not None:
                slopes = xp.matmul(logits, weight)
                out[0][block] = slopes if kept is None else xp.where(kept, slopes, dtype.type(0))
                tile = max(1, TILE // rows.shape[1])
                for first in range(0, classes, tile):
                    sums[0][first : first + tile] += xp.matmul(logits[:, first : first + tile].T, rows)
                for bias_sum in sums[1:]:
                    bias_sum += xp.sum(logits, axis=0)
        for target, array in zip(out[1:] if out else (), sums):
            if target is not array:
                target[...] = array
        joined = xp.concatenate(values) if values else xp.zeros((n, 1), dtype)
        if self.check_finite:
            names = ("gradient", "gradient in weight", "gradient in bias")
            check_finite(batch, {"loss": joined, **dict(zip(names, out or ()))})
        return joined if needs.values else None, total
