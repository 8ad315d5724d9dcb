"""The dense features of what the user did with the candidates, and of the lists before."""

from __future__ import annotations

import numpy as np

from streamrank.features.columns import Feature, Group, nearness, or_zero, signed_log
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View
from streamrank.features.views import Views


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
    table[[4, 6]] = nearness(np.log1p(table[[4, 6]]))
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
        out[8] = or_zero(nearness(np.abs(views.place - views.habit[:, None])))
    if not views.touched:
        return
    places = np.array([views.last, views.labelled, *views.ends()], np.float64)
    after = or_zero(views.place - places[:, :, None])
    out[:4] = signed_log(after)
    touched = views.is_touched
    out[4] = nearness(_apart(views.place, touched))
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


TOUCHES = Group("touch", _touch_features, _touches)
OFFSETS = Group("offset", _offset_features, _offsets)
SEEN = Group("seen", _seen_features, _seen)
