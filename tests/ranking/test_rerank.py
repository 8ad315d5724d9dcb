import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamrank.events import Candidate
from streamrank.features.inputs import Array, Query
from streamrank.features.state import UserState
from streamrank.ranking.rerank import order, to_ranked, trigger_id

scores = hnp.arrays(np.float64, st.integers(0, 12), elements=st.integers(-3, 3).map(float))


def query(*items: str, k: int | None = None, session: str | None = "s", user: str = "u") -> Query:
    return Query(
        id="r1",
        user=user,
        session=session,
        at=1_700_000_000_000,
        source="request",
        request="r1",
        trigger=None,
        k=k,
        context={"city": "Paris"},
        candidates=tuple(Candidate(id=item) for item in items),
        state=UserState(),
    )


@given(scores)
def test_the_order_is_a_stable_sort_of_all_candidates(values: Array) -> None:
    places = order(values).tolist()
    assert places == sorted(range(len(values)), key=lambda place: (-values[place], place))


@pytest.mark.parametrize(("k", "expected"), [(None, ["b", "c"]), (1, ["b"]), (9, ["b", "c", "a"])])
def test_the_request_says_how_many_else_the_settings_do(k: int | None, expected: list[str]) -> None:
    ranking = to_ranked(
        query("a", "b", "c", k=k),
        np.array([[0.1], [0.9], [0.5]]),
        model="m",
        features="f",
        latency_ms=1.23456,
        k=2,
        policy="greedy",
    )
    assert [placed.id for placed in ranking.items] == expected
    assert ranking.fields == {"city": "Paris"}
    assert (ranking.user, ranking.session, ranking.latency_ms) == ("u", "s", 1.235)


def test_a_list_of_an_unknown_user_is_keyed_by_its_session() -> None:
    ranking = to_ranked(
        query(session="s", user="s"),
        np.zeros((0, 1)),
        model="",
        features="f",
        latency_ms=0.0,
        k=2,
        policy="incoming",
    )
    assert (ranking.user, ranking.key, ranking.items) == (None, "s", ())


@given(st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=9), st.data())
def test_ids_of_triggers_do_not_collide(one: str, other: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(one + other)))
    pair = ((one + other)[:cut], (one + other)[cut:])
    assert (trigger_id(*pair) == trigger_id(one, other)) == (pair == (one, other))
