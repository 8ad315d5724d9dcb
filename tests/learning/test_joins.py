"""All users' joins by the time of a log."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Interaction
from streamrank.learning.examples import Example
from streamrank.learning.join import Outcome
from streamrank.learning.joins import Joins
from streamrank.served import Served
from tests.learning.test_join import MINUTE, NOW, RULES, SECOND, Desk, deed, served


def names(out: list[Example | Outcome]) -> list[str]:
    return [one.id for one in out if isinstance(one, Example)]


def test_a_users_example_is_ready_when_the_log_is_past_it() -> None:
    joins = Joins(RULES)
    assert names(joins.take(served("r1"), NOW)) == []
    assert names(joins.take(deed(1), NOW + SECOND)) == []
    assert names(joins.until(NOW + 2 * SECOND - 1)) == []
    assert names(joins.until(NOW + 2 * SECOND)) == ["r1"]


def test_at_the_end_nothing_is_kept() -> None:
    joins = Joins(RULES)
    joins.take(served("r1"), NOW)
    assert names(joins.end()) == ["r1"]
    assert joins.users == {}


@pytest.mark.parametrize("seed", range(3))
@given(st.data())
def test_it_gives_what_each_users_own_join_gives(seed: int, data: st.DataObject) -> None:
    minutes = sorted(data.draw(st.lists(st.integers(0, 60), min_size=2, max_size=20)))
    joins, desk = Joins(RULES), Desk()
    out: list[Example | Outcome] = []
    for number, minute in enumerate(minutes):
        at = NOW + minute * MINUTE
        what: Served | Interaction = (
            served(f"r{number}", minute * MINUTE)
            if (number + seed) % 2
            else deed(number, "b", minute * MINUTE, of=f"r{number - 1}")
        )
        desk.wait(at - desk.now)
        desk.take(what)
        out += joins.take(what, at)
    desk.wait(10 * 1440 * MINUTE)
    out += joins.end()
    assert names(out) == [one.id for one in desk.examples]
    assert Counter(one.name for one in out if isinstance(one, Outcome)) == desk.outcomes
