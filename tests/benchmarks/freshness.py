"""How soon what people do counts: in the next list, and in the model.

    python tests/benchmarks/freshness.py --report freshness.json [--broker HOST:PORT]

The three flows run as processes on Apache Kafka, and simulated shoppers ask and click, all on this
machine.  `click_to_ranking` is from a deed that was sent to the re-ranked list that it caused.
`feedback_to_serving` is from a click that was sent to the first list scored by a version that has
learned from it, through join, update, gate and swap.  Which ones these are the manifest says, by
the offset in topic `events` up to which the version has learned from feedback.

Clicks of the last `--wait` seconds are left out; one before them that no version has learned
from, to the end, counts as endless.  Without `--broker` an Apache Kafka is started
(`python tests/services.py install`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from rich.console import Console

from streamrank import demo, settings, stage, versions
from streamrank.changes import Changes
from streamrank.drive import Drive, now_ms
from streamrank.edges import registry, topics
from streamrank.edges.broker import readers_of
from streamrank.edges.kafka import Reader, connection
from streamrank.edges.kafka_lag import Lag
from streamrank.edges.kafka_load import Load
from streamrank.events import Event, Interaction, Ranking, Request, decode
from streamrank.features.inputs import Array
from streamrank.settings import Secrets, Settings
from streamrank.tally import percentiles
from streamrank.traffic import ShopperTraffic
from tests.benchmarks.swap import a_broker


@dataclass
class Notes(Changes):
    """When what was done, and when what came of it.

    Attributes:
        deeds: When each was sent (s), by id.
        clicks: When each was sent, as epoch milliseconds, by id.
        caused: Milliseconds from a deed to the list that it caused.
        first: When the first list of each version came, as epoch milliseconds.
    """

    label: str = "click"
    deeds: dict[str, float] = field(default_factory=dict)
    clicks: dict[str, int] = field(default_factory=dict)
    caused: list[float] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)

    def sent(self, event: Event | Request | None) -> None:
        """Note a deed."""
        if isinstance(event, Interaction):
            self.deeds[event.id] = time.monotonic()
            if event.type == self.label:
                self.clicks[event.id] = now_ms()

    def ranked(self, ranking: Ranking, now: float) -> None:
        """Note a list."""
        self.first.setdefault(ranking.model, now_ms())
        deed = self.deeds.pop(ranking.trigger or "", None)
        if deed is not None:
            self.caused.append(1000 * (now - deed))


class Straight:
    """Records to a broker that keeps them, however far the flows are."""

    def __init__(self, load: Load, known: Settings) -> None:
        self._load = load
        read: dict[str, list[str]] = {}
        for topic, groups in readers_of(known).items():
            for group in groups:
                read.setdefault(group, []).append(topic)
        to_broker = connection(known.kafka, Secrets())
        self._lags = [Lag(to_broker, topics, group) for group, topics in read.items()]

    def send(self, topic: str, key: str, payload: bytes) -> bool:
        """Send a record."""
        self._load.send(topic, key, payload)
        return True

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    @property
    def unread(self) -> int:
        """Records that the flows have still to read, as of their last snapshots."""
        return sum(sum(lag().values()) for lag in self._lags)


@dataclass(frozen=True)
class Click:
    """A click on the broker: in which partition and at which offset, and when it was sent (ms)."""

    partition: str
    offset: int
    sent: int


def on_the_broker(known: Settings, sent: Mapping[str, int]) -> list[Click]:
    """Return where the clicks lie."""
    found: list[Click] = []
    with Reader(connection(known.kafka, Secrets()), [known.topic("events")]) as reader:
        while len(found) < len(sent) and (records := reader.poll(5.0)):
            for record in records:
                event = decode(record.value)
                if isinstance(event, Interaction) and event.id in sent:
                    partition = record.origin.rpartition("@")[0]
                    found.append(Click(partition, record.offset, sent[event.id]))
    return found


def seconds_to_serving(
    clicks: Sequence[Click],
    learned: Mapping[str, Mapping[str, int]],
    first: Mapping[str, int],
) -> Array:
    """Return how long it took until a version served that has learned from each click, (clicks,).

    Args:
        clicks: The clicks.
        learned: Of each version, the next offset to learn from, by partition.
        first: When the first list of each version came, ms.

    Examples:
        >>> clicks = [Click("events[0]", 7, 1_000), Click("events[0]", 9, 1_000)]
        >>> learned = {"a": {"events[0]": 8}, "b": {"events[0]": 9}}
        >>> seconds_to_serving(clicks, learned, {"a": 4_000, "b": 6_000}).tolist()
        [3.0, inf]
    """
    heard = [(first[version], offsets) for version, offsets in learned.items() if version in first]
    served = sorted(heard, key=lambda one: one[0])
    found = np.full(len(clicks), np.inf)
    for place, click in enumerate(clicks):
        for at, offsets in served:
            if offsets.get(click.partition, 0) > click.offset:
                found[place] = (at - click.sent) / 1000
                break
    return found


def figures(
    notes: Notes,
    clicks: Sequence[Click],
    learned: Mapping[str, Mapping[str, int]],
    ended: int,
    wait: float,
) -> dict[str, Any]:
    """Return how long it took."""
    early = [one for one in clicks if one.sent <= ended - 1000 * wait]
    seconds = seconds_to_serving(early, learned, notes.first)
    return {
        "feedback_to_serving_p95_s": _finite(np.quantile(seconds, 0.95, method="higher")),
        "feedback_to_serving_p50_s": _finite(np.quantile(seconds, 0.5, method="higher")),
        "click_to_ranking_p99_ms": percentiles(notes.caused)["p99"],
        "click_to_ranking_ms": percentiles(notes.caused),
        "clicks": len(seconds),
        "never_served": int(np.isinf(seconds).sum()),
        "re-ranked": len(notes.caused),
    }


def _finite(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


def measure(asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run everything, and look at the times."""
    with tempfile.TemporaryDirectory() as name:
        (data := Path(name, "kafka")).mkdir()
        act = demo.shoppers(asked.seconds)
        with a_broker(asked.broker, data) as broker:
            prefix = f"fresh-{uuid4().hex[:8]}-"
            known = settings.changed(act.known, {"kafka": {"prefix": prefix, "group": prefix}})
            state = {"state": {"path": str(Path(name, "state"))}}
            place = stage.prepare(Path(name, "stage"), settings.changed(known, state), broker)
            topics.create(place.known, Secrets())
            first = versions.train(act.examples, place.known, console)
            notes = play(place, act, console)
            ended = now_ms()
            clicks = on_the_broker(place.known, notes.clicks)
            made = registry.versions(place.known.registry.path, place.known.model.name)
    learned = {one.version: one.offsets for one in made if one.version != first.version}
    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "seconds": asked.seconds,
        **figures(notes, clicks, learned, ended, asked.wait),
        "versions": {
            "published": sum(one.rejected is None for one in made) - 1,
            "rejected": sum(one.rejected is not None for one in made),
            "served": len(notes.first),
        },
    }


def play(place: stage.Stage, act: demo.Act, console: Console) -> Notes:
    """Let shoppers act on all three flows, and note what comes of it."""
    known: Settings = place.known
    to_broker = connection(known.kafka, Secrets())
    back = [known.topic("rankings"), known.topic("dead-letters")]
    notes = Notes(act.title, label=known.events.label or "click")
    with (
        Load(to_broker) as load,
        Reader(to_broker, back, fetch_wait=0.1) as reader,
        stage.flows(place) as alive,
    ):
        drive = Drive(place, Straight(load, known), reader, alive, notes)
        drive.warm(act.past)
        for record in (notes.deeds, notes.clicks, notes.caused, notes.first):
            record.clear()
        traffic = act.traffic()
        assert isinstance(traffic, ShopperTraffic)  # for the type
        drive.run(traffic, lambda seconds: None)
        answered = percentiles(drive.tally.latencies)
        console.print(f"{len(drive.tally.answers)} requests answered, {answered}")
    return notes


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--broker", help="host:port of a broker; else one is started")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long people act")
    parser.add_argument("--wait", type=float, default=20.0, help="seconds a last click may take")
    asked = parser.parse_args()
    report = measure(asked, Console())
    print(json.dumps(report, indent=2))
    draft = asked.report.with_name(asked.report.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(asked.report)


if __name__ == "__main__":
    main()
