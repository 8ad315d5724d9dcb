from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Item, Shown, User
from streamrank.features import windows
from streamrank.features.aggregate import (
    Counting,
    Impact,
    Person,
    Popular,
    Thing,
    deed,
    describe,
    impact,
    popular,
)
from streamrank.features.schema import Schema

NOW = 1_700_000_000_000
SCHEMA = Schema(interactions=("view", "click"), label="click", item={"price": "number"})
LATENESS = 600_000
RULES = Counting(SCHEMA, LATENESS)


def click(number: int, item: str | None = "i1", at: int = 0, kind: str = "click") -> Interaction:
    return Interaction(id=f"e{number}", timestamp=NOW + at, user="u", type=kind, item=item)


def totals(known: Person | Thing) -> list[float]:
    """Counts of view, click, other, impression."""
    channels = len(SCHEMA.channels)
    [vector] = windows.packed(RULES.clock, [known.counts])
    return list(windows.unpack(vector, len(SCHEMA.horizons), channels).totals)


def test_a_deed_counts_at_its_user_and_is_passed_on_to_its_item() -> None:
    user = RULES.person()
    assert deed(RULES, user, click(1)) == ("new", [Impact("i1", 1, NOW)])
    assert totals(user) == [0, 1, 0, 0]


def test_an_unknown_type_counts_as_other_and_a_deed_on_nothing_has_no_item() -> None:
    user = RULES.person()
    assert deed(RULES, user, click(1, None, kind="sort")) == ("new", [])
    assert totals(user) == [0, 0, 1, 0]


def test_a_list_is_an_impression_of_each_of_its_items() -> None:
    shown = Shown(id="r", timestamp=NOW, user="u", items=(Candidate(id="a"), Candidate(id="b")))
    _, impacts = deed(RULES, RULES.person(), shown)
    assert impacts == [Impact("a", 3, NOW), Impact("b", 3, NOW)]
    item = RULES.thing()
    impact(RULES, item, impacts[0])
    assert totals(item) == [0, 0, 0, 1]


def test_duplicates_and_late_events_change_nothing_anywhere() -> None:
    user = RULES.person()
    deed(RULES, user, click(1))
    before = user.counts[:]
    assert deed(RULES, user, click(1)) == ("duplicate", ())
    assert deed(RULES, user, click(2, at=-LATENESS - 1)) == ("late", ())
    assert user.counts == before


def test_a_deed_and_a_list_of_the_same_id_both_count() -> None:
    user = RULES.person()
    listed = Shown(id=click(1).id, timestamp=NOW, user="u", items=(Candidate(id="a"),))
    assert [deed(RULES, user, one)[0] for one in (click(1), listed)] == ["new", "new"]
    assert [deed(RULES, user, one)[0] for one in (click(1), listed)] == ["duplicate"] * 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500_000)), max_size=30))
def test_a_user_and_the_items_count_the_same_deeds(deeds: list[tuple[int, int]]) -> None:
    user, items = RULES.person(), dict[str, Thing]()
    for number, at in deeds:
        for change in deed(RULES, user, click(number, f"i{number % 3}", at))[1]:
            impact(RULES, items.setdefault(change.item, RULES.thing()), change)
    on_items = sum(sum(totals(item)) for item in items.values())
    assert sum(totals(user)) == on_items == len({n for n, _ in deeds})


def test_a_later_event_wins_field_by_field_and_unknown_fields_are_left_out() -> None:
    kinds = SCHEMA.item | {"title": "text"}  # type: ignore[operator]
    new = Item(id="1", timestamp=NOW, item="i", fields={"price": 5.0, "title": "sea", "x": 1.0})
    old = Item(id="0", timestamp=NOW - 5, item="i", fields={"price": 4.0})
    item = RULES.thing()
    assert describe(item, new, kinds)
    assert item.described is not None
    assert item.described.fields == {"price": 5.0, "title": "sea"}
    assert not describe(item, old, kinds)
    assert not describe(item, User(id="2", timestamp=NOW, user="u"), {})
    assert item.described.fields == {"price": 5.0, "title": "sea"}


def test_popular_is_ordered_by_decayed_interactions_and_bounded() -> None:
    """Horizons of 1 h, 1 d, 7 d: by the day, two deeds now weigh more than three a day ago."""

    def row(item: str, deeds: int, at: int) -> tuple[str, windows.Array]:
        window = windows.empty(3, 4)
        for _ in range(deeds):
            window = windows.count(window, 1, at, np.asarray(SCHEMA.horizons))
        return item, windows.pack(window)

    rows = [row("old", 3, NOW - 86_400_000), row("new", 2, NOW), row("one", 1, NOW)]
    assert list(popular(Popular(), rows, SCHEMA, 2).weights) == ["new", "old"]


@pytest.mark.parametrize("seed", range(3))
def test_of_many_items_the_most_popular_are_kept_as_if_all_were_put_in_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts: Sequence[int] = random.integers(0, 9, 200).tolist()
    rows = [(f"i{n:03d}", _row_of(count)) for n, count in enumerate(counts)]
    expected = sorted((-count, name) for count, (name, _) in zip(counts, rows, strict=True))
    kept = popular(Popular(), rows, SCHEMA, 20).weights
    assert list(kept) == [name for _, name in expected[:20]]


def _row_of(deeds: int) -> windows.Array:
    window = windows.empty(3, 4)
    for _ in range(deeds):
        window = windows.count(window, 1, NOW, np.asarray(SCHEMA.horizons))
    return windows.pack(window)
