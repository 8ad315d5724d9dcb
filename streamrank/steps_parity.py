"""The steps that compare what was served with what the same events give here.

The users of a sample are followed by the rank flow's own function, `steps_ranking.track`.  Two
topics are not read in step, so what a user does is put into the order of time first; a list is
left out where that order is in doubt: deeds and requests in the same moment, a log that is being
caught up with, a user whose beginning was not seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from streamrank.errors import StreamRankError
from streamrank.events import Interaction, Request, Served, Shown
from streamrank.features import inputs
from streamrank.features.inputs import Query, Rows, context_features
from streamrank.features.state import UserState
from streamrank.learning import parity
from streamrank.learning.parity import Compared
from streamrank.steps import Plan, Read, is_of_share, milliseconds
from streamrank.steps_ranking import Scorer, track

log = logging.getLogger(__name__)
FRESH = 300_000
"""An event older than this, in ms, when it is read is of a log that is being caught up with."""
NEAR = 500
"""A deed and a request closer than this, in ms, may have been taken in either order."""
KEPT = 20
"""Lists of a user that wait to be compared."""
VERSIONS = 3
"""Versions that are held to score again."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom to follow.

    Attributes:
        plan: What the steps of the rank flow know.
        share: The share of the users.
        hold: How long events wait to be put in order, ms.
        ttl: How long the rank flow remembers a silent user, ms.
    """

    plan: Plan
    share: float
    hold: int = 5_000
    ttl: int = 86_400_000

    def takes(self, read: Read) -> bool:
        """Say whether an event is of a user of the sample."""
        taken = isinstance(read.event, (Interaction, Shown, Request, Served))
        return taken and is_of_share(read.event.key, self.share)


@dataclass(frozen=True, slots=True)
class Moment:
    """When an event was, ms, and whether it came by the topic of the requests."""

    at: int
    event_id: str
    asked: bool


@dataclass(frozen=True, slots=True)
class Followed:
    """What is known of one user.

    Attributes:
        user: The state as the rank flow should have it.
        held: Events and lists that wait, each with when it came, ms.
        queries: The newest lists as the events make them.
        moments: When the newest events were.
        steps: Deeds that were followed live.
        lists: Lists that were.
        complete: Whether nothing that the rank flow may know of the user was missed.
        stale: Whether some of it came too late to be sure of its order.
        seen: When something came last, ms; 0 for nothing.
    """

    user: UserState = field(default_factory=UserState)
    held: tuple[tuple[int, Read], ...] = ()
    queries: Mapping[str, Query] = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    steps: int = 0
    lists: int = 0
    complete: bool = False
    stale: bool = False
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """A list of the sample: what differs in its inputs, and of how many names."""

    served: Served
    differing: tuple[str, ...] = ()
    compared: int = 0


def begin(saved: Followed | None, now: datetime) -> Followed:
    """Return the state of a user who is new, or was kept over a restart."""
    return Followed() if saved is None else replace(saved, seen=milliseconds(now))


def alarm(watch: Watch, state: Followed) -> datetime | None:
    """Return when to look at a user again: what waits is in order, or all is forgotten."""
    if not state.seen:
        return None
    moments = [came + _patience(watch, read) for came, read in state.held]
    return datetime.fromtimestamp(min(moments, default=state.seen + watch.ttl) / 1000, UTC)


def advance(
    watch: Watch, state: Followed, reads: Sequence[Read], now: datetime
) -> tuple[Followed, list[Checked]]:
    """Take in what came of a user, and compare the lists whose events are all there."""
    at = milliseconds(now)
    if not reads and not state.held and at >= state.seen + watch.ttl:
        return Followed(), []
    held = (*state.held, *((at, read) for read in reads))
    state = replace(state, held=(), seen=at if reads else state.seen)
    ready = [one for one in held if one[0] + _patience(watch, one[1]) <= at]
    waiting = tuple(one for one in held if one[0] + _patience(watch, one[1]) > at)
    checked: list[Checked] = []
    # In the order of time, and lists after the events that made them.
    ready.sort(key=lambda one: (isinstance(one[1].event, Served), one[1].event.timestamp))
    for came, read in ready:
        if isinstance(read.event, Served):
            state, one = _compared(watch.plan, state, read.event, came)
            checked.append(one)
        else:
            state = _followed(watch.plan, state, read, came)
    return replace(state, held=waiting), checked


def _patience(watch: Watch, read: Read) -> int:
    """Return how long something waits: lists for events that wait."""
    return 2 * watch.hold if isinstance(read.event, Served) else watch.hold


def _followed(plan: Plan, state: Followed, read: Read, came: int) -> Followed:
    event = read.event
    user, queries = track(plan, state.user, read)
    asked = isinstance(event, Request)
    state = replace(
        state,
        user=user,
        queries=dict([*state.queries.items(), *((q.id, q) for q in queries)][-KEPT:]),
        moments=(*state.moments, Moment(event.timestamp, event.id, asked))[-5 * KEPT :],
        steps=state.steps + isinstance(event, Interaction),
        lists=state.lists + (not isinstance(event, Interaction)),
    )
    if came - event.timestamp > FRESH:
        return replace(state, steps=0, lists=0, complete=False, stale=True)
    enough = state.steps >= plan.rules.history and state.lists > plan.rules.lists
    return replace(state, complete=state.complete or enough)


def _compared(plan: Plan, state: Followed, served: Served, came: int) -> tuple[Followed, Checked]:
    """Compare a list, if all that made it is known."""
    query = state.queries.get(served.id)
    others = {name: one for name, one in state.queries.items() if name != served.id}
    if query is None or not query.candidates or served.features != plan.features:
        return state, Checked(served)
    complete = state.complete or (not state.stale and _is_the_first(plan, served, query))
    state = replace(state, queries=others, complete=complete)
    if not complete or came - served.timestamp > FRESH or _in_doubt(state, query):
        return state, Checked(served)
    rebuilt = inputs.build(plan.schema, query, Rows())
    differing = parity.differences(plan.schema, dict(served.inputs), rebuilt)
    return state, Checked(served, differing, len(parity.comparable(plan.schema)))


def _is_the_first(plan: Plan, served: Served, query: Query) -> bool:
    """Say whether this is a user's first list, and the rank flow knew of no more deeds than we."""
    names = [feature.name for feature in context_features(plan.schema)]
    earlier = served.inputs["context_numbers"][names.index("list.since")]
    history = len(served.inputs["history_items"])
    known = len(query.state.steps) == history < plan.rules.history
    return known and query.state.current is None and not earlier


def _in_doubt(state: Followed, query: Query) -> bool:
    """Say whether something of the other topic was in the same moment."""
    asked = query.source == "request"
    return any(abs(one.at - query.at) < NEAR and one.asked != asked for one in state.moments)


# --- scored again -----------------------------------------------------------------------------


@dataclass
class Again:
    """Scores lists with the versions that served them.

    Attributes:
        load: Loads a version.
        loaded: Those that are held, and `None` for those that cannot be had.
    """

    load: Callable[[str], Scorer]
    loaded: dict[str, Scorer | None] = field(default_factory=dict)

    def score(self, checked: Sequence[Checked]) -> list[Compared]:
        """Score the lists again; pass on what could be compared in any respect."""
        return [one for one in map(self._one, checked) if one.compared]

    def _one(self, checked: Checked) -> Compared:
        served = checked.served
        scorer = self._scorer(served.model) if served.model and served.items else None
        if scorer is None:
            return Compared(served.id, checked.differing, checked.compared)
        [scores] = scorer.score([dict(served.inputs)])
        differ = parity.scores_differ(np.asarray(served.scores), scores)
        names = (*checked.differing, "scores") if differ else checked.differing
        return Compared(served.id, names, checked.compared + 1)

    def _scorer(self, version: str) -> Scorer | None:
        if version not in self.loaded:
            if len(self.loaded) >= VERSIONS:
                self.loaded.pop(next(iter(self.loaded)))
            try:
                self.loaded[version] = self.load(version)
            except StreamRankError as error:
                log.warning("parity: %s cannot be scored with again: %s", version, error)
                self.loaded[version] = None
        return self.loaded[version]
