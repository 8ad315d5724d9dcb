from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrank.evaluation import metrics
from streamrank.model import calibration
from streamrank.model.calibration import Calibration
from streamrank.model.ranker import both, configure
from streamrank.model.training import fresh, tensors
from tests.lists import example, query
from tests.model.test_training import CONVERTING, SCHEMA


def test_what_is_too_sure_is_made_as_sure_as_it_may_be() -> None:
    """True log-odds are half of what the model says, less one."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 3, (20_000, 1))
    labels = (random.random(scores.shape) < metrics.sigmoid(scores / 2 - 1)).astype(np.float32)
    found = calibration.fit([scores], [labels])
    assert found.scale.item() == pytest.approx(0.5, abs=0.03)
    assert found.shift.item() == pytest.approx(-1.0, abs=0.05)
    chance = metrics.sigmoid(found.apply(scores))[:, 0]
    assert metrics.calibration_error(chance, labels[:, 0]) < 0.01
    in_order = found.apply(scores)[np.argsort(scores[:, 0]), 0]
    assert (np.diff(in_order) >= 0).all()  # what rounding makes equal may change places


def test_the_conversion_is_put_right_given_the_label() -> None:
    random = np.random.default_rng(1)
    odds = torch.from_numpy(random.normal(-1, 2, (40_000, 2)))
    clicked = random.random(40_000) < metrics.sigmoid(odds[:, 0].numpy() + 1)
    bought = clicked & (random.random(40_000) < metrics.sigmoid(odds[:, 1].numpy() * 0.7))
    labels = np.stack([clicked, bought], 1).astype(np.float32)
    found = calibration.fit([both(odds).numpy()], [labels])
    assert found.scale.tolist() == pytest.approx([1.0, 0.7], abs=0.05)
    assert found.shift.tolist() == pytest.approx([1.0, 0.0], abs=0.08)


def test_where_it_is_known_how_sure_it_may_be_as_many_labels_are_expected_as_came() -> None:
    random = np.random.default_rng(2)
    odds = torch.from_numpy(random.normal(-1, 2, (40_000, 2)))
    scores = both(odds).numpy()
    labels = (random.random((40_000, 2)) < [0.1, 0.02]).astype(np.float32)
    labels[:, 1] *= labels[:, 0]
    scale = torch.tensor([0.5, 0.25])
    found = calibration.fit([scores], [labels], scale)
    assert found.scale.equal(scale)
    expected = metrics.sigmoid(found.apply(scores)).sum(0)
    assert expected.tolist() == pytest.approx(labels.sum(0).tolist(), rel=0.05)


def test_where_nothing_is_known_nothing_is_changed() -> None:
    scores = np.zeros((2, 1))
    found = calibration.fit([scores], [np.array([[1.0], [0.0]])])
    assert found.scale.item() == pytest.approx(1)
    assert found.shift.item() == pytest.approx(0)
    none = Calibration.none(2)
    assert none.apply(np.array([[0.5, -1.0]])).tolist() == pytest.approx(np.array([[0.5, -1.0]]))


def test_a_ranker_takes_it_into_its_weights() -> None:
    random = np.random.default_rng(0)
    lists = [
        example(CONVERTING, query([f"i{k}" for k in random.permutation(20)[:5]]), "i1")
        for _ in range(6)
    ]
    torch.manual_seed(0)
    ranker = fresh(configure(CONVERTING), lists).eval()
    fitted = Calibration(torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 0.25]))
    with torch.no_grad():
        before = ranker(**tensors(lists)).numpy().reshape(-1, 2)
        ranker.adjust(fitted.scale, fitted.shift)
        after = ranker(**tensors(lists)).numpy().reshape(-1, 2)
    assert after == pytest.approx(fitted.apply(before), abs=1e-4)


def test_a_fresh_ranker_thinks_of_everything_as_likely_as_it_is_on_average() -> None:
    lists = [example(SCHEMA, query([f"i{k}" for k in range(10)]), "i1") for _ in range(30)]
    torch.manual_seed(0)
    ranker = fresh(configure(SCHEMA), lists).eval()
    with torch.no_grad():
        assert ranker(**tensors(lists)).sigmoid().mean().item() == pytest.approx(0.1, abs=0.03)
