"""Which pass over the elements of a row computes what, and what is kept from pass to pass."""

from __future__ import annotations

from collections.abc import Sequence

from .arguments import ELEMENT
from .graph import LIBRARY, REDUCTIONS, Symbol, below
from .program import Output

__all__ = ["Plan"]

EXPENSIVE = {*LIBRARY, "pow"} - {"sqrt"}


class Plan:
    """The passes that outputs need.

    reduced: the reductions of each pass.   last: the pass that stores elements.   kept_in: the pass that first computes
    something expensive.   scratch: the scratch rows of what a later pass needs again.   By the keys of symbols.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        reductions: dict[int, Symbol] = {}
        for output in outputs:
            for x in below([output.symbol], through=True):
                if x.op in REDUCTIONS:
                    reductions[x.key] = x
        stored = [o for o in outputs if o.array.rank == ELEMENT]
        last = max([o.symbol.stage for o in stored] + [x.stage - 1 for x in reductions.values()], default=0)
        self.reduced = [[x for x in reductions.values() if x.stage - 1 == i] for i in range(last + 1)]
        roots = [[x.args[0] for x in group] for group in self.reduced]
        roots[last] = roots[last] + [o.symbol for o in stored]
        seen = [{x.key: x for x in below(group)} for group in roots]
        everything = {key: x for group in seen for key, x in group.items()}
        users: dict[int, list[Symbol]] = {}
        for x in everything.values():
            for arg in x.args if x.rank == ELEMENT else ():
                if isinstance(arg, Symbol):
                    users.setdefault(arg.key, []).append(x)
        candidates = set()
        for key, x in everything.items():
            if x.op in EXPENSIVE and x.rank == ELEMENT and sum(key in g for g in seen) > 1:
                while len(found := users.get(x.key, [])) == 1 and found[0].op == "where":
                    x = found[0]  # what is made of it alone is as well kept
                candidates.add(x.key)
        kept: set[int] = set()
        self.kept_in: dict[int, int] = {}  # symbol -> the pass that stores it
        for i, group in enumerate(roots):
            for x in below(group, stop={k for k in candidates if self.kept_in.get(k, i) < i}):
                if x.key in candidates and self.kept_in.setdefault(x.key, i) < i:
                    kept.add(x.key)
        self.scratch = {key: place for place, key in enumerate(sorted(kept))}
        self.last = last
