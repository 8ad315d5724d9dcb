"""The windows of users and items as they grow: one event in, what changed out.

A deed is counted once, at its user, and passed on to its item from there; so duplicates and
late events are found in one place, and the totals of both sides agree.

What is known grows in place: a copy for each event would cost more than the event.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from msgspec import Struct

from streamrank.events import Interaction, Item, Ranking, Shown, User, Value
from streamrank.features import transitions, windows
from streamrank.features.ledger import Book, Verdict, enter, name_of
from streamrank.features.schema import FieldKind, Schema
from streamrank.features.transitions import Followers
from streamrank.features.windows import Array


class Impact(Struct, frozen=True, gc=False):
    """What an event means for an item."""

    item: str
    channel: int
    at: int


class Follow(Struct, frozen=True, gc=False):
    """What a deed means for the item that was touched before: what came next."""

    item: str
    next: str
    weight: float
    at: int


Change = Impact | Follow


class Described(Struct, array_like=True, gc=False):
    """The fields of a user or item.

    Attributes:
        fields: What is known, by name.
        at: Event time of each field, milliseconds.
        count: How many events changed them.
    """

    fields: dict[str, Value] = msgspec.field(default_factory=dict)
    at: dict[str, int] = msgspec.field(default_factory=dict)
    count: int = 0


class Person(Struct, gc=False):
    """What is known of a user.

    Attributes:
        counts: Windows, as `windows.add` grows them.
        book: Which events have counted already.
        touched: The last items of a visit, all different, the newest first.
        session: Which visit.
        described: The fields, where there are any.
    """

    counts: array[float]
    book: Book
    touched: tuple[str, ...] = ()
    session: str | None = None
    described: Described | None = None


class Thing(Struct, gc=False):
    """What is known of an item.

    Attributes:
        counts: Windows, as `windows.add` grows them.
        followers: What people touched after it.
        described: The fields, where there are any.
    """

    counts: array[float]
    followers: Followers | None = None
    described: Described | None = None


class Counting:
    """How deeds are counted: what is the same for all users and items."""

    __slots__ = ("channels", "clock", "half_life", "impression", "lateness", "other")

    def __init__(self, schema: Schema, lateness: int) -> None:
        self.lateness = lateness
        self.clock = windows.Clock(schema.horizons, len(schema.channels))
        self.half_life = schema.horizons[-1]  # of what follows: pairs are rare
        self.channels = {name: place for place, name in enumerate(schema.interactions)}
        self.other, self.impression = len(self.channels), len(self.channels) + 1

    def person(self) -> Person:
        """Return a user of whom nothing is known."""
        return Person(self.clock.begin(), Book())

    def thing(self) -> Thing:
        """Return an item of which nothing is known."""
        return Thing(self.clock.begin())


def deed(
    rules: Counting, person: Person, event: Interaction | Shown | Ranking
) -> tuple[Verdict, Sequence[Change]]:
    """Count an event of a user.

    Args:
        rules: How.
        person: The user, who changes.
        event: A deed, or a list that was shown (by others or by us).

    Returns:
        Whether it counted, and what it means for items.
    """
    at = event.timestamp
    name = event.id if isinstance(event, Interaction) else name_of("list", event.id)
    verdict = enter(person.book, name, at, rules.lateness)
    if verdict != "new":
        return verdict, ()
    if isinstance(event, Interaction):
        channel = rules.channels.get(event.type, rules.other)
        changes = _touched(person, event.item, event.session, channel, at)
    else:
        channel = rules.impression
        changes = [Impact(placed.id, channel, at) for placed in event.items]
    windows.add(rules.clock, person.counts, channel, at)
    return verdict, changes


def _touched(
    person: Person, item: str | None, session: str | None, channel: int, at: int
) -> list[Change]:
    """Say what a deed means: for its item, and for those touched before it in this visit.

    It follows the last one with a weight of 1, the one before that with a half; the same item
    again follows nothing.
    """
    before = person.touched
    if session != person.session:
        person.session, person.touched = session, before = session, ()
    if item is None:
        return []
    changes: list[Change] = [Impact(item, channel, at)]
    if item in before:
        if before[0] == item:
            return changes
        before = tuple([one for one in before if one != item])
    for place, one in enumerate(before, 1):
        changes.append(Follow(one, item, 1 / place, at))
    person.touched = (item, *before)[: transitions.FOLLOWED]
    return changes


def impact(rules: Counting, thing: Thing, change: Change) -> None:
    """Count what a deed means for this item; it was judged at the user."""
    if isinstance(change, Impact):
        windows.add(rules.clock, thing.counts, change.channel, change.at)
        return
    if thing.followers is None:
        thing.followers = Followers()
    thing.followers.add(change.next, change.weight, change.at, rules.half_life)


def describe(known: Person | Thing, event: Item | User, kinds: Mapping[str, FieldKind]) -> bool:
    """Take the configured fields of a catalogue event; a later event wins field by field.

    Returns:
        Whether anything changed.
    """
    at = event.timestamp
    described = known.described or Described()
    news = {
        name: value
        for name, value in event.fields.items()
        if name in kinds and at >= described.at.get(name, 0)
    }
    if not news:
        return False
    known.described = Described(
        described.fields | news, described.at | dict.fromkeys(news, at), described.count + 1
    )
    return True


@dataclass(frozen=True, slots=True)
class Popular:
    """The items with the most recent interactions, best first where sorted by weight."""

    weights: dict[str, float] = field(default_factory=dict)
    at: int = 0
    stamp: int = 0  # µs of the last row


def popular(
    state: Popular, changed: Sequence[tuple[str, Array]], schema: Schema, keep: int
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
    if not changed:
        return state
    middle, channels = len(schema.horizons) // 2, len(schema.channels)
    half_life = schema.horizons[middle] * 1000
    vectors = np.stack([vector for _, vector in changed])
    begin = 1 + (2 + middle) * channels
    deeds = vectors[:, begin : begin + channels - 1].sum(axis=1)
    with np.errstate(divide="ignore"):  # what had impressions alone is left out
        found = np.log2(deeds) + vectors[:, 0] / half_life
    weights = dict(state.weights)
    for (item, _), weight in zip(changed, found.tolist(), strict=True):
        if weight > -math.inf:
            weights[item] = weight
    newest = max(state.at, int(vectors[:, 0].max()))
    return replace(state, weights=_heaviest(weights, keep), at=newest)


def _heaviest(weights: Mapping[str, float], keep: int) -> dict[str, float]:
    floor = -math.inf
    if len(weights) > keep:  # only those that have a chance are put in order
        known = np.fromiter(weights.values(), np.float64, len(weights))
        floor = np.partition(known, -keep)[-keep]
    best = [(-weight, item) for item, weight in weights.items() if weight >= floor]
    return {item: -weight for weight, item in sorted(best)[:keep]}
