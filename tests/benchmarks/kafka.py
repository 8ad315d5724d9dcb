"""The Kafka edge beside Bytewax's own source and sink, in one run on one broker.

    python tests/benchmarks/kafka.py --report kafka.json [--broker HOST:PORT] [--records 200000]

Each flow is a process that copies a topic of four partitions to another. `throughput` is records
a second, from the first to the last of a topic that is full when the flow starts. `latency` is
the round trip of single records, one at a time, from send to answer, in ms; `bare` is the
broker's own round trip. Our sink also checks every delivery report, carries ids and keeps its
place; the stock one waits for each batch and reports no failure.

Without `--broker` an Apache Kafka is started (`python tests/services.py install`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import bytewax.operators as op
from bytewax.connectors import kafka as stock
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streamrank.edges.kafka import Incoming, KafkaSink, KafkaSource, Outgoing, Reader

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
PAYLOAD = b"x" * 200
FLOWS = ("streamrank", "streamrank with ids", "stock")


def copying(kind: str, broker: str, source: str, target: str) -> Dataflow:
    """Return the flow that copies a topic."""
    flow = Dataflow("copying")
    if kind == "stock":
        options = {"fetch.wait.max.ms": "5"}
        read = stock.KafkaSource([broker], [source], add_config=options)
        records = op.input("in", flow, read)
        copies = op.map("copy", records, lambda one: one.to_sink())  # type: ignore[union-attr]
        op.output("out", copies, stock.KafkaSink([broker], target))
        return flow

    def copied(record: Incoming) -> tuple[str, Outgoing]:
        key = (record.key or b"").decode()
        name = f"{record.partition}-{record.offset}" if kind.endswith("ids") else None
        return key, Outgoing(key, record.value, name)

    connection = {"bootstrap.servers": broker}
    wait = timedelta(milliseconds=5)
    ours = KafkaSource(connection, [source], group=f"{source}-copying", fetch_wait=wait)
    op.output(
        "out", op.map("copy", op.input("in", flow, ours), copied), KafkaSink(connection, target)
    )
    return flow


@contextmanager
def running(kind: str, broker: str, source: str, target: str) -> Iterator[None]:
    """Run the flow as a process of its own."""
    command = [sys.executable, __file__, "--flow", kind, broker, source, target]
    flow = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
    finally:
        flow.kill()
        flow.wait()


def topic(broker: str) -> str:
    """Make a topic and wait for its partitions."""
    name = f"benchmark-{uuid4().hex[:8]}"
    client = AdminClient({"bootstrap.servers": broker})
    client.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
    time.sleep(0.5)
    return name


def fill(broker: str, name: str, count: int) -> None:
    """Write records, spread over the partitions."""
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 20})
    for number in range(count):
        while True:
            try:
                producer.produce(name, PAYLOAD, f"user-{number % 1000}")
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()


def throughput(kind: str, broker: str, count: int) -> float:
    """Return records a second through a flow that finds its topic full."""
    source, target = topic(broker), topic(broker)
    fill(broker, source, count)
    watch = Consumer({"bootstrap.servers": broker, "group.id": "benchmark"})
    places = [TopicPartition(target, index) for index in range(PARTITIONS)]

    def written() -> int:
        ends = (watch.get_watermark_offsets(place, timeout=10) or (0, 0) for place in places)
        return sum(high for _, high in ends)

    with running(kind, broker, source, target):
        while not (first := written()):
            time.sleep(0.005)
        begun = time.perf_counter()
        while (done := written()) < count:
            time.sleep(0.02)
        seconds = time.perf_counter() - begun
    watch.close()
    return (done - first) / seconds


def round_trips(broker: str, source: str, target: str, count: int) -> dict[str, float]:
    """Send single records and wait for each answer."""
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
    spans = []
    with Reader({"bootstrap.servers": broker}, [target], from_end=True) as reader:
        for number in range(count + 100):
            begun = time.perf_counter()
            producer.produce(source, PAYLOAD, f"user-{number % 50}")
            producer.poll(0)
            while not reader.poll(5.0):
                pass
            spans.append((time.perf_counter() - begun) * 1000)
    warm = sorted(spans[100:])
    return {f"p{share}": warm[len(warm) * share // 100] for share in (50, 90, 99)}


def latency(kind: str, broker: str, count: int) -> dict[str, float]:
    """Return quantiles of the round trip through a flow."""
    source, target = topic(broker), topic(broker)
    with running(kind, broker, source, target):
        return round_trips(broker, source, target, count)


@contextmanager
def a_broker(address: str | None) -> Iterator[str]:
    """Give the broker that was named, or start one."""
    if address is not None:
        yield address
        return
    sys.path.append(str(ROOT))
    from tests.services import Kafka

    with tempfile.TemporaryDirectory() as folder:
        kafka = Kafka(Path(folder))
        kafka.start()
        try:
            yield kafka.bootstrap
        finally:
            kafka.stop()


def measure(address: str | None, records: int, trips: int) -> dict[str, object]:
    """Measure every flow, one after the other."""
    report: dict[str, object] = {"machine": f"{os.cpu_count()} CPUs, {platform.machine()}"}
    with a_broker(address) as broker:
        loop = topic(broker)
        bare = round_trips(broker, loop, loop, trips)
        report["bare"] = {"latency": bare}
        print(f"{'bare broker':22} latency ms {bare}")
        for kind in FLOWS:
            found = {"throughput": throughput(kind, broker, records)}
            quantiles = latency(kind, broker, trips)
            report[kind] = {**found, "latency": quantiles}
            shown = {name: round(value, 2) for name, value in quantiles.items()}
            print(f"{kind:22} {found['throughput']:>10,.0f} records/s, latency ms {shown}")
    return report


def main() -> None:
    """Run as the program, or as one of its flows."""
    if sys.argv[1:2] == ["--flow"]:
        run_main(copying(*sys.argv[2:]), epoch_interval=timedelta(seconds=1))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--trips", type=int, default=1000)
    given = parser.parse_args()
    report = measure(given.broker, given.records, given.trips)
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)


if __name__ == "__main__":
    main()
