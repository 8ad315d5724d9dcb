"""Rows kept on the reader's side: bounded in number, limited in age, old where nobody answers."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import Lock

from streamrank.by_thread import ByThread
from streamrank.edges.cached_items import CachedItems
from streamrank.edges.store import Row, RowStore, StoreUnreachable, Values, View, fresh
from streamrank.features.items import Items
from streamrank.features.schema import Schema

log = logging.getLogger(__name__)
AGAIN = 1.0
"""Seconds after which a store that did not answer is asked again."""
_NEVER = float("-inf")
Read = tuple[float, Row | None]
"""When a row was read, and the row, `None` where there was none."""


class CachedStore:
    """A feature store that remembers what it read, and that there was nothing to read.

    What is not remembered is read from the store behind, in one batch a view.  Rows are
    remembered whole, so that a value passes its TTL on time here too.  Where the store behind
    does not answer, what is remembered is given out however old it is, and the store is left
    alone for a second: one question of that second waits, and no other.  Threads may share it.

    Args:
        store: The store behind.
        max_rows: How many rows to remember; the one used longest ago goes first.
        max_age: For how long.
        clock: Seconds, on a clock that never goes back.

    Attributes:
        max_age: The same, seconds.
    """

    def __init__(
        self,
        store: RowStore,
        *,
        max_rows: int,
        max_age: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ttl = store.ttl
        self._store = store
        self._max_rows = max_rows
        self.max_age = max_age.total_seconds()
        self._clock = clock
        self._known: OrderedDict[tuple[View, str], Read] = OrderedDict()
        self._lock = Lock()
        self._writes = 0
        self._own: ByThread[tuple[Schema, int, CachedItems]] = ByThread()
        self._away = 0.0
        self.degraded = False
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Return how many rows are remembered."""
        return len(self._known)

    def write(self, rows: Sequence[Row]) -> None:
        """Write to the store behind, and forget what was known of these keys."""
        self._store.write(rows)
        with self._lock:
            self._writes += 1
            for row in rows:
                self._known.pop((row.view, row.key), None)

    def flush(self) -> None:
        """Flush the store behind."""
        self._store.flush()

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Return the values by key, `None` where missing or, at `at` (ms), past their TTL."""
        return fresh(self.rows(view, keys), at, self.ttl)

    def rows(self, view: View, keys: Sequence[str]) -> list[Row | None]:
        """Return the rows by key, at most `max_age` after they were read."""
        return [row for _, row in self._read(view, keys)]

    def lasting(
        self, view: View, keys: Sequence[str], *, anew: bool = False
    ) -> tuple[list[Row | None], list[float]]:
        """Return the rows by key, and until when (on the clock) each would be returned again.

        `anew` asks the store behind whatever is remembered.
        """
        found = self._anew(view, keys) if anew else self._read(view, keys)
        return [row for _, row in found], [at + self.max_age for at, _ in found]

    def items(self, schema: Schema, ids: Sequence[str], at: int) -> Items:
        """Return windows and fields of items as arrays, without what is, at `at`, past its TTL.

        What `read` would return, in a fraction of the time: each thread keeps them as arrays
        for as long as the rows are remembered.
        """
        kept = self._own.get()
        if kept is None or kept[0] is not schema or kept[1] != self._writes:
            made = CachedItems(schema, self, max_items=self._max_rows, clock=self._clock)
            kept = schema, self._writes, made
            self._own.set(kept)
        found, hits = kept[2].read(ids, at)
        self.hits += hits
        return found

    def _read(self, view: View, keys: Sequence[str]) -> list[Read]:
        now = self._clock()
        found = self._remembered(view, keys, now)
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            found |= self._asked(view, missing, now)
        return [found[key] for key in keys]

    def _anew(self, view: View, keys: Sequence[str]) -> list[Read]:
        found = self._asked(view, keys, self._clock())
        return [found[key] for key in keys]

    def _asked(self, view: View, keys: Sequence[str], now: float) -> dict[str, Read]:
        if self.degraded and now < self._away:
            return self._old(view, keys)
        try:
            rows = self._store.rows(view, keys)
        except StoreUnreachable as error:
            if not self.degraded:
                log.warning("%s; lists are made of what is remembered", error)
            self.degraded, self._away = True, self._clock() + AGAIN
            return self._old(view, keys)
        if self.degraded:
            log.info("the store answers again")
        self.degraded = False
        news = {key: (now, row) for key, row in zip(keys, rows, strict=True)}
        self._remember(view, news)
        return news

    def _old(self, view: View, keys: Sequence[str]) -> dict[str, Read]:
        with self._lock:
            known = {key: self._known.get((view, key)) for key in keys}
        return {key: (_NEVER, None if one is None else one[1]) for key, one in known.items()}

    def _remembered(self, view: View, keys: Sequence[str], now: float) -> dict[str, Read]:
        found = {}
        with self._lock:
            for key in keys:
                known = self._known.get((view, key))
                if known is not None and now - known[0] < self.max_age:
                    self._known.move_to_end((view, key))
                    found[key] = known
        return found

    def _remember(self, view: View, news: dict[str, Read]) -> None:
        with self._lock:
            for key, read in news.items():
                self._known[view, key] = read
                self._known.move_to_end((view, key))
            while len(self._known) > self._max_rows:
                self._known.popitem(last=False)
