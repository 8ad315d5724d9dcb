"""The steps of the features flow, as functions over one event or whole batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from streamrank import metrics
from streamrank.edges.store import FeatureStore, Row, Values, View
from streamrank.events import DeadLetter, Interaction, Item, Ranking, Shown, User
from streamrank.features import aggregate, transitions, windows
from streamrank.features.aggregate import Change, Entity, Follow, Popular
from streamrank.features.ledger import Verdict
from streamrank.steps import Message, Plan, Read, dead_letter


@dataclass(frozen=True, slots=True)
class Skipped:
    """An event that did not count: a duplicate, or later than allowed."""

    verdict: Verdict
    read: Read
    newest: int  # event time of the key's newest event, ms


def count_user(plan: Plan, user: Entity, read: Read) -> tuple[Entity, list[Row | Change | Skipped]]:
    """Take an event into its user's windows or fields, and say what it means for items."""
    event = read.event
    if isinstance(event, User):
        user, news = aggregate.describe(user, event, plan.schema.user)
        if not news:
            return user, []
        user, row = _row(user, "user_fields", event.key)
        return user, [row]
    if not isinstance(event, (Interaction, Shown, Ranking)):
        return user, []
    if isinstance(event, Ranking) and event.trigger is not None:
        return user, []  # the list that is on the screen already, in another order
    user, verdict, changes = aggregate.deed(user, event, plan.schema, plan.rules.lateness)
    if verdict != "new":
        return user, [Skipped(verdict, read, user.ledger.newest)]
    user, row = _row(user, "user_windows", event.key)
    return user, [row, *changes]


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


def count_item(plan: Plan, item: Entity, change: Change | Item) -> tuple[Entity, list[Row]]:
    """Take a catalogue event, or what a deed means for this item."""
    if isinstance(change, Item):
        item, news = aggregate.describe(item, change, plan.schema.item)
        if not news:
            return item, []
        item, row = _row(item, "item_fields", change.item)
    else:
        item = aggregate.impact(item, change, plan.schema)
        view: View = "item_next" if isinstance(change, Follow) else "item_windows"
        item, row = _row(item, view, change.item)
    return item, [row]


def _row(entity: Entity, view: View, key: str) -> tuple[Entity, Row]:
    values: Values = entity.fields
    at = max(entity.fields_at.values(), default=0)
    if view in ("user_windows", "item_windows") and entity.window is not None:
        at, values = entity.window.at, windows.pack(entity.window)
    elif view == "item_next":
        at, values = entity.following.at, transitions.pack(entity.following)
    entity, revision = aggregate.stamped(entity, view, at)
    return entity, Row(view, key, at, revision, values)


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


def item_event(event: Message) -> Item | None:
    """Return the event where it is of an item."""
    return event if isinstance(event, Item) else None


def store_rows(store: FeatureStore, batches: Iterable[Sequence[Row]]) -> list[list[Row]]:
    """Write the rows of several batches at once, and pass the batches on."""
    known = [list(batch) for batch in batches]
    rows = [row for batch in known for row in batch]
    if rows:
        store.write(rows)
    return known
