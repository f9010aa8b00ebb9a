"""Train a softmax classifier on images of handwritten digits, with gradients passed by hand.

Everything that can be chosen is in a config file: the data and how messy its truths are, the model, the loss and the
training. The file's blocks name the functions registered here, and a calculator of lossreg.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from annotated_types import Ge, Gt, Le, Lt
from tqdm import tqdm

from lossreg import Config, ConfigError, Loss, get_ops, registry

Array = Any
"""An array of NumPy or CuPy."""
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Gt(0)]


def registered(kind: str, name: str) -> Callable[[Any], Any]:
    """`@registry.<kind>(name)` in a registry made when needed; the first entry stays if this file is imported twice."""
    entries = getattr(registry, kind, None) or registry.create(kind)
    return lambda made: made if name in entries else entries.register(name, func=made)


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 numbers in [0, 1]; messy truths for training, clean labels for the test."""

    train_images: np.ndarray
    train_truths: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@registered("readers", "digits.v1")
def read_digits(
    *,
    path: str,
    names: Sequence[str],
    neg_prefix: str,
    missing_value: str | None,
    missing: Share = 0.0,
    negated: Share = 0.0,
    test: Annotated[float, Ge(0.01), Le(0.99)] = 0.25,
    seed: int = 0,
) -> Digits:
    """Shuffle, split, and make truths messy: some are missing, some only name a digit that the image does not show."""
    if len(names) != 10:
        raise ConfigError([("names", f"expected a name for each of 10 digits, got {len(names)}")])
    if missing + negated > 1:
        raise ConfigError([("negated", f"expected at most 1 together with missing, got {missing + negated:g}")])
    rng = np.random.default_rng(seed)
    table = rng.permutation(np.loadtxt(path, delimiter=",", dtype=np.float32))
    images, labels = table[:, :-1] / 16, table[:, -1].astype(np.int64)
    n_test = round(test * len(table))

    known = np.array(names, dtype=object)
    truths = known[labels[n_test:]]
    wrong = (labels[n_test:] + rng.integers(1, 10, len(truths))) % 10
    draw = rng.random(len(truths))
    truths[draw < missing] = missing_value
    is_negated = draw >= 1 - negated
    truths[is_negated] = neg_prefix + known[wrong[is_negated]]
    return Digits(images[n_test:], truths, images[:n_test], labels[:n_test])


@registered("layers", "Linear.v1")
class Linear:
    """guesses = head(images @ W + b), where head is nothing or a softmax."""

    def __init__(
        self, *, inputs: Count, outputs: Count, ops: str, head: Literal["logits", "softmax"] = "logits"
    ) -> None:
        self.xp = get_ops(ops).xp
        self.W = self.xp.zeros((inputs, outputs), dtype="float32")
        self.b = self.xp.zeros(outputs, dtype="float32")
        self.head = head

    def __call__(self, images: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """Guesses, and the function from the gradient of the logits to those of W and b.

        The softmax has no step back of its own: its calculator gives the gradient with respect to the logits under it.
        """

        def backprop(d_logits: Array) -> tuple[Array, Array]:
            return images.T @ d_logits, d_logits.sum(axis=0)

        logits = images @ self.W + self.b
        return (self.softmax(logits) if self.head == "softmax" else logits), backprop

    def softmax(self, logits: Array) -> Array:
        """Rows of probabilities."""
        e = self.xp.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


@registered("trainers", "Momentum.v1")
@dataclass(frozen=True, kw_only=True)
class Momentum:
    """Gradient descent on small batches: velocity = momentum * velocity - learn_rate * gradient."""

    epochs: Count
    batch_size: Count
    learn_rate: Annotated[float, Gt(0)]
    momentum: Annotated[float, Ge(0), Lt(1)]
    seed: int
    ops: str

    def train(self, model: Linear, loss: Loss, data: Digits) -> float:
        """Train the model in place, report each epoch, and return the test accuracy."""
        ops = get_ops(self.ops)
        images, test_images, test_labels = map(ops.asarray, (data.train_images, data.test_images, data.test_labels))
        params = (model.W, model.b)
        velocities = [ops.xp.zeros_like(param) for param in params]
        rng = np.random.default_rng(self.seed)
        n_batches = math.ceil(len(images) / self.batch_size)
        accuracy = 0.0
        for epoch in tqdm(range(1, self.epochs + 1), desc="training", unit="epoch", disable=None):
            running = 0.0
            for batch in np.array_split(rng.permutation(len(images)), n_batches):
                guesses, backprop = model(images[ops.asarray(batch)])
                d_guesses, value = loss(guesses, data.train_truths[batch])
                for param, velocity, gradient in zip(params, velocities, backprop(d_guesses), strict=True):
                    velocity *= self.momentum
                    velocity -= self.learn_rate * gradient
                    param += velocity
                running += value
            train_loss = float(loss.get_loss(model(images)[0], data.train_truths))
            accuracy = float((model(test_images)[0].argmax(axis=1) == test_labels).mean())
            scores = f"loss {float(running) / n_batches:.4f}  train loss {train_loss:.4f}  test accuracy {accuracy:.3f}"
            tqdm.write(f"epoch {epoch:3}  {scores}")
        return accuracy


def parse_overrides(args: Sequence[str]) -> dict[str, Any]:
    """["--loss.label_smoothing", "0.1"] -> {"loss.label_smoothing": 0.1}. What is not JSON is taken as a string."""
    overrides = {}
    rest = iter(args)
    for arg in rest:
        option, equals, value = arg.removeprefix("--").partition("=")
        if not arg.startswith("--") or not all(option.partition(".")):
            raise ConfigError([(arg, "expected --section.option VALUE after the config file")])
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):
                raise ConfigError([(option, "expected a value after this option")])
        try:
            overrides[option] = json.loads(value)
        except ValueError:
            overrides[option] = value
    return overrides


def run(path: Path, overrides: dict[str, Any]) -> float:
    """Make everything that the config describes, train, and return the test accuracy."""
    config = Config().from_disk(path, overrides=overrides)
    absent = [name for name in ("data", "model", "loss", "training") if name not in config]
    if absent:
        raise ConfigError([("", f"{path} needs sections that it does not have: {', '.join(absent)}")])
    made = registry.resolve(config)
    accuracy: float = made["training"].train(made["model"], made["loss"], made["data"])
    return accuracy


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(context_settings={"ignore_unknown_options": True}, options_metavar="[--help]")
def main(
    config: Annotated[Path, typer.Argument(help="A config file, such as docs/examples/digits.cfg.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="--section.option VALUE", help="Options to set instead of the file's."),
    ] = None,
) -> None:
    """Train a softmax classifier on handwritten digits, as a config file says.

    Any option of the file can be set for one run, with a JSON value or a plain string:

    \b
      --training.epochs 5
      --training.ops cupy
      --data.missing 0.5
      --loss.label_smoothing 0.1
      --loss.class_weight "[1,1,1,1,1,1,1,1,1,2]"

    Prints one line for each epoch (the mean loss of its batches, the loss of all training truths after it, the accuracy
    on clean test labels), and the test accuracy at the end.
    """
    try:
        accuracy = run(config, parse_overrides(overrides or []))
    except (OSError, ValueError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None
    typer.echo(f"test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    app()
