"""The features flow: events a second on one core into windows and the store, and what users cost.

    python tests/benchmarks/features.py --report features.json [--events 300000]
        [--users 1000 10000 100000 1000000] [--redis 127.0.0.1:6379] [--state-every 10]

Each number of users is a process of its own.  The flow runs in it on one worker, from records as
they lie on Kafka to rows in Feast's online store (SQLite, or Redis) and in the offline log, with
snapshots as a deployed flow makes them; reading the broker is not part of it.  An hour of event
time passes, whatever the number of events, on 10,000 items; each user is made known by one event
before, which is not measured.  Time is processor time of the whole process, all of its threads.

- `events_per_second_per_core`: with the fewest users.
- `cost_ratio_1m_users`: the time of an event where the flow knows the most users, over that
  where it knows the fewest; `cost_ratio_1m_users_without_store` leaves out what the store took.
- `memory_growth`: resident memory at the end of the hour over that at half of it.
- `users`: for each number of users, microseconds an event in all, in the store's `write`, and of
  reading the same records alone; rows that the store took; memory.
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
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # `feast` is the library, not the benchmark beside this one
ITEMS, HOUR, BATCH = 10_000, 3_600_000, 1_000
FORM = (
    '{"event":"interaction","id":"%s","timestamp":%d,"user":"u%d",'
    '"session":"s%d","type":"%s","item":"i%d"}'
)

if TYPE_CHECKING:
    from streamrank.edges.kafka import Incoming
    from streamrank.edges.store import FeatureStore, Row, Values, View
    from streamrank.settings import Settings
    from streamrank.steps import Decoder


@dataclass
class Marks:
    """Processor time and memory where the flow read certain events."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    store: float = 0.0
    rows: int = 0

    def at(self, name: str) -> None:
        """Note both."""
        self.seconds[name] = time.process_time()
        self.memory[name] = psutil.Process().memory_info().rss
        if name == "begun":
            self.store, self.rows = 0.0, 0


@dataclass
class Timed:
    """A store that notes what its writes take."""

    inner: FeatureStore
    marks: Marks
    degraded: bool = False

    def write(self, rows: Sequence[Row]) -> None:
        """Write, and take the time."""
        begun = time.process_time()
        self.inner.write(rows)
        self.marks.store += time.process_time() - begun
        self.marks.rows += len(rows)

    def read(self, view: View, keys: Sequence[str], at: int) -> list[Values | None]:
        """Read."""
        return self.inner.read(view, keys, at)

    def flush(self) -> None:
        """Flush, and take the time."""
        begun = time.process_time()
        self.inner.flush()
        self.marks.store += time.process_time() - begun


def payloads(users: int, events: int, begin: int) -> Iterator[bytes]:
    """Yield the events that are measured."""
    random = np.random.default_rng(0)
    drawn = random.integers(users, size=events).tolist()
    items = random.integers(ITEMS, size=events).tolist()
    for number, (user, item) in enumerate(zip(drawn, items, strict=True)):
        at = begin + HOUR * number // events
        kind = "view" if number % 4 else "click"
        yield (FORM % (f"e{number}", at, user, user, kind, item)).encode()


def batches(users: int, measured: list[Incoming], begin: int, marks: Marks) -> Iterator[Incoming]:
    """Yield an event of each user, then those that are measured."""
    from streamrank.edges.kafka import Incoming

    for user in range(users):
        payload = FORM % (f"p{user}", begin, user, user, "view", user % ITEMS)
        yield Incoming("events", 0, 0, payload.encode())
    marks.at("begun")
    yield from measured[: len(measured) // 2]
    marks.at("half")
    yield from measured[len(measured) // 2 :]


def known_of(folder: str, redis: str | None) -> Settings:
    """Return the settings of a run."""
    from streamrank import settings
    from streamrank.settings import Settings

    store = {"path": folder} | ({"online": "redis", "redis": redis} if redis else {})
    return settings.changed(
        Settings(project=f"p{uuid.uuid4().hex}"),
        {
            "events": {"interactions": ["view", "click"], "label": "click"},
            "store": store,
        },
    )


def run(users: int, events: int, redis: str | None, every: float) -> dict[str, float]:
    """Run the flow over the events; return what it took."""
    from bytewax.recovery import RecoveryConfig, init_db_dir
    from bytewax.testing import TestingSink, TestingSource, run_main

    from flows import features
    from streamrank import deployment
    from streamrank.edges.feast import FeastStore
    from streamrank.edges.kafka import Incoming
    from streamrank.settings import Secrets

    marks, dead = Marks(), list[Any]()
    begin = time.time_ns() // 1_000_000 - 2 * HOUR
    measured = [
        Incoming("events", 0, offset, payload)
        for offset, payload in enumerate(payloads(users, events, begin))
    ]
    with tempfile.TemporaryDirectory() as folder:
        known = known_of(folder, redis)
        store = FeastStore(known, Secrets())
        decoders = deployment.decoders_of(known, "events")
        flow = features.build(
            TestingSource(batches(users, measured, begin, marks), batch_size=BATCH),
            TestingSink(dead),
            plan=deployment.plan_of(known),
            store=Timed(store, marks),
            decoders=decoders,
            ttl=known.windows.ttl,
            flush=known.windows.flush,
        )
        state = Path(folder) / "state"
        state.mkdir()
        init_db_dir(state, 1)
        recovery = RecoveryConfig(state) if every else None
        deployment.seldom_collect()
        run_main(flow, epoch_interval=timedelta(seconds=every or 10), recovery_config=recovery)
        marks.at("done")
        store.close()
        if dead:
            raise SystemExit(f"{len(dead)} events were set aside: {dead[0]}")
        return figures(users, events, marks) | {"decode": decode_alone(decoders, measured)}


def decode_alone(decoders: dict[str, Decoder] | Any, measured: list[Incoming]) -> float:
    """Return the microseconds that reading a record takes."""
    from streamrank import steps

    some, now = measured[:50_000], datetime.now(UTC)
    begun = time.process_time()
    for start in range(0, len(some), BATCH):
        list(steps.decode(decoders, some[start : start + BATCH], now, timedelta(hours=1)))
    return round(1e6 * (time.process_time() - begun) / len(some), 2)


def figures(users: int, events: int, marks: Marks) -> dict[str, float]:
    """Return what a run says."""
    seconds = marks.seconds["done"] - marks.seconds["begun"]
    return {
        "users": users,
        "events_per_second": round(events / seconds, 1),
        "microseconds": round(1e6 * seconds / events, 2),
        "store": round(1e6 * marks.store / events, 2),
        "rows_per_event": round(marks.rows / events, 3),
        "memory_mb": round(marks.memory["done"] / 2**20, 1),
        "memory_growth": round(marks.memory["done"] / marks.memory["half"], 3),
    }


def apart(users: int, given: argparse.Namespace) -> dict[str, float]:
    """Run in a process of its own, so that memory is that of one run."""
    command = [sys.executable, __file__, "--alone", str(users), "--events", str(given.events)]
    command += ["--state-every", str(given.state_every)]
    command += ["--redis", given.redis] if given.redis else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))
    return found


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--redis", help="host:port of a Redis, in place of SQLite")
    parser.add_argument("--state-every", type=float, default=10.0, help="seconds; 0 for no state")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone is not None:
        print(json.dumps(run(given.alone, given.events, given.redis, given.state_every)))
        return
    if given.report is None:
        parser.error("--report is required")
    found = [apart(users, given) for users in sorted(given.users)]
    few, many = found[0], found[-1]
    report = {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "store": "redis" if given.redis else "sqlite",
        "events_per_second_per_core": few["events_per_second"],
        "cost_ratio_1m_users": round(many["microseconds"] / few["microseconds"], 3),
        "cost_ratio_1m_users_without_store": round(
            (many["microseconds"] - many["store"]) / (few["microseconds"] - few["store"]), 3
        ),
        "memory_growth": few["memory_growth"],
        "users": found,
    }
    print(json.dumps(report, indent=2))
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)


if __name__ == "__main__":
    main()
