"""A reservoir keeps a fair sample of all time, or a fading one, and goes on exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.learning.reservoir import Reservoir


def filled(count: int, size: int, *, fading: bool = False, seed: int = 0) -> Reservoir[int]:
    reservoir = Reservoir[int](size=size, fading=fading, seed=seed)
    for number in range(count):
        reservoir.take(number)
    return reservoir


@given(count=st.integers(0, 60), size=st.integers(1, 30), fading=st.booleans())
def test_it_never_keeps_more_than_its_size_nor_anything_twice(
    count: int, size: int, fading: bool
) -> None:
    kept = filled(count, size, fading=fading).kept
    assert len(kept) == len(set(kept)) <= min(count, size)
    assert set(kept) <= set(range(count))


def test_what_fits_is_kept_whole() -> None:
    assert filled(5, 5).kept == [0, 1, 2, 3, 4]


def test_every_age_is_as_likely_as_any_other() -> None:
    """20 of 100, 500 times: the first and the second half are kept 5,000 times each, +-50."""
    kept = np.concatenate([filled(100, 20, seed=seed).kept for seed in range(500)])
    assert abs((kept < 50).mean() - 0.5) < 0.02


def test_a_fading_past_is_kept_by_its_age() -> None:
    """Of 300 with a size of 50, one of age a is there with probability (1 - 1/50)^a."""
    kept = np.concatenate([filled(300, 50, fading=True, seed=seed).kept for seed in range(200)])
    for low, high in ((0, 50), (50, 100), (100, 200)):
        wanted = np.mean([0.98**age for age in range(low, high)])
        ages = 299 - kept
        found = ((ages >= low) & (ages < high)).sum() / 200 / (high - low)
        assert abs(found - wanted) < 0.05, (low, high)


@pytest.mark.parametrize("fading", [False, True])
def test_one_that_was_resumed_keeps_and_draws_the_same(fading: bool) -> None:
    whole = filled(100, 10, fading=fading, seed=3)
    half = filled(40, 10, fading=fading, seed=3)
    resumed = Reservoir.resume(half.kept, size=10, fading=fading, seed=3, seen=half.seen)
    for number in range(40, 100):
        resumed.take(number)
    assert resumed == whole
    assert resumed.draw(4, turn=7) == whole.draw(4, turn=7)


def test_what_is_drawn_is_drawn_once_and_differs_by_turn() -> None:
    reservoir = filled(50, 50)
    drawn = reservoir.draw(20, turn=1)
    assert len(set(drawn)) == 20
    assert drawn != reservoir.draw(20, turn=2)
    assert sorted(reservoir.draw(999, turn=1)) == list(range(50))


def test_what_was_corrected_stands_in_the_place_of_what_was_wrong() -> None:
    reservoir = filled(3, 3)
    reservoir.replace(lambda one: 10 if one == 1 else None)
    assert reservoir.kept == [0, 10, 2]


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Reservoir[int](size=0)
