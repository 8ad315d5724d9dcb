"""The hot swap: another version serves from one batch to the next, and nobody waits for it.

    wanted ──▶ load, verify, build, try     in a thread of its own; the session is built in one
                 │                          that stands back behind all others
                 │ fails: logged, counted, refused; the old one serves on
                 ▼
    serving ──▶ previous                    one assignment between two batches

What served before is kept, so that a roll-back to it takes no time.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from streamrank.by_thread import ByThread
from streamrank.edges.onnxruntime import OnnxScorer, ScoringFailed
from streamrank.edges.registry import RegistryUnusable, Verified, VersionMissing, VersionRefused
from streamrank.errors import StreamRankError
from streamrank.features.inputs import Array, Inputs
from streamrank.features.trails import Finder, Trail
from streamrank.steps_ranking import Scorer

log = logging.getLogger(__name__)
T = TypeVar("T")

NICE = 10
"""How far a build stands back behind the flow; at 19 a busy machine would starve it."""
TRIALS = 2
"""Runs of the probe by which a new version's speed is judged."""
NOISE = 0.001
"""Seconds of a run that say nothing of a version's speed."""
PATIENCE = 30.0
"""Seconds that a build under way gets to end with the process; one cut off would abort it."""


class TooSlow(StreamRankError):
    """A version takes so much longer than the one that serves that it must not."""


class HotSwap:
    """A scorer whose model changes while it serves.

    Args:
        scorer: What serves first; it may be none of the registry's.
        load: Returns a version, verified; `registry.load_verified` for what is served here.
        slower: How many times as long as what serves a new version may take for its probe.
        retry: Where a version cannot be read now, how long until it is tried again; doubled each
            time up to half a minute.

    Attributes:
        swaps: Versions so far that took over, those rolled back to among them.
        returns: Roll-backs among them to the version before, which was still in memory.
        refused: Versions so far that were not served.
    """

    def __init__(
        self,
        scorer: Scorer,
        load: Callable[[str], Verified],
        *,
        slower: float = 3.0,
        retry: timedelta = timedelta(seconds=1),
    ) -> None:
        self.swaps = self.returns = self.refused = 0
        self._serving: Scorer = scorer
        self._previous: Scorer | None = None
        self._load, self._slower = load, slower
        self._retry = retry.total_seconds()
        self._scored_by: ByThread[str] = ByThread()
        self._turn = threading.Condition()
        self._wanted: tuple[str, str] | None = None
        self._ended = False
        self._builder = threading.Thread(target=self._run, name="hot-swap", daemon=True)

    # --- scoring ------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Which version scored this thread's last batch; before that, which one serves."""
        found = self._scored_by.get()
        return self._serving.version if found is None else found

    @property
    def serving(self) -> str:
        """Which version scores the next batch."""
        return self._serving.version

    def score(self, batch: Sequence[Inputs]) -> list[Array]:
        """Return scores of shape (C, heads) for each list, all by one version."""
        serving = self._serving  # read once: a swap may come while this batch is scored
        self._scored_by.set(serving.version)
        return serving.score(batch)

    def find(self, trails: Sequence[Trail], count: int) -> list[list[str]]:
        """Find candidates for users with what the version that serves has for it, if anything."""
        serving = self._serving
        return serving.find(trails, count) if isinstance(serving, Finder) else [[] for _ in trails]

    # --- swapping -----------------------------------------------------------------------------

    def follow(self, version: str, reason: str) -> None:
        """Serve another version, as soon as it is verified; returns at once."""
        with self._turn:
            self._wanted = None  # whatever is being built has been overtaken
            if version == self._serving.version:
                return
            if self._previous is not None and version == self._previous.version:
                self._swap(self._previous, f"{reason}; it was still there")
                self.returns += 1
                return
            self._wanted = version, reason
            self._turn.notify()

    def start(self) -> Self:
        """Begin to build what `follow` wants; it ends with `close`, or else with the process."""
        self._builder.start()
        atexit.register(self.close)
        return self

    def close(self) -> None:
        """Build nothing more; what serves goes on."""
        with self._turn:
            self._ended = True
            self._turn.notify()
        self._builder.join(PATIENCE)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _swap(self, scorer: Scorer, reason: str) -> None:
        before, self._serving = self._serving, scorer
        self._previous = before
        self.swaps += 1
        log.info("model %s serves after %s: %s", scorer.version, before.version or "none", reason)

    def _run(self) -> None:
        while (wanted := self._next()) is not None:
            self._build(*wanted)

    def _next(self) -> tuple[str, str] | None:
        with self._turn:
            self._turn.wait_for(lambda: self._ended or self._wanted is not None)
            return None if self._ended else self._wanted

    def _build(self, version: str, reason: str) -> None:
        begun, pause = time.monotonic(), self._retry
        while True:
            try:
                scorer = self._verified(version)
            except (RegistryUnusable, VersionMissing) as error:
                if pause == self._retry:
                    self._refuse(version, f"{error}; it is tried again")
                if not self._still(version, wait=pause):
                    return
                pause = min(30.0, 2 * pause)
            except Exception as error:  # noqa: BLE001  # whatever it is, the old one serves on
                self._refuse(version, f"{type(error).__name__}: {error}")
                self._forget(version)
                return
            else:
                self._take(scorer, f"{reason} (built in {time.monotonic() - begun:.2f} s)")
                return

    def _verified(self, version: str) -> Scorer:
        found, serving = self._load(version), self._serving
        if isinstance(serving, OnnxScorer):
            self._refuse_slow(found, serving)
        return found.scorer

    def _refuse_slow(self, found: Verified, serving: OnnxScorer) -> None:
        try:
            before = _seconds(serving, found.probe)
        except ScoringFailed:  # it takes other inputs: there is nothing to compare
            return
        after = _seconds(found.scorer, found.probe)
        if after > self._slower * before + NOISE:
            raise TooSlow(
                f"its probe must take at most {self._slower:g} times as long as by "
                f"{serving.version} (rank.slower), got {1000 * after:.2f} ms "
                f"against {1000 * before:.2f} ms"
            )

    def _take(self, scorer: Scorer, reason: str) -> None:
        with self._turn:
            if self._wanted is not None and self._wanted[0] == scorer.version:
                self._wanted = None
                self._swap(scorer, reason)

    def _still(self, version: str, wait: float) -> bool:
        """Wait, and say whether this version is still wanted."""

        def overtaken() -> bool:
            return self._ended or self._wanted is None or self._wanted[0] != version

        with self._turn:
            return not self._turn.wait_for(overtaken, wait)

    def _forget(self, version: str) -> None:
        with self._turn:
            if self._wanted is not None and self._wanted[0] == version:
                self._wanted = None

    def _refuse(self, version: str, why: str) -> None:
        self.refused += 1
        serving = self._serving.version or "the incoming order"
        log.error("model %s is refused, %s serves on: %s", version, serving, why)


def first(versions: Sequence[str], load: Callable[[str], Verified]) -> Verified | None:
    """Return the first of these versions that is good, `None` where there are none.

    Args:
        versions: What serves elsewhere, then what a worker that starts may serve instead where
            that is refused (`registry.line`).
        load: Returns a version, verified.

    Raises:
        VersionRefused: None of them is good; the error is that of the first.
    """
    refused: VersionRefused | None = None
    for version in versions:
        try:
            return load(version)
        except VersionRefused as error:
            log.error("model %s is refused: %s", version, error)
            refused = refused or error
    if refused is not None:
        raise refused
    return None


def _seconds(scorer: OnnxScorer, probe: Inputs) -> float:
    """Return how long the quickest of some runs keeps this thread busy.

    A wall clock would count what else the machine does, which is much for a thread that stands
    back, and a good version would be refused for it.
    """
    times = []
    for _ in range(TRIALS):
        begun = time.thread_time()
        scorer.run(probe)
        times.append(time.thread_time() - begun)
    return min(times)


def standing_back(make: Callable[[], T]) -> T:
    """Make something in a thread that stands back behind all others, and wait for it.

    Linux alone has priorities of threads, and one that was lowered stays low. So this is for
    what works without Python's lock, as building a session does: a thread that stands back
    while it holds the lock would make all others wait for it. And it is not for a session of
    several threads, which would stay as low as the one that made them.

    Examples:
        >>> standing_back(lambda: 7)
        7
    """
    made: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        if sys.platform == "linux":
            me = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + NICE)
        try:
            made.append(make())
        except BaseException as error:  # noqa: BLE001  # raised below, where it is waited for
            failed.append(error)

    thread = threading.Thread(target=work, name="hot-swap-build", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]
