"""How far a mean can be trusted: bootstrap intervals, also of a paired difference."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
DRAWN = 1_000_000
"""Groups drawn at once at most: it bounds the memory."""


class Interval(NamedTuple):
    """A mean and where it lies with the confidence asked for."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Array,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean with its percentile bootstrap interval.

    Args:
        values: One figure a list, shape (n,).
        groups: Whose list it is, n of them: whole groups are drawn, since the lists of one user
            are no independent witnesses.  Without it each list is drawn for itself.
        confidence: How sure the interval is to be.
        samples: How many times to draw.
        seed: The same seed gives the same interval.

    Raises:
        ValueError: There are no values, one is not finite, or `confidence` is not within 0..1.

    References:
        Efron and Tibshirani, 1993, "An introduction to the bootstrap", chapter 13.

    Examples:
        >>> bootstrap(np.ones(5))
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    figures = np.asarray(values, np.float64)
    if not len(figures) or not np.isfinite(figures).all():
        raise ValueError(f"values must be finite and at least one, got {figures}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be within 0..1, got {confidence}")
    sums, counts = _by_group(figures, groups)
    rng = np.random.default_rng(seed)
    means, at_once = np.empty(samples), max(1, DRAWN // len(sums))
    for first in range(0, samples, at_once):
        part = means[first : first + at_once]
        drawn = rng.integers(len(sums), size=(len(part), len(sums)))
        part[:] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(figures.mean()), float(low), float(high))


def paired(
    challenger: Array,
    champion: Array,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean difference on the same lists, with its interval.

    The lists differ much more than the systems do: pairing takes that out.

    Args:
        challenger: One figure a list, shape (n,).
        champion: The other system's on the same lists, shape (n,).
        groups: As `bootstrap` takes it.
        confidence: As `bootstrap` takes it.
        samples: As `bootstrap` takes it.
        seed: As `bootstrap` takes it.

    Examples:
        >>> paired(np.array([0.5, 0.9]), np.array([0.4, 0.8])).low > 0
        True
    """
    if np.shape(challenger) != np.shape(champion):
        shapes = f"{np.shape(challenger)} and {np.shape(champion)}"
        raise ValueError(f"both systems must be measured on the same lists, got {shapes}")
    difference = np.asarray(challenger, np.float64) - np.asarray(champion, np.float64)
    return bootstrap(difference, groups=groups, confidence=confidence, samples=samples, seed=seed)


def _by_group(values: Array, groups: Sequence[Hashable] | None) -> tuple[Array, Array]:
    """Return the sum and the number of the values of each group."""
    if groups is None:
        return values, np.ones(len(values))
    if len(groups) != len(values):
        raise ValueError(f"there must be a group for each value, got {len(groups)}")
    places: dict[Hashable, int] = {}
    place = np.array([places.setdefault(group, len(places)) for group in groups])
    return np.bincount(place, weights=values), np.bincount(place).astype(np.float64)
