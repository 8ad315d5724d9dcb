"""The dense features: each one's name and meaning beside the code that computes it.

The README's list, the hash of a model's features and the order of the columns come from here.
All of them are known before the list's own feedback.  Columns are of lists of one length side by
side, (B, C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamrank.features.schema import Schema
from streamrank.features.view import Array, View
from streamrank.features.views import Views


class Feature(NamedTuple):
    """A dense feature of a candidate, or of a list."""

    name: str
    meaning: str


class Group(NamedTuple):
    """Features that are defined and computed together."""

    name: str
    features: Callable[[Schema], list[Feature]]
    compute: Callable[[Views], list[Array]]


def signed_log(values: Array) -> Array:
    """Return log(1 + |x|) with the sign of x."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def ranks(values: Array) -> Array:
    """Rank within each list (the last axis), 0 for the largest.

    Ties share the first place, NaN stays last.

    Examples:
        >>> ranks(np.array([3.0, np.nan, 5.0, 3.0])).tolist()
        [1.0, 3.0, 0.0, 1.0]
    """
    filled = np.where(np.isnan(values), np.inf, -values)
    order = np.argsort(filled, axis=-1)
    ordered = np.take_along_axis(filled, order, -1)
    first = np.zeros(values.shape)  # where the run of equal ones began
    first[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]) * np.arange(1, values.shape[-1])
    found = np.empty(values.shape)
    np.put_along_axis(found, order, np.maximum.accumulate(first, axis=-1), -1)
    return found


def _nearness(distance: Array) -> Array:
    """Return 1 / (1 + distance): 1 for here, towards 0 for far."""
    return np.asarray(1.0 / (1.0 + distance))


def _known(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)


# --- the list ---------------------------------------------------------------------------------


def _list_features(schema: Schema) -> list[Feature]:
    return [
        Feature("list.position", "place in the incoming list"),
        Feature("list.share", "place in the incoming list over its length"),
    ]


def _list(views: Views) -> list[Array]:
    return [views.place, views.place / views.size]


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


def _numbers(views: Views) -> list[Array]:
    return [column for name in views.schema.numbers for column in _number(views, name)]


def _number(views: Views, name: str) -> list[Array]:
    values = views.number(name)
    unknown = np.isnan(values)
    if unknown.all():
        return [np.zeros(views.shape)] * (len(_NUMBER) - 1) + [np.ones(views.shape)]
    logs = signed_log(values)
    mean, spread, least = (column[:, None] for column in _moments(logs, unknown))
    low, high = np.where(unknown, np.inf, values), np.where(unknown, -np.inf, values)
    rank = ranks(values) / views.size
    before = np.full(views.shape, np.nan)
    before[:, 1:] = logs[:, :-1]
    taste = _tastes(views, name, np.asarray(~unknown.all(1)))
    touched = tuple(axis[~unknown[views.cells]] for axis in views.cells)

    def over(reference: Array) -> Array:
        return _known(logs - reference[:, None])

    def as_rank(reference: Array) -> Array:
        return _known(_nearness(views.size * np.abs(rank - reference[:, None])))

    return [
        _known(logs),
        _known((logs - mean) / spread),
        rank,
        _known(logs - least),
        _known(logs - before),
        values <= np.minimum.accumulate(low, axis=1),
        values >= np.maximum.accumulate(high, axis=1),
        _less_before(values) / np.maximum(1, views.place),
        over(views.mean(touched[0], logs[touched])),
        over(taste[0]),
        over(taste[1]),
        as_rank(taste[2]),
        as_rank(taste[3]),
        _known(logs - signed_log(views.before(name))),
        over(views.chosen(logs, views.last)),
        over(views.chosen(logs, views.labelled)),
        as_rank(views.mean(touched[0], rank[touched])),
        unknown,
    ]


def _moments(logs: Array, unknown: Array) -> tuple[Array, Array, Array]:
    """Return mean, standard deviation (1 for 0) and minimum of what each list knows, (B,)."""
    mean, spread, least = logs.mean(1), logs.std(1), logs.min(1)
    for place in np.nonzero(unknown.any(1))[0].tolist():
        known = logs[place][~unknown[place]]
        if len(known):
            mean[place], spread[place], least[place] = known.mean(), known.std(), known.min()
    return mean, np.where(spread == 0, 1.0, spread), least


def _tastes(views: Views, name: str, known: Array) -> tuple[Array, Array, Array, Array]:
    """Return the mean quantity of what was touched, of what had the label, and their ranks.

    NaN where nothing was, and in lists of which no quantity is known, (B,).
    """
    lists, values, rank, chosen = views.taste(name).T
    places, label, logs = lists.astype(np.int64), chosen > 0, signed_log(values)
    means = [views.mean(places, logs), views.mean(places[label], logs[label])]
    means += [views.mean(places, rank), views.mean(places[label], rank[label])]
    of_all, of_label, rank_of_all, rank_of_label = (np.where(known, m, np.nan) for m in means)
    return of_all, of_label, rank_of_all, rank_of_label


def _less_before(values: Array) -> Array:
    """Count the candidates before each one that have less, (B, C)."""
    before = np.tri(values.shape[1], k=-1, dtype=bool)
    ones = np.ones(values.shape[1], np.float32)  # a product with them counts fastest
    return np.array(
        [((row < row[:, None]) & before).astype(np.float32) @ ones for row in values], np.float64
    )


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


def _touches(views: Views) -> list[Array]:
    channels = len(views.schema.interactions) + 1
    rows = [
        (
            1 / (1 + touch.rank),
            1 / (1 + n),
            0.0 if touch.labelled is None else 1 / (1 + touch.labelled),
            touch.rank == 0,
            max(0, view.query.at - touch.last) / 60_000,
            1 / (1 + touch.ago),
            touch.deeds,
            sum(touch.counts),
            touch.here,
            touch.here / max(1, view.past.here),
            touch.run,
            touch.looked / 1000,
            *touch.counts,
            *(touch.type == channel for channel in range(channels)),
        )
        for view in views.views
        for n, touch in enumerate(view.past.touched)
    ]
    table = np.array(rows, np.float64).reshape(len(rows), 12 + 2 * channels).T
    table[[4, 6]] = _nearness(np.log1p(table[[4, 6]]))
    logged = [7, 8, 10, 11, *range(12, 12 + channels)]
    table[logged] = np.log1p(table[logged])
    columns = np.zeros((len(table), *views.shape))
    columns[:, *views.cells] = table
    by_count = np.where(columns[8] > 0, _nearness(ranks(columns[8])), 0.0)
    among = np.log1p(np.cumsum(views.untouched, axis=1))
    return [*columns[:12], by_count, np.where(views.untouched, among, 0.0), *columns[12:]]


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


def _offsets(views: Views) -> list[Array]:
    touched = ~views.untouched
    last, labelled = _after(views, views.last), _after(views, views.labelled)
    recency = views.column(views.cells, np.array([1 / (1 + t.rank) for _, t in views.touched]))
    above, below = np.zeros(views.shape), np.zeros(views.shape)
    above[:, 1:], below[:, :-1] = recency[:, :-1], recency[:, 1:]
    return [
        signed_log(last),
        signed_log(labelled),
        signed_log(_after(views, views.highest())),
        signed_log(_after(views, views.lowest())),
        _nearness(_apart(views.place, touched)),
        np.log1p(np.cumsum(touched, axis=1) - touched),
        above,
        below,
        _known(_nearness(np.abs(views.place - _habit(views)[:, None]))),
        *(last == n for n in NEAR),
        *(labelled == n for n in NEAR),
    ]


def _after(views: Views, place: Array) -> Array:
    """Return how many places after one of its list each candidate is, 0 where there is none."""
    return _known(views.place - place[:, None])


def _apart(place: Array, touched: Array) -> Array:
    """Return how far from each candidate the nearest other one is that was touched, (B, C)."""
    above, below = np.full(place.shape, -np.inf), np.full(place.shape, np.inf)
    reached = np.where(touched, place, -np.inf)
    above[:, 1:] = np.maximum.accumulate(reached, axis=1)[:, :-1]
    reached = np.where(touched, place, np.inf)[:, ::-1]
    below[:, :-1] = np.minimum.accumulate(reached, axis=1)[:, ::-1][:, 1:]
    return np.asarray(np.minimum(place - above, below - place))


def _habit(views: Views) -> Array:
    """Return the mean place of what had the label in the lists of its time, (B,)."""
    label = views.schema.label
    found = [
        (n, step.place)
        for n, view in enumerate(views.views)
        for step in view.query.state.steps
        if step.place >= 0 and step.type == label
    ]
    table = np.array(found, np.int64).reshape(len(found), 2)
    return views.mean(table[:, 0], table[:, 1].astype(np.float64))


# --- earlier lists ----------------------------------------------------------------------------


def _seen_features(schema: Schema) -> list[Feature]:
    return [
        Feature("seen.count", "earlier lists of this user that held the item, log scale"),
        Feature("seen.untouched", "the same where the item was never touched"),
        Feature("seen.last_list", "1 where the user's last list held the item"),
        Feature("seen.risen", "places it stands higher than in the user's last list, log scale"),
    ]


def _seen(views: Views) -> list[Array]:
    count = np.log1p(views.earlier())
    cells, risen = views.held()
    return [
        count,
        np.where(views.untouched, count, 0.0),
        views.column(cells, 1.0),
        views.column(cells, signed_log(risen)),
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


def _next(views: Views) -> list[Array]:
    last, near = np.zeros(views.shape), np.zeros(views.shape)
    for n, view in enumerate(views.views):
        if view.followers:
            nearness = _nearness(np.arange(len(view.followers), dtype=np.float64))
            last[n] = view.followers[0]
            near[n] = (np.array(view.followers) * nearness[:, None]).max(0)
    rank = np.where(near > 0, ranks(near) / views.size, 1.0)
    return [np.log1p(100 * last), np.log1p(100 * near), rank]


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


def _windows(views: Views) -> list[Array]:
    label = views.schema.channel(views.schema.label)
    seen, decayed = views.windows
    columns: list[Array] = []
    for counts in decayed:  # (B, C, channels), horizon by horizon
        labels, shown, deeds = counts[..., label], counts[..., -1], counts[..., :-1].sum(2)
        rate = _lift(labels, shown)
        columns += [
            np.log1p(deeds),
            np.log1p(labels),
            np.log1p(shown),
            rate,
            _lift(deeds, shown),
            _lift(labels, deeds),
            ranks(rate) / views.size,
            ranks(deeds) / views.size,
        ]
    last = seen[..., :-1].max(2, initial=0.0)
    hours = np.maximum(0.0, views.at[:, None] - last) / 3_600_000
    columns.append(np.where(last > 0, _nearness(np.log1p(hours)), 0.0))
    columns.append(views.unknown)
    return columns


def _lift(some: Array, of: Array) -> Array:
    """Return the smoothed share, as a log ratio to that of the whole list, (B, C)."""
    usual = (some.sum(1, keepdims=True) + 1.0) / (of.sum(1, keepdims=True) + PRIOR)
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


_LOGGED = [0, 1, 2, 4, 7, 8, 13, 16]
"""Columns of `_session` that are on a log scale."""


def _session(views: Views) -> list[Array]:
    table = np.array([_session_of(view) for view in views.views], np.float64)
    table[:, _LOGGED] = np.log1p(table[:, _LOGGED])
    angle = table[:, 5].copy()
    table[:, 5], table[:, 6] = np.sin(angle), np.cos(angle)
    return [*table.T, *np.log1p(views.user_counts).T]


def _session_of(view: View) -> tuple[float, ...]:
    user, at, touched = view.query.state, view.query.at, view.past.touched
    here = user.session == view.query.session
    start = user.session_start if here else at
    last = user.steps[-1].last if user.steps else at
    before = view.earlier[-1] if view.earlier else ()
    listed = user.current.at if user.current is not None and before else at
    angle = 2 * np.pi * (at % 86_400_000) / 86_400_000
    step = [0.0] * (len(view.schema.interactions) + 1)
    if user.steps:
        step[view.schema.channel(user.steps[-1].type)] = 1.0
    held = sum([item in view.places for item in before])
    return (
        user.session_steps if here else 0,
        max(0, at - start) / 1000,
        max(0, at - last) / 1000,
        not user.steps,
        view.past.items,
        angle,
        angle,
        view.size,
        len(touched),
        not touched,
        bool(touched) and touched[0].rank == 0,
        1 / (1 + touched[0].place) if touched else 0,
        1 / (1 + max(touch.place for touch in touched)) if touched else 0,
        len(view.labelled),
        bool(before) and before == tuple(view.ids),
        held / max(1, view.size),
        max(0, at - listed) / 1000,
        *step,
    )


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


def candidate_numbers(views: Views) -> Array:
    """Return the dense features of each candidate, float32 (B, C, F)."""
    if not views.size:
        return np.zeros((*views.shape, len(features(views.schema))), np.float32)
    columns = [column for group in GROUPS for column in group.compute(views)]
    found = np.empty((len(columns), *views.shape), np.float32)
    for row, column in zip(found, columns, strict=True):
        row[:] = column
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def context_numbers(views: Views) -> Array:
    """Return the dense features of each list, float32 (B, G)."""
    columns = [column for group in CONTEXT_GROUPS for column in group.compute(views)]
    return np.ascontiguousarray(np.array(columns, np.float32).T)
