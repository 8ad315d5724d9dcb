"""How far one system is ahead of another: the same figures as each alone, drawn by user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.evaluation import metrics
from streamrank.evaluation.ahead import Compared, Ranked, ahead

CASES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.booleans(), st.integers(0, 3)),
    min_size=2,
    max_size=30,
).filter(lambda rows: len({label for _, label, _ in rows}) == 2)


@given(CASES)
def test_with_everybody_once_the_area_is_that_of_the_metric(
    rows: list[tuple[float, bool, int]],
) -> None:
    scores, labels, users = (np.array(column) for column in zip(*rows, strict=True))
    found = Ranked.of(scores, labels.astype(float), users).auc(np.ones(4))
    assert found == pytest.approx(metrics.auc(scores, labels.astype(float)))


@given(CASES, st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_a_user_who_counts_twice_is_there_twice(
    rows: list[tuple[float, bool, int]], times: list[int]
) -> None:
    scores, labels, users = (np.array(column) for column in zip(*rows, strict=True))
    found = Ranked.of(scores, labels.astype(float), users).auc(np.array(times))
    again = np.repeat(np.arange(len(rows)), np.array(times)[users])
    assert found == pytest.approx(metrics.auc(scores[again], labels[again].astype(float)))


@given(CASES, CASES)
def test_the_leads_are_the_differences_of_what_each_system_gets_alone(
    first: list[tuple[float, bool, int]], second: list[tuple[float, bool, int]]
) -> None:
    lists = []
    for user, rows in enumerate((first, second)):
        new, labels, old = (np.array(column, np.float64) for column in zip(*rows, strict=True))
        lists.append(Compared(user, new, old, labels))
    found = ahead(lists)
    alone = [
        metrics.mean([metrics.of_list(getattr(one, name), one.labels) for one in lists])
        for name in ("challenger", "champion")
    ]
    for name in ("mrr", "ndcg@10", "auc"):
        assert found[name].mean == pytest.approx(alone[0][name] - alone[1][name])
    areas = [
        metrics.auc(
            np.concatenate([getattr(one, name) for one in lists]),
            np.concatenate([one.labels for one in lists]),
        )
        for name in ("challenger", "champion")
    ]
    assert found["global_auc"].mean == pytest.approx(areas[0] - areas[1])


def test_a_lead_that_all_users_see_is_sure_and_one_that_half_of_them_see_is_not() -> None:
    right, wrong, labels = np.array([2.0, 1.0]), np.array([1.0, 2.0]), np.array([1.0, 0.0])
    sure = ahead([Compared(user, right, wrong, labels) for user in range(20)])
    assert sure["global_auc"] == (1.0, 1.0, 1.0)
    even = [Compared(user, right, wrong, labels) for user in range(10)]
    even += [Compared(user, wrong, right, labels) for user in range(10, 20)]
    for name, lead in ahead(even).items():
        assert lead.low < 0 < lead.high, name


def test_without_two_kinds_of_labels_there_is_no_area() -> None:
    one = Compared("u", np.array([2.0, 1.0]), np.array([1.0, 2.0]), np.ones(2))
    assert ahead([one]).keys() == {"mrr", "ndcg@10"}
