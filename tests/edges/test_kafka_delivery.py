"""Delivery, proven on Apache Kafka: nothing lost, nothing doubled, nothing silent."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import psutil
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSource, cluster_main, run_main
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streamrank.edges.kafka import (
    ACCEPTING_GAPS,
    STOPPING,
    BrokerUnreachable,
    DeliveryFailed,
    Incoming,
    KafkaSink,
    KafkaSource,
    OffsetGone,
    Outgoing,
    PartitionsAdded,
    Reader,
    TopicMissing,
)
from streamrank.edges.kafka_sink import MOST_WAITING
from tests.edges.copying import build
from tests.services import ROOT, Kafka, Link, Topics, until

pytestmark = pytest.mark.integration


@contextmanager
def running(flow: Dataflow, epoch: timedelta = timedelta(milliseconds=100)) -> Iterator[None]:
    thread = threading.Thread(target=run_main, args=(flow,), kwargs={"epoch_interval": epoch})
    thread.start()
    try:
        yield
    finally:
        STOPPING.set()
        thread.join(30)
        STOPPING.clear()
    assert not thread.is_alive()


def numbers(first: int, last: int) -> list[bytes]:
    return [str(number).encode() for number in range(first, last)]


def end_of(topics: Topics, topic: str) -> int:
    return len(topics.values(topic))


@pytest.mark.slow
def test_killed_again_and_again_a_flow_loses_and_doubles_nothing(
    topics: Topics, tmp_path: Path
) -> None:
    """SIGKILL at random moments under load: before the first snapshot, between, in the replay."""
    source, target = topics.new("in"), topics.new("out")
    init_db_dir(tmp_path, 1)
    command = [sys.executable, "-m", "tests.edges.copying", topics.bootstrap, source, target]
    command += [str(tmp_path), "300"]
    chance = random.Random(7)
    total = 0

    def feed(count: int) -> None:
        nonlocal total
        for number in range(total, total + count):
            topics_writer.append((number % 17, str(number).encode()))
        for key in range(17):
            mine = [value for where, value in topics_writer if where == key]
            topics.write(source, mine, key=f"user-{key}")
        topics_writer.clear()
        total += count

    topics_writer: list[tuple[int, bytes]] = []
    with (tmp_path / "flow.log").open("wb") as log:
        for _ in range(8):
            before = end_of(topics, target)
            flow = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            feed(500)
            until(lambda n=before: end_of(topics, target) > n, 30, "the flow writes")  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.7))  # anywhere within an epoch or two
            feed(200)
            flow.kill()
            flow.wait()
        flow = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            until(lambda: len(set(topics.values(target))) >= total, 40, "everything came out")
        finally:
            flow.kill()
            flow.wait()
    counts = Counter(topics.values(target))
    assert set(counts) == set(numbers(0, total))  # none lost
    assert [value for value, count in counts.items() if count > 1] == []  # none doubled


def test_a_broker_that_goes_and_comes_back_costs_no_record(private_kafka: Kafka) -> None:
    """One that is coming up is waited for; one that stays away stops a sink and a source."""
    topics = Topics(private_kafka.bootstrap)
    source, target = topics.new("in"), topics.new("out")
    impatient = topics.connection | {"message.timeout.ms": 1000}
    read = KafkaSource(impatient, [source], group=f"{source}-other")
    sink = KafkaSink(impatient, target)
    with running(build(topics.bootstrap, source, target)):
        topics.write(source, numbers(0, 100), key="a")
        until(lambda: end_of(topics, target) == 100, 30, "first records")
        private_kafka.stop()
        private_kafka.start()
        topics.write(source, numbers(100, 200), key="b")
        until(lambda: end_of(topics, target) >= 200, 40, "later records")
    assert sorted(topics.values(target), key=int) == numbers(0, 200)

    part = sink.build_part("flow.out", sink.list_parts()[0], None)
    part.write_batch([Outgoing("k", b"taken")])
    part.snapshot()
    reading = [read.build_part("flow.in", place, None) for place in read.list_parts()]

    def something() -> bool:
        return any(list(one.next_batch()) for one in reading)

    until(something, 20, "a record")
    patient = KafkaSource(topics.connection, [source], group=f"{source}-patient")
    place, *_ = patient.list_parts()
    private_kafka.stop(kill=True)
    part.write_batch([Outgoing("k", b"not taken")])
    begun = time.monotonic()
    with pytest.raises(DeliveryFailed, match=rf"{target}\[0\].*last snapshot"):
        part.snapshot()
    assert time.monotonic() - begun < 15
    with pytest.raises(BrokerUnreachable, match=r"has answered at .* for 1 s"):
        until(lambda: something() and False, 60, "an end")
    for one in reading:
        one.close()

    coming = threading.Thread(target=private_kafka.start)
    coming.start()
    opened = patient.build_part("flow.in", place, None)
    assert patient.list_parts() == [f"{source}[{index}]" for index in range(4)]
    coming.join()
    opened.close()


def test_what_a_broker_took_without_its_answer_coming_through_is_there_once_when_it_is_back(
    linked_kafka: tuple[Kafka, Link], caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses all but the last batch that it had, and librdkafka then gives the producer up."""
    kafka, link = linked_kafka
    topics = Topics(f"127.0.0.1:{link.port}")
    target = topics.new("out", partitions=2)
    sink = KafkaSink(topics.connection | {"message.timeout.ms": 60_000}, target)
    one, two = (sink.build_part("flow.out", place, None) for place in sink.list_parts())
    one.write_batch([Outgoing("a", b"first")])
    one.snapshot()
    link.losing.set()
    taken = kafka.folder / "data" / f"{target}-0" / f"{0:020}.log"
    for number in numbers(0, 4):  # each a batch of its own
        size = taken.stat().st_size
        one.write_batch([Outgoing("a", number, number.decode())])
        until(lambda n=size: taken.stat().st_size > n, 10, "it is taken")  # type: ignore[misc]
    kafka.stop(kill=True)
    two.write_batch([Outgoing("b", b"other", "other"), Outgoing("b", b"without an id")])
    link.losing.clear()
    kafka.start()
    one.write_batch([Outgoing("a", b"last", "last")])
    ends = [part.snapshot() for part in (one, two)]
    assert "desynchronization" in caplog.text  # this is what happened
    assert "what did not land is written by another producer" in caplog.text
    values = topics.values(target)
    others = [b"other", b"without an id"]
    assert [value for value in values if value in others] == others
    assert [value for value in values if value not in others] == [
        *(b"first", *numbers(0, 4), b"last")
    ]
    assert ends == [(6, ()), (2, ())]


SIZE, COUNT = 200_000, 1_000
"""Records of more bytes than may wait for a broker: 200 MB."""


def test_while_a_broker_is_away_a_flow_holds_only_so_much_for_it_and_then_waits(
    private_kafka: Kafka,
) -> None:
    topics = Topics(private_kafka.bootstrap)
    target = topics.new("out", partitions=1)
    sink = KafkaSink(topics.connection | {"message.timeout.ms": 120_000}, target)
    part = sink.build_part("flow.out", sink.list_parts()[0], None)
    part.write_batch([Outgoing("k", b"taken")])
    part.snapshot()
    written = [0]

    def write() -> None:
        for number in range(COUNT):
            part.write_batch([Outgoing("k", number.to_bytes(4) * (SIZE // 4), str(number))])
            written[0] = number + 1

    assert private_kafka.process is not None
    process = psutil.Process()
    before = process.memory_info().rss
    writer = threading.Thread(target=write)
    private_kafka.process.send_signal(signal.SIGSTOP)
    try:
        writer.start()
        until(lambda: written[0] * SIZE > MOST_WAITING // 2, 60, "much is written")
        writer.join(2)
        assert writer.is_alive()  # it waits
        waiting, held = written[0] * SIZE, process.memory_info().rss - before
    finally:
        private_kafka.process.send_signal(signal.SIGCONT)
        writer.join(60)
    assert waiting <= MOST_WAITING + 2 * SIZE
    assert held < 2.5 * MOST_WAITING  # each once here and once in librdkafka
    assert part.snapshot()[0] == COUNT + 1
    part.close()
    found = [value[:4] for value in topics.values(target)]
    assert found[1:] == [number.to_bytes(4) for number in range(COUNT)]


def test_progress_that_no_broker_takes_does_not_hold_a_flow_that_ends(
    private_kafka: Kafka,
) -> None:
    topics = Topics(private_kafka.bootstrap)
    topic = topics.new(partitions=1)
    topics.write(topic, numbers(0, 10))
    short = topics.connection | {"message.timeout.ms": 2_000}
    part = KafkaSource(short, [topic], group=f"{topic}-group").build_part("in", f"{topic}[0]", 0)
    until(lambda: bool(part.next_batch()), 30, "a record")
    private_kafka.stop(kill=True)
    part.snapshot()
    with pytest.raises(BrokerUnreachable):
        until(lambda: bool(part.next_batch()), 30, "the end of the patience")
    begun = time.monotonic()
    part.close()
    assert time.monotonic() - begun < 10  # by itself librdkafka waits for 45 s, or for ever


def test_records_deleted_by_retention_stop_the_flow_loudly(topics: Topics) -> None:
    topic = topics.new(partitions=1)
    topics.write(topic, numbers(0, 100))
    client = AdminClient({"bootstrap.servers": topics.bootstrap})
    for done in client.delete_records([TopicPartition(topic, 0, 60)]).values():
        done.result(20)
    read = KafkaSource(topics.connection, [topic], group=f"{topic}-group")
    with pytest.raises(OffsetGone) as caught:
        read.build_part("flow.in", f"{topic}[0]", 40)
    assert f"{topic}[0] should be read from offset 40" in str(caught.value)
    assert "holds 60 to 100: records were deleted before they were read" in str(caught.value)
    part = read.build_part("flow.in", f"{topic}[0]", 60)
    got: list[Incoming] = []

    def all_left() -> bool:
        got.extend(part.next_batch())
        return len(got) >= 40

    until(all_left, 10, "what is left")
    part.close()
    assert [one.value for one in got] == numbers(60, 100)


def test_a_gap_that_is_accepted_is_named_and_skipped(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topics.new(partitions=1)
    topics.write(topic, numbers(0, 100))
    client = AdminClient({"bootstrap.servers": topics.bootstrap})
    for done in client.delete_records([TopicPartition(topic, 0, 60)]).values():
        done.result(20)
    read = KafkaSource(topics.connection, [topic], group=f"{topic}-group")
    with pytest.raises(OffsetGone, match="--accept-gap"):
        read.build_part("flow.in", f"{topic}[0]", 40)
    ACCEPTING_GAPS.set()
    try:
        part = read.build_part("flow.in", f"{topic}[0]", 40)
    finally:
        ACCEPTING_GAPS.clear()
    assert part.snapshot() == 60
    part.close()
    assert f"{topic}[0]: records 40 to 59 skipped, as accepted; on from 60" in caplog.text


def test_a_record_that_the_broker_finds_too_large_is_told_of_and_stops_nothing(
    topics: Topics,
) -> None:
    """Those that were sent in one batch with it are written."""
    target = topics.new("out", partitions=1, max_message_bytes="2000")
    letters = topics.new("dead-letters", partitions=1)
    sink = KafkaSink(topics.connection, target, letters=letters)
    part = sink.build_part("flow.out", f"{target}[000000]", None)
    sizes = {"a": 10, "b": 5000, "c": 20, "d": 30}
    part.write_batch([Outgoing("k", b"x" * size, name) for name, size in sizes.items()])
    assert part.snapshot()[0] == 3
    part.close()
    assert sorted(len(value) for value in topics.values(target)) == [10, 20, 30]
    [letter] = [json.loads(value) for value in topics.values(letters)]
    assert letter["reason"] == (
        f"b: must fit into a record of {target} (max.message.bytes), got 5000 bytes"
    )
    assert letter["origin"] == f"{target}[0]"


def test_a_topic_that_shrank_below_the_snapshot_stops_the_flow_loudly(topics: Topics) -> None:
    """Deleted and made anew: the stock source jumps to its end."""
    topic = topics.new(partitions=1)
    topics.write(topic, numbers(0, 5))
    read = KafkaSource(topics.connection, [topic], group=f"{topic}-group")
    with pytest.raises(OffsetGone, match="never were in this topic"):
        read.build_part("flow.in", f"{topic}[0]", 1000)


def polled(topics: Topics, topic: str) -> Callable[[], bool]:
    """Return what asks a source of a topic for records, and looks at the topic all the time."""
    look = timedelta(milliseconds=50)
    read = KafkaSource(topics.connection, [topic], group=f"{topic}-group", look=look)
    parts = [read.build_part("flow.in", where, None) for where in read.list_parts()]
    return lambda: any(list(part.next_batch()) for part in parts)


def test_partitions_that_a_topic_gains_stop_the_flow_which_then_reads_them(topics: Topics) -> None:
    topic = topics.new(partitions=1)
    something = polled(topics, topic)
    assert not something()
    client = AdminClient({"bootstrap.servers": topics.bootstrap})
    client.create_partitions([NewPartitions(topic, 3)])[topic].result(20)
    with pytest.raises(
        PartitionsAdded, match=f"{topic} must keep its 1 partitions.*and has 3: start the flow"
    ):
        until(something, 20, "an end")
    topics.write(topic, [b"1"], partition=2)
    until(polled(topics, topic), 20, "a record of the new partition")


def test_a_topic_that_is_deleted_under_a_running_flow_stops_it_and_is_named(
    topics: Topics,
) -> None:
    topic, target = topics.new(partitions=1), topics.new("out", partitions=1)
    something = polled(topics, topic)
    sink = KafkaSink(topics.connection | {"message.timeout.ms": 2000}, target)
    part = sink.build_part("flow.out", sink.list_parts()[0], None)
    part.write_batch([Outgoing("k", b"taken")])
    part.snapshot()
    assert not something()
    client = AdminClient({"bootstrap.servers": topics.bootstrap})
    for deletion in client.delete_topics([topic, target]).values():
        deletion.result(20)
    with pytest.raises(TopicMissing, match=f"{topic} must stay while a flow reads it"):
        until(something, 20, "an end")

    def written() -> bool:
        """The broker makes the topic once more, since somebody writes to it."""
        part.write_batch([Outgoing("k", b"lost")])
        part.snapshot()
        return False

    with pytest.raises(
        DeliveryFailed, match=rf"{target}\[0\]: .*it was deleted and is new, with 0 for 1"
    ):
        until(written, 20, "an end")


def test_asking_for_a_missing_topic_does_not_make_it(topics: Topics) -> None:
    """The broker makes topics that a careless client asks for, with one partition."""
    with pytest.raises(TopicMissing, match="no-such-topic"):
        KafkaSource(topics.connection, ["no-such-topic"], group="g").list_parts()
    with pytest.raises(TopicMissing, match="no-such-topic"):
        KafkaSink(topics.connection, "no-such-topic").list_parts()
    client = AdminClient({"bootstrap.servers": topics.bootstrap})
    assert "no-such-topic" not in client.list_topics(timeout=10).topics


def test_lag_tools_see_the_progress_of_the_group_and_no_leftover_groups(topics: Topics) -> None:
    source, target = topics.new("in"), topics.new("out", partitions=1)
    client = AdminClient({"bootstrap.servers": topics.bootstrap})

    def groups() -> set[str]:
        found = client.list_consumer_groups().result(20)
        return {one.group_id for one in found.valid}

    with running(build(topics.bootstrap, source, target)):
        for first in range(0, 300, 100):  # over several epochs, so that the sink settles
            topics.write(source, numbers(first, first + 100), key="a")
            until(lambda n=first: end_of(topics, target) == n + 100, 30, "copies")  # type: ignore[misc]
            partition = topics.read(source)[0].partition() or 0
            until(
                lambda n=first, p=partition: (  # type: ignore[misc]
                    topics.committed(f"{source}-copying", source, p) == n + 100
                ),
                10,
                "progress",
            )
    assert f"{source}-copying" in groups()
    assert "streamrank-copying.out-0" not in groups()


def test_idle_partitions_cost_no_latency(topics: Topics) -> None:
    """Round trips with 60 idle partitions beside the busy ones, against those with none."""

    def median(idle: int) -> float:
        source, target = topics.new("in"), topics.new("out")
        names = [source] + ([topics.new("idle", partitions=idle)] if idle else [])
        flow = Dataflow("copying")
        connection = topics.connection
        read = op.input("in", flow, KafkaSource(connection, names, group=f"{source}-group"))
        copies = op.map("copy", read, lambda one: ("k", Outgoing("k", one.value)))
        op.output("out", copies, KafkaSink(connection, target))
        spans = []
        with running(flow), Reader(connection, [target], from_end=True) as reader:
            for number in range(60):
                begun = time.perf_counter()
                topics.write(source, [str(number).encode()], key="k")
                until(lambda: bool(reader.poll(0.5)), 20, "the answer")
                spans.append(time.perf_counter() - begun)
        return sorted(spans)[30]

    alone, crowded = median(0), median(60)
    assert crowded < 2 * alone + 0.003


def clients() -> int:
    """Count librdkafka's clients in this process: each has a thread of this name."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended since
            found += (task / "comm").read_text() == "rdk:main\n"
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in /proc on Linux")
def test_a_worker_of_several_has_one_pair_of_clients_for_all_its_partitions(
    topics: Topics,
) -> None:
    """Python forgets Bytewax's workers between two steps, and with them what is `local`.

    Whoever builds the flow has a pair as well: one that asks, and one that writes.
    """
    target, before, held = topics.new("out", partitions=12), clients(), list[int]()
    sink = KafkaSink(topics.connection, target)

    def record(number: int) -> tuple[str, Outgoing]:
        held.append(clients())
        return f"u{number}", Outgoing(f"u{number}", b"x")

    flow = Dataflow("cluster")
    read = op.input("numbers", flow, TestingSource(range(60), batch_size=5))
    op.output("out", op.map("record", read, record), sink)
    cluster_main(flow, [], 0, worker_count_per_proc=2)
    assert end_of(topics, target) == 60
    assert 0 < max(held) - before <= 2 * (1 + 2)
