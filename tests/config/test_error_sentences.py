"""Mistakes that people make in their first hours, and the sentence that each of them gets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ElementwiseLoss, mindformers, registry
from lossreg import functional as F
from lossreg import kauldron as kd
from lossreg.config.resolve import ALIASES
from lossreg.synonyms import CALL_ARGUMENTS, LOSSES, OPTIONS, closest_loss, folded_name

L = np.random.default_rng(0).normal(size=(4, 3))
Y = np.array([0, 1, 2, 1])
CE, MSE = lossreg.CrossEntropy, lossreg.MeanSquaredError
NAMED = CE(names=["cat", "dog", "bird"])


def with_formula(**body: Any) -> Any:
    return type("Mine", (ElementwiseLoss,), {"__annotations__": body.pop("options", {}), **body})


def square(xp: Any, guess: Any, truth: Any) -> Any:
    return (guess - truth) * (guess - truth), 2.0 * (guess - truth)


def resolve(text: str) -> Any:
    return registry.resolve(Config().from_str(f"[loss]\n{text}"))["loss"]


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    # Formulas of one's own
    "three results": (
        lambda: with_formula(formula=staticmethod(lambda xp, guess, truth: (guess, guess, guess)))()(L, L),
        "expected it to return one value for each element and 1 derivative, one for each guess, got 3 results",
    ),
    "formula with self": (
        lambda: with_formula(formula=lambda self, xp, guess, truth: square(xp, guess, truth)),
        "Cannot make the class Mine: expected formula to be a @staticmethod, without 'self' as its first parameter",
    ),
    "formula without staticmethod": (
        lambda: with_formula(formula=square),
        "Cannot make the class Mine: expected formula to be a @staticmethod.",
    ),
    "a parameter that is no option": (
        lambda: with_formula(
            options={"scale": float}, scale=1.0, formula=staticmethod(lambda xp, guess, truth, scal: (guess, 1.0))
        ),
        "expected parameters of its formula to be options, got 'scal'; did you mean 'scale'? (options: scale, ",
    ),
    "no formula": (lambda: with_formula()(), "expected a @staticmethod formula(xp, guess, truth) that returns (value, gradient)"),
    "an option without a type": (
        lambda: with_formula(k=1.0, formula=staticmethod(square))(k=2.0),
        "k: is a constant of the class, and no option: write `k: float = 1.0` there",
    ),
    "a function that formulas do not have": (
        lambda: with_formula(formula=staticmethod(lambda xp, guess, truth: (xp.sin(guess), guess)))()(L, L),
        "A formula may use arithmetic, comparisons and these functions of xp: abs, exp,",
    ),
    "a branch on numbers": (
        lambda: with_formula(formula=staticmethod(lambda xp, guess, truth: square(xp, guess, truth) if guess > 0 else 0))()(L, L),
        "a formula may not branch on its arrays or on float options: take xp.where",
    ),
    # Options
    "a slip": (lambda: CE(label_smothing=0.1), "label_smothing: unknown option; did you mean 'label_smoothing'?"),  # type: ignore[call-arg]
    "PyTorch's weight": (lambda: CE(weight=[1.0]), "weight: unknown option; did you mean 'class_weight'?"),  # type: ignore[call-arg]
    "Keras's from_logits": (lambda: CE(from_logits=True), "from_logits: unknown option; the class says what guesses are"),  # type: ignore[call-arg]
    "MindFormers' names": (
        lambda: CE(check_for_nan_in_loss_and_grad=True),  # type: ignore[call-arg]
        "unknown option; did you mean 'check_finite'?",
    ),
    "an option by position": (lambda: lossreg.Huber(0.5), "expected options by name, got 1 by position; write Huber(delta=0.5)"),  # type: ignore[misc]
    "data in the constructor": (lambda: CE(L, Y), "to calculate, make it first: CrossEntropy()(guesses, truths)"),  # type: ignore[misc]
    "data in the constructor of a metric": (
        lambda: lossreg.metrics.Precision1(L, L),  # type: ignore[misc]
        "to calculate, make it first: Precision1()(logits=..., labels=...)",
    ),
    "one option too many by position": (
        lambda: lossreg.mindformers.CrossEntropyLoss(None, False, False, [1.0]),  # type: ignore[misc]
        "expected at most 3 options by position, got 4; write CrossEntropyLoss(weight=[1.0])",
    ),
    "PyTorch's weight where two are meant": (
        lambda: lossreg.BinaryCrossEntropyWithLogits(weight=[1.0]),  # type: ignore[call-arg]
        "weight: unknown option; did you mean 'pos_weight'?",
    ),
    "names as a text": (lambda: CE(names="abc"), "names: should be a list, got 'abc'"),
    "balanced": (lambda: CE(class_weight="balanced"), "class_weight: should be a list, got 'balanced'"),
    "weights as a dict": (lambda: CE(class_weight={0: 1.0}), "class_weight: should be a list, got {0: 1.0}"),  # type: ignore[arg-type]
    # Calls
    "weight in a call": (lambda: CE()(L, Y, weight=np.ones(4)), "got weight=... (weight is sample_weight here)"),
    "a mask by position": (lambda: CE()(L, Y, np.ones(4)), "with mask= and sample_weight= by name, got 3 arguments by position"),
    "names of scikit-learn": (
        lambda: CE().get_loss(y_pred=L, y_true=Y),
        "expected CrossEntropy().get_loss(guesses, truths), with mask= and sample_weight= by name, "
        "got y_pred=..., y_true=... (y_pred is guesses here, y_true is truths here)",
    ),
    "nothing": (lambda: CE().get_grad(), "got no guesses"),
    "three inputs": (
        lambda: lossreg.TripletMargin()(L, L, L),
        "expected TripletMargin()((anchor, positive, negative)), with the 3 inputs in one tuple, got 3 arguments by position",
    ),
    "lists as guesses": (lambda: MSE()([1.0, 2.0], [0.0, 1.0]), "got a list of 2 without arrays; write np.array(guesses)"),
    "swapped arguments": (lambda: CE()(Y, L), "guesses and truths may be swapped"),
    "a column of ids": (lambda: CE()(L, Y[:, None]), "expected truths of shape (4, 3) as guesses, or ids of shape (4,)"),
    "what to write for it": (lambda: CE()(L, Y[:, None]), "write truths[:, 0]"),
    "float ids": (lambda: CE()(L, Y.astype(float)), "write truths.astype(int)"),
    "too few truths": (lambda: CE()(L, Y[:3]), "expected 4 truths (one per row of guesses), got 3"),
    "logits of two classes": (lambda: CE()(L[:, 0], Y), "one per example, there is BinaryCrossEntropyWithLogits"),
    "a negated label": (lambda: NAMED(L, ["cat", "!dog", "cat", "cat"]), "not 'dog', set neg_prefix='!'"),
    "a missing label": (lambda: NAMED(L, ["cat", "", "cat", "cat"]), 'a truth is missing, set missing_value=""'),
    "names of multi-label truths": (
        lambda: lossreg.BinaryCrossEntropyWithLogits()(L, [["a"], [], ["b"], ["a", "b"]]),
        "expected truths to be numbers, got a list of 4 with text; CrossEntropy(names=...) takes names",
    ),
    # Functions
    "an input twice": (lambda: F.mse([1.0], [2.0], truths=[2.0]), "mse() takes 2 inputs (guesses, truths), got truths by position and by name"),
    "an input too few": (lambda: F.mse(truths=[2.0]), "mse() takes 2 inputs (guesses, truths), got 1, without guesses"),
    "PyTorch's names of inputs": (
        lambda: F.mse(input=[1.0], target=[2.0]),
        "without guesses and truths (input is guesses here, target is truths here)",
    ),
    "a weight that is no input": (lambda: F.mse([1.0], [2.0], weight=[1.0]), "weight: unknown option; did you mean sample_weight=?"),
    "a weight twice": (lambda: F.bce([0.5], [1.0], [1.0], weight=[2.0]), "bce() got weight by position and by name"),
    "a weight that may be two things": (
        lambda: F.bcelogits([0.5], [1.0], weight=[2.0]),
        "bcelogits() got weight=, which may be its input or the k api's name of pos_weight; write sample_weight= for "
        "the weight of each element or pos_weight= for that of each class",
    ),
    "a keyword of a call": (
        lambda: lossreg.loss(MSE(), [1.0], [2.0], target=[1.0]),
        "takes mask= and sample_weight= beside its inputs, got target= (target is truths here)",
    ),
    "an option's name without a list": (
        lambda: lossreg.loss("ce", "smoothing", 0.1),
        "Cannot make CrossEntropy: label_smoothing: expected a name and its value in a list, got 'smoothing' and 0.1; "
        'write ["smoothing", 0.1] or smoothing=0.1',
    ),
    "a text's name without a list": (lambda: lossreg.loss("mse", "reduce", "none"), 'write ["reduce", "none"] or reduce="none"'),
    "a name without a value": (lambda: F.ce(L, Y, "smoothing"), "got 'smoothing' alone; write [\"smoothing\", value]"),
    "data to loss": (
        lambda: lossreg.loss("mse", L, L),
        "Cannot make MeanSquaredError: expected options, got a float64 array of shape (4, 3); to calculate write "
        "lossreg.functional.mse(guesses, truths)",
    ),
    "logits and ids to loss": (lambda: lossreg.loss("ce", L, Y), "to calculate write lossreg.functional.ce(guesses, truths)"),
    "lists to loss": (lambda: lossreg.loss("mse", [1.0], [2.0]), "got a list of 1; to calculate write lossreg.functional.mse("),
    "data to a loss without a short name": (
        lambda: lossreg.loss("CosineDistance.v1", L, L),
        "to calculate write CosineDistance()(guesses, truths)",
    ),
    "a metric as a loss": (
        lambda: lossreg.loss(lossreg.metrics.Accuracy),
        "expected a calculator of a loss, got Accuracy; write Accuracy(...)",
    ),
    "a slip in the name of a metric": (lambda: lossreg.help("Acuracy.v1"), "did you mean 'Accuracy.v1'?"),
    "the second of two inputs": (lambda: F.similar(L, L[0]), "expected x2 of shape (...) with 1 or more along axis 1, got shape (3,)"),
    # Rows of 0 and 1, where labels are expected
    "rows of 0 and 1 in lists": (
        lambda: F.multisoft([[0.1, 0.9, 0.3]], [[1, 0, 1]]),
        "got class 1 twice in row 0; rows of 0 and 1 must be an array; write np.array(truths).",
    ),
    "rows of two classes in lists": (
        lambda: F.multilabel([[0.1, 0.9]], [[0, 1]]),
        "got [0, 1] in row 0; for rows of 0 and 1 write [set(np.flatnonzero(row)) for row in truths].",
    ),
    "rows of 0 and 1 for labels": (
        lambda: F.multilabel([[0.1, 0.9, 0.3]], np.array([[1, 0, 1]])),
        "got class 1 twice in row 0; for rows of 0 and 1 write [set(np.flatnonzero(row)) for row in truths].",
    ),
    "rows of floats for labels": (
        lambda: F.multilabel([[0.1, 0.9, 0.3]], np.array([[1.0, 0.0, 1.0]])),
        "got a float64 array of shape (1, 3); for rows of 0 and 1 write [set(np.flatnonzero(row)) for row in truths].",
    ),
    "ids as floats for labels": (
        lambda: F.multilabel([[0.1, 0.9, 0.3]], np.array([[2.0, 1.0, -1.0]])),
        "expected truths to be ids ended by -1, got a float64 array of shape (1, 3); write truths.astype(int).",
    ),
    # Configs
    "a short name": (lambda: resolve('@losses = "ce"'), "nothing is registered as 'ce'; did you mean 'CrossEntropy.v1'?"),
    "a forgotten @": (
        lambda: resolve('losses = "CrossEntropy.v1"'),
        'loss.losses: names a function without the @; write @losses = "CrossEntropy.v1"',
    ),
    "numbers of Python": (
        lambda: resolve('@losses = "CrossEntropy.v1"\nlabel_smoothing = .1'),
        "should be a valid number, got '.1'; write 0.1",
    ),
    "an underscore in a number": (
        lambda: resolve('@losses = "CrossEntropy.v1"\nlabel_smoothing = 1_000'),
        "should be a valid number, got '1_000'; write 1000",
    ),
    "one of several types": (
        lambda: lossreg.kauldron.losses.L2(weight=None),  # type: ignore[arg-type]
        "Cannot make L2: weight: should be a number, a function or an iterator, got None",
    ),
    "a text for one of several types": (
        lambda: lossreg.Term(MSE(), guesses="a", weight="0.5"),  # type: ignore[arg-type]
        "Cannot make Term: weight: should be a number, a function or an iterator, got '0.5'; write 0.5",
    ),
    "names without quotes": (
        lambda: resolve('@losses = "CrossEntropy.v1"\nnames = [cat, dog]'),
        'loss.names: line 3: expected JSON, such as ["cat","dog"], got',
    ),
    "a path as a text": (lambda: Config().from_str("loss.cfg"), "looks like a path; write Config().from_disk('loss.cfg')"),
    "a path to resolve": (lambda: registry.resolve("loss.cfg"), "looks like a path; write Config().from_disk('loss.cfg')"),  # type: ignore[arg-type]
    "a bare register": (lambda: lossreg.register(MSE), '@register("Mine.v1")'),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("ops", ["numpy", None])
def test_a_mistake_gets_its_sentence(name: str, ops: str | None) -> None:
    mistake, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        if ops is None:
            mistake()
        else:
            with lossreg.use_ops(ops):
                mistake()


class Returns3(lossreg.Loss):
    def __call__(self, guesses: Any, truths: Any) -> Any:
        return 3.0


class WithoutGradient(lossreg.Loss):
    def get_grad(self, guesses: Any, truths: Any) -> Any:
        return None

    def get_loss(self, guesses: Any, truths: Any) -> Any:
        return 0.0


class Values(kd.losses.Loss):
    preds: Any = kd.kontext.REQUIRED

    def get_values(self, preds: Any) -> Any:
        return None


def _of(formula: Any) -> Any:
    """A loss with a formula."""
    return type("Mine", (lossreg.ElementwiseLoss,), {"formula": staticmethod(formula)})()


TERM = lossreg.Term(CE(), guesses="p", truths="t")
CALLS: dict[str, tuple[Any, str]] = {
    "a mask for Thinc's calculator": (
        lambda: lossreg.L2Distance()(L, L, mask=[1]), "expected L2Distance()(guesses, truths), got mask=."),
    "too many for Thinc's": (
        lambda: lossreg.L2Distance().get_loss(L, L, [1]), "expected L2Distance()(guesses, truths), got 3 arguments by position."),
    "a misspelt argument of a metric": (
        lambda: kd.losses.L2()(preds=L, targets=L, masks=1), "got masks=; did you mean 'mask'?"),
    "mask of MindFormers": (
        lambda: mindformers.CrossEntropyLoss()(L, Y, mask=Y), "got mask= (mask is input_mask here)."),
    "labels of MindFormers": (
        lambda: mindformers.CrossEntropyLoss()(logits=L, labels=Y), "got labels= (labels is label here)."),
    "nothing for MindFormers": (lambda: mindformers.CrossEntropyLoss()(L), "(logits, label, input_mask), got no label."),
    "swapped for MindFormers": (lambda: mindformers.CrossEntropyLoss()(Y, L, Y), "logits and label may be swapped"),
    "names for MindFormers": (lambda: mindformers.CrossEntropyLoss()(L, ["a"] * 4), "CrossEntropy(names=[...]) reads them"),
    "arrays for a term": (lambda: TERM(L, Y), "expected one context, Term(...)({'p': ..., 't': ...}), got 2 arguments."),
    "names for a term": (lambda: TERM.get_loss(p=L), "Term(...).get_loss({'p': ..., 't': ...}), got p=."),
    "no values": (lambda: Values()(preds=L), "Values: expected get_values to return an array of values, got None."),
    "__call__ with one result": (
        lambda: Returns3().get_loss(L, Y), "Returns3: expected __call__ to return (gradient, loss), got 3.0."),
    "no gradient": (
        lambda: lossreg.Term(WithoutGradient(), guesses="p", truths="t")({"p": L, "t": Y}),
        "WithoutGradient: expected get_grad to return the gradient, got None."),
    "no result": (lambda: _of(lambda xp, a, b: None)(L, L), "expected a tuple (value, derivative of each guess), got None"),
    "no xp": (lambda: _of(lambda a, b: (a, b))(L, L), "expected 1 + 2 parameters, of which the first is xp, got 2 (a, b)"),
    "a list as a result": (lambda: _of(lambda xp, a, b: (a, [b]))(L, L), "results, got a list"),
    "a function that xp lacks": (lambda: _of(lambda xp, a, b: (xp.sin(a), b))(L, L), "xp has no sin. A formula may use"),
    "one column for RocAuc": (
        lambda: lossreg.metrics.RocAuc()(logits=L[:, 0], labels=Y.tolist()), "pass two columns, np.stack([0 * x, x], axis=1)"),
    "an array for sequences": (
        lambda: lossreg.SequenceCategoricalCrossentropy()(L, Y), "write [guesses] for one sequence"),
    "a loss with keys in a sum": (
        lambda: lossreg.WeightedSum(terms={"a": kd.losses.L2(preds="p", targets="t")}), "write loss.term"),
    "a list of terms": (lambda: lossreg.WeightedSum([TERM]), "terms one by one, WeightedSum(a, b)"),
    "classes on the last axis": (
        lambda: CE()(np.zeros((2, 3, 4)), np.zeros((2, 3), int)), "write guesses.reshape(-1, 4) and truths.reshape(-1)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_gets_its_sentence(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_own_methods_take_may_follow_in_a_call() -> None:
    class Masked(lossreg.Loss):
        def get_grad(self, guesses: Any, truths: Any, mask: Any = None) -> Any:
            return (guesses - truths) * mask

        def get_loss(self, guesses: Any, truths: Any, mask: Any = None) -> Any:
            return float((np.abs(guesses - truths) * mask).sum())

    grad, loss = Masked()(np.ones(2), np.zeros(2), mask=np.array([0.0, 1.0]))
    assert (grad.tolist(), loss) == ([0.0, 1.0], 1.0)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("l2", "MeanSquaredError.v1"), ("rmse", "MeanSquaredError.v1"), ("log_loss", "BinaryCrossEntropy.v1"),
        ("kl_div", "KLDivergence.v1"), ("nll_loss", "NLL.v1"), ("mae", "MeanAbsoluteError.v1"), ("pinball", "Quantile.v1"),
        ("softmax", "CrossEntropy.v1"), ("L2.v1", "MeanSquaredError.v1"), ("MSE.v1", "MeanSquaredError.v1"),
        ("HuberLoss", "Huber.v1"), ("KLDivLoss", "KLDivergence.v1"), ("focal_loss", "SigmoidFocal.v1"), ("huber.v1", "Huber.v1"),
    ],
)  # fmt: skip
def test_names_of_other_libraries_lead_to_the_calculator(name: str, meant: str) -> None:
    for find in (lossreg.loss, registry.losses.get):
        with pytest.raises(ValueError, match="did you mean") as caught:
            find(name)
        alias = next(alias for alias, full in ALIASES.items() if full == meant)
        assert repr(meant) in str(caught.value) or repr(alias) in str(caught.value)


@pytest.mark.parametrize("name", ["dice", "nothing", "x", "a" * 1000])
def test_no_hint_is_better_than_a_wrong_one(name: str) -> None:
    assert closest_loss(name, [*ALIASES, *registry.losses.names()]) == ""


def test_the_tables_of_synonyms_name_what_there_is() -> None:
    names = registry.losses.names()
    assert {word for words in LOSSES.values() for word in words} <= set(names)
    assert [name for name in LOSSES if folded_name(name) != name] == []
    options = {
        option for name in names for option in lossreg.config.options.positional_order(registry.losses.get(name))
    }
    assert {word for words in OPTIONS.values() for word in words} - {"axis"} <= options
    assert set(CALL_ARGUMENTS.values()) <= {"guesses", "truths", "mask", "sample_weight"}


@pytest.mark.parametrize(
    "names, expected",
    [
        (list(range(10_000)), "should be a valid string, got 9\n  names: and 9,990 more"),
        (["a"] * 1000, "duplicate name 'a'\n  names: and more"),
    ],
)
def test_ten_problems_of_an_option_are_listed(names: Any, expected: str) -> None:
    with pytest.raises(lossreg.ConfigError) as caught:
        CE(names=names)
    assert str(caught.value).endswith(expected)
    assert len(caught.value.problems) == 11


def test_data_in_the_place_of_options_is_refused() -> None:
    many = np.zeros(300_000)
    with pytest.raises(lossreg.ConfigError, match="to calculate write"):
        lossreg.loss("mse", many, many)


def test_label_sets_of_rows_as_the_error_says() -> None:
    rows, guesses = np.array([[1, 1], [0, 1]]), np.array([[0.1, 0.9], [0.2, 0.3]])
    assert F.multilabel(guesses, [set(np.flatnonzero(row)) for row in rows]) == pytest.approx(0.225)


def test_arrays_are_options_in_python_and_in_a_resolved_dict() -> None:
    weights: Any = np.array([1, 2.0])
    resolved = registry.resolve({"loss": {"@losses": "CrossEntropy.v1", "class_weight": weights}})["loss"]
    assert resolved == CE(class_weight=weights) == CE(class_weight=[1.0, 2.0])


@pytest.mark.parametrize(
    "module, name, hint",
    [
        (lossreg, "CategoricalCrossEntropy", "did you mean 'CategoricalCrossentropy_v4' or 'CrossEntropy'?"),
        (lossreg, "MSELoss", "did you mean 'MeanSquaredError'?"),
        (lossreg, "CrossEntropyLoss", "did you mean 'CrossEntropy'?"),
        (lossreg, "Hubber", "did you mean 'Huber'?"),
        (lossreg, "mse", "did you mean 'functional.mse'?"),
        (lossreg.metrics, "Acuracy", "did you mean 'Accuracy'?"),
        (lossreg.metrics, "F1", "(known: Accuracy, Ari, "),
    ],
)
def test_attributes_of_other_libraries_lead_to_the_class(module: Any, name: str, hint: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(hint)):
        getattr(module, name)
    assert not hasattr(module, name)
    assert not hasattr(module, "__wrapped__")


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_modules_that_need_their_own_import(name: str) -> None:
    script = f"import lossreg\ntry: lossreg.{name}\nexcept AttributeError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"has no attribute {name!r} yet; write import lossreg.{name}" in done.stdout
