"""Readings of what the flows' parts count themselves: the cache, the model, learning, lag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from streamrank.metrics import Reading


class Swaps(Protocol):
    """What `swap.HotSwap` says of itself."""

    swaps: int
    returns: int
    refused: int

    @property
    def serving(self) -> str:
        """Which version scores the next batch."""


class Remembers(Protocol):
    """What `edges.cache.CachedStore` says of itself."""

    hits: int
    misses: int

    def __len__(self) -> int:
        """Return how many rows are remembered."""


def model(scorer: Swaps) -> Iterator[Reading]:
    """Say which version serves, and what became of others."""
    meaning = "1 for the version that serves."
    yield Reading("streamrank_model", 1, {"version": scorer.serving}, False, meaning)
    counted = {"swapped": scorer.swaps, "returned": scorer.returns, "refused": scorer.refused}
    for outcome, count in counted.items():
        meaning = "Versions that took over, were returned to, or were refused."
        yield Reading("streamrank_swaps", count, {"outcome": outcome}, True, meaning)


def cache(store: Remembers) -> Iterator[Reading]:
    """Say what the reader's cache is worth."""
    for outcome, count in {"hit": store.hits, "miss": store.misses}.items():
        meaning = "Rows asked of the reader's cache."
        yield Reading("streamrank_cache_reads", count, {"outcome": outcome}, True, meaning)
    yield Reading("streamrank_cache_rows", len(store), {}, False, "Rows in the reader's cache.")


def learning(figures: Mapping[str, Any]) -> Iterator[Reading]:
    """Say what became of lists, of versions and of the comparison of inputs.

    Examples:
        >>> found = learning({"join": {"lists": 2}, "learner": {"Published": 1}, "parity": {}})
        >>> [(one.name, *one.labels.values(), one.value) for one in found]
        [('streamrank_join', 'lists', 2), ('streamrank_learner_news', 'Published', 1)]
    """
    for name, count in figures["join"].items():
        meaning = "Outcomes of lists and feedback."
        yield Reading("streamrank_join", count, {"outcome": name}, True, meaning)
    for kind, count in figures["learner"].items():
        meaning = "What the learner said: updates, versions, verdicts of the gate."
        yield Reading("streamrank_learner_news", count, {"kind": kind}, True, meaning)
    parity = figures["parity"]
    if parity:
        meaning = "Lists compared with what served, and those that differ."
        for name in ("lists", "mismatched"):
            yield Reading("streamrank_parity_lists", parity[name], {"kind": name}, True, meaning)


def lag(behind: Callable[[], Mapping[tuple[str, int], int]]) -> Iterator[Reading]:
    """Say how many records of each partition are still to be read."""
    for (topic, partition), count in behind().items():
        labels = {"topic": topic, "partition": str(partition)}
        meaning = "Records that the last snapshot has not read."
        yield Reading("streamrank_lag_records", count, labels, False, meaning)
