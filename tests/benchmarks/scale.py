"""The rank flow as one process and as two: how many times as many lists, and whose sessions stay.

    python tests/benchmarks/scale.py --report scale.json [--broker HOST:PORT] [--lists 12000]

Users with 50 steps of history have asked for lists of 100 candidates before the flow starts, so
that nothing but the broker runs beside it. What is measured lies between the first and the last
fifth of the answers. The load is that of `serve.py`.

- `two_processes_ratio`: lists a second of two processes over those of one, each of them with a
  core of its own and the broker on another: by the processor time of the flow alone, of two
  processes that of the busier one.
- `two_processes_ratio_wall`: the same by the clock, where flow and broker share this machine's
  cores.
- `cores`: how many cores the flow and the broker kept busy. Where both together come near to what
  the machine has, nobody waited for anybody else.
- `sessions_lost`: users whose history was not whole with two processes after one, or with one
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one

from streamrank import settings  # noqa: E402
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

    def requests(self) -> list[int]:
        """Return how many requests each of them read."""
        found = []
        for port in self.ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                counts = _RECORDS.findall(answer.read().decode())
            found.append(sum(int(float(count)) for count in counts))
        return found


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


class Answers:
    """How many lists there are by now: the broker is asked, nothing is read."""

    def __init__(self, known: Settings) -> None:
        options = {"bootstrap.servers": known.kafka.bootstrap_servers, "group.id": "scale"}
        self._consumer = Consumer(options)
        topic, count = known.topic("rankings"), known.kafka.partitions
        self._parts = [TopicPartition(topic, part) for part in range(count)]

    def count(self) -> int:
        """Return how many."""
        spans = (self._consumer.get_watermark_offsets(part, timeout=10) for part in self._parts)
        return sum(high for _, high in (span for span in spans if span))

    def wait(self, count: int) -> float:
        """Wait until there are so many; return when that was."""
        until(lambda: self.count() >= count, PATIENCE, f"{count} lists")
        return time.perf_counter()


def ask(known: Settings, requests: serve.Requests, name: str, count: int) -> None:
    """Send requests."""
    broker = known.kafka.bootstrap_servers
    made = (requests(f"{name}-{number}", number) for number in range(count))
    serve.send(broker, known.topic("requests"), made)


def drain(known: Settings, folder: Path, processes: int, lists: int, broker: int | None) -> Any:
    """Answer what waits, and return the figures of the middle three fifths."""
    answers = Answers(known)
    before = answers.count()
    with flow(folder, processes) as running:
        begun = answers.wait(before + lists // 5)
        first, answered = running.seconds(), answers.count()
        kafka_first = _seconds(broker)
        ended = answers.wait(before + 4 * lists // 5)
        last, done = running.seconds(), answers.count() - answered
        kafka_last = _seconds(broker)
        answers.wait(before + lists)
        requests = running.requests()
    used = [end - start for start, end in zip(first, last, strict=True)]
    seconds = ended - begun
    return {
        "rankings_per_second": round(done / seconds, 1),
        "rankings_per_second_of_own_cores": round(done / max(used), 1),
        "requests_read": requests,
        "cores": {
            "flow": [round(one / seconds, 2) for one in used],
            "broker": round((kafka_last - kafka_first) / seconds, 2),
        },
    }


def _seconds(process: int | None) -> float:
    return 0.0 if process is None else sum(psutil.Process(process).cpu_times()[:2])


def lost(known: Settings, name: str) -> int:
    """Return how many users got a list of these requests without their whole history."""
    where = {"bootstrap.servers": known.kafka.bootstrap_servers, "group.id": "scale"}
    steps: dict[str, int] = {}
    with kafka.Reader(where, [known.topic("served")]) as reader:
        while records := reader.poll(2.0):
            for record in records:
                served = decode_served(record.value)
                if served.id.startswith(f"{name}-"):
                    known_steps = len(served.inputs["history_items"])
                    steps[served.user] = min(known_steps, steps.get(served.user, known_steps))
    return sum(steps.get(f"u{user}") != serve.STEPS for user in range(serve.USERS))


def measure(broker: str, process: int | None, folder: Path, lists: int) -> dict[str, Any]:
    """Run one process, two, and one again."""
    known, requests = serve.project(folder, broker), serve.Requests()
    (folder / "streamrank.toml").write_text(settings.to_toml(known))
    topics.create(known, Secrets())
    serve.publish(known)
    serve.fill_store(known)
    serve.send(broker, known.topic("events"), serve.histories(known))
    with flow(folder, 1):  # a list of each user comes after the history, or it would be too short
        until(lambda: _read(known), PATIENCE, "the history is read")
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        ask(known, requests, name, lists)
        found[name] = drain(known, folder, processes, lists, process)
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
    ask(known, requests, "again", serve.USERS)
    with flow(folder, 1):
        Answers(known).wait(2 * lists + serve.USERS)

    def ratio(figure: str) -> float:
        return round(float(found["two"][figure] / found["one"][figure]), 3)

    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "two_processes_ratio": ratio("rankings_per_second_of_own_cores"),
        "two_processes_ratio_wall": ratio("rankings_per_second"),
        "sessions_lost": {name: lost(known, name) for name in ("one", "two", "again")},
        "processes": found,
    }


def _read(known: Settings) -> bool:
    """Say whether all events are in a snapshot."""
    topic, group = known.topic("events"), f"{known.kafka.group}-rank"
    options = {"bootstrap.servers": known.kafka.bootstrap_servers, "group.id": group}
    consumer = Consumer(options)
    parts = [TopicPartition(topic, part) for part in range(known.kafka.partitions)]
    ends = [(consumer.get_watermark_offsets(part, timeout=10) or (0, 1))[1] for part in parts]
    noted = [one.offset for one in consumer.committed(parts, timeout=10)]
    consumer.close()
    return noted == ends


def main(words: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--lists", type=int, default=12_000, help="that each must make")
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
            report = measure(address, process, folder, given.lists)
        finally:
            if started is not None:
                started.stop(kill=True)
    print(json.dumps(report, indent=2))
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)


if __name__ == "__main__":
    main()
