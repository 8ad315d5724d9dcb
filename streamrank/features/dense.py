"""The dense features: each one's name and meaning beside the code that computes it.

The README's list, the hash of a model's features and the order of the columns come from here.
All of them are known before the list's own feedback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streamrank.features.schema import Schema
from streamrank.features.view import Array, View


class Feature(NamedTuple):
    """A dense feature of a candidate, or of a list."""

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
    """Rank within the list, 0 for the largest; ties share the first place, NaN stays last.

    Examples:
        >>> ranks(np.array([3.0, np.nan, 5.0, 3.0])).tolist()
        [1.0, 3.0, 0.0, 1.0]
    """
    filled = np.where(np.isnan(values), np.inf, -values)
    return np.searchsorted(np.sort(filled), filled, side="left").astype(np.float64)


def _nearness(distance: Array | float) -> Array:
    """Return 1 / (1 + distance): 1 for here, towards 0 for far."""
    return np.asarray(1.0 / (1.0 + np.asarray(distance)))


def _known(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)


def _column(view: View, places: Sequence[int], values: Array | float) -> Array:
    """Return values at some places, 0 at all others, (C,)."""
    column = np.zeros(view.size)
    column[np.array(places, np.int64)] = values
    return column


# --- the list ---------------------------------------------------------------------------------


def _list_features(schema: Schema) -> list[Feature]:
    return [
        Feature("list.position", "place in the incoming list"),
        Feature("list.share", "place in the incoming list over its length"),
    ]


def _list(view: View) -> list[Array]:
    place = np.arange(view.size, dtype=np.float64)
    return [place, place / view.size]


# --- quantities -------------------------------------------------------------------------------

_NUMBER = {
    "log": "the quantity, log scale",
    "centred": "log scale, against the list's mean in standard deviations",
    "rank": "share of the list that has more of it",
    "over_least": "log ratio to the list's smallest",
    "over_before": "log ratio to the candidate before it",
    "least_so_far": "1 where no candidate before it has less",
    "most_so_far": "1 where no candidate before it has more",
    "less_before": "share of the candidates before it that have less",
    "over_touched": "log ratio to the mean of the touched candidates",
    "over_taste": "log ratio to the mean of all that was touched, in whichever list",
    "over_label_taste": "the same of what had the label",
    "as_taste": "how near its rank is to the mean rank of all that was touched, in its list",
    "as_label_taste": "the same of what had the label",
    "risen": "log ratio to what the user's last list gave for it",
    "over_last": "log ratio to the candidate touched last",
    "over_labelled": "log ratio to the candidate that had the label last",
    "as_touched": "how near its rank is to the mean rank of the touched candidates",
    "unknown": "1 where the quantity is unknown",
}


def _number_features(schema: Schema) -> list[Feature]:
    return [Feature(f"{n}.{key}", text) for n in schema.numbers for key, text in _NUMBER.items()]


def _numbers(view: View) -> list[Array]:
    return [column for name in view.schema.numbers for column in _number(view, name)]


def _number(view: View, name: str) -> list[Array]:
    values = view.number(name)
    unknown = np.isnan(values)
    if unknown.all():
        return [np.zeros(view.size)] * (len(_NUMBER) - 1) + [np.ones(view.size)]
    logs, none = signed_log(values), np.zeros(view.size)
    known = logs[~unknown]
    spread = float(known.std()) or 1.0
    low, high = np.where(unknown, np.inf, values), np.where(unknown, -np.inf, values)
    rank = ranks(values) / view.size
    touched = [place for place, _ in view.touched if not unknown[place]]
    taste = view.taste(name)
    chosen = taste[taste[:, 2] > 0]
    first, last = view.touched[:1], view.labelled[:1]
    before = np.concatenate([[np.nan], logs[:-1]])
    less = np.tril(values[None, :] < values[:, None], -1).sum(1)  # (C, C) read row by row
    return [
        _known(logs),
        _known((logs - known.mean()) / spread),
        rank,
        _known(logs - known.min()),
        _known(logs - before),
        (values <= np.minimum.accumulate(low)).astype(np.float64),
        (values >= np.maximum.accumulate(high)).astype(np.float64),
        less / np.maximum(1, np.arange(view.size)),
        _known(logs - logs[touched].mean()) if touched else none,
        _known(logs - signed_log(taste[:, 0]).mean()) if len(taste) else none,
        _known(logs - signed_log(chosen[:, 0]).mean()) if len(chosen) else none,
        _nearness(view.size * np.abs(rank - taste[:, 1].mean())) if len(taste) else none,
        _nearness(view.size * np.abs(rank - chosen[:, 1].mean())) if len(chosen) else none,
        _known(logs - signed_log(view.before(name))),
        _known(logs - logs[first[0][0]]) if first else none,
        _known(logs - logs[last[0]]) if last else none,
        _nearness(view.size * np.abs(rank - rank[touched].mean())) if touched else none,
        unknown.astype(np.float64),
    ]


# --- what the user touched --------------------------------------------------------------------


def _touch_features(schema: Schema) -> list[Feature]:
    types = (*schema.interactions, "other")
    return [
        Feature("touch.recency", "1 / (1 + items touched since); 0 for never"),
        Feature("touch.recency_in_list", "the same among the candidates alone"),
        Feature("touch.label_recency", f"1 / (1 + items with `{schema.label}` since)"),
        Feature("touch.is_last", "1 for the item that was touched last"),
        Feature("touch.age", "how recently, 1 / (1 + log minutes); 0 for never"),
        Feature("touch.steps", "1 / (1 + steps of behaviour since); 0 for never"),
        Feature("touch.deeds", "1 / (1 + log interactions since); 0 for never"),
        Feature("touch.count", "log of the touches"),
        Feature("touch.here", "log of the touches in this session"),
        Feature("touch.share", "share of the touches of this session"),
        Feature("touch.run", "log of how often the last touch was repeated in a row"),
        Feature("touch.looked", "log seconds from its touches to what followed each"),
        Feature("touch.count_rank", "1 / (1 + rank by touches in this session); 0 for none"),
        Feature("touch.untouched_rank", "log of the place among the untouched; 0 for touched"),
        *(Feature(f"touch.{t}", f"log of `{t}` by this user on this item") for t in types),
        *(Feature(f"touch.last.{t}", f"1 where `{t}` was its last touch") for t in types),
    ]


def _touches(view: View) -> list[Array]:
    channels = len(view.schema.interactions) + 1
    places = [place for place, _ in view.touched]
    table = np.zeros((12 + channels, len(places)))
    last = np.zeros((channels, view.size))
    minutes = np.zeros(len(places))
    here = sum(touch.here for touch in view.touches.values())
    for i, (place, touch) in enumerate(view.touched):
        table[:, i] = (
            1 / (1 + touch.rank),
            1 / (1 + i),
            0.0 if touch.labelled is None else 1 / (1 + touch.labelled),
            touch.rank == 0,
            0.0,
            1 / (1 + touch.ago),
            touch.deeds,
            sum(touch.counts),
            touch.here,
            touch.here / max(1, here),
            touch.run,
            touch.looked / 1000,
            *touch.counts,
        )
        minutes[i] = max(0, view.query.at - touch.last) / 60_000
        last[touch.type, place] = 1
    table[4] = _nearness(np.log1p(minutes))
    table[6] = _nearness(np.log1p(table[6]))
    logged = [7, 8, 10, 11, *range(12, 12 + channels)]
    table[logged] = np.log1p(table[logged])
    columns = np.zeros((len(table), view.size))
    columns[:, places] = table
    by_count = np.where(columns[8] > 0, _nearness(ranks(columns[8])), 0.0)
    rest = np.where(view.untouched, np.log1p(np.cumsum(view.untouched)), 0.0)
    return [*columns[:12], by_count, rest, *columns[12:], *last]


# --- where, against what was touched ----------------------------------------------------------

NEAR = (-2, -1, 1, 2, 3)
"""Places apart that are told exactly."""


def _offset_features(schema: Schema) -> list[Feature]:
    return [
        Feature("offset.from_last", "places after the candidate touched last, log scale"),
        Feature("offset.from_labelled", f"places after the last with `{schema.label}`, log scale"),
        Feature("offset.from_highest", "places after the highest candidate touched, log scale"),
        Feature("offset.from_lowest", "places after the lowest candidate touched, log scale"),
        Feature("offset.nearest", "places from the nearest other candidate touched, nearness"),
        Feature("offset.touched_above", "log of the touched candidates above it"),
        Feature("offset.recency_above", "`touch.recency` of the candidate right above"),
        Feature("offset.recency_below", "`touch.recency` of the candidate right below"),
        Feature("offset.as_labelled", "nearness to the mean place of what had the label"),
        *(Feature(f"offset.last{n:+}", f"1 where from_last is {n} places") for n in NEAR),
        *(Feature(f"offset.labelled{n:+}", f"1 where from_labelled is {n} places") for n in NEAR),
    ]


def _offsets(view: View) -> list[Array]:
    place = np.arange(view.size, dtype=np.float64)
    touched, none = [p for p, _ in view.touched], np.zeros(view.size)

    def after(found: Sequence[int]) -> Array:
        return place - found[0] if found else none

    last, labelled = after(touched), after(view.labelled)
    apart = np.abs(place[:, None] - np.array(touched, np.float64))  # (C, touched)
    nearest = np.where(apart > 0, apart, np.inf).min(1, initial=np.inf)
    recency = _column(view, touched, np.array([1 / (1 + t.rank) for _, t in view.touched]))
    label, steps = view.schema.label, view.query.state.steps
    habit = [step.place for step in steps if step.type == label and step.place >= 0]
    above = np.cumsum(~view.untouched) - ~view.untouched
    return [
        signed_log(last),
        signed_log(labelled),
        signed_log(place - min(touched)) if touched else none,
        signed_log(place - max(touched)) if touched else none,
        _nearness(nearest),
        np.log1p(above),
        np.append(0.0, recency[:-1]),
        np.append(recency[1:], 0.0),
        _nearness(np.abs(place - np.mean(habit))) if habit else none,
        *((last == n).astype(np.float64) for n in NEAR),
        *((labelled == n).astype(np.float64) for n in NEAR),
    ]


# --- earlier lists ----------------------------------------------------------------------------


def _seen_features(schema: Schema) -> list[Feature]:
    return [
        Feature("seen.count", "earlier lists of this user that held the item, log scale"),
        Feature("seen.untouched", "the same where the item was never touched"),
        Feature("seen.last_list", "1 where the user's last list held the item"),
        Feature("seen.risen", "places it stands higher than in the user's last list, log scale"),
    ]


def _seen(view: View) -> list[Array]:
    count = np.zeros(view.size)
    for items in view.earlier:
        count[[view.places[item] for item in items if item in view.places]] += 1
    before = {item: place for place, item in enumerate(view.earlier[-1] if view.earlier else ())}
    held = [place for place, item in enumerate(view.ids) if item in before]
    risen = [before[view.ids[place]] - place for place in held]
    return [
        np.log1p(count),
        np.where(view.untouched, np.log1p(count), 0.0),
        _column(view, held, 1.0),
        _column(view, held, signed_log(np.array(risen, np.float64))),
    ]


# --- what people touch next --------------------------------------------------------------------


def _next_features(schema: Schema) -> list[Feature]:
    return [
        Feature("next.last", "share of what people touch after the item touched last, log scale"),
        Feature(
            "next.recent",
            "the same, most of the last few touched items, the last counting most, log scale",
        ),
        Feature("next.rank", "share of the list with more of `next.recent`"),
    ]


def _next(view: View) -> list[Array]:
    found = view.followers  # (touched, C)
    if not found.any():
        return [np.zeros(view.size)] * 2 + [np.ones(view.size)]
    nearness = _nearness(np.arange(len(found), dtype=np.float64))
    near = (found * nearness[:, None]).max(0)
    rank = np.where(near > 0, ranks(near) / view.size, 1.0)
    return [np.log1p(100 * found[0]), np.log1p(100 * near), rank]


# --- windows of the items ---------------------------------------------------------------------

PRIOR = 10.0
"""Impressions that a smoothed rate starts from: (labels + PRIOR * p) / (impressions + PRIOR)."""


def _window_features(schema: Schema) -> list[Feature]:
    label = schema.label
    return [
        feature
        for horizon in schema.horizons
        for name in [f"window.{horizon:g}s"]
        for feature in (
            Feature(f"{name}.deeds", "decayed interactions of all users, log"),
            Feature(f"{name}.label", f"decayed `{label}`, log"),
            Feature(f"{name}.shown", "decayed impressions, log"),
            Feature(f"{name}.rate", f"smoothed `{label}` an impression, log ratio to the list's"),
            Feature(f"{name}.touch_rate", "smoothed interactions an impression, likewise"),
            Feature(f"{name}.label_share", f"smoothed `{label}` an interaction, likewise"),
            Feature(f"{name}.rank", "share of the list with a higher rate"),
            Feature(f"{name}.deeds_rank", "share of the list with more interactions"),
        )
    ] + [
        Feature("window.age", "how recently anybody touched it, 1 / (1 + log hours)"),
        Feature("window.unknown", "1 where the store has no window of the item"),
    ]


def _windows(view: View) -> list[Array]:
    label = view.schema.channel(view.schema.label)
    seen, decayed = view.windows
    columns: list[Array] = []
    for counts in decayed:  # (C, channels), horizon by horizon
        labels, shown, deeds = counts[:, label], counts[:, -1], counts[:, :-1].sum(1)
        rate = _lift(labels, shown)
        columns += [
            np.log1p(deeds),
            np.log1p(labels),
            np.log1p(shown),
            rate,
            _lift(deeds, shown),
            _lift(labels, deeds),
            ranks(rate) / view.size,
            ranks(deeds) / view.size,
        ]
    last = seen[:, :-1].max(1, initial=0.0)
    hours = np.maximum(0.0, view.query.at - last) / 3_600_000
    columns.append(np.where(last > 0, _nearness(np.log1p(hours)), 0.0))
    columns.append(view.unknown.astype(np.float64))
    return columns


def _lift(some: Array, of: Array) -> Array:
    """Return the smoothed share, as a log ratio to that of the whole list, (C,)."""
    usual = (some.sum() + 1.0) / (of.sum() + PRIOR)
    return np.asarray(np.log((some + PRIOR * usual) / (of + PRIOR) / usual))


# --- the list's user, session and time: the same for all candidates ---------------------------


def _session_features(schema: Schema) -> list[Feature]:
    types = (*schema.interactions, "other")
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
        Feature("list.last_touched", "1 where the item touched last is a candidate"),
        Feature("list.last_place", "nearness to the top of the candidate touched last; 0 for none"),
        Feature("list.lowest_place", "the same of the lowest that was touched"),
        Feature("list.labelled", "log of the candidates that had the label"),
        Feature("list.same", "1 where the user's last list was this one"),
        Feature("list.seen", "share of the candidates that the user's last list held"),
        Feature("list.since", "seconds since the user's last list, log"),
        *(Feature(f"step.{t}", f"1 where the user's last step was `{t}`") for t in types),
        *(
            Feature(f"user.{name}", f"decayed `{name}` of this user, longest horizon, log")
            for name in schema.channels
        ),
    ]


def _session(view: View) -> list[Array]:
    user, at = view.query.state, view.query.at
    here = user.session == view.query.session
    start = user.session_start if here else at
    last = user.steps[-1].last if user.steps else at
    before = view.earlier[-1] if view.earlier else ()
    listed = user.current.at if user.current is not None and before else at
    angle = 2 * np.pi * (at % 86_400_000) / 86_400_000
    step = [0.0] * (len(view.schema.interactions) + 1)
    if user.steps:
        step[view.schema.channel(user.steps[-1].type)] = 1.0
    held = sum(item in view.places for item in before)
    values = np.array(
        [
            np.log1p(user.session_steps if here else 0),
            np.log1p(max(0, at - start) / 1000),
            np.log1p(max(0, at - last) / 1000),
            not user.steps,
            np.log1p(len(view.touches)),
            np.sin(angle),
            np.cos(angle),
            np.log1p(view.size),
            np.log1p(len(view.touched)),
            not view.touched,
            bool(view.touched) and view.touched[0][1].rank == 0,
            1 / (1 + view.touched[0][0]) if view.touched else 0,
            1 / (1 + max(place for place, _ in view.touched)) if view.touched else 0,
            np.log1p(len(view.labelled)),
            bool(before) and before == tuple(view.ids),
            held / max(1, view.size),
            np.log1p(max(0, at - listed) / 1000),
            *step,
            *np.log1p(view.user_counts),
        ]
    )
    return [values]


GROUPS = (
    Group("list", _list_features, _list),
    Group("number", _number_features, _numbers),
    Group("touch", _touch_features, _touches),
    Group("offset", _offset_features, _offsets),
    Group("seen", _seen_features, _seen),
    Group("next", _next_features, _next),
    Group("window", _window_features, _windows),
)
CONTEXT_GROUPS = (Group("session", _session_features, _session),)


def features(schema: Schema) -> list[Feature]:
    """List the dense features of a candidate, in the order of their columns."""
    return [feature for group in GROUPS for feature in group.features(schema)]


def context_features(schema: Schema) -> list[Feature]:
    """List the dense features that a list's candidates share, in the order of their columns."""
    return [feature for group in CONTEXT_GROUPS for feature in group.features(schema)]


def candidate_numbers(view: View) -> Array:
    """Return the dense features of each candidate, float32 (C, F)."""
    if not view.size:
        return np.zeros((0, len(features(view.schema))), np.float32)
    columns = [column for group in GROUPS for column in group.compute(view)]
    return np.stack(columns, axis=1).astype(np.float32)


def context_numbers(view: View) -> Array:
    """Return the dense features of the list, float32 (G,)."""
    values = [values for group in CONTEXT_GROUPS for values in group.compute(view)]
    return np.concatenate(values).astype(np.float32)
