"""The dense features: each one's name and meaning beside the code that computes it.

The README's list, the hash of a model's features and the order of the columns come from here.
All of them are known before the list's own feedback.  A group writes its columns of a list's
candidates, (C, features), into an array of zeros, in one compiled loop; see `features.compiled`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from streamrank.features.columns import Feature, Group, ranks
from streamrank.features.compiled import (
    Columns,
    Flags,
    Made,
    Reals,
    RealTable,
    compiled,
)
from streamrank.features.dense_quantities import QUANTITIES
from streamrank.features.dense_session import context_features, context_numbers
from streamrank.features.dense_touches import OFFSETS, SEEN, TOUCHES
from streamrank.features.same import Same
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View

__all__ = ["GROUPS", "candidate_numbers", "context_features", "context_numbers", "features"]

# --- the list ---------------------------------------------------------------------------------


def _list_features(schema: Schema) -> list[Feature]:
    return [
        Feature("list.position", "place in the incoming list"),
        Feature("list.share", "place in the incoming list over its length"),
    ]


def _list(view: View, out: Array) -> None:
    place = np.arange(view.size)
    out[:, 0] = place
    out[:, 1] = place / view.size


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


def _next(view: View, out: Array) -> None:
    shares = view.followers
    if shares is None:
        out[:, 2] = 1.0
        return
    near = shares / np.arange(1.0, 1.0 + len(shares))[:, None]  # the last ones count most
    _next_of(shares, near, ranks(near.max(0, keepdims=True)), out)


@compiled
def _next_of(shares: RealTable, near: RealTable, rank: RealTable, out: Columns) -> None:
    for c in range(len(out)):
        most = near[:, c].max()
        out[c, 0] = math.log1p(100 * shares[0, c])
        out[c, 1] = math.log1p(100 * most)
        out[c, 2] = rank[0, c] / len(out) if most > 0 else 1.0


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


def _windows(view: View, out: Array) -> None:
    schema, known = view.schema, view.items
    horizons, label = np.array(schema.horizons), schema.channel(schema.label)
    at = float(view.query.at)
    counted = _counts(known.windows, horizons, at, label, out)
    _window_ages(known.windows, known.unknown, len(horizons), at, out[:, 8 * len(horizons) :])
    place = ranks(counted.reshape(-1, view.size)).reshape(2, len(horizons), -1) / view.size
    by_horizon = out[:, : 8 * len(horizons)].reshape(view.size, -1, 8)
    by_horizon[:, :, 6], by_horizon[:, :, 7] = place[0].T, place[1].T


@compiled
def _counts(packed: RealTable, horizons: Reals, at: float, label: int, out: Columns) -> Made:
    """Write counts and shares; return the rates and then the deeds, (2 * horizons, C)."""
    size, many = len(packed), len(horizons)
    channels = (packed.shape[1] - 1) // (2 + many)  # see `windows.width`
    known = np.empty((3, size))  # interactions, labels, impressions
    to_rank = np.empty((2 * many, size))
    for h in range(many):
        first = 1 + (2 + h) * channels
        for c in range(size):
            age = max(0.0, at - packed[c, 0])
            weight = 2.0 ** (-age / (1000.0 * horizons[h]))
            deeds = 0.0
            for channel in range(channels - 1):
                deeds += packed[c, first + channel]
            known[0, c] = deeds * weight
            known[1, c] = packed[c, first + label] * weight
            known[2, c] = packed[c, first + channels - 1] * weight
        total = known.sum(1)
        for c in range(size):
            row = out[c]
            for n in range(3):
                row[8 * h + n] = math.log1p(known[n, c])
            # smoothed: labels and interactions an impression, labels an interaction
            for n, (some, of) in enumerate(((1, 2), (0, 2), (1, 0))):
                usual = (total[some] + 1.0) / (total[of] + PRIOR)
                share = (known[some, c] + PRIOR * usual) / (known[of, c] + PRIOR)
                lift = math.log(share / usual)
                row[8 * h + 3 + n] = lift
                if n == 0:
                    to_rank[h, c] = lift
            to_rank[many + h, c] = known[0, c]
    return to_rank


@compiled
def _window_ages(packed: RealTable, unknown: Flags, horizons: int, at: float, out: Columns) -> None:
    channels = (packed.shape[1] - 1) // (2 + horizons)
    for c in range(len(packed)):
        last = 0.0
        for channel in range(channels - 1):
            last = max(last, packed[c, 1 + channels + channel])
        if last > 0:
            out[c, 0] = 1 / (1 + math.log1p(max(0.0, at - last) / 3_600_000))
        out[c, 1] = unknown[c]


GROUPS = (
    Group("list", _list_features, _list),
    QUANTITIES,
    TOUCHES,
    OFFSETS,
    SEEN,
    Group("next", _next_features, _next),
    Group("window", _window_features, _windows),
)


def features(schema: Schema) -> list[Feature]:
    """List the dense features of a candidate, in the order of their columns."""
    return [feature for group in GROUPS for feature in group.features(schema)]


def candidate_numbers(view: View) -> Array:
    """Return the dense features of each candidate, float32 (C, F)."""
    sizes = _sizes(Same(view.schema))
    found, first = np.zeros((view.size, sum(sizes)), np.float32), 0
    if not view.size:
        return found
    for group, size in zip(GROUPS, sizes, strict=True):
        group.compute(view, found[:, first : first + size])
        first += size
    return found


@lru_cache(maxsize=100)
def _sizes(schema: Same[Schema]) -> Sequence[int]:
    return tuple(len(group.features(schema.it)) for group in GROUPS)
