"""Which events have counted already: the same id twice counts once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import Struct

Verdict = Literal["new", "duplicate", "late"]
MOST = 4_000
"""Ids of a key that are remembered.  Of one that does more in the time that an event may be late,
which is no person, the first ones are forgotten: else it would cost as much as all others."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ids of one key within the allowed lateness of its newest event."""

    newest: int = 0
    ids: dict[str, int] = field(default_factory=dict)


def name_of(kind: Literal["list", "request"], event_id: str) -> str:
    """Return under what something else than a deed is remembered: it may have the id of a deed.

    Examples:
        >>> name_of("list", "a") in ("a", name_of("request", "a"))
        False
    """
    return f"{kind}\0{event_id}"


def admit(ledger: Ledger, event_id: str, at: int, lateness: int) -> tuple[Ledger, Verdict]:
    """Decide whether an event counts.

    The watermark of a key trails its newest event by `lateness`: whatever is older is late,
    and whatever is not is remembered by id, so a duplicate is always found.  Since only the
    key's own events move it, the verdict does not depend on how partitions interleave.

    Args:
        ledger: What is known so far.
        event_id: The event's id.
        at: Its event time, milliseconds.
        lateness: How far behind the newest an event may be, milliseconds.

    Returns:
        The ledger to keep, and the verdict.

    Examples:
        >>> ledger, verdict = admit(Ledger(), "a", 5_000, 1_000)
        >>> verdict, admit(ledger, "a", 5_000, 1_000)[1], admit(ledger, "b", 3_999, 1_000)[1]
        ('new', 'duplicate', 'late')

    References:
        Akidau et al., VLDB 2015, "The Dataflow Model" (watermarks and allowed lateness).
    """
    if at < ledger.newest - lateness:
        return ledger, "late"
    if event_id in ledger.ids:
        return ledger, "duplicate"
    newest = max(ledger.newest, at)
    ids = {known: seen for known, seen in ledger.ids.items() if seen >= newest - lateness}
    ids[event_id] = at
    if len(ids) > MOST:
        del ids[next(iter(ids))]
    return Ledger(newest, ids), "new"


class Book(Struct, array_like=True, gc=False):
    """A ledger that is written on in place: for keys of many events.

    Attributes:
        newest: Event time of the key's newest event, milliseconds.
        swept: What `newest` was when old ids were thrown away last.
        ids: Event times by id, some of them older than they need be.
    """

    newest: int = 0
    swept: int = 0
    ids: dict[str, int] = msgspec.field(default_factory=dict)


def enter(book: Book, event_id: str, at: int, lateness: int) -> Verdict:
    """Decide as `admit` does, in place, in a time that does not grow with the ids.

    Examples:
        >>> book = Book()
        >>> [enter(book, *event, 1_000) for event in [("a", 5_000), ("a", 5_000), ("b", 3_999)]]
        ['new', 'duplicate', 'late']
    """
    oldest = book.newest - lateness
    if at < oldest:
        return "late"
    ids = book.ids
    seen = ids.get(event_id)
    if seen is not None and seen >= oldest:
        return "duplicate"
    if at > book.newest:
        book.newest = at
        # Each id is looked at some five times in all, however many there are.
        if at - book.swept > lateness // 4:
            oldest = at - lateness
            book.ids = ids = {known: when for known, when in ids.items() if when >= oldest}
            book.swept = at
    ids[event_id] = at
    if len(ids) > MOST:
        del ids[next(iter(ids))]
    return "new"
