"""Dead letters read to their end, and records sent back marked: what `streamrank letters` does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as Code

from streamrank.edges.kafka_client import BATCH, PATIENCE, Broker, as_incoming, failed, noted, span
from streamrank.edges.kafka_connection import (
    LETTER_HEADER,
    Incoming,
    Settings,
    for_consumer,
    for_producer,
)
from streamrank.edges.kafka_errors import DeliveryFailed, ReadFailed
from streamrank.edges.kafka_sink import LARGEST

Where = tuple[str, int]
SILENCE = 30.0
"""Seconds without a record after which a partition that has more is given up."""
ANY = -1
"""Of a record's partition: where its key belongs."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A record to send, and the dead letter that it was."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    letter: str | None = None


def partitions(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each topic has.

    Raises:
        TopicMissing: One of them is not on the broker.
        BrokerUnreachable: Nobody answers.
    """
    return Broker(settings).partitions(list(topics))


def ends(settings: Settings, places: Iterable[Where]) -> dict[Where, int]:
    """Return the offset after the last record of each partition.

    Raises:
        ReadFailed: The broker does not say.
    """
    with closing(Consumer(_reading(settings))) as consumer:
        return {where: span(consumer, *where)[1] for where in places}


def progress(settings: Settings, places: Iterable[Where]) -> dict[Where, int]:
    """Return what the group of the settings committed for each partition, below 0 for nothing.

    Raises:
        ReadFailed: The broker does not say.
    """
    group = str(settings["group.id"])
    with closing(Consumer(for_consumer(settings, group, 5))) as consumer:
        found = [noted(consumer, [TopicPartition(*where)])[0] for where in places]
    return {(one.topic, one.partition): one.offset for one in found}


def to_the_end(settings: Settings, begin: Mapping[Where, int]) -> Iterator[Incoming]:
    """Read partitions up to where they end now, in no order between them.

    Args:
        settings: The connection.
        begin: From which offset on; where that is gone, from the first that is there.

    Raises:
        ReadFailed: The broker does not give the records.
    """
    with closing(Consumer(_reading(settings))) as consumer:
        spans = {where: span(consumer, *where) for where in begin}
        at = {where: max(begin[where], low) for where, (low, _) in spans.items()}
        open_ = {where for where, (_, high) in spans.items() if at[where] < high}
        consumer.assign([TopicPartition(*where, at[where]) for where in open_])
        deadline = time.monotonic() + SILENCE
        while open_:
            messages = consumer.consume(BATCH, 0.1)
            deadline = time.monotonic() + SILENCE if messages else deadline
            if time.monotonic() > deadline:
                raise ReadFailed(f"{len(open_)} partitions gave nothing within {SILENCE:.0f} s")
            for message in messages:
                where = message.topic() or "?", message.partition() or 0
                if _is_end(consumer, message, at.get(where, -1)):
                    open_.discard(where)
                elif message.error() is None and where in open_:
                    record = as_incoming(message, 0.0)
                    at[where] = record.offset + 1
                    if record.offset < spans[where][1]:
                        yield record
                    if at[where] >= spans[where][1]:
                        open_.discard(where)


def _reading(settings: Settings) -> dict[str, object]:
    group = f"{settings.get('group.id', 'streamrank')}-letters"
    return for_consumer(settings, group, 5) | {"enable.partition.eof": True}


def _is_end(consumer: Consumer, message: Message, wanted: int) -> bool:
    error = message.error()
    if error is not None and error.code() == Code._PARTITION_EOF:
        return True
    fault = failed(consumer, message, wanted)
    if fault is not None:
        raise fault
    return False


class Sender:
    """Records into topics, each acknowledged when `send` returns.

    Args:
        settings: The connection.
        patience: Seconds that the broker gets to take the records of one call.
    """

    def __init__(self, settings: Settings, patience: float = 4 * PATIENCE) -> None:
        limits = {"message.timeout.ms": round(patience * 1000), "message.max.bytes": LARGEST}
        given = for_producer(settings) | {"enable.idempotence": True, "linger.ms": 1}
        self._producer = Producer(given | limits)
        self._patience = patience

    def send(self, records: Iterable[Marked]) -> None:
        """Send records, and wait until the broker has them all.

        Raises:
            DeliveryFailed: It did not take one; others it may have.
        """
        faults: list[Code] = []

        def delivered(error: Code | None, message: Message) -> None:
            if error is not None:
                faults.append(error)

        for record in records:
            mark = [] if record.letter is None else [(LETTER_HEADER, record.letter.encode())]
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=delivered,
                    headers=list(mark),
                )
            except (KafkaException, BufferError) as error:
                raise DeliveryFailed(f"{record.topic}: {error}") from error
        left = self._producer.flush(2 * self._patience)
        if faults or left:
            said = faults[0].str() if faults else "no answer in time"
            raise DeliveryFailed(f"the broker did not take {len(faults) or left} records: {said}")

    def close(self) -> None:
        """Leave the broker."""
        self._producer.flush(self._patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
