"""The embedded broker, and a producer that keeps within what it holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from streamrank.edges.broker import ROOM, EmbeddedBroker, HeldProducer, NoRoom, readers_of
from streamrank.edges.kafka import (
    STOPPING,
    Broker,
    Incoming,
    KafkaSink,
    KafkaSource,
    Outgoing,
    TopicMissing,
)
from streamrank.settings import KafkaSection, Settings
from tests.services import Topics, until

WAIT = timedelta(milliseconds=5)


@contextmanager
def running(flow: Dataflow) -> Iterator[list[BaseException]]:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run_main(flow, epoch_interval=timedelta(milliseconds=100))
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        STOPPING.set()
        thread.join(30)
        STOPPING.clear()
    assert not thread.is_alive()


def slow_reader(broker: str, topic: str, seen: list[bytes]) -> Dataflow:
    """Takes 2 ms for each record: far slower than a producer sends."""
    pause = threading.Event()
    flow = Dataflow("slow")
    source = KafkaSource(Topics(broker).connection, [topic], group="slow", fetch_wait=WAIT)
    records = op.input("in", flow, source)

    def look(step: str, record: Incoming) -> None:
        pause.wait(0.002)
        seen.append(record.value[:8])

    op.inspect("see", records, look)
    return flow


def number(index: int, size: int = 20_000) -> bytes:
    return f"{index:08d}".encode() + b"x" * size


def send_all(producer: HeldProducer, topic: str, payloads: Iterator[bytes]) -> int:
    refused = 0
    for index, payload in enumerate(payloads):
        while not producer.send(topic, f"user-{index % 7}", payload):
            refused += 1
            producer.wait(0.005)
    return refused


def test_topics_are_there_before_anybody_writes_to_them() -> None:
    with EmbeddedBroker(["events", "requests"]) as broker:
        broker.create(["events", "rankings"])
        found = Broker(Topics(broker.bootstrap).connection)
        assert found.topics() == {"events": 4, "requests": 4, "rankings": 4}
        with pytest.raises(TopicMissing):
            found.partitions(["served"])


def test_unheld_records_are_dropped_without_a_word() -> None:
    """The trap itself: of 20 MB in one partition about 5 MB are left, and no error came."""
    with EmbeddedBroker(["events"]) as broker:
        topics = Topics(broker.bootstrap, embedded=True)
        topics.write("events", (number(index) for index in range(1000)), partition=0)
        assert len(topics.read("events")) < 300


def test_held_back_a_producer_sends_far_more_than_the_broker_keeps_and_none_is_lost() -> None:
    """60 MB through a broker that keeps 20, to a flow that reads slowly."""
    count = 3000
    with EmbeddedBroker(["events"]) as broker:
        seen: list[bytes] = []
        connection = Topics(broker.bootstrap).connection
        with (
            running(slow_reader(broker.bootstrap, "events", seen)) as failures,
            HeldProducer(connection, {"events": ["slow"]}) as producer,
        ):
            refused = send_all(producer, "events", (number(index) for index in range(count)))
            until(lambda: len(seen) >= count or bool(failures), 60, "all records")
        assert failures == []
        assert sorted(seen) == [number(index)[:8] for index in range(count)]
        assert refused > 0  # it really had to wait


def test_without_a_running_flow_it_stops_at_what_the_broker_keeps() -> None:
    with EmbeddedBroker(["events"]) as broker:
        topics = Topics(broker.bootstrap, embedded=True)
        with HeldProducer(topics.connection, {"events": ["never-comes"]}) as producer:
            taken = 0
            while producer.send("events", "one-user", number(taken)):
                taken += 1
            for _ in range(5):
                producer.wait(0.05)
                assert not producer.send("events", "one-user", number(taken))
        assert 0.9 * ROOM < taken * 20_000 < ROOM
        assert len(topics.read("events")) == taken


def test_what_the_flows_write_for_one_another_is_not_dropped_either() -> None:
    """Small events become large rankings, which a slow second flow reads: 60 MB of them."""
    count = 1500
    with EmbeddedBroker(["events", "rankings"]) as broker:
        connection = Topics(broker.bootstrap).connection
        rank = Dataflow("rank")
        source = KafkaSource(connection, ["events"], group="rank", fetch_wait=WAIT)
        records = op.input("in", rank, source)

        def answer(record: Incoming) -> tuple[str, Outgoing]:
            key = record.value.decode()
            return key, Outgoing(key, record.value + b"x" * 40_000)

        op.output("out", op.map("rank", records, answer), KafkaSink(connection, "rankings"))
        seen: list[bytes] = []
        readers = {"events": ["rank"], "rankings": ["slow"]}
        with (
            running(rank) as rank_failures,
            running(slow_reader(broker.bootstrap, "rankings", seen)) as slow_failures,
            HeldProducer(connection, readers, outputs=["rankings"]) as producer,
        ):
            send_all(producer, "events", (f"{index:08d}".encode() for index in range(count)))
            until(lambda: len(seen) >= count or bool(slow_failures), 60, "all rankings")
        assert rank_failures == slow_failures == []
        assert sorted(seen) == [f"{index:08d}".encode() for index in range(count)]


def test_a_topic_that_no_flow_reads_takes_what_the_broker_keeps_and_then_says_so() -> None:
    with EmbeddedBroker(["letters"]) as broker:
        topics = Topics(broker.bootstrap, embedded=True)
        with HeldProducer(topics.connection, {}) as producer:
            fits = ROOM // 20_200
            assert all(producer.send("letters", "one-user", number(one)) for one in range(fits))
            with pytest.raises(NoRoom, match=r"no flow reads letters, .* of letters\[\d\] wait"):
                send_all(producer, "letters", (number(0) for _ in range(10)))
        assert len(topics.read("letters")) >= fits


def test_a_record_larger_than_the_broker_keeps_is_refused_at_once() -> None:
    with EmbeddedBroker(["events"]) as broker:
        connection = Topics(broker.bootstrap).connection
        with (
            HeldProducer(connection, {"events": ["g"]}) as producer,
            pytest.raises(NoRoom, match="a record for events must be within"),
        ):
            producer.send("events", "k", b"x" * (ROOM + 1))


def test_the_readers_are_those_of_the_flows() -> None:
    known = Settings(kafka=KafkaSection(prefix="shop.", group="ranker"))
    assert readers_of(known) == {
        "shop.events": ("ranker-features", "ranker-rank", "ranker-learn"),
        "shop.requests": ("ranker-rank", "ranker-learn"),
        "shop.served": ("ranker-learn",),
        "shop.rankings": ("ranker-features",),
    }
