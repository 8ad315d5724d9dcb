from collections.abc import Sequence
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrank.events import Candidate, Interaction, Item, Shown, User
from streamrank.features import windows
from streamrank.features.aggregate import (
    Entity,
    Impact,
    Popular,
    deed,
    describe,
    impact,
    popular,
    stamped,
)
from streamrank.features.schema import Schema

NOW = 1_700_000_000_000
SCHEMA = Schema(interactions=("view", "click"), label="click", item={"price": "number"})
LATENESS = 600_000


def click(number: int, item: str | None = "i1", at: int = 0, kind: str = "click") -> Interaction:
    return Interaction(id=f"e{number}", timestamp=NOW + at, user="u", type=kind, item=item)


def test_a_deed_counts_at_its_user_and_is_passed_on_to_its_item() -> None:
    user, verdict, impacts = deed(Entity(), click(1), SCHEMA, LATENESS)
    assert verdict == "new"
    assert impacts == [Impact("i1", 1, NOW)]
    assert user.window is not None
    assert user.window.totals.tolist() == [0, 1, 0, 0]  # view, click, other, impression


def test_an_unknown_type_counts_as_other_and_a_deed_on_nothing_has_no_item() -> None:
    user, _, impacts = deed(Entity(), click(1, None, kind="sort"), SCHEMA, LATENESS)
    assert impacts == []
    assert user.window is not None
    assert user.window.totals.tolist() == [0, 0, 1, 0]


def test_a_list_is_an_impression_of_each_of_its_items() -> None:
    shown = Shown(id="r", timestamp=NOW, user="u", items=(Candidate(id="a"), Candidate(id="b")))
    _, _, impacts = deed(Entity(), shown, SCHEMA, LATENESS)
    assert impacts == [Impact("a", 3, NOW), Impact("b", 3, NOW)]
    item = impact(Entity(), impacts[0], SCHEMA)
    assert item.window is not None
    assert item.window.totals.tolist() == [0, 0, 0, 1]


def test_duplicates_and_late_events_change_nothing_anywhere() -> None:
    user, _, _ = deed(Entity(), click(1), SCHEMA, LATENESS)
    assert deed(user, click(1), SCHEMA, LATENESS) == (user, "duplicate", [])
    assert deed(user, click(2, at=-LATENESS - 1), SCHEMA, LATENESS) == (user, "late", [])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500_000)), max_size=30))
def test_a_user_and_the_items_count_the_same_deeds(deeds: list[tuple[int, int]]) -> None:
    user, items = Entity(), dict[str, Entity]()
    for number, at in deeds:
        user, _, impacts = deed(user, click(number, f"i{number % 3}", at), SCHEMA, LATENESS)
        for change in impacts:
            items[change.item] = impact(items.get(change.item, Entity()), change, SCHEMA)
    on_items = sum(item.window.totals.sum() for item in items.values() if item.window)
    assert (
        (user.window.totals.sum() if user.window else 0) == on_items == len({n for n, _ in deeds})
    )


def test_a_later_event_wins_field_by_field_and_unknown_fields_are_left_out() -> None:
    kinds = SCHEMA.item | {"title": "text"}  # type: ignore[operator]
    new = Item(id="1", timestamp=NOW, item="i", fields={"price": 5.0, "title": "sea", "x": 1.0})
    old = Item(id="0", timestamp=NOW - 5, item="i", fields={"price": 4.0})
    item, changed = describe(Entity(), new, kinds)
    assert changed
    assert item.fields == {"price": 5.0, "title": "sea"}
    assert describe(item, old, kinds) == (item, False)
    assert describe(item, User(id="2", timestamp=NOW, user="u"), {}) == (item, False)


def rows_of(order: Sequence[int]) -> list[tuple[int, int]]:
    """Stamp and total of an item's row after each of these deeds, given by their times."""
    entity, rows = Entity(), []
    for at in order:
        entity = impact(entity, Impact("i", 0, NOW + at), SCHEMA)
        window = entity.window
        assert window is not None
        entity, revision = stamped(entity, "item_windows", window.at)
        rows.append((window.at * 1000 + revision, int(window.totals.sum())))
    return rows


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.randoms(), st.integers(1, 8))
def test_a_row_is_newer_than_any_that_holds_less_also_of_a_run_that_crashed(
    deeds: list[int], chance: Random, crash: int
) -> None:
    """After a crash an item's deeds come in another order."""
    before = rows_of(deeds[:crash])
    again = deeds[:crash]
    chance.shuffle(again)
    store = max(before)
    for row in rows_of([*again, *deeds[crash:]]):
        store = max(store, row, key=lambda row: row[0])  # as stores do: the first one of a stamp
    assert store[1] == len(deeds)
    stamps = [stamp for stamp, _ in before]
    assert stamps == sorted(set(stamps))


def test_popular_is_ordered_by_decayed_interactions_and_bounded() -> None:
    """Horizons of 1 h, 1 d, 7 d: by the day, two deeds now weigh more than three a day ago."""

    def row(item: str, deeds: int, at: int) -> tuple[str, windows.Array]:
        window = windows.empty(3, 4)
        for _ in range(deeds):
            window = windows.count(window, 1, at, np.asarray(SCHEMA.horizons))
        return item, windows.pack(window)

    rows = [row("old", 3, NOW - 86_400_000), row("new", 2, NOW), row("one", 1, NOW)]
    assert list(popular(Popular(), rows, SCHEMA, 2).weights) == ["new", "old"]
