"""A sudden change of taste, and labels that say the opposite: what learning on makes of both.

    python tests/benchmarks/drift.py --report drift.json [--lists 5000 1000 6000]

Simulated shoppers, whose likes are known, ask for lists and see them in an order of chance, so that
clicks tell likes rather than places.  Most of them come for a few lists: what is known of them is
their kind, and what kinds like is in the weights.  (With few shoppers and many lists of each, as
`--shoppers 40`, histories say it all, and follow a change by themselves, learning or not.)

A model is trained on the first lists.  Then `replay` ranks every list before its own feedback:
with the model left as it was (frozen), and with the lessons, the gate and the roll-back of the
learn flow (online).  Some time later, in two logs that are the same until then,

- all tastes change at once (`World.shift`), or
- every label that reaches the learner is the opposite of what people did: a bug upstream.

Quality is how far a ranking has come from the incoming order to the true best one, by NDCG@10
against the simulator's truth: 0 is the incoming order, 1 the best.  Former quality is that of the
lists before the change.  A system is back with the first list at which the mean of the `WINDOW`
lists before it is at least 95 % of it.

`--log LOG` writes the log of changing tastes instead, for `streamrank replay --events LOG`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from streamrank import deployment, infer, replay, settings, versions
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.evaluation import metrics
from streamrank.events import Event, Interaction, Request
from streamrank.features.inputs import Array
from streamrank.learning.examples import Example
from streamrank.lessons import Judged, WentBack
from streamrank.replay import Begin, Learns, Replay
from streamrank.settings import Settings
from streamrank.simulate import Size, World
from streamrank.traffic import scores_of

START = 1_700_000_000_000
EVERY = 20_000
"""Milliseconds between two lists."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STILL = timedelta(days=100_000)
"""A turn so long that tastes do not drift by themselves."""
WINDOW = 300
"""Lists that a quality is the mean of."""
BACK = 0.95
SIZE = Size(items=100, shoppers=3000, candidates=10)


@dataclass(frozen=True)
class Case:
    """A log, and what is measured of it.

    Attributes:
        world: Whose log it is.
        known: The settings that fit it.
        events: The log.
        begins: Lists before this one may be learned from, the rest is measured.
        change: The list with which something changes.
    """

    world: World
    known: Settings
    events: Sequence[Event | Request]
    begins: int
    change: int

    @property
    def lists(self) -> list[Request]:
        """All lists, in order."""
        return [event for event in self.events if isinstance(event, Request)]

    def records(self, until: int | None = None) -> list[Incoming]:
        """Return the log as it is read, up to a time."""
        events = [one for one in self.events if until is None or one.timestamp < until]
        payloads = enumerate(one.encode() for one in events)
        return [Incoming(replay.TOPIC, 0, number, payload) for number, payload in payloads]

    def share(self) -> float:
        """Return which share of the labelled lists comes before the measured ones."""
        first = {shown.id for shown in self.lists[: self.begins]}
        labelled = replay.survey(self.records(), self.known, NOW).labelled
        return sum(one in first for one in labelled) / len(labelled)


class Reversed:
    """Lessons that are told the opposite of what people did, from some time on.

    Args:
        lessons: What learns.
        since: The time, ms.
    """

    def __init__(self, lessons: Learns, since: int) -> None:
        self.lessons, self.since = lessons, since
        self.champion = lessons.champion

    def take(self, examples: Sequence[Example], now: datetime) -> Sequence[object]:
        """Take examples in, those of that time and after turned round."""
        told = [self._turned(one) if one.at >= self.since else one for one in examples]
        news = list(self.lessons.take(told, now))
        self.champion = self.lessons.champion
        return news

    def _turned(self, example: Example) -> Example:
        return replace(example, labels=np.asarray(1 - example.labels))


def case(
    learned: int, before: int, after: int, *, shift: bool, size: Size = SIZE, seed: int = 0
) -> Case:
    """Return the log of a world in which tastes may change.

    Args:
        learned: Lists that may be learned from.
        before: Lists that are measured before the change.
        after: Lists that are measured after it.
        shift: Whether tastes change; else they stay.
        size: How large the world is.
        seed: Of the world.
    """
    world = World(seed=seed, size=size, turn=STILL)
    if shift:
        world.shift(START + (learned + before) * EVERY)
    events = list(log_of(world, learned + before + after, seed))
    known = settings.changed(infer.infer(events).settings, {"rank": {"triggers": ()}})
    return Case(world, known, events, learned, learned + before)


def log_of(world: World, lists: int, seed: int) -> Iterator[Event | Request]:
    """Give what people ask for, and what they do with lists in an order of chance."""
    random = np.random.default_rng(seed)
    yield from world.catalogue(START - 1)
    coming: list[tuple[int, str, Interaction]] = []
    for at in range(START, START + lists * EVERY, EVERY):
        while coming and coming[0][0] <= at:
            yield heapq.heappop(coming)[2]
        request = world.request(at)
        yield request
        shown = random.permutation([item.id for item in request.items]).tolist()
        for deed in world.feedback(request, shown, at):
            heapq.heappush(coming, (deed.timestamp, deed.id, deed))
    while coming:
        yield heapq.heappop(coming)[2]


def train(
    given: Case, folder: Path, epochs: int, learn: dict[str, Any], console: Console
) -> Settings:
    """Train a version from the first lists, and return the settings that name its registry.

    Args:
        given: The log.
        folder: Where the registry goes.
        epochs: Passes over the first lists.
        learn: How it goes on learning, as in `[learn]`.
        console: Where to say how it goes.
    """
    own: dict[str, dict[str, Any]] = {
        "registry": {"path": str(folder)},
        "model": {"epochs": epochs},
        "learn": learn,
    }
    known = settings.changed(given.known, own)
    lane = replay.lane_of(known, AsShown(), NOW)
    until = given.lists[given.begins].timestamp
    examples = replay.gather(lane, given.records(until), known)
    versions.train(examples, known, console)
    return known


# --- what is served -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """What a system did.

    Attributes:
        gained: NDCG@10 of each measured list above that of its incoming order.
        room: That of the best order above it.
        news: All that came of the lessons.
    """

    gained: Array
    room: Array
    news: list[object]

    def quality(self, first: int, last: int) -> float:
        """Return the quality of some of the lists."""
        return float(self.gained[first:last].sum() / self.room[first:last].sum())

    def recent(self) -> Array:
        """Return the quality of each `WINDOW` lists in a row, by the last of them."""
        gained, room = (
            np.convolve(one, np.ones(WINDOW), "valid") for one in (self.gained, self.room)
        )
        return np.asarray(gained / room)

    def ndcg(self) -> Array:
        """Return the mean NDCG@10 by the truth of what was served, likewise."""
        served = self.gained + 1 - self.room
        return np.convolve(served, np.ones(WINDOW) / WINDOW, "valid")

    def back(self, change: int) -> int | None:
        """Return after how many lists from a change on it is back, `None` where it is not."""
        found = np.flatnonzero(self.recent()[change:] >= BACK * self.quality(0, change))
        return int(found[0]) + WINDOW if len(found) else None

    def judged(self) -> tuple[int, int]:
        """Return how many versions were published, and how many rejected."""
        passed = [one.verdict.passed for one in self.news if isinstance(one, Judged)]
        return sum(passed), len(passed) - sum(passed)


def run(given: Case, known: Settings, begin: Callable[[Settings], Begin] | None) -> Course:
    """Replay a log from the version that is in the registry, on a copy of it.

    Args:
        given: The log.
        known: Its settings.
        begin: How learning begins; `None` leaves the version as it is.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(known.registry.path, folder, dirs_exist_ok=True)
        known = settings.changed(known, {"registry": {"path": folder}})
        orders: dict[str, list[str]] = {}
        replaying = Replay(
            known,
            replay.survey(given.records(), known, NOW),
            given.share(),
            replay.lane_of(known, AsShown(), NOW),
            train=lambda examples: deployment.scorer_of(known),
            begin=begin(known) if begin else None,
            load=lambda version: deployment.loader_of(known)(version).scorer,
            on_ranking=lambda one: orders.update({one.request: [item.id for item in one.items]}),
        )
        replaying.run(given.records())
    lists = given.lists[given.begins :]
    gained, room = np.array([held(given.world, one, orders[one.id]) for one in lists]).T
    return Course(gained, room, replaying.news)


def held(world: World, request: Request, order: Sequence[str]) -> tuple[float, float]:
    """Return how far an order is above the incoming one by the truth, and how far the best is."""
    truth = world.utility(request)
    incoming = list(truth)
    gains = np.array(list(truth.values()))
    ours, before = (metrics.ndcg(scores_of(one, incoming), gains, 10) for one in (order, incoming))
    return ours - before, 1 - before


# --- what it comes to -----------------------------------------------------------------------------


def reversed_from(since: int) -> Callable[[Settings], Begin]:
    """Return how learning begins that hears the opposite from a time on, ms."""

    def begin(known: Settings) -> Begin:
        return lambda past: Reversed(versions.beginner(known)(past), since)

    return begin


def taste(given: Case, known: Settings) -> dict[str, Any]:
    """Return what becomes of quality when all tastes change, frozen and online."""
    change = given.change - given.begins
    report: dict[str, Any] = {"lists": {"before": change, "after": len(given.lists) - given.change}}
    for name, begin in (("frozen", None), ("online", versions.beginner)):
        course = run(given, known, begin)
        report[name] = {
            "former": course.quality(0, change),
            "at_once": course.quality(change, change + WINDOW),
            "at_last": course.quality(-WINDOW, len(course.gained)),
            "back_after_lists": course.back(change),
        } | counted(course)
    return report


def turned(given: Case, known: Settings) -> dict[str, Any]:
    """Return what is served when the learner hears the opposite, beside the frozen model."""
    change = given.change - given.begins
    frozen = run(given, known, None)
    online = run(given, known, reversed_from(given.lists[given.change].timestamp))
    ratio = online.ndcg()[change:] / frozen.ndcg()[change:]
    return {
        "frozen": {"after": frozen.quality(change, len(frozen.gained))},
        "online": {"after": online.quality(change, len(online.gained))} | counted(online),
        "worst_ndcg_ratio": float(ratio.min()),
    }


def counted(course: Course) -> dict[str, Any]:
    """Return what the gate and the roll-back did, and every version with its parent's figures."""
    published, rejected = course.judged()
    back = [one for one in course.news if isinstance(one, WentBack)]
    believed = [one.verdict.credible for one in course.news if isinstance(one, Judged)]
    return {
        "published": published,
        "rejected": rejected,
        "not_believed": believed.count(False),
        "went_back": len(back),
        "rolled_back": sum(one.rolled_back for one in back),
        "models": versions.judged(course.news),
    }


def main() -> None:
    """Measure, print and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument(
        "--lists",
        type=int,
        nargs=3,
        default=[5000, 1000, 6000],
        metavar=("LEARNED", "BEFORE", "AFTER"),
        help="to be learned from at first, then measured before the change, and after it",
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the updates")
    parser.add_argument("--memory", type=int, default=1000, help="old lists that are remembered")
    parser.add_argument("--replay", type=float, default=3.0, help="old lists for each new one")
    parser.add_argument("--recall", type=float, default=0.5, help="0: labels alone")
    parser.add_argument("--past", choices=("even", "fading"), default="fading")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--shoppers", type=int, default=SIZE.shoppers)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="write the log of changing tastes, and end")
    asked, console = parser.parse_args(), Console()
    size = replace(SIZE, shoppers=asked.shoppers)
    if asked.log:
        changed = case(*asked.lists, shift=True, size=size, seed=asked.seed)
        asked.log.write_bytes(b"".join(one.encode() + b"\n" for one in changed.events))
        return
    if not asked.report:
        parser.error("name a --report or a --log")
    begun, report = time.monotonic(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        learned, before, after = asked.lists
        changed = case(learned, before, after, shift=True, size=size, seed=asked.seed)
        names = ("rate", "memory", "replay", "recall", "past")
        learn = {name: getattr(asked, name) for name in names}
        known = train(changed, Path(folder), asked.epochs, learn, console)
        report["learn"] = learn
        report["taste"] = taste(changed, known)
        same = case(learned, before, min(before, after), shift=False, size=size, seed=asked.seed)
        report["reversed"] = turned(same, known)
    report["seconds"] = round(time.monotonic() - begun, 1)
    report["machine"] = f"{os.cpu_count()} CPUs, {platform.machine()}"
    show(report, console)
    draft = asked.report.with_name(asked.report.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(asked.report)


def show(report: dict[str, Any], console: Console) -> None:
    """Print two tables."""
    names = ("former", "at_once", "at_last", "back_after_lists", "published", "rejected")
    table = Table("all tastes change", *names)
    for system in ("frozen", "online"):
        found = report["taste"][system]
        table.add_row(system, *(_cell(found[name]) for name in names))
    console.print(table)
    others = ("after", "published", "rejected", "not_believed", "rolled_back")
    table = Table("labels turned round", *others)
    for system in ("frozen", "online"):
        found = report["reversed"][system]
        table.add_row(system, *(_cell(found.get(name)) for name in others))
    console.print(table)
    worst = report["reversed"]["worst_ndcg_ratio"]
    console.print(f"NDCG@10 as served, of the frozen model's, at worst: {worst:.4f}")


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
