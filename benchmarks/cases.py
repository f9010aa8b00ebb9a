"""What is measured: a value and its gradient, through the public call of each library."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lossreg

Call = Callable[[], Any]


@dataclass
class Case:
    """One piece of work, and how each library does it."""

    work: str
    dtype: str
    size: str
    guesses: np.ndarray
    """The array that is read, and whose gradient is written."""
    peers: dict[str, Call] = field(default_factory=dict)


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


def torch_call(module: Any, *arrays: np.ndarray, leaves: int = 1) -> Call:
    """Forward and backward with autograd; the gradient is made anew each time, as ours is."""
    import torch

    tensors = [torch.from_numpy(a) for a in arrays]
    inputs = [t.requires_grad_() for t in tensors[:leaves]]

    def call() -> Any:
        for t in inputs:
            t.grad = None
        loss = module(*tensors)
        loss.backward()
        return loss

    return call


def jax_call(function: Callable[..., Any], *arrays: np.ndarray) -> Call:
    import jax

    compiled = jax.jit(jax.value_and_grad(function))
    inputs = [jax.numpy.asarray(a) for a in arrays]
    return lambda: jax.block_until_ready(compiled(*inputs))


def cross_entropy(rng: np.random.Generator, n: int, c: int, dtype: str) -> Case:
    x, y = rng.normal(size=(n, c)).astype(dtype), rng.integers(0, c, n)
    loss, out = lossreg.CrossEntropy(), np.empty_like(x)
    case = Case("ce on ids", dtype, f"{n}x{c}", x, {"lossreg": lambda: loss(x, y), "out=": lambda: loss(x, y, out=out)})
    if installed("torch"):
        import torch

        case.peers["torch"] = torch_call(torch.nn.CrossEntropyLoss(), x, y)
    if installed("jax", "optax"):
        import optax

        case.peers["jax"] = jax_call(lambda a, b: optax.softmax_cross_entropy_with_integer_labels(a, b).mean(), x, y)
    return case


def elementwise(rng: np.random.Generator, alias: str, n: int, dtype: str) -> Case:
    x, t = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
    if alias in ("bcelogits", "poissonloss"):
        t = rng.random(n).astype(dtype)
    if alias == "softmargin":
        t = rng.choice(np.array([-1, 1], dtype), n)
    loss, out = lossreg.loss(alias), np.empty_like(x)
    peers: dict[str, Call] = {"lossreg": lambda: loss(x, t), "out=": lambda: loss(x, t, out=out)}
    case = Case(alias, dtype, f"{n / 1e6:g}M", x, peers)
    if installed("torch"):
        import torch

        module = getattr(torch.nn, lossreg.help(alias)["torch"].removeprefix("torch.nn."))()
        case.peers["torch"] = torch_call(module, x, t)
    return case


def rows(rng: np.random.Generator, alias: str, n: int, c: int, dtype: str) -> Case:
    """Losses of rows, and of pairs and triplets of vectors."""
    x, y, z = (rng.normal(size=(n, c)).astype(dtype) for _ in range(3))
    ids, signs = rng.integers(0, c, n), rng.choice(np.array([-1, 1], dtype), n)
    soft = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    ended = np.full((n, c), -1)
    ended[:, 0] = ids
    arguments: dict[str, tuple[Any, ...]] = {
        "nll": (np.log(soft), ids), "kl": (np.log(soft), soft), "multimargin": (x, ids), "multilabel": (x, ended),
        "multisoft": (x, soft), "cosineloss": (x, y, signs), "similar": (x, y), "pairwise": (x, y),
        "triplet": (x, y, z),
    }  # fmt: skip
    inputs = arguments[alias]
    outputs = len(lossreg.help(alias)["inputs"]) if alias in ("similar", "pairwise", "triplet") else len(inputs) - 1
    loss = lossreg.loss(alias, reduction="mean")
    guesses = inputs[:outputs] if outputs > 1 else inputs[0]
    truths = inputs[outputs] if len(inputs) > outputs else None
    case = Case(alias, dtype, f"{n}x{c}", x, {"lossreg": lambda: loss(guesses, truths)})
    if installed("torch"):
        import torch

        module = getattr(torch.nn, lossreg.help(alias)["torch"].removeprefix("torch.nn."))
        made = module(reduction="mean") if alias not in ("similar", "pairwise") else module()
        reduced = made if alias not in ("similar", "pairwise") else lambda *a: made(*a).mean()
        case.peers["torch"] = torch_call(reduced, *inputs, leaves=outputs)
    return case


def ctc(rng: np.random.Generator, t: int = 200, n: int = 32, c: int = 64, s: int = 40) -> Case:
    x = rng.normal(size=(t, n, c)).astype("f")
    x -= np.log(np.exp(x).sum(axis=2, keepdims=True))
    targets, frames, lengths = rng.integers(1, c, (n, s)), np.full(n, t), np.full(n, s)
    loss = lossreg.CTC(wrt="logits")
    case = Case("ctc", "float32", f"{t}x{n}x{c}, S={s}", x, {"lossreg": lambda: loss(x, (targets, frames, lengths))})
    if installed("torch"):
        import torch

        case.peers["torch"] = torch_call(torch.nn.CTCLoss(), x, targets, frames, lengths)
    return case


def thinc_cases(rng: np.random.Generator) -> Iterator[Case]:
    thinc = __import__("thinc.api", fromlist=["api"]) if installed("thinc") else None

    def case(name: str, work: str, size: str, guesses: Any, truths: Any, first: np.ndarray, **options: Any) -> Case:
        ours = lossreg.registry.losses.get(f"{name}.v{3 if 'Cross' in name else 1}")(**options)
        made = Case(work, "float32", size, first, {"lossreg": lambda: ours(guesses, truths)})
        if thinc:
            theirs = getattr(thinc, name)(**options)
            made.peers["thinc"] = lambda: theirs(guesses, truths)
        return made

    x = rng.dirichlet(np.ones(10), (2048, 1000)).reshape(2048, 10_000).astype("f")
    yield case(
        "CategoricalCrossentropy", "Thinc's CategoricalCrossentropy", "2048x10000", x, rng.integers(0, 10_000, 2048), x
    )
    names = [f"label {i}" for i in range(50)]
    lengths = rng.integers(5, 39, 256)
    docs = [rng.dirichlet(np.ones(50), int(length)).astype("f") for length in lengths]
    labels = [[names[i] for i in rng.integers(0, 50, int(length))] for length in lengths]
    for part in labels:
        part[0] = "!" + part[0]
        part[-1] = ""
    options = {"names": names, "neg_prefix": "!", "missing_value": ""}
    size = f"256 docs, {int(lengths.sum())} tokens"
    yield case(
        "SequenceCategoricalCrossentropy", "Thinc's Sequence...", size, docs, labels, np.concatenate(docs), **options
    )
    a, b = rng.normal(size=(2, 4096, 300)).astype("f")
    yield case("CosineDistance", "Thinc's CosineDistance", "4096x300", a, b, a)
    yield case("L2Distance", "Thinc's L2Distance", "4096x300", a, b, a)


def all_cases(large: bool) -> Iterator[Case]:
    """In the order of the table. Without `large`, arrays stay below 20 MB."""
    rng = np.random.default_rng(0)
    for n, c in ((32, 10), (1024, 1000), *(((2048, 32_000), (512, 50_257)) if large else ())):
        yield cross_entropy(rng, n, c, "float32")
    for size in (4_000_000, *((33_500_000,) if large else ())):
        for alias in ("mse", "l1", "huber", "smoothl1", "bcelogits", "softmargin", "poissonloss"):
            yield elementwise(rng, alias, size, "float32")
    for dtype in ("float64", "float16"):
        yield elementwise(rng, "huber", 4_000_000, dtype)
    for alias in (
        "kl",
        "nll",
        "cosineloss",
        "similar",
        "pairwise",
        "triplet",
        "multimargin",
        "multilabel",
        "multisoft",
    ):
        yield rows(rng, alias, 4096, 1024 if large else 256, "float32")
    yield ctc(rng)
    if large:
        yield from thinc_cases(rng)
