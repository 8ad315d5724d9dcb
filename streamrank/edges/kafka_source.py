"""A Bytewax source that reads topics from where its snapshot says, and never from elsewhere.

Bytewax asks each partition of a worker in turn, a thousand times a second while nothing comes.
All of them share one consumer, and the first that is asked in a sweep polls it for all without
waiting: an idle partition costs a look into an empty list.  A flow for which nobody waits asks
less often (`pause`): it costs less while nothing comes, and finds more at once when something does.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Code

from streamrank.by_thread import ByThread
from streamrank.edges.kafka_client import (
    BATCH,
    PATIENCE,
    STOPPING,
    Broker,
    as_incoming,
    deleted,
    failed,
    gone,
    note,
    noted,
    patience_of,
    span,
)
from streamrank.edges.kafka_connection import (
    Incoming,
    Settings,
    address,
    for_consumer,
)
from streamrank.edges.kafka_errors import BrokerUnreachable, PartitionsAdded

log = logging.getLogger(__name__)
ACCEPTING_GAPS = threading.Event()
"""Once set, a source begins where the broker's records do if those before are gone, and says so."""
MOST_HELD = 8 * BATCH
"""Records held for partitions that Bytewax lets wait for the end of an epoch."""
SWEEP = 0.0005
"""Seconds within which a poll that found nothing stands for all partitions of a worker."""
BEGIN = "begin"
"""Noted beside a committed offset at which a group began and no snapshot was completed yet."""
Where = tuple[str, int]
Start = Literal["earliest", "latest"]


class KafkaSource(FixedPartitionedSource[Incoming, int]):
    """Records of topics, each partition from the offset in its snapshot.

    Without a snapshot a partition goes on where its group was, and a group that never read it
    begins at `start`, which is made an offset and committed before the first record is read. So
    a crash before the first snapshot loses nothing either. Progress is committed to the group
    when a snapshot is complete, never ahead of it, so lag tools show what is really done.

    Args:
        connection: librdkafka's settings.
        topics: What to read; all must exist.
        group: Whose progress this is.
        start: Where a new group begins.
        fetch_wait: How long a broker may hold back an answer that has no record.
        look: How often the topics are looked at for partitions that were added.
        pause: How long to wait before asking again where nothing came; zero is a millisecond.
    """

    def __init__(
        self,
        connection: Settings,
        topics: Sequence[str],
        *,
        group: str,
        start: Start = "earliest",
        fetch_wait: timedelta = timedelta(milliseconds=50),
        look: timedelta = timedelta(seconds=30),
        pause: timedelta = timedelta(),
    ) -> None:
        wait = max(1, round(fetch_wait.total_seconds() * 1000))
        self._connection = connection
        self._topics = tuple(topics)
        self._start: Start = start
        self._consumer = for_consumer(connection, group, wait) | {"on_commit": _committed}
        self._patience = patience_of(connection)
        self._look = look.total_seconds()
        self._pause = pause
        self._counts: dict[str, int] = {}
        self._feeds: ByThread[_Feed] = ByThread()

    def list_parts(self) -> list[str]:
        """Return one key per partition, like `events[3]`; a broker may be coming up.

        Raises:
            BrokerUnreachable: Nobody answers for as long as a delivery may take.
            TopicMissing: A topic is not on the broker.
        """
        broker = Broker(self._connection)
        broker.wait(self._patience)
        self._counts = found = broker.partitions(self._topics)
        return [f"{topic}[{index}]" for topic, count in found.items() for index in range(count)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[Incoming, int]:
        """Open a partition at its offset.

        Raises:
            OffsetGone: The broker no longer holds it.
        """
        topic, _, index = for_part.removesuffix("]").partition("[")
        where = topic, int(index)
        feed = self._feeds.get()
        if feed is None or where in feed.waiting or feed.closed:
            watch = _Watch(self._counts, self._look)
            feed = _Feed(self._consumer, self._patience, watch, self._pause)
            self._feeds.set(feed)
        feed.open(where, resume_state, self._start)
        return _Partition(feed, where)


def _committed(error: Code | None, partitions: list[TopicPartition]) -> None:
    # For show alone: the snapshots know better. The next commit makes up for it.
    if error is not None:
        log.warning("kafka: progress was not committed: %s", error.str())


def _down(outage: list[float], error: Code) -> None:
    if error.code() == Code._ALL_BROKERS_DOWN and not outage:
        outage.append(time.monotonic())
    log.warning("kafka: %s", error.str())


def _abandon(consumer: Consumer) -> None:
    """Let a consumer stay until the process ends.

    To close or to destroy it waits for a commit that was under way when the broker died, and there
    is no limit to that: the flow would not end.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(consumer))


class _Watch:
    """Looks now and then whether the topics are as they were when the flow started.

    Args:
        counts: How many partitions each had.
        every: Seconds.
    """

    def __init__(self, counts: dict[str, int], every: float) -> None:
        self._counts = counts
        self._every = every
        self._due = time.monotonic() + every

    def look(self, consumer: Consumer, now: float) -> None:
        """Ask the broker, if it is time to.

        Raises:
            TopicMissing: A topic was deleted.
            PartitionsAdded: One has partitions that nobody reads.
        """
        if now < self._due:
            return
        self._due = now + self._every
        for topic, count in self._counts.items():
            try:
                found = consumer.list_topics(topic, timeout=PATIENCE / 5).topics[topic]
            except KafkaException:
                return  # away: see `_ask`
            there = len(found.partitions)
            if there > count:
                raise PartitionsAdded(
                    f"{topic} must keep its {count} partitions while a flow reads it, and has "
                    f"{there}: start the flow again, and it reads the others from their beginning"
                )
            if found.error is not None and found.error.code() == Code.UNKNOWN_TOPIC_OR_PART:
                raise deleted(topic)


class _Feed:
    """The consumer of one worker thread, and what it holds for each partition.

    Args:
        settings: Of the consumer.
        patience: Seconds that no broker may answer.
        watch: What looks after the topics.
        pause: How long to wait where nothing came.

    Attributes:
        rests: Until when it need not be asked again, where nothing came.
    """

    def __init__(
        self, settings: dict[str, Any], patience: float, watch: _Watch, pause: timedelta
    ) -> None:
        self._watch = watch
        self._pause = pause
        self.rests: datetime | None = None
        # The callback must not hold this object: see `kafka_client.Broker`.
        self._outage: list[float] = []
        self._address = address(settings)
        self._patience = patience
        self.consumer = Consumer(settings | {"error_cb": partial(_down, self._outage)})
        self.waiting: dict[Where, list[Incoming]] = {}
        self.position: dict[Where, int] = {}
        self.closed = False
        self._held = 0
        self._looked = 0.0
        self._opened: list[TopicPartition] = []
        self._snapshots: dict[Where, int] = {}
        self._complete: dict[Where, int] = {}
        self._shown: dict[Where, int] = {}

    # --- where to begin -------------------------------------------------------------------

    def open(self, where: Where, saved: int | None, start: Start) -> None:
        low, high = span(self.consumer, *where, self._patience)
        offset = self._begin(where, start, low, high) if saved is None else saved
        if not low <= offset <= high:
            offset = self._over_the_gap(where, offset, low, high)
        self._opened.append(TopicPartition(*where, offset))
        self.waiting[where] = []
        self.position[where] = offset

    @staticmethod
    def _over_the_gap(where: Where, offset: int, low: int, high: int) -> int:
        lost = gone(*where, offset, low, high)
        if not ACCEPTING_GAPS.is_set():
            raise lost
        what = f"records {offset} to {low - 1}" if offset < low else f"what was up to {offset}"
        log.warning("%s[%s]: %s skipped, as accepted; on from %s", *where, what, low)
        return low

    def _begin(self, where: Where, start: Start, low: int, high: int) -> int:
        topic, index = where
        places = [TopicPartition(topic, other) for other in range(index + 1)]
        known = noted(self.consumer, places, self._patience)
        if known[index].offset >= 0:
            log.info("%s[%s]: no snapshot, on from %s", topic, index, known[index].offset)
            return known[index].offset
        # A partition that was added to a topic the group reads: all of it is new.
        added = any(one.offset >= 0 and one.metadata != BEGIN for one in known)
        offset = high if start == "latest" and not added else low
        note(self.consumer, TopicPartition(topic, index, offset, BEGIN), self._patience)
        return offset

    # --- reading --------------------------------------------------------------------------

    def take(self, where: Where) -> list[Incoming]:
        if where in self._snapshots:
            # Bytewax asks again only once every output has finished the epoch before.
            self._complete[where] = self._snapshots.pop(where)
        held = self.waiting[where]
        if not held and self._held < MOST_HELD:
            self._poll()
            held = self.waiting[where]
        if held:
            self.waiting[where] = []
            self._held -= len(held)
            self.position[where] = held[-1].offset + 1
        return held

    def _poll(self) -> None:
        now = time.monotonic()
        if now - self._looked < SWEEP:
            return
        self._prepare(now)
        messages = self.consumer.consume(BATCH, 0)
        if not messages:
            self._looked = now
            self.rests = datetime.now(UTC) + self._pause if self._pause else None
            if self._outage and now - self._outage[0] > self._patience:
                self._ask()
            return
        self._outage.clear()
        self.rests = None
        self._keep(messages)

    def _prepare(self, now: float) -> None:
        if self._opened:
            self.consumer.incremental_assign(self._opened)
            self._opened = []
        if self._complete:
            self._commit()
        if not self._outage:
            self._watch.look(self.consumer, now)

    def _keep(self, messages: Iterable[Message]) -> None:
        received = time.time() * 1000
        waiting = self.waiting
        for message in messages:
            if message.error() is not None:
                where = message.topic() or "?", message.partition() or 0
                error = failed(self.consumer, message, self.position.get(where, -1))
                if error is not None:
                    raise error
                continue
            record = as_incoming(message, received)
            held = waiting.get((record.topic, record.partition))
            if held is not None:
                held.append(record)
                self._held += 1

    def _ask(self) -> None:
        """End the outage if a broker answers by now.

        Raises:
            BrokerUnreachable: None does.
        """
        if not self._answers(PATIENCE):
            raise BrokerUnreachable(
                f"no Kafka broker has answered at {self._address} for {self._patience:.0f} s "
                "(kafka.delivery_timeout); nothing is lost: start the flow again"
            )
        self._outage.clear()

    def _answers(self, within: float) -> bool:
        try:
            self.consumer.list_topics(timeout=within)
        except KafkaException:
            return False
        return True

    # --- progress -------------------------------------------------------------------------

    def snapshot(self, where: Where) -> int:
        self._snapshots[where] = self.position[where]
        return self.position[where]

    def _commit(self) -> None:
        news = {w: at for w, at in self._complete.items() if self._shown.get(w) != at}
        self._complete = {}
        if news:
            self._shown |= news
            offsets = [TopicPartition(*where, at) for where, at in news.items()]
            self.consumer.commit(offsets=offsets, asynchronous=True)

    def close(self, where: Where) -> None:
        self._held -= len(self.waiting.pop(where, []))
        if not self.waiting and not self.closed:
            self.closed = True
            if self._answers(PATIENCE):
                self._commit()
                self.consumer.close()
            else:
                _abandon(self.consumer)


class _Partition(StatefulSourcePartition[Incoming, int]):
    """One partition: its share of the feed, and where it is."""

    def __init__(self, feed: _Feed, where: Where) -> None:
        self._feed = feed
        self._where = where

    def next_batch(self) -> list[Incoming]:
        if STOPPING.is_set():
            raise StopIteration
        return self._feed.take(self._where)

    def next_awake(self) -> datetime | None:
        return self._feed.rests

    def snapshot(self) -> int:
        return self._feed.snapshot(self._where)

    def close(self) -> None:
        self._feed.close(self._where)
