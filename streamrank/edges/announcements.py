"""Which version serves, told to everybody who runs: the compacted topic `models`.

Topic and registry say the same, the topic at once and the registry to whoever looks: the pointer
(`registry.point`, `registry.rollback`) is moved first, then it is announced.  A listener hears
both and follows the newest word, so a worker that starts late, or one whose broker does not
answer, comes to the same version as all others.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from streamrank.edges import registry
from streamrank.edges.kafka_connection import Incoming, Settings
from streamrank.edges.kafka_errors import KafkaError
from streamrank.edges.kafka_reader import Reader
from streamrank.edges.kafka_writer import Writer
from streamrank.errors import StreamRankError
from streamrank.events import Announcement
from streamrank.values import reason as reason_of

log = logging.getLogger(__name__)
_ANNOUNCEMENT: TypeAdapter[Announcement] = TypeAdapter(Announcement)
WAIT = 0.1
"""Seconds between two looks at whether to stop, and for which a broker may have nothing to say."""
PATIENCE = 2.0
"""Seconds that a listener gets to stop; one that waits for a dead broker ends by itself."""


def milliseconds(at: datetime) -> int:
    """Return a time as messages carry it."""
    return round(at.timestamp() * 1000)


class Announcer:
    """Says which version serves now.

    Args:
        connection: librdkafka's settings.
        topic: The full name of topic `models`.
        wait: Seconds that a broker may take to come up.

    Raises:
        TopicMissing: The topic is not on the broker.
        BrokerUnreachable: Nobody answers.
    """

    def __init__(self, connection: Settings, topic: str, *, wait: float = 0.0) -> None:
        self._writer = Writer(connection, topic, wait=wait)

    def announce(self, name: str, version: str, digest: str, reason: str, at: datetime) -> None:
        """Tell everybody that a version serves, after the registry's pointer was moved to it.

        Args:
            name: The model.
            version: What serves.
            digest: `Manifest.digest` of it: listeners follow only to that graph.
            reason: Why.
            at: Since when.

        Raises:
            DeliveryFailed: The broker did not take it; listeners see the pointer when they poll.
        """
        word = Announcement(
            name=name, version=version, timestamp=milliseconds(at), digest=digest, reason=reason
        )
        self._writer.write(name, word.encode())

    def close(self) -> None:
        """Leave the broker."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Word:
    """What somebody said, and when."""

    at: int
    version: str
    reason: str


class Listener:
    """Hears which version serves, in a thread of its own, and passes it on.

    Args:
        connection: librdkafka's settings.
        topic: The full name of topic `models`.
        root: The registry.
        name: The model.
        follow: Called with version and reason whenever another version shall serve than it was
            called with last; it must not take long.
        poll: How often the registry is looked at besides, and a topic that cannot be read is
            tried again.

    Attributes:
        refused: Announcements so far that were none, or whose digest is not the registry's.
    """

    def __init__(
        self,
        connection: Settings,
        topic: str,
        root: str | Path,
        name: str,
        follow: Callable[[str, str], None],
        *,
        poll: timedelta = timedelta(seconds=10),
    ) -> None:
        self.refused = 0
        self._connection, self._topic = connection, topic
        self._root, self._name = root, name
        self._follow = follow
        self._poll = poll.total_seconds()
        self._last = _Word(0, "", "")
        self._reader: Reader | None = None
        self._said: dict[str, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-listener", daemon=True)

    def start(self) -> Self:
        """Begin to listen; it ends with `close`, or else with the process."""
        self._thread.start()
        atexit.register(self.close)
        return self

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._thread.join(PATIENCE)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        look, reopen = 0.0, 0.0
        while not self._ended.is_set():
            now = time.monotonic()
            if now >= look:
                self._look()
                look = now + self._poll
            if self._reader is None and now >= reopen:
                self._open()
                reopen = now + self._poll
            self._hear()
        if self._reader is not None:
            self._reader.close()

    # --- the registry -------------------------------------------------------------------------

    def _look(self) -> None:
        try:
            stands = registry.standing(self._root, self._name)
            version = registry.current(self._root, self._name)
        except StreamRankError as error:
            self._complain("registry", str(error))
            return
        self._said.pop("registry", None)
        if version is None:
            return
        if stands is None:
            self._take(_Word(0, version, "the newest version that may serve"))
        else:
            self._take(_Word(milliseconds(stands.at), version, stands.reason))

    # --- the topic ----------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._reader = Reader(self._connection, [self._topic], fetch_wait=WAIT)
        except KafkaError as error:
            self._complain("topic", f"{error}; the registry is polled every {self._poll:g} s")
        else:
            self._said.pop("topic", None)

    def _hear(self) -> None:
        if self._reader is None:
            self._ended.wait(WAIT)
            return
        try:
            records = self._reader.poll(WAIT)
        except KafkaError as error:
            self._complain("topic", f"{error}; the registry is polled every {self._poll:g} s")
            self._reader.close()
            self._reader = None
            return
        for record in records:
            if record.key == self._name.encode() and record.value:
                self._read(record)

    def _read(self, record: Incoming) -> None:
        try:
            word = _ANNOUNCEMENT.validate_json(record.value)
        except ValidationError as error:
            self._refuse(record, reason_of(error))
            return
        known = self._digest(word.version)
        if known is not None and word.digest != known:
            rule = f"the digest of {word.version} must be {known}, as the registry has it"
            self._refuse(record, f"{rule}, got {word.digest}")
            return
        self._take(_Word(word.timestamp, word.version, word.reason))

    def _digest(self, version: str) -> str | None:
        """Return the digest in the registry; where it has none now, whoever follows will see."""
        try:
            return registry.manifest(self._root, self._name, version).digest
        except StreamRankError:
            return None

    def _refuse(self, record: Incoming, why: str) -> None:
        self.refused += 1
        log.error("announcement %s is not followed: %s", record.origin, why)

    # --- what follows -------------------------------------------------------------------------

    def _take(self, word: _Word) -> None:
        """Follow the newest word; one dated ahead of the clock does not outlive the next."""
        at = min(word.at, time.time_ns() // 1_000_000)
        if at < self._last.at:
            return
        before, self._last = self._last, replace(word, at=at)
        if word.version == before.version:
            return
        try:
            self._follow(word.version, word.reason)
        except Exception:  # a listener that dies leaves its worker behind for ever
            log.exception("model %s: %s could not be followed", self._name, word.version)

    def _complain(self, what: str, text: str) -> None:
        """Log a trouble once, until it is over."""
        if self._said.get(what) != text:
            self._said[what] = text
            log.warning("models of %s: %s", self._name, text)
