"""Probabilities come true: learned from shoppers who often click on nothing at all."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from streamrank import infer, replay
from streamrank.edges.kafka import Incoming
from streamrank.edges.onnxruntime import AsShown
from streamrank.evaluation import metrics
from streamrank.model import training
from streamrank.model.training import Recipe
from streamrank.simulate import Size, World
from tests.lists import NOW


@pytest.mark.slow
def test_what_is_expected_of_later_lists_happens_within_a_few_percent() -> None:
    world = World(seed=3, size=Size(items=40, shoppers=60, candidates=6))
    past = list(world.history(2400, NOW, timedelta(days=4)))
    inferred = infer.infer(past, label="click", conversion="purchase").settings
    records = [Incoming(replay.TOPIC, 0, n, event.encode()) for n, event in enumerate(past)]
    lane = replay.lane_of(inferred, AsShown(), datetime.now(UTC))
    lists = replay.gather(lane, records, inferred)
    silent = np.mean([not one.labels.any() for one in lists])
    assert 0.2 < silent < 0.8
    older, newer = lists[:1600], lists[1600:]
    trained = training.train(older, inferred.feature_schema(), recipe=Recipe(epochs=3))
    scores = np.concatenate(training.scored(trained.ranker, newer))
    labels = np.concatenate([one.labels for one in newer])
    _, newest = training.split(older)
    said = metrics.sigmoid(np.concatenate(training.scored(trained.ranker, newest))[:, 0])
    came = np.concatenate([one.labels[:, 0] for one in newest])
    assert said.sum() == pytest.approx(came.sum(), rel=0.01)
    clicks, purchases = (
        metrics.of_probabilities(scores[:, head], labels[:, head]) for head in (0, 1)
    )
    assert clicks["calibration_ratio"] == pytest.approx(1, abs=0.14)  # of some 460: 3 errors
    assert clicks["calibration_error"] < 0.03
    assert clicks["global_auc"] > 0.6
    assert purchases["calibration_ratio"] == pytest.approx(1, abs=0.36)  # of some 70
    assert purchases["global_auc"] > 0.6
    clicked_only = [one for one in older if one.labels[:, 0].any()]
    biased = training.train(clicked_only, inferred.feature_schema(), recipe=Recipe(epochs=1))
    expected = metrics.sigmoid(np.concatenate(training.scored(biased.ranker, newer))[:, 0])
    assert expected.sum() > 1.3 * labels[:, 0].sum()  # of a list on which something is clicked
    assert dataclasses.is_dataclass(trained.learned)
    assert trained.learned.labelled < trained.learned.lists == len(older)
