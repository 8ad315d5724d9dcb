"""Lessons as the learn flow drives them: begun when there is a version, kept with its snapshots.

PyTorch is imported when there is something to learn with, and not before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from streamrank.edges import registry
from streamrank.edges.checkpoints import Checkpoints
from streamrank.learning.examples import Example
from streamrank.learning.parity import Parity
from streamrank.publishing import Announces
from streamrank.settings import Settings

if TYPE_CHECKING:
    from streamrank.lessons import Lessons, News

log = logging.getLogger(__name__)


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
        champion = registry.current(known.registry.path, known.model.name)
        if champion is None:
            return None
        from streamrank import study

        if not self.token:
            return study.begin(
                known,
                champion,
                every=known.learn.every,
                announcer=self.announcer,
                stopped=self.stopped,
            )
        return study.resume(
            known,
            *self.checkpoints.get(self.token),
            now,
            announcer=self.announcer,
            stopped=self.stopped,
        )


def opener(known: Settings, announcer: Announces | None) -> Callable[[str | None, Parity], Study]:
    """Return how the learn flow's learner begins, or goes on from what it kept."""
    checkpoints = Checkpoints(
        known.state.path or known.registry.path, f"{known.model.name}-learner"
    )
    return lambda token, parity: Study(known, checkpoints, token, announcer, lambda: parity.stopped)
