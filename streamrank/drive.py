"""The load of a demo: sends what is due, takes what comes back, keeps the count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from zlib import crc32

from streamrank.changes import Changes
from streamrank.edges.kafka import Incoming, Reader
from streamrank.events import Candidate, Event, Ranking, Request, decode_ranking
from streamrank.stage import DemoError, Stage
from streamrank.tally import Tally
from streamrank.traffic import Send, Traffic, record_of

OPEN_REQUESTS = 8
"""Requests under way at once: enough to keep two cores busy; more would only wait in line."""
REDRAW = 0.25
"""Seconds between two pictures."""
PARTITIONS = 4
"""Of each topic of the embedded broker."""
PATIENCE = 120.0
"""Seconds without any progress after which a demo gives up."""
STARTS = 300.0
"""The same while the flows are on their way: the learner imports PyTorch behind everybody else,
and on two busy cores that takes minutes."""


def now_ms() -> int:
    """Return the time as epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Sender(Protocol):
    """Where records go: `edges.broker.HeldProducer`, or what knows how far the flows are."""

    def send(self, topic: str, key: str, payload: bytes) -> bool:
        """Send a record, unless the flows must catch up first; return whether it was taken."""

    def wait(self, seconds: float) -> None:
        """Give the flows time to catch up."""

    @property
    def unread(self) -> int:
        """Records that the flows have still to read."""


@dataclass
class Drive:
    """The one end of all topics that is not a flow."""

    stage: Stage
    producer: Sender
    reader: Reader
    alive: Callable[[], None]
    """Raises where a flow has ended."""
    changes: Changes = field(default_factory=Changes)
    tally: Tally = field(default_factory=Tally)

    def send(self, sends: Iterable[Send]) -> None:
        """Send records, held back while the flows lag behind."""
        for send in sends:
            topic = self.stage.known.topic(send.topic)
            while not self.producer.send(topic, send.key, send.payload):
                self.alive()
                self.producer.wait(0.002)
            if send.topic == "requests" and send.event is not None:
                self.tally.request(send.event.id, time.monotonic())
            else:
                self.tally.events += 1
                self.changes.sent(send.event)

    def receive(self, wait: float) -> Iterator[Ranking]:
        """Give the first answers to requests that have come; wait for one at most so long (s)."""
        yield from self._taken(self.reader.poll(wait))

    def _taken(self, records: Iterable[Incoming]) -> Iterator[Ranking]:
        dead = self.stage.known.topic("dead-letters")
        for record in records:
            self.tally.records += 1
            if record.topic == dead:
                self.tally.dead_letters += 1
                continue
            ranking = decode_ranking(record.value)
            self.changes.ranked(ranking, time.monotonic())
            if self.tally.answer(ranking, time.monotonic()):
                yield ranking

    def warm(self, past: Iterable[Event]) -> None:
        """Tell the flows what happened before, and wait until both have read it.

        Raises:
            DemoError: They make no progress, or one has ended.
        """
        self.send(record_of(event) for event in past)
        self.send(record_of(one) for one in _first_requests(now_ms()))
        self.settle()
        self.tally = Tally()

    def settle(self) -> None:
        """Wait until the flows, which may still start, have read and answered all that was sent.

        Raises:
            DemoError: They make no progress, or one has ended.
        """
        left, patience = (-1, -1), 0.0
        while any(now_left := (self.producer.unread, self.tally.open)):
            self.alive()
            self.producer.wait(0.02)
            for _ in self.receive(0.02):
                pass
            if now_left != left:
                left, patience = now_left, time.monotonic() + STARTS
            elif time.monotonic() > patience:
                raise DemoError(
                    f"the flows make no progress: {left[0]} records to read and {left[1]} requests "
                    f"to answer for {STARTS:.0f} s; see {self.stage.folder}/*.log"
                )

    def run(self, traffic: Traffic, show: Callable[[float], None]) -> None:
        """Let people act until they are done; `show` is called with the seconds so far.

        Raises:
            DemoError: Nothing is answered any more, or a flow has ended.
        """
        start = heard = time.monotonic()
        drawn = 0.0
        while not traffic.done:
            self.alive()
            self.send(traffic.due(now_ms(), OPEN_REQUESTS - self.tally.open))
            for ranking in self.receive(0.002):
                heard = time.monotonic()
                self.send(traffic.answered(ranking, now_ms()))
            if self.tally.open and time.monotonic() - heard > PATIENCE:
                raise DemoError(
                    f"{self.tally.open} requests are without an answer for {PATIENCE:.0f} s; "
                    f"see {self.stage.folder}/*.log"
                )
            if time.monotonic() - drawn > REDRAW:
                drawn = time.monotonic()
                show(drawn - start)
        show(time.monotonic() - start)
        self.settle()

    def rest(self) -> None:
        """Take what the flows still wrote while they stopped."""
        for _ in self._taken(self.reader.rest(PATIENCE)):
            pass


def _first_requests(now: int) -> list[Request]:
    """Return a request for each partition, of nobody and for nothing: they count nowhere."""
    names = [f"first-{number}" for number in range(40)]
    users = {crc32(name.encode()) % PARTITIONS: name for name in names}
    items = tuple(Candidate(id=f"first-{number}") for number in range(10))
    return [Request(id=name, timestamp=now, user=name, items=items) for name in users.values()]
