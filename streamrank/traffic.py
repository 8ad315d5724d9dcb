"""What a demo sends: a real log as live traffic, or shoppers who look at their lists and act.

Both keep cause and effect in order, as life does: whatever a person does after a list is sent
only when that list has been answered.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from zlib import crc32

import numpy as np

from streamrank.evaluation import metrics
from streamrank.events import DeadLetter, Event, Interaction, Ranking, Request, Served, Shown
from streamrank.simulate import World
from streamrank.steps import Read
from streamrank.tally import Arm


class Send(NamedTuple):
    """A record to send; `event` is what it holds, `None` where it cannot be read."""

    topic: Literal["events", "requests"]
    key: str
    payload: bytes
    event: Event | Request | None


def record_of(event: Event | Request) -> Send:
    """Return the record of an event or a request, on the topic where it belongs."""
    topic: Literal["events", "requests"] = "requests" if isinstance(event, Request) else "events"
    return Send(topic, event.key, event.encode(), event)


class Traffic(Protocol):
    """People who ask for lists and act on them."""

    def due(self, now: int, room: int) -> Iterable[Send]:
        """Return what is to be sent now (ms), with at most `room` requests in it."""

    def answered(self, ranking: Ranking, now: int) -> Iterable[Send]:
        """Return what people do at once, when this first answer to a request has come."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be due."""

    def quality(self) -> dict[str, dict[str, float]]:
        """Return how good the lists are, by system."""

    def curve(self) -> list[float]:
        """Return how good each list is, in the order in which they were answered."""


@dataclass
class LogTraffic:
    """A log, its shown lists sent as requests.

    Args:
        log: The log, in order; what could not be read is sent as it is.
        labels: The items that got the feedback, by list.
        measured: The lists that no model has learned from.
        pace: Records to send in a second; `None` for as fast as lists are answered.
        held: How many events may wait for answers before no more of the log is read.
    """

    log: Iterator[Read | DeadLetter]
    labels: Mapping[str, frozenset[str]]
    measured: frozenset[str]
    pace: float | None = None
    held: int = 10_000
    _blocked: dict[str, deque[Read]] = field(default_factory=dict)
    _asked: dict[str, Request] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _waiting: int = 0
    _ended: bool = False
    _started: int | None = None
    _taken: int = 0
    _figures: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def due(self, now: int, room: int) -> Iterator[Send]:
        """Give the next records of the log, and of nobody whose list is still open."""
        self._started = now if self._started is None else self._started
        while room > 0 and self._waiting < self.held and not self._ended:
            if self.pace and self._taken >= self.pace * (now - self._started) / 1000:
                return
            send = self._next()
            if send is not None:
                room -= send.topic == "requests"
                yield send

    def _next(self) -> Send | None:
        """Take the next record of the log; `None` where it has to wait, or is the end."""
        read = next(self.log, None)
        if read is None:
            self._ended = True
            return None
        self._taken += 1
        if isinstance(read, DeadLetter):
            return Send("events", read.origin, read.payload, None)
        blocked = self._blocked.get(read.event.key)
        if blocked is not None and read.event.event != "item":
            blocked.append(read)
            self._waiting += 1
            return None
        return self._send(read)

    def _send(self, read: Read) -> Send:
        event = read.event
        if isinstance(event, Shown) and event.id not in self._known:
            event = Request(**{**dict(event), "event": "request"})
        if not isinstance(event, Request) or event.id in self._known:
            # As it was written. A list told twice is no second request.
            assert not isinstance(event, (Ranking, Served))  # noqa: S101  # no log holds our answers
            return Send("events", event.key, read.record.value, event)
        self._known.add(event.id)
        self._blocked[event.key] = deque()
        self._asked[event.id] = event
        return record_of(event)

    def answered(self, ranking: Ranking, now: int) -> Iterator[Send]:
        """Give what this user did next in the log, up to the next list."""
        request = self._asked.pop(ranking.request)
        self._measure(request, ranking)
        waiting = self._blocked.pop(request.key)
        while waiting:
            self._waiting -= 1
            send = self._send(waiting.popleft())
            if send.topic == "requests":
                self._blocked[request.key] = waiting
                yield send
                return
            yield send

    def _measure(self, request: Request, ranking: Ranking) -> None:
        clicked = self.labels.get(request.id)
        if not clicked or request.id not in self.measured:
            return
        items = [candidate.id for candidate in request.items]
        labels = np.array([item in clicked for item in items], np.float64)
        orders = {"streamrank": [placed.id for placed in ranking.items], "as_shown": items}
        for system, order in orders.items():
            found = metrics.of_list(scores_of(order, items), labels)
            self._figures[system].append(found)

    @property
    def done(self) -> bool:
        """Whether the log is at its end and everybody has gone on."""
        return self._ended and not self._asked and not self._waiting

    def curve(self) -> list[float]:
        """Return NDCG@10 of each measured list, in the order in which they were answered."""
        return [found["ndcg@10"] for found in self._figures["streamrank"]]

    def quality(self) -> dict[str, dict[str, float]]:
        """Return the metrics over the measured lists."""
        return {
            system: {"lists": len(lists)} | metrics.mean(lists)
            for system, lists in self._figures.items()
        }


@dataclass
class ShopperTraffic:
    """Simulated shoppers: half of the lists are seen in the ranked order, half as they came in.

    Args:
        world: The shoppers and what they like.
        pace: Requests to send in a second.
        seconds: When they stop asking.
    """

    world: World
    pace: float
    seconds: float
    arms: dict[str, Arm] = field(default_factory=lambda: {"streamrank": Arm(), "as_shown": Arm()})
    _started: int | None = None
    _sent: int = 0
    _over: bool = False
    _asked: dict[str, Request] = field(default_factory=dict)
    _coming: list[tuple[int, str, Interaction]] = field(default_factory=list)  # by time
    _truth: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def due(self, now: int, room: int) -> Iterator[Send]:
        """Give what shoppers do now, and the requests of those who come."""
        self._started = now if self._started is None else self._started
        elapsed = (now - self._started) / 1000
        self._over = elapsed >= self.seconds
        while self._coming and self._coming[0][0] <= now:
            yield record_of(heapq.heappop(self._coming)[2])
        while room > 0 and not self._over and self._sent < self.pace * elapsed:
            self._sent += 1
            room -= 1
            request = self.world.request(now)
            self._asked[request.id] = request
            yield record_of(request)

    def answered(self, ranking: Ranking, now: int) -> Iterable[Send]:
        """Let the shopper look at the list; what comes of it is due in a moment."""
        request = self._asked.pop(ranking.request)
        ranked = [placed.id for placed in ranking.items]
        incoming = [candidate.id for candidate in request.items]
        system = "streamrank" if crc32(request.id.encode()) % 2 else "as_shown"
        shown = ranked if system == "streamrank" else incoming
        deeds = self.world.feedback(request, shown, now)
        for deed in deeds:
            heapq.heappush(self._coming, (deed.timestamp, deed.id, deed))
        self.arms[system].add(len(shown), sum(deed.type == "click" for deed in deeds))
        self._judge(request, ranked, incoming)
        return ()

    def _judge(self, request: Request, ranked: Sequence[str], incoming: Sequence[str]) -> None:
        """Hold both orders against the true one, which only a simulator knows."""
        truth = self.world.utility(request)
        gains = np.array([truth[item] for item in incoming])
        for system, order in (("streamrank", ranked), ("as_shown", incoming)):
            self._truth[system].append(metrics.ndcg(scores_of(order, incoming), gains, 10))

    @property
    def done(self) -> bool:
        """Whether time is up, every list answered and everything done that follows."""
        return self._over and not self._asked and not self._coming

    def curve(self) -> list[float]:
        """Return NDCG@10 of each answer against the true order, in the order of the answers."""
        return self._truth["streamrank"]

    def quality(self) -> dict[str, dict[str, float]]:
        """Return click-through, and NDCG against the true best order, of both orders."""
        found = {system: arm.figures() for system, arm in self.arms.items()}
        for system, values in self._truth.items():
            if values:
                found[system]["ndcg@10_of_true_order"] = float(np.mean(values))
        return found


def scores_of(
    order: Sequence[str], items: Sequence[str]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return scores that put items in this order; what it leaves out comes last.

    Examples:
        >>> scores_of(["b", "a"], ["a", "b", "c"]).tolist()
        [-1.0, 0.0, -3.0]
    """
    place = {item: number for number, item in enumerate(order)}
    return np.array([-place.get(item, len(items)) for item in items], np.float64)
