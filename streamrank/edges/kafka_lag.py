"""How far a group is behind its topics, asked when somebody wants to know."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, TopicPartition

from streamrank.edges.kafka_client import Broker
from streamrank.edges.kafka_connection import Settings, for_consumer

FRESH = 5.0
"""Seconds for which an answer is good: whoever scrapes often does not ask the broker as often."""


class Lag:
    """The records that a group has not committed yet, by partition.

    Args:
        settings: The connection.
        topics: Which topics; all must exist.
        group: Whose progress it is.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], group: str) -> None:
        self._settings, self._topics, self._group = settings, tuple(topics), group
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        self._places: list[TopicPartition] = []
        self._known: dict[tuple[str, int], int] = {}
        self._asked = -FRESH

    def __call__(self) -> Mapping[tuple[str, int], int]:
        """Return the lag, at most some seconds old."""
        with self._lock:
            if time.monotonic() - self._asked >= FRESH:
                self._known = self._ask()
                self._asked = time.monotonic()
            return self._known

    def _ask(self) -> dict[tuple[str, int], int]:
        if self._consumer is None:
            counts = Broker(self._settings).partitions(self._topics)
            self._places = [TopicPartition(t, part) for t, n in counts.items() for part in range(n)]
            self._consumer = Consumer(for_consumer(self._settings, self._group, 5))
        found = {}
        for place in self._consumer.committed(self._places, timeout=2):
            ends = self._consumer.get_watermark_offsets(
                TopicPartition(place.topic, place.partition), timeout=2, cached=False
            )
            low, high = ends or (0, 0)
            found[place.topic, place.partition] = high - max(place.offset, low)
        return found
