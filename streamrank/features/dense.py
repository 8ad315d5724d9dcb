"""The dense features: each one's name and meaning beside the code that computes it.

The README's list, the hash of a model's features and the order of the columns come from here.
All of them are known before the list's own feedback.  Columns are of lists of one length side by
side, (B, C); a group writes its own into an array of zeros, as most of them are 0 for most
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from streamrank.features.columns import Feature, Group, nearness, ranks
from streamrank.features.dense_quantities import QUANTITIES
from streamrank.features.dense_session import SESSION
from streamrank.features.dense_touches import OFFSETS, SEEN, TOUCHES
from streamrank.features.same import Same
from streamrank.features.schema import Schema
from streamrank.features.view import Array
from streamrank.features.views import Views

# --- the list ---------------------------------------------------------------------------------


def _list_features(schema: Schema) -> list[Feature]:
    return [
        Feature("list.position", "place in the incoming list"),
        Feature("list.share", "place in the incoming list over its length"),
    ]


def _list(views: Views, out: Array) -> None:
    out[0] = views.place
    out[1] = views.place / views.size


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
            weights = nearness(np.arange(len(view.followers), dtype=np.float64))
            last[n] = view.followers[0]
            near[n] = (np.array(view.followers) * weights[:, None]).max(0)
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
    out[8 * horizons] = np.where(last > 0, nearness(np.log1p(hours)), 0.0)
    out[8 * horizons + 1] = views.unknown


def _lifts(known: Array) -> Array:
    """Return smoothed shares, as log ratios to those of the whole list, (3, horizons, B, C)."""
    total = known.sum(3, keepdims=True)
    some, of = [1, 0, 1], [2, 2, 0]  # labels and interactions an impression, labels a deed
    usual = (total[some] + 1.0) / (total[of] + PRIOR)
    return np.asarray(np.log((known[some] + PRIOR * usual) / (known[of] + PRIOR) / usual))


GROUPS = (
    Group("list", _list_features, _list),
    QUANTITIES,
    TOUCHES,
    OFFSETS,
    SEEN,
    Group("next", _next_features, _next),
    Group("window", _window_features, _windows),
)
CONTEXT_GROUPS = (SESSION,)


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
