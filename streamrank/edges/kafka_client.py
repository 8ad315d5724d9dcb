"""Questions to a broker, and what its answers mean: what source, sink and reader share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient, ClusterMetadata

from streamrank.edges.kafka_connection import (
    LETTER_HEADER,
    Incoming,
    Settings,
    address,
    for_admin,
)
from streamrank.edges.kafka_errors import (
    BrokerUnreachable,
    ConnectionUnusable,
    KafkaError,
    OffsetGone,
    ReadFailed,
    TopicMissing,
)

log = logging.getLogger(__name__)
STOPPING = threading.Event()
"""Once set, every source of this process ends, and its flow drains."""
PATIENCE = 5.0
"""Seconds that a broker gets to answer a question at the start."""
BATCH = 1000
"""Records taken from librdkafka at once."""
_PASSING = (
    Code._UNKNOWN_PARTITION,
    Code._NOENT,  # an admin client: "No leaders found"
    Code.UNKNOWN_TOPIC_OR_PART,
    Code.LEADER_NOT_AVAILABLE,
    Code.NOT_LEADER_FOR_PARTITION,
    Code.NOT_COORDINATOR,
    Code.COORDINATOR_NOT_AVAILABLE,
    Code.COORDINATOR_LOAD_IN_PROGRESS,
    Code.FENCED_LEADER_EPOCH,
    Code.UNKNOWN_LEADER_EPOCH,
    Code._TRANSPORT,
    Code._ALL_BROKERS_DOWN,
    Code._TIMED_OUT,
)
A = TypeVar("A")
Headers = list[tuple[str, str | bytes | None]] | dict[str, str | bytes | None]


_REFUSALS = (Code._AUTHENTICATION, Code._SSL, Code.SASL_AUTHENTICATION_FAILED)
"""No waiting helps who is not let in."""


def _note(reasons: list[Code], error: Code) -> None:
    # "All brokers down" follows the reason and says less.
    if error.code() != Code._ALL_BROKERS_DOWN or not reasons:
        reasons.append(error)


def patience_of(settings: Settings) -> float:
    """Return how many seconds a broker may be away: as long as a delivery may take."""
    return int(settings.get("message.timeout.ms", 120_000)) / 1000


def _unusable(settings: Settings, error: KafkaException) -> ConnectionUnusable:
    """Say what is wrong with a certificate or a key; librdkafka does not name a missing file."""
    files = [value for key, value in settings.items() if key.endswith(".location")]
    missing = [str(path) for path in files if not Path(str(path)).is_file()]
    said = str(error.args[0].str()).removeprefix("Failed to create admin client: ")
    gone = f"; no file {', '.join(missing)}" if missing else ""
    return ConnectionUnusable(f"the table kafka of the settings makes no connection: {said}{gone}")


class Broker:
    """Questions to a broker, answered within seconds or by a clear error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reasons: list[Code] = []
        # The callback must not hold this object: a client in a cycle dies in whatever thread the
        # garbage collector runs.
        note = partial(_note, self._reasons)
        try:
            self._client = AdminClient(for_admin(settings) | {"error_cb": note})
        except KafkaException as error:
            raise _unusable(settings, error) from error

    @property
    def client(self) -> AdminClient:
        """The admin client."""
        return self._client

    def ask(self, question: Callable[[], Any]) -> Any:
        """Ask the broker something.

        Raises:
            BrokerUnreachable: No answer within five seconds.
        """
        try:
            return question()
        except KafkaException as error:
            self._client.poll(0)
            reason = (self._reasons[-1] if self._reasons else error.args[0]).str()
            raise BrokerUnreachable(
                f"no Kafka broker answers at {address(self._settings)} "
                f"({self._settings.get('security.protocol', 'PLAINTEXT')}): {reason}"
            ) from error

    def wait(self, patience: float) -> None:
        """Wait until the broker answers.

        Args:
            patience: Seconds that it may take to come up.

        Raises:
            BrokerUnreachable: It does not answer in time, or lets nobody in.
        """
        deadline, waited = time.monotonic() + patience, False
        while True:
            try:
                self.topics()
            except BrokerUnreachable as error:
                if self._refused() or STOPPING.is_set() or time.monotonic() >= deadline:
                    raise
                if not waited:
                    log.warning("%s; waited for %.0f s (kafka.delivery_timeout)", error, patience)
                waited = True
            else:
                return

    def metadata(self) -> ClusterMetadata:
        """Return who is there, and which topics; creates none.

        Raises:
            BrokerUnreachable: No answer within five seconds, or nobody is let in.
        """
        found: ClusterMetadata = self.ask(self._listed)
        return found

    def _listed(self) -> ClusterMetadata:
        # librdkafka tries for the whole time also where the password is wrong.
        deadline, within = time.monotonic() + PATIENCE, PATIENCE / 20
        while True:
            left = deadline - time.monotonic()
            try:
                return self._client.list_topics(timeout=min(within, max(left, 0.1)))
            except KafkaException:
                self._client.poll(0)
                if left <= within or self._refused():
                    raise
                within *= 2

    def _refused(self) -> bool:
        return any(one.code() in _REFUSALS for one in self._reasons)

    def topics(self) -> dict[str, int]:
        """Return the topics and how many partitions each has; creates none."""
        return {name: len(topic.partitions) for name, topic in self.metadata().topics.items()}

    def embedded(self) -> bool:
        """Return whether this is librdkafka's own broker, which knows few questions."""
        return str(self.metadata().cluster_id).startswith("mockCluster")

    def learn(self) -> None:
        """Learn who leads what; a client that does not is refused after a broker's restart."""
        with suppress(KafkaException):
            self._client.list_topics(timeout=PATIENCE)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """Return how many partitions each of these topics has.

        Raises:
            TopicMissing: One of them is not on the broker.
        """
        found = self.topics()
        deadline = time.monotonic() + PATIENCE
        while any(found.get(name) == 0 for name in topics) and time.monotonic() < deadline:
            found = self.topics()  # just created: its partitions follow
        missing = [name for name in topics if not found.get(name)]
        if missing:
            raise TopicMissing(
                f"no topic {', '.join(missing)} on the broker at {address(self._settings)} "
                "(`streamrank topics create` makes what the settings want)"
            )
        return {name: found[name] for name in topics}


def patiently(what: str, question: Callable[[], A], patience: float = 2 * PATIENCE) -> A:
    """Ask until the answer is final: what is new or moves has no leader or coordinator yet.

    Args:
        what: What is asked about, for the error.
        question: Asks once.
        patience: Seconds after which a passing refusal is final.

    Raises:
        ReadFailed: The broker does not answer, or says no.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return question()
        except (KafkaException, TimeoutError) as error:
            code = error.args[0] if isinstance(error, KafkaException) else None
            passing = code is None or code.retriable() or code.code() in _PASSING
            if not passing or time.monotonic() > deadline:
                reason = f"no answer within {patience:.0f} s" if code is None else code.str()
                raise ReadFailed(f"{what}: {reason}") from error
            time.sleep(0.05)


def span(
    consumer: Consumer, topic: str, partition: int, patience: float = 2 * PATIENCE
) -> tuple[int, int]:
    """Return the first offset that a partition holds and the one after its last.

    Raises:
        ReadFailed: The broker does not say.
    """
    where, what = TopicPartition(topic, partition), f"{topic}[{partition}]"
    ask = partial(consumer.get_watermark_offsets, where, timeout=2 * PATIENCE, cached=False)
    found = patiently(what, ask, patience)
    if found is None:
        raise ReadFailed(f"{what}: no answer within {2 * PATIENCE:.0f} s")
    return found


def noted(
    consumer: Consumer, places: Sequence[TopicPartition], patience: float = 2 * PATIENCE
) -> list[TopicPartition]:
    """Return what the consumer's group committed for these partitions.

    Raises:
        ReadFailed: The broker does not say.
    """
    ask = partial(consumer.committed, list(places), timeout=2 * PATIENCE)
    return patiently(f"progress in {places[0].topic}", ask, patience)


def note(consumer: Consumer, place: TopicPartition, patience: float = 2 * PATIENCE) -> None:
    """Commit a position, and wait until that is done.

    Raises:
        ReadFailed: The broker did not take it.
    """
    commit = partial(consumer.commit, offsets=[place], asynchronous=False)
    patiently(f"progress in {place.topic}[{place.partition}]", commit, patience)


def gone(topic: str, partition: int, wanted: int, low: int, high: int) -> OffsetGone:
    """Return the error of a position that the broker does not hold."""
    what = "were deleted before they were read" if wanted < low else "never were in this topic"
    return OffsetGone(
        f"{topic}[{partition}] should be read from offset {wanted}, and the broker holds "
        f"{low} to {high}: records {what}. Nothing was skipped. Look at the topic's retention; "
        "to go on without these records, start the flow with `streamrank run FLOW --accept-gap`"
    )


def deleted(topic: str) -> TopicMissing:
    """Return the error of a topic that was there when the flow started."""
    return TopicMissing(
        f"{topic} must stay while a flow reads it, and was deleted "
        "(`streamrank topics create` makes what the settings want)"
    )


def failed(consumer: Consumer, message: Message, wanted: int) -> KafkaError | None:
    """Return the error that a consumer's error event means, `None` where it mends itself."""
    error = message.error()
    if error is None:
        return None
    topic, partition = message.topic() or "?", message.partition() or 0
    if error.code() == Code._AUTO_OFFSET_RESET:
        low, high = span(consumer, topic, partition)
        return gone(topic, partition, wanted, low, high)
    if error.code() in (Code.UNKNOWN_TOPIC_OR_PART, Code._UNKNOWN_TOPIC, Code._UNKNOWN_PARTITION):
        return deleted(topic)
    if error.retriable() or error.code() in (Code._TRANSPORT, Code._ALL_BROKERS_DOWN):
        log.warning("kafka: %s[%s]: %s", topic, partition, error.str())
        return None
    return ReadFailed(f"{topic}[{partition}]: {error.str()}")


def as_incoming(message: Message, received: float) -> Incoming:
    """Return a record of librdkafka's as ours; a tombstone has an empty value."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None  # noqa: S101  # a record without error has them
    assert partition is not None  # noqa: S101
    assert offset is not None  # noqa: S101
    value, key, headers = message.value() or b"", message.key(), message.headers()
    letter = named(headers, LETTER_HEADER) if headers else None
    return Incoming(topic, partition, offset, value, key, received, letter)


def named(headers: Headers, name: str) -> str | None:
    """Return a record's header, `None` where it has none of this name."""
    for key, value in headers.items() if isinstance(headers, dict) else headers:
        if key == name and value is not None:
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return None
