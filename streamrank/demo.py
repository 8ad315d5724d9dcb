"""Everything at once, live: a broker, the flows as processes, people who act, and a view of it.

The order of things: history (a log's first share, or what shoppers did so far) trains a first
version; the flows start on an embedded broker; then people act until the time or the log is over.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from streamrank import infer, reading, replay, steps, versions
from streamrank import settings as settings_module
from streamrank.changes import Changes
from streamrank.drive import Drive, now_ms
from streamrank.edges import log as event_log
from streamrank.edges.broker import EmbeddedBroker, HeldProducer, readers_of
from streamrank.edges.kafka import Incoming, Reader, connection
from streamrank.edges.onnxruntime import AsShown
from streamrank.events import DeadLetter, Event
from streamrank.learning.examples import Example
from streamrank.settings import Secrets, Settings
from streamrank.simulate import World
from streamrank.stage import TOPICS, Stage, flows, prepare, refuse_other
from streamrank.steps import Read
from streamrank.tally import Rate, Tally, percentiles
from streamrank.traffic import LogTraffic, ShopperTraffic, Traffic
from streamrank.ui.live import LiveView, Picture, learned, spark, summary, texts

LEARNED = 0.7
"""Share of a log's labelled lists that the first version learns from."""
PAST = 2_000
"""Lists that simulated shoppers have seen before a demo begins."""
PACE = 30.0
"""Requests of simulated shoppers in a second."""
EPOCHS = 5
"""Passes over the past; the model goes on learning while people act."""
LOOK = 1.0
"""Seconds between two looks into the registry."""
LEARN = {"label_window": "30s", "idle": "10s", "settle": "500ms", "every": "1s"}
"""What a shopper does with a list is done within seconds."""
EMBEDDED = {"kafka": {"fetch_wait": "5ms"}, "state": {"every": "200ms"}}
"""What the embedded broker needs: it lets whoever asks wait the whole time, and is told at each
snapshot what it need not keep.  Apache Kafka answers at once; there this would only cost time."""


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
    pace = None if max_speed else seconds
    with _terminable():
        act = shoppers(seconds) if events is None else logged(events, pace, console)
        view = View(act, console)
        with EmbeddedBroker() as broker:
            known = settings_module.changed(act.known, EMBEDDED)
            stage = prepare(folder, known, broker.bootstrap)
            broker.create(stage.known.topic(name) for name in TOPICS)
            versions.train(act.examples, stage.known, console)
            tally, quality = play(stage, act, view)
    report = tally.report() | {
        "systems": quality,
        "models": versions.reported(stage.known),
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
    outputs = [known.topic("rankings"), known.topic("served")]
    with (
        HeldProducer(to_broker, readers_of(known), outputs) as producer,
        Reader(to_broker, back) as reader,
    ):
        with flows(stage) as alive:
            reading.say(view.console, "starting the flows")
            drive = Drive(stage, producer, reader, alive, view.changes)
            drive.warm(act.past)
            traffic = act.traffic()
            view.models = lambda: versions.reported(known)
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
    """What people see: figures while it runs, one list before and after a deed, a summary."""

    def __init__(self, act: Act, console: Console) -> None:
        self.console = console
        self.live = LiveView(console)
        self.changes = Changes(act.title)
        self._act = act
        self._requests, self._events = Rate(), Rate()
        self.models: Callable[[], Sequence[Mapping[str, Any]]] = list
        self._versions, self._looked = "", 0.0

    def show(self, seconds: float, tally: Tally, traffic: Traffic) -> None:
        """Show how it goes."""
        self.live.show(self.picture(seconds, tally, traffic))

    def picture(self, seconds: float, tally: Tally, traffic: Traffic) -> Picture:
        """Return what is to be seen now."""
        latency = percentiles(tally.recent)
        if seconds - self._looked > LOOK:
            self._versions, self._looked = learned(self.models()), seconds
        return Picture(
            title="StreamRank, live",
            seconds=seconds,
            of=self._act.seconds,
            figures={
                "answered": f"{len(tally.answers):,} of {len(tally.sent):,}",
                "lists": f"{self._requests.at(seconds, len(tally.answers)):,.0f}/s",
                "events": f"{self._events.at(seconds, tally.events):,.0f}/s",
                "p50": f"{latency['p50']:.1f} ms",
                "p90": f"{latency['p90']:.1f} ms",
                "p99": f"{latency['p99']:.1f} ms",
                "re-ranked": f"{tally.reranked:,}",
                "dead letters": f"{tally.dead_letters:,}",
                "versions": f"{self._versions}; {len(tally.served)} served",
                "quality": spark(traffic.curve()),
            },
            quality=texts(traffic.quality()),
            change=self.changes.last,
        )

    def summary(self, report: Mapping[str, Any]) -> None:
        """Print what came of it."""
        for part in summary(report, self.changes.most or self.changes.last):
            self.console.print(part)


def shoppers(seconds: float) -> Act:
    """Let simulated shoppers act, who have been here for some hours."""
    world, began = World(), now_ms()
    past = list(world.history(PAST, began))
    quick: dict[str, dict[str, Any]] = {"learn": dict(LEARN), "model": {"epochs": EPOCHS}}
    known = settings_module.changed(infer.infer(past).settings, quick)
    records = [
        Incoming(replay.TOPIC, 0, number, event.encode()) for number, event in enumerate(past)
    ]
    _, examples = _learned(lambda: nullcontext(iter(records)), known, 1.0)
    return Act(
        known=known,
        examples=examples,
        past=past,
        traffic=lambda: ShopperTraffic(world, PACE, seconds),
        title=world.title,
        seconds=seconds,
    )


def logged(path: Path, seconds: float | None, console: Console) -> Act:
    """Let a log happen again: learned from up to `LEARNED`, and sent from its start."""
    known = reading.inferred(path, None, None, console)
    found, examples = _learned(lambda: reading.records_of(path, "reading", console), known, LEARNED)
    # Its days pass in minutes: what takes the flows a second would come hours late by its clock.
    lateness = max(known.windows.lateness, found.span)
    return Act(
        known=settings_module.changed(known, {"windows": {"lateness": lateness}}),
        examples=examples,
        past=[],
        traffic=lambda: LogTraffic(
            _read(event_log.records(path, replay.TOPIC), known),
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


def _read(records: Iterable[Incoming], known: Settings) -> Iterator[Read | DeadLetter]:
    """Read a log once more, to be sent."""
    return steps.decode(
        replay.decoders_of(known), records, datetime.now(UTC), known.events.max_ahead
    )
