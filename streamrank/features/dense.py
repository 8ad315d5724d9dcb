"""The dense features: each one's name and meaning beside the code that computes it.

The README's list, the hash of a model's features and the order of the columns come from here.
All of them are known before the list's own feedback.  Columns are of lists of one length side by
side, (B, C); a group writes its own into an array of zeros, as most of them are 0 for most
candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from streamrank.features.same import Same
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View
from streamrank.features.views import Views


class Feature(NamedTuple):
    """A dense feature of a candidate, or of a list."""

    name: str
    meaning: str


class Group(NamedTuple):
    """Features that are defined and computed together.

    Attributes:
        compute: Writes the columns into float32 zeros, (features, B, C), or (features, B) where
            a list's candidates share them.
    """

    name: str
    features: Callable[[Schema], list[Feature]]
    compute: Callable[[Views, Array], None]


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
    ordered = np.sort(filled, axis=-1)
    if filled.size < _SIDE_BY_SIDE * filled.shape[-1]:
        lists = zip(*(one.reshape(-1, filled.shape[-1]) for one in (ordered, filled)), strict=True)
        found = [own.searchsorted(row) for own, row in lists]
        return np.array(found, np.float64).reshape(values.shape)
    order = np.argsort(filled, axis=-1)
    first = np.zeros(values.shape)  # where the run of equal ones began
    first[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]) * np.arange(1, values.shape[-1])
    ranked = np.empty(values.shape)
    np.put_along_axis(ranked, order, np.maximum.accumulate(first, axis=-1), -1)
    return ranked


_SIDE_BY_SIDE = 6
"""Lists from which on it pays to rank them all at once."""


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


def _list(views: Views, out: Array) -> None:
    out[0] = views.place
    out[1] = views.place / views.size


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


def _numbers(views: Views, out: Array) -> None:
    for n, name in enumerate(views.schema.numbers):
        _number(views, name, out[n * len(_NUMBER) : (n + 1) * len(_NUMBER)])


_COLUMN = {key: place for place, key in enumerate(_NUMBER)}
_OVER = ("over_least", "over_touched", "over_taste", "over_label_taste", "over_last")
_OVER_COLUMNS = [_COLUMN[key] for key in (*_OVER, "over_labelled")]
_AS_COLUMNS = [_COLUMN[key] for key in ("as_taste", "as_label_taste", "as_touched")]


def _number(views: Views, name: str, out: Array) -> None:
    values = views.number(name)
    unknown = np.isnan(values)
    if unknown.all():
        out[_COLUMN["unknown"]] = 1
        return
    logs = signed_log(values)
    least, centred = _against_list(logs, unknown)
    rank = ranks(values) / views.size
    over, as_rank = _references(views, name, logs, rank, unknown)
    columns = np.zeros((len(_NUMBER), *views.shape))
    columns[_COLUMN["log"]] = logs
    columns[_COLUMN["centred"]] = centred
    columns[_COLUMN["rank"]] = rank
    columns[_OVER_COLUMNS] = logs - np.array([least, *over])[:, :, None]
    columns[_COLUMN["over_before"], :, 1:] = logs[:, 1:] - logs[:, :-1]
    distance = np.abs(rank - np.array(as_rank)[:, :, None])
    columns[_AS_COLUMNS] = _nearness(views.size * distance)
    cells, before = views.before(name)
    columns[_COLUMN["risen"], *cells] = logs[cells] - signed_log(before)
    np.copyto(out, columns, "same_kind", where=np.isfinite(columns))
    _so_far(values, unknown, out)
    out[_COLUMN["less_before"]] = _less_before(rank, unknown) / np.maximum(1, views.place)
    out[_COLUMN["unknown"]] = unknown


def _so_far(values: Array, unknown: Array, out: Array) -> None:
    """Write where no candidate before has less, or more."""
    low, high = np.where(unknown, np.inf, values), np.where(unknown, -np.inf, values)
    out[_COLUMN["least_so_far"]] = values <= np.minimum.accumulate(low, axis=1)
    out[_COLUMN["most_so_far"]] = values >= np.maximum.accumulate(high, axis=1)


def _against_list(logs: Array, unknown: Array) -> tuple[Array, Array]:
    """Return the least that each list knows, (B,), and all against its mean, (B, C).

    In standard deviations, 1 for 0.
    """
    size = logs.shape[1]
    least, mean = logs.min(1), np.add.reduce(logs, 1) / size
    centred = logs - mean[:, None]
    spread = np.sqrt(np.add.reduce(centred * centred, 1) / size)
    for place in np.nonzero(unknown.any(1))[0].tolist():
        known = logs[place][~unknown[place]]
        if len(known):
            least[place], spread[place] = known.min(), known.std()
            centred[place] = logs[place] - known.mean()
    return least, centred / np.where(spread == 0, 1.0, spread)[:, None]


def _references(
    views: Views, name: str, logs: Array, rank: Array, unknown: Array
) -> tuple[list[Array], list[Array]]:
    """Return what each list's quantities, and their ranks, are held against: NaN for none."""
    log, label_log, its_rank, label_rank = views.tastes(name)
    nothing = unknown.all(1)
    if nothing.any():  # ranks say nothing there
        its_rank, label_rank = (np.where(nothing, np.nan, one) for one in (its_rank, label_rank))
    if not views.touched:
        missing = np.full(len(logs), np.nan)
        return [missing, log, label_log, missing, missing], [its_rank, label_rank, missing]
    touched = views.cells
    if unknown.any():
        known = ~unknown[touched]
        touched = touched[0][known], touched[1][known]
    last, labelled = views.chosen(logs, views.last), views.chosen(logs, views.labelled)
    over = [views.mean(touched, logs), log, label_log, last, labelled]
    return over, [its_rank, label_rank, views.mean(touched, rank)]


def _less_before(rank: Array, unknown: Array) -> Array:
    """Count the candidates before each one that have less, and so a later rank, (B, C)."""
    size = rank.shape[1]
    own = other = np.rint(rank * size).astype(np.int64)
    if unknown.any():  # it has less than none, and none has less than it
        own, other = np.where(unknown, size + 1, own), np.where(unknown, -1, own)
    return _later_before(own, other) if size < _LONG else _later_in_blocks(own, other)


_LONG, _BLOCK = 256, 64
"""Candidates from which on a list is looked at in blocks, and those of a block."""


def _later_before(own: Array, other: Array) -> Array:
    """Count the candidates before each one that have a later rank: all pairs are compared."""
    kind = np.int16 if own.max(initial=0) < 32_000 else np.int64
    own, other = own.astype(kind), other.astype(kind)
    later = other[:, :, None] > own[:, None, :]
    later &= _before(own.shape[1])
    return np.asarray(np.add.reduce(later.view(np.uint8), axis=1, dtype=np.uint8))


@lru_cache(maxsize=256)
def _before(size: int) -> Array:
    """Return which place (the first axis) is before which."""
    return np.ascontiguousarray(np.tri(size, k=-1, dtype=bool).T)


def _later_in_blocks(own: Array, other: Array) -> Array:
    """Count the same in a long list: pairs in each block, ranks alone of the blocks before."""
    lists, size = own.shape
    blocks, ranks_ = -(-size // _BLOCK), size + 3  # from -1 to size + 1
    spare = ((0, 0), (0, blocks * _BLOCK - size))
    own = np.pad(own, spare, constant_values=size + 1).reshape(-1, _BLOCK)
    other = np.pad(other, spare, constant_values=-1).reshape(-1, _BLOCK)
    block = np.arange(len(own))[:, None]
    each = np.bincount((block * ranks_ + other + 1).ravel(), minlength=len(own) * ranks_)
    each = each.reshape(lists, blocks, ranks_)
    upto = np.cumsum(np.cumsum(each, axis=1) - each, axis=2).reshape(-1, ranks_)
    later = upto[:, -1:] - upto[block, own + 1] + _later_before(own, other)
    return np.asarray(later.reshape(lists, -1)[:, :size])


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


def _touches(views: Views, out: Array) -> None:
    channels = len(views.schema.interactions) + 1
    never = ~views.is_touched
    out[13] = np.log1p(np.cumsum(never, axis=1)) * never
    if not views.touched:
        return
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
    table = np.array(rows, np.float64).T
    table[[4, 6]] = _nearness(np.log1p(table[[4, 6]]))
    logged = [7, 8, 10, 11, *range(12, 12 + channels)]
    table[logged] = np.log1p(table[logged])
    out[:12, *views.cells] = table[:12]
    out[12, *views.cells] = [one for view in views.views for one in _by_count(view)]
    out[14:, *views.cells] = table[12:]


def _by_count(view: View) -> list[float]:
    """Return how near to the first each touched candidate is by touches in this session."""
    here = [touch.here for touch in view.past.touched]
    rank = {count: place for place, count in reversed(list(enumerate(sorted(here, reverse=True))))}
    return [1 / (1 + rank[count]) if count else 0.0 for count in here]


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


def _offsets(views: Views, out: Array) -> None:
    if not np.isnan(views.habit).all():
        out[8] = _known(_nearness(np.abs(views.place - views.habit[:, None])))
    if not views.touched:
        return
    places = np.array([views.last, views.labelled, *views.ends()], np.float64)
    after = _known(views.place - places[:, :, None])
    out[:4] = signed_log(after)
    touched = views.is_touched
    out[4] = _nearness(_apart(views.place, touched))
    out[5] = np.log1p(np.cumsum(touched, axis=1) - touched)
    recency = np.zeros(views.shape)
    recency[views.cells] = [1 / (1 + touch.rank) for _, touch in views.touched]
    out[6, :, 1:], out[7, :, :-1] = recency[:, :-1], recency[:, 1:]
    near = np.array(NEAR)[:, None, None]
    out[9 : 9 + len(NEAR)] = after[0] == near
    out[9 + len(NEAR) :] = after[1] == near


def _apart(place: Array, touched: Array) -> Array:
    """Return how far from each candidate the nearest other one is that was touched, (B, C)."""
    above, below = np.full(touched.shape, -np.inf), np.full(touched.shape, np.inf)
    reached = np.where(touched, place, -np.inf)
    above[:, 1:] = np.maximum.accumulate(reached, axis=1)[:, :-1]
    reached = np.where(touched, place, np.inf)[:, ::-1]
    below[:, :-1] = np.minimum.accumulate(reached, axis=1)[:, ::-1][:, 1:]
    return np.asarray(np.minimum(place - above, below - place))


# --- earlier lists ----------------------------------------------------------------------------


def _seen_features(schema: Schema) -> list[Feature]:
    return [
        Feature("seen.count", "earlier lists of this user that held the item, log scale"),
        Feature("seen.untouched", "the same where the item was never touched"),
        Feature("seen.last_list", "1 where the user's last list held the item"),
        Feature("seen.risen", "places it stands higher than in the user's last list, log scale"),
    ]


def _seen(views: Views, out: Array) -> None:
    held = views.earlier()
    if not len(held):
        return
    times = np.bincount(held)
    cells = np.flatnonzero(times)
    count = np.log1p(times[cells])
    flat = out.reshape(len(out), -1)
    flat[0, cells] = count
    flat[1, cells] = count * ~views.is_touched.reshape(-1)[cells]
    again, risen = views.again()
    out[2, *again] = 1.0
    out[3, *again] = signed_log(risen)


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


def _next(views: Views, out: Array) -> None:
    if not any(view.followers for view in views.views):
        out[2] = 1.0
        return
    last, near = np.zeros(views.shape), np.zeros(views.shape)
    for n, view in enumerate(views.views):
        if view.followers:
            nearness = _nearness(np.arange(len(view.followers), dtype=np.float64))
            last[n] = view.followers[0]
            near[n] = (np.array(view.followers) * nearness[:, None]).max(0)
    out[0], out[1] = np.log1p(100 * last), np.log1p(100 * near)
    out[2] = np.where(near > 0, ranks(near) / views.size, 1.0)


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


def _windows(views: Views, out: Array) -> None:
    label = views.schema.channel(views.schema.label)
    seen, counts = views.windows
    horizons = counts.shape[2]
    known = np.empty((3, horizons, *views.shape))  # interactions, labels, impressions
    deeds, labels, shown = counts[..., :-1].sum(3), counts[..., label], counts[..., -1]
    for place, one in enumerate((deeds, labels, shown)):
        known[place] = one.transpose(2, 0, 1)
    lifts = _lifts(known)
    own = out[: 8 * horizons].reshape(horizons, 8, *views.shape)
    own[:, :3] = np.log1p(known).swapaxes(0, 1)
    own[:, 3:6] = lifts.swapaxes(0, 1)
    own[:, 6:] = (ranks(np.array([lifts[0], known[0]])) / views.size).swapaxes(0, 1)
    last = seen[..., :-1].max(2, initial=0.0)
    hours = np.maximum(0.0, views.at[:, None] - last) / 3_600_000
    out[8 * horizons] = np.where(last > 0, _nearness(np.log1p(hours)), 0.0)
    out[8 * horizons + 1] = views.unknown


def _lifts(known: Array) -> Array:
    """Return smoothed shares, as log ratios to those of the whole list, (3, horizons, B, C)."""
    total = known.sum(3, keepdims=True)
    some, of = [1, 0, 1], [2, 2, 0]  # labels and interactions an impression, labels a deed
    usual = (total[some] + 1.0) / (total[of] + PRIOR)
    return np.asarray(np.log((known[some] + PRIOR * usual) / (known[of] + PRIOR) / usual))


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


def _session(views: Views, out: Array) -> None:
    table = np.array([_session_of(view) for view in views.views], np.float64)
    table[:, _LOGGED] = np.log1p(table[:, _LOGGED])
    angle = table[:, 5].copy()
    table[:, 5], table[:, 6] = np.sin(angle), np.cos(angle)
    own = table.shape[1]
    out[:own], out[own:] = table.T, np.log1p(views.user_counts).T


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
        len(view.again) / max(1, view.size),
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
        return np.zeros((*views.shape, sum(_sizes(views.schema, GROUPS))), np.float32)
    found = _computed(GROUPS, views, views.shape)
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def context_numbers(views: Views) -> Array:
    """Return the dense features of each list, float32 (B, G)."""
    return np.ascontiguousarray(_computed(CONTEXT_GROUPS, views, views.shape[:1]).T)


def _computed(groups: Sequence[Group], views: Views, shape: tuple[int, ...]) -> Array:
    sizes = _sizes(views.schema, groups)
    found, first = np.zeros((sum(sizes), *shape), np.float32), 0
    for group, size in zip(groups, sizes, strict=True):
        group.compute(views, found[first : first + size])
        first += size
    return found


def _sizes(schema: Schema, groups: Sequence[Group]) -> tuple[int, ...]:
    return _sizes_of(Same(schema), tuple(groups))


@lru_cache(maxsize=100)
def _sizes_of(schema: Same[Schema], groups: tuple[Group, ...]) -> tuple[int, ...]:
    return tuple(len(group.features(schema.it)) for group in groups)
