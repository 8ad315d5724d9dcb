"""The Kafka edge on the embedded broker: what a flow sees.  Delivery: test_kafka_delivery.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main, run_main
from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException
from pydantic import SecretStr

from streamrank.edges.broker import EmbeddedBroker
from streamrank.edges.kafka import (
    STOPPING,
    Broker,
    BrokerUnreachable,
    ConnectionIncomplete,
    DeliveryFailed,
    Incoming,
    KafkaSink,
    KafkaSource,
    OffsetGone,
    Outgoing,
    Reader,
    TopicMissing,
    connection,
)
from streamrank.edges.kafka_client import patiently
from streamrank.edges.kafka_source import Start
from streamrank.settings import KafkaSection, Secrets
from tests.services import Topics, free_port, until

EPOCH = timedelta(milliseconds=100)
Stop = Callable[[], None]


def source(topics: Topics, *names: str, group: str = "", start: Start = "earliest") -> KafkaSource:
    wait = timedelta(milliseconds=5)
    return KafkaSource(
        topics.connection, names, group=group or f"{names[0]}-group", start=start, fetch_wait=wait
    )


def collecting(read: KafkaSource, seen: list[Incoming]) -> Dataflow:
    flow = Dataflow("collecting")
    records = op.input("records", flow, read)
    op.inspect("see", records, lambda step, record: seen.append(record))
    return flow


def passing(read: KafkaSource, write: KafkaSink) -> Dataflow:
    flow = Dataflow("passing")
    records = op.input("records", flow, read)
    copies = op.map("copy", records, lambda one: ("k", Outgoing("k", one.value)))
    op.output("copies", copies, write)
    return flow


@contextmanager
def running(
    flow: Dataflow, workers: int = 1, state: Path | None = None
) -> Iterator[list[BaseException]]:
    """Run a flow beside the test, and end it as a signal does."""
    failures: list[BaseException] = []
    recovery = None if state is None else RecoveryConfig(state)

    def work() -> None:
        try:
            if workers == 1:
                run_main(flow, epoch_interval=EPOCH, recovery_config=recovery)
            else:
                cluster_main(
                    flow,
                    [],
                    0,
                    worker_count_per_proc=workers,
                    epoch_interval=EPOCH,
                    recovery_config=recovery,
                )
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


def state_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    init_db_dir(folder, 1)
    return folder


def numbers(first: int, last: int) -> list[bytes]:
    return [str(number).encode() for number in range(first, last)]


def _holds(seen: list[Incoming], count: int) -> bool:
    return len(seen) >= count


def values(seen: list[Incoming]) -> list[bytes]:
    return sorted((one.value for one in seen), key=int)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_record_of_every_partition_is_read_once_and_in_order(
    embedded: Topics, workers: int
) -> None:
    events, requests = embedded.new("events"), embedded.new("requests")
    for partition in range(4):
        embedded.write(events, numbers(partition * 100, partition * 100 + 100), partition=partition)
    embedded.write(requests, numbers(400, 500), partition=3)
    seen: list[Incoming] = []
    with running(collecting(source(embedded, events, requests), seen), workers):
        until(lambda: len(seen) >= 500, 20, "500 records")
    assert values(seen) == numbers(0, 500)
    for partition in range(4):
        of_one = [one for one in seen if one.topic == events and one.partition == partition]
        assert [one.offset for one in of_one] == list(range(100))
    now = time.time() * 1000
    assert all(now - 60_000 < one.received <= now for one in seen)


def test_a_stop_is_an_orderly_end_and_the_next_run_goes_on_from_the_snapshot(
    embedded: Topics, tmp_path: Path
) -> None:
    topic, state = embedded.new(), state_folder(tmp_path / "state")
    embedded.write(topic, numbers(0, 50), key="a")
    seen: list[Incoming] = []
    with running(collecting(source(embedded, topic), seen), state=state) as failures:
        until(lambda: len(seen) >= 50, 20, "first records")
    assert failures == []
    embedded.write(topic, numbers(50, 80), key="b")
    with running(collecting(source(embedded, topic), seen), state=state):
        until(lambda: len(seen) >= 80, 20, "later records")
    assert values(seen) == numbers(0, 80)


@pytest.mark.parametrize(("start", "expected"), [("earliest", 15), ("latest", 5)])
def test_a_new_group_starts_where_the_settings_say(
    embedded: Topics, start: Start, expected: int
) -> None:
    topic = embedded.new()
    embedded.write(topic, numbers(0, 10), partition=2)
    seen: list[Incoming] = []
    with running(collecting(source(embedded, topic, start=start), seen)):
        until(lambda: embedded.committed(f"{topic}-group", topic, 3) >= 0, 20, "start noted")
        embedded.write(topic, numbers(10, 15), partition=2)
        until(lambda: len(seen) >= expected, 20, f"{expected} records")
    assert values(seen) == numbers(15 - expected, 15)


def test_a_flow_that_starts_at_the_end_and_dies_before_its_first_snapshot_loses_nothing(
    embedded: Topics, stopping: Stop
) -> None:
    """The start is made an offset and committed; records sent while the flow is down count."""
    topic = embedded.new()
    embedded.write(topic, numbers(0, 10), partition=0)
    source(embedded, topic, start="latest").build_part("flow.in", f"{topic}[0]", None)
    embedded.write(topic, numbers(10, 12), partition=0)  # while it is down
    seen: list[Incoming] = []
    with running(collecting(source(embedded, topic, start="latest"), seen)):
        until(lambda: len(seen) >= 2, 20, "both records")
    assert values(seen) == numbers(10, 12)


def test_a_partition_that_a_known_topic_has_gained_is_read_from_its_beginning(
    embedded: Topics,
) -> None:
    topic = embedded.new()
    seen: list[Incoming] = []
    group = f"{topic}-group"
    embedded.write(topic, numbers(0, 3), partition=0)
    wait = timedelta(milliseconds=5)
    read = KafkaSource(embedded.connection, [topic], group=group, start="latest", fetch_wait=wait)
    part = read.build_part("flow.in", f"{topic}[0]", 3)  # resumed: the group knows partition 0
    assert list(part.next_batch()) == []
    part.snapshot()

    def shown() -> bool:
        part.next_batch()
        return embedded.committed(group, topic, 0) == 3

    until(shown, 10, "progress of partition 0")
    part.close()
    embedded.write(topic, numbers(3, 6), partition=1)
    read.build_part("flow.in", f"{topic}[1]", None).close()
    assert embedded.committed(group, topic, 1) == 0
    assert seen == []


def test_a_source_that_may_pause_says_until_when_where_nothing_came(embedded: Topics) -> None:
    topic = embedded.new()
    wait, pause = timedelta(milliseconds=5), timedelta(hours=1)
    read = KafkaSource(
        embedded.connection, [topic], group=f"{topic}-group", fetch_wait=wait, pause=pause
    )
    part = read.build_part("flow.in", f"{topic}[0]", None)
    assert part.next_awake() is None  # at once
    before = datetime.now(UTC)
    assert list(part.next_batch()) == []
    rests = part.next_awake()
    assert rests is not None
    assert before + pause <= rests <= datetime.now(UTC) + pause
    embedded.write(topic, numbers(0, 3), partition=0)
    until(lambda: len(list(part.next_batch())) == 3, 10, "the records")
    assert part.next_awake() is None  # there may be more
    part.close()


def test_what_comes_while_a_source_pauses_is_read_when_the_pause_is_over(embedded: Topics) -> None:
    topic = embedded.new()
    wait, pause = timedelta(milliseconds=5), timedelta(milliseconds=200)
    read = KafkaSource(
        embedded.connection, [topic], group=f"{topic}-group", fetch_wait=wait, pause=pause
    )
    seen: list[Incoming] = []
    with running(collecting(read, seen)):
        for turn in range(3):
            embedded.write(topic, numbers(5 * turn, 5 * turn + 5), key=f"k{turn}")
            until(partial(_holds, seen, 5 * turn + 5), 20, "records")
    assert values(seen) == numbers(0, 15)


def test_progress_is_committed_for_lag_tools_but_never_ahead_of_a_complete_snapshot(
    embedded: Topics,
) -> None:
    topic = embedded.new()
    group = f"{topic}-group"
    embedded.write(topic, numbers(0, 10), partition=0)
    part = source(embedded, topic).build_part("flow.in", f"{topic}[0]", None)
    got: list[Incoming] = []

    def ten() -> bool:
        got.extend(part.next_batch())
        return len(got) == 10

    until(ten, 10, "ten records")
    assert embedded.committed(group, topic) == 0
    assert part.snapshot() == 10
    assert embedded.committed(group, topic) == 0  # outputs may still work on this epoch
    part.next_batch()  # Bytewax asks again: the epoch is complete

    def shown() -> bool:
        part.next_batch()
        return embedded.committed(group, topic) == 10

    until(shown, 10, "progress")
    part.close()


@pytest.mark.parametrize(
    ("wanted", "says"), [(25, "never were in this topic"), (2**40, "never were in this topic")]
)
def test_a_position_beyond_the_log_stops_the_flow_loudly(
    embedded: Topics, wanted: int, says: str
) -> None:
    topic = embedded.new()
    embedded.write(topic, numbers(0, 10), partition=1)
    with pytest.raises(OffsetGone) as caught:
        source(embedded, topic).build_part("flow.in", f"{topic}[1]", wanted)
    text = str(caught.value)
    assert f"{topic}[1] should be read from offset {wanted}" in text
    assert "the broker holds 0 to 10" in text
    assert says in text


def test_records_dropped_while_a_flow_was_down_stop_it_loudly(embedded: Topics) -> None:
    """The embedded broker drops the oldest beyond 5 MB without a word."""
    topic = embedded.new()
    embedded.write(topic, (b"x" * 100_000 for _ in range(100)), partition=0)
    with pytest.raises(OffsetGone, match=r"were deleted before they were read"):
        source(embedded, topic).build_part("flow.in", f"{topic}[0]", 5)


def test_records_dropped_under_a_running_flow_stop_it_loudly(embedded: Topics) -> None:
    topic = embedded.new()
    read = source(embedded, topic)
    part = read.build_part("flow.in", f"{topic}[0]", None)  # nothing fetched: it never looked
    embedded.write(topic, (b"x" * 100_000 for _ in range(100)), partition=0)

    with pytest.raises(OffsetGone, match=rf"{topic}\[0\] should be read from offset 0"):
        until(lambda: bool(list(part.next_batch())), 10, "a record or an error")


def test_a_missing_topic_is_an_error_that_names_it(embedded: Topics) -> None:
    # Asking a broker for one topic may create it; the source asks for all, and creates none.
    for _ in range(2):
        with pytest.raises(TopicMissing, match="no topic nowhere on the broker"):
            source(embedded, "nowhere").list_parts()
    with pytest.raises(TopicMissing, match="no topic nowhere on the broker"):
        KafkaSink(embedded.connection, "nowhere").list_parts()
    with pytest.raises(TopicMissing, match="nowhere"):
        Reader(embedded.connection, ["nowhere"])


def test_a_broker_that_does_not_come_in_time_is_a_clear_error() -> None:
    where = f"127.0.0.1:{free_port()}"
    there: dict[str, str | int] = {"bootstrap.servers": where, "message.timeout.ms": 100}
    begun = time.monotonic()
    with pytest.raises(BrokerUnreachable, match=f"no Kafka broker answers at {where}.*refused"):
        KafkaSource(there, ["t"], group="g").list_parts()
    assert time.monotonic() - begun < 10


def test_who_waits_for_a_broker_does_not_wait_on_when_told_to_stop(stopping: Stop) -> None:
    stopping()
    begun = time.monotonic()
    with pytest.raises(BrokerUnreachable):
        Broker({"bootstrap.servers": f"127.0.0.1:{free_port()}"}).wait(60.0)
    assert time.monotonic() - begun < 10


def test_a_flow_without_a_broker_ends_with_that_error() -> None:
    address = f"127.0.0.1:{free_port()}"
    where: dict[str, str | int] = {"bootstrap.servers": address, "message.timeout.ms": 100}
    flow = passing(KafkaSource(where, ["t"], group="g"), KafkaSink(where, "t"))
    with pytest.raises(BytewaxRuntimeError) as caught:
        run_main(flow)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, BrokerUnreachable):
        error = error.__cause__
    assert isinstance(error, BrokerUnreachable)


def test_undelivered_records_stop_the_flow_loudly(tmp_path: Path) -> None:
    """The stock sink reported no error with a dead broker."""
    with EmbeddedBroker(["in", "out"]) as broker:
        there = Topics(broker.bootstrap).connection | {"message.timeout.ms": 1000}
        sink = KafkaSink(there, "out")
        part = sink.build_part("flow.out", sink.list_parts()[0], None)
        part.write_batch([Outgoing("k", b"taken")])
        assert part.snapshot() == (1, ())
    part.write_batch([Outgoing("k", b"lost")])
    with pytest.raises(
        DeliveryFailed, match=r"out\[0\]: the broker did not take a record.*timed out"
    ):
        part.snapshot()


def test_a_snapshot_waits_until_everything_is_acknowledged(embedded: Topics) -> None:
    topic = embedded.new()
    sink = KafkaSink(embedded.connection, topic)
    part = sink.build_part("flow.out", sink.list_parts()[2], None)
    part.write_batch([Outgoing("k", value) for value in numbers(0, 5000)])
    assert part.snapshot() == (5000, ())
    found = embedded.read(topic)
    assert [one.value() for one in found] == numbers(0, 5000)
    assert {one.partition() for one in found} == {2}


def test_keys_go_where_librdkafkas_own_partitioner_sends_them(embedded: Topics) -> None:
    ours, theirs = embedded.new(), embedded.new()
    keys = [f"user-{number}" for number in range(40)] + ["ü", "a" * 300]
    sink = KafkaSink(embedded.connection, ours)
    parts = [sink.build_part("flow.out", place, None) for place in sorted(sink.list_parts())]
    for key in keys:
        embedded.write(theirs, [key.encode()], key=key)
        part = parts[sink.part_fn(key) % len(parts)]
        part.write_batch([Outgoing(key, key.encode())])
    for part in parts:
        part.snapshot()
    found = [
        {(one.value(), one.partition()) for one in embedded.read(topic)} for topic in (ours, theirs)
    ]
    assert found[0] == found[1]


def test_what_was_written_since_the_snapshot_is_not_written_again(embedded: Topics) -> None:
    """Snapshot at a; b and c written; crash; the flow works on b, c and d."""
    topic = embedded.new()
    sink = KafkaSink(embedded.connection, topic)
    place = sink.list_parts()[0]
    records = {name: Outgoing("k", name.encode(), name) for name in "abcd"}

    before = sink.build_part("flow.out", place, None)
    before.write_batch([records["a"]])
    saved = before.snapshot()
    before.write_batch([records["b"], records["c"]])
    before.snapshot()  # acknowledged, and this snapshot is lost with the crash

    after = KafkaSink(embedded.connection, topic).build_part("flow.out", place, saved)
    after.write_batch([records["b"]])
    again = after.snapshot()
    assert again == (3, ("c",))  # c may still come: a second crash must know it

    third = KafkaSink(embedded.connection, topic).build_part("flow.out", place, again)
    third.write_batch([records["c"], records["d"]])
    third.snapshot()
    assert embedded.values(topic) == [b"a", b"b", b"c", b"d"]


def test_a_crash_before_the_first_snapshot_writes_nothing_twice(embedded: Topics) -> None:
    topic = embedded.new()
    embedded.write(topic, [b"older"], partition=0)
    place = f"{topic}[000000]"
    for _ in range(3):
        part = KafkaSink(embedded.connection, topic).build_part("flow.out", place, None)
        part.write_batch([Outgoing("k", b"a", "a")])
        part.snapshot()
    assert embedded.values(topic) == [b"older", b"a"]


def test_records_without_an_id_and_repeated_ids_of_one_run_are_all_written(
    embedded: Topics,
) -> None:
    topic = embedded.new()
    sink = KafkaSink(embedded.connection, topic)
    part = sink.build_part("flow.out", sink.list_parts()[0], None)
    part.write_batch([Outgoing("k", b"a"), Outgoing("k", b"a"), Outgoing("k", b"b", "same")])
    part.snapshot()
    assert embedded.values(topic) == [b"a", b"a", b"b"]


def test_a_full_queue_holds_the_flow_back_and_loses_nothing(embedded: Topics) -> None:
    topic = embedded.new()
    tight = embedded.connection | {"queue.buffering.max.messages": 100}
    sink = KafkaSink(tight, topic)
    part = sink.build_part("flow.out", sink.list_parts()[1], None)
    part.write_batch([Outgoing("k", value) for value in numbers(0, 3000)])
    part.snapshot()
    assert embedded.values(topic) == numbers(0, 3000)


def test_idle_partitions_cost_no_latency(embedded: Topics) -> None:
    """The stock source waits 1.1 ms at each idle partition, one after the other.

    Here 40 partitions that nobody writes to stand beside the busy one; a sweep over all of them
    must cost less than two milliseconds.
    """
    names = [embedded.new("busy"), *(embedded.new("idle") for _ in range(10))]
    read = source(embedded, *names)
    parts = [read.build_part("flow.in", place, None) for place in read.list_parts()]
    assert len(parts) == 44
    sweeps = []
    for _ in range(200):
        begun = time.perf_counter()
        for part in parts:
            part.next_batch()
        sweeps.append(time.perf_counter() - begun)
        time.sleep(0.001)  # as Bytewax does between two sweeps that found nothing
    for part in parts:
        part.close()
    assert sorted(sweeps)[100] < 0.002


def test_an_idle_flow_leaves_its_core_alone(embedded: Topics) -> None:
    topic = embedded.new()
    seen: list[Incoming] = []
    with running(collecting(source(embedded, topic), seen)):
        embedded.write(topic, numbers(0, 1))
        until(lambda: bool(seen), 20, "the flow runs")
        used = time.process_time()
        time.sleep(1.0)
        used = time.process_time() - used
    assert used < 0.5


def test_a_busy_partition_does_not_wait_for_idle_ones_nor_starve_them(embedded: Topics) -> None:
    topic = embedded.new()
    seen: list[Incoming] = []
    with running(collecting(source(embedded, topic), seen)):
        embedded.write(topic, numbers(0, 20_000), partition=0)
        embedded.write(topic, [b"20000"], partition=3)
        until(lambda: len(seen) >= 20_001, 20, "all records")
    assert values(seen) == numbers(0, 20_001)


def test_two_flows_of_one_process_and_a_second_run_of_the_same_source_do_not_mix(
    embedded: Topics,
) -> None:
    first, second = embedded.new("first"), embedded.new("second")
    embedded.write(first, numbers(0, 10), key="a")
    embedded.write(second, numbers(100, 110), key="b")
    seen_first: list[Incoming] = []
    seen_second: list[Incoming] = []
    of_first, of_second = source(embedded, first), source(embedded, second)
    with (
        running(collecting(of_first, seen_first)),
        running(collecting(of_second, seen_second)),
    ):
        until(lambda: len(seen_first) == len(seen_second) == 10, 20, "both flows read")
    again: list[Incoming] = []
    embedded.write(first, numbers(10, 20), key="a")
    with running(collecting(of_first, again)):
        until(lambda: b"19" in values(again), 20, "the second run")
    assert values(seen_first) == numbers(0, 10)
    assert values(seen_second) == numbers(100, 110)


def test_a_reader_sees_everything_and_from_the_end_only_what_is_new(embedded: Topics) -> None:
    topic = embedded.new()
    embedded.write(topic, numbers(0, 5), key="a")
    with (
        Reader(embedded.connection, [topic]) as all_of_it,
        Reader(embedded.connection, [topic], from_end=True) as new,
    ):
        embedded.write(topic, numbers(5, 8), key="b")
        seen: dict[str, list[Incoming]] = {"all": [], "new": []}

        def both() -> bool:
            seen["all"] += all_of_it.poll(0.1)
            seen["new"] += new.poll(0.1)
            return len(seen["all"]) >= 8 and len(seen["new"]) >= 3

        until(both, 10, "records")
        assert new.poll(0.0) == []
    assert values(seen["all"]) == numbers(0, 8)
    assert values(seen["new"]) == numbers(5, 8)
    assert {one.key for one in seen["new"]} == {b"b"}


def test_the_rest_is_all_that_a_topic_holds_at_once_and_nothing_twice(embedded: Topics) -> None:
    topic = embedded.new()
    with Reader(embedded.connection, [topic]) as reader:
        assert list(reader.rest(10)) == []
        embedded.write(topic, numbers(0, 3000), key="a")
        assert values(list(reader.rest(10))) == numbers(0, 3000)
        embedded.write(topic, numbers(3000, 3001), key="b")
        assert values(list(reader.rest(10))) == numbers(3000, 3001)
        embedded.write(topic, numbers(3001, 3002), key="b")
        with pytest.raises(BrokerUnreachable, match="did not give all of"):
            list(reader.rest(-1))


def test_a_connection_takes_tls_and_sasl_from_settings_and_the_password_from_secrets() -> None:
    section = KafkaSection(
        bootstrap_servers="kafka:9093",
        security_protocol="SASL_SSL",
        ssl_ca_location=Path("/etc/ca.pem"),
        ssl_certificate_location=Path("/etc/me.pem"),
        ssl_key_location=Path("/etc/me.key"),
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="ranker",
        delivery_timeout=timedelta(seconds=7),
    )
    secrets = Secrets(sasl_password=SecretStr("hunter2"), ssl_key_password=SecretStr("hunter3"))
    found = connection(section, secrets)
    assert found == {
        "bootstrap.servers": "kafka:9093",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/etc/ca.pem",
        "ssl.certificate.location": "/etc/me.pem",
        "ssl.key.location": "/etc/me.key",
        "ssl.key.password": "hunter3",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ranker",
        "sasl.password": "hunter2",
        "group.id": "streamrank",
        "message.timeout.ms": 7000,
        "compression.type": "lz4",
    }
    assert "hunter" not in f"{found} {found!r}"


def test_a_connection_that_misses_something_says_what() -> None:
    section = KafkaSection(security_protocol="SASL_SSL", sasl_username="ranker")
    with pytest.raises(ConnectionIncomplete) as caught:
        connection(section, Secrets())
    text = str(caught.value)
    assert "SASL_SSL needs kafka.sasl_mechanism and the environment variable" in text
    assert "STREAMRANK_SASL_PASSWORD" in text


@pytest.mark.parametrize("word", [Code._NOENT, Code.NOT_COORDINATOR, Code.FENCED_LEADER_EPOCH])
def test_what_a_broker_that_has_just_started_does_not_know_yet_is_asked_again(word: int) -> None:
    answers: Iterator[KafkaException | int] = iter(
        [KafkaException(Code(word)), KafkaException(Code(word)), 7]
    )

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, KafkaException):
            raise answer
        return answer

    assert patiently("leaders", ask) == 7
