"""The step that gives candidates to the requests without: found, touched and popular items."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamrank import metrics
from streamrank.edges.store import FeatureStore
from streamrank.events import Candidate
from streamrank.features.trails import Finder, trail_of
from streamrank.features.view import Query
from streamrank.steps import Plan
from streamrank.steps_ranking import Scorer

log = logging.getLogger(__name__)


@dataclass
class _Failed:
    """Batches for which nothing could be found, one after the other: loud, but no flood."""

    in_a_row: int = 0

    def take(self, queries: int, error: Exception) -> None:
        metrics.RETRIEVED.labels("failed").inc(queries)
        self.in_a_row += 1
        if self.in_a_row & (self.in_a_row - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            log.error(
                "nothing can be found, requests without items get touched and popular ones "
                "(%d batches in a row): %s: %s",
                self.in_a_row,
                type(error).__name__,
                error,
            )


_FAILED = _Failed()


def retrieve(
    plan: Plan, store: FeatureStore, scorer: Scorer, queries: Sequence[Query]
) -> list[Query]:
    """Give candidates to the queries without.

    First what the version that serves finds for the user, then what the user touched, the last
    first, then what is popular; each item once, and `plan.popular` of them at most.

    Args:
        plan: How many to find, and how many candidates there may be.
        store: Where the popular items are.
        scorer: What serves; where it is no `Finder`, or fails, nothing is found.
        queries: A batch; those with candidates stay as they are.
    """
    bare = [query for query in queries if not query.candidates]
    if not bare:
        return list(queries)
    newest = max(query.at for query in queries)
    read = store.read("popular", ["all"], newest)[0]
    popular = read.get("items") if isinstance(read, Mapping) else ()
    known = tuple(map(str, popular)) if isinstance(popular, tuple) else ()
    filled = iter(
        _filled(plan, query, found, known)
        for query, found in zip(bare, _found(plan, scorer, bare), strict=True)
    )
    return [query if query.candidates else next(filled) for query in queries]


def _filled(plan: Plan, query: Query, found: Sequence[str], popular: Iterable[str]) -> Query:
    touched = [step.item for step in reversed(query.state.steps) if step.item]
    ids = dict.fromkeys([*found, *touched, *popular])
    chosen = itertools.islice(ids, plan.popular)
    return replace(query, candidates=tuple([Candidate(id=one) for one in chosen]))


def _found(plan: Plan, scorer: Scorer, queries: Sequence[Query]) -> list[list[str]]:
    """Ask the version that serves, once for the whole batch; an error costs no request."""
    nothing: list[list[str]] = [[] for _ in queries]
    if not plan.found or not isinstance(scorer, Finder):
        return nothing
    try:
        trails = [trail_of(plan.schema, query.state.steps) for query in queries]
        found = scorer.find(trails, plan.found)
        if len(found) != len(trails):
            raise ValueError(f"found must be for {len(trails)} users, got {len(found)}")
    except Exception as error:  # noqa: BLE001  # whatever it is, there is another way
        _FAILED.take(len(queries), error)
        return nothing
    _FAILED.in_a_row = 0
    some = sum(map(bool, found))
    metrics.RETRIEVED.labels("found").inc(some)
    metrics.RETRIEVED.labels("nothing").inc(len(found) - some)
    return found
