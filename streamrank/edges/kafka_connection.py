"""Records in and out, and librdkafka's settings for the broker that `[kafka]` names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError as Code

from streamrank.edges.kafka_errors import ConnectionIncomplete
from streamrank.settings import KafkaSection, Secrets

log = logging.getLogger(__name__)
Settings = Mapping[str, str | int]
ID_HEADER = "id"
LETTER_HEADER = "letter"
"""Marks a record that was replayed, with the dead letter that it was."""
_FOR_CONSUMERS = ("group.id",)
_FOR_PRODUCERS = ("message.timeout.ms", "compression.type")


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
    letter: str | None = None  # the dead letter that it was replayed from

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
        "compression.type": section.compression,
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
