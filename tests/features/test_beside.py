"""What people choose beside an item: counted at both, whenever it was, and told of candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamrank.events import Interaction
from streamrank.features import aggregate, inputs, transitions, windows
from streamrank.features.aggregate import Beside, Change, Counting, Thing
from streamrank.features.inputs import Array, Rows
from streamrank.features.schema import Schema
from streamrank.features.state import UserState
from streamrank.features.view import FOLLOWERS_PRIOR
from tests.lists import NOW, query, step

SCHEMA = Schema(interactions=("view", "click"), label="click", horizons=(3600.0, 86400.0))
RULES = Counting(SCHEMA, lateness=10**9)


def deed(item: str | None, at: int, kind: str = "click", session: str = "s") -> Interaction:
    return Interaction(
        id=f"e{at}", timestamp=NOW + at, user="u", session=session, type=kind, item=item
    )


def pairs(*deeds: Interaction) -> list[list[Change]]:
    person, found = RULES.person(), list[list[Change]]()
    for event in deeds:
        _, changes = aggregate.deed(RULES, person, event)
        found.append([one for one in changes if isinstance(one, Beside)])
    return found


def test_a_choice_is_counted_beside_those_before_it_in_whichever_visit() -> None:
    """a, in another visit b, b again, a view and a search that tell nothing, then c."""
    found = pairs(
        deed("a", 1),
        deed("b", 2, session="t"),
        deed("b", 3, session="t"),
        deed("x", 4, "view"),
        deed(None, 5),
        deed("c", 6),
    )
    assert found == [
        [],
        [Beside("b", ("a",), NOW + 2), Beside("a", ("b",), NOW + 2)],
        [],
        [],
        [],
        [
            Beside("c", ("b", "a"), NOW + 6),
            Beside("b", ("c",), NOW + 6),
            Beside("a", ("c",), NOW + 6),
        ],
    ]


def test_an_item_that_is_chosen_again_later_is_beside_others_and_never_itself() -> None:
    *_, last = pairs(deed("a", 1), deed("b", 2), deed("a", 3))
    assert last == [Beside("a", ("b",), NOW + 3), Beside("b", ("a",), NOW + 3)]


def test_no_more_than_the_last_choices_count() -> None:
    *_, last = pairs(*(deed(f"i{n}", n) for n in range(transitions.CHOSEN + 5)))
    newest = tuple(f"i{n}" for n in range(transitions.CHOSEN + 3, 3, -1))
    at = NOW + transitions.CHOSEN + 4
    own = f"i{transitions.CHOSEN + 4}"
    assert last == [Beside(own, newest, at), *[Beside(one, (own,), at) for one in newest]]


def test_both_items_of_a_pair_know_of_it() -> None:
    known: dict[str, Thing] = {}
    person = RULES.person()
    for event in (deed("a", 1), deed("b", 2), deed("c", 3)):
        for change in aggregate.deed(RULES, person, event)[1]:
            aggregate.impact(RULES, known.setdefault(change.item, RULES.thing()), change)
    beside = {item: one.beside for item, one in known.items()}
    counts = {
        item: {} if one is None else dict(one.seen(86400.0).weights) for item, one in beside.items()
    }
    for item, others in {"a": "bc", "b": "ac", "c": "ab"}.items():
        expected = {transitions.place(other): 1.0 for other in others}
        assert counts[item] == pytest.approx(expected, rel=1e-6)


def window(clicks: int) -> Array:
    found = windows.empty(len(SCHEMA.horizons), len(SCHEMA.channels))
    for _ in range(clicks):
        found = windows.count(found, 1, NOW, np.array(SCHEMA.horizons))
    return windows.pack(found)


def row(**weights: float) -> Array:
    known = transitions.Transitions()
    for item, weight in weights.items():
        known = transitions.follow(known, item, weight, NOW, 3600.0)
    return transitions.pack(known)


def told(state: UserState, rows: Rows, *items: str) -> dict[str, list[float]]:
    """Return what is told of candidates, by name."""
    built = inputs.build(SCHEMA, query(items, state), rows)["candidate_numbers"]
    names = [feature.name for feature in inputs.features(SCHEMA)]
    return {n: built[:, names.index(n)].tolist() for n in names if n.startswith("beside.")}


def test_what_is_told_of_a_candidate_is_what_one_works_out_by_hand() -> None:
    """The user chose x, then y; of z, chosen after them, nothing is known; w was only looked at."""
    steps = [step("click", "x", 90), step("click", "y", 60), step("click", "z", 30)]
    state = UserState(steps=(*steps, step("view", "w", 10)))
    rows = Rows(
        item_windows=[window(3), window(0), None],
        beside={"x": row(a=3.0, q=1.0), "y": row(a=1.0, b=1.0), "w": row(c=9.0)},
    )
    found = told(state, rows, "a", "b", "c")
    a = (3 / (4 + FOLLOWERS_PRIOR) + 1 / (2 + FOLLOWERS_PRIOR)) / 3
    b = 1 / (2 + FOLLOWERS_PRIOR) / 3
    most = [3 / (4 + FOLLOWERS_PRIOR), 1 / (2 + FOLLOWERS_PRIOR), 0.0]
    usual = [4 / 6, 1 / 6, 1 / 6]
    lift = [math.log((s + 0.01 * u) / u) for s, u in zip([a, b, 0.0], usual, strict=True)]
    assert found["beside.mean"] == pytest.approx([math.log1p(100 * s) for s in (a, b, 0.0)])
    assert found["beside.most"] == pytest.approx([math.log1p(100 * s) for s in most])
    assert found["beside.lift"] == pytest.approx(lift)
    assert found["beside.rank"] == pytest.approx([0, 1 / 3, 1])


def test_of_somebody_who_chose_nothing_nothing_is_told() -> None:
    state = UserState(steps=(step("view", "x", 30),))
    found = told(state, Rows(beside={"x": row(a=1.0)}), "a", "b")
    assert found == {
        "beside.mean": [0, 0],
        "beside.most": [0, 0],
        "beside.lift": [0, 0],
        "beside.rank": [1, 1],
    }
