"""What the count of a demo says of its requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Placed, Ranking
from streamrank.tally import RECENT, Arm, Rate, Tally, percentiles

NOW = 1_700_000_000_000


def answer(request: str, trigger: str | None = None) -> Ranking:
    return Ranking(
        id=request if trigger is None else f"{request}+{trigger}",
        timestamp=NOW,
        user="u1",
        request=request,
        trigger=trigger,
        items=(Placed(id="i1", score=1.0, propensity=1.0),),
        model="",
        policy="greedy",
        features="f",
        latency_ms=1.0,
    )


def test_a_request_is_open_until_its_first_answer() -> None:
    tally = Tally()
    tally.request("r1", 10.0)
    tally.request("r2", 10.1)
    assert tally.open == 2
    assert tally.answer(answer("r1"), 10.005)
    assert tally.open == 1
    report = tally.report()
    assert (report["requests"], report["answered"], report["missing"]) == (2, 1, 1)


def test_a_latency_is_from_the_request_to_its_first_answer_in_milliseconds() -> None:
    tally = Tally()
    tally.request("r1", 10.0)
    tally.answer(answer("r1"), 10.005)
    tally.answer(answer("r1"), 99.0)
    assert tally.latencies == pytest.approx([5.0])


def test_a_second_answer_is_a_duplicate() -> None:
    tally = Tally()
    tally.request("r1", 10.0)
    assert [tally.answer(answer("r1"), 11.0) for _ in range(3)] == [True, False, False]
    assert tally.report()["duplicated"] == 2
    assert tally.report()["missing"] == 0


def test_a_list_ranked_again_after_a_deed_is_no_answer() -> None:
    tally = Tally()
    tally.request("r1", 10.0)
    assert not tally.answer(answer("r1", trigger="e1"), 10.001)
    assert (tally.open, tally.reranked, tally.latencies) == (1, 1, [])


def test_an_answer_to_nothing_of_ours_counts_nowhere() -> None:
    tally = Tally()
    assert not tally.answer(answer("r9"), 1.0)
    assert (tally.open, tally.report()["answered"], tally.report()["duplicated"]) == (0, 0, 0)


def test_the_live_latencies_are_of_the_last_answers_alone() -> None:
    tally = Tally()
    for number in range(RECENT + 5):
        tally.request(f"r{number}", 0.0)
        tally.answer(answer(f"r{number}"), number / 1000)
    assert len(tally.latencies) == RECENT + 5
    assert min(tally.recent) == pytest.approx(5.0)


def test_click_through_is_by_list_and_by_impression() -> None:
    """Two lists of ten, one of them with three clicks: 1 of 2 lists, 3 of 20 impressions."""
    arm = Arm()
    arm.add(10, 3)
    arm.add(10, 0)
    assert arm.figures() == {"lists": 2, "lists_clicked": 0.5, "ctr": 0.15}


def test_an_arm_without_lists_has_zeros() -> None:
    assert Arm().figures() == {"lists": 0, "lists_clicked": 0.0, "ctr": 0.0}


def test_a_rate_forgets_what_is_older_than_it_looks_back() -> None:
    rate = Rate(over=3.0)
    rate.at(0.0, 0)
    rate.at(1.0, 1000)
    assert [rate.at(float(now), 1000) for now in range(2, 6)] == [500.0, 1000 / 3, 0.0, 0.0]


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_percentiles_are_those_of_numpy_rounded_to_hundredths(values: list[float]) -> None:
    for name, value in percentiles(values).items():
        assert value == pytest.approx(np.percentile(values, int(name[1:])), abs=0.0051)


def test_of_nothing_all_percentiles_are_zero() -> None:
    assert percentiles([]) == {"p50": 0.0, "p90": 0.0, "p99": 0.0}
