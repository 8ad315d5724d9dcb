"""What a sink wrote to a partition before this run: read again after a crash.

A snapshot says up to where a partition was written. Before the first one there is none, so the
end of the partition is noted as a committed offset of a group, and taken away once a snapshot is
complete: a run that finds no snapshot and a note follows a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import OffsetSpec

from streamrank.edges.kafka_client import (
    BATCH,
    PATIENCE,
    Broker,
    patience_of,
    patiently,
    span,
)
from streamrank.edges.kafka_connection import (
    ID_HEADER,
    Settings,
    for_consumer,
)
from streamrank.edges.kafka_errors import KafkaError, ReadFailed

log = logging.getLogger(__name__)
T = TypeVar("T")


class History:
    """What was written to one partition.

    Args:
        connection: librdkafka's settings.
        broker: Who is asked.
        topic: The topic.
        index: The partition.
        group: Where the start is noted; no other sink may use it.
    """

    def __init__(
        self, connection: Settings, broker: Broker, topic: str, index: int, group: str
    ) -> None:
        self._connection = connection
        self._broker = broker
        self._where = TopicPartition(topic, index)
        self._name = f"{topic}[{index}]"
        self._group = group
        self._noted = False

    def begin(self) -> tuple[int, set[str]]:
        """Return the partition's end, and the ids written if a run crashed without a snapshot.

        Raises:
            ReadFailed: The broker does not say.
        """
        self._noted = True
        noted = self._start()
        if noted >= 0:
            return self.since(noted, ())
        client = self._broker.client
        latest = {self._where: OffsetSpec.latest()}  # type: ignore[no-untyped-call]
        end = self._answer(lambda: client.list_offsets(latest)[self._where]).offset
        place = TopicPartition(self._where.topic, self._where.partition, end)
        note = ConsumerGroupTopicPartitions(self._group, [place])
        self._answer(lambda: client.alter_consumer_group_offsets([note])[self._group])
        return end, set()

    def since(self, offset: int, known: tuple[str, ...]) -> tuple[int, set[str]]:
        """Return the partition's end, and the ids written from an offset on beside those known.

        Raises:
            ReadFailed: The broker does not give them.
        """
        settings = for_consumer(self._connection, self._group, 5) | {"enable.partition.eof": True}
        with closing(Consumer(settings)) as consumer:
            end, found = self._read(consumer, offset)
        return end, found.union(known)

    def settled(self) -> None:
        """Take the note away: a snapshot is complete."""
        if not self._noted:
            return
        self._noted = False
        try:
            if self._broker.embedded():
                return  # it cannot remove groups, and librdkafka aborts the process that asks
            for done in self._broker.client.delete_consumer_groups([self._group]).values():
                done.result(PATIENCE)
        except (KafkaException, KafkaError, TimeoutError) as error:
            # Left in place it costs a longer look back after a loss of all state.
            log.info("group %s was not removed: %s", self._group, error)

    def _start(self) -> int:
        """Return what is noted, less than 0 for nothing.

        A consumer asks: `list_consumer_group_offsets` takes the whole process down where the
        group's coordinator is not known yet, as on a broker that has just started.

        References:
            https://github.com/confluentinc/librdkafka/issues/5040
        """
        settings = for_consumer(self._connection, self._group, 5)
        with closing(Consumer(settings)) as consumer:

            def ask() -> int:
                [found] = consumer.committed([self._where], 2 * PATIENCE)
                if found.error is not None:
                    raise KafkaException(found.error)
                return int(found.offset)

            return patiently(self._name, ask, patience_of(self._connection))

    def _answer(self, question: Callable[[], Future[T]]) -> T:
        # A partition may be opened while the broker is away: as patient as its deliveries.
        patience = patience_of(self._connection)
        first = True

        def ask() -> T:
            nonlocal first
            if not first:
                self._broker.learn()
            first = False
            return question().result(2 * PATIENCE)

        return patiently(self._name, ask, patience)

    def _read(self, consumer: Consumer, offset: int) -> tuple[int, set[str]]:
        topic, index = self._where.topic, self._where.partition
        low, high = span(consumer, topic, index, patience_of(self._connection))
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
                    raise ReadFailed(f"{self._name}: {error.str()}")


def _ids(message: Message) -> list[str]:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    values = [value for name, value in pairs if name == ID_HEADER and value is not None]
    return [
        value.decode(errors="replace") if isinstance(value, bytes) else value for value in values
    ]
