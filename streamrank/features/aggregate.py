"""The windows of users and items as they grow: one event in, what changed out.

A deed is counted once, at its user, and passed on to its item from there; so duplicates and
late events are found in one place, and the totals of both sides agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from streamrank.events import Interaction, Item, Ranking, Shown, User, Value
from streamrank.features import transitions, windows
from streamrank.features.ledger import Ledger, Verdict, admit
from streamrank.features.schema import FieldKind, Schema
from streamrank.features.transitions import Transitions
from streamrank.features.windows import Array, Window


class Impact(NamedTuple):
    """What an event means for an item."""

    item: str
    channel: int
    at: int


class Follow(NamedTuple):
    """What a deed means for the item that was touched before: what came next."""

    item: str
    next: str
    weight: float
    at: int


Change = Impact | Follow


@dataclass(frozen=True, slots=True)
class Entity:
    """What is known of one user or item."""

    window: Window | None = None
    fields: dict[str, Value] = field(default_factory=dict)
    fields_at: dict[str, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    revisions: dict[str, int] = field(default_factory=dict)  # rows so far, by view
    touched: tuple[str, ...] = ()  # a user's last items, all different, the newest first
    session: str | None = None  # in which visit
    following: Transitions = field(default_factory=Transitions)  # what came after an item


def deed(
    entity: Entity, event: Interaction | Shown | Ranking, schema: Schema, lateness: int
) -> tuple[Entity, Verdict, list[Change]]:
    """Count an event of a user.

    Args:
        entity: The user so far.
        event: A deed, or a list that was shown (by others or by us).
        schema: Which channels and horizons there are.
        lateness: How late an event may be, milliseconds.

    Returns:
        The user after the event, whether it counted, and what it means for items.
    """
    ledger, verdict = admit(entity.ledger, event.id, event.timestamp, lateness)
    if verdict != "new":
        return entity, verdict, []
    at = event.timestamp
    if isinstance(event, Interaction):
        channel = schema.channel(event.type)
        changes: list[Change] = [Impact(event.item, channel, at)] if event.item else []
        changes += follows(entity, event)
        entity = _touched(entity, event)
    else:
        channel = len(schema.channels) - 1
        changes = [Impact(placed.id, channel, at) for placed in event.items]
    counted = _counted(entity.window, channel, at, schema)
    return replace(entity, ledger=ledger, window=counted), verdict, changes


def follows(entity: Entity, event: Interaction) -> list[Follow]:
    """Say after which items of this visit the user touched another one.

    The last one weighs 1, the one before it a half; the same item again follows nothing.
    """
    if event.item is None or event.session != entity.session or event.item in entity.touched[:1]:
        return []
    before = [item for item in entity.touched if item != event.item]
    return [Follow(item, event.item, 1 / n, event.timestamp) for n, item in enumerate(before, 1)]


def _touched(entity: Entity, event: Interaction) -> Entity:
    known = entity.touched if event.session == entity.session else ()
    if event.item is not None:
        known = (event.item, *(item for item in known if item != event.item))
    return replace(entity, touched=known[: transitions.FOLLOWED], session=event.session)


def impact(entity: Entity, change: Change, schema: Schema) -> Entity:
    """Count what a deed means for this item; it was judged at the user."""
    if isinstance(change, Follow):
        # Over the longest horizon: pairs are rare.
        known, half_life = entity.following, schema.horizons[-1]
        known = transitions.follow(known, change.next, change.weight, change.at, half_life)
        return replace(entity, following=known)
    window = _counted(entity.window, change.channel, change.at, schema)
    return replace(entity, window=window)


def describe(
    entity: Entity, event: Item | User, kinds: Mapping[str, FieldKind]
) -> tuple[Entity, bool]:
    """Take the configured fields of a catalogue event; a later event wins field by field.

    Returns:
        The entity after the event, and whether anything changed.
    """
    at = event.timestamp
    news = {
        name: value
        for name, value in event.fields.items()
        if name in kinds and at >= entity.fields_at.get(name, 0)
    }
    if not news:
        return entity, False
    changed = replace(
        entity,
        fields=entity.fields | news,
        fields_at=entity.fields_at | dict.fromkeys(news, at),
    )
    return changed, True


def stamped(entity: Entity, view: str, at: int) -> tuple[Entity, int]:
    """Return the revision that makes a row of this view newer than any that holds less.

    Stores drop a correction whose timestamp is not strictly newer; so the microseconds below
    the event's millisecond count the rows.  After a crash the same events come again, perhaps
    in another order than the one whose rows are in the store already.  Time and count both
    depend on what is in a row alone, so the row that holds more is the newer one even then.

    Args:
        entity: What is known of the user or item.
        view: Where the row goes.
        at: Event time of the newest event in the row, milliseconds: it never goes back.

    Examples:
        >>> entity, first = stamped(Entity(), "item_windows", 10**12)
        >>> first, stamped(entity, "item_windows", 10**12)[1]
        (0, 1)
    """
    revision = entity.revisions.get(view, 0)
    return replace(entity, revisions=entity.revisions | {view: revision + 1}), revision


def _counted(window: Window | None, channel: int, at: int, schema: Schema) -> Window:
    horizons = np.asarray(schema.horizons)
    known = window or windows.empty(len(horizons), len(schema.channels))
    return windows.count(known, channel, at, horizons)


@dataclass(frozen=True, slots=True)
class Popular:
    """The items with the most recent interactions, best first where sorted by weight."""

    weights: dict[str, float] = field(default_factory=dict)
    at: int = 0
    stamp: int = 0  # µs of the last row


def popular(
    state: Popular, changed: Iterable[tuple[str, Array]], schema: Schema, keep: int
) -> Popular:
    """Update the popular items with the windows that changed.

    Decay is the same factor for all, so an order by log2(count) + time / half-life holds
    until a count changes: nothing has to be recomputed as time passes.

    Args:
        state: The popular items so far.
        changed: Item ids with their packed windows.
        schema: Which channels and horizons there are.
        keep: How many items to remember.
    """
    middle = len(schema.horizons) // 2
    half_life = schema.horizons[middle] * 1000
    weights, newest = dict(state.weights), state.at
    for item, vector in changed:
        window = windows.unpack(vector, len(schema.horizons), len(schema.channels))
        deeds = float(window.decayed[middle, :-1].sum())
        newest = max(newest, window.at)
        if deeds > 0:
            weights[item] = float(np.log2(deeds)) + window.at / half_life
    best = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:keep]
    return replace(state, weights=dict(best), at=newest)
