"""What becomes of examples: measured, judged by, and only then learned from.

    examples ── progressive quality of what served them ── wait ── the newest judge the challenger
                                                                   │ passed: published, serves
                                                                   │ else: kept as rejected
                                                                   ▼
                                                          then they are learned from

So neither champion nor challenger has learned from the lists that judge it.  A version that does
worse than its parent did, and worse than its parent does on the very same lists, is rolled back,
and the learner goes on from what serves then.  No I/O of its own: registry and graphs come in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np

from streamrank.evaluation import metrics
from streamrank.evaluation.progressive import FIGURES, Progressive
from streamrank.features.inputs import Array
from streamrank.learning import gate
from streamrank.learning.examples import Example, decode_example
from streamrank.learning.gate import Evidence, Rules, Verdict
from streamrank.model.export import Exported, ExportFailed
from streamrank.model.learner import Learner, Updated
from streamrank.steps_ranking import Scorer

DEVIATIONS = 3.0
"""Standard errors below its parent's quality from which on a version may be rolled back."""


class Named(Protocol):
    """What was published."""

    @property
    def version(self) -> str:
        """Its name."""


class Publisher(Protocol):
    """The learner's hand on the registry: `streamrank.publishing.Publishing`."""

    def publish(
        self,
        exported: Exported,
        *,
        parent: str | None,
        now: datetime,
        metrics: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        lists_seen: int = 0,
        rejected: str | None = None,
    ) -> Named:
        """Let a version appear; it does not serve yet."""

    def announce(
        self, version: str, reason: str, now: datetime, *, expected: str | None = None
    ) -> None:
        """Let it serve."""

    def roll_back(self, reason: str, now: datetime) -> str | None:
        """Bar the version that serves; return the one that serves then."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A version as the registry has it."""

    version: str
    parent: str | None
    weights: Mapping[str, Array]
    scorer: Scorer


@dataclass(frozen=True, slots=True)
class Published:
    """A challenger that serves now."""

    version: str
    parent: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Rejected:
    """A challenger that does not, or lists that nobody believes."""

    parent: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A version that served and does not any more."""

    version: str
    to: str | None
    reason: str


Outcome = Updated | Published | Rejected | RolledBack


@dataclass
class Lessons:
    """Predict, then judge, then learn.

    Attributes:
        learner: What learns.
        champion: What serves.
        publisher: The hand on the registry.
        opened: Opens a version of the registry.
        scorer: Makes a scorer of a graph, as it would serve.
        rules: The gate's.
        batch: Lists that make an update.
        every: How long a list waits for an update that has fewer; the gate's fewest it has.
        clock: Seconds, to time graphs by.
    """

    learner: Learner
    champion: Opened
    publisher: Publisher
    opened: Callable[[str], Opened]
    scorer: Callable[[bytes], Scorer]
    rules: Rules = field(default_factory=Rules)
    batch: int = 64
    every: timedelta = timedelta(seconds=2)
    clock: Callable[[], float] = time.perf_counter
    progressive: Progressive = field(default_factory=Progressive)
    waiting: list[Example] = field(default_factory=list)
    since: datetime | None = None
    learned: bool = False
    served: list[Example] = field(default_factory=list)

    def take(self, examples: Iterable[Example], now: datetime) -> list[Outcome]:
        """Take examples in, oldest first; say what came of them.

        Args:
            examples: What is new.
            now: The time.
        """
        for one in examples:
            if self.progressive.take(one) and one.model == self.champion.version:
                self.served = [*self.served, one][-self.progressive.window :]
            self.waiting.append(one)
        if self.waiting and self.since is None:
            self.since = now
        back = self._regressed(now)
        if not self._due(now):
            return back
        lists, self.waiting, self.since = self.waiting, [], None
        verdict = self._challenge(lists, now) if self.learned else []
        if any(isinstance(one, Rejected) and not one.verdict.credible for one in verdict):
            return [*back, *verdict]
        self.learned = True
        return [*back, *verdict, self.learner.update(lists)]

    def _due(self, now: datetime) -> bool:
        if len(self.waiting) >= self.batch:
            return True
        enough = len(self.waiting) >= self.rules.lists
        return enough and self.since is not None and now - self.since >= self.every

    def _challenge(self, lists: Sequence[Example], now: datetime) -> list[Outcome]:
        """Hold the learner against what serves, on lists that it has not learned from."""
        new = [one for one in lists if not one.revision]
        parent = self.champion.version
        try:
            exported = self.learner.exported()
            scorer = self.scorer(exported.onnx)
        except ExportFailed as error:
            return [Rejected(parent, Verdict(False, str(error)))]
        verdict = gate.judge(self._evidence(new, exported, scorer), self.rules)
        record = dict(verdict.figures) | {"reason": verdict.reason}
        reason = None if verdict.passed else verdict.reason
        if not verdict.passed and "finite" in verdict.reason:
            return [Rejected(parent, verdict)]  # the registry takes nothing that is no number
        version = self.publisher.publish(
            exported,
            parent=parent,
            now=now,
            gate=record,
            lists_seen=self.learner.lists,
            rejected=reason,
        ).version
        if not verdict.passed:
            return [Rejected(parent, verdict)]
        self.publisher.announce(version, verdict.reason, now, expected=parent)
        self.champion, self.served = Opened(version, parent, exported.weights, scorer), []
        return [Published(version, parent, verdict)]

    def _evidence(self, lists: Sequence[Example], exported: Exported, scorer: Scorer) -> Evidence:
        fed = [one.inputs for one in lists]
        champion, theirs = self._timed(self.champion.scorer, fed)
        challenger, ours = self._timed(scorer, fed)
        return Evidence(
            labels=[one.labels for one in lists],
            champion=champion,
            challenger=challenger,
            torch=self.learner.scored(lists),
            users=[one.user for one in lists],
            segments=[()] * len(lists),
            seconds=(theirs, ours),
            weights_finite=all(np.isfinite(array).all() for array in exported.weights.values()),
        )

    def _timed(self, scorer: Scorer, fed: list[dict[str, Array]]) -> tuple[list[Array], float]:
        """Score, and say how long the quickest of three takes: others use the processor too."""
        scores, times = list[Array](), []
        for _ in range(3):
            begun = self.clock()
            scores = scorer.score(fed)
            times.append(self.clock() - begun)
        return scores, min(times)

    def _regressed(self, now: datetime) -> list[Outcome]:
        """Roll back what serves, where it is worse than its parent was, and than it would be."""
        own = self.progressive.versions.get(self.champion.version)
        theirs = self.progressive.versions.get(self.champion.parent or "")
        if own is None or theirs is None or self.champion.parent is None:
            return []
        column = FIGURES.index("ndcg@10")
        now_, then = (np.array(q.newest)[:, column] for q in (own, theirs))
        now_, then = now_[np.isfinite(now_)], then[np.isfinite(then)]
        if min(len(now_), len(then)) < self.rules.lists:
            return []
        error = (now_.var() / len(now_) + then.var() / len(then)) ** 0.5
        if now_.mean() >= then.mean() - DEVIATIONS * error or not self._parent_is_better():
            return []
        before = self.champion.version
        reason = f"ndcg@10 fell to {now_.mean():.4f} from its parent's {then.mean():.4f}"
        to = self.publisher.roll_back(reason, now)
        if to is not None:
            self.follow(to)
        return [RolledBack(before, to, reason)]

    def _parent_is_better(self) -> bool:
        """Say whether the parent would order the same lists better: else it is the times."""
        told = [one for one in self.served if one.labels[:, 0].any()]
        parent = self.opened(self.champion.parent or "").scorer
        theirs = parent.score([one.inputs for one in told])
        lead = [
            metrics.ndcg(scores[:, 0], one.labels[:, 0], 10)
            - metrics.ndcg(one.scores[:, 0], one.labels[:, 0], 10)
            for scores, one in zip(theirs, told, strict=True)
            if one.scores is not None
        ]
        return bool(lead) and float(np.mean(lead)) > 0

    def follow(self, version: str) -> None:
        """Go on from another version, which serves by now."""
        self.champion, self.served, self.learned = self.opened(version), [], False
        self.learner.go_back(self.champion.weights)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return all that it takes to go on exactly: arrays, and the rest as JSON has it."""
        lists = [one.encode() for one in (*self.waiting, *self.served)]
        arrays = {f"learner.{name}": array for name, array in self.learner.state().items()}
        arrays["lists"] = np.frombuffer(b"".join(lists), np.uint8)
        arrays["ends"] = np.cumsum([len(one) for one in lists], dtype=np.int64)
        return arrays, {
            "champion": self.champion.version,
            "learned": self.learned,
            "since": None if self.since is None else self.since.isoformat(),
            "waiting": len(self.waiting),
            "progressive": self.progressive.state(),
            "recipe": asdict(self.learner.recipe),
        }

    def resume(self, arrays: Mapping[str, Array], words: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        own = {n.removeprefix("learner."): a for n, a in arrays.items() if n.startswith("learner.")}
        old = self.learner
        self.learner = Learner.resume(own, old.schema, old.size, old.seed, old.recipe)
        self.champion, self.learned = self.opened(words["champion"]), words["learned"]
        self.since = None if words["since"] is None else datetime.fromisoformat(words["since"])
        ends = arrays["ends"].tolist()
        lists = [
            decode_example(arrays["lists"][first:last].tobytes())
            for first, last in zip([0, *ends], ends, strict=False)
        ]
        self.waiting, self.served = lists[: words["waiting"]], lists[words["waiting"] :]
        self.progressive = Progressive.resume(words["progressive"], self.progressive.window)
