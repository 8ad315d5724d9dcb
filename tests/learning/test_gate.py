"""The gate lets through what works and ranks no worse, and says why it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.evaluation import metrics
from streamrank.features.inputs import Array
from streamrank.learning.gate import Evidence, Rules, judge

LISTS = 200


def labels(count: int = LISTS, size: int = 6, seed: int = 0) -> list[Array]:
    """One click somewhere in each list."""
    random = np.random.default_rng(seed)
    return [np.eye(size, dtype=np.float32)[:, [random.integers(size)]] for _ in range(count)]


def scores(of: list[Array], skill: float, seed: int = 1) -> list[Array]:
    """Noise, and so much of the truth."""
    random = np.random.default_rng(seed)
    return [skill * one + random.normal(size=one.shape) for one in of]


def evidence(champion: float = 2.0, challenger: float = 2.0, count: int = LISTS) -> Evidence:
    of = labels(count)
    ours = scores(of, challenger)
    return Evidence(of, scores(of, champion), ours, ours, [f"u{n % 50}" for n in range(count)])


def test_a_better_challenger_passes_and_the_reason_has_both_figures() -> None:
    found = evidence(1.0, 3.0)
    verdict = judge(found)
    assert verdict.passed
    assert verdict.credible
    both = [
        np.mean(
            [metrics.ndcg(s[:, 0], one[:, 0], 10) for s, one in zip(of, found.labels, strict=True)]
        )
        for of in (found.challenger, found.champion)
    ]
    assert verdict.figures["ndcg@10"] == pytest.approx(both[0])
    assert verdict.figures["champion_ndcg@10"] == pytest.approx(both[1])
    assert verdict.figures["difference"] == pytest.approx(both[0] - both[1])
    assert f"{both[0]:.4f} against the champion's {both[1]:.4f} on 200 lists" in verdict.reason


def test_a_worse_challenger_is_refused_with_both_figures() -> None:
    verdict = judge(evidence(3.0, 1.0))
    assert not verdict.passed
    assert verdict.reason.startswith("ndcg@10 must be at least the champion's 0.")


def test_one_that_is_the_same_passes_unless_it_must_be_better() -> None:
    same = evidence()
    assert judge(same).passed
    strict = judge(same, Rules(require="better"))
    assert not strict.passed
    assert "must surely be above" in strict.reason


def test_one_that_must_be_better_passes_where_it_surely_is() -> None:
    assert judge(evidence(0.5, 3.0), Rules(require="better")).passed
    assert not judge(evidence(2.0, 2.05), Rules(require="better")).passed


def test_reversed_labels_in_the_learner_are_refused() -> None:
    """It learned the opposite of what people do; the lists that judge it are true."""
    verdict = judge(evidence(2.0, -2.0))
    assert not verdict.passed
    assert verdict.credible
    assert verdict.figures["auc"] < 0.2


def test_reversed_labels_everywhere_are_believed_by_nobody() -> None:
    """The challenger fits them, the champion orders the lists the other way round."""
    verdict = judge(evidence(-2.0, 2.0))
    assert not verdict.passed
    assert not verdict.credible
    assert "opposite of what it was" in verdict.reason


def test_a_handful_of_users_is_too_few_to_disbelieve_what_people_did() -> None:
    """What is not believed is not learned from either; 2 ** -9 that nine go the same way."""
    users = [f"u{n % 9}" for n in range(LISTS)]
    few = dataclasses.replace(evidence(-2.0, 2.0), users=users)
    verdict = judge(few)
    assert verdict.credible
    assert verdict.figures["reversed_by_chance"] == 2**-9
    assert verdict.figures["champion_auc_high"] < 0.45


def test_a_sudden_change_of_taste_is_believed() -> None:
    """The champion knows nothing any more, which is not the opposite of something."""
    assert judge(evidence(0.0, 1.0)).passed


def nan_scores(found: Evidence) -> Evidence:
    broken = [one.copy() for one in found.challenger]
    broken[7][2, 0] = np.nan
    return dataclasses.replace(found, challenger=broken)


FAULTS: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "NaN weights": (
        lambda one: dataclasses.replace(one, weights_finite=False),
        "weights must be finite",
    ),
    "NaN scores": (nan_scores, "scores must be finite, got 1 lists"),
    "another graph": (
        lambda one: dataclasses.replace(one, torch=[s + 0.1 for s in one.torch]),
        "graph and PyTorch must agree to 0.001, got 0.1",
    ),
    "NaN in PyTorch": (
        lambda one: dataclasses.replace(one, torch=[s * np.nan for s in one.torch]),
        "PyTorch's scores must be finite, got 200 lists",
    ),
    "slower": (
        lambda one: dataclasses.replace(one, seconds=(1.0, 1.7)),
        "must take at most 1.5 times the champion's time, got 1.70",
    ),
    "collapsed": (
        lambda one: with_challenger(one, [0 * s for s in one.labels]),
        "scores must spread by 0.0001 within a list, got 0",
    ),
    "as they came": (
        lambda one: with_challenger(one, [-np.arange(len(s))[:, None] * 1.0 for s in one.labels]),
        "must not all keep the order",
    ),
}


def with_challenger(found: Evidence, made: list[Array]) -> Evidence:
    return dataclasses.replace(found, challenger=made, torch=made)


@pytest.mark.parametrize("name", list(FAULTS))
def test_what_is_broken_is_refused_however_good_it_may_be(name: str) -> None:
    breaks, reason = FAULTS[name]
    verdict = judge(breaks(evidence(0.0, 3.0)))
    assert not verdict.passed
    assert reason in verdict.reason
    assert all(np.isfinite(figure) for figure in verdict.figures.values())


def test_a_quicker_one_and_one_whose_time_is_not_known_pass() -> None:
    assert judge(dataclasses.replace(evidence(), seconds=(1.0, 0.5))).passed
    assert judge(dataclasses.replace(evidence(), seconds=(0.0, 0.0))).passed


def test_too_few_lists_that_can_tell_are_not_enough() -> None:
    few = evidence(1.0, 3.0, count=60)
    silent = [0 * one if n % 2 else one for n, one in enumerate(few.labels)]
    verdict = judge(dataclasses.replace(few, labels=silent))
    assert not verdict.passed
    assert verdict.reason == "there must be 50 lists with feedback to judge by, got 30"
    assert judge(dataclasses.replace(few, labels=silent), Rules(lists=30)).passed


def test_a_segment_that_surely_loses_is_refused_if_it_is_named() -> None:
    """New users lose all of the order, the others gain more than that."""
    of = labels()
    new = [n % 3 == 0 for n in range(LISTS)]
    champion, better, worse = scores(of, 1.5), scores(of, 6.0), scores(of, 0.5)
    mixed = [w if n else b for n, w, b in zip(new, worse, better, strict=True)]
    segments = [{"new user" if n else "known user"} for n in new]
    found = Evidence(of, champion, mixed, mixed, range(LISTS), segments)
    assert judge(found).passed
    verdict = judge(found, Rules(segments=("known user", "new user")))
    assert not verdict.passed
    assert "of 'new user' must not fall by 0.01, got -0." in verdict.reason
    assert verdict.figures["difference known user"] > 0
    assert judge(found, Rules(segments=("nobody",))).passed


def test_a_champion_that_cannot_score_is_replaced() -> None:
    found = evidence(2.0, 2.0)
    broken = [one * np.nan for one in found.champion]
    assert judge(dataclasses.replace(found, champion=broken)).passed


@given(skill=st.floats(-1, 3), better=st.floats(0, 2), seed=st.integers(0, 20))
def test_what_passes_was_at_least_as_good_on_these_lists(
    skill: float, better: float, seed: int
) -> None:
    of = labels(60, seed=seed)
    ours = scores(of, skill + better - 1, seed)
    verdict = judge(Evidence(of, scores(of, skill, seed + 100), ours, ours, range(60)))
    if verdict.passed:
        assert verdict.figures["ndcg@10"] >= verdict.figures["champion_ndcg@10"]
