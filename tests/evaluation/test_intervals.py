from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from streamrank.evaluation import intervals


def test_the_interval_is_scipys_up_to_the_draw() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=500)
    found = intervals.bootstrap(values, samples=4000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(expected.low, abs=0.01)
    assert found.high == pytest.approx(expected.high, abs=0.01)


def test_it_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        found = intervals.bootstrap(
            rng.normal(1.0, 1.0, 80), confidence=0.9, samples=300, seed=seed
        )
        held += found.low <= 1.0 <= found.high
    assert 0.84 <= held / 200 <= 0.95


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert intervals.bootstrap(values, seed=7) == intervals.bootstrap(values, seed=7)
    assert intervals.bootstrap(values, seed=7) != intervals.bootstrap(values, seed=8)


def test_pairing_finds_a_difference_that_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    champion = rng.random(1000)
    challenger = champion + rng.normal(0.01, 0.02, 1000)
    difference = intervals.paired(challenger, champion)
    assert difference.low > 0
    assert difference.mean == pytest.approx(float((challenger - champion).mean()))
    assert intervals.bootstrap(challenger).low < intervals.bootstrap(champion).high


def test_equal_systems_do_not_differ() -> None:
    values = np.random.default_rng(0).random(100)
    assert intervals.paired(values, values) == (0.0, 0.0, 0.0)


def test_lists_of_one_user_are_drawn_together() -> None:
    """Ten users with a hundred equal lists each are ten witnesses, not a thousand."""
    users = np.random.default_rng(0).random(10)
    values, groups = np.repeat(users, 100), np.repeat(np.arange(10), 100).tolist()
    together = intervals.bootstrap(values, groups=groups)
    alone = intervals.bootstrap(users)
    apart = intervals.bootstrap(values)
    assert together.high - together.low == pytest.approx(alone.high - alone.low)
    assert together.high - together.low > 5 * (apart.high - apart.low)


def test_what_cannot_be_drawn_from_is_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match="values must be finite and at least one"):
        intervals.bootstrap(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="values must be finite and at least one"):
        intervals.bootstrap(np.zeros(0))
    with pytest.raises(ValueError, match=r"confidence must be within 0..1, got 95"):
        intervals.bootstrap(np.ones(3), confidence=95)
    with pytest.raises(ValueError, match="a group for each value, got 1"):
        intervals.bootstrap(np.ones(3), groups=["u1"])
    with pytest.raises(ValueError, match=r"on the same lists, got \(2,\) and \(3,\)"):
        intervals.paired(np.ones(2), np.ones(3))


def test_many_groups_are_drawn_as_one_draw_after_the_other_would_be() -> None:
    values = np.random.default_rng(1).normal(size=1_500)
    draw = np.random.default_rng(7)
    means = [values[draw.integers(1_500, size=1_500)].mean() for _ in range(2_000)]
    found = intervals.bootstrap(values, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
