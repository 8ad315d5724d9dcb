"""Lessons as the learn flow drives them: begun when there is a version, kept with its snapshots.

PyTorch is imported when there is something to learn with, and not before.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streamrank.edges import registry
from streamrank.edges.checkpoints import Checkpoints
from streamrank.edges.journal import Journal
from streamrank.learning.examples import Example, decode_example
from streamrank.learning.parity import Parity
from streamrank.publishing import Announces
from streamrank.settings import Settings

if TYPE_CHECKING:
    from streamrank.curves import Curves
    from streamrank.lessons import Lessons, News
    from streamrank.model.injection import Graph

log = logging.getLogger(__name__)
_UNTIL_THE_END = ExitStack()
atexit.register(_UNTIL_THE_END.close)
WHOLE_EVERY = 20
"""Updates until a whole state is kept again; lists since the last one are learned once more after
a restart, all in one update."""


@dataclass
class Study:
    """Lessons as the learn flow drives them: they begin when there is a version to go on from.

    Args:
        known: The settings.
        checkpoints: Where their states are kept.
        token: The state to go on from.
        announcer: Who tells of versions.
        stopped: Why nothing may be published, `None` where it may.
        graph: What new versions go into, where it was prepared.
    """

    known: Settings
    checkpoints: Checkpoints
    token: str | None
    announcer: Announces | None
    stopped: Callable[[], str | None]
    graph: Graph | None = None
    _lessons: Lessons | None = field(default=None, init=False)
    _curves: Curves | None = field(default=None, init=False)
    _new: list[Example] = field(default_factory=list, init=False)  # since the last snapshot
    _kept: tuple[int, str] | None = field(default=None, init=False)  # updates, champion

    def take(self, examples: Sequence[Example], now: datetime) -> Iterable[News]:
        """Take examples in; those that come before there is any version teach nobody."""
        if self._lessons is None:
            self._lessons = self._open(now)
            self._draw(self._lessons)
        if self._lessons is None:
            if examples:
                log.warning("no version to go on from yet: %d lists not learned", len(examples))
            return []
        if self.known.state.path is not None:  # else nothing is kept, and they would only pile up
            self._new += examples
        news = self._lessons.take(examples, now)
        if self._curves is not None:
            self._curves.take(news)
        return news

    def due(self) -> datetime | None:
        """Return when it wants to be asked though no example comes."""
        return None if self._lessons is None else self._lessons.due()

    def save(self) -> str:
        """Keep all of the state where snapshots are kept, and return under which name.

        The whole of it now and then and with another champion; else what is new beside it.
        """
        if self._lessons is None or self.known.state.path is None:
            return self.token or ""
        if self._whole_is_due(self._lessons):
            self._keep_whole(self._lessons)
        elif self._new and self.token:
            whole, _, length = self.token.partition("+")
            records = [example.encode() for example in self._new]
            end = self._journal(whole).append(int(length or 0), records)
            self.token = f"{whole}+{end}"
        self._new = []
        return self.token or ""

    def _whole_is_due(self, lessons: Lessons) -> bool:
        if not self.token or self._kept is None:
            return True
        updates, champion = self._kept
        return lessons.champion != champion or lessons.learner.updates - updates >= WHOLE_EVERY

    def _keep_whole(self, lessons: Lessons) -> None:
        updates = lessons.learner.updates
        turn = updates * 1_000_000 + len(lessons.waiting)
        self.token = self.checkpoints.put(turn, *lessons.state())
        self._kept = updates, lessons.champion
        there = self.checkpoints.tokens()
        for path in self._journal("").path.parent.glob("*.journal"):
            if path.stem not in there:
                path.unlink()
        self._journal(self.token).remove()  # of the same state, kept before a crash

    def _journal(self, whole: str) -> Journal:
        folder = f"{self.checkpoints.name}-journals"
        return Journal(Path(self.checkpoints.root, folder, f"{whole}.journal"))

    def _draw(self, lessons: Lessons | None) -> None:
        if lessons is None or self.known.learn.logs is None:
            return
        from streamrank import study

        opened = study.curves_in(self.known.learn.logs, lessons.learner.updates)
        self._curves = _UNTIL_THE_END.enter_context(opened)

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
                graph=self.graph,
            )
        whole, _, length = self.token.partition("+")
        lessons = study.resume(
            known,
            *self.checkpoints.get(whole),
            now,
            announcer=self.announcer,
            stopped=self.stopped,
            graph=self.graph,
        )
        self._kept = lessons.learner.updates, lessons.champion
        since = [decode_example(one) for one in self._journal(whole).read(int(length or 0))]
        lessons.catch_up(since, now)
        return lessons


def opener(known: Settings, announcer: Announces | None) -> Callable[[str | None, Parity], Study]:
    """Return how the learn flow's learner begins, or goes on from what it kept.

    What takes seconds, PyTorch's import and an export, is done at once where there is a version:
    before records wait, which a broker does not keep for ever.
    """
    checkpoints = Checkpoints(
        known.state.path or known.registry.path, f"{known.model.name}-learner"
    )
    graph = _prepared(known)
    return lambda token, parity: Study(
        known, checkpoints, token, announcer, lambda: parity.stopped, graph
    )


def _prepared(known: Settings) -> Graph | None:
    champion = registry.current(known.registry.path, known.model.name)
    if champion is None:
        return None
    from streamrank import study

    return study.graph_of(known, champion)
