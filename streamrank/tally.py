"""What came of the requests of a demo: answered, missing, twice, how fast, how good."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamrank.events import Ranking

RECENT = 2_000
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
class Tally:
    """Requests and their answers."""

    sent: dict[str, float] = field(default_factory=dict)  # request id: when, s
    answers: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # ms
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    reranked: int = 0
    events: int = 0
    dead_letters: int = 0
    records: int = 0  # rankings and dead letters that came

    def request(self, request_id: str, now: float) -> None:
        """Note a request that was sent."""
        self.sent[request_id] = now

    def answer(self, ranking: Ranking, now: float) -> bool:
        """Note a ranked list; say whether it is the first answer to a request of ours."""
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

    def percentiles(self, of: Sequence[float]) -> dict[str, float]:
        """Return p50, p90 and p99."""
        if not of:
            return {"p50": 0.0, "p90": 0.0, "p99": 0.0}
        values = np.percentile(np.asarray(of), [50, 90, 99])
        return {f"p{p}": round(float(v), 2) for p, v in zip((50, 90, 99), values, strict=True)}

    def report(self) -> Mapping[str, object]:
        """Return the counts for the demo's report."""
        return {
            "requests": len(self.sent),
            "answered": len(self.answers),
            "missing": self.open,
            "duplicated": sum(count - 1 for count in self.answers.values()),
            "reranked": self.reranked,
            "events": self.events,
            "dead_letters": self.dead_letters,
            "latency_ms": self.percentiles(self.latencies),
        }
