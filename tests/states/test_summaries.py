"""Summaries: what is kept of the data, and how it is shown."""

from __future__ import annotations

import doctest
import importlib
import io
import itertools
import math
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lossreg import Config, ConfigError, registry, summaries
from lossreg.arrays.trees import tree_map
from support import standin_cupy
from support.nested import frozen


@pytest.fixture
def cupy() -> Iterator[Any]:
    with standin_cupy.installed() as module:
        yield module


@pytest.fixture
def pillow() -> Any:
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'lossreg[summaries]'")


@pytest.fixture
def matplotlib() -> Any:
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'lossreg[summaries]'")


SUMMARIES = {
    "images": (summaries.ShowImages(num_images=7), lambda rng: {"images": rng.random((10, 4, 5, 3))}),
    "histogram": (summaries.Histogram(num_buckets=4), lambda rng: {"tensor": rng.normal(size=(10, 3))}),
    "table": (
        summaries.ShowTable(num_rows=7),
        lambda rng: {"columns": {"n": np.arange(10), "text": list("abcdefghij"), "x": rng.random((10, 2))}},
    ),
    "boxes": (
        summaries.ShowBoxes(num_images=7, num_colors=3),
        lambda rng: {
            "images": rng.random((10, 6, 5, 3)),
            "boxes": rng.random((10, 4, 4)),
            "boxes_mask": rng.random((10, 4, 1)) < 0.7,
        },
    ),
    "differences": (
        summaries.ShowDifferenceImages(num_images=7, vrange=(0.1, 0.8)),
        lambda rng: {"images1": rng.random((10, 4, 5, 3)), "images2": rng.random((10, 4, 5, 3))},
    ),
    "segmentations": (
        summaries.ShowSegmentations(num_images=7, entropy=True),
        lambda rng: {"segmentations": rng.dirichlet(np.ones(3), (10, 4, 5))},
    ),
}
every_summary = pytest.mark.parametrize("name", SUMMARIES)


@pytest.fixture(autouse=True)
def needs_matplotlib(request: pytest.FixtureRequest) -> None:
    """A colour map is one of matplotlib's."""
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("name") == "differences":
        request.getfixturevalue("matplotlib")


def result(state: Any) -> Any:
    """The numbers of a result."""
    found = state.compute()
    if isinstance(found, summaries.Buckets):
        return [*found.counts, *found.edges, found.left_out]
    return repr(found) if isinstance(found, summaries.Rows) else found.array.tolist()


def part(inputs: Any, cut: slice) -> Any:
    return {k: part(v, cut) if isinstance(v, dict) else v[cut] for k, v in inputs.items()}


@every_summary
def test_split_batches_merge_to_the_whole(name: str, rng: Any) -> None:
    metric, draw = SUMMARIES[name]
    inputs = {key: value if isinstance(value, dict) else frozen(value) for key, value in draw(rng).items()}
    whole = metric.get_state(**inputs)
    a, b, c = (metric.get_state(**part(inputs, cut)) for cut in (slice(0, 2), slice(2, 5), slice(5, 10)))
    none = metric.empty()
    for state in ((a + b) + c, a + (b + c), none + a + none + (b + c), pickle.loads(pickle.dumps(a + b)) + c):
        assert result(state) == result(whole)
        assert result(state.finalize()) == result(whole)
        assert state.parent == metric


def test_a_histogram_does_not_depend_on_the_order(rng: Any) -> None:
    metric = summaries.Histogram(num_buckets=4)
    states = [metric.get_state(tensor=rng.normal(size=n)) for n in (1, 5, 9)]
    first, *others = (result(a + b + c) for a, b, c in itertools.permutations(states))
    assert all(other == first for other in others)


@every_summary
def test_a_context_is_as_good_as_arguments(name: str, rng: Any) -> None:
    metric, draw = SUMMARIES[name]
    inputs = draw(rng)
    paths = {
        key: {column: f"batch.{key}.{column}" for column in value} if isinstance(value, dict) else f"batch.{key}"
        for key, value in inputs.items()
    }
    bound = type(metric)(**{**metric.options(), **paths})
    assert result(bound.get_state_from_context({"batch": inputs})) == result(metric.get_state(**inputs))
    text = Config({"metric": bound.to_config()}).to_str()
    again = registry.resolve(Config().from_str(text))["metric"]
    assert again == bound
    assert hash(again) == hash(bound)
    with pytest.raises(KeyError, match="Cannot find 'batch"):
        bound(context={})
    with pytest.raises(ConfigError, match=f"{next(iter(inputs))}: this option is needed"):
        metric(context={"batch": inputs})


@every_summary
def test_what_is_kept_stays_on_the_device_until_the_end(name: str, cupy: Any, rng: Any) -> None:
    metric, draw = SUMMARIES[name]
    inputs = draw(rng)
    there = tree_map(lambda x: cupy.asarray(x) if isinstance(x, np.ndarray) else x, inputs)
    state = metric.get_state(**part(there, slice(3))) + metric.get_state(**part(there, slice(3, None)))
    with standin_cupy.allow_reading():
        assert result(state) == result(metric.get_state(**inputs))


# Images


def test_images_of_all_dtypes_have_one_scale(rng: Any) -> None:
    x = rng.integers(0, 256, (2, 3, 4, 1))
    metric = summaries.ShowImages()
    expected = x / 255
    for images in (x.astype(np.uint8), x / 255, (x / 255).astype(np.float32), (x / 255).tolist()):
        shown = metric(images=images)
        assert shown.array.dtype == np.float32
        np.testing.assert_allclose(shown.array, expected, atol=1e-7)
    np.testing.assert_allclose(metric(images=np.float16(x / 255)).array, expected, atol=1e-3)
    assert np.array_equal(metric(images=x > 99).array, x > 99)
    both = metric.get_state(images=x.astype(np.uint8)) + metric.get_state(images=x / 255)
    np.testing.assert_allclose(both.compute().array, np.concatenate([expected, expected]), atol=1e-7)
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    np.testing.assert_allclose(metric(images=(x / 255).astype(ml_dtypes.bfloat16)).array, expected, atol=1e-2)


def test_the_first_images_are_kept_of_any_leading_axes(rng: Any) -> None:
    x = rng.random((2, 3, 4, 5, 3))
    shown = summaries.ShowImages(num_images=4)(images=x)
    np.testing.assert_allclose(shown.array, x.reshape(6, 4, 5, 3)[:4], atol=1e-7)
    assert len(summaries.ShowImages(num_images=9)(images=x)) == 6
    assert len(summaries.ShowImages()(images=x[0, 0])) == 1
    assert repr(shown) == "Images(shape=(4, 4, 5, 3))"


def test_ranges_are_clipped_and_scaled() -> None:
    x = np.array([-1.0, 0.0, 1.0, 3.0, 5.0, math.nan, math.inf, -math.inf]).reshape(1, 2, 4, 1)
    shown = lambda **options: summaries.ShowImages(**options)(images=x).array.ravel().tolist()  # noqa: E731
    assert shown() == [0, 0, 1, 1, 1, 0, 1, 0]
    assert shown(in_vrange=(-1, 3)) == [0, 0.25, 0.5, 1, 1, 0, 1, 0]
    assert summaries.ShowImages(in_vrange=(0, 0.5))(images=np.uint8([[[51], [255]]])).array.ravel().tolist() == [
        pytest.approx(0.4), 1.0
    ]  # fmt: skip


def test_images_are_arrays() -> None:
    images = summaries.Images(np.ones((1, 2, 2, 1), np.float32))
    assert np.asarray(images) is images.array
    assert np.array(images) is not images.array
    assert np.asarray(images, dtype=np.float64).dtype == np.float64
    assert np.mean(images) == 1.0


def test_pictures(pillow: Any) -> None:
    x = np.linspace(0, 1, 2 * 2 * 3 * 3).reshape(2, 2, 3, 3)
    shown = summaries.ShowImages()(images=x)
    pictures = shown.to_pil()
    assert [p.mode for p in pictures] == ["RGB", "RGB"]
    assert np.array_equal(np.stack([np.asarray(p) for p in pictures]), np.floor(np.float32(x) * 255 + 0.5))
    side_by_side = np.asarray(pillow.open(io.BytesIO(shown._repr_png_())))
    assert np.array_equal(side_by_side, np.concatenate([np.asarray(p) for p in pictures], axis=1))
    grey = summaries.ShowImages()(images=np.uint8([[[[7], [250]]]]))
    assert grey.to_pil()[0].mode == "L"
    assert np.asarray(grey.to_pil()[0]).tolist() == [[7, 250]]
    none = summaries.ShowImages().empty().compute()
    assert (len(none), none.to_pil(), none._repr_png_()) == (0, [], None)


def test_colour_maps(matplotlib: Any) -> None:
    x = np.array([2.0, 3.0, 4.0, math.nan]).reshape(1, 2, 2, 1)
    colours = matplotlib.colormaps["viridis"]
    shown = lambda x, **options: summaries.ShowImages(cmap="viridis", **options)(images=x).array  # noqa: E731
    expected = colours([0.0, 0.5, 1.0, 0.0])[:, :3].reshape(1, 2, 2, 3)
    np.testing.assert_allclose(shown(x), expected, atol=1e-7)
    np.testing.assert_allclose(shown(x, in_vrange=(0, 4)).reshape(4, 3), colours([0.5, 0.75, 1, 0.0])[:, :3], atol=1e-7)
    for flat in (0.25, math.nan):
        one = shown(np.full((1, 1, 1, 1), flat))
        np.testing.assert_allclose(one.ravel(), colours(0.25 if flat == flat else 0.0)[:3], atol=1e-7)
    with pytest.raises((KeyError, ValueError), match="virid"):
        summaries.ShowImages(cmap="viridi")(images=x)


@pytest.mark.parametrize(
    "options, images, sentence",
    [
        ({}, np.zeros((2, 4, 4)), "images of shape (..., h, w, 1 or 3), got a float64 array of shape (2, 4, 4)."),
        ({}, np.zeros((4, 3)), "images of shape (..., h, w, 1 or 3), got a float64 array of shape (4, 3)."),
        (
            {"cmap": "gray"},
            np.zeros((4, 4, 3)),
            "images of shape (..., h, w, 1) for a colour map, got a float64 array of shape (4, 4, 3).",
        ),
        ({}, np.zeros((4, 4, 1), int), "images of floats, bools or uint8, got a int64 array of shape (4, 4, 1)."),
    ],
)
def test_what_is_no_image(options: Any, images: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        summaries.ShowImages(**options)(images=images)
    assert str(caught.value) == f"Cannot calculate ShowImages: expected {sentence}"


@pytest.mark.parametrize(
    "make, sentence",
    [
        (
            lambda: summaries.ShowImages(in_vrange=(1, 1)),
            "in_vrange: should be (low, high) with low < high, got (1.0, 1.0)",
        ),
        (lambda: summaries.ShowImages(num_images=0), "num_images: should be greater than or equal to 1, got 0"),
        (lambda: summaries.Histogram(num_buckets=0), "num_buckets: should be greater than or equal to 1, got 0"),
        (lambda: summaries.ShowTable(num_rows=0), "num_rows: should be greater than or equal to 1, got 0"),
        (
            lambda: summaries.ShowTable(columns={"a": "b..c"}),
            "columns: expected a path such as 'preds.logits' or 'boxes[0].xy', got 'b..c'",
        ),
    ],
)
def test_wrong_options(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).partition(": ")[2] == sentence


# Histograms


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool])
def test_histograms_are_those_of_numpy(dtype: Any, rng: Any) -> None:
    x = (rng.random((20, 3)) * 9).astype(dtype)
    found = summaries.Histogram(num_buckets=7)(tensor=x)
    counts, edges = np.histogram(x.astype(np.float64), bins=7)
    assert np.array_equal(found.counts, counts)
    assert np.array_equal(found.edges, edges)
    assert found.left_out == 0
    assert len(summaries.Histogram()(tensor=x).counts) == 30


def test_histograms_of_odd_numbers() -> None:
    histogram = summaries.Histogram(num_buckets=2)
    found = histogram(tensor=[1.0, math.nan, 2.0, math.inf, -math.inf])
    assert (found.counts.tolist(), found.edges.tolist(), found.left_out) == ([1, 1], [1.0, 1.5, 2.0], 3)
    assert histogram(tensor=[math.nan]).counts.tolist() == histogram.empty().compute().counts.tolist() == [0, 0]
    assert histogram(tensor=np.zeros((0, 3))).edges.tolist() == [0, 0.5, 1]
    assert histogram(tensor=[3.0]).edges.tolist() == [2.5, 3.0, 3.5]
    for x in ([1e20, 1e20], [1e20, np.nextafter(1e20, 2e20)], [5e-324]):
        found = histogram(tensor=x)
        assert found.counts.sum() == len(x)
        assert np.all(np.diff(found.edges) > 0)
    with pytest.raises(ValueError, match=r"^Cannot calculate Histogram: expected tensor of real numbers, got a <U1"):
        histogram(tensor=["a"])


def test_plots(matplotlib: Any) -> None:
    found = summaries.Histogram(num_buckets=3)(tensor=[1, 2, 2, 3])
    axes = found.plot()
    (steps,) = axes.patches
    assert np.array_equal(steps.get_data().values, [1, 2, 1])
    assert np.array_equal(steps.get_data().edges, found.edges)
    figure = matplotlib.figure.Figure()
    own = figure.subplots()
    assert found.plot(own) is own
    assert len(own.patches) == 1
    for buckets in (found, summaries.Histogram().empty().compute()):
        assert buckets._repr_png_().startswith(b"\x89PNG")


# Tables


def test_a_table_of_texts_numbers_and_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # tables are as wide as the terminal
    metric = summaries.ShowTable(num_rows=3)
    columns = {
        "text": ["one\n two", "<b>", "x" * 100, "never seen"],
        "p": np.float32([0.5, 1 / 3, 2e10, 0]),
        "row": np.arange(8).reshape(4, 2),
        "list": [[1, 2], [3], [], [4]],
        "none": (None, {"a"}, 3, 4),
    }
    rows = metric(columns=columns)
    assert len(rows) == 3
    assert rows[0]["text"] == "one\n two"
    assert rows[1]["p"] == np.float32(1 / 3)
    assert np.array_equal(rows[2]["row"], [4, 5])
    assert [row["list"] for row in rows] == [[1, 2], [3], []]
    head, line, *body = repr(rows).splitlines()
    assert head.split() == ["text", "p", "row", "list", "none"]
    assert set(line) == {"-"}
    assert body[0].split() == ["one", "two", "0.5", "[0", "1]", "[1,", "2]", "None"]
    assert body[1].split()[1] == "0.333333"
    assert body[2].startswith("x" * 57 + "...  ")
    html = rows._repr_html_()
    assert "<th>text</th><th>p</th>" in html
    assert "<td>&lt;b&gt;</td><td>0.333333</td>" in html


def test_a_table_without_rows() -> None:
    for rows in (summaries.ShowTable().empty().compute(), summaries.ShowTable()(columns={})):
        assert rows == []
        assert rows._repr_html_() == "<table><thead><tr></tr></thead><tbody></tbody></table>"
    rows = summaries.ShowTable()(columns={"a": [], "b": np.zeros(0)})
    assert repr(rows).split() == ["a", "b", "----"]


def test_tables_of_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rows = summaries.ShowTable()(columns={"a": pandas.Series(["x", None], index=[5, 6]), "b": pandas.Series([1, 2])})
    assert [row["b"] for row in rows] == [1, 2]
    assert rows[0]["a"] == "x"


@pytest.mark.parametrize(
    "columns, sentence",
    [
        ([1, 2], "columns to be a dict of columns, got a list of 2."),
        ({"a": [1], "b": [1, 2]}, "columns of one length, got {'a': 1, 'b': 2}."),
        ({"a": "text"}, "columns to be arrays or lists, got 'text'."),
        ({"a": np.float64(3)}, "columns to be arrays or lists, got a float64 array of shape ()."),
    ],
)
def test_what_is_no_table(columns: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        summaries.ShowTable()(columns=columns)
    assert str(caught.value) == f"Cannot calculate ShowTable: expected {sentence}"


# Missing packages


@pytest.mark.parametrize(
    "module, package, call",
    [
        ("PIL.Image", "Pillow", lambda: summaries.ShowImages()(images=np.zeros((2, 2, 1))).to_pil()),
        ("matplotlib", "matplotlib", lambda: summaries.ShowImages(cmap="gray")(images=np.zeros((2, 2, 1)))),
        ("matplotlib.figure", "matplotlib", lambda: summaries.Histogram()(tensor=[1.0]).plot()),
    ],
)
def test_without_a_package(module: str, package: str, call: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        call()
    assert str(caught.value) == f"{package} is not installed: python -m pip install 'lossreg[summaries]'"


# Boxes


def drawn(image: Any, boxes: Any, mask: Any, colours: Any) -> Any:
    """An image with boxes, pixel by pixel."""
    height, width, channels = image.shape
    image = np.clip(image, 0, 1).astype(np.float32)
    for i, ((y0, x0, y1, x1), shown) in enumerate(zip(np.float32(boxes), mask)):
        top, bottom = (int(y * np.float32(height - 1)) for y in (y0, y1))
        left, right = (int(x * np.float32(width - 1)) for x in (x0, x1))
        for row, column in itertools.product(range(height), range(width)):
            inside = top <= row <= bottom and left <= column <= right
            if shown and inside and (row in (top, bottom) or column in (left, right)):
                image[row, column] = colours[i % len(colours)] if channels == 3 else 1.0
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_are_drawn_pixel_by_pixel(channels: int, rng: Any) -> None:
    n, k = 4, 7
    images = rng.normal(0.5, 0.5, (n, 9, 12, channels))
    boxes = rng.uniform(-0.3, 1.3, (n, k, 4))
    boxes[:, :4] = np.concatenate([boxes[:, :4, :2].clip(0, 0.5), boxes[:, :4, 2:].clip(0.5, 1)], axis=2)
    mask = rng.random((n, k)) < 0.7
    red_green_blue = np.eye(3)
    shown = summaries.ShowBoxes(num_colors=3)(images=images, boxes=boxes, boxes_mask=mask).array
    expected = [drawn(*each, red_green_blue) for each in zip(images, boxes, mask)]
    np.testing.assert_array_equal(shown, expected)
    assert not np.array_equal(shown, summaries.ShowBoxes(num_colors=3)(images=images, boxes=boxes).array)


def test_boxes_of_any_leading_axes_and_of_ranges(rng: Any) -> None:
    images, boxes = rng.random((2, 3, 6, 5, 3)), rng.random((2, 3, 2, 4))
    boxes[..., 2:] += boxes[..., :2]
    flat = summaries.ShowBoxes(num_images=4)(images=images.reshape(6, 6, 5, 3), boxes=boxes.reshape(6, 2, 4))
    nested = summaries.ShowBoxes(num_images=4, in_vrange=(-1.0, 1.0))(images=2 * images - 1, boxes=boxes)
    assert len(nested) == 4
    np.testing.assert_allclose(nested.array, flat.array, atol=1e-6)
    assert len(summaries.ShowBoxes().empty().compute()) == 0


def test_boxes_that_cannot_be_drawn_are_left_out() -> None:
    boxes = [[0.8, 0.0, 0.2, 1.0], [0.0, 0.9, 1.0, 0.1], [1.6, 0.0, 2.0, 1.0], [0.0, math.nan, 1.0, 1.0], [0, 0, 0, 0]]
    images, mask = np.zeros((1, 6, 6, 1)), [[True, True, True, True, False]]
    shown = summaries.ShowBoxes()(images=images, boxes=[boxes], boxes_mask=np.array(mask))
    assert not shown.array.any()


def test_colours_of_boxes_are_hues(matplotlib: Any) -> None:
    from matplotlib.colors import hsv_to_rgb

    boxes = np.array([[[0.0, 0.0, 1.0, 1.0]] * 4])
    for i in range(4):
        mask = np.arange(4)[None] == i
        shown = summaries.ShowBoxes(num_colors=5)(images=np.zeros((1, 2, 2, 3)), boxes=boxes, boxes_mask=mask)
        np.testing.assert_allclose(shown.array[0, 0, 0], hsv_to_rgb([i / 5, 1, 1]), atol=1e-6)


# Differences


@pytest.mark.parametrize("cmap", ["gray", "viridis"])
@pytest.mark.parametrize("vrange", [None, (0.0, 1.0), (-0.5, 1.5)])
def test_differences_in_colours(vrange: Any, cmap: str, matplotlib: Any, rng: Any) -> None:
    a, b = rng.normal(0.5, 1.0, (2, 6, 4, 5, 3))
    show = summaries.ShowDifferenceImages(num_images=4, vrange=vrange, cmap=cmap)
    shown = (show.get_state(images1=a[:1], images2=b[:1]) + show.get_state(images1=a[1:], images2=b[1:])).compute()
    low, high = vrange or (0.0, 1.0)
    x, y = ((z if vrange is None else z.clip(low, high)) / (high - low) for z in (a[:4], b[:4]))
    difference = abs(x - y).mean(axis=-1)
    least, most = (difference.min(), difference.max()) if vrange is None else (-1.0, 1.0)
    expected = matplotlib.colormaps[cmap]((difference - least) / (most - least))[..., :3]
    np.testing.assert_allclose(shown.array, expected, atol=1 / 128)
    assert len(show.empty().compute()) == 0


# Segmentations


def test_hues_of_segments() -> None:
    """The numbers of Kauldron's plot_segmentation, which needs scikit-image."""
    shown = summaries.ShowSegmentations()(segmentations=np.arange(3).reshape(1, 1, 3, 1)).array[0, 0]
    expected = [[0.471997618, 0.633469104, 1.0], [1.0, 0.256478222, 0.161662101], [0.0, 0.931028127, 0.219227731]]
    np.testing.assert_allclose(shown, expected, atol=1e-7)
    soft = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).reshape(1, 1, 2, 3)
    shown = summaries.ShowSegmentations(entropy=True)(segmentations=soft).array[0, 0]
    expected = [[0.03365297921, 0.03580274331, 0.035855252902], [0.38669472088, 0.178592792476, 0.126145427887]]
    np.testing.assert_allclose(shown, expected, atol=1e-7)


def test_ids_of_segments_may_be_large() -> None:
    shown = summaries.ShowSegmentations()(segmentations=np.array([0, 10**12, 10**12 // 3]).reshape(1, 1, 3, 1))
    hues = summaries.ShowSegmentations()(segmentations=np.arange(3).reshape(1, 1, 3, 1))
    np.testing.assert_allclose(shown.array[0, 0], hues.array[0, 0][[0, 0, 1]], atol=1e-6)


def test_edges_of_segments() -> None:
    pytest.importorskip("scipy", reason="SciPy is not installed: pip install 'lossreg[summaries]'")
    ids = np.array([[0, 0, 1], [0, 0, 1]]).reshape(1, 2, 3, 1)
    show = summaries.ShowSegmentations(edges=True, edge_lightness=0.5, palette=[(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    shown = show(segmentations=ids).array
    np.testing.assert_allclose(shown[0, :, :, 0], [[0.82045745, 0.5, 0.0]] * 2, atol=1e-6)
    np.testing.assert_allclose(shown[0, :, :, 2], [[0.0, 0.0, 0.5]] * 2, atol=1e-6)


def test_segments_of_a_palette(rng: Any) -> None:
    palette = rng.random((5, 3))
    ids = rng.integers(0, 4, (2, 3, 6, 7, 1))
    show = summaries.ShowSegmentations(palette=palette.tolist())
    np.testing.assert_allclose(show(segmentations=ids).array, palette[ids[..., 0]].reshape(6, 6, 7, 3)[:5], atol=1e-6)
    soft = rng.dirichlet(np.ones(5), (4, 6, 7))
    hard = summaries.ShowSegmentations(palette=palette.tolist(), hard=True)
    np.testing.assert_allclose(hard(segmentations=soft).array, palette[soft.argmax(-1)], atol=1e-6)
    assert np.abs(show(segmentations=soft).array - palette[soft.argmax(-1)]).max() > 0.1


@pytest.mark.parametrize("options", [{}, {"hard": True}, {"entropy": True}, {"edges": True, "edge_lightness": 0.7}])
@pytest.mark.parametrize("kind", ["ids", "soft"])
@pytest.mark.filterwarnings("ignore:::(jax|flax|kauldron|optax|etils|skimage|lazy_loader).*")
def test_segmentations_are_kauldrons(kind: str, options: Any, rng: Any) -> None:
    pytest.importorskip("skimage", reason="scikit-image, with which Kauldron plots, is not installed")
    plots = pytest.importorskip("kauldron.utils.plot_segmentation", reason="Kauldron is not installed")
    x = rng.integers(0, 4, (3, 6, 7, 1)) if kind == "ids" else rng.dirichlet(np.ones(4), (3, 6, 7))
    for palette in (None, rng.random((4, 3))):
        expected = np.clip(plots.plot_segmentation(x, palette=palette, **options), 0, 1)
        show = summaries.ShowSegmentations(palette=None if palette is None else palette.tolist(), **options)
        np.testing.assert_allclose(show(segmentations=x).array, expected, atol=1e-6)


IMAGE, BOXES = np.zeros((2, 4, 5, 3)), np.zeros((2, 3, 4))


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: summaries.ShowBoxes()(images=IMAGE, boxes=BOXES[:1]), ValueError, r"expected boxes of shape \(2, k, 4\), k for each image, got"),
        (lambda: summaries.ShowBoxes()(images=IMAGE, boxes=BOXES[..., :3]), ValueError, r"expected boxes of shape \(2, k, 4\)"),
        (lambda: summaries.ShowBoxes()(images=IMAGE, boxes=BOXES, boxes_mask=np.ones(2)), ValueError, r"expected boxes_mask of shape \(2, 3, 1\), got"),
        (lambda: summaries.ShowBoxes()(images=IMAGE.astype(int), boxes=BOXES), ValueError, "expected images of floats, bools or uint8, got"),
        (lambda: summaries.ShowBoxes(in_vrange=(1.0, 0.0)), ConfigError, r"in_vrange: should be \(low, high\) with low < high, got \(1.0, 0.0\)"),
        (lambda: summaries.ShowDifferenceImages(vrange=(1.0, 1.0)), ConfigError, r"vrange: should be \(low, high\)"),
        (lambda: summaries.ShowDifferenceImages()(images1=IMAGE, images2=IMAGE[:, :3]), ValueError, r"expected images2 of shape \(2, 4, 5, 3\) \(that of images1\)"),
        (lambda: summaries.ShowSegmentations()(segmentations=IMAGE[..., :1]), ValueError, r"of shape \(..., h, w, 1\) of integers, or \(..., h, w, k\) of floats"),
        (lambda: summaries.ShowSegmentations()(segmentations=np.full((1, 2, 2, 1), -1)), ValueError, "of ids of at least 0, got -1"),
        (lambda: summaries.ShowSegmentations(palette=[(1.0, 0.0, 0.0)])(segmentations=np.ones((1, 2, 2, 1), int)), ValueError, "a palette with a colour for each of 2 segments, got 1 colours"),
        (lambda: summaries.ShowSegmentations(palette=[]), ConfigError, "palette: should have a colour for each segment, got none"),
        (lambda: summaries.ShowSegmentations(palette=[(2.0, 0.0, 0.0)]), ConfigError, r"palette\.0\.0: should be less than or equal to 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_pictures_is_said(call: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_examples_in_docstrings_run() -> None:
    for name in ("boxes", "images", "oklab", "segmentations"):
        if name == "images":
            pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        assert doctest.testmod(importlib.import_module(f"lossreg.summaries.{name}")).failed == 0
