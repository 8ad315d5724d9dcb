"""Writing single records without a flow."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, Message, Producer

from streamrank.edges.kafka_client import PATIENCE, Broker
from streamrank.edges.kafka_connection import Settings, for_producer
from streamrank.edges.kafka_errors import DeliveryFailed


class Writer:
    """Records into a topic, one at a time, each acknowledged before the next.

    Args:
        settings: The connection.
        topic: Where the records go.
        patience: Seconds that the broker gets to take a record.
        wait: Seconds that it may take to come up.

    Raises:
        TopicMissing: The topic is not on the broker.
        BrokerUnreachable: Nobody answers.
    """

    def __init__(
        self, settings: Settings, topic: str, patience: float = PATIENCE, *, wait: float = 0.0
    ) -> None:
        broker = Broker(settings)
        broker.wait(wait)
        broker.partitions([topic])  # or a careless broker would make the topic
        self._topic, self._patience = topic, patience
        limits = {"message.timeout.ms": round(patience * 1000), "linger.ms": 0}
        self._producer = Producer(for_producer(settings) | {"enable.idempotence": True} | limits)

    def write(self, key: str, value: bytes) -> None:
        """Write a record, and wait until the broker has it.

        Raises:
            DeliveryFailed: The broker did not take it in time; it may have it all the same.
        """
        reports: list[Code | None] = []

        def delivered(error: Code | None, message: Message) -> None:
            reports.append(error)

        try:
            self._producer.produce(self._topic, value, key.encode(), on_delivery=delivered)
        except (KafkaException, BufferError) as error:
            raise DeliveryFailed(f"{self._topic}: {error}") from error
        self._producer.flush(2 * self._patience)
        failed = reports[0] if reports else Code(Code._TIMED_OUT)
        if failed is not None:  # never `==`: librdkafka's errors raise where compared with None
            said = failed.str()
            raise DeliveryFailed(f"{self._topic}: the broker did not take a record: {said}")

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
