"""Everything at once, live: a broker, the flows as processes, people who act, and a view of it.

The order of things: history (a log's first share, or what shoppers did so far) trains a first
version; the flows start on an embedded broker; then people act until the time or the log is over.
"""

from __future__ import annotations

import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from streamrank import infer, reading, replay, steps, versions
from streamrank.drive import Drive, now_ms
from streamrank.edges import log as event_log
from streamrank.edges.broker import EmbeddedBroker, HeldProducer, readers_of
from streamrank.edges.kafka import Incoming, Reader, connection
from streamrank.edges.onnxruntime import AsShown
from streamrank.events import Event, Ranking, Request
from streamrank.learning.examples import Example
from streamrank.settings import Secrets, Settings
from streamrank.simulate import World
from streamrank.stage import TOPICS, Stage, flows, prepare, refuse_other
from streamrank.steps import Read
from streamrank.tally import Tally
from streamrank.traffic import LogTraffic, ShopperTraffic, Traffic
from streamrank.ui.live import LiveView, Picture

LEARNED = 0.7
"""Share of a log's labelled lists that the first version learns from."""
PAST = 1_500
"""Lists that simulated shoppers have seen before a demo begins."""
PACE = 30.0
"""Requests of simulated shoppers in a second."""
KEPT = 10_000
"""Lists that are remembered, to be held beside the same list after a click."""


@dataclass
class Act:
    """What is played: who acts, what happened before, and how items are called.

    Attributes:
        known: The settings that fit.
        examples: Lists of the past to learn from.
        past: What happened before, which the flows are told first.
        traffic: Makes those who act, when it begins.
        title: The name of an item for people.
        seconds: How long it takes, where that is known.
    """

    known: Settings
    examples: list[Example]
    past: list[Event]
    traffic: Callable[[], Traffic]
    title: Callable[[str], str]
    seconds: float | None


def run(
    events: Path | None, *, seconds: float, max_speed: bool, folder: Path, console: Console
) -> dict[str, Any]:
    """Show it all, and return the report.

    Args:
        events: A log to send as live traffic; `None` for simulated shoppers.
        seconds: How long people act; a log is paced to take as long.
        max_speed: Send the log as fast as it is answered instead.
        folder: Where settings, store and registry go; emptied first.
        console: Where people look.

    Raises:
        DemoError: A flow ended, nothing answers, or the folder is somebody else's.
        StreamRankError: The log cannot be read, or nothing can be learned from it.
    """
    started = time.monotonic()
    refuse_other(folder)
    act = (
        shoppers(seconds, console)
        if events is None
        else logged(events, None if max_speed else seconds, console)
    )
    view = View(act, console)
    with _terminable(), EmbeddedBroker() as broker:
        stage = prepare(folder, act.known, broker.bootstrap)
        broker.create(stage.known.topic(name) for name in TOPICS)
        version = versions.train(act.examples, stage.known, console)
        tally, quality = play(stage, act, view)
    report = dict(tally.report()) | {
        "systems": quality,
        "models": [versions.as_report(version)],
        "seconds": round(time.monotonic() - started, 1),
    }
    view.summary(report)
    return report


def play(stage: Stage, act: Act, view: View) -> tuple[Tally, dict[str, dict[str, float]]]:
    """Start the flows, let people act, and stop the flows; return what came of it.

    Raises:
        DemoError: A flow ended, or nothing answers.
    """
    known = stage.known
    to_broker = connection(known.kafka, Secrets())
    back = [known.topic("rankings"), known.topic("dead-letters")]
    outputs = [known.topic("rankings")]
    with (
        HeldProducer(to_broker, readers_of(known), outputs) as producer,
        Reader(to_broker, back) as reader,
    ):
        with flows(stage) as alive:
            reading.say(view.console, "starting the flows")
            drive = Drive(stage, producer, reader, alive, view.look)
            drive.warm(act.past)
            traffic = act.traffic()
            with view.live:
                drive.run(traffic, lambda seconds: view.show(seconds, drive.tally, traffic))
        drive.rest()
    return drive.tally, traffic.quality()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does: with its flows."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class View:
    """What people see: figures while it runs, one list before and after a click, a summary."""

    def __init__(self, act: Act, console: Console) -> None:
        self.console = console
        self.live = LiveView(console)
        self._act = act
        self._lists: OrderedDict[str, list[str]] = OrderedDict()
        self._change: tuple[str, list[str], list[str]] | None = None

    def look(self, ranking: Ranking) -> None:
        """Keep the newest list that a click changed."""
        items = [self._act.title(placed.id) for placed in ranking.items[:10]]
        before = self._lists.get(ranking.request)
        if ranking.trigger is not None and before is not None and before != items:
            self._change = ranking.user or "a visitor", before, items
        self._lists[ranking.request] = items
        if len(self._lists) > KEPT:
            self._lists.popitem(last=False)

    def show(self, seconds: float, tally: Tally, traffic: Traffic) -> None:
        """Show how it goes."""
        self.live.show(self.picture(seconds, tally, traffic))

    def picture(self, seconds: float, tally: Tally, traffic: Traffic) -> Picture:
        """Return what is to be seen now."""
        recent = tally.percentiles(list(tally.recent))
        who, before, after = self._change or ("", [], [])
        return Picture(
            title="StreamRank, live",
            seconds=seconds,
            of=self._act.seconds,
            figures={
                "requests/s": f"{len(tally.answers) / max(seconds, 1e-3):,.0f}",
                "events/s": f"{tally.events / max(seconds, 1e-3):,.0f}",
                "answered": f"{len(tally.answers):,} of {len(tally.sent):,}",
                "re-ranked by a click": f"{tally.reranked:,}",
                "dead letters": f"{tally.dead_letters:,}",
                "latency p50": f"{recent['p50']:.1f} ms",
                "latency p90": f"{recent['p90']:.1f} ms",
                "latency p99": f"{recent['p99']:.1f} ms",
            },
            quality=_texts(traffic.quality()),
            clicked=f"a click of {who}",
            before=before,
            after=after,
        )

    def summary(self, report: Mapping[str, Any]) -> None:
        """Print what came of it."""
        if self._change is not None and not self.console.is_terminal:
            who, before, after = self._change
            reading.say(self.console, f"a list before a click of {who}: {', '.join(before)}")
            reading.say(self.console, f"and after it: {', '.join(after)}")
        table = Table("order", *_columns(report["systems"]), title="how good the lists were")
        for system, figures in _texts(report["systems"]).items():
            table.add_row(system, *(figures.get(n, "") for n in _columns(report["systems"])))
        self.console.print(table)
        latency = ", ".join(f"{name} {value} ms" for name, value in report["latency_ms"].items())
        reading.say(
            self.console,
            f"{report['requests']} requests: {report['answered']} answered, "
            f"{report['missing']} missing, {report['duplicated']} twice, "
            f"{report['dead_letters']} dead letters; latency {latency}",
        )


def _columns(systems: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for figures in systems.values() for name in figures))


def _texts(systems: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, str]]:
    return {
        system: {name: f"{value:,.4g}" for name, value in figures.items()}
        for system, figures in systems.items()
    }


def shoppers(seconds: float, console: Console) -> Act:
    """Let simulated shoppers act, who have been here for some hours."""
    world, began = World(), now_ms()
    past = list(world.history(PAST, began))
    known = infer.infer(past).settings
    records = [
        Incoming(replay.TOPIC, 0, number, event.encode()) for number, event in enumerate(past)
    ]
    _, examples = _learned(lambda: nullcontext(iter(records)), known, 1.0)
    return Act(
        known=known,
        examples=examples,
        past=past,
        traffic=lambda: ShopperTraffic(world, PACE, now_ms() + round(seconds * 1000)),
        title=world.title,
        seconds=seconds,
    )


def logged(path: Path, seconds: float | None, console: Console) -> Act:
    """Let a log happen again: learned from up to `LEARNED`, and sent from its start."""
    known = reading.inferred(path, None, None, console)
    found, examples = _learned(lambda: reading.records_of(path, "reading", console), known, LEARNED)
    return Act(
        known=known,
        examples=examples,
        past=[],
        traffic=lambda: LogTraffic(
            _events(event_log.records(path, replay.TOPIC), known),
            found.clicked,
            found.split(LEARNED)[1],
            None if seconds is None else found.events / seconds,
        ),
        title=str,
        seconds=seconds,
    )


Records = Callable[[], AbstractContextManager[Iterator[Incoming]]]


def _learned(records: Records, known: Settings, part: float) -> tuple[replay.Survey, list[Example]]:
    """Return what a log holds, and the first part of its labelled lists as examples."""
    now = datetime.now(UTC)
    with records() as first:
        found = replay.survey(first, known, now)
    lane = replay.lane_of(known, AsShown(), now)
    with records() as again:
        return found, replay.gather(lane, again, known, found.split(part)[0])


def _events(records: Iterable[Incoming], known: Settings) -> Iterator[Event | Request]:
    """Read a log; what cannot be read is for the flows' dead letters in life, and left out here."""
    read = steps.decode(
        replay.decoders_of(known), records, datetime.now(UTC), known.events.max_ahead
    )
    for one in read:
        if isinstance(one, Read) and not isinstance(one.event, Ranking):
            yield one.event
