import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Interaction
from streamrank.features import aggregate, transitions
from streamrank.features.aggregate import Entity, Follow, Impact
from streamrank.features.schema import Schema
from streamrank.features.transitions import Transitions, follow, pack, place, shares, unpack

NOW = 1_700_000_000_000
DAY = 86_400.0
visits = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(NOW, NOW + 10**9)), min_size=1, max_size=20
)


@given(visits)
def test_a_packed_state_reads_as_it_was(found: list[tuple[str, int]]) -> None:
    known = Transitions()
    for item, at in found:
        known = follow(known, item, 1.0, at, DAY)
    assert unpack(pack(known)) == known


@given(visits)
def test_the_order_of_arrival_changes_nothing(found: list[tuple[str, int]]) -> None:
    def counted(in_order: list[tuple[str, int]]) -> Transitions:
        known = Transitions()
        for item, at in in_order:
            known = follow(known, item, 1.0, at, DAY)
        return known

    as_it_came, late = counted(sorted(found, key=lambda one: one[1])), counted(found[::-1])
    assert late.total == pytest.approx(as_it_came.total)
    assert dict(late.weights) == pytest.approx(dict(as_it_came.weights))


def test_shares_are_of_all_that_followed_and_of_a_prior() -> None:
    """By hand: b twice and c once, no time between; (2, 1, 0) / (3 + 1)."""
    known = Transitions()
    for item in "bcb":
        known = follow(known, item, 1.0, NOW, DAY)
    found = shares(pack(known), [place("b"), place("c"), place("d")], prior=1.0)
    assert found.tolist() == [0.5, 0.25, 0.0]


def test_the_lightest_is_forgotten_and_what_came_just_now_is_not() -> None:
    known = Transitions()
    for n in range(transitions.KEPT):
        known = follow(known, f"i{n}", 2.0 + n, NOW, DAY)
    known = follow(known, "new", 1.0, NOW, DAY)
    assert len(known.weights) == transitions.KEPT
    assert place("new") in known.weights
    assert place("i0") not in known.weights
    assert known.total == pytest.approx(sum(2.0 + n for n in range(transitions.KEPT)) + 1.0)


def test_a_vector_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="transitions must hold an even number of values, got 3"):
        unpack(np.zeros(3))


def deed(item: str | None, at: int, session: str = "s") -> Interaction:
    return Interaction(
        id=f"e{at}", timestamp=NOW + at, user="u", session=session, type="click", item=item
    )


def test_a_touched_item_follows_those_before_it_in_the_same_visit() -> None:
    """a, b, b again, c: b after a; c after b and, half as much, after a; in another visit none."""
    user, found = Entity(), list[list[aggregate.Change]]()
    for event in (deed("a", 1), deed("b", 2), deed("b", 3), deed("c", 4), deed("d", 5, "t")):
        user, _, changes = aggregate.deed(user, event, Schema(), lateness=0)
        found.append([one for one in changes if isinstance(one, Follow)])
        assert [one.item for one in changes if isinstance(one, Impact)] == [event.item]
    assert found == [
        [],
        [Follow("a", "b", 1.0, NOW + 2)],
        [],
        [Follow("b", "c", 1.0, NOW + 4), Follow("a", "c", 0.5, NOW + 4)],
        [],
    ]


def test_a_deed_on_no_item_follows_nothing_and_breaks_nothing() -> None:
    user = Entity()
    for event in (deed("a", 1), deed(None, 2)):
        user, _, changes = aggregate.deed(user, event, Schema(), lateness=0)
    assert changes == []
    assert aggregate.deed(user, deed("b", 3), Schema(), lateness=0)[2][1:] == [
        Follow("a", "b", 1.0, NOW + 3)
    ]
