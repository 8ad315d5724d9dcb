"""What can go wrong with Kafka, and how librdkafka's errors become ours.

KafkaError
├── ConnectionIncomplete   the settings miss something that their security protocol needs
├── ConnectionUnusable     a certificate or a key cannot be read with what the settings give
├── BrokerUnreachable      nobody answers, or nobody lets us in
├── TopicMissing           a topic is not there
├── PartitionsAdded        a topic has more partitions than the flow that runs has seen
├── OffsetGone             what should be read next is no longer (or not yet) in the log
├── ReadFailed             the broker refuses to give records
├── DeliveryFailed         the broker did not take a record
└── TopicsRefused          topics could not be created
"""

from __future__ import annotations

from streamrank.errors import StreamRankError


class KafkaError(StreamRankError):
    """Kafka is not as it must be."""


class ConnectionIncomplete(KafkaError):
    """The settings miss something that their security protocol needs."""


class ConnectionUnusable(KafkaError):
    """What the settings give does not make a connection: a certificate, a key or its password."""


class BrokerUnreachable(KafkaError):
    """Nobody answers at the configured address, or nobody lets us in."""


class TopicMissing(KafkaError):
    """A topic is not on the broker."""


class PartitionsAdded(KafkaError):
    """A topic got partitions while a flow reads it: its next start reads them too."""


class OffsetGone(KafkaError):
    """The next record to read is outside what the broker holds: records would be lost silently."""


class ReadFailed(KafkaError):
    """The broker refuses to give records."""


class DeliveryFailed(KafkaError):
    """A record was not acknowledged; the flow stops and resumes from its last snapshot."""


class TopicsRefused(KafkaError):
    """The broker did not create a topic as the settings want it."""
