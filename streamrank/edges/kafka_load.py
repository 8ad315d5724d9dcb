"""Records written without waiting for each: a load for a flow that is measured."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError as Code
from confluent_kafka import Message, Producer

from streamrank.edges.kafka_client import PATIENCE
from streamrank.edges.kafka_connection import Settings, for_producer
from streamrank.edges.kafka_errors import DeliveryFailed


class Load:
    """Writes records; what the broker did not take is said with the next one.

    Args:
        settings: The connection.
    """

    def __init__(self, settings: Settings) -> None:
        self._faults: list[Code] = []
        self._producer = Producer(for_producer(settings) | {"linger.ms": 0})

    def send(self, topic: str, key: str, value: bytes) -> None:
        """Write a record.

        Raises:
            DeliveryFailed: The broker did not take this one or one before.
        """
        while True:
            try:
                self._producer.produce(topic, value, key.encode(), on_delivery=self._delivered)
                break
            except BufferError:  # full: the broker is behind
                self._producer.poll(0.05)
                self._check()
        self._producer.poll(0)
        self._check()

    def _delivered(self, error: Code | None, message: Message) -> None:
        if error is not None:
            self._faults.append(error)

    def _check(self) -> None:
        if self._faults:
            raise DeliveryFailed(f"the broker did not take a record: {self._faults[0].str()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._producer.flush(PATIENCE)
