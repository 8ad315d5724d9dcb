"""Kafka: topics into a flow and out of it, with nothing lost and nothing counted twice.

Sources resume from the offsets in their snapshots and stop loudly where one is gone
(`kafka_source`). Sinks check every delivery report and leave out what a crash made them write
before (`kafka_sink`).
"""

from __future__ import annotations

from streamrank.edges.kafka_client import STOPPING, Broker
from streamrank.edges.kafka_connection import (
    Connection,
    Incoming,
    Outgoing,
    connection,
)
from streamrank.edges.kafka_errors import (
    BrokerUnreachable,
    ConnectionIncomplete,
    ConnectionUnusable,
    DeliveryFailed,
    KafkaError,
    OffsetGone,
    PartitionsAdded,
    ReadFailed,
    TopicMissing,
    TopicsRefused,
)
from streamrank.edges.kafka_reader import Reader
from streamrank.edges.kafka_sink import KafkaSink
from streamrank.edges.kafka_source import ACCEPTING_GAPS, KafkaSource

__all__ = [
    "ACCEPTING_GAPS",
    "STOPPING",
    "Broker",
    "BrokerUnreachable",
    "Connection",
    "ConnectionIncomplete",
    "ConnectionUnusable",
    "DeliveryFailed",
    "Incoming",
    "KafkaError",
    "KafkaSink",
    "KafkaSource",
    "OffsetGone",
    "Outgoing",
    "PartitionsAdded",
    "ReadFailed",
    "Reader",
    "TopicMissing",
    "TopicsRefused",
    "connection",
]
