"""Losses that users write as in Thinc: `get_grad` and `get_loss`, or `__call__`, with or without an own `__init__`."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

import lossreg
from lossreg import Config, ConfigError, ElementwiseLoss, Loss, Ragged, Sequence, Term, WeightedSum, register, registry

X, Y = np.array([[1.0, 2.0], [3.0, 5.0], [0.5, -1.0]]), np.array([[0.0, 2.0], [1.0, 1.0], [0.5, 1.0]])


@register("Tests.Squares.v1")
class Squares(Loss):
    """Half of the sum of squares, as one writes it for Thinc."""

    def __init__(self, scale: float = 1.0, **more: Any) -> None:
        self.scale = scale
        self.more = more

    def get_grad(self, guesses: Any, truths: Any) -> Any:
        return self.scale * (guesses - truths)

    def get_loss(self, guesses: Any, truths: Any) -> Any:
        return 0.5 * self.scale * float(np.square(guesses - truths).sum())


@register("Tests.CalledSquares.v1")
class CalledSquares(Loss):
    """The same, by `__call__`, with an option in the manner of lossreg."""

    scale: float = 1.0

    def __call__(self, guesses: Any, truths: Any) -> tuple[Any, Any]:
        difference = guesses - truths
        return self.scale * difference, 0.5 * self.scale * float(np.square(difference).sum())


@register("Tests.SetSquares.v1")
class SetSquares(Squares):
    """An `__init__` that calls that of its base, and sets more."""

    def __init__(self, factor: float) -> None:
        super().__init__(scale=2.0 * factor)
        self.factor = factor


LOSSES = [Squares(3.0), CalledSquares(scale=3.0), SetSquares(1.5)]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_two_methods_make_a_calculator(loss: Loss) -> None:
    grad, value = loss(X, Y)
    np.testing.assert_array_equal(grad, 3.0 * (X - Y))
    np.testing.assert_array_equal(loss.get_grad(X, Y), grad)
    assert value == loss.get_loss(X, Y) == 1.5 * np.square(X - Y).sum()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_own_losses_come_back_from_configs_copies_and_pickles(loss: Loss) -> None:
    config = Config({"loss": loss.to_config()}).to_str()
    for other in (
        registry.resolve(Config().from_str(config))["loss"],
        pickle.loads(pickle.dumps(loss)),
        copy.copy(loss),
        copy.deepcopy(loss),
    ):
        assert type(other) is type(loss) and other == loss and hash(other) == hash(loss)
        assert other.get_loss(X, Y) == loss.get_loss(X, Y)


def test_what_an_own_loss_was_made_with_takes_the_place_of_options() -> None:
    loss = Squares(2.0, tags=["a"])
    assert loss.options() == {"scale": 2.0, "tags": ["a"]}
    assert Squares().options() == {} and Squares().options(all=True) == {"scale": 1.0}
    assert repr(loss) == "Squares(scale=2.0, tags=['a'])"
    assert Squares(2.0) == Squares(scale=2.0) != Squares(1.0) and Squares() != CalledSquares()
    assert Squares(np.ones(2)) == Squares(np.ones(2)) != Squares(np.zeros(2))  # type: ignore[arg-type]
    assert SetSquares(1.0).options() == {"factor": 1.0}
    assert lossreg.loss("Tests.Squares.v1", 3.0) == LOSSES[0]


def test_attributes_of_an_own_loss_can_be_set() -> None:
    loss = Squares()
    loss.scale = 4.0
    assert loss.get_loss(X, Y) == 4.0 * Squares().get_loss(X, Y)
    del loss.more
    with pytest.raises(
        dataclasses.FrozenInstanceError, match=r"Cannot set 'scale' of CalledSquares: .*replace\(\.\.\., scale=\.\.\.\)"
    ):
        CalledSquares().scale = 2.0  # type: ignore[misc]


def test_an_own_init_of_a_loss_with_a_formula() -> None:
    class Scaled(ElementwiseLoss):
        def __init__(self, scale: float, reduction: Any = "sum") -> None:
            super().__init__(reduction=reduction)
            self.scale = scale

        @staticmethod
        def formula(xp: Any, guess: Any, truth: Any, scale: Any) -> Any:
            residual = guess - truth
            return scale * residual * residual, 2.0 * scale * residual

    loss = Scaled(3.0)
    np.testing.assert_allclose(
        loss.get_values(X, Y, mask=np.array([[1], [0], [1]])), 3.0 * np.square(X - Y) * [[1], [0], [1]]
    )
    assert loss.get_loss(X, Y) == pytest.approx(3.0 * np.square(X - Y).sum())
    assert loss.get_state(X, Y).merge(Scaled(3.0).get_state(X, Y)).compute() == pytest.approx(2 * loss.get_loss(X, Y))
    with pytest.raises(ValueError, match="merge"):
        loss.get_state(X, Y).merge(Scaled(2.0).get_state(X, Y))
    with pytest.raises(ConfigError, match="reduction"):
        Scaled(3.0, reduction="men")


def test_decorators_of_dataclasses_may_follow() -> None:
    @dataclasses.dataclass(eq=True, frozen=True, kw_only=True)
    class Scaled(ElementwiseLoss):
        scale: float = 2.0
        names: list[str] = dataclasses.field(default_factory=list)

        @staticmethod
        def formula(xp: Any, guess: Any, truth: Any, scale: Any) -> Any:
            residual = guess - truth
            return scale * residual * residual, 2.0 * scale * residual

    assert Scaled(scale=1.0).get_loss(X, Y) == pytest.approx(np.square(X - Y).mean())
    assert Scaled() == Scaled(scale=2.0, names=[]) and hash(Scaled()) == hash(Scaled(scale=2.0))
    with pytest.raises(ConfigError, match="scale: should be a valid number"):
        Scaled(scale="x")  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scaled().scale = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_sequences_of_own_losses(loss: Loss) -> None:
    whole = loss(np.concatenate([X, X[:2]]), np.concatenate([Y, Y[:2]]))
    grads, value = Sequence(loss)([X, X[:2]], [Y, Y[:2]])
    np.testing.assert_array_equal(np.concatenate(grads), whole[0])
    assert value == whole[1] and [len(x) for x in grads] == [3, 2]

    ragged, value = Sequence(loss)(Ragged(np.concatenate([X, X[:2]]), (3, 2)), [Y, Y[:2]])
    np.testing.assert_array_equal(ragged.data, whole[0])
    assert value == whole[1]

    padded = np.stack([X, X])
    grad = Sequence(loss).get_grad(padded, [Y, Y[:2]])
    np.testing.assert_array_equal(grad[0], whole[0][:3])
    np.testing.assert_array_equal(grad[1], [*whole[0][3:], [0.0, 0.0]])
    np.testing.assert_array_equal(Sequence(loss).get_grad(padded, np.stack([Y, Y])), [loss.get_grad(X, Y)] * 2)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_terms_of_own_losses(loss: Loss) -> None:
    term = Term(loss, guesses="preds", truths="batch.y", weight=0.5)
    context = {"preds": X, "batch": {"y": Y}}
    grads, value = term(context)
    np.testing.assert_array_equal(grads["preds"], 0.5 * loss.get_grad(X, Y))
    assert value == 0.5 * loss.get_loss(X, Y) == term.get_loss(context)
    np.testing.assert_array_equal(term.get_grad(context)["preds"], grads["preds"])

    # Each call counts as one.
    other = {"preds": X[:1], "batch": {"y": Y[:1]}}
    merged = term.get_state_from_context(context).merge(term.get_state_from_context(other))
    assert merged.compute() == pytest.approx(0.25 * (loss.get_loss(X, Y) + loss.get_loss(X[:1], Y[:1])))

    both = WeightedSum(term, Term(lossreg.MeanSquaredError(), guesses="preds", truths="batch.y"))
    assert both.get_loss(context) == pytest.approx(value + np.square(X - Y).mean())
    np.testing.assert_allclose(both.get_grad(context)["preds"], grads["preds"] + 2.0 * (X - Y) / X.size)


def test_what_an_own_loss_does_not_have_is_said() -> None:
    with pytest.raises(ConfigError, match="mask: cannot be used with Squares, which takes guesses and truths alone"):
        Term(Squares(), guesses="x", truths="y", mask="m")
    with pytest.raises(
        ConfigError, match="reduction: cannot be used with Squares, which has get_grad and get_loss alone"
    ):
        Sequence(Squares(), reduction="sum")
    with pytest.raises(ValueError, match="Squares: expected mask to be None"):
        Sequence(Squares())([X], [Y], mask=[np.ones(3)])
    with pytest.raises(ValueError, match="Squares: expected values of a loss that has some"):
        Sequence(Squares()).get_values([X], [Y])
    with pytest.raises(ValueError, match="Squares: expected truths beside guesses, got none"):
        Sequence(Squares())([X])


def test_a_loss_without_its_methods_cannot_be_made() -> None:
    class Half(Loss):
        def get_grad(self, guesses: Any, truths: Any) -> Any:
            return guesses

    class Empty(Loss):
        pass

    with pytest.raises(TypeError, match=r"Cannot make Half: expected get_grad and get_loss, or __call__, got get_grad"):
        Half()
    with pytest.raises(TypeError, match=r"Cannot make Empty: .* got none of them"):
        Empty()


def test_register_needs_a_name() -> None:
    with pytest.raises(ConfigError, match=r'expected names, as in @register\("Mine.v1"\), got'):
        register(Squares)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got no name"):
        register()


def test_wrong_options_of_own_losses_in_configs() -> None:
    def resolve(text: str) -> Any:
        return registry.resolve(Config().from_str(f"[loss]\n{text}"))["loss"]

    assert resolve('@losses = "Tests.Squares.v1"\nscale = 2\nextra = 1').more == {"extra": 1}
    with pytest.raises(ConfigError, match=r"loss\.scale: should be a valid number, got 'x'"):
        resolve('@losses = "Tests.Squares.v1"\nscale = "x"')
    with pytest.raises(ConfigError, match=r"loss\.factr: unknown option; did you mean 'factor'"):
        resolve('@losses = "Tests.SetSquares.v1"\nfactr = 1')
    with pytest.raises(ConfigError, match=r"loss\.factor: this option has no default and must be given"):
        resolve('@losses = "Tests.SetSquares.v1"')


def test_a_loop_of_thinc() -> None:
    thinc = pytest.importorskip("thinc.api")
    model = thinc.Linear(nO=2, nI=2)
    model.initialize(X=X.astype("f4"), Y=Y.astype("f4"))
    loss, optimizer, values = Squares(), thinc.SGD(0.05), []
    for _ in range(50):
        guesses, backprop = model.begin_update(X.astype("f4"))
        grad, value = loss(guesses, Y.astype("f4"))
        backprop(grad)
        model.finish_update(optimizer)
        values.append(value)
    assert values[-1] < 0.5 * values[0]


def test_arguments_of_rows_are_a_tuple() -> None:
    class Mine(lossreg.RowLoss):
        def read_truths(self, batch: Any, truths: Any, check: bool) -> Any:
            return lossreg.authoring.TargetBatch(truths)

        def arguments(self, batch: Any, truths: Any) -> Any:
            return truths.targets

        @staticmethod
        def formula(xp: Any, guesses: Any, ids: Any) -> Any:
            return xp.pick(guesses, ids), guesses

    with pytest.raises(
        TypeError, match=r"expected arguments\(\) to return a tuple, got an? int64 array of shape \(3,\)"
    ):
        Mine()(X, np.array([0, 1, 0]))


def test_own_losses_that_have_changed_are_other_losses() -> None:
    class Scaled(ElementwiseLoss):
        def __init__(self, k: Any) -> None:
            super().__init__(reduction="sum")
            self.k = k

        @staticmethod
        def formula(xp: Any, guess: Any, truth: Any, k: Any) -> Any:
            return k * (guess - truth), k + 0.0 * guess

    loss, other = Scaled(2.0), Scaled(2.0)
    assert loss == other
    np.testing.assert_array_equal(loss.get_values(X, Y), 2.0 * (X - Y))
    loss.k = 10.0
    assert loss != other and loss.options() == {"k": 10.0}
    np.testing.assert_array_equal(loss.get_values(X, Y), 10.0 * (X - Y))
    with pytest.raises(ValueError, match="merge"):
        loss.get_state(X, Y).merge(other.get_state(X, Y))


def test_own_losses_with_arrays() -> None:
    class Weighted(Squares):
        def __init__(self, weights: Any = None, tags: Any = ()) -> None:
            super().__init__()
            self.weights = weights

    ones = np.ones(3)
    assert Weighted(ones) == Weighted(np.ones(3)) and Weighted([ones]) == Weighted([np.ones(3)])
    for a, b in (
        (ones, np.ones(2)),
        (ones, np.ones(1)),
        (np.zeros(0), np.ones(1)),
        (ones, None),
        (ones, [1.0, 1.0, 1.0]),
    ):
        assert Weighted(a) != Weighted(b)
    assert repr(Weighted(ones)) == "Weighted(weights=array([1., 1., 1.]))"
    tags = ["a"]
    loss = Weighted(tags=tags)
    tags.append("b")
    assert loss.options() == {"tags": ["a"]}
