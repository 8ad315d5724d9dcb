"""A small Ranker learns what larger ones, or several together, think of each candidate.

A label says which candidate was chosen, a teacher how close the others came.  The lists are
learned with a mixture of both.  What a teacher thinks of lists that it has learned by heart is no
more than their labels again: `out_of_fold` gives the scores of teachers that have not seen them.

    teacher = remembered(lists, out_of_fold(lists, teach))
    training.train(lists, schema, taught=lambda some: softened(some, teacher(some)))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from streamrank.features.inputs import Array
from streamrank.learning.examples import Example

Teacher = Callable[[Sequence[Example]], Sequence[Array]]
"""Examples in, the scores of each list's candidates out, (C, heads)."""


def averaged(teachers: Sequence[Teacher]) -> Teacher:
    """Return the teacher whose log-shares of each list are the mean of others'.

    Args:
        teachers: Models of any size, or one model of several seeds; at least one.

    Raises:
        ValueError: There is none.

    Examples:
        >>> from streamrank.learning.examples import Example
        >>> lists = [Example("r1", "u1", 0, {}, np.zeros((2, 1), np.float32))]
        >>> one = lambda lists: [np.log([[0.9], [0.1]])]
        >>> other = lambda lists: [np.log([[0.1], [0.9]])]
        >>> np.exp(averaged([one, other])(lists)[0]).round(2).tolist()
        [[0.3], [0.3]]
    """
    if not teachers:
        raise ValueError("there must be a teacher, got none")

    def mean(examples: Sequence[Example]) -> list[Array]:
        found = [teacher(examples) for teacher in teachers]
        return [np.mean([_log_shares(s) for s in scores], 0) for scores in zip(*found, strict=True)]

    return mean


def out_of_fold(
    examples: Sequence[Example], teach: Callable[[Sequence[Example]], Teacher], folds: int = 2
) -> list[Array]:
    """Return scores of each list by a teacher that has not learned from it.

    Args:
        examples: Lists with their labels, in time order; each fold is a span of time.
        teach: Makes a teacher from lists, which are in time order.
        folds: In how many parts; each costs a training on all the others.

    Raises:
        ValueError: There are fewer than two folds, or fewer lists than folds.

    Examples:
        >>> from streamrank.learning.examples import Example
        >>> lists = [Example(f"r{n}", "u1", n, {}, np.zeros((1, 1))) for n in range(4)]
        >>> counting = lambda seen: lambda lists: [np.full((1, 1), len(seen)) for _ in lists]
        >>> [scores.item() for scores in out_of_fold(lists, counting)]
        [2, 2, 2, 2]
    """
    if not 2 <= folds <= len(examples):
        raise ValueError(f"folds must be within 2..{len(examples)}, the lists, got {folds}")
    found: list[Array] = []
    for places in np.array_split(np.arange(len(examples)), folds):
        first, last = places[0], places[-1] + 1
        others = [*examples[:first], *examples[last:]]
        found += teach(others)(examples[first:last])
    return found


def remembered(examples: Sequence[Example], scores: Sequence[Array]) -> Teacher:
    """Return the teacher that gives known scores to known lists, by their ids.

    Examples:
        >>> from streamrank.learning.examples import Example
        >>> lists = [Example(f"r{n}", "u1", n, {}, np.zeros((1, 1))) for n in range(2)]
        >>> remembered(lists, [np.zeros((1, 1)), np.ones((1, 1))])(lists[1:])[0].tolist()
        [[1.0]]
    """
    known = {one.id: thought for one, thought in zip(examples, scores, strict=True)}
    return lambda lists: [known[one.id] for one in lists]


def softened(
    examples: Sequence[Example],
    scores: Sequence[Array],
    *,
    share: float = 0.5,
    temperature: float = 1.0,
) -> list[Example]:
    """Return the lists with labels that are partly the teacher's.

    Of a label's total in a list, `share` is given to the candidates as the teacher would, the
    rest stays where it was; lists without a label stay as they are.

    Args:
        examples: Lists with their labels.
        scores: What the teacher thinks of each one's candidates, (C, heads).
        share: The teacher's part, 0 for none.
        temperature: Above 1 the teacher's shares are evened out.

    Raises:
        ValueError: `share` is outside 0..1, or `temperature` is not above 0.

    References:
        Hinton, Vinyals, Dean, 2015, "Distilling the knowledge in a neural network".
        Qin et al., 2023, "RD-Suite: a benchmark for ranking distillation".

    Examples:
        >>> from streamrank.learning.examples import Example
        >>> shown = Example("r1", "u1", 0, {}, np.array([[1.0], [0.0]], np.float32))
        >>> [soft] = softened([shown], [np.log([[0.6], [0.4]])], share=0.5)
        >>> soft.labels.astype(float).round(2).tolist()
        [[0.8], [0.2]]
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must be within 0..1, got {share}")
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return [
        dataclasses.replace(one, labels=_mixed(one.labels, thought / temperature, share))
        for one, thought in zip(examples, scores, strict=True)
    ]


def _mixed(labels: Array, scores: Array, share: float) -> Array:
    taught = np.exp(_log_shares(scores)) * labels.sum(0)
    return np.asarray((1 - share) * labels + share * taught, np.float32)


def _log_shares(scores: Array) -> Array:
    """Return the log-softmax over the candidates, (C, heads)."""
    from_best = scores - scores.max(0, initial=-np.inf, keepdims=True)
    return np.asarray(from_best - np.log(np.exp(from_best).sum(0, keepdims=True)))
