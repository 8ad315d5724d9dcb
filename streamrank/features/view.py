"""A list to score with all that is known of it; `features.views` lays such lists side by side.

What several features need is worked out once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from streamrank.events import Candidate, Value
from streamrank.features import state, transitions
from streamrank.features.schema import Schema
from streamrank.features.state import UserState

Array = np.ndarray[Any, Any]
LOOKED = 600_000
"""Milliseconds: whoever does nothing for longer has looked away."""
RECENT = 5
"""Items touched last whose followers are looked at."""
FOLLOWERS_PRIOR = 2.0
"""Visits of nothing in particular that a share of followers starts from."""


@dataclass(frozen=True, slots=True)
class Query:
    """A list to score.

    Attributes:
        id: The ranking's id.
        user: The message key of the user.
        at: Event time, milliseconds.
        source: What asked for it: a request, an interaction, or a list shown elsewhere.
        request: The id of the request that is answered.
        trigger: The interaction that caused it, where one did.
        state: The user's state before this list.
        received: When the cause arrived here, epoch milliseconds; for the latency only.
    """

    id: str
    user: str
    session: str | None
    at: int
    source: Literal["request", "trigger", "ranking"]
    request: str
    trigger: str | None
    k: int | None
    context: Mapping[str, Value]
    candidates: tuple[Candidate, ...]
    state: UserState
    received: float = 0.0


@dataclass(frozen=True, slots=True)
class Rows:
    """What the store knows of a query's user and candidates; `None` or empty for unknown."""

    user_window: Array | None = None
    user_fields: Mapping[str, Value] = field(default_factory=dict)
    item_windows: Sequence[Array | None] = ()
    item_fields: Sequence[Mapping[str, Value]] = ()
    next_items: Mapping[str, Array] = field(default_factory=dict)  # by an item that was touched


@dataclass(slots=True)
class Touch:
    """What the user did with one candidate."""

    place: int  # in the incoming list
    rank: int  # items touched since
    ago: int  # steps since
    deeds: int  # interactions since
    last: int  # when, ms
    type: int  # channel of the last touch
    run: int  # how often in a row it was repeated
    counts: list[int]  # by channel
    here: int = 0  # touches in this session
    looked: int = 0  # ms until the next step, over all touches
    labelled: int | None = None  # rank among the items with the label


@dataclass(frozen=True, slots=True)
class Past:
    """What the user did, as this list sees it."""

    touched: Sequence[Touch]  # of the candidates alone, the last first
    items: int  # how many different ones were touched, candidates or not
    here: int  # touches in this session


@dataclass
class View:
    """A query with its rows."""

    schema: Schema
    query: Query
    rows: Rows

    @cached_property
    def size(self) -> int:
        """How many candidates there are, C."""
        return len(self.query.candidates)

    @cached_property
    def ids(self) -> list[str]:
        """The candidates' ids."""
        return [candidate.id for candidate in self.query.candidates]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each candidate is in the incoming list."""
        return {item: place for place, item in enumerate(self.ids)}

    @cached_property
    def fields(self) -> list[Mapping[str, Value]]:
        """Each candidate's fields: the catalogue's, overridden by the list's."""
        known = self.rows.item_fields or [{}] * self.size
        return [
            ({**old, **candidate.fields} if candidate.fields else old) if old else candidate.fields
            for old, candidate in zip(known, self.query.candidates, strict=True)
        ]

    @cached_property
    def past(self) -> Past:
        """What the user did with the candidates, and with how many items at all."""
        places, label = self.places, self.schema.label
        session, following = self.query.session, self.query.at
        found: dict[str, Touch] = {}
        items: set[str] = set()
        labelled: set[str] = set()
        deeds = in_session = 0
        for ago, step in enumerate(reversed(self.query.state.steps)):
            count, item = step.count, step.item
            looked, following = following - step.first, step.first
            since, deeds = deeds, deeds + count
            if item is None:
                continue
            here = count if step.session == session else 0
            in_session += here
            if item in places:
                touch = found.get(item)
                channel = self.schema.channel(step.type)
                if touch is None:
                    counts = [0] * (len(self.schema.interactions) + 1)
                    touch = Touch(
                        places[item], len(items), ago, since, step.last, channel, count, counts
                    )
                    found[item] = touch
                touch.counts[channel] += count
                touch.looked += min(max(0, looked), LOOKED)
                touch.here += here
                if step.type == label and touch.labelled is None:
                    touch.labelled = len(labelled)
            items.add(item)
            if step.type == label:
                labelled.add(item)
        return Past(tuple(found.values()), len(items), in_session)

    @cached_property
    def labelled(self) -> list[int]:
        """The places of the candidates that had the label, the last first."""
        ranked = [(t.labelled, t.place) for t in self.past.touched if t.labelled is not None]
        return [place for _, place in sorted(ranked)]

    @cached_property
    def earlier(self) -> tuple[tuple[str, ...], ...]:
        """The items of the user's lists before this one, the newest last."""
        held = state.lists(self.query.state)
        current = self.query.state.current
        if current and current.id == self.query.request:  # a trigger ranks this very list again
            return held[:-1]
        return held

    @cached_property
    def followers(self) -> list[Array]:
        """Which share of what people touch after it each candidate is, (C,) by item touched.

        Of the items that this user touched, the last first, as many as `recent` names.  Empty
        where nothing is known of any of them.
        """
        known, touched = self.rows.next_items, recent(self.query.state)
        if not any(item in known for item in touched):
            return []
        places = [transitions.place(item) for item in self.ids]
        return [
            transitions.shares(known[item], places, FOLLOWERS_PRIOR)
            if item in known
            else np.zeros(self.size)
            for item in touched
        ]

    def number(self, name: str) -> list[float]:
        """A quantity of each candidate, NaN where unknown."""
        known = self.rows.item_fields or [{}] * self.size
        values = [
            own[name] if name in (own := candidate.fields) else old.get(name)
            for old, candidate in zip(known, self.query.candidates, strict=True)
        ]
        # Nearly all are floats already, and a call costs more than to look.
        return [value if type(value) is float else _number(value) for value in values]

    def before(self, name: str) -> list[tuple[int, float]]:
        """The quantity that the user's last list gave for a candidate, by its place here."""
        current, places = self.query.state.current, self.places
        if current is None or current.id == self.query.request:
            return []
        return [
            (places[candidate.id], _number(candidate.fields.get(name)))
            for candidate in current.candidates
            if candidate.id in places
        ]

    def taste(self, name: str) -> list[tuple[float, float, bool]]:
        """What the user touched, as it was listed: quantity, rank, is it the label."""
        label = self.schema.label
        return [
            (number.value, number.rank, step.type == label)
            for step in self.query.state.steps
            if step.numbers
            for number in step.numbers
            if number.name == name
        ]


def recent(user: UserState) -> list[str]:
    """Return the different items that a user touched last, the last first."""
    touched = dict.fromkeys(step.item for step in reversed(user.steps) if step.item)
    return list(touched)[:RECENT]


def _number(value: Value) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
