"""A Bytewax sink that knows what the broker took, and what was written before a crash.

Each partition of the topic is a partition of the sink, so one worker alone writes to it. Its
snapshot waits until everything is acknowledged and holds the offset after the last record. After
a crash the flow works again on what it did since that snapshot; the sink first reads what is in
the topic from there on, and leaves out the records whose `id` it finds.

In the same way a sink goes on, within a run, when librdkafka gives up a producer. A broker that
starts again knows the last batch alone of each producer, so those before it, taken by the broker
while its answer was lost, are refused when they come again; to a producer this is fatal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, Message, Producer

from streamrank.by_thread import ByThread
from streamrank.edges.kafka_client import PATIENCE, Broker, patience_of
from streamrank.edges.kafka_connection import (
    ID_HEADER,
    Outgoing,
    Settings,
    for_producer,
)
from streamrank.edges.kafka_errors import DeliveryFailed
from streamrank.edges.kafka_history import History
from streamrank.events import DeadLetter

log = logging.getLogger(__name__)
Written = tuple[int, tuple[str, ...]]
"""Offset after the last record, and ids beyond it that may come once more after a crash."""
Headers = list[tuple[str, str | bytes | None]]
REMEMBER = 3600.0
"""Seconds after a restart within which what was done before the crash has come again."""
_GIVEN_UP = (
    *(Code._FATAL, Code._PURGE_QUEUE, Code._PURGE_INFLIGHT, Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
    *(Code.UNKNOWN_PRODUCER_ID, Code.INVALID_PRODUCER_EPOCH),
)
"""What is wrong with the producer, and not with the record."""
LARGEST = 64 * 2**20
"""Bytes of a record that the producer lets through; the topic's own limit decides."""
MOST_WAITING = 96 * 2**20
"""Bytes of records that wait for a broker that is away: with more of them the flow waits too."""


class KafkaSink(FixedPartitionedSink[Outgoing, Written]):
    """Records into a topic, by key: nothing unacknowledged passes a snapshot.

    Keys go to the partitions that librdkafka's own partitioner chooses. Records are in the topic
    once, even after a crash, where they have an `id` and the flow keeps its state; others at
    least once.

    Args:
        connection: librdkafka's settings; `message.timeout.ms` is how long a delivery may take.
        topic: Where the records go; must exist.
        letters: The topic of the dead letters: a record that is too large for the broker is
            told of there and left out. Without it such a record stops the flow.
    """

    def __init__(self, connection: Settings, topic: str, *, letters: str | None = None) -> None:
        self._connection = connection
        self._topic = topic
        self._letters = letters
        self._own: ByThread[tuple[Broker, _Writer]] = ByThread()

    def list_parts(self) -> list[str]:
        """Return one key per partition; sorted, they are in the partitions' order.

        Raises:
            BrokerUnreachable: Nobody answers for as long as a delivery may take.
            TopicMissing: The topic is not on the broker.
        """
        broker, _ = self._clients()
        broker.wait(patience_of(self._connection))
        count = broker.partitions([self._topic])[self._topic]
        return [f"{self._topic}[{index:06d}]" for index in range(count)]

    def part_fn(self, item_key: str) -> int:
        """Return the hash by which librdkafka spreads keys."""
        return crc32(item_key.encode())

    def build_part(
        self, step_id: str, for_part: str, resume_state: Written | None
    ) -> StatefulSinkPartition[Outgoing, Written]:
        """Open a partition; after a crash, read what was written to it since the snapshot."""
        index = int(for_part[len(self._topic) + 1 : -1])
        group = f"{self._connection.get('group.id', 'streamrank')}-{step_id}-{index}"
        broker, writer = self._clients()
        history = History(self._connection, broker, self._topic, index, group)
        written = history.begin() if resume_state is None else history.since(*resume_state)
        return _Partition(writer, self._topic, index, history, *written, self._letters)

    def _clients(self) -> tuple[Broker, _Writer]:
        # For each worker thread its own: a producer's reports then come in that thread alone.
        clients = self._own.get()
        if clients is None:
            limits = {
                "message.max.bytes": LARGEST,
                "queue.buffering.max.kbytes": MOST_WAITING >> 10,
            }
            settings = {"enable.idempotence": True, "linger.ms": 0, **limits}
            writer = _Writer(settings | for_producer(self._connection))
            clients = Broker(self._connection), writer
            self._own.set(clients)
        return clients


class _Writer:
    """The producer of a worker's partitions, and another one once it is given up."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self.producer = Producer(settings)
        self.proven = False
        """Whether the broker took anything of this producer."""

    def renew(self, broken: Producer, why: Code) -> None:
        """Make another producer, unless another partition of the worker did.

        Raises:
            DeliveryFailed: Nothing was taken of the one that is broken: another would not help.
        """
        if broken is not self.producer:
            return
        if not self.proven:
            raise DeliveryFailed(f"the broker takes nothing of a new producer: {why.str()}")
        log.warning("kafka: %s; what did not land is written by another producer", why.str())
        deadline = time.monotonic() + PATIENCE
        while len(broken) and time.monotonic() < deadline:  # what is under way may land yet
            try:
                broken.flush(PATIENCE)
            except (KafkaException, SystemError) as error:
                if _fatal(error) is None:
                    raise
        self.producer, self.proven = Producer(self._settings), False


def _fatal(error: BaseException) -> Code | None:
    """Return librdkafka's word that a producer is given up, if this is it.

    It is raised from the next call of the producer, whichever that is, and a report that this
    call hands out sees a pending exception: it fails with a SystemError whose cause is the word.
    """
    if isinstance(error, SystemError) and error.__cause__ is not None:
        return _fatal(error.__cause__)
    said = error.args[0] if isinstance(error, KafkaException) else None
    return said if isinstance(said, Code) and _given_up(said) else None


def _given_up(error: Code) -> bool:
    return error.fatal() or error.code() in _GIVEN_UP


class _Open(NamedTuple):
    """A record of which the broker has not said whether it took it."""

    after: int
    """The end of what was acknowledged when it was written: it lies there or beyond."""
    id: str | None
    again: Callable[[], None]
    """Writes it, if it must be written again."""
    told: Callable[[Code | None, Message], None]


class _Partition(StatefulSinkPartition[Outgoing, Written]):
    """Writes to one partition of a topic."""

    def __init__(
        self,
        writer: _Writer,
        topic: str,
        index: int,
        history: History,
        end: int,
        written: set[str],
        letters: str | None,
    ) -> None:
        self._writer = writer
        self._producer = writer.producer
        self._topic = topic
        self._index = index
        self._history = history
        self._end = end
        self._written = written
        self._letters = letters
        self._forget = time.monotonic() + REMEMBER
        self._snapshots = 0
        self._begun = 0
        self._open: dict[int, _Open] = {}
        self._failed: DeliveryFailed | None = None
        self._large: list[Outgoing] = []

    def write_batch(self, values: list[Outgoing]) -> None:
        for record in values:
            if record.id is not None and record.id in self._written:
                self._written.discard(record.id)
            else:
                self._write(record)
        self._poll(0)
        self._one_by_one()

    def _write(self, record: Outgoing) -> None:
        headers: Headers = [] if record.id is None else [(ID_HEADER, record.id.encode())]
        again, told = partial(self._write, record), partial(self._delivered, record)
        begun = _Open(self._end, record.id, again, told)
        try:
            self._produce(
                begun, self._topic, record.value, record.key.encode(), self._index, headers
            )
        except KafkaException as error:
            if not self._is_too_large(error.args[0]):
                raise self._failure(error.args[0].str()) from error
            self._set_aside(record)

    def _produce(
        self,
        begun: _Open,
        topic: str,
        value: bytes,
        key: bytes,
        index: int = -1,
        headers: Headers | None = None,
    ) -> None:
        while True:
            number = self._begun = self._begun + 1
            report = partial(self._report, number)
            try:
                self._producer.produce(
                    topic, value, key, index, on_delivery=report, headers=headers or []
                )
            except BufferError:  # full: the flow waits for the broker
                self._poll(0.05)
            except KafkaException as error:
                if (why := _fatal(error)) is None:
                    raise
                self._start_over(why)
            else:
                self._open[number] = begun
                return

    def _poll(self, seconds: float) -> None:
        """Take reports in."""
        if self._producer is not self._writer.producer:
            self._write_again()
        try:
            self._producer.poll(seconds)
        except (KafkaException, SystemError) as error:
            if (why := _fatal(error)) is None:
                raise
            self._start_over(why)
        self._raise_failed()

    def _start_over(self, why: Code) -> None:
        self._writer.renew(self._producer, why)
        self._write_again()

    def _write_again(self) -> None:
        """Write by the new producer, in the same order, what is open and did not land."""
        self._producer = self._writer.producer
        left, self._open = list(self._open.values()), {}
        if not left:
            return
        self._end, landed = self._history.since(min(one.after for one in left), ())
        for one in left:
            if one.id is None or one.id not in landed:
                one.again()

    def _report(self, number: int, error: Code | None, message: Message) -> None:
        if number in self._open and (error is None or not _given_up(error)):
            self._open.pop(number).told(error, message)

    def _delivered(self, record: Outgoing, error: Code | None, message: Message) -> None:
        if error is None:
            self._writer.proven = True
            self._landed(message.offset())
        elif self._is_too_large(error):
            self._large.append(record)
        else:
            self._failed = self._failed or self._failure(error.str())

    def _landed(self, offset: int | None) -> None:
        # None: the broker had it already, and no longer knows where. The next one tells.
        if offset is None:
            return
        # Whoever makes a topic by writing to it makes it as the broker likes, with other settings.
        if offset < self._end:
            self._failed = self._failed or self._failure(
                f"it was deleted and is new, with {offset} for {self._end} as the next offset "
                "(`streamrank topics check`)"
            )
        self._end = offset + 1

    # --- what is too large ----------------------------------------------------------------

    def _is_too_large(self, error: Code) -> bool:
        return error.code() == Code.MSG_SIZE_TOO_LARGE and self._letters is not None

    def _one_by_one(self) -> None:
        """Write again, each by itself, what was refused: the broker judges whole batches."""
        while self._large:
            self._settle()
            record = self._large.pop(0)
            others = len(self._large)
            self._write(record)
            self._settle()
            if len(self._large) > others:
                self._set_aside(self._large.pop())

    def _set_aside(self, record: Outgoing) -> None:
        """Tell of a record that is too large: after a restart it would be so again."""
        origin = f"{self._topic}[{self._index}]"
        rule = f"must fit into a record of {self._topic} (max.message.bytes)"
        reason = f"{record.id}: {rule}, got {len(record.value)} bytes"
        log.error("%s: %s", origin, reason)
        now = time.time_ns() // 1_000_000
        letter = DeadLetter(reason=reason, origin=origin, payload=b"", timestamp=now)
        self._tell(letter.encode())

    def _tell(self, letter: bytes) -> None:
        assert self._letters is not None  # noqa: S101  # see `_is_too_large`
        begun = _Open(self._end, None, partial(self._tell, letter), self._told)
        self._produce(begun, self._letters, letter, f"{self._topic}[{self._index}]".encode())

    def _told(self, error: Code | None, message: Message) -> None:
        if error is not None:
            self._failed = self._failed or self._failure(error.str())

    def _settle(self) -> None:
        while self._open:
            self._poll(1.0)
        self._raise_failed()

    def _failure(self, why: str) -> DeliveryFailed:
        return DeliveryFailed(
            f"{self._topic}[{self._index}]: the broker did not take a record: {why}; "
            "the flow must be started again and works from its last snapshot on"
        )

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise self._failed

    def snapshot(self) -> Written:
        self._settle()
        self._one_by_one()
        self._settle()
        self._snapshots += 1
        if self._snapshots == 2:
            self._history.settled()  # Bytewax asks again only once the epoch before is complete
        if self._written and time.monotonic() > self._forget:
            self._written = set()
        return self._end, tuple(self._written)

    def close(self) -> None:
        self._producer.flush(PATIENCE)
