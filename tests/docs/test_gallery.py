"""The gallery of the documentation: every calculator is in it, and what is drawn is what the calculator says."""

import functools
import importlib.util
import inspect
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import lossreg
from lossreg import Config, registry
from lossreg.config.resolve import ALIASES

DOCS = Path(__file__).parents[2] / "docs"
BUILT_IN = {
    name: cls
    for name in registry.losses.names()
    if (cls := registry.losses.get(name)).__module__.startswith("lossreg.")
    and issubclass(cls, lossreg.Loss)
    and cls is not lossreg.Sequence
}
CLASSES = sorted(set(BUILT_IN.values()), key=lambda cls: cls.__name__)

NO_SLOPE = {
    "CategoricalCrossentropy": "the gradient is that of cross-entropy, the loss the sum of the gradient's squares",
    "SequenceCategoricalCrossentropy": "the gradient is that of cross-entropy, the loss the sum of its squares",
    "L2Distance": "the gradient is the difference, the loss the sum of the gradient's squares",
}
"""Thinc's numbers: calculators whose gradient is not the slope of the loss they report, and why."""


def load(name):
    """A module of the documentation under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


gallery = load("gallery")
ENTRIES = {cls: gallery.Entry(cls) for cls in CLASSES}


@dataclass
class Line:
    """A line that is drawn."""

    loss: lossreg.Loss
    curve: object

    @functools.cached_property
    def pieces(self):
        return [np.array(piece) for piece in self.curve.pieces(self.loss)]

    def value(self, number):
        return self.curve.at(self.loss, number).loss


LINES = {
    cls.__name__: [Line(*pair) for pair in zip(entry.losses, entry.picture.curves if entry.picture else ())]
    for cls, entry in ENTRIES.items()
}


def lines(where=lambda name: True):
    """One case for each line of the calculators that are asked for."""
    return [
        pytest.param(line, id=f"{name}-{line.curve.label or 'default'}")
        for name, drawn in LINES.items()
        if where(name)
        for line in drawn
    ]


@pytest.fixture(scope="module")
def text():
    settings = runpy.run_path(str(DOCS / "conf.py"))
    return gallery.page(gallery.drawn(settings["calculators"]()), settings["kind"], "pictures")


def test_every_name_has_an_entry(text):
    for name, cls in BUILT_IN.items():
        assert cls.__name__ in gallery.PICTURES, f"docs/gallery.py has nothing to draw for {name}: add it to PICTURES"
        entry = text.partition(f"\n### {cls.__name__}\n")[2].partition("\n### ")[0]
        assert f"`{name}`" in entry
        assert f"{{image}} pictures/{cls.__name__}.png" in entry
        assert f"{{py:class}}`lossreg.{cls.__name__}`" in entry
        assert f"[{cls.__name__}](#{cls.__name__.lower()})" in text
    for alias, name in ALIASES.items():
        if name in BUILT_IN:
            assert f"{{py:class}}`lossreg.{BUILT_IN[name].__name__}`, alias `{alias}`" in text
    assert gallery.MARKER in (DOCS / "gallery.md").read_text(encoding="utf-8")


def test_nothing_is_drawn_of_what_is_not_there():
    names = {cls.__name__ for cls in CLASSES}
    assert set(gallery.PICTURES) <= names
    assert set(gallery.TWINS) <= names


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_an_entry_says(cls):
    entry = ENTRIES[cls]
    doc = " ".join(cls.__doc__.split())
    assert entry.summary
    assert doc.startswith(entry.summary)
    assert entry.formula
    assert " ".join(entry.formula.split()) in doc
    assert entry.variable
    assert not entry.losses[0].options() or set(entry.losses[0].options()) == {"names", "neg_prefix"}
    assert {name for name, _, _ in entry.options} | set(gallery.COMMON) >= set(inspect.signature(cls).parameters)
    for name, _, default in entry.options:
        assert getattr(cls(), name) == default
    twins = [name for name in gallery.TWINS.get(cls.__name__, {}) if name.startswith("torch.nn.")]
    assert twins == re.findall(r"torch\.nn\.[\w.]*\w", doc)[:1]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_snippets_make_what_they_come_from(cls, text):
    entry = ENTRIES[cls]
    assert f"```ini\n{entry.snippet}\n```" in text
    made = registry.resolve(Config().from_str(entry.snippet))["loss"]
    assert type(made) is cls
    assert made == entry.example
    for loss in entry.losses:  # those that are drawn and not shown, too
        block = Config({"loss": loss.to_config()}).to_str()
        assert registry.resolve(Config().from_str(block))["loss"] == loss


@pytest.mark.parametrize("line", lines())
def test_pictures_show_something(line):
    points = np.concatenate(line.pieces)
    numbers, places, values, _ = points.T
    assert np.isfinite(points).all()
    assert (np.diff(numbers) > 0).all()
    assert (np.diff(places) > 0).all()
    assert np.ptp(values) > 0.1


@pytest.mark.parametrize("line", lines(lambda name: name not in NO_SLOPE))
def test_the_gradient_is_the_slope_of_the_loss(line):
    """At some of the points, between the slopes on both sides; at all of them, as what the loss gains to the next."""
    h, (low, high) = 1e-6, line.curve.path.ends
    for piece in line.pieces:
        numbers, _, values, gradients = piece.T
        for number, _, value, gradient in (*piece[::8], piece[-1]):
            if low + h < number < high - h:
                slopes = sorted(((value - line.value(number - h)) / h, (line.value(number + h) - value) / h))
                error = 1e-4 * max(1.0, abs(gradient))
                assert slopes[0] - error <= gradient <= slopes[1] + error, number
        gains = 0.5 * (gradients[1:] + gradients[:-1]) * np.diff(numbers)
        np.testing.assert_allclose(gains, np.diff(values), rtol=0.02, atol=2e-4 * max(1.0, np.abs(gradients).max()))


@pytest.mark.parametrize("line", lines(lambda name: name in NO_SLOPE))
def test_the_exceptions_are_needed(line):
    slope = (line.value(0.3 + 1e-6) - line.value(0.3 - 1e-6)) / 2e-6
    assert abs(slope - line.curve.at(line.loss, 0.3).gradient) > 0.01


def test_pieces_part_at_kinks():
    assert len(LINES["MeanSquaredError"][0].pieces) == len(LINES["Huber"][0].pieces) == 1
    left, kink, right = LINES["MeanAbsoluteError"][0].pieces
    assert (left[:, 3] == -1).all()
    assert kink.tolist() == [[0, 0, 0, 0]]
    assert (right[:, 3] == 1).all()
    assert -1e-10 < left[-1, 0] < 0 < right[0, 0] < 1e-10


@pytest.mark.parametrize("library", ["sklearn", "thinc"])
def test_twins_exist(library):
    pytest.importorskip(library)
    names = [name for twins in gallery.TWINS.values() for name in twins if name.startswith(library)]
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
