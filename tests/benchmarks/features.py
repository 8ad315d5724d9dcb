"""The features flow: events a second on one core into windows and the store, and what users cost.

    python tests/benchmarks/features.py --report features.json [--events 100000] [--users 1000000]

The flow runs in this process, on one worker, from records as they lie on Kafka to rows in Feast
(SQLite); reading the broker is not part of it.  An hour of event time passes, whatever the number
of events.

- `events_per_second_per_core`: events over the processor time of the whole process.
- `cost_ratio_1m_users`: the time of an event where the flow already knows `--users` users, over
  that where it knows 1,000; each user is made known by one event before, which is not measured.
- `memory_growth`: resident memory at the end of the hour over that at half of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one
ITEMS, HOUR = 10_000, 3_600_000


@dataclass
class Marks:
    """Processor time and memory where the flow read certain events."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def at(self, name: str) -> None:
        """Note both."""
        self.seconds[name] = time.process_time()
        self.memory[name] = psutil.Process().memory_info().rss


def payloads(users: int, events: int, marks: Marks) -> Iterator[bytes]:
    """Yield an event of each user, then those that are measured."""
    random, begin = np.random.default_rng(0), time.time_ns() // 1_000_000 - 2 * HOUR
    form = (
        '{"event":"interaction","id":"%s","timestamp":%d,"user":"u%d",'
        '"session":"s","type":"%s","item":"i%d"}'
    )
    for user in range(users):
        yield (form % (f"p{user}", begin, user, "view", user % ITEMS)).encode()
    marks.at("begun")
    drawn = random.integers(users, size=events).tolist()
    items = random.integers(ITEMS, size=events).tolist()
    for number, (user, item) in enumerate(zip(drawn, items, strict=True)):
        if number == events // 2:
            marks.at("half")
        at = begin + HOUR * number // events
        kind = "view" if number % 4 else "click"
        yield (form % (f"e{number}", at, user, kind, item)).encode()


def run(users: int, events: int) -> dict[str, float]:
    """Run the flow over the events; return what it took."""
    from bytewax.testing import TestingSink, TestingSource, run_main

    from flows import features
    from streamrank import deployment, settings
    from streamrank.edges.feast import FeastStore
    from streamrank.edges.kafka import Incoming
    from streamrank.settings import Secrets, Settings

    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        known = settings.changed(
            Settings(),
            {
                "events": {"interactions": ["view", "click"], "label": "click"},
                "store": {"path": folder},
            },
        )
        store = FeastStore(known, Secrets())
        records = (
            Incoming("events", 0, offset, payload)
            for offset, payload in enumerate(payloads(users, events, marks))
        )
        dead: list[Any] = []
        flow = features.build(
            TestingSource(records, batch_size=1_000),
            TestingSink(dead),
            plan=deployment.plan_of(known),
            store=store,
            decoders=deployment.decoders_of(known, "events"),
            ttl=known.windows.ttl,
            flush=timedelta(seconds=1),
        )
        run_main(flow)
        marks.at("done")
        store.close()
    if dead:
        raise SystemExit(f"{len(dead)} events were set aside: {dead[0]}")
    seconds = marks.seconds["done"] - marks.seconds["begun"]
    return {
        "events_per_second": round(events / seconds, 1),
        "microseconds": round(1e6 * seconds / events, 2),
        "memory_mb": round(marks.memory["done"] / 2**20, 1),
        "memory_growth": round(marks.memory["done"] / marks.memory["half"], 3),
    }


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1_000_000, help="the most users")
    given = parser.parse_args()
    few = run(1_000, given.events)
    many = run(given.users, given.events)
    report = {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "events_per_second_per_core": few["events_per_second"],
        "cost_ratio_1m_users": round(many["microseconds"] / few["microseconds"], 3),
        "memory_growth": few["memory_growth"],
        "users": {"1000": few, str(given.users): many},
    }
    print(json.dumps(report, indent=2))
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)


if __name__ == "__main__":
    main()
