"""The steps of the rank flow, as functions over one event or whole batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Literal, Protocol

import numpy as np

from streamrank import metrics
from streamrank.edges import cached_items
from streamrank.edges.cache import CachedStore
from streamrank.edges.kafka import Outgoing
from streamrank.edges.store import FeatureStore, View
from streamrank.events import (
    Interaction,
    Ranking,
    Request,
    Served,
    Shown,
    Value,
)
from streamrank.features import inputs, items, state, windows
from streamrank.features.history import told
from streamrank.features.inputs import Array, Inputs, Query, Rows
from streamrank.features.items import Items
from streamrank.features.state import UserState
from streamrank.ranking import rerank
from streamrank.steps import Message, Plan, Read

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """A model that scores whole batches of lists."""

    @property
    def version(self) -> str:
        """Which version this is, `""` for none."""

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        """Return scores of shape (C, heads) for each list, higher is better."""


def is_of_a_person(event: Message) -> bool:
    """Say whether the rank flow's state of a user takes this event in."""
    return isinstance(event, (Interaction, Shown, Request))


def track(plan: Plan, user: UserState, read: Read) -> tuple[UserState, list[Query]]:
    """Take an event into its user's state, and say which list is to be ranked now, if any."""
    event, received = read.event, read.record.received
    if not isinstance(event, (Interaction, Shown, Request)):  # see `is_of_a_person`
        return user, []
    before = user
    user, verdict = state.advance(user, event, plan.rules)
    if verdict != "new":
        return user, []
    if not isinstance(event, Interaction):
        return user, [_asked(before, event, received)]
    current = state.triggers(user, event, plan.triggers, plan.trigger_every)
    if current is None:
        return user, []
    user = replace(user, triggered=event.timestamp)
    query = Query(
        id=rerank.trigger_id(current.id, event.id),
        user=event.key,
        session=event.session,
        at=event.timestamp,
        source="trigger",
        request=current.id,
        trigger=event.id,
        k=current.k,
        context=current.context,
        candidates=current.candidates,
        state=user,
        received=received,
    )
    return user, [query]


def _asked(before: UserState, event: Shown | Request, received: float) -> Query:
    source: Literal["request", "ranking"] = "request" if isinstance(event, Request) else "ranking"
    return Query(
        id=event.id,
        user=event.key,
        session=event.session,
        at=event.timestamp,
        source=source,
        request=event.id,
        trigger=None,
        k=event.k if isinstance(event, Request) else None,
        context=event.fields,
        candidates=event.items,
        state=before,
        received=received,
    )


@dataclass(frozen=True, slots=True)
class Enriched:
    """A query with the model's inputs; `degraded`, where the store did not answer."""

    query: Query
    inputs: Inputs
    degraded: bool = False


def enrich(plan: Plan, store: FeatureStore, queries: Sequence[Query]) -> list[Enriched]:
    """Read what the store knows of a batch, once a view, and build the model's inputs."""
    if not queries:
        return []
    at = max([query.at for query in queries])
    ids = [candidate.id for query in queries for candidate in query.candidates]
    known = _items(plan, store, ids, at)
    users = list({query.user: None for query in queries})
    user_windows = _vectors(plan, store, "user_windows", users, at)
    user_fields = _mappings(store, "user_fields", users, at) if plan.schema.user else {}
    next_items = _transitions(plan, store, queries, at)
    lists: list[tuple[Query, Rows]] = []
    end = 0
    for query in queries:
        start, end = end, end + len(query.candidates)
        rows = Rows(
            user_window=user_windows.get(query.user),
            user_fields=user_fields.get(query.user, {}),
            next_items=next_items,
            items=known.part(start, end),
        )
        lists.append((query, rows))
    built = [inputs.build(plan.schema, *one) for one in lists]
    return [Enriched(query, one, store.degraded) for query, one in zip(queries, built, strict=True)]


def _items(plan: Plan, store: FeatureStore, ids: Sequence[str], at: int) -> Items:
    """Read windows and fields of items, as arrays."""
    if isinstance(store, CachedStore):
        return store.items(plan.schema, ids, at)
    places = {item: place for place, item in enumerate(dict.fromkeys(ids))}
    vectors = _vectors(plan, store, "item_windows", list(places), at)
    fields = _mappings(store, "item_fields", list(places), at) if plan.schema.item else {}
    found = items.encode(
        plan.schema, list(places), list(map(vectors.get, places)), list(map(fields.get, places))
    )
    return found.take(np.array(list(map(places.__getitem__, ids)), np.int64))


def _vectors(
    plan: Plan, store: FeatureStore, view: View, keys: Sequence[str], at: int
) -> dict[str, Array]:
    """Read windows; one of other horizons or channels than ours is as good as none."""
    width = windows.width(len(plan.schema.horizons), len(plan.schema.channels))
    found: dict[str, Array] = {}
    for key, values in zip(keys, store.read(view, keys, at), strict=True):
        own = None if values is None else cached_items.vector(view, key, values, width)
        if own is not None:
            found[key] = own
    return found


def _transitions(
    plan: Plan, store: FeatureStore, queries: Sequence[Query], at: int
) -> dict[str, Array]:
    """Read what people touch after the items that were touched last."""
    touched = [told(plan.schema, one.state.steps, one.session).recent for one in queries]
    keys = list(dict.fromkeys(chain.from_iterable(touched)))
    read = zip(keys, store.read("item_next", keys, at) if keys else (), strict=True)
    return {key: values for key, values in read if isinstance(values, np.ndarray)}


def _mappings(
    store: FeatureStore, view: View, keys: Sequence[str], at: int
) -> dict[str, Mapping[str, Value]]:
    read = zip(keys, store.read(view, keys, at), strict=True)
    # Not `isinstance(v, Mapping)`: an abstract class is slow to ask, and all candidates come here.
    return {k: v for k, v in read if v is not None and not isinstance(v, np.ndarray)}


@dataclass(frozen=True, slots=True)
class Scored:
    """A query with what the model saw and said."""

    query: Query
    inputs: Inputs
    scores: Array
    model: str
    degraded: bool = False


def score(scorer: Scorer, batch: Sequence[Enriched]) -> list[Scored]:
    """Score a batch of lists in as few runs of the model as their sizes allow."""
    scores = scorer.score([enriched.inputs for enriched in batch])
    return [
        Scored(enriched.query, enriched.inputs, list_scores, scorer.version, enriched.degraded)
        for enriched, list_scores in zip(batch, scores, strict=True)
    ]


def to_ranking(plan: Plan, scored: Scored, now: datetime) -> Ranking:
    """Turn scores into the message for the application."""
    return rerank.to_ranked(
        scored.query,
        scored.scores,
        model=scored.model,
        features=plan.features,
        latency_ms=max(0.0, now.timestamp() * 1000 - scored.query.received),
        k=plan.k,
        policy="greedy" if scored.model else "incoming",
        degraded=scored.degraded,
    )


def to_served(plan: Plan, scored: Scored) -> Served:
    """Turn scores into the record of what the model saw."""
    query = scored.query
    shown = _shown(plan, scored)
    return Served(
        id=query.id,
        user=query.user,
        timestamp=query.at,
        items=tuple(candidate.id for candidate in query.candidates),
        model=scored.model,
        features=plan.features,
        source=query.source,
        inputs=scored.inputs,
        scores=scored.scores,
        shown=shown,
        propensities=np.ones(len(shown), np.float32),  # nothing is left to chance
        session=query.session,
    )


def _shown(plan: Plan, scored: Scored) -> Array:
    """Return where each candidate stands in the list that goes out, -1 where it is cut off.

    A list shown elsewhere went out as it came in.
    """
    count, query = len(scored.query.candidates), scored.query
    if query.source == "ranking":
        return np.arange(count, dtype=np.int64)
    best = rerank.order(scored.scores[:, 0])[: query.k or plan.k]
    shown = np.full(count, -1, np.int64)
    shown[best] = np.arange(len(best))
    return shown


def ranked(plan: Plan, now: Callable[[], datetime], batch: Sequence[Scored]) -> list[Ranking]:
    """Turn a batch of scores into messages, and count them."""
    made = [to_ranking(plan, scored, now()) for scored in batch]
    for ranking in made:
        source = "request" if ranking.trigger is None else "trigger"
        metrics.RANKINGS.labels(source).inc()  # of versions there are ever more: no label
        metrics.LATENCY.observe(ranking.latency_ms / 1000)
        if ranking.degraded:
            metrics.DEGRADED.inc()
    return made


def ranking_records(batch: Sequence[Ranking]) -> list[tuple[str, Outgoing]]:
    """Return the records of ranked lists."""
    return [ranking_record(ranking) for ranking in batch]


def served_records(plan: Plan, batch: Sequence[Scored]) -> list[tuple[str, Outgoing]]:
    """Return the records of what the model saw."""
    return [served_record(plan, scored) for scored in batch]


def ranking_record(ranking: Ranking) -> tuple[str, Outgoing]:
    """Return the record of a ranked list, keyed by its user."""
    return ranking.key, Outgoing(ranking.key, ranking.encode(), ranking.id)


def served_record(plan: Plan, scored: Scored) -> tuple[str, Outgoing]:
    """Return the record of what the model saw, keyed by its user."""
    user, served = scored.query.user, to_served(plan, scored)
    return user, Outgoing(user, served.encode(), served.id)
