"""What the columns of dense features are made with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamrank.features.compiled import Made, RealTable, compiled
from streamrank.features.schema import Schema
from streamrank.features.view import Array, View


class Feature(NamedTuple):
    """A dense feature of a candidate, or of a list."""

    name: str
    meaning: str


class Group(NamedTuple):
    """Features of a candidate that are defined and computed together.

    Attributes:
        compute: Writes the columns of a list's candidates, at least one, into float32 zeros
            (C, features).
    """

    name: str
    features: Callable[[Schema], list[Feature]]
    compute: Callable[[View, Array], None]


@compiled
def ranks(values: RealTable) -> Made:
    """Rank within each row, 0 for the largest.

    Ties share the first place, NaN stays last.

    Examples:
        >>> ranks(np.array([[3.0, np.nan, 5.0, 3.0]])).tolist()
        [[1.0, 3.0, 0.0, 1.0]]
    """
    found = np.empty(values.shape)
    for n in range(values.shape[0]):
        row = -values[n]
        row[np.isnan(row)] = math.inf
        first, before = 0, math.nan
        for place, at in enumerate(np.argsort(row)):
            if row[at] != before:
                first, before = place, row[at]
            found[n, at] = first
    return found
