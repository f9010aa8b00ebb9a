"""Trees and paths: what lies where, and what is said when it does not."""

from __future__ import annotations

import collections
import copy
import pickle
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

from lossreg import ConfigError
from lossreg.arrays.trees import check_path, get_path, leaves, tree_map


class Box(NamedTuple):
    xy: Any
    label: Any


class Preds:
    """An object with attributes, one of them computed."""

    def __init__(self) -> None:
        self.logits = [10, 11, 12]
        self.boxes = [Box((1, 2), "cat"), Box((3, 4), "dog")]
        self._hidden = 0

    @property
    def first(self) -> int:
        return self.logits[0]


CONTEXT: dict[Any, Any] = {
    "preds": Preds(),
    "batch": {"image": np.arange(6).reshape(2, 3), "a b": 5, "0": "text", 7: "number", "x.y": 8, "": 9, "o'k": 10},
    "rows": types.MappingProxyType({"inner": ({"deep": 6},)}),
    "items": "a key, and no method",
    "größe": 1,
    0: "zero",
    None: "nothing",
    -1: "minus one",
    "layers": types.SimpleNamespace(**{"0": types.SimpleNamespace(bias=3)}),
}


# Paths that lead somewhere


@pytest.mark.parametrize(
    "path, expected",
    [
        ("preds.logits", [10, 11, 12]),
        ("preds.logits[0]", 10),
        ("preds.logits[-1]", 12),
        ("preds.logits.1", 11),
        ("preds.first", 10),
        ("preds.boxes[0].xy[1]", 2),
        ("preds.boxes[1].label", "dog"),
        ("preds.boxes[1][1]", "dog"),
        ("preds.boxes.1.0.0", 3),
        ("['batch'].image[1].shape[0]", 3),
        ("batch['a b']", 5),
        ('batch["a b"]', 5),
        ("batch['x.y']", 8),
        ("batch['']", 9),
        ('batch["o\'k"]', 10),
        ("batch.0", "text"),
        ("batch['0']", "text"),
        ("batch[7]", "number"),
        ("batch.7", "number"),
        ("rows.inner[0].deep", 6),
        ("rows['inner'][0]['deep']", 6),
        ("items", "a key, and no method"),
        ("größe", 1),
        ("[0]", "zero"),
        ("[-1]", "minus one"),
        ("layers.0.bias", 3),
    ],
)
def test_what_lies_at_a_path(path: str, expected: Any) -> None:
    assert get_path(CONTEXT, path) == expected
    check_path(path)


def test_a_path_finds_the_object_itself() -> None:
    assert get_path(CONTEXT, "batch.image") is CONTEXT["batch"]["image"]
    assert get_path(Preds(), "logits") == [10, 11, 12]
    assert get_path([{"x": 1}], "[0].x") == 1
    assert np.shares_memory(get_path(CONTEXT, "batch.image.T"), CONTEXT["batch"]["image"])


# Paths that lead nowhere


@pytest.mark.parametrize(
    "path, message",
    [
        (
            "pred.logits",
            "Cannot find 'pred.logits': expected 'pred', got that the context is a dict with 'preds', 'batch', 'rows', "
            "'items', 'größe', '0', 'None', '-1', 'layers'; did you mean 'preds'?",
        ),
        (
            "batch.imgae",
            "Cannot find 'batch.imgae': expected 'imgae', got that 'batch' is a dict with 'image', 'a b', '0', '7', "
            "'x.y', '', \"o'k\"; did you mean 'image'?",
        ),
        (
            "preds.logit",
            f"Cannot find 'preds.logit': expected 'logit', got that 'preds' is {repr(CONTEXT['preds'])[:57]}"
            + ("..." if len(repr(CONTEXT["preds"])) > 60 else repr(CONTEXT["preds"])[57:])
            + " with logits, boxes; did you mean 'logits'?",
        ),
        (
            "preds.logits[3]",
            "Cannot find 'preds.logits[3]': expected '[3]', got that 'preds.logits' is a list of 3.",
        ),
        (
            "preds.boxes[0].xyz",
            "Cannot find 'preds.boxes[0].xyz': expected 'xyz', got that 'preds.boxes[0]' is a Box of 2.",
        ),
        ("batch['a'].b", "'batch' is a dict with"),
        ("batch[8]", "expected '[8]', got that 'batch' is a dict with"),
        ("batch.image.nope", "got that 'batch.image' is a int64 array of shape (2, 3)."),
        ("größe.x", "Cannot find 'größe.x': expected 'x', got that 'größe' is 1."),
        ("größe[0]", "Cannot find 'größe[0]': expected '[0]', got that 'größe' is 1."),
        ("rows.inner[0]['no such']", "expected '['no such']', got that 'rows.inner[0]' is a dict with 'deep'."),
    ],
)
def test_a_path_that_leads_nowhere_says_what_was_there(path: str, message: str) -> None:
    with pytest.raises(KeyError) as caught:
        get_path(CONTEXT, path)
    text = str(caught.value)
    assert text == message if message.startswith("Cannot") else message in text
    check_path(path)


@pytest.mark.parametrize(
    "context, there",
    [
        ({}, "the context is a dict with nothing in it."),
        (None, "the context is None."),
        ([], "the context is a list of 0."),
        (types.SimpleNamespace(), "the context is namespace()."),
        (types.SimpleNamespace(xs=1), "the context is namespace(xs=1) with xs."),
        ({f"x{i}": i for i in range(30)}, "'x18', 'x19'."),
        (types.SimpleNamespace(**{f"y{i}": i for i in range(30)}), "y17, y18, y19."),
    ],
)
def test_what_was_there_of_small_and_large_contexts(context: Any, there: str) -> None:
    with pytest.raises(KeyError, match="Cannot find 'x': expected 'x', got that") as caught:
        get_path(context, "x")
    assert there in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["", ".", ".a", "a.", "a..b", "a b", " a", "a[", "a[]", "a[x]", "a[1.5]", "a[0", "a]", "a[0]b", "a['b']c", "a.0b",
     "a.-1", "0", "0.a", "a-b", "a['b", "a['it's']", "a[1:2]", "a[0, 1]", "a\n", "*"],
)  # fmt: skip
def test_a_text_that_is_no_path(path: str) -> None:
    expected = f"expected a path such as 'preds.logits' or 'boxes[0].xy', got {path!r}"
    for call in (check_path, lambda path: get_path({"a": {"b": 1}, "b": 2, "": 3}, path)):
        with pytest.raises(ConfigError) as caught:
            call(path)
        assert caught.value.problems == [("", expected)]


# Trees

Pair = collections.namedtuple("Pair", "x y")


def test_tree_map_keeps_the_arrangement() -> None:
    tree = {"a": [1, (2, 3)], "b": Pair(4, {"c": 5}), "d": [], "e": {}, "f": ()}
    more = {"f": (), "e": {}, "d": [], "b": Pair(40, {"c": 50}), "a": [10, (20, 30)]}
    assert tree_map(lambda x: -x, tree) == {"a": [-1, (-2, -3)], "b": Pair(-4, {"c": -5}), "d": [], "e": {}, "f": ()}
    assert tree_map(lambda x, y: x + y, tree, more) == {
        "a": [11, (22, 33)], "b": Pair(44, {"c": 55}), "d": [], "e": {}, "f": ()
    }  # fmt: skip
    assert type(tree_map(abs, tree)["b"]) is Pair
    assert list(tree_map(abs, tree)) == ["a", "b", "d", "e", "f"]
    assert tree_map(abs, -1) == 1
    assert tree_map(repr, None) == "None"
    assert tree_map(len, "ab") == 2
    assert tree_map(lambda x: x.shape, [np.zeros((2, 3))]) == [(2, 3)]


def test_leaves_come_in_order_and_may_be_chosen() -> None:
    tree = {"b": [1, (2,)], "a": Pair(3, {})}
    assert list(leaves(tree)) == [1, 2, 3]
    assert list(leaves(5)) == [5]
    is_leaf = lambda x: isinstance(x, list)  # noqa: E731
    assert list(leaves(tree, is_leaf)) == [[1, (2,)], 3]
    assert tree_map(repr, tree, is_leaf=is_leaf) == {"b": "[1, (2,)]", "a": Pair("3", {})}
    assert tree_map(lambda x, y: (x, y), [1], [2], is_leaf=is_leaf) == ([1], [2])
    assert tree_map(lambda x, y: (x, y), {"a": 1}, {"a": [2]}, is_leaf=is_leaf) == {"a": (1, [2])}
    with pytest.raises(ValueError, match="expected another like 1, got a tuple of 1"):
        tree_map(lambda x, y: (x, y), {"a": 1}, {"a": (2,)}, is_leaf=is_leaf)


@pytest.mark.parametrize(
    "tree, other, message",
    [
        ({"a": 1}, {"b": 1}, "expected another like a dict with 'a', got a dict with 'b'"),
        ({"a": 1}, [1], "expected another like a dict with 'a', got a list of 1"),
        ({"a": 1}, {}, "expected another like a dict with 'a', got a dict with nothing in it"),
        ([1, 2], [1], "expected another like a list of 2, got a list of 1"),
        ([1], (1,), "expected another like a list of 1, got a tuple of 1"),
        ((1, 2), Pair(1, 2), "expected another like a tuple of 2, got a Pair of 2"),
        ([1], 1.5, "expected another like a list of 1, got 1.5"),
        ([1], "x", "expected another like a list of 1, got 'x'"),
        ({"a": [1]}, {"a": 2}, "expected another like a list of 1, got 2"),
        (1, [1], "expected another like 1, got a list of 1"),
        (np.zeros(2), {"a": 1}, "expected another like a float64 array of shape (2,), got a dict with 'a'"),
    ],
)
def test_trees_of_other_shapes_raise(tree: Any, other: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        tree_map(lambda *values: values, tree, other)
    assert str(caught.value) == f"Cannot combine trees: {message}."


def test_nothing_is_written_to() -> None:
    before = copy.deepcopy(CONTEXT["batch"]["image"])
    grown: Any = collections.defaultdict(list)
    for path in ("batch.image", "batch.image[0]", "batch.image.T"):
        get_path(CONTEXT, path)
    np.testing.assert_array_equal(CONTEXT["batch"]["image"], before)
    with pytest.raises(KeyError, match="the context is a dict with nothing in it"):
        get_path(grown, "typo")
    assert not grown


def test_errors_can_be_sent_to_another_process() -> None:
    with pytest.raises(KeyError) as caught:
        get_path({"a": 1}, "b")
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, KeyError)
    assert str(again) == str(caught.value) == "Cannot find 'b': expected 'b', got that the context is a dict with 'a'."


def test_paths_do_not_lead_from_objects_to_the_program() -> None:
    class Preds:
        logits = 1.0

    assert get_path({"preds": Preds()}, "preds.logits") == 1.0
    assert get_path({"preds": {"__class__": 2.0}}, "preds.__class__") == 2.0
    for path in ("preds.__class__", "preds.__class__.__init__.__globals__", "preds.__dict__"):
        with pytest.raises(KeyError, match=r"Cannot find 'preds\.__"):
            get_path({"preds": Preds()}, path)
