"""The steps of the learn flow: lists and feedback in, examples out, and what learns from them."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from streamrank import metrics
from streamrank.edges.kafka import Outgoing
from streamrank.events import Interaction, Served, Shown
from streamrank.learning import join
from streamrank.learning.examples import Example
from streamrank.learning.join import Arrival, Joining, Outcome, Rules
from streamrank.learning.parity import Compared, Parity
from streamrank.steps import Read, is_of_share, milliseconds

log = logging.getLogger(__name__)


class Learns(Protocol):
    """What learns from the examples: `streamrank.lessons`, behind its checkpoints."""

    def take(self, examples: Sequence[Example], now: datetime) -> Iterable[object]:
        """Take examples in, or none where only time has passed; return what came of it."""

    def due(self) -> datetime | None:
        """Return when it wants to be asked though no example comes."""

    def save(self) -> str:
        """Keep all of its state where a restart finds it, and return under which name."""


class Opens(Protocol):
    """How a learner begins, or goes on from what it kept."""

    def __call__(self, token: str | None, parity: Parity, /) -> Learns:
        """Open the learner; it asks `parity` whether it may publish."""


# --- join -------------------------------------------------------------------------------------


def is_of_the_join(share: float, read: Read) -> bool:
    """Say whether the join takes an event in: of a share of the users, all that they do."""
    event = read.event
    if not isinstance(event, (Interaction, Shown, Served)):
        return False
    taken = is_of_share(event.key, share)
    if not taken and isinstance(event, Served):
        metrics.LEFT_OUT.inc()
    return taken


def begin(saved: Joining | None, now: datetime) -> Joining:
    """Return the state of a user who is new, or was kept over a restart."""
    return Joining() if saved is None else join.resumed(saved, milliseconds(now))


def advance(
    rules: Rules, state: Joining, reads: Sequence[Read], now: datetime
) -> tuple[Joining, list[Example | Outcome]]:
    """Take in a batch of one user's lists and deeds; only the time, where there are none."""
    arrivals = [
        Arrival(read.event, milliseconds(now), read.record.origin)
        for read in reads
        if isinstance(read.event, (Interaction, Shown, Served))
    ]
    given: list[Example | Outcome] = []
    for arrival in arrivals or [Arrival(None, milliseconds(now))]:
        state, out = join.advance(state, arrival, rules)
        given += out
    return state, given


def alarm(rules: Rules, state: Joining) -> datetime | None:
    """Return when a user's lists are to be looked at though nothing comes."""
    at = join.alarm(state, rules)
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC)


def example_record(example: Example) -> tuple[str, Outgoing]:
    """Return the record of an example, keyed by its list.

    Its id is the list with the number of its labels, not with the revision: when a crash has the
    work done again, what went out as two examples may go out as one, with the labels of both, or
    the other way round, and neither must be taken for the other.  Labels only ever join, so of
    a list's examples the one with the most labels holds.
    """
    name = f"{example.id}#{int(example.labels.sum())}"
    return example.id, Outgoing(example.id, example.encode(), name)


# --- learn ------------------------------------------------------------------------------------

Kept = tuple[str, Parity]
"""What a snapshot holds of the learner: the name of its state, and how true the inputs were."""


@dataclass
class Learning(StatefulBatchLogic[Example | Compared, object, Kept]):
    """The learner as a step: it wakes up by itself, and its snapshot is the name of its state."""

    learner: Learns
    parity: Parity
    now: Callable[[], datetime]

    def on_batch(self, values: list[Example | Compared]) -> tuple[Iterable[object], bool]:
        """Compare first, so that a version that is not to be trusted is not published."""
        stopped = self.parity.stopped
        for one in values:
            if isinstance(one, Compared):
                self.parity.take(one)
        if self.parity.stopped != stopped:
            log.warning("parity: %s", self.parity.stopped or "as it should be again")
        return self._learn([one for one in values if isinstance(one, Example)])

    def on_notify(self) -> tuple[Iterable[object], bool]:
        """Learn from what has waited long enough."""
        return self._learn([])

    def _learn(self, examples: list[Example]) -> tuple[Iterable[object], bool]:
        return self.learner.take(examples, self.now()), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Return when the learner wants to be asked."""
        return self.learner.due()

    def snapshot(self) -> Kept:
        """Keep the learner's state, and return its name."""
        return self.learner.save(), self.parity.copy()


@operator
def learn(
    step_id: str,
    up: KeyedStream[Example | Compared],
    opens: Opens,
    limit: float,
    now: Callable[[], datetime],
) -> KeyedStream[object]:
    """Hand examples to the learner, which goes on after a restart where its snapshot says.

    Args:
        step_id: Name of the step.
        up: All that is to be learned from, under one key.
        opens: How the learner begins.
        limit: The share of compared lists that may differ.
        now: The clock.
    """

    def build(saved: Kept | None) -> Learning:
        token, parity = (None, Parity()) if saved is None else saved
        parity.limit = limit
        return Learning(opens(token, parity), parity, now)

    return op.stateful_batch("learn", up, build)


# --- what came of it --------------------------------------------------------------------------


@dataclass
class Counts:
    """How many of each outcome there were, and what the learner said last.

    Attributes:
        outcomes: Of lists and feedback, by `learning.join`'s names.
        news: Of the learner's news, by kind.
        parity: How true the inputs are that this worker compared.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    news: Counter[str] = field(default_factory=Counter)
    parity: Parity = field(default_factory=Parity)

    def take(self, one: object) -> None:
        """Count an outcome, a comparison, or a piece of news."""
        if isinstance(one, Outcome):
            self.outcomes[one.name] += 1
        elif isinstance(one, Compared):
            self.parity.take(one)
        else:
            self.news[type(one).__name__] += 1

    def figures(self) -> Mapping[str, Any]:
        """Return what a report and the metrics say of it."""
        return {
            "join": dict(sorted(self.outcomes.items())),
            "learner": dict(self.news),
            "parity": self.parity.figures(),
        }


@dataclass
class _Report(StatelessSinkPartition[object]):
    counts: Counts
    lock: threading.Lock  # the workers of a process count together

    def write_batch(self, items: list[object]) -> None:
        for one in items:
            with self.lock:
                self.counts.take(one)
            if isinstance(one, Compared) and one.differing:
                log.warning("parity: %s differs in %s", one.list_id, ", ".join(one.differing))
            elif not isinstance(one, (Outcome, Compared)):
                log.info("learner: %s", one)

    def close(self) -> None:
        log.info("join: %s", dict(self.counts.outcomes))


@dataclass
class Report(DynamicSink[object]):
    """Counts what became of lists and feedback, and says what the learner did."""

    counts: Counts = field(default_factory=Counts)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Report:
        """Return this worker's part."""
        return _Report(self.counts, self.lock)
