"""The benchmark of learning on: its area under the curve, and what its lists are made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.evaluation import metrics
from tests.benchmarks import online_logs
from tests.benchmarks.online import Ranked

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


def test_a_list_is_what_one_person_rated_in_a_row_and_its_likes_have_four_stars() -> None:
    """Twelve ratings of one user: a list of ten and one of two, of films in another order."""
    stars = [5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 4, 3]
    ratings = pd.DataFrame(
        {
            "user_id": 7,
            "movie_id": range(1, 13),
            "rating": stars,
            "seq": range(12),
            "ts_true": pd.array([100, None, *range(102, 112)], dtype="Int64"),
            "ts_lo": pd.array([None] * 12, dtype="Int64"),
            "ts_hi": pd.array([None] * 12, dtype="Int64"),
        }
    )
    first, second = online_logs._lists(ratings, seed=0)
    assert sorted(first["films"]) == sorted(f"m{n}" for n in range(1, 11))
    assert set(first["liked"]) == {"m1", "m2", "m6", "m7"}
    assert (set(second["films"]), second["liked"]) == ({"m11", "m12"}, ["m11"])
    assert (first["timestamp"], second["timestamp"]) == (100_000, 110_010)


def test_nobody_likes_a_film_before_its_list_was_shown() -> None:
    one = {"id": "u1-0", "user": "u1", "timestamp": 5, "films": ["m1", "m2"], "liked": ["m2"]}
    shown, like = online_logs._events([one])
    assert (shown["event"], like["event"], like["ranking"]) == ("ranking", "interaction", "u1-0")
    assert like["timestamp"] > shown["timestamp"]
