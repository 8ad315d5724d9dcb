"""The distillation of `lists.py`: StreamRank learns what a larger one thinks of the same lists."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from streamrank.learning.examples import Example
from streamrank.model import distillation, training
from streamrank.model.distillation import Teacher
from streamrank.model.ranker import Size
from streamrank.model.training import Trained
from streamrank.settings import Settings
from tests.benchmarks.lists_peers import Outcome, Part

FOLDS = 2
"""Spans of time, each scored by a teacher that has learned from the others."""


def distilled(parts: Sequence[Part], known: Settings, size: Size) -> Iterator[tuple[str, Outcome]]:
    """Give what a larger model makes of the measured lists, and then the usual size taught by it.

    Args:
        parts: The measured lists; all learn from those before the first of them.
        known: The settings; theirs is the size that is taught.
        size: Of the teacher.
    """
    lists = [one for part in parts for one in part.lists]
    before, begun = parts[0].before, time.perf_counter()
    large = _trained(before, known, size).ranker
    scores = [heads[:, 0] for heads in training.scored(large, lists)]
    yield size, Outcome(scores, time.perf_counter() - begun)

    begun = time.perf_counter()
    thoughts = distillation.out_of_fold(before, partial(_teacher, known, size), FOLDS)
    small = _trained(before, known, known.model.size, distillation.remembered(before, thoughts))
    scores = [heads[:, 0] for heads in training.scored(small.ranker, lists)]
    yield f"{known.model.size} from {size}", Outcome(scores, time.perf_counter() - begun)


def _teacher(known: Settings, size: Size, lists: Sequence[Example]) -> Teacher:
    return partial(training.scored, _trained(lists, known, size).ranker)


def _trained(
    lists: Sequence[Example], known: Settings, size: Size, teacher: Teacher | None = None
) -> Trained:
    """Train by StreamRank's own recipe, by labels alone or by half of what a teacher says."""
    model = known.model
    return training.train(
        lists,
        known.feature_schema(),
        size=size,
        recipe=training.Recipe(epochs=model.epochs, pretrain=model.start == "pretrained"),
        seed=model.seed,
        taught=teacher and (lambda some: distillation.softened(some, teacher(some))),
    )
