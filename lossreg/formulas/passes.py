"""Which pass over the elements of a row computes what, and which values are kept from pass to pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .arguments import ELEMENT
from .graph import LIBRARY, REDUCTIONS, Symbol, below
from .program import Output

__all__ = ["Plan"]

EXPENSIVE = {*LIBRARY, "pow"} - {"sqrt"}
"""Operations that take longer than to store a number and to load it again."""


class Plan:
    """The passes over a row that outputs need.

    A reduction, such as the maximum of a row, is known after one pass; what depends on it can only be computed in the
    next one.

    last: the number of the last pass, which stores elements.   reduced: the reductions of each pass.   kept_in: the
    pass that first computes an expensive value.   scratch: the scratch row of a value that a later pass needs again.
    The last two go by the keys of symbols.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        reductions = _reductions(outputs)
        stored = [output.symbol for output in outputs if output.array.rank == ELEMENT]
        passes = [symbol.stage for symbol in stored] + [_pass_of(x) for x in reductions]
        self.last = max(passes, default=0)
        self.reduced = [[x for x in reductions if _pass_of(x) == i] for i in range(self.last + 1)]

        # What the elements of each pass are computed for.
        roots = [[x.args[0] for x in group] for group in self.reduced]
        roots[self.last] += stored

        candidates = _worth_keeping(roots)
        self.kept_in: dict[int, int] = {}
        read_again: set[int] = set()
        for i, group in enumerate(roots):
            # What is below a value from an earlier pass need not be computed again.
            earlier = {key for key in candidates if self.kept_in.get(key, i) < i}
            for x in below(group, stop=earlier):
                if x.key in candidates and self.kept_in.setdefault(x.key, i) < i:
                    read_again.add(x.key)
        self.scratch = {key: row for row, key in enumerate(sorted(read_again))}


def _reductions(outputs: Sequence[Output]) -> list[Symbol]:
    """All reductions that outputs depend on, each once."""
    reductions: dict[int, Symbol] = {}
    for output in outputs:
        for x in below([output.symbol], through=True):
            if x.op in REDUCTIONS:
                reductions[x.key] = x
    return list(reductions.values())


def _pass_of(reduction: Symbol) -> int:
    """The pass that a reduction belongs to: the last one before what it makes known."""
    return reduction.stage - 1


def _worth_keeping(roots: Sequence[Sequence[Symbol]]) -> set[int]:
    """The keys of expensive values that more than one pass needs."""
    computed = [{x.key: x for x in below(group)} for group in roots]
    symbols: dict[int, Symbol] = {}
    for group in computed:
        symbols |= group
    users = _users(symbols.values())
    keys = set()
    for key, x in symbols.items():
        if x.op not in EXPENSIVE or x.rank != ELEMENT:
            continue
        if sum(key in group for group in computed) < 2:
            continue
        # Keep the `where` instead if it is the only user: in the same memory, it is not computed again either.
        only_users = users.get(x.key, [])
        while len(only_users) == 1 and only_users[0].op == "where":
            x = only_users[0]
            only_users = users.get(x.key, [])
        keys.add(x.key)
    return keys


def _users(symbols: Iterable[Symbol]) -> dict[int, list[Symbol]]:
    """The elements that are computed from a value, by its key."""
    users: dict[int, list[Symbol]] = {}
    for x in symbols:
        if x.rank != ELEMENT:
            continue
        for arg in x.args:
            if isinstance(arg, Symbol):
                users.setdefault(arg.key, []).append(x)
    return users
