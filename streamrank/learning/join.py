"""Interactions joined to the lists that they came from: a join that says what it lost.

All that is here is of one user.  Lists are closed, and examples made of them, by event time: by
the user's clock, which stands at the newest deed and goes on from there as time does.  So a log
read at full speed gives the examples that live traffic would have given, and a user who has gone
away does not keep a list open.  Topics are not read in step: feedback waits for a list that is
not there yet, and a list whose example went out takes what comes later, within its window, as
a correction.  A list or a deed that is of no use has an `Outcome` that says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from streamrank.events import Interaction, Shown
from streamrank.learning.examples import Example
from streamrank.learning.listed import CONVERSION, Fate, Listed, Rules
from streamrank.served import Served

__all__ = ["Arrival", "Joining", "Outcome", "Rules", "advance", "alarm", "resumed"]

OfFeedback = (
    Fate | Literal["no_item", "unknown_list", "no_list_named", "without_label", "crowded_out"]
)
"""What became of feedback: of the fates on a known list, or else

- `no_item`: it says no item.
- `unknown_list`: nothing is known of the list that it names; `no_list_named`: it names none, and
  no list of its time shows its item.
- `without_label`: a conversion of a list that had no label, and so was not kept for it.
- `crowded_out`: more feedback waited for its lists than is kept.
"""
OfList = Literal[
    "with_feedback", "without_feedback", "unseen_rerank", "duplicate_list", "empty_list"
]
"""What became of a list.

- `with_feedback`, `without_feedback`: an example with labels, or with none.
- `unseen_rerank`: a re-ranking without feedback: nobody knows whether it was shown.
- `duplicate_list`: its record came twice; `empty_list`: it has no candidates.
"""
WAITING = 1000
"""Feedback of one user that may wait for its lists."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input, which has exactly one.

    Attributes:
        name: As `OfFeedback` and `OfList` say.
        list_id: The list that it is, or is about, `""` where that is not known.
        event_id: The feedback, `""` for a list.
    """

    name: OfFeedback | OfList
    list_id: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came, and when by the system's clock (ms); nothing, where it is only later now.

    `origin` is the record that it was read from, `topic[partition]@offset`.
    """

    what: Served | Interaction | Shown | None
    now: int
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Feedback without its list, since when by the system's clock (ms)."""

    event: Interaction
    head: int
    since: int
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Joining:
    """All that is kept of one user.

    Attributes:
        lists: Lists that may still get feedback, in the order in which they came.
        over: Of the others, when they were made, ms.
        waiting: Feedback without its list, the oldest first.
        clock: The time by the newest deed, and how long ago that was, ms.
        seen: When that was so, by the system's clock, ms.
        newest: When the user last did something, ms.
        session: In which visit.
        wake: Until when, by the clock, nothing is due, ms; `None` where nothing is kept.
    """

    lists: Mapping[str, Listed] = field(default_factory=dict)
    over: Mapping[str, int] = field(default_factory=dict)
    waiting: tuple[Waiting, ...] = ()
    clock: int = 0
    seen: int = 0
    newest: int = 0
    session: str | None = None
    wake: int | None = None


Out = Example | Outcome


def advance(state: Joining, arrival: Arrival, rules: Rules) -> tuple[Joining, list[Out]]:
    """Take in what came, and give out what is ready.

    Args:
        state: What is known of the user.
        arrival: A list, an event, or only the time.
        rules: Which feedback counts, and for how long.

    Returns:
        The state after it; examples that are ready, and an outcome for each list and each
        feedback whose fate is known now.

    Examples:
        >>> import numpy as np
        >>> rules = Rules(label="click", settle=0)
        >>> served = Served("r1", "u", 10**12, ("a", "b"), "v1", "f", "request", {},
        ...                 np.zeros((2, 1), np.float32))
        >>> click = Interaction(id="e", timestamp=10**12 + 5, user="u", type="click", item="b",
        ...                     ranking="r1")
        >>> state, out = advance(Joining(), Arrival(served, now=7), rules)
        >>> state, out = advance(state, Arrival(click, now=9), rules)
        >>> [one.name if isinstance(one, Outcome) else one.labels.T.tolist() for one in out]
        ['joined', 'with_feedback', [[0.0, 1.0]]]
    """
    before, out = state, list[Out]()
    state = _later(state, arrival.now)
    match arrival.what:
        case Served() as served:
            state = _listed(state, served, rules, out)
        case Interaction() | Shown() as event:
            state = _moved(state, event)
            head = rules.head(event) if isinstance(event, Interaction) else None
            if isinstance(event, Interaction) and head is not None:
                one = Waiting(event, head, state.seen, arrival.origin)
                state = _fed(state, one, rules, out)
    changed = state.lists is not before.lists or state.over is not before.over
    if changed or (state.wake is not None and state.wake <= state.clock):
        state = _settled(state, rules, out)
    return _waited(state, rules, out) if state.waiting else state, out


def alarm(state: Joining, rules: Rules) -> int | None:
    """Return when, by the system's clock (ms), there is something to do though nothing comes.

    `None` where nothing is kept: then the user may be forgotten.
    """
    alarms = [one.since + rules.lateness for one in state.waiting[:1]]
    if state.wake is not None:
        alarms.append(state.seen + max(0, state.wake - state.clock))
    return min(alarms, default=None)


def resumed(state: Joining, now: int) -> Joining:
    """Return the state as if no time had passed since it was kept: what came since is to come."""
    asleep = now - state.seen
    waiting = tuple(replace(one, since=one.since + asleep) for one in state.waiting)
    return replace(state, seen=now, waiting=waiting)


# --- what came --------------------------------------------------------------------------------


def _later(state: Joining, now: int) -> Joining:
    """Let the clock go on as the system's does."""
    passed = max(0, now - state.seen) if state.clock else 0
    return replace(state, clock=state.clock + passed, seen=max(state.seen, now))


def _moved(state: Joining, event: Interaction | Shown) -> Joining:
    """Set the clock by what somebody did, and end the visits before this one."""
    at, lists = event.timestamp, state.lists
    ended = {
        name: replace(one, ended=True)
        for name, one in lists.items()
        if not one.ended and at >= state.newest and _of_before(one.served, at, event.session)
    }
    if ended:
        lists = {**lists, **ended}
    newest = max(state.newest, at)
    session = event.session if at == newest else state.session
    return replace(state, lists=lists, clock=max(state.clock, at), newest=newest, session=session)


def _of_before(served: Served, at: int, session: str | None) -> bool:
    """Say whether a list is of another visit than the one that is on since then."""
    visits = {served.session, session}
    return None not in visits and len(visits) == 2 and served.timestamp <= at


def _listed(state: Joining, served: Served, rules: Rules, out: list[Out]) -> Joining:
    """Take a list in, and the feedback that waited for it."""
    if served.id in state.lists or served.id in state.over:
        out.append(Outcome("duplicate_list", served.id))
        return state
    if not served.items:
        out.append(Outcome("empty_list", served.id))
        return replace(state, over={**state.over, served.id: served.timestamp})
    listed = Listed(served, ended=_of_before(served, state.newest, state.session))
    state = replace(
        state,
        lists={**state.lists, served.id: listed},
        clock=state.clock or served.timestamp,
    )
    mine = [one for one in state.waiting if _is_of(one, listed, rules)]
    others = tuple(one for one in state.waiting if not _is_of(one, listed, rules))
    for one in mine:
        state = _fed(state, one, rules, out)
    return replace(state, waiting=others)


def _is_of(one: Waiting, listed: Listed, rules: Rules) -> bool:
    """Say whether feedback waited for this list."""
    named = one.event.ranking
    return named == listed.served.id if named else listed.fits(one.event, one.head, rules)


def _fed(state: Joining, one: Waiting, rules: Rules, out: list[Out]) -> Joining:
    """Take feedback in: to its list, or to those that wait for theirs."""
    event = one.event
    name = event.ranking or _attributed(state, one, rules) or ""
    if event.item is None:
        out.append(Outcome("no_item", name, event.id))
    elif name in state.lists:
        listed, fate = state.lists[name].take(event, one.head, state.clock, rules, one.origin)
        out.append(Outcome(fate, name, event.id))
        return replace(state, lists={**state.lists, name: listed})
    elif name in state.over:
        in_time = event.timestamp <= state.over[name] + rules.window(one.head)
        lost = one.head == CONVERSION and in_time
        out.append(Outcome("without_label" if lost else "late", name, event.id))
    elif any(event.id == other.event.id for other in state.waiting):
        out.append(Outcome("duplicate", name, event.id))
    else:
        return replace(state, waiting=(*state.waiting, one))
    return state


def _attributed(state: Joining, one: Waiting, rules: Rules) -> str | None:
    """Find the list of feedback that names none: the newest in time that shows its item.

    A conversion goes to a list where the item had the label before it goes to one where it had
    not.
    """
    fitting = [
        ((0, one.event.item) in listed.found, listed.served.timestamp, name)
        for name, listed in state.lists.items()
        if listed.fits(one.event, one.head, rules)
    ]
    if one.head != CONVERSION:
        fitting = [(False, at, name) for _, at, name in fitting]
    return max(fitting)[2] if fitting else None


# --- what is ready, and what is over ----------------------------------------------------------


def _settled(state: Joining, rules: Rules, out: list[Out]) -> Joining:
    """Give out the examples that are due, and forget what is over."""
    crowded = _crowded(state.lists, rules.lists)
    lists: dict[str, Listed] = {}
    over = {name: at for name, at in state.over.items() if at + rules.longest > state.clock}
    for name, listed in state.lists.items():
        due = listed.due(state.newest, rules)
        forgotten = name in crowded or listed.forgotten(rules) <= state.clock
        if due is not None and (forgotten or due <= state.clock):
            listed = _sent(listed, rules, out)
        if not forgotten:
            lists[name] = listed
            continue
        if not listed.revision:
            out.append(Outcome("unseen_rerank", name))
        over[name] = listed.served.timestamp
    return replace(state, lists=lists, over=over, wake=_wake(state.newest, lists, over, rules))


def _wake(
    newest: int, lists: Mapping[str, Listed], over: Mapping[str, int], rules: Rules
) -> int | None:
    """Return when something is due or to be forgotten; a deed may put it off."""
    dues = (listed.due(newest, rules) for listed in lists.values())
    moments = [due for due in dues if due is not None]
    moments += [listed.forgotten(rules) for listed in lists.values()]
    moments += [at + rules.longest for at in over.values()]
    return min(moments, default=None)


def _sent(listed: Listed, rules: Rules, out: list[Out]) -> Listed:
    """Send the example of a list, and say the first time what became of it."""
    after, example = listed.example(rules)
    if not example.revision:
        out.append(Outcome("with_feedback" if listed.found else "without_feedback", example.id))
    out.append(example)
    return after


def _crowded(lists: Mapping[str, Listed], most: int) -> set[str]:
    """Return the lists beyond the most that are kept: re-rankings without feedback first."""
    surplus = len(lists) - most
    if surplus <= 0:
        return set()
    by_use = sorted(lists, key=lambda name: not lists[name].may_be_unseen)
    return set(by_use[:surplus])


def _waited(state: Joining, rules: Rules, out: list[Out]) -> Joining:
    """Give up on feedback that has waited too long, or of which there is too much."""
    patient = [one for one in state.waiting if one.since + rules.lateness > state.seen]
    out.extend(_given_up(state.waiting, patient))
    for one in patient[:-WAITING]:
        out.append(Outcome("crowded_out", one.event.ranking or "", one.event.id))
    return replace(state, waiting=tuple(patient[-WAITING:]))


def _given_up(waiting: tuple[Waiting, ...], patient: list[Waiting]) -> Iterator[Outcome]:
    for one in waiting[: len(waiting) - len(patient)]:
        name = one.event.ranking
        reason: Literal["unknown_list", "no_list_named"] = (
            "unknown_list" if name else "no_list_named"
        )
        yield Outcome(reason, name or "", one.event.id)
