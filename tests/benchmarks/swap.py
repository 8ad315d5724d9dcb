"""Hot swaps under constant load: what a hundred of them cost those who wait for their lists.

    python tests/benchmarks/swap.py --report swap.json [--broker HOST:PORT] [--swaps 100]

The rank flow runs as a process on Apache Kafka and is asked for lists of 100 candidates at a
constant rate. Four versions of a Ranker, with weights of their own, take turns: each is pointed
at in the registry and announced, as the learner and `streamrank models rollback` do it, and is
verified, built and tried before it serves.

`lost` and `duplicated` count requests. `p99_ratio` compares the round trips of requests that were
under way between an announcement and a tenth of a second after the first list of its version
(`during`) with those of all others (`between`). `rss_growth` compares the resident memory of the
flow after the last ten swaps with that after swaps 11 to 20.  The first swap comes after a minute
of load: until then the flow grows anyway, as users and items become known to it.

Without `--broker` an Apache Kafka is started (`python tests/services.py install`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
import torch
from confluent_kafka import Producer

from streamrank import deployment, settings
from streamrank.edges import kafka, registry, topics
from streamrank.edges.announcements import Announcer
from streamrank.edges.registry import Manifest
from streamrank.events import Candidate, Request, decode_ranking
from streamrank.model import export
from streamrank.model.artifact import Exported
from streamrank.model.injection import Graph
from streamrank.model.ranker import Ranker, configure, fit_bins
from streamrank.settings import Secrets, Settings

ROOT = Path(__file__).parents[2]
CANDIDATES, ITEMS, USERS, VERSIONS = 100, 2000, 200, 4
SETTLES = 0.1
"""Seconds after the first list of a new version that still count as its swap."""
QUIET = 0.5
"""Seconds between a swap and the next one."""
WARM = 60.0
"""Seconds of load before the first swap."""
PATIENCE = 60.0


def project(folder: Path, broker: str) -> Settings:
    """Return the settings of a project of its own."""
    return settings.changed(
        Settings(),
        {
            "events": {"interactions": ["view", "click"], "label": "click"},
            "fields": {"item": {"price": "number", "title": "text"}},
            "rank": {"provider": "cpu", "triggers": []},
            "kafka": {
                "bootstrap_servers": broker,
                "prefix": f"swap-{uuid4().hex[:8]}-",
            },
            "store": {"path": str(folder / "feast")},
            "state": {"path": str(folder / "state"), "every": "10s"},
            "registry": {"path": str(folder / "registry")},
        },
    )


def publish(known: Settings) -> list[Manifest]:
    """Publish versions of one structure, each with other weights."""
    config = configure(known.feature_schema(), "small")
    random = np.random.default_rng(0)
    numbers, context = (random.normal(size=(500, n)) for n in (config.numbers, config.context))
    ranker = Ranker(config, fit_bins(numbers, config.bins), fit_bins(context, config.bins)).eval()
    graph = Graph.of(ranker)
    published: list[Manifest] = []
    probe = export.random_inputs(config, 8, 20, 30)
    for _ in range(VERSIONS):
        with torch.no_grad():
            for weight in ranker.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.05)
        weights = {name: tensor.numpy().copy() for name, tensor in ranker.state_dict().items()}
        made = Exported(
            export.folded(graph.with_weights(weights)),
            weights,
            config.heads,
            probe,
            export.run(ranker, probe),
            graph.encode(),
        )
        parent = published[-1].version if published else None
        published.append(
            registry.publish(
                known.registry.path,
                known.model.name,
                made,
                schema=known.feature_schema(),
                features=deployment.plan_of(known).features,
                now=datetime.now(UTC),
                parent=parent,
            )
        )
    return published


@contextmanager
def flow(known: Settings, folder: Path) -> Iterator[psutil.Process]:
    """Run the rank flow as a process of its own."""
    file = folder / "streamrank.toml"
    file.write_text(settings.to_toml(known))
    command = [sys.executable, "-m", "streamrank", "run", "rank", "--settings", str(file)]
    log = folder / "rank.log"
    with log.open("wb") as out:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environment)
        try:
            yield psutil.Process(running.pid)
        except TimeoutError as late:
            raise SystemExit(f"{late}; the flow says:\n{log.read_text()[-3000:]}") from None
        finally:
            running.terminate()
            running.wait(30)


@dataclass
class Load:
    """Requests at a constant rate, and what came of each."""

    known: Settings
    rate: float
    sent: dict[str, float] = field(default_factory=dict)
    got: dict[str, float] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    first: dict[str, float] = field(default_factory=dict)
    """When each version was first heard of since it was last forgotten."""
    news: threading.Condition = field(default_factory=threading.Condition)
    """A version was heard of that had been forgotten."""
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._connection = kafka.connection(self.known.kafka, Secrets())
        self._random = np.random.default_rng(1)

    def send(self) -> None:
        """Send until told to end; what came late is made up for."""
        producer = Producer(
            {"bootstrap.servers": self.known.kafka.bootstrap_servers, "linger.ms": 0}
        )
        due = time.perf_counter()
        while not self.ended.is_set():
            due += 1 / self.rate
            producer.poll(max(0.0, due - time.perf_counter()))
            time.sleep(max(0.0, due - time.perf_counter()))
            request = self._request(len(self.sent))
            self.sent[request.id] = time.perf_counter()
            producer.produce(self.known.topic("requests"), request.encode(), request.key)
        producer.flush(PATIENCE)

    def receive(self, reader: kafka.Reader) -> None:
        """Take answers until told to end and all have come, or none comes any more."""
        heard = time.perf_counter()
        while True:
            for record in reader.poll(0.05):
                heard = time.perf_counter()
                ranking = decode_ranking(record.value)
                self.got.setdefault(ranking.id, heard)
                self.answers[ranking.id] += 1
                if ranking.model not in self.first:
                    with self.news:
                        self.first[ranking.model] = heard
                        self.news.notify()
            silent = time.perf_counter() - heard
            if self.ended.is_set() and (silent > PATIENCE or (silent > 2 and self.open == 0)):
                return

    @property
    def open(self) -> int:
        """Requests without an answer."""
        return len(self.sent) - len(self.got)

    def _request(self, number: int) -> Request:
        items = self._random.choice(ITEMS, CANDIDATES, replace=False)
        return Request(
            id=f"r{number}",
            timestamp=time.time_ns() // 1_000_000,
            user=f"u{number % USERS}",
            items=tuple(Candidate(id=f"i{item}", fields={"price": int(item)}) for item in items),
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send and receive in threads of their own; wait for the last answers."""
        topic = self.known.topic("rankings")
        with kafka.Reader(self._connection, [topic], from_end=True, fetch_wait=0.1) as reader:
            threads = [
                threading.Thread(target=self.send),
                threading.Thread(target=self.receive, args=(reader,)),
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self.ended.set()
                for thread in threads:
                    thread.join()


def wait_for(load: Load, version: str, process: psutil.Process) -> float:
    """Return when the first list of a version came; whoever polled would slow the load down."""
    with load.news:
        if not load.news.wait_for(lambda: version in load.first, PATIENCE):
            state = "still runs" if process.is_running() else "has ended"
            raise TimeoutError(f"{version} does not serve after {PATIENCE:.0f} s, the flow {state}")
    return load.first[version]


def swap(
    load: Load, published: Sequence[Manifest], swaps: int, process: psutil.Process
) -> tuple[list[tuple[float, float]], list[float]]:
    """Let the versions take turns; return each swap's span, and the memory after it in MB."""
    known, spans, memory = load.known, list[tuple[float, float]](), list[float]()
    root, name = known.registry.path, known.model.name
    with Announcer(kafka.connection(known.kafka, Secrets()), known.topic("models")) as announcer:
        for number in range(swaps):
            one, now = published[number % VERSIONS], datetime.now(UTC)
            load.first.pop(one.version, None)
            begun = time.perf_counter()
            registry.point(root, name, one.version, "its turn", now)
            announcer.announce(name, one.version, one.digest, "its turn", now)
            spans.append((begun, wait_for(load, one.version, process) + SETTLES))
            time.sleep(SETTLES + QUIET)
            memory.append(process.memory_info().rss / 2**20)
            print(
                f"\rswap {number + 1} of {swaps}: {spans[-1][1] - SETTLES - begun:.2f} s, "
                f"{memory[-1]:.0f} MB ",
                end="",
                file=sys.stderr,
                flush=True,
            )
    print(file=sys.stderr)
    return spans, memory


def figures(load: Load, spans: Sequence[tuple[float, float]], begun: float) -> dict[str, object]:
    """Return the round trips of requests that met a swap, and of the others."""
    kinds: dict[str, list[float]] = {"during": [], "between": []}
    for name, sent in load.sent.items():
        got = load.got.get(name)
        if got is None or sent < begun or sent > spans[-1][1] + QUIET:
            continue
        met = any(sent <= end and got >= start for start, end in spans)
        kinds["during" if met else "between"].append(1000 * (got - sent))
    shown = {kind: _quantiles(times) for kind, times in kinds.items()}
    ratio = shown["during"]["p99"] / shown["between"]["p99"]
    return {"p99_ratio": round(ratio, 3), "latency_ms": shown}


def _quantiles(times: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    found = {f"p{share}": round(cuts[share - 1], 2) for share in (50, 90, 99)}
    return found | {"max": round(max(times), 2), "requests": len(times)}


@contextmanager
def a_broker(address: str | None, folder: Path) -> Iterator[str]:
    """Give the broker that was named, or start one."""
    if address is not None:
        yield address
        return
    sys.path.append(str(ROOT))
    from tests.services import Kafka

    service = Kafka(folder)
    service.start()
    try:
        yield service.bootstrap
    finally:
        service.stop()


def measure(address: str | None, swaps: int, rate: float) -> dict[str, object]:
    """Run the flow under load, and swap."""
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name) / "kafka").mkdir()
        with a_broker(address, folder) as broker:
            known = project(Path(name), broker)
            topics.create(known, Secrets())
            published = publish(known)
            load = Load(known, rate)
            gc.collect()
            gc.freeze()  # or a look through PyTorch's objects would be measured as a round trip
            with flow(known, Path(name)) as process, load.running():
                warm = wait_for(load, published[-1].version, process)
                while load.open > rate or time.perf_counter() - warm < WARM:
                    time.sleep(0.05)  # what was sent while it started is worked off
                begun = time.perf_counter()
                spans, memory = swap(load, published, swaps, process)
    gc.unfreeze()
    early, late = statistics.mean(memory[10:20] or memory), statistics.mean(memory[-10:])
    built = sorted(end - SETTLES - start for start, end in spans)
    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "rate": rate,
        "requests": len(load.sent),
        "swaps": len(spans),
        "lost": load.open,
        "duplicated": sum(count > 1 for count in load.answers.values()),
        **figures(load, spans, begun),
        "rss_growth": round(late / early - 1, 4),
        "rss_mb": {"swaps 11 to 20": round(early, 1), "last ten": round(late, 1)},
        "announced_to_serving_s": {
            "p50": round(statistics.median(built), 3),
            "max": round(built[-1], 3),
        },
    }


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    given = parser.parse_args()
    report = measure(given.broker, given.swaps, given.rate)
    print(json.dumps(report, indent=2))
    partial = given.report.with_name(given.report.name + ".part")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(given.report)


if __name__ == "__main__":
    main()
