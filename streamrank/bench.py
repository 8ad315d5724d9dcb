"""How many lists a second: the configured rank flow and model on the configured broker.

The flow runs as a process on topics of its own, which are removed again with their group. For
half of the time so many requests are open that the flow never waits for one; then they come at a
third of the rate that this gave, whatever comes back, and the latencies are taken. Users and
items are made up: the store is asked for them and knows nothing of them.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess  # nosec B404  # the flow as this very program, and nothing that was given
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from streamrank import reading
from streamrank import settings as settings_module
from streamrank.edges import kafka, topics
from streamrank.edges.kafka_load import Load
from streamrank.errors import StreamRankError
from streamrank.events import Candidate, Interaction, Request, decode_ranking
from streamrank.features.schema import FieldKind
from streamrank.settings import Secrets, Settings
from streamrank.tally import percentiles

USERS, ITEMS, OPEN = 200, 2_000, 64
PATIENCE = 60.0
"""Seconds without an answer after which it gives up."""
LISTS = 100
"""Different lists of candidates, made before: so that the load costs little."""
_ANSWERED = re.compile(rb'"request":"(bench-[0-9]+)"')


class BenchFailed(StreamRankError):
    """The flow ended, or does not answer."""


@dataclass
class Bench:
    """Requests to a flow, and their answers."""

    known: Settings
    folder: Path
    port: int
    flow: subprocess.Popen[bytes]
    load: Load
    reader: kafka.Reader
    lists: list[tuple[Candidate, ...]]
    sent: dict[bytes, float] = field(default_factory=dict)
    got: dict[bytes, float] = field(default_factory=dict)
    model: str = ""
    last: float = field(default_factory=time.monotonic)
    """When an answer came last, or none was missing."""

    def histories(self) -> None:
        """Give every user as many steps as the settings remember."""
        types, now = self.known.events.interactions, _now()
        for step in range(self.known.session.history):
            for user in range(USERS):
                deed = Interaction(
                    id=f"bench-{step}-{user}",
                    timestamp=now - 1000 * (self.known.session.history - step),
                    user=f"bench-user-{user}",
                    session="bench",
                    type=types[(step + user) % len(types)],
                    item=f"bench-item-{(31 * step + user) % ITEMS}",
                )
                self.load.send(self.known.topic("events"), deed.key, deed.encode())

    def ask(self) -> None:
        """Send the next request."""
        number = len(self.sent)
        name, user = f"bench-{number}", f"bench-user-{number % USERS}"
        items = self.lists[number % len(self.lists)]
        request = Request(id=name, timestamp=_now(), user=user, session="bench", items=items)
        self.sent[name.encode()] = time.perf_counter()
        self.load.send(self.known.topic("requests"), user, request.encode())

    def receive(self, wait: float) -> None:
        """Take the answers that have come; wait for one at most so long (s).

        Raises:
            BenchFailed: The flow ended, or answers no more.
        """
        before = len(self.got)
        for record in self.reader.poll(wait):
            found = _ANSWERED.search(record.value)
            if found is not None and found[1] in self.sent:
                self.got.setdefault(found[1], time.perf_counter())
                self.model = self.model or decode_ranking(record.value).model
        now = time.monotonic()
        if len(self.got) > before or len(self.got) == len(self.sent):
            self.last = now
        if self.flow.poll() is not None or now - self.last > PATIENCE:
            raise self._failed()

    def settle(self) -> None:
        """Wait until every request is answered.

        Raises:
            BenchFailed: The flow ended, or answers no more.
        """
        while len(self.got) < len(self.sent):
            self.receive(0.1)

    def _failed(self) -> BenchFailed:
        said = (self.folder / "rank.log").read_text(errors="replace").strip()[-1500:]
        left = len(self.sent) - len(self.got)
        return BenchFailed(f"{left} requests without an answer; the rank flow says:\n{said}")

    def full(self, seconds: float) -> float:
        """Return lists a second where the flow never waits for a request.

        It takes longer where fewer answers come than there are requests open: a rate made of
        those would say nothing, and there may be none at all.
        """
        begun, before, now = time.perf_counter(), len(self.got), 0.0
        while now < seconds or len(self.got) - before < OPEN:
            for _ in range(OPEN - (len(self.sent) - len(self.got))):
                self.ask()
            self.receive(0.005)
            now = time.perf_counter() - begun
        return (len(self.got) - before) / now

    def steady(self, seconds: float, rate: float) -> list[float]:
        """Ask at a rate, and return how long each answer took, ms."""
        self.settle()
        first, begun = len(self.sent), time.perf_counter()
        while (now := time.perf_counter()) - begun < seconds:
            while len(self.sent) - first < (now - begun) * rate:
                self.ask()
            self.receive(0.001)
        self.settle()
        return [1000 * (self.got[name] - self.sent[name]) for name in list(self.sent)[first:]]

    def steps(self) -> dict[str, tuple[float, float]]:
        """Return seconds and values of each step so far."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:  # nosec B310  # our own flow
            return step_totals(answer.read().decode())


def step_totals(exposition: str) -> dict[str, tuple[float, float]]:
    """Return seconds and values of each step, from what a flow tells Prometheus.

    Examples:
        >>> said = '''# TYPE streamrank_step_seconds histogram
        ... streamrank_step_seconds_sum{step="score"} 1.5
        ... # TYPE streamrank_batch_size histogram
        ... streamrank_batch_size_sum{step="score"} 600.0
        ... '''
        >>> step_totals(said)
        {'score': (1.5, 600.0)}
    """
    sums: dict[str, dict[str, float]] = {"streamrank_step_seconds": {}, "streamrank_batch_size": {}}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if family.name in sums and sample.name.endswith("_sum"):
                sums[family.name][sample.labels["step"]] = sample.value
    seconds, sizes = sums.values()
    return {step: (seconds[step], sizes.get(step, 0.0)) for step in seconds}


def run(
    settings_file: Path | None,
    broker: str | None,
    seconds: float,
    candidates: int,
    *,
    console: Console,
) -> dict[str, Any]:
    """Measure, show what was found, and return it as a report.

    Args:
        settings_file: The settings.
        broker: Address of another broker than the settings'.
        seconds: How long requests are sent.
        candidates: Of each request.
        console: Where people look.

    Raises:
        BenchFailed: The flow ended, or does not answer.
        StreamRankError: The settings cannot be read, or the broker does not answer or says no.
    """
    with tempfile.TemporaryDirectory() as name:
        known = _own(settings_module.load(settings_file), broker, Path(name))
        with _topics(known), _bench(known, Path(name), candidates) as bench:
            reading.say(console, f"measuring on {known.kafka.bootstrap_servers}")
            bench.histories()
            for _ in range(USERS):
                bench.ask()
            bench.settle()
            before = bench.steps()
            rate = bench.full(seconds / 2)
            bench.settle()
            steps = per_list(before, bench.steps(), 1 / rate)
            latency = percentiles(bench.steady(seconds / 2, rate / 3))
            report = {
                "broker": known.kafka.bootstrap_servers,
                "model": bench.model,
                "candidates": candidates,
                "history": known.session.history,
                "rankings_per_second": round(rate, 1),
                "latency_ms": latency,
                "at_rankings_per_second": round(rate / 3, 1),
                "steps_us": steps,
                "requests": len(bench.sent),
                "answered": len(bench.got),
            }
    show(report, console)
    return report


def per_list(
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
    seconds: float,
) -> dict[str, float]:
    """Return what each step takes of a list, in microseconds, and what is left.

    Args:
        before: Seconds and values of each step so far, at the beginning.
        after: The same at the end.
        seconds: Of a list, in all.

    Examples:
        >>> per_list({"score": (1.0, 100.0)}, {"score": (1.5, 1100.0)}, 0.0008)
        {'score': 500.0, 'engine, sessions, Kafka': 300.0}
    """
    found = {}
    for step, (spent, values) in after.items():
        spent_before, values_before = before.get(step, (0.0, 0.0))
        if values > values_before:
            found[step] = round(1e6 * (spent - spent_before) / (values - values_before), 1)
    left = max(0.0, 1e6 * seconds - sum(found.values()))
    return found | {"engine, sessions, Kafka": round(left, 1)}


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    latency, steps = report["latency_ms"], report["steps_us"]
    of = f"{report['candidates']} candidates, history of {report['history']}, {report['model']}"
    table = Table("what", "", title=f"rank flow: {of}")
    table.add_row("rankings/s, never waiting", f"{report['rankings_per_second']:,.0f}")
    for name, value in latency.items():
        rate = report["at_rankings_per_second"]
        table.add_row(f"latency {name} at {rate:,.0f}/s", f"{value:.1f} ms")
    whole = sum(steps.values()) or 1.0
    for step, value in steps.items():
        table.add_row(f"a list in {step}", f"{value:,.0f} us, {100 * value / whole:.0f} %")
    console.print(table)


def _own(known: Settings, broker: str | None, folder: Path) -> Settings:
    """Return the settings with topics, group and snapshots that are nobody else's."""
    name = f"bench-{uuid4().hex[:8]}"
    return settings_module.changed(
        known,
        {
            "kafka": {
                "bootstrap_servers": broker or known.kafka.bootstrap_servers,
                "prefix": f"{name}-",
                "group": name,
                "start": "earliest",
            },
            "state": {"path": str(folder / "state")},
            "metrics": {"address": "127.0.0.1", "port": _free_port(), "logs": "text"},
        },
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _topics(known: Settings) -> Iterator[None]:
    topics.create(known, Secrets())
    try:
        yield
    finally:
        topics.remove(known, Secrets(), groups=[f"{known.kafka.group}-rank"])


@contextmanager
def _bench(known: Settings, folder: Path, candidates: int) -> Iterator[Bench]:
    """Run the flow, and let it stop in an orderly way."""
    connection = kafka.connection(known.kafka, Secrets())
    file = folder / "streamrank.toml"
    file.write_text(settings_module.to_toml(known), encoding="utf-8")
    command = [sys.executable, "-m", "streamrank", "run", "rank", "--settings", str(file)]
    with (
        Load(connection) as load,
        kafka.Reader(connection, [known.topic("rankings")], fetch_wait=0.1) as reader,
        (folder / "rank.log").open("wb") as out,
    ):
        flow = subprocess.Popen(  # nosec B603  # words of our own, no shell
            command, stdout=out, stderr=out, env=_environment(), start_new_session=True
        )
        try:
            port = known.metrics.port or 0
            yield Bench(known, folder, port, flow, load, reader, _lists(known, candidates))
        finally:
            flow.send_signal(signal.SIGTERM)
            try:
                flow.wait(30)
            except subprocess.TimeoutExpired:
                flow.kill()
                flow.wait()


def _environment() -> dict[str, str]:
    """Return the environment without what would send the flow elsewhere; secrets stay."""
    secrets = {f"STREAMRANK_{name.upper()}" for name in Secrets.model_fields}
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("STREAMRANK_") or name.upper() in secrets
    }


def _lists(known: Settings, candidates: int) -> list[tuple[Candidate, ...]]:
    draw = random.Random(0)  # noqa: S311  # nosec B311  # candidates, no secrets

    def value(kind: FieldKind, item: int) -> Any:
        texts = {"category": f"c{item % 20}", "text": f"word{item % 50} word{item % 70}"}
        return {"number": float(item), "text_list": (f"t{item % 30}",), **texts}[kind]

    def candidate(item: int) -> Candidate:
        fields = {name: value(kind, item) for name, kind in known.fields.item.items()}
        return Candidate(id=f"bench-item-{item}", fields=fields)

    population = range(max(ITEMS, candidates))
    return [
        tuple(candidate(item) for item in draw.sample(population, candidates)) for _ in range(LISTS)
    ]


def _now() -> int:
    return time.time_ns() // 1_000_000
