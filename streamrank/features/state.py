"""What is remembered of each user between two events: why a click changes the next list.

State is a value: `advance(state, event) -> state`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from streamrank.events import Interaction, Request, Shown
from streamrank.features.ledger import Ledger, Verdict, admit, name_of
from streamrank.features.listed import List
from streamrank.values import Fields


@dataclass(frozen=True, slots=True)
class Rules:
    """How much is remembered, and for how long duplicates are.

    Attributes:
        history: Steps of behaviour that are kept.
        lists: Earlier lists whose items are remembered.
        lateness: For how long an event id is remembered, milliseconds.
    """

    history: int = 50
    lists: int = 5
    lateness: int = 600_000


class Number(NamedTuple):
    """A quantity of an item in a list: the taste of whoever touches it."""

    name: str
    value: float
    rank: float  # share of the list that has more of it


@dataclass(frozen=True, slots=True)
class Step:
    """Something the user did, `count` times in a row."""

    type: str
    item: str | None
    session: str | None
    first: int  # ms
    last: int  # ms
    count: int = 1
    value: str = ""  # the interaction's own fields, as words
    place: int = -1  # where the item stood in the list of the time, -1 where it did not
    numbers: tuple[Number, ...] = ()  # the quantities that the list gave for it


@dataclass(frozen=True, slots=True)
class UserState:
    """All that is kept of one user, oldest first."""

    steps: tuple[Step, ...] = ()
    current: List | None = None  # the newest list, with all that it said
    earlier: tuple[tuple[str, ...], ...] = ()  # the item ids of those before it
    ledger: Ledger = field(default_factory=Ledger)
    session: str | None = None
    session_start: int = 0
    session_steps: int = 0
    triggered: int = 0  # when an interaction last re-ranked the current list, ms


def advance(
    state: UserState, event: Interaction | Shown | Request, rules: Rules
) -> tuple[UserState, Verdict]:
    """Take one event in.

    Args:
        state: What is known of the user.
        event: What happened: a deed, or a list shown or asked for.
        rules: How much to keep.

    Returns:
        The state after the event, and whether it counted; unchanged where it did not.

    Examples:
        >>> click = Interaction(id="e", timestamp=10**12, user="u", type="click", item="i")
        >>> state, verdict = advance(UserState(), click, Rules())
        >>> verdict, state.steps[0].item, advance(state, click, Rules())[1]
        ('new', 'i', 'duplicate')
    """
    at = event.timestamp
    if isinstance(event, Request):  # somebody waits for an answer: a request is never too late
        at = max(at, state.ledger.newest - rules.lateness)
    if isinstance(event, Shown) and name_of("request", event.id) in state.ledger.ids:
        return state, "duplicate"  # what was asked for, told as shown
    ledger, verdict = admit(state.ledger, _name(event), at, rules.lateness)
    if verdict != "new":
        return state, verdict
    state = _in_session(replace(state, ledger=ledger), event)
    if isinstance(event, Interaction):
        return replace(state, steps=_stepped(state, event)[-rules.history :]), verdict
    if not event.items:  # nothing shown yet: retrieval will say what
        return state, verdict
    k = event.k if isinstance(event, Request) else None
    shown = List.of(event.id, event.timestamp, event.session, event.fields, event.items, k)
    return replace(state, current=shown, earlier=lists(state)[-rules.lists :]), verdict


def _name(event: Interaction | Shown | Request) -> str:
    if isinstance(event, Interaction):
        return event.id
    return name_of("request" if isinstance(event, Request) else "list", event.id)


def lists(state: UserState) -> tuple[tuple[str, ...], ...]:
    """Return the item ids of every list that is remembered, the newest last."""
    if state.current is None:
        return state.earlier
    return (*state.earlier, state.current.items)


def _in_session(state: UserState, event: Interaction | Shown | Request) -> UserState:
    steps = 1 if isinstance(event, Interaction) else 0
    if event.session == state.session and state.session_start:
        return replace(state, session_steps=state.session_steps + steps)
    return replace(state, session=event.session, session_start=event.timestamp, session_steps=steps)


def _stepped(state: UserState, event: Interaction) -> tuple[Step, ...]:
    """Add a deed in event time; a run of the same deed is one step."""
    steps = state.steps
    value = " ".join(f"{name}={word}" for name, word in sorted(event.fields.items()))
    at = event.timestamp
    if steps:
        last = steps[-1]
        same = (last.type, last.item, last.session, last.value)
        if at >= last.last and same == (event.type, event.item, event.session, value):
            return (*steps[:-1], replace(last, last=at, count=last.count + 1))
    place, numbers = _as_listed(state.current, event.item)
    new = Step(event.type, event.item, event.session, at, at, 1, value, place, numbers)
    end = len(steps)
    while end and steps[end - 1].last > at:  # late: before what happened after it
        end -= 1
    return (*steps[:end], new, *steps[end:])


def _as_listed(current: List | None, item: str | None) -> tuple[int, tuple[Number, ...]]:
    """Find an item in a list: its place, and its quantities."""
    if current is None or item not in current.items:
        return -1, ()
    place, listed = current.items.index(item), current.fields
    values = {name: v for name, v in listed[place].items() if isinstance(v, float)}
    return place, tuple(Number(name, v, _share(listed, name, v)) for name, v in values.items())


def _share(listed: Sequence[Fields], name: str, value: float) -> float:
    """Return the share of the candidates that have more of a quantity."""
    others = (fields.get(name) for fields in listed)
    return sum(isinstance(v, float) and v > value for v in others) / len(listed)


def triggers(
    state: UserState, event: Interaction, types: frozenset[str], every: int
) -> List | None:
    """Return the list that this interaction ranks again, if it does.

    Args:
        state: The state after the event.
        event: The interaction.
        types: Interaction types that re-rank.
        every: The least time between two such re-rankings of one user, milliseconds.
    """
    if event.type not in types or state.current is None:
        return None
    if state.triggered and event.timestamp - state.triggered < every:
        return None
    return state.current if state.current.session == event.session else None
