"""Changed records over every topic that flows read, on Apache Kafka, with the flows as processes.

    python tests/benchmarks/fuzz.py --records 100000 --report F [--broker HOST:PORT] [--seed 7]

Half of the records are as people send them, half have other bits, bytes or values somewhere. Asked
is: do all three flows live, is each bad record (and nothing good that was in time) among the dead
letters, is each good request answered. What is bad is decided by reading the topics again, each
record by itself.

Without `--broker` an Apache Kafka is started (`python tests/services.py install`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from streamrank import deployment, letters, settings, steps  # noqa: E402
from streamrank.edges import kafka, kafka_letters  # noqa: E402
from streamrank.edges import topics as edges  # noqa: E402
from streamrank.edges.kafka import Incoming  # noqa: E402
from streamrank.edges.kafka_letters import Marked, Sender  # noqa: E402
from streamrank.events import DeadLetter, Request, decode_ranking  # noqa: E402
from streamrank.settings import Secrets, Settings  # noqa: E402
from streamrank.steps import Read  # noqa: E402
from tests import fuzzing  # noqa: E402
from tests.flows import stage  # noqa: E402

FLOWS = ("features", "rank", "learn")
READS = {
    "features": ("events", "rankings"),
    "rank": ("events", "requests"),
    "learn": ("events", "requests", "served"),
}
REPORTS = {"features": ("events", "rankings"), "rank": ("requests",), "learn": ("served",)}
PATIENCE = 60.0
"""Seconds without progress after which a flow does not get on."""


@dataclass
class Trial:
    """A project of its own on a broker."""

    folder: Path
    known: Settings
    flows: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def connection(self) -> kafka.Connection:
        return kafka.connection(self.known.kafka, Secrets())

    def places(self, *names: str) -> list[tuple[str, int]]:
        count = self.known.kafka.partitions
        return [(self.known.topic(name), index) for name in names for index in range(count)]

    def topic(self, *names: str) -> Iterator[Incoming]:
        begin = dict.fromkeys(self.places(*names), 0)
        return kafka_letters.to_the_end(self.connection, begin)

    @contextmanager
    def running(self) -> Iterator[None]:
        environment = os.environ | {
            settings.SETTINGS_VARIABLE: str(self.folder / "streamrank.toml"),
            "OMP_NUM_THREADS": "1",
        }
        with ExitStack() as stack:
            for name in FLOWS:
                log = stack.enter_context((self.folder / f"{name}.log").open("wb"))
                command = [sys.executable, "-m", "streamrank", "run", name]
                self.flows[name] = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=log
                )
                stack.callback(_end, self.flows[name])
            yield

    def send(self, count: int, seed: int) -> None:
        now = round(time.time() * 1000)
        records = fuzzing.records(count, now, Random(seed))
        with Sender(self.connection) as sender:
            while batch := list(islice(records, 1000)):
                sender.send(
                    Marked(self.known.topic(one.topic), kafka_letters.ANY, one.key, one.value)
                    for one in batch
                )

    def drained(self) -> bool:
        """Wait until each flow has read all there is; say whether all live and got there."""
        for name, topics in READS.items():
            before, since = -1, time.monotonic()
            while (left := self._left(name, topics)) > 0:
                if left != before:
                    before, since = left, time.monotonic()
                if self.flows[name].poll() is not None or time.monotonic() - since > PATIENCE:
                    return False
                time.sleep(0.5)
        return True

    def _left(self, flow: str, names: tuple[str, ...]) -> int:
        connection = self.connection | {"group.id": f"{self.known.kafka.group}-{flow}"}
        places = self.places(*names)
        ends = kafka_letters.ends(connection, places)
        done = kafka_letters.progress(connection, places)
        return sum(end - max(0, done[where]) for where, end in ends.items())

    def stop(self) -> dict[str, int]:
        for flow in self.flows.values():
            flow.send_signal(signal.SIGTERM)
        return {name: flow.wait(60) for name, flow in self.flows.items()}


def _end(flow: subprocess.Popen[bytes]) -> None:
    flow.kill()
    flow.wait()


def verdict(trial: Trial) -> dict[str, Any]:
    """Read the topics again, and compare what is there with what should be."""
    known, now = trial.known, datetime.now(UTC)
    decoders = deployment.decoders_of(known, *fuzzing.TOPICS)
    bad: set[str] = set()
    asked: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for record in trial.topic(*fuzzing.TOPICS):
        counts[record.topic.removeprefix(known.kafka.prefix)] += 1
        [one] = steps.decode(decoders, [record], now, known.events.max_ahead)
        if isinstance(one, DeadLetter):
            bad.add(record.origin)
        elif isinstance(one, Read) and isinstance(one.event, Request):
            asked[one.event.id] = record.origin
    set_aside: dict[str, str] = {}
    for _, message in letters.Letters(known, trial.connection).records():
        if isinstance(message, DeadLetter):
            set_aside[message.origin] = message.reason
    answers = {name for one in trial.topic("rankings") if (name := _id(one.value))}
    silent = [origin for name, origin in asked.items() if name not in answers]
    wrong = [o for o, reason in set_aside.items() if o not in bad and "too late" not in reason]
    return {
        "records": dict(counts),
        "bad": len(bad),
        "dead_letters": len(set_aside),
        "bad_not_set_aside": len(bad - set_aside.keys()),
        "good_set_aside": len(wrong),
        "requests": len(asked),
        "unanswered": len(silent),
        "examples_of_faults": sorted(bad - set_aside.keys())[:5] + wrong[:5] + silent[:5],
    }


def _id(value: bytes) -> str | None:
    try:
        return decode_ranking(value).id
    except ValueError:
        return None


def project(folder: Path, broker: str) -> Trial:
    """Make settings and topics."""
    prefix = f"fuzz-{uuid4().hex[:8]}-"
    changes: Mapping[str, Mapping[str, Any]] = {
        "kafka": {"bootstrap_servers": broker, "prefix": prefix, "group": f"{prefix}group"},
        "store": {"path": str(folder / "feast")},
        "state": {"path": str(folder / "state"), "every": "1s"},
        "registry": {"path": str(folder / "registry")},
        "rank": {"provider": "cpu"},
    }
    known = settings.changed(stage.KNOWN, changes)
    (folder / "streamrank.toml").write_text(settings.to_toml(known))
    edges.create(known, Secrets())
    return Trial(folder, known)


def measure(broker: str, count: int, seed: int) -> dict[str, Any]:
    """Send the records, let the flows work, and look."""
    with tempfile.TemporaryDirectory() as folder:
        trial = project(Path(folder), broker)
        begun = time.perf_counter()
        with trial.running():
            trial.send(count, seed)
            drained = trial.drained()
            alive = [name for name, flow in trial.flows.items() if flow.poll() is None]
            codes = trial.stop()
        found = verdict(trial)
        for name in set(FLOWS) - {name for name in alive if codes[name] == 0}:
            print((Path(folder) / f"{name}.log").read_text()[-3000:], file=sys.stderr)
    seconds = time.perf_counter() - begun
    run = {"sent": count, "seed": seed, "alive": alive, "exit_codes": codes, "drained": drained}
    return run | found | {"seconds": round(seconds, 1)}


@contextmanager
def a_broker(address: str | None) -> Iterator[str]:
    """Give the broker that was named, or start one."""
    if address is not None:
        yield address
        return
    from tests.services import Kafka

    with tempfile.TemporaryDirectory() as folder:
        broker = Kafka(Path(folder))
        broker.start()
        try:
            yield broker.bootstrap
        finally:
            broker.stop()


def main() -> None:
    """Run the program; exit 1 where a flow died, or a record was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    with a_broker(given.broker) as broker:
        report = measure(broker, given.records, given.seed)
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)
    print(json.dumps(report, indent=2))
    faults = ("bad_not_set_aside", "good_set_aside", "unanswered")
    sys.exit(any(report[name] for name in faults) or len(report["alive"]) < len(FLOWS))


if __name__ == "__main__":
    main()
