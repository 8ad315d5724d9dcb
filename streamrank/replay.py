"""The whole system over a log, without a broker: in order, repeatably, list by list.

Every event goes through the functions of the flows: a shown list is ranked first, then counted;
its feedback comes later in the log, as it did in life.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np

from streamrank import deployment, steps, steps_ranking
from streamrank.edges.kafka import Incoming
from streamrank.edges.store import FeatureStore, MemoryStore
from streamrank.evaluation import metrics
from streamrank.evaluation.ahead import Compared, ahead
from streamrank.events import DeadLetter, Interaction, Ranking, Request, Shown, utc
from streamrank.features import windows
from streamrank.features.inputs import Array, Query
from streamrank.features.schema import Schema
from streamrank.features.trails import Trails
from streamrank.lane import Lane
from streamrank.learning.examples import Example
from streamrank.learning.feedback import Feedback
from streamrank.learning.join import Outcome
from streamrank.learning.joins import Joins
from streamrank.settings import Settings
from streamrank.steps import Decoder, Read
from streamrank.steps_ranking import Scored, Scorer

TOPIC = "events"
Train = Callable[[list[Example]], Scorer]
"""Makes a scorer from examples, in the order in which they were shown."""


class Learns(Protocol):
    """What goes on learning from examples: `streamrank.lessons.Lessons`."""

    champion: str
    """The version that serves."""

    def take(self, examples: Sequence[Example], now: datetime) -> Iterable[object]:
        """Take examples in, and return what came of it."""


Begin = Callable[[Sequence[Example]], Learns]
"""Goes on from the version that was made from these examples."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a log holds, found before it is replayed.

    Attributes:
        events: Events that could be read.
        span: From the earliest to the latest of them.
        shown: Lists that were shown or asked for.
        labelled: Those that got feedback, in the order in which they were shown.
        clicked: The items that got it, by list.
    """

    events: int
    span: timedelta
    shown: int
    labelled: tuple[str, ...]
    clicked: Mapping[str, frozenset[str]]

    def split(self, part: float) -> tuple[frozenset[str], frozenset[str]]:
        """Split the labelled lists in time: the first `part` of them, and the rest."""
        border = int(part * len(self.labelled) + 1e-9)  # 0.7 * 90 is a little less than 63
        return frozenset(self.labelled[:border]), frozenset(self.labelled[border:])


def decoders_of(known: Settings) -> Mapping[str, Decoder]:
    """Return how a log's lines are read: events and requests alike."""
    [decoder] = deployment.decoders_of(known, "events").values()
    return {TOPIC: decoder}


def survey(records: Iterable[Incoming], known: Settings, now: datetime) -> Survey:
    """Look which lists of a log got feedback."""
    feedback = Feedback(known.feature_schema())
    shown: dict[str, frozenset[str]] = {}
    times: list[int] = []
    for read in steps.decode(decoders_of(known), records, now, known.events.max_ahead):
        if isinstance(read, DeadLetter):
            continue
        times.append(read.event.timestamp)
        if isinstance(read.event, (Shown, Request)):
            shown.setdefault(read.event.id, frozenset(item.id for item in read.event.items))
        elif isinstance(read.event, Interaction):
            feedback.take(read.event)
    clicked = {list_id: feedback.clicked(list_id) & items for list_id, items in shown.items()}
    labelled = tuple(list_id for list_id, items in clicked.items() if items)
    return Survey(
        events=len(times),
        span=timedelta(milliseconds=max(times, default=0) - min(times, default=0)),
        shown=len(shown),
        labelled=labelled,
        clicked={list_id: clicked[list_id] for list_id in labelled},
    )


def lane_of(known: Settings, scorer: Scorer, now: datetime) -> Lane:
    """Return both flows in one lane, on a store in memory."""
    return Lane(
        deployment.plan_of(known),
        scorer,
        MemoryStore(known.feature_schema(), known.windows.ttl),
        decoders_of(known),
        session_ttl=known.session.ttl,
        windows_ttl=known.windows.ttl,
        now=now,
        ahead=known.events.max_ahead,
        trails=Trails() if known.retrieval.enabled else None,
    )


@dataclass
class Gathered:
    """Lists to learn from, which wait for their feedback."""

    feedback: Feedback
    lists: dict[str, Scored] = field(default_factory=dict)

    def examples(self, over: int | None = None) -> list[Example]:
        """Return the lists with the feedback that has come so far, oldest first.

        Args:
            over: Lists shown by then (ms) are returned without feedback too: none will come.
        """
        return [
            Example(
                id=list_id,
                user=scored.query.user,
                at=scored.query.at,
                inputs=scored.inputs,
                labels=self.feedback.labels(list_id, ids_of(scored.query)),
            )
            for list_id, scored in self.lists.items()
            if self.feedback.clicked(list_id) or (over is not None and scored.query.at <= over)
        ]


def gather(
    lane: Lane, records: Iterable[Incoming], known: Settings, lists: frozenset[str] | None = None
) -> list[Example]:
    """Run a lane over a log and return its lists as examples.

    Args:
        lane: Both flows.
        records: The log.
        known: The settings.
        lists: Which lists, if they got feedback; `None` for all, and those too that got none
            before the log ended, where it could have come.
    """
    gathered, newest = Gathered(Feedback(known.feature_schema())), 0
    for record in records:
        read = lane.read(record)
        if isinstance(read, Read):
            newest = max(newest, read.event.timestamp)
            _gather(gathered, read, lane.take(read), lists)
    window = known.learn.label_window // timedelta(milliseconds=1)
    return gathered.examples(newest - window if lists is None else None)


def _gather(
    gathered: Gathered, read: Read, scored: Sequence[Scored], lists: frozenset[str] | None
) -> None:
    """Take in feedback, and the lists that wait for it: these, or all."""
    if isinstance(read.event, Interaction):
        gathered.feedback.take(read.event)
    for one in scored:
        if one.query.source != "trigger" and (lists is None or one.query.id in lists):
            gathered.lists[one.query.id] = one


@dataclass
class Replay:
    """A log on its way through the lane: learned from up to a point, measured after it.

    Args:
        known: The settings.
        found: What the log holds.
        learn_until: Share of the labelled lists that may be learned from.
        lane: Both flows.
        train: Makes the scorer, once, when the first list to be measured comes; `None` keeps
            the lane's own.
        begin: Goes on learning from there, and is measured beside the version as it was; `None`
            leaves the version as it is.
        load: Opens a version that learning made.
        on_ranking: Takes every ranked list.
    """

    known: Settings
    found: Survey
    learn_until: float
    lane: Lane
    train: Train | None = None
    begin: Begin | None = None
    load: Callable[[str], Scorer] | None = None
    on_ranking: Callable[[Ranking], None] | None = None
    figures: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._learned, self._measured = self.found.split(self.learn_until)
        self._gathered = Gathered(Feedback(self.known.feature_schema()))
        self._joins = Joins(deployment.join_rules(self.known))
        self._lessons: Learns | None = None
        self._at = 0
        self.news: list[object] = []
        self.joined: Counter[str] = Counter()
        self._predicted: list[tuple[Array, Array]] = []
        self._frozen: Scorer | None = None
        self._compared: list[Compared] = []

    def run(self, records: Iterable[Incoming]) -> None:
        """Take the log in."""
        for record in records:
            read = self.lane.read(record)
            if not isinstance(read, Read):
                continue
            if self.train is not None and read.event.id in self._measured:
                examples = self._gathered.examples()
                self.lane.scorer = self.train(examples)
                self.train = None
                if self.begin is not None:
                    self._lessons = self.begin(examples)
                    self._frozen = self.lane.scorer
                self._gathered.lists.clear()
            self._take(read)
        left = self._joins.end()  # what still waits has an outcome too
        self.joined.update(one.name for one in left if isinstance(one, Outcome))

    def _take(self, read: Read) -> None:
        scored = self.lane.take(read)
        _gather(self._gathered, read, scored, self._learned if self.train else frozenset())
        if self._lessons is not None:
            self._learn(self._lessons, read, scored)
        for one in scored:
            if one.query.source != "trigger" and one.query.id in self._measured:
                self._measure(one)
            if self.on_ranking is not None:
                self.on_ranking(self.lane.ranking(one))

    def _learn(self, lessons: Learns, read: Read, scored: Sequence[Scored]) -> None:
        """Join what happened, and learn from the lists that are ready, as the learn flow does."""
        self._at = max(self._at, read.event.timestamp)
        out: list[Example | Outcome] = []
        for one in scored:
            if one.query.source != "trigger":  # in a log, nobody saw our own re-rankings
                out += self._joins.take(steps_ranking.to_served(self.lane.plan, one), self._at)
        if isinstance(read.event, (Interaction, Shown)):
            out += self._joins.take(read.event, self._at)
        self.joined.update(one.name for one in out if isinstance(one, Outcome))
        before = lessons.champion
        examples = [one for one in out if isinstance(one, Example)]
        self.news += lessons.take(examples, utc(self._at))
        if lessons.champion != before and self.load is not None:
            self.lane.scorer = self.load(lessons.champion)

    def _measure(self, scored: Scored) -> None:
        """Hold the list against the feedback that it got, and the simple orders beside it.

        The feedback is still ahead in the log: nothing but this measure has seen it.
        """
        ids = ids_of(scored.query)
        clicked = self.found.clicked[scored.query.id]
        labels = np.array([item in clicked for item in ids], np.float64)
        if scored.model:  # without one, scores are no log-odds
            self._predicted.append((scored.scores[:, 0], labels))
        orders = {"streamrank": scored.scores[:, 0]}
        if self._frozen is not None:
            orders["frozen"] = self._as_before(self._frozen, scored)
            self._compared.append(
                Compared(scored.query.user, orders["streamrank"], orders["frozen"], labels)
            )
        orders |= simple_orders(scored.query, self.lane.store, self.lane.plan.schema)
        for system, scores in orders.items():
            self.figures[system].append(metrics.of_list(scores, labels))

    @staticmethod
    def _as_before(frozen: Scorer, scored: Scored) -> Array:
        """Score a list with the version that nothing was learned after."""
        if scored.model == frozen.version:
            return scored.scores[:, 0]
        [scores] = frozen.score([scored.inputs])
        return scores[:, 0]

    def report(self) -> dict[str, Any]:
        """Return the report, all but its models and seconds."""
        counts = self.lane.counts
        names = {"read": "read", "dead_letters": "dead_letters", "duplicates": "duplicate"}
        return {
            "lists": {
                "shown": self.found.shown,
                "labelled": len(self.found.labelled),
                "measured": len(self.figures["streamrank"]),
            },
            "join": dict(sorted(self.joined.items())),
            "events": {key: counts[name] for key, name in (names | {"late": "late"}).items()},
            "systems": {
                system: metrics.mean(lists) for system, lists in self.figures.items() if lists
            },
            "probabilities": self._probabilities(),
            "learning": {name: one._asdict() for name, one in ahead(self._compared).items()}
            if self._compared
            else {},
        }

    def _probabilities(self) -> dict[str, float]:
        """Return how true the chances were that each list went out with, whoever scored it."""
        if not self._predicted:
            return {}
        scores, labels = (np.concatenate(one) for one in zip(*self._predicted, strict=True))
        return metrics.of_probabilities(scores, labels)


def ids_of(query: Query) -> list[str]:
    """Return the candidates' ids in incoming order."""
    return [candidate.id for candidate in query.candidates]


def simple_orders(query: Query, store: FeatureStore, schema: Schema) -> dict[str, Array]:
    """Return the scores of the orders that need no model.

    Args:
        query: The list, with the user's state before it.
        store: The windows before it.
        schema: Which interaction types there are.

    Returns:
        `as_shown`; `recently_touched`, the item that this user touched last first;
        `popularity`, the item with the most interactions by anybody first.  What is left
        equal keeps the incoming order.
    """
    ids = ids_of(query)
    touched = {step.item: place for place, step in enumerate(query.state.steps, 1)}
    windowed = store.read("item_windows", ids, query.at)
    return {
        "as_shown": -np.arange(len(ids), dtype=np.float64),
        "recently_touched": np.array([touched.get(item, 0) for item in ids], np.float64),
        "popularity": np.array([_deeds(values, schema) for values in windowed]),
    }


def _deeds(values: object, schema: Schema) -> float:
    if not isinstance(values, np.ndarray):
        return 0.0
    window = windows.unpack(values, len(schema.horizons), len(schema.channels))
    return float(window.totals[:-1].sum())
