"""Numbers of CUDA kernels against formulas on NumPy in float64: every length, layout, dtype and special number.

The kernels run on the CPU, or on a device with `-m gpu`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest

import lossreg
from lossreg.ops.cuda import ops as cupy_ops
from support import cuda_on_cpu, devices, standin_cupy
from support.backends import BACKENDS, on_a_device
from support.devices import to_device, to_host
from support.nested import assert_same, each, leaves

GROUPS = [(32, 64), (64, 64)]
"""Threads of a row and of a block: a block has two rows at a time, or one."""

try:
    from ml_dtypes import bfloat16

    HALVES = [np.float16, bfloat16]
except ImportError:
    HALVES = [np.float16]
DTYPES = [*HALVES, np.float32, np.float64]
TOLERANCES = {"float16": 1.2e-3, "bfloat16": 1e-2, "float32": 4e-6, "float64": 1e-12}


@pytest.fixture(params=[*GROUPS, on_a_device], ids=lambda group: f"{group[0]}of{group[1]}" if group in GROUPS else None)
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The stand-in with kernels, or CuPy; a group of "cupy" is the device's own."""
    if request.param != "cupy" and cuda_on_cpu.why_not():
        pytest.skip(str(cuda_on_cpu.why_not()))
    where = devices.device() if request.param == "cupy" else standin_cupy.installed(request.param)
    with where as module, np.errstate(all="ignore"):
        yield module


def expected(loss: Any, guesses: Any, truths: Any, **call: Any) -> Any:
    """(gradient, value) by the generic bodies in float64."""
    exact = each(lambda x: x.astype(np.float64), guesses)
    with lossreg.use_ops(BACKENDS["generic"]):
        return replace(loss, validate="shape")(exact, truths, **call)


def close(found: Any, wanted: Any, dtype: Any) -> None:
    """Equal to the precision of a dtype, and to the smallest number that it has."""
    name = np.dtype(dtype).name
    least = {"float64": 1e-15, "float16": 1e-6}.get(name, 5e-7)  # cosines are differences of numbers near 1
    same = functools.partial(assert_same, rtol=TOLERANCES[name], atol=TOLERANCES[name] * 1e-2 + least)
    same(each(lambda x: np.asarray(x).astype(np.float64), to_host(found)), wanted)


class Case(NamedTuple):
    """A calculator, and its guesses (in float64) and truths of so many rows and columns."""

    loss: Any
    sample: Callable[[np.random.Generator, int, int], tuple[Any, Any]]


def logits(rng: np.random.Generator, n: int, c: int) -> np.ndarray:
    return rng.normal(size=(n, c)) * 3


def one_label(rng: np.random.Generator, n: int, c: int) -> tuple[Any, Any]:
    return logits(rng, n, c), rng.integers(0, c, n)


def shares(rng: np.random.Generator, n: int, c: int) -> tuple[Any, Any]:
    return logits(rng, n, c), rng.dirichlet(np.full(c, 0.3), n)


def some_labels(rng: np.random.Generator, n: int, c: int) -> tuple[Any, Any]:
    return logits(rng, n, c), [set(rng.integers(0, c, 3).tolist()) for _ in range(n)]


def pairs(rng: np.random.Generator, n: int, c: int) -> tuple[Any, Any]:
    a, b = rng.choice([-1.0, 1.0], (2, n, c)) * rng.uniform(0.5, 2.0, (2, n, c))  # short ones have large slopes
    return (a, b), rng.choice([-1.0, 1.0], n)


ROWS = {
    "label": Case(lossreg.CrossEntropy(reduction="none"), one_label),
    "smoothed": Case(lossreg.CrossEntropy(reduction="none", label_smoothing=0.1), one_label),
    "shares": Case(lossreg.CrossEntropy(reduction="none"), shares),
    "sets": Case(lossreg.CrossEntropy(reduction="none"), some_labels),
    "cosine": Case(lossreg.CosineEmbedding(reduction="none", margin=-0.5), pairs),
    "picked": Case(lossreg.NLL(reduction="none"), one_label),
    "margin": Case(lossreg.MultiMargin(reduction="none", p=2), one_label),
}
rows = pytest.mark.parametrize("case", ROWS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


# Lengths


@rows
@dtypes
def test_rows_of_every_length(case: str, dtype: Any, cupy: Any, rng: Any) -> None:
    """Around the elements that a thread reads at a time, the warp and the block; and more rows than groups."""
    loss, sample = ROWS[case]
    for columns in (1, 2, 3, 4, 5, 7, 8, 9, 15, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 511, 513, 1000, 2051):
        guesses, truths = sample(rng, 7 if columns < 40 else 2, columns)
        guesses = each(lambda x: x.astype(dtype), guesses)
        found = loss(to_device(cupy, guesses), to_device(cupy, truths))
        close(found, expected(loss, guesses, truths), dtype)


@dtypes
def test_flat_arrays_over_several_blocks(dtype: Any, cupy: Any, rng: Any) -> None:
    """Rows of 4,096 elements, of which the last is shorter; their total, and their values."""
    for size in (1, 2, 31, 33, 100, 4095, 4096, 4097, 8192, 5 * 4096 + 5):
        guesses, truths = rng.normal(size=(2, size)).astype(dtype)
        for loss in (lossreg.Huber(), lossreg.Huber(reduction="none")):
            found = loss(cupy.asarray(guesses), cupy.asarray(truths))
            close(found, expected(loss, guesses, truths), dtype)


@pytest.mark.parametrize("columns", [1000, 1025, 70_000])
def test_groups_of_a_device(columns: int, rng: Any) -> None:
    """Warps, blocks of 256 and blocks of 512 threads, as on a device."""
    if cuda_on_cpu.why_not():
        pytest.skip(str(cuda_on_cpu.why_not()))
    loss = lossreg.CrossEntropy()
    guesses, truths = one_label(rng, 2, columns)
    guesses = guesses.astype(np.float32)
    with standin_cupy.installed(group=None) as cupy:
        close(loss(cupy.asarray(guesses), cupy.asarray(truths)), expected(loss, guesses, truths), np.float32)


def test_nothing_at_all(cupy: Any) -> None:
    for shape in ((0, 5), (0,), (3, 0), (0, 0)):
        nothing = cupy.asarray(np.zeros(shape, np.float32))
        grad, value = lossreg.Huber()(nothing, nothing)
        assert grad.shape == shape
        assert to_host(value) == 0.0
    grad, value = lossreg.CrossEntropy()(cupy.asarray(np.zeros((0, 5), np.float32)), cupy.asarray(np.zeros(0, int)))
    assert grad.shape == (0, 5)
    assert to_host(value) == 0.0


# Layouts


class Placed:
    """A device array of rows inside a larger one, at an offset and with gaps, and a check of what lies around it."""

    def __init__(self, cupy: Any, host: np.ndarray, offset: int, gap: int) -> None:
        (n, c), self.host = host.shape, np.full(offset + len(host) * (host.shape[1] + gap) + 16, 77).astype(host.dtype)
        self.view_of = lambda x: x[offset : offset + n * (c + gap)].reshape(n, c + gap)[:, :c]
        self.view_of(self.host)[...] = host
        self.there = cupy.asarray(self.host)
        self.array = self.view_of(self.there)

    def check_around(self) -> None:
        """Nothing but the rows was written to."""
        found = to_host(self.there)
        self.view_of(found)[...] = self.view_of(self.host)
        np.testing.assert_array_equal(found, self.host)


OFFSETS = [(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 3, 0), (2, 2, 5), (7, 7, 7), (5, 5, 0)]
"""Of guesses, gradients and truths: they begin at even addresses, all alike or not."""


@pytest.mark.parametrize("case", ["label", "shares", "cosine"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_anywhere_in_memory(case: str, dtype: Any, cupy: Any, rng: Any) -> None:
    loss, sample = ROWS[case]
    for (at, out_at, truth_at), gap, columns in itertools.product(OFFSETS, (0, 1), (3, 130)):
        guesses, truths = sample(rng, 3, columns)
        guesses = each(lambda x: x.astype(dtype), guesses)
        given = each(lambda x: Placed(cupy, x, at, gap), guesses)
        outs = each(lambda x: Placed(cupy, np.zeros_like(x), out_at, gap), guesses)
        out = each(lambda x: x.array, outs)
        beside = Placed(cupy, truths, truth_at, gap).array if truths.ndim == 2 else to_device(cupy, truths)
        grad, values = loss(each(lambda x: x.array, given), beside, out=out)
        assert all(a is b for a, b in zip(leaves(grad), leaves(out), strict=True))
        close((grad, values), expected(loss, guesses, truths), dtype)
        for placed in (*leaves(given), *leaves(outs)):
            placed.check_around()
        for placed, x in zip(leaves(given), leaves(guesses)):
            assert_same(to_host(placed.array), x)


@dtypes
def test_elements_anywhere_in_memory(dtype: Any, cupy: Any, rng: Any) -> None:
    loss = lossreg.Huber(reduction="none")
    for (at, out_at, truth_at), size in itertools.product(OFFSETS, (5, 100, 4100)):
        guesses, truths = rng.normal(size=(2, 1, size)).astype(dtype)
        given, beside, out = (
            Placed(cupy, x, where, 3)
            for x, where in ((guesses, at), (truths, truth_at), (np.zeros_like(guesses), out_at))
        )
        found = loss(given.array[0], beside.array[0], out=out.array[0])
        close(found, expected(loss, guesses[0], truths[0]), dtype)
        out.check_around()


STRIDED = {
    "rows backwards": lambda x: x[::-1],
    "every other row": lambda x: x[::2],
    "columns backwards": lambda x: x[..., ::-1],
    "every third column": lambda x: x[..., ::3],
    "transposed": lambda x: x.T,
}


@pytest.mark.parametrize("how", STRIDED)
@pytest.mark.parametrize("case", ["label", "shares", "cosine", "elements"])
def test_strides(case: str, how: str, cupy: Any, rng: Any) -> None:
    view = STRIDED[how]
    guesses, truths = rng.normal(size=(2, 12, 30)).astype(np.float32)
    given, beside = view(cupy.asarray(guesses)), view(cupy.asarray(truths))
    guesses, truths = view(guesses), view(truths)
    ids = rng.integers(0, guesses.shape[1], len(guesses))
    signs = np.where(ids % 2, 1.0, -1.0)
    loss, arguments, there = {
        "label": (ROWS["label"].loss, (guesses, ids), (given, cupy.asarray(np.repeat(ids, 2))[::2])),
        "shares": (ROWS["shares"].loss, (guesses, abs(truths)), (given, abs(beside))),
        "cosine": (ROWS["cosine"].loss, ((guesses, truths), signs), ((given, beside), cupy.asarray(signs[::-1])[::-1])),
        "elements": (lossreg.Huber(reduction="none"), (guesses, truths), (given, beside)),
    }[case]
    close(loss(*there), expected(loss, *arguments), np.float32)
    out = each(lambda x: view(cupy.asarray(np.zeros((12, 30), np.float32))), there[0])
    grad, values = loss(*there, out=out)
    assert all(a is b for a, b in zip(leaves(grad), leaves(out), strict=True))
    close((grad, values), expected(loss, *arguments), np.float32)


@dtypes
def test_weights_of_rows_of_columns_and_of_elements(dtype: Any, cupy: Any, rng: Any) -> None:
    """What is repeated is read where it lies; a weight of 0 leaves out whatever is there."""
    loss = lossreg.Huber(reduction="sum")
    guesses, truths = rng.normal(size=(2, 6, 5, 33)).astype(dtype)
    for shape in ((6, 5, 33), (6, 1, 1), (1, 5, 1), (6, 5, 1), (33,), (1, 1, 33), (), (1,)):
        weight = np.asarray(rng.integers(0, 3, shape) + (0.5 if not shape else 0.0))
        spoiled = np.where(np.broadcast_to(weight, guesses.shape) == 0, np.nan, guesses.astype("d")).astype(dtype)
        found = loss(cupy.asarray(spoiled), cupy.asarray(truths), sample_weight=cupy.asarray(weight))
        close(found, expected(loss, spoiled, truths, sample_weight=weight), dtype)
    repeated = cupy.broadcast_to(cupy.asarray(truths[:1, :, :1]), truths.shape)
    same = np.broadcast_to(truths[:1, :, :1], truths.shape)
    close(loss(cupy.asarray(guesses), repeated), expected(loss, guesses, same), dtype)


def weighted_sum(xp: Any, x: Any, w: Any) -> Any:
    return xp.row_sum(x * w), w


def of_ties(xp: Any, x: Any) -> Any:
    """What cross-entropy takes of a row in one piece, in pieces."""
    peak = xp.row_max(x)
    at_peak = x == peak
    e = xp.exp(xp.where(at_peak, 0.0, x - peak))
    rest, count = xp.row_sum(xp.where(at_peak, 0.0, e)), xp.row_sum(xp.where(at_peak, 1.0, 0.0))
    return rest + (count - 1.0) + 100.0 * count, e / (1.0 + rest)


@pytest.mark.parametrize("columns", [3, 70])
def test_ties_at_the_maximum_are_counted(columns: int, cupy: Any, rng: Any) -> None:
    x = rng.integers(0, 3, (6, columns)).astype(np.float64)
    given, out, host_out = cupy.asarray(x), cupy.asarray(np.zeros_like(x)), np.zeros_like(x)
    options: dict[str, Any] = {"rows": True, "values": True, "total": False}
    values, _ = lossreg.get_ops(given).run(of_ties, [given], [], None, 1.0, out=[out], **options)
    wanted, _ = BACKENDS["generic"].run(of_ties, [x], [], None, 1.0, out=[host_out], **options)
    assert_same((to_host(values), to_host(out)), (wanted, host_out), rtol=1e-13)


def test_one_row_for_all_rows(cupy: Any, rng: Any) -> None:
    """However far it would be to the next one."""
    x, w = rng.normal(size=(6, 40)), rng.normal(size=(3, 40))
    given, out = cupy.asarray(x), cupy.asarray(np.zeros_like(x))
    options: dict[str, Any] = {"rows": True, "values": True, "total": False, "out": [out]}
    values, _ = lossreg.get_ops(given).run(weighted_sum, [given], [cupy.asarray(w)[1:2]], None, 1.0, **options)
    assert_same(to_host(values)[:, 0], x @ w[1], rtol=1e-12)
    assert_same(to_host(out), np.broadcast_to(w[1], x.shape))


@rows
@dtypes
def test_gradients_in_the_place_of_guesses(case: str, dtype: Any, cupy: Any, rng: Any) -> None:
    loss, sample = ROWS[case]
    for columns, offset in ((1, 0), (5, 1), (33, 0), (300, 0), (301, 1)):
        guesses, truths = sample(rng, 4, columns)
        guesses = each(lambda x: x.astype(dtype), guesses)
        placed = each(lambda x: Placed(cupy, x, offset, 2), guesses)
        given = each(lambda x: x.array, placed)
        found = loss(given, to_device(cupy, truths), out=given)
        close(found, expected(loss, guesses, truths), dtype)
        for part in leaves(placed):
            part.check_around()


# Special numbers

INF, NAN = np.inf, np.nan
SPECIAL = np.array(
    [
        [0.0, 1.0, -INF, 2.0], [-INF, -INF, 0.5, -INF], [-INF, -INF, -INF, -INF], [INF, 0.0, 1.0, 2.0], [INF, INF, 0.0, 1.0],
        [NAN, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, NAN], [INF, -INF, NAN, 0.0], [INF, -INF, 0.0, 0.0], [-0.0, 0.0, -0.0, 0.0],
        [6e4, -6e4, 0.0, 6e4], [-6e4, -6e4, -6e4, -6e4], [1e-7, -1e-7, 0.0, 3.0], [4.0, 4.0, 4.0, 4.0],
    ]
)  # fmt: skip


@pytest.mark.parametrize("case", ["label", "smoothed", "shares", "sets"])
@dtypes
def test_infinities_and_nan(case: str, dtype: Any, cupy: Any) -> None:
    """Where they are, and which thread has them, makes no difference."""
    loss, guesses = ROWS[case].loss, SPECIAL.astype(dtype)
    for width, shift in ((4, 0), (37, 0), (37, 5), (300, 70)):
        wide = np.full((len(guesses), width), -3.0).astype(dtype)
        wide[:, shift : shift + 4] = guesses
        for label in (shift, shift + 2, width - 1):
            truths = {
                "shares": lambda: np.eye(width)[np.full(len(wide), label)] * 0.75 + np.eye(width)[0] * 0.25,
                "sets": lambda: [{label, 0}] * len(wide),
            }.get(case, lambda: np.full(len(wide), label))()
            found = loss(cupy.asarray(wide), to_device(cupy, truths))
            close(found, expected(loss, wide, truths), dtype)


def test_rows_of_equal_and_of_confident_numbers(cupy: Any, rng: Any) -> None:
    """The loss of a confident row is the sum of the others' probabilities, however small; ties at the top are counted."""
    loss = ROWS["label"].loss
    for columns in (2, 40, 1000):
        guesses = np.zeros((5, columns), np.float32)
        guesses[0, :] = 7.5
        guesses[1, ::2] = 3.0
        guesses[2, columns // 2] = 69.0
        guesses[3, -1] = 80.0
        guesses[4, 0], guesses[4, 1] = 30.0, 99.0
        labels = np.array([0, columns - 2, columns // 2, columns - 1, 1])
        found = to_host(loss(cupy.asarray(guesses), cupy.asarray(labels)))
        close(found, expected(loss, guesses, labels), np.float32)
        assert 0 < found[1][2] < 1e-26
        close(found[1][2], (columns - 1) * np.exp(-69.0), np.float32)


ID_DTYPES = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("dtype", ID_DTYPES)
def test_ids_of_any_dtype_and_out_of_range(dtype: Any, cupy: Any, rng: Any) -> None:
    """A row whose id is no column has the value NaN, and nothing outside the row is read."""
    guesses = rng.normal(size=(8, 5)).astype(np.float32)
    limits = np.iinfo(dtype)
    ids = np.array([0, 4, 5, 1, limits.max, limits.min, 3, 100]).astype(dtype)
    inside = (ids >= 0) & (ids < 5)
    for loss in (ROWS["label"].loss, ROWS["smoothed"].loss, ROWS["margin"].loss, lossreg.NLL(reduction="none")):
        grad, values = to_host(loss(cupy.asarray(guesses), cupy.asarray(ids)))
        assert np.isnan(values[~inside]).all()
        close((grad[inside], values[inside]), expected(loss, guesses[inside], ids[inside]), np.float32)


def test_indices_of_eight_bytes(cupy: Any, rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of rows with 2^31 columns, and of others as well if they are told to."""
    index = cupy_ops._index
    assert (index(2**31 - 2), index(2**31 - 1)) == ("int", "long long")
    monkeypatch.setattr(cupy_ops, "_index", lambda columns: "long long")
    guesses, ids = rng.normal(size=(3, 5)).astype(np.float32), np.array([4, 0, 2**32 + 1])
    found = to_host(ROWS["label"].loss(cupy.asarray(guesses), cupy.asarray(ids)))
    close(each(lambda x: x[:2], found), expected(ROWS["label"].loss, guesses[:2], ids[:2]), np.float32)
    assert np.isnan(found[1][2])


@pytest.mark.parametrize("dtype", [*ID_DTYPES, *DTYPES, np.bool_])
@pytest.mark.parametrize("shape", [(300,), (3, 50)])
def test_truths_of_any_dtype(shape: Any, dtype: Any, cupy: Any, rng: Any) -> None:
    guesses, truths = rng.normal(size=shape).astype(np.float32), rng.integers(0, 2, shape).astype(dtype)
    loss = lossreg.BinaryCrossEntropyWithLogits(reduction="none")
    close(loss(cupy.asarray(guesses), cupy.asarray(truths)), expected(loss, guesses, truths), np.float32)
    big = np.full(shape, 100).astype(dtype)
    huber = lossreg.Huber(reduction="none", delta=1000.0)
    close(huber(cupy.asarray(guesses), cupy.asarray(big)), expected(huber, guesses, big.astype("d")), np.float32)


# Halves


def same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    """Bit by bit, but for those of NaN."""
    nan = np.isnan(wanted.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], wanted.view(np.uint16)[~nan])


def itself(xp: Any, x: Any) -> Any:
    return x, x


def truth(xp: Any, x: Any, t: Any) -> Any:
    return t, t


def run(cupy: Any, formula: Any, x: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(slope in the dtype of x, value in the dtype that is computed in)."""
    given = cupy.asarray(x)
    out = cupy.asarray(np.zeros_like(x))
    options: dict[str, Any] = {"rows": False, "values": True, "total": False, "out": [out]}
    values, _ = lossreg.get_ops(given).run(formula, [given], [*map(cupy.asarray, others)], None, 1.0, **options)
    return to_host(out), to_host(values)


@pytest.mark.parametrize("dtype", HALVES)
def test_all_halves_and_back(dtype: Any, cupy: Any) -> None:
    halves = np.arange(65_536, dtype=np.uint16).view(dtype)
    there, values = run(cupy, itself, halves)
    same_bits(there, halves)
    np.testing.assert_array_equal(values, halves.astype(np.float32))


@pytest.mark.parametrize("dtype", HALVES)
def test_floats_are_rounded_to_halves_as_numpy_rounds_them(dtype: Any, cupy: Any, rng: Any) -> None:
    """To nearest, ties to even: half-way between neighbours, next to that, at the largest number and below the least."""
    halves = np.arange(65_536, dtype=np.uint16).view(dtype).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    middle = ((halves[1:].astype("d") + halves[:-1]) / 2).astype(np.float32)
    overflow = np.float32(65_520.0) if dtype == np.float16 else np.float32(3.3961776e38)
    special = np.array([overflow, -overflow, np.inf, np.nan, 0.0, -0.0, 3.4e38, 1e-30, 2e-38], np.float32)
    floats = [middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf)), special]
    floats.append(rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32))
    x = np.concatenate(floats)
    same_bits(run(cupy, truth, np.zeros(x.shape, dtype), x)[0], x.astype(dtype))


# Totals


@pytest.mark.parametrize("rows", [False, True])
def test_totals_are_the_same_bits_each_time(rows: bool, cupy: Any, rng: Any) -> None:
    loss = lossreg.CrossEntropy() if rows else lossreg.Huber()
    guesses = (rng.normal(size=(300, 21)) * 10.0 ** rng.integers(-6, 3, (300, 21))).astype(np.float32)
    truths = rng.integers(0, 21, 300) if rows else np.zeros(guesses.shape, np.float32)
    given, beside = cupy.asarray(guesses), cupy.asarray(truths)
    totals = {to_host(loss.get_loss(given, beside)).tobytes() for _ in range(5)}
    assert len(totals) == 1
    close(loss.get_loss(given, beside), expected(loss, guesses, truths)[1], np.float32)


def test_totals_are_added_in_float64(cupy: Any) -> None:
    """Float32 would leave the ones out."""
    x = np.ones(50_000, np.float32)
    x[7] = 1e9
    assert to_host(lossreg.Value(reduction="sum").get_loss(cupy.asarray(x))) == 1e9 + 49_999


def test_lengths_whose_squares_are_no_floats(cupy: Any, rng: Any) -> None:
    """Squares are added up in float64."""
    loss, guesses = lossreg.CosineEmbedding(reduction="none"), rng.normal(size=(2, 4, 50)).astype(np.float32)
    for scale in (1e-30, 1e30):
        pair = (guesses[0] * np.float32(scale), guesses[1])
        found = loss(to_device(cupy, pair), cupy.asarray(np.ones(4)))
        close(found[1], expected(loss, pair, np.ones(4))[1], np.float32)


# Launches


class Launches:
    """Kernels that note how they are launched, and do nothing."""

    def __init__(self) -> None:
        self.noted: list[tuple[int, int, tuple[Any, ...]]] = []

    def __call__(self, code: str, name: str, options: tuple[str, ...]) -> Any:
        return lambda grid, block, arguments: self.noted.append((*grid, *block, arguments))


@pytest.fixture
def launches() -> Iterator[tuple[Any, Launches]]:
    with (
        mock.patch("support.cuda_on_cpu.why_not", lambda: None),
        standin_cupy.installed(group=None, blocks=None) as cupy,
    ):
        cupy.RawKernel = made = Launches()
        yield cupy, made


@pytest.mark.parametrize(
    ("shape", "blocks", "threads"),
    [
        ((1, 1), 1, 256), ((8, 1024), 1, 256), ((9, 1024), 2, 256), ((1000, 5), 16, 256),
        ((3, 1025), 3, 256), ((100, 1025), 16, 256), ((100, 16_384), 10, 256), ((3, 16_385), 3, 512),
        ((100, 16_385), 8, 512), ((100, 65_536), 2, 512), ((100, 65_537), 2, 1024),
    ],
)  # fmt: skip
def test_a_warp_or_a_block_for_each_row(shape: Any, blocks: int, threads: int, launches: Any) -> None:
    """As many as fit on a device of two processors at a time, of 2,048 threads each, and their rows in 0.7 MB of cache."""
    cupy, made = launches
    ids = cupy.asarray(np.zeros(shape[0], int))
    lossreg.CrossEntropy(reduction="sum")(cupy.asarray(np.zeros(shape, np.float32)), ids)
    ((found_blocks, found_threads, arguments),) = made.noted
    assert (found_blocks, found_threads) == (blocks, threads)
    assert arguments[:3] == (*shape, shape[0] * shape[1])
    assert {type(x) for x in arguments} == {int, float}


def test_each_stream_and_thread_has_its_own_ticket(launches: Any) -> None:
    """Kernels of one stream run in turn; those of two may run at once."""
    cupy, made = launches
    x = cupy.asarray(np.zeros(5, np.float32))

    def ticket(device: int = 0, stream: int = 0) -> Any:
        cupy.cuda.runtime.getDevice = lambda: device
        cupy.cuda.get_current_stream = lambda: SimpleNamespace(ptr=stream)
        lossreg.Value().get_loss(x)
        return made.noted[-1][2][-2:]

    with ThreadPoolExecutor(1) as pool:
        tickets = [ticket(), ticket(stream=1), ticket(device=1), pool.submit(ticket).result()]
        assert len(set(tickets)) == 4
        assert tickets == [ticket(), ticket(stream=1), ticket(device=1), pool.submit(ticket).result()]
    assert all(parts == place + 8 for parts, place in tickets)


# Alignments


@pytest.mark.parametrize("wrt", ["log_probs", "logits"])
@dtypes
def test_alignments(wrt: Any, dtype: Any, cupy: Any, rng: Any) -> None:
    """Sequences of every length, more of them than blocks; classes and targets around a warp; repeated labels; none."""
    loss = lossreg.CTC(reduction="none", wrt=wrt, blank=1)
    for frames, classes, longest in ((1, 2, 1), (6, 3, 4), (9, 33, 3), (40, 5, 17), (70, 40, 33)):
        n = 5
        x = rng.normal(size=(frames, n, classes)) * 2
        x = (x - np.log(np.exp(x).sum(axis=2, keepdims=True))).astype(dtype)
        targets = rng.choice([0, *range(2, classes)], (n, longest))
        targets[0] = targets[0, 0]
        lengths = rng.integers(0, longest + 1, n)
        lengths[:2] = longest, 0
        truths = targets, np.array([frames, frames, frames - 1, 0, frames]), lengths
        wanted = expected(loss, x, truths)
        close(loss(cupy.asarray(x), truths), wanted, dtype)
        given = cupy.asarray(x)
        found = loss(given, truths, out=given)
        assert found[0] is given
        close(found, wanted, dtype)
        close(loss.get_loss(cupy.asarray(np.asfortranarray(x)), truths), wanted[1], dtype)
