"""The whole system over a log, without a broker: in order, repeatably, list by list.

Every event goes through the functions of the flows, one after the other: a shown list is ranked
first, then counted; its feedback comes later in the log, as it did in life.  So what is measured
here is what the flows would have served.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from streamrank import steps
from streamrank.edges.kafka import Incoming
from streamrank.edges.store import FeatureStore, MemoryStore
from streamrank.evaluation import metrics
from streamrank.events import DeadLetter, Interaction, Ranking, Shown
from streamrank.features import inputs
from streamrank.features.aggregate import Entity, Impact, Popular
from streamrank.features.inputs import Array
from streamrank.features.state import UserState
from streamrank.learning.examples import Example
from streamrank.learning.feedback import Feedback
from streamrank.operators import Clock
from streamrank.steps import Plan, Read, Scored, Scorer, Skipped


@dataclass
class Lane:
    """The features flow and the rank flow in one lane: each event through both, in order.

    The rank flow sees an event before the features flow does, so a list is never ranked with
    its own impressions, nor with anything that came after it.
    """

    plan: Plan
    scorer: Scorer
    decoders: dict[str, steps.Decoder]
    now: Clock
    ahead: timedelta = timedelta(hours=1)
    store: FeatureStore = field(default_factory=MemoryStore)
    counts: Counter[str] = field(default_factory=Counter)
    _users: dict[str, UserState] = field(default_factory=dict)
    _windows: dict[str, Entity] = field(default_factory=dict)
    _items: dict[str, Entity] = field(default_factory=dict)
    _popular: Popular = field(default_factory=Popular)

    def take(self, record: Incoming) -> tuple[Read | DeadLetter, list[Scored]]:
        """Take one record in; give back what it was and the lists that it caused."""
        self.counts["read"] += 1
        [read] = steps.decode(self.decoders, [record], self.now(), self.ahead)
        if isinstance(read, DeadLetter):
            self.counts["dead_letters"] += 1
            return read, []
        scored = self._rank(read)
        self._count(read)
        return read, scored

    def _rank(self, read: Read) -> list[Scored]:
        if not steps.is_of_a_person(read.event):
            return []
        key = read.event.key
        user, queries = steps.track(self.plan, self._users.get(key, UserState()), read)
        self._users[key] = user
        if not queries:
            return []
        filled = steps.retrieve(self.plan, self.store, queries)
        return steps.score(self.scorer, steps.enrich(self.plan, self.store, filled))

    def _count(self, read: Read) -> None:
        rows = []
        item = steps.item_event(read.event)
        changes: list[Impact] = []
        if item is None:
            key = read.event.key
            known = self._windows.get(key, Entity())
            self._windows[key], outcome = steps.count_user(self.plan, known, read)
            self.counts.update(one.verdict for one in outcome if isinstance(one, Skipped))
            changes = [one for one in outcome if isinstance(one, Impact)]
            rows += [one for one in outcome if isinstance(one, steps.Row)]
        for change in [item] if item else changes:
            known = self._items.get(change.item, Entity())
            self._items[change.item], out = steps.count_item(self.plan, known, change)
            rows += out
        if rows:
            self.store.write(rows)
            self._popular, out = steps.count_popular(self.plan, self._popular, rows)
            if out:
                self.store.write(out)




SYSTEMS = ("streamrank", "as_shown", "recently_touched", "popularity")


@dataclass
class Labelled:
    """Which lists of a log got feedback, in the order in which they were shown."""

    items: dict[str, set[str]] = field(default_factory=dict)
    shown: int = 0

    def share(self, part: float) -> tuple[frozenset[str], frozenset[str]]:
        """Split the labelled lists in time: the first `part` of them, and the rest."""
        lists = [list_id for list_id, items in self.items.items() if items]
        border = int(part * len(lists))
        return frozenset(lists[:border]), frozenset(lists[border:])
