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
from streamrank.model.export import Exported
from streamrank.model.ranker import Ranker
from streamrank.outside import Scores


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
        first, (known, new) = _timed(champion, graph, given)
        second, _ = _timed(champion, graph, given)
        return Evidence(
            labels=[one.labels for one in lists],
            champion=known,
            challenger=new,
            torch=training.scored(self.ranker, lists),
            users=[one.user for one in lists],
            segments=segments,
            seconds=(min(first[0], second[0]), min(first[1], second[1])),  # without what else ran
            weights_finite=self.finite(),
        )


def _timed(
    champion: Scores, challenger: Scores, given: Sequence[Inputs]
) -> tuple[tuple[float, float], tuple[list[Array], list[Array]]]:
    """Return what both say of the same lists, and the seconds of this thread that it took."""
    begun = time.thread_time()
    known = champion.score(given)
    between = time.thread_time()
    new = challenger.score(given)
    return (between - begun, time.thread_time() - between), (known, new)
