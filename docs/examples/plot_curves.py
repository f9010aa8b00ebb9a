"""Draw loss and gradient of a few calculators as functions of one guess; needs matplotlib.

python docs/examples/plot_curves.py docs/images/curves.png
"""

import sys
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossreg import CrossEntropy, Huber, MeanSquaredError, ReducedLoss

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""guesses (N,) -> gradients (N,), losses (N,)."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8F4F9F")
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 9.5}


def of_residual(loss: ReducedLoss) -> Curve:
    """The curve of a regression loss where the truth is 0."""
    return lambda x: loss(x, np.zeros_like(x))


def of_logit(truth: str | set[str], label_smoothing: float = 0.0) -> Curve:
    """The curve of cross-entropy over the logit of cat, where those of dog and bird are 0."""
    loss = CrossEntropy(names=["cat", "dog", "bird"], neg_prefix="!", label_smoothing=label_smoothing, reduction="none")

    def curve(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grad, values = loss(np.stack([x, 0 * x, 0 * x], axis=1), [truth] * len(x))
        return grad[:, 0], values

    return curve


ROWS: list[tuple[str, np.ndarray, dict[str, Curve]]] = [
    (
        "guess (the truth is 0)",
        np.linspace(-3, 3, 601),
        {
            "MeanSquaredError": of_residual(MeanSquaredError(reduction="none")),
            "Huber, delta = 1": of_residual(Huber(delta=1.0, reduction="none")),
            "Huber, delta = 0.3": of_residual(Huber(delta=0.3, reduction="none")),
        },
    ),
    (
        "logit of cat (those of dog and bird are 0)",
        np.linspace(-6, 6, 601),
        {
            'CrossEntropy, truth "cat"': of_logit("cat"),
            'truth "!cat"': of_logit("!cat"),
            'truth {"cat", "dog"}': of_logit({"cat", "dog"}),
            'truth "cat", label_smoothing = 0.2': of_logit("cat", 0.2),
        },
    ),
]


def draw(path: str) -> None:
    """One row of panels for each group of calculators: losses on the left, gradients on the right."""
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(8.8, 6.2))
    figure.set_layout_engine("constrained", hspace=0.06, wspace=0.04)
    panels = figure.subplots(len(ROWS), 2)
    for (left, right), (label, x, curves) in zip(panels, ROWS, strict=True):
        for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
            grad, values = curve(x)
            left.plot(x, values, color=colour, linewidth=1.8, label=name)
            right.plot(x, grad, color=colour, linewidth=1.8)
        for panel, title in ((left, "loss"), (right, "gradient")):
            panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
            panel.set(title=title, xlabel=label, xlim=(x[0], x[-1]))
            panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        left.legend(loc="upper center", fontsize=8.5)
    figure.savefig(path, dpi=140, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else "curves.png")
