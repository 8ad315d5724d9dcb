"""What the lists held out say: when to stop, how well it goes, and against what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamrank.evaluation import metrics, orders
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema
from streamrank.learning.examples import Example
from streamrank.model import calibration
from streamrank.model.course import implied

SLICES = 2


def orderable(example: Example) -> bool:
    """Return whether a list says something about order: some of it has the label, some not."""
    got = example.labels[:, 0] > 0
    return bool(got.any() and not got.all())


def per_list(scores: Sequence[Array], examples: Sequence[Example]) -> list[dict[str, float]]:
    """Return how well the label's head orders each list that can be ordered.

    Args:
        scores: Of each list, (C, heads).
        examples: The lists.
    """
    return [
        metrics.of_list(heads[:, 0], one.labels[:, 0])
        for one, heads in zip(examples, scores, strict=True)
        if orderable(one)
    ]


def means(lists: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of two slices in time, which count alike."""
    parts = [part for part in np.array_split(np.arange(len(lists)), SLICES) if len(part)]
    found = [metrics.mean([dict(lists[place]) for place in part]) for part in parts]
    return {name: float(np.mean([mean[name] for mean in found])) for name in found[0]}


def enough(curve: Sequence[Array]) -> int:
    """Choose how many epochs to learn: the most that are not clearly worse than the best.

    Of a few hundred lists the best epoch is often an early one by chance, and learning to the
    end, with a falling rate, is the safer choice where the lists cannot tell.

    Args:
        curve: After each epoch, how well each list was ranked.

    Returns:
        Epochs, from 1: the last one whose mean is within one standard error of the difference to
        the best epoch, over all lists: of two halves one is behind by as much too often by chance.

    References:
        Breiman, Friedman, Olshen, Stone, "Classification and regression trees", 1984, section
        3.4.3: the one-standard-error rule.

    Examples:
        >>> enough([np.array([0.2, 0.4, 0.1, 0.3]), np.array([0.1, 0.5, 0.1, 0.3])])
        2
        >>> enough([np.array([0.9, 0.8, 0.9, 0.8]), np.array([0.1, 0.1, 0.2, 0.1])])
        1
    """
    best = max(curve, key=lambda lists: float(lists.mean()))
    for epochs in range(len(curve), 1, -1):
        behind = best - curve[epochs - 1]
        if behind.mean() <= behind.std() / len(behind) ** 0.5:
            return epochs
    return 1


def compared(
    scores: Sequence[Array], examples: Sequence[Example], schema: Schema
) -> dict[str, dict[str, float]]:
    """Return how well the lists are ordered by the Ranker (`streamrank`) and without any model."""
    known = [orders.simple_orders(one, schema) for one in examples]
    found = {"streamrank": means(per_list(scores, examples))}
    for name in known[0]:
        found[name] = means(per_list([one[name][:, None] for one in known], examples))
    return found


def probabilities(
    scores: Sequence[Array], examples: Sequence[Example], heads: Sequence[str]
) -> dict[str, float]:
    """Measure the probabilities of each head, each slice calibrated on the other one.

    Returns:
        What `metrics.of_probabilities` says of the label; of the conversion the same, each name
        after the head's and a point.
    """
    labels = [implied(one.labels) for one in examples]
    parts = [part for part in np.array_split(np.arange(len(scores)), SLICES) if len(part)]
    found: list[Array] = []
    for number, part in enumerate(parts):
        other = parts[1 - number] if len(parts) == SLICES else part
        fitted = calibration.fit(
            [scores[place] for place in other], [labels[place] for place in other]
        )
        found.append(fitted.apply(np.concatenate([scores[place] for place in part])))
    both, wanted = np.concatenate(found), np.concatenate(labels)
    return {
        f"{head}.{name}" if column else name: value
        for column, head in enumerate(heads)
        for name, value in metrics.of_probabilities(both[:, column], wanted[:, column]).items()
    }
