"""A broker inside this process, for demos and quick tests: librdkafka's own.

It is no place for data that matters.  It keeps the newest 5 MB of each partition in memory and
drops what is older without a word; topics appear when they are first asked for, with four
partitions; it knows no replication, no compaction, no transactions.  `HeldProducer` keeps a demo
within those 5 MB; that nothing is lost or doubled is proven on Apache Kafka.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from zlib import crc32

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as Code

from streamrank.edges.kafka_client import (
    PATIENCE,
    Broker,
)
from streamrank.edges.kafka_connection import Settings as Connection
from streamrank.edges.kafka_connection import (
    for_consumer,
    for_producer,
)
from streamrank.edges.kafka_errors import DeliveryFailed, KafkaError
from streamrank.edges.kafka_reader import Reader
from streamrank.settings import Settings

ROOM = 4 * 2**20
"""Bytes per partition that may be unread: what the broker keeps, less a batch at its edge."""
OVERHEAD = 100
"""Bytes that the broker counts beside key and value, at most."""
LOOK_EVERY = 0.02
"""Seconds between two looks at how far the flows are."""
FIRST_RECORDS = 500
"""Records that may be under way while nobody knows yet how much the flows write for each."""
FOLLOWED = 60.0
"""Seconds within which what the flows wrote must be here."""
Where = tuple[str, int]


class NoRoom(KafkaError):
    """The embedded broker would drop a record before anybody reads it."""


class EmbeddedBroker:
    """A broker on a free port of the loopback interface, gone with this object.

    Args:
        topics: Topics that should be there from the start.

    Examples:
        >>> with EmbeddedBroker(["events"]) as broker:
        ...     host, _, port = broker.bootstrap.partition(":")
        >>> host
        '127.0.0.1'
    """

    def __init__(self, topics: Iterable[str] = ()) -> None:
        # The address is replaced by the mock cluster's own.
        settings = {"bootstrap.servers": "127.0.0.1:9", "test.mock.num.brokers": 1, "log_level": 2}
        self._cluster: Producer | None = Producer(settings)
        [broker] = self._cluster.list_topics(timeout=PATIENCE).brokers.values()
        self.bootstrap = f"{broker.host}:{broker.port}"
        self.create(topics)

    def create(self, topics: Iterable[str]) -> None:
        """Make topics, each with four partitions; those that exist stay as they are."""
        if self._cluster is None:
            raise ValueError("the embedded broker is closed")
        for topic in topics:
            self._cluster.list_topics(topic, timeout=PATIENCE)

    def close(self) -> None:
        """Drop the broker and all that it holds."""
        self._cluster = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def readers_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return which groups read each topic, as the flows do."""
    group = settings.kafka.group
    return {
        settings.topic("events"): (f"{group}-features", f"{group}-rank", f"{group}-learn"),
        settings.topic("requests"): (f"{group}-rank", f"{group}-learn"),
        settings.topic("served"): (f"{group}-learn",),
        settings.topic("rankings"): (f"{group}-features",),
    }


@dataclass
class _Unread:
    """What lies in a partition beyond the slowest reader's position."""

    flying: int = 0
    """Bytes that were sent and are not acknowledged yet."""
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Offset and bytes of each record."""
    size: int = 0

    def add(self, offset: int, size: int) -> None:
        self.waiting.append((offset, size))
        self.size += size

    def read_up_to(self, offset: int) -> int:
        done = 0
        while self.waiting and self.waiting[0][0] < offset:
            self.size -= self.waiting.popleft()[1]
            done += 1
        return done


class HeldProducer:
    """A producer that stops before the embedded broker drops what the flows have not read.

    It counts the bytes of each partition that lie beyond the position which the slowest of its
    readers has committed, which flows do at each snapshot. What the flows write for one another
    (`outputs`) it reads along, and leaves room for what the records under way will still add,
    judged by what earlier ones added. A topic that no flow reads has no position to wait for:
    as much as the broker keeps goes in, and then `send` raises.

    Args:
        connection: librdkafka's settings.
        readers: Groups that read each topic.
        outputs: Topics among them that the flows write, not this producer.
    """

    def __init__(
        self,
        connection: Connection,
        readers: Mapping[str, Sequence[str]],
        outputs: Sequence[str] = (),
    ) -> None:
        self._connection = connection
        self._readers = readers
        self._producer = Producer(
            {"linger.ms": 0, "batch.size": 64_000, "enable.idempotence": True}
            | for_producer(connection)
        )
        self._partitions: dict[str, int] = {}
        self._unread: dict[Where, _Unread] = {}
        groups = {group for found in readers.values() for group in found}
        self._groups = {group: Consumer(for_consumer(connection, group, 5)) for group in groups}
        self._tail = Reader(connection, outputs, from_end=True) if outputs else None
        self._outputs: dict[Where, _Unread] = {}
        self._written: dict[Where, int] = {}  # bytes the flows wrote so far
        self._open = 0  # own records that not every reader has read
        self._done = 0
        self._looked = 0.0
        self._failed: Code | None = None

    def send(self, topic: str, key: str, payload: bytes) -> bool:
        """Send a record, unless the flows must catch up first.

        Returns:
            Whether it was taken. If not: `wait`, and send it again.

        Raises:
            NoRoom: No flow reads the topic and the broker is full of it, or the record is larger
                than what the broker keeps.
            DeliveryFailed: An earlier record was not taken by the broker.
        """
        self._producer.poll(0)
        if self._failed is not None:
            raise DeliveryFailed(f"the embedded broker: {self._failed.str()}")
        self._look()
        where = topic, crc32(key.encode()) % self._count(topic)
        size = len(key.encode()) + len(payload) + OVERHEAD
        unread = self._unread.setdefault(where, _Unread())
        if unread.size + unread.flying + size > ROOM:
            self._refuse_for_ever(where, size)
            return False
        return self._room_for_outputs() and self._produce(where, key, payload, size)

    def wait(self, seconds: float) -> None:
        """Give the flows time to catch up."""
        self._producer.poll(seconds)
        self._look()

    @property
    def unread(self) -> int:
        """Records sent that not every reader of theirs has read, as of the last look."""
        return self._open

    def close(self) -> None:
        """Wait for what is under way, and leave the broker."""
        self._producer.flush(PATIENCE)
        for consumer in self._groups.values():
            consumer.close()
        if self._tail is not None:
            self._tail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions |= Broker(self._connection).partitions([topic])
        return self._partitions[topic]

    def _refuse_for_ever(self, where: Where, size: int) -> None:
        topic = where[0]
        if size > ROOM:
            raise NoRoom(f"a record for {topic} must be within {ROOM} bytes, got {size}")
        if not self._readers.get(topic):
            raise NoRoom(f"no flow reads {topic}, and {ROOM} bytes of {topic}[{where[1]}] wait")

    def _room_for_outputs(self) -> bool:
        if self._tail is None:
            return True
        if not self._done:
            return self._open < FIRST_RECORDS
        return all(
            unread.size + self._open * self._written[where] / self._done < ROOM
            for where, unread in self._outputs.items()
        )

    def _produce(self, where: Where, key: str, payload: bytes, size: int) -> bool:
        topic, partition = where
        unread = self._unread[where]

        def delivered(error: Code | None, message: Message) -> None:
            unread.flying -= size
            if error is not None:
                self._failed = error
            else:
                unread.add(message.offset() or 0, size)

        try:
            self._producer.produce(topic, payload, key.encode(), partition, on_delivery=delivered)
        except BufferError:
            return False
        unread.flying += size
        self._open += bool(self._readers.get(topic))
        return True

    # --- how far the flows are ------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        positions = self._positions()
        done = 0
        for where, unread in self._unread.items():
            done += unread.read_up_to(positions.get(where, 0))
        self._done += done
        self._open -= done
        if self._tail is not None:
            self._follow(self._tail, to_the_end=done > 0)
        for where, unread in self._outputs.items():
            unread.read_up_to(positions.get(where, 0))

    def _follow(self, tail: Reader, *, to_the_end: bool) -> None:
        """Count what the flows wrote.

        For a record that is no longer open all of it must be counted: else the flows seem to write
        less than they do, and too much is sent.
        """
        for record in tail.rest(FOLLOWED) if to_the_end else tail.poll(0):
            where = record.topic, record.partition
            size = len(record.value) + len(record.key or b"") + OVERHEAD
            self._outputs.setdefault(where, _Unread()).add(record.offset, size)
            self._written[where] = self._written.get(where, 0) + size

    def _positions(self) -> dict[Where, int]:
        slowest: dict[Where, int] = {}
        for group, consumer in self._groups.items():
            asked = [
                TopicPartition(*where)
                for where in (*self._unread, *self._outputs)
                if group in self._readers.get(where[0], ())
            ]
            if not asked:
                continue
            try:
                found = consumer.committed(asked, timeout=PATIENCE)
            except KafkaException as error:
                raise KafkaError(f"group {group}: {error.args[0].str()}") from error
            for one in found:
                where = one.topic, one.partition
                slowest[where] = min(slowest.get(where, one.offset), one.offset)
        return slowest
