"""Trails: the same from a log as from what is remembered of a user."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Interaction
from streamrank.features import state, trails
from streamrank.features.schema import Schema
from streamrank.features.state import Rules, UserState
from streamrank.features.trails import Trails, trail_of

NOW = 1_700_000_000_000
SCHEMA = Schema(interactions=("view", "click"), label="click")
deeds = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from("vwx")))
TYPES = {"v": "view", "w": "click", "x": "another"}


@given(done=deeds)
def test_a_log_gives_what_the_state_gives_when_it_is_asked(
    done: list[tuple[str | None, str]],
) -> None:
    user, noted = UserState(), Trails()
    for number, (item, kind) in enumerate(done):
        event = Interaction(
            id=f"e{number}", timestamp=NOW + number, user="u", type=TYPES[kind], item=item
        )
        user, _ = state.advance(user, event, Rules(history=1000))
        if item:
            noted.take("u", event.timestamp, item, 1 + SCHEMA.channel(event.type))
    catalogue = noted.catalogue(1000)
    trail = trail_of(SCHEMA, user.steps)
    places = [1 + catalogue.index(item) for item in trail.items]
    asked = trails.history(np.array(places, np.int64), np.array(trail.types, np.int64))
    learned = noted.histories(catalogue) or [trails.history(*np.zeros((2, 0), np.int64))]
    assert {name: array.tolist() for name, array in learned[0].items()} == {
        name: array.tolist() for name, array in asked.items()
    }


def noted(*done: tuple[str, int, str]) -> Trails:
    found = Trails()
    for user, at, item in done:
        found.take(user, at, item, 1)
    return found


def test_a_late_deed_is_put_where_it_belongs() -> None:
    found = noted(("u", 1, "a"), ("u", 3, "c"), ("u", 2, "b"))
    [history] = found.histories("abc")
    assert history["items"].tolist() == [1, 2, 3]


def test_the_catalogue_is_of_the_most_often_touched_and_the_rest_is_passed_over() -> None:
    """b is touched four times, a and d twice each, a first; c once."""
    done = [("u", n, item) for n, item in enumerate("abcb")]
    done += [("v", n, item) for n, item in enumerate("dbda")]
    found = noted(*done, ("v", 9, "b"))
    assert found.catalogue(1000) == ("b", "a", "d", "c")
    assert found.catalogue(2) == ("b", "a")
    histories = [one["items"].tolist() for one in found.histories(found.catalogue(2))]
    assert histories == [[2, 1], [1, 2, 1]]
    assert len(found) == 2


def test_of_nobody_there_is_nothing() -> None:
    assert (Trails().catalogue(10), Trails().histories(()), len(Trails())) == ((), [], 0)
