"""What people touch after an item: decayed counts of the items that came next.

The state is of one item; another item's place in it is by hash, and only the heaviest are kept,
so that a popular item costs no more than a bounded row.

References:
    Linden, Smith, York, IEEE Internet Computing 2003, "Amazon.com recommendations:
    item-to-item collaborative filtering".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamrank.features.schema import hashed

Array = np.ndarray[Any, Any]
KEPT = 64
"""Items that are remembered after one item."""
FOLLOWED = 2
"""Items of a user's own past that a touched item counts as following."""
_EXACT = 11
"""Bits of a hash that are dropped, so that a float64 holds the rest exactly."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """What came after one item.

    Attributes:
        at: Event time that the weights refer to, milliseconds.
        total: Weight of all that came after it, the forgotten included.
        weights: By `place` of the item that came, at `at`.
    """

    at: int = 0
    total: float = 0.0
    weights: Mapping[int, float] = field(default_factory=dict)


def place(item: str) -> int:
    """Return where an item stands in `Transitions.weights`: 52 bits of its hash."""
    return hashed(item) >> _EXACT


def follow(known: Transitions, item: str, weight: float, at: int, half_life: float) -> Transitions:
    """Count that an item was touched next, early or late.

    Args:
        known: What came after this item so far.
        item: What came now.
        weight: 1 for right after it, less where others came between.
        at: When, event time in milliseconds.
        half_life: Seconds after which it weighs half.

    Examples:
        >>> one = follow(Transitions(), "b", 1.0, 10_000_000, 3600.0)
        >>> two = follow(one, "b", 1.0, 13_600_000, 3600.0)  # one hour later
        >>> two.total, two.weights[place("b")]
        (1.5, 1.5)
    """
    newest = max(known.at, at)
    older = 0.5 ** ((newest - known.at) / (1000.0 * half_life))
    added = weight * 0.5 ** ((newest - at) / (1000.0 * half_life))
    weights = {other: old * older for other, old in known.weights.items()}
    weights[place(item)] = weights.get(place(item), 0.0) + added
    if len(weights) > KEPT:  # the one that came just now stays: it has had no time to grow
        others = (other for other in weights if other != place(item))
        del weights[min(others, key=weights.__getitem__)]
    return Transitions(newest, known.total * older + added, weights)


def pack(known: Transitions) -> Array:
    """Return transitions as one vector: at, total, then places, then their weights."""
    places, weights = list(known.weights), list(known.weights.values())
    return np.array([known.at, known.total, *places, *weights], np.float64)


def unpack(vector: Array) -> Transitions:
    """Read what `pack` wrote.

    Raises:
        ValueError: The vector has an odd length, or less than two values.
    """
    if len(vector) < 2 or len(vector) % 2:
        raise ValueError(f"transitions must hold an even number of values, got {len(vector)}")
    places, weights = np.split(np.asarray(vector[2:], np.float64), 2)
    found = dict(zip(map(int, places.tolist()), weights.tolist(), strict=True))
    return Transitions(int(vector[0]), float(vector[1]), found)


def shares(vector: Array, places: Sequence[int], prior: float) -> Array:
    """Return which share of what came after an item each of these was, (len(places),).

    Args:
        vector: As `pack` wrote it.
        places: The `place` of what may come now.
        prior: Weight of nothing in particular, so that one visit makes no certainty.

    Examples:
        >>> seen = follow(Transitions(), "b", 1.0, 10**12, 3600.0)
        >>> shares(pack(seen), [place("a"), place("b")], prior=1.0)
        array([0. , 0.5])
    """
    known = unpack(vector)
    weights = [known.weights.get(one, 0.0) for one in places]
    return np.asarray(weights, np.float64) / (known.total + prior)
