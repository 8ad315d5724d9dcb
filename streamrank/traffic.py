"""What a demo sends: a real log as live traffic, or shoppers who look at their lists and act.

Both keep cause and effect in order, as life does: whatever a person does after a list is sent
only when that list has been answered.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from zlib import crc32

import numpy as np

from streamrank.evaluation import metrics
from streamrank.events import Event, Ranking, Request, Shown
from streamrank.simulate import World
from streamrank.tally import Arm


class Send(NamedTuple):
    """A record to send."""

    topic: Literal["events", "requests"]
    message: Event | Request


class Traffic(Protocol):
    """People who ask for lists and act on them."""

    def due(self, now: int, room: int) -> Iterable[Send]:
        """Return what is to be sent now (ms), with at most `room` requests in it."""

    def answered(self, ranking: Ranking, now: int) -> Iterable[Send]:
        """Return what people do next, once this first answer to a request has come."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be due."""

    def quality(self) -> dict[str, dict[str, float]]:
        """Return how good the lists are, by system."""


@dataclass
class LogTraffic:
    """A log, its shown lists sent as requests; measured on the lists from `measure_from` on.

    Args:
        events: The log, in order.
        labels: The items that got the feedback, by list.
        measured: The lists that no model has learned from.
        pace: Events to send in a second; `None` for as fast as lists are answered.
    """

    events: Iterator[Event | Request]
    labels: Mapping[str, frozenset[str]]
    measured: frozenset[str]
    pace: float | None = None
    held: int = 10_000
    _blocked: dict[str, deque[Event | Request]] = field(default_factory=dict)
    _asked: dict[str, Request] = field(default_factory=dict)
    _lists: set[str] = field(default_factory=set)
    _waiting: int = 0
    _ended: bool = False
    _started: int = 0
    _taken: int = 0
    _figures: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def due(self, now: int, room: int) -> Iterable[Send]:
        """Return the next events of the log, and of nobody whose list is still open."""
        self._started = self._started or now
        while room > 0 and self._waiting < self.held and not self._ended:
            if self.pace and self._taken >= self.pace * (now - self._started) / 1000:
                return
            event = next(self.events, None)
            if event is None:
                self._ended = True
                return
            self._taken += 1
            if isinstance(event, (Shown, Request)) and not self._is_new(event.id):
                continue  # the flows answer it once
            blocked = self._blocked.get(event.key)
            if blocked is not None and event.event != "item":
                blocked.append(event)
                self._waiting += 1
                continue
            send = self._send(event)
            room -= send.topic == "requests"
            yield send

    def _is_new(self, list_id: str) -> bool:
        new = list_id not in self._lists
        self._lists.add(list_id)
        return new

    def _send(self, event: Event | Request) -> Send:
        if isinstance(event, Shown):
            event = Request(**{**dict(event), "event": "request"})
        if not isinstance(event, Request):
            return Send("events", event)
        self._blocked[event.key] = deque()
        self._asked[event.id] = event
        return Send("requests", event)

    def answered(self, ranking: Ranking, now: int) -> Iterable[Send]:
        """Return what this user did next in the log, up to the next list."""
        request = self._asked.pop(ranking.request)
        self._measure(request, ranking)
        waiting = self._blocked.pop(request.key)
        while waiting:
            self._waiting -= 1
            send = self._send(waiting.popleft())
            yield send
            if send.topic == "requests":
                self._blocked[request.key] = waiting
                return

    def _measure(self, request: Request, ranking: Ranking) -> None:
        clicked = self.labels.get(request.id)
        if not clicked or request.id not in self.measured:
            return
        place = {placed.id: -float(number) for number, placed in enumerate(ranking.items)}
        labels = np.array([candidate.id in clicked for candidate in request.items], np.float64)
        last = -float(len(request.items))
        scores = np.array([place.get(candidate.id, last) for candidate in request.items])
        self._figures["streamrank"].append(metrics.of_list(scores, labels))
        self._figures["as_shown"].append(metrics.of_list(-np.arange(len(labels)), labels))

    @property
    def done(self) -> bool:
        """Whether the log is at its end and everybody has gone on."""
        return self._ended and not self._asked and not self._waiting

    def quality(self) -> dict[str, dict[str, float]]:
        """Return the metrics over the measured lists."""
        return {system: metrics.mean(lists) for system, lists in self._figures.items()}


@dataclass
class ShopperTraffic:
    """Simulated shoppers: half of them see the ranked order, half the incoming one.

    Args:
        world: The shoppers and what they like.
        pace: Requests to send in a second.
        until: When to stop, milliseconds.
    """

    world: World
    pace: float
    until: int
    arms: dict[str, Arm] = field(default_factory=lambda: {"streamrank": Arm(), "as_shown": Arm()})
    _started: int = 0
    _sent: int = 0
    _over: bool = False
    _asked: dict[str, Request] = field(default_factory=dict)
    _truth: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def due(self, now: int, room: int) -> Iterable[Send]:
        """Return the requests of the shoppers who come now."""
        self._started = self._started or now
        self._over = now >= self.until
        while room > 0 and not self._over:
            if self._sent >= self.pace * (now - self._started) / 1000:
                return
            self._sent += 1
            room -= 1
            request = self.world.request(now)
            self._asked[request.id] = request
            yield Send("requests", request)

    def answered(self, ranking: Ranking, now: int) -> Iterable[Send]:
        """Return what the shopper does with the list."""
        request = self._asked.pop(ranking.request)
        ranked = [placed.id for placed in ranking.items]
        incoming = [candidate.id for candidate in request.items]
        system = "streamrank" if crc32(request.id.encode()) % 2 else "as_shown"
        shown = ranked if system == "streamrank" else incoming
        deeds = self.world.feedback(request, shown, now)
        clicks = [deed for deed in deeds if deed.ranking == request.id and deed.type == "click"]
        self.arms[system].add(len(shown), len(clicks))
        self._judge(request, ranked, incoming)
        return [Send("events", deed) for deed in deeds]

    def _judge(self, request: Request, ranked: Sequence[str], incoming: Sequence[str]) -> None:
        """Hold both orders against the true one, which only a simulator knows."""
        truth = self.world.utility(request)
        gains = np.array([truth[item] for item in incoming])
        for system, order in (("streamrank", ranked), ("as_shown", incoming)):
            place = {item: -float(number) for number, item in enumerate(order)}
            scores = np.array([place.get(item, -float(len(incoming))) for item in incoming])
            self._truth[system].append(metrics.ndcg(scores, gains, 10))

    @property
    def done(self) -> bool:
        """Whether time is up and every list answered."""
        return self._over and not self._asked

    def quality(self) -> dict[str, dict[str, float]]:
        """Return click-through, and NDCG against the true best order, of both orders."""
        found = {system: arm.figures() for system, arm in self.arms.items()}
        for system, values in self._truth.items():
            found[system]["ndcg@10_of_true_order"] = float(np.mean(values))
        return found
