"""The steps Bytewax lacks: decode with a way out for what is bad, and state that expires."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, cast

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from streamrank import metrics, steps, steps_features
from streamrank.edges.kafka import Incoming
from streamrank.edges.store import FeatureStore, Row
from streamrank.events import DeadLetter
from streamrank.steps import Decoder, Read

log = logging.getLogger(__name__)
V = TypeVar("V")
W = TypeVar("W")
S = TypeVar("S")
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time of the system's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Both ways out of `decode`."""

    oks: Stream[Read]
    errs: Stream[DeadLetter]


@operator
def decode(
    step_id: str,
    up: Stream[Incoming],
    decoders: Mapping[str, Decoder],
    ahead: timedelta,
    now: Clock,
) -> Decoded:
    """Turn records into events; what cannot be read goes out by `errs` and stops nothing.

    Args:
        step_id: Name of the step.
        up: Records of the topics in `decoders`.
        decoders: How each topic's payload is read; raises ValueError with the reason.
        ahead: How far in the future an event may be dated.
        now: The clock.
    """

    def tries(batch: list[Incoming]) -> Iterable[Read | DeadLetter]:
        return noted(steps.decode(decoders, batch, now(), ahead), now())

    tried = op.flat_map_batch("try", up, metrics.timed("decode", tries))
    return Decoded(oks=only("oks", tried, Read), errs=only("errs", tried, DeadLetter))


def noted(tried: Iterable[Read | DeadLetter], now: datetime) -> list[Read | DeadLetter]:
    """Count what was read, and how far behind the clock it is."""
    found, counts, newest = list(tried), Counter[str](), dict[str, int]()
    for one in found:
        if isinstance(one, DeadLetter):
            metrics.dead_letter(one.reason)
            continue
        topic, at = one.record.topic, one.event.timestamp
        counts[topic] += 1
        if at > newest.get(topic, 0):
            newest[topic] = at
    for topic, count in counts.items():
        metrics.RECORDS.labels(topic).inc(count)
        metrics.DELAY.labels(topic).set(now.timestamp() - newest[topic] / 1000)
    return found


@operator
def only(step_id: str, up: Stream[Any], kind: type[V]) -> Stream[V]:
    """Pass on the values of one kind."""
    return op.filter_map("only", up, lambda value: value if isinstance(value, kind) else None)


@dataclass
class Room:
    """How many keys a step may hold, in all the workers of this process.

    A key that comes when it is full is worked on as a new one, and forgotten at once.
    """

    most: int
    held: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, *, anyway: bool = False) -> bool:
        """Take a place for a key, if there is one or it is to have one anyway."""
        with self.lock:
            if self.held < self.most or anyway:
                self.held += 1
                return True
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:  # at 1, 2, 4, 8 …
                log.warning("%s keys are held, and %s more were not", self.held, self.refused)
            return False

    def leave(self) -> None:
        """Give a place back."""
        with self.lock:
            self.held -= 1


@dataclass(frozen=True)
class Form(Generic[S]):
    """How a state is kept as bytes: in a snapshot, and from then on until its key comes again.

    Bytewax pickles what a snapshot holds, which takes a state of many objects long, both ways. A
    value that gave something out has its state packed at once: next to the work that follows it
    is little, while a snapshot holds up all keys for all that changed since the last one.
    """

    pack: Callable[[S], bytes]
    unpack: Callable[[bytes], S]


@dataclass
class _Keeper(StatefulBatchLogic[V, W, S | bytes], Generic[V, W, S]):
    state: S | bytes
    advance: Callable[[S, V], tuple[S, Iterable[W]]]
    ttl: timedelta
    now: Clock
    form: Form[S] | None = None
    room: Room | None = None
    has_place: bool = True
    packed: bytes | None = None

    def __post_init__(self) -> None:
        self.expires = self.now() + self.ttl  # also for what a restart brought back

    def on_batch(self, values: list[V]) -> tuple[Iterable[W], bool]:
        emitted: list[W] = []
        state = self._opened()
        for value in values:
            state, out = self.advance(state, value)
            emitted.extend(out)
        self.state = state
        self.packed = self.form.pack(state) if self.form is not None and emitted else None
        self.expires = self.now() + self.ttl
        return emitted, StatefulBatchLogic.RETAIN if self.has_place else StatefulBatchLogic.DISCARD

    def on_notify(self) -> tuple[Iterable[W], bool]:
        if self.room is not None and self.has_place:
            self.room.leave()
        return [], StatefulBatchLogic.DISCARD

    def notify_at(self) -> datetime:
        return self.expires

    def _opened(self) -> S:
        if self.form is not None and isinstance(self.state, bytes):
            return self.form.unpack(self.state)
        return cast(S, self.state)

    def snapshot(self) -> S | bytes:
        if self.form is not None and not isinstance(self.state, bytes):
            self.state = self.form.pack(self.state) if self.packed is None else self.packed
            self.packed = None
        return self.state


@operator
def keep(
    step_id: str,
    up: KeyedStream[V],
    empty: Callable[[], S],
    advance: Callable[[S, V], tuple[S, Iterable[W]]],
    ttl: timedelta,
    now: Clock,
    room: Room | None = None,
    form: Form[S] | None = None,
) -> KeyedStream[W]:
    """Keep a state per key by a pure `advance`, and forget it `ttl` after the key's last value.

    `op.stateful_map` would hold every key that was ever seen.

    Args:
        step_id: Name of the step.
        up: Values by key.
        empty: The state of a key that is new or forgotten.
        advance: `(state, value) -> (state, what to emit)`; must not change `state` in place.
        ttl: How long a silent key is remembered, by the clock.
        now: The clock.
        room: How many keys may be held; what a restart brought back is in any case.
        form: How a state is kept as bytes, where that is worth it.
    """

    def build(saved: S | bytes | None) -> _Keeper[V, W, S]:
        place = room is None or room.enter(anyway=saved is not None)
        return _Keeper(empty() if saved is None else saved, advance, ttl, now, form, room, place)

    return op.stateful_batch("keep", up, build)


@dataclass
class _StorePartition(StatelessSinkPartition[list[Row]]):
    store: FeatureStore

    def write_batch(self, items: list[list[Row]]) -> None:
        steps_features.store_rows(self.store, items)

    def close(self) -> None:
        self.store.flush()


@dataclass
class StoreSink(DynamicSink[list[Row]]):
    """Writes the last rows of a flow to the store; whatever waits in it is flushed at the end.

    A flow is over, and an epoch done, when its outputs say so: a branch that ends in a plain
    step would be cut off with what it holds.
    """

    store: FeatureStore

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _StorePartition:
        """Return this worker's part."""
        return _StorePartition(self.store)


@dataclass
class _Awake(StatefulBatchLogic[V, W, S], Generic[V, W, S]):
    state: S
    advance: Callable[[S, list[V], datetime], tuple[S, Iterable[W]]]
    alarm: Callable[[S], datetime | None]
    now: Clock

    def on_batch(self, values: list[V]) -> tuple[Iterable[W], bool]:
        self.state, out = self.advance(self.state, values, self.now())
        done = self.alarm(self.state) is None
        return out, StatefulBatchLogic.DISCARD if done else StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[W], bool]:
        return self.on_batch([])

    def notify_at(self) -> datetime | None:
        return self.alarm(self.state)

    def snapshot(self) -> S:
        return self.state


@operator
def awake(
    step_id: str,
    up: KeyedStream[V],
    begin: Callable[[S | None, datetime], S],
    advance: Callable[[S, list[V], datetime], tuple[S, Iterable[W]]],
    alarm: Callable[[S], datetime | None],
    now: Clock,
) -> KeyedStream[W]:
    """Keep a state per key that wakes up by itself, and is forgotten when it has no reason to.

    Args:
        step_id: Name of the step.
        up: Values by key.
        begin: The state of a key: from nothing, or from what a restart brought back.
        advance: `(state, values, now) -> (state, what to emit)`; no values where the alarm rang.
            It must not change `state` in place.
        alarm: When to wake up next, in the past for at once; `None` forgets the key.
        now: The clock.
    """

    def build(saved: S | None) -> _Awake[V, W, S]:
        return _Awake(begin(saved, now()), advance, alarm, now)

    return op.stateful_batch("awake", up, build)
