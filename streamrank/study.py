"""How learning begins and is kept: lessons on the registry, and behind their checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from streamrank import deployment
from streamrank.edges import registry
from streamrank.edges.checkpoints import Checkpoints
from streamrank.edges.onnxruntime import OnnxScorer
from streamrank.learning import gate
from streamrank.learning.examples import Example
from streamrank.learning.parity import Parity
from streamrank.lessons import Lessons, News, Outside, Rules
from streamrank.model.learner import Learner, Online
from streamrank.publishing import Announces, Publishing
from streamrank.settings import Settings

log = logging.getLogger(__name__)


def rules_of(known: Settings, every: timedelta | None) -> Rules:
    """Return when an update is made, and what may serve."""
    own = known.gate
    judged = gate.Rules(
        lists=own.lists,
        metric=own.metric,
        require=own.require,
        confidence=own.confidence,
        latency=own.latency,
    )
    return Rules(batch=known.learn.batch, every=every, gate=judged)


def recipe_of(known: Settings) -> Online:
    """Return how the model goes on learning."""
    learn = known.learn
    return Online(rate=learn.rate, replay=learn.replay, memory=learn.memory)


def outside_of(
    known: Settings, announcer: Announces | None, stopped: Callable[[], str | None]
) -> Outside:
    """Return the settings' registry, and ONNX Runtime, as lessons need them."""
    root, name, plan = known.registry.path, known.model.name, deployment.plan_of(known)
    return Outside(
        publisher=Publishing(root, name, plan.schema, announcer),
        load=partial(registry.load, root, name, provider="cpu", features=plan.features),
        weights=partial(registry.weights, root, name),
        build=partial(OnnxScorer, version="", provider="cpu"),
        stopped=stopped,
    )


def begin(
    known: Settings,
    champion: str,
    *,
    past: Sequence[Example] = (),
    every: timedelta | None = None,
    announcer: Announces | None = None,
    stopped: Callable[[], str | None] = lambda: None,
) -> Lessons:
    """Begin from the version that serves.

    Args:
        known: The settings.
        champion: That version.
        past: Lists that it has learned from, to be remembered.
        every: How long a list waits for an update; `None` for as long as it takes.
        announcer: Who tells of versions.
        stopped: Why nothing may be published, `None` where it may.
    """
    outside, schema = outside_of(known, announcer, stopped), known.feature_schema()
    weights, model = outside.weights(champion), known.model
    learner = Learner.begin(weights, schema, model.size, model.seed, recipe_of(known))
    for example in past:
        learner.memory.take(example)
    return Lessons(learner, champion, outside, rules_of(known, every))


@dataclass
class Study:
    """Lessons as the learn flow drives them: they begin when there is a version to go on from.

    Args:
        known: The settings.
        checkpoints: Where their states are kept.
        token: The state to go on from.
        announcer: Who tells of versions.
        stopped: Why nothing may be published, `None` where it may.
    """

    known: Settings
    checkpoints: Checkpoints
    token: str | None
    announcer: Announces | None
    stopped: Callable[[], str | None]
    _lessons: Lessons | None = field(default=None, init=False)

    def take(self, examples: Sequence[Example], now: datetime) -> Iterable[News]:
        """Take examples in; those that come before there is any version teach nobody."""
        if self._lessons is None:
            self._lessons = self._open(now)
        if self._lessons is None:
            if examples:
                log.warning("no version to go on from yet: %d lists not learned", len(examples))
            return []
        return self._lessons.take(examples, now)

    def due(self) -> datetime | None:
        """Return when it wants to be asked though no example comes."""
        return None if self._lessons is None else self._lessons.due()

    def save(self) -> str:
        """Keep all of the state where snapshots are kept, and return under which name."""
        if self._lessons is None or self.known.state.path is None:
            return self.token or ""
        learner = self._lessons.learner
        turn = learner.updates * 1_000_000 + len(self._lessons.waiting)
        self.token = self.checkpoints.put(turn, *self._lessons.state())
        return self.token

    def _open(self, now: datetime) -> Lessons | None:
        known = self.known
        if not self.token:
            champion = registry.current(known.registry.path, known.model.name)
            if champion is None:
                return None
            return begin(
                known,
                champion,
                every=known.learn.every,
                announcer=self.announcer,
                stopped=self.stopped,
            )
        arrays, words = self.checkpoints.get(self.token)
        schema, model = known.feature_schema(), known.model
        learner = Learner.resume(
            {
                name.removeprefix("learner."): array
                for name, array in arrays.items()
                if name.startswith("learner.")
            },
            schema,
            model.size,
            model.seed,
            recipe_of(known),
        )
        opened = Lessons(
            learner,
            words["champion"],
            outside_of(known, self.announcer, self.stopped),
            rules_of(known, known.learn.every),
        )
        opened.recall(arrays, words, now)
        return opened


def opener(known: Settings, announcer: Announces | None) -> Callable[[str | None, Parity], Study]:
    """Return how the learn flow's learner begins, or goes on from what it kept."""
    checkpoints = Checkpoints(
        known.state.path or known.registry.path, f"{known.model.name}-learner"
    )
    return lambda token, parity: Study(known, checkpoints, token, announcer, lambda: parity.stopped)
