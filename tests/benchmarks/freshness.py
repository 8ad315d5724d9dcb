"""How soon what people do counts: in the next list, and in the model.

    python tests/benchmarks/freshness.py --report freshness.json [--broker HOST:PORT]

The three flows run as processes on Apache Kafka, and simulated shoppers ask and click, all on this
machine.  `click_to_ranking` is from a deed that was sent to the re-ranked list that it caused.
`feedback_to_serving` is from a click that was sent to the first list scored by a version that has
learned from it, through join, update, gate and swap.  Which ones these are the manifest says:
a list's feedback waits a moment (`learn.settle`) before it is learned from, so a version that has
learned from a list shown at some time has learned from all feedback that came before that time.

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
from collections.abc import Mapping
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
from streamrank.edges.broker import HeldProducer, readers_of
from streamrank.edges.kafka import Reader, connection
from streamrank.events import Event, Interaction, Ranking, Request
from streamrank.settings import Secrets, Settings
from streamrank.tally import percentiles
from streamrank.traffic import ShopperTraffic
from tests.benchmarks.swap import a_broker


@dataclass
class Notes(Changes):
    """When what was done, and when what came of it.

    Attributes:
        deeds: When each was sent (s), by id.
        clicks: When each was sent, as epoch milliseconds.
        caused: Milliseconds from a deed to the list that it caused.
        first: When the first list of each version came, as epoch milliseconds.
    """

    label: str = "click"
    deeds: dict[str, float] = field(default_factory=dict)
    clicks: list[int] = field(default_factory=list)
    caused: list[float] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)

    def sent(self, event: Event | Request | None) -> None:
        """Note a deed."""
        if isinstance(event, Interaction):
            self.deeds[event.id] = time.monotonic()
            if event.type == self.label:
                self.clicks.append(now_ms())

    def ranked(self, ranking: Ranking, now: float) -> None:
        """Note a list."""
        self.first.setdefault(ranking.model, now_ms())
        deed = self.deeds.pop(ranking.trigger or "", None)
        if deed is not None:
            self.caused.append(1000 * (now - deed))


def figures(
    notes: Notes, learned_until: Mapping[str, int | None], ended: int, wait: float
) -> dict[str, Any]:
    """Return how long it took."""
    known = sorted(
        (until, notes.first[version])
        for version, until in learned_until.items()
        if until is not None and version in notes.first
    )
    until = np.array([one for one, _ in known], np.float64)
    # The first list of this version, or of any that has learned even longer.
    served = np.minimum.accumulate([at for _, at in reversed(known)])[::-1].astype(np.float64)
    clicks = np.array([at for at in notes.clicks if at <= ended - 1000 * wait], np.float64)
    places = np.searchsorted(until, clicks)
    padded = np.append(served, np.inf)
    seconds = (padded[places] - clicks) / 1000
    return {
        "feedback_to_serving_p95_s": _finite(np.quantile(seconds, 0.95, method="higher")),
        "feedback_to_serving_p50_s": _finite(np.quantile(seconds, 0.5, method="higher")),
        "click_to_ranking_p99_ms": percentiles(notes.caused)["p99"],
        "click_to_ranking_ms": percentiles(notes.caused),
        "clicks": len(clicks),
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
            place = stage.prepare(Path(name, "stage"), known, broker)
            topics.create(place.known, Secrets())
            first = versions.train(act.examples, place.known, console)
            notes = play(place, act, console)
            ended = now_ms()
            made = registry.versions(place.known.registry.path, place.known.model.name)
    until = {one.version: one.learned_until for one in made if one.version != first.version}
    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "seconds": asked.seconds,
        **figures(notes, until, ended, asked.wait),
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
    outputs = [known.topic("rankings"), known.topic("served")]
    back = [known.topic("rankings"), known.topic("dead-letters")]
    notes = Notes(act.title, label=known.events.label or "click")
    with (
        HeldProducer(to_broker, readers_of(known), outputs) as producer,
        Reader(to_broker, back) as reader,
        stage.flows(place) as alive,
    ):
        drive = Drive(place, producer, reader, alive, notes)
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
