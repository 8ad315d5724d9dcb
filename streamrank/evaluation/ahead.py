"""How far one system is ahead of another on the same lists, and how sure that is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrank.evaluation import intervals, metrics
from streamrank.evaluation.intervals import Interval

Array = np.ndarray[Any, Any]
SAMPLES = 1000
"""Draws of users by which the interval of an area is found."""
LISTWISE = ("mrr", "ndcg@10", "auc")
"""Figures of one list, of which the mean is compared."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One list that both systems scored.

    Attributes:
        user: Whose list it is.
        challenger: Scores of one system, shape (C,).
        champion: Scores of the other one, shape (C,).
        labels: 1 where the candidate got the feedback, else 0, shape (C,).
    """

    user: Hashable
    challenger: Array
    champion: Array
    labels: Array


@dataclass(frozen=True, slots=True)
class Ranked:
    """Candidates of many lists by their score, for the AUC with any weights of the users.

    Attributes:
        groups: Where each run of equal scores begins.
        labels: In the order of the scores.
        users: Whose list each is in, likewise.
    """

    groups: Array
    labels: Array
    users: Array

    @classmethod
    def of(cls, scores: Array, labels: Array, users: Array) -> Ranked:
        """Sort candidates, (n,) each."""
        order = np.argsort(scores, kind="stable")
        starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
        return cls(starts, labels[order], users[order])

    def auc(self, weights: Array) -> float:
        """Return the area under the curve with each user counted so often, (users,).

        It is NaN where all labels that count are the same.
        """
        weight = weights[self.users]
        good = np.add.reduceat(weight * self.labels, self.groups)
        bad = np.add.reduceat(weight * (1 - self.labels), self.groups)
        pairs = good.sum() * bad.sum()
        below = np.cumsum(bad) - bad
        return float((good * (below + bad / 2)).sum() / pairs) if pairs else float("nan")


def ahead(lists: Sequence[Compared]) -> dict[str, Interval]:
    """Return by how much the challenger is ahead, with intervals of 95 % over whole users.

    Args:
        lists: What both scored; at least one.

    Returns:
        The differences of the mean of `mrr`, `ndcg@10` and `auc` over the lists, and of
        `global_auc` over all candidates, which is left out where all labels are the same.

    References:
        Efron and Tibshirani, 1993, "An introduction to the bootstrap", chapter 8.

    Examples:
        >>> one = Compared("u", np.array([2.0, 1.0]), np.array([1.0, 2.0]), np.array([1, 0]))
        >>> ahead([one, one])["mrr"]
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    owners = [one.user for one in lists]
    both = [
        [metrics.of_list(scores, one.labels) for one, scores in zip(lists, own, strict=True)]
        for own in ([one.challenger for one in lists], [one.champion for one in lists])
    ]
    found: dict[str, Interval] = {}
    for name in LISTWISE:
        pairs = [
            (new[name], old[name], owner)
            for new, old, owner in zip(*both, owners, strict=True)
            if name in new  # `auc` is of lists that have both kinds of labels
        ]
        if pairs:
            new, old, users = zip(*pairs, strict=True)
            found[name] = intervals.paired(np.array(new), np.array(old), groups=users)
    area = _global_auc(lists)
    return found if area is None else found | {"global_auc": area}


def _global_auc(lists: Sequence[Compared]) -> Interval | None:
    places: dict[Hashable, int] = {}
    owners = [places.setdefault(one.user, len(places)) for one in lists]
    users = np.repeat(owners, [len(one.labels) for one in lists])
    labels = np.concatenate([one.labels for one in lists])
    new = Ranked.of(np.concatenate([one.challenger for one in lists]), labels, users)
    old = Ranked.of(np.concatenate([one.champion for one in lists]), labels, users)
    everybody = np.ones(len(places))
    mean = new.auc(everybody) - old.auc(everybody)
    if np.isnan(mean):
        return None
    random = np.random.default_rng(0)
    draws = (
        np.bincount(random.integers(len(places), size=len(places)), minlength=len(places))
        for _ in range(SAMPLES)
    )
    low, high = np.nanquantile([new.auc(one) - old.auc(one) for one in draws], [0.025, 0.975])
    return Interval(mean, float(low), float(high))
