"""A list to score with all that is known of it.

What several features need is worked out once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from streamrank.events import Candidate, Value
from streamrank.features import items, state, transitions, windows
from streamrank.features.history import History, told
from streamrank.features.items import Items
from streamrank.features.schema import Schema
from streamrank.features.state import UserState

Array = np.ndarray[Any, Any]
LOOKED = 600_000
"""Milliseconds: whoever does nothing for longer has looked away."""
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
    items: Items | None = None  # windows and fields of the candidates as arrays, in their stead


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
    """A query with its rows.

    Attributes:
        size: How many candidates there are, C.
        ids: Their ids.
        places: Where each one is in the incoming list.
        held: The ids as a set.
        listed: The fields that the list gives for each.
        history: What the user did, whichever the candidates.
        met: The candidates that the user touched.
        past: What the user did with the candidates, and with how many items at all.
        touched: The places of the candidates that the user touched, the last first, int64.
        labelled: The places of the candidates that had the label, the last first.
        earlier: The items of the user's lists before this one, the newest last.
        again: The candidates that the user's last list held: place there, and here.
    """

    schema: Schema
    query: Query
    rows: Rows

    def __post_init__(self) -> None:
        candidates = self.query.candidates
        self.size = len(candidates)
        self.ids = [candidate.id for candidate in candidates]
        self.places = dict(zip(self.ids, range(self.size), strict=True))
        self.listed: list[Mapping[str, Value]] = [candidate.fields for candidate in candidates]
        self.history: History = told(self.schema, self.query.state.steps, self.query.session)
        # Two sets compare the hashes that they hold: no text is looked at but of what is in both.
        self.held = frozenset(self.places)
        self.met: frozenset[str] = self.history.items & self.held
        self.past = self._past()
        self.touched = np.array([touch.place for touch in self.past.touched], np.int64)
        ranked = [(t.labelled, t.place) for t in self.past.touched if t.labelled is not None]
        self.labelled = [place for _, place in sorted(ranked)]
        self.earlier = self._earlier()
        self.again = self._again()

    @cached_property
    def items(self) -> Items:
        """What the catalogue and the windows say of the candidates."""
        rows = self.rows
        if rows.items is not None:
            return rows.items
        known = rows.item_fields or [{}] * self.size
        fields = [old for old, _ in zip(known, self.ids, strict=True)]
        vectors = [*rows.item_windows[: self.size], *repeat(None, self.size)][: self.size]
        return items.encode(self.schema, self.ids, vectors, fields)

    def _past(self) -> Past:
        history, places = self.history, self.places
        ranked = sorted([(history.ranks[item], item) for item in self.met])
        touched = [
            self._touch(places[item], rank, history.labelled.get(item), history.agos[item])
            for rank, item in ranked
        ]
        return Past(touched, len(history.agos), history.here)

    def _touch(self, place: int, rank: int, labelled: int | None, agos: Sequence[int]) -> Touch:
        steps, session, schema = self.query.state.steps, self.query.session, self.schema
        ago, last = agos[0], steps[-1 - agos[0]]
        counts = [0] * (len(schema.interactions) + 1)
        channel, since = schema.channel(last.type), self.history.deeds[ago]
        touch = Touch(place, rank, ago, since, last.last, channel, last.count, counts)
        touch.labelled = labelled
        for before in agos:
            step = steps[-1 - before]
            counts[schema.channel(step.type)] += step.count
            following = steps[-before].first if before else self.query.at
            touch.looked += min(max(0, following - step.first), LOOKED)
            if step.session == session:
                touch.here += step.count
        return touch

    def _earlier(self) -> tuple[tuple[str, ...], ...]:
        held = state.lists(self.query.state)
        current = self.query.state.current
        if current and current.id == self.query.request:  # a trigger ranks this very list again
            return held[:-1]
        return held

    def _again(self) -> list[tuple[int, int]]:
        if not self.earlier:
            return []
        held, places = self.held, self.places
        return [(there, places[i]) for there, i in enumerate(self.earlier[-1]) if i in held]

    @property
    def followers(self) -> Array | None:
        """Which share of what people touch after an item each candidate is, (items, C).

        Of the items that this user touched last, the last first; `None` where nothing is known
        of any of them.
        """
        known, recent = self.rows.next_items, self.history.recent
        if not known or not any(item in known for item in recent):
            return None
        vectors = [known.get(item, _NOTHING) for item in recent]
        return transitions.shares(vectors, self.items.hashes, FOLLOWERS_PRIOR)

    # --- places -------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """Where the candidate touched last is, -1 for none."""
        return self.past.touched[0].place if self.past.touched else -1

    @property
    def last_labelled(self) -> int:
        """Where the candidate that had the label last is, -1 for none."""
        return self.labelled[0] if self.labelled else -1

    @property
    def held_before(self) -> list[int]:
        """Places of the candidates that earlier lists held, one for each list that did."""
        places = self.places
        found = chain.from_iterable(map(self.held.intersection, self.earlier[:-1]))
        return [*map(places.__getitem__, found), *(here for _, here in self.again)]

    # --- quantities ---------------------------------------------------------------------------

    @property
    def user_counts(self) -> list[float]:
        """The user's counts over the longest horizon, at the query's time, by channel.

        Raises:
            ValueError: The window has another width than the schema says.
        """
        channels, horizons = len(self.schema.channels), self.schema.horizons
        window = self.rows.user_window
        if window is None:
            return [0.0] * channels
        width = windows.width(len(horizons), channels)
        if len(window) != width:
            raise ValueError(f"window must hold {width} values, got {len(window)}")
        at, *_ = values = window.tolist()
        weight = 2.0 ** (-max(0.0, self.query.at - at) / (1000.0 * horizons[-1]))
        return [weight * value for value in values[-channels:]]

    def number(self, name: str) -> Array:
        """A quantity of each candidate, NaN where unknown, float64 (C,)."""
        try:
            values = list(map(itemgetter(name), self.listed))
        except KeyError:  # not all of the candidates
            return self._overridden(name)
        if set(map(type, values)) != {float}:
            values = list(map(items.number, values))
        return np.array(values, np.float64)

    def _overridden(self, name: str) -> Array:
        """Return the catalogue's quantity where the list gives none."""
        found = self.items.numbers[:, self.schema.numbers.index(name)].copy()
        for place, own in enumerate(self.listed):
            if name in own:
                found[place] = items.number(own[name])
        return found

    def before(self, name: str) -> tuple[Array, Array]:
        """Places of candidates that the user's last list held, and the quantity it gave."""
        listed = self._listed_before
        if not listed:
            return _NOWHERE, _NOTHING
        values = [items.number(listed[there].get(name)) for there, _ in self.again]
        return np.array([here for _, here in self.again], np.int64), np.array(values, np.float64)

    @cached_property
    def _listed_before(self) -> Sequence[Mapping[str, Value]]:
        current = self.query.state.current
        if current is None or current.id == self.query.request or not self.again:
            return []
        return current.fields


_NOWHERE, _NOTHING = np.zeros(0, np.int64), np.zeros(0)
