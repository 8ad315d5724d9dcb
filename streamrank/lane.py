"""The features flow and the rank flow in one lane: each event through both, in order.

The same functions that the flows wire, called one after the other: what `replay` measures is
what the flows would have served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from streamrank import steps, steps_features, steps_ranking, steps_retrieval
from streamrank.edges.kafka import Incoming
from streamrank.edges.store import FeatureStore, Row
from streamrank.events import DeadLetter, Interaction, Ranking, utc
from streamrank.features.aggregate import Popular
from streamrank.features.state import UserState
from streamrank.features.trails import Trails
from streamrank.shelves import People, Things
from streamrank.steps import Decoder, Plan, Read
from streamrank.steps_features import Changes, Deeds
from streamrank.steps_ranking import Scored, Scorer

S = TypeVar("S")


@dataclass
class Kept(Generic[S]):
    """States by key, each forgotten `ttl` after its key's last event, by event time.

    The flows forget by the clock, which for live events is the same.
    """

    empty: S
    ttl: int  # ms
    states: dict[str, tuple[int, S]] = field(default_factory=dict)

    def get(self, key: str, at: int) -> S:
        """Return the state of a key, at an event time in milliseconds."""
        seen, state = self.states.get(key, (at, self.empty))
        return state if at - seen <= self.ttl else self.empty

    def put(self, key: str, at: int, state: S) -> None:
        """Keep the state of a key."""
        self.states[key] = (at, state)


class Lane:
    """Both flows, event by event.

    The rank flow sees an event before the features flow does, so a list is never ranked with
    its own impressions, nor with anything that came after it.

    Args:
        plan: What the steps need to know.
        scorer: The model; may be changed between two events, as a swap does.
        store: Where the windows go, and are read from.
        decoders: How each topic's payload is read.
        session_ttl: How long a silent user's session state is remembered.
        windows_ttl: How long a silent user's or item's windows are.
        now: The time, against which no event may be far in the future.
        ahead: How far it may be.
        trails: Where every deed on an item that counts goes too, if somebody learns from them.
    """

    def __init__(
        self,
        plan: Plan,
        scorer: Scorer,
        store: FeatureStore,
        decoders: Mapping[str, Decoder],
        *,
        session_ttl: timedelta,
        windows_ttl: timedelta,
        now: datetime,
        ahead: timedelta = timedelta(hours=1),
        trails: Trails | None = None,
    ) -> None:
        self.plan = plan
        self.scorer = scorer
        self.store = store
        self.trails = trails
        self.counts: Counter[str] = Counter()
        self._decoders = decoders
        self._now = now
        self._ahead = ahead
        self._users = Kept(UserState(), _milliseconds(session_ttl))
        self._people = People(plan, _milliseconds(windows_ttl))
        self._items = Things(plan, _milliseconds(windows_ttl))
        self._popular = Popular()

    def read(self, record: Incoming) -> Read | DeadLetter:
        """Read a record, and count it."""
        [read] = steps.decode(self._decoders, [record], self._now, self._ahead)
        self.counts["read"] += 1
        self.counts["dead_letters"] += isinstance(read, DeadLetter)
        return read

    def take(self, read: Read) -> list[Scored]:
        """Take an event in; give back the lists that it caused."""
        scored = self._rank(read)
        self._count(read)
        for one in scored:
            if one.query.source == "request":  # as the features flow reads them from `rankings`
                self._count(Read(self.ranking(one), read.record))
        return scored

    def ranking(self, scored: Scored) -> Ranking:
        """Return the message of a ranked list; in a replay it takes no time."""
        return steps_ranking.to_ranking(self.plan, scored, utc(round(scored.query.received)))

    def _rank(self, read: Read) -> list[Scored]:
        if not steps_ranking.is_of_a_person(read.event):
            return []
        key, at = read.event.key, read.event.timestamp
        before = self._users.get(key, at)
        user, queries = steps_ranking.track(self.plan, before, read)
        self._users.put(key, at, user)
        if user is not before:  # it counts: it is neither late nor a duplicate
            self._remember(read.event)
        if not queries:
            return []
        filled = steps_retrieval.retrieve(self.plan, self.store, self.scorer, queries)
        return steps_ranking.score(self.scorer, steps_ranking.enrich(self.plan, self.store, filled))

    def _remember(self, event: steps.Message) -> None:
        if self.trails is not None and isinstance(event, Interaction) and event.item:
            kind = 1 + self.plan.schema.channel(event.type)
            self.trails.take(event.key, event.timestamp, event.item, kind)

    def _count(self, read: Read) -> None:
        at = read.event.timestamp
        for part in steps_features.by_shard([read]):
            if isinstance(part, Changes):
                self._items.take(part.changes, at)
            elif isinstance(part, Deeds):
                changes, skipped = self._people.take(part.reads, at)
                self.counts.update(one.verdict for one in skipped)
                self._items.take(changes, at)
        rows = [*self._people.flush(), *self._items.flush()]
        if rows:
            self._store(rows)

    def _store(self, rows: list[Row]) -> None:
        self.store.write(rows)
        self._popular, best = steps_features.count_popular(self.plan, self._popular, rows)
        if best:
            self.store.write(best)


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
