"""Examples and configs: they run, learn, and say what is wrong."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, registry

ROOT = Path(__file__).parents[2]
LIBRARIES = {"torch": "PyTorch", "jax": "JAX"}


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    for package in ("typer", "tqdm"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lossreg[examples]'")
    command = [sys.executable, "docs/examples/train_frameworks.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_losses_of_all_loops_are_equal_to_rounding() -> None:
    done = train("docs/examples/digits.cfg", "--training.epochs", "3")
    assert done.returncode == 0, done.stderr
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    lines = done.stdout.splitlines()
    assert lines[: len(missing)] == [f"{name} is not installed: python -m pip install {name}" for name in missing]
    header, *rows, last = lines[len(missing) :]
    assert header.split() == ["epoch", "numpy", *(name for name in LIBRARIES if name not in missing)]
    losses = np.array([[float(x) for x in row.split()[1:]] for row in rows])
    assert losses.shape == (3, 3 - len(missing))
    assert (np.diff(losses[:, 0]) < 0).all()
    np.testing.assert_allclose(losses, losses[:, :1].repeat(losses.shape[1], axis=1), rtol=0, atol=2e-5)
    assert float(last.removeprefix("largest difference ")) < 1e-5


def test_what_is_wrong_with_a_config_is_said() -> None:
    for arguments, message in (
        (["docs/examples/digits.cfg", "--loss.nope", "1"], "loss.nope"),
        (["nope.cfg"], "nope.cfg"),
    ):
        done = train(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def run(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, **kwargs)


@pytest.fixture(scope="module")
def digits() -> Any:
    pytest.importorskip("typer", reason="typer is not installed: pip install 'lossreg[examples]'")
    pytest.importorskip("tqdm", reason="tqdm is not installed: pip install 'lossreg[examples]'")
    spec = importlib.util.spec_from_file_location("train_digits", ROOT / "docs/examples/train_digits.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_digits"] = module
    spec.loader.exec_module(module)
    return module


def test_configs_need_nothing_but_lossreg() -> None:
    """In a process that has imported nothing else, each file gives what its page says."""
    program = """
import sys
from lossreg import Config, registry
for path in sys.argv[1:]:
    resolved = registry.resolve(Config().from_disk(path))
    assert resolved["metrics" if path.endswith("metrics.cfg") else "loss"], path
"""
    done = subprocess.run([sys.executable, "-c", program, *map(str, CONFIGS)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


CONFIGS = {path: Config().from_disk(path) for path in sorted((ROOT / "configs").glob("*.cfg"))}
LOSSES = [path for path, config in CONFIGS.items() if "loss" in config and "terms" not in config["loss"]]


@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_every_config_resolves_and_its_loss_runs(path: Path) -> None:
    config = Config().from_disk(path)
    loss = registry.resolve(config)["loss"]
    again = Config().from_str(config.to_str())
    assert again == config
    rng = np.random.default_rng(0)
    names = getattr(loss, "names", None)
    width = len(names or getattr(loss, "class_weight", None) or getattr(loss, "pos_weight", None) or "four")
    guesses: Any = rng.dirichlet(np.ones(width), 6)
    truths: Any = list(names[:1]) * 6 if names else rng.integers(0, width, 6)
    kind = type(loss).__name__
    if kind == "InfoNCE":
        guesses, truths = (guesses, guesses + 0.1), None
    elif kind == "TripletMargin":
        guesses, truths = (guesses, guesses + 0.1, guesses - 0.2), None
    elif kind == "CTC":
        guesses, truths = np.log(rng.dirichlet(np.ones(4), (6, 2))), (np.array([[1, 2], [3, 1]]), [6, 5], [2, 1])
    elif kind == "KLDivergence":
        guesses, truths = np.log(guesses), np.log(rng.dirichlet(np.ones(width), 6))
    elif kind == "MultiLabelSoftMargin":
        truths = [set(names[:2]), set(), None, {names[0]}, set(names), [names[1]]]
    elif not hasattr(loss, "labels"):
        truths = rng.integers(0, 2, guesses.shape).astype(float)
    if kind.startswith("Sequence"):
        guesses, truths = [guesses, guesses[:2]], [truths, truths[:2]]
    grad, value = loss(guesses, truths)
    value = value.compute() if getattr(loss, "per_token", False) else value
    assert np.isfinite(value)
    assert value > 0
    assert type(grad) is type(guesses)


@pytest.mark.parametrize("config", ["digits.cfg", "digits_softmax.cfg"])
def test_digits_example_learns(config: str, digits: Any) -> None:
    done = run("docs/examples/train_digits.py", f"docs/examples/{config}", "--loss.label_smoothing", "0.1")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("test accuracy")[-1]) >= 0.94


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["docs/examples/digits.cfg", "--loss.label_smoothing", "2"], "loss.label_smoothing"),
        (["docs/examples/digits.cfg", "--loss.nope", "2"], "loss.nope"),
        (["docs/examples/digits.cfg", "--nope.x", "2"], "nope.x"),
        (["configs/nope.cfg"], "nope.cfg"),
    ],
)
def test_digits_example_says_what_is_wrong(arguments: list[str], message: str, digits: Any) -> None:
    done = run("docs/examples/train_digits.py", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_multitask_example_learns() -> None:
    """The masked term and the others fall, the one with a schedule to 0."""
    done = run("docs/examples/train_multitask.py", "configs/multitask.cfg")
    assert done.returncode == 0, done.stderr
    *epochs, scores = done.stdout.splitlines()
    terms = [dict(zip(line.split()[2::2], map(float, line.split()[3::2]))) for line in epochs]
    assert [sorted(line) for line in terms] == [["digit", "even", "pixels", "sum"]] * 25
    for line in terms:
        assert abs(line["digit"] + line["even"] + line["pixels"] - line["sum"]) < 2e-4
    assert terms[-1]["digit"] < 0.3 * terms[0]["digit"]
    assert terms[-1]["even"] < 0.3 * terms[0]["even"]
    assert terms[0]["pixels"] > 1.0
    assert terms[-1]["pixels"] == 0.0
    even, digit = (float(scores.split()[i]) for i in (3, 5))
    assert even >= 0.94
    assert digit >= 0.94


def test_multitask_config_is_what_it_says() -> None:
    loss = registry.resolve(CONFIGS[ROOT / "configs" / "multitask.cfg"])["loss"]
    assert isinstance(loss, lossreg.WeightedSum)
    assert [type(term.loss).__name__ for term in loss.terms.values()] == [
        "CrossEntropy", "BinaryCrossEntropyWithLogits", "MeanSquaredError",
    ]  # fmt: skip
    assert [term.mask for term in loss.terms.values()] == ["batch.labelled", None, None]
    assert [loss.terms["pixels"].get_weight(step) for step in (0, 200, 400, 1000)] == [10.0, 5.0, 0.0, 0.0]
