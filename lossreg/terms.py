"""Terms: a calculator bound to places in a context, with a weight; and their weighted sum."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

from .arrays.dlpack import like
from .arrays.trees import check_path, get_path, tree_map
from .checks import describe
from .config.options import ConfigError, Configurable, Problem, replaced
from .config.resolve import register
from .pipeline.evaluation import Call, Needs
from .pipeline.loss import Loss
from .pipeline.plain import PlainCalculator
from .pipeline.reduced import UNDIVIDED, ReducedLoss
from .schedules import Series, value_at
from .states.averages import LossState
from .states.base import TreeState
from .synonyms import closest

__all__ = ["ContextLoss", "Term", "WeightedSum", "WeightedSumState"]

Paths = str | Sequence[str]

Method = TypeVar("Method", bound=Callable[..., Any])


def _of_one_context(method: Method) -> Method:
    """A method that takes a context, with an error for arrays in its place."""

    @functools.wraps(method)
    def of_one_context(self: Any, *contexts: Any, **named: Any) -> Any:
        if len(contexts) == 1 and not named:
            return method(self, *contexts)
        if not contexts and list(named) == ["context"]:
            return method(self, **named)
        raise self._misused(method, contexts, named)

    return cast(Method, of_one_context)


class ContextLoss(Configurable, ABC):
    """A loss of what lies at paths of a context: any nesting of dicts, lists and objects."""

    @_of_one_context
    def __call__(self, context: Any) -> tuple[dict[str, Any], Any]:
        """({path: gradient}, loss) in one pass."""
        state, grads = self._run(context, Needs(total=True, grad=True))
        return grads, self._loss(context, state)

    @_of_one_context
    def get_grad(self, context: Any) -> dict[str, Any]:
        """The gradients, by the paths of the guesses."""
        return self._run(context, Needs(grad=True))[1]

    @_of_one_context
    def get_loss(self, context: Any) -> Any:
        """The loss."""
        return self._loss(context, self._run(context, Needs(total=True))[0])

    @_of_one_context
    def get_state_from_context(self, context: Any) -> Any:
        """The partial result of a context: states merge to the loss of all of them together."""
        return self._run(context, Needs(total=True))[0]

    @abstractmethod
    def get_state_and_grad(self, context: Any) -> tuple[Any, dict[str, Any]]:
        """(state, gradients of totals), for gradients that are added up over contexts.

        `state.scale(...)` of the merged state makes of what was added up the gradients of the loss.
        """

    def _misused(self, method: Any, contexts: tuple[Any, ...], named: Mapping[str, Any]) -> TypeError:
        name = type(self).__name__
        paths = dict.fromkeys(path for term in self._all() for path in (*_paths(term.guesses), *_paths(term.truths)))
        context = "{" + ", ".join(f"{path!r}: ..." for path in paths) + "}"
        suffix = "" if method.__name__ == "__call__" else f".{method.__name__}"
        got = ", ".join(f"{word}=" for word in named) or f"{len(contexts)} arguments"
        return TypeError(f"Cannot calculate {name}: expected one context, {name}(...){suffix}({context}), got {got}.")

    @abstractmethod
    def empty(self) -> Any:
        """The state of no data."""

    @abstractmethod
    def _run(self, context: Any, needs: Needs) -> tuple[Any, dict[str, Any]]:
        """(state, {path: gradient}), each if it is needed."""

    @abstractmethod
    def _all(self) -> Sequence[Term]:
        """The terms."""

    def _loss(self, context: Any, state: Any) -> Any:
        loss = state.compute()
        return loss if isinstance(loss, float) else like(self._all()[0]._inputs(context)[0], loss)


@register("Term.v1")
class Term(ContextLoss):
    """A calculator bound to places in a context: where its guesses, truths and mask lie, and what it weighs.

        loss = weight(step) * calculator(context[guesses], context[truths], mask=context[mask])

    A context is any nesting of dicts, lists and objects, and a path such as "preds.boxes[0].xy" a place in it.
    Shapes: as the calculator takes them, with a tuple for several paths; the gradient is a dict, {path of guesses:
    gradient}.   Gradient with respect to: what lies at the paths of the guesses; a path that is given twice gets the
    sum of both.
    Errors: KeyError for a path that leads nowhere, with what was there; ValueError for a schedule without a step.
    Source: Kauldron's `kd.losses.Loss` (https://kauldron.readthedocs.io), with gradients.

    loss: the calculator. One of `get_grad` and `get_loss` alone takes no mask, sample_weight and normalize_by, and each
        of its calls counts as one.
    guesses, truths: paths, or a list of paths for calculators that take more than one.
    mask, sample_weight: paths of these; none by default.   step: path of the number of the step, read by schedules.
    weight: a number, or a schedule: a function from step to number, or an iterator with a number for each step, of
        which each is drawn once. It multiplies the loss and not what a mean divides by.
    normalize_by: what a mean divides by, if that is not to be what the calculator says.
    """

    loss: Loss = dataclasses.field(kw_only=False)
    guesses: Paths
    truths: Paths | None = None
    mask: str | None = None
    sample_weight: str | None = None
    step: str = "step"
    weight: float | Callable[[int], Any] | Iterator[float] = 1.0
    normalize_by: Literal["mask", "values"] | None = None

    def __post_init__(self) -> None:
        # At once, and in the place of the iterator: threads, and copies that `replace` makes, then share its numbers.
        if isinstance(self.weight, Iterator):
            object.__setattr__(self, "weight", Series.of(self.weight))
        super().__post_init__()

    def check_options(self) -> Iterable[Problem]:
        """Paths that cannot be read, and another number of them than the calculator takes."""
        for name in ("guesses", "truths", "mask", "sample_weight", "step"):
            for path in _paths(getattr(self, name)):
                try:
                    check_path(path)
                except ConfigError as error:
                    yield name, error.problems[0][1]
        calculator = self._unchanged
        if calculator.returns_state:
            yield "loss", f"should return its loss and not its state, as {type(self.loss).__name__} does with per_token"
        for name, inputs, more in (
            ("guesses", calculator.inputs, calculator.optional_inputs),
            ("truths", calculator.truth_inputs, ()),
        ):
            given = len(_paths(getattr(self, name)))
            if not len(inputs) <= given <= len(inputs) + len(more):
                expected = f"should be {len(inputs)} ({', '.join(inputs)})" if inputs else "should be left out"
                expected += f" or {len(inputs) + len(more)} (and {', '.join(more)})" if more else ""
                yield name, f"{expected} for {type(self.loss).__name__}, got {given}"

        if isinstance(calculator, PlainCalculator):
            for name in ("mask", "sample_weight", "normalize_by"):
                if getattr(self, name) is not None:
                    yield name, f"cannot be used with {type(self.loss).__name__}, which takes guesses and truths alone"

    @functools.cached_property
    def _unchanged(self) -> ReducedLoss:
        return self.loss if isinstance(self.loss, ReducedLoss) else PlainCalculator(self.loss)

    @functools.cached_property
    def calculator(self) -> ReducedLoss:
        """The calculator with the term's `normalize_by`."""
        if self.normalize_by is None:
            return self._unchanged
        return replaced(self.loss, normalize_by=self.normalize_by)  # type: ignore[no-any-return]

    def get_weight(self, step: Any = None) -> float:
        """The weight at a step."""
        weight: Any = self.weight
        try:
            return value_at(weight, step)
        except ValueError as error:
            raise ValueError(f"{error} It is the weight of {self!r}.") from None

    def get_state_and_grad(self, context: Any) -> tuple[LossState, dict[str, Any]]:
        """(state, {path: gradient of its total}), for gradients that are added up over contexts.

        `state.scale(...)` of the merged state makes of what was added up the gradient of the loss.
        """
        return self._run(context, UNDIVIDED)

    def empty(self) -> LossState:
        """The state of no data."""
        return replace(self.calculator.empty(), parent=self)

    def get_state(
        self, guesses: Any, truths: Any = ..., *, mask: Any = None, sample_weight: Any = None, step: Any = None
    ) -> LossState:
        """The partial result of arrays, as that of a context which holds them."""
        state = self.calculator.get_state(guesses, truths, mask=mask, sample_weight=sample_weight)
        return state.weighted(self.get_weight(step), self)

    def get_values(self, guesses: Any, truths: Any = ..., *, mask: Any = None, sample_weight: Any = None) -> Any:
        """The calculator's values before reduction and weight."""
        return self.calculator.get_values(guesses, truths, mask=mask, sample_weight=sample_weight)

    def _all(self) -> Sequence[Term]:
        return (self,)

    def _inputs(self, context: Any) -> tuple[Any, Any, Any, Any]:
        """(guesses, truths, mask, sample_weight)."""
        read = functools.partial(_read, context)
        return read(self.guesses), read(self.truths), read(self.mask), read(self.sample_weight)

    def _weight_in(self, context: Any) -> float:
        return self.get_weight(get_path(context, self.step) if callable(self.weight) else None)

    def _run(self, context: Any, needs: Needs) -> tuple[LossState, dict[str, Any]]:
        weight = self._weight_in(context)
        call = Call(*self._inputs(context), output_grad=weight)
        evaluation = self.calculator.evaluate(call, needs)
        grads: dict[str, Any] = {}
        if needs.grad:
            parts = evaluation.grads if len(self.calculator.inputs) > 1 else (evaluation.grads,)
            for path, part in zip(_paths(self.guesses), parts):
                _add(grads, path, part)
        state = evaluation.state.weighted(weight, self) if needs.total else evaluation.state
        return state, grads


class WeightedSumState(TreeState):
    """The states of terms, by name; `compute()` is their sum."""

    def compute(self) -> Any:
        """The sum of the terms' losses; 0 for no data."""
        return sum(self.per_term().values())

    def per_term(self) -> dict[str, Any]:
        """The loss of each term, weighted."""
        return {name: state.compute() for name, state in (self.tree or {}).items()}

    def scale(self, gradients: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """{path: gradient of the sum}, from {term: {path: gradient of the term's total}}.

        Each term is divided by its own count. Added up before, gradients of other terms could not be told apart.
        """
        total: dict[str, Any] = {}
        states = self.tree or {}
        for name, grads in gradients.items():
            if name not in states:
                terms, hint = ", ".join(states) or "none", closest(name, states) or "."
                raise ValueError(f"Cannot scale gradients: expected those of the terms {terms}, got {name!r}{hint}")
            for path, grad in states[name].scale(grads).items():
                _add(total, path, grad)
        return total


@register("WeightedSum.v1")
class WeightedSum(ContextLoss):
    """The sum of terms over one context.

        loss = sum over terms of term(context)

    In a config a term is a section, `[loss.terms.digit]`; in Python terms may be given by position, and are then
    named "0", "1" and so on.
    Shapes: as the terms take them; the gradient is a dict, {path: gradient}, of all paths of guesses.
    Gradient with respect to: what lies at the terms' paths of guesses; where terms name one path, in the same words,
    their gradients are summed.
    Errors: as the terms; ConfigError for none, and for a name with a dot.
    Source: Kauldron's `compute_losses` (https://kauldron.readthedocs.io), with gradients.

    terms: {name: `Term`}.
    """

    terms: Mapping[str, Term]

    writes_init = False  # it takes terms by position and by name, and is a dataclass all the same

    def __init__(self, *args: Term, terms: Mapping[str, Term] | None = None) -> None:
        by_position = {str(i): term for i, term in enumerate(args)}
        by_name = {} if terms is None else terms
        problem = _problem_of_terms(by_position, by_name)
        if problem:
            raise ConfigError([("terms", problem)], title=f"Cannot make {type(self).__name__}")
        object.__setattr__(self, "terms", {**by_position, **by_name})
        self.__post_init__()

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def check_options(self) -> Iterable[Problem]:
        """At least one term."""
        if not self.terms:
            yield "terms", "should hold at least one term"
        for name in self.terms:
            if not name or "." in name:
                yield "terms", f"should have names without dots, as sections have, got {name!r}"

    def get_state_and_grad(self, context: Any) -> tuple[WeightedSumState, dict[str, dict[str, Any]]]:
        """(state, {term: {path: gradient of the term's total}}), for gradients that are added up over contexts.

        `state.scale(...)` of the merged state makes of what was added up the gradients of the sum, by path.
        """
        both = {name: term.get_state_and_grad(context) for name, term in self.terms.items()}
        state = WeightedSumState({name: state for name, (state, _) in both.items()}, parent=self)
        return state, {name: grads for name, (_, grads) in both.items()}

    def empty(self) -> WeightedSumState:
        """The state of no data."""
        return WeightedSumState({name: term.empty() for name, term in self.terms.items()}, parent=self)

    def _all(self) -> Sequence[Term]:
        return tuple(self.terms.values())

    def _run(self, context: Any, needs: Needs) -> tuple[WeightedSumState, dict[str, Any]]:
        states, total = {}, dict[str, Any]()
        for name, term in self.terms.items():
            states[name], grads = term._run(context, needs)
            for path, grad in grads.items():
                _add(total, path, grad)
        return WeightedSumState(states, parent=self), total


def _problem_of_terms(by_position: Mapping[str, Any], by_name: Any) -> str:
    """What is wrong with the terms of a sum; "" if nothing is."""
    expected = 'expected terms one by one, WeightedSum(a, b), or WeightedSum(terms={"name": a})'
    if not isinstance(by_name, Mapping):
        return f"{expected}, got terms={describe(by_name)}"
    for term in (*by_position.values(), *by_name.values()):
        if not isinstance(term, Term):
            # Of Kauldron's losses the term is a property, which an object without keys does not have.
            hint = "; write loss.term" if hasattr(type(term), "term") else ""
            return f"{expected}, got {describe(term)}{hint}"
    for name in by_name:
        if name in by_position:
            return f"{name!r} is the name of a term given by position"
    return ""


def _paths(paths: Paths | None) -> Sequence[str]:
    if paths is None:
        return ()
    return (paths,) if isinstance(paths, str) else paths


def _read(context: Any, paths: Paths | None) -> Any:
    if paths is None or isinstance(paths, str):
        return None if paths is None else get_path(context, paths)
    return tuple(get_path(context, path) for path in paths)


def _add(total: dict[str, Any], path: str, grad: Any) -> None:
    """Add a gradient to what a path has. Gradients of one path are arranged alike, as its guesses are."""
    total[path] = grad if path not in total else tree_map(lambda a, b: a + b, total[path], grad)
