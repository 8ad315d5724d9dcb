"""The dense features of what the user did with the candidates, and of the lists before."""

from __future__ import annotations

import math

import numpy as np

from streamrank.features.columns import Feature, Group
from streamrank.features.compiled import Columns, Integers, IntegerTable, Reals, compiled
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View


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


def _touches(view: View, out: Array) -> None:
    query, past = view.query, view.past
    rows = [
        (
            touch.rank,
            -1 if touch.labelled is None else touch.labelled,
            max(0, query.at - touch.last),
            touch.ago,
            touch.deeds,
            touch.here,
            touch.run,
            touch.looked,
            touch.type,
            *touch.counts,
        )
        for touch in past.touched
    ]
    width = 9 + len(view.schema.interactions) + 1
    table = np.array(rows, np.int64).reshape(len(rows), width)
    _touches_of(view.touched, table, max(1, past.here), out)


@compiled
def _touches_of(touched: Integers, table: IntegerTable, here: int, out: Columns) -> None:
    """Write the columns; the table's are those of `_touches`, its rows those touched."""
    channels = table.shape[1] - 9
    for n, place in enumerate(touched):
        row, own = out[place], table[n]
        row[0] = 1 / (1 + own[0])
        row[1] = 1 / (1 + n)
        row[2] = 1 / (1 + own[1]) if own[1] >= 0 else 0.0
        row[3] = own[0] == 0
        row[4] = 1 / (1 + math.log1p(own[2] / 60_000))
        row[5] = 1 / (1 + own[3])
        row[6] = 1 / (1 + math.log1p(own[4]))
        row[7] = math.log1p(own[9:].sum())
        row[8] = math.log1p(own[5])
        row[9] = own[5] / here
        row[10] = math.log1p(own[6])
        row[11] = math.log1p(own[7] / 1000)
        if own[5]:
            row[12] = 1 / (1 + (table[:, 5] > own[5]).sum())
        for channel in range(channels):
            row[14 + channel] = math.log1p(own[9 + channel])
        row[14 + channels + own[8]] = 1.0
    untouched = 0
    for row in out:
        if row[0] == 0:
            untouched += 1
            row[13] = math.log1p(untouched)


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


def _offsets(view: View, out: Array) -> None:
    if not math.isnan(view.history.habit):
        out[:, 8] = 1 / (1 + np.abs(np.arange(view.size) - view.history.habit))
    if len(view.touched):
        recency = np.array([1 / (1 + touch.rank) for touch in view.past.touched])
        _from_places(view.last, view.last_labelled, view.touched, out)
        _beside(view.touched, recency, out)


@compiled
def _from_places(last: int, labelled: int, touched: Integers, out: Columns) -> None:
    """Write how far each candidate is after those that stand out."""
    places = (last, labelled, touched.min(), touched.max())
    for n, place in enumerate(places):
        if place < 0:
            continue
        for c in range(len(out)):
            after = float(c - place)
            out[c, n] = math.copysign(math.log1p(abs(after)), after)
            if n < 2:
                for near, apart in enumerate(NEAR):
                    out[c, 9 + len(NEAR) * n + near] = after == apart


@compiled
def _beside(touched: Integers, recency: Reals, out: Columns) -> None:
    """Write what is told of the candidates above and below each one."""
    size = len(out)
    recent = np.zeros(size + 2)  # of one more at either end
    recent[1 + touched] = recency
    above, count = -math.inf, 0
    for c in range(size):
        out[c, 4] = 1 / (1 + c - above)
        out[c, 5] = math.log1p(count)
        out[c, 6], out[c, 7] = recent[c], recent[c + 2]
        if recent[c + 1] > 0:
            above, count = float(c), count + 1
    below = math.inf
    for c in range(size - 1, -1, -1):
        out[c, 4] = max(out[c, 4], 1 / (1 + below - c))
        if recent[c + 1] > 0:
            below = float(c)


# --- earlier lists ----------------------------------------------------------------------------


def _seen_features(schema: Schema) -> list[Feature]:
    return [
        Feature("seen.count", "earlier lists of this user that held the item, log scale"),
        Feature("seen.untouched", "the same where the item was never touched"),
        Feature("seen.last_list", "1 where the user's last list held the item"),
        Feature("seen.risen", "places it stands higher than in the user's last list, log scale"),
    ]


def _seen(view: View, out: Array) -> None:
    held = view.held_before
    if held:
        again = np.array(view.again, np.int64).reshape(-1, 2)
        _seen_of(np.array(held, np.int64), again, view.touched, out)


@compiled
def _seen_of(held: Integers, again: IntegerTable, touched: Integers, out: Columns) -> None:
    times, untouched = np.zeros(len(out)), np.ones(len(out))
    for place in held:
        times[place] += 1
    for place in touched:
        untouched[place] = 0
    for c in range(len(out)):
        out[c, 0] = math.log1p(times[c])
        out[c, 1] = math.log1p(times[c]) * untouched[c]
    for there, here in again:
        out[here, 2] = 1.0
        out[here, 3] = math.copysign(math.log1p(abs(there - here)), there - here)


TOUCHES = Group("touch", _touch_features, _touches)
OFFSETS = Group("offset", _offset_features, _offsets)
SEEN = Group("seen", _seen_features, _seen)
