from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    label_ranking_average_precision_score,
    ndcg_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from sklearn.metrics import log_loss as reference_log_loss

from streamrank.evaluation import metrics
from streamrank.evaluation.metrics import Array

EXACT = 1e-9


def a_list(seed: int, size: int = 25, relevant: int = 3) -> tuple[Array, Array]:
    """Distinct scores, and labels of which some are 1."""
    rng = np.random.default_rng(seed)
    return rng.permutation(size).astype(np.float64), rng.permutation(np.arange(size) < relevant)


# --- against scikit-learn ---------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 10, 100])
@pytest.mark.parametrize("seed", range(10))
def test_ndcg_is_scikit_learns_with_graded_gains(seed: int, k: int) -> None:
    scores, _ = a_list(seed)
    gains = np.random.default_rng(seed).random(25) * 5
    expected = ndcg_score(gains[None], scores[None], k=k, ignore_ties=True)
    assert metrics.ndcg(scores, gains, k) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("seed", range(10))
def test_a_list_is_measured_as_scikit_learn_does(seed: int) -> None:
    scores, labels = a_list(seed, relevant=1)
    figures = metrics.of_list(scores, labels)
    expected = {
        # With one relevant candidate, average precision is the reciprocal rank.
        "mrr": label_ranking_average_precision_score(labels[None], scores[None]),
        "ndcg@10": ndcg_score(labels[None], scores[None], k=10, ignore_ties=True),
        "hit@1": top_k_accuracy_score(
            [labels.argmax()], scores[None], k=1, labels=np.arange(len(labels))
        ),
        "auc": roc_auc_score(labels, scores),
    }
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=EXACT), name


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 8))
def test_auc_is_scikit_learns_also_with_ties(seed: int, size: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(distinct, size=size).astype(np.float64)
    labels = rng.permutation(np.arange(size) < rng.integers(1, size))
    assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)


@pytest.mark.parametrize("seed", range(5))
def test_log_loss_is_scikit_learns_also_for_certainties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chance = np.concatenate([rng.random(200), [0.0, 1.0, 0.0, 1.0]])
    labels = rng.random(204) < chance
    labels[-1] = False  # a wrong certainty
    expected = reference_log_loss(labels, chance)
    assert metrics.log_loss(chance, labels) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibration_error_is_the_weighted_gap_of_scikit_learns_curve(
    bins: int, equal_mass: bool
) -> None:
    rng = np.random.default_rng(bins)
    chance = rng.random(1000) ** 3
    labels = rng.random(1000) < chance**2
    strategy = "quantile" if equal_mass else "uniform"
    rate, mean = calibration_curve(labels, chance, n_bins=bins, strategy=strategy)
    edges = np.linspace(0, 1, bins + 1)
    edges = np.percentile(chance, edges * 100) if equal_mass else edges
    held = np.bincount(np.searchsorted(edges[1:-1], chance), minlength=bins)
    expected = float(np.abs(rate - mean) @ held[held > 0] / 1000)
    found = metrics.calibration_error(chance, labels, bins, equal_mass=equal_mass)
    assert found == pytest.approx(expected, abs=EXACT)


def test_log_odds_over_many_lists_are_measured_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(4)
    scores = rng.normal(-2, 2, 3000)
    labels = rng.random(3000) < 1 / (1 + np.exp(-scores))
    found = metrics.of_probabilities(scores, labels)
    chance = 1 / (1 + np.exp(-scores))
    assert found["log_loss"] == pytest.approx(reference_log_loss(labels, chance), abs=EXACT)
    assert found["global_auc"] == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)
    assert found["calibration_ratio"] == pytest.approx(chance.sum() / labels.sum(), abs=EXACT)
    assert found["calibration_error"] < 0.03
    one_class = metrics.of_probabilities(scores, np.zeros(3000))
    assert one_class.keys() == {"log_loss", "calibration_error"}


def test_the_probability_of_log_odds_is_scipys_also_far_out() -> None:
    scores = np.array([-800.0, -40.0, -1e-9, 0.0, 3.0, 40.0, 800.0])
    assert metrics.sigmoid(scores) == pytest.approx(special.expit(scores), abs=1e-15)


# --- by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", range(1, 13))
def test_with_one_relevant_item_ndcg_is_one_over_the_log_of_its_rank(rank: int) -> None:
    scores, labels = -np.arange(20.0), np.zeros(20)
    labels[rank - 1] = 1
    figures = metrics.of_list(scores, labels)
    expected = 1 / np.log2(1 + rank) if rank <= 10 else 0.0
    assert figures["ndcg@10"] == pytest.approx(expected, abs=EXACT)
    assert figures["mrr"] == pytest.approx(1 / rank, abs=EXACT)
    assert figures["hit@1"] == float(rank == 1)
    assert figures["auc"] == pytest.approx((20 - rank) / 19, abs=EXACT)


def test_ndcg_of_graded_gains_by_hand() -> None:
    """Ranked gains 1, 0, 2: 1/1 + 0 + 2/2 = 2; best order 2, 1, 0: 2/1 + 1/log2(3)."""
    scores, gains = np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.0, 2.0])
    expected = 2.0 / (2.0 + 1 / np.log2(3))
    assert metrics.ndcg(scores, gains, 10) == pytest.approx(expected, abs=EXACT)
    assert metrics.ndcg(scores, gains, 1) == pytest.approx(0.5, abs=EXACT)


def test_ties_keep_the_incoming_order_but_count_half_for_auc() -> None:
    flat = np.zeros(4)
    first = metrics.of_list(flat, np.array([1, 0, 0, 0]))
    last = metrics.of_list(flat, np.array([0, 0, 0, 1]))
    assert (first["mrr"], last["mrr"]) == (1.0, 0.25)
    assert first["auc"] == last["auc"] == 0.5


def test_of_several_relevant_items_the_best_placed_counts_for_the_reciprocal_rank() -> None:
    scores, labels = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0, 0, 1, 1])
    assert metrics.reciprocal_rank(scores, labels) == pytest.approx(1 / 3)
    assert [metrics.hit_rate(scores, labels, k) for k in (1, 2, 3, 4)] == [0, 0, 1, 1]


def test_a_list_without_feedback_counts_as_nothing_found_and_has_no_auc() -> None:
    figures = metrics.of_list(np.arange(3.0), np.zeros(3))
    assert figures == {"mrr": 0.0, "ndcg@10": 0.0, "hit@1": 0.0}
    assert "auc" not in metrics.of_list(np.arange(3.0), np.ones(3))
    assert np.isnan(metrics.auc(np.arange(3.0), np.ones(3)))


def test_a_list_without_candidates_is_measured_too() -> None:
    assert metrics.of_list(np.zeros(0), np.zeros(0)) == {"mrr": 0.0, "ndcg@10": 0.0, "hit@1": 0.0}


def test_the_mean_of_no_lists_is_nothing() -> None:
    assert metrics.mean([]) == {}


def test_the_mean_is_over_the_lists_that_have_the_metric() -> None:
    assert metrics.mean([{"mrr": 1.0}, {"mrr": 0.0, "auc": 0.75}]) == {"mrr": 0.5, "auc": 0.75}


def test_coverage_counts_what_the_catalogue_knows_once() -> None:
    lists = [["a", "b"], ["b", "x"], []]
    assert metrics.coverage(lists, {"a", "b", "c", "d"}, k=2) == 0.5
    assert metrics.coverage(lists, {"a", "b", "c", "d"}, k=1) == 0.5
    with pytest.raises(ValueError, match="catalogue must not be empty"):
        metrics.coverage(lists, (), k=1)


def test_calibration_error_by_hand() -> None:
    """Bin (0, .5]: mean .3, rate .5, 2 of 4; bin (.5, 1]: mean .8, rate 1: (.2 + .2) / 2."""
    chance, labels = np.array([0.1, 0.5, 0.7, 0.9]), np.array([0, 1, 1, 1])
    assert metrics.calibration_error(chance, labels, bins=2) == pytest.approx(0.2, abs=EXACT)


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random(100_000)
    labels = rng.random(100_000) < chance
    assert metrics.calibration_error(chance, labels) < 0.01
    assert metrics.calibration_error(np.round(chance), labels) > 0.2
    assert metrics.calibration_ratio(chance, labels) == pytest.approx(1, abs=0.01)
    assert metrics.calibration_ratio(chance / 2, labels) == pytest.approx(0.5, abs=0.01)
    assert np.isnan(metrics.calibration_ratio(chance, np.zeros(100_000)))


# --- properties and refusals ------------------------------------------------------------------

scored = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-5, 5, width=16))


@given(scored, st.data())
def test_only_the_order_of_the_scores_counts(scores: Array, data: st.DataObject) -> None:
    labels = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    )
    _, levels = np.unique(scores, return_inverse=True)
    assert metrics.of_list(scores, labels) == metrics.of_list(levels.astype(np.float64), labels)


@given(scored, st.integers(1, 40))
def test_the_best_order_is_worth_one_and_no_order_more(gains: Array, k: int) -> None:
    gains = np.abs(gains)
    best = metrics.ndcg(gains, gains, k)
    assert best == pytest.approx(float(gains.any()))
    assert metrics.ndcg(np.arange(len(gains), dtype=np.float64), gains, k) <= best + EXACT


def test_what_cannot_be_measured_is_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match="scores must not be NaN"):
        metrics.of_list(np.array([1.0, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"must both be of shape \(C,\), got \(2,\) and \(3,\)"):
        metrics.of_list(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"gains must be 0 or more, got -1"):
        metrics.ndcg(np.zeros(2), np.array([1.0, -1.0]), 10)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metrics.ndcg(np.zeros(2), np.zeros(2), 0)
    with pytest.raises(ValueError, match=r"probabilities must be within 0..1, got 0.5..1.5"):
        metrics.log_loss(np.array([0.5, 1.5]), np.array([0, 1]))
    with pytest.raises(ValueError, match="probabilities must not be empty"):
        metrics.log_loss(np.zeros(0), np.zeros(0))
