"""Train one network for three things at once: a digit, whether it is even, and the image itself.

The loss is a sum of terms in a config file. It takes the context of a step (the network's outputs, the batch, the
number of the step) and returns the gradient of each output by its path, which the network takes back to its parameters.
Needs NumPy and lossreg alone:

    python docs/examples/train_multitask.py configs/multitask.cfg
"""

import sys
from collections.abc import Callable

import numpy as np

from lossreg import Config, registry

Arrays = dict[str, np.ndarray]


class Network:
    """tanh of a linear layer, and a linear layer over it for each output."""

    def __init__(self, inputs: int, hidden: int, outputs: dict[str, int], rng: np.random.Generator) -> None:
        self.outputs = list(outputs)
        self.params: Arrays = {"W": rng.normal(size=(inputs, hidden)) / np.sqrt(inputs), "b": np.zeros(hidden)}
        for name, size in outputs.items():
            self.params[f"W_{name}"] = rng.normal(size=(hidden, size)) / np.sqrt(hidden)
            self.params[f"b_{name}"] = np.zeros(size)

    def __call__(self, x: np.ndarray) -> tuple[Arrays, Callable[[Arrays], Arrays]]:
        """The outputs, and the function from their gradients to those of the parameters."""
        p = self.params
        hidden = np.tanh(x @ p["W"] + p["b"])
        outputs = {name: hidden @ p[f"W_{name}"] + p[f"b_{name}"] for name in self.outputs}

        def backprop(d_outputs: Arrays) -> Arrays:
            grads, d_hidden = {}, np.zeros_like(hidden)
            for name, d_output in d_outputs.items():
                grads[f"W_{name}"], grads[f"b_{name}"] = hidden.T @ d_output, d_output.sum(axis=0)
                d_hidden += d_output @ p[f"W_{name}"].T
            d_linear = d_hidden * (1 - hidden**2)
            return {"W": x.T @ d_linear, "b": d_linear.sum(axis=0), **grads}

        return outputs, backprop


class Adam:
    """Kingma and Ba (2014), arXiv:1412.6980."""

    def __init__(self, learn_rate: float) -> None:
        self.learn_rate, self.steps = learn_rate, 0
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, params: Arrays, grads: Arrays) -> None:
        """Move the parameters in place."""
        self.steps += 1
        for name, grad in grads.items():
            m, v = self.moments.get(name, (0 * grad, 0 * grad))
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            self.moments[name] = m, v
            m, v = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
            params[name] -= self.learn_rate * m / (np.sqrt(v) + 1e-8)


def read(path: str, labelled: float, test: float, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """(images to train with, images to test with). Where a digit is not known it is -1, and masked."""
    table = rng.permutation(np.loadtxt(path, delimiter=","))
    digit = table[:, -1].astype(int)
    known = rng.random(len(table)) < labelled
    data = {
        "pixels": table[:, :-1] / 16,
        "digit": np.where(known, digit, -1),
        "labelled": known,
        "even": (digit % 2 == 0).astype(float)[:, None],
        "truth": digit,
    }
    split = round(len(table) * test)
    return {key: x[split:] for key, x in data.items()}, {key: x[:split] for key, x in data.items()}


def main(path: str = "configs/multitask.cfg") -> None:
    """Train, with a line for each epoch: the terms' losses over all its batches, weighted, and their sum."""
    config = registry.resolve(Config().from_disk(path))
    loss, training = config["loss"], config["training"]
    rng = np.random.default_rng(training["seed"])
    train, test = read(**config["data"], rng=rng)
    network = Network(64, training["hidden"], {"digit": 10, "even": 1, "pixels": 64}, rng)
    optimizer = Adam(training["learn_rate"])
    for epoch in range(1, training["epochs"] + 1):
        states = loss.empty()
        order = rng.permutation(len(train["digit"]))
        for start in range(0, len(order), training["batch_size"]):
            batch = {key: x[order[start : start + training["batch_size"]]] for key, x in train.items()}
            preds, backprop = network(batch["pixels"])
            state, of_terms = loss.get_state_and_grad({"preds": preds, "batch": batch, "step": optimizer.steps})
            grads = state.scale(of_terms)  # {"preds.digit": gradient, ...}
            optimizer(network.params, backprop({name: grads[f"preds.{name}"] for name in preds}))
            states += state
        terms = "  ".join(f"{name} {value:.4f}" for name, value in states.per_term().items())
        print(f"epoch {epoch:2}  {terms}  sum {states.compute():.4f}")
    preds, _ = network(test["pixels"])
    print(f"test accuracy: even {((preds['even'] > 0) == test['even']).mean():.3f}", end="  ")
    print(f"digit {(preds['digit'].argmax(axis=1) == test['truth']).mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
