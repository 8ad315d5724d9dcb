"""A list to score with all that is known of it, as the feature groups look at it.

What several features need is worked out once, as arrays over the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from streamrank.events import Candidate, Value
from streamrank.features import state, transitions, windows
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
    """What the user did with one item."""

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
    def touches(self) -> dict[str, Touch]:
        """Every item the user touched, the last first."""
        channels = {name: place for place, name in enumerate(self.schema.interactions)}
        label, other = channels[self.schema.label], len(channels)
        found: dict[str, Touch] = {}
        labelled, deeds, following = 0, 0, self.query.at
        for ago, step in enumerate(reversed(self.query.state.steps)):
            looked, following = following - step.first, step.first
            since, deeds = deeds, deeds + step.count
            if step.item is None:
                continue
            channel = channels.get(step.type, other)
            touch = found.get(step.item)
            if touch is None:
                counts = [0] * (other + 1)
                touch = Touch(len(found), ago, since, step.last, channel, step.count, counts)
                found[step.item] = touch
            touch.counts[channel] += step.count
            touch.looked += min(max(0, looked), LOOKED)
            if step.session == self.query.session:
                touch.here += step.count
            if channel == label and touch.labelled is None:
                touch.labelled = labelled
                labelled += 1
        return found

    @cached_property
    def touched(self) -> list[tuple[int, Touch]]:
        """The candidates that were touched, the last first: place and what was done."""
        return [
            (self.places[item], touch)
            for item, touch in self.touches.items()
            if item in self.places
        ]

    @cached_property
    def untouched(self) -> Array:
        """Which candidates were never touched, (C,)."""
        never = np.ones(self.size, bool)
        never[[place for place, _ in self.touched]] = False
        return never

    @cached_property
    def labelled(self) -> list[int]:
        """The places of the candidates that had the label, the last first."""
        ranked = [(t.labelled, place) for place, t in self.touched if t.labelled is not None]
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
    def windows(self) -> tuple[Array, Array]:
        """When each channel of each candidate was last counted (C, channels), and the counts.

        The counts are brought up to the query's time, (horizons, C, channels).  A candidate
        without a window has 0.
        """
        horizons, channels = np.asarray(self.schema.horizons), len(self.schema.channels)
        found = self.rows.item_windows
        if found and len(found) == self.size and not any(vector is None for vector in found):
            packed = np.array(found, np.float64)
        else:
            packed = np.zeros((self.size, windows.width(len(horizons), channels)))
            for row, vector in zip(packed, found, strict=False):
                if vector is not None:
                    row[:] = vector
        age = np.maximum(0.0, self.query.at - packed[:, 0])
        decayed = packed[:, 1 + 2 * channels :].reshape(self.size, len(horizons), channels)
        counts = decayed * windows.decay(age[:, None], horizons)[:, :, None]
        return packed[:, 1 + channels : 1 + 2 * channels], counts.transpose(1, 0, 2)

    @cached_property
    def unknown(self) -> Array:
        """Which candidates have no window, (C,)."""
        known = self.rows.item_windows or [None] * self.size
        return np.array([vector is None for vector in known], bool)

    @cached_property
    def followers(self) -> Array:
        """Which share of what people touch after it each candidate is, (touched, C).

        Of the items that this user touched, the last first, as many as `recent` names.
        """
        known = self.rows.next_items
        found = [
            transitions.shares(known[item], self.ids, FOLLOWERS_PRIOR)
            if item in known
            else np.zeros(self.size)
            for item in recent(self.query.state)
        ]
        return np.array(found, np.float64).reshape(len(found), self.size)

    @cached_property
    def user_counts(self) -> Array:
        """The user's counts over the longest horizon, at the query's time, (channels,)."""
        channels, horizons = len(self.schema.channels), np.asarray(self.schema.horizons)
        if self.rows.user_window is None:
            return np.zeros(channels)
        window = windows.unpack(self.rows.user_window, len(horizons), channels)
        age = max(0, self.query.at - window.at)
        return np.asarray(window.decayed[-1] * windows.decay(age, horizons)[-1])

    def number(self, name: str) -> Array:
        """A quantity of each candidate, NaN where unknown, shape (C,)."""
        return np.array([_number(fields.get(name)) for fields in self.fields], np.float64)

    def before(self, name: str) -> Array:
        """The quantity that the user's last list gave for each candidate, NaN for none, (C,)."""
        found = np.full(self.size, np.nan)
        current = self.query.state.current
        if current is not None and current.id != self.query.request:
            for candidate in current.candidates:
                place = self.places.get(candidate.id)
                if place is not None:
                    found[place] = _number(candidate.fields.get(name))
        return found

    def taste(self, name: str) -> Array:
        """What the user touched, as it was listed: quantity, rank, is it the label, (n, 3)."""
        label = self.schema.label
        found = [
            (number.value, number.rank, step.type == label)
            for step in self.query.state.steps
            for number in step.numbers
            if number.name == name
        ]
        return np.array(found, np.float64).reshape(len(found), 3)


def recent(user: UserState) -> list[str]:
    """Return the different items that a user touched last, the last first."""
    touched = dict.fromkeys(step.item for step in reversed(user.steps) if step.item)
    return list(touched)[:RECENT]


def _number(value: Value) -> float:
    return float(value) if isinstance(value, (int, float)) else np.nan
