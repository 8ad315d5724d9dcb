"""Rows of items kept as arrays: a list's candidates are fetched by place, not one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import repeat
from typing import Protocol

import numpy as np

from streamrank.edges.store import Row, Values, View
from streamrank.features import items, windows
from streamrank.features.items import Array, Items
from streamrank.features.schema import Schema

log = logging.getLogger(__name__)
_FIRST = 1_024
"""Items that there is room for at first."""
_ALWAYS = np.iinfo(np.int64).max
"""The stamp of what is not there: it does not grow old."""
_LOOKS = 64
"""Looks for what grows old, in the time that a row lasts."""
_WORTH_IT = 64
"""Rows that are asked for together, where there is time to wait for as many: a question costs as
much as some dozens of them."""


class Lasting(Protocol):
    """Where the rows come from."""

    @property
    def ttl(self) -> timedelta:
        """How old values may be."""

    @property
    def max_age(self) -> float:
        """For how many seconds a row that was read would be returned again."""

    def lasting(
        self, view: View, keys: Sequence[str], *, anew: bool = False
    ) -> tuple[list[Row | None], list[float]]:
        """Return the rows by key, and until when each would be returned again.

        `anew` asks the store whatever is remembered.
        """


class CachedItems:
    """Windows and fields of items as arrays, of one thread.

    An item has a place, which is written anew once its rows may have changed.  When all places
    are taken they are given out anew from the first on: the rows are remembered elsewhere.

    Rows that were asked for since they were read are read again ahead of time, some dozens at a
    time: in the last quarter of their life, or from half of it on where they are many.  Else all
    that was first asked for together, as at the start, would be too old at the same moment, and
    lists would wait while it is read.

    Args:
        schema: Which fields, interaction types and horizons exist.
        store: Where the rows come from.
        max_items: Places.
        clock: The seconds that the store's rows last until.
    """

    def __init__(
        self, schema: Schema, store: Lasting, *, max_items: int, clock: Callable[[], float]
    ) -> None:
        self._schema = schema
        self._store = store
        self._max_items = max_items
        self._clock = clock
        self._lifetime = store.ttl // timedelta(microseconds=1)
        self._begin(_FIRST)

    def __len__(self) -> int:
        """Return how many items have a place."""
        return len(self._places)

    def read(self, ids: Sequence[str], at: int) -> tuple[Items, int]:
        """Return items, without what is past its TTL at `at` (ms), and how many rows were here."""
        now = self._clock()
        if now >= self._look:
            self._renew_ahead(now, most=max(_WORTH_IT, len(ids) // 4))
        places = self._places_of(ids)
        [old] = np.nonzero(self._until[places] <= now)
        self._asked[places] = True
        if len(old):
            self._renew(list(dict.fromkeys(ids[n] for n in old.tolist())), ids)
            places = self._places_of(ids)
        views = 2 if self._schema.item else 1
        return self._fresh(places, at), views * (len(ids) - len(old))

    def _places_of(self, ids: Sequence[str]) -> Array:
        """Return the place of each, 0 for none: nothing is there."""
        return np.fromiter(map(self._places.get, ids, repeat(0)), np.int64, len(ids))

    def _fresh(self, places: Array, at: int) -> Items:
        found, oldest = self._items.take(places), at * 1000 - self._lifetime
        if oldest > self._oldest:  # perhaps one is past its TTL
            gone = self._stamps[:, places] < oldest
            if gone[0].any():
                found = items.without_windows(found, gone[0])
            if gone[1].any():
                found = items.without_fields(found, gone[1])
        return found

    def _begin(self, size: int) -> None:
        """Forget everything, and make room."""
        self._places: dict[str, int] = {}
        self._names = [""]  # by place
        nobody = [""] * size
        empty = items.encode(self._schema, nobody, [None] * size, [None] * size)
        self._items = items.writable(empty)
        self._until = np.full(size, -np.inf)
        self._asked = np.zeros(size, np.bool_)  # since it was read
        self._look = -np.inf  # when next to look for what grows old
        self._stamps = np.full((2, size), _ALWAYS)
        self._oldest = _ALWAYS

    def _renew(self, missing: list[str], ids: Sequence[str]) -> None:
        """Ask for items, and give them a place."""
        size = 1 + len(self._places) + sum(item not in self._places for item in missing)
        if size > self._max_items + 1 and self._places:
            missing = list(dict.fromkeys(ids))  # those of this batch whose places are lost too
            self._begin(max(_FIRST, len(missing) + 1))
        elif size > len(self._until):
            self._grow(2 * size)
        for item in missing:
            if item not in self._places:
                self._places[item] = len(self._names)
                self._names.append(item)
        self._write(self._places_of(missing), missing)

    def _grow(self, size: int) -> None:
        known, items_, until, stamps = self._places, self._items, self._until, self._stamps
        names, asked, look = self._names, self._asked, self._look
        oldest, old = self._oldest, np.arange(len(until))
        self._begin(size)
        items.write(self._items, old, items_)
        self._places, self._names, self._oldest = known, names, oldest
        self._until[old], self._stamps[:, old] = until, stamps
        self._asked[old], self._look = asked, look

    def _renew_ahead(self, now: float, most: int) -> None:
        """Read some of what grows old: enough at once, and none of it too old before its turn.

        No more than `most`: after a silence a single list would else wait for all the others'.
        """
        age = self._store.max_age
        often = age / _LOOKS
        late = now - self._look  # who is busy with a long batch looks later than that
        pause = often + late if 0 < late < age else often
        self._look = now + often
        until = self._until
        [due] = np.nonzero(self._asked & (until > now) & (until <= now + age / 2))
        if not len(due):
            return
        left = until[due] - now
        turns = max(1, int(left.min() / pause))
        pace = -(-len(due) // turns)
        if pace < _WORTH_IT and left.min() > age / 4:
            return
        some = due[np.argsort(left)[: min(most, max(_WORTH_IT, pace))]]
        self._write(some, [self._names[place] for place in some.tolist()], anew=True)

    def _write(self, places: Array, keys: Sequence[str], *, anew: bool = False) -> None:
        vectors, until = self._store.lasting("item_windows", keys, anew=anew)
        fields: list[Row | None] = [None] * len(keys)
        if self._schema.item:
            fields, also = self._store.lasting("item_fields", keys, anew=anew)
            until = list(map(min, until, also))
        stamps = np.array(
            [[_ALWAYS if row is None else row.stamp for row in rows] for rows in (vectors, fields)]
        )
        # most rows are as they were: a stamp never comes again with other values
        first = np.isneginf(self._until[places])
        [news] = np.nonzero(first | (stamps != self._stamps[:, places]).any(0))
        self._until[places] = until
        self._asked[places] = False
        if not len(news):
            return
        some = news.tolist()
        width = windows.width(len(self._schema.horizons), len(self._schema.channels))
        found = items.encode(
            self._schema,
            [keys[n] for n in some],
            [
                None if row is None else vector(row.view, row.key, row.values, width)
                for row in (vectors[n] for n in some)
            ],
            [
                None if row is None or isinstance(row.values, np.ndarray) else row.values
                for row in (fields[n] for n in some)
            ],
        )
        items.write(self._items, places[news], found)
        self._stamps[:, places] = stamps
        self._oldest = min(self._oldest, int(stamps.min()))


def vector(view: View, key: str, values: Values, width: int) -> Array | None:
    """Return a window; one of other horizons or channels than ours is as good as none."""
    if isinstance(values, np.ndarray) and len(values) == width:
        return values
    log.warning("%s of %r was written under other settings: ignored", view, key)
    return None
