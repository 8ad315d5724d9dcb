"""Do the flows stay as they are? The three of them at the highest speed, for long.

    python tests/benchmarks/soak.py --minutes 20 --report F

Features, rank and learn as processes on Apache Kafka and Redis; requests, lists and deeds are sent
as fast as lists come back. After a warm-up, the last quarter is held against the first one: memory,
file descriptors and threads of the processes, their snapshots on disk, and the 99th percentile of
the time from a request to its list. 0.0 is flat, 0.1 is a tenth more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tests.chaos.crowd import Crowd  # noqa: E402
from tests.chaos.scene import Scene, prepare  # noqa: E402

USERS = 2_000
"""So few that the history of each is full, and a list costs what it will, when the warm-up ends."""
FASTEST = 100_000.0
"""Records a second that would be sent if nothing had to be waited for."""
AHEAD = 50
"""Requests that may wait for their lists: enough to keep the flow busy."""
EVERY = 2.0
"""Seconds between two looks."""
WARM_UP = 0.2
"""Share of the time that is not looked at."""


@dataclass(frozen=True)
class Look:
    """What was seen at one moment."""

    resident: int  # bytes
    descriptors: int
    threads: int
    snapshots: int  # bytes
    p99: float  # ms, of the lists since the last look
    lists: int


@dataclass
class Answers:
    """The lists as they come: how many, and how long after their requests."""

    scene: Scene
    count: int = 0

    def __post_init__(self) -> None:
        limits = {"group.id": "soak", "fetch.wait.max.ms": 5, "log_level": 2}
        self._consumer = Consumer({"bootstrap.servers": self.scene.kafka.bootstrap} | limits)
        topic, parts = self.scene.known.topic("rankings"), self.scene.known.kafka.partitions
        self._consumer.assign([TopicPartition(topic, part, 0) for part in range(parts)])

    def poll(self, wait: float) -> list[float]:
        """Return the milliseconds of the lists that came; re-rankings are not counted."""
        took = []
        for message in self._consumer.consume(10_000, wait):
            ranking = json.loads(message.value() or b"{}")
            if message.error() is None and "trigger" not in ranking:
                took.append(time.time() * 1000 - ranking["timestamp"])
        self.count += len(took)
        return took


def look(scene: Scene, took: Sequence[float]) -> Look:
    pids = [flow.process.pid for flow in scene.flows.values() if flow.process is not None]
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    files = (scene.folder / "state").rglob("*")
    return Look(
        resident=sum(_field(text, "VmRSS") for text in status) * 1024,
        descriptors=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        threads=sum(_field(text, "Threads") for text in status),
        snapshots=sum(path.stat().st_size for path in files if path.is_file()),
        p99=sorted(took)[int(0.99 * len(took))] if took else 0.0,
        lists=len(took),
    )


def _field(text: str, name: str) -> int:
    [line] = [line for line in text.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def soak(scene: Scene, minutes: float) -> list[Look]:
    """Keep the flows busy, and look at them every two seconds."""
    scene.start()
    answers, looks = Answers(scene), list[Look]()
    crowd = Crowd(
        scene, 1, FASTEST, users=USERS, room=lambda: len(crowd.asked) < AHEAD + answers.count
    )
    crowd.begin()
    begun = time.monotonic()
    while time.monotonic() - begun < minutes * 60:
        took, since = list[float](), time.monotonic()
        while time.monotonic() - since < EVERY:
            took += answers.poll(0.05)
        for flow in scene.flows.values():
            if flow.process is None or flow.process.poll() is not None:
                raise SystemExit(f"{flow.name} ended by itself: {flow.said()[-1000:]}")
        looks.append(look(scene, took))
        _say(looks[-1], time.monotonic() - begun)
    crowd.end()
    return looks


def _say(one: Look, seconds: float) -> None:
    print(
        f"{seconds:6.0f} s  {one.lists / EVERY:7.0f} lists/s  p99 {one.p99:6.0f} ms  "
        f"{one.resident / 2**20:6.0f} MiB  {one.descriptors:4} files  {one.threads:4} threads  "
        f"{one.snapshots / 2**20:6.1f} MiB of snapshots",
        file=sys.stderr,
    )


def growth(looks: Sequence[Look], of: Callable[[Look], float]) -> float:
    """Return by how much the last quarter is above the first one after the warm-up."""
    warm = looks[int(WARM_UP * len(looks)) :]
    quarter = max(1, len(warm) // 4)
    first = statistics.median(of(one) for one in warm[:quarter])
    last = statistics.median(of(one) for one in warm[-quarter:])
    return round(last / first - 1, 4) if first else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = prepare(Path(folder), lateness="1m")
        try:
            looks = soak(scene, given.minutes)
        finally:
            scene.close()
    report = {
        "rss_growth": growth(looks, lambda one: one.resident),
        "fd_growth": growth(looks, lambda one: one.descriptors),
        "thread_growth": growth(looks, lambda one: one.threads),
        "snapshot_growth": growth(looks, lambda one: one.snapshots),
        "p99_growth": growth(looks, lambda one: one.p99),
        "lists_a_second": round(sum(one.lists for one in looks) / (EVERY * len(looks)), 1),
        "minutes": given.minutes,
    }
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
