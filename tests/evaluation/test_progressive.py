"""Every list is measured as it was served, and the measure goes on exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from streamrank.evaluation import metrics
from streamrank.evaluation.progressive import VERSIONS, Progressive
from streamrank.learning.examples import Example


def served(number: int, model: str = "v1", *, revision: int = 0, clicks: int = 1) -> Example:
    random = np.random.default_rng(number)
    labels = np.zeros((5, 1), np.float32)
    labels[random.permutation(5)[:clicks]] = 1
    scores = random.normal(size=(5, 1))
    return Example(
        f"r{number}", "u", number, {}, labels, model=model, scores=scores, revision=revision
    )


def test_figures_are_the_means_of_the_lists_in_total_and_of_the_newest() -> None:
    lists, quality = [served(n) for n in range(20)], Progressive(window=5)
    assert all(quality.take(one) for one in lists)
    for part, name in ((lists, "total"), (lists[-5:], "window")):
        found = quality.report()["v1"][name]
        each = [metrics.of_list(one.scores[:, 0], one.labels[:, 0]) for one in part]  # type: ignore[index]
        for metric in ("mrr", "ndcg@10", "auc"):
            assert found[metric] == pytest.approx(metrics.mean(each)[metric])
        assert found["lists"] == len(part)


def test_lists_without_feedback_count_for_the_probabilities_alone() -> None:
    quality = Progressive()
    quality.take(served(1, clicks=0))
    assert quality.report()["v1"]["total"].keys() == {"lists", "log_loss"}


def test_calibration_is_promised_labels_over_those_that_came() -> None:
    one = served(3)
    quality = Progressive()
    quality.take(one)
    assert one.scores is not None
    chances = 1 / (1 + np.exp(-one.scores))
    assert quality.report()["v1"]["total"]["calibration"] == pytest.approx(chances.sum())


def test_versions_are_apart_and_corrections_no_lists() -> None:
    quality = Progressive()
    assert quality.take(served(1))
    assert quality.take(served(2, "v2"))
    assert not quality.take(served(1, revision=1))
    assert [one["total"]["lists"] for one in quality.report().values()] == [1, 1]


def test_it_goes_on_exactly_from_its_state() -> None:
    whole, half = Progressive(window=4), Progressive(window=4)
    for n in range(10):
        whole.take(served(n, clicks=n % 2))
        if n < 5:
            half.take(served(n, clicks=n % 2))
    resumed = Progressive.resume(json.loads(json.dumps(half.state())), window=4)
    for n in range(5, 10):
        resumed.take(served(n, clicks=n % 2))
    assert resumed.report() == whole.report()


def test_nobody_could_choose_what_was_cut_off() -> None:
    scores, labels = np.array([[0.0], [9.0], [0.0]]), np.array([[1.0], [0.0], [0.0]])
    one = Example("r", "u", 1, {}, labels, model="v1", scores=scores, shown=np.array([1, -1, 0]))
    quality = Progressive()
    quality.take(one)
    found = quality.report()["v1"]["total"]
    assert found["log_loss"] == pytest.approx(np.log(2))
    assert found["calibration"] == pytest.approx(1.0)
    quality.take(replace(one, model="v2", shown=np.array([-1, -1, -1])))
    assert not {"log_loss", "calibration"} & quality.report()["v2"]["total"].keys()


def test_a_window_gives_its_lists_one_by_one_where_they_have_the_metric() -> None:
    quality = Progressive(window=4)
    for n in range(10):
        quality.take(served(n, clicks=n % 2))
    assert len(quality.recent("v1", "log_loss")) == 4
    found = quality.recent("v1", "auc")
    assert len(found) == 2
    assert found.mean() == pytest.approx(quality.report()["v1"]["window"]["auc"])


def test_the_versions_that_served_last_are_remembered_also_after_a_restart() -> None:
    quality = Progressive(window=2)
    for n in range(VERSIONS):
        quality.take(served(n, f"v{n}"))
    quality.take(served(VERSIONS, "v0"))  # the oldest still serves
    state = json.loads(json.dumps(quality.state(), sort_keys=True))
    for one in (quality, Progressive.resume(state, window=2)):
        one.take(served(VERSIONS + 1, "new"))
        assert len(one.versions) == VERSIONS
        assert {"v0", "new"} <= one.versions.keys()
        assert "v1" not in one.versions
