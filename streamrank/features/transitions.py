"""What people touch after an item: decayed counts of the items that came next.

The state is of one item; another item's place in it is by hash, and only the heaviest are kept,
so that a popular item costs no more than a bounded row.

References:
    Linden, Smith, York, IEEE Internet Computing 2003, "Amazon.com recommendations:
    item-to-item collaborative filtering".
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from streamrank.features.compiled import Integers, Made, Reals, compiled
from streamrank.features.schema import hashed

Array = np.ndarray[Any, Any]
KEPT = 64
"""Items that are remembered after one item."""
FOLLOWED = 2
"""Items of a user's own past that a touched item counts as following."""
_MOST = KEPT + KEPT // 4
"""How many there may be until the lightest are forgotten, all at once."""
_FARTHEST = 400.0
"""Half-lives between the mark and the newest: a float64 holds 2 ** 1023."""
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
    growing = Followers(known.at, known.at, known.total, 0, dict(known.weights))
    growing.add(item, weight, at, half_life)
    return growing.seen(half_life)


class Followers(Struct, array_like=True, gc=False):
    """Transitions as they grow, in place: an item that came changes its own weight alone.

    Attributes:
        mark: Event time that the weights refer to, milliseconds.
        at: Event time of the newest, milliseconds.
        total: Weight of all that came after it, the forgotten included, at `mark`.
        count: How many came.
        weights: By `place` of the item that came, at `mark`.
    """

    mark: int = 0
    at: int = 0
    total: float = 0.0
    count: int = 0
    weights: dict[int, float] = msgspec.field(default_factory=dict)

    def add(self, item: str, weight: float, at: int, half_life: float) -> None:
        """Count that an item was touched next, as `follow` says."""
        rate = 0.001 / half_life
        if at > self.at:
            self.at = at
            if (at - self.mark) * rate > _FARTHEST:
                self._refer(at, rate)
        added = weight * 2.0 ** ((at - self.mark) * rate)
        self.total += added
        self.count += 1
        where, weights = place(item), self.weights
        if where in weights:
            weights[where] += added
            return
        weights[where] = added
        if len(weights) > _MOST:
            self.weights = _heaviest(weights)

    def _refer(self, at: int, rate: float) -> None:
        factor = 2.0 ** ((self.mark - at) * rate)
        self.weights = {where: weight * factor for where, weight in self.weights.items()}
        self.total *= factor
        self.mark = at

    def seen(self, half_life: float) -> Transitions:
        """Return what is known by now."""
        factor = self._now(half_life)
        weights = {where: weight * factor for where, weight in self._kept().items()}
        return Transitions(self.at, self.total * factor, weights)

    def packed(self, half_life: float) -> Array:
        """Return what is known by now as `pack` lays it out."""
        factor, weights = self._now(half_life), self._kept()
        now = [weight * factor for weight in weights.values()]
        return np.frombuffer(array("d", [self.at, self.total * factor, *weights, *now]))

    def _now(self, half_life: float) -> float:
        return float(2.0 ** ((self.mark - self.at) * 0.001 / half_life))

    def _kept(self) -> dict[int, float]:
        return _heaviest(self.weights) if len(self.weights) > KEPT else self.weights


def _heaviest(weights: dict[int, float]) -> dict[int, float]:
    """Return the heaviest, and the one that came last: it has had no time to grow."""
    *others, last = weights
    kept = set(sorted(others, key=weights.__getitem__, reverse=True)[: KEPT - 1])
    kept.add(last)
    return {where: weight for where, weight in weights.items() if where in kept}


def pack(known: Transitions) -> Array:
    """Return transitions as one vector: at, total, then places, then their weights."""
    places, weights = list(known.weights), list(known.weights.values())
    return np.array([known.at, known.total, *places, *weights], np.float64)


def unpack(vector: Array) -> Transitions:
    """Read what `pack` wrote.

    Raises:
        ValueError: The vector has an odd length, or less than two values.
    """
    _check(vector)
    places, weights = np.split(np.asarray(vector[2:], np.float64), 2)
    found = dict(zip(map(int, places.tolist()), weights.tolist(), strict=True))
    return Transitions(int(vector[0]), float(vector[1]), found)


def shares(vectors: Sequence[Array], hashes: Array, prior: float) -> Array:
    """Return which share of what came after some items each of these was, float64 (N, C).

    Args:
        vectors: Of N items, as `pack` wrote them; an empty one for nothing known.
        hashes: The `hashed` ids of what may come now, int64 (C,).
        prior: Weight of nothing in particular, so that one visit makes no certainty.

    Raises:
        ValueError: A vector is no such one.

    Examples:
        >>> seen = follow(Transitions(), "b", 1.0, 10**12, 3600.0)
        >>> shares([pack(seen)], np.array([hashed("a"), hashed("b")]), prior=1.0)
        array([[0. , 0.5]])
    """
    for vector in vectors:
        if len(vector):
            _check(vector)
    sizes = np.array([len(vector) for vector in vectors], np.int64)
    together = np.concatenate([np.zeros(0), *vectors])
    return _shares(together, sizes, hashes, prior)


@compiled
def _shares(vectors: Reals, sizes: Integers, hashes: Integers, prior: float) -> Made:
    found = np.zeros((len(sizes), len(hashes)))
    places = (hashes >> _EXACT).astype(np.float64)
    order = np.argsort(places)
    rising = places[order]
    first = 0
    for row, size in enumerate(sizes):
        count = size // 2 - 1
        for n in range(first + 2, first + 2 + count):
            at = np.searchsorted(rising, vectors[n])
            while at < len(rising) and rising[at] == vectors[n]:
                found[row, order[at]] = vectors[n + count] / (vectors[first + 1] + prior)
                at += 1
        first += size
    return found


def _check(vector: Array) -> None:
    if len(vector) < 2 or len(vector) % 2:
        raise ValueError(f"transitions must hold an even number of values, got {len(vector)}")
