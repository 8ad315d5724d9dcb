"""A Bytewax sink that knows what the broker took, and what was written before a crash.

Each partition of the topic is a partition of the sink, so one worker alone writes to it. Its
snapshot waits until everything is acknowledged and holds the offset after the last record. After
a crash the flow works again on what it did since that snapshot; the sink first reads what is in
the topic from there on, and leaves out the records whose `id` it finds.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from zlib import crc32

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, Message, Producer

from streamrank.edges.kafka_client import PATIENCE, Broker, patience_of
from streamrank.edges.kafka_connection import (
    ID_HEADER,
    Outgoing,
    Settings,
    for_producer,
)
from streamrank.edges.kafka_errors import DeliveryFailed
from streamrank.edges.kafka_history import History
from streamrank.events import DeadLetter

log = logging.getLogger(__name__)
Written = tuple[int, tuple[str, ...]]
"""Offset after the last record, and ids beyond it that may come once more after a crash."""
Headers = list[tuple[str, str | bytes | None]]
REMEMBER = 3600.0
"""Seconds after a restart within which what was done before the crash has come again."""
LARGEST = 64 * 2**20
"""Bytes of a record that the producer lets through; the topic's own limit decides."""
MOST_WAITING = 96 * 2**20
"""Bytes of records that wait for a broker that is away: with more of them the flow waits too."""


class KafkaSink(FixedPartitionedSink[Outgoing, Written]):
    """Records into a topic, by key: nothing unacknowledged passes a snapshot.

    Keys go to the partitions that librdkafka's own partitioner chooses. Records are in the topic
    once, even after a crash, where they have an `id` and the flow keeps its state; others at
    least once.

    Args:
        connection: librdkafka's settings; `message.timeout.ms` is how long a delivery may take.
        topic: Where the records go; must exist.
        letters: The topic of the dead letters: a record that is too large for the broker is
            told of there and left out. Without it such a record stops the flow.
    """

    def __init__(self, connection: Settings, topic: str, *, letters: str | None = None) -> None:
        self._connection = connection
        self._topic = topic
        self._letters = letters
        self._workers = threading.local()

    def list_parts(self) -> list[str]:
        """Return one key per partition; sorted, they are in the partitions' order.

        Raises:
            BrokerUnreachable: Nobody answers for as long as a delivery may take.
            TopicMissing: The topic is not on the broker.
        """
        broker, _ = self._clients()
        broker.wait(patience_of(self._connection))
        count = broker.partitions([self._topic])[self._topic]
        return [f"{self._topic}[{index:06d}]" for index in range(count)]

    def part_fn(self, item_key: str) -> int:
        """Return the hash by which librdkafka spreads keys."""
        return crc32(item_key.encode())

    def build_part(
        self, step_id: str, for_part: str, resume_state: Written | None
    ) -> StatefulSinkPartition[Outgoing, Written]:
        """Open a partition; after a crash, read what was written to it since the snapshot."""
        index = int(for_part[len(self._topic) + 1 : -1])
        group = f"{self._connection.get('group.id', 'streamrank')}-{step_id}-{index}"
        broker, producer = self._clients()
        history = History(self._connection, broker, self._topic, index, group)
        written = history.begin() if resume_state is None else history.since(*resume_state)
        return _Partition(producer, self._topic, index, history, *written, self._letters)

    def _clients(self) -> tuple[Broker, Producer]:
        # For each worker thread its own: a producer's reports then come in that thread alone.
        clients: tuple[Broker, Producer] | None = getattr(self._workers, "clients", None)
        if clients is None:
            limits = {
                "message.max.bytes": LARGEST,
                "queue.buffering.max.kbytes": MOST_WAITING >> 10,
            }
            settings = {"enable.idempotence": True, "linger.ms": 0, **limits}
            producer = Producer(settings | for_producer(self._connection))
            clients = self._workers.clients = Broker(self._connection), producer
        return clients


class _Partition(StatefulSinkPartition[Outgoing, Written]):
    """Writes to one partition of a topic."""

    def __init__(
        self,
        producer: Producer,
        topic: str,
        index: int,
        history: History,
        end: int,
        written: set[str],
        letters: str | None,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._index = index
        self._history = history
        self._end = end
        self._written = written
        self._letters = letters
        self._forget = time.monotonic() + REMEMBER
        self._snapshots = 0
        self._open = 0
        self._failed: DeliveryFailed | None = None
        self._large: list[Outgoing] = []

    def write_batch(self, values: list[Outgoing]) -> None:
        for record in values:
            if record.id is not None and record.id in self._written:
                self._written.discard(record.id)
            else:
                self._write(record)
        self._producer.poll(0)
        self._raise_failed()
        self._one_by_one()

    def _write(self, record: Outgoing) -> None:
        headers: Headers = [] if record.id is None else [(ID_HEADER, record.id.encode())]
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key.encode(),
                    self._index,
                    on_delivery=partial(self._delivered, record),
                    headers=headers,
                )
            except BufferError:  # full: the flow waits for the broker
                self._producer.poll(0.05)
                self._raise_failed()
            except KafkaException as error:
                if not self._is_too_large(error.args[0]):
                    raise self._failure(error.args[0].str()) from error
                return self._set_aside(record)
            else:
                self._open += 1
                return None

    def _delivered(self, record: Outgoing, error: Code | None, message: Message) -> None:
        self._open -= 1
        if error is None:
            self._landed(message.offset() or 0)
        elif self._is_too_large(error):
            self._large.append(record)
        else:
            self._failed = self._failed or self._failure(error.str())

    def _landed(self, offset: int) -> None:
        # Whoever makes a topic by writing to it makes it as the broker likes, with other settings.
        if offset < self._end:
            self._failed = self._failed or self._failure(
                f"it was deleted and is new, with {offset} for {self._end} as the next offset "
                "(`streamrank topics check`)"
            )
        self._end = offset + 1

    # --- what is too large ----------------------------------------------------------------

    def _is_too_large(self, error: Code) -> bool:
        return error.code() == Code.MSG_SIZE_TOO_LARGE and self._letters is not None

    def _one_by_one(self) -> None:
        """Write again, each by itself, what was refused: the broker judges whole batches."""
        while self._large:
            self._settle()
            record = self._large.pop(0)
            others = len(self._large)
            self._write(record)
            self._settle()
            if len(self._large) > others:
                self._set_aside(self._large.pop())

    def _set_aside(self, record: Outgoing) -> None:
        """Tell of a record that is too large: after a restart it would be so again."""
        assert self._letters is not None  # noqa: S101  # see `_is_too_large`
        origin = f"{self._topic}[{self._index}]"
        rule = f"must fit into a record of {self._topic} (max.message.bytes)"
        reason = f"{record.id}: {rule}, got {len(record.value)} bytes"
        log.error("%s: %s", origin, reason)
        now = time.time_ns() // 1_000_000
        letter = DeadLetter(reason=reason, origin=origin, payload=b"", timestamp=now)
        self._open += 1
        self._producer.produce(self._letters, letter.encode(), origin, on_delivery=self._told)

    def _told(self, error: Code | None, message: Message) -> None:
        self._open -= 1
        if error is not None:
            self._failed = self._failed or self._failure(error.str())

    def _settle(self) -> None:
        while self._open and self._failed is None:
            self._producer.flush(1.0)
        self._raise_failed()

    def _failure(self, why: str) -> DeliveryFailed:
        return DeliveryFailed(
            f"{self._topic}[{self._index}]: the broker did not take a record: {why}; "
            "the flow must be started again and works from its last snapshot on"
        )

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise self._failed

    def snapshot(self) -> Written:
        self._settle()
        self._one_by_one()
        self._settle()
        self._snapshots += 1
        if self._snapshots == 2:
            self._history.settled()  # Bytewax asks again only once the epoch before is complete
        if self._written and time.monotonic() > self._forget:
            self._written = set()
        return self._end, tuple(self._written)

    def close(self) -> None:
        self._producer.flush(PATIENCE)
