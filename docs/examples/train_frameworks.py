"""Train one model, one loss and one config in three loops: by hand in NumPy, with PyTorch and with JAX.

The config is that of train_digits.py, which also reads the data: python docs/examples/train_frameworks.py. All start
from the same weights and see the same batches, so that their losses differ by rounding alone.
"""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import typer
from train_digits import Digits, Linear, Momentum, parse_overrides

from lossreg import Config, ConfigError, Loss, registry


def batches(training: Momentum, n: int) -> Iterator[list[np.ndarray]]:
    """The rows of the batches of each epoch."""
    rng = np.random.default_rng(training.seed)
    for _ in range(training.epochs):
        yield np.array_split(rng.permutation(n), math.ceil(n / training.batch_size))


def train_numpy(model: Linear, loss: Loss, data: Digits, training: Momentum) -> Iterator[float]:
    """The loss of all training data after each epoch; gradients are passed by hand."""
    images, params = data.train_images, (model.W, model.b)
    velocities = [np.zeros_like(param) for param in params]
    for epoch in batches(training, len(images)):
        for rows in epoch:
            guesses, backprop = model(images[rows])
            d_guesses = loss.get_grad(guesses, data.train_truths[rows])
            for param, velocity, gradient in zip(params, velocities, backprop(d_guesses)):
                velocity *= training.momentum
                velocity += gradient
                param -= training.learn_rate * velocity
        yield loss.get_loss(model(images)[0], data.train_truths)


def train_torch(model: Linear, loss: Loss, data: Digits, training: Momentum) -> Iterator[float]:
    """The same with autograd and an optimizer of PyTorch."""
    import torch

    from lossreg.torch import as_module

    layer, module = torch.nn.Linear(*model.W.shape), as_module(loss)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(model.W.T))
        layer.bias.copy_(torch.from_numpy(model.b))
    optimizer = torch.optim.SGD(layer.parameters(), lr=training.learn_rate, momentum=training.momentum)
    images = torch.from_numpy(data.train_images)
    for epoch in batches(training, len(images)):
        for rows in epoch:
            optimizer.zero_grad()
            module(layer(images[rows]), data.train_truths[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            yield module(layer(images), data.train_truths).item()


def train_jax(model: Linear, loss: Loss, data: Digits, training: Momentum) -> Iterator[float]:
    """The same with jax.grad. Labels that are no numbers are constants: the function is not compiled for each batch."""
    import jax

    from lossreg.jax import as_function

    function, images = as_function(loss), jax.numpy.asarray(data.train_images)
    params = (jax.numpy.asarray(model.W), jax.numpy.asarray(model.b))
    velocities = jax.tree.map(jax.numpy.zeros_like, params)

    def loss_of(params: tuple, rows: np.ndarray | slice) -> jax.Array:
        return function(images[rows] @ params[0] + params[1], data.train_truths[rows])

    for epoch in batches(training, len(images)):
        for rows in epoch:
            gradients = jax.grad(loss_of)(params, rows)
            velocities = jax.tree.map(lambda v, g: training.momentum * v + g, velocities, gradients)
            params = jax.tree.map(lambda p, v: p - training.learn_rate * v, params, velocities)
        yield float(loss_of(params, slice(None)))


LOOPS = {"numpy": train_numpy, "torch": train_torch, "jax": train_jax}


def run(config: Config) -> None:
    """Train with each library that is installed, and print the losses side by side."""
    found = {}
    for library, train in LOOPS.items():
        if importlib.util.find_spec(library) is None:
            typer.echo(f"{library} is not installed: python -m pip install {library}")
            continue
        made = registry.resolve(config)
        found[library] = list(train(made["model"], made["loss"], made["data"], made["training"]))
    typer.echo("epoch" + "".join(f"{library:>12}" for library in found))
    for i, losses in enumerate(zip(*found.values()), start=1):
        typer.echo(f"{i:5}" + "".join(f"{loss:12.6f}" for loss in losses))
    rows = np.array(list(found.values()))
    typer.echo(f"largest difference {abs(rows - rows[0]).max():.1e}")


if __name__ == "__main__":
    path, *overrides = sys.argv[1:] or ["docs/examples/digits.cfg"]
    try:
        run(Config().from_disk(Path(path), overrides=parse_overrides(overrides)))
    except (OSError, ConfigError) as error:
        sys.exit(str(error))
