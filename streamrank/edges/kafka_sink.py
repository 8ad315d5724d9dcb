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
from contextlib import closing
from zlib import crc32

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as Code

from streamrank.edges.kafka_client import (
    BATCH,
    ID_HEADER,
    PATIENCE,
    Broker,
    Outgoing,
    Settings,
    for_consumer,
    for_producer,
    note,
    noted,
    span,
)
from streamrank.edges.kafka_errors import DeliveryFailed, KafkaError, ReadFailed

log = logging.getLogger(__name__)
Written = tuple[int, tuple[str, ...]]
"""Offset after the last record, and ids beyond it that may come once more after a crash."""
Headers = list[tuple[str, str | bytes | None]]
REMEMBER = 3600.0
"""Seconds after a restart within which what was done before the crash has come again."""
LARGEST = 64 * 2**20
"""Bytes of a record that the producer lets through; the topic's own limit decides."""


class KafkaSink(FixedPartitionedSink[Outgoing, Written]):
    """Records into a topic, by key: nothing unacknowledged passes a snapshot.

    Keys go to the partitions that librdkafka's own partitioner chooses. Records are in the topic
    once, even after a crash, where they have an `id` and the flow keeps its state; others at
    least once.

    Args:
        connection: librdkafka's settings; `message.timeout.ms` is how long a delivery may take.
        topic: Where the records go; must exist.
    """

    def __init__(self, connection: Settings, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._workers = threading.local()

    def list_parts(self) -> list[str]:
        """Return one key per partition; sorted, they are in the partitions' order.

        Raises:
            BrokerUnreachable: Nobody answers.
            TopicMissing: The topic is not on the broker.
        """
        count = Broker(self._connection).partitions([self._topic])[self._topic]
        self._producer()  # an idempotent one takes a moment to get its number
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
        history = _History(self._connection, self._topic, index, group)
        written = history.begin() if resume_state is None else history.since(*resume_state)
        return _Partition(self._producer(), self._topic, index, history, *written)

    def _producer(self) -> Producer:
        # One for each worker thread: its reports then come in that thread alone.
        producer: Producer | None = getattr(self._workers, "producer", None)
        if producer is None:
            settings = {"enable.idempotence": True, "linger.ms": 0, "message.max.bytes": LARGEST}
            producer = Producer(settings | for_producer(self._connection))
            self._workers.producer = producer
        return producer


class _History:
    """What was written to a partition before this run."""

    def __init__(self, connection: Settings, topic: str, index: int, group: str) -> None:
        self._connection = connection
        self._where = TopicPartition(topic, index)
        self._group = group
        self._begun = False

    def begin(self) -> tuple[int, set[str]]:
        """Return where to start without a snapshot.

        The first time that is the topic's end. It is noted in a group until a snapshot of this
        partition is complete: a crash before that finds the note.
        """
        self._begun = True
        with self._consumer() as consumer:
            [before] = noted(consumer, [self._where])
            if before.offset >= 0:
                return self._read(consumer, before.offset)
            topic, index = self._where.topic, self._where.partition
            _, high = span(consumer, topic, index)
            note(consumer, TopicPartition(topic, index, high))
            return high, set()

    def since(self, offset: int, known: tuple[str, ...]) -> tuple[int, set[str]]:
        """Return the partition's end and the ids written from an offset on."""
        with self._consumer() as consumer:
            end, found = self._read(consumer, offset)
        return end, found.union(known)

    def settled(self) -> None:
        """Take the note away: a snapshot is complete."""
        if not self._begun:
            return
        self._begun = False
        try:
            broker = Broker(self._connection)
            if broker.embedded():
                return  # it cannot remove groups, and librdkafka aborts the process that asks
            for done in broker.client.delete_consumer_groups([self._group]).values():
                done.result(PATIENCE)
        except (KafkaException, KafkaError, TimeoutError) as error:
            # Left in place it costs a longer look back after a loss of all state.
            log.info("group %s was not removed: %s", self._group, error)

    def _consumer(self) -> closing[Consumer]:
        settings = for_consumer(self._connection, self._group, 5) | {"enable.partition.eof": True}
        return closing(Consumer(settings))

    def _read(self, consumer: Consumer, offset: int) -> tuple[int, set[str]]:
        topic, index = self._where.topic, self._where.partition
        low, high = span(consumer, topic, index)
        if not low <= offset <= high:
            span_text = f"wrote up to {offset}, and the broker holds {low} to {high}"
            log.warning("%s[%s]: %s; ids are read from %s", topic, index, span_text, low)
            offset = low
        ids: set[str] = set()
        if offset == high:
            return high, ids
        consumer.assign([TopicPartition(topic, index, offset)])
        while True:
            for message in consumer.consume(BATCH, 0.05):
                error = message.error()
                if error is None:
                    ids.update(_ids(message))
                elif error.code() == Code._PARTITION_EOF:
                    log.info("%s[%s]: %s ids written since %s", topic, index, len(ids), offset)
                    return message.offset() or high, ids
                elif not error.retriable():
                    raise ReadFailed(f"{topic}[{index}]: {error.str()}")


def _ids(message: Message) -> list[str]:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    values = [value for name, value in pairs if name == ID_HEADER and value is not None]
    return [
        value.decode(errors="replace") if isinstance(value, bytes) else value for value in values
    ]


class _Partition(StatefulSinkPartition[Outgoing, Written]):
    """Writes to one partition of a topic."""

    def __init__(
        self,
        producer: Producer,
        topic: str,
        index: int,
        history: _History,
        end: int,
        written: set[str],
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._index = index
        self._history = history
        self._end = end
        self._written = written
        self._forget = time.monotonic() + REMEMBER
        self._snapshots = 0
        self._open = 0
        self._failed: Code | None = None

    def write_batch(self, values: list[Outgoing]) -> None:
        for record in values:
            if record.id is not None and record.id in self._written:
                self._written.discard(record.id)
            else:
                self._write(record)
        self._producer.poll(0)
        self._raise_failed()

    def _write(self, record: Outgoing) -> None:
        headers: Headers = [] if record.id is None else [(ID_HEADER, record.id.encode())]
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key.encode(),
                    self._index,
                    on_delivery=self._delivered,
                    headers=headers,
                )
            except BufferError:  # full: the flow waits for the broker
                self._producer.poll(0.05)
                self._raise_failed()
            except KafkaException as error:
                raise self._failure(error.args[0]) from error
            else:
                self._open += 1
                return

    def _delivered(self, error: Code | None, message: Message) -> None:
        self._open -= 1
        if error is not None:
            self._failed = self._failed or error
        else:
            self._end = max(self._end, (message.offset() or 0) + 1)

    def _failure(self, error: Code) -> DeliveryFailed:
        return DeliveryFailed(
            f"{self._topic}[{self._index}]: the broker did not take a record: {error.str()}; "
            "the flow must be started again and works from its last snapshot on"
        )

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise self._failure(self._failed)

    def snapshot(self) -> Written:
        while self._open and self._failed is None:
            self._producer.flush(1.0)
        self._raise_failed()
        self._snapshots += 1
        if self._snapshots == 2:
            self._history.settled()  # Bytewax asks again only once the epoch before is complete
        if self._written and time.monotonic() > self._forget:
            self._written = set()
        return self._end, tuple(self._written)

    def close(self) -> None:
        self._producer.flush(PATIENCE)
