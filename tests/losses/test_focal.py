"""SigmoidFocal beside Optax's and torchvision's formulas, and far out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossreg
from support.nested import assert_same
from support.table import far_logits, mp, ref_focal


def compare(loss: Any, guesses: Any, truths: Any, values: Any, slopes: Any, rtol: float = 1e-13) -> None:
    assert_same(loss.get_values(guesses, truths), values, rtol=rtol, atol=1e-300)
    assert_same(loss.get_grad(guesses, truths), slopes, rtol=rtol, atol=1e-15)


FOCAL = [{}, dict(gamma=0.0), dict(gamma=0.5, alpha=0.25), dict(gamma=1.0, alpha=0.0), dict(gamma=3.7, alpha=1.0)]


def soft(rng: Any) -> tuple[Any, Any]:
    truths = rng.random((40, 3))
    return rng.normal(size=(40, 3)) * 4, np.where(truths < 0.3, 0.0, np.where(truths > 0.7, 1.0, truths))


def optax_formula(torch: Any, x: Any, t: Any, alpha: Any = None, gamma: float = 2.0) -> Any:
    """The power by the logarithm of the weighted sum of both probabilities."""
    yes, no = torch.nn.functional.logsigmoid(x), torch.nn.functional.logsigmoid(-x)
    power = torch.logsumexp(torch.stack([yes + torch.log(1 - t), no + torch.log(t)]), 0) * gamma
    found = (-t * yes - (1 - t) * no) * torch.exp(power)
    return found if alpha is None else found * (alpha * t + (1 - alpha) * (1 - t))


def torchvision_formula(torch: Any, x: Any, t: Any, alpha: Any = None, gamma: float = 2.0) -> Any:
    """The power of one minus the probability of the truth; no alpha is a negative one."""
    p, alpha = torch.sigmoid(x), -1.0 if alpha is None else alpha
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
    found = entropy * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
    return found * (alpha * t + (1 - alpha) * (1 - t)) if alpha >= 0 else found


@pytest.mark.parametrize("options", FOCAL, ids=str)
@pytest.mark.parametrize("formula, rtol", [(optax_formula, 1e-12), (torchvision_formula, 1e-9)])
def test_focal_losses_of_others(formula: Any, rtol: float, options: Any, backend: Any, rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    guesses, truths = soft(rng)
    x = torch.tensor(guesses, requires_grad=True)
    values = formula(torch, x, torch.tensor(truths), **options)
    values.sum().backward()
    loss = lossreg.SigmoidFocal(reduction="sum", **options)
    compare(loss, guesses, truths, values.detach().numpy(), x.grad.numpy(), rtol)


def test_focal_loss_without_a_power_is_the_cross_entropy(backend: Any, rng: Any) -> None:
    plain, loss = lossreg.BinaryCrossEntropyWithLogits(reduction="sum"), lossreg.SigmoidFocal(gamma=0, reduction="sum")
    for guesses, truths in (soft(rng), far_logits(), (np.array([np.inf, -np.inf, -np.inf]), np.array([1.0, 0.0, 1.0]))):
        compare(loss, guesses, truths, plain.get_values(guesses, truths), plain.get_grad(guesses, truths), 1e-15)


@pytest.mark.parametrize("options", FOCAL, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_focal_loss_far_out(options: Any, dtype: str, backend: Any) -> None:
    """Values and slopes are right and finite where probabilities are 0 or 1, also of powers below 1."""
    pytest.importorskip("mpmath", reason="mpmath is not installed: pip install mpmath")
    guesses, truths = (x.astype(dtype) for x in far_logits())
    loss = lossreg.SigmoidFocal(reduction="sum", **options)
    values, slopes = np.empty_like(guesses), np.empty_like(guesses)
    with mp.workdps(60):
        for i, (x, t) in enumerate(zip(guesses, truths, strict=True)):
            x, t = mp.mpf(float(x)), mp.mpf(float(t))
            values[i] = ref_focal(x, t, options)
            slopes[i] = mp.diff(lambda x, t=t: ref_focal(x, t, options), x)
    rtol = 5e-6 if dtype == "float32" else 2e-14
    assert_same(loss.get_values(guesses, truths), values, rtol=rtol, atol=1e-37)
    assert_same(loss.get_grad(guesses, truths), slopes, rtol=rtol, atol=1e-37)
