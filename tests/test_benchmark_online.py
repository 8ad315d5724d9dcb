"""The benchmark of learning on: what its lists are made of."""

from __future__ import annotations

import pandas as pd

from tests.benchmarks import online_logs


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
