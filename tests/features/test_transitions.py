import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Interaction
from streamrank.features import aggregate, transitions
from streamrank.features.aggregate import Counting, Follow, Impact
from streamrank.features.schema import Schema, hashed
from streamrank.features.transitions import (
    Followers,
    Transitions,
    follow,
    pack,
    place,
    shares,
    unpack,
)

NOW = 1_700_000_000_000
DAY = 86_400.0
RULES = Counting(Schema(), lateness=0)
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


@given(visits)
def test_what_grows_in_place_is_what_one_after_the_other_gives(
    found: list[tuple[str, int]],
) -> None:
    known, growing = Transitions(), Followers()
    for item, at in found:
        known = follow(known, item, 1.0, at, DAY)
        growing.add(item, 1.0, at, DAY)
    assert growing.count == len(found)
    assert growing.packed(DAY) == pytest.approx(pack(known))
    seen = growing.seen(DAY)
    assert seen.at == known.at
    assert seen.total == pytest.approx(known.total)


def test_years_between_two_visits_leave_a_number_and_nothing_of_the_first() -> None:
    growing = Followers()
    for item, at in (("a", NOW), ("b", NOW + 10**11)):  # three years, of half-lives of a second
        growing.add(item, 1.0, at, 1.0)
    assert growing.seen(1.0).weights == {place("a"): 0.0, place("b"): 1.0}


def test_of_many_that_followed_the_heaviest_are_kept_however_they_came() -> None:
    """In the order of their weights or against it, the 64 heaviest of 500 are among them."""
    for weights in (range(1, 501), range(500, 0, -1)):
        growing = Followers()
        for weight in weights:
            growing.add(f"i{weight}", float(weight), NOW, DAY)
        kept = growing.seen(DAY).weights
        assert len(kept) == transitions.KEPT
        assert {place(f"i{weight}") for weight in range(438, 501)} <= kept.keys()


def test_shares_are_of_all_that_followed_and_of_a_prior() -> None:
    """By hand: b twice and c once, no time between; (2, 1, 0) / (3 + 1)."""
    known = Transitions()
    for item in "bcb":
        known = follow(known, item, 1.0, NOW, DAY)
    found = shares([pack(known)], np.array([hashed(item) for item in "bcd"]), prior=1.0)
    assert found.tolist() == [[0.5, 0.25, 0.0]]


@given(st.lists(visits | st.just([]), max_size=4), st.lists(st.sampled_from("abcdx"), max_size=8))
def test_shares_of_several_are_those_of_each(
    found: list[list[tuple[str, int]]], items: list[str]
) -> None:
    vectors, expected = [], []
    for one in found:
        known = Transitions()
        for item, at in one:
            known = follow(known, item, 1.0, at, DAY)
        vectors.append(pack(known) if one else np.zeros(0))
        expected.append([known.weights.get(place(item), 0.0) / (known.total + 2) for item in items])
    shared = shares(vectors, np.array(list(map(hashed, items)), np.int64), prior=2.0)
    assert shared == pytest.approx(np.array(expected).reshape(len(found), len(items)))


def test_a_vector_of_another_shape_among_several_is_refused() -> None:
    with pytest.raises(ValueError, match="transitions must hold an even number of values, got 3"):
        shares([np.zeros(0), np.zeros(3)], np.array([1]), prior=1.0)


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
    user, found = RULES.person(), list[list[aggregate.Change]]()
    for event in (deed("a", 1), deed("b", 2), deed("b", 3), deed("c", 4), deed("d", 5, "t")):
        _, changes = aggregate.deed(RULES, user, event)
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
    user = RULES.person()
    for event in (deed("a", 1), deed(None, 2)):
        _, changes = aggregate.deed(RULES, user, event)
    assert changes == []
    _, changes = aggregate.deed(RULES, user, deed("b", 3))
    assert changes[1:] == [Follow("a", "b", 1.0, NOW + 3)]
