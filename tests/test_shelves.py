"""What is known of users and items by key: rows of what changed, and bytes for a snapshot."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrank.edges.store import Row
from streamrank.events import Item, decode
from streamrank.features import windows
from streamrank.features.aggregate import Change, Follow, Impact
from streamrank.features.schema import Schema
from streamrank.shelves import People, StateForeign, Things
from streamrank.steps import Plan, Read
from tests.flows.stage import NOW, PLAN, deed, record, shown

HOUR = 3_600_000
payloads = st.lists(
    st.one_of(
        st.builds(
            deed,
            st.integers(0, 9),
            st.sampled_from("abc"),
            at=st.integers(-1_000_000, 1_000_000),
            user=st.sampled_from(["u", "v"]),
            session=st.sampled_from(["s", "t"]),
        ),
        st.builds(
            shown,
            st.integers(0, 9),
            st.sampled_from("abc"),
            at=st.integers(-1_000_000, 1_000_000),
        ),
        st.builds(
            lambda n, price: {
                "event": "item",
                "id": f"i{n}",
                "timestamp": NOW + n,
                "item": "a",
                "fields": {"price": price, "title": "sea"},
            },
            st.integers(0, 9),
            st.floats(0, 9),
        ),
    ),
    max_size=25,
)


def reads(found: list[dict[str, object]]) -> list[Read]:
    records = [record(payload, offset) for offset, payload in enumerate(found)]
    return [Read(decode(one.value), one) for one in records]


def taken(people: People, things: Things, found: list[Read]) -> None:
    """Take events in one batch."""
    changes, _ = people.take(found, NOW)
    catalogue = [read.event for read in found if isinstance(read.event, Item)]
    things.take([*changes, *catalogue], NOW)


def plain(rows: list[Row]) -> list[tuple[object, ...]]:
    """Return rows as what can be compared."""
    return sorted(
        (row.view, row.key, row.stamp, json.dumps(np.asarray(row.values).tolist(), default=str))
        if isinstance(row.values, np.ndarray)
        else (row.view, row.key, row.stamp, json.dumps(dict(row.values)))
        for row in rows
    )


def rows_in(pair: tuple[People, Things]) -> list[tuple[object, ...]]:
    people, things = pair
    return plain([*people.flush(), *things.flush()])


def empty() -> tuple[People, Things]:
    return People(PLAN, HOUR), Things(PLAN, HOUR)


@given(payloads)
def test_a_batch_counts_as_its_events_one_by_one(found: list[dict[str, object]]) -> None:
    at_once, one_by_one = empty(), empty()
    taken(*at_once, reads(found))
    for read in reads(found):
        taken(*one_by_one, [read])
    assert rows_in(at_once) == rows_in(one_by_one)


@given(payloads, payloads)
def test_what_goes_on_from_a_snapshot_goes_on_as_if_there_was_none(
    before: list[dict[str, object]], after: list[dict[str, object]]
) -> None:
    going_on = empty()
    taken(*going_on, reads(before))
    people, things = (shelf.pack() for shelf in going_on)
    resumed = People(PLAN, HOUR, NOW, people), Things(PLAN, HOUR, NOW, things)
    for pair in (going_on, resumed):
        taken(*pair, reads(after))
    assert [shelf.waiting for shelf in going_on] == [shelf.waiting for shelf in resumed]
    assert rows_in(going_on) == rows_in(resumed)


@given(st.lists(payloads, min_size=3, max_size=6), st.randoms())
def test_whoever_sleeps_between_snapshots_is_known_as_if_there_were_none(
    parts: list[list[dict[str, object]]], chance: Random
) -> None:
    """Also a key whose row waits over two snapshots, and one that comes back after them."""
    without, with_some = empty(), empty()
    for part in parts:
        taken(*without, reads(part))
        taken(*with_some, reads(part))
        for _ in range(chance.randrange(4)):
            people, things = (shelf.pack() for shelf in with_some)
        if chance.random() < 0.3:
            assert rows_in(without) == rows_in(with_some)
        if chance.random() < 0.3:
            people, things = (shelf.pack() for shelf in with_some)
            with_some = People(PLAN, HOUR, NOW, people), Things(PLAN, HOUR, NOW, things)
    assert [len(shelf) for shelf in without] == [len(shelf) for shelf in with_some]
    assert rows_in(without) == rows_in(with_some)


def test_only_what_changed_since_the_last_flush_is_given_out() -> None:
    people, things = empty()
    taken(people, things, reads([deed(1, "a", at=0), deed(2, "b", at=1)]))
    assert [(row.view, row.key) for row in things.flush()] == [
        ("item_windows", "a"),
        ("item_windows", "b"),
        ("item_next", "a"),
    ]
    assert things.flush() == []
    assert not things.waiting
    things.take([Impact("b", 0, NOW)], NOW)
    assert [(row.view, row.key) for row in things.flush()] == [("item_windows", "b")]


def rows_of(order: list[int]) -> list[tuple[int, int]]:
    """Stamp and total of an item's row after each of these deeds, given by their times."""
    things, rows = Things(PLAN, HOUR), []
    for at in order:
        things.take([Impact("i", 0, NOW + at)], NOW)
        [row] = things.flush()
        window = windows.unpack(
            np.asarray(row.values), len(PLAN.schema.horizons), len(PLAN.schema.channels)
        )
        rows.append((row.stamp, int(window.totals.sum())))
    return rows


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.randoms(), st.integers(1, 8))
def test_a_row_is_newer_than_any_that_holds_less_also_of_a_run_that_crashed(
    deeds: list[int], chance: Random, crash: int
) -> None:
    """After a crash an item's deeds come in another order, and perhaps in other batches."""
    before = rows_of(deeds[:crash])
    again = deeds[:crash]
    chance.shuffle(again)
    store = max(before)
    for row in rows_of([*again, *deeds[crash:]]):
        store = max(store, row, key=lambda row: row[0])  # as stores do: the first one of a stamp
    assert store[1] == len(deeds)
    stamps = [stamp for stamp, _ in before]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("snapshots", [0, 1, 2])
@pytest.mark.parametrize("change", [Impact("a", 0, NOW), Follow("a", "b", 1.0, NOW)])
def test_a_silent_key_begins_anew_and_is_let_go(change: Change, snapshots: int) -> None:
    things = Things(PLAN, HOUR)
    things.take([change], NOW)
    [first] = things.flush()
    for _ in range(snapshots):
        things.pack()
    things.take([change], NOW + HOUR)
    [second] = things.flush()
    for _ in range(snapshots):
        things.pack()
    things.take([change], NOW + 2 * HOUR + 1)
    [third] = things.flush()
    assert [row.revision for row in (first, second, third)] == [0, 1, 0]
    for _ in range(snapshots):
        things.pack()
    things.forget(NOW + 3 * HOUR + 1)
    assert len(things) == 1
    things.forget(NOW + 3 * HOUR + 2)
    assert len(things) == 0
    assert things.pack() == Things(PLAN, HOUR).pack()


def of_other_settings() -> Plan:
    return replace(PLAN, schema=Schema(interactions=("view", "click", "buy"), label="click"))


@pytest.mark.parametrize(
    ("plan", "saved", "reason"),
    [
        (of_other_settings(), People(PLAN, HOUR).pack(), "must count view,click,buy,other"),
        (PLAN, b"\x92\x00\x01", "must be of this version"),
        (PLAN, {"known": {}}, "must be bytes, got dict"),
    ],
)
def test_a_snapshot_of_something_else_is_refused_with_what_to_do(
    plan: Plan, saved: object, reason: str
) -> None:
    with pytest.raises(StateForeign, match=reason) as refusal:
        People(plan, HOUR, NOW, saved)  # type: ignore[arg-type]
    assert "remove the folder" in str(refusal.value)


def test_a_snapshot_is_small_however_many_fields_are_empty() -> None:
    people = People(PLAN, HOUR)
    people.take(reads([deed(n, "a", user=f"u{n}") for n in range(1_000)]), NOW)
    people.flush()
    vector = 8 * windows.width(len(PLAN.schema.horizons), len(PLAN.schema.channels))
    assert len(people.pack()) < 1_000 * (vector // 2 + 60)
