"""A writer that waits for a store that is away, for so long: then its flow stops loudly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from streamrank.edges.store import FeatureStore, Row, StoreUnreachable, Values, View

log = logging.getLogger(__name__)
PAUSE = 0.2
"""Seconds between two attempts."""


class PatientStore:
    """A feature store whose writes are tried again while it does not answer.

    Meanwhile the flow reads nothing, so nothing piles up: Kafka holds what is to come.

    Args:
        store: The store behind.
        patience: How long it may be away.
        clock: Seconds, on a clock that never goes back.
        pause: Waits for so many seconds.
    """

    def __init__(
        self,
        store: FeatureStore,
        patience: timedelta,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._patience = patience.total_seconds()
        self._clock = clock
        self._pause = pause

    @property
    def degraded(self) -> bool:
        """Whether what was read last may be old or missing."""
        return self._store.degraded

    def write(self, rows: Sequence[Row]) -> None:
        """Keep these rows; the same ones again change nothing.

        Raises:
            StoreUnreachable: The store was away for too long.
        """
        deadline = self._clock() + self._patience
        waited = False
        while True:
            try:
                self._store.write(rows)
            except StoreUnreachable as error:
                if self._clock() >= deadline:
                    raise
                if not waited:
                    log.warning("%s; tried again for %.0f s", error, self._patience)
                waited = True
                self._pause(PAUSE)
            else:
                if waited:
                    log.info("the store answers again")
                return

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Return the values by key."""
        return self._store.read(view, keys, at)

    def flush(self) -> None:
        """Flush the store behind."""
        self._store.flush()
