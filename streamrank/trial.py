"""A challenger on trial: weights set aside, and the lists that are held for its judgement."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from streamrank.features.inputs import Array, Inputs
from streamrank.learning.examples import Example
from streamrank.learning.gate import Evidence
from streamrank.model import training
from streamrank.model.artifact import Exported
from streamrank.model.ranker import Ranker
from streamrank.outside import Scores

TIMED = 16
"""Lists by which the time of both is compared."""
ALIKE = 64
"""Lists, the newest, by which the graph is held against PyTorch."""


@dataclass(frozen=True, slots=True)
class Challenger:
    """Weights set aside: the graph to publish, and the Ranker that it must equal."""

    exported: Exported
    ranker: Ranker
    lists: int
    until: int
    learned: Mapping[str, Array]
    offsets: Mapping[str, int] = field(default_factory=dict)
    held: dict[str, Example] = field(default_factory=dict)
    """Lists that came since, by id."""

    def hold(self, example: Example, most: int) -> None:
        """Hold a list for the gate; a correction replaces the labels of one that is held.

        Args:
            example: The list.
            most: How many are held, the newest.
        """
        known = self.held.get(example.id)
        if known is not None:
            self.held[example.id] = replace(known, labels=example.labels)
        elif not example.revision:
            self.held[example.id] = example
            if len(self.held) > most:
                del self.held[next(iter(self.held))]

    def told(self) -> int:
        """Return how many of the lists that are held can tell one order from another."""
        labels = (one.labels[:, 0] for one in self.held.values())
        return sum(bool(own.any() and not own.all()) for own in labels)

    def finite(self) -> bool:
        """Say whether all weights are numbers."""
        return all(
            np.isfinite(weight).all()
            for weight in self.exported.weights.values()
            if np.issubdtype(weight.dtype, np.floating)
        )

    def evidence(
        self, champion: Scores, graph: Scores, segments: Sequence[frozenset[str]]
    ) -> Evidence:
        """Let both score the lists that are held.

        Args:
            champion: What serves.
            graph: The challenger's own.
            segments: Those of each list, or of none.
        """
        lists = list(self.held.values())
        given = [one.inputs for one in lists]
        timed = [_seconds(champion, graph, given[:TIMED]) for _ in range(2)]
        return Evidence(
            labels=[one.labels for one in lists],
            champion=champion.score(given),
            challenger=graph.score(given),
            torch=training.scored(self.ranker, lists[-ALIKE:]),
            users=[one.user for one in lists],
            segments=segments,
            seconds=(min(one[0] for one in timed), min(one[1] for one in timed)),
            weights_finite=self.finite(),
        )


def _seconds(champion: Scores, challenger: Scores, given: Sequence[Inputs]) -> tuple[float, float]:
    """Return the seconds of this thread, so without what else ran, that both take for lists."""
    begun = time.thread_time()
    champion.score(given)
    between = time.thread_time()
    challenger.score(given)
    return between - begun, time.thread_time() - between
