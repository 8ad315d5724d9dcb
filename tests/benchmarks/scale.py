"""The rank flow as one process and as two: how many times as many lists, and whose sessions stay.

    python tests/benchmarks/scale.py --report scale.json [--broker HOST:PORT] [--seconds 15]

The load is that of `serve.py`: lists of 100 candidates for users with 50 steps of history, so many
requests open that the flow never waits for one.

- `two_processes_ratio`: lists a second of two processes over those of one, each of them with a
  core of its own, and broker and load on others: by the processor time of the flow alone, of two
  processes that of the busier one.
- `two_processes_ratio_wall`: the same by the clock, where flow, broker and load share the cores of
  this machine.
- `cores`: how many cores the flow and the broker kept busy.
- `steps_us`: microseconds of the clock that a list takes in each step, in all processes.
- `sessions_lost`: users whose history was not the same with two processes after one, or with one
  process after two.

Without `--broker` an Apache Kafka is started (`python tests/services.py install`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one

from streamrank import bench, settings  # noqa: E402
from streamrank.edges import kafka, topics  # noqa: E402
from streamrank.events import decode_served  # noqa: E402
from streamrank.settings import Secrets, Settings  # noqa: E402
from tests.benchmarks import serve  # noqa: E402
from tests.services import Kafka, free_port, until  # noqa: E402

PATIENCE = 240.0
_RECORDS = re.compile(r'streamrank_records_total{topic="[^"]*requests"} (\S+)')


@dataclass(frozen=True)
class Running:
    """The processes of a flow, and where each says what it did."""

    processes: list[psutil.Process]
    ports: list[int]

    def seconds(self) -> list[float]:
        """Return the processor time of each so far."""
        return [sum(one.cpu_times()[:2]) for one in self.processes]

    def said(self) -> list[str]:
        """Return the metrics of each."""
        found = []
        for port in self.ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                found.append(answer.read().decode())
        return found


def requests_read(said: str) -> int:
    """Return how many requests a process read, by its metrics."""
    return sum(int(float(count)) for count in _RECORDS.findall(said))


def steps(said: Sequence[str]) -> dict[str, float]:
    """Return microseconds of a list in each step, by the metrics of all processes."""
    seconds, lists = defaultdict[str, float](float), defaultdict[str, float](float)
    for one in said:
        for step, (spent, values) in bench.step_totals(one).items():
            seconds[step] += spent
            lists[step] += values
    return {step: round(1e6 * seconds[step] / lists[step], 1) for step in lists if lists[step]}


@contextmanager
def flow(folder: Path, processes: int) -> Iterator[Running]:
    """Run the rank flow as so many processes; they stop in an orderly way."""
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))
    ports = [free_port() for _ in range(processes)]
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        for number, port in enumerate(ports):
            command = [sys.executable, "-m", "streamrank", "run", "rank"]
            command += ["--settings", str(folder / "streamrank.toml")]
            if processes > 1:
                command += ["--process", str(number), "--addresses", addresses]
            more = {"OMP_NUM_THREADS": "1", "STREAMRANK_METRICS__PORT": str(port)}
            out = files.enter_context((folder / f"rank{number}.log").open("ab"))
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=os.environ | more, stdout=out, stderr=out)
            )
        try:
            yield Running([psutil.Process(one.pid) for one in started], ports)
        finally:
            for one in started:
                one.terminate()
            for one in started:
                one.wait(60)


def rate(load: serve.Load, folder: Path, processes: int, seconds: float, broker: int | None) -> Any:
    """Return what so many processes do while they never wait for a request."""
    name = {1: "one", 2: "two"}[processes]
    with flow(folder, processes) as running:
        load.run(f"warm{name}", PATIENCE, None, most=4 * serve.OPEN)
        load.wait()
        before, begun = running.said(), time.perf_counter()
        first, kafka_first, answered = running.seconds(), _seconds(broker), len(load.got)
        load.run(name, seconds, None)
        last, kafka_last, done = running.seconds(), _seconds(broker), len(load.got) - answered
        took = time.perf_counter() - begun
        load.wait()
        said = running.said()
    used = [end - start for start, end in zip(first, last, strict=True)]
    return {
        "rankings_per_second": round(done / took, 1),
        "rankings_per_second_of_own_cores": round(done / max(used), 1),
        "requests_read": [
            requests_read(end) - requests_read(start)
            for start, end in zip(before, said, strict=True)
        ],
        "steps_us": steps(said),
        "cores": {
            "flow": [round(one / took, 2) for one in used],
            "broker": round((kafka_last - kafka_first) / took, 2),
        },
    }


def _seconds(process: int | None) -> float:
    return 0.0 if process is None else sum(psutil.Process(process).cpu_times()[:2])


def histories(known: Settings) -> dict[str, dict[str, bytes]]:
    """Return the history of each user as the first of its lists of each round saw it."""
    where = {"bootstrap.servers": known.kafka.bootstrap_servers, "group.id": "scale"}
    found: dict[str, dict[str, bytes]] = {}
    with kafka.Reader(where, [known.topic("served")]) as reader:
        while records := reader.poll(2.0):
            for record in records:
                served = decode_served(record.value)
                of_round = found.setdefault(served.id.partition("-")[0], {})
                of_round.setdefault(served.user, served.inputs["history_items"].tobytes())
    return found


def measure(broker: str, process: int | None, folder: Path, seconds: float) -> dict[str, Any]:
    """Run one process, two, and one again."""
    known = serve.project(folder, broker)
    (folder / "streamrank.toml").write_text(settings.to_toml(known))
    topics.create(known, Secrets())
    serve.publish(known)
    serve.fill_store(known)
    serve.send(broker, known.topic("events"), serve.histories(known))
    with flow(folder, 1):  # a list of each user comes after the history, or it would be too short
        until(lambda: _read(known), PATIENCE, "the history is read")
    load = serve.Load(broker, known.topic("requests"), known.topic("rankings"), serve.Requests())
    found = {}
    with load.listening():
        for name, processes in (("one", 1), ("two", 2)):
            found[name] = rate(load, folder, processes, seconds, process)
            print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
        with flow(folder, 1):
            load.run("again", PATIENCE, None, most=serve.USERS)
            load.wait()
    seen = histories(known)

    def ratio(figure: str) -> float:
        return round(float(found["two"][figure] / found["one"][figure]), 3)

    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "two_processes_ratio": ratio("rankings_per_second_of_own_cores"),
        "two_processes_ratio_wall": ratio("rankings_per_second"),
        "sessions_lost": {
            name[1:]: sum(seen[name].get(user) != history for user, history in seen["rone"].items())
            for name in ("rtwo", "ragain")
        },
        "processes": found,
    }


def _read(known: Settings) -> bool:
    """Say whether all events are in a snapshot."""
    topic, group = known.topic("events"), f"{known.kafka.group}-rank"
    options = {"bootstrap.servers": known.kafka.bootstrap_servers, "group.id": group}
    consumer = Consumer(options)
    parts = [TopicPartition(topic, part) for part in range(known.kafka.partitions)]
    ends = [(consumer.get_watermark_offsets(part, timeout=10) or (0, 1))[1] for part in parts]
    try:
        noted = [one.offset for one in consumer.committed(parts, timeout=10)]
    except KafkaException:  # the broker's coordinator of the group is not there yet
        return False
    finally:
        consumer.close()
    return noted == ends


def main(words: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), None
        if given.broker is None:
            (folder / "kafka").mkdir()
            started = Kafka(folder / "kafka")
            started.start()
        try:
            address = given.broker or (started.bootstrap if started else "")
            process = started.process.pid if started and started.process else None
            report = measure(address, process, folder, given.seconds)
        finally:
            if started is not None:
                started.stop(kill=True)
    print(json.dumps(report, indent=2))
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)


if __name__ == "__main__":
    main()
