"""Predict, then learn, then prove it: what the learn flow's last step and `replay` both drive.

Every list counts first for the version that served it.  The learner learns from new lists in
small updates, and goes on; now and then its weights are set aside as a challenger, which learns
no more.  The lists that come after are ones that neither it nor the champion has learned from:
when there are enough of them, the gate says whether the challenger may serve.

    lists ─▶ progressive ─▶ waiting ─▶ update ─▶ challenger ─▶ held lists ─▶ gate ─▶ publish

After that the new version is watched: where the lists that it serves do surely worse than its
parent's did, it is barred and the parent serves again.  Whoever else chooses a version, by hand
or otherwise, is followed: learning goes on from that one.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from streamrank.errors import StreamRankError
from streamrank.evaluation import metrics, segments
from streamrank.evaluation.progressive import Progressive
from streamrank.features.inputs import Array
from streamrank.learning import gate
from streamrank.learning.examples import Example, decode_example
from streamrank.learning.gate import Verdict
from streamrank.learning.learned import Learned
from streamrank.model import export
from streamrank.model.export import ExportFailed
from streamrank.model.learner import Learner, Updated, below
from streamrank.outside import Outside, Scores
from streamrank.trial import Challenger

log = logging.getLogger(__name__)

HELD = 8
"""Times the gate's lists that are held for a challenger at most: the newest."""
BEHIND = 8
"""Times the lists of an update that one learns from at most, where many have come at once."""
PATIENCE = 5
"""Challengers refused one after the other, times those that are judged abreast, until the learner
goes on from the champion again."""
SURE = 3.3
"""Standard errors by which a new version must fall behind its parent to be rolled back: it is
looked at many times, so that chance alone has many chances."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When an update is made, and what may serve.

    Attributes:
        batch: New lists that make an update; where many times as many are there, because the
            learner is behind, they make one together, with no more old lists beside.
        every: How long a new list waits for an update of fewer; `None` for as long as it takes.
        gate: What a challenger must be.
        abreast: Challengers that may be judged at the same time, each by the lists after its own
            making: so that one that is refused does not cost the time of the next one.
    """

    batch: int = 64
    every: timedelta | None = timedelta(seconds=2)
    gate: gate.Rules = field(default_factory=gate.Rules)
    abreast: int = 1


@dataclass(frozen=True, slots=True)
class Judged:
    """A challenger that was published, or kept as rejected.

    Attributes:
        version: Its name.
        parent: The champion that it was held against.
        verdict: What the gate said.
        lists_seen: Lists that it had learned from since the learner began.
    """

    version: str
    parent: str
    verdict: Verdict
    lists_seen: int


@dataclass(frozen=True, slots=True)
class WentBack:
    """The learner goes on from another version: `rolled_back` by itself, or chosen by others."""

    version: str
    reason: str
    rolled_back: bool


News = Updated | Judged | WentBack


class Lessons:
    """What is learned, judged and published, list by list.

    Args:
        learner: Starts from the weights of `champion`.
        champion: The version that serves.
        outside: The registry, and what runs its versions.
        rules: When to update, and what may serve.
        progressive: How the versions have done so far.
    """

    def __init__(
        self,
        learner: Learner,
        champion: str,
        outside: Outside,
        rules: Rules = Rules(),
        progressive: Progressive | None = None,
    ) -> None:
        self.learner, self.champion, self.outside, self.rules = learner, champion, outside, rules
        self.progressive = progressive or Progressive()
        self.waiting: list[Example] = []
        self.parent: str | None = None  # of the champion, where this learner published it
        self._since: datetime | None = None
        self._serves = outside.load(champion)
        self._challengers: list[Challenger] = []  # the oldest first
        self._refused = 0
        self._live: list[Example] = []  # lists that the champion served
        self._learned = outside.learned(champion)
        self._until = outside.learned_until(champion) or 0
        self._offsets = dict(outside.offsets(champion))

    def take(self, examples: Sequence[Example], now: datetime) -> list[News]:
        """Take examples in, the oldest first, or none where only time has passed.

        Returns:
            What came of it: updates, challengers judged, and versions gone back to.
        """
        news = self._follow()
        for place, one in enumerate(examples, 1):
            for example in self._to_learn([one]):
                news += self._one(example, now, to_come=len(examples) - place)
        news += self._prove(now)
        if self.waiting and self._overdue(now):
            news += self._update(now)
        return news

    def due(self) -> datetime | None:
        """Return when it wants to be asked though no example comes."""
        if self._since is None or self.rules.every is None:
            return None
        return self._since + self.rules.every

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return all that it takes to go on, as arrays and as JSON; but no challenger."""
        lists = [one.encode() for one in self.waiting]
        arrays = {f"learner.{name}": array for name, array in self.learner.state().items()}
        arrays["waiting"] = np.frombuffer(b"".join(lists), np.uint8)
        arrays["ends"] = np.cumsum([len(one) for one in lists], dtype=np.int64)
        arrays |= {f"learned.{name}": array for name, array in self._learned.arrays().items()}
        return arrays, {
            "champion": self.champion,
            "parent": self.parent,
            "learned_until": self._until,
            "offsets": self._offsets,
            "progressive": self.progressive.state(),
        }

    def recall(self, arrays: Mapping[str, Array], words: Mapping[str, Any], now: datetime) -> None:
        """Take up what waited, and how the versions did, where `state` returned them."""
        ends = arrays["ends"].tolist()
        content = arrays["waiting"].tobytes()
        self.waiting = [
            decode_example(content[first:last])
            for first, last in zip([0, *ends], ends, strict=False)
        ]
        self._since = now if self.waiting else None
        self.parent = words["parent"]
        self._learned = Learned.of(below(arrays, "learned."))
        self._until = words["learned_until"]
        self._offsets = dict(words["offsets"])
        window = self.progressive.window
        self.progressive = Progressive.resume(words["progressive"], window)

    def catch_up(self, examples: Sequence[Example], now: datetime) -> None:
        """Take up lists that came after the state was written down: they wait to be learned."""
        for example in self._to_learn(examples):
            self.progressive.take(example)
            self.waiting.append(example)
        self._since = now if self.waiting else None

    def _to_learn(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Give what is new; what the weights know already is only remembered."""
        for example in examples:
            new = self._learned.new_in(example)
            if new is not None:
                yield new
            elif not example.revision:
                self.learner.remember(example)

    def _one(self, example: Example, now: datetime, to_come: int) -> list[News]:
        if self.progressive.take(example) and example.model == self.champion:
            self._live = [*self._live, example][-self.progressive.window :]
        self.waiting.append(example)
        self._since = self._since or now
        news: list[News] = []
        for challenger in self._challengers:
            challenger.hold(example, HELD * max(1, self.rules.gate.lists))
        full = len(self._challengers) >= self.rules.abreast
        if full and self._ready(self._challengers[-1]):
            news += self._prove(now)
        news += self._watch(now)
        enough, most = self.rules.batch, BEHIND * self.rules.batch
        if len(self.waiting) >= (enough if to_come < enough else most):
            news += self._update(now)
        return news

    # --- learn --------------------------------------------------------------------------------

    def _overdue(self, now: datetime) -> bool:
        due = self.due()
        return due is not None and now >= due

    def _update(self, now: datetime) -> list[News]:
        """Learn from what waits, and set a challenger aside where none is being judged."""
        lists, self.waiting, self._since = self.waiting, [], None
        self._until = max(self._until, *(one.at for one in lists))
        self._offsets = read_up_to(self._offsets, lists)
        self._learned.take(lists)
        updated = self.learner.update(lists, most=self.rules.batch)
        if len(self._challengers) < self.rules.abreast:
            ranker = copy.deepcopy(self.learner.mean)
            try:
                exported, lists_seen = self.learner.exported(), self.learner.lists
            except ExportFailed as error:  # such as weights that are no numbers any more
                return [updated, self._go_back(self.champion, str(error), rolled_back=False)]
            learned = self._learned.arrays()
            self._challengers.append(
                Challenger(exported, ranker, lists_seen, self._until, learned, self._offsets)
            )
        return [updated]

    # --- prove --------------------------------------------------------------------------------

    def _ready(self, challenger: Challenger) -> bool:
        return challenger.told() >= self.rules.gate.lists

    def _prove(self, now: datetime) -> list[News]:
        """Judge those that can be, the newest first: where it may serve, the older ones need not.

        They are several only where many lists came at once, as after a rest.
        """
        news: list[News] = []
        while ready := [one for one in self._challengers if self._ready(one)]:
            challenger, champion = ready[-1], self.champion
            self._challengers = [one for one in self._challengers if one is not challenger]
            news += self._judge(challenger, now)
            if self.champion != champion:  # what has learned less is overtaken
                self._challengers = [
                    one for one in self._challengers if one.lists > challenger.lists
                ]
        return news

    def _judge(self, challenger: Challenger, now: datetime) -> list[News]:
        graph = self.outside.build(challenger.exported.onnx)
        verdict = self._verdict(challenger, graph)
        if not verdict.passed and not challenger.finite():
            return [self._go_back(self.champion, verdict.reason, rolled_back=False)]
        figures = {"passed": verdict.passed, "reason": verdict.reason, **verdict.figures}
        parent, exported = self.champion, challenger.exported
        if verdict.passed:  # folding costs as much as a session, and only who serves gains by it
            exported = dataclasses.replace(exported, onnx=export.folded(exported.onnx))
        try:
            manifest = self.outside.publisher.publish(
                exported,
                parent=parent,
                now=now,
                metrics={n: v for n, v in verdict.figures.items() if n in gate.METRICS},
                gate=figures,
                lists_seen=challenger.lists,
                learned_until=challenger.until,
                offsets=challenger.offsets,
                learned=challenger.learned,
                rejected=None if verdict.passed else verdict.reason,
            )
            news: list[News] = [Judged(manifest.version, parent, verdict, challenger.lists)]
            if verdict.passed:
                reason = f"gate: {verdict.reason}"
                self.outside.publisher.announce(manifest.version, reason, now, expected=parent)
        except StreamRankError as error:  # no room, or somebody else chose another version
            log.warning("a challenger is given up: %s", error)
            return []
        if verdict.passed:
            self.parent, self.champion, self._live = parent, manifest.version, []
            self._serves, self._refused = graph, 0
            return news
        self._refused += 1
        if not verdict.credible:
            self.waiting, self._since = [], None  # nor is it learned from
        if self._refused >= PATIENCE * self.rules.abreast or not verdict.credible:
            news.append(self._go_back(self.champion, verdict.reason, rolled_back=False))
        return news

    def _verdict(self, challenger: Challenger, graph: Scores) -> Verdict:
        stopped = self.outside.stopped()
        if stopped is not None:
            return Verdict(False, stopped)
        known = self._segments(list(challenger.held.values()))
        return gate.judge(challenger.evidence(self._serves, graph, known), self.rules.gate)

    def _segments(self, lists: Sequence[Example]) -> list[frozenset[str]]:
        """Return the segments of each list, by what is remembered of the lists learned from."""
        if not self.rules.gate.segments:
            return []
        known = segments.Known.of(self.learner.memory.kept)
        return [segments.of(one, known) for one in lists]

    # --- watch --------------------------------------------------------------------------------

    def _watch(self, now: datetime) -> list[News]:
        """Roll back where the lists that the champion serves do surely worse than its parent's."""
        if self.parent is None:
            return []
        metric = self.rules.gate.metric
        own, theirs = self._recent(self.champion), self._recent(self.parent)
        if min(len(own), len(theirs)) < self.rules.gate.lists:
            return []
        error = float(np.sqrt(own.var() / len(own) + theirs.var() / len(theirs)))
        apart = float(own.mean() - theirs.mean())
        if apart >= -SURE * error or not self._parent_is_better(self.parent):
            return []
        reason = (
            f"live {metric} must not fall surely below its parent's {theirs.mean():.4f}, "
            f"got {own.mean():.4f} on {len(own)} lists"
        )
        try:
            version = self.outside.publisher.roll_back(reason, now)
        except StreamRankError as error:  # no ancestor may serve, or the registry is not there
            log.warning("%s, and it cannot be rolled back: %s", reason, error)
            return []
        if version is None:
            return []
        return [self._go_back(version, reason, rolled_back=True)]

    def _parent_is_better(self, parent: str) -> bool:
        """Say whether the parent would order the same lists better; else it is the times."""
        told = [one for one in self._live if one.labels[:, 0].any() and one.scores is not None]
        theirs = self.outside.load(parent).score([one.inputs for one in told])
        lead = [
            metrics.ndcg(scores[:, 0], one.labels[:, 0], 10)
            - metrics.ndcg(one.scores[:, 0], one.labels[:, 0], 10)
            for scores, one in zip(theirs, told, strict=True)
            if one.scores is not None
        ]
        return bool(lead) and float(np.mean(lead)) > 0

    def _recent(self, version: str) -> Array:
        """Return how a version's newest lists did, those that can tell, (lists,)."""
        return self.progressive.recent(version, self.rules.gate.metric)

    def _follow(self) -> list[News]:
        """Go on from the version that somebody else chose, where somebody did."""
        current = self.outside.publisher.current()
        if current is None or current == self.champion:
            return []
        return [self._go_back(current, "another version was chosen", rolled_back=False)]

    def _go_back(self, version: str, reason: str, *, rolled_back: bool) -> WentBack:
        log.warning("learning goes on from %s: %s", version, reason)
        self.learner.go_back(self.outside.weights(version))
        self._serves = self.outside.load(version)
        # What was learned since that version is forgotten, and no later one may claim it.
        self._until = self.outside.learned_until(version) or 0
        self._offsets = dict(self.outside.offsets(version))
        self._learned = self.outside.learned(version)
        self.waiting = list(self._to_learn(self.waiting))
        self._since = self._since if self.waiting else None
        if version != self.champion:
            self.champion, self.parent, self._live = version, None, []
        self._challengers, self._refused = [], 0
        return WentBack(version, reason, rolled_back)


def read_up_to(offsets: Mapping[str, int], lists: Sequence[Example]) -> dict[str, int]:
    """Return up to where feedback has been learned from, by partition, the next offset of each.

    Examples:
        >>> one = Example("r", "u", 0, {}, np.zeros((1, 1)), origin="events[3]@41")
        >>> read_up_to({"events[2]": 7}, [one])
        {'events[2]': 7, 'events[3]': 42}
    """
    found = dict(offsets)
    for one in lists:
        if one.origin is not None:
            partition, _, offset = one.origin.rpartition("@")
            found[partition] = max(found.get(partition, 0), int(offset) + 1)
    return found
