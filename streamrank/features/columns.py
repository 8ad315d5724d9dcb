"""What the columns of dense features are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamrank.features.schema import Schema
from streamrank.features.view import Array
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


def nearness(distance: Array) -> Array:
    """Return 1 / (1 + distance): 1 for here, towards 0 for far."""
    return np.asarray(1.0 / (1.0 + distance))


def or_zero(values: Array) -> Array:
    """Return 0 for what is not known, the others as they are."""
    return np.where(np.isfinite(values), values, 0.0)
