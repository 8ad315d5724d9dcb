"""The steps of the features flow that know of shards: what reads into them, and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from streamrank import operators, steps, steps_features
from streamrank.edges.kafka import Incoming
from streamrank.edges.store import Row
from streamrank.events import DeadLetter
from streamrank.operators import Clock
from streamrank.steps import Decoder
from streamrank.steps_features import Changes, Deeds

V = TypeVar("V")
W = TypeVar("W")
SWEEPS = 10
"""How often in a TTL the silent keys are let go."""


def read(
    records: list[Incoming], *, decoders: Mapping[str, Decoder], ahead: timedelta, now: Clock
) -> list[Deeds | Changes | DeadLetter]:
    """Read a batch of records, each into its shard; see `operators.decode`.

    Args:
        records: Records of the topics in `decoders`.
        decoders: How each topic's payload is read; raises ValueError with the reason.
        ahead: How far in the future an event may be dated.
        now: The clock.
    """
    moment = now()
    found = operators.noted(steps.decode(decoders, records, moment, ahead), moment)
    return steps_features.by_shard(found)


class Shelf(Protocol):
    """What a shard holds; see `streamrank.shelves`."""

    def __len__(self) -> int:
        """Return how many keys are known."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to flush."""

    def flush(self) -> list[Row]:
        """Return the newest row of each key and view that changed since the last time."""

    def forget(self, now: int) -> None:
        """Let go of silent keys."""

    def pack(self) -> bytes:
        """Return all of it as bytes."""


S = TypeVar("S", bound=Shelf)


@dataclass
class _Shard(StatefulBatchLogic[V, W | list[Row], bytes], Generic[V, W, S]):
    shelf: S
    take: Callable[[S, list[V], int], Iterable[W]]
    flush: timedelta
    sweep: timedelta
    now: Clock
    due: datetime | None = field(init=False)
    swept: datetime = field(init=False)

    def __post_init__(self) -> None:
        now = self.now()
        self.due = now if self.shelf.waiting else None
        self.swept = now + self.sweep  # also for what a restart brought back

    def on_batch(self, values: list[V]) -> tuple[Iterable[W | list[Row]], bool]:
        now = self.now()
        emitted: list[W | list[Row]] = list(self.take(self.shelf, values, _milliseconds(now)))
        if self.shelf.waiting and not self.flush:
            emitted.append(self.shelf.flush())
        elif self.shelf.waiting and (self.due is None or self.due > now + self.flush):
            self.due = _next(now, self.flush)  # also where the clock was set back
        return emitted, StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[W | list[Row]], bool]:
        now = self.now()
        emitted = self._flushed() if self.due is not None and now >= self.due else []
        if now >= self.swept:
            emitted += self._flushed()  # a key is in the store before it is let go
            self.shelf.forget(_milliseconds(now))
            self.swept = now + self.sweep
        return emitted, StatefulBatchLogic.RETAIN if len(self.shelf) else StatefulBatchLogic.DISCARD

    def on_eof(self) -> tuple[Iterable[W | list[Row]], bool]:
        return self._flushed(), StatefulBatchLogic.RETAIN

    def _flushed(self) -> list[W | list[Row]]:
        self.due = None
        return [self.shelf.flush()] if self.shelf.waiting else []

    def notify_at(self) -> datetime:
        return self.swept if self.due is None else min(self.due, self.swept)

    def snapshot(self) -> bytes:
        return self.shelf.pack()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _next(now: datetime, every: timedelta) -> datetime:
    """Return when all shards flush next: together, so that the store has one batch to write.

    Examples:
        >>> _next(datetime(2026, 1, 1, 0, 0, 1, 500_000, UTC), timedelta(seconds=1)).second
        2
    """
    seconds = every.total_seconds()
    return datetime.fromtimestamp((now.timestamp() // seconds + 1) * seconds, UTC)


@operator
def hold(
    step_id: str,
    up: KeyedStream[V],
    begin: Callable[[int, bytes | None], S],
    take: Callable[[S, list[V], int], Iterable[W]],
    flush: timedelta,
    ttl: timedelta,
    now: Clock,
) -> KeyedStream[W | list[Row]]:
    """Keep a shelf per shard, and give out the rows of what changed.

    A key that changes a thousand times a second costs the store one write.  What waits is part
    of the snapshot, so a crash loses none of it.

    Args:
        step_id: Name of the step.
        up: Values by shard.
        begin: A shelf, from the time in milliseconds and what a snapshot brought back.
        take: `(shelf, values, now) -> what to emit`; changes the shelf.
        flush: How long a row may wait; zero passes every batch on at once.
        ttl: How long a silent key is remembered, by the clock.
        now: The clock.
    """

    def build(saved: bytes | None) -> _Shard[V, W, S]:
        shelf = begin(_milliseconds(now()), saved)
        return _Shard(shelf, take, flush, ttl / SWEEPS, now)

    return op.stateful_batch("keep", up, build)
