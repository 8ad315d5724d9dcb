"""State and rows in, model inputs out: the one function of serving, training and bootstrap.

Every dense feature of a candidate has one definition in `GROUPS`: its name and meaning (which
the README's list and the manifest's hash come from) beside the code that computes it.  All of
them are known before the list's own feedback.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from streamrank.events import Candidate, Value
from streamrank.features import state, windows
from streamrank.features.schema import Schema, hashed
from streamrank.features.state import Step, UserState

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]
TOKENS = 16
"""Content tokens of an item, and of a list's context, that the model sees."""
STEP_NUMBERS = 4
"""Numbers of a step of history."""


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


@dataclass
class Touch:
    """What the user did with one item, newest first in `rank`."""

    rank: int  # 0 = touched last
    last: int
    ago: int  # steps since
    counts: Array  # (types + other,)
    here: int = 0  # touches in this session


@dataclass
class View:
    """A query with its rows, as the feature groups look at it."""

    schema: Schema
    query: Query
    rows: Rows

    @cached_property
    def size(self) -> int:
        return len(self.query.candidates)

    @cached_property
    def ids(self) -> list[str]:
        return [candidate.id for candidate in self.query.candidates]

    @cached_property
    def places(self) -> dict[str, int]:
        return {item: place for place, item in enumerate(self.ids)}

    @cached_property
    def fields(self) -> list[Mapping[str, Value]]:
        """Each candidate's fields: the catalogue's, overridden by the list's."""
        known = self.rows.item_fields or [{}] * self.size
        return [
            {**old, **candidate.fields} if old else candidate.fields
            for old, candidate in zip(known, self.query.candidates, strict=True)
        ]

    @cached_property
    def touches(self) -> dict[str, Touch]:
        """Every item the user touched."""
        channels = len(self.schema.interactions) + 1
        found: dict[str, Touch] = {}
        for ago, step in enumerate(reversed(self.query.state.steps)):
            if step.item is None:
                continue
            touch = found.get(step.item)
            if touch is None:
                touch = Touch(len(found), step.last, ago, np.zeros(channels))
                found[step.item] = touch
            touch.counts[self.schema.channel(step.type)] += step.count
            if step.session == self.query.session:
                touch.here += step.count
        return found

    @cached_property
    def touched(self) -> list[Touch | None]:
        """What was done with each candidate."""
        return [self.touches.get(item) for item in self.ids]

    @cached_property
    def windows(self) -> list[windows.Window | None]:
        channels, horizons = len(self.schema.channels), len(self.schema.horizons)
        vectors = self.rows.item_windows or [None] * self.size
        return [None if v is None else windows.unpack(v, horizons, channels) for v in vectors]

    @cached_property
    def decayed(self) -> Array:
        """Counts of each candidate brought up to the query's time, (C, horizons, channels)."""
        horizons = np.asarray(self.schema.horizons)
        counts = np.zeros((self.size, len(horizons), len(self.schema.channels)))
        for place, window in enumerate(self.windows):
            if window is not None:
                age = max(0, self.query.at - window.at)
                counts[place] = window.decayed * windows.decay(age, horizons)[:, None]
        return counts

    @cached_property
    def earlier(self) -> tuple[tuple[str, ...], ...]:
        """The items of the user's lists before this one, the newest last."""
        held = state.lists(self.query.state)
        current = self.query.state.current
        if current and current.id == self.query.request:  # a trigger ranks this very list again
            return held[:-1]
        return held

    def number(self, name: str) -> Array:
        """A quantity of each candidate, NaN where unknown, shape (C,)."""
        values = [fields.get(name) for fields in self.fields]
        return np.array(
            [float(v) if isinstance(v, (int, float)) else np.nan for v in values], np.float64
        )


class Feature(NamedTuple):
    """A dense feature of a candidate."""

    name: str
    meaning: str


class Group(NamedTuple):
    """Features that are defined and computed together."""

    name: str
    features: Callable[[Schema], list[Feature]]
    compute: Callable[[View], list[Array]]


def signed_log(values: Array) -> Array:
    """Return log(1 + |x|) with the sign of x."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def ranks(values: Array) -> Array:
    """Rank within the list, 0 for the largest; ties share the first place, NaN stays last."""
    filled = np.where(np.isnan(values), -np.inf, values)
    ordered = np.sort(-filled)
    return np.searchsorted(ordered, -filled, side="left").astype(np.float64)


def _known(values: Array) -> Array:
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


# --- the list ---------------------------------------------------------------------------------


def _list_features(schema: Schema) -> list[Feature]:
    return [
        Feature("list.position", "place in the incoming list"),
        Feature("list.share", "place in the incoming list over its length"),
    ]


def _list(view: View) -> list[Array]:
    place = np.arange(view.size, dtype=np.float64)
    return [place, place / max(1, view.size)]


# --- quantities -------------------------------------------------------------------------------


def _number_features(schema: Schema) -> list[Feature]:
    meanings = {
        "log": "the quantity, log scale",
        "centred": "against the list's mean, in standard deviations",
        "rank": "share of the list that has more of it",
        "over_least": "log ratio to the list's smallest",
        "least_so_far": "1 where no candidate before it has less",
        "over_touched": "log ratio to the mean of the touched candidates",
        "over_last": "log ratio to the candidate touched last",
        "unknown": "1 where the quantity is unknown",
    }
    return [Feature(f"{n}.{key}", text) for n in schema.numbers for key, text in meanings.items()]


def _numbers(view: View) -> list[Array]:
    return [column for name in view.schema.numbers for column in _number(view, view.number(name))]


def _number(view: View, values: Array) -> list[Array]:
    unknown = np.isnan(values)
    if unknown.all():
        return [np.zeros(view.size)] * 7 + [np.ones(view.size)]
    logs = signed_log(values)
    spread = float(np.nanstd(logs)) or 1.0
    touched = [place for place, touch in enumerate(view.touched) if touch is not None]
    last = min(touched, key=lambda place: view.touches[view.ids[place]].rank, default=None)
    least = np.minimum.accumulate(np.where(unknown, np.inf, values))
    none = np.zeros(view.size)
    touched_logs = logs[touched][~unknown[touched]]
    return [
        _known(logs),
        _known((logs - np.nanmean(logs)) / spread),
        ranks(values) / view.size,
        _known(logs - np.nanmin(logs)),
        (values <= least).astype(np.float64),
        _known(logs - touched_logs.mean()) if len(touched_logs) else none,
        _known(logs - logs[last]) if last is not None else none,
        unknown.astype(np.float64),
    ]


# --- what the user touched --------------------------------------------------------------------


def _touch_features(schema: Schema) -> list[Feature]:
    by_type = [
        Feature(f"touch.{name}", f"log of `{name}` by this user on this item")
        for name in (*schema.interactions, "other")
    ]
    return [
        Feature("touch.recency", "1 / (1 + items touched since); 0 for never"),
        Feature("touch.recency_in_list", "the same among the candidates alone"),
        Feature("touch.is_last", "1 for the item that was touched last"),
        Feature("touch.age", "how recently, 1 / (1 + log minutes); 0 for never"),
        Feature("touch.steps", "1 / (1 + steps of behaviour since); 0 for never"),
        Feature("touch.count", "log of the touches"),
        Feature("touch.here", "log of the touches in this session"),
        Feature("touch.count_rank", "1 / (1 + rank by touches in this session); 0 for none"),
        Feature("touch.untouched_rank", "log of the place among the untouched; 0 for touched"),
        *by_type,
    ]


def _touches(view: View) -> list[Array]:
    order = sorted(t.rank for t in view.touched if t is not None)
    place = {rank: i for i, rank in enumerate(order)}
    channels = len(view.schema.interactions) + 1
    columns = np.zeros((9 + channels, view.size))
    untouched = 0
    for i, touch in enumerate(view.touched):
        if touch is None:
            untouched += 1
            columns[8, i] = np.log1p(untouched)
            continue
        minutes = max(0, view.query.at - touch.last) / 60_000
        columns[:7, i] = (
            1 / (1 + touch.rank),
            1 / (1 + place[touch.rank]),
            touch.rank == 0,
            1 / (1 + np.log1p(minutes)),
            1 / (1 + touch.ago),
            np.log1p(touch.counts.sum()),
            np.log1p(touch.here),
        )
        columns[9:, i] = np.log1p(touch.counts)
    here = columns[6]
    columns[7] = np.where(here > 0, 1 / (1 + ranks(here)), 0)
    return list(columns)


# --- where, against what was touched ----------------------------------------------------------


def _offset_features(schema: Schema) -> list[Feature]:
    return [
        Feature("offset.from_last", "places after the candidate touched last, log scale"),
        Feature("offset.is_next", "1 for the candidate right after the one touched last"),
        Feature("offset.from_clicked", "places after the candidate clicked last, log scale"),
        Feature("offset.from_highest", "places after the highest candidate touched"),
        Feature("offset.from_lowest", "places after the lowest candidate touched"),
    ]


def _offsets(view: View) -> list[Array]:
    place = np.arange(view.size, dtype=np.float64)
    label = view.schema.channel(view.schema.label)
    touched = [(i, t) for i, t in enumerate(view.touched) if t is not None]
    clicked = [(i, t) for i, t in touched if t.counts[label] > 0]
    none = np.zeros(view.size)

    def after(found: list[tuple[int, Touch]]) -> Array:
        return place - min(found, key=lambda it: it[1].rank)[0] if found else none

    places = [i for i, _ in touched]
    return [
        signed_log(after(touched)),
        (after(touched) == 1).astype(np.float64),
        signed_log(after(clicked)),
        signed_log(place - min(places)) if places else none,
        signed_log(place - max(places)) if places else none,
    ]


# --- earlier lists ----------------------------------------------------------------------------


def _seen_features(schema: Schema) -> list[Feature]:
    return [
        Feature("seen.count", "earlier lists of this user that held the item, log scale"),
        Feature("seen.untouched", "the same where the item was never touched"),
        Feature("seen.last_list", "1 where the user's last list held the item"),
    ]


def _seen(view: View) -> list[Array]:
    held = view.earlier
    count = np.array([sum(item in items for items in held) for item in view.ids], np.float64)
    last = frozenset(held[-1]) if held else frozenset()
    return [
        np.log1p(count),
        np.where([touch is None for touch in view.touched], np.log1p(count), 0),
        np.array([float(item in last) for item in view.ids]),
    ]


# --- windows of the items ---------------------------------------------------------------------

PRIOR = 10.0
"""Impressions that a smoothed rate starts from: (clicks + PRIOR * p) / (impressions + PRIOR)."""


def _window_features(schema: Schema) -> list[Feature]:
    return [
        feature
        for horizon in schema.horizons
        for feature in (
            Feature(f"window.{horizon:g}s.deeds", "decayed interactions of all users, log"),
            Feature(f"window.{horizon:g}s.label", f"decayed `{schema.label}`, log"),
            Feature(f"window.{horizon:g}s.shown", "decayed impressions, log"),
            Feature(f"window.{horizon:g}s.rate", "smoothed label rate against the list's own"),
            Feature(f"window.{horizon:g}s.rank", "share of the list with a higher rate"),
        )
    ] + [
        Feature("window.age", "how recently anybody touched it, 1 / (1 + log hours)"),
        Feature("window.unknown", "1 where the store has no window of the item"),
    ]


def _windows(view: View) -> list[Array]:
    label = view.schema.channel(view.schema.label)
    columns: list[Array] = []
    for h in range(len(view.schema.horizons)):
        counts = view.decayed[:, h, :]
        clicks, shown = counts[:, label], counts[:, -1]
        usual = (clicks.sum() + 1.0) / (shown.sum() + PRIOR)
        rate = (clicks + PRIOR * usual) / (shown + PRIOR)
        lift = np.log(np.maximum(rate, 1e-9) / usual)
        columns += [
            np.log1p(counts[:, :-1].sum(axis=1)),
            np.log1p(clicks),
            np.log1p(shown),
            lift,
            ranks(lift) / max(1, view.size),
        ]
    last = np.array([0.0 if w is None else w.last[:-1].max() for w in view.windows])
    hours = np.maximum(0.0, view.query.at - last) / 3_600_000
    columns.append(np.where(last > 0, 1 / (1 + np.log1p(hours)), 0.0))
    columns.append(np.array([float(w is None) for w in view.windows]))
    return columns


# --- the user and the session -----------------------------------------------------------------


def _session_features(schema: Schema) -> list[Feature]:
    by_type = [
        Feature(f"user.{name}", f"decayed `{name}` of this user, longest horizon, log")
        for name in schema.channels
    ]
    return [
        Feature("session.steps", "interactions in this session, log"),
        Feature("session.seconds", "seconds since the session began, log"),
        Feature("session.idle", "seconds since the user's last step, log"),
        Feature("session.first", "1 where the user has done nothing yet"),
        Feature("session.items", "distinct items touched, log"),
        Feature("session.hour_sin", "time of day, sine"),
        Feature("session.hour_cos", "time of day, cosine"),
        Feature("list.size", "log of the number of candidates"),
        Feature("list.touched", "log of the candidates that were touched"),
        Feature("list.none_touched", "1 where no candidate was touched"),
        Feature("list.same", "1 where the user's last list was this one"),
        *by_type,
    ]


def _session(view: View) -> list[Array]:
    user, at = view.query.state, view.query.at
    here = user.session == view.query.session
    steps = user.session_steps if here else 0
    start = user.session_start if here else at
    last = user.steps[-1].last if user.steps else at
    touched = sum(touch is not None for touch in view.touched)
    angle = 2 * np.pi * (at % 86_400_000) / 86_400_000
    values = [
        np.log1p(steps),
        np.log1p(max(0, at - start) / 1000),
        np.log1p(max(0, at - last) / 1000),
        float(not user.steps),
        np.log1p(len(view.touches)),
        np.sin(angle),
        np.cos(angle),
        np.log1p(view.size),
        np.log1p(touched),
        float(not touched),
        float(bool(view.earlier) and view.earlier[-1] == tuple(view.ids)),
        *np.log1p(_user_counts(view)),
    ]
    return [np.asarray(value) for value in values]


def _user_counts(view: View) -> Array:
    channels, horizons = len(view.schema.channels), np.asarray(view.schema.horizons)
    if view.rows.user_window is None:
        return np.zeros(channels)
    window = windows.unpack(view.rows.user_window, len(horizons), channels)
    age = max(0, view.query.at - window.at)
    return np.asarray(window.decayed[-1] * windows.decay(age, horizons)[-1])


GROUPS = (
    Group("list", _list_features, _list),
    Group("number", _number_features, _numbers),
    Group("touch", _touch_features, _touches),
    Group("offset", _offset_features, _offsets),
    Group("seen", _seen_features, _seen),
    Group("window", _window_features, _windows),
)
CONTEXT_GROUPS = (Group("session", _session_features, _session),)


def features(schema: Schema) -> list[Feature]:
    """List the dense features of a candidate, in the order of their columns."""
    return [feature for group in GROUPS for feature in group.features(schema)]


def context_features(schema: Schema) -> list[Feature]:
    """List the dense features that a list's candidates share, in the order of their columns."""
    return [feature for group in CONTEXT_GROUPS for feature in group.features(schema)]


def digest(schema: Schema) -> str:
    """Return the hash that says which features a model was made for."""
    known = features(schema) + context_features(schema)
    table = "\n".join(f"{f.name}: {f.meaning}" for f in known)
    return hashlib.sha256(f"{schema.encode()}\n{table}".encode()).hexdigest()[:16]


# --- the whole --------------------------------------------------------------------------------


def build(schema: Schema, query: Query, rows: Rows) -> Inputs:
    """Turn state and rows into what the model reads.

    Args:
        schema: Which fields, interaction types and horizons exist.
        query: The list to score, with the user's state before it.
        rows: What the store knows of the user and the candidates.

    Returns:
        Arrays of one list, with H steps of history, oldest first, C candidates in incoming
        order and F = `len(features(schema))`:

        - `history_items`, `history_types`, `history_places`, `history_values`: int64 (H,).
          Hash of the item; 1 + index of the type; 1 + the item's place in this list, 0 where
          it is not in it; hash of the deed's own fields.
        - `history_numbers`: float32 (H, STEP_NUMBERS): log seconds since, log seconds to the
          next step, log count, whether in this session.
        - `candidate_items`: int64 (C,); `candidate_tokens`: int64 (C, TOKENS), hashed words of
          the fields; `candidate_numbers`: float32 (C, F).
        - `context_tokens`: int64 (TOKENS,), hashed words of the list and the user;
          `context_numbers`: float32 (G,), G = `len(context_features(schema))`.

    Raises:
        ValueError: A row has another shape than the schema says.
    """
    view = View(schema, query, rows)
    columns = [column for group in GROUPS for column in group.compute(view)]
    shared = [value for group in CONTEXT_GROUPS for value in group.compute(view)]
    kinds = schema.item
    tokens = [words(kinds, fields) for fields in view.fields]
    context = words(schema.context, query.context) + words(schema.user, rows.user_fields)
    return _history(view) | {
        "candidate_items": np.array([hashed(item) for item in view.ids], np.int64),
        "candidate_tokens": padded(tokens),
        "candidate_numbers": np.stack(columns, axis=1).astype(np.float32)
        if view.size
        else np.zeros((0, len(features(schema))), np.float32),
        "context_tokens": padded([context])[0],
        "context_numbers": np.array(shared, np.float32),
    }


def _history(view: View) -> Inputs:
    steps = view.query.state.steps[-view.schema.history :]
    at, session = view.query.at, view.query.session
    nexts = [*(step.first for step in steps[1:]), at][: len(steps)]

    def column(value: Callable[[Step], int]) -> Array:
        return np.array([value(step) for step in steps], np.int64)

    numbers = [
        (
            np.log1p(max(0, at - step.last) / 1000),
            np.log1p(max(0, following - step.last) / 1000),
            np.log1p(step.count),
            float(step.session == session),
        )
        for step, following in zip(steps, nexts, strict=True)
    ]
    return {
        "history_items": column(lambda s: hashed(s.item) if s.item else 0),
        "history_types": column(lambda s: 1 + view.schema.channel(s.type)),
        "history_places": column(lambda s: 1 + view.places.get(s.item or "", -1)),
        "history_values": column(lambda s: hashed(s.value) if s.value else 0),
        "history_numbers": np.array(numbers, np.float32).reshape(len(steps), STEP_NUMBERS),
    }


_WORD = re.compile(r"\w+")


def words(kinds: Mapping[str, str], fields: Mapping[str, Value]) -> list[int]:
    """Hash the words of the known, non-numeric fields: `name=value`, or each word of a text."""
    found: list[int] = []
    for name, kind in kinds.items():
        value = fields.get(name)
        if value is None or kind == "number":
            continue
        if kind == "text":
            parts = _WORD.findall(str(value).lower())
        else:
            parts = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        found += [hashed(f"{name}={part}") for part in parts]
    return found


def padded(lists: Sequence[Sequence[int]]) -> Array:
    """Return hashed words as one array, cut and filled with 0 to (n, TOKENS)."""
    array = np.zeros((len(lists), TOKENS), np.int64)
    for row, tokens in zip(array, lists, strict=True):
        row[: min(TOKENS, len(tokens))] = tokens[:TOKENS]
    return array


def stack(batch: Sequence[Inputs]) -> Inputs:
    """Pad lists of different length into one batch.

    Args:
        batch: The inputs of B lists, at least one.

    Returns:
        The same names with a leading batch axis: histories are padded at the front, so that
        the newest step is always last, candidates at the end, both with 0.
    """
    steps = max(1, max(len(inputs["history_types"]) for inputs in batch))
    size = max(1, max(len(inputs["candidate_items"]) for inputs in batch))
    stacked: Inputs = {}
    for name, first in batch[0].items():
        if name.startswith("context"):
            stacked[name] = np.stack([inputs[name] for inputs in batch])
            continue
        front = name.startswith("history")
        shape = (len(batch), steps if front else size, *first.shape[1:])
        filled = np.zeros(shape, first.dtype)
        for row, inputs in zip(filled, batch, strict=True):
            length = len(inputs[name])
            row[slice(len(row) - length, None) if front else slice(length)] = inputs[name]
        stacked[name] = filled
    return stacked
