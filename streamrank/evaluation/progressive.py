"""How good the versions are that serve: every list is measured before anybody learns from it.

Of each version there is the whole of its life, as sums, and a window of its newest lists.  What
is measured are the scores that the list was served with, never newer ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamrank.evaluation import metrics
from streamrank.features.inputs import Array
from streamrank.learning.examples import Example

FIGURES = ("mrr", "ndcg@10", "auc", "log_loss", "expected", "labels")
"""Of a list; the last two are how many labels its probabilities promise, and how many came."""
VERSIONS = 20
"""As many versions are remembered: those that served last."""


@dataclass
class Quality:
    """One version's lists.

    Attributes:
        window: Newest lists that are looked at by themselves.
        lists: Lists so far.
        sums: Of each figure over the lists that have it.
        counts: How many lists have it.
        newest: The figures of the newest lists, NaN for none, oldest first.
        last: When its latest list was scored, epoch milliseconds.
    """

    window: int
    lists: int = 0
    sums: Array = field(default_factory=lambda: np.zeros(len(FIGURES)))
    counts: Array = field(default_factory=lambda: np.zeros(len(FIGURES)))
    newest: list[list[float]] = field(default_factory=list)
    last: int = 0

    def take(self, figures: Array, at: int) -> None:
        """Take the figures of one more list, scored at `at`."""
        there = np.isfinite(figures)
        self.lists, self.last = self.lists + 1, max(self.last, at)
        self.sums += np.where(there, figures, 0.0)
        self.counts += there
        self.newest = [*self.newest, figures.tolist()][-self.window :]

    def total(self) -> dict[str, float]:
        """Return the figures of its whole life."""
        return _named(self.sums, self.counts, self.lists)

    def recent(self) -> dict[str, float]:
        """Return the figures of the window."""
        table = np.array(self.newest).reshape(-1, len(FIGURES))
        return _named(np.nansum(table, 0), np.isfinite(table).sum(0), len(table))


@dataclass
class Progressive:
    """The quality of every version, list by list.

    Attributes:
        window: Newest lists of a version that are looked at by themselves.
        versions: What was measured of each, of the `VERSIONS` that served last.

    Examples:
        >>> quality = Progressive(window=100)
        >>> quality.report()
        {}
    """

    window: int = 500
    versions: dict[str, Quality] = field(default_factory=dict)

    def take(self, example: Example) -> bool:
        """Measure a list as it was served.

        Returns:
            Whether it could be: not a correction, and nothing without finite scores.
        """
        scores = example.scores
        if example.revision or scores is None or not len(scores) or not np.isfinite(scores).all():
            return False
        own = self.versions.setdefault(example.model, Quality(self.window))
        own.take(of_list(scores[:, 0], example.labels[:, 0], example.shown), example.at)
        if len(self.versions) > VERSIONS:
            del self.versions[min(self.versions, key=lambda name: self.versions[name].last)]
        return True

    def recent(self, version: str, metric: str) -> Array:
        """Return one of the `FIGURES` of each list in a version's window that has it.

        Examples:
            >>> Progressive().recent("v1", "mrr").tolist()
            []
        """
        known = self.versions.get(version)
        table = np.array([] if known is None else known.newest).reshape(-1, len(FIGURES))
        values: Array = table[:, FIGURES.index(metric)]
        return values[np.isfinite(values)]

    def report(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the figures of each version, in `total` and of the `window`."""
        return {
            version: {"total": one.total(), "window": one.recent()}
            for version, one in self.versions.items()
        }

    def state(self) -> dict[str, Any]:
        """Return all that it takes to go on, as JSON has it; NaN is written as null."""
        return {
            version: {
                "lists": one.lists,
                "sums": one.sums.tolist(),
                "counts": one.counts.tolist(),
                "newest": [[v if np.isfinite(v) else None for v in row] for row in one.newest],
                "last": one.last,
            }
            for version, one in self.versions.items()
        }

    @classmethod
    def resume(cls, state: Mapping[str, Any], window: int = 500) -> Progressive:
        """Go on from what `state` returned."""
        versions = {
            version: Quality(
                window,
                one["lists"],
                np.array(one["sums"]),
                np.array(one["counts"]),
                [[float("nan") if v is None else v for v in row] for row in one["newest"]],
                one.get("last", 0),  # a state that was kept before this was
            )
            for version, one in state.items()
        }
        return cls(window, versions)


def of_list(scores: Array, labels: Array, shown: Array | None = None) -> Array:
    """Return the figures of one list, (FIGURES,), NaN where it has none.

    Args:
        scores: Log-odds, (C,).
        labels: 1 or 0, (C,).
        shown: Each candidate's place in the list that went out, (C,), -1 where it was cut off:
            nobody could choose that one, so its probability cannot be held against it.
    """
    found = metrics.of_list(scores, labels) if labels.any() else {}
    seen = np.full(len(labels), True) if shown is None else shown >= 0
    if seen.any():
        found |= _of_probabilities(metrics.sigmoid(scores[seen]), labels[seen])
    return np.array([found.get(name, np.nan) for name in FIGURES])


def _of_probabilities(chances: Array, labels: Array) -> dict[str, float]:
    loss = metrics.log_loss(chances, labels)
    return {"log_loss": loss, "expected": float(chances.sum()), "labels": float(labels.sum())}


def _named(sums: Array, counts: Array, lists: int) -> dict[str, float]:
    means = {
        name: float(total / count)
        for name, total, count in zip(FIGURES[:4], sums, counts, strict=False)
        if count
    }
    expected, labels = float(sums[4]), float(sums[5])
    calibration = {"calibration": expected / labels} if labels else {}
    return {"lists": float(lists)} | means | calibration
