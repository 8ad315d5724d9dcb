"""How long after a SIGKILL the rank flow gives its first new list, by how many users it remembers.

    python tests/benchmarks/recovery.py --report F [--users 1000 100000 1000000]

Each user gets a list and a click; the snapshot is complete before the kill. The time is from the
kill to the list of a request that was sent right after it, on Apache Kafka, with the store in
SQLite: the start of Python and its libraries (`start` is up to there), the snapshot read back, what
was written read again. `bytes_a_user` is what the process that starts again holds for each user
more than for the fewest. A million users take as many lists: a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from streamrank import settings
from streamrank.edges import topics as edges
from streamrank.settings import Secrets, Settings

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tests.services import Kafka, Topics, until  # noqa: E402

ITEMS = [{"id": f"i{number}"} for number in range(5)]
PATIENCE = 2400.0
READY = " runs on "
"""What the flow's log says once the libraries are there."""


def settings_of(folder: Path, bootstrap: str) -> Settings:
    return settings.changed(
        Settings(),
        {
            "rank": {"provider": "cpu"},
            "kafka": {
                "bootstrap_servers": bootstrap,
                "prefix": f"{folder.name}-",
                "group": folder.name,
                "fetch_wait": "5ms",
            },
            "store": {"path": str(folder / "feast")},
            "state": {"path": str(folder / "state"), "every": "2s", "partitions": 32},
            "registry": {"path": str(folder / "registry")},
        },
    )


@contextmanager
def rank(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {settings.SETTINGS_VARIABLE: str(folder / "streamrank.toml")}
    command = [sys.executable, "-m", "streamrank", "run", "rank"]
    with (folder / "rank.log").open("ab") as out:
        flow = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        try:
            yield flow
        finally:
            flow.kill()
            flow.wait()


class Traffic:
    """Requests of many users, and where their answers are."""

    def __init__(self, known: Settings) -> None:
        self._known, self._asked = known, 0
        base = {"bootstrap.servers": known.kafka.bootstrap_servers, "log_level": 2}
        self._producer = Producer(base | {"linger.ms": 5, "queue.buffering.max.messages": 10**6})
        limits: dict[str, Any] = {"group.id": "recovery", "fetch.wait.max.ms": 5}
        self._answers = Consumer(base | limits)
        topic, parts = known.topic("rankings"), known.kafka.partitions
        self._answers.assign([TopicPartition(topic, part, 0) for part in range(parts)])

    def ask(self, users: range) -> None:
        for number in users:
            self._asked += 1
            request = {
                "event": "request",
                "id": f"q{self._asked}",
                "timestamp": time.time_ns() // 1_000_000,
                "user": f"u{number}",
                "session": "s",
                "items": ITEMS,
            }
            self._send("requests", request)
        self._producer.flush(60)

    def click(self, users: range) -> None:
        for number in users:
            click = {
                "event": "interaction",
                "id": f"c{number}",
                "timestamp": time.time_ns() // 1_000_000,
                "user": f"u{number}",
                "session": "s",
                "type": "click",
                "item": "i1",
            }
            self._send("events", click)
        self._producer.flush(60)

    def _send(self, topic: str, event: dict[str, Any]) -> None:
        while True:
            try:
                self._producer.produce(
                    self._known.topic(topic), json.dumps(event).encode(), event["user"]
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def answers(self, wait: float = 0.05) -> int:
        return sum(one.error() is None for one in self._answers.consume(10_000, wait))


@dataclass(frozen=True)
class Recovered:
    """What a start after a kill took."""

    start: float  # s, until the libraries were there
    first: float  # s, until the first list
    resident: int  # bytes


def resident(flow: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{flow.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def lives(flow: subprocess.Popen[bytes], folder: Path) -> bool:
    if flow.poll() is not None:
        raise SystemExit(f"the flow ended: {(folder / 'rank.log').read_text()[-2000:]}")
    return True


def recovered(bootstrap: str, folder: Path, users: int) -> Recovered:
    """Give the flow so many users, kill it, and wait for the next list."""
    known = settings_of(folder, bootstrap)
    (folder / "streamrank.toml").write_text(settings.to_toml(known))
    edges.create(known, Secrets())
    traffic, got = Traffic(known), 0
    with rank(folder) as flow:
        traffic.click(range(users))
        traffic.ask(range(users))
        begun = time.monotonic()
        while got < users and time.monotonic() < begun + PATIENCE and lives(flow, folder):
            got += traffic.answers()
        print(f"{users} users: {got} lists in {time.monotonic() - begun:.1f} s", file=sys.stderr)
        until(lambda: done(known), PATIENCE, "the snapshot is complete")
        flow.kill()
        flow.wait()
    while traffic.answers(1.0):  # re-rankings that were on their way
        pass
    log = folder / "rank.log"
    before, killed, start = len(log.read_bytes()), time.monotonic(), 0.0
    with rank(folder) as flow:
        traffic.ask(range(1))
        while (
            not traffic.answers() and time.monotonic() < killed + PATIENCE and lives(flow, folder)
        ):
            if not start and READY in log.read_bytes()[before:].decode(errors="replace"):
                start = time.monotonic() - killed
        return Recovered(start, time.monotonic() - killed, resident(flow))


def done(known: Settings) -> bool:
    """Say whether all that was read is in a complete snapshot: what the group committed says so."""
    topics, group = Topics(known.kafka.bootstrap_servers), f"{known.kafka.group}-rank"
    places = [
        TopicPartition(known.topic(name), part)
        for name in ("events", "requests")
        for part in range(known.kafka.partitions)
    ]
    consumer = Consumer(topics.connection | {"group.id": group, "log_level": 2})
    ends = [consumer.get_watermark_offsets(place, timeout=10) for place in places]
    noted = consumer.committed(places, timeout=10)
    consumer.close()
    return all(
        end is not None and one.offset >= end[1] for one, end in zip(noted, ends, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--broker", help="address of a broker; else one is started")
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, kafka = Path(name), None
        if given.broker is None:
            (folder / "kafka").mkdir()
            kafka = Kafka(folder / "kafka")
            kafka.start()
        found: dict[int, Recovered] = {}
        try:
            for users in sorted(given.users):
                (folder / f"recovery{users}").mkdir()
                address = given.broker or (kafka.bootstrap if kafka else "")
                found[users] = one = recovered(address, folder / f"recovery{users}", users)
                print(f"{users} users: the first list {one.first:.1f} s after the kill")
        finally:
            if kafka is not None:
                kafka.stop(kill=True)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report(found), indent=2) + "\n")


def report(found: dict[int, Recovered]) -> dict[str, Any]:
    fewest = min(found)
    return {
        "seconds": {str(users): round(one.first, 2) for users, one in found.items()},
        "start": {str(users): round(one.start, 2) for users, one in found.items()},
        "bytes_a_user": {
            str(users): round((one.resident - found[fewest].resident) / (users - fewest))
            for users, one in found.items()
            if users > fewest
        },
    }


if __name__ == "__main__":
    main()
