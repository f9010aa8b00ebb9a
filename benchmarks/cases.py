"""What is measured: a value and its gradient, through the public call of each library.

A case is made when it is its turn, from its name, dtype and shape, so that a fresh process can make the same one.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

import lossreg
from lossreg.config.resolve import ALIASES

from . import THREADS

Call = Callable[[], Any]
"""Returns (gradient, value); gradients of several arrays are a tuple."""

PEERS = {"PyTorch": "torch", "JAX": "optax", "Thinc": "thinc", "scikit-learn": "sklearn"}
"""The columns of the table, and what has to be installed for them."""


@dataclass
class Case:
    """One piece of work, and how each library does it."""

    array: np.ndarray
    """The greatest array of guesses: it is read, and its gradient is written."""
    ours: Call
    out: Call | None = None
    peers: dict[str, Call] = field(default_factory=dict)

    @property
    def calls(self) -> dict[str, Call]:
        return {"lossreg": self.ours, **({"out=": self.out} if self.out else {}), **self.peers}


class Data(NamedTuple):
    """A loss and what it is given, on the host: first the arrays that have a gradient, then the truths."""

    twin: str
    """Its name in `torch_twin` and `jax_formula`."""
    loss: Any
    inputs: tuple[np.ndarray, ...]
    leaves: int = 1
    """How many inputs have a gradient."""


class Spec(NamedTuple):
    """How a case is called in the table, and how it is made."""

    work: str
    dtype: str
    shape: tuple[int, ...]
    build: Callable[[Spec], Case]

    @property
    def size(self) -> str:
        n = self.shape[0]
        short = f"{n / 1e6:g}M" if n >= 1e6 else f"{n / 1e3:g}k"
        return short if len(self.shape) == 1 else "x".join(map(str, self.shape))

    @property
    def key(self) -> str:
        return f"{self.work} {self.dtype} {self.size}"

    @property
    def small(self) -> bool:
        """Whether no array is above 20 MB."""
        return math.prod(self.shape[:3]) * np.dtype(self.dtype).itemsize < 20e6

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(0)


@cache
def has(peer: str) -> bool:
    """Whether a library is to be measured and can be; the first answer also sets it up."""
    if peer not in PEERS or not importlib.util.find_spec(PEERS[peer]):
        return False
    if peer == "PyTorch":
        import torch

        torch.set_num_threads(THREADS)
    if peer == "JAX":
        import jax

        jax.config.update("jax_enable_x64", True)  # or it would read float64 as float32
    return True


def registered(name: str) -> bool:
    return name in ALIASES or name in lossreg.registry.losses


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return rng.standard_normal(shape, dtype="f").astype(dtype, copy=False)


def split(inputs: tuple[Any, ...], leaves: int) -> tuple[Any, Any]:
    """(guesses, truths) as a calculator takes them: tuples of several arrays, the array itself or None."""
    parts = (inputs[:leaves], inputs[leaves:])
    guesses, truths = (part if len(part) > 1 else part[0] if part else None for part in parts)
    return guesses, truths


def calls(loss: Any, guesses: Any, truths: Any, empty_like: Callable[[Any], Any] = np.empty_like) -> dict[str, Call]:
    """A call that makes its gradient, and where it can be one that is given where to put it."""
    made: dict[str, Call] = {"lossreg": lambda: loss(guesses, truths)}
    if not isinstance(guesses, list) and "out" in inspect.signature(loss.__call__).parameters:
        out = tuple(map(empty_like, guesses)) if isinstance(guesses, tuple) else empty_like(guesses)
        made["out="] = lambda: loss(guesses, truths, out=out)
    return made


def torch_call(function: Callable[..., Any], tensors: Sequence[Any], leaves: int) -> Call:
    """Forward and backward with autograd; the gradient is made anew each time, as ours is."""
    inputs = [t.requires_grad_() for t in tensors[:leaves]]

    def call() -> Any:
        for t in inputs:
            t.grad = None
        loss = function(*tensors)
        loss.backward()
        return tuple(t.grad for t in inputs), loss.detach()

    return call


def jax_call(function: Callable[..., Any], arrays: Sequence[np.ndarray], leaves: int) -> Call:
    """value_and_grad, compiled."""
    import jax

    compiled = jax.jit(jax.value_and_grad(function, argnums=tuple(range(leaves))))
    inputs = [jax.numpy.asarray(a) for a in arrays]
    return lambda: jax.block_until_ready(compiled(*inputs))[::-1]


def jax_formula(name: str) -> Callable[..., Any] | None:
    """The loss as Optax has it; None where it has no twin."""
    import optax
    from jax import numpy as jnp

    found: dict[str, Callable[..., Any]] = {
        "ce": lambda x, t: optax.softmax_cross_entropy_with_integer_labels(x, t).mean(),
        "mse": lambda x, t: optax.squared_error(x, t).mean(),
        "l1": lambda x, t: jnp.abs(x - t).mean(),
        "huber": lambda x, t: optax.huber_loss(x, t).mean(),
        "bcelogits": lambda x, t: optax.sigmoid_binary_cross_entropy(x, t).mean(),
        "poissonloss": lambda x, t: (jnp.exp(x) - t * x).mean(),
        "focal": lambda x, t: optax.sigmoid_focal_loss(x, t, alpha=0.25, gamma=2.0).mean(),
        "kl": lambda x, t: optax.kl_divergence(x, t).mean() / x.shape[1],
        "nll": lambda x, t: -jnp.take_along_axis(x, t[:, None], axis=1).mean(),
        "similar": lambda x, y: optax.cosine_similarity(x, y, epsilon=1e-8).mean(),
        "pairwise": lambda x, y: jnp.linalg.norm(x - y + 1e-6, axis=1).mean(),
        "triplet": lambda x, y, z: optax.losses.triplet_margin_loss(x, y, z).mean(),
        "multisoft": lambda x, t: optax.sigmoid_binary_cross_entropy(x, t).mean(),
        "ctc": lambda x, t, frames, lengths: (
            optax.ctc_loss(x.transpose(1, 0, 2), jnp.zeros(x.shape[1::-1]), t, jnp.zeros(t.shape)).mean() / t.shape[1]
        ),
    }
    return found.get(name)


LINEAR, CHUNKED, PLAIN = "LinearCrossEntropy.v1", "linear_cross_entropy", "linear, then cross_entropy"


def torch_twin(name: str) -> Callable[..., Any] | None:
    """The twin in torch.nn; for the focal loss the formula that torchvision publishes."""
    import torch
    from torch.nn import functional

    if name == "focal":

        def sigmoid_focal_loss(x: Any, t: Any) -> Any:
            p, ce = torch.sigmoid(x), functional.binary_cross_entropy_with_logits(x, t, reduction="none")
            p_t = p * t + (1 - p) * (1 - t)
            return ((0.25 * t + 0.75 * (1 - t)) * (ce * (1 - p_t) ** 2)).mean()

        return sigmoid_focal_loss
    if name == PLAIN:
        return lambda x, weight, t: functional.cross_entropy(functional.linear(x, weight), t)
    if name == CHUNKED:  # torch 2.13
        fused = getattr(functional, "linear_cross_entropy", None)
        return fused and partial(fused, options=torch.nn.LinearCrossEntropyOptions())
    module = getattr(torch.nn, lossreg.help(name)["torch"].removeprefix("torch.nn."))()
    return lambda *tensors: module(*tensors).mean()


def on_host(build: Callable[[Spec], Data], spec: Spec) -> Case:
    """A case of NumPy arrays."""
    data = build(spec)
    ours = calls(data.loss, *split(data.inputs, data.leaves))
    case = Case(max(data.inputs[: data.leaves], key=np.size), ours["lossreg"], ours.get("out="))
    if has("PyTorch") and (twin := torch_twin(data.twin)):
        import torch

        case.peers["PyTorch"] = torch_call(twin, [torch.from_numpy(a) for a in data.inputs], data.leaves)
    if has("JAX") and (formula := jax_formula(data.twin)):
        case.peers["JAX"] = jax_call(formula, data.inputs, data.leaves)
    return case


def cross_entropy(spec: Spec) -> Data:
    x, t = normal(spec.rng, spec.shape, spec.dtype), spec.rng.integers(0, spec.shape[1], spec.shape[0])
    return Data("ce", lossreg.CrossEntropy(), (x, t))


def elementwise(spec: Spec) -> Data:
    rng = spec.rng
    x, t = normal(rng, spec.shape, spec.dtype), normal(rng, spec.shape, spec.dtype)
    if spec.work in ("bcelogits", "poissonloss", "focal"):
        t = rng.random(spec.shape, dtype="f").astype(spec.dtype, copy=False)
    if spec.work == "softmargin":
        t = np.sign(t) + (t == 0)
    options = {"alpha": 0.25} if spec.work == "focal" else {}  # torchvision's default
    return Data(spec.work, lossreg.loss(spec.work, **options), (x, t))


def rows(spec: Spec) -> Data:
    """Losses of rows, and of pairs and triplets of vectors."""
    alias, rng, (n, c) = spec.work, spec.rng, spec.shape
    x, y, z = (normal(rng, spec.shape, spec.dtype) for _ in range(3))
    ids, signs = rng.integers(0, c, n), rng.choice(np.array([-1, 1], spec.dtype), n)
    soft, other = (np.exp(a) / np.exp(a).sum(axis=1, keepdims=True) for a in (x, y))
    ended = np.full((n, c), -1)
    ended[:, 0] = ids
    inputs: tuple[np.ndarray, ...] = {
        "nll": (np.log(soft), ids), "kl": (np.log(soft), other), "multimargin": (x, ids), "multilabel": (x, ended),
        "multisoft": (x, soft), "cosineloss": (x, y, signs), "similar": (x, y), "pairwise": (x, y),
        "triplet": (x, y, z),
    }[alias]  # fmt: skip
    leaves = len(inputs) if alias in ("similar", "pairwise", "triplet") else len(inputs) - 1
    return Data(alias, lossreg.loss(alias, reduction="mean"), inputs, leaves)


def ctc(spec: Spec) -> Data:
    t, n, c, s = spec.shape
    x = normal(spec.rng, (t, n, c), spec.dtype)
    x -= np.log(np.exp(x).sum(axis=2, keepdims=True))
    targets = spec.rng.integers(1, c, (n, s))
    return Data("ctc", lossreg.CTC(wrt="logits"), (x, targets, np.full(n, t), np.full(n, s)))


def linear(twin: str, spec: Spec) -> Data:
    """A linear layer without bias and cross-entropy: the gradients are those of its input and of its weight."""
    n, d, c = spec.shape
    x, weight = normal(spec.rng, (n, d), spec.dtype), normal(spec.rng, (c, d), spec.dtype) / np.float32(d**0.5)
    inputs = x, weight.astype(spec.dtype, copy=False), spec.rng.integers(0, c, n)
    return Data(twin, lossreg.registry.losses.get(LINEAR)(), inputs, leaves=2)


def thinc(name: str, spec: Spec) -> Case:
    rng = spec.rng
    guesses: Any
    options: dict[str, Any] = {}
    if name == "SequenceCategoricalCrossentropy":
        names, lengths = [f"label {i}" for i in range(spec.shape[2])], rng.integers(5, 39, spec.shape[0])
        guesses = [rng.dirichlet(np.ones(len(names)), int(length)).astype("f") for length in lengths]
        truths: Any = [[names[i] for i in rng.integers(0, len(names), int(length))] for length in lengths]
        for labels in truths:
            labels[0], labels[-1] = "!" + labels[0], ""
        options = {"names": names, "neg_prefix": "!", "missing_value": ""}
    elif name == "CategoricalCrossentropy":
        guesses = rng.random(spec.shape, dtype="f")
        guesses /= guesses.sum(axis=1, keepdims=True)
        truths = rng.integers(0, spec.shape[1], spec.shape[0])
    else:
        guesses, truths = normal(rng, spec.shape, "f"), normal(rng, spec.shape, "f")
    ours = lossreg.registry.losses.get(f"{name}.v{3 if 'Cross' in name else 1}")(**options)
    case = Case(np.concatenate(guesses) if options else guesses, *calls(ours, guesses, truths).values())
    if has("Thinc"):
        import thinc.api

        theirs = getattr(thinc.api, name)(**options)
        case.peers["Thinc"] = lambda: theirs(guesses, truths)
    return case


SKLEARN: dict[str, tuple[str, dict[str, Any]]] = {
    "HalfBinomialLoss": ("bcelogits", {}), "HalfPoissonLoss": ("poissonloss", {}), "HalfMultinomialLoss": ("ce", {}),
    "PinballLoss": ("Quantile.v1", {"quantile": 0.9}),
}  # fmt: skip
"""Losses of scikit-learn's boosting, and our twins."""


def sklearn(name: str, spec: Spec) -> Case:
    """What scikit-learn's boosting asks for: the value and the gradient of every sample."""
    alias, options = SKLEARN[name]
    rng, n = spec.rng, spec.shape[0]
    x, t = normal(rng, spec.shape, spec.dtype), normal(rng, (n,), spec.dtype)
    if name != "PinballLoss":
        t = rng.integers(0, 2 if len(spec.shape) == 1 else spec.shape[1], n)
    labels = t.astype(spec.dtype, copy=False)
    ours = lossreg.loss(alias, reduction="none", **options)
    case = Case(x, *calls(ours, x, t if alias == "ce" else labels).values())
    if has("scikit-learn"):
        import sklearn._loss

        theirs = getattr(sklearn._loss, name)(**options, **({"n_classes": spec.shape[1]} if alias == "ce" else {}))
        case.peers["scikit-learn"] = lambda: theirs.loss_gradient(labels, x, n_threads=THREADS)[::-1]
    return case


def all_specs() -> Iterator[Spec]:
    """In the order of the table."""
    for shape in ((32, 10), (1024, 1000), (2048, 32_000), (512, 50_257)):
        yield Spec("ce", "float32", shape, partial(on_host, cross_entropy))
    for dtype in ("float16", "float64"):
        yield Spec("ce", dtype, (1024, 1000), partial(on_host, cross_entropy))
    for n in (4_000_000, 33_500_000):
        for alias in ("mse", "l1", "huber", "smoothl1", "bcelogits", "softmargin", "poissonloss", "focal"):
            if registered(alias):
                yield Spec(alias, "float32", (n,), partial(on_host, elementwise))
    for dtype in ("float64", "float16"):
        for alias in ("mse", "huber", "bcelogits"):
            yield Spec(alias, dtype, (4_000_000,), partial(on_host, elementwise))
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
        yield Spec(alias, "float32", (4096, 1024), partial(on_host, rows))
    yield Spec("ctc", "float32", (200, 32, 64, 40), partial(on_host, ctc))
    if registered(LINEAR):
        for n in (1024, 4096):
            for twin in (CHUNKED, PLAIN):
                build = partial(on_host, partial(linear, twin))
                yield Spec(f"linear + ce (beside {twin})", "float32", (n, 512, 32_000), build)
    for name, shape in (
        ("CategoricalCrossentropy", (2048, 10_000)),
        ("SequenceCategoricalCrossentropy", (256, 22, 50)),
        ("CosineDistance", (4096, 300)),
        ("L2Distance", (4096, 300)),
        ("L2Distance", (4096, 3000)),
    ):
        yield Spec(f"Thinc's {name}", "float32", shape, partial(thinc, name))
    for name, (alias, _) in SKLEARN.items():
        for dtype in ("float32", "float64") if registered(alias) else ():
            shape = (400_000, 10) if alias == "ce" else (4_000_000,)
            yield Spec(f"scikit-learn's {name} (unreduced)", dtype, shape, partial(sklearn, name))
