from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.evaluation import intervals, segments
from streamrank.evaluation.segments import Known
from streamrank.features.schema import Schema
from streamrank.features.state import UserState
from streamrank.learning.examples import Example
from tests import lists

SCHEMA = Schema(interactions=("view", "click"), label="click")


def shown(*items: str, clicked: str = "", user: str = "u1", steps: int = 0) -> Example:
    state = UserState(tuple(lists.step("view", f"x{n}", 60 - n) for n in range(steps)))
    made = lists.example(SCHEMA, lists.query(items, state), clicked)
    return dataclasses.replace(made, user=user)


def test_the_head_is_the_fewest_items_that_got_most_of_the_feedback() -> None:
    """Of ten clicks a got 6 and b 2, which is .8 of them; c and d, with one each, are the tail."""
    clicks = [*"aaaaaabb", "c", "d"]
    known = Known.of([shown("a", "b", "c", "d", "e", clicked=item) for item in clicks])
    found = {item: segments.of(shown(item, "q", clicked=item), known) for item in "abcdez"}
    assert {item for item in found if "head item" in found[item]} == {"a", "b"}
    assert {item for item in found if "tail item" in found[item]} == {"c", "d", "e"}
    assert {item for item in found if "new item" in found[item]} == {"z"}


def test_a_list_without_feedback_is_of_no_item_but_of_a_user_and_a_history() -> None:
    known = Known.of([shown("a", clicked="a", user="u1")])
    assert segments.of(shown("a"), known) == {"known user", "history 0"}
    assert segments.of(shown("a", user="u2"), known) == {"new user", "history 0"}


@pytest.mark.parametrize(
    ("steps", "segment"),
    [
        *((0, "history 0"), (1, "history 1-4"), (4, "history 1-4"), (5, "history 5-19")),
        *((19, "history 5-19"), (20, "history 20+"), (40, "history 20+")),
    ],
)
def test_histories_are_told_apart_by_their_length(steps: int, segment: str) -> None:
    assert segment in segments.of(shown("a", steps=steps), Known.of([]))


def test_of_nothing_learned_everybody_and_everything_is_new() -> None:
    found = segments.of(shown("a", "b", clicked="b"), Known.of([]))
    assert found == {"new user", "new item", "history 0"}


def test_segments_are_averaged_for_themselves_with_the_interval_of_their_lists() -> None:
    values = np.random.default_rng(0).random(40)
    results = [{"mrr": value} | ({"auc": value / 2} if n % 3 else {}) for n, value in
               enumerate(values.tolist())]  # fmt: skip
    sorted_in = [{"all", "even"} if n % 2 == 0 else {"all"} for n in range(40)]
    users = [f"u{n // 4}" for n in range(40)]
    found = segments.by_segment(results, sorted_in, groups=users, samples=200)
    assert list(found) == ["all", "even"]
    expected = intervals.bootstrap(values[::2], groups=users[::2], samples=200)
    even = found["even"]
    assert (even["lists"], found["all"]["lists"]) == (20, 40)
    assert (even["mrr"], even["mrr_low"], even["mrr_high"]) == expected
    with_area = [value / 2 for n, value in enumerate(values) if n % 3]
    assert found["all"]["auc"] == pytest.approx(np.mean(with_area))


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=30))
def test_the_segments_of_a_partition_make_up_the_whole(names: list[str]) -> None:
    values = np.arange(len(names), dtype=np.float64)
    results = [{"mrr": value} for value in values.tolist()]
    found = segments.by_segment(results, [{name} for name in names], samples=2)
    whole = sum(one["lists"] * one["mrr"] for one in found.values())
    assert whole == pytest.approx(values.sum())
    assert sum(one["lists"] for one in found.values()) == len(names)


def test_every_list_needs_its_segments() -> None:
    assert segments.by_segment([], []) == {}
    with pytest.raises(ValueError, match="segments of each list, got 1 for 2 lists"):
        segments.by_segment([{"mrr": 1.0}, {"mrr": 0.0}], [{"a"}])
