"""Runs a case and compares all that comes back with the reference."""

from __future__ import annotations

import atexit
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import lossreg
from lossreg.ops import Ops, get_ops

from .cases import Case, unmoved
from .reference_thinc import THINC
from .tolerance import EPS, LEAST, MOST, Bound, K, Precision, bounds, compare

__all__ = ["Outcome", "make", "run_case"]


class GenericOps(Ops):
    """The bodies that devices inherit, on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(np)


_backends: dict[str, Any] = {}


def backend(name: str) -> Any:
    if name == "cuda" and name not in _backends:
        _backends[name] = cuda_on_cpu()
    if name not in _backends:
        _backends[name] = GenericOps() if name == "generic" else get_ops(name)
    return _backends[name]


def cuda_on_cpu() -> Any:
    """CUDA kernels as g++ compiles them, on arrays of the host; for the rest of this process."""
    from support import devices, standin_cupy

    atexit.register(_installed.close)
    _installed.enter_context(standin_cupy.installed((32, 64)))
    return devices.HostedOps(get_ops("cupy"))


_installed = contextlib.ExitStack()


@dataclass
class Outcome:
    """What became of a case."""

    status: str
    """"compared", "refused" (an expected error) or "wrong"."""
    share: float = 0.0
    """The worst error, as a share of what is tolerated."""
    message: str = ""


def make(name: str, options: dict[str, Any]) -> Any:
    """A calculator by its registered name."""
    if isinstance(options.get("inner"), tuple):
        options = {**options, "inner": make(*options["inner"])}
    return lossreg.registry.losses.get(name)(**options)


def arrays_in(tree: Any) -> Iterator[np.ndarray]:
    """All arrays that a call gets."""
    if isinstance(tree, (tuple, list)):
        for part in tree:
            yield from arrays_in(part)
    elif isinstance(tree, np.ndarray):
        yield tree
    elif hasattr(tree, "dataXd"):
        yield from arrays_in((tree.dataXd, tree.lengths))


def snapshot(tree: Any) -> Any:
    """What a call may not change: bytes and flags of arrays, and all else as text."""
    if isinstance(tree, np.ndarray) and tree.dtype != object:
        return tree.tobytes(), tree.dtype, tree.shape, tree.flags.writeable
    if isinstance(tree, (tuple, list, np.ndarray)):
        return [type(tree), *map(snapshot, tree if len(tree) < 100 else tree[:100])]
    if hasattr(tree, "dataXd"):
        return snapshot((tree.dataXd, tree.lengths))
    return repr(tree)


def warnings_of(backend_name: str) -> Any:
    """What NumPy would warn of is an error, but for the bodies that run without the pipeline of a backend."""
    if backend_name == "generic":
        return np.errstate(all="ignore")
    return np.errstate(divide="raise", over="raise", invalid="raise", under="ignore")


class WrongResultError(Exception):
    """A result that is not what it should be."""


def run_case(case: Case) -> Outcome:
    """Call lossreg as the case says, and compare."""
    inputs = [case.guesses, case.truths, case.call.get("mask"), case.call.get("sample_weight")]
    overwritten = case.out in ("guesses", "overlap", "truths")
    before = None if overwritten else snapshot(inputs)
    threads = lossreg.get_num_threads()
    lossreg.set_num_threads(case.threads)
    try:
        with lossreg.use_ops(backend(case.backend)), warnings_of(case.backend):
            found = call(case, make(case.name, case.options))
    except (ValueError, TypeError) as error:
        refusal = str(error).startswith("Cannot")
        if case.mistake and refusal:
            return Outcome("refused", message=str(error))
        kind = "refused" if refusal else f"raised {type(error).__name__}"
        return Outcome("wrong", message=f"{kind}: {error}")
    except Exception as error:
        return Outcome("wrong", message=f"raised {type(error).__name__}: {error}")
    finally:
        lossreg.set_num_threads(threads)
    if case.mistake:
        return Outcome("wrong", message=f"accepted what is wrong: {case.mistake}")
    if not overwritten and snapshot(inputs) != before:
        return Outcome("wrong", message="an input was written to")
    try:
        with np.errstate(all="ignore"):
            return Outcome("compared", compare_all(case, found))
    except WrongResultError as error:
        return Outcome("wrong", *error.args)


def call(case: Case, loss: Any) -> dict[str, Any]:
    """What the method of the case returns, by the name of what it is."""
    arguments = (case.guesses, case.truths) if case.has_truths else (case.guesses,)
    options = dict(case.call)
    if case.method == "split":
        return {"state": split_state(case, loss)}
    if case.method == "call":
        grad, value = loss(*arguments, **options)
        return {"grad": grad, "loss": value}
    result = getattr(loss, case.method)(*arguments, **options)
    if case.method == "get_state_and_grad":
        return {"state": result[0], "total_grad": result[1]}
    return {{"get_grad": "grad", "get_loss": "loss", "get_values": "values", "get_state": "state"}[case.method]: result}


def split_state(case: Case, loss: Any) -> Any:
    """The states of parts of the batch, merged in another order."""
    tree = case.guesses[0] if isinstance(case.guesses, tuple) else case.guesses
    n = len(tree)
    rng = np.random.default_rng(case.seed)
    cuts = [0, *sorted(rng.integers(0, n + 1, rng.integers(1, 4)).tolist()), n]
    state = loss.empty()
    for start, stop in rng.permutation(list(itertools.pairwise(cuts))).tolist():
        part = slice(start, stop)
        guesses = tuple(x[part] for x in case.guesses) if isinstance(case.guesses, tuple) else case.guesses[part]
        truths = case.truths if case.truths is None else case.truths[part]
        more = {k: cut(v, part, case, n) for k, v in case.call.items()}
        state = state + loss.get_state(guesses, *([truths] if case.has_truths else []), **more)
    return state


def cut(x: Any, part: slice, case: Case, n: int) -> Any:
    """The part of a mask or of weights; what broadcasts along the first axis stays."""
    if isinstance(x, list) and case.spec.arrangement.kind != "array":
        return x[part]
    array = np.asarray(x) if isinstance(x, list) else x
    shape = case.spec.values_shape
    if not hasattr(array, "shape"):
        return x
    axes = len(shape) if case.spec.arrangement.kind == "array" else 2
    is_array = case.spec.arrangement.kind == "array"
    if is_array and array.size == np.prod(shape) and len(array) != n:  # a mask of any shape
        return array.reshape(shape)[part]
    if array.ndim >= axes:
        return array[part] if len(array) == n else x
    # beside a part with as many rows as columns, fewer axes could be read in two ways
    return array.reshape(*(1 for _ in range(len(shape) - array.ndim)), *array.shape) if array.ndim else x


# Comparing


def compare_all(case: Case, found: dict[str, Any]) -> float:
    """The worst share of the tolerance; raises where a result is wrong."""
    precision = Precision(case.computed)
    if "thinc" in case.spec.tags:
        return compare_thinc(case, found, precision)
    problem = case.problem
    if "values" in found:
        problem.options["reduction"] = "none"
    result, limits = bounds(problem, precision, np.random.default_rng(case.seed))
    most, shares = limits["most"], [0.0]
    wants_state = case.problem.options.get("per_token") and "values" not in found
    for what, value in found.items():
        if what == "loss" and wants_state:
            what = "state"
        if what == "state":
            shares.append(check("total", value.total, limits["total"], most))
            if (value.count is None) != (result.count is None):
                raise WrongResultError(np.inf, f"count {value.count} instead of {result.count}")
            if result.count is not None:
                tolerance = np.array(64 * EPS["float64"] * abs(result.count))
                count = Bound(np.array(result.count), tolerance, np.array(0.0))
                shares.append(check("count", value.count, count, most))
        elif what in ("loss", "values"):
            name = "values" if problem.options.get("reduction", default(case)) == "none" else "loss"
            if name == "values":
                value = undress_values(case, value, precision)
            elif type(value) is not float:
                raise WrongResultError(np.inf, f"the loss is {value!r}, and no float")
            shares.append(check(name, value, limits[name], most, precision.name if name == "values" else "float64"))
        else:
            undivided = what == "total_grad" or case.problem.options.get("per_token")
            name = "total_grads" if undivided else "grads"
            for i, grad in enumerate(undress_grads(case, value, precision)):
                if "bounded" in problem.tags and np.isinf(grad).any():
                    raise WrongResultError(np.inf, f"gradient {i}: infinite, where it has a bound")
                limit = visible(case, limits[name][i], grad)
                shares.append(check(f"gradient {i}", grad, limit, most, precision.name))
    return max(shares)


def visible(case: Case, limit: Bound, grad: np.ndarray) -> Bound:
    """A NaN among guesses that count is seen in the value; where in the gradient of its row is not said."""
    if "nan" not in case.problem.tags or limit.reference.shape != grad.shape:
        return limit
    unsaid = np.isnan(case.problem.guesses[0])
    if case.spec.layout not in ("elements", "time"):
        unsaid = unsaid.any(axis=-1, keepdims=True)
    return Bound(np.where(unsaid, grad, limit.reference), limit.tolerance, limit.largest)


def check(what: str, value: Any, limit: Bound, most: float, name: str = "float64") -> float:
    share, problem = compare(value, limit, most, name)
    if problem:
        raise WrongResultError(share, f"{what}: {problem}")
    return share


def default(case: Case) -> str:
    return "none" if case.problem.name in ("CosineSimilarity.v1", "PairwiseDistance.v1") else "mean"


def undress_values(case: Case, values: Any, precision: Precision) -> np.ndarray:
    """Values in the shape of the reference."""
    spec = case.spec
    for x in arrays_in(values.dataXd if hasattr(values, "dataXd") else values):
        if x.size:  # no sequences have no dtype
            expect_dtype(x, precision, "values")
    if spec.layout == "time" or spec.arrangement.kind == "array":
        return np.asarray(values)
    padding(case, values)
    return np.asarray(spec.arrangement.items(values), dtype=np.float64).reshape(spec.values_shape)


def undress_grads(case: Case, grad: Any, precision: Precision) -> list[np.ndarray]:
    """Gradients in the order of the reference, after a look at their structure."""
    trees, guesses = (grad, case.guesses) if isinstance(case.guesses, tuple) else ((grad,), (case.guesses,))
    if type(grad) is not type(case.guesses) and isinstance(case.guesses, (tuple, list)):
        raise WrongResultError(np.inf, f"the gradient is a {type(grad).__name__}")
    if "out" in case.call and grad is not case.call["out"] and not isinstance(grad, tuple):
        raise WrongResultError(np.inf, "the gradient is not `out`")
    found = []
    for tree, guess, plain in zip(trees, guesses, case.problem.guesses, strict=True):
        same_structure(tree, guess, precision)
        found.append(plain_grad(case, tree, plain))
    return found


def same_structure(tree: Any, guess: Any, precision: Precision) -> None:
    parts, others = [tree], [guess]
    if isinstance(guess, list):
        parts, others = tree, guess
    if hasattr(guess, "dataXd"):
        if type(tree) is not type(guess) or list(tree.lengths) != list(guess.lengths):
            raise WrongResultError(np.inf, "the gradient is no Ragged of the same lengths")
        parts, others = [tree.dataXd], [guess.dataXd]
    if len(parts) != len(others):
        raise WrongResultError(np.inf, f"{len(parts)} parts of the gradient for {len(others)} of guesses")
    for part, other in zip(parts, others):
        if not isinstance(part, np.ndarray) or part.shape != other.shape:
            raise WrongResultError(np.inf, f"a gradient {getattr(part, 'shape', part)} for guesses {other.shape}")
        expect_dtype(part, precision, "gradient")


def expect_dtype(x: np.ndarray, precision: Precision, what: str) -> None:
    if x.dtype.name != precision.name:
        raise WrongResultError(np.inf, f"{what} in {x.dtype.name} instead of {precision.name}")


def plain_grad(case: Case, tree: Any, plain: np.ndarray) -> np.ndarray:
    """One gradient in the shape of the reference's guesses."""
    spec, arrangement = case.spec, case.spec.arrangement
    if spec.layout == "time":
        if arrangement.kind == "array":
            return np.asarray(tree, dtype=np.float64).reshape(plain.shape)
        full = np.zeros(plain.shape)
        parts = tree if isinstance(tree, list) else arrangement.parts(tree.dataXd)
        for i, part in enumerate(parts):
            full[: len(part), i] = part
        return full
    padding(case, tree)
    items = np.asarray(arrangement.items(tree), dtype=np.float64)
    if not items.size:
        items = items.reshape(plain.shape if not plain.size else items.shape)
    return unmoved(spec, items) if plain.size else items


def padding(case: Case, tree: Any) -> None:
    """What is beyond the lengths of padded sequences is 0."""
    if case.spec.arrangement.kind == "padded":
        for row, n in zip(tree, case.spec.arrangement.lengths or ()):
            if row[n:].size and np.asarray(row[n:], dtype=np.float64).any():
                raise WrongResultError(np.inf, "padding has a gradient")


def compare_thinc(case: Case, found: dict[str, Any], precision: Precision) -> float:
    """Thinc's numbers: a gradient and a loss that is none of its integrals."""
    problem = case.problem
    with np.errstate(all="ignore"):
        grad, size, loss, loss_size = THINC[problem.name](
            problem.guesses, problem.truths, problem.options, problem.info
        )
    eps = EPS["float32"] if precision.computed == "float32" else EPS["float64"]
    most, shares = MOST[precision.computed], [0.0]
    if "grad" in found:
        value = undress_grads(case, found["grad"], precision)[0]
        tolerance = K * eps * size + EPS[precision.name] * abs(grad) + 8 * LEAST[precision.name]
        shares.append(check("gradient", value, Bound(grad, tolerance, size), most, precision.name))
    if "loss" in found:
        tolerance = np.array(K * eps * loss_size + 64 * LEAST[precision.computed])
        shares.append(check("loss", found["loss"], Bound(np.array(loss), tolerance, np.array(loss_size)), most))
    return max(shares)
