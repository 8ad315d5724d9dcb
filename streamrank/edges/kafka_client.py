"""Records, the connection, and questions to a broker: what source, sink and reader share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient

from streamrank.edges.kafka_errors import (
    BrokerUnreachable,
    ConnectionIncomplete,
    KafkaError,
    OffsetGone,
    ReadFailed,
    TopicMissing,
)
from streamrank.settings import KafkaSection, Secrets

log = logging.getLogger(__name__)
Settings = Mapping[str, str | int]
PATIENCE = 5.0
"""Seconds that a broker gets to answer a question at the start."""
BATCH = 1000
"""Records taken from librdkafka at once."""
ID_HEADER = "id"
_FOR_CONSUMERS = ("group.id",)
_FOR_PRODUCERS = ("message.timeout.ms",)
_PASSING = (
    Code._UNKNOWN_PARTITION,
    Code.UNKNOWN_TOPIC_OR_PART,
    Code.LEADER_NOT_AVAILABLE,
    Code.NOT_LEADER_FOR_PARTITION,
    Code.NOT_COORDINATOR,
    Code.COORDINATOR_NOT_AVAILABLE,
    Code.COORDINATOR_LOAD_IN_PROGRESS,
)
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A record as it was read.

    Examples:
        >>> Incoming("events", 3, 17, b"{}").origin
        'events[3]@17'
    """

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None = None
    received: float = 0.0  # epoch ms

    @property
    def origin(self) -> str:
        """Where the record came from."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to write.

    One with an `id` carries it as a header, and is in the topic once even after a crash.
    """

    key: str
    value: bytes
    id: str | None = None


class Connection(dict[str, str | int]):
    """librdkafka's settings; its text shows no password."""

    def __repr__(self) -> str:
        shown = {key: "***" if "password" in key else value for key, value in self.items()}
        return f"Connection({shown})"

    __str__ = __repr__


def connection(section: KafkaSection, secrets: Secrets) -> Connection:
    """Return librdkafka's settings for the configured broker.

    Args:
        section: The `[kafka]` table.
        secrets: Passwords from the environment.

    Raises:
        ConnectionIncomplete: The protocol needs a name, a password or a mechanism not given.

    Examples:
        >>> found = connection(KafkaSection(bootstrap_servers="kafka:9092"), Secrets())
        >>> found["bootstrap.servers"], found["security.protocol"]
        ('kafka:9092', 'PLAINTEXT')
    """
    given: dict[str, object] = {
        "bootstrap.servers": section.bootstrap_servers,
        "security.protocol": section.security_protocol,
        "group.id": section.group,
        "message.timeout.ms": round(section.delivery_timeout.total_seconds() * 1000),
    }
    if section.security_protocol in ("SSL", "SASL_SSL"):
        given |= {
            "ssl.ca.location": section.ssl_ca_location,
            "ssl.certificate.location": section.ssl_certificate_location,
            "ssl.key.location": section.ssl_key_location,
            "ssl.key.password": secrets.ssl_key_password
            and secrets.ssl_key_password.get_secret_value(),
        }
    if section.security_protocol.startswith("SASL"):
        given |= _sasl(section, secrets)
    return Connection(
        (key, value if isinstance(value, int) else str(value))
        for key, value in given.items()
        if value is not None
    )


def _sasl(section: KafkaSection, secrets: Secrets) -> dict[str, object]:
    needed = {
        "kafka.sasl_mechanism": section.sasl_mechanism,
        "kafka.sasl_username": section.sasl_username,
        "the environment variable STREAMRANK_SASL_PASSWORD": secrets.sasl_password,
    }
    missing = [name for name, value in needed.items() if value is None]
    if missing or secrets.sasl_password is None:
        raise ConnectionIncomplete(
            f"kafka.security_protocol {section.security_protocol} needs {' and '.join(missing)}"
        )
    return {
        "sasl.mechanism": section.sasl_mechanism,
        "sasl.username": section.sasl_username,
        "sasl.password": secrets.sasl_password.get_secret_value(),
    }


def without(settings: Settings, *keys: str) -> dict[str, Any]:
    """Return settings without some keys, and without librdkafka's own lines on stderr."""
    kept = {key: value for key, value in settings.items() if key not in keys}
    return {"log_level": 2, "error_cb": _log_error, **kept}


def _log_error(error: Code) -> None:
    log.warning("kafka: %s", error.str())


def for_admin(settings: Settings) -> dict[str, Any]:
    """Return what an admin client takes of a connection."""
    return without(settings, *_FOR_CONSUMERS, *_FOR_PRODUCERS)


def for_producer(settings: Settings) -> dict[str, Any]:
    """Return what a producer takes of a connection."""
    return without(settings, *_FOR_CONSUMERS)


def for_consumer(settings: Settings, group: str, fetch_wait_ms: int) -> dict[str, Any]:
    """Return what a consumer takes of a connection: explicit offsets, and loud where one is gone.

    Args:
        settings: The connection.
        group: Under which progress is committed; nobody ever joins it.
        fetch_wait_ms: How long a broker may hold back an answer that has no record.
    """
    return without(settings, *_FOR_PRODUCERS) | {
        "group.id": group,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "fetch.wait.max.ms": fetch_wait_ms,
        # By default a full queue stops fetching for a whole second.
        "fetch.queue.backoff.ms": 5,
        "reconnect.backoff.max.ms": 2000,
    }


def address(settings: Settings) -> str:
    """Return where the broker should be."""
    return str(settings.get("bootstrap.servers", "?"))


class Broker:
    """Questions to a broker, answered within seconds or by a clear error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reason = ""
        self._client = AdminClient(for_admin(settings) | {"error_cb": self._note})

    def _note(self, error: Code) -> None:
        # "All brokers down" follows the reason and says less.
        if error.code() != Code._ALL_BROKERS_DOWN or not self._reason:
            self._reason = error.str()

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
            reason = self._reason or str(error.args[0].str())
            raise BrokerUnreachable(
                f"no Kafka broker answers at {address(self._settings)} "
                f"({self._settings.get('security.protocol', 'PLAINTEXT')}): {reason}"
            ) from error

    def topics(self) -> dict[str, int]:
        """Return the topics and how many partitions each has; creates none."""
        found = self.ask(lambda: self._client.list_topics(timeout=PATIENCE))
        return {name: len(topic.partitions) for name, topic in found.topics.items()}

    def embedded(self) -> bool:
        """Return whether this is librdkafka's own broker, which knows few questions."""
        found = self.ask(lambda: self._client.list_topics(timeout=PATIENCE))
        return str(found.cluster_id).startswith("mockCluster")

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


def patiently(consumer: Consumer, what: str, question: Callable[[], A]) -> A:
    """Ask until the answer is final: what is new or moves has no leader or coordinator yet.

    Raises:
        ReadFailed: The broker does not answer, or says no.
    """
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        try:
            return question()
        except KafkaException as error:
            code: Code = error.args[0]
            if code.code() not in _PASSING or time.monotonic() > deadline:
                raise ReadFailed(f"{what}: {code.str()}") from error
            consumer.poll(0.05)


def span(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Return the first offset that a partition holds and the one after its last.

    Raises:
        ReadFailed: The broker does not say.
    """
    where, what = TopicPartition(topic, partition), f"{topic}[{partition}]"
    ask = partial(consumer.get_watermark_offsets, where, timeout=2 * PATIENCE, cached=False)
    found = patiently(consumer, what, ask)
    if found is None:
        raise ReadFailed(f"{what}: no answer within {2 * PATIENCE:.0f} s")
    return found


def noted(consumer: Consumer, places: Sequence[TopicPartition]) -> list[TopicPartition]:
    """Return what the consumer's group committed for these partitions.

    Raises:
        ReadFailed: The broker does not say.
    """
    ask = partial(consumer.committed, list(places), timeout=2 * PATIENCE)
    return patiently(consumer, f"progress in {places[0].topic}", ask)


def note(consumer: Consumer, place: TopicPartition) -> None:
    """Commit a position, and wait until that is done.

    Raises:
        ReadFailed: The broker did not take it.
    """
    commit = partial(consumer.commit, offsets=[place], asynchronous=False)
    patiently(consumer, f"progress in {place.topic}[{place.partition}]", commit)


def gone(topic: str, partition: int, wanted: int, low: int, high: int) -> OffsetGone:
    """Return the error of a position that the broker does not hold."""
    what = "were deleted before they were read" if wanted < low else "never were in this topic"
    return OffsetGone(
        f"{topic}[{partition}] should be read from offset {wanted}, and the broker holds "
        f"{low} to {high}: records {what}. Nothing was skipped. Look at the topic's retention; "
        "to go on without these records, remove the flow's state and reset its consumer group"
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
        return TopicMissing(f"{topic}[{partition}] was deleted while it was read")
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
    return Incoming(topic, partition, offset, message.value() or b"", message.key(), received)


class Reader:
    """All records of some topics, in one process, without a group: for demos, letters and tests.

    Args:
        settings: The connection.
        topics: What to read; all must exist.
        from_end: Leave out what is there already.

    Raises:
        TopicMissing: A topic is not on the broker.
        BrokerUnreachable: Nobody answers.
    """

    def __init__(
        self, settings: Settings, topics: Sequence[str], *, from_end: bool = False
    ) -> None:
        counts = Broker(settings).partitions(topics)
        group = f"{settings.get('group.id', 'streamrank')}-reader"
        self._consumer = Consumer(for_consumer(settings, group, 5))
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
