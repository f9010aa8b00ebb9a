"""Metrics around another metric: over the leaves of trees, and for contexts in which something may be missing."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from ..arrays.trees import PathError, leaves, tree_map
from ..config.resolve import register
from ..states.base import EmptyState, State, TreeState
from .base import Metric
from .globs import get_glob

__all__ = ["Noop", "SkipIfMissing", "TreeMap", "TreeReduce"]


@register("Noop.v1", to="metrics")
class Noop(Metric):
    """Nothing: takes the place of a metric that is to be left out.

        result = {}

    Shapes: any arguments.
    Source: Kauldron's `NoopMetric` (https://kauldron.readthedocs.io).
    """

    class State(EmptyState):
        """Nothing."""

    def get_state(self, **inputs: Any) -> State:
        """Nothing, of any arguments."""
        return self.State()


class _Wrapper(Metric):
    """A metric around another one, whose paths in a context it has."""

    metric: Metric = dataclasses.field(kw_only=False)

    def get_paths(self) -> dict[str, Any]:
        """Those of the inner metric."""
        return self.metric.get_paths()


class _TreeMetric(_Wrapper):
    """A metric of each leaf of trees."""

    def get_inputs(self, context: Any) -> dict[str, Any]:
        """What lies at the paths of a context, which may have wildcards; KeyError for one that leads nowhere."""
        return {name: get_glob(context, path) for name, path in self.get_paths().items()}

    def _states(self, trees: dict[str, Any]) -> Any:
        """A tree of states."""
        arguments = {name: tree for name, tree in trees.items() if tree is not None}
        if not arguments:
            return self.metric.get_state()  # says what is missing

        def state_of(*leaves_of_arguments: Any) -> Any:
            return self.metric.get_state(**dict(zip(arguments, leaves_of_arguments)))

        return tree_map(state_of, *arguments.values())


@register("TreeMap.v1", to="metrics")
class TreeMap(_TreeMetric):
    """A metric of each leaf of nested dicts, lists and tuples.

        result = the tree, with metric(leaf) in the place of each leaf

    Paths of the inner metric may have wildcards: in "params.**.bias", `**` is any number of steps, and `*` is any one
    step. What is before the first of them is dropped from the result.

    Shapes: trees whose leaves are what the metric takes, arranged alike for each of its arguments.
    Errors: KeyError where a path leads nowhere, ValueError where trees are not alike.
    Source: Kauldron's `TreeMap` (https://kauldron.readthedocs.io).

    metric: the inner metric.
    """

    class State(TreeState):
        """A state for each leaf."""

    def get_state(self, **trees: Any) -> State:
        """The states of the leaves, from trees of the inner metric's arguments."""
        return self.State(self._states(trees))


@register("TreeReduce.v1", to="metrics")
class TreeReduce(_TreeMetric):
    """One result of all leaves of nested dicts, lists and tuples: their states are merged.

        result = compute(state(leaf 1) + state(leaf 2) + ...)

    So `TreeReduce(Norm(axis=None, aggregation_type="concat"))` is the norm of all gradients as one vector. Paths may
    have wildcards, as those of `TreeMap`.

    Shapes: trees whose leaves are what the metric takes, arranged alike for each of its arguments.
    Errors: KeyError where a path leads nowhere, ValueError where trees are not alike.
    Source: Kauldron's `TreeReduce` (https://kauldron.readthedocs.io).

    metric: the inner metric. The states are its own.
    """

    def get_state(self, **trees: Any) -> Any:
        """The merged state of the leaves, from trees of the inner metric's arguments."""
        states = leaves(self._states(trees), is_leaf=lambda x: isinstance(x, State))
        return functools.reduce(lambda a, b: a.merge(b), states, self.metric.empty())

    def empty(self) -> Any:
        """The state of no data of the inner metric."""
        return self.metric.empty()


@register("SkipIfMissing.v1", to="metrics")
class SkipIfMissing(_Wrapper):
    """A metric that does without a context in which one of its paths leads nowhere.

        result = metric(context), or {} if no context has what the metric reads

    Any other error is raised, a KeyError of the metric itself included.

    Shapes: those of the metric.
    Source: Kauldron's `SkipIfMissing` (https://kauldron.readthedocs.io).

    metric: the inner metric.
    """

    class State(TreeState):
        """The state of the metric, or none."""

    def get_inputs(self, context: Any) -> dict[str, Any]:
        """Those of the inner metric."""
        return self.metric.get_inputs(context)

    def get_state(self, **inputs: Any) -> State:
        """The state of the inner metric."""
        return self.State(self.metric.get_state(**inputs))

    def get_state_from_context(self, context: Any) -> State:
        """The state of the inner metric, or the state of no data where a path leads nowhere."""
        try:
            inputs = self.get_inputs(context)
        except PathError:
            return self.empty()  # type: ignore[no-any-return]
        return self.get_state(**inputs)
