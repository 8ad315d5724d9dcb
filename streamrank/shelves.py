"""A share of all users, or of all items: what is known of each, by key.

A shelf takes whole batches, gives out the newest row of each key that changed when it is asked
to, and becomes bytes for a snapshot.  There are a few shelves for any number of keys: a step of
Bytewax that holds a key of its own for each user looks through all their alarms at every batch.

All keys lie there as the bytes of their last snapshot, and those that changed lately as objects
too.  So a snapshot packs what changed since the last one, not all that is known, and what is
known of a million silent users is nothing that a garbage collector looks through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamrank.edges.store import Row, View
from streamrank.errors import StreamRankError
from streamrank.events import Interaction, Item, Ranking, Shown, User
from streamrank.features import aggregate, shelved, windows
from streamrank.features.aggregate import Change, Counting, Described, Impact, Person, Thing
from streamrank.features.ledger import Verdict
from streamrank.steps import Plan, Read

E = TypeVar("E", Person, Thing)
Keys = dict[str, None]
"""Keys that changed, in the order in which they did."""


class StateForeign(StreamRankError):
    """A snapshot of the features flow was made by another version, or under other settings."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An event that did not count: a duplicate, or later than allowed."""

    verdict: Verdict
    read: Read
    newest: int  # event time of the key's newest event, ms


class _Kept(Generic[E]):
    """What is known by key; a key that nobody has spoken of for `ttl` ms begins anew.

    Args:
        begin: What is known of a new key.
        pack: As bytes.
        unpack: From bytes.
        ttl: Milliseconds.
    """

    def __init__(
        self,
        begin: Callable[[], E],
        pack: Callable[[E], bytes],
        unpack: Callable[[bytes], E],
        ttl: int,
    ) -> None:
        self._begin: Callable[[], E] = begin
        self._pack: Callable[[E], bytes] = pack
        self._unpack: Callable[[bytes], E] = unpack
        self._ttl = ttl
        self._heard: dict[str, int] = {}  # of all keys, by the clock
        self._awake: dict[str, E] = {}  # what changed since the snapshot before the last one
        self._changed: Keys = {}  # what did since the last one
        self._packed: dict[str, bytes] = {}  # of all keys but those that are new, as of the last

    def __len__(self) -> int:
        return len(self._heard)

    def get(self, key: str, now: int) -> E:
        """Return what is known of a key that is spoken of now, milliseconds, to be changed."""
        if now - self._heard.get(key, now) > self._ttl:
            self._drop(key)
        found = self._awake.get(key)
        if found is None:
            packed = self._packed.get(key)
            found = self._begin() if packed is None else self._unpack(packed)
            self._awake[key] = found
        self._heard[key] = now
        self._changed[key] = None
        return found

    def those(self, keys: Iterable[str]) -> Iterator[tuple[str, E]]:
        """Yield what is known of these keys, to be looked at."""
        for key in keys:
            if key in self._awake:
                yield key, self._awake[key]
            elif key in self._packed:
                yield key, self._unpack(self._packed[key])

    def forget(self, now: int) -> None:
        """Let go of silent keys."""
        oldest = now - self._ttl
        for key in [key for key, heard in self._heard.items() if heard < oldest]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        for some in (self._heard, self._awake, self._changed, self._packed):
            some.pop(key, None)

    def pack(self) -> dict[str, bytes]:
        """Return all keys as bytes; who changes again soon is not unpacked for that."""
        pack, awake = self._pack, self._awake
        self._awake = {key: awake[key] for key in self._changed}
        self._packed.update((key, pack(one)) for key, one in self._awake.items())
        self._changed = {}
        return self._packed

    def bring_back(self, packed: dict[str, bytes], now: int) -> None:
        """Take over what `pack` returned; all keys are heard of now."""
        self._packed, self._heard = packed, dict.fromkeys(packed, now)


class People:
    """Some users.

    Args:
        plan: What is counted, and how.
        ttl: How long a silent user is remembered, milliseconds.
        now: The time, milliseconds: whoever comes back with a snapshot was heard of then.
        saved: What `pack` returned.

    Raises:
        StateForeign: Something else is in the snapshot.
    """

    def __init__(self, plan: Plan, ttl: int, now: int = 0, saved: bytes | None = None) -> None:
        self._rules = Counting(plan.schema, plan.rules.lateness)
        self._kinds = plan.schema.user
        self._kept = _Kept(self._rules.person, shelved.pack_person, shelved.person, ttl)
        self._form = shelved.form(plan.schema)
        self._counted: Keys = {}
        self._described: Keys = {}
        if saved is not None:
            packed, waiting = _opened(saved, self._form)
            self._kept.bring_back(packed, now)
            self._counted, self._described = map(Keys.fromkeys, waiting)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def waiting(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._counted or self._described)

    def take(self, reads: Iterable[Read], now: int) -> tuple[list[Change], list[Skipped]]:
        """Take events of users into their windows or fields, and say what they mean for items."""
        get, rules, counted, count = self._kept.get, self._rules, self._counted, aggregate.deed
        changes: list[Change] = []
        skipped: list[Skipped] = []
        for read in reads:
            event = read.event
            if isinstance(event, (Interaction, Shown, Ranking)):
                key = event.key
                person = get(key, now)
                verdict, found = count(rules, person, event)
                if verdict == "new":
                    counted[key] = None
                    changes += found
                else:
                    skipped.append(Skipped(verdict, read, person.book.newest))
            elif isinstance(event, User):
                person = get(event.key, now)
                if aggregate.describe(person, event, self._kinds):
                    self._described[event.key] = None
        return changes, skipped

    def flush(self) -> list[Row]:
        """Return the newest row of each user and view that changed since the last time."""
        those = self._kept.those
        rows = _windows("user_windows", self._rules.clock, those(self._counted))
        rows += _fields("user_fields", those(self._described))
        self._counted, self._described = {}, {}
        return rows

    def forget(self, now: int) -> None:
        """Let go of silent users."""
        self._kept.forget(now)

    def pack(self) -> bytes:
        """Return all of it as bytes."""
        return shelved.pack(self._form, self._kept.pack(), (self._counted, self._described))


class Things:
    """Some items; the arguments are those of `People`."""

    def __init__(self, plan: Plan, ttl: int, now: int = 0, saved: bytes | None = None) -> None:
        self._rules = Counting(plan.schema, plan.rules.lateness)
        self._kinds = plan.schema.item
        self._kept = _Kept(self._rules.thing, shelved.pack_thing, shelved.thing, ttl)
        self._form = shelved.form(plan.schema)
        self._counted: Keys = {}
        self._followed: Keys = {}
        self._described: Keys = {}
        if saved is not None:
            packed, waiting = _opened(saved, self._form)
            self._kept.bring_back(packed, now)
            self._counted, self._followed, self._described = map(Keys.fromkeys, waiting)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def waiting(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._counted or self._followed or self._described)

    def take(self, changes: Iterable[Change | Item], now: int) -> None:
        """Take in what deeds mean for items, and catalogue events."""
        for change in changes:
            key = change.item
            thing = self._kept.get(key, now)
            if isinstance(change, Item):
                if aggregate.describe(thing, change, self._kinds):
                    self._described[key] = None
                continue
            aggregate.impact(self._rules, thing, change)
            changed = self._counted if isinstance(change, Impact) else self._followed
            changed[key] = None

    def flush(self) -> list[Row]:
        """Return the newest row of each item and view that changed since the last time."""
        those = self._kept.those
        rows = _windows("item_windows", self._rules.clock, those(self._counted))
        rows += _followers(those(self._followed), self._rules.half_life)
        rows += _fields("item_fields", those(self._described))
        self._counted, self._followed, self._described = {}, {}, {}
        return rows

    def forget(self, now: int) -> None:
        """Let go of silent items."""
        self._kept.forget(now)

    def pack(self) -> bytes:
        """Return all of it as bytes."""
        waiting = (self._counted, self._followed, self._described)
        return shelved.pack(self._form, self._kept.pack(), waiting)


def _opened(saved: object, form: str) -> tuple[dict[str, bytes], shelved.Waiting]:
    try:
        if not isinstance(saved, bytes):
            raise ValueError(f"must be bytes, got {type(saved).__name__}")
        return shelved.unpack(saved, form)
    except ValueError as error:
        raise StateForeign(
            f"the state of the features flow must be of this version and these settings: {error}. "
            "Start with the settings as they were, or remove the folder of the flow's state "
            "(state.path): it then goes on where its consumer group is, and counts anew"
        ) from error


# --- rows -------------------------------------------------------------------------------------
#
# Stores drop a correction whose timestamp is not strictly newer; so the microseconds below the
# event's millisecond count the events of a row.  After a crash the same events come again,
# perhaps in another order than the one whose rows are in the store already.  Time and count both
# depend on what is in a row alone, so the row that holds more is the newer one even then.


def _windows(
    view: View, clock: windows.Clock, changed: Iterable[tuple[str, Person | Thing]]
) -> list[Row]:
    counts = {key: one.counts for key, one in changed}
    if not counts:
        return []
    found = windows.packed(clock, [*counts.values()])
    totals = found[:, 1 : 1 + clock.channels].sum(axis=1)
    stamps = zip(found[:, 0].astype(int).tolist(), totals.astype(int).tolist(), strict=True)
    return [
        Row(view, key, at, count - 1, values)
        for key, (at, count), values in zip(counts, stamps, found, strict=True)
    ]


def _followers(changed: Iterable[tuple[str, Thing]], half_life: float) -> list[Row]:
    return [
        Row("item_next", key, one.at, one.count - 1, one.packed(half_life))
        for key, thing in changed
        if (one := thing.followers) is not None
    ]


def _fields(view: View, changed: Iterable[tuple[str, Person | Thing]]) -> list[Row]:
    return [
        _described(view, key, one.described) for key, one in changed if one.described is not None
    ]


def _described(view: View, key: str, found: Described) -> Row:
    return Row(view, key, max(found.at.values(), default=0), found.count - 1, found.fields)
