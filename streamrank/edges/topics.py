"""The topics as the settings want them: made, and compared with what a broker has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from streamrank.edges.kafka_client import PATIENCE, Broker
from streamrank.edges.kafka_connection import connection
from streamrank.edges.kafka_errors import TopicsRefused
from streamrank.settings import Secrets, Settings

DAY = timedelta(days=1)
RETENTION = MappingProxyType(
    {
        "events": 7 * DAY,
        "requests": 1 * DAY,
        "rankings": 7 * DAY,
        "served": DAY / 4,  # large, and joined with feedback within an hour
        "examples": 7 * DAY,
        "dead-letters": 30 * DAY,  # people look at them, not programs
    }
)
LARGEST_LETTER = 16 * 2**20
"""Bytes of a dead letter: a refused record of 12 MB, in base64."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic should be."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str] = field(default_factory=dict)


def wanted(settings: Settings) -> list[TopicSpec]:
    """Return the topics that the flows and their users share.

    Examples:
        >>> [spec.name for spec in wanted(Settings())][:3]
        ['events', 'requests', 'rankings']
        >>> wanted(Settings())[-1].config
        {'cleanup.policy': 'compact'}
    """
    kafka = settings.kafka
    specs = []
    for name, kept in RETENTION.items():
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(round(kept.total_seconds() * 1000)),
        }
        if name == "dead-letters":
            config["max.message.bytes"] = str(LARGEST_LETTER)
        full = settings.topic(name)
        specs.append(TopicSpec(full, kafka.partitions, kafka.replication, config))
    models = settings.topic("models")  # a word per version: in one partition they have an order
    return [*specs, TopicSpec(models, 1, kafka.replication, {"cleanup.policy": "compact"})]


def reach(settings: Settings, secrets: Secrets) -> str:
    """Return which brokers answer.

    Raises:
        BrokerUnreachable: None does, within seconds.
    """
    broker = Broker(connection(settings.kafka, secrets))
    found = broker.metadata()
    brokers = ", ".join(f"{one.host}:{one.port}" for one in found.brokers.values())
    return f"{len(found.brokers)} broker(s): {brokers}"


def ready(settings: Settings, secrets: Secrets) -> list[str]:
    """Wait for a broker that is coming up, as long as a delivery may take.

    Returns:
        A line for each topic with another number of partitions than the settings want. A flow
        works all the same: it reads all that there are.

    Raises:
        BrokerUnreachable: Nobody answers in time.
    """
    broker = Broker(connection(settings.kafka, secrets))
    broker.wait(settings.kafka.delivery_timeout.total_seconds())
    if broker.embedded():  # it makes topics as it likes
        return []
    there = broker.topics()
    return [
        f"{spec.name} has {there[spec.name]} partitions, wanted {spec.partitions}"
        for spec in wanted(settings)
        if there.get(spec.name, spec.partitions) != spec.partitions
    ]


def create(settings: Settings, secrets: Secrets) -> list[str]:
    """Create the topics that are missing, and leave the others as they are.

    Returns:
        Names of the topics that were created.

    Raises:
        TopicsRefused: The broker did not create one; the text says why.
        BrokerUnreachable: Nobody answers.
    """
    broker = Broker(connection(settings.kafka, secrets))
    there = broker.topics()
    missing = [_new(spec) for spec in wanted(settings) if spec.name not in there]
    if not missing:
        return []
    created, refused = [], []
    answers = broker.client.create_topics(missing, operation_timeout=2 * PATIENCE)
    for name, answer in answers.items():
        try:
            answer.result(3 * PATIENCE)
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != Code.TOPIC_ALREADY_EXISTS:  # else somebody was faster
                refused.append(f"{name}: {error.args[0].str()}")
    if refused:
        where = settings.kafka.bootstrap_servers
        raise TopicsRefused(f"topics not created at {where}: {'; '.join(refused)}")
    deadline = time.monotonic() + PATIENCE
    while not broker.topics().keys() >= set(created) and time.monotonic() < deadline:
        time.sleep(0.05)  # the controller has them, and its brokers hear of it in a moment
    return created


def remove(settings: Settings, secrets: Secrets, *, groups: Sequence[str] = ()) -> None:
    """Remove the topics with all that they hold, and groups that nobody uses any more.

    Raises:
        TopicsRefused: The broker did not remove a topic; the text says why.
        BrokerUnreachable: Nobody answers.
    """
    broker = Broker(connection(settings.kafka, secrets))
    there = [spec.name for spec in wanted(settings) if spec.name in broker.topics()]
    answers = broker.client.delete_topics(there, operation_timeout=2 * PATIENCE) if there else {}
    refused = []
    for name, answer in answers.items():
        try:
            answer.result(3 * PATIENCE)
        except KafkaException as error:
            refused.append(f"{name}: {error.args[0].str()}")
    if groups:
        for answer in broker.client.delete_consumer_groups(list(groups)).values():
            with suppress(KafkaException):  # it never was there, or is gone when it is old
                answer.result(3 * PATIENCE)
    if refused:
        where = settings.kafka.bootstrap_servers
        raise TopicsRefused(f"topics not removed at {where}: {'; '.join(refused)}")


def _new(spec: TopicSpec) -> NewTopic:
    return NewTopic(spec.name, spec.partitions, spec.replication, config=dict(spec.config))


def check(settings: Settings, secrets: Secrets) -> list[str]:
    """Compare the broker's topics with the settings.

    Returns:
        A line for each difference; none where all is as it should be.

    Raises:
        BrokerUnreachable: Nobody answers.
    """
    broker = Broker(connection(settings.kafka, secrets))
    found = broker.metadata().topics
    problems: list[str] = []
    there = []
    for spec in wanted(settings):
        if spec.name in found:
            there.append(spec)
            problems += _shape(spec, found[spec.name])
        else:
            problems.append(f"{spec.name} is missing")
    configs = _configs(broker, [spec.name for spec in there]) if there else {}
    for spec in there:
        known = configs[spec.name]
        problems += [f"{spec.name} is missing"] if known is None else _differences(spec, known)
    return problems


def _shape(spec: TopicSpec, found: TopicMetadata) -> Iterator[str]:
    count = len(found.partitions)
    if count != spec.partitions:
        yield f"{spec.name} has {count} partitions, wanted {spec.partitions}"
    copies = {len(partition.replicas) for partition in found.partitions.values()}
    if copies != {spec.replication}:
        shown = "/".join(str(number) for number in sorted(copies))
        yield f"{spec.name} has replication {shown}, wanted {spec.replication}"


def _configs(broker: Broker, names: list[str]) -> dict[str, Mapping[str, str] | None]:
    """Return the settings of topics, `None` of one that was deleted a moment ago."""
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    answers = broker.client.describe_configs(asked)

    def values(answer: Future[Mapping[str, ConfigEntry]]) -> dict[str, str] | None:
        try:
            return {key: str(entry.value) for key, entry in answer.result(2 * PATIENCE).items()}
        except KafkaException as error:
            if error.args[0].code() == Code.UNKNOWN_TOPIC_OR_PART:
                return None
            raise

    found = broker.ask(lambda: {res.name: values(answer) for res, answer in answers.items()})
    return dict(found)


def _differences(spec: TopicSpec, found: Mapping[str, str]) -> Iterator[str]:
    for key, value in spec.config.items():
        if found.get(key) != value:
            yield f"{spec.name} has {key} {found.get(key)}, wanted {value}"
