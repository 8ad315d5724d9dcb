"""The steps of the features flow, as functions over whole batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from zlib import crc32

import numpy as np

from streamrank import metrics
from streamrank.edges.store import FeatureStore, Row
from streamrank.events import DeadLetter, Interaction, Item, Ranking
from streamrank.features import aggregate
from streamrank.features.aggregate import Change, Popular
from streamrank.shelves import People, Skipped, Things
from streamrank.steps import Plan, Read, dead_letter

SHARDS = 32
"""Of the users, and of the items: more share them among workers more evenly, and part batches."""


@dataclass(frozen=True, slots=True)
class Deeds:
    """Events of the users of one shard."""

    shard: str
    reads: list[Read]


@dataclass(frozen=True, slots=True)
class Changes:
    """What deeds mean for items, and catalogue events: of one shard of the items, or of all."""

    shard: str
    changes: list[Change | Item]


_NAMES = tuple(map(str, range(SHARDS)))


def shard(key: str) -> str:
    """Return the shard of a user or item."""
    return _NAMES[crc32(key.encode()) % SHARDS]


def by_shard(found: Iterable[Read | DeadLetter]) -> list[Deeds | Changes | DeadLetter]:
    """Part a batch into the users' shards, the items' shards and what could not be read."""
    deeds: dict[str, list[Read]] = {}
    items: list[Change | Item] = []
    letters: list[DeadLetter] = []
    for one in found:
        if not isinstance(one, Read):
            letters.append(one)
            continue
        event = one.event
        if isinstance(event, Interaction):  # first: to ask a message what it is not takes long
            deeds.setdefault(shard(event.key), []).append(one)
        elif isinstance(event, Item):
            items.append(event)
        elif not is_of_the_same_list(event):
            deeds.setdefault(shard(event.key), []).append(one)
    parted = [Deeds(name, reads) for name, reads in deeds.items()]
    return [*letters, *parted, *regrouped([Changes("", items)])]


def is_of_the_same_list(event: object) -> bool:
    """Say whether this is the list that is on the screen already, in another order."""
    return isinstance(event, Ranking) and event.trigger is not None


def regrouped(batch: Iterable[Changes]) -> list[Changes]:
    """Part what came from many shards of users into the shards of the items."""
    found: dict[str, list[Change | Item]] = {}
    for changes in batch:
        for change in changes.changes:
            name = shard(change.item)
            if name in found:
                found[name].append(change)
            else:
                found[name] = [change]
    return [Changes(name, changes) for name, changes in found.items()]


def count_users(people: People, batch: Iterable[Deeds], now: int) -> list[Changes | Skipped]:
    """Take events into their users' windows or fields, and say what they mean for items."""
    changes, skipped = people.take((read for deeds in batch for read in deeds.reads), now)
    return [*skipped, Changes("", list(changes))] if changes else list(skipped)


def count_items(things: Things, batch: Iterable[Changes], now: int) -> list[Row]:
    """Take in what deeds mean for items, and catalogue events; rows follow at the next flush."""
    things.take((change for changes in batch for change in changes.changes), now)
    return []


def too_late(plan: Plan, skipped: Skipped, now: datetime) -> DeadLetter | None:
    """Report what came later than allowed; a duplicate needs no report."""
    metrics.SKIPPED.labels(skipped.verdict).inc()
    if skipped.verdict != "late":
        return None
    event = skipped.read.event
    reason = (
        f"{event.event}.timestamp: must be at most {plan.rules.lateness} ms before the newest "
        f"event of its user ({skipped.newest}), got {event.timestamp}: too late"
    )
    return dead_letter(skipped.read.record, reason, now)


def count_popular(plan: Plan, known: Popular, rows: Sequence[Row]) -> tuple[Popular, list[Row]]:
    """Take changed item windows into the list of popular items."""
    changed = [
        (row.key, row.values)
        for row in rows
        if row.view == "item_windows" and isinstance(row.values, np.ndarray)
    ]
    if not changed:
        return known, []
    known = aggregate.popular(known, changed, plan.schema, 4 * plan.popular)
    stamp = max(known.at * 1000, known.stamp + 1)
    items = tuple(known.weights)[: plan.popular]
    row = Row("popular", "all", known.at, stamp - known.at * 1000, {"items": items})
    return replace(known, stamp=stamp), [row]


def store_rows(store: FeatureStore, batches: Iterable[Sequence[Row]]) -> list[list[Row]]:
    """Write the rows of several batches at once, and pass them on as one."""
    rows = [row for batch in batches for row in batch]
    if rows:
        store.write(rows)
    return [rows]
