"""Everything at once, live: a broker, the flows as processes, people who act, and a view of it.

The order of things: history (a log's first share, or what shoppers did so far) trains a first
version; the flows start on an embedded broker; then people act until the time or the log is over.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamrank import settings as settings_module
from streamrank.edges.broker import EmbeddedBroker, HeldProducer
from streamrank.edges.kafka import Incoming, Reader
from streamrank.errors import StreamRankError
from streamrank.events import DeadLetter, Ranking, decode_ranking
from streamrank.settings import Settings
from streamrank.tally import Tally
from streamrank.traffic import Send, Traffic
from streamrank.ui.live import LiveView, Picture

log = logging.getLogger(__name__)
FLOWS = ("features", "rank")
OPEN_REQUESTS = 32
"""Requests under way at once: enough to keep two cores busy, few enough to keep latency low."""
PATIENCE = 60.0
"""Seconds without any answer after which a demo gives up."""


class DemoError(StreamRankError):
    """A flow of the demo ended, or nothing answers any more."""


@dataclass
class Stage:
    """Where a demo plays: its folder, settings and broker."""

    folder: Path
    known: Settings

    @property
    def settings_file(self) -> Path:
        """The settings that the flows read."""
        return self.folder / "streamrank.toml"


def prepare(folder: Path, inferred: Settings, bootstrap: str) -> Stage:
    """Empty the demo's folder and write the settings of its flows.

    Raises:
        DemoError: The folder holds something that no demo wrote.
    """
    marker = folder / "streamrank.toml"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise DemoError(f"{folder} is not empty and not a demo's: choose another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    changes: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap_servers": bootstrap, "fetch_wait": "5ms"},
        "store": {"online": "sqlite", "path": str((folder / "feast").resolve())},
        "state": {"every": "200ms"},
        "registry": {"path": str((folder / "registry").resolve())},
        "rank": {"provider": "cpu"},
        "windows": {"flush": "500ms"},
    }
    known = settings_module.changed(inferred, changes)
    marker.write_text(settings_module.to_toml(known))
    return Stage(folder, known)


@contextmanager
def flows(stage: Stage) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the flows as processes of their own; at the end let them finish what they hold."""
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        try:
            for name in FLOWS:
                out = files.enter_context((stage.folder / f"{name}.log").open("wb"))
                command = [sys.executable, "-m", "streamrank", "run", name]
                command += ["--settings", str(stage.settings_file)]
                # A session of their own: Ctrl-C reaches this process, which stops them in order.
                started.append(
                    subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
                )
            yield started
        finally:
            for flow in started:
                flow.send_signal(signal.SIGTERM)
            for flow in started:
                _ended(flow)


def _ended(flow: subprocess.Popen[bytes], within: float = 15.0) -> None:
    try:
        flow.wait(within)
    except subprocess.TimeoutExpired:
        log.warning("%s did not stop within %.0f s: killed", flow.args, within)
        flow.kill()
        flow.wait()


@dataclass
class Drive:
    """The load: sends what is due, takes what comes back, keeps the count."""

    stage: Stage
    producer: HeldProducer
    reader: Reader
    alive: Callable[[], None]
    tally: Tally = field(default_factory=Tally)
    picture: Picture = field(default_factory=Picture)
    on_answer: Callable[[Ranking], None] = lambda ranking: None

    def send(self, sends: Iterable[Send]) -> None:
        """Send records, held back while the flows lag behind."""
        for send in sends:
            topic = self.stage.known.topic(send.topic)
            payload = send.message.encode()
            while not self.producer.send(topic, send.message.key, payload):
                self.alive()
                self.producer.wait(0.002)
            if send.topic == "requests":
                self.tally.request(send.message.id, time.monotonic())
            else:
                self.tally.events += 1

    def receive(self, wait: float) -> Iterator[Ranking]:
        """Give the first answers to requests that have come."""
        dead = self.stage.known.topic("dead-letters")
        for record in self.reader.poll(wait):
            if record.topic == dead:
                self.tally.dead_letters += 1
                continue
            ranking = decode_ranking(record.value)
            self.on_answer(ranking)
            if self.tally.answer(ranking, time.monotonic()):
                yield ranking

    def run(self, traffic: Traffic, view: LiveView, show: Callable[[float], Picture]) -> float:
        """Let people act until they are done; give back the seconds that it took.

        Raises:
            DemoError: Nothing was answered for a minute.
        """
        start = heard = time.monotonic()
        while not traffic.done:
            self.alive()
            now = time.time_ns() // 1_000_000
            self.send(traffic.due(now, OPEN_REQUESTS - self.tally.open))
            for ranking in self.receive(0.002):
                heard = time.monotonic()
                self.send(traffic.answered(ranking, time.time_ns() // 1_000_000))
            if self.tally.open and time.monotonic() - heard > PATIENCE:
                raise DemoError(
                    f"{self.tally.open} requests without an answer for {PATIENCE:.0f} s; "
                    f"see {self.stage.folder}/*.log"
                )
            view.show(show(time.monotonic() - start))
        return time.monotonic() - start
