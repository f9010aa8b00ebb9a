"""What a PyTorch tensor has beside its numbers: graphs, versions, views, transforms."""

from __future__ import annotations

from typing import Any

import pytest

import lossreg


def tensors() -> tuple[Any, Any, Any]:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    generator = torch.Generator().manual_seed(5)
    return torch, torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)


def test_a_backward_pass_that_needs_what_out_was_written_over_raises() -> None:
    torch, x, t = tensors()
    loss = lossreg.MeanSquaredError()
    leaf = x.clone().requires_grad_()
    for write in (
        lambda saved: loss.get_grad(x, t, out=saved),
        lambda saved: loss(x, t, out=saved),
        lambda saved: loss.get_grad(x[1:], t[1:], out=saved[1:]),  # through a view of it
        lambda saved: loss.get_state_and_grad(x.numpy(), t, out=saved.numpy()) and loss.get_grad(x, t, out=saved),
    ):
        saved = torch.zeros(3, 4)
        product = (leaf * saved).sum()  # keeps `saved`
        write(saved)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()
    targets = tuple(torch.zeros(3, 4) for _ in range(3))
    products = [(leaf * target).sum() for target in targets]
    lossreg.TripletMargin().get_grad((x, t, x), None, out=targets)
    for product in products:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


def test_a_write_is_counted_even_if_the_call_fails_after_it() -> None:
    torch, x, _ = tensors()
    out = torch.zeros(3, 4)
    before = out._version
    with pytest.raises(ArithmeticError):
        lossreg.CrossEntropy(check_finite=True)(x * float("nan"), [0, 1, 2], out=out)
    assert out._version > before


def test_only_what_is_written_to_counts_a_write() -> None:
    torch, x, t = tensors()
    out = torch.zeros(3, 4)
    lossreg.MeanSquaredError()(x, t, mask=torch.ones(3, 4), sample_weight=torch.ones(3, 4), out=out)
    assert (x._version, t._version, out._version) == (0, 0, 1)
    with torch.inference_mode():
        out = torch.zeros(3, 4)
    expected = lossreg.MeanSquaredError().get_grad(x, t)
    assert torch.equal(lossreg.MeanSquaredError().get_grad(x, t, out=out), expected)


def test_out_is_refused_where_pytorch_refuses_it() -> None:
    torch, x, t = tensors()
    loss = lossreg.MeanSquaredError()
    leaf = torch.zeros(3, 4, requires_grad=True)
    for out in (leaf, leaf * 1):
        with pytest.raises(
            ValueError,
            match=r"expected out to be writable, got a torch.float32 array of shape \(3, 4\) that requires grad \(",
        ):
            loss.get_grad(x, t, out=out)
        with pytest.raises(ValueError, match="that requires grad"):
            loss.get_grad(out, t, out=out)
    assert not leaf.any()
    expected = loss.get_grad(x, t)
    assert torch.equal(loss.get_grad(x, t, out=leaf.detach()), expected)
    with torch.no_grad():
        assert torch.equal(loss.get_grad(x, t, out=leaf * 1), expected)
    for out in (torch.zeros(1, 4).expand(3, 4), torch.zeros(10).as_strided((3, 4), (1, 1))):
        with pytest.raises(ValueError, match="expected out of which each item has memory of its own"):
            loss.get_grad(x, t, out=out)
    for out in (torch.zeros(4, 3).t(), torch.zeros(6, 8)[::2, ::2], torch.zeros(3, 1, 4)[:, 0]):
        assert torch.equal(loss.get_grad(x, t, out=out), expected)


def test_negated_views_are_read_and_not_written_to() -> None:
    torch, x, t = tensors()
    loss = lossreg.MeanSquaredError()
    for dtype in (torch.float32, torch.bfloat16):
        x, t = x.to(dtype), t.to(dtype)
        assert torch.equal(loss.get_grad(torch._neg_view(x), t), loss.get_grad(-x, t))
        with pytest.raises(ValueError, match="that is the negated view of another"):
            loss.get_grad(x, t, out=torch._neg_view(torch.zeros(3, 4, dtype=dtype)))
    turned = torch.complex(t.float(), x.float()).conj().imag
    assert torch.equal(loss.get_grad(turned, t.float()), loss.get_grad(-x.float(), t.float()))


ODD: list[tuple[str, Any, str]] = [
    ("a dual", lambda torch, x: torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), "with a tangent of forward-mode"),
    ("meta", lambda torch, x: x.to("meta"), "which has a shape and no data"),
    ("sparse", lambda torch, x: x.to_sparse(), "to_dense"),
    ("sparse rows", lambda torch, x: x.to_sparse_csr(), "to_dense"),
    ("nested", lambda torch, x: torch.nested.nested_tensor([x, x[:2]]), "a nested tensor: pass a list of its sequences"),
    ("jagged", lambda torch, x: torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged), "a nested tensor: pass a list"),
    ("quantized", lambda torch, x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "a quantized tensor: pass x.dequantize"),
    ("fake", lambda torch, x: torch._subclasses.FakeTensorMode().from_tensor(x), "which has a shape and no data"),
    ("uninitialized", lambda torch, x: torch.nn.parameter.UninitializedParameter(requires_grad=False), "uninitialized parameter"),
    ("complex", lambda torch, x: torch.complex(x, x), "numbers"),
    ("conjugated", lambda torch, x: torch.complex(x, x).conj(), "conjugate"),
    ("quarter", lambda torch, x: x.to(torch.float8_e4m3fn), "Float8"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make, why", [odd[1:] for odd in ODD], ids=[odd[0] for odd in ODD])
def test_tensors_that_are_more_or_less_than_their_numbers(make: Any, why: str) -> None:
    torch, x, t = tensors()
    from lossreg.torch import as_module

    loss = lossreg.MeanSquaredError()
    with torch.autograd.forward_ad.dual_level():
        odd = make(torch, x)
        for call in (
            lambda: loss(odd, t), lambda: loss(x, odd), lambda: loss(x, t, mask=odd), lambda: loss(x, t, sample_weight=odd),
            lambda: loss.get_loss(odd, t), lambda: as_module(loss)(odd, t), lambda: as_module(loss)(x, odd),
            lambda: as_module(loss)(x.clone().requires_grad_(), odd), lambda: lossreg.AverageState.from_values(odd),
        ):  # fmt: skip
            with pytest.raises((ValueError, TypeError), match=why) as caught:
                call()
            assert "\n" not in str(caught.value)


def test_transforms_of_torch_func_are_refused_in_a_sentence() -> None:
    torch, x, t = tensors()
    from lossreg.torch import as_module

    loss = lossreg.MeanSquaredError()
    for function in (
        lambda v: as_module(loss)(v, t),
        lambda v: as_module(loss)(x, v),
        lambda v: loss.get_grad(v, t).sum(),
    ):
        for transform in (torch.func.grad, torch.func.vmap, torch.func.jacrev, torch.func.functionalize):
            with pytest.raises(ValueError, match=r"inside torch\.func\.grad, vmap, jvp and the like"):
                transform(function)(x)
        with pytest.raises(ValueError, match=r"inside torch\.func\.grad, vmap, jvp and the like"):
            torch.func.jvp(function, (x,), (x,))


def test_a_derivative_in_the_slopes_is_an_error_and_not_zero() -> None:
    torch, x, t = tensors()
    from lossreg.torch import as_module

    for reduction in ("mean", "none"):
        module = as_module(lossreg.MeanSquaredError(reduction=reduction))
        with pytest.raises(RuntimeError, match="has no second derivative"):
            torch.autograd.functional.jvp(lambda v: module(v, t), x, x)
