"""What came of the requests of a demo: answered, missing, twice, how fast, how good."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from streamrank.events import Ranking

RECENT = 1_000
"""Answers that the live latencies are taken from."""


@dataclass
class Arm:
    """Lists that people saw in one of the two orders."""

    lists: int = 0
    clicked: int = 0
    shown: int = 0
    clicks: int = 0

    def add(self, shown: int, clicks: int) -> None:
        """Count one list."""
        self.lists += 1
        self.clicked += clicks > 0
        self.shown += shown
        self.clicks += clicks

    def figures(self) -> dict[str, float]:
        """Return click-through by list and by impression."""
        return {
            "lists": self.lists,
            "lists_clicked": self.clicked / max(1, self.lists),
            "ctr": self.clicks / max(1, self.shown),
        }


@dataclass
class Rate:
    """How often a second something has happened lately, from its running count."""

    over: float = 3.0
    """Seconds that are looked back upon."""
    _counts: deque[tuple[float, int]] = field(default_factory=deque)

    def at(self, now: float, count: int) -> float:
        """Return the rate at `now` (s), when so many have happened so far.

        Examples:
            >>> rate = Rate(over=2.0)
            >>> [rate.at(now, 10 * now * now) for now in range(5)]
            [0.0, 10.0, 20.0, 40.0, 60.0]
        """
        self._counts.append((now, count))
        while now - self._counts[0][0] > self.over:
            self._counts.popleft()
        since, before = self._counts[0]
        return (count - before) / (now - since) if now > since else 0.0


@dataclass
class Tally:
    """Requests and their answers: each should come once.

    Attributes:
        sent: When each request was sent, by id, seconds.
        answers: How many answers each of them got.
        latencies: From a request to its first answer, milliseconds, as who asked feels it.
        recent: The last of these.
        reranked: Lists that came unasked, because of a deed.
        events: Records sent that are no request.
        dead_letters: Records that a flow set aside.
        records: Rankings and dead letters that came.
        served: Lists by the version that scored them.
    """

    sent: dict[str, float] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    reranked: int = 0
    events: int = 0
    dead_letters: int = 0
    records: int = 0
    served: Counter[str] = field(default_factory=Counter)

    def request(self, request_id: str, now: float) -> None:
        """Note a request that was sent."""
        self.sent[request_id] = now

    def answer(self, ranking: Ranking, now: float) -> bool:
        """Note a ranked list; say whether it is the first answer to a request of ours."""
        self.served[ranking.model] += 1
        if ranking.trigger is not None:
            self.reranked += 1
            return False
        sent = self.sent.get(ranking.request)
        if sent is None:
            return False
        self.answers[ranking.request] += 1
        if self.answers[ranking.request] > 1:
            return False
        self.latencies.append((now - sent) * 1000)
        self.recent.append(self.latencies[-1])
        return True

    @property
    def open(self) -> int:
        """Requests that are not answered yet."""
        return len(self.sent) - len(self.answers)

    def report(self) -> dict[str, object]:
        """Return the counts for the demo's report."""
        return {
            "requests": len(self.sent),
            "answered": len(self.answers),
            "missing": self.open,
            "duplicated": sum(count - 1 for count in self.answers.values()),
            "reranked": self.reranked,
            "events": self.events,
            "dead_letters": self.dead_letters,
            "latency_ms": percentiles(self.latencies),
        }


def percentiles(of: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99; zeros of nothing.

    Examples:
        >>> percentiles([1.0, 2.0, 3.0, 4.0, 5.0])
        {'p50': 3.0, 'p90': 4.6, 'p99': 4.96}
    """
    values = np.percentile(of, [50, 90, 99]) if of else np.zeros(3)
    return {f"p{p}": round(float(v), 2) for p, v in zip((50, 90, 99), values, strict=True)}
