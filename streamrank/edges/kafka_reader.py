"""Reading topics without a flow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from streamrank.edges.kafka_client import BATCH, Broker, as_incoming, failed, span
from streamrank.edges.kafka_connection import Incoming, Settings, for_consumer
from streamrank.edges.kafka_errors import BrokerUnreachable


class Reader:
    """All records of some topics, in one process, without a group: for demos, letters and tests.

    Args:
        settings: The connection.
        topics: What to read; all must exist.
        from_end: Leave out what is there already.
        fetch_wait: Seconds that the broker may hold back an answer that has no record. Apache Kafka
            answers as soon as there is one; the embedded broker takes all of it each time.

    Raises:
        TopicMissing: A topic is not on the broker.
        BrokerUnreachable: Nobody answers.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        *,
        from_end: bool = False,
        fetch_wait: float = 0.005,
    ) -> None:
        counts = Broker(settings).partitions(topics)
        group = f"{settings.get('group.id', 'streamrank')}-reader"
        self._consumer = Consumer(for_consumer(settings, group, round(1000 * fetch_wait)))
        self._next: dict[tuple[str, int], int] = {}
        for topic, count in counts.items():
            for partition in range(count):
                low, high = span(self._consumer, topic, partition)
                self._next[topic, partition] = high if from_end else low
        self._consumer.assign([TopicPartition(*where, at) for where, at in self._next.items()])

    def poll(self, wait: float) -> list[Incoming]:
        """Return what is there; wait for the first record at most so long.

        Args:
            wait: Seconds.

        Raises:
            OffsetGone: Records were deleted before they were read.
        """
        first = self._consumer.poll(wait)
        if first is None:
            return []
        received = time.time() * 1000
        records = []
        for message in (first, *self._consumer.consume(BATCH, 0)):
            if message.error() is not None:
                where = message.topic() or "?", message.partition() or 0
                error = failed(self._consumer, message, self._next.get(where, -1))
                if error is not None:
                    raise error
                continue
            record = as_incoming(message, received)
            self._next[record.topic, record.partition] = record.offset + 1
            records.append(record)
        return records

    def rest(self, within: float) -> Iterator[Incoming]:
        """Give all that the topics hold by now.

        Args:
            within: Seconds that it may take.

        Raises:
            BrokerUnreachable: It takes longer.
            OffsetGone: Records were deleted before they were read.
        """
        deadline = time.monotonic() + within
        ends = {where: span(self._consumer, *where)[1] for where in self._next}
        while any(self._next[where] < end for where, end in ends.items()):
            if time.monotonic() > deadline:
                raise BrokerUnreachable(f"the broker did not give all of {ends} in {within:.0f} s")
            yield from self.poll(0.01)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
